//! Files that the host must not load, and the line that says why.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{TestHost, build, patch, text};
use drivebay::loader::inspect::{Inspection, inspect, inspect_path};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

fn refusal(path: &Path) -> String {
    inspect_path(path).unwrap().allowed().unwrap_err().to_string()
}

#[test]
fn a_plugin_in_c_is_inspected_without_running_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = build("null", folder.path(), "cnull.so", &[]);
    let inspection: Inspection = inspect_path(&path).unwrap();
    let manifest = inspection.allowed().unwrap();
    assert_eq!((manifest.name.as_str(), manifest.lang.as_str()), ("cnull", "c"));
    assert_eq!(manifest.requires, ["bay.bdev/1"]);
    assert!(inspection.needed.iter().any(|library| library.starts_with("libc.so")));
    assert!(!inspection.nodelete && inspection.unique_symbols.is_empty());
    // Inspection must also work on stripped files, which vendors ship.
    let status = std::process::Command::new("strip").arg(&path).status().unwrap();
    assert!(status.success());
    inspect_path(&path).unwrap().allowed().unwrap();
}

#[test]
fn another_major_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = build("probe", folder.path(), "p.so", &[]);
    patch(&path, r#""abi":[1,0]"#, r#""abi":[2,0]"#);
    assert_eq!(refusal(&path), "it is for ABI 2; this host speaks ABI 1");
}

#[test]
fn a_needed_minor_that_is_not_there_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = build("probe", folder.path(), "p.so", &[]);
    patch(&path, r#""needs_minor":0"#, r#""needs_minor":9"#);
    assert_eq!(refusal(&path), "it needs ABI 1.9 or later; this host speaks 1.0");
}

#[test]
fn another_layout_is_refused_with_both_sides() {
    let folder = tempfile::tempdir().unwrap();
    let path = build("probe", folder.path(), "p.so", &[]);
    patch(&path, "lba@8+8=u64", "lba@9+8=i64");
    let reason = refusal(&path);
    assert!(
        reason.starts_with(
            "struct bay_io: the plugin has `flags: u32` at byte 4 (+4); this host has"
        ) || reason.contains("`lba: u64` at byte 8 (+8)"),
        "{reason}"
    );
}

#[test]
fn swapped_arguments_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = build("probe", folder.path(), "p.so", &[]);
    patch(
        &path,
        "fn:bay_submit_fn(chan:*mutc_void,io:*mutbay_io,)",
        "fn:bay_submit_fn(io:*mutbay_io,chan:*mutc_void,)",
    );
    assert!(refusal(&path).starts_with("fn bay_submit_fn: the plugin has"), "{}", refusal(&path));
}

#[test]
fn a_plugin_without_a_door_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = build("probe", folder.path(), "p.so", &[]);
    patch(&path, "bay_plugin_v1", "bay_plugout_1");
    assert_eq!(refusal(&path), "it does not export the door, a data symbol bay_plugin_v1");
    patch(&path, "bay_plugout_1", "bay_plugin_v2");
    assert!(refusal(&path).starts_with("it has the door bay_plugin_v2;"), "{}", refusal(&path));
}

#[test]
fn a_library_that_is_no_plugin_is_recognized() {
    let folder = tempfile::tempdir().unwrap();
    let path = build("probe", folder.path(), "p.so", &[]);
    patch(&path, "bay_plugin_v1", "bay_plugout_1");
    let mut bytes = fs::read(&path).unwrap();
    for at in 0..bytes.len() - 4 {
        if &bytes[at..at + 4] == b"BAY\0" {
            bytes[at] = b'X';
        }
    }
    let reason = inspect(bytes.as_slice()).unwrap_err().to_string();
    assert!(reason.contains("not a plugin"), "{reason}");
}

#[test]
fn every_cut_of_a_plugin_is_refused_or_no_plugin() {
    let folder = tempfile::tempdir().unwrap();
    let path = build("probe", folder.path(), "p.so", &[]);
    let whole = fs::read(&path).unwrap();
    let step = whole.len() / 500 + 1;
    for len in (0..whole.len()).step_by(step).chain(0..300) {
        if let Ok(inspection) = inspect(&whole[..len]) {
            assert!(inspection.allowed().is_err(), "{len} of {} bytes", whole.len());
        }
    }
    fs::write(&path, &whole[..whole.len() * 2 / 3]).unwrap();
    let reasons = inspect_path(&path).unwrap().refusals.join("\n");
    assert!(reasons.contains("it is cut off"), "{reasons}");
}

#[test]
fn no_flipped_byte_of_a_plugin_makes_the_inspection_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = build("probe", folder.path(), "p.so", &[]);
    let mut bytes = fs::read(&path).unwrap();
    // Headers, notes and the layout text are at the front, section headers at the end.
    let tail = bytes.len().saturating_sub(3000);
    for at in (0..600).chain((600..tail).step_by(211)).chain((tail..bytes.len()).step_by(3)) {
        bytes[at] ^= 0xff;
        let _ = inspect(bytes.as_slice());
        bytes[at] ^= 0xff;
    }
    inspect(bytes.as_slice()).unwrap().allowed().unwrap();
}

#[test]
fn a_refused_file_is_listed_with_its_reason_and_not_loaded() {
    let host = TestHost::new();
    let path = host.probe("p.so", &[("NAME", &text("writable"))]);
    fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
    let (state, reason) = host.state("writable").unwrap();
    assert_eq!(state, "found");
    assert!(reason.contains("has mode 0777; others must not write it"), "{reason}");
    let (code, message) = host.call("plugin_load", r#"{"name":"writable"}"#).unwrap_err();
    assert_eq!(code, i64::from(-libc::EPERM));
    assert!(message.starts_with("plugin writable: "), "{message}");
    assert!(host.seen().is_empty());
}

#[test]
fn a_file_that_is_no_plugin_says_so_when_it_is_named() {
    let host = TestHost::new();
    let path = host.plugins.path().join("text.so");
    fs::write(&path, "hello").unwrap();
    let error = host.manager.load(path.to_str().unwrap()).unwrap_err();
    assert!(error.message().contains("not a 64-bit ELF file"), "{error}");
}

#[test]
fn door_and_manifest_must_agree() {
    let host = TestHost::new();
    let path = host.probe("p.so", &[("NAME", &text("agree"))]);
    patch(&path, r#""name":"agree""#, r#""name":"other""#);
    let error = host.manager.load("other").unwrap_err();
    let expected = "plugin other: its door says name agree; its manifest says other";
    assert_eq!(error.message(), expected);
    assert_eq!(host.state("other").unwrap().0, "failed");
}
