//! The program in several processes, as `mpirun` starts it: the checkpoints of one process, bit for bit; a process that
//! dies; another number of processes; errors and signals at one of them. What processes compute together is tested
//! without MPI in src/train/shared.rs.
//!
//! Without `mpirun` these tests do nothing, and say so. `STOP_MIM_KILLS=100` kills more often.
#![cfg(all(unix, feature = "mpi"))]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use common::{Running, SMALL, Scratch, contains, fails, printed, wait_for};
use rand::{RngExt, SeedableRng};
use stop_mim::rng::Generator;

/// Whether these tests can run; says so where they cannot.
fn mpirun_is_here() -> bool {
    let here = Command::new("mpirun").arg("--version").output().is_ok_and(|output| output.status.success());
    if !here {
        println!("skipped: there is no mpirun (Debian, Ubuntu: apt-get install openmpi-bin)");
    }
    here
}

/// What Open MPI needs to start more processes than there are cores, as root, none of them bound to a core. Others
/// ignore it.
const OPEN_MPI: [(&str, &str); 5] = [
    ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
    ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
    ("OMPI_MCA_rmaps_base_oversubscribe", "1"),
    ("OMPI_MCA_hwloc_base_binding_policy", "none"),
    ("OMPI_MCA_btl_vader_single_copy_mechanism", "none"),
];

/// `mpirun -n N` with the program and these words.
fn mpirun(scratch: &Scratch, processes: usize, args: &str) -> Command {
    launch(scratch, &format!("-n {processes} PROGRAM {args}"))
}

