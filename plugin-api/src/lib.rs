//! The Drivebay plugin ABI: the tables, their layout text and the notes.
//!
//! This crate declares plain C types in Rust: `#[repr(C)]` structs and `extern "C"` function
//! pointers. They have the same names as in the generated C header. The comment of every function
//! ends with the thread that calls it, in brackets. *Open* structs begin with their size and only
//! grow at the end. The receiver copies the smaller of both sizes into a zeroed struct; therefore
//! every function pointer is an `Option`. *Closed* structs never change within an ABI major.
//! `docs/abi.md` has the rules.
#![no_std]
#![expect(non_camel_case_types, reason = "a type has the same name in Rust and in C")]
#![allow(clippy::indexing_slicing, reason = "const functions have no other way to read bytes")]

extern crate alloc;

mod bdev;
mod door;
pub mod layout;
pub mod note;
mod nvmf;
mod op;
mod open;
mod pci;
mod services;
mod status;
mod text;

pub use bdev::*;
pub use door::*;
pub use nvmf::*;
pub use op::*;
pub use open::{Open, copy_open, size_of_table};
pub use pci::*;
pub use services::*;
pub use status::*;
pub use text::Collected;

/// Interface ids, for `get_iface` and the broker.
pub mod id {
    /// [`crate::bay_bdev_api`]
    pub const BDEV: &str = "bay.bdev/1";
    /// [`crate::bay_bdev_client_api`]
    pub const BDEV_CLIENT: &str = "bay.bdev_client/1";
    /// [`crate::bay_bdev_module`]; plugins offer it to the host.
    pub const BDEV_MODULE: &str = "bay.bdev_module/1";
    /// [`crate::bay_thread_api`]
    pub const THREAD: &str = "bay.thread/1";
    /// [`crate::bay_poller_api`]
    pub const POLLER: &str = "bay.poller/1";
    /// [`crate::bay_io_device_api`]
    pub const IO_DEVICE: &str = "bay.draft.io_device/1";
    /// [`crate::bay_buf_api`]
    pub const BUF: &str = "bay.buf/1";
    /// [`crate::bay_mem_api`]
    pub const MEM: &str = "bay.mem/1";
    /// [`crate::bay_rpc_api`]
    pub const RPC: &str = "bay.rpc/1";
    /// [`crate::bay_broker_api`]
    pub const BROKER: &str = "bay.broker/1";
    /// [`crate::bay_notify_api`]
    pub const NOTIFY: &str = "bay.notify/1";
    /// [`crate::bay_worker_api`]
    pub const WORKER: &str = "bay.draft.worker/1";
    /// [`crate::bay_quiesce`]; plugins offer it to the host.
    pub const QUIESCE: &str = "bay.quiesce/1";
    /// [`crate::bay_log_iface`]; plugins offer it to the host.
    pub const LOG: &str = "bay.log/1";
    /// [`crate::bay_pci_api`], for plugins with the permission `pci`.
    pub const PCI: &str = "bay.pci/1";
    /// [`crate::bay_nvmf_target_api`], over the broker.
    pub const NVMF_TARGET: &str = "bay.nvmf_target/1";
}

const fn write_layout<const N: usize>() -> layout::Text<N> {
    let text = layout::Text::new();
    let text = door::functions_layout(door::structs_layout(text));
    let text = bdev::functions_layout(bdev::structs_layout(text));
    let text = services::functions_layout(services::structs_layout(text));
    let text = nvmf::functions_layout(nvmf::structs_layout(text));
    pci::functions_layout(pci::structs_layout(text))
}

/// Length of [`LAYOUT`], in bytes.
pub const LAYOUT_LEN: usize = write_layout::<0>().len;
/// One line for every struct (`name:size=…,align=…,kind;field@offset+size=type;…`) and function
/// type (`fn:name(argument:type,…)->type`), as the compiler of this crate lays them out.
#[expect(clippy::large_const_arrays, reason = "each plugin stores its own copy in its note, once")]
pub const LAYOUT: [u8; LAYOUT_LEN] = write_layout::<LAYOUT_LEN>().bytes;

/// The documentation of every struct, field and function type, for the header generator.
pub const DOCS: [&[layout::Doc]; 10] = [
    door::STRUCT_DOCS,
    door::FUNCTION_DOCS,
    bdev::STRUCT_DOCS,
    bdev::FUNCTION_DOCS,
    services::STRUCT_DOCS,
    services::FUNCTION_DOCS,
    nvmf::STRUCT_DOCS,
    nvmf::FUNCTION_DOCS,
    pci::STRUCT_DOCS,
    pci::FUNCTION_DOCS,
];

#[cfg(feature = "abi-stable")]
mod abi_root;
#[cfg(feature = "abi-stable")]
pub use abi_root::AbiRoot;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_lists_the_request_with_its_offsets() {
        let text = core::str::from_utf8(&LAYOUT).unwrap();
        let line = text.lines().find(|l| l.starts_with("bay_io:")).unwrap();
        assert!(line.starts_with("bay_io:size=128,align=64,closed;op@0+2=u16;iovcnt@2+2=u16;"));
        assert!(line.contains(";done@32+8=Option<bay_done_fn>;"));
        assert!(text.contains("fn:bay_submit_fn(chan:*mutc_void,io:*mutbay_io,)\n"));
    }
}
