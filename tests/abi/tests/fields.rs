//! The ABI promises nothing that no code does: code of the host or the SDK reads or writes each field and each constant, or
//! `REASONS` says why there is none. A registration field that the bus refuses by name counts as read.
#![allow(clippy::unwrap_used, reason = "tests")]

use drivebay_plugin_api::DOCS;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Each struct, and the files or folders whose code receives it from a plugin, or fills it for one.
const USERS: &[(&str, &[&str])] = &[
    ("bay_str", &["plugin-api/src/text.rs"]),
    ("bay_sink", &["plugin-api/src/text.rs"]),
    ("bay_plugin", &["host/src/loader"]),
    ("bay_host", &["host/src/loader"]),
    ("bay_iov", &["host/core/src/bdev"]),
    ("bay_io", &["host/core/src/bdev", "sdk/src/bdev/io.rs"]),
    ("bay_chan_args", &["host/core/src/bdev"]),
    ("bay_bdev_ops", &["host/core/src/bdev"]),
    ("bay_bdev_reg", &["host/core/src/bdev", "host/core/src/services", "host/src/methods/bdev.rs"]),
    ("bay_bdev_info", &["host/core/src/services"]),
    ("bay_wait", &["host/core/src/bdev"]),
    ("bay_bdev_api", &["host/core/src/services"]),
    ("bay_bdev_client_api", &["host/core/src/services"]),
    ("bay_bdev_module", &["host/core/src/bdev"]),
    ("bay_msg", &["host/core/src/reactor"]),
    ("bay_poller_ops", &["host/core/src/reactor"]),
    ("bay_thread_api", &["host/core/src/services"]),
    ("bay_poller_api", &["host/core/src/services"]),
    ("bay_buf_api", &["host/core/src/services"]),
    ("bay_mem_api", &["host/core/src/services"]),
    ("bay_region", &["host/core/src/env"]),
    ("bay_rpc_method", &["host/src/loader"]),
    ("bay_rpc_api", &["host/src/loader"]),
    ("bay_broker_api", &["host/src/loader"]),
    ("bay_notify_api", &["host/src/loader"]),
    ("bay_quiesce", &["host/src/loader"]),
    ("bay_job", &["host/core/src/worker.rs"]),
    ("bay_worker_api", &["host/core/src/services"]),
    ("bay_log_iface", &["host/src/loader"]),
    ("bay_nvmf_addr", &["sdk/src/nvmf/transport"]),
    ("bay_nvmf_req", &["sdk/src/nvmf/transport", "sdk/src/nvmf/protocol"]),
    ("bay_nvmf_transport_ops", &["sdk/src/nvmf/protocol"]),
    ("bay_nvmf_target_api", &["sdk/src/nvmf/protocol"]),
    ("bay_pci_info", &["host/core/src/services"]),
    ("bay_pci_api", &["host/core/src/services"]),
];

/// Fields, whole structs and constants that no code uses, and why the ABI has them.
const REASONS: &[(&str, &str)] = &[
    ("bay_io_ext", "draft: no field is valid yet, and the bus passes the pointer on"),
    ("bay_io_device_api", "draft: the host has no table for the id, so `get_iface` returns NULL"),
    ("bay_zone", "data of `BAY_OP_ZONE_REPORT`, which the bus passes on without a look"),
    ("bay_bdev_reg.max_children", "a hint: the host has a child for every request of a module"),
    ("BAY_PF_UNLOADABLE", "a permission that the host does not use: libraries stay mapped"),
    (
        "BAY_PF_OUT_OF_PROCESS_OK",
        "a permission that the host does not use: it has no child processes",
    ),
    ("BAY_PF_SINGLETON", "always so: the host never loads two instances of a plugin"),
    ("BAY_START_UPGRADE", "for live upgrade, which the host does not have: it always starts fresh"),
    ("BAY_FINI_UPGRADED", "as `BAY_START_UPGRADE`"),
    ("BAY_OP_NVME_ADMIN", "the bus handles it by `OP_TABLE`"),
    ("BAY_OP_NVME_IO", "the bus handles it by `OP_TABLE`"),
    ("BAY_OP_RESERVATION_REGISTER", "the bus handles it by `OP_TABLE`"),
    ("BAY_OP_RESERVATION_ACQUIRE", "the bus handles it by `OP_TABLE`"),
    ("BAY_OP_RESERVATION_RELEASE", "the bus handles it by `OP_TABLE`"),
    ("BAY_OP_RESERVATION_REPORT", "the bus handles it by `OP_TABLE`"),
    ("BAY_ST_FUSED_FAILED", "from the module to the client; the bus passes every status on"),
    ("BAY_ST_PI_GUARD", "from the module to the client; the bus passes every status on"),
    ("BAY_ST_PI_APP", "from the module to the client; the bus passes every status on"),
    ("BAY_ST_PI_REF", "from the module to the client; the bus passes every status on"),
    ("BAY_ST_RESERVATION", "from the module to the client; the bus passes every status on"),
];

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The text of a file, or of all Rust sources in a folder.
fn read(path: &str) -> String {
    let (path, mut text) = (top().join(path), String::new());
    if path.is_dir() {
        sources(&path, &mut text);
        return text;
    }
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Whether `text` contains `word` as a whole word.
fn has_word(text: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        let before = text.get(..at).and_then(|text| text.chars().next_back());
        let after = text.get(at + word.len()..).and_then(|text| text.chars().next());
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    })
}

