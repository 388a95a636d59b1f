/* test/base/thread_pool_test.c - every tile once, in every round, and all of it visible to the caller.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/thread_pool.h"

#include "base/clock.h"
#include "base/memory.h"
#include "check.h"

#include <pthread.h>
#include <string.h>

enum { MOST_TILES = 300, MOST_THREADS = 4 };

/* Nothing here is atomic: ThreadSanitizer sees a tile that runs twice, and a round that ends too early. */
typedef struct board {
    int times[MOST_TILES];
    int by_thread[MOST_THREADS];
    int64_t n_tiles;
    bool slow;
} board;

static void mark(void *context, int64_t tile, int thread)
{
    board *self = context;
    TR_ASSERT(tile >= 0 && tile < self->n_tiles && thread >= 0 && thread < MOST_THREADS);
    self->times[tile]++;
    self->by_thread[thread]++;
    if (self->slow) tr_clock_sleep_ms(1);
}

static void every_tile_runs_once(void)
{
    const int64_t sizes[] = {0, 1, 2, 3, 4, 5, 17, MOST_TILES};
    for (int n_threads = 1; n_threads <= MOST_THREADS; n_threads++) {
        tr_thread_pool *pool;
        tr_error err = {0};
        CHECK_OK(tr_thread_pool_new(&pool, n_threads, &err));
        CU_ASSERT_EQUAL(tr_thread_pool_size(pool), n_threads);
        for (int round = 0; round < 500; round++) {
            board all = {.n_tiles = sizes[round % 8]};
            tr_thread_pool_run(pool, all.n_tiles, mark, &all);
            int done = 0;
            for (int i = 0; i < MOST_TILES; i++) CU_ASSERT_EQUAL(all.times[i], i < all.n_tiles);
            for (int i = 0; i < MOST_THREADS; i++) done += all.by_thread[i];
            CU_ASSERT_EQUAL(done, all.n_tiles);
        }
        tr_thread_pool_destroy(&pool);
        CU_ASSERT_PTR_NULL(pool);
    }
    tr_thread_pool *none = NULL;
    tr_thread_pool_destroy(&none);
}

/* Helpers sleep between rounds that come late, and wake again. */
static void sleeping_helpers_wake(void)
{
    tr_thread_pool *pool;
    tr_error err = {0};
    CHECK_OK(tr_thread_pool_new(&pool, MOST_THREADS, &err));
    int helped = 0;
    for (int round = 0; round < 8; round++) {
        board all = {.n_tiles = 16, .slow = true};
        tr_clock_sleep_ms(3);
        tr_thread_pool_run(pool, all.n_tiles, mark, &all);
        for (int i = 0; i < all.n_tiles; i++) CU_ASSERT_EQUAL(all.times[i], 1);
        helped += all.by_thread[1] + all.by_thread[2] + all.by_thread[3];
    }
    CU_ASSERT(helped > 0); /* not all on the caller */
    tr_thread_pool_destroy(&pool);
}

static void in_order(void *context, int64_t tile, int thread)
{
    int64_t *next = context;
    CU_ASSERT_EQUAL(tile, *next);
    CU_ASSERT_EQUAL(thread, 0);
    ++*next;
}

static void without_a_pool_tiles_run_in_order(void)
{
    int64_t next = 0;
    CU_ASSERT_EQUAL(tr_thread_pool_size(NULL), 1);
    tr_thread_pool_run(NULL, 9, in_order, &next);
    CU_ASSERT_EQUAL(next, 9);
    tr_thread_pool *pool;
    tr_error err = {0};
    CHECK_OK(tr_thread_pool_new(&pool, 1, &err));
    next = 0;
    tr_thread_pool_run(pool, 9, in_order, &next);
    CU_ASSERT_EQUAL(next, 9);
    tr_thread_pool_destroy(&pool);
}

static void *run_one(void *argument)
{
    board all = {.n_tiles = 50};
    tr_thread_pool_run(argument, all.n_tiles, mark, &all);
    for (int i = 0; i < all.n_tiles; i++) TR_ASSERT(all.times[i] == 1);
    return NULL;
}

/* A stage's actor may move between scheduler threads: one caller at a time, not always the same. */
static void callers_may_take_turns(void)
{
    tr_thread_pool *pool;
    tr_error err = {0};
    CHECK_OK(tr_thread_pool_new(&pool, 3, &err));
    for (int i = 0; i < 20; i++) {
        pthread_t thread;
        pthread_create(&thread, NULL, run_one, pool);
        pthread_join(thread, NULL);
    }
    tr_thread_pool_destroy(&pool);
}

static void pools_come_and_go(void)
{
    for (int i = 0; i < 100; i++) {
        tr_thread_pool *pool;
        tr_error err = {0};
        CHECK_OK(tr_thread_pool_new(&pool, 1 + i % MOST_THREADS, &err));
        board all = {.n_tiles = 7};
        if (i % 3) tr_thread_pool_run(pool, all.n_tiles, mark, &all);
        tr_thread_pool_destroy(&pool);
    }
}

static void impossible_sizes_and_no_memory_are_refused(void)
{
    const int sizes[] = {0, -1, 257};
    tr_thread_pool *pool = NULL;
    for (size_t i = 0; i < 3; i++) {
        tr_error err = {0};
        CU_ASSERT_EQUAL(tr_thread_pool_new(&pool, sizes[i], &err), TR_EINVAL);
        CU_ASSERT(strstr(err.message, "give 1 to 256") != NULL);
    }
    uint64_t n = 1;
    for (tr_status status = TR_ENOMEM; status; n++) {
        tr_memory_fail_after(n);
        status = tr_thread_pool_new(&pool, 3, NULL);
        tr_memory_fail_after(0);
        if (status) CU_ASSERT(status == TR_ENOMEM && !pool);
    }
    CU_ASSERT(n > 2);
    tr_thread_pool_destroy(&pool);
    CU_ASSERT(tr_cpu_count() >= 1);
}

static const check_test tests[] = {
    CHECK_TEST(every_tile_runs_once),   CHECK_TEST(sleeping_helpers_wake),
    CHECK_TEST(callers_may_take_turns), CHECK_TEST(without_a_pool_tiles_run_in_order),
    CHECK_TEST(pools_come_and_go),      CHECK_TEST(impossible_sizes_and_no_memory_are_refused),
};
CHECK_MAIN("thread_pool", tests)
