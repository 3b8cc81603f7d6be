//! One I-JEPA training step of a ViT-B/16 on 224 × 224 images, in f32: its time and its memory.
//!
//! ```text
//! cargo bench --bench vit_b16                       8 images, three steps
//! cargo bench --bench vit_b16 -- --images 16 --steps 5 --predictor-depth 12
//! RAYON_NUM_THREADS=1 cargo bench --bench vit_b16   on one thread
//! python benches/vit_b16.py --threads 2             the same step in PyTorch, the same figures
//! ```
//!
//! The preset `vit-b16`: encoder 768 wide, 12 deep, 12 heads; predictor 384 wide, 6 deep (--predictor-depth), 12 heads.
//! The target encoder sees all 196 tokens; the context has 72 and each of the 4 target blocks 34, the means over batches
//! of 8 under the published masks. Images are random numbers. One step is not timed. (Before the first step, AdamW's
//! moments are zeros that the system has not given memory yet.)

mod common;

use std::time::{Duration, Instant};

use common::{Effort, Sizes, check_args, is_bench, median, option, peak_mb, threads};
use stop_mim::vit::Preset;

fn main() {
    check_args(
        &["--images", "--steps", "--predictor-depth"],
        &[],
        "the top of benches/vit_b16.rs has the command lines",
    );
    let (encoder, predictor) = Preset::VitB16.sizes();
    let mut sizes = Sizes {
        images: option("--images").unwrap_or(8),
        side: encoder.image_size,
        patch: encoder.patch_size,
        encoder: [encoder.dim, encoder.depth, encoder.heads],
        predictor: [predictor.dim, option("--predictor-depth").unwrap_or(predictor.depth), predictor.heads],
        masks: [72, 34],
    };
    let mut steps = option("--steps").unwrap_or(3).max(1);
    if !is_bench() {
        // `cargo test --benches`: is everything still in its place?
        (sizes.images, sizes.encoder[1], sizes.predictor[1], steps) = (1, 1, 1, 1);
    }
    let start = Instant::now();
    let (mut trainer, batch) = sizes.prepare();
    let (setup, before) = (start.elapsed().as_secs_f64(), peak_mb());
    let numbers: usize = trainer.params.trained().map(|params| params.trained_elements()).sum();

    let mut losses = Vec::new();
    let times = Effort { least: steps, most: steps, budget: Duration::ZERO }
        .times(|| losses.push(trainer.step(&batch, &common::HYPER).expect("a step").loss));
    let [least, middle] = [times.iter().copied().fold(f64::INFINITY, f64::min), median(times)];
    let images = sizes.images as f64;
    let gflop = sizes.flop_per_image() * images / 1e9;

    println!(
        "stop-mim, {} threads: ViT-B/16, {} images, {:.1} million parameters, predictor {} deep",
        threads(),
        sizes.images,
        numbers as f64 / 1e6,
        sizes.predictor[1]
    );
    println!("  {middle:.3} s a step (median of {steps}; least {least:.3}), {:.2} images/s", images / middle);
    println!("  {gflop:.0} GFLOP a step, {:.0} GFLOP/s", gflop / middle);
    println!("  {:.0} MB peak, {before:.0} MB of it before the first step; {setup:.1} s to set up", peak_mb());
    println!("  losses {losses:.4?}");
}
