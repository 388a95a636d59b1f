/* test/transport/zmq_test.c - the conformance suite over ZeroMQ, and garbage from a bare socket.
 * SPDX-License-Identifier: Apache-2.0 */
#define CONFORMANCE_KIND "zmq"
#define CONFORMANCE_IN_ORDER 1
#define CONFORMANCE_PROCESSES
#include "transport/conformance.h"

#include "transport/handshake.h"

#include <zmq.h>

/* As node 3 would greet node 2, so that what follows is judged by its own faults and not by its sender's. */
static void greet_by_hand(void *raw)
{
    tr_error err;
    void *body;
    size_t body_bytes;
    const tr_transport_options options = options_of(3);
    tr_hello hello = {
        .node = 3, .incarnation = 1, .version = TR_HANDSHAKE_VERSION, .address = "ipc://@nobody-there"};
    memcpy(hello.job_key, options.job_key, sizeof hello.job_key);
    CHECK_OK(tr_hello_write(&hello, &body, &body_bytes, &err));
    tr_frame frame = {.kind = TR_FRAME_HELLO,
                      .source = 3,
                      .destination = 2,
                      .incarnation = 1,
                      .body_bytes = (uint32_t)body_bytes};
    tr_frame_seal(&frame);
    zmq_send(raw, &frame, sizeof frame, ZMQ_SNDMORE);
    zmq_send(raw, body, body_bytes, 0);
    tr_free(body);
}

/* Everything that is not a frame of a greeted peer is counted and does no harm to those that are. */
static void garbage_is_refused(void)
{
    node *a = node_new(1), *b = node_new(2);
    node_connect(a, b);
    node_send(a, b, 0, "x", 1);
    PROGRESS_UNTIL(b->n_arrived == 1, PATIENCE_MS, a, b);
    void *context = zmq_ctx_new(), *raw = zmq_socket(context, ZMQ_DEALER);
    int linger_ms = 0;
    zmq_setsockopt(raw, ZMQ_LINGER, &linger_ms, sizeof linger_ms);
    zmq_setsockopt(raw, ZMQ_ROUTING_ID, "T\3\0\0\0 by hand here ", 17);
    zmq_connect(raw, tr_transport_address(b->transport));
    tr_frame frame = {.kind = TR_FRAME_DATA, .body_bytes = 3};
    tr_frame_seal(&frame);
    char long_text[200] = "";
    zmq_send(raw, "one part", 8, 0);
    zmq_send(raw, "", 0, 0);
    zmq_send(raw, long_text, sizeof long_text, ZMQ_SNDMORE);
    zmq_send(raw, "header too long", 15, 0);
    zmq_send(raw, &frame, sizeof frame, ZMQ_SNDMORE); /* whole, but from nobody */
    zmq_send(raw, "abc", 3, 0);
    zmq_send(raw, &frame, sizeof frame, ZMQ_SNDMORE);
    zmq_send(raw, "ab", 2, 0);
    for (int i = 0; i < 4; i++) zmq_send(raw, &frame, sizeof frame, ZMQ_SNDMORE);
    zmq_send(raw, "five parts", 10, 0);
    greet_by_hand(raw);
    uint64_t n_refused = 6;
    for (int bit = 0; bit < 8 * TR_FRAME_BYTES; bit++, n_refused++) {
        tr_frame damaged = frame;
        ((unsigned char *)&damaged)[bit / 8] ^= (unsigned char)(1 << bit % 8);
        zmq_send(raw, &damaged, sizeof damaged, ZMQ_SNDMORE);
        zmq_send(raw, "abc", 3, 0);
    }
    PROGRESS_UNTIL(tr_transport_count(b->transport).refused == n_refused, PATIENCE_MS, a, b);
    CU_ASSERT_EQUAL(b->n_arrived, 1);
    zmq_send(raw, &frame, sizeof frame, ZMQ_SNDMORE); /* undamaged, and now from somebody */
    zmq_send(raw, "abc", 3, 0);
    PROGRESS_UNTIL(b->n_arrived == 2 && b->last_peer == 3, PATIENCE_MS, a, b);
    node_send(a, b, 1, "x", 1);
    PROGRESS_UNTIL(b->n_arrived == 3, PATIENCE_MS, a, b);
    CU_ASSERT_EQUAL(a->n_lost + b->n_lost, 0);
    zmq_close(raw);
    zmq_ctx_term(context);
    node_destroy(&a);
    node_destroy(&b);
}

static void tcp_works_as_well(void)
{
    tr_transport_options options_a = options_of(1), options_b = options_of(2);
    options_a.bind = options_b.bind = "tcp://127.0.0.1:*";
    options_a.hash_bodies = true;
    send_sizes(&options_a, &options_b);
}

static void place_that_cannot_be_bound_is_an_error_in_words(void)
{
    tr_error err;
    tr_transport *none = NULL;
    tr_transport_options options = options_of(1);
    const tr_transport_events events = {0};
    options.bind = "tcp://no.such.interface:1";
    CU_ASSERT_EQUAL(tr_transport_new(&none, "zmq", &options, &events, &err), TR_EIO);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.message, "no.such.interface"));
}

static void stopped_peer_is_seen_by_its_heartbeat(void)
{
    node *a = node_new(1);
    pid_t pid = start_peer(a);
    PROGRESS_UNTIL(a->n_arrived == 1, PATIENCE_MS, a);
    kill(pid, SIGSTOP);
    PROGRESS_UNTIL(a->n_lost == 1, 8000, a);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    node_destroy(&a);
}

static const check_test tests[] = {
    CONFORMANCE_TESTS CHECK_TEST(garbage_is_refused),
    CHECK_TEST(tcp_works_as_well),
    CHECK_TEST(place_that_cannot_be_bound_is_an_error_in_words),
    CHECK_TEST(stopped_peer_is_seen_by_its_heartbeat),
};

CONFORMANCE_MAIN("transport/zmq", tests)
