/* pipelines/trace_file.h - RUN/trace.json: what each actor did when, for ui.perfetto.dev and chrome://tracing.
 * A process (pid) a worker, a row (tid) an actor; complete events ("X") with `step` and `microbatch`, in microseconds from
 * the start of the run; what lies between two spans of an actor is told as "waiting", for what came then.
 * The file is a JSON array whose end is written behind every batch and overwritten by the next: it is whole whenever the
 * run ends, and by whatever. A temporary name and a rename would lose all of a run that was killed; and were a write cut
 * short, the viewers read an array that lacks its end, as the format allows.
 * Format: "Trace Event Format", Google, 2016: "JSON Array Format", "Complete Events", "Metadata Events".
 * Threads: one.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_PIPELINES_TRACE_FILE_H
#define TROUPE_PIPELINES_TRACE_FILE_H

#include "actors/trace.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tr_trace_file tr_trace_file;

/* Replaces what is at `path`. topology names the rows and outlives the file; began_ns is its time 0.
 * Errors: TR_EIO, TR_ENOMEM. */
tr_status tr_trace_file_open(tr_trace_file **out, const char *path, const tr_topology *topology,
                             uint64_t began_ns, tr_error *err);
/* The spans of one actor come in order; n_dropped counts from the run's beginning. Errors: TR_EIO. */
tr_status tr_trace_file_add(tr_trace_file *self, tr_actor_id who, const tr_span *spans, uint32_t n_spans,
                            uint64_t n_dropped, tr_error *err);
uint64_t tr_trace_file_dropped(const tr_trace_file *self); /* spans, of all actors */
void tr_trace_file_close(tr_trace_file **self);

#ifdef __cplusplus
}
#endif
#endif
