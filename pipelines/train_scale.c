/* pipelines/train_scale.c - see train_scale.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/train_scale.h"

#include "actors/roles.h"
#include "actors/topics.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "pipelines/scale_socket.h"
#include "pipelines/state_moves.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { TEXT_BYTES = TR_ERROR_SIZE + 64, AGAIN_MS = 5000 };

typedef enum phase { IDLE, PAUSING, PREPARING, BEGINNING } phase;

struct tr__scale {
    tr__training *training;
    int ready;            /* an epoll of the three below */
    int listener, client; /* client: who is heard, or waits for an answer; -1: nobody */
    int word;             /* an eventfd: the coordinator has paused, or must be told to */
    phase phase;
    bool must_ask, has_paused; /* since `word` was read last */
    bool from_file;            /* who asked */
    bool has_wish;             /* for when nothing is under way: */
    tr_layout wish;
    tr_job_plan *plan; /* of the layout that is wanted; NULL: the one that is */
    tr_state_move *moves;
    tr_change change;
    int32_t *leaving; /* nodes that want to, n_leaving: first those of the change at hand */
    size_t n_leaving;
    uint64_t again_ns; /* when a change that they need and that was refused is tried again */
    int32_t max_nodes;
    tr_layout before;
    int32_t n_workers; /* before */
    uint64_t asked_ns, paused_ns, prepared_ns;
    uint32_t paused_step;
};

/* ---- words ---- */

static void wake(tr__scale *self)
{
    uint64_t one = 1;
    if (write(self->word, &one, sizeof one) != sizeof one)
        tr_log(TR_LOG_ERROR, "cannot go on with a change of the layout: %s", strerror(errno));
}

static void hang_up(tr__scale *self)
{
    if (self->client >= 0) close(self->client); /* which takes it out of the epoll */
    self->client = -1;
}

static void answer(tr__scale *self, tr_scale_answer kind, const char *text)
{
    char line[TEXT_BYTES + 32];
    if (self->client >= 0) (void)tr_scale_answer_with(self->client, kind, text);
    if (self->from_file && kind != TR_SCALE_DONE) { /* what is done is an event anyway */
        snprintf(line, sizeof line, "scale.json: %s", text);
        tr_run_note(self->training->run, "scale_refused", line);
    }
    self->from_file = false;
    hang_up(self);
}

/* The plan stays with the training's others: it may have been the job's. */
static void become_idle(tr__scale *self)
{
    tr_free(self->moves);
    self->moves = NULL;
    self->plan = NULL;
    self->phase = IDLE;
    if (self->has_wish) wake(self);
}

/* Who connects meanwhile, and is not heard yet, gets no answer to what others wanted. */
static void finish(tr__scale *self, tr_scale_answer kind, const char *text)
{
    if (self->plan) answer(self, kind, text);
    become_idle(self);
}

/* ---- a wish ---- */

static uint64_t available_bytes(void)
{
    unsigned long long kib = 0;
    char line[128];
    FILE *file = fopen("/proc/meminfo", "re");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1) break;
    if (file) fclose(file);
    return kib ? kib << 10 : UINT64_MAX;
}

static uint64_t bytes_on_host(const tr_job_plan *plan)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < plan->training.n_replicas * plan->training.n_stages; i++) {
        uint32_t replica = i / plan->training.n_stages, stage = i % plan->training.n_stages;
        tr_actor_id id = tr_role_find_stage(&plan->topology, replica, stage);
        if (plan->host_of[tr_topology_actor(&plan->topology, id)->node] ==
            0) /* of others nothing is known here */
            bytes += tr_stage_budget_on_host(&plan->budgets[i]);
    }
    return bytes;
}

static tr_status check_memory(const tr_job_plan *now, const tr_job_plan *next, tr_error *err)
{
    uint64_t needed = bytes_on_host(next), had = bytes_on_host(now), there = available_bytes();
    if (needed <= had || needed - had <= there) return TR_OK;
    return tr_fail(err, TR_EINVAL, "it needs %.1f GiB more memory, and %.1f GiB are available",
                   (double)(needed - had) / (1 << 30), (double)there / (1 << 30));
}

