//! Experiments at a size far too small to answer anything: that all can be run, that nothing is done twice, that what was
//! interrupted goes on to the same numbers, that two processes share their work, and that bad input is a clear error.
#![cfg(unix)]

mod common;
#[cfg(feature = "cuda")]
mod cuda_on_cpu;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Scratch, contains};
use stop_mim::experiments::{
    Answer, Arm, Column, Conclusion, EXPERIMENTS, Experiment, Metric, Monitor, Network, PIXELS, Probe, Runner, Silent,
    Size, UNTRAINED, find,
};
use stop_mim::report::figure::save_figure;
use stop_mim::{Error, Result};

fn tiny() -> Size {
    let network = Network { dim: 16, depth: 2, heads: 1 };
    let predictor = Network { dim: 8, depth: 1, heads: 1 };
    let (probe_images, batch) = ([200, 100], 8);
    Size {
        name: "tiny".into(),
        encoder: network,
        predictor,
        batch,
        steps: 4,
        diagnoses: 2,
        seeds: 2,
        probe_images,
        ..Size::quick()
    }
}

/// A question with two arms.
const TWO: Experiment = Experiment {
    name: "two",
    title: "Two",
    question: "?",
    reference: "none",
    paper_found: "Nothing.",
    arms: |size| Ok(vec![Arm::new("I-JEPA", size.ijepa()?), Arm::new("StoP", size.stop(0.5)?)]),
    metrics: |size| vec![std::sync::Arc::new(size.probe()) as std::sync::Arc<dyn Metric>],
    conclude: |found| {
        let table = found.table(&[Column::Of { heading: "last", metric: Probe::LAST, decimals: 1 }]);
        let statement = found.statement(&["StoP"], "I-JEPA", (Probe::LAST, "points"));
        Ok(Conclusion { table, statement, figures: vec![] })
    },
};

fn answers(experiments: Vec<&Experiment>, size: &Size, out: &Path, monitor: &dyn Monitor) -> Result<Vec<Answer>> {
    let mut answers = Vec::new();
    Runner::new(experiments, size, out).run(&|name| format!("again {name}"), monitor, &mut |answer| {
        answers.push(answer);
        Ok(())
    })?;
    Ok(answers)
}

/// `measurements.csv` of the one experiment.
fn measured(size: &Size, out: &Path, monitor: &dyn Monitor) -> Result<String> {
    Ok(answers(vec![&TWO], size, out, monitor)?.swap_remove(0).measurements)
}

/// Every file below a folder that is a measurement or a model, with when it was written.
fn kept(out: &Path) -> BTreeMap<std::path::PathBuf, std::time::SystemTime> {
    let mut found = BTreeMap::new();
    let mut folders = vec![out.join("cache")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()) {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path if path.extension().is_some_and(|e| e == "json") || path.ends_with("checkpoint.safetensors") => {
                    found.insert(path, entry.metadata().unwrap().modified().unwrap());
                }
                _ => {}
            }
        }
    }
    found
}

#[test]
fn every_experiment_answers_with_baselines_a_sentence_and_its_pictures() {
    let (scratch, size) = (Scratch::new(), tiny());
    let all: Vec<&Experiment> = EXPERIMENTS.iter().collect();
    let runner = Runner::new(vec![], &size, scratch.folder());
    for mut answer in answers(all, &size, scratch.folder(), &Silent).unwrap() {
        let name = answer.outcome.name.clone();
        let figures = answer.figures.len();
        let folder = runner.folder_of(&name);
        assert!(answer.save(&folder, &|figure, path| save_figure(figure, path)).unwrap().is_empty(), "{name}");
        assert_eq!(answer.outcome.pictures.len(), figures);
        for file in answer.outcome.pictures.iter().map(|picture| &picture.file[..]).chain(["table.md", "result.json"]) {
            assert!(std::fs::metadata(folder.join(file)).unwrap().len() > 100, "{name}: {file}");
        }
        let table = &answer.outcome.table;
        let labels: Vec<&str> = table.rows.iter().map(|row| &row.label[..]).collect();
        let scratch_or_untrained = labels.contains(&UNTRAINED) || labels.contains(&"from scratch");
        assert!(scratch_or_untrained && (labels.contains(&PIXELS) || name == "finetune"), "{name}: {labels:?}");
        assert!(table.rows.iter().all(|row| row.cells.len() + 1 == table.columns.len()), "{name}");
        let statement = &answer.outcome.statement;
        assert!(statement.ends_with('.') && !statement.contains("nothing was measured"), "{name}: {statement}");
        // Each arm has been measured in every seed, by its first column at least.
        for row in table.rows.iter().filter(|row| row.label != PIXELS && row.label != UNTRAINED) {
            assert!(row.cells.iter().any(|cell| cell.to_string() != "–"), "{name}: {}", row.label);
        }
        assert!(answer.measurements.lines().count() > table.rows.len(), "{name}");
    }
}

