/* SPDX-License-Identifier: Apache-2.0
 *
 * xor: a filter that masks the data of its base bdev with a key. This is obfuscation, not encryption.
 *
 *     cc -shared -fPIC -O2 $(pkg-config --cflags drivebay) -o xor.so xor_filter.c
 *     drivebay rpc bdev_xor_create '{"name":"X0","base_bdev_name":"R0","key":42}'
 *
 * A filter is a module and a client at once: it registers a bdev and opens its base. For each I/O (the
 * parent) it submits one to the base (the child). The child's callback completes the parent.
 *
 *     client ─▶ submit(parent) ─▶ io_derive, submit(child) ─▶ base ─▶ ended(child) ─▶ complete_from(parent)
 *
 * Read it from the bottom up: the last line is the door, `start` registers two methods, `create` creates a
 * filter and registers it, `submit` does its I/O. All code except the I/O runs on the app thread.
 */
#include "bay_rpc.h"
#include <stdlib.h>

static const struct bay_host *host;
static const struct bay_bdev_api *bdev;
static const struct bay_bdev_client_api *client;
static const struct bay_buf_api *buf;
static const struct bay_rpc_api *rpc;

struct params {
    char name[256], base_bdev_name[256];
    uint64_t key;
};

struct filter {
    struct filter *next;
    struct params made_by;
    uint64_t id, base; /* handles of this bdev and of the open base */
    uint32_t block_size;
};

/* One thread's state: the channel of the base. */
struct chan {
    const struct filter *filter;
    uint64_t base;
};

/* The state of each parent, in the memory that the bus keeps for the module. */
struct work {
    const struct filter *filter;
    struct bay_iov masked; /* data of a write; addr is NULL for other ops */
};

/* Write zeroes and compare do not work on masked data. The bus emulates them with writes and reads. */
#define OPS                                                                                   \
    (1u << BAY_OP_READ | 1u << BAY_OP_WRITE | 1u << BAY_OP_FLUSH | 1u << BAY_OP_UNMAP | 1u << BAY_OP_RESET)

static struct filter *filters; /* used on the app thread only */

/* ---- I/O: on the reactor of the channel ------------------------------------------------------ */

