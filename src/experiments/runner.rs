//! From questions to answers: what has to be trained and measured is found, once for all experiments, done on all threads, and put
//! before each experiment.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::cache::{self, Cache, Images, Kind, Specimen, Subject, Values};
use super::figure::Figure;
use super::found::{Conclusion, Found, PIXELS, UNTRAINED};
use super::metrics::Metric;
use super::outcome::{Outcome, Picture};
use super::size::Size;
use super::{Arm, Experiment};
use crate::data::Normalization;
use crate::kernels::within_memory;
use crate::tensor::Device;
use crate::train::{RunConfig, pretrain_on};
use crate::{Error, Result, files};

/// Where a runner says how it goes, and asks whether to go on.
pub trait Monitor: Sync {
    /// Something to be read: a line of the plan, damage that was found.
    fn say(&self, line: &str);
    /// The work begins: so many steps, or what takes as long.
    fn begin(&self, steps: usize);
    /// So many of them are done; `message` says which, and how long the rest takes.
    fn advance(&self, steps: usize, message: &dyn Fn() -> String);
    /// An error, to end the work where it is: what was done is kept.
    ///
    /// # Errors
    /// When the user wants to stop.
    fn go_on(&self) -> Result<()>;
}

/// Says nothing, and goes on.
pub struct Silent;

impl Monitor for Silent {
    fn say(&self, _: &str) {}
    fn begin(&self, _: usize) {}
    fn advance(&self, _: usize, _: &dyn Fn() -> String) {}
    fn go_on(&self) -> Result<()> {
        Ok(())
    }
}

/// What an experiment has come to, to be saved.
#[derive(Clone, Debug)]
pub struct Answer {
    /// What was found, but for the pictures.
    pub outcome: Outcome,
    /// The pictures.
    pub figures: Vec<Figure>,
    /// Every measurement, as `measurements.csv`.
    pub measurements: String,
}

impl Answer {
    /// Writes `measurements.csv`, the pictures by `draw`, `table.md`, and at the end `result.json` into `folder`, which is made.
    /// A picture that cannot be drawn is left out, and its error given back.
    ///
    /// # Errors
    /// When another file cannot be written.
    pub fn save(&mut self, folder: &Path, draw: &dyn Fn(&Figure, &Path) -> Result<()>) -> Result<Vec<Error>> {
        std::fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
        files::write_whole(&folder.join("measurements.csv"), self.measurements.as_bytes())?;
        let mut failed = Vec::new();
        self.outcome.pictures.clear();
        for figure in &self.figures {
            match draw(figure, &folder.join(&figure.file)) {
                Ok(()) => {
                    self.outcome.pictures.push(Picture { file: figure.file.clone(), caption: figure.caption.clone() })
                }
                Err(error) => failed.push(error),
            }
        }
        files::write_whole(&folder.join("table.md"), self.outcome.table.markdown().as_bytes())?;
        self.outcome.save(folder)?;
        Ok(failed)
    }
}

/// Something to be trained, if it has to be, and measured.
struct Piece {
    /// For messages.
    what: String,
    subject: Subject,
    /// Its name in the cache.
    name: String,
    metrics: Vec<Arc<dyn Metric>>,
    /// Steps of training that are left.
    steps: usize,
    /// Those of the metrics that are left, and what each costs.
    left: Vec<(Arc<dyn Metric>, usize)>,
}

impl Piece {
    fn cost(&self) -> usize {
        self.steps + self.left.iter().map(|(_, cost)| cost).sum::<usize>()
    }
}

/// Experiments at one size, over one cache.
pub struct Runner<'a> {
    experiments: Vec<&'a Experiment>,
    size: &'a Size,
    folder: PathBuf,
    cache: Cache,
    images: Images,
}

/// An experiment with its arms and metrics made out.
struct Asked<'a> {
    experiment: &'a Experiment,
    labels: Vec<String>,
    subjects: BTreeMap<(String, u64), Subject>,
    metrics: Vec<Arc<dyn Metric>>,
}

