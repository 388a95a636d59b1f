/* pipelines/run_log.h - log.jsonl of a run that is gone on in: what stays of it, and what is known by it.
 * Threads: one.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_PIPELINES_RUN_LOG_H
#define TROUPE_PIPELINES_RUN_LOG_H

#include "actors/monitor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a step that is run again must have in common with what was logged. */
typedef struct tr_told {
    double loss, grad_norm, validation_loss;
} tr_told;

typedef struct tr_run_log {
    uint32_t updates; /* given: the steps that surely happened */
    bool keep;        /* given: and those behind them, as far as none is missing */
    uint32_t n_kept;  /* lines of steps 1 .. updates */
    tr_told *told;    /* of the steps behind, n_told of them; the caller's to free, also after a failure */
    uint32_t n_told;
    size_t told_capacity;
    tr_step_record last; /* the last of them: step, loss and tokens */
} tr_run_log;

/* What the log has of the steps behind `updates`, without a gap: each at step % most, so that the last ones stay. Returns the
 * last step; `updates` where none is. */
uint32_t tr_run_log_records(const char *run, uint32_t updates, tr_step_record *records, uint32_t most);

/* Keeps the lines that stay, in a new file that replaces the old one. */
tr_status tr_run_log_cut(tr_run_log *self, const char *path, tr_error *err);

#ifdef __cplusplus
}
#endif
#endif
