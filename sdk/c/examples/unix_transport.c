/* SPDX-License-Identifier: Apache-2.0
 *
 * unix: NVMe over Fabrics over Unix sockets. A transport for the target plugin `nvmf`.
 *
 *     cc -shared -fPIC -O2 $(pkg-config --cflags drivebay) -o unix.so unix_transport.c
 *     drivebay rpc nvmf_create_transport '{"trtype":"UNIX"}'
 *
 * Format of the data on a connection, all numbers little-endian:
 *
 *     to the target:  u32 length of the data | u32 0 | 64-byte command  | data
 *     to the host:    u32 length of the data | u32 0 | 16-byte response | data
 *
 * The transport listens and accepts on the app thread. It passes each connection to the target, which
 * adds it to a group; each poll group's thread has one group. The group lends requests to the target with
 * `exec`. The target returns each with `complete`, exactly once, possibly during `exec`.
 */
#define _GNU_SOURCE /* accept4 */
#include "bay_rpc.h"
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define DATA_LEN_MAX (64u << 10) /* per command; the target reports it to hosts */
#define HEAD_LEN 72u
#define DEPTH 64u /* maximum number of commands of one connection that the target has */
#define LISTENERS_MAX 16

static const struct bay_host *host;
static const struct bay_broker_api *broker;
static const struct bay_poller_api *pollers;
static const struct bay_buf_api *buf;
static const struct bay_nvmf_target_api *target;
static uint64_t reference, handle;

struct listener {
    int fd; /* -1: this entry is free */
    char path[sizeof(((struct bay_nvmf_addr *)0)->traddr)];
};

struct transport {
    struct listener listeners[LISTENERS_MAX];
    uint64_t poller;
};

struct conn;

/* The target's part comes first, so a pointer to it is also a pointer to the whole request. */
struct request {
    struct bay_nvmf_req nvmf;
    struct bay_iov iov;
};

struct conn {
    struct conn *next;
    int fd; /* -1: closed */
    void *qpair;
    char path[256];
    uint32_t lent;
    bool closing, freed, waits_for_room, short_of_memory;
    size_t in_len, out_len, out_cap;
    uint8_t *out;
    uint8_t in[HEAD_LEN + DATA_LEN_MAX];
};

struct group {
    int epoll; /* readable when a connection has an event */
    uint64_t poller;
    struct conn *conns;
};

/* ---- requests: on the group's thread --------------------------------------------------------- */

static uint32_t number(const uint8_t *bytes) {
    uint32_t value;
    memcpy(&value, bytes, sizeof(value));
    return value;
}

/* NVMe Base 2.0, section 3.3.3.1: the low two bits of the opcode, or of the Fabrics command type, are the
 * direction of the data; the SGL descriptor has its length. */
static uint8_t transfer_of(const uint8_t *command, uint32_t *len) {
    uint8_t code = (command[0] == 0x7f ? command[4] : command[0]) & 3;
    *len = number(command + 32);
    if (*len == 0 || code == 0 || code == 3)
        return *len = 0, BAY_NVMF_XFER_NONE;
    return code == 1 ? BAY_NVMF_XFER_H2C : BAY_NVMF_XFER_C2H;
}

static void free_request(struct request *request) {
    if (request->iov.addr)
        buf->put(host, request->iov.addr, request->iov.len);
    free(request);
}

/* The target returns a request: queue its response, and the data of a read, for sending. */
static void complete(void *arg, struct bay_nvmf_req *nvmf) {
    struct conn *conn = (struct conn *)arg;
    struct request *request = (struct request *)nvmf;
    uint32_t head[2] = {nvmf->rsp_len < nvmf->len ? nvmf->rsp_len : nvmf->len, 0};
    size_t wanted = conn->out_len + sizeof(head) + sizeof(nvmf->rsp) + head[0];
    if (wanted > conn->out_cap) { /* at most DEPTH responses */
        uint8_t *more = (uint8_t *)realloc(conn->out, wanted);
        conn->closing |= !more;
        conn->out = more ? more : conn->out;
        conn->out_cap = more ? wanted : conn->out_cap;
    }
    if (wanted <= conn->out_cap && conn->fd >= 0) {
        uint8_t *to = conn->out + conn->out_len;
        memcpy(to, head, sizeof(head));
        memcpy(to + sizeof(head), nvmf->rsp, sizeof(nvmf->rsp));
        if (head[0])
            memcpy(to + sizeof(head) + sizeof(nvmf->rsp), request->iov.addr, head[0]);
        conn->out_len = wanted;
    }
    conn->lent--;
    free_request(request);
}

