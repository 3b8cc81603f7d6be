//! The floors of docs/architecture.md: a module may use what stands below it, and what stands beside it if that does not
//! use it in turn. And `unsafe` is in the kernels only, each with its argument.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The floors from the ground up; floor 0 is three of these rows.
const FLOORS: [&[&str]; 11] = [
    &["kernels"],
    &["tensor"],
    &["linalg"],
    &["autograd"],
    &["nn", "vit"],
    &["paper"],
    &["methods", "data"],
    &["train", "eval"],
    &["lab", "runs", "experiments"],
    &["report"],
    &["cli"],
];

/// On no floor: errors, random streams, writing files, other processes. All may use them, and they use no floor.
const OFF_FLOORS: [&str; 4] = ["error", "rng", "files", "processes"];

/// Where a module stands; `None` for what is no module of the crate.
fn height(module: &str) -> Option<usize> {
    let floor = FLOORS.iter().position(|modules| modules.contains(&module)).map(|i| i + 1);
    floor.or(OFF_FLOORS.contains(&module).then_some(0))
}

/// A file's path below src/, and its text.
type Source = (String, String);

fn sources() -> Vec<Source> {
    fn files(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
        for path in std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
            if path.is_dir() { files(&path, found) } else { found.push(path) }
        }
    }
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    files(&src, &mut found);
    let rust = found.into_iter().filter(|path| path.extension().is_some_and(|e| e == "rs"));
    let read = |path: std::path::PathBuf| {
        (path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned(), std::fs::read_to_string(&path).unwrap())
    };
    rust.map(read).collect()
}

/// Words, `::`, and single characters; without comments (and the links in them), strings, character literals.
fn tokens(source: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = source;
    while let Some(c) = rest.chars().next() {
        let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let raw =
            rest.strip_prefix(['r', 'b']).map(|s| s.trim_start_matches(['r', '#'])).filter(|s| s.starts_with('"'));
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |at| at + 2)
        } else if let Some(after) = raw.filter(|_| rest[..2.min(rest.len())].contains(['#', '"', 'r'])) {
            // r#"…"#: to a quote with as many # behind it.
            let marks = rest[..rest.len() - after.len()].matches('#').count();
            let end = format!("\"{}", "#".repeat(marks));
            rest.len() - after.len() + 1 + after[1..].find(&end).map_or(after.len() - 1, |at| at + end.len())
        } else if c == '"' {
            let mut escaped = false;
            let end = rest[1..].find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            end.map_or(rest.len(), |at| at + 2)
        } else if let Some(end) = rest.strip_prefix("'\\").and_then(|s| s[1..].find('\'')) {
            end + 4
        } else if c == '\'' && rest.chars().nth(2) == Some('\'') {
            rest.char_indices().nth(3).map_or(rest.len(), |(at, _)| at)
        } else {
            let length = if rest.starts_with("::") { 2 } else { word.max(c.len_utf8()) };
            found.extend((!c.is_whitespace()).then_some(&rest[..length]));
            length
        };
        rest = &rest[length..];
    }
    found
}

/// The names that may follow a path's `::`: one, or those of a group.
fn heads<'a>(after: &[&'a str]) -> Vec<&'a str> {
    if after.first() != Some(&"{") {
        return after.first().copied().into_iter().collect();
    }
    let (mut depth, mut heads) = (0, Vec::new());
    for (i, token) in after.iter().enumerate() {
        match *token {
            "{" => depth += 1,
            "}" if depth == 1 => break,
            "}" => depth -= 1,
            token if depth == 1 && ["{", ","].contains(&after[i - 1]) => heads.push(token),
            _ => {}
        }
    }
    heads
}

/// The crate's modules that a file uses: by `crate::…` or by as many `super::` as lead to the root.
fn uses((path, source): &Source) -> BTreeSet<&str> {
    let mut place: Vec<&str> = path.trim_end_matches(".rs").split('/').filter(|part| *part != "mod").collect();
    let tokens = tokens(source);
    let (mut depth, mut inline, mut found) = (0, Vec::new(), BTreeSet::new());
    let mut i = 0;
    while i < tokens.len() {
        match tokens[i] {
            "{" => {
                depth += 1;
                if i >= 2 && tokens[i - 2] == "mod" {
                    inline.push(depth);
                    place.push(tokens[i - 1]);
                }
            }
            "}" => {
                if inline.last() == Some(&depth) {
                    inline.pop();
                    place.pop();
                }
                depth -= 1;
            }
            start @ ("crate" | "super") if tokens.get(i + 1) == Some(&"::") => {
                let ups = tokens[i..].chunks(2).take_while(|pair| *pair == ["super", "::"]).count();
                let after = if start == "crate" { i + 2 } else { i + 2 * ups };
                if start == "crate" || ups == place.len() {
                    found.extend(heads(&tokens[after..]).into_iter().filter(|name| height(name).is_some()));
                }
                i = after - 1;
            }
            _ => {}
        }
        i += 1;
    }
    found
}

