//! Creates `--help`, Markdown and OpenRPC from method descriptions.

use crate::{Choice, Kind, Method, Param, Role, State};
use serde_json::{Value, json};
use std::fmt::Write;

/// Help for one method, for terminals.
pub fn help_text(method: &Method) -> String {
    let mut text = format!("{}\n\n{}\n\n{}\n", method.name, method.doc, call_line(method));
    if !method.params.is_empty() {
        text.push_str("\nparameters:\n");
    }
    add_help(&mut text, rows(&method.params));
    if let Some(result) = result_line(method) {
        // Writing to a `String` does not fail.
        let _ = writeln!(text, "\nresult: {result}");
    }
    add_help(&mut text, result_rows(method));
    for error in &method.errors {
        let _ = writeln!(text, "error {} {}: {}", error.code, error.name, error.doc);
    }
    let _ = writeln!(text, "\nrole: {}; {}", role_name(method.role), when(method));
    if !method.aliases.is_empty() {
        let _ = writeln!(text, "former names: {}", method.aliases.join(", "));
    }
    text
}

/// The section of one method in the RPC reference, as Markdown. `example` is Markdown that follows the
/// parameters and the result.
pub fn markdown(method: &Method, example: &str) -> String {
    let mut text = format!("## {}\n\n{}\n", method.name, method.doc);
    let _ = write!(text, "\nRole: {}; {}.", role_name(method.role), when(method));
    if !method.aliases.is_empty() {
        let _ = write!(text, " Former names: `{}`.", method.aliases.join("`, `"));
    }
    text.push('\n');
    add_table(&mut text, "parameter | allowed", rows(&method.params));
    if let Some(result) = result_line(method) {
        let _ = write!(text, "\nResult: {result}\n");
    }
    add_table(&mut text, "member | type", result_rows(method));
    if !method.errors.is_empty() {
        text.push_str("\n| code | error | when |\n|--:|---|---|\n");
    }
    for error in &method.errors {
        let _ = writeln!(text, "| {} | `{}` | {} |", error.code, error.name, cell(&error.doc));
    }
    if !example.is_empty() {
        let _ = write!(text, "\n{example}");
    }
    text
}

/// The methods as an OpenRPC 1.3 document.
pub fn openrpc<'a>(methods: impl IntoIterator<Item = &'a Method>, version: &str) -> Value {
    let methods: Vec<Value> = methods.into_iter().map(openrpc_method).collect();
    json!({
        "openrpc": "1.3.2",
        "info": {"title": "Drivebay", "version": version},
        "methods": methods,
    })
}

/// A parameter, or a member of a parameter or a result.
struct Row<'a> {
    /// Path, such as `namespace.nsid` or `hosts[].nqn`.
    path: String,
    kind: String,
    /// Whether it may be absent, and its default; empty for a member that is always there.
    presence: String,
    doc: String,
    /// The words of an enumeration that have a description.
    choices: Vec<&'a Choice>,
}

fn add_help(text: &mut String, rows: Vec<Row<'_>>) {
    for Row { path, kind, presence, doc, choices } in rows {
        let separator = if presence.is_empty() { "" } else { "; " };
        let _ = writeln!(text, "  {path} ({kind}{separator}{presence})");
        for line in doc.lines() {
            let _ = writeln!(text, "      {line}");
        }
        for choice in choices {
            let _ = writeln!(text, "      {}: {}", choice.name, choice.doc.replace('\n', " "));
        }
    }
}

/// Appends a table with `head` for its first two columns, or nothing when there are no rows.
fn add_table(text: &mut String, head: &str, rows: Vec<Row<'_>>) {
    if !rows.is_empty() {
        let _ = write!(text, "\n| {head} | | meaning |\n|---|---|---|---|\n");
    }
    for Row { path, kind, presence, mut doc, choices } in rows {
        for choice in choices {
            let _ = write!(doc, " `{}`: {}", choice.name, choice.doc);
        }
        let (kind, presence, doc) = (cell(&kind), cell(&presence), cell(&doc));
        let _ = writeln!(text, "| `{path}` | {kind} | {presence} | {doc} |");
    }
}

/// All parameters, each followed by its members.
fn rows(params: &[Param]) -> Vec<Row<'_>> {
    let mut rows = Vec::new();
    add_rows(params, "", &mut rows);
    rows
}

fn add_rows<'a>(params: &'a [Param], within: &str, rows: &mut Vec<Row<'a>>) {
    for param in params {
        let (kind, many) = match &param.kind {
            Kind::Array { items, .. } => (&**items, "[]"),
            kind => (kind, ""),
        };
        let choices = match kind {
            Kind::Enum { values } => {
                values.iter().filter(|choice| !choice.doc.is_empty()).collect()
            }
            _ => Vec::new(),
        };
        let path = format!("{within}{}", param.name);
        let members = format!("{path}{many}.");
        rows.push(Row {
            path,
            kind: param.kind.to_string(),
            presence: presence(param),
            doc: param.doc.clone(),
            choices,
        });
        if let Kind::Object { fields } = kind {
            add_rows(fields, &members, rows);
        }
    }
}

