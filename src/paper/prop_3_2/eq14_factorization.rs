//! Eq. (14) and the step it allows: predicting Y from R through X.

use super::{Joint, Outcome};

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
/// It equals [`optimal_predictor`](super::optimal_predictor) where Eq. (14) holds.
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
    fn a_case_worked_by_hand() {
        // X and Y two fair signs that agree three times in four; Z = 0 or 2, so that R = 1 leaves X open.
        let xy = [([1.0, 1.0], 0.375), ([1.0, -1.0], 0.125), ([-1.0, 1.0], 0.125), ([-1.0, -1.0], 0.375)];
        let joint = Joint::independent(&xy, &[(0.0, 0.5), (2.0, 0.5)], |x, z| x + z);
        // E[Y | X = ±1] = ±1/2; R = −1, 1, 3 says X = −1, nothing, X = 1.
        assert_eq!([-1.0, 1.0, 3.0].map(|r| optimal_predictor_through_x(&joint, r)), [-0.5, 0.0, 0.5]);
        let (left, right) = factorization(&joint);
        // R = −1: X = −1 (Y = −1, 1), X = 1 never. R = 1: half of p(y | x). R = 3: X = 1.
        let exact = [0.75, 0.25, 0.0, 0.0, 0.375, 0.125, 0.125, 0.375, 0.0, 0.0, 0.25, 0.75];
        assert_eq!((left.as_slice(), right.as_slice()), (&exact[..], &exact[..]));
    }
}
