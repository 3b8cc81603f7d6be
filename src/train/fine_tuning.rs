//! Fine-tuning: a linear head on the pooled tokens, trained together with the encoder (the paper's Tables 5, 15 and 17).
//!
//! The paper does not say how it fine-tunes; this is what MAE and BEiT do, at the size of this crate. It is a [`Method`] with
//! the modules `encoder` and `head`, so that the loop, the schedules, the log and the checkpoints are those of pretraining.
//!
//! | what | as in |
//! |---|---|
//! | learning rate of a layer: layer decay^(depth + 1 − layer), embeddings 0, block i at i + 1, norm and head 1 | BEiT (Bao et al., 2022), MAE |
//! | drop path: from 0 in the first block to its rate in the last, drawn for each image and branch, kept branches × 1 / (1 − rate) | Huang et al., 2016, as in timm |
//! | label smoothing | Szegedy et al., 2016 |
//! | head: weights N(0, (2 · 10⁻⁵)²), bias 0; no decay of vectors and tokens; positions stay fixed | MAE |
//! | warm-up, cosine, crops and flips | [`RunConfig`] |
//!
//! Departure: the official code of MAE drops the encoder's last norm and normalizes the mean of the tokens; here the tokens are
//! normalized and then averaged, as for [`pooled_features`]. Left out: Mixup, CutMix, RandAugment, random erasing.

#[cfg(feature = "checkpoint")]
mod classifier;
#[cfg(test)]
mod tests;

use std::ops::ControlFlow;
use std::sync::Arc;

use rand::{Rng, RngExt};

#[cfg(feature = "checkpoint")]
pub use self::classifier::Classifier;
use super::algorithm_1::Trainer;
use super::config::RunConfig;
use super::pretrain::{StepReport, fresh_model, resume};
use crate::autograd::{Var, ops};
use crate::data::{Dataset, Normalization, Splits, Subset};
use crate::eval::{accuracy, labels, pooled_features};
use crate::methods::{
    Chunk, Draws, Method, MethodConfig, ModelConfig, ModelParams, ModelWeights, Recording, Update, ViewConfig,
};
use crate::nn::{Linear, Param, ParamGroup, Params, Role, fresh};
use crate::rng::Purpose;
use crate::tensor::{DType, Device, Indices, Tensor};
use crate::vit::{Encoder, EncoderConfig, Preset};
use crate::{Error, Result};

/// What the method is called in logs.
pub(super) const NAME: &str = "finetune";

/// Standard deviation of the head's initial weights.
const HEAD_STD: f64 = 2e-5;

/// What a run of fine-tuning has that one of pretraining has not.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
pub struct FineTuning {
    /// What the classes are called, in the order of their labels.
    pub classes: Vec<String>,
    /// The share of the training images whose labels are used, above 0 and at most 1; the others are not looked at.
    pub labels: f64,
    /// ε: a label counts as 1 − ε of its class and ε of all classes in equal parts.
    pub label_smoothing: f64,
    /// The probability with which an image goes without a branch of the last block.
    pub drop_path: f64,
    /// By how much a layer learns more slowly than the one above it.
    pub layer_decay: f64,
}

impl FineTuning {
    /// All labels of these classes, with the values of the recipe: smoothing 0.1, drop path 0.1, layer decay 0.75.
    pub fn new(classes: &[String]) -> Self {
        FineTuning { classes: classes.to_vec(), labels: 1.0, label_smoothing: 0.1, drop_path: 0.1, layer_decay: 0.75 }
    }

