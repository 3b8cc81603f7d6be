//! Whatever checkpoints, configurations and arguments hold: an error or a success, never a panic, never memory without
//! bound. Random inputs are mutations of sound ones, from fixed seeds.
#![cfg(feature = "cli")]

mod common;

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;

use clap::Parser;
use common::{Scratch, contains, fails, mutated};
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use stop_mim::DType;
use stop_mim::cli::Cli;
use stop_mim::lab::small;
use stop_mim::methods::MethodConfig;
use stop_mim::rng::Generator;
use stop_mim::train::safetensors::TensorFile;
use stop_mim::train::{Masking, RunConfig, StepParams, checkpoint, fresh_model};

/// A run so small that its checkpoint has a few kilobytes.
fn config() -> RunConfig {
    let mut config = RunConfig { batch: 4, steps: 10, ..small::run(&small::trainer(small::stop(), false, DType::F32)) };
    let (encoder, predictor) = (&mut config.model.encoder, &mut config.model.predictor);
    (encoder.dim, encoder.depth, encoder.heads) = (4, 1, 1);
    (predictor.dim, predictor.depth, predictor.heads) = (4, 1, 1);
    config
}

fn changed(change: impl Fn(&mut RunConfig)) -> RunConfig {
    let mut config = config();
    change(&mut config);
    config
}

fn mae(config: &mut RunConfig) {
    (config.model.method, config.model.encoder.class_token) =
        (MethodConfig::Mae { normalize_patches: false, sigma: None }, true);
    config.masking = Masking::Random { ratio: 0.5, unit: 1 };
}

/// What a checkpoint consists of.
#[derive(Clone)]
struct Parts {
    header: Value,
    tensors: Vec<u8>,
}

impl Parts {
    /// Of a checkpoint with checksums.
    fn summed() -> Self {
        let (scratch, config) = (Scratch::new(), config());
        config.validate().unwrap();
        checkpoint::save(&scratch.path("sound"), &config, 3, &fresh_model(&config).unwrap().1).unwrap();
        let file = scratch.read("sound");
        let (length, rest) = file.split_at(8);
        let (header, tensors) = rest.split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
        Parts { header: serde_json::from_slice(header).unwrap(), tensors: tensors.to_vec() }
    }

    /// The same without checksums: what is changed is then seen, and not just that something was.
    fn unsummed() -> Self {
        let mut parts = Self::summed();
        let metadata = parts.header["__metadata__"].as_object_mut().unwrap();
        ["checksum", "crc32"].iter().for_each(|key| drop(metadata.remove(*key).unwrap()));
        parts
    }

    fn file(&self) -> Vec<u8> {
        file(self.header.to_string().as_bytes(), &self.tensors)
    }

    /// The file with something changed in its header.
    fn lie(&self, change: impl Fn(&mut Value)) -> Vec<u8> {
        let mut parts = self.clone();
        change(&mut parts.header);
        parts.file()
    }

    /// The file with something changed in the configuration of its run.
    fn of_run(&self, change: impl Fn(&mut RunConfig)) -> Vec<u8> {
        let config = serde_json::to_string(&changed(change)).unwrap();
        self.lie(|header| header["__metadata__"]["config"] = config.clone().into())
    }
}

fn file(header: &[u8], tensors: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header, tensors].concat()
}

