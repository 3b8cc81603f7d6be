//! Where a model in training stands: has the encoder collapsed, and does the noise hide anything?

use rayon::prelude::*;

use super::algorithm_1::Trainer;
use super::batch::{Batch, Noise};
use super::config::RunConfig;
use crate::autograd::ops;
use crate::data::{Dataset, Normalization, evaluation_images};
use crate::eval::{accuracy, feature_std, labels, noise_sensitivity, pooled_features, rank_me, rms, target_std};
use crate::methods::{Chunk, InPlacePrediction, MaskedPrediction, Number, Numbers};
use crate::paper::{PositionDistribution, Sigma, WhitenedPositions, visible_norm};
use crate::rng::{Purpose, stream};
use crate::tensor::{DType, Device, Indices, Tensor};
use crate::{Error, Result};

/// Held-out images that rank and deviation of features are measured on.
pub(super) const HELD_OUT: usize = 512;
/// Of these, how many the predictor and the targets are looked at with.
const PREDICTED: usize = 64;
/// Draws in all that positions are decoded from: a standard error of at most half a per cent.
const DECODED: usize = 10_000;
/// Key of the random streams of diagnostics: no step of training draws from them.
const KEY: u64 = 1;

/// The diagnostics, as logs and figures show them, without their values.
pub const DIAGNOSTICS: [Number; 11] = [
    Number::new("feature_std", "pooled features", "std over images", f64::NAN),
    Number::new("rank_me", "RankMe", "effective rank", f64::NAN),
    Number::new("norm_gamma", "|γ|", "norm", f64::NAN),
    Number::new("target_std", "targets", "std over images", f64::NAN),
    Number::new("visible_norm_a", "visible |A|", "norm", f64::NAN),
    Number::new("context_rms", "context A s", "RMS", f64::NAN),
    Number::new("neighbor_distance", "mean d′", "neighbors", f64::NAN),
    Number::new("min_neighbor_distance", "least d′", "neighbors", f64::NAN),
    Number::new("position_accuracy", "positions decoded", "accuracy", f64::NAN),
    Number::new("noise_sensitivity", "due to noise", "prediction variance", f64::NAN),
    Number::new("held_out_accuracy", "held-out images", "classes told right", f64::NAN),
];

/// The diagnostics from `first` on, with these values.
fn measured<const N: usize>(first: usize, values: [f64; N]) -> impl Iterator<Item = Number> {
    values.into_iter().zip(&DIAGNOSTICS[first..]).map(|(value, number)| Number { value, ..*number })
}

impl Trainer {
    /// The distribution of the positions that tokens with noise stand at, Eqs. (3) and (4), with ψ \[1, K, d_p\] of every
    /// patch, row by row; σ = 0 without noise. Where the covariance is fixed, A stands for I; where an image's context
    /// scales it, this is its distribution at h(x) = 1. `None`: the method has no predictor.
    pub fn positions(&self) -> Option<PositionDistribution> {
        let method = self.method.as_masked_prediction()?;
        let (phi, predictor) = (&self.params["predictor"], method.predictor());
        let psi = phi.value(predictor.position);
        let ([_, tokens, d_p], patches) = (psi.dims("positions: psi"), method.encoder().config().patches());
        let psi = psi.reshape([tokens, d_p]).rows(tokens - patches..tokens); // MAE's class token is no patch
        Some(PositionDistribution {
            psi: psi.reshape([1, patches, d_p]).into(),
            a: method.noise_factor(phi).into(),
            sigma: method.sigma().unwrap_or(Sigma::SILENT),
        })
    }

