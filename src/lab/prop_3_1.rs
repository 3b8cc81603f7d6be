//! Section 3 and appendix A, put to the test: one function for each statement, and [`of`] for one's own predictor.

use super::Finding;
use super::finding::largest;
use super::predictors::{
    Subject, VARIANCE, coefficients, cubature, draw, linear, matrix, on_all, pair, perceptron, random, sigma,
};
use crate::autograd::{Var, derivative_along, ops};
use crate::linalg::{dot, orthonormal_rows};
use crate::paper::prop_3_1::{
    TaskSizes, deterministic_loss, expected_loss, gradient, gradient_at_zero, tied_loss, untied_gradient,
};
use crate::paper::{Quadrature, covariance, stochastic_position};
use crate::rng::{Purpose, stream};
use crate::tensor::{DType, Tensor};

/// Every statement of appendix A that holds for any differentiable F, put to one's own: Eqs. (8) to (12), Propositions
/// A.1, A.2 and 3.1.
///
/// ```
/// use stop_mim::autograd::ops;
/// use stop_mim::lab::predictors::{Subject, random_task};
/// use stop_mim::lab::{Finding, prop_3_1};
/// use stop_mim::paper::prop_3_1::TaskSizes;
/// use stop_mim::rng::{Purpose, stream};
///
/// // Two masked tokens and one context token of an image: F(u_j, v) = GELU(u_j + v) ⊙ u_j.
/// let sizes = TaskSizes { rows: 4, tokens: 2, context: 1, d_p: 3, d_e: 5 };
/// let task = random_task(sizes, 3, &mut stream(0, Purpose::Eval, [0, 0])); // in f64
/// let mine = Subject::new("mine", |u, v| ops::gelu(&(u + v)) * u, task);
/// prop_3_1::of(&mine).iter().for_each(Finding::assert_pass);
/// ```
pub fn of(subject: &Subject) -> Vec<Finding> {
    [silence, equations_9_and_10, appendix_gradient, proposition_a_1, tied_gradient_at_zero]
        .iter()
        .flat_map(|test| test(subject))
        .collect()
}

/// Eq. (8) against plain loops over images, tokens and draws, for the linear F, whose formula is one line.
pub fn equation_8() -> Vec<Finding> {
    let Subject { f, task, .. } = linear();
    let (a, b, noise) = (matrix(&task, 1), matrix(&task, 2), cubature(&task));
    let value = expected_loss(&*f, &task, &a.clone().into(), &b.clone().into(), &noise);
    let TaskSizes { rows, tokens, d_p, .. } = task.sizes();
    let psi = Var::constant(task.psi.reshape([1, tokens, d_p]));
    // F of one row and one draw on its own, its tokens made by Eqs. (5), (2) and (1).
    let term = |k: usize, r: usize| {
        let n = Var::constant(noise.noise.rows(k..k + 1));
        let u = stochastic_position(&a.clone().into(), &n, &psi) + Var::from(task.m.clone());
        let v = ops::linear(&task.x.rows(r..r + 1).into(), &b.clone().into(), None);
        (f(&u, &v) - Var::from(task.y.rows(r..r + 1))).value().norm().powi(2)
    };
    let weights = noise.weights.to_f64_vec();
    let sum: f64 = (0..weights.len()).map(|k| (0..rows).map(|r| weights[k] * term(k, r)).sum::<f64>()).sum();
    vec![Finding::equal("Eq. 8", "J(A, B) and a loop over images, tokens, draws", &value, &sum, 1e-14)]
}

/// Eq. (8) without noise is Eq. (10).
pub fn silence(Subject { name, f, task }: &Subject) -> Vec<Finding> {
    let b = Var::constant(matrix(task, 26));
    let silent = Quadrature::zero(task.sizes().tokens, task.sizes().d_e);
    let j = expected_loss(&**f, task, &matrix(task, 27).into(), &b, &silent);
    let det = deterministic_loss(&**f, task, &b);
    vec![Finding::equal("Eqs. 8, 10", format!("J without noise and J_det, {name}"), &j, &det, 1e-14)]
}

/// Eqs. (9) and (10): at A = 0 the tied loss is the deterministic one.
pub fn equations_9_and_10(Subject { name, f, task }: &Subject) -> Vec<Finding> {
    let zero = Var::constant(task.zero());
    let tied = tied_loss(&**f, task, &zero, &cubature(task));
    let det = deterministic_loss(&**f, task, &zero);
    vec![Finding::equal("Eqs. 9, 10", format!("J_tied(0) and J_det(0), {name}"), &tied, &det, 1e-14)]
}

