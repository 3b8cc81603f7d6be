//! The documents name functions, files, tests and examples: each of them exists, and nothing of the paper is forgotten.

use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    let all = entries.flat_map(|path| if path.is_dir() { files(&path, extension) } else { vec![path] });
    all.filter(|path| path.extension().is_some_and(|e| e == extension)).collect()
}

/// The rows of the map's tables: what of the paper, function and file, tests, examples.
fn rows() -> Vec<[String; 4]> {
    let map = read(&root().join("docs/paper-map.md"));
    let rows = map.lines().filter(|l| l.starts_with("| ") && !l.starts_with("| paper"));
    let cells = |row: &str| -> [String; 4] {
        let cells: Vec<String> = row.trim_matches('|').split('|').map(|c| c.trim().to_owned()).collect();
        cells.try_into().unwrap_or_else(|cells| panic!("not four cells: {cells:?}"))
    };
    rows.map(cells).collect()
}

/// The words in backquotes.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_row() {
    let sources = ["src", "tests"].iter().flat_map(|folder| files(&root().join(folder), "rs"));
    let tests: String = sources.map(|path| read(&path)).collect();
    let rows = rows();
    assert!(rows.len() >= 50, "only {} rows found", rows.len());
    for [paper, function, test, example] in &rows {
        assert_eq!(quoted(function).len(), function.matches("(src/").count(), "{paper}: each function with its file");
        for (name, file) in quoted(function).into_iter().zip(function.split('(').skip(1)) {
            let file = file.split(')').next().unwrap();
            let source = read(&root().join(file));
            let here = |kind: &str| {
                let item = format!("{kind} {name}");
                let mut after = source.match_indices(&item).map(|(at, _)| &source[at + item.len()..]);
                after.any(|rest| rest.starts_with(['(', '<', ' ', ';', ':']))
            };
            let exists = ["fn", "struct", "enum", "mod"].iter().any(|kind| here(kind));
            assert!(exists, "{paper}: {file} has no {name}");
        }
        let tested = quoted(test);
        assert!(!tested.is_empty() || test.starts_with("docs/"), "{paper}: neither a test nor a document");
        for name in tested {
            let named = [format!("fn {name}()"), format!("\n    {name}: ")]; // the second in a table of tests
            assert!(named.iter().any(|named| tests.contains(named)), "{paper}: there is no test {name}");
        }
        for name in quoted(example) {
            assert!(root().join("examples").join(format!("{name}.rs")).exists(), "{paper}: there is no example {name}");
        }
    }
}

#[test]
fn nothing_is_forgotten() {
    let rows = rows();
    let all: String = rows.iter().map(|[paper, ..]| format!("{paper};")).collect();
    let equations = (1..=15).map(|i| format!("Eq. {i}"));
    let statements = ["Algorithm 1", "Prop. 3.1", "Prop. 3.2", "Prop. A.1", "Prop. A.2"].map(str::to_owned);
    let notes = (1..=3).map(|i| format!("footnote {i}"));
    for item in equations.chain(statements).chain(notes) {
        // "Eq. 1" is not found in "Eq. 15".
        let found =
            all.match_indices(&item).any(|(at, _)| !all[at + item.len()..].starts_with(|c: char| c.is_ascii_digit()));
        assert!(found, "{item} has no row");
    }
    let aliases: String = files(&root().join("src"), "rs").iter().map(|path| read(path)).collect();
    for item in
        (1..=15).map(|i| format!("Eq. {i}")).chain(["Prop. 3.1".into(), "Prop. 3.2".into(), "Algorithm 1".into()])
    {
        assert!(aliases.contains(&format!("doc(alias = \"{item}\")")), "rustdoc's search does not find {item}");
    }
    let map = read(&root().join("docs/paper-map.md")) + &read(&root().join("README.md"));
    for example in files(&root().join("examples"), "rs") {
        let name = example.file_stem().unwrap().to_str().unwrap();
        assert!(map.contains(name), "the example {name} is named neither in the map nor in the README");
    }
}

/// Each test of a statement is asserted by `cargo test` and printed by `stop-mim check`.
#[test]
fn no_statement_is_left_out() {
    let lab = root().join("src/lab");
    let (list, mut found) = (read(&lab.join("mod.rs")), 0);
    let tests = read(&root().join("tests/propositions.rs"));
    for part in ["prop_3_1", "second_order", "escapes", "prop_3_2"] {
        for line in read(&lab.join(format!("{part}.rs"))).lines().filter(|l| l.contains("-> Vec<Finding>")) {
            let Some(name) = line.strip_prefix("pub fn ").map(|line| line.split('(').next().unwrap()) else { continue };
            let named =
                |text: &str, ends: &[&str]| ends.iter().any(|end| text.contains(&format!("{part}::{name}{end}")));
            if name == "of" {
                continue; // of one's own predictor
            }
            assert!(named(&list, &[",", "),"]), "stop-mim check leaves {name} out");
            assert!(named(&tests, &["()", ")"]), "no test asserts {name}");
            found += 1;
        }
    }
    assert!(found > 30, "only {found} statements found");
}

/// Links to files, in every document, lead to a file.
#[test]
fn every_link_leads_somewhere() {
    let mut links = 0;
    for document in files(&root().join("docs"), "md").into_iter().chain([root().join("README.md")]) {
        let text = read(&document);
        for target in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let path = target.split('#').next().unwrap();
            if path.is_empty() || path.contains("://") {
                continue;
            }
            links += 1;
            assert!(document.parent().unwrap().join(path).exists(), "{}: no {path}", document.display());
        }
    }
    assert!(links > 30, "only {links} links found");
}
