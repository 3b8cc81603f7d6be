//! From pixels to the network's input and back: the mean and the standard deviation of each channel.

use std::borrow::Cow;

use super::Dataset;
use crate::{Error, Result};

/// Statistics of each channel, of pixels from 0 to 1: a pixel v enters the network as (v − mean) / std. A byte is v · 255.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
pub struct Normalization {
    /// Mean of each channel, red first: `[C]`.
    pub mean: Cow<'static, [f32]>,
    /// Standard deviation of each channel: `[C]`.
    pub std: Cow<'static, [f32]>,
}

impl Normalization {
    /// CIFAR-10's training set, as commonly published.
    pub const CIFAR10: Self = Self::rgb(&[0.4914, 0.4822, 0.4465], &[0.2470, 0.2435, 0.2616]);
    /// CIFAR-100's training set, as commonly published.
    pub const CIFAR100: Self = Self::rgb(&[0.5071, 0.4865, 0.4409], &[0.2673, 0.2564, 0.2762]);
    /// ImageNet's training set, as published models expect it.
    pub const IMAGENET: Self = Self::rgb(&[0.485, 0.456, 0.406], &[0.229, 0.224, 0.225]);
    /// Leaves pixels of three channels as they are, from 0 to 1.
    pub const NONE: Self = Self::rgb(&[0.0; 3], &[1.0; 3]);

    const fn rgb(mean: &'static [f32; 3], std: &'static [f32; 3]) -> Self {
        Self { mean: Cow::Borrowed(mean), std: Cow::Borrowed(std) }
    }

    /// These statistics, a number for each channel. [`check`](Self::check) tells whether pixels can be normalized by them.
    pub fn new(mean: impl Into<Vec<f32>>, std: impl Into<Vec<f32>>) -> Self {
        Self { mean: mean.into().into(), std: std.into().into() }
    }

    /// Checks that pixels can be normalized by these numbers.
    ///
    /// # Errors
    /// When there is not one of each for every channel, a number is not finite, or a standard deviation not above 0.
    pub fn check(&self) -> Result<()> {
        // Of pixels from 0 to 255 they would be larger.
        let fine = self.mean.iter().all(|m| m.abs() < 10.0) && self.std.iter().all(|s| *s > 0.0 && *s < 10.0);
        if fine && !self.mean.is_empty() && self.mean.len() == self.std.len() {
            return Ok(());
        }
        Err(Error::config(
            format!("images cannot be normalized by a mean of {:?} and a deviation of {:?}", self.mean, self.std),
            "give a number of each for every channel, of pixels from 0 to 1 (not to 255); deviations must be above 0",
        ))
    }

    /// [`check`](Self::check), for images of so many channels.
    ///
    /// # Errors
    /// As there, and when these are statistics of another number of channels.
    pub fn check_channels(&self, channels: usize) -> Result<()> {
        self.check()?;
        if self.mean.len() == channels {
            return Ok(());
        }
        let problem = format!("images of {channels} channels cannot be normalized by {} means", self.mean.len());
        Err(Error::config(problem, "give a mean and a deviation for every channel, or have them measured"))
    }

