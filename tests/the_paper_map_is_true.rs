//! docs/paper-map.md names functions, files, tests and examples: each of them exists.

use std::path::{Path, PathBuf};

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    let all = entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] });
    all.filter(|path| path.extension().is_some_and(|e| e == "rs")).collect()
}

#[test]
fn every_row() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tests: String = ["src", "tests"].iter().flat_map(|f| sources(&root.join(f))).map(|p| read(&p)).collect();
    let map = read(&root.join("docs/paper-map.md"));
    let rows = map.lines().filter(|l| l.starts_with('|') && l.contains("(src/"));
    let mut checked = 0;
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [_, function, test, example] = cells[..] else { panic!("not four cells: {row}") };
        let (name, file) = function.split_once(" (").unwrap();
        let (name, file) = (name.trim_matches('`'), file.trim_end_matches(')'));
        let source = read(&root.join(file));
        let exists = ["fn ", "struct ", "enum "].iter().any(|kind| source.contains(&format!("{kind}{name}")));
        assert!(exists, "{file} has no {name}");
        let test = test.trim_matches('`');
        assert!(tests.contains(&format!("fn {test}()")), "there is no test {test}");
        if !example.is_empty() {
            let file = root.join("examples").join(format!("{}.rs", example.trim_matches('`')));
            assert!(file.exists(), "there is no {}", file.display());
        }
        checked += 1;
    }
    assert!(checked >= 15, "only {checked} rows found");
}
