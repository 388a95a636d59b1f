/* test/base/hash_test.c - checksums against published values. The source is included, since one of the two
 * ways to compute a CRC is only taken on processors that lack the other. SPDX-License-Identifier: Apache-2.0 */
#include "base/hash.c" /* NOLINT(bugprone-suspicious-include): see above */

#include "check.h"

/* RFC 3720, appendix B.4. */
static void crc32c_has_the_published_values(void)
{
    unsigned char bytes[32];
    CU_ASSERT_EQUAL(tr_crc32c("123456789", 9), 0xe3069283u);
    CU_ASSERT_EQUAL(tr_crc32c("", 0), 0);
    memset(bytes, 0, 32);
    CU_ASSERT_EQUAL(tr_crc32c(bytes, 32), 0x8a9136aau);
    memset(bytes, 0xff, 32);
    CU_ASSERT_EQUAL(tr_crc32c(bytes, 32), 0x62a8ab43u);
    for (int i = 0; i < 32; i++) bytes[i] = (unsigned char)i;
    CU_ASSERT_EQUAL(tr_crc32c(bytes, 32), 0x46dd794eu);
    for (int i = 0; i < 32; i++) bytes[i] = (unsigned char)(31 - i);
    CU_ASSERT_EQUAL(tr_crc32c(bytes, 32), 0x113fdb5cu);
}

static void table_and_instruction_agree(void)
{
    unsigned char bytes[600];
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (unsigned char)(i * i * 31 + i / 7);
    CU_ASSERT_EQUAL(~crc32c_by_table(~0u, (const unsigned char *)"123456789", 9), 0xe3069283u);
#if defined(__x86_64__) && defined(__GNUC__)
    if (!__builtin_cpu_supports("sse4.2")) return;
    for (size_t offset = 0; offset < 9; offset++) /* unaligned as well */
        for (size_t size = 0; size + offset <= sizeof bytes; size++)
            CU_ASSERT_EQUAL(crc32c_by_instruction(~0u, bytes + offset, size),
                            crc32c_by_table(~0u, bytes + offset, size));
#endif
}

/* From the reference implementation's own sanity buffers: XXH3 of nothing, seed 0. */
static void xxh3_has_the_published_values(void)
{
    CU_ASSERT_EQUAL(tr_hash64("", 0), 0x2d06800538d394c2u);
    CU_ASSERT_EQUAL(tr_hash64_text("tensor"), tr_hash64("tensor\0behind", 6));
    CU_ASSERT_NOT_EQUAL(tr_hash64_text("tensor"), tr_hash64_text("tensos"));
    tr_hasher *hasher = tr_hasher_new();
    CU_ASSERT_PTR_NOT_NULL_FATAL(hasher);
    char hex[33];
    tr_hasher_digest(hasher, hex);
    CU_ASSERT_STRING_EQUAL(hex, "99aa06d3014798d86001c324468d497f");
    tr_hasher_destroy(&hasher);
    CU_ASSERT_PTR_NULL(hasher);
    tr_hasher_destroy(&hasher);
}

static void pieces_hash_like_the_whole(void)
{
    unsigned char bytes[5000];
    char whole[33], pieces[33];
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (unsigned char)(i * 7 + i / 256);
    tr_hasher *one = tr_hasher_new();
    CU_ASSERT_PTR_NOT_NULL_FATAL(one);
    tr_hasher_update(one, bytes, sizeof bytes);
    tr_hasher_digest(one, whole);
    for (size_t step = 1; step < 700; step += 83) {
        tr_hasher *many = tr_hasher_new();
        CU_ASSERT_PTR_NOT_NULL_FATAL(many);
        for (size_t at = 0; at < sizeof bytes; at += step) {
            tr_hasher_update(many, bytes + at, at + step < sizeof bytes ? step : sizeof bytes - at);
            tr_hasher_digest(many, pieces); /* looking does not disturb */
        }
        CU_ASSERT_STRING_EQUAL(pieces, whole);
        tr_hasher_destroy(&many);
    }
    tr_hasher_update(one, "x", 1);
    tr_hasher_digest(one, pieces);
    CU_ASSERT_STRING_NOT_EQUAL(pieces, whole);
    tr_hasher_destroy(&one);
}

static void no_memory_gives_no_hasher(void)
{
    tr_memory_fail_after(1);
    CU_ASSERT_PTR_NULL(tr_hasher_new());
    tr_memory_fail_after(0);
}

static const check_test tests[] = {
    CHECK_TEST(crc32c_has_the_published_values), CHECK_TEST(table_and_instruction_agree),
    CHECK_TEST(xxh3_has_the_published_values),   CHECK_TEST(pieces_hash_like_the_whole),
    CHECK_TEST(no_memory_gives_no_hasher),
};
CHECK_MAIN("hash", tests)