/// Every struct's fields, as `struct.field`, without sizes and fields that must be zero.
fn fields() -> Vec<&'static str> {
    let all = DOCS.iter().flat_map(|list| list.iter());
    all.filter(|doc| {
        let is_size = doc.item.ends_with(".size");
        doc.item.contains('.') && !is_size && !doc.text.trim_start().starts_with("Zero")
    })
    .map(|doc| doc.item)
    .collect()
}

fn constants() -> Vec<String> {
    let sources = fs::read_dir(top().join("plugin-api/src")).unwrap();
    let texts = sources.map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap());
    let mut found = Vec::new();
    for text in texts {
        let names = text.lines().filter_map(|line| line.strip_prefix("pub const "));
        let names = names.filter_map(|rest| rest.split_once(':')).map(|(name, _)| name);
        found.extend(names.filter(|name| name.starts_with("BAY_")).map(str::to_owned));
    }
    found
}

/// The Rust sources in a folder, joined.
fn sources(folder: &Path, into: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}

fn is_used(field: &str) -> bool {
    let (of, name) = field.split_once('.').unwrap();
    let users = USERS.iter().find(|(known, _)| *known == of);
    users.is_some_and(|(_, files)| files.iter().any(|file| has_word(&read(file), name)))
}

#[test]
fn each_field_and_constant_of_the_abi_has_code_or_a_reason() {
    let mut code = String::new();
    for folder in ["host", "sdk", "plugins"] {
        sources(&top().join(folder), &mut code);
    }
    let reason = |item: &str| {
        let of = item.split_once('.').map_or(item, |(of, _)| of);
        REASONS.iter().any(|(known, _)| *known == item || *known == of)
    };
    let fields: Vec<String> = fields().into_iter().map(str::to_owned).collect();
    let lacking: Vec<String> = fields
        .into_iter()
        .filter(|field| !is_used(field))
        .chain(constants().into_iter().filter(|name| !has_word(&code, name)))
        .filter(|item| !reason(item))
        .collect();
    assert!(lacking.is_empty(), "implement it, refuse it, or say why nothing uses it: {lacking:?}");
}

#[test]
fn the_tables_name_only_what_the_abi_has() {
    let structs: BTreeSet<&str> =
        fields().into_iter().filter_map(|field| field.split_once('.')).map(|(of, _)| of).collect();
    for (name, _) in USERS {
        assert!(structs.contains(name), "{name} in USERS");
    }
    let (fields, constants) = (fields(), constants());
    for (item, why) in REASONS {
        let is_known = structs.contains(item)
            || fields.contains(item)
            || constants.iter().any(|name| name == item);
        assert!(is_known && !why.is_empty(), "{item} in REASONS");
    }
}

#[test]
fn a_word_is_found_only_as_a_whole() {
    assert!(has_word("a.max_copy = 1", "max_copy") && has_word("max_copy", "max_copy"));
    assert!(!has_word("max_copy_latency the_max_copy", "max_copy"));
}
