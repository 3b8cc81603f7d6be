//! A model of the least size that has everything, and a batch for it: for tests, and for what [`crate::lab`] tries out.

use crate::data::Augment;
use crate::kernels::Precision;
use crate::methods::stop::TokenForm;
use crate::methods::{Method, Model, ModelConfig};
use crate::nn::{LinearInit, Params, Role};
use crate::paper::Sigma;
use crate::paper::masking::MultiBlock;
use crate::rng::{Purpose, stream};
use crate::tensor::{DType, Indices, Tensor};
use crate::train::{Batch, Masking, Noise, RunConfig, Trainer};
use crate::vit::{EncoderConfig, PredictorConfig};

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

/// A trainer of 16 × 16 images in patches of 4, two blocks each way, in chunks of three images. Its weights are in
/// general position: no bias is 0, no γ is 1, and the target encoder is not the encoder, so that a term that vanishes
/// at the usual start does not vanish here.
pub fn trainer(method: Method, learned_positions: bool, dtype: DType) -> Trainer {
    let encoder = EncoderConfig {
        image_size: 16,
        patch_size: 4,
        dim: 12,
        depth: 2,
        heads: 3,
        mlp_ratio: 4.0,
        class_token: matches!(method, Method::Mae { .. }),
        patch_std: 0.3,
        position_scale: 0.5,
    };
    let predictor = PredictorConfig { dim: 8, depth: 2, heads: 2, learned_positions, embed_std: 0.3 };
    let config = ModelConfig { method, encoder, predictor, linear_init: LinearInit::Normal };
    let (model, mut params) =
        Model::new(&config, dtype, &mut stream(7, Purpose::Init, [0, 0])).expect("sizes that fit");
    perturb(&mut params.encoder, 0.2, 1);
    perturb(&mut params.predictor, 0.2, 2);
    params.target.iter_mut().for_each(|target| perturb(target, 0.2, 3));
    Trainer { chunk_images: 3, ..Trainer::new(model, params) }
}

/// Adds N(0, `std`²) to every trained parameter.
pub fn perturb(params: &mut Params, std: f64, seed: u64) {
    let mut rng = stream(seed, Purpose::Init, [0, 1]);
    for param in params.iter_mut().filter(|p| p.role == Role::Trained) {
        param.value.add_assign(&Tensor::normal(*param.value.shape(), std, param.value.dtype(), &mut rng));
    }
}

/// Seven images for such a trainer (so that the last chunk is smaller); for the methods with blocks, two context masks
/// and two target blocks.
pub fn batch(trainer: &Trainer) -> Batch {
    let (images, dtype) = (7, trainer.params.encoder.iter().next().map_or(DType::F32, |p| p.value.dtype()));
    let masks = |start: u32, n: u32| {
        Indices::from_rows(&(0..images).map(|i| (0..n).map(|k| (start + i + 3 * k) % 16).collect()).collect::<Vec<_>>())
    };
    let (context, targets) = match trainer.model.config.method {
        Method::Mae { .. } => (vec![masks(0, 4)], vec![masks(1, 5)]),
        Method::Ijepa { .. } | Method::Stop { .. } => (vec![masks(0, 5), masks(2, 5)], vec![masks(1, 3), masks(7, 3)]),
    };
    let pixels = Tensor::normal([images as usize, 3, 16, 16], 1.0, dtype, &mut stream(3, Purpose::Eval, [0, 0]));
    Batch { images: pixels, context, targets, noise: Noise::Drawn { seed: 5, step: 1 } }
}

/// StoP in the official form, the third of [`every_method`].
pub fn stop() -> Method {
    every_method().swap_remove(2)
}

/// Five steps of ten images of `shapes` for such a trainer's model.
pub fn run(trainer: &Trainer) -> RunConfig {
    RunConfig {
        model: trainer.model.config.clone(),
        data: "shapes".into(),
        normalization: None,
        init: None,
        masking: match trainer.model.config.method {
            Method::Mae { .. } => Masking::Random { ratio: 0.75 },
            Method::Ijepa { .. } | Method::Stop { .. } => {
                Masking::Blocks(MultiBlock { min_keep: 1, ..MultiBlock::for_small_grid((4, 4)) })
            }
        },
        augment: Augment { scale: (0.5, 1.0), flip: 0.5 },
        batch: 10,
        steps: 5,
        warmup: 1,
        lr: [1e-3, 1e-2, 1e-3],
        weight_decay: [0.04, 0.4],
        ema: [0.9, 1.0],
        precision: Precision::F32,
        seed: 1,
    }
}

/// Every bit of every parameter of a trainer in f32: what has to be the same in two runs that are to be the same run.
pub fn bits(trainer: &Trainer) -> Vec<u32> {
    let modules = [Some(&trainer.params.encoder), Some(&trainer.params.predictor), trainer.params.target.as_ref()];
    let params = modules.into_iter().flatten().flat_map(Params::iter);
    params.flat_map(|p| p.value.as_slice::<f32>().iter().map(|x| x.to_bits()).collect::<Vec<_>>()).collect()
}

/// Runs `work` in a pool of so many threads.
///
/// # Panics
/// When the system gives no such threads.
pub fn with_threads<R: Send>(threads: usize, work: impl FnOnce() -> R + Send) -> R {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    pool.unwrap_or_else(|e| panic!("{threads} threads: {e}")).install(work)
}
