//! Recipes: the configuration from which the command line starts, for a method and a preset.

use super::config::RunConfig;
use super::schedule::{EmaMomentum, LearningRate, WeightDecay};
use crate::data::Augment;
use crate::kernels::Precision;
use crate::methods::{MethodConfig, ModelConfig};
use crate::vit::{EncoderConfig, Preset};

/// Images in `shapes`, on which a recipe trains where nothing else is said.
const SHAPES: usize = 50_000;

impl RunConfig {
    /// Passes over the training images in a recipe (docs/experiments.md).
    pub const EPOCHS: usize = 16;
    /// Warm-up in a recipe, as a share of the run (docs/experiments.md).
    pub const WARMUP: f64 = 0.1;

    /// The configuration of `stop-mim pretrain --method … --preset …`: sixteen passes over `shapes`, with seed 0.
    ///
    /// | what | from where |
    /// |---|---|
    /// | sizes, and standard deviations of initial weights | [`Preset::sizes`] |
    /// | class token, initialization of linear layers | the official code: MAE has one and Xavier's, the others none and N(0, 0.02²) |
    /// | masks | [`MethodConfig::masking`] |
    /// | crops and flips | the official code of StoP, [`Augment::STOP`] |
    /// | batch 64, 16 epochs, a tenth of it warm-up, learning rate 5·10⁻⁴, weight decay 0.05, momentum 0.9995 to 1 | found for [`Preset::Toy`] (docs/experiments.md), and the same for all presets |
    ///
    /// The paper's schedules for its ViTs, with batches of 2048 images, are in its Tables 9 to 12.
    ///
    /// ```
    /// use stop_mim::methods::{MethodConfig, stop::TokenForm};
    /// use stop_mim::{paper::Sigma, train::RunConfig, vit::Preset};
    ///
    /// let method = MethodConfig::stop(Sigma::OFFICIAL, TokenForm::Official);
    /// let recipe = RunConfig::for_method(method, Preset::Toy).with_peak_lr(1e-3);
    /// let config = RunConfig { batch: 32, data: "cifar10:data".into(), ..recipe }.with_steps(5_000);
    /// assert_eq!(config.lr.warmup, 500);
    /// config.validate()?;
    /// # Ok::<(), stop_mim::Error>(())
    /// ```
    pub fn for_method(method: MethodConfig, preset: Preset) -> RunConfig {
        let (encoder, predictor) = preset.sizes();
        let encoder = EncoderConfig { class_token: method.class_token(), ..encoder };
        let (masking, linear_init) = (method.masking(encoder.grid()), method.linear_init());
        let model = ModelConfig { method, encoder, predictor, linear_init };
        let batch = 64;
        let recipe = RunConfig {
            masking,
            model,
            data: "shapes".to_owned(),
            normalization: None,
            init: None,
            augment: Augment::STOP,
            batch,
            steps: 0,
            lr: LearningRate { start: 0.0, peak: 0.0, end: 0.0, warmup: 0 },
            weight_decay: WeightDecay { start: 0.05, end: 0.05 },
            ema: EmaMomentum { start: 0.9995, end: 1.0 },
            precision: Precision::F32,
            seed: 0,
        };
        recipe.with_peak_lr(5e-4).with_steps(Self::EPOCHS * (SHAPES / batch))
    }

    /// This run with a learning rate from a fifth of `peak` over `peak` to a hundredth of it (docs/experiments.md).
    #[must_use]
    pub fn with_peak_lr(self, peak: f64) -> RunConfig {
        let lr = LearningRate { start: peak / 5.0, peak, end: peak / 100.0, ..self.lr };
        RunConfig { lr, ..self }
    }

    /// This run with so many steps, of which the share [`WARMUP`](Self::WARMUP) is warm-up.
    #[must_use]
    pub fn with_steps(self, steps: usize) -> RunConfig {
        let lr = LearningRate { warmup: (Self::WARMUP * steps as f64).round() as usize, ..self.lr };
        RunConfig { steps, lr, ..self }
    }
}
