/* base/thread_pool.c - see thread_pool.h. Work is handed out tile by tile from one counter. A helper spins
 * for some microseconds after its last work (a kernel is mostly followed by another), then sleeps; it does
 * not spin where the machine has fewer processors than the pool threads, or is busy otherwise (base/spin.h).
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/thread_pool.h"

#include "base/clock.h"
#include "base/memory.h"
#include "base/spin.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

enum { SPIN_NS = 20000, ROUNDS_BETWEEN_SAMPLES = 1024 };

typedef struct helper {
    tr_thread_pool *pool;
    pthread_t thread;
    int index;
} helper;

struct tr_thread_pool {
    int n_threads;
    bool may_spin;
    uint32_t n_rounds;    /* the caller's */
    bool stopping;        /* under lock */
    tr_tile_function run; /* written before `round` is raised, read after it is seen */
    void *context;
    int64_t n_tiles;
    _Atomic int64_t next_tile; /* relaxed: each tile is taken once; its data is ordered by round and busy */
    _Atomic uint64_t
        round;        /* raised with release under lock, read with acquire: publishes run, context, n_tiles */
    _Atomic int busy; /* helpers still in this round; each leaves with release, the caller acquires zero */
    pthread_mutex_t lock;
    pthread_cond_t wake;
    helper *helpers;
};

int tr_cpu_count(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
    int count = CPU_COUNT(&set);
    return count > 0 ? count : 1;
}

static void take_tiles(tr_thread_pool *self, int thread)
{
    for (;;) {
        int64_t tile = atomic_fetch_add_explicit(&self->next_tile, 1, memory_order_relaxed);
        if (tile >= self->n_tiles) return;
        self->run(self->context, tile, thread);
    }
}

static bool wait_for_round(tr_thread_pool *self, uint64_t seen)
{
    if (self->may_spin && tr_spin_allowed()) {
        uint64_t until = tr_clock_ns() + SPIN_NS;
        do {
            for (int i = 0; i < 64; i++) {
                if (atomic_load_explicit(&self->round, memory_order_acquire) != seen) return true;
#if defined(__x86_64__)
                __builtin_ia32_pause();
#endif
            }
        } while (tr_clock_ns() < until);
    }
    pthread_mutex_lock(&self->lock);
    while (atomic_load_explicit(&self->round, memory_order_acquire) == seen && !self->stopping)
        pthread_cond_wait(&self->wake, &self->lock);
    bool again = !self->stopping;
    pthread_mutex_unlock(&self->lock);
    return again;
}

static void *help(void *argument)
{
    helper *me = argument;
    tr_thread_pool *self = me->pool;
    for (uint64_t seen = 0; wait_for_round(self, seen); seen++) {
        take_tiles(self, me->index);
        atomic_fetch_sub_explicit(&self->busy, 1, memory_order_release);
    }
    return NULL;
}

tr_status tr_thread_pool_new(tr_thread_pool **out, int n_threads, tr_error *err)
{
    if (n_threads < 1 || n_threads > 256)
        return tr_fail(err, TR_EINVAL, "a thread pool cannot have '%d' threads; give 1 to 256", n_threads);
    tr_thread_pool *self = tr_alloc_zero(1, sizeof *self);
    helper *helpers = self ? tr_alloc_zero((size_t)n_threads, sizeof *helpers) : NULL;
    if (!helpers) {
        tr_free(self);
        return tr_fail(err, TR_ENOMEM, "no memory for a pool of %d threads", n_threads);
    }
    self->helpers = helpers;
    self->may_spin = n_threads > 1 && n_threads <= tr_cpu_count();
    if (self->may_spin) tr_spin_sample();
    pthread_mutex_init(&self->lock, NULL);
    pthread_cond_init(&self->wake, NULL);
    self->n_threads = 1;
    for (int i = 1; i < n_threads; i++) {
        helpers[i] = (helper){.pool = self, .index = i};
        if (pthread_create(&helpers[i].thread, NULL, help, &helpers[i]) != 0) {
            tr_thread_pool_destroy(&self);
            return tr_fail(err, TR_EIO, "could not start thread %d of %d", i + 1, n_threads);
        }
        self->n_threads++;
    }
    *out = self;
    return TR_OK;
}

void tr_thread_pool_destroy(tr_thread_pool **out)
{
    tr_thread_pool *self = *out;
    if (!self) return;
    pthread_mutex_lock(&self->lock);
    self->stopping = true;
    pthread_cond_broadcast(&self->wake);
    pthread_mutex_unlock(&self->lock);
    for (int i = 1; i < self->n_threads; i++) pthread_join(self->helpers[i].thread, NULL);
    pthread_mutex_destroy(&self->lock);
    pthread_cond_destroy(&self->wake);
    tr_free(self->helpers);
    tr_free(self);
    *out = NULL;
}

int tr_thread_pool_size(const tr_thread_pool *self)
{
    return self ? self->n_threads : 1;
}

void tr_thread_pool_run(tr_thread_pool *self, int64_t n_tiles, tr_tile_function run, void *context)
{
    if (!self || self->n_threads == 1 || n_tiles <= 1) {
        for (int64_t tile = 0; tile < n_tiles; tile++) run(context, tile, 0);
        return;
    }
    if (self->may_spin && ++self->n_rounds % ROUNDS_BETWEEN_SAMPLES == 0) tr_spin_sample();
    self->run = run;
    self->context = context;
    self->n_tiles = n_tiles;
    atomic_store_explicit(&self->next_tile, 0, memory_order_relaxed);
    atomic_store_explicit(&self->busy, self->n_threads - 1, memory_order_relaxed);
    pthread_mutex_lock(&self->lock);
    atomic_fetch_add_explicit(&self->round, 1, memory_order_release);
    pthread_cond_broadcast(&self->wake);
    pthread_mutex_unlock(&self->lock);
    take_tiles(self, 0);
    for (int i = 0; atomic_load_explicit(&self->busy, memory_order_acquire) != 0; i++) {
        if (!self->may_spin || i > 4096) sched_yield();
    }
}
