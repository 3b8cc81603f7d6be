//! Second derivatives, from first ones.
//!
//! The tape gives exact gradients, and no derivatives of them. A gradient that is smooth along a line can be
//! differentiated there by a central difference of high order: with eight points on each side the truncation error is
//! (8!)²/17! h¹⁶ g⁽¹⁷⁾ ≈ 5·10⁻⁶ h¹⁶ g⁽¹⁷⁾, nothing at h = 0.03, while the step is still large enough that rounding
//! costs two digits, not eight.

use crate::tensor::Tensor;

/// Points on each side.
const POINTS: u32 = 8;

/// dg/dt at t = 0, of order 16. `step` is h: a few hundredths of the distance over which g changes.
///
/// ```
/// use stop_mim::{DType, Tensor, autograd::derivative_along};
/// let slope = derivative_along(|t| Tensor::scalar((3.0 * t).sin(), DType::F64), 0.03);
/// assert!((slope.item() - 3.0).abs() < 1e-13);
/// ```
pub fn derivative_along(g: impl Fn(f64) -> Tensor, step: f64) -> Tensor {
    let factorial = |n: u32| (1..=n).map(f64::from).product::<f64>();
    let terms = (1..=POINTS).map(|k| {
        let sign = if k % 2 == 1 { 1.0 } else { -1.0 };
        let numerator = sign * factorial(POINTS).powi(2);
        let weight = numerator / (f64::from(k) * factorial(POINTS - k) * factorial(POINTS + k) * step);
        let at = f64::from(k) * step;
        let mut difference = g(at);
        difference.add_assign(&g(-at).scaled(-1.0));
        difference.scaled(weight)
    });
    let sum = terms.reduce(|mut sum, term| {
        sum.add_assign(&term);
        sum
    });
    sum.expect("there are points")
}
