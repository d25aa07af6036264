//! One function for each parser of bytes from outside. For any bytes, a parser must not panic. If it
//! accepts them, writing and parsing the result again must give the same value.
//!
//! `cargo xtask fuzz` runs them under libFuzzer. `tests/corpora.rs` runs them on the committed corpora.
//! `archive` says where the inputs are.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::missing_panics_doc,
    reason = "a failed check panics; scripts have small numbers"
)]

mod blobstore;
mod controller;
mod initiator;
mod iscsi;
mod jsonrpc;
mod nbd;
mod nvme;
mod nvme_tcp;
mod pcie;
mod plugin;
mod raid;
mod script;
mod scsi;
mod vhost;
mod virtio_driver;

// The iSCSI target and initiator without their sockets. These are the plugins' own files, because a program can contain only one
// plugin's door. They expect each other at the root.
#[path = "../../../plugins/protocol/iscsi/src/connection/mod.rs"]
#[allow(dead_code, unreachable_pub, unused_imports, reason = "the plugin uses all of it")]
mod connection;
#[path = "../../../plugins/protocol/iscsi/src/login/mod.rs"]
#[allow(dead_code, unreachable_pub, unused_imports, reason = "the plugin uses all of it")]
mod login;
#[path = "../../../plugins/protocol/iscsi/src/model/mod.rs"]
#[allow(dead_code, unreachable_pub, unused_imports, reason = "the plugin uses all of it")]
mod model;
#[path = "../../../plugins/protocol/iscsi/src/node/mod.rs"]
#[allow(dead_code, unreachable_pub, unused_imports, reason = "the plugin uses all of it")]
mod node;
#[path = "../../../plugins/bdev/iscsi-initiator/src/outbox.rs"]
mod outbox;
#[path = "../../../plugins/bdev/iscsi-initiator/src/session/mod.rs"]
#[allow(dead_code, unreachable_pub, reason = "the plugin uses all of it")]
mod session;

/// Uses a parsed value. Otherwise the compiler would remove the parser.
fn look<T>(read: T) {
    drop(std::hint::black_box(read));
}

/// A parser of bytes.
#[derive(Debug)]
pub struct Target {
    /// The name. Its corpus has the same name.
    pub name: &'static str,
    /// Parses the bytes.
    pub run: fn(&[u8]),
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "blobstore_super", run: blobstore::super_block },
    Target { name: "blobstore_pages", run: blobstore::pages },
    Target { name: "nvme_tcp_pdu", run: nvme::pdu },
    Target { name: "nvme_command", run: nvme::command },
    Target { name: "nvme_fabrics", run: nvme::fabrics },
    Target { name: "nvme_tcp_connection", run: nvme_tcp::script },
    Target { name: "nvme_tcp_initiator", run: initiator::script },
    Target { name: "nvme_pcie_controller", run: pcie::controller },
    Target { name: "nvme_pcie_ring", run: pcie::ring },
    Target { name: "nvmf_controller", run: controller::script },
    Target { name: "scsi_command", run: scsi::command },
    Target { name: "scsi_parameters", run: scsi::parameters },
    Target { name: "iscsi_pdu", run: iscsi::pdu },
    Target { name: "iscsi_text", run: iscsi::text },
    Target { name: "iscsi_connection", run: iscsi::connection::script },
    Target { name: "iscsi_node", run: iscsi::node::script },
    Target { name: "iscsi_initiator", run: iscsi::initiator::script },
    Target { name: "nbd_option", run: nbd::option },
    Target { name: "nbd_request", run: nbd::request },
    Target { name: "vhost_message", run: vhost::message },
    Target { name: "virtio_ring", run: vhost::ring },
    Target { name: "virtio_driver", run: virtio_driver::script },
    Target { name: "jsonrpc_frame", run: jsonrpc::frame },
    Target { name: "jsonrpc_params", run: jsonrpc::params },
    Target { name: "raid_superblock", run: raid::superblock },
    Target { name: "plugin_file", run: plugin::file },
    Target { name: "plugin_layout", run: plugin::layout },
    Target { name: "plugin_trust", run: plugin::trust },
];
