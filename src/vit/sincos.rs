//! Fixed 2-D sine-cosine positions ψ (He et al., 2022; footnote 3 of the paper leans on their fixed length).
//!
//! The first half of the features encodes the column, the second half the row ("w first", as in the official code);
//! each half is D/4 sines, then D/4 cosines, of the coordinate times 10000^(−k/(D/4)), k = 0 … D/4 − 1. Computed in
//! f64, whatever they are stored in.

/// The table for a `rows` × `cols` grid, \[rows · cols, dim\] row-major.
///
/// # Panics
/// When `dim` is not a multiple of 4.
pub fn positions(dim: usize, rows: usize, cols: usize) -> Vec<f64> {
    assert!(dim.is_multiple_of(4), "sine-cosine positions need a width that is a multiple of 4, not {dim}");
    let quarter = dim / 4;
    let frequencies: Vec<f64> = (0..quarter).map(|k| 10000f64.powf(-(k as f64) / quarter as f64)).collect();
    let mut table = Vec::with_capacity(rows * cols * dim);
    for row in 0..rows {
        for col in 0..cols {
            for coordinate in [col, row] {
                table.extend(frequencies.iter().map(|f| (coordinate as f64 * f).sin()));
                table.extend(frequencies.iter().map(|f| (coordinate as f64 * f).cos()));
            }
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_and_length() {
        let (dim, rows, cols) = (8, 2, 3);
        let table = positions(dim, rows, cols);
        let token = &table[(cols + 2) * dim..][..dim]; // row 1, column 2
        let exact = [
            2f64.sin(),
            0.02f64.sin(),
            2f64.cos(),
            0.02f64.cos(),
            1f64.sin(),
            0.01f64.sin(),
            1f64.cos(),
            0.01f64.cos(),
        ];
        for (x, y) in token.iter().zip(exact) {
            assert!((x - y).abs() < 1e-15);
        }
        // sin² + cos² = 1: every position is equally long, √(D/2).
        for token in table.chunks(dim) {
            assert!((token.iter().map(|x| x * x).sum::<f64>() - dim as f64 / 2.0).abs() < 1e-12);
        }
    }
}
