//! `stop-mim experiment`

use std::path::PathBuf;
use std::sync::OnceLock;

use clap::Args as ClapArgs;

use super::flags::{choice, positive};
use super::options::DeviceArgs;
use super::progress::Progress;
use super::run::weigh;
use super::signals;
use crate::data::absolute_spec;
use crate::experiments::{self, EXPERIMENTS, Experiment, Monitor, Outcome, Runner, Size};
use crate::report::figure::save_figure;
use crate::report::table::table;
use crate::{Error, Precision, Result};

/// Where results are by default.
pub const FOLDER: &str = "runs/experiments";

#[derive(ClapArgs, Clone, Debug)]
pub struct Args {
    /// Which: a name that `list` shows, or `all`.
    #[arg(value_name = "NAME")]
    name: String,
    /// Minutes, with a small model on embedded images. Without it, hours, on the images of --data.
    #[arg(long, conflicts_with = "data")]
    quick: bool,
    /// The images of the full size, with labels: cifar10:DIR. Given again, other images to probe on, for `transfer`:
    /// cifar100:DIR.
    #[arg(long, value_name = "DATA")]
    data: Vec<String>,
    /// Seeds of each arm [default: 3].
    #[arg(long, value_name = "N", value_parser = positive)]
    seeds: Option<usize>,
    /// Steps of each run [default: 500 with --quick, or else 12500].
    #[arg(long, value_name = "STEPS", value_parser = positive)]
    steps: Option<usize>,
    /// Where results are written, each into a folder of its name and size, and where trained models are kept.
    #[arg(long, default_value = FOLDER, value_name = "DIR")]
    out: PathBuf,
    /// What products are computed in while a run is trained: f32, tf32 (on a GPU), bf16.
    #[arg(long, default_value_t, value_parser = choice(&Precision::ALL, Precision::name, Precision::about))]
    precision: Precision,
    #[command(flatten)]
    device: DeviceArgs,
}

pub fn run(args: &Args) -> Result<()> {
    if args.name == "list" {
        let row = |e: &Experiment| [e.name, e.reference, e.title].map(str::to_owned).to_vec();
        print!("{}", table(&["name", "the paper's", "what"], &EXPERIMENTS.iter().map(row).collect::<Vec<_>>()));
        return Ok(());
    }
    let all = args.name == "all";
    let chosen: Vec<&Experiment> =
        if all { EXPERIMENTS.iter().collect() } else { vec![experiments::find(&args.name)?] };
    let size = args.size()?;
    signals::listen();
    let (monitor, device) = (Terminal::default(), args.device.open()?);
    weigh(size.precision, device);
    let runner = Runner::new(chosen, &size, &args.out).on(device);
    let done = runner.run(&|name| args.command(name), &monitor, &mut |mut answer| {
        monitor.bar.get().into_iter().for_each(Progress::clear);
        let folder = runner.folder_of(&answer.outcome.name);
        let failed = answer.save(&folder, &|figure, path| save_figure(figure, path))?;
        failed.into_iter().for_each(|error| note!("warning: a picture is not drawn: {error}"));
        show(&answer.outcome);
        say!("  {}\n", folder.display());
        Ok(())
    });
    monitor.bar.get().into_iter().for_each(Progress::clear);
    done.inspect_err(|error| {
        if matches!(error, Error::Interrupted) {
            say!("what was done is kept in {}; the same command goes on from there", args.out.join("cache").display());
        }
    })
}

/// Prints what an experiment has found.
fn show(outcome: &Outcome) {
    let Outcome { title, reference, table: found, statement, paper_found, seeds, steps, .. } = outcome;
    let of = if reference == "none" { String::new() } else { format!(" (the paper's {reference})") };
    println!("\n{title}{of}, {seeds} seeds of {steps} steps; mean ± half of the 95 % interval\n");
    let columns: Vec<&str> = found.columns.iter().map(String::as_str).collect();
    let row = |row: &experiments::Row| {
        [row.label.clone()].into_iter().chain(row.cells.iter().map(ToString::to_string)).collect::<Vec<_>>()
    };
    println!("{}", table(&columns, &found.rows.iter().map(row).collect::<Vec<_>>()));
    println!("The paper: {paper_found}\nHere: {statement}");
}

impl Args {
    fn size(&self) -> Result<Size> {
        let mut size = if self.quick {
            Size::quick()
        } else {
            let data = self.data.iter().map(|spec| absolute_spec(spec)).collect::<Result<Vec<_>>>()?;
            Size::full(&data)?
        };
        size.seeds = self.seeds.unwrap_or(size.seeds);
        size.precision = self.precision;
        if size.precision != Precision::F32 {
            size.name += &format!("-{}", size.precision);
        }
        if let Some(steps) = self.steps {
            (size.steps, size.name) = (steps, format!("{}-{steps}", size.name));
        }
        Ok(size)
    }

    /// The command that repeats an experiment of these, wherever its images lie.
    fn command(&self, name: &str) -> String {
        let mut command = format!("stop-mim experiment {name}");
        if self.quick {
            command += " --quick";
        }
        for data in &self.data {
            command += &format!(
                " --data {}",
                data.split_once(':').map_or(data.clone(), |(scheme, _)| format!("{scheme}:DIR"))
            );
        }
        if self.device.device().is_gpu() {
            command += &format!(" --device {}", self.device.device());
        }
        if self.precision != Precision::F32 {
            command += &format!(" --precision {}", self.precision);
        }
        for (flag, value) in [("seeds", self.seeds), ("steps", self.steps)] {
            command += &value.map_or(String::new(), |value| format!(" --{flag} {value}"));
        }
        command
    }
}

/// The user's terminal.
#[derive(Default)]
struct Terminal {
    bar: OnceLock<Progress>,
}

impl Monitor for Terminal {
    fn say(&self, line: &str) {
        say!("{line}");
    }

    fn begin(&self, steps: usize) {
        self.bar.get_or_init(|| Progress::new(steps, "steps"));
    }

    fn advance(&self, steps: usize, message: &dyn Fn() -> String) {
        self.bar.get().into_iter().for_each(|bar| bar.advance(steps, message));
    }

    fn go_on(&self) -> Result<()> {
        signals::check()
    }
}
