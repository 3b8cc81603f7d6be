//! Eqs. (7), (13) and (14): regression of Y on R, and through X, by enumeration of a discrete joint distribution.

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

/// Eq. (14): p(y, x | r) = p(y | x) p(x | r). Both sides, at all x, y, r that occur, in the same order.
///
/// They are equal when Y and R are independent given X, and so when Z is independent of the pair (X, Y). That Z is
/// independent of X and of Y, each by itself, is not enough: take X and Y two fair signs, Z = XY, R = X + 2Z. Then R
/// tells both X and Z, hence Y = XZ, while X alone says nothing of Y.
///
/// Proved by `equation_14_needs_joint_independence`.
#[doc(alias = "Eq. 14")]
pub fn factorization(joint: &Joint) -> (Vec<f64>, Vec<f64>) {
    let given = |event: &dyn Fn(&Outcome) -> bool, condition: &dyn Fn(&Outcome) -> bool| {
        joint.conditional_expectation(|o| f64::from(event(o)), condition)
    };
    let (xs, ys, rs) = (joint.values(|o| o.x), joint.values(|o| o.y), joint.values(|o| o.r));
    let mut sides = (Vec::new(), Vec::new());
    for &r in &rs {
        for &x in &xs {
            for &y in &ys {
                sides.0.push(given(&|o| o.y == y && o.x == x, &|o| o.r == r));
                sides.1.push(given(&|o| o.y == y, &|o| o.x == x) * given(&|o| o.x == x, &|o| o.r == r));
            }
        }
    }
    sides
}

/// Appendix B: Σₓ E\[Y | X = x\] p(x | r), the clean expectations averaged over what X may have been.
///
/// It equals [`optimal_predictor`] where Eq. (14) holds.
///
/// Proved by `the_optimum_averages_clean_expectations`.
#[doc(alias = "Appendix B")]
pub fn optimal_predictor_through_x(joint: &Joint, r: f64) -> f64 {
    let term = |x: f64| {
        let clean = joint.conditional_expectation(|o| o.y, |o| o.x == x);
        clean * joint.conditional_expectation(|o| f64::from(o.x == x), |o| o.r == r)
    };
    joint.values(|o| o.x).into_iter().map(term).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

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
