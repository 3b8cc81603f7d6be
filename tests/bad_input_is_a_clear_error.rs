//! The program meets bad input through its own command line: a clear error that says what, where and what to do; exit
//! code 1 (2 for a mistyped flag); no panic; nothing left behind.

mod common;

use common::{SMALL, Scratch};

const THREE_STEPS: &str = "--batch 4 --steps 3 --threads 1";

#[test]
fn flags_that_cannot_work() {
    let scratch = Scratch::new();
    let cases: &[(&str, &[&str])] = &[
        ("pretrain --method ijepa --sigma-std 0.5", &["--sigma-std means nothing", "--method stop"]),
        ("pretrain --method mae --targets 3", &["--targets means nothing", "ijepa or stop"]),
        ("pretrain --method stop --mask-ratio 0.5", &["--mask-ratio means nothing", "--method mae"]),
        ("pretrain --method mae --ema 0.9,1", &["--ema means nothing"]),
        ("pretrain --method mae --mask-ratio 1", &["ratio"]),
        ("pretrain --method mae --stop-tokens paper", &["--stop-tokens means nothing to mae", "--method stop"]),
        ("pretrain --method mae --sigma-std=-1", &["--sigma-std is -1", "not negative"]),
        ("pretrain --method simmim --sigma-std 1", &["--sigma-std means nothing to simmim", "stop or mae"]),
        ("pretrain --method simmim --ema 0.9,1", &["--ema means nothing", "data2vec"]),
        ("pretrain --method simmim --target-blocks 2", &["--target-blocks means nothing to simmim", "data2vec"]),
        ("pretrain --method simmim --mask-unit 3", &["units of 3x3", "grid of 8x8", "--mask-unit"]),
        ("pretrain --method simmim --mask-unit 0", &["units of 0x0"]),
        ("pretrain --method data2vec --target-blocks 9", &["last 9 blocks", "from 1 to 4"]),
        ("pretrain --method data2vec --targets 3", &["--targets means nothing", "ijepa or stop"]),
        ("pretrain --method data2vec --predictor-dim 8", &["--predictor-dim means nothing", "stop, ijepa or mae"]),
        ("pretrain --method data2vec --learned-positions", &["--learned-positions means nothing"]),
        ("pretrain --mask-unit 2", &["--mask-unit means nothing", "mae, data2vec or simmim"]),
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
        ("pretrain --min-keep 60", &["lower --min-keep, raise --target-scale"]),
        ("pretrain --min-keep 0", &["set --min-keep to at least 1"]),
        ("pretrain --target-scale 0.9,1", &["lower --min-keep or --target-scale, or raise --context-scale"]),
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
        scratch.refuses(args, words);
    }
    assert_eq!(scratch.entries(), 0, "refused before anything is written");
}

#[test]
fn data_that_is_not_there_or_not_what_it_should_be() {
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.path("empty")).unwrap();
    scratch.write("short/test_batch.bin", [0; 3000]);
    (1..=5).for_each(|i| scratch.write(format!("short/data_batch_{i}.bin"), [0; 3000]));
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
        scratch.refuses(&format!("{SMALL} {THREE_STEPS} {args}"), words);
    }
    assert_eq!(scratch.entries(), 2, "refused before anything is written");
}

