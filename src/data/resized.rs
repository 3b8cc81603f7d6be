//! A triangle filter for square images of another size.
//!
//! To enlarge, it is bilinear interpolation; to shrink, as wide as what becomes one pixel, so that nothing is passed over
//! (PyTorch's and Pillow's "bilinear" with antialiasing). It computes what the crate `image` does, bit for bit.

/// From images of one size to another.
pub(super) struct Filter {
    from: usize,
    /// Of each output row, and of each column.
    taps: Vec<Tap>,
}

/// What an output row or column is a mean of: some inputs in a row, from `first` on, with these weights.
struct Tap {
    first: usize,
    weights: Vec<f32>,
}

impl Filter {
    /// From `from`×`from` pixels to `to`×`to`.
    pub(super) fn new(from: usize, to: usize) -> Self {
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
        Filter { from, taps: (0..to).map(tap).collect() }
    }

    /// The size that images get.
    pub(super) fn to(&self) -> usize {
        self.taps.len()
    }

    /// The planes of an image, resized: rows first, and then columns.
    pub(super) fn resize<T: Copy + Into<f32>>(&self, planes: &[T]) -> Vec<f32> {
        let from = self.from;
        let mut resized = Vec::with_capacity(planes.len() / (from * from) * self.to().pow(2));
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
}

/// To sizes of which none divides the other too, up and down.
#[cfg(all(test, feature = "images"))]
mod tests {
    use super::*;
    use crate::data::Shapes;
    use crate::data::shapes::Task;
    use crate::data::testing::pixels;

    #[test]
    fn resized_images_are_those_of_the_image_crate_bit_for_bit() {
        use image::imageops::{self, FilterType::Triangle};
        let shapes = Shapes::new(0, 20, 32, Task::Class);
        for size in [1, 5, 8, 16, 31, 33, 48, 64, 100, 224] {
            let (filter, to) = (Filter::new(32, size), size as u32);
            for planes in (0..20).map(|index| pixels(&shapes, index)) {
                let resize = |plane: &[u8]| {
                    let plane = image::GrayImage::from_raw(32, 32, plane.to_vec()).unwrap();
                    imageops::resize(&plane, to, to, Triangle).into_raw()
                };
                let expected: Vec<u8> = planes.chunks(1024).flat_map(resize).collect();
                let found: Vec<u8> = filter.resize(&planes).iter().map(|v| v.round() as u8).collect();
                assert!(found == expected, "at {size}");
            }
        }
    }
}