static tr_status check_now(const tr__scale *self, const tr_layout *wish, tr_error *err)
{
    const tr__training *training = self->training;
    if (training->recipe->trace)
        return tr_fail(err, TR_EINVAL, "this run writes a trace (trace: true), which knows one layout only");
    if (training->recipe->layout.zero)
        return tr_fail(
            err, TR_EINVAL,
            "its replicas hold a shard of the state each (layout.zero: %d), which cannot be dealt out "
            "anew while it runs; stop it, and go on with --resume and the other layout",
            training->recipe->layout.zero);
    if (!training->listen[0] && wish->hosts > 1)
        return tr_fail(
            err, TR_EINVAL,
            "this run began on one host, which no other can join; give layout.hosts at its beginning");
    const tr_step_record *last = tr_run_last(training->run);
    if (last && last->step >= (uint32_t)training->recipe->train.steps)
        return tr_fail(err, TR_EINVAL, "the run has done its steps");
    return TR_OK;
}

/* Thought through while training goes on. */
static tr_status plan_wish(tr__scale *self, const tr_layout *wish, tr_error *err)
{
    tr__training *training = self->training;
    tr_job_plan *now = training->plan, *next = NULL;
    tr_model_config config = {0};
    tr_state_move *moves = NULL;
    tr_recipe recipe;
    tr_status status = check_now(self, wish, err);
    if (!status) status = tr_layout_recipe(&recipe, training->recipe, wish, err);
    if (!status) status = tr__training_keep_recipe(training, &recipe, err);
    if (status) return status;
    if (now->start.origin == TR_ORIGIN_CHECKPOINT) /* it may be gone by now */
        status = tr_model_config_parse(&config, now->model.config.json, now->start.directory, err);
    else
        status = tr_start_read_config(&now->start, training->recipe, &config, err);
    if (!status)
        status = tr__training_make_plan(training, training->recipes[training->n_recipes - 1], &now->start,
                                        &config, &next, err);
    if (!status) status = check_memory(now, next, err);
    if (!status) status = tr_state_moves(now, next, &moves, &self->change.n_moves, err);
    if (status) return status;
    tr_free(self->moves); /* of one that was thought of before */
    self->moves = moves;
    self->plan = next;
    return TR_OK;
}

static void begin_to_pause(tr__scale *self)
{
    const tr__training *training = self->training;
    self->phase = PAUSING;
    self->asked_ns = tr_clock_ns();
    self->before = tr_layout_of(training->recipe);
    self->n_workers = training->plan->topology.n_nodes - 1;
    self->has_paused = false;
    self->must_ask = true;
    wake(self);
}

static void wish_for(tr__scale *self, const tr_layout *wish)
{
    tr_layout now = tr_layout_of(self->training->recipe), whole = *wish;
    tr_error err;
    if (!whole.data) whole.data = now.data;
    if (!whole.pipeline) whole.pipeline = now.pipeline;
    if (!whole.pieces) whole.pieces = now.pieces;
    if (!whole.hosts) whole.hosts = now.hosts;
    self->has_wish = false;
    if (tr_layout_is_same(&now, &whole))
        answer(self, TR_SCALE_DONE, "it has that layout already");
    else if (plan_wish(self, &whole, &err))
        answer(self, TR_SCALE_REFUSED, err.message);
    else if (self->phase == IDLE) /* else somebody leaves, and it goes in one */
        begin_to_pause(self);
}

/* While a worker is being replaced it waits. */
static void take_wish(tr__scale *self, const tr_layout *wish)
{
    self->wish = *wish;
    self->has_wish = true;
    if (self->phase == IDLE || self->phase == PAUSING) wish_for(self, wish);
}

static void hear_client(tr__scale *self)
{
    char line[TR_SCALE_LINE_BYTES];
    tr_layout wish;
    tr_error err;
    int heard = self->client >= 0 ? tr_scale_hear(self->client, line, sizeof line) : 0;
    if (heard < 0) hang_up(self); /* what it asked for is done without it */
    if (heard <= 0) return;
    if (tr_layout_parse(&wish, line, &err))
        answer(self, TR_SCALE_REFUSED, err.message);
    else
        take_wish(self, &wish);
}

/* With somebody's wish. */
static bool is_busy(const tr__scale *self)
{
    return self->plan || self->has_wish;
}

