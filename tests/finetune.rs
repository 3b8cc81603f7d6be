//! Fine-tuning through the program's own command line: from a checkpoint to a tested classifier; the same bits after an
//! interruption; read by the other commands; bad input is a clear error before anything is written.
#![cfg(unix)]

mod common;

use std::path::{Path, PathBuf};

use common::{SMALL, Scratch, contains, wait_for};

const FINETUNE: &str = "finetune runs/small/checkpoint.safetensors --batch 4 --steps 12 --drop-path 0.5 --labels 0.1";

/// A checkpoint of two steps on `shapes`, in runs/small.
fn pretrained() -> Scratch {
    let scratch = Scratch::new();
    scratch.succeeds(&format!("{SMALL} --batch 4 --steps 2 --name small --threads 1"));
    scratch
}

fn newest(run: &Path) -> Option<PathBuf> {
    let names = std::fs::read_dir(run.join("checkpoints")).ok()?.map(|entry| entry.unwrap().path());
    names.filter(|path| path.extension().is_some_and(|e| e == "safetensors")).max()
}

/// The weights, what the run goes on with, and the log but for the speed.
fn bits(run: &Path) -> (Vec<u8>, Vec<u8>, Vec<Vec<String>>) {
    let log = std::fs::read_to_string(run.join("log.csv")).unwrap();
    let rows = log.lines().map(|line| line.split(',').enumerate().filter(|cell| cell.0 != 6));
    let rows = rows.map(|cells| cells.map(|(_, cell)| cell.to_owned()).collect());
    let read = |path: PathBuf| std::fs::read(path).unwrap();
    (read(run.join("checkpoint.safetensors")), read(newest(run).unwrap()), rows.collect())
}

/// The last line that says how many test images were told right.
#[track_caller]
fn accuracy(printed: &str) -> &str {
    let line = printed.lines().rfind(|line| line.contains("of 10000 test images told right; chance is 10.0 %"));
    line.unwrap_or_else(|| panic!("no accuracy in\n{printed}"))
}

/// `shapes` has 50,000 images: a thousandth of their labels are 50.
#[test]
fn a_checkpoint_becomes_a_classifier_that_the_other_commands_read() {
    let scratch = pretrained();
    let printed = scratch.succeeds(&format!("{FINETUNE} --diagnose-every 4 --threads 2"));
    contains(&printed, &["stop after 2 steps", "an even choice of 50 from", "the checkpoint's own", "curves.svg"]);
    let log = String::from_utf8(scratch.read("runs/finetune-shapes/log.csv")).unwrap();
    let column = log.lines().next().unwrap().split(',').position(|name| name == "held_out_accuracy").unwrap();
    let cells: Vec<bool> = log.lines().skip(1).map(|row| !row.split(',').nth(column).unwrap().is_empty()).collect();
    assert_eq!(cells, (1..=12).map(|step| step % 4 == 0).collect::<Vec<_>>());

    let tuned = "runs/finetune-shapes/checkpoint.safetensors";
    let tested = scratch.succeeds(&format!("finetune --evaluate {tuned} --threads 1"));
    contains(&tested, &["finetune after 12 steps"]);
    assert_eq!(accuracy(&tested), accuracy(&printed));
    contains(
        &scratch.succeeds(&format!("probe {tuned} --probe-images 100,100")),
        &["finetune after 12 steps", "20-NN"],
    );
    scratch.write("images/1.png", scratch.read("runs/small/masks.png"));
    scratch.succeeds(&format!("features {tuned} --data folder:images --out features.safetensors"));
    scratch.refuses(
        &format!("reconstruct {tuned}"),
        &["finetune predicts nothing about hidden patches that could be drawn"],
    );
    // It can be fine-tuned again, and pretrained further.
    scratch.succeeds(&format!("{SMALL} --batch 4 --steps 1 --init {tuned} --name again --threads 1"));
    scratch.succeeds(&format!("finetune {tuned} --batch 4 --steps 1 --labels 0.1 --data shapes:count --name count"));
    scratch.refuses(
        &format!("finetune --evaluate {tuned} --data shapes:count"),
        &["its classes are not the 10 of the model", "--data"],
    );
    let scratch_run = scratch.succeeds(&format!("{FINETUNE} --from-scratch --name scratch"));
    contains(&scratch_run, &["from scratch: an encoder of the sizes in", "with random weights"]);
}

