//! Fig. 4: does noise regularize A and let m grow? With what the paper does not plot: where the noise goes. A small |A| does not
//! make it small, if the last layer norm's |γ| grows; nor does a large one make it felt, if the predictor does not read it.

use std::sync::Arc;

use super::figure::{Drawing, Figure, Panel};
use super::metrics::{FromLog, Metric, Probe};
use super::{Arm, Column, Conclusion, Experiment, Found, Size};
use crate::Result;
use crate::methods::MethodOptions;
use crate::paper::{Penalty, PenaltyNorm};

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "regularization",
    title: "Noise as regularization",
    question: "Does |A| fall and |m| rise with σ, and is the noise felt for it? An effect is a difference from I-JEPA whose interval \
        over seeds leaves out 0.",
    reference: "Fig. 4, section 4.3",
    paper_found: "|A| falls and |m| rises with σ, from 0 to 0.6; StoP is above an l1 penalty on A by 2.0 points, above l2 by 2.1.",
    arms,
    metrics,
    conclude,
};

const BASE: &str = "I-JEPA (σ = 0)";
/// Standard deviations of the noise.
pub(super) const SIGMAS: [(&str, f64); 4] =
    [("StoP, σ = 0.25", 0.25), ("StoP, σ = 0.5", 0.5), ("StoP, σ = 1", 1.0), ("StoP, σ = 4", 4.0)];

/// Penalties on A with deterministic positions (section 4.3; the paper does not say how large its are): some tenth of the loss.
const PENALTIES: [(&str, Penalty); 2] = [
    ("l1 on A, 1e-4", Penalty { norm: PenaltyNorm::L1, weight: 1e-4 }),
    ("l2 on A, 1e-3", Penalty { norm: PenaltyNorm::L2, weight: 1e-3 }),
];

fn arms(size: &Size) -> Result<Vec<Arm>> {
    let stop = SIGMAS.into_iter().map(|(label, sigma)| Ok(Arm::new(label, size.stop(sigma)?)));
    let penalized = PENALTIES.into_iter().map(|(label, penalty)| {
        Ok(Arm::new(label, size.run("ijepa", &MethodOptions { penalty: Some(penalty), ..Default::default() })?))
    });
    [Ok(Arm::new(BASE, size.ijepa()?))].into_iter().chain(stop).chain(penalized).collect()
}

fn metrics(size: &Size) -> Vec<Arc<dyn Metric>> {
    let columns = vec!["norm_a", "norm_m", "norm_gamma", "context_rms", "neighbor_distance", "noise_sensitivity"];
    vec![Arc::new(size.probe()), Arc::new(FromLog { columns, over_training: false })]
}

fn conclude(found: &Found) -> Result<Conclusion> {
    let of = |heading, metric, decimals| Column::Of { heading, metric, decimals };
    let table = found.table(&[
        of("|A|", "norm_a", 2),
        Column::Paper { heading: "paper", figures: &[(BASE, "1"), (SIGMAS[0].0, "falls"), (SIGMAS[1].0, "falls")] },
        of("|m|", "norm_m", 3),
        Column::Paper { heading: "paper", figures: &[(SIGMAS[0].0, "rises"), (SIGMAS[1].0, "rises")] },
        of("|γ|", "norm_gamma", 2),
        of("d′ of neighbors", "neighbor_distance", 1),
        of("noise sensitivity", "noise_sensitivity", 5),
        of("last block, %", Probe::LAST, 1),
        Column::Against { arm: BASE, metric: Probe::LAST, decimals: 1 },
    ]);
    let arms: Vec<(&str, f64)> = [(BASE, 0.0)].into_iter().chain(SIGMAS).collect();
    let panel = |y_label: &str, log, lines: &[(&str, &str)]| Panel {
        y_label: y_label.into(),
        log,
        lines: lines.iter().map(|(name, metric)| ((*name).to_owned(), found.points(&arms, metric))).collect(),
    };
    let figure = Figure {
        file: "regularization.svg".into(),
        caption: "Fig. 4, and what it does not show: the norms of A and m over the standard deviation of the noise; that of γ, the \
            scale of the encoder's last layer norm; the distance d′ of neighboring positions in standard deviations of the noise; \
            the share of a prediction's variance that is the noise's. Bars are 95 % intervals over seeds."
            .into(),
        drawing: Drawing::Lines {
            title: "Noise as regularization".into(),
            x_label: "σ (standard deviation)".into(),
            panels: vec![
                panel("|A|", false, &[("|A|", "norm_a")]),
                panel("|m|", false, &[("|m|", "norm_m")]),
                panel("|γ|", false, &[("|γ|", "norm_gamma")]),
                panel("d′", true, &[("d′ of neighbors", "neighbor_distance")]),
                panel("noise sensitivity", true, &[("noise sensitivity", "noise_sensitivity")]),
            ],
        },
    };
    let labels: Vec<&str> = SIGMAS.iter().map(|(label, _)| *label).collect();
    let felt = found.mean(SIGMAS[2].0, "noise_sensitivity").map_or(String::new(), |felt| {
        format!("; of a prediction's variance, {:.3} % is the noise's at σ = 1", 100.0 * felt.mean)
    });
    let a = found.verdict(&labels, BASE, ("norm_a", "|A|"));
    let m = found.verdict(&labels, BASE, ("norm_m", "|m|"));
    let penalized =
        found.verdict(&PENALTIES.map(|(label, _)| label), BASE, (Probe::LAST, "points of the linear probe"));
    let statement = super::found::sentence(&format!("{penalized}; {a}; {m}{felt}"));
    Ok(Conclusion { table, statement, figures: vec![figure] })
}
