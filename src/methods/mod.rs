//! Floor 5: what each method predicts, and from what.
//!
//! A [`Model`] answers the five questions that Algorithm 1 asks: what are the features of the context, what tokens
//! does the predictor see, what does it answer, what should it have answered, how far off is that. I-JEPA and StoP
//! differ in the second only: [`ijepa::tokens`] calls Eqs. (1) and (2), [`stop::tokens`] calls Eq. (6).

pub mod ijepa;
pub mod mae;
mod model;
pub mod stop;

pub use model::{Chunk, Model, ModelConfig, ModelParams};

use crate::paper::Sigma;

/// Which method, with what is its own.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(
    feature = "checkpoint",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "kebab-case", deny_unknown_fields)
)]
pub enum Method {
    /// Deterministic positions, Eqs. (1) and (2); targets are an averaged encoder's features.
    Ijepa {
        /// The target is the mean over the last K blocks, each after the last norm. Official: 1.
        target_blocks: usize,
    },
    /// Stochastic positions, Eqs. (3) to (6); targets as I-JEPA's.
    Stop {
        /// As for I-JEPA.
        target_blocks: usize,
        /// The scale of the noise.
        sigma: Sigma,
        /// What the masked tokens are made of.
        tokens: stop::TokenForm,
    },
    /// Masked autoencoder: targets are pixels.
    Mae {
        /// Whether each target patch is normalized by its own mean and variance.
        normalize_patches: bool,
    },
}

impl Method {
    /// The name on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Method::Ijepa { .. } => "ijepa",
            Method::Stop { .. } => "stop",
            Method::Mae { .. } => "mae",
        }
    }

    /// σ of the noise on masked positions; `None` for a method that draws none.
    pub fn sigma(&self) -> Option<Sigma> {
        match *self {
            Method::Stop { tokens: stop::TokenForm::Official | stop::TokenForm::Paper, sigma, .. } => Some(sigma),
            Method::Stop { tokens: stop::TokenForm::PositionsOnly, .. } | Method::Ijepa { .. } | Method::Mae { .. } => {
                None
            }
        }
    }
}
