/* runtime/scheduler.h - runs tasks on a few threads: a queue each, work stealing, one thread at a time for
 * one task.
 * No wake-up is lost: a task's state is two bits, NOTIFIED (it waits in a queue, or shall run again) and
 * RUNNING. Notify sets NOTIFIED in one atomic step and queues the task when neither was set. The runner clears
 * NOTIFIED before it looks at the task's work and goes idle only if it is still clear. All of these are
 * read-modify-writes of one word, so in its single order a notify comes either before the clearing (the runner
 * sees what was there to do) or after it (the runner's way back to idle fails and the task is queued again).
 * A thread without work progresses the outside through the hooks; then one sleeps there, the others on a
 * condition.
 * Turns: a task may have work that can wait, and say how urgent it is. It then waits for a turn, which the most urgent of
 * those that wait gets when no task of this scheduler is queued and nothing comes from outside: so whoever was told
 * something has looked at it, and may be the more urgent one now, before anybody begins with something long.
 * Sources: the local queue with its overflow list is that of Go's scheduler (runtime/proc.go) in idea; going to
 * sleep is the two-sided check of Dekker's algorithm: announce, look again, sleep against queue, look for
 * sleepers, wake.
 * Threads: as said at each function.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_RUNTIME_SCHEDULER_H
#define TROUPE_RUNTIME_SCHEDULER_H

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tr_scheduler tr_scheduler;

typedef struct tr_task {
    struct tr_task *next_;
    /* One activation, on scheduler thread `worker`; true: queue it again. */
    bool (*run)(struct tr_task *self, int worker);
    /* The same as a turn. A task that was notified before its turn came is run first. NULL: it never waits for one. */
    bool (*turn)(struct tr_task *self, int worker);
    /* Set by run or turn that returns false: it has work for a turn, the lower the sooner; equals in the order in which they
     * came. TR_NO_WORK, to which it is set before each activation: it has none. */
    uint64_t urgency;
    struct tr_task *next_waiting_;
    uint32_t state_;
} tr_task;
#define TR_NO_WORK UINT64_MAX

typedef struct tr_scheduler_hooks {
    void *context;
    /* What can be done outside without waiting; true: something happened. Any thread. */
    bool (*progress)(void *context);
    /* Waits until something happens outside, or rouse was called since the
     * last sleep began. One thread at a time. */
    void (*sleep)(void *context);
    void (*rouse)(void *context); /* any thread */
} tr_scheduler_hooks;

/* A held task collects notifications and runs for the first time after launch. */
void tr_task_init(tr_task *self, bool (*run)(tr_task *self, int worker), bool held);

/* n_threads counts the caller of run. Errors: TR_EINVAL, TR_ENOMEM. */
tr_status tr_scheduler_new(tr_scheduler **out, int n_threads, bool may_spin, const tr_scheduler_hooks *hooks,
                           tr_error *err);
void tr_scheduler_notify(tr_scheduler *self, tr_task *task); /* any: there is something to do for it */
void tr_scheduler_launch(tr_scheduler *self, tr_task *task); /* any, once */

/* From within a task: about to do something long, so let other threads know of tasks that this one has made
 * runnable, and let one of them watch the outside. Until then one such task is kept for this thread, which is
 * cheaper and faster for short work. */
void tr_scheduler_share(tr_scheduler *self);
int tr_scheduler_worker(
    const tr_scheduler *self); /* index of the calling thread, -1 when it is none of these */

tr_status tr_scheduler_run(tr_scheduler *self, tr_error *err); /* until stop. Errors: TR_EIO (no thread) */
void tr_scheduler_stop(tr_scheduler *self); /* any: tasks that run now come to their end, no others */

/* Instead of run, for one caller who plays all threads and chooses what comes next (runtime/simulation.h). */
uint32_t tr_scheduler_queued(const tr_scheduler *self); /* tasks that could run now, or have a turn */
/* One activation of the which-th of them; those that wait for a turn come last, the most urgent first. */
void tr_scheduler_step(tr_scheduler *self, uint32_t which);
/* Which of them a task is; UINT32_MAX: none of those that could run now. */
uint32_t tr_scheduler_which(const tr_scheduler *self, const tr_task *task);
bool tr_task_is_idle(const tr_task *self);    /* neither runs nor waits to run, nor for a turn */
bool tr_task_is_running(const tr_task *self); /* asked by itself, or by whoever plays all threads */

bool tr_scheduler_is_stopped(const tr_scheduler *self); /* any */

/* Drops all that is queued: its tasks are about to go. Only while it does not run, or from within a task where it has one
 * thread. */
void tr_scheduler_clear(tr_scheduler *self);

void tr_scheduler_destroy(tr_scheduler **self);

#ifdef __cplusplus
}
#endif
#endif
