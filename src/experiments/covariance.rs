//! Fig. 3: a learned covariance, Σ = σ² A Aᵀ, against a fixed one, Σ = σ² I, over σ.

use std::sync::Arc;

use super::figure::{Drawing, Figure, Panel};
use super::found::signed;
use super::metrics::{FromLog, Probe};
use super::regularization::SIGMAS;
use super::{Arm, Column, Conclusion, Experiment, Found, Size};
use crate::Result;
use crate::methods::MethodOptions;
use crate::paper::Covariance;

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "covariance",
    title: "Learned or fixed covariance",
    question: "Is a covariance that is learned, and tied to what the context is projected with, better than a fixed one of the same σ, \
        and than no noise? A difference is one of the linear probe on the last block, with all labels, whose interval over seeds \
        leaves out 0.",
    reference: "Fig. 3",
    paper_found: "Learned, at σ = 0.25, is above no noise by 3.5 points with 1 % of the labels; fixed gains less.",
    arms,
    metrics: |size| {
        let columns = vec!["noise_sensitivity", "position_accuracy"];
        vec![Arc::new(size.probe()), Arc::new(FromLog { columns, over_training: false })]
    },
    conclude,
};

const BASE: &str = "no noise (I-JEPA)";
const FIXED: [(&str, f64); 4] =
    [("fixed, σ = 0.25", 0.25), ("fixed, σ = 0.5", 0.5), ("fixed, σ = 1", 1.0), ("fixed, σ = 4", 4.0)];

fn arms(size: &Size) -> Result<Vec<Arm>> {
    let learned = SIGMAS.into_iter().map(|(label, sigma)| Ok(Arm::new(label, size.stop(sigma)?)));
    let fixed = FIXED.into_iter().map(|(label, sigma)| {
        let options = MethodOptions { covariance: Some(Covariance::Fixed), ..Default::default() };
        Ok(Arm::new(label, size.stop_with(sigma, &options)?))
    });
    [Ok(Arm::new(BASE, size.ijepa()?))].into_iter().chain(learned).chain(fixed).collect()
}

fn conclude(found: &Found) -> Result<Conclusion> {
    let table = found.table(&[
        Column::Of { heading: "last block, %", metric: Probe::LAST, decimals: 1 },
        Column::Against { arm: BASE, metric: Probe::LAST, decimals: 1 },
        Column::Of { heading: "1 % of the labels, %", metric: Probe::ONE_PERCENT, decimals: 1 },
        Column::Paper { heading: "paper, 1 %", figures: &[(BASE, "54.3"), (SIGMAS[0].0, "57.8")] },
        Column::Of { heading: "noise sensitivity", metric: "noise_sensitivity", decimals: 5 },
        Column::Of { heading: "positions decoded", metric: "position_accuracy", decimals: 3 },
    ]);
    let line = |name: &str, arms: &[(&str, f64)], metric: &str, aside: f64| {
        let with_base: Vec<(&str, f64)> = [(BASE, 0.0)].into_iter().chain(arms.iter().copied()).collect();
        let mut points = found.points(&with_base, metric);
        points.iter_mut().for_each(|point| point.x += aside); // so that bars do not hide each other
        (name.to_owned(), points)
    };
    let panel = |y_label: &str, metric: &str| Panel {
        y_label: y_label.into(),
        log: false,
        lines: vec![line("learned", &SIGMAS, metric, 0.0), line("fixed", &FIXED, metric, 0.04)],
    };
    let figure = Figure {
        file: "covariance.svg".into(),
        caption: "Fig. 3. Linear probe on the last block, with all labels and with 1 % of them, over the standard deviation of the \
            noise, of a learned covariance and, drawn a little to the right, of a fixed one. Bars are 95 % intervals over seeds."
            .into(),
        drawing: Drawing::Lines {
            title: "Learned or fixed covariance".into(),
            x_label: "σ (standard deviation)".into(),
            panels: vec![panel("all labels, %", Probe::LAST), panel("1 % of the labels, %", Probe::ONE_PERCENT)],
        },
    };
    let labels: Vec<&str> = SIGMAS.iter().chain(&FIXED).map(|(label, _)| *label).collect();
    let against_none = found.statement(&labels, BASE, (Probe::LAST, "points of the linear probe"));
    let pairs = SIGMAS.iter().zip(&FIXED).filter_map(|((learned, sigma), (fixed, _))| {
        let difference = found.difference(learned, fixed, Probe::LAST)?;
        let beyond = if difference.excludes_zero() { ", beyond its interval" } else { "" };
        Some(format!("{} at σ = {sigma}{beyond}", signed(difference)))
    });
    let statement = format!("Learned less fixed: {}. {against_none}", pairs.collect::<Vec<_>>().join("; "));
    Ok(Conclusion { table, statement, figures: vec![figure] })
}
