/* bench/messages.c - what a message costs between two processes of one host, over each kind of transport.
 * messages [KIND ...]: the round trip of a small message, and the bandwidth of bodies as training sends them,
 * with as many under way as an edge commonly has credits. Both sides reuse their buffers, as edges do. Batches
 * are short and many: the best tells what the transport can do, the median what it did on this machine now.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "transport/transport.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { N_SLOTS = 4, MOST_BYTES = 4 << 20, N_BATCHES = 40, BATCH_BYTES = 32 << 20, BATCH_ROUND_TRIPS = 500 };

typedef struct side {
    tr_transport *transport;
    int32_t peer;
    tr_buffer *slots[N_SLOTS];
    uint32_t n_arrived; /* wraps */
    bool is_measured;   /* the other side answers every message with an empty one */
    bool is_over;
} side;

static void must(tr_status status, const tr_error *err)
{
    if (status == TR_OK) return;
    fprintf(stderr, "messages: %s\n", err->message);
    exit(1);
}

static void post(side *self, uint32_t sequence, tr_buffer *body, uint32_t body_bytes)
{
    tr_error err;
    tr_message *message;
    must(tr_message_new(&message, body, body_bytes, &err), &err);
    message->frame.kind = TR_FRAME_DATA;
    message->frame.sequence = sequence;
    must(tr_transport_send(self->transport, self->peer, &message, &err), &err);
}

static tr_buffer *place(void *context, int32_t peer, const tr_frame *frame)
{
    (void)peer;
    return tr_buffer_retain(((side *)context)->slots[frame->sequence % N_SLOTS]);
}

static void deliver(void *context, int32_t peer, tr_message *message)
{
    side *self = context;
    (void)peer;
    self->n_arrived++;
    if (!self->is_measured) post(self, message->frame.sequence, NULL, 0);
    tr_message_destroy(&message);
}

static void lose(void *context, int32_t peer, const char *reason)
{
    (void)peer;
    (void)reason;
    ((side *)context)->is_over = true;
}

/* Makes this side, tells the other where it is, and connects. */
static void begin(side *self, const char *kind, int channel, bool is_measured)
{
    tr_error err;
    char address[TR_ADDRESS_CHARS] = "";
    const tr_transport_options options = {.node = is_measured ? 1 : 2, .max_body_bytes = MOST_BYTES};
    const tr_transport_events events = {self, place, deliver, lose, NULL};
    *self = (side){.peer = is_measured ? 2 : 1, .is_measured = is_measured};
    must(tr_transport_new(&self->transport, kind, &options, &events, &err), &err);
    for (int i = 0; i < N_SLOTS; i++) {
        must(tr_buffer_new(&self->slots[i], MOST_BYTES, &err), &err);
        memset(self->slots[i]->data, 1, MOST_BYTES);
    }
    snprintf(address, sizeof address, "%s", tr_transport_address(self->transport));
    if (write(channel, address, sizeof address) != sizeof address ||
        recv(channel, address, sizeof address, MSG_WAITALL) != sizeof address)
        exit(1);
    must(tr_transport_connect(self->transport, self->peer, address, &err), &err);
}

static void end(side *self)
{
    tr_transport_destroy(&self->transport);
    for (int i = 0; i < N_SLOTS; i++) tr_buffer_release(&self->slots[i]);
}

static void progress(side *self)
{
    if (tr_transport_progress(self->transport) == 0) sched_yield();
}

/* Sends n messages, `credits` under way at most. Returns nanoseconds. */
static uint64_t batch(side *self, uint32_t n, uint32_t body_bytes, uint32_t credits)
{
    uint64_t begin_ns = tr_clock_ns();
    self->n_arrived = 0;
    for (uint32_t n_sent = 0; self->n_arrived < n && !self->is_over;) {
        while (n_sent < n && n_sent - self->n_arrived < credits) {
            post(self, n_sent, tr_buffer_retain(self->slots[n_sent % N_SLOTS]), body_bytes);
            n_sent++;
        }
        progress(self);
    }
    if (self->is_over) exit(1);
    return tr_clock_ns() - begin_ns;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Nanoseconds of one message: the best batch's and the median's. */
static void measure(side *self, uint32_t n, uint32_t body_bytes, uint32_t credits, double *best,
                    double *median)
{
    double ns[N_BATCHES];
    batch(self, n, body_bytes, credits); /* connections are made, mappings cached */
    for (int i = 0; i < N_BATCHES; i++) ns[i] = (double)batch(self, n, body_bytes, credits) / n;
    qsort(ns, N_BATCHES, sizeof *ns, by_value);
    *best = ns[0];
    *median = ns[N_BATCHES / 2];
}

static void run_measured(const char *kind, int channel)
{
    static const uint32_t sizes[] = {64 << 10, 256 << 10, 1 << 20, 4 << 20};
    side self;
    double best, median;
    begin(&self, kind, channel, true);
    measure(&self, BATCH_ROUND_TRIPS, 64, 1, &best, &median);
    printf("%-8s %10s %9.1f us   %9.1f us   round trip\n", kind, "64 B", best / 1e3, median / 1e3);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        measure(&self, BATCH_BYTES / sizes[i], sizes[i], N_SLOTS, &best, &median);
        printf("%-8s %6u KiB %9.2f GB/s %9.2f GB/s\n", kind, sizes[i] >> 10, sizes[i] / best,
               sizes[i] / median);
    }
    end(&self);
}

static void run_other(const char *kind, int channel)
{
    side self;
    begin(&self, kind, channel, false);
    while (!self.is_over && recv(channel, &(char){0}, 1, MSG_DONTWAIT) != 0) progress(&self);
    end(&self);
}

/* Both sides are children, so that no library outlives its measurement. */
static bool run(const char *kind)
{
    int channel[2], status, n_well = 0;
    fflush(stdout);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, channel) != 0) return false;
    for (int i = 0; i < 2; i++) {
        if (fork() != 0) continue;
        close(channel[1 - i]);
        if (i == 0) run_measured(kind, channel[i]);
        if (i == 1) run_other(kind, channel[i]);
        exit(0);
    }
    close(channel[0]);
    close(channel[1]);
    while (wait(&status) > 0) n_well += status == 0;
    return n_well == 2;
}

int main(int argc, char **argv)
{
    static char *kinds[] = {"messages", "ucx", "zmq"};
    int n_kinds = argc > 1 ? argc : 3;
    char **names = argc > 1 ? argv : kinds;
    bool well = true;
    printf("%-8s %10s %12s   %12s\n", "kind", "body", "best", "median");
    for (int i = 1; i < n_kinds; i++) well = run(names[i]) && well;
    return well ? 0 : 1;
}
