//! An interrupted run goes on as if nothing had happened, through the program's own command line: same bits after
//! SIGKILL at random moments, after SIGTERM, after damage, after an error; no two processes on one run; no space, no loss.
//! A run becomes longer, its images move, it begins with the weights of a file.
//!
//! Many more kills, by hand: `STOP_MIM_KILLS=1000 cargo test --test resume -- --nocapture random_moments`.
#![cfg(unix)]

mod common;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{Running, Scratch, contains, fails, interrupt, printed, wait_for};
use rand::{RngExt, SeedableRng};
use stop_mim::rng::Generator;
use stop_mim::train::{RunConfig, checkpoint};

/// Small: two steps of two images are an epoch, so that steps are within epochs and between them. Its learning rates have
/// seventeen digits.
const SMALL: &str = "pretrain --dim 16 --depth 1 --heads 2 --predictor-dim 8 --predictor-depth 1 --predictor-heads 1 \
    --data folder:imagés --batch 2 --lr 0.0037 --lr-start 0.00012345678901234567 --ema 0.9,1 --diagnose-every 7 \
    --checkpoint-every 1";

/// Noisy images: five to train on, four to test on.
fn with_images() -> Scratch {
    let (scratch, mut rng) = (Scratch::new(), Generator::seed_from_u64(1));
    for i in 0..9 {
        let split = if i < 5 { "train" } else { "test" };
        let class = scratch.path(format!("imagés/{split}/class-{}", i % 2));
        std::fs::create_dir_all(&class).unwrap();
        let image = image::RgbImage::from_fn(32, 32, |_, _| image::Rgb(std::array::from_fn(|_| rng.random())));
        image.save(class.join(format!("{i}.png"))).unwrap();
    }
    scratch
}

/// The folder of the run that is called `name`.
fn run_of(scratch: &Scratch, name: &str) -> PathBuf {
    scratch.path("runs").join(name)
}

/// The newest checkpoint of a run, and its name.
fn newest(run: &Path) -> Option<PathBuf> {
    let names = std::fs::read_dir(run.join("checkpoints")).ok()?.map(|entry| entry.unwrap().path());
    names.filter(|path| path.extension().is_some_and(|e| e == "safetensors")).max()
}

/// Files among a run's checkpoints that are half written.
fn unfinished(run: &Path) -> Vec<PathBuf> {
    let paths = std::fs::read_dir(run.join("checkpoints")).into_iter().flatten().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|e| e == "tmp")).collect()
}

/// Every bit that a run ends with: weights and moments, the weights alone, and the log but for the speed.
fn bits(run: &Path) -> (Vec<u8>, Vec<u8>, Vec<Vec<String>>) {
    let log = std::fs::read_to_string(run.join("log.csv")).unwrap();
    let rows = log.lines().map(|line| line.split(',').map(str::to_owned).collect::<Vec<_>>());
    let rows = rows.map(|mut cells| {
        cells.remove(6); // images_per_second
        cells
    });
    let newest = newest(run).unwrap();
    (std::fs::read(newest).unwrap(), std::fs::read(run.join("checkpoint.safetensors")).unwrap(), rows.collect())
}

#[track_caller]
fn same_bits(one: &Path, other: &Path) {
    let (one, other) = (bits(one), bits(other));
    assert!(one.2 == other.2, "the logs differ:\n{:?}\n{:?}", one.2, other.2);
    assert!(one.1 == other.1, "the weights differ");
    assert!(one.0 == other.0, "the states differ");
}

/// Waits for a run to come to some step: its log is written with each.
#[track_caller]
fn wait_for_step(run: &Path, step: usize) {
    let lines = || std::fs::read_to_string(run.join("log.csv")).map_or(0, |log| log.lines().count());
    wait_for(&format!("step {step}"), || lines() > step);
}

