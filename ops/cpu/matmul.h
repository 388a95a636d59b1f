/* ops/cpu/matmul.h - products of matrices, cut into tiles over a thread pool, each tile by
 * single-threaded oneDNN. Why not oneDNN's own threads: they are OpenMP's, and how they cut the work depends
 * on their number. Our tiles depend on m and n alone and the sum over k is never cut, so the number of
 * threads cannot change a bit. Why its sgemm and no primitives: it needs no object for each shape, no
 * per-thread memory handles, and was as fast on one thread for every shape we use (within 5% where B is
 * transposed, faster by 10 to 20% where A is, twice as fast for one row). bfloat16 has no such function, so there
 * every thread keeps the primitives of the shapes it has met (matmul_bf16.c). Matrices are row-major with a
 * stride between rows, so that a tile, or a slice of a wider matrix, is a matrix.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_CPU_MATMUL_H
#define TROUPE_OPS_CPU_MATMUL_H

#include "base/thread_pool.h"
#include "ops/tensor.h"

/* C (m,n) = A B + beta C + bias.   op(A) (m,k) is stored as (k,m) where transpose_a, op(B) (k,n) as (n,k)
 * where transpose_b; *_stride: elements between the starts of two stored rows. beta: 0 (C is not read) or 1.
 * bias (n) or NULL is added to every row. A and B are of `dtype`, C of c_dtype: float32 for float32, and for
 * bfloat16 either; sums are float32 and rounded once, after beta C and the bias. */
typedef struct tr_matmul {
    int64_t m, n, k;
    const void *a, *b;
    const float *bias;
    void *c;
    int64_t a_stride, b_stride, c_stride;
    bool transpose_a, transpose_b;
    float beta;
    tr_dtype dtype, c_dtype;
} tr_matmul;

/* The tiles that (m,n) is cut into: the same on every machine. */
void tr_matmul_tile(int64_t m, int64_t n, int64_t *tile_m, int64_t *tile_n);

void tr_matmul_run(const tr_matmul *product, tr_thread_pool *pool);

/* One product on the calling thread, without tiles; for kernels that make their own. */
void tr_matmul_single(const tr_matmul *product);

/* tr_matmul_single for bfloat16, in matmul_bf16.c. Where the processor has no instructions for it, by float32. */
void tr__matmul_bf16(const tr_matmul *product);

#endif
