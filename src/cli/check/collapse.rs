//! `stop-mim check collapse`

use std::path::PathBuf;
use std::time::Instant;

use clap::Args as ClapArgs;

use super::{conclude, print};
use crate::Result;
use crate::lab::collapse::fields::{self, FieldRun, FieldTraining};
use crate::lab::collapse::fixed_predictor::{self, FixedRun, STARTS, UNTIED_VARIANCE, VARIANCES};
use crate::lab::collapse::gauge::{self, GaugeRun, GaugeTraining};
use crate::lab::collapse::joint_training::{self, JointRun, JointTraining};
use crate::lab::collapse::{Spread, Trace, last};
use crate::report::curve::{Curve, Panel};
use crate::report::table::table;
use crate::runs::RunFolder;

#[derive(ClapArgs, Clone, Debug)]
pub struct Args {
    /// Seeds: every training is repeated so many times.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// The transformer too, which takes as long as all the rest.
    #[arg(long)]
    full: bool,
    /// Where the folder with the pictures is made.
    #[arg(long, default_value = "runs", value_name = "DIR")]
    out: PathBuf,
}

pub fn run(args: &Args, all: bool) -> Result<()> {
    let seeds: Vec<u64> = (0..args.seeds).collect();
    let folder = RunFolder::create(&args.out, "collapse")?; // before minutes of work, not after
    println!(
        "Does noise make A collapse, and does tying prevent it? Seeds 0 to {}, mean ± standard deviation.\n",
        args.seeds - 1
    );

    let title = "F is fixed, nothing is sampled: gradient descent on A (P = I here).";
    let fixed = section(title, || fixed_predictor::runs(&seeds), |runs| fixed_table(runs));

    let settings = JointTraining::demonstrations();
    let steps = settings[0].schedule.steps;
    let title = format!("F and A trained together, {steps} steps; P projects on the span of ψ.");
    let runs = || settings.iter().map(|setting| setting.runs(&seeds)).collect::<Vec<_>>();
    let joint = section(&title, runs, |runs| joint_table(&settings, runs));

    let runs = || GaugeTraining::demonstrations().map(|setting| setting.runs(&seeds));
    let gauges = section("A norm with γ and β before the tied A.", runs, gauge_table);

    let mut findings = [
        fixed_predictor::findings(&fixed),
        joint_training::findings(&settings, &joint),
        gauge::findings(&gauges[0], &gauges[1]),
    ]
    .concat();
    if args.full {
        let settings = FieldTraining::demonstrations();
        let (steps, std) = (settings[0].schedule.steps, settings[0].sigma.std());
        let title = format!("A transformer on 6 × 6 patches, {steps} steps, std {std}.");
        let runs = || settings.map(|setting| setting.runs(&seeds));
        findings.extend(fields::findings(&section(&title, runs, |runs| fields_table(&settings, runs))));
    }

    for (name, curve) in [("fixed.svg", fixed_curve(&fixed[0])), ("trained.svg", curves(&settings, &joint, &gauges))] {
        curve.save_svg(folder.file(name))?;
        println!("{}", folder.file(name).display());
    }
    println!();
    print(&findings, all);
    conclude(&findings)
}

/// Prints a table of what is found, and how long that took.
fn section<R>(title: &str, runs: impl FnOnce() -> R, table: impl FnOnce(&R) -> String) -> R {
    let clock = Instant::now();
    let runs = runs();
    println!("{title} ({:.0} s)\n\n{}", clock.elapsed().as_secs_f64(), table(&runs));
    runs
}

/// Mean and standard deviation of a number of each run.
fn spread<R>(runs: &[R], of: fn(&R) -> f64) -> String {
    Spread::of(runs.iter().map(of)).to_string()
}

fn tied_or_not(tied: bool) -> String {
    if tied { "tied" } else { "untied" }.into()
}

fn fixed_table(runs: &[FixedRun]) -> String {
    let at = |step: usize| Spread::of(runs.iter().map(|r| r.untied.norms[step.min(r.untied.norms.len() - 1)]));
    let most = Spread::of(runs.iter().map(|r| r.untied.norms.len() as f64 - 1.0)).mean;
    let mut rows = vec![vec![
        "untied".into(),
        UNTIED_VARIANCE.to_string(),
        format!("{:.2}", at(0).mean),
        format!("{} after 100 steps, {} after {most:.0}", at(100), at(usize::MAX)),
    ]];
    for (i, variance) in VARIANCES.iter().enumerate() {
        for (from, start) in STARTS.iter().enumerate() {
            let end = Spread::of(runs.iter().map(|r| r.tied[i][from].a.norm()));
            rows.push(vec!["tied".into(), variance.to_string(), start.to_string(), end.to_string()]);
        }
    }
    table(&["loss", "σ (variance)", "|PA| before", "|PA| after"], &rows)
}

