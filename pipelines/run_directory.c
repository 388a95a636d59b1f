/* pipelines/run_directory.c - see run_directory.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/run_directory.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"
#include "pipelines/epoch_log.h"
#include "pipelines/head_lease.h"
#include "pipelines/line_file.h"
#include "pipelines/run_log.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const uint64_t SECOND = 1000000000u;
static const uint64_t PLAIN_EVERY_S = 5, TERMINAL_EVERY_MS = 200, QUIET_AT_MOST_S = 10;

struct tr_run {
    int lock;            /* on the directory, for as long as this process trains in it; -1: none */
    tr_head_lease *lead; /* the owner's; NULL: there is none */
    tr_epoch_log *epochs;
    tr_line_file *log, *events;
    FILE *progress;
    char *made;     /* the highest directory that was made for this run; NULL: all were there */
    bool log_waits; /* said so */
    bool terminal;
    bool line_open; /* the terminal's changing line has no end yet */
    uint32_t n_steps, first_step;
    uint64_t began_ns, said_ns, heard_ns; /* heard: of the last record */
    double smooth_step_ms;                /* moving mean, for the time left */
    tr_step_record last;
    bool has_last;
    tr_job_event
        recovery;  /* after which no new step was logged yet; monotonic_ns 0: none. Its text is gone */
    tr_told *told; /* of the steps from first_step + 1 on, to compare with when one is run again */
    size_t told_capacity;
};

/* --- files --- */

/* The highest directory on the way to `path` that is not there yet, so that a start that fails can take back what it
 * made; NULL where all are. Free *out with tr_free. */
static tr_status first_missing(const char *path, char **out, tr_error *err)
{
    char *copy = tr_strdup(path);
    if (!copy) return tr_fail(err, TR_ENOMEM, "no memory for a path");
    for (char *end = copy + (*copy == '/');; end++) {
        if (*end != '/' && *end != 0) continue;
        char kept = *end;
        *end = 0;
        if (!tr_path_exists(copy)) {
            *out = copy;
            return TR_OK;
        }
        *end = kept;
        if (!kept) break;
    }
    tr_free(copy);
    *out = NULL;
    return TR_OK;
}

static tr_status lock_directory(tr_run *self, const char *path, tr_error *err)
{
    tr_status status = tr_directory_make(path, err);
    return status ? status : tr_run_lock(path, false, &self->lock, err);
}

/* What is there behind the first step, to compare with. */
static void remember_log(tr_run *self, tr_run_log *log)
{
    self->told = log->told;
    self->told_capacity = log->told_capacity;
    self->has_last = log->n_told > 0;
    self->last = log->last;
    self->smooth_step_ms = log->last.step_ms;
}

static tr_status open_files(tr_run *self, const tr_recipe *recipe, const tr_run_beginning *beginning,
                            uint32_t *n_kept, tr_error *err)
{
    tr_run_log kept = {.updates = beginning->updates, .keep = beginning->keep};
    char *checkpoints = tr_format("%s/checkpoints", recipe->run),
         *yaml = tr_format("%s/recipe.yaml", recipe->run);
    char *log = tr_format("%s/log.jsonl", recipe->run), *events = tr_format("%s/events.jsonl", recipe->run);
    char *epochs = tr_format("%s/epochs.jsonl", recipe->run);
    tr_status status = TR_OK;
    if (!checkpoints || !yaml || !log || !events || !epochs)
        status = tr_fail(err, TR_ENOMEM, "no memory for a run's paths");
    if (!status) status = tr_directory_make(checkpoints, err);
    if (!status) status = tr_recipe_write_yaml(recipe, yaml, err);
    if (!status) status = tr_run_log_cut(&kept, log, err);
    remember_log(self, &kept);
    *n_kept = kept.n_kept;
    if (!status) status = tr_epoch_log_open(&self->epochs, epochs, err);
    if (!status && self->lead) tr_epoch_log_under(self->epochs, tr_head_lease_revision(self->lead));
    if (!status) status = tr_line_file_open(&self->log, log, err);
    if (!status) status = tr_line_file_open(&self->events, events, err);
    if (!status) status = tr_directory_sync(recipe->run, err); /* the names of the three as well */
    tr_free(checkpoints);
    tr_free(yaml);
    tr_free(log);
    tr_free(events);
    tr_free(epochs);
    return status;
}