    /// Settings that can work on such an encoder.
    ///
    /// # Errors
    /// [`Error::Config`] that names the first that cannot.
    pub fn validate(&self, encoder: &EncoderConfig) -> Result<()> {
        if let Some(problem) = encoder.problem() {
            return Err(Error::config(problem, "choose sizes that fit together, or a preset"));
        }
        let FineTuning { ref classes, labels, label_smoothing, drop_path, layer_decay } = *self;
        let share = "choose a number from 0 to below 1";
        for (fine, problem, hint) in [
            (
                classes.len() > 1,
                format!("{} classes to tell apart", classes.len()),
                "give images of at least two classes",
            ),
            (
                0.0 < labels && labels <= 1.0,
                format!("`labels` is a share of {labels}"),
                "choose one above 0, at most 1 (100 %)",
            ),
            ((0.0..1.0).contains(&label_smoothing), format!("`label_smoothing` is {label_smoothing}"), share),
            ((0.0..1.0).contains(&drop_path), format!("`drop_path` is {drop_path}"), share),
            (
                0.0 < layer_decay && layer_decay <= 1.0,
                format!("`layer_decay` is {layer_decay}"),
                "choose one above 0, at most 1",
            ),
        ] {
            if !fine {
                return Err(Error::config(problem, hint));
            }
        }
        let finite = |x: f64| x >= 0.0 && x.is_finite();
        if finite(encoder.patch_std) && finite(encoder.position_scale) {
            return Ok(());
        }
        let (std, scale) = (encoder.patch_std, encoder.position_scale);
        let problem = format!("`patch_std` is {std}, `position_scale` is {scale}");
        Err(Error::config(problem, "choose numbers that are not negative"))
    }

    /// Numbers in the parameters of such a model, from its sizes alone.
    #[cfg(feature = "checkpoint")]
    pub(super) fn elements(&self, encoder: &EncoderConfig) -> u64 {
        encoder.elements() + (encoder.dim as u64 + 1) * self.classes.len() as u64
    }

    /// How many of so many training images are used: the [share](Self::labels), but at least one of each class.
    pub fn images(&self, all: usize) -> usize {
        ((self.labels * all as f64).round() as usize).clamp(self.classes.len().min(all), all)
    }

    /// The images that a run with this seed trains on, with those it is tested on: a [balanced](Subset::balanced) choice of
    /// the training images, and all test images. Of two shares with one seed, the smaller is part of the larger.
    ///
    /// # Errors
    /// When an image has no label, a class no training image, there are no test images, or the classes are not these.
    pub fn choose(&self, splits: &Splits, seed: u64) -> Result<Splits> {
        let in_folders = "give images in class folders, as in DIR/train/CLASS/name.jpg and DIR/test/CLASS/name.jpg";
        let Splits { train, test, .. } = splits;
        let refused = |images: &Arc<dyn Dataset>, problem: &str, hint: &str| {
            Err(Error::config(format!("{}: {problem}", images.describe()), hint))
        };
        if train.class_names().is_empty() {
            return refused(train, "fine-tuning needs labels, and these images have none", in_folders);
        }
        if train.class_names() != self.classes {
            let hint = "give images of the same classes in the same order, or begin a new run with these";
            return refused(train, &format!("its classes are not the {} of the run", self.classes.len()), hint);
        }
        let mut counts = vec![0; self.classes.len()];
        for label in 0..train.len() {
            let Some(class) = train.label(label) else {
                return refused(train, &format!("image {label} has no label"), in_folders);
            };
            counts[class] += 1;
        }
        if let Some(class) = counts.iter().position(|count| *count == 0) {
            let problem = format!("no training image of the class {}", self.classes[class]);
            return refused(train, &problem, "add some, or take the class away");
        }
        if test.is_empty() {
            return refused(test, "no images to test with", in_folders);
        }
        if labels(&**test).is_none() {
            let hint = "add training images of these classes, or take them out of the test images";
            return refused(test, "some of these images are of classes that no training image has", hint);
        }
        let chosen = Subset::balanced(Arc::clone(train), self.images(train.len()), seed);
        Ok(splits.clone().with_train(Arc::new(chosen)))
    }
}

