//! Appendix A and what lies beyond it, put to the test: one function for each statement.

use super::Finding;
use super::predictors::{Subject, attention_block, linear, perceptron, subjects, vit_predictor};
use crate::autograd::{Var, derivative_along, ops};
use crate::eval::eigen::symmetric_eigenvalues;
use crate::paper::escapes::{gauge_escape, rescaling_escape, subspace_escape};
use crate::paper::factor::orthonormal_rows;
use crate::paper::prop_3_1::{
    RegressionTask, deterministic_loss, expected_loss, expected_loss_under, gradient, gradient_at_zero, squared_error,
    tied_loss, untied_gradient,
};
use crate::paper::second_order::{
    calibrated_gradient, context_curvature, critical_variance, hessian, kron_identity, position_curvature,
    tikhonov_penalty,
};
use crate::paper::{Quadrature, Sigma, context_token, covariance, stochastic_position};
use crate::rng::{Purpose, stream};
use crate::tensor::{DType, Tensor};
use crate::vit::sincos::positions;

/// σ of these tests: the paper's 0.25, taken as a variance.
const VARIANCE: f64 = 0.25;

fn sigma() -> Sigma {
    Sigma::from_variance(VARIANCE)
}

fn random(shape: &[usize], seed: u64) -> Tensor {
    Tensor::normal(shape, 1.0, DType::F64, &mut stream(seed, Purpose::Eval, [0x3e1, 0]))
}

fn number(x: f64) -> Tensor {
    Tensor::new([1, 1], vec![x])
}

/// 2d points that have the Gaussian's first three moments, for all masked tokens of a task at once.
fn cubature(task: &RegressionTask) -> Quadrature {
    let ([tokens, _], [.., d_e]) = (task.psi.dims("psi"), task.x.dims::<3>("x"));
    Quadrature::cubature(tokens, d_e, sigma())
}

/// One draw of the noise, and its mirror image.
fn pair(task: &RegressionTask) -> Quadrature {
    let ([tokens, _], [_, _, d_e]) = (task.psi.dims("psi"), task.x.dims("x"));
    Quadrature::antithetic(&random(&[tokens, d_e], 1).scaled(VARIANCE.sqrt()))
}

/// Half of a pair: one draw alone, whose gradients are what the pair has to cancel.
fn draw(task: &RegressionTask) -> Quadrature {
    let pair = pair(task);
    Quadrature { noise: pair.noise.rows(0..1), weights: Tensor::full([1], 1.0, DType::F64) }
}

fn largest(x: &Tensor) -> f64 {
    x.to_f64_vec().iter().fold(0.0, |m, x| m.max(x.abs()))
}

/// p and q of the linear F = p·u_j + Σᵢ q·vᵢ, read off F itself.
fn coefficients(Subject { f, task, .. }: &Subject) -> (Vec<f64>, Vec<f64>) {
    let ([_, context, _], [_, d_p]) = (task.x.dims("x"), task.psi.dims("psi"));
    let unit = |tokens: usize, at: Option<usize>| {
        let entry = |i| if Some(i) == at { 1.0 } else { 0.0 };
        Var::constant(Tensor::from_fn([1, tokens, d_p], DType::F64, entry))
    };
    let p = (0..d_p).map(|k| f(&unit(1, Some(k)), &unit(context, None)).item()).collect();
    let q = (0..d_p).map(|k| f(&unit(1, None), &unit(context, Some(k))).item()).collect();
    (p, q)
}

fn matrix(task: &RegressionTask, seed: u64) -> Tensor {
    random(&task.zero().shape()[..], seed).scaled(0.3)
}

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

/// D²J_untied(0) = σM⊗I: without tying, how A = 0 bends depends on M alone.
pub fn curvature_without_tying() -> Vec<Finding> {
    let test = |s: &Subject| {
        let (b, d_e) = (Var::constant(matrix(&s.task, 7)), s.task.x.last_dim());
        let noise = cubature(&s.task);
        let found = hessian(|a| expected_loss(&*s.f, &s.task, a, &b, &noise), &s.task.zero());
        let m = position_curvature(&*s.f, &s.task, s.task.context(&b).value());
        let compared = format!("D²J(0) and σM⊗I, {}", s.name);
        Finding::equal_tensors("curvature, untied", &compared, &found, &kron_identity(&m, d_e, VARIANCE), 1e-11)
    };
    let mut findings: Vec<Finding> = subjects().iter().map(test).collect();

    // By hand: the linear F has ∇₁F = p and ∇₁²F = 0, so M = 2RN_t ppᵀ.
    let subject = linear();
    let (p, _) = coefficients(&subject);
    let Subject { f, task, .. } = subject;
    let m = position_curvature(&*f, &task, task.context(&task.zero().into()).value());
    let terms = (task.x.shape()[0] * task.psi.shape()[0]) as f64;
    let by_hand: Vec<f64> = p.iter().flat_map(|x| p.iter().map(move |y| 2.0 * terms * x * y)).collect();
    findings.push(Finding::equal("curvature, untied", "M and 2RN_t ppᵀ, linear map", &m.to_f64_vec(), &by_hand, 1e-11));
    findings
}

