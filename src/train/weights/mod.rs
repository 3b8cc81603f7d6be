//! Weights that no run of this program wrote: an encoder, and its predictor, out of a safetensors file, under the names in
//! which they are published.

mod fill;
mod names;
mod pretrained;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::path::Path;

use serde::Deserialize;

use self::fill::Opened;
use self::names::Source;
pub use self::pretrained::{Preprocessing, PretrainedEncoder};
use super::safetensors::{Fit, Mismatch, TensorFile, shown};
use crate::data::Normalization;
use crate::methods::{Method, ModelParams, Module, Update};
use crate::nn::{LinearInit, Params, fresh};
use crate::rng::{Purpose, stream};
use crate::tensor::DType;
use crate::vit::{Encoder, EncoderConfig, Preset};
use crate::{Error, Result};

/// The most numbers in an encoder that is made before the file is known to have them: 4 GiB of f32; ViT-g/16 has a
/// billion.
const MOST_NUMBERS: u64 = 1 << 30;
/// Numbers in an encoder that any file may say it has: 64 MB of f32.
const SMALL: u64 = 1 << 24;
const HINT: &str = "choose the sizes that the file has (`EncoderConfig`; read by `sizes_of`), or a whole safetensors file of an \
    encoder of these sizes (docs/convert.py makes one of a .pth.tar), without parts that are not computed here; \
    `Fit::Partial` reads what fits";
const CLASS_TOKEN_HINT: &str = "an encoder with a class token, of the sizes that the file has, begins a run of \
    `MethodConfig::Mae`; for the other methods, which have none, `Fit::Partial` leaves it out";

/// How an encoder is read from a file.
#[derive(Clone, Debug, Default)]
pub struct InitOptions {
    /// How well the file has to fit.
    pub fit: Fit,
    /// Which encoder of several: what stands before its names, or begins to. `None`: the evaluated one; docs/interop.md
    /// has the order.
    pub prefix: Option<String>,
    /// Whether positions on another grid are interpolated.
    pub interpolate_positions: bool,
}

/// An encoder out of a file, and what is to be said about the reading.
#[derive(Clone, Debug)]
pub struct LoadedEncoder {
    /// What is computed.
    pub encoder: Encoder,
    /// With what.
    pub params: Params,
    /// What stands before its names in the file.
    pub prefix: String,
    /// Tensors in a file of it.
    pub tensors: usize,
    /// What did not fit; empty after a strict reading.
    pub left_out: Vec<Mismatch>,
    /// What else is to be said about the reading, line by line.
    pub notes: Vec<String>,
    /// The run that it comes from, if this program wrote the file.
    pub run: Option<RunInfo>,
}

/// What [`load_into`] did.
#[derive(Clone, Debug)]
pub struct InitReport {
    /// What was read from where, and what was not.
    pub lines: Vec<String>,
    /// The run that they come from, if this program wrote the file.
    pub run: Option<RunInfo>,
}

/// An encoder of these sizes with fresh parameters: the one that [`fresh_model`](super::fresh_model) makes of that seed.
///
/// # Errors
/// When the sizes do not fit together.
pub fn fresh_encoder(sizes: &EncoderConfig, linear: LinearInit, seed: u64) -> Result<(Encoder, Params)> {
    check_sizes(sizes)?;
    let mut rng = stream(seed, Purpose::Init, [0, 0]);
    Ok(fresh(linear, DType::F32, &mut rng, |init| Encoder::new(sizes, init)))
}

fn check_sizes(sizes: &EncoderConfig) -> Result<()> {
    let impossible = |problem| Err(Error::config(problem, "choose sizes that fit together, or a preset"));
    sizes.problem().map_or(Ok(()), impossible)
}

/// Whether this program wrote the file, as a checkpoint.
///
/// # Errors
/// When it cannot be read, or is no safetensors file.
pub fn is_checkpoint(path: &Path) -> Result<bool> {
    Ok(is_ours(&TensorFile::open(path, HINT)?))
}

fn is_ours(file: &TensorFile) -> bool {
    file.metadata().and_then(|metadata| metadata.get("format")).is_some_and(|format| format.starts_with("stop-mim"))
}

