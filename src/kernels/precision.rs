//! In which numbers products of f32 matrices are computed.
//!
//! As in PyTorch's autocast, this is a property of a stretch of a computation, not of its tensors: while a [`Scope`] lives,
//! the products of its thread (linear maps and attention, forward and backward) round their operands to bf16. Tensors,
//! sums, norms, losses, weights and the optimizer stay in f32.

use std::cell::Cell;
use std::marker::PhantomData;

named! {
    /// What the operands of a product of f32 matrices are rounded to.
    #[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "lowercase"))]
    pub enum Precision: "precision" {
        /// Nothing.
        F32 => "f32",
        /// bfloat16: 8 significant bits instead of 24, twice the multiplications in an instruction, sums in f32. Needs a
        /// processor with AVX512-BF16.
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

    /// Whether this processor can compute with it.
    pub fn is_available(self) -> bool {
        match self {
            Precision::F32 => true,
            #[cfg(target_arch = "x86_64")]
            Precision::Bf16 => super::cpu::simd::has_avx512_bf16(),
            #[cfg(not(target_arch = "x86_64"))]
            Precision::Bf16 => false,
        }
    }

    /// Makes it that of this thread's products until the scope is dropped.
    ///
    /// # Panics
    /// When this processor cannot compute with it; ask [`is_available`](Self::is_available) first.
    #[must_use]
    #[track_caller]
    pub fn enter(self) -> Scope {
        assert!(self == Precision::F32 || self.is_available(), "this processor has no instructions for bf16 products");
        Scope { before: HERE.replace(self), of_this_thread: PhantomData }
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
        if Precision::Bf16.is_available() {
            let outer = Precision::Bf16.enter();
            assert_eq!(Precision::here(), Precision::Bf16);
            {
                let _inner = Precision::F32.enter();
                assert_eq!(Precision::here(), Precision::F32);
            }
            assert_eq!(Precision::here(), Precision::Bf16);
            assert_eq!(std::thread::spawn(Precision::here).join().unwrap(), Precision::F32);
            drop(outer);
        }
        assert_eq!(Precision::here(), Precision::F32);
    }
}
