/* test/base/pack_test.c - what is packed comes back bit for bit, and no bytes whatsoever lead the reader out
 * of the message. Every hostile message is read from memory of exactly its size: AddressSanitizer watches.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/pack.h"

#include "base/memory.h"
#include "base/rng.h"
#include "check.h"

#include <math.h>
#include <string.h>

static const uint64_t naturals[] = {
    0, 1, 127, 128, 255, 256, 65535, 65536, UINT32_MAX, 4294967296, INT64_MAX, UINT64_MAX, UINT64_MAX - 1};
static const int64_t integers[] = {0,
                                   -1,
                                   -32,
                                   -33,
                                   -128,
                                   -129,
                                   -32768,
                                   -32769,
                                   127,
                                   128,
                                   INT32_MIN,
                                   INT32_MAX,
                                   (int64_t)INT32_MIN - 1,
                                   INT64_MIN,
                                   INT64_MAX};
static const double reals[] = {0.0, -0.0, 1.0 / 3, -1e308, 5e-324, INFINITY, -INFINITY, NAN};
static const size_t lengths[] = {0, 1, 31, 32, 255, 256, 65535, 65536};
enum { N_NATURALS = 13, N_INTEGERS = 15, N_REALS = 8, N_LENGTHS = 8 };
static char text[65537];

static void take(tr_packer *packer, void **bytes, size_t *size)
{
    tr_error err = {0};
    CHECK_OK(tr_packer_take(packer, bytes, size, &err));
}

static void everything_comes_back(void)
{
    tr_packer packer;
    tr_unpacker body;
    void *bytes;
    size_t size;
    tr_packer_init(&packer);
    tr_pack_array(&packer, N_NATURALS + N_INTEGERS + N_REALS + 2 * N_LENGTHS);
    for (int i = 0; i < N_NATURALS; i++) tr_pack_uint(&packer, naturals[i]);
    for (int i = 0; i < N_INTEGERS; i++) tr_pack_int(&packer, integers[i]);
    for (int i = 0; i < N_REALS; i++) tr_pack_f64(&packer, reals[i]);
    memset(text, 'x', sizeof text - 1);
    for (int i = 0; i < N_LENGTHS; i++) {
        tr_pack_text(&packer, text + sizeof text - 1 - lengths[i]);
        tr_pack_bytes(&packer, text, lengths[i]);
    }
    take(&packer, &bytes, &size);
    tr_unpacker_init(&body, bytes, size);
    CU_ASSERT_EQUAL(tr_unpack_array(&body, 1000), N_NATURALS + N_INTEGERS + N_REALS + 2 * N_LENGTHS);
    for (int i = 0; i < N_NATURALS; i++) CU_ASSERT_EQUAL(tr_unpack_uint(&body, UINT64_MAX), naturals[i]);
    for (int i = 0; i < N_INTEGERS; i++)
        CU_ASSERT_EQUAL(tr_unpack_int(&body, INT64_MIN, INT64_MAX), integers[i]);
    for (int i = 0; i < N_REALS; i++) {
        double value = tr_unpack_f64(&body);
        CU_ASSERT(memcmp(&value, &reals[i], sizeof value) == 0);
    }
    static char read[65537];
    for (int i = 0; i < N_LENGTHS; i++) {
        size_t got;
        tr_unpack_text(&body, read, sizeof read);
        CU_ASSERT_EQUAL(strlen(read), lengths[i]);
        const void *inside = tr_unpack_bytes(&body, &got);
        CU_ASSERT(got == lengths[i] && inside && memcmp(inside, text, got) == 0);
    }
    tr_error err = {0};
    CHECK_OK(tr_unpacker_done(&body, "test", &err));
    tr_free(bytes);
}

static void arrays_of_every_size_come_back(void)
{
    const uint32_t sizes[] = {0, 1, 15, 16, 65535, 65536};
    for (size_t i = 0; i < 6; i++) {
        tr_packer packer;
        tr_unpacker body;
        void *bytes;
        size_t size;
        tr_packer_init(&packer);
        tr_pack_array(&packer, sizes[i]);
        for (uint32_t k = 0; k < sizes[i]; k++) tr_pack_uint(&packer, 1);
        take(&packer, &bytes, &size);
        tr_unpacker_init(&body, bytes, size);
        CU_ASSERT_EQUAL(tr_unpack_array(&body, sizes[i]), sizes[i]);
        CU_ASSERT(!body.bad);
        if (sizes[i]) {
            tr_unpacker_init(&body, bytes, size);
            CU_ASSERT_EQUAL(tr_unpack_array(&body, sizes[i] - 1), 0);
            CU_ASSERT(body.bad);
        }
        tr_free(bytes);
    }
}

/* A message like those of the project: every kind of field. */
static void pack_sample(void **bytes, size_t *size)
{
    tr_packer packer;
    tr_packer_init(&packer);
    tr_pack_array(&packer, 7);
    tr_pack_uint(&packer, 300);
    tr_pack_int(&packer, -70000);
    tr_pack_f64(&packer, 2.5);
    tr_pack_text(&packer, "stage 1 of replica 0, and so on and on");
    tr_pack_bytes(&packer, "\0\1\2\3", 4);
    tr_pack_array(&packer, 1);
    tr_pack_text(&packer, "inner");
    tr_pack_uint(&packer, 5);
    take(&packer, bytes, size);
}

