//! Prints tables in Markdown, line by line.

use super::report;

/// Prints a table's title and head.
pub(super) fn begin(title: &str, columns: &[&str]) {
    report::line(&format!("\n## {title}\n"));
    row(columns.iter().copied());
    report::line(&format!("|{}", "---|".repeat(columns.len())));
}

/// Prints a row.
pub(super) fn row<T: AsRef<str>>(cells: impl IntoIterator<Item = T>) {
    let cells: Vec<String> = cells.into_iter().map(|cell| cell.as_ref().to_owned()).collect();
    report::line(&format!("| {} |", cells.join(" | ")));
}
