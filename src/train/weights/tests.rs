//! Encoders out of files made by hand.

use std::sync::Arc;

use super::*;
use crate::methods::{Method, MethodConfig, ModelConfig};
use crate::tensor::Tensor;
use crate::train::safetensors::tests::{Scratch, f32s, file_of, says};
use crate::vit::PredictorConfig;

fn strict() -> InitOptions {
    InitOptions::default()
}

fn partial() -> InitOptions {
    InitOptions { fit: Fit::Partial, ..strict() }
}

fn tiny() -> EncoderConfig {
    EncoderConfig { image_size: 8, dim: 8, depth: 1, heads: 2, ..Preset::Toy.sizes().0 }
}

/// Values that no parameters begin with.
fn marked(params: &Params, by: f64) -> Params {
    let mut params = params.clone();
    let mark = |x: &Tensor| Tensor::from_fn(*x.shape(), DType::F32, |i| by + i as f64 / 1024.0);
    params.iter_mut().for_each(|p| p.value = mark(&p.value));
    params
}

/// An encoder of [`tiny`] sizes, marked.
fn encoder(class_token: bool, by: f64) -> Params {
    marked(&fresh_encoder(&EncoderConfig { class_token, ..tiny() }, LinearInit::Normal, 0).unwrap().1, by)
}

fn model(method: MethodConfig, encoder_depth: usize, predictor_depth: usize) -> (Arc<dyn Method>, ModelParams) {
    let class_token = method.class_token();
    let config = ModelConfig {
        method,
        encoder: EncoderConfig { class_token, depth: encoder_depth, ..tiny() },
        predictor: PredictorConfig { dim: 8, depth: predictor_depth, ..Preset::Toy.sizes().1 },
        linear_init: LinearInit::Normal,
    };
    config.build(DType::F32, &mut stream(11, Purpose::Init, [0, 0])).unwrap()
}

fn same(a: &Params, b: &Params) -> bool {
    a.iter().zip(b.iter()).all(|(a, b)| a.value.max_abs_diff(&b.value) == 0.0)
}

/// A file of these parameters after these prefixes, without the tensor called `but`.
fn file(modules: &[(&str, &Params)], but: &str) -> Scratch {
    let all =
        modules.iter().flat_map(|(prefix, params)| params.iter().map(move |p| (format!("{prefix}{}", p.name), p)));
    let all: Vec<_> = all.filter(|(name, _)| name != but).collect();
    let entries: Vec<_> =
        all.iter().map(|(name, p)| (&**name, "F32", &p.value.shape()[..], f32s(p.value.as_slice()))).collect();
    Scratch::new("weights", &file_of(&entries))
}

fn load(file: &Scratch, sizes: &EncoderConfig, options: &InitOptions) -> Result<LoadedEncoder> {
    load_encoder(&file.0, sizes, options)
}

#[test]
fn an_encoder_is_found_under_any_of_its_prefixes_the_target_first() {
    let (context, target) = (encoder(false, 1.0), encoder(false, 2.0));
    for prefix in ["target_encoder.", "encoder.", "model.", ""] {
        let loaded = load(&file(&[(prefix, &context)], ""), &tiny(), &strict()).unwrap();
        assert_eq!((&*loaded.prefix, loaded.left_out.len()), (prefix, 0));
        assert!(same(&loaded.params, &context));
    }
    let both = [("encoder.", &context), ("target_encoder.", &target), ("predictor.", &context)];
    assert!(same(&load(&file(&both, ""), &tiny(), &strict()).unwrap().params, &target));
    // As after a file was cut and mended by hand: an encoder that is not asked for is not read in its place.
    for missing in target.iter().map(|p| format!("target_encoder.{}", p.name)) {
        let file = file(&both, &missing);
        says(load(&file, &tiny(), &strict()), &[&format!("1 tensor cannot be used:\n    {missing} is missing")]);
        assert_eq!(load(&file, &tiny(), &partial()).unwrap().prefix, "target_encoder.");
    }
}

#[test]
fn the_file_decides_about_the_class_token_which_keeps_its_position() {
    for class_token in [false, true] {
        let params = encoder(class_token, 1.0);
        let file = file(&[("", &params)], "");
        let asked = EncoderConfig { class_token: !class_token, ..tiny() };
        let loaded = load(&file, &asked, &strict()).unwrap();
        assert_eq!(loaded.encoder.config(), &EncoderConfig { class_token, ..tiny() });

        let larger = EncoderConfig { image_size: 12, ..tiny() };
        let loaded = load(&file, &larger, &InitOptions { interpolate_positions: true, ..strict() }).unwrap();
        let [before, after] = [&params, &loaded.params].map(|p| p.get("pos_embed").unwrap().value.to_f64_vec());
        let first = 8 * usize::from(class_token);
        assert_eq!(after[..first], before[..first]);
        // Three places for two: the middle one is the mean of all four.
        let mean = |d: usize| (0..4).map(|t| before[first + 8 * t + d]).sum::<f64>() / 4.0;
        assert!((0..8).all(|d| (after[first + 8 * 4 + d] - mean(d)).abs() < 1e-6));
    }
}

#[test]
fn a_fresh_encoder_is_the_fresh_models() {
    let (_, params) = model(MethodConfig::ijepa(1), 1, 1);
    assert!(same(&params["encoder"], &fresh_encoder(&tiny(), LinearInit::Normal, 11).unwrap().1));
}

