//! Training takes no more memory after many steps than after a few, tracking after many frames: what a step makes, it gives back
//! or uses again.
//!
//! Two instruments: an allocator that counts what is alive, exact, in each `cargo test`; and the resident memory that the
//! system reports, over a million steps, on request:
//! `cargo test --release --test memory_is_flat -- --ignored --nocapture`.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use stop_mim::data::video::{Clip, Frame, Mask};
use stop_mim::data::{Dataset, Normalization, Splits};
use stop_mim::eval::tracking::{EncoderFeatures, TrackConfig, TrackedFrame, track_watched};
use stop_mim::lab::small;
use stop_mim::nn::{LinearInit, fresh};
use stop_mim::rng::{Purpose, stream};
use stop_mim::train::{RunConfig, StepParams, StepReport, Trainer, pretrain};
use stop_mim::vit::{Encoder, EncoderConfig, Preset};
use stop_mim::{DType, Result};

/// The system's allocator, and a count of what it gave and did not get back.
struct Counting;

static ALIVE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on as it is; a counter is all that is added.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALIVE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        ALIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Eight images of 8 × 8 pixels.
struct Eight;

impl Dataset for Eight {
    fn len(&self) -> usize {
        8
    }
    fn image_size(&self) -> usize {
        8
    }
    fn pixels(&self, index: usize, out: &mut [u8]) -> Result<()> {
        out.iter_mut().enumerate().for_each(|(i, v)| *v = (i * 7 + index * 31) as u8);
        Ok(())
    }
    fn describe(&self) -> String {
        "8 images".to_owned()
    }
}

/// StoP on the least model: 16 patches of 2 × 2 pixels, one block of width 4 each way, batches of 2 images, each a chunk.
fn least(steps: usize) -> RunConfig {
    let mut config = small::run(&small::trainer(small::stop(), false, DType::F32));
    let encoder = &mut config.model.encoder;
    (encoder.image_size, encoder.patch_size, encoder.dim, encoder.depth, encoder.heads) = (8, 2, 4, 1, 1);
    let predictor = &mut config.model.predictor;
    (predictor.dim, predictor.depth, predictor.heads) = (4, 1, 1);
    (config.batch, config.steps) = (2, steps);
    config
}

/// Trains by the whole loop, loader and masks included; `look` sees the number of each step.
fn run(threads: usize, steps: usize, look: &mut (dyn FnMut(usize) + Send)) {
    let splits = Splits::new(Arc::new(Eight), Arc::new(Eight)).with_normalization(Normalization::CIFAR10);
    let mut observe = |report: &StepReport, _: &Trainer| {
        assert!(report.loss.is_finite());
        look(report.step);
        Ok(ControlFlow::Continue(()))
    };
    small::with_threads(threads, || pretrain(&least(steps), &splits, usize::MAX, &mut observe)).unwrap();
}

/// A square that wanders over 24 × 16 pixels.
struct Wandering;

impl Clip for Wandering {
    fn name(&self) -> &str {
        "wandering"
    }
    fn len(&self) -> usize {
        400
    }
    fn frame(&self, index: usize) -> Result<Frame> {
        let at = |i: usize| if square(index, i % (24 * 16)) { 200 } else { (i * 7 % 100) as u8 };
        Ok(Frame::new([16, 24], (0..3 * 24 * 16).map(at).collect()))
    }
    fn mask(&self, index: usize) -> Result<Mask> {
        Ok(Mask::new([16, 24], (0..24 * 16).map(|i| u8::from(square(index, i))).collect()))
    }
}

/// Whether pixel `i` of frame `index` belongs to it.
fn square(index: usize, i: usize) -> bool {
    let left = index / 2 % 16;
    (left..left + 8).contains(&(i % 24)) && (4..12).contains(&(i / 24))
}

fn alive() -> f64 {
    ALIVE.load(Ordering::Relaxed) as f64
}