/* Lines that never reached a full disk, or were taken away. The training can go on without them. */
static void tell_of_gap(tr_run *self, uint32_t n_kept, uint32_t updates)
{
    char text[96];
    snprintf(text, sizeof text, "log.jsonl has %u of the %u steps before the checkpoint", n_kept, updates);
    tr_run_note(self, "log_gap", text);
}

tr_status tr_run_open(tr_run **out, const tr_recipe *recipe, uint32_t updates, FILE *progress, tr_error *err)
{
    const tr_run_beginning beginning = {.updates = updates, .lock = -1};
    return tr_run_open_at(out, recipe, &beginning, progress, err);
}

tr_status tr_run_open_at(tr_run **out, const tr_recipe *recipe, const tr_run_beginning *beginning,
                         FILE *progress, tr_error *err)
{
    const uint32_t updates = beginning->updates;
    tr_run *self = tr_alloc_zero(1, sizeof *self);
    if (!self) {
        if (beginning->lock >= 0) close(beginning->lock);
        return tr_fail(err, TR_ENOMEM, "no memory for a run");
    }
    self->progress = progress;
    self->terminal = progress && isatty(fileno(progress));
    self->n_steps = (uint32_t)recipe->train.steps;
    self->first_step = updates;
    self->began_ns = self->said_ns = self->heard_ns = tr_clock_ns();
    self->lock = beginning->lock;
    self->lead = beginning->lead;
    tr_status status = first_missing(recipe->run, &self->made, err);
    if (!status && self->lock < 0) status = lock_directory(self, recipe->run, err);
    bool locked = !status; /* without the lock it is another troupe's, that made it since we looked */
    uint32_t n_kept = 0;
    if (!status && self->lead && !tr_head_lease_is_held(self->lead))
        status = tr_fail(err, TR_ECLOSED, "the run '%s' is not opened: this head does not lead any more",
                         recipe->run);
    if (!status) status = open_files(self, recipe, beginning, &n_kept, err);
    if (!status && n_kept < updates) tell_of_gap(self, n_kept, updates);
    if (!status)
        *out = self;
    else if (locked)
        tr_run_withdraw(&self);
    else
        tr_run_close(&self);
    return status;
}

void tr_run_withdraw(tr_run **self)
{
    if (*self && (*self)->made) (void)tr_directory_remove_tree((*self)->made, NULL);
    tr_run_close(self);
}

void tr_run_close(tr_run **out)
{
    tr_run *self = *out;
    if (!self) return;
    if (self->line_open) fputc('\n', self->progress);
    tr_epoch_log_close(&self->epochs);
    tr_free(self->told);
    tr_line_file_close(&self->log);
    tr_line_file_close(&self->events);
    if (self->lock >= 0) close(self->lock);
    tr_free(self->made);
    tr_free(self);
    *out = NULL;
}

const tr_step_record *tr_run_last(const tr_run *self)
{
    return self->has_last ? &self->last : NULL;
}

/* --- what people see --- */

static void say(tr_run *self, const char *text, bool stays)
{
    if (!self->progress) return;
    if (self->terminal)
        fprintf(self->progress, "\r%s\x1b[K%s", text, stays ? "\n" : "");
    else
        fprintf(self->progress, "%s\n", text);
    if (fflush(self->progress) != 0) { /* whoever looked is gone: the training is not */
        clearerr(self->progress);
        self->progress = NULL;
        return;
    }
    self->line_open = self->terminal && !stays;
    self->said_ns = tr_clock_ns();
}

/* What is no number has updated nothing (actors/non_finite.h). */
static bool is_left_out(const tr_step_record *record)
{
    return !isfinite(record->loss) || !isfinite(record->grad_norm);
}

static void say_step(tr_run *self, const tr_step_record *record)
{
    char text[256], validation[48] = "";
    if (record->has_validation)
        snprintf(validation, sizeof validation, "  held-out %.4f", record->validation_loss);
    uint64_t left = (uint64_t)((self->n_steps - record->step) * self->smooth_step_ms / 1000);
    snprintf(text, sizeof text, "step %u/%u  loss %.4f%s%s  %.0f tokens/s  %" PRIu64 ":%02" PRIu64 " left",
             record->step, self->n_steps, record->loss, is_left_out(record) ? " (no update)" : "", validation,
             1000 * record->tokens_per_s * record->step_ms / (1000 * self->smooth_step_ms), left / 60,
             left % 60);
    say(self, text, record->has_validation || record->step == self->n_steps);
}

