/* actors/non_finite.c - see non_finite.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "actors/non_finite.h"

#include "actors/topics.h"
#include "base/hash.h"
#include "base/memory.h"
#include "ops/graph.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

typedef tr__coordinator coordinator;

void tr__coordinator_fail(tr__coordinator *self, tr_status status, const char *text)
{
    tr_error error;
    tr_fail(&error, status, "%s", text);
    tr_actor_fail_job(self->actor, &error);
    self->ended = true;
}

static bool is_left_out(const tr_step_record *record)
{
    return !isfinite(record->loss) || !isfinite(record->grad_norm);
}

static const tr_step_record *record_of(const tr_coordinator_journal *journal, uint32_t step)
{
    const tr_step_record *record = journal ? &journal->records[step % TR_COORDINATOR_RECORDS] : NULL;
    return record && step && record->step == step ? record : NULL;
}

uint32_t tr__non_finite_left_out(const tr_coordinator_journal *journal, uint32_t step)
{
    uint32_t n = 0;
    for (const tr_step_record *record; n < TR_COORDINATOR_RECORDS && (record = record_of(journal, step - n));)
        if (is_left_out(record))
            n++;
        else
            break;
    return n;
}

/* --- where it came from --- */

/* Forward goes from the first stage to the last, all else back. */
static bool comes_before(const coordinator *self, uint32_t microbatch, uint32_t phase, uint32_t stage)
{
    if (!self->non_finite.is || microbatch != self->non_finite.microbatch)
        return !self->non_finite.is || microbatch < self->non_finite.microbatch;
    if (phase != self->non_finite.phase) return phase < self->non_finite.phase;
    return phase == TR_PHASE_FORWARD ? stage < self->non_finite.stage : stage > self->non_finite.stage;
}

bool tr__non_finite_take(tr__coordinator *self, const tr_frame *frame, tr_unpacker *body)
{
    char text[512];
    uint32_t microbatch = (uint32_t)tr_unpack_uint(body, UINT32_MAX), at = 0;
    uint32_t phase = (uint32_t)tr_unpack_uint(body, TR_PHASE_COUNT - 1);
    tr_unpack_text(body, text, sizeof text);
    while (at < self->n_stages_all && self->stages[at] != frame->source) at++;
    if (body->bad || at == self->n_stages_all || frame->step != self->step) return false;
    uint32_t stage = at % self->known->plan.n_stages;
    if (!comes_before(self, microbatch, phase, stage)) return true;
    char *copy = tr_format("%s", text);
    if (!copy) return true; /* then it is not told */
    tr_free(self->non_finite.text);
    self->non_finite.is = true;
    self->non_finite.microbatch = microbatch;
    self->non_finite.phase = phase;
    self->non_finite.stage = stage;
    self->non_finite.replica = at / self->known->plan.n_stages;
    self->non_finite.text = copy;
    return true;
}

static void say_origin(const coordinator *self, char *text, size_t capacity)
{
    static const char *const phases[TR_PHASE_COUNT] = {"forward", "backward", "weight gradient"};
    uint32_t at = self->non_finite.replica * self->known->plan.n_stages + self->non_finite.stage;
    const tr_actor_spec *spec = tr_topology_actor(tr_actor_topology(self->actor), self->stages[at]);
    if (self->known->plan.examined != self->step + 1)
        text[0] = 0;
    else if (!self->non_finite.is)
        snprintf(text, capacity,
                 "; no operation of a micro-batch gave one: it appeared where gradients are added up");
    else
        snprintf(text, capacity, "; it first appeared in the %s of micro-batch %u in '%s' (worker %d): %s",
                 phases[self->non_finite.phase], self->non_finite.microbatch, spec->name, spec->node,
                 self->non_finite.text);
}

/* --- what becomes of it --- */

/* Of numbers the bits, of what is none only that: so it is the same wherever it was computed. */
static void canonical(double *number)
{
    if (!isfinite(*number)) *number = (double)NAN;
}

static uint64_t hash_of(double *numbers, size_t n, uint64_t before)
{
    for (size_t i = 0; i < n; i++) canonical(&numbers[i]); /* nobody needs them any more */
    const uint64_t both[2] = {before, tr_hash64(numbers, n * sizeof *numbers)};
    return tr_hash64(both, sizeof both);
}

static void note(coordinator *self, const char *kind, const char *text)
{
    tr__coordinator_note(self->actor, self->monitor, self->step, kind, text);
}

static void keep(coordinator *self, tr_non_finite what)
{
    tr_non_finite *kept = &self->known->journal->non_finite;
    kept->step = 0;
    atomic_signal_fence(memory_order_release); /* read behind this process's death only, as records are */
    kept->n = what.n;
    kept->bits = what.bits;
    atomic_signal_fence(memory_order_release);
    kept->step = what.step;
}

