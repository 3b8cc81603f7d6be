//! What one comparison found.

use crate::autograd::check::Verdict;
use crate::tensor::Tensor;

/// A statement, what was compared to test it, and how it came out.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What is claimed: `"Prop. A.1"`, `"gauge escape"`.
    pub statement: String,
    /// What was compared, and on what: `"∂J/∂A at A = 0, attention block, cubature"`.
    pub compared: String,
    /// How large the compared numbers are; what cancels is measured by the terms that cancel.
    pub scale: f64,
    /// The largest deviation, absolute.
    pub error: f64,
    /// The largest deviation that passes, as a share of `scale`.
    pub tolerance: f64,
}

impl Finding {
    /// `left` and `right` are the same numbers. The scale is the largest of them.
    ///
    /// # Panics
    /// When they are not equally many.
    #[track_caller]
    pub fn equal(statement: &str, compared: &str, left: &[f64], right: &[f64], tolerance: f64) -> Self {
        assert_eq!(left.len(), right.len(), "{statement}: {compared}: {} and {} numbers", left.len(), right.len());
        let differences: Vec<f64> = left.iter().zip(right).map(|(l, r)| l - r).collect();
        let scale = largest(left).max(largest(right));
        Self::vanishes(statement, compared, &differences, scale, tolerance)
    }

    /// [`equal`](Self::equal) for tensors.
    #[track_caller]
    pub fn equal_tensors(statement: &str, compared: &str, left: &Tensor, right: &Tensor, tolerance: f64) -> Self {
        assert_eq!(left.shape(), right.shape(), "{statement}: {compared}");
        Self::equal(statement, compared, &left.to_f64_vec(), &right.to_f64_vec(), tolerance)
    }

    /// `values` are all zero, where the terms that cancel in them are as large as `scale`.
    pub fn vanishes(statement: &str, compared: &str, values: &[f64], scale: f64, tolerance: f64) -> Self {
        Finding {
            statement: statement.to_owned(),
            compared: compared.to_owned(),
            scale,
            error: largest(values),
            tolerance,
        }
    }

    /// `smaller` is below `larger`. The two numbers go into what was compared; the error is 0 or 1.
    pub fn below(statement: &str, compared: &str, smaller: f64, larger: f64) -> Self {
        let compared = format!("{compared}: {smaller:.3e} < {larger:.3e}");
        let wrong = if smaller < larger { 0.0 } else { 1.0 }; // NaN is below nothing
        Self::vanishes(statement, &compared, &[wrong], 1.0, 0.0)
    }

    /// Pass; mismatch; or not checked, when both sides are zero and the comparison says nothing.
    pub fn verdict(&self) -> Verdict {
        match self.error <= self.tolerance * self.scale {
            _ if self.scale == 0.0 => Verdict::NotChecked,
            _ if !self.scale.is_finite() => Verdict::Mismatch,
            true => Verdict::Pass,
            false => Verdict::Mismatch, // NaN is never within tolerance
        }
    }

    /// Panics with what was found unless it passed.
    ///
    /// # Panics
    /// When the verdict is not [`Verdict::Pass`].
    #[track_caller]
    pub fn assert_pass(&self) {
        let Finding { statement, compared, scale, error, tolerance } = self;
        assert!(
            self.verdict() == Verdict::Pass,
            "{statement}: {compared}: error {error:.1e} on a scale of {scale:.1e}, tolerance {tolerance:.0e} of it"
        );
    }
}

/// The largest absolute value; NaN if there is one.
fn largest(values: &[f64]) -> f64 {
    values.iter().map(|x| x.abs()).fold(0.0, |m, x| if x.is_nan() || x > m { x } else { m })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        let of = |left: &[f64], right: &[f64]| Finding::equal("", "", left, right, 1e-6).verdict();
        assert_eq!(of(&[1.0, 2.0], &[1.0, 2.0 + 1e-6]), Verdict::Pass);
        assert_eq!(of(&[1.0, 2.0], &[1.0, 2.0 + 1e-5]), Verdict::Mismatch);
        assert_eq!(of(&[0.0], &[0.0]), Verdict::NotChecked);
        assert_eq!(of(&[f64::NAN, 1.0], &[1.0, 1.0]), Verdict::Mismatch);
        assert_eq!(of(&[], &[]), Verdict::NotChecked);
        assert_eq!(Finding::vanishes("", "", &[1e-9, -1e-7], 1.0, 1e-6).verdict(), Verdict::Pass);
        assert_eq!(Finding::below("", "", 1.0, 2.0).verdict(), Verdict::Pass);
        assert_eq!(Finding::below("", "", 1.0, f64::INFINITY).verdict(), Verdict::Pass);
        assert_eq!(of(&[f64::INFINITY], &[1.0]), Verdict::Mismatch);
        for (smaller, larger) in [(2.0, 1.0), (1.0, 1.0), (f64::NAN, 1.0)] {
            assert_eq!(Finding::below("", "", smaller, larger).verdict(), Verdict::Mismatch);
        }
    }
}
