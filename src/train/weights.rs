//! Weights that no run of this program wrote: an encoder under the official names, out of a safetensors file.

use std::path::Path;

use super::safetensors::{Fit, Misfit, TensorFile};
use crate::data::Normalization;
use crate::methods::{Model, ModelParams};
use crate::nn::{Init, LinearInit, Params};
use crate::rng::{Purpose, stream};
use crate::tensor::DType;
use crate::vit::{Encoder, EncoderConfig};
use crate::{Error, Result};

/// The prefixes under which an encoder can lie in a file, the evaluated one first: with a target encoder, it is the one
/// (appendix C.1). Plain names come last.
const PREFIXES: [&str; 4] = ["target_encoder.", "encoder.", "model.", ""];
/// What the names of an encoder begin with, behind the prefix.
const PARTS: [&str; 5] = ["cls_token", "pos_embed", "patch_embed.", "blocks.", "norm."];
/// The prefixes of what else is in a file of several modules, or in a checkpoint to go on from.
const OTHERS: [&str; 4] = ["target_encoder.", "encoder.", "predictor.", "optimizer."];
/// The most numbers in an encoder that is made before the file is known to have them: 4 GiB of f32; ViT-H/14 has 632
/// million.
const MOST_NUMBERS: u64 = 1 << 30;
const HINT: &str = "give a whole safetensors file (docs/convert.py makes one of a .pth.tar) of an encoder of these sizes; \
    --partial reads what fits";

/// An encoder out of a file.
#[derive(Clone, Debug)]
pub struct LoadedEncoder {
    /// What is computed.
    pub encoder: Encoder,
    /// With what.
    pub params: Params,
    /// The prefix of its names in the file.
    pub prefix: &'static str,
    /// What did not fit; empty after a strict reading.
    pub left_out: Vec<Misfit>,
}

/// An encoder of these sizes with fresh parameters: the one that [`fresh_model`](super::fresh_model) makes of that seed.
///
/// # Errors
/// When the sizes do not fit together.
pub fn fresh_encoder(sizes: &EncoderConfig, linear: LinearInit, seed: u64) -> Result<(Encoder, Params)> {
    possible(sizes)?;
    let (mut params, mut rng) = (Params::new(), stream(seed, Purpose::Init, [0, 0]));
    let mut init = Init { params: &mut params, rng: &mut rng, dtype: DType::F32, linear };
    let encoder = Encoder::new(sizes, &mut init);
    Ok((encoder, params))
}

fn possible(sizes: &EncoderConfig) -> Result<()> {
    let impossible = |problem| Err(Error::config(problem, "choose sizes that fit together, or a preset"));
    sizes.problem().map_or(Ok(()), impossible)
}

/// Numbers in an encoder's parameters, from its sizes alone.
pub(super) fn encoder_elements(encoder: &EncoderConfig) -> u64 {
    let [d, side, tokens] = [encoder.dim, encoder.patch_size, encoder.patches()].map(|n| n as u64);
    let class_token = u64::from(encoder.class_token);
    (3 * side * side + 1 + tokens + 2 * class_token) * d + block_elements(encoder.depth, d)
}

/// Numbers in the parameters of so many blocks of width d, and of the norm behind them.
pub(super) fn block_elements(depth: usize, d: u64) -> u64 {
    // Attention has 4 D² + 4 D, the MLP 8 D² + 5 D, the norms 4 D; behind the blocks stands one more norm.
    depth as u64 * (12 * d * d + 13 * d) + 2 * d
}

/// Reads an encoder of these sizes from a file with the official names: after `target_encoder.` if the file has any of
/// them there, else after `encoder.`, `model.`, or plain. It has a class token if the file has one, whatever `sizes`
/// says. What a partial reading leaves out keeps the values of [`fresh_encoder`] with normal draws and seed 0.
///
/// # Errors
/// When the sizes do not fit together; when the file cannot be read, or does not fit (missing, unexpected or misshapen
/// tensors, those of integers) and `fit` is strict; when nothing in it fits; when a tensor is damaged or not finite. All
/// tensors of which this is true are named in one error (of thousands, the first thousand).
pub fn load_encoder(path: &Path, sizes: &EncoderConfig, fit: Fit) -> Result<LoadedEncoder> {
    let mut file = TensorFile::open(path, HINT)?;
    let names = file.names();
    let part = |name: &str| PARTS.iter().any(|part| name.starts_with(part));
    let has_parts = |prefix: &&str| names.iter().any(|name| name.strip_prefix(*prefix).is_some_and(part));
    let prefix = PREFIXES.into_iter().find(has_parts).unwrap_or("");
    let class_token = file.contains(&format!("{prefix}cls_token"));
    let sizes = EncoderConfig { class_token, ..sizes.clone() };
    possible(&sizes)?;
    // Of a model that a machine can hold, the error below names what is missing. Of a larger one no memory is asked for
    // unless the file has it: a number takes two bytes there at least.
    let (bytes, numbers) = (file.bytes(), encoder_elements(&sizes));
    if fit == Fit::Strict && numbers > MOST_NUMBERS && numbers.saturating_mul(2) > bytes {
        let problem =
            format!("its tensors of {bytes} bytes are not those of an encoder of these sizes, of {numbers} numbers");
        return Err(Error::file(path, problem, HINT));
    }
    let (encoder, mut params) = fresh_encoder(&sizes, LinearInit::Normal, 0)?;
    let others: Vec<&str> = OTHERS.into_iter().filter(|other| *other != prefix).collect();
    let places = params.iter_mut().map(|p| (format!("{prefix}{}", p.name), &mut p.value));
    let left_out = file.fill(places.collect(), &others, fit)?;
    Ok(LoadedEncoder { encoder, params, prefix, left_out })
}