/* One at a time is heard, and waits for its answer. */
static void greet_clients(tr__scale *self)
{
    for (int made; (made = tr_scale_accept(self->listener)) >= 0;) {
        struct epoll_event event = {.events = EPOLLIN};
        bool busy = self->client >= 0 || is_busy(self);
        if (busy)
            (void)tr_scale_answer_with(made, TR_SCALE_REFUSED, "another change of its layout is under way");
        if (busy || epoll_ctl(self->ready, EPOLL_CTL_ADD, made, &event) != 0)
            close(made);
        else
            self->client = made;
    }
}

void tr__scale_tick(tr__scale *self)
{
    tr_layout wish;
    tr_error err;
    if (self->phase == IDLE && self->n_leaving && tr_clock_ns() >= self->again_ns) begin_to_pause(self);
    char *path = tr_format("%s/scale.json", self->training->recipe->run), *text;
    size_t size;
    if (path && self->client < 0 && !is_busy(self) && tr_path_exists(path) &&
        !tr_file_read(path, &text, &size, NULL)) {
        unlink(path);
        self->from_file = true;
        if (tr_layout_parse_json(&wish, text, size, &err))
            answer(self, TR_SCALE_REFUSED, err.message);
        else
            take_wish(self, &wish);
        tr_free(text);
    }
    tr_free(path);
}

/* ---- the change ---- */

void tr__scale_paused(void *pausing, uint32_t step)
{
    tr__scale *self = pausing;
    self->paused_ns = tr_clock_ns();
    self->paused_step = step;
    self->has_paused = true;
    wake(self); /* this is a handler: the job is changed behind it */
}

static void go_on(tr__scale *self, struct tr_head *job)
{
    tr_job_post(job, tr_role_find(&self->training->plan->topology, TR_ROLE_COORDINATOR), TR_TOPIC_GO_ON);
}

/* What they want was refused with the change, or came while that was prepared: it is tried again by itself. */
static void leave_later(tr__scale *self)
{
    self->again_ns = tr_clock_ns() + AGAIN_MS * 1000000ull;
}

/* First the nodes that the next layout has as well; the others end anyway, if it comes. */
static void list_leaving(tr__scale *self)
{
    int32_t n_nodes = self->change.topology->n_nodes;
    self->change.n_leaving = 0;
    for (size_t i = 0; i < self->n_leaving; i++) {
        int32_t node = self->leaving[i];
        if (node >= n_nodes) continue;
        self->leaving[i] = self->leaving[self->change.n_leaving];
        self->leaving[self->change.n_leaving++] = node;
    }
    self->change.leaving = self->leaving;
}

static void prepare(tr__scale *self, struct tr_head *job)
{
    tr_job_plan *now = self->training->plan;
    tr_error err = {0};
    tr_status status = TR_OK;
    if (tr_job_is_stopping(job)) status = tr_fail(&err, TR_ESTOPPED, "the run was asked to stop");
    if (!status && !self->plan) status = tr_state_moves(now, now, &self->moves, &self->change.n_moves, &err);
    self->change.topology = self->plan ? &self->plan->topology : &now->topology;
    const tr_job_plan *next = self->plan ? self->plan : now;
    self->change.n_hosts = next->recipe->layout.hosts;
    self->change.host_of = next->host_of;
    self->change.equals = next->equals;
    self->change.moves = self->moves;
    self->change.generation = (uint64_t)self->paused_step + 1;
    list_leaving(self);
    if (!status) status = tr_job_change(job, &self->change, &err);
    if (!status) {
        self->phase = PREPARING;
        return;
    }
    /* Somebody has died since it paused: from the pause on, when all are back. */
    if (status == TR_EEXIST) return;
    leave_later(self);
    go_on(self, job);
    finish(self, TR_SCALE_FAILED, err.message);
}

static void on_ready(void *context, struct tr_head *job)
{
    tr__training *training = context;
    tr__scale *self = training->scale;
    uint64_t count;
    bool woken = read(self->word, &count, sizeof count) == sizeof count;
    greet_clients(self);
    hear_client(self);
    if (!woken && !self->must_ask) return;
    if (self->must_ask && self->phase == PAUSING)
        tr_job_post(job, tr_role_find(&training->plan->topology, TR_ROLE_COORDINATOR), TR_TOPIC_PAUSE);
    self->must_ask = false;
    if (self->phase == IDLE && self->has_wish) wish_for(self, &self->wish);
    bool has_paused = self->has_paused;
    self->has_paused = false;
    if (has_paused && self->phase == PAUSING)
        prepare(self, job);
    else if (has_paused && self->phase == IDLE)
        go_on(self, job);
}

