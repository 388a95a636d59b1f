/* pipelines/train.c - see train.h. Everything that can be wrong with the input is found before the run
 * directory is made: the recipe's files are opened, the weights checked, the plan thought through.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/train.h"

#include "actors/checkpoint.h"
#include "actors/coordinator.h"
#include "actors/data_shard.h"
#include "actors/monitor.h"
#include "actors/roles.h"
#include "actors/stage.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "pipelines/measure.h"
#include "pipelines/processes.h"
#include "pipelines/sources.h"
#include "pipelines/train_internal.h"
#include "pipelines/train_scale.h"

#include <inttypes.h>
#include <string.h>
#include <unistd.h>

/* Behaviours take their context as void *; the sources are only read. */
#define CONTEXT(source) ((void *)(uintptr_t) & (source))

static const tr_actor_kind worker_kinds[] = {
    {"stage", &tr_stage_behavior, CONTEXT(tr_pipeline_stage_source)},
    {"data_shard", &tr_data_shard_behavior, CONTEXT(tr_pipeline_shard_source)},
};
const tr_registry tr_training_registry = {worker_kinds, sizeof worker_kinds / sizeof *worker_kinds};

typedef tr__training training;

static double learning_rate(void *context, uint32_t step)
{
    return tr_recipe_learning_rate(context, (int32_t)step);
}

static tr_status on_record(void *context, const tr_step_record *record, tr_error *err)
{
    training *self = context;
    char text[128];
    bool goes_on =
        tr_stall_watch_step(&self->watch, record->step, record->step_ms, tr_clock_ns(), text, sizeof text);
    if (goes_on) tr_run_note(self->run, "going_on", text);
    const tr_step_record *last = tr_run_last(self->run);
    bool is_new = !last || record->step > last->step;
    tr_status status = tr_run_record(self->run, record, err);
    if (!status && is_new) tr__training_start_standby(self);
    if (!status) tr__training_logged(self);
    return status;
}

static void on_sync(void *context)
{
    training *self = context;
    tr_run_sync(self->run);
}

static void on_note(void *context, const char *kind, const char *text)
{
    training *self = context;
    tr_run_note(self->run, kind, text);
    tr__training_chaos_noted(self, kind);
}

static void on_tick(void *context)
{
    training *self = context;
    char text[2 * TR_ERROR_SIZE];
    tr_run_tick(self->run);
    tr__training_watch_standby(self);
    if (self->scale) tr__scale_tick(self->scale);
    if (tr_stall_watch_look(&self->watch, &self->plan->topology, self->places, tr_clock_ns(), text,
                            sizeof text))
        tr_run_note(self->run, "stalled", text);
}

/* Training goes on without a trace that cannot be written. */
static void on_trace(void *context, tr_actor_id who, const tr_span *spans, uint32_t n_spans,
                     uint64_t n_dropped)
{
    training *self = context;
    tr_error error;
    if (!self->trace) return;
    if (tr_trace_file_add(self->trace, who, spans, n_spans, n_dropped, &error)) {
        tr_run_note(self->run, "trace_failed", error.message);
        tr_trace_file_close(&self->trace);
    } else if (self->n_dropped == 0 && (self->n_dropped = tr_trace_file_dropped(self->trace)) > 0) {
        tr_run_note(self->run, "trace_incomplete",
                    "trace.json lacks spans: actors are faster than it is written");
    }
}

static char *on_choices(void *context, const char *name, char *why, size_t capacity)
{
    training *self = context;
    return tr_product_file_find(self->products, name, why, capacity);
}

static tr_status on_keep_choices(void *context, const char *text, tr_error *err)
{
    training *self = context;
    return tr_product_file_keep(self->products, text, err);
}

/* A run whose processes cannot be listed only cannot be looked at. */
static void show_processes(const training *self, uint32_t epoch)
{
    tr_error error;
    if (tr_processes_write(self->recipe->run, &self->plan->topology, self->places, epoch,
                           (uint32_t)self->recipe->train.steps, self->began_ns, &error))
        tr_log(TR_LOG_WARNING, "`troupe ps` will not see everything: %s", error.message);
}

