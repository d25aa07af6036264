/* A RAM disk in C that is right, or wrong in one way: -DBAD_<way>. Each way is for one check.
 *
 * I/O completes inside submit, except in the ways that need another thread or a later moment. */
#include "bay_abi.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct bay_host *host;
static const struct bay_bdev_api *bdev;
static const struct bay_rpc_api *rpc;
static const struct bay_poller_api *poller;

struct disk {
    uint8_t *data;
    uint64_t num_blocks, id, deleting;
    uint32_t block_size;
};

static struct disk *only; /* one disk at a time is enough to be checked */

struct chan {
    struct disk *disk;
    uint64_t poller;
    struct bay_io *waiting;        /* BAD_LOST_WAKE: being done by the worker */
    volatile struct bay_io *ready; /* done by the worker, not completed yet */
    pthread_t worker;
};

static int32_t transfer(struct disk *disk, struct bay_io *io) {
    uint64_t size = disk->block_size;
#ifdef BAD_PAST_THE_END
    const int32_t outside = 0;
#else
    const int32_t outside = -22;
#endif
    if (io->nblocks > disk->num_blocks || io->lba > disk->num_blocks - io->nblocks)
        return outside;
    uint8_t *at = disk->data + io->lba * size;
    uint64_t left = io->nblocks * size;
    if (io->op == BAY_OP_WRITE_ZEROES)
        return memset(at, 0, left), 0;
    for (unsigned i = 0; i < io->iovcnt && left; i++) {
        uint64_t len = io->iov[i].len < left ? io->iov[i].len : left;
        if (io->op == BAY_OP_READ)
            memcpy(io->iov[i].addr, at, len);
        else
            memcpy(at, io->iov[i].addr, len);
        at += len, left -= len;
    }
#ifdef BAD_OVERRUN
    if (io->op == BAY_OP_READ && io->iovcnt)
        ((uint8_t *)io->iov[0].addr)[io->iov[0].len] = 0;
#endif
#ifdef BAD_DATA
    if (io->op == BAY_OP_WRITE && io->lba % 64 == 17)
        disk->data[io->lba * size + 300] ^= 1;
#endif
    return 0;
}

#if defined(BAD_OTHER_THREAD) || defined(BAD_LOST_WAKE)
struct job {
    struct chan *chan;
    struct bay_io *io;
};

static void *work(void *arg) {
    struct job *job = arg;
    usleep(2000);
#ifdef BAD_OTHER_THREAD
    job->io->done(job->io, transfer(job->chan->disk, job->io));
#else
    job->chan->ready = job->io;
#endif
    free(job);
    return NULL;
}

static void begin_work(struct chan *chan, struct bay_io *io) {
    struct job *job = malloc(sizeof(*job));
    pthread_t thread;
    job->chan = chan, job->io = io;
    pthread_create(&thread, NULL, work, job);
    pthread_detach(thread);
}
#endif

static void submit(void *ctx, struct bay_io *io) {
    struct chan *chan = ctx;
    uint32_t known = 1u << BAY_OP_READ | 1u << BAY_OP_WRITE | 1u << BAY_OP_WRITE_ZEROES;
#ifdef BAD_UNDECLARED
    const int32_t unknown = 0;
#else
    const int32_t unknown = -95;
#endif
    if (io->op >= 32 || !(known >> io->op & 1)) {
        io->done(io, unknown);
        return;
    }
#ifdef BAD_BLOCKS
    usleep(40000);
#endif
#ifdef BAD_CRASH
    if (io->op == BAY_OP_WRITE_ZEROES)
        *(volatile int *)8 = 1;
#endif
#ifdef BAD_NEVER
    if (io->op == BAY_OP_WRITE && io->lba % 16 == 5)
        return;
#endif
#if defined(BAD_OTHER_THREAD)
    begin_work(chan, io);
#elif defined(BAD_LOST_WAKE)
    if (chan->waiting) /* one at a time: this one at once */
        io->done(io, transfer(chan->disk, io));
    else
        chan->waiting = io, begin_work(chan, io);
#else
    int32_t status = transfer(chan->disk, io);
#ifdef BAD_STATUS
    status = status == 0 ? 1 : status;
#endif
#ifdef BAD_CHANGES
    io->lba++;
#endif
    io->done(io, status);
#ifdef BAD_TWICE
    io->done(io, 0);
#endif
#ifdef BAD_TOUCHES
    io->link = chan;
#endif
#endif
}

