use rayon::prelude::*;

use super::Layout;
use super::gemm::{Epilogue, Mat, MatMut, gemm};
use crate::kernels::{Precision, Real, meter};

/// Multiply-adds above which a product is cut into blocks of rows that run in parallel.
///
/// No product inside a chunk of the toy model comes near it (they are parallel from outside already); those of a
/// ViT-B and of a linear probe do. The cut depends on the shape alone, so the bits do not depend on the threads.
const PARALLEL_FROM: usize = 1 << 28;
/// Rows of one such block.
const BLOCK_ROWS: usize = 256;

/// c ← a b + what `plus` says, for row-major operands, each optionally read transposed: c is (m, n), a is (m, k), b is
/// (k, n).
fn product<T: Real>(
    dims: [usize; 3],
    a: &[T],
    transpose_a: bool,
    b: &[T],
    transpose_b: bool,
    plus: Epilogue<'_, T>,
    c: &mut [T],
) {
    let [m, k, n] = dims;
    let b = Mat::new(b, if transpose_b { k } else { n }, transpose_b);
    let a = Mat::new(a, if transpose_a { m } else { k }, transpose_a);
    if m * k * n < PARALLEL_FROM || n == 0 {
        gemm(dims, T::ONE, a, b, plus, MatMut::new(c, n));
        return;
    }
    let (here, precision) = (meter::here(), Precision::here());
    let _waiting = Precision::F32.enter(); // work of others, which this thread may be given meanwhile, says its own
    c.par_chunks_mut(BLOCK_ROWS * n).enumerate().for_each(|(i, c)| {
        let _there = (here.enter(), precision.enter());
        let plus = Epilogue { residual: plus.residual.map(|r| r.below(i * BLOCK_ROWS)), ..plus };
        gemm([c.len() / n, k, n], T::ONE, a.below(i * BLOCK_ROWS), b, plus, MatMut::new(c, n));
    });
}

/// A product for each (m, n) matrix of c. In parallel over the batch where there is much to do, as [`product`] is over
/// rows.
pub(super) fn batch_of_products<T: Real>(dims: [usize; 3], a: &[T], of_a: Layout, b: &[T], of_b: Layout, c: &mut [T]) {
    let [m, k, n] = dims;
    if c.is_empty() {
        return;
    }
    let (here, precision) = (meter::here(), Precision::here());
    let _waiting = Precision::F32.enter(); // as in `product`
    let one = |(i, c): (usize, &mut [T])| {
        let _there = (here.enter(), precision.enter());
        let (a, b) = (&a[i * of_a.step..][..m * k], &b[i * of_b.step..][..k * n]);
        product(dims, a, of_a.transposed, b, of_b.transposed, Epilogue::NOTHING, c);
    };
    if c.len() * k < PARALLEL_FROM {
        c.chunks_exact_mut(m * n).enumerate().for_each(one);
    } else {
        c.par_chunks_exact_mut(m * n).enumerate().for_each(one);
    }
}

/// c ← Σ over the batch of a b.
pub(super) fn sum_of_products<T: Real>(
    batch: usize,
    [m, k, n]: [usize; 3],
    a: &[T],
    transpose_a: bool,
    b: &[T],
    transpose_b: bool,
    c: &mut [T],
) {
    c.fill(T::ZERO);
    for i in 0..batch {
        let a = Mat::new(&a[i * m * k..][..m * k], if transpose_a { m } else { k }, transpose_a);
        let b = Mat::new(&b[i * k * n..][..k * n], if transpose_b { k } else { n }, transpose_b);
        gemm([m, k, n], T::ONE, a, b, Epilogue::OWN, MatMut::new(c, n));
    }
}

/// y ← x Wᵀ + b + residual.
pub(super) fn linear<T: Real>(
    [rows, inputs, outputs]: [usize; 3],
    x: &[T],
    w: &[T],
    bias: Option<&[T]>,
    residual: Option<&[T]>,
    y: &mut [T],
) {
    let plus = Epilogue { own: false, bias, residual: residual.map(|r| Mat::new(r, outputs, false)) };
    product([rows, inputs, outputs], x, false, w, true, plus, y);
}

/// c ← a b, or c + a b.
pub(super) fn product_onto<T: Real>(
    dims: [usize; 3],
    a: &[T],
    transpose_a: bool,
    b: &[T],
    transpose_b: bool,
    add: bool,
    c: &mut [T],
) {
    let plus = if add { Epilogue::OWN } else { Epilogue::NOTHING };
    product(dims, a, transpose_a, b, transpose_b, plus, c);
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
            let mut found = [0; 2].map(|_| vec![0.0; batch * m * n]);
            product([batch * m, k, n], &a, false, &b, false, Epilogue::NOTHING, &mut found[0]);
            batch_of_products([m, k, n], &a, Layout::new(m * k, false), &b, Layout::new(0, false), &mut found[1]);
            assert_eq!(Precision::here(), Precision::Bf16);
            found
        });
        assert!(found[0] == expected, "rows in parallel");
        assert!(found[1] == expected, "a batch in parallel");
    }
}
