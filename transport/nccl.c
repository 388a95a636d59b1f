/* transport/nccl.c - groups of GPUs by NCCL's send and receive. The library is loaded when it is first asked for; the few
 * declarations below are its C interface since 2.17 (a communicator's configuration tells its version and size, so later
 * libraries take it). Communicators do not block: what has begun is asked for its state, so an actor's handler goes on.
 * Connections between members are made by the first exchange, and that is the greeting, part of joining; what comes after
 * needs nobody else to be queued, so it is waited for.
 * Leaving aborts: a kernel that waits for a member that is gone ends by nothing else. The call itself may hang with a
 * broken device, so a thread of its own makes it.
 * SPDX-License-Identifier: Apache-2.0 */
#include "transport/collective.h"

#include "base/clock.h"
#include "base/library.h"
#include "base/memory.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, IN_PROGRESS = 7, BYTES = 0 /* ncclInt8 */ };
enum { CONFIG_MAGIC = (int)0xcafebeef, CONFIG_VERSION = 21700, UNDEFINED = (int)0x80000000 };
enum { GREETING_BYTES = 128 };

typedef struct unique_id {
    char bytes[TR_GROUP_NAME_BYTES];
} unique_id;

typedef struct config {
    size_t size;
    unsigned int magic, version;
    int blocking, cga_cluster_size, min_ctas, max_ctas;
    const char *net_name;
} config;

static struct {
    pthread_mutex_t lock;
    bool loaded;
    int (*get_version)(int *version);
    int (*get_unique_id)(unique_id *id);
    int (*init_rank_config)(void **comm, int n_ranks, unique_id id, int rank, config *config);
    int (*abort)(void *comm);
    int (*get_async_error)(void *comm, int *error);
    const char *(*get_error_string)(int result);
    const char *(*get_last_error)(void *comm);
    int (*send)(const void *memory, size_t count, int type, int peer, void *comm, void *stream);
    int (*receive)(void *memory, size_t count, int type, int peer, void *comm, void *stream);
    int (*group_start)(void);
    int (*group_end)(void);
} nccl = {.lock = PTHREAD_MUTEX_INITIALIZER};

typedef enum stage { JOINING, GREETING, SETTLED } stage;

struct tr_group {
    void *comm;
    tr_group_options options;
    stage stage;
    uint8_t *greetings; /* on the device: one to send, one from each member */
    tr_event *queued;
};

/* Members are of one host: neither its other networks nor multicast among GPUs (of no use to sends) shall be tried. */
static void set_defaults(void)
{
    setenv("NCCL_SOCKET_IFNAME", "lo", 0);
    setenv("NCCL_IB_DISABLE", "1", 0);
    setenv("NCCL_NVLS_ENABLE", "0", 0);
}

static tr_status load(tr_error *err)
{
    const char *named = getenv("TROUPE_NCCL");
    const char *const files[] = {named ? named : "libnccl.so.2", NULL};
    const tr_library_symbol symbols[] = {
        {"ncclGetVersion", (void **)&nccl.get_version},
        {"ncclGetUniqueId", (void **)&nccl.get_unique_id},
        {"ncclCommInitRankConfig", (void **)&nccl.init_rank_config},
        {"ncclCommAbort", (void **)&nccl.abort},
        {"ncclCommGetAsyncError", (void **)&nccl.get_async_error},
        {"ncclGetErrorString", (void **)&nccl.get_error_string},
        {"ncclGetLastError", (void **)&nccl.get_last_error},
        {"ncclSend", (void **)&nccl.send},
        {"ncclRecv", (void **)&nccl.receive},
        {"ncclGroupStart", (void **)&nccl.group_start},
        {"ncclGroupEnd", (void **)&nccl.group_end},
    };
    pthread_mutex_lock(&nccl.lock);
    tr_status status = TR_OK;
    if (!nccl.loaded) {
        set_defaults();
        status = tr_library_load("NCCL", files, symbols, sizeof symbols / sizeof *symbols, err);
        nccl.loaded = status == TR_OK;
    }
    pthread_mutex_unlock(&nccl.lock);
    return status;
}

static tr_status failed(const char *what, int result, void *comm, tr_error *err)
{
    const char *more = comm ? nccl.get_last_error(comm) : NULL;
    return tr_fail(err, TR_EIO, "NCCL: %s failed: %s%s%s", what, nccl.get_error_string(result),
                   more && *more ? ": " : "", more ? more : "");
}

