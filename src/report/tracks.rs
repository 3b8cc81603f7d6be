//! What was followed through a clip: some of its frames, under the true masks and under those that were found.

use super::canvas::Canvas;
use super::color::{CATEGORIES, Rgb, WHITE, mix};
use crate::data::video::{Frame, Mask};

/// The share of an object's color over its pixels; the rest is the frame's.
const COLOR: f32 = 0.55;
/// About how high a frame is drawn, in pixels.
const HEIGHT: usize = 128;
const GAP: usize = 4;

/// A row of frames, and below it the same frames once for each of `masks`, with every object in a color of its own.
///
/// Small frames are enlarged by a whole factor, large ones shrunk, to a height of about 128 pixels.
///
/// # Panics
/// When a mask is not of its frame's size.
#[track_caller]
pub fn track_strip(frames: &[Frame], masks: &[Vec<Mask>]) -> Canvas {
    let plain = frames.iter().map(|frame| tile(frame, None)).collect();
    let colored = |masks: &Vec<Mask>| frames.iter().zip(masks).map(|(frame, mask)| tile(frame, Some(mask))).collect();
    let rows: Vec<Vec<Canvas>> = std::iter::once(plain).chain(masks.iter().map(colored)).collect();
    Canvas::tiled(&rows, GAP, WHITE)
}

#[track_caller]
fn tile(frame: &Frame, mask: Option<&Mask>) -> Canvas {
    let [height, width] = frame.size();
    let drawn = if height > HEIGHT { [HEIGHT, (width * HEIGHT / height).max(1)] } else { [height, width] };
    let frame = frame.clone().resized(drawn);
    let mask = mask.map(|mask| {
        assert_eq!(mask.size(), [height, width], "track_strip: a mask's size");
        mask.nearest(drawn)
    });
    let area = drawn[0] * drawn[1];
    let color = |x: usize, y: usize| {
        let at = y * drawn[1] + x;
        let pixel = [0, 1, 2].map(|c| frame.planes()[c * area + at]);
        mask.as_ref()
            .map_or(0, |mask| mask.labels()[at])
            .checked_sub(1)
            .map_or(pixel, |k| mix(pixel, of_object(k), COLOR))
    };
    Canvas::from_fn(drawn[1], drawn[0], color).upscaled((HEIGHT / drawn[0]).max(1))
}

/// The color of an object, counted from 0: in turn all but the last of [`CATEGORIES`], black, which hides in shadows.
fn of_object(k: u8) -> Rgb {
    CATEGORIES[usize::from(k) % (CATEGORIES.len() - 1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_colored_and_the_background_is_the_frames() {
        let frame = Frame::new([64, 64], vec![100; 3 * 64 * 64]);
        let mask = Mask::new([64, 64], (0..64 * 64).map(|i| (i % 64 / 16) as u8).collect());
        let strip = track_strip(&[frame.clone(), frame], &[vec![mask.clone(), mask]]);
        assert_eq!((strip.width(), strip.height()), (2 * 128 + 3 * GAP, 2 * 128 + 3 * GAP));
        let below = GAP + 128 + GAP;
        assert_eq!([GAP, below].map(|y| strip.get(GAP, y)), [[100; 3]; 2], "background");
        for (k, object) in (0..3).zip(1..) {
            assert_eq!(strip.get(GAP + 32 * object, below + 127), mix([100; 3], CATEGORIES[k], COLOR));
            assert_eq!(strip.get(GAP + 32 * object, GAP), [100; 3]);
        }
        // Of 480 rows 128 are drawn, of as many columns as keep the shape.
        let large = Frame::new([480, 854], vec![9; 3 * 480 * 854]);
        assert_eq!(track_strip(&[large], &[]).width(), 227 + 2 * GAP);
    }
}
