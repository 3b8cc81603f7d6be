//! Encoders out of files made by hand.

use super::*;
use crate::methods::{Method, ModelConfig};
use crate::tensor::Tensor;
use crate::train::safetensors::tests::{Scratch, f32s, file_of};
use crate::vit::PredictorConfig;

fn partial() -> InitOptions {
    InitOptions { fit: Fit::Partial, ..InitOptions::default() }
}

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
    let all: Vec<_> = tensors.iter().map(|(name, shape, x)| (name.as_str(), "F32", &shape[..], x.clone())).collect();
    Scratch::new(name, &file_of(&all))
}

#[test]
fn an_encoder_is_found_under_any_of_its_prefixes_the_target_first() {
    let sizes = tiny();
    let fresh = |seed| fresh_encoder(&sizes, LinearInit::Normal, seed).unwrap().1;
    let (context, target) = (fresh(1), fresh(2));
    let same = |a: &Params, b: &Params| a.iter().zip(b.iter()).all(|(a, b)| a.value.max_abs_diff(&b.value) == 0.0);
    for prefix in ["target_encoder.", "encoder.", "model.", ""] {
        let file = encoder_file("prefix", &[(prefix, &context)]);
        let loaded = load_encoder(&file.0, &sizes, &InitOptions::default()).unwrap();
        assert_eq!((&*loaded.prefix, loaded.left_out.len()), (prefix, 0));
        assert!(same(&loaded.params, &context));
    }
    let file = encoder_file("both", &[("encoder.", &context), ("target_encoder.", &target), ("predictor.", &context)]);
    assert!(same(&load_encoder(&file.0, &sizes, &InitOptions::default()).unwrap().params, &target));
}

/// As after a file was cut and mended by hand: an encoder that is not asked for is not read in its place.
#[test]
fn an_encoder_that_is_not_whole_is_still_the_one() {
    let (_, params) = fresh_encoder(&tiny(), LinearInit::Normal, 1).unwrap();
    for missing in params.iter().map(|p| format!("target_encoder.{}", p.name)) {
        let mut all = [written(&params, "encoder."), written(&params, "target_encoder.")].concat();
        all.retain(|(name, ..)| *name != missing);
        let file = file_with("part", &all);
        let error = load_encoder(&file.0, &tiny(), &InitOptions::default()).unwrap_err().to_string();
        assert!(error.contains(&format!("1 tensor cannot be used:\n    {missing} is missing")), "{error}");
        assert_eq!(load_encoder(&file.0, &tiny(), &partial()).unwrap().prefix, "target_encoder.");
    }
}

#[test]
fn the_file_decides_about_the_class_token() {
    for class_token in [false, true] {
        let sizes = EncoderConfig { class_token, ..tiny() };
        let (_, params) = fresh_encoder(&sizes, LinearInit::Xavier, 3).unwrap();
        let file = encoder_file("class", &[("", &params)]);
        let asked = EncoderConfig { class_token: !class_token, ..tiny() };
        let loaded = load_encoder(&file.0, &asked, &InitOptions::default()).unwrap();
        assert_eq!(loaded.encoder.config(), &sizes);
    }
}

#[test]
fn a_class_token_keeps_its_position_when_the_others_are_interpolated() {
    for class_token in [false, true] {
        let (_, params) = fresh_encoder(&EncoderConfig { class_token, ..tiny() }, LinearInit::Normal, 0).unwrap();
        let params = marked(&params, 1.0);
        let file = encoder_file("interpolated", &[("", &params)]);
        let larger = EncoderConfig { image_size: 12, ..tiny() };
        let options = InitOptions { interpolate_positions: true, ..InitOptions::default() };
        let loaded = load_encoder(&file.0, &larger, &options).unwrap();
        let [before, after] = [&params, &loaded.params].map(|p| p.get("pos_embed").unwrap().value.to_f64_vec());
        let first = 8 * usize::from(class_token);
        assert_eq!(after[..first], before[..first]);
        // Three places for two: the middle one is the mean of all four.
        let mean = |d: usize| (0..4).map(|t| before[first + 8 * t + d]).sum::<f64>() / 4.0;
        assert!((0..8).all(|d| (after[first + 8 * 4 + d] - mean(d)).abs() < 1e-6));
    }
}