static tr_status nccl_describe(char *text, size_t capacity, tr_error *err)
{
    int version = 0;
    tr_status status = load(err);
    if (status) return status;
    int result = nccl.get_version(&version);
    if (result != SUCCESS) return failed("ncclGetVersion", result, NULL, err);
    if (version < CONFIG_VERSION)
        return tr_fail(err, TR_EUNSUPPORTED, "NCCL %d.%d is too old; 2.17 or later is needed",
                       version / 10000, version / 100 % 100);
    snprintf(text, capacity, "NCCL %d.%d.%d", version / 10000, version / 100 % 100, version % 100);
    return TR_OK;
}

static tr_status nccl_name_group(uint8_t name[TR_GROUP_NAME_BYTES], tr_error *err)
{
    unique_id id;
    tr_status status = load(err);
    if (status) return status;
    int result = nccl.get_unique_id(&id);
    if (result != SUCCESS) return failed("ncclGetUniqueId", result, NULL, err);
    memcpy(name, id.bytes, sizeof id.bytes);
    return TR_OK;
}

/* --- joining --- */

static tr_status make_room(tr_group *self, tr_error *err)
{
    tr_device *device = tr_stream_device(self->options.stream);
    size_t size = (size_t)(self->options.n_members + 1) * GREETING_BYTES;
    tr_status status = tr_event_new(&self->queued, device, false, err);
    if (!status) status = tr_device_allocate(device, TR_MEMORY_DEVICE, size, (void **)&self->greetings, err);
    if (!status) status = tr_stream_fill(self->options.stream, self->greetings, 0, size, err);
    return status;
}

static void release(tr_group *self)
{
    tr_event_destroy(&self->queued);
    if (self->greetings)
        tr_device_free(tr_stream_device(self->options.stream), TR_MEMORY_DEVICE, self->greetings);
    tr_free(self);
}

static tr_status nccl_join(tr_group **out, const tr_group_options *options, tr_error *err)
{
    tr_status status = load(err);
    if (status) return status;
    tr_group *self = tr_alloc_zero(1, sizeof *self);
    if (!self) return tr_fail(err, TR_ENOMEM, "no memory for a group of %u devices", options->n_members);
    self->options = *options;
    status = make_room(self, err);
    if (!status) status = tr_device_use(tr_stream_device(options->stream), err);
    if (!status) {
        unique_id id;
        memcpy(id.bytes, options->name, sizeof id.bytes);
        config known = {.size = sizeof known,
                        .magic = (unsigned)CONFIG_MAGIC,
                        .version = CONFIG_VERSION,
                        .blocking = 0,
                        .cga_cluster_size = UNDEFINED,
                        .min_ctas = UNDEFINED,
                        .max_ctas = UNDEFINED};
        int result =
            nccl.init_rank_config(&self->comm, (int)options->n_members, id, (int)options->member, &known);
        if (result != SUCCESS && result != IN_PROGRESS)
            status = failed("ncclCommInitRankConfig", result, NULL, err);
    }
    if (status) {
        release(self);
        return status;
    }
    *out = self;
    return TR_OK;
}

/* All in one group: NCCL begins none of them before the last is told. */
static int begin(tr_group *self, const tr_transfer *transfers, size_t n)
{
    void *stream = tr_stream_native(self->options.stream);
    int result = nccl.group_start();
    for (size_t i = 0; result == SUCCESS && i < n; i++) {
        const tr_transfer *t = &transfers[i];
        result = t->sends ? nccl.send(t->memory, t->size_bytes, BYTES, (int)t->peer, self->comm, stream)
                          : nccl.receive(t->memory, t->size_bytes, BYTES, (int)t->peer, self->comm, stream);
        if (result == IN_PROGRESS) result = SUCCESS;
    }
    int ended = nccl.group_end();
    return result == SUCCESS ? ended : result;
}

static tr_status greet(tr_group *self, tr_error *err)
{
    uint32_t n = self->options.n_members;
    tr_transfer *transfers = tr_alloc(2 * (size_t)n * sizeof *transfers);
    if (!transfers) return tr_fail(err, TR_ENOMEM, "no memory for the greetings of %u devices", n);
    size_t count = 0;
    for (uint32_t peer = 0; peer < n; peer++) {
        if (peer == self->options.member) continue;
        transfers[count++] = (tr_transfer){peer, true, self->greetings, GREETING_BYTES};
        transfers[count++] =
            (tr_transfer){peer, false, self->greetings + (size_t)(peer + 1) * GREETING_BYTES, GREETING_BYTES};
    }
    int result = begin(self, transfers, count);
    tr_free(transfers);
    self->stage = GREETING;
    return result == SUCCESS || result == IN_PROGRESS ? TR_OK : failed("a greeting", result, self->comm, err);
}

