//! In which numbers products of f32 matrices are computed.
//!
//! As in PyTorch's autocast, this is a property of a stretch of a computation, not of its tensors: while a [`Scope`]
//! lives, the products of its thread (linear maps and attention, forward and backward) are of rounded operands. Tensors,
//! sums, norms, losses, weights and the optimizer stay in f32. But under [`Precision::Bf16`] what only products read, or attention, or
//! GELU before a product, is rounded when it is made, and stored so. So is its gradient: what went forward in bf16 goes backward
//! in bf16.

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

    /// The type in which what only products read (or attention, or GELU before a product) is stored, where it is made of
    /// numbers like `x`.
    pub fn of_operands(x: &Buffer) -> DType {
        let narrow = Self::here() == Precision::Bf16 && x.dtype() == DType::F32 && x.device() != Device::Reference;
        if narrow { DType::Bf16 } else { x.dtype() }
    }

    /// The type in which products of this thread on the processor read numbers of this type.
    pub(super) fn read_on_cpu(dtype: DType) -> DType {
        match (Self::here(), dtype) {
            (_, DType::F64) => DType::F64,
            (Precision::Bf16, _) => DType::Bf16,
            _ => DType::F32,
        }
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
    use crate::kernels::elementwise::{self, Unary};
    use crate::kernels::team::in_a_team;
    use crate::kernels::testing::numbers;
    use crate::kernels::{Bf16, attention, layer_norm, matmul, reduce, times_shared};

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

    fn f32s(len: usize, seed: u64) -> Buffer {
        Buffer::from_vec(numbers(len, seed).into_iter().map(|x| 3.0 * x as f32).collect())
    }

    fn bits(x: &Buffer) -> Vec<u32> {
        elementwise::to_dtype(x, DType::F32).as_slice::<f32>("test").iter().map(|x| x.to_bits()).collect()
    }

    /// What is rounded where it is made is what would be rounded where it is read.
    #[test]
    fn what_only_products_read_is_made_in_bf16() {
        let (rows, cols) = (5, 37);
        let [x, gamma, beta, dy] = [rows * cols, cols, cols, rows * cols].map(|len| f32s(len, len as u64));
        let rounded = |x: &Buffer| bits(&elementwise::to_dtype(x, DType::Bf16));
        let norm = |precision: Precision| {
            let _products = precision.enter();
            layer_norm::forward_operand(cols, &x, (&gamma, &beta), 1e-6)
        };
        let ((wide, stats), (narrow, same)) = (norm(Precision::F32), norm(Precision::Bf16));
        assert_eq!([wide.dtype(), narrow.dtype()], [DType::F32, DType::Bf16]);
        assert_eq!((rounded(&wide), bits(&stats)), (bits(&narrow), bits(&same)));
        let again = |dtype| layer_norm::recompute(dtype, cols, &x, (&gamma, &beta), &stats);
        assert_eq!(rounded(&again(DType::F32)), bits(&again(DType::Bf16)));

        let gelu = |dtype| elementwise::unary_to(dtype, Unary::Gelu, &x);
        assert_eq!(rounded(&gelu(DType::F32)), bits(&gelu(DType::Bf16)));
        let both = |dtype| elementwise::unary_and_backward(dtype, Unary::Gelu, &x, dy.clone());
        let ((wide, there), (narrow, here)) = (both(DType::F32), both(DType::Bf16));
        assert_eq!((rounded(&wide), there.dtype(), bits(&there)), (bits(&narrow), here.dtype(), bits(&here)));
    }

    /// x, a bf16 number each, in both types.
    fn in_both_types(len: usize, seed: u64) -> [Buffer; 2] {
        let narrow = elementwise::to_dtype(&f32s(len, seed), DType::Bf16);
        [elementwise::to_dtype(&narrow, DType::F32), narrow]
    }

    /// What is computed of f32, then rounded, against what is computed of the same numbers in bf16, to bf16.
    fn assert_rounded(what: &str, wide: &Buffer, narrow: &Buffer) {
        assert_eq!((wide.dtype(), narrow.dtype()), (DType::F32, DType::Bf16), "{what}");
        assert!(bits(&elementwise::to_dtype(wide, DType::Bf16)) == bits(narrow), "{what}");
    }

    #[test]
    fn products_write_what_would_be_rounded_of_them() {
        if !Precision::Bf16.is_available() {
            return;
        }
        let _products = Precision::Bf16.enter();
        // One pass over k and several, in one block of rows and in several, in tiles of all widths; for a team also by columns.
        for [m, k, n] in [[64, 48, 40], [600, 600, 33], [70, 300, 600]] {
            let [x, w, dy] = [(m * k, 1), (n * k, 2), (m * n, 3)].map(|(len, seed)| in_both_types(len, seed));
            let [bias, residual] = [n, m * n].map(|len| f32s(len, 4));
            let linear =
                |dtype, x: &Buffer, w: &Buffer| matmul::linear_to(dtype, [m, k, n], x, w, Some(&bias), Some(&residual));
            let here = || {
                assert_rounded("linear", &linear(DType::F32, &x[0], &w[0]), &linear(DType::Bf16, &x[1], &w[1]));
                let dx = |dtype, dy: &Buffer, w: &Buffer| matmul::linear_backward_to(dtype, [m, k, n], dy, w);
                assert_rounded("dy W", &dx(DType::F32, &dy[0], &w[0]), &dx(DType::Bf16, &dy[1], &w[1]));
                let ([z, dh], [rounded_z, rounded_dh]) = {
                    let dz = matmul::linear_backward(None, [m, n, k], &dy[1], false, &w[1], false);
                    let wide = elementwise::unary_and_backward(DType::F32, Unary::Gelu, &x[0], dz);
                    let narrow = matmul::gelu_backward([m, k, n], &dy[1], &w[1], &x[1]);
                    (<[Buffer; 2]>::from(wide), <[Buffer; 2]>::from(narrow))
                };
                assert_rounded("z = GELU(h)", &z, &rounded_z);
                assert_rounded("dh", &dh, &rounded_dh);
            };
            here();
            in_a_team(3, || {
                let (_products, before) = (Precision::Bf16.enter(), times_shared());
                here();
                assert!(times_shared() > before);
            });
        }
    }

    #[test]
    fn attention_writes_what_would_be_rounded_of_it() {
        if !Precision::Bf16.is_available() {
            return;
        }
        let _products = Precision::Bf16.enter();
        // All queries of a few tokens, and some of many: several blocks of them, and several passes over the keys.
        for (tokens, queries) in [(9, 0..9), (300, 7..290), (20, 3..3)] {
            let sizes = attention::Sizes { batch: 2, tokens, queries, heads: 2, head_dim: 24 };
            let [qkv, dout] = [(sizes.qkv(), 1), (sizes.out(), 2)].map(|(len, seed)| in_both_types(len, seed));
            let [wide, narrow] = qkv.each_ref().map(|qkv| attention::forward(&sizes, qkv));
            assert_rounded("forward", &wide, &narrow);
            let [dqkv, rounded] = [0, 1].map(|i| attention::backward(&sizes, &qkv[i], &dout[i]));
            assert_rounded("backward", &dqkv, &rounded);

            // Near to what it is in f32.
            let _in_f32 = Precision::F32.enter();
            let near = |exact: &Buffer, rounded: &Buffer| {
                let both = exact.as_slice::<f32>("test").iter().zip(rounded.as_slice::<f32>("test"));
                both.fold((0f32, 0f32), |(off, most), (x, y)| (off.max((x - y).abs()), most.max(x.abs())))
            };
            for (exact, rounded) in
                [(attention::forward(&sizes, &qkv[0]), &wide), (attention::backward(&sizes, &qkv[0], &dout[0]), &dqkv)]
            {
                let (off, most) = near(&exact, rounded);
                assert!(
                    off <= most / 50.0 && (off > 0.0 || exact.is_empty() || sizes.queries.is_empty()),
                    "{off} of {most}"
                );
            }
            // Outside, as the same numbers in f32.
            let of_narrow = attention::forward(&sizes, &qkv[1]);
            assert_rounded("in f32", &attention::forward(&sizes, &qkv[0]), &of_narrow);
        }
    }

    #[test]
    fn what_is_read_in_bf16_is_read_as_it_is() {
        let [wide, narrow] = in_both_types(5 * 37, 1);
        assert_rounded("gelu", &elementwise::unary(Unary::Gelu, &wide), &elementwise::unary(Unary::Gelu, &narrow));
        let sums = |x: &Buffer| bits(&reduce::accumulate_rows(Some(f32s(37, 2)), 37, x));
        assert_eq!(sums(&wide), sums(&narrow));
        assert_eq!(bits(&elementwise::to_dtype(&wide.to_device(Device::Reference), DType::Bf16)), bits(&narrow));
        let there = narrow.to_device(Device::Reference);
        assert_eq!(bits(&elementwise::to_dtype(&there, DType::F32).to_device(Device::Cpu)), bits(&narrow));
        let gelu_there = || elementwise::unary(Unary::Gelu, &there);
        let message = std::panic::catch_unwind(gelu_there).unwrap_err().downcast::<&str>().unwrap();
        assert!(message.contains("reference device") && message.contains("to_dtype"), "{message}");
    }

    #[test]
    fn a_weight_is_rounded_once_until_it_changes() {
        let mut w = f32s(100, 1);
        let at = |x: &Buffer| x.as_slice::<Bf16>("test").as_ptr();
        let in_bf16 = Precision::Bf16.enter();
        let first = elementwise::operand(&w);
        assert!(first.dtype() == DType::Bf16 && at(&first) == at(&elementwise::operand(&w.clone())));
        w.make_mut::<f32>("test")[0] = 17.0;
        let second = elementwise::operand(&w);
        assert_eq!((first.len(), second.as_slice::<Bf16>("test")[0]), (100, Bf16::from_f32(17.0)));
        assert_eq!(first.as_slice::<Bf16>("test")[1..], second.as_slice::<Bf16>("test")[1..]);
        drop(in_bf16);
        assert_eq!(elementwise::operand(&w).dtype(), DType::F32);
    }

    /// While this thread waited for others to help, it might be given work that waits for the copy.
    #[test]
    fn a_weight_is_rounded_by_one_thread() {
        let w = f32s(1 << 12, 1);
        in_a_team(3, || {
            let (_products, before) = (Precision::Bf16.enter(), times_shared());
            elementwise::operand(&w);
            assert_eq!(times_shared(), before);
            elementwise::to_dtype(&f32s(1 << 12, 2), DType::Bf16);
            assert_eq!(times_shared(), before + 1, "others are rounded by all");
        });
    }

    /// In main memory: multiplied as they are where that is asked for, and in f32 elsewhere.
    #[test]
    fn products_of_bf16_matrices_are_those_of_the_same_numbers_in_f32() {
        let (dims @ [m, k, n], batch) = ([7, 33, 40], 3);
        let narrow = |len, seed| elementwise::to_dtype(&f32s(len, seed), DType::Bf16);
        let (a, b) = (narrow(batch * m * k, 1), narrow(k * n, 2));
        let wide = |x: &Buffer| elementwise::to_dtype(x, DType::F32);
        let available = [Precision::F32, Precision::Bf16].into_iter().filter(|precision| precision.is_available());
        for precision in available {
            let _products = precision.enter();
            let expected = bits(&matmul::matmul(batch, dims, &wide(&a), false, &wide(&b), true));
            for (a, b) in [(&a, &b), (&wide(&a), &b), (&a, &wide(&b))] {
                let found = matmul::matmul(batch, dims, a, false, b, true);
                assert_eq!((found.dtype(), bits(&found)), (DType::F32, expected.clone()), "{precision}");
            }
        }
        let there = |x: &Buffer| x.to_device(Device::Reference);
        let to_f64 = elementwise::unary_to(DType::F64, Unary::Gelu, &wide(&b));
        assert_eq!(to_f64.dtype(), DType::F64);
        let from_f64 = elementwise::unary_to(DType::Bf16, Unary::Gelu, &elementwise::to_dtype(&b, DType::F64));
        assert_eq!(bits(&from_f64), bits(&elementwise::unary(Unary::Gelu, &b)));
        let [on_cpu, on_reference] =
            [b.clone(), there(&b)].map(|b| elementwise::unary_to(DType::Bf16, Unary::Gelu, &wide(&b)));
        assert_eq!([on_cpu.dtype(), on_reference.dtype()], [DType::Bf16; 2]);
        let found = matmul::matmul(batch, dims, &there(&a), false, &there(&b), false);
        let expected = matmul::matmul(batch, dims, &there(&wide(&a)), false, &there(&wide(&b)), false);
        assert_eq!(bits(&found.to_device(Device::Cpu)), bits(&expected.to_device(Device::Cpu)));
    }
}
