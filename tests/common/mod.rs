//! A model of the least size that has everything, and a batch for it.

use stop_mim::methods::stop::TokenForm;
use stop_mim::methods::{Method, Model, ModelConfig};
use stop_mim::nn::LinearInit;
use stop_mim::paper::Sigma;
use stop_mim::rng::{Purpose, stream};
use stop_mim::train::{Batch, Noise, Trainer};
use stop_mim::vit::{EncoderConfig, PredictorConfig};
use stop_mim::{DType, Indices, Tensor};

/// Every method, in every form that computes something else.
pub fn every_method() -> Vec<Method> {
    let sigma = Sigma::from_std(0.5);
    let stop = |tokens| Method::Stop { target_blocks: 1, sigma, tokens };
    vec![
        Method::Ijepa { target_blocks: 1 },
        Method::Ijepa { target_blocks: 2 },
        stop(TokenForm::Official),
        stop(TokenForm::Paper),
        stop(TokenForm::PositionsOnly),
        Method::Mae { normalize_patches: false },
        Method::Mae { normalize_patches: true },
    ]
}

/// A trainer of 16 × 16 images in patches of 4, two blocks each way.
pub fn tiny(method: Method, learned_positions: bool, dtype: DType) -> Trainer {
    let encoder = EncoderConfig {
        image_size: 16,
        patch_size: 4,
        dim: 12,
        depth: 2,
        heads: 3,
        class_token: matches!(method, Method::Mae { .. }),
        patch_std: 0.3,
        position_scale: 0.5,
    };
    let predictor = PredictorConfig { dim: 8, depth: 2, heads: 2, learned_positions, embed_std: 0.3 };
    let config = ModelConfig { method, encoder, predictor, linear_init: LinearInit::Normal };
    let (model, params) = Model::new(&config, dtype, &mut stream(7, Purpose::Init, [0, 0])).expect("sizes that fit");
    Trainer::new(model, params)
}

/// Seven images; for the methods with blocks, two context masks and two target blocks.
pub fn batch(trainer: &Trainer) -> Batch {
    let (images, dtype) = (7, trainer.params.encoder.iter().next().expect("parameters").value.dtype());
    let masks = |start: u32, n: u32| {
        Indices::from_rows(&(0..images).map(|i| (0..n).map(|k| (start + i + 3 * k) % 16).collect()).collect::<Vec<_>>())
    };
    let (context, targets) = match trainer.model.config.method {
        Method::Mae { .. } => (vec![masks(0, 4)], vec![masks(1, 5)]),
        _ => (vec![masks(0, 5), masks(2, 5)], vec![masks(1, 3), masks(7, 3)]),
    };
    let pixels = Tensor::normal([images as usize, 3, 16, 16], 1.0, dtype, &mut stream(3, Purpose::Eval, [0, 0]));
    Batch { images: pixels, context, targets, noise: Noise::Drawn { seed: 5, step: 1 } }
}
