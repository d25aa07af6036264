//! Tables in Markdown, on standard output as they grow.

/// Prints a table's title and head.
pub(super) fn begin(title: &str, columns: &[&str]) {
    println!("\n### {title}\n");
    row(columns.iter().copied());
    println!("|{}", "---|".repeat(columns.len()));
}

/// Prints a line.
pub(super) fn row<T: AsRef<str>>(cells: impl IntoIterator<Item = T>) {
    let cells: Vec<String> = cells.into_iter().map(|cell| cell.as_ref().to_owned()).collect();
    println!("| {} |", cells.join(" | "));
}