/// D²J_tied(0) = D²J_det(0) + σM(0)⊗I: tying adds the curvature of the noise to that of the context, and nothing mixed.
pub fn curvature_with_tying() -> Vec<Finding> {
    let test = |s: &Subject| {
        let (zero, d_e, noise) = (s.task.zero(), s.task.x.last_dim(), cubature(&s.task));
        let tied = hessian(|a| tied_loss(&*s.f, &s.task, a, &noise), &zero);
        let mut sum = hessian(|b| deterministic_loss(&*s.f, &s.task, b), &zero);
        let m = position_curvature(&*s.f, &s.task, s.task.context(&zero.into()).value());
        sum.add_assign(&kron_identity(&m, d_e, VARIANCE));
        let compared = format!("D²J_tied(0) and D²J_det(0) + σM⊗I, {}", s.name);
        Finding::equal_tensors("curvature, tied", &compared, &tied, &sum, 1e-11)
    };
    subjects().iter().map(test).collect()
}

/// With a calibrated F, A = 0 is critical if and only if context and targets are linearly uncorrelated, seen through
/// ∇₂F.
pub fn calibrated() -> Vec<Finding> {
    let test = |s: &Subject| {
        // Targets whose mean over images is what F says without context.
        let mut task = s.task.clone();
        let zero = task.context(&task.zero().into());
        let predicted = (s.f)(&task.positions(), &zero).value().to_f64_vec();
        let size = task.y.elements() / task.y.shape()[0];
        let rows = task.y.shape()[0];
        let y = task.y.to_f64_vec();
        let mean = |k: usize| (0..rows).map(|r| y[r * size + k]).sum::<f64>() / rows as f64;
        task.y = Tensor::from_fn(*task.y.shape(), DType::F64, |i| y[i] - mean(i % size) + predicted[i % size]);
        let found = gradient_at_zero(&*s.f, &task);
        let covariances = calibrated_gradient(&*s.f, &task);
        let compared = format!("gradient at 0 and −2Σ∇₂F Cov(y, x)ᵀ, {}", s.name);
        let equal = Finding::equal_tensors("calibrated F", &compared, &found, &covariances, 1e-12);

        // Features and mirrored features with the same targets: nothing linear is left, and nothing of the gradient.
        let both = |t: &Tensor, sign: f64| Tensor::concat_rows(&[t.clone(), t.scaled(sign)]);
        let uncorrelated = RegressionTask { x: both(&task.x, -1.0), y: both(&task.y, 1.0), ..task };
        let gone = gradient_at_zero(&*s.f, &uncorrelated);
        let compared = format!("gradient at 0 without correlation, {}", s.name);
        [equal, Finding::vanishes("calibrated F", &compared, &gone.to_f64_vec(), largest(&found), 1e-13)]
    };
    [linear(), perceptron(), attention_block()].iter().flat_map(test).collect()
}

