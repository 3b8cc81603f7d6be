//! How similar are the embeddings of two positions? The pictures of Fig. 5.

use super::canvas::Canvas;
use super::colour::{Rgb, WHITE};

/// The cosine of the angle between every two of the vectors in `rows`, `[n, dim]` → `[n, n]`. Zero vectors give 0.
///
/// # Panics
/// When `rows` is not whole vectors of `dim`.
#[track_caller]
pub fn cosine_matrix(rows: &[f32], dim: usize) -> Vec<f32> {
    assert!(dim > 0 && rows.len().is_multiple_of(dim), "cosine_matrix: {} numbers, vectors of {dim}", rows.len());
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let vectors = || rows.chunks_exact(dim);
    let norms: Vec<f64> = vectors().map(|v| dot(v, v).sqrt()).collect();
    let cosine = |(a, norm_a): (&[f32], f64), (b, norm_b): (&[f32], f64)| {
        if norm_a * norm_b > 0.0 { (dot(a, b) / (norm_a * norm_b)) as f32 } else { 0.0 }
    };
    let pairs = vectors().zip(norms.iter().copied());
    pairs.clone().flat_map(|a| pairs.clone().map(move |b| cosine(a, b))).collect()
}

/// A similarity matrix `[n, n]` over the n positions of a grid (rows, columns) as a grid of tiles: the tile at a
/// position shows how similar that position is to each position of the grid, one square of `cell` pixels each.
///
/// For values in [−1, 1] the colour is [`diverging`](super::colour::diverging); where all are alike, a closure that
/// stretches their range over [`sequential`](super::colour::sequential) shows more. The matrix itself, row by row, is
/// `Canvas::heat_map(matrix, (n, n), cell, colour)`.
///
/// # Panics
/// When `matrix` is not `[n, n]`.
#[track_caller]
pub fn similarity_sheet(
    matrix: &[f32],
    (rows, cols): (usize, usize),
    cell: usize,
    colour: impl Fn(f32) -> Rgb,
) -> Canvas {
    let n = rows * cols;
    assert_eq!(matrix.len(), n * n, "similarity_sheet: {} values for a grid of {rows} × {cols}", matrix.len());
    let tile = |at: usize| Canvas::heat_map(&matrix[at * n..(at + 1) * n], (rows, cols), cell, &colour);
    let tiles: Vec<Vec<Canvas>> = (0..rows).map(|r| (0..cols).map(|c| tile(r * cols + c)).collect()).collect();
    Canvas::tiled(&tiles, cell.max(1), WHITE)
}

#[cfg(test)]
mod tests {
    use super::super::colour::diverging;
    use super::*;

    #[test]
    fn cosines_known_by_hand() {
        let found = cosine_matrix(&[3.0, 0.0, -2.0, 0.0, 1.0, 1.0, 0.0, 0.0], 2);
        let half = 0.5f32.sqrt();
        let expected = [[1., -1., half, 0.], [-1., 1., -half, 0.], [half, -half, 1., 0.], [0., 0., 0., 0.]];
        assert!(found.iter().zip(expected.as_flattened()).all(|(f, e)| (f - e).abs() < 1e-6), "{found:?}");
    }

    #[test]
    fn each_tile_is_one_row_of_the_matrix() {
        let sheet = similarity_sheet(&[1.0, 0.0, -1.0, 0.5], (1, 2), 1, diverging);
        assert_eq!((sheet.width(), sheet.height()), (7, 3));
        let row: Vec<_> = (0..7).map(|x| sheet.get(x, 1)).collect();
        assert_eq!(row, [WHITE, diverging(1.0), diverging(0.0), WHITE, diverging(-1.0), diverging(0.5), WHITE]);
    }
}