static void on_event(void *context, const tr_job_event *event)
{
    training *self = context;
    bool begins = event->kind == TR_JOB_RUNNING || event->kind == TR_JOB_RECOVERED ||
                  event->kind == TR_JOB_READOPTED || event->kind == TR_JOB_CHANGED;
    tr_run_event(self->run, event);
    tr__training_chaos_event(self, event);
    self->places = event->places;
    if (begins) tr_stall_watch_begin(&self->watch, tr_clock_ns());
    if (begins || event->kind == TR_JOB_WORKER_STARTED || event->kind == TR_JOB_EPOCH)
        show_processes(self, event->epoch);
    if (self->scale) tr__scale_event(self->scale, event);
}

/* --- before anything is created --- */

/* What a resumed run must have in common with what it was: else it would be another run's second half. */
static tr_status compare_with_run(const tr_recipe *recipe, tr_error *err)
{
    char *path = tr_format("%s/recipe.yaml", recipe->run);
    if (!path) return tr_fail(err, TR_ENOMEM, "no memory for a path");
    tr_recipe before;
    bool there = tr_path_exists(path);
    tr_status status = there ? tr_recipe_read(&before, path, NULL, 0, err) : TR_OK;
    tr_free(path);
    if (status || !there) return status;
    const char *key = tr_recipe_numerics_differ(&before, recipe);
    if (key)
        status = tr_fail(
            err, TR_EINVAL,
            "%s is not what the run '%s' began with (see its recipe.yaml); leave it, or begin another run",
            key, recipe->run);
    tr_recipe_release(&before);
    return status;
}

/* From what the recipe names, as if there were no run yet. */
static tr_status start_fresh(training *self, tr_error *err)
{
    const char *source = self->recipe->model.hf;
    if (!source) return TR_OK;
    self->start.origin = TR_ORIGIN_MODEL;
    if (snprintf(self->start.directory, sizeof self->start.directory, "%s", source) >=
        (int)sizeof self->start.directory)
        return tr_fail(err, TR_EINVAL, "the path of model.hf is too long: '%s'", source);
    return TR_OK;
}

/* Whoever goes on in a run is the only one, from here on: what it finds there does not change any more. */
static tr_status claim(training *self, tr_error *err)
{
    tr_status status = compare_with_run(self->recipe, err);
    if (!status && self->lock < 0) status = tr_run_lock(self->recipe->run, false, &self->lock, err);
    if (!status) status = tr__training_lead(self, TR_LEASE_IF_DEAD, err);
    if (!status) status = tr__training_find_layout(self, err);
    if (!status) tr_checkpoint_sweep(self->recipe->run);
    if (!status) tr__training_find_former(self);
    if (!status) status = tr__training_find_orphans(self, err);
    return status;
}

static tr_status find_start(training *self, bool resume, tr_error *err)
{
    const tr_recipe *recipe = self->recipe;
    bool exists = tr_path_exists(recipe->run);
    if (exists && !tr_path_is_directory(recipe->run))
        return tr_fail(err, TR_EINVAL, "run '%s' is a file; name a directory that is not there yet",
                       recipe->run);
    if (exists && !resume)
        return tr_fail(err, TR_EEXIST,
                       "the run directory '%s' exists; go on with --resume, or name another with run=DIR",
                       recipe->run);
    tr_trainer_state state = {0};
    char *path = self->start.directory;
    tr_status status = TR_OK;
    if (exists) status = claim(self, err);
    if (exists && !status)
        status = tr_checkpoint_find(recipe->run, path, sizeof self->start.directory, &state, err);
    if (status) return status;
    if (path[0]) {
        self->start.origin = TR_ORIGIN_CHECKPOINT;
        self->start.updates = state.updates;
        self->start.tokens = state.tokens;
    } else {
        status = start_fresh(self, err);
    }
    if (status) return status;
    if (self->start.updates > (uint32_t)recipe->train.steps)
        return tr_fail(err, TR_EINVAL,
                       "the newest checkpoint '%s' has %u steps done, more than train.steps '%d'", path,
                       self->start.updates, recipe->train.steps);
    return TR_OK;
}

