/* bench/links.c - what a message between two processes of one host costs, beside what carries it.
 * links [--json] [--best] [--rounds N]
 *   8 bytes one way: half of a round trip of one message, both sides spinning.
 *   1 MiB: four messages under way, each answered by an empty one; both sides reuse their buffers, as the slots of edges do.
 * Contenders take turns in one pair of processes: our transport over UCX, without and with hashes of bodies; UCX alone, as it
 * comes (active messages, no error handling; long bodies by the kernel, which copies once), and held to copies through shared
 * memory; libzmq over ipc and tcp, waiting as its users do. The machine's own limit is told too: a word in shared memory, and
 * a copy of 1 MiB from one buffer to another.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/memory.h"
#include "bench/rows.h"
#include "transport/transport.h"

#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <ucp/api/ucp.h>
#include <unistd.h>
#include <zmq.h>

enum { N_SLOTS = 4, LARGE = 1 << 20, TRIPS = 400, STREAM = 24, BATCHES = 8, PATIENCE_S = 300 };

static uint8_t *slots[N_SLOTS]; /* of this side */
static uint32_t n_arrived;      /* at this side, of the contender whose turn it is; wraps */
static int channel;             /* to the other side, for addresses */
static bool is_first;           /* this side measures, the other one answers */

static void fail(const char *what, const char *why)
{
    fprintf(stderr, "links: %s: %s\n", what, why);
    exit(1);
}

static void must(tr_status status, const tr_error *err)
{
    if (status != TR_OK) fail("the transport", err->message);
}

/* Gives ours to the other side and takes its. */
static void exchange(const void *ours, void *theirs, size_t size)
{
    if (write(channel, ours, size) != (ssize_t)size ||
        recv(channel, theirs, size, MSG_WAITALL) != (ssize_t)size)
        fail("the other process", "is gone");
}

typedef struct contender {
    const char *name;
    void (*open)(struct contender *self);
    void (*send)(struct contender *self, uint32_t slot, uint32_t bytes); /* 0 bytes: an answer */
    void (*progress)(struct contender *self); /* may wait for a message; counts into n_arrived */
    void (*close)(struct contender *self);
    bool hashes;
    const char *endpoint; /* of libzmq; of UCX its transports, NULL: as it chooses */
    /* of each kind, the one or the other */
    tr_transport *transport;
    tr_buffer *buffers[N_SLOTS];
    ucp_context_h context;
    ucp_worker_h worker;
    ucp_ep_h peer;
    void *zmq, *socket;
    bool reads_body; /* of zmq: the other sends bodies */
} contender;

/* ---- ours ---- */

static tr_buffer *place(void *context, int32_t peer, const tr_frame *frame)
{
    (void)peer;
    return tr_buffer_retain(((contender *)context)->buffers[frame->sequence % N_SLOTS]);
}

static void deliver(void *context, int32_t peer, tr_message *message)
{
    (void)context, (void)peer;
    n_arrived++;
    tr_message_destroy(&message);
}

static void lose(void *context, int32_t peer, const char *reason)
{
    (void)context, (void)peer;
    fail("the link broke", reason);
}

static void ours_open(contender *self)
{
    tr_error err;
    char address[TR_ADDRESS_CHARS] = "", other[TR_ADDRESS_CHARS];
    const tr_transport_options options = {
        .node = is_first ? 1 : 2, .max_body_bytes = LARGE, .hash_bodies = self->hashes};
    const tr_transport_events events = {self, place, deliver, lose, NULL};
    must(tr_transport_new(&self->transport, "ucx", &options, &events, &err), &err);
    for (int i = 0; i < N_SLOTS; i++)
        must(tr_buffer_wrap(&self->buffers[i], slots[i], LARGE, NULL, NULL, &err), &err);
    snprintf(address, sizeof address, "%s", tr_transport_address(self->transport));
    exchange(address, other, sizeof address);
    must(tr_transport_connect(self->transport, is_first ? 2 : 1, other, &err), &err);
}

static void ours_send(contender *self, uint32_t slot, uint32_t bytes)
{
    tr_error err;
    tr_message *message;
    must(tr_message_new(&message, bytes ? tr_buffer_retain(self->buffers[slot]) : NULL, bytes, &err), &err);
    message->frame.kind = TR_FRAME_DATA;
    message->frame.sequence = slot;
    must(tr_transport_send(self->transport, is_first ? 2 : 1, &message, &err), &err);
}

/* Whoever spins gives way now and then, for where there is one processor for both. */
static void give_way(uint32_t n_fruitless)
{
    static uint32_t n; /* of this side, in a row */
    n = n_fruitless ? n + n_fruitless : 0;
    if (n % 1024 == 1023) sched_yield();
}