/// The type and the description of the result; `None` when neither is declared.
fn result_line(method: &Method) -> Option<String> {
    match (&method.returns, method.result.as_str()) {
        // "True, once …" says the type.
        (None | Some(Kind::Boolean), told) if !told.is_empty() => Some(told.to_owned()),
        (None, _) => None,
        (Some(kind), "") => Some(format!("{kind}.")),
        (Some(kind), told) => Some(format!("{kind}. {told}")),
    }
}

/// The members of a result that is an object or a list of objects, each followed by its own members.
fn result_rows(method: &Method) -> Vec<Row<'_>> {
    let (kind, within) = match &method.returns {
        Some(Kind::Array { items, .. }) => (&**items, "[]."),
        Some(kind) => (kind, ""),
        None => return Vec::new(),
    };
    let mut rows = Vec::new();
    if let Kind::Object { fields } = kind {
        add_rows(fields, within, &mut rows);
    }
    for row in &mut rows {
        let may_be_absent = row.presence == OPTIONAL;
        row.presence = if may_be_absent { "may be absent".into() } else { String::new() };
    }
    rows
}

/// A shell command that calls the method with its required parameters.
fn call_line(method: &Method) -> String {
    let name = &method.name;
    let needed: Vec<String> = method
        .params
        .iter()
        .filter(|param| param.required)
        .map(|param| format!("\"{}\": {}", param.name, placeholder(&param.kind)))
        .collect();
    if needed.is_empty() {
        format!("drivebay rpc {name}")
    } else {
        format!("drivebay rpc {name} '{{{}}}'", needed.join(", "))
    }
}

fn placeholder(kind: &Kind) -> &'static str {
    match kind {
        Kind::Boolean => "true",
        Kind::Integer { .. } => "N",
        Kind::String { .. } | Kind::Enum { .. } => "\"…\"",
        Kind::Array { .. } => "[…]",
        Kind::Object { .. } | Kind::Map { .. } => "{…}",
        Kind::Number => "N.N",
        Kind::Any => "…",
    }
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
    let returns = method.returns.as_ref().map_or_else(|| json!({}), Kind::json_schema);
    json!({
        "name": method.name,
        "summary": method.doc.lines().next().unwrap_or_default(),
        "description": method.doc,
        "paramStructure": "by-name",
        "params": params,
        "result": {"name": "result", "description": method.result, "schema": returns},
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
        (None, false) => OPTIONAL.into(),
    }
}

const OPTIONAL: &str = "optional";

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

/// Escapes text for one cell of a Markdown table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::method::tests::create;
    use crate::{NoParams, params};

    #[test]
    fn help_names_every_parameter_with_range_and_default() {
        let help = help_text(&create());
        for part in [
            "bdev_malloc_create\n\nMakes a RAM disk.",
            "\ndrivebay rpc bdev_malloc_create '{\"block_size\": N}'\n",
            "  block_size (integer, 512 to 65536; required)\n      Block size, in bytes.",
            "  md_interleave (true or false; default false)",
            "result: string. Name of the new bdev.",
            "error -17 exists: A bdev has that name.",
            "role: operate; after initialization",
            "former names: construct_malloc_bdev",
        ] {
            assert!(help.contains(part), "{part:?} in {help}");
        }
    }

    #[test]
    fn markdown_keeps_bars_inside_their_cell() {
        assert!(markdown(&create(), "").contains(
            "| `md_interleave` | true or false | default false | Metadata within \\| the block. |"
        ));
    }

    params! {
        struct Nested {
            /// A list.
            hosts: Vec<Address>,
        }
        struct Address {
            /// A family.
            family: Family,
        }
        enum Family {
            /// Version 4.
            IPv4 = "IPv4",
            /// Version 6.
            IPv6 = "IPv6",
        }
    }

    #[test]
    fn members_of_objects_and_words_of_enumerations_are_printed() {
        let method = Method::new::<Nested>("m", Role::Read, "");
        let help = help_text(&method);
        assert!(help.contains("  hosts[].family (one of \"IPv4\", \"IPv6\"; required)"), "{help}");
        assert!(help.contains("      IPv6: Version 6.\n"), "{help}");
        let page = markdown(&method, "An example.\n");
        assert!(page.contains("| `hosts[].family` |"), "{page}");
        assert!(page.contains("A family. `IPv4`: Version 4. `IPv6`: Version 6. |"), "{page}");
        assert!(page.ends_with("\nAn example.\n"), "{page}");
    }

    #[test]
    fn the_members_of_a_result_are_printed() {
        let method = Method::new::<NoParams>("m", Role::Read, "").returns::<Vec<Nested>>();
        let help = help_text(&method);
        assert!(
            help.contains("\nresult: array of objects with hosts.\n  [].hosts (array"),
            "{help}"
        );
        assert!(help.contains("  [].hosts[].family (one of \"IPv4\", \"IPv6\")"), "{help}");
        let page = markdown(&method, "");
        assert!(page.contains("| member | type | | meaning |"), "{page}");
        let document = openrpc(&[method], "1");
        let schema = &document["methods"][0]["result"]["schema"];
        assert_eq!(schema["items"]["required"], json!(["hosts"]));
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
