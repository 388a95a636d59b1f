/* bench/actors.c - what a message between two actors of one process costs.
 * actors [--json] [--best] [--spin] [--rounds N]
 *   same core: two actors on one scheduler thread answer each other; a message is allocated, takes a credit, goes through
 *     a mailbox, makes its receiver run, is handled, and gives its credit back. Also in bursts, where one run handles many.
 *   two cores: the same between two nodes, each a thread on a processor of its own; there and back.
 *   two workers: two pairs of actors stream along an edge of 256 credits, on a node of two scheduler threads; sum of both.
 * Beside each: libzmq's inproc sockets doing the same, and a ring of pointers without any actor, which is what the machine
 * itself needs. All take turns, and the medians of short batches are told. Threads spin where the runtime would (base/spin.h:
 * not on a busy machine); --spin: always. --best: the best batches instead, for a machine that is shared.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/spin.h"
#include "bench/rows.h"
#include "runtime/node.h"

#include <stdatomic.h>
#include <zmq.h>

enum { BATCH = 5000, TRIPS = 200, BATCHES = 100, BURST = 64, STREAM_SLOTS = 256 };

static void must(tr_status status, const tr_error *err)
{
    if (status == TR_OK) return;
    fprintf(stderr, "actors: %s\n", err->message);
    exit(1);
}

/* ---- may threads spin? The linker puts the first in the place of the second (bench/CMakeLists.txt). ---- */

static bool always_spin;
bool __wrap_tr_spin_allowed(void); /* NOLINT(bugprone-reserved-identifier): the linker's names */
bool __real_tr_spin_allowed(void); /* NOLINT(bugprone-reserved-identifier) */
bool __wrap_tr_spin_allowed(void)
{
    return always_spin || __real_tr_spin_allowed();
}

/* ---- actors ---- */

typedef struct course {
    bool streams;     /* else each message is answered */
    uint32_t n_batch; /* messages (or round trips) of a batch */
    uint32_t n_pairs;
    samples *seconds; /* of each batch; of a stream, a message of all pairs together, one sample a job */
} course;

static course now_on;
static atomic_int n_pairs_done;        /* relaxed: only counts, as do these */
static _Atomic uint64_t n_batches_all; /* of all pairs, since began_ns */
static _Atomic uint64_t began_ns;

typedef struct player {
    uint32_t in, out, n, n_batches;
    bool measures;
    uint64_t begin_ns;
} player;

static tr_status player_init(tr_actor *self, void *context, const void *config, size_t config_bytes,
                             void **state, tr_error *err)
{
    (void)context, (void)config, (void)config_bytes, (void)err;
    player *p = calloc(1, sizeof *p);
    if (!p) return TR_ENOMEM;
    p->in = tr_edge_in(self, "ball", 0);
    p->out = tr_edge_out(self, "ball", 0);
    p->measures = now_on.streams ? p->in != TR_NO_EDGE : strcmp(tr_actor_name(self), "first") == 0;
    *state = p;
    return TR_OK;
}

static void player_start(tr_actor *self, void *state)
{
    player *p = state;
    p->begin_ns = tr_clock_ns();
    if (!now_on.streams && p->measures) tr_edge_send(self, p->out, NULL, 0, 0, 0, 0);
}

/* The first batch of each pair warms up. A pair of a stream goes on until the last one is done, and all of it counts. */
static bool count(tr_actor *self, player *p)
{
    if (++p->n < now_on.n_batch) return true;
    uint64_t end_ns = tr_clock_ns(), none = 0;
    p->n = 0;
    if (++p->n_batches == 1) {
        atomic_compare_exchange_strong_explicit(&began_ns, &none, end_ns, memory_order_relaxed,
                                                memory_order_relaxed);
        p->begin_ns = end_ns;
        return true;
    }
    uint64_t n_all = atomic_fetch_add_explicit(&n_batches_all, 1, memory_order_relaxed) + 1;
    if (!now_on.streams) samples_add(now_on.seconds, (double)(end_ns - p->begin_ns) / 1e9);
    p->begin_ns = end_ns;
    if (p->n_batches == BATCHES + 1 &&
        atomic_fetch_add_explicit(&n_pairs_done, 1, memory_order_relaxed) + 1 == (int)now_on.n_pairs) {
        double seconds = (double)(end_ns - atomic_load_explicit(&began_ns, memory_order_relaxed)) / 1e9;
        if (now_on.streams) samples_add(now_on.seconds, seconds / (double)(n_all * now_on.n_batch));
        tr_actor_finish_job(self);
    }
    return p->n_batches <= BATCHES || now_on.streams;
}

