//! Block devices: the request, what a module gives, what the bus offers to modules and to clients.

use crate::door::{bay_cb_fn, bay_host, bay_sink, bay_str};
use crate::layout::{functions, structs};
use core::ffi::c_void;
use core::ptr;

/// Must-understand flag: durable before completion (force unit access).
pub const BAY_IO_FUA: u32 = 1 << 16;

/// In `holds`: a device or the kernel may touch the buffers.
pub const BAY_HELD_BY_DEVICE: u16 = 1 << 15;

/// `detail_kind`: nothing in `detail`.
pub const BAY_DETAIL_NONE: u8 = 0;
/// `detail` is an NVMe status: bits 0-31 cdw0, 32-34 sct, 40-47 sc, 48 dnr, 49 more, 50-51 crd.
pub const BAY_DETAIL_NVME: u8 = 1;
/// `detail` is a SCSI status: byte 0 status, 1 sense key, 2 asc, 3 ascq.
pub const BAY_DETAIL_SCSI: u8 = 2;
/// `detail` is the offset in bytes of the first difference.
pub const BAY_DETAIL_OFFSET: u8 = 3;
/// `detail` is a block, or a number of zones, as the op says.
pub const BAY_DETAIL_BLOCK: u8 = 4;

/// Registration flag: the device has a volatile write cache, flush means something.
pub const BAY_BDEV_WRITE_CACHE: u32 = 1;
/// Registration flag: nothing may be written.
pub const BAY_BDEV_READ_ONLY: u32 = 2;
/// Registration flag: the bdev is a filter over `base`.
pub const BAY_BDEV_FILTER: u32 = 4;
/// Registration flag: what is written is not kept, and a read leaves its buffers as they are: who sends on what was read clears them first.
pub const BAY_BDEV_NO_DATA: u32 = 8;

/// `open`: writes are allowed.
pub const BAY_OPEN_WRITE: u32 = 1;

/// Event: the bdev goes away; close the descriptor as soon as its I/O has ended.
pub const BAY_EVENT_REMOVE: u32 = 0;
/// Event: the size changed; `value` is the new number of blocks.
pub const BAY_EVENT_RESIZE: u32 = 1;
/// Event: blocks lost their data; `value` is the number of ranges that `media_next` has.
pub const BAY_EVENT_MEDIA: u32 = 2;

/// Claim: only this descriptor may write.
pub const BAY_CLAIM_EXCL_WRITE: u32 = 1;
/// Claim: many may read, this one may write.
pub const BAY_CLAIM_READ_MANY_WRITE_ONE: u32 = 2;
/// Claim: many may read, none may write.
pub const BAY_CLAIM_READ_MANY_WRITE_NONE: u32 = 3;
/// Claim: holders of the same key may write.
pub const BAY_CLAIM_READ_MANY_WRITE_SHARED: u32 = 4;

