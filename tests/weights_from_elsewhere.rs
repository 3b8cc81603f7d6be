//! Weights that no run of this program wrote, through the command line: features, and what is refused.

mod common;

use std::path::Path;

use common::{Scratch, contains};
use image::{Rgb, RgbImage};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use stop_mim::autograd::Var;
use stop_mim::nn::{LinearInit, Params};
use stop_mim::train::safetensors::TensorFile;
use stop_mim::train::weights::fresh_encoder;
use stop_mim::vit::{Encoder, EncoderConfig, Preset};
use stop_mim::{DType, Tensor};

fn features(scratch: &Scratch) -> Tensor {
    TensorFile::open(&scratch.path("features"), "").unwrap().tensor("features", DType::F32).unwrap()
}

/// Runs the program, which ends with this code and says these words on standard error, or output if it is well.
#[track_caller]
fn said(scratch: &Scratch, args: &str, code: i32, words: &[&str]) {
    let output = scratch.run(args);
    let message = [output.stderr, if code == 0 { output.stdout } else { Vec::new() }].concat();
    let message = String::from_utf8_lossy(&message);
    assert_eq!(output.status.code(), Some(code), "{args}: {message}");
    assert!(!message.contains("panicked"), "{args}: {message}");
    contains(&message, words);
}

/// Writes tensors as f32.
fn write(path: &Path, tensors: &[(String, &Tensor)]) {
    let bytes = |x: &Tensor| -> Vec<u8> { x.as_slice::<f32>().iter().flat_map(|x| x.to_le_bytes()).collect() };
    let all: Vec<_> = tensors.iter().map(|(name, x)| (name, x.shape().to_vec(), bytes(x))).collect();
    let views = all.iter().map(|(name, shape, x)| (name, TensorView::new(Dtype::F32, shape.clone(), x).unwrap()));
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

fn named<'a>(params: &'a Params, prefix: &str) -> Vec<(String, &'a Tensor)> {
    params.iter().map(|p| (format!("{prefix}{}", p.name), &p.value)).collect()
}

/// A small encoder of the preset toy, in which every parameter shows in the features.
fn small(class_token: bool, seed: u64) -> (Encoder, Params) {
    let sizes = EncoderConfig { image_size: 16, class_token, ..Preset::Toy.sizes().0 };
    let (encoder, mut params) = fresh_encoder(&sizes, LinearInit::Normal, seed).unwrap();
    for (k, p) in params.iter_mut().enumerate() {
        let some = Tensor::from_fn(*p.value.shape(), DType::F32, |i| ((i * 7 + k) as f64).sin() * 0.05);
        let sum = p.value.as_slice::<f32>().iter().zip(some.as_slice::<f32>()).map(|(a, b)| a + b).collect();
        p.value = Tensor::new(*p.value.shape(), sum);
    }
    (encoder, params)
}

/// Images in a tensor `images`, and their features.
fn images(folder: &Path, encoder: &Encoder, params: &Params) -> Tensor {
    let images = Tensor::from_fn([3, 3, 16, 16], DType::F32, |i| (i as f64 * 0.37).sin());
    write(&folder.join("images"), &[("images".into(), &images)]);
    encoder.forward(&params.constants(), &Var::constant(images), None).value().clone()
}

const TOY: &str = "features weights --preset toy --image-size 16 --images images --out features";

