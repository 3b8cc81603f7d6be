//! Gradient checks: is a derivative right?
//!
//! [`check_gradient`] compares what the tape says with central differences, in f64, and explains the worst
//! disagreement. With a random direction u of the output, f becomes the scalar L(x) = ⟨u, f(x)⟩, and
//!
//! 1. every element (or a random sample of them) of every input: ∂L/∂xᵢ against (L(x + h eᵢ) − L(x − h eᵢ)) / 2h;
//! 2. a random direction v of all inputs at once: ⟨∇L, v⟩ against (L(x + h v) − L(x − h v)) / 2h;
//! 3. each subset of the inputs alone on the tape: the same gradients as with all of them.
//!
//! A central difference errs by h² f‴/6 (truncation) plus about 10⁻¹⁶ |L| / h (round-off). Each is taken at two
//! steps, h and h/8: where the error falls 64-fold it was truncation, where it grows it was round-off, and where it
//! stays the derivative is wrong.

use std::fmt;

use rand::{Rng, RngExt};

use super::{Tape, Var, ops};
use crate::rng::{Purpose, stream};
use crate::tensor::{DType, Tensor};

/// How to check.
#[derive(Clone, Debug)]
pub struct Options {
    /// The larger step h, in units of max(1, |x|). Default 3·10⁻⁴.
    pub step: f64,
    /// The largest error that passes, relative to the largest gradient entry of the same input (and absolute below
    /// 1). Default 10⁻⁷: a thousand times what central differences leave here, a thousandth of a plausible mistake.
    pub tolerance: f64,
    /// Elements to check of each input; a larger input is sampled. Default 200.
    pub max_elements: usize,
    /// Seed of the random directions and the sample.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options { step: 3e-4, tolerance: 1e-7, max_elements: 200, seed: 0 }
    }
}

/// What the check concluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every comparison is within tolerance.
    Pass,
    /// Some comparison is not.
    Mismatch,
    /// There was nothing to compare: no inputs, or every gradient and every difference is exactly zero.
    NotChecked,
}

/// What a disagreement with a central difference is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorSource {
    /// It shrinks with the step as h²: the difference quotient's, not the derivative's. Take a smaller step.
    Truncation,
    /// It grows as the step shrinks: the function's rounding. Take a larger step.
    RoundOff,
    /// It does not depend on the step: the derivative is wrong (or the function is not smooth there).
    Derivative,
}

/// One comparison of a derivative with a central difference.
#[derive(Clone, Copy, Debug)]
pub struct Comparison {
    /// Which input; `None` for the random direction through all of them.
    pub input: Option<usize>,
    /// Flat index of the element in its input.
    pub element: usize,
    /// What the tape says.
    pub analytic: f64,
    /// The central difference at the step that agreed better.
    pub numeric: f64,
    /// |analytic − numeric| over the scale of the comparison.
    pub error: f64,
    /// What the error is made of.
    pub source: ErrorSource,
}

/// The outcome of [`check_gradient`]; its `Display` explains it.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was checked.
    pub name: String,
    /// The verdict.
    pub verdict: Verdict,
    /// The comparison with the largest error, if any was made.
    pub worst: Option<Comparison>,
    /// How many comparisons with differences were made.
    pub comparisons: usize,
    /// How many subsets of inputs were tried on the tape.
    pub subsets: usize,
    /// A subset of inputs whose gradients depend on which others are tracked, if there is one.
    pub inconsistent_subset: Option<Vec<usize>>,
    /// The tolerance applied.
    pub tolerance: f64,
}

impl Report {
    /// Panics with the report unless it passed.
    ///
    /// # Panics
    /// When the verdict is not [`Verdict::Pass`].
    #[track_caller]
    pub fn assert_pass(&self) {
        assert!(self.verdict == Verdict::Pass, "{self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Pass => "pass",
            Verdict::Mismatch => "MISMATCH",
            Verdict::NotChecked => "not checked (nothing to compare, or all of it zero)",
        };
        write!(f, "{}: {verdict}, {} comparisons, {} subsets of inputs", self.name, self.comparisons, self.subsets)?;
        if let Some(w) = &self.worst {
            let place = match w.input {
                Some(input) => format!("element {} of input {input}", w.element),
                None => "a random direction through all inputs".to_owned(),
            };
            let source = match w.source {
                ErrorSource::Truncation => "it shrinks with the step (truncation)",
                ErrorSource::RoundOff => "it grows as the step shrinks (round-off)",
                ErrorSource::Derivative => "it does not depend on the step (the derivative)",
            };
            write!(
                f,
                "\n  worst: {place}: analytic {:.12e}, numeric {:.12e}, error {:.1e} of {:.0e} allowed; {source}",
                w.analytic, w.numeric, w.error, self.tolerance
            )?;
        }
        if let Some(subset) = &self.inconsistent_subset {
            write!(
                f,
                "\n  gradients change when only inputs {subset:?} are tracked: the rule mishandles what is needed"
            )?;
        }
        Ok(())
    }
}

