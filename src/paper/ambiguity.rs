//! How ambiguous the noise makes a position, section 3: what Eqs. (3) to (5) do to a grid of positions, in numbers.
//!
//! |A| alone does not say it. Noise matters by what it hides: how far ψ_i and ψ_j lie apart in units of Σ = σAAᵀ, and
//! how often a draw ψ̂_j = A n_j + ψ_j still tells which j it came from. Both need coordinates in which the noise is
//! N(0, I), from a Cholesky factorization with pivots: Σ = LLᵀ with as many columns as Σ has rank, so that a
//! difference d of positions is d = L w + r, where
//!
//! - r ≠ 0: no noise ever points there, and a single draw tells the two positions apart;
//! - r = 0: dᵀΣ⁺d = |w|², with Σ⁺ the pseudo-inverse.

use rand::Rng;
use rand_distr::{Distribution, StandardNormal};

use super::{Sigma, covariance, expected_noise_power};
use crate::autograd::{Var, ops};
use crate::linalg::{add_scaled, pivoted_cholesky};
use crate::tensor::{DType, Tensor};

/// |(I − 11ᵀ/d_p)A|: the Frobenius norm of A \[d_p, d_e\] without the mean of each of its columns.
///
/// The predictor sees tokens through layer norms alone, which take the mean over the d_p components away. What A adds
/// to all components alike is lost, of the noise as of the context, and so is its share of |A|.
#[track_caller]
pub fn visible_norm(a: &Tensor) -> f64 {
    let [_, d_e] = a.dims("visible norm: A");
    let a = Var::from(a.to_dtype(DType::F64));
    (&a - a.mean_axis(0).reshape([1, d_e])).value().norm()
}

/// |ψ| / √(|ψ|² + σ|A|²): how much the noise shrinks a cosine, for a position of length |ψ| = `length` (Fig. 5).
///
/// The noise has mean 0, so E⟨ψ̂_i, ψ_j⟩ = ⟨ψ_i, ψ_j⟩ exactly; and E|ψ̂_i|² = |ψ_i|² + σ|A|². The ratio of the first
/// to the root of the second is the cosine of ψ_i and ψ_j times this factor, and the mean of the cosine is close to
/// that where the length of the noise varies little, as it does in many dimensions. The factor is the same for every
/// j: **noise makes the mean map of similarities paler, never wider.**
pub fn cosine_shrinkage(length: f64, a: &Tensor, sigma: Sigma) -> f64 {
    length / (length.powi(2) + expected_noise_power(a, sigma).item()).sqrt()
}

/// What is less than this share of the largest of its kind counts as 0: about the rounding of f32, in which A and ψ
/// are stored.
const NEGLIGIBLE: f64 = 1e-6;

/// The positions of a grid in coordinates in which the noise of Eqs. (3) to (5) is N(0, I).
#[derive(Clone, Debug)]
pub struct WhitenedPositions {
    /// w of each position: ψ_k = L w_k + r_k.
    whitened: Vec<Vec<f64>>,
    /// r of each position, \[d_p\].
    noiseless: Vec<Vec<f64>>,
    /// A difference of two r that is nowhere larger counts as 0.
    negligible: f64,
}

/// Distances d′ between horizontal and vertical neighbors of a grid, in standard deviations of the noise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NeighborDistances {
    /// Their mean; infinite when one is, NaN when the grid has no neighbors.
    pub mean: f64,
    /// The least of them; infinite when the grid has no neighbors.
    pub least: f64,
}

impl WhitenedPositions {
    /// The positions `psi` \[K, d_p\] under noise of covariance σAAᵀ, A \[d_p, d_e\].
    ///
    /// A direction in which the noise has less than a millionth of its largest deviation counts as free of noise.
    ///
    /// # Panics
    /// When the shapes do not fit.
    #[track_caller]
    pub fn new(psi: &Tensor, a: &Tensor, sigma: Sigma) -> Self {
        let ([_, width], [d_p, _]) = (psi.dims("whitened positions: psi"), a.dims("whitened positions: A"));
        assert_eq!(width, d_p, "whitened positions: psi of {} and A of {}", psi.shape(), a.shape());
        let covariance = covariance(&a.to_dtype(DType::F64), sigma).to_f64_vec();
        let largest = covariance.iter().step_by(d_p + 1).fold(0.0, |m: f64, v| m.max(*v));
        let l = pivoted_cholesky(&covariance, d_p, NEGLIGIBLE.powi(2) * largest);
        // Forward substitution, pivot by pivot. What no column of L can take away is free of noise.
        let mut noiseless: Vec<Vec<f64>> = psi.to_f64_vec().chunks(d_p.max(1)).map(<[f64]>::to_vec).collect();
        let solve = |x: &mut Vec<f64>| -> Vec<f64> {
            let step = |(pivot, column): &(usize, Vec<f64>)| {
                let w = x[*pivot] / column[*pivot];
                add_scaled(x, -w, column);
                w
            };
            l.iter().map(step).collect()
        };
        let negligible = NEGLIGIBLE * noiseless.iter().flatten().fold(0.0, |m: f64, v| m.max(v.abs()));
        let whitened = noiseless.iter_mut().map(solve).collect();
        WhitenedPositions { whitened, noiseless, negligible }
    }

