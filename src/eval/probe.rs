//! Linear probe: how well does a linear classifier on the frozen features read the class?
//!
//! Multinomial logistic regression with an L2 penalty on the weights and a free intercept. For features xᵢ (one row
//! per image), labels yᵢ, pᵢ = softmax(xᵢW + b):
//!
//! ```text
//! L(W, b) = −1/n Σᵢ log pᵢ[yᵢ] + λ/2 ‖W‖²
//! ∂L/∂W   = 1/n Σᵢ xᵢᵀ (pᵢ − onehot(yᵢ)) + λW        ∂L/∂b = 1/n Σᵢ (pᵢ − onehot(yᵢ))
//! ```
//!
//! The problem is convex: solved to convergence by [`lbfgs`] over the whole training set, the answer depends on no
//! learning rate or batch size, unlike a probe trained by SGD. Features of one encoder are strongly correlated, which
//! would cost hundreds of steps; [`lbfgs`] is therefore told the Hessian at zero weights. There every pᵢ is uniform,
//! and over C classes (for weights that sum to 0 over classes, as gradients do) it is `1/C · XᵀX/n + λI`.
//!
//! λ is chosen on a held-out tenth of the training images, from the strongest to the weakest with warm starts; the
//! probe is then fitted on all of them. The test images take no part in any choice.
//!
//! Measured on 2 cores of an AMD EPYC, with 50,000 training images and the default five λ: 0.9 s for 192 features and
//! 10 classes, 3.1 s for 192 and 100, 12 s for 768 and 100.
//!
//! Beside the features it holds a standardized copy of them, and at most: the Gram matrix XᵀX and its factor, only
//! where there are at least as many images as features, so that neither is larger than twice the features, and for no
//! more than 6144 features (300 MB each); and some twenty copies of the weights, which remember steps ([`lbfgs`]) in
//! half a gigabyte.
//!
//! The paper's linear evaluation (App. C.2, VISSL's protocol) trains the classifier by SGD with augmented crops and
//! reports the best of several representations; this probe sees each image once, uncropped.

use rand::seq::SliceRandom;
use rayon::prelude::*;

use super::cholesky::Cholesky;
use super::lbfgs::{self, Minimum, Options};
use super::matmul::{View, gram, product};
use super::standardize::Standardizer;
use super::{CancelCheck, Features, argmax, check, share};
use crate::Result;
use crate::rng::{Purpose, stream};

/// How to fit the probe.
#[derive(Clone, Debug)]
pub struct ProbeConfig {
    /// Candidate L2 strengths λ, for a loss averaged over images. A single one is used as it is.
    pub lambdas: Vec<f64>,
    /// Converged when the gradient norm has fallen to this share of its value at zero weights.
    pub tolerance: f64,
    /// Give up a fit after this many L-BFGS steps.
    pub max_iterations: usize,
    /// Decides which tenth of the training images is held out.
    pub seed: u64,
}

impl Default for ProbeConfig {
    fn default() -> Self {
        ProbeConfig { lambdas: vec![1e-1, 1e-2, 1e-3, 1e-4, 1e-5], tolerance: 1e-4, max_iterations: 500, seed: 0 }
    }
}

/// What the probe found.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeReport {
    /// Share of the training images that are classified correctly.
    pub train_top1: f64,
    /// Share of the test images that are classified correctly.
    pub test_top1: f64,
    /// The L2 strength of the final fit. At either end of the grid, the grid should be widened.
    pub lambda: f64,
    /// Held-out accuracy of each candidate, as (λ, top-1), strongest λ first. Empty when λ was given.
    pub held_out: Vec<(f64, f64)>,
    /// L-BFGS steps of the final fit, which starts from the weights found while choosing λ.
    pub iterations: usize,
    /// ‖∇L‖₂ at the end of the final fit.
    pub gradient_norm: f64,
    /// Whether that met the tolerance.
    pub converged: bool,
}

