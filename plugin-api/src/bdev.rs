//! Block devices: the I/O request, the functions a module implements, and the functions the bus offers to modules and clients.

use crate::door::{bay_cb_fn, bay_host, bay_sink, bay_str};
use crate::layout::{functions, structs};
use core::ffi::c_void;
use core::ptr;

/// Must-understand flag: the data is durable before the I/O completes (force unit access).
pub const BAY_IO_FUA: u32 = 1 << 16;

/// In `holds`: a device or the kernel may still access the buffers.
pub const BAY_HELD_BY_DEVICE: u16 = 1 << 15;

/// `detail_kind`: `detail` is unused.
pub const BAY_DETAIL_NONE: u8 = 0;
/// `detail` is an NVMe status: bits 0-31 cdw0, 32-34 sct, 40-47 sc, 48 dnr, 49 more, 50-51 crd.
pub const BAY_DETAIL_NVME: u8 = 1;
/// `detail` is a SCSI status: byte 0 status, 1 sense key, 2 asc, 3 ascq.
pub const BAY_DETAIL_SCSI: u8 = 2;
/// `detail` is the byte offset of the first difference.
pub const BAY_DETAIL_OFFSET: u8 = 3;
/// `detail` is a block number or a number of zones, depending on the op.
pub const BAY_DETAIL_BLOCK: u8 = 4;

/// Registration flag: the device has a volatile write cache, so a flush has an effect.
pub const BAY_BDEV_WRITE_CACHE: u32 = 1;
/// Registration flag: the bdev refuses every op that writes.
pub const BAY_BDEV_READ_ONLY: u32 = 2;
/// Registration flag: the bdev is a filter over `base`.
pub const BAY_BDEV_FILTER: u32 = 4;
/// Registration flag: the bdev discards written data, and a read does not change its buffers.
/// A client that passes read data on must clear the buffers before the read.
pub const BAY_BDEV_NO_DATA: u32 = 8;
/// Registration flag: blocks that an unmap has deallocated read as zeroes. An unmap may still leave blocks unchanged.
pub const BAY_BDEV_UNMAPPED_ZEROES: u32 = 16;

/// `open`: writes are allowed.
pub const BAY_OPEN_WRITE: u32 = 1;

/// Event: the bdev is being removed. Close the descriptor as soon as its I/O has completed.
pub const BAY_EVENT_REMOVE: u32 = 0;
/// Event: the size changed. `value` is the new number of blocks.
pub const BAY_EVENT_RESIZE: u32 = 1;
/// Event: some blocks lost their data. `value` is the number of ranges that `media_next` will return.
pub const BAY_EVENT_MEDIA: u32 = 2;

/// Claim: only this descriptor may write.
pub const BAY_CLAIM_EXCL_WRITE: u32 = 1;
/// Claim: many descriptors may read, only this one may write.
pub const BAY_CLAIM_READ_MANY_WRITE_ONE: u32 = 2;
/// Claim: many descriptors may read, none may write.
pub const BAY_CLAIM_READ_MANY_WRITE_NONE: u32 = 3;
/// Claim: many descriptors may read, those that claimed with the same key may write.
pub const BAY_CLAIM_READ_MANY_WRITE_SHARED: u32 = 4;

