//! Parts of a Markdown file that are made, in the middle of text that somebody has written.
//!
//! ```text
//! <!-- experiment: which-tokens -->
//! what stands here is replaced
//! <!-- end -->
//! ```

use std::path::Path;

use crate::{Error, Result};

const START: &str = "<!-- experiment: ";
const END: &str = "<!-- end -->";

/// `text`, which was read from `path`, with what stands between markers replaced by `made(name)`. All else stays as it is,
/// byte for byte. Markers stand on lines of their own; in fenced code they are text.
///
/// # Errors
/// When there is no marker, one has no end, an end has no beginning, or `made` has nothing of that name; the error says in
/// which line.
pub fn rewritten(path: &Path, text: &str, made: impl Fn(&str) -> Result<String, String>) -> Result<String> {
    let wrong = |line: usize, problem: String, hint: &str| Error::file(path, format!("line {line}: {problem}"), hint);
    let (mut new, mut open, mut fenced, mut any) = (String::new(), None, false, false);
    for (i, line) in text.split_inclusive('\n').enumerate() {
        let marker = line.trim();
        let starts = marker.strip_prefix(START).and_then(|rest| rest.strip_suffix("-->")).filter(|_| !fenced);
        let ends = marker == END && !fenced;
        match (open, starts) {
            (Some((at, _)), Some(_)) => {
                return Err(wrong(at, "the marker has no end before the next one".into(), &format!("write {END}")));
            }
            (None, Some(name)) => {
                new += line;
                if !line.ends_with('\n') {
                    return Err(wrong(i + 1, "the marker has no end".into(), &format!("write {END} below it")));
                }
                let block = made(name.trim()).map_err(|why| {
                    wrong(i + 1, why, "name a folder that has a result.json, or run that experiment first")
                })?;
                new += &if line.ends_with("\r\n") { block.replace('\n', "\r\n") } else { block };
                (open, any) = (Some((i + 1, name)), true);
            }
            (Some(_), None) if ends => {
                new += line;
                open = None;
            }
            (Some(_), None) => {} // replaced
            (None, None) if ends => {
                return Err(wrong(i + 1, "an end without a marker".into(), &format!("write {START}NAME --> above it")));
            }
            (None, None) => {
                fenced ^= marker.starts_with("```");
                new += line;
            }
        }
    }
    if let Some((at, name)) = open {
        let problem = format!("the marker of '{}' has no end", name.trim());
        return Err(wrong(at, problem, &format!("write {END} below it")));
    }
    if any {
        return Ok(new);
    }
    let hint = format!("write {START}NAME --> and {END} where the table of NAME is to stand, each on its own line");
    Err(Error::file(path, "has no place for a table", hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<String> {
        let made = |name: &str| {
            if name.starts_with('x') { Ok(format!("| {name} |\n")) } else { Err(format!("no '{name}'")) }
        };
        rewritten(Path::new("a.md"), text, made)
    }

    #[test]
    fn all_else_stays_and_twice_is_as_once() {
        let text = "\u{feff}# Ä  \r\n\n<!-- experiment: x-1 -->\nold\n\n<!-- end -->\ttail\n<!-- end -->\n\
                    ```\n<!-- experiment: y -->\n<!-- end -->\n```\n  <!-- experiment: x2 -->\r\n  <!-- end -->\r\nno newline";
        let expected = "\u{feff}# Ä  \r\n\n<!-- experiment: x-1 -->\n| x-1 |\n<!-- end -->\n\
                    ```\n<!-- experiment: y -->\n<!-- end -->\n```\n  <!-- experiment: x2 -->\r\n| x2 |\r\n  <!-- end -->\r\nno newline";
        let new = of(text).unwrap();
        assert_eq!(new, expected);
        assert_eq!(of(&new).unwrap(), expected);
    }

    #[test]
    fn a_marker_that_is_wrong_is_named_by_its_line() {
        for (text, words) in [
            ("a\n<!-- experiment: x -->\nb\n", "line 2: the marker of 'x' has no end"),
            ("a\n\n<!-- experiment: x -->", "line 3: the marker has no end"),
            ("<!-- experiment: x -->\n<!-- experiment: x -->\n<!-- end -->\n", "line 1: the marker has no end before"),
            ("<!-- experiment: y -->\n<!-- end -->\n", "line 1: no 'y'"),
            ("a\n<!-- end -->\n", "line 2: an end without a marker"),
            ("```\n<!-- experiment: x -->\n<!-- end -->\n```\n", "no place for a table"),
            ("", "no place for a table"),
        ] {
            let error = of(text).unwrap_err().to_string();
            assert!(error.starts_with("a.md: ") && error.contains(words), "{text:?}: {error}");
        }
    }
}
