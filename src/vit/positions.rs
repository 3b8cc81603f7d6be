//! Positions for another number of patches.

/// A table of positions on a square grid of `from` × `from` patches, \[from², D\], as it is between them on a grid of `to`
/// rows and columns: bicubic, with a = −0.75, between the centers of patches, and outside of the table its edge. That is
/// `F.interpolate(mode="bicubic", align_corners=False)` of PyTorch, by which the official code of I-JEPA and DINO does
/// it, at the scale to/from along each axis. DINO adds 0.1 to `to` before it divides, which moves all positions a little;
/// I-JEPA and this do not.
pub(crate) fn interpolate(table: &[f32], dim: usize, from: usize, to: [usize; 2]) -> Vec<f32> {
    let [rows, columns] = to.map(|to| (0..to).map(|i| taps(i, from, to)).collect::<Vec<_>>());
    let mut out = Vec::with_capacity(to[0] * to[1] * dim);
    let mut sums = vec![0.0; dim];
    for row in &rows {
        for column in &columns {
            sums.fill(0.0);
            for (r, by_row) in row {
                for (c, by_column) in column {
                    let token = &table[(r * from + c) * dim..][..dim];
                    sums.iter_mut().zip(token).for_each(|(sum, x)| *sum += by_row * by_column * f64::from(*x));
                }
            }
            out.extend(sums.iter().map(|sum| *sum as f32));
        }
    }
    out
}

/// The four places on a line of `from` that place `i` on a line of `to` is made of, with their shares.
fn taps(i: usize, from: usize, to: usize) -> [(usize, f64); 4] {
    const A: f64 = -0.75;
    let at = (i as f64 + 0.5) * from as f64 / to as f64 - 0.5;
    let (floor, t) = (at.floor(), at - at.floor());
    let near = |x: f64| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0; // |x| ≤ 1
    let far = |x: f64| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A; // 1 ≤ |x| ≤ 2
    let shares = [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)];
    std::array::from_fn(|k| ((floor + k as f64 - 1.0).clamp(0.0, from as f64 - 1.0) as usize, shares[k]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// tests/parity/make_positions.py, by PyTorch 2.15.0, rounded to 10⁻⁶.
    #[test]
    fn tables_are_interpolated_as_by_pytorch() {
        let smaller = [0.346582, 0.769043, 0.745605, 0.373145, 0.475293, 0.429395, 0.45752, 0.553418];
        let larger = [
            -0.086806, 0.204906, 0.323958, 0.671701, 0.734722, 1.138497, 0.089236, 0.436979, 0.5, 0.525, 0.910764,
            0.613021, 0.265278, 0.669053, 0.676042, 0.378299, 1.086806, 0.087545,
        ];
        let five = [
            -0.173338, 0.2424, 0.245373, 0.61, 0.7096, 1.0096, 0.522803, 0.8152, 0.2712, 0.5712, 0.368973, 0.2012,
            0.530002, 0.5688, 0.6684, 0.9684, 0.44327, 0.774, 0.23, 0.53, 1.0384, 0.1328, 0.8736, 0.5004, 0.6, 0.9,
            0.3264, 0.7056, 0.1616, 0.4616, 1.056803, 0.0644, 0.85367, 0.432, 0.5316, 0.8316, 0.252298, 0.6372, 0.0932,
            0.3932, 0.9288, 0.0232, 0.764, 0.3908, 0.4904, 0.7904, 0.2168, 0.596, 0.052, 0.352,
        ];
        // Fewer rows and more columns.
        let wide = [
            0.197722, 0.230615, 0.562365, 0.772559, 0.586243, 0.913623, 0.252148, 0.552149, 0.989299, 0.068896,
            0.721162, 0.61084, 0.326806, 0.751904, 0.09043, 0.39043,
        ];
        for (from, to, expected) in
            [(3, [5, 5], &five[..]), (4, [2, 2], &smaller), (2, [3, 3], &larger), (3, [2, 4], &wide)]
        {
            let number = |i: usize| ((7 * (i / 2) + 3 * (i % 2)) % 11) as f32 / 10.0;
            let table: Vec<f32> = (0..from * from * 2).map(number).collect();
            let found = interpolate(&table, 2, from, to);
            assert_eq!(found.len(), expected.len());
            for (x, y) in found.iter().zip(expected) {
                assert!((f64::from(*x) - y).abs() < 2e-6, "{from} to {to:?}: {x} instead of {y}");
            }
        }
    }
}
