//! `drivebay plugin check` on NVMe over Fabrics: the plugin `tests/conformance/plugins/fabric.c`
//! wraps the host's own transport or target and adds one fault. `cargo build --workspace` must have
//! built the good ones.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use drivebay::loader::inspect::inspect_path;
use serde_json::Value;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const FABRIC: &str = "libdrivebay_nvmf_tcp.so";
const TARGET: &str = "libdrivebay_nvmf.so";

fn plugins_of_ours() -> PathBuf {
    let built = || Path::new(env!("CARGO_BIN_EXE_drivebay")).parent().unwrap().to_owned();
    std::env::var_os("DRIVEBAY_PLUGIN_DIR").map_or_else(built, PathBuf::from)
}

/// A text as a C macro.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\\\""))
}

/// The list in the good plugin's manifest, as a C macro for the bad plugin.
fn list(names: &[String]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    quoted(&names.join(","))
}

/// Builds the good plugin with one fault.
fn build(good: &str, way: &str) -> (TempDir, PathBuf) {
    let good = plugins_of_ours().join(good);
    let manifest = inspect_path(&good).unwrap().manifest.unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wrong.so");
    let status = Command::new("cc")
        .args(["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-O1", "-g"])
        .args(["-shared", "-fPIC", &format!("-D{way}")])
        .arg(format!("-DGOOD={}", quoted(&good.display().to_string())))
        .arg(format!("-DNAME={}", quoted(&manifest.name)))
        .arg(format!("-DKIND={}", quoted(&manifest.kind)))
        .arg(format!("-DPROVIDES={}", list(&manifest.provides)))
        .arg(format!("-DREQUIRES={}", list(&manifest.requires)))
        .arg("-I")
        .arg(root.join("sdk/c"))
        .arg("-o")
        .arg(&file)
        .arg(root.join("tests/conformance/plugins/fabric.c"))
        .status()
        .unwrap();
    assert!(status.success());
    for path in [folder.path(), &file] {
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    }
    (folder, file)
}

/// Runs the checks `only`. Returns each one's name, outcome, and what it saw.
fn check(good: &str, way: &str, only: &str) -> Vec<(String, String, String)> {
    let (_folder, file) = build(good, way);
    let output = Command::new(env!("CARGO_BIN_EXE_drivebay"))
        .args(["plugin", "check", "--json", "--only", only, "--plugin-dir"])
        .arg(plugins_of_ours())
        .arg(&file)
        .output()
        .unwrap();
    let reported = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {reported}"));
    let text = |check: &Value, member: &str| check[member].as_str().unwrap_or("").to_owned();
    let checks = report["checks"].as_array().unwrap().iter();
    checks.map(|one| (text(one, "name"), text(one, "outcome"), text(one, "seen"))).collect()
}

fn is_caught(good: &str, way: &str, only: &str, seen: &str) {
    let checks = check(good, way, only);
    let failed: Vec<_> = checks.iter().filter(|(_, outcome, _)| outcome == "failed").collect();
    assert_eq!(failed.len(), 1, "{checks:?}");
    assert!(failed[0].0.starts_with(only) && failed[0].2.contains(seen), "{checks:?}");
}

macro_rules! ways {
    ($($test:ident: $good:ident $way:literal, $only:literal, $seen:literal;)*) => { $(
        #[test]
        fn $test() {
            is_caught($good, $way, $only, $seen);
        }
    )* };
}

ways! {
    a_fabric_that_changes_data: FABRIC "BAD_DATA", "fabric::carries_data", "up to byte 300";
    a_fabric_that_loses_responses: FABRIC "BAD_SILENT", "fabric::carries_data", "timeout";
    a_fabric_that_listens_on: FABRIC "BAD_LISTENS_ON", "fabric::listens", "in use";
    a_fabric_that_keeps_memory: FABRIC "BAD_LEAKS", "fabric::connections", "the heap grew";
    a_fabric_that_crashes: FABRIC "BAD_CRASH", "fabric::carries_data", "killed by SIGSEGV";
    a_fabric_that_does_not_end: FABRIC "BAD_NEVER_QUIET", "plugin::serves_and_ends", "did not end";
    a_target_that_writes_elsewhere: TARGET "BAD_TARGET_PLACE", "fabric::carries_data", "holds write";
    a_target_that_loses_commands: TARGET "BAD_TARGET_SILENT", "fabric::carries_data", "timeout";
}

#[test]
fn with_nothing_wrong_between_them_both_pass() {
    for good in [FABRIC, TARGET] {
        let checks = check(good, "NOTHING_WRONG", "fabric::carries_data");
        assert!(checks.iter().all(|(_, outcome, _)| outcome == "ok"), "{checks:?}");
    }
}
