//! Table 8: is it enough to predict features at half the resolution? Then it would not be the noise that helps.

use std::sync::Arc;

use super::metrics::{Metric, Probe};
use super::{Arm, Column, Conclusion, Experiment, Found, Size};
use crate::Result;
use crate::methods::MethodOptions;
use crate::paper::TargetResolution;

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "low-resolution",
    title: "Targets at half the resolution",
    question: "Do coarser targets do what noise does? A difference is one of the linear probe on the last block, with all labels, from \
        targets at full resolution, whose interval over seeds leaves out 0.",
    reference: "Table 8",
    paper_found: "With 1 % of the labels: full 54.3, bilinear 52.1, max pooling 54.1, StoP 57.8.",
    arms,
    metrics: |size| vec![Arc::new(size.probe()) as Arc<dyn Metric>],
    conclude,
};

const BASE: &str = "full (I-JEPA)";
const COARSE: [(&str, TargetResolution); 2] =
    [("half, bilinear", TargetResolution::Bilinear), ("half, max pooling", TargetResolution::MaxPool)];
const STOP: &str = "full, StoP";

fn arms(size: &Size) -> Result<Vec<Arm>> {
    let coarse = COARSE.into_iter().map(|(label, resolution)| {
        let options = MethodOptions { target_resolution: Some(resolution), ..Default::default() };
        Ok(Arm::new(label, size.run("ijepa", &options)?))
    });
    let others = [Ok(Arm::new(STOP, size.stop(0.25)?))];
    [Ok(Arm::new(BASE, size.ijepa()?))].into_iter().chain(coarse).chain(others).collect()
}

fn conclude(found: &Found) -> Result<Conclusion> {
    let [bilinear, pooled] = COARSE.map(|(label, _)| label);
    let table = found.table(&[
        Column::Of { heading: "last block, %", metric: Probe::LAST, decimals: 1 },
        Column::Against { arm: BASE, metric: Probe::LAST, decimals: 1 },
        Column::Of { heading: "1 % of the labels, %", metric: Probe::ONE_PERCENT, decimals: 1 },
        Column::Paper {
            heading: "paper",
            figures: &[(BASE, "54.3"), (bilinear, "52.1"), (pooled, "54.1"), (STOP, "57.8")],
        },
    ]);
    let statement = found.statement(&[bilinear, pooled, STOP], BASE, (Probe::LAST, "points of the linear probe"));
    Ok(Conclusion { table, statement, figures: vec![] })
}
