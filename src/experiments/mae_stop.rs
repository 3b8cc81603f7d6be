//! Section 6: stochastic positions in MAE, which predicts pixels.

use std::sync::Arc;

use super::metrics::{FromLog, Metric, Probe};
use super::{Arm, Column, Conclusion, Experiment, Found, Size};
use crate::Result;
use crate::methods::MethodOptions;
use crate::paper::Sigma;

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "mae-stop",
    title: "Stochastic positions in MAE",
    question: "Do stochastic positions help where pixels are predicted? A difference is one of the linear probe on the last block, with \
        all labels, from MAE, whose interval over seeds leaves out 0.",
    reference: "section 6",
    paper_found: "Attempts with MAE were not successful; no figures are given.",
    arms,
    metrics: |size| {
        vec![
            Arc::new(size.probe()),
            Arc::new(FromLog { columns: vec!["loss"], over_training: false }) as Arc<dyn Metric>,
        ]
    },
    conclude,
};

const BASE: &str = "MAE";
const ARMS: [(&str, f64); 3] = [("with StoP, σ = 0.25", 0.25), ("with StoP, σ = 1", 1.0), ("with StoP, σ = 4", 4.0)];

fn arms(size: &Size) -> Result<Vec<Arm>> {
    let with = |sigma| MethodOptions { sigma, ..Default::default() };
    let stop = ARMS
        .into_iter()
        .map(|(label, sigma)| Ok(Arm::new(label, size.run("mae", &with(Some(Sigma::from_std(sigma))))?)));
    [Ok(Arm::new(BASE, size.run("mae", &with(None))?))].into_iter().chain(stop).collect()
}

fn conclude(found: &Found) -> Result<Conclusion> {
    let table = found.table(&[
        Column::Of { heading: "last block, %", metric: Probe::LAST, decimals: 1 },
        Column::Against { arm: BASE, metric: Probe::LAST, decimals: 1 },
        Column::Of { heading: "1 % of the labels, %", metric: Probe::ONE_PERCENT, decimals: 1 },
        Column::Of { heading: "loss in training, last", metric: "loss", decimals: 3 },
        Column::Paper { heading: "paper", figures: &[(ARMS[0].0, "not successful")] },
    ]);
    let labels = ARMS.map(|(label, _)| label);
    let statement = found.statement(&labels, BASE, (Probe::LAST, "points of the linear probe"));
    Ok(Conclusion { table, statement, figures: vec![] })
}
