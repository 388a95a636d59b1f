/* test/transport/conformance_hostile.h - the part of conformance.h in which a peer says what no peer should: garbage,
 * truncated frames, lengths that lie, greetings with hostile MessagePack. Whatever it says is counted and dropped, and does
 * no harm to others.
 * Where CONFORMANCE_RAW is defined the includer has, before it includes conformance.h:
 *     raw_peer *raw_open(const char *address);       a client of the library alone, at the address of a node
 *     const char *raw_address(const raw_peer *self); what it may greet with
 *     void raw_send(raw_peer *self, const void *header, size_t header_bytes, const void *body, size_t body_bytes);
 *     void raw_progress(raw_peer *self);
 *     void raw_close(raw_peer **self);
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TEST_TRANSPORT_CONFORMANCE_HOSTILE_H
#define TROUPE_TEST_TRANSPORT_CONFORMANCE_HOSTILE_H

#ifdef CONFORMANCE_RAW
#include "base/hash.h"
#include "base/rng.h"
#include "transport/handshake.h"

static const tr_rng_key noise = {.seed = 11};

static void fill_with_noise(void *bytes, size_t size_bytes, uint64_t counter)
{
    for (size_t i = 0; i < size_bytes; i++)
        ((uint8_t *)bytes)[i] = (uint8_t)tr_rng_u64(&noise, counter * 4096 + i);
}

static tr_frame frame_of(uint8_t kind, uint32_t body_bytes)
{
    tr_frame frame = {
        .kind = kind, .source = 3, .destination = 2, .incarnation = 1, .edge = 1, .body_bytes = body_bytes};
    tr_frame_seal(&frame);
    return frame;
}

static void raw_send_and_wait(raw_peer *raw, node *b, const void *header, size_t header_bytes,
                              const void *body, size_t body_bytes, uint64_t n_refused)
{
    raw_send(raw, header, header_bytes, body, body_bytes);
    uint64_t end_ns = tr_clock_ns() + PATIENCE_MS * 1000000ull;
    while (tr_transport_count(b->transport).refused < n_refused && tr_clock_ns() < end_ns) {
        raw_progress(raw);
        progress_all((node *[]){b, NULL});
    }
    CU_ASSERT_EQUAL(tr_transport_count(b->transport).refused, n_refused);
}

/* What node 3 would say first; not its body where `body` is given. */
static void greet_by_hand(raw_peer *raw, tr_hello *hello, void **body, size_t *body_bytes)
{
    tr_error err;
    const tr_transport_options options = options_of(3);
    *hello = (tr_hello){.node = 3, .incarnation = 1, .version = TR_HANDSHAKE_VERSION};
    memcpy(hello->job_key, options.job_key, sizeof hello->job_key);
    snprintf(hello->address, sizeof hello->address, "%s", raw_address(raw));
    CHECK_OK(tr_hello_write(hello, body, body_bytes, &err));
}

/* Each from a peer of its own: who is refused is sent away. */
static void refuse_greeting(node *b, const void *body, size_t body_bytes)
{
    raw_peer *raw = raw_open(tr_transport_address(b->transport));
    tr_frame frame = frame_of(TR_FRAME_HELLO, (uint32_t)body_bytes);
    raw_send_and_wait(raw, b, &frame, sizeof frame, body, body_bytes,
                      tr_transport_count(b->transport).refused + 1);
    raw_close(&raw);
}

static void hostile_greetings_are_refused(void)
{
    static const uint8_t array32[] = {0xdd, 0xff, 0xff, 0xff, 0xff};
    static const uint8_t map32[] = {0xdf, 0xff, 0xff, 0xff, 0xff};
    static const uint8_t key32[] = {0x95, 0xc6, 0xff, 0xff, 0xff, 0xff, 'x'};
    static const uint8_t text32[] = {0x95, 0xdb, 0x7f, 0xff, 0xff, 0xff, 'x'};
    static const uint8_t short_key[] = {0x95, 0xc4, 1, 'x', 1, 1, 1, 0xa1, 'a'};
    static const uint8_t never_used[] = {0xc1, 0xc1, 0xc1};
    uint8_t nested[TR_HELLO_MAX_BYTES], endless[TR_HELLO_MAX_BYTES + 1] = {0};
    memset(nested, 0x91, sizeof nested); /* arrays in arrays in arrays */
    node *a = node_new(1), *b = node_new(2);
    node_connect(a, b);
    exchange(a, b, 1);
    refuse_greeting(b, array32, sizeof array32);
    refuse_greeting(b, map32, sizeof map32);
    refuse_greeting(b, key32, sizeof key32);
    refuse_greeting(b, text32, sizeof text32);
    refuse_greeting(b, short_key, sizeof short_key);
    refuse_greeting(b, never_used, sizeof never_used);
    refuse_greeting(b, nested, sizeof nested);
    refuse_greeting(b, endless, sizeof endless); /* longer than any greeting */
    raw_peer *raw = raw_open(tr_transport_address(b->transport));
    tr_hello hello;
    void *body;
    size_t body_bytes;
    greet_by_hand(raw, &hello, &body, &body_bytes);
    for (size_t cut = 1; cut < body_bytes; cut += 1 + body_bytes / 20) refuse_greeting(b, body, cut);
    tr_free(body);
    raw_close(&raw);
    CU_ASSERT_EQUAL(b->n_arrived, 1);
    exchange(a, b, 3);
    CU_ASSERT_EQUAL(a->n_lost + b->n_lost, 0);
    node_destroy(&a);
    node_destroy(&b);
}

