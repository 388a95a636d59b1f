/* test/transport/frame_test.c - frames, messages and greetings: what is whole passes, what is not is refused.
 * SPDX-License-Identifier: Apache-2.0 */
#include "transport/frame.h"

#include "base/hash.h"
#include "base/memory.h"
#include "base/rng.h"
#include "check.h"
#include "transport/handshake.h"
#include "transport/message.h"

#include <string.h>

static tr_frame whole_frame(void)
{
    tr_frame frame = {.kind = TR_FRAME_DATA,
                      .slot = 3,
                      .epoch = 7,
                      .source = 0x1122334455667788u,
                      .destination = 9,
                      .edge = 4,
                      .sequence = 100,
                      .body_bytes = 1000};
    tr_frame_seal(&frame);
    return frame;
}

static void sealed_frame_passes(void)
{
    tr_error err;
    tr_frame frame = whole_frame();
    CHECK_OK(tr_frame_check(&frame, 1000, &err));
    const unsigned char *bytes = (const unsigned char *)&frame;
    CU_ASSERT_EQUAL(bytes[0], 'T');
    CU_ASSERT_EQUAL(bytes[1], 'R');
    CU_ASSERT_EQUAL(bytes[16], 0x88); /* little-endian source at its offset */
}

static void every_flipped_bit_of_a_header_is_found(void)
{
    const tr_frame frame = whole_frame();
    for (int bit = 0; bit < 8 * TR_FRAME_BYTES; bit++) {
        tr_frame damaged = frame;
        ((unsigned char *)&damaged)[bit / 8] ^= (unsigned char)(1 << bit % 8);
        CU_ASSERT_EQUAL(tr_frame_check(&damaged, UINT32_MAX, NULL), TR_ECORRUPT);
    }
}

static void seal_with_version(tr_frame *frame, uint8_t version)
{
    frame->version = version;
    frame->header_crc = 0;
    frame->header_crc = tr_crc32c(frame, sizeof *frame);
}

static void other_versions_kinds_and_sizes_are_refused(void)
{
    tr_error err;
    tr_frame frame = whole_frame();
    CU_ASSERT_EQUAL(tr_frame_check(&frame, 999, &err), TR_ECORRUPT);
    seal_with_version(&frame, TR_FRAME_VERSION + 1);
    CU_ASSERT_EQUAL(tr_frame_check(&frame, 1000, &err), TR_EREFUSED);
    const uint8_t bad_kinds[] = {0, TR_FRAME_KIND_END, 255};
    for (size_t i = 0; i < sizeof bad_kinds; i++) {
        frame = whole_frame();
        frame.kind = bad_kinds[i];
        tr_frame_seal(&frame);
        CU_ASSERT_EQUAL(tr_frame_check(&frame, 1000, &err), TR_ECORRUPT);
    }
}

static void hashed_body_is_verified(void)
{
    unsigned char body[1000];
    memset(body, 5, sizeof body);
    tr_frame frame = whole_frame();
    frame.body_hash = 1; /* means nothing without the flag */
    CU_ASSERT_EQUAL(tr_frame_check_body(&frame, body, NULL), TR_OK);
    frame.flags = TR_FRAME_HASHED;
    frame.body_hash = tr_hash64(body, sizeof body);
    CU_ASSERT_EQUAL(tr_frame_check_body(&frame, body, NULL), TR_OK);
    body[999] ^= 1;
    CU_ASSERT_EQUAL(tr_frame_check_body(&frame, body, NULL), TR_ECORRUPT);
}

static void count_release(void *context)
{
    ++*(int *)context;
}

static void message_owns_its_body_also_when_it_cannot_be_made(void)
{
    tr_error err;
    int n_released = 0;
    char bytes[8] = "content";
    for (uint64_t failing = 0; failing < 2; failing++) {
        tr_buffer *body = NULL;
        tr_message *message = NULL;
        CHECK_OK(tr_buffer_wrap(&body, bytes, sizeof bytes, count_release, &n_released, &err));
        tr_memory_fail_after(failing);
        CU_ASSERT_EQUAL(tr_message_new(&message, body, 5, &err), failing ? TR_ENOMEM : TR_OK);
        tr_memory_fail_after(0);
        if (!failing) CU_ASSERT_EQUAL(message->frame.body_bytes, 5);
        tr_message_destroy(&message);
        CU_ASSERT_EQUAL(n_released, (int)failing + 1);
    }
    tr_message *empty;
    CHECK_OK(tr_message_copy(&empty, NULL, 0, &err));
    CU_ASSERT_PTR_NULL(tr_message_bytes(empty));
    tr_message_destroy(&empty);
    tr_message_destroy(&empty);
}

