//! NVMe over Fabrics: where the target core (`nvmf`) meets its fabrics (`nvmf-tcp`, …).
//!
//! Both tables travel over the broker. The target provides `bay.nvmf_target/1`; a fabric acquires it
//! and registers its `bay_nvmf_transport_ops` there.
//!
//! A qpair lives on one poll group's thread. A request is the fabric's memory: it fills the command,
//! gathers the data of a write, and lends the request to the target with `exec`; the target gives it
//! back with the fabric's `complete`, exactly once, on the same thread.

use crate::bdev::bay_iov;
use crate::door::{bay_cb_fn, bay_sink, bay_str};
use crate::layout::{functions, structs};
use core::ffi::c_void;

/// No data.
pub const BAY_NVMF_XFER_NONE: u8 = 0;
/// Data from the host to the controller, gathered before `exec`.
pub const BAY_NVMF_XFER_H2C: u8 = 1;
/// Data from the controller to the host, sent after `complete` with success.
pub const BAY_NVMF_XFER_C2H: u8 = 2;
/// As `BAY_NVMF_XFER_C2H`, but what is sent is zeroes, whatever `iov`'s memory holds. The target sets it in place of
/// `BAY_NVMF_XFER_C2H`, before `complete`, for a fabric with `BAY_NVMF_TRANSPORT_ZEROES`.
pub const BAY_NVMF_XFER_ZEROES: u8 = 3;

/// Flag of `bay_nvmf_transport_ops`: the fabric knows `BAY_NVMF_XFER_ZEROES`.
pub const BAY_NVMF_TRANSPORT_ZEROES: u32 = 1;

functions! {
    /// Registers a fabric under its transport type, such as `TCP`. 0 and a handle, or a negative errno. `[app thread]`
    fn bay_nvmf_register_fn(target: *mut c_void, name: bay_str, ops: *const bay_nvmf_transport_ops, ctx: *mut c_void, handle: *mut u64) -> i32;
    /// Takes a fabric off: its qpairs are closed and its listeners end, then `done`. `[app thread]`
    fn bay_nvmf_unregister_fn(target: *mut c_void, handle: u64, done: Option<bay_cb_fn>, arg: *mut c_void) -> i32;
    /// A new connection: the target picks a poll group and calls `group_add` on its thread. `[app thread or poll group's thread]`
    fn bay_nvmf_new_qpair_fn(target: *mut c_void, handle: u64, conn: *mut c_void) -> i32;
    /// Lends a request whose command, and data of a write, have arrived. `[poll group's thread]`
    fn bay_nvmf_exec_fn(target: *mut c_void, qpair: *mut c_void, req: *mut bay_nvmf_req);
    /// The connection is gone: the target lets go of the qpair once its requests came back, then calls `qpair_free`. `[poll group's thread]`
    fn bay_nvmf_disconnected_fn(target: *mut c_void, qpair: *mut c_void);

    /// Makes the transport from its options, JSON text of `nvmf_create_transport`. `[app thread]`
    fn bay_nvmf_create_fn(ctx: *mut c_void, options: bay_str, transport: *mut *mut c_void) -> i32;
    /// Ends the transport; no group or listener is left. `[app thread]`
    fn bay_nvmf_destroy_fn(transport: *mut c_void);
    /// Writes the options in force as one JSON object. `[app thread]`
    fn bay_nvmf_dump_fn(transport: *mut c_void, sink: *const bay_sink);
    /// Writes why the fabric refused last (`create`, `listen`, `stop_listen`), as text that names the field and what is allowed; nothing when it does not know. `ctx` as given to `register`. `[app thread]`
    fn bay_nvmf_explain_fn(ctx: *mut c_void, sink: *const bay_sink);
    /// Begins or ends listening; an address may be shared by several subsystems, the target counts. 0 or a negative errno (-EADDRINUSE, -EADDRNOTAVAIL). `[app thread]`
    fn bay_nvmf_listen_fn(transport: *mut c_void, addr: *const bay_nvmf_addr) -> i32;
    /// Makes or ends one thread's share of the transport. `[poll group's thread]`
    fn bay_nvmf_group_create_fn(transport: *mut c_void, group: *mut *mut c_void) -> i32;
    /// Ends it; it has no connection left. `[poll group's thread]`
    fn bay_nvmf_group_destroy_fn(group: *mut c_void);
    /// The connection given to `new_qpair` now belongs to this group and is served as `qpair`. `[poll group's thread]`
    fn bay_nvmf_group_add_fn(group: *mut c_void, conn: *mut c_void, qpair: *mut c_void) -> i32;
    /// The target has no poll group for a connection given to `new_qpair`: close and free it. `[app thread]`
    fn bay_nvmf_conn_refused_fn(transport: *mut c_void, conn: *mut c_void);
    /// Gives a request back: the response is filled. `[poll group's thread]`
    fn bay_nvmf_complete_fn(conn: *mut c_void, req: *mut bay_nvmf_req);
    /// Ends a connection after the responses that were given back are sent; `disconnected` follows. `[poll group's thread]`
    fn bay_nvmf_close_fn(conn: *mut c_void);
    /// The target has let go of the qpair: free the connection. `[poll group's thread]`
    fn bay_nvmf_qpair_free_fn(conn: *mut c_void);
    /// Fills the addresses of a connection. `[poll group's thread]`
    fn bay_nvmf_conn_addr_fn(conn: *mut c_void, local: *mut bay_nvmf_addr, peer: *mut bay_nvmf_addr) -> i32;
    /// The connection was accepted by the target: queue size (entries) and whether it is the admin queue. `[poll group's thread]`
    fn bay_nvmf_connected_fn(conn: *mut c_void, qid: u16, sqsize: u16, sq_flow_control: u32);
}

