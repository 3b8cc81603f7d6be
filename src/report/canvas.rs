//! A small RGB picture: made from image planes or numbers, drawn on, tiled, saved as PNG. It has no text: captions
//! belong to the document that shows the picture.

use std::path::Path;

use super::color::Rgb;
use crate::{Error, Result};

/// `width` × `height` pixels; (0, 0) is the upper left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canvas {
    width: usize,
    height: usize,
    pixels: Vec<Rgb>,
}

impl Canvas {
    /// A canvas of one color.
    pub fn new(width: usize, height: usize, fill: Rgb) -> Self {
        Canvas { width, height, pixels: vec![fill; width * height] }
    }

    /// A canvas whose pixel at column x, row y is `color(x, y)`.
    pub fn from_fn(width: usize, height: usize, color: impl Fn(usize, usize) -> Rgb) -> Self {
        Canvas { width, height, pixels: (0..width * height).map(|i| color(i % width, i / width)).collect() }
    }

    /// A square image from its planes: `[C, size, size]`, 0 to 255. Of three channels and more, the first are red, green and
    /// blue; of fewer, the first is gray.
    ///
    /// # Panics
    /// When `planes` does not hold C · size² values, or none.
    #[track_caller]
    pub fn from_planes(planes: &[u8], size: usize) -> Self {
        let (n, area) = (planes.len(), size * size);
        assert!(n > 0 && n.is_multiple_of(area), "Canvas::from_planes: {n} values for [C, {size}, {size}]");
        let [red, green, blue] = if n >= 3 * area { [0, area, 2 * area] } else { [0; 3] };
        let pixels = (0..area).map(|i| [planes[red + i], planes[green + i], planes[blue + i]]).collect();
        Canvas { width: size, height: size, pixels }
    }

    /// A grid of numbers `[rows, cols]`, row-major, as squares of `cell` pixels in the colors of `color`.
    ///
    /// # Panics
    /// When `values` does not hold rows · cols numbers.
    #[track_caller]
    pub fn heat_map(values: &[f32], (rows, cols): (usize, usize), cell: usize, color: impl Fn(f32) -> Rgb) -> Self {
        assert_eq!(values.len(), rows * cols, "Canvas::heat_map: {} values for {rows} × {cols}", values.len());
        Canvas { width: cols, height: rows, pixels: values.iter().map(|&v| color(v)).collect() }.upscaled(cell)
    }

    /// Columns of pixels.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows of pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The color at column `x`, row `y`.
    ///
    /// # Panics
    /// Outside the canvas.
    #[track_caller]
    pub fn get(&self, x: usize, y: usize) -> Rgb {
        assert!(x < self.width && y < self.height, "Canvas: ({x}, {y}) of {} × {}", self.width, self.height);
        self.pixels[y * self.width + x]
    }

    /// Replaces each pixel by `paint(x, y, what was there)`.
    pub fn paint(&mut self, paint: impl Fn(usize, usize, Rgb) -> Rgb) {
        for (i, pixel) in self.pixels.iter_mut().enumerate() {
            *pixel = paint(i % self.width, i / self.width, *pixel);
        }
    }

    /// Every pixel as a square of `factor` × `factor`.
    pub fn upscaled(&self, factor: usize) -> Self {
        Canvas::from_fn(self.width * factor, self.height * factor, |x, y| self.get(x / factor, y / factor))
    }

    /// Rows of pictures on one sheet, `gap` pixels between and around them.
    ///
    /// Every column is as wide as its widest picture, every row as high as its highest; rows may differ in length.
    pub fn tiled(rows: &[Vec<Canvas>], gap: usize, background: Rgb) -> Self {
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
        let widest = |c: usize| rows.iter().filter_map(|row| row.get(c)).map(Canvas::width).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(widest).collect();
        let heights: Vec<usize> = rows.iter().map(|row| row.iter().map(Canvas::height).max().unwrap_or(0)).collect();
        let total = |sizes: &[usize]| gap + sizes.iter().map(|size| size + gap).sum::<usize>();
        let mut sheet = Canvas::new(total(&widths), total(&heights), background);
        let mut top = gap;
        for (row, height) in rows.iter().zip(heights) {
            let mut left = gap;
            for (tile, width) in row.iter().zip(&widths) {
                for (y, line) in tile.pixels.chunks_exact(tile.width.max(1)).enumerate() {
                    sheet.pixels[(top + y) * sheet.width + left..][..line.len()].copy_from_slice(line);
                }
                left += width + gap;
            }
            top += height + gap;
        }
        sheet
    }