/// The library's own tests see more of what can be wrong with a file (tests/hostile_checkpoints.rs); here a program says so.
#[test]
fn checkpoints_that_are_not() {
    let scratch = Scratch::new();
    scratch.succeeds(&format!("{SMALL} {THREE_STEPS} --name good"));
    let good = scratch.read("runs/good/checkpoint.safetensors");
    let replaced = |file: &[u8], from: &str, to: &str| -> Vec<u8> {
        assert_eq!(from.len(), to.len());
        let at = file.windows(from.len()).position(|w| w == from.as_bytes()).unwrap_or_else(|| panic!("no {from}"));
        [&file[..at], to.as_bytes(), &file[at + from.len()..]].concat()
    };
    // As from a program that writes no checksums: what an edit does is then seen, and not just that there was one.
    let unsummed = replaced(&replaced(&good, "\"crc32\"", "\"other\""), "\"checksum\"", "\"anything\"");
    let edited = |from: &str, to: &str| replaced(&unsummed, from, to);
    type Case = (&'static str, Option<Vec<u8>>, &'static [&'static str]);
    let cases: &[Case] = &[
        ("missing", None, &["missing", "No such file"]),
        (".", None, &["is a folder, not a file"]),
        ("text", Some(b"this is not a checkpoint at all".to_vec()), &["text", "not a safetensors file"]),
        ("cut", Some(good[..good.len() - 100].to_vec()), &["cut", "not a safetensors file"]),
        ("half", Some(replaced(&good, "\"crc32\"", "\"crc33\"")), &["its metadata are damaged", "without 'crc32'"]),
        ("damaged", Some(replaced(&good, "encoder.norm.weight", "encoder.morn.weight")), &["metadata are damaged"]),
        (
            "renamed",
            Some(edited("\"encoder.norm.weight\"", "\"encoder.morn.weight\"")),
            &["encoder.norm.weight is missing", "encoder.morn.weight is unexpected"],
        ),
        ("other-format", Some(edited("stop-mim-2", "stop-mim-9")), &["stop-mim-9", "stop-mim-2"]),
        ("bad-config", Some(edited("patch_size", "patch_sise")), &["patch_sise"]),
        ("other-size", Some(edited("\\\"dim\\\":16", "\\\"dim\\\":20")), &["instead of"]),
    ];
    for (file, bytes, words) in cases {
        bytes.iter().for_each(|bytes| scratch.write(file, bytes));
        scratch.refuses(&format!("probe {file}"), words);
    }
}

#[test]
fn a_folder_that_cannot_be_written() {
    let scratch = Scratch::new();
    scratch.write("file", b"in the way");
    scratch.refuses(&format!("{SMALL} {THREE_STEPS} --out file"), &["cannot create", "file"]);
    scratch.refuses("masks --out nowhere/masks.png", &["cannot write", "masks.png"]);
}

#[test]
fn runs_never_overwrite_each_other_and_probe_reads_what_pretrain_wrote() {
    let scratch = Scratch::new();
    for method in ["stop", "ijepa", "mae"] {
        for _ in 0..2 {
            scratch.succeeds(&format!("{SMALL} {THREE_STEPS} --method {method} --name run"));
        }
    }
    for folder in ["run", "run-2", "run-6"] {
        for file in ["checkpoint.safetensors", "log.csv", "curves.svg", "masks.png"] {
            assert!(!scratch.read(format!("runs/{folder}/{file}")).is_empty(), "{folder}/{file}");
        }
        let log = String::from_utf8(scratch.read(format!("runs/{folder}/log.csv"))).unwrap();
        assert_eq!(log.lines().count(), 4, "a header and three steps:\n{log}");
        let checkpoint = format!("probe runs/{folder}/checkpoint.safetensors --probe-images 60,30");
        common::contains(&scratch.succeeds(&checkpoint), &["trained encoder", "untrained encoder", "raw pixels"]);
    }
}

/// `stop-mim check graph | head -1`: the reader leaves, and that is not an error.
#[test]
fn a_closed_pipe_ends_quietly() {
    let mut child = Scratch::new().command("check graph").spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Ctrl-C in the middle of a run: a checkpoint of that step, exit code 0.
#[cfg(unix)]
#[test]
fn ctrl_c_ends_a_run_with_a_checkpoint() {
    let scratch = Scratch::new();
    let args = format!("{SMALL} --batch 4 --threads 1 --steps 1000000 --name long --diagnose-every 1000000");
    let child = scratch.start(&args);
    // The pictures of the masks are drawn before the first step.
    common::wait_for("the run starts", || scratch.path("runs/long/masks.png").exists());
    std::thread::sleep(std::time::Duration::from_millis(200));
    child.signal(common::interrupt());
    let output = child.output();
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("stopped at step"), "{output:?}");
    scratch.succeeds("probe runs/long/checkpoint.safetensors --probe-images 30,30");
}

/// As `mpirun -n 3` starts it: one process says what is wrong, and none makes a run of its own.
#[cfg(not(feature = "mpi"))]
#[test]
fn one_of_several_processes_without_the_feature_for_it() {
    let scratch = Scratch::new();
    for rank in ["0", "1"] {
        for [size_is, rank_is] in [["OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"], ["PMI_SIZE", "PMI_RANK"]] {
            let mut command = scratch.command("pretrain --steps 1");
            let output = command.envs([(size_is, "3"), (rank_is, rank)]).output().unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            let words = "error: this is one of 3 processes, and the program was built without the feature mpi";
            assert_eq!((output.status.success(), said.contains(words)), (rank != "0", rank == "0"), "{said}");
            assert!(output.stdout.is_empty() && (rank == "0" || said.is_empty()), "{said}");
        }
    }
    assert_eq!(scratch.entries(), 0);
}
