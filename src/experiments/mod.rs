//! Floor 6: the paper's tables and figures, one file each, at a size that anyone can run.
//!
//! An [`Experiment`] says what is asked, which arms are compared, what is measured, and what the answer is; [`Runner`] does the
//! work. `stop-mim experiment NAME` runs those of [`EXPERIMENTS`].
//!
//! | file | what |
//! |---|---|
//! | [`size`] | what all arms share: model, images, steps, seeds |
//! | [`metrics`] | what is measured: linear probe, the run's log, locality, maps of positions |
//! | [`cache`] | what was trained and measured, kept by its whole configuration |
//! | `runner` | the plan, the work on all threads, the answers |
//! | [`found`], [`statistics`] | means and paired differences over seeds, with intervals; tables and statements of them |
//! | [`figure`], [`outcome`] | what is to be drawn; what is written |
//!
//! **Paired.** The arms of an experiment differ in what is asked for. Initial weights, the order of images, crops, masks and
//! noise follow from the seed alone ([`crate::rng`]), so that a difference between two arms is taken seed by seed. (Where two
//! arms have other parameters, as MAE and I-JEPA have, or other masks, they share the rest.)
//!
//! **Honest.** The metric, the steps and the seeds are fixed in the file. Each table has the encoder before training and raw
//! pixels beside the arms, and the paper's figure. Intervals are of single comparisons: of twenty that are null, one lies
//! outside on average.
//!
//! A question of your own is a value of [`Experiment`]:
//!
//! ```no_run
#![doc = include_str!("../../examples/a_question_of_your_own.rs")]
//! ```

pub mod cache;
pub mod figure;
pub mod found;
pub mod metrics;
pub mod outcome;
mod runner;
pub mod size;
pub mod statistics;

mod conditioned;
mod covariance;
mod finetune;
mod heatmaps;
mod linear_probe;
mod low_resolution;
mod mae_stop;
mod positions;
mod regularization;
mod sigma;
mod similarity;
mod tracking;
pub mod transfer;
mod which_tokens;

use std::sync::Arc;

pub use figure::{Drawing, Figure, Panel, Point};
pub use found::{Column, Conclusion, Found, PIXELS, UNTRAINED};
pub use metrics::{Metric, Probe};
pub use outcome::{Cell, Mean, Outcome, Picture, Row, Table};
pub use runner::{Answer, Monitor, Runner, Silent};
pub use size::{Network, Size};
pub use statistics::Estimate;

use crate::train::RunConfig;
use crate::{Error, Result};

/// One way of training that is compared with others.
#[derive(Clone, Debug)]
pub struct Arm {
    /// What it is called.
    pub label: String,
    /// Its run. Seed and normalization are the same for all arms, and set by the [`Runner`].
    pub config: RunConfig,
}

impl Arm {
    /// An arm of this name.
    pub fn new(label: impl Into<String>, config: RunConfig) -> Self {
        Arm { label: label.into(), config }
    }
}

/// A question, and how it is answered.
#[derive(Clone, Copy, Debug)]
pub struct Experiment {
    /// On the command line.
    pub name: &'static str,
    /// A few words.
    pub title: &'static str,
    /// What is asked, and what would count as a difference.
    pub question: &'static str,
    /// Where the paper asks it.
    pub reference: &'static str,
    /// What the paper found.
    pub paper_found: &'static str,
    /// What is compared. The encoder of the first arm is measured untrained too, and so are raw pixels.
    pub arms: fn(&Size) -> Result<Vec<Arm>>,
    /// What is measured.
    pub metrics: fn(&Size) -> Vec<Arc<dyn Metric>>,
    /// The answer.
    pub conclude: fn(&Found) -> Result<Conclusion>,
}

/// Those of the paper, in its order, and those of its questions that it leaves open.
pub const EXPERIMENTS: &[Experiment] = &[
    linear_probe::EXPERIMENT,
    transfer::EXPERIMENT,
    finetune::EXPERIMENT,
    tracking::EXPERIMENT,
    positions::EXPERIMENT,
    which_tokens::EXPERIMENT,
    low_resolution::EXPERIMENT,
    covariance::EXPERIMENT,
    regularization::EXPERIMENT,
    similarity::EXPERIMENT,
    heatmaps::EXPERIMENT,
    mae_stop::EXPERIMENT,
    conditioned::EXPERIMENT,
    sigma::EXPERIMENT,
];

/// The experiment of this name.
///
/// # Errors
/// When there is none.
pub fn find(name: &str) -> Result<&'static Experiment> {
    let american = name.replace("regularis", "regulariz");
    EXPERIMENTS.iter().find(|experiment| experiment.name == american).ok_or_else(|| {
        let names: Vec<&str> = EXPERIMENTS.iter().map(|experiment| experiment.name).collect();
        Error::config(format!("no experiment is called '{name}'"), format!("there are: all, {}", names.join(", ")))
    })
}
