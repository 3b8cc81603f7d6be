//! A model of the least size that has everything, and a batch for it: for tests, and for what [`crate::lab`] tries out.

use crate::data::Augment;
use crate::kernels::Precision;
use crate::methods::stop::TokenForm;
use crate::methods::{MethodConfig, ModelConfig};
use crate::nn::{LinearInit, Params, Role};
use crate::paper::masking::MultiBlock;
use crate::paper::{Covariance, NoiseOn, Penalty, PenaltyNorm, Sigma, TargetResolution};
use crate::rng::{Purpose, stream};
use crate::tensor::{DType, Indices, Tensor};
use crate::train::{Batch, EmaMomentum, LearningRate, Masking, Noise, RunConfig, Trainer, WeightDecay};
use crate::vit::{EncoderConfig, PredictorConfig};

/// Every method, in every form that computes something else.
pub fn every_method() -> Vec<MethodConfig> {
    let sigma = Sigma::from_std(0.5);
    let stop = |tokens| MethodConfig::stop(sigma, tokens);
    let variant = |noise_on, covariance, tokens| {
        let (target_blocks, sigma) = (1, sigma);
        MethodConfig::Stop { target_blocks, sigma, tokens, noise_on, covariance }
    };
    let penalized = |target_resolution, norm| {
        let penalty = Some(Penalty { norm, weight: 0.05 });
        MethodConfig::Ijepa { target_blocks: 1, target_resolution, penalty }
    };
    vec![
        MethodConfig::ijepa(1),
        MethodConfig::ijepa(2),
        stop(TokenForm::Official),
        stop(TokenForm::Paper),
        stop(TokenForm::PositionsOnly),
        variant(NoiseOn::Context, Covariance::Learned, TokenForm::Official),
        variant(NoiseOn::Both, Covariance::Fixed, TokenForm::Paper),
        variant(NoiseOn::Both, Covariance::Conditioned, TokenForm::Official),
        penalized(TargetResolution::Bilinear, PenaltyNorm::L1),
        penalized(TargetResolution::MaxPool, PenaltyNorm::L2),
        MethodConfig::Mae { normalize_patches: false },
        MethodConfig::Mae { normalize_patches: true },
    ]
}

/// A trainer of 16 × 16 images in patches of 4, two blocks each way, in chunks of three images. Its weights are in
/// general position: no bias is 0, no γ is 1, and the target encoder is not the encoder, so that a term that vanishes
/// at the usual start does not vanish here.
pub fn trainer(method: MethodConfig, learned_positions: bool, dtype: DType) -> Trainer {
    let encoder = EncoderConfig {
        image_size: 16,
        patch_size: 4,
        channels: 3,
        dim: 12,
        depth: 2,
        heads: 3,
        mlp_ratio: 4.0,
        class_token: method.class_token(),
        mask_token: false,
        patch_std: 0.3,
        position_scale: 0.5,
    };
    let predictor = PredictorConfig { dim: 8, depth: 2, heads: 2, learned_positions, embed_std: 0.3 };
    let config = ModelConfig { method, encoder, predictor, linear_init: LinearInit::Normal };
    let (method, mut params) = config.build(dtype, &mut stream(7, Purpose::Init, [0, 0])).expect("sizes that fit");
    (1..).zip(params.modules_mut()).for_each(|(seed, module)| perturb(&mut module.params, 0.2, seed));
    Trainer { chunk_images: 3, ..Trainer::new(method, params) }
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
    let (images, dtype) = (7, trainer.params["encoder"].iter().next().map_or(DType::F32, |p| p.value.dtype()));
    let masks = |start: u32, n: u32| {
        Indices::from_rows(&(0..images).map(|i| (0..n).map(|k| (start + i + 3 * k) % 16).collect()).collect::<Vec<_>>())
    };
    let (context, targets) = if trainer.config().encoder.class_token {
        (vec![masks(0, 4)], vec![masks(1, 5)])
    } else {
        (vec![masks(0, 5), masks(2, 5)], vec![masks(1, 3), masks(7, 3)])
    };
    let pixels = Tensor::normal([images as usize, 3, 16, 16], 1.0, dtype, &mut stream(3, Purpose::Eval, [0, 0]));
    Batch::masked(pixels, context, targets, Noise::Drawn { seed: 5, step: 1 })
}

/// StoP in the official form, the third of [`every_method`].
pub fn stop() -> MethodConfig {
    every_method().swap_remove(2)
}

/// Five steps of ten images of `shapes` for such a trainer's model.
pub fn run(trainer: &Trainer) -> RunConfig {
    let model = trainer.config().clone();
    let masking = match model.method.masking(4) {
        Masking::Blocks(blocks) => Masking::Blocks(MultiBlock { min_keep: 1, ..blocks }),
        random => random,
    };
    RunConfig {
        model,
        data: "shapes".into(),
        normalization: None,
        init: None,
        masking,
        augment: Augment { scale: (0.5, 1.0), flip: 0.5 },
        batch: 10,
        steps: 5,
        lr: LearningRate { start: 1e-3, peak: 1e-2, end: 1e-3, warmup: 1 },
        weight_decay: WeightDecay { start: 0.04, end: 0.4 },
        ema: EmaMomentum { start: 0.9, end: 1.0 },
        precision: Precision::F32,
        seed: 1,
    }
}

/// Every bit of every parameter of a trainer in f32: what has to be the same in two runs that are to be the same run.
pub fn bits(trainer: &Trainer) -> Vec<u32> {
    let params = trainer.params.modules().iter().flat_map(|module| module.params.iter());
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
