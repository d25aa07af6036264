/* SPDX-License-Identifier: Apache-2.0
 *
 * ramdisk: disks in memory. The smallest bdev module in C. Copy it to start your own.
 *
 *     cc -shared -fPIC -O2 $(pkg-config --cflags drivebay) -o ramdisk.so ramdisk.c
 *     drivebay rpc bdev_ramdisk_create '{"name":"R0","num_blocks":131072,"block_size":512}'
 *
 * Read it from the bottom up: the last line is the door, `start` registers two methods, `create` creates a
 * disk and registers it, `submit` does its I/O. All code except `submit` and the two channel functions runs
 * on the app thread, so the list of disks needs no lock.
 */
#include "bay_rpc.h"
#include <stdlib.h>

static const struct bay_host *host;
static const struct bay_bdev_api *bdev;
static const struct bay_mem_api *mem;
static const struct bay_rpc_api *rpc;

struct disk {
    struct disk *next;
    uint64_t id; /* the bus's handle */
    char name[256];
    uint8_t *bytes; /* memory that devices can access */
    uint64_t num_blocks;
    uint32_t block_size, region;
};

static struct disk *disks; /* used on the app thread only */

/* ---- I/O: on the reactor of the channel ------------------------------------------------------ */

/* Copies between the list of an I/O and a position on the disk. */
static int32_t copy(const struct bay_io *io, uint8_t *place, bool to_disk) {
    for (uint16_t i = 0; i < io->iovcnt; place += io->iov[i++].len)
        memcpy(to_disk ? place : io->iov[i].addr, to_disk ? io->iov[i].addr : place, io->iov[i].len);
    return 0;
}

static int32_t do_io(struct disk *disk, const struct bay_io *io) {
    if (io->op == BAY_OP_FLUSH || io->op == BAY_OP_RESET)
        return 0; /* there is no cache and no I/O in flight */
    /* The bus has checked the range and the length of the list. A memory access must be safe, so check again. */
    if (io->lba > disk->num_blocks || io->nblocks > disk->num_blocks - io->lba)
        return -EINVAL;
    uint8_t *place = disk->bytes + io->lba * disk->block_size;
    switch (io->op) {
    case BAY_OP_READ:
        return copy(io, place, false);
    case BAY_OP_WRITE:
        return copy(io, place, true);
    case BAY_OP_UNMAP:
    case BAY_OP_WRITE_ZEROES:
        return memset(place, 0, io->nblocks * disk->block_size), 0;
    default:
        return -ENOTSUP;
    }
}

static void submit(void *chan, struct bay_io *io) {
    io->done(io, do_io((struct disk *)chan, io)); /* exactly once; do not touch io afterwards */
}

/* A channel is one thread's state. This module has none, so the disk itself serves as every channel. */
static int32_t chan_create(void *ctx, const struct bay_chan_args *args, void **chan) {
    (void)args;
    *chan = ctx;
    return 0;
}

static int32_t chan_destroy(void *ctx, void *chan) {
    (void)ctx, (void)chan;
    return 0;
}

/* ---- the disk: on the app thread ------------------------------------------------------------- */

/* The bus has released the disk: no channel, descriptor or I/O is left. */
static int32_t destruct(void *ctx) {
    struct disk *disk = (struct disk *)ctx, **link = &disks;
    while (*link != disk)
        link = &(*link)->next;
    *link = disk->next;
    mem->free(host, disk->bytes, disk->num_blocks * disk->block_size);
    free(disk);
    return 0;
}

/* Writes the call that creates the disk again, for save_config. */
static void write_config(void *ctx, const struct bay_sink *sink) {
    const struct disk *disk = (const struct disk *)ctx;
    BAY_TEXT(call, 2048);
    bay_text_add(&call, "{\"method\":\"bdev_ramdisk_create\",\"params\":{\"name\":");
    bay_text_quoted(&call, disk->name);
    bay_text_add(&call, ",\"num_blocks\":");
    bay_text_number(&call, disk->num_blocks);
    bay_text_add(&call, ",\"block_size\":");
    bay_text_number(&call, disk->block_size);
    bay_text_add(&call, "}}");
    bay_text_write(&call, sink);
}

static const struct bay_bdev_ops ops = {
    .size = sizeof(ops),
    .submit = submit,
    .chan_create = chan_create,
    .chan_destroy = chan_destroy,
    .destruct = destruct,
    .write_config = write_config,
};

static int32_t register_disk(struct disk *disk) {
    struct bay_bdev_reg reg = {
        .size = sizeof(reg),
        .ctx = disk,
        .ops = &ops,
        .name = bay_str_of(disk->name, strlen(disk->name)),
        .product = BAY_STR("RAM disk in C"),
        .block_size = disk->block_size,
        .num_blocks = disk->num_blocks,
        .numa = -1,
        .ops_mask = 1u << BAY_OP_READ | 1u << BAY_OP_WRITE | 1u << BAY_OP_FLUSH | 1u << BAY_OP_UNMAP |
                    1u << BAY_OP_WRITE_ZEROES | 1u << BAY_OP_RESET,
        .must_flags = BAY_IO_FUA, /* nothing to do: written RAM cannot become more durable */
    };
    return bdev->register_(host, &reg, &disk->id);
}

