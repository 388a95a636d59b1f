/* test/transport/conformance_disturb.h - what becomes of frames where a transport is disturbed on purpose (transport/disturb.h); see
 * conformance.h.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TEST_TRANSPORT_CONFORMANCE_DISTURB_H
#define TROUPE_TEST_TRANSPORT_CONFORMANCE_DISTURB_H

#include "transport/disturb.h"
#include "transport/fixture.h"

static void disturb(node *self, tr_disturbance_kind kind, int32_t peer, uint32_t for_ms)
{
    const tr_disturbance what = {.kind = kind, .peer = peer, .for_ms = for_ms, .seed = 7};
    tr_transport_disturb(self->transport, &what);
}

/* a and b have greeted each other, both ways. */
static void join_two(node **a, node **b)
{
    *a = node_new(1);
    *b = node_new(2);
    node_connect(*a, *b);
    node_send(*a, *b, 0, "there", 5);
    PROGRESS_UNTIL((*b)->n_arrived == 1, PATIENCE_MS, *a, *b);
    node_send(*b, *a, 0, "and back", 8);
    PROGRESS_UNTIL((*a)->n_arrived == 1, PATIENCE_MS, *a, *b);
    node_drain(*a);
    node_drain(*b);
}

static void a_link_that_is_cut_is_lost_and_may_be_made_again(void)
{
    node *a, *b;
    join_two(&a, &b);
    disturb(a, TR_DISTURB_CUT, 3, 0); /* nobody */
    disturb(a, TR_DISTURB_CUT, 2, 0);
    CU_ASSERT_EQUAL(try_send(a, 2, 1, "x", 1), TR_ECLOSED);
    CU_ASSERT(!tr_transport_arm(a->transport)); /* there is something to tell */
    PROGRESS_UNTIL(a->n_lost == 1, PATIENCE_MS, a);
    CU_ASSERT(a->lost_peer == 2 && strstr(a->lost_reason, "cut") != NULL);
    node_connect(a, b);
    node_send(a, b, 0, "again", 5);
    PROGRESS_UNTIL(b->n_arrived == 2, PATIENCE_MS, a, b);
    CU_ASSERT(a->n_lost == 1 && b->n_lost <= 1);
    node_destroy(&a);
    node_destroy(&b);
}

static void who_is_deaf_is_heard_and_then_loses_the_link(void)
{
    node *a, *b, *c = node_new(3);
    join_two(&a, &b);
    node_connect(c, b);
    node_send(c, b, 0, "there", 5);
    PROGRESS_UNTIL(b->n_arrived == 2, PATIENCE_MS, a, b, c);
    disturb(b, TR_DISTURB_DEAF, 1, 1000);
    for (uint32_t i = 1; i <= 10; i++) node_send(a, b, i, "hello?", 6);
    node_send(b, a, 1, "anybody?", 8);
    node_send(c, b, 1, "me", 2);
    PROGRESS_UNTIL(a->n_arrived == 2 && b->n_arrived == 3, PATIENCE_MS, a, b, c);
    CU_ASSERT_EQUAL(b->n_lost, 0);
    PROGRESS_UNTIL(b->n_lost == 1, PATIENCE_MS, a, b, c);
    CU_ASSERT(b->lost_peer == 1 && b->n_arrived == 3 && strstr(b->lost_reason, "nothing came") != NULL);
    node_destroy(&a);
    node_destroy(&b);
    node_destroy(&c);
}

/* DATA and CONTROL in turn, each numbered by itself. */
static void send_both(node *from, const node *to, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        tr_message *message;
        tr_error err;
        if (tr_message_copy(&message, &i, sizeof i, &err) != TR_OK) return;
        message->frame.kind = TR_FRAME_CONTROL;
        message->frame.sequence = i;
        CHECK_OK(tr_transport_send(from->transport, to->number, &message, &err));
        node_send(from, to, i, &i, sizeof i);
    }
}

/* Takes all that has arrived. CONTROL must be in order and once; returns how many DATA frames were older than one before. */
static int count_overtaken(node *self, uint32_t n, int *times)
{
    uint32_t next = 0, newest = 0;
    int n_overtaken = 0;
    for (tr_message *message; (message = node_take(self)); tr_message_destroy(&message)) {
        uint32_t sequence = message->frame.sequence, body;
        memcpy(&body, tr_message_bytes(message), sizeof body);
        CU_ASSERT_FATAL(sequence < n && body == sequence);
        if (message->frame.kind == TR_FRAME_CONTROL) {
            CU_ASSERT_EQUAL(sequence, next++);
        } else {
            times[sequence]++;
            n_overtaken += sequence < newest;
            newest = sequence > newest ? sequence : newest;
        }
    }
    CU_ASSERT_EQUAL(next, n);
    return n_overtaken;
}

