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
    clippy::missing_panics_doc,
    reason = "a failed check panics"
)]

mod blobstore;
mod connection;
mod controller;
mod initiator;
mod iscsi;
mod jsonrpc;
mod nbd;
mod nvme;
mod plugin;
mod raid;
mod script;
mod scsi;
mod vhost;

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
    Target { name: "nvme_tcp_connection", run: connection::script },
    Target { name: "nvme_tcp_initiator", run: initiator::script },
    Target { name: "nvmf_controller", run: controller::script },
    Target { name: "scsi_command", run: scsi::command },
    Target { name: "scsi_parameters", run: scsi::parameters },
    Target { name: "iscsi_pdu", run: iscsi::pdu },
    Target { name: "iscsi_text", run: iscsi::text },
    Target { name: "nbd_option", run: nbd::option },
    Target { name: "nbd_request", run: nbd::request },
    Target { name: "vhost_message", run: vhost::message },
    Target { name: "virtio_ring", run: vhost::ring },
    Target { name: "jsonrpc_frame", run: jsonrpc::frame },
    Target { name: "jsonrpc_params", run: jsonrpc::params },
    Target { name: "raid_superblock", run: raid::superblock },
    Target { name: "plugin_file", run: plugin::file },
    Target { name: "plugin_layout", run: plugin::layout },
    Target { name: "plugin_trust", run: plugin::trust },
];