/// Images per unit of parallel work. Fixed, so that sums are grouped alike on any number of threads; small, so that
/// a block of features stays in the cache between the two products that read it.
const BLOCK: usize = 512;

/// The gradient norm below which f32 products of standardized features carry no information.
const GRADIENT_NOISE: f64 = 1e-6;

/// The most features for which the preconditioner is made. More than that are fitted without one, in more steps.
const MOST_PRECONDITIONED: usize = 6144;

/// Most memory, in bytes, for the steps that L-BFGS remembers, and for the gradients of blocks that wait to be added
/// up. At least two steps, and as many blocks as there are threads, are held whatever they take.
const MOST_REMEMBERED: usize = 1 << 29;
const MOST_WAITING: usize = 1 << 26;

/// Keeps the preconditioner positive definite when λ is tiny and features depend on each other.
const MIN_RIDGE: f64 = 1e-8;

/// Fits a linear classifier on `train` and reports its accuracy on both sets.
///
/// 1. Shuffle the training rows, so that the last tenth is a random one, and standardize.
/// 2. Choose λ on that tenth (ties: the strongest).
/// 3. Fit on all training rows, and count.
///
/// Labels are class numbers `0..classes`. With fewer than ten training images there is nothing to hold out, and the
/// strongest λ is taken. `go_on` is asked before each evaluation of the loss.
///
/// # Errors
/// When a feature is not finite, or `go_on` says so.
///
/// # Panics
/// When labels and rows differ in number, a label is no class, the two sets differ in `dim`, or there is no λ.
#[track_caller]
pub fn linear_probe(
    (train, train_labels): (&Features, &[u32]),
    (test, test_labels): (&Features, &[u32]),
    classes: usize,
    config: &ProbeConfig,
    go_on: CancelCheck,
) -> Result<ProbeReport> {
    check("linear_probe, training set", train, train_labels, classes)?;
    check("linear_probe, test set", test, test_labels, classes)?;
    assert_eq!(train.dim(), test.dim(), "linear_probe: training features of {}, test of {}", train.dim(), test.dim());
    let mut lambdas = config.lambdas.clone();
    lambdas.sort_by(|a, b| b.total_cmp(a));
    let mut lambda = *lambdas.first().expect("linear_probe: no λ to choose from");

    // 1. The statistics include the held-out tenth: its labels are what must stay unseen.
    let mut order: Vec<usize> = (0..train.rows()).collect();
    order.shuffle(&mut stream(config.seed, Purpose::Eval, [0, 0]));
    let labels: Vec<u32> = order.iter().map(|&i| train_labels[i]).collect();
    let standardizer = Standardizer::fit(train);
    let (mut train, mut test) = (train.select(&order), test.clone());
    standardizer.apply(&mut train);
    standardizer.apply(&mut test);

    let preconditioned = train.rows() >= train.dim() && train.dim() <= MOST_PRECONDITIONED;
    let mut covariance = if preconditioned { Some(gram(&train, go_on)?) } else { None };
    covariance.iter_mut().flatten().for_each(|g| *g /= train.rows() as f64);
    let covariance = covariance.as_deref();

    // 2.
    let split = train.rows() - train.rows() / 10;
    let (fitted, held) = train.as_slice().split_at(split * train.dim());
    let (fitted_labels, held_labels) = labels.split_at(split);
    let mut held_out = Vec::new();
    let mut weights = vec![0.0; (train.dim() + 1) * classes];
    if lambdas.len() > 1 {
        let mut best_top1 = f64::NEG_INFINITY;
        let mut warm = weights.clone();
        for &candidate in &lambdas {
            let objective = Objective { x: fitted, labels: fitted_labels, classes, lambda: candidate };
            warm = objective.fit(warm, covariance, config, go_on)?.point;
            let top1 = Objective { x: held, labels: held_labels, ..objective }.top1(&warm);
            held_out.push((candidate, top1));
            if top1 > best_top1 {
                (lambda, best_top1, weights) = (candidate, top1, warm.clone());
            }
        }
    }

    // 3.
    let objective = Objective { x: train.as_slice(), labels: &labels, classes, lambda };
    let Minimum { point, iterations, gradient_norm, converged, .. } =
        objective.fit(weights, covariance, config, go_on)?;
    let test_objective = Objective { x: test.as_slice(), labels: test_labels, ..objective };
    let (train_top1, test_top1) = (objective.top1(&point), test_objective.top1(&point));
    Ok(ProbeReport { train_top1, test_top1, lambda, held_out, iterations, gradient_norm, converged })
}

