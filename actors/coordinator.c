/* actors/coordinator.c - see coordinator.h. It holds the numbers of one step at a time: no stage can be ahead
 * of a commit, only the shards' announcements run ahead (tr_plan_steps_ahead).
 * SPDX-License-Identifier: Apache-2.0 */
#include "actors/coordinator_internal.h"
#include "actors/non_finite.h"

#include "actors/roles.h"
#include "actors/topics.h"
#include "base/log.h"
#include "base/memory.h"
#include "ops/optimizer.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

enum { NO_CHECKPOINT = TR__NO_CHECKPOINT };

typedef tr__coordinator coordinator;

static void fail(coordinator *self, tr_status status, const char *text)
{
    tr__coordinator_fail(self, status, text);
}

static void note(coordinator *self, const char *kind, const char *text)
{
    tr__coordinator_note(self->actor, self->monitor, self->step, kind, text);
}

/* The last line of the run: everything that was promised has happened. */
static void end_when_done(coordinator *self)
{
    const tr_training_plan *plan = &self->known->plan;
    if (self->ended || (self->step < plan->n_steps && !self->stopping)) return;
    if (self->last_checkpoint != self->step || self->n_checkpoints || self->record_held) return;
    if (self->n_updated < self->n_stages_all) return;
    self->ended = true;
    if (self->step < plan->n_steps)
        note(self, "stopped",
             plan->until ? "given up, with its state in a checkpoint" : "stopped early, as asked");
    tr__arbiter_end(&self->arbiter, self->step);
    tr_packer packer; /* the monitor ends the job, behind all records: ended here, the last could be lost */
    tr_packer_init(&packer);
    tr_pack_array(&packer, 1);
    tr_pack_text(&packer, self->lost ? self->lost : "");
    tr_send_packed(self->actor, self->monitor, TR_TOPIC_FINISH, self->step, &packer);
}

static void send_record(coordinator *self, const tr_step_record *record)
{
    tr_packer packer;
    tr_step_record_pack(&packer, record);
    tr_send_packed(self->actor, self->monitor, TR_TOPIC_RECORD, record->step, &packer);
    self->n_untold++;
}

static void keep_record(coordinator *self)
{
    if (!self->known->journal) return;
    self->known->journal->records[self->record.step % TR_COORDINATOR_RECORDS] = self->record;
    /* Read only behind this process's death, which comes between two instructions and after which all stores before it are
     * seen: so it is enough that the compiler leaves this store before what is sent. */
    atomic_signal_fence(memory_order_release);
}

static void tell_record(coordinator *self)
{
    keep_record(self);
    send_record(self, &self->record);
    self->record_held = false;
    end_when_done(self);
}

static void ask_checkpoint(coordinator *self)
{
    /* Those of replica 0 have all of the state, those of all with ZeRO; then the writer. */
    const uint32_t n_stages = self->known->plan.zero ? self->n_stages_all : self->known->plan.n_stages;
    for (uint32_t s = 0; s <= n_stages; s++) {
        tr_packer packer;
        tr_packer_init(&packer);
        tr_pack_array(&packer, 1);
        tr_pack_uint(&packer, self->step == self->known->plan.n_steps);
        tr_actor_id to = s < n_stages ? self->stages[s] : self->checkpoint;
        tr_send_packed(self->actor, to, TR_TOPIC_CHECKPOINT, self->step, &packer);
    }
    self->last_checkpoint = self->step;
    self->n_checkpoints++;
    tr_coordinator_journal *journal = self->known->journal;
    if (!journal || journal->asked[0] == self->step) return;
    journal->asked[1] = journal->asked[0];
    journal->asked[0] = self->step;
}

/* --- the end of a step --- */

static double sum_losses(const coordinator *self)
{
    double sum = 0;
    for (uint32_t m = 0; m < self->known->plan.n_microbatches; m++) sum += self->losses[m];
    return sum;
}

