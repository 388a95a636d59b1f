/* bench/cpu/limits.c - see limits.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "bench/cpu/limits.h"

#include "base/clock.h"
#include "base/memory.h"
#include "ops/cpu/matmul.h"

#include <dnnl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SIZE = 768, MOST_THREADS = 256, BATCHES = 60, REPETITIONS = 4 };

static void must(dnnl_status_t status)
{
    if (status == dnnl_success) return;
    fprintf(stderr, "training: oneDNN cannot make the product that its peak is measured by\n");
    exit(1);
}

/* --- products --- */

/* One thread's product, C = A B of SIZE, with B in the layout that oneDNN likes best. */
typedef struct product {
    dnnl_primitive_t primitive;
    dnnl_stream_t stream;
    dnnl_memory_t memories[3];
} product;

typedef struct products {
    tr_dtype dtype;
    dnnl_engine_t engine;
    product of_thread[MOST_THREADS];
    double rates[MOST_THREADS]; /* by processor time */
} products;

static double thread_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void make(products *all, product *self)
{
    dnnl_data_type_t type = all->dtype == TR_BF16 ? dnnl_bf16 : dnnl_f32;
    dnnl_dims_t dims = {SIZE, SIZE};
    dnnl_memory_desc_t plain, any, out;
    must(dnnl_memory_desc_init_by_tag(&plain, 2, dims, type, dnnl_ab));
    must(dnnl_memory_desc_init_by_tag(&any, 2, dims, type, dnnl_format_tag_any));
    must(dnnl_memory_desc_init_by_tag(&out, 2, dims, dnnl_f32, dnnl_ab));
    dnnl_matmul_desc_t wanted;
    must(dnnl_matmul_desc_init(&wanted, &plain, &any, NULL, &out));
    dnnl_primitive_desc_t found;
    must(dnnl_primitive_desc_create(&found, &wanted, NULL, all->engine, NULL));
    must(dnnl_primitive_create(&self->primitive, found));
    const dnnl_memory_desc_t *packed = dnnl_primitive_desc_query_md(found, dnnl_query_weights_md, 0);
    const dnnl_memory_desc_t *layouts[3] = {&plain, packed, &out};
    for (int k = 0; k < 3; k++) {
        must(dnnl_memory_create(&self->memories[k], layouts[k], all->engine, DNNL_MEMORY_ALLOCATE));
        void *data;
        must(dnnl_memory_get_data_handle(self->memories[k], &data));
        memset(data, 0x3c, dnnl_memory_desc_get_size(layouts[k])); /* about 0.01 in either type */
    }
    must(dnnl_primitive_desc_destroy(found));
    must(dnnl_stream_create(&self->stream, all->engine, dnnl_stream_default_flags));
}

static void prepare(void *context, int64_t tile, int thread)
{
    (void)thread;
    products *all = context;
    float a = 0, b = 0, c; /* a product of ours first: it tells oneDNN to use this thread alone */
    tr_matmul one = {
        .m = 1, .n = 1, .k = 1, .a = &a, .b = &b, .c = &c, .a_stride = 1, .b_stride = 1, .c_stride = 1};
    one.dtype = one.c_dtype = TR_F32;
    tr_matmul_single(&one);
    if (!all->of_thread[tile].primitive) make(all, &all->of_thread[tile]);
}

static void multiply(void *context, int64_t tile, int thread)
{
    prepare(context, tile, thread);
    products *all = context;
    const product *self = &all->of_thread[tile];
    dnnl_exec_arg_t arguments[3] = {{DNNL_ARG_SRC, self->memories[0]},
                                    {DNNL_ARG_WEIGHTS, self->memories[1]},
                                    {DNNL_ARG_DST, self->memories[2]}};
    double begin_s = thread_s();
    for (int i = 0; i < REPETITIONS; i++)
        must(dnnl_primitive_execute(self->primitive, self->stream, 3, arguments));
    all->rates[tile] = 2.0 * SIZE * SIZE * SIZE * REPETITIONS / (thread_s() - begin_s);
}

double cpu_limit_flops(tr_dtype dtype, tr_thread_pool *pool)
{
    products all = {.dtype = dtype};
    int n = tr_thread_pool_size(pool);
    TR_ASSERT(n <= MOST_THREADS);
    must(dnnl_engine_create(&all.engine, dnnl_cpu, 0));
    tr_thread_pool_run(pool, n, prepare, &all);
    double best = 0;
    for (int i = 0; i < BATCHES; i++) {
        tr_thread_pool_run(pool, n, multiply, &all);
        double rate = 0;
        for (int k = 0; k < n; k++) rate += all.rates[k];
        if (rate > best) best = rate;
    }
    for (int i = 0; i < n; i++) {
        product *p = &all.of_thread[i];
        for (int k = 0; k < 3; k++) must(dnnl_memory_destroy(p->memories[k]));
        must(dnnl_primitive_destroy(p->primitive));
        must(dnnl_stream_destroy(p->stream));
    }
    must(dnnl_engine_destroy(all.engine));
    return best;
}

/* --- memory --- */

enum { CHUNK = 1 << 20, CHUNKS = 256, PASSES = 12 };

typedef struct moving {
    char *from, *to;
    uint64_t sums[MOST_THREADS][8];
} moving;

static void copy_chunk(void *context, int64_t tile, int thread)
{
    (void)thread;
    const moving *m = context;
    memcpy(m->to + tile * CHUNK, m->from + tile * CHUNK, CHUNK);
}

static void read_chunk(void *context, int64_t tile, int thread)
{
    moving *m = context;
    const uint64_t *p = (const uint64_t *)(void *)(m->from + tile * CHUNK);
    uint64_t sums[8] = {0};
    for (size_t i = 0; i < CHUNK / sizeof *p; i += 8)
        for (int k = 0; k < 8; k++) sums[k] += p[i + (size_t)k];
    for (int k = 0; k < 8; k++) m->sums[thread][k] += sums[k];
}

double cpu_limit_bandwidth(tr_thread_pool *pool)
{
    const size_t bytes = (size_t)CHUNK * CHUNKS;
    moving m = {.from = tr_alloc_aligned(4096, bytes), .to = tr_alloc_aligned(4096, bytes)};
    if (!m.from || !m.to) {
        fprintf(stderr, "training: no memory to measure its bandwidth with\n");
        exit(1);
    }
    memset(m.from, 1, bytes);
    memset(m.to, 2, bytes);
    double best = 0;
    for (int i = 0; i < 2 * PASSES; i++) {
        bool copies = i % 2 == 0;
        uint64_t begin = tr_clock_ns();
        tr_thread_pool_run(pool, CHUNKS, copies ? copy_chunk : read_chunk, &m);
        double rate = (copies ? 2.0 : 1.0) * (double)bytes / ((double)(tr_clock_ns() - begin) * 1e-9);
        if (rate > best) best = rate;
    }
    tr_free(m.from);
    tr_free(m.to);
    return best;
}
