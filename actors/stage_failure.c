/* actors/stage_failure.c - a stage whose device has failed, and faults on purpose in what it computes.
 * A device that has failed (an error that comes back from every later call, no memory left) is told by a status of its own,
 * TR_EDEVICE: the process ends and is replaced as any that dies, and whoever runs the job counts. That the host's memory was
 * short counts as well, as a status does not say whose it was. The CPU is none that could
 * fail: without memory there its process ends as any without memory.
 * SPDX-License-Identifier: Apache-2.0 */
#include "actors/stage_device_internal.h"
#include "actors/stage_link.h"

#include "runtime/chaos.h"

#include <string.h>

tr_status tr__device_blame(const tr__stage *self, tr_status status, tr_error *err)
{
    bool blamed = self->spec.device != TR_DEVICE_CPU && self->device &&
                  (status == TR_EIO || status == TR_ENOMEM || status == TR_ENOTFOUND);
    if (!blamed) return status;
    if (err) err->status = TR_EDEVICE;
    return TR_EDEVICE;
}

void tr__device_failed(tr__stage *self, const tr_error *error)
{
    tr_error told = *error;
    (void)tr__device_blame(self, error->status, &told);
    tr_actor_fail_node(self->actor, &told);
}

void tr__stage_lacks_memory(tr__stage *self, const tr_error *error)
{
    if (self->spec.device == TR_DEVICE_CPU)
        tr_actor_fail(self->actor, error);
    else
        tr__device_failed(self, error);
}

bool tr__device_failed_or_peer(tr__stage *self, const tr_error *error)
{
    bool done;
    if (tr_event_done(self->device->updated, &done, NULL) != TR_OK)
        tr__device_failed(self, error);
    else
        tr_actor_fail_node(self->actor, error);
    return false;
}

/* What a GPU is asked to read lies nowhere: it fails, and with it all that is asked of it later. */
static bool break_device(tr__stage *self)
{
    tr_error error;
    float *nowhere = (float *)(uintptr_t)64; // NOLINT(performance-no-int-to-ptr)
    if (self->spec.device == TR_DEVICE_CPU) {
        tr_fail(&error, TR_EDEVICE, "its device has failed, as chaos.at wants it");
        tr_actor_fail_node(self->actor, &error);
        return false;
    }
    tr_status status = tr_update_accumulate(self->device->stream, self->pool, nowhere, nowhere, 1, &error);
    return tr__device_good(self, status, &error) && tr__device_wait(self);
}

void tr__stage_spoil(const tr__stage *self, int how, void *result, size_t size_bytes)
{
    enum { LONGEST = sizeof(double) }; /* all ones are no number in any format */
    uint8_t *bytes = result;
    if (how == TR_CHAOS_NAN)
        memset(bytes + size_bytes / 2 / LONGEST * LONGEST, 0xff, LONGEST);
    else
        bytes[size_bytes / 2] ^= (uint8_t)(1u << tr_actor_epoch(self->actor) % 8);
}

bool tr__stage_spoil_phase(tr__stage *self, tr__flight *flight, tr_phase phase)
{
    /* Of a first stage's backward nothing is seen outside. */
    const tr_buffer *out = phase == TR_PHASE_FORWARD    ? flight->output
                           : phase == TR_PHASE_BACKWARD ? flight->input_gradient
                                                        : self->accumulating;
    int how = tr_actor_spoil(self->actor);
    if (how == 0) return true;
    if (how == TR_CHAOS_DEVICE) return break_device(self);
    if (out && !tr__links_place(self, out)) /* what goes by a link is in memory of a device */
        tr__stage_spoil(self, how, out->data, out->size_bytes);
    else if (!out && phase == TR_PHASE_FORWARD)
        tr__stage_spoil(self, how, &flight->loss, sizeof flight->loss);
    return true;
}
