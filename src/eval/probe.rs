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
//! Memory beside the features: a standardized copy of them; the Gram matrix XᵀX and its factor, each at most twice the
//! features, since both are made only where images are at least as many as features, and at most 300 MB, since they are
//! made for at most 6144 features; and some twenty copies of the weights, for the past steps of [`lbfgs`], in half a
//! gigabyte.
//!
//! The paper's linear evaluation (App. C.2, VISSL's protocol) trains the classifier by SGD with augmented crops and
//! reports the best of several representations; this probe sees each image once, uncropped.

use std::sync::Arc;

use rand::seq::SliceRandom;
use rayon::prelude::*;

use super::standardize::Standardizer;
use super::{CancelCheck, argmax, check_labeled, labels, pooled_features, select_rows, share};
use crate::autograd::{Tape, Var, ops};
use crate::data::{Dataset, Splits, Subset};
use crate::linalg::lbfgs::{self, Minimum, Options};
use crate::linalg::{Cholesky, gram, norm};
use crate::nn::Params;
use crate::rng::{Purpose, stream};
use crate::tensor::{DType, Indices, Tensor};
use crate::vit::Encoder;
use crate::{Error, Result};

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
        ProbeConfig { lambdas: vec![1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6], tolerance: 1e-4, max_iterations: 500, seed: 0 }
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

/// The gradient norm that rounding of f32 products of standardized features leaves.
const GRADIENT_NOISE: f64 = 1e-6;

/// The most features for which the preconditioner is made. More than that are fitted without one, in more steps.
const MOST_PRECONDITIONED: usize = 6144;

/// The most memory for the past steps of L-BFGS, in bytes; two are kept however large they are.
const MOST_REMEMBERED: usize = 1 << 29;

/// The most memory for the gradients of blocks before they are added up, in bytes; as many as there are threads are kept
/// however large they are.
const MOST_WAITING: usize = 1 << 26;

/// Keeps the preconditioner positive definite when λ is tiny and features depend on each other.
const MIN_RIDGE: f64 = 1e-8;

/// Fits a linear classifier on `train` and reports its accuracy on both sets.
///
/// 1. Shuffle the training rows, so that the last tenth is a random one, and standardize.
/// 2. Choose λ on that tenth (ties: the strongest).
/// 3. Fit on all training rows, and count.
///
/// With fewer than ten training images there is nothing to hold out, and the strongest λ is taken. `cancel` is asked
/// before each evaluation of the loss.
///
/// # Errors
/// When a feature is not finite, or `cancel` says so.
///
/// # Panics
/// When labels and rows differ in number, a label is no class, the two sets differ in `dim`, or there is no λ.
#[track_caller]
pub fn linear_probe(
    (train, train_labels): (&Tensor, &[u32]),
    (test, test_labels): (&Tensor, &[u32]),
    classes: usize,
    config: &ProbeConfig,
    cancel: CancelCheck,
) -> Result<ProbeReport> {
    check_labeled("linear_probe, training set", train, train_labels, classes)?;
    check_labeled("linear_probe, test set", test, test_labels, classes)?;
    let ([images, dim], [_, test_dim]) = (train.dims("linear_probe"), test.dims("linear_probe"));
    assert_eq!(dim, test_dim, "linear_probe: training features of {dim}, test of {test_dim}");
    let mut lambdas = config.lambdas.clone();
    lambdas.sort_by(|a, b| b.total_cmp(a));
    let mut lambda = *lambdas.first().expect("linear_probe: no λ to choose from");

    // 1. The statistics include the held-out tenth: its labels are what must stay unseen.
    let mut order: Vec<u32> = (0..images as u32).collect();
    order.shuffle(&mut stream(config.seed, Purpose::Eval, [0, 0]));
    let standardizer = Standardizer::fit(train);
    let train = Block::all(train, train_labels, &order, &standardizer);
    let test = Block::all(test, test_labels, &(0..test_labels.len() as u32).collect::<Vec<_>>(), &standardizer);

    let preconditioned = images >= dim && dim <= MOST_PRECONDITIONED;
    let rows = || train.iter().map(|block| block.x.clone());
    let mut covariance = if preconditioned { Some(gram(rows(), dim, cancel)?) } else { None };
    covariance.iter_mut().flatten().for_each(|g| *g /= images as f64);
    let covariance = covariance.as_deref();

    // 2.
    let mut held_out = Vec::new();
    let mut weights = vec![0.0; (dim + 1) * classes];
    if lambdas.len() > 1 {
        let (fitted, held) = Block::split(&train, images - images / 10);
        let mut best_top1 = f64::NEG_INFINITY;
        let mut warm = weights.clone();
        for &candidate in &lambdas {
            let objective = Objective { blocks: &fitted, classes, lambda: candidate };
            warm = objective.fit(warm, covariance, config, cancel)?.point;
            let top1 = Objective { blocks: &held, ..objective }.top1(&warm);
            held_out.push((candidate, top1));
            if top1 > best_top1 {
                (lambda, best_top1, weights) = (candidate, top1, warm.clone());
            }
        }
    }

    // 3.
    let objective = Objective { blocks: &train, classes, lambda };
    let found = objective.fit(weights, covariance, config, cancel)?;
    let Minimum { point, iterations, gradient_norm, converged, .. } = found;
    let (train_top1, test_top1) = (objective.top1(&point), Objective { blocks: &test, ..objective }.top1(&point));
    Ok(ProbeReport { train_top1, test_top1, lambda, held_out, iterations, gradient_norm, converged })
}

