//! What a model predicts of images, one row for each: reconstructions (MAE, SimMIM), or heat maps (I-JEPA, StoP, data2vec;
//! Fig. 6).

use super::canvas::Canvas;
use super::color::{Rgb, WHITE, mix, sequential};
use super::masks::{TokenSet, context_tile, line};
use crate::train::predictions::{HeatMaps, Predicted, Prediction};

/// What stands for a patch that the model does not see.
const HIDDEN: Rgb = [128; 3];

/// A sheet with one row per image. `size` and `patch` are in image pixels, and each is drawn as `scale` × `scale`.
///
/// MAE, SimMIM: the image; what is visible, the rest gray; the reconstruction, predicted where that was gray.
///
/// I-JEPA, StoP, data2vec: the image; the context, the rest gray, with the target blocks outlined and the queries white; for each
/// query its heat maps over the image in gray: predicted (from the mean position), with noise predicted from one draw, and
/// what the true features there resemble. The colors of a map go from its least (dark blue) to its greatest value
/// (yellow) outside of the query, which is outlined.
///
/// # Panics
/// When `patch` does not divide `size`, an image is not `[3, size, size]`, or a token or a map is not of the grid.
#[track_caller]
pub fn prediction_sheet(predictions: &[Prediction], size: usize, patch: usize, scale: usize) -> Canvas {
    assert!(patch > 0 && size.is_multiple_of(patch), "prediction_sheet: patches of {patch} on an image of {size}");
    let (grid, cell) = (size / patch, patch * scale);
    let gap = (cell / 2).clamp(1, MOST_GAP);
    let row = |prediction: &Prediction| {
        let image = Canvas::from_planes(&prediction.pixels, size).upscaled(scale);
        let context =
            |targets: &[Vec<u32>]| context_tile(&image, &prediction.context, targets, (grid, cell), |_, _| HIDDEN);
        match &prediction.predicted {
            Predicted::Pixels(filled) => {
                let context = context(&[]);
                vec![image, context, Canvas::from_planes(filled, size).upscaled(scale)]
            }
            Predicted::Features(maps) => {
                let mut context = context(&prediction.targets);
                let queries: Vec<u32> = maps.iter().map(|maps| maps.query).collect();
                let queries = TokenSet::new(&queries, grid, cell);
                context.paint(|x, y, was| if queries.has_pixel(x, y) { WHITE } else { was });
                let mut row = vec![image.clone(), context];
                for HeatMaps { query, predicted, drawn, target } in maps {
                    row.push(Canvas::new(1, 1, WHITE)); // a wider gap before each query
                    let maps = [Some(predicted), drawn.as_ref(), Some(target)].into_iter().flatten();
                    row.extend(maps.map(|map| heat(&image, map, *query, (grid, cell))));
                }
                row
            }
        }
    };
    Canvas::tiled(&predictions.iter().map(row).collect::<Vec<_>>(), gap, WHITE)
}

/// Widest gap between tiles, in pixels.
const MOST_GAP: usize = 8;

/// A map over the image in gray, with an outline around the query: white, and black inside, to be seen on any color.
fn heat(image: &Canvas, map: &[f64], query: u32, (grid, cell): (usize, usize)) -> Canvas {
    let others = || map.iter().enumerate().filter(|(token, _)| *token != query as usize).map(|(_, value)| *value);
    let (least, greatest) = others().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
    let spread = (greatest - least).max(f64::MIN_POSITIVE);
    let shares: Vec<f32> = map.iter().map(|value| ((value - least) / spread) as f32).collect();
    let colors = Canvas::heat_map(&shares, (grid, grid), cell, sequential);
    let mut tile = image.clone();
    tile.paint(|x, y, [r, g, b]| {
        let gray = (0.299 * f32::from(r) + 0.587 * f32::from(g) + 0.114 * f32::from(b)).round() as u8;
        mix([gray; 3], colors.get(x, y), HEAT)
    });
    let query = TokenSet::new(&[query], grid, cell);
    query.outline(&mut tile, 2 * line(cell), [0; 3]);
    query.outline(&mut tile, line(cell), WHITE);
    tile
}

/// The share of the heat in a map's colors; the rest is the image's.
const HEAT: f32 = 0.65;

#[cfg(test)]
mod tests {
    use super::super::color::CATEGORIES;
    use super::*;

    /// A 4 × 4 image in patches of 2, all of one gray.
    fn prediction(predicted: Predicted) -> Prediction {
        Prediction { pixels: vec![100; 48], context: vec![0, 3], targets: vec![vec![1], vec![2]], predicted }
    }

    #[test]
    fn removed_patches_are_gray_and_then_predicted() {
        let mut filled = vec![100; 48];
        for plane in filled.chunks_exact_mut(16) {
            [2, 3, 6, 7, 8, 9, 12, 13].into_iter().for_each(|i| plane[i] = 7);
        }
        let sheet = prediction_sheet(&[prediction(Predicted::Pixels(filled))], 4, 2, 1);
        let expected = [
            "................",
            ".iiii.ii##.iirr.",
            ".iiii.ii##.iirr.",
            ".iiii.##ii.rrii.",
            ".iiii.##ii.rrii.",
            "................",
        ];
        // Hidden, the image, and what was reconstructed.
        assert_eq!(sheet.letters(&[(HIDDEN, '#'), ([100; 3], 'i'), ([7; 3], 'r')]), expected);
    }

    #[test]
    fn heat_runs_from_the_least_to_the_greatest_beside_the_query() {
        let maps = |drawn| HeatMaps { query: 1, predicted: vec![0.1, 0.6, 0.2, 0.3], drawn, target: vec![0.25; 4] };
        let of = |maps| prediction_sheet(&[prediction(Predicted::Features(vec![maps]))], 4, 2, 4);
        let sheet = of(maps(None));
        // Tiles of 16 pixels, 4 apart; one pixel, and 4 more, before the maps.
        let (context, first) = (4 + 20, 4 + 20 + 20 + 5);
        assert_eq!(sheet.width(), first + 20 + 20);
        assert_eq!(sheet.get(context, 4), [100; 3], "the context is seen");
        assert_eq!(sheet.get(context + 12, 8), WHITE, "the query");
        assert_eq!((sheet.get(context, 12), sheet.get(context + 4, 16)), (CATEGORIES[1], HIDDEN), "the other block");
        let heat = |amount| mix([100; 3], sequential(amount), HEAT);
        let colors = |x: usize| [(4, 4), (4, 16), (12, 16)].map(|(dx, y)| sheet.get(x + dx, 4 + y - 4));
        assert_eq!(colors(first), [heat(0.0), heat(0.5), heat(1.0)]);
        assert_eq!([8, 9, 10].map(|dx| sheet.get(first + dx, 8)), [WHITE, [0; 3], heat(1.0)], "the query, outlined");
        // A flat map is dark all over; a draw stands between the two.
        assert_eq!(colors(first + 20), [heat(0.0); 3]);
        let with_draw = of(maps(Some(vec![0.3, 0.1, 0.2, 0.1])));
        assert_eq!(with_draw.width(), sheet.width() + 20);
        assert_eq!(with_draw.get(first + 20 + 4, 8), heat(1.0));
    }
}
