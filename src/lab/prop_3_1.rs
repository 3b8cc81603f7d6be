//! Section 3 and appendix A, put to the test: one function for each statement.

use super::Finding;
use super::predictors::{
    Subject, VARIANCE, coefficients, cubature, draw, largest, linear, matrix, pair, perceptron, random, sigma, subjects,
};
use crate::autograd::{Var, derivative_along, ops};
use crate::linalg::orthonormal_rows;
use crate::paper::prop_3_1::{
    deterministic_loss, expected_loss, gradient, gradient_at_zero, squared_error, tied_loss, untied_gradient,
};
use crate::paper::{Quadrature, covariance, stochastic_position};
use crate::rng::{Purpose, stream};
use crate::tensor::{DType, Tensor};

/// Eq. (8) against plain loops over images, tokens and draws, for the linear F, whose formula is one line.
pub fn equation_8() -> Vec<Finding> {
    let Subject { f, task, .. } = linear();
    let (a, b, noise) = (matrix(&task, 1), matrix(&task, 2), cubature(&task));
    let value = expected_loss(&*f, &task, &a.clone().into(), &b.clone().into(), &noise).item();
    let psi = Var::constant(task.psi.reshape([1, task.psi.shape()[0], task.psi.shape()[1]]));
    // F of one row and one draw on its own, its tokens made by Eqs. (5), (2) and (1).
    let term = |(k, weight): (usize, &f64), r: usize| {
        let n = Var::constant(noise.noise.rows(k..k + 1));
        let u = ops::add(&stochastic_position(&a.clone().into(), &n, &psi), &task.m.clone().into());
        let v = ops::linear(&task.x.rows(r..r + 1).into(), &b.clone().into(), None);
        let (predicted, y) = (f(&u, &v).value().to_f64_vec(), task.y.rows(r..r + 1).to_f64_vec());
        weight * predicted.iter().zip(&y).map(|(f, y)| (f - y).powi(2)).sum::<f64>()
    };
    let weights = noise.weights.to_f64_vec();
    let sum: f64 = weights.iter().enumerate().map(|kw| (0..task.x.shape()[0]).map(|r| term(kw, r)).sum::<f64>()).sum();
    vec![Finding::equal("Eq. 8", "J(A, B) and a loop over images, tokens, draws", &[value], &[sum], 1e-14)]
}

/// Eq. (8) without noise is Eq. (10).
pub fn silence() -> Vec<Finding> {
    let test = |s: &Subject| {
        let b = Var::constant(matrix(&s.task, 26));
        let silent = Quadrature::zero(s.task.psi.shape()[0], s.task.x.last_dim());
        let j = expected_loss(&*s.f, &s.task, &matrix(&s.task, 27).into(), &b, &silent).item();
        let det = squared_error(&*s.f, &s.task.y, &s.task.positions(), &s.task.context(&b)).item();
        Finding::equal("Eqs. 8, 10", &format!("J without noise and J_det, {}", s.name), &[j], &[det], 1e-14)
    };
    subjects().iter().map(test).collect()
}

/// Eqs. (9) and (10): at A = 0 the tied loss is the deterministic one.
pub fn equations_9_and_10() -> Vec<Finding> {
    let at_zero = |s: &Subject| {
        let zero = Var::constant(s.task.zero());
        let tied = tied_loss(&*s.f, &s.task, &zero, &cubature(&s.task)).item();
        let det = deterministic_loss(&*s.f, &s.task, &zero).item();
        Finding::equal("Eqs. 9, 10", &format!("J_tied(0) and J_det(0), {}", s.name), &[tied], &[det], 1e-14)
    };
    subjects().iter().map(at_zero).collect()
}

/// The appendix's formula for ∂J/∂A against the tape, and the tape against central differences, away from A = 0.
pub fn appendix_gradient() -> Vec<Finding> {
    let test = |s: &Subject| {
        let (a, b, noise) = (matrix(&s.task, 3), matrix(&s.task, 4), cubature(&s.task));
        let loss = |a: &Var| expected_loss(&*s.f, &s.task, a, &b.clone().into(), &noise);
        let tape = gradient(loss, &a);
        let formula = untied_gradient(&*s.f, &s.task, &a, &b, &noise);
        let direction = random(&a.shape()[..], 5);
        let along = derivative_along(
            |t| {
                let mut moved = a.clone();
                moved.add_assign(&direction.scaled(t));
                loss(&moved.into()).value().clone()
            },
            0.01,
        );
        let inner: f64 = tape.to_f64_vec().iter().zip(direction.to_f64_vec()).map(|(g, d)| g * d).sum();
        let compared = |what: &str| format!("∂J/∂A at a random A, {what}, {}", s.name);
        [
            Finding::equal_tensors("App. A", &compared("formula and tape"), &formula, &tape, 1e-13),
            Finding::equal("App. A", &compared("tape and differences"), &[inner], &[along.item()], 1e-11),
        ]
    };
    subjects().iter().flat_map(test).collect()
}