    /// d′ = √((ψ_i − ψ_j)ᵀ Σ⁺ (ψ_i − ψ_j)): how far positions i and j lie apart, in standard deviations of the noise.
    ///
    /// Infinite when ψ_i − ψ_j leaves the range of Σ: when some direction tells i and j apart and has no noise, however
    /// strong the noise in others. Without any noise, that is every pair of different positions.
    ///
    /// Whoever guesses between two positions at d′ from each other, from one draw, is right with probability Φ(d′/2):
    /// 69 % at 1, 98 % at 4.
    pub fn distance(&self, i: usize, j: usize) -> f64 {
        let squared = squared_distance(&self.whitened[i], &self.whitened[j]);
        if self.overlap(i, j) { squared.sqrt() } else { f64::INFINITY }
    }

    /// [`distance`](Self::distance) between neighbors on a grid of `rows` × `cols` positions, row by row.
    ///
    /// # Panics
    /// When there are not as many positions.
    #[track_caller]
    pub fn neighbors(&self, (rows, cols): (usize, usize)) -> NeighborDistances {
        let count = self.whitened.len();
        assert_eq!(count, rows * cols, "neighbors: {count} positions on a grid of {rows} × {cols}");
        let right = (0..count).filter(|i| (i + 1) % cols != 0).map(|i| (i, i + 1));
        let below = (cols..count).map(|i| (i - cols, i));
        let distances: Vec<f64> = right.chain(below).map(|(i, j)| self.distance(i, j)).collect();
        NeighborDistances {
            mean: distances.iter().sum::<f64>() / distances.len() as f64,
            least: distances.into_iter().fold(f64::INFINITY, f64::min),
        }
    }

    /// The probability that the best guess of a position is right: j ~ uniform over the grid, ψ̂ = A n + ψ_j, and the
    /// guess is the k of largest posterior probability, which is the one with the least (ψ̂ − ψ_k)ᵀΣ⁺(ψ̂ − ψ_k) among
    /// those that ψ̂ does not exclude.
    ///
    /// Estimated from `draws` draws at each position: its standard error is at most 1/√(4K · draws). No network that
    /// sees one masked token can do better.
    pub fn decoding_accuracy(&self, draws: usize, rng: &mut impl Rng) -> f64 {
        let at = self.coordinates();
        let positions = at.len();
        let mut right = 0;
        for j in 0..positions {
            let possible: Vec<usize> = (0..positions).filter(|&k| self.overlap(j, k)).collect();
            for _ in 0..draws {
                let mut draw = || -> f64 { StandardNormal.sample(rng) };
                let seen: Vec<f64> = at[j].iter().map(|w| w + draw()).collect();
                let distances = possible.iter().map(|&k| (squared_distance(&seen, &at[k]), k));
                // Of equal positions the first: right for one of them, as a guess among them would be on average.
                let best = distances.min_by(|(a, _), (b, _)| a.total_cmp(b));
                right += usize::from(best.is_some_and(|(_, k)| k == j));
            }
        }
        right as f64 / (positions * draws) as f64
    }

    /// Whether noise can take position i for j: ψ_i − ψ_j lies in the range of Σ.
    fn overlap(&self, i: usize, j: usize) -> bool {
        self.noiseless[i].iter().zip(&self.noiseless[j]).all(|(a, b)| (a - b).abs() <= self.negligible)
    }

    /// The whitened positions, turned and moved, in as few coordinates as hold them: a grid of g × g sine-cosine
    /// positions spans 2g − 2 dimensions of the many. N(0, I) stays N(0, I), and a draw costs less.
    fn coordinates(&self) -> Vec<Vec<f64>> {
        let (positions, dim) = (self.whitened.len(), self.whitened.first().map_or(0, Vec::len));
        let w = Var::from(Tensor::new([positions, dim], self.whitened.concat()));
        let centered = &w - w.mean_axis(0).reshape([1, dim]);
        let gram = ops::matmul_nt(&centered, &centered).value().to_f64_vec();
        // A thousandth of a standard deviation of the noise decides nothing.
        let l = pivoted_cholesky(&gram, positions, 1e-6);
        (0..positions).map(|k| l.iter().map(|(_, column)| column[k]).collect()).collect()
    }
}

