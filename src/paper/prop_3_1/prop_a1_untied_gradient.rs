//! Proposition A.1: without tying, A = 0 is always a critical point.

use super::{RegressionTask, Regressor, TaskSizes, gradient, outer_products, squared_error};
use crate::autograd::ops;
use crate::paper::Quadrature;
use crate::tensor::Tensor;

/// Proposition A.1's gradient at any A: ∂J/∂A = Σ_{i,j} E\[2(F − y_j) ∇₁F n_jᵀ\], \[d_p, d_e\].
///
/// At A = 0 everything but n leaves the expectation, and what is left is E\[n\] = 0.
///
/// `noise` has to have a draw for each of the N_t tokens. Departure: (1) the appendix drops the factor 2 on its last
/// line.
///
/// Proved by `proposition_a_1` and `gradients_of_the_appendix_are_those_of_the_tape`.
#[doc(alias = "Prop. A.1")]
#[doc(alias = "Proposition A.1")]
#[track_caller]
pub fn untied_gradient(f: &Regressor<'_>, task: &RegressionTask, a: &Tensor, b: &Tensor, noise: &Quadrature) -> Tensor {
    let TaskSizes { rows, tokens, d_e, .. } = task.sizes();
    let v = task.context(&b.clone().into());
    noise.expect(|n| {
        let n = ops::repeat_batch(&n.reshape([1, tokens, d_e]).into(), rows);
        let u = ops::add(&task.positions(), &ops::linear(&n, &a.clone().into(), None));
        outer_products(&gradient(|u| squared_error(f, &task.y, u, &v), u.value()), n.value())
    })
}
