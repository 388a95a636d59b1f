/* base/device_share.h - memory of a device that other processes of this host read: on a GPU CUDA IPC, on the CPU shared memory.
 * Who made it writes, who has opened it reads, and when is between the two: nothing here waits for another process.
 * Threads: as base/device.h.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_BASE_DEVICE_SHARE_H
#define TROUPE_BASE_DEVICE_SHARE_H

#include "base/device.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { TR_DEVICE_HANDLE_BYTES = 104 };

/* Memory of the device's own, and what tells others how to open it. Contents are undefined; it keeps the device open.
 * Errors: TR_ENOMEM, TR_EUNSUPPORTED, TR_EIO. */
tr_status tr_device_share_new(tr_device *self, size_t size_bytes, tr_buffer **out,
                              uint8_t handle[TR_DEVICE_HANDLE_BYTES], tr_error *err);
/* Such memory of another process, as this device reads it; closed with the buffer's last reference. Asks nothing of the process
 * that made it. Errors: TR_EUNSUPPORTED (another host's, out of this device's reach, or of this very process), TR_ECORRUPT. */
tr_status tr_device_share_open(tr_device *self, const uint8_t handle[TR_DEVICE_HANDLE_BYTES],
                               size_t size_bytes, tr_buffer **out, tr_error *err);
/* May its maker free it while others have it open? Not on a GPU: what they would read then is undefined. */
bool tr_device_share_is_counted(const tr_device *self);

#ifdef __cplusplus
}
#endif
#endif
