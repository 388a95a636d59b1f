/* The promises of runtime/scheduler.h, timers.h and poller.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "check.h"

#include "base/clock.h"
#include "runtime/poller.h"
#include "runtime/scheduler.h"
#include "runtime/timers.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

enum { TASKS = 100, HOPS = 200, OUTSIDERS = 2 };

typedef struct bench {
    tr_scheduler *scheduler;
    tr_poller poller;
    _Atomic int n_ran, n_alive;
    _Atomic bool overlap;
} bench;

static bench b;

static bool no_progress(void *context)
{
    (void)context;
    return false;
}

static void sleep_outside(void *context)
{
    tr_poller_wait(&((bench *)context)->poller, NULL, 0,
                   10000000000u); /* a lost wake-up shows as ten seconds */
}

static void rouse(void *context)
{
    tr_poller_rouse(&((bench *)context)->poller);
}

static void open_bench(int n_threads, bool may_spin)
{
    tr_error err;
    b = (bench){0};
    tr_scheduler_hooks hooks = {&b, no_progress, sleep_outside, rouse};
    CHECK_OK(tr_poller_init(&b.poller, &err));
    CHECK_OK(tr_scheduler_new(&b.scheduler, n_threads, may_spin, &hooks, &err));
}

static void close_bench(void)
{
    tr_scheduler_destroy(&b.scheduler);
    tr_poller_release(&b.poller);
}

typedef struct hopper {
    tr_task task;
    _Atomic int inside;
    _Atomic int to_do; /* what notifications stand for */
    int done;
    uint32_t seed;
} hopper;

static hopper hoppers[TASKS];

/* Takes all that is to do, passes as much on to others, as long as there are hops left. */
static bool hop(tr_task *task, int worker)
{
    hopper *self = (hopper *)task;
    (void)worker;
    if (atomic_exchange(&self->inside, 1)) b.overlap = true;
    int n = atomic_exchange(&self->to_do, 0);
    for (int i = 0; i < n && self->done < HOPS; i++) {
        self->done++;
        self->seed = self->seed * 1664525u + 1013904223u;
        hopper *next = &hoppers[(self->seed >> 8) % TASKS];
        atomic_fetch_add(&next->to_do, 1);
        tr_scheduler_notify(b.scheduler, &next->task);
        if (self->done == HOPS && atomic_fetch_sub(&b.n_alive, 1) == 1) tr_scheduler_stop(b.scheduler);
    }
    atomic_store(&self->inside, 0);
    return self->seed % 16 == 0;
}

static void *prod(void *argument)
{
    uint32_t seed = (uint32_t)(size_t)argument;
    while (b.n_alive > 0) { /* keeps the storm alive: a hopper that is through swallows */
        seed = seed * 1664525u + 1013904223u;
        hopper *one = &hoppers[(seed >> 8) % TASKS];
        atomic_fetch_add(&one->to_do, 1);
        tr_scheduler_notify(b.scheduler, &one->task);
        if (seed % 64 == 0) usleep(50);
    }
    return NULL;
}

static void storm(int n_threads, bool may_spin)
{
    pthread_t threads[OUTSIDERS];
    tr_error err;
    open_bench(n_threads, may_spin);
    for (uint32_t i = 0; i < TASKS; i++) {
        hoppers[i] = (hopper){.seed = i};
        tr_task_init(&hoppers[i].task, hop, false);
    }
    b.n_alive = TASKS;
    for (size_t i = 0; i < OUTSIDERS; i++) pthread_create(&threads[i], NULL, prod, (void *)(i + 1));
    CHECK_OK(tr_scheduler_run(b.scheduler, &err));
    for (int i = 0; i < OUTSIDERS; i++) pthread_join(threads[i], NULL);
    long sum = 0;
    for (int i = 0; i < TASKS; i++) sum += hoppers[i].done;
    CU_ASSERT(sum == (long)TASKS * HOPS && !b.overlap);
    close_bench();
}

static void a_task_runs_on_one_thread_at_a_time_in_a_storm(void)
{
    storm(1, false);
    storm(4, false);
    storm(4, true);
}

/* ---- one notification at a time, from outside, to a sleeping scheduler ---- */