/// The appendix's formula for ∂J/∂A against the tape, and the tape against central differences, away from A = 0.
pub fn appendix_gradient(Subject { name, f, task }: &Subject) -> Vec<Finding> {
    let (a, b, noise) = (matrix(task, 3), matrix(task, 4), cubature(task));
    let loss = |a: &Var| expected_loss(&**f, task, a, &b.clone().into(), &noise);
    let tape = gradient(loss, &a);
    let formula = untied_gradient(&**f, task, &a, &b, &noise);
    let direction = random(&a.shape()[..], 5);
    let (from, along) = (Var::from(a), Var::from(direction));
    let slope = derivative_along(|t| loss(&(&from + t * &along)).value().clone(), 0.01);
    let inner = (Var::from(tape.clone()) * &along).sum();
    let compared = |what: &str| format!("∂J/∂A at a random A, {what}, {name}");
    vec![
        Finding::equal("App. A", compared("formula and tape"), &formula, &tape, 1e-13),
        Finding::equal("App. A", compared("tape and differences"), &inner, &slope, 1e-11),
    ]
}

/// Proposition A.1: untied, the gradient at A = 0 is zero for any B.
pub fn proposition_a_1(Subject { name, f, task }: &Subject) -> Vec<Finding> {
    let b = Var::constant(matrix(task, 6));
    let at_zero = |noise: &Quadrature| gradient(|a| expected_loss(&**f, task, a, &b, noise), &task.zero());
    let scale = largest(&at_zero(&draw(task))); // what one draw alone gives, and the mean must cancel
    let rules = [("antithetic pair", pair(task)), ("cubature", cubature(task))];
    let finding = |(rule, noise): (&str, Quadrature)| {
        Finding::vanishes("Prop. A.1", format!("∂J/∂A at 0, {rule}, {name}"), &at_zero(&noise), scale, 1e-14)
    };
    rules.map(finding).to_vec()
}

/// What the same check would have said by random sampling: the largest entry of ∂J/∂A at 0 as a share of what one draw
/// gives, for numbers of draws. Nothing to pass or fail: it shows why expectations here are exact.
pub fn proposition_a_1_by_sampling(draws: usize) -> f64 {
    let Subject { f, task, .. } = perceptron();
    let TaskSizes { tokens, d_e, .. } = task.sizes();
    let noise = Quadrature::monte_carlo(draws, tokens, d_e, sigma(), &mut stream(0, Purpose::Noise, [0x3e1, 0]));
    let b = Var::constant(matrix(&task, 6));
    let at_zero = |noise: &Quadrature| largest(&gradient(|a| expected_loss(&*f, &task, a, &b, noise), &task.zero()));
    at_zero(&noise) / at_zero(&draw(&task))
}

/// Propositions A.2 and 3.1: the gradients of J_tied and J_det at 0 are the same (Eqs. 11 and 12), and not zero here,
/// so that one vanishes if and only if the other does.
pub fn proposition_3_1() -> Vec<Finding> {
    let mut findings = on_all(|subject| {
        let Subject { name, f, task } = subject;
        let compared = format!("0.1 is below the largest entry, {name}");
        let not_zero = Finding::below("Prop. 3.1", compared, 0.1, largest(&gradient_at_zero(&**f, task)));
        [tied_gradient_at_zero(subject), vec![not_zero]].concat()
    });

    // The linear F by hand: Σ 2(p·(ψ_j + m) − y_j) q xᵢᵀ. What is printed in the paper is half of it.
    let subject = linear();
    let (p, q) = coefficients(&subject);
    let Subject { f, task, .. } = subject;
    let TaskSizes { rows, tokens, context, d_p, d_e } = task.sizes();
    let (positions, x, y) = (task.positions().value().to_f64_vec(), task.x.to_f64_vec(), task.y.to_f64_vec());
    let mut by_hand = vec![0.0; d_p * d_e];
    for (r, j) in (0..rows).flat_map(|r| (0..tokens).map(move |j| (r, j))) {
        let error = dot(&p, &positions[j * d_p..][..d_p]) - y[r * tokens + j];
        for i in 0..context {
            let x = &x[(r * context + i) * d_e..][..d_e];
            (0..d_p * d_e).for_each(|at| by_hand[at] += 2.0 * error * q[at / d_e] * x[at % d_e]);
        }
    }
    let found = gradient_at_zero(&*f, &task);
    findings.push(Finding::equal("Eqs. 11, 12", "by hand, linear map", &found, &by_hand, 1e-13));
    findings
}

