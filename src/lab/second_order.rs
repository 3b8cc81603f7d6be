//! What lies beyond appendix A, put to the test: curvature at A = 0, and where intuition about noise fails.

use std::convert::Infallible;
use std::f64::consts::PI;
use std::ops::Range;

use super::Finding;
use super::finding::largest;
use super::predictors::{
    Subject, VARIANCE, attention_block, coefficients, cubature, linear, matrix, number, on_all, one_number, perceptron,
    random, sigma,
};
use crate::autograd::Var;
use crate::linalg::{dot, symmetric_eigenvalues};
use crate::paper::prop_3_1::{
    RegressionTask, TaskSizes, deterministic_loss, expected_loss, expected_loss_under, gradient, gradient_at_zero,
    tied_loss,
};
use crate::paper::second_order::{
    calibrated_gradient, context_curvature, critical_variance, hessian, kron_identity, position_curvature,
    tikhonov_penalty,
};
use crate::paper::{Quadrature, Sigma};
use crate::tensor::{DType, Tensor};

/// D²J_untied(0) = σM⊗I: without tying, how A = 0 bends depends on M alone.
pub fn curvature_without_tying() -> Vec<Finding> {
    let claim = "curvature, untied";
    let mut findings = on_all(|Subject { name, f, task }| {
        let (b, noise) = (Var::constant(matrix(task, 7)), cubature(task));
        let found = hessian(|a| expected_loss(&**f, task, a, &b, &noise), &task.zero());
        let m = position_curvature(&**f, task, task.context(&b).value());
        let expected = kron_identity(&m, task.sizes().d_e, VARIANCE);
        vec![Finding::equal(claim, format!("D²J(0) and σM⊗I, {name}"), &found, &expected, 1e-11)]
    });

    // By hand: the linear F has ∇₁F = p and ∇₁²F = 0, so M = 2RN_t ppᵀ.
    let subject = linear();
    let (p, _) = coefficients(&subject);
    let Subject { f, task, .. } = subject;
    let m = position_curvature(&*f, &task, task.context(&task.zero().into()).value());
    let terms = (task.sizes().rows * task.sizes().tokens) as f64;
    let by_hand: Vec<f64> = p.iter().flat_map(|x| p.iter().map(move |y| 2.0 * terms * x * y)).collect();
    findings.push(Finding::equal(claim, "M and 2RN_t ppᵀ, linear map", &m, &by_hand, 1e-11));
    findings
}

/// D²J_tied(0) = D²J_det(0) + σM(0)⊗I: tying adds the curvature of the noise to that of the context, and nothing mixed.
pub fn curvature_with_tying(Subject { name, f, task }: &Subject) -> Vec<Finding> {
    let (zero, noise) = (task.zero(), cubature(task));
    let tied = hessian(|a| tied_loss(&**f, task, a, &noise), &zero);
    let mut sum = hessian(|b| deterministic_loss(&**f, task, b), &zero);
    let m = position_curvature(&**f, task, task.context(&zero.into()).value());
    sum.add_assign(&kron_identity(&m, task.sizes().d_e, VARIANCE));
    let compared = format!("D²J_tied(0) and D²J_det(0) + σM⊗I, {name}");
    vec![Finding::equal("curvature, tied", compared, &tied, &sum, 1e-11)]
}