impl<'a> Runner<'a> {
    /// Results and the cache are to be in `folder`.
    pub fn new(experiments: Vec<&'a Experiment>, size: &'a Size, folder: &Path) -> Self {
        let cache = Cache::new(folder.join(cache::FOLDER));
        Runner { experiments, size, folder: folder.to_owned(), cache, images: Images::new(IMAGE_SIZE) }
    }

    /// Models are trained there.
    #[must_use]
    pub fn on(mut self, device: Device) -> Self {
        self.cache.device = device;
        self
    }

    /// Trains and measures what is not there yet, and shows `found` each answer when it is there. `command` is what repeats it, given
    /// the name of an experiment.
    ///
    /// # Errors
    /// When an arm cannot be trained, a file cannot be read or written, the monitor says so, or `found`. What was done is kept: the
    /// same call goes on from there. Of several experiments, one that cannot be answered does not keep the others from it.
    pub fn run(
        &self,
        command: &dyn Fn(&str) -> String,
        monitor: &dyn Monitor,
        found: &mut dyn FnMut(Answer) -> Result<()>,
    ) -> Result<()> {
        let normalization = self.images.open(&self.size.data)?.normalization()?;
        let asked = self.experiments.iter().map(|e| self.ask(e, &normalization)).collect::<Result<Vec<_>>>()?;
        let pieces = self.pieces(&asked, monitor)?;
        self.plan(&pieces, monitor)?;
        self.work(pieces, monitor)?;
        let mut answers = asked.iter().map(|asked| self.answer(asked, command, monitor).and_then(&mut *found));
        let failed = answers.by_ref().find_map(Result::err);
        answers.for_each(drop);
        failed.map_or(Ok(()), Err)
    }

