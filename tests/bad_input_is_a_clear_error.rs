//! The program meets bad input through its own command line: a clear error that says what, where and what to do; exit
//! code 1 (2 for a mistyped flag); no panic; nothing left behind.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// An empty folder of its own for each test, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("stop-mim-cli-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    fn files(&self) -> usize {
        std::fs::read_dir(&self.0).unwrap().count()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

/// Runs the program in `folder`.
fn stop_mim(folder: &Path, args: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stop-mim"));
    command.current_dir(folder).args(args.split_whitespace()).output().unwrap()
}

/// The program fails, with all of `words` in its message, and without a panic.
#[track_caller]
fn refused(folder: &Path, args: &str, words: &[&str]) {
    let output = stop_mim(folder, args);
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(matches!(output.status.code(), Some(1 | 2)), "{args}: {:?}\n{message}", output.status);
    assert!(!message.contains("panicked"), "{args}: {message}");
    for word in words {
        assert!(message.contains(word), "{args}: no '{word}' in\n{message}");
    }
}

const SMALL: &str = "pretrain --dim 16 --depth 1 --heads 2 --predictor-dim 8 --predictor-depth 1 --predictor-heads 1 \
    --batch 4 --steps 3 --threads 1";

#[test]
fn flags_that_cannot_work() {
    let scratch = Scratch::new("flags");
    let cases: &[(&str, &[&str])] = &[
        ("pretrain --method ijepa --sigma-std 0.5", &["--sigma-std means nothing", "--method stop"]),
        ("pretrain --method mae --targets 3", &["--targets means nothing", "ijepa or stop"]),
        ("pretrain --method stop --mask-ratio 0.5", &["--mask-ratio means nothing", "--method mae"]),
        ("pretrain --method mae --ema 0.9,1", &["--ema means nothing"]),
        ("pretrain --method mae --mask-ratio 1", &["ratio"]),
        ("pretrain --sigma-std 1 --sigma-variance 1", &["cannot be used with"]),
        ("pretrain --sigma-std -1", &["'-1'"]),
        ("pretrain --sigma-std=-1", &["--sigma-std is -1", "not negative"]),
        ("pretrain --epochs 1 --steps 1", &["cannot be used with"]),
        ("pretrain --heads 5", &["5 heads do not divide"]),
        ("pretrain --dim 30 --heads 2", &["30", "multiple of 4"]),
        ("pretrain --patch 5", &["patches of 5 pixels do not tile an image of 32"]),
        ("pretrain --patch 0", &["patches of 0"]),
        ("pretrain --depth 0", &["at least one block"]),
        ("pretrain --target-blocks 9", &["last 9 blocks"]),
        ("pretrain --min-keep 60", &["min_keep"]),
        ("pretrain --target-scale 0.5", &["two numbers"]),
        ("pretrain --target-scale 0.9,0.1", &["0.9"]),
        ("pretrain --crop-scale 0,1", &["crops cannot cover"]),
        ("pretrain --lr 0", &["learning rate"]),
        ("pretrain --lr nan", &["learning rate"]),
        ("pretrain --ema 0.9,1.5", &["EMA momentum"]),
        ("pretrain --weight-decay 1e9,1", &["weight decay"]),
        ("pretrain --warmup 2", &["warm-up"]),
        ("pretrain --batch 0", &["batch"]),
        ("pretrain --batch 1000000 --steps 1", &["a batch of 1000000"]),
        ("pretrain --epochs 0", &["no steps"]),
        ("pretrain --epochs=-3", &["--epochs is -3"]),
        ("pretrain --epochs nan", &["--epochs is NaN"]),
        ("pretrain --epochs inf", &["--epochs is inf"]),
        ("pretrain --epochs 99999999999999999999", &["--epochs is 1", "steps", "at most", "10^12"]),
        ("pretrain --steps 1000000000001", &["a run of 1000000000001 steps", "10^12"]),
        ("pretrain --steps 99999999999999999999", &["--steps"]),
        ("pretrain --warmup 1e300", &["warm-up longer than the run"]),
        ("pretrain --warmup nan", &["--warmup is NaN"]),
        ("pretrain --checkpoint-every 0", &["from 1 to 10^12"]),
        ("pretrain --keep 0", &["from 1 to 10^12"]),
        ("pretrain --keep-every 99999999999999999999", &["from 1 to 10^12"]),
        ("pretrain --name a/b", &["--name", "not the name of a folder", "--out"]),
        ("pretrain --name a/", &["--name", "not the name of a folder"]),
        ("pretrain --name ..", &["--name", "not the name of a folder"]),
        ("pretrain --name .", &["--name", "not the name of a folder"]),
        ("pretrain --mean 0,0,0", &["--std"]),
        ("pretrain --mean 0,0 --std 1,1,1", &["three numbers"]),
        ("pretrain --mean 0,0,0 --std 1,1,0", &["deviation of [1.0, 1.0, 0.0]", "above 0"]),
        ("pretrain --partial", &["--init"]),
        ("pretrain --init x --profile", &["--init"]),
        ("pretrain --init nowhere.safetensors", &["nowhere.safetensors", "No such file"]),
        ("pretrain --threads 0", &["--threads"]),
        ("pretrain --image-size 4", &["4"]),
        ("probe", &["<FILE>"]),
        ("probe x --probe-images 0,5", &["number above 0"]),
        ("pretrain --predictor-depth 0", &["predictor needs at least one block"]),
        ("check graph --dim 4000000000000000000 --heads 1", &["4000000000000000000 wide"]),
        ("check graph --targets 9999999999999999999", &["9999999999999999999 target blocks"]),
        ("check graph --poison nobody", &["no parameter called nobody"]),
        ("check graph --poison mask_token", &["nothing reads mask_token"]),
        ("check collapse --seeds 0", &["--seeds"]),
        ("nonsense", &["nonsense"]),
    ];
    for (args, words) in cases {
        refused(&scratch.0, args, words);
    }
    assert_eq!(scratch.files(), 0, "refused before anything is written");
}

