//! Section 6: noise that the context decides on, which the paper leaves for future work.

use crate::autograd::{Var, ops};

/// h(x) = √(mean over tokens i and features k of s_{xᵢₖ}²): the root mean square of an image's context features,
/// \[R, N_c, d_e\] → \[R, 1, 1\].
///
/// Proved by `conditioned_noise_is_as_large_as_its_context`.
#[track_caller]
pub fn context_rms(s_x: &Var) -> Var {
    let [rows, tokens, d_e] = s_x.dims("context rms: s_x");
    let squares = (s_x * s_x).reshape([rows, tokens * d_e]);
    squares.mean_axis(1).sqrt().reshape([rows, 1, 1])
}

/// h(x) n_j: noise in proportion to the context, for Eqs. (5) and (6): ψ̂_j = A h(x) n_j + ψ_j.
///
/// | symbol | argument | shape |
/// |---|---|---|
/// | n_j | `n` | \[P R, N, d_e\], P blocks for each row of the context |
/// | s_x | `s_x` | \[R, N_c, d_e\] |
/// | h(x) n_j | result | \[P R, N, d_e\] |
///
/// The paper says only that the noise may be conditioned "on the input image, namely the context tokens". This is the
/// least that deserves the name, and it has a reason. Footnote 3 takes s_x to be of fixed magnitude, so that σ is the ratio
/// of noise to signal; but the gain of the encoder's last layer norm is free, and (A/c, cγ, cβ) keeps the context and
/// divides the noise by c ([`gauge_escape`](crate::paper::escapes::gauge_escape)). Under h(x)n the noise grows by the
/// same c: the ratio is σ whatever γ is, in every image, and this escape is closed. Gradients go through h(x) too.
///
/// Proposition 3.1 holds as it stands, because E\[h(x) n\] = 0: `noise_scaled_by_the_context`.
///
/// Proved by `conditioned_noise_is_as_large_as_its_context`.
#[doc(alias = "section 6")]
#[track_caller]
pub fn conditioned_noise(n: &Var, s_x: &Var) -> Var {
    let (h, rows) = (context_rms(s_x), s_x.shape()[0].max(1));
    match n.shape()[0] / rows {
        1 => &h * n,
        blocks => ops::repeat_batch(&h, blocks) * n,
    }
}