static _Atomic int answered;

static bool answer(tr_task *task, int worker)
{
    (void)task, (void)worker;
    answered++;
    return false;
}

static void *knock(void *task)
{
    for (int i = 0; i < 500; i++) {
        int before = answered;
        tr_scheduler_notify(b.scheduler, task);
        while (answered == before) usleep(1);
        if (i % 16 == 0) usleep(500); /* so that it is really asleep */
    }
    tr_scheduler_stop(b.scheduler);
    return NULL;
}

static void no_wake_up_is_lost(void)
{
    for (int n_threads = 1; n_threads <= 3; n_threads++) {
        pthread_t thread;
        tr_error err;
        tr_task task;
        open_bench(n_threads, false);
        tr_task_init(&task, answer, false);
        answered = 0;
        uint64_t begin = tr_clock_ns();
        pthread_create(&thread, NULL, knock, &task);
        CHECK_OK(tr_scheduler_run(b.scheduler, &err));
        pthread_join(thread, NULL);
        CU_ASSERT(answered == 500 && tr_clock_ns() - begin < 9000000000u);
        close_bench();
    }
}

/* ---- a notification that comes while the task runs ---- */

static _Atomic int entered, n_told;

static bool wait_to_be_told(tr_task *task, int worker)
{
    (void)task, (void)worker;
    int before = n_told;
    if (++entered == 50) {
        tr_scheduler_stop(b.scheduler);
        return false;
    }
    while (n_told == before) usleep(1);
    return false;
}

static void *tell_while_it_runs(void *task)
{
    uint64_t until = tr_clock_ns() + 5000000000u;
    for (int i = 1; i < 50 && tr_clock_ns() < until; i++) {
        while (entered < i && tr_clock_ns() < until) usleep(1);
        tr_scheduler_notify(b.scheduler, task);
        n_told++;
    }
    while (entered < 50 && tr_clock_ns() < until) usleep(100);
    tr_scheduler_stop(b.scheduler);
    return NULL;
}

static void a_task_notified_while_it_runs_runs_again(void)
{
    tr_error err;
    tr_task task;
    pthread_t thread;
    open_bench(1, false);
    tr_task_init(&task, wait_to_be_told, false);
    entered = n_told = 0;
    tr_scheduler_notify(b.scheduler, &task);
    pthread_create(&thread, NULL, tell_while_it_runs, &task);
    CHECK_OK(tr_scheduler_run(b.scheduler, &err));
    pthread_join(thread, NULL);
    CU_ASSERT(entered == 50);
    close_bench();
}

static void a_held_task_waits_for_its_launch(void)
{
    tr_error err;
    tr_task task;
    pthread_t thread;
    open_bench(1, false);
    tr_task_init(&task, answer, true);
    answered = 0;
    tr_scheduler_notify(b.scheduler, &task);
    CU_ASSERT(answered == 0);
    tr_scheduler_launch(b.scheduler, &task);
    pthread_create(&thread, NULL, knock, &task);
    CHECK_OK(tr_scheduler_run(b.scheduler, &err));
    pthread_join(thread, NULL);
    CU_ASSERT(answered >= 500);
    close_bench();
}

/* ---- what a thread makes runnable ---- */

enum { FOLLOWERS = 200 }; /* fewer than a thread's own queue holds, beyond which order is not promised */

typedef struct follower {
    tr_task task;
    int number;
} follower;

static follower followers[FOLLOWERS];
static int n_followed;
static bool followed_in_order;
static _Atomic bool others_ran;

static bool follow(tr_task *task, int worker)
{
    (void)worker;
    followed_in_order = followed_in_order && ((follower *)task)->number == n_followed;
    if (++n_followed == FOLLOWERS) tr_scheduler_stop(b.scheduler);
    return false;
}

static bool lead(tr_task *task, int worker)
{
    (void)task, (void)worker;
    for (int round = 0; round < 2; round++) /* who was told already is not told again */
        for (int i = 0; i < FOLLOWERS; i++) tr_scheduler_notify(b.scheduler, &followers[i].task);
    return false;
}

