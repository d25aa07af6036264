//! Which rooms may know which, and rooms whose files know each other in one direction only. A room
//! is a folder of a crate. A path that leaves a room begins with `crate::`, and one table says where
//! such a path may lead.

use std::collections::{BTreeMap, BTreeSet};
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

/// Rooms without a circle of files: no file uses itself through other files of the room.
const NO_CIRCLE: &[&str] = &[
    "host/core/src/bdev/registry",
    "host/core/src/reactor",
    "host/src/loader",
    "host/src/rpc",
    "host/src/methods",
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

#[test]
fn no_file_of_these_rooms_uses_itself_through_others() {
    for room in NO_CIRCLE {
        let uses = uses_between_files(&top().join(room));
        assert!(!uses.is_empty(), "{room}: no such room");
        let circle = in_circles(uses);
        assert!(circle.is_empty(), "{room}: these files use each other in a circle: {circle:#?}");
    }
}

#[test]
fn a_circle_of_files_is_found_through_lists_folders_and_long_paths() {
    let modules = ["", "a", "b", "c", "c::d"].map(String::from).into();
    let uses = |module: &str, code: &str| used_modules(module, code, "x::room", &modules);
    assert_eq!(uses("a", "use super::{Error, b::B};"), ["b".to_owned()].into());
    assert_eq!(uses("c::d", "use super::super::a::A; use super::E;"), ["a".to_owned()].into());
    assert_eq!(uses("b", "crate::x::room::c::d::f(crate::x::a())"), ["c::d".to_owned()].into());
    assert_eq!(uses("c", "mod d;\nuse self::d::D;"), ["c::d".to_owned()].into());
    let graph = |uses: &[(&str, &[&str])]| {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        uses.iter().map(|(name, used)| ((*name).to_owned(), set(used))).collect()
    };
    assert!(in_circles(graph(&[("a", &["b", "c"]), ("b", &["c"]), ("c", &[])])).is_empty());
    assert_eq!(in_circles(graph(&[("a", &["b"]), ("b", &["a", "c"]), ("c", &[])])).len(), 2);
}

/// Which files of a room use which others. A file is named by its module path in the room.
fn uses_between_files(room: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let name = |file: &Path| {
        let path = file.strip_prefix(room).unwrap().with_extension("");
        let path = if path.ends_with("mod") { path.parent().unwrap() } else { &path };
        path.to_string_lossy().replace('/', "::")
    };
    let files = files_of(room);
    let modules = files.iter().map(|file| name(file)).collect();
    let in_crate = room.to_string_lossy().split_once("/src/").unwrap().1.replace('/', "::");
    let uses = |file: &PathBuf| {
        let code = code_of(&std::fs::read_to_string(file).unwrap());
        (name(file), used_modules(&name(file), &code, &in_crate, &modules))
    };
    files.iter().map(uses).collect()
}

/// The modules of a room that the code of `module` uses. A module's own parents do not count:
/// through them the room shows its names to the outside.
fn used_modules(
    module: &str,
    code: &str,
    room: &str,
    modules: &BTreeSet<String>,
) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    let own: Vec<&str> = module.split("::").filter(|part| !part.is_empty()).collect();
    let from_top = format!("crate::{room}::");
    for start in ["self::", "super::", &from_top] {
        for (at, _) in code.match_indices(start) {
            if code[..at].ends_with(|c: char| c == ':' || c.is_alphanumeric()) {
                continue;
            }
            let rest = code[at..].strip_prefix("self::").unwrap_or(&code[at..]);
            let (mut rest, mut from) = match rest.strip_prefix(&from_top) {
                Some(rest) => (rest, &own[..0]),
                None => (rest, &own[..]),
            };
            while let Some(above) = rest.strip_prefix("super::") {
                (rest, from) = (above, &from[..from.len().saturating_sub(1)]);
            }
            for path in paths_at(rest) {
                let path: Vec<&str> = from.iter().copied().chain(path.split("::")).collect();
                let mut longest = (0..=path.len()).rev().map(|len| path[..len].join("::"));
                used.extend(longest.find(|path| modules.contains(path)));
            }
        }
    }
    let children = modules.iter().filter(|other| {
        let (parent, name) = other.rsplit_once("::").unwrap_or(("", other));
        !name.is_empty() && parent == module && code.contains(&format!("mod {name};"))
    });
    used.extend(children.cloned());
    used.retain(|other| {
        let is_own = other == module || module.starts_with(&format!("{other}::"));
        !is_own && !other.is_empty()
    });
    used
}

/// The paths at the beginning of `code`: one, or those of a list in braces.
fn paths_at(code: &str) -> Vec<&str> {
    let list = code.strip_prefix('{').and_then(|list| list.split('}').next());
    let is_in_path = |c: char| c == ':' || c == '_' || c.is_alphanumeric();
    let texts = list.map_or_else(|| vec![code], |list| list.split(',').collect());
    texts.into_iter().filter_map(|text| text.trim().split(|c| !is_in_path(c)).next()).collect()
}

/// The files that are in circles or lead into one: what is left when files that use no other file
/// are removed again and again.
fn in_circles(mut uses: BTreeMap<String, BTreeSet<String>>) -> BTreeMap<String, BTreeSet<String>> {
    loop {
        let done: Vec<String> =
            uses.iter().filter(|(_, used)| used.is_empty()).map(|(name, _)| name.clone()).collect();
        if done.is_empty() {
            return uses;
        }
        for name in done {
            uses.remove(&name);
            for used in uses.values_mut() {
                used.remove(&name);
            }
        }
    }
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
