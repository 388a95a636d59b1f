/* ops/cpu/linear.c - see linear.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/linear.h"

#include "ops/cpu/elements.h"
#include "ops/cpu/matmul.h"

void tr_cpu_linear(const void *x, const void *w, const float *b, void *y, int64_t rows, int64_t in,
                   int64_t out, bool in_out, tr_dtype dtype, tr_thread_pool *pool)
{
    tr_matmul product = {.m = rows,
                         .n = out,
                         .k = in,
                         .a = x,
                         .b = w,
                         .bias = b,
                         .c = y,
                         .a_stride = in,
                         .b_stride = in_out ? out : in,
                         .c_stride = out,
                         .transpose_b = !in_out,
                         .dtype = dtype,
                         .c_dtype = dtype};
    tr_matmul_run(&product, pool);
}

void tr_cpu_linear_dx(const void *dy, const void *w, void *dx, int64_t rows, int64_t in, int64_t out,
                      bool in_out, bool accumulate, tr_dtype dtype, tr_thread_pool *pool)
{
    tr_matmul product = {.m = rows,
                         .n = in,
                         .k = out,
                         .a = dy,
                         .b = w,
                         .c = dx,
                         .a_stride = out,
                         .b_stride = in_out ? out : in,
                         .c_stride = in,
                         .transpose_b = in_out,
                         .beta = accumulate ? 1.0f : 0.0f,
                         .dtype = dtype,
                         .c_dtype = dtype};
    tr_matmul_run(&product, pool);
}

void tr_cpu_linear_dw(const void *dy, const void *x, float *dw, int64_t rows, int64_t in, int64_t out,
                      bool in_out, tr_dtype dtype, tr_thread_pool *pool)
{
    tr_matmul product = {.m = in_out ? in : out,
                         .n = in_out ? out : in,
                         .k = rows,
                         .a = in_out ? x : dy,
                         .b = in_out ? dy : x,
                         .c = dw,
                         .a_stride = in_out ? in : out,
                         .b_stride = in_out ? out : in,
                         .c_stride = in_out ? out : in,
                         .transpose_a = true,
                         .beta = 1.0f,
                         .dtype = dtype,
                         .c_dtype = TR_F32};
    tr_matmul_run(&product, pool);
}

enum { DB_COLUMNS = 64 }; /* columns of a tile: eight accumulators of eight doubles */

typedef struct db_context {
    const void *dy; /* of dtype */
    float *db;
    int64_t rows, out;
    tr_dtype dtype;
} db_context;

TR_INLINE void sum_columns(const db_context *c, int64_t first, int64_t n, tr_dtype dtype)
{
    double sums[DB_COLUMNS] = {0};
    if (n == DB_COLUMNS) {
        tr_f64x8 wide[DB_COLUMNS / 8] = {0};
        for (int64_t i = 0; i < c->rows; i++)
            for (int j = 0; j < DB_COLUMNS / TR_LANES; j++) {
                tr_f32x16 v = tr_load_x16(c->dy, i * c->out + first + j * TR_LANES, dtype);
                wide[2 * j] += tr_low_f64x8(v);
                wide[2 * j + 1] += tr_high_f64x8(v);
            }
        memcpy(sums, wide, sizeof sums);
    } else {
        for (int64_t i = 0; i < c->rows; i++)
            for (int64_t j = 0; j < n; j++) sums[j] += (double)tr_get(c->dy, i * c->out + first + j, dtype);
    }
    for (int64_t j = 0; j < n; j++) c->db[first + j] += (float)sums[j];
}

TR_MULTIVERSION static void db_tile(void *context, int64_t tile, int thread)
{
    (void)thread;
    const db_context *c = context;
    int64_t first = tile * DB_COLUMNS, left = c->out - first;
    TR_BY_DTYPE(c->dtype, sum_columns, c, first, left < DB_COLUMNS ? left : DB_COLUMNS);
}

void tr_cpu_linear_db(const void *dy, float *db, int64_t rows, int64_t out, tr_dtype dtype,
                      tr_thread_pool *pool)
{
    db_context c = {.dy = dy, .db = db, .rows = rows, .out = out, .dtype = dtype};
    tr_thread_pool_run(pool, (out + DB_COLUMNS - 1) / DB_COLUMNS, db_tile, &c);
}
