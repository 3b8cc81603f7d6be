use super::{PatchGrid, PatchOrder};
use crate::kernels::Real;

/// Calls `f(pixel, element, stride, run)` for each run of pixels in a row that stay together: `run` pixels from
/// index `pixel` of the images are every `stride`-th element of the patches from index `element`.
#[inline(always)]
fn for_each_run(grid: &PatchGrid, mut f: impl FnMut(usize, usize, usize, usize)) {
    let PatchGrid { batch, channels, height, width, patch: p, order } = *grid;
    let (rows, cols) = (height / p, width / p);
    for b in 0..batch {
        for c in 0..channels {
            for y in 0..height {
                for col in 0..cols {
                    let pixel = ((b * channels + c) * height + y) * width + col * p;
                    let patch = ((b * rows + y / p) * cols + col) * channels * p * p;
                    match order {
                        PatchOrder::ChannelFirst => f(pixel, patch + (c * p + y % p) * p, 1, p),
                        PatchOrder::ChannelLast => f(pixel, patch + (y % p) * p * channels + c, channels, p),
                    }
                }
            }
        }
    }
}

/// Images \[B, C, H, W\] → patches \[B, H/p · W/p, C p²\].
pub(super) fn patchify<T: Real>(grid: &PatchGrid, images: &[T], patches: &mut [T]) {
    for_each_run(grid, |pixel, element, stride, run| {
        for i in 0..run {
            patches[element + i * stride] = images[pixel + i];
        }
    });
}

/// Patches → images: the inverse, and (being a permutation) the transpose of [`patchify`].
pub(super) fn unpatchify<T: Real>(grid: &PatchGrid, patches: &[T], images: &mut [T]) {
    for_each_run(grid, |pixel, element, stride, run| {
        for i in 0..run {
            images[pixel + i] = patches[element + i * stride];
        }
    });
}
