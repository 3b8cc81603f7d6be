//! What does a stochastic position look like (Eqs. 3 to 5, Fig. 5)?
//!
//! `cargo run --release --example what_does_a_stochastic_position_look_like`
//!
//! For a position in the middle of an 8 × 8 grid: its similarity to every position, from the deterministic embedding,
//! from three draws ψ̂ = A n + ψ, from the mean over many draws, and what that mean tends to. Noise cannot widen the
//! mean map, since E⟨ψ̂_i, ψ_j⟩ = ⟨ψ_i, ψ_j⟩; it only makes it paler. What one draw looks like is another matter.
//! The table says how far apart neighbors are, in standard deviations of the noise, and how often the best guess from
//! one draw finds its position.

use stop_mim::eval::cosines;
use stop_mim::paper::{PositionDistribution, Sigma, WhitenedPositions, cosine_shrinkage, expected_noise_power};
use stop_mim::report::canvas::Canvas;
use stop_mim::report::color::{WHITE, diverging};
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
    let similarity = |x: &[f64]| -> Vec<f32> { cosines(x, &table).iter().map(|&c| c as f32).collect() };
    let length = psi.iter().map(|v| v * v).sum::<f64>().sqrt();

    println!("A position of {D_P} features, |psi| = {length:.2}, on a {GRID} x {GRID} grid.\n");
    println!("| std of A's entries | std of n | rms of A n | d' of neighbors | best guess is right |");
    println!("|---|---|---|---|---|");
    let mut rows = vec![vec![tile(&similarity(psi))]];
    for (a_std, n_std) in [(0.02, 0.25), (0.1, 0.25), (0.1, 1.0), (0.3, 1.0)] {
        let mut rng = stream(0, Purpose::Noise, [0, 0]);
        let a = Tensor::normal([D_P, D_E], a_std, DType::F64, &mut rng);
        let sigma = Sigma::from_std(n_std);
        let rms = (expected_noise_power(&a, sigma).item() / D_P as f64).sqrt();
        let grid = Tensor::new([GRID * GRID, D_P], table.clone());
        let positions = WhitenedPositions::new(&grid, &a, sigma);
        let (d, right) = (positions.neighbors((GRID, GRID)).mean, positions.decoding_accuracy(100, &mut rng));
        println!("| {a_std} | {n_std} | {rms:.3} | {d:.2} | {:.1} % |", 100.0 * right);
        let shrinkage = cosine_shrinkage(length, &a, sigma) as f32;
        let draws = 400;
        let mean = Tensor::from_fn([1, draws, D_P], DType::F64, |i| psi[i % D_P]);
        let drawn = PositionDistribution { psi: mean.into(), a: a.into(), sigma }.sample(&mut rng);
        let drawn = drawn.value().to_f64_vec();
        let maps: Vec<Vec<f32>> = drawn.chunks(D_P).map(similarity).collect();
        let average = |k: usize| maps.iter().map(|m| m[k]).sum::<f32>() / draws as f32;
        let average: Vec<f32> = (0..GRID * GRID).map(average).collect();
        let expected: Vec<f32> = similarity(psi).iter().map(|cosine| cosine * shrinkage).collect();
        rows.push([&maps[0], &maps[1], &maps[2], &average, &expected].map(|map| tile(map)).to_vec());
    }
    let file = std::env::temp_dir().join("stochastic_positions.png");
    Canvas::tiled(&rows, 8, WHITE).save_png(&file)?;
    println!("\nAbove: psi. Below, a row for each row of the table: three draws, the mean over 400, and its limit.");
    println!("{}", file.display());
    Ok(())
}

fn tile(map: &[f32]) -> Canvas {
    Canvas::heat_map(map, (GRID, GRID), 16, diverging)
}
