/* pipelines/device_record.h - how often each of this host's GPUs has failed under a worker, and which of them are left out.
 * It lies in the memory that a head leaves to the next one (head_memory.h), which is written in place: each word stands alone.
 * Threads: one.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_PIPELINES_DEVICE_RECORD_H
#define TROUPE_PIPELINES_DEVICE_RECORD_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { TR_MOST_DEVICES = 64 };

typedef struct tr_device_record {
    uint32_t n_failures[TR_MOST_DEVICES]; /* by index; of those that are left out no more than it took */
    uint32_t is_out[TR_MOST_DEVICES];     /* 1: no stage computes on it any more */
} tr_device_record;

/* One more, of `most` at which a device is left out (0: none ever is). True: with this one it is. */
bool tr_device_record_fail(tr_device_record *self, int32_t index, uint32_t most);
/* Of the first n_devices. self may be NULL: nothing has failed. */
int32_t tr_device_record_left(const tr_device_record *self, int32_t n_devices);
/* The turn-th of those that are left. */
int32_t tr_device_record_nth(const tr_device_record *self, int32_t n_devices, int32_t turn);
int32_t tr_device_record_out(const tr_device_record *self); /* how many are left out */
bool tr_device_record_has_failures(const tr_device_record *self);

#ifdef __cplusplus
}
#endif
#endif
