//! One I-JEPA training step at the toy size, on weights, images and masks that other implementations read too.
//!
//! ```text
//! cargo bench --bench training_step                             ten steps on random numbers
//! cargo bench --bench training_step -- WORKLOAD.safetensors     in turn with other programs
//! cargo bench --bench training_step -- WORKLOAD.safetensors --precision bf16
//! cargo bench --features cuda --bench training_step -- WORKLOAD.safetensors --device cuda --precision tf32
//! ```
//!
//! With a workload it speaks the line protocol of common/place.rs. The workload says how wide and deep the networks are
//! and how many images there are; `benches/cuda.py --workload FILE` writes the one of docs/benchmarks.md.

mod common;

use common::place::{self, Place};
use common::{Sizes, check_args, median, positional};
use safetensors::{Dtype, SafeTensors};
use stop_mim::nn::Params;
use stop_mim::train::{Batch, Noise, Trainer};
use stop_mim::{Indices, Tensor};

const USAGE: &str =
    "usage: training_step [WORKLOAD.safetensors] [--device cpu|cuda|cuda:N] [--precision f32|tf32|bf16]";

fn main() {
    check_args(&place::OPTIONS, &["--bf16"], 1, USAGE);
    let place = Place::asked();
    let Some(path) = positional(&place::OPTIONS).into_iter().next() else {
        let (trainer, batch) = Sizes::T.prepare();
        let mut measured = place.put(trainer, &batch);
        measured.steps(1);
        let ms = median(measured.steps(10).0);
        println!("toy step on {place}: median {ms:.1} ms, {:.0} images/s", Sizes::T.images as f64 * 1e3 / ms);
        return;
    };
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let file = SafeTensors::deserialize(&bytes).unwrap_or_else(|e| panic!("{path}: {e}"));
    let (trainer, batch) = read(&file);
    drop(bytes);
    place.put(trainer, &batch).serve();
}

/// The model and the batch in a workload.
fn read(file: &SafeTensors<'_>) -> (Trainer, Batch) {
    let blocks = |of: &str| (0..).take_while(|i| file.tensor(&format!("{of}.{i}.norm1.weight")).is_ok()).count();
    let width = |norm: &str| floats(file, norm).elements();
    let (images, targets) = (floats(file, "images"), indices(file, "masks_tgt"));
    let n = images.shape()[0];
    let sizes = Sizes {
        images: n,
        encoder: [width("encoder.norm.weight"), blocks("encoder.blocks"), 3],
        predictor: [width("predictor.predictor_norm.weight"), blocks("predictor.predictor_blocks"), 3],
        ..Sizes::T
    };
    let (method, mut params) = sizes.fresh();
    load(file, "encoder.", &mut params["encoder"]);
    load(file, "encoder.", &mut params["target_encoder"]);
    load(file, "predictor.", &mut params["predictor"]);
    let targets = (0..targets.rows() / n).map(|k| targets.slice_rows(n * k..n * (k + 1))).collect();
    let noise = Noise::Drawn { seed: 0, step: 0 };
    (Trainer::new(method, params), Batch::masked(images, vec![indices(file, "masks_ctx")], targets, noise))
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
