//! Floor 3: the paper, equation by equation, in its order. This is no museum: [`crate::methods`] calls these
//! functions and restates none of them.
//!
//! | symbol | here | shape |
//! |---|---|---|
//! | s_x | features of the context tokens | \[R, N_c, d_e\] |
//! | ψ | position embeddings of the predictor | \[…, d_p\] |
//! | A, B | projection from features to predictor tokens, `predictor_embed.weight` | \[d_p, d_e\] |
//! | m | the token shared by all masked positions | \[1, 1, d_p\] or \[d_p\] |
//! | n | noise, N(0, σI) | \[R, N_t, d_e\] |
//! | c, m_j | context and masked tokens, what the predictor sees | \[R, N, d_p\] |
//!
//! They take and give [`Var`](crate::autograd::Var)s. A `Var` off the tape is a plain tensor, so the same function
//! computes a value, trains, and is checked in f64.

mod ambiguity;
mod eq1_context_token;
mod eq2_masked_token;
mod eq3_position_distribution;
mod eq4_covariance;
mod eq5_stochastic_position;
mod eq6_tied_tokens;
pub mod escapes;
mod expectation;
mod masked_loss;
pub mod masking;
pub mod prop_3_1;
pub mod prop_3_2;
pub mod second_order;
pub mod variants;

pub use ambiguity::{NeighborDistances, WhitenedPositions, cosine_shrinkage, visible_norm};
pub use eq1_context_token::context_token;
pub use eq2_masked_token::masked_token;
pub use eq3_position_distribution::{PositionDistribution, Sigma};
pub use eq4_covariance::{covariance, expected_noise_power};
pub use eq5_stochastic_position::{sample_noise, stochastic_position};
pub use eq6_tied_tokens::tied_tokens;
pub use expectation::{Quadrature, hermite_nodes};
pub use masked_loss::{Loss, masked_loss};
pub use variants::{Covariance, NoiseOn, Penalty, PenaltyNorm, TargetResolution};
