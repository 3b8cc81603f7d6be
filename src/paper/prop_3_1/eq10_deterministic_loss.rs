//! Eq. (10), appendix A: the loss without noise.

use super::{RegressionTask, Regressor, squared_error};
use crate::autograd::Var;

/// Eq. (10): J_det(B) = J(0, B) = Σ_{i,j} (F(ψ_j + m, Bxᵢ) − y_j)²
///
/// Proved by `tied_and_deterministic_losses_agree_at_zero`.
#[doc(alias = "Eq. 10")]
#[track_caller]
pub fn deterministic_loss(f: &Regressor<'_>, task: &RegressionTask, b: &Var) -> Var {
    squared_error(f, &task.y, &task.positions(), &task.context(b))
}
