//! An interrupted run goes on as if nothing had happened, through the program's own command line: same bits after
//! SIGKILL at random moments, after SIGTERM, after damage, after an error; no two processes on one run; no space, no loss.
//! A run becomes longer, its images move, it begins with the weights of a file.
//!
//! Many more kills, by hand: `STOP_MIM_KILLS=1000 cargo test --test resume -- --nocapture random_moments`.
#![cfg(unix)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use stop_mim::rng::Generator;
use stop_mim::train::{RunConfig, checkpoint};

/// An empty folder of its own for each test, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("stop-mim-resume-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    fn run(&self, name: &str) -> PathBuf {
        self.0.join("runs").join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

/// Small: two steps of two images are an epoch, so that steps are within epochs and between them. Its learning rates have
/// seventeen digits.
const SMALL: &str = "pretrain --dim 16 --depth 1 --heads 2 --predictor-dim 8 --predictor-depth 1 --predictor-heads 1 \
    --data folder:imagés --batch 2 --lr 0.0037 --lr-start 0.00012345678901234567 --ema 0.9,1 --diagnose-every 7 \
    --checkpoint-every 1";

/// Noisy images: five to train on, four to test on.
fn make_images(folder: &Path) {
    let mut rng = Generator::seed_from_u64(1);
    for i in 0..9 {
        let split = if i < 5 { "train" } else { "test" };
        let class = folder.join(format!("imagés/{split}/class-{}", i % 2));
        std::fs::create_dir_all(&class).unwrap();
        let image = image::RgbImage::from_fn(32, 32, |_, _| image::Rgb(std::array::from_fn(|_| rng.random())));
        image.save(class.join(format!("{i}.png"))).unwrap();
    }
}

