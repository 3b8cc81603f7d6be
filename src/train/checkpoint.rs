//! Checkpoints: safetensors under the official names, with the configuration in the metadata.
//!
//! `encoder.*`, `predictor.*`, `target_encoder.*` (MAE: `model.*`), f32; metadata `format` = `stop-mim-1`, `config` =
//! the run's configuration as JSON, `step`. PyTorch's safetensors opens them; nothing in them is specific to this
//! crate but the metadata.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use safetensors::{Dtype, View};

use super::config::RunConfig;
use super::pretrain::fresh_model;
use super::weights::{Fit, WeightFile};
use crate::methods::{Model, ModelParams};
use crate::nn::Params;
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

/// The modules of a model with the prefixes of their names.
fn modules(params: &ModelParams) -> Vec<(&'static str, &Params)> {
    match &params.target {
        Some(target) => {
            vec![("encoder", &params.encoder), ("predictor", &params.predictor), ("target_encoder", target)]
        }
        None => vec![("model", &params.encoder), ("model", &params.predictor)],
    }
}

/// Writes a checkpoint. An existing file is replaced only once the new one is complete.
///
/// # Errors
/// When the file cannot be written.
pub fn save(path: &Path, config: &RunConfig, step: usize, params: &ModelParams) -> Result<()> {
    let json = serde_json::to_string(config).expect("a configuration is plain data");
    let metadata = [("format", FORMAT.to_owned()), ("config", json), ("step", step.to_string())];
    let metadata: HashMap<String, String> = metadata.map(|(k, v)| (k.to_owned(), v)).into();
    let named = |prefix: &str, module: &Params| -> Vec<(String, Bytes)> {
        module.iter().map(|p| (format!("{prefix}.{}", p.name), Bytes::new(&p.value))).collect()
    };
    let tensors = modules(params).into_iter().flat_map(|(prefix, module)| named(prefix, module));
    let file = safetensors::serialize(tensors, Some(metadata)).expect("names are unique and shapes are right");
    files::write_whole(path, &file)
}

/// Reads a checkpoint that [`save`] wrote.
///
/// # Errors
/// When the file cannot be read, is not such a checkpoint, or does not hold exactly the tensors of its configuration;
/// all that are missing, misshapen or unexpected are named.
pub fn load(path: &Path) -> Result<Checkpoint> {
    let unusable =
        |problem: String| Error::file(path, problem, "give the checkpoint.safetensors that `stop-mim pretrain` wrote");
    let mut file = WeightFile::open(path)?;
    let metadata = file.metadata().cloned().unwrap_or_default();
    match metadata.get("format").map(String::as_str) {
        Some(FORMAT) => {}
        Some(other) => return Err(unusable(format!("format '{other}', where '{FORMAT}' is expected"))),
        None => return Err(unusable("no stop-mim metadata in it (--preset reads weights from elsewhere)".into())),
    }
    let field = |key: &str| metadata.get(key).ok_or_else(|| unusable(format!("no '{key}' in its metadata")));
    let config: RunConfig = serde_json::from_str(field("config")?)
        .map_err(|e| unusable(format!("its configuration cannot be read ({e})")))?;
    config.validate().map_err(|e| unusable(format!("its configuration cannot work: {e}")))?;
    let step = field("step")?.parse().map_err(|_| unusable("its step is not a number".into()))?;

    let (model, mut params) = fresh_model(&config)?;
    let ModelParams { encoder, predictor, target } = &mut params;
    let mut modules = match target {
        Some(target) => vec![("encoder.", encoder), ("predictor.", predictor), ("target_encoder.", target)],
        None => vec![("model.", encoder), ("model.", predictor)],
    };
    file.read_into(&mut modules, &[], Fit::Strict)?;
    Ok(Checkpoint { config, step, model, params })
}

/// A tensor's elements as little-endian f32.
struct Bytes {
    shape: Vec<usize>,
    data: Vec<u8>,
}

impl Bytes {
    fn new(tensor: &Tensor) -> Self {
        let data = tensor.as_slice::<f32>().iter().flat_map(|x| x.to_le_bytes()).collect();
        Bytes { shape: tensor.shape().to_vec(), data }
    }
}

impl View for Bytes {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.data)
    }
    fn data_len(&self) -> usize {
        self.data.len()
    }
}