#if defined(BAD_LOST_WAKE)
static int32_t run(void *ctx) {
    struct chan *chan = ctx;
    struct bay_io *io = (struct bay_io *)chan->ready;
    if (!io)
        return 0;
    chan->ready = NULL, chan->waiting = NULL;
    io->done(io, transfer(chan->disk, io));
    return 1;
}

/* Nothing wakes the thread when the worker has finished. */
static int32_t prepare_sleep(void *ctx) { return (void)ctx, 0; }
#elif defined(BAD_AWAKE)
static int32_t run(void *ctx) { return (void)ctx, 0; }
static int32_t prepare_sleep(void *ctx) { return (void)ctx, 1; }
#endif

static int32_t chan_create(void *ctx, const struct bay_chan_args *args, void **out) {
    struct chan *chan = calloc(1, sizeof(*chan) + 1024); /* room for what a channel mostly has, and could keep */
    (void)args;
    chan->disk = ctx;
#if defined(BAD_LOST_WAKE) || defined(BAD_AWAKE)
    static const struct bay_poller_ops ops = {sizeof(ops), 0, run, prepare_sleep, NULL, NULL};
    poller->register_(host, &ops, chan, 0, BAY_STR("ram"), &chan->poller);
#endif
    *out = chan;
    return 0;
}

static int32_t chan_destroy(void *ctx, void *chan) {
    (void)ctx;
    if (((struct chan *)chan)->poller)
        poller->unregister(host, ((struct chan *)chan)->poller);
#ifndef BAD_LEAKS
    free(chan);
#endif
    return 0;
}

static int32_t destruct(void *ctx) {
    struct disk *disk = ctx;
    only = NULL;
    free(disk->data);
    free(disk);
    return 0;
}

static const struct bay_bdev_ops ops = {
    .size = sizeof(ops), .submit = submit, .chan_create = chan_create,
    .chan_destroy = chan_destroy, .destruct = destruct};

static void create(void *ctx, uint64_t call, struct bay_str params) {
    (void)ctx, (void)params;
    struct disk *disk = calloc(1, sizeof(*disk));
    disk->block_size = 512, disk->num_blocks = 8192;
    disk->data = calloc(disk->num_blocks, disk->block_size);
    struct bay_bdev_reg reg = {
        .size = sizeof(reg), .ctx = disk, .ops = &ops, .name = BAY_STR("check0"),
        .product = BAY_STR("RAM disk of a test"), .block_size = disk->block_size,
        .num_blocks = disk->num_blocks, .numa = -1,
        .ops_mask = 1u << BAY_OP_READ | 1u << BAY_OP_WRITE | 1u << BAY_OP_WRITE_ZEROES};
    if (bdev->register_(host, &reg, &disk->id)) {
        free(disk->data), free(disk);
        rpc->error(host, call, -17, BAY_STR("check0 exists"), BAY_STR(""));
        return;
    }
    only = disk;
    rpc->reply(host, call, BAY_STR("\"check0\""));
}

static void deleted(void *arg, int32_t status) {
    (void)status;
    rpc->reply(host, (uint64_t)(uintptr_t)arg, BAY_STR("true"));
}

static void delete(void *ctx, uint64_t call, struct bay_str params) {
    (void)ctx, (void)params;
    if (!only || bdev->unregister(host, only->id, deleted, (void *)(uintptr_t)call))
        rpc->error(host, call, -19, BAY_STR("no such bdev"), BAY_STR(""));
}

static int32_t init(const struct bay_host *h, void **state) {
    *state = NULL;
    host = h;
    bdev = (const struct bay_bdev_api *)h->get_iface(h, BAY_STR(BAY_ID_BDEV), 0);
    rpc = (const struct bay_rpc_api *)h->get_iface(h, BAY_STR(BAY_ID_RPC), 0);
    poller = (const struct bay_poller_api *)h->get_iface(h, BAY_STR(BAY_ID_POLLER), 0);
    return bdev && rpc && poller ? 0 : -95;
}

static int32_t add(struct bay_str name, bay_rpc_call_fn *call) {
    struct bay_rpc_method method = {sizeof(method), BAY_RPC_RUNTIME, name, {NULL, 0}, call, NULL};
    return rpc->register_(host, &method, NULL);
}

static int32_t start(void *state, uint32_t how) {
    (void)state, (void)how;
    int32_t status = add(BAY_STR("bdev_ram_create"), create);
    return status ? status : add(BAY_STR("bdev_ram_delete"), delete);
}

BAY_PLUGIN("ram", "0.1.0", "bdev", "\"rpc:bdev_ram_create\",\"rpc:bdev_ram_delete\"",
           "\"bay.bdev/1\",\"bay.rpc/1\"", 0, init, start, NULL, NULL);
