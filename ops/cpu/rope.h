/* ops/cpu/rope.h - kernels of rope.   x, y (B,T,n*D); table (T,D): the cosines of a row, then its sines.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_CPU_ROPE_H
#define TROUPE_OPS_CPU_ROPE_H

#include "base/thread_pool.h"
#include "ops/tensor.h"

/* table[t] = magnitude * cos((first + t) frequencies[i]) for i < D/2, then the sines: in double, rounded. */
void tr_rope_table(float *table, int64_t first, int64_t time, int32_t head_size, const double *frequencies,
                   double magnitude);

/* Rotates the pairs (i, i + D/2) of every head by the row's angles, or back where `inverse`. y may be x;
 * both are of dtype. */
void tr_cpu_rope(const void *x, const float *table, void *y, int64_t batch, int64_t time, int64_t heads,
                 int64_t head_size, bool inverse, tr_dtype dtype, tr_thread_pool *pool);

/* The plain reference, in ops/rope.c: angles from the positions, all in double. */
void tr_rope_reference(const float *x, float *y, int64_t batch, int64_t time, int64_t heads,
                       int64_t head_size, int64_t first, const double *frequencies, double magnitude,
                       bool inverse);

#endif
