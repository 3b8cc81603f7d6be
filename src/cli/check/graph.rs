//! `stop-mim check graph`

use clap::Args as ClapArgs;

use super::{conclude, print};
use crate::cli::options::{MaskArgs, ModelArgs, recipe};
use crate::cli::profile::saved_table;
use crate::lab::graph::lint;
use crate::lab::profile::random_batch;
use crate::nn::Role;
use crate::train::{RunConfig, Trainer, fresh_model};
use crate::{Error, Result};

#[derive(ClapArgs, Clone, Debug)]
pub struct Args {
    /// Images in the step. Their pixels are random.
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    images: u16,
    /// Put a NaN into this parameter first (as blocks.0.attn.qkv.weight), to see it found.
    #[arg(long, value_name = "NAME")]
    poison: Option<String>,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    masks: MaskArgs,
    /// Decides weights, pixels, masks and noise.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

pub fn run(args: &Args, all: bool) -> Result<()> {
    let n = usize::from(args.images);
    let config = RunConfig { batch: n, seed: args.seed, ..recipe(&args.model, &args.masks)? };
    let (method, params) = fresh_model(&config)?;
    let mut trainer = Trainer::new(method, params);
    if let Some(name) = &args.poison {
        poison(&mut trainer, name)?;
    }
    let lint = lint(&trainer, &random_batch(&config)?);
    println!("{}: a step (images: {n}), {} entries on the tape\n", config.model.method.name(), lint.entries);
    print(&lint.findings, all);
    println!("{}", saved_table(&lint.saved, lint.entries, n));
    if !lint.zero.is_empty() {
        println!("Gradients that are all zero: {}\n", lint.zero.join(", "));
    }
    conclude(&lint.findings)
}

/// Sets one element of a parameter to NaN.
fn poison(trainer: &mut Trainer, name: &str) -> Result<()> {
    let trained = trainer.params.trained_and_average().into_iter().flat_map(|(params, _)| params.iter_mut());
    let Some(param) = trained.into_iter().find(|p| p.name == name) else {
        let problem = format!("this model has no parameter called {name}");
        return Err(Error::config(problem, "names are the official ones, as blocks.0.attn.qkv.weight"));
    };
    if param.role == Role::Unused {
        return Err(Error::config(format!("nothing reads {name}"), "poison a parameter that a step reads"));
    }
    param.value.as_mut_slice::<f32>()[0] = f32::NAN;
    Ok(())
}