fn squared_distance(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| (x - y).powi(2)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::dot;
    use crate::paper::escapes::subspace_escape;
    use crate::rng::{Purpose, stream};
    use crate::vit::sincos;

    fn tensor<const N: usize>(rows: &[[f64; N]]) -> Tensor {
        Tensor::new([rows.len(), N], rows.as_flattened().to_vec())
    }

    fn grid(dim: usize, side: usize) -> Tensor {
        Tensor::new([side * side, dim], sincos::positions(dim, side, side))
    }

    fn normal(rows: usize, cols: usize, std: f64) -> Tensor {
        Tensor::normal([rows, cols], std, DType::F64, &mut stream(0, Purpose::Eval, [2, 0]))
    }

    fn accuracy(positions: &WhitenedPositions, draws: usize) -> f64 {
        positions.decoding_accuracy(draws, &mut stream(0, Purpose::Eval, [2, 1]))
    }

    /// Within five standard errors of a share of so many draws, which is `expected`.
    #[track_caller]
    fn assert_share(found: f64, expected: f64, draws: f64) {
        let error = (expected * (1.0 - expected) / draws).sqrt();
        assert!((found - expected).abs() < 5.0 * error, "{found} instead of {expected}");
    }

    #[test]
    fn the_visible_norm_leaves_column_means_out() {
        // Column means 2 and 0.5; what is left is ±1 and ±0.5, twice each.
        let a = tensor(&[[1.0, 1.0], [3.0, 0.0]]);
        assert!((visible_norm(&a) - 2.5f64.sqrt()).abs() < 1e-15);
        assert_eq!(visible_norm(&tensor(&[[7.0, -2.0], [7.0, -2.0], [7.0, -2.0]])), 0.0);
    }

    #[test]
    fn noise_of_length_4_makes_the_cosine_of_a_position_of_length_3_three_fifths() {
        let a = tensor(&[[4.0, 0.0], [0.0, 4.0], [4.0, -4.0]]); // |A|² = 64
        assert_eq!(cosine_shrinkage(3.0, &a, Sigma::from_variance(0.25)), 0.6);
        assert_eq!(cosine_shrinkage(3.0, &a, Sigma::from_std(0.0)), 1.0);
    }

    #[test]
    fn distances_known_by_hand() {
        // Σ = diag(0.25 · 4, 0.25 · 16): standard deviations 1 and 2.
        let a = tensor(&[[2.0, 0.0, 0.0], [0.0, 0.0, 4.0]]);
        let psi = tensor(&[[0.0, 0.0], [3.0, 0.0], [0.0, 4.0], [3.0, 8.0]]);
        let positions = WhitenedPositions::new(&psi, &a, Sigma::from_std(0.5));
        let expected = [(0, 1, 3.0), (0, 2, 2.0), (2, 3, 13f64.sqrt()), (1, 3, 4.0), (1, 1, 0.0), (3, 0, 5.0)];
        for (i, j, d) in expected {
            assert!((positions.distance(i, j) - d).abs() < 1e-14, "{i} {j}: {}", positions.distance(i, j));
        }
        // Neighbors on 2 × 2: 0–1, 2–3 beside each other, 0–2, 1–3 below each other. In a row of four: three.
        let (root, diagonal) = (13f64.sqrt(), positions.distance(1, 2));
        for (shape, mean) in [
            ((2, 2), (3.0 + root + 2.0 + 4.0) / 4.0),
            ((1, 4), (3.0 + diagonal + root) / 3.0),
            ((4, 1), (3.0 + diagonal + root) / 3.0),
        ] {
            let found = positions.neighbors(shape);
            assert!((found.mean - mean).abs() < 1e-14, "{shape:?}: {found:?}");
        }
        assert!((positions.neighbors((2, 2)).least - 2.0).abs() < 1e-14);

        // Σ of full rank, mixed: Σ x = d is solved by hand through Σ's action, d = Σ x, and d′² = xᵀΣx.
        let (a, sigma) = (normal(6, 9, 1.0), Sigma::from_std(0.7));
        let x = [0.5, -1.0, 2.0, 0.0, 0.25, -3.0];
        let d: Vec<f64> = covariance(&a, sigma).to_f64_vec().chunks(6).map(|row| dot(row, &x)).collect();
        let expected = dot(&d, &x).sqrt();
        let psi = Tensor::new([2, 6], [vec![1.0; 6], d.iter().map(|d| 1.0 + d).collect()].concat());
        let found = WhitenedPositions::new(&psi, &a, sigma).distance(0, 1);
        assert!((found - expected).abs() < 1e-10 * expected, "{found} instead of {expected}");
    }

    #[test]
    fn what_leaves_the_range_of_the_noise_is_infinitely_far() {
        // Noise along (1, 1, 0) of standard deviation √2, and nowhere else.
        let a = tensor(&[[1.0], [1.0], [0.0]]);
        let psi = tensor(&[[0.0, 0.0, 1.0], [2.0, 2.0, 1.0], [0.0, 0.0, 2.0], [0.0, 1.0, 1.0]]);
        let positions = WhitenedPositions::new(&psi, &a, Sigma::from_std(1.0));
        assert!((positions.distance(0, 1) - 2.0).abs() < 1e-14);
        assert_eq!(positions.distance(0, 2), f64::INFINITY, "orthogonal to the range");
        assert_eq!(positions.distance(0, 3), f64::INFINITY, "partly outside it");
        assert_eq!(positions.neighbors((2, 2)), NeighborDistances { mean: f64::INFINITY, least: 2.0 });
        // 0 and 1 are confused with each other, 2 and 3 with none.
        assert_share(accuracy(&positions, 20_000), (2.0 * 0.841345 + 2.0) / 4.0, 80_000.0);

        let silent = Sigma::from_std(0.0);
        assert_eq!(WhitenedPositions::new(&psi, &a, silent).neighbors((1, 4)).least, f64::INFINITY);
        for (a, sigma) in [(a, silent), (Tensor::zeros([3, 1], DType::F64), Sigma::OFFICIAL)] {
            assert_eq!(accuracy(&WhitenedPositions::new(&psi, &a, sigma), 3), 1.0);
        }
    }

    #[test]
    fn positions_are_told_apart_as_often_as_phi_says_and_guessed_where_there_is_no_telling() {
        let a = tensor(&[[3.0, 0.0], [0.0, 1.0]]); // with a σ of 0.5: deviations 1.5 and 0.5
        // The difference in deviations, and Φ of half its length. In the last two the nearest position by length would
        // be right in 71 % of cases.
        for (x, y, phi) in [
            (0.5, 0.0, 0.598706),
            (1.0, 0.0, 0.691462),
            (4.0, 0.0, 0.977250),
            (1.0, 1.0, 0.760250),
            (-1.0, 1.1, 0.771351),
        ] {
            let psi = tensor(&[[50.0, -7.0], [50.0 + 1.5 * x, -7.0 + 0.5 * y]]);
            let positions = WhitenedPositions::new(&psi, &a, Sigma::from_std(0.5));
            assert_share(accuracy(&positions, 50_000), phi, 100_000.0);
        }
        let same = WhitenedPositions::new(&tensor(&[[1.0, 2.0]; 5]), &normal(2, 3, 1.0), Sigma::OFFICIAL);
        assert_eq!((accuracy(&same, 10), same.distance(0, 4)), (0.2, 0.0));
        let drowned = WhitenedPositions::new(&grid(16, 4), &normal(16, 24, 1e6), Sigma::OFFICIAL);
        assert_share(accuracy(&drowned, 2000), 1.0 / 16.0, 32_000.0);
    }

    /// The subspace escape: A without its projection onto the span of ψ, however large, hides nothing.
    #[test]
    fn noise_off_the_span_of_positions_hides_none() {
        let (d_p, d_e, side) = (32, 48, 5);
        let (psi, a) = (grid(d_p, side), normal(d_p, d_e, 1.0));
        let off = subspace_escape(&a, &psi);
        let of = |a: &Tensor, scale: f64| WhitenedPositions::new(&psi, &a.scaled(scale), Sigma::OFFICIAL);
        for scale in [1.0, 1e6] {
            assert_eq!(of(&off, scale).neighbors((side, side)).least, f64::INFINITY);
            assert_eq!(accuracy(&of(&off, scale), 4), 1.0);
            assert!(of(&a, scale).neighbors((side, side)).mean.is_finite());
        }
        assert!(accuracy(&of(&a, 1e6), 40) < 0.1);
    }

    /// Of the official ViT-B: A ~ N(0, 0.02²) of 384 × 768, a 14 × 14 grid, standard deviation 0.25.
    #[test]
    fn the_official_start_hides_no_position() {
        let (d_p, d_e, side) = (384, 768, 14);
        let (psi, a) = (grid(d_p, side), normal(d_p, d_e, 0.02));
        for (scale, decoded) in [(1.0, 1.0), (8.0, 0.755), (16.0, 0.32), (64.0, 0.027)] {
            let positions = WhitenedPositions::new(&psi, &a.scaled(scale), Sigma::OFFICIAL);
            let (found, d) = (accuracy(&positions, 50), positions.neighbors((side, side)).mean);
            // Another draw of A moves these by about a point (d′ by 0.5 / scale), the 9,800 draws of n by half a point.
            assert!((found - decoded).abs() < 0.025, "A × {scale}: {found}");
            assert!((scale * d - 23.6).abs() < 1.0, "A × {scale}: d′ = {d}");
        }
    }
}
