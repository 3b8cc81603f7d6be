//! What are frozen features worth? Measures that train nothing of the encoder.
//!
//! | question | file |
//! |---|---|
//! | how well does a linear classifier read the class? | [`probe`], on [`standardize`]d columns, trained by [`lbfgs`] with a `cholesky` preconditioner |
//! | are neighbours of the same class? | [`knn`] |
//! | how many directions do the features use; have they collapsed? | [`rank`], through the eigenvalues of `eigen` |
//! | what does a predicted token resemble? (Fig. 6) | [`resemblance`](mod@resemblance) |
//! | how much do predictions vary with the noise, and targets with the image? | [`spread`] |
//!
//! All take [`Features`], one row per image: [`pooled_features`] makes them from an encoder.
//! Every measure gives the same bits on any number of threads: rows are cut into blocks of a fixed size, and what
//! blocks find is combined in the order of the rows.

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

pub use features::{labels, mean_over_tokens, pixel_features, pooled_features};
pub use knn::{KnnConfig, knn_top1};
pub use probe::{ProbeConfig, ProbeReport, linear_probe};
pub use rank::{feature_std, rank_me};
pub use resemblance::{cosines, resemblance};
pub use spread::{noise_sensitivity, rms, target_std};

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
        let data = (0..rows).flat_map(|r| parts.iter().flat_map(move |p| p.row(r).iter().copied())).collect();
        Features::new(data, rows, dim)
    }

    /// The given rows, in the given order.
    pub fn select(&self, rows: &[usize]) -> Self {
        let data = rows.iter().flat_map(|&r| self.row(r)).copied().collect();
        Features { data, rows: rows.len(), dim: self.dim }
    }

    /// Feature j of image r at row j, column r.
    fn transposed(&self) -> Self {
        let data = (0..self.dim).flat_map(|j| (0..self.rows).map(move |r| self.row(r)[j])).collect();
        Features::new(data, self.dim, self.rows)
    }
}

/// Labels must match the features they belong to, and name one of the classes.
#[track_caller]
fn check_labels(op: &str, features: &Features, labels: &[u32], classes: usize) {
    assert_eq!(features.rows, labels.len(), "{op}: {} rows of features, {} labels", features.rows, labels.len());
    if let Some(label) = labels.iter().find(|&&label| label as usize >= classes) {
        panic!("{op}: label {label} with {classes} classes");
    }
}

/// The index of the largest score; of equal ones the first.
fn argmax<T: PartialOrd + Copy>(scores: &[T]) -> usize {
    (1..scores.len()).fold(0, |best, i| if scores[i] > scores[best] { i } else { best })
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
