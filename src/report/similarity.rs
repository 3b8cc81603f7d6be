//! How similar are the embeddings of two positions? The pictures of Fig. 5, with the one that explains them.

use rand::Rng;

use super::canvas::Canvas;
use super::color::{Rgb, WHITE};
use crate::eval::cosines;
use crate::paper::{PositionDistribution, cosine_shrinkage};

/// Similarities of a query position j to every position ψ_i of the grid, as in Fig. 5: the query is stochastic, the map
/// is not.
#[derive(Clone, Debug, PartialEq)]
pub struct SimilarityMaps {
    /// cos(ψ_j, ψ_i): what I-JEPA sees.
    pub deterministic: Vec<f64>,
    /// cos(ψ̂_j, ψ_i) of one draw of the query.
    pub draw: Vec<f64>,
    /// E⟨ψ̂_j, ψ_i⟩ / (√E|ψ̂_j|² |ψ_i|): the map that averaging over draws tends to, up to the little by which the
    /// length of the noise varies. It is `deterministic` times [`cosine_shrinkage`].
    pub expected: Vec<f64>,
}

/// The maps of Fig. 5 for each of `queries`, positions of \[1, K, d_p\].
///
/// # Panics
/// When `positions` has more than one row, or a query is not one of them.
#[doc(alias = "Fig. 5")]
#[track_caller]
pub fn similarity_maps(positions: &PositionDistribution, queries: &[usize], rng: &mut impl Rng) -> Vec<SimilarityMaps> {
    let [rows, _, d_p] = positions.psi.dims("similarity_maps: psi");
    assert_eq!(rows, 1, "similarity_maps: positions of {rows} images");
    let (psi, drawn) = (positions.psi.value().to_f64_vec(), positions.sample(rng).value().to_f64_vec());
    let maps = |&j: &usize| {
        let query = j * d_p..(j + 1) * d_p;
        let length = psi[query.clone()].iter().map(|v| v * v).sum::<f64>().sqrt();
        let shrinkage = cosine_shrinkage(length, positions.a.value(), positions.sigma);
        let deterministic = cosines(&psi[query.clone()], &psi);
        let expected = deterministic.iter().map(|cosine| cosine * shrinkage).collect();
        SimilarityMaps { deterministic, draw: cosines(&drawn[query], &psi), expected }
    };
    queries.iter().map(maps).collect()
}

/// One row of pictures for each of `maps`: deterministic, one draw, expected. `grid` is (rows, columns) of positions,
/// each a square of `cell` pixels.
///
/// # Panics
/// When a map is not of that grid.
#[track_caller]
pub fn similarity_sheet(
    maps: &[SimilarityMaps],
    grid: (usize, usize),
    cell: usize,
    color: impl Fn(f32) -> Rgb,
) -> Canvas {
    let picture = |map: &[f64]| {
        let map: Vec<f32> = map.iter().map(|&v| v as f32).collect();
        Canvas::heat_map(&map, grid, cell, &color)
    };
    let row = |maps: &SimilarityMaps| [&maps.deterministic, &maps.draw, &maps.expected].map(|m| picture(m)).to_vec();
    Canvas::tiled(&maps.iter().map(row).collect::<Vec<_>>(), cell.max(1), WHITE)
}

#[cfg(test)]
mod tests {
    use super::super::color::diverging;
    use super::*;
    use crate::paper::Sigma;
    use crate::rng::{Purpose, stream};
    use crate::tensor::{DType, Tensor};
    use crate::vit::sincos;

    fn rng() -> impl Rng {
        stream(0, Purpose::Eval, [3, 0])
    }

    #[test]
    fn maps_known_by_hand() {
        // |ψ| = 3 and 4, orthogonal; σ|A|² = 0.25 · 64 = 16.
        let psi = Tensor::new([1, 2, 2], vec![3.0, 0.0, 0.0, 4.0]);
        let a = Tensor::new([2, 1], vec![64f64.sqrt(), 0.0]);
        let noisy = PositionDistribution { psi: psi.into(), a: a.into(), sigma: Sigma::from_variance(0.25) };
        let [first, second] = similarity_maps(&noisy, &[0, 1], &mut rng()).try_into().unwrap();
        assert_eq!((first.deterministic, second.deterministic), (vec![1.0, 0.0], vec![0.0, 1.0]));
        assert_eq!(first.expected, [0.6, 0.0]);
        assert!((second.expected[1] - 0.5f64.sqrt()).abs() < 1e-15 && second.expected[0] == 0.0);
        // The noise is along the first axis: ψ̂₀ stays on it, ψ̂₁ leaves the second.
        assert!(first.draw[0].abs() == 1.0 && first.draw[1] == 0.0);
        assert!(second.draw[1] < 0.999 && (second.draw[0].powi(2) + second.draw[1].powi(2) - 1.0).abs() < 1e-12);
        let exact = PositionDistribution { sigma: Sigma::from_std(0.0), ..noisy };
        let maps = similarity_maps(&exact, &[1], &mut rng());
        assert_eq!((&maps[0].draw, &maps[0].expected), (&maps[0].deterministic, &maps[0].deterministic));
    }

    #[test]
    fn the_mean_over_draws_tends_to_the_expected_map() {
        let (dim, side, draws) = (96, 4, 2000);
        let psi = Tensor::new([1, side * side, dim], sincos::positions(dim, side, side));
        let a = Tensor::normal([dim, 2 * dim], 0.1, DType::F64, &mut rng());
        let positions = PositionDistribution { psi: psi.into(), a: a.into(), sigma: Sigma::from_std(1.0) };
        let mut rng = rng();
        let mut mean = vec![0.0; side * side];
        let mut expected = Vec::new();
        for _ in 0..draws {
            let maps = similarity_maps(&positions, &[5], &mut rng).remove(0);
            mean.iter_mut().zip(&maps.draw).for_each(|(mean, cosine)| *mean += cosine / draws as f64);
            expected = maps.expected;
        }
        let far = mean.iter().zip(&expected).map(|(m, e)| (m - e).abs()).fold(0.0, f64::max);
        assert!(far < 0.01, "{far}: {mean:?} {expected:?}");
        assert!(expected[5] < 0.6, "the noise is not small");
    }

    #[test]
    fn a_sheet_is_three_pictures_beside_each_other() {
        let maps = SimilarityMaps { deterministic: vec![1.0, 0.0], draw: vec![-1.0, 0.5], expected: vec![0.5, 0.0] };
        let sheet = similarity_sheet(&[maps], (1, 2), 1, diverging);
        assert_eq!((sheet.width(), sheet.height()), (10, 3));
        let row: Vec<_> = (0..10).map(|x| sheet.get(x, 1)).collect();
        let [one, zero, minus, half] = [1.0, 0.0, -1.0, 0.5].map(diverging);
        assert_eq!(row, [WHITE, one, zero, WHITE, minus, half, WHITE, half, zero, WHITE]);
    }
}