    /// Where the model stands, on held-out images, of which there is at least one, with masks and noise that are the same at
    /// every step. `config` gives the masks and the seed. docs/diagnostics.md says what to look for.
    ///
    /// | name | |
    /// |---|---|
    /// | `feature_std` | the standard deviation of a pooled feature of the evaluated encoder over images, averaged over features |
    /// | `rank_me` | effective rank of those features (RankMe), at most their width |
    /// | `norm_gamma` | \|γ\| of the last layer norm of the encoder in training |
    ///
    /// and of a method that tells classes, on images with labels
    ///
    /// | name | |
    /// |---|---|
    /// | `held_out_accuracy` | the share of these images whose class it tells right |
    ///
    /// and of a [`MaskedPrediction`] or [`InPlacePrediction`]
    ///
    /// | name | |
    /// |---|---|
    /// | `target_std` | the standard deviation of a target over images, at a fixed position and feature, averaged: [`target_std`] |
    ///
    /// of a [`MaskedPrediction`]
    ///
    /// | name | |
    /// |---|---|
    /// | `visible_norm_a` | \|(I − 11ᵀ/d_p)A\|: the part of A that the predictor can see, [`visible_norm`] |
    /// | `context_rms` | RMS(A s_x): root mean square of the projected context features, per component, on visible tokens |
    ///
    /// and of one with noise
    ///
    /// | name | |
    /// |---|---|
    /// | `neighbor_distance`, `min_neighbor_distance` | d′ between neighboring positions |
    /// | `position_accuracy` | how often the best guess of a position from one draw of it is right, from 1/K to 1 |
    /// | `noise_sensitivity` | ½ E‖F₁ − F₂‖² per entry: the variance of a prediction that is the noise's, [`noise_sensitivity`] |
    ///
    /// # Errors
    /// When an image cannot be read, the masks do not fit the model, or the features are not finite: those of no images
    /// are not.
    pub fn diagnose(
        &self,
        config: &RunConfig,
        (held_out, normalization): (&dyn Dataset, &Normalization),
    ) -> Result<Numbers> {
        // Images come to the CPU in f32.
        let here = self.clone().to_device(Device::Cpu);
        let here = Trainer { params: here.params.to_dtype(DType::F32), ..here };
        let Trainer { method, params, .. } = &here;
        let encoder = method.encoder();
        let features = pooled_features(encoder, params.evaluated(), (held_out, normalization), 1, &|_| Ok(()))?;
        let feature_std = feature_std(&features[0]);
        if !feature_std.is_finite() {
            return Err(Error::Training {
                step: self.optimizer.steps() as usize,
                problem: "features of held-out images are not finite".into(),
                hint: "try a lower `lr` or a longer `warmup`".into(),
            });
        }
        let gamma = params["encoder"].value(encoder.last_norm());
        let rank = rank_me(&features[0], &|| Ok(()))?;
        let mut numbers: Vec<Number> = measured(0, [feature_std, rank, gamma.norm()]).collect();
        if let Some((scores, labels)) = method.class_scores(params, &features[0]).zip(labels(held_out)) {
            numbers.extend(measured(10, [accuracy(&scores, &labels)]));
        }
        if let Some(method) = method.as_in_place_prediction() {
            numbers.extend(measured(3, [targets_in_place(&here, method, (held_out, normalization))?]));
        }
        let (Some(method), Some(positions)) = (method.as_masked_prediction(), self.positions()) else {
            return Ok(Numbers(numbers));
        };
        let Looked { context_rms, noise_sensitivity, noise_scale, target_std } =
            look_at_predictions(&here, method, config, (held_out, normalization))?;
        let PositionDistribution { psi, a, sigma } = positions;
        let sigma = Sigma::from_std(sigma.std() * noise_scale);
        let tied = params["predictor"].value(method.predictor().embed.weight);
        numbers.extend(measured(3, [target_std, visible_norm(tied), context_rms]));
        if sigma.std() > 0.0 {
            let [_, patches, d_p] = psi.dims("diagnose: psi");
            let grid = encoder.config().grid();
            let positions = WhitenedPositions::new(&psi.value().reshape([patches, d_p]), a.value(), sigma);
            let neighbors = positions.neighbors((grid, grid));
            let mut rng = stream(config.seed, Purpose::Eval, [KEY, 0]);
            let accuracy = positions.decoding_accuracy(DECODED.div_ceil(patches), &mut rng);
            numbers.extend(measured(6, [neighbors.mean, neighbors.least, accuracy, noise_sensitivity]));
        }
        Ok(Numbers(numbers))
    }
}

/// What predictions on held-out images show.
struct Looked {
    /// RMS(A s_x).
    context_rms: f64,
    noise_sensitivity: f64,
    /// The root mean square of h(x), by which noise is scaled; 1 where it is not.
    noise_scale: f64,
    /// The deviation of the targets over images.
    target_std: f64,
}