functions! {
    /// Ends one I/O, exactly once; nothing of `io` may be touched afterwards. `[thread of the submit]`
    fn bay_done_fn(io: *mut bay_io, status: i32);
    /// Starts one I/O and returns at once; `io` is the module's until `io->done`. `[reactor]`
    fn bay_submit_fn(chan: *mut c_void, io: *mut bay_io);
    /// A burst of submits has ended: ring the doorbell once. `[reactor]`
    fn bay_flush_fn(chan: *mut c_void);
    /// Makes one thread's state for the bdev: 0, a negative errno, or 1 for "pending" (`chan_ready` later). `[reactor]`
    fn bay_chan_create_fn(bdev: *mut c_void, args: *const bay_chan_args, chan: *mut *mut c_void) -> i32;
    /// Ends a channel that has no I/O outstanding: 0, or 1 for "pending" (`chan_closed` later). `[reactor]`
    fn bay_chan_destroy_fn(bdev: *mut c_void, chan: *mut c_void) -> i32;
    /// The bdev is unregistered and no descriptor or channel is left: free it. 0, or 1 for "pending" (`destruct_done` later). `[thread of the registration]`
    fn bay_destruct_fn(bdev: *mut c_void) -> i32;
    /// Writes the bdev's part of a JSON text into the sink. `[thread of the registration]`
    fn bay_dump_fn(bdev: *mut c_void, sink: *const bay_sink);
    /// Sets the module's own counters to zero. `[thread of the registration]`
    fn bay_reset_stats_fn(bdev: *mut c_void);

    /// Puts a bdev on the bus and stores its handle. 0 or a negative errno. `[app thread]`
    fn bay_bdev_register_fn(host: *const bay_host, reg: *const bay_bdev_reg, id: *mut u64) -> i32;
    /// Takes a bdev off the bus: clients are told, its I/O ends, then `destruct`, then `done`. `[app thread]`
    fn bay_bdev_unregister_fn(host: *const bay_host, id: u64, done: Option<bay_cb_fn>, arg: *mut c_void) -> i32;
    /// A pending `destruct` has ended. `[app thread]`
    fn bay_bdev_destruct_done_fn(host: *const bay_host, id: u64, status: i32);
    /// A pending `chan_create` has ended. `[thread of the channel]`
    fn bay_bdev_chan_ready_fn(host: *const bay_host, host_chan: u64, chan: *mut c_void, status: i32);
    /// A pending `chan_destroy` has ended. `[thread of the channel]`
    fn bay_bdev_chan_closed_fn(host: *const bay_host, host_chan: u64);
    /// Reserves `name` and a UUID for a bdev that this plugin registers later, such as a filter that
    /// waits for its base: until `release`, or the end of the plugin, nobody else gets them. `uuid`: 16
    /// bytes; all zeroes or null = the UUID that the host derives from the name. -EEXIST when the name or
    /// the UUID is taken. `[app thread]`
    fn bay_bdev_reserve_fn(host: *const bay_host, name: bay_str, uuid: *const u8) -> i32;
    /// Ends the reservation of `name`. -ENOENT when there is none. `[app thread]`
    fn bay_bdev_release_fn(host: *const bay_host, name: bay_str) -> i32;
    /// The bdev's size changed. -EBUSY when it would shrink while it is open. `[app thread]`
    fn bay_bdev_resize_fn(host: *const bay_host, id: u64, num_blocks: u64) -> i32;
    /// A resource came free: submit again what waits on the channel. `[thread of the channel]`
    fn bay_bdev_kick_fn(host: *const bay_host, host_chan: u64);
    /// Holds back (`quiesce`) or lets go (`unquiesce`) the I/O of a range, of the whole bdev for 0 and 0; `done` when nothing of it is at the module, or when it goes on. `[app thread]`
    fn bay_bdev_quiesce_fn(host: *const bay_host, id: u64, lba: u64, nblocks: u64, done: Option<bay_cb_fn>, arg: *mut c_void) -> i32;

    /// Gives a bdev another name (`add` = 1) or takes one away (0). -EEXIST when the name is taken, -ENOENT when the bdev does not have it. `[app thread]`
    fn bay_bdev_alias_fn(host: *const bay_host, id: u64, alias: bay_str, add: u32) -> i32;
    /// Tells those who have the bdev open that these blocks lost their data (`BAY_EVENT_MEDIA`). `[app thread]`
    fn bay_bdev_media_fn(host: *const bay_host, id: u64, lba: u64, nblocks: u64) -> i32;

    /// Something happened to an open bdev: `event` is `BAY_EVENT_*`. `[thread of the open]`
    fn bay_bdev_event_fn(arg: *mut c_void, event: u32, value: u64);
    /// The client's end of one I/O. `io` is the host's again when it returns. `[thread of the submit]`
    fn bay_io_cb_fn(arg: *mut c_void, io: *mut bay_io, status: i32);
    /// A waiter's turn has come. `[thread of the wait]`
    fn bay_wait_fn(arg: *mut c_void);
    /// Opens a bdev by name, alias or UUID. `[app thread]`
    fn bay_client_open_fn(host: *const bay_host, name: bay_str, flags: u32, event: Option<bay_bdev_event_fn>, arg: *mut c_void, desc: *mut u64) -> i32;
    /// Closes a descriptor; its channels must have been put. `[thread of the open]`
    fn bay_client_close_fn(host: *const bay_host, desc: u64) -> i32;
    /// Fills `info`, whose `size` the caller has set. `[any reactor]`
    fn bay_client_info_fn(host: *const bay_host, desc: u64, info: *mut bay_bdev_info) -> i32;
    /// Claims the bdev for a descriptor: `kind` is `BAY_CLAIM_*`. -EPERM when another holds it. `[app thread]`
    fn bay_client_claim_fn(host: *const bay_host, desc: u64, kind: u32, key: u64) -> i32;
    /// Gives a claim back. `[app thread]`
    fn bay_client_unclaim_fn(host: *const bay_host, desc: u64) -> i32;
    /// Gets the current thread's channel of the bdev, counted. `[reactor]`
    fn bay_client_chan_get_fn(host: *const bay_host, desc: u64, chan: *mut u64) -> i32;
    /// Gives a channel back; its I/O must have ended. `[thread of the get]`
    fn bay_client_chan_put_fn(host: *const bay_host, chan: u64) -> i32;
    /// An I/O to fill and submit, or NULL when the limit is reached: then `wait`, if not NULL, is queued. `[thread of the channel]`
    fn bay_client_io_get_fn(host: *const bay_host, chan: u64, wait: *mut bay_wait) -> *mut bay_io;
    /// Gives back an I/O that was not submitted. `[thread of the channel]`
    fn bay_client_io_put_fn(host: *const bay_host, io: *mut bay_io);
    /// A child of `parent` on another channel, all its fields copied; never NULL for a declared number of children. `[thread of the channel]`
    fn bay_client_io_derive_fn(host: *const bay_host, chan: u64, parent: *mut bay_io) -> *mut bay_io;
    /// As `io_derive`, with the data and metadata of `nblocks` blocks of the parent from its block `first` on. NULL also when the parent does not have these. `[thread of the channel]`
    fn bay_client_io_derive_part_fn(host: *const bay_host, chan: u64, parent: *mut bay_io, first: u64, nblocks: u64) -> *mut bay_io;
    /// Sends an I/O down; `cb` exactly once, from inside or later. `iov` stays valid until then. `[thread of the channel]`
    fn bay_client_submit_fn(host: *const bay_host, io: *mut bay_io, cb: Option<bay_io_cb_fn>, arg: *mut c_void);
    /// Takes the oldest range of blocks that lost their data and that this descriptor was not told: 0, or -ENOENT. `[thread of the open]`
    fn bay_client_media_fn(host: *const bay_host, desc: u64, lba: *mut u64, nblocks: *mut u64) -> i32;
    /// Ends `parent` with a child's status and detail; called from the child's callback. `[thread of the submit]`
    fn bay_client_complete_from_fn(host: *const bay_host, parent: *mut bay_io, child: *mut bay_io, status: i32);
    /// Tells the module below that a burst of submits has ended. `[thread of the channel]`
    fn bay_client_flush_fn(host: *const bay_host, chan: u64);
    /// Sends a request that the caller's module was given on to another bdev, unchanged but for its first block, and ends it as that one does. It is the host's from here on. `[thread of the channel]`
    fn bay_client_pass_fn(host: *const bay_host, chan: u64, io: *mut bay_io, lba: u64);
    /// Takes a waiter out of the queue of `io_get`: 0, or -ENOENT when it is not there. `[thread of the channel]`
    fn bay_client_io_abort_fn(host: *const bay_host, chan: u64, wait: *mut bay_wait) -> i32;

    /// A new bdev is shown: the module may open and claim it, without I/O. `[app thread]`
    fn bay_examine_config_fn(state: *mut c_void, name: bay_str);
    /// A new bdev is shown: the module may read it, then answers `examine_done(token)`. `[app thread]`
    fn bay_examine_disk_fn(state: *mut c_void, name: bay_str, token: u64);
    /// Writes the module's configuration: JSON objects `{"method":…,"params":…}`, comma-separated. `[app thread]`
    fn bay_module_config_fn(state: *mut c_void, sink: *const bay_sink);
    /// The host ends: let go of other bdevs. `[app thread]`
    fn bay_module_fini_start_fn(state: *mut c_void);
    /// An `examine_disk` has ended. `[app thread]`
    fn bay_examine_done_fn(host: *const bay_host, token: u64);
}

