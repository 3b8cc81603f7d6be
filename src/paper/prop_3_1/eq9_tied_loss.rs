//! Eq. (9), appendix A: the loss of StoP, with one matrix in both places.

use super::{RegressionTask, Regressor, expected_loss};
use crate::autograd::Var;
use crate::paper::Quadrature;

/// Eq. (9): J_tied(A) = J(A, A)
///
/// Proved by `tied_and_deterministic_losses_agree_at_zero`.
#[doc(alias = "Eq. 9")]
#[track_caller]
pub fn tied_loss(f: &Regressor<'_>, task: &RegressionTask, a: &Var, noise: &Quadrature) -> Var {
    expected_loss(f, task, a, a, noise)
}
