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
//! The paper's linear evaluation (App. C.2, VISSL's protocol) trains the classifier by SGD with augmented crops and
//! reports the best of several representations; this probe sees each image once, uncropped.

use rand::seq::SliceRandom;
use rayon::prelude::*;

use super::cholesky::Cholesky;
use super::lbfgs::{self, Minimum, Options};
use super::matmul::{View, gram, product};
use super::standardize::Standardizer;
use super::{Features, argmax, check_labels, share};
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

/// The gradient norm below which f32 products of standardised features carry no information.
const GRADIENT_NOISE: f64 = 1e-6;

/// Keeps the preconditioner positive definite when λ is tiny and features depend on each other.
const MIN_RIDGE: f64 = 1e-8;

/// Fits a linear classifier on `train` and reports its accuracy on both sets.
///
/// 1. Shuffle the training rows, so that the last tenth is a random one, and standardise.
/// 2. Choose λ on that tenth (ties: the strongest).
/// 3. Fit on all training rows, and count.
///
/// Labels are class numbers `0..classes`. With fewer than ten training images there is nothing to hold out, and the
/// strongest λ is taken.
///
/// # Panics
/// When labels and rows differ in number, a label is no class, the two sets differ in `dim`, or there is no λ.
#[track_caller]
pub fn linear_probe(
    (train, train_labels): (&Features, &[u32]),
    (test, test_labels): (&Features, &[u32]),
    classes: usize,
    config: &ProbeConfig,
) -> ProbeReport {
    check_labels("linear_probe (training set)", train, train_labels, classes);
    check_labels("linear_probe (test set)", test, test_labels, classes);
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

    let mut covariance = gram(&train);
    covariance.iter_mut().for_each(|g| *g /= train.rows() as f64);

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
            warm = objective.fit(warm, &covariance, config).point;
            let top1 = Objective { x: held, labels: held_labels, ..objective }.top1(&warm);
            held_out.push((candidate, top1));
            if top1 > best_top1 {
                (lambda, best_top1, weights) = (candidate, top1, warm.clone());
            }
        }
    }

    // 3.
    let objective = Objective { x: train.as_slice(), labels: &labels, classes, lambda };
    let Minimum { point, iterations, gradient_norm, converged, .. } = objective.fit(weights, &covariance, config);
    let test_objective = Objective { x: test.as_slice(), labels: test_labels, ..objective };
    let (train_top1, test_top1) = (objective.top1(&point), test_objective.top1(&point));
    ProbeReport { train_top1, test_top1, lambda, held_out, iterations, gradient_norm, converged }
}

/// L(W, b) for one set of images. Its argument is `[dim + 1, classes]`, row-major: W, then b as the last row.
struct Objective<'a> {
    /// Standardised features, `[n, dim]`.
    x: &'a [f32],
    /// Class of each image, `[n]`.
    labels: &'a [u32],
    classes: usize,
    lambda: f64,
}

impl Objective<'_> {
    /// Minimises L from `start`. `covariance` is XᵀX/n of these features, or nearly.
    fn fit(&self, start: Vec<f64>, covariance: &[f64], config: &ProbeConfig) -> Minimum {
        let (_, at_zero) = self.value_and_gradient(&vec![0.0; start.len()]);
        let scale = at_zero.iter().map(|g| g * g).sum::<f64>().sqrt();
        let gradient_norm = (config.tolerance * scale).max(GRADIENT_NOISE);
        let options = Options { history: 10, max_iterations: config.max_iterations, gradient_norm };

        // Standardised features have mean 0, so that in the Hessian at zero the intercept stands apart, with 1/C.
        let (classes, dim) = (self.classes, start.len() / self.classes - 1);
        // With fewer images than features, factoring it costs more than the steps that it saves.
        let hessian = (self.labels.len() >= dim).then(|| {
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
        lbfgs::minimize(start, &options, precondition, |weights| self.value_and_gradient(weights))
    }

    /// Blocks of images with their labels, in order, in parallel.
    fn blocks(&self, dim: usize) -> impl IndexedParallelIterator<Item = (&[f32], &[u32])> {
        self.x.par_chunks(BLOCK * dim).zip(self.labels.par_chunks(BLOCK))
    }

    /// Share of the images whose largest logit is that of their class.
    fn top1(&self, weights: &[f64]) -> f64 {
        let dim = weights.len() / self.classes - 1;
        let weights = to_f32(weights);
        let right = self.blocks(dim).map(|(x, labels)| {
            let logits = logits(x, &weights, self.classes);
            logits.chunks_exact(self.classes).zip(labels).filter(|(row, label)| argmax(row) == **label as usize).count()
        });
        share(right.sum(), self.labels.len())
    }

    /// L and ∇L. Products in f32, sums over blocks in f64.
    fn value_and_gradient(&self, weights: &[f64]) -> (f64, Vec<f64>) {
        let (classes, dim) = (self.classes, weights.len() / self.classes - 1);
        let weights_f32 = to_f32(weights);
        let blocks: Vec<(f64, Vec<f32>)> = self
            .blocks(dim)
            .map(|(x, labels)| {
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
            })
            .collect();

        let mut value = 0.0;
        let mut gradient = vec![0.0; weights.len()];
        for (loss, block) in &blocks {
            value += loss;
            gradient.iter_mut().zip(block).for_each(|(g, &b)| *g += f64::from(b));
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

    fn probe(train: &(Features, Vec<u32>), test: &(Features, Vec<u32>), classes: usize) -> ProbeReport {
        linear_probe((&train.0, &train.1), (&test.0, &test.1), classes, &ProbeConfig::default())
    }

    #[test]
    fn blobs_are_told_apart_as_well_as_bayes_can() {
        let (train, test) = (blobs(1, 6000, 8, 4, 2.0), blobs(2, 6000, 8, 4, 2.0));
        // With equal spheres around the unit vectors, Bayes' rule is: the largest of the first four features.
        let right = (0..6000).filter(|&i| argmax(&test.0.row(i)[..4]) == test.1[i] as usize).count();
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
        // Constant features are 0 after standardisation; the free intercept then fits the frequencies ¾ and ¼.
        let labels: Vec<u32> = (0..400).map(|i| u32::from(i % 4 == 0)).collect();
        let x = vec![0.0; 400];
        let found = Objective { x: &x, labels: &labels, classes: 2, lambda: 1.0 }.fit(
            vec![0.0; 4],
            &[0.0],
            &ProbeConfig { tolerance: 1e-6, ..Default::default() },
        );
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
        let report = linear_probe((&train.0, &train.1), (&test.0, &test.1), 2, &given);
        assert!(report.lambda == 0.25 && report.held_out.is_empty());
    }

    #[test]
    fn correlated_features_take_few_steps() {
        // Each feature is the sum of those before it, the later the fainter, and each tells something of the class:
        // 33 steps, and 416 without the preconditioner.
        let (mut x, labels) = blobs(13, 2000, 30, 30, 3.0);
        for row in x.data.chunks_exact_mut(30) {
            (1..30).for_each(|j| row[j] = row[j - 1] + row[j] / (1 + j) as f32);
        }
        let given = ProbeConfig { lambdas: vec![1e-4], ..Default::default() };
        let report = linear_probe((&x, &labels), (&x, &labels), 30, &given);
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
    fn same_bits_on_any_number_of_threads() {
        let (train, test) = (blobs(11, 3 * BLOCK + 5, 9, 3, 1.0), blobs(12, 100, 9, 3, 1.0));
        same_on_any_thread_count(|| probe(&train, &test, 3));
    }
}
