//! Fig. 6: what does a predicted token resemble? With a score over many images in the place of a few pictures.

use std::sync::Arc;

use super::figure::{Drawing, Figure};
use super::metrics::{Locality, Metric, predicted};
use super::{Arm, Column, Conclusion, Experiment, Found, Size};
use crate::Result;

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "heatmaps",
    title: "What a predicted token resembles",
    question: "Are StoP's predictions less bound to their place than I-JEPA's? The score is the rank correlation, over the tokens of \
        an image, of their similarity to a predicted token with their distance from its place: −1, the nearer the more alike. A \
        difference is one whose interval over seeds leaves out 0.",
    reference: "Fig. 6",
    paper_found: "I-JEPA's predictions resemble tokens near the target; StoP's resemble small areas that are not neighbors.",
    arms,
    metrics: |_| vec![Arc::new(Locality { images: 256 }) as Arc<dyn Metric>],
    conclude,
};

const BASE: &str = "I-JEPA";
const ARMS: [(&str, f64); 2] = [("StoP, σ = 0.25", 0.25), ("StoP, σ = 1", 1.0)];

fn arms(size: &Size) -> Result<Vec<Arm>> {
    let stop = ARMS.into_iter().map(|(label, sigma)| Ok(Arm::new(label, size.stop(sigma)?)));
    [Ok(Arm::new(BASE, size.ijepa()?))].into_iter().chain(stop).collect()
}

fn conclude(found: &Found) -> Result<Conclusion> {
    let of = |heading, metric| Column::Of { heading, metric, decimals: 3 };
    let table = found.table(&[
        of("predicted", "predicted"),
        Column::Against { arm: BASE, metric: "predicted", decimals: 3 },
        of("from one draw", "drawn"),
        of("true features", "target"),
        Column::Paper { heading: "paper", figures: &[(BASE, "local"), (ARMS[0].0, "less local")] },
    ]);
    let mut predictions = Vec::new();
    for label in [BASE, ARMS[0].0] {
        predictions.push(found.with(label, 0, |specimen| predicted(specimen, 4))?);
    }
    let encoder = found.model(BASE, 0)?.0.encoder().config().clone();
    let figure = Figure {
        file: "heatmaps.png".into(),
        caption: "Fig. 6. Four held-out images under I-JEPA, and the same four under StoP, σ = 0.25, seed 0. From left to right: the \
            image; what the encoder sees, with the target blocks outlined and two queries white; for each query what its prediction \
            resembles (of StoP from the mean position, then from one draw), and last what the true features there resemble."
            .into(),
        drawing: Drawing::Predictions { size: encoder.image_size, patch: encoder.patch_size, of: predictions },
    };
    let labels = ARMS.map(|(label, _)| label);
    let verdict = found.verdict(&labels, BASE, ("predicted", "the rank correlation of similarity with distance"));
    let levels =
        found.mean(BASE, "predicted").zip(found.mean(BASE, "target")).map_or(String::new(), |(ours, true_)| {
            format!(" (I-JEPA: {:.2}; the true features there: {:.2})", ours.mean, true_.mean)
        });
    Ok(Conclusion { table, statement: super::found::sentence(&(verdict + &levels)), figures: vec![figure] })
}
