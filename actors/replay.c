/* actors/replay.c - see replay.h.
 * A step's record has a lane for each edge, with what was sent or used of it in order. Two records are enough: a stage that
 * updates may be one step ahead of another that dies, and the commit of a step says that all hold the state before it.
 * Where memory for a record is short the record is lost, not the run: then that step is computed again.
 * SPDX-License-Identifier: Apache-2.0 */
#include "actors/replay.h"
#include "actors/dispute.h"

#include "actors/topics.h"
#include "base/hash.h"
#include "base/memory.h"
#include "ops/optimizer.h"

#include <string.h>

typedef struct kept {
    uint32_t index, size_bytes; /* frame.microbatch */
    uint64_t hash;
    tr_buffer *body; /* of what was sent, NULL where it is empty */
} kept;

typedef struct lane {
    uint32_t edge;
    bool sent, reduces; /* of this stage's own messages; of an edge of the reduction */
    kept *items;
    size_t capacity;
    uint32_t n;
    uint32_t again; /* the first so many are from an earlier life, */
    uint32_t seen;  /* and so many of them were sent again, or have come again */
    uint32_t used;  /* noted in this life: those of the reduction are used once more */
} lane;

typedef struct record {
    uint32_t step;
    bool begun, lost, finished;
    lane *lanes;
    size_t capacity;
    uint32_t n_lanes;
    double *losses, *sums; /* as the coordinator was told */
    float scale, learning_rate;
    bool left_out; /* the update */
} record;

/* Between two lives. */
typedef struct work {
    uint32_t step, n_flights, next_weight, group, n_blocks, n_audited;
    tr__flight *flights;
    double *losses;
    float factor;
    tr_buffer *accumulating;
    tr__block blocks[TR_MAX_BLOCKS];
} work;

struct tr__replay {
    record records[2];
    work work;
    bool ahead, has_work;
    uint32_t evaluations_left; /* of this step: they go before kept activations */
    bool forgets;
    bool reports; /* this life began behind a change of epoch, and has not told yet */
    uint32_t n_computed[TR_PHASE_COUNT], n_sent_again, n_compared;
};

/* --- records --- */

static record *record_of(const tr__stage *self, uint32_t step)
{
    record *found = &self->replay->records[step % 2];
    return found->begun && found->step == step ? found : NULL;
}

static void clear_lane(lane *self)
{
    for (uint32_t i = 0; i < self->n; i++) tr_buffer_release(&self->items[i].body);
    self->n = self->again = self->seen = self->used = 0;
}

static void clear_record(record *self)
{
    for (uint32_t i = 0; i < self->n_lanes; i++) {
        clear_lane(&self->lanes[i]);
        tr_free(self->lanes[i].items);
    }
    tr_free(self->lanes);
    tr_free(self->losses);
    tr_free(self->sums);
    *self = (record){0};
}

static void clear_work(work *self)
{
    for (uint32_t i = 0; self->flights && i < self->n_flights; i++) {
        tr__flight *flight = &self->flights[i];
        tr_message_destroy(&flight->input);
        tr_message_destroy(&flight->targets);
        tr_message_destroy(&flight->gradient);
        tr_buffer_release(&flight->output);
        tr_buffer_release(&flight->input_gradient);
        tr_buffer_release(&flight->audit);
        tr_free(flight->stash);
    }
    for (uint32_t i = 0; i < self->n_blocks; i++) tr_buffer_release(&self->blocks[i].memory);
    tr_buffer_release(&self->accumulating);
    tr_free(self->flights);
    tr_free(self->losses);
    *self = (work){0};
}

void tr__replay_destroy(tr__replay **self)
{
    if (!*self) return;
    for (int i = 0; i < 2; i++) clear_record(&(*self)->records[i]);
    clear_work(&(*self)->work);
    tr_free(*self);
    *self = NULL;
}

static lane *find_lane(const record *self, uint32_t edge)
{
    for (uint32_t i = 0; i < self->n_lanes; i++)
        if (self->lanes[i].edge == edge) return &self->lanes[i];
    return NULL;
}

