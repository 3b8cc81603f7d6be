// A question of your own: does it matter how large the target blocks are that I-JEPA predicts?
use std::path::Path;
use std::sync::Arc;

use stop_mim::experiments::{Arm, Column, Conclusion, Experiment, Found, Metric, Network, Probe, Runner, Silent, Size};
use stop_mim::{Result, train::Masking};

const EXPERIMENT: Experiment = Experiment {
    name: "target-size",
    title: "Larger target blocks",
    question: "Do targets of a third of the image serve better than those of a fifth?",
    reference: "none",
    paper_found: "The paper keeps I-JEPA's blocks.",
    arms,
    metrics: |size| vec![Arc::new(size.probe()) as Arc<dyn Metric>],
    conclude,
};

fn arms(size: &Size) -> Result<Vec<Arm>> {
    let mut larger = size.ijepa()?; // the same run but for one setting
    if let Masking::Blocks(blocks) = &mut larger.masking {
        blocks.target.scale = (0.3, 0.35);
    }
    Ok(vec![Arm::new("I-JEPA", size.ijepa()?), Arm::new("larger targets", larger)])
}

fn conclude(found: &Found) -> Result<Conclusion> {
    let columns = [
        Column::Of { heading: "linear probe, %", metric: Probe::LAST, decimals: 1 },
        Column::Against { arm: "I-JEPA", metric: Probe::LAST, decimals: 1 },
    ];
    let statement = found.statement(&["larger targets"], "I-JEPA", (Probe::LAST, "points of the linear probe"));
    Ok(Conclusion { table: found.table(&columns), statement, figures: vec![] })
}

fn main() -> Result<()> {
    // Far too short to answer anything: Size::quick() takes minutes.
    let tiny = Network { dim: 16, depth: 1, heads: 1 };
    let size = Size { encoder: tiny, predictor: tiny, steps: 5, seeds: 2, probe_images: [200, 100], ..Size::quick() };
    let out = std::env::temp_dir().join("a-question-of-your-own"); // a second call finds there what the first has done
    Runner::new(vec![&EXPERIMENT], &size, &out).run(&|_| "cargo run".into(), &Silent, &mut |mut answer| {
        print!("{}\n{}\n", answer.outcome.table.markdown(), answer.outcome.statement);
        answer.save(&out.join("target-size"), &|_, _: &Path| Ok(())).map(|_| ())
    })
}