/* An address that is not ours and a key that cannot be read are found here and not by a child. */
static tr_status read_network(training *self, tr_error *err)
{
    const tr_recipe *recipe = self->recipe;
    tr_status status = TR_OK;
    if (recipe->network.address) {
        status = tr_address_bind(self->bind, recipe->network.address, err);
        if (!status) status = tr_address_try(self->bind, err);
        if (status) return tr_fail_within(err, status, "network.address");
    }
    if (recipe->network.key) status = tr_curve_key_read(&self->key, recipe->network.key, err);
    return status ? tr_fail_within(err, status, "network.key") : TR_OK;
}

tr_status tr__training_add_plan(tr__training *self, const tr_start *start, tr_model_config *config,
                                tr_error *err)
{
    return tr__training_make_plan(self, self->recipe, start, config, &self->plan, err);
}

tr_status tr__training_make_plan(tr__training *self, const tr_recipe *recipe, const tr_start *start,
                                 tr_model_config *config, tr_job_plan **out, tr_error *err)
{
    tr_job_plan *plan = tr_alloc_zero(1, sizeof *plan);
    tr_status status = tr_array_reserve((void **)&self->plans, &self->plans_capacity, self->n_plans + 1,
                                        sizeof *self->plans, err);
    if (!plan && !status) status = tr_fail(err, TR_ENOMEM, "no memory for the plan of a job");
    tr_start own = *start;
    own.record = self->memory ? tr_head_memory_devices(self->memory) : NULL;
    if (status)
        tr_model_config_release(config);
    else
        status = tr_job_plan_init(plan, recipe, config, self->data, &own, err);
    if (status) {
        tr_free(plan);
        return status;
    }
    self->plans[self->n_plans++] = *out = plan;
    return TR_OK;
}

static tr_status prepare(training *self, tr_error *err)
{
    tr_model_config config = {0};
    tr_status status = tr_start_read_config(&self->start, self->recipe, &config, err);
    if (!status) status = tr_data_open(&self->data, self->recipe, config.vocabulary, err);
    if (!status)
        status = tr__training_add_plan(self, &self->start, &config, err);
    else
        tr_model_config_release(&config);
    if (!status && self->start.origin != TR_ORIGIN_FRESH)
        status = tr_weights_open(&self->weights, self->start.directory, &self->plan->model.config,
                                 &self->plan->model.parameters, err);
    return status;
}

static void release(training *self)
{
    tr__scale_destroy(&self->scale);
    tr_standby_end(&self->standby); /* while the lock is held that it waits for */
    tr_trace_file_close(&self->trace);
    tr_run_close(&self->run);
    tr_checkpoint_files_destroy(&self->files);
    tr_weights_close(&self->weights);
    while (self->n_plans) {
        tr_job_plan *plan = self->plans[--self->n_plans];
        tr_job_plan_release(plan);
        tr_free(plan);
    }
    tr_free(self->plans);
    while (self->n_recipes) {
        tr_recipe *recipe = self->recipes[--self->n_recipes];
        tr_recipe_release(recipe);
        tr_free(recipe);
    }
    tr_free(self->recipes);
    tr_product_file_close(&self->products);
    tr_data_close(&self->data);
    tr_curve_key_wipe(&self->key);
    tr_orphans_destroy(&self->orphans);
    tr_head_memory_destroy(&self->memory);
    if (self->directory >= 0) close(self->directory);
    if (self->lock >= 0) close(self->lock);
    tr_head_lease_release(&self->lead);
}

/* The lock goes over to the run, also where that fails. */
static tr_status open_run(training *self, FILE *progress, tr_error *err)
{
    const tr_run_beginning beginning = {.updates = self->start.updates,
                                        .lock = self->lock,
                                        .lead = self->lead,
                                        .keep = self->orphans || self->takes_former};
    self->lock = -1;
    return tr_run_open_at(&self->run, self->given, &beginning, progress, err);
}

/* --- the run --- */

static tr_status open_trace(training *self, tr_error *err)
{
    if (!self->recipe->trace) return TR_OK;
    char *path = tr_format("%s/trace.json", self->recipe->run);
    if (!path) return tr_fail(err, TR_ENOMEM, "no memory for a path");
    tr_status status = tr_trace_file_open(&self->trace, path, &self->plan->topology, tr_clock_ns(), err);
    tr_free(path);
    return status;
}