static void ours_progress(contender *self)
{
    give_way(tr_transport_progress(self->transport) == 0);
}

static void ours_close(contender *self)
{
    tr_transport_destroy(&self->transport);
    for (int i = 0; i < N_SLOTS; i++) tr_buffer_release(&self->buffers[i]);
}

/* ---- UCX alone ---- */

static void check_ucx(ucs_status_t status, const char *what)
{
    if (status != UCS_OK) fail(what, ucs_status_string(status));
}

static void on_ucx_done(void *request, ucs_status_t status, void *user_data)
{
    (void)status, (void)user_data;
    ucp_request_free(request);
}

static void on_ucx_received(void *request, ucs_status_t status, size_t length, void *user_data)
{
    (void)length;
    check_ucx(status, "ucx, receiving");
    n_arrived++;
    (void)user_data;
    ucp_request_free(request);
}

static ucs_status_t on_ucx_message(void *context, const void *header, size_t header_length, void *data,
                                   size_t length, const ucp_am_recv_param_t *param)
{
    contender *self = context;
    uint32_t slot = 0;
    memcpy(&slot, header, header_length < sizeof slot ? header_length : sizeof slot);
    if (!(param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV)) {
        if (length) memcpy(slots[slot % N_SLOTS], data, length);
        n_arrived++;
        return UCS_OK;
    }
    const ucp_request_param_t how = {.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK,
                                     .cb.recv_am = on_ucx_received};
    ucs_status_ptr_t request = ucp_am_recv_data_nbx(self->worker, data, slots[slot % N_SLOTS], length, &how);
    if (UCS_PTR_IS_ERR(request)) fail("ucx, receiving", ucs_status_string(UCS_PTR_STATUS(request)));
    if (!request) n_arrived++;
    return UCS_INPROGRESS;
}

static void ucx_open(contender *self)
{
    ucp_config_t *config;
    check_ucx(ucp_config_read(NULL, NULL, &config), "ucx");
    if (self->endpoint) check_ucx(ucp_config_modify(config, "TLS", self->endpoint), "ucx");
    const ucp_params_t params = {.field_mask = UCP_PARAM_FIELD_FEATURES, .features = UCP_FEATURE_AM};
    check_ucx(ucp_init(&params, config, &self->context), "ucx");
    ucp_config_release(config);
    const ucp_worker_params_t mode = {.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE,
                                      .thread_mode = UCS_THREAD_MODE_SINGLE};
    check_ucx(ucp_worker_create(self->context, &mode, &self->worker), "ucx");
    const ucp_am_handler_param_t handler = {.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID |
                                                          UCP_AM_HANDLER_PARAM_FIELD_CB |
                                                          UCP_AM_HANDLER_PARAM_FIELD_ARG,
                                            .id = 1,
                                            .cb = on_ucx_message,
                                            .arg = self};
    check_ucx(ucp_worker_set_am_recv_handler(self->worker, &handler), "ucx");
    ucp_address_t *address;
    size_t size;
    check_ucx(ucp_worker_get_address(self->worker, &address, &size), "ucx");
    char own[TR_ADDRESS_CHARS] = "", other[TR_ADDRESS_CHARS];
    if (size > sizeof own) fail("ucx", "its address is too long");
    memcpy(own, address, size);
    ucp_worker_release_address(self->worker, address);
    exchange(own, other, sizeof own);
    const ucp_ep_params_t to = {.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS,
                                .address = (const ucp_address_t *)other};
    check_ucx(ucp_ep_create(self->worker, &to, &self->peer), "ucx");
}

static void ucx_send(contender *self, uint32_t slot, uint32_t bytes)
{
    /* Eight bytes are the message itself; a header comes with them as with larger ones. */
    const ucp_request_param_t how = {.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK, .cb.send = on_ucx_done};
    ucs_status_ptr_t request = ucp_am_send_nbx(self->peer, 1, &slot, sizeof slot, slots[slot], bytes, &how);
    if (UCS_PTR_IS_ERR(request)) fail("ucx, sending", ucs_status_string(UCS_PTR_STATUS(request)));
}

static void ucx_progress(contender *self)
{
    give_way(ucp_worker_progress(self->worker) == 0);
}

