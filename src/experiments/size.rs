//! How large an experiment is: model, images, steps, seeds. All that its arms share.

use super::metrics::Probe;
use crate::kernels::Precision;
use crate::methods::{MethodConfig, MethodOptions};
use crate::paper::Sigma;
use crate::train::{EmaMomentum, RunConfig};
use crate::vit::Preset;
use crate::{Error, Result};

/// Width, blocks and attention heads of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Width of a token.
    pub dim: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads.
    pub heads: usize,
}

/// The size of an experiment: [`Size::quick`], [`Size::full`], or one of your own.
#[derive(Clone, Debug, PartialEq)]
pub struct Size {
    /// What it is called in results, and in the names of their folders.
    pub name: String,
    /// The images to train on, as [`crate::data::open`] reads it.
    pub data: String,
    /// The images to probe on, with labels.
    pub labels: String,
    /// Other images with labels, for [`transfer`](super::transfer).
    pub others: Vec<String>,
    /// f_θ.
    pub encoder: Network,
    /// g_φ.
    pub predictor: Network,
    /// Images in a step.
    pub batch: usize,
    /// Steps of a run.
    pub steps: usize,
    /// The greatest learning rate of a run.
    pub lr: f64,
    /// The momentum of the target encoder at the beginning; 1 at the end.
    pub ema: f64,
    /// How many times in a run it is looked at with [diagnostics](crate::train::Trainer::diagnose).
    pub diagnoses: usize,
    /// Seeds 0, 1, … of each arm.
    pub seeds: usize,
    /// What products are computed in while a run is trained.
    pub precision: Precision,
    /// Training and test images of a probe, at most.
    pub probe_images: [usize; 2],
}

impl Size {
    /// Minutes on two cores, on the embedded images: the small encoder of the guided run, and how many shapes an image has, which
    /// is the paper's CLEVR/Count.
    pub fn quick() -> Size {
        Size {
            name: "quick".into(),
            data: "shapes".into(),
            labels: "shapes:count".into(),
            others: vec!["shapes:distance".into()],
            encoder: Network { dim: 64, depth: 3, heads: 1 },
            predictor: Network { dim: 32, depth: 1, heads: 1 },
            batch: 64,
            steps: 500,
            lr: 1e-3,
            ema: 0.996,
            diagnoses: 10,
            seeds: 3,
            precision: Precision::F32,
            probe_images: [2000, 2000],
        }
    }

    /// Hours on two cores, on images with labels such as `cifar10:DIR`: sixteen passes over them by the toy preset, with the
    /// learning rate, averaging and initialization that served it best (docs/experiments.md). `data` are the images to train
    /// on, and after them others to probe on.
    ///
    /// # Errors
    /// When no images are named.
    pub fn full(data: &[String]) -> Result<Size> {
        let Some((first, others)) = data.split_first() else {
            let hint = "give them with `data`, as in cifar10:DIR, or ask for `Size::quick`, which draws its own";
            return Err(Error::config("the full size trains on images from outside, and none are named", hint));
        };
        Ok(Size {
            name: "full".into(),
            data: first.clone(),
            labels: first.clone(),
            others: ["shapes:count", "shapes:distance"].map(str::to_owned).into_iter().chain(others.to_vec()).collect(),
            encoder: Network { dim: 128, depth: 4, heads: 2 },
            predictor: Network { dim: 64, depth: 2, heads: 2 },
            steps: 12_500,
            diagnoses: 20,
            probe_images: [usize::MAX; 2],
            ..Size::quick()
        })
    }

    /// The run of a method at this size, with seed 0. Arms of an experiment differ from one another in what is asked for, and
    /// in nothing else.
    ///
    /// # Errors
    /// When there is no such method, or an option means nothing to it.
    pub fn run(&self, method: &str, options: &MethodOptions) -> Result<RunConfig> {
        let recipe = RunConfig::for_method(MethodConfig::new(method, options)?, Preset::Toy);
        let mut config = RunConfig { batch: self.batch, data: self.data.clone(), precision: self.precision, ..recipe };
        let (encoder, predictor) = (&mut config.model.encoder, &mut config.model.predictor);
        (encoder.dim, encoder.depth, encoder.heads) = (self.encoder.dim, self.encoder.depth, self.encoder.heads);
        (predictor.dim, predictor.depth, predictor.heads) =
            (self.predictor.dim, self.predictor.depth, self.predictor.heads);
        encoder.position_scale = 1.0;
        predictor.embed_std = (self.encoder.dim as f64).sqrt().recip(); // RMS(A s) is then that of s, and of ψ
        config.ema = EmaMomentum { start: self.ema, end: 1.0 };
        Ok(config.with_peak_lr(self.lr).with_steps(self.steps))
    }

    /// I-JEPA's run.
    ///
    /// # Errors
    /// None that a size of this crate has.
    pub fn ijepa(&self) -> Result<RunConfig> {
        self.run("ijepa", &MethodOptions::default())
    }

    /// StoP's run with noise of this standard deviation.
    ///
    /// # Errors
    /// None that a size of this crate has.
    pub fn stop(&self, sigma: f64) -> Result<RunConfig> {
        self.stop_with(sigma, &MethodOptions::default())
    }

    /// [`Size::stop`] with other options than its own.
    ///
    /// # Errors
    /// When an option means nothing to it.
    pub fn stop_with(&self, sigma: f64, options: &MethodOptions) -> Result<RunConfig> {
        self.run("stop", &MethodOptions { sigma: Some(Sigma::from_std(sigma)), ..options.clone() })
    }

    /// The linear probe on the labels of this size.
    pub fn probe(&self) -> Probe {
        Probe { name: "probe".into(), labels: self.labels.clone(), images: self.probe_images }
    }
}