/// A linear F: J_tied = J_det + Nσ|Aᵀp|², whatever A is. With p = q it is ridge regression: the best A shrinks as 1/σ,
/// and the noise that it lets through, σ|Aᵀp|², is largest in between.
pub fn tikhonov() -> Vec<Finding> {
    let subject = linear();
    let (p, _) = coefficients(&subject);
    let Subject { f, task, .. } = subject;
    let (a, noise, p) = (matrix(&task, 8), cubature(&task), Tensor::new([p.len()], p));
    let (rows, tokens) = (task.x.shape()[0], task.psi.shape()[0]);
    let tied = tied_loss(&*f, &task, &a.clone().into(), &noise).item();
    let det = deterministic_loss(&*f, &task, &a.clone().into()).item();
    let penalty = tikhonov_penalty(&a, &p, sigma(), rows * tokens);
    let statement = "Tikhonov";
    let compared = "J_tied and J_det + Nσ|Aᵀp|² at a random A, linear map";
    let mut findings = vec![
        Finding::equal(statement, compared, &[tied], &[det + penalty], 1e-13),
        Finding::below(statement, "the penalty is more than a hundredth of J", 0.01 * tied, penalty),
    ];

    // One context token, one number a feature, F = u + v: ridge regression in one dimension, A* = Σxy / (Σx² + Nσ).
    let (x, y) = (random(&[20, 1, 1], 9), random(&[20, 1, 1], 10));
    let dot = |a: &Tensor, b: &Tensor| a.to_f64_vec().iter().zip(b.to_f64_vec()).map(|(a, b)| a * b).sum::<f64>();
    let (xy, xx) = (dot(&x, &y), dot(&x, &x));
    let ridge = RegressionTask { psi: number(0.0), m: Tensor::zeros([1], DType::F64), x, y };
    let best = |variance: f64| xy / (xx + 20.0 * variance);
    let slope = |a: f64, variance: f64| {
        let noise = Quadrature::cubature(1, 1, Sigma::from_variance(variance));
        gradient(|a| tied_loss(&ops::add, &ridge, a, &noise), &number(a)).item()
    };
    for variance in [0.1, 1.0, 10.0] {
        let compared = format!("gradient of J_tied at the ridge solution, σ = {variance}");
        findings.push(Finding::vanishes(statement, &compared, &[slope(best(variance), variance)], xy.abs(), 1e-13));
    }
    let (far, limit) = (1e8 * best(1e8), xy / 20.0);
    findings.push(Finding::equal(statement, "σA* for σ → ∞ and Σxy/N", &[far], &[limit], 1e-7));
    let power = |variance: f64| variance * best(variance).powi(2);
    let peak = xx / 20.0; // where d/dσ of σ/(Σx² + Nσ)² is zero
    for (what, variance) in [("smaller", 0.1 * peak), ("larger", 10.0 * peak)] {
        let compared = format!("σ|A*|² is less at a {what} σ than at its peak");
        findings.push(Finding::below(statement, &compared, power(variance), power(peak)));
    }
    findings
}

/// Noise on context and masked tokens: the gradient at 0 is that of J_det still, and the curvature gains σ∇²_vG⊗I.
pub fn noise_on_the_context_too() -> Vec<Finding> {
    let test = |s: &Subject| {
        let ([_, context, d_e], [tokens, _]) = (s.task.x.dims("x"), s.task.psi.dims("psi"));
        // One cubature rule over masked tokens and context together: they are independent.
        let joint = Quadrature::cubature(tokens + context, d_e, sigma());
        let draws = joint.weights.elements();
        let all = Var::constant(joint.noise.clone());
        let part = |start, len| ops::reshape(&ops::slice_tokens(&all, start, len), [draws, 1, len, d_e]);
        let (n, on_context) = (part(0, tokens), part(tokens, context));
        let loss = |a: &Var| expected_loss_under(&*s.f, &s.task, (a, &n), a, Some(&on_context), &joint.weights);
        let zero = s.task.zero();
        let det = gradient(|b| deterministic_loss(&*s.f, &s.task, b), &zero);
        let mut sum = hessian(|a| tied_loss(&*s.f, &s.task, a, &cubature(&s.task)), &zero);
        sum.add_assign(&kron_identity(&context_curvature(&*s.f, &s.task), d_e, VARIANCE));
        let compared = |what: &str| format!("{what}, {}", s.name);
        [
            Finding::equal_tensors("noise on both", &compared("gradients at 0"), &gradient(loss, &zero), &det, 1e-13),
            Finding::equal_tensors(
                "noise on both",
                &compared("D²J(0) and D²J_tied(0) + σ∇²_vG⊗I"),
                &hessian(loss, &zero),
                &sum,
                1e-11,
            ),
        ]
    };
    [linear(), perceptron(), attention_block()].iter().flat_map(test).collect()
}