/// SIGKILL after random times, on one thread and on two by turns, again and again until the run has come to its end.
/// With a checkpoint at each step, most of its time is spent in writing.
#[test]
fn the_same_bits_after_kills_at_random_moments() {
    let wanted = std::env::var("STOP_MIM_KILLS").map_or(12, |kills| kills.parse().unwrap());
    let scratch = with_images();
    for method in ["stop", "mae"] {
        let small = if method == "mae" { SMALL.replace("--ema 0.9,1", "") } else { SMALL.to_owned() };
        let args = format!("{small} --steps 24 --method {method}");
        let whole = format!("{method}-whole");
        scratch.succeeds(&format!("{args} --name {whole} --threads 1"));
        let mut rng = Generator::seed_from_u64(2);
        let (mut kills, mut half_written, mut rounds, mut useless) = (0, 0, 0, 0);
        while kills < wanted / 2 {
            let name = format!("{method}-{rounds}");
            let run = run_of(&scratch, &name);
            rounds += 1;
            // Goes on, or begins anew where there is no checkpoint yet.
            let command = |threads: usize| {
                if newest(&run).is_some() {
                    return format!("pretrain --resume runs/{name} --threads {threads}");
                }
                let _ = std::fs::remove_dir_all(&run);
                format!("{args} --name {name} --threads {threads}")
            };
            loop {
                let (before, begin) = (newest(&run), command(1 + kills % 2));
                let mut child = Running(scratch.command(&begin).stdout(Stdio::null()).spawn().unwrap());
                let until = Instant::now() + Duration::from_micros(rng.random_range(0..300_000));
                while Instant::now() < until && child.0.try_wait().unwrap().is_none() {
                    std::thread::sleep(Duration::from_micros(200));
                }
                if let Some(status) = child.0.try_wait().unwrap() {
                    assert!(status.success(), "{begin}: {status}");
                    break;
                }
                drop(child); // SIGKILL
                kills += 1;
                useless += usize::from(before == newest(&run));
                half_written += usize::from(!unfinished(&run).is_empty());
                if kills >= wanted / 2 {
                    scratch.succeeds(&command(2));
                    break;
                }
            }
            same_bits(&run_of(&scratch, &whole), &run);
            let _ = std::fs::remove_dir_all(&run);
        }
        println!("{method}: {kills} kills in {rounds} runs, of which {half_written} left a file half written");
        println!("{useless} came before a new checkpoint");
    }
}

/// The step of a run's newest checkpoint.
fn step(run: &Path) -> usize {
    let name = newest(run).unwrap().file_name().unwrap().to_str().unwrap().to_owned();
    name.trim_start_matches("step-").trim_end_matches(".safetensors").parse().unwrap()
}

/// SIGTERM and SIGINT end a run with a checkpoint of the step at hand, wherever checkpoints were due; a second process is
/// refused while the first is at work; only what was asked for is kept; a run that is complete stays what it is.
#[test]
fn signals_locks_and_rotation() {
    let scratch = with_images();
    let args = format!("{} --keep 3 --keep-every 4 --steps 200", SMALL.replace("every 1", "every 10"));
    scratch.succeeds(&format!("{args} --name whole --threads 2"));
    let run = run_of(&scratch, "halved");
    let mut begin = format!("{args} --name halved --threads 1");
    for (signal, at) in [("-TERM", 13), (interrupt(), 51)] {
        let child = scratch.start(&begin);
        wait_for_step(&run, at);
        scratch.refuses(
            "pretrain --resume runs/halved",
            &["runs/halved: another process is at work on this run", "wait until it has ended"],
        );
        child.signal(signal);
        child.ends_well();
        assert!(step(&run) >= at && step(&run) < 200, "{}", step(&run));
        assert_eq!(step(&run), log(&run).len(), "the checkpoint is of the last step");
        begin = "pretrain --resume runs/halved --threads 2".into();
    }
    contains(&scratch.succeeds(&begin), &["going on after step "]);
    same_bits(&run_of(&scratch, "whole"), &run);

    let kept = |run: &Path| std::fs::read_dir(run.join("checkpoints")).unwrap().count();
    // Two steps are an epoch: steps 8, 16, … 200 for good, and of the last three 190 besides.
    assert_eq!(kept(&run_of(&scratch, "whole")), 25 + 1);
    let before = bits(&run);
    scratch.succeeds(&begin);
    assert!(bits(&run) == before, "a complete run is left as it is");
}

/// The program without a command begins its guided run, which ends like any other.
#[test]
fn the_guided_run_begins_and_ends_when_told_to() {
    let scratch = Scratch::new();
    let child = scratch.start("");
    let run = run_of(&scratch, "guided");
    wait_for_step(&run, 2);
    child.signal(interrupt());
    child.ends_well();
    assert!(step(&run) >= 2 && run.join("checkpoint.safetensors").exists());
}