static void player_receive(tr_actor *self, void *state, tr_message **message)
{
    player *p = state;
    tr_edge_release(self, message);
    bool goes_on = !p->measures || count(self, p);
    if (goes_on && !now_on.streams) tr_edge_send(self, p->out, NULL, 0, 0, 0, 0);
}

/* A stream's source sends whenever it may. */
static bool player_idle(tr_actor *self, void *state)
{
    player *p = state;
    uint32_t n = now_on.streams && p->out != TR_NO_EDGE ? tr_edge_credits(self, p->out) : 0;
    for (uint32_t i = 0; i < n; i++) tr_edge_send(self, p->out, NULL, 0, 0, 0, 0);
    return n > 0;
}

static void player_stop(tr_actor *self, void *state)
{
    (void)self;
    free(state);
}

static const tr_behavior answers = {.name = "answers",
                                    .init = player_init,
                                    .start = player_start,
                                    .receive = player_receive,
                                    .stop = player_stop};
static const tr_behavior streams = {.name = "streams",
                                    .init = player_init,
                                    .start = player_start,
                                    .receive = player_receive,
                                    .idle = player_idle,
                                    .stop = player_stop};
static const tr_actor_kind kinds[] = {{"answers", &answers, NULL}, {"streams", &streams, NULL}};
static const tr_registry registry = {kinds, 2};

static tr_node *nodes[2];
static int n_nodes;

static void on_job_end(void *context, const tr_error *error)
{
    (void)context, (void)error;
    for (int i = 0; i < n_nodes; i++) tr_node_stop(nodes[i]);
}

static void on_tick(void *context, uint64_t now_ns)
{
    (void)context, (void)now_ns;
    tr_spin_sample();
}

static void *run_node(void *argument)
{
    if (n_nodes == 2) rows_pin(argument == nodes[1]);
    tr_node_run(argument, 100, on_tick);
    return NULL;
}

/* One job of `pairs` pairs of actors over so many nodes and threads a node. */
static void play(int nodes_wanted, int threads, course what, uint32_t n_slots)
{
    tr_error err;
    tr_topology topology;
    n_nodes = nodes_wanted;
    now_on = what;
    atomic_store_explicit(&n_pairs_done, 0, memory_order_relaxed);
    atomic_store_explicit(&n_batches_all, 0, memory_order_relaxed);
    atomic_store_explicit(&began_ns, 0, memory_order_relaxed);
    tr_topology_init(&topology, n_nodes);
    for (uint32_t pair = 0; pair < what.n_pairs; pair++) {
        tr_actor_id first, second;
        uint32_t edge;
        const char *kind = what.streams ? "streams" : "answers";
        must(tr_topology_add_actor(&topology, "first", kind, 0, NULL, 0, 0, &first, &err), &err);
        must(tr_topology_add_actor(&topology, "second", kind, n_nodes - 1, NULL, 0, 0, &second, &err), &err);
        must(tr_topology_add_edge(&topology, "ball", first, second, n_slots, 0, &edge, &err), &err);
        if (!what.streams)
            must(tr_topology_add_edge(&topology, "ball", second, first, n_slots, 0, &edge, &err), &err);
    }
    for (int i = 0; i < n_nodes; i++) {
        const tr_node_options options = {.node = i,
                                         .epoch = 1,
                                         .incarnation = 1,
                                         .n_threads = threads,
                                         .data_transport = n_nodes > 1 ? "inproc" : NULL,
                                         .control_transport = n_nodes > 1 ? "inproc" : NULL,
                                         .registry = &registry,
                                         .may_spin = true,
                                         .on_job_end = on_job_end};
        must(tr_node_new(&nodes[i], &options, &err), &err);
    }
    if (n_nodes > 1)
        must(tr_node_connect(nodes[0], 1, tr_node_control_address(nodes[1]), tr_node_data_address(nodes[1]),
                             &err),
             &err);
    for (int i = 0; i < n_nodes; i++) must(tr_node_load(nodes[i], &topology, NULL, &err), &err);
    pthread_t threads_of_nodes[2];
    for (int i = n_nodes - 1; i >= 0; i--) {
        tr_node_start_actors(nodes[i]);
        if (pthread_create(&threads_of_nodes[i], NULL, run_node, nodes[i]) != 0) exit(1);
    }
    for (int i = 0; i < n_nodes; i++) pthread_join(threads_of_nodes[i], NULL);
    for (int i = 0; i < n_nodes; i++) tr_node_destroy(&nodes[i]);
    tr_topology_release(&topology);
}