static void what_is_late_arrives_once_and_only_data_overtakes(void)
{
    enum { N = 200 };
    int times[N] = {0};
    node *a, *b;
    join_two(&a, &b);
    disturb(b, TR_DISTURB_DELAY, -1, 60000);
    send_both(a, b, N);
    PROGRESS_UNTIL(b->n_arrived == 1 + 2 * N, PATIENCE_MS, a, b);
    CU_ASSERT(count_overtaken(b, N, times) > N / 4);
    for (int i = 0; i < N; i++) CU_ASSERT_EQUAL(times[i], 1);
    CU_ASSERT_EQUAL(a->n_lost + b->n_lost, 0);
    node_destroy(&a);
    node_destroy(&b);
}

/* The disturbance ends in between: what is held then comes before what follows. */
static void a_delay_ends_in_order(void)
{
    enum { N = 50 };
    int times[N] = {0};
    node *a, *b;
    join_two(&a, &b);
    disturb(b, TR_DISTURB_DELAY, -1, 5);
    uint64_t until_ns = tr_clock_ns() + 5000000;
    uint32_t sent = 0;
    for (; sent < N; sent++) {
        tr_message *message;
        tr_error err;
        if (tr_message_copy(&message, &sent, sizeof sent, &err) != TR_OK) break;
        message->frame.kind = TR_FRAME_CONTROL;
        message->frame.sequence = sent;
        CHECK_OK(tr_transport_send(a->transport, 2, &message, &err));
        progress_all((node *[]){a, b, NULL});
        while (sent == N / 2 && tr_clock_ns() < until_ns) progress_all((node *[]){a, b, NULL});
    }
    PROGRESS_UNTIL(b->n_arrived == 1 + N, PATIENCE_MS, a, b);
    CU_ASSERT_EQUAL(count_overtaken(b, N, times), 0);
    node_destroy(&a);
    node_destroy(&b);
}

static void data_comes_twice_and_control_once(void)
{
    enum { N = 200 };
    int times[N] = {0}, n_once = 0;
    node *a, *b;
    join_two(&a, &b);
    disturb(a, TR_DISTURB_DUPLICATE, -1, 60000);
    send_both(a, b, N);
    PROGRESS_UNTIL(b->n_arrived >= 3 * N, PATIENCE_MS, a,
                   b); /* the last one's second waits for another to go behind */
    for (int i = 0; i < 50; i++) progress_all((node *[]){a, b, NULL});
    CU_ASSERT(b->n_arrived <= 1 + 3 * N);
    count_overtaken(b, N, times);
    for (int i = 0; i < N; i++) {
        n_once += times[i] == 1;
        CU_ASSERT(times[i] == 2 || (times[i] == 1 && i == N - 1));
    }
    CU_ASSERT(n_once <= 1);
    CU_ASSERT_EQUAL(a->n_lost + b->n_lost, 0);
    node_destroy(&a);
    node_destroy(&b);
}

static void progress_for(node *a, node *b, uint64_t ms)
{
    uint64_t until_ns = tr_clock_ns() + ms * 1000000;
    while (tr_clock_ns() < until_ns) progress_all((node *[]){a, b, NULL});
}

/* And with the transport, which AddressSanitizer sees. */
static void what_is_late_goes_with_its_link(void)
{
    node *a, *b;
    join_two(&a, &b);
    disturb(b, TR_DISTURB_DELAY, -1, 60000);
    int n_sent = 1;
    for (int tries = 0; tries < 20 && b->n_arrived == n_sent;
         tries++) { /* or we slept, and nothing is late any more */
        for (uint32_t i = 0; i < 100; i++, n_sent++) node_send(a, b, i, &i, sizeof i);
        progress_for(a, b, TR_DISTURB_LATE_MS / 2);
    }
    CU_ASSERT(!tr_transport_arm(b->transport)); /* nobody else would wake who sleeps */
    tr_transport_disconnect(b->transport, 1);
    int n_arrived = b->n_arrived;
    progress_for(a, b, 2 * TR_DISTURB_LATE_MS);
    CU_ASSERT(n_arrived < n_sent && b->n_arrived == n_arrived);
    node_connect(a, b);
    for (uint32_t i = 0; i < 100; i++) (void)try_send(a, 2, i, &i, sizeof i);
    for (int i = 0; i < 50; i++) progress_all((node *[]){a, b, NULL});
    node_destroy(&b);
    node_destroy(&a);
}

#define CONFORMANCE_DISTURB_TESTS                                                                            \
    CHECK_TEST(a_link_that_is_cut_is_lost_and_may_be_made_again),                                            \
        CHECK_TEST(who_is_deaf_is_heard_and_then_loses_the_link),                                            \
        CHECK_TEST(what_is_late_arrives_once_and_only_data_overtakes), CHECK_TEST(a_delay_ends_in_order),    \
        CHECK_TEST(data_comes_twice_and_control_once), CHECK_TEST(what_is_late_goes_with_its_link),

#endif