/// Proposition A.1: untied, the gradient at A = 0 is zero for any B.
pub fn proposition_a_1() -> Vec<Finding> {
    let test = |s: &Subject| {
        let b = Var::constant(matrix(&s.task, 6));
        let at_zero = |noise: &Quadrature| gradient(|a| expected_loss(&*s.f, &s.task, a, &b, noise), &s.task.zero());
        let scale = largest(&at_zero(&draw(&s.task))); // what one draw alone gives, and the mean must cancel
        let finding = |name: &str, noise: &Quadrature| {
            let compared = format!("∂J/∂A at 0, {name}, {}", s.name);
            Finding::vanishes("Prop. A.1", &compared, &at_zero(noise).to_f64_vec(), scale, 1e-14)
        };
        [finding("antithetic pair", &pair(&s.task)), finding("cubature", &cubature(&s.task))]
    };
    subjects().iter().flat_map(test).collect()
}

/// What the same check would have said by random sampling: the largest entry of ∂J/∂A at 0 as a share of what one draw
/// gives, for numbers of draws. Nothing to pass or fail: it shows why expectations here are exact.
pub fn proposition_a_1_by_sampling(draws: usize) -> f64 {
    let Subject { f, task, .. } = perceptron();
    let ([tokens, _], [_, _, d_e]) = (task.psi.dims("psi"), task.x.dims("x"));
    let noise = Quadrature::monte_carlo(draws, tokens, d_e, sigma(), &mut stream(0, Purpose::Noise, [0x3e1, 0]));
    let b = Var::constant(matrix(&task, 6));
    let at_zero = |noise: &Quadrature| largest(&gradient(|a| expected_loss(&*f, &task, a, &b, noise), &task.zero()));
    at_zero(&noise) / at_zero(&draw(&task))
}

/// Propositions A.2 and 3.1: the gradients of J_tied and J_det at 0 are the same (Eqs. 11 and 12), and not zero here,
/// so that one vanishes if and only if the other does.
pub fn proposition_3_1() -> Vec<Finding> {
    let test = |s: &Subject| {
        let zero = s.task.zero();
        let tied = |noise: &Quadrature| gradient(|a| tied_loss(&*s.f, &s.task, a, noise), &zero);
        let det = gradient(|b| deterministic_loss(&*s.f, &s.task, b), &zero);
        let formula = gradient_at_zero(&*s.f, &s.task);
        let compared = |what: &str| format!("{what}, {}", s.name);
        let equal = |what: &str, left: &Tensor| Finding::equal_tensors("Prop. 3.1", &compared(what), left, &det, 1e-13);
        [
            equal("∂J_tied/∂A and ∂J_det/∂B at 0, antithetic pair", &tied(&pair(&s.task))),
            equal("∂J_tied/∂A and ∂J_det/∂B at 0, cubature", &tied(&cubature(&s.task))),
            equal("Eqs. 11, 12 and ∂J_det/∂B at 0", &formula),
            Finding::below("Prop. 3.1", &compared("0.1 is below the largest entry"), 0.1, largest(&det)),
        ]
    };
    let mut findings: Vec<Finding> = subjects().iter().flat_map(test).collect();

    // The linear F by hand: Σ 2(p·(ψ_j + m) − y_j) q xᵢᵀ. What is printed in the paper is half of it.
    let subject = linear();
    let (p, q) = coefficients(&subject);
    let Subject { f, task, .. } = subject;
    let found = gradient_at_zero(&*f, &task);
    let ([rows, context, d_e], [tokens, d_p]) = (task.x.dims("x"), task.psi.dims("psi"));
    let (psi, m, x, y) = (task.psi.to_f64_vec(), task.m.to_f64_vec(), task.x.to_f64_vec(), task.y.to_f64_vec());
    let mut by_hand = vec![0.0; d_p * d_e];
    for (r, j) in (0..rows).flat_map(|r| (0..tokens).map(move |j| (r, j))) {
        let predicted: f64 = (0..d_p).map(|k| p[k] * (psi[j * d_p + k] + m[k])).sum();
        let error = predicted - y[r * tokens + j];
        for (i, (k, e)) in (0..context).flat_map(|i| (0..d_p * d_e).map(move |s| (i, (s / d_e, s % d_e)))) {
            by_hand[k * d_e + e] += 2.0 * error * q[k] * x[(r * context + i) * d_e + e];
        }
    }
    findings.push(Finding::equal("Eqs. 11, 12", "by hand, linear map", &found.to_f64_vec(), &by_hand, 1e-13));
    findings
}