/// What is wrong with the arrows of these files; and how many arrows there are.
fn wrong_arrows(sources: &[Source]) -> (Vec<String>, usize) {
    let (mut wrong, mut arrows, mut beside) = (Vec::new(), 0, BTreeMap::<&str, BTreeSet<&str>>::new());
    for source in sources {
        let module = source.0.split(['/', '.']).next().unwrap();
        let Some(here) = height(module) else { continue };
        for used in uses(source).into_iter().filter(|used| *used != module) {
            arrows += 1;
            let there = height(used).unwrap();
            if there > here || there == 0 && here == 0 {
                wrong.push(format!("{}: {module} uses {used}, which stands above it", source.0));
            } else if there == here {
                beside.entry(module).or_default().insert(used);
            }
        }
    }
    // Modules that a module reaches on its own floor.
    let reached = |from: &str| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from.to_owned()]);
        while let Some(at) = open.pop() {
            let next = beside.get(&at[..]).into_iter().flatten().map(|used| (*used).to_owned());
            open.extend(next.filter(|used| seen.insert(used.clone())));
        }
        seen
    };
    for module in beside.keys().filter(|module| reached(module).contains(**module)) {
        let round: Vec<String> = reached(module).into_iter().collect();
        wrong.push(format!("{module} stands in a circle, with {}", round.join(", ")));
    }
    (wrong, arrows)
}

#[test]
fn no_arrow_points_up_or_in_a_circle() {
    let (wrong, arrows) = wrong_arrows(&sources());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(arrows > 200, "only {arrows} arrows found: is this test still reading the source?");
}

#[test]
fn every_kind_of_wrong_arrow_is_seen() {
    let found = |files: &[(&str, &str)]| {
        let files: Vec<Source> = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
        wrong_arrows(&files).0.join("\n")
    };
    for (path, text, module) in [
        ("tensor/mod.rs", "use crate::lab::Finding;", "lab"),
        ("tensor/mod.rs", "use crate::{kernels::{self, Real}, lab::Finding, rng};", "lab"),
        ("tensor/mod.rs", "use super::{kernels, train};", "train"),
        ("tensor/shape.rs", "fn f() { let x = super::super::paper::sample_noise; }", "paper"),
        ("tensor/shape.rs", "fn f(c: char) -> bool { c == '\"' && crate::cli::run() }", "cli"),
        ("tensor/shape.rs", "mod tests { mod deep { use super::super::super::super::vit::Block; } }", "vit"),
        ("kernels/cpu/mod.rs", "macro_rules! m { () => { $crate::tensor::Tensor } }", "tensor"),
        ("rng.rs", "use crate::{error, kernels};", "kernels"),
        ("nn/mod.rs", "/* a \" in a comment */ use crate::\n    methods::Model;", "methods"),
    ] {
        let wrong = found(&[(path, text)]);
        assert!(wrong.contains(&format!("uses {module}, which")), "{path}: {text}: {wrong:?}");
    }
    let circle = [("train/mod.rs", "use crate::eval::rms;"), ("eval/probe.rs", "use super::super::train::Trainer;")];
    assert!(found(&circle).contains("eval stands in a circle, with eval, train"), "{}", found(&circle));
    for (path, text) in [
        ("tensor/mod.rs", "/// See [`crate::lab`].\n// use crate::lab;\nuse crate::{kernels, error::Error};"),
        ("tensor/mod.rs", "const A: &str = \"crate::lab\\\" crate::lab\"; const B: &str = r#\"\"crate::lab\"#;"),
        ("tensor/shape.rs", "use super::Tensor; mod tests { use super::super::train; }"), // tensor::train
        ("train/mod.rs", "use crate::eval::rms; use crate::train::Trainer;"),
    ] {
        assert_eq!(found(&[(path, text)]), "", "{path}: {text}");
    }
}

