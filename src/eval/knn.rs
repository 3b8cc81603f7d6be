//! k nearest neighbors: are the images closest in feature space of the same class?
//!
//! Nothing is fitted. The neighbors of a test image are the k training images of the largest cosine similarity s;
//! each votes for its class with weight exp(s / τ), as in Wu et al. (CVPR 2018, section 3.4, τ = 0.07) and in DINO's
//! evaluation (`eval_knn.py`, k = 20). An infinite τ gives each one vote: plain majority.

use rayon::prelude::*;

use super::matmul::{View, product};
use super::{CancelCheck, Features, argmax, check, share};
use crate::Result;

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
/// Beside the features, a copy of them is held, scaled to length 1. `go_on` is asked before each block of test images.
///
/// # Errors
/// When a feature is not finite, or `go_on` says so.
///
/// # Panics
/// When labels and rows differ in number, a label is no class, the two sets differ in `dim`, there are no neighbors to
/// ask, or τ is not above 0.
#[track_caller]
pub fn knn_top1(
    (train, train_labels): (&Features, &[u32]),
    (test, test_labels): (&Features, &[u32]),
    classes: usize,
    config: KnnConfig,
    go_on: CancelCheck,
) -> Result<f64> {
    check("knn_top1, training set", train, train_labels, classes)?;
    check("knn_top1, test set", test, test_labels, classes)?;
    assert!(config.k > 0 && config.temperature > 0.0, "knn_top1: {config:?}");
    let neighbors = neighbors(train, test, config.k, go_on)?;
    let right = neighbors.iter().zip(test_labels).filter(|(neighbors, label)| {
        // exp((s − most) / τ): the same election, and for a small τ neither an overflow nor only votes that vanish.
        let most = neighbors.first().map_or(0.0, |nearest| nearest.0);
        let weight = |s: f32| (f64::from(s - most) / config.temperature).exp();
        let mut votes = vec![0.0; classes];
        neighbors.iter().for_each(|&(s, i)| votes[train_labels[i] as usize] += weight(s));
        argmax(&votes) == Some(**label as usize)
    });
    Ok(share(right.count(), test.rows()))
}

/// For each test image its k most similar training images as (cosine similarity, row), most similar first.
#[track_caller]
fn neighbors(train: &Features, test: &Features, k: usize, go_on: CancelCheck) -> Result<Vec<Vec<(f32, usize)>>> {
    let (dim, k) = (train.dim(), k.min(train.rows()));
    assert_eq!(dim, test.dim(), "knn_top1: training features of {dim}, test of {}", test.dim());
    let (train, test) = (unit_rows(train), unit_rows(test));
    let blocks = test.par_chunks(TEST_BLOCK * dim).map(|queries| {
        go_on()?;
        let mut nearest = vec![Vec::with_capacity(k + 1); queries.len() / dim];
        for (block, keys) in train.chunks(TRAIN_BLOCK * dim).enumerate() {
            let similarities = product(View::new(queries, dim), View::new(keys, dim).t());
            for (nearest, row) in nearest.iter_mut().zip(similarities.chunks_exact(keys.len() / dim)) {
                for (i, &s) in row.iter().enumerate() {
                    keep_largest(nearest, k, (s, block * TRAIN_BLOCK + i));
                }
            }
        }
        Ok(nearest)
    });
    Ok(blocks.collect::<Result<Vec<_>>>()?.concat())
}

/// Inserts `new` into the descending list `best` if it is among the k largest. Later equals rank behind earlier.
fn keep_largest(best: &mut Vec<(f32, usize)>, k: usize, new: (f32, usize)) {
    if best.len() < k || best.last().is_some_and(|worst| new.0 > worst.0) {
        best.insert(best.partition_point(|kept| kept.0 >= new.0), new);
        best.truncate(k);
    }
}

/// Rows scaled to length 1; zero rows stay zero.
fn unit_rows(x: &Features) -> Vec<f32> {
    let mut unit = x.as_slice().to_vec();
    unit.par_chunks_exact_mut(x.dim()).for_each(|row| {
        let norm = row.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
        if norm > 0.0 {
            row.iter_mut().for_each(|v| *v = (f64::from(*v) / norm) as f32);
        }
    });
    unit
}

#[cfg(test)]
mod tests {
    use super::super::{gaussian, same_on_any_thread_count};
    use super::*;
    use crate::Error;

    const MAJORITY: f64 = f64::INFINITY;

