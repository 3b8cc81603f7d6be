use super::Regression;
use crate::kernels::simd::{reduce, vectorized};
use crate::kernels::{Real, softmax};

vectorized! {
    pub(super) fn regression<T>(of: Regression, x: &[T], y: &[T], loss: &mut [T]) {
        let sum = reduce(x, y, 0.0, |sum, x, y| sum + of.value(x - y).to_f64(), |a, b| a + b);
        loss[0] = T::from_f64(sum / x.len() as f64);
    }

    pub(super) fn regression_backward<T>(of: Regression, x: &[T], y: &[T], dy: &[T], dx: &mut [T]) {
        let dy = each(dy, x.len());
        for ((dx, &x), &y) in dx.iter_mut().zip(x).zip(y) {
            *dx = of.slope(x - y) * dy;
        }
    }
}

/// The share of one of `n` in the gradient of a mean.
#[inline(always)]
fn each<T: Real>(dy: &[T], n: usize) -> T {
    T::from_f64(dy[0].to_f64() / n as f64)
}

/// loss ← the mean over rows of ln Σ exp(x) − x\[class\], added up in f64. The largest entry of a row has the largest share p
/// of its softmax, and ln Σ exp(x) = max x − ln max p: nothing overflows or vanishes, and NaN stays NaN.
pub(super) fn cross_entropy<T: Real>(cols: usize, x: &[T], classes: &[u32], loss: &mut [T]) {
    let mut p = vec![T::ZERO; x.len()];
    softmax::cpu::forward(cols, x, &mut p);
    let largest = |row: &[T]| row.iter().map(|x| x.to_f64()).fold(f64::NEG_INFINITY, f64::max);
    let rows = x.chunks_exact(cols.max(1)).zip(p.chunks_exact(cols.max(1))).zip(classes);
    let of_row = |((x, p), &class): ((&[T], &[T]), &u32)| largest(x) - x[class as usize].to_f64() - largest(p).ln();
    loss[0] = T::from_f64(rows.map(of_row).sum::<f64>() / classes.len() as f64);
}

pub(super) fn cross_entropy_backward<T: Real>(cols: usize, classes: &[u32], dy: &[T], p: &mut [T]) {
    let dy = each(dy, classes.len());
    for (row, &class) in p.chunks_exact_mut(cols.max(1)).zip(classes) {
        row[class as usize] -= T::ONE;
        row.iter_mut().for_each(|p| *p *= dy);
    }
}
