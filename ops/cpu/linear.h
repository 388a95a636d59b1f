/* ops/cpu/linear.h - kernels of linear: matrix products, and sums of columns for the bias.
 * Letters: M rows (tokens), I inputs, O outputs. w is (O,I), or (I,O) where in_out.
 * x, y, their gradients and w are of dtype; b, dw and db are float32.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_CPU_LINEAR_H
#define TROUPE_OPS_CPU_LINEAR_H

#include "base/thread_pool.h"
#include "ops/tensor.h"

/* y (M,O) = x (M,I) w + b (O); b may be NULL. */
void tr_cpu_linear(const void *x, const void *w, const float *b, void *y, int64_t rows, int64_t in,
                   int64_t out, bool in_out, tr_dtype dtype, tr_thread_pool *pool);

/* dx (M,I) = dy (M,O) w^T, or += where accumulate. */
void tr_cpu_linear_dx(const void *dy, const void *w, void *dx, int64_t rows, int64_t in, int64_t out,
                      bool in_out, bool accumulate, tr_dtype dtype, tr_thread_pool *pool);

/* dw += x^T dy, in w's layout. */
void tr_cpu_linear_dw(const void *dy, const void *x, float *dw, int64_t rows, int64_t in, int64_t out,
                      bool in_out, tr_dtype dtype, tr_thread_pool *pool);

/* db (O) += the sum of dy (M,O) over its rows, in row order, in double. */
void tr_cpu_linear_db(const void *dy, float *db, int64_t rows, int64_t out, tr_dtype dtype,
                      tr_thread_pool *pool);

/* The plain references, in ops/linear.c. The backward overwrites dx and adds to dw and db. */
void tr_linear_reference(const float *x, const float *w, const float *b, float *y, int64_t rows, int64_t in,
                         int64_t out, bool in_out);
void tr_linear_backward_reference(const float *dy, const float *x, const float *w, float *dx, float *dw,
                                  float *db, int64_t rows, int64_t in, int64_t out, bool in_out);

#endif