/// [`linear_probe`] on the pooled features of an even choice of `images` training and as many test images.
///
/// # Errors
/// When an image cannot be read or has no label, or a feature is not finite.
pub fn probe_encoder(
    (encoder, params): (&Encoder, &Params),
    splits: &Splits,
    images: usize,
    config: &ProbeConfig,
) -> Result<ProbeReport> {
    let normalization = splits.normalization()?;
    let features = |all: &Arc<dyn Dataset>| {
        let some = Subset::even(Arc::clone(all), images);
        let none = || Error::config(format!("no labels in {}", some.describe()), "probe on images with classes");
        let labels = labels(&some).ok_or_else(none)?;
        let x = pooled_features(encoder, params, (&some, &normalization), 1, &|_| Ok(()))?.swap_remove(0);
        Ok::<_, Error>((x, labels))
    };
    let ((train, train_labels), (test, test_labels)) = (features(&splits.train)?, features(&splits.test)?);
    let classes = splits.train.class_names().len();
    linear_probe((&train, &train_labels), (&test, &test_labels), classes, config, &|| Ok(()))
}

/// Chance level: the accuracy on the test images of always answering the most frequent class of the training images. Where
/// several classes are equally frequent, the mean over them.
///
/// A probe of features without information reaches it, since its intercept is free. With equally many training images of
/// each class it is 1 / number of classes, whatever the test images are. NaN without training or test images.
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

/// Some images: the unit of parallel work.
#[derive(Clone)]
struct Block {
    /// Standardized features, `[n, dim]`.
    x: Tensor,
    /// Class of each image, `[n]`.
    labels: Indices,
}

impl Block {
    /// The images in this order, standardized, in blocks of [`BLOCK`].
    fn all(x: &Tensor, labels: &[u32], order: &[u32], standardizer: &Standardizer) -> Vec<Self> {
        let block = |rows: &[u32]| {
            let mut x = select_rows(x, rows);
            standardizer.apply(&mut x);
            let labels = rows.iter().map(|&row| labels[row as usize]).collect();
            Block { x, labels: Indices::new(rows.len(), 1, labels) }
        };
        order.par_chunks(BLOCK).map(block).collect()
    }

    /// The first `at` images, and the others. Whole blocks are shared, not copied.
    fn split(blocks: &[Self], at: usize) -> (Vec<Self>, Vec<Self>) {
        let (mut first, mut others) = (Vec::new(), Vec::new());
        for (i, block) in blocks.iter().enumerate() {
            let n = block.labels.rows();
            let part = |range: std::ops::Range<usize>| Block {
                x: if range.len() == n { block.x.clone() } else { block.x.rows(range.clone()) },
                labels: block.labels.slice_rows(range),
            };
            let cut = at.saturating_sub(i * BLOCK).min(n);
            first.extend((cut > 0).then(|| part(0..cut)));
            others.extend((cut < n).then(|| part(cut..n)));
        }
        (first, others)
    }
}

/// L(W, b) for some images. Its argument is `[dim + 1, classes]`, row-major: W, then b as the last row.
#[derive(Clone, Copy)]
struct Objective<'a> {
    blocks: &'a [Block],
    classes: usize,
    lambda: f64,
}

