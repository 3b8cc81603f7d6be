//! Table 6: the predictor's positions are a fixed table of sines and cosines, learned, or stochastic.

use std::sync::Arc;

use super::metrics::{Metric, Probe};
use super::{Arm, Column, Conclusion, Experiment, Found, Size};
use crate::Result;

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "positions",
    title: "Positional embeddings",
    question: "Do stochastic positions serve better than fixed or learned ones? A difference is one of the linear probe on the last \
        block, with all labels, whose interval over seeds leaves out 0.",
    reference: "Table 6",
    paper_found: "With 1 % of the labels: sine-cosine 54.3, learned 54.4, StoP 57.8.",
    arms,
    metrics: |size| vec![Arc::new(size.probe()) as Arc<dyn Metric>],
    conclude,
};

const BASE: &str = "sine-cosine (I-JEPA)";

fn arms(size: &Size) -> Result<Vec<Arm>> {
    let mut learned = size.ijepa()?;
    learned.model.predictor.learned_positions = true;
    Ok(vec![Arm::new(BASE, size.ijepa()?), Arm::new("learned", learned), Arm::new("StoP", size.stop(0.25)?)])
}

fn conclude(found: &Found) -> Result<Conclusion> {
    let table = found.table(&[
        Column::Of { heading: "last block, %", metric: Probe::LAST, decimals: 1 },
        Column::Against { arm: BASE, metric: Probe::LAST, decimals: 1 },
        Column::Of { heading: "1 % of the labels, %", metric: Probe::ONE_PERCENT, decimals: 1 },
        Column::Paper { heading: "paper", figures: &[(BASE, "54.3"), ("learned", "54.4"), ("StoP", "57.8")] },
    ]);
    let statement = found.statement(&["learned", "StoP"], BASE, (Probe::LAST, "points of the linear probe"));
    Ok(Conclusion { table, statement, figures: vec![] })
}
