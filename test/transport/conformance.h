/* test/transport/conformance.h - what every transport promises, whatever its kind. The includer defines
 * CONFORMANCE_KIND ("inproc") and CONFORMANCE_IN_ORDER (1 where frames of a link keep their order), and where they
 * apply:
 *   CONFORMANCE_PROCESSES      peers may live in other processes (conformance_peers.h)
 *   CONFORMANCE_SEES_STOPPED   1 where a peer that is stopped is lost after its heartbeat, 0 where it is waited for
 *   CONFORMANCE_RAW            a peer can be played by hand, frame by frame: see conformance_hostile.h
 *   CONFORMANCE_KEY            its peers have a key (fixture.h)
 * Then it puts CONFORMANCE_TESTS into its table and uses CONFORMANCE_MAIN. A case that makes no sense for a kind is run
 * all the same, and says so. A peer in another process is this executable, started again with "peer" as its first
 * argument.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TEST_TRANSPORT_CONFORMANCE_H
#define TROUPE_TEST_TRANSPORT_CONFORMANCE_H

#include "transport/conformance_damage.h"
#include "transport/conformance_disturb.h"
#include "transport/conformance_renewal.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

static void unknown_kinds_and_peers_are_refused(void)
{
    tr_error err;
    tr_transport *none = NULL;
    const tr_transport_options options = options_of(1);
    const tr_transport_events events = {0};
    CU_ASSERT_EQUAL(tr_transport_new(&none, "pigeon", &options, &events, &err), TR_EINVAL);
    CU_ASSERT_PTR_NULL(none);
    node *a = node_new(1);
    CU_ASSERT_EQUAL(try_send(a, 2, 0, "x", 1), TR_ECLOSED);
    CU_ASSERT_NOT_EQUAL(tr_transport_connect(a->transport, 2, "no address at all", &err), TR_OK);
    CU_ASSERT_EQUAL(try_send(a, 2, 0, "x", 1), TR_ECLOSED);
    node_destroy(&a);
}

static void frames_arrive_once_and_in_order(void)
{
    enum { N_FRAMES = 100000 };
    node *a = node_new(1), *b = node_new(2);
    node_connect(a, b);
    for (uint32_t i = 0; i < N_FRAMES; i++) {
        node_send(a, b, i, &i, sizeof i);
        if (i % 64 == 63) progress_all((node *[]){a, b, NULL});
    }
    PROGRESS_UNTIL(b->n_arrived == N_FRAMES, PATIENCE_MS, a, b);
    char *seen = tr_alloc_zero(N_FRAMES, 1);
    uint32_t next = 0;
    for (tr_message *message; (message = node_take(b)); tr_message_destroy(&message)) {
        uint32_t sequence = message->frame.sequence, body;
        memcpy(&body, tr_message_bytes(message), sizeof body);
        CU_ASSERT_FATAL(sequence < N_FRAMES && !seen[sequence] && body == sequence);
        if (CONFORMANCE_IN_ORDER) CU_ASSERT_EQUAL_FATAL(sequence, next++);
        seen[sequence] = 1;
    }
    tr_free(seen);
    CU_ASSERT_EQUAL(b->last_peer, 1);
    PROGRESS_UNTIL(tr_transport_unsent(a->transport) == 0, PATIENCE_MS, a, b);
    CU_ASSERT_EQUAL(tr_transport_count(a->transport).frames_sent, N_FRAMES);
    CU_ASSERT_EQUAL(tr_transport_count(b->transport).frames_received, N_FRAMES);
    CU_ASSERT_EQUAL(tr_transport_count(b->transport).bytes_received,
                    N_FRAMES * (uint64_t)(TR_FRAME_BYTES + 4));
    CU_ASSERT_EQUAL(tr_transport_count(b->transport).refused, 0);
    node_destroy(&a);
    node_destroy(&b);
}

static unsigned char pattern(uint32_t size_bytes, uint32_t i)
{
    return (unsigned char)(size_bytes * 7 + i * 13 + (i >> 8));
}

static bool body_is_right(const tr_message *message, uint32_t size_bytes)
{
    if (message->frame.body_bytes != size_bytes || (size_bytes == 0) != !message->body) return false;
    const unsigned char *bytes = tr_message_bytes(message);
    for (uint32_t i = 0; i < size_bytes; i++)
        if (bytes[i] != pattern(size_bytes, i)) return false;
    return true;
}

static void send_sizes(const tr_transport_options *options_a, const tr_transport_options *options_b)
{
    static const uint32_t sizes[] = {
        0, 1, 63, 64, 65, 4095, 4096, 8192, 65537, 256 << 10, (256 << 10) + 1, 1 << 20, MAX_BODY_BYTES};
    node *a = node_with(options_a), *b = node_with(options_b);
    node_connect(a, b);
    unsigned char *bytes = tr_alloc(MAX_BODY_BYTES);
    for (size_t k = 0; k < 2 * sizeof sizes / sizeof *sizes; k++) {
        uint32_t size = sizes[k / 2];
        node *from = k % 2 ? b : a, *to = k % 2 ? a : b;
        for (uint32_t i = 0; i < size; i++) bytes[i] = pattern(size, i);
        node_send(from, to, (uint32_t)k, bytes, size);
        PROGRESS_UNTIL(to->first != NULL, PATIENCE_MS, a, b);
        tr_message *message = node_take(to);
        CU_ASSERT_PTR_NOT_NULL_FATAL(message);
        CU_ASSERT(body_is_right(message, size));
        tr_message_destroy(&message);
    }
    tr_free(bytes);
    PROGRESS_UNTIL(!tr_transport_unsent(a->transport) && !tr_transport_unsent(b->transport), PATIENCE_MS, a,
                   b);
    node_destroy(&a);
    node_destroy(&b);
}

static void bodies_of_all_sizes_arrive_whole_both_ways(void)
{
    tr_transport_options options_a = options_of(1), options_b = options_of(2);
    send_sizes(&options_a, &options_b);
    options_a.hash_bodies = options_b.hash_bodies = true;
    send_sizes(&options_a, &options_b);
}

static void body_without_a_place_or_too_large_is_dropped(void)
{
    tr_transport_options options = options_of(2);
    options.max_body_bytes = 100000;
    node *a = node_new(1), *b = node_with(&options);
    node_connect(a, b);
    static char bytes[199999]; /* beyond twice the limit a transport may cut the connection */
    node_send(a, b, 0, bytes, 100001);
    node_send(a, b, 1, bytes, sizeof bytes);
    PROGRESS_UNTIL(tr_transport_count(b->transport).refused == 2, PATIENCE_MS, a, b);
    if (strcmp(CONFORMANCE_KIND, "inproc") != 0) { /* which never asks for a place */
        b->places_nothing = true;
        node_send(a, b, 2, bytes, 100000);
        node_send(a, b, 3, bytes, 1);
        PROGRESS_UNTIL(tr_transport_count(b->transport).refused == 4, PATIENCE_MS, a, b);
        b->places_nothing = false;
    }
    CU_ASSERT_EQUAL(b->n_arrived, 0);
    node_send(a, b, 4, bytes, 100000); /* and the link still works */
    PROGRESS_UNTIL(b->n_arrived == 1 && tr_transport_unsent(a->transport) == 0, PATIENCE_MS, a, b);
    CU_ASSERT_EQUAL(a->n_lost + b->n_lost, 0);
    node_destroy(&a);
    node_destroy(&b);
}

