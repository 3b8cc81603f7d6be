//! What does a token resemble? Its cosine with others, and the heat map of Fig. 6.

use crate::linalg::dot;

/// The cosine of the angle between `query` and each of the vectors in `rows`, `[n, query.len()]` → `[n]`. Zero vectors
/// give 0.
///
/// # Panics
/// When `rows` is not whole vectors.
#[track_caller]
pub fn cosines(query: &[f64], rows: &[f64]) -> Vec<f64> {
    let dim = query.len();
    assert!(dim > 0 && rows.len().is_multiple_of(dim), "cosines: {} numbers, vectors of {dim}", rows.len());
    let cosine = |row: &[f64]| match (dot(query, query) * dot(row, row)).sqrt() {
        0.0 => 0.0,
        lengths => dot(query, row) / lengths,
    };
    rows.chunks_exact(dim).map(cosine).collect()
}

/// The heat map of Fig. 6: softmax over the tokens of cos(`query`, token) / `temperature`, \[K\], which sums to 1.
/// `query` \[d\] is a predicted token, `tokens` \[K, d\] are those of the image.
///
/// # Panics
/// When `tokens` is not whole vectors, or `temperature` is not positive.
#[doc(alias = "Fig. 6")]
#[track_caller]
pub fn resemblance(query: &[f64], tokens: &[f64], temperature: f64) -> Vec<f64> {
    assert!(temperature > 0.0, "resemblance: a temperature of {temperature}");
    // No cosine exceeds 1: taking that off keeps the exponentials from overflowing at any temperature.
    let powers: Vec<f64> = cosines(query, tokens).iter().map(|cosine| ((cosine - 1.0) / temperature).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|power| power / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosines_known_by_hand() {
        let found = cosines(&[3.0, 0.0], &[2.0, 0.0, -2.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 7.0]);
        let expected = [1.0, -1.0, 0.5f64.sqrt(), 0.0, 0.0];
        assert!(found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 1e-15), "{found:?}");
        assert_eq!(cosines(&[0.0], &[1.0]), [0.0]);
    }

    #[test]
    fn a_token_resembles_itself_most() {
        // Cosines 0.6, 1 and -1 at temperature 0.5.
        let map = resemblance(&[0.0, 2.0], &[4.0, 3.0, 0.0, 0.1, 0.0, -9.0], 0.5);
        let powers = [1.2, 2.0, -2.0].map(f64::exp);
        let sum: f64 = powers.iter().sum();
        assert!(map.iter().zip(powers).all(|(m, p)| (m - p / sum).abs() < 1e-15), "{map:?}");
        assert!((map.iter().sum::<f64>() - 1.0).abs() < 1e-15);
        // Without a direction it resembles all alike.
        assert_eq!(resemblance(&[0.0, 0.0], &[1.0, 0.0, 0.0, 1.0], 1.0), [0.5, 0.5]);
    }
}
