//! `drivebay plugin check` on a correct RAM disk in C, and on one version for each kind of fault.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use serde_json::Value;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Compiles `tests/conformance/plugins/ram.c` with one macro.
fn build(way: &str) -> (TempDir, PathBuf) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ram.so");
    let status = Command::new("cc")
        .args(["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-O1", "-g"])
        .args(["-shared", "-fPIC", &format!("-D{way}"), "-I"])
        .arg(root.join("sdk/c"))
        .arg("-o")
        .arg(&file)
        .arg(root.join("tests/conformance/plugins/ram.c"))
        .arg("-lpthread")
        .status()
        .unwrap();
    assert!(status.success());
    for path in [folder.path(), &file] {
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    }
    (folder, file)
}

/// Runs the check. Returns the exit code and the report.
fn check(file: &Path, args: &[&str]) -> (i32, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_drivebay"))
        .args(["plugin", "check", "--json"])
        .arg(file)
        .args(args)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {text}"));
    (output.status.code().unwrap(), report)
}

/// The check `only` must fail on the RAM disk with this fault, and report what it saw.
fn is_caught(way: &str, only: &str, seen: &str) {
    let (_folder, file) = build(way);
    let (code, report) = check(&file, &["--only", only]);
    assert_eq!(code, 1, "{report:#}");
    let checks = report["checks"].as_array().unwrap();
    let failed: Vec<&Value> = checks.iter().filter(|check| check["outcome"] == "failed").collect();
    assert_eq!(failed.len(), 1, "{report:#}");
    assert!(failed[0]["name"].as_str().unwrap().starts_with(only), "{report:#}");
    assert!(failed[0]["seen"].as_str().unwrap().contains(seen), "{report:#}");
}

macro_rules! ways {
    ($($test:ident: $way:literal, $only:literal, $seen:literal;)*) => { $(
        #[test]
        fn $test() {
            is_caught($way, $only, $seen);
        }
    )* };
}

ways! {
    an_io_completed_twice: "BAD_TWICE", "completion::exactly_once", "was completed twice";
    an_io_never_completed: "BAD_NEVER", "completion::exactly_once", "still at the module";
    a_completion_on_a_foreign_thread:
        "BAD_OTHER_THREAD", "completion::on_its_own_thread", "on another thread";
    a_request_touched_after_its_end: "BAD_TOUCHES", "completion::exactly_once", "written to";
    a_request_that_is_changed: "BAD_CHANGES", "completion::exactly_once", "lba of";
    a_status_that_is_none: "BAD_STATUS", "completion::exactly_once", "ended with 1";
    a_flipped_bit: "BAD_DATA", "data::survives_a_random_mix", "up to byte 300";
    a_write_behind_the_buffers: "BAD_OVERRUN", "list::many_elements", "behind an element";
    memory_that_is_not_given_back: "BAD_LEAKS", "life::created_and_deleted", "the heap grew";
    a_callback_that_sleeps: "BAD_BLOCKS", "deadline::no_callback_blocks", "submit blocked";
    a_wake_up_that_is_lost: "BAD_LOST_WAKE", "sleep::no_wake_up_is_lost", "a wake-up was lost";
    a_reactor_kept_awake: "BAD_AWAKE", "sleep::an_idle_host_sleeps", "keeps them awake";
    a_range_past_the_end: "BAD_PAST_THE_END", "module::refuses_what_is_past_its_end", "success";
    an_undeclared_op: "BAD_UNDECLARED", "module::refuses_what_it_did_not_declare", "success";
    a_crash: "BAD_CRASH", "ops::each_declared_one_succeeds", "crashed in submit; killed by SIGSEGV";
}

#[test]
fn a_plugin_that_is_right_passes() {
    let (_folder, file) = build("GOOD");
    let (code, report) = check(&file, &[]);
    assert_eq!(code, 0, "{report:#}");
    assert!(report["passed"].as_u64().unwrap() >= 25, "{report:#}");
}

#[test]
fn a_plugin_that_is_right_leaves_nothing_though_no_other_check_came_before() {
    let (_folder, file) = build("GOOD");
    let (code, report) = check(&file, &["--only", "life::created_and_deleted"]);
    assert_eq!(code, 0, "{report:#}");
}

#[test]
fn after_a_crash_the_other_checks_go_on_in_a_fresh_child() {
    let (_folder, file) = build("BAD_CRASH");
    // It crashes in write_zeroes, which only one of these checks submits.
    let (_, report) = check(&file, &["--only", "data::"]);
    let outcome_of = |name: &str| {
        let checks = report["checks"].as_array().unwrap();
        let found = checks.iter().find(|check| check["name"] == name);
        found.unwrap_or_else(|| panic!("{name}: {report:#}"))["outcome"].as_str().unwrap()
    };
    assert_eq!(outcome_of("data::survives_a_random_mix"), "failed");
    assert_eq!(outcome_of("data::is_the_same_on_every_thread"), "ok");
}

#[test]
fn what_is_no_plugin_is_not_checked() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("text.so");
    fs::write(&file, "hello").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_drivebay"))
        .args(["plugin", "check"])
        .arg(&file)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not a 64-bit ELF file"));
}
