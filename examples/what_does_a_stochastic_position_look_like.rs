//! What does a stochastic position look like (Eqs. 3 to 5, Fig. 5)?
//!
//! `cargo run --release --example what_does_a_stochastic_position_look_like`
//!
//! For a position in the middle of an 8 × 8 grid: its similarity to every position, from the deterministic embedding,
//! from one draw ψ̂ = A n + ψ, and from the mean over many draws. Noise cannot widen the mean map, since
//! E⟨ψ̂_i, ψ_j⟩ = ⟨ψ_i, ψ_j⟩; what one draw looks like is another matter.

use stop_mim::paper::{PositionDistribution, Sigma, expected_noise_power};
use stop_mim::report::canvas::Canvas;
use stop_mim::report::colour::{WHITE, diverging};
use stop_mim::rng::{Purpose, stream};
use stop_mim::vit::sincos;
use stop_mim::{DType, Tensor};

const GRID: usize = 8;
const D_P: usize = 96;
const D_E: usize = 192;

fn main() -> stop_mim::Result<()> {
    let table = sincos::positions(D_P, GRID, GRID);
    let query = (GRID / 2) * GRID + GRID / 2;
    let psi = &table[query * D_P..(query + 1) * D_P];
    let similarity = |x: &[f64]| -> Vec<f32> {
        let norm = |v: &[f64]| v.iter().map(|v| v * v).sum::<f64>().sqrt();
        let cosine = |y: &[f64]| x.iter().zip(y).map(|(a, b)| a * b).sum::<f64>() / (norm(x) * norm(y));
        table.chunks(D_P).map(|y| cosine(y) as f32).collect()
    };

    println!("A position of {D_P} features, |psi| = {:.2}, on a {GRID} x {GRID} grid.\n", (D_P as f64 / 2.0).sqrt());
    println!("| std of A's entries | std of n | rms of A n | nearest position to a draw is its own |");
    println!("|---|---|---|---|");
    let mut rows = vec![vec![tile(&similarity(psi))]];
    for (a_std, n_std) in [(0.02, 0.25), (0.1, 0.25), (0.1, 1.0), (0.3, 1.0)] {
        let mut rng = stream(0, Purpose::Noise, [0, 0]);
        let a = Tensor::normal([D_P, D_E], a_std, DType::F64, &mut rng);
        let sigma = Sigma::from_std(n_std);
        let rms = (expected_noise_power(&a, sigma) / D_P as f64).sqrt();
        let draws = 400;
        let mean = Tensor::from_fn([1, draws, D_P], DType::F64, |i| psi[i % D_P]);
        let drawn = PositionDistribution { psi: mean.into(), a: a.into(), sigma }.sample(&mut rng);
        let drawn = drawn.value().to_f64_vec();
        let own = drawn.chunks(D_P).filter(|x| nearest(x, &table) == query).count();
        println!("| {a_std} | {n_std} | {rms:.3} | {:.1} % |", 100.0 * own as f64 / draws as f64);
        let maps: Vec<Vec<f32>> = drawn.chunks(D_P).map(similarity).collect();
        let average = |k: usize| maps.iter().map(|m| m[k]).sum::<f32>() / draws as f32;
        let average: Vec<f32> = (0..GRID * GRID).map(average).collect();
        rows.push(vec![tile(&maps[0]), tile(&maps[1]), tile(&maps[2]), tile(&average)]);
    }
    let file = std::env::temp_dir().join("stochastic_positions.png");
    Canvas::tiled(&rows, 8, WHITE).save_png(&file)?;
    println!("\nAbove: psi. Below, a row for each row of the table: three draws, and the mean over 400.");
    println!("{}", file.display());
    Ok(())
}

fn tile(map: &[f32]) -> Canvas {
    Canvas::heat_map(map, (GRID, GRID), 16, diverging)
}

/// The position whose embedding is closest to x.
fn nearest(x: &[f64], table: &[f64]) -> usize {
    let distance = |y: &[f64]| x.iter().zip(y).map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
    let distances: Vec<f64> = table.chunks(D_P).map(distance).collect();
    (0..distances.len()).min_by(|&i, &j| distances[i].total_cmp(&distances[j])).unwrap_or(0)
}
