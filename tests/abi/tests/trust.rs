//! Effects of the operator's policy on plugins, in the real loader.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{TestHost, text};
use drivebay::loader::trust::Policy;
use drivebay::loader::trust::key::{PrivateKey, public_file};
use drivebay::loader::trust::signature;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// An operator who trusts one vendor's key and requires signatures.
struct Operator {
    folder: TempDir,
    key: PrivateKey,
}

impl Operator {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("keys/revoked")).unwrap();
        let private = folder.path().join("acme");
        let key = PrivateKey::generate(&private).unwrap();
        fs::copy(public_file(&private), folder.path().join("keys/acme.pub")).unwrap();
        Self { folder, key }
    }

    fn host(&self, policy: &str) -> TestHost {
        let file = self.folder.path().join("plugins.json");
        fs::write(&file, policy).unwrap();
        TestHost::with_policy(Policy::read(&file).unwrap())
    }

    fn strict_host(&self) -> TestHost {
        self.host(r#"{"signatures":"require"}"#)
    }
}

fn probe(host: &TestHost, file: &str, version: &str) -> PathBuf {
    host.probe(file, &[("VERSION", &text(version)), ("METHOD", &text("ping"))])
}

/// Loads the probe. The load must fail with a reason that contains `part`.
fn refused(host: &TestHost, part: &str) {
    let error = host.manager.load("probe").unwrap_err();
    assert!(error.message().contains(part), "{error}");
    assert!(host.seen().is_empty(), "none of its code ran");
    assert!(host.call("ping", "{}").is_err());
}

#[test]
fn with_require_only_what_a_trusted_key_signed_is_loaded() {
    let operator = Operator::new();
    let host = operator.strict_host();
    let file = probe(&host, "p.so", "1.0.0");
    refused(&host, "plugin probe: not signed; the plugin policy requires a signature by a key in ");

    let stranger = PrivateKey::generate(&operator.folder.path().join("stranger")).unwrap();
    signature::sign(&file, &stranger).unwrap();
    refused(&host, "which is not trusted");

    signature::sign(&file, &operator.key).unwrap();
    host.manager.load("probe").unwrap();
    let list = host.call("plugin_list", "{}").unwrap();
    assert_eq!(list[0]["signed_by"], operator.key.fingerprint().to_string());
}

#[test]
fn a_key_is_revoked_while_the_host_runs() {
    let operator = Operator::new();
    let host = operator.strict_host();
    signature::sign(&probe(&host, "p.so", "1.0.0"), &operator.key).unwrap();
    let keys = operator.folder.path().join("keys");
    fs::copy(keys.join("acme.pub"), keys.join("revoked/old.pub")).unwrap();
    refused(&host, "signed by the key old, which was revoked");
    fs::remove_file(keys.join("revoked/old.pub")).unwrap();
    host.manager.load("probe").unwrap();
}

