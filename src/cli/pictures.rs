//! The pictures of a run: masks, curves, predictions, positions.

use std::path::Path;
use std::sync::Arc;

use crate::Result;
use crate::data::{Dataset, Splits, Subset};
use crate::methods::{Method, ModelParams, Number};
use crate::report::canvas::Canvas;
use crate::report::color::sequential;
use crate::report::curve::{Curve, Panel};
use crate::report::masks::{MaskedImage, mask_sheet};
use crate::report::predictions::prediction_sheet;
use crate::report::similarity::{similarity_maps, similarity_sheet};
use crate::rng::{Purpose, stream};
use crate::runs::Logged;
use crate::train::predictions::predictions;
use crate::train::{Masking, RunConfig, Trainer};
use crate::vit::EncoderConfig;

/// An even choice of `n` images, each with masks as a run's first step would draw them. No other image is looked at.
pub fn draw_masks(
    masking: &Masking,
    encoder: &EncoderConfig,
    seed: u64,
    images: Arc<dyn Dataset>,
    n: usize,
) -> Result<Canvas> {
    let images = Subset::even(images, n);
    let n = images.len();
    let mut rng = stream(seed, Purpose::Mask, [1, 0]);
    let (contexts, targets) = masking.sample(n, encoder.patches(), &mut rng)?;
    // Of random masks all that is not visible is predicted: drawing it as a block would show the same twice.
    let blocks = if let Masking::Blocks(_) = masking { &targets[..] } else { &[] };
    let mut pixels = vec![vec![0; 3 * encoder.image_size.pow(2)]; n];
    for (i, pixels) in pixels.iter_mut().enumerate() {
        images.unlabeled_pixels(i, pixels)?;
    }
    let rows: Vec<Vec<&[u32]>> = (0..n).map(|i| blocks.iter().map(|t| t.row(i)).collect()).collect();
    let masked: Vec<MaskedImage<'_>> =
        (0..n).map(|i| MaskedImage { pixels: &pixels[i], context: contexts[0].row(i), targets: &rows[i] }).collect();
    let scale = (96 / encoder.image_size).max(1);
    Ok(mask_sheet(&masked, encoder.image_size, encoder.patch_size, scale))
}

/// What a model predicts of an even choice of `n` held-out images, under its run's masks.
pub fn draw_predictions(
    (method, params): (&dyn Method, &ModelParams),
    config: &RunConfig,
    splits: &Splits,
    n: usize,
) -> Result<Canvas> {
    let normalization = splits.normalization_or(config.normalization.as_ref())?;
    let images = Subset::even(Arc::clone(&splits.test), n).unlabeled();
    let predictions = predictions((method, params), &config.masking, (&images, &normalization), config.seed)?;
    let encoder = &config.model.encoder;
    let scale = (128 / encoder.image_size).max(1);
    Ok(prediction_sheet(&predictions, encoder.image_size, encoder.patch_size, scale))
}

/// Fig. 5 of a method with noise: what ψ at the center, on an edge and in a corner resembles; deterministic, in one
/// draw, and on average.
pub fn draw_positions(trainer: &Trainer, seed: u64) -> Option<Canvas> {
    let (positions, side) = (trainer.positions()?, trainer.method.encoder().config().grid());
    let queries = [side / 2 * side + side / 2, side / 2, 0];
    let maps = similarity_maps(&positions, &queries, &mut stream(seed, Purpose::Noise, [0, 0]));
    // One scale for all nine, or else the paler map would not look it.
    let values = maps.iter().flat_map(|m| [&m.deterministic, &m.draw, &m.expected]).flatten();
    let least = values.fold(1.0, |least: f64, v| least.min(*v)) as f32;
    let color = |v: f32| sequential((v - least) / (1.0 - least));
    (positions.sigma.std() > 0.0).then(|| similarity_sheet(&maps, (side, side), 12, color))
}

/// The log as a figure: loss, what the method and the diagnostics report, learning rate. `known` says how numbers are to be
/// shown; a column that is not among them gets a panel of its own.
pub fn curves(config: &RunConfig, logged: &Logged, known: &[Number]) -> Curve {
    let series = |label: &str, column: &str| (label.to_owned(), logged.series(column));
    let panel = |y_label: &str, series| Panel { y_label: y_label.into(), log: false, range: None, series };
    let mut panels = vec![panel("loss", vec![series("loss", "loss")])];
    for column in logged.columns.iter().skip(Logged::OF_EVERY_RUN) {
        let number = known.iter().find(|number| number.name == column);
        let (label, of) = number.map_or((&column[..], &column[..]), |number| (number.label, number.panel));
        match panels.iter_mut().find(|panel| panel.y_label == of) {
            Some(panel) => panel.series.push(series(label, column)),
            None => panels.push(panel(of, vec![series(label, column)])),
        }
    }
    panels.push(panel("learning rate", vec![series("learning rate", "lr")]));
    panels.iter_mut().for_each(|panel| panel.log = spreads(panel));
    let title = format!("{} on {}", config.name(), name_of(&config.data));
    Curve { title, x_label: "step".into(), panels }
}

/// Whether a panel's numbers, all of them positive, spread so far that only a logarithmic axis shows the small ones.
fn spreads(panel: &Panel) -> bool {
    let values = panel.series.iter().flat_map(|series| &series.1).map(|point| point.1).filter(|y| y.is_finite());
    let (least, most) = values.fold((f64::INFINITY, 0.0f64), |(least, most), y| (least.min(y), most.max(y)));
    least > 0.0 && most > 5.0 * least
}

/// Images, in a few words: of a path, its last part.
fn name_of(data: &str) -> String {
    let (scheme, path) = data.split_once(':').unwrap_or((data, ""));
    Path::new(path).file_name().map_or(data.to_owned(), |name| format!("{scheme}:{}", name.display()))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::data::testing::Made;
    use crate::paper::masking::MultiBlock;
    use crate::vit::Preset;

    /// Of a thousand images, five hundred of a class.
    #[test]
    fn only_the_images_that_are_shown_are_looked_at_and_they_are_of_all_classes() {
        let encoder = Preset::Toy.sizes().0;
        let masking = Masking::Blocks(MultiBlock::for_small_grid((encoder.grid(), encoder.grid())));
        for (n, expected) in [(6, [3, 3]), (0, [0, 0]), (40, [20, 20])] {
            let looked_at: Arc<[AtomicUsize; 2]> = Default::default();
            let counts = Arc::clone(&looked_at);
            let images = Made::labeled((0..1000).map(|i| Some(i / 500)).collect(), 32, move |i, _, out: &mut [u8]| {
                counts[i / 500].fetch_add(1, Ordering::Relaxed);
                out.fill(i as u8);
                Ok(())
            });
            draw_masks(&masking, &encoder, 0, Arc::new(images), n).unwrap();
            assert_eq!(looked_at.each_ref().map(|count| count.load(Ordering::Relaxed)), expected);
        }
    }
}
