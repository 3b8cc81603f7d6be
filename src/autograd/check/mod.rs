//! Gradient checks: is a derivative right?
//!
//! A gradient that somebody claims is compared with central differences of the value, in f64, and the worst
//! disagreement is explained. Three doors to one machinery:
//!
//! | function | what is checked |
//! |---|---|
//! | [`check_value`] | gradients at a point, wherever they come from, of any `Fn(&[Tensor]) -> f64` |
//! | [`check_function`] | any `Fn(&[Tensor]) -> (Tensor, Vec<Tensor>)` that gives its value and its gradients |
//! | [`check_gradient`] | what the tape says of a function of [`Var`]s, whatever the shape of its output |
//!
//! A function L of one number is moved along
//!
//! 1. every element (or a random sample of them) of every input: ∂L/∂xᵢ against (L(x + h eᵢ) − L(x − h eᵢ)) / 2h;
//! 2. a random direction v, |v| = 1, of each input that was sampled, and of all inputs at once: ⟨∇L, v⟩ against
//!    (L(x + h v) − L(x − h v)) / 2h.
//!
//! A central difference errs by h² L‴/6 (truncation) plus about 10⁻¹⁶ |L| / h (round-off). Each is taken at two
//! steps, h and h/8: where the error falls 64-fold it was truncation, where it grows it was round-off, and where it
//! stays the derivative is wrong. [`step_sweep`] shows the two meet.

mod report;

use rand::{Rng, RngExt};

pub use report::{Along, Comparison, ErrorSource, Report, Verdict};

use super::{Tape, Var, ops};
use crate::rng::{Purpose, stream};
use crate::tensor::{DType, Tensor};

/// How to check.
#[derive(Clone, Debug)]
pub struct Options {
    /// The larger step h; for an element, in units of max(1, |x|). Default 3·10⁻⁴.
    pub step: f64,
    /// The largest error that passes, relative to the largest gradient entry of the same input, or for a direction to
    /// the length of the gradient. Default 10⁻⁷: a thousand times what central differences leave here, a thousandth of
    /// a plausible mistake.
    pub tolerance: f64,
    /// A gradient that is smaller is compared as if it were as large as this. Default 10⁻³: then an error of 10⁻¹⁰
    /// passes, some ten times the round-off of a value near 1.
    pub floor: f64,
    /// Elements to check of each input; a larger input is sampled, and moved along one random direction besides. With
    /// 0, only along directions. Default 200.
    pub max_elements: usize,
    /// Seed of the random directions and the sample.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options { step: 3e-4, tolerance: 1e-7, floor: 1e-3, max_elements: 200, seed: 0 }
    }
}

