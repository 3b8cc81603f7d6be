//! Tables 1, 2 and 14, Fig. 1b: how well does a linear classifier read the class from what each method has learned?

use std::sync::Arc;

use super::metrics::{Metric, Probe};
use super::{Arm, Column, Conclusion, Experiment, Found, Size};
use crate::Result;
use crate::methods::MethodOptions;

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "linear-probe",
    title: "Linear probe",
    question: "Does StoP learn features from which a linear classifier reads more than from I-JEPA's, and where do other methods \
        stand? A difference is one of the last block, with all labels, whose interval over seeds leaves out 0.",
    reference: "Tables 1, 2 and 14, Fig. 1b",
    paper_found: "ViT-B/16 on ImageNet: StoP is above I-JEPA by 1.7 points on the last block, by 1.6 on the last four, by 3.2 with \
        1 % of the labels.",
    arms,
    metrics: |size| vec![Arc::new(size.probe()) as Arc<dyn Metric>],
    conclude,
};

/// I-JEPA is what the others are compared with.
const BASE: &str = "I-JEPA";

fn arms(size: &Size) -> Result<Vec<Arm>> {
    Ok(vec![
        Arm::new(BASE, size.ijepa()?),
        Arm::new("StoP", size.stop(0.25)?),
        Arm::new("MAE", size.run("mae", &MethodOptions::default())?),
        Arm::new("data2vec", size.run("data2vec", &MethodOptions::default())?),
        Arm::new("SimMIM", size.run("simmim", &MethodOptions::default())?),
    ])
}

fn conclude(found: &Found) -> Result<Conclusion> {
    let of = |heading, metric| Column::Of { heading, metric, decimals: 1 };
    let paper = |heading, figures| Column::Paper { heading, figures };
    let table = found.table(&[
        of("last block, %", Probe::LAST),
        Column::Against { arm: BASE, metric: Probe::LAST, decimals: 1 },
        paper("paper", &[(BASE, "70.9"), ("StoP", "72.6"), ("MAE", "68.0"), ("data2vec", "77.3 (ViT-L)")]),
        of("last four, %", Probe::LAST_FOUR),
        paper("paper", &[(BASE, "72.9"), ("StoP", "74.5"), ("MAE", "68.0")]),
        of("1 % of the labels, %", Probe::ONE_PERCENT),
        paper("paper", &[(BASE, "57.1"), ("StoP", "60.3")]),
    ]);
    let statement = found.statement(
        &["StoP", "MAE", "data2vec", "SimMIM"],
        BASE,
        (Probe::LAST, "points of the linear probe on the last block"),
    );
    Ok(Conclusion { table, statement, figures: vec![] })
}