#[test]
fn with_warn_a_missing_signature_passes_and_a_bad_one_does_not() {
    let operator = Operator::new();
    let host = operator.host(r#"{"signatures":"warn"}"#);
    let file = probe(&host, "p.so", "1.0.0");
    signature::sign(&file, &operator.key).unwrap();
    probe(&host, "p.so", "1.0.1");
    refused(&host, "was not made for this file by the key acme");
    fs::remove_file(signature::sidecar_path(&file)).unwrap();
    host.manager.load("probe").unwrap();
}

#[test]
fn the_copy_that_is_loaded_is_the_one_that_was_verified() {
    let operator = Operator::new();
    let host = operator.strict_host();
    let good = probe(&host, "good.so", "1.0.0");
    signature::sign(&good, &operator.key).unwrap();
    // The search has found and read the file. Then another file replaces it, with the old
    // signature.
    assert_eq!(host.state("probe").unwrap().0, "allowed");
    let evil = tempfile::tempdir().unwrap();
    let other = common::build("probe", evil.path(), "e.so", &[("VERSION", &text("6.6.6"))]);
    fs::rename(other, &good).unwrap();
    refused(&host, "was not made for this file by the key acme");
}

#[test]
fn a_swapped_symlink_changes_nothing() {
    let operator = Operator::new();
    let host = operator.strict_host();
    let outside = tempfile::tempdir().unwrap();
    let good = common::build("probe", outside.path(), "good.so", &[("VERSION", &text("1.0.0"))]);
    let evil = common::build("probe", outside.path(), "evil.so", &[("VERSION", &text("6.6.6"))]);
    signature::sign(&good, &operator.key).unwrap();
    let link = host.plugins.path().join("p.so");
    let point_to = |target: &Path| {
        let _ = fs::remove_file(&link);
        symlink(target, &link).unwrap();
    };
    point_to(&good);
    assert_eq!(host.state("probe").unwrap().0, "allowed");
    point_to(&evil);
    refused(&host, "not signed");
    // The check also works by path, when the path is that of the link.
    fs::copy(signature::sidecar_path(&good), signature::sidecar_path(&link)).unwrap();
    let error = host.manager.load(link.to_str().unwrap()).unwrap_err();
    assert!(error.message().contains("was not made for this file by the key acme"), "{error}");
    point_to(&good);
    host.manager.load(link.to_str().unwrap()).unwrap();
}

#[test]
fn names_are_allowed_and_denied_by_name_and_by_path() {
    let operator = Operator::new();
    let host = operator.host(r#"{"deny":["probe"]}"#);
    let macros = [("METHOD", &*text("ping")), ("PROVIDES", &*text(r#""rpc:ping""#))];
    let file = host.probe("p.so", &macros);
    assert_eq!(host.state("probe").unwrap().0, "found");
    let (code, message) = host.call("ping", "{}").unwrap_err();
    assert_eq!(code, i64::from(-libc::EPERM), "a call says why its plugin is not loaded");
    assert!(
        message.starts_with("rpc:ping: plugin probe provides it; it is not loaded"),
        "{message}"
    );
    refused(&host, "the plugin policy's list `deny` names it");
    assert!(host.manager.load(file.to_str().unwrap()).is_err());
    assert!(host.call("rpc_get_methods", "{}").unwrap().to_string().find("ping").is_none());
}

#[test]
fn a_manifest_that_claims_too_much_is_found_out_and_leaves_nothing() {
    let host = TestHost::new();
    for (file, claim) in [("a.so", "rpc:pong"), ("b.so", "bay.test/1")] {
        let claims = text(&text(claim));
        host.probe(file, &[("PROVIDES", &claims), ("METHOD", &text("ping"))]);
        let error = host.manager.load("probe").unwrap_err();
        let expected = format!("its manifest claims {claim}, which it does not provide");
        assert!(error.message().contains(&expected), "{error}");
        assert_eq!(host.call("ping", "{}").unwrap_err().0, -32601, "taken back");
        fs::remove_file(host.plugins.path().join(file)).unwrap();
    }
}

#[test]
fn an_interface_behind_a_permission_is_given_to_those_who_have_it_only() {
    let operator = Operator::new();
    let wants = [
        ("METHOD", text("ping")),
        ("GUARDED", text("bay.pci/1")),
        ("BAY_PERMISSIONS", text(&text("pci"))),
    ];
    let wants: Vec<(&str, &str)> = wants.iter().map(|(name, value)| (*name, &**value)).collect();
    for (policy, is_given) in [
        ("{}", true),
        (r#"{"grants":[{"plugin":"probe","permissions":["pci"]}]}"#, true),
        (r#"{"grants":[]}"#, false),
    ] {
        let host = operator.host(policy);
        host.probe("p.so", &wants);
        host.manager.load("probe").unwrap();
        let list = host.call("plugin_list", "{}").unwrap();
        assert_eq!(list[0]["permissions"], serde_json::json!(["pci"]));
        let seen = host.seen();
        assert_eq!(seen.contains(&"probe has it".to_owned()), is_given, "{policy}: {seen:?}");
    }
}
