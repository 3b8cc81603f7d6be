//! Masked image modeling with stochastic positional embeddings, to be read, run and checked.
//!
//! The paper: A. Bar, F. Bordes, A. Shocher, M. Assran, P. Vincent, N. Ballas, T. Darrell, A. Globerson and Y. LeCun,
//! *Stochastic positional embeddings improve masked image modeling* (StoP), ICML 2024. In I-JEPA a predictor is asked
//! for the features of hidden patches at exact positions ψ_j. StoP makes the positions Gaussian, ψ̂_j = A n_j + ψ_j
//! (Eq. 5), and uses the same matrix A to project the visible context (Eq. 6), so that silencing the noise would
//! silence the context too.
//!
//! Every equation is one function in [`paper`], and the training loop calls those functions.
//!
//! ```
//! use stop_mim::methods::{Method, Model, ModelConfig, stop::TokenForm};
//! use stop_mim::paper::{Sigma, masking::MultiBlock};
//! use stop_mim::rng::{Purpose, stream};
//! use stop_mim::train::{Batch, StepParams, Noise, Trainer};
//! use stop_mim::{DType, Tensor, nn::LinearInit, vit::Preset};
//!
//! # fn main() -> stop_mim::Result<()> {
//! let (mut encoder, mut predictor) = Preset::Toy.sizes();
//! (encoder.dim, encoder.depth, predictor.dim, predictor.depth) = (24, 1, 12, 1);
//! let method = Method::Stop { target_blocks: 1, sigma: Sigma::OFFICIAL, tokens: TokenForm::Official };
//! let config = ModelConfig { method, encoder, predictor, linear_init: LinearInit::Normal };
//! let (model, params) = Model::new(&config, DType::F32, &mut stream(0, Purpose::Init, [0, 0]))?;
//! let mut trainer = Trainer::new(model, params);
//!
//! let mut rng = stream(0, Purpose::Mask, [0, 0]);
//! let images = Tensor::normal([8, 3, 32, 32], 1.0, DType::F32, &mut rng); // stand-ins
//! let hyper = StepParams { lr: 1e-3, weight_decay: 0.04, ema_momentum: 0.996 };
//! let mut losses = Vec::new();
//! for step in 1..=10 {
//!     let masks = MultiBlock::for_small_grid((8, 8)).sample(8, &mut rng); // B_x and B_y
//!     let noise = Noise::Drawn { seed: 0, step }; // n ~ N(0, σI), drawn anew in each step
//!     let (context, targets) = (masks.context, masks.targets);
//!     losses.push(trainer.step(&Batch { images: images.clone(), context, targets, noise }, &hyper)?);
//! }
//! assert!(losses[9] < losses[0]);
//! # Ok(())
//! # }
//! ```
//!
//! # Floor plan
//!
//! A module may use its own floor and those below it; a test reads the source and fails on an arrow that points up.
//!
//! | floor | module | what |
//! |---|---|---|
//! | 8 | `cli` | the command line, one file for each subcommand (feature `cli`) |
//! | 7 | [`report`] | pictures, curves, tables |
//! | 6 | [`train`], [`eval`], [`lab`], `runs` | Algorithm 1, schedules, checkpoints; linear probe, k-NN, effective rank; the paper's statements, tested; a run's folder (feature `checkpoint`) |
//! | 5 | [`methods`], [`data`] | I-JEPA, StoP, MAE; CIFAR, folders, procedural shapes |
//! | 4 | [`paper`] | the equations, the masks |
//! | 3 | [`vit`], [`nn`] | blocks, encoder, predictor; layers, parameters, AdamW, moving average |
//! | 2 | [`autograd`] | the tape, one file for each operation, the gradient checker |
//! | 1 | [`tensor`] | shape, element type, shared buffer |
//! | 0 | [`kernels`] | plain loops over slices, behind one door |
//!
//! # Reading order
//!
//! [`paper`] beside the PDF; [`train`]'s `algorithm_1.rs`, which is the paper's Algorithm 1 line by line;
//! [`methods`], where I-JEPA and StoP differ in one function; then from the ground up.

#[macro_use]
mod named;

pub mod autograd;
pub mod data;
pub mod error;
pub mod eval;
pub mod files;
pub mod kernels;
pub mod lab;
pub mod methods;
pub mod nn;
pub mod paper;
pub mod report;
pub mod rng;
#[cfg(feature = "checkpoint")]
pub mod runs;
pub mod tensor;
pub mod train;
pub mod vit;

#[cfg(feature = "cli")]
pub mod cli;

pub use error::{Error, Result};
pub use kernels::Precision;
pub use tensor::{DType, Indices, Tensor};
