//! Beyond the paper: what happens around A = 0, to second order.
//!
//! Proposition 3.1 says when the gradient vanishes at A = 0; whether A then stays there is a question of curvature.
//! With G(u, v) the squared error at tokens u and v (see [`squared_error`]),
//!
//! ```text
//! D²J_untied(0) = σ M(v) ⊗ I        M(v) = Σ_{r,j} ∇²_{u_j} G(ψ + m, v) = Σ 2∇₁F∇₁Fᵀ + 2(F − y)∇₁²F
//! D²J_tied(0)   = D²J_det(0) + σ M(0) ⊗ I
//! ```
//!
//! because the mixed term ∇²_{uv}G carries one factor n, and E n = 0. Derivations: docs/derivations/collapse.md.

use super::Sigma;
use super::prop_3_1::{RegressionTask, Regressor, TaskSizes, gradient, squared_error};
use crate::autograd::{Var, derivative_along, ops};
use crate::linalg::Cholesky;
use crate::tensor::{DType, Tensor};

/// Step of the differences that second derivatives are made of, for functions that change over distances of about 1.
const STEP: f64 = 0.01;

/// D²f of a scalar function of one matrix, \[n, n\] for n elements in row-major order.
#[track_caller]
pub fn hessian(f: impl Fn(&Var) -> Var, at: &Tensor) -> Tensor {
    let n = at.elements();
    let row = |k: usize| {
        let slope = |t: f64| {
            let mut moved = at.clone();
            moved.as_mut_slice::<f64>()[k] += t;
            gradient(&f, &moved)
        };
        derivative_along(slope, STEP).reshape([1, n])
    };
    Tensor::concat_rows(&(0..n).map(row).collect::<Vec<_>>())
}

/// M(v) = Σ_{r,j} ∇²_{u_j} G at u = ψ + m, \[d_p, d_p\]: how the squared error bends when a position moves.
///
/// `v` is the projected context, \[R, N_c, d_p\].
///
/// Proved by `curvature_without_tying`.
#[track_caller]
pub fn position_curvature(f: &Regressor<'_>, task: &RegressionTask, v: &Tensor) -> Tensor {
    let v = Var::constant(v.clone());
    token_curvature(task.positions().value(), |u| squared_error(f, &task.y, u, &v))
}

/// Σ_{r,i} ∇²_{v_i} G at u = ψ + m and v = 0, \[d_p, d_p\]: how the squared error bends when a context token moves.
///
/// Proved by `noise_on_the_context_too`.
#[track_caller]
pub fn context_curvature(f: &Regressor<'_>, task: &RegressionTask) -> Tensor {
    let u = task.positions();
    token_curvature(task.context(&task.zero().into()).value(), |v| squared_error(f, &task.y, &u, v))
}

/// Σ over rows and tokens of the diagonal blocks of the Hessian of `error` at tokens \[R, N, d\]: \[d, d\].
///
/// Rows do not see each other, so a token is moved in all of them at once.
fn token_curvature(at: &Tensor, error: impl Fn(&Var) -> Var) -> Tensor {
    let [rows, tokens, d] = at.dims("token curvature");
    let mut sum = vec![0.0; d * d];
    for token in 0..tokens {
        for k in 0..d {
            let moved = |t: f64| {
                let mut moved = at.clone();
                let places = moved.as_mut_slice::<f64>().chunks_exact_mut(tokens * d);
                places.for_each(|row| row[token * d + k] += t);
                gradient(&error, &moved)
            };
            let change = derivative_along(moved, STEP).to_f64_vec();
            for row in 0..rows {
                let start = (row * tokens + token) * d;
                (0..d).for_each(|l| sum[k * d + l] += change[start + l]);
            }
        }
    }
    Tensor::new([d, d], sum)
}

/// factor · M ⊗ I_{d_e}: the Hessian, with respect to a matrix A \[d_p, d_e\], of ½ factor tr(Aᵀ M A); \[d_p d_e, d_p
/// d_e\].
#[track_caller]
pub fn kron_identity(m: &Tensor, d_e: usize, factor: f64) -> Tensor {
    let [d_p, _] = m.dims("kron identity: M");
    let m = m.to_f64_vec();
    let n = d_p * d_e;
    let entry = |i: usize, j: usize| if i % d_e == j % d_e { factor * m[i / d_e * d_p + j / d_e] } else { 0.0 };
    Tensor::from_fn([n, n], DType::F64, |at| entry(at / n, at % n))
}