static void both_sides_may_connect(void)
{
    node *a = node_new(1), *b = node_new(2);
    node_connect(a, b);
    node_connect(b, a);
    node_connect(a, b);
    for (uint32_t i = 0; i < 100; i++) {
        node_send(a, b, i, &i, sizeof i);
        node_send(b, a, i, &i, sizeof i);
        if (i == 50) progress_all((node *[]){a, b, NULL});
    }
    PROGRESS_UNTIL(a->n_arrived == 100 && b->n_arrived == 100, PATIENCE_MS, a, b);
    CU_ASSERT_EQUAL(a->last_peer, 2);
    CU_ASSERT_EQUAL(b->last_peer, 1);
    CU_ASSERT_EQUAL(a->n_lost + b->n_lost, 0);
    node_destroy(&a);
    node_destroy(&b);
}

static void many_senders_reach_one_receiver(void)
{
    enum { N_SENDERS = 5, N_EACH = 300 };
    node *hub = node_new(0), *spokes[N_SENDERS];
    for (int i = 0; i < N_SENDERS; i++) {
        spokes[i] = node_new(i + 1);
        node_connect(spokes[i], hub);
        for (uint32_t k = 0; k < N_EACH; k++) node_send(spokes[i], hub, k, spokes[i], k);
    }
    PROGRESS_UNTIL(hub->n_arrived == N_SENDERS * N_EACH, PATIENCE_MS, hub, spokes[0], spokes[1], spokes[2],
                   spokes[3], spokes[4]);
    int n_from[N_SENDERS] = {0};
    for (tr_message *message; (message = node_take(hub)); tr_message_destroy(&message))
        n_from[message->frame.source - 1]++;
    for (int i = 0; i < N_SENDERS; i++) {
        CU_ASSERT_EQUAL(n_from[i], N_EACH);
        node_send(hub, spokes[i], 0, NULL, 0); /* the hub learned of them from their greetings */
    }
    PROGRESS_UNTIL(spokes[0]->n_arrived && spokes[1]->n_arrived && spokes[2]->n_arrived &&
                       spokes[3]->n_arrived && spokes[4]->n_arrived,
                   PATIENCE_MS, hub, spokes[0], spokes[1], spokes[2], spokes[3], spokes[4]);
    for (int i = 0; i < N_SENDERS; i++) node_destroy(&spokes[i]);
    PROGRESS_UNTIL(hub->n_lost == N_SENDERS, PATIENCE_MS, hub);
    node_destroy(&hub);
}

