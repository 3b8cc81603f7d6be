use crate::kernels::simd::{reduce, vectorized};
use crate::kernels::{Real, softmax};

vectorized! {
    /// loss ← the mean of d²/2β where |d| < β and |d| − β/2 elsewhere, d = x − y.
    pub(super) fn smooth_l1<T>(x: &[T], y: &[T], beta: f64, loss: &mut [T]) {
        let (beta, half) = (T::from_f64(beta), T::from_f64(0.5));
        let per_element = |d: T| if d < beta { half * d * d / beta } else { d - half * beta };
        let sum = reduce(x, y, 0.0, |sum, x, y| sum + per_element((x - y).abs()).to_f64(), |a, b| a + b);
        loss[0] = T::from_f64(sum / x.len() as f64);
    }

    /// loss ← the mean of (x − y)².
    pub(super) fn squared_error<T>(x: &[T], y: &[T], loss: &mut [T]) {
        let sum = reduce(x, y, 0.0, |sum, x, y| sum + ((x - y) * (x - y)).to_f64(), |a, b| a + b);
        loss[0] = T::from_f64(sum / x.len() as f64);
    }

    /// dx ← clamp((x − y)/β, −1, 1) dy / elements.
    pub(super) fn smooth_l1_backward<T>(x: &[T], y: &[T], beta: f64, dy: &[T], dx: &mut [T]) {
        let (beta, dy) = (T::from_f64(beta), each(dy, x.len()));
        for ((dx, &x), &y) in dx.iter_mut().zip(x).zip(y) {
            let d = (x - y) / beta;
            let d = if d > T::ONE { T::ONE } else { d };
            let d = if d < -T::ONE { -T::ONE } else { d };
            *dx = d * dy;
        }
    }

    /// dx ← 2 (x − y) dy / elements.
    pub(super) fn squared_error_backward<T>(x: &[T], y: &[T], dy: &[T], dx: &mut [T]) {
        let dy = each(dy, x.len());
        let twice = dy + dy;
        for ((dx, &x), &y) in dx.iter_mut().zip(x).zip(y) {
            *dx = (x - y) * twice;
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

/// p ← (p − onehot(class)) dy / rows, where p is the softmax of each row.
pub(super) fn cross_entropy_backward<T: Real>(cols: usize, classes: &[u32], dy: &[T], p: &mut [T]) {
    let dy = each(dy, classes.len());
    for (row, &class) in p.chunks_exact_mut(cols.max(1)).zip(classes) {
        row[class as usize] -= T::ONE;
        row.iter_mut().for_each(|p| *p *= dy);
    }
}