static double norm_of_gradient(const coordinator *self)
{
    double sum = 0;
    for (int64_t b = 0; b < self->first_block[self->known->n_parameters]; b++) sum += self->sums[b];
    return sqrt(sum);
}

static void write_record(coordinator *self, double loss, double norm, double lr, uint64_t targets)
{
    uint64_t now = tr_actor_now_ns(self->actor);
    double elapsed = (double)(now - self->began_ns);
    const tr_training_plan *plan = &self->known->plan;
    double idle = 1 - (double)self->busy_ns / (elapsed * plan->n_replicas * tr_plan_workers(plan));
    self->tokens += targets;
    self->record = (tr_step_record){.step = self->step + 1,
                                    .loss = loss,
                                    .grad_norm = norm,
                                    .lr = lr,
                                    .tokens = self->tokens,
                                    .step_ms = elapsed * 1e-6,
                                    .tokens_per_s = elapsed > 0 ? (double)targets * 1e9 / elapsed : 0,
                                    .stall = idle < 0 ? 0 : idle,
                                    .epoch = tr_actor_epoch(self->actor)};
    self->began_ns = now;
    keep_record(self);
}

static bool is_held_next(const coordinator *self)
{
    return self->stopping || self->pausing || tr_plan_holds_after(&self->known->plan, self->step + 1);
}

/* The next state to be held goes into the slot of the older one. */
bool tr__coordinator_waits_for_copies(const tr__coordinator *self)
{
    return is_held_next(self) && self->copied < self->held_generation;
}

static void send_commit(coordinator *self, float scale, double lr, bool leaves_out)
{
    bool holds = is_held_next(self);
    if (holds) self->held_generation = (uint64_t)self->step + 2;
    self->held = holds;
    for (uint32_t s = 0; s < self->n_stages_all; s++) {
        tr_packer packer;
        tr_packer_init(&packer);
        tr_pack_array(&packer, 4);
        tr_pack_f64(&packer, (double)scale);
        tr_pack_f64(&packer, lr);
        tr_pack_uint(&packer, holds);
        tr_pack_uint(&packer, leaves_out);
        tr_send_packed(self->actor, self->stages[s], TR_TOPIC_COMMIT, self->step, &packer);
    }
}

static void begin_step(coordinator *self)
{
    self->n_losses = self->n_ready = self->n_updated = self->n_evaluated = 0;
    memset(self->is_ready, 0, self->n_stages_all * sizeof *self->is_ready);
    memset(self->has_voted, 0, self->n_stages_all * sizeof *self->has_voted);
    self->busy_ns = 0;
    self->non_finite.is = false;
}

/* Where all that was promised of the last step has happened, so that nothing is lost if everybody begins again from here. The
 * end and a person's wish to stop come first. */
static void pause_when_whole(coordinator *self)
{
    if (!self->pausing || self->paused || self->stopping || self->ended) return;
    if (self->step < self->pause_at || self->step >= self->known->plan.n_steps || !self->held) return;
    if (self->record_held || self->n_checkpoints || self->n_updated < self->n_stages_all) return;
    self->paused = true;
    self->known->paused(self->known->pausing, self->step);
}

/* Another checkpoint would put it off, perhaps for ever. */
static bool must_wait_to_pause(const coordinator *self)
{
    return self->paused || (self->pausing && !self->stopping && self->n_checkpoints &&
                            tr_plan_checkpoint_after(&self->known->plan, self->step + 1));
}