/// Noise scaled by the context, n → h(x)n: the gradient at 0 is that of J_det still.
pub fn noise_scaled_by_the_context() -> Vec<Finding> {
    let test = |s: &Subject| {
        let ([rows, _, d_e], [tokens, _]) = (s.task.x.dims("x"), s.task.psi.dims("psi"));
        let scales: Vec<f64> = (0..rows).map(|r| 0.5 + s.task.x.rows(r..r + 1).norm()).collect();
        let rule = cubature(&s.task);
        let draws = rule.weights.elements();
        let h = Var::constant(Tensor::new([1, rows, 1, 1], scales));
        let n = ops::mul(&Var::constant(rule.noise.reshape([draws, 1, tokens, d_e])), &h);
        let loss = |a: &Var| expected_loss_under(&*s.f, &s.task, (a, &n), a, None, &rule.weights);
        let zero = s.task.zero();
        let det = gradient(|b| deterministic_loss(&*s.f, &s.task, b), &zero);
        let compared = format!("gradients at 0, {}", s.name);
        Finding::equal_tensors("noise scaled by x", &compared, &gradient(loss, &zero), &det, 1e-13)
    };
    subjects().iter().map(test).collect()
}

/// The derivative of an expectation with respect to A, two ways: E\[∇f nᵀ\] by reparametrisation (Eq. 5), and E\[f ∇
/// log p\], for which no derivative of f is needed. Both are right; the second varies more from draw to draw, so it
/// needs more of them.
pub fn reparametrisation() -> Vec<Finding> {
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
        Finding::equal_tensors("Eq. 5, gradient", "reparametrised and score-function", &left, &right, 1e-12),
        Finding::below("Eq. 5, gradient", "variance: reparametrised below a third of the other", 3.0 * narrow, wide),
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
    let rank = |d_p: usize, d_e: usize| orthonormal_rows(&covariance(&random(&[d_p, d_e], 14), sigma())).len() as f64;
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

/// Adding noise does not always hurt: F = u², ψ = 0, y = 1, σ = 1 has J(A) = 3A⁴ − 2A² + 1, least at A² = 1/3, not at
/// 0.
pub fn noise_can_help() -> Vec<Finding> {
    let task = one_number(0.0, &[0.0], &[1.0]);
    let square = |u: &Var, _: &Var| ops::mul(u, u);
    let noise = Quadrature::gauss_hermite(6, 1, Sigma::from_variance(1.0));
    let j = |a: f64| expected_loss(&square, &task, &number(a).into(), &number(0.0).into(), &noise).item();
    let points = [0.0, 0.3, -0.7, 1.2];
    let (found, exact): (Vec<f64>, Vec<f64>) =
        points.iter().map(|&a| (j(a), 3.0 * a.powi(4) - 2.0 * a * a + 1.0)).unzip();
    let statement = "noise can help";
    vec![
        Finding::equal(statement, "J(A) and 3A⁴ − 2A² + 1", &found, &exact, 1e-13),
        Finding::below(statement, "J at A² = 1/3 is below J(0)", j((1f64 / 3.0).sqrt()), j(0.0)),
    ]
}

/// In an attention network, too: with targets that it does not fit, A = 0 untied is a saddle, and noise in some
/// direction lowers the loss. With targets that it fits, M is Σ2∇₁F∇₁Fᵀ and no direction is left in which it does.
pub fn a_saddle_until_fitted() -> Vec<Finding> {
    let Subject { f, task, .. } = attention_block();
    let v = task.context(&matrix(&task, 28).into());
    let fitted = RegressionTask { y: f(&task.positions(), &v).value().clone(), ..task.clone() };
    let [unfitted, fitted] = [task, fitted].map(|task| {
        let m = position_curvature(&*f, &task, v.value());
        symmetric_eigenvalues(m.to_f64_vec(), m.shape()[0])
    });
    let ends = |values: &[f64]| (values[0], values[values.len() - 1]);
    let ((high, low), (most, least)) = (ends(&unfitted), ends(&fitted));
    let statement = "a saddle until fitted";
    vec![
        Finding::below(statement, "smallest eigenvalue of M, random targets", low, -1e-3 * high),
        Finding::below(statement, "0 and the largest, random targets", 0.0, high),
        Finding::vanishes(
            statement,
            "negative part of the smallest eigenvalue, fitted",
            &[least.min(0.0)],
            most,
            1e-10,
        ),
    ]
}

/// A.1 needs a differentiable F: with F = |u|, ψ = 0 and y = −½, A = 0 is a strict minimum with slopes ±√(2/π) of J on
/// its two sides (σ = 1).
pub fn a_kink() -> Vec<Finding> {
    let task = one_number(0.0, &[0.0], &[-0.5]);
    let modulus = |u: &Var, _: &Var| {
        let signs = u.value().to_f64_vec();
        let signs = Tensor::from_fn(*u.shape(), DType::F64, |i| signs[i].signum());
        ops::mul(u, &signs.into())
    };
    // The same numbers as the Gaussian's |n|: its mean √(2/π) and second moment 1, in two draws and their mirrors.
    let (mean, spread) = ((2.0 / std::f64::consts::PI).sqrt(), (1.0 - 2.0 / std::f64::consts::PI).sqrt());
    let draws = [mean + spread, mean - spread, -mean - spread, -mean + spread];
    let noise =
        Quadrature { noise: Tensor::new([4, 1, 1], draws.to_vec()), weights: Tensor::full([4], 0.25, DType::F64) };
    let j = |a: f64| expected_loss(&modulus, &task, &number(a).into(), &number(0.0).into(), &noise).item();
    let h = 1e-6;
    let slopes = [(j(h) - j(0.0)) / h, (j(0.0) - j(-h)) / h];
    let slope = (2.0 / std::f64::consts::PI).sqrt();
    vec![Finding::equal("a kink in F", "one-sided slopes of J at A = 0 and ±√(2/π)", &slopes, &[slope, -slope], 2e-6)]
}

/// A context that is useful and a minimum at A = 0 all the same: F = au + v², y = aψ + x². J_det is least at B = ±1,
/// but from σ* = 2E\[x⁴\]/a² on the tied minimum is A = 0; below, it is at √(1 − σ/σ*).
pub fn minimum_at_zero() -> Vec<Finding> {
    let (slope, xs) = (1.3, [0.4, -1.1, 0.7, 1.9]);
    let ys: Vec<f64> = xs.iter().map(|x| slope * 0.6 + x * x).collect();
    let task = one_number(0.6, &xs, &ys);
    let f = |u: &Var, v: &Var| ops::add(&ops::scale(u, slope), &ops::mul(v, v));
    let exact = 2.0 * xs.iter().map(|x| x.powi(4)).sum::<f64>() / 4.0 / (slope * slope);
    let zero = task.zero();
    let det = hessian(|b| deterministic_loss(&f, &task, b), &zero);
    let m = position_curvature(&f, &task, task.context(&zero.clone().into()).value());
    let found = critical_variance(&det, &m).unwrap_or(f64::NAN);
    let statement = "minimum at A = 0";
    let mut findings = vec![
        Finding::equal(statement, "critical σ and 2E[x⁴]/a²", &[found], &[exact], 1e-9),
        Finding::equal(
            statement,
            "J_det at B = ±1, and 0",
            &[1.0, -1.0].map(|b| 1.0 + deterministic_loss(&f, &task, &number(b).into()).item()),
            &[1.0, 1.0],
            1e-14,
        ),
    ];
    for share in [0.2, 0.9] {
        let noise = Quadrature::gauss_hermite(8, 1, Sigma::from_variance(share * exact));
        let best = (1.0 - share).sqrt();
        let at = |a: f64| gradient(|a| tied_loss(&f, &task, a, &noise), &number(a)).item();
        let compared = format!("∂J_tied/∂A at √(1 − σ/σ*), σ = {share} σ*");
        findings.push(Finding::vanishes(statement, &compared, &[at(best)], at(2.0 * best).abs(), 1e-13));
    }
    let noise = Quadrature::gauss_hermite(8, 1, Sigma::from_variance(1.1 * exact));
    let j = |a: f64| tied_loss(&f, &task, &number(a).into(), &noise).item();
    for a in [0.05, 0.5, 1.0] {
        findings.push(Finding::below(statement, &format!("beyond σ*, J_tied(0) is below J_tied({a})"), j(0.0), j(a)));
    }
    findings
}

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
        (context_token(&psi, &a, &s_x, None).value().clone(), stochastic_position(&a, &n, &silent).value().clone())
    };
    let [a_c, gamma_c, beta_c] = gauge_escape(&a, &gamma, &beta, c);
    let (before, after) = (tokens(&a, &gamma, &beta), tokens(&a_c, &gamma_c, &beta_c));
    let statement = "gauge escape";
    vec![
        Finding::equal_tensors(statement, "context tokens before and after", &before.0, &after.0, 1e-14),
        Finding::equal_tensors(statement, "noise before, and c times after", &before.1, &after.1.scaled(c), 1e-14),
        Finding::equal(
            statement,
            "|A||γ| before and after",
            &[a.norm() * gamma.norm()],
            &[a_c.norm() * gamma_c.norm()],
            1e-14,
        ),
    ]
}

