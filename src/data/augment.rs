//! Random resized crop and horizontal flip; pixels in, normalized floats out.
//!
//! Drawing and applying are apart: [`Augment::draw`] spends the randomness, [`Crop::apply`] is deterministic. The
//! resampling is bilinear over the crop alone, as in cropping first and resizing after. A crop is never larger than
//! the image, so it is only ever stretched, and stretching needs no antialiasing.

use rand::{Rng, RngExt};

use super::Normalization;
use crate::{Error, Result};

/// How crops are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
pub struct Augment {
    /// Least and greatest share of the image's area that a crop covers.
    pub scale: (f32, f32),
    /// Probability of a mirror image.
    pub flip: f64,
}

/// Least and greatest width/height of a crop: torchvision's default.
const ASPECT: (f32, f32) = (3.0 / 4.0, 4.0 / 3.0);

impl Augment {
    /// StoP's pre-training (`configs/pretrain/vit-b16.yaml`), and the default of every method here: crops of 0.3 to 1, half
    /// of them mirrored. I-JEPA's own crops are the same, never mirrored (`configs/in1k_vith14_ep300.yaml`); MAE's begin at
    /// 0.2 (`main_pretrain.py`).
    ///
    /// Departure 1: that file also turns a fifth of the images gray (its color distortion at strength 0) and blurs
    /// half of them. We do neither: I-JEPA, against which StoP is measured, does neither.
    pub const STOP: Self = Self { scale: (0.3, 1.0), flip: 0.5 };

    /// Whether crops can be drawn with these settings.
    ///
    /// # Errors
    /// If not 0 < least scale ≤ greatest scale ≤ 1, or if `flip` is no probability.
    pub fn check(&self) -> Result<()> {
        let (least, greatest) = self.scale;
        if !(0.0 < least && least <= greatest && greatest <= 1.0) {
            let problem = format!("crops cannot cover {least} to {greatest} of an image");
            return Err(Error::config(problem, "choose two shares of its area, such as 0.3 and 1"));
        }
        if !(0.0..=1.0).contains(&self.flip) {
            let problem = format!("{} is not a probability of a flip", self.flip);
            return Err(Error::config(problem, "choose a number from 0 (never) to 1 (always)"));
        }
        Ok(())
    }

    /// Draws a crop of an S×S image, as torchvision's `RandomResizedCrop.get_params` does: area uniform, aspect
    /// ratio log-uniform, ten tries to fit into the image, and the whole image after that.
    ///
    /// # Panics
    /// If the settings do not pass [`check`](Self::check).
    pub fn draw(&self, size: usize, rng: &mut impl Rng) -> Crop {
        let rectangle = (0..10).find_map(|_| {
            let area = (size * size) as f32 * rng.random_range(self.scale.0..=self.scale.1);
            let aspect = rng.random_range(ASPECT.0.ln()..=ASPECT.1.ln()).exp();
            let width = (area * aspect).sqrt().round() as usize;
            let height = (area / aspect).sqrt().round() as usize;
            let fits = (1..=size).contains(&width) && (1..=size).contains(&height);
            fits.then(|| {
                let top = rng.random_range(0..=size - height);
                let left = rng.random_range(0..=size - width);
                Crop { top, left, height, width, flip: false }
            })
        });
        Crop { flip: rng.random_bool(self.flip), ..rectangle.unwrap_or(Crop::whole(size)) }
    }
}

/// A rectangle of an image, in pixels, to be stretched to the whole image's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crop {
    /// The first row.
    pub top: usize,
    /// The first column.
    pub left: usize,
    /// The number of rows.
    pub height: usize,
    /// The number of columns.
    pub width: usize,
    /// Whether left and right are exchanged.
    pub flip: bool,
}

impl Crop {
    /// All of an S×S image, unchanged: what evaluation sees.
    pub const fn whole(size: usize) -> Self {
        Self { top: 0, left: 0, height: size, width: size, flip: false }
    }

