/* A fabric, or a target, of NVMe over Fabrics that is wrong in one way. It is the host's good library, GOOD, with this code
 * between that library and the host. `drivebay plugin check` must find each fault (host/tests/plugin_check.rs).
 *
 * NAME, KIND, PROVIDES and REQUIRES are those of the good library. The version is higher, so that the host takes this one.
 *
 * The good library's own functions get the host's own table, with only `get_iface` replaced. So the library offers and
 * takes what is changed here. That is acceptable only in a test: a plugin must never write to the host's tables. */
#include "bay_abi.h"
#include <dlfcn.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>


enum { NVME_WRITE = 1, NVME_READ = 2 };

static const struct bay_plugin *good;
static bay_host_get_iface_fn *get_iface_of_host;
static const struct bay_broker_api *broker_of_host;
static struct bay_broker_api broker;
static const struct bay_nvmf_target_api *target_of_provider;
static struct bay_nvmf_target_api target;
static const struct bay_nvmf_transport_ops *ops_of_fabric;
static struct bay_nvmf_transport_ops ops;

static bool is(struct bay_str id, const char *text) { return id.len == strlen(text) && memcmp(id.ptr, text, id.len) == 0; }

/* True every 40th time. */
static inline bool now_and_then(unsigned *count) { return ++*count % 40 == 0; }

/* Whether it is a command of an I/O queue that carries blocks. */
static inline bool is_io(const struct bay_nvmf_req *req, unsigned opcode) {
    return (req->cmd[0] & 0xff) == opcode && req->len >= 512 && req->len % 512 == 0 && req->iovcnt > 0;
}

/* ---- a fabric: between the target and its functions ------------------------------------------- */

static void complete(void *conn, struct bay_nvmf_req *req) {
    static unsigned count;
    (void)count;
#ifdef BAD_DATA
    if (is_io(req, NVME_READ) && now_and_then(&count))
        ((char *)req->iov[0].addr)[300] ^= 4;
#endif
#ifdef BAD_SILENT
    if (is_io(req, NVME_READ) && now_and_then(&count))
        return;
#endif
    ops_of_fabric->complete(conn, req);
}

static int32_t stop_listen(void *transport, const struct bay_nvmf_addr *addr) {
#ifdef BAD_LISTENS_ON
    (void)transport, (void)addr;
    return 0;
#else
    return ops_of_fabric->stop_listen(transport, addr);
#endif
}

static int32_t group_add(void *group, void *conn, void *qpair) {
#ifdef BAD_LEAKS
    *(volatile char *)malloc(2000) = 1;
#endif
#ifdef BAD_CRASH
    *(volatile char *)8 = 1;
#endif
    return ops_of_fabric->group_add(group, conn, qpair);
}

static int32_t register_fabric(void *of, struct bay_str name, const struct bay_nvmf_transport_ops *own, void *ctx,
                               uint64_t *handle) {
    ops_of_fabric = own;
    ops = *own;
    ops.complete = complete;
    ops.stop_listen = stop_listen;
    ops.group_add = group_add;
    return target_of_provider->register_(of, name, &ops, ctx, handle);
}

static const void *acquire(const struct bay_host *host, struct bay_str id, bay_broker_revoked_fn *revoked, void *arg,
                           uint64_t *reference) {
    const void *table = broker_of_host->acquire(host, id, revoked, arg, reference);
    if (!table || !is(id, BAY_ID_NVMF_TARGET))
        return table;
    target_of_provider = table;
    target = *target_of_provider;
    target.register_ = register_fabric;
    return &target;
}

/* ---- a target: between fabrics and its functions ----------------------------------------------- */

static void exec(void *of, void *qpair, struct bay_nvmf_req *req) {
    static unsigned count;
    (void)count;
#ifdef BAD_TARGET_PLACE
    if (is_io(req, NVME_WRITE) && now_and_then(&count))
        req->cmd[5] ^= 1; /* the first block */
#endif
#ifdef BAD_TARGET_SILENT
    if (is_io(req, NVME_WRITE) && now_and_then(&count))
        return;
#endif
    target_of_provider->exec(of, qpair, req);
}

static int32_t provide(const struct bay_host *host, struct bay_str id, const void *table, uint64_t *handle) {
    if (!is(id, BAY_ID_NVMF_TARGET))
        return broker_of_host->provide(host, id, table, handle);
    target_of_provider = table;
    target = *target_of_provider;
    target.exec = exec;
    return broker_of_host->provide(host, id, &target, handle);
}

/* ---- the door ------------------------------------------------------------------------------------ */

static const void *get_iface(const struct bay_host *host, struct bay_str id, uint32_t min_minor) {
    const void *table = get_iface_of_host(host, id, min_minor);
    if (!table || !is(id, BAY_ID_BROKER))
        return table;
    broker_of_host = table;
    broker = *broker_of_host;
    broker.acquire = acquire;
    broker.provide = provide;
    return &broker;
}

static int32_t init(const struct bay_host *host, void **state) {
    void *library = dlopen(GOOD, RTLD_NOW | RTLD_LOCAL);
    good = library ? dlsym(library, "bay_plugin_v1") : NULL;
    if (!good)
        return -2;
    get_iface_of_host = host->get_iface;
    ((struct bay_host *)(uintptr_t)host)->get_iface = get_iface;
    return good->init(host, state);
}

static int32_t start(void *state, uint32_t how) { return good->start(state, how); }

static void fini(void *state, uint32_t reason) { good->fini(state, reason); }

static void never_quiet(void *state, bay_cb_fn *done, void *arg) { (void)state, (void)done, (void)arg; }

static const void *offers(void *state, struct bay_str id, uint32_t min_minor) {
    static const struct bay_quiesce quiesce = {sizeof(quiesce), 0, never_quiet};
#ifdef BAD_NEVER_QUIET
    if (is(id, BAY_ID_QUIESCE))
        return &quiesce;
#endif
    (void)quiesce;
    return good->get_iface(state, id, min_minor);
}

BAY_PLUGIN(NAME, "99.0.0", KIND, PROVIDES, REQUIRES, 0, init, start, fini, offers);