/// A full disk behind the output, or a reader that has gone, ends no run: SIGHUP, when a terminal is closed, leaves both.
#[test]
fn a_run_goes_on_when_nobody_reads_what_it_says() {
    let scratch = with_images();
    for (name, threads) in [("gone", 1), ("full", 2)] {
        let mut command = scratch.command(&format!("{SMALL} --steps 4 --name {name} --threads {threads}"));
        if name == "full" && Path::new("/dev/full").exists() {
            let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
            command.stdout(full()).stderr(full());
        }
        let mut child = Running(command.spawn().unwrap());
        drop((child.0.stdout.take(), child.0.stderr.take()));
        child.ends_well();
        assert_eq!(step(&run_of(&scratch, name)), 4);
    }
    same_bits(&run_of(&scratch, "gone"), &run_of(&scratch, "full"));
}

/// What is none of the run's checkpoints is left alone, and what cannot be read is not called damaged.
#[test]
fn strangers_among_the_checkpoints() {
    let scratch = with_images();
    scratch.succeeds(&format!("{SMALL} --steps 4 --name run"));
    let checkpoints = run_of(&scratch, "run").join("checkpoints");
    let strangers = ["step-9.safetensors", "step-2.safetensors", "step-00000099.txt", "step-.safetensors"];
    strangers.iter().for_each(|name| std::fs::write(checkpoints.join(name), b"").unwrap());
    std::fs::create_dir(checkpoints.join("folder.tmp")).unwrap();
    contains(&scratch.succeeds("pretrain --resume runs/run"), &["going on after step 4 of 4\n"]);
    assert!(strangers.iter().all(|name| checkpoints.join(name).exists()));

    // As a file that the system does not give out today: a link that leads nowhere.
    let newest = checkpoints.join("step-00000009.safetensors");
    std::os::unix::fs::symlink("nowhere", &newest).unwrap();
    scratch.refuses("pretrain --resume runs/run", &["cannot read", "step-00000009.safetensors", "No such file"]);
    assert!(std::fs::symlink_metadata(&newest).is_ok(), "it is not set aside");
    std::fs::remove_file(&newest).unwrap();

    let log = run_of(&scratch, "run").join("log.csv");
    std::fs::remove_file(&log).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &log).unwrap();
    scratch.refuses("pretrain --resume runs/run", &["log.csv: is a device or a pipe, not a file", "move it away"]);
}

/// A newest checkpoint that is cut off, or has one bit flipped anywhere, is set aside for the one before it.
#[test]
fn damage_costs_one_checkpoint() {
    let scratch = with_images();
    let args = format!("{SMALL} --steps 6 --keep 2");
    scratch.succeeds(&format!("{args} --name whole"));
    scratch.succeeds(&format!("{args} --name hurt"));
    let run = run_of(&scratch, "hurt");
    let path = newest(&run).unwrap();
    let whole = std::fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let find = |text: &str| whole.windows(text.len()).position(|w| w == text.as_bytes()).unwrap();
    let flipped = |at: usize, bit: u8| {
        let mut bytes = whole.clone();
        bytes[at] ^= bit;
        bytes
    };
    let mut rng = Generator::seed_from_u64(3);
    let mut cases = vec![
        ("cut", whole[..whole.len() - 1].to_vec()),
        ("empty", vec![]),
        ("header cut", whole[..header / 2].to_vec()),
        ("zeros", vec![0; whole.len()]),
        ("longer", [&whole[..], &[0]].concat()),
        ("a digit of the learning rate", flipped(find("0.0037") + 5, 1)),
        ("a digit of the seed", flipped(find("seed\\\":0") + 7, 1)),
        ("last bit", flipped(whole.len() - 1, 0x80)),
    ];
    cases.extend(
        (0..12).map(|_| ("an element", flipped(rng.random_range(header..whole.len()), 1 << rng.random_range(0..8)))),
    );
    let spare = run.join("checkpoints/step-00000005.safetensors");
    let before = std::fs::read(&spare).unwrap();
    for (what, bytes) in cases {
        std::fs::write(&path, &bytes).unwrap();
        let printed = scratch.succeeds("pretrain --resume runs/hurt");
        assert!(printed.contains("step-00000006.safetensors: "), "{what}: {printed}");
        assert!(printed.contains("going on after step 5 of 6, from the checkpoint before it"), "{what}: {printed}");
        assert_eq!(std::fs::read(path.with_extension("safetensors.damaged")).unwrap(), bytes, "{what}");
        same_bits(&run_of(&scratch, "whole"), &run);
        assert!(std::fs::read(&spare).unwrap() == before);
    }
    std::fs::write(&path, &whole[..100]).unwrap();
    std::fs::write(&spare, &whole[..100]).unwrap();
    scratch.refuses(
        "pretrain --resume runs/hurt",
        &["no checkpoint in it can be used", "step-00000006", "step-00000005", "without --resume"],
    );
}

