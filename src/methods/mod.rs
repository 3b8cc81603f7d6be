//! Floor 4: methods of pretraining, one file each.
//!
//! [`Method`] asks what Algorithm 1 asks: which modules there are and what becomes of each ([`ModelParams`]), which views of
//! an image are wanted, what is recorded on the tape, which numbers are reported, what is remembered from step to step.
//! [`MaskedPrediction`] asks less, of methods that have the form of the paper's: I-JEPA and StoP differ in one of its answers,
//! [`ijepa`] calls Eqs. (1) and (2) where [`stop`] calls Eq. (6). Those whose encoder sees a mask token in the place of hidden
//! patches, [`data2vec`] and [`simmim`], answer the questions of [`InPlacePrediction`].
//!
//! Nothing outside this folder knows one method from another. [`MethodConfig`] names those of this crate; a method from outside
//! implements one of the traits. Here is one that predicts the mean color of hidden patches:
//!
//! ```
#![doc = include_str!("../../examples/a_method_of_your_own.rs")]
//! ```

mod batch;
mod config;
pub mod data2vec;
pub mod ijepa;
mod in_place;
pub mod mae;
mod method;
mod params;
pub mod simmim;
pub mod stop;

pub use batch::{Chunk, Draws, View};
pub use config::{Masking, MethodConfig, MethodOptions, ModelConfig, Networks};
pub use data2vec::Data2vec;
pub use ijepa::Ijepa;
pub use in_place::{InPlace, InPlacePrediction};
pub use mae::Mae;
pub use method::{MaskedPrediction, Method, Number, Numbers, Recording, TokenPrediction, ViewConfig};
pub use params::{ModelParams, ModelWeights, Module, Update};
pub use simmim::Simmim;
pub use stop::Stop;
