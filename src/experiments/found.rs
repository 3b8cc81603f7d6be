//! What was measured, and what may be said about it.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cache::{Cache, Images, Specimen, Subject, Values};
use super::figure::{Figure, Point};
use super::outcome::{Cell, Mean, Row, Table};
use super::size::Size;
use super::statistics::Estimate;
use crate::methods::{Method, ModelParams};
use crate::runs::RunFolder;
use crate::{Error, Result};

/// How long another process may measure something before that is an error here.
const PATIENCE: Duration = Duration::from_secs(300);

/// What an experiment comes to.
#[derive(Clone, Debug)]
pub struct Conclusion {
    /// Its numbers.
    pub table: Table,
    /// One sentence.
    pub statement: String,
    /// Its pictures.
    pub figures: Vec<Figure>,
}

/// A column of a table, but that of labels.
#[derive(Clone, Copy, Debug)]
pub enum Column<'a> {
    /// A metric's mean over seeds.
    Of {
        /// The heading.
        heading: &'a str,
        /// The metric.
        metric: &'a str,
        /// Digits behind the point.
        decimals: usize,
    },
    /// Its mean paired difference from an arm.
    Against {
        /// That arm.
        arm: &'a str,
        /// The metric.
        metric: &'a str,
        /// Digits behind the point.
        decimals: usize,
    },
    /// What the paper has, by arm.
    Paper {
        /// The heading.
        heading: &'a str,
        /// By the label of the arm, as printed there.
        figures: &'a [(&'a str, &'a str)],
    },
}

/// The label of the arm that is no arm: the encoder of the first arm before its first step.
pub const UNTRAINED: &str = "untrained encoder";
/// And no encoder at all.
pub const PIXELS: &str = "raw pixels";

/// What was measured of each arm and seed.
pub struct Found<'a> {
    /// The size of the experiment.
    pub size: &'a Size,
    /// All arms, the baselines at the end.
    pub(super) labels: Vec<String>,
    pub(super) subjects: BTreeMap<(String, u64), Subject>,
    pub(super) values: BTreeMap<(String, u64), Values>,
    pub(super) cache: &'a Cache,
    pub(super) images: &'a Images,
}

