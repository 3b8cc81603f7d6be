//! The definition, in its simplest loops: computed in f64, each number rounded once when it is written.
#![allow(clippy::needless_range_loop, reason = "index expressions are written out")]

use super::{PatchGrid, PatchOrder};
use crate::kernels::Real;

/// For each pixel, in the order of the images, the index of its element of the patches.
fn places(grid: &PatchGrid) -> Vec<usize> {
    let PatchGrid { batch, channels, height, width, patch: p, order } = *grid;
    let mut places = Vec::new();
    for b in 0..batch {
        for c in 0..channels {
            for y in 0..height {
                for x in 0..width {
                    let patch = (b * (height / p) + y / p) * (width / p) + x / p;
                    let element = match order {
                        PatchOrder::ChannelFirst => (c * p + y % p) * p + x % p,
                        PatchOrder::ChannelLast => (y % p * p + x % p) * channels + c,
                    };
                    places.push(patch * channels * p * p + element);
                }
            }
        }
    }
    places
}

/// Images → patches.
pub(super) fn patchify<T: Real>(grid: &PatchGrid, images: &[T], patches: &mut [T]) {
    for (pixel, place) in places(grid).into_iter().enumerate() {
        patches[place] = images[pixel];
    }
}

/// Patches → images.
pub(super) fn unpatchify<T: Real>(grid: &PatchGrid, patches: &[T], images: &mut [T]) {
    for (pixel, place) in places(grid).into_iter().enumerate() {
        images[pixel] = patches[place];
    }
}