/* The record is that of two steps ago otherwise, which a commit has dropped. */
static record *begin_record(tr__stage *self, uint32_t step)
{
    record *of = &self->replay->records[step % 2];
    if (!of->begun || of->step != step) {
        clear_record(of);
        of->begun = true;
        of->step = step;
    }
    return of;
}

static bool is_of_reduction(const char *edge)
{
    return strcmp(edge, TR_EDGE_SCATTER) == 0 || strcmp(edge, TR_EDGE_GATHER) == 0 ||
           strcmp(edge, TR_EDGE_TIED) == 0;
}

/* NULL: no memory. */
static lane *lane_for(tr__stage *self, record *of, uint32_t edge)
{
    lane *found = find_lane(of, edge);
    void *lanes = of->lanes;
    if (found) return found;
    if (tr_array_reserve(&lanes, &of->capacity, of->n_lanes + 1, sizeof *of->lanes, NULL)) return NULL;
    of->lanes = lanes;
    const tr_edge_spec *spec = tr_edge_spec_of(self->actor, edge);
    of->lanes[of->n_lanes] = (lane){.edge = edge,
                                    .sent = spec->source == tr_actor_self(self->actor),
                                    .reduces = is_of_reduction(spec->name)};
    return &of->lanes[of->n_lanes++];
}

static void append(tr__stage *self, uint32_t step, uint32_t edge, kept item)
{
    record *of = begin_record(self, step);
    lane *at = of->lost ? NULL : lane_for(self, of, edge);
    void *items = at ? at->items : NULL;
    if (!at || tr_array_reserve(&items, &at->capacity, at->n + 1, sizeof *at->items, NULL)) {
        of->lost = true; /* that step will be computed again */
        return;
    }
    at->items = items;
    at->items[at->n] = item;
    if (item.body) tr_buffer_retain(item.body);
    at->used = ++at->n;
}

void tr__replay_note_sent(tr__stage *self, uint32_t edge, tr_buffer *body, uint32_t size_bytes,
                          uint32_t index)
{
    if (!self->replay) return;
    append(self, self->step, edge,
           (kept){index, size_bytes, tr_hash64(body ? body->data : NULL, size_bytes), body});
}

void tr__replay_note_used(tr__stage *self, const tr_message *message)
{
    const tr_frame *frame = &message->frame;
    if (!self->replay || (frame->flags & TR_FRAME_EVALUATION)) return;
    record *of = begin_record(self, frame->step);
    lane *at = find_lane(of, frame->edge);
    if (at && at->used < at->n) {
        at->used++; /* the reduction is run again, of messages that were compared when they came */
        return;
    }
    uint64_t hash = tr_hash64(tr_message_bytes(message), frame->body_bytes);
    tr__dispute_decide(self, &self->disputes->replayed, message, hash, 0);
    append(self, frame->step, frame->edge, (kept){frame->microbatch, frame->body_bytes, hash, NULL});
}

void tr__replay_note_computed(tr__stage *self, tr_phase phase)
{
    if (self->replay) self->replay->n_computed[phase]++;
}

void tr__replay_note_evaluation(tr__stage *self)
{
    if (self->replay && self->replay->evaluations_left) self->replay->evaluations_left--;
}

/* --- how much it is --- */

uint64_t tr_stage_kept_bytes(const tr_stage_spec *spec, const tr_program *program)
{
    const tr_training_plan *plan = &spec->plan;
    tr_range own = tr_plan_microbatches(plan, spec->replica);
    uint64_t sent =
        tr__value_bytes(spec->graph, spec->activation_out) + tr__value_bytes(spec->graph, spec->gradient_out);
    uint64_t came = tr__value_bytes(spec->graph, spec->activation_in) +
                    tr__value_bytes(spec->graph, spec->gradient_in) +
                    tr__value_bytes(spec->graph, spec->tokens) + tr__value_bytes(spec->graph, spec->targets);
    uint64_t n_own = own.end - own.begin, n_audited = 2 * n_own * plan->audit / TR_AUDIT_ALL + 1;
    if (n_audited > n_own) n_audited = n_own;
    uint64_t flat =
        (uint64_t)tr_stage_gradient_elements(spec->parameters, spec->n_parameters) * sizeof(float);
    uint32_t n_flats = 0; /* gradients of the step before, of which parts were sent */
    for (uint32_t i = 0; i < spec->n_parameters; i++)
        for (uint32_t u = 0; u < spec->parameters[i].n_uses; u++)
            if (spec->parameters[i].uses[u].gradient == TR_NO_VALUE) n_flats = 1;
    if (plan->n_replicas > 1) n_flats = tr_plan_blocks(plan, spec->replica, NULL) + 1;
    uint64_t audits = plan->audit ? 2 * n_audited * tr_stage_audit_message_bytes(spec) : 0;
    return 2 * n_own * sent + audits + spec->stash_credits * came + n_flats * flat +
           tr_program_stash_bytes(program);
}

