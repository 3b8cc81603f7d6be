//! Images to sequences of patches and back: a permutation of the elements (paper, section 2, "Patchification").
//!
//! The two are each other's inverse and transpose, so the gradient of one is the other.

use crate::autograd::Var;
use crate::autograd::tape::record;
use crate::tensor::Tensor;

/// The order of the elements inside a patch of C channels and p × p pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchOrder {
    /// (c, py, px): as a convolution's weight \[D, C, p, p\] is laid out. I-JEPA, StoP.
    ChannelFirst,
    /// (py, px, c): as MAE lays out its pixel targets.
    ChannelLast,
}

/// Images as \[B, C, H/p, p, W/p, p\], and the order in which patches have these axes.
struct Grid {
    shape: [usize; 6],
    order: [usize; 6],
}

impl Grid {
    #[track_caller]
    fn new(op: &str, [batch, channels, height, width]: [usize; 4], patch: usize, order: PatchOrder) -> Self {
        let fits = patch > 0 && height % patch == 0 && width % patch == 0;
        assert!(fits, "{op}: patches of {patch} do not tile images of {height} × {width}");
        let order = match order {
            PatchOrder::ChannelFirst => [0, 2, 4, 1, 3, 5],
            PatchOrder::ChannelLast => [0, 2, 4, 3, 5, 1],
        };
        Grid { shape: [batch, channels, height / patch, patch, width / patch, patch], order }
    }

    fn to_patches(&self, images: &Tensor) -> Tensor {
        let [batch, channels, rows, p, cols, _] = self.shape;
        let patches = images.reshape(self.shape).permute("patchify", &self.order);
        patches.reshape([batch, rows * cols, channels * p * p])
    }

    fn to_images(&self, patches: &Tensor) -> Tensor {
        let [batch, channels, rows, p, cols, _] = self.shape;
        let back = [0, 1, 2, 3, 4, 5].map(|axis| self.order.iter().position(|&of| of == axis).expect("a permutation"));
        let images = patches.reshape(self.order.map(|axis| self.shape[axis])).permute("unpatchify", &back);
        images.reshape([batch, channels, rows * p, cols * p])
    }
}

/// Images \[B, C, H, W\] → patches \[B, K, C p²\], K = HW/p², in raster order.
#[track_caller]
pub fn patchify(images: &Var, patch: usize, order: PatchOrder) -> Var {
    let grid = Grid::new("patchify", images.dims("patchify"), patch, order);
    record("patchify", [images], grid.to_patches(images.value()), move |dy, _| [Some(grid.to_images(&dy))])
}

/// Patches \[B, K, C p²\] → images \[B, C, H, W\], `image` being \[C, H, W\].
#[track_caller]
pub fn unpatchify(patches: &Var, image: [usize; 3], patch: usize, order: PatchOrder) -> Var {
    let [batch, k, width] = patches.dims("unpatchify");
    let [c, h, w] = image;
    let grid = Grid::new("unpatchify", [batch, c, h, w], patch, order);
    let fits = k * patch * patch == h * w && width == c * patch * patch;
    assert!(fits, "unpatchify: {} are not the patches of images of {image:?}", patches.shape());
    record("unpatchify", [patches], grid.to_images(patches.value()), move |dy, _| [Some(grid.to_patches(&dy))])
}