/// Ends the work after so many questions whether to go on; counts what was to do, and what was done.
#[derive(Default)]
struct Impatient {
    patience: AtomicUsize,
    to_do: AtomicUsize,
    done: AtomicUsize,
}

impl Monitor for Impatient {
    fn say(&self, _: &str) {}
    fn begin(&self, to_do: usize) {
        self.to_do.store(to_do, Ordering::SeqCst);
    }
    fn advance(&self, by: usize, _: &dyn Fn() -> String) {
        self.done.fetch_add(by, Ordering::SeqCst);
    }
    fn go_on(&self) -> Result<()> {
        let left = self.patience.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        left.map(|_| ()).map_err(|_| Error::Interrupted)
    }
}

#[test]
fn what_was_interrupted_goes_on_to_the_same_numbers_and_nothing_is_done_twice() {
    let (whole, parts, size) = (Scratch::new(), Scratch::new(), tiny());
    let expected = measured(&size, whole.folder(), &Silent).unwrap();
    // Of two arms, two seeds and three baselines.
    assert_eq!(kept(whole.folder()).len(), 4 + 4 + 2 + 1);
    let (mut interruptions, mut left) = (0, None);
    for patience in [3, 7, 12, 20, 30, 45, usize::MAX] {
        let monitor = Impatient { patience: patience.into(), ..Impatient::default() };
        let found = measured(&size, parts.folder(), &monitor);
        let [to_do, done] = [&monitor.to_do, &monitor.done].map(|count| count.load(Ordering::SeqCst));
        assert!(done <= to_do && left.is_none_or(|left| left == to_do), "{done} of {to_do}, {left:?} before");
        left = Some(to_do - done);
        match found {
            Ok(found) => assert_eq!((found, left), (expected.clone(), Some(0))),
            Err(error) => {
                assert!(matches!(error, Error::Interrupted), "{error}");
                interruptions += 1;
            }
        }
    }
    assert!(interruptions >= 3, "{interruptions}");
    let before = kept(parts.folder());
    assert_eq!(measured(&size, parts.folder(), &Silent).unwrap(), expected);
    assert_eq!(kept(parts.folder()), before, "nothing is done twice");
}

/// Keeps what is said.
#[derive(Default)]
struct Listener(std::sync::Mutex<Vec<String>>);

impl Monitor for Listener {
    fn say(&self, line: &str) {
        self.0.lock().unwrap().push(line.into());
    }
    fn begin(&self, _: usize) {}
    fn advance(&self, _: usize, _: &dyn Fn() -> String) {}
    fn go_on(&self) -> Result<()> {
        Ok(())
    }
}

