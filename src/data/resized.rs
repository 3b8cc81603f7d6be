//! Images of another size than their data set has them.

use std::borrow::Cow;
use std::sync::Arc;

use super::Dataset;
use crate::Result;

/// `whole` with images of `size`×`size` pixels; itself, if that is their size.
///
/// The filter is a triangle, as for folders of images: to enlarge, it is bilinear interpolation; to shrink, as wide as what
/// becomes one pixel, so that nothing is passed over (PyTorch's and Pillow's "bilinear" with antialiasing). An image is
/// resized whenever it is asked for.
///
/// # Panics
/// When `size` is 0.
#[track_caller]
pub fn resized(whole: Arc<dyn Dataset>, size: usize) -> Arc<dyn Dataset> {
    assert!(size > 0, "resized: images without pixels");
    if whole.image_size() == size {
        return whole;
    }
    let taps = taps(whole.image_size(), size);
    Arc::new(Resized { whole, taps })
}

struct Resized {
    whole: Arc<dyn Dataset>,
    /// Of each row, and of each column.
    taps: Vec<Tap>,
}

/// What an output row or column is a mean of: some inputs in a row, from `first` on, with these weights.
struct Tap {
    first: usize,
    weights: Vec<f32>,
}

/// A triangle filter from `from` inputs to `to` outputs. With it [`Resized::resize`] computes what the crate `image` does,
/// bit for bit.
fn taps(from: usize, to: usize) -> Vec<Tap> {
    let ratio = from as f32 / to as f32;
    let reach = ratio.max(1.0);
    let tap = |k: usize| {
        let at = (k as f32 + 0.5) * ratio;
        let first = ((at - reach).floor() as usize).min(from - 1); // `as` clamps below 0
        let end = ((at + reach).ceil() as usize).clamp(first + 1, from);
        let triangle = |i: usize| (1.0 - ((i as f32 - (at - 0.5)) / reach).abs()).max(0.0);
        let mut weights: Vec<f32> = (first..end).map(triangle).collect();
        let sum: f32 = weights.iter().sum();
        weights.iter_mut().for_each(|w| *w /= sum);
        Tap { first, weights }
    };
    (0..to).map(tap).collect()
}

impl Resized {
    /// The planes of an image, resized: rows first, and then columns.
    fn resize<T: Copy + Into<f32>>(&self, planes: &[T]) -> Vec<f32> {
        let from = self.whole.image_size();
        let mut resized = Vec::with_capacity(self.numbers());
        let mut line = vec![0.0f32; from];
        let mut low = Vec::with_capacity(self.taps.len() * from);
        for plane in planes.chunks_exact(from * from) {
            low.clear();
            for Tap { first, weights } in &self.taps {
                line.fill(0.0);
                for (row, w) in plane[first * from..].chunks_exact(from).zip(weights) {
                    line.iter_mut().zip(row).for_each(|(sum, &v)| *sum += v.into() * w);
                }
                low.extend_from_slice(&line);
            }
            for row in low.chunks_exact(from) {
                let sum = |Tap { first, weights }: &Tap| {
                    row[*first..].iter().zip(weights).fold(0.0, |sum, (v, w)| sum + v * w)
                };
                resized.extend(self.taps.iter().map(sum));
            }
        }
        resized
    }

    /// Writes into `out` the image that `read` gives at its own size.
    fn bytes(&self, out: &mut [u8], read: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<()> {
        let to = self.image_size();
        assert_eq!(out.len(), self.numbers(), "Resized::pixels: a buffer for {to}x{to} pixels");
        let mut planes = vec![0; self.whole.numbers()];
        read(&mut planes)?;
        out.iter_mut().zip(self.resize(&planes)).for_each(|(byte, v)| *byte = v.round() as u8);
        Ok(())
    }
}

impl Dataset for Resized {
    fn len(&self) -> usize {
        self.whole.len()
    }

    fn channels(&self) -> usize {
        self.whole.channels()
    }

    fn image_size(&self) -> usize {
        self.taps.len()
    }