/// That the most bytes alive in the last quarter are, but for `spare` ones, those in the steps from a tenth to a third of
/// the way.
#[track_caller]
fn stays(what: &str, alive: &[f64], spare: f64) {
    let n = alive.len();
    let most = |part: &[f64]| part.iter().copied().fold(0.0, f64::max);
    let (early, late) = (most(&alive[n / 10..n / 3]), most(&alive[n - n / 4..n - 1]));
    println!("{what}: {early} bytes alive early on, {late} at the end of {n} steps");
    assert!(late <= 1.02 * early + spare, "{what}: {early} bytes became {late} in {n} steps");
}

/// One test, so that nothing else allocates meanwhile.
#[test]
fn what_is_alive_after_a_step_or_a_frame_does_not_grow() {
    for threads in [1, 3] {
        let mut seen = Vec::with_capacity(6000);
        run(threads, 6000, &mut |_| seen.push(alive()));
        // With several threads it is chance which of them drops a buffer, and keeps it: some 20 KB may come late. Of 64
        // bytes lost in each step there would be 256 KB.
        let spare = if threads == 1 { 0.0 } else { 64.0 * 4000.0 };
        stays(&format!("the whole loop on {threads} threads"), &seen, spare);
    }
    // Seven chunks in a step, whose gradients wander from thread to thread.
    for threads in [1, 3] {
        let mut trainer = Trainer { chunk_images: 1, ..small::trainer(small::stop(), false, DType::F32) };
        let batch = small::batch(&trainer);
        let hyper = StepParams { lr: 1e-4, weight_decay: 0.1, ema_momentum: 0.99 };
        let mut seen = Vec::with_capacity(2000);
        let mut step = || {
            trainer.step(&batch, &hyper).unwrap();
            seen.push(alive());
        };
        small::with_threads(threads, || (0..2000).for_each(|_| step()));
        // A gradient is made on one thread and dropped on another, which keeps up to 24 MiB before it gives any back.
        let spare = if threads == 1 { 0.0 } else { (threads * 24 + 8) as f64 * (1 << 20) as f64 };
        stays(&format!("seven chunks on {threads} threads"), &seen, spare);
    }
    frames_are_given_back();
}

/// Of a video of 400 frames, one after the other.
fn frames_are_given_back() {
    let sizes = EncoderConfig { image_size: 16, patch_size: 4, dim: 8, depth: 1, heads: 1, ..Preset::Toy.sizes().0 };
    let mut rng = stream(7, Purpose::Init, [0, 0]);
    let (encoder, params) = fresh(LinearInit::Normal, DType::F32, &mut rng, |init| Encoder::new(&sizes, init));
    let features = EncoderFeatures { encoder: &encoder, params: &params, normalization: &Normalization::CIFAR10 };
    let clips: [Box<dyn Clip>; 1] = [Box::new(Wandering)];
    let config = TrackConfig { frame_size: Some(16), ..TrackConfig::default() };
    let mut seen = Vec::with_capacity(400);
    let mut watch = |_: &TrackedFrame| {
        seen.push(alive());
        Ok(())
    };
    small::with_threads(1, || track_watched(&features, &clips, &config, &|| Ok(()), &mut watch)).unwrap();
    stays("tracking", &seen, 0.0);
}

/// Bytes in main memory.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
#[ignore = "minutes: a million steps, or as many as STEPS says"]
fn resident_memory_over_a_million_steps() {
    let steps = std::env::var("STEPS").map_or(1_000_000, |steps| steps.parse().expect("a number of steps"));
    let (start, mut seen) = (Instant::now(), Vec::with_capacity(100));
    run(2, steps, &mut |step| {
        if step % (steps / 100) == 0 {
            seen.push(resident());
        }
        if step % (steps / 20) == 0 {
            let (kib, alive, s) = (resident() / 1024, alive() / 1024.0, start.elapsed().as_secs_f64());
            println!("step {step:8}: {kib} KiB resident, {alive:.0} KiB alive, {s:.0} s");
        }
    });
    let most = |part: &[usize]| part.iter().copied().max().unwrap();
    // Each of the two threads may come to keep 24 MiB of free buffers, at some time; after that nothing grows.
    let (middle, late) = (most(&seen[40..60]), most(&seen[75..]));
    assert!(late < middle + (1 << 20), "{middle} bytes became {late}");
    assert!(late < seen[0] + 2 * (24 << 20), "{} bytes became {late}", seen[0]);
}
