//! Table 8: targets at half the resolution.

use crate::autograd::{Var, ops};
use crate::tensor::Indices;

named! {
    /// At what resolution targets are predicted.
    #[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
    pub enum TargetResolution: "target resolution" {
        /// One target for each token.
        Full => "full",
        /// The mean over each cell of 2 × 2 tokens: bilinear resizing by ½.
        Bilinear => "bilinear",
        /// The maximum over each cell of 2 × 2 tokens, feature by feature.
        MaxPool => "max-pool",
    }
}

impl TargetResolution {
    /// What a grid of this side cannot be made of, if anything.
    pub(crate) fn problem(self, grid: usize) -> Option<String> {
        let fits = self == TargetResolution::Full || grid.is_multiple_of(2);
        (!fits).then(|| format!("`target_resolution` {self} on a grid of {grid}x{grid} tokens, of an odd side"))
    }
}

/// What is to be predicted at the tokens `at`: s_y itself, or what became of s_y's grid when it was made half as large,
/// at the cell that each token lies in.
///
/// | symbol | argument | shape |
/// |---|---|---|
/// | s_y | `s_y` | \[B, K, D\], of every token of a `grid` × `grid` image, normalized |
/// | B_y | `at` | R rows of N_t, R a multiple of B |
/// | result | | \[R, N_t, D\] |
///
/// The paper has "models trained to predict features in both the original scale and a downscaled version by a factor
/// of 2" and says no more. Read here as: one model for each scale; masks, positions and predictor as they are, so that the
/// target alone differs (the four tokens of a cell have the same one); s_y is normalized first and resized then, being
/// what is predicted at full resolution. Bilinear resizing by ½ takes its sample in the middle between the centers
/// of four tokens, where it is their mean (without antialiasing, as `F.interpolate(scale_factor=0.5, mode="bilinear")`).
///
/// Proved by `low_resolution_is_a_mean_or_a_maximum_of_four`.
///
/// # Panics
/// When the side is odd and the resolution is not full.
#[doc(alias = "Table 8")]
#[track_caller]
pub fn targets_at(resolution: TargetResolution, s_y: &Var, grid: usize, at: &Indices) -> Var {
    if let Some(problem) = resolution.problem(grid) {
        panic!("{problem}");
    }
    // The token in row `down` and column `right` of the 2 × 2 cell that each of `at` lies in.
    let member = |down: u32, right: u32| {
        let side = grid as u32;
        let of_cell = |&token: &u32| (token / side / 2 * 2 + down) * side + token % side / 2 * 2 + right;
        let tokens = at.as_slice().iter().map(of_cell).collect();
        let tokens = Indices::new(at.rows(), at.per_row(), tokens).to_device(at.device());
        ops::gather_tokens(s_y, &tokens)
    };
    let cell = || [(0, 0), (0, 1), (1, 0), (1, 1)].into_iter().map(|(down, right)| member(down, right));
    let four = "a cell of four";
    match resolution {
        TargetResolution::Full => ops::gather_tokens(s_y, at),
        TargetResolution::Bilinear => ops::scale(&cell().reduce(|sum, x| sum + x).expect(four), 0.25),
        // max(a, b) = a + max(b − a, 0), to the last bit or the one before.
        TargetResolution::MaxPool => cell().reduce(|max, x| &max + (x - &max).relu()).expect(four),
    }
}
