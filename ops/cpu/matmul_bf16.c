/* ops/cpu/matmul_bf16.c - one product of bfloat16 matrices on the calling thread; see matmul.h.
 * With avx512_bf16: oneDNN's primitives, which multiply pairs and add them up in float32. Making one takes
 * longer than running it, so each thread keeps those of the shapes it has met, with the memory objects that they
 * are run on; nothing of ours is shared between threads and nothing is allocated for a known shape.
 * Elsewhere: blocks are widened to float32, which is exact, and multiplied as such. oneDNN would
 * emulate the instructions, at a third of that speed.
 * Which of the two a product takes depends on the processor alone.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cpu/elements.h"
#include "ops/cpu/matmul.h"

#include <dnnl.h>
#include <pthread.h>

/* --- by float32 --- */

enum { BLOCK_M = 64, BLOCK_N = 128, BLOCK_K = 256 };

TR_MULTIVERSION static void widen(const tr_bf16 *from, int64_t stride, int64_t rows, int64_t columns,
                                  float *to)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < columns; j += TR_LANES)
            tr_store_up_to_x16(to + r * columns, j,
                               tr_load_up_to_x16(from + r * stride, j, columns - j, 0, TR_BF16), columns - j,
                               TR_F32);
}

TR_INLINE void finish_block(const tr_matmul *p, const float *sums, int64_t i, int64_t j, int64_t m, int64_t n,
                            tr_dtype dtype)
{
    for (int64_t r = 0; r < m; r++)
        for (int64_t c = 0; c < n; c += TR_LANES) {
            int64_t at = (i + r) * p->c_stride + j + c;
            tr_f32x16 sum = tr_load_up_to_x16(sums + r * n, c, n - c, 0, TR_F32);
            if (p->bias) sum += tr_load_up_to_x16(p->bias, j + c, n - c, 0, TR_F32);
            if (p->beta != 0) sum += tr_load_up_to_x16(p->c, at, n - c, 0, dtype);
            tr_store_up_to_x16(p->c, at, sum, n - c, dtype);
        }
}

TR_MULTIVERSION static void finish(const tr_matmul *p, const float *sums, int64_t i, int64_t j, int64_t m,
                                   int64_t n)
{
    TR_BY_DTYPE(p->c_dtype, finish_block, p, sums, i, j, m, n);
}

/* C's block of m rows and n columns from (i, j) on. */
static void widened_block(const tr_matmul *p, int64_t i, int64_t j, int64_t m, int64_t n)
{
    _Alignas(64) float a[BLOCK_M * BLOCK_K], b[BLOCK_K * BLOCK_N], sums[BLOCK_M * BLOCK_N];
    const tr_bf16 *from_a = p->a, *from_b = p->b;
    for (int64_t first = 0; first < p->k; first += BLOCK_K) {
        int64_t k = p->k - first < BLOCK_K ? p->k - first : BLOCK_K;
        if (p->transpose_a)
            widen(from_a + first * p->a_stride + i, p->a_stride, k, m, a);
        else
            widen(from_a + i * p->a_stride + first, p->a_stride, m, k, a);
        if (p->transpose_b)
            widen(from_b + j * p->b_stride + first, p->b_stride, n, k, b);
        else
            widen(from_b + first * p->b_stride + j, p->b_stride, k, n, b);
        dnnl_status_t status =
            dnnl_sgemm(p->transpose_a ? 'T' : 'N', p->transpose_b ? 'T' : 'N', m, n, k, 1.0f, a,
                       p->transpose_a ? m : k, b, p->transpose_b ? k : n, first > 0 ? 1.0f : 0.0f, sums, n);
        TR_ASSERT(status == dnnl_success);
    }
    finish(p, sums, i, j, m, n);
}

static void run_widened(const tr_matmul *p)
{
    for (int64_t i = 0; i < p->m; i += BLOCK_M)
        for (int64_t j = 0; j < p->n; j += BLOCK_N)
            widened_block(p, i, j, p->m - i < BLOCK_M ? p->m - i : BLOCK_M,
                          p->n - j < BLOCK_N ? p->n - j : BLOCK_N);
}

/* --- by oneDNN's primitives --- */

/* All that a primitive is made for; no padding, so that keys compare as bytes. */
typedef struct product_key {
    int64_t m, n, k, a_stride, b_stride, c_stride;
    int64_t form; /* transpositions, beta, bias and C's dtype as bits */
} product_key;

enum { A, B, BIAS, C, N_MEMORIES };

typedef struct product {
    product_key key;
    dnnl_primitive_t primitive; /* NULL: oneDNN has none for it */
    dnnl_memory_t memories[N_MEMORIES];
} product;

/* More shapes than a model has; a thread that meets more begins again. */
enum { MAX_PRODUCTS = 256 };

typedef struct products {
    dnnl_stream_t stream;
    product items[MAX_PRODUCTS];
    size_t count, latest;
} products;

/* In the thread's own memory, because a kernel has nobody to tell that there is none left. */
static _Thread_local products own;

static dnnl_engine_t engine; /* of the process, never destroyed */
static pthread_key_t ends;   /* frees a thread's products when the thread ends */
static bool native;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void must(dnnl_status_t status)
{
    TR_ASSERT(status == dnnl_success); /* out of memory, or a bug: there is no machine on which it may fail */
}