static void what_a_task_makes_runnable_runs_once_in_order(void)
{
    tr_error err;
    tr_task task;
    open_bench(1, false);
    n_followed = 0;
    followed_in_order = true;
    for (int i = 0; i < FOLLOWERS; i++) {
        followers[i].number = i;
        tr_task_init(&followers[i].task, follow, false);
    }
    tr_task_init(&task, lead, false);
    tr_scheduler_notify(b.scheduler, &task);
    CHECK_OK(tr_scheduler_run(b.scheduler, &err));
    CU_ASSERT(followed_in_order && n_followed == FOLLOWERS);
    close_bench();
}

static bool be_seen(tr_task *task, int worker)
{
    (void)task, (void)worker;
    others_ran = true;
    return false;
}

/* Makes one task runnable, which is kept for its own thread, and then works for long. */
static bool share_and_work(tr_task *task, int worker)
{
    (void)task, (void)worker;
    tr_scheduler_notify(b.scheduler, &followers[0].task);
    tr_scheduler_share(b.scheduler);
    for (uint64_t end_ns = tr_clock_ns() + 5000000000u; !others_ran && tr_clock_ns() < end_ns;) usleep(100);
    tr_scheduler_stop(b.scheduler);
    return false;
}

static void what_was_kept_is_others_before_long_work(void)
{
    tr_error err;
    tr_task task;
    open_bench(2, false);
    others_ran = false;
    tr_task_init(&followers[0].task, be_seen, false);
    tr_task_init(&task, share_and_work, false);
    tr_scheduler_notify(b.scheduler, &task);
    CHECK_OK(tr_scheduler_run(b.scheduler, &err));
    CU_ASSERT(others_ran);
    close_bench();
}

static int n_spins;

static bool spin_for_ever(tr_task *task, int worker)
{
    (void)worker;
    if (++n_spins < 100000 && !others_ran)
        tr_scheduler_notify(b.scheduler, task);
    else
        tr_scheduler_stop(b.scheduler);
    return false;
}

/* One that notifies itself again and again is what is kept each time; what others queued has its turn all the same. */
static void what_is_kept_starves_nobody(void)
{
    tr_error err;
    tr_task task;
    open_bench(1, false);
    others_ran = false;
    n_spins = 0;
    tr_task_init(&task, spin_for_ever, false);
    tr_task_init(&followers[0].task, be_seen, false);
    tr_scheduler_notify(b.scheduler, &task);
    tr_scheduler_notify(b.scheduler, &followers[0].task); /* from outside: in the shared list, behind it */
    CHECK_OK(tr_scheduler_run(b.scheduler, &err));
    CU_ASSERT(others_ran && n_spins < 1000);
    close_bench();
}

static void *stop_later(void *argument)
{
    (void)argument;
    usleep(300000);
    b.n_ran = (int)(tr_clock_ns() / 1000000 % 1000000);
    tr_scheduler_stop(b.scheduler);
    return NULL;
}

static void an_idle_scheduler_uses_no_processor_and_stops_promptly(void)
{
    pthread_t thread;
    tr_error err;
    struct rusage before, after;
    open_bench(4, true);
    getrusage(RUSAGE_SELF, &before);
    pthread_create(&thread, NULL, stop_later, NULL);
    CHECK_OK(tr_scheduler_run(b.scheduler, &err));
    int stopped_ms = (int)(tr_clock_ns() / 1000000 % 1000000);
    pthread_join(thread, NULL);
    getrusage(RUSAGE_SELF, &after);
    int64_t used_us = (after.ru_utime.tv_sec - before.ru_utime.tv_sec) * 1000000 + after.ru_utime.tv_usec -
                      before.ru_utime.tv_usec;
    CU_ASSERT(stopped_ms - b.n_ran < 200);
    CU_ASSERT(used_us < 30000); /* of 300,000 for each thread */
    close_bench();
}

static void *stop_soon(void *argument)
{
    for (volatile size_t spin = (size_t)argument; spin > 0;) spin--;
    tr_scheduler_stop(b.scheduler);
    return NULL;
}

