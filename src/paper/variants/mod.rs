//! What the paper compares StoP with in its ablations, and what it leaves to others.
//!
//! | where | the question | here |
//! |---|---|---|
//! | Table 7 | which tokens get noise | [`NoiseOn`]; the position of a noisy context token is Eq. (5)'s too |
//! | Fig. 3 | is it good that Σ is learned | [`Covariance`], [`fixed_position`] |
//! | section 6 | noise that the context decides on | [`Covariance::Conditioned`], [`context_rms`], [`conditioned_noise`] |
//! | beside Fig. 4 | is StoP no more than a penalty on A | [`Penalty`] |
//! | Table 8 | is it enough to predict at half the resolution | [`TargetResolution`], [`targets_at`] |
//!
//! What the paper leaves open is said at each, and gathered in docs/deviations.md.

mod fig3_fixed_covariance;
mod section4_penalty;
mod section6_conditioned_noise;
mod table7_noise_on;
mod table8_low_resolution;

pub use fig3_fixed_covariance::{Covariance, fixed_position};
pub use section4_penalty::{Penalty, PenaltyNorm};
pub use section6_conditioned_noise::{conditioned_noise, context_rms};
pub use table7_noise_on::NoiseOn;
pub use table8_low_resolution::{TargetResolution, targets_at};
