//! What the paper leaves for later: noise that depends on the context. Here it is scaled by the root mean square of s_x.

use std::sync::Arc;

use super::metrics::{FromLog, Probe};
use super::{Arm, Column, Conclusion, Experiment, Found, Size};
use crate::Result;
use crate::methods::MethodOptions;
use crate::paper::Covariance;

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "conditioned",
    title: "Noise scaled by the context",
    question: "Is noise better where each image's context scales it? A difference is one of the linear probe on the last block, with \
        all labels, from noise of one scale, whose interval over seeds leaves out 0.",
    reference: "section 6",
    paper_found: "Named as future work: positions conditioned on the input.",
    arms,
    metrics: |size| {
        let columns = vec!["noise_sensitivity", "position_accuracy"];
        vec![Arc::new(size.probe()), Arc::new(FromLog { columns, over_training: false })]
    },
    conclude,
};

const NONE: &str = "I-JEPA";
const BASE: &str = "StoP, σ = 1";
const SCALED: &str = "scaled by the context, σ = 1";

fn arms(size: &Size) -> Result<Vec<Arm>> {
    let options = MethodOptions { covariance: Some(Covariance::Conditioned), ..Default::default() };
    Ok(vec![
        Arm::new(NONE, size.ijepa()?),
        Arm::new(BASE, size.stop(1.0)?),
        Arm::new(SCALED, size.stop_with(1.0, &options)?),
    ])
}

fn conclude(found: &Found) -> Result<Conclusion> {
    let table = found.table(&[
        Column::Of { heading: "last block, %", metric: Probe::LAST, decimals: 1 },
        Column::Against { arm: BASE, metric: Probe::LAST, decimals: 1 },
        Column::Of { heading: "1 % of the labels, %", metric: Probe::ONE_PERCENT, decimals: 1 },
        Column::Of { heading: "noise sensitivity", metric: "noise_sensitivity", decimals: 5 },
        Column::Of { heading: "positions decoded", metric: "position_accuracy", decimals: 3 },
    ]);
    let statement =
        super::found::sentence(&found.verdict(&[SCALED], BASE, (Probe::LAST, "points of the linear probe")));
    Ok(Conclusion { table, statement, figures: vec![] })
}
