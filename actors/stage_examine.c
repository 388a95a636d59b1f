/* actors/stage_examine.c - see stage_examine.h.
 * Told is the first of the oldest micro-batch in which there is one: forward, backward, weight gradient. In which order a stage
 * happened to compute them is no matter, so the same is told each time.
 * SPDX-License-Identifier: Apache-2.0 */
#include "actors/stage_examine.h"

#include "actors/topics.h"
#include "ops/examine.h"
#include "ops/op.h"

#include <math.h>
#include <stdio.h>

struct tr__finding {
    bool is;
    uint32_t microbatch;
    tr_phase phase;
    char text[400];
    /* of the phase that is run */
    const tr__flight *flight;
    tr_phase running;
    const tr_bindings *bindings;
    void (*behind)(void *context, int32_t position); /* who looks on as well; NULL: nobody */
    void *context;
};

tr_status tr__examine_init(tr__stage *self, tr_error *err)
{
    if (!self->spec.plan.examined) return TR_OK;
    self->finding = tr_alloc_zero(1, sizeof *self->finding);
    return self->finding ? TR_OK : tr_fail(err, TR_ENOMEM, "no memory to examine a step");
}

static void say_unit(const tr__stage *self, int32_t unit, char *text, size_t capacity)
{
    int32_t n = self->spec.n_units;
    if (n < 3)
        text[0] = 0;
    else if (unit == 0 || unit == n - 1)
        snprintf(text, capacity, ", in the %s", unit == 0 ? "embedding" : "head");
    else
        snprintf(text, capacity, ", in layer %d", unit - 1);
}

static void describe(const tr__stage *self, const tr_oddity *odd, char *text, size_t capacity)
{
    char unit[32], parameter[200] = "";
    say_unit(self, odd->node->unit, unit, sizeof unit);
    if (odd->parameter[0]) snprintf(parameter, sizeof parameter, ", which reads '%.150s'", odd->parameter);
    snprintf(text, capacity, "%s%s in what '%s' wrote, operation %d of %d%s%s%s",
             signbit(odd->value) && !isnan(odd->value) ? "-" : "", isnan(odd->value) ? "nan" : "inf",
             odd->node->op->name, odd->position + 1, odd->n_positions, unit, parameter,
             odd->in_parameter ? "; that parameter was no number before"
             : odd->in_input   ? "; what came to this stage was none before"
                               : "");
}

static void look(void *context, int32_t position)
{
    tr__stage *self = context;
    tr__finding *finding = self->finding;
    tr_oddity odd;
    if (finding->behind) finding->behind(finding->context, position);
    uint32_t microbatch = finding->flight->microbatch;
    bool first = !finding->is || microbatch < finding->microbatch ||
                 (microbatch == finding->microbatch && finding->running < finding->phase);
    if (!first || !tr_examine(self->program, finding->bindings, position, &odd)) return;
    finding->is = true;
    finding->microbatch = microbatch;
    finding->phase = finding->running;
    describe(self, &odd, finding->text, sizeof finding->text);
}

void tr__examine(tr__stage *self, const tr__flight *flight, tr_phase phase, tr_bindings *bindings)
{
    tr__finding *finding = self->finding;
    if (!finding || flight->evaluation || flight->step + 1 != self->spec.plan.examined) return;
    finding->flight = flight;
    finding->running = phase;
    finding->bindings = bindings;
    finding->behind = bindings->behind;
    finding->context = bindings->context;
    bindings->behind = look;
    bindings->context = self;
}

void tr__examine_report(tr__stage *self)
{
    const tr__finding *finding = self->finding;
    if (!finding || !finding->is || self->step + 1 != self->spec.plan.examined) return;
    tr_packer packer;
    tr_packer_init(&packer);
    tr_pack_array(&packer, 3);
    tr_pack_uint(&packer, finding->microbatch);
    tr_pack_uint(&packer, (uint64_t)finding->phase);
    tr_pack_text(&packer, finding->text);
    tr_send_packed(self->actor, self->coordinator, TR_TOPIC_NON_FINITE, self->step, &packer);
}