tr_status tr_run_finish(tr_run *self, tr_error *err)
{
    tr_error why;
    (void)tr_line_file_flush(self->events, NULL);
    if (tr_line_file_flush(self->log, &why))
        return tr_fail(err, TR_EIO, "the last lines of the log are lost: %s", why.message);
    return TR_OK;
}

void tr_run_tick(tr_run *self)
{
    uint64_t now = tr_clock_ns();
    if (now - self->said_ns < QUIET_AT_MOST_S * SECOND) return;
    char text[128];
    uint32_t step = self->has_last ? self->last.step : self->first_step;
    snprintf(text, sizeof text, "step %u/%u  working for %" PRIu64 " s on the next", step, self->n_steps,
             (now - self->heard_ns) / SECOND);
    say(self, text, false);
}

/* --- records and events --- */

static tr_status write_line(tr_line_file *file, json_t *object, tr_error *err)
{
    char *line = object ? json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    json_decref(object);
    if (!line) return tr_fail(err, TR_ENOMEM, "no memory for a line of a log");
    tr_status status = tr_line_file_add(file, line, err);
    free(line); /* jansson's */
    return status;
}

static json_t *event_object(const char *kind, uint64_t monotonic_ns, const tr_job_event *event,
                            const char *text)
{
    json_t *object =
        json_pack("{s:s, s:f, s:s}", "event", kind, "monotonic_s", (double)monotonic_ns * 1e-9, "text", text);
    if (object && event) {
        json_object_set_new(object, "epoch", json_integer(event->epoch));
        if (event->node >= 0) json_object_set_new(object, "node", json_integer(event->node));
        if (event->pid > 0) json_object_set_new(object, "pid", json_integer(event->pid));
    }
    return object;
}

/* From the last sign of life; where none is known, from when the death was heard of. NULL bears it all. */
static void add_after(json_t *object, const char *key, const tr_job_event *recovery, uint64_t at_ns)
{
    uint64_t from_ns = recovery->lost_ns ? recovery->lost_ns : recovery->detected_ns;
    if (from_ns && at_ns >= from_ns)
        json_object_set_new(object, key, json_real((double)(at_ns - from_ns) * 1e-6));
}

static void add_durations(json_t *object, const tr_job_event *recovery)
{
    if (recovery->lost_ns) add_after(object, "detected_after_ms", recovery, recovery->detected_ns);
    add_after(object, "fenced_after_ms", recovery, recovery->fenced_ns);
    add_after(object, "restored_after_ms", recovery, recovery->monotonic_ns);
}

static void write_event(tr_run *self, json_t *object)
{
    tr_error ignored; /* events are for people; the run does not end for them */
    (void)write_line(self->events, object, &ignored);
}

/* Tells once that the disk does not take the log, and once that it does again. */
static void tell_of_waiting(tr_run *self)
{
    tr_error why = {0};
    bool waits = tr_line_file_flush(self->log, &why) != TR_OK;
    if (waits == self->log_waits) return;
    self->log_waits = waits;
    char text[TR_ERROR_SIZE + 64];
    snprintf(text, sizeof text, "%s; training goes on, the lines wait in memory", why.message);
    if (waits)
        tr_run_note(self, "log_waits", text);
    else
        tr_run_note(self, "log_written", "the log is written again, with all lines that waited");
}

/* Bit for bit: where the state and the data are the same, so is this. */
static tr_status compare_again(const tr_told *told, const tr_told *again, uint32_t step, tr_error *err)
{
    if (memcmp(told, again, sizeof *told) == 0) return TR_OK;
    return tr_fail(
        err, TR_ECORRUPT,
        "step %u was run again and gave a loss of %a, gradient norm %a, held-out %a, where %a, %a, %a were "
        "logged: some memory or processor makes mistakes",
        step, again->loss, again->grad_norm, again->validation_loss, told->loss, told->grad_norm,
        told->validation_loss);
}

/* JSON has no NaN, so the log does not know which it was. */
static double as_logged(double number)
{
    return isfinite(number) ? number : (double)NAN;
}

