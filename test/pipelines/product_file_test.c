/* test/pipelines/product_file_test.c - products.txt: what is kept for a GPU is found again, also by another process, and nobody
 * gets what is for another GPU.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/product_file.h"

#include "check.h"
#include "ops/product_choices.h"
#include "pipelines/files.h"

static char *directory;

/* Choices for `name`: n products, with algorithms of this byte. */
static char *text_of(const char *name, int n, unsigned char byte)
{
    tr_product_choices *choices;
    tr_error err = {0};
    unsigned char algorithm[TR_ALGORITHM_BYTES];
    memset(algorithm, byte, sizeof algorithm);
    CHECK_OK(tr_product_choices_new(&choices, &err));
    CHECK_OK(tr_product_choices_bind(choices, name, &err));
    for (int i = 0; i < n; i++) {
        char product[32];
        snprintf(product, sizeof product, "bfloat16:%d*64*64:bfloat16", i + 1);
        CHECK_OK(tr_product_choices_add(choices, product, algorithm, &err));
    }
    char *text = tr_product_choices_write(choices);
    tr_product_choices_destroy(&choices);
    CU_ASSERT_FATAL(text != NULL);
    return text;
}

static void expect_kept(const tr_product_file *file, const char *name, const char *text)
{
    char why[200];
    char *found = tr_product_file_find(file, name, why, sizeof why);
    CU_ASSERT_STRING_EQUAL(why, "");
    CU_ASSERT(found && strcmp(found, text) == 0);
    tr_free(found);
}

static void keep(tr_product_file *file, const char *text)
{
    tr_error err = {0};
    CHECK_OK(tr_product_file_keep(file, text, &err));
}

static void what_is_kept_is_found_again(void)
{
    char *path = path_in(directory, "kept.txt"), *one = text_of("GPU_1,lib-2", 3, 0x17),
         *other = text_of("GPU_1,lib-21", 1, 0x30), *more = text_of("GPU_1,lib-2", 5, 0x17);
    tr_product_file *file;
    tr_error err = {0};
    char why[200];
    remove(path); /* of a run that failed elsewhere */
    CHECK_OK(tr_product_file_open(&file, path, &err));
    CU_ASSERT_PTR_NULL(tr_product_file_find(file, "GPU_1,lib-2", why, sizeof why));
    CU_ASSERT_STRING_EQUAL(why, "");
    CU_ASSERT(!tr_path_exists(path));
    keep(file, one);
    keep(file, other);
    expect_kept(file, "GPU_1,lib-2", one);
    keep(file, more); /* takes the place of the first */
    tr_product_file_close(&file);
    CHECK_OK(tr_product_file_open(&file, path, &err));
    expect_kept(file, "GPU_1,lib-2", more);
    expect_kept(file, "GPU_1,lib-21", other);
    tr_product_file_close(&file);
    tr_free(more);
    tr_free(other);
    tr_free(one);
    tr_free(path);
}

static void another_gpu_gets_nothing_and_is_told_why(void)
{
    char *path = path_in(directory, "other.txt"), *text = text_of("GPU_1,lib-2", 3, 0x17);
    tr_product_file *file;
    tr_error err = {0};
    static const char *const names[] = {"GPU_1,lib-3", "GPU_1,lib", "GPU_1,lib-2x", ""};
    CHECK_OK(tr_product_file_open(&file, path, &err));
    keep(file, text);
    for (int i = 0; i < 4; i++) {
        char why[200];
        CU_ASSERT_PTR_NULL(tr_product_file_find(file, names[i], why, sizeof why));
        CU_ASSERT(strstr(why, "has algorithms for GPU_1,lib-2 and none for ") && !strchr(why, '\n'));
    }
    tr_product_file_close(&file);
    tr_free(text);
    tr_free(path);
}

static void a_file_that_does_not_read_is_refused(void)
{
    static const char *const texts[] = {"nonsense\n", "products A\nbfloat16:1*2*3:float32 12\n",
                                        "products A\n\nproducts B\nx\n"};
    for (int i = 0; i < 3; i++) {
        char *path = path_in(directory, "bad.txt");
        tr_product_file *file = NULL;
        tr_error err = {0};
        CHECK_OK(tr_file_write(path, texts[i], strlen(texts[i]), &err));
        CU_ASSERT_EQUAL(tr_product_file_open(&file, path, &err), TR_EINVAL);
        CU_ASSERT(strstr(err.message, "bad.txt: ") && strstr(err.message, "remove it"));
        CU_ASSERT_PTR_NULL(file);
        tr_free(path);
    }
}

static void nothing_else_is_kept(void)
{
    char *path = path_in(directory, "empty.txt");
    tr_product_file *file;
    tr_error err = {0};
    CHECK_OK(tr_product_file_open(&file, path, &err));
    CU_ASSERT_EQUAL(tr_product_file_keep(file, "nonsense", &err), TR_EINVAL);
    CU_ASSERT_EQUAL(tr_product_file_keep(file, "", &err), TR_EINVAL);
    CU_ASSERT(!tr_path_exists(path));
    tr_product_file_close(&file);
    tr_free(path);
}

static const check_test tests[] = {
    CHECK_TEST(what_is_kept_is_found_again),
    CHECK_TEST(another_gpu_gets_nothing_and_is_told_why),
    CHECK_TEST(a_file_that_does_not_read_is_refused),
    CHECK_TEST(nothing_else_is_kept),
};

int main(void)
{
    directory = enter_directory();
    int result = check_run("pipelines/product_file", tests, sizeof tests / sizeof *tests);
    leave_directory(directory);
    return result;
}
