/* base/thread_pool.h - runs the tiles of a kernel on a fixed set of threads.
 * Why own threads: which tiles exist depends on shapes alone, every tile is computed by one thread with
 * single-threaded library calls, and so the number of threads cannot change a bit of the result.
 * Threads: one caller at a time for each pool; the caller works too. Tiles must not call tr_thread_pool_run.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_BASE_THREAD_POOL_H
#define TROUPE_BASE_THREAD_POOL_H

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tr_thread_pool tr_thread_pool;
typedef void (*tr_tile_function)(void *context, int64_t tile, int thread); /* thread: 0 .. n_threads-1 */

/* n_threads counts the caller: 1 starts no thread. Errors: TR_EINVAL (outside 1..256), TR_ENOMEM, TR_EIO. */
tr_status tr_thread_pool_new(tr_thread_pool **out, int n_threads, tr_error *err);
void tr_thread_pool_destroy(tr_thread_pool **self);
int tr_thread_pool_size(const tr_thread_pool *self); /* 1 for NULL */

/* Calls run(context, tile, thread) once for every tile in 0 .. n_tiles-1, in any order, and returns when all
 * are done. A NULL pool runs them in order on the caller. */
void tr_thread_pool_run(tr_thread_pool *self, int64_t n_tiles, tr_tile_function run, void *context);

int tr_cpu_count(void); /* processors this process may use */

#ifdef __cplusplus
}
#endif
#endif