#[test]
fn checkpoints_whose_header_lies() {
    let (scratch, parts) = (Scratch::new(), Parts::unsummed());
    let name = "encoder.norm.weight";
    let set = |key: &str, value: Value| parts.lie(|header| header[name][key] = value.clone());
    let metadata = |key: &str, value: Value| parts.lie(|header| header["__metadata__"][key] = value.clone());
    let with = |change: &dyn Fn(&mut RunConfig)| parts.of_run(change);
    let offsets = &parts.header[name]["data_offsets"];
    let (start, end) = (offsets[0].as_u64().unwrap() as usize, offsets[1].as_u64().unwrap() as usize);
    let poisoned = |x: f32| {
        let mut parts = parts.clone();
        parts.tensors[end - 4..end].copy_from_slice(&x.to_le_bytes());
        parts.file()
    };
    let not_finite = "encoder.norm.weight has values that are not finite";
    let cases = vec![
        ("empty", vec![], "0 bytes long"),
        ("seven bytes", vec![0; 7], "7 bytes long"),
        ("no header", vec![0; 8], "header: EOF"),
        ("endless header", file(b"{}", &[]).iter().map(|_| 0xFF).collect(), "a header of 18446744073709551615 bytes"),
        ("header of a terabyte", [&(1u64 << 40).to_le_bytes()[..], b"{}"].concat(), "a header of 1099511627776 bytes"),
        ("no JSON", file(b"this is not JSON", &[]), "header: expected"),
        ("JSON of another kind", file(b"[1, 2, 3]", &[]), "expected an object"),
        ("nested JSON", file("[".repeat(100_000).as_bytes(), &[]), "header: "),
        ("nothing in it", file(b"{}", &[]), "no stop-mim metadata"),
        ("no tensors", Parts { tensors: vec![], ..parts.clone() }.file(), "and there are 0"),
        ("dtype", set("dtype", "I64".into()), "invalid shape"),
        ("no dtype", set("dtype", "F33".into()), "unknown variant `F33`"),
        ("shape", set("shape", vec![3].into()), "invalid shape"),
        ("shape that overflows", set("shape", vec![u64::MAX, 2].into()), "overflow"),
        ("shape whose bytes overflow", set("shape", vec![1u64 << 62].into()), "overflow"),
        ("shape that overflows to what is there", set("shape", vec![1u64 << 63, 2, 4].into()), "overflow"),
        ("shape of nothing", set("shape", vec![0, u64::MAX].into()), "invalid shape"),
        ("negative shape", set("shape", vec![-4].into()), "invalid value"),
        ("offsets beyond", set("data_offsets", vec![start as u64, u64::MAX].into()), "offset"),
        ("offsets turned round", set("data_offsets", vec![end, start].into()), "offset"),
        ("offsets that overlap", set("data_offsets", vec![start.saturating_sub(4), end - 4].into()), "offset"),
        ("offsets of the first tensor", set("data_offsets", vec![0, end - start].into()), "offset"),
        ("not a number", poisoned(f32::NAN), not_finite),
        ("infinite", poisoned(f32::INFINITY), not_finite),
        ("metadata of another kind", metadata("config", 5.into()), "invalid type: integer `5`, expected a string"),
        ("configuration that is no JSON", metadata("config", "{".into()), "its configuration cannot be read (EOF"),
        ("nested configuration", metadata("config", "[".repeat(100_000).into()), "its configuration cannot be read"),
        ("steps", metadata("step", "-1".into()), "its step is not a number"),
        ("steps without number", metadata("step", "9".repeat(23).into()), "its step is not a number"),
        ("a step after the last", metadata("step", "11".into()), "after step 11 of a run of 10 steps"),
        ("the largest step", metadata("step", u64::MAX.to_string().into()), "after step 18446744073709551615 of"),
        ("format", metadata("format", "stop-mim-999".into()), "format 'stop-mim-999'"),
        ("no patches", with(&|c| c.model.encoder.patch_size = 0), "its configuration cannot work: patches of 0"),
        ("largest sizes", with(&|c| c.model.encoder.dim = usize::MAX), "18446744073709551615 wide"),
        ("largest image", with(&|c| c.model.encoder.image_size = usize::MAX - 3), "its configuration cannot work"),
        ("another size", with(&|c| c.model.encoder.dim = 8), "not half of the model"),
        ("another depth", with(&|c| c.model.encoder.depth = 2), "encoder.blocks.1.norm1.weight is missing"),
        ("another method", with(&mae), "model.pos_embed is missing"),
    ];
    let path = scratch.path("checkpoint");
    for (what, bytes, words) in cases {
        std::fs::write(&path, bytes).unwrap();
        let error = checkpoint::load(&path).err().unwrap_or_else(|| panic!("{what} was accepted")).to_string();
        assert!(error.contains(path.to_str().unwrap()) && error.contains(words), "{what}: no '{words}' in {error}");
    }
}

/// What an error repeats of a file is short, and tells a terminal nothing.
#[test]
fn errors_about_hostile_text_are_short_and_plain() {
    let (scratch, parts) = (Scratch::new(), Parts::unsummed());
    let path = scratch.path("checkpoint");
    let evil = "\u{1b}[2J\r\u{7}";
    let refused = |words: &str, change: &dyn Fn(&mut serde_json::Map<String, Value>)| {
        std::fs::write(&path, parts.lie(|header| change(header.as_object_mut().unwrap()))).unwrap();
        let error = checkpoint::load(&path).err().unwrap().to_string();
        let start = || error.chars().take(1000).collect::<String>();
        assert!(error.len() < 60_000, "{} bytes: {:?}", error.len(), start());
        assert!(!error.contains(|c: char| c.is_control() && c != '\n'), "{:?}", start());
        assert!(error.contains(words), "no '{words}' in {}", start());
    };
    let empty = serde_json::json!({"dtype": "F32", "shape": [0], "data_offsets": [0, 0]});
    let long = evil.repeat(100_000);
    refused("50000 tensors cannot be used:\n    \\u{1b}[2J\\r\\u{7}", &|h| {
        h.extend((0..50_000).map(|k| (format!("{evil}{k:05}"), empty.clone())));
    });
    refused("… and 49000 more", &|h| h.extend((0..50_000).map(|k| (k.to_string(), empty.clone()))));
    refused("1 tensor cannot be used:\n    \\u{1b}[2J", &|h| drop(h.insert(long.clone(), empty.clone())));
    refused("header: invalid type: string \"\\u{1b}", &|h| drop(h.insert("x".into(), long.clone().into())));
    for (key, words) in
        [("format", "format '\\u{1b}[2J"), ("config", "its configuration cannot"), ("step", "is not a number")]
    {
        refused(words, &|h| h["__metadata__"][key] = long.clone().into());
    }
    let unknown = serde_json::json!({ &long: 1 }).to_string();
    refused("its configuration cannot be read (unknown field", &|h| {
        h["__metadata__"]["config"] = unknown.clone().into()
    });
}

