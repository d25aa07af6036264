//! Which crates may depend on which. One table of folders has the rules for every dependency
//! between our crates, of any kind (normal, build or for tests).
//!
//! `plugin-api` ← `sdk` ← `plugins`; `plugin-api`, `sdk/spec/*`, `sdk/testing` ← `host`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::run::top;

/// A folder, and the folders whose crates its crates may depend on. The rule of the longest
/// matching folder counts.
const MAY_KNOW: &[(&str, &[&str])] = &[
    ("plugin-api", &[]),
    ("sdk/spec", &[]),
    ("sdk/spec/nvme-tcp", &["sdk/spec/nvme"]),
    ("sdk/spec/jsonrpc", &["sdk/spec/errno"]),
    ("sdk", &["plugin-api", "sdk"]),
    ("plugins", &["sdk"]),
    ("host/core", &["plugin-api", "sdk/spec", "sdk/testing"]),
    // The suite tests fabrics with the initiator, as a client of the host does.
    ("host/check", &["plugin-api", "sdk/spec", "sdk/testing", "sdk/nvme", "host/core"]),
    // `drivebay lvol` checks a file with the store's own rules, which do not use the host.
    (
        "host",
        &["plugin-api", "sdk/spec", "sdk/testing", "sdk/blobstore", "host/core", "host/check"],
    ),
    // Tests and tasks stand outside: they may use whatever a user may use, and no other crate may
    // use them.
    ("tests/abi", &["plugin-api", "sdk", "host", "tests"]),
    ("tests/fuzz/archive", &[]),
    ("tests/fuzz", &["tests/fuzz/archive", "sdk", "host", "plugins/protocol/nvmf"]),
    ("tests/sim", &["plugin-api", "host/core"]),
    ("tests", &["plugin-api", "sdk", "tests"]),
];

struct Package {
    name: String,
    /// Relative to the top of the work tree.
    folder: PathBuf,
    manifest: Value,
}