    fn neighbors(train: &Features, test: &Features, k: usize) -> Vec<Vec<(f32, usize)>> {
        super::neighbors(train, test, k, &|| Ok(())).unwrap()
    }

    fn knn_top1(train: (&Features, &[u32]), test: (&Features, &[u32]), classes: usize, config: KnnConfig) -> f64 {
        super::knn_top1(train, test, classes, config, &|| Ok(())).unwrap()
    }

    #[test]
    fn neighbors_agree_with_sorting_all_similarities() {
        let (train, test) = (gaussian(1, TRAIN_BLOCK + 40, 5), gaussian(2, TEST_BLOCK + 3, 5));
        let (u, v) = (unit_rows(&train), unit_rows(&test));
        for (found, query) in neighbors(&train, &test, 7).iter().zip(v.chunks_exact(5)) {
            let mut all: Vec<(f32, usize)> =
                u.chunks_exact(5).map(|key| key.iter().zip(query).map(|(a, b)| a * b).sum()).zip(0..).collect();
            all.sort_by(|a, b| b.0.total_cmp(&a.0));
            // The order of summation moves a similarity by an ulp or two.
            assert!(found.iter().zip(&all).all(|(f, a)| f.1 == a.1 && (f.0 - a.0).abs() < 1e-6), "{found:?}");
            assert_eq!(found.len(), 7);
        }
    }

    #[test]
    fn only_the_angle_counts_and_near_neighbors_weigh_more() {
        // One neighbor of class 0 at similarity 1, two of class 1 at 0.8.
        let train = Features::new(vec![10.0, 0.0, 0.4, 0.3, 0.8, -0.6], 3, 2);
        let test = Features::new(vec![1.0, 0.0], 1, 2);
        let top1 = |k, temperature| knn_top1((&train, &[0, 1, 1]), (&test, &[0]), 2, KnnConfig { k, temperature });
        assert_eq!(top1(1, MAJORITY), 1.0);
        assert_eq!(top1(3, MAJORITY), 0.0, "two against one");
        assert_eq!(top1(3, 0.07), 1.0, "exp(0.2 / 0.07) = 17 outweighs 2");
        assert_eq!(top1(3, 0.5), 0.0, "exp(0.2 / 0.5) = 1.5 does not");
        assert_eq!(top1(9, 1e-6), 1.0, "k above the number of images, and no overflow");
    }

    #[test]
    fn far_neighbors_vote_too_however_small_the_temperature() {
        // Similarities of −1 and −0.6: exp(−1.6 / 1e-3) is 0, and 0 to 0 would go to class 0.
        let (train, test) = (Features::new(vec![-1.0, 0.0, -0.6, 0.8], 2, 2), Features::new(vec![1.0, 0.0], 1, 2));
        let config = KnnConfig { k: 2, temperature: 1e-3 };
        assert_eq!(knn_top1((&train, &[0, 1]), (&test, &[1]), 2, config), 1.0);
    }

    #[test]
    fn no_class_is_given_to_what_is_no_number_and_the_search_can_be_ended() {
        let (sound, broken) = (Features::new(vec![1.0; 2], 1, 2), Features::new(vec![1.0, f32::NAN], 1, 2));
        let top1 = |train, test, go_on| super::knn_top1((train, &[0]), (test, &[0]), 2, KnnConfig::default(), go_on);
        for (train, test, which) in [(&broken, &sound, "training set"), (&sound, &broken, "test set")] {
            let message = top1(train, test, &|| Ok(())).unwrap_err().to_string();
            assert!(message.contains(which) && message.contains("image 0 is NaN"), "{message}");
        }
        assert!(matches!(top1(&sound, &sound, &|| Err(Error::Interrupted)), Err(Error::Interrupted)));
    }

    #[test]
    fn ties_go_to_the_first() {
        let (same, query) = (Features::new(vec![1.0; 6], 3, 2), Features::new(vec![0.0; 2], 1, 2));
        assert_eq!(neighbors(&same, &query, 2), [[(0.0, 0), (0.0, 1)]]);
        let config = KnnConfig { k: 2, temperature: MAJORITY };
        assert_eq!(knn_top1((&same, &[1, 0, 0]), (&query, &[0]), 2, config), 1.0, "one vote each: class 0");
    }

    #[test]
    fn same_bits_on_any_number_of_threads() {
        let (train, test) = (gaussian(3, 300, 8), gaussian(4, 2 * TEST_BLOCK + 1, 8));
        same_on_any_thread_count(|| neighbors(&train, &test, 5));
    }
}
