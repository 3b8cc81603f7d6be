//! Images that somebody has already: a tensor of any number of channels.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use super::{Dataset, Splits};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// Images in a tensor of f32, `[N, C, S, S]`: pixels from 0 to 1, or of another scale that is not far from it (what is
/// farther off, [`Normalization::check`](super::Normalization::check) refuses).
pub struct InMemory {
    images: Tensor,
    /// Those of the tensor's images that are in this set.
    range: Range<usize>,
    /// Of all images of the tensor; empty where they have none.
    labels: Arc<[usize]>,
    class_names: Vec<String>,
}

impl InMemory {
    /// Images without labels.
    ///
    /// # Errors
    /// If `images` are not f32, not square, without pixels, or hold a value that is not finite.
    pub fn new(images: Tensor) -> Result<Self> {
        let unusable =
            |problem: String| Err(Error::config(problem, "give finite numbers of f32, [images, channels, size, size]"));
        let [n, c, s] = match images.shape()[..] {
            [n, c, s, also] if s == also && images.dtype() == DType::F32 && c * s > 0 => [n, c, s],
            _ => return unusable(format!("a tensor of {:?} {:?} holds no images", images.dtype(), images.shape())),
        };
        let bad = |image: &[f32]| image.iter().any(|v| !v.is_finite());
        if let Some(index) = images.as_slice().chunks_exact(c * s * s).position(bad) {
            return unusable(format!("image {index} has a pixel that is not finite"));
        }
        Ok(InMemory { images, range: 0..n, labels: [].into(), class_names: vec![] })
    }

    /// These images with a label each, below the number of `class_names`.
    ///
    /// # Errors
    /// If there is not a label for each image, or no name for a label.
    pub fn labeled(self, labels: Vec<usize>, class_names: Vec<String>) -> Result<Self> {
        let n = self.images.shape()[0];
        let highest = labels.iter().max().copied().unwrap_or(0);
        if labels.len() != n || (n > 0 && highest >= class_names.len()) {
            let (labels, classes) = (labels.len(), class_names.len());
            let problem = format!("{labels} labels up to {highest} for {n} images of {classes} classes");
            return Err(Error::config(problem, "give each image a label below the number of classes"));
        }
        Ok(InMemory { labels: labels.into(), class_names, ..self })
    }

    /// All but the last `held_out` images to train on, and those to test on. The pixels are shared, not copied.
    ///
    /// # Errors
    /// If none would be left to train on.
    pub fn split(self, held_out: usize) -> Result<Splits> {
        let (Range { start, end }, len) = (self.range.clone(), self.len());
        let Some(middle) = end.checked_sub(held_out).filter(|middle| *middle > start) else {
            let problem = format!("{held_out} images cannot be held out of {len}: none is left to train on");
            return Err(Error::config(problem, "hold out fewer"));
        };
        let part = |range| -> Arc<dyn Dataset> {
            let (images, labels) = (self.images.clone(), Arc::clone(&self.labels));
            Arc::new(InMemory { images, range, labels, class_names: self.class_names.clone() })
        };
        Ok(Splits::new(part(start..middle), part(middle..end)))
    }

    fn image(&self, index: usize) -> &[f32] {
        assert!(index < self.len(), "image {index} of {}", self.len());
        let numbers = self.numbers();
        &self.images.as_slice()[(self.range.start + index) * numbers..][..numbers]
    }
}

impl Dataset for InMemory {
    fn len(&self) -> usize {
        self.range.len()
    }

    fn channels(&self) -> usize {
        self.images.shape()[1]
    }

    fn image_size(&self) -> usize {
        self.images.shape()[2]
    }

    /// Values beyond 0 to 1 are clamped.
    fn pixels(&self, index: usize, out: &mut [u8]) -> Result<()> {
        assert_eq!(out.len(), self.numbers(), "InMemory::pixels: a buffer of another size");
        let byte = |(out, v): (&mut u8, &f32)| *out = (255.0 * v).round() as u8; // `as` clamps
        out.iter_mut().zip(self.image(index)).for_each(byte);
        Ok(())
    }

