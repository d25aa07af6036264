/* A plugin for the loader's tests. Macros on the compiler's command line select what it does. */
#include "bay_abi.h"
#include <stdlib.h>
#include <string.h>

#ifndef NAME
#define NAME "probe"
#endif
#ifndef VERSION
#define VERSION "1.0.0"
#endif
#ifndef KIND
#define KIND "test"
#endif
#ifndef PROVIDES
#define PROVIDES ""
#endif
#ifndef REQUIRES
#define REQUIRES ""
#endif
#ifndef INIT_STATUS
#define INIT_STATUS 0
#endif
#ifndef START_STATUS
#define START_STATUS 0
#endif

/* Notifies the tests of each step. */
#define NOTE(kind) notify->notify(host, BAY_STR(kind), BAY_STR(NAME))

static const struct bay_host *host;
static const struct bay_rpc_api *rpc;
static const struct bay_broker_api *broker;
static const struct bay_notify_api *notify;
static uint64_t held;

static void ping(void *ctx, uint64_t call, struct bay_str params) {
    (void)ctx, (void)params;
    rpc->reply(host, call, BAY_STR("\"" NAME " " VERSION "\""));
}

static void hold(void *ctx, uint64_t call, struct bay_str params) {
    (void)ctx, (void)params;
    held = call;
}

static void let_go(void *ctx, uint64_t call, struct bay_str params) {
    (void)ctx, (void)params;
    rpc->reply(host, held, BAY_STR("true"));
    rpc->error(host, held, -5, BAY_STR("answered twice"), BAY_STR(""));
    rpc->error(host, call, -5, BAY_STR("no luck"), BAY_STR("{\"name\":\"luck\"}"));
}

static int32_t add(struct bay_str name, bay_rpc_call_fn *call) {
    struct bay_rpc_method method = {sizeof(method), BAY_RPC_RUNTIME, name, {NULL, 0}, call, NULL};
    return rpc->register_(host, &method, NULL);
}

static void revoked(void *arg) {
    (void)arg;
    NOTE("revoked");
}

static int32_t init(const struct bay_host *h, void **state) {
    host = h;
    rpc = (const struct bay_rpc_api *)h->get_iface(h, BAY_STR(BAY_ID_RPC), 0);
    broker = (const struct bay_broker_api *)h->get_iface(h, BAY_STR(BAY_ID_BROKER), 0);
    notify = (const struct bay_notify_api *)h->get_iface(h, BAY_STR(BAY_ID_NOTIFY), 0);
    *state = NULL;
    h->log(h, BAY_LOG_INFO, BAY_STR(NAME), BAY_STR("hello from C"));
    return h->get_iface(h, BAY_STR(BAY_ID_RPC), 9999) ? -1 : INIT_STATUS;
}

static int32_t start(void *state, uint32_t how) {
    (void)state, (void)how;
    int32_t status = 0;
    NOTE("start");
#ifdef GUARDED
    if (host->get_iface(host, BAY_STR(GUARDED), 0))
        NOTE("has it");
#endif
#ifdef METHOD
    status = add(BAY_STR(METHOD), ping);
#endif
#ifdef HOLDS
    add(BAY_STR("hold"), hold);
    add(BAY_STR("let_go"), let_go);
#endif
#ifdef OFFERS
    if (status == 0)
        status = broker->provide(host, BAY_STR(OFFERS), &ping, NULL);
#endif
#ifdef WANTS
    if (status == 0 && !broker->acquire(host, BAY_STR(WANTS), revoked, NULL, NULL))
        status = -2;
#endif
    (void)add, (void)ping, (void)hold, (void)let_go, (void)revoked;
    return status ? status : START_STATUS;
}

static void fini(void *state, uint32_t reason) {
    (void)state;
    if (reason == BAY_FINI_UNLOAD)
        NOTE("fini");
    else
        NOTE("shutdown");
}

#ifdef QUIESCES
static void quiesce(void *state, bay_cb_fn *done, void *arg) {
    (void)state;
    NOTE("quiesce");
    done(arg, QUIESCES);
}

static const struct bay_quiesce table = {sizeof(table), 0, quiesce};
#define ID BAY_ID_QUIESCE
#else
static void log_changed(void *state) {
    (void)state;
    NOTE("log changed");
}

static const struct bay_log_iface table = {sizeof(table), 0, log_changed};
#define ID BAY_ID_LOG
#endif

static const void *get_iface(void *state, struct bay_str id, uint32_t min_minor) {
    (void)state, (void)min_minor;
    return id.len == sizeof(ID) - 1 && memcmp(id.ptr, ID, id.len) == 0 ? &table : NULL;
}

BAY_PLUGIN(NAME, VERSION, KIND, PROVIDES, REQUIRES, 0, init, start, fini, get_iface);
