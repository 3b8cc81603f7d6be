//! `stop-mim features`

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args as ClapArgs;
use rayon::prelude::*;

use super::encoder::EncoderArgs;
use crate::autograd::Var;
use crate::tensor::{DType, Tensor};
use crate::train::safetensors::{self, TensorFile};
use crate::{Error, Result};

#[derive(ClapArgs, Clone, Debug)]
pub struct Args {
    #[command(flatten)]
    encoder: EncoderArgs,
    /// A safetensors file with a tensor `images` of [B, 3, S, S], normalised already.
    #[arg(long, value_name = "FILE")]
    images: PathBuf,
    /// Where to write: a safetensors file with a tensor `features` of [B, N, D], every token after the last norm.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub fn run(args: &Args) -> Result<()> {
    let found = args.encoder.load()?;
    let mut file = TensorFile::open(&args.images, "give a safetensors file with a tensor images")?;
    let side = found.encoder.config().image_size;
    // Before they are read: the file may be a large one of something else.
    let shape = file.shape("images")?;
    let hint = match shape[..] {
        [0, _, _, _] => Some("give at least one image"),
        [_, 3, height, width] if [height, width] == [side, side] => None,
        [_, 3, _, _] => Some("resize them, or choose another --image-size"),
        _ => Some("give images of red, green and blue, one plane after the other"),
    };
    if let Some(hint) = hint {
        let problem = format!("images of {shape:?} for an encoder of [B, 3, {side}, {side}]");
        return Err(Error::file(&args.images, problem, hint));
    }
    let images = file.tensor("images", DType::F32)?;
    let of = |i: usize| {
        let image = Var::constant(images.rows(i..i + 1));
        found.encoder.forward(&found.params.constants(), &image, None).value().clone()
    };
    let features: Vec<Tensor> = (0..images.shape()[0]).into_par_iter().map(of).collect();
    let features = Tensor::concat_rows(&features);
    safetensors::write(&args.out, BTreeMap::new(), &[("features".into(), &features)])?;
    println!("{}: features of {} in {}", found.what, features.shape(), args.out.display());
    Ok(())
}
