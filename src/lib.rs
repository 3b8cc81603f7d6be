//! Masked image modeling with stochastic positional embeddings, to be read, run and checked.
//!
//! The paper: A. Bar, F. Bordes, A. Shocher, M. Assran, P. Vincent, N. Ballas, T. Darrell, A. Globerson and Y. LeCun,
//! *Stochastic positional embeddings improve masked image modeling* (StoP), ICML 2024. In I-JEPA a predictor is asked
//! for the features of hidden patches at exact positions ψⱼ. StoP makes the positions Gaussian, ψ̂ⱼ = A nⱼ + ψⱼ
//! (Eq. 5), and uses the same matrix A to project the visible context (Eq. 6), so that silencing the noise would
//! silence the context too.
//!
#![doc = include_str!("equations.md")]
//!
//! Every equation is one function in [`paper`], and the training loop calls those functions. Here they train on images that
//! one has already, a tensor of any number of channels:
//!
//! ```
//! use std::ops::ControlFlow;
//!
//! use stop_mim::data::InMemory;
//! use stop_mim::methods::{MethodConfig, MethodOptions};
//! use stop_mim::rng::{Purpose, stream};
//! use stop_mim::train::{RunConfig, pretrain};
//! use stop_mim::{DType, Tensor, vit::Preset};
//!
//! # fn main() -> stop_mim::Result<()> {
//! let mut noise = stream(0, Purpose::Eval, [0, 0]); // which stands in for images here
//! let images = Tensor::normal([80, 4, 32, 32], 0.3, DType::F32, &mut noise);
//! let splits = InMemory::new(images)?.split(16)?; // 16 are held out, for diagnostics
//!
//! let stop = MethodConfig::new("stop", &MethodOptions::default())?;
//! let mut config = RunConfig { batch: 16, ..RunConfig::for_method(stop, Preset::Toy) };
//! config.model.encoder.channels = 4;
//! let mut losses = Vec::new();
//! let trained = pretrain(&config.with_steps(10), &splits, 5, &mut |report, _| {
//!     losses.push(report.loss); // |A|, effective rank, …: report.numbers, report.diagnostics
//!     Ok(ControlFlow::Continue(()))
//! })?;
//! assert_eq!(losses.len(), 10);
//! assert!(trained.params.evaluated().iter().all(|param| param.value.is_finite()));
//! # Ok(())
//! # }
//! ```
//!
//! More in few lines: [a method](methods) of one's own, [an operation](autograd::record) of one's own, published weights and
//! their features (`train::weights::PretrainedEncoder`), one's own predictor put to [the propositions](lab::prop_3_1::of).
//!
//! # Floor plan
//!
//! A module may use its own floor and those below it; a test reads the source and fails on an arrow that points up.
//!
//! | floor | module | what |
//! |---|---|---|
//! | 8 | `cli` | the command line, one file for each subcommand (feature `cli`) |
//! | 7 | [`report`] | pictures, curves, tables |
//! | 6 | [`lab`], `runs`, `experiments` | the paper's statements, tested; a run's folder, the paper's tables (feature `checkpoint`) |
//! | 5 | [`train`], [`eval`] | Algorithm 1, schedules, checkpoints, fine-tuning; linear probe, k-NN, effective rank, tracking |
//! | 4 | [`methods`], [`data`] | I-JEPA, StoP, MAE, data2vec, SimMIM behind one trait; CIFAR, folders, tensors, procedural shapes |
//! | 3 | [`paper`] | the equations, the masks |
//! | 2 | [`vit`], [`nn`] | blocks, encoder, predictor; layers, parameters, AdamW, moving average |
//! | 1 | [`autograd`] | the tape, the operations, the gradient checker |
//! | 0 | [`linalg`], [`tensor`], [`kernels`] | Cholesky, eigenvalues, L-BFGS; shape, type, device, buffer; loops, one folder a family |
//!
//! # Reading order
//!
//! [`paper`] beside the PDF; [`train`]'s `algorithm_1.rs` and [`methods::MaskedPrediction`], which are the paper's Algorithm 1
//! line by line; [`methods`], where I-JEPA and StoP differ in one function; then from the ground up, where each
//! `reference.rs` of [`kernels`] says in plain loops what an operation is.

#[macro_use]
mod named;

/// Tests in this crate share files with those beside it.
#[cfg(all(test, feature = "cuda"))]
extern crate self as stop_mim;

pub mod autograd;
pub mod data;
pub mod error;
pub mod eval;
#[cfg(feature = "checkpoint")]
pub mod experiments;
pub mod files;
pub mod kernels;
pub mod lab;
pub mod linalg;
pub mod methods;
pub mod nn;
pub mod paper;
pub mod processes;
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
pub use tensor::{DType, Device, Indices, Tensor};
