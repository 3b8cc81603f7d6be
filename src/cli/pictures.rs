//! The pictures of a run: masks, curves, predictions, positions.

use std::path::Path;
use std::sync::Arc;

use crate::Result;
use crate::data::{Dataset, Splits, Subset};
use crate::methods::{Model, ModelParams};
use crate::report::canvas::Canvas;
use crate::report::color::sequential;
use crate::report::curve::{Curve, Panel};
use crate::report::masks::{MaskedImage, mask_sheet};
use crate::report::predictions::prediction_sheet;
use crate::report::similarity::{similarity_maps, similarity_sheet};
use crate::rng::{Purpose, stream};
use crate::runs::{LogRow, column};
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
    // MAE predicts all that is not visible: drawing it as a block would show the same twice.
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
    (model, params): (&Model, &ModelParams),
    config: &RunConfig,
    splits: &Splits,
    n: usize,
) -> Result<Canvas> {
    let normalization = splits.normalization_or(config.normalization.as_ref())?;
    let images = Subset::even(Arc::clone(&splits.test), n).unlabeled();
    let predictions = predictions((model, params), &config.masking, (&images, &normalization), config.seed)?;
    let encoder = &config.model.encoder;
    let scale = (128 / encoder.image_size).max(1);
    Ok(prediction_sheet(&predictions, encoder.image_size, encoder.patch_size, scale))
}

/// Fig. 5 of a method with noise: what ψ at the center, on an edge and in a corner resembles; deterministic, in one
/// draw, and on average.
pub fn draw_positions(trainer: &Trainer, seed: u64) -> Option<Canvas> {
    let (positions, side) = (trainer.positions(), trainer.model.config.encoder.grid());
    let queries = [side / 2 * side + side / 2, side / 2, 0];
    let maps = similarity_maps(&positions, &queries, &mut stream(seed, Purpose::Noise, [0, 0]));
    // One scale for all nine, or else the paler map would not look it.
    let values = maps.iter().flat_map(|m| [&m.deterministic, &m.draw, &m.expected]).flatten();
    let least = values.fold(1.0, |least: f64, v| least.min(*v)) as f32;
    let color = |v: f32| sequential((v - least) / (1.0 - least));
    (positions.sigma.std() > 0.0).then(|| similarity_sheet(&maps, (side, side), 12, color))
}

/// A panel of the curves: what is on its axis, whether that is logarithmic, and the columns of the log by what they are
/// called there.
type Of = (&'static str, bool, &'static [(&'static str, &'static str)]);

const OF_EVERY_METHOD: [Of; 4] = [
    ("loss", true, &[("loss", "loss")]),
    ("effective rank", false, &[("RankMe", "rank_me")]),
    ("std over images", false, &[("pooled features", "feature_std"), ("targets", "target_std")]),
    ("norm", true, &[("|A|", "norm_a"), ("visible |A|", "visible_norm_a"), ("|γ|", "norm_gamma"), ("|m|", "norm_m")]),
];

const OF_NOISE: [Of; 4] = [
    ("RMS", true, &[("context A s", "context_rms"), ("noise A n", "noise_rms")]),
    ("neighbors, d′", true, &[("mean", "neighbor_distance"), ("least", "least_neighbor_distance")]),
    ("accuracy", false, &[("positions decoded", "position_accuracy")]),
    ("prediction variance", true, &[("due to noise", "noise_sensitivity")]),
];

const LAST: [Of; 1] = [("learning rate", false, &[("learning rate", "lr")])];

/// The log as a figure; what concerns noise, for a method that has it.
pub fn curves(config: &RunConfig, rows: &[LogRow]) -> Curve {
    let panel = |(label, log, columns): &Of| {
        let series = columns.iter().map(|(name, of)| {
            let of = column(of);
            ((*name).to_owned(), rows.iter().filter_map(|row| Some((row[0]?, row[of]?))).collect())
        });
        let range = (*label == "accuracy").then_some((0.0, 1.0));
        Panel { y_label: (*label).into(), log: *log, range, series: series.collect() }
    };
    let noisy = rows.iter().any(|row| row[column("noise_rms")] > Some(0.0));
    let of_noise = if noisy { &OF_NOISE[..] } else { &[] };
    Curve {
        title: format!("{} on {}", config.model.method.name(), name_of(&config.data)),
        x_label: "step".into(),
        panels: OF_EVERY_METHOD.iter().chain(of_noise).chain(&LAST).map(panel).collect(),
    }
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