impl Found<'_> {
    /// The labels of all arms, the baselines last.
    pub fn arms(&self) -> impl Iterator<Item = &str> {
        self.labels.iter().map(String::as_str)
    }

    /// A metric of an arm, seed by seed; of pixels, which have no seed, once.
    pub fn by_seed(&self, arm: &str, metric: &str) -> Vec<(u64, f64)> {
        let seeds = 0..self.size.seeds as u64;
        seeds.filter_map(|seed| Some((seed, *self.values.get(&(arm.to_owned(), seed))?.get(metric)?))).collect()
    }

    /// The mean of a metric over the seeds of an arm; `None` where it is not measured.
    pub fn mean(&self, arm: &str, metric: &str) -> Option<Estimate> {
        let values: Vec<f64> = self.by_seed(arm, metric).into_iter().map(|(_, value)| value).collect();
        Estimate::of(&values)
    }

    /// The mean paired difference of two arms: seed by seed, `arm` less `base`.
    pub fn difference(&self, arm: &str, base: &str, metric: &str) -> Option<Estimate> {
        // What has no seed is the same in all of them.
        let of = |arm: &str| -> BTreeMap<u64, f64> {
            let found = self.by_seed(arm, metric);
            match found[..] {
                [(_, value)] if arm == PIXELS => (0..self.size.seeds as u64).map(|seed| (seed, value)).collect(),
                _ => found.into_iter().collect(),
            }
        };
        let (arm, base) = (of(arm), of(base));
        let differences: Vec<f64> =
            arm.into_iter().filter_map(|(seed, value)| Some(value - base.get(&seed)?)).collect();
        Estimate::of(&differences)
    }

    /// A metric that was followed over training, as [`FromLog`](super::metrics::FromLog) does: its mean over seeds by step.
    pub fn over_training(&self, arm: &str, column: &str) -> Vec<Point> {
        let prefix = format!("{column} @ ");
        let mut by_step: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
        for values in self.values.iter().filter(|((label, _), _)| label == arm).map(|(_, values)| values) {
            for (name, value) in values {
                let step = name.strip_prefix(&prefix).and_then(|step| step.parse().ok());
                by_step.entry(step.unwrap_or(0)).or_default().extend(step.map(|_| *value));
            }
        }
        let point = |(step, values): (usize, Vec<f64>)| {
            let Estimate { mean, half_width, .. } = Estimate::of(&values)?;
            Some(Point { x: step as f64, y: mean, half_width })
        };
        by_step.into_iter().filter_map(point).collect()
    }

    /// A metric over arms that stand at some x: a point for each arm that has it.
    pub fn points(&self, arms: &[(&str, f64)], metric: &str) -> Vec<Point> {
        let point = |&(arm, x): &(&str, f64)| {
            let Estimate { mean, half_width, .. } = self.mean(arm, metric)?;
            Some(Point { x, y: mean, half_width })
        };
        arms.iter().filter_map(point).collect()
    }

    /// A row for each arm, with these columns. Where something was not measured there is a dash.
    pub fn table(&self, columns: &[Column]) -> Table {
        let cell = |estimate: Option<Estimate>, decimals| match estimate {
            Some(Estimate { mean, half_width, n }) if mean.is_finite() => {
                let half_width = half_width.filter(|half| half.is_finite());
                Cell::Mean(Mean { mean, half_width, n, decimals })
            }
            Some(Estimate { mean, .. }) if mean == f64::INFINITY => Cell::Text("∞".into()),
            _ => Cell::Text("–".into()),
        };
        let of = |arm: &str, column: &Column| match *column {
            Column::Of { metric, decimals, .. } => cell(self.mean(arm, metric), decimals),
            Column::Against { arm: base, .. } if arm == base => Cell::Text("–".into()),
            Column::Against { arm: base, metric, decimals } => cell(self.difference(arm, base, metric), decimals),
            Column::Paper { figures, .. } => {
                let printed = figures.iter().find(|(label, _)| *label == arm).map_or("–", |(_, printed)| printed);
                Cell::Text(printed.into())
            }
        };
        let heading = |column: &Column| match *column {
            Column::Of { heading, .. } | Column::Paper { heading, .. } => heading.to_owned(),
            Column::Against { arm, .. } => format!("less {arm}"),
        };
        Table {
            columns: ["".to_owned()].into_iter().chain(columns.iter().map(heading)).collect(),
            rows: self
                .arms()
                .map(|arm| Row { label: arm.to_owned(), cells: columns.iter().map(|column| of(arm, column)).collect() })
                .collect(),
        }
    }

    /// What a comparison of `arms` with `base` shows, as the words of a sentence without its end: first those of which nothing
    /// can be said, then those that differ by more than their intervals. `what` the metric is, and its unit.
    pub fn verdict(&self, arms: &[&str], base: &str, (metric, what): (&str, &str)) -> String {
        let mut unclear = Vec::new();
        let mut clear = Vec::new();
        let mut seeds = 0;
        for &arm in arms {
            let Some(found) = self.difference(arm, base, metric) else { continue };
            seeds = seeds.max(found.n);
            let words = format!("{arm} ({})", signed(found));
            if found.excludes_zero() { clear.push(words) } else { unclear.push(words) }
        }
        let list = |words: &[String]| words.join(", ");
        let mut parts = Vec::new();
        if seeds == 1 {
            unclear.append(&mut clear);
            parts.push(format!("one seed cannot tell {} from {base} in {what}", list(&unclear)));
        } else {
            if !unclear.is_empty() {
                parts.push(format!("no difference from {base} in {what} beyond the 95 % interval: {}", list(&unclear)));
            }
            if !clear.is_empty() {
                let beyond = if unclear.is_empty() { "beyond the 95 % interval" } else { "beyond it" };
                let of = if unclear.is_empty() { format!(" in {what}") } else { String::new() };
                parts.push(format!("{beyond} differ from {base}{of}: {}", list(&clear)));
            }
        }
        if parts.is_empty() { format!("nothing was measured that compares with {base}") } else { parts.join("; ") }
    }

    /// [`verdict`](Self::verdict) as a sentence, with what `base` itself is worth against its untrained encoder: if that is
    /// nothing, comparisons say little.
    pub fn statement(&self, arms: &[&str], base: &str, metric: (&str, &str)) -> String {
        let verdict = self.verdict(arms, base, metric);
        let against = self.difference(base, UNTRAINED, metric.0);
        let against = against
            .map_or(String::new(), |found| format!(" ({base} against its untrained encoder: {})", signed(found)));
        sentence(&(verdict + &against))
    }

    /// A model that was measured. One that is damaged or gone is trained again.
    ///
    /// # Errors
    /// When it cannot be read or trained.
    pub fn model(&self, arm: &str, seed: u64) -> Result<(Arc<dyn Method>, ModelParams)> {
        let subject = self.subject(arm, seed)?;
        if let Ok(model) = self.cache.load(subject, self.images) {
            return Ok(model);
        }
        self.again(subject, &self.claimed(subject)?)
    }

    fn again(&self, subject: &Subject, folder: &RunFolder) -> Result<(Arc<dyn Method>, ModelParams)> {
        let (diagnoses, go_on) = (self.size.diagnoses, &mut |_: &_| ControlFlow::Continue(()));
        let model = self.cache.model((subject, self.images), folder, diagnoses, &|_| {}, go_on)?;
        model.ok_or_else(|| Error::config("a model of raw pixels", "ask for that of an arm"))
    }

    /// The folder of what was measured, for this process alone: others have it for as long as they measure something.
    fn claimed(&self, subject: &Subject) -> Result<RunFolder> {
        let name = subject.name(self.images)?;
        let began = Instant::now();
        loop {
            if let Some(folder) = self.cache.claim(&name)? {
                return Ok(folder);
            }
            if began.elapsed() > PATIENCE {
                let hint = "wait until it has ended, and run this again";
                return Err(Error::file(self.cache.folder(&name), "another process is at work on it", hint));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// With a model that was measured, as a metric sees it.
    ///
    /// # Errors
    /// When it cannot be read, or another process is at work on it.
    pub fn with<R>(&self, arm: &str, seed: u64, look: impl FnOnce(&Specimen) -> Result<R>) -> Result<R> {
        let subject = self.subject(arm, seed)?;
        let folder = self.claimed(subject)?;
        let model = Some(self.cache.load(subject, self.images).or_else(|_| self.again(subject, &folder))?);
        look(&Specimen { device: self.cache.device, subject, model, folder: &folder, images: self.images })
    }

    fn subject(&self, arm: &str, seed: u64) -> Result<&Subject> {
        self.subjects.get(&(arm.to_owned(), seed)).ok_or_else(|| {
            Error::config(format!("no arm '{arm}' with seed {seed}"), format!("there are: {}", self.labels.join(", ")))
        })
    }
}

/// A difference in words: `+1.10 ± 0.25`.
pub fn signed(difference: Estimate) -> String {
    let sign = if difference.mean < 0.0 { "−" } else { "+" };
    let half = difference.half_width.map_or(String::new(), |half| format!(" ± {half:.2}"));
    format!("{sign}{:.2}{half}", difference.mean.abs())
}

/// With a capital letter, and an end.
pub fn sentence(words: &str) -> String {
    let mut letters = words.chars();
    let first = letters.next().map_or(String::new(), |first| first.to_uppercase().collect());
    format!("{first}{}.", letters.as_str().trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two arms and the baselines, with these values of the metric `m`.
    fn with<R>(values: &[(&str, &[f64])], seeds: usize, look: impl FnOnce(&Found) -> R) -> R {
        let size = Size { seeds, ..Size::quick() };
        let (cache, images) = (Cache::new("nowhere".into()), Images::new(32));
        let labels = values.iter().map(|(label, _)| (*label).to_owned()).collect();
        let mut by_seed: BTreeMap<(String, u64), Values> = BTreeMap::new();
        for (label, values) in values {
            for (seed, value) in values.iter().enumerate() {
                by_seed.insert(((*label).to_owned(), seed as u64), [("m".to_owned(), *value)].into());
            }
        }
        look(&Found { size: &size, labels, subjects: BTreeMap::new(), values: by_seed, cache: &cache, images: &images })
    }

    /// Of values that vary much with the seed, and differences that do not: only pairs tell them apart.
    const SEEDS: [(&str, &[f64]); 5] = [
        ("base", &[10.0, 30.0, 50.0]),
        ("better", &[11.0, 31.1, 51.2]),
        ("same", &[9.0, 31.0, 50.3]),
        (UNTRAINED, &[8.0, 8.0, 8.0]),
        (PIXELS, &[7.0]),
    ];

    #[test]
    fn differences_are_of_pairs() {
        with(&SEEDS, 3, |found| {
            // 1, 1.1, 1.2: mean 1.1, deviation 0.1, t(0.975, 2) = 4.303: 4.303 · 0.1 / √3 = 0.2484.
            let Estimate { mean, half_width, n } = found.difference("better", "base", "m").unwrap();
            assert!((mean - 1.1).abs() < 1e-12 && (half_width.unwrap() - 0.2484).abs() < 1e-4 && n == 3);
            assert!(found.mean("better", "m").unwrap().half_width.unwrap() > 40.0);
            assert!(found.difference("better", "nobody", "m").is_none());
            // Of the seeds that both have.
            let mut values = found.values.clone();
            values.remove(&("better".to_owned(), 0));
            let Found { size, cache, images, .. } = *found;
            let fewer = Found { size, labels: vec![], subjects: BTreeMap::new(), values, cache, images };
            let Estimate { mean, n, .. } = fewer.difference("better", "base", "m").unwrap();
            assert!((mean - 1.15).abs() < 1e-12 && n == 2);
            // Pixels have one value, which is paired with every seed.
            assert_eq!(found.difference(PIXELS, "base", "m").unwrap().mean, 7.0 - 30.0);
        });
    }

    #[test]
    fn a_null_result_is_said_first_and_one_seed_says_nothing() {
        with(&SEEDS, 3, |found| {
            let verdict = found.verdict(&["better", "same"], "base", ("m", "points"));
            let expected = "no difference from base in points beyond the 95 % interval: same (+0.10 ± 2.52); beyond it differ \
                 from base: better (+1.10 ± 0.25)";
            assert_eq!(verdict, expected);
            let statement = found.statement(&["better"], "base", ("m", "points"));
            let expected = "Beyond the 95 % interval differ from base in points: better (+1.10 ± 0.25) (base against its untrained \
                 encoder: +22.00 ± 49.68).";
            assert_eq!(statement, expected);
        });
        let one: Vec<(&str, &[f64])> = SEEDS.iter().map(|(label, values)| (*label, &values[..1])).collect();
        with(&one, 1, |found| {
            let verdict = found.verdict(&["better"], "base", ("m", "points"));
            assert_eq!(verdict, "one seed cannot tell better (+1.00) from base in points");
            assert_eq!(
                found.verdict(&["gone"], "base", ("m", "points")),
                "nothing was measured that compares with base"
            );
        });
    }

    #[test]
    fn a_table_has_dashes_where_nothing_was_measured() {
        with(&SEEDS, 3, |found| {
            let table = found.table(&[
                Column::Of { heading: "m", metric: "m", decimals: 1 },
                Column::Against { arm: "base", metric: "m", decimals: 2 },
                Column::Paper { heading: "paper", figures: &[("better", "57.8")] },
                Column::Of { heading: "other", metric: "other", decimals: 0 },
            ]);
            let text = table.markdown();
            assert!(text.contains("|  | m | less base | paper | other |"), "{text}");
            assert!(text.contains("| better | 31.1 ± 49.9 | 1.10 ± 0.25 | 57.8 | – |"), "{text}");
            assert!(text.contains("| base | 30.0 ± 49.7 | – | – | – |"), "{text}");
        });
    }
}