/// `mpirun` with these words, in which PROGRAM is the program.
fn launch(scratch: &Scratch, words: &str) -> Command {
    let mut command = Command::new("mpirun");
    let program = env!("CARGO_BIN_EXE_stop-mim");
    command.current_dir(scratch.folder()).env("HOME", scratch.folder()).envs(OPEN_MPI);
    command.args(words.split_whitespace().map(|word| if word == "PROGRAM" { program } else { word }));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[track_caller]
fn succeeds(scratch: &Scratch, processes: usize, args: &str) -> String {
    printed(&mpirun(scratch, processes, args).output().unwrap(), args)
}

/// It fails with these words, each said once; what it says.
#[track_caller]
fn fails_once(output: &Output, args: &str, words: &[&str]) -> String {
    let said = fails(output, args, words);
    words.iter().for_each(|word| assert_eq!(said.matches(word).count(), 1, "'{word}' in\n{said}"));
    said
}

/// Six lanes, the last of them of half a chunk: 44 images in chunks of 8.
fn tiny(more: &str) -> String {
    format!("{SMALL} --batch 44 --diagnose-every 3 --checkpoint-every 1 {more}")
}

fn run_of(scratch: &Scratch, name: &str) -> PathBuf {
    scratch.path("runs").join(name)
}

/// The newest checkpoint of a run.
fn newest(run: &Path) -> Option<PathBuf> {
    let names = std::fs::read_dir(run.join("checkpoints")).ok()?.map(|entry| entry.unwrap().path());
    names.filter(|path| path.extension().is_some_and(|e| e == "safetensors")).max()
}

/// All that a run ends with: weights and moments, the weights alone, and the log but for the speed.
#[track_caller]
fn same_run(one: &Path, other: &Path) {
    let log = |run: &Path| {
        let log = std::fs::read_to_string(run.join("log.csv")).unwrap();
        let without_speed = |line: &str| {
            let mut cells: Vec<&str> = line.split(',').collect();
            cells.remove(6);
            cells.join(",")
        };
        log.lines().map(without_speed).collect::<Vec<_>>()
    };
    assert_eq!(log(one), log(other), "{} and {}", one.display(), other.display());
    let read = |path: PathBuf| std::fs::read(path).unwrap();
    assert!(
        read(one.join("checkpoint.safetensors")) == read(other.join("checkpoint.safetensors")),
        "the weights differ"
    );
    assert!(read(newest(one).unwrap()) == read(newest(other).unwrap()), "the states differ");
}

#[track_caller]
fn wait_for_step(run: &Path, step: usize) {
    let lines = || std::fs::read_to_string(run.join("log.csv")).map_or(0, |log| log.lines().count());
    wait_for(&format!("step {step}"), || lines() > step);
}

#[test]
fn the_same_bits_in_any_number_of_processes() {
    if !mpirun_is_here() {
        return;
    }
    let scratch = Scratch::new();
    for method in ["stop", "ijepa", "mae", "data2vec", "simmim"] {
        let predictor = " --predictor-dim 8 --predictor-depth 1 --predictor-heads 1";
        let args = tiny(&format!("--steps 4 --method {method}")).replace("--depth 1 --heads 2", "--depth 2 --heads 2");
        let args = if ["data2vec", "simmim"].contains(&method) { args.replace(predictor, "") } else { args };
        scratch.succeeds(&format!("{args} --name {method} --threads 2"));
        for processes in 1..=4 {
            let name = format!("{method}-in-{processes}");
            let said = succeeds(&scratch, processes, &format!("{args} --name {name} --threads {}", 1 + processes % 2));
            same_run(&run_of(&scratch, method), &run_of(&scratch, &name));
            assert_eq!(said.matches("checkpoint.safetensors").count(), 1, "{said}");
            assert_eq!(said.contains(&format!("{processes} processes, threads of each")), processes > 1, "{said}");
        }
    }
    // One process printed, and one made a folder.
    assert_eq!(std::fs::read_dir(scratch.path("runs")).unwrap().count(), 5 * 5);
}

#[test]
fn fine_tuning_has_the_same_bits_too() {
    if !mpirun_is_here() {
        return;
    }
    let scratch = Scratch::new();
    scratch.succeeds(&tiny("--steps 2 --name start"));
    let args = "finetune runs/start/checkpoint.safetensors --labels 2 --batch 44 --drop-path 0.3 --steps 3 --checkpoint-every 1";
    scratch.succeeds(&format!("{args} --name one"));
    let said = succeeds(&scratch, 3, &format!("{args} --name three --threads 1"));
    same_run(&run_of(&scratch, "one"), &run_of(&scratch, "three"));
    assert_eq!(said.matches("test images told right").count(), 1, "{said}");
}

/// The processes that a launcher has started on this machine.
fn processes_of(launcher: u32) -> Vec<u32> {
    let children = std::fs::read_to_string(format!("/proc/{launcher}/task/{launcher}/children")).unwrap_or_default();
    let pids = children.split_whitespace().map(|pid| pid.parse::<u32>().unwrap());
    let is_ours =
        |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.starts_with("stop-mim"));
    // Some launchers start them through a process of their own.
    pids.flat_map(|pid| if is_ours(&pid) { vec![pid] } else { processes_of(pid) }).collect()
}

fn kill(signal: &str, pid: u32) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
}

/// One of several processes is killed at a random moment, and the run goes on in another number of them, again and
/// again.
#[cfg(target_os = "linux")]
#[test]
fn a_process_that_dies_ends_the_job_and_another_number_goes_on() {
    if !mpirun_is_here() {
        return;
    }
    let wanted = std::env::var("STOP_MIM_KILLS").map_or(6, |kills| kills.parse().unwrap());
    let scratch = Scratch::new();
    let args = tiny("--steps 12 --threads 1");
    scratch.succeeds(&format!("{args} --name whole"));
    let mut rng = Generator::seed_from_u64(4);
    let (mut kills, mut round) = (0, 0);
    while kills < wanted {
        round += 1;
        let name = format!("killed-{round}");
        let run = run_of(&scratch, &name);
        loop {
            let processes = rng.random_range(1..=4);
            let begun = newest(&run).is_some();
            if !begun {
                let _ = std::fs::remove_dir_all(&run);
            }
            let command = if begun {
                format!("pretrain --resume runs/{name} --threads 1")
            } else {
                format!("{args} --name {name}")
            };
            let mut launcher = Running(
                mpirun(&scratch, processes, &command).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap(),
            );
            if kills < wanted {
                let pid = launcher.0.id();
                wait_for("all processes", || {
                    processes_of(pid).len() == processes || launcher.0.try_wait().unwrap().is_some()
                });
                std::thread::sleep(Duration::from_millis(rng.random_range(0..900)));
                if let Some(&one) = processes_of(pid).get(rng.random_range(0..processes)) {
                    let _ = Command::new("kill").args(["-KILL", &one.to_string()]).stderr(Stdio::null()).status();
                }
            }
            let status = launcher.0.wait().unwrap();
            if status.success() {
                break;
            }
            kills += 1;
        }
        same_run(&run_of(&scratch, "whole"), &run);
    }
    println!("{kills} kills in {round} runs");
}

