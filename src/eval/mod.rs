//! What are frozen features worth? Measures that train nothing of the encoder.
//!
//! | question | file |
//! |---|---|
//! | how well does a linear classifier read the class? | [`probe`], on [`standardize`]d columns, trained by [`lbfgs`] with a `cholesky` preconditioner |
//! | are neighbors of the same class? | [`knn`] |
//! | how many directions do the features use; have they collapsed? | [`rank`], through the eigenvalues of `eigen` |
//! | what does a predicted token resemble? (Fig. 6) | [`resemblance`](mod@resemblance) |
//! | how much do predictions vary with the noise, and targets with the image? | [`spread`] |
//!
//! All take [`Features`], one row per image: [`pooled_features`] makes them from an encoder. They can take long: each
//! asks now and then whether to [go on](CancelCheck). None needs more memory than a small multiple of the features: what grows
//! with the square of their number or length has a bound, which is said where it is. Every measure gives the same bits
//! on any number of threads: rows are cut into blocks of a fixed size, and what blocks find is combined in the order of
//! the rows.

use crate::{Error, Result};

mod cholesky;
pub(crate) mod eigen;
mod features;
pub mod knn;
pub mod lbfgs;
mod matmul;
pub mod probe;
pub mod rank;
pub mod resemblance;
pub mod spread;
pub mod standardize;

pub use features::{PIXEL_SIDE, labels, mean_over_tokens, pixel_features, pooled_features};
pub use knn::{KnnConfig, knn_top1};
pub use probe::{ProbeConfig, ProbeReport, chance, linear_probe};
pub use rank::{feature_std, rank_me};
pub use resemblance::{cosines, resemblance};
pub use spread::{noise_sensitivity, rms, target_std};

/// Asked now and then during long work: its error ends the work, as when the user wants to stop. `&|| Ok(())` never
/// does.
pub type CancelCheck<'a> = &'a (dyn Fn() -> Result<()> + Sync);

/// One feature vector per image: shape `[rows, dim]`, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Features {
    data: Vec<f32>,
    rows: usize,
    dim: usize,
}

impl Features {
    /// `data[r * dim + j]` is feature j of image r.
    ///
    /// # Panics
    /// When `dim` is 0, or `data` does not hold `rows * dim` numbers.
    #[track_caller]
    pub fn new(data: Vec<f32>, rows: usize, dim: usize) -> Self {
        assert!(dim > 0, "Features::new: a feature vector needs at least one entry");
        assert_eq!(data.len(), rows * dim, "Features::new: {} numbers for {rows} rows of {dim}", data.len());
        Features { data, rows, dim }
    }

    /// Number of images.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Length of each feature vector.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The features of image `r`.
    pub fn row(&self, r: usize) -> &[f32] {
        &self.data[r * self.dim..(r + 1) * self.dim]
    }

    /// All features, row-major.
    pub fn as_slice(&self) -> &[f32] {
        &self.data
    }

    /// The columns of all `parts` beside each other: features of several blocks as one vector.
    ///
    /// # Panics
    /// When there are no parts, or they are of different images.
    #[track_caller]
    pub fn concat(parts: &[Features]) -> Self {
        let rows = parts.first().expect("Features::concat: nothing to concatenate").rows;
        assert!(parts.iter().all(|p| p.rows == rows), "Features::concat: different numbers of rows");
        let dim = parts.iter().map(|p| p.dim).sum();
        let mut data = Vec::with_capacity(rows * dim);
        (0..rows).flat_map(|r| parts.iter().map(move |part| part.row(r))).for_each(|row| data.extend_from_slice(row));
        Features::new(data, rows, dim)
    }

    /// The given rows, in the given order.
    pub fn select(&self, rows: &[usize]) -> Self {
        let mut data = Vec::with_capacity(rows.len() * self.dim);
        rows.iter().for_each(|&r| data.extend_from_slice(self.row(r)));
        Features { data, rows: rows.len(), dim: self.dim }
    }