/// With a calibrated F, A = 0 is critical if and only if context and targets are linearly uncorrelated, seen through
/// ∇₂F.
pub fn calibrated() -> Vec<Finding> {
    let test = |Subject { name, f, task }: &Subject| {
        // Targets whose mean over images is what F says without context.
        let mut task = task.clone();
        let zero = task.context(&task.zero().into());
        let y = Var::from(task.y.clone());
        task.y = (&y - y.mean_axis(0) + f(&task.positions(), &zero)).value().clone();
        let found = gradient_at_zero(&**f, &task);
        let covariances = calibrated_gradient(&**f, &task);

        // Features and mirrored features with the same targets: nothing linear is left, and nothing of the gradient.
        let both = |t: &Tensor, sign: f64| Tensor::concat_rows(&[t.clone(), t.scaled(sign)]);
        let uncorrelated = RegressionTask { x: both(&task.x, -1.0), y: both(&task.y, 1.0), ..task };
        let gone = gradient_at_zero(&**f, &uncorrelated);
        let (claim, compared) = ("calibrated F", |what: &str| format!("gradient at 0 {what}, {name}"));
        [
            Finding::equal(claim, compared("and −2Σ∇₂F Cov(y, x)ᵀ"), &found, &covariances, 1e-12),
            Finding::vanishes(claim, compared("without correlation"), &gone, largest(&found), 1e-13),
        ]
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
    let [tied, det] = {
        let a = Var::from(a.clone());
        [tied_loss(&*f, &task, &a, &noise), deterministic_loss(&*f, &task, &a)].map(|loss| loss.item())
    };
    let penalty = tikhonov_penalty(&a, &p, sigma(), task.sizes().rows * task.sizes().tokens);
    let claim = "Tikhonov";
    let compared = "J_tied and J_det + Nσ|Aᵀp|² at a random A, linear map";
    let mut findings = vec![
        Finding::equal(claim, compared, &tied, &(det + penalty), 1e-13),
        Finding::below(claim, "the penalty is more than a hundredth of J", 0.01 * tied, penalty),
    ];

    // One context token, one number a feature, F = u + v: ridge regression in one dimension, A* = Σxy / (Σx² + Nσ).
    let [x, y] = [9, 10].map(|seed| random(&[20, 1, 1], seed).to_f64_vec());
    let (xy, xx, ridge) = (dot(&x, &y), dot(&x, &x), one_number(0.0, &x, &y));
    let best = |variance: f64| xy / (xx + 20.0 * variance);
    let slope = |a: f64, variance: f64| {
        let noise = Quadrature::cubature(1, 1, Sigma::from_variance(variance));
        gradient(|a| tied_loss(&|u: &Var, v: &Var| u + v, &ridge, a, &noise), &number(a)).item()
    };
    for variance in [0.1, 1.0, 10.0] {
        let compared = format!("gradient of J_tied at the ridge solution, σ = {variance}");
        findings.push(Finding::vanishes(claim, compared, &slope(best(variance), variance), xy.abs(), 1e-13));
    }
    findings.push(Finding::equal(claim, "σA* for σ → ∞ and Σxy/N", &(1e8 * best(1e8)), &(xy / 20.0), 1e-7));
    let power = |variance: f64| variance * best(variance).powi(2);
    let peak = xx / 20.0; // where d/dσ of σ/(Σx² + Nσ)² is zero
    for (what, variance) in [("smaller", 0.1 * peak), ("larger", 10.0 * peak)] {
        let compared = format!("σ|A*|² is less at a {what} σ than at its peak");
        findings.push(Finding::below(claim, compared, power(variance), power(peak)));
    }
    findings
}

/// Noise on context and masked tokens: the gradient at 0 is that of J_det still, and the curvature gains σ∇²_vG⊗I.
pub fn noise_on_the_context_too() -> Vec<Finding> {
    let test = |Subject { name, f, task }: &Subject| {
        let TaskSizes { tokens, context, d_e, .. } = task.sizes();
        // One cubature rule over masked tokens and context together: they are independent.
        let joint = Quadrature::cubature(tokens + context, d_e, sigma());
        let all = Var::constant(joint.noise.clone());
        let part = |at: Range<usize>| all.slice(1, at.clone()).reshape([joint.weights.elements(), 1, at.len(), d_e]);
        let (n, on_context) = (part(0..tokens), part(tokens..tokens + context));
        let loss = |a: &Var| expected_loss_under(&**f, task, (a, &n), a, Some(&on_context), &joint.weights);
        let zero = task.zero();
        let det = gradient(|b| deterministic_loss(&**f, task, b), &zero);
        let mut sum = hessian(|a| tied_loss(&**f, task, a, &cubature(task)), &zero);
        sum.add_assign(&kron_identity(&context_curvature(&**f, task), d_e, VARIANCE));
        let (claim, compared) = ("noise on both", |what: &str| format!("{what}, {name}"));
        [
            Finding::equal(claim, compared("gradients at 0"), &gradient(loss, &zero), &det, 1e-13),
            Finding::equal(claim, compared("D²J(0) and D²J_tied(0) + σ∇²_vG⊗I"), &hessian(loss, &zero), &sum, 1e-11),
        ]
    };
    [linear(), perceptron(), attention_block()].iter().flat_map(test).collect()
}

/// Noise scaled by the context, n → h(x)n: the gradient at 0 is that of J_det still.
pub fn noise_scaled_by_the_context(Subject { name, f, task }: &Subject) -> Vec<Finding> {
    let TaskSizes { rows, tokens, d_e, .. } = task.sizes();
    let scales: Vec<f64> = (0..rows).map(|r| 0.5 + task.x.rows(r..r + 1).norm()).collect();
    let rule = cubature(task);
    let h = Var::constant(Tensor::new([1, rows, 1, 1], scales));
    let n = Var::from(rule.noise.reshape([rule.weights.elements(), 1, tokens, d_e])) * h;
    let loss = |a: &Var| expected_loss_under(&**f, task, (a, &n), a, None, &rule.weights);
    let (zero, compared) = (task.zero(), format!("gradients at 0, {name}"));
    let det = gradient(|b| deterministic_loss(&**f, task, b), &zero);
    vec![Finding::equal("noise scaled by x", compared, &gradient(loss, &zero), &det, 1e-13)]
}

/// Adding noise does not always hurt: F = u², ψ = 0, y = 1, σ = 1 has J(A) = 3A⁴ − 2A² + 1, least at A² = 1/3, not at
/// 0.
pub fn noise_can_help() -> Vec<Finding> {
    let task = one_number(0.0, &[0.0], &[1.0]);
    let square = |u: &Var, _: &Var| u * u;
    let noise = Quadrature::gauss_hermite(6, 1, Sigma::from_variance(1.0));
    let j = |a: f64| expected_loss(&square, &task, &number(a).into(), &number(0.0).into(), &noise).item();
    let points = [0.0, 0.3, -0.7, 1.2];
    let exact = points.map(|a: f64| 3.0 * a.powi(4) - 2.0 * a * a + 1.0);
    let claim = "noise can help";
    vec![
        Finding::equal(claim, "J(A) and 3A⁴ − 2A² + 1", &points.map(j), &exact, 1e-13),
        Finding::below(claim, "J at A² = 1/3 is below J(0)", j((1f64 / 3.0).sqrt()), j(0.0)),
    ]
}

/// In an attention network, too: with targets that it does not fit, A = 0 untied is a saddle, and noise in some
/// direction lowers the loss. With targets that it fits, M is Σ2∇₁F∇₁Fᵀ and no direction is left in which it does.
pub fn a_saddle_until_fitted() -> Vec<Finding> {
    let Subject { f, task, .. } = attention_block();
    let v = task.context(&matrix(&task, 28).into());
    let fitted = RegressionTask { y: f(&task.positions(), &v).value().clone(), ..task.clone() };
    // The largest and the smallest eigenvalue of M.
    let ends = |task: RegressionTask| {
        let m = position_curvature(&*f, &task, v.value());
        let Ok(values) = symmetric_eigenvalues(m.to_f64_vec(), m.shape()[0], || Ok::<_, Infallible>(()));
        [values[0], values[values.len() - 1]]
    };
    let ([high, low], [most, least]) = (ends(task), ends(fitted));
    let claim = "a saddle until fitted";
    vec![
        Finding::below(claim, "smallest eigenvalue of M, random targets", low, -1e-3 * high),
        Finding::below(claim, "0 and the largest, random targets", 0.0, high),
        Finding::vanishes(claim, "negative part of the smallest eigenvalue, fitted", &least.min(0.0), most, 1e-10),
    ]
}

/// A.1 needs a differentiable F: with F = |u|, ψ = 0 and y = −½, A = 0 is a strict minimum with slopes ±√(2/π) of J on
/// its two sides (σ = 1).
pub fn a_kink() -> Vec<Finding> {
    let task = one_number(0.0, &[0.0], &[-0.5]);
    let modulus = |u: &Var, _: &Var| u.abs();
    // The same numbers as the Gaussian's |n|: its mean √(2/π) and second moment 1, in two draws and their mirrors.
    let (mean, spread) = ((2.0 / PI).sqrt(), (1.0 - 2.0 / PI).sqrt());
    let draws = vec![mean + spread, mean - spread, -mean - spread, -mean + spread];
    let noise = Quadrature { noise: Tensor::new([4, 1, 1], draws), weights: Tensor::full([4], 0.25, DType::F64) };
    let j = |a: f64| expected_loss(&modulus, &task, &number(a).into(), &number(0.0).into(), &noise).item();
    let h = 1e-6;
    let slopes = [(j(h) - j(0.0)) / h, (j(0.0) - j(-h)) / h];
    vec![Finding::equal("a kink in F", "one-sided slopes of J at A = 0 and ±√(2/π)", &slopes, &[mean, -mean], 2e-6)]
}

/// A context that is useful and a minimum at A = 0 all the same: F = au + v², y = aψ + x². J_det is least at B = ±1,
/// but from σ* = 2E\[x⁴\]/a² on the tied minimum is A = 0; below, it is at √(1 − σ/σ*).
pub fn minimum_at_zero() -> Vec<Finding> {
    let (slope, xs) = (1.3, [0.4, -1.1, 0.7, 1.9]);
    let task = one_number(0.6, &xs, &xs.map(|x: f64| slope * 0.6 + x * x));
    let f = |u: &Var, v: &Var| slope * u + v * v;
    let exact = 2.0 * xs.iter().map(|x| x.powi(4)).sum::<f64>() / 4.0 / (slope * slope);
    let zero = task.zero();
    let det = hessian(|b| deterministic_loss(&f, &task, b), &zero);
    let m = position_curvature(&f, &task, task.context(&zero.clone().into()).value());
    let found = critical_variance(&det, &m).unwrap_or(f64::NAN);
    let claim = "minimum at A = 0";
    let least = [1.0, -1.0].map(|b| 1.0 + deterministic_loss(&f, &task, &number(b).into()).item());
    let mut findings = vec![
        Finding::equal(claim, "critical σ and 2E[x⁴]/a²", &found, &exact, 1e-9),
        Finding::equal(claim, "J_det at B = ±1, and 0", &least, &[1.0, 1.0], 1e-14),
    ];
    let noise = |share: f64| Quadrature::gauss_hermite(8, 1, Sigma::from_variance(share * exact));
    for share in [0.2, 0.9] {
        let (noise, best) = (noise(share), (1.0 - share).sqrt());
        let at = |a: f64| gradient(|a| tied_loss(&f, &task, a, &noise), &number(a)).item();
        let compared = format!("∂J_tied/∂A at √(1 − σ/σ*), σ = {share} σ*");
        findings.push(Finding::vanishes(claim, compared, &at(best), at(2.0 * best).abs(), 1e-13));
    }
    let noise = noise(1.1);
    let j = |a: f64| tied_loss(&f, &task, &number(a).into(), &noise).item();
    for a in [0.05, 0.5, 1.0] {
        findings.push(Finding::below(claim, format!("beyond σ*, J_tied(0) is below J_tied({a})"), j(0.0), j(a)));
    }
    findings
}
