//! The plugin folder while the host serves: emptied, filled, and with files that do not belong there.

use crate::host::{Host, Refused, plugin_folder, program};
use crate::target::{BLOCK, NQN};
use crate::witness::Witness;
use drivebay_nvme_driver::Options;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

const LONGEST: Duration = Duration::from_secs(5);

/// A host without plugins beside it, and a folder for plugins.
struct Bench {
    host: Host,
    folder: TempDir,
    /// Keeps the program in its own folder, away from the plugins that were built with it.
    _program: TempDir,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let alone = tempfile::tempdir().unwrap();
        let copy = alone.path().join("drivebay");
        fs::hard_link(program(), &copy).or_else(|_| fs::copy(program(), &copy).map(drop)).unwrap();
        let host = Host::start_program(&copy, &["--plugin-dir", folder.path().to_str().unwrap()]);
        Self { host, folder, _program: alone }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Copies plugins into the folder.
    fn fill(&self, names: &[&str]) {
        for name in names {
            fs::copy(built(name), self.path(&file_name(name))).unwrap();
        }
    }

    fn empty(&self) {
        for entry in fs::read_dir(self.folder.path()).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
    }

    /// State and reason in the list of plugins.
    fn listed(&self, name: &str) -> Option<(String, String)> {
        let list = self.host.call("plugin_list", json!({}));
        let entry = list.as_array().unwrap().iter().find(|entry| entry["name"] == name)?;
        let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
        Some((text("state"), text("reason")))
    }

    fn null(&self, name: &str) -> Result<Value, Refused> {
        let disk = json!({"name": name, "num_blocks": 8, "block_size": BLOCK});
        self.host.try_call("bdev_null_create", disk)
    }
}

fn file_name(name: &str) -> String {
    format!("libdrivebay_{}.so", name.replace('-', "_"))
}

fn built(name: &str) -> PathBuf {
    plugin_folder().join(file_name(name))
}

/// Copies a plugin and replaces one text with another of the same length.
fn patched(name: &str, to: &Path, old: &str, new: &str) {
    assert_eq!(old.len(), new.len());
    let mut bytes = fs::read(built(name)).unwrap();
    let at = bytes.windows(old.len()).position(|part| part == old.as_bytes()).unwrap();
    bytes[at..at + new.len()].copy_from_slice(new.as_bytes());
    fs::write(to, bytes).unwrap();
}

#[test]
fn what_is_loaded_serves_from_an_empty_folder_and_the_rest_comes_when_it_is_filled() {
    let bench = Bench::new();
    bench.fill(&["malloc", "nvmf", "nvmf-tcp"]);
    let host = &bench.host;
    host.call("nvmf_create_transport", json!({"trtype": "TCP"}));
    host.add_subsystem(NQN);
    host.add_disk("m1");
    host.add_namespace(NQN, "m1");
    let address = host.listen(NQN, Ipv4Addr::LOCALHOST.into());
    let witness = Witness::start(Options::new(address, NQN), 1);

    bench.empty();
    witness.wait_for(100);
    // This plugin is loaded, so it works as before.
    host.add_disk("m2");
    assert_eq!(host.add_namespace(NQN, "m2"), 2);
    // This plugin is not loaded. The error says so, and a load by name says what is missing and where.
    assert_eq!(bench.null("n1").unwrap_err().code, -32601);
    let missing = host.refused("plugin_load", json!({"name": "null"}));
    let expected = format!("plugin null: not found in {}", bench.folder.path().display());
    assert!(missing.code == -2 && missing.message.starts_with(&expected), "{missing:?}");
    let methods = |current: bool| host.call("rpc_get_methods", json!({"current": current}));
    assert!(!methods(true).as_array().unwrap().contains(&json!("bdev_null_create")));

    bench.fill(&["null"]);
    bench.null("n1").unwrap();
    assert!(methods(true).as_array().unwrap().contains(&json!("bdev_null_create")));
    witness.finish(LONGEST);
}

#[test]
fn a_transport_that_is_not_there_yet_is_named_and_found_once_it_is() {
    let bench = Bench::new();
    bench.fill(&["nvmf"]);
    let refused = bench.host.refused("nvmf_create_transport", json!({"trtype": "TCP"}));
    assert!(refused.code == -32602 && refused.message.contains("trtype TCP"), "{refused:?}");
    bench.fill(&["nvmf-tcp"]);
    bench.host.call("nvmf_create_transport", json!({"trtype": "TCP"}));
}

#[test]
fn a_transport_without_its_target_says_what_it_requires() {
    let bench = Bench::new();
    bench.fill(&["nvmf-tcp"]);
    let refused = bench.host.refused("plugin_load", json!({"name": "nvmf-tcp"}));
    assert!(refused.message.contains("it requires bay.nvmf_target/1"), "{refused:?}");
    assert!(!refused.message.contains('\n'));
    bench.fill(&["nvmf"]);
    bench.host.call("plugin_load", json!({"name": "nvmf-tcp"}));
    assert_eq!(bench.listed("nvmf").unwrap().0, "serving");
}