functions! {
    /// Completes one I/O, exactly once. The module must not touch `io` afterwards. `[thread of the submit]`
    fn bay_done_fn(io: *mut bay_io, status: i32);
    /// Starts one I/O and returns at once. The module owns `io` until it calls `io->done`. `[reactor]`
    fn bay_submit_fn(chan: *mut c_void, io: *mut bay_io);
    /// A burst of submits has ended. The module rings its doorbell here, once for the burst. `[reactor]`
    fn bay_flush_fn(chan: *mut c_void);
    /// Creates the channel of one thread. Returns 0, a negative errno, or 1 for "pending"; if pending, the module
    /// calls `chan_ready` later. `[reactor]`
    fn bay_chan_create_fn(bdev: *mut c_void, args: *const bay_chan_args, chan: *mut *mut c_void) -> i32;
    /// Destroys a channel that has no I/O outstanding. Returns 0, or 1 for "pending"; if pending, the module calls
    /// `chan_closed` later. `[reactor]`
    fn bay_chan_destroy_fn(bdev: *mut c_void, chan: *mut c_void) -> i32;
    /// Frees a bdev. It is unregistered, and all its descriptors and channels are closed. Returns 0, or 1 for
    /// "pending"; if pending, the module calls `destruct_done` later. `[thread of the registration]`
    fn bay_destruct_fn(bdev: *mut c_void) -> i32;
    /// Writes the bdev's part of a JSON text into the sink. `[thread of the registration]`
    fn bay_dump_fn(bdev: *mut c_void, sink: *const bay_sink);
    /// Resets the module's own counters to zero. `[thread of the registration]`
    fn bay_reset_stats_fn(bdev: *mut c_void);
    /// Writes the size of the pool that the bdev takes its space from, and the free part of it, in blocks of the bdev. Writes
    /// nothing when there is no pool or its size is unknown. Returns at once. `[any reactor, also several at once]`
    fn bay_space_fn(bdev: *mut c_void, total: *mut u64, free: *mut u64);

    /// Registers a bdev on the bus and stores its handle. Returns 0 or a negative errno. `[app thread]`
    fn bay_bdev_register_fn(host: *const bay_host, reg: *const bay_bdev_reg, id: *mut u64) -> i32;
    /// Unregisters a bdev. The host notifies its clients, waits for its I/O, calls `destruct`, then `done`. `[app thread]`
    fn bay_bdev_unregister_fn(host: *const bay_host, id: u64, done: Option<bay_cb_fn>, arg: *mut c_void) -> i32;
    /// Reports that a pending `destruct` has finished. `[app thread]`
    fn bay_bdev_destruct_done_fn(host: *const bay_host, id: u64, status: i32);
    /// Reports that a pending `chan_create` has finished. `[thread of the channel]`
    fn bay_bdev_chan_ready_fn(host: *const bay_host, host_chan: u64, chan: *mut c_void, status: i32);
    /// Reports that a pending `chan_destroy` has finished. `[thread of the channel]`
    fn bay_bdev_chan_closed_fn(host: *const bay_host, host_chan: u64);
    /// Reserves `name` and a UUID for a bdev that this plugin registers later, such as a filter that
    /// waits for its base. No other plugin can use them until `release` or the end of this plugin. `uuid`
    /// points to 16 bytes; if it is NULL or all bytes are zero, the host reserves the UUID that it derives
    /// from the name. -EEXIST when the name or the UUID is taken. `[app thread]`
    fn bay_bdev_reserve_fn(host: *const bay_host, name: bay_str, uuid: *const u8) -> i32;
    /// Releases the reservation of `name`. -ENOENT when there is no such reservation. `[app thread]`
    fn bay_bdev_release_fn(host: *const bay_host, name: bay_str) -> i32;
    /// Changes the size of the bdev. -EBUSY when the bdev is open and would shrink. `[app thread]`
    fn bay_bdev_resize_fn(host: *const bay_host, id: u64, num_blocks: u64) -> i32;
    /// A resource is free again: the host resubmits the I/O that waits on this channel. `[thread of the channel]`
    fn bay_bdev_kick_fn(host: *const bay_host, host_chan: u64);
    /// `quiesce` holds back the I/O of a range of blocks, `unquiesce` releases it. 0 and 0 mean the whole bdev.
    /// The host calls `done` when the module has no I/O of the range (`quiesce`), or when that I/O continues
    /// (`unquiesce`). `[app thread]`
    fn bay_bdev_quiesce_fn(host: *const bay_host, id: u64, lba: u64, nblocks: u64, done: Option<bay_cb_fn>, arg: *mut c_void) -> i32;

    /// Adds an alias to a bdev (`add` = 1) or removes one (0). -EEXIST when the name is taken, -ENOENT when the bdev
    /// does not have it. `[app thread]`
    fn bay_bdev_alias_fn(host: *const bay_host, id: u64, alias: bay_str, add: u32) -> i32;
    /// Notifies every client that has the bdev open that these blocks lost their data (`BAY_EVENT_MEDIA`). `[app thread]`
    fn bay_bdev_media_fn(host: *const bay_host, id: u64, lba: u64, nblocks: u64) -> i32;

    /// Reports an event of an open bdev. `event` is `BAY_EVENT_*`. `[thread of the open]`
    fn bay_bdev_event_fn(arg: *mut c_void, event: u32, value: u64);
    /// Tells the client that one I/O has completed. When the callback returns, the host owns `io` again. `[thread of the submit]`
    fn bay_io_cb_fn(arg: *mut c_void, io: *mut bay_io, status: i32);
    /// The resource that the waiter queued for is available. `[thread of the wait]`
    fn bay_wait_fn(arg: *mut c_void);
    /// Opens a bdev by name, alias or UUID. `[app thread]`
    fn bay_client_open_fn(host: *const bay_host, name: bay_str, flags: u32, event: Option<bay_bdev_event_fn>, arg: *mut c_void, desc: *mut u64) -> i32;
    /// Closes a descriptor. The caller must have released its channels. `[thread of the open]`
    fn bay_client_close_fn(host: *const bay_host, desc: u64) -> i32;
    /// Fills `info`. The caller must set `info->size` before the call. `[any reactor]`
    fn bay_client_info_fn(host: *const bay_host, desc: u64, info: *mut bay_bdev_info) -> i32;
    /// Claims the bdev for a descriptor. `kind` is `BAY_CLAIM_*`. -EPERM when another claim conflicts. `[app thread]`
    fn bay_client_claim_fn(host: *const bay_host, desc: u64, kind: u32, key: u64) -> i32;
    /// Releases the claim of a descriptor. `[app thread]`
    fn bay_client_unclaim_fn(host: *const bay_host, desc: u64) -> i32;
    /// Gets the current thread's channel of the bdev and counts the reference. `[reactor]`
    fn bay_client_chan_get_fn(host: *const bay_host, desc: u64, chan: *mut u64) -> i32;
    /// Releases a channel. Its I/O must have completed. `[thread of the get]`
    fn bay_client_chan_put_fn(host: *const bay_host, chan: u64) -> i32;
    /// Returns an I/O to fill and submit. Returns NULL when the limit is reached; then the host queues `wait`, if it
    /// is not NULL. `[thread of the channel]`
    fn bay_client_io_get_fn(host: *const bay_host, chan: u64, wait: *mut bay_wait) -> *mut bay_io;
    /// Returns an I/O that was not submitted to the host. `[thread of the channel]`
    fn bay_client_io_put_fn(host: *const bay_host, io: *mut bay_io);
    /// Returns a child of `parent` on another channel, with all fields copied. NULL only when the channel is not the
    /// current thread's. `[thread of the channel]`
    fn bay_client_io_derive_fn(host: *const bay_host, chan: u64, parent: *mut bay_io) -> *mut bay_io;
    /// As `io_derive`, but the child has only the data and metadata of `nblocks` blocks of the parent, from its block
    /// `first` on. Also NULL when the parent does not have these blocks. `[thread of the channel]`
    fn bay_client_io_derive_part_fn(host: *const bay_host, chan: u64, parent: *mut bay_io, first: u64, nblocks: u64) -> *mut bay_io;
    /// Submits an I/O. The host calls `cb` exactly once, during the call or later. `iov` must stay valid until then.
    /// `[thread of the channel]`
    fn bay_client_submit_fn(host: *const bay_host, io: *mut bay_io, cb: Option<bay_io_cb_fn>, arg: *mut c_void);
    /// Removes and returns the oldest range of lost blocks that this descriptor has not returned yet. 0, or -ENOENT when there is none.
    /// `[thread of the open]`
    fn bay_client_media_fn(host: *const bay_host, desc: u64, lba: *mut u64, nblocks: *mut u64) -> i32;
    /// Completes `parent` with a child's status and detail. Call it from the child's callback. `[thread of the submit]`
    fn bay_client_complete_from_fn(host: *const bay_host, parent: *mut bay_io, child: *mut bay_io, status: i32);
    /// Tells the module of the bdev that a burst of submits has ended. `[thread of the channel]`
    fn bay_client_flush_fn(host: *const bay_host, chan: u64);
    /// Passes an I/O that the host submitted to the caller's module on to another bdev. Only its first block changes,
    /// to `lba`. The host owns `io` from here on and completes it with the other bdev's status.
    /// `[thread of the channel]`
    fn bay_client_pass_fn(host: *const bay_host, chan: u64, io: *mut bay_io, lba: u64);
    /// Removes a waiter from the queue of `io_get`. 0, or -ENOENT when it is not queued. `[thread of the channel]`
    fn bay_client_io_abort_fn(host: *const bay_host, chan: u64, wait: *mut bay_wait) -> i32;

    /// Announces a new bdev. The module may open and claim it here, but must not do I/O. `[app thread]`
    fn bay_examine_config_fn(state: *mut c_void, name: bay_str);
    /// Announces a new bdev. The module may read it, and calls `examine_done(token)` when finished. `[app thread]`
    fn bay_examine_disk_fn(state: *mut c_void, name: bay_str, token: u64);
    /// Writes the module's configuration as comma-separated JSON objects `{"method":…,"params":…}`. `[app thread]`
    fn bay_module_config_fn(state: *mut c_void, sink: *const bay_sink);
    /// The host shuts down: the module closes the bdevs it has opened. `[app thread]`
    fn bay_module_fini_start_fn(state: *mut c_void);
    /// Reports that an `examine_disk` has finished. `[app thread]`
    fn bay_examine_done_fn(host: *const bay_host, token: u64);
}