static void on_leaving(void *context, struct tr_head *job, int32_t node)
{
    tr__training *training = context;
    tr__scale *self = training->scale;
    (void)job;
    for (size_t i = 0; i < self->n_leaving; i++)
        if (self->leaving[i] == node) return;
    if (self->phase == BEGINNING) return; /* it asks again when it works again */
    self->leaving[self->n_leaving++] = node;
    char text[96];
    snprintf(text, sizeof text, "worker %d is asked to leave: another one is to take its place", node);
    tr_run_note(training->run, "worker_leaving", text);
    if (self->phase == IDLE) begin_to_pause(self);
}

/* Another host is to have workers, or one is to have none any more. */
static void on_hosts(void *context, struct tr_head *job)
{
    tr__training *training = context;
    (void)job;
    if (training->scale->phase == IDLE) begin_to_pause(training->scale);
}

static tr_status on_begin(void *context, uint32_t epoch, tr_error *err)
{
    tr__training *training = context;
    tr__scale *self = training->scale;
    const tr_recipe *recipe = self->plan ? self->plan->recipe : training->recipe;
    const tr_layout layout = tr_layout_of(recipe);
    tr_status status = tr_run_epoch_in(training->run, epoch, &layout, err);
    if (status) return status;
    self->phase = BEGINNING;
    self->prepared_ns = tr_clock_ns();
    training->recipe = recipe;
    if (self->plan) training->plan = self->plan;
    tr__training_tell_coordinator(training);
    return TR_OK;
}

static void on_refused(void *context, struct tr_head *job, const tr_error *why)
{
    tr__training *training = context;
    tr__scale *self = training->scale;
    char text[TEXT_BYTES];
    snprintf(text, sizeof text, "nothing has changed: %s", why->message);
    if (!self->plan || (self->client < 0 && !self->from_file))
        tr_run_note(training->run, "scale_refused", text);
    go_on(self, job);
    finish(self, TR_SCALE_FAILED, text);
    leave_later(self);
}

/* ---- afterwards ---- */

static void add(char *text, size_t capacity, const char *format, ...) TR_PRINTF(3, 4);

static void add(char *text, size_t capacity, const char *format, ...)
{
    size_t used = strlen(text);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text + used, capacity - used, format, arguments);
    va_end(arguments);
}

static void add_count(char *text, size_t capacity, int32_t n, const char *what)
{
    if (n > 0) add(text, capacity, " %d worker%s %s,", n, n == 1 ? "" : "s", what);
}

static void tell_done(tr__scale *self, const tr_job_event *event)
{
    static const char *const keys[] = {"paused_after_ms", "prepared_after_ms", "without_steps_ms", NULL};
    tr__training *training = self->training;
    tr_layout now = tr_layout_of(training->recipe);
    int32_t n_workers = training->plan->topology.n_nodes - 1;
    uint64_t now_ns = tr_clock_ns();
    const double values[] = {(double)(self->paused_ns - self->asked_ns) * 1e-6,
                             (double)(self->prepared_ns - self->paused_ns) * 1e-6,
                             (double)(now_ns - self->paused_ns) * 1e-6};
    char text[TEXT_BYTES];
    snprintf(text, sizeof text, "generation %" PRIu64 ":", event->generation);
    if (now.data != self->before.data)
        add(text, sizeof text, " %d -> %d replicas,", self->before.data, now.data);
    if (now.pipeline != self->before.pipeline)
        add(text, sizeof text, " %d -> %d workers a replica,", self->before.pipeline, now.pipeline);
    if (now.pieces != self->before.pieces)
        add(text, sizeof text, " %d -> %d pieces a worker,", self->before.pieces, now.pieces);
    if (now.hosts != self->before.hosts)
        add(text, sizeof text, " %d -> %d hosts,", self->before.hosts, now.hosts);
    add_count(text, sizeof text, n_workers - self->n_workers, "new");
    add_count(text, sizeof text, self->n_workers - n_workers, "less");
    add_count(text, sizeof text, (int32_t)self->change.n_leaving, "replaced");
    add(text, sizeof text, " %.0f ms without steps", values[2]);
    if (event->kind == TR_JOB_RECOVERED) add(text, sizeof text, " (with a death on the way)");
    const char *kind = self->plan ? "scaled" : self->change.n_leaving ? "workers_replaced" : "hosts_changed";
    tr_run_note_numbers(training->run, kind, text, keys, values);
    finish(self, TR_SCALE_DONE, text);
    self->n_leaving = 0; /* who wants to leave as well asks again now */
}