/// A limit on the size of files stands for a full disk: the write fails in the middle of a checkpoint.
#[test]
fn a_write_that_fails_leaves_the_checkpoint_before_it() {
    let scratch = with_images();
    let args = format!("{SMALL} --steps 40");
    scratch.succeeds(&format!("{args} --name whole"));
    let child = scratch.start(&format!("{args} --name short"));
    let run = run_of(&scratch, "short");
    wait_for_step(&run, 5);
    drop(child);
    let before = (newest(&run).unwrap(), std::fs::read(newest(&run).unwrap()).unwrap());
    let blocks = before.1.len() / 512 / 2;
    // SIGXFSZ would end the process; the program hears it, and the write is an error.
    let script = format!("ulimit -f {blocks}; exec \"$0\" pretrain --resume runs/short");
    let output = scratch.shell(&script).output().unwrap();
    let kept = format!("the run is kept as it was after step {}: ", step(&run));
    fails(&output, &script, &["cannot write runs/short/checkpoints/step-", "File too large", &kept]);
    assert_eq!(before, (newest(&run).unwrap(), std::fs::read(newest(&run).unwrap()).unwrap()));
    assert!(unfinished(&run).is_empty());
    // What a killed process would have left is removed.
    let left = run.join("checkpoints/step-00000009.safetensors.1.tmp");
    std::fs::write(&left, b"half a checkpo").unwrap();
    scratch.succeeds("pretrain --resume runs/short");
    assert!(!left.exists());
    same_bits(&run_of(&scratch, "whole"), &run);
}

/// An update overflows where loss and gradients are fine: nothing is written, and the checkpoint before it is whole.
#[test]
fn weights_that_overflow_leave_the_checkpoint_before_them() {
    let scratch = with_images();
    let args = SMALL.replace("--lr 0.0037", "--lr 1e60 --weight-decay 0,0");
    scratch.refuses(
        &format!("{args} --steps 6 --name run"),
        &["runs/run/checkpoints/step-", "not written", "has values that are not finite", "still there"],
    );
    let run = run_of(&scratch, "run");
    assert!(unfinished(&run).is_empty());
    // It can be read, and goes on to where it overflows.
    scratch.refuses("pretrain --resume runs/run", &["not written"]);
    assert!(!run.join("checkpoint.safetensors").exists());
}

#[test]
fn what_cannot_be_resumed_is_refused() {
    let scratch = with_images();
    let refused = |args: &str, words: &[&str]| drop(scratch.refuses(args, words));
    scratch.succeeds(&format!("{SMALL} --steps 3 --name run"));
    let state = newest(&run_of(&scratch, "run")).unwrap();
    for flag in "--lr=0.1 --dim=8 --targets=3 --warmup=0 --init=x --out=x --name=x --seed=1 --profile".split(' ') {
        refused(&format!("pretrain --resume runs/run {flag}"), &["--resume", flag.split('=').next().unwrap()]);
    }
    refused("pretrain --resume nowhere", &["cannot open nowhere"]);
    refused("pretrain --resume runs/run/log.csv", &["log.csv: not a folder"]);
    refused("pretrain --checkpoint-every 0", &["not a whole number from 1"]);
    std::fs::create_dir(scratch.path("empty")).unwrap();
    refused("pretrain --resume empty", &["empty: no run: no folder of checkpoints is in it", "runs/stop-shapes"]);
    assert_eq!(std::fs::read_dir(scratch.path("empty")).unwrap().count(), 0, "it is left as it was");
    // The weights alone are no checkpoint to go on from; and a state is one to probe.
    let weights = run_of(&scratch, "run").join("checkpoint.safetensors");
    scratch.write("weights/checkpoints/step-00000003.safetensors", std::fs::read(&weights).unwrap());
    refused("pretrain --resume weights", &["no 'policy' in its metadata"]);
    let probe = |path: &Path| scratch.succeeds(&format!("probe {} --probe-images 4,2", path.display()));
    assert_eq!(probe(&state), probe(&weights));
    // One image more: another epoch, another run.
    let image = |name: &str| scratch.path("imagés/train").join(name);
    std::fs::copy(image("class-0/0.png"), image("class-0/new.png")).unwrap();
    let words = ["not the images of this run: 6 files (", "where there were 5 files (", "--data"];
    refused("pretrain --resume runs/run", &words);
    refused(
        "pretrain --resume runs/run --data shapes",
        &["shapes: not the images of this run: drawn shapes (series 0): 50000 images"],
    );
    // As many, of which one is another.
    std::fs::remove_file(image("class-0/0.png")).unwrap();
    std::fs::copy(image("class-1/1.png"), image("class-0/2.png")).unwrap();
    refused("pretrain --resume runs/run", &["not the images of this run: 5 files (", "where there were 5 files ("]);
}

