/* test/ops/embedding_test.c - embedding copies rows, and its gradient adds them up in token order. Both are
 * exact: no tolerance. The gradient of a copy is checked by the reference alone.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/embedding.h"

#include "kernel_check.h"

static const int64_t sizes[][3] = {{1, 1, 1}, {5, 7, 3}, {33, 320, 17}, {130, 7, 64}, {100, 320, 200}};
enum { N_SIZES = sizeof sizes / sizeof *sizes };

static void both_ways_are_the_reference_on_any_number_of_threads(void)
{
    pools threads = pools_new();
    for (int c = 0; c < 3 * N_SIZES; c++) {
        int64_t rows = sizes[c / 3][0], vocabulary = sizes[c / 3][1], channels = sizes[c / 3][2];
        int64_t n = rows * channels, n_table = vocabulary * channels;
        int32_t *ids = guarded_new((size_t)rows * sizeof *ids);
        for (int64_t r = 0; r < rows; r++)
            ids[r] = (int32_t)((r * r * 3 + r) % vocabulary); /* with repeats */
        float *table = filled(n_table, 1, 1), *y = guarded_floats(n), *right = guarded_floats(n);
        float *dtable = filled(n_table, 1, 2), *dright = filled(n_table, 1, 2), *dy = filled(n, 1, 3);
        tr_embedding_reference(ids, table, right, rows, channels);
        tr_embedding_dtable_reference(ids, dy, dright, rows, channels);
        tr_cpu_embedding(ids, table, y, rows, channels, TR_F32, threads.pool[c % 3]);
        tr_cpu_embedding_dtable(ids, dy, dtable, rows, channels, TR_F32, threads.pool[c % 3]);
        CU_ASSERT(memcmp(y, right, (size_t)n * sizeof *y) == 0);
        CU_ASSERT(memcmp(dtable, dright, (size_t)n_table * sizeof *dtable) == 0);
        CU_ASSERT(guarded_free(ids, (size_t)rows * sizeof *ids));
        floats_free(table, n_table), floats_free(y, n), floats_free(right, n);
        floats_free(dtable, n_table), floats_free(dright, n_table), floats_free(dy, n);
    }
    pools_destroy(&threads);
}

static const check_test tests[] = {
    CHECK_TEST(both_ways_are_the_reference_on_any_number_of_threads),
};

CHECK_MAIN("embedding", tests)
