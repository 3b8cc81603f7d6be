//! Tables 5, 15 and 17: trained further with few or all labels.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::cache::{self, Images, Kind, Specimen, Subject, Values};
use super::found::UNTRAINED;
use super::metrics::Metric;
use super::{Arm, Column, Conclusion, Experiment, Found};
use crate::data::{Augment, Splits, Subset};
use crate::eval::CancelCheck;
use crate::runs::RunFolder;
use crate::train::RunConfig;
use crate::train::fine_tuning::{FineTuning, test_accuracy, trainer};
use crate::vit::EncoderConfig;
use crate::{Error, Result};

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "finetune",
    title: "Fine-tuning",
    question: "Is StoP's encoder a better one to begin from than I-JEPA's, and either better than none, with 1 %, 10 % and all of the \
        labels? A difference is one whose interval over seeds leaves out 0.",
    reference: "Tables 5, 15 and 17",
    paper_found: "With 1 % of the labels (ViT-L/16) StoP is above I-JEPA by 2.3 points; with all (ViT-B/16) by 0.2.",
    arms: |size| Ok(vec![Arm::new(BASE, size.ijepa()?), Arm::new("StoP", size.stop(0.25)?)]),
    metrics: |size| {
        let tuned = SHARES.map(|labels| Tuned { data: size.labels.clone(), images: size.probe_images, labels });
        tuned.into_iter().map(|tuned| Arc::new(tuned) as Arc<dyn Metric>).collect()
    },
    conclude,
};

const BASE: &str = "I-JEPA";
const SHARES: [f64; 3] = [0.01, 0.1, 1.0];

fn conclude(found: &Found) -> Result<Conclusion> {
    let names = SHARES.map(name);
    let heading = |share: f64| format!("{} % of the labels, %", 100.0 * share);
    let headings = SHARES.map(heading);
    let mut columns = Vec::new();
    for (metric, heading) in names.iter().zip(&headings) {
        columns.push(Column::Of { heading, metric, decimals: 1 });
        columns.push(Column::Against { arm: BASE, metric, decimals: 1 });
        columns.push(Column::Paper {
            heading: "paper",
            figures: match &metric[..] {
                "tuned on 1 %" => &[(BASE, "69.4"), ("StoP", "71.7")],
                "tuned on 100 %" => &[(BASE, "82.9"), ("StoP", "83.1")],
                _ => &[],
            },
        });
    }
    let verdicts: Vec<String> =
        names.iter().map(|name| found.verdict(&["StoP", UNTRAINED], BASE, (name, name))).collect();
    let mut table = found.table(&columns);
    // An encoder before its first step, trained with labels alone, is one from scratch.
    table.rows.iter_mut().filter(|row| row.label == UNTRAINED).for_each(|row| row.label = "from scratch".into());
    table.rows.retain(|row| row.label != super::PIXELS);
    let statement = super::found::sentence(&verdicts.join("; ").replace(UNTRAINED, "from scratch"));
    Ok(Conclusion { table, statement, figures: vec![] })
}

/// What the accuracy with this share of the labels is called.
fn name(share: f64) -> String {
    format!("tuned on {} %", 100.0 * share)
}

/// The accuracy after [fine-tuning](crate::train::fine_tuning) on some of the labels, by its recipe, in per cent. The run is kept
/// in the folder of the model, and goes on from there.
#[derive(Clone, Debug, PartialEq)]
struct Tuned {
    /// The images, as [`crate::data::open`] reads it.
    data: String,
    /// At most so many training and test images.
    images: [usize; 2],
    /// The share of the labels.
    labels: f64,
}

impl Tuned {
    fn splits(&self, images: &Images) -> Result<Splits> {
        let splits = images.open(&self.data)?;
        let [train, test] = self.images;
        let mut some = splits.clone().with_train(Arc::new(Subset::even(splits.train, train)));
        some.test = Arc::new(Subset::even(splits.test, test));
        Ok(some)
    }

