//! Ways out of the tying, put to the test: each exactly what it says it is.

use super::Finding;
use super::predictors::{Subject, VARIANCE, cubature, draw, matrix, random, vit_predictor};
use crate::autograd::{Var, ops};
use crate::linalg::orthonormal_rows;
use crate::paper::escapes::{gauge_escape, rescaling_escape, subspace_escape};
use crate::paper::prop_3_1::{deterministic_loss, tied_loss};
use crate::paper::second_order::position_curvature;
use crate::paper::{context_token, stochastic_position};
use crate::tensor::{DType, Tensor};
use crate::vit::sincos::positions;

/// (A/c, cγ, cβ): the predictor sees the same context and 1/c of the noise.
pub fn gauge() -> Vec<Finding> {
    let (d_p, d_e, c) = (8, 12, 50.0);
    let (a, gamma, beta) = (random(&[d_p, d_e], 15), random(&[d_e], 16), random(&[d_e], 17));
    let (features, n) = (Var::constant(random(&[3, 5, d_e], 18)), Var::constant(random(&[3, 5, d_e], 19)));
    let psi = Var::constant(random(&[3, 5, d_p], 20));
    let tokens = |a: &Tensor, gamma: &Tensor, beta: &Tensor| {
        let a = Var::constant(a.clone());
        let s_x = ops::layer_norm(&features, Some((&gamma.clone().into(), &beta.clone().into())), 1e-6);
        let silent = Var::constant(Tensor::zeros(*psi.shape(), DType::F64));
        (context_token(&psi, &a, &s_x, None), stochastic_position(&a, &n, &silent))
    };
    let [a_c, gamma_c, beta_c] = gauge_escape(&a, &gamma, &beta, c);
    let (before, after) = (tokens(&a, &gamma, &beta), tokens(&a_c, &gamma_c, &beta_c));
    let claim = "gauge escape";
    let norms = [a.norm() * gamma.norm(), a_c.norm() * gamma_c.norm()];
    vec![
        Finding::equal(claim, "context tokens before and after", &before.0, &after.0, 1e-14),
        Finding::equal(claim, "noise before, and c times after", &before.1, &(c * &after.1), 1e-14),
        Finding::equal(claim, "|A||γ| before and after", &norms[0], &norms[1], 1e-14),
    ]
}

/// (A/c, F with its context amplified by c): J_tied − J_det falls as 1/c².
pub fn rescaling(Subject { name, f, task }: &Subject) -> Vec<Finding> {
    let (a, noise) = (matrix(task, 21), cubature(task));
    let det = deterministic_loss(&**f, task, &a.clone().into()).item();
    let excess = |c: f64| {
        let f = rescaling_escape(&**f, c);
        c * c * (tied_loss(&f, task, &a.scaled(1.0 / c).into(), &noise).item() - det)
    };
    // c²(J_tied − J_det) → ½σ tr(AᵀMA), M at the context that F sees; the rest is of order 1/c².
    let a = Var::from(a.clone());
    let m = Var::from(position_curvature(&**f, task, task.context(&a).value()));
    let limit = 0.5 * VARIANCE * (m.matmul(&a) * &a).sum();
    let compared = format!("c²(J_tied − J_det) at c = 1000 and ½σ tr(AᵀMA), {name}");
    vec![Finding::equal("rescaling escape", compared, &excess(1000.0), &limit, 1e-5)]
}

/// A outside the span of ψ: however large the noise, the projection on that span gives every position back.
pub fn subspace() -> Vec<Finding> {
    let test = |(d_p, grid, rank): (usize, usize, usize)| {
        let psi = Tensor::new([grid * grid, d_p], positions(d_p, grid, grid));
        let basis = orthonormal_rows(&psi.to_f64_vec(), d_p);
        let (a, n) = (random(&[d_p, 12], 22).scaled(1e3), random(&[1, grid * grid, 12], 23));
        let hidden = subspace_escape(&a, &psi);
        let psi = Var::constant(psi.reshape([1, grid * grid, d_p]));
        let q = Var::constant(Tensor::new([basis.len(), d_p], basis.concat()));
        let draw = stochastic_position(&hidden.clone().into(), &n.into(), &psi);
        let noise = ops::linear(&draw, &q, None) - ops::linear(&psi, &q, None);
        let claim = "subspace escape";
        let of = |what: &str| format!("{what}, {grid} × {grid} grid, d_p = {d_p}");
        [
            Finding::equal(claim, of("rank of ψ"), &(basis.len() as f64), &(rank as f64), 0.0),
            Finding::vanishes(claim, of("the noise, projected on span ψ"), &noise, hidden.norm(), 1e-14),
            Finding::below(claim, of("half of |A| is left"), 0.5 * a.norm(), hidden.norm()),
        ]
    };
    [(384, 14, 27), (96, 8, 15)].into_iter().flat_map(test).collect()
}

/// A pre-LN predictor does not see 1wᵀ in A: its layer norms remove the mean of every token.
pub fn null_direction() -> Vec<Finding> {
    let Subject { f, task, .. } = vit_predictor();
    let (a, w) = (Var::from(matrix(&task, 24)), Var::from(random(&[1, task.sizes().d_e], 25)));
    let n = Var::from(draw(&task).noise);
    let predictions = |a: &Var| f(&stochastic_position(a, &n, &task.positions()), &task.context(a));
    let (before, after, elsewhere) = (predictions(&a), predictions(&(&a + w)), predictions(&(1.5 * &a)));
    let claim = "null direction";
    let [unseen, seen] = [&after, &elsewhere].map(|other| before.value().max_abs_diff(other.value()));
    vec![
        Finding::equal(claim, "predictions with A and A + 1wᵀ, ViT predictor", &before, &after, 1e-13),
        Finding::below(claim, "a change of A that is visible changes them a million times more", 1e6 * unseen, seen),
    ]
}
