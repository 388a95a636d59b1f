/* actors/stage_device_internal.h - what a stage's memory on a device is, for the files that work with it.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_ACTORS_STAGE_DEVICE_INTERNAL_H
#define TROUPE_ACTORS_STAGE_DEVICE_INTERNAL_H

#include "actors/stage_device.h"

#include "ops/update.h"

/* What enters or leaves a piece with a micro-batch. */
typedef enum place { IN, TARGETS, GRADIENT_IN, N_ENTER, OUT = N_ENTER, GRADIENT_OUT, N_PLACES } place;
enum { TURNS = 2 };

/* Pinned memory for what comes; `copied`: it has been read. */
typedef struct landing {
    void *memory;
    tr_event *copied;
} landing;

typedef struct owned {
    tr_memory_kind kind;
    void *memory;
} owned;

struct tr__device {
    tr_device *device;
    tr_stream *stream; /* of all work */
    tr_stream *copier; /* of states on their way to a slot */
    tr_event *updated, *copied;
    tr_event *marks[TR__MOST_DEPARTURES];
    owned *owned;
    size_t n_owned, owned_capacity;
    /* micro-batches */
    tr_value values[N_PLACES];
    size_t bytes[N_PLACES];
    void **at[N_PLACES]; /* on the device, by flight; outputs that no later phase reads share one place */
    landing landings[N_ENTER][TURNS];
    uint32_t turn[N_ENTER];
    float *factor, *host_factor;  /* of the loss: the device's, and pinned */
    double *losses, *host_losses; /* on the device by flight, so that kernels write where they wrote before */
    uint32_t n_losses;            /* micro-batches of a step; behind them the one that is measured */
    /* state and gradients */
    float *state; /* laid out as a slot is */
    bool pinned[2];
    bool copying;
    tr__buffers host_flats, shards;
    float *visitor; /* a use of a tied parameter that came in a message */
    tr_update *update;
    double *sums; /* pinned */
};

static inline bool tr__device_good(tr__stage *self, tr_status status, const tr_error *error)
{
    if (status == TR_OK) return true;
    tr__device_failed(self, error);
    return false;
}

/* All that was queued is done, and went well. */
static inline bool tr__device_wait(tr__stage *self)
{
    tr_error error;
    tr_status status = tr_program_synchronize(self->program, &error);
    if (status == TR_OK) status = tr_stream_synchronize(self->device->stream, &error);
    return tr__device_good(self, status, &error);
}

#endif