/// Checks the derivative of `f` at `inputs` (converted to f64) with default [`Options`].
pub fn check_gradient(name: &str, f: impl Fn(&[Var]) -> Var, inputs: &[Tensor]) -> Report {
    check_gradient_with(&Options::default(), name, f, inputs)
}

/// Checks the derivative of `f` at `inputs` (converted to f64).
///
/// `f` must be a pure function of its arguments: noise has to be drawn before, not inside.
pub fn check_gradient_with(options: &Options, name: &str, f: impl Fn(&[Var]) -> Var, inputs: &[Tensor]) -> Report {
    let inputs: Vec<Tensor> = inputs.iter().map(|x| x.to_dtype(DType::F64)).collect();
    let mut rng = stream(options.seed, Purpose::Eval, [0, 0]);

    // The output's random direction u, and L(x) = ⟨u, f(x)⟩ with the gradients of the inputs that are tracked.
    let constants: Vec<Var> = inputs.iter().cloned().map(Var::constant).collect();
    let u = random_like(f(&constants).value(), &mut rng);
    let value = |inputs: &[Tensor]| {
        let vars: Vec<Var> = inputs.iter().cloned().map(Var::constant).collect();
        inner(&u, f(&vars).value())
    };
    let gradients = |tracked: &dyn Fn(usize) -> bool| -> Vec<Option<Tensor>> {
        let tape = Tape::new();
        let place = |(i, x): (usize, &Tensor)| if tracked(i) { tape.leaf(x.clone()) } else { x.clone().into() };
        let vars: Vec<Var> = inputs.iter().enumerate().map(place).collect();
        let y = f(&vars);
        if !y.is_tracked() {
            return vec![None; inputs.len()];
        }
        let mut found = tape.backward_from(&y, u.clone());
        vars.iter().map(|v| if v.is_tracked() { found.take(v) } else { None }).collect()
    };
    let analytic: Vec<Tensor> = gradients(&|_| true)
        .into_iter()
        .zip(&inputs)
        .map(|(g, x)| g.unwrap_or_else(|| Tensor::zeros(*x.shape(), DType::F64)))
        .collect();

    let mut comparisons = Vec::new();
    // Both steps along a direction: `moved(h)` is the inputs moved by h.
    let mut compare = |input, element, analytic: f64, scale: f64, h: f64, moved: &dyn Fn(f64) -> Vec<Tensor>| {
        let quotient = |h: f64| (value(&moved(h)) - value(&moved(-h))) / (2.0 * h);
        let (coarse, fine) = (quotient(h), quotient(h / 8.0));
        let (coarse_error, fine_error) = ((analytic - coarse).abs(), (analytic - fine).abs());
        let numeric = if fine_error < coarse_error { fine } else { coarse };
        let source = match coarse_error / fine_error {
            ratio if ratio > 8.0 => ErrorSource::Truncation,
            ratio if ratio < 0.5 => ErrorSource::RoundOff,
            _ => ErrorSource::Derivative,
        };
        let error = (analytic - numeric).abs() / scale.max(1.0);
        comparisons.push(Comparison { input, element, analytic, numeric, error, source });
    };
    for (i, gradient) in analytic.iter().enumerate() {
        let gradient = gradient.as_slice::<f64>();
        let scale = gradient.iter().fold(0.0f64, |m, g| m.max(g.abs()));
        for element in sample(gradient.len(), options.max_elements, &mut rng) {
            let at = inputs[i].as_slice::<f64>()[element];
            compare(Some(i), element, gradient[element], scale, options.step * at.abs().max(1.0), &|h| {
                let mut moved = inputs.clone();
                moved[i].as_mut_slice::<f64>()[element] += h;
                moved
            });
        }
    }
    let v: Vec<Tensor> = inputs.iter().map(|x| random_like(x, &mut rng)).collect();
    let along: f64 = analytic.iter().zip(&v).map(|(g, v)| inner(g, v)).sum();
    compare(None, 0, along, along.abs(), options.step, &|h| {
        let mut moved = inputs.clone();
        moved.iter_mut().zip(&v).for_each(|(x, v)| x.add_assign(&v.scaled(h)));
        moved
    });

    // Each subset of inputs alone on the tape (all of them, up to six inputs; then the single ones).
    let n = inputs.len();
    let subsets: Vec<u64> = if n <= 6 { (1..1 << n).collect() } else { (0..n).map(|i| 1 << i).collect() };
    let inconsistent = subsets.iter().find(|&&subset| {
        let tracked = |i: usize| subset >> i & 1 == 1;
        gradients(&tracked).iter().enumerate().any(|(i, g)| match g {
            Some(g) => !tracked(i) || g.max_abs_diff(&analytic[i]) > 1e-12 * analytic[i].norm().max(1.0),
            None => tracked(i) && analytic[i].norm() != 0.0,
        })
    });

    // NaN is the worst error there is.
    let rank = |c: &Comparison| if c.error.is_nan() { f64::INFINITY } else { c.error };
    let worst = comparisons.iter().copied().max_by(|a, b| rank(a).total_cmp(&rank(b)));
    let nothing = comparisons.iter().all(|c| c.analytic == 0.0 && c.numeric == 0.0);
    let wrong = worst.as_ref().is_some_and(|w| rank(w) > options.tolerance) || inconsistent.is_some();
    Report {
        name: name.to_owned(),
        verdict: match (nothing, wrong) {
            (true, _) => Verdict::NotChecked,
            (false, true) => Verdict::Mismatch,
            (false, false) => Verdict::Pass,
        },
        worst,
        comparisons: comparisons.len(),
        subsets: subsets.len(),
        inconsistent_subset: inconsistent.map(|s| (0..n).filter(|i| s >> i & 1 == 1).collect()),
        tolerance: options.tolerance,
    }
}

