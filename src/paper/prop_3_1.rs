//! Appendix A: the losses with and without noise, tied and untied (Eqs. 8 to 10), and their gradients at A = 0
//! (Eqs. 11 and 12, Propositions A.1, A.2 and 3.1).
//!
//! All of it works on any F: a closure from masked tokens and projected context to predictions, made of operations on
//! the tape. The paper's F is a function of one masked and one context token; here it sees all N_t and N_c tokens of an
//! image, so that an attention network is an F too. The context positions ψᵢ of Eq. (1) are left out of the appendix;
//! an F that needs them adds them itself.
//!
//! What the proposition says, what it does not, and the derivations: docs/derivations/collapse.md.

use super::{Quadrature, masked_token, stochastic_position};
use crate::autograd::{Tape, Var, ops};
use crate::tensor::{DType, Tensor};

/// F: masked tokens \[R, N_t, d_p\] and projected context \[R, N_c, d_p\] → predictions \[R, N_t, D\].
///
/// Each of the R rows on its own: no row may see another.
pub type Regressor<'f> = dyn Fn(&Var, &Var) -> Var + 'f;

/// What F is to predict, and from what: "some target y_j given a stochastic position and projected context".
#[derive(Clone, Debug)]
pub struct RegressionTask {
    /// ψ_j: \[N_t, d_p\], the same in every row.
    pub psi: Tensor,
    /// m: \[d_p\]
    pub m: Tensor,
    /// xᵢ: \[R, N_c, d_e\], features of the context.
    pub x: Tensor,
    /// y_j: \[R, N_t, D\]
    pub y: Tensor,
}

impl RegressionTask {
    /// R, N_t, N_c, d_p, d_e.
    fn sizes(&self) -> [usize; 5] {
        let [tokens, d_p] = self.psi.dims("regression task: psi");
        let [rows, context, d_e] = self.x.dims("regression task: x");
        [rows, tokens, context, d_p, d_e]
    }

    /// A matrix A or B of zeros: \[d_p, d_e\].
    pub fn zero(&self) -> Tensor {
        let [.., d_p, d_e] = self.sizes();
        Tensor::zeros([d_p, d_e], DType::F64)
    }

    /// ψ_j + m in every row: \[R, N_t, d_p\].
    pub fn positions(&self) -> Var {
        let [rows, tokens, _, d_p, _] = self.sizes();
        let psi = Var::constant(self.psi.reshape([1, tokens, d_p]));
        ops::repeat_batch(&masked_token(&psi, &self.m.clone().into()), rows)
    }

    /// B xᵢ: \[R, N_c, d_p\].
    pub fn context(&self, b: &Var) -> Var {
        ops::linear(&self.x.clone().into(), b, None)
    }
}

/// G(u, v) = Σ_{r,j} |F(u, v)_{rj} − y_{rj}|², a scalar: the squared error at given tokens.
pub fn squared_error(f: &Regressor<'_>, y: &Tensor, u: &Var, v: &Var) -> Var {
    let error = ops::add(&f(u, v), &Var::constant(y.scaled(-1.0)));
    ops::sum(&ops::mul(&error, &error))
}

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
    let [rows, tokens, context, d_p, d_e] = task.sizes();
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

/// Eq. (9): J_tied(A) = J(A, A)
#[doc(alias = "Eq. 9")]
#[track_caller]
pub fn tied_loss(f: &Regressor<'_>, task: &RegressionTask, a: &Var, noise: &Quadrature) -> Var {
    expected_loss(f, task, a, a, noise)
}

/// Eq. (10): J_det(B) = J(0, B) = Σ_{i,j} (F(ψ_j + m, Bxᵢ) − y_j)²
#[doc(alias = "Eq. 10")]
#[track_caller]
pub fn deterministic_loss(f: &Regressor<'_>, task: &RegressionTask, b: &Var) -> Var {
    squared_error(f, &task.y, &task.positions(), &task.context(b))
}

/// The gradient of a scalar function of one matrix, by the tape; zero where it does not depend on it.
#[track_caller]
pub fn gradient(f: impl Fn(&Var) -> Var, at: &Tensor) -> Tensor {
    let tape = Tape::new();
    let x = tape.leaf(at.clone());
    let y = f(&x);
    let found = if y.is_tracked() { tape.backward(&y).take(&x) } else { None };
    found.unwrap_or_else(|| Tensor::zeros(*at.shape(), at.dtype()))
}

/// ∇_u G and ∇_v G at given tokens: \[R, N_t, d_p\] and \[R, N_c, d_p\].
///
/// They are 2(F − y)∇₁F and 2(F − y)∇₂F, the factors that the appendix's gradients are made of.
#[track_caller]
pub fn token_gradients(f: &Regressor<'_>, y: &Tensor, u: &Tensor, v: &Tensor) -> (Tensor, Tensor) {
    let tape = Tape::new();
    let (u, v) = (tape.leaf(u.clone()), tape.leaf(v.clone()));
    let mut found = tape.backward(&squared_error(f, y, &u, &v));
    let mut take = |x: &Var| found.take(x).unwrap_or_else(|| Tensor::zeros(*x.shape(), x.dtype()));
    (take(&u), take(&v))
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
    let [rows, tokens, _, d_p, d_e] = task.sizes();
    let v = task.context(&b.clone().into());
    noise.expect(|n| {
        let shift = ops::linear(&n.reshape([1, tokens, d_e]).into(), &a.clone().into(), None);
        let u = ops::add(&task.positions(), &shift);
        let (du, _) = token_gradients(f, &task.y, u.value(), v.value());
        let n = ops::repeat_batch(&n.reshape([1, tokens, d_e]).into(), rows);
        outer_products(&du.reshape([rows * tokens, d_p]), &n.value().reshape([rows * tokens, d_e]))
    })
}

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
    let [rows, _, context, d_p, d_e] = task.sizes();
    let v = Tensor::zeros([rows, context, d_p], DType::F64);
    let (_, dv) = token_gradients(f, &task.y, task.positions().value(), &v);
    outer_products(&dv.reshape([rows * context, d_p]), &task.x.reshape([rows * context, d_e]))
}

/// Σ over rows of a bᵀ: \[K, p\], \[K, q\] → \[p, q\].
fn outer_products(a: &Tensor, b: &Tensor) -> Tensor {
    ops::matmul_tn(&a.clone().into(), &b.clone().into()).value().clone()
}