/* ---- queues without actors ---- */

/* On one core: the least that many senders and one receiver need, an exchange and two stores a message. */
typedef struct link {
    _Atomic(struct link *) next;
} link;

static void queue_on_one_core(samples *out)
{
    link stub = {NULL}, things[2] = {{NULL}, {NULL}};
    link *oldest = &stub;
    _Atomic(link *) newest = &stub;
    uint64_t begin_ns = tr_clock_ns();
    for (uint32_t i = 0; i < BATCH; i++) {
        link *thing = &things[i % 2];
        atomic_store_explicit(&thing->next, NULL, memory_order_relaxed);
        link *before =
            atomic_exchange_explicit(&newest, thing, memory_order_acq_rel); /* orders the senders */
        atomic_store_explicit(&before->next, thing, memory_order_release);  /* pairs with the load below */
        oldest = atomic_load_explicit(&oldest->next, memory_order_acquire);
        if (!oldest) exit(1);
    }
    samples_add(out, (double)(tr_clock_ns() - begin_ns) / 1e9);
}

/* Between cores: a ring of pointers, one writer, one reader. */
enum { RING = 1024 };
typedef struct ring {
    _Alignas(64) _Atomic uint32_t head; /* the reader's; release: the place is free. acquire in push */
    _Alignas(64) _Atomic uint32_t tail; /* the writer's; release: the place is filled. acquire in pop */
    _Alignas(64) void *places[RING];
} ring;
static ring rings[2];

static bool push(ring *self, void *what)
{
    uint32_t tail = atomic_load_explicit(&self->tail, memory_order_relaxed);
    if (tail - atomic_load_explicit(&self->head, memory_order_acquire) == RING) return false;
    self->places[tail % RING] = what;
    atomic_store_explicit(&self->tail, tail + 1, memory_order_release);
    return true;
}

static void *pop(ring *self)
{
    uint32_t head = atomic_load_explicit(&self->head, memory_order_relaxed);
    if (head == atomic_load_explicit(&self->tail, memory_order_acquire)) return NULL;
    void *what = self->places[head % RING];
    atomic_store_explicit(&self->head, head + 1, memory_order_release);
    return what;
}

static void wait_a_little(uint32_t *n)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
    if (++*n % 4096 == 0) sched_yield(); /* where there is one processor for both */
}

static void push_wait(ring *self, void *what)
{
    for (uint32_t n = 0; !push(self, what);) wait_a_little(&n);
}

static void *pop_wait(ring *self)
{
    void *what;
    for (uint32_t n = 0; !(what = pop(self));) wait_a_little(&n);
    return what;
}

/* Two threads that answer each other, or of which one sends and the other receives. */
typedef struct duel {
    uint32_t n; /* messages, or round trips */
    bool is_stream;
    void (*send)(void *context, int side);
    void (*receive)(void *context, int side);
    void *context;
    atomic_bool ready; /* the other thread is there; orders nothing else */
} duel;

static void *duel_other(void *argument)
{
    duel *self = argument;
    rows_pin(1);
    atomic_store_explicit(&self->ready, true, memory_order_relaxed);
    for (uint32_t i = 0; i < self->n; i++) {
        self->receive(self->context, 1);
        if (!self->is_stream) self->send(self->context, 1);
    }
    return NULL;
}

static void fight(duel *self, samples *out)
{
    pthread_t other;
    uint32_t n = 0;
    rows_pin(0);
    if (pthread_create(&other, NULL, duel_other, self) != 0) exit(1);
    while (!atomic_load_explicit(&self->ready, memory_order_relaxed)) wait_a_little(&n);
    uint64_t begin_ns = tr_clock_ns();
    for (uint32_t i = 0; i < self->n; i++) {
        self->send(self->context, 0);
        if (!self->is_stream) self->receive(self->context, 0);
    }
    pthread_join(other, NULL); /* some microseconds of a stream of milliseconds */
    samples_add(out, (double)(tr_clock_ns() - begin_ns) / 1e9);
    rows_pin(-1);
}

static void ring_send(void *context, int side)
{
    push_wait(&rings[side], context);
}

static void ring_receive(void *context, int side)
{
    (void)context;
    pop_wait(&rings[!side]);
}

/* ---- libzmq, inproc: a stream waits for messages as its users do, round trips spin, which is faster ---- */

static void socket_send(void *context, int side)
{
    uint64_t word = 1;
    if (zmq_send(((void **)context)[side], &word, sizeof word, 0) < 0) exit(1);
}

