//! Proposition 3.2 and appendix B, Eqs. (7) and (13) to (15): what the best predictor does when it sees R = g(X, Z), a
//! noisy X, and is asked for Y.
//!
//! | file | what | holds when |
//! |---|---|---|
//! | `eq7_eq13_eq14_regression` | the risk E\[(f(R) − Y)²\], and its optimum E\[Y \| R\] | always, given second moments |
//! | | the same through E\[Y \| X\], and what that needs | Z independent of (X, Y) *jointly* |
//! | `eq15_convolution` | a convolution of E\[Y \| X\] with a Gaussian | R = X + Z, Z Gaussian, and a *flat* prior on X |
//! | `general_prior` | what it is for any other prior, discrete positions included | R = X + Z, Z Gaussian |
//!
//! The derivation, with each assumption where it is used, is in docs/derivations/optimal-predictor.md. Training calls
//! none of this: it is what training would converge to.

mod eq15_convolution;
mod eq7_eq13_eq14_regression;
mod general_prior;

pub use eq7_eq13_eq14_regression::{
    Joint, Outcome, bayes_risk, factorization, optimal_predictor, optimal_predictor_through_x, regression_risk,
};
pub use eq15_convolution::{GaussianKernel, gaussian_convolution};
pub use general_prior::{NoisyPosition, posterior_mean};
