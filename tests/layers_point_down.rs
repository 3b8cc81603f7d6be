//! The floors of docs/architecture.md: a file may use its own floor and those below, never one above.

use std::path::{Path, PathBuf};

/// The floors from the ground up. What is on no floor (errors, random streams, file writing) may be used by all.
const FLOORS: [&[&str]; 9] = [
    &["kernels"],
    &["tensor"],
    &["autograd"],
    &["nn", "vit"],
    &["paper"],
    &["methods", "data"],
    &["train", "eval", "lab"],
    &["report"],
    &["cli"],
];

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|modules| modules.contains(&module))
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn no_arrow_points_up() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut arrows = 0;
    for file in files(&src) {
        let module = file.strip_prefix(&src).unwrap().components().next().unwrap();
        let module = module.as_os_str().to_str().unwrap().trim_end_matches(".rs");
        let Some(here) = floor(module) else { continue };
        for line in std::fs::read_to_string(&file).unwrap().lines() {
            let code = line.trim_start();
            if code.starts_with("//") {
                continue;
            }
            for used in code.split("crate::").skip(1) {
                let used = used.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap();
                let Some(there) = floor(used) else { continue };
                arrows += 1;
                assert!(there <= here, "{}: {module} (floor {here}) uses {used} (floor {there})", file.display());
            }
        }
    }
    assert!(arrows > 50, "only {arrows} arrows found: is this test still reading the source?");
}

/// The compiler refuses `unsafe` nowhere in this crate; this does, everywhere but in the kernels, and asks for an argument
/// at each of those.
#[test]
fn unsafe_code_is_in_the_kernels_only_and_argued() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut blocks, mut read) = (0, 0);
    for file in files(&src) {
        let source = std::fs::read_to_string(&file).unwrap();
        read += 1;
        let lines: Vec<&str> = source.lines().collect();
        for (i, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap();
            if !code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe") {
                continue;
            }
            let place = format!("{}:{}", file.display(), i + 1);
            assert!(file.starts_with(src.join("kernels")), "{place}: unsafe outside of the kernels");
            if !code.contains("unsafe {") {
                continue; // a function: what it asks of its caller is for its documentation
            }
            blocks += 1;
            // Above the block, or above the function or the implementation that consists of such blocks.
            let argued =
                lines[..=i].iter().rev().take_while(|line| !line.starts_with('}')).any(|l| l.contains("SAFETY"));
            assert!(argued, "{place}: an unsafe block without a SAFETY comment");
        }
    }
    assert!(blocks > 20 && read > 100, "{blocks} blocks in {read} files: is this test still reading the source?");
}

/// An error of the run is made of a panic by unwinding it.
#[test]
fn panics_unwind() {
    const { assert!(cfg!(panic = "unwind")) };
    let manifest = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    assert!(!manifest.lines().any(|line| line.trim_start().starts_with("panic")), "panic = \"abort\" in a profile?");
}