/// What knowing nothing of an image is worth: the share of the test images that get the right class from who always
/// says the most frequent one of the training images; the mean of such shares where several are as frequent.
///
/// With as many training images of each class that is 1 / number of classes, whatever the test images are: what a probe
/// of features that say nothing finds on average. With one frequent class it is the share of that class, which such a
/// probe finds too, since its intercept is free. NaN without training or test images.
///
/// # Panics
/// When a label is no class.
#[track_caller]
pub fn chance(train_labels: &[u32], test_labels: &[u32], classes: usize) -> f64 {
    let count = |labels: &[u32]| {
        let mut counts = vec![0; classes];
        labels.iter().for_each(|&label| counts[label as usize] += 1);
        counts
    };
    let (train, test) = (count(train_labels), count(test_labels));
    let most = train.iter().copied().max().unwrap_or(0);
    let frequent = || train.iter().zip(&test).filter(|(n, _)| **n == most && most > 0);
    share(frequent().map(|(_, right)| right).sum(), frequent().count() * test_labels.len())
}

/// L(W, b) for one set of images. Its argument is `[dim + 1, classes]`, row-major: W, then b as the last row.
struct Objective<'a> {
    /// Standardized features, `[n, dim]`.
    x: &'a [f32],
    /// Class of each image, `[n]`.
    labels: &'a [u32],
    classes: usize,
    lambda: f64,
}

