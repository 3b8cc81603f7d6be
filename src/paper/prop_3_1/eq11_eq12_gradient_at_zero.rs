//! Eqs. (11) and (12), Propositions A.2 and 3.1: the gradients at A = 0, with tying and without noise.

use super::{RegressionTask, Regressor, TaskSizes, gradient, outer_products, squared_error};
use crate::tensor::{DType, Tensor};

/// Eqs. (11) and (12): the gradient of J_tied at A = 0, and of J_det at B = 0: Σ_{i,j} 2(F(ψ_j+m, 0) − y_j) ∇₂F(ψ_j+m,
/// 0) xᵢᵀ, \[d_p, d_e\].
///
/// Departures: (1) both lack the factor 2 in print; (2) F(ψ_i, 0) of (11) and F(ψ_j, 0) of (12) are both
/// F(ψ_j + m, 0), as their first factors have it.
///
/// Proved by `proposition_3_1`.
#[doc(alias = "Eq. 11")]
#[doc(alias = "Eq. 12")]
#[doc(alias = "Prop. A.2")]
#[doc(alias = "Prop. 3.1")]
#[doc(alias = "Proposition 3.1")]
#[track_caller]
pub fn gradient_at_zero(f: &Regressor<'_>, task: &RegressionTask) -> Tensor {
    let TaskSizes { rows, context, d_p, .. } = task.sizes();
    let v = Tensor::zeros([rows, context, d_p], DType::F64);
    outer_products(&gradient(|v| squared_error(f, &task.y, &task.positions(), v), &v), &task.x)
}
