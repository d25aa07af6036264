/* A null bdev in C: every I/O succeeds and moves no data. */
#include "bay_abi.h"

static const struct bay_host *host;
static const struct bay_bdev_api *bdev;
static uint64_t null0;

static void submit(void *chan, struct bay_io *io) {
    (void)chan;
    io->done(io, 0);
}

static int32_t chan_create(void *ctx, const struct bay_chan_args *args, void **chan) {
    (void)args;
    *chan = ctx;
    return 0;
}

static int32_t chan_destroy(void *ctx, void *chan) { return (void)ctx, (void)chan, 0; }
static int32_t destruct(void *ctx) { return (void)ctx, 0; }

static const struct bay_bdev_ops ops = {
    .size = sizeof(ops), .submit = submit, .chan_create = chan_create,
    .chan_destroy = chan_destroy, .destruct = destruct};

static int32_t init(const struct bay_host *h, void **state) {
    *state = NULL;
    host = h;
    bdev = (const struct bay_bdev_api *)h->get_iface(h, BAY_STR(BAY_ID_BDEV), 0);
    return bdev ? 0 : -95;
}

static int32_t start(void *state, uint32_t how) {
    (void)state, (void)how;
    struct bay_bdev_reg reg = {
        .size = sizeof(reg), .ops = &ops, .name = BAY_STR("cnull0"), .product = BAY_STR("C null"),
        .block_size = 512, .num_blocks = 1 << 20, .numa = -1,
        .ops_mask = 1u << BAY_OP_READ | 1u << BAY_OP_WRITE};
    return bdev->register_(host, &reg, &null0);
}

BAY_PLUGIN("cnull", "0.1.0", "bdev", "", "\"bay.bdev/1\"", 0, init, start, NULL, NULL);