static void peer_with_another_key_is_refused(void)
{
    tr_transport_options options = options_of(1);
    options.job_key[3] ^= 1;
    node *a = node_with(&options), *b = node_new(2);
    node_connect(a, b);
    try_send(a, 2, 0, "let me in", 9);
    PROGRESS_UNTIL(tr_transport_count(b->transport).refused >= 1 && a->n_lost == 1, PATIENCE_MS, a, b);
    CU_ASSERT_EQUAL(b->n_arrived, 0);
    CU_ASSERT_EQUAL(try_send(b, 1, 0, "x", 1), TR_ECLOSED);
    CU_ASSERT_EQUAL(try_send(a, 2, 0, "x", 1), TR_ECLOSED);
    CU_ASSERT_PTR_NOT_NULL(strstr(a->lost_reason, "refused"));
    node_destroy(&a);
    node_destroy(&b);
}

static void peer_looking_for_another_node_is_refused(void)
{
    tr_error err;
    node *a = node_new(1), *b = node_new(2);
    CHECK_OK(tr_transport_connect(a->transport, 3, tr_transport_address(b->transport), &err));
    PROGRESS_UNTIL(tr_transport_count(b->transport).refused >= 1 && a->n_lost == 1, PATIENCE_MS, a, b);
    node_destroy(&a);
    node_destroy(&b);
}

static void destroyed_peer_is_reported_once_and_may_come_again(void)
{
    tr_transport_options options = options_of(2);
    node *a = node_new(1), *b = node_new(2);
    node_connect(a, b);
    node_send(a, b, 0, "x", 1);
    PROGRESS_UNTIL(b->n_arrived == 1, PATIENCE_MS, a, b);
    node_send(b, a, 0, "x", 1);
    PROGRESS_UNTIL(a->n_arrived == 1, PATIENCE_MS, a, b);
    node_destroy(&b);
    PROGRESS_UNTIL(a->n_lost == 1, PATIENCE_MS, a);
    CU_ASSERT_EQUAL(a->lost_peer, 2);
    CU_ASSERT_EQUAL(try_send(a, 2, 0, "x", 1), TR_ECLOSED);
    options.incarnation = 2;
    b = node_with(&options);
    node_connect(b, a);
    node_send(b, a, 0, "x", 1);
    PROGRESS_UNTIL(a->n_arrived == 2, PATIENCE_MS, a, b);
    node_send(a, b, 0, "x", 1);
    PROGRESS_UNTIL(b->n_arrived == 1, PATIENCE_MS, a, b);
    options.incarnation = 1; /* a zombie */
    node *old = node_with(&options);
    node_connect(old, a);
    PROGRESS_UNTIL(old->n_lost == 1, PATIENCE_MS, a, b, old);
    CU_ASSERT_EQUAL(a->n_lost, 1);
    node_send(b, a, 1, "x", 1);
    PROGRESS_UNTIL(a->n_arrived == 3, PATIENCE_MS, a, b, old);
    node_destroy(&old);
    node_destroy(&a);
    node_destroy(&b);
}

