//! The host's services: threads, pollers, io_devices, buffers, memory, RPC, broker, notifications.

use crate::bdev::bay_wait;
use crate::door::{bay_cb_fn, bay_host, bay_sink, bay_str};
use crate::layout::{functions, structs};
use core::ffi::c_void;

/// RPC state: the method may be called before `framework_start_init`.
pub const BAY_RPC_STARTUP: u32 = 1;
/// RPC state: the method may be called after `framework_start_init`.
pub const BAY_RPC_RUNTIME: u32 = 2;

/// Region state: the memory is mapped.
pub const BAY_REGION_LIVE: u32 = 1;
/// Region state: the memory is imported, such as a guest's. Without this bit it is the host's own DMA memory.
pub const BAY_REGION_IMPORTED: u32 = 2;
/// Region state: the host is removing the region. Submit no I/O to it, and release everything that uses it.
pub const BAY_REGION_LEAVING: u32 = 4;
/// Region state: the owner of the memory took pages away. Reads return zeroes, and written data is lost.
pub const BAY_REGION_BROKEN: u32 = 8;

functions! {
    /// Handles a message. `[thread it was sent to]`
    fn bay_msg_fn(arg: *mut c_void);
    /// Runs one round of a poller. Returns more than 0 when it did work. `[thread of the poller]`
    fn bay_poll_fn(ctx: *mut c_void) -> i32;
    /// Returns when the poller must run next, on the host's clock in nanoseconds; `u64::MAX` = only when woken.
    /// `[thread of the poller]`
    fn bay_poller_next_fn(ctx: *mut c_void) -> u64;
    /// The thread has woken up. `[thread of the poller]`
    fn bay_poller_woke_fn(ctx: *mut c_void);

    /// Returns the current lightweight thread, or 0 when the caller is not on one. `[any thread]`
    fn bay_thread_current_fn(host: *const bay_host) -> u64;
    /// Returns the thread on which the control plane runs. `[any thread]`
    fn bay_thread_app_fn(host: *const bay_host) -> u64;
    /// Returns the first core after `after` that has a reactor, or -1 when there is none. Start with -1. `[any thread]`
    fn bay_thread_next_core_fn(host: *const bay_host, after: i32) -> i32;
    /// Creates a lightweight thread. `cpumask` as `0x3` or `[0,1]`; empty = any core. `[any reactor]`
    fn bay_thread_create_fn(host: *const bay_host, name: bay_str, cpumask: bay_str, thread: *mut u64) -> i32;
    /// Ends the current thread once it has no poller and no channel left. `[thread itself]`
    fn bay_thread_exit_fn(host: *const bay_host, thread: u64) -> i32;
    /// Moves a thread to a core of `cpumask`. `[any reactor]`
    fn bay_thread_set_cpumask_fn(host: *const bay_host, thread: u64, cpumask: bay_str) -> i32;
    /// Sends an intrusive message. The host owns the memory until the receiver's `call` begins. Cannot fail while the
    /// receiver exists. `[any thread]`
    fn bay_thread_send_fn(host: *const bay_host, thread: u64, msg: *mut bay_msg) -> i32;
    /// Returns the host's clock in nanoseconds. A reactor reads the clock once a round. `[any thread]`
    fn bay_now_ns_fn(host: *const bay_host) -> u64;

    /// Adds a poller to the current thread and stores its handle. `period_us` 0 = every round. Returns 0 or a negative
    /// errno. `[reactor]`
    fn bay_poller_register_fn(host: *const bay_host, ops: *const bay_poller_ops, ctx: *mut c_void, period_us: u64, name: bay_str, poller: *mut u64) -> i32;
    /// Removes, pauses or resumes a poller. A poller may call it for itself. `[thread of the poller]`
    fn bay_poller_fn(host: *const bay_host, poller: u64) -> i32;
    /// Adds a file descriptor that wakes the thread (`events` as in poll(2)), or removes it (`events` = 0).
    /// `[thread of the poller]`
    fn bay_poller_wake_fd_fn(host: *const bay_host, poller: u64, fd: i32, events: u32) -> i32;

    /// Creates one thread's channel of an io_device in `ctx_size` zeroed bytes. `[reactor]`
    fn bay_io_device_create_fn(device: *mut c_void, chan: *mut c_void) -> i32;
    /// Destroys one thread's channel. `[thread of the channel]`
    fn bay_io_device_destroy_fn(device: *mut c_void, chan: *mut c_void);
    /// Registers an io_device. `[app thread]`
    fn bay_io_device_register_fn(host: *const bay_host, ctx: *mut c_void, create: Option<bay_io_device_create_fn>, destroy: Option<bay_io_device_destroy_fn>, ctx_size: u32, name: bay_str, device: *mut u64) -> i32;
    /// Unregisters an io_device. The host calls `done` when the last channel is closed. `[app thread]`
    fn bay_io_device_unregister_fn(host: *const bay_host, device: u64, done: Option<bay_cb_fn>, arg: *mut c_void) -> i32;
    /// Returns the current thread's channel and counts the reference; NULL when `create` failed. `[reactor]`
    fn bay_io_device_chan_get_fn(host: *const bay_host, device: u64, chan: *mut u64) -> *mut c_void;
    /// Releases a channel. `[thread of the get]`
    fn bay_io_device_chan_put_fn(host: *const bay_host, chan: u64);

    /// Returns a buffer of at least `len` bytes in a DMA region, 4096-aligned. Returns NULL when no buffer is free; then
    /// the host queues `wait`, if it is not NULL. `[reactor]`
    fn bay_buf_get_fn(host: *const bay_host, len: u32, region: *mut u32, wait: *mut bay_wait) -> *mut c_void;
    /// Returns a buffer to its pool. `len` must be as requested. `[reactor]`
    fn bay_buf_put_fn(host: *const bay_host, buf: *mut c_void, len: u32);
    /// Removes a waiter from the queue. `[thread of the wait]`
    fn bay_buf_abort_fn(host: *const bay_host, wait: *mut bay_wait);
    /// Describes the pool of buffers for `len` bytes. Stores the size of its buffers in bytes, and how many of them one
    /// thread can always get when no other thread holds any. -EINVAL: no pool has buffers of that size. `[any thread]`
    fn bay_buf_pool_fn(host: *const bay_host, len: u32, size: *mut u32, count: *mut u64) -> i32;

    /// Allocates zeroed memory that devices can access, aligned to `align` (a power of two). NULL when it fails. `[control]`
    fn bay_mem_alloc_fn(host: *const bay_host, len: u64, align: u64, numa: i32, region: *mut u32) -> *mut c_void;
    /// Frees memory that `alloc` returned. `[control]`
    fn bay_mem_free_fn(host: *const bay_host, addr: *mut c_void, len: u64);
    /// Zeroes part of an allocation. Returns its whole pages to the system unless the host uses hugepages. The time grows
    /// with `len`, so zero about 1 MiB a round. 0 or -EINVAL. `[any thread]`
    fn bay_mem_zero_fn(host: *const bay_host, addr: *mut c_void, len: u64) -> i32;
    /// Maps `len` bytes at `offset` of a shared file and stores the region's number. The caller keeps the file descriptor.
    /// -EINVAL when the file does not have these bytes or when they are not whole pages. `[app thread]`
    fn bay_mem_region_import_fn(host: *const bay_host, fd: i32, offset: u64, len: u64, region: *mut u32) -> i32;
    /// Removes an imported region. The host notifies the watchers, unmaps the memory when all have released it, then
    /// calls `done`. `[app thread]`
    fn bay_mem_region_remove_fn(host: *const bay_host, region: u32, done: Option<bay_cb_fn>, arg: *mut c_void) -> i32;
    /// Returns the region that contains all `len` bytes at `addr`; 0 = plain memory. Takes a lock: do not call it on the
    /// data path. `[any thread]`
    fn bay_mem_region_of_fn(host: *const bay_host, addr: *const c_void, len: u64) -> u32;
    /// An imported region was added, or is being removed. `[app thread]`
    fn bay_mem_region_changed_fn(ctx: *mut c_void, region: u32);
    /// Watches imported regions. The host soon reports the existing ones as well. A region that is being removed stays
    /// mapped until `region_release`. `[app thread]`
    fn bay_mem_watch_fn(host: *const bay_host, added: Option<bay_mem_region_changed_fn>, removing: Option<bay_mem_region_changed_fn>, ctx: *mut c_void, watch: *mut u64) -> i32;
    /// Ends a watch. The watcher must have released every region. `[app thread]`
    fn bay_mem_unwatch_fn(host: *const bay_host, watch: u64) -> i32;
    /// The watcher releases a region that is being removed. `[any thread]`
    fn bay_mem_region_release_fn(host: *const bay_host, watch: u64, region: u32) -> i32;

    /// Handles a call. `params` is JSON text, valid for the call. The method answers exactly once, with `reply` or
    /// `error`. `[app thread]`
    fn bay_rpc_call_fn(ctx: *mut c_void, req: u64, params: bay_str);
    /// Registers a method. -EEXIST when the name is taken. `[app thread]`
    fn bay_rpc_register_fn(host: *const bay_host, method: *const bay_rpc_method, id: *mut u64) -> i32;
    /// Unregisters a method. It may still answer calls in flight. `[app thread]`
    fn bay_rpc_unregister_fn(host: *const bay_host, id: u64) -> i32;
    /// Answers a call with a result, as JSON text. `[any thread]`
    fn bay_rpc_reply_fn(host: *const bay_host, req: u64, result: bay_str) -> i32;
    /// Answers a call with an error. `data` is JSON text or empty. `[any thread]`
    fn bay_rpc_error_fn(host: *const bay_host, req: u64, code: i32, message: bay_str, data: bay_str) -> i32;

    /// The provider withdraws the table: release the reference soon. `[app thread]`
    fn bay_broker_revoked_fn(arg: *mut c_void);
    /// Provides a table under an id such as `bay.nvmf_target/1`. `[app thread]`
    fn bay_broker_provide_fn(host: *const bay_host, id: bay_str, table: *const c_void, handle: *mut u64) -> i32;
    /// Withdraws a table. The host calls `done` when all references are released. `[app thread]`
    fn bay_broker_withdraw_fn(host: *const bay_host, handle: u64, done: Option<bay_cb_fn>, arg: *mut c_void) -> i32;
    /// Returns another plugin's table, valid until `release`. NULL when no plugin provides it, even if the host has
    /// loaded the plugin that will. `[app thread]`
    fn bay_broker_acquire_fn(host: *const bay_host, id: bay_str, revoked: Option<bay_broker_revoked_fn>, arg: *mut c_void, reference: *mut u64) -> *const c_void;
    /// Releases a reference. `[app thread]`
    fn bay_broker_release_fn(host: *const bay_host, reference: u64) -> i32;

    /// Appends an event for `notify_get_notifications`. `[any thread]`
    fn bay_notify_fn(host: *const bay_host, kind: bay_str, context: bay_str);
    /// Writes the plugin's part of a subsystem's configuration, as comma-separated JSON objects. `[app thread]`
    fn bay_subsystem_config_fn(ctx: *mut c_void, sink: *const bay_sink);
    /// Declares that this plugin is a subsystem, or part of one, in `framework_get_subsystems`. `[app thread]`
    fn bay_subsystem_register_fn(host: *const bay_host, name: bay_str, config: Option<bay_subsystem_config_fn>, ctx: *mut c_void) -> i32;
    /// Begins an asynchronous stop. The plugin calls `done` when it has no work left. `[app thread]`
    fn bay_quiesce_begin_fn(state: *mut c_void, done: Option<bay_cb_fn>, arg: *mut c_void);
    /// The log level changed. `[app thread]`
    fn bay_log_changed_fn(state: *mut c_void);

    /// Does work that may block. `[worker]`
    fn bay_job_fn(arg: *mut c_void);
    /// Queues a job for a worker. The host owns the job until the submitter receives `done`. -EAGAIN when too many jobs
    /// wait. `[any lightweight thread]`
    fn bay_worker_submit_fn(host: *const bay_host, job: *mut bay_job) -> i32;
    /// Cancels a job. 0 = the job does not run and `done` is not sent; -EBUSY = it is running or has run.
    /// `[thread of the submit]`
    fn bay_worker_cancel_fn(host: *const bay_host, job: *mut bay_job) -> i32;
}

