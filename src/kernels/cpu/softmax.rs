//! Softmax along rows.

use super::simd::vectorized;

vectorized! {
    /// Each row of x ← softmax(scale · row), in place, shifted by its largest entry so that nothing overflows.
    pub fn forward_in_place<T>(x: &mut [T], cols: usize, scale: T) {
        if cols == 0 {
            return;
        }
        for row in x.chunks_exact_mut(cols) {
            let largest = largest(row);
            for x in row.iter_mut() {
                *x = (scale * (*x - largest)).exp();
            }
            let inverse = T::ONE / sum(row);
            for x in row.iter_mut() {
                *x *= inverse;
            }
        }
    }

    /// dy ← y ⊙ (dy − ⟨y, dy⟩) for each row, in place, where y = softmax(x).
    pub fn backward_in_place<T>(y: &[T], dy: &mut [T], cols: usize) {
        if cols == 0 {
            return;
        }
        for (y, dy) in y.chunks_exact(cols).zip(dy.chunks_exact_mut(cols)) {
            let inner = dot(y, dy);
            for (dy, &y) in dy.iter_mut().zip(y) {
                *dy = y * (*dy - inner);
            }
        }
    }
}

/// Independent partial results, so that a reduction uses vector registers; their number fixes the order of
/// summation, and with it the bits.
const LANES: usize = 16;

/// Reduces a row: 16 running results, then these together in pairs, halves first, so that this too is vector code.
#[inline(always)]
pub(super) fn reduce<T: Copy>(n: usize, start: T, step: impl Fn(T, usize) -> T, join: impl Fn(T, T) -> T) -> T {
    let mut lanes = [start; LANES];
    let whole = n / LANES * LANES;
    let mut at = 0;
    while at < whole {
        for (lane, r) in lanes.iter_mut().enumerate() {
            *r = step(*r, at + lane);
        }
        at += LANES;
    }
    for (lane, i) in (whole..n).enumerate() {
        lanes[lane] = step(lanes[lane], i);
    }
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] = join(lanes[lane], lanes[lane + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// Σ x.
#[inline(always)]
pub(super) fn sum<T: crate::kernels::Real>(x: &[T]) -> T {
    reduce(x.len(), T::ZERO, |s, i| s + x[i], |a, b| a + b)
}

/// Σ x y.
#[inline(always)]
pub(super) fn dot<T: crate::kernels::Real>(x: &[T], y: &[T]) -> T {
    let y = &y[..x.len()];
    reduce(x.len(), T::ZERO, |s, i| s + x[i] * y[i], |a, b| a + b)
}

/// The largest entry of a row that is not empty.
#[inline(always)]
fn largest<T: crate::kernels::Real>(x: &[T]) -> T {
    let max = |a: T, b: T| if b > a { b } else { a };
    reduce(x.len(), x[0], |m, i| max(m, x[i]), max)
}