static void disconnecting_is_quiet_here_and_seen_there(void)
{
    node *a = node_new(1), *b = node_new(2);
    node_connect(a, b);
    node_send(a, b, 0, "x", 1);
    PROGRESS_UNTIL(b->n_arrived == 1, PATIENCE_MS, a, b);
    node_send(b, a, 0, "x", 1);
    PROGRESS_UNTIL(a->n_arrived == 1, PATIENCE_MS, a, b);
    tr_transport_disconnect(a->transport, 2);
    CU_ASSERT_EQUAL(try_send(a, 2, 0, "x", 1), TR_ECLOSED);
    PROGRESS_UNTIL(b->n_lost == 1, PATIENCE_MS, a, b);
    CU_ASSERT_EQUAL(a->n_lost, 0);
    node_connect(a, b);
    node_send(a, b, 1, "again", 5);
    PROGRESS_UNTIL(b->n_arrived == 2, PATIENCE_MS, a, b);
    node_destroy(&a);
    node_destroy(&b);
}

static void count_release(void *context)
{
    __atomic_add_fetch((int *)context, 1, __ATOMIC_RELAXED);
}

static void destroying_releases_every_body(void)
{
    enum { N = 30, SIZE = 300000 };
    static char bytes[SIZE];
    tr_error err;
    int n_released = 0;
    node *a = node_new(1), *b = node_new(2);
    node_connect(a, b);
    for (int i = 0; i < N; i++) {
        tr_buffer *body;
        tr_message *message;
        CHECK_OK(tr_buffer_wrap(&body, bytes, SIZE, count_release, &n_released, &err));
        CHECK_OK(tr_message_new(&message, body, SIZE, &err));
        message->frame.kind = TR_FRAME_DATA;
        CHECK_OK(tr_transport_send(a->transport, 2, &message, &err));
        if (i == N / 2) PROGRESS_UNTIL(b->n_arrived > 0, PATIENCE_MS, a, b);
    }
    uint64_t start_ns = tr_clock_ns();
    node_destroy(&a); /* with most of them on their way */
    CU_ASSERT(tr_clock_ns() - start_ns < 3000000000u);
    node_destroy(&b);
    CU_ASSERT_EQUAL(__atomic_load_n(&n_released, __ATOMIC_RELAXED), N);
}

/* Credits are played by answers of one byte: the transport itself queues whatever it is given. */
enum { WINDOW = 8, LONG_BYTES = 256 << 10, N_LONG = 64 };

static void send_long(node *from, const node *to, uint32_t sequence, unsigned char *slot, int *n_released)
{
    tr_error err;
    tr_buffer *body;
    tr_message *message;
    memset(slot, (int)sequence, LONG_BYTES);
    CHECK_OK(tr_buffer_wrap(&body, slot, LONG_BYTES, count_release, n_released, &err));
    CHECK_OK(tr_message_new(&message, body, LONG_BYTES, &err));
    message->frame.kind = TR_FRAME_DATA;
    message->frame.sequence = sequence;
    CU_ASSERT_EQUAL(tr_transport_send(from->transport, to->number, &message, NULL), TR_OK);
}

static void exchange(node *a, node *b, int n_rounds)
{
    for (int i = 0; i < n_rounds; i++) {
        int n_a = a->n_arrived, n_b = b->n_arrived;
        node_send(a, b, (uint32_t)i, "to", 2);
        PROGRESS_UNTIL(b->n_arrived > n_b, PATIENCE_MS, a, b);
        node_send(b, a, (uint32_t)i, "fro", 3);
        PROGRESS_UNTIL(a->n_arrived > n_a, PATIENCE_MS, a, b);
    }
    node_drain(a);
    node_drain(b);
}