static tr_status read_sample(const void *bytes, size_t size)
{
    /* In memory of its own and of this size, so that one byte too far is seen. */
    char *copy = tr_alloc(size), name[64], inner[8];
    memcpy(copy, bytes, size);
    tr_unpacker body;
    tr_unpacker_init(&body, copy, size);
    uint32_t n = tr_unpack_array(&body, 7);
    (void)tr_unpack_uint(&body, 1000);
    (void)tr_unpack_int(&body, -100000, 0);
    (void)tr_unpack_f64(&body);
    tr_unpack_text(&body, name, sizeof name);
    size_t n_bytes;
    const char *blob = tr_unpack_bytes(&body, &n_bytes);
    volatile char sum = 0;
    for (size_t i = 0; i < n_bytes; i++) sum = (char)(sum + blob[i]);
    uint32_t n_inner = tr_unpack_array(&body, 100);
    for (uint32_t i = 0; i < n_inner; i++) tr_unpack_text(&body, inner, sizeof inner);
    (void)tr_unpack_uint(&body, UINT64_MAX);
    tr_error err = {0};
    tr_status status = tr_unpacker_done(&body, "sample", &err);
    CU_ASSERT(status == TR_OK || status == TR_ECORRUPT);
    CU_ASSERT_EQUAL(status != TR_OK, err.message[0] != 0);
    if (status == TR_OK) CU_ASSERT(n <= 7);
    CU_ASSERT(strlen(name) < sizeof name && strlen(inner) < sizeof inner);
    tr_free(copy);
    return status;
}

static void every_truncation_and_every_extra_byte_is_found(void)
{
    void *bytes;
    size_t size;
    pack_sample(&bytes, &size);
    CU_ASSERT_EQUAL(read_sample(bytes, size), TR_OK);
    for (size_t cut = 0; cut < size; cut++) CU_ASSERT_EQUAL(read_sample(bytes, cut), TR_ECORRUPT);
    char longer[256];
    memcpy(longer, bytes, size);
    longer[size] = 0;
    CU_ASSERT_EQUAL(read_sample(longer, size + 1), TR_ECORRUPT);
    tr_free(bytes);
}

