/* runtime/scheduler.c - see scheduler.h.
 * A worker's queue is a ring of tasks: its own thread appends at the tail, everybody (the owner too) takes
 * at the head. First come, first served, so a task that queues itself again and again starves nobody. What
 * does not fit, and what comes from other threads, goes to a shared list under a lock. Tasks that wait for a turn
 * are in a list by urgency, under the same lock; such a one may be notified, and is then in a queue as well: whoever
 * runs it from there takes it out of the list, and whoever gives turns passes over it.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/scheduler.h"

#include "base/clock.h"
#include "base/memory.h"
#include "base/spin.h"

#include <pthread.h>
#include <stdatomic.h>

enum {
    NOTIFIED = 1,
    RUNNING = 2,
    WAITING = 4,           /* in the list of those that wait for a turn */
    TURN = 8,              /* beside RUNNING: has been chosen for its turn */
    RING = 256,            /* tasks in a worker's own queue */
    SHARED_EVERY = 64,     /* activations between looks at the shared list while the own queue is not empty */
    TURN_EVERY = 256,      /* activations between turns while there is always something queued */
    PROGRESS_TICKS = 8192, /* 2 to 4 microseconds of work between looks outside */
    SHORT_TICKS = 1024,    /* activations that take less than this are clocked together, */
    CLOCKED_TOGETHER = 4,  /* so many of them: asking for the time costs as much as a short one */
    SPIN_MIN_NS = 2000,
    SPIN_MAX_NS = 50000, /* about twice what waking a parked thread takes */
    MAX_THREADS = 256
};

typedef struct worker {
    tr_scheduler *scheduler;
    pthread_t thread;
    int index;
    tr_task *kept;     /* queued before all in the ring, for this thread alone, without waking anybody */
    bool left_outside; /* it slept outside and nobody does now, perhaps */
    uint32_t n_activations;
    uint64_t looked_outside; /* ticks */
    uint64_t clock;          /* ticks, when last asked for */
    uint32_t n_unclocked;    /* activations to go before the next time */
    uint64_t spin_ns;
    _Alignas(TR_CACHE_LINE) _Atomic uint32_t head; /* takers compare-and-swap it */
    _Atomic uint32_t tail;                         /* the owner's */
    _Atomic(tr_task *) ring[RING];
} worker;

struct tr_scheduler {
    tr_scheduler_hooks hooks;
    int n_threads;
    bool may_spin;
    worker *workers;
    atomic_bool stopping;      /* relaxed where polled; the wake-ups that follow it order it */
    _Atomic int n_parked;      /* threads that announced they may sleep; see park and wake */
    _Atomic int n_looking;     /* threads that spin; relaxed: a hint */
    _Atomic bool outside;      /* somebody is in hooks.sleep, or about to be */
    _Atomic uint32_t n_shared; /* length of the shared list, for a look without the lock */
    _Atomic uint32_t n_turns;  /* length of the list of waiting tasks, for a look without the lock */
    pthread_mutex_t lock;      /* of what follows */
    pthread_cond_t wake;
    int n_waiting, n_permits;
    tr_task *shared_first, **shared_last;
    tr_task *waiting; /* by urgency */
};

static _Thread_local worker *current;

static worker *own_worker(const tr_scheduler *self)
{
    return current && current->scheduler == self ? current : NULL;
}