/* The body of a long frame, all of it, and each frame once. */
static void take_long(node *self, char seen[N_LONG])
{
    tr_message *message = node_take(self);
    uint32_t sequence = message->frame.sequence;
    const unsigned char *bytes = tr_message_bytes(message);
    CU_ASSERT_FATAL(message->frame.body_bytes == LONG_BYTES && sequence < N_LONG && !seen[sequence]);
    bool same = true;
    for (size_t i = 0; i < LONG_BYTES; i++) same &= bytes[i] == (unsigned char)sequence;
    CU_ASSERT(same);
    seen[sequence] = 1;
    tr_message_destroy(&message);
}

static void slow_receiver_loses_nothing_and_slows_nobody_else(void)
{
    char seen[N_LONG] = {0};
    int n_released = 0, n_credits = 0;
    uint32_t n_sent = 0;
    unsigned char *slots = tr_alloc(WINDOW * (size_t)LONG_BYTES);
    node *a = node_new(1), *slow = node_new(2), *brisk = node_new(3);
    node_connect(a, slow);
    node_connect(a, brisk);
    exchange(a, slow, 1);
    while (n_sent < WINDOW) {
        send_long(a, slow, n_sent, slots + n_sent * (size_t)LONG_BYTES, &n_released);
        n_sent++;
    }
    exchange(a, brisk, 200); /* while the other does not look */
    CU_ASSERT_EQUAL(slow->n_arrived, 1);
    CU_ASSERT(tr_transport_unsent(a->transport) <= WINDOW);
    for (int n_taken = 0; n_taken < N_LONG; n_taken++) {
        PROGRESS_UNTIL(slow->first != NULL, PATIENCE_MS, a, slow);
        CU_ASSERT_FATAL(slow->first != NULL);
        take_long(slow, seen);
        node_send(slow, a, (uint32_t)n_taken, "c", 1);
        n_credits++;
        PROGRESS_UNTIL(a->n_arrived == 1 + 200 + n_credits &&
                           __atomic_load_n(&n_released, __ATOMIC_RELAXED) >= n_credits,
                       PATIENCE_MS, a, slow);
        node_drain(a);
        /* Which of the slots is free again is not known where order is not promised; inproc's are the receiver's. */
        if ((uint32_t)n_credits == n_sent && __atomic_load_n(&n_released, __ATOMIC_ACQUIRE) == n_credits) {
            for (int i = 0; i < WINDOW && n_sent < N_LONG; i++, n_sent++)
                send_long(a, slow, n_sent, slots + (size_t)i * LONG_BYTES, &n_released);
        }
        CU_ASSERT((int)n_sent - n_credits <= WINDOW);
        CU_ASSERT(tr_transport_unsent(a->transport) <= WINDOW);
    }
    CU_ASSERT_EQUAL(n_released, N_LONG);
    CU_ASSERT_EQUAL(a->n_lost + slow->n_lost + brisk->n_lost, 0);
    node_destroy(&a);
    node_destroy(&slow);
    node_destroy(&brisk);
    tr_free(slots);
}

/* Two nodes say that they are node 1. The later one counts, from its greeting on: nothing of the first is delivered
 * after its loss was told, nothing of the second is lost, and the first learns of it. */