/// The least variance from which on A = 0 is a minimum of J_tied, where its gradient is zero there: D²J_det(0) +
/// σM(0)⊗I ≻ 0, for a positive semi-definite M(0), with which it then holds for all larger σ.
///
/// 0 when D²J_det(0) is positive definite already, or any noise at all makes the sum so; `None` when no amount does. To
/// ten digits.
///
/// Proved by `a_minimum_at_zero_although_the_context_is_used`.
#[track_caller]
pub fn critical_variance(det: &Tensor, m: &Tensor) -> Option<f64> {
    let ([n, _], [d_p, _]) = (det.dims("critical variance"), m.dims("critical variance: M"));
    let definite = |variance: f64| {
        let mut sum = det.clone();
        sum.add_assign(&kron_identity(m, n / d_p, variance));
        Cholesky::new(sum.to_f64_vec(), n).is_some()
    };
    let (mut low, mut high) = (-40.0f64, 40.0f64); // powers of 2
    if definite(low.exp2()) {
        return Some(0.0);
    }
    definite(high.exp2()).then(|| {
        while high - low > 1e-11 {
            let middle = 0.5 * (low + high);
            if definite(middle.exp2()) { high = middle } else { low = middle }
        }
        high.exp2()
    })
}

/// The gradient at A = 0 of a *calibrated* F, one with F(ψ_j + m, 0) = mean over images of y_j:
/// −2 Σ_{j,i} R ∇₂F Cov(y_j, xᵢ)ᵀ, \[d_p, d_e\], with R rows.
///
/// So A = 0 is critical if and only if context and targets are linearly uncorrelated, as seen through ∇₂F.
///
/// It takes the y's deviations from their own mean, whatever F says; for an F that is not calibrated it is not the
/// gradient. F has to be the same function of every row, and gives one number a token (D = 1).
///
/// Proved by `a_calibrated_predictor`.
#[track_caller]
pub fn calibrated_gradient(f: &Regressor<'_>, task: &RegressionTask) -> Tensor {
    let TaskSizes { rows, tokens, context, d_p, d_e } = task.sizes();
    assert_eq!(task.y.last_dim(), 1, "calibrated gradient: F must give one number for each token");
    // Deviations from the mean over rows: [rows, whatever is in a row].
    let centered = |t: &Tensor| {
        let t = Var::constant(t.reshape([rows, t.elements() / rows]));
        &t - t.mean_axis(0).reshape([1, t.value().last_dim()])
    };
    let covariance = ops::matmul_tn(&centered(&task.y), &centered(&task.x)); // R Cov(y_j, xᵢ), [tokens, context d_e]
    let u = task.positions();
    let mut sum = Tensor::zeros([d_p, d_e], DType::F64);
    for j in 0..tokens {
        // ∇₂F of token j at v = 0: the same in every row, so the first one's is taken.
        let pick = Var::constant(Tensor::from_fn([rows, tokens, 1], DType::F64, |i| f64::from(i == j)));
        let predicted = |v: &Var| (f(&u, v) * &pick).sum();
        let slope = gradient(predicted, &Tensor::zeros([rows, context, d_p], DType::F64)).rows(0..1);
        let of_token = covariance.value().rows(j..j + 1).reshape([context, d_e]);
        let product = ops::matmul_tn(&slope.reshape([context, d_p]).into(), &of_token.into());
        sum.add_assign(&product.value().scaled(-2.0));
    }
    sum
}

/// Nσ|Aᵀp|²: what the noise adds to the loss of a linear F = p·u + q·v over N terms, J_tied = J_det + Nσ|Aᵀp|².
///
/// StoP with a linear predictor is Tikhonov regularization, and where p = q it is ridge regression on w = Aᵀp.
///
/// Proved by `a_linear_predictor_is_regularized_by_tikhonov`.
#[doc(alias = "Tikhonov")]
#[track_caller]
pub fn tikhonov_penalty(a: &Tensor, p: &Tensor, sigma: Sigma, terms: usize) -> f64 {
    let projected = ops::matmul_tn(&a.clone().into(), &p.reshape([p.elements(), 1]).into());
    terms as f64 * sigma.variance() * projected.value().norm().powi(2)
}
