//! Checkpoints: safetensors under the official names, with the configuration in the metadata.
//!
//! `encoder.*`, `predictor.*`, `target_encoder.*` (MAE: `model.*`), f32. What training goes on with has AdamW's moments
//! too, as `optimizer.m.` and `optimizer.v.` before the name of the parameter. PyTorch's safetensors opens both; nothing
//! in them is specific to this crate but the metadata:
//!
//! | key | value |
//! |---|---|
//! | `format` | `stop-mim-1` |
//! | `config` | the run's configuration as JSON |
//! | `step` | steps done |
//! | `upkeep` | [`Upkeep`] as JSON, where there is an optimizer |
//! | `crc32` | JSON: the CRC-32 of each tensor's bytes (`zlib.crc32`), in hexadecimal, by name |
//! | `checksum` | the CRC-32 of all of the above: keys in order, each followed by its value, each with a byte 0 behind |
//!
//! Order, crops, masks, noise and schedules follow from the seed and the step: there is no random state to save.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::Path;

use rayon::prelude::*;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::algorithm_1::Trainer;
use super::config::RunConfig;
use super::pretrain::fresh_model;
use crate::files::Crc32;
use crate::methods::{Model, ModelParams};
use crate::nn::{AdamW, Params, Role};
use crate::tensor::Tensor;
use crate::{Error, Result, files};

/// The value of `format` in the metadata.
const FORMAT: &str = "stop-mim-1";

/// A model as it was saved.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// The run it comes from.
    pub config: RunConfig,
    /// Steps done when it was saved.
    pub step: usize,
    /// What is computed.
    pub model: Model,
    /// With what.
    pub params: ModelParams,
}

/// How a run is watched and kept. No weight depends on it; a resumed run goes on with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upkeep {
    /// Steps between diagnostics.
    pub diagnose_every: usize,
    /// Steps between checkpoints.
    pub checkpoint_every: usize,
    /// How many of the last checkpoints are kept.
    pub keep: usize,
    /// A checkpoint after each multiple of this many steps is made, and kept for good; 0: none.
    pub keep_every: usize,
    /// What the images were: how many, and how they are normalised. Others would make another run.
    pub images: String,
}

/// A run as it was saved, ready to go on.
#[derive(Clone, Debug)]
pub struct SavedRun {
    /// What decides it.
    pub config: RunConfig,
    /// How it is watched and kept.
    pub upkeep: Upkeep,
    /// Model, parameters and optimizer; the step is the optimizer's.
    pub trainer: Trainer,
}

/// The modules of a model with the prefixes of their names.
fn modules(params: &ModelParams) -> Vec<(&'static str, &Params)> {
    match &params.target {
        Some(target) => {
            vec![("encoder", &params.encoder), ("predictor", &params.predictor), ("target_encoder", target)]
        }
        None => vec![("model", &params.encoder), ("model", &params.predictor)],
    }
}

/// The names of what the optimizer remembers, in its order: m and v of each trained parameter.
fn moment_names(params: &ModelParams) -> Vec<[String; 2]> {
    let trained = modules(params).into_iter().filter(|(prefix, _)| *prefix != "target_encoder");
    let names = |(prefix, module): (&str, &Params)| -> Vec<[String; 2]> {
        let trained = module.iter().filter(|p| p.role == Role::Trained);
        trained.map(|p| ["m", "v"].map(|moment| format!("optimizer.{moment}.{prefix}.{}", p.name))).collect()
    };
    trained.flat_map(names).collect()
}

/// Writes the weights of a model. An existing file is replaced only once the new one is complete.
///
/// # Errors
/// When the file cannot be written.
pub fn save(path: &Path, config: &RunConfig, step: usize, params: &ModelParams) -> Result<()> {
    write(path, metadata(config, step), &weights(params))
}

/// Writes all that a run needs to go on, from the step of its optimizer. An existing file is replaced only once the new
/// one is complete. The optimizer's β and ε are taken to be the official ones.
///
/// # Errors
/// When the file cannot be written.
pub fn save_run(path: &Path, config: &RunConfig, upkeep: &Upkeep, trainer: &Trainer) -> Result<()> {
    let Trainer { params, optimizer, .. } = trainer;
    let mut metadata = metadata(config, optimizer.steps() as usize);
    metadata.insert("upkeep".into(), serde_json::to_string(upkeep).expect("plain data"));
    let moments = moment_names(params).into_iter().zip(optimizer.moments());
    let moments = moments.flat_map(|([of_m, of_v], (m, v))| [(of_m, m), (of_v, v)]);
    write(path, metadata, &weights(params).into_iter().chain(moments).collect::<Vec<_>>())
}

fn metadata(config: &RunConfig, step: usize) -> BTreeMap<String, String> {
    let config = serde_json::to_string(config).expect("a configuration is plain data");
    let metadata = [("format", FORMAT.to_owned()), ("config", config), ("step", step.to_string())];
    metadata.map(|(key, value)| (key.to_owned(), value)).into()
}

