//! data2vec, SimMIM, and MAE with stochastic positions, through the program's own command line: each trains, the same on any
//! number of threads; goes on after an interruption with the same bits; is probed, drawn, profiled, and begins other runs.

mod common;

use std::path::Path;

use common::{Scratch, contains};
use safetensors::SafeTensors;

const RUN: &str = "pretrain --dim 16 --depth 2 --heads 2 --image-size 16 --patch 2 --batch 4 --steps 6";
const METHODS: [(&str, &str); 3] = [("data2vec", ""), ("simmim", ""), ("mae", "--sigma-std 0.5")];

/// The newest of a run's checkpoints is lost.
fn lose_the_newest(run: &Path) {
    let all = std::fs::read_dir(run.join("checkpoints")).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<_> = all.filter(|path| path.extension().is_some_and(|e| e == "safetensors")).collect();
    all.sort();
    assert_eq!(all.len(), 2, "{all:?}");
    std::fs::remove_file(all.pop().unwrap()).unwrap();
}

#[test]
fn each_trains_and_goes_on_with_the_same_bits() {
    let scratch = Scratch::new();
    for (method, flags) in METHODS {
        let run = format!("{RUN} --checkpoint-every 3 --method {method} {flags}");
        let said = scratch.succeeds(&format!("{run} --name {method} --threads 1"));
        contains(&said, &["predictions.png", "curves.svg", "masks.png", "checkpoint.safetensors"]);
        assert_eq!(said.contains("positions.png"), method == "mae", "{said}");
        scratch.succeeds(&format!("{run} --name {method}-again --threads 2"));
        let weights = |name: &str| scratch.read(format!("runs/{name}/checkpoint.safetensors"));
        let again = format!("{method}-again");
        assert!(weights(method) == weights(&again), "{method} on two threads");
        lose_the_newest(&scratch.path(format!("runs/{again}")));
        contains(&scratch.succeeds(&format!("pretrain --resume runs/{again}")), &["going on after step 3 of 6"]);
        assert!(weights(method) == weights(&again), "{method}, interrupted");
        let log = String::from_utf8(scratch.read(format!("runs/{again}/log.csv"))).unwrap();
        assert_eq!(log.lines().count(), 7, "a header and six steps:\n{log}");
        assert!(log.contains("target_std") && !log.contains("NaN"), "{log}");

        let file = weights(method);
        let names: Vec<String> = SafeTensors::deserialize(&file).unwrap().names().into_iter().map(Into::into).collect();
        let has = |name: &str| names.iter().any(|other| other == name);
        let in_place = method != "mae";
        for name in ["encoder.mask_token", "head.proj.weight", "head.proj.bias"] {
            assert_eq!(has(name), in_place, "{method}: {name} in {names:?}");
        }
        assert_eq!(has("target_encoder.mask_token"), method == "data2vec");
    }
}

#[test]
fn each_is_probed_drawn_and_profiled() {
    let scratch = Scratch::new();
    for i in 0..3u8 {
        std::fs::create_dir_all(scratch.path("images")).unwrap();
        image::RgbImage::from_fn(16, 16, |x, y| image::Rgb([x as u8 * i, y as u8, 40 * i]))
            .save(scratch.path(format!("images/{i}.png")))
            .unwrap();
    }
    for (method, flags) in METHODS {
        let run = format!("{RUN} --method {method} {flags}");
        scratch.succeeds(&format!("{run} --name {method}"));
        let checkpoint = format!("runs/{method}/checkpoint.safetensors");
        let probed = scratch.succeeds(&format!("probe {checkpoint} --probe-images 60,30"));
        contains(&probed, &["trained encoder", "untrained encoder", "raw pixels"]);
        scratch.succeeds(&format!("features {checkpoint} --data folder:images --out {method}.safetensors"));
        let features = scratch.read(format!("{method}.safetensors"));
        assert_eq!(SafeTensors::deserialize(&features).unwrap().tensor("features").unwrap().shape(), [3, 16]);
        scratch.succeeds(&format!("reconstruct {checkpoint}"));
        let drawn = scratch.read("predictions.png");
        assert!(drawn == scratch.read(format!("runs/{method}/predictions.png")), "{method}");
        scratch.succeeds(&format!("reconstruct {checkpoint} --mask-ratio 0.3"));
        assert!(scratch.read("predictions.png") != drawn, "{method}: other masks");
        contains(&scratch.succeeds(&format!("{run} --profile 1")), &["ms a step", "target"]);
        contains(
            &scratch.succeeds(&format!("check graph --dim 16 --heads 2 --method {method} {flags}")),
            &["attention"],
        );
    }
}

#[test]
fn weights_go_from_one_method_to_another() {
    let scratch = Scratch::new();
    for method in ["stop", "data2vec", "simmim"] {
        scratch.succeeds(&format!("{RUN} --method {method} --name {method}"));
    }
    let begin = |method: &str, from: &str, words: &[&str]| {
        let init = format!("{RUN} --method {method} --init runs/{from}/checkpoint.safetensors --name {method}-{from}");
        let said = scratch.succeeds(&init);
        contains(&said, words);
        let aside = words.iter().any(|word| word.starts_with("left aside"));
        assert_eq!(said.contains("left aside"), aside, "{said}");
    };
    begin("data2vec", "data2vec", &["head: 2 tensors (head.*)", "target encoder: 30 of 30 tensors"]);
    begin("simmim", "simmim", &["head: 2 tensors (head.*)", "encoder: 30 of 30 tensors"]);
    let none = "mask_token: the file has none of an encoder of this width, it starts afresh";
    begin("data2vec", "stop", &[none, "head: none in the file, it starts afresh"]);
    begin("simmim", "data2vec", &["head: that in the file has other sizes, it starts afresh"]);
    begin("stop", "simmim", &["predictor: none in the file", "left aside: mask_token"]);
}
