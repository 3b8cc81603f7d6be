//! Images to patches and back.

mod cpu;
mod reference;

use super::{Buffer, check_len, launch};

/// The order of the elements inside a patch of C channels and p × p pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchOrder {
    /// (c, py, px): as a convolution's weight \[D, C, p, p\] is laid out. I-JEPA, StoP.
    ChannelFirst,
    /// (py, px, c): as MAE lays out its pixel targets.
    ChannelLast,
}

/// A grid of patches: B images of C channels and H × W pixels, in patches of p × p.
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
}

/// Images \[B, C, H, W\] → patches \[B, H/p · W/p, C p²\].
#[track_caller]
pub fn patchify(grid: &PatchGrid, images: &Buffer) -> Buffer {
    check_len("patchify", "images", images, grid.elements());
    let mut patches = images.like(images.len());
    launch!("patchify", [images], [patches] => patchify(grid, images, patches));
    patches
}

/// Patches → images: the inverse, and (being a permutation) the transpose of [`patchify`].
#[track_caller]
pub fn unpatchify(grid: &PatchGrid, patches: &Buffer) -> Buffer {
    check_len("unpatchify", "patches", patches, grid.elements());
    let mut images = patches.like(patches.len());
    launch!("unpatchify", [patches], [images] => unpatchify(grid, patches, images));
    images
}