/* Lends one complete command. Returns false when there is no memory for it now. */
static bool lend(struct conn *conn, const uint8_t *frame, uint8_t transfer, uint32_t len) {
    struct request *request = (struct request *)aligned_alloc(64, sizeof(*request));
    if (!request)
        return false;
    memset(request, 0, sizeof(*request));
    request->iov.len = len;
    if (len && !(request->iov.addr = buf->get(host, len, &request->iov.region, NULL))) {
        free(request);
        return false;
    }
    memcpy(request->nvmf.cmd, frame + 8, sizeof(request->nvmf.cmd));
    if (transfer == BAY_NVMF_XFER_H2C)
        memcpy(request->iov.addr, frame + HEAD_LEN, len);
    request->nvmf.iov = len ? &request->iov : NULL;
    request->nvmf.iovcnt = len ? 1 : 0;
    request->nvmf.len = len;
    request->nvmf.xfer = transfer;
    request->nvmf.conn = conn;
    conn->lent++;
    target->exec(target->target, conn->qpair, &request->nvmf);
    return true;
}

/* ---- connections: on the group's thread ------------------------------------------------------ */

/* The target returns its requests of the connection, then calls `qpair_free`. */
static void hang_up(struct conn *conn) {
    if (conn->fd < 0)
        return;
    close(conn->fd); /* this also removes it from the epoll */
    conn->fd = -1;
    target->disconnected(target->target, conn->qpair);
}

static bool receive(struct conn *conn) {
    size_t room = sizeof(conn->in) - conn->in_len;
    if (conn->fd < 0 || room == 0)
        return false;
    ssize_t len = read(conn->fd, conn->in + conn->in_len, room);
    if (len > 0)
        conn->in_len += (size_t)len;
    else if (len == 0 || (errno != EAGAIN && errno != EINTR))
        hang_up(conn);
    return len > 0;
}

static void lend_all(struct conn *conn) {
    size_t taken = 0;
    conn->short_of_memory = false;
    while (conn->fd >= 0 && !conn->closing && conn->lent < DEPTH && conn->in_len - taken >= HEAD_LEN) {
        const uint8_t *frame = conn->in + taken;
        uint32_t len, sent = number(frame);
        uint8_t transfer = transfer_of(frame + 8, &len);
        if (len > DATA_LEN_MAX || sent != (transfer == BAY_NVMF_XFER_H2C ? len : 0)) {
            hang_up(conn); /* the peer does not speak this protocol */
            return;
        }
        if (conn->in_len - taken < HEAD_LEN + sent)
            break;
        if (!lend(conn, frame, transfer, len)) {
            conn->short_of_memory = true;
            break;
        }
        taken += HEAD_LEN + sent;
    }
    conn->in_len -= taken;
    memmove(conn->in, conn->in + taken, conn->in_len);
}

static bool send_all(struct group *group, struct conn *conn) {
    ssize_t sent = 0;
    if (conn->fd >= 0 && conn->out_len > 0) {
        sent = send(conn->fd, conn->out, conn->out_len, MSG_NOSIGNAL);
        if (sent > 0) {
            conn->out_len -= (size_t)sent;
            memmove(conn->out, conn->out + sent, conn->out_len);
        } else if (errno != EAGAIN && errno != EINTR) {
            hang_up(conn);
        }
    }
    if (conn->closing && conn->out_len == 0)
        hang_up(conn);
    if (conn->fd >= 0 && conn->waits_for_room != (conn->out_len > 0)) {
        conn->waits_for_room = conn->out_len > 0;
        struct epoll_event event = {.events = EPOLLIN | (conn->waits_for_room ? EPOLLOUT : 0)};
        epoll_ctl(group->epoll, EPOLL_CTL_MOD, conn->fd, &event);
    }
    return sent > 0;
}

static void free_conn(struct conn *conn) {
    free(conn->out);
    free(conn);
}

/* Runs one round. The target may call back during it. Connections that it released are freed at the end. */
static int32_t group_poll(void *ctx) {
    struct group *group = (struct group *)ctx;
    bool did = false;
    for (struct conn *conn = group->conns; conn; conn = conn->next) {
        did |= receive(conn);
        lend_all(conn);
        did |= send_all(group, conn);
    }
    for (struct conn **link = &group->conns, *conn; (conn = *link);) {
        if (conn->freed)
            *link = conn->next, free_conn(conn);
        else
            link = &conn->next;
    }
    return did;
}

/* The epoll is level-triggered, so data that has already arrived ends the sleep at once. */
static int32_t group_prepare_sleep(void *ctx) {
    for (struct conn *conn = ((struct group *)ctx)->conns; conn; conn = conn->next)
        if (conn->short_of_memory || conn->freed || (conn->fd >= 0 && (conn->closing || (conn->out_len && !conn->waits_for_room))))
            return 1;
    return 0;
}

