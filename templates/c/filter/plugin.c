/* {{name}}: a filter that passes all I/O on to its base. Add your own code.
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
static const struct bay_rpc_api *rpc;

struct params {
    char name[256], base_bdev_name[256];
};

struct filter {
    struct filter *next;
    struct params made_by;
    uint64_t id, base; /* handles of this bdev and of the open base */
};

/* One thread's state: the channel of the base. */
struct chan {
    uint64_t base;
};

static struct filter *filters; /* used on the app thread only */

/* ---- I/O: on the reactor of the channel ------------------------------------------------------ */

/* The child has completed; this completes the parent. The parent's buffers now have the data of a read. */
static void ended(void *parent, struct bay_io *child, int32_t status) {
    client->complete_from(host, (struct bay_io *)parent, child, status);
}

/* The bus has checked the op and the range. The child has the same fields as the parent: the same blocks and
 * the same buffers. If you change its list or argument, the new one must stay valid until the child completes:
 * `io->drv_ctx` is memory for that (declare drv_ctx_size). The data of a write belongs to the client: change a
 * copy of it. */
static void submit(void *arg, struct bay_io *io) {
    struct bay_io *child = client->io_derive(host, ((struct chan *)arg)->base, io);
    client->submit(host, child, ended, io);
}

static void flush(void *arg) { client->flush(host, ((struct chan *)arg)->base); }

static int32_t chan_create(void *ctx, const struct bay_chan_args *args, void **made) {
    (void)args;
    struct chan *chan = (struct chan *)calloc(1, sizeof(*chan));
    if (!chan)
        return -ENOMEM;
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
    bay_text_add(&call, "{\"method\":\"bdev_{{name}}_create\",\"params\":{\"name\":");
    bay_text_quoted(&call, params->name);
    bay_text_add(&call, ",\"base_bdev_name\":");
    bay_text_quoted(&call, params->base_bdev_name);
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
    struct bay_bdev_reg reg = {
        .size = sizeof(reg),
        .flags = BAY_BDEV_FILTER | (base.flags & (BAY_BDEV_WRITE_CACHE | BAY_BDEV_READ_ONLY)),
        .ctx = filter,
        .ops = &ops,
        .name = bay_str_of(filter->made_by.name, strlen(filter->made_by.name)),
        .product = BAY_STR("{{name}} filter"),
        .base = base.name,
        .block_size = base.block_size,
        .num_blocks = base.num_blocks,
        .phys_block_size = base.phys_block_size,
        .write_unit = base.write_unit,
        .optimal_boundary = base.optimal_boundary,
        .numa = base.numa,
        .align = base.align,
        .max_children = 1,
        .must_flags = base.must_flags,
        .md_size = base.md_size,
        .md_interleave = base.md_interleave,
        .dif_type = base.dif_type,
        .dif_is_head = base.dif_is_head,
        .dif_pi_format = base.dif_pi_format,
        .ops_mask = base.ops_mask & ~(UINT64_C(1) << BAY_OP_ABORT), /* the base does not know the parent's id */
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
    rpc = BAY_IFACE(host, bay_rpc_api, BAY_ID_RPC);
    return bdev && client && rpc ? 0 : -ENOTSUP;
}

static int32_t start(void *state, uint32_t how) {
    (void)state, (void)how;
    int32_t status = bay_method(host, rpc, "bdev_{{name}}_create", "Creates a filter on a bdev.", create_params,
                                CREATE_PARAMS, create, NULL);
    if (status == 0)
        status = bay_method(host, rpc, "bdev_{{name}}_delete", "Deletes a filter. The data stays on its base.",
                            delete_params, 1, delete, NULL);
    return status;
}

BAY_PLUGIN("{{name}}", "0.1.0", "filter",
           BAY_PROVIDES_RPC("bdev_{{name}}_create") "," BAY_PROVIDES_RPC("bdev_{{name}}_delete"),
           "", BAY_PF_UNLOADABLE, init, start, NULL, NULL);
