//! Weights that no run of this program wrote: an encoder under the official names, out of a safetensors file.

use std::path::Path;

use super::safetensors::{Fit, Misfit, TensorFile};
use crate::nn::{Init, LinearInit, Params};
use crate::rng::{Purpose, stream};
use crate::tensor::DType;
use crate::vit::{Encoder, EncoderConfig};
use crate::{Error, Result};

/// The prefixes under which an encoder can lie in a file, the evaluated one first: with a target encoder, it is the one
/// (appendix C.1). Plain names come last.
const PREFIXES: [&str; 4] = ["target_encoder.", "encoder.", "model.", ""];
/// The prefixes of what else is in a file of several modules, or in a checkpoint to go on from.
const OTHERS: [&str; 4] = ["target_encoder.", "encoder.", "predictor.", "optimizer."];
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
    if let Some(problem) = sizes.problem() {
        return Err(Error::config(problem, "choose sizes that fit together, or a preset"));
    }
    let (mut params, mut rng) = (Params::new(), stream(seed, Purpose::Init, [0, 0]));
    let mut init = Init { params: &mut params, rng: &mut rng, dtype: DType::F32, linear };
    let encoder = Encoder::new(sizes, &mut init);
    Ok((encoder, params))
}

/// Reads an encoder of these sizes from a file with the official names: plain, or after `target_encoder.` (preferred),
/// `encoder.` or `model.`. It has a class token if the file has one, whatever `sizes` says. What a partial reading
/// leaves out keeps the values of [`fresh_encoder`] with normal draws and seed 0.
///
/// # Errors
/// When the sizes do not fit together; when the file cannot be read, or does not fit (missing, unexpected or misshapen
/// tensors, those of integers) and `fit` is strict; when nothing in it fits; when a tensor is damaged or not finite. One
/// error names the tensors of which this is true, or the first of very many.
pub fn load_encoder(path: &Path, sizes: &EncoderConfig, fit: Fit) -> Result<LoadedEncoder> {
    let mut file = TensorFile::open(path, HINT)?;
    let found = PREFIXES.into_iter().find(|prefix| file.contains(&format!("{prefix}patch_embed.proj.weight")));
    let prefix = found.unwrap_or("");
    let class_token = file.contains(&format!("{prefix}cls_token"));
    let sizes = EncoderConfig { class_token, ..sizes.clone() };
    let (encoder, mut params) = fresh_encoder(&sizes, LinearInit::Normal, 0)?;
    let others: Vec<&str> = OTHERS.into_iter().filter(|other| *other != prefix).collect();
    let places = params.iter_mut().map(|p| (format!("{prefix}{}", p.name), &mut p.value));
    let left_out = file.fill(places.collect(), &others, fit)?;
    Ok(LoadedEncoder { encoder, params, prefix, left_out })
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
        let all: Vec<_> = all.iter().map(|(name, shape, x)| (name.as_str(), "F32", &shape[..], x.clone())).collect();
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
