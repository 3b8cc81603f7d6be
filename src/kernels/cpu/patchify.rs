//! Images to patches and back.

use crate::kernels::Real;

/// The order of the elements inside a patch of C channels and p × p pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchOrder {
    /// (c, py, px): as a convolution's weight \[D, C, p, p\] is laid out. I-JEPA, StoP.
    ChannelFirst,
    /// (py, px, c): as MAE lays out its pixel targets.
    ChannelLast,
}

/// The geometry of a cut: B images of C channels and H × W pixels, in patches of p × p.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PatchGrid {
    /// B
    pub batch: usize,
    /// C
    pub channels: usize,
    /// H
    pub height: usize,
    /// W
    pub width: usize,
    /// p, which divides H and W
    pub patch: usize,
    /// Order inside a patch.
    pub order: PatchOrder,
}

impl PatchGrid {
    /// Elements of the images, and of the patches.
    ///
    /// # Panics
    /// When the patches do not tile the images.
    #[track_caller]
    pub fn elements(&self) -> usize {
        let PatchGrid { batch, channels, height, width, patch, .. } = *self;
        let tiled = patch > 0 && height.is_multiple_of(patch) && width.is_multiple_of(patch);
        assert!(tiled, "patchify: patches of {patch} pixels do not tile images of {height} x {width}");
        batch * channels * height * width
    }

    /// Calls `f(pixel, element, stride, run)` for each run of pixels in a row that stay together: `run` pixels from
    /// index `pixel` of the images are every `stride`-th element of the patches from index `element`.
    #[inline(always)]
    fn for_each_run(&self, mut f: impl FnMut(usize, usize, usize, usize)) {
        let PatchGrid { batch, channels, height, width, patch: p, order } = *self;
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
}

/// Images \[B, C, H, W\] → patches \[B, H/p · W/p, C p²\].
pub fn patchify<T: Real>(cut: &PatchGrid, images: &[T], patches: &mut [T]) {
    cut.for_each_run(|pixel, element, stride, run| {
        for i in 0..run {
            patches[element + i * stride] = images[pixel + i];
        }
    });
}

/// Patches → images: the inverse, and (being a permutation) the transpose of [`patchify`].
pub fn unpatchify<T: Real>(cut: &PatchGrid, patches: &[T], images: &mut [T]) {
    cut.for_each_run(|pixel, element, stride, run| {
        for i in 0..run {
            images[pixel + i] = patches[element + i * stride];
        }
    });
}
