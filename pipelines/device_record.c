/* pipelines/device_record.c - see device_record.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/device_record.h"

#include "base/status.h"

static bool is_out(const tr_device_record *self, int32_t index)
{
    return self && index < TR_MOST_DEVICES && self->is_out[index];
}

bool tr_device_record_fail(tr_device_record *self, int32_t index, uint32_t most)
{
    if (index < 0 || index >= TR_MOST_DEVICES || self->is_out[index]) return false;
    self->n_failures[index]++;
    self->is_out[index] = most && self->n_failures[index] >= most;
    return self->is_out[index];
}

int32_t tr_device_record_left(const tr_device_record *self, int32_t n_devices)
{
    int32_t n = 0;
    for (int32_t i = 0; i < n_devices; i++) n += !is_out(self, i);
    return n;
}

int32_t tr_device_record_nth(const tr_device_record *self, int32_t n_devices, int32_t turn)
{
    int32_t index = 0;
    for (; index < n_devices; index++)
        if (!is_out(self, index) && turn-- == 0) break;
    TR_ASSERT(index < n_devices);
    return index;
}

int32_t tr_device_record_out(const tr_device_record *self)
{
    return TR_MOST_DEVICES - tr_device_record_left(self, TR_MOST_DEVICES);
}

bool tr_device_record_has_failures(const tr_device_record *self)
{
    bool has = false;
    for (int32_t i = 0; self && i < TR_MOST_DEVICES; i++) has |= self->n_failures[i] > 0;
    return has;
}
