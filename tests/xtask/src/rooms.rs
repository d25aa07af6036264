//! Which rooms may know which. A room is a folder of a crate. A path that leaves a room begins with
//! `crate::`, and one table says where such a path may lead.

use std::path::{Path, PathBuf};

use crate::run::top;

/// A room, and the beginnings of the paths that its code may contain after `crate::`.
const MAY_KNOW: &[(&str, &[&str])] = &[
    // The bus. The state reaches nothing above it.
    ("host/core/src/bdev/state", &["bdev::state", "env", "reactor"]),
    ("host/core/src/bdev/path", &["bdev::path", "bdev::state", "env", "reactor"]),
    // The registry uses the path only for a bdev that is removed or whose module has failed.
    (
        "host/core/src/bdev/registry",
        &[
            "bdev::path::channel_life",
            "bdev::path::quarantine",
            "bdev::registry",
            "bdev::state",
            "reactor",
        ],
    ),
    // A thread owns its channels, and the bus has work at the end of its rounds.
    (
        "host/core/src/reactor",
        &["bdev::path::round", "bdev::state::ThreadChannels", "env", "reactor"],
    ),
    ("host/core/src/env", &["env", "reactor"]),
    // The program. The socket knows neither the command line nor the start order.
    ("host/src/rpc", &["rpc"]),
    ("host/src/cli", &["cli", "project"]),
    ("host/src/loader", &["loader", "rpc"]),
    ("host/src/config", &["config", "host", "rpc", "slices", "subsystems"]),
    ("host/src/methods", &["config", "host", "log", "methods", "rpc", "slices", "subsystems"]),
];

/// The names at the top of a crate that every room may use.
const FOR_ALL: &[&str] = &["Error", "Result"];

#[test]
fn every_path_out_of_a_room_leads_where_the_table_allows() {
    let mut wrong = Vec::new();
    for (room, allowed) in MAY_KNOW {
        let files = files_of(&top().join(room));
        assert!(!files.is_empty(), "{room}: no such room");
        for file in files {
            let text = std::fs::read_to_string(&file).unwrap();
            let name = file.strip_prefix(top()).unwrap().display();
            let code = code_of(&text);
            let depth = depth(&top().join(room), &file);
            wrong.extend(paths_out(&code, allowed).map(|path| format!("{name}: crate::{path}")));
            wrong
                .extend(climbs_out(&code, depth).then(|| format!("{name}: super:: leaves {room}")));
        }
    }
    assert!(wrong.is_empty(), "not allowed:\n{}", wrong.join("\n"));
}

#[test]
fn a_path_that_leaves_a_room_is_found_in_every_spelling() {
    let out = |code: &str| paths_out(code, &["bdev::state", "env"]).count();
    assert_eq!(out("use crate::bdev::state::Io;\nuse crate::{Error, Result};"), 0);
    assert_eq!(out("pub(in crate::bdev) fn f() {}"), 0);
    assert_eq!(out("use crate::bdev::path::submit;"), 1);
    assert_eq!(out("use crate::bdev::{state, path};"), 1, "a list hides where it leads");
    assert_eq!(out("use crate::bdev::statement;"), 1);
    assert_eq!(out("use crate::{Error, services};"), 1);
    assert_eq!(out("fn f() { crate::services::f() }"), 1);
    assert_eq!(out(&code_of("// crate::services\n#[cfg(test)]\nmod tests { crate::services }")), 0);
    assert!(climbs_out("use super::x;", 0));
    assert!(climbs_out("use super::super::x;", 1));
    assert!(!climbs_out("use super::x;", 1));
    assert!(!climbs_out("use super::super::x;", 2));
}

/// The paths after `crate::` that lead to none of the allowed places.
fn paths_out<'t>(code: &'t str, allowed: &'t [&str]) -> impl Iterator<Item = &'t str> {
    let after = code.match_indices("crate::").filter(|(at, _)| !code[..*at].ends_with("pub(in "));
    let names = after.flat_map(|(at, _)| {
        let rest = &code[at + "crate::".len()..];
        let list = rest.strip_prefix('{').and_then(|list| list.split('}').next());
        list.unwrap_or(rest.split([';', '\n', '(']).next().unwrap_or_default())
            .split(if list.is_some() { ',' } else { ';' })
    });
    names.map(str::trim).filter(|path| !path.is_empty()).filter(move |path| {
        let leads_to = |place: &str| {
            let rest = path.strip_prefix(place);
            rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
        };
        !allowed.iter().chain(FOR_ALL).any(|place| leads_to(place))
    })
}

/// Whether a chain of `super::` leads out of the room. `depth`: how deep in the room the module is.
fn climbs_out(code: &str, depth: usize) -> bool {
    code.contains(&"super::".repeat(depth + 1))
}

/// The depth of a file's module below the room's own module.
fn depth(room: &Path, file: &Path) -> usize {
    let below = file.strip_prefix(room).unwrap().components().count();
    if file.ends_with("mod.rs") { below - 1 } else { below }
}

/// The code of a file, without comments and without its tests.
fn code_of(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let lines = code.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// The Rust files of a room, except for tests.
fn files_of(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    let is_code = |path: &PathBuf| path.extension().is_some_and(|end| end == "rs");
    paths
        .flat_map(|path| if path.is_dir() { files_of(&path) } else { vec![path] })
        .filter(is_code)
        .filter(|path| !path.ends_with("tests.rs"))
        .collect()
}