#[test]
fn an_interrupted_run_goes_on_to_the_same_bits() {
    let scratch = pretrained();
    let args = format!("{} --labels 0.1 --checkpoint-every 7", FINETUNE.replace("--steps 12", "--steps 300"));
    let args = args.replacen("--labels 0.1 ", "", 1);
    let whole = scratch.succeeds(&format!("{args} --name whole --threads 2"));
    let run = scratch.path("runs/halved");
    let steps = || std::fs::read_to_string(run.join("log.csv")).map_or(0, |log| log.lines().count());
    let mut begin = format!("{args} --name halved --threads 1");
    for (signal, at) in [("-KILL", 20), ("-TERM", 60)] {
        let mut child = scratch.start(&begin);
        wait_for("steps", || steps() > at);
        if signal == "-KILL" {
            child.0.kill().unwrap();
            child.0.wait().unwrap();
        } else {
            child.signal(signal);
            let printed = String::from_utf8(child.output().stdout).unwrap();
            contains(&printed, &["stop-mim finetune --resume runs/halved goes on"]);
            assert!(!printed.contains("told right"), "it was not done:\n{printed}");
        }
        begin = "finetune --resume runs/halved --threads 2".into();
    }
    scratch.refuses("pretrain --resume runs/halved", &["a run of fine-tuning", "stop-mim finetune --resume"]);
    let printed = scratch.succeeds(&begin);
    contains(&printed, &["going on after step ", " of 300"]);
    assert_eq!(accuracy(&printed), accuracy(&whole));
    let (halved, whole) = (bits(&run), bits(&scratch.path("runs/whole")));
    assert!(halved.2 == whole.2, "the logs differ:\n{:?}\n{:?}", halved.2, whole.2);
    assert!(halved.0 == whole.0 && halved.1 == whole.1, "the weights differ");
    // A run that is complete becomes longer.
    contains(&scratch.succeeds(&format!("{begin} --steps 301")), &["a run of 300 steps becomes one of 301"]);
    scratch.refuses("finetune --resume runs/small", &["a run of pretraining", "stop-mim pretrain --resume"]);
}

#[test]
fn bad_input_is_refused_before_anything_is_written() {
    let scratch = pretrained();
    let file = "runs/small/checkpoint.safetensors";
    let entries = || std::fs::read_dir(scratch.path("runs")).unwrap().count();
    for class in ["a", "b"] {
        scratch.write(format!("alone/train/{class}/1.png"), scratch.read("runs/small/masks.png"));
    }
    scratch.write("flat/1.png", scratch.read("runs/small/masks.png"));
    scratch.write("flat/2.png", scratch.read("runs/small/masks.png"));
    let cases: &[(&str, &[&str])] = &[
        ("finetune", &["<FILE>"]),
        ("finetune nowhere", &["nowhere", "No such file"]),
        ("finetune FILE --labels 0", &["--labels is 0 %", "above 0, at most 100"]),
        ("finetune FILE --labels 101", &["--labels is 101 %"]),
        ("finetune FILE --labels nan", &["--labels is NaN"]),
        ("finetune FILE --drop-path 1", &["--drop-path is 1", "below 1"]),
        ("finetune FILE --label-smoothing 1", &["--label-smoothing is 1"]),
        ("finetune FILE --layer-decay 0", &["--layer-decay is 0", "above 0"]),
        ("finetune FILE --layer-decay 1.5", &["--layer-decay is 1.5"]),
        ("finetune FILE --ema 0.9,1", &["--ema means nothing to fine-tuning", "leave it out"]),
        ("finetune FILE --labels 0.1 --batch 51", &["a batch of 51 images cannot be taken from 50"]),
        ("finetune FILE --epochs 0", &["no steps"]),
        ("finetune FILE --data folder:flat", &["fine-tuning needs labels", "class folders"]),
        ("finetune FILE --heads 5", &["5 heads do not divide"]),
        ("finetune FILE --image-size 64", &["pos_embed", "--interpolate-positions"]),
        ("finetune FILE --resume runs/small", &["cannot be used with"]),
        ("finetune --mlp-dim 4 --resume runs/small", &["cannot be used with"]),
        ("pretrain --resume runs/small --method mae", &["cannot be used with", "--method"]),
        ("finetune --resume runs/small --labels 10", &["cannot be used with"]),
        ("finetune --resume runs/small --lr 1", &["cannot be used with"]),
        ("finetune --resume runs/nowhere", &["nowhere", "No such file"]),
        ("finetune --evaluate FILE", &["no classes in it: its run is one of stop", "stop-mim finetune"]),
        ("finetune --evaluate FILE --steps 3", &["cannot be used with"]),
        ("finetune --evaluate FILE --resume runs/small", &["cannot be used with"]),
    ];
    for (args, words) in cases {
        scratch.refuses(&args.replace("FILE", file), words);
    }
    assert_eq!(entries(), 1, "refused before anything is written");
}