#[test]
fn sizes_that_cannot_be_or_are_not_the_files() {
    let (_, params) = fresh_encoder(&tiny(), LinearInit::Normal, 0).unwrap();
    let file = encoder_file("sizes", &[("", &params)]);
    let impossible = EncoderConfig { heads: 3, ..tiny() };
    assert!(matches!(load_encoder(&file.0, &impossible, &partial()), Err(Error::Config { .. })));
    let deeper = EncoderConfig { depth: 2, ..tiny() };
    let error = load_encoder(&file.0, &deeper, &InitOptions::default()).unwrap_err().to_string();
    assert!(error.contains("12 tensors cannot") && error.contains("blocks.1.mlp.fc2.bias is missing"), "{error}");
    assert_eq!(load_encoder(&file.0, &deeper, &partial()).unwrap().left_out.len(), 12);
    // More than there is memory for.
    for sizes in [EncoderConfig { dim: 8192, depth: 2, ..tiny() }, EncoderConfig { dim: 16_384, ..tiny() }] {
        let error = load_encoder(&file.0, &sizes, &InitOptions::default()).unwrap_err().to_string();
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
    assert_eq!(TensorFile::open(&file.0, "").unwrap().bytes(), 2 * sizes.elements());
    load_encoder(&file.0, &sizes, &InitOptions::default()).unwrap();
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

fn model(method: Method) -> (Model, ModelParams) {
    let class_token = matches!(method, Method::Mae { .. });
    let config = ModelConfig {
        method,
        encoder: EncoderConfig { class_token, ..tiny() },
        predictor: PredictorConfig { dim: 8, depth: 1, ..Preset::Toy.sizes().1 },
        linear_init: LinearInit::Normal,
    };
    Model::new(&config, DType::F32, &mut stream(11, Purpose::Init, [0, 0])).unwrap()
}

/// Other values than any that parameters begin with.
fn marked(params: &Params, by: f64) -> Params {
    let mut params = params.clone();
    let mark = |x: &Tensor| Tensor::from_fn(*x.shape(), DType::F32, |i| by + i as f64 / 1024.0);
    params.iter_mut().for_each(|p| p.value = mark(&p.value));
    params
}

fn same(a: &Params, b: &Params) -> bool {
    a.iter().zip(b.iter()).all(|(a, b)| a.value.max_abs_diff(&b.value) == 0.0)
}

#[test]
fn a_model_begins_with_what_a_file_has() {
    let (model_, fresh) = model(Method::Ijepa { target_blocks: 1 });
    let [online, target, predictor] =
        [(&fresh.encoder, 1.0), (&fresh.encoder, 2.0), (&fresh.predictor, 3.0)].map(|(p, by)| marked(p, by));
    let official = [("encoder.", &online), ("predictor.", &predictor), ("target_encoder.", &target)];
    let init = |modules: &[(&str, &Params)], options: &InitOptions| {
        let mut params = fresh.clone();
        let file = encoder_file("init", modules);
        let lines = load_into(&file.0, &model_, &mut params, options)?.lines.join("\n");
        Ok::<_, Error>((params, lines))
    };
    let whole = InitOptions::default();
    let (params, lines) = init(&official, &whole).unwrap();
    let found = params.target.as_ref().unwrap();
    assert!(same(&params.encoder, &online) && same(found, &target) && same(&params.predictor, &predictor));
    assert!(
        lines.contains("(target_encoder.*)") && lines.contains("predictor: 20 tensors (predictor.predictor_*)"),
        "{lines}"
    );

    // One encoder alone, or asked for, becomes both.
    let context = InitOptions { prefix: Some("encoder".into()), ..InitOptions::default() };
    for (modules, options) in [(&official[..1], &whole), (&official[..], &context)] {
        let (params, lines) = init(modules, options).unwrap();
        assert!(same(&params.encoder, &online) && same(params.target.as_ref().unwrap(), &online), "{lines}");
        assert!(same(&params.predictor, &fresh.predictor) == (modules.len() == 1), "{lines}");
    }
    // A predictor with one block more is another one.
    let config = ModelConfig {
        predictor: PredictorConfig { depth: 2, ..model_.config.predictor.clone() },
        ..model_.config.clone()
    };
    let deeper = Model::new(&config, DType::F32, &mut stream(0, Purpose::Init, [0, 0])).unwrap().1.predictor;
    let (params, lines) = init(&[("", &online), ("predictor.", &deeper)], &whole).unwrap();
    assert!(same(&params.predictor, &fresh.predictor) && lines.contains("has other sizes"), "{lines}");

    let half = encoder_file("init-half", &[("", &online)]);
    let mut larger = EncoderConfig { depth: 2, ..tiny() };
    larger.class_token = false;
    let config = ModelConfig { encoder: larger, ..model_.config.clone() };
    let (deep, mut params) = Model::new(&config, DType::F32, &mut stream(0, Purpose::Init, [0, 0])).unwrap();
    let error = load_into(&half.0, &deep, &mut params, &whole).unwrap_err().to_string();
    assert!(error.contains("blocks.1.norm1.weight is missing"), "{error}");
    let lines = load_into(&half.0, &deep, &mut params, &partial()).unwrap().lines.join("\n");
    assert!(lines.contains("17 of 29 tensors") && lines.contains("blocks.1.norm1.weight is missing"), "{lines}");
}

#[test]
fn mae_begins_with_encoder_and_decoder() {
    let (model_, fresh) = model(Method::Mae { normalize_patches: true });
    let (encoder, decoder) = (marked(&fresh.encoder, 1.0), marked(&fresh.predictor, 2.0));
    for prefix in ["model.", ""] {
        let file = encoder_file("init-mae", &[(prefix, &encoder), (prefix, &decoder)]);
        let mut params = fresh.clone();
        let lines = load_into(&file.0, &model_, &mut params, &InitOptions::default()).unwrap().lines.join("\n");
        assert!(same(&params.encoder, &encoder) && same(&params.predictor, &decoder), "{lines}");
    }
    // I-JEPA has no class token: in part only, and then the patches' positions are read all the same.
    let (model_, fresh) = model(Method::Ijepa { target_blocks: 1 });
    let (file, mut params) = (encoder_file("init-mae", &[("", &encoder)]), fresh.clone());
    let error = load_into(&file.0, &model_, &mut params, &InitOptions::default()).unwrap_err().to_string();
    assert!(error.contains("cls_token is unexpected"), "{error}");
    load_into(&file.0, &model_, &mut params, &partial()).unwrap();
    let (from, to) = (encoder.get("pos_embed").unwrap(), params.encoder.get("pos_embed").unwrap());
    assert_eq!(from.value.as_slice::<f32>()[8..], *to.value.as_slice::<f32>());
}
