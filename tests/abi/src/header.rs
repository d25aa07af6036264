//! Generates `sdk/c/bay_abi.h` from the layout text and the docs of plugin-api.

use crate::c_type::{declare, name as c_name};
use crate::constants::{Constant, ids, numbers};
use drivebay::loader::layout::{Function, Struct, Table, parse};
use drivebay_plugin_api::{DOCS, LAYOUT};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

const HEAD: &str = include_str!("head.h");
const TAIL: &str = include_str!("tail.h");

/// The path of the committed header.
#[must_use]
pub fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../sdk/c/bay_abi.h")
}

/// The text of the header.
///
/// # Errors
/// plugin-api has something that C cannot express, or that this generator does not know.
pub fn generate() -> Result<String, String> {
    let layout = std::str::from_utf8(&LAYOUT).map_err(|e| e.to_string())?;
    let table = parse(layout)?;
    let docs: BTreeMap<&str, &str> =
        DOCS.iter().flat_map(|list| list.iter()).map(|doc| (doc.item, doc.text)).collect();

    let mut out = HEAD.to_owned();
    out.push_str("\n/* Constants */\n\n");
    numbers()?.iter().for_each(|constant| define(&mut out, constant));
    out.push_str("\n/* Ids of interfaces */\n\n");
    ids().iter().for_each(|constant| define(&mut out, constant));

    // The layout text has the order of the sources, where a struct comes after the structs that it
    // contains.
    let structs = in_order(layout, &table.structs, |line| line.split(':').next());
    let functions = in_order(layout, &table.functions, |line| {
        line.strip_prefix("fn:").and_then(|rest| rest.split('(').next())
    });
    out.push_str("\n/* Structs */\n\n");
    structs.iter().for_each(|(name, _)| put(&mut out, &format!("struct {name};")));
    out.push_str("\n/* Function types */\n");
    for (name, function) in &functions {
        write_function(&mut out, name, function, &docs)?;
    }
    out.push_str("\n/* Tables and requests */\n");
    for (name, structure) in &structs {
        write_struct(&mut out, name, structure, &docs)?;
    }
    out.push_str("\n/* The layout, as every compiler must see it */\n\n");
    structs.iter().for_each(|(name, structure)| write_asserts(&mut out, name, structure));
    write_layout_text(&mut out, layout);
    out.push_str(TAIL);
    Ok(out)
}

fn in_order<'t, T>(
    layout: &'t str,
    items: &'t BTreeMap<String, T>,
    name_of: impl Fn(&'t str) -> Option<&'t str>,
) -> Vec<(&'t str, &'t T)> {
    let names = layout.lines().filter_map(name_of);
    names.filter_map(|name| items.get(name).map(|item| (name, item))).collect()
}

fn define(out: &mut String, Constant { doc, name, value }: &Constant) {
    put(out, &format!("/** {} */", doc.trim()));
    put(out, &format!("#define {name} {value}"));
}

fn write_function(
    out: &mut String,
    name: &str,
    function: &Function,
    docs: &BTreeMap<&str, &str>,
) -> Result<(), String> {
    let arguments = function
        .arguments
        .iter()
        .map(|(argument, kind)| declare(kind, &c_name(argument)))
        .collect::<Result<Vec<_>, _>>()?;
    let arguments = if arguments.is_empty() { "void".to_owned() } else { arguments.join(", ") };
    let result = function.result.as_deref().unwrap_or("c_void");
    out.push('\n');
    comment(out, "", docs.get(name).copied().unwrap_or(""));
    put(out, &format!("typedef {};", declare(result, &format!("{name}({arguments})"))?));
    Ok(())
}

fn write_struct(
    out: &mut String,
    name: &str,
    structure: &Struct,
    docs: &BTreeMap<&str, &str>,
) -> Result<(), String> {
    let kind = if structure.open { "Open: grows at its end." } else { "Closed: never changes." };
    out.push('\n');
    comment(out, "", &format!("{}\n{kind}", docs.get(name).copied().unwrap_or("").trim_end()));
    // An alignment above that of the fields must be explicit.
    let aligned = if structure.align > 8 {
        format!("BAY_ALIGNED({}) ", structure.align)
    } else {
        String::new()
    };
    put(out, &format!("struct {aligned}{name} {{"));
    for field in &structure.fields {
        let item = format!("{name}.{}", field.name);
        comment(out, "    ", docs.get(item.as_str()).copied().unwrap_or(""));
        put(out, &format!("    {};", declare(&field.kind, &c_name(&field.name))?));
    }
    put(out, "};");
    Ok(())
}

fn write_asserts(out: &mut String, name: &str, structure: &Struct) {
    let Struct { size, align, .. } = structure;
    put(out, &format!("BAY_ASSERT(sizeof(struct {name}) == {size}, \"{name}\");"));
    put(out, &format!("BAY_ASSERT(BAY_ALIGNOF(struct {name}) == {align}, \"{name}\");"));
    for field in &structure.fields {
        let (c, offset, size) = (c_name(&field.name), field.offset, field.size);
        put(out, &format!("BAY_ASSERT(offsetof(struct {name}, {c}) == {offset}, \"{name}.{c}\");"));
        put(
            out,
            &format!("BAY_ASSERT(sizeof(((struct {name} *)0)->{c}) == {size}, \"{name}.{c}\");"),
        );
    }
}

fn write_layout_text(out: &mut String, layout: &str) {
    put(out, "\n/** What the asserts above have proven, as it travels in the layout note. */");
    out.push_str("#define BAY_LAYOUT_TEXT");
    for line in layout.lines() {
        let _ = write!(out, " \\\n    \"{line}\\n\"");
    }
    out.push('\n');
}

fn comment(out: &mut String, indent: &str, text: &str) {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    match lines.as_slice() {
        [] => {}
        [one] => put(out, &format!("{indent}/** {one} */")),
        [first, rest @ ..] => {
            put(out, &format!("{indent}/** {first}"));
            rest.iter().for_each(|line| put(out, &format!("{indent} *  {line}")));
            put(out, &format!("{indent} */"));
        }
    }
}

fn put(out: &mut String, line: &str) {
    out.push_str(line);
    out.push('\n');
}

/// The layout table of this build, for the gates.
///
/// # Errors
/// The layout text cannot be read.
pub fn present_layout() -> Result<Table, String> {
    parse(std::str::from_utf8(&LAYOUT).map_err(|e| e.to_string())?)
}