/// [`check_gradient`] for an operation under test, which must also pass when its inputs are used a second time
/// (their gradients then add up).
///
/// # Panics
/// With the report, when a check does not pass.
#[track_caller]
pub fn assert_op(name: &str, f: impl Fn(&[Var]) -> Var, inputs: &[Tensor]) {
    check_gradient(name, &f, inputs).assert_pass();
    let twice = |x: &[Var]| ops::add(&f(x), &ops::scale(&f(x), 0.5));
    check_gradient(&format!("{name}, inputs used twice"), twice, inputs).assert_pass();
}

fn inner(a: &Tensor, b: &Tensor) -> f64 {
    a.as_slice::<f64>().iter().zip(b.as_slice::<f64>()).map(|(a, b)| a * b).sum()
}

fn random_like(x: &Tensor, rng: &mut impl Rng) -> Tensor {
    Tensor::from_fn(*x.shape(), DType::F64, |_| rng.random_range(-1.0..1.0))
}

/// All of 0..n, or `k` different ones of them.
fn sample(n: usize, k: usize, rng: &mut impl Rng) -> Vec<usize> {
    if n <= k { (0..n).collect() } else { rand::seq::index::sample(rng, n, k).into_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::tape::record;
    use crate::kernels::cpu::testing::numbers;

    fn square_with(factor: f64) -> impl Fn(&[Var]) -> Var {
        move |x: &[Var]| {
            let value = x[0].value().clone();
            let squared = Tensor::from_fn(*value.shape(), DType::F64, |i| value.as_slice::<f64>()[i].powi(2));
            record("square", [&x[0]], squared, move |dy, _| {
                let (x, dy) = (value.as_slice::<f64>().to_vec(), dy.as_slice::<f64>().to_vec());
                [Some(Tensor::from_fn(*value.shape(), DType::F64, |i| factor * x[i] * dy[i]))]
            })
        }
    }

    #[test]
    fn a_right_rule_passes_and_a_wrong_one_is_explained() {
        let x = Tensor::new([5], numbers(5, 1));
        check_gradient("square", square_with(2.0), std::slice::from_ref(&x)).assert_pass();
        for wrong in [-2.0, 1.0, 2.0001] {
            let report = check_gradient("square", square_with(wrong), std::slice::from_ref(&x));
            assert_eq!(report.verdict, Verdict::Mismatch, "factor {wrong}");
            let worst = report.worst.unwrap();
            assert_eq!(worst.source, ErrorSource::Derivative);
            assert!((worst.analytic / worst.numeric - wrong / 2.0).abs() < 1e-6);
            assert!(report.to_string().contains("does not depend on the step"));
        }
    }

    #[test]
    fn a_vacuous_check_says_so() {
        let x = Tensor::new([2], vec![1.0, 2.0]);
        let report = check_gradient("nothing", |x| x[0].detach(), &[x.scaled(0.0)]);
        assert_eq!(report.verdict, Verdict::Mismatch, "a cut graph is a mismatch: {report}");
        let report = check_gradient("zero", |x| ops::scale(&x[0], 0.0), &[x]);
        assert_eq!(report.verdict, Verdict::NotChecked);
    }

    #[test]
    fn truncation_and_round_off_are_told_apart() {
        let x = [Tensor::new([1], vec![1.0])];
        let cube = |x: &[Var]| ops::mul(&x[0], &ops::mul(&x[0], &x[0]));
        let options = Options { step: 0.1, ..Options::default() };
        let report = check_gradient_with(&options, "cube, large step", cube, &x);
        assert_eq!(report.worst.unwrap().source, ErrorSource::Truncation, "{report}");
        let options = Options { step: 1e-12, ..Options::default() };
        let report = check_gradient_with(&options, "cube, tiny step", cube, &x);
        assert_ne!(report.worst.unwrap().source, ErrorSource::Truncation, "{report}");
    }
}
