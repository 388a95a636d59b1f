/* bench/cpu/limits.h - what this machine can do at most: products of matrices by oneDNN, all operands packed and in the
 * caches, and memory read or copied. Best of many short batches, so that neighbours of a loaded machine do not lower a limit.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_BENCH_CPU_LIMITS_H
#define TROUPE_BENCH_CPU_LIMITS_H

#include "base/thread_pool.h"
#include "ops/tensor.h"

double cpu_limit_flops(tr_dtype dtype, tr_thread_pool *pool); /* a second, all threads together */
double cpu_limit_bandwidth(tr_thread_pool *pool);             /* bytes read and written a second */

#endif