static tr_status open_products(training *self, tr_error *err)
{
    if (self->recipe->train.products != TR_PRODUCTS_MEASURED) return TR_OK;
    char *path = tr_format("%s/products.txt", self->recipe->run);
    if (!path) return tr_fail(err, TR_ENOMEM, "no memory for a path");
    tr_status status = tr_product_file_open(&self->products, path, err);
    tr_free(path);
    return status;
}

static tr_status open_checkpoints(training *self, tr_error *err)
{
    const tr_training_plan *plan = &self->plan->training;
    tr_checkpoint_files_options options = {
        .run = self->recipe->run,
        .config = &self->plan->model.config,
        .parameters = &self->plan->model.parameters,
        .weights = self->weights,
        .source_directory = self->start.directory[0] ? self->start.directory : NULL,
        .lead = self->lead,
        .keep = self->recipe->checkpoint.keep,
        .last_updates = (uint32_t)self->recipe->train.steps,
        .updates_before = self->start.updates,
        .tokens_before = self->start.tokens,
        .tokens_per_step = (uint64_t)plan->n_microbatches * plan->rows * plan->sequence};
    return tr_checkpoint_files_new(&self->files, &options, err);
}

void tr__training_tell_coordinator(tr__training *self)
{
    self->coordinator = (tr_coordinator_context){
        .plan = self->plan->training,
        .n_elements = self->plan->n_elements,
        .n_parameters = (uint32_t)self->plan->model.parameters.count,
        .tokens_before = self->plan->start.tokens,
        .context = (void *)(uintptr_t)self->recipe,
        .learning_rate = learning_rate,
        .journal = self->journal,
        .most_untold = tr__training_most_untold(self),
        .runs_again = self->recipe->recovery != TR_RECOVERY_OFF && self->recipe->layout.processes,
        .leaves_out = self->recipe->supervision.non_finite == TR_NON_FINITE_SKIP,
        .paused = self->scale ? tr__scale_paused : NULL,
        .pausing = self->scale};
}

static tr_status run_job(training *self, tr_error *err)
{
    const tr_recipe *recipe = self->recipe;
    tr_job_changes changes;
    tr_status status = tr__scale_new(&self->scale, self, &changes, err);
    if (status) return status;
    tr__training_tell_coordinator(self);
    tr_monitor_context monitor = {.context = self,
                                  .record = on_record,
                                  .sync = on_sync,
                                  .note = on_note,
                                  .tick = on_tick,
                                  .trace = on_trace};
    if (self->products) {
        monitor.choices = on_choices;
        monitor.keep_choices = on_keep_choices;
    }
    tr_actor_kind kinds[] = {
        worker_kinds[0],
        worker_kinds[1],
        {TR_ROLE_COORDINATOR, &tr_coordinator_behavior, &self->coordinator},
        {TR_ROLE_CHECKPOINT, &tr_checkpoint_behavior,
         (void *)(uintptr_t)tr_checkpoint_files_writer(self->files)},
        {TR_ROLE_MONITOR, &tr_monitor_behavior, &monitor},
    };
    tr_registry registry = {kinds, sizeof kinds / sizeof *kinds};
    tr_job_options options = {.topology = &self->plan->topology,
                              .registry = &registry,
                              .processes = self->recipe->layout.processes,
                              .transport = tr_transport_kind_name(self->recipe->transport),
                              .bind = self->bind[0] ? self->bind : NULL,
                              .key = self->recipe->network.key ? &self->key : NULL,
                              .stop_actor = tr_role_find(&self->plan->topology, TR_ROLE_COORDINATOR),
                              .recovery = {.max_restarts = recipe->recovery == TR_RECOVERY_OFF
                                                               ? 0
                                                               : (uint32_t)recipe->supervision.intensity,
                                           .within_ms = (uint32_t)recipe->supervision.period * 1000,
                                           .quarantine_after = (uint32_t)recipe->supervision.quarantine_after,
                                           .hung_after_ms = (uint32_t)recipe->supervision.hung_after * 1000,
                                           .first_epoch = tr_run_first_epoch(self->run),
                                           .record_epoch = tr__training_record_epoch,
                                           .begin_again = tr__training_begin_again,
                                           .device_failed = tr__training_device_failed},
                              .changes = changes,
                              .may_lead = tr__training_may_lead,
                              .context = self,
                              .on_event = on_event};
    tr__training_hosts(self, &options.hosts);
    tr__training_chaos(self, &options.chaos);
    const tr_layout layout = tr_layout_of(recipe);
    status = tr__training_lease(self, &options.lease, err);
    if (!status) status = tr_run_epoch_in(self->run, options.recovery.first_epoch, &layout, err);
    if (status) return status;
    self->began_ns = tr_clock_ns();
    tr_stall_watch_init(&self->watch, (uint32_t)recipe->supervision.stall_after, self->began_ns);
    show_processes(self, options.recovery.first_epoch);
    status = tr_job_run(&options, err);
    if (self->scale) tr__scale_end(self->scale, status ? "the run has failed" : "the run has ended");
    self->places = NULL;
    char why[TR_ERROR_SIZE];
    if (tr__training_may_lead(self, why, sizeof why))
        tr_processes_remove(recipe->run); /* else somebody goes on */
    return status;
}

