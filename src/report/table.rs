//! A table for the terminal: columns aligned, numbers to the right.

/// The table as lines of text, a rule under the header. Columns in which every entry is a number, or missing (empty or
/// `-`), are aligned to the right. Short rows are filled up with empty entries.
///
/// Widths count characters, which is right for the letters and symbols that this crate prints.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).chain([header.len()]).max().unwrap_or(0);
    let cell = |row: &[String], c: usize| row.get(c).cloned().unwrap_or_default();
    let header: Vec<String> = header.iter().map(|&h| h.to_owned()).collect();
    let width = |c: usize| rows.iter().chain([&header]).map(|row| cell(row, c).chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let right: Vec<bool> = (0..columns).map(|c| rows.iter().all(|row| is_number(&cell(row, c)))).collect();

    let line = |row: &[String]| {
        let padded = |c: usize| match (cell(row, c), widths[c]) {
            (text, width) if right[c] => format!("{text:>width$}"),
            (text, width) => format!("{text:<width$}"),
        };
        (0..columns).map(padded).collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    let rule = widths.iter().map(|&width| "─".repeat(width)).collect::<Vec<_>>().join("  ") + "\n";
    line(&header) + &rule + &rows.iter().map(|row| line(row)).collect::<String>()
}

/// Whether `text` starts like a number (`-1.5`, `.5`, `93.1 %`, `1e-4 ± 2e-5`), or is missing.
fn is_number(text: &str) -> bool {
    let unsigned = text.trim_start_matches(['-', '−', '+', '.']);
    matches!(text, "" | "-" | "NaN" | "inf" | "-inf") || unsigned.starts_with(|c: char| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_right_and_words_left() {
        let rows = [["mae", "9.5", "no"], ["i-jepa", "10.25", "12 a"], ["σ", "-", ""]];
        let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|&s| s.to_owned()).collect()).collect();
        let expected = "\
method  top-1  note
──────  ─────  ────
mae       9.5  no
i-jepa  10.25  12 a
σ           -
";
        assert_eq!(table(&["method", "top-1", "note"], &rows), expected);
    }

    #[test]
    fn ragged_and_empty_tables_are_fine() {
        assert_eq!(table(&[], &[]), "\n\n");
        assert_eq!(table(&["a"], &[vec!["1".into(), "x".into()], vec![]]), "a\n─  ─\n1  x\n\n");
    }
}