impl Objective<'_> {
    /// Minimizes L from `start`. `covariance` is XᵀX/n of these features, or nearly.
    fn fit(
        &self,
        start: Vec<f64>,
        covariance: Option<&[f64]>,
        config: &ProbeConfig,
        go_on: CancelCheck,
    ) -> Result<Minimum> {
        let (_, at_zero) = self.value_and_gradient(&vec![0.0; start.len()]);
        let scale = at_zero.iter().map(|g| g * g).sum::<f64>().sqrt();
        let gradient_norm = (config.tolerance * scale).max(GRADIENT_NOISE);
        let of_a_step = 2 * size_of_val(&start[..]);
        let history = (MOST_REMEMBERED / of_a_step).clamp(2, 10);
        let options = Options { history, max_iterations: config.max_iterations, gradient_norm };

        // Standardized features have mean 0, so that in the Hessian at zero the intercept stands apart, with 1/C.
        let (classes, dim) = (self.classes, start.len() / self.classes - 1);
        // With fewer images than features, factoring it costs more than the steps that it saves.
        let hessian = covariance.filter(|_| self.labels.len() >= dim).map(|covariance| {
            let mut hessian: Vec<f64> = covariance.iter().map(|g| g / classes as f64).collect();
            hessian.iter_mut().step_by(dim + 1).for_each(|diagonal| *diagonal += self.lambda.max(MIN_RIDGE));
            Cholesky::new(hessian, dim)
        });
        let precondition = |v: &mut [f64]| {
            let Some(hessian) = &hessian else { return };
            let (weights, intercept) = v.split_at_mut(dim * classes);
            hessian.solve(weights, classes);
            intercept.iter_mut().for_each(|v| *v *= classes as f64);
        };
        lbfgs::minimize(start, &options, precondition, |weights| {
            go_on()?;
            Ok(self.value_and_gradient(weights))
        })
    }

    /// Share of the images whose largest logit is that of their class.
    fn top1(&self, weights: &[f64]) -> f64 {
        let dim = weights.len() / self.classes - 1;
        let weights = to_f32(weights);
        let right = self.x.par_chunks(BLOCK * dim).zip(self.labels.par_chunks(BLOCK)).map(|(x, labels)| {
            let logits = logits(x, &weights, self.classes);
            logits
                .chunks_exact(self.classes)
                .zip(labels)
                .filter(|(row, label)| argmax(row) == Some(**label as usize))
                .count()
        });
        share(right.sum(), self.labels.len())
    }

    /// L and ∇L. Products in f32, sums over blocks in f64.
    fn value_and_gradient(&self, weights: &[f64]) -> (f64, Vec<f64>) {
        let (classes, dim) = (self.classes, weights.len() / self.classes - 1);
        let weights_f32 = to_f32(weights);
        let of_block = |(x, labels): (&[f32], &[u32])| {
            let mut residuals = logits(x, &weights_f32, classes);
            let mut loss = 0.0;
            let mut d_bias = vec![0.0; classes];
            for (row, &label) in residuals.chunks_exact_mut(classes).zip(labels) {
                let label = label as usize;
                let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let logit = row[label] - max;
                row.iter_mut().for_each(|z| *z = (*z - max).exp());
                let sum: f32 = row.iter().sum();
                loss += f64::from(sum.ln() - logit);
                row.iter_mut().for_each(|z| *z /= sum);
                row[label] -= 1.0;
                d_bias.iter_mut().zip(&*row).for_each(|(d, r)| *d += r);
            }
            let mut gradient = product(View::new(x, dim).t(), View::new(&residuals, classes));
            gradient.extend(d_bias);
            (loss, gradient)
        };

        // So many blocks at a time that their gradients fit into memory; they are added up in order, so that it does
        // not matter how many that are.
        let images = BLOCK * (MOST_WAITING / (4 * weights.len())).max(rayon::current_num_threads());
        let mut value = 0.0;
        let mut gradient = vec![0.0; weights.len()];
        for (x, labels) in self.x.chunks(images * dim).zip(self.labels.chunks(images)) {
            let blocks = x.par_chunks(BLOCK * dim).zip(labels.par_chunks(BLOCK)).map(of_block);
            for (loss, block) in blocks.collect::<Vec<(f64, Vec<f32>)>>() {
                value += loss;
                gradient.iter_mut().zip(block).for_each(|(g, b)| *g += f64::from(b));
            }
        }
        let n = self.labels.len() as f64;
        value /= n;
        gradient.iter_mut().for_each(|g| *g /= n);
        for (g, w) in gradient.iter_mut().zip(&weights[..dim * classes]) {
            value += 0.5 * self.lambda * w * w;
            *g += self.lambda * w;
        }
        (value, gradient)
    }
}

/// xW + b: `[n, dim] → [n, classes]`.
fn logits(x: &[f32], weights: &[f32], classes: usize) -> Vec<f32> {
    let (w, b) = weights.split_at(weights.len() - classes);
    let mut logits = product(View::new(x, w.len() / classes), View::new(w, classes));
    logits.chunks_exact_mut(classes).for_each(|row| row.iter_mut().zip(b).for_each(|(z, b)| *z += b));
    logits
}