/// Checks `gradients`, one for each of `inputs` and of its shape, of the function `value` at the point `inputs`.
///
/// The gradients may come from anywhere: a hand-written rule, a file, another framework. `value` is called with f64
/// tensors, and must be a pure function: noise has to be drawn before, not inside (the check notices).
///
/// ```
/// use stop_mim::Tensor;
/// use stop_mim::autograd::check::{Options, Verdict, check_value};
///
/// let x = Tensor::new([2], vec![0.5, -2.0]);
/// let cubes = |x: &[Tensor]| x[0].to_f64_vec().iter().map(|x| x.powi(3)).sum::<f64>();
/// let right = Tensor::new([2], vec![0.75, 12.0]); // 3x²
/// let wrong = Tensor::new([2], vec![0.75, -12.0]);
/// check_value(&Options::default(), "Σ x³", cubes, &[right], &[x.clone()]).assert_pass();
///
/// let report = check_value(&Options::default(), "Σ x³", cubes, &[wrong], &[x]);
/// assert_eq!(report.verdict, Verdict::Mismatch);
/// println!("{report}"); // worst: element 1 of input 0: analytic -1.2e1, numeric 1.2e1, …; it does not depend on the step
/// ```
///
/// # Panics
/// When there is not one gradient for each input, of its shape.
#[track_caller]
pub fn check_value(
    options: &Options,
    name: &str,
    value: impl Fn(&[Tensor]) -> f64,
    gradients: &[Tensor],
    inputs: &[Tensor],
) -> Report {
    assert_eq!(gradients.len(), inputs.len(), "{name}: {} gradients for {} inputs", gradients.len(), inputs.len());
    for (i, (g, x)) in gradients.iter().zip(inputs).enumerate() {
        assert_eq!(g.shape(), x.shape(), "{name}: the gradient of input {i} is {}, the input {}", g.shape(), x.shape());
    }
    let (inputs, gradients) = (in_f64(inputs), in_f64(gradients));
    let mut rng = stream(options.seed, Purpose::Eval, [0, 0]);

    // Both steps along a direction: `moved(h)` is the inputs moved by h.
    let compare = |along, analytic: f64, scale: f64, h: f64, moved: &dyn Fn(f64) -> Vec<Tensor>| {
        let quotient = |h: f64| (value(&moved(h)) - value(&moved(-h))) / (2.0 * h);
        let (coarse, fine) = (quotient(h), quotient(h / 8.0));
        let (coarse_error, fine_error) = ((analytic - coarse).abs(), (analytic - fine).abs());
        let numeric = if fine_error < coarse_error { fine } else { coarse };
        let source = match coarse_error / fine_error {
            ratio if ratio > 8.0 => ErrorSource::Truncation,
            ratio if ratio < 0.5 => ErrorSource::RoundOff,
            _ => ErrorSource::Derivative,
        };
        let scale = scale.max(options.floor);
        Comparison { along, analytic, numeric, scale, error: (analytic - numeric).abs() / scale, source }
    };
    let mut comparisons = Vec::new();
    for (input, gradient) in gradients.iter().enumerate() {
        let gradient = gradient.as_slice::<f64>();
        let scale = gradient.iter().fold(0.0f64, |m, g| m.max(g.abs()));
        for element in sample(gradient.len(), options.max_elements, &mut rng) {
            let at = inputs[input].as_slice::<f64>()[element];
            let (along, h) = (Along::Element { input, element }, options.step * at.abs().max(1.0));
            comparisons.push(compare(along, gradient[element], scale, h, &|h| {
                let mut moved = inputs.clone();
                moved[input].as_mut_slice::<f64>()[element] += h;
                moved
            }));
        }
    }
    // A random direction through each input that was sampled; then through all of them.
    let sampled = (0..inputs.len()).filter(|&i| inputs[i].elements() > options.max_elements).map(Along::Input);
    for along in sampled.chain([Along::Everything]) {
        let moves = |i: usize| along == Along::Everything || along == Along::Input(i);
        let places: Vec<usize> = (0..inputs.len()).filter(|&i| moves(i) && inputs[i].elements() > 0).collect();
        if places.is_empty() {
            continue;
        }
        let v: Vec<Tensor> = places.iter().map(|&i| random_like(&inputs[i], &mut rng)).collect();
        let length = v.iter().map(|v| v.norm().powi(2)).sum::<f64>().sqrt();
        let v: Vec<Tensor> = v.iter().map(|v| v.scaled(1.0 / length)).collect();
        let analytic = places.iter().zip(&v).map(|(&i, v)| inner(&gradients[i], v)).sum();
        let scale = places.iter().map(|&i| gradients[i].norm().powi(2)).sum::<f64>().sqrt();
        comparisons.push(compare(along, analytic, scale, options.step, &|h| {
            let mut moved = inputs.clone();
            places.iter().zip(&v).for_each(|(&i, v)| moved[i].add_assign(&v.scaled(h)));
            moved
        }));
    }

    let (first, again) = (value(&inputs), value(&inputs));
    let nondeterminism = (first - again).abs();
    let nondeterminism = (nondeterminism > 1e-12 * first.abs().max(1.0)).then_some(nondeterminism);
    let zero = |c: &Comparison| c.analytic == 0.0 && c.numeric == 0.0;
    let of_input = |c: &Comparison, i: usize| match c.along {
        Along::Element { input, .. } => input == i,
        Along::Input(input) => input == i,
        Along::Everything => false,
    };
    let worst = comparisons.iter().copied().max_by(|a, b| a.rank().total_cmp(&b.rank()));
    let wrong = worst.as_ref().is_some_and(|w| w.rank() > options.tolerance) || nondeterminism.is_some();
    Report {
        name: name.to_owned(),
        verdict: match (comparisons.iter().all(zero), wrong) {
            (true, _) => Verdict::NotChecked,
            (false, true) => Verdict::Mismatch,
            (false, false) => Verdict::Pass,
        },
        worst,
        comparisons: comparisons.len(),
        silent: (0..inputs.len()).filter(|&i| comparisons.iter().filter(|c| of_input(c, i)).all(zero)).collect(),
        nondeterminism,
        subsets: 0,
        inconsistent_subset: None,
        tolerance: options.tolerance,
    }
}