/// The configuration of a run as its newest checkpoint has it.
fn config(run: &Path) -> RunConfig {
    checkpoint::load(&newest(run).unwrap()).unwrap().config
}

fn log(run: &Path) -> Vec<Vec<String>> {
    let log = std::fs::read_to_string(run.join("log.csv")).unwrap();
    log.lines().skip(1).map(|line| line.split(',').map(str::to_owned).collect()).collect()
}

/// Twelve hundred images of one class, and one of another, which goes bad: the run ends, and loses no step.
#[test]
fn an_image_that_goes_bad_costs_no_step() {
    let scratch = with_images();
    let args = format!("{} --steps 1 --threads 1", SMALL.replace("every 1", "every 999"));
    for name in ["whole", "hurt"] {
        scratch.succeeds(&format!("{args} --name {name}"));
    }
    scratch.succeeds("pretrain --resume runs/whole --steps 1500");
    let (image, run) = (scratch.path("imagés/train/class-1/1.png"), run_of(&scratch, "hurt"));
    let good = std::fs::read(&image).unwrap();
    // Images are read again in each epoch, of three steps.
    let child = scratch.start("pretrain --resume runs/hurt --steps 1500 --strict --cache-mb 0");
    wait_for_step(&run, 2);
    std::fs::write(&image, &good[..good.len() / 2]).unwrap();
    let output = child.output();
    let (steps, kept) = (log(&run).len(), step(&run));
    assert!(kept > 1 && kept < 1500 && kept == steps, "{kept} of {steps}");
    let goes_on = format!("the run is kept as it was after step {kept}: stop-mim pretrain --resume runs/hurt goes on");
    fails(&output, "hurt", &["class-1", &goes_on]);
    std::fs::write(&image, &good).unwrap();
    contains(&scratch.succeeds("pretrain --resume runs/hurt"), &[&format!("going on after step {kept} of 1500\n")]);
    same_bits(&run_of(&scratch, "whole"), &run);
}

/// Cut short, held-out images cost the diagnostics and a picture, and a training image is shown by another: the run goes on,
/// again and again. Of an image that is left out at the beginning, the others would change their numbers.
#[test]
fn a_run_whose_images_have_gone_bad_can_be_resumed() {
    let scratch = with_images();
    scratch.succeeds(&format!("{SMALL} --steps 2 --name run"));
    let cut = |name: &str, bytes: usize| {
        let image = scratch.path("imagés").join(name);
        let good = std::fs::read(&image).unwrap();
        std::fs::write(&image, &good[..bytes]).unwrap();
        good
    };
    let held_out = ["test/class-1/5.png", "test/class-0/6.png", "test/class-1/7.png", "test/class-0/8.png"];
    held_out.iter().for_each(|name| drop(cut(name, 60)));
    cut("train/class-0/0.png", 60);
    for steps in [4, 6] {
        let args = format!("pretrain --resume runs/run --steps {steps} --diagnose-every 1");
        let output = scratch.run(&args);
        let said = String::from_utf8_lossy(&output.stderr);
        contains(&said, &["warning: no diagnostics from step", "predictions.png is not drawn", "skipped", "0.png"]);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && !said.contains("predictions.png"), "{said}");
        contains(&said, &["positions.png"]);
        assert_eq!(step(&run_of(&scratch, "run")), steps);
    }
    // Not even their first bytes.
    held_out.iter().for_each(|name| drop(cut(name, 3)));
    contains(
        &scratch.succeeds("pretrain --resume runs/run --steps 8"),
        &["held out are other images than before: 0 files", "no images are held out"],
    );
    let good = cut("train/class-1/1.png", 3);
    scratch.refuses(
        "pretrain --resume runs/run --steps 10",
        &["skipped", "1.png", "not the images of this run: 4 files", "bring back the files"],
    );
    std::fs::write(scratch.path("imagés/train/class-1/1.png"), good).unwrap();
    scratch.succeeds("pretrain --resume runs/run --steps 10");
}

