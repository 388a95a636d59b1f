/* Turns: tasks with work that can wait, of which the most urgent is next. See runtime/scheduler.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "check.h"

#include "runtime/poller.h"
#include "runtime/scheduler.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

enum { TASKS = 40, OUTSIDERS = 2, UNITS = 100 };

static tr_scheduler *scheduler;
static tr_poller poller;

static bool no_progress(void *context)
{
    (void)context;
    return false;
}

static void sleep_outside(void *context)
{
    (void)context;
    tr_poller_wait(&poller, NULL, 0, 10000000000u); /* a lost wake-up shows as ten seconds */
}

static void rouse(void *context)
{
    (void)context;
    tr_poller_rouse(&poller);
}

static void open_scheduler(int n_threads, bool may_spin)
{
    tr_error err;
    tr_scheduler_hooks hooks = {NULL, no_progress, sleep_outside, rouse};
    CHECK_OK(tr_poller_init(&poller, &err));
    CHECK_OK(tr_scheduler_new(&scheduler, n_threads, may_spin, &hooks, &err));
}

static void close_scheduler(void)
{
    tr_scheduler_destroy(&scheduler);
    tr_poller_release(&poller);
}

typedef struct toiler {
    tr_task task;
    _Atomic int told; /* what notifications stand for */
    _Atomic int inside;
    int units; /* of work, one a turn */
    int done;
    uint32_t seed;
} toiler;

static toiler toilers[TASKS];
static _Atomic int n_left, n_wrong;

static uint32_t next_random(toiler *self)
{
    self->seed = self->seed * 1664525u + 1013904223u;
    return self->seed >> 8;
}

static void tell(toiler *one)
{
    atomic_fetch_add(&one->told, 1);
    tr_scheduler_notify(scheduler, &one->task);
}

static bool offer(toiler *self)
{
    if (self->units > 0) self->task.urgency = next_random(self) % 7;
    atomic_store(&self->inside, 0);
    return false;
}

static bool hear(tr_task *task, int worker)
{
    toiler *self = (toiler *)task;
    (void)worker;
    if (atomic_exchange(&self->inside, 1)) n_wrong++;
    self->units += atomic_exchange(&self->told, 0);
    return offer(self);
}

/* With one thread it is known who else waits, and everybody must have heard what he was told. */
static int n_activations, n_out_of_turn;

static void look_around(const toiler *self, uint64_t own)
{
    bool wrong = false;
    for (int i = 0; i < TASKS; i++) {
        const toiler *other = &toilers[i];
        wrong |= other->told > 0 || (other != self && other->units > 0 && other->task.urgency < own);
    }
    n_out_of_turn += wrong;
}

static uint64_t own_urgency[TASKS]; /* as offered: the scheduler clears it before the turn */

static bool toil(tr_task *task, int worker)
{
    toiler *self = (toiler *)task;
    (void)worker;
    if (atomic_exchange(&self->inside, 1) || self->units == 0) n_wrong++;
    self->units += atomic_exchange(&self->told, 0) - 1;
    if (++self->done <= UNITS) {
        tell(&toilers[next_random(self) % TASKS]);
        if (self->done == UNITS && atomic_fetch_sub(&n_left, 1) == 1) tr_scheduler_stop(scheduler);
    }
    return offer(self);
}

/* The same with one thread, when nobody else changes anything. */
static bool toil_alone(tr_task *task, int worker)
{
    toiler *self = (toiler *)task;
    n_activations++;
    look_around(self, own_urgency[self - toilers]);
    bool again = toil(task, worker);
    own_urgency[self - toilers] = task->urgency;
    return again;
}

static bool hear_alone(tr_task *task, int worker)
{
    n_activations++;
    bool again = hear(task, worker);
    own_urgency[(toiler *)task - toilers] = task->urgency;
    return again;
}

static void *prod(void *argument)
{
    uint32_t seed = (uint32_t)(size_t)argument;
    while (n_left > 0) { /* keeps it alive: who is through passes nothing on */
        seed = seed * 1664525u + 1013904223u;
        tell(&toilers[(seed >> 8) % TASKS]);
        if (seed % 64 == 0) usleep(50);
    }
    return NULL;
}

static void prepare(bool alone)
{
    n_wrong = n_activations = n_out_of_turn = 0;
    n_left = TASKS;
    for (uint32_t i = 0; i < TASKS; i++) {
        toilers[i] = (toiler){.seed = i};
        tr_task_init(&toilers[i].task, alone ? hear_alone : hear, false);
        toilers[i].task.turn = alone ? toil_alone : toil;
    }
}

static void storm(int n_threads, bool may_spin)
{
    pthread_t threads[OUTSIDERS];
    tr_error err;
    open_scheduler(n_threads, may_spin);
    prepare(false);
    for (size_t i = 0; i < OUTSIDERS; i++) pthread_create(&threads[i], NULL, prod, (void *)(i + 1));
    CHECK_OK(tr_scheduler_run(scheduler, &err));
    for (int i = 0; i < OUTSIDERS; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < TASKS; i++) CU_ASSERT(toilers[i].done >= UNITS);
    CU_ASSERT_EQUAL(n_wrong, 0);
    close_scheduler();
}