/* While its threads are on their way to sleep: the one that wakes up first must not take the word from the others. */
static void a_stop_reaches_every_thread(void)
{
    tr_error err;
    for (size_t i = 0; i < CHECK_SIZE(1000, 20); i++) {
        pthread_t stopper;
        open_bench(3, false);
        uint64_t began_ns = tr_clock_ns();
        pthread_create(&stopper, NULL, stop_soon, (void *)(i % 100 * 1000));
        CHECK_OK(tr_scheduler_run(b.scheduler, &err));
        pthread_join(stopper, NULL);
        CU_ASSERT(tr_clock_ns() - began_ns < 9000000000u); /* the sleep outside has ten seconds */
        close_bench();
    }
}

static void timers_come_in_the_order_of_their_times(void)
{
    tr_timers timers;
    tr_timer timer;
    bool earliest;
    uint64_t last = 0, last_order = 0;
    uint32_t seed = 1;
    int n = 0;
    tr_timers_init(&timers);
    CU_ASSERT(tr_timers_next(&timers) == UINT64_MAX && !tr_timers_take(&timers, UINT64_MAX - 1, &timer));
    for (uint32_t i = 0; i < 1000; i++) {
        seed = seed * 1664525u + 1013904223u;
        CU_ASSERT(tr_timers_add(&timers, 1 + (seed >> 8) % 300, 1, 1, i, &earliest, NULL) == TR_OK);
    }
    for (uint64_t now = 0; now <= 300; now += 50) {
        for (; tr_timers_take(&timers, now, &timer); n++) {
            CU_ASSERT(timer.due_ns <= now && timer.due_ns >= last);
            CU_ASSERT(timer.due_ns > last || timer.order > last_order);
            last = timer.due_ns;
            last_order = timer.order;
        }
        CU_ASSERT(tr_timers_next(&timers) > now);
    }
    CU_ASSERT(n == 1000);
    tr_timers_release(&timers);
}

static int n_ready;

static void on_ready(void *context)
{
    uint64_t value;
    n_ready += read(*(int *)context, &value, sizeof value) == sizeof value;
}

static void a_watched_descriptor_calls_once_for_each_event(void)
{
    tr_error err;
    tr_poller poller;
    uint64_t one = 1;
    int descriptor = eventfd(0, EFD_NONBLOCK);
    CHECK_OK(tr_poller_init(&poller, &err));
    CHECK_OK(tr_poller_watch(&poller, descriptor, on_ready, &descriptor, &err));
    CU_ASSERT(tr_poller_watch(&poller, descriptor, on_ready, &descriptor, &err) == TR_EEXIST);
    CU_ASSERT(!tr_poller_wait(&poller, NULL, 0, 0));
    for (int i = 1; i <= 3; i++) {
        CU_ASSERT(write(descriptor, &one, sizeof one) == sizeof one);
        while (!tr_poller_wait(&poller, NULL, 0, 1000000000)) {
        }
        CU_ASSERT(!tr_poller_wait(&poller, NULL, 0, 0)); /* not again before its callback */
        tr_poller_dispatch(&poller);
        CU_ASSERT(n_ready == i);
    }
    tr_poller_unwatch(&poller, descriptor);
    CU_ASSERT(write(descriptor, &one, sizeof one) == sizeof one);
    CU_ASSERT(!tr_poller_wait(&poller, NULL, 0, 0) && !tr_poller_wait(&poller, NULL, 0, 0));
    tr_poller_release(&poller);
    close(descriptor);
}

static const check_test tests[] = {
    CHECK_TEST(a_task_runs_on_one_thread_at_a_time_in_a_storm),
    CHECK_TEST(no_wake_up_is_lost),
    CHECK_TEST(a_task_notified_while_it_runs_runs_again),
    CHECK_TEST(a_held_task_waits_for_its_launch),
    CHECK_TEST(what_a_task_makes_runnable_runs_once_in_order),
    CHECK_TEST(what_was_kept_is_others_before_long_work),
    CHECK_TEST(what_is_kept_starves_nobody),
    CHECK_TEST(an_idle_scheduler_uses_no_processor_and_stops_promptly),
    CHECK_TEST(a_stop_reaches_every_thread),
    CHECK_TEST(timers_come_in_the_order_of_their_times),
    CHECK_TEST(a_watched_descriptor_calls_once_for_each_event),
};
CHECK_MAIN("scheduler", tests)
