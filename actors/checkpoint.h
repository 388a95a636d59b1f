/* actors/checkpoint.h - the actor that writes checkpoints from the chunks of state that stages stream to it.
 * It knows no file format: a tr_checkpoint_writer takes the bytes. One checkpoint is written at a time;
 * chunks of the next, from a stage that is ahead, wait in their slots and hold only that stream back. When all bytes
 * are there it asks the monitor, and commits when the log has the record of the checkpoint's last step (monitor.h). A
 * checkpoint that could not be written is an alarm, not an end, unless it is the last.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_ACTORS_CHECKPOINT_H
#define TROUPE_ACTORS_CHECKPOINT_H

#include "runtime/actor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Context of the registry entry: a const tr_checkpoint_writer *, which outlives the job. After an error of
 * begin or write nothing but abandon is called for that checkpoint; after one of commit nothing is. */
typedef struct tr_checkpoint_writer {
    void *context;
    uint64_t total_bytes; /* of all parameters and moments: the checkpoint is whole when so much has come */
    tr_status (*begin)(void *context, uint32_t updates, tr_error *err);
    /* part: 0 parameter, 1 first moment, 2 second moment */
    tr_status (*write)(void *context, uint32_t parameter, uint32_t part, uint64_t offset_bytes,
                       const void *bytes, size_t size_bytes, tr_error *err);
    tr_status (*commit)(void *context, char *path, size_t path_capacity, tr_error *err);
    void (*abandon)(void *context);
} tr_checkpoint_writer;

extern const tr_behavior tr_checkpoint_behavior;

#ifdef __cplusplus
}
#endif
#endif
