//! Images of another size than their data set has them.

use std::sync::Arc;

use image::imageops::{self, FilterType};
use image::{ImageBuffer, Luma};

use super::Dataset;
use crate::Result;

/// `whole` with images of `size`×`size` pixels; itself, if that is their size.
///
/// The filter is a triangle, as for [folders](super::folder): to enlarge, it is bilinear interpolation; to shrink, as
/// wide as what becomes one pixel, so that nothing is passed over (PyTorch's and Pillow's "bilinear" with
/// antialiasing). An image is resized whenever it is asked for.
///
/// # Panics
/// When `size` is 0.
#[track_caller]
pub fn resized(whole: Arc<dyn Dataset>, size: usize) -> Arc<dyn Dataset> {
    assert!(size > 0, "resized: images without pixels");
    if whole.image_size() == size { whole } else { Arc::new(Resized { whole, size }) }
}

struct Resized {
    whole: Arc<dyn Dataset>,
    size: usize,
}

impl Resized {
    /// Writes into `out` the image that `read` gives at its own size.
    fn resize(&self, out: &mut [u8], read: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<()> {
        let (from, to) = (self.whole.image_size(), self.size);
        assert_eq!(out.len(), 3 * to * to, "Resized::pixels: a buffer for {to}x{to} pixels");
        let mut planes = vec![0; 3 * from * from];
        read(&mut planes)?;
        for (plane, out) in planes.chunks_exact(from * from).zip(out.chunks_exact_mut(to * to)) {
            let plane = ImageBuffer::<Luma<u8>, _>::from_raw(from as u32, from as u32, plane).expect("a whole plane");
            out.copy_from_slice(&imageops::resize(&plane, to as u32, to as u32, FilterType::Triangle));
        }
        Ok(())
    }
}

impl Dataset for Resized {
    fn len(&self) -> usize {
        self.whole.len()
    }

    fn image_size(&self) -> usize {
        self.size
    }

    fn pixels(&self, index: usize, out: &mut [u8]) -> Result<()> {
        self.resize(out, |planes| self.whole.pixels(index, planes))
    }

    fn unlabeled_pixels(&self, index: usize, out: &mut [u8]) -> Result<()> {
        self.resize(out, |planes| self.whole.unlabeled_pixels(index, planes))
    }

    fn label(&self, index: usize) -> Option<usize> {
        self.whole.label(index)
    }

    fn class_names(&self) -> &[String] {
        self.whole.class_names()
    }

    fn describe(&self) -> String {
        format!("{}, resized to {size}x{size}", self.whole.describe(), size = self.size)
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
    use crate::data::Shapes;
    use crate::data::shapes::Task;

    /// One image of 4×4: `level(c, y, x)`. The second one cannot be read.
    struct One(fn(usize, usize, usize) -> u8);

    impl Dataset for One {
        fn len(&self) -> usize {
            2
        }
        fn image_size(&self) -> usize {
            4
        }
        fn pixels(&self, index: usize, out: &mut [u8]) -> Result<()> {
            out.iter_mut().enumerate().for_each(|(i, v)| *v = self.0(i / 16, i / 4 % 4, i % 4));
            if index == 0 { Ok(()) } else { Err(Error::file("b.png", "is bad", "mend it")) }
        }
        fn unlabeled_pixels(&self, _: usize, out: &mut [u8]) -> Result<()> {
            self.pixels(0, out)
        }
        fn label(&self, index: usize) -> Option<usize> {
            Some(index)
        }
        fn class_names(&self) -> &[String] {
            &[]
        }
        fn describe(&self) -> String {
            "two images".to_owned()
        }
    }

    fn pixels(images: &dyn Dataset) -> Vec<u8> {
        let mut out = vec![0; 3 * images.image_size().pow(2)];
        images.pixels(0, &mut out).unwrap();
        out
    }

    #[test]
    fn enlarging_interpolates_between_pixel_centers_in_each_channel() {
        // A ramp from left to right, its slope by channel: 16 levels a pixel become 8, and the ends are flat.
        let images = resized(Arc::new(One(|c, _, x| (16 * x * (c + 1)) as u8)), 8);
        for (c, plane) in pixels(&*images).chunks_exact(64).enumerate() {
            let line = [0, 4, 12, 20, 28, 36, 44, 48].map(|level| level * (c as u8 + 1));
            assert!(plane.chunks_exact(8).all(|row| row == line), "{c}: {plane:?}");
        }
    }

    #[test]
    fn shrinking_averages_and_passes_nothing_over() {
        let checks = resized(Arc::new(One(|_, y, x| ((x + y) % 2 * 200) as u8)), 2);
        assert!(pixels(&*checks).iter().all(|v| v.abs_diff(100) <= 2), "{:?}", pixels(&*checks));
        let one = resized(Arc::new(One(|_, _, x| (x * 40) as u8)), 1);
        assert_eq!(pixels(&*one), [60; 3]);
    }

    #[test]
    fn all_else_is_as_it_was() {
        let images = resized(Arc::new(One(|_, _, _| 7)), 6);
        assert_eq!((images.len(), images.image_size(), images.label(1)), (2, 6, Some(1)));
        assert_eq!(images.describe(), "two images, resized to 6x6");
        assert!(pixels(&*images).iter().all(|&v| v == 7));
        assert!(images.pixels(1, &mut [0; 108]).unwrap_err().to_string().contains("b.png: is bad"));
        let mut stand_in = [0; 108];
        images.unlabeled_pixels(1, &mut stand_in).unwrap();
        assert_eq!(stand_in, [7; 108], "where labels do not count, the data set has its own way");
        let same: Arc<dyn Dataset> = Arc::new(Shapes::new(0, 3, 16, Task::Class));
        assert!(Arc::ptr_eq(&same, &resized(Arc::clone(&same), 16)), "nothing to do");
    }
}