impl Objective<'_> {
    /// Number of images.
    fn images(&self) -> usize {
        self.blocks.iter().map(|block| block.labels.rows()).sum()
    }

    /// Minimizes L from `start`. `covariance` is XᵀX/n of these features, or nearly.
    fn fit(
        &self,
        start: Vec<f64>,
        covariance: Option<&[f64]>,
        config: &ProbeConfig,
        cancel: CancelCheck,
    ) -> Result<Minimum> {
        let scale = norm(&self.value_and_gradient(&vec![0.0; start.len()]).1);
        let gradient_norm = (config.tolerance * scale).max(GRADIENT_NOISE);
        let of_a_step = 2 * size_of_val(&start[..]);
        let history = (MOST_REMEMBERED / of_a_step).clamp(2, 10);
        let options = Options { history, max_iterations: config.max_iterations, gradient_norm };

        // Standardized features have mean 0, so that in the Hessian at zero the intercept stands apart, with 1/C.
        let (classes, dim) = (self.classes, start.len() / self.classes - 1);
        // With fewer images than features, factoring it costs more than the steps that it saves.
        let hessian = covariance.filter(|_| self.images() >= dim).and_then(|covariance| {
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
            cancel()?;
            Ok(self.value_and_gradient(weights))
        })
    }

    /// W `[dim, classes]` and b `[classes]`, in f32.
    fn parameters(&self, weights: &[f64]) -> [Tensor; 2] {
        let (w, b) = weights.split_at(weights.len() - self.classes);
        [(w, vec![w.len() / self.classes, self.classes]), (b, vec![self.classes])]
            .map(|(x, shape)| Tensor::new(&shape[..], x.to_vec()).to_dtype(DType::F32))
    }

    /// Share of the images whose largest logit is that of their class.
    fn top1(&self, weights: &[f64]) -> f64 {
        let parameters = self.parameters(weights);
        let right = self.blocks.par_iter().map(|block| {
            let [w, b] = parameters.clone().map(Var::constant);
            let logits = logits(&block.x, &w, &b);
            let rows = logits.value().as_slice::<f32>().chunks_exact(self.classes);
            rows.zip(block.labels.as_slice()).filter(|(row, label)| argmax(row) == Some(**label as usize)).count()
        });
        share(right.sum(), self.images())
    }

    /// L and ∇L. Products and softmax in f32, sums over blocks in f64.
    fn value_and_gradient(&self, weights: &[f64]) -> (f64, Vec<f64>) {
        let parameters = self.parameters(weights);
        // The mean over a block, and its gradients.
        let of_block = |block: &Block| {
            let tape = Tape::new();
            let [w, b] = parameters.clone().map(|x| tape.leaf(x));
            let loss = ops::cross_entropy(&logits(&block.x, &w, &b), &block.labels);
            let mut found = tape.backward(&loss);
            (loss.item(), [w, b].map(|x| found.take(&x).expect("the loss reads both")))
        };

        // So many blocks at a time that their gradients fit into memory; they are added up in order, so that it does
        // not matter how many that are.
        let at_a_time = (MOST_WAITING / (4 * weights.len())).max(rayon::current_num_threads());
        let images = self.images() as f64;
        let (mut value, mut gradient) = (0.0, vec![0.0; weights.len()]);
        for blocks in self.blocks.chunks(at_a_time) {
            let found: Vec<_> = blocks.par_iter().map(of_block).collect();
            for (block, (loss, gradients)) in blocks.iter().zip(found) {
                let share = block.labels.rows() as f64 / images;
                value += share * loss;
                let mut rest = &mut gradient[..];
                for part in &gradients {
                    let (here, after) = rest.split_at_mut(part.elements());
                    here.iter_mut().zip(part.as_slice::<f32>()).for_each(|(g, d)| *g += share * f64::from(*d));
                    rest = after;
                }
            }
        }
        for (g, w) in gradient.iter_mut().zip(&weights[..weights.len() - self.classes]) {
            value += 0.5 * self.lambda * w * w;
            *g += self.lambda * w;
        }
        (value, gradient)
    }
}

/// xW + b: `[n, dim] → [n, classes]`.
fn logits(x: &Tensor, w: &Var, b: &Var) -> Var {
    Var::from(x.clone()).matmul(w) + b
}

#[cfg(test)]
mod tests;
