/* test/ops/product_choices_test.c - choices of algorithms as text: what is written is read back, and what is no choice, or
 * one for another GPU, is refused.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/product_choices.h"

#include "base/memory.h"
#include "test/check.h"

#include <string.h>

static void what_is_written_is_read_back(void)
{
    tr_error err = {0};
    tr_product_choices *a = NULL, *b = NULL;
    unsigned char first[TR_ALGORITHM_BYTES], second[TR_ALGORITHM_BYTES];
    for (int i = 0; i < TR_ALGORITHM_BYTES; i++)
        first[i] = (unsigned char)(i * 5), second[i] = (unsigned char)(255 - i);
    CHECK_OK(tr_product_choices_new(&a, &err));
    CHECK_OK(tr_product_choices_new(&b, &err));
    CHECK_OK(tr_product_choices_bind(a, "some_GPU,library-1", &err));
    CHECK_OK(tr_product_choices_add(a, "bfloat16:8*4*2:float32", first, &err));
    CHECK_OK(tr_product_choices_add(a, "bfloat16:8*4*2:float32+bias", second, &err));
    char *text = tr_product_choices_write(a);
    CU_ASSERT_PTR_NOT_NULL_FATAL(text);
    CHECK_OK(tr_product_choices_read(b, text, &err));
    CU_ASSERT(memcmp(tr_product_choices_find(b, "bfloat16:8*4*2:float32"), first, sizeof first) == 0);
    CU_ASSERT(memcmp(tr_product_choices_find(b, "bfloat16:8*4*2:float32+bias"), second, sizeof second) == 0);
    CU_ASSERT_PTR_NULL(tr_product_choices_find(b, "bfloat16:8*4*2"));
    char *again = tr_product_choices_write(b);
    CU_ASSERT_PTR_NOT_NULL_FATAL(again);
    CU_ASSERT_STRING_EQUAL(text, again);
    CU_ASSERT_EQUAL(tr_product_choices_bind(b, "other_GPU,library-1", &err), TR_EINVAL);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.message, "'some_GPU,library-1'"));
    tr_free(again);
    tr_free(text);
    tr_product_choices_destroy(&a);
    tr_product_choices_destroy(&b);
}

static void what_is_no_choice_is_refused(void)
{
    static const char *const bad[] = {"x", "x 00", "products\n", " 00", "x zz"};
    char line[2 * TR_ALGORITHM_BYTES + 8];
    tr_error err = {0};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        tr_product_choices *c = NULL;
        CHECK_OK(tr_product_choices_new(&c, &err));
        CU_ASSERT_EQUAL(tr_product_choices_read(c, bad[i], &err), TR_EINVAL);
        tr_product_choices_destroy(&c);
    }
    tr_product_choices *c = NULL;
    CHECK_OK(tr_product_choices_new(&c, &err));
    memset(line, 'a', sizeof line);
    memcpy(line, "x ", 2);
    line[2 + 2 * TR_ALGORITHM_BYTES] = 0;
    CHECK_OK(tr_product_choices_read(c, line, &err));
    CU_ASSERT_EQUAL(tr_product_choices_read(c, line, &err), TR_EINVAL); /* the same product twice */
    line[10] = 'g';
    line[0] = 'y';
    CU_ASSERT_EQUAL(tr_product_choices_read(c, line, &err), TR_EINVAL);
    tr_product_choices_destroy(&c);
}

static const check_test tests[] = {
    CHECK_TEST(what_is_written_is_read_back),
    CHECK_TEST(what_is_no_choice_is_refused),
};
CHECK_MAIN("product_choices", tests)
