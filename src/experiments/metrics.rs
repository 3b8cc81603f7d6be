//! What is measured of a model. A metric is a name, all that decides what it finds, and the measuring.

use std::sync::Arc;

use rand::seq::SliceRandom;

use super::cache::{Images, Kind, Specimen, Subject, Values};
use super::statistics::rank_correlation;
use crate::data::{Dataset, Subset};
use crate::eval::{self, CancelCheck, ProbeConfig, cosines, linear_probe};
use crate::methods::{Method, ModelParams};
use crate::paper::cosine_shrinkage;
use crate::rng::{Purpose, stream};
use crate::tensor::{Indices, Tensor};
use crate::train::Trainer;
use crate::train::predictions::{Predicted, predictions};
use crate::{Error, Result};

/// Something that can be measured of a [`Specimen`].
pub trait Metric: Send + Sync {
    /// A short name, for files.
    fn name(&self) -> &str;

    /// All that decides what it finds, the images that it looks at included ([`Dataset::identity`]): with another configuration it
    /// is another metric. A metric that comes to compute something else changes a number in it.
    ///
    /// # Errors
    /// When its images cannot be opened.
    fn configuration(&self, images: &Images) -> Result<serde_json::Value>;

    /// Whether it can be measured of this.
    fn fits(&self, subject: &Subject) -> bool {
        let _ = subject;
        true
    }

    /// That there is what it needs: to be known before hours of training.
    ///
    /// # Errors
    /// When there is not.
    fn check(&self, images: &Images) -> Result<()> {
        let _ = images;
        Ok(())
    }

    /// About how long it takes, in steps of training.
    fn cost(&self, images: &Images) -> usize {
        let _ = images;
        20
    }

    /// Measures: numbers by their names, accuracies in per cent.
    ///
    /// # Errors
    /// When an image cannot be read, or `cancel` says so.
    fn measure(&self, specimen: &Specimen, cancel: CancelCheck) -> Result<Values>;
}

/// The linear probe of the paper's Table 1: on the average token of the last block with all labels and with 1 % of them, and on
/// those of the last four blocks side by side. Of pixels, on the pixels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// What stands before the names of what it finds.
    pub name: String,
    /// The images, as [`crate::data::open`] reads it.
    pub labels: String,
    /// At most so many training and test images, as many of each class as can be.
    pub images: [usize; 2],
}

impl Probe {
    /// The name of the accuracy on the last block, with all labels.
    pub const LAST: &str = "probe, last";
    /// On the last four.
    pub const LAST_FOUR: &str = "probe, last 4";
    /// On the last block, with 1 % of the labels.
    pub const ONE_PERCENT: &str = "probe, last, 1 %";
    /// Draws of 1 % of the labels, whose accuracies are averaged.
    const DRAWS: u64 = 5;
    /// λ for 1 % of the labels: too few to choose it on a tenth of them.
    const LAMBDA: f64 = 1e-2;

    fn chosen(&self, images: &Images) -> Result<[(Subset, Vec<u32>); 2]> {
        let splits = images.open(&self.labels)?;
        let choose = |all: Arc<dyn Dataset>, n| {
            let some = Subset::even(all, n);
            let labels = eval::labels(&some).filter(|labels| !labels.is_empty()).ok_or_else(|| {
                let hint = "give images with classes, as cifar10:DIR or folder:DIR with a folder for each class";
                Error::config(format!("a probe needs labels, and there are none in {}", some.describe()), hint)
            })?;
            Ok::<_, Error>((some, labels))
        };
        Ok([choose(splits.train, self.images[0])?, choose(splits.test, self.images[1])?])
    }
}

impl Metric for Probe {
    fn name(&self) -> &str {
        "probe"
    }

    fn configuration(&self, images: &Images) -> Result<serde_json::Value> {
        let Probe { name, labels, images: counts } = self;
        let splits = images.open(labels)?;
        // Where the files lie is no part of it.
        let identity = [splits.train.identity(), splits.test.identity()];
        Ok(serde_json::json!({ "probe": 1, "name": name, "labels": identity, "images": counts, "draws": Self::DRAWS,
            "lambdas": ProbeConfig::default().lambdas, "of 1 %": Self::LAMBDA }))
    }

    fn check(&self, images: &Images) -> Result<()> {
        self.chosen(images).map(|_| ())
    }