impl RunConfig {
    /// The configuration of `stop-mim finetune`: what [`FineTuning`] says, on so many training images (all there are, with
    /// labels used or not).
    ///
    /// | what | from where |
    /// |---|---|
    /// | batch 64, weight decay 0.05, warm-up a tenth | as [`for_method`](Self::for_method) |
    /// | passes over the images 16 / √share: 16, 51, 160 for all, 10 %, 1 % | fewer images are soon known by heart, and are few steps |
    /// | learning rate 10⁻³ | docs/fine-tuning.md |
    pub fn for_fine_tuning(encoder: &EncoderConfig, tuning: FineTuning, images: usize) -> RunConfig {
        let recipe = RunConfig::for_method(MethodConfig::Mae { normalize_patches: false, sigma: None }, Preset::Toy);
        let images = tuning.images(images).max(1);
        let batch = recipe.batch.min(images);
        let epochs = RunConfig::fine_tuning_epochs(tuning.labels);
        let model = ModelConfig { encoder: encoder.clone(), ..recipe.model };
        let config = RunConfig { model, batch, fine_tuning: Some(tuning), ..recipe };
        config.with_peak_lr(1e-3).with_steps((epochs * (images / batch) as f64).round() as usize)
    }

    /// Passes over the labeled images in the recipe of fine-tuning, with this share of them.
    pub fn fine_tuning_epochs(labels: f64) -> f64 {
        (RunConfig::EPOCHS as f64 / labels.sqrt()).round()
    }
}

/// The encoder with a head.
#[derive(Debug)]
struct Classify {
    encoder: Encoder,
    head: Linear,
    tuning: FineTuning,
}

/// The method of fine-tuning with fresh parameters: an untrained encoder, which is the baseline, and a head.
///
/// # Errors
/// When the settings cannot work.
pub fn build(
    model: &ModelConfig,
    tuning: &FineTuning,
    dtype: DType,
    rng: &mut impl Rng,
) -> Result<(Arc<dyn Method>, ModelParams)> {
    tuning.validate(&model.encoder)?;
    let (encoder, mut theta) = fresh(model.linear_init, dtype, rng, |init| Encoder::new(&model.encoder, init));
    theta.iter_mut().filter(|p| p.name == "mask_token").for_each(|p| p.role = Role::Unused);
    let (classes, dim) = (tuning.classes.len(), model.encoder.dim);
    let (head, of_head) = fresh(model.linear_init, dtype, rng, |init| Linear {
        weight: init.normal("weight", [classes, dim], HEAD_STD, Role::Trained),
        bias: init.full("bias", [classes], 0.0),
    });
    let params = ModelParams::new().with("encoder", Update::Trained, theta).with("head", Update::Trained, of_head);
    Ok((Arc::new(Classify { encoder, head, tuning: tuning.clone() }), params))
}

impl Classify {
    /// What the branches of each block are multiplied by, \[b, 1, 1\] each: 0 where an image goes without, else 1 / (1 − rate).
    fn scales(&self, draws: &Draws, like: &Tensor) -> Vec<[Var; 2]> {
        let (images, depth) = (like.shape()[0], self.encoder.config().depth);
        let rates = drop_path_rates(self.tuning.drop_path, depth);
        // Of each image in turn, both branches of each block.
        let drawn: Vec<Vec<[f64; 2]>> = (0..images)
            .map(|image| {
                let mut rng = draws.of(Purpose::DropPath, image);
                let mut scale = |rate: f64| if rng.random::<f64>() < rate { 0.0 } else { 1.0 / (1.0 - rate) };
                rates.iter().map(|rate| [scale(*rate), scale(*rate)]).collect()
            })
            .collect();
        let scales = |block: usize, branch: usize| {
            let scales = Tensor::from_fn([images, 1, 1], like.dtype(), |image| drawn[image][block][branch]);
            Var::from(scales.to_device(like.device()))
        };
        (0..depth).map(|block| [0, 1].map(|branch| scales(block, branch))).collect()
    }
}

/// The probability with which a branch of each block is dropped: in equal steps from 0 in the first to `rate` in the last.
fn drop_path_rates(rate: f64, depth: usize) -> Vec<f64> {
    (0..depth).map(|block| rate * block as f64 / (depth - 1).max(1) as f64).collect()
}

