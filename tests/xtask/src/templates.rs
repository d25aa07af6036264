//! `cargo xtask templates`: writes the files that come from one text, a template of `drivebay plugin new` and an example of
//! the SDK. A test checks that they are as this task writes them.
//!
//! A line `@both` in a text begins a part of both files, `@example` and `@template` a part of one of them. `{{name}}` is the
//! plugin's name; it stays in the template.

use crate::{Failure, Outcome, run};
use std::fs;

/// A text, and where its two files are.
struct Text {
    source: &'static str,
    template: &'static str,
    example: &'static str,
    /// The name of the plugin that is the example.
    name: &'static str,
}

const TEXTS: &[Text] = &[Text {
    source: "templates/c/filter/filter.c.in",
    template: "templates/c/filter/plugin.c",
    example: "sdk/c/examples/xor_filter.c",
    name: "xor",
}];

pub(crate) fn main(args: &[&str]) -> Outcome {
    if let [other, ..] = args {
        return Err(Failure::usage("templates", other, "no argument"));
    }
    for (path, text) in files()? {
        fs::write(run::top().join(path), text).map_err(|error| format!("{path}: {error}"))?;
        println!("{path}");
    }
    Ok(())
}

/// The path and contents of each file.
fn files() -> Result<Vec<(&'static str, String)>, String> {
    let mut files = Vec::new();
    for Text { source, template, example, name } in TEXTS {
        let text = fs::read_to_string(run::top().join(source))
            .map_err(|error| format!("{source}: {error}"))?;
        let at = |error| format!("{source}: {error}");
        files.push((*template, parts_of("template", &text).map_err(at)?));
        files.push((*example, parts_of("example", &text).map_err(at)?.replace("{{name}}", name)));
    }
    Ok(files)
}

/// The lines of `text` that are for `file`.
fn parts_of(file: &str, text: &str) -> Result<String, String> {
    let (mut result, mut part) = (String::new(), "both");
    for (number, line) in (1..).zip(text.lines()) {
        match line.strip_prefix('@') {
            Some(begun @ ("both" | "example" | "template")) => part = begun,
            Some(_) => {
                let allowed = "@both, @example, @template";
                return Err(format!("line {number}: {line} is not allowed; allowed: {allowed}"));
            }
            None if part == "both" || part == file => {
                result.push_str(line);
                result.push('\n');
            }
            None => {}
        }
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_are_as_the_task_writes_them() {
        for (path, text) in files().unwrap() {
            let committed = fs::read_to_string(run::top().join(path)).unwrap();
            assert!(
                committed == text,
                "{path} differs: change its text in TEXTS, then run `cargo xtask templates`"
            );
        }
    }

    #[test]
    fn a_file_has_its_own_parts_and_those_of_both() {
        let text = "1\n@example\n2\n@template\n3\n@both\n4\n";
        assert_eq!(parts_of("example", text), Ok("1\n2\n4\n".to_owned()));
        assert_eq!(parts_of("template", text), Ok("1\n3\n4\n".to_owned()));
        assert!(parts_of("example", "1\n@other\n").unwrap_err().starts_with("line 2: @other"));
    }
}
