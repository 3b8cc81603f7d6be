//! Every equation of the paper that training uses, against its definition.

use approx::assert_abs_diff_eq;
use rand::RngExt;
use stop_mim::autograd::check::check_gradient;
use stop_mim::autograd::{Tape, Var, ops};
use stop_mim::paper::{
    Loss, PositionDistribution, Quadrature, Sigma, context_token, covariance, expected_noise_power, masked_loss,
    masked_token, sample_noise, stochastic_position, tied_tokens,
};
use stop_mim::rng::{Purpose, stream};
use stop_mim::{DType, Tensor};

const ROWS: usize = 2;
const TOKENS: usize = 3;
const D_E: usize = 5;
const D_P: usize = 4;

fn random(shape: &[usize], seed: u64) -> Tensor {
    let mut rng = stream(seed, Purpose::Eval, [9, 9]);
    Tensor::from_fn(shape, DType::F64, |_| rng.random_range(-1.0..1.0))
}

fn var(shape: &[usize], seed: u64) -> Var {
    random(shape, seed).into()
}

/// (W x)ₚ for one token, in a plain loop.
fn product(w: &Tensor, x: &[f64]) -> Vec<f64> {
    w.to_f64_vec().chunks(x.len()).map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum()).collect()
}

fn assert_close(x: &Var, exact: &[f64], tolerance: f64) {
    let x = x.value().to_f64_vec();
    assert_eq!(x.len(), exact.len());
    for (x, y) in x.iter().zip(exact) {
        assert_abs_diff_eq!(x, y, epsilon = tolerance);
    }
}

#[test]
fn context_token_is_equation_1() {
    let (psi, b, s_x, bias) =
        (var(&[ROWS, TOKENS, D_P], 1), var(&[D_P, D_E], 2), var(&[ROWS, TOKENS, D_E], 3), var(&[D_P], 4));
    let projected: Vec<f64> = s_x.value().to_f64_vec().chunks(D_E).flat_map(|s| product(b.value(), s)).collect();
    let psi_values = psi.value().to_f64_vec();
    let exact: Vec<f64> = psi_values.iter().zip(&projected).map(|(p, b)| p + b).collect();
    assert_close(&context_token(&psi, &b, &s_x, None), &exact, 2e-15);
    let bias_values = bias.value().to_f64_vec();
    let exact: Vec<f64> = exact.iter().enumerate().map(|(i, x)| x + bias_values[i % D_P]).collect();
    assert_close(&context_token(&psi, &b, &s_x, Some(&bias)), &exact, 2e-15);
}

#[test]
fn masked_token_is_equation_2() {
    let psi = var(&[ROWS, TOKENS, D_P], 1);
    for m_shape in [&[D_P][..], &[1, 1, D_P]] {
        let m = var(m_shape, 2);
        let m_values = m.value().to_f64_vec();
        let exact: Vec<f64> = psi.value().to_f64_vec().iter().enumerate().map(|(i, p)| p + m_values[i % D_P]).collect();
        assert_close(&masked_token(&psi, &m), &exact, 0.0);
    }
}

#[test]
fn sigma_is_a_variance_in_the_paper_and_a_deviation_in_the_code() {
    assert_eq!(Sigma::OFFICIAL, Sigma::from_std(0.25));
    assert_eq!(Sigma::OFFICIAL, Sigma::from_variance(0.0625));
    assert_eq!((Sigma::from_variance(4.0).std(), Sigma::from_std(3.0).variance()), (2.0, 9.0));
}

#[test]
fn covariance_is_equation_4() {
    let (a, sigma) = (random(&[D_P, D_E], 1), Sigma::from_variance(0.7));
    let rows: Vec<Vec<f64>> = a.to_f64_vec().chunks(D_E).map(<[f64]>::to_vec).collect();
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    let exact: Vec<f64> = rows.iter().flat_map(|x| rows.iter().map(move |y| 0.7 * dot(x, y))).collect();
    let covariance = covariance(&a, sigma);
    assert_close(&covariance.clone().into(), &exact, 1e-15);
    let trace: f64 = (0..D_P).map(|i| covariance.to_f64_vec()[i * D_P + i]).sum();
    assert_abs_diff_eq!(expected_noise_power(&a, sigma), trace, epsilon = 1e-14);
    // Positive semi-definite: xᵀΣx ≥ 0 for many x, and of rank 2 at most when A has two columns.
    let mut rng = stream(0, Purpose::Eval, [0, 0]);
    for _ in 0..100 {
        let x: Vec<f64> = (0..D_P).map(|_| rng.random_range(-1.0..1.0)).collect();
        assert!(dot(&x, &product(&covariance, &x)) >= 0.0);
    }
}

/// Cubature has exactly the mean and covariance of N(0, σI), so that those of ψ̂ over its points are exactly those of
/// Eqs. (3) and (4).
#[test]
fn positions_have_the_distribution_of_equations_3_and_4() {
    let (sigma, psi) = (Sigma::from_variance(0.3), random(&[1, 1, D_P], 1));
    let distribution = PositionDistribution { psi: psi.clone().into(), a: var(&[D_P, D_E], 2), sigma };
    let points = Quadrature::cubature(1, D_E, sigma).noise;
    let (mean, second) = moments(&distribution.at(&points.into()).value().to_f64_vec());
    assert_close(&psi.into(), &mean, 1e-15);
    assert_close(&distribution.covariance().into(), &second, 1e-15);
}

