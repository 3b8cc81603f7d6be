//! A table for the terminal: columns aligned, numbers to the right.

/// How wide the columns of a table are, and where their entries stand.
///
/// Columns in which every entry is a number, or missing (empty, `-` or `–`), are aligned to the right. Short rows are filled
/// up with empty entries. Widths count characters, which is right for the letters and symbols that this crate prints.
pub struct Layout {
    widths: Vec<usize>,
    right: Vec<bool>,
}

impl Layout {
    /// Wide enough for these rows. A table whose rows come one by one is laid out by the widest that there can be.
    pub fn of(header: &[&str], rows: &[Vec<String>]) -> Self {
        let columns = rows.iter().map(Vec::len).chain([header.len()]).max().unwrap_or(0);
        let cells = |c: usize| rows.iter().map(move |row| row.get(c).map_or("", |cell| cell));
        let width = |c: usize| cells(c).chain(header.get(c).copied()).map(|cell| cell.chars().count()).max();
        Layout {
            widths: (0..columns).map(|c| width(c).unwrap_or(0)).collect(),
            right: (0..columns).map(|c| cells(c).all(is_number)).collect(),
        }
    }

    /// The line above all rows, and a rule under it.
    pub fn header(&self, header: &[&str]) -> String {
        let rule: Vec<String> = self.widths.iter().map(|&width| "─".repeat(width)).collect();
        self.line(header) + &rule.join("  ") + "\n"
    }

    /// One row. An entry that is wider than its column moves what is right of it.
    pub fn row(&self, row: &[String]) -> String {
        self.line(&row.iter().map(|cell| &**cell).collect::<Vec<_>>())
    }

    fn line(&self, row: &[&str]) -> String {
        let padded = self.widths.iter().zip(&self.right).enumerate().map(|(c, (&width, right))| {
            let text = row.get(c).unwrap_or(&"");
            if *right { format!("{text:>width$}") } else { format!("{text:<width$}") }
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    }
}

/// The table as lines of text, laid out by its own rows.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let layout = Layout::of(header, rows);
    rows.iter().fold(layout.header(header), |table, row| table + &layout.row(row))
}

/// Whether `text` starts like a number (`-1.5`, `.5`, `93.1 %`, `1e-4 ± 2e-5`, and with a mark `*93.1 %`), or is
/// missing.
pub(super) fn is_number(text: &str) -> bool {
    let unsigned = text.trim_start_matches(['-', '−', '+', '.', '*']);
    matches!(text, "" | "-" | "–" | "NaN" | "inf" | "-inf") || unsigned.starts_with(|c: char| c.is_ascii_digit())
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
    fn rows_that_come_one_by_one_stand_as_in_a_table() {
        let header = ["method", "top-1"];
        let rows = [["mae", "9.5 %"], ["i-jepa", "*100.0 %"]].map(|row| row.map(str::to_owned).to_vec());
        let layout = Layout::of(&header, &rows[1..]);
        let lines = [layout.header(&header), layout.row(&rows[0]), layout.row(&rows[1])];
        assert_eq!(lines.concat(), table(&header, &rows));
        assert_eq!(
            layout.row(&["stochastic".to_owned(), "-".to_owned()]),
            "stochastic         -\n",
            "wider: nothing is cut"
        );
    }

    #[test]
    fn ragged_and_empty_tables_are_fine() {
        assert_eq!(table(&[], &[]), "\n\n");
        assert_eq!(table(&["a"], &[vec!["1".into(), "x".into()], vec![]]), "a\n─  ─\n1  x\n\n");
    }
}