    fn measure(&self, specimen: &Specimen, cancel: CancelCheck) -> Result<Values> {
        let [(train, train_labels), (test, test_labels)] = self.chosen(specimen.images)?;
        let classes = train.class_names().len();
        let normalization = specimen.normalization()?;
        let features = |some: Subset| match &specimen.model {
            Some((method, params)) => {
                let (encoder, k) = (method.encoder(), method.encoder().config().depth.min(4));
                eval::pooled_features(encoder, params.evaluated(), (&some, &normalization), k, &|_| cancel())
            }
            None => {
                let some: Arc<dyn Dataset> = Arc::new(some);
                Ok(vec![eval::pixel_features(&some, &normalization, &|_| cancel())?])
            }
        };
        let (train, test) = (features(train)?, features(test)?);
        let all = ProbeConfig::default();
        let top1 = |train: (&Tensor, &[u32]), test: &Tensor, config: &ProbeConfig| {
            linear_probe(train, (test, &test_labels), classes, config, cancel).map(|found| 100.0 * found.test_top1)
        };
        let last = train.len() - 1;
        let mut found = Values::new();
        found.insert(format!("{}, last", self.name), top1((&train[last], &train_labels), &test[last], &all)?);
        if last > 0 {
            let [train, test] = [&train, &test].map(|blocks| Tensor::concat(&blocks.iter().collect::<Vec<_>>(), 1));
            found.insert(format!("{}, last 4", self.name), top1((&train, &train_labels), &test, &all)?);
        }
        let few = ProbeConfig { lambdas: vec![Self::LAMBDA], ..ProbeConfig::default() };
        let mut sum = 0.0;
        for draw in 0..Self::DRAWS {
            // The same images for every arm of a seed.
            let rows = one_percent(&train_labels, classes, [specimen.subject.config.seed, draw]);
            let labels: Vec<u32> = rows.iter().map(|&row| train_labels[row as usize]).collect();
            sum += top1((&select(&train[last], &rows), &labels), &test[last], &few)?;
        }
        found.insert(format!("{}, last, 1 %", self.name), sum / Self::DRAWS as f64);
        Ok(found)
    }

    fn cost(&self, images: &Images) -> usize {
        let all = images.open(&self.labels).map_or([0, 0], |splits| [splits.train.len(), splits.test.len()]);
        (self.images[0].min(all[0]) + self.images[1].min(all[1])) / 64
    }
}

/// One image in a hundred of every class, and at least one.
fn one_percent(labels: &[u32], classes: usize, key: [u64; 2]) -> Vec<u32> {
    let mut rng = stream(key[0], Purpose::Subset, [1, key[1]]);
    let mut chosen = Vec::new();
    for class in 0..classes as u32 {
        let mut of_class: Vec<u32> = (0..labels.len() as u32).filter(|&row| labels[row as usize] == class).collect();
        of_class.shuffle(&mut rng);
        of_class.truncate(of_class.len().div_ceil(100));
        chosen.extend(of_class);
    }
    chosen
}

/// These rows of `x`, \[N, D\].
fn select(x: &Tensor, rows: &[u32]) -> Tensor {
    let [all, dim] = x.dims("select");
    let chosen = Indices::new(1, rows.len(), rows.to_vec());
    crate::autograd::ops::gather_tokens(&x.reshape([1, all, dim]).into(), &chosen).value().reshape([rows.len(), dim])
}

/// Columns of a run's log: the last number of each, under its name, and with `over_training` every one, as `name @ step`.
/// docs/diagnostics.md says what they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FromLog {
    /// The columns. One that a log does not have is left out.
    pub columns: Vec<&'static str>,
    /// Whether all of a column is wanted, where it is one of the diagnostics.
    pub over_training: bool,
}

impl Metric for FromLog {
    fn name(&self) -> &str {
        "log"
    }

    fn configuration(&self, _: &Images) -> Result<serde_json::Value> {
        Ok(serde_json::json!({ "log": 1, "columns": self.columns, "over training": self.over_training }))
    }

    fn fits(&self, subject: &Subject) -> bool {
        subject.kind == Kind::Trained
    }

