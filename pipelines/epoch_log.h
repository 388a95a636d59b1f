/* pipelines/epoch_log.h - epochs.jsonl of a run: which epochs were begun, and from which generation of the state each went
 * on. Only appended to, and on the disk before anything acts in an epoch, so that none is ever used twice, whoever dies
 * when. A line that was cut short counts: its epoch may have begun. Where the layout is another one than before, or a process
 * begins, the line says which it is.
 * Threads: one.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_PIPELINES_EPOCH_LOG_H
#define TROUPE_PIPELINES_EPOCH_LOG_H

#include "pipelines/layout.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tr_epoch_log tr_epoch_log;

/* Makes the file where there is none. Errors: TR_EIO, TR_ENOMEM. */
tr_status tr_epoch_log_open(tr_epoch_log **out, const char *path, tr_error *err);
/* From then on each epoch's line names the revision of the head's lease that it was won under (pipelines/head_lease.h). */
void tr_epoch_log_under(tr_epoch_log *self, int64_t revision);
uint32_t tr_epoch_log_first(const tr_epoch_log *self); /* one more than any that stood there; at least 1 */
tr_status tr_epoch_log_begin(tr_epoch_log *self, uint32_t epoch, tr_error *err);
/* The same, and from then on in this layout. */
tr_status tr_epoch_log_begin_in(tr_epoch_log *self, uint32_t epoch, const tr_layout *layout, tr_error *err);
tr_status tr_epoch_log_from(tr_epoch_log *self, uint32_t epoch, uint64_t generation, tr_error *err);
/* Was this epoch begun under this revision? */
bool tr_epoch_log_has(const char *path, uint32_t epoch, uint64_t revision);
void tr_epoch_log_close(tr_epoch_log **self);

/* The last layouts that a log names, the newest first, none twice in turn; returns how many there are, at most `most`. What
 * cannot be read counts as not there. */
size_t tr_epoch_log_layouts(const char *path, tr_layout *layouts, size_t most);

#ifdef __cplusplus
}
#endif
#endif
