//! Means over seeds, and how well they are known.

use std::f64::consts::PI;

/// A mean over seeds, with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Half of the interval; `None` of one value.
    pub half_width: Option<f64>,
    /// How many values there were.
    pub n: usize,
}

impl Estimate {
    /// The mean of independent values, and t₀.₉₇₅,ₙ₋₁ s/√n, which covers the true mean in 95 % of all cases where the values are
    /// normal. `None` of no values.
    ///
    /// ```
    /// use stop_mim::experiments::Estimate;
    /// let found = Estimate::of(&[1.0, 2.0, 3.0]).unwrap();
    /// assert_eq!(found.mean, 2.0);
    /// assert!((found.half_width.unwrap() - 4.30265 / 3f64.sqrt()).abs() < 1e-5);
    /// ```
    pub fn of(values: &[f64]) -> Option<Estimate> {
        let n = values.len();
        let mean = values.iter().sum::<f64>() / n as f64;
        let half_width = (n > 1).then(|| {
            let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1) as f64;
            t_quantile(0.975, n - 1) * (variance / n as f64).sqrt()
        });
        (n > 0).then_some(Estimate { mean, half_width, n })
    }

    /// Whether the interval lies on one side of 0. One value has none.
    pub fn excludes_zero(&self) -> bool {
        self.half_width.is_some_and(|half| self.mean.abs() > half)
    }
}

/// The number below which Student's t with `nu` degrees of freedom falls with probability `p`, by bisection.
///
/// # Panics
/// When `p` is not between 0 and 1, or there are no degrees of freedom.
#[track_caller]
pub fn t_quantile(p: f64, nu: usize) -> f64 {
    assert!(p > 0.0 && p < 1.0 && nu > 0, "t_quantile: p = {p}, ν = {nu}");
    if p < 0.5 {
        return -t_quantile(1.0 - p, nu);
    }
    let within = 2.0 * p - 1.0;
    let mut high = 1.0;
    while t_within(high, nu) < within {
        high *= 2.0;
    }
    let mut low = 0.0;
    // Until no number lies between the two.
    loop {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high {
            return middle;
        }
        if t_within(middle, nu) < within { low = middle } else { high = middle }
    }
}

/// P(|T| ≤ t) for Student's t with ν degrees of freedom: the finite sums of Abramowitz and Stegun, 26.7.3 and 26.7.4, with
/// θ = arctan(t/√ν):
///
/// ```text
/// ν odd:   2/π (θ + sin θ (cos θ + 2/3 cos³θ + … + (2·4·…·(ν−3))/(3·5·…·(ν−2)) cos^(ν−2) θ))
/// ν even:  sin θ (1 + 1/2 cos²θ + … + (1·3·…·(ν−3))/(2·4·…·(ν−2)) cos^(ν−2) θ)
/// ```
fn t_within(t: f64, nu: usize) -> f64 {
    let theta = (t / (nu as f64).sqrt()).atan();
    let (sin, cos) = theta.sin_cos();
    let odd = nu % 2;
    let mut term = if odd == 1 { cos } else { 1.0 };
    let mut sum = 0.0;
    // The power of cos θ in a term.
    let mut power = odd;
    while power + 2 <= nu {
        sum += term;
        term *= cos * cos * (power + 1) as f64 / (power + 2) as f64;
        power += 2;
    }
    if odd == 1 { 2.0 / PI * (theta + sin * sum) } else { sin * sum }
}

/// Spearman's rank correlation of two lists: Pearson's of their ranks, where equal values share the mean of theirs. 0, if one of
/// them is constant.
///
/// # Panics
/// When the lists differ in length.
#[track_caller]
pub fn rank_correlation(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len(), "rank_correlation: lists of two lengths");
    let (a, b) = (centered_ranks(a), centered_ranks(b));
    let product = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    match (product(&a, &a) * product(&b, &b)).sqrt() {
        0.0 => 0.0,
        lengths => product(&a, &b) / lengths,
    }
}

/// The rank of each value, less the mean of all ranks.
fn centered_ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&i, &j| values[i].total_cmp(&values[j]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    while start < order.len() {
        let alike = order[start..].iter().take_while(|&&i| values[i] == values[order[start]]).count().max(1);
        let shared = start as f64 + (alike - 1) as f64 / 2.0 - (values.len() - 1) as f64 / 2.0;
        order[start..start + alike].iter().for_each(|&i| ranks[i] = shared);
        start += alike;
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R's `qt(0.975, ν)` and `qt(0.95, ν)`, as printed in every table of t.
    #[test]
    fn quantiles_are_those_of_the_tables() {
        for (nu, of_975, of_95) in [
            (1, 12.706204736, 6.313751515),
            (2, 4.302652730, 2.919985580),
            (3, 3.182446305, 2.353363435),
            (4, 2.776445105, 2.131846786),
            (7, 2.364624252, 1.894578605),
            (9, 2.262157163, 1.833112933),
            (30, 2.042272456, 1.697260887),
            (120, 1.979930405, 1.657650899),
            (1000, 1.962339081, 1.646378818),
        ] {
            for (p, expected) in [(0.975, of_975), (0.95, of_95)] {
                assert!((t_quantile(p, nu) - expected).abs() < 2e-9 * expected, "ν = {nu}: {}", t_quantile(p, nu));
                assert_eq!(t_quantile(1.0 - p, nu), -t_quantile(1.0 - (1.0 - p), nu));
            }
            assert!(t_quantile(0.5, nu).abs() < 1e-15);
        }
    }

    /// Student's sleep data, of 1908: R's `t.test(extra[1:10], extra[11:20], paired = TRUE)` gives -2.4598858 to -0.7001142.
    #[test]
    fn a_paired_interval_known_from_elsewhere() {
        let first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0];
        let second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4];
        let differences: Vec<f64> = first.iter().zip(second).map(|(a, b)| a - b).collect();
        let found = Estimate::of(&differences).unwrap();
        assert!((found.mean + 1.58).abs() < 1e-12 && found.n == 10 && found.excludes_zero());
        assert!((found.half_width.unwrap() - 0.8798858).abs() < 1e-7, "{found:?}");
        let one = Estimate::of(&[3.0]).unwrap();
        assert_eq!((one.half_width, one.excludes_zero(), Estimate::of(&[])), (None, false, None));
        assert!(!Estimate::of(&[-1.0, 1.5]).unwrap().excludes_zero());
    }

    /// The second: centered ranks of −1.5, 0, 0, 1.5 and of 1.5, −1.5, 0, 0.
    #[test]
    fn rank_correlations_known_by_hand() {
        assert_eq!(rank_correlation(&[1.0, 5.0, 9.0], &[0.1, 0.2, 7.0]), 1.0);
        assert!((rank_correlation(&[1.0, 2.0, 2.0, 4.0], &[3.0, 1.0, 2.0, 2.0]) + 0.5).abs() < 1e-15);
        assert_eq!(rank_correlation(&[1.0, 2.0, 3.0], &[9.0, 4.0, -1.0]), -1.0);
        assert_eq!((rank_correlation(&[1.0, 2.0], &[3.0, 3.0]), rank_correlation(&[], &[])), (0.0, 0.0));
    }
}