    /// Cuts this crop out of `pixels` (`[C][S][S]`, of which `white` is the largest value), stretches it to S×S and
    /// normalizes it into `out` (`[C][S][S]`), C as in `normalization`.
    ///
    /// # Panics
    /// If a buffer does not hold C·S·S values, or the crop is empty or reaches beyond the image.
    #[track_caller]
    pub fn apply<P: Copy + Into<f32>>(
        &self,
        (pixels, white): (&[P], f32),
        size: usize,
        normalization: &Normalization,
        out: &mut [f32],
    ) {
        let Crop { top, left, height, width, flip } = *self;
        let (area, channels) = (size * size, normalization.mean.len());
        assert!(
            pixels.len() == channels * area && out.len() == pixels.len(),
            "Crop::apply: {} pixels to {} floats, want {channels}·{size}·{size} of both",
            pixels.len(),
            out.len()
        );
        assert!(
            height > 0 && width > 0 && top + height <= size && left + width <= size,
            "Crop::apply: {self:?} does not fit an image of side {size}"
        );
        let mut columns = taps(width, size);
        if flip {
            columns.reverse();
        }
        let rows = taps(height, size);
        // Rows first widened, then blended: the gather runs over the crop's rows alone, and the rest vectorizes.
        let mut wide = vec![0.0f32; height * size];
        for (c, (plane, out)) in pixels.chunks_exact(area).zip(out.chunks_exact_mut(area)).enumerate() {
            for (line, source) in wide.chunks_exact_mut(size).zip(plane.chunks_exact(size).skip(top)) {
                let source = &source[left..left + width];
                for (value, tap) in line.iter_mut().zip(&columns) {
                    *value = tap.blend(source[tap.first].into(), source[tap.second].into());
                }
            }
            let (gain, offset) = normalization.gain_and_offset(c, white);
            for (line, tap) in out.chunks_exact_mut(size).zip(&rows) {
                let first = &wide[tap.first * size..][..size];
                let second = &wide[tap.second * size..][..size];
                for ((value, &a), &b) in line.iter_mut().zip(first).zip(second) {
                    *value = tap.blend(a, b) * gain + offset;
                }
            }
        }
    }
}

/// The two neighbors that an output row or column is blended from.
struct Tap {
    first: usize,
    second: usize,
    /// The share of `second`.
    weight: f32,
}

impl Tap {
    fn blend(&self, a: f32, b: f32) -> f32 {
        a + self.weight * (b - a)
    }
}