    /// That all are numbers. `whose` features they are is for the message.
    ///
    /// # Errors
    /// When a feature is NaN or infinite: the first image with such a one is named.
    pub fn check(&self, whose: &str) -> Result<()> {
        let Some(at) = self.data.iter().position(|v| !v.is_finite()) else { return Ok(()) };
        let problem = format!("{whose}: feature {} of image {} is {}", at % self.dim, at / self.dim, self.data[at]);
        let hint = "look whether the weights are sound, and whether the images are normalized as they expect";
        Err(Error::config(problem, hint))
    }

    /// Feature j of image r at row j, column r.
    fn transposed(&self) -> Self {
        let mut data = Vec::with_capacity(self.data.len());
        (0..self.dim).for_each(|j| data.extend((0..self.rows).map(|r| self.row(r)[j])));
        Features::new(data, self.dim, self.rows)
    }
}

/// Labels must match the features they belong to, and name one of the classes; the features must be numbers.
#[track_caller]
fn check(op: &str, features: &Features, labels: &[u32], classes: usize) -> Result<()> {
    assert_eq!(features.rows, labels.len(), "{op}: {} rows of features, {} labels", features.rows, labels.len());
    if let Some(label) = labels.iter().find(|&&label| label as usize >= classes) {
        panic!("{op}: label {label} with {classes} classes");
    }
    features.check(op)
}

/// The index of the largest score; of equal ones the first. `None` of none, and where one is NaN: then none is largest.
fn argmax<T: PartialOrd + Copy>(scores: &[T]) -> Option<usize> {
    let larger = |best: usize, i: usize| match scores[i].partial_cmp(&scores[best])? {
        std::cmp::Ordering::Greater => Some(i),
        _ => Some(best),
    };
    (0..scores.len()).try_fold(0, larger).filter(|_| !scores.is_empty())
}

/// The share of `count` that are `right`; NaN of none.
fn share(right: usize, count: usize) -> f64 {
    right as f64 / count as f64
}

/// Runs `work` on a pool of 1 thread and on one of 3, and checks that both give the same.
#[cfg(test)]
fn same_on_any_thread_count<T: PartialEq + std::fmt::Debug + Send>(work: impl Fn() -> T + Sync) {
    let on = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(&work);
    assert_eq!(on(1), on(3));
}

/// `rows` draws of `dim` standard normal features.
#[cfg(test)]
fn gaussian(seed: u64, rows: usize, dim: usize) -> Features {
    use rand_distr::{Distribution, StandardNormal};
    let rng = crate::rng::stream(seed, crate::rng::Purpose::Eval, [0, 0]);
    Features::new(StandardNormal.sample_iter(rng).take(rows * dim).collect(), rows, dim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_score_is_none_with_a_nan_among_them() {
        assert_eq!(argmax(&[1.0, 3.0, 2.0, 3.0]), Some(1));
        assert_eq!((argmax::<f32>(&[]), argmax(&[-7.0])), (None, Some(0)));
        assert_eq!((argmax(&[f32::NAN, 1.0]), argmax(&[1.0, f32::NAN]), argmax(&[f32::NAN])), (None, None, None));
    }

    #[test]
    fn a_feature_that_is_no_number_is_named() {
        let features = Features::new(vec![0.0, 1.0, 2.0, 3.0, f32::NAN, f32::INFINITY], 2, 3);
        let message = features.check("the encoder").unwrap_err().to_string();
        assert!(message.contains("the encoder: feature 1 of image 1 is NaN"), "{message}");
        assert!(features.select(&[0]).check("the encoder").is_ok());
    }

    #[test]
    fn columns_rows_and_their_exchange() {
        let (a, b) = (Features::new(vec![1.0, 2.0], 2, 1), Features::new(vec![3.0, 4.0, 5.0, 6.0], 2, 2));
        let both = Features::concat(&[a, b]);
        assert_eq!(both, Features::new(vec![1.0, 3.0, 4.0, 2.0, 5.0, 6.0], 2, 3));
        assert_eq!(both.transposed(), Features::new(vec![1.0, 2.0, 3.0, 5.0, 4.0, 6.0], 3, 2));
        assert_eq!(both.select(&[1, 1]).as_slice(), [2.0, 5.0, 6.0, 2.0, 5.0, 6.0]);
    }
}