static void commit_when_ready(coordinator *self)
{
    const tr_training_plan *plan = &self->known->plan;
    if (must_wait_to_pause(self)) return;
    if (self->ended || self->n_ready < self->n_stages_all || self->n_losses < plan->n_microbatches) return;
    if (self->stopping && self->step > plan->first_step && self->last_checkpoint == self->step)
        return; /* the last step is done; only its checkpoint is awaited */
    if (tr__coordinator_is_far_ahead(self)) return;
    if (tr__coordinator_waits_for_copies(self)) return;
    uint64_t targets = self->counted[self->step % self->ring];
    double loss = sum_losses(self) / (double)targets, norm = norm_of_gradient(self);
    tr__update_way way = tr__non_finite_judge(self, &loss, &norm);
    if (way == TR__NO_COMMIT) return;
    float scale = 1;
    if (plan->clip_norm > 0 && norm > (double)plan->clip_norm)
        scale = (float)((double)plan->clip_norm / (norm + 1e-6));
    double lr = self->known->learning_rate(self->known->context, self->step);
    write_record(self, loss, norm, lr,
                 targets); /* before anybody can apply it, or the next head might lack it */
    send_commit(self, scale, lr, way == TR__LEAVE_OUT);
    tr__arbiter_commit(&self->arbiter, self->step);
    self->counted[self->step % self->ring] = self->n_counted[self->step % self->ring] = 0;
    begin_step(self);
    self->step++;
    if (tr_plan_checkpoint_after(plan, self->step) || self->stopping) ask_checkpoint(self);
    self->record_held = true;
    if (tr_plan_evaluations_after(plan, self->step) == 0) tell_record(self);
}

/* --- what arrives --- */

static bool take_count(coordinator *self, uint32_t step, tr_unpacker *body)
{
    const tr_training_plan *plan = &self->known->plan;
    uint32_t at = step % self->ring;
    if (step - self->step >= self->ring || self->n_counted[at] == plan->n_replicas) return false;
    self->counted[at] += tr_unpack_uint(body, UINT64_MAX);
    if (++self->n_counted[at] < plan->n_replicas) return true;
    if (self->counted[at] == 0) {
        fail(self, TR_EINVAL, "a step has no target tokens at all; check the data");
        return true;
    }
    for (uint32_t r = 0; r < plan->n_replicas; r++) {
        tr_packer packer;
        tr_packer_init(&packer);
        tr_pack_array(&packer, 1);
        tr_pack_uint(&packer, self->counted[at]);
        tr_send_packed(self->actor, self->stages[r * plan->n_stages + plan->n_stages - 1], TR_TOPIC_TOKENS,
                       step, &packer);
    }
    return true;
}

static bool take_losses(coordinator *self, tr_unpacker *body)
{
    uint64_t first = tr_unpack_uint(body, UINT64_MAX);
    size_t size;
    const void *losses = tr_unpack_bytes(body, &size);
    uint32_t n = self->known->plan.n_microbatches;
    if (!losses || first > n || size / sizeof(double) > n - first || size % sizeof(double)) return false;
    memcpy(self->losses + first, losses, size);
    self->n_losses += (uint32_t)(size / sizeof(double));
    return true;
}

static bool take_ready(coordinator *self, uint32_t n_fields, tr_unpacker *body)
{
    for (; n_fields >= 3; n_fields -= 3) {
        uint64_t index = tr_unpack_uint(body, UINT64_MAX), block = tr_unpack_uint(body, UINT64_MAX);
        size_t size;
        const void *sums = tr_unpack_bytes(body, &size);
        if (!sums || index >= self->known->n_parameters || size % sizeof(double)) return false;
        uint64_t n = (uint64_t)(self->first_block[index + 1] - self->first_block[index]);
        if (block > n || size / sizeof(double) > n - block) return false;
        memcpy(self->sums + self->first_block[index] + block, sums, size);
    }
    uint64_t busy_ns = tr_unpack_uint(body, UINT64_MAX);
    self->busy_ns += busy_ns;
    self->arbiter.audits->busy_ns += busy_ns;
    self->n_ready++;
    return true;
}

