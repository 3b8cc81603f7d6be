//! In which numbers products of f32 matrices are computed.
//!
//! As in PyTorch's autocast, this is a property of a stretch of a computation, not of its tensors: while a [`Scope`]
//! lives, the products of its thread (linear maps and attention, forward and backward) round their operands. Tensors,
//! sums, norms, losses, weights and the optimizer stay in f32; but under [`Precision::Bf16`] what only products read is
//! rounded when it is made, and stored so.

use std::cell::Cell;
use std::marker::PhantomData;

use super::{Buffer, DType, Device};

named! {
    /// What the operands of a product of f32 matrices are rounded to.
    #[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "lowercase"))]
    pub enum Precision: "precision" {
        /// Nothing.
        F32 => "f32",
        /// TensorFloat-32: 11 significant bits instead of 24, on the tensor cores of a GPU, sums in f32.
        Tf32 => "tf32",
        /// bfloat16: 8 significant bits, twice the multiplications of the next wider kind in an instruction, sums in
        /// f32. Needs a GPU, or a processor with AVX512-BF16.
        Bf16 => "bf16",
    }
}

thread_local! {
    static HERE: Cell<Precision> = const { Cell::new(Precision::F32) };
}

impl Precision {
    /// That of this thread's products.
    #[inline]
    pub fn here() -> Self {
        HERE.get()
    }

    /// Whether tensors on this device can be computed with in it. The [`Reference`](Device::Reference) takes part in
    /// nothing but f32.
    pub fn is_available_on(self, device: Device) -> bool {
        match (self, device) {
            (Precision::F32, _) => true,
            #[cfg(feature = "cuda")]
            (_, Device::Cuda(_)) => true,
            #[cfg(target_arch = "x86_64")]
            (Precision::Bf16, Device::Cpu) => super::simd::has_avx512_bf16(),
            _ => false,
        }
    }

    /// Whether this processor can compute in it.
    pub fn is_available(self) -> bool {
        self.is_available_on(Device::Cpu)
    }

    /// Makes it that of this thread's products until the scope is dropped. A product of f32 tensors on a device on
    /// which it is not available panics; ask [`is_available_on`](Self::is_available_on) first.
    #[must_use]
    pub fn enter(self) -> Scope {
        Scope { before: HERE.replace(self), of_this_thread: PhantomData }
    }

    /// The type in which what only products read is stored, where it is made of numbers like `x`.
    pub fn of_operands(x: &Buffer) -> DType {
        let narrow = Self::here() == Precision::Bf16 && x.dtype() == DType::F32 && x.device() != Device::Reference;
        if narrow { DType::Bf16 } else { x.dtype() }
    }

    /// The type in which what only attention or GELU reads is stored: on a GPU that of [operands](Self::of_operands). A CPU's
    /// kernels compute with it, in f32.
    pub fn of_activations(x: &Buffer) -> DType {
        if x.device().is_gpu() { Self::of_operands(x) } else { x.dtype() }
    }

    /// That of this thread's products on the processor.
    ///
    /// # Panics
    /// When it has no instructions for it.
    #[inline]
    pub(super) fn here_on_cpu() -> Self {
        let here = Self::here();
        assert!(
            here.is_available(),
            "this processor has no instructions for products in {here}: compute in f32, or on a GPU"
        );
        here
    }
}

/// A stretch of a thread's computation with one [`Precision`].
#[derive(Debug)]
pub struct Scope {
    before: Precision,
    /// Not to be dropped on another thread.
    of_this_thread: PhantomData<*const ()>,
}

impl Drop for Scope {
    fn drop(&mut self) {
        HERE.set(self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_ends_where_it_ends() {
        assert_eq!(Precision::here(), Precision::F32);
        let outer = Precision::Bf16.enter();
        assert_eq!(Precision::here(), Precision::Bf16);
        {
            let _inner = Precision::F32.enter();
            assert_eq!(Precision::here(), Precision::F32);
        }
        assert_eq!(Precision::here(), Precision::Bf16);
        assert_eq!(std::thread::spawn(Precision::here).join().unwrap(), Precision::F32);
        drop(outer);
        assert_eq!(Precision::here(), Precision::F32);
    }

    #[test]
    fn a_processor_does_not_compute_in_what_it_has_no_instructions_for() {
        assert!(Precision::F32.is_available() && !Precision::Tf32.is_available());
        assert!(!Precision::Bf16.is_available_on(Device::Reference));
        let ones = Buffer::full(1, 1.0, DType::F32, Device::Cpu);
        let multiply = || {
            let _products = Precision::Tf32.enter();
            crate::kernels::matmul::matmul(1, [1, 1, 1], &ones, false, &ones, false)
        };
        let message = std::panic::catch_unwind(multiply).unwrap_err().downcast::<String>().unwrap();
        assert!(message.contains("tf32"), "{message}");
    }
}