/// `nohup`, and what a script starts with `&`: a signal that was ignored at the beginning stays so.
#[test]
fn a_signal_that_was_ignored_stays_ignored() {
    let scratch = with_images();
    let args = SMALL.replace("every 1", "every 999").replace("imagés", "'imagés'");
    let script = format!("trap '' HUP INT; exec \"$0\" {args} --steps 10000000 --name run --threads 1");
    let mut child = Running(scratch.shell(&script).stdout(Stdio::null()).spawn().unwrap());
    let run = run_of(&scratch, "run");
    wait_for_step(&run, 2);
    for signal in ["-HUP", "-INT"] {
        child.signal(signal);
        std::thread::sleep(Duration::from_millis(200));
        let so_far = log(&run).len();
        wait_for_step(&run, so_far + 5);
        assert!(child.0.try_wait().unwrap().is_none(), "{signal} ended it");
    }
    child.signal("-TERM");
    child.ends_well();
    assert_eq!(step(&run), log(&run).len());
}

/// In a step that takes many seconds: the first Ctrl-C waits for it, one that follows at once is the same, SIGTERM is
/// patient, and Ctrl-C later ends the process.
#[test]
fn a_second_ctrl_c_ends_it_at_once() {
    use std::os::unix::process::ExitStatusExt;
    if interrupt() != "-INT" {
        return println!("skipped: SIGINT is ignored here");
    }
    let scratch = Scratch::new();
    let args = "pretrain --steps 5 --batch 4096 --dim 192 --depth 24 --heads 3 --name run --threads 1";
    let mut child = scratch.start(args);
    let (started, first) = (Instant::now(), run_of(&scratch, "run/checkpoints/step-00000000.safetensors"));
    wait_for("the run starts", || first.exists());
    let mut send = |signal: &str| {
        child.signal(signal);
        std::thread::sleep(Duration::from_millis(200));
        child.0.try_wait().unwrap()
    };
    assert_eq!((send("-INT"), send("-INT")), (None, None));
    std::thread::sleep(Duration::from_millis(1000));
    assert_eq!(send("-TERM"), None);
    send("-INT");
    assert_eq!(child.0.wait().unwrap().signal(), Some(2));
    assert!(started.elapsed().as_secs() < 60);
    assert_eq!(step(&run_of(&scratch, "run")), 0);
}

/// What was said on resuming holds at once: a kill before the next checkpoint does not undo it.
#[test]
fn a_run_becomes_longer_or_shorter() {
    let scratch = with_images();
    let args = SMALL.replace("every 1", "every 999");
    scratch.succeeds(&format!("{args} --steps 6 --warmup 0.34 --name run"));
    let run = run_of(&scratch, "run");
    contains(&scratch.succeeds("pretrain --resume runs/run"), &["the run is complete"]);
    scratch.refuses(
        "pretrain --resume runs/run --steps 5",
        &["a run of 5 steps cannot go on after step 6", "at least 6 steps in all"],
    );
    scratch.refuses("pretrain --resume runs/run --epochs 1e20", &["10^12"]);
    let (before, mut longer) = (config(&run), config(&run));
    longer.steps = 100_000_000;
    let child = scratch.start("pretrain --resume runs/run --steps 100000000");
    wait_for_step(&run, 9);
    drop(child); // SIGKILL
    assert_eq!((step(&run), config(&run).steps), (6, 100_000_000));
    // Two steps are an epoch.
    let printed = scratch.succeeds("pretrain --resume runs/run --epochs 10");
    let rates: Vec<f64> = log(&run).iter().map(|row| row[3].parse().unwrap()).collect();
    let now = config(&run);
    assert_eq!((before.lr.warmup, now.lr.warmup, rates.len()), (2, 2, 20));
    let expected: Vec<f64> = (1..=20).map(|step| if step <= 6 { &before } else { &now }.step_params(step).lr).collect();
    assert_eq!(rates, expected);
    let jump =
        format!("learning rate: {:.3e} at step 6, {:.3e} at step 7", longer.step_params(6).lr, now.step_params(7).lr);
    contains(&printed, &["a run of 100000000 steps becomes one of 20: its warm-up stays", &jump]);
    // To where it stands.
    scratch.succeeds(&format!("{args} --steps 400 --warmup 0 --name other"));
    let other = run_of(&scratch, "other");
    std::fs::remove_file(newest(&other).unwrap()).unwrap();
    scratch.succeeds("pretrain --resume runs/other --steps 3");
    assert_eq!((step(&other), config(&other).steps, log(&other).len()), (3, 3, 3));
}