#[test]
fn features_of_weights_from_elsewhere() {
    let scratch = Scratch::new();
    let folder = scratch.folder();
    let (encoder, params) = small(false, 7);
    let exact = images(folder, &encoder, &params);
    for prefix in ["", "target_encoder.", "model._orig_mod.module."] {
        write(&folder.join("weights"), &named(&params, prefix));
        said(&scratch, TOY, 0, &["expects pixels normalized by mean [0.485, 0.456, 0.406]"]);
        assert!(features(&scratch).max_abs_diff(&exact) < 1e-6);
    }
    // The file says its sizes, but for the heads.
    let told = "features weights --heads 2 --images images --out features";
    said(&scratch, told, 0, &["53 of 53 tensors from weights (model._orig_mod.module.*)"]);
    assert!(features(&scratch).max_abs_diff(&exact) < 1e-6);
    said(
        &scratch,
        &told.replace("--heads 2", ""),
        1,
        &["an encoder of width 128", "--heads N (ViTs of this width have 2)"],
    );
    said(&scratch, &told.replace("2", "3"), 1, &["3 heads do not divide its width 128"]);

    // What changes nothing is left aside; what would change features is refused, or left out and said.
    let one = Tensor::full([4, 4], 1.0, DType::F32);
    let mut more = named(&params, "");
    more.extend(["head.weight", "decoder_embed.weight", "mask_token"].map(|name| (name.to_owned(), &one)));
    write(&folder.join("weights"), &more);
    said(&scratch, TOY, 0, &["left aside: decoder_*, head.*, mask_token"]);
    more.push(("blocks.0.ls1.gamma".into(), &one));
    more.retain(|(name, _)| name != "blocks.3.mlp.fc2.bias");
    write(&folder.join("weights"), &more);
    let mismatches = ["weights", "blocks.3.mlp.fc2.bias is missing", "blocks.0.ls1.gamma is unexpected"];
    said(&scratch, TOY, 1, &[&mismatches[..], &["2 tensors cannot"]].concat());
    said(&scratch, &format!("{TOY} --partial"), 0, &mismatches);

    let of = |name: &str, x: &Tensor| write(&folder.join(name), &[("images".into(), x)]);
    of("small", &Tensor::zeros([2, 3, 8, 8], DType::F32));
    of("none", &Tensor::zeros([0, 3, 16, 16], DType::F32));
    of("flat", &Tensor::zeros([16], DType::F32));
    of("gray", &Tensor::zeros([2, 1, 16, 16], DType::F32));
    let bytes = TensorView::new(Dtype::U8, vec![1, 3, 16, 16], &[7; 768]).unwrap();
    std::fs::write(folder.join("bytes"), safetensors::serialize([("images", bytes)], None).unwrap()).unwrap();
    let cases = [
        ("small", "[2, 3, 8, 8]", "resize them"),
        ("none", "[0, 3, 16, 16]", "at least one image"),
        ("flat", "[16]", "red, green and blue"),
        ("gray", "[2, 1, 16, 16]", "red, green and blue"),
        ("bytes", "images is of U8", "convert it to floating point"),
        ("weights", "images is missing", "a tensor images"),
    ];
    for (file, what, hint) in cases {
        let command = format!("{TOY} --partial").replace("--images images", &format!("--images {file}"));
        said(&scratch, &command, 1, &[file, what, hint]);
    }
    said(&scratch, "probe weights --partial", 1, &["--heads"]);
    said(
        &scratch,
        "probe images",
        1,
        &["no encoder in it: its 1 tensors have names that begin with images", "interop.md"],
    );
    said(&scratch, "probe weights --preset toy --image-size 16 --partial", 1, &["--data"]);
    let wrong = "patch_embed.proj.weight is [128, 3, 4, 4] instead of";
    let hint = "(--preset, --image-size, --patch, --dim, --depth; read by probe and features without --preset)";
    said(&scratch, "probe weights --preset vit-b16 --data shapes", 1, &[wrong, hint, "; --partial reads what fits"]);
    let probe = "probe weights --preset toy --image-size 16 --partial --data shapes --probe-images 20,20";
    said(&scratch, probe, 0, &["blocks.0.ls1.gamma"]);
    for (flags, code, words) in [
        ("--mean 1,2", 2, "three numbers"),
        ("--mean 1,2,x", 2, "'x' is not"),
        ("--mean 0,0,0 --std 0,1,1", 1, "above 0"),
        ("--mean -0.1,0,0 --std 1,1,1", 0, "mean [-0.1, 0.0, 0.0]"),
    ] {
        said(&scratch, &format!("{TOY} --partial {flags}"), code, &[words]);
    }
    // Refused before memory is asked for.
    let huge = "features weights --heads 2 --images images --out features --partial --image-size 16384 --patch 1";
    said(&scratch, huge, 1, &["images of 16384x16384 pixels are not supported"]);
    let wide = "features weights --heads 2 --images images --out features --partial --dim 16384 --depth 100";
    said(&scratch, wide, 1, &["not those of an encoder of these sizes"]);
}