static void ucx_close(contender *self)
{
    char bye = 0, theirs;
    ucs_status_ptr_t request = ucp_worker_flush_nbx(self->worker, &(ucp_request_param_t){0});
    while (UCS_PTR_IS_PTR(request) && ucp_request_check_status(request) == UCS_INPROGRESS)
        ucp_worker_progress(self->worker);
    if (UCS_PTR_IS_PTR(request)) ucp_request_free(request);
    exchange(&bye, &theirs, 1); /* both have nothing under way */
    request = ucp_ep_close_nbx(self->peer, &(ucp_request_param_t){.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS,
                                                                  .flags = UCP_EP_CLOSE_FLAG_FORCE});
    while (UCS_PTR_IS_PTR(request) && ucp_request_check_status(request) == UCS_INPROGRESS)
        ucp_worker_progress(self->worker);
    if (UCS_PTR_IS_PTR(request)) ucp_request_free(request);
    exchange(&bye, &theirs, 1);
    ucp_worker_destroy(self->worker);
    ucp_cleanup(self->context);
}

/* ---- libzmq ---- */

static void zmq_open(contender *self)
{
    char own[256] = "", other[256];
    size_t size = sizeof own;
    self->zmq = zmq_ctx_new();
    self->socket = zmq_socket(self->zmq, ZMQ_PAIR);
    zmq_setsockopt(self->socket, ZMQ_LINGER, &(int){0}, sizeof(int));
    if (is_first && (zmq_bind(self->socket, self->endpoint) != 0 ||
                     zmq_getsockopt(self->socket, ZMQ_LAST_ENDPOINT, own, &size) != 0))
        fail("libzmq", zmq_strerror(zmq_errno()));
    exchange(own, other, sizeof own);
    if (!is_first && zmq_connect(self->socket, other) != 0) fail("libzmq", zmq_strerror(zmq_errno()));
}

static void keep(void *data, void *hint)
{
    (void)data, (void)hint;
}

/* Large bodies by reference, as its users would. */
static void zmq_post(contender *self, uint32_t slot, uint32_t bytes)
{
    zmq_msg_t message;
    if (zmq_msg_init_data(&message, slots[slot], bytes, keep, NULL) != 0 ||
        zmq_msg_send(&message, self->socket, 0) < 0)
        fail("libzmq", zmq_strerror(zmq_errno()));
}

static void zmq_take(contender *self)
{
    zmq_msg_t message;
    zmq_msg_init(&message);
    if (zmq_msg_recv(&message, self->socket, 0) < 0) fail("libzmq", zmq_strerror(zmq_errno()));
    n_arrived++;
    zmq_msg_close(&message);
}

static void zmq_end(contender *self)
{
    char bye = 0, theirs;
    exchange(&bye, &theirs, 1); /* the last answer has arrived */
    zmq_close(self->socket);
    zmq_ctx_term(self->zmq);
}

enum { OURS, HASHED, UCX, COPIES, IPC, TCP, N_CONTENDERS };
static contender contenders[N_CONTENDERS] = {
    [OURS] = {"troupe", ours_open, ours_send, ours_progress, ours_close},
    [HASHED] = {"troupe, hashed", ours_open, ours_send, ours_progress, ours_close, .hashes = true},
    [UCX] = {"bare UCX", ucx_open, ucx_send, ucx_progress, ucx_close},
    [COPIES] = {"bare UCX, copies", ucx_open, ucx_send, ucx_progress, ucx_close, .endpoint = "posix,self"},
    [IPC] = {"libzmq ipc", zmq_open, zmq_post, zmq_take, zmq_end, .endpoint = "ipc://*"},
    [TCP] = {"libzmq tcp", zmq_open, zmq_post, zmq_take, zmq_end, .endpoint = "tcp://127.0.0.1:*"},
};

/* ---- measuring ---- */

/* n messages, `credits` under way at most, each answered by `answer` bytes. Returns seconds. */
static double batch(contender *with, uint32_t n, uint32_t bytes, uint32_t answer, uint32_t credits)
{
    uint64_t begin_ns = tr_clock_ns();
    uint32_t n_sent = 0;
    n_arrived = 0;
    while (is_first && n_arrived < n) {
        while (n_sent < n && n_sent - n_arrived < credits) {
            with->send(with, n_sent % N_SLOTS, bytes);
            n_sent++;
        }
        with->progress(with);
    }
    while (!is_first && n_sent < n) {
        while (n_sent == n_arrived) with->progress(with);
        with->send(with, n_sent % N_SLOTS, answer);
        n_sent++;
    }
    return (double)(tr_clock_ns() - begin_ns) / 1e9;
}

/* A word that goes there and back in shared memory. Release and acquire: the word is all there is. */
static _Atomic uint32_t *words; /* a cache line each */

static double words_batch(uint32_t n, uint32_t *turn)
{
    uint64_t begin_ns = tr_clock_ns();
    _Atomic uint32_t *own = &words[is_first ? 0 : 16], *other = &words[is_first ? 16 : 0];
    for (uint32_t i = 0; i < n; i++) {
        uint32_t next = ++*turn;
        if (is_first) atomic_store_explicit(own, next, memory_order_release);
        for (uint32_t k = 0; atomic_load_explicit(other, memory_order_acquire) != next;)
            if (++k % 1024 == 0) sched_yield();
        if (!is_first) atomic_store_explicit(own, next, memory_order_release);
    }
    return (double)(tr_clock_ns() - begin_ns) / 1e9;
}