    fn pixels(&self, index: usize, out: &mut [u8]) -> Result<()> {
        self.bytes(out, |planes| self.whole.pixels(index, planes))
    }

    fn unlabeled_pixels(&self, index: usize, out: &mut [u8]) -> Result<()> {
        self.bytes(out, |planes| self.whole.unlabeled_pixels(index, planes))
    }

    fn floats(&self, index: usize) -> Option<Cow<'_, [f32]>> {
        self.whole.floats(index).map(|planes| self.resize(&planes).into())
    }

    fn label(&self, index: usize) -> Option<usize> {
        self.whole.label(index)
    }

    fn class_names(&self) -> &[String] {
        self.whole.class_names()
    }

    fn describe(&self) -> String {
        format!("{}, resized to {size}x{size}", self.whole.describe(), size = self.image_size())
    }

    fn identity(&self) -> String {
        self.whole.identity()
    }

    fn skipped(&self) -> usize {
        self.whole.skipped()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use crate::data::shapes::Task;
    use crate::data::testing::{Made, pixels};
    use crate::data::{InMemory, Shapes};
    use crate::tensor::{DType, Tensor};

    #[test]
    fn all_else_is_as_it_was() {
        // The second one cannot be read but without its label, where the first stands in.
        let two = Made::labeled(vec![Some(0), Some(1)], 4, |index, labeled, out| {
            out.fill(7);
            if index == 1 && labeled { Err(Error::file("b.png", "is bad", "mend it")) } else { Ok(()) }
        });
        let images = resized(Arc::new(two), 6);
        assert_eq!((images.len(), images.image_size(), images.label(1)), (2, 6, Some(1)));
        assert_eq!(images.describe(), "2 images, resized to 6x6");
        assert!(pixels(&*images, 0).iter().all(|&v| v == 7));
        assert!(images.pixels(1, &mut [0; 108]).unwrap_err().to_string().contains("b.png: is bad"));
        let mut stand_in = [0; 108];
        images.unlabeled_pixels(1, &mut stand_in).unwrap();
        assert_eq!(stand_in, [7; 108], "where labels do not count, the data set has its own way");
        let same: Arc<dyn Dataset> = Arc::new(Shapes::new(0, 3, 16, Task::Class));
        assert!(Arc::ptr_eq(&same, &resized(Arc::clone(&same), 16)), "nothing to do");
    }

    /// To sizes of which none divides the other too, up and down.
    #[cfg(feature = "images")]
    #[test]
    fn resized_images_are_those_of_the_image_crate_bit_for_bit() {
        use image::imageops::{self, FilterType::Triangle};
        let shapes: Arc<dyn Dataset> = Arc::new(Shapes::new(0, 20, 32, Task::Class));
        for size in [1, 5, 8, 16, 31, 33, 48, 64, 100, 224] {
            let to = size as u32;
            let images = resized(Arc::clone(&shapes), size);
            for index in 0..20 {
                let resize = |plane: &[u8]| {
                    let plane = image::GrayImage::from_raw(32, 32, plane.to_vec()).unwrap();
                    imageops::resize(&plane, to, to, Triangle).into_raw()
                };
                let expected: Vec<u8> = pixels(&*shapes, index).chunks(1024).flat_map(resize).collect();
                assert!(pixels(&*images, index) == expected, "image {index} at {size}");
            }
        }
    }

    #[test]
    fn floats_stay_floats() {
        let ramp = |i: usize| 100.0 * (i / 16) as f64 + (i % 4) as f64;
        let images = InMemory::new(Tensor::from_fn([1, 2, 4, 4], DType::F32, ramp)).unwrap();
        let floats = resized(Arc::new(images), 2).floats(0).unwrap().into_owned();
        // The first three pixels of a line, 0, 1 and 2, weigh 3, 3 and 1 sevenths, and the last three likewise.
        let line = [5.0 / 7.0, 3.0 - 5.0 / 7.0];
        let expected = [0.0, 0.0, 100.0, 100.0].into_iter().flat_map(|c| line.map(|v| c + v));
        assert!(floats.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-4), "{floats:?}");
    }
}