static bool take_evaluation(coordinator *self, uint32_t updates, tr_unpacker *body)
{
    uint64_t microbatch = tr_unpack_uint(body, UINT64_MAX);
    double loss = tr_unpack_f64(body);
    uint64_t tokens = tr_unpack_uint(body, UINT64_MAX);
    uint32_t expected = tr_plan_evaluations_after(&self->known->plan, updates);
    if (microbatch >= expected || updates != self->step) return false;
    self->evaluated_loss[microbatch] = loss;
    self->evaluated_tokens[microbatch] = tokens;
    if (++self->n_evaluated < expected) return true;
    if (!self->record_held) return true; /* measured once more */
    double sum = 0;
    uint64_t count = 0;
    for (uint32_t j = 0; j < expected; j++) {
        sum += self->evaluated_loss[j];
        count += self->evaluated_tokens[j];
    }
    self->record.has_validation = count > 0;
    self->record.validation_loss = count > 0 ? sum / (double)count : 0;
    self->began_ns = tr_actor_now_ns(self->actor); /* measuring is not part of the next step's time */
    tell_record(self);
    return true;
}

static bool take_checkpointed(coordinator *self, uint32_t updates, tr_unpacker *body)
{
    bool good = tr_unpack_uint(body, UINT64_MAX) != 0;
    char text[TR_ERROR_SIZE];
    tr_unpack_text(body, text, sizeof text);
    if (tr_unpacker_done(body, "control message", NULL) || self->n_checkpoints == 0) return false;
    self->n_checkpoints--;
    if (good && self->known->journal) self->known->journal->saved = updates;
    note(self, good ? "checkpoint" : "checkpoint_failed", text);
    bool last = updates == self->last_checkpoint && (updates == self->known->plan.n_steps || self->stopping);
    if (!good && last) {
        tr_free(self->lost);
        self->lost = tr_format("the last checkpoint, after step %u, is lost: %.*s", updates,
                               TR_ERROR_SIZE - 100, text);
        if (!self->lost) fail(self, TR_EIO, text);
    } else if (!good) {
        tr_log(TR_LOG_ERROR, "the checkpoint after step %u could not be written, training goes on: %s",
               updates, text);
        if (updates == self->last_checkpoint) self->last_checkpoint = NO_CHECKPOINT; /* none to stop at */
    }
    end_when_done(self);
    return true;
}

static void mark(const coordinator *self, bool *of, tr_actor_id stage)
{
    for (uint32_t s = 0; s < self->n_stages_all; s++)
        if (self->stages[s] == stage) of[s] = true;
}

static void coordinator_receive(tr_actor *actor, void *state, tr_message **message)
{
    coordinator *self = state;
    const tr_frame *frame = &(*message)->frame;
    tr_unpacker body;
    tr_unpacker_init(&body, tr_message_bytes(*message), frame->body_bytes);
    uint32_t n_fields = tr_unpack_array(&body, UINT32_MAX);
    bool good = true;
    switch (frame->edge) {
    case TR_TOPIC_COUNT: good = take_count(self, frame->step, &body); break;
    case TR_TOPIC_LOSSES: good = frame->step == self->step && take_losses(self, &body); break;
    case TR_TOPIC_READY:
        good = frame->step == self->step && take_ready(self, n_fields, &body);
        mark(self, self->is_ready, frame->source);
        break;
    case TR_TOPIC_REPLAYED:
    case TR_TOPIC_DIFFERS:
    case TR_TOPIC_FORGOTTEN:
    case TR_TOPIC_VERDICT:
    case TR_TOPIC_AUDITED: good = tr__arbiter_receive(&self->arbiter, frame, &body); break;
    case TR_TOPIC_NON_FINITE: good = tr__non_finite_take(self, frame, &body); break;
    case TR_TOPIC_EVALUATED: good = take_evaluation(self, frame->step, &body); break;
    case TR_TOPIC_CHECKPOINTED: good = take_checkpointed(self, frame->step, &body); break;
    case TR_TOPIC_UPDATED:
        self->n_updated += frame->step + 1 == self->step;
        if (frame->step + 1 == self->step) mark(self, self->has_voted, frame->source);
        end_when_done(self);
        break;
    case TR_TOPIC_RECORDED:
        good = self->n_untold > 0;
        self->n_untold -= good;
        break;
    case TR_TOPIC_COPIED: self->copied = tr_unpack_uint(&body, UINT64_MAX); break;
    case TR_TOPIC_STOP_REQUESTED:
        self->stopping = true;
        end_when_done(self); /* where the checkpoint of this very step is on the disk already */
        return;
    case TR_TOPIC_PAUSE:
        if (!self->pausing) self->pause_at = self->step + 1;
        self->pausing = self->known->paused != NULL;
        return;
    case TR_TOPIC_GO_ON:
        self->pausing = self->paused = false;
        commit_when_ready(self);
        return;
    default: good = false;
    }
    if (!good || tr_unpacker_done(&body, "control message", NULL)) {
        tr_fail_for_topic(actor, *message);
    } else {
        pause_when_whole(self);
        commit_when_ready(self);
    }
}