/* --- from one life to the next --- */

bool tr__replay_is_ahead(const tr__stage *self)
{
    return self->replay && self->replay->ahead;
}

bool tr__replay_has_work(const tr__stage *self)
{
    return self->replay && self->replay->has_work;
}

static bool serves(const tr__replay *left, tr__stage *self)
{
    const work *known = &left->work;
    uint64_t generation = tr_actor_generation(self->actor);
    if (generation == 0 || !known->flights) return false;
    for (int i = 0; i < 2; i++)
        if (left->records[i].begun && left->records[i].lost) return false;
    if (known->step == self->step) return true;
    const record *of = &left->records[self->step % 2];
    bool finished = of->begun && of->step == self->step && of->finished;
    bool held = tr_actor_slot_generation(self->actor, 0) == generation + 1 ||
                tr_actor_slot_generation(self->actor, 1) == generation + 1;
    return known->step == self->step + 1 && finished && held;
}

/* All of a record is to come again. A reduction that was not finished is run again, from the gradients in hand: it sends anew. */
static void begin_again(record *self)
{
    for (uint32_t i = 0; i < self->n_lanes; i++) {
        lane *at = &self->lanes[i];
        bool anew = at->reduces && !self->finished;
        if (anew && at->sent) clear_lane(at);
        at->again = at->n;
        at->seen = 0;
        at->used = anew ? 0 : at->n;
    }
}

/* Those that the data shard sends for this replica before the step's micro-batches. */
static uint32_t evaluations_due(const tr__stage *self)
{
    const tr_training_plan *plan = &self->spec.plan;
    uint32_t all = tr_plan_evaluations_after(plan, self->step), own = self->spec.replica;
    if (self->step == plan->first_step && !plan->again) return 0;
    return all > own ? (all - own - 1) / plan->n_replicas + 1 : 0;
}

static void take_over(tr__stage *self)
{
    tr__replay *replay = self->replay;
    work *known = &replay->work;
    replay->has_work = true;
    replay->ahead = known->step != self->step;
    for (int i = 0; i < 2; i++) begin_again(&replay->records[i]);
    replay->evaluations_left = evaluations_due(self);
    self->flights = known->flights;
    self->n_flights = known->n_flights;
    self->losses = known->losses;
    self->next_weight = known->next_weight;
    self->group = known->group;
    self->factor = known->factor;
    self->accumulating = known->accumulating;
    memcpy(self->blocks, known->blocks, known->n_blocks * sizeof *self->blocks);
    self->n_blocks = known->n_blocks;
    self->n_audited = known->n_audited;
    *known = (work){0};
}

tr_status tr__replay_init(tr__stage *self, tr_error *err)
{
    tr__replay *left = self->disputes->replay;
    self->disputes->replay = NULL;
    if (left && serves(left, self)) {
        self->replay = left;
        left->n_sent_again = left->n_compared = 0;
        memset(left->n_computed, 0, sizeof left->n_computed);
        take_over(self);
    } else {
        tr__replay_destroy(&left);
        self->replay = tr_alloc_zero(1, sizeof *self->replay);
        if (!self->replay) return tr_fail(err, TR_ENOMEM, "no memory for what a stage keeps");
    }
    self->replay->reports = tr_actor_generation(self->actor) != 0;
    return TR_OK;
}

/* What is in hand is gone on with where it was left. */
static void go_on(tr__stage *self)
{
    self->phase = TR__COMPUTING;
    if (self->next_weight == self->microbatches.end) tr__reduce_start(self);
}

