//! Where does noise begin to matter? The paper chooses σ by the probe alone. Here it is followed through training: does the noise
//! hide positions, and does the predictor read it?

use std::sync::Arc;

use super::figure::{Drawing, Figure, Panel};
use super::metrics::{FromLog, Metric, Probe};
use super::regularization::SIGMAS;
use super::{Arm, Column, Conclusion, Experiment, Found, Size};
use crate::Result;

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "sigma",
    title: "Where noise begins to matter",
    question: "At which σ does the noise hide positions (decoding accuracy below 1), move predictions (sensitivity), and change what \
        is learned (probe)? A difference is one of the probe from I-JEPA whose interval over seeds leaves out 0.",
    reference: "none",
    paper_found: "The paper has σ = 0.25 as the best by the probe (Fig. 3) and does not look at what the noise does.",
    arms,
    metrics,
    conclude,
};

const BASE: &str = "I-JEPA";

/// What is followed, and over which scale.
const FOLLOWED: [(&str, &str, bool); 5] = [
    ("noise_sensitivity", "noise sensitivity", true),
    ("norm_a", "|A|", false),
    ("norm_gamma", "|γ|", false),
    ("neighbor_distance", "mean d′", true),
    ("position_accuracy", "positions decoded", false),
];

fn arms(size: &Size) -> Result<Vec<Arm>> {
    let stop = SIGMAS.into_iter().map(|(label, sigma)| Ok(Arm::new(label, size.stop(sigma)?)));
    [Ok(Arm::new(BASE, size.ijepa()?))].into_iter().chain(stop).collect()
}

fn metrics(size: &Size) -> Vec<Arc<dyn Metric>> {
    let columns = FOLLOWED.map(|(column, ..)| column).to_vec();
    vec![Arc::new(size.probe()), Arc::new(FromLog { columns, over_training: true })]
}

fn conclude(found: &Found) -> Result<Conclusion> {
    let of = |heading, metric, decimals| Column::Of { heading, metric, decimals };
    let table = found.table(&[
        of("positions decoded", "position_accuracy", 3),
        of("d′ of neighbors", "neighbor_distance", 1),
        of("noise sensitivity", "noise_sensitivity", 5),
        of("last block, %", Probe::LAST, 1),
        Column::Against { arm: BASE, metric: Probe::LAST, decimals: 1 },
        Column::Paper { heading: "paper, 1 %", figures: &[(BASE, "54.3"), (SIGMAS[0].0, "57.8")] },
    ]);
    let panel = |&(column, y_label, log): &(&str, &str, bool)| Panel {
        y_label: y_label.into(),
        log,
        // I-JEPA last: what it does not have, it leaves no gap in the colors for.
        lines: SIGMAS
            .iter()
            .chain(&[(BASE, 0.0)])
            .map(|(label, _)| ((*label).to_owned(), found.over_training(label, column)))
            .filter(|(_, points)| !points.is_empty())
            .collect(),
    };
    let figure = Figure {
        file: "sigma.svg".into(),
        caption: "Over training, for each σ: the share of a prediction's variance that is the noise's; the norm of A, and of γ, the \
            scale of the encoder's last layer norm; the distance d′ of neighboring positions in standard deviations of the noise; how \
            often a position is decoded from one draw. Means over seeds."
            .into(),
        drawing: Drawing::Lines {
            title: "What becomes of the noise".into(),
            x_label: "step".into(),
            panels: FOLLOWED.iter().map(panel).map(without_bars).collect(),
        },
    };
    let labels: Vec<&str> = SIGMAS.iter().map(|(label, _)| *label).collect();
    let last = SIGMAS[SIGMAS.len() - 1].0;
    let felt = found.mean(last, "position_accuracy").zip(found.mean(last, "noise_sensitivity"));
    let felt = felt.map_or(String::new(), |(decoded, felt)| {
        format!("; at σ = 4, {:.1} % of positions are decoded from one draw, and {:.3} % of a prediction's variance is the noise's",
            100.0 * decoded.mean, 100.0 * felt.mean)
    });
    let probe = found.verdict(&labels, BASE, (Probe::LAST, "points of the linear probe"));
    Ok(Conclusion { table, statement: super::found::sentence(&(probe + &felt)), figures: vec![figure] })
}

/// Bars of several lines on one place hide each other.
fn without_bars(panel: Panel) -> Panel {
    let mut panel = panel;
    panel.lines.iter_mut().flat_map(|(_, points)| points).for_each(|point| point.half_width = None);
    panel
}