/// Checks a function that gives its value, one number, and its gradients, one for each input and of its shape.
///
/// A function whose output is not one number is checked through a projection: ⟨u, f(x)⟩ for a fixed random u, whose
/// gradients are the function's backward pass applied to u.
///
/// ```
/// use stop_mim::autograd::check::{Options, check_function};
/// use stop_mim::Tensor;
///
/// // ln Σ e^xᵢ, whose gradient is softmax(x), by hand.
/// let log_sum_exp = |x: &[Tensor]| {
///     let e: Vec<f64> = x[0].to_f64_vec().iter().map(|x| x.exp()).collect();
///     let total: f64 = e.iter().sum();
///     let softmax = e.iter().map(|e| e / total).collect();
///     (Tensor::new([], vec![total.ln()]), vec![Tensor::new(*x[0].shape(), softmax)])
/// };
/// let x = Tensor::new([3], vec![0.3, -1.0, 2.0]);
/// check_function(&Options::default(), "log-sum-exp", log_sum_exp, &[x]).assert_pass();
/// ```
///
/// # Panics
/// When the value is not one number, or there is not one gradient for each input, of its shape.
#[track_caller]
pub fn check_function(
    options: &Options,
    name: &str,
    f: impl Fn(&[Tensor]) -> (Tensor, Vec<Tensor>),
    inputs: &[Tensor],
) -> Report {
    let inputs = in_f64(inputs);
    let (value, gradients) = f(&inputs);
    assert_eq!(value.elements(), 1, "{name}: the value is a tensor of {}; project it to one number", value.shape());
    check_value(options, name, |x| f(x).0.item(), &gradients, &inputs)
}

/// Checks what the tape says about `f` at `inputs` (converted to f64) with default [`Options`].
///
/// ```
/// use stop_mim::Tensor;
/// use stop_mim::autograd::{check::check_gradient, ops};
///
/// let inputs = [Tensor::new([2, 3], vec![0.1, -0.4, 0.9, 1.3, 0.2, -0.7])];
/// check_gradient("softmax(x)²", |x| ops::mul(&ops::softmax(&x[0]), &ops::softmax(&x[0])), &inputs).assert_pass();
/// ```
pub fn check_gradient(name: &str, f: impl Fn(&[Var]) -> Var, inputs: &[Tensor]) -> Report {
    check_gradient_with(&Options::default(), name, f, inputs)
}