void tr__replay_bind(tr__stage *self)
{
    if (!tr__replay_has_work(self)) return;
    if (self->accumulating) tr__reduce_bind_group(self);
    if (self->replay->ahead)
        self->phase = TR__PASSING;
    else
        go_on(self);
}

void tr__replay_leave(tr__stage *self)
{
    tr__replay *replay = self->replay;
    if (!replay) return;
    replay->work = (work){.step = self->step + replay->ahead,
                          .n_flights = self->n_flights,
                          .next_weight = self->next_weight,
                          .group = self->group,
                          .n_blocks = self->n_blocks,
                          .n_audited = self->n_audited,
                          .flights = self->flights,
                          .losses = self->losses,
                          .factor = self->factor,
                          .accumulating = self->accumulating};
    memcpy(replay->work.blocks, self->blocks, self->n_blocks * sizeof *self->blocks);
    replay->ahead = replay->has_work = false;
    if (replay->forgets) {
        clear_work(&replay->work);
        for (int i = 0; i < 2; i++) clear_record(&replay->records[i]);
    }
    replay->forgets = false;
    self->flights = NULL;
    self->losses = NULL;
    self->accumulating = NULL;
    self->n_blocks = 0;
    self->replay = NULL;
    self->disputes->replay = replay;
}

/* --- messages --- */

bool tr__replay_receive(tr__stage *self, tr_message **message)
{
    const tr_frame *frame = &(*message)->frame;
    if (!self->replay || (frame->flags & TR_FRAME_EVALUATION)) return false;
    const record *of = record_of(self, frame->step);
    lane *at = of ? find_lane(of, frame->edge) : NULL;
    if (!at || at->seen == at->again) return false;
    const kept *first = &at->items[at->seen++];
    self->replay->n_compared++;
    uint64_t hash = tr_hash64(tr_message_bytes(*message), frame->body_bytes);
    TR_ASSERT(first->index == frame->microbatch && first->size_bytes == frame->body_bytes);
    tr__dispute *about = &self->disputes->replayed;
    if (first->hash != hash && !about->told) {
        *about = (tr__dispute){.first = first->hash, .second = hash};
        tr__dispute_begin(self, about, *message, "");
    }
    if (at->reduces && !of->finished) return false;
    tr_edge_release(self->actor, message);
    return true;
}

static bool is_pending(const lane *self)
{
    return self->sent && self->seen < self->again;
}

bool tr__replay_goes_first(const tr__stage *self, uint32_t edge)
{
    const record *of = self->replay ? record_of(self, self->step) : NULL;
    const lane *at = of ? find_lane(of, edge) : NULL;
    return at && is_pending(at);
}

bool tr__replay_awaits(const tr__stage *self, uint32_t edge)
{
    const record *of = self->replay ? record_of(self, self->step) : NULL;
    const lane *at = of ? find_lane(of, edge) : NULL;
    return at && at->seen < at->again;
}

/* Evaluations of a step go before its activations, as they did the first time. */
static bool may_send(const tr__stage *self, const lane *at)
{
    if (!is_pending(at) || tr_edge_credits(self->actor, at->edge) == 0) return false;
    return at->edge != self->out_activation || self->replay->evaluations_left == 0;
}

bool tr__replay_is_settled(const tr__stage *self)
{
    const record *of = self->replay ? record_of(self, self->step) : NULL;
    if (self->replay && (self->replay->evaluations_left || self->disputes->replayed.told)) return false;
    for (uint32_t i = 0; of && i < of->n_lanes; i++)
        if (of->lanes[i].seen < of->lanes[i].again) return false;
    return true;
}

bool tr__replay_is_possible(const tr__stage *self)
{
    const record *of = self->replay ? record_of(self, self->step) : NULL;
    for (uint32_t i = 0; of && i < of->n_lanes; i++)
        if (may_send(self, &of->lanes[i])) return true;
    return self->phase == TR__PASSING && tr__replay_is_settled(self);
}

/* What rotted here would pass for the sender's first word with whoever begins anew: a process that cannot keep its memory
 * is replaced. */
