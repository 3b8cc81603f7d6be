//! MAE's random masks: every image hides its own random tokens, always the same number of them.
//!
//! 1. Give each token a uniform number (the noise).
//! 2. Sort: the order of the tokens by their noise is a uniformly random permutation, `shuffle`.
//! 3. Keep the first ⌊L·(1 − ratio)⌋ of the permuted tokens, remove the rest.
//!
//! Source: He et al. (2021), §3; `random_masking` in the official `models_mae.py`. Departures:
//!
//! 1. The removed tokens are listed (the paper's B_y); the original has the inverse permutation and a mask for them.
//! 2. Equal noise is ordered by token, on every machine; the original's sort leaves ties open, and f32 noise has some.
//! 3. A ratio that keeps no token or removes none is an error; the original goes on to a loss of NaN.

use rand::{Rng, RngExt};

use crate::error::{Error, Result};
use crate::rng::{Purpose, stream};
use crate::tensor::Indices;

/// What MAE keeps and removes of B images of L tokens, of which K are kept.
#[derive(Clone, Debug, PartialEq)]
pub struct RandomMasks {
    /// `[B, K]`: the tokens the encoder sees (B_x), in shuffled order. MAE's `ids_keep`.
    pub kept: Indices,
    /// `[B, L − K]`: the tokens to predict (B_y), in shuffled order.
    pub removed: Indices,
}

/// Random masks for `batch` images of `tokens` tokens each, of which the share `mask_ratio` is removed (MAE: 0.75).
///
/// # Errors
/// [`Error::Config`] as for [`masks_from_noise`].
pub fn random_masks(batch: usize, tokens: usize, mask_ratio: f64, rng: &mut impl Rng) -> Result<RandomMasks> {
    kept_tokens(tokens, mask_ratio)?; // a bad ratio is answered before anything is drawn
    // A generator for each image: its mask is the same in a batch of any size.
    let seed = rng.random();
    let rngs = (0..batch as u64).map(|i| stream(seed, Purpose::Mask, [i, 0]));
    let noise = rngs.flat_map(|mut rng| (0..tokens).map(move |_| rng.random())); // (1)
    masks_from_noise(&noise.collect::<Vec<f64>>(), batch, tokens, mask_ratio)
}

/// Random masks of a `side` × `side` grid in square units of `unit` × `unit` tokens, of which the share `mask_ratio` is
/// removed: SimMIM, whose units are 32 pixels wide. With units of one token, [`random_masks`].
///
/// # Errors
/// [`Error::Config`] when units do not tile the grid, or all or none of them would be kept.
pub fn random_unit_masks(
    batch: usize,
    side: usize,
    unit: usize,
    mask_ratio: f64,
    rng: &mut impl Rng,
) -> Result<RandomMasks> {
    kept_units(side, unit, mask_ratio)?;
    let units = side / unit;
    let masks = random_masks(batch, units * units, mask_ratio, rng)?;
    let tokens = |chosen: &Indices| {
        let of_unit = |&at: &u32| {
            let (row, column) = (at as usize / units * unit, at as usize % units * unit);
            (0..unit * unit).map(move |k| ((row + k / unit) * side + column + k % unit) as u32)
        };
        Indices::new(batch, chosen.per_row() * unit * unit, chosen.as_slice().iter().flat_map(of_unit).collect())
    };
    Ok(RandomMasks { kept: tokens(&masks.kept), removed: tokens(&masks.removed) })
}

/// How many units [`random_unit_masks`] keeps.
///
/// # Errors
/// As [`random_unit_masks`].
pub fn kept_units(side: usize, unit: usize, mask_ratio: f64) -> Result<usize> {
    if unit == 0 || !side.is_multiple_of(unit) {
        let problem = format!("masks in units of {unit}x{unit} tokens, which do not tile a grid of {side}x{side}");
        return Err(Error::config(problem, "choose a `mask_unit` that divides the side of the grid, or 1"));
    }
    kept_tokens((side / unit).pow(2), mask_ratio)
}

/// [`random_masks`] from given `noise` `[batch, tokens]`, row-major: in each row the smallest are kept.
///
/// # Errors
/// [`Error::Config`] when `mask_ratio` is outside (0, 1), or so near an end that no token is kept or none removed.
///
/// # Panics
/// When `noise` does not hold `batch * tokens` numbers.
#[track_caller]
pub fn masks_from_noise(noise: &[f64], batch: usize, tokens: usize, mask_ratio: f64) -> Result<RandomMasks> {
    assert_eq!(noise.len(), batch * tokens, "masks_from_noise: noise for {batch} images of {tokens} tokens");
    let keep = kept_tokens(tokens, mask_ratio)?;

    let (mut kept, mut removed) = (vec![], vec![]);
    for noise in noise.chunks_exact(tokens) {
        // (2) A stable sort: equal noise leaves the tokens in raster order.
        let mut shuffle: Vec<u32> = (0..tokens as u32).collect();
        shuffle.sort_by(|&a, &b| noise[a as usize].total_cmp(&noise[b as usize]));
        // (3)
        kept.extend_from_slice(&shuffle[..keep]);
        removed.extend_from_slice(&shuffle[keep..]);
    }
    Ok(RandomMasks { kept: Indices::new(batch, keep, kept), removed: Indices::new(batch, tokens - keep, removed) })
}

