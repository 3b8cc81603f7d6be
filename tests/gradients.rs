//! Every derivative that training rests on, in f64: what `stop-mim check gradients` and `stop-mim check graph` print is
//! asserted here, and that a trainer without a gradient, or with another cut into chunks, behaves as it must.

use stop_mim::lab::{Finding, gradients, small};
use stop_mim::methods::{Chunk, MethodConfig, MethodOptions};
use stop_mim::nn::Role;
use stop_mim::paper::{NoiseOn, Sigma, sample_noise};
use stop_mim::rng::{Purpose, stream};
use stop_mim::train::{Batch, Trainer};
use stop_mim::{DType, Error, Indices, Tensor};

#[test]
fn every_operation() {
    gradients::operations().iter().for_each(Finding::assert_pass);
}

#[test]
fn every_layer() {
    gradients::layers().iter().for_each(Finding::assert_pass);
}

#[test]
fn a_training_step_of_every_method() {
    let findings = gradients::training_steps();
    assert_eq!(findings.len(), small::every_method().len() + 1);
    findings.iter().for_each(Finding::assert_pass);
}

/// MAE with noise of no size, whose masked tokens are made by Eq. (6), is MAE: m_j = A 0 + ψ_j + m.
#[test]
fn a_silent_sigma_is_none() {
    let found = |sigma| {
        let method = MethodConfig::Mae { normalize_patches: true, sigma };
        let trainer = small::trainer(method, false, DType::F64);
        trainer.gradients(&small::batch(&trainer)).unwrap()
    };
    let (none, silent, loud) = (found(None), found(Some(Sigma::SILENT)), found(Some(Sigma::from_std(0.5))));
    assert!(none.loss.item() == silent.loss.item() && none.loss.item() != loud.loss.item());
    let mut gradients = none.gradients.iter().zip(&silent.gradients);
    assert!(gradients.all(|(x, y)| x.max_abs_diff(y) == 0.0));
}

#[test]
fn the_error_of_a_difference_quotient_is_a_v() {
    gradients::sweep().unwrap().findings.iter().for_each(Finding::assert_pass);
}

#[test]
fn a_parameter_without_a_gradient_is_named() {
    let stop = small::stop(); // official form: the mask token is not read
    let mut trainer = small::trainer(stop, false, DType::F64);
    let batch = small::batch(&trainer);
    assert!(trainer.gradients(&batch).is_ok());
    let mask_token = trainer.method.as_masked_prediction().unwrap().predictor().mask_token;
    trainer.params["predictor"].set_role(mask_token, Role::Trained);
    match trainer.gradients(&batch) {
        Err(Error::Training { problem, .. }) => assert!(problem.contains("mask_token"), "{problem}"),
        other => panic!("{other:?}"),
    }
}

/// 64 images for a small trainer, with two context masks and two target blocks.
fn batch_of_64(trainer: &Trainer) -> Batch {
    let mut seven = small::batch(trainer);
    let view = seven.views.swap_remove(0);
    let repeated =
        |masks: &[Indices]| -> Vec<Indices> { masks.iter().map(|mask| mask.repeat(10).slice_rows(0..64)).collect() };
    let images = Tensor::concat_rows(&vec![view.images; 10]).rows(0..64);
    Batch::masked(images, repeated(&view.context), repeated(&view.targets), seven.noise)
}

/// StoP with noise on these tokens.
fn stop_with_noise_on(noise_on: NoiseOn) -> Trainer {
    let options = MethodOptions { noise_on: Some(noise_on), sigma: Some(Sigma::from_std(0.5)), ..Default::default() };
    small::trainer(MethodConfig::new("stop", &options).unwrap(), false, DType::F32)
}

/// The two kinds of noise of a chunk.
type NoiseOf = fn(Chunk) -> Option<Tensor>;
const OF_MASKED: NoiseOf = |chunk| chunk.noise;
const OF_CONTEXT: NoiseOf = |chunk| chunk.context_noise;

#[test]
fn chunks_do_not_change_what_is_drawn() {
    does_not_depend_on_chunks(&stop_with_noise_on(NoiseOn::Masked), OF_MASKED);
    does_not_depend_on_chunks(&stop_with_noise_on(NoiseOn::Context), OF_CONTEXT);
    does_not_depend_on_chunks(&stop_with_noise_on(NoiseOn::Both), OF_MASKED);
    does_not_depend_on_chunks(&stop_with_noise_on(NoiseOn::Both), OF_CONTEXT);
}

