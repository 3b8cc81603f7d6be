//! Images to sequences of patches and back: a permutation of the elements (paper, section 2, "Patchification").
//!
//! The two are each other's inverse and transpose, so the gradient of one is the other.

use crate::autograd::Var;
use crate::autograd::tape::record;
use crate::kernels::patchify::{self as kernel, PatchGrid, PatchOrder};
use crate::tensor::Tensor;

#[track_caller]
fn grid(op: &str, [batch, channels, height, width]: [usize; 4], patch: usize, order: PatchOrder) -> PatchGrid {
    let fits = patch > 0 && height % patch == 0 && width % patch == 0;
    assert!(fits, "{op}: patches of {patch} do not tile images of {height} × {width}");
    PatchGrid { batch, channels, height, width, patch, order }
}

fn to_patches(grid: &PatchGrid, images: &Tensor) -> Tensor {
    let patches = (grid.height / grid.patch) * (grid.width / grid.patch);
    let shape = [grid.batch, patches, grid.channels * grid.patch * grid.patch];
    Tensor::from_buffer(shape, kernel::patchify(grid, images.buffer()))
}

fn to_images(grid: &PatchGrid, patches: &Tensor) -> Tensor {
    let shape = [grid.batch, grid.channels, grid.height, grid.width];
    Tensor::from_buffer(shape, kernel::unpatchify(grid, patches.buffer()))
}

/// Images \[B, C, H, W\] → patches \[B, K, C p²\], K = HW/p², in raster order.
///
/// # Panics
/// When p does not divide H and W.
#[track_caller]
pub fn patchify(images: &Var, patch: usize, order: PatchOrder) -> Var {
    let grid = grid("patchify", images.dims("patchify"), patch, order);
    record("patchify", [images], to_patches(&grid, images.value()), move |dy, _| [Some(to_images(&grid, &dy))])
}

/// Patches \[B, K, C p²\] → images \[B, C, H, W\], `image` being \[C, H, W\].
///
/// # Panics
/// When the patches are not those of such images.
#[track_caller]
pub fn unpatchify(patches: &Var, image: [usize; 3], patch: usize, order: PatchOrder) -> Var {
    let [batch, k, width] = patches.dims("unpatchify");
    let [c, h, w] = image;
    let grid = grid("unpatchify", [batch, c, h, w], patch, order);
    let fits = k * patch * patch == h * w && width == c * patch * patch;
    assert!(fits, "unpatchify: {} are not the patches of images of {image:?}", patches.shape());
    record("unpatchify", [patches], to_images(&grid, patches.value()), move |dy, _| [Some(to_patches(&grid, &dy))])
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn element_order() {
        // Two channels of 2 × 4 pixels, numbered in order; two patches of 2 × 2.
        let images = Tensor::from_fn([1, 2, 2, 4], crate::DType::F64, |i| i as f64);
        for (order, exact) in [
            (PatchOrder::ChannelFirst, [0., 1., 4., 5., 8., 9., 12., 13., 2., 3., 6., 7., 10., 11., 14., 15.]),
            (PatchOrder::ChannelLast, [0., 8., 1., 9., 4., 12., 5., 13., 2., 10., 3., 11., 6., 14., 7., 15.]),
        ] {
            let patches = patchify(&images.clone().into(), 2, order);
            same(patches.value(), [1, 2, 8], &exact);
            same(unpatchify(&patches, [2, 2, 4], 2, order).value(), [1, 2, 2, 4], &images.to_f64_vec());
        }
    }

    #[test]
    fn gradient() {
        for order in [PatchOrder::ChannelFirst, PatchOrder::ChannelLast] {
            assert_op("patchify", |x| patchify(&x[0], 2, order), &[random([1, 2, 4, 2], 1)]);
            assert_op("unpatchify", |x| unpatchify(&x[0], [2, 4, 2], 2, order), &[random([1, 2, 8], 1)]);
        }
    }

    #[test]
    #[should_panic(expected = "patchify: patches of 3 do not tile images of 4 × 6")]
    fn patches_that_do_not_tile() {
        patchify(&random([1, 1, 4, 6], 1).into(), 3, PatchOrder::ChannelFirst);
    }
}
