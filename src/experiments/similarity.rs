//! Fig. 5: what does a stochastic position resemble? One draw, as the paper draws it; the mean over draws; and what that mean tends
//! to, which is known exactly.

use std::sync::Arc;

use super::figure::{Drawing, Figure};
use super::metrics::{Metric, PositionMaps};
use super::{Arm, Column, Conclusion, Experiment, Found, Size};
use crate::Result;

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "similarity",
    title: "What a stochastic position resembles",
    question: "Does noise make the map of similarities between positions wider, as one draw of it suggests? It does if the mean over \
        draws has more positions above half of its range than the map without noise has.",
    reference: "Fig. 5",
    paper_found: "Stochastic positions are similar to a wider range of neighbors.",
    arms,
    metrics: |_| vec![Arc::new(MAPS) as Arc<dyn Metric>],
    conclude,
};

const MAPS: PositionMaps = PositionMaps { draws: 1000 };
const ARMS: [(&str, f64); 3] = [("StoP, σ = 0.25", 0.25), ("StoP, σ = 1", 1.0), ("StoP, σ = 4", 4.0)];

fn arms(size: &Size) -> Result<Vec<Arm>> {
    ARMS.into_iter().map(|(label, sigma)| Ok(Arm::new(label, size.stop(sigma)?))).collect()
}

fn conclude(found: &Found) -> Result<Conclusion> {
    let of = |heading, metric, decimals| Column::Of { heading, metric, decimals };
    let table = found.table(&[
        of("width without noise, %", "exact width", 1),
        of("of one draw, %", "draw width", 1),
        of("of the mean of 1000, %", "mean width", 1),
        of("expected, %", "expected width", 1),
        of("peak of one draw", "draw peak", 3),
        of("of the mean", "mean peak", 3),
        of("expected", "expected peak", 3),
        of("order kept by one draw", "draw order", 3),
        of("by the mean", "mean order", 4),
        Column::Paper { heading: "paper", figures: &[(ARMS[0].0, "wider (one draw)")] },
    ]);
    let mut rows = Vec::new();
    for (label, _) in ARMS {
        let model = found.model(label, 0)?;
        let side = model.0.encoder().config().grid();
        rows.extend(MAPS.maps(&model, &[side / 2 * side + side / 2, 0]).into_iter().map(Vec::from));
    }
    let side = rows.first().map_or(0, |row| (row[0].len() as f64).sqrt() as usize);
    let figure = Figure {
        file: "similarity.png".into(),
        caption: "Fig. 5. Cosines of a query position, the middle of the grid and its corner, with all positions: of the position \
            itself, of one draw, of the mean over 1000 draws, and exactly expected. Two rows each for σ = 0.25, 1 and 4, seed 0. Yellow \
            is the greatest cosine of the picture, dark blue the least."
            .into(),
        drawing: Drawing::Maps { side, rows },
    };
    let last = ARMS[ARMS.len() - 1].0;
    let means = ["exact width", "draw width", "mean width", "expected peak", "mean peak"]
        .map(|metric| found.mean(last, metric));
    let statement = match means {
        [Some(exact), Some(draw), Some(mean), Some(peak), Some(mean_peak)] => {
            let wider = mean.mean - exact.mean > mean.half_width.unwrap_or(0.0);
            let verdict = if wider {
                "on average noise widens the map of similarities"
            } else {
                "on average noise does not widen the map of similarities, it only makes it paler"
            };
            super::found::sentence(&format!(
                "{verdict}: at σ = 4 the mean over draws has {:.1} % of the positions above half of its range, where there are {:.1} % \
                 without noise, with a peak of {:.3} ({:.3} expected); one draw alone has {:.1} %",
                mean.mean, exact.mean, mean_peak.mean, peak.mean, draw.mean
            ))
        }
        _ => "Nothing was measured.".to_owned(),
    };
    Ok(Conclusion { table, statement, figures: vec![figure] })
}