#[test]
fn a_plugin_that_is_still_being_copied_is_refused_until_it_is_whole() {
    let bench = Bench::new();
    let whole = fs::read(built("null")).unwrap();
    let mut file = File::create(bench.path(&file_name("null"))).unwrap();
    for (index, part) in whole.chunks(whole.len().div_ceil(8)).enumerate() {
        let refused = bench.null("n1").unwrap_err();
        assert!(!refused.message.contains('\n'), "{refused:?}");
        let by_name = bench.host.refused("plugin_load", json!({"name": "null"}));
        assert!(by_name.message.starts_with("plugin null: "), "{index}: {by_name:?}");
        if let Some((state, reason)) = bench.listed("null") {
            assert_eq!(state, "found");
            assert!(reason.contains("cut off"), "{reason}");
        }
        file.write_all(part).unwrap();
    }
    bench.null("n1").unwrap();
}

#[test]
fn a_folder_full_of_other_things_is_a_folder_of_plugins() {
    let bench = Bench::new();
    let other = |name: &str| bench.path(name);
    fs::write(other("text.so"), "hello").unwrap();
    fs::write(other("empty.so"), "").unwrap();
    fs::write(other("README.md"), "hello").unwrap();
    fs::copy(program(), other("program.so")).unwrap();
    fs::create_dir(other("folder.so")).unwrap();
    symlink("nowhere", other("dangling.so")).unwrap();
    symlink("loop.so", other("loop.so")).unwrap();
    symlink("/dev/zero", other("endless.so")).unwrap();
    // An open of the pipe waits for a writer, which never comes. So the host must not open it.
    mknodat(CWD, other("pipe.so"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    bench.fill(&["null", "malloc"]);
    bench.null("n1").unwrap();
    bench.host.add_disk("m1");
    let list = bench.host.call("plugin_list", json!({}));
    let in_state = |state: &str| -> Vec<&str> {
        let entries = list.as_array().unwrap().iter().filter(|entry| entry["state"] == state);
        entries.map(|entry| entry["name"].as_str().unwrap()).collect()
    };
    assert_eq!(in_state("serving"), ["malloc", "null"]);
    // A program is a valid ELF file but not a plugin. The other files could have been plugins. The link to
    // /dev/zero has the name `zero`.
    assert_eq!(in_state("found"), ["empty", "folder", "pipe", "text", "zero"]);
    assert_eq!(list.as_array().unwrap().len(), 7);
    for (name, expected) in [
        ("text.so", "not a 64-bit ELF file"),
        ("pipe.so", "not a regular file"),
        ("folder.so", "not a regular file"),
    ] {
        let path = other(name).to_str().unwrap().to_owned();
        let refused = bench.host.refused("plugin_load", json!({"name": path}));
        assert!(refused.message.contains(expected), "{name}: {refused:?}");
        assert!(!refused.message.contains('\n'), "{name}: {refused:?}");
    }
}

#[test]
fn a_refused_plugin_registers_nothing_and_a_good_one_takes_its_place() {
    let bench = Bench::new();
    let path = bench.path(&file_name("null"));
    for (old, new, expected) in [
        (r#""abi":[1,0]"#, r#""abi":[2,0]"#, "it is for ABI 2; this host speaks ABI 1"),
        ("lba@8+8=u64", "lba@9+8=i64", "struct bay_io: the plugin has"),
        ("bay_plugin_v1", "bay_plugout_1", "it does not export the door"),
    ] {
        patched("null", &path, old, new);
        for refused in [
            bench.host.refused("plugin_load", json!({"name": "null"})),
            bench.host.refused("plugin_load", json!({"name": path.to_str().unwrap()})),
        ] {
            assert!(refused.message.contains(expected), "{refused:?}");
            assert!(!refused.message.contains('\n'), "{refused:?}");
        }
        assert!(bench.null("n1").is_err());
        let (state, reason) = bench.listed("null").unwrap();
        assert_eq!(state, "found");
        assert!(reason.contains(expected), "{reason}");
    }
    bench.fill(&["null"]);
    bench.null("n1").unwrap();
    assert_eq!(bench.listed("null").unwrap().0, "serving");
}

#[test]
fn two_files_of_one_plugin_are_one_plugin() {
    let bench = Bench::new();
    bench.fill(&["null"]);
    fs::copy(built("null"), bench.path("a_copy.so")).unwrap();
    bench.null("n1").unwrap();
    bench.host.call("plugin_load", json!({"name": "null"}));
    let list = bench.host.call("plugin_list", json!({}));
    let serving = list.as_array().unwrap().iter().filter(|entry| entry["state"] == "serving");
    assert_eq!(serving.count(), 1);
    bench.null("n2").unwrap();
}

#[test]
fn two_plugins_with_one_method_are_not_guessed_between() {
    let bench = Bench::new();
    bench.fill(&["null"]);
    patched("null", &bench.path("other.so"), r#""name":"null""#, r#""name":"nuls""#);
    let refused = bench.null("n1").unwrap_err();
    assert!(
        refused.message.contains("is provided by null and nuls; load one of them by name"),
        "{refused:?}"
    );
    // The manifest and the door of the patched plugin disagree, so nothing of it stays loaded.
    let refused = bench.host.refused("plugin_load", json!({"name": "nuls"}));
    assert!(refused.message.contains("its door says name null"), "{refused:?}");
    bench.host.call("plugin_load", json!({"name": "null"}));
    bench.null("n1").unwrap();
}