/* *again: it was logged before. */
static tr_status remember(tr_run *self, const tr_step_record *record, bool *again, tr_error *err)
{
    const tr_told now = {as_logged(record->loss), as_logged(record->grad_norm),
                         record->has_validation ? as_logged(record->validation_loss) : 0};
    uint32_t at = record->step - self->first_step - 1,
             next = self->has_last ? self->last.step + 1 : self->first_step + 1;
    *again = record->step < next;
    if (record->step <= self->first_step || record->step > next)
        return tr_fail(err, TR_ECORRUPT, "step %u is to be logged, but %u comes next", record->step, next);
    if (*again) return compare_again(&self->told[at], &now, record->step, err);
    tr_status status =
        tr_array_reserve((void **)&self->told, &self->told_capacity, at + 1, sizeof *self->told, err);
    if (!status) self->told[at] = now;
    return status;
}

/* The first step behind a recovery that was not there before. */
static void tell_first_new_step(tr_run *self, const tr_step_record *record)
{
    uint64_t now_ns = tr_clock_ns();
    if (!self->recovery.monotonic_ns || record->epoch != self->recovery.epoch) return;
    char text[64];
    snprintf(text, sizeof text, "step %u is the first new one in epoch %u", record->step, record->epoch);
    json_t *object = event_object("first_new_step", now_ns, NULL, text);
    json_object_set_new(object, "epoch", json_integer(record->epoch));
    json_object_set_new(object, "step", json_integer(record->step));
    add_durations(object, &self->recovery);
    add_after(object, "first_new_step_after_ms", &self->recovery, now_ns);
    write_event(self, object);
    self->recovery.monotonic_ns = 0;
}

static json_t *number_or_null(double number)
{
    return isfinite(number) ? json_real(number) : json_null();
}

tr_status tr_run_record(tr_run *self, const tr_step_record *record, tr_error *err)
{
    bool again;
    if (self->lead && !tr_head_lease_is_held(self->lead))
        return tr_fail(err, TR_ECLOSED, "step %u is not logged: this head does not lead any more",
                       record->step);
    tr_status remembered = remember(self, record, &again, err);
    if (remembered || again) return remembered;
    char hex[40];
    snprintf(hex, sizeof hex, "%a", record->loss);
    json_t *object = json_pack(
        "{s:I, s:o, s:s, s:o, s:f, s:I, s:f, s:f, s:f, s:n, s:I}", "step", (json_int_t)record->step, "loss",
        number_or_null(record->loss), "loss_hex", hex, "grad_norm", number_or_null(record->grad_norm), "lr",
        record->lr, "tokens", (json_int_t)record->tokens, "tokens_per_s", record->tokens_per_s, "step_ms",
        record->step_ms, "stall", record->stall, "mfu", "epoch", (json_int_t)record->epoch);
    if (object && record->has_validation)
        json_object_set_new(object, "validation_loss", number_or_null(record->validation_loss));
    if (object && is_left_out(record)) json_object_set_new(object, "skipped", json_true());
    tr_status status = write_line(self->log, object, err);
    tell_of_waiting(self);
    self->smooth_step_ms =
        self->has_last ? 0.95 * self->smooth_step_ms + 0.05 * record->step_ms : record->step_ms;
    tell_first_new_step(self, record);
    self->last = *record;
    self->heard_ns = tr_clock_ns();
    self->has_last = true;
    uint64_t quiet = tr_clock_ns() - self->said_ns;
    uint64_t often = self->terminal ? TERMINAL_EVERY_MS * SECOND / 1000 : PLAIN_EVERY_S * SECOND;
    if (quiet >= often || record->has_validation || record->step == self->n_steps) say_step(self, record);
    return status;
}

void tr_run_sync(tr_run *self)
{
    (void)tr_line_file_sync(self->log, NULL); /* that lines wait was told when it began */
}

uint32_t tr_run_first_epoch(const tr_run *self)
{
    uint32_t first = tr_epoch_log_first(self->epochs);
    uint32_t won = self->lead ? tr_head_lease_last_epoch(self->lead) : 0;
    return first > won ? first : won + 1;
}

/* Before it is recorded it is won, so that no other head has it. */
static tr_status win(tr_run *self, uint32_t epoch, tr_error *err)
{
    return self->lead ? tr_head_lease_win_epoch(self->lead, epoch, err) : TR_OK;
}

tr_status tr_run_epoch(tr_run *self, uint32_t epoch, tr_error *err)
{
    tr_status status = win(self, epoch, err);
    return status ? status : tr_epoch_log_begin(self->epochs, epoch, err);
}

tr_status tr_run_epoch_in(tr_run *self, uint32_t epoch, const tr_layout *layout, tr_error *err)
{
    tr_status status = win(self, epoch, err);
    return status ? status : tr_epoch_log_begin_in(self->epochs, epoch, layout, err);
}

