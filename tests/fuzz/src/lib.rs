//! What reads bytes from outside, one function each. Whatever the bytes are, it must not panic, and what
//! it accepts must mean the same when it is written and read again.
//!
//! `cargo xtask fuzz` gives them to libFuzzer; `tests/corpora.rs` runs them over the committed corpora,
//! where a found crash is added as a file.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "what is wrong panics"
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

/// Looks at what was read: what nobody looks at the compiler leaves out.
fn look<T>(read: T) {
    drop(std::hint::black_box(read));
}

/// Something that reads bytes.
#[derive(Debug)]
pub struct Target {
    /// Also the folder of its corpus.
    pub name: &'static str,
    /// Reads them.
    pub run: fn(&[u8]),
}

/// All of them.
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