    fn measure(&self, specimen: &Specimen, _: CancelCheck) -> Result<Values> {
        let log = specimen.folder.log()?;
        // The steps that have diagnostics: all runs have this one.
        let diagnosed: Vec<f64> = log.series("rank_me").into_iter().map(|(step, _)| step).collect();
        if diagnosed.last() != Some(&(specimen.subject.config.steps as f64)) {
            let hint = "remove the folder that it lies in: the run is made again, with its log";
            return Err(Error::file(specimen.folder.file("log.csv"), "not the log of the whole run", hint));
        }
        let mut found = Values::new();
        for column in &self.columns {
            let series = log.series(column);
            found.extend(series.last().map(|(_, last)| ((*column).to_owned(), *last)));
            if self.over_training {
                let points = series.iter().filter(|(step, _)| diagnosed.contains(step));
                found.extend(points.map(|(step, value)| (format!("{column} @ {step}"), *value)));
            }
        }
        Ok(found)
    }

    fn cost(&self, _: &Images) -> usize {
        0
    }
}

/// Fig. 6 as a number: the rank correlation, over the tokens of an image, of how much they resemble a predicted token with how
/// far they are from its place. −1: the nearer, the more alike; 0: the place says nothing.
///
/// | value | of the prediction from |
/// |---|---|
/// | `predicted` | ψ_j itself |
/// | `drawn` | one draw ψ̂_j; where there is noise |
/// | `target` | nothing: of the true features at that place, which a perfect prediction equals |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Locality {
    /// Held-out images; of each, two predicted tokens.
    pub images: usize,
}

impl Metric for Locality {
    fn name(&self) -> &str {
        "locality"
    }

    fn configuration(&self, _: &Images) -> Result<serde_json::Value> {
        Ok(serde_json::json!({ "locality": 1, "images": self.images }))
    }

    fn fits(&self, subject: &Subject) -> bool {
        subject.kind != Kind::Pixels && !subject.config.model.method.class_token()
    }

    fn measure(&self, specimen: &Specimen, cancel: CancelCheck) -> Result<Values> {
        cancel()?;
        let mut sums = Values::new();
        let mut queries = 0;
        for prediction in predicted(specimen, self.images)? {
            let Predicted::Features(maps) = prediction.predicted else { continue };
            for maps in maps {
                queries += 1;
                for (name, map) in [
                    ("predicted", Some(&maps.predicted)),
                    ("drawn", maps.drawn.as_ref()),
                    ("target", Some(&maps.target)),
                ] {
                    let Some(map) = map else { continue };
                    *sums.entry(name.to_owned()).or_default() += locality(map, maps.query as usize);
                }
            }
        }
        sums.values_mut().for_each(|sum| *sum /= f64::from(queries));
        Ok(sums)
    }
}

/// The rank correlation of a map over a square grid with the distance from `query`, which is itself left out.
fn locality(map: &[f64], query: usize) -> f64 {
    let side = (map.len() as f64).sqrt() as usize;
    let others: Vec<usize> = (0..map.len()).filter(|&token| token != query).collect();
    let place = |token: usize| [(token / side) as f64, (token % side) as f64];
    let distance = |&token: &usize| {
        let ([a, b], [c, d]) = (place(token), place(query));
        (a - c).hypot(b - d)
    };
    let of_others: Vec<f64> = others.iter().map(|&token| map[token]).collect();
    rank_correlation(&of_others, &others.iter().map(distance).collect::<Vec<_>>())
}

/// What a model predicts of an even choice of `n` held-out images, the same for all models.
pub(super) fn predicted(specimen: &Specimen, n: usize) -> Result<Vec<crate::train::predictions::Prediction>> {
    let config = &specimen.subject.config;
    let images = Subset::even(specimen.images.open(&config.data)?.test, n).unlabeled();
    let Some((method, params)) = &specimen.model else { return Ok(Vec::new()) };
    let Some(method) = method.as_masked_prediction() else { return Ok(Vec::new()) };
    predictions((method, params), &config.masking, (&images, &specimen.normalization()?), 0)
}

/// Fig. 5 as numbers: cosines of a query position with all positions of the grid, averaged over the queries. Of ψ itself
/// (`exact`), of one draw ψ̂ (`draw`), of the mean over draws (`mean`), and of what that mean tends to
/// ([`cosine_shrinkage`], `expected`):
///
/// | value | |
/// |---|---|
/// | `… peak` | the cosine at the query's own place |
/// | `… width` | the share of positions whose cosine is above the middle between the least and the greatest |
/// | `… order` | the rank correlation with the map of ψ itself |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PositionMaps {
    /// Draws that are averaged.
    pub draws: usize,
}