structs! {
    /// An intrusive message. The memory belongs to the sender, and is in use until the message is received.
    closed struct bay_msg {
        /// Called on the receiving thread.
        call: Option<bay_msg_fn>,
        /// Argument of `call`.
        arg: *mut c_void,
        /// For the host's use while the message is in flight.
        link: *mut c_void,
        /// Zero.
        rsv: u64,
    }

    /// The functions of a poller.
    open struct bay_poller_ops {
        /// Size of this struct as the plugin was compiled, in bytes.
        size: u32,
        /// Zero.
        flags: u32,
        /// Runs one round. Required.
        run: Option<bay_poll_fn>,
        /// Arms the wake-ups, then checks for work: 0 = the thread may sleep, more than 0 = there is work. If NULL, the
        /// reactor never sleeps.
        prepare_sleep: Option<bay_poll_fn>,
        /// The thread has woken up; may be NULL.
        woke: Option<bay_poller_woke_fn>,
        /// Returns the next deadline; may be NULL.
        next_ns: Option<bay_poller_next_fn>,
    }

    /// `bay.thread/1`.
    open struct bay_thread_api {
        /// Size of this struct as the host was compiled, in bytes.
        size: u32,
        /// Zero.
        flags: u32,
        /// Returns the current thread.
        current: Option<bay_thread_current_fn>,
        /// Returns the app thread.
        app_thread: Option<bay_thread_app_fn>,
        /// Walks the cores that have reactors.
        next_core: Option<bay_thread_next_core_fn>,
        /// Creates a thread.
        create: Option<bay_thread_create_fn>,
        /// Ends the current thread.
        exit: Option<bay_thread_exit_fn>,
        /// Moves a thread.
        set_cpumask: Option<bay_thread_set_cpumask_fn>,
        /// Sends a message.
        send: Option<bay_thread_send_fn>,
        /// Returns the time.
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
        /// Removes a poller.
        unregister: Option<bay_poller_fn>,
        /// Pauses a poller.
        pause: Option<bay_poller_fn>,
        /// Resumes a poller.
        resume: Option<bay_poller_fn>,
        /// Adds or removes a file descriptor that wakes the thread.
        wake_fd: Option<bay_poller_wake_fd_fn>,
    }

    /// `bay.draft.io_device/1`: shared objects, other than bdevs, with one channel per thread.
    open struct bay_io_device_api {
        /// Size of this struct as the host was compiled, in bytes.
        size: u32,
        /// Zero.
        flags: u32,
        /// Registers an io_device.
        register: Option<bay_io_device_register_fn>,
        /// Unregisters an io_device.
        unregister: Option<bay_io_device_unregister_fn>,
        /// Gets the current thread's channel.
        chan_get: Option<bay_io_device_chan_get_fn>,
        /// Releases a channel.
        chan_put: Option<bay_io_device_chan_put_fn>,
    }

    /// `bay.buf/1`: buffers from the host's pools. Callers wait in a queue when a pool is empty.
    open struct bay_buf_api {
        /// Size of this struct as the host was compiled, in bytes.
        size: u32,
        /// Largest buffer, in bytes.
        max_len: u32,
        /// Gets a buffer.
        get: Option<bay_buf_get_fn>,
        /// Returns a buffer.
        put: Option<bay_buf_put_fn>,
        /// Removes a waiter from the queue.
        abort: Option<bay_buf_abort_fn>,
        /// Describes a pool.
        pool: Option<bay_buf_pool_fn>,
    }

    /// `bay.mem/1`: memory that devices can access.
    open struct bay_mem_api {
        /// Size of this struct as the host was compiled, in bytes.
        size: u32,
        /// Zero.
        flags: u32,
        /// Allocates memory.
        alloc: Option<bay_mem_alloc_fn>,
        /// Frees memory.
        free: Option<bay_mem_free_fn>,
        /// The region table: region `n` is at index `n`. Any thread may read the entries of the requests it has, without a call.
        regions: *const bay_region,
        /// Number of elements of `regions`.
        nregions: u32,
        /// Number of NUMA nodes of the machine. `alloc` accepts -1 and every number below this one.
        numa_nodes: u32,
        /// Maps a shared file as a region.
        region_import: Option<bay_mem_region_import_fn>,
        /// Removes an imported region.
        region_remove: Option<bay_mem_region_remove_fn>,
        /// Returns the region of an address.
        region_of: Option<bay_mem_region_of_fn>,
        /// Watches imported regions.
        watch: Option<bay_mem_watch_fn>,
        /// Ends a watch.
        unwatch: Option<bay_mem_unwatch_fn>,
        /// Releases a region that is being removed.
        region_release: Option<bay_mem_region_release_fn>,
        /// Zeroes part of an allocation.
        zero: Option<bay_mem_zero_fn>,
    }

    /// One memory region. Requests refer to it by its number.
    closed struct bay_region {
        /// First byte.
        addr: *mut c_void,
        /// Length in bytes.
        len: u64,
        /// Address of the first byte for devices. Valid only while `state` has `BAY_REGION_DMA`.
        iova: u64,
        /// `BAY_REGION_*`; 0 = no region.
        state: u32,
        /// Zero.
        rsv0: u32,
    }

    /// One RPC method.
    open struct bay_rpc_method {
        /// Size of this struct as the plugin was compiled, in bytes.
        size: u32,
        /// `BAY_RPC_*`.
        states: u32,
        /// Name of the method.
        name: bay_str,
        /// The declaration as JSON text: parameters, result, errors, aliases, role.
        schema: bay_str,
        /// Handles a call.
        call: Option<bay_rpc_call_fn>,
        /// First argument of `call`.
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
        /// Unregisters a method.
        unregister: Option<bay_rpc_unregister_fn>,
        /// Answers a call with a result.
        reply: Option<bay_rpc_reply_fn>,
        /// Answers a call with an error.
        error: Option<bay_rpc_error_fn>,
    }

    /// `bay.broker/1`: plugins offer tables to other plugins.
    open struct bay_broker_api {
        /// Size of this struct as the host was compiled, in bytes.
        size: u32,
        /// Zero.
        flags: u32,
        /// Provides a table.
        provide: Option<bay_broker_provide_fn>,
        /// Withdraws a table.
        withdraw: Option<bay_broker_withdraw_fn>,
        /// Returns another plugin's table.
        acquire: Option<bay_broker_acquire_fn>,
        /// Releases a table.
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

    /// `bay.quiesce/1`: offered by a plugin that must finish work before `fini`.
    open struct bay_quiesce {
        /// Size of this struct as the plugin was compiled, in bytes.
        size: u32,
        /// Zero.
        flags: u32,
        /// Begins the stop.
        begin: Option<bay_quiesce_begin_fn>,
    }

    /// Work that may block, for a worker thread of the host. The memory belongs to the submitter.
    closed struct bay_job {
        /// Does the work, on the worker.
        run: Option<bay_job_fn>,
        /// Argument of `run`.
        arg: *mut c_void,
        /// The host sends this message to the submitting thread when `run` has returned.
        done: bay_msg,
    }

    /// `bay.draft.worker/1`: a few threads of the host for work that blocks. The host calls `fini` of a plugin only after
    /// all its jobs have finished.
    open struct bay_worker_api {
        /// Size of this struct as the host was compiled, in bytes.
        size: u32,
        /// Zero.
        flags: u32,
        /// Queues a job.
        submit: Option<bay_worker_submit_fn>,
        /// Cancels a job.
        cancel: Option<bay_worker_cancel_fn>,
    }

    /// `bay.log/1`: offered by a plugin that caches the log level.
    open struct bay_log_iface {
        /// Size of this struct as the plugin was compiled, in bytes.
        size: u32,
        /// Zero.
        flags: u32,
        /// The log level changed.
        changed: Option<bay_log_changed_fn>,
    }
}

#[expect(unsafe_code, reason = "the table points to memory that lives as long as the host")]
// SAFETY: the table never changes, and the host writes the entries of `regions` with atomics.
unsafe impl Send for bay_mem_api {}
#[expect(unsafe_code, reason = "as above")]
// SAFETY: as above.
unsafe impl Sync for bay_mem_api {}
