//! Writes the pages: one for each group of methods, an index, and the OpenRPC document.

use std::collections::BTreeMap;
use std::fmt::Write;

use drivebay_spec_jsonrpc::Method;
use drivebay_spec_jsonrpc::doc::{markdown, openrpc};
use serde_json::{Value, json};

use super::Files;
use super::examples::Example;

/// The maximum number of lines of an answer on a page.
const ANSWER_LINES_MAX: usize = 60;

pub(super) fn make(
    methods: &[Method],
    examples: &BTreeMap<String, Example>,
) -> Result<Files, String> {
    let without = methods.iter().find(|method| !examples.contains_key(&method.name));
    if let Some(method) = without {
        return Err(format!("{}: no example in docs/examples.json", method.name));
    }
    let mut groups: BTreeMap<&str, Vec<&Method>> = BTreeMap::new();
    for method in methods {
        groups.entry(group(&method.name)).or_default().push(method);
    }
    let mut index = include_str!("intro.md").to_owned();
    let mut files = Files::new();
    for (group, methods) in groups {
        let _ = write!(index, "## [{group}]({group}.md)\n\n| | |\n|---|---|\n");
        let mut page = format!("# {group}\n\nErrors of every method: [README.md](README.md).\n");
        for method in methods {
            let anchor = method.name.replace('.', "");
            let summary = method.doc.lines().next().unwrap_or_default();
            let _ = writeln!(index, "| [`{}`]({group}.md#{anchor}) | {summary} |", method.name);
            let example = examples.get(&method.name).map(|example| shown(&method.name, example));
            let _ = write!(page, "\n{}", markdown(method, &example.unwrap_or_default()));
        }
        index.push('\n');
        files.insert(format!("{group}.md"), page);
    }
    files.insert("README.md".into(), index.trim_end().to_owned() + "\n");
    files.insert("openrpc.json".into(), format!("{:#}\n", document(methods, examples)));
    Ok(files)
}

/// The group of a method: `bdev` for `bdev_malloc_create`. All methods about the process share one
/// page.
fn group(method: &str) -> &str {
    match method.split(['_', '.']).next().unwrap_or(method) {
        "rpc" | "spdk" => "framework",
        group => group,
    }
}

fn shown(method: &str, Example { params, answer, needs }: &Example) -> String {
    let mut text = format!("```sh\ndrivebay rpc {method}");
    if !params.is_empty() {
        let _ = write!(text, " '{}'", json!(params));
    }
    text.push_str("\n```\n");
    if let Some(needs) = needs {
        let _ = write!(text, "\nneeds {needs}; this example was not run\n");
    }
    match answer {
        None => {}
        Some(answer) if !answer.is_object() && !answer.is_array() => {
            let _ = write!(text, "\nanswers `{answer}`\n");
        }
        Some(answer) => {
            let answer = format!("{answer:#}");
            let lines: Vec<&str> = answer.lines().take(ANSWER_LINES_MAX).collect();
            let rest = if answer.lines().count() > lines.len() { "\n…" } else { "" };
            let _ = write!(text, "\nanswers\n\n```json\n{}{rest}\n```\n", lines.join("\n"));
        }
    }
    text
}

fn document(methods: &[Method], examples: &BTreeMap<String, Example>) -> Value {
    let mut document = openrpc(methods, env!("CARGO_PKG_VERSION"));
    let entries = document.get_mut("methods").and_then(Value::as_array_mut);
    let entries = entries.into_iter().flatten();
    for (entry, method) in entries.zip(methods) {
        if let (Some(Example { params, .. }), Some(entry)) =
            (examples.get(&method.name), entry.as_object_mut())
        {
            let params: Vec<Value> =
                params.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
            entry.insert("examples".into(), json!([{"name": "example", "params": params}]));
        }
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;
    use drivebay_spec_jsonrpc::{NoParams, Role};

    fn one(answer: Value) -> BTreeMap<String, Example> {
        let params = json!({"name": "a"}).as_object().cloned().unwrap_or_default();
        BTreeMap::from([("bdev_x".into(), Example { params, answer: Some(answer), needs: None })])
    }

    #[test]
    fn a_method_without_an_example_is_named() {
        let method = Method::new::<NoParams>("bdev_y", Role::Read, "Looks.");
        assert!(make(&[method], &one(json!(true))).is_err_and(|why| why.contains("bdev_y")));
    }

    #[test]
    fn an_example_that_was_not_run_says_what_it_needs() {
        let method = Method::new::<NoParams>("bdev_x", Role::Read, "Looks.");
        let example =
            Example { params: Default::default(), answer: None, needs: Some("a disk".into()) };
        let examples = BTreeMap::from([("bdev_x".into(), example)]);
        let files = make(&[method], &examples).unwrap_or_default();
        assert!(files["bdev.md"].contains("needs a disk; this example was not run"));
    }

    #[test]
    fn a_page_has_the_call_and_the_begin_of_its_answer() {
        let method = Method::new::<NoParams>("bdev_x", Role::Read, "Looks.");
        let long: Vec<u32> = (0..100).collect();
        let files = make(&[method], &one(json!(long))).unwrap_or_default();
        let page = &files["bdev.md"];
        assert!(page.contains("drivebay rpc bdev_x '{\"name\":\"a\"}'"), "{page}");
        assert!(page.contains("  58,\n…\n```"), "{page}");
        assert!(files["README.md"].contains("| [`bdev_x`](bdev.md#bdev_x) | Looks. |"));
        assert!(files["openrpc.json"].contains("\"examples\""));
    }
}