static bool send_again(tr__stage *self, lane *at)
{
    const kept *item = &at->items[at->seen];
    if (tr_hash64(item->body ? item->body->data : NULL, item->size_bytes) != item->hash) {
        tr_error error;
        tr_fail(&error, TR_ECORRUPT, "a message that was kept of step %u has changed in memory",
                self->step + 1);
        tr_actor_fail_node(self->actor, &error);
        return false;
    }
    uint64_t begin = tr_trace_begin(&self->trace);
    tr_actor_activity(self->actor, "sending again", self->step, item->index);
    tr_edge_send(self->actor, at->edge, item->body ? tr_buffer_retain(item->body) : NULL, item->size_bytes,
                 self->step, item->index, tr__disputes_flags(self));
    tr_trace_end(&self->trace, TR_SPAN_SENDING, begin, self->step + 1, item->index);
    at->seen++;
    self->replay->n_sent_again++;
    return true;
}

bool tr__replay_advance(tr__stage *self)
{
    record *of = record_of(self, self->step);
    for (uint32_t i = 0; i < of->n_lanes; i++)
        if (may_send(self, &of->lanes[i])) return send_again(self, &of->lanes[i]);
    tr__update_report_again(self, of->losses, of->sums);
    self->phase = TR__COMMITTING;
    tr_actor_activity(self->actor, "waiting for commit", self->step, TR_ACTIVITY_NONE);
    return true;
}

void tr__replay_forget(tr__stage *self)
{
    if (self->replay) self->replay->forgets = true;
    tr_packer packer;
    tr_packer_init(&packer);
    tr_pack_array(&packer, 0);
    tr_send_packed(self->actor, self->coordinator, TR_TOPIC_FORGOTTEN, self->step, &packer);
}

/* --- the end of a step --- */

void tr__replay_report(tr__stage *self)
{
    tr__replay *replay = self->replay;
    if (!replay || !replay->reports) return;
    tr_packer packer;
    tr_packer_init(&packer);
    tr_pack_array(&packer, TR_PHASE_COUNT + 3);
    tr_pack_uint(&packer, replay->has_work);
    for (int phase = 0; phase < TR_PHASE_COUNT; phase++) tr_pack_uint(&packer, replay->n_computed[phase]);
    tr_pack_uint(&packer, replay->n_sent_again);
    tr_pack_uint(&packer, replay->n_compared);
    tr_send_packed(self->actor, self->coordinator, TR_TOPIC_REPLAYED, self->step, &packer);
    replay->reports = false;
}

static double *copy_of(const double *numbers, int64_t n)
{
    double *copy = tr_alloc((size_t)(n + 1) * sizeof *copy);
    if (copy) memcpy(copy, numbers, (size_t)n * sizeof *copy);
    return copy;
}

void tr__replay_keep_report(tr__stage *self, const double *sums)
{
    if (!self->replay) return;
    record *of = begin_record(self, self->step);
    int64_t n = 0;
    for (uint32_t i = 0; i < self->spec.n_parameters; i++)
        n += tr_norm_block_count(self->spec.parameters[i].n_elements);
    tr_free(of->losses);
    tr_free(of->sums);
    of->losses = copy_of(self->losses, self->microbatches.end - self->microbatches.begin);
    of->sums = copy_of(sums, n);
    of->lost |= !of->losses || !of->sums;
}

void tr__replay_finish_step(tr__stage *self)
{
    if (!self->replay) return;
    record *of = begin_record(self, self->step);
    of->scale = self->scale;
    of->learning_rate = self->learning_rate;
    of->left_out = self->leaves_out;
    of->finished = true;
    self->replay->has_work = false;
}

bool tr__replay_commit_is_same(const tr__stage *self)
{
    const record *of = record_of(self, self->step);
    return of->scale == self->scale && of->learning_rate == self->learning_rate &&
           of->left_out == self->leaves_out;
}

void tr__replay_pass(tr__stage *self)
{
    self->replay->ahead = false;
    self->replay->evaluations_left = evaluations_due(self);
    go_on(self);
}

void tr__replay_committed(tr__stage *self, uint32_t step)
{
    for (int i = 0; self->replay && i < 2; i++) {
        record *of = &self->replay->records[i];
        if (of->begun && of->step < step) clear_record(of);
    }
}
