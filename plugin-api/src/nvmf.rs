//! NVMe over Fabrics: the interface between the target core (`nvmf`) and its transports (`nvmf-tcp`, …).
//!
//! Both tables travel over the broker. The target provides `bay.nvmf_target/1`. A transport acquires it
//! and registers its `bay_nvmf_transport_ops` there. The comments call such a transport a *fabric*.
//!
//! A qpair stays on the thread of one poll group. A request is the fabric's memory. The fabric fills in the
//! command, receives the data of a write, and lends the request to the target with `exec`. The target returns
//! it with the fabric's `complete`, exactly once, on the same thread.

use crate::bdev::bay_iov;
use crate::door::{bay_cb_fn, bay_sink, bay_str};
use crate::layout::{functions, structs};
use core::ffi::c_void;

/// No data.
pub const BAY_NVMF_XFER_NONE: u8 = 0;
/// Data from the host to the controller. The fabric has received it before `exec`.
pub const BAY_NVMF_XFER_H2C: u8 = 1;
/// Data from the controller to the host. The fabric sends it after `complete` with success.
pub const BAY_NVMF_XFER_C2H: u8 = 2;
/// As `BAY_NVMF_XFER_C2H`, but the fabric sends zeroes, whatever the memory of `iov` contains. The target replaces
/// `BAY_NVMF_XFER_C2H` with this value before `complete` if the fabric has `BAY_NVMF_TRANSPORT_ZEROES`.
pub const BAY_NVMF_XFER_ZEROES: u8 = 3;

/// Flag of `bay_nvmf_transport_ops`: the fabric supports `BAY_NVMF_XFER_ZEROES`.
pub const BAY_NVMF_TRANSPORT_ZEROES: u32 = 1;

functions! {
    /// Registers a fabric under its transport type, such as `TCP`. Returns 0 and a handle, or a negative errno. `[app thread]`
    fn bay_nvmf_register_fn(target: *mut c_void, name: bay_str, ops: *const bay_nvmf_transport_ops, ctx: *mut c_void, handle: *mut u64) -> i32;
    /// Unregisters a fabric. The target closes its qpairs, ends its listeners, then calls `done`. `[app thread]`
    fn bay_nvmf_unregister_fn(target: *mut c_void, handle: u64, done: Option<bay_cb_fn>, arg: *mut c_void) -> i32;
    /// Reports a new connection. The target picks a poll group and calls `group_add` on its thread.
    /// `[app thread or poll group's thread]`
    fn bay_nvmf_new_qpair_fn(target: *mut c_void, handle: u64, conn: *mut c_void) -> i32;
    /// Lends a request to the target. Its command has arrived, and for a write also its data. `[poll group's thread]`
    fn bay_nvmf_exec_fn(target: *mut c_void, qpair: *mut c_void, req: *mut bay_nvmf_req);
    /// Reports that the connection is closed. The target releases the qpair when all its requests are back, then calls
    /// `qpair_free`. `[poll group's thread]`
    fn bay_nvmf_disconnected_fn(target: *mut c_void, qpair: *mut c_void);

    /// Creates the transport from its options, the JSON parameters of `nvmf_create_transport`. `[app thread]`
    fn bay_nvmf_create_fn(ctx: *mut c_void, options: bay_str, transport: *mut *mut c_void) -> i32;
    /// Destroys the transport. All its groups and listeners have ended. `[app thread]`
    fn bay_nvmf_destroy_fn(transport: *mut c_void);
    /// Writes the current options as one JSON object. `[app thread]`
    fn bay_nvmf_dump_fn(transport: *mut c_void, sink: *const bay_sink);
    /// Writes why the fabric last refused a call (`create`, `listen`, `stop_listen`): a text that names the field and
    /// the allowed values, or nothing when the reason is not known. `ctx` as given to `register`. `[app thread]`
    fn bay_nvmf_explain_fn(ctx: *mut c_void, sink: *const bay_sink);
    /// Starts or stops listening. Several subsystems may share an address; the target counts them. Returns 0 or a
    /// negative errno (-EADDRINUSE, -EADDRNOTAVAIL). `[app thread]`
    fn bay_nvmf_listen_fn(transport: *mut c_void, addr: *const bay_nvmf_addr) -> i32;
    /// Creates one thread's part of the transport. `[poll group's thread]`
    fn bay_nvmf_group_create_fn(transport: *mut c_void, group: *mut *mut c_void) -> i32;
    /// Destroys a group that has no connection left. `[poll group's thread]`
    fn bay_nvmf_group_destroy_fn(group: *mut c_void);
    /// Adds a connection given to `new_qpair` to this group. `qpair` is the target's handle of it. `[poll group's thread]`
    fn bay_nvmf_group_add_fn(group: *mut c_void, conn: *mut c_void, qpair: *mut c_void) -> i32;
    /// Refuses a connection given to `new_qpair`, because the target has no poll group: close and free it. `[app thread]`
    fn bay_nvmf_conn_refused_fn(transport: *mut c_void, conn: *mut c_void);
    /// Returns a request to the fabric with its response filled in. `[poll group's thread]`
    fn bay_nvmf_complete_fn(conn: *mut c_void, req: *mut bay_nvmf_req);
    /// Closes a connection after the fabric has sent the responses that it already has. The fabric then calls
    /// `disconnected`. `[poll group's thread]`
    fn bay_nvmf_close_fn(conn: *mut c_void);
    /// Frees the connection. The target has released the qpair. `[poll group's thread]`
    fn bay_nvmf_qpair_free_fn(conn: *mut c_void);
    /// Fills the addresses of a connection. `[poll group's thread]`
    fn bay_nvmf_conn_addr_fn(conn: *mut c_void, local: *mut bay_nvmf_addr, peer: *mut bay_nvmf_addr) -> i32;
    /// The target accepted the connection as a queue: `sqsize` in entries, `qid` 0 = the admin queue. `[poll group's thread]`
    fn bay_nvmf_connected_fn(conn: *mut c_void, qid: u16, sqsize: u16, sq_flow_control: u32);
}

