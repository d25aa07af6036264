/* Two loops over the same I/O: through a plugin's function table, and by a direct call that is not inlined.
 *
 *     door PLUGIN METHOD PARAMS OP IOS null|counted
 *
 * This program is the plugin's host. It has every function, and most of them do nothing. */
#include "bay_abi.h"
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t completed;

static __attribute__((noinline)) void done(struct bay_io *io, int32_t status) {
    (void)io;
    completed += status == 0;
}

/* The code of the null disk: a status that depends on the op, and the completion of the I/O. */
static __attribute__((noinline, noclone)) void submit_directly(void *chan, struct bay_io *io) {
    static const int32_t status_of[8] = {0, 0, 0, 0, 0, -95, 0, -2};
    (void)chan;
    uint16_t at = (uint16_t)(io->op - 1);
    int32_t status = at < 8 ? ((const volatile int32_t *)status_of)[at] : -95;
    if (io->done)
        io->done(io, status);
}

/* The code of the counted disk. */
static struct counts {
    uint64_t ios, last_lba;
} counts;

static __attribute__((noinline, noclone)) void submit_directly_and_count(void *chan, struct bay_io *io) {
    struct counts *counts = chan;
    int32_t status = -95;
    counts->ios++;
    if (io->op == BAY_OP_READ || io->op == BAY_OP_WRITE) {
        counts->last_lba = io->lba;
        status = 0;
    }
    if (io->done)
        io->done(io, status);
}

static inline void prepare(struct bay_io *io, uint64_t n, uint16_t op) {
    io->op = op;
    io->lba = n & 7;
    io->nblocks = 1;
}

__attribute__((noinline)) void call_directly(void *chan, struct bay_io *io, uint16_t op, uint64_t ios) {
    for (uint64_t n = 0; n < ios; n++) {
        prepare(io, n, op);
        submit_directly(chan, io);
    }
}

__attribute__((noinline)) void call_directly_and_count(void *chan, struct bay_io *io, uint16_t op, uint64_t ios) {
    for (uint64_t n = 0; n < ios; n++) {
        prepare(io, n, op);
        submit_directly_and_count(chan, io);
    }
}

__attribute__((noinline)) void call_through_the_door(bay_submit_fn *submit, void *chan, struct bay_io *io, uint16_t op,
                                                     uint64_t ios) {
    for (uint64_t n = 0; n < ios; n++) {
        prepare(io, n, op);
        submit(chan, io);
    }
}

/* ---- the host -------------------------------------------------------------------------------- */

static int32_t nothing(void) { return 0; }

static struct bay_bdev_reg bdev;
static struct {
    char name[64];
    bay_rpc_call_fn *call;
    void *ctx;
} methods[16];
static size_t num_methods;

static int32_t bdev_register(const struct bay_host *host, const struct bay_bdev_reg *reg, uint64_t *id) {
    (void)host;
    bdev = *reg;
    *id = 1;
    return 0;
}

static int32_t client_open(const struct bay_host *host, struct bay_str name, uint32_t flags, bay_bdev_event_fn *event,
                           void *arg, uint64_t *desc) {
    (void)host, (void)name, (void)flags, (void)event, (void)arg, (void)desc;
    return -19;
}

static void *mem_alloc(const struct bay_host *host, uint64_t len, uint64_t align, int32_t numa, uint32_t *region) {
    (void)host, (void)align, (void)numa;
    *region = 1;
    return calloc(1, len);
}

static int32_t rpc_register(const struct bay_host *host, const struct bay_rpc_method *method, uint64_t *id) {
    (void)host;
    if (num_methods == 16 || method->name.len > 63)
        return -28;
    memcpy(methods[num_methods].name, method->name.ptr, method->name.len);
    methods[num_methods].call = method->call;
    methods[num_methods++].ctx = method->ctx;
    if (id)
        *id = num_methods;
    return 0;
}

static int32_t rpc_error(const struct bay_host *host, uint64_t call, int32_t code, struct bay_str message, struct bay_str data) {
    (void)host, (void)call, (void)data;
    fprintf(stderr, "%d %.*s\n", code, (int)message.len, (const char *)message.ptr);
    exit(1);
}

static const void *get_iface(const struct bay_host *host, struct bay_str id, uint32_t min_minor) {
    (void)host, (void)min_minor;
    static union table { /* every table begins with its size; the rest of it are functions */
        uint32_t size;
        void *functions[64];
        struct bay_bdev_api bdev;
        struct bay_bdev_client_api client;
        struct bay_mem_api mem;
        struct bay_rpc_api rpc;
    } tables[16];
    static size_t used;
    if (used == 16)
        return NULL;
    union table *table = &tables[used++];
    for (size_t i = 1; i < 64; i++)
        table->functions[i] = (void *)nothing;
    table->size = sizeof(*table);
#define IS(ID) (id.len == strlen(ID) && memcmp(id.ptr, ID, id.len) == 0)
    if (IS(BAY_ID_BDEV))
        table->bdev.register_ = bdev_register;
    else if (IS(BAY_ID_BDEV_CLIENT))
        table->client.open = client_open;
    else if (IS(BAY_ID_MEM))
        table->mem.alloc = mem_alloc;
    else if (IS(BAY_ID_RPC))
        table->rpc.register_ = rpc_register, table->rpc.error = rpc_error;
    return table;
}

static void log_line(const struct bay_host *host, uint32_t level, struct bay_str target, struct bay_str text) {
    (void)host, (void)level, (void)target;
    fprintf(stderr, "%.*s\n", (int)text.len, (const char *)text.ptr);
}

static const uint32_t log_level = BAY_LOG_WARN;
static const struct bay_host host = {sizeof(host), BAY_ABI_MAJOR, BAY_ABI_MINOR, NULL, get_iface, &log_level, log_line};

int main(int argc, char **argv) {
    void *library = argc == 7 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL;
    const struct bay_plugin *plugin = library ? dlsym(library, "bay_plugin_v1") : NULL;
    void *state = NULL, *chan = NULL;
    if (!plugin || plugin->init(&host, &state) != 0 || plugin->start(state, BAY_START_FRESH) != 0)
        return fprintf(stderr, "door: cannot start the plugin: %s\n", argc == 7 ? dlerror() : "usage"), 1;
    for (size_t i = 0; i < num_methods; i++)
        if (strcmp(methods[i].name, argv[2]) == 0)
            methods[i].call(methods[i].ctx, 1, bay_str_of(argv[3], strlen(argv[3])));
    struct bay_chan_args args = {.size = sizeof(args), .numa = -1, .thread = 1, .host_chan = 1};
    if (!bdev.ops || bdev.ops->chan_create(bdev.ctx, &args, &chan) != 0)
        return fprintf(stderr, "door: the plugin created no bdev\n"), 1;

    static struct bay_io io;
    io.done = done;
    uint16_t op = (uint16_t)atoi(argv[4]);
    uint64_t ios = strtoull(argv[5], NULL, 10);
    if (strcmp(argv[6], "counted") == 0)
        call_directly_and_count(&counts, &io, op, ios);
    else
        call_directly(chan, &io, op, ios);
    call_through_the_door(bdev.ops->submit, chan, &io, op, ios);
    if (completed != 2 * ios)
        return fprintf(stderr, "door: %llu of %llu I/O succeeded\n", (unsigned long long)completed, (unsigned long long)(2 * ios)), 1;
    return 0;
}
