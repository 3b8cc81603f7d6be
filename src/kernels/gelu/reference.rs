//! The definition, in its simplest loops: computed in f64, each number rounded once when it is written.
#![allow(clippy::needless_range_loop, reason = "index expressions are written out")]

use crate::kernels::Real;

/// y ← x Φ(x).
pub(super) fn forward<T: Real>(x: &[T], y: &mut [T]) {
    for i in 0..x.len() {
        let x = x[i].to_f64();
        let (_, cdf) = x.normal_pdf_cdf();
        y[i] = T::from_f64(x * cdf);
    }
}

/// dx ← (Φ(x) + x φ(x)) dy.
pub(super) fn backward<T: Real>(x: &[T], dy: &[T], dx: &mut [T]) {
    for i in 0..x.len() {
        let x = x[i].to_f64();
        let (pdf, cdf) = x.normal_pdf_cdf();
        dx[i] = T::from_f64((cdf + x * pdf) * dy[i].to_f64());
    }
}

/// Both, the gradient in the place of dy.
pub(super) fn forward_and_backward<T: Real>(x: &[T], y: &mut [T], dy: &mut [T]) {
    for i in 0..x.len() {
        let x = x[i].to_f64();
        let (pdf, cdf) = x.normal_pdf_cdf();
        y[i] = T::from_f64(x * cdf);
        dy[i] = T::from_f64((cdf + x * pdf) * dy[i].to_f64());
    }
}