#[test]
fn data_that_is_not_there_or_not_what_it_should_be() {
    let scratch = Scratch::new("data");
    std::fs::create_dir(scratch.0.join("empty")).unwrap();
    std::fs::create_dir(scratch.0.join("short")).unwrap();
    for i in 1..=5 {
        std::fs::write(scratch.0.join(format!("short/data_batch_{i}.bin")), [0; 3000]).unwrap();
    }
    std::fs::write(scratch.0.join("short/test_batch.bin"), [0; 3000]).unwrap();
    let cases: &[(&str, &[&str])] = &[
        ("--data imagenet", &["'imagenet' names no data set", "cifar10:DIR"]),
        ("--data cifar10", &["after a colon"]),
        ("--data cifar10:nowhere", &["nowhere"]),
        ("--data cifar10:empty", &["empty", "data_batch_1.bin"]),
        ("--data cifar10:short", &["short", "3073"]),
        ("--data cifar100:empty", &["empty", "train.bin"]),
        ("--data folder:nowhere", &["nowhere"]),
        ("--data folder:empty", &["empty"]),
    ];
    for (args, words) in cases {
        refused(&scratch.0, &format!("{SMALL} {args}"), words);
    }
    assert_eq!(scratch.files(), 2, "refused before anything is written");
}