/// Whichever process hears a signal, and whatever the launcher passes on: all end after the step at hand, with a
/// checkpoint.
#[cfg(target_os = "linux")]
#[test]
fn a_signal_at_one_process_ends_all_with_everything_written() {
    if !mpirun_is_here() {
        return;
    }
    let scratch = Scratch::new();
    let args = tiny("--steps 60 --threads 1");
    scratch.succeeds(&format!("{args} --name whole"));
    let mut command = format!("{args} --name told");
    let run = run_of(&scratch, "told");
    for (who, at) in [(Some(2), 3), (Some(0), 10), (None, 20)] {
        let launcher = Running(mpirun(&scratch, 3, &command).spawn().unwrap());
        wait_for_step(&run, at);
        match who {
            Some(rank) => kill("-TERM", processes_of(launcher.0.id())[rank]),
            None => kill("-USR1", launcher.0.id()),
        }
        let output = launcher.output();
        let said = printed(&output, &command);
        contains(&said, &["as asked; everything is written", "stop-mim pretrain --resume runs/told goes on"]);
        assert_eq!(said.matches("as asked").count(), 1, "{said}");
        let steps = std::fs::read_to_string(run.join("log.csv")).unwrap().lines().count() - 1;
        assert!((at..60).contains(&steps), "{steps}");
        assert!(newest(&run).unwrap().ends_with(format!("step-{steps:08}.safetensors")));
        command = "pretrain --resume runs/told --threads 2".into();
    }
    succeeds(&scratch, 2, &command);
    same_run(&run_of(&scratch, "whole"), &run);
}

#[test]
fn an_error_is_said_once() {
    if !mpirun_is_here() {
        return;
    }
    let scratch = Scratch::new();
    let said = |processes: usize, args: &str, words: &[&str]| {
        let output = mpirun(&scratch, processes, args).output().unwrap();
        fails_once(&output, args, words)
    };
    said(3, &tiny("--bath 2"), &["unexpected argument '--bath'"]);
    said(3, "probe nothing.safetensors", &["this command is done in one process, and there are 3"]);
    said(2, &tiny("--data folder:nowhere"), &["nowhere: No such file or directory"]);
    said(2, "pretrain --resume runs/nothing", &["runs/nothing: No such file or directory"]);
    said(
        7,
        &tiny("--steps 2"),
        &["7 processes for a batch of 44 images", "start 6 processes or fewer, or choose a larger --batch"],
    );
    assert!(!scratch.path("runs").exists(), "what cannot be is refused before anything is written");
    said(
        2,
        &tiny("--steps 9 --name steep --lr 1e30 --lr-start 1e30 --weight-decay 0,0"),
        &["training stopped at step", "the run is kept as it was after step"],
    );
    assert!(newest(&run_of(&scratch, "steep")).is_some());
    // Two programs that were told different things.
    for (one, other, words) in [
        ("--steps 2", "--steps 3", "the processes differ in the setting steps: process 0"),
        ("--seed 1", "--seed 2", "the processes differ in the setting seed: process 0"),
    ] {
        let words_of = |more: &str| tiny(&format!("--steps 2 {more}")).replace("--steps 2 --steps", "--steps");
        let args = format!("-n 1 PROGRAM {} : -n 1 PROGRAM {}", words_of(one), words_of(other));
        fails_once(&launch(&scratch, &args).output().unwrap(), &args, &[words, "and process 1, on "]);
    }
}

