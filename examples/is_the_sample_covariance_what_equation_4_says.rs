//! Is the sample covariance of stochastic positions σAAᵀ (Eq. 4)?
//!
//! `cargo run --release --example is_the_sample_covariance_what_equation_4_says`
//!
//! Draws from Eq. 5, in growing numbers, beside Eq. 4. The distance shrinks as one over the root of the number: with ten
//! thousand draws it is still a per cent. Eight points of cubature have no error at all, which is why this crate's proofs use those.

use stop_mim::paper::{PositionDistribution, Quadrature, Sigma};
use stop_mim::report::table::table;
use stop_mim::rng::{Purpose, stream};
use stop_mim::{DType, Tensor};

const D_P: usize = 3;
const D_E: usize = 4;

fn main() {
    let sigma = Sigma::from_variance(0.25);
    let mut rng = stream(0, Purpose::Noise, [0, 0]);
    let a = Tensor::normal([D_P, D_E], 1.0, DType::F64, &mut rng);
    let psi = Tensor::normal([1, 1, D_P], 1.0, DType::F64, &mut rng);
    let positions = PositionDistribution { psi: psi.clone().into(), a: a.into(), sigma };
    let exact = positions.covariance();
    println!("Σ = σAAᵀ (Eq. 4), with σ = 0.25 as a variance:\n{exact}\n");

    // Σ_k w_k (ψ̂_k − ψ)(ψ̂_k − ψ)ᵀ over the draws of a rule.
    let covariance = |rule: &Quadrature| {
        rule.expect(|n| {
            let drawn = positions.at(&n.reshape([1, 1, D_E]).into()).value().to_f64_vec();
            let off: Vec<f64> = drawn.iter().zip(psi.to_f64_vec()).map(|(drawn, psi)| drawn - psi).collect();
            Tensor::from_fn([D_P, D_P], DType::F64, |i| off[i / D_P] * off[i % D_P])
        })
    };
    let row = |name: String, rule: &Quadrature| {
        let found = covariance(rule);
        vec![name, format!("{}", rule.weights.elements()), format!("{:.1e}", found.max_abs_diff(&exact))]
    };
    let sampled = [100, 1_000, 10_000, 100_000]
        .map(|draws| row("random draws".into(), &Quadrature::monte_carlo(draws, 1, D_E, sigma, &mut rng)));
    let cubature = Quadrature::cubature(1, D_E, sigma);
    assert!(covariance(&cubature).max_abs_diff(&exact) < 1e-15);
    let cubature = row("cubature".into(), &cubature);
    let rows: Vec<Vec<String>> = sampled.into_iter().chain([cubature]).collect();
    println!("{}", table(&["rule", "points", "largest error of an entry of Σ"], &rows));
    println!(
        "Yes: the more draws, the closer, and exactly so over the points that have the Gaussian's second moments."
    );
}
