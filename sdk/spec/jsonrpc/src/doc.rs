//! Texts made from method descriptions: `--help`, Markdown, OpenRPC.

use crate::{Method, Param, Role, State};
use serde_json::{Value, json};
use std::fmt::Write;

/// Help for one method, for a terminal.
pub fn help_text(method: &Method) -> String {
    let mut text = format!("{}\n\n{}\n", method.name, method.doc);
    if !method.params.is_empty() {
        text.push_str("\nparameters:\n");
    }
    for param in &method.params {
        let doc = param.doc.replace('\n', "\n      ");
        // Writing to a `String` does not fail.
        let _ =
            writeln!(text, "  {} ({}; {})\n      {doc}", param.name, param.kind, presence(param));
    }
    if !method.result.is_empty() {
        let _ = writeln!(text, "\nresult: {}", method.result);
    }
    for error in &method.errors {
        let _ = writeln!(text, "error {} {}: {}", error.code, error.name, error.doc);
    }
    let _ = writeln!(text, "\nrole: {}; {}", role_name(method.role), when(method));
    if !method.aliases.is_empty() {
        let _ = writeln!(text, "former names: {}", method.aliases.join(", "));
    }
    text
}

/// The reference of `methods`, as Markdown.
pub fn markdown(methods: &[Method]) -> String {
    let mut text = String::from("# JSON-RPC methods\n");
    for method in methods {
        let _ = write!(text, "\n## {}\n\n{}\n", method.name, method.doc);
        let _ = write!(text, "\nRole: {}; {}.", role_name(method.role), when(method));
        if !method.aliases.is_empty() {
            let _ = write!(text, " Former names: `{}`.", method.aliases.join("`, `"));
        }
        text.push('\n');
        if !method.params.is_empty() {
            text.push_str("\n| parameter | allowed | | meaning |\n|---|---|---|---|\n");
        }
        for param in &method.params {
            let _ = writeln!(
                text,
                "| `{}` | {} | {} | {} |",
                param.name,
                cell(&param.kind.to_string()),
                cell(&presence(param)),
                cell(&param.doc)
            );
        }
        if !method.result.is_empty() {
            let _ = write!(text, "\nResult: {}\n", method.result);
        }
        if !method.errors.is_empty() {
            text.push_str("\n| code | error | when |\n|--:|---|---|\n");
        }
        for error in &method.errors {
            let _ = writeln!(text, "| {} | `{}` | {} |", error.code, error.name, cell(&error.doc));
        }
    }
    text
}

/// The methods as an OpenRPC 1.3 document.
pub fn openrpc(methods: &[Method], version: &str) -> Value {
    let methods: Vec<Value> = methods.iter().map(openrpc_method).collect();
    json!({
        "openrpc": "1.3.2",
        "info": {"title": "Drivebay", "version": version},
        "methods": methods,
    })
}

fn openrpc_method(method: &Method) -> Value {
    let params: Vec<Value> = method
        .params
        .iter()
        .map(|param| {
            let mut schema = param.kind.json_schema();
            if let (Some(schema), Some(default)) = (schema.as_object_mut(), &param.default) {
                schema.insert("default".into(), default.clone());
            }
            json!({
                "name": param.name,
                "description": param.doc,
                "required": param.required,
                "schema": schema,
            })
        })
        .collect();
    let errors: Vec<Value> = method
        .errors
        .iter()
        .map(
            |error| json!({"code": error.code, "message": error.doc, "data": {"name": error.name}}),
        )
        .collect();
    json!({
        "name": method.name,
        "summary": method.doc.lines().next().unwrap_or_default(),
        "description": method.doc,
        "paramStructure": "by-name",
        "params": params,
        "result": {"name": "result", "description": method.result, "schema": {}},
        "errors": errors,
        "x-role": method.role,
        "x-states": method.states,
        "x-aliases": method.aliases,
    })
}

fn presence(param: &Param) -> String {
    match (&param.default, param.required) {
        (Some(default), _) => format!("default {default}"),
        (None, true) => "required".into(),
        (None, false) => "optional".into(),
    }
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Read => "read",
        Role::Operate => "operate",
        Role::Admin => "admin",
    }
}

fn when(method: &Method) -> &'static str {
    match (method.states.contains(&State::Startup), method.states.contains(&State::Runtime)) {
        (true, true) => "at any time",
        (true, false) => "before initialization",
        (false, true) => "after initialization",
        (false, false) => "never",
    }
}

/// Text that stays inside one cell of a Markdown table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::method::tests::create;

    #[test]
    fn help_names_every_parameter_with_range_and_default() {
        let help = help_text(&create());
        for part in [
            "bdev_malloc_create\n\nMakes a RAM disk.",
            "  block_size (integer, 512 to 65536; required)\n      Block size, in bytes.",
            "  md_interleave (true or false; default false)",
            "result: Name of the new bdev.",
            "error -17 exists: A bdev has that name.",
            "role: operate; after initialization",
            "former names: construct_malloc_bdev",
        ] {
            assert!(help.contains(part), "{part:?} in {help}");
        }
    }

    #[test]
    fn markdown_keeps_bars_inside_their_cell() {
        assert!(markdown(&[create()]).contains(
            "| `md_interleave` | true or false | default false | Metadata within \\| the block. |"
        ));
    }

    #[test]
    fn openrpc_holds_a_json_schema_per_parameter() {
        let document = openrpc(&[create()], "1");
        let method = &document["methods"][0];
        assert_eq!(method["params"][1]["required"], true);
        assert_eq!(
            method["params"][1]["schema"],
            json!({"type": "integer", "minimum": 512, "maximum": 65536})
        );
        assert_eq!(
            method["params"][3]["schema"],
            json!({"type": "array", "items": {"type": "string"}, "default": []})
        );
        assert_eq!(method["summary"], "Makes a RAM disk.");
    }
}