fn weights(params: &ModelParams) -> Vec<(String, &Tensor)> {
    let named = |(prefix, module): (&'static str, _)| {
        Params::iter(module).map(move |p| (format!("{prefix}.{}", p.name), &p.value))
    };
    modules(params).into_iter().flat_map(named).collect()
}

/// Writes a safetensors file: the length of the header, the header (JSON, padded to whole words), the elements. The same
/// content gives the same bytes. Elements are written as they lie in memory, piece by piece: no copy of the model is
/// made.
fn write(path: &Path, mut metadata: BTreeMap<String, String>, tensors: &[(String, &Tensor)]) -> Result<()> {
    let sums: BTreeMap<&str, String> =
        tensors.par_iter().map(|(name, tensor)| (name.as_str(), checksum_of(tensor))).collect();
    metadata.insert("crc32".into(), serde_json::to_string(&sums).expect("plain data"));
    metadata.insert("checksum".into(), checksum(metadata.iter()));
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, tensor) in tensors {
        let start = end;
        end += size_of::<f32>() * tensor.elements();
        let entry = json!({ "dtype": "F32", "shape": tensor.shape()[..], "data_offsets": [start, end] });
        header.insert(name.clone(), entry);
    }
    let [header, metadata] = [json!(header), json!({ "__metadata__": metadata })].map(|part| part.to_string());
    let mut header = format!("{},{}", &header[..header.len() - 1], &metadata[1..]).into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    files::write_with(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        tensors.iter().try_for_each(|(_, tensor)| in_pieces(tensor, |bytes| file.write_all(bytes)))
    })
}

/// A tensor's elements as little-endian f32, some at a time.
fn in_pieces(tensor: &Tensor, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut bytes = Vec::new();
    tensor.as_slice::<f32>().chunks(1 << 12).try_for_each(|piece| {
        bytes.clear();
        bytes.extend(piece.iter().flat_map(|x| x.to_le_bytes()));
        take(&bytes)
    })
}

fn checksum_of(tensor: &Tensor) -> String {
    let mut crc = Crc32::default();
    in_pieces(tensor, |bytes| {
        crc.update(bytes);
        Ok(())
    })
    .expect("nothing is written");
    hexadecimal(crc)
}

fn hexadecimal(crc: Crc32) -> String {
    format!("{:08x}", crc.value())
}

/// The checksum of metadata, in the order of the keys.
fn checksum<'a>(metadata: impl Iterator<Item = (&'a String, &'a String)>) -> String {
    let mut crc = Crc32::default();
    metadata.flat_map(|(key, value)| [key.as_bytes(), b"\0", value.as_bytes(), b"\0"]).for_each(|x| crc.update(x));
    hexadecimal(crc)
}

/// The checksums in a file's metadata, by tensor; none in a file without. It is an error when the metadata are not what
/// was written.
fn checksums(metadata: &HashMap<String, String>) -> std::result::Result<HashMap<String, String>, String> {
    let Some(expected) = metadata.get("checksum") else { return Ok(HashMap::new()) };
    let rest: BTreeMap<_, _> = metadata.iter().filter(|(key, _)| *key != "checksum").collect();
    if checksum(rest.into_iter()) != *expected {
        return Err("its metadata are damaged: they do not have their checksum".into());
    }
    let sums = metadata.get("crc32").ok_or("no checksums of tensors in it")?;
    serde_json::from_str(sums).map_err(|e| format!("its checksums cannot be read ({e})"))
}

/// Reads the weights from a checkpoint that [`save`] or [`save_run`] wrote.
///
/// # Errors
/// When the file cannot be read, is damaged, is not such a checkpoint, or does not hold exactly the tensors of its
/// configuration; all that are missing, misshapen or unexpected are named.
pub fn load(path: &Path) -> Result<Checkpoint> {
    let File { config, step, model, params, .. } = read(path, false)?;
    Ok(Checkpoint { config, step, model, params })
}

/// Reads all that a run needs to go on from a checkpoint that [`save_run`] wrote.
///
/// # Errors
/// As [`load`]; and when there is no optimizer, or no checksum, in it.
pub fn load_run(path: &Path) -> Result<SavedRun> {
    let File { config, model, params, resumable, .. } = read(path, true)?;
    let (upkeep, optimizer) = resumable.expect("asked for");
    let trainer = Trainer { optimizer, ..Trainer::new(model, params) };
    Ok(SavedRun { config, upkeep, trainer })
}

/// What a file holds.
struct File {
    config: RunConfig,
    step: usize,
    model: Model,
    params: ModelParams,
    resumable: Option<(Upkeep, AdamW)>,
}

