//! Beyond the paper: ways in which the noise can lose its effect although A is tied.
//!
//! Proposition 3.1 holds one thing fixed that training does not: F and everything around A. Each function here is a
//! change that keeps what the context says and takes the noise away, in whole or as far as one likes. Derivations:
//! docs/derivations/collapse.md; demonstrations in training: `stop-mim check collapse`. (The fourth way, a minimum at A
//! = 0 of a loss whose context is useful, is [`critical_variance`](super::second_order::critical_variance).)

use super::prop_3_1::Regressor;
use crate::autograd::{Var, ops};
use crate::linalg::orthonormal_rows;
use crate::tensor::Tensor;

/// (A/c, cγ, cβ): through the gain γ and shift β of the encoder's last layer norm.
///
/// s_x = γ ⊙ x̂ + β grows by c, As_x stays, and the noise A n is divided by c: the tied matrix sees features whose
/// scale is free. Weight decay invites it: A is decayed, γ and β are not. |A|·|γ| stays where it was, so neither it nor
/// |A| shows the loss; the ratio of noise to context does, which falls as 1/|γ|. The paper's third footnote takes the
/// scale of s_x to be fixed.
///
/// Proved by `the_gauge_escape`.
#[track_caller]
pub fn gauge_escape(a: &Tensor, gamma: &Tensor, beta: &Tensor, c: f64) -> [Tensor; 3] {
    [a.scaled(1.0 / c), gamma.scaled(c), beta.scaled(c)]
}

/// F_c(u, v) = F(u, cv), to be used with A/c: a predictor that amplifies its context.
///
/// J_tied(A/c; F_c) − J_det(A; F) = O(1/c²): the noise fades and the context stays.
///
/// Proved by `the_rescaling_escape`.
pub fn rescaling_escape<'f>(f: &'f Regressor<'f>, c: f64) -> impl Fn(&Var, &Var) -> Var + 'f {
    move |u, v| f(u, &(c * v))
}

/// A without its part in the span of the positions ψ \[K, d_p\]: (I − P)A with P the projection on that span.
///
/// Sine-cosine positions on a g × g grid span 2g − 1 dimensions only (of 384 for g = 14: 27). Noise outside of them,
/// however large, is removed from ψ̂ by P: Pψ̂_j = ψ_j, and every position can be read off exactly.
///
/// Proved by `the_subspace_escape`.
#[track_caller]
pub fn subspace_escape(a: &Tensor, psi: &Tensor) -> Tensor {
    let [d_p, _] = a.dims("subspace escape: A");
    let basis = orthonormal_rows(&psi.to_f64_vec(), d_p);
    let (a, q) = (Var::from(a.clone()), Var::from(Tensor::new([basis.len(), d_p], basis.concat())));
    (&a - ops::matmul_tn(&q, &q.matmul(&a))).value().clone()
}
