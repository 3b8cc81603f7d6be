//! Every equation of the paper that training uses, against its definition.

use approx::assert_abs_diff_eq;
use rand::RngExt;
use stop_mim::autograd::check::check_gradient;
use stop_mim::autograd::{Tape, Var, ops};
use stop_mim::paper::variants::{conditioned_noise, fixed_position, targets_at};
use stop_mim::paper::{
    Loss, Penalty, PenaltyNorm, PositionDistribution, Quadrature, Sigma, TargetResolution, context_token, covariance,
    expected_noise_power, masked_loss, masked_token, sample_noise, stochastic_position, tied_tokens,
};
use stop_mim::rng::{Purpose, stream};
use stop_mim::{DType, Indices, Tensor};

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
    assert_abs_diff_eq!(expected_noise_power(&a, sigma).item(), trace, epsilon = 1e-14);
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

/// Fig. 3: over cubature's points, whose covariance is exactly σI, the positions have exactly that, and no A moves them.
#[test]
fn a_fixed_covariance_is_not_tied() {
    let (sigma, psi) = (Sigma::from_variance(0.3), random(&[1, 1, D_P], 1));
    let points = Quadrature::cubature(1, D_P, sigma).noise;
    let (mean, second) = moments(&fixed_position(&points.into(), &psi.clone().into()).value().to_f64_vec());
    assert_close(&psi.into(), &mean, 1e-15);
    let diagonal: Vec<f64> = (0..D_P * D_P).map(|i| if i % (D_P + 1) == 0 { 0.3 } else { 0.0 }).collect();
    assert_close(&Tensor::new([D_P * D_P], diagonal).into(), &second, 1e-15);
}

/// Section 6: h(x)² is the mean square of an image's features, so that (A/c, cγ, cβ), which makes features c times as
/// large and A c times smaller, changes neither A s_x nor A h(x) n.
#[test]
fn conditioned_noise_is_as_large_as_its_context() {
    const BLOCKS: usize = 2;
    let (a, s_x, n) = (var(&[D_P, D_E], 1), var(&[ROWS, 2, D_E], 2), var(&[BLOCKS * ROWS, TOKENS, D_E], 3));
    let squares = s_x.value().to_f64_vec();
    let rms: Vec<f64> =
        squares.chunks(2 * D_E).map(|row| (row.iter().map(|s| s * s).sum::<f64>() / 10.0).sqrt()).collect();
    let row = |i: usize| i / (TOKENS * D_E) % ROWS;
    let exact: Vec<f64> = n.value().to_f64_vec().iter().enumerate().map(|(i, n)| rms[row(i)] * n).collect();
    assert_close(&conditioned_noise(&n, &s_x), &exact, 1e-15);

    let c = 8.0; // a power of two: nothing is rounded
    let scaled = [a.value().scaled(1.0 / c), s_x.value().scaled(c)].map(Var::from);
    let psi = var(&[BLOCKS * ROWS, TOKENS, D_P], 4);
    let position = |a: &Var, s_x: &Var| stochastic_position(a, &conditioned_noise(&n, s_x), &psi);
    assert_close(&position(&scaled[0], &scaled[1]), &position(&a, &s_x).value().to_f64_vec(), 0.0);

    let inputs = [a, s_x, psi].map(|x| x.value().clone());
    let both = |x: &[Var]| ops::gelu(&stochastic_position(&x[0], &conditioned_noise(&n, &x[1]), &x[2])).sum();
    check_gradient("conditioned noise", both, &inputs).assert_pass();
}

#[test]
fn a_penalty_is_a_sum_over_entries() {
    let a = random(&[D_P, D_E], 1);
    let entries = a.to_f64_vec();
    for (text, of_entry, slope) in [
        ("l1:0.5", (|a| 0.5 * a.abs()) as fn(f64) -> f64, (|a| 0.5 * a.signum()) as fn(f64) -> f64),
        ("l2:0.25", |a| 0.25 * a * a, |a| 0.5 * a),
    ] {
        let penalty: Penalty = text.parse().unwrap();
        assert_eq!(penalty.to_string(), text);
        let tape = Tape::new();
        let leaf = tape.leaf(a.clone());
        let value = penalty.of(&leaf);
        assert_abs_diff_eq!(value.item(), entries.iter().map(|a| of_entry(*a)).sum::<f64>(), epsilon = 1e-14);
        let gradient = tape.backward(&value).of(&leaf).unwrap().clone();
        assert_close(&gradient.into(), &entries.iter().map(|a| slope(*a)).collect::<Vec<_>>(), 1e-15);
    }
    assert_eq!("l1:1e-3".parse::<Penalty>().unwrap(), Penalty { norm: PenaltyNorm::L1, weight: 1e-3 });
    for (text, problem) in [
        ("l1", "write the norm and a weight"),
        ("l1:", "write the norm and a weight"),
        ("l1:a", "write the norm and a weight"),
        ("l3:1", "no penalty is called 'l3'"),
        ("l1:-1", "choose a number that is not negative"),
        ("l2:inf", "choose a number that is not negative"),
        ("l2:nan", "choose a number that is not negative"),
    ] {
        let error = text.parse::<Penalty>().unwrap_err().to_string();
        assert!(error.contains(problem), "{text}: {error}");
    }
}

/// Table 8, in plain loops over the cells, for two images, of which each has two rows of targets.
#[test]
fn low_resolution_is_a_mean_or_a_maximum_of_four() {
    for grid in [2, 4, 6] {
        let s_y = random(&[2, grid * grid, D_E], grid as u64);
        let features = s_y.to_f64_vec();
        let feature =
            |image: usize, y: usize, x: usize, k: usize| features[(image * grid * grid + y * grid + x) * D_E + k];
        let at = Indices::from_rows(
            &(0..4).map(|r| (0..grid as u32).map(|k| (5 * k + r) % (grid * grid) as u32).collect()).collect::<Vec<_>>(),
        );
        for resolution in TargetResolution::ALL {
            let mut exact = Vec::new();
            for row in 0..4 {
                for &token in at.row(row) {
                    let (y, x) = (token as usize / grid, token as usize % grid);
                    for k in 0..D_E {
                        let cell = [(0, 0), (0, 1), (1, 0), (1, 1)];
                        let cell = cell.map(|(i, j)| feature(row % 2, 2 * (y / 2) + i, 2 * (x / 2) + j, k));
                        exact.push(match resolution {
                            TargetResolution::Full => feature(row % 2, y, x, k),
                            TargetResolution::Bilinear => cell.iter().sum::<f64>() / 4.0,
                            TargetResolution::MaxPool => cell.into_iter().fold(f64::NEG_INFINITY, f64::max),
                        });
                    }
                }
            }
            assert_close(&targets_at(resolution, &s_y.clone().into(), grid, &at), &exact, 3e-16);
            let both = |x: &[Var]| ops::gelu(&targets_at(resolution, &x[0], grid, &at)).sum();
            check_gradient("targets at a resolution", both, std::slice::from_ref(&s_y)).assert_pass();
        }
    }
}