structs! {
    /// One piece of a scatter/gather list.
    closed struct bay_iov {
        /// First byte.
        addr: *mut c_void,
        /// Length in bytes.
        len: u32,
        /// Memory region of the host that contains this piece; 0 = plain memory.
        region: u32,
    }

    /// One I/O request. The host owns it and lends it to the module from submit to `done`. The host keeps private data
    /// in front of it.
    closed align(64) struct bay_io {
        /// `BAY_OP_*`.
        op: u16,
        /// Number of elements of `iov`.
        iovcnt: u16,
        /// The low 16 bits are hints. A module that does not know one of the high 16 bits must refuse the request.
        flags: u32,
        /// First block.
        lba: u64,
        /// Number of blocks.
        nblocks: u64,
        /// Scatter/gather list. The host does not change it before `done`.
        iov: *const bay_iov,
        /// Completes the request. The host sets it.
        done: Option<bay_done_fn>,
        /// `drv_ctx_size` bytes for the module while the request is in flight, aligned to 64. Undefined contents at submit.
        drv_ctx: *mut c_void,
        /// For the module's use while the request is in flight.
        link: *mut c_void,
        /// Rare fields of the request, or NULL.
        ext: *const bay_io_ext,
        /// Separate metadata buffer, or NULL.
        md: *mut c_void,
        /// Length of `md` in bytes.
        md_len: u32,
        /// Memory region of `md`.
        md_region: u32,
        /// More about the result. `detail_kind` says what it contains.
        detail: u64,
        /// `BAY_DETAIL_*`.
        detail_kind: u8,
        /// Priority, 0 = none.
        prio: u8,
        /// How many others besides the module's code may access the buffers until `done`: child I/Os, and a device or the
        /// kernel (`BAY_HELD_BY_DEVICE`). Zero at submit; the module updates it while the request is in flight. When a module
        /// has failed, the host completes its requests, except those where this number is not zero.
        holds: u16,
        /// Length of the bytes that `arg` points to, if the op uses it as a pointer.
        arg_len: u32,
        /// Arguments of the op; see `BAY_OP_*`.
        arg: [u64; 2],
        /// Identifies the request for an abort (slot and generation).
        id: u64,
        /// Zero.
        rsv1: u64,
    }

    /// One zone, as `BAY_OP_ZONE_REPORT` reports it.
    closed struct bay_zone {
        /// First block.
        lba: u64,
        /// Number of blocks that can be written.
        capacity: u64,
        /// The next block to write.
        write_pointer: u64,
        /// State, numbered as `ZS` in the Zone Descriptor of the NVM Express Zoned Namespace Command Set 1.1.
        state: u8,
        /// Type, numbered as `ZT` in the same structure.
        kind: u8,
        /// Zero.
        rsv: [u8; 6],
    }

    /// Rarely used fields of a request. Draft: no field is valid yet.
    open struct bay_io_ext {
        /// Size of this struct, in bytes.
        size: u32,
        /// Bit mask of the fields that are set.
        valid: u32,
        /// Trace id.
        trace_id: u64,
    }

    /// What `chan_create` receives.
    open struct bay_chan_args {
        /// Size of this struct, in bytes.
        size: u32,
        /// NUMA node of the thread, -1 = any.
        numa: i32,
        /// The lightweight thread that owns the channel.
        thread: u64,
        /// The host's handle of the channel, for `kick`, `chan_ready` and `chan_closed`.
        host_chan: u64,
        /// State handed over by an older instance. Always NULL: the host does not hand over state yet.
        handover: *const c_void,
    }

    /// The functions of a bdev. The host calls a channel only on the channel's thread. It never calls `submit`, `flush`
    /// or `chan_destroy` of a channel while another of the three is running. It may call them while the module itself is
    /// calling the host from elsewhere, such as `done` from a poller.
    open struct bay_bdev_ops {
        /// Size of this struct as the plugin was compiled, in bytes.
        size: u32,
        /// Zero.
        flags: u32,
        /// Starts an I/O. Required.
        submit: Option<bay_submit_fn>,
        /// Ends a burst; may be NULL.
        flush: Option<bay_flush_fn>,
        /// Creates a thread's channel. Required.
        chan_create: Option<bay_chan_create_fn>,
        /// Destroys a channel. Required.
        chan_destroy: Option<bay_chan_destroy_fn>,
        /// Frees the bdev. Required.
        destruct: Option<bay_destruct_fn>,
        /// Writes the members of `driver_specific` in `bdev_get_bdevs`, as one JSON object; may be NULL.
        dump_info: Option<bay_dump_fn>,
        /// Writes the RPC call that creates this bdev again, as `{"method":…,"params":…}`; may be NULL.
        write_config: Option<bay_dump_fn>,
        /// Writes the module's own counters as one JSON object; may be NULL.
        dump_stats: Option<bay_dump_fn>,
        /// Resets the module's own counters; may be NULL.
        reset_stats: Option<bay_reset_stats_fn>,
        /// Reports the space of the pool that the bdev takes its space from; may be NULL.
        space: Option<bay_space_fn>,
    }

    /// Describes a bdev to the bus. `register` copies texts and lists.
    open struct bay_bdev_reg {
        /// Size of this struct as the plugin was compiled, in bytes.
        size: u32,
        /// `BAY_BDEV_*`.
        flags: u32,
        /// First argument of `destruct` and of the other functions that get a bdev.
        ctx: *mut c_void,
        /// The bdev's functions. The table must stay valid until the bdev is destructed.
        ops: *const bay_bdev_ops,
        /// Name, unique on the bus.
        name: bay_str,
        /// Product name, as `bdev_get_bdevs` shows it.
        product: bay_str,
        /// Aliases, or NULL.
        aliases: *const bay_str,
        /// Number of aliases.
        naliases: u32,
        /// Block size in bytes. Includes the metadata if it is interleaved.
        block_size: u32,
        /// Capacity in blocks.
        num_blocks: u64,
        /// UUID. If all bytes are zero, the bus derives one from the name.
        uuid: [u8; 16],
        /// Physical block size in bytes; 0 = `block_size`.
        phys_block_size: u32,
        /// Write unit in blocks: the length of a write must be a multiple of it. 0 = 1.
        write_unit: u32,
        /// Number of blocks that the device writes completely or not at all; 0 = 1.
        atomic_write_unit: u32,
        /// Required alignment of buffers in bytes, a power of two; 0 = 1. The bus copies unaligned data into a bounce buffer.
        align: u32,
        /// The bus splits I/O at multiples of this many blocks; 0 = never.
        optimal_boundary: u32,
        /// Maximum number of elements of a scatter/gather list; 0 = no limit. The bus splits longer I/O.
        max_segments: u32,
        /// Maximum bytes in one element; 0 = no limit.
        max_segment_size: u32,
        /// Maximum blocks of one read or write; 0 = no limit.
        max_io_blocks: u32,
        /// Maximum blocks of one unmap; 0 = no limit.
        max_unmap: u32,
        /// Maximum blocks of one write zeroes; 0 = no limit.
        max_write_zeroes: u32,
        /// Maximum blocks of one copy. Not supported yet: must be 0, no limit.
        max_copy: u32,
        /// Metadata bytes per block.
        md_size: u32,
        /// 1 = the metadata follows each block's data, 0 = it is in a separate buffer.
        md_interleave: u8,
        /// T10 DIF type 0 to 3.
        dif_type: u8,
        /// 1 = the protection information is at the start of the metadata, 0 = at its end.
        dif_is_head: u8,
        /// 0 = 16 bit guard, 1 = 32, 2 = 64.
        dif_pi_format: u8,
        /// Bit mask of the protection information checks. Not supported yet: must be 0.
        dif_check_flags: u32,
        /// NUMA node, -1 = any.
        numa: i32,
        /// Namespace id of an NVMe bdev. Not supported yet: must be 0.
        nsid: u32,
        /// How long the bus waits for I/O in flight before it submits a reset to the module, in milliseconds. Not supported
        /// yet: must be 0.
        reset_drain_ms: u32,
        /// 1 = buffers must be in the host's DMA regions. Not supported yet: must be 0, and the module copies other data itself.
        needs_dma: u32,
        /// Bit `1 << BAY_OP_*` for each op that the module accepts.
        ops_mask: u64,
        /// Must-understand flags that the module accepts.
        must_flags: u32,
        /// Filters: how many children of one I/O may be in flight at once. A hint: the host never refuses a child.
        max_children: u32,
        /// Size of `drv_ctx`, in bytes.
        drv_ctx_size: u32,
        /// Zero.
        rsv0: u32,
        /// Name of the base bdev of a filter.
        base: bay_str,
        /// Blocks per zone; 0 = not zoned. `num_blocks` is a multiple of it. A zoned bdev accepts `BAY_OP_ZONE_REPORT`. The
        /// bus sends the parts of a split write one after another, because a zone is written in order.
        zone_size: u64,
        /// Maximum number of open zones; 0 = no limit.
        max_open_zones: u32,
        /// Maximum number of active zones; 0 = no limit.
        max_active_zones: u32,
        /// Number of zones that should be open at once for the best speed; 0 = unknown.
        optimal_open_zones: u32,
        /// Maximum blocks of one zone append; 0 = no limit. The bus refuses longer ones, and those longer than
        /// `max_io_blocks` or `max_segment_size`.
        max_zone_append: u32,
    }

    /// What the bus tells a client about an open bdev.
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
        /// Ops that a client may submit: those of the module and those that the bus emulates.
        ops_mask: u64,
        /// UUID.
        uuid: [u8; 16],
        /// Write unit in blocks.
        write_unit: u32,
        /// Number of blocks that the device writes completely or not at all.
        atomic_write_unit: u32,
        /// Required alignment of buffers in bytes.
        align: u32,
        /// The bus splits I/O at multiples of this many blocks; 0 = never.
        optimal_boundary: u32,
        /// Metadata bytes per block.
        md_size: u32,
        /// 1 = the metadata follows each block's data, 0 = it is in a separate buffer.
        md_interleave: u8,
        /// T10 DIF type 0 to 3.
        dif_type: u8,
        /// 1 = the protection information is at the start of the metadata, 0 = at its end.
        dif_is_head: u8,
        /// 0 = 16 bit guard, 1 = 32, 2 = 64.
        dif_pi_format: u8,
        /// NUMA node, -1 = any.
        numa: i32,
        /// Must-understand flags that a client may set, including those that the bus emulates.
        must_flags: u32,
        /// Name of the bdev; valid while the descriptor is open.
        name: bay_str,
        /// Size of the pool that the bdev takes its space from, in blocks of the bdev; 0 = none, or unknown.
        pool_blocks: u64,
        /// Free blocks of the pool now. Other bdevs may take them, too.
        pool_free: u64,
        /// Blocks per zone; 0 = not zoned.
        zone_size: u64,
        /// Maximum number of open zones; 0 = no limit.
        max_open_zones: u32,
        /// Maximum number of active zones; 0 = no limit.
        max_active_zones: u32,
        /// Number of zones that should be open at once for the best speed; 0 = unknown.
        optimal_open_zones: u32,
        /// Maximum blocks of one zone append; 0 = not zoned.
        max_zone_append: u32,
    }

    /// An entry of a wait queue. The memory belongs to the waiter; the host links it until it calls `cb`.
    closed struct bay_wait {
        /// Called when the resource is available.
        cb: Option<bay_wait_fn>,
        /// Argument of `cb`.
        arg: *mut c_void,
        /// For the host's use while the entry is queued.
        link: *mut c_void,
        /// Zero.
        rsv: u64,
    }

    /// `bay.bdev/1`: the functions of the bus for modules.
    open struct bay_bdev_api {
        /// Size of this struct as the host was compiled, in bytes.
        size: u32,
        /// Zero.
        flags: u32,
        /// Registers a bdev.
        register: Option<bay_bdev_register_fn>,
        /// Unregisters a bdev.
        unregister: Option<bay_bdev_unregister_fn>,
        /// Finishes a pending `destruct`.
        destruct_done: Option<bay_bdev_destruct_done_fn>,
        /// Finishes a pending `chan_create`.
        chan_ready: Option<bay_bdev_chan_ready_fn>,
        /// Finishes a pending `chan_destroy`.
        chan_closed: Option<bay_bdev_chan_closed_fn>,
        /// Changes the size of a bdev.
        resize: Option<bay_bdev_resize_fn>,
        /// Resubmits the I/O that waits for a resource of the module.
        kick: Option<bay_bdev_kick_fn>,
        /// Holds back the I/O of a range.
        quiesce: Option<bay_bdev_quiesce_fn>,
        /// Releases the I/O that one `quiesce` holds back; the range must be the same.
        unquiesce: Option<bay_bdev_quiesce_fn>,
        /// Finishes an `examine_disk`.
        examine_done: Option<bay_examine_done_fn>,
        /// Reserves a name and a UUID.
        reserve: Option<bay_bdev_reserve_fn>,
        /// Releases a reservation.
        release: Option<bay_bdev_release_fn>,
        /// Adds or removes an alias.
        alias: Option<bay_bdev_alias_fn>,
        /// Reports blocks that lost their data.
        media: Option<bay_bdev_media_fn>,
    }

    /// `bay.bdev_client/1`: the functions of the bus for clients that do I/O.
    open struct bay_bdev_client_api {
        /// Size of this struct as the host was compiled, in bytes.
        size: u32,
        /// Zero.
        flags: u32,
        /// Opens a bdev.
        open: Option<bay_client_open_fn>,
        /// Closes a descriptor.
        close: Option<bay_client_close_fn>,
        /// Describes an open bdev.
        info: Option<bay_client_info_fn>,
        /// Claims an open bdev.
        claim: Option<bay_client_claim_fn>,
        /// Releases a claim.
        unclaim: Option<bay_client_unclaim_fn>,
        /// Gets the current thread's channel.
        chan_get: Option<bay_client_chan_get_fn>,
        /// Releases a channel.
        chan_put: Option<bay_client_chan_put_fn>,
        /// Gets an I/O to fill and submit.
        io_get: Option<bay_client_io_get_fn>,
        /// Returns an I/O that was not submitted.
        io_put: Option<bay_client_io_put_fn>,
        /// Derives a child I/O from a parent.
        io_derive: Option<bay_client_io_derive_fn>,
        /// Submits an I/O.
        submit: Option<bay_client_submit_fn>,
        /// Completes a parent with its child's status.
        complete_from: Option<bay_client_complete_from_fn>,
        /// Ends a burst of submits.
        flush: Option<bay_client_flush_fn>,
        /// Passes an I/O on to another bdev.
        pass: Option<bay_client_pass_fn>,
        /// Removes a waiter from the queue of `io_get`.
        io_abort: Option<bay_client_io_abort_fn>,
        /// Derives a child I/O with a part of the parent's data.
        io_derive_part: Option<bay_client_io_derive_part_fn>,
        /// Returns a range of blocks that lost their data.
        media_next: Option<bay_client_media_fn>,
    }

    /// `bay.bdev_module/1`: a plugin with bdev modules may offer this table to the host. Every function may be NULL.
    open struct bay_bdev_module {
        /// Size of this struct as the plugin was compiled, in bytes.
        size: u32,
        /// Zero.
        flags: u32,
        /// A bdev was registered; no I/O allowed.
        examine_config: Option<bay_examine_config_fn>,
        /// A bdev was registered; I/O allowed.
        examine_disk: Option<bay_examine_disk_fn>,
        /// Writes the configuration that belongs to no single bdev.
        write_config: Option<bay_module_config_fn>,
        /// The host shuts down.
        fini_start: Option<bay_module_fini_start_fn>,
    }
}

impl bay_io {
    /// All fields zero, to be filled by the caller.
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
