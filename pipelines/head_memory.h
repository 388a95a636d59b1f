/* pipelines/head_memory.h - what a head must leave to the next one and no disk has in time: the coordinator's journal and
 * which devices have failed, in a memfd that the agent keeps (tr_job_lease.kept). It is written in place, without locks: its owner may be killed between any
 * two bytes. What may be torn then is not used (see tr_coordinator_journal).
 * Threads: one.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_PIPELINES_HEAD_MEMORY_H
#define TROUPE_PIPELINES_HEAD_MEMORY_H

#include "actors/coordinator.h"
#include "pipelines/device_record.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tr_head_memory tr_head_memory;

/* New and all zero. Errors: TR_EIO, TR_ENOMEM. */
tr_status tr_head_memory_new(tr_head_memory **out, tr_error *err);
/* That of another head, which is dead; the descriptor stays the caller's. Errors: TR_ECORRUPT, TR_EIO, TR_ENOMEM. */
tr_status tr_head_memory_open(tr_head_memory **out, int descriptor, tr_error *err);
int tr_head_memory_descriptor(const tr_head_memory *self);
tr_coordinator_journal *tr_head_memory_journal(tr_head_memory *self);
tr_device_record *tr_head_memory_devices(tr_head_memory *self);
void tr_head_memory_destroy(tr_head_memory **self);

#ifdef __cplusplus
}
#endif
#endif
