//! What the benches share: a training step of any size, its operations by a formula, medians, peak memory.

#![allow(dead_code, reason = "each bench takes a part of it")]

pub mod place;

use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use stop_mim::methods::{Method, MethodConfig, ModelConfig, ModelParams};
use stop_mim::nn::LinearInit;
use stop_mim::rng::{Purpose, stream};
use stop_mim::train::{Batch, Noise, StepParams, Trainer};
use stop_mim::vit::{EncoderConfig, PredictorConfig};
use stop_mim::{DType, Indices, Tensor};

/// Target blocks of an image.
pub const TARGET_BLOCKS: usize = 4;

/// Of no consequence to the time.
pub const HYPER: StepParams = StepParams { lr: 1e-3, weight_decay: 0.05, ema_momentum: 0.996 };

/// The sizes of one I-JEPA training step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sizes {
    /// B
    pub images: usize,
    /// Side of an image in pixels.
    pub side: usize,
    /// Side of a patch in pixels.
    pub patch: usize,
    /// Width, depth and heads of the encoder.
    pub encoder: [usize; 3],
    /// Width, depth and heads of the predictor.
    pub predictor: [usize; 3],
    /// Tokens of the context, and of one of the four target blocks.
    pub masks: [usize; 2],
}

impl Sizes {
    /// Workload T, which `training_step` measures too: 32 × 32 images in 8 × 8 tokens, 64 of them, 88 GFLOP.
    pub const T: Sizes =
        Sizes { images: 64, side: 32, patch: 4, encoder: [192, 6, 3], predictor: [96, 3, 3], masks: [36, 12] };

    /// Tokens of a whole image.
    pub fn tokens(&self) -> usize {
        (self.side / self.patch).pow(2)
    }

    /// Sizes of the networks.
    pub fn model(&self) -> ModelConfig {
        let Sizes { side, patch, encoder: [dim, depth, heads], predictor, .. } = *self;
        let [predictor_dim, predictor_depth, predictor_heads] = predictor;
        ModelConfig {
            method: MethodConfig::ijepa(1),
            encoder: EncoderConfig {
                image_size: side,
                patch_size: patch,
                channels: 3,
                dim,
                depth,
                heads,
                mlp_ratio: 4.0,
                class_token: false,
                mask_token: false,
                patch_std: 0.02,
                position_scale: 1.0,
            },
            predictor: PredictorConfig {
                dim: predictor_dim,
                depth: predictor_depth,
                heads: predictor_heads,
                learned_positions: false,
                embed_std: 0.02,
            },
            linear_init: LinearInit::Normal,
        }
    }

    /// The method and its weights before the first step.
    pub fn fresh(&self) -> (Arc<dyn Method>, ModelParams) {
        self.model().build(DType::F32, &mut stream(0, Purpose::Init, [0, 0])).expect("these sizes fit")
    }

    /// A model about to start, and a batch of random numbers under masks of these sizes.
    pub fn prepare(&self) -> (Trainer, Batch) {
        let (method, params) = self.fresh();
        let mut rng = stream(0, Purpose::Init, [1, 0]);
        let (images, tokens, [context, target]) = (self.images, self.tokens(), self.masks);
        // Runs of tokens: which ones they are does not matter to the time.
        let mask = |start: usize, n: usize| {
            let of_image = (0..n).map(|k| ((start + k) % tokens) as u32);
            Indices::new(images, n, of_image.cycle().take(images * n).collect())
        };
        let pixels = Tensor::normal([images, 3, self.side, self.side], 1.0, DType::F32, &mut rng);
        let targets = (0..TARGET_BLOCKS).map(|k| mask(context + k * target / 2, target)).collect();
        let batch = Batch::masked(pixels, vec![mask(0, context)], targets, Noise::Drawn { seed: 0, step: 0 });
        (Trainer::new(method, params), batch)
    }

