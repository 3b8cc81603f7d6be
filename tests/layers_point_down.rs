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