tr_status tr_run_epoch_from(tr_run *self, uint32_t epoch, uint64_t generation, tr_error *err)
{
    return tr_epoch_log_from(self->epochs, epoch, generation, err);
}

void tr_run_note(tr_run *self, const char *kind, const char *text)
{
    write_event(self, event_object(kind, tr_clock_ns(), NULL, text));
    if (strcmp(kind, "checkpoint") == 0 || strcmp(kind, "stopped") == 0)
        return; /* told otherwise, or at the end */
    say(self, text, true);
}

void tr_run_note_numbers(tr_run *self, const char *kind, const char *text, const char *const *keys,
                         const double *values)
{
    json_t *object = event_object(kind, tr_clock_ns(), NULL, text);
    for (int i = 0; object && keys[i]; i++) json_object_set_new(object, keys[i], json_real(values[i]));
    write_event(self, object);
    say(self, text, true);
}

void tr_run_ended(tr_run *self, const char *how)
{
    write_event(self, event_object("ended", tr_clock_ns(), NULL, how));
}

void tr_run_event(tr_run *self, const tr_job_event *event)
{
    static const char *const kinds[] = {[TR_JOB_WORKER_STARTED] = "worker_started",
                                        [TR_JOB_RUNNING] = "running",
                                        [TR_JOB_WORKER_FENCED] = "worker_fenced",
                                        [TR_JOB_WORKER_DIED] = "worker_died",
                                        [TR_JOB_ACTOR_FAILED] = "actor_failed",
                                        [TR_JOB_STOPPING] = "stopping",
                                        [TR_JOB_RUN_AGAIN] = "run_again",
                                        [TR_JOB_EPOCH] = "epoch",
                                        [TR_JOB_STATE_ROTTEN] = "state_rotten",
                                        [TR_JOB_RECOVERED] = "recovered",
                                        [TR_JOB_READOPTED] = "readopted",
                                        [TR_JOB_CHANGED] = "changed",
                                        [TR_JOB_AGENT_REPLACED] = "agent_replaced",
                                        [TR_JOB_HOST_AWAITED] = "host_awaited",
                                        [TR_JOB_HOST_JOINED] = "host_joined",
                                        [TR_JOB_HOST_REFUSED] = "host_refused",
                                        [TR_JOB_HOST_LOST] = "host_lost",
                                        [TR_JOB_HOST_LEAVING] = "host_leaving",
                                        [TR_JOB_HOST_CUT_OFF] = "host_cut_off",
                                        [TR_JOB_HOST_LEFT] = "host_left",
                                        [TR_JOB_FRAME_DAMAGED] = "frame_damaged",
                                        [TR_JOB_QUARANTINED] = "quarantined",
                                        [TR_JOB_FAULT] = "fault"};
    json_t *object = event_object(kinds[event->kind], event->monotonic_ns, event, event->text);
    char text[128];
    bool readopted = event->kind == TR_JOB_READOPTED;
    if (readopted) {
        snprintf(text, sizeof text,
                 "re-adopted %d worker%s of epoch %u at step %" PRIu64 ", generation %" PRIu64,
                 event->n_readopted, event->n_readopted == 1 ? "" : "s", event->former_epoch,
                 event->generation ? event->generation - 1 : self->first_step, event->generation);
        json_object_set_new(object, "text", json_string(text));
        json_object_set_new(object, "workers", json_integer(event->n_readopted));
    }
    if (readopted || event->kind == TR_JOB_RECOVERED || event->kind == TR_JOB_CHANGED) {
        json_object_set_new(object, "generation", json_integer((json_int_t)event->generation));
        self->recovery = *event;
        add_durations(object, event);
    }
    if (event->kind == TR_JOB_AGENT_REPLACED)
        json_object_set_new(object, "workers", json_integer(event->n_readopted));
    write_event(self, object);
    bool told = event->kind == TR_JOB_STOPPING || event->kind == TR_JOB_RUN_AGAIN ||
                event->kind == TR_JOB_WORKER_DIED || event->kind == TR_JOB_WORKER_FENCED ||
                event->kind == TR_JOB_STATE_ROTTEN || event->kind == TR_JOB_RECOVERED ||
                event->kind == TR_JOB_AGENT_REPLACED ||
                (event->kind >= TR_JOB_HOST_AWAITED && event->kind <= TR_JOB_FAULT);
    if (told || readopted) say(self, readopted ? text : event->text, true);
}