/// The factor of a parameter's learning rate, by the name of its module and its own.
fn layer_factor(decay: f64, depth: usize, module: &str, name: &str) -> f64 {
    let layer = match name.strip_prefix("blocks.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok()) {
        Some(block) => block + 1,
        None if module == "head" || name.starts_with("norm.") => depth + 1,
        None => 0,
    };
    decay.powi((depth + 1 - layer) as i32)
}

/// Cross-entropy of logits \[rows, classes\] against q = (1 − ε) onehot(class) + ε / classes, as a mean over rows:
/// −Σ q ln softmax(z) = −ln softmax(z)\[class\] + ε (z\[class\] − mean z).
///
/// # Panics
/// As [`ops::cross_entropy`].
#[track_caller]
pub fn smoothed_cross_entropy(logits: &Var, classes: &Indices, smoothing: f64) -> Var {
    let [rows, count] = logits.dims("smoothed_cross_entropy");
    let plain = ops::cross_entropy(logits, classes);
    if smoothing == 0.0 {
        return plain;
    }
    let of_class = ops::gather_tokens(&logits.reshape([rows, count, 1]), classes); // [rows, 1, 1]
    plain + (ops::mean(&of_class) - ops::mean(logits)) * smoothing
}

impl Method for Classify {
    fn name(&self) -> &str {
        NAME
    }

    fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    fn views(&self) -> Vec<ViewConfig> {
        vec![ViewConfig { augment: None, masked: false }]
    }

    fn wants_labels(&self) -> bool {
        true
    }

    fn record(&self, w: &ModelWeights, chunk: &Chunk) -> Recording {
        let images = Var::constant(chunk.images().clone());
        let theta = &w["encoder"];
        let tokens = match &chunk.draws {
            Some(draws) if self.tuning.drop_path > 0.0 => {
                self.encoder.forward_scaled(theta, &images, &self.scales(draws, chunk.images()))
            }
            _ => self.encoder.forward(theta, &images, None),
        };
        let (config, [_, all, _]) = (self.encoder.config(), tokens.dims("fine-tuning: tokens"));
        let patches = ops::slice_tokens(&tokens, all - config.patches(), config.patches()); // without a class token
        let logits = self.head.forward(&w["head"], &patches.mean_axis(1));
        let labels = chunk.labels.as_ref().expect("a chunk with labels");
        Recording { loss: smoothed_cross_entropy(&logits, labels, self.tuning.label_smoothing), means: Vec::new() }
    }

    fn group(&self, module: &str, param: &Param) -> ParamGroup {
        let lr_factor = layer_factor(self.tuning.layer_decay, self.encoder.config().depth, module, &param.name);
        let decay_factor = if param.name == "cls_token" { 0.0 } else { ParamGroup::of(param).decay_factor };
        ParamGroup { lr_factor, decay_factor }
    }

    fn class_scores(&self, params: &ModelParams, features: &Tensor) -> Option<Tensor> {
        let features = Var::constant(features.to_device(params.device()));
        let scores = self.head.forward(&params["head"].constants(), &features);
        Some(scores.value().to_device(Device::Cpu))
    }
}

/// A run of this configuration about to begin, with these weights of the encoder; `None`: from scratch, with those that the seed
/// draws.
///
/// # Errors
/// When the configuration cannot work, is one of pretraining, or the encoder is of other sizes.
pub fn trainer(start: Option<(&Encoder, &Params)>, config: &RunConfig) -> Result<Trainer> {
    config.validate()?;
    tuning(config)?;
    let (method, mut params) = fresh_model(config)?;
    if let Some((encoder, weights)) = start {
        let of = |params: &Params| params.iter().map(|p| (p.name.clone(), *p.value.shape())).collect::<Vec<_>>();
        let theta = &mut params["encoder"];
        if encoder.config().heads != config.model.encoder.heads || of(weights) != of(theta) {
            let problem = "the encoder to begin with is not of the configuration's sizes";
            return Err(Error::config(problem, "make the configuration with the encoder's own (`Encoder::config`)"));
        }
        theta.iter_mut().zip(weights.iter()).for_each(|(param, start)| param.value = start.value.clone());
    }
    Ok(Trainer::new(method, params))
}

