//! Images to sequences of patches and back: a permutation of the elements (paper, section 2, "Patchification").
//!
//! The two are each other's inverse and transpose, so the gradient of one is the other.

use crate::autograd::Var;
use crate::autograd::tape::record;
use crate::kernels::{self, PatchGrid, PatchOrder};
use crate::tensor::Tensor;

#[track_caller]
fn cut(op: &str, [batch, channels, height, width]: [usize; 4], patch: usize, order: PatchOrder) -> PatchGrid {
    let fits = patch > 0 && height % patch == 0 && width % patch == 0;
    assert!(fits, "{op}: patches of {patch} do not tile images of {height} × {width}");
    PatchGrid { batch, channels, height, width, patch, order }
}

fn to_patches(cut: &PatchGrid, images: &Tensor) -> Tensor {
    let patches = (cut.height / cut.patch) * (cut.width / cut.patch);
    let shape = [cut.batch, patches, cut.channels * cut.patch * cut.patch];
    Tensor::from_buffer(shape, kernels::patchify(cut, images.buffer()))
}

fn to_images(cut: &PatchGrid, patches: &Tensor) -> Tensor {
    let shape = [cut.batch, cut.channels, cut.height, cut.width];
    Tensor::from_buffer(shape, kernels::unpatchify(cut, patches.buffer()))
}

/// Images \[B, C, H, W\] → patches \[B, K, C p²\], K = HW/p², in raster order.
///
/// # Panics
/// When p does not divide H and W.
#[track_caller]
pub fn patchify(images: &Var, patch: usize, order: PatchOrder) -> Var {
    let cut = cut("patchify", images.dims("patchify"), patch, order);
    record("patchify", [images], to_patches(&cut, images.value()), move |dy, _| [Some(to_images(&cut, &dy))])
}

/// Patches \[B, K, C p²\] → images \[B, C, H, W\], `image` being \[C, H, W\].
///
/// # Panics
/// When the patches are not those of such images.
#[track_caller]
pub fn unpatchify(patches: &Var, image: [usize; 3], patch: usize, order: PatchOrder) -> Var {
    let [batch, k, width] = patches.dims("unpatchify");
    let [c, h, w] = image;
    let cut = cut("unpatchify", [batch, c, h, w], patch, order);
    let fits = k * patch * patch == h * w && width == c * patch * patch;
    assert!(fits, "unpatchify: {} are not the patches of images of {image:?}", patches.shape());
    record("unpatchify", [patches], to_images(&cut, patches.value()), move |dy, _| [Some(to_patches(&cut, &dy))])
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn element_order() {
        let [c, h, w, p] = [3, 4, 6, 2];
        let x = random([2, c, h, w], 1);
        let xs = x.to_f64_vec();
        for order in [PatchOrder::ChannelFirst, PatchOrder::ChannelLast] {
            let patches = patchify(&x.clone().into(), p, order);
            let mut exact = vec![0.0; xs.len()];
            for (i, value) in xs.iter().enumerate() {
                let (b, ch, y, col) = (i / (c * h * w), i / (h * w) % c, i / w % h, i % w);
                let patch = (b * (h / p) + y / p) * (w / p) + col / p;
                let element = match order {
                    PatchOrder::ChannelFirst => (ch * p + y % p) * p + col % p,
                    PatchOrder::ChannelLast => ((y % p) * p + col % p) * c + ch,
                };
                exact[patch * c * p * p + element] = *value;
            }
            same(patches.value(), [2, 6, 12], &exact);
            same(unpatchify(&patches, [c, h, w], p, order).value(), [2, c, h, w], &xs);
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
