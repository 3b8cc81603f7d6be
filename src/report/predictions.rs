//! What a model predicts of images, one row for each: reconstructions (MAE), or heat maps (I-JEPA, StoP; Fig. 6).

use super::canvas::Canvas;
use super::colour::{CATEGORIES, Rgb, WHITE, mix, sequential};
use super::masks::TokenSet;
use crate::train::predictions::{HeatMaps, Predicted, Prediction};

/// What stands for a patch that the model does not see.
const HIDDEN: Rgb = [128; 3];

/// A sheet with one row per image. `size` and `patch` are in image pixels, and each is drawn as `scale` × `scale`.
///
/// MAE: the image; what is visible, the rest grey; the reconstruction, predicted where that was grey.
///
/// I-JEPA, StoP: the image; the context, the rest grey, with the target blocks outlined and the queries white; for each
/// query its heat maps over the image in grey: predicted (from the mean position), with noise predicted from one draw, and
/// what the true features there resemble. The colours of a map go from its least (dark blue) to its greatest value
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
        let seen = TokenSet::new(&prediction.context, grid, cell);
        let mut context = image.clone();
        context.paint(image.bounds(), |x, y, was| if seen.has_pixel(x, y) { was } else { HIDDEN });
        match &prediction.predicted {
            Predicted::Pixels(filled) => vec![image, context, Canvas::from_planes(filled, size).upscaled(scale)],
            Predicted::Features(maps) => {
                for (target, colour) in prediction.targets.iter().zip(CATEGORIES.iter().cycle()) {
                    TokenSet::new(target, grid, cell).outline(&mut context, line(cell), *colour);
                }
                let queries: Vec<u32> = maps.iter().map(|maps| maps.query).collect();
                let queries = TokenSet::new(&queries, grid, cell);
                context.paint(image.bounds(), |x, y, was| if queries.has_pixel(x, y) { WHITE } else { was });
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

/// Width of an outline around cells of `cell` pixels.
fn line(cell: usize) -> usize {
    (cell / 8).max(1)
}

/// A map over the image in grey, with an outline around the query: white, and black inside, to be seen on any colour.
fn heat(image: &Canvas, map: &[f64], query: u32, (grid, cell): (usize, usize)) -> Canvas {
    let others = || map.iter().enumerate().filter(|(token, _)| *token != query as usize).map(|(_, value)| *value);
    let (least, greatest) = others().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
    let spread = (greatest - least).max(f64::MIN_POSITIVE);
    let shares: Vec<f32> = map.iter().map(|value| ((value - least) / spread) as f32).collect();
    let colours = Canvas::heat_map(&shares, (grid, grid), cell, sequential);
    let mut tile = image.clone();
    tile.paint(image.bounds(), |x, y, [r, g, b]| {
        let grey = (0.299 * f32::from(r) + 0.587 * f32::from(g) + 0.114 * f32::from(b)).round() as u8;
        mix([grey; 3], colours.get(x, y), HEAT)
    });
    let query = TokenSet::new(&[query], grid, cell);
    query.outline(&mut tile, 2 * line(cell), [0; 3]);
    query.outline(&mut tile, line(cell), WHITE);
    tile
}

/// The share of the heat in a map's colours; the rest is the image's.
const HEAT: f32 = 0.65;