structs! {
    /// One piece of a scatter/gather list.
    closed struct bay_iov {
        /// First byte.
        addr: *mut c_void,
        /// Length in bytes.
        len: u32,
        /// Memory region of the host that holds it; 0 = plain memory.
        region: u32,
    }

    /// One request: the host's, lent to the module from submit to `done`. The host's private part lies before it.
    closed align(64) struct bay_io {
        /// `BAY_OP_*`.
        op: u16,
        /// Number of elements of `iov`.
        iovcnt: u16,
        /// Low 16 bits are hints; high 16 bits must be understood.
        flags: u32,
        /// First block.
        lba: u64,
        /// Number of blocks.
        nblocks: u64,
        /// Scatter/gather list; unchanged until `done`.
        iov: *const bay_iov,
        /// Ends the request; always the host's.
        done: Option<bay_done_fn>,
        /// The module's while in flight: `drv_ctx_size` bytes, aligned to 64, contents undefined at submit.
        drv_ctx: *mut c_void,
        /// The module's while in flight.
        link: *mut c_void,
        /// NULL = none.
        ext: *const bay_io_ext,
        /// Separate metadata buffer, or NULL.
        md: *mut c_void,
        /// Length of `md` in bytes.
        md_len: u32,
        /// Memory region of `md`.
        md_region: u32,
        /// What else is known of the end; by `detail_kind`.
        detail: u64,
        /// `BAY_DETAIL_*`.
        detail_kind: u8,
        /// Priority, 0 = none.
        prio: u8,
        /// How many others than the module's code may touch the buffers until `done`: children, and a device or the kernel
        /// (`BAY_HELD_BY_DEVICE`). Zero at submit; the module's while in flight. The host ends the requests of a module that has
        /// failed, but none with a number here.
        holds: u16,
        /// Length of what `arg` points at, in bytes.
        arg_len: u32,
        /// By op.
        arg: [u64; 2],
        /// Slot and generation: names the request for abort.
        id: u64,
        /// Zero.
        rsv1: u64,
    }

    /// One zone, as `BAY_OP_ZONE_REPORT` reports it.
    closed struct bay_zone {
        /// First block.
        lba: u64,
        /// Blocks that can be written.
        capacity: u64,
        /// The block that is written next.
        write_pointer: u64,
        /// State, by the numbers of the Zone Descriptor (`ZS`) of the NVM Express Zoned Namespace Command Set 1.1.
        state: u8,
        /// Type, by the numbers of the same structure (`ZT`).
        kind: u8,
        /// Zero.
        rsv: [u8; 6],
    }

    /// Rare parts of a request. Draft: nothing is valid yet.
    open struct bay_io_ext {
        /// Size of this struct, in bytes.
        size: u32,
        /// Which fields are set.
        valid: u32,
        /// Trace id.
        trace_id: u64,
    }

    /// What a new channel is told.
    open struct bay_chan_args {
        /// Size of this struct, in bytes.
        size: u32,
        /// NUMA node, -1 = any.
        numa: i32,
        /// The lightweight thread.
        thread: u64,
        /// The host's handle, for `kick`, `chan_ready` and `chan_closed`.
        host_chan: u64,
        /// State handed over by an older instance, or NULL.
        handover: *const c_void,
    }

    /// What a bdev does. One channel is called by its thread, and by one of `submit`, `flush` and
    /// `chan_destroy` at a time: the host calls none of them from inside of another. From inside of what
    /// the module calls itself elsewhere, such as `done` from a poller, it may call any.
    open struct bay_bdev_ops {
        /// Size of this struct as the plugin was compiled, in bytes.
        size: u32,
        /// Zero.
        flags: u32,
        /// Starts an I/O. Required.
        submit: Option<bay_submit_fn>,
        /// End of a burst; may be NULL.
        flush: Option<bay_flush_fn>,
        /// Required.
        chan_create: Option<bay_chan_create_fn>,
        /// Required.
        chan_destroy: Option<bay_chan_destroy_fn>,
        /// Required.
        destruct: Option<bay_destruct_fn>,
        /// Members of `driver_specific` in `bdev_get_bdevs`, as one JSON object; may be NULL.
        dump_info: Option<bay_dump_fn>,
        /// The RPC that makes this bdev again, as `{"method":…,"params":…}`; may be NULL.
        write_config: Option<bay_dump_fn>,
        /// The module's own counters as one JSON object; may be NULL.
        dump_stats: Option<bay_dump_fn>,
        /// May be NULL.
        reset_stats: Option<bay_reset_stats_fn>,
    }

    /// What the bus must know of a bdev. Texts and lists are copied by `register`.
    open struct bay_bdev_reg {
        /// Size of this struct as the plugin was compiled, in bytes.
        size: u32,
        /// `BAY_BDEV_*`.
        flags: u32,
        /// First argument of the operations.
        ctx: *mut c_void,
        /// What the bdev does; lives as long as the bdev.
        ops: *const bay_bdev_ops,
        /// Unique name.
        name: bay_str,
        /// Product name, as `bdev_get_bdevs` shows it.
        product: bay_str,
        /// Other names.
        aliases: *const bay_str,
        /// Number of aliases.
        naliases: u32,
        /// Block size in bytes, metadata included when interleaved.
        block_size: u32,
        /// Capacity in blocks.
        num_blocks: u64,
        /// All zero: the bus derives one from the name.
        uuid: [u8; 16],
        /// Physical block size in bytes; 0 = `block_size`.
        phys_block_size: u32,
        /// Blocks per write; a write must be a multiple. 0 = 1.
        write_unit: u32,
        /// Blocks that are written all or not at all; 0 = 1.
        atomic_write_unit: u32,
        /// Alignment of buffers in bytes, a power of two; 0 = 1. The bus bounces what is not aligned.
        align: u32,
        /// I/O is split at multiples of this many blocks; 0 = never.
        optimal_boundary: u32,
        /// Elements of a scatter/gather list; 0 = no limit. The bus splits.
        max_segments: u32,
        /// Bytes in one element; 0 = no limit.
        max_segment_size: u32,
        /// Blocks of one read or write; 0 = no limit.
        max_io_blocks: u32,
        /// Blocks of one unmap; 0 = no limit.
        max_unmap: u32,
        /// Blocks of one write zeroes; 0 = no limit.
        max_write_zeroes: u32,
        /// Blocks of one copy; 0 = no limit.
        max_copy: u32,
        /// Metadata bytes per block.
        md_size: u32,
        /// 1 = metadata lies behind each block's data.
        md_interleave: u8,
        /// T10 DIF type 0 to 3.
        dif_type: u8,
        /// 1 = the protection information comes first in the metadata.
        dif_is_head: u8,
        /// 0 = 16 bit guard, 1 = 32, 2 = 64.
        dif_pi_format: u8,
        /// Bits of what is checked.
        dif_check_flags: u32,
        /// NUMA node, -1 = any.
        numa: i32,
        /// Namespace id of an NVMe bdev, else 0.
        nsid: u32,
        /// How long a reset waits for I/O in flight before it reaches the module, in milliseconds.
        reset_drain_ms: u32,
        /// 1 = buffers must be in the host's DMA regions; the bus bounces others.
        needs_dma: u32,
        /// Bit `1 << BAY_OP_*` for each op that may be sent.
        ops_mask: u64,
        /// Must-understand flags that may be sent.
        must_flags: u32,
        /// Children that one I/O may have in flight at once (filters).
        max_children: u32,
        /// Size of `drv_ctx`, in bytes.
        drv_ctx_size: u32,
        /// Zero.
        rsv0: u32,
        /// Name of the base bdev of a filter.
        base: bay_str,
        /// Blocks per zone; 0 = not zoned. Draft.
        zone_size: u64,
        /// Zones that may be open. Draft.
        max_open_zones: u32,
        /// Zones that may be active. Draft.
        max_active_zones: u32,
    }

    /// What a client may know of an open bdev.
    open struct bay_bdev_info {
        /// Size of this struct as the caller was compiled, in bytes.
        size: u32,
        /// `BAY_BDEV_*`.
        flags: u32,
        /// Capacity in blocks.
        num_blocks: u64,
        /// Block size in bytes.
        block_size: u32,
        /// Physical block size in bytes.
        phys_block_size: u32,
        /// Ops that a client may send: declared ones and those the bus emulates.
        ops_mask: u64,
        /// UUID.
        uuid: [u8; 16],
        /// Blocks per write.
        write_unit: u32,
        /// Blocks written all or not at all.
        atomic_write_unit: u32,
        /// Alignment of buffers in bytes.
        align: u32,
        /// I/O is split at multiples of this many blocks; 0 = never.
        optimal_boundary: u32,
        /// Metadata bytes per block.
        md_size: u32,
        /// 1 = metadata lies behind each block's data.
        md_interleave: u8,
        /// T10 DIF type 0 to 3.
        dif_type: u8,
        /// 1 = the protection information comes first.
        dif_is_head: u8,
        /// 0 = 16 bit guard, 1 = 32, 2 = 64.
        dif_pi_format: u8,
        /// NUMA node, -1 = any.
        numa: i32,
        /// Must-understand flags that may be sent, emulated ones included.
        must_flags: u32,
        /// Name on the bus; valid while the descriptor is open.
        name: bay_str,
    }

    /// A place in a queue of waiters: the waiter's memory, linked by the host until the callback.
    closed struct bay_wait {
        /// Called when the resource may be had.
        cb: Option<bay_wait_fn>,
        /// Its argument.
        arg: *mut c_void,
        /// The host's while queued.
        link: *mut c_void,
        /// Zero.
        rsv: u64,
    }

    /// `bay.bdev/1`: what the bus offers to modules.
    open struct bay_bdev_api {
        /// Size of this struct as the host was compiled, in bytes.
        size: u32,
        /// Zero.
        flags: u32,
        /// Puts a bdev on the bus.
        register: Option<bay_bdev_register_fn>,
        /// Takes it off.
        unregister: Option<bay_bdev_unregister_fn>,
        /// Ends a pending destruct.
        destruct_done: Option<bay_bdev_destruct_done_fn>,
        /// Ends a pending channel creation.
        chan_ready: Option<bay_bdev_chan_ready_fn>,
        /// Ends a pending channel destruction.
        chan_closed: Option<bay_bdev_chan_closed_fn>,
        /// Tells a new size.
        resize: Option<bay_bdev_resize_fn>,
        /// Wakes what waits for resources.
        kick: Option<bay_bdev_kick_fn>,
        /// Holds back I/O.
        quiesce: Option<bay_bdev_quiesce_fn>,
        /// Lets it go: the range of one `quiesce`.
        unquiesce: Option<bay_bdev_quiesce_fn>,
        /// Ends an `examine_disk`.
        examine_done: Option<bay_examine_done_fn>,
        /// Reserves a name.
        reserve: Option<bay_bdev_reserve_fn>,
        /// Ends a reservation.
        release: Option<bay_bdev_release_fn>,
        /// Changes the other names.
        alias: Option<bay_bdev_alias_fn>,
        /// Tells of blocks that lost their data.
        media: Option<bay_bdev_media_fn>,
    }

    /// `bay.bdev_client/1`: what the bus offers to those who do I/O.
    open struct bay_bdev_client_api {
        /// Size of this struct as the host was compiled, in bytes.
        size: u32,
        /// Zero.
        flags: u32,
        /// Opens a bdev.
        open: Option<bay_client_open_fn>,
        /// Closes it.
        close: Option<bay_client_close_fn>,
        /// What is known of it.
        info: Option<bay_client_info_fn>,
        /// Claims it.
        claim: Option<bay_client_claim_fn>,
        /// Gives the claim back.
        unclaim: Option<bay_client_unclaim_fn>,
        /// Gets a channel.
        chan_get: Option<bay_client_chan_get_fn>,
        /// Puts it.
        chan_put: Option<bay_client_chan_put_fn>,
        /// Gets an I/O.
        io_get: Option<bay_client_io_get_fn>,
        /// Puts an unsubmitted one.
        io_put: Option<bay_client_io_put_fn>,
        /// Derives a child.
        io_derive: Option<bay_client_io_derive_fn>,
        /// Submits.
        submit: Option<bay_client_submit_fn>,
        /// Ends a parent from its child.
        complete_from: Option<bay_client_complete_from_fn>,
        /// Ends a burst.
        flush: Option<bay_client_flush_fn>,
        /// Passes on.
        pass: Option<bay_client_pass_fn>,
        /// Waits for an I/O no longer.
        io_abort: Option<bay_client_io_abort_fn>,
        /// Derives a child with a part of the data.
        io_derive_part: Option<bay_client_io_derive_part_fn>,
        /// Which blocks lost their data.
        media_next: Option<bay_client_media_fn>,
    }

    /// `bay.bdev_module/1`: what a plugin with bdev modules may offer to the host; every function may be NULL.
    open struct bay_bdev_module {
        /// Size of this struct as the plugin was compiled, in bytes.
        size: u32,
        /// Zero.
        flags: u32,
        /// A bdev was registered.
        examine_config: Option<bay_examine_config_fn>,
        /// The same, with I/O.
        examine_disk: Option<bay_examine_disk_fn>,
        /// Configuration that belongs to no single bdev.
        write_config: Option<bay_module_config_fn>,
        /// The host ends.
        fini_start: Option<bay_module_fini_start_fn>,
    }
}

impl bay_io {
    /// All zero: what is filled next.
    pub const EMPTY: Self = Self {
        op: 0,
        iovcnt: 0,
        flags: 0,
        lba: 0,
        nblocks: 0,
        iov: ptr::null(),
        done: None,
        drv_ctx: ptr::null_mut(),
        link: ptr::null_mut(),
        ext: ptr::null(),
        md: ptr::null_mut(),
        md_len: 0,
        md_region: 0,
        detail: 0,
        detail_kind: 0,
        prio: 0,
        holds: 0,
        arg_len: 0,
        arg: [0; 2],
        id: 0,
        rsv1: 0,
    };
}

const _: () = assert!(size_of::<bay_iov>() == 16);
const _: () = assert!(size_of::<bay_io>() == 128);
const _: () = assert!(size_of::<bay_zone>() == 32);
