/* actors/monitor.h - the actor that tells people and files how the run goes.
 * It receives one record for each step, in order, from the coordinator and hands it to the functions of its
 * context; it lives in the head, so that a slow disk or terminal never holds back the step clock.
 * A checkpoint gets its name only behind the record of its last step: the checkpoint actor asks, and is answered when that
 * record has come and was synced. So a valid checkpoint never lacks lines of the log, whatever ends the run.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_ACTORS_MONITOR_H
#define TROUPE_ACTORS_MONITOR_H

#include "actors/trace.h"
#include "base/pack.h"
#include "runtime/actor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tr_step_record {
    uint32_t step;    /* from 1 */
    double loss;      /* mean over the step's targets before the update, nats */
    double grad_norm; /* global L2 norm of the mean gradient before clipping */
    double lr;
    uint64_t tokens; /* targets seen so far, this step included */
    double step_ms, tokens_per_s;
    double stall; /* share of the step in which stages had nothing to compute, 0 to 1 */
    uint32_t epoch;
    bool has_validation;
    double validation_loss;
} tr_step_record;

void tr_step_record_pack(tr_packer *packer, const tr_step_record *record);
bool tr_step_record_unpack(tr_unpacker *body, tr_step_record *record);

/* Context of the registry entry: a const tr_monitor_context *, which outlives the job. */
typedef struct tr_monitor_context {
    void *context;
    /* An error ends the run. */
    tr_status (*record)(void *context, const tr_step_record *record, tr_error *err);
    /* What was recorded so far goes to the disk, as far as the disk takes it. NULL: there is nothing to do. */
    void (*sync)(void *context);
    void (*note)(void *context, const char *kind, const char *text); /* for events.jsonl */
    void (*tick)(void *context); /* about once a second, also when no step ends: nobody should wonder */
    /* What `who` did, in order; n_dropped in all, since the run began. NULL: nobody wants to know. */
    void (*trace)(void *context, tr_actor_id who, const tr_span *spans, uint32_t n_spans, uint64_t n_dropped);
    /* Algorithms of matrix products (choices.h). What is kept for a GPU and its libraries: a text to be freed with tr_free,
     * NULL: nothing, and `why` then says so where that is worth a word. And: all that is to be kept for the GPU that
     * the text names; an error ends the run. Both NULL where no stage measures. */
    char *(*choices)(void *context, const char *name, char *why, size_t capacity);
    tr_status (*keep_choices)(void *context, const char *text, tr_error *err);
} tr_monitor_context;

extern const tr_behavior tr_monitor_behavior;

#ifdef __cplusplus
}
#endif
#endif