    /// Floating-point operations of a step in matrix products (some 99 % of all), a multiply-add being two, for one
    /// image. A block of width D on N tokens takes 24 N D² + 4 N² D; a backward pass twice its forward pass.
    pub fn flop_per_image(&self) -> f64 {
        let Sizes { encoder: [d, depth, _], predictor: [p, predictor_depth, _], masks: [context, target], .. } = *self;
        let blocks = |depth: usize, n: usize, d: usize| (depth * (24 * n * d * d + 4 * n * n * d)) as f64;
        let linear = |n: usize, inputs: usize, outputs: usize| (2 * n * inputs * outputs) as f64;
        let pixels = 3 * self.patch * self.patch;
        let targets = linear(self.tokens(), pixels, d) + blocks(depth, self.tokens(), d);
        // Pixels need no gradient.
        let encoder = 2.0 * linear(context, pixels, d) + 3.0 * blocks(depth, context, d);
        let seen = linear(context, d, p);
        let predicted = blocks(predictor_depth, context + target, p) + linear(target, p, d);
        targets + encoder + 3.0 * (seen + TARGET_BLOCKS as f64 * predicted)
    }
}

/// How many steps to time, after one that is not: at least `least`, at most `most`, and none once `budget` is spent.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Steps at least.
    pub least: usize,
    /// Steps at most.
    pub most: usize,
    /// Time after which no step is begun.
    pub budget: Duration,
}

impl Effort {
    /// The times in seconds of what is done again and again.
    pub fn times(&self, mut step: impl FnMut()) -> Vec<f64> {
        step();
        let start = Instant::now();
        let mut times = Vec::new();
        while times.len() < self.least || (times.len() < self.most && start.elapsed() < self.budget) {
            let begun = Instant::now();
            step();
            times.push(begun.elapsed().as_secs_f64());
        }
        times
    }
}

/// The middle one of these, or the mean of the middle two.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    (values[(n - 1) / 2] + values[n / 2]) / 2.0
}

/// Largest resident memory of this process so far in MB (2²⁰ bytes), as the system counts it; 0 where /proc has no such
/// count.
pub fn peak_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmHWM:"));
    let kb = line.and_then(|l| l.split_whitespace().nth(1)).and_then(|x| x.parse::<f64>().ok());
    kb.unwrap_or(0.0) / 1024.0
}

/// Threads that the training step works with: RAYON_NUM_THREADS, or as many as there are cores.
pub fn threads() -> usize {
    rayon::current_num_threads()
}

/// Whether this is `cargo bench`; `cargo test --benches` runs the same program without that flag.
pub fn is_bench() -> bool {
    std::env::args().any(|a| a == "--bench")
}

/// The value after `name` on the command line. What cannot be read ends the program.
pub fn option<T: FromStr<Err: Display>>(name: &str) -> Option<T> {
    let mut args = std::env::args().skip_while(|a| a != name);
    args.next()?;
    let Some(value) = args.next() else { refuse(&format!("a value is missing after {name}"), "") };
    Some(value.parse().unwrap_or_else(|error| refuse(&format!("{name} {value}: {error}"), "")))
}

/// Whether `name` is on the command line.
pub fn flag(name: &str) -> bool {
    std::env::args().any(|a| a == name)
}

/// What is on the command line beside options and flags.
pub fn positional(with_value: &[&str]) -> Vec<String> {
    let mut args = std::env::args().skip(1);
    let mut found = Vec::new();
    while let Some(arg) = args.next() {
        if with_value.contains(&arg.as_str()) {
            args.next();
        } else if !arg.starts_with("--") {
            found.push(arg);
        }
    }
    found
}

/// Ends the program when there is something on the command line that nobody asks for.
pub fn check_args(with_value: &[&str], flags: &[&str], most_positional: usize, usage: &str) {
    let known = |arg: &str| arg == "--bench" || with_value.contains(&arg) || flags.contains(&arg);
    let positional = positional(with_value);
    let options = std::env::args().skip(1).filter(|arg| arg.starts_with("--") && !known(arg));
    if let Some(arg) = options.chain(positional.into_iter().skip(most_positional)).next() {
        refuse(&format!("{arg} is not known here"), usage);
    }
}

/// Ends the program, saying why and what to do.
pub fn refuse(problem: &str, usage: &str) -> ! {
    eprintln!("{problem}\n{usage}");
    std::process::exit(2)
}