static void two_greet_as_node_1(uint32_t second_incarnation)
{
    enum { N = 100 };
    tr_transport_options options = options_of(1);
    node *b = node_new(2), *first = node_with(&options);
    options.incarnation = second_incarnation;
    node *second = node_with(&options);
    node_connect(first, b);
    exchange(first, b, 1);
    for (uint32_t i = 0; i < N; i++) node_send(first, b, i, "1", 1);
    node_connect(second, b);
    for (uint32_t i = 0; i < N; i++) node_send(second, b, i, "2", 1);
    for (uint32_t i = 0; i < N; i++) node_send(first, b, N + i, "1", 1);
    PROGRESS_UNTIL(b->n_lost == 1 && first->n_lost == 1, PATIENCE_MS, b, first, second);
    CU_ASSERT_EQUAL(try_send(first, 2, 0, "1", 1), TR_ECLOSED);
    PROGRESS_UNTIL(b->n_arrived >= b->n_arrived_when_lost + N, PATIENCE_MS, b, first, second);
    int n_first = 0, n_second = 0, n = 1; /* one was exchanged */
    for (tr_message *message; (message = node_take(b)); tr_message_destroy(&message), n++) {
        bool is_second = *(const char *)tr_message_bytes(message) == '2';
        ++*(is_second ? &n_second : &n_first);
        CU_ASSERT_EQUAL(is_second, n >= b->n_arrived_when_lost);
    }
    CU_ASSERT_EQUAL(n_second, N);
    CU_ASSERT(n_first <= 2 * N);
    CU_ASSERT_EQUAL(b->n_lost, 1);
    exchange(second, b, 3);
    CU_ASSERT_EQUAL(second->n_lost, 0);
    node_destroy(&first);
    exchange(second, b, 3); /* the first one's end is nobody's loss any more */
    CU_ASSERT_EQUAL(b->n_lost + second->n_lost, 1);
    node_destroy(&second);
    node_destroy(&b);
}

static void second_of_one_identity_takes_the_place_of_the_first(void)
{
    two_greet_as_node_1(1);
}

static void newer_life_takes_the_place_of_the_older(void)
{
    two_greet_as_node_1(2);
}

/* Transports do not look at sequence numbers; that what comes twice or late counts once is the promise of edges, which
 * test/runtime/edge_test.c holds them to (old epochs and incarnations included). */
static void repeated_frames_are_left_to_the_edges(void)
{
    node *a = node_new(1), *b = node_new(2);
    node_connect(a, b);
    for (int i = 0; i < 3; i++) node_send(a, b, 7, "same", 4);
    PROGRESS_UNTIL(b->n_arrived == 3, PATIENCE_MS, a, b);
    for (tr_message *message; (message = node_take(b)); tr_message_destroy(&message))
        CU_ASSERT(message->frame.sequence == 7);
    CU_ASSERT_EQUAL(tr_transport_count(b->transport).refused, 0);
    node_destroy(&a);
    node_destroy(&b);
}

enum { N_ROUNDS = 500 };

typedef struct player {
    node *node;
    int32_t other;
    bool begins;
    int over;   /* an eventfd that both have: readable once a ball is lost: with a link, or without memory */
    int n_vain; /* sleeps that nobody ended */
} player;

static bool is_over(const player *self)
{
    if (self->node->n_lost > 0 || tr_transport_count(self->node->transport).refused > 0)
        eventfd_write(self->over, 1);
    return poll(&(struct pollfd){.fd = self->over, .events = POLLIN}, 1, 0) == 1;
}

static void play_on(const player *self, uint32_t sequence)
{
    if (try_send(self->node, self->other, sequence, "ball", 4) != TR_OK) eventfd_write(self->over, 1);
}

static void *play(void *context)
{
    player *self = context;
    int n_answered = 0;
    if (self->begins) play_on(self, 0);
    while (self->node->n_arrived < N_ROUNDS && self->n_vain == 0 && !is_over(self)) {
        if (tr_transport_progress(self->node->transport) == 0 &&
            !sleep_until_either(self->node->transport, self->over, PATIENCE_MS))
            self->n_vain++;
        while (n_answered < self->node->n_arrived) {
            n_answered++;
            if (self->begins ? n_answered < N_ROUNDS : n_answered <= N_ROUNDS)
                play_on(self, (uint32_t)n_answered);
        }
    }
    while (tr_transport_unsent(self->node->transport) && !is_over(self))
        tr_transport_progress(self->node->transport);
    return NULL;
}

static void sleepers_are_always_woken(void)
{
    int over = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    player a = {.node = node_new(1), .other = 2, .begins = true, .over = over};
    player b = {.node = node_new(2), .other = 1, .over = over};
    node_connect(a.node, b.node);
    pthread_t thread;
    pthread_create(&thread, NULL, play, &b);
    play(&a);
    pthread_join(thread, NULL);
    CU_ASSERT_EQUAL(a.node->n_arrived, N_ROUNDS);
    CU_ASSERT_EQUAL(b.node->n_arrived, N_ROUNDS);
    CU_ASSERT_EQUAL(a.n_vain + b.n_vain, 0);
    node_destroy(&a.node);
    node_destroy(&b.node);
    close(over);
}