/* It is a number this time. */
static void tell_fluke(coordinator *self, double loss, double norm)
{
    char text[300];
    snprintf(
        text, sizeof text,
        "step %u, run again, has a loss of %.6g and a gradient norm of %.6g: what was no number before was a "
        "mistake of a processor or memory; training goes on with what is right",
        self->step + 1, loss, norm);
    note(self, "non_finite_fluke", text);
    keep(self, (tr_non_finite){0});
}

static tr__update_way run_again(coordinator *self, double loss, double norm, uint32_t n_before, uint64_t bits)
{
    tr_error why;
    uint32_t n = n_before + 1;
    if (n == TR__MOST_RUNS) {
        char line[400];
        snprintf(line, sizeof line,
                 "step %u has a loss of %g and a gradient norm of %g; %u runs of it gave %u results: some "
                 "memory or "
                 "processor makes mistakes; nothing was updated",
                 self->step + 1, loss, norm, n, n);
        tr__coordinator_fail(self, TR_ECORRUPT, line);
        return TR__NO_COMMIT;
    }
    keep(self, (tr_non_finite){.step = self->step + 1, .n = n, .bits = bits});
    self->ended = true; /* of this life */
    tr_fail(&why, TR_ECORRUPT,
            "step %u has a loss of %g and a gradient norm of %g; nothing is updated, and it is run again",
            self->step + 1, loss, norm);
    tr_actor_run_again(self->actor, &why);
    return TR__NO_COMMIT;
}

static tr__update_way leave_out(coordinator *self, const char *what)
{
    char line[TR_ERROR_SIZE];
    if (self->n_left_out >= TR__MOST_LEFT_OUT) {
        snprintf(
            line, sizeof line,
            "%.700s; the updates of the last %u steps were left out as well, and more than %d in a row are "
            "not: the state gives no numbers any more",
            what, self->n_left_out, TR__MOST_LEFT_OUT);
        tr__coordinator_fail(self, TR_EINVAL, line);
        return TR__NO_COMMIT;
    }
    snprintf(line, sizeof line, "%.900s; the update of this step is left out", what);
    note(self, "update_left_out", line);
    return TR__LEAVE_OUT;
}

/* The same again, or there is no again. */
static tr__update_way decide(coordinator *self, double loss, double norm)
{
    char origin[700], text[TR_ERROR_SIZE];
    say_origin(self, origin, sizeof origin);
    bool twice = self->known->runs_again;
    int used =
        snprintf(text, sizeof text, "step %u has a loss of %g and a gradient norm of %g%s%s", self->step + 1,
                 loss, norm, twice ? ", and run again the same bits: this is numerical" : "", origin);
    if (self->known->leaves_out) return leave_out(self, text);
    if (used > 0 && (size_t)used < sizeof text)
        snprintf(text + used, sizeof text - (size_t)used,
                 "; nothing was updated; try a smaller lr.peak, or supervision.non_finite: skip");
    tr__coordinator_fail(self, TR_EINVAL, text);
    return TR__NO_COMMIT;
}

tr__update_way tr__non_finite_judge(tr__coordinator *self, double *loss, double *norm)
{
    const tr_coordinator_journal *journal = self->known->journal;
    const tr_non_finite seen = journal ? journal->non_finite : (tr_non_finite){0};
    bool again = journal && seen.step == self->step + 1;
    if (isfinite(*loss) && isfinite(*norm)) {
        if (again) tell_fluke(self, *loss, *norm);
        self->n_left_out = 0;
        return TR__UPDATE;
    }
    double told_loss = isnan(*loss) ? (double)NAN : *loss, told_norm = isnan(*norm) ? (double)NAN : *norm;
    canonical(loss);
    canonical(norm);
    const tr_step_record *before = record_of(journal, self->step + 1);
    if (self->known->leaves_out && before && is_left_out(before)) {
        self->n_left_out++;
        return TR__LEAVE_OUT; /* it was decided in another life */
    }
    uint64_t bits = hash_of(self->losses, self->known->plan.n_microbatches, 0);
    bits = hash_of(self->sums, (size_t)self->first_block[self->known->n_parameters], bits);
    if (journal && self->known->runs_again && (!again || seen.bits != bits))
        return run_again(self, told_loss, told_norm, again ? seen.n : 0, bits);
    tr__update_way way = decide(self, told_loss, told_norm);
    if (journal && way == TR__LEAVE_OUT) keep(self, (tr_non_finite){0});
    self->n_left_out += way == TR__LEAVE_OUT;
    return way;
}