/// The disk under the run's folder fills up while a checkpoint is written.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_ends_all_with_the_checkpoint_before_it() {
    let scratch = Scratch::new();
    let args = tiny("--steps 6 --threads 1");
    scratch.succeeds(&format!("{args} --name whole"));
    let size = |name: &str| std::fs::metadata(run_of(&scratch, "whole").join(name)).unwrap().len();
    // Room for the first two checkpoints and half of the next.
    let room = size("masks.png") + 5 * size("checkpoints/step-00000006.safetensors") / 2 + 16_384;
    std::fs::create_dir(scratch.path("disk")).unwrap();
    let mount = |options: String| {
        let mut mount = Command::new("mount");
        mount.current_dir(scratch.folder()).args(["-t", "tmpfs", "-o", &options, "tmpfs", "disk"]);
        mount.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    if !mpirun_is_here() || !mount(format!("size={room}")) {
        return println!("skipped: this user cannot mount a small disk");
    }
    let output = mpirun(&scratch, 3, &format!("{args} --out disk --name short")).output().unwrap();
    let words = [
        "cannot write disk/short/checkpoints/step-00000002",
        "No space left",
        "the run is kept as it was after step 1",
    ];
    let failed = std::panic::catch_unwind(|| fails(&output, "a full disk", &words));
    let left = newest(&scratch.path("disk/short"));
    let more = mount("remount,size=100m".into());
    let resumed = mpirun(&scratch, 2, "pretrain --resume disk/short").output().unwrap();
    let same = std::panic::catch_unwind(|| same_run(&run_of(&scratch, "whole"), &scratch.path("disk/short")));
    // Whatever was found, the disk goes first.
    assert!(Command::new("umount").arg(scratch.path("disk")).status().unwrap().success());
    let said = failed.unwrap();
    words.iter().for_each(|word| assert_eq!(said.matches(word).count(), 1, "{said}"));
    assert!(left.unwrap().ends_with("step-00000001.safetensors") && more && resumed.status.success());
    same.unwrap();
}

/// Two hosts: network namespaces with names and addresses of their own, and a wire between them. Gone with this value.
#[cfg(target_os = "linux")]
struct Hosts {
    names: [String; 2],
    scratch: Scratch,
}

/// Bits a second on the wire.
#[cfg(target_os = "linux")]
const RATE: f64 = 100e6;

#[cfg(target_os = "linux")]
impl Hosts {
    /// `None` where this user or this system has no such namespaces.
    fn new() -> Option<Self> {
        let hosts = Hosts { names: [1, 2].map(|k| format!("mim{k}-{}", std::process::id())), scratch: Scratch::new() };
        let [one, two] = &hosts.names;
        hosts.names.iter().all(|name| system(&format!("ip netns add {name}"))).then_some(())?;
        system(&format!("ip link add wire netns {one} type veth peer name wire netns {two}")).then_some(())?;
        let up = |(k, name): (usize, &String)| {
            let address = format!("ip -n {name} addr add 10.77.0.{}/24 dev wire", k + 1);
            let up = ["lo", "wire"].map(|device| format!("ip -n {name} link set {device} up"));
            system(&address) && up.iter().all(|up| system(up))
        };
        hosts.names.iter().enumerate().all(up).then_some(())?;
        // In the place of ssh.
        let agent = "#!/bin/sh\nhost=$1; shift; case $host in *.1) n=ONE;; *) n=TWO;; esac\n\
            exec ip netns exec $n unshare --uts sh -c \"hostname $n; $*\"\n";
        hosts.scratch.write("agent", agent.replace("ONE", one).replace("TWO", two));
        system(&format!("chmod +x {}", hosts.scratch.path("agent").display())).then_some(hosts)
    }