/// The transformers library has queries, keys and values apart; its MAE has a class token, and a decoder beside `vit.`.
#[test]
fn names_of_the_transformers_library() {
    let scratch = Scratch::new();
    for (class_token, prefix) in [(false, ""), (false, "ijepa."), (true, "vit.")] {
        let (encoder, params) = small(class_token, 8);
        let exact = images(scratch.folder(), &encoder, &params);
        let mut tensors: Vec<(String, Tensor)> = Vec::new();
        for p in params.iter() {
            let (layer, kind) = p.name.rsplit_once('.').unwrap_or((&p.name, ""));
            let block = |name: &str| name.replace("blocks.", "encoder.layer.");
            let theirs = match layer {
                "pos_embed" => "embeddings.position_embeddings".to_owned(),
                "cls_token" => "embeddings.cls_token".to_owned(),
                "patch_embed.proj" => format!("embeddings.patch_embeddings.projection.{kind}"),
                "norm" => format!("layernorm.{kind}"),
                _ if layer.ends_with("attn.qkv") => {
                    for (k, name) in ["query", "key", "value"].into_iter().enumerate() {
                        let theirs = block(layer).replace("attn.qkv", &format!("attention.attention.{name}"));
                        tensors.push((format!("{prefix}{theirs}.{kind}"), p.value.rows(128 * k..128 * (k + 1))));
                    }
                    continue;
                }
                _ => {
                    let theirs = block(layer).replace("attn.proj", "attention.output.dense");
                    let theirs = theirs.replace("norm1", "layernorm_before").replace("norm2", "layernorm_after");
                    let theirs = theirs.replace("mlp.fc1", "intermediate.dense").replace("mlp.fc2", "output.dense");
                    format!("{theirs}.{kind}")
                }
            };
            tensors.push((format!("{prefix}{theirs}"), p.value.clone()));
        }
        tensors.push((format!("{prefix}pooler.dense.bias"), Tensor::zeros([128], DType::F32)));
        tensors.push(("decoder.mask_token".into(), Tensor::zeros([1, 1, 4], DType::F32)));
        let all: Vec<_> = tensors.iter().map(|(name, x)| (name.clone(), x)).collect();
        write(&scratch.path("weights"), &all);
        for command in [TOY, "features weights --heads 2 --images images --out features"] {
            said(&scratch, command, 0, &["left aside:", "pooler.*"]);
            assert!(features(&scratch).max_abs_diff(&exact) < 1e-6, "{prefix}");
        }
        let key = format!("{prefix}encoder.layer.2.attention.attention.key.weight");
        let all: Vec<_> = all.into_iter().filter(|(name, _)| *name != key).collect();
        write(&scratch.path("weights"), &all);
        said(&scratch, TOY, 1, &["1 tensor cannot", &format!("{key} is missing")]);
    }
}

#[test]
fn of_several_encoders_one_is_taken_and_said() {
    let scratch = Scratch::new();
    let (encoder, params) = small(false, 1);
    let (_, others) = small(false, 2);
    let exact = images(scratch.folder(), &encoder, &params);
    let head = Tensor::zeros([4, 128], DType::F32);
    let mut all = [named(&others, "student.backbone."), named(&params, "teacher.backbone.")].concat();
    all.push(("teacher.head.mlp.0.weight".into(), &head));
    write(&scratch.path("weights"), &all);
    said(&scratch, TOY, 0, &["the evaluated one first: teacher.backbone.*, student.backbone.*", "--prefix"]);
    assert!(features(&scratch).max_abs_diff(&exact) < 1e-6);
    for prefix in ["student", "student.", "student.backbone", "student.backbone."] {
        said(&scratch, &format!("{TOY} --prefix {prefix}"), 0, &["(student.backbone.*)"]);
        assert!(features(&scratch).max_abs_diff(&exact) > 1e-3);
    }
    let there = ["no encoder after the prefix 'stud'", "there are: teacher.backbone.*, student.backbone.*"];
    said(&scratch, &format!("{TOY} --prefix stud"), 1, &there);
}

#[test]
fn positions_of_another_grid() {
    let scratch = Scratch::new();
    for class_token in [false, true] {
        let (_, params) = small(class_token, 3);
        write(&scratch.path("weights"), &named(&params, ""));
        let x = Tensor::from_fn([1, 3, 24, 24], DType::F32, |i| (i as f64 * 0.37).sin());
        write(&scratch.path("images"), &[("images".into(), &x)]);
        let command = TOY.replace("16", "24");
        let shape =
            if class_token { "[1, 17, 128] instead of [1, 37, 128]" } else { "[1, 16, 128] instead of [1, 36, 128]" };
        said(&scratch, &command, 1, &["pos_embed is", shape, "--interpolate-positions"]);
        let command = format!("{command} --interpolate-positions");
        said(&scratch, &command, 0, &["pos_embed interpolated from a grid of 4x4 to 6x6"]);
        assert_eq!(features(&scratch).shape()[..], [1, 36 + usize::from(class_token), 128]);
    }
    let (_, mut params) = small(false, 3);
    let position = params.iter_mut().find(|p| p.name == "pos_embed").unwrap();
    position.value = Tensor::zeros([1, 15, 128], DType::F32);
    write(&scratch.path("weights"), &named(&params, ""));
    said(&scratch, &format!("{TOY} --interpolate-positions"), 1, &["15 positions, which are no square grid"]);
    said(&scratch, &TOY.replace("--preset toy", "--heads 2"), 1, &["pos_embed is [1, 15, 128]"]);
}