/// Where each of `size` outputs falls among `length` inputs, when both span the same extent and a pixel is a small
/// square (PyTorch's `align_corners=False`); beyond the outermost centers the outermost pixel is repeated.
fn taps(length: usize, size: usize) -> Vec<Tap> {
    let step = length as f32 / size as f32;
    let tap = |k: usize| {
        let at = ((k as f32 + 0.5) * step - 0.5).clamp(0.0, (length - 1) as f32);
        let first = at as usize;
        Tap { first, second: (first + 1).min(length - 1), weight: at - first as f32 }
    };
    (0..size).map(tap).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, stream};

    const S: usize = 32;
    fn apply(crop: Crop, pixels: &[u8], normalization: &Normalization) -> Vec<f32> {
        let mut out = vec![f32::NAN; 3 * S * S];
        crop.apply((pixels, 255.0), S, normalization, &mut out);
        out
    }

    /// Any bytes, with no two neighbors alike.
    fn busy() -> Vec<u8> {
        (0..3 * S * S).map(|i| (i * 89 % 256) as u8).collect()
    }

    #[test]
    fn the_whole_image_is_normalized_and_otherwise_untouched_bit_for_bit() {
        let normalization = Normalization::CIFAR10;
        let out = apply(Crop::whole(S), &busy(), &normalization);
        for (i, (&v, &x)) in busy().iter().zip(&out).enumerate() {
            let c = i / (S * S);
            let (gain, offset) = normalization.gain_and_offset(c, 255.0);
            assert_eq!(x, f32::from(v) * gain + offset);
            let by_definition = (f32::from(v) / 255.0 - normalization.mean[c]) / normalization.std[c];
            assert!((x - by_definition).abs() < 1e-6 * 4.0, "two roundings of a value below 3: {x} {by_definition}");
        }
    }

    #[test]
    fn a_linear_ramp_stays_linear_inside_the_crop() {
        let ramp: Vec<u8> = (0..3 * S * S).map(|i| (i % S * 4 + i / S % S * 2 + i / (S * S)) as u8).collect();
        for crop in [
            Crop { top: 3, left: 7, height: 20, width: 11, flip: false },
            Crop { top: 0, left: 31, height: 32, width: 1, flip: false },
            Crop { top: 5, left: 0, height: 1, width: 32, flip: true },
            Crop { top: 9, left: 4, height: 17, width: 28, flip: true },
        ] {
            let place = |start: usize, length: usize, k: usize| {
                let at = (k as f64 + 0.5) * length as f64 / S as f64 - 0.5;
                start as f64 + at.clamp(0.0, length as f64 - 1.0)
            };
            for (i, &x) in apply(crop, &ramp, &Normalization::NONE).iter().enumerate() {
                let (c, row, column) = (i / (S * S), i / S % S, i % S);
                let column = if crop.flip { S - 1 - column } else { column };
                let (x_at, y_at) = (place(crop.left, crop.width, column), place(crop.top, crop.height, row));
                let expected = (4.0 * x_at + 2.0 * y_at + c as f64) / 255.0;
                // f32 places within 32 pixels carry an error of 2⁻¹⁹ pixels, here of 4 levels each.
                assert!((f64::from(x) - expected).abs() < 1e-6, "{crop:?} at {i}: {x} is not {expected}");
            }
        }
    }

    #[test]
    fn drawn_crops_have_the_asked_for_areas_ratios_and_flips() {
        let mut rng = stream(1, Purpose::Augment, [0, 0]);
        let n = 4000;
        let size = 96; // large, so that rounding to whole pixels hardly moves the area
        let (mut area, mut flips, mut at_edges, mut wide) = (0.0, 0, [0; 4], 0);
        for _ in 0..n {
            let crop = Augment { scale: (0.2, 1.0), flip: 0.5 }.draw(size, &mut rng);
            let (h, w) = (crop.height as f32, crop.width as f32);
            assert!(crop.top + crop.height <= size && crop.left + crop.width <= size);
            let share = h * w / (size * size) as f32;
            assert!((0.2 * 0.97..=1.0).contains(&share), "{crop:?} covers {share}");
            assert!((0.97 * 0.75..=1.03 / 0.75).contains(&(w / h)), "{crop:?}");
            area += f64::from(share) / f64::from(n);
            flips += i32::from(crop.flip);
            wide += i32::from(w > h) - i32::from(h > w);
            // Of crops that have room.
            let edges =
                |at: usize, length: usize| [at == 0, at + length == size].map(|on| i32::from(on && length < size));
            let edges = [edges(crop.top, crop.height), edges(crop.left, crop.width)].concat();
            at_edges.iter_mut().zip(edges).for_each(|(count, on)| *count += on);
        }
        // Uniform would be 0.6; large crops of unequal sides do not fit and are drawn again.
        assert!((0.52..0.60).contains(&area), "mean area {area}");
        assert!((f64::from(flips) / f64::from(n) - 0.5).abs() < 4.0 * 0.5 / f64::from(n).sqrt(), "{flips} flips");
        assert!(f64::from(wide).abs() < 4.0 * f64::from(n).sqrt(), "{wide} more are wide than tall");
        assert!(at_edges.iter().all(|n| *n > 50), "every edge is reachable: {at_edges:?}");
        assert!((0..100).all(|_| !Augment { flip: 0.0, ..Augment::STOP }.draw(S, &mut rng).flip));
    }

    #[test]
    fn settings_that_cannot_work_are_errors() {
        for scale in [(0.0, 1.0), (0.5, 0.2), (0.5, 1.5), (f32::NAN, 1.0)] {
            assert!(Augment { scale, flip: 0.5 }.check().is_err());
        }
        assert!(Augment { scale: (0.5, 1.0), flip: 1.5 }.check().is_err());
        assert!(Augment::STOP.check().is_ok());
    }

    #[test]
    #[should_panic(expected = "does not fit an image of side 32")]
    fn a_crop_beyond_the_image_panics() {
        apply(Crop { top: 20, left: 0, height: 20, width: 5, flip: false }, &busy(), &Normalization::NONE);
    }
}
