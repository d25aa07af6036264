/* SPDX-License-Identifier: Apache-2.0
 *
 * The Drivebay plugin ABI for C and C++. Generated from plugin-api; do not edit:
 * `cargo run -p drivebay-abi-tests` writes it again.
 *
 * A plugin is one shared object that includes this file, fills the tables it needs and ends
 * with BAY_PLUGIN. It links to nothing of Drivebay. The rules are in docs/abi.md. In brackets
 * behind each function type stands the thread it is called on. Names that are keywords of C or
 * C++ have an underscore behind them.
 */
#ifndef BAY_ABI_H
#define BAY_ABI_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define BAY_ASSERT(condition, what) static_assert(condition, what)
#define BAY_ALIGNOF(type) alignof(type)
extern "C" {
#else
#define BAY_ASSERT(condition, what) _Static_assert(condition, what)
#define BAY_ALIGNOF(type) _Alignof(type)
#endif

#define BAY_ALIGNED(bytes) __attribute__((aligned(bytes)))

/* Constants */

/** First eight bytes of every door, `BAYPLUG1` in memory order. */
#define BAY_MAGIC UINT64_C(0x3147554c50594142)
/** The ABI major of this header; it is also in the name of the exported symbol. */
#define BAY_ABI_MAJOR 1u
/** The ABI minor of this header: one number for all tables. */
#define BAY_ABI_MINOR 0u
/** Door flag: the host may unmap the library after `fini`, once its sweep finds nothing that the plugin left behind. */
#define BAY_PF_UNLOADABLE 1u
/** Door flag: the host may run the plugin in a child process. */
#define BAY_PF_OUT_OF_PROCESS_OK 2u
/** Door flag: the host loads at most one instance. */
#define BAY_PF_SINGLETON 4u
/** `start`: the plugin starts without state. */
#define BAY_START_FRESH 0u
/** `start`: the plugin takes over the state of an older instance. */
#define BAY_START_UPGRADE 1u
/** `fini`: an operator unloads the plugin. */
#define BAY_FINI_UNLOAD 0u
/** `fini`: a newer instance has taken over. The plugin must not shut down anything that it handed over. */
#define BAY_FINI_UPGRADED 1u
/** `fini`: the host shuts down. */
#define BAY_FINI_SHUTDOWN 2u
/** Log level: an operation failed. The levels have SPDK's numbers. */
#define BAY_LOG_ERROR 0u
/** Log level: something is wrong, and the program has handled it. */
#define BAY_LOG_WARN 1u
/** Log level: an operator should know this. */
#define BAY_LOG_NOTICE 2u
/** Log level: explains how an operation proceeds. */
#define BAY_LOG_INFO 3u
/** Log level: for developers only. */
#define BAY_LOG_DEBUG 4u
/** Note type: the manifest as JSON text. */
#define BAY_NOTE_MANIFEST 1u
/** Note type: the layout text, [`crate::LAYOUT`]. */
#define BAY_NOTE_LAYOUT 2u
/** A resource is short: the bus queues the I/O and submits it again after `kick`, or by a timer when the channel has no I/O outstanding. Not allowed for a reset. */
#define BAY_ST_NOMEM (-4096)
/** The module returned the I/O without starting it (during an upgrade): the bus submits it again. */
#define BAY_ST_REQUEUE (-4097)
/** The I/O was aborted on request. */
#define BAY_ST_ABORTED (-4112)
/** A compare found a difference. */
#define BAY_ST_MISCOMPARE (-4128)
/** The other half of a fused pair failed. */
#define BAY_ST_FUSED_FAILED (-4129)
/** Protection information: the guard check failed. */
#define BAY_ST_PI_GUARD (-4144)
/** Protection information: the application tag check failed. */
#define BAY_ST_PI_APP (-4145)
/** Protection information: the reference tag check failed. */
#define BAY_ST_PI_REF (-4146)
/** The I/O conflicts with a reservation. */
#define BAY_ST_RESERVATION (-4160)
/** The medium lost the data. */
#define BAY_ST_MEDIA (-4176)
/** Read `nblocks` at `lba` into `iov`. */
#define BAY_OP_READ 1u
/** Write `nblocks` at `lba` from `iov`. */
#define BAY_OP_WRITE 2u
/** Make all data written so far durable. */
#define BAY_OP_FLUSH 3u
/** The client no longer needs the contents of the blocks. */
#define BAY_OP_UNMAP 4u
/** Write zeroes: later reads of the blocks return zeroes. */
#define BAY_OP_WRITE_ZEROES 5u
/** Compare the blocks with `iov`. The status is `BAY_ST_MISCOMPARE` when they differ. */
#define BAY_OP_COMPARE 6u
/** Abort or finish all I/O in flight of the bdev. */
#define BAY_OP_RESET 7u
/** Abort the I/O whose id is `arg[0]`, if that is still possible. Completes with success or `-ENOENT`. */
#define BAY_OP_ABORT 8u
/** Atomically compare the blocks with the first half of `iov`, then write the second half. If the blocks differ, write nothing; the status is `BAY_ST_MISCOMPARE`. */
#define BAY_OP_COMPARE_AND_WRITE 9u
/** Copy `nblocks` from the block in `arg[0]` to `lba`. The two ranges do not overlap. */
#define BAY_OP_COPY 10u
/** Later reads of the blocks fail with a media error, until the blocks are written again. */
#define BAY_OP_WRITE_UNCORRECTABLE 11u
/** Store in `detail` the first allocated block at or after `lba`, or `UINT64_MAX` when there is none (`BAY_DETAIL_BLOCK`). */
#define BAY_OP_SEEK_DATA 12u
/** Store in `detail` the first unallocated block at or after `lba`, or `UINT64_MAX` when there is none (`BAY_DETAIL_BLOCK`). */
#define BAY_OP_SEEK_HOLE 13u
/** Fill `iov` with one `bay_zone` for each zone, starting with the zone at `lba`, at most `arg[0]` zones. Store their number in `detail` (`BAY_DETAIL_BLOCK`). */
#define BAY_OP_ZONE_REPORT 14u
/** Apply the action `arg[0]` (`BAY_ZONE_*`) to the zone that begins at `lba`. */
#define BAY_OP_ZONE_MANAGE 15u
/** Write `nblocks` from `iov` at the write pointer of the zone that begins at `lba`. Store the first block written in `detail` (`BAY_DETAIL_BLOCK`). */
#define BAY_OP_ZONE_APPEND 16u
/** Execute the NVMe admin command that `arg[0]` points to (`arg_len` = 64 bytes), with `iov` as its data. */
#define BAY_OP_NVME_ADMIN 17u
/** Execute the NVMe I/O command that `arg[0]` points to (`arg_len` = 64 bytes), with `iov` as its data. */
#define BAY_OP_NVME_IO 18u
/** Reservation Register: `arg[0]` is dword 10, `iov` the data of the NVMe command (NVM Express Base 2.0, section 7.3). */
#define BAY_OP_RESERVATION_REGISTER 19u
/** Reservation Acquire: `arg[0]` is dword 10, `iov` the data of the NVMe command (NVM Express Base 2.0, section 7.2). */
#define BAY_OP_RESERVATION_ACQUIRE 20u
/** Reservation Release: `arg[0]` is dword 10, `iov` the data of the NVMe command (NVM Express Base 2.0, section 7.4). */
#define BAY_OP_RESERVATION_RELEASE 21u
/** Reservation Report: `arg[0]` is dword 11, `iov` receives the data of the NVMe command (NVM Express Base 2.0, section 7.5). */
#define BAY_OP_RESERVATION_REPORT 22u
/** `BAY_OP_ZONE_MANAGE`: close the zone. */
#define BAY_ZONE_CLOSE UINT64_C(1)
/** `BAY_OP_ZONE_MANAGE`: finish the zone. It is full afterwards. */
#define BAY_ZONE_FINISH UINT64_C(2)
/** `BAY_OP_ZONE_MANAGE`: open the zone explicitly. */
#define BAY_ZONE_OPEN UINT64_C(3)
/** `BAY_OP_ZONE_MANAGE`: reset the zone. It is empty afterwards. */
#define BAY_ZONE_RESET UINT64_C(4)
/** `BAY_OP_ZONE_MANAGE`: take the zone offline. */
#define BAY_ZONE_OFFLINE UINT64_C(5)
/** Must-understand flag: the data is durable before the I/O completes (force unit access). */
#define BAY_IO_FUA 65536u
/** In `holds`: a device or the kernel may still access the buffers. */
#define BAY_HELD_BY_DEVICE 32768u
/** `detail_kind`: `detail` is unused. */
#define BAY_DETAIL_NONE 0u
/** `detail` is an NVMe status: bits 0-31 cdw0, 32-34 sct, 40-47 sc, 48 dnr, 49 more, 50-51 crd. */
#define BAY_DETAIL_NVME 1u
/** `detail` is a SCSI status: byte 0 status, 1 sense key, 2 asc, 3 ascq. */
#define BAY_DETAIL_SCSI 2u
/** `detail` is the byte offset of the first difference. */
#define BAY_DETAIL_OFFSET 3u
/** `detail` is a block number or a number of zones, depending on the op. */
#define BAY_DETAIL_BLOCK 4u
/** Registration flag: the device has a volatile write cache, so a flush has an effect. */
#define BAY_BDEV_WRITE_CACHE 1u
/** Registration flag: the bdev refuses every op that writes. */
#define BAY_BDEV_READ_ONLY 2u
/** Registration flag: the bdev is a filter over `base`. */
#define BAY_BDEV_FILTER 4u
/** Registration flag: the bdev discards written data, and a read does not change its buffers. A client that passes read data on must clear the buffers before the read. */
#define BAY_BDEV_NO_DATA 8u
/** `open`: writes are allowed. */
#define BAY_OPEN_WRITE 1u
/** Event: the bdev is being removed. Close the descriptor as soon as its I/O has completed. */
#define BAY_EVENT_REMOVE 0u
/** Event: the size changed. `value` is the new number of blocks. */
#define BAY_EVENT_RESIZE 1u
/** Event: some blocks lost their data. `value` is the number of ranges that `media_next` will return. */
#define BAY_EVENT_MEDIA 2u
/** Claim: only this descriptor may write. */
#define BAY_CLAIM_EXCL_WRITE 1u
/** Claim: many descriptors may read, only this one may write. */
#define BAY_CLAIM_READ_MANY_WRITE_ONE 2u
/** Claim: many descriptors may read, none may write. */
#define BAY_CLAIM_READ_MANY_WRITE_NONE 3u
/** Claim: many descriptors may read, those that claimed with the same key may write. */
#define BAY_CLAIM_READ_MANY_WRITE_SHARED 4u
/** RPC state: the method may be called before `framework_start_init`. */
#define BAY_RPC_STARTUP 1u
/** RPC state: the method may be called after `framework_start_init`. */
#define BAY_RPC_RUNTIME 2u
/** Region state: the memory is mapped. */
#define BAY_REGION_LIVE 1u
/** Region state: the memory is imported, such as a guest's. Without this bit it is the host's own DMA memory. */
#define BAY_REGION_IMPORTED 2u
/** Region state: the host is removing the region. Submit no I/O to it, and release everything that uses it. */
#define BAY_REGION_LEAVING 4u
/** Region state: the owner of the memory took pages away. Reads return zeroes, and written data is lost. */
#define BAY_REGION_BROKEN 8u
/** No data. */
#define BAY_NVMF_XFER_NONE 0u
/** Data from the host to the controller. The fabric has received it before `exec`. */
#define BAY_NVMF_XFER_H2C 1u
/** Data from the controller to the host. The fabric sends it after `complete` with success. */
#define BAY_NVMF_XFER_C2H 2u
/** As `BAY_NVMF_XFER_C2H`, but the fabric sends zeroes, whatever the memory of `iov` contains. The target replaces `BAY_NVMF_XFER_C2H` with this value before `complete` if the fabric has `BAY_NVMF_TRANSPORT_ZEROES`. */
#define BAY_NVMF_XFER_ZEROES 3u
/** Flag of `bay_nvmf_transport_ops`: the fabric supports `BAY_NVMF_XFER_ZEROES`. */
#define BAY_NVMF_TRANSPORT_ZEROES 1u
/** Region state: devices reach the region at its `iova`. */
#define BAY_REGION_DMA 16u

/* Ids of interfaces */

/** struct bay_bdev_api */
#define BAY_ID_BDEV "bay.bdev/1"
/** struct bay_bdev_client_api */
#define BAY_ID_BDEV_CLIENT "bay.bdev_client/1"
/** struct bay_bdev_module; plugins offer it to the host. */
#define BAY_ID_BDEV_MODULE "bay.bdev_module/1"
/** struct bay_thread_api */
#define BAY_ID_THREAD "bay.thread/1"
/** struct bay_poller_api */
#define BAY_ID_POLLER "bay.poller/1"
/** struct bay_io_device_api */
#define BAY_ID_IO_DEVICE "bay.draft.io_device/1"
/** struct bay_buf_api */
#define BAY_ID_BUF "bay.buf/1"
/** struct bay_mem_api */
#define BAY_ID_MEM "bay.mem/1"
/** struct bay_rpc_api */
#define BAY_ID_RPC "bay.rpc/1"
/** struct bay_broker_api */
#define BAY_ID_BROKER "bay.broker/1"
/** struct bay_notify_api */
#define BAY_ID_NOTIFY "bay.notify/1"
/** struct bay_worker_api */
#define BAY_ID_WORKER "bay.draft.worker/1"
/** struct bay_quiesce; plugins offer it to the host. */
#define BAY_ID_QUIESCE "bay.quiesce/1"
/** struct bay_log_iface; plugins offer it to the host. */
#define BAY_ID_LOG "bay.log/1"
/** struct bay_pci_api, for plugins with the permission `pci`. */
#define BAY_ID_PCI "bay.pci/1"
/** struct bay_nvmf_target_api, over the broker. */
#define BAY_ID_NVMF_TARGET "bay.nvmf_target/1"

/* Structs */

struct bay_str;
struct bay_sink;
struct bay_plugin;
struct bay_host;
struct bay_iov;
struct bay_io;
struct bay_zone;
struct bay_io_ext;
struct bay_chan_args;
struct bay_bdev_ops;
struct bay_bdev_reg;
struct bay_bdev_info;
struct bay_wait;
struct bay_bdev_api;
struct bay_bdev_client_api;
struct bay_bdev_module;
struct bay_msg;
struct bay_poller_ops;
struct bay_thread_api;
struct bay_poller_api;
struct bay_io_device_api;
struct bay_buf_api;
struct bay_mem_api;
struct bay_region;
struct bay_rpc_method;
struct bay_rpc_api;
struct bay_broker_api;
struct bay_notify_api;
struct bay_quiesce;
struct bay_job;
struct bay_worker_api;
struct bay_log_iface;
struct bay_nvmf_addr;
struct bay_nvmf_req;
struct bay_nvmf_transport_ops;
struct bay_nvmf_target_api;
struct bay_pci_info;
struct bay_pci_api;

/* Function types */

/** Appends a piece of text to the receiver's sink. `[caller's thread]` */
typedef void bay_sink_write_fn(void *ctx, struct bay_str text);

/** An asynchronous operation has finished. `status` is 0 or a negative errno. `[thread of the call]` */
typedef void bay_cb_fn(void *arg, int32_t status);

/** Creates one instance and stores its state. It may look up interfaces but registers nothing. Returns 0 or a
 *  negative errno. `[app thread]`
 */
typedef int32_t bay_init_fn(const struct bay_host *host, void **state);

/** Starts the instance, which registers its modules and methods. `how` is `BAY_START_*`. `[app thread]` */
typedef int32_t bay_start_fn(void *state, uint32_t how);

/** Ends the instance. No code of the plugin may run afterwards. `reason` is `BAY_FINI_*`. `[app thread]` */
typedef void bay_fini_fn(void *state, uint32_t reason);

/** Returns the plugin's table for an interface id, or NULL. The table stays valid as long as the instance. `[app thread]` */
typedef const void *bay_plugin_get_iface_fn(void *state, struct bay_str id, uint32_t min_minor);

/** Returns the host's table for an interface id, or NULL when the host does not have it or does not grant it. Valid
 *  until `fini` returns. `[any thread]`
 */
typedef const void *bay_host_get_iface_fn(const struct bay_host *host, struct bay_str id, uint32_t min_minor);

/** Writes one line to the host's log. `[any thread]` */
typedef void bay_log_fn(const struct bay_host *host, uint32_t level, struct bay_str target, struct bay_str text);

/** Completes one I/O, exactly once. The module must not touch `io` afterwards. `[thread of the submit]` */
typedef void bay_done_fn(struct bay_io *io, int32_t status);

/** Starts one I/O and returns at once. The module owns `io` until it calls `io->done`. `[reactor]` */
typedef void bay_submit_fn(void *chan, struct bay_io *io);

/** A burst of submits has ended. The module rings its doorbell here, once for the burst. `[reactor]` */
typedef void bay_flush_fn(void *chan);

/** Creates the channel of one thread. Returns 0, a negative errno, or 1 for "pending"; if pending, the module
 *  calls `chan_ready` later. `[reactor]`
 */
typedef int32_t bay_chan_create_fn(void *bdev, const struct bay_chan_args *args, void **chan);

/** Destroys a channel that has no I/O outstanding. Returns 0, or 1 for "pending"; if pending, the module calls
 *  `chan_closed` later. `[reactor]`
 */
typedef int32_t bay_chan_destroy_fn(void *bdev, void *chan);

/** Frees a bdev. It is unregistered, and all its descriptors and channels are closed. Returns 0, or 1 for
 *  "pending"; if pending, the module calls `destruct_done` later. `[thread of the registration]`
 */
typedef int32_t bay_destruct_fn(void *bdev);

/** Writes the bdev's part of a JSON text into the sink. `[thread of the registration]` */
typedef void bay_dump_fn(void *bdev, const struct bay_sink *sink);

/** Resets the module's own counters to zero. `[thread of the registration]` */
typedef void bay_reset_stats_fn(void *bdev);

/** Registers a bdev on the bus and stores its handle. Returns 0 or a negative errno. `[app thread]` */
typedef int32_t bay_bdev_register_fn(const struct bay_host *host, const struct bay_bdev_reg *reg, uint64_t *id);

/** Unregisters a bdev. The host notifies its clients, waits for its I/O, calls `destruct`, then `done`. `[app thread]` */
typedef int32_t bay_bdev_unregister_fn(const struct bay_host *host, uint64_t id, bay_cb_fn *done, void *arg);

/** Reports that a pending `destruct` has finished. `[app thread]` */
typedef void bay_bdev_destruct_done_fn(const struct bay_host *host, uint64_t id, int32_t status);

/** Reports that a pending `chan_create` has finished. `[thread of the channel]` */
typedef void bay_bdev_chan_ready_fn(const struct bay_host *host, uint64_t host_chan, void *chan, int32_t status);

/** Reports that a pending `chan_destroy` has finished. `[thread of the channel]` */
typedef void bay_bdev_chan_closed_fn(const struct bay_host *host, uint64_t host_chan);

/** Reserves `name` and a UUID for a bdev that this plugin registers later, such as a filter that
 *  waits for its base. No other plugin can use them until `release` or the end of this plugin. `uuid`
 *  points to 16 bytes; if it is NULL or all bytes are zero, the host reserves the UUID that it derives
 *  from the name. -EEXIST when the name or the UUID is taken. `[app thread]`
 */
typedef int32_t bay_bdev_reserve_fn(const struct bay_host *host, struct bay_str name, const uint8_t *uuid);

/** Releases the reservation of `name`. -ENOENT when there is no such reservation. `[app thread]` */
typedef int32_t bay_bdev_release_fn(const struct bay_host *host, struct bay_str name);

/** Changes the size of the bdev. -EBUSY when the bdev is open and would shrink. `[app thread]` */
typedef int32_t bay_bdev_resize_fn(const struct bay_host *host, uint64_t id, uint64_t num_blocks);

/** A resource is free again: the host resubmits the I/O that waits on this channel. `[thread of the channel]` */
typedef void bay_bdev_kick_fn(const struct bay_host *host, uint64_t host_chan);

/** `quiesce` holds back the I/O of a range of blocks, `unquiesce` releases it. 0 and 0 mean the whole bdev.
 *  The host calls `done` when the module has no I/O of the range (`quiesce`), or when that I/O continues
 *  (`unquiesce`). `[app thread]`
 */
typedef int32_t bay_bdev_quiesce_fn(const struct bay_host *host, uint64_t id, uint64_t lba, uint64_t nblocks, bay_cb_fn *done, void *arg);

/** Adds an alias to a bdev (`add` = 1) or removes one (0). -EEXIST when the name is taken, -ENOENT when the bdev
 *  does not have it. `[app thread]`
 */
typedef int32_t bay_bdev_alias_fn(const struct bay_host *host, uint64_t id, struct bay_str alias, uint32_t add);

/** Notifies every client that has the bdev open that these blocks lost their data (`BAY_EVENT_MEDIA`). `[app thread]` */
typedef int32_t bay_bdev_media_fn(const struct bay_host *host, uint64_t id, uint64_t lba, uint64_t nblocks);

/** Reports an event of an open bdev. `event` is `BAY_EVENT_*`. `[thread of the open]` */
typedef void bay_bdev_event_fn(void *arg, uint32_t event, uint64_t value);

/** Tells the client that one I/O has completed. When the callback returns, the host owns `io` again. `[thread of the submit]` */
typedef void bay_io_cb_fn(void *arg, struct bay_io *io, int32_t status);

/** The resource that the waiter queued for is available. `[thread of the wait]` */
typedef void bay_wait_fn(void *arg);

/** Opens a bdev by name, alias or UUID. `[app thread]` */
typedef int32_t bay_client_open_fn(const struct bay_host *host, struct bay_str name, uint32_t flags, bay_bdev_event_fn *event, void *arg, uint64_t *desc);

/** Closes a descriptor. The caller has released its channels before. `[thread of the open]` */
typedef int32_t bay_client_close_fn(const struct bay_host *host, uint64_t desc);

/** Fills `info`. The caller sets `info->size` before. `[any reactor]` */
typedef int32_t bay_client_info_fn(const struct bay_host *host, uint64_t desc, struct bay_bdev_info *info);

/** Claims the bdev for a descriptor. `kind` is `BAY_CLAIM_*`. -EPERM when another claim conflicts. `[app thread]` */
typedef int32_t bay_client_claim_fn(const struct bay_host *host, uint64_t desc, uint32_t kind, uint64_t key);

/** Releases the claim of a descriptor. `[app thread]` */
typedef int32_t bay_client_unclaim_fn(const struct bay_host *host, uint64_t desc);

/** Gets the current thread's channel of the bdev and counts the reference. `[reactor]` */
typedef int32_t bay_client_chan_get_fn(const struct bay_host *host, uint64_t desc, uint64_t *chan);

/** Releases a channel. Its I/O must have completed. `[thread of the get]` */
typedef int32_t bay_client_chan_put_fn(const struct bay_host *host, uint64_t chan);

/** Returns an I/O to fill and submit. Returns NULL when the limit is reached; then the host queues `wait`, if it
 *  is not NULL. `[thread of the channel]`
 */
typedef struct bay_io *bay_client_io_get_fn(const struct bay_host *host, uint64_t chan, struct bay_wait *wait);

/** Returns an I/O that was not submitted to the host. `[thread of the channel]` */
typedef void bay_client_io_put_fn(const struct bay_host *host, struct bay_io *io);

/** Returns a child of `parent` on another channel, with all fields copied. Never NULL while the number of
 *  children stays within the declared `max_children`. `[thread of the channel]`
 */
typedef struct bay_io *bay_client_io_derive_fn(const struct bay_host *host, uint64_t chan, struct bay_io *parent);

/** As `io_derive`, but the child has only the data and metadata of `nblocks` blocks of the parent, from its block
 *  `first` on. Also NULL when the parent does not have these blocks. `[thread of the channel]`
 */
typedef struct bay_io *bay_client_io_derive_part_fn(const struct bay_host *host, uint64_t chan, struct bay_io *parent, uint64_t first, uint64_t nblocks);

/** Submits an I/O. The host calls `cb` exactly once, during the call or later. `iov` must stay valid until then.
 *  `[thread of the channel]`
 */
typedef void bay_client_submit_fn(const struct bay_host *host, struct bay_io *io, bay_io_cb_fn *cb, void *arg);

/** Removes and returns the oldest range of lost blocks that this descriptor has not been told of yet. 0, or
 *  -ENOENT when there is none. `[thread of the open]`
 */
typedef int32_t bay_client_media_fn(const struct bay_host *host, uint64_t desc, uint64_t *lba, uint64_t *nblocks);

/** Completes `parent` with a child's status and detail. Call it from the child's callback. `[thread of the submit]` */
typedef void bay_client_complete_from_fn(const struct bay_host *host, struct bay_io *parent, struct bay_io *child, int32_t status);

/** Tells the module of the bdev that a burst of submits has ended. `[thread of the channel]` */
typedef void bay_client_flush_fn(const struct bay_host *host, uint64_t chan);

/** Passes an I/O that the host submitted to the caller's module on to another bdev. Only its first block changes,
 *  to `lba`. The host owns `io` from here on and completes it with the other bdev's status.
 *  `[thread of the channel]`
 */
typedef void bay_client_pass_fn(const struct bay_host *host, uint64_t chan, struct bay_io *io, uint64_t lba);

/** Removes a waiter from the queue of `io_get`. 0, or -ENOENT when it is not queued. `[thread of the channel]` */
typedef int32_t bay_client_io_abort_fn(const struct bay_host *host, uint64_t chan, struct bay_wait *wait);

/** Announces a new bdev. The module may open and claim it here, but must not do I/O. `[app thread]` */
typedef void bay_examine_config_fn(void *state, struct bay_str name);

/** Announces a new bdev. The module may read it, and calls `examine_done(token)` when finished. `[app thread]` */
typedef void bay_examine_disk_fn(void *state, struct bay_str name, uint64_t token);

/** Writes the module's configuration as comma-separated JSON objects `{"method":…,"params":…}`. `[app thread]` */
typedef void bay_module_config_fn(void *state, const struct bay_sink *sink);

/** The host shuts down: the module closes the bdevs it has opened. `[app thread]` */
typedef void bay_module_fini_start_fn(void *state);

/** Reports that an `examine_disk` has finished. `[app thread]` */
typedef void bay_examine_done_fn(const struct bay_host *host, uint64_t token);

/** Handles a message. `[thread it was sent to]` */
typedef void bay_msg_fn(void *arg);

/** Runs one round of a poller. Returns more than 0 when it did work. `[thread of the poller]` */
typedef int32_t bay_poll_fn(void *ctx);

/** Returns when the poller must run next, on the host's clock in nanoseconds; `u64::MAX` = only when woken.
 *  `[thread of the poller]`
 */
typedef uint64_t bay_poller_next_fn(void *ctx);

/** The thread has woken up. `[thread of the poller]` */
typedef void bay_poller_woke_fn(void *ctx);

/** Returns the current lightweight thread, or 0 when the caller is not on one. `[any thread]` */
typedef uint64_t bay_thread_current_fn(const struct bay_host *host);

/** Returns the thread on which the control plane runs. `[any thread]` */
typedef uint64_t bay_thread_app_fn(const struct bay_host *host);

/** Returns the first core after `after` that has a reactor, or -1 when there is none. Start with -1. `[any thread]` */
typedef int32_t bay_thread_next_core_fn(const struct bay_host *host, int32_t after);

/** Creates a lightweight thread. `cpumask` as `0x3` or `[0,1]`; empty = any core. `[any reactor]` */
typedef int32_t bay_thread_create_fn(const struct bay_host *host, struct bay_str name, struct bay_str cpumask, uint64_t *thread);

/** Ends the current thread once it has no poller and no channel left. `[thread itself]` */
typedef int32_t bay_thread_exit_fn(const struct bay_host *host, uint64_t thread);

/** Moves a thread to a core of `cpumask`. `[any reactor]` */
typedef int32_t bay_thread_set_cpumask_fn(const struct bay_host *host, uint64_t thread, struct bay_str cpumask);

/** Sends an intrusive message. The host owns the memory until the receiver's `call` begins. Cannot fail while the
 *  receiver exists. `[any thread]`
 */
typedef int32_t bay_thread_send_fn(const struct bay_host *host, uint64_t thread, struct bay_msg *msg);

/** Returns the host's clock in nanoseconds. A reactor reads the clock once a round. `[any thread]` */
typedef uint64_t bay_now_ns_fn(const struct bay_host *host);

/** Adds a poller to the current thread and stores its handle. `period_us` 0 = every round. Returns 0 or a negative
 *  errno. `[reactor]`
 */
typedef int32_t bay_poller_register_fn(const struct bay_host *host, const struct bay_poller_ops *ops, void *ctx, uint64_t period_us, struct bay_str name, uint64_t *poller);

/** Removes, pauses or resumes a poller. A poller may call it for itself. `[thread of the poller]` */
typedef int32_t bay_poller_fn(const struct bay_host *host, uint64_t poller);

/** Adds a file descriptor that wakes the thread (`events` as in poll(2)), or removes it (`events` = 0).
 *  `[thread of the poller]`
 */
typedef int32_t bay_poller_wake_fd_fn(const struct bay_host *host, uint64_t poller, int32_t fd, uint32_t events);

/** Creates one thread's channel of an io_device in `ctx_size` zeroed bytes. `[reactor]` */
typedef int32_t bay_io_device_create_fn(void *device, void *chan);

/** Destroys one thread's channel. `[thread of the channel]` */
typedef void bay_io_device_destroy_fn(void *device, void *chan);

/** Registers an io_device. `[app thread]` */
typedef int32_t bay_io_device_register_fn(const struct bay_host *host, void *ctx, bay_io_device_create_fn *create, bay_io_device_destroy_fn *destroy, uint32_t ctx_size, struct bay_str name, uint64_t *device);

/** Unregisters an io_device. The host calls `done` when the last channel is closed. `[app thread]` */
typedef int32_t bay_io_device_unregister_fn(const struct bay_host *host, uint64_t device, bay_cb_fn *done, void *arg);

/** Returns the current thread's channel and counts the reference; NULL when `create` failed. `[reactor]` */
typedef void *bay_io_device_chan_get_fn(const struct bay_host *host, uint64_t device, uint64_t *chan);

/** Releases a channel. `[thread of the get]` */
typedef void bay_io_device_chan_put_fn(const struct bay_host *host, uint64_t chan);

/** Returns a buffer of at least `len` bytes in a DMA region, 4096-aligned. Returns NULL when no buffer is free; then
 *  the host queues `wait`, if it is not NULL. `[reactor]`
 */
typedef void *bay_buf_get_fn(const struct bay_host *host, uint32_t len, uint32_t *region, struct bay_wait *wait);

/** Returns a buffer to its pool. `len` must be as requested. `[reactor]` */
typedef void bay_buf_put_fn(const struct bay_host *host, void *buf, uint32_t len);

/** Removes a waiter from the queue. `[thread of the wait]` */
typedef void bay_buf_abort_fn(const struct bay_host *host, struct bay_wait *wait);

/** Describes the pool of buffers for `len` bytes. Stores the size of its buffers in bytes, and how many of them one
 *  thread can always get when no other thread holds any. -EINVAL: no pool has buffers of that size. `[any thread]`
 */
typedef int32_t bay_buf_pool_fn(const struct bay_host *host, uint32_t len, uint32_t *size, uint64_t *count);

/** Allocates zeroed memory that devices can access, aligned to `align` (a power of two). NULL when it fails. `[control]` */
typedef void *bay_mem_alloc_fn(const struct bay_host *host, uint64_t len, uint64_t align, int32_t numa, uint32_t *region);

/** Frees memory that `alloc` returned. `[control]` */
typedef void bay_mem_free_fn(const struct bay_host *host, void *addr, uint64_t len);

/** Zeroes part of an allocation. Returns its whole pages to the system unless the host uses hugepages. The time grows
 *  with `len`, so zero about 1 MiB a round. 0 or -EINVAL. `[any thread]`
 */
typedef int32_t bay_mem_zero_fn(const struct bay_host *host, void *addr, uint64_t len);

/** Maps `len` bytes at `offset` of a shared file and stores the region's number. The caller keeps the file descriptor.
 *  -EINVAL when the file does not have these bytes or when they are not whole pages. `[app thread]`
 */
typedef int32_t bay_mem_region_import_fn(const struct bay_host *host, int32_t fd, uint64_t offset, uint64_t len, uint32_t *region);

/** Removes an imported region. The host notifies the watchers, unmaps the memory when all have released it, then
 *  calls `done`. `[app thread]`
 */
typedef int32_t bay_mem_region_remove_fn(const struct bay_host *host, uint32_t region, bay_cb_fn *done, void *arg);

/** Returns the region that contains all `len` bytes at `addr`; 0 = plain memory. Takes a lock: do not call it on the
 *  data path. `[any thread]`
 */
typedef uint32_t bay_mem_region_of_fn(const struct bay_host *host, const void *addr, uint64_t len);

/** An imported region was added, or is being removed. `[app thread]` */
typedef void bay_mem_region_changed_fn(void *ctx, uint32_t region);

/** Watches imported regions. The host soon reports the existing ones as well. A region that is being removed stays
 *  mapped until `region_release`. `[app thread]`
 */
typedef int32_t bay_mem_watch_fn(const struct bay_host *host, bay_mem_region_changed_fn *added, bay_mem_region_changed_fn *removing, void *ctx, uint64_t *watch);

/** Ends a watch. The watcher has released every region before. `[app thread]` */
typedef int32_t bay_mem_unwatch_fn(const struct bay_host *host, uint64_t watch);

/** The watcher releases a region that is being removed. `[any thread]` */
typedef int32_t bay_mem_region_release_fn(const struct bay_host *host, uint64_t watch, uint32_t region);

/** Handles a call. `params` is JSON text, valid for the call. The method answers exactly once, with `reply` or
 *  `error`. `[app thread]`
 */
typedef void bay_rpc_call_fn(void *ctx, uint64_t req, struct bay_str params);

/** Registers a method. -EEXIST when the name is taken. `[app thread]` */
typedef int32_t bay_rpc_register_fn(const struct bay_host *host, const struct bay_rpc_method *method, uint64_t *id);

/** Unregisters a method. It may still answer calls in flight. `[app thread]` */
typedef int32_t bay_rpc_unregister_fn(const struct bay_host *host, uint64_t id);

/** Answers a call with a result, as JSON text. `[any thread]` */
typedef int32_t bay_rpc_reply_fn(const struct bay_host *host, uint64_t req, struct bay_str result);

/** Answers a call with an error. `data` is JSON text or empty. `[any thread]` */
typedef int32_t bay_rpc_error_fn(const struct bay_host *host, uint64_t req, int32_t code, struct bay_str message, struct bay_str data);

/** The provider withdraws the table: release the reference soon. `[app thread]` */
typedef void bay_broker_revoked_fn(void *arg);

/** Provides a table under an id such as `bay.nvmf_target/1`. `[app thread]` */
typedef int32_t bay_broker_provide_fn(const struct bay_host *host, struct bay_str id, const void *table, uint64_t *handle);

/** Withdraws a table. The host calls `done` when all references are released. `[app thread]` */
typedef int32_t bay_broker_withdraw_fn(const struct bay_host *host, uint64_t handle, bay_cb_fn *done, void *arg);

/** Returns another plugin's table, valid until `release`. NULL when no plugin provides it, even if the host has
 *  loaded the plugin that will. `[app thread]`
 */
typedef const void *bay_broker_acquire_fn(const struct bay_host *host, struct bay_str id, bay_broker_revoked_fn *revoked, void *arg, uint64_t *reference);

/** Releases a reference. `[app thread]` */
typedef int32_t bay_broker_release_fn(const struct bay_host *host, uint64_t reference);

/** Appends an event for `notify_get_notifications`. `[any thread]` */
typedef void bay_notify_fn(const struct bay_host *host, struct bay_str kind, struct bay_str context);

/** Writes the plugin's part of a subsystem's configuration, as comma-separated JSON objects. `[app thread]` */
typedef void bay_subsystem_config_fn(void *ctx, const struct bay_sink *sink);

/** Declares that this plugin is a subsystem, or part of one, in `framework_get_subsystems`. `[app thread]` */
typedef int32_t bay_subsystem_register_fn(const struct bay_host *host, struct bay_str name, bay_subsystem_config_fn *config, void *ctx);

/** Begins an asynchronous stop. The plugin calls `done` when it has no work left. `[app thread]` */
typedef void bay_quiesce_begin_fn(void *state, bay_cb_fn *done, void *arg);

/** The log level changed. `[app thread]` */
typedef void bay_log_changed_fn(void *state);

/** Does work that may block. `[worker]` */
typedef void bay_job_fn(void *arg);

/** Queues a job for a worker. The host owns the job until the submitter receives `done`. -EAGAIN when too many jobs
 *  wait. `[any lightweight thread]`
 */
typedef int32_t bay_worker_submit_fn(const struct bay_host *host, struct bay_job *job);

/** Cancels a job. 0 = the job does not run and `done` is not sent; -EBUSY = it is running or has run.
 *  `[thread of the submit]`
 */
typedef int32_t bay_worker_cancel_fn(const struct bay_host *host, struct bay_job *job);

/** Registers a fabric under its transport type, such as `TCP`. Returns 0 and a handle, or a negative errno. `[app thread]` */
typedef int32_t bay_nvmf_register_fn(void *target, struct bay_str name, const struct bay_nvmf_transport_ops *ops, void *ctx, uint64_t *handle);

/** Unregisters a fabric. The target closes its qpairs, ends its listeners, then calls `done`. `[app thread]` */
typedef int32_t bay_nvmf_unregister_fn(void *target, uint64_t handle, bay_cb_fn *done, void *arg);

/** Reports a new connection. The target picks a poll group and calls `group_add` on its thread.
 *  `[app thread or poll group's thread]`
 */
typedef int32_t bay_nvmf_new_qpair_fn(void *target, uint64_t handle, void *conn);

/** Lends a request to the target. Its command has arrived, and for a write also its data. `[poll group's thread]` */
typedef void bay_nvmf_exec_fn(void *target, void *qpair, struct bay_nvmf_req *req);

/** Reports that the connection is closed. The target releases the qpair when all its requests are back, then calls
 *  `qpair_free`. `[poll group's thread]`
 */
typedef void bay_nvmf_disconnected_fn(void *target, void *qpair);

/** Creates the transport from its options, the JSON parameters of `nvmf_create_transport`. `[app thread]` */
typedef int32_t bay_nvmf_create_fn(void *ctx, struct bay_str options, void **transport);

/** Destroys the transport. All its groups and listeners have ended. `[app thread]` */
typedef void bay_nvmf_destroy_fn(void *transport);

/** Writes the current options as one JSON object. `[app thread]` */
typedef void bay_nvmf_dump_fn(void *transport, const struct bay_sink *sink);

/** Writes why the fabric last refused a call (`create`, `listen`, `stop_listen`): a text that names the field and
 *  the allowed values, or nothing when the reason is not known. `ctx` as given to `register`. `[app thread]`
 */
typedef void bay_nvmf_explain_fn(void *ctx, const struct bay_sink *sink);

/** Starts or stops listening. Several subsystems may share an address; the target counts them. Returns 0 or a
 *  negative errno (-EADDRINUSE, -EADDRNOTAVAIL). `[app thread]`
 */
typedef int32_t bay_nvmf_listen_fn(void *transport, const struct bay_nvmf_addr *addr);

/** Creates one thread's part of the transport. `[poll group's thread]` */
typedef int32_t bay_nvmf_group_create_fn(void *transport, void **group);

/** Destroys a group that has no connection left. `[poll group's thread]` */
typedef void bay_nvmf_group_destroy_fn(void *group);

/** Adds a connection given to `new_qpair` to this group. `qpair` is the target's handle of it. `[poll group's thread]` */
typedef int32_t bay_nvmf_group_add_fn(void *group, void *conn, void *qpair);

/** Refuses a connection given to `new_qpair`, because the target has no poll group: close and free it. `[app thread]` */
typedef void bay_nvmf_conn_refused_fn(void *transport, void *conn);

/** Returns a request to the fabric with its response filled in. `[poll group's thread]` */
typedef void bay_nvmf_complete_fn(void *conn, struct bay_nvmf_req *req);

/** Closes a connection after the fabric has sent the responses that it already has. The fabric then calls
 *  `disconnected`. `[poll group's thread]`
 */
typedef void bay_nvmf_close_fn(void *conn);

/** Frees the connection. The target has released the qpair. `[poll group's thread]` */
typedef void bay_nvmf_qpair_free_fn(void *conn);

/** Fills the addresses of a connection. `[poll group's thread]` */
typedef int32_t bay_nvmf_conn_addr_fn(void *conn, struct bay_nvmf_addr *local, struct bay_nvmf_addr *peer);

/** The target accepted the connection as a queue: `sqsize` in entries, `qid` 0 = the admin queue. `[poll group's thread]` */
typedef void bay_nvmf_connected_fn(void *conn, uint16_t qid, uint16_t sqsize, uint32_t sq_flow_control);

/** One device of a list. The texts in `info` are valid for the call. `[thread of the list]` */
typedef void bay_pci_found_fn(void *ctx, const struct bay_pci_info *info);

/** Lists the PCI devices of the machine, in the order of their addresses. It reads files: not for the data path. `[any thread]` */
typedef int32_t bay_pci_list_fn(const struct bay_host *host, bay_pci_found_fn *found, void *ctx);

/** Opens a device that is bound to vfio-pci, and stores its handle. The device is reset, and bus mastering is off. When it fails, `why` (may be NULL) gets a text for the operator. The device belongs to the plugin until `close` or its end. May take 100 ms and more: for a worker. -EINVAL: not an address, -ENODEV: no such device, -ENXIO: not bound to vfio-pci, or no IOMMU, -EBUSY: in use, -EACCES: no permission, -ENOMEM: no memory to lock. `[any thread]` */
typedef int32_t bay_pci_open_fn(const struct bay_host *host, struct bay_str address, const struct bay_sink *why, uint64_t *device);

/** Closes a device: bus mastering is switched off first, and its BARs are unmapped. `[any thread]` */
typedef int32_t bay_pci_close_fn(const struct bay_host *host, uint64_t device);

/** Reads or writes `len` bytes (1, 2 or 4) of configuration space at `offset`. -EINVAL: beyond its end, -EIO: the device is gone. `[any thread]` */
typedef int32_t bay_pci_config_fn(const struct bay_host *host, uint64_t device, uint32_t offset, uint32_t *value, uint32_t len);

/** Maps a base address register (0 to 5). The mapping stays until `close`. Reads of a device that is gone give all ones. -EINVAL: it has no such memory. `[any thread]` */
typedef int32_t bay_pci_bar_fn(const struct bay_host *host, uint64_t device, uint32_t index, void **addr, uint64_t *len);

/** Lets the device read and write memory (`on` 1), or stops it (0): once it returns, the device has no access. `[any thread]` */
typedef int32_t bay_pci_set_master_fn(const struct bay_host *host, uint64_t device, uint32_t on);

/** Resets the device. -EOPNOTSUPP: it has no function level reset. May take 100 ms: for a worker. `[any thread]` */
typedef int32_t bay_pci_reset_fn(const struct bay_host *host, uint64_t device);

/** Number of MSI-X vectors of the device, 0 = none. `[any thread]` */
typedef int32_t bay_pci_vectors_fn(const struct bay_host *host, uint64_t device, uint32_t *count);

/** Makes an eventfd for each of the first `count` MSI-X vectors and stores them in `fds`. They are the host's, open until `close`. Once for each device. `[any thread]` */
typedef int32_t bay_pci_interrupts_fn(const struct bay_host *host, uint64_t device, uint32_t count, int32_t *fds);

/** Stores an eventfd that becomes readable when the kernel asks for the device, because somebody pulls it out or unbinds it. The owner then ends its I/O and closes the device soon: the kernel waits for that. The eventfd is the host's, open until `close`. -EOPNOTSUPP: the kernel does not tell. `[any thread]` */
typedef int32_t bay_pci_removal_fd_fn(const struct bay_host *host, uint64_t device, int32_t *fd);

/** Lets devices reach a DMA region of the host, from now on until it is freed: `BAY_REGION_DMA` is set, and `iova` is valid. Buffers of the pools are reachable whenever a device is open. The memory is locked: it may take long, so not for the data path. -EINVAL: not a DMA region of the host, -ENOMEM: more than may be locked. `[any thread]` */
typedef int32_t bay_pci_share_fn(const struct bay_host *host, uint32_t region, const struct bay_sink *why);

/* Tables and requests */

/** Borrowed UTF-8 text without a terminating NUL; valid for the call only.
 *  Closed: never changes.
 */
struct bay_str {
    /** First byte; may be NULL when `len` is 0. */
    const uint8_t *ptr;
    /** Length in bytes. */
    size_t len;
};

/** Collects a text of unknown length from the callee; valid for the call only.
 *  Closed: never changes.
 */
struct bay_sink {
    /** First argument of `write`. */
    void *ctx;
    /** Appends a piece of text. */
    bay_sink_write_fn *write;
};

/** The door: exported as data under the symbol `bay_plugin_v1`.
 *  Open: grows at its end.
 */
struct bay_plugin {
    /** `BAY_MAGIC`. */
    uint64_t magic;
    /** Size of this struct as the plugin was compiled, in bytes. */
    uint32_t size;
    /** `BAY_ABI_MAJOR` of the header that the plugin was compiled with. */
    uint16_t abi_major;
    /** `BAY_ABI_MINOR` of the header that the plugin was compiled with. */
    uint16_t abi_minor;
    /** Oldest ABI minor of a host that can run the plugin. */
    uint16_t needs_minor;
    /** Zero. */
    uint16_t rsv0;
    /** `BAY_PF_*`. */
    uint32_t flags;
    /** Plugin name, NUL-terminated; must equal the manifest's. */
    const char *name;
    /** Semantic version, NUL-terminated; must equal the manifest's. */
    const char *version;
    /** Creates an instance. */
    bay_init_fn *init;
    /** Starts an instance. */
    bay_start_fn *start;
    /** Ends an instance. */
    bay_fini_fn *fini;
    /** Returns the interfaces that the plugin offers to the host; may be NULL. */
    bay_plugin_get_iface_fn *get_iface;
};

/** The host, as a plugin sees it. Each instance has its own. It is the first argument of every service, so the host
 *  knows which plugin owns what the service creates.
 *  Open: grows at its end.
 */
struct bay_host {
    /** Size of this struct as the host was compiled, in bytes. */
    uint32_t size;
    /** The host's ABI major. */
    uint16_t abi_major;
    /** The host's ABI minor. */
    uint16_t abi_minor;
    /** The host's private pointer. */
    void *ctx;
    /** Looks up a service table by id. */
    bay_host_get_iface_fn *get_iface;
    /** Log level: the plugin writes lines up to this level. Read it (relaxed) before you format a line. */
    const uint32_t *log_level;
    /** Writes a log line. */
    bay_log_fn *log;
};

/** One piece of a scatter/gather list.
 *  Closed: never changes.
 */
struct bay_iov {
    /** First byte. */
    void *addr;
    /** Length in bytes. */
    uint32_t len;
    /** Memory region of the host that contains this piece; 0 = plain memory. */
    uint32_t region;
};

/** One I/O request. The host owns it and lends it to the module from submit to `done`. The host keeps private data
 *  in front of it.
 *  Closed: never changes.
 */
struct BAY_ALIGNED(64) bay_io {
    /** `BAY_OP_*`. */
    uint16_t op;
    /** Number of elements of `iov`. */
    uint16_t iovcnt;
    /** The low 16 bits are hints. A module that does not know one of the high 16 bits must refuse the request. */
    uint32_t flags;
    /** First block. */
    uint64_t lba;
    /** Number of blocks. */
    uint64_t nblocks;
    /** Scatter/gather list. The host does not change it before `done`. */
    const struct bay_iov *iov;
    /** Completes the request. The host sets it. */
    bay_done_fn *done;
    /** `drv_ctx_size` bytes for the module while the request is in flight, aligned to 64. Undefined contents at submit. */
    void *drv_ctx;
    /** For the module's use while the request is in flight. */
    void *link;
    /** Rare fields of the request, or NULL. */
    const struct bay_io_ext *ext;
    /** Separate metadata buffer, or NULL. */
    void *md;
    /** Length of `md` in bytes. */
    uint32_t md_len;
    /** Memory region of `md`. */
    uint32_t md_region;
    /** More about the result. `detail_kind` says what it contains. */
    uint64_t detail;
    /** `BAY_DETAIL_*`. */
    uint8_t detail_kind;
    /** Priority, 0 = none. */
    uint8_t prio;
    /** How many others besides the module's code may access the buffers until `done`: child I/Os, and a device or the
     *  kernel (`BAY_HELD_BY_DEVICE`). Zero at submit; the module updates it while the request is in flight. When a module
     *  has failed, the host completes its requests, except those where this number is not zero.
     */
    uint16_t holds;
    /** Length of the bytes that `arg` points to, if the op uses it as a pointer. */
    uint32_t arg_len;
    /** Arguments of the op; see `BAY_OP_*`. */
    uint64_t arg[2];
    /** Identifies the request for an abort (slot and generation). */
    uint64_t id;
    /** Zero. */
    uint64_t rsv1;
};

/** One zone, as `BAY_OP_ZONE_REPORT` reports it.
 *  Closed: never changes.
 */
struct bay_zone {
    /** First block. */
    uint64_t lba;
    /** Number of blocks that can be written. */
    uint64_t capacity;
    /** The next block to write. */
    uint64_t write_pointer;
    /** State, numbered as `ZS` in the Zone Descriptor of the NVM Express Zoned Namespace Command Set 1.1. */
    uint8_t state;
    /** Type, numbered as `ZT` in the same structure. */
    uint8_t kind;
    /** Zero. */
    uint8_t rsv[6];
};

/** Rarely used fields of a request. Draft: no field is valid yet.
 *  Open: grows at its end.
 */
struct bay_io_ext {
    /** Size of this struct, in bytes. */
    uint32_t size;
    /** Bit mask of the fields that are set. */
    uint32_t valid;
    /** Trace id. */
    uint64_t trace_id;
};

/** What `chan_create` receives.
 *  Open: grows at its end.
 */
struct bay_chan_args {
    /** Size of this struct, in bytes. */
    uint32_t size;
    /** NUMA node of the thread, -1 = any. */
    int32_t numa;
    /** The lightweight thread that owns the channel. */
    uint64_t thread;
    /** The host's handle of the channel, for `kick`, `chan_ready` and `chan_closed`. */
    uint64_t host_chan;
    /** State handed over by an older instance, or NULL. */
    const void *handover;
};

/** The functions of a bdev. The host calls a channel only on the channel's thread. It never calls `submit`, `flush`
 *  or `chan_destroy` of a channel while another of the three is running. It may call them while the module itself is
 *  calling the host from elsewhere, such as `done` from a poller.
 *  Open: grows at its end.
 */
struct bay_bdev_ops {
    /** Size of this struct as the plugin was compiled, in bytes. */
    uint32_t size;
    /** Zero. */
    uint32_t flags;
    /** Starts an I/O. Required. */
    bay_submit_fn *submit;
    /** Ends a burst; may be NULL. */
    bay_flush_fn *flush;
    /** Creates a thread's channel. Required. */
    bay_chan_create_fn *chan_create;
    /** Destroys a channel. Required. */
    bay_chan_destroy_fn *chan_destroy;
    /** Frees the bdev. Required. */
    bay_destruct_fn *destruct;
    /** Writes the members of `driver_specific` in `bdev_get_bdevs`, as one JSON object; may be NULL. */
    bay_dump_fn *dump_info;
    /** Writes the RPC call that creates this bdev again, as `{"method":…,"params":…}`; may be NULL. */
    bay_dump_fn *write_config;
    /** Writes the module's own counters as one JSON object; may be NULL. */
    bay_dump_fn *dump_stats;
    /** Resets the module's own counters; may be NULL. */
    bay_reset_stats_fn *reset_stats;
};

/** Describes a bdev to the bus. `register` copies texts and lists.
 *  Open: grows at its end.
 */
struct bay_bdev_reg {
    /** Size of this struct as the plugin was compiled, in bytes. */
    uint32_t size;
    /** `BAY_BDEV_*`. */
    uint32_t flags;
    /** First argument of `destruct` and of the other functions that get a bdev. */
    void *ctx;
    /** The bdev's functions. The table must stay valid until the bdev is destructed. */
    const struct bay_bdev_ops *ops;
    /** Name, unique on the bus. */
    struct bay_str name;
    /** Product name, as `bdev_get_bdevs` shows it. */
    struct bay_str product;
    /** Aliases, or NULL. */
    const struct bay_str *aliases;
    /** Number of aliases. */
    uint32_t naliases;
    /** Block size in bytes. Includes the metadata if it is interleaved. */
    uint32_t block_size;
    /** Capacity in blocks. */
    uint64_t num_blocks;
    /** UUID. If all bytes are zero, the bus derives one from the name. */
    uint8_t uuid[16];
    /** Physical block size in bytes; 0 = `block_size`. */
    uint32_t phys_block_size;
    /** Write unit in blocks: the length of a write must be a multiple of it. 0 = 1. */
    uint32_t write_unit;
    /** Number of blocks that the device writes completely or not at all; 0 = 1. */
    uint32_t atomic_write_unit;
    /** Required alignment of buffers in bytes, a power of two; 0 = 1. The bus copies unaligned data into a bounce buffer. */
    uint32_t align;
    /** The bus splits I/O at multiples of this many blocks; 0 = never. */
    uint32_t optimal_boundary;
    /** Maximum number of elements of a scatter/gather list; 0 = no limit. The bus splits longer I/O. */
    uint32_t max_segments;
    /** Maximum bytes in one element; 0 = no limit. */
    uint32_t max_segment_size;
    /** Maximum blocks of one read or write; 0 = no limit. */
    uint32_t max_io_blocks;
    /** Maximum blocks of one unmap; 0 = no limit. */
    uint32_t max_unmap;
    /** Maximum blocks of one write zeroes; 0 = no limit. */
    uint32_t max_write_zeroes;
    /** Maximum blocks of one copy; 0 = no limit. */
    uint32_t max_copy;
    /** Metadata bytes per block. */
    uint32_t md_size;
    /** 1 = the metadata follows each block's data, 0 = it is in a separate buffer. */
    uint8_t md_interleave;
    /** T10 DIF type 0 to 3. */
    uint8_t dif_type;
    /** 1 = the protection information is at the start of the metadata, 0 = at its end. */
    uint8_t dif_is_head;
    /** 0 = 16 bit guard, 1 = 32, 2 = 64. */
    uint8_t dif_pi_format;
    /** Bit mask of the protection information checks. */
    uint32_t dif_check_flags;
    /** NUMA node, -1 = any. */
    int32_t numa;
    /** Namespace id of an NVMe bdev, 0 for any other. */
    uint32_t nsid;
    /** How long the bus waits for I/O in flight before it submits a reset to the module, in milliseconds. */
    uint32_t reset_drain_ms;
    /** 1 = buffers must be in the host's DMA regions. The bus copies other data into a bounce buffer. */
    uint32_t needs_dma;
    /** Bit `1 << BAY_OP_*` for each op that the module accepts. */
    uint64_t ops_mask;
    /** Must-understand flags that the module accepts. */
    uint32_t must_flags;
    /** Filters: how many children of one I/O may be in flight at once. */
    uint32_t max_children;
    /** Size of `drv_ctx`, in bytes. */
    uint32_t drv_ctx_size;
    /** Zero. */
    uint32_t rsv0;
    /** Name of the base bdev of a filter. */
    struct bay_str base;
    /** Blocks per zone; 0 = not zoned. Draft. */
    uint64_t zone_size;
    /** Maximum number of open zones. Draft. */
    uint32_t max_open_zones;
    /** Maximum number of active zones. Draft. */
    uint32_t max_active_zones;
};

/** What the bus tells a client about an open bdev.
 *  Open: grows at its end.
 */
struct bay_bdev_info {
    /** Size of this struct as the caller was compiled, in bytes. */
    uint32_t size;
    /** `BAY_BDEV_*`. */
    uint32_t flags;
    /** Capacity in blocks. */
    uint64_t num_blocks;
    /** Block size in bytes. */
    uint32_t block_size;
    /** Physical block size in bytes. */
    uint32_t phys_block_size;
    /** Ops that a client may submit: those of the module and those that the bus emulates. */
    uint64_t ops_mask;
    /** UUID. */
    uint8_t uuid[16];
    /** Write unit in blocks. */
    uint32_t write_unit;
    /** Number of blocks that the device writes completely or not at all. */
    uint32_t atomic_write_unit;
    /** Required alignment of buffers in bytes. */
    uint32_t align;
    /** The bus splits I/O at multiples of this many blocks; 0 = never. */
    uint32_t optimal_boundary;
    /** Metadata bytes per block. */
    uint32_t md_size;
    /** 1 = the metadata follows each block's data, 0 = it is in a separate buffer. */
    uint8_t md_interleave;
    /** T10 DIF type 0 to 3. */
    uint8_t dif_type;
    /** 1 = the protection information is at the start of the metadata, 0 = at its end. */
    uint8_t dif_is_head;
    /** 0 = 16 bit guard, 1 = 32, 2 = 64. */
    uint8_t dif_pi_format;
    /** NUMA node, -1 = any. */
    int32_t numa;
    /** Must-understand flags that a client may set, including those that the bus emulates. */
    uint32_t must_flags;
    /** Name of the bdev; valid while the descriptor is open. */
    struct bay_str name;
};

/** An entry of a wait queue. The memory belongs to the waiter; the host links it until it calls `cb`.
 *  Closed: never changes.
 */
struct bay_wait {
    /** Called when the resource is available. */
    bay_wait_fn *cb;
    /** Argument of `cb`. */
    void *arg;
    /** For the host's use while the entry is queued. */
    void *link;
    /** Zero. */
    uint64_t rsv;
};

/** `bay.bdev/1`: the functions of the bus for modules.
 *  Open: grows at its end.
 */
struct bay_bdev_api {
    /** Size of this struct as the host was compiled, in bytes. */
    uint32_t size;
    /** Zero. */
    uint32_t flags;
    /** Registers a bdev. */
    bay_bdev_register_fn *register_;
    /** Unregisters a bdev. */
    bay_bdev_unregister_fn *unregister;
    /** Finishes a pending `destruct`. */
    bay_bdev_destruct_done_fn *destruct_done;
    /** Finishes a pending `chan_create`. */
    bay_bdev_chan_ready_fn *chan_ready;
    /** Finishes a pending `chan_destroy`. */
    bay_bdev_chan_closed_fn *chan_closed;
    /** Changes the size of a bdev. */
    bay_bdev_resize_fn *resize;
    /** Resubmits the I/O that waits for a resource of the module. */
    bay_bdev_kick_fn *kick;
    /** Holds back the I/O of a range. */
    bay_bdev_quiesce_fn *quiesce;
    /** Releases the I/O that one `quiesce` holds back; the range must be the same. */
    bay_bdev_quiesce_fn *unquiesce;
    /** Finishes an `examine_disk`. */
    bay_examine_done_fn *examine_done;
    /** Reserves a name and a UUID. */
    bay_bdev_reserve_fn *reserve;
    /** Releases a reservation. */
    bay_bdev_release_fn *release;
    /** Adds or removes an alias. */
    bay_bdev_alias_fn *alias;
    /** Reports blocks that lost their data. */
    bay_bdev_media_fn *media;
};

/** `bay.bdev_client/1`: the functions of the bus for clients that do I/O.
 *  Open: grows at its end.
 */
struct bay_bdev_client_api {
    /** Size of this struct as the host was compiled, in bytes. */
    uint32_t size;
    /** Zero. */
    uint32_t flags;
    /** Opens a bdev. */
    bay_client_open_fn *open;
    /** Closes a descriptor. */
    bay_client_close_fn *close;
    /** Describes an open bdev. */
    bay_client_info_fn *info;
    /** Claims an open bdev. */
    bay_client_claim_fn *claim;
    /** Releases a claim. */
    bay_client_unclaim_fn *unclaim;
    /** Gets the current thread's channel. */
    bay_client_chan_get_fn *chan_get;
    /** Releases a channel. */
    bay_client_chan_put_fn *chan_put;
    /** Gets an I/O to fill and submit. */
    bay_client_io_get_fn *io_get;
    /** Returns an I/O that was not submitted. */
    bay_client_io_put_fn *io_put;
    /** Derives a child I/O from a parent. */
    bay_client_io_derive_fn *io_derive;
    /** Submits an I/O. */
    bay_client_submit_fn *submit;
    /** Completes a parent with its child's status. */
    bay_client_complete_from_fn *complete_from;
    /** Ends a burst of submits. */
    bay_client_flush_fn *flush;
    /** Passes an I/O on to another bdev. */
    bay_client_pass_fn *pass;
    /** Removes a waiter from the queue of `io_get`. */
    bay_client_io_abort_fn *io_abort;
    /** Derives a child I/O with a part of the parent's data. */
    bay_client_io_derive_part_fn *io_derive_part;
    /** Returns a range of blocks that lost their data. */
    bay_client_media_fn *media_next;
};

/** `bay.bdev_module/1`: a plugin with bdev modules may offer this table to the host. Every function may be NULL.
 *  Open: grows at its end.
 */
struct bay_bdev_module {
    /** Size of this struct as the plugin was compiled, in bytes. */
    uint32_t size;
    /** Zero. */
    uint32_t flags;
    /** A bdev was registered; no I/O allowed. */
    bay_examine_config_fn *examine_config;
    /** A bdev was registered; I/O allowed. */
    bay_examine_disk_fn *examine_disk;
    /** Writes the configuration that belongs to no single bdev. */
    bay_module_config_fn *write_config;
    /** The host shuts down. */
    bay_module_fini_start_fn *fini_start;
};

/** An intrusive message. The memory belongs to the sender, and is in use until the message is received.
 *  Closed: never changes.
 */
struct bay_msg {
    /** Called on the receiving thread. */
    bay_msg_fn *call;
    /** Argument of `call`. */
    void *arg;
    /** For the host's use while the message is in flight. */
    void *link;
    /** Zero. */
    uint64_t rsv;
};

/** The functions of a poller.
 *  Open: grows at its end.
 */
struct bay_poller_ops {
    /** Size of this struct as the plugin was compiled, in bytes. */
    uint32_t size;
    /** Zero. */
    uint32_t flags;
    /** Runs one round. Required. */
    bay_poll_fn *run;
    /** Arms the wake-ups, then checks for work: 0 = the thread may sleep, more than 0 = there is work. If NULL, the
     *  reactor never sleeps.
     */
    bay_poll_fn *prepare_sleep;
    /** The thread has woken up; may be NULL. */
    bay_poller_woke_fn *woke;
    /** Returns the next deadline; may be NULL. */
    bay_poller_next_fn *next_ns;
};

/** `bay.thread/1`.
 *  Open: grows at its end.
 */
struct bay_thread_api {
    /** Size of this struct as the host was compiled, in bytes. */
    uint32_t size;
    /** Zero. */
    uint32_t flags;
    /** Returns the current thread. */
    bay_thread_current_fn *current;
    /** Returns the app thread. */
    bay_thread_app_fn *app_thread;
    /** Walks the cores that have reactors. */
    bay_thread_next_core_fn *next_core;
    /** Creates a thread. */
    bay_thread_create_fn *create;
    /** Ends the current thread. */
    bay_thread_exit_fn *exit;
    /** Moves a thread. */
    bay_thread_set_cpumask_fn *set_cpumask;
    /** Sends a message. */
    bay_thread_send_fn *send;
    /** Returns the time. */
    bay_now_ns_fn *now_ns;
};

/** `bay.poller/1`.
 *  Open: grows at its end.
 */
struct bay_poller_api {
    /** Size of this struct as the host was compiled, in bytes. */
    uint32_t size;
    /** Zero. */
    uint32_t flags;
    /** Adds a poller. */
    bay_poller_register_fn *register_;
    /** Removes a poller. */
    bay_poller_fn *unregister;
    /** Pauses a poller. */
    bay_poller_fn *pause;
    /** Resumes a poller. */
    bay_poller_fn *resume;
    /** Adds or removes a file descriptor that wakes the thread. */
    bay_poller_wake_fd_fn *wake_fd;
};

/** `bay.draft.io_device/1`: shared objects, other than bdevs, with one channel per thread.
 *  Open: grows at its end.
 */
struct bay_io_device_api {
    /** Size of this struct as the host was compiled, in bytes. */
    uint32_t size;
    /** Zero. */
    uint32_t flags;
    /** Registers an io_device. */
    bay_io_device_register_fn *register_;
    /** Unregisters an io_device. */
    bay_io_device_unregister_fn *unregister;
    /** Gets the current thread's channel. */
    bay_io_device_chan_get_fn *chan_get;
    /** Releases a channel. */
    bay_io_device_chan_put_fn *chan_put;
};

/** `bay.buf/1`: buffers from the host's pools. Callers wait in a queue when a pool is empty.
 *  Open: grows at its end.
 */
struct bay_buf_api {
    /** Size of this struct as the host was compiled, in bytes. */
    uint32_t size;
    /** Largest buffer, in bytes. */
    uint32_t max_len;
    /** Gets a buffer. */
    bay_buf_get_fn *get;
    /** Returns a buffer. */
    bay_buf_put_fn *put;
    /** Removes a waiter from the queue. */
    bay_buf_abort_fn *abort;
    /** Describes a pool. */
    bay_buf_pool_fn *pool;
};

/** `bay.mem/1`: memory that devices can access.
 *  Open: grows at its end.
 */
struct bay_mem_api {
    /** Size of this struct as the host was compiled, in bytes. */
    uint32_t size;
    /** Zero. */
    uint32_t flags;
    /** Allocates memory. */
    bay_mem_alloc_fn *alloc;
    /** Frees memory. */
    bay_mem_free_fn *free;
    /** The region table: region `n` is at index `n`. Any thread may read the entries of the requests it has, without a call. */
    const struct bay_region *regions;
    /** Number of elements of `regions`. */
    uint32_t nregions;
    /** Number of NUMA nodes of the machine. `alloc` accepts -1 and every number below this one. */
    uint32_t numa_nodes;
    /** Maps a shared file as a region. */
    bay_mem_region_import_fn *region_import;
    /** Removes an imported region. */
    bay_mem_region_remove_fn *region_remove;
    /** Returns the region of an address. */
    bay_mem_region_of_fn *region_of;
    /** Watches imported regions. */
    bay_mem_watch_fn *watch;
    /** Ends a watch. */
    bay_mem_unwatch_fn *unwatch;
    /** Releases a region that is being removed. */
    bay_mem_region_release_fn *region_release;
    /** Zeroes part of an allocation. */
    bay_mem_zero_fn *zero;
};

/** One memory region. Requests refer to it by its number.
 *  Closed: never changes.
 */
struct bay_region {
    /** First byte. */
    void *addr;
    /** Length in bytes. */
    uint64_t len;
    /** Where devices see the first byte, while `state` has `BAY_REGION_DMA`. */
    uint64_t iova;
    /** `BAY_REGION_*`; 0 = no region. */
    uint32_t state;
    /** Zero. */
    uint32_t rsv0;
};

/** One RPC method.
 *  Open: grows at its end.
 */
struct bay_rpc_method {
    /** Size of this struct as the plugin was compiled, in bytes. */
    uint32_t size;
    /** `BAY_RPC_*`. */
    uint32_t states;
    /** Name of the method. */
    struct bay_str name;
    /** The declaration as JSON text: parameters, result, errors, aliases, role. */
    struct bay_str schema;
    /** Handles a call. */
    bay_rpc_call_fn *call;
    /** First argument of `call`. */
    void *ctx;
};

/** `bay.rpc/1`.
 *  Open: grows at its end.
 */
struct bay_rpc_api {
    /** Size of this struct as the host was compiled, in bytes. */
    uint32_t size;
    /** Zero. */
    uint32_t flags;
    /** Registers a method. */
    bay_rpc_register_fn *register_;
    /** Unregisters a method. */
    bay_rpc_unregister_fn *unregister;
    /** Answers a call with a result. */
    bay_rpc_reply_fn *reply;
    /** Answers a call with an error. */
    bay_rpc_error_fn *error;
};

/** `bay.broker/1`: plugins offer tables to other plugins.
 *  Open: grows at its end.
 */
struct bay_broker_api {
    /** Size of this struct as the host was compiled, in bytes. */
    uint32_t size;
    /** Zero. */
    uint32_t flags;
    /** Provides a table. */
    bay_broker_provide_fn *provide;
    /** Withdraws a table. */
    bay_broker_withdraw_fn *withdraw;
    /** Returns another plugin's table. */
    bay_broker_acquire_fn *acquire;
    /** Releases a table. */
    bay_broker_release_fn *release;
};

/** `bay.notify/1`: events and subsystems.
 *  Open: grows at its end.
 */
struct bay_notify_api {
    /** Size of this struct as the host was compiled, in bytes. */
    uint32_t size;
    /** Zero. */
    uint32_t flags;
    /** Appends an event. */
    bay_notify_fn *notify;
    /** Declares a subsystem. */
    bay_subsystem_register_fn *subsystem;
};

/** `bay.quiesce/1`: offered by a plugin that must finish work before `fini`.
 *  Open: grows at its end.
 */
struct bay_quiesce {
    /** Size of this struct as the plugin was compiled, in bytes. */
    uint32_t size;
    /** Zero. */
    uint32_t flags;
    /** Begins the stop. */
    bay_quiesce_begin_fn *begin;
};

/** Work that may block, for a worker thread of the host. The memory belongs to the submitter.
 *  Closed: never changes.
 */
struct bay_job {
    /** Does the work, on the worker. */
    bay_job_fn *run;
    /** Argument of `run`. */
    void *arg;
    /** The host sends this message to the submitting thread when `run` has returned. */
    struct bay_msg done;
};

/** `bay.draft.worker/1`: a few threads of the host for work that blocks. The host calls `fini` of a plugin only after
 *  all its jobs have finished.
 *  Open: grows at its end.
 */
struct bay_worker_api {
    /** Size of this struct as the host was compiled, in bytes. */
    uint32_t size;
    /** Zero. */
    uint32_t flags;
    /** Queues a job. */
    bay_worker_submit_fn *submit;
    /** Cancels a job. */
    bay_worker_cancel_fn *cancel;
};

/** `bay.log/1`: offered by a plugin that caches the log level.
 *  Open: grows at its end.
 */
struct bay_log_iface {
    /** Size of this struct as the plugin was compiled, in bytes. */
    uint32_t size;
    /** Zero. */
    uint32_t flags;
    /** The log level changed. */
    bay_log_changed_fn *changed;
};

/** A transport address as text. NUL bytes fill the rest of each field.
 *  Closed: never changes.
 */
struct bay_nvmf_addr {
    /** `TCP`, `RDMA`, … */
    uint8_t trtype[32];
    /** `IPv4`, `IPv6`, … */
    uint8_t adrfam[32];
    /** Address, such as an IP address. */
    uint8_t traddr[256];
    /** Service, such as a port number. */
    uint8_t trsvcid[32];
};

/** One request of a qpair. The fabric's private part follows it in memory.
 *  Closed: never changes.
 */
struct BAY_ALIGNED(64) bay_nvmf_req {
    /** The 64-byte command, as received. */
    uint64_t cmd[8];
    /** The 16-byte response: dword 0, dword 1, then SQHD, SQID (both set by the target), command id and status. */
    uint64_t rsp[2];
    /** Data buffers; NULL when `xfer` is `BAY_NVMF_XFER_NONE`. */
    struct bay_iov *iov;
    /** Elements of `iov`. */
    uint32_t iovcnt;
    /** Length of the data in bytes, from the command's SGL. */
    uint32_t len;
    /** `BAY_NVMF_XFER_*`. */
    uint8_t xfer;
    /** Zero. */
    uint8_t rsv0;
    /** Zero. */
    uint16_t rsv1;
    /** Length of the data to send back, in bytes. The target sets it, at most to `len`. */
    uint32_t rsp_len;
    /** The fabric's connection. */
    void *conn;
    /** For the target's use while it has the request. */
    uint64_t tgt[8];
};

/** The functions of a fabric.
 *  Open: grows at its end.
 */
struct bay_nvmf_transport_ops {
    /** Size of this struct as the plugin was compiled, in bytes. */
    uint32_t size;
    /** `BAY_NVMF_TRANSPORT_*`. */
    uint32_t flags;
    /** Creates the transport. */
    bay_nvmf_create_fn *create;
    /** Destroys the transport. */
    bay_nvmf_destroy_fn *destroy;
    /** Writes the current options. */
    bay_nvmf_dump_fn *dump;
    /** Starts listening on an address. */
    bay_nvmf_listen_fn *listen;
    /** Stops listening on an address. Existing connections stay. */
    bay_nvmf_listen_fn *stop_listen;
    /** Creates a thread's part of the transport. */
    bay_nvmf_group_create_fn *group_create;
    /** Destroys a thread's part of the transport. */
    bay_nvmf_group_destroy_fn *group_destroy;
    /** Adds a connection to a group. */
    bay_nvmf_group_add_fn *group_add;
    /** Refuses a connection that no group takes. */
    bay_nvmf_conn_refused_fn *conn_refused;
    /** Returns a completed request. */
    bay_nvmf_complete_fn *complete;
    /** Closes a connection. */
    bay_nvmf_close_fn *close;
    /** Frees a connection. */
    bay_nvmf_qpair_free_fn *qpair_free;
    /** Fills the addresses of a connection. */
    bay_nvmf_conn_addr_fn *conn_addr;
    /** The connection is now a queue; may be NULL. */
    bay_nvmf_connected_fn *connected;
    /** Writes why the fabric refused a call; may be NULL. */
    bay_nvmf_explain_fn *explain;
};

/** `bay.nvmf_target/1`: the functions of the target for fabrics.
 *  Open: grows at its end.
 */
struct bay_nvmf_target_api {
    /** Size of this struct as the plugin was compiled, in bytes. */
    uint32_t size;
    /** Zero. */
    uint32_t flags;
    /** First argument of every function. */
    void *target;
    /** Registers a fabric. */
    bay_nvmf_register_fn *register_;
    /** Unregisters a fabric. */
    bay_nvmf_unregister_fn *unregister;
    /** Reports a new connection. */
    bay_nvmf_new_qpair_fn *new_qpair;
    /** Submits a request. */
    bay_nvmf_exec_fn *exec;
    /** Reports that a connection is closed. */
    bay_nvmf_disconnected_fn *disconnected;
};

/** What is known of a PCI device without opening it.
 *  Open: grows at its end.
 */
struct bay_pci_info {
    /** Size of this struct as the host was compiled, in bytes. */
    uint32_t size;
    /** Vendor identifier. */
    uint16_t vendor;
    /** Device identifier. */
    uint16_t device;
    /** Subsystem vendor identifier. */
    uint16_t subvendor;
    /** Subsystem identifier. */
    uint16_t subdevice;
    /** Class code, 24 bits: 0x010802 is an NVMe controller. */
    uint32_t class_;
    /** NUMA node; -1 = not known. */
    int32_t numa;
    /** IOMMU group; -1 = none. */
    int32_t iommu_group;
    /** Zero. */
    uint32_t rsv;
    /** Address, `DDDD:BB:DD.F`. */
    struct bay_str address;
    /** Name of its kernel driver; empty = none. */
    struct bay_str driver;
};

/** `bay.pci/1`.
 *  Open: grows at its end.
 */
struct bay_pci_api {
    /** Size of this struct as the host was compiled, in bytes. */
    uint32_t size;
    /** Zero. */
    uint32_t flags;
    /** Lists devices. */
    bay_pci_list_fn *list;
    /** Opens one. */
    bay_pci_open_fn *open;
    /** Closes it. */
    bay_pci_close_fn *close;
    /** Reads configuration space. */
    bay_pci_config_fn *config_read;
    /** Writes configuration space. The bit for bus mastering is changed by `set_master` only. */
    bay_pci_config_fn *config_write;
    /** Maps a BAR. */
    bay_pci_bar_fn *bar;
    /** Switches bus mastering. */
    bay_pci_set_master_fn *set_master;
    /** Resets it. */
    bay_pci_reset_fn *reset;
    /** Counts its interrupt vectors. */
    bay_pci_vectors_fn *vectors;
    /** Gives them. */
    bay_pci_interrupts_fn *interrupts;
    /** Gives the descriptor that tells when the device has to be closed. */
    bay_pci_removal_fd_fn *removal_fd;
    /** Lets devices reach a region. */
    bay_pci_share_fn *share;
};

/* The layout, as every compiler must see it */

BAY_ASSERT(sizeof(struct bay_str) == 16, "bay_str");
BAY_ASSERT(BAY_ALIGNOF(struct bay_str) == 8, "bay_str");
BAY_ASSERT(offsetof(struct bay_str, ptr) == 0, "bay_str.ptr");
BAY_ASSERT(sizeof(((struct bay_str *)0)->ptr) == 8, "bay_str.ptr");
BAY_ASSERT(offsetof(struct bay_str, len) == 8, "bay_str.len");
BAY_ASSERT(sizeof(((struct bay_str *)0)->len) == 8, "bay_str.len");
BAY_ASSERT(sizeof(struct bay_sink) == 16, "bay_sink");
BAY_ASSERT(BAY_ALIGNOF(struct bay_sink) == 8, "bay_sink");
BAY_ASSERT(offsetof(struct bay_sink, ctx) == 0, "bay_sink.ctx");
BAY_ASSERT(sizeof(((struct bay_sink *)0)->ctx) == 8, "bay_sink.ctx");
BAY_ASSERT(offsetof(struct bay_sink, write) == 8, "bay_sink.write");
BAY_ASSERT(sizeof(((struct bay_sink *)0)->write) == 8, "bay_sink.write");
BAY_ASSERT(sizeof(struct bay_plugin) == 72, "bay_plugin");
BAY_ASSERT(BAY_ALIGNOF(struct bay_plugin) == 8, "bay_plugin");
BAY_ASSERT(offsetof(struct bay_plugin, magic) == 0, "bay_plugin.magic");
BAY_ASSERT(sizeof(((struct bay_plugin *)0)->magic) == 8, "bay_plugin.magic");
BAY_ASSERT(offsetof(struct bay_plugin, size) == 8, "bay_plugin.size");
BAY_ASSERT(sizeof(((struct bay_plugin *)0)->size) == 4, "bay_plugin.size");
BAY_ASSERT(offsetof(struct bay_plugin, abi_major) == 12, "bay_plugin.abi_major");
BAY_ASSERT(sizeof(((struct bay_plugin *)0)->abi_major) == 2, "bay_plugin.abi_major");
BAY_ASSERT(offsetof(struct bay_plugin, abi_minor) == 14, "bay_plugin.abi_minor");
BAY_ASSERT(sizeof(((struct bay_plugin *)0)->abi_minor) == 2, "bay_plugin.abi_minor");
BAY_ASSERT(offsetof(struct bay_plugin, needs_minor) == 16, "bay_plugin.needs_minor");
BAY_ASSERT(sizeof(((struct bay_plugin *)0)->needs_minor) == 2, "bay_plugin.needs_minor");
BAY_ASSERT(offsetof(struct bay_plugin, rsv0) == 18, "bay_plugin.rsv0");
BAY_ASSERT(sizeof(((struct bay_plugin *)0)->rsv0) == 2, "bay_plugin.rsv0");
BAY_ASSERT(offsetof(struct bay_plugin, flags) == 20, "bay_plugin.flags");
BAY_ASSERT(sizeof(((struct bay_plugin *)0)->flags) == 4, "bay_plugin.flags");
BAY_ASSERT(offsetof(struct bay_plugin, name) == 24, "bay_plugin.name");
BAY_ASSERT(sizeof(((struct bay_plugin *)0)->name) == 8, "bay_plugin.name");
BAY_ASSERT(offsetof(struct bay_plugin, version) == 32, "bay_plugin.version");
BAY_ASSERT(sizeof(((struct bay_plugin *)0)->version) == 8, "bay_plugin.version");
BAY_ASSERT(offsetof(struct bay_plugin, init) == 40, "bay_plugin.init");
BAY_ASSERT(sizeof(((struct bay_plugin *)0)->init) == 8, "bay_plugin.init");
BAY_ASSERT(offsetof(struct bay_plugin, start) == 48, "bay_plugin.start");
BAY_ASSERT(sizeof(((struct bay_plugin *)0)->start) == 8, "bay_plugin.start");
BAY_ASSERT(offsetof(struct bay_plugin, fini) == 56, "bay_plugin.fini");
BAY_ASSERT(sizeof(((struct bay_plugin *)0)->fini) == 8, "bay_plugin.fini");
BAY_ASSERT(offsetof(struct bay_plugin, get_iface) == 64, "bay_plugin.get_iface");
BAY_ASSERT(sizeof(((struct bay_plugin *)0)->get_iface) == 8, "bay_plugin.get_iface");
BAY_ASSERT(sizeof(struct bay_host) == 40, "bay_host");
BAY_ASSERT(BAY_ALIGNOF(struct bay_host) == 8, "bay_host");
BAY_ASSERT(offsetof(struct bay_host, size) == 0, "bay_host.size");
BAY_ASSERT(sizeof(((struct bay_host *)0)->size) == 4, "bay_host.size");
BAY_ASSERT(offsetof(struct bay_host, abi_major) == 4, "bay_host.abi_major");
BAY_ASSERT(sizeof(((struct bay_host *)0)->abi_major) == 2, "bay_host.abi_major");
BAY_ASSERT(offsetof(struct bay_host, abi_minor) == 6, "bay_host.abi_minor");
BAY_ASSERT(sizeof(((struct bay_host *)0)->abi_minor) == 2, "bay_host.abi_minor");
BAY_ASSERT(offsetof(struct bay_host, ctx) == 8, "bay_host.ctx");
BAY_ASSERT(sizeof(((struct bay_host *)0)->ctx) == 8, "bay_host.ctx");
BAY_ASSERT(offsetof(struct bay_host, get_iface) == 16, "bay_host.get_iface");
BAY_ASSERT(sizeof(((struct bay_host *)0)->get_iface) == 8, "bay_host.get_iface");
BAY_ASSERT(offsetof(struct bay_host, log_level) == 24, "bay_host.log_level");
BAY_ASSERT(sizeof(((struct bay_host *)0)->log_level) == 8, "bay_host.log_level");
BAY_ASSERT(offsetof(struct bay_host, log) == 32, "bay_host.log");
BAY_ASSERT(sizeof(((struct bay_host *)0)->log) == 8, "bay_host.log");
BAY_ASSERT(sizeof(struct bay_iov) == 16, "bay_iov");
BAY_ASSERT(BAY_ALIGNOF(struct bay_iov) == 8, "bay_iov");
BAY_ASSERT(offsetof(struct bay_iov, addr) == 0, "bay_iov.addr");
BAY_ASSERT(sizeof(((struct bay_iov *)0)->addr) == 8, "bay_iov.addr");
BAY_ASSERT(offsetof(struct bay_iov, len) == 8, "bay_iov.len");
BAY_ASSERT(sizeof(((struct bay_iov *)0)->len) == 4, "bay_iov.len");
BAY_ASSERT(offsetof(struct bay_iov, region) == 12, "bay_iov.region");
BAY_ASSERT(sizeof(((struct bay_iov *)0)->region) == 4, "bay_iov.region");
BAY_ASSERT(sizeof(struct bay_io) == 128, "bay_io");
BAY_ASSERT(BAY_ALIGNOF(struct bay_io) == 64, "bay_io");
BAY_ASSERT(offsetof(struct bay_io, op) == 0, "bay_io.op");
BAY_ASSERT(sizeof(((struct bay_io *)0)->op) == 2, "bay_io.op");
BAY_ASSERT(offsetof(struct bay_io, iovcnt) == 2, "bay_io.iovcnt");
BAY_ASSERT(sizeof(((struct bay_io *)0)->iovcnt) == 2, "bay_io.iovcnt");
BAY_ASSERT(offsetof(struct bay_io, flags) == 4, "bay_io.flags");
BAY_ASSERT(sizeof(((struct bay_io *)0)->flags) == 4, "bay_io.flags");
BAY_ASSERT(offsetof(struct bay_io, lba) == 8, "bay_io.lba");
BAY_ASSERT(sizeof(((struct bay_io *)0)->lba) == 8, "bay_io.lba");
BAY_ASSERT(offsetof(struct bay_io, nblocks) == 16, "bay_io.nblocks");
BAY_ASSERT(sizeof(((struct bay_io *)0)->nblocks) == 8, "bay_io.nblocks");
BAY_ASSERT(offsetof(struct bay_io, iov) == 24, "bay_io.iov");
BAY_ASSERT(sizeof(((struct bay_io *)0)->iov) == 8, "bay_io.iov");
BAY_ASSERT(offsetof(struct bay_io, done) == 32, "bay_io.done");
BAY_ASSERT(sizeof(((struct bay_io *)0)->done) == 8, "bay_io.done");
BAY_ASSERT(offsetof(struct bay_io, drv_ctx) == 40, "bay_io.drv_ctx");
BAY_ASSERT(sizeof(((struct bay_io *)0)->drv_ctx) == 8, "bay_io.drv_ctx");
BAY_ASSERT(offsetof(struct bay_io, link) == 48, "bay_io.link");
BAY_ASSERT(sizeof(((struct bay_io *)0)->link) == 8, "bay_io.link");
BAY_ASSERT(offsetof(struct bay_io, ext) == 56, "bay_io.ext");
BAY_ASSERT(sizeof(((struct bay_io *)0)->ext) == 8, "bay_io.ext");
BAY_ASSERT(offsetof(struct bay_io, md) == 64, "bay_io.md");
BAY_ASSERT(sizeof(((struct bay_io *)0)->md) == 8, "bay_io.md");
BAY_ASSERT(offsetof(struct bay_io, md_len) == 72, "bay_io.md_len");
BAY_ASSERT(sizeof(((struct bay_io *)0)->md_len) == 4, "bay_io.md_len");
BAY_ASSERT(offsetof(struct bay_io, md_region) == 76, "bay_io.md_region");
BAY_ASSERT(sizeof(((struct bay_io *)0)->md_region) == 4, "bay_io.md_region");
BAY_ASSERT(offsetof(struct bay_io, detail) == 80, "bay_io.detail");
BAY_ASSERT(sizeof(((struct bay_io *)0)->detail) == 8, "bay_io.detail");
BAY_ASSERT(offsetof(struct bay_io, detail_kind) == 88, "bay_io.detail_kind");
BAY_ASSERT(sizeof(((struct bay_io *)0)->detail_kind) == 1, "bay_io.detail_kind");
BAY_ASSERT(offsetof(struct bay_io, prio) == 89, "bay_io.prio");
BAY_ASSERT(sizeof(((struct bay_io *)0)->prio) == 1, "bay_io.prio");
BAY_ASSERT(offsetof(struct bay_io, holds) == 90, "bay_io.holds");
BAY_ASSERT(sizeof(((struct bay_io *)0)->holds) == 2, "bay_io.holds");
BAY_ASSERT(offsetof(struct bay_io, arg_len) == 92, "bay_io.arg_len");
BAY_ASSERT(sizeof(((struct bay_io *)0)->arg_len) == 4, "bay_io.arg_len");
BAY_ASSERT(offsetof(struct bay_io, arg) == 96, "bay_io.arg");
BAY_ASSERT(sizeof(((struct bay_io *)0)->arg) == 16, "bay_io.arg");
BAY_ASSERT(offsetof(struct bay_io, id) == 112, "bay_io.id");
BAY_ASSERT(sizeof(((struct bay_io *)0)->id) == 8, "bay_io.id");
BAY_ASSERT(offsetof(struct bay_io, rsv1) == 120, "bay_io.rsv1");
BAY_ASSERT(sizeof(((struct bay_io *)0)->rsv1) == 8, "bay_io.rsv1");
BAY_ASSERT(sizeof(struct bay_zone) == 32, "bay_zone");
BAY_ASSERT(BAY_ALIGNOF(struct bay_zone) == 8, "bay_zone");
BAY_ASSERT(offsetof(struct bay_zone, lba) == 0, "bay_zone.lba");
BAY_ASSERT(sizeof(((struct bay_zone *)0)->lba) == 8, "bay_zone.lba");
BAY_ASSERT(offsetof(struct bay_zone, capacity) == 8, "bay_zone.capacity");
BAY_ASSERT(sizeof(((struct bay_zone *)0)->capacity) == 8, "bay_zone.capacity");
BAY_ASSERT(offsetof(struct bay_zone, write_pointer) == 16, "bay_zone.write_pointer");
BAY_ASSERT(sizeof(((struct bay_zone *)0)->write_pointer) == 8, "bay_zone.write_pointer");
BAY_ASSERT(offsetof(struct bay_zone, state) == 24, "bay_zone.state");
BAY_ASSERT(sizeof(((struct bay_zone *)0)->state) == 1, "bay_zone.state");
BAY_ASSERT(offsetof(struct bay_zone, kind) == 25, "bay_zone.kind");
BAY_ASSERT(sizeof(((struct bay_zone *)0)->kind) == 1, "bay_zone.kind");
BAY_ASSERT(offsetof(struct bay_zone, rsv) == 26, "bay_zone.rsv");
BAY_ASSERT(sizeof(((struct bay_zone *)0)->rsv) == 6, "bay_zone.rsv");
BAY_ASSERT(sizeof(struct bay_io_ext) == 16, "bay_io_ext");
BAY_ASSERT(BAY_ALIGNOF(struct bay_io_ext) == 8, "bay_io_ext");
BAY_ASSERT(offsetof(struct bay_io_ext, size) == 0, "bay_io_ext.size");
BAY_ASSERT(sizeof(((struct bay_io_ext *)0)->size) == 4, "bay_io_ext.size");
BAY_ASSERT(offsetof(struct bay_io_ext, valid) == 4, "bay_io_ext.valid");
BAY_ASSERT(sizeof(((struct bay_io_ext *)0)->valid) == 4, "bay_io_ext.valid");
BAY_ASSERT(offsetof(struct bay_io_ext, trace_id) == 8, "bay_io_ext.trace_id");
BAY_ASSERT(sizeof(((struct bay_io_ext *)0)->trace_id) == 8, "bay_io_ext.trace_id");
BAY_ASSERT(sizeof(struct bay_chan_args) == 32, "bay_chan_args");
BAY_ASSERT(BAY_ALIGNOF(struct bay_chan_args) == 8, "bay_chan_args");
BAY_ASSERT(offsetof(struct bay_chan_args, size) == 0, "bay_chan_args.size");
BAY_ASSERT(sizeof(((struct bay_chan_args *)0)->size) == 4, "bay_chan_args.size");
BAY_ASSERT(offsetof(struct bay_chan_args, numa) == 4, "bay_chan_args.numa");
BAY_ASSERT(sizeof(((struct bay_chan_args *)0)->numa) == 4, "bay_chan_args.numa");
BAY_ASSERT(offsetof(struct bay_chan_args, thread) == 8, "bay_chan_args.thread");
BAY_ASSERT(sizeof(((struct bay_chan_args *)0)->thread) == 8, "bay_chan_args.thread");
BAY_ASSERT(offsetof(struct bay_chan_args, host_chan) == 16, "bay_chan_args.host_chan");
BAY_ASSERT(sizeof(((struct bay_chan_args *)0)->host_chan) == 8, "bay_chan_args.host_chan");
BAY_ASSERT(offsetof(struct bay_chan_args, handover) == 24, "bay_chan_args.handover");
BAY_ASSERT(sizeof(((struct bay_chan_args *)0)->handover) == 8, "bay_chan_args.handover");
BAY_ASSERT(sizeof(struct bay_bdev_ops) == 80, "bay_bdev_ops");
BAY_ASSERT(BAY_ALIGNOF(struct bay_bdev_ops) == 8, "bay_bdev_ops");
BAY_ASSERT(offsetof(struct bay_bdev_ops, size) == 0, "bay_bdev_ops.size");
BAY_ASSERT(sizeof(((struct bay_bdev_ops *)0)->size) == 4, "bay_bdev_ops.size");
BAY_ASSERT(offsetof(struct bay_bdev_ops, flags) == 4, "bay_bdev_ops.flags");
BAY_ASSERT(sizeof(((struct bay_bdev_ops *)0)->flags) == 4, "bay_bdev_ops.flags");
BAY_ASSERT(offsetof(struct bay_bdev_ops, submit) == 8, "bay_bdev_ops.submit");
BAY_ASSERT(sizeof(((struct bay_bdev_ops *)0)->submit) == 8, "bay_bdev_ops.submit");
BAY_ASSERT(offsetof(struct bay_bdev_ops, flush) == 16, "bay_bdev_ops.flush");
BAY_ASSERT(sizeof(((struct bay_bdev_ops *)0)->flush) == 8, "bay_bdev_ops.flush");
BAY_ASSERT(offsetof(struct bay_bdev_ops, chan_create) == 24, "bay_bdev_ops.chan_create");
BAY_ASSERT(sizeof(((struct bay_bdev_ops *)0)->chan_create) == 8, "bay_bdev_ops.chan_create");
BAY_ASSERT(offsetof(struct bay_bdev_ops, chan_destroy) == 32, "bay_bdev_ops.chan_destroy");
BAY_ASSERT(sizeof(((struct bay_bdev_ops *)0)->chan_destroy) == 8, "bay_bdev_ops.chan_destroy");
BAY_ASSERT(offsetof(struct bay_bdev_ops, destruct) == 40, "bay_bdev_ops.destruct");
BAY_ASSERT(sizeof(((struct bay_bdev_ops *)0)->destruct) == 8, "bay_bdev_ops.destruct");
BAY_ASSERT(offsetof(struct bay_bdev_ops, dump_info) == 48, "bay_bdev_ops.dump_info");
BAY_ASSERT(sizeof(((struct bay_bdev_ops *)0)->dump_info) == 8, "bay_bdev_ops.dump_info");
BAY_ASSERT(offsetof(struct bay_bdev_ops, write_config) == 56, "bay_bdev_ops.write_config");
BAY_ASSERT(sizeof(((struct bay_bdev_ops *)0)->write_config) == 8, "bay_bdev_ops.write_config");
BAY_ASSERT(offsetof(struct bay_bdev_ops, dump_stats) == 64, "bay_bdev_ops.dump_stats");
BAY_ASSERT(sizeof(((struct bay_bdev_ops *)0)->dump_stats) == 8, "bay_bdev_ops.dump_stats");
BAY_ASSERT(offsetof(struct bay_bdev_ops, reset_stats) == 72, "bay_bdev_ops.reset_stats");
BAY_ASSERT(sizeof(((struct bay_bdev_ops *)0)->reset_stats) == 8, "bay_bdev_ops.reset_stats");
BAY_ASSERT(sizeof(struct bay_bdev_reg) == 224, "bay_bdev_reg");
BAY_ASSERT(BAY_ALIGNOF(struct bay_bdev_reg) == 8, "bay_bdev_reg");
BAY_ASSERT(offsetof(struct bay_bdev_reg, size) == 0, "bay_bdev_reg.size");
BAY_ASSERT(sizeof(((struct bay_bdev_reg *)0)->size) == 4, "bay_bdev_reg.size");
BAY_ASSERT(offsetof(struct bay_bdev_reg, flags) == 4, "bay_bdev_reg.flags");
BAY_ASSERT(sizeof(((struct bay_bdev_reg *)0)->flags) == 4, "bay_bdev_reg.flags");
BAY_ASSERT(offsetof(struct bay_bdev_reg, ctx) == 8, "bay_bdev_reg.ctx");
BAY_ASSERT(sizeof(((struct bay_bdev_reg *)0)->ctx) == 8, "bay_bdev_reg.ctx");
BAY_ASSERT(offsetof(struct bay_bdev_reg, ops) == 16, "bay_bdev_reg.ops");
BAY_ASSERT(sizeof(((struct bay_bdev_reg *)0)->ops) == 8, "bay_bdev_reg.ops");
BAY_ASSERT(offsetof(struct bay_bdev_reg, name) == 24, "bay_bdev_reg.name");
BAY_ASSERT(sizeof(((struct bay_bdev_reg *)0)->name) == 16, "bay_bdev_reg.name");
BAY_ASSERT(offsetof(struct bay_bdev_reg, product) == 40, "bay_bdev_reg.product");
BAY_ASSERT(sizeof(((struct bay_bdev_reg *)0)->product) == 16, "bay_bdev_reg.product");
BAY_ASSERT(offsetof(struct bay_bdev_reg, aliases) == 56, "bay_bdev_reg.aliases");
BAY_ASSERT(sizeof(((struct bay_bdev_reg *)0)->aliases) == 8, "bay_bdev_reg.aliases");
BAY_ASSERT(offsetof(struct bay_bdev_reg, naliases) == 64, "bay_bdev_reg.naliases");
BAY_ASSERT(sizeof(((struct bay_bdev_reg *)0)->naliases) == 4, "bay_bdev_reg.naliases");
BAY_ASSERT(offsetof(struct bay_bdev_reg, block_size) == 68, "bay_bdev_reg.block_size");
BAY_ASSERT(sizeof(((struct bay_bdev_reg *)0)->block_size) == 4, "bay_bdev_reg.block_size");
BAY_ASSERT(offsetof(struct bay_bdev_reg, num_blocks) == 72, "bay_bdev_reg.num_blocks");
BAY_ASSERT(sizeof(((struct bay_bdev_reg *)0)->num_blocks) == 8, "bay_bdev_reg.num_blocks");
BAY_ASSERT(offsetof(struct bay_bdev_reg, uuid) == 80, "bay_bdev_reg.uuid");
BAY_ASSERT(sizeof(((struct bay_bdev_reg *)0)->uuid) == 16, "bay_bdev_reg.uuid");
BAY_ASSERT(offsetof(struct bay_bdev_reg, phys_block_size) == 96, "bay_bdev_reg.phys_block_size");
BAY_ASSERT(sizeof(((struct bay_bdev_reg *)0)->phys_block_size) == 4, "bay_bdev_reg.phys_block_size");
BAY_ASSERT(offsetof(struct bay_bdev_reg, write_unit) == 100, "bay_bdev_reg.write_unit");
BAY_ASSERT(sizeof(((struct bay_bdev_reg *)0)->write_unit) == 4, "bay_bdev_reg.write_unit");
BAY_ASSERT(offsetof(struct bay_bdev_reg, atomic_write_unit) == 104, "bay_bdev_reg.atomic_write_unit");
BAY_ASSERT(sizeof(((struct bay_bdev_reg *)0)->atomic_write_unit) == 4, "bay_bdev_reg.atomic_write_unit");
BAY_ASSERT(offsetof(struct bay_bdev_reg, align) == 108, "bay_bdev_reg.align");
BAY_ASSERT(sizeof(((struct bay_bdev_reg *)0)->align) == 4, "bay_bdev_reg.align");
BAY_ASSERT(offsetof(struct bay_bdev_reg, optimal_boundary) == 112, "bay_bdev_reg.optimal_boundary");
BAY_ASSERT(sizeof(((struct bay_bdev_reg *)0)->optimal_boundary) == 4, "bay_bdev_reg.optimal_boundary");
BAY_ASSERT(offsetof(struct bay_bdev_reg, max_segments) == 116, "bay_bdev_reg.max_segments");
BAY_ASSERT(sizeof(((struct bay_bdev_reg *)0)->max_segments) == 4, "bay_bdev_reg.max_segments");
BAY_ASSERT(offsetof(struct bay_bdev_reg, max_segment_size) == 120, "bay_bdev_reg.max_segment_size");
BAY_ASSERT(sizeof(((struct bay_bdev_reg *)0)->max_segment_size) == 4, "bay_bdev_reg.max_segment_size");
BAY_ASSERT(offsetof(struct bay_bdev_reg, max_io_blocks) == 124, "bay_bdev_reg.max_io_blocks");
BAY_ASSERT(sizeof(((struct bay_bdev_reg *)0)->max_io_blocks) == 4, "bay_bdev_reg.max_io_blocks");
BAY_ASSERT(offsetof(struct bay_bdev_reg, max_unmap) == 128, "bay_bdev_reg.max_unmap");
BAY_ASSERT(sizeof(((struct bay_bdev_reg *)0)->max_unmap) == 4, "bay_bdev_reg.max_unmap");
BAY_ASSERT(offsetof(struct bay_bdev_reg, max_write_zeroes) == 132, "bay_bdev_reg.max_write_zeroes");
BAY_ASSERT(sizeof(((struct bay_bdev_reg *)0)->max_write_zeroes) == 4, "bay_bdev_reg.max_write_zeroes");
BAY_ASSERT(offsetof(struct bay_bdev_reg, max_copy) == 136, "bay_bdev_reg.max_copy");
BAY_ASSERT(sizeof(((struct bay_bdev_reg *)0)->max_copy) == 4, "bay_bdev_reg.max_copy");
BAY_ASSERT(offsetof(struct bay_bdev_reg, md_size) == 140, "bay_bdev_reg.md_size");
BAY_ASSERT(sizeof(((struct bay_bdev_reg *)0)->md_size) == 4, "bay_bdev_reg.md_size");
BAY_ASSERT(offsetof(struct bay_bdev_reg, md_interleave) == 144, "bay_bdev_reg.md_interleave");
BAY_ASSERT(sizeof(((struct bay_bdev_reg *)0)->md_interleave) == 1, "bay_bdev_reg.md_interleave");
BAY_ASSERT(offsetof(struct bay_bdev_reg, dif_type) == 145, "bay_bdev_reg.dif_type");
BAY_ASSERT(sizeof(((struct bay_bdev_reg *)0)->dif_type) == 1, "bay_bdev_reg.dif_type");
BAY_ASSERT(offsetof(struct bay_bdev_reg, dif_is_head) == 146, "bay_bdev_reg.dif_is_head");
BAY_ASSERT(sizeof(((struct bay_bdev_reg *)0)->dif_is_head) == 1, "bay_bdev_reg.dif_is_head");
BAY_ASSERT(offsetof(struct bay_bdev_reg, dif_pi_format) == 147, "bay_bdev_reg.dif_pi_format");
BAY_ASSERT(sizeof(((struct bay_bdev_reg *)0)->dif_pi_format) == 1, "bay_bdev_reg.dif_pi_format");
BAY_ASSERT(offsetof(struct bay_bdev_reg, dif_check_flags) == 148, "bay_bdev_reg.dif_check_flags");
BAY_ASSERT(sizeof(((struct bay_bdev_reg *)0)->dif_check_flags) == 4, "bay_bdev_reg.dif_check_flags");
BAY_ASSERT(offsetof(struct bay_bdev_reg, numa) == 152, "bay_bdev_reg.numa");
BAY_ASSERT(sizeof(((struct bay_bdev_reg *)0)->numa) == 4, "bay_bdev_reg.numa");
BAY_ASSERT(offsetof(struct bay_bdev_reg, nsid) == 156, "bay_bdev_reg.nsid");
BAY_ASSERT(sizeof(((struct bay_bdev_reg *)0)->nsid) == 4, "bay_bdev_reg.nsid");
BAY_ASSERT(offsetof(struct bay_bdev_reg, reset_drain_ms) == 160, "bay_bdev_reg.reset_drain_ms");
BAY_ASSERT(sizeof(((struct bay_bdev_reg *)0)->reset_drain_ms) == 4, "bay_bdev_reg.reset_drain_ms");
BAY_ASSERT(offsetof(struct bay_bdev_reg, needs_dma) == 164, "bay_bdev_reg.needs_dma");
BAY_ASSERT(sizeof(((struct bay_bdev_reg *)0)->needs_dma) == 4, "bay_bdev_reg.needs_dma");
BAY_ASSERT(offsetof(struct bay_bdev_reg, ops_mask) == 168, "bay_bdev_reg.ops_mask");
BAY_ASSERT(sizeof(((struct bay_bdev_reg *)0)->ops_mask) == 8, "bay_bdev_reg.ops_mask");
BAY_ASSERT(offsetof(struct bay_bdev_reg, must_flags) == 176, "bay_bdev_reg.must_flags");
BAY_ASSERT(sizeof(((struct bay_bdev_reg *)0)->must_flags) == 4, "bay_bdev_reg.must_flags");
BAY_ASSERT(offsetof(struct bay_bdev_reg, max_children) == 180, "bay_bdev_reg.max_children");
BAY_ASSERT(sizeof(((struct bay_bdev_reg *)0)->max_children) == 4, "bay_bdev_reg.max_children");
BAY_ASSERT(offsetof(struct bay_bdev_reg, drv_ctx_size) == 184, "bay_bdev_reg.drv_ctx_size");
BAY_ASSERT(sizeof(((struct bay_bdev_reg *)0)->drv_ctx_size) == 4, "bay_bdev_reg.drv_ctx_size");
BAY_ASSERT(offsetof(struct bay_bdev_reg, rsv0) == 188, "bay_bdev_reg.rsv0");
BAY_ASSERT(sizeof(((struct bay_bdev_reg *)0)->rsv0) == 4, "bay_bdev_reg.rsv0");
BAY_ASSERT(offsetof(struct bay_bdev_reg, base) == 192, "bay_bdev_reg.base");
BAY_ASSERT(sizeof(((struct bay_bdev_reg *)0)->base) == 16, "bay_bdev_reg.base");
BAY_ASSERT(offsetof(struct bay_bdev_reg, zone_size) == 208, "bay_bdev_reg.zone_size");
BAY_ASSERT(sizeof(((struct bay_bdev_reg *)0)->zone_size) == 8, "bay_bdev_reg.zone_size");
BAY_ASSERT(offsetof(struct bay_bdev_reg, max_open_zones) == 216, "bay_bdev_reg.max_open_zones");
BAY_ASSERT(sizeof(((struct bay_bdev_reg *)0)->max_open_zones) == 4, "bay_bdev_reg.max_open_zones");
BAY_ASSERT(offsetof(struct bay_bdev_reg, max_active_zones) == 220, "bay_bdev_reg.max_active_zones");
BAY_ASSERT(sizeof(((struct bay_bdev_reg *)0)->max_active_zones) == 4, "bay_bdev_reg.max_active_zones");
BAY_ASSERT(sizeof(struct bay_bdev_info) == 96, "bay_bdev_info");
BAY_ASSERT(BAY_ALIGNOF(struct bay_bdev_info) == 8, "bay_bdev_info");
BAY_ASSERT(offsetof(struct bay_bdev_info, size) == 0, "bay_bdev_info.size");
BAY_ASSERT(sizeof(((struct bay_bdev_info *)0)->size) == 4, "bay_bdev_info.size");
BAY_ASSERT(offsetof(struct bay_bdev_info, flags) == 4, "bay_bdev_info.flags");
BAY_ASSERT(sizeof(((struct bay_bdev_info *)0)->flags) == 4, "bay_bdev_info.flags");
BAY_ASSERT(offsetof(struct bay_bdev_info, num_blocks) == 8, "bay_bdev_info.num_blocks");
BAY_ASSERT(sizeof(((struct bay_bdev_info *)0)->num_blocks) == 8, "bay_bdev_info.num_blocks");
BAY_ASSERT(offsetof(struct bay_bdev_info, block_size) == 16, "bay_bdev_info.block_size");
BAY_ASSERT(sizeof(((struct bay_bdev_info *)0)->block_size) == 4, "bay_bdev_info.block_size");
BAY_ASSERT(offsetof(struct bay_bdev_info, phys_block_size) == 20, "bay_bdev_info.phys_block_size");
BAY_ASSERT(sizeof(((struct bay_bdev_info *)0)->phys_block_size) == 4, "bay_bdev_info.phys_block_size");
BAY_ASSERT(offsetof(struct bay_bdev_info, ops_mask) == 24, "bay_bdev_info.ops_mask");
BAY_ASSERT(sizeof(((struct bay_bdev_info *)0)->ops_mask) == 8, "bay_bdev_info.ops_mask");
BAY_ASSERT(offsetof(struct bay_bdev_info, uuid) == 32, "bay_bdev_info.uuid");
BAY_ASSERT(sizeof(((struct bay_bdev_info *)0)->uuid) == 16, "bay_bdev_info.uuid");
BAY_ASSERT(offsetof(struct bay_bdev_info, write_unit) == 48, "bay_bdev_info.write_unit");
BAY_ASSERT(sizeof(((struct bay_bdev_info *)0)->write_unit) == 4, "bay_bdev_info.write_unit");
BAY_ASSERT(offsetof(struct bay_bdev_info, atomic_write_unit) == 52, "bay_bdev_info.atomic_write_unit");
BAY_ASSERT(sizeof(((struct bay_bdev_info *)0)->atomic_write_unit) == 4, "bay_bdev_info.atomic_write_unit");
BAY_ASSERT(offsetof(struct bay_bdev_info, align) == 56, "bay_bdev_info.align");
BAY_ASSERT(sizeof(((struct bay_bdev_info *)0)->align) == 4, "bay_bdev_info.align");
BAY_ASSERT(offsetof(struct bay_bdev_info, optimal_boundary) == 60, "bay_bdev_info.optimal_boundary");
BAY_ASSERT(sizeof(((struct bay_bdev_info *)0)->optimal_boundary) == 4, "bay_bdev_info.optimal_boundary");
BAY_ASSERT(offsetof(struct bay_bdev_info, md_size) == 64, "bay_bdev_info.md_size");
BAY_ASSERT(sizeof(((struct bay_bdev_info *)0)->md_size) == 4, "bay_bdev_info.md_size");
BAY_ASSERT(offsetof(struct bay_bdev_info, md_interleave) == 68, "bay_bdev_info.md_interleave");
BAY_ASSERT(sizeof(((struct bay_bdev_info *)0)->md_interleave) == 1, "bay_bdev_info.md_interleave");
BAY_ASSERT(offsetof(struct bay_bdev_info, dif_type) == 69, "bay_bdev_info.dif_type");
BAY_ASSERT(sizeof(((struct bay_bdev_info *)0)->dif_type) == 1, "bay_bdev_info.dif_type");
BAY_ASSERT(offsetof(struct bay_bdev_info, dif_is_head) == 70, "bay_bdev_info.dif_is_head");
BAY_ASSERT(sizeof(((struct bay_bdev_info *)0)->dif_is_head) == 1, "bay_bdev_info.dif_is_head");
BAY_ASSERT(offsetof(struct bay_bdev_info, dif_pi_format) == 71, "bay_bdev_info.dif_pi_format");
BAY_ASSERT(sizeof(((struct bay_bdev_info *)0)->dif_pi_format) == 1, "bay_bdev_info.dif_pi_format");
BAY_ASSERT(offsetof(struct bay_bdev_info, numa) == 72, "bay_bdev_info.numa");
BAY_ASSERT(sizeof(((struct bay_bdev_info *)0)->numa) == 4, "bay_bdev_info.numa");
BAY_ASSERT(offsetof(struct bay_bdev_info, must_flags) == 76, "bay_bdev_info.must_flags");
BAY_ASSERT(sizeof(((struct bay_bdev_info *)0)->must_flags) == 4, "bay_bdev_info.must_flags");
BAY_ASSERT(offsetof(struct bay_bdev_info, name) == 80, "bay_bdev_info.name");
BAY_ASSERT(sizeof(((struct bay_bdev_info *)0)->name) == 16, "bay_bdev_info.name");
BAY_ASSERT(sizeof(struct bay_wait) == 32, "bay_wait");
BAY_ASSERT(BAY_ALIGNOF(struct bay_wait) == 8, "bay_wait");
BAY_ASSERT(offsetof(struct bay_wait, cb) == 0, "bay_wait.cb");
BAY_ASSERT(sizeof(((struct bay_wait *)0)->cb) == 8, "bay_wait.cb");
BAY_ASSERT(offsetof(struct bay_wait, arg) == 8, "bay_wait.arg");
BAY_ASSERT(sizeof(((struct bay_wait *)0)->arg) == 8, "bay_wait.arg");
BAY_ASSERT(offsetof(struct bay_wait, link) == 16, "bay_wait.link");
BAY_ASSERT(sizeof(((struct bay_wait *)0)->link) == 8, "bay_wait.link");
BAY_ASSERT(offsetof(struct bay_wait, rsv) == 24, "bay_wait.rsv");
BAY_ASSERT(sizeof(((struct bay_wait *)0)->rsv) == 8, "bay_wait.rsv");
BAY_ASSERT(sizeof(struct bay_bdev_api) == 120, "bay_bdev_api");
BAY_ASSERT(BAY_ALIGNOF(struct bay_bdev_api) == 8, "bay_bdev_api");
BAY_ASSERT(offsetof(struct bay_bdev_api, size) == 0, "bay_bdev_api.size");
BAY_ASSERT(sizeof(((struct bay_bdev_api *)0)->size) == 4, "bay_bdev_api.size");
BAY_ASSERT(offsetof(struct bay_bdev_api, flags) == 4, "bay_bdev_api.flags");
BAY_ASSERT(sizeof(((struct bay_bdev_api *)0)->flags) == 4, "bay_bdev_api.flags");
BAY_ASSERT(offsetof(struct bay_bdev_api, register_) == 8, "bay_bdev_api.register_");
BAY_ASSERT(sizeof(((struct bay_bdev_api *)0)->register_) == 8, "bay_bdev_api.register_");
BAY_ASSERT(offsetof(struct bay_bdev_api, unregister) == 16, "bay_bdev_api.unregister");
BAY_ASSERT(sizeof(((struct bay_bdev_api *)0)->unregister) == 8, "bay_bdev_api.unregister");
BAY_ASSERT(offsetof(struct bay_bdev_api, destruct_done) == 24, "bay_bdev_api.destruct_done");
BAY_ASSERT(sizeof(((struct bay_bdev_api *)0)->destruct_done) == 8, "bay_bdev_api.destruct_done");
BAY_ASSERT(offsetof(struct bay_bdev_api, chan_ready) == 32, "bay_bdev_api.chan_ready");
BAY_ASSERT(sizeof(((struct bay_bdev_api *)0)->chan_ready) == 8, "bay_bdev_api.chan_ready");
BAY_ASSERT(offsetof(struct bay_bdev_api, chan_closed) == 40, "bay_bdev_api.chan_closed");
BAY_ASSERT(sizeof(((struct bay_bdev_api *)0)->chan_closed) == 8, "bay_bdev_api.chan_closed");
BAY_ASSERT(offsetof(struct bay_bdev_api, resize) == 48, "bay_bdev_api.resize");
BAY_ASSERT(sizeof(((struct bay_bdev_api *)0)->resize) == 8, "bay_bdev_api.resize");
BAY_ASSERT(offsetof(struct bay_bdev_api, kick) == 56, "bay_bdev_api.kick");
BAY_ASSERT(sizeof(((struct bay_bdev_api *)0)->kick) == 8, "bay_bdev_api.kick");
BAY_ASSERT(offsetof(struct bay_bdev_api, quiesce) == 64, "bay_bdev_api.quiesce");
BAY_ASSERT(sizeof(((struct bay_bdev_api *)0)->quiesce) == 8, "bay_bdev_api.quiesce");
BAY_ASSERT(offsetof(struct bay_bdev_api, unquiesce) == 72, "bay_bdev_api.unquiesce");
BAY_ASSERT(sizeof(((struct bay_bdev_api *)0)->unquiesce) == 8, "bay_bdev_api.unquiesce");
BAY_ASSERT(offsetof(struct bay_bdev_api, examine_done) == 80, "bay_bdev_api.examine_done");
BAY_ASSERT(sizeof(((struct bay_bdev_api *)0)->examine_done) == 8, "bay_bdev_api.examine_done");
BAY_ASSERT(offsetof(struct bay_bdev_api, reserve) == 88, "bay_bdev_api.reserve");
BAY_ASSERT(sizeof(((struct bay_bdev_api *)0)->reserve) == 8, "bay_bdev_api.reserve");
BAY_ASSERT(offsetof(struct bay_bdev_api, release) == 96, "bay_bdev_api.release");
BAY_ASSERT(sizeof(((struct bay_bdev_api *)0)->release) == 8, "bay_bdev_api.release");
BAY_ASSERT(offsetof(struct bay_bdev_api, alias) == 104, "bay_bdev_api.alias");
BAY_ASSERT(sizeof(((struct bay_bdev_api *)0)->alias) == 8, "bay_bdev_api.alias");
BAY_ASSERT(offsetof(struct bay_bdev_api, media) == 112, "bay_bdev_api.media");
BAY_ASSERT(sizeof(((struct bay_bdev_api *)0)->media) == 8, "bay_bdev_api.media");
BAY_ASSERT(sizeof(struct bay_bdev_client_api) == 144, "bay_bdev_client_api");
BAY_ASSERT(BAY_ALIGNOF(struct bay_bdev_client_api) == 8, "bay_bdev_client_api");
BAY_ASSERT(offsetof(struct bay_bdev_client_api, size) == 0, "bay_bdev_client_api.size");
BAY_ASSERT(sizeof(((struct bay_bdev_client_api *)0)->size) == 4, "bay_bdev_client_api.size");
BAY_ASSERT(offsetof(struct bay_bdev_client_api, flags) == 4, "bay_bdev_client_api.flags");
BAY_ASSERT(sizeof(((struct bay_bdev_client_api *)0)->flags) == 4, "bay_bdev_client_api.flags");
BAY_ASSERT(offsetof(struct bay_bdev_client_api, open) == 8, "bay_bdev_client_api.open");
BAY_ASSERT(sizeof(((struct bay_bdev_client_api *)0)->open) == 8, "bay_bdev_client_api.open");
BAY_ASSERT(offsetof(struct bay_bdev_client_api, close) == 16, "bay_bdev_client_api.close");
BAY_ASSERT(sizeof(((struct bay_bdev_client_api *)0)->close) == 8, "bay_bdev_client_api.close");
BAY_ASSERT(offsetof(struct bay_bdev_client_api, info) == 24, "bay_bdev_client_api.info");
BAY_ASSERT(sizeof(((struct bay_bdev_client_api *)0)->info) == 8, "bay_bdev_client_api.info");
BAY_ASSERT(offsetof(struct bay_bdev_client_api, claim) == 32, "bay_bdev_client_api.claim");
BAY_ASSERT(sizeof(((struct bay_bdev_client_api *)0)->claim) == 8, "bay_bdev_client_api.claim");
BAY_ASSERT(offsetof(struct bay_bdev_client_api, unclaim) == 40, "bay_bdev_client_api.unclaim");
BAY_ASSERT(sizeof(((struct bay_bdev_client_api *)0)->unclaim) == 8, "bay_bdev_client_api.unclaim");
BAY_ASSERT(offsetof(struct bay_bdev_client_api, chan_get) == 48, "bay_bdev_client_api.chan_get");
BAY_ASSERT(sizeof(((struct bay_bdev_client_api *)0)->chan_get) == 8, "bay_bdev_client_api.chan_get");
BAY_ASSERT(offsetof(struct bay_bdev_client_api, chan_put) == 56, "bay_bdev_client_api.chan_put");
BAY_ASSERT(sizeof(((struct bay_bdev_client_api *)0)->chan_put) == 8, "bay_bdev_client_api.chan_put");
BAY_ASSERT(offsetof(struct bay_bdev_client_api, io_get) == 64, "bay_bdev_client_api.io_get");
BAY_ASSERT(sizeof(((struct bay_bdev_client_api *)0)->io_get) == 8, "bay_bdev_client_api.io_get");
BAY_ASSERT(offsetof(struct bay_bdev_client_api, io_put) == 72, "bay_bdev_client_api.io_put");
BAY_ASSERT(sizeof(((struct bay_bdev_client_api *)0)->io_put) == 8, "bay_bdev_client_api.io_put");
BAY_ASSERT(offsetof(struct bay_bdev_client_api, io_derive) == 80, "bay_bdev_client_api.io_derive");
BAY_ASSERT(sizeof(((struct bay_bdev_client_api *)0)->io_derive) == 8, "bay_bdev_client_api.io_derive");
BAY_ASSERT(offsetof(struct bay_bdev_client_api, submit) == 88, "bay_bdev_client_api.submit");
BAY_ASSERT(sizeof(((struct bay_bdev_client_api *)0)->submit) == 8, "bay_bdev_client_api.submit");
BAY_ASSERT(offsetof(struct bay_bdev_client_api, complete_from) == 96, "bay_bdev_client_api.complete_from");
BAY_ASSERT(sizeof(((struct bay_bdev_client_api *)0)->complete_from) == 8, "bay_bdev_client_api.complete_from");
BAY_ASSERT(offsetof(struct bay_bdev_client_api, flush) == 104, "bay_bdev_client_api.flush");
BAY_ASSERT(sizeof(((struct bay_bdev_client_api *)0)->flush) == 8, "bay_bdev_client_api.flush");
BAY_ASSERT(offsetof(struct bay_bdev_client_api, pass) == 112, "bay_bdev_client_api.pass");
BAY_ASSERT(sizeof(((struct bay_bdev_client_api *)0)->pass) == 8, "bay_bdev_client_api.pass");
BAY_ASSERT(offsetof(struct bay_bdev_client_api, io_abort) == 120, "bay_bdev_client_api.io_abort");
BAY_ASSERT(sizeof(((struct bay_bdev_client_api *)0)->io_abort) == 8, "bay_bdev_client_api.io_abort");
BAY_ASSERT(offsetof(struct bay_bdev_client_api, io_derive_part) == 128, "bay_bdev_client_api.io_derive_part");
BAY_ASSERT(sizeof(((struct bay_bdev_client_api *)0)->io_derive_part) == 8, "bay_bdev_client_api.io_derive_part");
BAY_ASSERT(offsetof(struct bay_bdev_client_api, media_next) == 136, "bay_bdev_client_api.media_next");
BAY_ASSERT(sizeof(((struct bay_bdev_client_api *)0)->media_next) == 8, "bay_bdev_client_api.media_next");
BAY_ASSERT(sizeof(struct bay_bdev_module) == 40, "bay_bdev_module");
BAY_ASSERT(BAY_ALIGNOF(struct bay_bdev_module) == 8, "bay_bdev_module");
BAY_ASSERT(offsetof(struct bay_bdev_module, size) == 0, "bay_bdev_module.size");
BAY_ASSERT(sizeof(((struct bay_bdev_module *)0)->size) == 4, "bay_bdev_module.size");
BAY_ASSERT(offsetof(struct bay_bdev_module, flags) == 4, "bay_bdev_module.flags");
BAY_ASSERT(sizeof(((struct bay_bdev_module *)0)->flags) == 4, "bay_bdev_module.flags");
BAY_ASSERT(offsetof(struct bay_bdev_module, examine_config) == 8, "bay_bdev_module.examine_config");
BAY_ASSERT(sizeof(((struct bay_bdev_module *)0)->examine_config) == 8, "bay_bdev_module.examine_config");
BAY_ASSERT(offsetof(struct bay_bdev_module, examine_disk) == 16, "bay_bdev_module.examine_disk");
BAY_ASSERT(sizeof(((struct bay_bdev_module *)0)->examine_disk) == 8, "bay_bdev_module.examine_disk");
BAY_ASSERT(offsetof(struct bay_bdev_module, write_config) == 24, "bay_bdev_module.write_config");
BAY_ASSERT(sizeof(((struct bay_bdev_module *)0)->write_config) == 8, "bay_bdev_module.write_config");
BAY_ASSERT(offsetof(struct bay_bdev_module, fini_start) == 32, "bay_bdev_module.fini_start");
BAY_ASSERT(sizeof(((struct bay_bdev_module *)0)->fini_start) == 8, "bay_bdev_module.fini_start");
BAY_ASSERT(sizeof(struct bay_msg) == 32, "bay_msg");
BAY_ASSERT(BAY_ALIGNOF(struct bay_msg) == 8, "bay_msg");
BAY_ASSERT(offsetof(struct bay_msg, call) == 0, "bay_msg.call");
BAY_ASSERT(sizeof(((struct bay_msg *)0)->call) == 8, "bay_msg.call");
BAY_ASSERT(offsetof(struct bay_msg, arg) == 8, "bay_msg.arg");
BAY_ASSERT(sizeof(((struct bay_msg *)0)->arg) == 8, "bay_msg.arg");
BAY_ASSERT(offsetof(struct bay_msg, link) == 16, "bay_msg.link");
BAY_ASSERT(sizeof(((struct bay_msg *)0)->link) == 8, "bay_msg.link");
BAY_ASSERT(offsetof(struct bay_msg, rsv) == 24, "bay_msg.rsv");
BAY_ASSERT(sizeof(((struct bay_msg *)0)->rsv) == 8, "bay_msg.rsv");
BAY_ASSERT(sizeof(struct bay_poller_ops) == 40, "bay_poller_ops");
BAY_ASSERT(BAY_ALIGNOF(struct bay_poller_ops) == 8, "bay_poller_ops");
BAY_ASSERT(offsetof(struct bay_poller_ops, size) == 0, "bay_poller_ops.size");
BAY_ASSERT(sizeof(((struct bay_poller_ops *)0)->size) == 4, "bay_poller_ops.size");
BAY_ASSERT(offsetof(struct bay_poller_ops, flags) == 4, "bay_poller_ops.flags");
BAY_ASSERT(sizeof(((struct bay_poller_ops *)0)->flags) == 4, "bay_poller_ops.flags");
BAY_ASSERT(offsetof(struct bay_poller_ops, run) == 8, "bay_poller_ops.run");
BAY_ASSERT(sizeof(((struct bay_poller_ops *)0)->run) == 8, "bay_poller_ops.run");
BAY_ASSERT(offsetof(struct bay_poller_ops, prepare_sleep) == 16, "bay_poller_ops.prepare_sleep");
BAY_ASSERT(sizeof(((struct bay_poller_ops *)0)->prepare_sleep) == 8, "bay_poller_ops.prepare_sleep");
BAY_ASSERT(offsetof(struct bay_poller_ops, woke) == 24, "bay_poller_ops.woke");
BAY_ASSERT(sizeof(((struct bay_poller_ops *)0)->woke) == 8, "bay_poller_ops.woke");
BAY_ASSERT(offsetof(struct bay_poller_ops, next_ns) == 32, "bay_poller_ops.next_ns");
BAY_ASSERT(sizeof(((struct bay_poller_ops *)0)->next_ns) == 8, "bay_poller_ops.next_ns");
BAY_ASSERT(sizeof(struct bay_thread_api) == 72, "bay_thread_api");
BAY_ASSERT(BAY_ALIGNOF(struct bay_thread_api) == 8, "bay_thread_api");
BAY_ASSERT(offsetof(struct bay_thread_api, size) == 0, "bay_thread_api.size");
BAY_ASSERT(sizeof(((struct bay_thread_api *)0)->size) == 4, "bay_thread_api.size");
BAY_ASSERT(offsetof(struct bay_thread_api, flags) == 4, "bay_thread_api.flags");
BAY_ASSERT(sizeof(((struct bay_thread_api *)0)->flags) == 4, "bay_thread_api.flags");
BAY_ASSERT(offsetof(struct bay_thread_api, current) == 8, "bay_thread_api.current");
BAY_ASSERT(sizeof(((struct bay_thread_api *)0)->current) == 8, "bay_thread_api.current");
BAY_ASSERT(offsetof(struct bay_thread_api, app_thread) == 16, "bay_thread_api.app_thread");
BAY_ASSERT(sizeof(((struct bay_thread_api *)0)->app_thread) == 8, "bay_thread_api.app_thread");
BAY_ASSERT(offsetof(struct bay_thread_api, next_core) == 24, "bay_thread_api.next_core");
BAY_ASSERT(sizeof(((struct bay_thread_api *)0)->next_core) == 8, "bay_thread_api.next_core");
BAY_ASSERT(offsetof(struct bay_thread_api, create) == 32, "bay_thread_api.create");
BAY_ASSERT(sizeof(((struct bay_thread_api *)0)->create) == 8, "bay_thread_api.create");
BAY_ASSERT(offsetof(struct bay_thread_api, exit) == 40, "bay_thread_api.exit");
BAY_ASSERT(sizeof(((struct bay_thread_api *)0)->exit) == 8, "bay_thread_api.exit");
BAY_ASSERT(offsetof(struct bay_thread_api, set_cpumask) == 48, "bay_thread_api.set_cpumask");
BAY_ASSERT(sizeof(((struct bay_thread_api *)0)->set_cpumask) == 8, "bay_thread_api.set_cpumask");
BAY_ASSERT(offsetof(struct bay_thread_api, send) == 56, "bay_thread_api.send");
BAY_ASSERT(sizeof(((struct bay_thread_api *)0)->send) == 8, "bay_thread_api.send");
BAY_ASSERT(offsetof(struct bay_thread_api, now_ns) == 64, "bay_thread_api.now_ns");
BAY_ASSERT(sizeof(((struct bay_thread_api *)0)->now_ns) == 8, "bay_thread_api.now_ns");
BAY_ASSERT(sizeof(struct bay_poller_api) == 48, "bay_poller_api");
BAY_ASSERT(BAY_ALIGNOF(struct bay_poller_api) == 8, "bay_poller_api");
BAY_ASSERT(offsetof(struct bay_poller_api, size) == 0, "bay_poller_api.size");
BAY_ASSERT(sizeof(((struct bay_poller_api *)0)->size) == 4, "bay_poller_api.size");
BAY_ASSERT(offsetof(struct bay_poller_api, flags) == 4, "bay_poller_api.flags");
BAY_ASSERT(sizeof(((struct bay_poller_api *)0)->flags) == 4, "bay_poller_api.flags");
BAY_ASSERT(offsetof(struct bay_poller_api, register_) == 8, "bay_poller_api.register_");
BAY_ASSERT(sizeof(((struct bay_poller_api *)0)->register_) == 8, "bay_poller_api.register_");
BAY_ASSERT(offsetof(struct bay_poller_api, unregister) == 16, "bay_poller_api.unregister");
BAY_ASSERT(sizeof(((struct bay_poller_api *)0)->unregister) == 8, "bay_poller_api.unregister");
BAY_ASSERT(offsetof(struct bay_poller_api, pause) == 24, "bay_poller_api.pause");
BAY_ASSERT(sizeof(((struct bay_poller_api *)0)->pause) == 8, "bay_poller_api.pause");
BAY_ASSERT(offsetof(struct bay_poller_api, resume) == 32, "bay_poller_api.resume");
BAY_ASSERT(sizeof(((struct bay_poller_api *)0)->resume) == 8, "bay_poller_api.resume");
BAY_ASSERT(offsetof(struct bay_poller_api, wake_fd) == 40, "bay_poller_api.wake_fd");
BAY_ASSERT(sizeof(((struct bay_poller_api *)0)->wake_fd) == 8, "bay_poller_api.wake_fd");
BAY_ASSERT(sizeof(struct bay_io_device_api) == 40, "bay_io_device_api");
BAY_ASSERT(BAY_ALIGNOF(struct bay_io_device_api) == 8, "bay_io_device_api");
BAY_ASSERT(offsetof(struct bay_io_device_api, size) == 0, "bay_io_device_api.size");
BAY_ASSERT(sizeof(((struct bay_io_device_api *)0)->size) == 4, "bay_io_device_api.size");
BAY_ASSERT(offsetof(struct bay_io_device_api, flags) == 4, "bay_io_device_api.flags");
BAY_ASSERT(sizeof(((struct bay_io_device_api *)0)->flags) == 4, "bay_io_device_api.flags");
BAY_ASSERT(offsetof(struct bay_io_device_api, register_) == 8, "bay_io_device_api.register_");
BAY_ASSERT(sizeof(((struct bay_io_device_api *)0)->register_) == 8, "bay_io_device_api.register_");
BAY_ASSERT(offsetof(struct bay_io_device_api, unregister) == 16, "bay_io_device_api.unregister");
BAY_ASSERT(sizeof(((struct bay_io_device_api *)0)->unregister) == 8, "bay_io_device_api.unregister");
BAY_ASSERT(offsetof(struct bay_io_device_api, chan_get) == 24, "bay_io_device_api.chan_get");
BAY_ASSERT(sizeof(((struct bay_io_device_api *)0)->chan_get) == 8, "bay_io_device_api.chan_get");
BAY_ASSERT(offsetof(struct bay_io_device_api, chan_put) == 32, "bay_io_device_api.chan_put");
BAY_ASSERT(sizeof(((struct bay_io_device_api *)0)->chan_put) == 8, "bay_io_device_api.chan_put");
BAY_ASSERT(sizeof(struct bay_buf_api) == 40, "bay_buf_api");
BAY_ASSERT(BAY_ALIGNOF(struct bay_buf_api) == 8, "bay_buf_api");
BAY_ASSERT(offsetof(struct bay_buf_api, size) == 0, "bay_buf_api.size");
BAY_ASSERT(sizeof(((struct bay_buf_api *)0)->size) == 4, "bay_buf_api.size");
BAY_ASSERT(offsetof(struct bay_buf_api, max_len) == 4, "bay_buf_api.max_len");
BAY_ASSERT(sizeof(((struct bay_buf_api *)0)->max_len) == 4, "bay_buf_api.max_len");
BAY_ASSERT(offsetof(struct bay_buf_api, get) == 8, "bay_buf_api.get");
BAY_ASSERT(sizeof(((struct bay_buf_api *)0)->get) == 8, "bay_buf_api.get");
BAY_ASSERT(offsetof(struct bay_buf_api, put) == 16, "bay_buf_api.put");
BAY_ASSERT(sizeof(((struct bay_buf_api *)0)->put) == 8, "bay_buf_api.put");
BAY_ASSERT(offsetof(struct bay_buf_api, abort) == 24, "bay_buf_api.abort");
BAY_ASSERT(sizeof(((struct bay_buf_api *)0)->abort) == 8, "bay_buf_api.abort");
BAY_ASSERT(offsetof(struct bay_buf_api, pool) == 32, "bay_buf_api.pool");
BAY_ASSERT(sizeof(((struct bay_buf_api *)0)->pool) == 8, "bay_buf_api.pool");
BAY_ASSERT(sizeof(struct bay_mem_api) == 96, "bay_mem_api");
BAY_ASSERT(BAY_ALIGNOF(struct bay_mem_api) == 8, "bay_mem_api");
BAY_ASSERT(offsetof(struct bay_mem_api, size) == 0, "bay_mem_api.size");
BAY_ASSERT(sizeof(((struct bay_mem_api *)0)->size) == 4, "bay_mem_api.size");
BAY_ASSERT(offsetof(struct bay_mem_api, flags) == 4, "bay_mem_api.flags");
BAY_ASSERT(sizeof(((struct bay_mem_api *)0)->flags) == 4, "bay_mem_api.flags");
BAY_ASSERT(offsetof(struct bay_mem_api, alloc) == 8, "bay_mem_api.alloc");
BAY_ASSERT(sizeof(((struct bay_mem_api *)0)->alloc) == 8, "bay_mem_api.alloc");
BAY_ASSERT(offsetof(struct bay_mem_api, free) == 16, "bay_mem_api.free");
BAY_ASSERT(sizeof(((struct bay_mem_api *)0)->free) == 8, "bay_mem_api.free");
BAY_ASSERT(offsetof(struct bay_mem_api, regions) == 24, "bay_mem_api.regions");
BAY_ASSERT(sizeof(((struct bay_mem_api *)0)->regions) == 8, "bay_mem_api.regions");
BAY_ASSERT(offsetof(struct bay_mem_api, nregions) == 32, "bay_mem_api.nregions");
BAY_ASSERT(sizeof(((struct bay_mem_api *)0)->nregions) == 4, "bay_mem_api.nregions");
BAY_ASSERT(offsetof(struct bay_mem_api, numa_nodes) == 36, "bay_mem_api.numa_nodes");
BAY_ASSERT(sizeof(((struct bay_mem_api *)0)->numa_nodes) == 4, "bay_mem_api.numa_nodes");
BAY_ASSERT(offsetof(struct bay_mem_api, region_import) == 40, "bay_mem_api.region_import");
BAY_ASSERT(sizeof(((struct bay_mem_api *)0)->region_import) == 8, "bay_mem_api.region_import");
BAY_ASSERT(offsetof(struct bay_mem_api, region_remove) == 48, "bay_mem_api.region_remove");
BAY_ASSERT(sizeof(((struct bay_mem_api *)0)->region_remove) == 8, "bay_mem_api.region_remove");
BAY_ASSERT(offsetof(struct bay_mem_api, region_of) == 56, "bay_mem_api.region_of");
BAY_ASSERT(sizeof(((struct bay_mem_api *)0)->region_of) == 8, "bay_mem_api.region_of");
BAY_ASSERT(offsetof(struct bay_mem_api, watch) == 64, "bay_mem_api.watch");
BAY_ASSERT(sizeof(((struct bay_mem_api *)0)->watch) == 8, "bay_mem_api.watch");
BAY_ASSERT(offsetof(struct bay_mem_api, unwatch) == 72, "bay_mem_api.unwatch");
BAY_ASSERT(sizeof(((struct bay_mem_api *)0)->unwatch) == 8, "bay_mem_api.unwatch");
BAY_ASSERT(offsetof(struct bay_mem_api, region_release) == 80, "bay_mem_api.region_release");
BAY_ASSERT(sizeof(((struct bay_mem_api *)0)->region_release) == 8, "bay_mem_api.region_release");
BAY_ASSERT(offsetof(struct bay_mem_api, zero) == 88, "bay_mem_api.zero");
BAY_ASSERT(sizeof(((struct bay_mem_api *)0)->zero) == 8, "bay_mem_api.zero");
BAY_ASSERT(sizeof(struct bay_region) == 32, "bay_region");
BAY_ASSERT(BAY_ALIGNOF(struct bay_region) == 8, "bay_region");
BAY_ASSERT(offsetof(struct bay_region, addr) == 0, "bay_region.addr");
BAY_ASSERT(sizeof(((struct bay_region *)0)->addr) == 8, "bay_region.addr");
BAY_ASSERT(offsetof(struct bay_region, len) == 8, "bay_region.len");
BAY_ASSERT(sizeof(((struct bay_region *)0)->len) == 8, "bay_region.len");
BAY_ASSERT(offsetof(struct bay_region, iova) == 16, "bay_region.iova");
BAY_ASSERT(sizeof(((struct bay_region *)0)->iova) == 8, "bay_region.iova");
BAY_ASSERT(offsetof(struct bay_region, state) == 24, "bay_region.state");
BAY_ASSERT(sizeof(((struct bay_region *)0)->state) == 4, "bay_region.state");
BAY_ASSERT(offsetof(struct bay_region, rsv0) == 28, "bay_region.rsv0");
BAY_ASSERT(sizeof(((struct bay_region *)0)->rsv0) == 4, "bay_region.rsv0");
BAY_ASSERT(sizeof(struct bay_rpc_method) == 56, "bay_rpc_method");
BAY_ASSERT(BAY_ALIGNOF(struct bay_rpc_method) == 8, "bay_rpc_method");
BAY_ASSERT(offsetof(struct bay_rpc_method, size) == 0, "bay_rpc_method.size");
BAY_ASSERT(sizeof(((struct bay_rpc_method *)0)->size) == 4, "bay_rpc_method.size");
BAY_ASSERT(offsetof(struct bay_rpc_method, states) == 4, "bay_rpc_method.states");
BAY_ASSERT(sizeof(((struct bay_rpc_method *)0)->states) == 4, "bay_rpc_method.states");
BAY_ASSERT(offsetof(struct bay_rpc_method, name) == 8, "bay_rpc_method.name");
BAY_ASSERT(sizeof(((struct bay_rpc_method *)0)->name) == 16, "bay_rpc_method.name");
BAY_ASSERT(offsetof(struct bay_rpc_method, schema) == 24, "bay_rpc_method.schema");
BAY_ASSERT(sizeof(((struct bay_rpc_method *)0)->schema) == 16, "bay_rpc_method.schema");
BAY_ASSERT(offsetof(struct bay_rpc_method, call) == 40, "bay_rpc_method.call");
BAY_ASSERT(sizeof(((struct bay_rpc_method *)0)->call) == 8, "bay_rpc_method.call");
BAY_ASSERT(offsetof(struct bay_rpc_method, ctx) == 48, "bay_rpc_method.ctx");
BAY_ASSERT(sizeof(((struct bay_rpc_method *)0)->ctx) == 8, "bay_rpc_method.ctx");
BAY_ASSERT(sizeof(struct bay_rpc_api) == 40, "bay_rpc_api");
BAY_ASSERT(BAY_ALIGNOF(struct bay_rpc_api) == 8, "bay_rpc_api");
BAY_ASSERT(offsetof(struct bay_rpc_api, size) == 0, "bay_rpc_api.size");
BAY_ASSERT(sizeof(((struct bay_rpc_api *)0)->size) == 4, "bay_rpc_api.size");
BAY_ASSERT(offsetof(struct bay_rpc_api, flags) == 4, "bay_rpc_api.flags");
BAY_ASSERT(sizeof(((struct bay_rpc_api *)0)->flags) == 4, "bay_rpc_api.flags");
BAY_ASSERT(offsetof(struct bay_rpc_api, register_) == 8, "bay_rpc_api.register_");
BAY_ASSERT(sizeof(((struct bay_rpc_api *)0)->register_) == 8, "bay_rpc_api.register_");
BAY_ASSERT(offsetof(struct bay_rpc_api, unregister) == 16, "bay_rpc_api.unregister");
BAY_ASSERT(sizeof(((struct bay_rpc_api *)0)->unregister) == 8, "bay_rpc_api.unregister");
BAY_ASSERT(offsetof(struct bay_rpc_api, reply) == 24, "bay_rpc_api.reply");
BAY_ASSERT(sizeof(((struct bay_rpc_api *)0)->reply) == 8, "bay_rpc_api.reply");
BAY_ASSERT(offsetof(struct bay_rpc_api, error) == 32, "bay_rpc_api.error");
BAY_ASSERT(sizeof(((struct bay_rpc_api *)0)->error) == 8, "bay_rpc_api.error");
BAY_ASSERT(sizeof(struct bay_broker_api) == 40, "bay_broker_api");
BAY_ASSERT(BAY_ALIGNOF(struct bay_broker_api) == 8, "bay_broker_api");
BAY_ASSERT(offsetof(struct bay_broker_api, size) == 0, "bay_broker_api.size");
BAY_ASSERT(sizeof(((struct bay_broker_api *)0)->size) == 4, "bay_broker_api.size");
BAY_ASSERT(offsetof(struct bay_broker_api, flags) == 4, "bay_broker_api.flags");
BAY_ASSERT(sizeof(((struct bay_broker_api *)0)->flags) == 4, "bay_broker_api.flags");
BAY_ASSERT(offsetof(struct bay_broker_api, provide) == 8, "bay_broker_api.provide");
BAY_ASSERT(sizeof(((struct bay_broker_api *)0)->provide) == 8, "bay_broker_api.provide");
BAY_ASSERT(offsetof(struct bay_broker_api, withdraw) == 16, "bay_broker_api.withdraw");
BAY_ASSERT(sizeof(((struct bay_broker_api *)0)->withdraw) == 8, "bay_broker_api.withdraw");
BAY_ASSERT(offsetof(struct bay_broker_api, acquire) == 24, "bay_broker_api.acquire");
BAY_ASSERT(sizeof(((struct bay_broker_api *)0)->acquire) == 8, "bay_broker_api.acquire");
BAY_ASSERT(offsetof(struct bay_broker_api, release) == 32, "bay_broker_api.release");
BAY_ASSERT(sizeof(((struct bay_broker_api *)0)->release) == 8, "bay_broker_api.release");
BAY_ASSERT(sizeof(struct bay_notify_api) == 24, "bay_notify_api");
BAY_ASSERT(BAY_ALIGNOF(struct bay_notify_api) == 8, "bay_notify_api");
BAY_ASSERT(offsetof(struct bay_notify_api, size) == 0, "bay_notify_api.size");
BAY_ASSERT(sizeof(((struct bay_notify_api *)0)->size) == 4, "bay_notify_api.size");
BAY_ASSERT(offsetof(struct bay_notify_api, flags) == 4, "bay_notify_api.flags");
BAY_ASSERT(sizeof(((struct bay_notify_api *)0)->flags) == 4, "bay_notify_api.flags");
BAY_ASSERT(offsetof(struct bay_notify_api, notify) == 8, "bay_notify_api.notify");
BAY_ASSERT(sizeof(((struct bay_notify_api *)0)->notify) == 8, "bay_notify_api.notify");
BAY_ASSERT(offsetof(struct bay_notify_api, subsystem) == 16, "bay_notify_api.subsystem");
BAY_ASSERT(sizeof(((struct bay_notify_api *)0)->subsystem) == 8, "bay_notify_api.subsystem");
BAY_ASSERT(sizeof(struct bay_quiesce) == 16, "bay_quiesce");
BAY_ASSERT(BAY_ALIGNOF(struct bay_quiesce) == 8, "bay_quiesce");
BAY_ASSERT(offsetof(struct bay_quiesce, size) == 0, "bay_quiesce.size");
BAY_ASSERT(sizeof(((struct bay_quiesce *)0)->size) == 4, "bay_quiesce.size");
BAY_ASSERT(offsetof(struct bay_quiesce, flags) == 4, "bay_quiesce.flags");
BAY_ASSERT(sizeof(((struct bay_quiesce *)0)->flags) == 4, "bay_quiesce.flags");
BAY_ASSERT(offsetof(struct bay_quiesce, begin) == 8, "bay_quiesce.begin");
BAY_ASSERT(sizeof(((struct bay_quiesce *)0)->begin) == 8, "bay_quiesce.begin");
BAY_ASSERT(sizeof(struct bay_job) == 48, "bay_job");
BAY_ASSERT(BAY_ALIGNOF(struct bay_job) == 8, "bay_job");
BAY_ASSERT(offsetof(struct bay_job, run) == 0, "bay_job.run");
BAY_ASSERT(sizeof(((struct bay_job *)0)->run) == 8, "bay_job.run");
BAY_ASSERT(offsetof(struct bay_job, arg) == 8, "bay_job.arg");
BAY_ASSERT(sizeof(((struct bay_job *)0)->arg) == 8, "bay_job.arg");
BAY_ASSERT(offsetof(struct bay_job, done) == 16, "bay_job.done");
BAY_ASSERT(sizeof(((struct bay_job *)0)->done) == 32, "bay_job.done");
BAY_ASSERT(sizeof(struct bay_worker_api) == 24, "bay_worker_api");
BAY_ASSERT(BAY_ALIGNOF(struct bay_worker_api) == 8, "bay_worker_api");
BAY_ASSERT(offsetof(struct bay_worker_api, size) == 0, "bay_worker_api.size");
BAY_ASSERT(sizeof(((struct bay_worker_api *)0)->size) == 4, "bay_worker_api.size");
BAY_ASSERT(offsetof(struct bay_worker_api, flags) == 4, "bay_worker_api.flags");
BAY_ASSERT(sizeof(((struct bay_worker_api *)0)->flags) == 4, "bay_worker_api.flags");
BAY_ASSERT(offsetof(struct bay_worker_api, submit) == 8, "bay_worker_api.submit");
BAY_ASSERT(sizeof(((struct bay_worker_api *)0)->submit) == 8, "bay_worker_api.submit");
BAY_ASSERT(offsetof(struct bay_worker_api, cancel) == 16, "bay_worker_api.cancel");
BAY_ASSERT(sizeof(((struct bay_worker_api *)0)->cancel) == 8, "bay_worker_api.cancel");
BAY_ASSERT(sizeof(struct bay_log_iface) == 16, "bay_log_iface");
BAY_ASSERT(BAY_ALIGNOF(struct bay_log_iface) == 8, "bay_log_iface");
BAY_ASSERT(offsetof(struct bay_log_iface, size) == 0, "bay_log_iface.size");
BAY_ASSERT(sizeof(((struct bay_log_iface *)0)->size) == 4, "bay_log_iface.size");
BAY_ASSERT(offsetof(struct bay_log_iface, flags) == 4, "bay_log_iface.flags");
BAY_ASSERT(sizeof(((struct bay_log_iface *)0)->flags) == 4, "bay_log_iface.flags");
BAY_ASSERT(offsetof(struct bay_log_iface, changed) == 8, "bay_log_iface.changed");
BAY_ASSERT(sizeof(((struct bay_log_iface *)0)->changed) == 8, "bay_log_iface.changed");
BAY_ASSERT(sizeof(struct bay_nvmf_addr) == 352, "bay_nvmf_addr");
BAY_ASSERT(BAY_ALIGNOF(struct bay_nvmf_addr) == 1, "bay_nvmf_addr");
BAY_ASSERT(offsetof(struct bay_nvmf_addr, trtype) == 0, "bay_nvmf_addr.trtype");
BAY_ASSERT(sizeof(((struct bay_nvmf_addr *)0)->trtype) == 32, "bay_nvmf_addr.trtype");
BAY_ASSERT(offsetof(struct bay_nvmf_addr, adrfam) == 32, "bay_nvmf_addr.adrfam");
BAY_ASSERT(sizeof(((struct bay_nvmf_addr *)0)->adrfam) == 32, "bay_nvmf_addr.adrfam");
BAY_ASSERT(offsetof(struct bay_nvmf_addr, traddr) == 64, "bay_nvmf_addr.traddr");
BAY_ASSERT(sizeof(((struct bay_nvmf_addr *)0)->traddr) == 256, "bay_nvmf_addr.traddr");
BAY_ASSERT(offsetof(struct bay_nvmf_addr, trsvcid) == 320, "bay_nvmf_addr.trsvcid");
BAY_ASSERT(sizeof(((struct bay_nvmf_addr *)0)->trsvcid) == 32, "bay_nvmf_addr.trsvcid");
BAY_ASSERT(sizeof(struct bay_nvmf_req) == 192, "bay_nvmf_req");
BAY_ASSERT(BAY_ALIGNOF(struct bay_nvmf_req) == 64, "bay_nvmf_req");
BAY_ASSERT(offsetof(struct bay_nvmf_req, cmd) == 0, "bay_nvmf_req.cmd");
BAY_ASSERT(sizeof(((struct bay_nvmf_req *)0)->cmd) == 64, "bay_nvmf_req.cmd");
BAY_ASSERT(offsetof(struct bay_nvmf_req, rsp) == 64, "bay_nvmf_req.rsp");
BAY_ASSERT(sizeof(((struct bay_nvmf_req *)0)->rsp) == 16, "bay_nvmf_req.rsp");
BAY_ASSERT(offsetof(struct bay_nvmf_req, iov) == 80, "bay_nvmf_req.iov");
BAY_ASSERT(sizeof(((struct bay_nvmf_req *)0)->iov) == 8, "bay_nvmf_req.iov");
BAY_ASSERT(offsetof(struct bay_nvmf_req, iovcnt) == 88, "bay_nvmf_req.iovcnt");
BAY_ASSERT(sizeof(((struct bay_nvmf_req *)0)->iovcnt) == 4, "bay_nvmf_req.iovcnt");
BAY_ASSERT(offsetof(struct bay_nvmf_req, len) == 92, "bay_nvmf_req.len");
BAY_ASSERT(sizeof(((struct bay_nvmf_req *)0)->len) == 4, "bay_nvmf_req.len");
BAY_ASSERT(offsetof(struct bay_nvmf_req, xfer) == 96, "bay_nvmf_req.xfer");
BAY_ASSERT(sizeof(((struct bay_nvmf_req *)0)->xfer) == 1, "bay_nvmf_req.xfer");
BAY_ASSERT(offsetof(struct bay_nvmf_req, rsv0) == 97, "bay_nvmf_req.rsv0");
BAY_ASSERT(sizeof(((struct bay_nvmf_req *)0)->rsv0) == 1, "bay_nvmf_req.rsv0");
BAY_ASSERT(offsetof(struct bay_nvmf_req, rsv1) == 98, "bay_nvmf_req.rsv1");
BAY_ASSERT(sizeof(((struct bay_nvmf_req *)0)->rsv1) == 2, "bay_nvmf_req.rsv1");
BAY_ASSERT(offsetof(struct bay_nvmf_req, rsp_len) == 100, "bay_nvmf_req.rsp_len");
BAY_ASSERT(sizeof(((struct bay_nvmf_req *)0)->rsp_len) == 4, "bay_nvmf_req.rsp_len");
BAY_ASSERT(offsetof(struct bay_nvmf_req, conn) == 104, "bay_nvmf_req.conn");
BAY_ASSERT(sizeof(((struct bay_nvmf_req *)0)->conn) == 8, "bay_nvmf_req.conn");
BAY_ASSERT(offsetof(struct bay_nvmf_req, tgt) == 112, "bay_nvmf_req.tgt");
BAY_ASSERT(sizeof(((struct bay_nvmf_req *)0)->tgt) == 64, "bay_nvmf_req.tgt");
BAY_ASSERT(sizeof(struct bay_nvmf_transport_ops) == 128, "bay_nvmf_transport_ops");
BAY_ASSERT(BAY_ALIGNOF(struct bay_nvmf_transport_ops) == 8, "bay_nvmf_transport_ops");
BAY_ASSERT(offsetof(struct bay_nvmf_transport_ops, size) == 0, "bay_nvmf_transport_ops.size");
BAY_ASSERT(sizeof(((struct bay_nvmf_transport_ops *)0)->size) == 4, "bay_nvmf_transport_ops.size");
BAY_ASSERT(offsetof(struct bay_nvmf_transport_ops, flags) == 4, "bay_nvmf_transport_ops.flags");
BAY_ASSERT(sizeof(((struct bay_nvmf_transport_ops *)0)->flags) == 4, "bay_nvmf_transport_ops.flags");
BAY_ASSERT(offsetof(struct bay_nvmf_transport_ops, create) == 8, "bay_nvmf_transport_ops.create");
BAY_ASSERT(sizeof(((struct bay_nvmf_transport_ops *)0)->create) == 8, "bay_nvmf_transport_ops.create");
BAY_ASSERT(offsetof(struct bay_nvmf_transport_ops, destroy) == 16, "bay_nvmf_transport_ops.destroy");
BAY_ASSERT(sizeof(((struct bay_nvmf_transport_ops *)0)->destroy) == 8, "bay_nvmf_transport_ops.destroy");
BAY_ASSERT(offsetof(struct bay_nvmf_transport_ops, dump) == 24, "bay_nvmf_transport_ops.dump");
BAY_ASSERT(sizeof(((struct bay_nvmf_transport_ops *)0)->dump) == 8, "bay_nvmf_transport_ops.dump");
BAY_ASSERT(offsetof(struct bay_nvmf_transport_ops, listen) == 32, "bay_nvmf_transport_ops.listen");
BAY_ASSERT(sizeof(((struct bay_nvmf_transport_ops *)0)->listen) == 8, "bay_nvmf_transport_ops.listen");
BAY_ASSERT(offsetof(struct bay_nvmf_transport_ops, stop_listen) == 40, "bay_nvmf_transport_ops.stop_listen");
BAY_ASSERT(sizeof(((struct bay_nvmf_transport_ops *)0)->stop_listen) == 8, "bay_nvmf_transport_ops.stop_listen");
BAY_ASSERT(offsetof(struct bay_nvmf_transport_ops, group_create) == 48, "bay_nvmf_transport_ops.group_create");
BAY_ASSERT(sizeof(((struct bay_nvmf_transport_ops *)0)->group_create) == 8, "bay_nvmf_transport_ops.group_create");
BAY_ASSERT(offsetof(struct bay_nvmf_transport_ops, group_destroy) == 56, "bay_nvmf_transport_ops.group_destroy");
BAY_ASSERT(sizeof(((struct bay_nvmf_transport_ops *)0)->group_destroy) == 8, "bay_nvmf_transport_ops.group_destroy");
BAY_ASSERT(offsetof(struct bay_nvmf_transport_ops, group_add) == 64, "bay_nvmf_transport_ops.group_add");
BAY_ASSERT(sizeof(((struct bay_nvmf_transport_ops *)0)->group_add) == 8, "bay_nvmf_transport_ops.group_add");
BAY_ASSERT(offsetof(struct bay_nvmf_transport_ops, conn_refused) == 72, "bay_nvmf_transport_ops.conn_refused");
BAY_ASSERT(sizeof(((struct bay_nvmf_transport_ops *)0)->conn_refused) == 8, "bay_nvmf_transport_ops.conn_refused");
BAY_ASSERT(offsetof(struct bay_nvmf_transport_ops, complete) == 80, "bay_nvmf_transport_ops.complete");
BAY_ASSERT(sizeof(((struct bay_nvmf_transport_ops *)0)->complete) == 8, "bay_nvmf_transport_ops.complete");
BAY_ASSERT(offsetof(struct bay_nvmf_transport_ops, close) == 88, "bay_nvmf_transport_ops.close");
BAY_ASSERT(sizeof(((struct bay_nvmf_transport_ops *)0)->close) == 8, "bay_nvmf_transport_ops.close");
BAY_ASSERT(offsetof(struct bay_nvmf_transport_ops, qpair_free) == 96, "bay_nvmf_transport_ops.qpair_free");
BAY_ASSERT(sizeof(((struct bay_nvmf_transport_ops *)0)->qpair_free) == 8, "bay_nvmf_transport_ops.qpair_free");
BAY_ASSERT(offsetof(struct bay_nvmf_transport_ops, conn_addr) == 104, "bay_nvmf_transport_ops.conn_addr");
BAY_ASSERT(sizeof(((struct bay_nvmf_transport_ops *)0)->conn_addr) == 8, "bay_nvmf_transport_ops.conn_addr");
BAY_ASSERT(offsetof(struct bay_nvmf_transport_ops, connected) == 112, "bay_nvmf_transport_ops.connected");
BAY_ASSERT(sizeof(((struct bay_nvmf_transport_ops *)0)->connected) == 8, "bay_nvmf_transport_ops.connected");
BAY_ASSERT(offsetof(struct bay_nvmf_transport_ops, explain) == 120, "bay_nvmf_transport_ops.explain");
BAY_ASSERT(sizeof(((struct bay_nvmf_transport_ops *)0)->explain) == 8, "bay_nvmf_transport_ops.explain");
BAY_ASSERT(sizeof(struct bay_nvmf_target_api) == 56, "bay_nvmf_target_api");
BAY_ASSERT(BAY_ALIGNOF(struct bay_nvmf_target_api) == 8, "bay_nvmf_target_api");
BAY_ASSERT(offsetof(struct bay_nvmf_target_api, size) == 0, "bay_nvmf_target_api.size");
BAY_ASSERT(sizeof(((struct bay_nvmf_target_api *)0)->size) == 4, "bay_nvmf_target_api.size");
BAY_ASSERT(offsetof(struct bay_nvmf_target_api, flags) == 4, "bay_nvmf_target_api.flags");
BAY_ASSERT(sizeof(((struct bay_nvmf_target_api *)0)->flags) == 4, "bay_nvmf_target_api.flags");
BAY_ASSERT(offsetof(struct bay_nvmf_target_api, target) == 8, "bay_nvmf_target_api.target");
BAY_ASSERT(sizeof(((struct bay_nvmf_target_api *)0)->target) == 8, "bay_nvmf_target_api.target");
BAY_ASSERT(offsetof(struct bay_nvmf_target_api, register_) == 16, "bay_nvmf_target_api.register_");
BAY_ASSERT(sizeof(((struct bay_nvmf_target_api *)0)->register_) == 8, "bay_nvmf_target_api.register_");
BAY_ASSERT(offsetof(struct bay_nvmf_target_api, unregister) == 24, "bay_nvmf_target_api.unregister");
BAY_ASSERT(sizeof(((struct bay_nvmf_target_api *)0)->unregister) == 8, "bay_nvmf_target_api.unregister");
BAY_ASSERT(offsetof(struct bay_nvmf_target_api, new_qpair) == 32, "bay_nvmf_target_api.new_qpair");
BAY_ASSERT(sizeof(((struct bay_nvmf_target_api *)0)->new_qpair) == 8, "bay_nvmf_target_api.new_qpair");
BAY_ASSERT(offsetof(struct bay_nvmf_target_api, exec) == 40, "bay_nvmf_target_api.exec");
BAY_ASSERT(sizeof(((struct bay_nvmf_target_api *)0)->exec) == 8, "bay_nvmf_target_api.exec");
BAY_ASSERT(offsetof(struct bay_nvmf_target_api, disconnected) == 48, "bay_nvmf_target_api.disconnected");
BAY_ASSERT(sizeof(((struct bay_nvmf_target_api *)0)->disconnected) == 8, "bay_nvmf_target_api.disconnected");
BAY_ASSERT(sizeof(struct bay_pci_info) == 64, "bay_pci_info");
BAY_ASSERT(BAY_ALIGNOF(struct bay_pci_info) == 8, "bay_pci_info");
BAY_ASSERT(offsetof(struct bay_pci_info, size) == 0, "bay_pci_info.size");
BAY_ASSERT(sizeof(((struct bay_pci_info *)0)->size) == 4, "bay_pci_info.size");
BAY_ASSERT(offsetof(struct bay_pci_info, vendor) == 4, "bay_pci_info.vendor");
BAY_ASSERT(sizeof(((struct bay_pci_info *)0)->vendor) == 2, "bay_pci_info.vendor");
BAY_ASSERT(offsetof(struct bay_pci_info, device) == 6, "bay_pci_info.device");
BAY_ASSERT(sizeof(((struct bay_pci_info *)0)->device) == 2, "bay_pci_info.device");
BAY_ASSERT(offsetof(struct bay_pci_info, subvendor) == 8, "bay_pci_info.subvendor");
BAY_ASSERT(sizeof(((struct bay_pci_info *)0)->subvendor) == 2, "bay_pci_info.subvendor");
BAY_ASSERT(offsetof(struct bay_pci_info, subdevice) == 10, "bay_pci_info.subdevice");
BAY_ASSERT(sizeof(((struct bay_pci_info *)0)->subdevice) == 2, "bay_pci_info.subdevice");
BAY_ASSERT(offsetof(struct bay_pci_info, class_) == 12, "bay_pci_info.class_");
BAY_ASSERT(sizeof(((struct bay_pci_info *)0)->class_) == 4, "bay_pci_info.class_");
BAY_ASSERT(offsetof(struct bay_pci_info, numa) == 16, "bay_pci_info.numa");
BAY_ASSERT(sizeof(((struct bay_pci_info *)0)->numa) == 4, "bay_pci_info.numa");
BAY_ASSERT(offsetof(struct bay_pci_info, iommu_group) == 20, "bay_pci_info.iommu_group");
BAY_ASSERT(sizeof(((struct bay_pci_info *)0)->iommu_group) == 4, "bay_pci_info.iommu_group");
BAY_ASSERT(offsetof(struct bay_pci_info, rsv) == 24, "bay_pci_info.rsv");
BAY_ASSERT(sizeof(((struct bay_pci_info *)0)->rsv) == 4, "bay_pci_info.rsv");
BAY_ASSERT(offsetof(struct bay_pci_info, address) == 32, "bay_pci_info.address");
BAY_ASSERT(sizeof(((struct bay_pci_info *)0)->address) == 16, "bay_pci_info.address");
BAY_ASSERT(offsetof(struct bay_pci_info, driver) == 48, "bay_pci_info.driver");
BAY_ASSERT(sizeof(((struct bay_pci_info *)0)->driver) == 16, "bay_pci_info.driver");
BAY_ASSERT(sizeof(struct bay_pci_api) == 104, "bay_pci_api");
BAY_ASSERT(BAY_ALIGNOF(struct bay_pci_api) == 8, "bay_pci_api");
BAY_ASSERT(offsetof(struct bay_pci_api, size) == 0, "bay_pci_api.size");
BAY_ASSERT(sizeof(((struct bay_pci_api *)0)->size) == 4, "bay_pci_api.size");
BAY_ASSERT(offsetof(struct bay_pci_api, flags) == 4, "bay_pci_api.flags");
BAY_ASSERT(sizeof(((struct bay_pci_api *)0)->flags) == 4, "bay_pci_api.flags");
BAY_ASSERT(offsetof(struct bay_pci_api, list) == 8, "bay_pci_api.list");
BAY_ASSERT(sizeof(((struct bay_pci_api *)0)->list) == 8, "bay_pci_api.list");
BAY_ASSERT(offsetof(struct bay_pci_api, open) == 16, "bay_pci_api.open");
BAY_ASSERT(sizeof(((struct bay_pci_api *)0)->open) == 8, "bay_pci_api.open");
BAY_ASSERT(offsetof(struct bay_pci_api, close) == 24, "bay_pci_api.close");
BAY_ASSERT(sizeof(((struct bay_pci_api *)0)->close) == 8, "bay_pci_api.close");
BAY_ASSERT(offsetof(struct bay_pci_api, config_read) == 32, "bay_pci_api.config_read");
BAY_ASSERT(sizeof(((struct bay_pci_api *)0)->config_read) == 8, "bay_pci_api.config_read");
BAY_ASSERT(offsetof(struct bay_pci_api, config_write) == 40, "bay_pci_api.config_write");
BAY_ASSERT(sizeof(((struct bay_pci_api *)0)->config_write) == 8, "bay_pci_api.config_write");
BAY_ASSERT(offsetof(struct bay_pci_api, bar) == 48, "bay_pci_api.bar");
BAY_ASSERT(sizeof(((struct bay_pci_api *)0)->bar) == 8, "bay_pci_api.bar");
BAY_ASSERT(offsetof(struct bay_pci_api, set_master) == 56, "bay_pci_api.set_master");
BAY_ASSERT(sizeof(((struct bay_pci_api *)0)->set_master) == 8, "bay_pci_api.set_master");
BAY_ASSERT(offsetof(struct bay_pci_api, reset) == 64, "bay_pci_api.reset");
BAY_ASSERT(sizeof(((struct bay_pci_api *)0)->reset) == 8, "bay_pci_api.reset");
BAY_ASSERT(offsetof(struct bay_pci_api, vectors) == 72, "bay_pci_api.vectors");
BAY_ASSERT(sizeof(((struct bay_pci_api *)0)->vectors) == 8, "bay_pci_api.vectors");
BAY_ASSERT(offsetof(struct bay_pci_api, interrupts) == 80, "bay_pci_api.interrupts");
BAY_ASSERT(sizeof(((struct bay_pci_api *)0)->interrupts) == 8, "bay_pci_api.interrupts");
BAY_ASSERT(offsetof(struct bay_pci_api, removal_fd) == 88, "bay_pci_api.removal_fd");
BAY_ASSERT(sizeof(((struct bay_pci_api *)0)->removal_fd) == 8, "bay_pci_api.removal_fd");
BAY_ASSERT(offsetof(struct bay_pci_api, share) == 96, "bay_pci_api.share");
BAY_ASSERT(sizeof(((struct bay_pci_api *)0)->share) == 8, "bay_pci_api.share");

/** What the asserts above have proven, as it travels in the layout note. */
#define BAY_LAYOUT_TEXT \
    "bay_str:size=16,align=8,closed;ptr@0+8=*constu8;len@8+8=usize\n" \
    "bay_sink:size=16,align=8,closed;ctx@0+8=*mutc_void;write@8+8=Option<bay_sink_write_fn>\n" \
    "bay_plugin:size=72,align=8,open;magic@0+8=u64;size@8+4=u32;abi_major@12+2=u16;abi_minor@14+2=u16;needs_minor@16+2=u16;rsv0@18+2=u16;flags@20+4=u32;name@24+8=*constc_char;version@32+8=*constc_char;init@40+8=Option<bay_init_fn>;start@48+8=Option<bay_start_fn>;fini@56+8=Option<bay_fini_fn>;get_iface@64+8=Option<bay_plugin_get_iface_fn>\n" \
    "bay_host:size=40,align=8,open;size@0+4=u32;abi_major@4+2=u16;abi_minor@6+2=u16;ctx@8+8=*mutc_void;get_iface@16+8=Option<bay_host_get_iface_fn>;log_level@24+8=*constu32;log@32+8=Option<bay_log_fn>\n" \
    "fn:bay_sink_write_fn(ctx:*mutc_void,text:bay_str,)\n" \
    "fn:bay_cb_fn(arg:*mutc_void,status:i32,)\n" \
    "fn:bay_init_fn(host:*constbay_host,state:*mut*mutc_void,)->i32\n" \
    "fn:bay_start_fn(state:*mutc_void,how:u32,)->i32\n" \
    "fn:bay_fini_fn(state:*mutc_void,reason:u32,)\n" \
    "fn:bay_plugin_get_iface_fn(state:*mutc_void,id:bay_str,min_minor:u32,)->*constc_void\n" \
    "fn:bay_host_get_iface_fn(host:*constbay_host,id:bay_str,min_minor:u32,)->*constc_void\n" \
    "fn:bay_log_fn(host:*constbay_host,level:u32,target:bay_str,text:bay_str,)\n" \
    "bay_iov:size=16,align=8,closed;addr@0+8=*mutc_void;len@8+4=u32;region@12+4=u32\n" \
    "bay_io:size=128,align=64,closed;op@0+2=u16;iovcnt@2+2=u16;flags@4+4=u32;lba@8+8=u64;nblocks@16+8=u64;iov@24+8=*constbay_iov;done@32+8=Option<bay_done_fn>;drv_ctx@40+8=*mutc_void;link@48+8=*mutc_void;ext@56+8=*constbay_io_ext;md@64+8=*mutc_void;md_len@72+4=u32;md_region@76+4=u32;detail@80+8=u64;detail_kind@88+1=u8;prio@89+1=u8;holds@90+2=u16;arg_len@92+4=u32;arg@96+16=[u64;2];id@112+8=u64;rsv1@120+8=u64\n" \
    "bay_zone:size=32,align=8,closed;lba@0+8=u64;capacity@8+8=u64;write_pointer@16+8=u64;state@24+1=u8;kind@25+1=u8;rsv@26+6=[u8;6]\n" \
    "bay_io_ext:size=16,align=8,open;size@0+4=u32;valid@4+4=u32;trace_id@8+8=u64\n" \
    "bay_chan_args:size=32,align=8,open;size@0+4=u32;numa@4+4=i32;thread@8+8=u64;host_chan@16+8=u64;handover@24+8=*constc_void\n" \
    "bay_bdev_ops:size=80,align=8,open;size@0+4=u32;flags@4+4=u32;submit@8+8=Option<bay_submit_fn>;flush@16+8=Option<bay_flush_fn>;chan_create@24+8=Option<bay_chan_create_fn>;chan_destroy@32+8=Option<bay_chan_destroy_fn>;destruct@40+8=Option<bay_destruct_fn>;dump_info@48+8=Option<bay_dump_fn>;write_config@56+8=Option<bay_dump_fn>;dump_stats@64+8=Option<bay_dump_fn>;reset_stats@72+8=Option<bay_reset_stats_fn>\n" \
    "bay_bdev_reg:size=224,align=8,open;size@0+4=u32;flags@4+4=u32;ctx@8+8=*mutc_void;ops@16+8=*constbay_bdev_ops;name@24+16=bay_str;product@40+16=bay_str;aliases@56+8=*constbay_str;naliases@64+4=u32;block_size@68+4=u32;num_blocks@72+8=u64;uuid@80+16=[u8;16];phys_block_size@96+4=u32;write_unit@100+4=u32;atomic_write_unit@104+4=u32;align@108+4=u32;optimal_boundary@112+4=u32;max_segments@116+4=u32;max_segment_size@120+4=u32;max_io_blocks@124+4=u32;max_unmap@128+4=u32;max_write_zeroes@132+4=u32;max_copy@136+4=u32;md_size@140+4=u32;md_interleave@144+1=u8;dif_type@145+1=u8;dif_is_head@146+1=u8;dif_pi_format@147+1=u8;dif_check_flags@148+4=u32;numa@152+4=i32;nsid@156+4=u32;reset_drain_ms@160+4=u32;needs_dma@164+4=u32;ops_mask@168+8=u64;must_flags@176+4=u32;max_children@180+4=u32;drv_ctx_size@184+4=u32;rsv0@188+4=u32;base@192+16=bay_str;zone_size@208+8=u64;max_open_zones@216+4=u32;max_active_zones@220+4=u32\n" \
    "bay_bdev_info:size=96,align=8,open;size@0+4=u32;flags@4+4=u32;num_blocks@8+8=u64;block_size@16+4=u32;phys_block_size@20+4=u32;ops_mask@24+8=u64;uuid@32+16=[u8;16];write_unit@48+4=u32;atomic_write_unit@52+4=u32;align@56+4=u32;optimal_boundary@60+4=u32;md_size@64+4=u32;md_interleave@68+1=u8;dif_type@69+1=u8;dif_is_head@70+1=u8;dif_pi_format@71+1=u8;numa@72+4=i32;must_flags@76+4=u32;name@80+16=bay_str\n" \
    "bay_wait:size=32,align=8,closed;cb@0+8=Option<bay_wait_fn>;arg@8+8=*mutc_void;link@16+8=*mutc_void;rsv@24+8=u64\n" \
    "bay_bdev_api:size=120,align=8,open;size@0+4=u32;flags@4+4=u32;register@8+8=Option<bay_bdev_register_fn>;unregister@16+8=Option<bay_bdev_unregister_fn>;destruct_done@24+8=Option<bay_bdev_destruct_done_fn>;chan_ready@32+8=Option<bay_bdev_chan_ready_fn>;chan_closed@40+8=Option<bay_bdev_chan_closed_fn>;resize@48+8=Option<bay_bdev_resize_fn>;kick@56+8=Option<bay_bdev_kick_fn>;quiesce@64+8=Option<bay_bdev_quiesce_fn>;unquiesce@72+8=Option<bay_bdev_quiesce_fn>;examine_done@80+8=Option<bay_examine_done_fn>;reserve@88+8=Option<bay_bdev_reserve_fn>;release@96+8=Option<bay_bdev_release_fn>;alias@104+8=Option<bay_bdev_alias_fn>;media@112+8=Option<bay_bdev_media_fn>\n" \
    "bay_bdev_client_api:size=144,align=8,open;size@0+4=u32;flags@4+4=u32;open@8+8=Option<bay_client_open_fn>;close@16+8=Option<bay_client_close_fn>;info@24+8=Option<bay_client_info_fn>;claim@32+8=Option<bay_client_claim_fn>;unclaim@40+8=Option<bay_client_unclaim_fn>;chan_get@48+8=Option<bay_client_chan_get_fn>;chan_put@56+8=Option<bay_client_chan_put_fn>;io_get@64+8=Option<bay_client_io_get_fn>;io_put@72+8=Option<bay_client_io_put_fn>;io_derive@80+8=Option<bay_client_io_derive_fn>;submit@88+8=Option<bay_client_submit_fn>;complete_from@96+8=Option<bay_client_complete_from_fn>;flush@104+8=Option<bay_client_flush_fn>;pass@112+8=Option<bay_client_pass_fn>;io_abort@120+8=Option<bay_client_io_abort_fn>;io_derive_part@128+8=Option<bay_client_io_derive_part_fn>;media_next@136+8=Option<bay_client_media_fn>\n" \
    "bay_bdev_module:size=40,align=8,open;size@0+4=u32;flags@4+4=u32;examine_config@8+8=Option<bay_examine_config_fn>;examine_disk@16+8=Option<bay_examine_disk_fn>;write_config@24+8=Option<bay_module_config_fn>;fini_start@32+8=Option<bay_module_fini_start_fn>\n" \
    "fn:bay_done_fn(io:*mutbay_io,status:i32,)\n" \
    "fn:bay_submit_fn(chan:*mutc_void,io:*mutbay_io,)\n" \
    "fn:bay_flush_fn(chan:*mutc_void,)\n" \
    "fn:bay_chan_create_fn(bdev:*mutc_void,args:*constbay_chan_args,chan:*mut*mutc_void,)->i32\n" \
    "fn:bay_chan_destroy_fn(bdev:*mutc_void,chan:*mutc_void,)->i32\n" \
    "fn:bay_destruct_fn(bdev:*mutc_void,)->i32\n" \
    "fn:bay_dump_fn(bdev:*mutc_void,sink:*constbay_sink,)\n" \
    "fn:bay_reset_stats_fn(bdev:*mutc_void,)\n" \
    "fn:bay_bdev_register_fn(host:*constbay_host,reg:*constbay_bdev_reg,id:*mutu64,)->i32\n" \
    "fn:bay_bdev_unregister_fn(host:*constbay_host,id:u64,done:Option<bay_cb_fn>,arg:*mutc_void,)->i32\n" \
    "fn:bay_bdev_destruct_done_fn(host:*constbay_host,id:u64,status:i32,)\n" \
    "fn:bay_bdev_chan_ready_fn(host:*constbay_host,host_chan:u64,chan:*mutc_void,status:i32,)\n" \
    "fn:bay_bdev_chan_closed_fn(host:*constbay_host,host_chan:u64,)\n" \
    "fn:bay_bdev_reserve_fn(host:*constbay_host,name:bay_str,uuid:*constu8,)->i32\n" \
    "fn:bay_bdev_release_fn(host:*constbay_host,name:bay_str,)->i32\n" \
    "fn:bay_bdev_resize_fn(host:*constbay_host,id:u64,num_blocks:u64,)->i32\n" \
    "fn:bay_bdev_kick_fn(host:*constbay_host,host_chan:u64,)\n" \
    "fn:bay_bdev_quiesce_fn(host:*constbay_host,id:u64,lba:u64,nblocks:u64,done:Option<bay_cb_fn>,arg:*mutc_void,)->i32\n" \
    "fn:bay_bdev_alias_fn(host:*constbay_host,id:u64,alias:bay_str,add:u32,)->i32\n" \
    "fn:bay_bdev_media_fn(host:*constbay_host,id:u64,lba:u64,nblocks:u64,)->i32\n" \
    "fn:bay_bdev_event_fn(arg:*mutc_void,event:u32,value:u64,)\n" \
    "fn:bay_io_cb_fn(arg:*mutc_void,io:*mutbay_io,status:i32,)\n" \
    "fn:bay_wait_fn(arg:*mutc_void,)\n" \
    "fn:bay_client_open_fn(host:*constbay_host,name:bay_str,flags:u32,event:Option<bay_bdev_event_fn>,arg:*mutc_void,desc:*mutu64,)->i32\n" \
    "fn:bay_client_close_fn(host:*constbay_host,desc:u64,)->i32\n" \
    "fn:bay_client_info_fn(host:*constbay_host,desc:u64,info:*mutbay_bdev_info,)->i32\n" \
    "fn:bay_client_claim_fn(host:*constbay_host,desc:u64,kind:u32,key:u64,)->i32\n" \
    "fn:bay_client_unclaim_fn(host:*constbay_host,desc:u64,)->i32\n" \
    "fn:bay_client_chan_get_fn(host:*constbay_host,desc:u64,chan:*mutu64,)->i32\n" \
    "fn:bay_client_chan_put_fn(host:*constbay_host,chan:u64,)->i32\n" \
    "fn:bay_client_io_get_fn(host:*constbay_host,chan:u64,wait:*mutbay_wait,)->*mutbay_io\n" \
    "fn:bay_client_io_put_fn(host:*constbay_host,io:*mutbay_io,)\n" \
    "fn:bay_client_io_derive_fn(host:*constbay_host,chan:u64,parent:*mutbay_io,)->*mutbay_io\n" \
    "fn:bay_client_io_derive_part_fn(host:*constbay_host,chan:u64,parent:*mutbay_io,first:u64,nblocks:u64,)->*mutbay_io\n" \
    "fn:bay_client_submit_fn(host:*constbay_host,io:*mutbay_io,cb:Option<bay_io_cb_fn>,arg:*mutc_void,)\n" \
    "fn:bay_client_media_fn(host:*constbay_host,desc:u64,lba:*mutu64,nblocks:*mutu64,)->i32\n" \
    "fn:bay_client_complete_from_fn(host:*constbay_host,parent:*mutbay_io,child:*mutbay_io,status:i32,)\n" \
    "fn:bay_client_flush_fn(host:*constbay_host,chan:u64,)\n" \
    "fn:bay_client_pass_fn(host:*constbay_host,chan:u64,io:*mutbay_io,lba:u64,)\n" \
    "fn:bay_client_io_abort_fn(host:*constbay_host,chan:u64,wait:*mutbay_wait,)->i32\n" \
    "fn:bay_examine_config_fn(state:*mutc_void,name:bay_str,)\n" \
    "fn:bay_examine_disk_fn(state:*mutc_void,name:bay_str,token:u64,)\n" \
    "fn:bay_module_config_fn(state:*mutc_void,sink:*constbay_sink,)\n" \
    "fn:bay_module_fini_start_fn(state:*mutc_void,)\n" \
    "fn:bay_examine_done_fn(host:*constbay_host,token:u64,)\n" \
    "bay_msg:size=32,align=8,closed;call@0+8=Option<bay_msg_fn>;arg@8+8=*mutc_void;link@16+8=*mutc_void;rsv@24+8=u64\n" \
    "bay_poller_ops:size=40,align=8,open;size@0+4=u32;flags@4+4=u32;run@8+8=Option<bay_poll_fn>;prepare_sleep@16+8=Option<bay_poll_fn>;woke@24+8=Option<bay_poller_woke_fn>;next_ns@32+8=Option<bay_poller_next_fn>\n" \
    "bay_thread_api:size=72,align=8,open;size@0+4=u32;flags@4+4=u32;current@8+8=Option<bay_thread_current_fn>;app_thread@16+8=Option<bay_thread_app_fn>;next_core@24+8=Option<bay_thread_next_core_fn>;create@32+8=Option<bay_thread_create_fn>;exit@40+8=Option<bay_thread_exit_fn>;set_cpumask@48+8=Option<bay_thread_set_cpumask_fn>;send@56+8=Option<bay_thread_send_fn>;now_ns@64+8=Option<bay_now_ns_fn>\n" \
    "bay_poller_api:size=48,align=8,open;size@0+4=u32;flags@4+4=u32;register@8+8=Option<bay_poller_register_fn>;unregister@16+8=Option<bay_poller_fn>;pause@24+8=Option<bay_poller_fn>;resume@32+8=Option<bay_poller_fn>;wake_fd@40+8=Option<bay_poller_wake_fd_fn>\n" \
    "bay_io_device_api:size=40,align=8,open;size@0+4=u32;flags@4+4=u32;register@8+8=Option<bay_io_device_register_fn>;unregister@16+8=Option<bay_io_device_unregister_fn>;chan_get@24+8=Option<bay_io_device_chan_get_fn>;chan_put@32+8=Option<bay_io_device_chan_put_fn>\n" \
    "bay_buf_api:size=40,align=8,open;size@0+4=u32;max_len@4+4=u32;get@8+8=Option<bay_buf_get_fn>;put@16+8=Option<bay_buf_put_fn>;abort@24+8=Option<bay_buf_abort_fn>;pool@32+8=Option<bay_buf_pool_fn>\n" \
    "bay_mem_api:size=96,align=8,open;size@0+4=u32;flags@4+4=u32;alloc@8+8=Option<bay_mem_alloc_fn>;free@16+8=Option<bay_mem_free_fn>;regions@24+8=*constbay_region;nregions@32+4=u32;numa_nodes@36+4=u32;region_import@40+8=Option<bay_mem_region_import_fn>;region_remove@48+8=Option<bay_mem_region_remove_fn>;region_of@56+8=Option<bay_mem_region_of_fn>;watch@64+8=Option<bay_mem_watch_fn>;unwatch@72+8=Option<bay_mem_unwatch_fn>;region_release@80+8=Option<bay_mem_region_release_fn>;zero@88+8=Option<bay_mem_zero_fn>\n" \
    "bay_region:size=32,align=8,closed;addr@0+8=*mutc_void;len@8+8=u64;iova@16+8=u64;state@24+4=u32;rsv0@28+4=u32\n" \
    "bay_rpc_method:size=56,align=8,open;size@0+4=u32;states@4+4=u32;name@8+16=bay_str;schema@24+16=bay_str;call@40+8=Option<bay_rpc_call_fn>;ctx@48+8=*mutc_void\n" \
    "bay_rpc_api:size=40,align=8,open;size@0+4=u32;flags@4+4=u32;register@8+8=Option<bay_rpc_register_fn>;unregister@16+8=Option<bay_rpc_unregister_fn>;reply@24+8=Option<bay_rpc_reply_fn>;error@32+8=Option<bay_rpc_error_fn>\n" \
    "bay_broker_api:size=40,align=8,open;size@0+4=u32;flags@4+4=u32;provide@8+8=Option<bay_broker_provide_fn>;withdraw@16+8=Option<bay_broker_withdraw_fn>;acquire@24+8=Option<bay_broker_acquire_fn>;release@32+8=Option<bay_broker_release_fn>\n" \
    "bay_notify_api:size=24,align=8,open;size@0+4=u32;flags@4+4=u32;notify@8+8=Option<bay_notify_fn>;subsystem@16+8=Option<bay_subsystem_register_fn>\n" \
    "bay_quiesce:size=16,align=8,open;size@0+4=u32;flags@4+4=u32;begin@8+8=Option<bay_quiesce_begin_fn>\n" \
    "bay_job:size=48,align=8,closed;run@0+8=Option<bay_job_fn>;arg@8+8=*mutc_void;done@16+32=bay_msg\n" \
    "bay_worker_api:size=24,align=8,open;size@0+4=u32;flags@4+4=u32;submit@8+8=Option<bay_worker_submit_fn>;cancel@16+8=Option<bay_worker_cancel_fn>\n" \
    "bay_log_iface:size=16,align=8,open;size@0+4=u32;flags@4+4=u32;changed@8+8=Option<bay_log_changed_fn>\n" \
    "fn:bay_msg_fn(arg:*mutc_void,)\n" \
    "fn:bay_poll_fn(ctx:*mutc_void,)->i32\n" \
    "fn:bay_poller_next_fn(ctx:*mutc_void,)->u64\n" \
    "fn:bay_poller_woke_fn(ctx:*mutc_void,)\n" \
    "fn:bay_thread_current_fn(host:*constbay_host,)->u64\n" \
    "fn:bay_thread_app_fn(host:*constbay_host,)->u64\n" \
    "fn:bay_thread_next_core_fn(host:*constbay_host,after:i32,)->i32\n" \
    "fn:bay_thread_create_fn(host:*constbay_host,name:bay_str,cpumask:bay_str,thread:*mutu64,)->i32\n" \
    "fn:bay_thread_exit_fn(host:*constbay_host,thread:u64,)->i32\n" \
    "fn:bay_thread_set_cpumask_fn(host:*constbay_host,thread:u64,cpumask:bay_str,)->i32\n" \
    "fn:bay_thread_send_fn(host:*constbay_host,thread:u64,msg:*mutbay_msg,)->i32\n" \
    "fn:bay_now_ns_fn(host:*constbay_host,)->u64\n" \
    "fn:bay_poller_register_fn(host:*constbay_host,ops:*constbay_poller_ops,ctx:*mutc_void,period_us:u64,name:bay_str,poller:*mutu64,)->i32\n" \
    "fn:bay_poller_fn(host:*constbay_host,poller:u64,)->i32\n" \
    "fn:bay_poller_wake_fd_fn(host:*constbay_host,poller:u64,fd:i32,events:u32,)->i32\n" \
    "fn:bay_io_device_create_fn(device:*mutc_void,chan:*mutc_void,)->i32\n" \
    "fn:bay_io_device_destroy_fn(device:*mutc_void,chan:*mutc_void,)\n" \
    "fn:bay_io_device_register_fn(host:*constbay_host,ctx:*mutc_void,create:Option<bay_io_device_create_fn>,destroy:Option<bay_io_device_destroy_fn>,ctx_size:u32,name:bay_str,device:*mutu64,)->i32\n" \
    "fn:bay_io_device_unregister_fn(host:*constbay_host,device:u64,done:Option<bay_cb_fn>,arg:*mutc_void,)->i32\n" \
    "fn:bay_io_device_chan_get_fn(host:*constbay_host,device:u64,chan:*mutu64,)->*mutc_void\n" \
    "fn:bay_io_device_chan_put_fn(host:*constbay_host,chan:u64,)\n" \
    "fn:bay_buf_get_fn(host:*constbay_host,len:u32,region:*mutu32,wait:*mutbay_wait,)->*mutc_void\n" \
    "fn:bay_buf_put_fn(host:*constbay_host,buf:*mutc_void,len:u32,)\n" \
    "fn:bay_buf_abort_fn(host:*constbay_host,wait:*mutbay_wait,)\n" \
    "fn:bay_buf_pool_fn(host:*constbay_host,len:u32,size:*mutu32,count:*mutu64,)->i32\n" \
    "fn:bay_mem_alloc_fn(host:*constbay_host,len:u64,align:u64,numa:i32,region:*mutu32,)->*mutc_void\n" \
    "fn:bay_mem_free_fn(host:*constbay_host,addr:*mutc_void,len:u64,)\n" \
    "fn:bay_mem_zero_fn(host:*constbay_host,addr:*mutc_void,len:u64,)->i32\n" \
    "fn:bay_mem_region_import_fn(host:*constbay_host,fd:i32,offset:u64,len:u64,region:*mutu32,)->i32\n" \
    "fn:bay_mem_region_remove_fn(host:*constbay_host,region:u32,done:Option<bay_cb_fn>,arg:*mutc_void,)->i32\n" \
    "fn:bay_mem_region_of_fn(host:*constbay_host,addr:*constc_void,len:u64,)->u32\n" \
    "fn:bay_mem_region_changed_fn(ctx:*mutc_void,region:u32,)\n" \
    "fn:bay_mem_watch_fn(host:*constbay_host,added:Option<bay_mem_region_changed_fn>,removing:Option<bay_mem_region_changed_fn>,ctx:*mutc_void,watch:*mutu64,)->i32\n" \
    "fn:bay_mem_unwatch_fn(host:*constbay_host,watch:u64,)->i32\n" \
    "fn:bay_mem_region_release_fn(host:*constbay_host,watch:u64,region:u32,)->i32\n" \
    "fn:bay_rpc_call_fn(ctx:*mutc_void,req:u64,params:bay_str,)\n" \
    "fn:bay_rpc_register_fn(host:*constbay_host,method:*constbay_rpc_method,id:*mutu64,)->i32\n" \
    "fn:bay_rpc_unregister_fn(host:*constbay_host,id:u64,)->i32\n" \
    "fn:bay_rpc_reply_fn(host:*constbay_host,req:u64,result:bay_str,)->i32\n" \
    "fn:bay_rpc_error_fn(host:*constbay_host,req:u64,code:i32,message:bay_str,data:bay_str,)->i32\n" \
    "fn:bay_broker_revoked_fn(arg:*mutc_void,)\n" \
    "fn:bay_broker_provide_fn(host:*constbay_host,id:bay_str,table:*constc_void,handle:*mutu64,)->i32\n" \
    "fn:bay_broker_withdraw_fn(host:*constbay_host,handle:u64,done:Option<bay_cb_fn>,arg:*mutc_void,)->i32\n" \
    "fn:bay_broker_acquire_fn(host:*constbay_host,id:bay_str,revoked:Option<bay_broker_revoked_fn>,arg:*mutc_void,reference:*mutu64,)->*constc_void\n" \
    "fn:bay_broker_release_fn(host:*constbay_host,reference:u64,)->i32\n" \
    "fn:bay_notify_fn(host:*constbay_host,kind:bay_str,context:bay_str,)\n" \
    "fn:bay_subsystem_config_fn(ctx:*mutc_void,sink:*constbay_sink,)\n" \
    "fn:bay_subsystem_register_fn(host:*constbay_host,name:bay_str,config:Option<bay_subsystem_config_fn>,ctx:*mutc_void,)->i32\n" \
    "fn:bay_quiesce_begin_fn(state:*mutc_void,done:Option<bay_cb_fn>,arg:*mutc_void,)\n" \
    "fn:bay_log_changed_fn(state:*mutc_void,)\n" \
    "fn:bay_job_fn(arg:*mutc_void,)\n" \
    "fn:bay_worker_submit_fn(host:*constbay_host,job:*mutbay_job,)->i32\n" \
    "fn:bay_worker_cancel_fn(host:*constbay_host,job:*mutbay_job,)->i32\n" \
    "bay_nvmf_addr:size=352,align=1,closed;trtype@0+32=[u8;32];adrfam@32+32=[u8;32];traddr@64+256=[u8;256];trsvcid@320+32=[u8;32]\n" \
    "bay_nvmf_req:size=192,align=64,closed;cmd@0+64=[u64;8];rsp@64+16=[u64;2];iov@80+8=*mutbay_iov;iovcnt@88+4=u32;len@92+4=u32;xfer@96+1=u8;rsv0@97+1=u8;rsv1@98+2=u16;rsp_len@100+4=u32;conn@104+8=*mutc_void;tgt@112+64=[u64;8]\n" \
    "bay_nvmf_transport_ops:size=128,align=8,open;size@0+4=u32;flags@4+4=u32;create@8+8=Option<bay_nvmf_create_fn>;destroy@16+8=Option<bay_nvmf_destroy_fn>;dump@24+8=Option<bay_nvmf_dump_fn>;listen@32+8=Option<bay_nvmf_listen_fn>;stop_listen@40+8=Option<bay_nvmf_listen_fn>;group_create@48+8=Option<bay_nvmf_group_create_fn>;group_destroy@56+8=Option<bay_nvmf_group_destroy_fn>;group_add@64+8=Option<bay_nvmf_group_add_fn>;conn_refused@72+8=Option<bay_nvmf_conn_refused_fn>;complete@80+8=Option<bay_nvmf_complete_fn>;close@88+8=Option<bay_nvmf_close_fn>;qpair_free@96+8=Option<bay_nvmf_qpair_free_fn>;conn_addr@104+8=Option<bay_nvmf_conn_addr_fn>;connected@112+8=Option<bay_nvmf_connected_fn>;explain@120+8=Option<bay_nvmf_explain_fn>\n" \
    "bay_nvmf_target_api:size=56,align=8,open;size@0+4=u32;flags@4+4=u32;target@8+8=*mutc_void;register@16+8=Option<bay_nvmf_register_fn>;unregister@24+8=Option<bay_nvmf_unregister_fn>;new_qpair@32+8=Option<bay_nvmf_new_qpair_fn>;exec@40+8=Option<bay_nvmf_exec_fn>;disconnected@48+8=Option<bay_nvmf_disconnected_fn>\n" \
    "fn:bay_nvmf_register_fn(target:*mutc_void,name:bay_str,ops:*constbay_nvmf_transport_ops,ctx:*mutc_void,handle:*mutu64,)->i32\n" \
    "fn:bay_nvmf_unregister_fn(target:*mutc_void,handle:u64,done:Option<bay_cb_fn>,arg:*mutc_void,)->i32\n" \
    "fn:bay_nvmf_new_qpair_fn(target:*mutc_void,handle:u64,conn:*mutc_void,)->i32\n" \
    "fn:bay_nvmf_exec_fn(target:*mutc_void,qpair:*mutc_void,req:*mutbay_nvmf_req,)\n" \
    "fn:bay_nvmf_disconnected_fn(target:*mutc_void,qpair:*mutc_void,)\n" \
    "fn:bay_nvmf_create_fn(ctx:*mutc_void,options:bay_str,transport:*mut*mutc_void,)->i32\n" \
    "fn:bay_nvmf_destroy_fn(transport:*mutc_void,)\n" \
    "fn:bay_nvmf_dump_fn(transport:*mutc_void,sink:*constbay_sink,)\n" \
    "fn:bay_nvmf_explain_fn(ctx:*mutc_void,sink:*constbay_sink,)\n" \
    "fn:bay_nvmf_listen_fn(transport:*mutc_void,addr:*constbay_nvmf_addr,)->i32\n" \
    "fn:bay_nvmf_group_create_fn(transport:*mutc_void,group:*mut*mutc_void,)->i32\n" \
    "fn:bay_nvmf_group_destroy_fn(group:*mutc_void,)\n" \
    "fn:bay_nvmf_group_add_fn(group:*mutc_void,conn:*mutc_void,qpair:*mutc_void,)->i32\n" \
    "fn:bay_nvmf_conn_refused_fn(transport:*mutc_void,conn:*mutc_void,)\n" \
    "fn:bay_nvmf_complete_fn(conn:*mutc_void,req:*mutbay_nvmf_req,)\n" \
    "fn:bay_nvmf_close_fn(conn:*mutc_void,)\n" \
    "fn:bay_nvmf_qpair_free_fn(conn:*mutc_void,)\n" \
    "fn:bay_nvmf_conn_addr_fn(conn:*mutc_void,local:*mutbay_nvmf_addr,peer:*mutbay_nvmf_addr,)->i32\n" \
    "fn:bay_nvmf_connected_fn(conn:*mutc_void,qid:u16,sqsize:u16,sq_flow_control:u32,)\n" \
    "bay_pci_info:size=64,align=8,open;size@0+4=u32;vendor@4+2=u16;device@6+2=u16;subvendor@8+2=u16;subdevice@10+2=u16;class@12+4=u32;numa@16+4=i32;iommu_group@20+4=i32;rsv@24+4=u32;address@32+16=bay_str;driver@48+16=bay_str\n" \
    "bay_pci_api:size=104,align=8,open;size@0+4=u32;flags@4+4=u32;list@8+8=Option<bay_pci_list_fn>;open@16+8=Option<bay_pci_open_fn>;close@24+8=Option<bay_pci_close_fn>;config_read@32+8=Option<bay_pci_config_fn>;config_write@40+8=Option<bay_pci_config_fn>;bar@48+8=Option<bay_pci_bar_fn>;set_master@56+8=Option<bay_pci_set_master_fn>;reset@64+8=Option<bay_pci_reset_fn>;vectors@72+8=Option<bay_pci_vectors_fn>;interrupts@80+8=Option<bay_pci_interrupts_fn>;removal_fd@88+8=Option<bay_pci_removal_fd_fn>;share@96+8=Option<bay_pci_share_fn>\n" \
    "fn:bay_pci_found_fn(ctx:*mutc_void,info:*constbay_pci_info,)\n" \
    "fn:bay_pci_list_fn(host:*constbay_host,found:Option<bay_pci_found_fn>,ctx:*mutc_void,)->i32\n" \
    "fn:bay_pci_open_fn(host:*constbay_host,address:bay_str,why:*constbay_sink,device:*mutu64,)->i32\n" \
    "fn:bay_pci_close_fn(host:*constbay_host,device:u64,)->i32\n" \
    "fn:bay_pci_config_fn(host:*constbay_host,device:u64,offset:u32,value:*mutu32,len:u32,)->i32\n" \
    "fn:bay_pci_bar_fn(host:*constbay_host,device:u64,index:u32,addr:*mut*mutc_void,len:*mutu64,)->i32\n" \
    "fn:bay_pci_set_master_fn(host:*constbay_host,device:u64,on:u32,)->i32\n" \
    "fn:bay_pci_reset_fn(host:*constbay_host,device:u64,)->i32\n" \
    "fn:bay_pci_vectors_fn(host:*constbay_host,device:u64,count:*mutu32,)->i32\n" \
    "fn:bay_pci_interrupts_fn(host:*constbay_host,device:u64,count:u32,fds:*muti32,)->i32\n" \
    "fn:bay_pci_removal_fd_fn(host:*constbay_host,device:u64,fd:*muti32,)->i32\n" \
    "fn:bay_pci_share_fn(host:*constbay_host,region:u32,why:*constbay_sink,)->i32\n"

/* The door */

/** What the host looks for; defined by BAY_PLUGIN. */
extern __attribute__((visibility("default"))) const struct bay_plugin bay_plugin_v1;

/** Borrows a string literal. */
#define BAY_STR(literal) bay_str_of(literal, sizeof(literal) - 1)

static inline struct bay_str bay_str_of(const char *text, size_t len) {
    struct bay_str str = {(const uint8_t *)text, len};
    return str;
}

#define BAY_PAD4_(bytes) (((bytes) + 3u) & ~(size_t)3)
#define BAY_NOTE_(variable, type, text)                                                       \
    static const struct {                                                                     \
        uint32_t namesz, descsz, kind;                                                        \
        char name[4];                                                                         \
        char desc[BAY_PAD4_(sizeof(text))];                                                   \
    } variable __attribute__((section(".note.bay"), used, aligned(4))) = {                    \
        4, (uint32_t)BAY_PAD4_(sizeof(text)), type, "BAY", text}

/** What the manifest says besides; define them before the header is included. BAY_PERMISSIONS is a
 *  list in JSON without its brackets.
 */
#ifndef BAY_VENDOR
#define BAY_VENDOR ""
#endif
#ifndef BAY_LICENSE
#define BAY_LICENSE ""
#endif
#ifndef BAY_PERMISSIONS
#define BAY_PERMISSIONS ""
#endif

/** Writes the door and both notes; once in a plugin, at file scope, followed by a semicolon.
 *  NAME, VERSION (semantic) and KIND are string literals. PROVIDES and REQUIRES are lists in JSON
 *  without their brackets, such as "\"rpc:acme_ping\"", or "". FLAGS are BAY_PF_*. START, FINI and
 *  GET_IFACE may be NULL.
 */
#define BAY_PLUGIN(NAME, VERSION, KIND, PROVIDES, REQUIRES, FLAGS, INIT, START, FINI, GET_IFACE) \
    BAY_NOTE_(bay_note_manifest_, BAY_NOTE_MANIFEST,                                          \
              "{\"name\":\"" NAME "\",\"version\":\"" VERSION "\",\"kind\":\"" KIND           \
              "\",\"vendor\":\"" BAY_VENDOR "\",\"license\":\"" BAY_LICENSE                     \
              "\",\"abi\":[1,0],\"needs_minor\":0,\"lang\":\"c\",\"provides\":[" PROVIDES     \
              "],\"requires\":[" REQUIRES "],\"modules\":[],\"permissions\":["                 \
              BAY_PERMISSIONS "]}");                                                          \
    BAY_NOTE_(bay_note_layout_, BAY_NOTE_LAYOUT, BAY_LAYOUT_TEXT);                            \
    const struct bay_plugin bay_plugin_v1 = {                                                 \
        BAY_MAGIC, sizeof(struct bay_plugin), BAY_ABI_MAJOR, BAY_ABI_MINOR, 0, 0, FLAGS,      \
        NAME, VERSION, INIT, START, FINI, GET_IFACE}

#ifdef __cplusplus
}
#endif

#endif