static void no_bytes_lead_outside_the_message(void)
{
    void *bytes;
    size_t size;
    pack_sample(&bytes, &size);
    unsigned char hostile[128];
    const tr_rng_key key = {1, 2, 3, 4};
    for (size_t at = 0; at < size; at++) /* one byte, every value */
        for (int value = 0; value < 256; value++) {
            memcpy(hostile, bytes, size);
            hostile[at] = (unsigned char)value;
            (void)read_sample(hostile, size);
        }
    CU_ASSERT_FATAL(size > 0);
    for (uint64_t round = 0; round < 20000; round++) { /* noise, half of it behind a good beginning */
        size_t length = tr_rng_u64(&key, round * 200) % sizeof hostile;
        size_t good = round % 2 ? tr_rng_u64(&key, round * 200 + 1) % size : 0;
        for (size_t i = 0; i < length; i++) hostile[i] = (unsigned char)tr_rng_u64(&key, round * 200 + 2 + i);
        memcpy(hostile, bytes, good < length ? good : length);
        (void)read_sample(hostile, length);
    }
    tr_free(bytes);
}

/* Four bytes that ask for gigabytes: a count that the rest cannot hold is not believed. */
static void counts_beyond_the_message_are_refused(void)
{
    static const struct {
        unsigned char bytes[6];
        size_t size;
    } known[] = {
        {{0x91}, 1},                              /* array of 1, and nothing */
        {{0xdc, 0xff, 0xff, 0, 0}, 5},            /* array 16 */
        {{0xdd, 0xff, 0xff, 0xff, 0xff, 0}, 6},   /* array 32 */
        {{0xa1}, 1},                              /* text of 1 */
        {{0xd9, 0x05, 'a'}, 3},                   /* text 8 */
        {{0xdb, 0xff, 0xff, 0xff, 0xff, 'a'}, 6}, /* text 32 */
        {{0xc4, 0x02, 'a'}, 3},                   /* bytes 8 */
        {{0xc6, 0xff, 0xff, 0xff, 0xff, 'a'}, 6}, /* bytes 32 */
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        tr_unpacker body;
        char word[16];
        size_t n;
        tr_unpacker_init(&body, known[i].bytes, known[i].size);
        if (i < 3) CU_ASSERT_EQUAL(tr_unpack_array(&body, UINT32_MAX), 0);
        if (i >= 3 && i < 6) tr_unpack_text(&body, word, sizeof word);
        if (i >= 6) CU_ASSERT_PTR_NULL(tr_unpack_bytes(&body, &n));
        CU_ASSERT(body.bad);
    }
}

static void deep_nesting_is_only_bytes(void)
{
    enum { DEPTH = 200000 };
    char *deep = tr_alloc(DEPTH);
    memset(deep, 0x91, DEPTH);
    tr_unpacker body;
    tr_unpacker_init(&body, deep, DEPTH);
    uint32_t opened = 0;
    while (tr_unpack_array(&body, 1) == 1) opened++;
    CU_ASSERT_EQUAL(opened, DEPTH - 1); /* the last one promises what is not there */
    CU_ASSERT(body.bad);
    tr_free(deep);
}

static void values_outside_their_bounds_are_faults(void)
{
    tr_packer packer;
    tr_unpacker body;
    void *bytes;
    size_t size;
    char word[4];
    tr_packer_init(&packer);
    tr_pack_uint(&packer, 11);
    tr_pack_text(&packer, "four");
    take(&packer, &bytes, &size);
#define READ(call, is_bad)                                                                                   \
    do {                                                                                                     \
        tr_unpacker_init(&body, bytes, size);                                                                \
        (void)(call);                                                                                        \
        CU_ASSERT_EQUAL(body.bad, is_bad);                                                                   \
    } while (0)
    READ(tr_unpack_uint(&body, 11), false);
    READ(tr_unpack_uint(&body, 10), true);
    READ(tr_unpack_int(&body, 11, 11), false);
    READ(tr_unpack_int(&body, 12, 20), true);
    READ(tr_unpack_int(&body, -5, 10), true);
    READ(tr_unpack_f64(&body), true);
    READ(tr_unpack_array(&body, 100), true);
    READ((tr_unpack_uint(&body, 11), tr_unpack_text(&body, word, sizeof word)),
         true); /* no room for the NUL */
    CU_ASSERT_EQUAL(word[0], 0);
    tr_free(bytes);
    tr_packer_init(&packer);
    tr_pack_int(&packer, -1);
    take(&packer, &bytes, &size);
    READ(tr_unpack_uint(&body, UINT64_MAX), true);
    READ(tr_unpack_int(&body, -1, -1), false);
    tr_free(bytes);
    tr_packer_init(&packer);
    tr_pack_uint(&packer, (uint64_t)INT64_MAX + 1);
    take(&packer, &bytes, &size);
    READ(tr_unpack_int(&body, INT64_MIN, INT64_MAX), true);
    tr_free(bytes);
#undef READ
    const char nul_inside[] = {(char)0xa3, 'a', 0, 'b'};
    tr_unpacker_init(&body, nul_inside, sizeof nul_inside);
    char room[16];
    tr_unpack_text(&body, room, sizeof room);
    CU_ASSERT(body.bad && room[0] == 0);
}

