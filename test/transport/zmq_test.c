/* test/transport/zmq_test.c - the conformance suite over ZeroMQ, and garbage from a bare socket.
 * SPDX-License-Identifier: Apache-2.0 */
#define CONFORMANCE_KIND "zmq"
#define CONFORMANCE_IN_ORDER 1
#define CONFORMANCE_PROCESSES
#define CONFORMANCE_SEES_STOPPED 1
#define CONFORMANCE_RAW
#include "transport/zmq_raw.h"

#include "transport/conformance.h"

/* Everything that is not a frame of a greeted peer is counted and does no harm to those that are. */
static void other_than_two_parts_is_refused(void)
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
    PROGRESS_UNTIL(tr_transport_count(b->transport).refused == 6, PATIENCE_MS, a, b);
    CU_ASSERT_EQUAL(b->n_arrived, 1);
    node_send(a, b, 1, "x", 1);
    PROGRESS_UNTIL(b->n_arrived == 2, PATIENCE_MS, a, b);
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
    options.bind = "ipc:///no/such/directory/socket";
    CU_ASSERT_EQUAL(tr_transport_new(&none, "zmq", &options, &events, &err), TR_EIO);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.message, "/no/such/directory"));
}

/* Nothing is made, nothing is sent, nothing is looked up. */
static void nothing_beyond_this_machine_without_a_key(void)
{
    static const char *const places[] = {"tcp://192.0.2.1:*",
                                         "tcp://0.0.0.0:*",
                                         "tcp://*:*",
                                         "tcp://localhost:*",
                                         "tcp://eth0:5",
                                         "tcp://[fd00::2]:7",
                                         "tcp://[::ffff:10.0.0.1]:7",
                                         "tcp://127.0.0.1;10.0.0.1:7",
                                         "tcp://128.0.0.1:1"};
    tr_error err;
    tr_transport *none = NULL;
    const tr_transport_events events = {0};
    node *a = node_new(1);
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        tr_transport_options options = options_of(1);
        options.bind = places[i];
        CU_ASSERT_EQUAL(tr_transport_new(&none, "zmq", &options, &events, &err), TR_EINVAL);
        CU_ASSERT_PTR_NOT_NULL(strstr(err.message, "troupe keygen"));
        CU_ASSERT_PTR_NULL(none);
        CU_ASSERT_EQUAL(tr_transport_connect(a->transport, 2, places[i], &err), TR_EINVAL);
        CU_ASSERT_PTR_NOT_NULL(strstr(err.message, "troupe keygen"));
    }
    node_destroy(&a);
}

static void connecting_where_nobody_listens_is_told_soon(void)
{
    tr_error err;
    node *a = node_new(1);
    CHECK_OK(tr_transport_connect(a->transport, 2, "ipc://@troupe-nobody-there", &err));
    CHECK_OK(tr_transport_connect(a->transport, 3, "tcp://127.0.0.1:1", &err));
    PROGRESS_UNTIL(a->n_lost == 2, 5000, a);
    CU_ASSERT_PTR_NOT_NULL(strstr(a->lost_reason, "nobody listens"));
    node_destroy(&a);
}

/* Bytes that are no ZeroMQ at all, a connection that says nothing, and one that ends in the middle. */
static void bytes_of_another_protocol_do_no_harm(void)
{
    tr_transport_options options = options_of(2);
    options.bind = "tcp://127.0.0.1:*";
    node *a = node_new(1), *b = node_with(&options);
    node_connect(a, b);
    exchange(a, b, 1);
    int silent = tcp_connect(tr_transport_address(b->transport));
    throw_garbage(tr_transport_address(b->transport));
    exchange(a, b, 20);
    CU_ASSERT_EQUAL(b->n_arrived, 21);
    CU_ASSERT_EQUAL(a->n_lost + b->n_lost, 0);
    close(silent);
    node_destroy(&a);
    node_destroy(&b);
}

static const check_test tests[] = {
    CONFORMANCE_TESTS CHECK_TEST(other_than_two_parts_is_refused),
    CHECK_TEST(tcp_works_as_well),
    CHECK_TEST(place_that_cannot_be_bound_is_an_error_in_words),
    CHECK_TEST(nothing_beyond_this_machine_without_a_key),
    CHECK_TEST(connecting_where_nobody_listens_is_told_soon),
    CHECK_TEST(bytes_of_another_protocol_do_no_harm),
};

CONFORMANCE_MAIN("transport/zmq", tests)