structs! {
    /// A transport address as text. NUL bytes fill the rest of each field.
    closed struct bay_nvmf_addr {
        /// `TCP`, `RDMA`, …
        trtype: [u8; 32],
        /// `IPv4`, `IPv6`, …
        adrfam: [u8; 32],
        /// Address, such as an IP address.
        traddr: [u8; 256],
        /// Service, such as a port number.
        trsvcid: [u8; 32],
    }

    /// One request of a qpair. The fabric's private part follows it in memory.
    closed align(64) struct bay_nvmf_req {
        /// The 64-byte command, as received.
        cmd: [u64; 8],
        /// The 16-byte response: dword 0, dword 1, then SQHD, SQID (both set by the target), command id and status.
        rsp: [u64; 2],
        /// Data buffers; NULL when `xfer` is `BAY_NVMF_XFER_NONE`.
        iov: *mut bay_iov,
        /// Elements of `iov`.
        iovcnt: u32,
        /// Length of the data in bytes, from the command's SGL.
        len: u32,
        /// `BAY_NVMF_XFER_*`.
        xfer: u8,
        /// Zero.
        rsv0: u8,
        /// Zero.
        rsv1: u16,
        /// Length of the data to send back, in bytes. The target sets it, at most to `len`.
        rsp_len: u32,
        /// The fabric's connection.
        conn: *mut c_void,
        /// For the target's use while it has the request.
        tgt: [u64; 8],
    }

    /// The functions of a fabric.
    open struct bay_nvmf_transport_ops {
        /// Size of this struct as the plugin was compiled, in bytes.
        size: u32,
        /// `BAY_NVMF_TRANSPORT_*`.
        flags: u32,
        /// Creates the transport.
        create: Option<bay_nvmf_create_fn>,
        /// Destroys the transport.
        destroy: Option<bay_nvmf_destroy_fn>,
        /// Writes the current options.
        dump: Option<bay_nvmf_dump_fn>,
        /// Starts listening on an address.
        listen: Option<bay_nvmf_listen_fn>,
        /// Stops listening on an address. Existing connections stay.
        stop_listen: Option<bay_nvmf_listen_fn>,
        /// Creates a thread's part of the transport.
        group_create: Option<bay_nvmf_group_create_fn>,
        /// Destroys a thread's part of the transport.
        group_destroy: Option<bay_nvmf_group_destroy_fn>,
        /// Adds a connection to a group.
        group_add: Option<bay_nvmf_group_add_fn>,
        /// Refuses a connection that no group takes.
        conn_refused: Option<bay_nvmf_conn_refused_fn>,
        /// Returns a completed request.
        complete: Option<bay_nvmf_complete_fn>,
        /// Closes a connection.
        close: Option<bay_nvmf_close_fn>,
        /// Frees a connection.
        qpair_free: Option<bay_nvmf_qpair_free_fn>,
        /// Fills the addresses of a connection.
        conn_addr: Option<bay_nvmf_conn_addr_fn>,
        /// The connection is now a queue; may be NULL.
        connected: Option<bay_nvmf_connected_fn>,
        /// Writes why the fabric refused a call; may be NULL.
        explain: Option<bay_nvmf_explain_fn>,
    }

    /// `bay.nvmf_target/1`: the functions of the target for fabrics.
    open struct bay_nvmf_target_api {
        /// Size of this struct as the plugin was compiled, in bytes.
        size: u32,
        /// Zero.
        flags: u32,
        /// First argument of every function.
        target: *mut c_void,
        /// Registers a fabric.
        register: Option<bay_nvmf_register_fn>,
        /// Unregisters a fabric.
        unregister: Option<bay_nvmf_unregister_fn>,
        /// Reports a new connection.
        new_qpair: Option<bay_nvmf_new_qpair_fn>,
        /// Submits a request.
        exec: Option<bay_nvmf_exec_fn>,
        /// Reports that a connection is closed.
        disconnected: Option<bay_nvmf_disconnected_fn>,
    }
}
