/* test/transport/zmq_curve_test.c - the conformance suite over ZeroMQ with keys, and who is not let in.
 * SPDX-License-Identifier: Apache-2.0 */
#define CONFORMANCE_KIND "zmq"
#define CONFORMANCE_IN_ORDER 1
#define CONFORMANCE_PROCESSES
#define CONFORMANCE_SEES_STOPPED 1
#define CONFORMANCE_RAW
#define CONFORMANCE_KEY
#include "transport/zmq_raw.h"

#include "transport/conformance.h"

static void refused_with(const tr_transport_options *options_a, const tr_transport_options *options_b,
                         bool b_counts)
{
    tr_error err;
    node *friend_of_b = options_b->key ? node_new(5) : NULL, *a = node_with(options_a),
         *b = node_with(options_b);
    if (friend_of_b) node_connect(friend_of_b, b);
    if (friend_of_b) exchange(friend_of_b, b, 1);
    int n_before = b->n_arrived;
    CHECK_OK(tr_transport_connect(a->transport, 2, tr_transport_address(b->transport), &err));
    CU_ASSERT_EQUAL(try_send(a, 2, 0, "let me in", 9), TR_OK); /* goes nowhere */
    PROGRESS_UNTIL(a->n_lost == 1 && (!b_counts || tr_transport_count(b->transport).refused == 1), 5000, a,
                   b);
    CU_ASSERT_PTR_NOT_NULL(strstr(a->lost_reason, "another key"));
    CU_ASSERT_EQUAL(b->n_arrived, n_before);
    CU_ASSERT_EQUAL(try_send(b, 1, 0, "x", 1), TR_ECLOSED);
    if (friend_of_b) exchange(friend_of_b, b, 3);
    CU_ASSERT_EQUAL(b->n_lost, 0);
    CU_ASSERT_EQUAL(tr_transport_count(b->transport).refused,
                    b_counts ? 1 : tr_transport_count(b->transport).refused);
    node_destroy(&a);
    node_destroy(&b);
    if (friend_of_b) node_destroy(&friend_of_b);
}

static void another_key_is_refused_at_the_handshake(void)
{
    tr_error err;
    tr_curve_key other;
    CHECK_OK(tr_curve_key_new(&other, &err));
    tr_transport_options options_a = options_of(1), options_b = options_of(2);
    options_a.key = &other;
    refused_with(&options_a, &options_b, true);
}

static void no_key_is_refused_at_the_handshake(void)
{
    tr_transport_options options_a = options_of(1), options_b = options_of(2);
    options_a.key = NULL;
    refused_with(&options_a, &options_b, true);
}

static void key_where_the_other_has_none_is_refused(void)
{
    tr_transport_options options_a = options_of(1), options_b = options_of(2);
    options_b.key = NULL;
    refused_with(&options_a, &options_b, true);
}

/* Knows the public half and the job's own key, and has a pair of its own: only the question about its key stops it. */
static void the_public_half_alone_lets_nobody_in(void)
{
    tr_error err;
    tr_curve_key own;
    tr_hello hello;
    void *body;
    size_t body_bytes;
    CHECK_OK(tr_curve_key_new(&own, &err));
    node *a = node_new(1), *b = node_new(2);
    node_connect(a, b);
    exchange(a, b, 1);
    for (uint64_t i = 1; i <= 3; i++) {
        raw_peer *raw = raw_open_unconnected();
        raw_set_key(raw, the_key.public_half, &own);
        zmq_connect(raw->dealer, tr_transport_address(b->transport));
        greet_by_hand(raw, &hello, &body, &body_bytes);
        tr_frame frame = frame_of(TR_FRAME_HELLO, (uint32_t)body_bytes);
        raw_send_and_wait(raw, b, &frame, sizeof frame, body, body_bytes, i);
        for (int k = 0; k < 1000; k++) progress_all((node *[]){a, b, NULL});
        tr_free(body);
        raw_close(&raw);
    }
    CU_ASSERT_EQUAL(tr_transport_count(b->transport).refused, 3);
    CU_ASSERT_EQUAL(try_send(b, 3, 0, "x", 1), TR_ECLOSED); /* it never became node 3 */
    exchange(a, b, 3);
    CU_ASSERT_EQUAL(a->n_lost + b->n_lost, 0);
    node_destroy(&a);
    node_destroy(&b);
}

static void bytes_of_another_protocol_do_no_harm(void)
{
    node *a = node_new(1), *b = node_new(2);
    node_connect(a, b);
    exchange(a, b, 1);
    int silent = tcp_connect(tr_transport_address(b->transport));
    throw_garbage(tr_transport_address(b->transport));
    exchange(a, b, 20);
    CU_ASSERT_EQUAL(b->n_arrived, 21);
    CU_ASSERT_EQUAL(a->n_lost + b->n_lost, 0);
    PROGRESS_UNTIL(tr_transport_count(b->transport).refused >= 3, 5000, a, b);
    close(silent);
    node_destroy(&a);
    node_destroy(&b);
}

static const check_test tests[] = {
    CONFORMANCE_TESTS CHECK_TEST(another_key_is_refused_at_the_handshake),
    CHECK_TEST(no_key_is_refused_at_the_handshake),
    CHECK_TEST(key_where_the_other_has_none_is_refused),
    CHECK_TEST(the_public_half_alone_lets_nobody_in),
    CHECK_TEST(bytes_of_another_protocol_do_no_harm),
};

CONFORMANCE_MAIN("transport/zmq_curve", tests)