/// The sizes of the encoder in a file. A checkpoint of this program says them. Of other weights the shapes tell all but
/// the number of heads, which the caller has to know.
///
/// # Errors
/// When the file cannot be read, there is no encoder in it, a tensor that tells a size is missing or of an odd shape, or
/// `heads` is `None` and needed.
pub fn sizes_of(path: &Path, prefix: Option<&str>, heads: Option<usize>) -> Result<EncoderConfig> {
    let Opened { file, source, run, .. } = Opened::new(path, prefix)?;
    let said = run.map(|run| run.model.encoder);
    let heads = heads.or(said.as_ref().map(|sizes| sizes.heads));
    let sizes = said.map_or_else(|| source.sizes(&file), Ok)?;
    let heads = heads.ok_or_else(|| {
        let width = sizes.dim;
        let like = Preset::ALL.into_iter().map(|preset| preset.sizes().0).find(|like| like.dim == width);
        let usual = like.map_or(String::new(), |like| format!(" (ViTs of this width have {})", like.heads));
        let problem = format!("an encoder of width {width}; the number of its heads is not in a file of weights");
        Error::file(path, problem, format!("say `heads`{usual}, or take the sizes of a preset"))
    })?;
    let sizes = EncoderConfig { heads, ..sizes };
    check_sizes(&sizes)?;
    // A small file must not have a large encoder made by what it says of itself.
    if sizes.elements() <= file.bytes().max(SMALL) { Ok(sizes) } else { Err(too_small(&file, &sizes)) }
}

/// Reads an encoder of these sizes from a file, under the official names or those of the transformers library, behind any
/// prefix; docs/interop.md says which is taken where there are several. It has a class token if the file has one, whatever
/// `sizes` says. What a partial reading leaves out keeps the values of [`fresh_encoder`] with normal draws and seed 0.
///
/// # Errors
/// When the sizes do not fit together; when the file cannot be read, has no such encoder, or does not fit (missing,
/// unexpected or misshapen tensors, those of integers) and the fit is strict; when nothing in it fits; when a tensor is
/// damaged or not finite. All tensors of which this is true are named in one error (of thousands, the first thousand).
pub fn load_encoder(path: &Path, sizes: &EncoderConfig, options: &InitOptions) -> Result<LoadedEncoder> {
    let mut opened = Opened::new(path, options.prefix.as_deref())?;
    let class_token = opened.source.class_token(&opened.file);
    let sizes = EncoderConfig { class_token, ..sizes.clone() };
    check_sizes(&sizes)?;
    // Of a model that a machine can hold, the error of a strict reading names what is missing, or a partial reading leaves it
    // out. For a larger one no memory is asked unless the file can have it, at two bytes a number.
    let numbers = sizes.elements();
    if numbers > MOST_NUMBERS && numbers.saturating_mul(2) > opened.file.bytes() {
        return Err(too_small(&opened.file, &sizes));
    }
    let (encoder, mut params) = fresh_encoder(&sizes, LinearInit::Normal, 0)?;
    let source = opened.source.clone();
    let left_out = opened.fill_encoder(&source, &mut params, class_token, options)?;
    opened.notes.extend(opened.left_aside(&source, &HashSet::new()));
    let (tensors, Opened { notes, run, .. }) = (source.tensors(&params), opened);
    Ok(LoadedEncoder { encoder, params, prefix: source.prefix, tensors, left_out, notes, run })
}