    /// Makes out the arms of an experiment for every seed, with the baselines, and checks that all can be done.
    fn ask(&self, experiment: &'a Experiment, normalization: &Normalization) -> Result<Asked<'a>> {
        let of = |error: Error| error.noted(format!("that is for the experiment {}", experiment.name));
        let arms = (experiment.arms)(self.size).map_err(of)?;
        let metrics: Vec<Arc<dyn Metric>> = (experiment.metrics)(self.size);
        metrics.iter().try_for_each(|metric| metric.check(&self.images)).map_err(of)?;
        let mut labels: Vec<String> = Vec::new();
        let mut subjects = BTreeMap::new();
        let device = self.cache.device;
        let mut add = |label: &str, kind: Kind, config: &RunConfig, seeds: usize| {
            if labels.iter().any(|other| other == label) {
                return Err(Error::config(format!("two arms called '{label}'"), "give each a name of its own"));
            }
            labels.push(label.to_owned());
            for seed in 0..seeds as u64 {
                // All else is the same for all arms: images, crops, masks and noise follow from the seed.
                let config = RunConfig { normalization: Some(normalization.clone()), seed, ..config.clone() };
                config.validate()?;
                config.supported_on(device)?;
                subjects.insert((label.to_owned(), seed), Subject { kind, config });
            }
            Ok(())
        };
        let seeds = self.size.seeds;
        for Arm { label, config } in &arms {
            add(label, Kind::Trained, config, seeds).map_err(of)?;
        }
        if let Some(Arm { config, .. }) = arms.first() {
            add(UNTRAINED, Kind::Untrained, config, seeds).map_err(of)?;
            add(PIXELS, Kind::Pixels, config, seeds.min(1)).map_err(of)?;
        }
        Ok(Asked { experiment, labels, subjects, metrics })
    }

    /// What has to be there, each thing once.
    fn pieces(&self, asked: &[Asked], monitor: &dyn Monitor) -> Result<Vec<Piece>> {
        let mut pieces: Vec<Piece> = Vec::new();
        let mut places = BTreeMap::new();
        for Asked { labels, subjects, metrics, .. } in asked {
            // Arm by arm within a seed, so that an experiment that is interrupted has whole seeds.
            for seed in 0..self.size.seeds as u64 {
                for label in labels {
                    let Some(subject) = subjects.get(&(label.clone(), seed)) else { continue };
                    let name = subject.name(&self.images)?;
                    let place = *places.entry(name.clone()).or_insert(pieces.len());
                    if place == pieces.len() {
                        let what = format!("{label}, seed {seed}");
                        let (metrics, left) = (vec![], vec![]);
                        pieces.push(Piece { what, subject: subject.clone(), name, metrics, steps: 0, left });
                    }
                    for metric in metrics.iter().filter(|metric| metric.fits(subject)) {
                        let configuration = metric.configuration(&self.images)?;
                        let known = &mut pieces[place].metrics;
                        let mut others = known.iter().map(|other| other.configuration(&self.images));
                        if !others.any(|other| other.is_ok_and(|other| other == configuration)) {
                            known.push(metric.clone());
                        }
                    }
                }
            }
        }
        for piece in &mut pieces {
            if piece.subject.kind == Kind::Trained {
                let length = piece.subject.config.steps;
                piece.steps = length.saturating_sub(self.cache.steps_done(&piece.name, length));
            }
            piece.left = self.left(piece, monitor)?;
        }
        Ok(pieces)
    }

    /// The metrics of a piece that are not kept.
    fn left(&self, piece: &Piece, monitor: &dyn Monitor) -> Result<Vec<(Arc<dyn Metric>, usize)>> {
        let mut left = Vec::new();
        for metric in &piece.metrics {
            let values = self.cache.values((&piece.subject, &self.images), &**metric, &|line| monitor.say(line))?;
            if values.is_none() {
                left.push((metric.clone(), metric.cost(&self.images)));
            }
        }
        Ok(left)
    }

    /// Says what is to be done and how long that takes, from some steps of one run.
    fn plan(&self, pieces: &[Piece], monitor: &dyn Monitor) -> Result<()> {
        let of_training: Vec<&Piece> = pieces.iter().filter(|piece| piece.subject.kind == Kind::Trained).collect();
        let to_train = of_training.iter().filter(|piece| piece.steps > 0).count();
        let measurements: usize = pieces.iter().map(|piece| piece.left.len()).sum();
        let cost: usize = pieces.iter().map(Piece::cost).sum();
        let there = of_training.len() - to_train;
        let kept = if there > 0 { format!(", {there} more are kept from before") } else { String::new() };
        monitor
            .say(&format!("to train: {to_train} runs of {} steps{kept}; to measure: {measurements}", self.size.steps));
        let Some(piece) = of_training.iter().find(|piece| piece.steps > 0) else {
            return Ok(());
        };
        let step = self.step_time(&piece.subject.config)?;
        let workers = self.workers(pieces.iter().filter(|piece| piece.cost() > 0).count());
        let all = step.mul_f64(cost as f64 / workers as f64);
        let (millis, threads) = (step.as_secs_f64() * 1e3, if workers == 1 { "run" } else { "runs" });
        monitor.say(&format!(
            "a step takes {millis:.1} ms, {workers} {threads} at a time: about {} in all, if nothing else runs; what is done \
             is kept, and the same command goes on",
            duration(all)
        ));
        Ok(())
    }

    /// The time of a step on one worker's threads, from a few.
    fn step_time(&self, config: &RunConfig) -> Result<Duration> {
        const TIMED: usize = 5;
        let config = config.clone().with_steps(TIMED + 2); // the last step is not made: it would have diagnostics
        let splits = self.images.open(&config.data)?;
        let mut began = Instant::now();
        let mut time = || {
            pretrain_on(self.cache.device, &config, &splits, 0, &mut |report, _| {
                if report.step == 1 {
                    began = Instant::now();
                }
                let enough = report.step == TIMED + 1;
                Ok(if enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            })
        };
        pool(self.threads_of_a_worker(usize::MAX))?.install(&mut time)?;
        Ok(began.elapsed() / TIMED as u32)
    }

    /// How many pieces are worked on at a time: as many as there are threads. A run by itself would share them less well.
    fn workers(&self, pieces: usize) -> usize {
        // On a GPU all that a process does is on one stream.
        if self.cache.device.is_gpu() { 1 } else { rayon::current_num_threads().min(pieces).max(1) }
    }

    fn threads_of_a_worker(&self, pieces: usize) -> usize {
        (rayon::current_num_threads() / self.workers(pieces)).max(1)
    }

    /// Trains and measures all that is left.
    fn work(&self, pieces: Vec<Piece>, monitor: &dyn Monitor) -> Result<()> {
        let pieces: Vec<Piece> =
            pieces.into_iter().filter(|piece| piece.cost() > 0 || !piece.left.is_empty()).collect();
        if pieces.is_empty() {
            return Ok(());
        }
        let total: usize = pieces.iter().map(Piece::cost).sum();
        monitor.begin(total);
        let (workers, threads) = (self.workers(pieces.len()), self.threads_of_a_worker(pieces.len()));
        let progress = Tally { total, done: AtomicUsize::new(0), began: Instant::now(), monitor };
        let queue: Mutex<VecDeque<Piece>> = Mutex::new(pieces.into());
        let failed: Mutex<Option<Error>> = Mutex::new(None);
        let over = AtomicBool::new(false);
        let go_on = || if over.load(Ordering::SeqCst) { Err(Error::Interrupted) } else { monitor.go_on() };
        let worker = || -> Result<()> {
            let pool = pool(threads)?;
            loop {
                go_on()?;
                let Some(piece) = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front() else {
                    return Ok(());
                };
                if !pool.install(|| within_memory(|| self.piece(&piece, &progress, &go_on)).flatten())? {
                    // Another process has it: something else first, and then see what became of it.
                    progress.wait(&piece);
                    queue.lock().unwrap_or_else(PoisonError::into_inner).push_back(piece);
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    if let Err(error) = worker() {
                        over.store(true, Ordering::SeqCst);
                        let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                        // The first says why; that the others were told to stop says nothing.
                        if failed.as_ref().is_none_or(|first| matches!(first, Error::Interrupted)) {
                            *failed = Some(error);
                        }
                    }
                });
            }
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    /// Does a piece of work; false, if another process is at it.
    fn piece(&self, piece: &Piece, progress: &Tally, go_on: &(dyn Fn() -> Result<()> + Sync)) -> Result<bool> {
        let Piece { what, subject, name, .. } = piece;
        let Some(folder) = self.cache.claim(name)? else { return Ok(false) };
        let of = |error: Error| match error {
            Error::Interrupted => Error::Interrupted,
            error => error.noted(format!("in the run of {what}: {}", folder.path().display())),
        };
        let note = |line: &str| progress.monitor.say(line);
        let mut counted = 0;
        let observe = &mut |report: &crate::train::StepReport| {
            // A run that was damaged has more steps to do than was planned.
            let by = usize::from(counted < piece.steps);
            counted += by;
            progress.advance(by, &|| format!("{what}: step {}, loss {:.3}", report.step, report.loss));
            if go_on().is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        let images = &self.images;
        let model = self.cache.model((subject, images), &folder, self.size.diagnoses, &note, observe).map_err(of)?;
        // What another process has done meanwhile.
        progress.advance(piece.steps - counted, &|| format!("{what}: trained"));
        let specimen = Specimen { device: self.cache.device, subject, model, folder: &folder, images };
        for (metric, cost) in &piece.left {
            go_on()?;
            progress.advance(0, &|| format!("{what}: {}", metric.name()));
            if self.cache.values((subject, images), &**metric, &|_| {})?.is_none() {
                let values: Values = metric.measure(&specimen, go_on).map_err(of)?;
                self.cache.keep((subject, images), &**metric, &values)?;
            }
            progress.advance(*cost, &|| format!("{what}: {}", metric.name()));
        }
        Ok(true)
    }

    /// Puts what was measured before an experiment.
    fn answer(&self, asked: &Asked, command: &dyn Fn(&str) -> String, monitor: &dyn Monitor) -> Result<Answer> {
        let Asked { experiment, labels, subjects, metrics } = asked;
        let mut values: BTreeMap<(String, u64), Values> = BTreeMap::new();
        for (key, subject) in subjects {
            for metric in metrics.iter().filter(|metric| metric.fits(subject)) {
                let found = self.cache.values((subject, &self.images), &**metric, &|line| monitor.say(line))?;
                values.entry(key.clone()).or_default().extend(found.unwrap_or_default());
            }
        }
        let (labels, subjects, size) = (labels.clone(), subjects.clone(), self.size);
        let found = Found { size, labels, subjects, values, cache: &self.cache, images: &self.images };
        let Conclusion { table, statement, figures } = (experiment.conclude)(&found)?;
        let outcome = Outcome {
            name: experiment.name.to_owned(),
            title: experiment.title.to_owned(),
            question: experiment.question.to_owned(),
            reference: experiment.reference.to_owned(),
            paper_found: experiment.paper_found.to_owned(),
            size: size.name.clone(),
            data: size.data.split(':').next().unwrap_or_default().to_owned(),
            seeds: size.seeds,
            steps: size.steps,
            table,
            statement,
            pictures: Vec::new(),
            command: command(experiment.name),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            machine: machine(),
        };
        Ok(Answer { measurements: measurements(experiment.name, &found), outcome, figures })
    }

    /// Where the results of an experiment are to be: in `NAME-SIZE`, where the full size is called by its images, as `cifar10`.
    pub fn folder_of(&self, name: &str) -> PathBuf {
        let images = self.size.data.split(':').next().unwrap_or_default();
        self.folder.join(format!("{name}-{}", self.size.name.replacen("full", images, 1)))
    }
}

/// Side of the images that the toy preset takes.
const IMAGE_SIZE: usize = 32;

/// Every number as a line of CSV.
fn measurements(experiment: &str, found: &Found) -> String {
    let quoted =
        |text: &str| if text.contains([',', '"']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.into() };
    let mut csv = "experiment,size,arm,seed,metric,value\n".to_owned();
    for arm in found.arms() {
        for ((_, seed), values) in found.values.iter().filter(|((label, _), _)| label == arm) {
            for (metric, value) in values {
                let (arm, metric) = (quoted(arm), quoted(metric));
                csv += &format!("{experiment},{},{arm},{seed},{metric},{value}\n", quoted(&found.size.name));
            }
        }
    }
    csv
}

/// The machine in words.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{} on {}, {cores} cores", std::env::consts::OS, std::env::consts::ARCH)
}

fn pool(threads: usize) -> Result<rayon::ThreadPool> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    pool.map_err(|e| Error::config(format!("threads to compute with: {e}"), "end other programs, and try again"))
}

/// A time in words.
fn duration(time: Duration) -> String {
    match time.as_secs() {
        s @ ..90 => format!("{s} seconds"),
        s @ ..5400 => format!("{} minutes", (s + 30) / 60),
        s => format!("{:.1} hours", s as f64 / 3600.0),
    }
}

/// How far all of it is.
struct Tally<'a> {
    total: usize,
    done: AtomicUsize,
    began: Instant,
    monitor: &'a dyn Monitor,
}

impl Tally<'_> {
    fn advance(&self, by: usize, what: &dyn Fn() -> String) {
        let done = self.done.fetch_add(by, Ordering::Relaxed) + by;
        self.monitor.advance(by, &|| {
            let left =
                self.began.elapsed().as_secs_f64() * (self.total - done.min(self.total)) as f64 / done.max(1) as f64;
            format!("{}; {} left", what(), duration(Duration::from_secs_f64(left)))
        });
    }

    fn wait(&self, piece: &Piece) {
        self.advance(0, &|| format!("{}: another process is at it", piece.what));
    }
}