/// (A/c, F with its context amplified by c): J_tied − J_det falls as 1/c².
pub fn rescaling() -> Vec<Finding> {
    let test = |s: &Subject| {
        let (a, noise) = (matrix(&s.task, 21), cubature(&s.task));
        let det = deterministic_loss(&*s.f, &s.task, &a.clone().into()).item();
        let excess = |c: f64| {
            let f = rescaling_escape(&*s.f, c);
            c * c * (tied_loss(&f, &s.task, &a.scaled(1.0 / c).into(), &noise).item() - det)
        };
        // c²(J_tied − J_det) → ½σ tr(AᵀMA), M at the context that F sees; the rest is of order 1/c².
        let m = position_curvature(&*s.f, &s.task, s.task.context(&a.clone().into()).value());
        let ama = ops::mul(&ops::matmul(&m.into(), &a.clone().into()), &a.clone().into());
        let limit = 0.5 * VARIANCE * ops::sum(&ama).item();
        let compared = format!("c²(J_tied − J_det) at c = 1000 and ½σ tr(AᵀMA), {}", s.name);
        Finding::equal("rescaling escape", &compared, &[excess(1000.0)], &[limit], 1e-5)
    };
    subjects().iter().map(test).collect()
}

/// A outside the span of ψ: however large the noise, the projection on that span gives every position back.
pub fn subspace() -> Vec<Finding> {
    let test = |(d_p, grid, rank): (usize, usize, usize)| {
        let psi = Tensor::new([grid * grid, d_p], positions(d_p, grid, grid));
        let basis = orthonormal_rows(&psi);
        let (a, n) = (random(&[d_p, 12], 22).scaled(1e3), random(&[1, grid * grid, 12], 23));
        let hidden = subspace_escape(&a, &psi);
        let psi = Var::constant(psi.reshape([1, grid * grid, d_p]));
        let q = Var::constant(Tensor::new([basis.len(), d_p], basis.concat()));
        let seen = |x: &Var| ops::linear(x, &q, None).value().clone();
        let drawn = stochastic_position(&hidden.clone().into(), &n.into(), &psi);
        let size = format!("{grid} × {grid} grid, d_p = {d_p}");
        [
            Finding::equal(
                "subspace escape",
                &format!("rank of ψ, {size}"),
                &[basis.len() as f64],
                &[rank as f64],
                0.0,
            ),
            Finding::vanishes(
                "subspace escape",
                &format!("the noise, projected on span ψ, {size}"),
                &ops::add(&seen(&drawn).into(), &seen(&psi).scaled(-1.0).into()).value().to_f64_vec(),
                hidden.norm(),
                1e-14,
            ),
            Finding::below("subspace escape", &format!("half of |A| is left, {size}"), 0.5 * a.norm(), hidden.norm()),
        ]
    };
    [(384, 14, 27), (96, 8, 15)].into_iter().flat_map(test).collect()
}