static const struct bay_poller_ops group_poller = {
    .size = sizeof(group_poller), .run = group_poll, .prepare_sleep = group_prepare_sleep};

static int32_t group_create(void *transport, void **made) {
    (void)transport;
    struct group *group = (struct group *)calloc(1, sizeof(*group));
    if (!group)
        return -ENOMEM;
    group->epoll = epoll_create1(EPOLL_CLOEXEC);
    int32_t status = group->epoll < 0 ? -errno : 0;
    if (status == 0)
        status = pollers->register_(host, &group_poller, group, 0, BAY_STR("nvmf_unix"), &group->poller);
    if (status == 0)
        status = pollers->wake_fd(host, group->poller, group->epoll, POLLIN);
    *made = group;
    return status;
}

static void group_destroy(void *arg) {
    struct group *group = (struct group *)arg;
    pollers->wake_fd(host, group->poller, group->epoll, 0);
    pollers->unregister(host, group->poller);
    while (group->conns) { /* connections that the target released since the last round */
        struct conn *conn = group->conns;
        group->conns = conn->next;
        free_conn(conn);
    }
    close(group->epoll);
    free(group);
}

static int32_t group_add(void *arg, void *given, void *qpair) {
    struct group *group = (struct group *)arg;
    struct conn *conn = (struct conn *)given;
    struct epoll_event event = {.events = EPOLLIN};
    if (epoll_ctl(group->epoll, EPOLL_CTL_ADD, conn->fd, &event) != 0) {
        int32_t status = -errno;
        close(conn->fd);
        free_conn(conn);
        return status;
    }
    conn->qpair = qpair;
    conn->next = group->conns;
    group->conns = conn;
    return 0;
}

static void conn_close(void *conn) { ((struct conn *)conn)->closing = true; }
static void qpair_free(void *conn) { ((struct conn *)conn)->freed = true; }

static int32_t conn_addr(void *arg, struct bay_nvmf_addr *local, struct bay_nvmf_addr *peer) {
    struct bay_nvmf_addr addr = {.trtype = "UNIX"};
    memcpy(addr.traddr, ((struct conn *)arg)->path, sizeof(addr.traddr));
    if (local)
        *local = addr;
    if (peer)
        *peer = addr;
    return 0;
}

/* ---- listening: on the app thread ------------------------------------------------------------ */

static void conn_refused(void *transport, void *arg) {
    (void)transport;
    close(((struct conn *)arg)->fd);
    free_conn((struct conn *)arg);
}

static bool accept_one(struct listener *listener) {
    int fd = listener->fd < 0 ? -1 : accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return false;
    struct conn *conn = (struct conn *)calloc(1, sizeof(*conn));
    if (!conn)
        return close(fd), true;
    conn->fd = fd;
    memcpy(conn->path, listener->path, sizeof(conn->path));
    if (target->new_qpair(target->target, handle, conn) < 0)
        conn_refused(NULL, conn);
    return true;
}

static int32_t accept_poll(void *ctx) {
    struct transport *transport = (struct transport *)ctx;
    bool did = false;
    for (int i = 0; i < LISTENERS_MAX; i++)
        did |= accept_one(&transport->listeners[i]);
    return did;
}

static const struct bay_poller_ops accept_poller = {
    .size = sizeof(accept_poller), .run = accept_poll, .prepare_sleep = accept_poll};

static struct listener *find(struct transport *transport, const char *path) {
    for (int i = 0; i < LISTENERS_MAX; i++) {
        struct listener *listener = &transport->listeners[i];
        if (path ? listener->fd >= 0 && strcmp(listener->path, path) == 0 : listener->fd < 0)
            return listener;
    }
    return NULL;
}

static int32_t stop_listen(void *arg, const struct bay_nvmf_addr *addr) {
    struct transport *transport = (struct transport *)arg;
    struct listener *listener = find(transport, (const char *)addr->traddr);
    if (!listener)
        return -ENOENT;
    pollers->wake_fd(host, transport->poller, listener->fd, 0);
    close(listener->fd);
    listener->fd = -1;
    unlink(listener->path);
    return 0;
}

static int32_t listen_at(void *arg, const struct bay_nvmf_addr *addr) {
    struct transport *transport = (struct transport *)arg;
    struct listener *listener = find(transport, NULL);
    struct sockaddr_un sun = {.sun_family = AF_UNIX};
    const char *path = (const char *)addr->traddr; /* NUL-padded */
    if (!listener || strlen(path) >= sizeof(sun.sun_path))
        return listener ? -ENAMETOOLONG : -ENOSPC;
    memcpy(sun.sun_path, path, strlen(path));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int32_t status = fd < 0 || bind(fd, (struct sockaddr *)&sun, sizeof(sun)) || listen(fd, 64) ? -errno : 0;
    if (status == 0)
        status = pollers->wake_fd(host, transport->poller, fd, POLLIN);
    if (status != 0) {
        if (fd >= 0)
            close(fd);
        return status;
    }
    listener->fd = fd;
    memcpy(listener->path, addr->traddr, sizeof(listener->path));
    return 0;
}