fn to_f32(x: &[f64]) -> Vec<f32> {
    x.iter().map(|&x| x as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{gaussian, same_on_any_thread_count};
    use super::*;

    /// `n` images of `classes` classes in turn: standard normal around `spread` times the class's unit vector.
    fn blobs(seed: u64, n: usize, dim: usize, classes: usize, spread: f32) -> (Features, Vec<u32>) {
        let mut x = gaussian(seed, n, dim);
        let labels: Vec<u32> = (0..n).map(|i| (i % classes) as u32).collect();
        x.data.chunks_exact_mut(dim).zip(&labels).for_each(|(row, &label)| row[label as usize] += spread);
        (x, labels)
    }

    type Set = (Features, Vec<u32>);

    fn probe_with(train: &Set, test: &Set, classes: usize, config: &ProbeConfig) -> ProbeReport {
        linear_probe((&train.0, &train.1), (&test.0, &test.1), classes, config, &|| Ok(())).unwrap()
    }

    fn probe(train: &Set, test: &Set, classes: usize) -> ProbeReport {
        probe_with(train, test, classes, &ProbeConfig::default())
    }

    #[test]
    fn blobs_are_told_apart_as_well_as_bayes_can() {
        let (train, test) = (blobs(1, 6000, 8, 4, 2.0), blobs(2, 6000, 8, 4, 2.0));
        // With equal spheres around the unit vectors, Bayes' rule is: the largest of the first four features.
        let right = (0..6000).filter(|&i| argmax(&test.0.row(i)[..4]) == Some(test.1[i] as usize)).count();
        let bayes = share(right, 6000);
        let report = probe(&train, &test, 4);
        assert!(report.converged, "{report:?}");
        // Estimating 4 × 9 weights from 6000 images costs a few in a thousand.
        assert!((report.test_top1 - bayes).abs() < 0.008 && (0.7..0.9).contains(&bayes), "{bayes} {report:?}");
    }

    #[test]
    fn gradient_agrees_with_central_differences() {
        let (x, labels) = blobs(3, BLOCK + 7, 5, 3, 1.0);
        let objective = Objective { x: x.as_slice(), labels: &labels, classes: 3, lambda: 0.3 };
        let weights: Vec<f64> = gaussian(4, 1, 18).row(0).iter().map(|&w| f64::from(w)).collect();
        let (_, gradient) = objective.value_and_gradient(&weights);
        for i in 0..weights.len() {
            let at = |h: f64| {
                let mut weights = weights.clone();
                weights[i] += h;
                objective.value_and_gradient(&weights).0
            };
            let numeric = (at(1e-2) - at(-1e-2)) / 2e-2;
            // h² f‴/6 ≈ 1e-5; the f32 noise of L over h is smaller.
            assert!((gradient[i] - numeric).abs() < 5e-5, "weight {i}: {} against {numeric}", gradient[i]);
        }
    }

    #[test]
    fn without_information_the_loss_is_the_entropy_of_the_classes() {
        // Constant features are 0 after standardization; the free intercept then fits the frequencies ¾ and ¼.
        let labels: Vec<u32> = (0..400).map(|i| u32::from(i % 4 == 0)).collect();
        let x = vec![0.0; 400];
        let config = ProbeConfig { tolerance: 1e-6, ..Default::default() };
        let objective = Objective { x: &x, labels: &labels, classes: 2, lambda: 1.0 };
        let found = objective.fit(vec![0.0; 4], Some(&[0.0]), &config, &|| Ok(())).unwrap();
        let entropy = -(0.75 * 0.75f64.ln() + 0.25 * 0.25f64.ln());
        assert!(found.converged && (found.value - entropy).abs() < 1e-7, "{found:?} {entropy}");
        assert!((found.point[2] - found.point[3] - 3f64.ln()).abs() < 1e-4, "{found:?}");
    }

    #[test]
    fn shift_and_scale_of_a_feature_do_not_matter() {
        let (train, test) = (blobs(5, 1000, 6, 3, 1.5), blobs(6, 1000, 6, 3, 1.5));
        let moved = |(x, labels): &(Features, Vec<u32>)| {
            let mut x = x.clone();
            for row in x.data.chunks_exact_mut(6) {
                row.iter_mut().enumerate().for_each(|(j, v)| *v = *v * 10f32.powi(j as i32 - 3) + j as f32);
            }
            (x, labels.clone())
        };
        let (plain, moved) = (probe(&train, &test, 3), probe(&moved(&train), &moved(&test), 3));
        assert_eq!(plain.lambda, moved.lambda);
        // The shift costs f32 digits: an image on the border may change sides.
        assert!((plain.test_top1 - moved.test_top1).abs() <= 0.002, "{plain:?} {moved:?}");
    }

    #[test]
    fn the_penalty_is_chosen_on_held_out_images() {
        // 60 images, 100 features, of which 2 tell the class: a weak penalty overfits.
        let (train, test) = (blobs(7, 60, 100, 2, 2.0), blobs(8, 2000, 100, 2, 2.0));
        let report = probe(&train, &test, 2);
        let lambdas: Vec<f64> = report.held_out.iter().map(|(lambda, _)| *lambda).collect();
        assert_eq!(lambdas, ProbeConfig::default().lambdas);
        let best = report.held_out.iter().map(|(_, top1)| *top1).fold(0.0, f64::max);
        assert!(report.held_out.contains(&(report.lambda, best)), "{report:?}");
        let given = ProbeConfig { lambdas: vec![0.25], ..Default::default() };
        let report = probe_with(&train, &test, 2, &given);
        assert!(report.lambda == 0.25 && report.held_out.is_empty());
    }

    #[test]
    fn correlated_features_take_few_steps() {
        // Each feature is the sum of those before it, the later the fainter, and each tells something of the class:
        // 33 steps, and 416 without the preconditioner.
        let mut set = blobs(13, 2000, 30, 30, 3.0);
        for row in set.0.data.chunks_exact_mut(30) {
            (1..30).for_each(|j| row[j] = row[j - 1] + row[j] / (1 + j) as f32);
        }
        let given = ProbeConfig { lambdas: vec![1e-4], ..Default::default() };
        let report = probe_with(&set, &set, 30, &given);
        assert!(report.converged && report.iterations < 60, "{report:?}");
    }

    #[test]
    fn degenerate_sets_are_answered() {
        let one = (gaussian(9, 20, 3), vec![0; 20]);
        let report = probe(&one, &one, 1);
        assert_eq!((report.test_top1, report.lambda), (1.0, 0.1), "all λ are equally good: the strongest");
        let constant = (Features::new(vec![0.1; 60], 20, 3), one.1.clone());
        assert_eq!(probe(&constant, &constant, 2).test_top1, 1.0);
        let few = blobs(10, 4, 30, 2, 0.0);
        let report = probe(&few, &few, 2);
        assert_eq!((report.train_top1, report.lambda), (1.0, 0.1), "30 features shatter 4 images: {report:?}");
        let nothing = (Features::new(vec![], 0, 3), vec![]);
        assert!(probe(&one, &nothing, 2).test_top1.is_nan());
    }

    #[test]
    fn no_square_of_the_features_where_they_outnumber_the_images() {
        // XᵀX would take 80 GB.
        let (train, test) = (blobs(14, 12, 100_000, 2, 100.0), blobs(15, 12, 100_000, 2, 100.0));
        let report = probe(&train, &test, 2);
        assert!(report.converged && report.train_top1 == 1.0, "{report:?}");
    }

    #[test]
    fn gradients_do_not_wait_for_all_images() {
        // 2000 · 500 weights: 4 MB a block of images, of which MOST_WAITING has room for 16; there are 17 and a bit.
        let (x, labels) = blobs(16, 17 * BLOCK + 1, 500, 500, 0.0);
        let x: Vec<f32> = x.as_slice().iter().flat_map(|&v| [v, 0.0, 0.0, 0.0]).collect();
        let all = Objective { x: &x, labels: &labels, classes: 500, lambda: 0.0 };
        let weights = vec![0.0; 2001 * 500];
        assert!((17 * 4 * weights.len()) > MOST_WAITING);
        let (value, gradient) = all.value_and_gradient(&weights);
        // The mean of two parts, by their numbers of images.
        let at = 9 * BLOCK;
        let (first, others) = labels.split_at(at);
        let share = first.len() as f64 / labels.len() as f64;
        let [first, others] = [(&x[..at * 2000], first), (&x[at * 2000..], others)]
            .map(|(x, labels)| Objective { x, labels, ..all }.value_and_gradient(&weights));
        let close =
            |found: f64, first: f64, others: f64| (found - share * first - (1.0 - share) * others).abs() < 1e-12;
        assert!(close(value, first.0, others.0) && (value - 500f64.ln()).abs() < 1e-5);
        assert!((0..gradient.len()).all(|i| close(gradient[i], first.1[i], others.1[i])));
    }

    #[test]
    fn chance_is_what_a_constant_answer_gets() {
        assert_eq!(chance(&[0, 1, 2, 3], &[2, 2, 1], 4), 0.25, "balanced: one of four, whatever is tested");
        assert_eq!(chance(&[0, 0, 1], &[0, 1, 1, 1], 2), 0.25, "the frequent one of the training images");
        assert_eq!(chance(&[0, 0, 1, 1, 2], &[0, 2, 1, 1], 7), 3.0 / 8.0, "classes without images do not count");
        assert!(chance(&[], &[0], 1).is_nan() && chance(&[0], &[], 1).is_nan());
    }

    #[test]
    fn features_that_say_nothing_are_worth_chance() {
        let frequent = |seed, n: usize| (gaussian(seed, n, 6), (0..n).map(|i| u32::from(i % 4 == 0)).collect());
        for (train, test, classes) in
            [(blobs(17, 3000, 6, 5, 0.0), blobs(18, 3000, 6, 5, 0.0), 5), (frequent(19, 3000), frequent(20, 3000), 2)]
        {
            let (found, chance) = (probe(&train, &test, classes).test_top1, chance(&train.1, &test.1, classes));
            // Four standard errors.
            assert!((found - chance).abs() < 4.0 * (chance * (1.0 - chance) / 3000.0).sqrt(), "{found}, {chance}");
        }
    }

    #[test]
    fn a_fit_can_be_ended_and_says_when_it_was_not() {
        use std::sync::atomic::{AtomicUsize, Ordering};

        use crate::Error;
        let (train, labels) = blobs(21, 300, 6, 3, 1.0);
        let ended = |after: usize| {
            let asked = AtomicUsize::new(0);
            let go_on = || match asked.fetch_add(1, Ordering::Relaxed) < after {
                true => Ok(()),
                false => Err(Error::Interrupted),
            };
            let set = (&train, &labels[..]);
            (linear_probe(set, set, 3, &ProbeConfig::default(), &go_on), asked.into_inner())
        };
        for after in [0, 1, 5, 20] {
            let (found, asked) = ended(after);
            assert!(matches!(found, Err(Error::Interrupted)) && asked == after + 1, "{after}: {found:?}");
        }
        let short = ProbeConfig { max_iterations: 2, ..Default::default() };
        let set = (train, labels);
        assert!(!probe_with(&set, &set, 3, &short).converged && probe(&set, &set, 3).converged);
    }

    #[test]
    fn features_that_are_no_numbers_are_an_error() {
        let sound = blobs(22, 30, 4, 2, 1.0);
        let mut broken = sound.clone();
        broken.0.data[4 * 7 + 1] = f32::INFINITY;
        for (train, test, which) in [(&broken, &sound, "training set"), (&sound, &broken, "test set")] {
            let sets = ((&train.0, &train.1[..]), (&test.0, &test.1[..]));
            let error = linear_probe(sets.0, sets.1, 2, &ProbeConfig::default(), &|| Ok(())).unwrap_err().to_string();
            assert!(error.contains(which) && error.contains("feature 1 of image 7 is inf"), "{error}");
        }
    }

    #[test]
    fn same_bits_on_any_number_of_threads() {
        let (train, test) = (blobs(11, 3 * BLOCK + 5, 9, 3, 1.0), blobs(12, 100, 9, 3, 1.0));
        same_on_any_thread_count(|| probe(&train, &test, 3));
    }
}