static void after_the_first_fault_all_is_zero(void)
{
    const unsigned char bytes[] = {0xc0, 5,   6,    7,
                                   0xa1, 'a', 0x91, 1}; /* begins with nil, which nobody writes */
    tr_unpacker body;
    tr_unpacker_init(&body, bytes, sizeof bytes);
    char word[8] = "before";
    size_t n = 9;
    CU_ASSERT_EQUAL(tr_unpack_uint(&body, 100), 0);
    CU_ASSERT_EQUAL(tr_unpack_uint(&body, 100), 0);
    CU_ASSERT_EQUAL(tr_unpack_int(&body, -100, 100), 0);
    CU_ASSERT_EQUAL(tr_unpack_f64(&body), 0.0);
    tr_unpack_text(&body, word, sizeof word);
    CU_ASSERT_STRING_EQUAL(word, "");
    CU_ASSERT_PTR_NULL(tr_unpack_bytes(&body, &n));
    CU_ASSERT_EQUAL(n, 0);
    CU_ASSERT_EQUAL(tr_unpack_array(&body, 10), 0);
    tr_error err = {0};
    CU_ASSERT_EQUAL(tr_unpacker_done(&body, "greeting", &err), TR_ECORRUPT);
    CU_ASSERT(strstr(err.message, "greeting") != NULL);
    tr_unpacker_init(&body, NULL, 0);
    CU_ASSERT_EQUAL(tr_unpack_uint(&body, 1), 0);
    CU_ASSERT(body.bad);
}

static void no_memory_is_told_at_the_end(void)
{
    void *bytes = NULL;
    size_t size = 0, failures = 0;
    for (uint64_t n = 1;; n++) {
        tr_packer packer;
        tr_packer_init(&packer);
        tr_memory_fail_after(n);
        for (uint64_t i = 0; i < 100; i++) tr_pack_uint(&packer, i * 1000);
        tr_memory_fail_after(0);
        tr_status status = tr_packer_take(&packer, &bytes, &size, NULL);
        CU_ASSERT(packer.bytes == NULL && packer.size_bytes == 0);
        if (!status) break;
        CU_ASSERT_EQUAL(status, TR_ENOMEM);
        CU_ASSERT_PTR_NULL(bytes);
        failures++;
    }
    CU_ASSERT(failures > 2);
    tr_free(bytes);
    tr_packer unused;
    tr_packer_init(&unused);
    tr_pack_text(&unused, "never taken");
    tr_packer_release(&unused);
}

static const check_test tests[] = {
    CHECK_TEST(everything_comes_back),
    CHECK_TEST(arrays_of_every_size_come_back),
    CHECK_TEST(every_truncation_and_every_extra_byte_is_found),
    CHECK_TEST(no_bytes_lead_outside_the_message),
    CHECK_TEST(counts_beyond_the_message_are_refused),
    CHECK_TEST(deep_nesting_is_only_bytes),
    CHECK_TEST(values_outside_their_bounds_are_faults),
    CHECK_TEST(after_the_first_fault_all_is_zero),
    CHECK_TEST(no_memory_is_told_at_the_end),
};
CHECK_MAIN("pack", tests)