    /// Measures at most `sample` images, evenly spread over `dataset`: where classes follow one another, as in a folder,
    /// each gives its share to within an image, and where they come in random order, as in [`cifar`](super::cifar) and
    /// [`shapes`](super::shapes), the images are a random sample. (Only an order that repeats itself every so many images,
    /// in step with those that are looked at, would mislead it.)
    ///
    /// # Errors
    /// If one of those images cannot be read.
    ///
    /// # Panics
    /// If there is nothing to measure: `dataset` is empty, or `sample` is 0.
    pub fn measure(dataset: &dyn Dataset, sample: usize) -> Result<Self> {
        let sample = sample.min(dataset.len());
        assert!(sample > 0, "Normalization::measure: no images to measure");
        let plane = dataset.image_size().pow(2);
        let mut bytes = vec![0u8; dataset.channels() * plane];
        let mut sums = vec![[0.0; 2]; dataset.channels()];
        let mut white = 255.0;
        for k in 0..sample {
            let index = k * dataset.len() / sample;
            if let Some(floats) = dataset.floats(index) {
                white = 1.0;
                sums.iter_mut().zip(floats.chunks_exact(plane)).for_each(|(sums, plane)| add(sums, plane));
            } else {
                dataset.unlabeled_pixels(index, &mut bytes)?;
                sums.iter_mut().zip(bytes.chunks_exact(plane)).for_each(|(sums, plane)| add(sums, plane));
            }
        }
        let n = (sample * plane) as f64;
        let statistics = |sums: &[f64; 2]| {
            let [mean, square] = sums.map(|sum| sum / n);
            let variance = square - mean.powi(2);
            // A channel that never changes has no scale: a standard deviation of one gray level stands in, or of 1 where
            // pixels are floats, so that nothing divides by 0 or by an error of rounding.
            let least = if white == 1.0 { 1e-12 * square } else { 1.0 };
            let std = if variance > least { variance.sqrt() } else { 1.0 };
            ((mean / white) as f32, (std / white) as f32)
        };
        let (mean, std): (Vec<f32>, Vec<f32>) = sums.iter().map(statistics).unzip();
        Ok(Self::new(mean, std))
    }

    /// The line that takes a value of channel `c`, of which `white` is the largest, to the network's input:
    /// v ↦ gain·v + offset.
    pub(super) fn gain_and_offset(&self, c: usize, white: f32) -> (f32, f32) {
        (1.0 / (white * self.std[c]), -self.mean[c] / self.std[c])
    }

    /// The bytes that a normalized image `[C][S][S]` comes from. What lies outside is clamped: a predicted image need not
    /// be one.
    ///
    /// # Panics
    /// If `image` does not divide into a plane for each channel.
    #[track_caller]
    pub fn to_bytes(&self, image: &[f32]) -> Vec<u8> {
        let (n, channels) = (image.len(), self.mean.len());
        assert!(n.is_multiple_of(channels), "Normalization::to_bytes: {n} numbers are not {channels} planes");
        let planes = image.chunks((n / channels.max(1)).max(1)).zip(self.mean.iter().zip(&*self.std));
        // `as` clamps, and NaN becomes 0.
        planes.flat_map(|(plane, (m, s))| plane.iter().map(move |x| (255.0 * (x * s + m)).round() as u8)).collect()
    }
}

