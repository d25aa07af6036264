//! The page that says where the SDK offers each function of the ABI: `docs/plugin-guide/sdk-table.md`.
//!
//! No function is missing, no row is empty without a reason, each name of the SDK exists, and each plugin uses what its row says.
#![allow(clippy::unwrap_used, reason = "tests")]

use drivebay_plugin_api::LAYOUT;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Structs that contain functions but are not tables: the SDK fills them for each I/O, message, wait and job.
const NO_TABLES: [&str; 5] = ["bay_sink", "bay_io", "bay_wait", "bay_msg", "bay_job"];

struct Row {
    functions: Vec<String>,
    sdk: String,
    users: String,
}

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The rows of the page, by struct.
fn page() -> BTreeMap<String, Vec<Row>> {
    let text = fs::read_to_string(top().join("docs/plugin-guide/sdk-table.md")).unwrap();
    let (mut rows, mut of) = (BTreeMap::<String, Vec<Row>>::new(), String::new());
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("Table `").and_then(|rest| rest.strip_suffix("`.")) {
            of = name.to_owned();
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if let [_, abi, sdk, users, _] = cells[..]
            && abi.starts_with('`')
        {
            let functions = quoted(abi).map(str::to_owned).collect();
            let row = Row { functions, sdk: sdk.to_owned(), users: users.to_owned() };
            rows.entry(of.clone()).or_default().push(row);
        }
    }
    rows
}

/// The texts between backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The functions of each table of the ABI.
fn tables() -> BTreeMap<String, BTreeSet<String>> {
    let layout = std::str::from_utf8(&LAYOUT).unwrap();
    let mut tables = BTreeMap::new();
    for line in layout.lines().filter(|line| !line.starts_with("fn:")) {
        let (name, fields) = line.split_once(':').unwrap();
        let functions: BTreeSet<String> = fields
            .split(';')
            .filter(|field| field.contains("=Option<bay_"))
            .filter_map(|field| field.split_once('@').map(|(name, _)| name.to_owned()))
            .collect();
        if !functions.is_empty() && !NO_TABLES.contains(&name) {
            tables.insert(name.to_owned(), functions);
        }
    }
    tables
}

/// The Rust sources in a folder and the folders in it, joined; without tests.
fn code(folder: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if path.is_dir() && name != "tests" {
            text.push_str(&code(&path));
        } else if name.ends_with(".rs") && name != "tests.rs" {
            text.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
    text
}

fn has_word(text: &str, word: &str) -> bool {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|other| other == word)
}

/// The last parts of the names in a cell: `resize` of `` `Registered::resize` ``.
fn names(cell: &str) -> impl Iterator<Item = &str> {
    quoted(cell)
        .filter_map(|item| item.rsplit("::").next())
        .map(|name| name.trim_end_matches('!'))
        .filter(|name| name.chars().all(|c| c.is_alphanumeric() || c == '_'))
}

#[test]
fn each_function_of_the_abi_has_one_row() {
    let page = page();
    for (table, functions) in tables() {
        let rows = page.get(&table).unwrap_or_else(|| panic!("the page lacks {table}"));
        let listed: Vec<&String> = rows.iter().flat_map(|row| &row.functions).collect();
        let wanted: Vec<&String> = functions.iter().collect();
        let mut sorted = listed.clone();
        sorted.sort();
        assert_eq!(sorted, wanted, "{table}");
    }
    let known = tables();
    assert!(page.keys().all(|table| known.contains_key(table)), "a table that the ABI lacks");
}

#[test]
fn a_row_names_what_the_sdk_has_or_gives_a_reason() {
    let sdk = code(&top().join("sdk"));
    for (table, rows) in page() {
        for row in rows {
            let of = format!("{table}: {:?}", row.functions);
            if let Some(reason) = row.sdk.strip_prefix("none: ") {
                assert!(reason.len() > 10 && row.users.is_empty(), "{of}");
                continue;
            }
            assert!(!row.users.is_empty(), "{of}: who uses it?");
            let lacking: Vec<&str> = names(&row.sdk).filter(|name| !has_word(&sdk, name)).collect();
            assert!(lacking.is_empty(), "{of}: the SDK lacks {lacking:?}");
        }
    }
}

#[test]
fn each_plugin_uses_what_its_row_says() {
    let mut plugins = BTreeMap::new();
    for kind in fs::read_dir(top().join("plugins")).unwrap() {
        for plugin in fs::read_dir(kind.unwrap().path()).into_iter().flatten().flatten() {
            let name = plugin.file_name().to_string_lossy().into_owned();
            plugins.insert(name, code(&plugin.path()));
        }
    }
    for (table, rows) in page() {
        for row in rows.iter().filter(|row| !row.users.is_empty()) {
            let of = format!("{table}: {:?}", row.functions);
            if let Some(reason) = row.users.strip_prefix("no plugin: ") {
                assert!(reason.len() > 10, "{of}");
                continue;
            }
            for user in row.users.split(", ") {
                let code = plugins.get(user).unwrap_or_else(|| panic!("{of}: no plugin {user}"));
                let is_used = names(&row.sdk).any(|name| has_word(code, name));
                assert!(is_used, "{of}: {user} uses none of {}", row.sdk);
            }
        }
    }
}
