//! What the model sees and what it must predict: images under their masks.
//!
//! One row per image: the image; the context x, with every other token hatched out; then each target y by itself, the
//! rest of the image faded. A target's outline has the same color on the context, where it explains the holes.
//! Random masks have no target blocks: a row is the image and the visible patches.

use super::canvas::Canvas;
use super::color::{CATEGORIES, Rgb, WHITE, mix};

/// One image and its masks. A token's index is its row times the width of the token grid, plus its column.
#[derive(Clone, Copy, Debug)]
pub struct MaskedImage<'a> {
    /// `[3, size, size]`, red first.
    pub pixels: &'a [u8],
    /// B_x: the tokens that the encoder sees.
    pub context: &'a [u32],
    /// B_y: the tokens of each target block.
    pub targets: &'a [&'a [u32]],
}

/// A sheet with one row per image: image, context, targets. `size` and `patch` are in image pixels, and each image
/// pixel is drawn as `scale` × `scale`.
///
/// # Panics
/// When `patch` does not divide `size`, `pixels` is not `[3, size, size]`, or a token is not on the grid.
#[track_caller]
pub fn mask_sheet(images: &[MaskedImage], size: usize, patch: usize, scale: usize) -> Canvas {
    assert!(patch > 0 && size.is_multiple_of(patch), "mask_sheet: patches of {patch} on an image of {size}");
    let (grid, cell) = (size / patch, patch * scale);
    let hatch = |x: usize, y: usize| if (x + y) % (4 * line(cell)) < line(cell) { [190; 3] } else { [232; 3] };
    let row = |image: &MaskedImage| {
        let plain = Canvas::from_planes(image.pixels, size).upscaled(scale);
        let context = context_tile(&plain, image.context, image.targets, (grid, cell), hatch);
        let target = |(target, color): (&&[u32], &Rgb)| {
            let (target, mut tile) = (TokenSet::new(target, grid, cell), plain.clone());
            tile.paint(|x, y, was| if target.has_pixel(x, y) { was } else { mix(was, WHITE, 0.8) });
            target.outline(&mut tile, line(cell), *color);
            tile
        };
        let targets = image.targets.iter().zip(CATEGORIES.iter().cycle()).map(target);
        [plain.clone(), context].into_iter().chain(targets).collect()
    };
    Canvas::tiled(&images.iter().map(row).collect::<Vec<_>>(), (cell / 2).max(1), WHITE)
}

/// `image` with `hidden(x, y)` in place of what is not in the context, and the targets outlined, each in its color.
pub(super) fn context_tile(
    image: &Canvas,
    context: &[u32],
    targets: &[impl AsRef<[u32]>],
    (grid, cell): (usize, usize),
    hidden: impl Fn(usize, usize) -> Rgb,
) -> Canvas {
    let (context, mut tile) = (TokenSet::new(context, grid, cell), image.clone());
    tile.paint(|x, y, was| if context.has_pixel(x, y) { was } else { hidden(x, y) });
    for (target, color) in targets.iter().zip(CATEGORIES.iter().cycle()) {
        TokenSet::new(target.as_ref(), grid, cell).outline(&mut tile, line(cell), *color);
    }
    tile
}

/// Width of an outline around cells of `cell` pixels.
pub(super) fn line(cell: usize) -> usize {
    (cell / 8).max(1)
}

/// Some tokens of a square grid, drawn as squares of `cell` pixels.
pub(super) struct TokenSet {
    /// Whether each token belongs, row-major.
    has: Vec<bool>,
    grid: usize,
    cell: usize,
}

impl TokenSet {
    #[track_caller]
    pub(super) fn new(tokens: &[u32], grid: usize, cell: usize) -> Self {
        let mut has = vec![false; grid * grid];
        for &token in tokens {
            assert!((token as usize) < has.len(), "token {token} on a grid of {grid} × {grid}");
            has[token as usize] = true;
        }
        TokenSet { has, grid, cell }
    }

    pub(super) fn has_pixel(&self, x: usize, y: usize) -> bool {
        let (column, row) = (x / self.cell, y / self.cell);
        column < self.grid && row < self.grid && self.has[row * self.grid + column]
    }

    /// A line along every border between a token that belongs and one that does not, inside the former.
    pub(super) fn outline(&self, canvas: &mut Canvas, line: usize, color: [u8; 3]) {
        canvas.paint(|x, y, was| {
            let on_border = || {
                // Steps past the left or upper edge wrap around to a number beyond the right or lower one.
                let (left, right) = (x.wrapping_sub(line), x + line);
                let (up, down) = (y.wrapping_sub(line), y + line);
                [left, x, right].iter().any(|&x| [up, y, down].iter().any(|&y| !self.has_pixel(x, y)))
            };
            if self.has_pixel(x, y) && on_border() { color } else { was }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `h` is hatching, `i` the image, `f` the faded image, digits are outlines.
    fn picture(canvas: &Canvas) -> Vec<String> {
        canvas.letters(&[([190; 3], 'h'), ([232; 3], 'h'), ([10, 20, 30], 'i'), ([206, 208, 210], 'f')])
    }

    /// A 6 × 6 image of one color; patches of 3 make a grid of 2 × 2.
    fn pixels() -> Vec<u8> {
        [10u8, 20, 30].iter().flat_map(|&v| [v; 36]).collect()
    }

    #[test]
    fn image_context_and_targets_stand_side_by_side() {
        let image = MaskedImage { pixels: &pixels(), context: &[0], targets: &[&[1, 3], &[2]] };
        assert_eq!(
            picture(&mask_sheet(&[image], 6, 3, 1)),
            [
                ".............................",
                ".iiiiii.iii000.fff000.ffffff.",
                ".iiiiii.iii0h0.fff0i0.ffffff.",
                ".iiiiii.iii0h0.fff0i0.ffffff.",
                ".iiiiii.1110h0.fff0i0.111fff.",
                ".iiiiii.1h10h0.fff0i0.1i1fff.",
                ".iiiiii.111000.fff000.111fff.",
                ".............................",
            ]
        );
    }

    #[test]
    fn mae_shows_the_visible_patches() {
        let image = MaskedImage { pixels: &pixels(), context: &[1, 2], targets: &[] };
        let sheet = picture(&mask_sheet(&[image, image], 6, 3, 1));
        assert_eq!((sheet.len(), sheet[1].as_str(), sheet[13].as_str()), (15, ".iiiiii.hhhiii.", ".iiiiii.iiihhh."));
    }

    #[test]
    fn an_outline_follows_corners() {
        let mut canvas = Canvas::new(9, 9, WHITE);
        TokenSet::new(&[0, 3, 4], 3, 3).outline(&mut canvas, 1, CATEGORIES[0]);
        assert_eq!(
            picture(&canvas),
            [
                "000......",
                "0.0......",
                "0.0......",
                "0.0000...",
                "0....0...",
                "000000...",
                ".........",
                ".........",
                ".........",
            ]
        );
    }

    #[test]
    #[should_panic(expected = "token 4 on a grid of 2 × 2")]
    fn a_token_off_the_grid_is_refused() {
        mask_sheet(&[MaskedImage { pixels: &pixels(), context: &[4], targets: &[] }], 6, 3, 1);
    }
}
