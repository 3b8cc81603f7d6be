//! k nearest neighbors: are the images closest in feature space of the same class?
//!
//! Nothing is fitted. The neighbors of a test image are the k training images of the largest cosine similarity s;
//! each votes for its class with weight exp(s / τ), as in Wu et al. (CVPR 2018, section 3.4, τ = 0.07) and in DINO's
//! evaluation (`eval_knn.py`, k = 20). An infinite τ gives each one vote: plain majority.

use rayon::prelude::*;

use super::{CancelCheck, argmax, check_labeled, row_blocks, share};
use crate::Result;
use crate::autograd::{Var, ops};
use crate::tensor::Tensor;

/// Who votes, and with what weight.
#[derive(Clone, Copy, Debug)]
pub struct KnnConfig {
    /// Number of neighbors; all training images if there are fewer.
    pub k: usize,
    /// τ in exp(s / τ). `f64::INFINITY` for a plain majority.
    pub temperature: f64,
}

impl Default for KnnConfig {
    fn default() -> Self {
        KnnConfig { k: 20, temperature: 0.07 }
    }
}

/// Test images per parallel task, and training images per product: the similarities of one product stay in the cache.
const TEST_BLOCK: usize = 128;
const TRAIN_BLOCK: usize = 1024;

/// The share of test images whose neighbors elect their class.
///
/// Ties are broken by order: of equally similar training images the earlier ones are neighbors, of classes with
/// equal votes the lower number wins. An all-zero feature vector has similarity 0 to everything.
///
/// Memory beside the features: a copy of them, scaled to length 1. `cancel` is asked before each block of test images.
///
/// # Errors
/// When a feature is not finite, or `cancel` says so.
///
/// # Panics
/// When labels and rows differ in number, a label is no class, the two sets differ in `dim`, there are no neighbors to
/// ask, or τ is not above 0.
#[track_caller]
pub fn knn_top1(
    (train, train_labels): (&Tensor, &[u32]),
    (test, test_labels): (&Tensor, &[u32]),
    classes: usize,
    config: KnnConfig,
    cancel: CancelCheck,
) -> Result<f64> {
    check_labeled("knn_top1, training set", train, train_labels, classes)?;
    check_labeled("knn_top1, test set", test, test_labels, classes)?;
    assert!(config.k > 0 && config.temperature > 0.0, "knn_top1: {config:?}");
    let neighbors = neighbors(train, test, config.k, cancel)?;
    let right = neighbors.iter().zip(test_labels).filter(|(neighbors, label)| {
        // exp((s − most) / τ): the same election, and for a small τ neither an overflow nor only votes that vanish.
        let most = neighbors.first().map_or(0.0, |nearest| nearest.similarity);
        let weight = |s: f32| (f64::from(s - most) / config.temperature).exp();
        let mut votes = vec![0.0; classes];
        neighbors.iter().for_each(|n| votes[train_labels[n.row] as usize] += weight(n.similarity));
        argmax(&votes) == Some(**label as usize)
    });
    Ok(share(right.count(), test_labels.len()))
}

/// A training image, as a neighbor of a test image.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Neighbor {
    /// The cosine of the angle between the two.
    similarity: f32,
    /// Which row it is.
    row: usize,
}

/// For each test image its k most similar training images, most similar first.
#[track_caller]
fn neighbors(train: &Tensor, test: &Tensor, k: usize, cancel: CancelCheck) -> Result<Vec<Vec<Neighbor>>> {
    let ([images, dim], [_, test_dim]) = (train.dims("knn_top1"), test.dims("knn_top1"));
    assert_eq!(dim, test_dim, "knn_top1: training features of {dim}, test of {test_dim}");
    let k = k.min(images);
    let blocks = |x, size| row_blocks(x, size).map(unit_rows).collect::<Vec<Tensor>>();
    let keys = blocks(train, TRAIN_BLOCK);
    let nearest = blocks(test, TEST_BLOCK).into_par_iter().map(|queries| {
        cancel()?;
        let mut nearest = vec![Vec::with_capacity(k + 1); queries.shape()[0]];
        let queries = Var::constant(queries);
        for (block, keys) in keys.iter().enumerate() {
            let similarities = ops::matmul_nt(&queries, &keys.clone().into());
            let rows = similarities.value().as_slice::<f32>().chunks_exact(keys.shape()[0]);
            for (nearest, similarities) in nearest.iter_mut().zip(rows) {
                for (i, &similarity) in similarities.iter().enumerate() {
                    keep_nearest(nearest, k, Neighbor { similarity, row: block * TRAIN_BLOCK + i });
                }
            }
        }
        Ok(nearest)
    });
    Ok(nearest.collect::<Result<Vec<_>>>()?.concat())
}

/// Inserts `new` into the descending list `nearest` if it is among the k most similar. Later equals rank behind earlier.
fn keep_nearest(nearest: &mut Vec<Neighbor>, k: usize, new: Neighbor) {
    if nearest.len() < k || nearest.last().is_some_and(|worst| new.similarity > worst.similarity) {
        nearest.insert(nearest.partition_point(|kept| kept.similarity >= new.similarity), new);
        nearest.truncate(k);
    }
}