fn tied_gradient_at_zero(Subject { name, f, task }: &Subject) -> Vec<Finding> {
    let tied = |noise: &Quadrature| gradient(|a| tied_loss(&**f, task, a, noise), &task.zero());
    let det = gradient(|b| deterministic_loss(&**f, task, b), &task.zero());
    let equal = |what: &str, left: &Tensor| Finding::equal("Prop. 3.1", format!("{what}, {name}"), left, &det, 1e-13);
    vec![
        equal("∂J_tied/∂A and ∂J_det/∂B at 0, antithetic pair", &tied(&pair(task))),
        equal("∂J_tied/∂A and ∂J_det/∂B at 0, cubature", &tied(&cubature(task))),
        equal("Eqs. 11, 12 and ∂J_det/∂B at 0", &gradient_at_zero(&**f, task)),
    ]
}

/// The derivative of an expectation with respect to A, two ways: E\[∇f nᵀ\] by reparametrization (Eq. 5), and E\[f ∇
/// log p\], for which no derivative of f is needed. Both are right; the second varies more from draw to draw, so it
/// needs more of them.
pub fn reparametrization() -> Vec<Finding> {
    let (a, psi) = (Tensor::new([2, 2], vec![0.9, -0.3, 0.4, 0.7]), random(&[1, 1, 2], 11));
    let w = Var::constant(random(&[1, 2], 12));
    let f = |position: &Var| ops::gelu(&ops::linear(position, &w, None)).sum();
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
        let s = |i: usize, j: usize| n[i] * n[j] / VARIANCE - f64::from(i == j);
        let entry = |k: usize| (0..2).map(|l| inverse_transposed[k / 2 * 2 + l] * s(l, k % 2)).sum::<f64>();
        Tensor::from_fn([2, 2], DType::F64, |k| value * entry(k))
    };
    let (left, right) = (rule.expect(pathwise), rule.expect(score));
    let spread = |g: &dyn Fn(&Tensor) -> Tensor, mean: &Tensor| {
        rule.expect(|n| Tensor::scalar(g(n).norm().powi(2), DType::F64)).item() - mean.norm().powi(2)
    };
    let (narrow, wide) = (spread(&pathwise, &left), spread(&score, &right));
    vec![
        Finding::equal("Eq. 5, gradient", "reparametrized and score-function", &left, &right, 1e-12),
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
    let sample = stochastic_position(&a.into(), &noise.into(), &origin).reshape([draws, d_p]);
    let k = draws as f64;
    let sums = ops::matmul_tn(&sample, &sample).value().to_f64_vec();
    let z_covariance = |at: usize| {
        let (s_ii, s_jj, s_ij) = (exact[at / d_p * (d_p + 1)], exact[at % d_p * (d_p + 1)], exact[at]);
        (sums[at] / k - s_ij) / ((s_ii * s_jj + s_ij * s_ij) / k).sqrt()
    };
    let means = sample.mean_axis(0).value().to_f64_vec();
    let z_mean = |i: usize| means[i] / (exact[i * (d_p + 1)] / k).sqrt();
    let z_covariance: Vec<f64> = (0..d_p * d_p).map(z_covariance).collect();
    let z_mean: Vec<f64> = (0..d_p).map(z_mean).collect();
    let rank = |d_p: usize, d_e: usize| {
        orthonormal_rows(&covariance(&random(&[d_p, d_e], 14), sigma()).to_f64_vec(), d_p).len() as f64
    };
    let ranks = [rank(4, 8), rank(8, 3)];
    vec![
        Finding::vanishes("Eqs. 3–5", "mean of 2·10⁵ draws, in standard errors", &z_mean, 1.0, 5.0),
        Finding::vanishes("Eqs. 3–5", "covariance of 2·10⁵ draws, in standard errors", &z_covariance, 1.0, 5.0),
        Finding::equal("Eq. 4", "rank of Σ: full with d_e > d_p, d_e below", &ranks, &[4.0, 3.0], 0.0),
    ]
}
