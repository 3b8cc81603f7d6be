//! The loss, section 2, "Prediction and loss".

use crate::autograd::{Var, ops};

/// L(s_y, ŝ_y), a mean over the features of a token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Loss {
    /// Smooth L1 with β = 1: I-JEPA and StoP, on features.
    SmoothL1,
    /// Squared error: MAE, on pixels.
    SquaredError,
}

/// (1/|B_y|) Σ_{i ∈ B_y} L(s_{yᵢ}, ŝ_{yᵢ}): predictions and targets of the same shape \[R, N_t, D\] → a scalar.
///
/// Every row has as many targets as the others, so the mean over all of them is the mean over images. A patch in two
/// overlapping target blocks counts twice, as in the official code.
///
/// Proved by `the_loss_is_the_mean_over_targets`.
#[track_caller]
pub fn masked_loss(loss: Loss, predictions: &Var, targets: &Var) -> Var {
    match loss {
        Loss::SmoothL1 => ops::smooth_l1(predictions, targets, 1.0),
        Loss::SquaredError => ops::mse(predictions, targets),
    }
}