/// Configurations that are sound, of models far larger than the file, in each of their sizes: the program refuses them
/// in little memory. (The largest would take terabytes.)
#[cfg(unix)]
#[test]
fn memory_for_a_model_is_bounded_by_the_file() {
    let (scratch, parts) = (Scratch::new(), Parts::unsummed());
    let most = 1 << 14;
    type Lie<'a> = (&'a str, &'a dyn Fn(&mut RunConfig));
    let lies: [Lie; 9] = [
        ("encoder's width", &|c| c.model.encoder.dim = most),
        ("encoder's depth", &|c| c.model.encoder.depth = most),
        ("predictor's width", &|c| c.model.predictor.dim = most),
        ("predictor's depth", &|c| c.model.predictor.depth = most),
        ("one patch", &|c| (c.model.encoder.image_size, c.model.encoder.patch_size) = (most, most)),
        ("many patches", &|c| (c.model.encoder.image_size, c.model.encoder.patch_size) = (most, 1)),
        ("pixels to predict", &|c| {
            mae(c);
            (c.model.encoder.image_size, c.model.encoder.patch_size) = (most, most);
        }),
        ("masks", &|c| {
            mae(c);
            (c.model.encoder.image_size, c.model.encoder.patch_size) = (most, 1);
        }),
        ("a little more than twice the file", &|c| c.model.encoder.dim = 8),
    ];
    for (what, lie) in lies {
        scratch.write("lie", parts.of_run(lie));
        fails(&scratch.within(500_000, "probe lie"), what, &["lie: its tensors of", "not half"]);
    }
}

/// With checksums, hardly an injury gets through. Without them many do, and what is loaded can be looked at.
#[test]
fn injured_checkpoints() {
    let scratch = Scratch::new();
    let path = scratch.path("checkpoint");
    let mut rng = Generator::seed_from_u64(3);
    for (Parts { header, tensors }, expected) in [(Parts::summed(), 0), (Parts::unsummed(), 40)] {
        let header = header.to_string();
        let mut loads = 0;
        for k in 0..600 {
            let bytes = match k % 3 {
                0 => mutated(&file(header.as_bytes(), &tensors), &mut rng),
                1 => file(&mutated(header.as_bytes(), &mut rng), &tensors),
                _ => file(header.as_bytes(), &mutated(&tensors, &mut rng)),
            };
            std::fs::write(&path, bytes).unwrap();
            let Ok(loaded) = checkpoint::load(&path) else { continue };
            loads += 1;
            assert!(loaded.config.validate().is_ok());
            let mut all = loaded.params.modules().iter().flat_map(|module| module.params.iter());
            assert!(all.all(|p| p.value.is_finite()));
        }
        assert!(loads >= expected, "{loads} of 600: do these inputs still reach what is looked at?");
    }
}

/// Among others every bit of the two keys without which nothing is looked at.
#[test]
fn a_wrong_bit_is_always_found() {
    let scratch = Scratch::new();
    let (sound, path) = (Parts::summed().file(), scratch.path("checkpoint"));
    std::fs::write(&path, &sound).unwrap();
    checkpoint::load(&path).unwrap();
    let key = |key: &str| {
        let at = sound.windows(key.len()).position(|w| w == key.as_bytes()).unwrap();
        8 * at..8 * (at + key.len())
    };
    for bit in key("\"checksum\"").chain(key("\"crc32\"")).chain((0..8 * sound.len()).step_by(19)) {
        let mut bytes = sound.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, bytes).unwrap();
        assert!(checkpoint::load(&path).is_err(), "bit {bit} was not seen");
    }
}