/// More images than one thread takes at a time, with and without a class token: each is as if it were alone.
#[test]
fn features_are_the_mean_of_an_images_tokens() {
    for class_token in [false, true] {
        let (_, params) = fresh_encoder(&EncoderConfig { class_token, ..tiny() }, LinearInit::Xavier, 3).unwrap();
        let file = file(&[("", &params)], "");
        let pretrained = PretrainedEncoder::from_safetensors(&file.0, tiny()).unwrap();
        let images = Tensor::from_fn([11, 3, 8, 8], DType::F32, |i| (i as f64 * 0.37).sin());
        let (tokens, features) = (pretrained.tokens(&images).unwrap(), pretrained.features(&images).unwrap());
        let (first, all) = (usize::from(class_token), 4 + usize::from(class_token));
        assert_eq!((&tokens.shape()[..], &features.shape()[..]), (&[11, all, 8][..], &[11, 8][..]));
        for i in [0, 7, 8, 10] {
            assert!(pretrained.tokens(&images.rows(i..i + 1)).unwrap().max_abs_diff(&tokens.rows(i..i + 1)) < 1e-6);
            let values = tokens.rows(i..i + 1).to_f64_vec();
            let means = (0..8).map(|d| (first..all).map(|t| values[8 * t + d]).sum::<f64>() / 4.0).collect();
            assert!(features.rows(i..i + 1).max_abs_diff(&Tensor::new([1, 8], means).to_dtype(DType::F32)) < 1e-6);
        }
        let larger = Tensor::zeros([1, 3, 12, 8], DType::F32);
        says(pretrained.features(&larger), &["[1, 3, 12, 8] for an encoder of [N, 3, 8, 8]", "resize"]);
    }
}

#[test]
fn a_model_begins_with_what_a_file_has() {
    let ijepa = |depths: [usize; 2]| model(MethodConfig::ijepa(1), depths[0], depths[1]);
    let (model, fresh) = ijepa([1, 1]);
    let [online, target, predictor] =
        [(&fresh["encoder"], 1.0), (&fresh["encoder"], 2.0), (&fresh["predictor"], 3.0)].map(|(p, by)| marked(p, by));
    let official = [("encoder.", &online), ("predictor.", &predictor), ("target_encoder.", &target)];
    let init = |modules: &[(&str, &Params)], options: &InitOptions| {
        let mut params = fresh.clone();
        let lines = load_into(&file(modules, "").0, &*model, &mut params, options).unwrap().lines.join("\n");
        (params, lines)
    };
    let (params, lines) = init(&official, &strict());
    let found = &params["target_encoder"];
    assert!(same(&params["encoder"], &online) && same(found, &target) && same(&params["predictor"], &predictor));
    for words in ["(target_encoder.*)", "predictor: 20 tensors (predictor.predictor_*)"] {
        assert!(lines.contains(words), "{lines}");
    }
    // One encoder alone, or asked for, becomes both.
    let [context, averaged] =
        ["encoder", "target_encoder"].map(|prefix| InitOptions { prefix: Some(prefix.into()), ..strict() });
    let cases = [(&official[..1], strict(), &online), (&official, context, &online), (&official, averaged, &target)];
    for (modules, options, both) in cases {
        let (params, lines) = init(modules, &options);
        assert!(same(&params["encoder"], both) && same(&params["target_encoder"], both), "{lines}");
        assert!(same(&params["predictor"], &fresh["predictor"]) == (modules.len() == 1), "{lines}");
    }
    // A predictor with one block more is another one.
    let deeper = ijepa([1, 2]).1["predictor"].clone();
    let (params, lines) = init(&[("", &online), ("predictor.", &deeper)], &strict());
    assert!(same(&params["predictor"], &fresh["predictor"]) && lines.contains("has other sizes"), "{lines}");

    let (half, (deep, mut params)) = (file(&[("", &online)], ""), ijepa([2, 1]));
    says(load_into(&half.0, &*deep, &mut params, &strict()), &["blocks.1.norm1.weight is missing"]);
    let lines = load_into(&half.0, &*deep, &mut params, &partial()).unwrap().lines.join("\n");
    assert!(lines.contains("17 of 29 tensors") && lines.contains("blocks.1.norm1.weight is missing"), "{lines}");
}

#[test]
fn mae_begins_with_encoder_and_decoder() {
    let (mae, fresh) = model(MethodConfig::Mae { normalize_patches: true }, 1, 1);
    let (encoder, decoder) = (marked(&fresh["encoder"], 1.0), marked(&fresh["predictor"], 2.0));
    for prefix in ["model.", ""] {
        let (file, mut params) = (file(&[(prefix, &encoder), (prefix, &decoder)], ""), fresh.clone());
        let lines = load_into(&file.0, &*mae, &mut params, &strict()).unwrap().lines.join("\n");
        assert!(same(&params["encoder"], &encoder) && same(&params["predictor"], &decoder), "{lines}");
    }
    // I-JEPA has no class token: in part only, and then the patches' positions are read all the same.
    let (file, (ijepa, mut params)) = (file(&[("", &encoder)], ""), model(MethodConfig::ijepa(1), 1, 1));
    says(load_into(&file.0, &*ijepa, &mut params, &strict()), &["cls_token is unexpected", "`MethodConfig::Mae`"]);
    load_into(&file.0, &*ijepa, &mut params, &partial()).unwrap();
    let (from, to) = (encoder.get("pos_embed").unwrap(), params["encoder"].get("pos_embed").unwrap());
    assert_eq!(from.value.as_slice::<f32>()[8..], *to.value.as_slice::<f32>());
}