/// Rows scaled to length 1; zero rows stay zero.
fn unit_rows(mut x: Tensor) -> Tensor {
    let dim = x.last_dim();
    x.as_mut_slice::<f32>().par_chunks_exact_mut(dim).for_each(|row| {
        let norm = row.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
        if norm > 0.0 {
            row.iter_mut().for_each(|v| *v = (f64::from(*v) / norm) as f32);
        }
    });
    x
}

#[cfg(test)]
mod tests {
    use super::super::testing::{features, gaussian, same_on_any_thread_count};
    use super::*;
    use crate::Error;

    fn neighbors(train: &Tensor, test: &Tensor, k: usize) -> Vec<Vec<Neighbor>> {
        super::neighbors(train, test, k, &|| Ok(())).unwrap()
    }

    #[test]
    fn neighbors_agree_with_sorting_all_similarities() {
        let (train, test) = (gaussian(1, TRAIN_BLOCK + 40, 5), gaussian(2, TEST_BLOCK + 3, 5));
        let [u, v] = [&train, &test].map(|x| unit_rows(x.clone()));
        let found = neighbors(&train, &test, 7);
        for (found, query) in found.iter().zip(v.as_slice::<f32>().chunks_exact(5)) {
            let similarity = |key: &[f32]| key.iter().zip(query).map(|(a, b)| a * b).sum::<f32>();
            let mut all: Vec<(f32, usize)> = u.as_slice().chunks_exact(5).map(similarity).zip(0..).collect();
            all.sort_by(|a, b| b.0.total_cmp(&a.0));
            // The order of summation moves a similarity by an ulp or two.
            let same = |(f, a): (&Neighbor, &(f32, usize))| f.row == a.1 && (f.similarity - a.0).abs() < 1e-6;
            assert!(found.len() == 7 && found.iter().zip(&all).all(same), "{found:?}");
        }
        same_on_any_thread_count(|| neighbors(&train, &test, 7));
    }

    #[test]
    fn elections_known_by_hand() {
        const MAJORITY: f64 = f64::INFINITY;
        let one = |x: f32, y: f32| features(1, 2, vec![x, y]);
        // One neighbor of class 0 at similarity 1, two of class 1 at 0.8; only the angle counts.
        let three = (features(3, 2, vec![10.0, 0.0, 0.4, 0.3, 0.8, -0.6]), vec![0, 1, 1]);
        // Similarities of −1 and −0.6: exp(−1.6 / 1e-3) is 0, and 0 to 0 would go to class 0.
        let far = (features(2, 2, vec![-1.0, 0.0, -0.6, 0.8]), vec![0, 1]);
        let equal = (features(3, 2, vec![1.0; 6]), vec![1, 0, 0]);
        for ((train, labels), test, k, temperature, class, why) in [
            (&three, one(1.0, 0.0), 1, MAJORITY, 0, "the nearest alone"),
            (&three, one(1.0, 0.0), 3, MAJORITY, 1, "two against one"),
            (&three, one(1.0, 0.0), 3, 0.07, 0, "exp(0.2 / 0.07) = 17 outweighs 2"),
            (&three, one(1.0, 0.0), 3, 0.5, 1, "exp(0.2 / 0.5) = 1.5 does not"),
            (&three, one(1.0, 0.0), 9, 1e-6, 0, "k above the number of images, and no overflow"),
            (&far, one(1.0, 0.0), 2, 1e-3, 1, "far neighbors vote too, however small the temperature"),
            (&equal, one(0.0, 0.0), 2, MAJORITY, 0, "the first two, one vote each: the lower class"),
        ] {
            let config = KnnConfig { k, temperature };
            let top1 = |label| knn_top1((train, labels), (&test, &[label]), 2, config, &|| Ok(())).unwrap();
            assert_eq!((top1(class), top1(1 - class)), (1.0, 0.0), "{why}");
        }
        let nearest = |row| Neighbor { similarity: 0.0, row };
        assert_eq!(neighbors(&equal.0, &one(0.0, 0.0), 2), [[nearest(0), nearest(1)]]);
    }

    #[test]
    fn no_class_is_given_to_what_is_no_number_and_the_search_can_be_ended() {
        let (sound, broken) = (features(1, 2, vec![1.0; 2]), features(1, 2, vec![1.0, f32::NAN]));
        let top1 = |train, test, cancel| knn_top1((train, &[0]), (test, &[0]), 2, KnnConfig::default(), cancel);
        for (train, test, which) in [(&broken, &sound, "training set"), (&sound, &broken, "test set")] {
            let message = top1(train, test, &|| Ok(())).unwrap_err().to_string();
            assert!(message.contains(which) && message.contains("image 0 is NaN"), "{message}");
        }
        assert!(matches!(top1(&sound, &sound, &|| Err(Error::Interrupted)), Err(Error::Interrupted)));
    }
}