/// A pre-LN predictor does not see 1wᵀ in A: its layer norms remove the mean of every token.
pub fn null_direction() -> Vec<Finding> {
    let Subject { f, task, .. } = vit_predictor();
    let (a, w) = (matrix(&task, 24), random(&[1, task.x.last_dim()], 25));
    let mut shifted = a.clone();
    let ones = Tensor::full([task.psi.shape()[1], 1], 1.0, DType::F64);
    shifted.add_assign(ops::matmul(&ones.into(), &w.clone().into()).value());
    let noise = draw(&task);
    let predictions = |a: &Tensor| {
        let a = Var::constant(a.clone());
        let u = stochastic_position(&a, &noise.noise.clone().into(), &task.positions());
        f(&u, &task.context(&a)).value().clone()
    };
    let (before, after, elsewhere) = (predictions(&a), predictions(&shifted), predictions(&a.scaled(1.5)));
    vec![
        Finding::equal_tensors(
            "null direction",
            "predictions with A and A + 1wᵀ, ViT predictor",
            &before,
            &after,
            1e-13,
        ),
        Finding::below(
            "null direction",
            "a change of A that is visible changes them a million times more",
            1e6 * before.max_abs_diff(&after),
            before.max_abs_diff(&elsewhere),
        ),
    ]
}

/// Exact and noisy-free squared error agree with J without noise: Eq. (8) with the rule that draws nothing is Eq. (10).
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

/// One position, one context token, one number each.
fn one_number(psi: f64, x: &[f64], y: &[f64]) -> RegressionTask {
    RegressionTask {
        psi: number(psi),
        m: Tensor::zeros([1], DType::F64),
        x: Tensor::new([x.len(), 1, 1], x.to_vec()),
        y: Tensor::new([y.len(), 1, 1], y.to_vec()),
    }
}