    /// Rows of pixels as text: a letter for each known color, `.` for white, and digits for [`CATEGORIES`].
    #[cfg(test)]
    pub(super) fn letters(&self, known: &[(Rgb, char)]) -> Vec<String> {
        use super::color::{CATEGORIES, WHITE};
        let digits = CATEGORIES.into_iter().zip('0'..);
        let colors: Vec<_> = known.iter().copied().chain([(WHITE, '.')]).chain(digits).collect();
        let letter = |pixel: &Rgb| colors.iter().find(|(color, _)| color == pixel).map_or('?', |(_, letter)| *letter);
        self.pixels.chunks(self.width).map(|row| row.iter().map(letter).collect()).collect()
    }

    /// Saves as PNG. An existing file is replaced only once the new one is complete.
    ///
    /// # Errors
    /// When the canvas is empty, the file cannot be written, or the crate is built without the feature `images`.
    pub fn save_png(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        #[cfg(feature = "images")]
        {
            use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder};
            let (mut png, width, height) = (Vec::new(), self.width as u32, self.height as u32);
            PngEncoder::new(&mut png)
                .write_image(self.pixels.as_flattened(), width, height, ExtendedColorType::Rgb8)
                .map_err(|e| Error::file(path, format!("cannot be drawn: {e}"), "draw at least one pixel"))?;
            crate::files::write_whole(path, &png)
        }
        #[cfg(not(feature = "images"))]
        Err(Error::file(path, "this build writes no PNG files", "build it with the feature `images`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Rgb = [1, 2, 3];
    const B: Rgb = [9, 8, 7];
    const O: Rgb = [0, 0, 0];

    #[test]
    fn planes_become_pixels() {
        let canvas = Canvas::from_planes(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], 2);
        assert_eq!(canvas.pixels, [[1, 5, 9], [2, 6, 10], [3, 7, 11], [4, 8, 12]]);
        assert_eq!(canvas.get(0, 1), [3, 7, 11]);
        assert_eq!(Canvas::from_planes(&[1, 2, 3, 4, 9, 9, 9, 9], 2).pixels, [[1; 3], [2; 3], [3; 3], [4; 3]], "gray");
    }

    #[test]
    fn painting_and_scaling() {
        let mut canvas = Canvas::new(3, 2, O);
        canvas.paint(|x, y, was| if (x, y) == (1, 1) { A } else { was });
        assert_eq!(canvas.pixels, [O, O, O, O, A, O]);
        let heat = Canvas::heat_map(&[0.0, 1.0], (1, 2), 2, |v| if v > 0.5 { A } else { B });
        assert_eq!((heat.width(), heat.height()), (4, 2));
        assert_eq!(heat.pixels, [B, B, A, A, B, B, A, A]);
        assert!(heat.upscaled(0).pixels.is_empty());
    }

    #[test]
    fn tiles_keep_their_columns() {
        let (small, wide) = (Canvas::new(1, 1, A), Canvas::new(2, 1, B));
        let sheet = Canvas::tiled(&[vec![small.clone(), small.clone()], vec![wide]], 1, O);
        assert_eq!((sheet.width(), sheet.height()), (6, 5));
        #[rustfmt::skip]
        assert_eq!(sheet.pixels, [
            O, O, O, O, O, O,
            O, A, O, O, A, O,
            O, O, O, O, O, O,
            O, B, B, O, O, O,
            O, O, O, O, O, O,
        ]);
        assert_eq!(Canvas::tiled(&[], 1, A), Canvas::new(1, 1, A));
    }

    #[cfg(not(feature = "images"))]
    #[test]
    fn a_png_needs_a_feature() {
        let error = Canvas::new(1, 1, A).save_png("never.png").unwrap_err().to_string();
        assert!(error.contains("with the feature `images`"), "{error}");
    }

    #[cfg(feature = "images")]
    #[test]
    fn a_png_reads_back_as_it_was_drawn() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("canvas.png");
        let canvas = Canvas::from_fn(3, 2, |x, _| if x == 2 { B } else { A });
        canvas.save_png(&path).unwrap();
        let read = image::open(&path).unwrap().to_rgb8();
        assert_eq!((read.dimensions(), read.as_raw().as_slice()), ((3, 2), canvas.pixels.as_flattened()));
        let empty = folder.path().join("empty.png");
        assert!(Canvas::new(0, 0, A).save_png(&empty).is_err() && !empty.exists());
    }
}