/// K = ⌊L·(1 − ratio)⌋, computed in f64 and cut off as the original does: 0.9 of 10 tokens keeps 0.999…, that is, none.
///
/// # Errors
/// [`Error::Config`] as for [`masks_from_noise`].
pub fn kept_tokens(tokens: usize, mask_ratio: f64) -> Result<usize> {
    let keep = (tokens as f64 * (1.0 - mask_ratio)) as usize; // NaN and negative numbers become 0
    if (1..tokens).contains(&keep) {
        return Ok(keep);
    }
    let outcome = if keep == 0 { "keeps no token" } else { "removes no token" };
    Err(Error::config(
        format!("mask ratio {mask_ratio} {outcome} of {tokens}"),
        "choose a ratio between 0 and 1 that leaves at least one token kept and one removed (MAE: 0.75)",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_worked_by_hand() {
        //              token:  0    1    2    3      0    1    2    3   (the second row has a tie)
        let noise = [0.7, 0.1, 0.9, 0.4, 0.5, 0.2, 0.5, 0.1];
        let masks = masks_from_noise(&noise, 2, 4, 0.5).unwrap();
        assert_eq!(masks.kept.as_slice(), [1, 3, 3, 1]);
        assert_eq!(masks.removed.as_slice(), [0, 2, 0, 2]);
        // Three levels of noise in a row so long that an unstable sort would shuffle the ties.
        let noise: Vec<f64> = (0..60).map(|token| f64::from(token % 3)).collect();
        let order = (0..3).flat_map(|level| (level..60).step_by(3));
        assert!(masks_from_noise(&noise, 1, 60, 1.0 / 3.0).unwrap().kept.row(0).iter().copied().eq(order.take(40)));
    }

    #[test]
    fn kept_and_removed_are_an_exact_partition() {
        let mut rng = stream(1, Purpose::Mask, [0, 0]);
        for (tokens, ratio, keep) in [(196, 0.75, 49), (64, 0.75, 16), (7, 0.5, 3), (2, 0.5, 1), (10, 0.6, 4)] {
            let masks = random_masks(5, tokens, ratio, &mut rng).unwrap();
            assert_eq!((masks.kept.per_row(), masks.removed.per_row()), (keep, tokens - keep));
            let draw = |seed| random_masks(5, tokens, ratio, &mut stream(seed, Purpose::Mask, [0, 0])).unwrap();
            assert!(draw(1) == draw(1) && (tokens < 64 || draw(1) != draw(2)), "a seed repeats");
            assert!(tokens < 64 || draw(1).kept.row(0) != draw(1).kept.row(1), "images differ");
            for b in 0..5 {
                let mut all = [masks.kept.row(b), masks.removed.row(b)].concat();
                all.sort_unstable();
                assert!(all.into_iter().eq(0..tokens as u32));
            }
        }
    }

    #[test]
    fn units_are_kept_or_removed_whole() {
        let draw = |unit| random_unit_masks(3, 6, unit, 0.6, &mut stream(1, Purpose::Mask, [0, 0])).unwrap();
        assert!(draw(1) == random_masks(3, 36, 0.6, &mut stream(1, Purpose::Mask, [0, 0])).unwrap());
        for (unit, kept) in [(1, 14), (2, 3 * 4), (3, 9)] {
            let masks = draw(unit);
            assert_eq!((masks.kept.per_row(), masks.removed.per_row()), (kept, 36 - kept));
            for image in 0..3 {
                let removed = |token: usize| masks.removed.row(image).contains(&(token as u32));
                for token in 0..36 {
                    assert_ne!(removed(token), masks.kept.row(image).contains(&(token as u32)));
                    let first = token / 6 / unit * unit * 6 + token % 6 / unit * unit;
                    assert_eq!(removed(token), removed(first), "units of {unit}, token {token}");
                }
            }
        }
        assert!(draw(2).kept.row(0) != draw(2).kept.row(1), "images differ");
        for (unit, says) in [(0, "units of 0x0"), (4, "do not tile a grid of 6x6"), (6, "keeps no token of 1")] {
            let error = random_unit_masks(3, 6, unit, 0.6, &mut stream(1, Purpose::Mask, [0, 0])).unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
        }
    }

    #[test]
    fn a_ratio_without_both_kinds_is_an_error() {
        let mut rng = stream(0, Purpose::Mask, [0, 0]);
        for (tokens, ratio, says) in [
            (64, 1.0, "keeps no token of 64"),
            (64, 0.0, "removes no token of 64"),
            (64, 0.99, "mask ratio 0.99 keeps no token"),
            (10, 0.9, "keeps no token"), // 10·(1 − 0.9) is 0.9999999999999998
            (64, 1.5, "keeps no token"),
            (64, -0.5, "removes no token"),
            (64, f64::NAN, "mask ratio NaN"),
            (1, 0.5, "keeps no token of 1"),
            (0, 0.5, "keeps no token of 0"),
        ] {
            let message = random_masks(2, tokens, ratio, &mut rng).unwrap_err().to_string();
            assert!(message.contains(says) && message.contains("choose a ratio"), "{message}");
        }
        assert_eq!(random_masks(2, 64, 0.98, &mut rng).unwrap().kept.per_row(), 1);
    }

    #[test]
    #[should_panic(expected = "noise for 2 images of 4 tokens")]
    fn noise_of_another_shape_is_a_bug() {
        let _ = masks_from_noise(&[0.5; 7], 2, 4, 0.5);
    }
}
