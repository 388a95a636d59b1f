/* pipelines/epoch_log.h - epochs.jsonl of a run: which epochs were begun, and from which generation of the state each went
 * on. Only appended to, and on the disk before anything acts in an epoch, so that none is ever used twice, whoever dies
 * when. A line that was cut short counts: its epoch may have begun.
 * Threads: one.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_PIPELINES_EPOCH_LOG_H
#define TROUPE_PIPELINES_EPOCH_LOG_H

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tr_epoch_log tr_epoch_log;

/* Makes the file where there is none. Errors: TR_EIO, TR_ENOMEM. */
tr_status tr_epoch_log_open(tr_epoch_log **out, const char *path, tr_error *err);
uint32_t tr_epoch_log_first(const tr_epoch_log *self); /* one more than any that stood there; at least 1 */
tr_status tr_epoch_log_begin(tr_epoch_log *self, uint32_t epoch, tr_error *err);
tr_status tr_epoch_log_from(tr_epoch_log *self, uint32_t epoch, uint64_t generation, tr_error *err);
void tr_epoch_log_close(tr_epoch_log **self);

#ifdef __cplusplus
}
#endif
#endif