fn command(folder: &Path, args: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stop-mim"));
    command.current_dir(folder).args(args.split_whitespace()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[track_caller]
fn succeeds(folder: &Path, args: &str) -> String {
    let output = command(folder, args).output().unwrap();
    assert!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn fails(output: &Output, words: &[&str]) {
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(matches!(output.status.code(), Some(1 | 2)), "{:?}\n{message}", output.status);
    assert!(!message.contains("panicked"), "{message}");
    for word in words {
        assert!(message.contains(word), "no '{word}' in\n{message}");
    }
}

/// The newest checkpoint of a run, and its name.
fn newest(run: &Path) -> Option<PathBuf> {
    let names = std::fs::read_dir(run.join("checkpoints")).ok()?.map(|entry| entry.unwrap().path());
    names.filter(|path| path.extension().is_some_and(|e| e == "safetensors")).max()
}

/// Every bit that a run ends with: weights and moments, the weights alone, and the log but for the speed.
fn bits(run: &Path) -> (Vec<u8>, Vec<u8>, Vec<Vec<String>>) {
    let log = std::fs::read_to_string(run.join("log.csv")).unwrap();
    let rows = log.lines().map(|line| line.split(',').map(str::to_owned).collect::<Vec<_>>());
    let rows = rows.map(|mut cells| {
        cells.remove(9);
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
fn wait_for_step(run: &Path, step: usize) {
    let started = Instant::now();
    while std::fs::read_to_string(run.join("log.csv")).map_or(0, |log| log.lines().count()) <= step {
        assert!(started.elapsed().as_secs() < 60, "the run did not come to step {step}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A child that a failing test does not leave behind.
struct Killed(Child);

impl Killed {
    /// What it has printed when it has ended by itself.
    fn output(mut self) -> Output {
        let read = |pipe: &mut dyn std::io::Read| {
            let mut text = Vec::new();
            pipe.read_to_end(&mut text).map(|_| text).unwrap()
        };
        let stderr = read(self.0.stderr.as_mut().unwrap()); // shorter than what a pipe holds, as is the other
        let stdout = read(self.0.stdout.as_mut().unwrap());
        Output { status: self.0.wait().unwrap(), stdout, stderr }
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// SIGKILL after random times, on one thread and on two by turns, again and again until the run has come to its end.
/// With a checkpoint at each step, most of its time is spent in writing.
#[test]
fn the_same_bits_after_kills_at_random_moments() {
    let wanted = std::env::var("STOP_MIM_KILLS").map_or(12, |kills| kills.parse().unwrap());
    let scratch = Scratch::new("kill");
    make_images(&scratch.0);
    for method in ["stop", "mae"] {
        // Only MAE has no moving average.
        let args = format!("{} --steps 24 --method {method}", SMALL.replace("--ema 0.9,1", ""));
        let args = if method == "stop" { format!("{args} --ema 0.9,1") } else { args };
        let whole = format!("{method}-whole");
        succeeds(&scratch.0, &format!("{args} --name {whole} --threads 1"));
        let mut rng = Generator::seed_from_u64(2);
        let (mut kills, mut half_written, mut rounds, mut useless) = (0, 0, 0, 0);
        while kills < wanted / 2 {
            let name = format!("{method}-{rounds}");
            let run = scratch.run(&name);
            rounds += 1;
            loop {
                let threads = 1 + kills % 2;
                let begin = match newest(&run) {
                    Some(_) => format!("pretrain --resume runs/{name} --threads {threads}"),
                    None => {
                        let _ = std::fs::remove_dir_all(&run);
                        format!("{args} --name {name} --threads {threads}")
                    }
                };
                let before = newest(&run);
                let mut child = Killed(command(&scratch.0, &begin).stdout(Stdio::null()).spawn().unwrap());
                let until = Instant::now() + Duration::from_micros(rng.random_range(0..300_000));
                while Instant::now() < until && child.0.try_wait().unwrap().is_none() {
                    std::thread::sleep(Duration::from_micros(200));
                }
                if let Some(status) = child.0.try_wait().unwrap() {
                    assert!(status.success(), "{begin}: {status}");
                    break;
                }
                child.0.kill().unwrap();
                child.0.wait().unwrap();
                kills += 1;
                useless += usize::from(before == newest(&run));
                let unfinished = |folder: PathBuf| {
                    let names = std::fs::read_dir(folder).into_iter().flatten();
                    names.filter(|e| e.as_ref().unwrap().file_name().to_str().unwrap().ends_with(".tmp")).count()
                };
                half_written += unfinished(run.join("checkpoints")).min(1);
                if kills >= wanted / 2 {
                    succeeds(
                        &scratch.0,
                        &match newest(&run) {
                            Some(_) => format!("pretrain --resume runs/{name}"),
                            None => {
                                let _ = std::fs::remove_dir_all(&run);
                                format!("{args} --name {name}")
                            }
                        },
                    );
                    break;
                }
            }
            same_bits(&scratch.run(&whole), &run);
            let _ = std::fs::remove_dir_all(&run);
        }
        println!(
            "{method}: {kills} kills in {rounds} runs, {half_written} with a file half written, {useless} before a new checkpoint"
        );
    }
}

/// SIGINT; or SIGTERM where these tests were themselves started with SIGINT ignored, as by `&` in a script: then so does
/// the program.
fn interrupt() -> &'static str {
    let survives = Command::new("sh").args(["-c", "kill -INT $$"]).status().unwrap().success();
    if survives { "-TERM" } else { "-INT" }
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
    let scratch = Scratch::new("signals");
    make_images(&scratch.0);
    let args = format!("{} --keep 3 --keep-every 4 --steps 200", SMALL.replace("every 1", "every 10"));
    succeeds(&scratch.0, &format!("{args} --name whole --threads 2"));
    let run = scratch.run("halved");
    let mut begin = format!("{args} --name halved --threads 1");
    for (signal, at) in [("-TERM", 13), (interrupt(), 51)] {
        let child = Killed(command(&scratch.0, &begin).spawn().unwrap());
        wait_for_step(&run, at);
        fails(
            &command(&scratch.0, "pretrain --resume runs/halved").output().unwrap(),
            &["runs/halved: another process is at work on this run", "wait until it has ended"],
        );
        assert!(Command::new("kill").args([signal, &child.0.id().to_string()]).status().unwrap().success());
        let mut child = child;
        assert!(child.0.wait().unwrap().success());
        assert!(step(&run) >= at && step(&run) < 200, "{}", step(&run));
        let logged = std::fs::read_to_string(run.join("log.csv")).unwrap().lines().count() - 1;
        assert_eq!(step(&run), logged, "the checkpoint is of the last step");
        begin = "pretrain --resume runs/halved --threads 2".into();
    }
    let printed = succeeds(&scratch.0, &begin);
    assert!(printed.contains("going on after step "), "{printed}");
    same_bits(&scratch.run("whole"), &run);

    let kept = |run: &Path| std::fs::read_dir(run.join("checkpoints")).unwrap().count();
    // Two steps are an epoch: steps 8, 16, … 200 for good, and of the last three 190 besides.
    assert_eq!(kept(&scratch.run("whole")), 25 + 1);
    let before = bits(&run);
    succeeds(&scratch.0, &begin);
    assert!(bits(&run) == before, "a complete run is left as it is");
}

/// The program without a command begins its guided run, which ends like any other.
#[test]
fn the_guided_run_begins_and_ends_when_told_to() {
    let scratch = Scratch::new("guided");
    let mut child = Killed(command(&scratch.0, "").spawn().unwrap());
    let run = scratch.run("guided");
    wait_for_step(&run, 2);
    assert!(Command::new("kill").args([interrupt(), &child.0.id().to_string()]).status().unwrap().success());
    assert!(child.0.wait().unwrap().success());
    assert!(step(&run) >= 2 && run.join("checkpoint.safetensors").exists());
}

/// A full disk behind the output, or a reader that has gone, ends no run: SIGHUP, when a terminal is closed, leaves both.
#[test]
fn a_run_goes_on_when_nobody_reads_what_it_says() {
    let scratch = Scratch::new("unread");
    make_images(&scratch.0);
    for (name, threads) in [("gone", 1), ("full", 2)] {
        let mut command = command(&scratch.0, &format!("{SMALL} --steps 4 --name {name} --threads {threads}"));
        if name == "full" && Path::new("/dev/full").exists() {
            let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
            command.stdout(full()).stderr(full());
        }
        let mut child = Killed(command.spawn().unwrap());
        drop((child.0.stdout.take(), child.0.stderr.take()));
        assert!(child.0.wait().unwrap().success(), "{name}");
        assert_eq!(step(&scratch.run(name)), 4);
    }
    same_bits(&scratch.run("gone"), &scratch.run("full"));
}

/// What is none of the run's checkpoints is left alone, and what cannot be read is not called damaged.
#[test]
fn strangers_among_the_checkpoints() {
    let scratch = Scratch::new("strangers");
    make_images(&scratch.0);
    succeeds(&scratch.0, &format!("{SMALL} --steps 4 --name run"));
    let checkpoints = scratch.run("run").join("checkpoints");
    let strangers = ["step-9.safetensors", "step-2.safetensors", "step-00000099.txt", "step-.safetensors"];
    strangers.iter().for_each(|name| std::fs::write(checkpoints.join(name), b"").unwrap());
    std::fs::create_dir(checkpoints.join("folder.tmp")).unwrap();
    let printed = succeeds(&scratch.0, "pretrain --resume runs/run");
    assert!(printed.contains("going on after step 4 of 4\n"), "{printed}");
    assert!(strangers.iter().all(|name| checkpoints.join(name).exists()));

    // As a file that the system does not give out today: a link that leads nowhere.
    let newest = checkpoints.join("step-00000009.safetensors");
    std::os::unix::fs::symlink("nowhere", &newest).unwrap();
    let output = command(&scratch.0, "pretrain --resume runs/run").output().unwrap();
    fails(&output, &["cannot read", "step-00000009.safetensors", "No such file"]);
    assert!(std::fs::symlink_metadata(&newest).is_ok(), "it is not set aside");
    std::fs::remove_file(&newest).unwrap();

    let log = scratch.run("run").join("log.csv");
    std::fs::remove_file(&log).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &log).unwrap();
    fails(
        &command(&scratch.0, "pretrain --resume runs/run").output().unwrap(),
        &["log.csv: is a device or a pipe, not a file", "move it away"],
    );
}

/// A newest checkpoint that is cut off, or has one bit flipped anywhere, is set aside for the one before it.
#[test]
fn damage_costs_one_checkpoint() {
    let scratch = Scratch::new("damage");
    make_images(&scratch.0);
    let args = format!("{SMALL} --steps 6 --keep 2");
    succeeds(&scratch.0, &format!("{args} --name whole"));
    succeeds(&scratch.0, &format!("{args} --name hurt"));
    let run = scratch.run("hurt");
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
        let printed = succeeds(&scratch.0, "pretrain --resume runs/hurt");
        assert!(printed.contains("step-00000006.safetensors: "), "{what}: {printed}");
        assert!(printed.contains("going on after step 5 of 6, from the checkpoint before it"), "{what}: {printed}");
        assert_eq!(std::fs::read(path.with_extension("safetensors.damaged")).unwrap(), bytes, "{what}");
        same_bits(&scratch.run("whole"), &run);
        assert!(std::fs::read(&spare).unwrap() == before);
    }
    std::fs::write(&path, &whole[..100]).unwrap();
    std::fs::write(&spare, &whole[..100]).unwrap();
    let output = command(&scratch.0, "pretrain --resume runs/hurt").output().unwrap();
    fails(&output, &["no checkpoint in it can be used", "step-00000006", "step-00000005", "without --resume"]);
}

/// A limit on the size of files stands for a full disk: the write fails in the middle of a checkpoint.
#[test]
fn a_write_that_fails_leaves_the_checkpoint_before_it() {
    let scratch = Scratch::new("full");
    make_images(&scratch.0);
    let args = format!("{SMALL} --steps 40");
    succeeds(&scratch.0, &format!("{args} --name whole"));
    let child = Killed(command(&scratch.0, &format!("{args} --name short")).spawn().unwrap());
    let run = scratch.run("short");
    wait_for_step(&run, 5);
    drop(child);
    let before = (newest(&run).unwrap(), std::fs::read(newest(&run).unwrap()).unwrap());
    let blocks = before.1.len() / 512 / 2;
    let program = env!("CARGO_BIN_EXE_stop-mim");
    // SIGXFSZ would end the process; the program hears it, and the write is an error.
    let script = format!("ulimit -f {blocks}; exec {program} pretrain --resume runs/short");
    let output = Command::new("sh").current_dir(&scratch.0).args(["-c", &script]).output().unwrap();
    let kept = format!("the run is kept as it was after step {}: ", step(&run));
    fails(&output, &["cannot write runs/short/checkpoints/step-", "File too large", &kept]);
    assert_eq!(before, (newest(&run).unwrap(), std::fs::read(newest(&run).unwrap()).unwrap()));
    let names = std::fs::read_dir(run.join("checkpoints")).unwrap();
    assert!(names.map(|e| e.unwrap().file_name()).all(|name| !name.to_str().unwrap().ends_with(".tmp")));
    // What a killed process would have left is removed.
    let left = run.join("checkpoints/step-00000009.safetensors.1.tmp");
    std::fs::write(&left, b"half a checkpo").unwrap();
    succeeds(&scratch.0, "pretrain --resume runs/short");
    assert!(!left.exists());
    same_bits(&scratch.run("whole"), &run);
}

/// An update overflows where loss and gradients are fine: nothing is written, and the checkpoint before it is whole.
#[test]
fn weights_that_overflow_leave_the_checkpoint_before_them() {
    let scratch = Scratch::new("overflow");
    make_images(&scratch.0);
    let args = SMALL.replace("--lr 0.0037", "--lr 1e60 --weight-decay 0,0");
    let output = command(&scratch.0, &format!("{args} --steps 6 --name run")).output().unwrap();
    fails(&output, &["runs/run/checkpoints/step-", "not written", "has values that are not finite", "still there"]);
    let run = scratch.run("run");
    let kept = std::fs::read_dir(run.join("checkpoints")).unwrap().map(|e| e.unwrap().file_name());
    assert!(kept.into_iter().all(|name| name.to_str().unwrap().ends_with(".safetensors")));
    // It can be read, and goes on to where it overflows.
    let output = command(&scratch.0, "pretrain --resume runs/run").output().unwrap();
    fails(&output, &["not written"]);
    assert!(!run.join("checkpoint.safetensors").exists());
}

#[test]
fn what_cannot_be_resumed_is_refused() {
    let scratch = Scratch::new("refused");
    make_images(&scratch.0);
    let refused = |args: &str, words: &[&str]| fails(&command(&scratch.0, args).output().unwrap(), words);
    succeeds(&scratch.0, &format!("{SMALL} --steps 3 --name run"));
    let state = newest(&scratch.run("run")).unwrap();
    for flag in [
        "--lr 0.1",
        "--dim 8",
        "--targets 3",
        "--warmup 0",
        "--init x",
        "--out here",
        "--name other",
        "--seed 1",
        "--profile",
    ] {
        refused(&format!("pretrain --resume runs/run {flag}"), &["--resume", flag.split(' ').next().unwrap()]);
    }
    refused("pretrain --resume nowhere", &["cannot open nowhere"]);
    refused("pretrain --resume runs/run/log.csv", &["log.csv: not a folder"]);
    refused("pretrain --checkpoint-every 0", &["not a whole number from 1"]);
    std::fs::create_dir(scratch.0.join("empty")).unwrap();
    refused("pretrain --resume empty", &["empty: no run: no folder of checkpoints is in it", "runs/stop-shapes"]);
    assert_eq!(std::fs::read_dir(scratch.0.join("empty")).unwrap().count(), 0, "it is left as it was");
    // The weights alone are no checkpoint to go on from; and a state is one to probe.
    std::fs::create_dir_all(scratch.0.join("weights/checkpoints")).unwrap();
    let weights = scratch.run("run").join("checkpoint.safetensors");
    std::fs::copy(&weights, scratch.0.join("weights/checkpoints/step-00000003.safetensors")).unwrap();
    refused("pretrain --resume weights", &["no 'upkeep' in its metadata"]);
    let probe = |path: &Path| succeeds(&scratch.0, &format!("probe {} --probe-images 4,2", path.display()));
    assert_eq!(probe(&state), probe(&weights));
    // One image more: another epoch, another run.
    std::fs::copy(scratch.0.join("imagés/train/class-0/0.png"), scratch.0.join("imagés/train/class-0/new.png"))
        .unwrap();
    let words = ["not the images of this run: 6 files (", "where there were 5 files (", "--data"];
    refused("pretrain --resume runs/run", &words);
    refused(
        "pretrain --resume runs/run --data shapes",
        &["shapes: not the images of this run: drawn shapes (series 0): 50000 images"],
    );
    // As many, of which one is another.
    std::fs::remove_file(scratch.0.join("imagés/train/class-0/0.png")).unwrap();
    std::fs::remove_file(scratch.0.join("imagés/train/class-0/2.png")).unwrap();
    std::fs::copy(scratch.0.join("imagés/train/class-1/1.png"), scratch.0.join("imagés/train/class-0/2.png")).unwrap();
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
    let scratch = Scratch::new("bad-image");
    make_images(&scratch.0);
    let args = format!("{} --steps 1 --threads 1", SMALL.replace("every 1", "every 999"));
    for name in ["whole", "hurt"] {
        succeeds(&scratch.0, &format!("{args} --name {name}"));
    }
    succeeds(&scratch.0, "pretrain --resume runs/whole --steps 1500");
    let (image, run) = (scratch.0.join("imagés/train/class-1/1.png"), scratch.run("hurt"));
    let good = std::fs::read(&image).unwrap();
    // Images are read again in each epoch, of three steps.
    let child =
        Killed(command(&scratch.0, "pretrain --resume runs/hurt --steps 1500 --strict --cache-mb 0").spawn().unwrap());
    wait_for_step(&run, 2);
    std::fs::write(&image, &good[..good.len() / 2]).unwrap();
    let output = child.output();
    let (steps, kept) = (log(&run).len(), step(&run));
    assert!(kept > 1 && kept < 1500 && kept == steps, "{kept} of {steps}");
    let goes_on = format!("the run is kept as it was after step {kept}: stop-mim pretrain --resume runs/hurt goes on");
    fails(&output, &["class-1", &goes_on]);
    std::fs::write(&image, &good).unwrap();
    let printed = succeeds(&scratch.0, "pretrain --resume runs/hurt");
    assert!(printed.contains(&format!("going on after step {kept} of 1500\n")), "{printed}");
    same_bits(&scratch.run("whole"), &run);
}

/// PatchGrid short, held-out images cost the diagnostics and a picture, and a training image is shown by another: the run goes on,
/// again and again. Of an image that is left out at the beginning, the others would change their numbers.
#[test]
fn a_run_whose_images_have_gone_bad_can_be_resumed() {
    let scratch = Scratch::new("gone-bad");
    make_images(&scratch.0);
    succeeds(&scratch.0, &format!("{SMALL} --steps 2 --name run"));
    let cut = |name: &str, bytes: usize| {
        let image = scratch.0.join("imagés").join(name);
        let good = std::fs::read(&image).unwrap();
        std::fs::write(&image, &good[..bytes]).unwrap();
        good
    };
    let held_out = ["test/class-1/5.png", "test/class-0/6.png", "test/class-1/7.png", "test/class-0/8.png"];
    held_out.iter().for_each(|name| drop(cut(name, 60)));
    cut("train/class-0/0.png", 60);
    for steps in [4, 6] {
        let args = format!("pretrain --resume runs/run --steps {steps} --diagnose-every 1");
        let output = command(&scratch.0, &args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        for words in ["warning: no diagnostics from step", "predictions.png is not drawn", "skipped", "0.png"] {
            assert!(said.contains(words), "no '{words}' in {said}");
        }
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("positions.png") && !said.contains("predictions.png"), "{said}");
        assert_eq!(step(&scratch.run("run")), steps);
    }
    // Not even their first bytes.
    held_out.iter().for_each(|name| drop(cut(name, 3)));
    let said = succeeds(&scratch.0, "pretrain --resume runs/run --steps 8");
    assert!(said.contains("held out are other images than before: 0 files"), "{said}");
    assert!(said.contains("no images are held out"), "{said}");
    let good = cut("train/class-1/1.png", 3);
    let output = command(&scratch.0, "pretrain --resume runs/run --steps 10").output().unwrap();
    fails(&output, &["skipped", "1.png", "not the images of this run: 4 files", "bring back the files"]);
    std::fs::write(scratch.0.join("imagés/train/class-1/1.png"), good).unwrap();
    succeeds(&scratch.0, "pretrain --resume runs/run --steps 10");
}

/// `nohup`, and what a script starts with `&`: a signal that was ignored at the beginning stays so.
#[test]
fn a_signal_that_was_ignored_stays_ignored() {
    let scratch = Scratch::new("nohup");
    make_images(&scratch.0);
    let args = SMALL.replace("every 1", "every 999").replace("imagés", "'imagés'");
    let program = env!("CARGO_BIN_EXE_stop-mim");
    let script = format!("trap '' HUP INT; exec {program} {args} --steps 10000000 --name run --threads 1");
    let mut sh = Command::new("sh");
    sh.current_dir(&scratch.0).args(["-c", &script]).stdout(Stdio::null());
    let (mut child, run) = (Killed(sh.spawn().unwrap()), scratch.run("run"));
    wait_for_step(&run, 2);
    let send = |child: &Killed, signal: &str| {
        assert!(Command::new("kill").args([signal, &child.0.id().to_string()]).status().unwrap().success());
    };
    for signal in ["-HUP", "-INT"] {
        send(&child, signal);
        std::thread::sleep(Duration::from_millis(200));
        let so_far = log(&run).len();
        wait_for_step(&run, so_far + 5);
        assert!(child.0.try_wait().unwrap().is_none(), "{signal} ended it");
    }
    send(&child, "-TERM");
    assert!(child.0.wait().unwrap().success());
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
    let scratch = Scratch::new("at-once");
    let args = "pretrain --steps 5 --batch 4096 --dim 192 --depth 24 --heads 3 --name run --threads 1";
    let mut child = Killed(command(&scratch.0, args).spawn().unwrap());
    let (started, first) = (Instant::now(), scratch.run("run/checkpoints/step-00000000.safetensors"));
    while !first.exists() {
        assert!(started.elapsed().as_secs() < 60, "the run did not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut send = |signal: &str| {
        assert!(Command::new("kill").args([signal, &child.0.id().to_string()]).status().unwrap().success());
        std::thread::sleep(Duration::from_millis(200));
        child.0.try_wait().unwrap()
    };
    assert_eq!((send("-INT"), send("-INT")), (None, None));
    std::thread::sleep(Duration::from_millis(1000));
    assert_eq!(send("-TERM"), None);
    send("-INT");
    assert_eq!(child.0.wait().unwrap().signal(), Some(2));
    assert!(started.elapsed().as_secs() < 60);
    assert_eq!(step(&scratch.run("run")), 0);
}

/// What was said on resuming holds at once: a kill before the next checkpoint does not undo it.
#[test]
fn a_run_becomes_longer_or_shorter() {
    let scratch = Scratch::new("length");
    make_images(&scratch.0);
    let args = SMALL.replace("every 1", "every 999");
    succeeds(&scratch.0, &format!("{args} --steps 6 --warmup 0.34 --name run"));
    let run = scratch.run("run");
    let finished = succeeds(&scratch.0, "pretrain --resume runs/run");
    assert!(finished.contains("the run is complete"), "{finished}");
    fails(
        &command(&scratch.0, "pretrain --resume runs/run --steps 5").output().unwrap(),
        &["a run of 5 steps cannot go on after step 6", "at least 6 steps in all"],
    );
    fails(&command(&scratch.0, "pretrain --resume runs/run --epochs 1e20").output().unwrap(), &["10^12"]);
    let (before, mut longer) = (config(&run), config(&run));
    longer.steps = 100_000_000;
    let mut child = Killed(command(&scratch.0, "pretrain --resume runs/run --steps 100000000").spawn().unwrap());
    wait_for_step(&run, 9);
    child.0.kill().unwrap();
    child.0.wait().unwrap();
    assert_eq!((step(&run), config(&run).steps), (6, 100_000_000));
    // Two steps are an epoch.
    let printed = succeeds(&scratch.0, "pretrain --resume runs/run --epochs 10");
    assert!(printed.contains("a run of 100000000 steps becomes one of 20: its warm-up stays"), "{printed}");
    let rates: Vec<f64> = log(&run).iter().map(|row| row[3].parse().unwrap()).collect();
    let (was, is) = (before.schedules().0, config(&run).schedules().0);
    assert_eq!((before.warmup, config(&run).warmup, rates.len()), (2, 2, 20));
    let expected: Vec<f64> = (1..=20).map(|step| if step <= 6 { was.at(step) } else { is.at(step) }).collect();
    assert_eq!(rates, expected);
    let jump = format!("learning rate: {:.3e} at step 6, {:.3e} at step 7", longer.schedules().0.at(6), is.at(7));
    assert!(printed.contains(&jump), "no '{jump}' in {printed}");
    // To where it stands.
    succeeds(&scratch.0, &format!("{args} --steps 400 --warmup 0 --name other"));
    let other = scratch.run("other");
    std::fs::remove_file(newest(&other).unwrap()).unwrap();
    succeeds(&scratch.0, "pretrain --resume runs/other --steps 3");
    assert_eq!((step(&other), config(&other).steps, log(&other).len()), (3, 3, 3));
}

#[test]
fn a_run_goes_on_from_another_folder_and_after_its_images_moved() {
    let scratch = Scratch::new("moved");
    make_images(&scratch.0);
    let args = SMALL.replace("imagés", "imagés/");
    succeeds(&scratch.0, &format!("{args} --steps 4 --name run"));
    let elsewhere = scratch.0.join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    succeeds(&elsewhere, "pretrain --resume ../runs/run --steps 6");
    std::fs::rename(scratch.0.join("imagés"), elsewhere.join("here")).unwrap();
    let gone = command(&scratch.0, "pretrain --resume runs/run --steps 8").output().unwrap();
    fails(&gone, &["imagés", "No such file", "if the images have moved", "--data"]);
    succeeds(&elsewhere, "pretrain --resume ../runs/run --steps 8 --data folder:here");
    // From now on it knows.
    let printed = succeeds(&scratch.0, "pretrain --resume runs/run --steps 10");
    assert!(printed.contains("going on after step 8 of 10"), "{printed}");
    assert!(Path::new(config(&scratch.run("run")).data.strip_prefix("folder:").unwrap()).is_absolute());
}

#[test]
fn a_run_begins_with_the_weights_of_a_file_and_goes_on_without_it() {
    let scratch = Scratch::new("init");
    make_images(&scratch.0);
    succeeds(&scratch.0, &format!("{SMALL} --steps 5 --name teacher"));
    let teacher = scratch.run("teacher").join("checkpoint.safetensors");
    let args = format!("{SMALL} --steps 6 --keep 100 --seed 7 --name pupil --init runs/teacher/checkpoint.safetensors");
    let asked = "images are normalized with mean [0.5, 0.4, 0.3], std [0.1, 0.2, 0.3]: as asked";
    let printed = succeeds(&scratch.0, &format!("{args} --mean 0.5,0.4,0.3 --std 0.1,0.2,0.3"));
    assert!(printed.contains(asked), "{printed}");
    let pupil = scratch.run("pupil");
    let (wanted, first) = (
        checkpoint::load(&teacher).unwrap(),
        checkpoint::load(&pupil.join("checkpoints/step-00000000.safetensors")).unwrap(),
    );
    let (wanted, found) = (wanted.params.target.unwrap(), first.params.target.unwrap());
    assert!(wanted.iter().zip(found.iter()).all(|(a, b)| a.value.max_abs_diff(&b.value) == 0.0));
    let RunConfig { init, normalization, seed, .. } = config(&pupil);
    assert_eq!((seed, normalization.unwrap().std.into_owned()), (7, vec![0.1, 0.2, 0.3]));
    let init = init.unwrap();
    assert_eq!(init.file, "runs/teacher/checkpoint.safetensors");
    assert_eq!(init.bytes, std::fs::metadata(&teacher).unwrap().len());
    std::fs::remove_file(&teacher).unwrap();
    succeeds(&scratch.0, "pretrain --resume runs/pupil --steps 9");
    fails(&command(&scratch.0, &args).output().unwrap(), &["cannot read runs/teacher/checkpoint.safetensors"]);
    assert!(!scratch.run("pupil-2").exists(), "refused before anything is written");
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