static int32_t create(void *ctx, struct bay_str options, void **made) {
    (void)ctx, (void)options; /* the parameters of nvmf_create_transport */
    struct transport *transport = (struct transport *)calloc(1, sizeof(*transport));
    if (!transport)
        return -ENOMEM;
    for (int i = 0; i < LISTENERS_MAX; i++)
        transport->listeners[i].fd = -1;
    *made = transport;
    /* every millisecond while the reactor runs, and at once when it wakes up */
    return pollers->register_(host, &accept_poller, transport, 1000, BAY_STR("unix_accept"), &transport->poller);
}

static void destroy(void *arg) {
    struct transport *transport = (struct transport *)arg;
    for (struct listener *l = transport->listeners; l < transport->listeners + LISTENERS_MAX; l++)
        if (l->fd >= 0)
            close(l->fd), unlink(l->path);
    pollers->unregister(host, transport->poller);
    free(transport);
}

static void dump(void *transport, const struct bay_sink *sink) {
    (void)transport;
    BAY_TEXT(options, 256);
    bay_text_add(&options, "{\"trtype\":\"UNIX\",\"max_io_size\":");
    bay_text_number(&options, DATA_LEN_MAX);
    bay_text_add(&options, ",\"max_queue_depth\":");
    bay_text_number(&options, DEPTH);
    bay_text_add(&options, "}");
    bay_text_write(&options, sink);
}

static const struct bay_nvmf_transport_ops ops = {
    .size = sizeof(ops),
    .create = create,
    .destroy = destroy,
    .dump = dump,
    .listen = listen_at,
    .stop_listen = stop_listen,
    .group_create = group_create,
    .group_destroy = group_destroy,
    .group_add = group_add,
    .conn_refused = conn_refused,
    .complete = complete,
    .close = conn_close,
    .qpair_free = qpair_free,
    .conn_addr = conn_addr,
};

/* ---- the plugin's life: on the app thread ---------------------------------------------------- */

static int32_t init(const struct bay_host *given, void **state) {
    *state = NULL;
    host = given;
    broker = BAY_IFACE(host, bay_broker_api, BAY_ID_BROKER);
    pollers = BAY_IFACE(host, bay_poller_api, BAY_ID_POLLER);
    buf = BAY_IFACE(host, bay_buf_api, BAY_ID_BUF);
    return broker && pollers && buf && buf->max_len >= DATA_LEN_MAX ? 0 : -ENOTSUP;
}

/* The host waits for `done` before it ends the plugin. */
static struct {
    bay_cb_fn *done;
    void *arg;
} stopping;

static void unregistered(void *arg, int32_t status) {
    (void)arg, (void)status;
    broker->release(host, reference);
    target = NULL;
    if (stopping.done)
        stopping.done(stopping.arg, 0);
}

static void stop(void *state, bay_cb_fn *done, void *arg) {
    (void)state;
    stopping.done = done;
    stopping.arg = arg;
    if (!target || target->unregister(target->target, handle, unregistered, NULL) != 0)
        done(arg, 0);
}

static void target_goes(void *arg) {
    (void)arg;
    target->unregister(target->target, handle, unregistered, NULL);
}

static int32_t start(void *state, uint32_t how) {
    (void)state, (void)how;
    target = (const struct bay_nvmf_target_api *)broker->acquire(host, BAY_STR(BAY_ID_NVMF_TARGET), target_goes,
                                                                 NULL, &reference);
    return target ? target->register_(target->target, BAY_STR("UNIX"), &ops, NULL, &handle) : -ENOENT;
}

static const struct bay_quiesce quiesce = {sizeof(quiesce), 0, stop};

static const void *get_iface(void *state, struct bay_str id, uint32_t min_minor) {
    (void)state, (void)min_minor;
    bool is_quiesce = id.len == strlen(BAY_ID_QUIESCE) && memcmp(id.ptr, BAY_ID_QUIESCE, id.len) == 0;
    return is_quiesce ? &quiesce : NULL;
}

BAY_PLUGIN("unix", "0.1.0", "transport", "\"nvmf.transport/UNIX\"", "\"bay.nvmf_target/1\"", BAY_PF_UNLOADABLE, init,
           start, NULL, get_iface);