#[test]
fn checkpoints_that_are_not() {
    let scratch = Scratch::new("checkpoints");
    let output = stop_mim(&scratch.0, &format!("{SMALL} --name good"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let good = std::fs::read(scratch.0.join("runs/good/checkpoint.safetensors")).unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(scratch.0.join(name), bytes).unwrap();
    let replaced = |file: &[u8], from: &str, to: &str| -> Vec<u8> {
        assert_eq!(from.len(), to.len());
        let at = file.windows(from.len()).position(|w| w == from.as_bytes()).unwrap_or_else(|| panic!("no {from}"));
        [&file[..at], to.as_bytes(), &file[at + from.len()..]].concat()
    };
    // As from a program that writes no checksums: what an edit does is then seen, and not just that there was one.
    let unsummed = replaced(&replaced(&good, "\"crc32\"", "\"other\""), "\"checksum\"", "\"anything\"");
    let edited = |from: &str, to: &str| replaced(&unsummed, from, to);
    write("empty", b"");
    write("text", b"this is not a checkpoint at all");
    write("huge", &[&u64::MAX.to_le_bytes()[..], b"{}"].concat());
    write("cut", &good[..good.len() - 100]);
    write("renamed", &edited("\"encoder.norm.weight\"", "\"encoder.morn.weight\""));
    write("other-format", &edited("stop-mim-1", "stop-mim-9"));
    write("bad-config", &edited("patch_size", "patch_sise"));
    write("other-size", &edited("\\\"dim\\\":16", "\\\"dim\\\":20"));
    write("far-larger", &edited("\\\"dim\\\":16", "\\\"dim\\\":32"));
    write("half", &replaced(&good, "\"crc32\"", "\"crc33\""));
    write("damaged", &replaced(&good, "encoder.norm.weight", "encoder.morn.weight"));
    let mut nan = unsummed.clone();
    let end = nan.len();
    nan[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    write("nan", &nan);
    let cases: &[(&str, &[&str])] = &[
        ("missing", &["missing", "No such file"]),
        (".", &["is a folder, not a file"]),
        ("empty", &["empty", "not a safetensors file"]),
        ("text", &["text", "not a safetensors file"]),
        ("huge", &["huge", "not a safetensors file"]),
        ("cut", &["cut", "not a safetensors file"]),
        ("damaged", &["its metadata are damaged"]),
        ("half", &["its metadata are damaged", "without 'crc32'"]),
        ("renamed", &["encoder.norm.weight is missing", "encoder.morn.weight is unexpected"]),
        ("other-format", &["stop-mim-9", "stop-mim-1"]),
        ("bad-config", &["patch_sise"]),
        ("other-size", &["instead of"]),
        ("far-larger", &["not half of the model"]),
        ("nan", &["not finite"]),
    ];
    for (file, words) in cases {
        refused(&scratch.0, &format!("probe {file}"), words);
    }
}

#[test]
fn a_folder_that_cannot_be_written() {
    let scratch = Scratch::new("unwritable");
    std::fs::write(scratch.0.join("file"), b"in the way").unwrap();
    refused(&scratch.0, &format!("{SMALL} --out file"), &["cannot create", "file"]);
    refused(&scratch.0, "masks --out nowhere/masks.png", &["cannot write", "masks.png"]);
}

#[test]
fn runs_never_overwrite_each_other_and_probe_reads_what_pretrain_wrote() {
    let scratch = Scratch::new("runs");
    for method in ["stop", "ijepa", "mae"] {
        for _ in 0..2 {
            let output = stop_mim(&scratch.0, &format!("{SMALL} --method {method} --name run"));
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
    for folder in ["run", "run-2", "run-6"] {
        for file in ["checkpoint.safetensors", "log.csv", "curves.svg", "masks.png"] {
            assert!(scratch.0.join("runs").join(folder).join(file).metadata().unwrap().len() > 0, "{folder}/{file}");
        }
        let log = std::fs::read_to_string(scratch.0.join("runs").join(folder).join("log.csv")).unwrap();
        assert_eq!(log.lines().count(), 4, "a header and three steps:\n{log}");
        let checkpoint = format!("probe runs/{folder}/checkpoint.safetensors --probe-images 60,30");
        let output = stop_mim(&scratch.0, &checkpoint);
        let printed = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        for row in ["trained encoder", "untrained encoder", "raw pixels"] {
            assert!(printed.contains(row), "{printed}");
        }
    }
}

/// `stop-mim check graph | head -1`: the reader leaves, and that is not an error.
#[test]
fn a_closed_pipe_ends_quietly() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_stop-mim"))
        .args(["check", "graph"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// SIGINT; or SIGTERM where these tests were themselves started with SIGINT ignored, as by `&` in a script: then so does
/// the program.
#[cfg(unix)]
fn interrupt() -> &'static str {
    let survives = Command::new("sh").args(["-c", "kill -INT $$"]).status().unwrap().success();
    if survives { "-TERM" } else { "-INT" }
}

/// Ctrl-C in the middle of a run: a checkpoint of that step, exit code 0.
#[cfg(unix)]
#[test]
fn ctrl_c_ends_a_run_with_a_checkpoint() {
    let scratch = Scratch::new("ctrl-c");
    let args = SMALL.replace("--steps 3", "--steps 1000000 --name long --diagnose-every 1000000");
    let mut command = Command::new(env!("CARGO_BIN_EXE_stop-mim"));
    let child = command.current_dir(&scratch.0).args(args.split_whitespace());
    let child = child.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    // The pictures of the masks are drawn before the first step.
    let started = std::time::Instant::now();
    while !scratch.0.join("runs/long/masks.png").exists() {
        assert!(started.elapsed().as_secs() < 60, "the run did not start");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert!(Command::new("kill").args([interrupt(), &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("stopped at step"), "{output:?}");
    let probe = stop_mim(&scratch.0, "probe runs/long/checkpoint.safetensors --probe-images 30,30");
    assert!(probe.status.success(), "{}", String::from_utf8_lossy(&probe.stderr));
}
