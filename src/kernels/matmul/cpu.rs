use rayon::prelude::*;

use super::Products;
use super::gemm::{Epilogue, Mat, MatMut, gemm};
use crate::kernels::{Precision, Real, meter};

/// Multiply-adds above which a product is cut into blocks of rows that run in parallel.
///
/// No product inside a chunk of the toy model comes near it (they are parallel from outside already); those of a
/// ViT-B and of a linear probe do. The cut depends on the shape alone, so the bits do not depend on the threads.
const PARALLEL_FROM: usize = 1 << 28;
/// Rows of one such block.
const BLOCK_ROWS: usize = 256;

/// Calls `of_part` for each part of `size` elements of c, in parallel, on threads that take over the phase and the
/// precision of this one.
fn in_parallel<T: Real>(c: &mut [T], size: usize, of_part: impl Fn(usize, &mut [T]) + Sync) {
    let (here, precision) = (meter::here(), Precision::here());
    let _waiting = Precision::F32.enter(); // work of others, which this thread may be given meanwhile, says its own
    c.par_chunks_mut(size).enumerate().for_each(|(i, c)| {
        let _there = (here.enter(), precision.enter());
        of_part(i, c);
    });
}

/// c ← a b + what `plus` says, for row-major operands, each optionally read transposed.
fn product<T: Real>(dims: [usize; 3], t: [bool; 2], a: &[T], b: &[T], plus: Epilogue<'_, T>, c: &mut [T]) {
    let [m, k, n] = dims;
    let a = Mat::new(a, if t[0] { m } else { k }, t[0]);
    let b = Mat::new(b, if t[1] { k } else { n }, t[1]);
    if m * k * n < PARALLEL_FROM || n == 0 {
        gemm(dims, T::ONE, a, b, plus, MatMut::new(c, n));
        return;
    }
    in_parallel(c, BLOCK_ROWS * n, |i, c| {
        let plus = Epilogue { residual: plus.residual.map(|r| r.below(i * BLOCK_ROWS)), ..plus };
        gemm([c.len() / n, k, n], T::ONE, a.below(i * BLOCK_ROWS), b, plus, MatMut::new(c, n));
    });
}

/// Every product; in parallel over the batch where there is much to do, as [`product`] is over rows.
pub(super) fn products<T: Real>(
    of: &Products,
    a: &[T],
    b: &[T],
    bias: Option<&[T]>,
    residual: Option<&[T]>,
    c: &mut [T],
) {
    let Products { batch, dims, steps, transposed, own } = *of;
    let [m, k, n] = dims;
    let plus = Epilogue { own, bias, residual: residual.map(|r| Mat::new(r, n, false)) };
    let one = |i: usize, c: &mut [T]| {
        let (a, b) = (&a[i * steps[0]..][..m * k], &b[i * steps[1]..][..k * n]);
        product(dims, transposed, a, b, plus, c);
    };
    if batch == 1 || c.len() * k < PARALLEL_FROM || steps[2] == 0 {
        (0..batch).for_each(|i| one(i, &mut c[i * steps[2]..][..m * n]));
    } else {
        in_parallel(c, m * n, one);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::numbers;

    /// The threads that help compute in the precision of the one that asked.
    #[test]
    #[cfg_attr(miri, ignore = "large")]
    fn helping_threads_compute_in_bf16_too() {
        if !Precision::Bf16.is_available() {
            return;
        }
        let narrow = |n, seed| numbers(n, seed).into_iter().map(|x| x as f32).collect::<Vec<f32>>();
        let ([m, k, n], batch) = ([512, 512, 512], 4);
        assert!(m * k * n < PARALLEL_FROM && batch * m * k * n >= PARALLEL_FROM);
        let (a, b) = (narrow(batch * m * k, 1), narrow(k * n, 2));
        let whole = |precision: Precision| {
            let (_products, mut c) = (precision.enter(), vec![0.0; batch * m * n]);
            gemm(
                [batch * m, k, n],
                1.0,
                Mat::new(&a, k, false),
                Mat::new(&b, n, false),
                Epilogue::NOTHING,
                MatMut::new(&mut c, n),
            );
            c
        };
        let expected = whole(Precision::Bf16);
        assert!(whole(Precision::F32) != expected);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        let found = pool.install(|| {
            let _products = Precision::Bf16.enter();
            let (steps, t) = ([m * k, 0, m * n], [false; 2]);
            let in_batch = Products { steps, ..Products::new(batch, [m, k, n], t) };
            let found = [Products::new(1, [batch * m, k, n], t), in_batch].map(|of| {
                let mut c = vec![0.0; batch * m * n];
                products(&of, &a, &b, None, None, &mut c);
                c
            });
            assert_eq!(Precision::here(), Precision::Bf16);
            found
        });
        assert!(found[0] == expected, "rows in parallel");
        assert!(found[1] == expected, "a batch in parallel");
    }
}
