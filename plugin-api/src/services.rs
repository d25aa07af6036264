//! The host's services: threads, pollers, io_devices, buffers, memory, RPC, broker, notifications.

use crate::bdev::bay_wait;
use crate::door::{bay_cb_fn, bay_host, bay_sink, bay_str};
use crate::layout::{functions, structs};
use core::ffi::c_void;

/// RPC state: may be called before `framework_start_init`.
pub const BAY_RPC_STARTUP: u32 = 1;
/// RPC state: may be called after it.
pub const BAY_RPC_RUNTIME: u32 = 2;

/// Region state: the memory is there.
pub const BAY_REGION_LIVE: u32 = 1;
/// Region state: imported, such as a guest's memory. Else it is the host's own DMA memory.
pub const BAY_REGION_IMPORTED: u32 = 2;
/// Region state: it is being removed. Submit no I/O to it, and release what depends on it.
pub const BAY_REGION_LEAVING: u32 = 4;
/// Region state: its owner took pages away. It reads as zeroes and what is written is lost.
pub const BAY_REGION_BROKEN: u32 = 8;

functions! {
    /// A message. `[thread it was sent to]`
    fn bay_msg_fn(arg: *mut c_void);
    /// One round of a poller: more than 0 when it did something. `[thread of the poller]`
    fn bay_poll_fn(ctx: *mut c_void) -> i32;
    /// When the poller must run next, on the host's clock in nanoseconds; `u64::MAX` = when woken. `[thread of the poller]`
    fn bay_poller_next_fn(ctx: *mut c_void) -> u64;
    /// The thread sleeps no more. `[thread of the poller]`
    fn bay_poller_woke_fn(ctx: *mut c_void);

    /// The current lightweight thread, 0 outside of one. `[any thread]`
    fn bay_thread_current_fn(host: *const bay_host) -> u64;
    /// The thread on which the control plane runs. `[any thread]`
    fn bay_thread_app_fn(host: *const bay_host) -> u64;
    /// The first core after `after` that has a reactor (-1 begins), or -1. `[any thread]`
    fn bay_thread_next_core_fn(host: *const bay_host, after: i32) -> i32;
    /// Makes a lightweight thread; `cpumask` as `0x3` or `[0,1]`, empty = any. `[any reactor]`
    fn bay_thread_create_fn(host: *const bay_host, name: bay_str, cpumask: bay_str, thread: *mut u64) -> i32;
    /// Ends the current thread once its pollers and channels are gone. `[thread itself]`
    fn bay_thread_exit_fn(host: *const bay_host, thread: u64) -> i32;
    /// Moves a thread. `[any reactor]`
    fn bay_thread_set_cpumask_fn(host: *const bay_host, thread: u64, cpumask: bay_str) -> i32;
    /// Sends an intrusive message; the memory is the receiver's until it is called. Cannot fail for a live thread. `[any thread]`
    fn bay_thread_send_fn(host: *const bay_host, thread: u64, msg: *mut bay_msg) -> i32;
    /// The host's clock in nanoseconds, cached once a round on a reactor. `[any thread]`
    fn bay_now_ns_fn(host: *const bay_host) -> u64;

    /// Adds a poller to the current thread; `period_us` 0 = every round. Returns 0 and its handle. `[reactor]`
    fn bay_poller_register_fn(host: *const bay_host, ops: *const bay_poller_ops, ctx: *mut c_void, period_us: u64, name: bay_str, poller: *mut u64) -> i32;
    /// Removes, pauses or resumes a poller, also from inside its own run. `[thread of the poller]`
    fn bay_poller_fn(host: *const bay_host, poller: u64) -> i32;
    /// Adds (`events` as poll(2)'s) or removes (`events` 0) a file descriptor that ends the thread's sleep. `[thread of the poller]`
    fn bay_poller_wake_fd_fn(host: *const bay_host, poller: u64, fd: i32, events: u32) -> i32;

    /// Makes one thread's state of an io_device in `ctx_size` zeroed bytes. `[reactor]`
    fn bay_io_device_create_fn(device: *mut c_void, chan: *mut c_void) -> i32;
    /// Ends one thread's state. `[thread of the channel]`
    fn bay_io_device_destroy_fn(device: *mut c_void, chan: *mut c_void);
    /// Registers an io_device. `[app thread]`
    fn bay_io_device_register_fn(host: *const bay_host, ctx: *mut c_void, create: Option<bay_io_device_create_fn>, destroy: Option<bay_io_device_destroy_fn>, ctx_size: u32, name: bay_str, device: *mut u64) -> i32;
    /// Unregisters it; `done` when the last channel has gone. `[app thread]`
    fn bay_io_device_unregister_fn(host: *const bay_host, device: u64, done: Option<bay_cb_fn>, arg: *mut c_void) -> i32;
    /// The current thread's channel, counted; NULL when `create` failed. `[reactor]`
    fn bay_io_device_chan_get_fn(host: *const bay_host, device: u64, chan: *mut u64) -> *mut c_void;
    /// Gives it back. `[thread of the get]`
    fn bay_io_device_chan_put_fn(host: *const bay_host, chan: u64);

    /// A buffer of at least `len` bytes, 4096-aligned, in a DMA region; NULL = none: `wait`, if not NULL, is queued. `[reactor]`
    fn bay_buf_get_fn(host: *const bay_host, len: u32, region: *mut u32, wait: *mut bay_wait) -> *mut c_void;
    /// Gives a buffer back; `len` as asked for. `[reactor]`
    fn bay_buf_put_fn(host: *const bay_host, buf: *mut c_void, len: u32);
    /// Leaves the queue of waiters. `[thread of the wait]`
    fn bay_buf_abort_fn(host: *const bay_host, wait: *mut bay_wait);
    /// The pool that buffers of `len` bytes come from: stores the size of its buffers in bytes, and how many of them one thread can always get when nobody else holds any. -EINVAL: no pool has buffers of that size. `[any thread]`
    fn bay_buf_pool_fn(host: *const bay_host, len: u32, size: *mut u32, count: *mut u64) -> i32;

    /// Zeroed memory that devices can reach; aligned to `align` (a power of two). NULL = none. `[control]`
    fn bay_mem_alloc_fn(host: *const bay_host, len: u64, align: u64, numa: i32, region: *mut u32) -> *mut c_void;
    /// Frees it. `[control]`
    fn bay_mem_free_fn(host: *const bay_host, addr: *mut c_void, len: u64);
    /// Makes part of an allocation read as zeroes, and returns its whole pages to the system unless the host uses hugepages. The time grows with `len`: zero about 1 MiB a round. 0 or -EINVAL. `[any thread]`
    fn bay_mem_zero_fn(host: *const bay_host, addr: *mut c_void, len: u64) -> i32;
    /// Maps `len` bytes at `offset` of a shared file and stores the region's number. The file descriptor stays the caller's. -EINVAL when the file does not have these bytes or they are not whole pages. `[app thread]`
    fn bay_mem_region_import_fn(host: *const bay_host, fd: i32, offset: u64, len: u64, region: *mut u32) -> i32;
    /// Removes an imported region: watchers are told, and when each has released it the memory is unmapped; then `done`. `[app thread]`
    fn bay_mem_region_remove_fn(host: *const bay_host, region: u32, done: Option<bay_cb_fn>, arg: *mut c_void) -> i32;
    /// The region that holds all of `len` bytes at `addr`; 0 = plain memory. Takes a lock: not for the data path. `[any thread]`
    fn bay_mem_region_of_fn(host: *const bay_host, addr: *const c_void, len: u64) -> u32;
    /// An imported region came, or goes. `[app thread]`
    fn bay_mem_region_changed_fn(ctx: *mut c_void, region: u32);
    /// Watches imported regions; those that are there are told soon. A region that goes stays mapped until `region_release`. `[app thread]`
    fn bay_mem_watch_fn(host: *const bay_host, added: Option<bay_mem_region_changed_fn>, removing: Option<bay_mem_region_changed_fn>, ctx: *mut c_void, watch: *mut u64) -> i32;
    /// Ends a watch; it has released every region. `[app thread]`
    fn bay_mem_unwatch_fn(host: *const bay_host, watch: u64) -> i32;
    /// The watcher has let go of a region that is being removed. `[any thread]`
    fn bay_mem_region_release_fn(host: *const bay_host, watch: u64, region: u32) -> i32;

    /// A call: `params` is JSON text, valid for the call. Answered exactly once by `reply` or `error`. `[app thread]`
    fn bay_rpc_call_fn(ctx: *mut c_void, req: u64, params: bay_str);
    /// Registers a method. -EEXIST when the name is taken. `[app thread]`
    fn bay_rpc_register_fn(host: *const bay_host, method: *const bay_rpc_method, id: *mut u64) -> i32;
    /// Unregisters a method; calls in flight may still be answered. `[app thread]`
    fn bay_rpc_unregister_fn(host: *const bay_host, id: u64) -> i32;
    /// Answers with a result, as JSON text. `[any thread]`
    fn bay_rpc_reply_fn(host: *const bay_host, req: u64, result: bay_str) -> i32;
    /// Answers with an error; `data` is JSON text or empty. `[any thread]`
    fn bay_rpc_error_fn(host: *const bay_host, req: u64, code: i32, message: bay_str, data: bay_str) -> i32;

    /// A provider goes away: release the reference soon. `[app thread]`
    fn bay_broker_revoked_fn(arg: *mut c_void);
    /// Offers a table under an id such as `bay.nvmf_target/1`. `[app thread]`
    fn bay_broker_provide_fn(host: *const bay_host, id: bay_str, table: *const c_void, handle: *mut u64) -> i32;
    /// Withdraws it; `done` when every reference was released. `[app thread]`
    fn bay_broker_withdraw_fn(host: *const bay_host, handle: u64, done: Option<bay_cb_fn>, arg: *mut c_void) -> i32;
    /// Another plugin's table, which stays valid until `release`; NULL when nobody provides it, though the host may have loaded what does. `[app thread]`
    fn bay_broker_acquire_fn(host: *const bay_host, id: bay_str, revoked: Option<bay_broker_revoked_fn>, arg: *mut c_void, reference: *mut u64) -> *const c_void;
    /// Gives a reference back. `[app thread]`
    fn bay_broker_release_fn(host: *const bay_host, reference: u64) -> i32;

    /// Appends an event for `notify_get_notifications`. `[any thread]`
    fn bay_notify_fn(host: *const bay_host, kind: bay_str, context: bay_str);
    /// Writes the plugin's part of the configuration of a subsystem: JSON objects, comma-separated. `[app thread]`
    fn bay_subsystem_config_fn(ctx: *mut c_void, sink: *const bay_sink);
    /// Declares that this plugin is (part of) a subsystem of `framework_get_subsystems`. `[app thread]`
    fn bay_subsystem_register_fn(host: *const bay_host, name: bay_str, config: Option<bay_subsystem_config_fn>, ctx: *mut c_void) -> i32;
    /// Ends an asynchronous stop: everything of the plugin is quiet. `[app thread]`
    fn bay_quiesce_begin_fn(state: *mut c_void, done: Option<bay_cb_fn>, arg: *mut c_void);
    /// The log level changed. `[app thread]`
    fn bay_log_changed_fn(state: *mut c_void);

    /// Work that may block. `[worker]`
    fn bay_job_fn(arg: *mut c_void);
    /// Queues a job for a worker. The job is the host's until its `done` is received. -EAGAIN when too many wait. `[any lightweight thread]`
    fn bay_worker_submit_fn(host: *const bay_host, job: *mut bay_job) -> i32;
    /// Takes a job back: 0 = it never runs and `done` is not sent, -EBUSY = it runs or has run. `[thread of the submit]`
    fn bay_worker_cancel_fn(host: *const bay_host, job: *mut bay_job) -> i32;
}