static void say_beginning(const training *self, FILE *progress)
{
    if (!progress) return;
    const tr_training_plan *plan = &self->plan->training;
    char pieces[40] = "";
    if (plan->n_pieces > 1) snprintf(pieces, sizeof pieces, " in %u pieces a worker", plan->n_pieces);
    fprintf(progress, "%s: %" PRId64 " parameters, %u replicas x %u stages%s, %u steps of %u tokens\n",
            self->recipe->run, tr_model_config_parameter_count(&self->plan->model.config), plan->n_replicas,
            plan->n_stages, pieces, plan->n_steps, plan->n_microbatches * plan->rows * plan->sequence);
    tr_layout now = tr_layout_of(self->recipe), given = tr_layout_of(self->given);
    if (!tr_layout_is_same(&now, &given))
        fprintf(
            progress,
            "in the layout that it was scaled to; layout.data and the like of the recipe would be another\n");
    if (self->start.updates && !self->orphans && !self->takes_former)
        fprintf(progress, "resuming after step %u from %s\n", self->start.updates, self->start.directory);
    fflush(progress);
}

/* Also for whoever asks afterwards. */
static void tell_devices(const training *self)
{
    if (self->plan->devices.text[0]) tr_run_note(self->run, "device", self->plan->devices.text);
}

/* A step more may be in the log than in the checkpoint, where somebody died on the way to it; it is run again, and compared. */
static tr_status say_stopped(const training *self, uint32_t step, tr_error *err)
{
    uint32_t saved = self->journal ? self->journal->saved : 0;
    char from[40] = "from there";
    if (saved && saved < step) snprintf(from, sizeof from, "after step %u", saved);
    return tr_fail(err, TR_ESTOPPED, "stopped after step %u of %d, as asked; --resume goes on %s", step,
                   self->recipe->train.steps, from);
}

/* The last words of a run whose job ended well: it is done, or somebody asked it to stop. */
static tr_status say_end(training *self, FILE *progress, tr_error *err)
{
    const tr_step_record *last = tr_run_last(self->run);
    char why[TR_ERROR_SIZE];
    bool is_done = last && last->step >= (uint32_t)self->recipe->train.steps;
    if (!is_done && !tr__training_may_lead(self, why, sizeof why))
        return tr_fail(err, TR_ESTOPPED,
                       "stopped after step %u of %d: %.700s; a standby or --resume goes on from there",
                       last ? last->step : self->start.updates, self->recipe->train.steps, why);
    if (!is_done) return say_stopped(self, last ? last->step : self->start.updates, err);
    if (!progress) return TR_OK;
    fprintf(progress, "done after step %u: loss %.4f", last->step, last->loss);
    if (last->has_validation) fprintf(progress, ", held-out %.4f nats a token", last->validation_loss);
    fprintf(progress, "; checkpoint in %s/checkpoints/step-%u\n", self->recipe->run, last->step);
    fflush(progress);
    return TR_OK;
}