#[test]
fn a_run_goes_on_from_another_folder_and_after_its_images_moved() {
    let scratch = with_images();
    let args = SMALL.replace("imagés", "imagés/");
    scratch.succeeds(&format!("{args} --steps 4 --name run"));
    let elsewhere = scratch.path("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let there = |args: &str| printed(&scratch.command(args).current_dir(&elsewhere).output().unwrap(), args);
    there("pretrain --resume ../runs/run --steps 6");
    std::fs::rename(scratch.path("imagés"), elsewhere.join("here")).unwrap();
    scratch.refuses(
        "pretrain --resume runs/run --steps 8",
        &["imagés", "No such file", "if the images have moved", "--data"],
    );
    there("pretrain --resume ../runs/run --steps 8 --data folder:here");
    // From now on it knows.
    contains(&scratch.succeeds("pretrain --resume runs/run --steps 10"), &["going on after step 8 of 10"]);
    assert!(Path::new(config(&run_of(&scratch, "run")).data.strip_prefix("folder:").unwrap()).is_absolute());
}

#[test]
fn a_run_begins_with_the_weights_of_a_file_and_goes_on_without_it() {
    let scratch = with_images();
    scratch.succeeds(&format!("{SMALL} --steps 5 --name teacher"));
    let teacher = run_of(&scratch, "teacher").join("checkpoint.safetensors");
    let args = format!("{SMALL} --steps 6 --keep 100 --seed 7 --name pupil --init runs/teacher/checkpoint.safetensors");
    let asked = "images are normalized with mean [0.5, 0.4, 0.3], std [0.1, 0.2, 0.3]: as asked";
    contains(&scratch.succeeds(&format!("{args} --mean 0.5,0.4,0.3 --std 0.1,0.2,0.3")), &[asked]);
    let pupil = run_of(&scratch, "pupil");
    let (wanted, first) = (
        checkpoint::load(&teacher).unwrap(),
        checkpoint::load(&pupil.join("checkpoints/step-00000000.safetensors")).unwrap(),
    );
    let (wanted, found) = (&wanted.params["target_encoder"], &first.params["target_encoder"]);
    assert!(wanted.iter().zip(found.iter()).all(|(a, b)| a.value.max_abs_diff(&b.value) == 0.0));
    let RunConfig { init, normalization, seed, .. } = config(&pupil);
    assert_eq!((seed, normalization.unwrap().std.into_owned()), (7, vec![0.1, 0.2, 0.3]));
    let init = init.unwrap();
    assert_eq!(init.file, "runs/teacher/checkpoint.safetensors");
    assert_eq!(init.bytes, std::fs::metadata(&teacher).unwrap().len());
    std::fs::remove_file(&teacher).unwrap();
    scratch.succeeds("pretrain --resume runs/pupil --steps 9");
    scratch.refuses(&args, &["cannot read runs/teacher/checkpoint.safetensors"]);
    assert!(!run_of(&scratch, "pupil-2").exists(), "refused before anything is written");
}

/// The configuration is JSON: no number in it may change by a bit. (serde_json needs its feature `float_roundtrip`.)
#[test]
fn numbers_survive_json() {
    let mut rng = Generator::seed_from_u64(4);
    for _ in 0..100_000 {
        let x: f64 = rng.random::<f64>() * 10f64.powi(rng.random_range(-12..3));
        let back: f64 = serde_json::from_str(&serde_json::to_string(&x).unwrap()).unwrap();
        assert_eq!(x.to_bits(), back.to_bits(), "{x}");
    }
}
