/* ops/cpu/matmul.c - see matmul.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/matmul.h"

#include "ops/cpu/elements.h"

#include <dlfcn.h>
#include <dnnl.h>

/* oneDNN asks OpenMP how many threads it may start, and OpenMP keeps that number for each thread that calls
 * it. So every thread of ours says once that it wants no helpers; then no OpenMP team is ever made.
 * The symbol is looked up at run time because the OpenMP runtime is oneDNN's dependency and not ours. */
static void forbid_openmp_teams(void)
{
    static _Thread_local bool done;
    if (done) return;
    void (*set_num_threads)(int);
    void *symbol = dlsym(RTLD_DEFAULT, "omp_set_num_threads");
    memcpy(&set_num_threads, &symbol, sizeof symbol);
    if (symbol) set_num_threads(1);
    done = true;
}

TR_MULTIVERSION static void add_bias(const float *bias, float *c, int64_t m, int64_t n, int64_t c_stride)
{
    for (int64_t i = 0; i < m; i++) {
        float *row = c + i * c_stride;
        int64_t j = 0;
        for (; j + TR_LANES <= n; j += TR_LANES)
            tr_store_f32x16(row + j, tr_load_f32x16(row + j) + tr_load_f32x16(bias + j));
        for (; j < n; j++) row[j] += bias[j];
    }
}

void tr_matmul_single(const tr_matmul *p)
{
    forbid_openmp_teams();
    if (p->dtype == TR_BF16) {
        tr__matmul_bf16(p);
        return;
    }
    TR_ASSERT(p->dtype == TR_F32 && p->c_dtype == TR_F32);
    dnnl_status_t status =
        dnnl_sgemm(p->transpose_a ? 'T' : 'N', p->transpose_b ? 'T' : 'N', p->m, p->n, p->k, 1.0f, p->a,
                   p->a_stride, p->b, p->b_stride, p->beta, p->c, p->c_stride);
    TR_ASSERT(status == dnnl_success); /* it only fails for strides that are too small */
    if (p->bias) add_bias(p->bias, p->c, p->m, p->n, p->c_stride);
}

/* oneDNN packs B for every tile, which few rows do not pay for, and A for every tile as well: the larger, the faster, as long
 * as a tile of C stays in the second-level cache. Against rows by 128, single products were 0 to 15% faster.
 * The first that leaves tiles enough to share. */
void tr_matmul_tile(int64_t m, int64_t n, int64_t *tile_m, int64_t *tile_n)
{
    static const int64_t shapes[][2] = {{384, 384}, {256, 384}, {256, 192}, {128, 192}, {128, 128}};
    enum { N_SHAPES = sizeof shapes / sizeof *shapes, ENOUGH = 4 };
    int i = 0;
    while (i + 1 < N_SHAPES &&
           ((m + shapes[i][0] - 1) / shapes[i][0]) * ((n + shapes[i][1] - 1) / shapes[i][1]) < ENOUGH)
        i++;
    *tile_m = shapes[i][0];
    *tile_n = shapes[i][1];
}

typedef struct tiling {
    const tr_matmul *product;
    int64_t tile_m, tile_n, n_columns; /* tiles in a row of tiles */
} tiling;

static void run_tile(void *context, int64_t tile, int thread)
{
    (void)thread;
    const tiling *t = context;
    tr_matmul p = *t->product;
    int64_t i = tile / t->n_columns * t->tile_m, j = tile % t->n_columns * t->tile_n;
    p.m = p.m - i < t->tile_m ? p.m - i : t->tile_m;
    p.n = p.n - j < t->tile_n ? p.n - j : t->tile_n;
    p.a = tr_at(p.a, p.transpose_a ? i : i * p.a_stride, p.dtype);
    p.b = tr_at(p.b, p.transpose_b ? j * p.b_stride : j, p.dtype);
    p.c = tr_at(p.c, i * p.c_stride + j, p.c_dtype);
    if (p.bias) p.bias += j;
    tr_matmul_single(&p);
}

void tr_matmul_run(const tr_matmul *product, tr_thread_pool *pool)
{
    tiling t = {.product = product};
    tr_matmul_tile(product->m, product->n, &t.tile_m, &t.tile_n);
    t.n_columns = (product->n + t.tile_n - 1) / t.tile_n;
    int64_t n_rows = (product->m + t.tile_m - 1) / t.tile_m;
    tr_thread_pool_run(pool, n_rows * t.n_columns, run_tile, &t);
}