structs! {
    /// An intrusive message: the sender's memory until it is received.
    closed struct bay_msg {
        /// Called on the receiving thread.
        call: Option<bay_msg_fn>,
        /// Its argument.
        arg: *mut c_void,
        /// The host's while in flight.
        link: *mut c_void,
        /// Zero.
        rsv: u64,
    }

    /// What a poller does.
    open struct bay_poller_ops {
        /// Size of this struct as the plugin was compiled, in bytes.
        size: u32,
        /// Zero.
        flags: u32,
        /// One round. Required.
        run: Option<bay_poll_fn>,
        /// Arm the wake-ups, then look again: 0 = may sleep, more = there is work. NULL = only polled, the reactor never sleeps.
        prepare_sleep: Option<bay_poll_fn>,
        /// The sleep is over; may be NULL.
        woke: Option<bay_poller_woke_fn>,
        /// The next deadline; may be NULL.
        next_ns: Option<bay_poller_next_fn>,
    }

    /// `bay.thread/1`.
    open struct bay_thread_api {
        /// Size of this struct as the host was compiled, in bytes.
        size: u32,
        /// Zero.
        flags: u32,
        /// Current thread.
        current: Option<bay_thread_current_fn>,
        /// App thread.
        app_thread: Option<bay_thread_app_fn>,
        /// Walks the cores that have reactors.
        next_core: Option<bay_thread_next_core_fn>,
        /// Makes a thread.
        create: Option<bay_thread_create_fn>,
        /// Ends the current one.
        exit: Option<bay_thread_exit_fn>,
        /// Moves one.
        set_cpumask: Option<bay_thread_set_cpumask_fn>,
        /// Sends a message.
        send: Option<bay_thread_send_fn>,
        /// The clock.
        now_ns: Option<bay_now_ns_fn>,
    }

    /// `bay.poller/1`.
    open struct bay_poller_api {
        /// Size of this struct as the host was compiled, in bytes.
        size: u32,
        /// Zero.
        flags: u32,
        /// Adds a poller.
        register: Option<bay_poller_register_fn>,
        /// Removes it.
        unregister: Option<bay_poller_fn>,
        /// Pauses it.
        pause: Option<bay_poller_fn>,
        /// Resumes it.
        resume: Option<bay_poller_fn>,
        /// Its file descriptors.
        wake_fd: Option<bay_poller_wake_fd_fn>,
    }

    /// `bay.draft.io_device/1`: shared objects with one state per thread, apart from bdevs.
    open struct bay_io_device_api {
        /// Size of this struct as the host was compiled, in bytes.
        size: u32,
        /// Zero.
        flags: u32,
        /// Registers.
        register: Option<bay_io_device_register_fn>,
        /// Unregisters.
        unregister: Option<bay_io_device_unregister_fn>,
        /// Gets a channel.
        chan_get: Option<bay_io_device_chan_get_fn>,
        /// Puts it.
        chan_put: Option<bay_io_device_chan_put_fn>,
    }

    /// `bay.buf/1`: buffers from the host's pools, with a place in the queue.
    open struct bay_buf_api {
        /// Size of this struct as the host was compiled, in bytes.
        size: u32,
        /// Largest buffer, in bytes.
        max_len: u32,
        /// Gets one.
        get: Option<bay_buf_get_fn>,
        /// Puts it.
        put: Option<bay_buf_put_fn>,
        /// Leaves the queue.
        abort: Option<bay_buf_abort_fn>,
        /// Describes a pool.
        pool: Option<bay_buf_pool_fn>,
    }

    /// `bay.mem/1`: memory that devices can reach.
    open struct bay_mem_api {
        /// Size of this struct as the host was compiled, in bytes.
        size: u32,
        /// Zero.
        flags: u32,
        /// Allocates.
        alloc: Option<bay_mem_alloc_fn>,
        /// Frees.
        free: Option<bay_mem_free_fn>,
        /// The regions: number `n` at index `n`. Read without a call, on any thread, for the regions of requests in hand.
        regions: *const bay_region,
        /// Elements of `regions`.
        nregions: u32,
        /// NUMA nodes of the machine; `alloc` takes -1 and every number below.
        numa_nodes: u32,
        /// Maps a shared file.
        region_import: Option<bay_mem_region_import_fn>,
        /// Removes an imported region.
        region_remove: Option<bay_mem_region_remove_fn>,
        /// Finds the region of an address.
        region_of: Option<bay_mem_region_of_fn>,
        /// Watches imported regions.
        watch: Option<bay_mem_watch_fn>,
        /// Ends a watch.
        unwatch: Option<bay_mem_unwatch_fn>,
        /// Answers the removal of a region.
        region_release: Option<bay_mem_region_release_fn>,
        /// Zeroes part of an allocation.
        zero: Option<bay_mem_zero_fn>,
    }

    /// One memory region, as requests name it by number.
    closed struct bay_region {
        /// First byte.
        addr: *mut c_void,
        /// Length in bytes.
        len: u64,
        /// Where devices see the first byte, while `state` has `BAY_REGION_DMA`.
        iova: u64,
        /// `BAY_REGION_*`; 0 = no region.
        state: u32,
        /// Zero.
        rsv0: u32,
    }

    /// One method of the control plane.
    open struct bay_rpc_method {
        /// Size of this struct as the plugin was compiled, in bytes.
        size: u32,
        /// `BAY_RPC_*`.
        states: u32,
        /// Name.
        name: bay_str,
        /// The declaration as JSON text: parameters, result, errors, aliases, role.
        schema: bay_str,
        /// The method.
        call: Option<bay_rpc_call_fn>,
        /// Its first argument.
        ctx: *mut c_void,
    }

    /// `bay.rpc/1`.
    open struct bay_rpc_api {
        /// Size of this struct as the host was compiled, in bytes.
        size: u32,
        /// Zero.
        flags: u32,
        /// Registers a method.
        register: Option<bay_rpc_register_fn>,
        /// Unregisters it.
        unregister: Option<bay_rpc_unregister_fn>,
        /// Answers.
        reply: Option<bay_rpc_reply_fn>,
        /// Refuses.
        error: Option<bay_rpc_error_fn>,
    }

    /// `bay.broker/1`: plugin meets plugin.
    open struct bay_broker_api {
        /// Size of this struct as the host was compiled, in bytes.
        size: u32,
        /// Zero.
        flags: u32,
        /// Offers.
        provide: Option<bay_broker_provide_fn>,
        /// Withdraws.
        withdraw: Option<bay_broker_withdraw_fn>,
        /// Takes.
        acquire: Option<bay_broker_acquire_fn>,
        /// Gives back.
        release: Option<bay_broker_release_fn>,
    }

    /// `bay.notify/1`: events and subsystems.
    open struct bay_notify_api {
        /// Size of this struct as the host was compiled, in bytes.
        size: u32,
        /// Zero.
        flags: u32,
        /// Appends an event.
        notify: Option<bay_notify_fn>,
        /// Declares a subsystem.
        subsystem: Option<bay_subsystem_register_fn>,
    }

    /// `bay.quiesce/1`, offered by a plugin that has something to stop before `fini`.
    open struct bay_quiesce {
        /// Size of this struct as the plugin was compiled, in bytes.
        size: u32,
        /// Zero.
        flags: u32,
        /// Begins the stop.
        begin: Option<bay_quiesce_begin_fn>,
    }

    /// Work that may block, for a thread of the host: the submitter's memory.
    closed struct bay_job {
        /// The work.
        run: Option<bay_job_fn>,
        /// Its argument.
        arg: *mut c_void,
        /// Sent to the submitting thread when `run` has returned.
        done: bay_msg,
    }

    /// `bay.draft.worker/1`: a few threads of the host's for work that blocks. A plugin is finalised after the last of its jobs.
    open struct bay_worker_api {
        /// Size of this struct as the host was compiled, in bytes.
        size: u32,
        /// Zero.
        flags: u32,
        /// Queues a job.
        submit: Option<bay_worker_submit_fn>,
        /// Takes it back.
        cancel: Option<bay_worker_cancel_fn>,
    }

    /// `bay.log/1`, offered by a plugin that caches the log level.
    open struct bay_log_iface {
        /// Size of this struct as the plugin was compiled, in bytes.
        size: u32,
        /// Zero.
        flags: u32,
        /// The level changed.
        changed: Option<bay_log_changed_fn>,
    }
}

#[expect(unsafe_code, reason = "the table names memory that is there as long as the host")]
// SAFETY: the table never changes, and what `regions` points to is written with atomics.
unsafe impl Send for bay_mem_api {}
#[expect(unsafe_code, reason = "as above")]
// SAFETY: as above.
unsafe impl Sync for bay_mem_api {}