/// How weights are read into a model that is about to be trained.
#[derive(Clone, Debug)]
pub struct InitOptions {
    /// Whether all has to fit.
    pub fit: Fit,
    /// What stands before the names of the encoder in the file.
    pub prefix: Option<String>,
    /// Whether positions of another grid are interpolated.
    pub interpolate_positions: bool,
}

/// What was read.
#[derive(Clone, Debug)]
pub struct InitReport {
    /// To be shown to the user.
    pub lines: Vec<String>,
    /// How images were normalised for these weights, if the file says so.
    pub normalization: Option<Normalization>,
}

/// Reads an encoder into a model.
///
/// # Errors
/// As [`load_encoder`].
pub fn load_into(path: &Path, model: &Model, params: &mut ModelParams, options: &InitOptions) -> Result<InitReport> {
    let loaded = load_encoder(path, model.encoder.config(), options.fit)?;
    let line = format!("{}: an encoder ({}*)", path.display(), loaded.prefix);
    if params.target.is_some() {
        params.target = Some(loaded.params.clone());
    }
    params.encoder = loaded.params;
    Ok(InitReport { lines: vec![line], normalization: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Tensor;
    use crate::train::safetensors::testing::{Scratch, f32s, file_of};
    use crate::vit::Preset;

    fn tiny() -> EncoderConfig {
        EncoderConfig { image_size: 8, dim: 8, depth: 1, heads: 2, ..Preset::Toy.sizes().0 }
    }

    /// The tensors of an encoder under a prefix, as (name, type, shape, bytes) for [`file_of`].
    fn written(params: &Params, prefix: &str) -> Vec<(String, Vec<usize>, Vec<u8>)> {
        let bytes = |x: &Tensor| f32s(x.as_slice());
        params.iter().map(|p| (format!("{prefix}{}", p.name), p.value.shape().to_vec(), bytes(&p.value))).collect()
    }

    fn encoder_file(name: &str, modules: &[(&str, &Params)]) -> Scratch {
        let all: Vec<_> = modules.iter().flat_map(|(prefix, params)| written(params, prefix)).collect();
        file_with(name, &all)
    }

    fn file_with(name: &str, tensors: &[(String, Vec<usize>, Vec<u8>)]) -> Scratch {
        let all: Vec<_> =
            tensors.iter().map(|(name, shape, x)| (name.as_str(), "F32", &shape[..], x.clone())).collect();
        Scratch::new(name, &file_of(&all))
    }

    #[test]
    fn an_encoder_is_found_under_any_of_its_prefixes_the_target_first() {
        let sizes = tiny();
        let fresh = |seed| fresh_encoder(&sizes, LinearInit::Normal, seed).unwrap().1;
        let (context, target) = (fresh(1), fresh(2));
        let same = |a: &Params, b: &Params| a.iter().zip(b.iter()).all(|(a, b)| a.value.max_abs_diff(&b.value) == 0.0);
        for prefix in PREFIXES {
            let file = encoder_file("prefix", &[(prefix, &context)]);
            let loaded = load_encoder(&file.0, &sizes, Fit::Strict).unwrap();
            assert_eq!((loaded.prefix, loaded.left_out.len()), (prefix, 0));
            assert!(same(&loaded.params, &context));
        }
        let file =
            encoder_file("both", &[("encoder.", &context), ("target_encoder.", &target), ("predictor.", &context)]);
        assert!(same(&load_encoder(&file.0, &sizes, Fit::Strict).unwrap().params, &target));
    }

    /// As after a file was cut and mended by hand: an encoder that is not asked for is not read in its place.
    #[test]
    fn an_encoder_that_is_not_whole_is_still_the_one() {
        let (_, params) = fresh_encoder(&tiny(), LinearInit::Normal, 1).unwrap();
        for missing in params.iter().map(|p| format!("target_encoder.{}", p.name)) {
            let mut all = [written(&params, "encoder."), written(&params, "target_encoder.")].concat();
            all.retain(|(name, ..)| *name != missing);
            let file = file_with("part", &all);
            let error = load_encoder(&file.0, &tiny(), Fit::Strict).unwrap_err().to_string();
            assert!(error.contains(&format!("1 tensor cannot be used:\n    {missing} is missing")), "{error}");
            assert_eq!(load_encoder(&file.0, &tiny(), Fit::Partial).unwrap().prefix, "target_encoder.");
        }
    }

    #[test]
    fn what_the_names_of_an_encoder_begin_with() {
        let sizes = EncoderConfig { class_token: true, ..tiny() };
        let (_, params) = fresh_encoder(&sizes, LinearInit::Normal, 1).unwrap();
        let begins = |name: &str, part: &str| name.starts_with(part);
        assert!(params.iter().all(|p| PARTS.iter().any(|part| begins(&p.name, part))));
        assert!(PARTS.iter().all(|part| params.iter().any(|p| begins(&p.name, part))));
    }

    #[test]
    fn the_file_decides_about_the_class_token() {
        for class_token in [false, true] {
            let sizes = EncoderConfig { class_token, ..tiny() };
            let (_, params) = fresh_encoder(&sizes, LinearInit::Xavier, 3).unwrap();
            let file = encoder_file("class", &[("", &params)]);
            let asked = EncoderConfig { class_token: !class_token, ..tiny() };
            let loaded = load_encoder(&file.0, &asked, Fit::Strict).unwrap();
            assert_eq!(loaded.encoder.config(), &sizes);
        }
    }

    #[test]
    fn sizes_that_cannot_be_or_are_not_the_files() {
        let (_, params) = fresh_encoder(&tiny(), LinearInit::Normal, 0).unwrap();
        let file = encoder_file("sizes", &[("", &params)]);
        let impossible = EncoderConfig { heads: 3, ..tiny() };
        assert!(matches!(load_encoder(&file.0, &impossible, Fit::Partial), Err(Error::Config { .. })));
        let deeper = EncoderConfig { depth: 2, ..tiny() };
        let error = load_encoder(&file.0, &deeper, Fit::Strict).unwrap_err().to_string();
        assert!(error.contains("12 tensors cannot") && error.contains("blocks.1.mlp.fc2.bias is missing"), "{error}");
        assert_eq!(load_encoder(&file.0, &deeper, Fit::Partial).unwrap().left_out.len(), 12);
        // More than there is memory for.
        for sizes in [EncoderConfig { dim: 8192, depth: 2, ..tiny() }, EncoderConfig { dim: 16_384, ..tiny() }] {
            let error = load_encoder(&file.0, &sizes, Fit::Strict).unwrap_err().to_string();
            assert!(error.contains("bytes are not those of an encoder of these sizes"), "{error}");
        }
    }

    /// The least that a file of such an encoder can have is enough.
    #[test]
    fn an_encoder_of_two_bytes_a_number_is_read() {
        let sizes = EncoderConfig { class_token: true, ..tiny() };
        let (_, params) = fresh_encoder(&sizes, LinearInit::Normal, 0).unwrap();
        let all = written(&params, "");
        let halves: Vec<_> = all.iter().map(|(n, s, x)| (n.as_str(), "F16", &s[..], vec![0; x.len() / 2])).collect();
        let file = Scratch::new("halves", &file_of(&halves));
        assert_eq!(TensorFile::open(&file.0, "").unwrap().bytes(), 2 * encoder_elements(&sizes));
        load_encoder(&file.0, &sizes, Fit::Strict).unwrap();
    }

    #[test]
    fn a_fresh_encoder_is_the_fresh_models() {
        let config = crate::methods::ModelConfig {
            method: crate::methods::Method::Ijepa { target_blocks: 1 },
            encoder: tiny(),
            predictor: Preset::Toy.sizes().1,
            linear_init: LinearInit::Normal,
        };
        let mut rng = stream(9, Purpose::Init, [0, 0]);
        let (_, params) = crate::methods::Model::new(&config, DType::F32, &mut rng).unwrap();
        let (_, alone) = fresh_encoder(&tiny(), LinearInit::Normal, 9).unwrap();
        assert!(params.encoder.iter().zip(alone.iter()).all(|(a, b)| a.value.max_abs_diff(&b.value) == 0.0));
    }
}
