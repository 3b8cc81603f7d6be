//! `stop-mim check gradients`

use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::{conclude, print};
use crate::Result;
use crate::lab::gradients::{self, Sweep};
use crate::report::curve::{Curve, Panel};
use crate::report::sweep::log_log;

#[derive(ClapArgs, Clone, Debug)]
pub struct Args {
    /// The plot to write: the error of the difference quotient over its step.
    #[arg(long, default_value = "gradient-check.svg", value_name = "FILE")]
    out: PathBuf,
}

pub fn run(args: &Args, all: bool) -> Result<()> {
    let derivatives = [gradients::operations(), gradients::layers(), gradients::training_steps()].concat();
    print(&derivatives, all);
    conclude(&derivatives)?;

    let sweep = gradients::sweep()?;
    let title = "error of a StoP step's directional derivative, by the step h of the central difference";
    println!("\n{}", log_log(title, "h", &sweep.errors));
    print(&sweep.findings, all);
    curve(&sweep).save_svg(&args.out)?;
    println!("{}", args.out.display());
    conclude(&sweep.findings)
}

/// The V of truncation and round-off, with what is expected of each.
fn curve(sweep: &Sweep) -> Curve {
    let most = sweep.errors.iter().map(|(_, error)| *error).fold(0.0, f64::max);
    let least = sweep.errors.iter().map(|(_, error)| *error).fold(f64::INFINITY, f64::min);
    let series = |name: &str, points: &[(f64, f64)]| {
        let inside = points.iter().filter(|(_, y)| (least / 10.0..=most * 10.0).contains(y));
        (name.to_owned(), inside.map(|(h, y)| (h.log10(), *y)).collect())
    };
    let series = vec![
        series("measured", &sweep.errors),
        series("truncation, c h²", &sweep.truncation),
        series("round-off, ε |L| / h", &sweep.round_off),
    ];
    let panel = Panel { y_label: "error / |gradient|".to_owned(), log: true, range: None, series };
    Curve {
        title: "Derivative of a StoP training step by central differences".to_owned(),
        x_label: "log₁₀ of the step h".to_owned(),
        panels: vec![panel],
    }
}
