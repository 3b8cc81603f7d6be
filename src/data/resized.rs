//! A triangle filter for images of another size.
//!
//! To enlarge, it is bilinear interpolation; to shrink, as wide as what becomes one pixel, so that nothing is passed over
//! (PyTorch's and Pillow's "bilinear" with antialiasing). It computes what the crate `image` does, bit for bit.

/// From images of one size to another.
pub(crate) struct Filter {
    /// Height and width.
    from: [usize; 2],
    /// Of each output row.
    rows: Vec<Tap>,
    /// Of each output column.
    columns: Vec<Tap>,
}

/// What an output row or column is a mean of: some inputs in a row, from `first` on, with these weights.
struct Tap {
    first: usize,
    weights: Vec<f32>,
}

impl Tap {
    /// Those of a line of `to` pixels, from one of `from`.
    fn line(from: usize, to: usize) -> Vec<Tap> {
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
}

impl Filter {
    /// From `from`×`from` pixels to `to`×`to`.
    pub(super) fn new(from: usize, to: usize) -> Self {
        Filter::rectangular([from; 2], [to; 2])
    }

    /// From one height and width to another.
    pub(crate) fn rectangular(from: [usize; 2], to: [usize; 2]) -> Self {
        Filter { from, rows: Tap::line(from[0], to[0]), columns: Tap::line(from[1], to[1]) }
    }

    /// The size that square images get.
    pub(super) fn to(&self) -> usize {
        self.rows.len()
    }

    /// The planes of an image, resized: rows first, and then columns.
    pub(crate) fn resize<T: Copy + Into<f32>>(&self, planes: &[T]) -> Vec<f32> {
        let [height, width] = self.from;
        let mut resized = Vec::with_capacity(planes.len() / (height * width) * self.rows.len() * self.columns.len());
        let mut line = vec![0.0f32; width];
        let mut low = Vec::with_capacity(self.rows.len() * width);
        for plane in planes.chunks_exact(height * width) {
            low.clear();
            for Tap { first, weights } in &self.rows {
                line.fill(0.0);
                for (row, w) in plane[first * width..].chunks_exact(width).zip(weights) {
                    line.iter_mut().zip(row).for_each(|(sum, &v)| *sum += v.into() * w);
                }
                low.extend_from_slice(&line);
            }
            for row in low.chunks_exact(width) {
                let sum = |Tap { first, weights }: &Tap| {
                    row[*first..].iter().zip(weights).fold(0.0, |sum, (v, w)| sum + v * w)
                };
                resized.extend(self.columns.iter().map(sum));
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
