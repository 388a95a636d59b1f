/* test/base/buffer_test.c - the last release frees, once, whichever thread it is.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/buffer.h"

#include "base/memory.h"
#include "check.h"

#include <pthread.h>
#include <string.h>

enum { N_THREADS = 4, N_ROUNDS = 300 };

typedef struct owner {
    int freed;       /* not atomic on purpose: ThreadSanitizer sees a second release or a missing order */
    uint32_t *words; /* what the holders read and, one after the other, write */
} owner;

static void on_free(void *context)
{
    owner *self = context;
    self->freed++;
    for (int i = 0; i < N_THREADS; i++) self->words[i]++; /* every holder's write has happened before */
}

static void fresh_buffers_are_aligned_and_ours(void)
{
    const size_t sizes[] = {0, 1, 63, 64, 65, 100000};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        tr_buffer *buffer;
        tr_error err = {0};
        CHECK_OK(tr_buffer_new(&buffer, sizes[i], &err));
        CU_ASSERT_EQUAL((uintptr_t)buffer->data % TR_CACHE_LINE, 0);
        CU_ASSERT_EQUAL(buffer->size_bytes, sizes[i]);
        CU_ASSERT(buffer->kind == TR_MEMORY_HOST && buffer->device == -1 && !buffer->ready);
        CU_ASSERT(tr_buffer_is_unique(buffer));
        memset(buffer->data, 1, sizes[i]);
        tr_buffer *again = tr_buffer_retain(buffer);
        CU_ASSERT_PTR_EQUAL(again, buffer);
        CU_ASSERT(!tr_buffer_is_unique(buffer));
        tr_buffer_release(&again);
        CU_ASSERT_PTR_NULL(again);
        CU_ASSERT(tr_buffer_is_unique(buffer));
        tr_buffer_release(&buffer);
        CU_ASSERT_PTR_NULL(buffer);
        tr_buffer_release(&buffer); /* nothing is fine */
    }
}

static void wrapped_memory_goes_back_once(void)
{
    uint32_t words[N_THREADS] = {0};
    owner known = {.words = words};
    tr_buffer *buffer;
    tr_error err = {0};
    CHECK_OK(tr_buffer_wrap(&buffer, words, sizeof words, on_free, &known, &err));
    CU_ASSERT(buffer->data == words && buffer->size_bytes == sizeof words);
    tr_buffer *second = tr_buffer_retain(buffer);
    tr_buffer_release(&buffer);
    CU_ASSERT_EQUAL(known.freed, 0);
    tr_buffer_release(&second);
    CU_ASSERT_EQUAL(known.freed, 1);
    CHECK_OK(tr_buffer_wrap(&buffer, words, sizeof words, NULL, NULL, &err));
    tr_buffer_release(&buffer); /* without a function nobody is told */
}

typedef struct holder {
    pthread_barrier_t *barrier;
    tr_buffer *buffer;
    int index;
} holder;

static void *hold(void *argument)
{
    holder *self = argument;
    pthread_barrier_wait(self->barrier);
    for (int i = 0; i < 10; i++) {
        tr_buffer *more = tr_buffer_retain(self->buffer);
        ((uint32_t *)more->data)[self->index]++;
        tr_buffer_release(&more);
    }
    tr_buffer_release(&self->buffer);
    return NULL;
}

static void last_release_of_many_threads_frees_once(void)
{
    for (int round = 0; round < N_ROUNDS; round++) {
        uint32_t words[N_THREADS] = {0};
        owner known = {.words = words};
        tr_buffer *buffer;
        tr_error err = {0};
        CHECK_OK(tr_buffer_wrap(&buffer, words, sizeof words, on_free, &known, &err));
        pthread_barrier_t barrier;
        pthread_barrier_init(&barrier, NULL, N_THREADS);
        pthread_t threads[N_THREADS];
        holder holders[N_THREADS];
        for (int i = 0; i < N_THREADS; i++)
            holders[i] = (holder){&barrier, i ? tr_buffer_retain(buffer) : buffer, i};
        for (int i = 0; i < N_THREADS; i++) pthread_create(&threads[i], NULL, hold, &holders[i]);
        for (int i = 0; i < N_THREADS; i++) pthread_join(threads[i], NULL);
        CU_ASSERT_EQUAL_FATAL(known.freed, 1);
        for (int i = 0; i < N_THREADS; i++) CU_ASSERT_EQUAL(words[i], 11);
        pthread_barrier_destroy(&barrier);
    }
}

/* Whoever sees "unique" may write: all that other holders did is visible. */
static void *let_go(void *argument)
{
    tr_buffer *buffer = argument;
    *(uint32_t *)buffer->data = 7;
    tr_buffer_release(&buffer);
    return NULL;
}

static void unique_means_that_others_are_done(void)
{
    for (int round = 0; round < N_ROUNDS; round++) {
        tr_buffer *buffer;
        tr_error err = {0};
        CHECK_OK(tr_buffer_new(&buffer, sizeof(uint32_t), &err));
        pthread_t thread;
        pthread_create(&thread, NULL, let_go, tr_buffer_retain(buffer));
        while (!tr_buffer_is_unique(buffer)) sched_yield();
        CU_ASSERT_EQUAL(*(uint32_t *)buffer->data, 7);
        *(uint32_t *)buffer->data = 8;
        tr_buffer_release(&buffer);
        pthread_join(thread, NULL);
    }
}

static void no_memory_leaves_nothing(void)
{
    for (uint64_t n = 1; n <= 2; n++) {
        tr_buffer *buffer = NULL;
        tr_error err = {0};
        tr_memory_fail_after(n);
        CU_ASSERT_EQUAL(tr_buffer_new(&buffer, 100, &err), TR_ENOMEM);
        tr_memory_fail_after(0);
        CU_ASSERT_PTR_NULL(buffer);
    }
    uint32_t words[N_THREADS] = {0};
    owner known = {.words = words};
    tr_buffer *buffer = NULL;
    tr_memory_fail_after(1);
    CU_ASSERT_EQUAL(tr_buffer_wrap(&buffer, words, sizeof words, on_free, &known, NULL), TR_ENOMEM);
    tr_memory_fail_after(0);
    CU_ASSERT(!buffer && known.freed == 0);
}

static const check_test tests[] = {
    CHECK_TEST(fresh_buffers_are_aligned_and_ours),
    CHECK_TEST(wrapped_memory_goes_back_once),
    CHECK_TEST(last_release_of_many_threads_frees_once),
    CHECK_TEST(unique_means_that_others_are_done),
    CHECK_TEST(no_memory_leaves_nothing),
};
CHECK_MAIN("buffer", tests)