/// The derivative of an expectation with respect to A, two ways: E\[∇f nᵀ\] by reparametrization (Eq. 5), and E\[f ∇
/// log p\], for which no derivative of f is needed. Both are right; the second varies more from draw to draw, so it
/// needs more of them.
pub fn reparametrization() -> Vec<Finding> {
    let (a, psi) = (Tensor::new([2, 2], vec![0.9, -0.3, 0.4, 0.7]), random(&[1, 1, 2], 11));
    let w = Var::constant(random(&[1, 2], 12));
    let f = |position: &Var| ops::sum(&ops::gelu(&ops::linear(position, &w, None)));
    let rule = Quadrature::gauss_hermite(40, 2, sigma());
    let at = |a: &Var, n: &Tensor| f(&stochastic_position(a, &n.reshape([1, 1, 2]).into(), &psi.clone().into()));
    let pathwise = |n: &Tensor| gradient(|a| at(a, n), &a);
    // ∇_A log N(An; 0, σAAᵀ) = A⁻ᵀ(nnᵀ/σ − I)
    let entries = a.to_f64_vec();
    let det = entries[0] * entries[3] - entries[1] * entries[2];
    let inverse_transposed = [entries[3] / det, -entries[2] / det, -entries[1] / det, entries[0] / det];
    let score = |n: &Tensor| {
        let value = at(&a.clone().into(), n).item();
        let n = n.to_f64_vec();
        let s = |i: usize, j: usize| n[i] * n[j] / VARIANCE - if i == j { 1.0 } else { 0.0 };
        let entry = |k: usize| (0..2).map(|l| inverse_transposed[k / 2 * 2 + l] * s(l, k % 2)).sum::<f64>();
        Tensor::from_fn([2, 2], DType::F64, |k| value * entry(k))
    };
    let (left, right) = (rule.expect(pathwise), rule.expect(score));
    let spread = |g: &dyn Fn(&Tensor) -> Tensor, mean: &Tensor| {
        rule.expect(|n| Tensor::scalar(g(n).norm().powi(2), DType::F64)).item() - mean.norm().powi(2)
    };
    let (narrow, wide) = (spread(&pathwise, &left), spread(&score, &right));
    vec![
        Finding::equal_tensors("Eq. 5, gradient", "reparametrized and score-function", &left, &right, 1e-12),
        Finding::below("Eq. 5, gradient", "variance: reparametrized below a third of the other", 3.0 * narrow, wide),
    ]
}

/// Eqs. (3) to (5) by sampling, as a z-test: every entry of mean and covariance of 2·10⁵ draws within five standard
/// errors. Also the rank of Σ: generically full, not low, with more features than position components.
pub fn sampled_positions() -> Vec<Finding> {
    let (d_p, d_e, draws) = (4, 6, 200_000);
    let a = random(&[d_p, d_e], 13);
    let exact = covariance(&a, sigma()).to_f64_vec();
    let noise = Quadrature::monte_carlo(draws, 1, d_e, sigma(), &mut stream(1, Purpose::Noise, [0x3e1, 0])).noise;
    let origin = Var::constant(Tensor::zeros([1, 1, d_p], DType::F64));
    let sample = ops::reshape(&stochastic_position(&a.clone().into(), &noise.into(), &origin), [draws, d_p]);
    let k = draws as f64;
    let sums = ops::matmul_tn(&sample, &sample).value().to_f64_vec();
    let z_covariance: Vec<f64> = (0..d_p * d_p)
        .map(|at| {
            let (i, j) = (at / d_p, at % d_p);
            let (s_ii, s_jj, s_ij) = (exact[i * d_p + i], exact[j * d_p + j], exact[at]);
            (sums[at] / k - s_ij) / ((s_ii * s_jj + s_ij * s_ij) / k).sqrt()
        })
        .collect();
    let values = sample.value().to_f64_vec();
    let z_mean: Vec<f64> = (0..d_p)
        .map(|i| values.iter().skip(i).step_by(d_p).sum::<f64>() / k / (exact[i * d_p + i] / k).sqrt())
        .collect();
    let rank = |d_p: usize, d_e: usize| {
        orthonormal_rows(&covariance(&random(&[d_p, d_e], 14), sigma()).to_f64_vec(), d_p).len() as f64
    };
    vec![
        Finding::vanishes("Eqs. 3–5", "mean of 2·10⁵ draws, in standard errors", &z_mean, 1.0, 5.0),
        Finding::vanishes("Eqs. 3–5", "covariance of 2·10⁵ draws, in standard errors", &z_covariance, 1.0, 5.0),
        Finding::equal(
            "Eq. 4",
            "rank of Σ: full with d_e > d_p, d_e below",
            &[rank(4, 8), rank(8, 3)],
            &[4.0, 3.0],
            0.0,
        ),
    ]
}
