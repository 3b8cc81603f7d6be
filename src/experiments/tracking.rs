//! Tables 3 and 16: objects followed through videos by the similarity of patch features.

use std::sync::Arc;

use super::cache::{Images, Specimen, Values};
use super::metrics::Metric;
use super::{Arm, Column, Conclusion, Experiment, Found, Size};
use crate::Result;
use crate::data::video;
use crate::eval::CancelCheck;
use crate::eval::tracking::{EncoderFeatures, PixelFeatures, track_embedded, usual_frame_size};
use crate::methods::MethodOptions;

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "tracking",
    title: "Tracking objects through videos",
    question: "Do StoP's patch features follow objects better than I-JEPA's? A difference is one of J&F, on embedded clips of moving \
        shapes that hide each other, whose interval over seeds leaves out 0.",
    reference: "Tables 3 and 16",
    paper_found: "ViT-B/16 on DAVIS 2017, J&F: MAE 50.9, I-JEPA 56.1, StoP 57.0.",
    arms,
    metrics: |_| vec![Arc::new(Clips { clips: video::EMBEDDED }) as Arc<dyn Metric>],
    conclude,
};

const BASE: &str = "I-JEPA";

fn arms(size: &Size) -> Result<Vec<Arm>> {
    Ok(vec![
        Arm::new(BASE, size.ijepa()?),
        Arm::new("StoP", size.stop(0.25)?),
        Arm::new("MAE", size.run("mae", &MethodOptions::default())?),
    ])
}

fn conclude(found: &Found) -> Result<Conclusion> {
    let of = |heading| Column::Of { heading, metric: heading, decimals: 1 };
    let paper = |figures| Column::Paper { heading: "paper", figures };
    let table = found.table(&[
        of("J"),
        paper(&[(BASE, "56.1"), ("StoP", "56.6"), ("MAE", "49.4")]),
        of("F"),
        paper(&[(BASE, "56.2"), ("StoP", "57.3"), ("MAE", "52.6")]),
        of("J&F"),
        Column::Against { arm: BASE, metric: "J&F", decimals: 1 },
        paper(&[(BASE, "56.1"), ("StoP", "57.0"), ("MAE", "50.9")]),
    ]);
    let statement = found.statement(&["StoP", "MAE"], BASE, ("J&F", "points of J&F"));
    Ok(Conclusion { table, statement, figures: vec![] })
}

/// J, F and J&F on the embedded clips, in per cent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Clips {
    /// How many of them.
    clips: usize,
}

impl Metric for Clips {
    fn name(&self) -> &str {
        "tracking"
    }

    fn configuration(&self, _: &Images) -> Result<serde_json::Value> {
        Ok(serde_json::json!({ "tracking": 1, "clips": self.clips }))
    }

    fn cost(&self, _: &Images) -> usize {
        100
    }

    fn measure(&self, specimen: &Specimen, cancel: CancelCheck) -> Result<Values> {
        let sizes = &specimen.subject.config.model.encoder;
        let (side, normalization) = (usual_frame_size(sizes.image_size), &specimen.normalization()?);
        let found = match &specimen.model {
            Some((method, params)) => {
                let features = EncoderFeatures { encoder: method.encoder(), params: params.evaluated(), normalization };
                track_embedded(&features, side, self.clips, cancel)?
            }
            None => {
                let features = PixelFeatures { patch_size: sizes.patch_size, normalization };
                track_embedded(&features, side, self.clips, cancel)?
            }
        };
        let values = [("J", found.j), ("F", found.f), ("J&F", found.j_and_f)];
        Ok(values.map(|(name, share)| (name.to_owned(), 100.0 * share)).into())
    }
}
