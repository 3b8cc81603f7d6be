//! What one comparison found.

use crate::autograd::Var;
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

/// What can be compared: a number, several, a tensor's.
pub trait Compared {
    /// All of them.
    fn numbers(&self) -> Vec<f64>;
}

macro_rules! numbers {
    ($([$($N:ident)?] $T:ty: |$x:ident| $all:expr;)*) => {
        $(impl$(<const $N: usize>)? Compared for $T {
            fn numbers(&self) -> Vec<f64> {
                let $x = self;
                $all
            }
        })*
    };
}

numbers! {
    [] f64: |x| vec![*x];
    [] [f64]: |x| x.to_vec();
    [N] [f64; N]: |x| x.to_vec();
    [] Vec<f64>: |x| x.clone();
    [] Tensor: |x| x.to_f64_vec();
    [] Var: |x| x.value().to_f64_vec();
}

impl Finding {
    /// `left` and `right` are the same numbers. The scale is the largest of them.
    ///
    /// # Panics
    /// When they are not equally many.
    #[track_caller]
    pub fn equal<L: Compared + ?Sized, R: Compared + ?Sized>(
        statement: &str,
        compared: impl AsRef<str>,
        left: &L,
        right: &R,
        tolerance: f64,
    ) -> Self {
        let (left, right, compared) = (left.numbers(), right.numbers(), compared.as_ref());
        assert_eq!(left.len(), right.len(), "{statement}: {compared}: {} and {} numbers", left.len(), right.len());
        let differences: Vec<f64> = left.iter().zip(&right).map(|(l, r)| l - r).collect();
        Self::vanishes(statement, compared, &differences, largest(&left).max(largest(&right)), tolerance)
    }

    /// `values` are all zero, where the terms that cancel in them are as large as `scale`.
    pub fn vanishes<V: Compared + ?Sized>(
        statement: &str,
        compared: impl AsRef<str>,
        values: &V,
        scale: f64,
        tolerance: f64,
    ) -> Self {
        let (statement, compared) = (statement.to_owned(), compared.as_ref().to_owned());
        Finding { statement, compared, scale, error: largest(&values.numbers()), tolerance }
    }

    /// `smaller` is below `larger`. The two numbers go into what was compared; the error is 0 or 1.
    pub fn below(statement: &str, compared: impl AsRef<str>, smaller: f64, larger: f64) -> Self {
        let compared = format!("{}: {smaller:.3e} < {larger:.3e}", compared.as_ref());
        let wrong = if smaller < larger { 0.0 } else { 1.0 }; // NaN is below nothing
        Self::vanishes(statement, compared, &wrong, 1.0, 0.0)
    }

    /// Pass; mismatch; or not checked, when both sides are zero and the comparison says nothing.
    pub fn verdict(&self) -> Verdict {
        if self.scale == 0.0 {
            return Verdict::NotChecked;
        }
        // NaN is never within tolerance.
        let within = self.scale.is_finite() && self.error <= self.tolerance * self.scale;
        if within { Verdict::Pass } else { Verdict::Mismatch }
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
pub(super) fn largest<V: Compared + ?Sized>(values: &V) -> f64 {
    values.numbers().iter().map(|x| x.abs()).fold(0.0, |m, x| if x.is_nan() || x > m { x } else { m })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        let of = |left: &[f64], right: &[f64]| Finding::equal("", "", left, right, 1e-6);
        let below = |smaller, larger| Finding::below("", "", smaller, larger);
        for (finding, expected) in [
            (of(&[1.0, 2.0], &[1.0, 2.0 + 1e-6]), Verdict::Pass),
            (of(&[1.0, 2.0], &[1.0, 2.0 + 1e-5]), Verdict::Mismatch),
            (of(&[0.0], &[0.0]), Verdict::NotChecked),
            (of(&[], &[]), Verdict::NotChecked),
            (of(&[f64::NAN, 1.0], &[1.0, 1.0]), Verdict::Mismatch),
            (of(&[f64::INFINITY], &[1.0]), Verdict::Mismatch),
            (Finding::vanishes("", "", &[1e-9, -1e-7], 1.0, 1e-6), Verdict::Pass),
            (below(1.0, 2.0), Verdict::Pass),
            (below(1.0, f64::INFINITY), Verdict::Pass),
            (below(2.0, 1.0), Verdict::Mismatch),
            (below(1.0, 1.0), Verdict::Mismatch),
            (below(f64::NAN, 1.0), Verdict::Mismatch),
        ] {
            assert_eq!(finding.verdict(), expected, "{finding:?}");
        }
    }
}