#[test]
fn what_is_read_is_not_written_over() {
    let scratch = Scratch::new();
    let (_, params) = small(true, 5);
    write(&scratch.path("weights"), &named(&params, ""));
    write(&scratch.path("images"), &[("images".to_owned(), &Tensor::zeros([1, 3, 16, 16], DType::F32))]);
    let before = ["weights", "images"].map(|name| std::fs::read(scratch.path(name)).unwrap());
    for out in ["weights", "images", "./weights"] {
        let args = format!("features weights --heads 2 --images images --out {out}");
        said(&scratch, &args, 1, &["would replace", "give another name"]);
    }
    said(&scratch, "features weights --heads 2 --images images --out features", 0, &[]);
    assert_eq!(before, ["weights", "images"].map(|name| std::fs::read(scratch.path(name)).unwrap()));
}

#[test]
fn features_of_a_folder() {
    let scratch = Scratch::new();
    let (encoder, params) = small(true, 5);
    write(&scratch.path("weights"), &named(&params, ""));
    let (mean, std) = ([0.1, 0.2, 0.3], [0.5, 0.25, 2.0]);
    let paths = ["a/1.png", "a/b/2.png", "z.png"];
    let mut pixels = Vec::new();
    for (k, path) in paths.into_iter().enumerate() {
        let picture = RgbImage::from_fn(16, 16, |x, y| Rgb([(x * 9) as u8, (y * 15) as u8, (k * 80) as u8]));
        std::fs::create_dir_all(scratch.path("pictures").join(path).parent().unwrap()).unwrap();
        picture.save(scratch.path("pictures").join(path)).unwrap();
        for c in 0..3 {
            pixels.extend(picture.pixels().map(|pixel| (f32::from(pixel[c]) / 255.0 - mean[c]) / std[c]));
        }
    }
    let x = Var::constant(Tensor::new([3, 3, 16, 16], pixels));
    let tokens = encoder.forward(&params.constants(), &x, None).value().clone();
    let mean_token =
        |i: usize, d: usize| (1..17).map(|t| tokens.to_f64_vec()[(i * 17 + t) * 128 + d]).sum::<f64>() / 16.0;
    let command =
        "features weights --heads 2 --data folder:pictures --out features --mean 0.1,0.2,0.3 --std 0.5,0.25,2";
    said(&scratch, command, 0, &["features of [3, 128] in features", "--mean and --std"]);
    let pooled = features(&scratch);
    assert_eq!(pooled.shape()[..], [3, 128]);
    for (i, d) in [(0, 0), (1, 17), (2, 127)] {
        assert!((pooled.to_f64_vec()[i * 128 + d] - mean_token(i, d)).abs() < 1e-5);
    }
    let names = || {
        let bytes = std::fs::read(scratch.path("features")).unwrap();
        let names = SafeTensors::deserialize(&bytes).unwrap().tensor("names").unwrap().data().to_vec();
        String::from_utf8(names).unwrap().split('\0').map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(names(), paths);
    said(&scratch, &format!("{command} --tokens"), 0, &["features of [3, 17, 128]"]);
    assert!(features(&scratch).max_abs_diff(&tokens) < 1e-5);

    // A picture that cannot be decoded is left out, and said; or refused, and nothing is written.
    let whole = std::fs::read(scratch.path("pictures/z.png")).unwrap();
    std::fs::write(scratch.path("pictures/a/0.png"), &whole[..whole.len() - 40]).unwrap();
    said(&scratch, command, 0, &["a/0.png", "features of [3, 128] in features; 1 images could not be used"]);
    assert!(features(&scratch).max_abs_diff(&pooled) < 1e-6);
    assert_eq!(names(), paths);
    // Both what is left out at opening and what cannot be decoded counts, and each is named once.
    std::fs::write(scratch.path("pictures/header.png"), b"no picture").unwrap();
    said(&scratch, command, 0, &["features of [3, 128] in features; 2 images could not be used"]);
    let warnings = String::from_utf8(scratch.run(command).stderr).unwrap();
    assert_eq!(warnings.matches("0.png").count(), 1, "{warnings}");
    let strict = format!("{command} --strict").replace("--out features", "--out strict");
    said(&scratch, &strict, 1, &["0.png"]);
    assert!(!scratch.path("strict").exists());
    said(&scratch, "features weights --heads 2 --out features", 2, &["--data"]);
}

const RUN: &str = "pretrain --image-size 16 --patch 2 --dim 16 --depth 1 --heads 2 --predictor-dim 8 --predictor-depth 1 \
    --predictor-heads 1 --batch 4 --steps 1";

/// A checkpoint of this program with `from` in its configuration replaced, and without checksums.
fn changed(checkpoint: &Path, from: &str, to: &str) -> Vec<u8> {
    let bytes = std::fs::read(checkpoint).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let mut metadata = header.metadata().clone().unwrap();
    metadata.retain(|key, _| !["crc32", "checksum"].contains(&&**key));
    let config = metadata.get_mut("config").unwrap();
    let (before, rest) = config.split_once(from).unwrap();
    let (_, after) = rest.split_once('}').unwrap();
    *config = format!("{before}{to}{after}");
    safetensors::serialize(SafeTensors::deserialize(&bytes).unwrap().iter(), Some(metadata)).unwrap()
}

/// However it is read: its run's statistics, images and seed; and where it is one of 0.1.0, the statistics of the images.
#[test]
fn a_checkpoint_says_its_run_however_it_is_read() {
    let scratch = Scratch::new();
    let checkpoint = scratch.path("runs/run/checkpoint.safetensors");
    said(&scratch, &format!("{RUN} --name run"), 0, &[]);
    let probe = |file: &str, flags: &str, words: &[&str]| {
        said(&scratch, &format!("probe {file} --probe-images 40,40 {flags}"), 0, words);
    };
    let ours = "runs/run/checkpoint.safetensors";
    for flags in ["", "--image-size 24 --interpolate-positions", "--prefix encoder", "--partial"] {
        probe(ours, flags, &[": the checkpoint's own", "shapes"]);
    }
    let old = changed(&checkpoint, "\"normalization\":{", "\"normalization\":null");
    std::fs::write(scratch.path("old"), old).unwrap();
    for flags in ["", "--prefix encoder", "--partial"] {
        probe("old", flags, &[": the images' own"]);
    }
    // A run that begins with weights: what is asked for comes before what the file says, and that before ImageNet's.
    let bytes = std::fs::read(&checkpoint).unwrap();
    let bare = safetensors::serialize(SafeTensors::deserialize(&bytes).unwrap().iter(), None).unwrap();
    std::fs::write(scratch.path("bare"), bare).unwrap();
    let (asked, as_asked) =
        ("--mean 0.5,-0.25,0 --std 1,2,0.5", "mean [0.5, -0.25, 0.0], std [1.0, 2.0, 0.5]: as asked");
    for (init, own) in [("old", ": the images' own"), (ours, ": the checkpoint's own"), ("bare", ": ImageNet's;")] {
        said(&scratch, &format!("{RUN} --init {init}"), 0, &[own]);
        said(&scratch, &format!("{RUN} --init {init} {asked}"), 0, &[as_asked]);
    }
    said(&scratch, &format!("{RUN} {asked}"), 0, &[as_asked]);
    said(&scratch, "reconstruct old --images 1", 0, &[": the images' own"]);
    said(&scratch, &format!("reconstruct {ours} --images 1"), 0, &[": the checkpoint's own"]);
    let images = Tensor::zeros([1, 3, 16, 16], DType::F32);
    write(&scratch.path("images"), &[("images".into(), &images)]);
    said(&scratch, "features old --images images --out features", 0, &["expects pixels", "is one of 0.1.0"]);
    let bad = "\"normalization\":{\"mean\":[0,0,0],\"std\":[-1,1,1]}";
    std::fs::write(scratch.path("bad"), changed(&checkpoint, "\"normalization\":{", bad)).unwrap();
    for flags in ["", "--prefix encoder", "--partial"] {
        said(&scratch, &format!("probe bad {flags}"), 1, &["cannot be normalized"]);
    }
}

#[test]
fn what_a_run_begins_with_is_said_once() {
    let scratch = Scratch::new();
    said(&scratch, &format!("{RUN} --method mae --name mae"), 0, &[]);
    let init = format!("{RUN} --init runs/mae/checkpoint.safetensors");
    let again = scratch.run(&format!("{init} --method mae --name again"));
    let printed = String::from_utf8(again.stdout).unwrap();
    assert!(printed.contains("decoder: 20 tensors") && !printed.contains("left aside: decoder"), "{printed}");
    assert!(!printed.contains("mask_token"), "{printed}");
    said(&scratch, &format!("{init} --method ijepa"), 1, &["cls_token is unexpected", "begins a run of --method mae"]);
    said(&scratch, &format!("{init} --method ijepa --partial"), 0, &["left aside: decoder_*, mask_token"]);
}
