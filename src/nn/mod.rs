//! Floor 2: layers, parameters and what is done to them between steps.

mod adamw;
mod ema;
mod init;
mod layer_norm;
mod linear;
mod params;

pub(crate) use adamw::count_non_finite_beside;
pub use adamw::{AdamW, ParamGroup, count_non_finite};
pub use ema::{Ema, update_ema};
pub use init::{Init, LinearInit, NORMAL_STD, fresh};
pub use layer_norm::LayerNorm;
pub use linear::Linear;
pub use params::{Param, ParamId, Params, Role, Weights};
