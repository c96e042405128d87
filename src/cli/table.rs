//! Tables for people.

use std::fmt::Write;

/// Rows below their headings, each column as wide as it must be. Control characters are shown, not obeyed.
pub(super) fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
    let widths: Vec<usize> = headings
        .iter()
        .enumerate()
        .map(|(n, heading)| {
            let cells = rows.iter().filter_map(|row| row.get(n));
            cells.map(|cell| cell.chars().count()).chain([heading.chars().count()]).max().unwrap_or(0)
        })
        .collect();
    let mut out = String::new();
    line(&mut out, headings.iter().copied(), &widths);
    for row in &rows {
        line(&mut out, row.iter().map(String::as_str), &widths);
    }
    out
}

fn line<'c>(out: &mut String, cells: impl Iterator<Item = &'c str>, widths: &[usize]) {
    let mut text = String::new();
    for (cell, width) in cells.zip(widths) {
        let _ = write!(text, "{cell:width$}  ");
    }
    out.push_str(text.trim_end());
    out.push('\n');
}

/// A text as it may stand in a line of a terminal: an empty one is a dash.
pub(super) fn printable(text: &str) -> String {
    if text.is_empty() {
        return "-".to_owned();
    }
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

/// The first `most` characters of a text, with an ellipsis for the rest.
pub(super) fn shortened(text: &str, most: usize) -> String {
    let mut short: String = text.chars().take(most).collect();
    if text.chars().nth(most).is_some() {
        short.pop();
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_terminals_are_safe() {
        let rows =
            [vec!["a".to_owned(), "1\n2".to_owned()], vec!["long".to_owned(), "\u{1b}[31m".to_owned()]];
        assert_eq!(table(&["KEY", "VALUE"], &rows), "KEY   VALUE\na     1\\n2\nlong  \\u{1b}[31m\n");
        assert_eq!(table(&["A", "B"], &[vec![String::new(), "x".to_owned()]]), "A  B\n-  x\n");
        assert_eq!((shortened("abcdef", 4), shortened("abcd", 4)), ("abc…".to_owned(), "abcd".to_owned()));
    }
}
