//! Eqs. (7) and (13): regression of Y on R, by enumeration of a discrete joint distribution.

/// One outcome of (X, Y, Z), with R = g(X, Z) and its probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// The clean variable, which the predictor does not see.
    pub x: f64,
    /// What is to be predicted.
    pub y: f64,
    /// The noise.
    pub z: f64,
    /// What the predictor sees: g(x, z).
    pub r: f64,
    /// The probability of this outcome.
    pub p: f64,
}

/// A discrete joint distribution of X, Y, Z and R = g(X, Z), to be enumerated: expectations are exact up to rounding.
///
/// Values are told apart by `==`. Choose them so that g gives equal numbers where R is meant to be equal: integers, or
/// multiples of a power of two.
#[derive(Clone, Debug, PartialEq)]
pub struct Joint {
    outcomes: Vec<Outcome>,
}

impl Joint {
    /// Any joint distribution: the triples (x, y, z), each with its probability, and the mixing function g.
    ///
    /// # Panics
    /// When a probability is negative, or they do not sum to 1.
    #[track_caller]
    pub fn new(triples: impl IntoIterator<Item = ([f64; 3], f64)>, g: impl Fn(f64, f64) -> f64) -> Self {
        let outcome = |([x, y, z], p): ([f64; 3], f64)| Outcome { x, y, z, r: g(x, z), p };
        let outcomes: Vec<Outcome> = triples.into_iter().map(outcome).collect();
        assert!(outcomes.iter().all(|o| o.p >= 0.0), "a negative probability in {outcomes:?}");
        let total: f64 = outcomes.iter().map(|o| o.p).sum();
        assert!((total - 1.0).abs() < 1e-12, "the probabilities sum to {total}, not to 1");
        Joint { outcomes: outcomes.into_iter().filter(|o| o.p > 0.0).collect() }
    }

    /// The appendix's assumption: p(x, y, z) = p(x, y) p(z).
    ///
    /// # Panics
    /// As [`new`](Self::new).
    #[track_caller]
    pub fn independent(xy: &[([f64; 2], f64)], z: &[(f64, f64)], g: impl Fn(f64, f64) -> f64) -> Self {
        let triples = xy.iter().flat_map(|&([x, y], p)| z.iter().map(move |&(z, q)| ([x, y, z], p * q)));
        Self::new(triples, g)
    }

    /// E\[of\].
    pub fn expectation(&self, of: impl Fn(&Outcome) -> f64) -> f64 {
        self.outcomes.iter().map(|o| o.p * of(o)).sum()
    }

    /// P(event).
    pub fn probability(&self, event: impl Fn(&Outcome) -> bool) -> f64 {
        self.expectation(|o| f64::from(event(o)))
    }

    /// E\[of | given\]; NaN when that event has probability 0.
    pub fn conditional_expectation(&self, of: impl Fn(&Outcome) -> f64, given: impl Fn(&Outcome) -> bool) -> f64 {
        self.expectation(|o| if given(o) { of(o) } else { 0.0 }) / self.probability(given)
    }

    /// The values that a variable takes, ascending.
    pub fn values(&self, variable: impl Fn(&Outcome) -> f64) -> Vec<f64> {
        let mut values: Vec<f64> = self.outcomes.iter().map(variable).collect();
        values.sort_by(f64::total_cmp);
        values.dedup();
        values
    }
}

/// Eq. (7), which is Eq. (13): the risk E\[(f(R) − Y)²\] of a predictor f that sees R.
///
/// Proved by `the_conditional_mean_minimizes_the_risk`.
#[doc(alias = "Eq. 7")]
#[doc(alias = "Eq. 13")]
pub fn regression_risk(joint: &Joint, f: impl Fn(f64) -> f64) -> f64 {
    joint.expectation(|o| (f(o.r) - o.y).powi(2))
}

/// The predictor that minimizes Eq. (7): f*(r) = E\[Y | R = r\]; NaN where R never is r.
///
/// It is the only one: (f(R) − Y)² has the expectation E\[(f*(R) − Y)²\] + E\[(f(R) − f*(R))²\], because what f* leaves
/// over is uncorrelated with every function of R.
///
/// Proved by `the_conditional_mean_minimizes_the_risk`.
#[doc(alias = "Appendix B")]
pub fn optimal_predictor(joint: &Joint, r: f64) -> f64 {
    joint.conditional_expectation(|o| o.y, |o| o.r == r)
}

/// The least risk that any predictor of Y from R can have: E\[(E\[Y | R\] − Y)²\].
///
/// It can only rise when R is replaced by a noisier version of itself (Blackwell).
///
/// Proved by `more_noise_never_lowers_the_least_risk`.
pub fn bayes_risk(joint: &Joint) -> f64 {
    regression_risk(joint, |r| optimal_predictor(joint, r))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_worked_by_hand() {
        // X is 0 or 1, a quarter of the time 1, and never 5; Y = 10 X; Z adds 0 or 1 with equal chances.
        let xy = [([0.0, 0.0], 0.75), ([1.0, 10.0], 0.25), ([5.0, 1.0], 0.0)];
        let joint = Joint::independent(&xy, &[(0.0, 0.5), (1.0, 0.5)], |x, z| x + z);
        assert_eq!(joint.values(|o| o.r), [0.0, 1.0, 2.0]);
        assert_eq!(joint.probability(|o| o.r == 1.0), 0.5);
        // R = 1 is X = 0 with noise (3/8) or X = 1 without (1/8): a quarter of 10.
        assert_eq!([0.0, 1.0, 2.0].map(|r| optimal_predictor(&joint, r)), [0.0, 2.5, 10.0]);
        // 3/8 · 2.5² + 1/8 · 7.5²
        assert_eq!(bayes_risk(&joint), 9.375);
        assert_eq!(regression_risk(&joint, |_| 0.0), 25.0);
        assert!(optimal_predictor(&joint, 0.5).is_nan());
    }

    #[test]
    #[should_panic(expected = "sum to 0.5")]
    fn probabilities_sum_to_one() {
        Joint::new([([0.0; 3], 0.5)], |x, z| x + z);
    }

    #[test]
    #[should_panic(expected = "negative probability")]
    fn probabilities_are_not_negative() {
        Joint::new([([0.0; 3], 1.5), ([1.0; 3], -0.5)], |x, z| x + z);
    }
}