    fn config(&self, encoder: &EncoderConfig, subject: &Subject, splits: &Splits) -> RunConfig {
        let tuning = FineTuning { labels: self.labels, ..FineTuning::new(splits.train.class_names()) };
        let recipe = RunConfig::for_fine_tuning(encoder, tuning, splits.train.len());
        let RunConfig { seed, normalization, .. } = subject.config.clone();
        // A crop changes how many shapes there are, and how far the nearest is; it leaves classes as they are.
        let whole = ["shapes:count", "shapes:distance"].contains(&&self.data[..]);
        let scale = if whole { (1.0, 1.0) } else { recipe.augment.scale };
        let augment = Augment { scale, ..recipe.augment };
        RunConfig { seed, normalization, augment, data: String::new(), ..recipe } // wherever the images lie
    }
}

impl Metric for Tuned {
    fn name(&self) -> &str {
        "tuned"
    }

    fn configuration(&self, images: &Images) -> Result<serde_json::Value> {
        let splits = self.splits(images)?;
        let identity = [splits.train.identity(), splits.test.identity()];
        Ok(serde_json::json!({ "tuned": 2, "labels": self.labels, "images": identity }))
    }

    fn fits(&self, subject: &Subject) -> bool {
        subject.kind != Kind::Pixels
    }

    fn check(&self, images: &Images) -> Result<()> {
        let splits = self.splits(images)?;
        FineTuning { labels: self.labels, ..FineTuning::new(splits.train.class_names()) }.choose(&splits, 0).map(|_| ())
    }

    fn cost(&self, images: &Images) -> usize {
        // A step of it is some half of one of pretraining.
        let images = images.open(&self.data).map_or(0, |splits| splits.train.len().min(self.images[0]));
        let images = (images as f64 * self.labels).max(1.0);
        (0.5 * RunConfig::fine_tuning_epochs(self.labels) * images / 64.0) as usize
    }

    fn measure(&self, specimen: &Specimen, cancel: CancelCheck) -> Result<Values> {
        let Some((method, params)) = &specimen.model else { return Ok(Values::new()) };
        let splits = self.splits(specimen.images)?;
        let config = self.config(method.encoder().config(), specimen.subject, &splits);
        // A run of other labels, or by another recipe, is another one, in another folder.
        let whole = serde_json::json!([self.configuration(specimen.images)?, &config]);
        let folder = specimen.folder.file(&cache::name_of("tuned", &whole));
        let Some(folder) = RunFolder::claim(&folder)? else {
            let hint = "wait until it has ended, and run this again";
            return Err(Error::file(folder, "another process is at work on it", hint));
        };
        let begin = || trainer(Some((method.encoder(), params.evaluated())), &config);
        let chosen = config.fine_tuning.as_ref().map_or(Ok(splits.clone()), |of| of.choose(&splits, config.seed))?;
        let observe = &mut |_: &_| if cancel().is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
        let tuned = cache::train((&config, &chosen, specimen.device), &folder, 1, begin, &|_| {}, observe)?;
        let normalization = specimen.normalization()?;
        let model = (&*tuned.method, &tuned.params);
        let accuracy = test_accuracy(model, (&*splits.test, &normalization), &|_| cancel())?;
        Ok([(name(self.labels), 100.0 * accuracy)].into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DType;
    use crate::train::small;

    /// A crop may cut off what is to be counted.
    #[test]
    fn what_is_counted_is_seen_whole() {
        let trainer = small::trainer(small::stop(), false, DType::F32);
        let subject = Subject { kind: Kind::Trained, config: small::run(&trainer) };
        let scale = |data: &str| {
            let tuned = Tuned { data: data.into(), images: [100, 100], labels: 1.0 };
            let splits = tuned.splits(&Images::new(16)).unwrap();
            tuned.config(trainer.method.encoder().config(), &subject, &splits).augment.scale
        };
        let all = ["shapes", "shapes:count", "shapes:distance"].map(scale);
        assert_eq!(all, [Augment::STOP.scale, (1.0, 1.0), (1.0, 1.0)]);
    }
}