static void turns_are_neither_lost_nor_taken_twice_in_a_storm(void)
{
    storm(1, false);
    storm(4, false);
    storm(4, true);
}

static void the_most_urgent_is_next_when_all_have_heard(void)
{
    tr_error err;
    open_scheduler(1, false);
    prepare(true);
    for (int i = 0; i < TASKS; i++)
        for (int k = 0; k < UNITS; k++) tell(&toilers[i]);
    CHECK_OK(tr_scheduler_run(scheduler, &err));
    for (int i = 0; i < TASKS; i++) CU_ASSERT(toilers[i].done >= UNITS);
    CU_ASSERT_EQUAL(n_wrong, 0);
    /* One in many activations is a turn whatever is queued, so that nobody who waits is starved. */
    CU_ASSERT(n_activations > 2 * TASKS * UNITS && n_out_of_turn <= n_activations / 200);
    close_scheduler();
}

/* Whoever plays all threads sees them after what is queued, in the order of their urgency, equals as they came. */
static int order[TASKS], n_ordered;

static bool offer_by_number(tr_task *task, int worker)
{
    (void)worker;
    task->urgency = (uint64_t)(((toiler *)task - toilers) * 7 % TASKS / 2);
    return false;
}

static bool note_turn(tr_task *task, int worker)
{
    (void)worker;
    order[n_ordered++] = (int)((toiler *)task - toilers);
    return false;
}

static void turns_can_be_played_step_by_step(void)
{
    open_scheduler(1, false);
    n_ordered = 0;
    for (int i = 0; i < TASKS; i++) {
        tr_task_init(&toilers[i].task, offer_by_number, false);
        toilers[i].task.turn = note_turn;
        tr_scheduler_notify(scheduler, &toilers[i].task);
    }
    for (uint32_t i = 0; i < TASKS; i++) {
        CU_ASSERT_EQUAL(tr_scheduler_queued(scheduler), TASKS);
        tr_scheduler_step(scheduler, 0);
    }
    CU_ASSERT(n_ordered == 0 && !tr_task_is_idle(&toilers[0].task));
    tr_scheduler_notify(scheduler, &toilers[3].task); /* it waits and is queued, and counts once */
    CU_ASSERT_EQUAL(tr_scheduler_queued(scheduler), TASKS);
    tr_scheduler_step(scheduler, TASKS - 1); /* the least urgent */
    tr_scheduler_step(scheduler, 0);         /* number 3 hears, and comes behind its equals */
    for (uint32_t left = TASKS - 1; left > 0; left--) {
        CU_ASSERT_EQUAL(tr_scheduler_queued(scheduler), left);
        tr_scheduler_step(scheduler, 0);
    }
    CU_ASSERT_EQUAL(n_ordered, TASKS);
    CU_ASSERT_EQUAL(order[0] * 7 % TASKS / 2, TASKS / 2 - 1);
    for (int i = 2; i < n_ordered; i++) {
        int before = order[i - 1] * 7 % TASKS / 2, now = order[i] * 7 % TASKS / 2;
        bool in_turn = order[i - 1] == 3 ? false : order[i] == 3 || order[i - 1] < order[i];
        CU_ASSERT(before < now || (before == now && in_turn));
    }
    for (int i = 0; i < TASKS; i++) CU_ASSERT(tr_task_is_idle(&toilers[i].task));
    close_scheduler();
}

static int n_hasty;

static bool again_and_again(tr_task *task, int worker)
{
    (void)task, (void)worker;
    return ++n_hasty < 1000000;
}

static bool stop_all(tr_task *task, int worker)
{
    (void)task, (void)worker;
    tr_scheduler_stop(scheduler);
    return false;
}

static bool offer_little(tr_task *task, int worker)
{
    (void)worker;
    task->urgency = TR_NO_WORK - 1;
    return false;
}

static void who_waits_is_not_starved(void)
{
    tr_error err;
    tr_task hasty, patient;
    open_scheduler(1, false);
    n_hasty = 0;
    tr_task_init(&hasty, again_and_again, false);
    tr_task_init(&patient, offer_little, false);
    patient.turn = stop_all;
    tr_scheduler_notify(scheduler, &hasty);
    tr_scheduler_notify(scheduler, &patient);
    CHECK_OK(tr_scheduler_run(scheduler, &err));
    CU_ASSERT(n_hasty < 100000);
    close_scheduler();
}

static const check_test tests[] = {
    CHECK_TEST(turns_are_neither_lost_nor_taken_twice_in_a_storm),
    CHECK_TEST(the_most_urgent_is_next_when_all_have_heard),
    CHECK_TEST(turns_can_be_played_step_by_step),
    CHECK_TEST(who_waits_is_not_starved),
};
CHECK_MAIN("turns", tests)