/* ---- methods: on the app thread -------------------------------------------------------------- */

struct create {
    char name[256];
    uint64_t num_blocks;
    uint32_t block_size;
};

static const struct bay_param create_params[] = {
    BAY_TEXT_PARAM(struct create, name, true, "Name of the new bdev."),
    BAY_U64_PARAM(struct create, num_blocks, true, 1, UINT32_MAX, "Capacity, in blocks."),
    BAY_U32_PARAM(struct create, block_size, false, 512, 65536, "Block size, in bytes: a multiple of 512."),
};
#define NUM_CREATE_PARAMS (sizeof(create_params) / sizeof(create_params[0]))

static int32_t make_disk(const struct create *params) {
    struct disk *disk = (struct disk *)calloc(1, sizeof(*disk));
    if (!disk)
        return -ENOMEM;
    memcpy(disk->name, params->name, sizeof(disk->name));
    disk->num_blocks = params->num_blocks;
    disk->block_size = params->block_size;
    uint64_t len = disk->num_blocks * disk->block_size; /* below 2^48 by the parameters' ranges */
    disk->bytes = (uint8_t *)mem->alloc(host, len, 4096, -1, &disk->region);
    int32_t status = disk->bytes ? register_disk(disk) : -ENOMEM;
    if (status != 0) {
        if (disk->bytes)
            mem->free(host, disk->bytes, len);
        free(disk);
        return status;
    }
    disk->next = disks;
    disks = disk;
    return 0;
}

static void create(void *ctx, uint64_t call, struct bay_str json) {
    (void)ctx;
    struct create params = {.block_size = 512};
    if (!bay_params_or_refuse(host, rpc, call, json, create_params, NUM_CREATE_PARAMS, &params))
        return;
    if (params.block_size % 512 != 0) {
        bay_refuse(host, rpc, call, -EINVAL, "block_size must be a multiple of 512");
        return;
    }
    int32_t status = make_disk(&params);
    if (status != 0) {
        bay_refuse(host, rpc, call, status, strerror(-status));
        return;
    }
    BAY_TEXT(name, 2048);
    bay_text_quoted(&name, params.name);
    bay_answer(host, rpc, call, &name);
}

struct named {
    char name[256];
};

static const struct bay_param delete_params[] = {
    BAY_TEXT_PARAM(struct named, name, true, "Name of the bdev."),
};

/* `destruct` has run, so the memory is free when the caller gets its answer. */
static void deleted(void *call, int32_t status) {
    if (status == 0)
        rpc->reply(host, (uint64_t)(uintptr_t)call, BAY_STR("true"));
    else
        bay_refuse(host, rpc, (uint64_t)(uintptr_t)call, status, strerror(-status));
}

static void delete(void *ctx, uint64_t call, struct bay_str json) {
    (void)ctx;
    struct named params;
    if (!bay_params_or_refuse(host, rpc, call, json, delete_params, 1, &params))
        return;
    struct disk *disk = disks;
    while (disk && strcmp(disk->name, params.name) != 0)
        disk = disk->next;
    int32_t status = disk ? bdev->unregister(host, disk->id, deleted, (void *)(uintptr_t)call) : -ENODEV;
    if (status != 0)
        bay_refuse(host, rpc, call, status, strerror(-status));
}

/* ---- the plugin's life: on the app thread ---------------------------------------------------- */

static int32_t init(const struct bay_host *given, void **state) {
    *state = NULL; /* each copy of the library is one instance, so statics are enough */
    host = given;
    bdev = BAY_IFACE(host, bay_bdev_api, BAY_ID_BDEV);
    mem = BAY_IFACE(host, bay_mem_api, BAY_ID_MEM);
    rpc = BAY_IFACE(host, bay_rpc_api, BAY_ID_RPC);
    return bdev && mem && rpc ? 0 : -ENOTSUP;
}

static int32_t start(void *state, uint32_t how) {
    (void)state, (void)how;
    int32_t status = bay_method(host, rpc, "bdev_ramdisk_create", "Creates a RAM disk.", create_params,
                                NUM_CREATE_PARAMS, create, NULL);
    if (status == 0)
        status = bay_method(host, rpc, "bdev_ramdisk_delete", "Deletes a RAM disk.", delete_params, 1,
                            delete, NULL);
    return status;
}

BAY_PLUGIN("ramdisk", "0.1.0", "bdev",
           BAY_PROVIDES_RPC("bdev_ramdisk_create") "," BAY_PROVIDES_RPC("bdev_ramdisk_delete"),
           "", BAY_PF_UNLOADABLE, init, start, NULL, NULL);
