//! Table 7: noise on the positions of the context, of the masked tokens, or of both.

use std::sync::Arc;

use super::metrics::{Metric, Probe};
use super::{Arm, Column, Conclusion, Experiment, Found, Size};
use crate::Result;
use crate::methods::MethodOptions;
use crate::paper::NoiseOn;

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "which-tokens",
    title: "Noise on which tokens",
    question: "Is noise best on the masked tokens alone? A difference is one of the linear probe on the last block, with all labels, \
        from no noise, whose interval over seeds leaves out 0.",
    reference: "Table 7",
    paper_found: "With 1 % of the labels: none 54.3, context 55.1, both 56.8, masked 57.8.",
    arms,
    metrics: |size| vec![Arc::new(size.probe()) as Arc<dyn Metric>],
    conclude,
};

const BASE: &str = "none (I-JEPA)";
const ARMS: [(&str, NoiseOn); 3] =
    [("context", NoiseOn::Context), ("masked and context", NoiseOn::Both), ("masked (StoP)", NoiseOn::Masked)];

fn arms(size: &Size) -> Result<Vec<Arm>> {
    let stop = ARMS.into_iter().map(|(label, noise_on)| {
        Ok(Arm::new(label, size.stop_with(0.25, &MethodOptions { noise_on: Some(noise_on), ..Default::default() })?))
    });
    [Ok(Arm::new(BASE, size.ijepa()?))].into_iter().chain(stop).collect()
}

fn conclude(found: &Found) -> Result<Conclusion> {
    let [context, both, masked] = ARMS.map(|(label, _)| label);
    let table = found.table(&[
        Column::Of { heading: "last block, %", metric: Probe::LAST, decimals: 1 },
        Column::Against { arm: BASE, metric: Probe::LAST, decimals: 1 },
        Column::Of { heading: "1 % of the labels, %", metric: Probe::ONE_PERCENT, decimals: 1 },
        Column::Paper {
            heading: "paper",
            figures: &[(BASE, "54.3"), (context, "55.1"), (both, "56.8"), (masked, "57.8")],
        },
    ]);
    let statement = found.statement(&[context, both, masked], BASE, (Probe::LAST, "points of the linear probe"));
    Ok(Conclusion { table, statement, figures: vec![] })
}
