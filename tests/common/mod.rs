//! What the tests share that run the program: each has a folder of its own, in which the program is called as from a shell.
#![allow(dead_code)] // no test uses all of it

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rand::RngExt;
use stop_mim::rng::Generator;
use tempfile::TempDir;

pub mod pictures;

/// The smallest model of the program's own tests, on the images of the default data set.
pub const SMALL: &str =
    "pretrain --dim 16 --depth 1 --heads 2 --predictor-dim 8 --predictor-depth 1 --predictor-heads 1";

/// An empty folder, removed at the end with everything in it.
pub struct Scratch(TempDir);

impl Scratch {
    pub fn new() -> Self {
        Scratch(tempfile::tempdir().unwrap())
    }

    pub fn folder(&self) -> &Path {
        self.0.path()
    }

    /// The path of something in the folder.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file, and the folders that it lies in.
    pub fn write(&self, name: impl AsRef<Path>, bytes: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    #[track_caller]
    pub fn read(&self, name: impl AsRef<Path>) -> Vec<u8> {
        std::fs::read(self.path(&name)).unwrap_or_else(|e| panic!("{}: {e}", name.as_ref().display()))
    }

    /// How many files and folders there are, without those within others.
    pub fn entries(&self) -> usize {
        std::fs::read_dir(self.folder()).unwrap().count()
    }

    /// The program with these words, to be called here. The folder is its home too.
    pub fn command(&self, args: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stop-mim"));
        command.current_dir(self.folder()).env("HOME", self.folder()).args(args.split_whitespace());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn run(&self, args: &str) -> Output {
        self.command(args).output().unwrap()
    }

    /// Calls the program with at most `kilobytes` of address space.
    pub fn within(&self, kilobytes: usize, args: &str) -> Output {
        self.shell(&format!("ulimit -v {kilobytes} && exec \"$0\" {args} --threads 2")).output().unwrap()
    }

    /// Starts the program, and does not wait for it.
    pub fn start(&self, args: &str) -> Running {
        Running(self.command(args).spawn().unwrap())
    }

    /// What a script of the shell does, in which `$0` is the program.
    pub fn shell(&self, script: &str) -> Command {
        let mut shell = Command::new("sh");
        shell.current_dir(self.folder()).args(["-c", script, env!("CARGO_BIN_EXE_stop-mim")]);
        shell.stdout(Stdio::piped()).stderr(Stdio::piped());
        shell
    }

    /// What the program prints when all is well.
    #[track_caller]
    pub fn succeeds(&self, args: &str) -> String {
        printed(&self.run(args), args)
    }

    /// The same with what it says on standard error, behind it.
    #[track_caller]
    pub fn says(&self, args: &str) -> String {
        let output = self.run(args);
        printed(&output, args) + &String::from_utf8_lossy(&output.stderr)
    }

    /// The program fails with all of these words; what it says.
    #[track_caller]
    pub fn refuses(&self, args: &str, words: &[&str]) -> String {
        fails(&self.run(args), args, words)
    }
}

/// What a call with these arguments has printed, which ended well.
#[track_caller]
pub fn printed(output: &Output, args: &str) -> String {
    assert!(output.status.success(), "{args}: {:?}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The program has ended with an error, not in a panic, and all of these words; what it says. `args` names the call.
#[track_caller]
pub fn fails(output: &Output, args: &str, words: &[&str]) -> String {
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(matches!(output.status.code(), Some(1 | 2)), "{args}: {:?}\n{message}", output.status);
    assert!(!message.contains("panicked"), "{args}: {message}");
    contains(&message, words);
    message
}

#[track_caller]
pub fn contains(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "no '{word}' in\n{text}");
    }
}

/// A child that a failing test does not leave behind.
pub struct Running(pub Child);

impl Running {
    /// Sends a signal, as `-TERM`.
    #[track_caller]
    pub fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.0.id().to_string()]).status().unwrap().success());
    }

    #[track_caller]
    pub fn ends_well(mut self) {
        let status = self.0.wait().unwrap();
        assert!(status.success(), "{status}");
    }

    /// What it has printed, once it has ended by itself.
    pub fn output(mut self) -> Output {
        let read = |pipe: &mut dyn std::io::Read| {
            let mut text = Vec::new();
            pipe.read_to_end(&mut text).map(|_| text).unwrap()
        };
        let stderr = read(self.0.stderr.as_mut().unwrap()); // shorter than what a pipe holds, as is the other
        let stdout = read(self.0.stdout.as_mut().unwrap());
        Output { status: self.0.wait().unwrap(), stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until something has happened, for a minute at most.
#[track_caller]
pub fn wait_for(what: &str, mut happened: impl FnMut() -> bool) {
    let started = Instant::now();
    while !happened() {
        assert!(started.elapsed().as_secs() < 60, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// SIGINT; or SIGTERM where these tests were themselves started with SIGINT ignored, as by `&` in a script: then so does
/// the program.
pub fn interrupt() -> &'static str {
    let survives = Command::new("sh").args(["-c", "kill -INT $$"]).status().unwrap().success();
    if survives { "-TERM" } else { "-INT" }
}

/// One to four small injuries: bytes changed, removed, repeated, or replaced by numbers at the edge of a type.
pub fn mutated(bytes: &[u8], rng: &mut Generator) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..rng.random_range(1..=4) {
        let at = rng.random_range(0..=bytes.len());
        let end = (at + rng.random_range(0..=16)).min(bytes.len());
        match rng.random_range(0..6) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => drop(bytes.splice(at..at, bytes[at..end].to_vec())),
            3 => bytes[at..end].iter_mut().for_each(|b| *b = rng.random()),
            4 => bytes[at..end].iter_mut().for_each(|b| *b ^= 1 << rng.random_range(0..8)),
            _ => {
                let edges = [0, 1, 0x7F, 0x80, 0xFF];
                let edge = edges[rng.random_range(0..edges.len())];
                bytes[at..end].fill(edge);
            }
        }
    }
    bytes
}
