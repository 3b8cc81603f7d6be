//! Appendix A, in its order: Eqs. (8) to (12), Propositions A.1, A.2 and 3.1.

use super::{RegressionTask, Regressor, TaskSizes, gradient, outer_products, squared_error};
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
    let u = masked_token(&stochastic_position(a, n, &psi), &task.m.clone().into()) + everywhere;
    let v = match context_noise {
        None => ops::repeat_batch(&task.context(b), draws),
        Some(noise) => {
            let x = Var::constant(task.x.reshape([1, rows, context, d_e])) + noise;
            ops::linear(&x, b, None).reshape([draws * rows, context, d_p])
        }
    };
    let y = ops::repeat_batch(&task.y.clone().into(), draws);
    let error = f(&u.reshape([draws * rows, tokens, d_p]), &v) - y;
    let squares = (&error * &error).reshape([draws, error.value().elements() / draws]);
    (squares * Var::constant(weights.reshape([draws, 1]))).sum()
}

/// Eq. (9): J_tied(A) = J(A, A)
///
/// Proved by `tied_and_deterministic_losses_agree_at_zero`.
#[doc(alias = "Eq. 9")]
#[track_caller]
pub fn tied_loss(f: &Regressor<'_>, task: &RegressionTask, a: &Var, noise: &Quadrature) -> Var {
    expected_loss(f, task, a, a, noise)
}

/// Eq. (10): J_det(B) = J(0, B) = Σ_{i,j} (F(ψ_j + m, Bxᵢ) − y_j)²
///
/// Proved by `tied_and_deterministic_losses_agree_at_zero`.
#[doc(alias = "Eq. 10")]
#[track_caller]
pub fn deterministic_loss(f: &Regressor<'_>, task: &RegressionTask, b: &Var) -> Var {
    squared_error(f, &task.y, &task.positions(), &task.context(b))
}

/// Proposition A.1's gradient at any A: ∂J/∂A = Σ_{i,j} E\[2(F − y_j) ∇₁F n_jᵀ\], \[d_p, d_e\].
///
/// At A = 0 everything but n leaves the expectation, and what is left is E\[n\] = 0: without tying, A = 0 is always a
/// critical point.
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
        let u = stochastic_position(&a.clone().into(), &n, &task.positions());
        outer_products(&gradient(|u| squared_error(f, &task.y, u, &v), u.value()), n.value())
    })
}

/// Eqs. (11) and (12), Propositions A.2 and 3.1: the gradient of J_tied at A = 0, and of J_det at B = 0:
/// Σ_{i,j} 2(F(ψ_j+m, 0) − y_j) ∇₂F(ψ_j+m, 0) xᵢᵀ, \[d_p, d_e\].
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