    fn floats(&self, index: usize) -> Option<Cow<'_, [f32]>> {
        Some(self.image(index).into())
    }

    fn label(&self, index: usize) -> Option<usize> {
        assert!(index < self.len(), "image {index} of {}", self.len());
        self.labels.get(self.range.start + index).copied()
    }

    fn class_names(&self) -> &[String] {
        &self.class_names
    }

    fn describe(&self) -> String {
        let (n, c, s) = (self.len(), self.channels(), self.image_size());
        format!("{n} images in memory of {c} channels, {s}x{s}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::testing::pixels;
    use crate::data::{Augment, Loader, LoaderOptions, Normalization, Subset, evaluation_images};

    /// Ten images of two channels, their values all different.
    fn ten() -> Tensor {
        Tensor::from_fn([10, 2, 8, 8], DType::F32, |i| i as f64 / 1280.0)
    }

    #[test]
    fn images_and_labels_are_split_and_keep_their_order() {
        let names = ["a", "b"].map(str::to_owned).to_vec();
        let all = InMemory::new(ten()).unwrap().labeled((0..10).map(|k| k % 2).collect(), names).unwrap();
        let Splits { train, test, .. } = all.split(3).unwrap();
        assert_eq!((train.len(), test.len(), test.channels(), test.image_size()), (7, 3, 2, 8));
        assert_eq!((0..3).map(|k| test.label(k)).collect::<Vec<_>>(), [Some(1), Some(0), Some(1)]);
        assert_eq!(&*test.floats(1).unwrap(), &ten().as_slice::<f32>()[8 * 128..9 * 128]);
        assert_eq!(pixels(&*test, 2)[127], 255, "1279 of 1280");
        assert_eq!(test.describe(), "3 images in memory of 2 channels, 8x8");
        let unlabeled = InMemory::new(ten()).unwrap().split(0).unwrap();
        assert_eq!((unlabeled.train.label(3), unlabeled.test.is_empty()), (None, true));
    }

    /// Through every wrapper: a float that became a byte on the way would be off by up to 1/510.
    #[test]
    fn floats_reach_the_trainer_as_they_are() {
        let Splits { train, .. } = InMemory::new(ten()).unwrap().split(0).unwrap();
        let normalization = Normalization::new([0.25, 0.5], [0.5, 2.0]);
        let subset: Arc<dyn Dataset> = Arc::new(Subset::even(Arc::clone(&train), 4).unlabeled());
        let images = evaluation_images(&*subset, 0..4, &normalization).unwrap();
        for (k, image) in images.chunks(128).enumerate() {
            let floats = subset.floats(k).unwrap();
            assert_eq!((255.0 * floats[0]).round() as u8, pixels(&*subset, k)[0], "floats and bytes of one image");
            for (i, (x, v)) in image.iter().zip(&*floats).enumerate() {
                let expected = if i < 64 { (v - 0.25) / 0.5 } else { (v - 0.5) / 2.0 };
                assert!((x - expected).abs() < 1e-6, "image {k}, {i}: {x} and {expected}");
            }
        }
        let options = LoaderOptions {
            batch_size: 5,
            seed: 0,
            first_step: 0,
            views: vec![Some(Augment::STOP)],
            labels: false,
            normalization: Normalization::measure(&*train, 10).unwrap(),
            part: None,
            threads: 1,
        };
        let batch = Loader::new(Arc::clone(&train), options.clone()).unwrap().next().unwrap().unwrap();
        assert_eq!(batch.views[0].shape()[..], [5, 2, 8, 8]);
        let rgb = LoaderOptions { normalization: Normalization::CIFAR10, ..options };
        let error = Loader::new(train, rgb).err().unwrap().to_string();
        assert!(error.contains("images of 2 channels cannot be normalized by 3 means"), "{error}");
    }

    #[test]
    fn what_is_no_tensor_of_images_is_an_error() {
        let nan = |i: usize| if i == 200 { f64::NAN } else { 0.0 };
        for (images, expected) in [
            (Tensor::zeros([2, 3, 8, 9], DType::F32), "[2, 3, 8, 9] holds no images"),
            (Tensor::zeros([3, 8, 8], DType::F32), "holds no images"),
            (Tensor::zeros([2, 0, 8, 8], DType::F32), "holds no images"),
            (Tensor::zeros([2, 3, 8, 8], DType::F64), "F64 [2, 3, 8, 8] holds no images"),
            (Tensor::from_fn([2, 2, 8, 8], DType::F32, nan), "image 1 has a pixel that is not finite"),
        ] {
            let error = InMemory::new(images).err().unwrap().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let names = || vec!["one".to_owned()];
        let labeled = |labels| InMemory::new(ten()).unwrap().labeled(labels, names());
        assert!(labeled(vec![0; 9]).is_err() && labeled(vec![1; 10]).is_err() && labeled(vec![0; 10]).is_ok());
        for (held_out, fine) in [(9, true), (10, false), (11, false), (usize::MAX, false)] {
            assert_eq!(InMemory::new(ten()).unwrap().split(held_out).is_ok(), fine, "{held_out}");
        }
    }
}