impl PositionMaps {
    /// The maps of some queries, \[4\] × K values each: of ψ itself, of one draw, the mean over draws, the expectation.
    pub(super) fn maps(&self, model: &(Arc<dyn Method>, ModelParams), queries: &[usize]) -> Vec<[Vec<f64>; 4]> {
        let trainer = Trainer::new(model.0.clone(), model.1.clone());
        let Some(positions) = trainer.positions() else { return Vec::new() };
        let [_, k, d_p] = positions.psi.dims("position maps: psi");
        let psi = positions.psi.value().to_f64_vec();
        let row = |all: &[f64], j: usize| all[j * d_p..(j + 1) * d_p].to_vec();
        let mut first = Vec::new();
        let mut means = vec![vec![0.0; k]; queries.len()];
        let mut rng = stream(0, Purpose::Eval, [3, 0]);
        for draw in 0..self.draws {
            let drawn = positions.sample(&mut rng).value().to_f64_vec();
            for (&j, mean) in queries.iter().zip(&mut means) {
                let map = cosines(&row(&drawn, j), &psi);
                mean.iter_mut().zip(&map).for_each(|(mean, cosine)| *mean += cosine / self.draws as f64);
                first.extend((draw == 0).then_some(map));
            }
        }
        let maps = queries.iter().zip(first).zip(means).map(|((&j, draw), mean)| {
            let query = row(&psi, j);
            let length = query.iter().map(|v| v * v).sum::<f64>().sqrt();
            let shrinkage = cosine_shrinkage(length, positions.a.value(), positions.sigma);
            let exact = cosines(&query, &psi);
            let expected = exact.iter().map(|cosine| cosine * shrinkage).collect();
            [exact, draw, mean, expected]
        });
        maps.collect()
    }

    /// What the four maps are called.
    pub const NAMES: [&str; 4] = ["exact", "draw", "mean", "expected"];
}

impl Metric for PositionMaps {
    fn name(&self) -> &str {
        "positions"
    }

    fn configuration(&self, _: &Images) -> Result<serde_json::Value> {
        Ok(serde_json::json!({ "position maps": 1, "draws": self.draws }))
    }

    fn fits(&self, subject: &Subject) -> bool {
        subject.kind != Kind::Pixels
    }

    fn measure(&self, specimen: &Specimen, cancel: CancelCheck) -> Result<Values> {
        cancel()?;
        let Some(model) = &specimen.model else { return Ok(Values::new()) };
        let queries: Vec<usize> = (0..model.0.encoder().config().patches()).collect();
        let all = self.maps(model, &queries);
        let mut found = Values::new();
        for (maps, &query) in all.iter().zip(&queries) {
            for (name, map) in Self::NAMES.iter().zip(maps) {
                let values =
                    [("peak", map[query]), ("width", 100.0 * width(map)), ("order", rank_correlation(map, &maps[0]))];
                for (what, value) in values {
                    *found.entry(format!("{name} {what}")).or_default() += value / queries.len() as f64;
                }
            }
        }
        Ok(found)
    }
}

