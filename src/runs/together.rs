//! A run in several processes: that all of them are about to make the same run, and how those without its folder hear
//! of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::resume::images;
use crate::data::Splits;
use crate::processes::{World, host};
use crate::rng::DRAWS;
use crate::train::checkpoint::{CheckpointPolicy, SavedRun};
use crate::train::{RunConfig, Trainer, fresh_model};
use crate::{Error, Result};

/// What the first process has read from the run's folder; weights and moments come with [`Trainer::among`].
#[derive(Serialize, Deserialize)]
struct Begun {
    config: RunConfig,
    policy: CheckpointPolicy,
    steps: u64,
}

/// Tells the other processes which run is resumed: each is in [`receive`].
///
/// # Errors
/// When another process has one.
pub fn give(world: &World, run: &SavedRun) -> Result<()> {
    let SavedRun { config, policy, trainer } = run;
    let begun = Begun { config: config.clone(), policy: policy.clone(), steps: trainer.optimizer.steps() };
    world.share(Ok(serde_json::to_vec(&begun).expect("plain data"))).map(|_| ())
}

/// The run that the first process resumes, without what it has learned so far.
///
/// # Errors
/// When another process has one.
pub fn receive(world: &World) -> Result<SavedRun> {
    let begun = world.share(Ok(Vec::new()))?.swap_remove(0);
    let unreadable = |e| Error::config(format!("what process 0 resumes cannot be read: {e}"), SAME);
    let Begun { config, policy, steps } = serde_json::from_slice(&begun).map_err(unreadable)?;
    let (method, params) = fresh_model(&config)?;
    let mut trainer = Trainer::new(method, params);
    trainer.optimizer.restore(steps);
    Ok(SavedRun { config, policy, trainer })
}

/// What to do about processes that differ.
const SAME: &str = "start the same program with the same arguments on the same images everywhere";

/// Checks that all processes are about to make the same run (the program, its configuration, its images; where these lie may
/// differ), and that they can: before anything is written.
///
/// # Errors
/// When they are not, or cannot, in all of them: it names the first difference, and where.
pub fn check_together(world: &World, run: &SavedRun, splits: &Splits) -> Result<()> {
    if world.size() == 1 {
        return Ok(());
    }
    check_alike(world, &run.config, splits)?;
    world.agree(run.trainer.can_be_shared(world.size(), run.config.batch))
}

fn check_alike(world: &World, config: &RunConfig, splits: &Splits) -> Result<()> {
    let all = world.share(facts(config, splits).map(|facts| serde_json::to_vec(&facts).expect("plain data")))?;
    let read = |bytes: &Vec<u8>| serde_json::from_slice(bytes).unwrap_or_default();
    let all: Vec<BTreeMap<String, String>> = all.iter().map(read).collect();
    difference(&all).map_or(Ok(()), |problem| Err(Error::config(problem, SAME)))
}

/// What has to be the same, by name, and the name of the machine.
fn facts(config: &RunConfig, splits: &Splits) -> Result<BTreeMap<String, String>> {
    let exe = std::env::current_exe().map_err(|e| Error::io("find", "the program", e))?;
    let bytes = std::fs::read(&exe).map_err(|e| Error::io("read", &exe, e))?;
    let program =
        format!("version {}, draws {DRAWS}, checksum {:08x}", env!("CARGO_PKG_VERSION"), crc32fast::hash(&bytes));
    let mut facts =
        BTreeMap::from([(HOST.to_owned(), host()), (PROGRAM.to_owned(), program), (IMAGES.to_owned(), images(splits))]);
    settings("", &serde_json::to_value(config).expect("plain data"), &mut facts);
    facts.remove("data");
    facts.remove("init.path"); // the weights are those of the first process
    Ok(facts)
}

const HOST: &str = " host";
const PROGRAM: &str = " the program";
const IMAGES: &str = " the images";

/// Every setting by its path.
fn settings(path: &str, value: &Value, found: &mut BTreeMap<String, String>) {
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| settings(&below(key), value, found)),
        value => _ = found.insert(path.to_owned(), value.to_string()),
    }
}

/// What a process has otherwise than the first, in words.
fn difference(all: &[BTreeMap<String, String>]) -> Option<String> {
    let (first, none) = (all.first()?, "nothing".to_owned());
    for (k, other) in all.iter().enumerate().skip(1) {
        for name in first.keys().chain(other.keys()).filter(|name| *name != HOST) {
            let [here, there] = [first, other].map(|of| of.get(name).unwrap_or(&none));
            if here != there {
                let [here_at, there_at] = [first, other].map(|of| of.get(HOST).unwrap_or(&none));
                let what =
                    if name.starts_with(' ') { name.trim_start().to_owned() } else { format!("the setting {name}") };
                return Some(format!(
                    "the processes differ in {what}: process 0, on {here_at}, has {here}, and process {k}, on {there_at}, {there}"
                ));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data;
    use crate::processes::threads;
    use crate::tensor::DType;
    use crate::train::small;

    #[test]
    fn what_differs_is_named_in_all_processes() {
        let config = small::run(&small::trainer(small::stop(), false, DType::F32));
        let splits = data::open("shapes", 16).unwrap();
        let fewer =
            Splits::new(std::sync::Arc::new(data::Subset::even(splits.train.clone(), 100)), splits.test.clone());
        let mut other = config.clone();
        other.lr.peak = 0.5;
        let elsewhere = RunConfig { data: "folder:/elsewhere".into(), ..config.clone() };
        for (config_2, splits_2, words) in [
            (&config, &splits, None),
            (&elsewhere, &splits, None),
            (&other, &splits, Some("the setting lr.peak: process 0")),
            (&config, &fewer, Some("the images: process 0")),
        ] {
            let found = threads::run(3, |world| {
                let (config, splits) = if world.rank() == 2 { (config_2, splits_2) } else { (&config, &splits) };
                check_alike(world, config, splits).map_err(|e| e.to_string())
            });
            for found in found {
                match (found, words) {
                    (Ok(()), None) => {}
                    (Err(error), Some(words)) => {
                        let all = [words, "and process 2, on ", "start the same program"];
                        all.iter().for_each(|words| assert!(error.contains(words), "no '{words}' in {error}"));
                    }
                    (found, words) => panic!("{found:?}, where {words:?} was expected"),
                }
            }
        }
    }

    #[test]
    fn another_program_is_named() {
        let facts = |program: &str| BTreeMap::from([(HOST.into(), "a".into()), (PROGRAM.into(), program.to_owned())]);
        let found = difference(&[facts("x"), facts("x"), facts("y")]).unwrap();
        assert_eq!(found, "the processes differ in the program: process 0, on a, has x, and process 2, on a, y");
        assert_eq!(difference(&[facts("x"), facts("x")]), None);
    }

    #[test]
    fn those_without_a_folder_hear_which_run_it_is() {
        let mut trainer = small::trainer(small::stop(), false, DType::F32);
        let config = small::run(&trainer);
        trainer.optimizer.restore(4);
        let policy =
            CheckpointPolicy { diagnose_every: 3, checkpoint_every: 4, keep: 5, keep_every: 0, images: "few".into() };
        let run = SavedRun { config, policy, trainer };
        let found = threads::run(3, |world| {
            if world.is_first() { give(world, &run).map(|()| run.clone()) } else { receive(world) }.unwrap()
        });
        for found in found {
            assert_eq!((&found.config, &found.policy), (&run.config, &run.policy));
            assert_eq!(found.trainer.optimizer.steps(), 4);
        }
    }
}