/// The held-out images that predictions and targets are looked at with, \[n, C, S, S\].
fn looked_at(trainer: &Trainer, (held_out, normalization): (&dyn Dataset, &Normalization)) -> Result<Tensor> {
    let (encoder, count) = (trainer.method.encoder().config(), held_out.len().min(PREDICTED));
    let images = evaluation_images(held_out, 0..count, normalization)?;
    Ok(Tensor::new([count, encoder.channels, encoder.image_size, encoder.image_size], images))
}

/// The deviation of the targets over images.
fn targets_in_place(
    trainer: &Trainer,
    method: &dyn InPlacePrediction,
    images: (&dyn Dataset, &Normalization),
) -> Result<f64> {
    let (images, patches) = (looked_at(trainer, images)?, method.encoder().config().patches());
    let count = images.shape()[0];
    let look = |start: usize| {
        let part = start..(start + trainer.chunk_images).min(count);
        let everywhere = Indices::all(part.len(), patches);
        let chunk = Chunk::masked(images.rows(part), everywhere.clone(), everywhere, None);
        method.targets(&trainer.params.constants(), &chunk).value().clone()
    };
    let starts: Vec<usize> = (0..count).step_by(trainer.chunk_images).collect();
    let targets: Vec<Tensor> = starts.into_par_iter().map(look).collect();
    Ok(target_std(&Tensor::concat_rows(&targets)))
}

fn look_at_predictions(
    trainer: &Trainer,
    method: &dyn MaskedPrediction,
    config: &RunConfig,
    images: (&dyn Dataset, &Normalization),
) -> Result<Looked> {
    let encoder = method.encoder().config();
    let images = looked_at(trainer, images)?;
    let count = images.shape()[0];
    let mut rng = stream(config.seed, Purpose::Eval, [KEY, 1]);
    let (context, targets) = config.masking.sample(count, encoder.patches(), &mut rng)?;
    // Under the noise of two steps that no run comes to.
    let batches = [u64::MAX - 1, u64::MAX].map(|step| {
        Batch::masked(images.clone(), context.clone(), targets.clone(), Noise::Drawn { seed: config.seed, step })
    });
    let look = |start: usize| {
        let part = start..(start + trainer.chunk_images).min(count);
        let [first, second] = batches.each_ref().map(|batch| trainer.chunk(batch, part.clone()));
        let w = trainer.params.constants();
        let (theta, phi) = (&w["encoder"], &w["predictor"]);
        let s_x = method.encode(theta, &first);
        let predict = |chunk: &Chunk| {
            let (c, m) = method.tokens(phi, &s_x, chunk);
            method.predict(phi, &c, &m).value().clone()
        };
        let noisy = method.sigma().is_some_and(|sigma| sigma.std() > 0.0);
        let sensitivity = if noisy { noise_sensitivity(&predict(&first), &predict(&second)) } else { 0.0 };
        let a_s_x = ops::linear(&s_x, &phi[method.predictor().embed.weight], None);
        let everywhere = first.with_targets(Indices::all(part.len(), encoder.patches()));
        let targets = method.targets(&w, &everywhere).value().clone();
        let share = part.len() as f64 / count as f64;
        let scale = method.noise_scale(&s_x).map_or(1.0, |h| rms(h.value()));
        (share * rms(a_s_x.value()).powi(2), share * sensitivity, share * scale.powi(2), targets)
    };
    let starts: Vec<usize> = (0..count).step_by(trainer.chunk_images).collect();
    // Summed in the order of the images, whichever thread was first.
    let seen: Vec<(f64, f64, f64, Tensor)> = starts.into_par_iter().map(look).collect();
    let power: f64 = seen.iter().map(|(power, ..)| power).sum();
    let noise_sensitivity = seen.iter().map(|(_, sensitivity, ..)| sensitivity).sum();
    let scale: f64 = seen.iter().map(|(_, _, scale, _)| scale).sum();
    let targets: Vec<Tensor> = seen.into_iter().map(|(.., targets)| targets).collect();
    let target_std = target_std(&Tensor::concat_rows(&targets));
    Ok(Looked { context_rms: power.sqrt(), noise_sensitivity, noise_scale: scale.sqrt(), target_std })
}