/* Frames that are none: headers of noise and of all wrong lengths. */
static uint64_t send_garbage(raw_peer *raw, node *b, uint64_t n_refused)
{
    uint8_t bytes[200];
    for (uint64_t i = 0; i < 100; i++) {
        fill_with_noise(bytes, sizeof bytes, i);
        raw_send_and_wait(raw, b, bytes, TR_FRAME_BYTES, bytes + 64, (size_t)i, ++n_refused);
    }
    tr_frame whole = frame_of(TR_FRAME_DATA, 0);
    memcpy(bytes, &whole, sizeof whole);
    for (size_t size = 1; size < TR_FRAME_BYTES; size += 7)
        raw_send_and_wait(raw, b, bytes, size, NULL, 0, ++n_refused);
    raw_send_and_wait(raw, b, bytes, TR_FRAME_BYTES + 1, NULL, 0, ++n_refused);
    raw_send_and_wait(raw, b, bytes, sizeof bytes, NULL, 0, ++n_refused);
    return n_refused;
}

/* Sealed frames whose lengths lie, and all flipped bits. */
static uint64_t send_lies(raw_peer *raw, node *b, uint64_t n_refused)
{
    char body[300] = "";
    tr_frame frame = frame_of(TR_FRAME_DATA, 300);
    raw_send_and_wait(raw, b, &frame, sizeof frame, body, 299, ++n_refused);
    raw_send_and_wait(raw, b, &frame, sizeof frame, NULL, 0, ++n_refused);
    frame = frame_of(TR_FRAME_DATA, 3);
    raw_send_and_wait(raw, b, &frame, sizeof frame, body, 300, ++n_refused);
    frame = frame_of(TR_FRAME_DATA, 0);
    raw_send_and_wait(raw, b, &frame, sizeof frame, body, 1, ++n_refused);
    static const uint32_t oversized[] = {MAX_BODY_BYTES + 1, 1u << 31, UINT32_MAX};
    for (int i = 0; i < 3; i++) {
        frame = frame_of(TR_FRAME_DATA, oversized[i]);
        raw_send_and_wait(raw, b, &frame, sizeof frame, body, 300, ++n_refused);
    }
    frame = frame_of(TR_FRAME_DATA, 3);
    for (int bit = 0; bit < 8 * TR_FRAME_BYTES; bit += 5) {
        tr_frame damaged = frame;
        ((unsigned char *)&damaged)[bit / 8] ^= (unsigned char)(1 << bit % 8);
        raw_send_and_wait(raw, b, &damaged, sizeof damaged, body, 3, ++n_refused);
    }
    return n_refused;
}

static void hostile_frames_are_refused(void)
{
    tr_hello hello;
    void *body;
    size_t body_bytes;
    node *a = node_new(1), *b = node_new(2);
    node_connect(a, b);
    exchange(a, b, 1);
    raw_peer *raw = raw_open(tr_transport_address(b->transport));
    tr_frame frame = frame_of(TR_FRAME_DATA, 3);
    uint64_t n_refused = 0;
    raw_send_and_wait(raw, b, &frame, sizeof frame, "abc", 3, ++n_refused); /* whole, but from nobody */
    (void)send_garbage(raw, b, n_refused);
    greet_by_hand(raw, &hello, &body, &body_bytes);
    frame = frame_of(TR_FRAME_HELLO, (uint32_t)body_bytes);
    raw_send(raw, &frame, sizeof frame, body, body_bytes);
    tr_free(body);
    frame = frame_of(TR_FRAME_DATA, 3);
    int n_before = b->n_arrived;
    uint64_t end_ns = tr_clock_ns() + PATIENCE_MS * 1000000ull;
    while (b->n_arrived == n_before && tr_clock_ns() < end_ns) { /* until it was greeted, it is from nobody */
        raw_send(raw, &frame, sizeof frame, "abc", 3);
        for (int i = 0; i < 100; i++) {
            raw_progress(raw);
            progress_all((node *[]){b, NULL});
        }
    }
    CU_ASSERT_EQUAL(b->last_peer, 3); /* so what follows is judged by its own faults */
    n_refused = tr_transport_count(b->transport).refused;
    n_before = b->n_arrived;
    n_refused = send_garbage(raw, b, n_refused);
    (void)send_lies(raw, b, n_refused);
    CU_ASSERT_EQUAL(b->n_arrived, n_before);
    raw_send(raw, &frame, sizeof frame, "abc", 3);
    end_ns = tr_clock_ns() + PATIENCE_MS * 1000000ull;
    while (b->n_arrived == n_before && tr_clock_ns() < end_ns) {
        raw_progress(raw);
        progress_all((node *[]){b, NULL});
    }
    CU_ASSERT_EQUAL(b->n_arrived, n_before + 1);
    node_drain(b);
    exchange(a, b, 3);
    CU_ASSERT_EQUAL(a->n_lost + b->n_lost, 0);
    raw_close(&raw);
    node_destroy(&a);
    node_destroy(&b);
}
#define CONFORMANCE_HOSTILE_TESTS                                                                            \
    CHECK_TEST(hostile_greetings_are_refused), CHECK_TEST(hostile_frames_are_refused),
#else
static void hostile_bytes_make_no_sense_here(void)
{
    printf("[over " CONFORMANCE_KIND
           " a frame is a pointer that this same program made; frame_test has the rest] ");
    CU_PASS("no case");
}
#define CONFORMANCE_HOSTILE_TESTS CHECK_TEST(hostile_bytes_make_no_sense_here),
#endif

#endif