fn tuning(config: &RunConfig) -> Result<&FineTuning> {
    let hint = "set `fine_tuning`: RunConfig::for_fine_tuning does";
    config
        .fine_tuning
        .as_ref()
        .ok_or_else(|| Error::config("a configuration of pretraining, to be fine-tuned with", hint))
}

/// What [`fine_tune`] gives.
#[derive(Clone, Debug)]
pub struct FineTuned {
    /// Encoder and head after the last step.
    pub trainer: Trainer,
    /// The share of all test images that it tells right after the last step.
    pub accuracy: f64,
}

/// Fine-tunes an encoder (`None`: trains one from scratch) on the labels that the configuration uses, and tests it after the last
/// step: no step is chosen by its accuracy. `observe` is as for [`pretrain`](super::pretrain()), and may end the run.
///
/// ```no_run
/// use std::ops::ControlFlow;
///
/// use stop_mim::train::fine_tuning::{FineTuning, fine_tune};
/// use stop_mim::train::{RunConfig, weights::PretrainedEncoder};
/// use stop_mim::{data, vit::Preset};
///
/// let PretrainedEncoder { encoder, params } = PretrainedEncoder::from_safetensors("checkpoint.safetensors", Preset::Toy)?;
/// let splits = data::open("shapes", 32)?;
/// let tuning = FineTuning { labels: 0.01, ..FineTuning::new(splits.train.class_names()) };
/// let config = RunConfig::for_fine_tuning(encoder.config(), tuning, splits.train.len());
/// let tuned = fine_tune(Some((&encoder, &params)), &config, &splits, &mut |_, _| Ok(ControlFlow::Continue(())))?;
/// println!("{:.1} %", 100.0 * tuned.accuracy);
/// # Ok::<(), stop_mim::Error>(())
/// ```
///
/// # Errors
/// As [`trainer`], [`FineTuning::choose`] and [`pretrain`](super::pretrain()).
pub fn fine_tune(
    start: Option<(&Encoder, &Params)>,
    config: &RunConfig,
    splits: &Splits,
    observe: &mut dyn FnMut(&StepReport, &Trainer) -> Result<ControlFlow<()>>,
) -> Result<FineTuned> {
    let chosen = tuning(config)?.choose(splits, config.seed)?;
    let normalization = splits.normalization_or(config.normalization.as_ref())?;
    let config = RunConfig { normalization: Some(normalization.clone()), ..config.clone() };
    let trainer = resume(trainer(start, &config)?, &config, &chosen, 0, observe).map_err(|failed| failed.error)?;
    let model = (&*trainer.method, &trainer.params);
    let accuracy = test_accuracy(model, (&*splits.test, &normalization), &|_| Ok(()))?;
    Ok(FineTuned { trainer, accuracy })
}

/// The share of these images that a fine-tuned model tells right. `progress` is as for [`pooled_features`].
///
/// # Errors
/// When the model tells no classes, an image has no label or cannot be read, or `progress` says so.
pub fn test_accuracy(
    (method, params): (&dyn Method, &ModelParams),
    (images, normalization): (&dyn Dataset, &Normalization),
    progress: &(dyn Fn(usize) -> Result<()> + Sync),
) -> Result<f64> {
    let params = params.map(|x| x.to_dtype(DType::F32));
    let data = (images, normalization);
    let features = pooled_features(method.encoder(), params.evaluated(), data, 1, progress)?.swap_remove(0);
    let no_labels =
        || Error::config(format!("{}: some have no label", images.describe()), "test on images with classes");
    let no_head = || Error::config(format!("{} tells no classes", method.name()), "fine-tune it first");
    let labels = labels(images).ok_or_else(no_labels)?;
    Ok(accuracy(&method.class_scores(&params, &features).ok_or_else(no_head)?, &labels))
}