fn read(path: &Path, to_resume: bool) -> Result<File> {
    const HINT: &str = "give a checkpoint that `stop-mim pretrain` wrote; for other weights, say their --preset";
    let unusable = |problem: String| Error::file(path, problem, HINT);
    // A pipe would be waited for, and a device read without end.
    match std::fs::metadata(path) {
        Ok(about) if about.is_dir() => return Err(unusable("a directory, not a file".into())),
        Ok(about) if !about.is_file() => return Err(unusable("not a regular file".into())),
        _ => {}
    }
    let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
    let (_, header) =
        SafeTensors::read_metadata(&bytes).map_err(|e| unusable(format!("not a safetensors file ({e})")))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| unusable(format!("damaged ({e})")))?;
    let metadata = header.metadata().clone().unwrap_or_default();
    match metadata.get("format").map(String::as_str) {
        Some(FORMAT) => {}
        Some(other) => return Err(unusable(format!("format '{other}', where '{FORMAT}' is expected"))),
        None => return Err(unusable("no stop-mim metadata in it".into())),
    }
    let field = |key: &str| metadata.get(key).ok_or_else(|| unusable(format!("no '{key}' in its metadata")));
    let config: RunConfig = serde_json::from_str(field("config")?)
        .map_err(|e| unusable(format!("its configuration cannot be read ({e})")))?;
    config.validate().map_err(|e| unusable(format!("its configuration cannot work: {e}")))?;
    let step = field("step")?.parse().map_err(|_| unusable("its step is not a number".into()))?;

    // Memory is asked for only as much as the file can fill: a block of the encoder has 12 D² weights.
    let encoder = &config.model.encoder;
    let least =
        [encoder.dim, encoder.dim, 12 * size_of::<f32>()].into_iter().fold(encoder.depth, usize::saturating_mul);
    if least > bytes.len() {
        return Err(unusable(format!(
            "its {} bytes cannot hold the model that its configuration describes",
            bytes.len()
        )));
    }
    let (model, mut params) = fresh_model(&config)?;
    let mut resumable = None;
    if to_resume {
        field("checksum")?;
        let upkeep =
            serde_json::from_str(field("upkeep")?).map_err(|e| unusable(format!("its upkeep cannot be read ({e})")))?;
        resumable = Some((upkeep, AdamW::new(&params.trained())));
    }
    let names = moment_names(&params);
    let ModelParams { encoder, predictor, target } = &mut params;
    let modules = match target {
        Some(target) => vec![("encoder", encoder), ("predictor", predictor), ("target_encoder", target)],
        None => vec![("model", encoder), ("model", predictor)],
    };
    let params_of = |(prefix, module): (&'static str, _)| {
        Params::iter_mut(module).map(move |p| (format!("{prefix}.{}", p.name), &mut p.value))
    };
    let mut places: Vec<(String, &mut Tensor)> = modules.into_iter().flat_map(params_of).collect();
    if let Some((_, optimizer)) = &mut resumable {
        let moments = names.into_iter().zip(optimizer.resume(step as u64));
        places.extend(moments.flat_map(|([of_m, of_v], (m, v))| [(of_m, m), (of_v, v)]));
    }
    let (sums, mut problems) = checksums(&metadata).map_or_else(|e| (HashMap::new(), vec![e]), |sums| (sums, vec![]));
    problems.extend(places.iter_mut().filter_map(|(name, place)| fill(place, name, &file, &sums)));
    let expected: HashSet<String> = places.into_iter().map(|(name, _)| name).collect();
    let optimizers = |name: &str| !to_resume && name.starts_with("optimizer.");
    let unexpected = file.names().into_iter().filter(|name| !expected.contains(*name) && !optimizers(name));
    problems.extend(unexpected.map(|name| format!("{name} is unexpected")));
    match problems.is_empty() {
        true => Ok(File { config, step, model, params, resumable }),
        false => Err(unusable(problems.join("; "))),
    }
}

/// Sets a tensor to what the file holds under its name, or says why it cannot.
fn fill(place: &mut Tensor, name: &str, file: &SafeTensors, sums: &HashMap<String, String>) -> Option<String> {
    let Ok(view) = file.tensor(name) else { return Some(format!("{name} is missing")) };
    if view.shape() != &place.shape()[..] {
        return Some(format!("{name} is {:?} instead of {}", view.shape(), place.shape()));
    }
    if view.dtype() != Dtype::F32 {
        return Some(format!("{name} is {:?} instead of F32", view.dtype()));
    }
    let words = view.data().as_chunks::<4>().0;
    let values: Vec<f32> = words.iter().map(|w| f32::from_le_bytes(*w)).collect();
    let finite = values.iter().all(|x| x.is_finite());
    *place = Tensor::new(*place.shape(), values);
    if !finite {
        return Some(format!("{name} has values that are not finite"));
    }
    let damaged = !sums.is_empty() && sums.get(name) != Some(&checksum_of(place));
    damaged.then(|| format!("{name} is damaged: its bytes do not have their checksum"))
}