/* Of a run that too many deaths have ended: what they did not cost. */
static void say_way_on(const training *self, tr_error *err)
{
    char message[TR_ERROR_SIZE];
    if (!self->journal || self->journal->saved == 0) return;
    snprintf(message, sizeof message, "%s", err->message);
    tr_fail(err, TR_ECLOSED, "%s; --resume goes on after step %u", message, (unsigned)self->journal->saved);
}

/* The last event, for whoever asks afterwards. */
static void leave_word(const training *self, tr_status status, const tr_error *err)
{
    char text[TR_ERROR_SIZE + 32];
    const tr_step_record *last = tr_run_last(self->run);
    if (status)
        snprintf(text, sizeof text, "%s", err ? err->message : "it failed");
    else
        snprintf(text, sizeof text, "done after step %u", last ? last->step : self->start.updates);
    tr_run_ended(self->run, text);
}

tr_status tr_train(const tr_recipe *recipe, const tr_train_options *options, bool *started, tr_error *err)
{
    training self = {.recipe = recipe,
                     .given = recipe,
                     .lock = -1,
                     .directory = -1,
                     .lost_lead = options->lost_lead,
                     .progress = options->progress};
    *started = false;
    bool needed = true;
    tr_status status =
        options->standby ? read_network(&self, err) : TR_OK; /* while somebody reads what is wrong */
    if (!status && options->standby) status = tr__training_stand_by(&self, options->progress, &needed, err);
    if (!status && !needed) {
        release(&self);
        return TR_OK;
    }
    if (!status) status = find_start(&self, options->resume || options->standby, err);
    if (!status) status = read_network(&self, err);
    if (!status) status = tr__training_make_absolute(&self, err);
    if (!status) status = prepare(&self, err);
    if (!status) status = tr__training_choose_orphans(&self, options->progress, err);
    if (!status) status = tr__training_make_memory(&self, err);
    if (!status) status = tr__training_deal_as_before(&self, err);
    if (!status && self.start.updates == (uint32_t)recipe->train.steps) {
        if (options->progress)
            fprintf(options->progress, "%s has its %d steps already; nothing to do\n", recipe->run,
                    recipe->train.steps);
        if (self.took_over) tr_processes_remove(recipe->run); /* its head was lost in its last moment */
        release(&self);
        return TR_OK;
    }
    if (!status) status = tr__training_lead(&self, TR_LEASE_NOW, err);
    if (!status) status = open_products(&self, err);
    if (!status) status = open_checkpoints(&self, err);
    if (!status) status = open_run(&self, options->progress, err);
    if (!status) {
        status = open_trace(&self, err);
        if (status) { /* a start that failed leaves nothing */
            tr_trace_file_close(&self.trace);
            tr_run_withdraw(&self.run);
        }
    }
    if (!status) {
        *started = true;
        say_beginning(&self, options->progress);
        tell_devices(&self);
        if (!options->standby) tr__training_start_standby(&self);
        status = run_job(&self, err);
        if (status == TR_ECLOSED && err) say_way_on(&self, err);
        if (!status) status = tr_run_finish(self.run, err);
    }
    if (!status) status = say_end(&self, options->progress, err);
    if (*started) leave_word(&self, status, err);
    release(&self);
    return status;
}

tr_status tr_plan(const tr_recipe *recipe, bool measure, FILE *stream, FILE *progress, tr_error *err)
{
    training self = {.recipe = recipe, .given = recipe, .lock = -1, .directory = -1};
    tr_model_config config = {0};
    tr_status status = start_fresh(&self, err);
    if (!status) status = prepare(&self, err);
    if (!status) {
        tr_job_plan_print(self.plan, stream);
        fflush(stream);
    }
    for (int32_t s = 0; !status && measure && s < tr_recipe_stages(recipe); s++)
        if (self.plan->devices.stages[s].kind != TR_DEVICE_CPU)
            status =
                tr_fail(err, TR_EUNSUPPORTED,
                        "--measure runs the model's parts on the CPU, but a stage is on a GPU; leave one of "
                        "them out");
    if (!status && measure) status = tr_start_read_config(&self.start, recipe, &config, err);
    if (!status && measure) status = tr_measure_print(self.plan, &config, self.data, stream, progress, err);
    release(&self);
    return status;
}