#[test]
fn what_is_damaged_is_done_again_and_said() {
    let (scratch, size) = (Scratch::new(), tiny());
    let expected = measured(&size, scratch.folder(), &Silent).unwrap();
    let files: Vec<_> = kept(scratch.folder()).into_keys().collect();
    let measurement = files.iter().find(|path| path.extension().is_some_and(|e| e == "json")).unwrap();
    let model = files.iter().find(|path| path.ends_with("checkpoint.safetensors")).unwrap();
    let text = std::fs::read_to_string(measurement).unwrap();
    for injured in [text.replace("probe, last", "probe, first"), text[..text.len() / 2].to_owned(), String::new()] {
        std::fs::write(measurement, injured).unwrap();
        let listener = Listener::default();
        assert_eq!(measured(&size, scratch.folder(), &listener).unwrap(), expected);
        contains(&listener.0.into_inner().unwrap().join("\n"), &["damaged; it is measured anew"]);
    }
    // The model, when something is to be measured of it.
    std::fs::write(model, &std::fs::read(model).unwrap()[..1000]).unwrap();
    let of_model = model.parent().unwrap().join("measured");
    std::fs::remove_dir_all(of_model).unwrap();
    let listener = Listener::default();
    assert_eq!(measured(&size, scratch.folder(), &listener).unwrap(), expected);
    contains(&listener.0.into_inner().unwrap().join("\n"), &["made anew"]);
}

/// What is drawn or looked at after everything was measured needs the models themselves.
#[test]
fn a_model_that_is_gone_or_damaged_is_trained_again_when_it_is_looked_at() {
    let looking = Experiment {
        conclude: |found| {
            let (method, _) = found.model("StoP", 1)?;
            found.with("StoP", 1, |specimen| {
                assert!(specimen.model.is_some());
                Ok(())
            })?;
            let table = found.table(&[Column::Of { heading: "last", metric: Probe::LAST, decimals: 1 }]);
            Ok(Conclusion { table, statement: method.name().into(), figures: vec![] })
        },
        ..TWO
    };
    let (scratch, size) = (Scratch::new(), tiny());
    let look = || answers(vec![&looking], &size, scratch.folder(), &Silent).unwrap().swap_remove(0).outcome.statement;
    assert_eq!(look(), "stop");
    let models: Vec<_> =
        kept(scratch.folder()).into_keys().filter(|path| path.extension().is_none_or(|e| e != "json")).collect();
    let bytes: Vec<Vec<u8>> = models.iter().map(|model| std::fs::read(model).unwrap()).collect();
    models.iter().for_each(|model| std::fs::remove_file(model).unwrap());
    assert_eq!(look(), "stop");
    models.iter().filter(|model| model.exists()).for_each(|model| std::fs::write(model, "short").unwrap());
    assert_eq!(look(), "stop");
    let again =
        models.iter().zip(&bytes).find(|(model, _)| model.exists() && model.display().to_string().contains("stop-"));
    let (model, bytes) = again.unwrap();
    assert_eq!(&std::fs::read(model).unwrap(), bytes, "the same bits");
}

#[test]
fn numbers_do_not_depend_on_threads() {
    let on = |threads| {
        let scratch = Scratch::new();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| measured(&tiny(), scratch.folder(), &Silent)).unwrap()
    };
    let one = on(1);
    assert!(one.contains("two,tiny,StoP,1,\"probe, last\","), "{one}");
    assert_eq!(one, on(3));
}

const QUICK: &str = "experiment --quick --seeds 1 --steps 2 --out out";

#[test]
fn two_processes_share_the_work() {
    let scratch = Scratch::new();
    let both = [0, 1].map(|_| scratch.start(&format!("{QUICK} positions")));
    for process in both {
        contains(
            &common::printed(&process.output(), "positions"),
            &["untrained encoder", "Here: One seed cannot tell"],
        );
    }
    let read = |name: &str| String::from_utf8(scratch.read(format!("out/positions-quick-2/{name}"))).unwrap();
    let csv = read("measurements.csv");
    assert!(
        csv.starts_with("experiment,size,arm,seed,metric,value\npositions,quick-2,sine-cosine (I-JEPA),0,"),
        "{csv}"
    );
    contains(&read("table.md"), &["| sine-cosine (I-JEPA) |", "| raw pixels |", "| 54.4 |"]);
    let before = kept(&scratch.path("out"));
    let again = scratch.says(&format!("{QUICK} positions"));
    contains(&again, &["to train: 0 runs of 2 steps, 3 more are kept from before; to measure: 0"]);
    assert_eq!(kept(&scratch.path("out")), before);
    assert_eq!(read("measurements.csv"), csv);
    // The page and the table of a document are made of what is left.
    scratch.write("notes.md", "# Notes\n\n<!-- experiment: positions-quick-2 -->\n<!-- end -->\n");
    scratch.succeeds("report out --markdown notes.md");
    contains(
        &String::from_utf8(scratch.read("notes.md")).unwrap(),
        &["| raw pixels |", "One seed cannot tell", "--quick --seeds 1"],
    );
}