/// Mean and (biased) covariance.
fn moments(points: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let n = (points.len() / D_P) as f64;
    let mean_of = |of: &dyn Fn(&[f64]) -> f64| points.chunks(D_P).map(of).sum::<f64>() / n;
    let mean: Vec<f64> = (0..D_P).map(|i| mean_of(&|p| p[i])).collect();
    let entry = |i: usize, j: usize| mean_of(&|p| (p[i] - mean[i]) * (p[j] - mean[j]));
    let second = (0..D_P * D_P).map(|k| entry(k / D_P, k % D_P)).collect();
    (mean, second)
}

#[test]
fn stochastic_position_is_equation_5() {
    let (a, n, psi) = (var(&[D_P, D_E], 1), var(&[ROWS, TOKENS, D_E], 2), var(&[ROWS, TOKENS, D_P], 3));
    let moved = n.value().to_f64_vec();
    let moved = moved.chunks(D_E).flat_map(|n| product(a.value(), n));
    let exact: Vec<f64> = moved.zip(psi.value().to_f64_vec()).map(|(an, psi)| an + psi).collect();
    assert_close(&stochastic_position(&a, &n, &psi), &exact, 2e-15);
}

#[test]
fn the_gradient_reaches_a() {
    // f = Σ w ⊙ (A n + ψ) is linear, so df/dA = Σ_j w_j n_jᵀ exactly.
    let (n, psi, w) = (var(&[1, TOKENS, D_E], 1), var(&[1, TOKENS, D_P], 2), var(&[1, TOKENS, D_P], 3));
    let tape = Tape::new();
    let a = tape.leaf(random(&[D_P, D_E], 4));
    let f = (stochastic_position(&a, &n, &psi) * &w).sum();
    let gradient = tape.backward(&f).of(&a).expect("a gradient").clone();
    let (n, w) = (n.value().to_f64_vec(), w.value().to_f64_vec());
    let entry = |p: usize, e: usize| (0..TOKENS).map(|j| w[j * D_P + p] * n[j * D_E + e]).sum::<f64>();
    let exact: Vec<f64> = (0..D_P * D_E).map(|i| entry(i / D_E, i % D_E)).collect();
    assert_close(&gradient.into(), &exact, 1e-15);
}

#[test]
fn tied_tokens_are_equation_6() {
    let (a, m) = (var(&[D_P, D_E], 1), var(&[D_P], 2));
    let (s_x, psi_x) = (var(&[ROWS, TOKENS, D_E], 3), var(&[ROWS, TOKENS, D_P], 4));
    let (n, psi_y) = (var(&[2 * ROWS, 2, D_E], 5), var(&[2 * ROWS, 2, D_P], 6));
    let (c, m_j) = tied_tokens(&a, (&s_x, &psi_x), (&n, &psi_y), &m, None);
    assert_close(&c, &context_token(&psi_x, &a, &s_x, None).value().to_f64_vec(), 0.0);
    let exact = masked_token(&stochastic_position(&a, &n, &psi_y), &m).value().to_f64_vec();
    assert_close(&m_j, &exact, 0.0);

    // A = 0: all certainty about positions, no context.
    let zero = Var::constant(Tensor::zeros([D_P, D_E], DType::F64));
    let (c, m_j) = tied_tokens(&zero, (&s_x, &psi_x), (&n, &psi_y), &m, None);
    assert_close(&c, &psi_x.value().to_f64_vec(), 0.0);
    assert_close(&m_j, &masked_token(&psi_y, &m).value().to_f64_vec(), 0.0);

    // σ = 0: I-JEPA, bit for bit.
    let mut rng = stream(0, Purpose::Noise, [0, 0]);
    let silence = sample_noise(*n.shape(), Sigma::from_std(0.0), DType::F64, &mut rng).into();
    let (c, m_j) = tied_tokens(&a, (&s_x, &psi_x), (&silence, &psi_y), &m, None);
    assert_close(&c, &context_token(&psi_x, &a, &s_x, None).value().to_f64_vec(), 0.0);
    assert_close(&m_j, &masked_token(&psi_y, &m).value().to_f64_vec(), 0.0);

    // One matrix in both places: its gradient is the sum of both.
    let inputs = [a, s_x, psi_x, n, psi_y, m].map(|x| x.value().clone());
    let both = |x: &[Var]| {
        let (c, m_j) = tied_tokens(&x[0], (&x[1], &x[2]), (&x[3], &x[4]), &x[5], Some(&x[5]));
        ops::gelu(&c).sum() + ops::gelu(&m_j).sum()
    };
    check_gradient("Eq. 6", both, &inputs).assert_pass();
}

#[test]
fn the_loss_is_the_mean_over_targets() {
    let (predictions, targets) = (var(&[ROWS, TOKENS, D_E], 1), var(&[ROWS, TOKENS, D_E], 2));
    let predictions = 3.0 * predictions; // on both sides of |d| = 1
    let (p, t) = (predictions.value().to_f64_vec(), targets.value().to_f64_vec());
    let per_target = |loss: &dyn Fn(f64) -> f64| {
        let d: Vec<f64> = p.iter().zip(&t).map(|(p, t)| loss(p - t)).collect();
        let means: Vec<f64> = d.chunks(D_E).map(|d| d.iter().sum::<f64>() / D_E as f64).collect();
        means.iter().sum::<f64>() / means.len() as f64
    };
    let smooth = per_target(&|d| if d.abs() < 1.0 { 0.5 * d * d } else { d.abs() - 0.5 });
    assert_abs_diff_eq!(masked_loss(Loss::SmoothL1, &predictions, &targets).item(), smooth, epsilon = 1e-15);
    let squared = per_target(&|d| d * d);
    assert_abs_diff_eq!(masked_loss(Loss::SquaredError, &predictions, &targets).item(), squared, epsilon = 2e-15);
}
