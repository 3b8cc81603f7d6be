//! Weights that no run of this program wrote, through the command line: features, and what is refused.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use safetensors::tensor::{Dtype, TensorView};
use stop_mim::autograd::Var;
use stop_mim::nn::{LinearInit, Params};
use stop_mim::train::safetensors::TensorFile;
use stop_mim::train::weights::fresh_encoder;
use stop_mim::vit::{EncoderConfig, Preset};
use stop_mim::{DType, Tensor};

struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

fn stop_mim(folder: &Path, args: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stop-mim"));
    command.current_dir(folder).args(args.split_whitespace()).output().unwrap()
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

#[test]
fn features_of_weights_from_elsewhere() {
    let scratch = Scratch(std::env::temp_dir().join(format!("stop-mim-elsewhere-{}", std::process::id())));
    let folder = &scratch.0;
    std::fs::create_dir_all(folder).unwrap();
    let sizes = EncoderConfig { image_size: 16, ..Preset::Toy.sizes().0 };
    let (encoder, params) = fresh_encoder(&sizes, LinearInit::Normal, 7).unwrap();
    let images = Tensor::from_fn([3, 3, 16, 16], DType::F32, |i| (i as f64 * 0.37).sin());
    write(&folder.join("images"), &[("images".into(), &images)]);
    let exact = encoder.forward(&params.constants(), &Var::constant(images.clone()), None).value().clone();

    let command = "features weights --preset toy --image-size 16 --images images --out features";
    for prefix in ["", "target_encoder."] {
        write(&folder.join("weights"), &named(&params, prefix));
        let output = stop_mim(folder, command);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let found = TensorFile::open(&folder.join("features"), "").unwrap().tensor("features", DType::F32).unwrap();
        assert!(found.max_abs_diff(&exact) < 1e-6);
    }

    // One tensor fewer, one more: refused, or read in part and said.
    let mut others = named(&params, "");
    others.retain(|(name, _)| name != "norm.weight"); // fresh, it is 1 already
    others.push(("head.weight".into(), &images));
    write(&folder.join("weights"), &others);
    let said = |args: &str, code: i32, words: &[&str]| {
        let output = stop_mim(folder, args);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args}: {message}");
        assert!(!message.contains("panicked"), "{args}: {message}");
        for word in words {
            assert!(message.contains(word), "{args}: no '{word}' in {message}");
        }
    };
    let misfits = ["weights", "norm.weight is missing", "head.weight is unexpected"];
    said(command, 1, &misfits);
    said(&format!("{command} --partial"), 0, &misfits);
    let found = TensorFile::open(&folder.join("features"), "").unwrap().tensor("features", DType::F32).unwrap();
    assert!(found.max_abs_diff(&exact) < 1e-6);

    let of = |name: &str, x: &Tensor| write(&folder.join(name), &[("images".into(), x)]);
    of("small", &Tensor::zeros([2, 3, 8, 8], DType::F32));
    of("none", &Tensor::zeros([0, 3, 16, 16], DType::F32));
    of("flat", &Tensor::zeros([16], DType::F32));
    of("grey", &Tensor::zeros([2, 1, 16, 16], DType::F32));
    let bytes = TensorView::new(Dtype::U8, vec![1, 3, 16, 16], &[7; 768]).unwrap();
    std::fs::write(folder.join("bytes"), safetensors::serialize([("images", bytes)], None).unwrap()).unwrap();
    let partial = command.replace("weights", "weights --partial");
    let with = |file: &str| partial.replace("--images images", &format!("--images {file}"));
    let cases = [
        ("small", "[2, 3, 8, 8]", "resize them"),
        ("none", "[0, 3, 16, 16]", "at least one image"),
        ("flat", "[16]", "red, green and blue"),
        ("grey", "[2, 1, 16, 16]", "red, green and blue"),
        ("bytes", "images is of U8", "convert it to floating point"),
        ("weights", "images is missing", "a tensor images"),
    ];
    for (file, what, hint) in cases {
        said(&with(file), 1, &[file, what, hint]);
    }
    said("probe weights", 1, &["no stop-mim metadata", "--preset"]);
    said("probe weights --partial", 2, &["--preset"]);
    said("probe weights --preset toy --image-size 16 --partial", 1, &["--data"]);
    said("probe weights --preset vit-b16 --data shapes", 1, &["patch_embed.proj.weight is [128, 3, 4, 4] instead of"]);
    let larger = "probe weights --preset toy --image-size 24 --data shapes";
    said(larger, 1, &["pos_embed is [1, 16, 128] instead of [1, 36, 128]"]);
    let probe = "probe weights --preset toy --image-size 16 --partial --data shapes --probe-images 20,20";
    said(probe, 0, &["head.weight"]);
}
