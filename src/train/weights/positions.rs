//! Positions for another number of patches.

/// A table of positions on a square grid of `from` × `from` patches, \[from², D\], as it is between them on `to` × `to`:
/// bicubic, with a = −0.75, between the centres of patches, and outside of the table its edge. That is
/// `F.interpolate(mode="bicubic", align_corners=False)` of PyTorch, by which the official code of I-JEPA and DINO does
/// it, at the scale to/from. DINO adds 0.1 to `to` before it divides, which moves all positions a little; I-JEPA and this do
/// not.
pub(super) fn interpolate(table: &[f32], dim: usize, from: usize, to: usize) -> Vec<f32> {
    let taps: Vec<[(usize, f64); 4]> = (0..to).map(|i| taps(i, from, to)).collect();
    let mut out = Vec::with_capacity(to * to * dim);
    let mut sums = vec![0.0; dim];
    for row in &taps {
        for column in &taps {
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