static void *flood(void *context)
{
    player *self = context;
    for (uint32_t i = 0; i < N_ROUNDS * 20; i++) {
        try_send(self->node, self->other, i, &i, sizeof i);
        if (i % 16 == 0) tr_transport_progress(self->node->transport);
    }
    while (tr_transport_unsent(self->node->transport)) tr_transport_progress(self->node->transport);
    return NULL;
}

static void senders_on_threads_lose_nothing(void)
{
    enum { N_THREADS = 3 };
    player players[N_THREADS];
    pthread_t threads[N_THREADS];
    node *hub = node_new(0);
    for (int i = 0; i < N_THREADS; i++) {
        players[i] = (player){.node = node_new(i + 1), .other = 0};
        node_connect(players[i].node, hub);
        pthread_create(&threads[i], NULL, flood, &players[i]);
    }
    uint64_t end_ns = tr_clock_ns() + PATIENCE_MS * 1000000ull;
    while (hub->n_arrived < N_THREADS * N_ROUNDS * 20 && tr_clock_ns() < end_ns)
        if (tr_transport_progress(hub->transport) == 0) sleep_until_woken(hub->transport, 1000);
    CU_ASSERT_EQUAL(hub->n_arrived, N_THREADS * N_ROUNDS * 20);
    for (int i = 0; i < N_THREADS; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < N_THREADS; i++) node_destroy(&players[i].node);
    node_destroy(&hub);
}

#include "transport/conformance_hostile.h"
#include "transport/conformance_peers.h"

#define CONFORMANCE_TESTS                                                                                    \
    CHECK_TEST(unknown_kinds_and_peers_are_refused), CHECK_TEST(frames_arrive_once_and_in_order),            \
        CHECK_TEST(bodies_of_all_sizes_arrive_whole_both_ways),                                              \
        CHECK_TEST(body_that_does_not_match_its_hash_is_dropped),                                            \
        CHECK_TEST(a_header_that_was_damaged_is_told_with_its_peer),                                         \
        CHECK_TEST(body_without_a_place_or_too_large_is_dropped), CHECK_TEST(both_sides_may_connect),        \
        CHECK_TEST(many_senders_reach_one_receiver), CHECK_TEST(peer_with_another_key_is_refused),           \
        CHECK_TEST(peer_looking_for_another_node_is_refused),                                                \
        CHECK_TEST(destroyed_peer_is_reported_once_and_may_come_again),                                      \
        CHECK_TEST(disconnecting_is_quiet_here_and_seen_there), CHECK_TEST(renewed_transport_begins_anew),   \
        CHECK_TEST(greetings_of_before_a_renewal_are_dropped), CHECK_TEST(destroying_releases_every_body),   \
        CHECK_TEST(sleepers_are_always_woken), CHECK_TEST(senders_on_threads_lose_nothing),                  \
        CHECK_TEST(slow_receiver_loses_nothing_and_slows_nobody_else),                                       \
        CHECK_TEST(second_of_one_identity_takes_the_place_of_the_first),                                     \
        CHECK_TEST(newer_life_takes_the_place_of_the_older),                                                 \
        CHECK_TEST(repeated_frames_are_left_to_the_edges),                                                   \
        CONFORMANCE_DISTURB_TESTS CONFORMANCE_HOSTILE_TESTS CONFORMANCE_PROCESS_TESTS

#define CONFORMANCE_MAIN(suite, tests)                                                                       \
    int main(int argc, char **argv)                                                                          \
    {                                                                                                        \
        if (!getenv("TROUPE_LOG")) tr_log_set_level(TR_LOG_ERROR);                                           \
        if (argc == 4 && strcmp(argv[1], "peer") == 0) return run_peer(argv[2], atoi(argv[3]));              \
        return check_run(suite, tests, sizeof(tests) / sizeof *(tests));                                     \
    }

#endif