/// Begins with the weights of a file: fills the encoder, and the target encoder, with the same values unless the file has
/// both as `encoder.` and `target_encoder.`; and the predictor, MAE's decoder, or another trained module of the method, if the
/// file has one of the same sizes.
///
/// # Errors
/// As [`load_encoder`]. The parameters are then partly overwritten.
pub fn load_into(
    path: &Path,
    method: &dyn Method,
    params: &mut ModelParams,
    options: &InitOptions,
) -> Result<InitReport> {
    let mut opened = Opened::new(path, options.prefix.as_deref())?;
    let source = opened.source.clone();
    let class_token = method.encoder().config().class_token;
    if source.class_token(&opened.file) && !class_token {
        opened.file.advise(CLASS_TOKEN_HINT);
    }
    let (mut lines, mut filled) = (Vec::new(), Vec::new());
    // The encoder that the target is the moving average of, if the file has it too.
    let online = source.prefix.replace("target_encoder.", "encoder.");
    let online = opened.sources.iter().find(|other| options.prefix.is_none() && other.prefix == online).cloned();
    let mut fill = |what: &str, source: &Source, params: &mut Params| -> Result<()> {
        let left_out = opened.fill_encoder(source, params, class_token, options)?;
        let all = source.tensors(params);
        let read = all - left_out.iter().filter(|mismatch| mismatch.in_model()).count();
        lines.push(format!("{what}: {read} of {all} tensors from {} ({})", path.display(), source.shown()));
        lines.extend(left_out.iter().map(|mismatch| format!("    {mismatch}: left out")));
        filled.push(source.clone());
        Ok(())
    };
    let target = params.average_of_encoder();
    if let Some(target) = target {
        fill("target encoder", &source, &mut params[target])?;
    }
    match (target, online.filter(|online| *online != source)) {
        (None, _) => fill("encoder", &source, &mut params["encoder"])?,
        (Some(_), Some(online)) => fill("encoder", &online, &mut params["encoder"])?,
        (Some(target), None) => {
            params["encoder"] = params[target].clone();
            lines.push("encoder: the same".to_owned());
        }
    }
    let (mut of_others, mut read) = (Vec::new(), HashSet::new());
    let trained = |module: &&mut Module| module.update == Update::Trained && module.name != "encoder";
    for Module { name, prefix, params, .. } in params.modules_mut().iter_mut().filter(trained) {
        let (line, of_module) = match *name {
            "predictor" => opened.fill_predictor(&source, params, options)?,
            name => opened.fill_module((name, prefix), params)?,
        };
        of_others.push(line);
        read.extend(of_module);
    }
    opened.notes.extend(filled.iter().filter_map(|source| opened.left_aside(source, &read)).collect::<Vec<_>>());
    opened.notes.dedup(); // what holds for the encoder and for its average is said once
    lines.append(&mut opened.notes);
    lines.append(&mut of_others);
    Ok(InitReport { lines, run: opened.run })
}

/// What a checkpoint of this program says about its run, as far as it matters to whoever reads its encoder.
#[derive(Clone, Debug, Deserialize)]
pub struct RunInfo {
    /// The images it was trained on, as [`crate::data::open`] reads it.
    pub data: String,
    /// From which its weights were drawn.
    pub seed: u64,
    /// How its images were normalized.
    pub normalization: Option<Normalization>,
    /// What of its model is read here.
    pub model: RunModel,
}

/// What is read of a run's model.
#[derive(Clone, Debug, Deserialize)]
pub struct RunModel {
    /// The sizes of its encoder.
    pub encoder: EncoderConfig,
    /// How its linear layers began.
    pub linear_init: LinearInit,
}

impl RunInfo {
    /// `None` where this program did not write the file.
    fn by(file: &TensorFile) -> Result<Option<RunInfo>> {
        let Some(config) = file.metadata().filter(|_| is_ours(file)).and_then(|metadata| metadata.get("config")) else {
            return Ok(None);
        };
        let unusable = |why: &str| {
            let problem = format!("its configuration cannot be read ({})", shown(why));
            Error::file(file.path(), problem, "give a checkpoint that this version of the program wrote")
        };
        let said: RunInfo = serde_json::from_str(config).map_err(|e| unusable(&e.to_string()))?;
        if let Some(Err(error)) = said.normalization.as_ref().map(Normalization::check) {
            return Err(unusable(error.to_string().lines().next().unwrap_or_default()));
        }
        Ok(Some(said))
    }
}

fn too_small(file: &TensorFile, sizes: &EncoderConfig) -> Error {
    let (bytes, numbers) = (file.bytes(), sizes.elements());
    let problem =
        format!("its tensors of {bytes} bytes are not those of an encoder of these sizes, of {numbers} numbers");
    Error::file(file.path(), problem, HINT)
}