/// Adds the values of a channel, and their squares. Sums of bytes are whole numbers below 2⁵³, and so exact.
fn add<T: Copy + Into<f64>>([values, squares]: &mut [f64; 2], plane: &[T]) {
    *values += plane.iter().map(|&v| v.into()).sum::<f64>();
    *squares += plane.iter().map(|&v| v.into().powi(2)).sum::<f64>();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::testing::Made;
    use crate::data::{Crop, InMemory};
    use crate::tensor::{DType, Tensor};

    /// Image k is k gray levels everywhere.
    fn gray() -> Made<impl Fn(usize, bool, &mut [u8]) -> Result<()> + Send + Sync> {
        Made::new(256, 8, |index, _, out| {
            out.fill(index as u8);
            Ok(())
        })
    }

    #[test]
    fn measured_statistics_of_a_uniform_gray_scale() {
        let Normalization { mean, std } = Normalization::measure(&gray(), usize::MAX).unwrap();
        // The variance of 0, 1, …, n−1 is (n² − 1)/12.
        let expected = ((256f64.powi(2) - 1.0) / 12.0).sqrt() / 255.0;
        for c in 0..3 {
            assert!((mean[c] - 0.5).abs() < 1e-6 && (f64::from(std[c]) - expected).abs() < 1e-6);
        }
        let flat = Normalization::measure(&gray(), 1).unwrap();
        assert_eq!(flat, Normalization::new([0.0; 3], [1.0 / 255.0; 3]), "a constant channel must not divide by 0");
        let nearly = Made::new(1, 8, |_, _, out| {
            out.fill(100);
            out[0] = 101;
            Ok(())
        });
        assert_eq!(Normalization::measure(&nearly, 1).unwrap().std[0], 1.0 / 255.0, "a gray level is the least");
        // Every stretch of the images is a class of its own gray: a few of them are as good as all.
        for sample in [16, 50, 100] {
            let Normalization { mean, std } = Normalization::measure(&gray(), sample).unwrap();
            assert!((mean[0] - 0.5).abs() < 0.5 / sample as f32 + 1e-6, "{sample}: {mean:?}");
            assert!((std[0] - 0.29).abs() < 0.01, "{sample}: {std:?}");
        }
    }

    #[test]
    fn floats_are_measured_as_they_are_in_each_channel() {
        // Image n has n + c / 10 all over channel c; the last channel never changes.
        let number = |i: usize| if i / 64 % 5 == 4 { 0.3 } else { (i / 320) as f64 + (i / 64 % 5) as f64 / 10.0 };
        let images = InMemory::new(Tensor::from_fn([2, 5, 8, 8], DType::F32, number)).unwrap();
        let Normalization { mean, std } = Normalization::measure(&images, 10).unwrap();
        for (c, expected) in [0.5, 0.6, 0.7, 0.8, 0.3].into_iter().enumerate() {
            assert!((mean[c] - expected).abs() < 1e-6, "{mean:?}");
            assert!((std[c] - if c == 4 { 1.0 } else { 0.5 }).abs() < 1e-6, "{std:?}");
        }
        // Of a constant, what is left of the variance by rounding is no scale.
        for constant in [0.1, 0.2, 0.3, 0.7, 0.9, 1.1, 1.3] {
            let images = InMemory::new(Tensor::full([3, 1, 5, 5], constant, DType::F32)).unwrap();
            assert_eq!(*Normalization::measure(&images, 3).unwrap().std, [1.0], "{constant}");
        }
    }

    #[test]
    fn every_byte_comes_back_from_its_number() {
        for n in [Normalization::CIFAR10, Normalization::IMAGENET, Normalization::new([0.2, 0.5], [0.1, 0.3])] {
            let pixels: Vec<u8> = (0..n.mean.len() * 256).map(|i| (i % 256) as u8).collect();
            let mut numbers = vec![0.0; pixels.len()];
            Crop::whole(16).apply((&pixels, 255.0), 16, &n, &mut numbers);
            assert_eq!(n.to_bytes(&numbers), pixels);
        }
        assert_eq!(Normalization::CIFAR10.to_bytes(&[-9.0, 9.0, f32::NAN]), [0, 255, 0]);
        assert!(Normalization::CIFAR10.to_bytes(&[]).is_empty());
    }

    #[test]
    fn numbers_that_normalize_nothing_are_errors() {
        let (none, three) = ([0.0f32; 0], [0.5f32; 3]);
        for (mean, std) in [
            (&none[..], &none[..]),
            (&three, &three[..2]),
            (&[f32::NAN], &[1.0]),
            (&[128.0], &[1.0]),
            (&[0.5], &[0.0]),
            (&[0.5], &[f32::INFINITY]),
        ] {
            assert!(Normalization::new(mean, std).check().is_err(), "{mean:?} {std:?}");
        }
        Normalization::NONE.check_channels(3).unwrap();
        let error = Normalization::NONE.check_channels(4).unwrap_err().to_string();
        assert!(error.contains("images of 4 channels cannot be normalized by 3 means"), "{error}");
    }

    #[cfg(feature = "checkpoint")]
    #[test]
    fn as_json_it_is_two_lists() {
        let json = r#"{"mean":[0.5,0.25,0.0],"std":[1.0,2.0,0.5]}"#;
        let read: Normalization = serde_json::from_str(json).unwrap();
        assert_eq!(read, Normalization::new([0.5, 0.25, 0.0], [1.0, 2.0, 0.5]));
        assert_eq!(serde_json::to_string(&read).unwrap(), json);
    }
}