/// What is wrong with the use of `unsafe` in a file; and how often it is used. The argument stands directly above the
/// block, implementation or function, or above the statement, function, implementation or trait that it is part of.
fn unargued((path, source): &Source) -> (Vec<String>, usize) {
    let (mut wrong, mut used) = (Vec::new(), 0);
    let lines: Vec<&str> = source.lines().collect();
    let indent = |line: &str| line.len() - line.trim_start().len();
    let is_comment = |line: &str| line.trim().starts_with("//");
    // Above the start of the statement that line i is part of, over attributes.
    let argued = |i: usize| {
        let part = |line: &str| {
            let ends = is_comment(line) || line.is_empty() || line.ends_with([';', '{', '}', ',']);
            line.trim().starts_with("#[") || !ends
        };
        let above = lines[..i].iter().rev().skip_while(|line| part(line)).take_while(|line| is_comment(line));
        above.chain([&lines[i]]).any(|line| line.contains("SAFETY") || line.contains("# Safety"))
    };
    for (i, line) in lines.iter().enumerate() {
        let words = tokens(line);
        let Some(at) = words.iter().position(|word| *word == "unsafe") else { continue };
        if words[at..].starts_with(&["unsafe", "fn", "("]) {
            continue; // the type of a pointer to a function
        }
        used += 1;
        if !path.starts_with("kernels/") {
            wrong.push(format!("{path}:{}: unsafe outside of the kernels", i + 1));
        }
        // The line, and the headers of what is around it, from the inside out.
        let mut least = indent(line);
        let around = (0..i).rev().filter(|&k| {
            let header = !lines[k].is_empty() && !is_comment(lines[k]) && indent(lines[k]) < least;
            least = if header { indent(lines[k]) } else { least };
            header && ["fn", "impl", "trait"].iter().any(|word| tokens(lines[k]).contains(word))
        });
        if ![i].into_iter().chain(around).any(argued) {
            wrong.push(format!("{path}:{}: unsafe without a SAFETY comment directly above", i + 1));
        }
    }
    (wrong, used)
}

#[test]
fn unsafe_code_is_in_the_kernels_only_and_argued() {
    let (wrong, used): (Vec<_>, Vec<_>) = sources().iter().map(unargued).unzip();
    let (wrong, used) = (wrong.concat(), used.iter().sum::<usize>());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(used > 20, "unsafe only {used} times: is this test still reading the source?");

    let of = |path: &str, text: &str| unargued(&(path.to_owned(), text.to_owned())).0.len();
    for (text, count) in [
        ("// SAFETY: inside.\nunsafe { f() }", 0),
        ("// SAFETY: inside.\n#[inline]\nlet x =\n    unsafe { f() };", 0),
        ("/// # Safety\n/// Inside.\nunsafe fn f() {}", 0),
        ("fn f(g: unsafe fn(u8)) {}\n// unsafe\nlet s = \"unsafe\";", 0),
        ("unsafe { f() }", 1),
        ("// SAFETY: inside.\nlet x = 1;\nunsafe { f() }", 1),
        ("// SAFETY: inside.\n\nunsafe { f() }", 1),
        ("// SAFETY: inside.\nunsafe { f() }\nunsafe { g() }", 1),
        ("unsafe impl Send for X {}", 1),
        ("// SAFETY: of the function.\nfn f() {\n    unsafe { g() }\n}", 0),
        ("// SAFETY: of another.\nfn e() {}\nfn f() {\n    unsafe { g() }\n}", 1),
        ("// SAFETY: of each.\nimpl X for Y {\n    fn e() {\n        f();\n        unsafe { g() }\n    }\n}", 0),
        ("fn f() {\n    // SAFETY: of g alone.\n    unsafe { g() }\n    unsafe { h() }\n}", 1),
    ] {
        assert_eq!(of("kernels/mod.rs", text), count, "{text}");
    }
    assert_eq!(of("tensor/mod.rs", "// SAFETY: inside.\nunsafe { f() }"), 1);
}

/// An error of the run is made of a panic by unwinding it.
#[test]
fn panics_unwind() {
    const { assert!(cfg!(panic = "unwind")) };
    let manifest = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    assert!(!manifest.lines().any(|line| line.trim_start().starts_with("panic")), "panic = \"abort\" in a profile?");
}
