//! What do the masks look like, and which positions do they visit?
//!
//! `cargo run --release --example what_do_the_masks_look_like`
//!
//! I-JEPA's blocks on the 8 × 8 grid of a 32 × 32 image: as the original code samples them, and as this crate does.

use stop_mim::Indices;
use stop_mim::paper::masking::MultiBlock;
use stop_mim::report::canvas::Canvas;
use stop_mim::report::color::{WHITE, sequential};
use stop_mim::rng::{Purpose, stream};

const GRID: usize = 8;
const BATCHES: usize = 200;
const BATCH: usize = 64;

fn main() -> stop_mim::Result<()> {
    let ours = MultiBlock::for_small_grid((GRID, GRID));
    println!("{BATCHES} batches of {BATCH} images on a {GRID} x {GRID} grid.\n");
    println!("| sampler | target tokens | context tokens | never a target | never context |");
    println!("|---|---|---|---|---|");
    let mut rows = Vec::new();
    for (name, masks) in [("original", ours.clone().as_official()), ("ours", ours)] {
        let (mut as_target, mut as_context) = (vec![0u32; GRID * GRID], vec![0u32; GRID * GRID]);
        let (mut target_tokens, mut context_tokens) = (0, 0);
        for i in 0..BATCHES {
            let masks = masks.sample(BATCH, &mut stream(0, Purpose::Mask, [i as u64, 0]));
            let count = |of: &[Indices], counts: &mut [u32]| {
                of.iter().flat_map(|m| m.as_slice()).for_each(|&token| counts[token as usize] += 1);
            };
            count(&masks.targets, &mut as_target);
            count(&masks.context, &mut as_context);
            target_tokens += masks.targets[0].per_row();
            context_tokens += masks.context[0].per_row();
        }
        let never = |counts: &[u32]| counts.iter().filter(|&&c| c == 0).count();
        println!(
            "| {name} | {:.1} | {:.1} | {} of 64 | {} of 64 |",
            target_tokens as f64 / BATCHES as f64,
            context_tokens as f64 / BATCHES as f64,
            never(&as_target),
            never(&as_context)
        );
        let full = as_target.iter().chain(&as_context).copied().max().unwrap_or(1) as f32;
        let map = |counts: Vec<u32>| {
            let counts: Vec<f32> = counts.iter().map(|&count| count as f32).collect();
            Canvas::heat_map(&counts, (GRID, GRID), 24, |count| sequential(count / full))
        };
        rows.push([as_target, as_context].map(map).to_vec());
    }
    let file = std::env::temp_dir().join("mask_coverage.png");
    Canvas::tiled(&rows, 12, WHITE).save_png(&file)?;
    println!("\nAbove the original, below ours; left how often a target, right how often context (bright is often).");
    println!("{}", file.display());
    Ok(())
}