/// The share of values above the middle between the least and the greatest.
fn width(map: &[f64]) -> f64 {
    let (least, most) = map.iter().fold((f64::INFINITY, -1.0f64), |(l, m), v| (l.min(*v), m.max(*v)));
    let above = map.iter().filter(|v| **v > 0.5 * (least + most)).count();
    above as f64 / map.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runs::RunFolder;
    use crate::tensor::{DType, Device};
    use crate::train::{RunConfig, small};

    /// What a metric finds of a subject, in whose folder there may be a log.
    fn found(
        metric: &dyn Metric,
        subject: &Subject,
        model: Option<(Arc<dyn Method>, ModelParams)>,
        log: Option<&str>,
    ) -> Values {
        let (scratch, images) = (tempfile::tempdir().unwrap(), Images::new(16));
        log.into_iter().for_each(|log| std::fs::write(scratch.path().join("log.csv"), log).unwrap());
        let folder = RunFolder::claim(scratch.path()).unwrap().unwrap();
        let specimen = Specimen { device: Device::Cpu, subject, model, folder: &folder, images: &images };
        metric.measure(&specimen, &|| Ok(())).unwrap()
    }

    #[test]
    fn a_width_is_the_share_above_the_middle() {
        assert_eq!(width(&[1.0, 0.65, 0.5, 0.4]), 0.25); // the middle is 0.7
    }

    /// The few labels are others in each seed; all labels are the same.
    #[test]
    fn the_few_labels_of_a_probe_are_drawn_by_seed() {
        let probe = Probe { name: "probe".into(), labels: "shapes".into(), images: [300, 300] };
        let of = |seed| {
            let run = small::run(&small::trainer(small::stop(), false, DType::F32));
            found(&probe, &Subject { kind: Kind::Pixels, config: RunConfig { seed, ..run } }, None, None)
        };
        let [a, b] = [0, 1].map(of);
        assert_eq!(a[Probe::LAST], b[Probe::LAST]);
        assert_ne!(a[Probe::ONE_PERCENT], b[Probe::ONE_PERCENT]);
    }

    /// The last number of a column stands for it.
    #[test]
    fn a_column_is_its_last_number_and_all_where_there_are_diagnostics() {
        let header = "step,epoch,loss,lr,weight_decay,ema_momentum,images_per_second,norm_a,rank_me";
        let log = format!("{header}\n1,0,1,0,0,0,1,3,\n2,0,1,0,0,0,1,4,7\n3,0,1,0,0,0,1,5,\n4,0,1,0,0,0,1,6,8\n");
        let run = small::run(&small::trainer(small::stop(), false, DType::F32));
        let subject = Subject { kind: Kind::Trained, config: RunConfig { steps: 4, ..run } };
        let metric = FromLog { columns: vec!["norm_a", "not there"], over_training: true };
        let found = found(&metric, &subject, None, Some(&log));
        let expected = [("norm_a", 6.0), ("norm_a @ 2", 4.0), ("norm_a @ 4", 6.0)];
        assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value)).into());
    }

    #[test]
    fn maps_are_ordered_as_that_of_the_position_itself() {
        let trainer = small::trainer(small::stop(), false, DType::F32);
        let subject = Subject { kind: Kind::Untrained, config: small::run(&trainer) };
        let model = Some((trainer.method, trainer.params));
        let found = found(&PositionMaps { draws: 3 }, &subject, model, None);
        for name in ["exact", "expected"] {
            // Equal cosines are no longer equal, multiplied.
            assert!((found[&format!("{name} order")] - 1.0).abs() < 1e-3, "{found:?}");
        }
        assert!((found["exact peak"] - 1.0).abs() < 1e-12 && found["draw order"] < 1.0, "{found:?}");
    }

    /// What is expected of the mean over draws is what it tends to.
    #[test]
    fn the_expected_map_is_the_mean_of_many_draws() {
        let Trainer { method, params, .. } = small::trainer(small::stop(), false, DType::F32);
        let maps = PositionMaps { draws: 4000 }.maps(&(method, params), &[0, 5]);
        for [exact, _, mean, expected] in maps {
            let apart = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(apart(&mean, &expected) < 0.25 * apart(&mean, &exact));
        }
    }

    #[test]
    fn one_image_in_a_hundred_of_each_class() {
        let labels: Vec<u32> = (0..2000).map(|i| u32::from(i % 10 > 0)).collect(); // 200 and 1800
        let rows = one_percent(&labels, 2, [3, 0]);
        let of = |class| rows.iter().filter(|&&row| labels[row as usize] == class).count();
        assert_eq!((of(0), of(1)), (2, 18));
        assert_eq!(rows, one_percent(&labels, 2, [3, 0]));
        assert!(rows != one_percent(&labels, 2, [3, 1]) && rows != one_percent(&labels, 2, [4, 0]));
        assert_eq!(one_percent(&[0, 1, 0, 1], 2, [0, 0]).len(), 2, "one of each at least");
    }

    #[test]
    fn a_map_that_falls_with_distance_has_locality_minus_one() {
        // 3 × 3 around the middle: four neighbors at 1, four corners at √2; the query's own value does not count.
        let near = [0.1, 0.5, 0.1, 0.5, -9.0, 0.5, 0.1, 0.5, 0.1];
        assert!((locality(&near, 4) + 1.0).abs() < 1e-15);
        assert!((locality(&near.map(|v| -v), 4) - 1.0).abs() < 1e-15);
        assert_eq!(locality(&[0.5; 9], 4), 0.0);
    }
}
