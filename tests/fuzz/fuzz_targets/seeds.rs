//! Writes inputs that the readers accept, for the fuzzer to begin with: `corpus/TARGET/NAME`. A
//! target like the others, so that nothing is built twice; it does its work before the first input.

#![no_main]

use std::path::Path;

use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use libfuzzer_sys::fuzz_target;
use stop_mim::methods::{MethodConfig, MethodOptions};
use stop_mim::paper::masking::MultiBlock;
use stop_mim::train::checkpoint::CheckpointPolicy;
use stop_mim::train::{Masking, RunConfig, Trainer, checkpoint, fresh_model};
use stop_mim::vit::Preset;

fn write(target: &str, name: &str, bytes: &[u8]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(name), bytes).unwrap();
}

/// Both forms of the input: the file, and its header, a zero and its tensors.
fn write_safetensors(targets: &[&str], name: &str, file: &[u8]) {
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let (header, tensors) = file[8..].split_at(length);
    for target in targets {
        write(target, &format!("{name}-raw"), &[b"r", file].concat());
        write(target, &format!("{name}-parts"), &[b"p", header, b"\0", tensors].concat());
    }
}

fn config(method: &str) -> RunConfig {
    let method = MethodConfig::new(method, &MethodOptions::default()).unwrap();
    let mut config = RunConfig { batch: 4, ..RunConfig::for_method(method, Preset::Toy) }.with_steps(10);
    let (encoder, predictor) = (&mut config.model.encoder, &mut config.model.predictor);
    (encoder.image_size, encoder.dim, encoder.depth, encoder.heads) = (16, 4, 1, 1);
    (predictor.dim, predictor.depth, predictor.heads) = (4, 1, 1);
    config.masking = match config.model.method.masking(4) {
        Masking::Blocks(blocks) => Masking::Blocks(MultiBlock { min_keep: 1, ..blocks }),
        random => random,
    };
    config
}

fuzz_target!(init: write_all(), |_data: &[u8]| {});

fn write_all() {
    let scratch = std::env::temp_dir().join(format!("stop-mim-seed-{}", std::process::id()));
    for name in MethodConfig::NAMES {
        let config = config(name);
        config.validate().unwrap();
        write("run_config", name, serde_json::to_string(&config).unwrap().as_bytes());
        let (method, params) = fresh_model(&config).unwrap();
        checkpoint::save(&scratch, &config, 3, &params).unwrap();
        write_safetensors(&["checkpoint", "weights"], name, &std::fs::read(&scratch).unwrap());
        let policy =
            CheckpointPolicy { diagnose_every: 1, checkpoint_every: 1, keep: 1, keep_every: 0, images: "few".to_owned() };
        checkpoint::save_run(&scratch, &config, &policy, &Trainer::new(method, params)).unwrap();
        write_safetensors(&["checkpoint", "weights"], &format!("{name}-run"), &std::fs::read(&scratch).unwrap());
    }
    for (dtype, size) in [("F64", 8), ("F32", 4), ("F16", 2), ("BF16", 2), ("I32", 4)] {
        let entry = format!(r#"{{"norm.bias":{{"dtype":"{dtype}","shape":[4],"data_offsets":[0,{}]}}}}"#, 4 * size);
        let file = [&(entry.len() as u64).to_le_bytes()[..], entry.as_bytes(), &vec![1; 4 * size]].concat();
        write_safetensors(&["weights"], dtype, &file);
    }
    let _ = std::fs::remove_file(scratch);

    let image = RgbImage::from_fn(20, 12, |x, y| Rgb([(x * 12) as u8, (y * 20) as u8, (x * y) as u8]));
    let image = DynamicImage::from(image);
    for (name, image) in [
        ("rgb", image.clone()),
        ("gray", image.to_luma8().into()),
        ("gray16", image.to_luma16().into()),
        ("alpha", image.to_rgba8().into()),
        ("alpha16", image.to_rgba16().into()),
    ] {
        for (extension, format) in [("png", ImageFormat::Png), ("jpg", ImageFormat::Jpeg)] {
            let mut bytes = std::io::Cursor::new(Vec::new());
            if image.write_to(&mut bytes, format).is_ok() {
                write("image_file", &format!("{name}.{extension}"), bytes.get_ref());
            }
        }
    }

    for records in 1..4usize {
        let file: Vec<u8> = (0..records * 3074).map(|k| if k % 3074 < 2 { (k % 20) as u8 } else { k as u8 }).collect();
        write("cifar", &format!("{records}"), &[b"\0\0", &file[..]].concat());
    }
    let names: Vec<u8> = (0..100).flat_map(|k| format!("c{k}\n").into_bytes()).collect();
    let length = (names.len() as u16).to_le_bytes();
    write("cifar", "named", &[&length[..], &names, &[1; 3074]].concat());

    for (k, line) in [
        "pretrain\n--method\nstop\n--data\nshapes:count\n--epochs\n2.5\n--target-scale\n0.15,0.2",
        "pretrain\n--preset\nvit-b16\n--sigma-std\n0.25\n--threads\n4",
        "probe\nx.safetensors\n--probe-images\n100,10",
        "check\ngraph",
        "masks\n--images\n3\n--out\nmasks.png\n--strict",
        "--help",
    ]
    .iter()
    .enumerate()
    {
        write("command_line", &k.to_string(), line.as_bytes());
    }
}