static tr_status nccl_settle(tr_group *self, bool *settled, tr_error *err)
{
    int state = SUCCESS;
    *settled = false;
    tr_status status = tr_device_use(tr_stream_device(self->options.stream), err);
    if (status) return status;
    int result = nccl.get_async_error(self->comm, &state);
    if (result != SUCCESS) return failed("ncclCommGetAsyncError", result, self->comm, err);
    if (state == IN_PROGRESS) return TR_OK;
    if (state != SUCCESS)
        return failed(self->stage == SETTLED ? "an exchange" : "joining", state, self->comm, err);
    if (self->stage == JOINING) return greet(self, err);
    if (self->stage == GREETING) {
        self->stage = SETTLED;
        status = tr_event_record(self->queued, self->options.stream, err);
    }
    return status ? status : tr_event_done(self->queued, settled, err);
}

/* --- exchanges --- */

static tr_status nccl_exchange(tr_group *self, const tr_transfer *transfers, size_t n_transfers,
                               tr_error *err)
{
    if (n_transfers == 0) return TR_OK;
    tr_status status = tr_device_use(tr_stream_device(self->options.stream), err);
    if (status) return status;
    int result = begin(self, transfers, n_transfers);
    uint64_t until = tr_clock_ns() + (uint64_t)TR_GROUP_LAUNCH_MS * 1000000;
    while (result == IN_PROGRESS) {
        int state = SUCCESS;
        result = nccl.get_async_error(self->comm, &state);
        if (result == SUCCESS) result = state;
        if (result == IN_PROGRESS && tr_clock_ns() > until)
            return tr_fail(err, TR_EIO, "NCCL: an exchange could not be queued within %d s",
                           TR_GROUP_LAUNCH_MS / 1000);
        if (result == IN_PROGRESS) sched_yield();
    }
    return result == SUCCESS ? TR_OK : failed("an exchange", result, self->comm, err);
}

/* --- leaving --- */

typedef struct farewell {
    tr_device *device;
    void *comm;
    atomic_bool done; /* release: the call has returned; pairs with the acquire of who waits */
} farewell;

static void *say_farewell(void *context)
{
    farewell *self = context;
    if (tr_device_use(self->device, NULL) == TR_OK) nccl.abort(self->comm);
    atomic_store_explicit(&self->done, true, memory_order_release);
    return NULL;
}

/* A device whose context is broken has ended its work: its event tells an error. */
static bool is_off_the_device(tr_group *self)
{
    bool done = false;
    return tr_event_done(self->queued, &done, NULL) != TR_OK || done;
}

static tr_status nccl_leave(tr_group **self, tr_error *err)
{
    tr_group *group = *self;
    if (!group) return TR_OK;
    *self = NULL;
    tr_stream *stream = group->options.stream;
    uint64_t until = tr_clock_ns() + (uint64_t)TR_GROUP_LEAVE_MS * 1000000;
    farewell *last = tr_alloc(sizeof *last);
    pthread_t thread;
    bool recorded = tr_event_record(group->queued, stream, NULL) == TR_OK, gone = false;
    if (last) {
        *last = (farewell){.device = tr_stream_device(stream), .comm = group->comm};
        gone = pthread_create(&thread, NULL, say_farewell, last) == 0;
    }
    while (gone && tr_clock_ns() < until) {
        if (atomic_load_explicit(&last->done, memory_order_acquire) &&
            (!recorded || is_off_the_device(group))) {
            pthread_join(thread, NULL);
            tr_free(last);
            release(group);
            return TR_OK;
        }
        tr_clock_sleep_ms(1);
    }
    return tr_fail(err, TR_EIO, "NCCL: an exchange is still on the device %d s after it was given up",
                   TR_GROUP_LEAVE_MS / 1000); /* what it holds stays, as somebody may still write to it */
}

const tr_collectives tr_nccl = {.describe = nccl_describe,
                                .name_group = nccl_name_group,
                                .join = nccl_join,
                                .settle = nccl_settle,
                                .exchange = nccl_exchange,
                                .leave = nccl_leave};
