//! One I-JEPA training step of a ViT-B/16 on 224 × 224 images: its time and its memory.
//!
//! ```text
//! cargo bench --bench vit_b16                       8 images, three steps
//! cargo bench --bench vit_b16 -- --images 16 --steps 5 --predictor-depth 12
//! RAYON_NUM_THREADS=1 cargo bench --bench vit_b16   on one thread
//! python benches/vit_b16.py --threads 2             the same step in PyTorch, the same figures
//! cargo bench --features cuda --bench vit_b16 -- --device cuda --precision bf16 --images 64 --steps 20
//! ```
//!
//! With --serve it speaks the line protocol of common/place.rs, so that it can be measured in turn with other programs.
//!
//! The preset `vit-b16`: encoder 768 wide, 12 deep, 12 heads; predictor 384 wide, 6 deep (--predictor-depth), 12 heads.
//! The target encoder sees all 196 tokens; the context has 72 and each of the 4 target blocks 34, the means over batches
//! of 8 under the published masks. Images are random numbers. One step is not timed. (Before the first step, AdamW's
//! moments are zeros that the system has not given memory yet.)

mod common;

use std::time::Instant;

use common::place::{self, Place};
use common::{Sizes, check_args, flag, is_bench, median, option, peak_mb, threads};
use stop_mim::vit::Preset;

fn main() {
    let with_value = [&["--images", "--steps", "--predictor-depth"], &place::OPTIONS[..]].concat();
    check_args(&with_value, &["--bf16", "--serve"], 0, "the top of benches/vit_b16.rs has the command lines");
    let place = Place::asked();
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
    let (trainer, batch) = sizes.prepare();
    let numbers: usize = trainer.params.trained().map(|params| params.trained_elements()).sum();
    let mut measured = place.put(trainer, &batch);
    drop(batch); // measured memory is of the one that is used
    if flag("--serve") {
        return measured.serve();
    }
    let (setup, before) = (start.elapsed().as_secs_f64(), peak_mb());

    let (_, mut losses) = measured.steps(1);
    let (times, more) = measured.steps(steps);
    losses.extend(more);
    let [least, middle] = [times.iter().copied().fold(f64::INFINITY, f64::min), median(times)].map(|ms| ms / 1e3);
    let images = sizes.images as f64;
    let gflop = sizes.flop_per_image() * images / 1e9;

    println!(
        "stop-mim on {place}, {} threads: ViT-B/16, {} images, {:.1} million parameters, predictor {} deep",
        threads(),
        sizes.images,
        numbers as f64 / 1e6,
        sizes.predictor[1]
    );
    println!("  {middle:.3} s a step (median of {steps}; least {least:.3}), {:.2} images/s", images / middle);
    println!("  {gflop:.0} GFLOP a step, {:.0} GFLOP/s", gflop / middle);
    println!("  {:.0} MB peak, {before:.0} MB of it before the first step; {setup:.1} s to set up", peak_mb());
    if let Some(mb) = measured.gpu_mb() {
        println!("  {mb:.0} MB of the GPU's memory");
    }
    println!("  losses {losses:.4?}");
}