static samples trip[N_CONTENDERS], large[N_CONTENDERS], word, copy;

static void run(int rounds)
{
    uint32_t turn = 0;
    rows_pin(is_first ? 0 : 1);
    for (int i = 0; i < N_SLOTS; i++) {
        slots[i] = tr_alloc_aligned(4096, LARGE);
        if (!slots[i]) fail("no memory", "for buffers");
        memset(slots[i], i + 1, LARGE);
    }
    for (int c = 0; c < N_CONTENDERS; c++) contenders[c].open(&contenders[c]);
    for (int round = 0; round < rounds; round++)
        for (int c = 0; c < N_CONTENDERS; c++)
            for (int i = 0; i <= BATCHES; i++) { /* the first warms up */
                double seconds = batch(&contenders[c], c >= IPC ? TRIPS / 8 : TRIPS, 8, 8, 1);
                if (i) samples_add(&trip[c], seconds / (c >= IPC ? TRIPS / 8 : TRIPS) / 2);
                seconds = batch(&contenders[c], STREAM, LARGE, 0, N_SLOTS);
                if (i) samples_add(&large[c], seconds / STREAM);
                seconds = words_batch(TRIPS, &turn);
                if (c == OURS && i) samples_add(&word, seconds / TRIPS / 2);
                uint64_t begin_ns = tr_clock_ns();
                if (is_first && c == OURS) memcpy(slots[i % 2], slots[2 + i % 2], LARGE);
                if (is_first && c == OURS) samples_add(&copy, (double)(tr_clock_ns() - begin_ns) / 1e9);
            }
    for (int c = 0; c < N_CONTENDERS; c++) contenders[c].close(&contenders[c]);
    for (int i = 0; i < N_SLOTS; i++) tr_free(slots[i]);
}

static void report(bool json, double others)
{
    double us = 1e6, gbs = LARGE / 1e9;
    double bare = gbs / samples_median(&large[UCX]), tcp = gbs / samples_median(&large[TCP]);
    const row rows[] = {
        {"8 bytes one way between processes", "us", samples_median(&trip[OURS]) * us,
         samples_median(&trip[IPC]) * us, samples_median(&trip[UCX]) * us, 1, "libzmq ipc", "bare UCX",
         others},
        {"8 bytes one way, bare UCX", "us", samples_median(&trip[UCX]) * us, samples_median(&trip[TCP]) * us,
         samples_median(&word) * us, (double)NAN, "libzmq tcp", "a shared word", others},
        {"1 MiB between processes, no body hash", "GB/s", gbs / samples_median(&large[OURS]), tcp, bare,
         0.95 * bare, "libzmq tcp", "bare UCX", others},
        {"1 MiB between processes, body hashed", "GB/s", gbs / samples_median(&large[HASHED]), tcp, bare,
         0.85 * bare, "libzmq tcp", "bare UCX", others},
        {"1 MiB, bare UCX held to copies through shared memory", "GB/s", gbs / samples_median(&large[COPIES]),
         gbs / samples_median(&large[IPC]), gbs / samples_median(&copy), (double)NAN, "libzmq ipc",
         "one copy", others},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) row_print(&rows[i], json);
}

int main(int argc, char **argv)
{
    int rounds = 5, ends[2], status;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--rounds") == 0 && i + 1 < argc)
            rounds = atoi(argv[++i]);
        else if (strcmp(argv[i], "--json") != 0 && strcmp(argv[i], "--best") != 0)
            rounds = 0;
    }
    if (rounds < 1 || rounds > 50) {
        fprintf(stderr, "usage: links [--json] [--best] [--rounds N]\n");
        return 2;
    }
    rows_best = rows_flag(argc, argv, "--best");
    rows_load load = rows_load_begin();
    rows_processors();
    words = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (words == MAP_FAILED || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
        fail("the system", "gives no memory or socket");
    fflush(stdout);
    pid_t child = fork();
    if (child < 0) fail("the system", "starts no process");
    alarm(PATIENCE_S); /* whoever waits for a side that died */
    is_first = child > 0;
    channel = ends[is_first];
    close(ends[!is_first]);
    run(rounds);
    if (!is_first) return 0;
    close(channel);
    if (waitpid(child, &status, 0) != child || status != 0) fail("the other process", "ended badly");
    report(rows_flag(argc, argv, "--json"), rows_load_since(&load)); /* with the child's time */
    return 0;
}