/// Checks what the tape says about `f` at `inputs` (converted to f64).
///
/// An output that is not one number is projected, L(x) = ⟨u, f(x)⟩ with a random u. Besides the comparisons of
/// [`check_value`], each subset of the inputs is put on the tape alone, and must get the same gradients.
///
/// `f` must be a pure function of its arguments: noise has to be drawn before, not inside.
pub fn check_gradient_with(options: &Options, name: &str, f: impl Fn(&[Var]) -> Var, inputs: &[Tensor]) -> Report {
    let inputs = in_f64(inputs);
    let at = |inputs: &[Tensor]| f(&inputs.iter().cloned().map(Var::constant).collect::<Vec<_>>()).value().clone();
    let u = random_like(&at(&inputs), &mut stream(options.seed, Purpose::Eval, [0, 1]));
    // The gradients of the inputs that are tracked.
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
    let report = check_value(options, name, |x| inner(&u, &at(x)), &analytic, &inputs);

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
    let wrong = inconsistent.is_some() && report.verdict == Verdict::Pass;
    Report {
        verdict: if wrong { Verdict::Mismatch } else { report.verdict },
        subsets: subsets.len(),
        inconsistent_subset: inconsistent.map(|s| (0..n).filter(|i| s >> i & 1 == 1).collect()),
        ..report
    }
}

/// [`check_gradient`] for an operation under test, and once more with its inputs used a second time (their gradients
/// then add up).
pub fn check_op(name: &str, f: impl Fn(&[Var]) -> Var, inputs: &[Tensor]) -> [Report; 2] {
    let twice = |x: &[Var]| ops::add(&f(x), &ops::scale(&f(x), 0.5));
    [check_gradient(name, &f, inputs), check_gradient(&format!("{name}, inputs used twice"), twice, inputs)]
}

/// [`check_op`] for a test.
///
/// # Panics
/// With the report, when a check does not pass.
#[track_caller]
pub fn assert_op(name: &str, f: impl Fn(&[Var]) -> Var, inputs: &[Tensor]) {
    check_op(name, f, inputs).iter().for_each(Report::assert_pass);
}

/// How the error of a central difference depends on its step: (h, |(f(h) − f(−h)) / 2h − `slope`|) for each of `steps`,
/// where `slope` is f′(0).
///
/// On logarithmic axes that is a V: from large steps down, truncation falls as h²; at small steps, round-off grows as
/// 1/h. They meet near h = 10⁻⁵ at an error of about 10⁻¹⁰ for values and derivatives near 1 in f64. A derivative that
/// is wrong by more than that shows as a floor.
pub fn step_sweep(f: impl Fn(f64) -> f64, slope: f64, steps: &[f64]) -> Vec<(f64, f64)> {
    steps.iter().map(|&h| (h, ((f(h) - f(-h)) / (2.0 * h) - slope).abs())).collect()
}