static void forget(products *self)
{
    for (size_t i = 0; i < self->count; i++) {
        if (self->items[i].primitive) dnnl_primitive_destroy(self->items[i].primitive);
        for (int k = 0; k < N_MEMORIES; k++)
            if (self->items[i].memories[k]) dnnl_memory_destroy(self->items[i].memories[k]);
    }
    self->count = self->latest = 0;
}

static void end_thread(void *of_thread)
{
    products *self = of_thread;
    forget(self);
    dnnl_stream_destroy(self->stream);
    self->stream = NULL;
}

static void begin_process(void)
{
    const unsigned wanted = dnnl_cpu_isa_avx512_core_bf16; /* a bit for each thing that it needs */
#ifdef __x86_64__
    native = ((unsigned)dnnl_get_effective_cpu_isa() & wanted) == wanted;
#else
    (void)wanted;
#endif
    if (!native) return;
    must(dnnl_engine_create(&engine, dnnl_cpu, 0));
    TR_ASSERT(pthread_key_create(&ends, end_thread) == 0);
}

static dnnl_memory_desc_t matrix(int64_t rows, int64_t columns, int64_t stride, bool transpose,
                                 dnnl_data_type_t type)
{
    dnnl_memory_desc_t made;
    const dnnl_dims_t dims = {rows, columns}, strides = {transpose ? 1 : stride, transpose ? stride : 1};
    must(dnnl_memory_desc_init_by_strides(&made, 2, dims, type, strides));
    return made;
}

static void make(product *self, const tr_matmul *p)
{
    dnnl_memory_desc_t of[N_MEMORIES] = {
        [A] = matrix(p->m, p->k, p->a_stride, p->transpose_a, dnnl_bf16),
        [B] = matrix(p->k, p->n, p->b_stride, p->transpose_b, dnnl_bf16),
        [BIAS] = matrix(1, p->n, p->n, false, dnnl_f32),
        [C] = matrix(p->m, p->n, p->c_stride, false, p->c_dtype == TR_BF16 ? dnnl_bf16 : dnnl_f32)};
    dnnl_matmul_desc_t wanted;
    must(dnnl_matmul_desc_init(&wanted, &of[A], &of[B], p->bias ? &of[BIAS] : NULL, &of[C]));
    dnnl_primitive_attr_t attributes;
    dnnl_post_ops_t after;
    must(dnnl_primitive_attr_create(&attributes));
    must(dnnl_post_ops_create(&after));
    if (p->beta != 0) must(dnnl_post_ops_append_sum(after, p->beta));
    must(dnnl_primitive_attr_set_post_ops(attributes, after));
    dnnl_primitive_desc_t found;
    dnnl_status_t status = dnnl_primitive_desc_create(&found, &wanted, attributes, engine, NULL);
    if (status != dnnl_unimplemented) {
        must(status);
        must(dnnl_primitive_create(&self->primitive, found));
        must(dnnl_primitive_desc_destroy(found));
        for (int k = 0; k < N_MEMORIES; k++)
            must(dnnl_memory_create(&self->memories[k], &of[k], engine, DNNL_MEMORY_NONE));
    }
    must(dnnl_post_ops_destroy(after));
    must(dnnl_primitive_attr_destroy(attributes));
}

static product *find(products *self, const tr_matmul *p)
{
    product_key key = {p->m, p->n, p->k, p->a_stride, p->b_stride, p->c_stride, 0};
    key.form = p->transpose_a | p->transpose_b << 1 | (p->beta != 0) << 2 | (p->bias != NULL) << 3 |
               (p->c_dtype == TR_BF16) << 4;
    for (size_t n = 0; n < self->count; n++) { /* mostly the shape of the tile before */
        size_t i = (self->latest + n) % self->count;
        if (memcmp(&self->items[i].key, &key, sizeof key) != 0) continue;
        self->latest = i;
        return &self->items[i];
    }
    if (self->count == MAX_PRODUCTS) forget(self);
    product *made = &self->items[self->count];
    *made = (product){.key = key};
    make(made, p);
    self->latest = self->count++;
    return made;
}

static products *of_this_thread(void)
{
    if (own.stream) return &own;
    must(dnnl_stream_create(&own.stream, engine, dnnl_stream_default_flags));
    TR_ASSERT(pthread_setspecific(ends, &own) == 0);
    return &own;
}

void tr__matmul_bf16(const tr_matmul *p)
{
    TR_ASSERT(pthread_once(&once, begin_process) == 0);
    products *known = native ? of_this_thread() : NULL;
    product *found = known ? find(known, p) : NULL;
    if (!found || !found->primitive) {
        run_widened(p);
        return;
    }
    const void *data[N_MEMORIES] = {p->a, p->b, p->bias, p->c};
    dnnl_exec_arg_t arguments[N_MEMORIES] = {{DNNL_ARG_SRC, found->memories[A]},
                                             {DNNL_ARG_WEIGHTS, found->memories[B]},
                                             {DNNL_ARG_DST, found->memories[C]},
                                             {DNNL_ARG_BIAS, found->memories[BIAS]}};
    for (int k = 0; k < N_MEMORIES; k++)
        must(dnnl_memory_set_data_handle(found->memories[k], (void *)(uintptr_t)data[k]));
    must(dnnl_primitive_execute(found->primitive, known->stream, p->bias ? 4 : 3, arguments));
}
