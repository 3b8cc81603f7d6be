//! One I-JEPA training step at the toy size, on weights, images and masks that other implementations read too.
//!
//! `cargo bench --bench training_step -- WORKLOAD.safetensors` speaks a line protocol, so that several programs can be
//! measured in turn: it prints a JSON line with its first losses when ready; then, for each line "N" on standard input,
//! it runs N steps and prints their times in milliseconds, losses and processor time; at the end its peak memory.
//! `--bf16` rounds the operands of products to bf16. Without a workload it times ten steps on random numbers of the same sizes.

use std::io::BufRead;
use std::path::Path;
use std::time::Instant;

use safetensors::{Dtype, SafeTensors};
use stop_mim::methods::{MethodConfig, ModelConfig};
use stop_mim::nn::{LinearInit, Params};
use stop_mim::rng::{Purpose, stream};
use stop_mim::train::{Batch, Noise, StepParams, Trainer};
use stop_mim::vit::{EncoderConfig, PredictorConfig};
use stop_mim::{DType, Indices, Precision, Tensor};

const HYPER: StepParams = StepParams { lr: 1e-3, weight_decay: 0.05, ema_momentum: 0.996 };

fn main() {
    let workload = std::env::args().skip(1).find(|a| !a.starts_with("--"));
    let precision = if std::env::args().any(|a| a == "--bf16") { Precision::Bf16 } else { Precision::F32 };
    let encoder = EncoderConfig {
        image_size: 32,
        patch_size: 4,
        channels: 3,
        dim: 192,
        depth: 6,
        heads: 3,
        mlp_ratio: 4.0,
        class_token: false,
        mask_token: false,
        patch_std: 0.02,
        position_scale: 1.0,
    };
    let predictor = PredictorConfig { dim: 96, depth: 3, heads: 3, learned_positions: false, embed_std: 0.02 };
    let config = ModelConfig { method: MethodConfig::ijepa(1), encoder, predictor, linear_init: LinearInit::Normal };
    let mut rng = stream(0, Purpose::Init, [0, 0]);
    let (method, mut params) = config.build(DType::F32, &mut rng).expect("these sizes fit");
    let noise = Noise::Drawn { seed: 0, step: 0 };
    let Some(path) = workload else {
        let masks = |k: u32, n: u32| Indices::new(64, n as usize, (0..64 * n).map(|i| (i % n + k) % 64).collect());
        let images = Tensor::normal([64, 3, 32, 32], 1.0, DType::F32, &mut rng);
        let targets = (0..4).map(|k| masks(36 + 5 * k, 12)).collect();
        let batch = Batch::masked(images, vec![masks(0, 36)], targets, noise);
        let mut trainer = Trainer { precision, ..Trainer::new(method, params) };
        trainer.step(&batch, &HYPER).expect("a step");
        let (mut ms, _) = run(&mut trainer, &batch, 10);
        ms.sort_by(f64::total_cmp);
        println!("toy step: median {:.0} ms, {:.0} images/s", ms[5], 64e3 / ms[5]);
        return;
    };
    let bytes = std::fs::read(Path::new(&path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    let file = SafeTensors::deserialize(&bytes).unwrap_or_else(|e| panic!("{path}: {e}"));
    load(&file, "encoder.", &mut params["encoder"]);
    load(&file, "encoder.", &mut params["target_encoder"]);
    load(&file, "predictor.", &mut params["predictor"]);
    let targets = indices(&file, "masks_tgt");
    let targets = (0..4).map(|k| targets.slice_rows(64 * k..64 * (k + 1))).collect();
    let batch = Batch::masked(floats(&file, "images"), vec![indices(&file, "masks_ctx")], targets, noise);
    drop(bytes);
    let mut trainer = Trainer { precision, ..Trainer::new(method, params) };

    let (base, start) = (peak_mb(), Instant::now());
    let (_, first) = run(&mut trainer, &batch, 3);
    let setup = start.elapsed().as_secs_f64();
    println!(r#"{{"ready":"stop-mim","base_mb":{base},"setup_s":{setup},"first_losses":{first:?}}}"#);
    for line in std::io::stdin().lock().lines() {
        let steps = line.ok().and_then(|l| l.trim().parse().ok()).unwrap_or(0);
        let before = usage();
        let (ms, loss) = run(&mut trainer, &batch, steps);
        let after = usage();
        let [user, sys, faults] = [0, 1, 2].map(|i| after[i] - before[i]);
        println!(r#"{{"ms":{ms:?},"loss":{loss:?},"parts":{{}},"user_s":{user},"sys_s":{sys},"minflt":{faults}}}"#);
    }
    println!(r#"{{"peak_mb":{},"base_mb":{base}}}"#, peak_mb());
}

fn run(trainer: &mut Trainer, batch: &Batch, steps: usize) -> (Vec<f64>, Vec<f64>) {
    let one = |_| {
        let start = Instant::now();
        let loss = trainer.step(batch, &HYPER).expect("a step").loss;
        (start.elapsed().as_secs_f64() * 1e3, loss)
    };
    (0..steps).map(one).unzip()
}

fn load(file: &SafeTensors<'_>, prefix: &str, params: &mut Params) {
    for param in params.iter_mut() {
        param.value = floats(file, &format!("{prefix}{}", param.name));
    }
}

fn floats(file: &SafeTensors<'_>, name: &str) -> Tensor {
    let view = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(view.dtype(), Dtype::F32, "{name}");
    let values = view.data().as_chunks::<4>().0.iter().map(|w| f32::from_le_bytes(*w)).collect();
    Tensor::new(view.shape(), values)
}

fn indices(file: &SafeTensors<'_>, name: &str) -> Indices {
    let view = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
    let values = view.data().as_chunks::<8>().0.iter().map(|w| i64::from_le_bytes(*w) as u32).collect::<Vec<_>>();
    let per_row = *view.shape().last().expect("not a scalar");
    Indices::new(values.len() / per_row, per_row, values)
}

/// Largest resident memory so far in MB, as the system counts it; 0 where /proc has no such count.
fn peak_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmHWM:"));
    let kb = line.and_then(|l| l.split_whitespace().nth(1)).and_then(|x| x.parse::<f64>().ok());
    kb.unwrap_or(0.0) / 1024.0
}

/// User seconds, system seconds, minor page faults of this process so far.
fn usage() -> [f64; 3] {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<f64> =
        stat.rsplit(')').next().unwrap_or("").split_whitespace().map(|x| x.parse().unwrap_or(0.0)).collect();
    let at = |i: usize| fields.get(i).copied().unwrap_or(0.0);
    [at(11) / 100.0, at(12) / 100.0, at(7)]
}
