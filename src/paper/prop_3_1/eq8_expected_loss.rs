//! Eq. (8), appendix A: the expected loss of a predictor F under noise.

use super::{RegressionTask, Regressor, TaskSizes};
use crate::autograd::{Var, ops};
use crate::paper::{Quadrature, masked_token, stochastic_position};
use crate::tensor::{DType, Tensor};

/// Eq. (8): J(A, B) = Σ_{i,j} E_{n_j}\[(F(An_j + ψ_j + m, Bxᵢ) − y_j)²\], a scalar, with the expectation that `noise`
/// takes.
///
/// | symbol | argument | shape |
/// |---|---|---|
/// | A, B | `a`, `b` | \[d_p, d_e\] |
/// | n_j | `noise` | K draws for N_t tokens, or for one, which stands for each where F sees them one by one |
///
/// Proved by `expected_loss_is_equation_8`.
#[doc(alias = "Eq. 8")]
#[track_caller]
pub fn expected_loss(f: &Regressor<'_>, task: &RegressionTask, a: &Var, b: &Var, noise: &Quadrature) -> Var {
    let [draws, tokens, d_e] = noise.noise.dims("expected loss: noise");
    let n = Var::constant(noise.noise.reshape([draws, 1, tokens, d_e]));
    expected_loss_under(f, task, (a, &n), b, None, &noise.weights)
}

/// Eq. (8) under noise that may differ from row to row, and may be added to the context too.
///
/// | argument | shape |
/// |---|---|
/// | `n`, on masked positions | \[K, R or 1, N_t or 1, d_e\] |
/// | `context_noise`, on features of the context | \[K, R or 1, N_c, d_e\] |
/// | `weights` | \[K\] |
///
/// The variants of the paper's Table 7 (noise on the context as well) and of its outlook (noise scaled by the context).
#[doc(alias = "Table 7")]
#[track_caller]
pub fn expected_loss_under(
    f: &Regressor<'_>,
    task: &RegressionTask,
    (a, n): (&Var, &Var),
    b: &Var,
    context_noise: Option<&Var>,
    weights: &Tensor,
) -> Var {
    let TaskSizes { rows, tokens, context, d_p, d_e } = task.sizes();
    let [draws] = weights.dims("expected loss: weights");
    let psi = Var::constant(task.psi.reshape([1, 1, tokens, d_p]));
    let everywhere = Var::constant(Tensor::zeros([1, rows, 1, 1], DType::F64)); // makes the rows explicit
    let u = masked_token(&stochastic_position(a, n, &psi), &task.m.clone().into());
    let u = ops::reshape(&ops::add(&u, &everywhere), [draws * rows, tokens, d_p]);
    let v = match context_noise {
        None => ops::repeat_batch(&task.context(b), draws),
        Some(noise) => {
            let x = ops::add(&Var::constant(task.x.reshape([1, rows, context, d_e])), noise);
            ops::reshape(&ops::linear(&x, b, None), [draws * rows, context, d_p])
        }
    };
    let y = ops::repeat_batch(&task.y.clone().into(), draws);
    let error = ops::add(&f(&u, &v), &ops::scale(&y, -1.0));
    let width = error.value().last_dim();
    let squares = ops::reshape(&ops::mul(&error, &error), [draws, rows * tokens * width]);
    ops::sum(&ops::mul(&squares, &Var::constant(weights.reshape([draws, 1]))))
}
