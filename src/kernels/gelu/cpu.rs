use crate::kernels::simd::vectorized;

vectorized! {
    /// y ← x Φ(x).
    pub(super) fn forward<T>(x: &[T], y: &mut [T]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = x * x.normal_pdf_cdf().1;
        }
    }

    /// dx ← (Φ(x) + x φ(x)) dy.
    pub(super) fn backward<T>(x: &[T], dy: &[T], dx: &mut [T]) {
        for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
            let (pdf, cdf) = x.normal_pdf_cdf();
            *dx = (cdf + x * pdf) * dy;
        }
    }

    /// y ← x Φ(x) and d ← (Φ(x) + x φ(x)) d at once: they share the exponential.
    pub(super) fn forward_and_backward<T>(x: &[T], y: &mut [T], d: &mut [T]) {
        for ((y, &x), d) in y.iter_mut().zip(x).zip(d) {
            let (pdf, cdf) = x.normal_pdf_cdf();
            *y = x * cdf;
            *d = (cdf + x * pdf) * *d;
        }
    }
}