/* --- beginning and end --- */

static void coordinator_stop(tr_actor *actor, void *state)
{
    (void)actor;
    coordinator *self = state;
    if (!self) return;
    tr_free(self->stages);
    tr_free(self->counted);
    tr_free(self->n_counted);
    tr_free(self->losses);
    tr_free(self->sums);
    tr_free(self->is_ready);
    tr_free(self->has_voted);
    tr_free(self->first_block);
    tr_free(self->lost);
    tr_free(self->non_finite.text);
    tr_free(self->evaluated_loss);
    tr_free(self->evaluated_tokens);
    tr_free(self);
}

static bool allocate(coordinator *self)
{
    const tr_training_plan *plan = &self->known->plan;
    uint32_t n_parameters = self->known->n_parameters;
    uint32_t most = tr_plan_evaluations_after(plan, plan->n_steps);
    self->first_block = tr_alloc((n_parameters + 1) * sizeof *self->first_block);
    if (!self->first_block) return false;
    self->first_block[0] = 0;
    for (uint32_t i = 0; i < n_parameters; i++)
        self->first_block[i + 1] = self->first_block[i] + tr_norm_block_count(self->known->n_elements[i]);
    self->ring = tr_plan_steps_ahead(plan);
    self->counted = tr_alloc_zero(self->ring, sizeof *self->counted);
    self->n_counted = tr_alloc_zero(self->ring, sizeof *self->n_counted);
    self->stages = tr_alloc(self->n_stages_all * sizeof *self->stages);
    self->is_ready = tr_alloc_zero(self->n_stages_all, sizeof *self->is_ready);
    self->has_voted = tr_alloc_zero(self->n_stages_all, sizeof *self->has_voted);
    self->losses = tr_alloc(plan->n_microbatches * sizeof *self->losses);
    self->sums = tr_alloc((size_t)self->first_block[n_parameters] * sizeof *self->sums);
    self->evaluated_loss = tr_alloc(most * sizeof *self->evaluated_loss);
    self->evaluated_tokens = tr_alloc(most * sizeof *self->evaluated_tokens);
    return self->counted && self->n_counted && self->stages && self->losses && self->sums && self->is_ready &&
           self->has_voted && self->evaluated_loss && self->evaluated_tokens;
}

uint32_t tr_coordinator_newest(const tr_coordinator_journal *journal)
{
    uint32_t newest = 0;
    for (int i = 0; i < TR_COORDINATOR_RECORDS; i++)
        if (journal->records[i].step > newest) newest = journal->records[i].step;
    return newest;
}

/* Goes on where every stage has a whole slot, or where the plan begins once more. Everybody has voted for the update before,
 * since they hold it. */
static tr_status begin_again(coordinator *self, tr_error *err)
{
    const tr_coordinator_journal *journal = self->known->journal;
    const tr_training_plan *plan = &self->known->plan;
    uint64_t generation = tr_actor_generation(self->actor);
    if (generation && (generation - 1 < plan->first_step || generation - 1 > plan->n_steps))
        return tr_fail(err, TR_ECORRUPT, "the state slots hold generation %llu, which this run did not make",
                       (unsigned long long)generation);
    if (generation) self->step = (uint32_t)(generation - 1);
    self->again = journal && (self->step > plan->first_step || plan->again);
    self->stopping = plan->until != 0;
    if (!self->again) return TR_OK;
    self->n_updated = self->n_stages_all;
    if (journal->saved == self->step) self->last_checkpoint = self->step;
    const tr_step_record *record = &journal->records[self->step % TR_COORDINATOR_RECORDS];
    self->record_held = record->step == self->step; /* otherwise it is long in the log */
    if (self->record_held) {
        self->record = *record;
        self->tokens = record->tokens;
    } else if (self->step > plan->first_step) { /* what a checkpoint has was logged before it got its name */
        return tr_fail(err, TR_ECORRUPT, "the state slots hold step %u, but the last one committed was %u",
                       self->step, tr_coordinator_newest(journal));
    }
    return TR_OK;
}