#[test]
fn every_dependency_goes_in_an_allowed_direction() {
    let packages = packages();
    let mut wrong = Vec::new();
    for package in &packages {
        for dependency in package.own_dependencies() {
            if !is_allowed(&package.folder, &dependency) {
                wrong.push(format!("{} -> {}", package.folder.display(), dependency.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "not allowed:\n{}", wrong.join("\n"));
}

#[test]
fn the_table_covers_every_crate_and_tells_right_from_wrong() {
    for package in packages() {
        assert!(allowed_for(&package.folder).is_some(), "{}: no rule", package.folder.display());
    }
    for (from, to, allowed) in [
        ("plugins/malloc", "sdk", true),
        ("plugins/aio", "sdk/ring", true),
        ("plugins/nvmf-tcp", "plugins/nvmf", false),
        ("plugins/malloc", "host/core", false),
        ("plugins/malloc", "plugin-api", false),
        ("host", "sdk/spec/jsonrpc", true),
        ("host", "sdk/testing", true),
        ("host", "host/core", true),
        ("host", "sdk/blobstore", true),
        ("host", "sdk/nvme", false),
        ("host/check", "sdk/nvme", true),
        ("host/core", "host/check", false),
        ("host/core", "host", false),
        ("host", "sdk", false),
        ("host/core", "sdk/ring", false),
        ("sdk", "plugin-api", true),
        ("sdk", "host/core", false),
        ("sdk/spec/nvme", "plugin-api", false),
        ("sdk/spec/nvme-tcp", "sdk/spec/nvme", true),
        ("sdk/spec/iscsi", "sdk/spec/scsi", false),
        ("plugins/protocol/iscsi", "sdk/scsi", true),
        ("plugins/protocol/vhost", "sdk/scsi", true),
        ("sdk/spec/nvme", "sdk/spec/nvme-tcp", false),
        ("plugin-api", "sdk", false),
        ("tests/xtask", "host/core", false),
        ("host", "tests/xtask", false),
        ("plugins/bdev/nvme/tool", "sdk/nvme", true),
        ("plugins/bdev/nvme/tool", "plugins/bdev/nvme", false),
    ] {
        assert_eq!(is_allowed(Path::new(from), Path::new(to)), allowed, "{from} -> {to}");
    }
}

#[test]
fn every_plugin_is_a_shared_object_of_the_workspace_and_forbids_unsafe_code() {
    let packages = packages();
    for folder in plugin_folders(&top().join("plugins")) {
        let relative = folder.strip_prefix(top()).unwrap();
        let package = packages.iter().find(|package| package.folder == relative);
        let package = package.unwrap_or_else(|| panic!("{relative:?} is not in the workspace"));

        let kinds = package.manifest["targets"].as_array().unwrap();
        let is_cdylib = kinds
            .iter()
            .flat_map(|target| target["crate_types"].as_array().unwrap())
            .any(|kind| kind == "cdylib");
        assert!(is_cdylib, "{}: crate-type must have \"cdylib\"", package.name);

        let source = std::fs::read_to_string(folder.join("src/lib.rs")).unwrap();
        assert!(
            forbids_unsafe_code(&source),
            "{}: lib.rs must start with #![forbid(unsafe_code)]",
            package.name
        );
    }
}

#[test]
fn unsafe_code_must_be_forbidden_before_the_first_item() {
    assert!(forbids_unsafe_code("//! A disk.\n\n#![forbid(unsafe_code)]\n\nuse a::b;\n"));
    assert!(forbids_unsafe_code("#![forbid(unsafe_code)]\n"));
    assert!(!forbids_unsafe_code("//! A disk.\nuse a::b;\n#![forbid(unsafe_code)]\n"));
    assert!(!forbids_unsafe_code("// #![forbid(unsafe_code)]\nuse a::b;\n"));
    assert!(!forbids_unsafe_code("#![deny(unsafe_code)]\n"));
}

impl Package {
    /// The folders of our crates that this crate depends on, with any kind of dependency.
    fn own_dependencies(&self) -> Vec<PathBuf> {
        let all = self.manifest["dependencies"].as_array().unwrap();
        let paths = all.iter().filter_map(|dependency| dependency["path"].as_str());
        paths.map(|path| Path::new(path).strip_prefix(top()).unwrap().to_owned()).collect()
    }
}

fn is_allowed(from: &Path, to: &Path) -> bool {
    allowed_for(from).is_some_and(|allowed| allowed.iter().any(|folder| to.starts_with(folder)))
}

/// The rule of the longest folder that contains this one.
fn allowed_for(folder: &Path) -> Option<&'static [&'static str]> {
    let rules = MAY_KNOW.iter().filter(|(prefix, _)| folder.starts_with(prefix));
    rules.max_by_key(|(prefix, _)| prefix.len()).map(|(_, allowed)| *allowed)
}

/// Whether the first line that is neither blank nor a comment is the attribute.
fn forbids_unsafe_code(source: &str) -> bool {
    let mut lines = source.lines().map(str::trim);
    let first = lines.find(|line| !line.is_empty() && !line.starts_with("//"));
    first.is_some_and(|line| line == "#![forbid(unsafe_code)]")
}

/// The folders below this one that hold a crate.
fn plugin_folders(below: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(below) else { return Vec::new() };
    let folders = entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    folders
        .flat_map(|folder| {
            if folder.join("Cargo.toml").exists() { vec![folder] } else { plugin_folders(&folder) }
        })
        .collect()
}

fn packages() -> Vec<Package> {
    let output =
        crate::run::cargo(&["metadata", "--no-deps", "--offline", "--format-version", "1"])
            .output()
            .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap().iter().map(|manifest| {
        let path = Path::new(manifest["manifest_path"].as_str().unwrap());
        Package {
            name: manifest["name"].as_str().unwrap().to_owned(),
            folder: path.parent().unwrap().strip_prefix(top()).unwrap().to_owned(),
            manifest: manifest.clone(),
        }
    });
    let packages: Vec<Package> = packages.collect();
    assert!(packages.len() > 5, "the workspace has more crates than {}", packages.len());
    packages
}