    /// Makes the wire slow: whether that works.
    fn slow(&self) -> bool {
        let all = |how: String| {
            self.names.iter().all(|name| system(&format!("tc -n {name} qdisc replace dev wire root {how}")))
        };
        // Not every kernel has delays.
        all(format!("netem delay 0.5ms rate {RATE}bit limit 10000"))
            || all(format!("tbf rate {RATE} burst 32kb latency 200ms"))
    }

    /// A process on each.
    fn run(&self, args: &str) -> Output {
        let (one, program) = (&self.names[0], env!("CARGO_BIN_EXE_stop-mim"));
        let script = format!(
            "hostname {one}; exec mpirun --mca plm_rsh_agent ./agent -H 10.77.0.1:1,10.77.0.2:1 {program} {args}"
        );
        let mut command = Command::new("ip");
        command.args(["netns", "exec", one, "unshare", "--uts", "sh", "-c", &script]);
        command.current_dir(self.scratch.folder()).env("HOME", self.scratch.folder()).envs(OPEN_MPI).output().unwrap()
    }
}

#[cfg(target_os = "linux")]
impl Drop for Hosts {
    fn drop(&mut self) {
        self.names.iter().for_each(|name| _ = system(&format!("ip netns delete {name}")));
    }
}

#[cfg(target_os = "linux")]
fn system(command: &str) -> bool {
    let words: Vec<&str> = command.split_whitespace().collect();
    Command::new(words[0]).args(&words[1..]).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// The bits are those of one process; and a step on a slow wire takes as long as docs/distributed.md predicts from
/// bytes and rate.
#[cfg(target_os = "linux")]
#[test]
fn two_hosts_on_a_slow_wire() {
    let hosts = if mpirun_is_here() { Hosts::new() } else { None };
    let Some(hosts) = hosts else {
        return println!("skipped: no network namespaces here (they want root, ip and veth)");
    };
    let args = "pretrain --dim 128 --depth 4 --heads 2 --predictor-dim 64 --predictor-depth 2 --predictor-heads 2 --batch 16 \
        --checkpoint-every 100 --diagnose-every 100 --steps 8 --threads 1";
    hosts.scratch.succeeds(&format!("{args} --name one"));
    let fastest = |name: &str| {
        let output = hosts.run(&format!("{args} --name {name}"));
        let said = printed(&output, name);
        contains(&said, &[&format!("2 processes, threads of each: 1 on {}, 1 on {}", hosts.names[0], hosts.names[1])]);
        same_run(&run_of(&hosts.scratch, "one"), &run_of(&hosts.scratch, name));
        let log = std::fs::read_to_string(run_of(&hosts.scratch, name).join("log.csv")).unwrap();
        let speeds = log.lines().skip(2).map(|line| line.split(',').nth(6).unwrap().parse::<f64>().unwrap());
        16.0 / speeds.fold(0.0, f64::max)
    };
    let before = fastest("fast");
    if !hosts.slow() {
        return println!("skipped: the wire cannot be made slow (tc with netem or tbf)");
    }
    let slow = fastest("slow");
    let moments = std::fs::metadata(newest(&run_of(&hosts.scratch, "one")).unwrap()).unwrap().len()
        - std::fs::metadata(run_of(&hosts.scratch, "one").join("checkpoint.safetensors")).unwrap().len();
    // Half of the gradients and half of the weights, each way; in a checkpoint the two moments are twice as many bytes.
    let on_the_wire = 8.0 * moments as f64 / 2.0 / RATE;
    println!(
        "a step: {before:.3} s; on a wire of {:.0} Mbit/s {slow:.3} s, of which bytes {on_the_wire:.3} s",
        RATE / 1e6
    );
    assert!(slow > on_the_wire, "{slow} s, and {on_the_wire} s of bytes");
}