void tr__scale_event(tr__scale *self, const tr_job_event *event)
{
    bool works = event->kind == TR_JOB_RUNNING || event->kind == TR_JOB_RECOVERED ||
                 event->kind == TR_JOB_READOPTED || event->kind == TR_JOB_CHANGED;
    if (!works) return;
    if (self->phase == IDLE) {
        self->n_leaving = 0; /* who still wants to asks again now, or is dead */
        return;
    }
    if (self->phase == BEGINNING) {
        tell_done(self, event);
        return;
    }
    /* Somebody died before it was recorded: once more, from the pause on. Who wanted to leave asks again, or is dead. */
    self->n_leaving = 0;
    if (!self->plan) {
        become_idle(self);
        return;
    }
    self->phase = PAUSING;
    self->has_paused = false;
    self->must_ask = true;
    wake(self);
}

/* ---- beginning and end ---- */

static tr_status open_descriptors(tr__scale *self, tr_error *err)
{
    struct epoll_event event = {.events = EPOLLIN};
    self->ready = epoll_create1(EPOLL_CLOEXEC);
    self->word = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (self->ready < 0 || self->word < 0 || epoll_ctl(self->ready, EPOLL_CTL_ADD, self->word, &event) != 0)
        return tr_fail(err, TR_EIO, "cannot wait for changes of the layout: %s", strerror(errno));
    tr_status status = tr_scale_listen(self->training->directory, &self->listener, err);
    if (!status && epoll_ctl(self->ready, EPOLL_CTL_ADD, self->listener, &event) != 0)
        status = tr_fail(err, TR_EIO, "cannot wait for changes of the layout: %s", strerror(errno));
    return status;
}

/* A replica has at least a reduction group, a worker at least a layer. */
static int32_t most_nodes(const tr__training *training)
{
    enum { MOST = 65535 };
    int64_t workers = (int64_t)training->recipe->train.groups * training->plan->model.config.layers;
    int32_t now = training->plan->topology.n_nodes;
    int32_t most = workers < MOST ? 1 + (int32_t)workers : MOST;
    return most > now ? most : now;
}

tr_status tr__scale_new(tr__scale **out, tr__training *training, tr_job_changes *changes, tr_error *err)
{
    *changes = (tr_job_changes){.descriptor = -1};
    if (!training->recipe->layout.processes || training->recipe->recovery == TR_RECOVERY_OFF) return TR_OK;
    tr__scale *self = tr_alloc_zero(1, sizeof *self);
    if (!self) return tr_fail(err, TR_ENOMEM, "no memory for changes of the layout");
    self->training = training;
    self->ready = self->word = self->listener = self->client = -1;
    self->max_nodes = most_nodes(training);
    self->leaving = tr_alloc((size_t)self->max_nodes * sizeof *self->leaving);
    tr_status status = self->leaving ? TR_OK : tr_fail(err, TR_ENOMEM, "no memory for changes of the layout");
    if (!status) status = tr__training_open_directory(training, err);
    if (!status) status = open_descriptors(self, err);
    if (status) {
        tr__scale_destroy(&self);
        return status;
    }
    *changes = (tr_job_changes){.max_nodes = self->max_nodes,
                                .descriptor = self->ready,
                                .on_ready = on_ready,
                                .on_leaving = on_leaving,
                                .on_hosts = on_hosts,
                                .begin = on_begin,
                                .on_refused = on_refused};
    *out = self;
    return TR_OK;
}

void tr__scale_end(tr__scale *self, const char *why)
{
    tr_scale_unlink(self->training->directory);
    greet_clients(self);
    if (self->client >= 0 || self->from_file) answer(self, TR_SCALE_FAILED, why);
}

void tr__scale_destroy(tr__scale **out)
{
    tr__scale *self = *out;
    if (!self) return;
    const int owned[] = {self->client, self->listener, self->word, self->ready};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++)
        if (owned[i] >= 0) close(owned[i]);
    tr_free(self->moves);
    tr_free(self->leaving);
    tr_free(self);
    *out = NULL;
}