structs! {
    /// A transport address as text, NUL-padded.
    closed struct bay_nvmf_addr {
        /// `TCP`, `RDMA`, …
        trtype: [u8; 32],
        /// `IPv4`, `IPv6`, …
        adrfam: [u8; 32],
        /// Address.
        traddr: [u8; 256],
        /// Service, such as a port.
        trsvcid: [u8; 32],
    }

    /// One request of a qpair. The fabric's part lies behind it.
    closed align(64) struct bay_nvmf_req {
        /// The 64-byte command; the fabric has not changed it.
        cmd: [u64; 8],
        /// The 16-byte response: dword 0, dword 1, then SQHD, SQID (the target's), command id and status.
        rsp: [u64; 2],
        /// Data; NULL when `xfer` is none.
        iov: *mut bay_iov,
        /// Elements of `iov`.
        iovcnt: u32,
        /// Length of the data, in bytes, as the command's SGL says.
        len: u32,
        /// `BAY_NVMF_XFER_*`.
        xfer: u8,
        /// Zero.
        rsv0: u8,
        /// Zero.
        rsv1: u16,
        /// Length that is to be sent back, in bytes; set by the target, at most `len`.
        rsp_len: u32,
        /// The fabric's connection.
        conn: *mut c_void,
        /// The target's while it has the request.
        tgt: [u64; 8],
    }

    /// What a fabric does.
    open struct bay_nvmf_transport_ops {
        /// Size of this struct as the plugin was compiled, in bytes.
        size: u32,
        /// `BAY_NVMF_TRANSPORT_*`.
        flags: u32,
        /// Makes the transport.
        create: Option<bay_nvmf_create_fn>,
        /// Ends it.
        destroy: Option<bay_nvmf_destroy_fn>,
        /// Options in force.
        dump: Option<bay_nvmf_dump_fn>,
        /// Listens.
        listen: Option<bay_nvmf_listen_fn>,
        /// Listens no more; connections stay.
        stop_listen: Option<bay_nvmf_listen_fn>,
        /// A thread's share.
        group_create: Option<bay_nvmf_group_create_fn>,
        /// Its end.
        group_destroy: Option<bay_nvmf_group_destroy_fn>,
        /// A connection for a group.
        group_add: Option<bay_nvmf_group_add_fn>,
        /// A connection that no group takes.
        conn_refused: Option<bay_nvmf_conn_refused_fn>,
        /// A request comes back.
        complete: Option<bay_nvmf_complete_fn>,
        /// A connection is to end.
        close: Option<bay_nvmf_close_fn>,
        /// A connection's end.
        qpair_free: Option<bay_nvmf_qpair_free_fn>,
        /// A connection's addresses.
        conn_addr: Option<bay_nvmf_conn_addr_fn>,
        /// A connection is a queue now; may be NULL.
        connected: Option<bay_nvmf_connected_fn>,
        /// Why it refused; may be NULL.
        explain: Option<bay_nvmf_explain_fn>,
    }

    /// `bay.nvmf_target/1`: what the target offers to fabrics.
    open struct bay_nvmf_target_api {
        /// Size of this struct as the plugin was compiled, in bytes.
        size: u32,
        /// Zero.
        flags: u32,
        /// First argument of all.
        target: *mut c_void,
        /// Registers a fabric.
        register: Option<bay_nvmf_register_fn>,
        /// Takes it off.
        unregister: Option<bay_nvmf_unregister_fn>,
        /// A connection came.
        new_qpair: Option<bay_nvmf_new_qpair_fn>,
        /// A request came.
        exec: Option<bay_nvmf_exec_fn>,
        /// A connection went.
        disconnected: Option<bay_nvmf_disconnected_fn>,
    }
}