static tr_status coordinator_init(tr_actor *actor, void *context, const void *config, size_t config_bytes,
                                  void **state, tr_error *err)
{
    (void)config, (void)config_bytes;
    coordinator *self = tr_alloc_zero(1, sizeof *self);
    if (!self) return tr_fail(err, TR_ENOMEM, "no memory for the coordinator");
    self->actor = actor;
    self->known = context;
    const tr_training_plan *plan = &self->known->plan;
    const tr_topology *topology = tr_actor_topology(actor);
    self->n_stages_all = plan->n_replicas * plan->n_stages;
    if (!allocate(self)) {
        coordinator_stop(actor, self);
        return tr_fail(err, TR_ENOMEM, "no memory for the coordinator");
    }
    for (uint32_t i = 0; i < self->n_stages_all; i++)
        self->stages[i] = tr_role_find_stage(topology, i / plan->n_stages, i % plan->n_stages);
    self->checkpoint = tr_role_find(topology, TR_ROLE_CHECKPOINT);
    self->monitor = tr_role_find(topology, TR_ROLE_MONITOR);
    self->arbiter =
        (tr__arbiter){.actor = actor,
                      .monitor = self->monitor,
                      .stages = self->stages,
                      .n_stages = self->n_stages_all,
                      .audits = self->known->journal ? &self->known->journal->audits : &self->audits};
    self->step = plan->first_step;
    self->last_checkpoint = NO_CHECKPOINT;
    self->tokens = self->known->tokens_before;
    begin_step(self);
    self->copied = UINT64_MAX; /* until somebody says that there are copies */
    tr_status status = begin_again(self, err);
    self->held_generation = (uint64_t)self->step + 1;
    self->n_left_out = tr__non_finite_left_out(self->known->journal, self->step);
    if (status) {
        coordinator_stop(actor, self);
        return status;
    }
    *state = self;
    return TR_OK;
}

static void coordinator_start(tr_actor *actor, void *state)
{
    coordinator *self = state;
    const tr_training_plan *plan = &self->known->plan;
    const tr_coordinator_journal *journal = self->known->journal;
    self->began_ns = tr_actor_now_ns(actor);
    if (!self->again) return;
    for (uint32_t back = TR_COORDINATOR_RECORDS - 1; back >= 1; back--) {
        if (self->step <= plan->first_step + back) continue; /* the log has what a checkpoint has */
        const tr_step_record *before = &journal->records[(self->step - back) % TR_COORDINATOR_RECORDS];
        if (before->step + back == self->step)
            send_record(self, before); /* it may have died on its way to the log too */
    }
    bool lost = false;
    for (int i = 0; i < 2; i++)
        lost = lost || (journal->asked[i] > journal->saved && journal->asked[i] <= self->step);
    bool wanted = lost || self->stopping || tr_plan_checkpoint_after(plan, self->step);
    if (self->last_checkpoint != self->step && wanted) ask_checkpoint(self);
    if (self->record_held && tr_plan_evaluations_after(plan, self->step) == 0) tell_record(self);
    end_when_done(self);
}

const tr_behavior tr_coordinator_behavior = {.name = "coordinator",
                                             .init = coordinator_init,
                                             .start = coordinator_start,
                                             .receive = coordinator_receive,
                                             .waits = tr__coordinator_waits,
                                             .stop = coordinator_stop};
