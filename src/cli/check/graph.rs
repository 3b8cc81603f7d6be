//! `stop-mim check graph`

use clap::Args as ClapArgs;

use super::{conclude, print};
use crate::cli::options::{MaskArgs, ModelArgs, recipe};
use crate::cli::profile::saved_table;
use crate::lab::graph::lint;
use crate::methods::Model;
use crate::nn::Role;
use crate::rng::{Purpose, stream};
use crate::tensor::{DType, Tensor};
use crate::train::{Batch, Noise, RunConfig, Trainer};
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
    let RunConfig { model: config, masking, .. } = recipe(&args.model, &args.masks)?;
    let (n, side) = (usize::from(args.images), config.encoder.image_size);
    let (model, params) = Model::new(&config, DType::F32, &mut stream(args.seed, Purpose::Init, [0, 0]))?;
    let mut trainer = Trainer::new(model, params);
    if let Some(name) = &args.poison {
        poison(&mut trainer, name)?;
    }
    let (context, targets) =
        masking.sample(n, config.encoder.patches(), &mut stream(args.seed, Purpose::Mask, [1, 0]))?;
    let images = Tensor::normal([n, 3, side, side], 1.0, DType::F32, &mut stream(args.seed, Purpose::Eval, [0, 0]));
    let batch = Batch { images, context, targets, noise: Noise::Drawn { seed: args.seed, step: 1 } };

    let lint = lint(&trainer, &batch);
    println!("{}: a step (images: {n}), {} entries on the tape\n", config.method.name(), lint.entries);
    print(&lint.findings, all);
    println!("{}", saved_table(&lint.saved, lint.entries, n));
    if !lint.zero.is_empty() {
        println!("Gradients that are all zero: {}\n", lint.zero.join(", "));
    }
    conclude(&lint.findings)
}

/// Sets one element of a parameter to NaN.
fn poison(trainer: &mut Trainer, name: &str) -> Result<()> {
    let modules = [&mut trainer.params.encoder, &mut trainer.params.predictor];
    let Some(param) = modules.into_iter().flat_map(|p| p.iter_mut()).find(|p| p.name == name) else {
        let problem = format!("this model has no parameter called {name}");
        return Err(Error::config(problem, "names are the official ones, as blocks.0.attn.qkv.weight"));
    };
    if param.role == Role::Unread {
        return Err(Error::config(format!("nothing reads {name}"), "poison a parameter that a step reads"));
    }
    param.value.as_mut_slice::<f32>()[0] = f32::NAN;
    Ok(())
}