static tr_hello some_hello(void)
{
    tr_hello hello = {.node = -5, .incarnation = UINT32_MAX, .version = TR_HANDSHAKE_VERSION};
    memcpy(hello.job_key, "0123456789abcdef", TR_JOB_KEY_BYTES);
    memset(hello.address, 'a', sizeof hello.address - 1);
    return hello;
}

static void greeting_comes_back_as_written(void)
{
    tr_error err;
    void *bytes;
    size_t size;
    tr_hello hello = some_hello(), back;
    CHECK_OK(tr_hello_write(&hello, &bytes, &size, &err));
    CU_ASSERT(size <= TR_HELLO_MAX_BYTES);
    CHECK_OK(tr_hello_read(&back, bytes, size, &err));
    tr_free(bytes);
    CU_ASSERT_EQUAL(back.node, hello.node);
    CU_ASSERT_EQUAL(back.incarnation, hello.incarnation);
    CU_ASSERT_STRING_EQUAL(back.address, hello.address);
    CHECK_OK(tr_hello_check(&back, hello.job_key, &err));
}

static void cut_and_damaged_greetings_are_refused_without_harm(void)
{
    tr_error err;
    void *bytes;
    size_t size;
    tr_hello hello = some_hello(), back;
    hello.address[20] = 0;
    CHECK_OK(tr_hello_write(&hello, &bytes, &size, &err));
    CU_ASSERT_FATAL(size > 0);
    for (size_t cut = 0; cut < size; cut++) { /* on the heap, so that AddressSanitizer sees the end */
        uint8_t *copy = tr_alloc(cut);
        memcpy(copy, bytes, cut);
        CU_ASSERT_EQUAL(tr_hello_read(&back, copy, cut, NULL), TR_ECORRUPT);
        tr_free(copy);
    }
    const tr_rng_key key = {.seed = 1};
    for (uint64_t i = 0; i < 200000; i++) {
        uint8_t damaged[TR_HELLO_MAX_BYTES];
        memcpy(damaged, bytes, size);
        for (uint64_t j = 0; j < 3; j++) {
            uint64_t random = tr_rng_u64(&key, 4 * i + j);
            damaged[(random >> 8) % size] = (uint8_t)random;
        }
        tr_hello_read(&back, damaged, size, NULL); /* either way: no overrun, no allocation */
    }
    tr_free(bytes);
}

static void hostile_lengths_are_refused(void)
{
    static const uint8_t array32[] = {0xdd, 0xff, 0xff, 0xff, 0xff};
    static const uint8_t key32[] = {0x95, 0xc6, 0xff, 0xff, 0xff, 0xff, 'x'};
    static const uint8_t short_key[] = {0x95, 0xc4, 1, 'x', 1, 1, 1, 0xa1, 'a'};
    static const uint8_t nested[] = {0x95, 0x91, 0x91, 0x91, 0x91};
    tr_hello back;
    CU_ASSERT_EQUAL(tr_hello_read(&back, array32, sizeof array32, NULL), TR_ECORRUPT);
    CU_ASSERT_EQUAL(tr_hello_read(&back, key32, sizeof key32, NULL), TR_ECORRUPT);
    CU_ASSERT_EQUAL(tr_hello_read(&back, short_key, sizeof short_key, NULL), TR_ECORRUPT);
    CU_ASSERT_EQUAL(tr_hello_read(&back, nested, sizeof nested, NULL), TR_ECORRUPT);
}

static void other_keys_and_versions_are_refused_in_words(void)
{
    tr_error err;
    tr_hello hello = some_hello();
    uint8_t key[TR_JOB_KEY_BYTES];
    memcpy(key, hello.job_key, sizeof key);
    key[15] ^= 1;
    CU_ASSERT_EQUAL(tr_hello_check(&hello, key, &err), TR_EREFUSED);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.message, "another job"));
    CU_ASSERT_PTR_NULL(strstr(err.message, "0123456789"));
    hello.version++;
    CU_ASSERT_EQUAL(tr_hello_check(&hello, hello.job_key, &err), TR_EREFUSED);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.message, "version '2'"));
}

static const check_test tests[] = {
    CHECK_TEST(sealed_frame_passes),
    CHECK_TEST(every_flipped_bit_of_a_header_is_found),
    CHECK_TEST(other_versions_kinds_and_sizes_are_refused),
    CHECK_TEST(hashed_body_is_verified),
    CHECK_TEST(message_owns_its_body_also_when_it_cannot_be_made),
    CHECK_TEST(greeting_comes_back_as_written),
    CHECK_TEST(cut_and_damaged_greetings_are_refused_without_harm),
    CHECK_TEST(hostile_lengths_are_refused),
    CHECK_TEST(other_keys_and_versions_are_refused_in_words),
};

CHECK_MAIN("transport/frame", tests)