fn in_f64(tensors: &[Tensor]) -> Vec<Tensor> {
    tensors.iter().map(|x| x.to_dtype(DType::F64)).collect()
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
    use crate::kernels::testing::numbers;

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

    /// Σ wᵢ xᵢ² with its gradient, right but for the factor of one element.
    fn weighted(elements: usize, size: f64, wrong: usize, factor: f64) -> impl Fn(&[Tensor]) -> (Tensor, Vec<Tensor>) {
        let w = numbers(elements, 9);
        move |x: &[Tensor]| {
            let xs = x[0].to_f64_vec();
            let value: f64 = xs.iter().zip(&w).map(|(x, w)| size * w * x * x).sum();
            let right = |i: usize| size * 2.0 * w[i] * xs[i];
            let gradient = (0..elements).map(|i| if i == wrong { factor * right(i) } else { right(i) }).collect();
            (Tensor::new([], vec![value]), vec![Tensor::new([elements], gradient)])
        }
    }

    #[test]
    fn a_function_without_a_tape() {
        let x = [Tensor::new([5], numbers(5, 1))];
        let options = Options::default();
        check_function(&options, "right", weighted(5, 1.0, 3, 1.0), &x).assert_pass();
        let report = check_function(&options, "wrong", weighted(5, 1.0, 3, 1.001), &x);
        assert_eq!(report.verdict, Verdict::Mismatch);
        assert_eq!(report.worst.unwrap().along, Along::Element { input: 0, element: 3 }, "{report}");
        // A small gradient is not waved through.
        check_function(&options, "small", weighted(5, 1e-4, 3, 1.0), &x).assert_pass();
        assert_eq!(check_function(&options, "", weighted(5, 1e-4, 3, 1.001), &x).verdict, Verdict::Mismatch);
    }

    #[test]
    fn what_is_not_sampled_is_seen_by_a_direction() {
        let x = [Tensor::new([500], numbers(500, 1))];
        for max_elements in [0, 1] {
            let options = Options { max_elements, ..Options::default() };
            let report = check_function(&options, "right", weighted(500, 1.0, 77, 1.0), &x);
            assert_eq!((report.verdict, report.comparisons), (Verdict::Pass, max_elements + 2), "{report}");
            let report = check_function(&options, "wrong", weighted(500, 1.0, 77, -1.0), &x);
            assert_eq!(report.verdict, Verdict::Mismatch, "{report}");
            assert!(!matches!(report.worst.unwrap().along, Along::Element { .. }), "{report}");
        }
    }

    #[test]
    fn noise_inside_and_inputs_that_nothing_reads_are_told() {
        let x = [Tensor::new([2], vec![1.0, 2.0]), Tensor::new([1], vec![3.0])];
        let gradients = [Tensor::new([2], vec![1.0, 1.0]), Tensor::zeros([1], DType::F64)];
        let sum = |x: &[Tensor]| x[0].to_f64_vec().iter().sum::<f64>();
        let report = check_value(&Options::default(), "sum", sum, &gradients, &x);
        assert_eq!((report.verdict, &report.silent[..]), (Verdict::Pass, &[1][..]));
        assert!(report.to_string().contains("says nothing about inputs [1]"), "{report}");

        let calls = std::cell::Cell::new(0.0);
        let noisy = |x: &[Tensor]| {
            calls.set(calls.get() + 1e-11);
            sum(x) + calls.get()
        };
        let report = check_value(&Options { step: 1.0, ..Options::default() }, "noisy", noisy, &gradients, &x);
        assert_eq!(report.verdict, Verdict::Mismatch);
        assert!(report.to_string().contains("draw noise before, not inside"), "{report}");
    }

    #[test]
    fn a_value_that_is_not_a_number_never_passes() {
        let x = [Tensor::new([1], vec![0.5])];
        let log = |x: &[Tensor]| (x[0].item() - 0.5).ln();
        for gradient in [0.0, 1.0, f64::NAN] {
            let report = check_value(&Options::default(), "ln", log, &[Tensor::new([1], vec![gradient])], &x);
            assert_eq!(report.verdict, Verdict::Mismatch, "{report}");
        }
    }

    #[test]
    #[should_panic(expected = "f: the gradient of input 0 is [3], the input [2]")]
    fn a_gradient_of_another_shape() {
        let (x, g) = (Tensor::zeros([2], DType::F64), Tensor::zeros([3], DType::F64));
        check_value(&Options::default(), "f", |_| 0.0, &[g], &[x]);
    }

    #[test]
    fn the_sweep_is_a_v() {
        let steps: Vec<f64> = (0..14).map(|k| 10f64.powi(-k)).collect();
        let right = step_sweep(f64::exp, 1.0, &steps);
        let at = |sweep: &[(f64, f64)], k: usize| sweep[k].1;
        // exp(h) − exp(−h) = 2h + h³/3 + …: the error is h²/6.
        assert!((at(&right, 2) / (1e-4 / 6.0) - 1.0).abs() < 1e-4);
        assert!(at(&right, 5) < 1e-9 && at(&right, 12) > 1e-7);
        // A derivative that is off by a millionth: no step gets below it.
        let wrong = step_sweep(f64::exp, 1.000_001, &steps);
        assert!(wrong[..9].iter().all(|(_, error)| *error > 5e-7), "{wrong:?}");
    }
}