fn joint_table(settings: &[JointTraining], runs: &[Vec<JointRun>]) -> String {
    let row = |(setting, runs): (&JointTraining, &Vec<JointRun>)| {
        vec![
            tied_or_not(setting.tied),
            setting.d_p.to_string(),
            setting.sigma.std().to_string(),
            spread(runs, |r| last(&r.norm)),
            spread(runs, |r| last(&r.in_span)),
            spread(runs, |r| r.end.sensitivity),
            spread(runs, |r| r.end.loss),
        ]
    };
    let rows: Vec<Vec<String>> = settings.iter().zip(runs).map(row).collect();
    table(&["A and B", "d_p", "std of n", "|A|/|A₀|", "|PA|/|A₀|", "sensitivity", "loss"], &rows)
}

fn gauge_table(runs: &[Vec<GaugeRun>; 2]) -> String {
    let row = |(name, runs): (&str, &Vec<GaugeRun>)| {
        vec![
            name.into(),
            spread(runs, |r| last(&r.norm)),
            spread(runs, |r| last(&r.gamma)),
            spread(runs, |r| r.noise_to_signal[0].1),
            spread(runs, |r| last(&r.noise_to_signal)),
            spread(runs, |r| r.end.loss),
        ]
    };
    let rows: Vec<Vec<String>> = ["held", "trained"].into_iter().zip(runs).map(row).collect();
    table(&["γ, β", "|A|/|A₀|", "|γ|/|γ₀|", "|An|/|As| before", "after", "loss"], &rows)
}

fn fields_table(settings: &[FieldTraining], runs: &[Vec<FieldRun>]) -> String {
    let row = |(setting, runs): (&FieldTraining, &Vec<FieldRun>)| {
        vec![
            tied_or_not(setting.tied),
            setting.schedule.decay.to_string(),
            spread(runs, |r| last(&r.norm)),
            spread(runs, |r| r.end.sensitivity),
            spread(runs, |r| r.end.loss),
        ]
    };
    let rows: Vec<Vec<String>> = settings.iter().zip(runs).map(row).collect();
    table(&["A and B", "weight decay", "|A|/|A₀|", "sensitivity", "loss"], &rows)
}

/// |A| over the steps of gradient descent, of one seed.
fn fixed_curve(run: &FixedRun) -> Curve {
    let points = |name: String, norms: &[f64]| (name, norms.iter().enumerate().map(|(i, &y)| (i as f64, y)).collect());
    let both = vec![
        points("untied".into(), &run.untied.norms),
        points("tied, from 1".into(), &run.tied[1][0].norms),
        points("tied, from 0.001".into(), &run.tied[1][1].norms),
    ];
    let tied = VARIANCES.iter().zip(&run.tied);
    let tied = tied.map(|(variance, descents)| points(format!("tied, σ = {variance}"), &descents[0].norms)).collect();
    let panel = |log, series| Panel { y_label: "|PA|".into(), log, range: None, series };
    Curve {
        title: "A under a fixed F".into(),
        x_label: "steps of gradient descent".into(),
        panels: vec![panel(true, both), panel(false, tied)],
    }
}

/// Means over seeds of what was trained.
fn curves(settings: &[JointTraining], joint: &[Vec<JointRun>], gauges: &[Vec<GaugeRun>; 2]) -> Curve {
    let mean = |traces: Vec<&Trace>| -> Trace {
        let at = |i: usize| traces.iter().map(|t| t[i].1).sum::<f64>() / traces.len() as f64;
        (0..traces[0].len()).map(|i| (traces[0][i].0, at(i))).collect()
    };
    let name = |s: &JointTraining| format!("{}, d_p {}, std {}", tied_or_not(s.tied), s.d_p, s.sigma.std());
    let of_joint = |f: fn(&JointRun) -> &Trace| {
        settings.iter().zip(joint).map(|(s, runs)| (name(s), mean(runs.iter().map(f).collect()))).collect()
    };
    let of_gauge = |f: fn(&GaugeRun) -> &Trace| {
        let both = ["γ held", "γ trained"].into_iter().zip(gauges);
        both.map(|(name, runs)| (name.to_owned(), mean(runs.iter().map(f).collect()))).collect()
    };
    let panel = |y_label: &str, log, series| Panel { y_label: y_label.into(), log, range: None, series };
    Curve {
        title: "A trained with F".into(),
        x_label: "step".into(),
        panels: vec![
            panel("|A| / |A₀|", true, of_joint(|r| &r.norm)),
            panel("|PA| / |A₀|", true, of_joint(|r| &r.in_span)),
            panel("|An| / |As|", false, of_gauge(|r| &r.noise_to_signal)),
        ],
    }
}