fn does_not_depend_on_chunks(trainer: &Trainer, noise: NoiseOf) {
    let batch = batch_of_64(trainer);
    let whole = noise(trainer.chunk(&batch, 0..64)).unwrap();
    let blocks = whole.shape()[0] / 64;
    for size in [1, 2, 3, 8] {
        for start in (0..64).step_by(size) {
            let images = start..(start + size).min(64);
            let chunk = noise(trainer.chunk(&batch, images.clone())).unwrap();
            for block in 0..blocks {
                let here = chunk.rows(block * images.len()..(block + 1) * images.len());
                let there = whole.rows(block * 64 + images.start..block * 64 + images.end);
                assert_eq!(here.as_slice::<f32>(), there.as_slice::<f32>(), "images {images:?}, block {block}");
            }
        }
    }
    // No two images, and no two blocks of one, share a draw.
    let mut rows: Vec<&[f32]> = whole.as_slice::<f32>().chunks(whole.elements() / whole.shape()[0]).collect();
    rows.sort_by(|a, b| a.partial_cmp(b).unwrap());
    rows.dedup();
    assert_eq!(rows.len(), whole.shape()[0]);
}

/// Noise on one kind of tokens is the same whether or not there is some on the other, and each image's is a stream's.
#[test]
fn noise_on_one_kind_of_tokens_does_not_move_the_other() {
    let [masked, context, both] = [NoiseOn::Masked, NoiseOn::Context, NoiseOn::Both].map(|on| {
        let trainer = stop_with_noise_on(on);
        trainer.chunk(&small::batch(&trainer), 2..6)
    });
    assert!(masked.context_noise.is_none() && context.noise.is_none());
    let drawn = |noise: &Option<Tensor>| noise.as_ref().unwrap().as_slice::<f32>().to_vec();
    assert_eq!(drawn(&masked.noise), drawn(&both.noise));
    assert_eq!(drawn(&context.context_noise), drawn(&both.context_noise));
    // Two context masks of five tokens, two target blocks of three; seed 5, step 1; image 2 is the first of four.
    for (noise, purpose, shape) in
        [(&both.noise, Purpose::Noise, [4, 3, 12]), (&both.context_noise, Purpose::ContextNoise, [2, 5, 12])]
    {
        let one = sample_noise(shape, Sigma::from_std(0.5), DType::F32, &mut stream(5, purpose, [1, 2]));
        let first: Vec<f32> = (0..shape[0])
            .flat_map(|row| noise.as_ref().unwrap().rows(4 * row..4 * row + 1).as_slice::<f32>().to_vec())
            .collect();
        assert_eq!(one.as_slice::<f32>(), first);
    }
}

#[test]
fn chunks_do_not_change_what_is_computed() {
    for method in small::every_method() {
        let mut trainer = small::trainer(method, false, DType::F64);
        let batch = batch_of_64(&trainer);
        trainer.chunk_images = 64;
        let whole = trainer.gradients(&batch).unwrap();
        for chunk_images in [1, 2, 3, 8] {
            trainer.chunk_images = chunk_images;
            let cut = trainer.gradients(&batch).unwrap();
            let (apart, loss) = (cut.loss.max_abs_diff(&whole.loss), whole.loss.item());
            assert!(apart < 1e-14, "{:?} in chunks of {chunk_images}: {apart:e} of {loss}", trainer.config().method);
            for (x, y) in cut.gradients.iter().zip(&whole.gradients) {
                assert!(x.max_abs_diff(y) < 1e-13);
            }
        }
    }
}

#[cfg(feature = "cli")]
#[test]
fn the_program_says_what_is_wrong_with_a_graph() {
    let sizes = "--dim 16 --depth 2 --heads 2 --predictor-dim 8 --predictor-depth 1 --predictor-heads 1";
    let graph = |more: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_stop-mim"));
        let output = command.args(format!("check graph {sizes} {more}").split_whitespace()).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    for method in ["stop", "ijepa", "mae", "mae --sigma-std 1", "stop --stop-tokens paper --learned-positions"] {
        let (code, text) = graph(&format!("--method {method}"));
        assert_eq!(code, Some(0), "{text}");
        assert!(text.contains("attention") && !text.contains("MISMATCH"), "{text}");
    }
    let (code, text) = graph("--poison blocks.1.attn.qkv.weight");
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("the parameter blocks.1.attn.qkv.weight is not finite"), "{text}");
    let (code, text) = graph("--poison blocks.7.attn.qkv.weight");
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("no parameter called blocks.7.attn.qkv.weight"), "{text}");
}