static uint64_t pad(uint64_t key, uint64_t word) { /* SplitMix64 */
    uint64_t x = key + word * UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

/* Masks or unmasks bytes. `at` is their position on the disk, in bytes. */
static void mask(uint64_t key, uint64_t at, uint8_t *bytes, size_t len) {
    while (len > 0) {
        size_t now = at % 8 == 0 && len >= 8 ? 8 : 1;
        uint64_t word = 0;
        memcpy(&word, bytes, now); /* needs a little-endian machine: low byte first */
        word ^= pad(key, at / 8) >> at % 8 * 8;
        memcpy(bytes, &word, now);
        at += now, bytes += now, len -= now;
    }
}

/* The child has completed. */
static void ended(void *arg, struct bay_io *child, int32_t status) {
    struct bay_io *parent = (struct bay_io *)arg;
    struct work *work = (struct work *)parent->drv_ctx;
    if (work->masked.addr)
        buf->put(host, work->masked.addr, work->masked.len);
    uint64_t at = parent->lba * work->filter->block_size;
    for (uint16_t i = 0; parent->op == BAY_OP_READ && status == 0 && i < parent->iovcnt; i++) {
        mask(work->filter->made_by.key, at, (uint8_t *)parent->iov[i].addr, parent->iov[i].len);
        at += parent->iov[i].len;
    }
    client->complete_from(host, parent, child, status);
}

/* The data of a write belongs to the client and must not change, so the child writes a masked copy. */
static bool copy_masked(const struct bay_io *io, struct work *work) {
    struct bay_iov *masked = &work->masked;
    masked->len = (uint32_t)(io->nblocks * work->filter->block_size); /* at most max_io_blocks */
    masked->addr = buf->get(host, masked->len, &masked->region, NULL);
    uint8_t *to = (uint8_t *)masked->addr;
    for (uint16_t i = 0; to && i < io->iovcnt; to += io->iov[i++].len)
        memcpy(to, io->iov[i].addr, io->iov[i].len);
    if (to)
        mask(work->filter->made_by.key, io->lba * work->filter->block_size, (uint8_t *)masked->addr, masked->len);
    return to != NULL;
}

static void submit(void *arg, struct bay_io *io) {
    struct chan *chan = (struct chan *)arg;
    struct work *work = (struct work *)io->drv_ctx;
    *work = (struct work){.filter = chan->filter};
    if (!(OPS >> io->op & 1)) {
        io->done(io, -ENOTSUP);
        return;
    }
    if (io->op == BAY_OP_WRITE && !copy_masked(io, work)) {
        io->done(io, BAY_ST_NOMEM); /* the bus submits it again */
        return;
    }
    struct bay_io *child = client->io_derive(host, chan->base, io);
    if (work->masked.addr) {
        child->iov = &work->masked;
        child->iovcnt = 1;
    }
    client->submit(host, child, ended, io);
}

static void flush(void *arg) { client->flush(host, ((struct chan *)arg)->base); }

static int32_t chan_create(void *ctx, const struct bay_chan_args *args, void **made) {
    (void)args;
    struct chan *chan = (struct chan *)calloc(1, sizeof(*chan));
    if (!chan)
        return -ENOMEM;
    chan->filter = (const struct filter *)ctx;
    int32_t status = client->chan_get(host, ((const struct filter *)ctx)->base, &chan->base);
    if (status != 0)
        free(chan);
    else
        *made = chan;
    return status;
}

static int32_t chan_destroy(void *ctx, void *arg) {
    (void)ctx;
    client->chan_put(host, ((struct chan *)arg)->base);
    free(arg);
    return 0;
}

/* ---- the filter: on the app thread ----------------------------------------------------------- */

static int32_t destruct(void *ctx) {
    struct filter *filter = (struct filter *)ctx, **link = &filters;
    while (*link && *link != filter)
        link = &(*link)->next;
    if (*link)
        *link = filter->next;
    client->close(host, filter->base); /* also releases the claim */
    free(filter);
    return 0;
}

static void write_config(void *ctx, const struct bay_sink *sink) {
    const struct params *params = &((const struct filter *)ctx)->made_by;
    BAY_TEXT(call, 4096);
    bay_text_add(&call, "{\"method\":\"bdev_xor_create\",\"params\":{\"name\":");
    bay_text_quoted(&call, params->name);
    bay_text_add(&call, ",\"base_bdev_name\":");
    bay_text_quoted(&call, params->base_bdev_name);
    bay_text_add(&call, ",\"key\":");
    bay_text_number(&call, params->key);
    bay_text_add(&call, "}}");
    bay_text_write(&call, sink);
}

static const struct bay_bdev_ops ops = {
    .size = sizeof(ops),
    .submit = submit,
    .flush = flush,
    .chan_create = chan_create,
    .chan_destroy = chan_destroy,
    .destruct = destruct,
    .write_config = write_config,
};

/* The base is being removed, or its size has changed. */
static void base_event(void *arg, uint32_t event, uint64_t num_blocks) {
    struct filter *filter = (struct filter *)arg;
    if (event == BAY_EVENT_REMOVE)
        bdev->unregister(host, filter->id, NULL, NULL); /* -ENODEV: it is being removed already */
    else if (event == BAY_EVENT_RESIZE)
        bdev->resize(host, filter->id, num_blocks);
}

static int32_t register_filter(struct filter *filter) {
    struct bay_bdev_info base = {.size = sizeof(base)};
    int32_t status = client->info(host, filter->base, &base);
    if (status != 0)
        return status;
    filter->block_size = base.block_size;
    struct bay_bdev_reg reg = {
        .size = sizeof(reg),
        .flags = BAY_BDEV_FILTER | (base.flags & (BAY_BDEV_WRITE_CACHE | BAY_BDEV_READ_ONLY)),
        .ctx = filter,
        .ops = &ops,
        .name = bay_str_of(filter->made_by.name, strlen(filter->made_by.name)),
        .product = BAY_STR("xor filter"),
        .base = base.name,
        .block_size = base.block_size,
        .num_blocks = base.num_blocks,
        .phys_block_size = base.phys_block_size,
        .write_unit = base.write_unit,
        .optimal_boundary = base.optimal_boundary,
        .numa = base.numa,
        .max_io_blocks = buf->max_len / base.block_size, /* a write must fit into one buffer */
        .max_children = 1,
        .drv_ctx_size = sizeof(struct work),
        .must_flags = base.must_flags,
        .ops_mask = base.ops_mask & OPS,
    };
    return bdev->register_(host, &reg, &filter->id);
}

/* Opens and claims the base, then registers the filter. */
static int32_t make_filter(const struct params *params) {
    struct filter *filter = (struct filter *)calloc(1, sizeof(*filter));
    if (!filter)
        return -ENOMEM;
    filter->made_by = *params;
    struct bay_str base = bay_str_of(params->base_bdev_name, strlen(params->base_bdev_name));
    int32_t status = client->open(host, base, BAY_OPEN_WRITE, base_event, filter, &filter->base);
    if (status != 0) {
        free(filter);
        return status;
    }
    status = client->claim(host, filter->base, BAY_CLAIM_EXCL_WRITE, 0);
    if (status == 0)
        status = register_filter(filter);
    if (status != 0) {
        client->close(host, filter->base);
        free(filter);
        return status;
    }
    filter->next = filters;
    filters = filter;
    return 0;
}

/* ---- methods: on the app thread -------------------------------------------------------------- */

static const struct bay_param create_params[] = {
    BAY_TEXT_PARAM(struct params, name, true, "Name of the new bdev."),
    BAY_TEXT_PARAM(struct params, base_bdev_name, true, "Name of the base bdev."),
    BAY_U64_PARAM(struct params, key, true, 1, UINT64_MAX, "Key that masks the data."),
};
enum { CREATE_PARAMS = sizeof(create_params) / sizeof(create_params[0]) };

static void create(void *ctx, uint64_t call, struct bay_str json) {
    (void)ctx;
    struct params params;
    if (!bay_params_or_refuse(host, rpc, call, json, create_params, CREATE_PARAMS, &params))
        return;
    int32_t status = make_filter(&params);
    if (status != 0) {
        bay_refuse(host, rpc, call, status, strerror(-status));
        return;
    }
    BAY_TEXT(name, 2048);
    bay_text_quoted(&name, params.name);
    bay_answer(host, rpc, call, &name);
}

static const struct bay_param delete_params[] = {
    BAY_TEXT_PARAM(struct params, name, true, "Name of the bdev."),
};

static void deleted(void *call, int32_t status) {
    if (status == 0)
        rpc->reply(host, (uint64_t)(uintptr_t)call, BAY_STR("true"));
    else
        bay_refuse(host, rpc, (uint64_t)(uintptr_t)call, status, strerror(-status));
}

static void delete(void *ctx, uint64_t call, struct bay_str json) {
    (void)ctx;
    struct params params;
    if (!bay_params_or_refuse(host, rpc, call, json, delete_params, 1, &params))
        return;
    struct filter *filter = filters;
    while (filter && strcmp(filter->made_by.name, params.name) != 0)
        filter = filter->next;
    int32_t status = filter ? bdev->unregister(host, filter->id, deleted, (void *)(uintptr_t)call) : -ENODEV;
    if (status != 0)
        bay_refuse(host, rpc, call, status, strerror(-status));
}

/* ---- the plugin's life: on the app thread ---------------------------------------------------- */

static int32_t init(const struct bay_host *given, void **state) {
    *state = NULL;
    host = given;
    bdev = BAY_IFACE(host, bay_bdev_api, BAY_ID_BDEV);
    client = BAY_IFACE(host, bay_bdev_client_api, BAY_ID_BDEV_CLIENT);
    buf = BAY_IFACE(host, bay_buf_api, BAY_ID_BUF);
    rpc = BAY_IFACE(host, bay_rpc_api, BAY_ID_RPC);
    return bdev && client && buf && rpc ? 0 : -ENOTSUP;
}

static int32_t start(void *state, uint32_t how) {
    (void)state, (void)how;
    int32_t status = bay_method(host, rpc, "bdev_xor_create", "Creates a filter on a bdev.", create_params,
                                CREATE_PARAMS, create, NULL);
    if (status == 0)
        status = bay_method(host, rpc, "bdev_xor_delete", "Deletes a filter. The data stays on its base.",
                            delete_params, 1, delete, NULL);
    return status;
}

BAY_PLUGIN("xor", "0.1.0", "filter",
           BAY_PROVIDES_RPC("bdev_xor_create") "," BAY_PROVIDES_RPC("bdev_xor_delete"),
           "", BAY_PF_UNLOADABLE, init, start, NULL, NULL);