static void socket_wait(void *context, int side)
{
    uint64_t word;
    if (zmq_recv(((void **)context)[side], &word, sizeof word, 0) < 0) exit(1);
}

static void socket_spin(void *context, int side)
{
    uint64_t word;
    for (uint32_t n = 0; zmq_recv(((void **)context)[side], &word, sizeof word, ZMQ_DONTWAIT) < 0;)
        wait_a_little(&n);
}

static void sockets_on_one_core(void *sockets, samples *out)
{
    uint64_t begin_ns = tr_clock_ns();
    for (uint32_t i = 0; i < BATCH; i++) {
        socket_send(sockets, 0);
        socket_wait(sockets, 1);
    }
    samples_add(out, (double)(tr_clock_ns() - begin_ns) / 1e9);
}

/* ---- all of it ---- */

static samples same_core, burst, trips, stream, bare_same, bare_trips, bare_stream, zmq_same, zmq_trips,
    zmq_stream;

static void measure_peers(void *context)
{
    void *sockets[2];
    for (int i = 0; i < 2; i++) sockets[i] = zmq_socket(context, ZMQ_PAIR);
    if (zmq_bind(sockets[0], "inproc://duel") != 0 || zmq_connect(sockets[1], "inproc://duel") != 0) exit(1);
    for (int i = 0; i < 10; i++) {
        queue_on_one_core(&bare_same);
        sockets_on_one_core(sockets, &zmq_same);
        fight(&(duel){TRIPS, false, ring_send, ring_receive, rings, false}, &bare_trips);
        fight(&(duel){TRIPS, false, socket_send, socket_spin, sockets, false}, &zmq_trips);
        fight(&(duel){20 * BATCH, true, ring_send, ring_receive, rings, false}, &bare_stream);
        fight(&(duel){20 * BATCH, true, socket_send, socket_wait, sockets, false}, &zmq_stream);
    }
    zmq_close(sockets[0]);
    zmq_close(sockets[1]);
}

int main(int argc, char **argv)
{
    int n_rounds = 5;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--rounds") == 0 && i + 1 < argc)
            n_rounds = atoi(argv[++i]);
        else if (strcmp(argv[i], "--json") != 0 && strcmp(argv[i], "--best") != 0 &&
                 strcmp(argv[i], "--spin") != 0)
            n_rounds = 0;
    }
    if (n_rounds < 1 || n_rounds > 50) {
        fprintf(stderr, "usage: actors [--json] [--best] [--spin] [--rounds N]\n");
        return 2;
    }
    bool json = rows_flag(argc, argv, "--json");
    rows_best = rows_flag(argc, argv, "--best");
    always_spin = rows_flag(argc, argv, "--spin");
    for (int i = 0; i < 12; i++) tr_spin_sample();
    rows_load load = rows_load_begin();
    rows_processors();
    void *context = zmq_ctx_new();
    for (int round = 0; round < n_rounds; round++) {
        play(1, 1, (course){false, BATCH / 2, 1, &same_core}, 4);
        play(1, 1, (course){true, BATCH, 1, &burst}, BURST);
        play(2, 1, (course){false, TRIPS, 1, &trips}, 4);
        for (int i = 0; i < 4; i++) play(1, 2, (course){true, BATCH, 2, &stream}, STREAM_SLOTS);
        measure_peers(context);
    }
    zmq_ctx_term(context);
    double others = rows_load_since(&load);
    double bare_ns = samples_median(&bare_same) / BATCH * 1e9,
           zmq_ns = samples_median(&zmq_same) / BATCH * 1e9;
    const row rows[] = {
        {"dispatch of one message on the same core", "ns", samples_median(&same_core) / BATCH * 1e9, zmq_ns,
         bare_ns, 40, "libzmq inproc", "bare queue", others},
        {"a message of a burst of 64 on the same core", "ns", samples_median(&burst) * 1e9, zmq_ns, bare_ns,
         (double)NAN, "libzmq inproc", "bare queue", others},
        {"round trip between two cores", "ns", samples_median(&trips) / TRIPS * 1e9,
         samples_median(&zmq_trips) / TRIPS * 1e9, samples_median(&bare_trips) / TRIPS * 1e9, 250,
         "libzmq inproc", "spinning queue", others},
        {"messages a second, two workers", "M/s", 1e-6 / samples_median(&stream),
         10.0 * BATCH / samples_median(&zmq_stream) / 1e6, 10.0 * BATCH / samples_median(&bare_stream) / 1e6,
         20, "libzmq inproc", "bare queue", others},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) row_print(&rows[i], json);
    return 0;
}
