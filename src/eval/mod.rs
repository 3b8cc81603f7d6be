//! Floor 5: what are frozen features worth? Measures that train nothing of the encoder.
//!
//! | question | file |
//! |---|---|
//! | how well does a linear classifier read the class? | [`probe`], on [`standardize`]d columns |
//! | are neighbors of the same class? | [`knn`] |
//! | how many directions do the features use; have they collapsed? | [`rank`] |
//! | what do predictions vary with, and targets; what do they resemble (Fig. 6)? | [`tokens`] |
//! | can patches be followed from frame to frame of a video (Tables 3, 16)? | [`tracking`] |
//!
//! Features are f32 tensors `[images, dim]`; [`pooled_features`] makes them from an encoder. Measures can take long: each
//! asks now and then whether to [cancel](CancelCheck). None needs more memory than a small multiple of the features: what
//! grows with the square of their number or length has a bound, which is said where it is. Every measure gives the same
//! bits on any number of threads: rows are cut into blocks of a fixed size, and what blocks find is combined in the order
//! of the rows.

use crate::autograd::ops;
use crate::tensor::{Indices, Tensor};
use crate::{Error, Result};

mod features;
pub mod knn;
pub mod probe;
pub mod rank;
pub mod standardize;
pub mod tokens;
pub mod tracking;

pub use features::{PIXEL_SIDE, labels, mean_over_tokens, pixel_features, pooled_features, pooled_features_together};
pub use knn::{KnnConfig, knn_top1};
pub use probe::{ProbeConfig, ProbeReport, chance, linear_probe, probe_encoder};
pub use rank::{feature_std, rank_me};
pub use tokens::{cosines, noise_sensitivity, resemblance, rms, target_std};

/// Asked now and then during long work: its error ends the work, as when the user wants to stop. `&|| Ok(())` never
/// does.
pub type CancelCheck<'a> = &'a (dyn Fn() -> Result<()> + Sync);

/// That all features are numbers. `whose` they are is for the message.
///
/// # Errors
/// When a feature is NaN or infinite: the first image with such a one is named.
pub fn check_finite(features: &Tensor, whose: &str) -> Result<()> {
    let (numbers, dim) = (features.as_slice::<f32>(), features.last_dim());
    let Some(at) = numbers.iter().position(|v| !v.is_finite()) else { return Ok(()) };
    let problem = format!("{whose}: feature {} of image {} is {}", at % dim, at / dim, numbers[at]);
    let hint = "look whether the weights are sound, and whether the images are normalized as they expect";
    Err(Error::config(problem, hint))
}

/// Labels must match the features they belong to, and name one of the classes; the features must be numbers.
#[track_caller]
fn check_labeled(op: &str, features: &Tensor, labels: &[u32], classes: usize) -> Result<()> {
    let [rows, dim] = features.dims(op);
    assert!(dim > 0, "{op}: a feature vector needs at least one entry");
    assert_eq!(rows, labels.len(), "{op}: {rows} rows of features, {} labels", labels.len());
    if let Some(label) = labels.iter().find(|&&label| label as usize >= classes) {
        panic!("{op}: label {label} with {classes} classes");
    }
    check_finite(features, op)
}

/// The given rows, in the given order.
fn select_rows(x: &Tensor, rows: &[u32]) -> Tensor {
    let [all, dim] = x.dims("select_rows");
    let chosen = Indices::new(1, rows.len(), rows.to_vec());
    ops::gather_tokens(&x.reshape([1, all, dim]).into(), &chosen).value().reshape([rows.len(), dim])
}

/// The rows in blocks of `size`; the last has what is left.
fn row_blocks(x: &Tensor, size: usize) -> impl Iterator<Item = Tensor> {
    let rows = x.shape()[0];
    (0..rows).step_by(size).map(move |at| x.rows(at..(at + size).min(rows)))
}

/// The index of the largest score; of equal ones the first. `None` of none, and where one is NaN: then none is largest.
pub(crate) fn argmax<T: PartialOrd + Copy>(scores: &[T]) -> Option<usize> {
    let larger = |best: usize, i: usize| match scores[i].partial_cmp(&scores[best])? {
        std::cmp::Ordering::Greater => Some(i),
        _ => Some(best),
    };
    (0..scores.len()).try_fold(0, larger).filter(|_| !scores.is_empty())
}

/// The share of rows whose largest score, of \[n, classes\], is that of their class; NaN of no rows.
///
/// # Panics
/// When there is not a label for each row.
#[track_caller]
pub fn accuracy(scores: &Tensor, labels: &[u32]) -> f64 {
    let [rows, classes] = scores.dims("accuracy");
    assert_eq!(rows, labels.len(), "accuracy: {rows} rows of scores, {} labels", labels.len());
    let rows = scores.as_slice::<f32>().chunks_exact(classes.max(1));
    let right = rows.zip(labels).filter(|(row, label)| argmax(row) == Some(**label as usize)).count();
    share(right, labels.len())
}

/// The share of `count` that are `right`; NaN of none.
fn share(right: usize, count: usize) -> f64 {
    right as f64 / count as f64
}

/// What the tests of this module share.
#[cfg(test)]
mod testing {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::DType;
    use crate::rng::{Purpose, stream};

    /// Runs `work` on a pool of 1 thread and on one of 3, and checks that both give the same.
    pub fn same_on_any_thread_count<T: PartialEq + std::fmt::Debug + Send>(work: impl Fn() -> T + Sync) {
        let on = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(&work);
        assert_eq!(on(1), on(3));
    }

    /// Runs `work` with a check that ends it after `after` more questions: how it ended, and how often it asked.
    pub fn ended_after<T>(after: usize, work: impl Fn(CancelCheck) -> Result<T>) -> (Result<T>, usize) {
        let asked = AtomicUsize::new(0);
        let cancel = || if asked.fetch_add(1, Ordering::Relaxed) < after { Ok(()) } else { Err(Error::Interrupted) };
        (work(&cancel), asked.into_inner())
    }

    pub fn features(rows: usize, dim: usize, numbers: Vec<f32>) -> Tensor {
        Tensor::new([rows, dim], numbers)
    }

    /// `rows` draws of `dim` standard normal features.
    pub fn gaussian(seed: u64, rows: usize, dim: usize) -> Tensor {
        Tensor::normal([rows, dim], 1.0, DType::F32, &mut stream(seed, Purpose::Eval, [0, 0]))
    }
}

#[cfg(test)]
mod tests {
    use super::testing::features;
    use super::*;

    #[test]
    fn the_largest_score_is_none_with_a_nan_among_them() {
        assert_eq!(argmax(&[1.0, 3.0, 2.0, 3.0]), Some(1));
        assert_eq!((argmax::<f32>(&[]), argmax(&[-7.0])), (None, Some(0)));
        assert_eq!((argmax(&[f32::NAN, 1.0]), argmax(&[1.0, f32::NAN]), argmax(&[f32::NAN])), (None, None, None));
    }

    #[test]
    fn rows_are_selected_and_cut_into_blocks() {
        let x = features(5, 2, (0..10u8).map(f32::from).collect());
        assert_eq!(select_rows(&x, &[4, 1, 1]).as_slice::<f32>(), [8.0, 9.0, 2.0, 3.0, 2.0, 3.0]);
        assert_eq!(row_blocks(&x, 2).map(|block| block.shape()[0]).collect::<Vec<_>>(), [2, 2, 1]);
    }
}