/// 200 MB of header, of which no byte is on disk: refused for its length, not for what is in it.
#[test]
fn a_header_longer_than_the_format_allows_is_not_read() {
    let scratch = Scratch::new();
    let path = scratch.path("long");
    let long = File::create(&path).unwrap();
    (&long).write_all(&200_000_000u64.to_le_bytes()).unwrap();
    if long.set_len(8 + 200_000_000).is_ok() {
        let error = TensorFile::open(&path, "").unwrap_err().to_string();
        contains(&error, &["long: ", "a header of 200000000 bytes is announced"]);
    }
}

/// What a configuration may hold once it has passed its check must be something that a run can start with.
#[test]
fn injured_configurations() {
    let sound = serde_json::to_vec(&config()).unwrap();
    let mut rng = Generator::seed_from_u64(4);
    let numbers =
        ["0", "1", "-1", "3", "1e308", "-1e308", "1e-320", "18446744073709551615", "0.5", "null", "\"\"", "[]"];
    let places: Vec<usize> = (0..sound.len()).filter(|at| sound[*at].is_ascii_digit()).collect();
    let (mut parsed, mut valid) = (0, 0);
    for k in 0..20_000 {
        let bytes = match k % 4 {
            0 => mutated(&sound, &mut rng),
            _ => {
                let start = places[rng.random_range(0..places.len())];
                let end = start + sound[start..].iter().take_while(|b| b.is_ascii_digit() || **b == b'.').count();
                let number = numbers[rng.random_range(0..numbers.len())].as_bytes();
                [&sound[..start], number, &sound[end..]].concat()
            }
        };
        let Ok(config) = serde_json::from_slice::<RunConfig>(&bytes) else { continue };
        parsed += 1;
        if config.validate().is_ok() {
            valid += 1;
            for StepParams { lr, weight_decay, ema_momentum } in [1, config.steps].map(|step| config.step_params(step))
            {
                assert!(lr >= 0.0 && weight_decay >= 0.0 && (0.0..=1.0).contains(&ema_momentum));
            }
        }
    }
    assert!(valid > 1000 && parsed > valid, "{parsed} parsed and {valid} valid: are these still of both kinds?");
}

#[test]
fn arguments_of_any_kind() {
    let words = "pretrain probe check masks graph collapse --method stop mae --data folder: --steps --epochs --lr nan \
        -inf 1e999 --threads 0 18446744073709551616 --target-scale 0.15,0.2 , --strict --probe-images 1,2 -- --help \
        --preset vit-b16 toy --sigma-std --seed -1 --image-size --batch --nonsense = --lr=5";
    let words: Vec<&str> = words.split_whitespace().collect();
    let mut rng = Generator::seed_from_u64(5);
    for _ in 0..5000 {
        let args = (0..rng.random_range(0..8)).map(|_| {
            let word = words[rng.random_range(0..words.len())].as_bytes();
            argument(if rng.random_bool(0.2) { mutated(word, &mut rng) } else { word.to_vec() })
        });
        let args: Vec<OsString> = std::iter::once("stop-mim".into()).chain(args).collect();
        if let Err(error) = Cli::try_parse_from(&args) {
            assert!(!error.to_string().is_empty());
        }
    }
}

#[cfg(unix)]
fn argument(bytes: Vec<u8>) -> OsString {
    std::os::unix::ffi::OsStringExt::from_vec(bytes)
}

#[cfg(not(unix))]
fn argument(bytes: Vec<u8>) -> OsString {
    String::from_utf8_lossy(&bytes).into_owned().into()
}

/// Images for `features`, of which hardly a byte is on disk: those of a wrong shape are not read, and for those that no
/// memory can hold, there is an error.
#[cfg(unix)]
#[test]
fn terabytes_of_images_are_refused_before_they_are_read() {
    let scratch = Scratch::new();
    scratch.write("sound", Parts::summed().file());
    for (name, shape, words) in
        [("other", [1 << 31, 3, 8, 8], "resize them"), ("fitting", [1 << 29, 3, 16, 16], "not enough memory")]
    {
        let end = 4 * shape.iter().product::<u64>();
        let header = format!(r#"{{"images":{{"dtype":"F32","shape":{shape:?},"data_offsets":[0,{end}]}}}}"#);
        let bytes = file(header.as_bytes(), &[]);
        scratch.write(name, &bytes);
        let images = File::options().write(true).open(scratch.path(name)).unwrap();
        if images.set_len(bytes.len() as u64 + end).is_err() {
            continue; // Not on every file system.
        }
        let args = format!("features sound --images {name} --out features");
        fails(&scratch.within(1_000_000, &args), &args, &[&format!("{name}: images"), words]);
    }
}