static void pause_briefly(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

/* Makes one sleeping thread run again, one that waits inside rather than the one outside. Called after the
 * work was queued. Adding nothing to n_parked is a read-modify-write like the one in park, so one of the two
 * is first: either this sees the sleeper, or the sleeper acquires what this released and sees the work. */
static void wake(tr_scheduler *self)
{
    if (atomic_fetch_add_explicit(&self->n_parked, 0, memory_order_acq_rel) == 0) return;
    pthread_mutex_lock(&self->lock);
    bool inside = self->n_waiting > self->n_permits;
    if (inside) {
        self->n_permits++;
        pthread_cond_signal(&self->wake);
    }
    pthread_mutex_unlock(&self->lock);
    if (!inside) self->hooks.rouse(self->hooks.context);
}

static void put_shared(tr_scheduler *self, tr_task *task)
{
    task->next_ = NULL;
    pthread_mutex_lock(&self->lock);
    *self->shared_last = task;
    self->shared_last = &task->next_;
    atomic_fetch_add_explicit(&self->n_shared, 1, memory_order_relaxed); /* ordered by wake and the lock */
    pthread_mutex_unlock(&self->lock);
}

static tr_task *take_shared(tr_scheduler *self)
{
    if (atomic_load_explicit(&self->n_shared, memory_order_relaxed) == 0) return NULL;
    pthread_mutex_lock(&self->lock);
    tr_task *task = self->shared_first;
    if (task) {
        self->shared_first = task->next_;
        if (!self->shared_first) self->shared_last = &self->shared_first;
        atomic_fetch_sub_explicit(&self->n_shared, 1, memory_order_relaxed);
    }
    pthread_mutex_unlock(&self->lock);
    return task;
}

/* To the thread's own queue, or to the shared list if that is full. */
static void append(tr_scheduler *self, worker *me, tr_task *task)
{
    uint32_t tail = atomic_load_explicit(&me->tail, memory_order_relaxed);
    /* acquire: pairs with the takers' release; a place is written again only after it was read. */
    if (tail - atomic_load_explicit(&me->head, memory_order_acquire) >= RING) {
        put_shared(self, task);
        return;
    }
    atomic_store_explicit(&me->ring[tail % RING], task, memory_order_relaxed);
    atomic_store_explicit(&me->tail, tail + 1, memory_order_release); /* pairs with the acquire in take */
}

static bool is_empty(worker *of)
{
    /* Relaxed: asked by its owner, who alone adds to it; takers only make it emptier. */
    return atomic_load_explicit(&of->head, memory_order_relaxed) ==
           atomic_load_explicit(&of->tail, memory_order_relaxed);
}

/* What was kept is for all now. */
static void share(tr_scheduler *self, worker *me)
{
    tr_task *kept = me->kept;
    me->kept = NULL;
    me->left_outside = false;
    if (kept) append(self, me, kept);
    if (self->n_threads > 1 && atomic_load_explicit(&self->n_looking, memory_order_relaxed) == 0) wake(self);
}

/* The first task that a thread makes runnable is its next one, most often a message's receiver: it stays with what is in
 * this processor's caches, and needs no atomics. Whatever comes while one is kept is for all. */
static void enqueue(tr_scheduler *self, tr_task *task)
{
    worker *me = own_worker(self);
    if (!me) {
        put_shared(self, task);
        wake(self);
    } else if (!me->kept && is_empty(me)) {
        me->kept = task;
    } else {
        append(self, me, task);
        me->left_outside = false;
        if (self->n_threads > 1 && atomic_load_explicit(&self->n_looking, memory_order_relaxed) == 0)
            wake(self);
    }
}

/* The oldest task of a worker's queue, for its owner and for thieves. */
static tr_task *take(worker *from)
{
    uint32_t head = atomic_load_explicit(&from->head, memory_order_relaxed);
    for (;;) {
        /* acquire: the task in the ring comes before the tail that covers it. */
        if (head == atomic_load_explicit(&from->tail, memory_order_acquire)) return NULL;
        tr_task *task = atomic_load_explicit(&from->ring[head % RING], memory_order_relaxed);
        /* release: the read above comes before the place is free. A place that was overwritten meanwhile
         * means that the head has moved, and the exchange fails. */
        if (atomic_compare_exchange_weak_explicit(&from->head, &head, head + 1, memory_order_acq_rel,
                                                  memory_order_relaxed))
            return task;
    }
}

/* ---- turns ---- */

/* RUNNING becomes WAITING, in the list; false: the task was notified meanwhile. Under the lock, so that whoever runs it
 * from a queue at once finds it in the list. */
static bool await_turn(tr_scheduler *self, tr_task *task)
{
    uint32_t expected = RUNNING;
    pthread_mutex_lock(&self->lock);
    /* release: what the task did, for the thread that runs it next. */
    bool waits = __atomic_compare_exchange_n(&task->state_, &expected, WAITING, false, __ATOMIC_ACQ_REL,
                                             __ATOMIC_ACQUIRE);
    if (waits) {
        tr_task **at = &self->waiting;
        while (*at && (*at)->urgency <= task->urgency) at = &(*at)->next_waiting_;
        task->next_waiting_ = *at;
        *at = task;
        atomic_fetch_add_explicit(&self->n_turns, 1, memory_order_relaxed); /* ordered by wake and the lock */
    }
    pthread_mutex_unlock(&self->lock);
    if (waits && self->n_threads > 1) wake(self);
    return waits;
}

static void unlink_waiting(tr_scheduler *self, tr_task **at)
{
    *at = (*at)->next_waiting_;
    atomic_fetch_sub_explicit(&self->n_turns, 1, memory_order_relaxed);
}

/* It was notified while it waited, and runs from a queue. */
static void stop_waiting(tr_scheduler *self, tr_task *task)
{
    pthread_mutex_lock(&self->lock);
    tr_task **at = &self->waiting;
    while (*at != task) at = &(*at)->next_waiting_;
    unlink_waiting(self, at);
    pthread_mutex_unlock(&self->lock);
}

/* The which-th of those that wait and were not notified. */
static tr_task *take_turn(tr_scheduler *self, uint32_t which)
{
    if (atomic_load_explicit(&self->n_turns, memory_order_relaxed) == 0) return NULL;
    tr_task *task = NULL;
    pthread_mutex_lock(&self->lock);
    for (tr_task **at = &self->waiting; *at && !task;) {
        uint32_t expected = WAITING;
        if (which > 0) {
            which -= __atomic_load_n(&(*at)->state_, __ATOMIC_RELAXED) == WAITING;
            at = &(*at)->next_waiting_;
        } else if (__atomic_compare_exchange_n(&(*at)->state_, &expected, RUNNING | TURN, false,
                                               __ATOMIC_ACQ_REL,
                                               __ATOMIC_RELAXED)) { /* acquire: what its last run did */
            task = *at;
            unlink_waiting(self, at);
        } else {
            at = &(*at)->next_waiting_;
        }
    }
    pthread_mutex_unlock(&self->lock);
    return task;
}

/* ---- threads ---- */

static tr_task *find(tr_scheduler *self, worker *me)
{
    tr_task *task = NULL;
    if (++me->n_activations % SHARED_EVERY == 0 && (task = take_shared(self))) return task;
    if (me->n_activations % TURN_EVERY == 0 && (task = take_turn(self, 0))) return task;
    if ((task = me->kept)) { /* older than all in the ring, which was empty then */
        me->kept = NULL;
        return task;
    }
    if ((task = take(me))) return task;
    if ((task = take_shared(self))) return task;
    for (int i = 1; i < self->n_threads && !task; i++)
        task = take(&self->workers[(me->index + i) % self->n_threads]);
    return task;
}

static bool anything_queued(tr_scheduler *self)
{
    if (atomic_load_explicit(&self->n_shared, memory_order_relaxed)) return true;
    if (atomic_load_explicit(&self->n_turns, memory_order_relaxed)) return true;
    for (int i = 0; i < self->n_threads; i++) {
        worker *one = &self->workers[i];
        if (atomic_load_explicit(&one->head, memory_order_relaxed) !=
            atomic_load_explicit(&one->tail, memory_order_relaxed))
            return true;
    }
    return false;
}

static bool is_stopping(tr_scheduler *self)
{
    return atomic_load_explicit(&self->stopping, memory_order_relaxed);
}

/* Under the lock a waker either counts this thread as waiting, or was here
 * before and left what the first line sees. */
static void wait_inside(tr_scheduler *self)
{
    pthread_mutex_lock(&self->lock);
    self->n_waiting++;
    bool wait = !anything_queued(self) && atomic_load_explicit(&self->outside, memory_order_relaxed);
    while (wait && self->n_permits == 0 && !is_stopping(self)) pthread_cond_wait(&self->wake, &self->lock);
    if (self->n_permits > 0) self->n_permits--;
    self->n_waiting--;
    pthread_mutex_unlock(&self->lock);
}

/* Sleeps unless there is work. A waker that comes between the announcement and the sleep leaves a permit or
 * has roused the outside, and either makes the sleep end at once. */
static void park(tr_scheduler *self, worker *me)
{
    me->left_outside = false;
    atomic_fetch_add_explicit(&self->n_parked, 1, memory_order_acq_rel); /* pairs with wake */
    if (!anything_queued(self) && !is_stopping(self)) {
        if (!atomic_exchange_explicit(&self->outside, true,
                                      memory_order_acquire)) { /* from one sleeper to the next */
            /* Once more: the sleeper before may have used up the rouse of a stop. It saw the stop then, and so does whoever
             * acquires what it released. (Work that it was roused for it takes itself.) */
            if (!is_stopping(self)) self->hooks.sleep(self->hooks.context);
            atomic_store_explicit(&self->outside, false, memory_order_release);
            me->left_outside = true; /* before long work somebody else should go there */
        } else {
            wait_inside(self);
        }
    }
    atomic_fetch_sub_explicit(&self->n_parked, 1, memory_order_relaxed);
}

/* Looks for work for a while without sleeping. The time doubles when that paid and halves when it did not. */
static tr_task *spin(tr_scheduler *self, worker *me)
{
    tr_task *task = NULL;
    uint64_t until = tr_clock_ns() + me->spin_ns;
    atomic_fetch_add_explicit(&self->n_looking, 1, memory_order_relaxed);
    do {
        for (int i = 0; i < 8 && !task; i++) {
            pause_briefly();
            if (self->hooks.progress(self->hooks.context) || anything_queued(self)) task = find(self, me);
        }
    } while (!task && !is_stopping(self) && tr_clock_ns() < until);
    atomic_fetch_sub_explicit(&self->n_looking, 1, memory_order_relaxed);
    me->spin_ns = task ? me->spin_ns * 2 : me->spin_ns / 2;
    if (me->spin_ns > SPIN_MAX_NS) me->spin_ns = SPIN_MAX_NS;
    if (me->spin_ns < SPIN_MIN_NS) me->spin_ns = SPIN_MIN_NS;
    return task;
}

static void run_task(tr_scheduler *self, worker *me, tr_task *task)
{
    /* acquire: what the notifiers did before. It clears NOTIFIED before the work is looked at. */
    uint32_t before = __atomic_exchange_n(&task->state_, RUNNING, __ATOMIC_ACQ_REL);
    if (before & WAITING) stop_waiting(self, task);
    task->urgency = TR_NO_WORK;
    bool its_turn = (before & TURN) && !(before & NOTIFIED);
    bool again = its_turn ? task->turn(task, me->index) : task->run(task, me->index);
    if (!again && task->urgency != TR_NO_WORK && await_turn(self, task)) return;
    uint32_t expected = RUNNING;
    /* release: what the task did, for the thread that runs it next. */
    if (!again && task->urgency == TR_NO_WORK &&
        __atomic_compare_exchange_n(&task->state_, &expected, 0, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        return;
    __atomic_exchange_n(&task->state_, NOTIFIED, __ATOMIC_ACQ_REL);
    enqueue(self, task);
}

static void work(worker *me)
{
    tr_scheduler *self = me->scheduler;
    current = me;
    while (!is_stopping(self)) {
        tr_task *task = find(self, me);
        if (!task) {
            if (self->hooks.progress(self->hooks.context)) continue;
            task = take_turn(self, 0);
            if (!task && self->may_spin && tr_spin_allowed()) task = spin(self, me);
            me->looked_outside = tr_clock_ticks();
        }
        if (!task) {
            park(self, me);
            continue;
        }
        run_task(self, me, task);
        if (me->n_unclocked > 0) {
            me->n_unclocked--;
            continue;
        }
        uint64_t now = tr_clock_ticks();
        if (now - me->clock < SHORT_TICKS) me->n_unclocked = CLOCKED_TOGETHER - 1;
        me->clock = now;
        if (now - me->looked_outside > PROGRESS_TICKS) {
            me->looked_outside = now;
            self->hooks.progress(self->hooks.context);
        }
    }
    current = NULL;
}

static void *thread_main(void *argument)
{
    work(argument);
    return NULL;
}

void tr_task_init(tr_task *self, bool (*run)(tr_task *self, int worker), bool held)
{
    *self = (tr_task){.run = run, .urgency = TR_NO_WORK, .state_ = held ? RUNNING : 0};
}

tr_status tr_scheduler_new(tr_scheduler **out, int n_threads, bool may_spin, const tr_scheduler_hooks *hooks,
                           tr_error *err)
{
    if (n_threads < 1 || n_threads > MAX_THREADS)
        return tr_fail(err, TR_EINVAL, "a node cannot have '%d' scheduler threads; give 1 to %d", n_threads,
                       MAX_THREADS);
    tr_scheduler *self = tr_alloc_zero(1, sizeof *self);
    worker *workers = self ? tr_alloc_aligned(TR_CACHE_LINE, (size_t)n_threads * sizeof *workers) : NULL;
    if (!workers) {
        tr_free(self);
        return tr_fail(err, TR_ENOMEM, "no memory for %d scheduler threads", n_threads);
    }
    for (int i = 0; i < n_threads; i++)
        workers[i] = (worker){.scheduler = self, .index = i, .spin_ns = SPIN_MAX_NS};
    self->hooks = *hooks;
    self->n_threads = n_threads;
    self->may_spin = may_spin;
    self->workers = workers;
    self->shared_last = &self->shared_first;
    pthread_mutex_init(&self->lock, NULL);
    pthread_cond_init(&self->wake, NULL);
    *out = self;
    return TR_OK;
}

void tr_scheduler_notify(tr_scheduler *self, tr_task *task)
{
    /* Is it notified, and will none but this thread run it, later? Then it sees all that this thread has done. (What is
     * kept becomes others' by a release, in append.) Relaxed: nobody else clears NOTIFIED meanwhile. */
    worker *me = own_worker(self);
    if (me && (me->kept == task ||
               (self->n_threads == 1 && (__atomic_load_n(&task->state_, __ATOMIC_RELAXED) & NOTIFIED))))
        return;
    /* release: what there is to do, for the runner's exchange;
     * acquire: the task's last run, if it is idle now. */
    uint32_t before = __atomic_fetch_or(&task->state_, NOTIFIED, __ATOMIC_ACQ_REL);
    if (!(before & (NOTIFIED | RUNNING))) enqueue(self, task);
}

void tr_scheduler_launch(tr_scheduler *self, tr_task *task)
{
    __atomic_exchange_n(&task->state_, NOTIFIED,
                        __ATOMIC_ACQ_REL); /* until now RUNNING kept everybody from queueing it */
    enqueue(self, task);
}

void tr_scheduler_share(tr_scheduler *self)
{
    worker *me = own_worker(self);
    if (me && (me->kept || me->left_outside)) share(self, me);
}

int tr_scheduler_worker(const tr_scheduler *self)
{
    worker *me = own_worker(self);
    return me ? me->index : -1;
}

tr_status tr_scheduler_run(tr_scheduler *self, tr_error *err)
{
    tr_status status = TR_OK;
    int started = 1;
    while (started < self->n_threads && status == TR_OK) {
        worker *one = &self->workers[started];
        if (pthread_create(&one->thread, NULL, thread_main, one) == 0) {
            started++;
            continue;
        }
        status =
            tr_fail(err, TR_EIO, "could not start scheduler thread %d of %d", started + 1, self->n_threads);
        tr_scheduler_stop(self);
    }
    work(&self->workers[0]);
    for (int i = 1; i < started; i++) pthread_join(self->workers[i].thread, NULL);
    return status;
}

/* Without run nobody owns a queue, so that everything notified lies in the shared list. */
uint32_t tr_scheduler_queued(const tr_scheduler *self)
{
    uint32_t n = atomic_load_explicit(&self->n_shared, memory_order_relaxed); /* one thread */
    for (const tr_task *task = self->waiting; task; task = task->next_waiting_) n += task->state_ == WAITING;
    return n;
}

void tr_scheduler_step(tr_scheduler *self, uint32_t which)
{
    TR_ASSERT(which < tr_scheduler_queued(self) && !current);
    uint32_t n_shared = atomic_load_explicit(&self->n_shared, memory_order_relaxed);
    if (which >= n_shared) {
        tr_task *turn = take_turn(self, which - n_shared);
        TR_ASSERT(turn); /* nobody else took it */
        run_task(self, &self->workers[0], turn);
        return;
    }
    tr_task **at = &self->shared_first;
    for (; which > 0; which--) at = &(*at)->next_;
    tr_task *task = *at;
    *at = task->next_;
    if (self->shared_last == &task->next_) self->shared_last = at;
    atomic_fetch_sub_explicit(&self->n_shared, 1, memory_order_relaxed);
    run_task(self, &self->workers[0], task);
}

uint32_t tr_scheduler_which(const tr_scheduler *self, const tr_task *task)
{
    uint32_t which = 0;
    for (const tr_task *other = self->shared_first; other; other = other->next_, which++)
        if (other == task) return which;
    return UINT32_MAX;
}

bool tr_task_is_idle(const tr_task *self)
{
    return __atomic_load_n(&self->state_, __ATOMIC_RELAXED) == 0; /* one thread */
}

bool tr_task_is_running(const tr_task *self)
{
    return (__atomic_load_n(&self->state_, __ATOMIC_RELAXED) & RUNNING) != 0; /* one thread */
}

void tr_scheduler_clear(tr_scheduler *self)
{
    TR_ASSERT(!current || self->n_threads == 1);
    for (int i = 0; i < self->n_threads; i++)
        for (self->workers[i].kept = NULL; take(&self->workers[i]);) {
        }
    while (take_shared(self)) {
    }
    pthread_mutex_lock(&self->lock);
    self->waiting = NULL; /* also those that were notified, and lay in a queue as well */
    atomic_store_explicit(&self->n_turns, 0, memory_order_relaxed);
    pthread_mutex_unlock(&self->lock);
}

void tr_scheduler_stop(tr_scheduler *self)
{
    pthread_mutex_lock(&self->lock);
    atomic_store_explicit(&self->stopping, true, memory_order_relaxed);
    pthread_cond_broadcast(&self->wake);
    pthread_mutex_unlock(&self->lock);
    self->hooks.rouse(self->hooks.context);
}

bool tr_scheduler_is_stopped(const tr_scheduler *self)
{
    return atomic_load_explicit(&self->stopping, memory_order_relaxed); /* only asked; nothing rests on it */
}

void tr_scheduler_destroy(tr_scheduler **out)
{
    tr_scheduler *self = *out;
    if (!self) return;
    pthread_cond_destroy(&self->wake);
    pthread_mutex_destroy(&self->lock);
    tr_free(self->workers);
    tr_free(self);
    *out = NULL;
}