#[test]
fn the_program_lists_experiments_and_refuses_what_cannot_be_answered() {
    let scratch = Scratch::new();
    let listed = scratch.succeeds("experiment list");
    for Experiment { name, .. } in EXPERIMENTS {
        contains(&listed, &[name]);
        assert_eq!(find(name).unwrap().name, *name);
    }
    assert_eq!(find("regularisation").unwrap().name, "regularization");
    scratch.refuses("experiment linear-prob --quick", &["no experiment is called 'linear-prob'", "linear-probe"]);
    scratch.refuses("experiment sigma", &["the full size trains on images from outside", "--data"]);
    scratch.refuses("experiment sigma --quick --data shapes", &["cannot be used with"]);
    scratch.refuses("experiment sigma --data cifar10:gone", &["gone"]);
    scratch.refuses("experiment sigma --quick --seeds 0", &["--seeds"]);
    scratch.refuses("experiment sigma --quick --precision tf32", &["tf32 need a GPU", "for the experiment sigma"]);
    for name in ["a", "b"] {
        scratch.write(format!("photos/{name}.png"), common::pictures::gray(9));
    }
    let unlabeled = ["a probe needs labels", "that is for the experiment sigma"];
    scratch.refuses("experiment sigma --data folder:photos --steps 2", &unlabeled);
    scratch.write("file", "");
    scratch.refuses("experiment sigma --quick --out file", &["file"]);
    assert_eq!(scratch.entries(), 2, "nothing was begun");
}

#[test]
fn all_arms_are_trained_in_the_precision_of_the_size() {
    for precision in stop_mim::Precision::ALL {
        let size = Size { precision, ..Size::quick() };
        for (experiment, arm) in
            EXPERIMENTS.iter().flat_map(|e| (e.arms)(&size).unwrap().into_iter().map(move |a| (e, a)))
        {
            assert_eq!(arm.config.precision, precision, "{}: {}", experiment.name, arm.label);
        }
    }
}

/// A GPU trains what is measured here; its results are the CPU's but for rounding, under the same names.
#[test]
#[cfg(feature = "cuda")]
fn models_are_trained_on_a_gpu() {
    let Some(device) = cuda_on_cpu::device() else { return };
    let (scratch, size) = (Scratch::new(), Size { steps: 2, seeds: 1, ..tiny() });
    let losses = |out: &str, on: stop_mim::Device| {
        let runner = Runner::new(vec![&TWO], &size, &scratch.path(out)).on(on);
        runner.run(&|_| String::new(), &Silent, &mut |_| Ok(())).unwrap();
        let logs = kept(&scratch.path(out)).into_keys().filter(|path| path.ends_with("checkpoint.safetensors"));
        let last = |path: std::path::PathBuf| {
            let log = std::fs::read_to_string(path.with_file_name("log.csv")).unwrap();
            let loss = log.lines().last().unwrap().split(',').nth(2).unwrap().parse::<f64>().unwrap();
            let weights = std::fs::read(&path).unwrap();
            (path.parent().unwrap().file_name().unwrap().to_owned(), (loss, weights))
        };
        logs.map(last).collect::<BTreeMap<_, _>>()
    };
    let (gpu, cpu) = (losses("gpu", device), losses("cpu", stop_mim::Device::Cpu));
    assert!(gpu.len() == 2 && gpu.keys().eq(cpu.keys()), "{:?} {:?}", gpu.keys(), cpu.keys());
    for ((x, there), (y, here)) in gpu.values().zip(cpu.values()) {
        assert!((x - y).abs() < 1e-5 * y, "{x} instead of {y}");
        assert!(there != here, "nothing was computed on {device}");
    }
}
