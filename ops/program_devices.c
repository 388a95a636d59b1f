/* ops/program_devices.c - what programs can run on here, asked before any is made: see program.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/program.h"

#ifdef TROUPE_CUDA
#include "ops/cuda/kernels.h"
#endif

tr_status tr_program_devices(tr_device_kind kind, int32_t *n_devices, tr_error *err)
{
    int32_t count;
    tr_status status = tr_device_count(kind, &count, err);
    for (int32_t i = 0; status == TR_OK && i < count; i++) {
        tr_device *device;
        status = tr_device_open(&device, kind, i, err);
        if (status == TR_OK) tr_device_close(&device);
    }
#ifdef TROUPE_CUDA
    if (status == TR_OK && kind == TR_DEVICE_CUDA) status = tr_cuda_libraries(err);
#endif
    if (status == TR_OK) *n_devices = count;
    return status;
}

tr_status tr_program_has_fp8(tr_device_kind device, tr_error *err)
{
#ifdef TROUPE_CUDA
    if (device == TR_DEVICE_CUDA) return tr_cuda_has_fp8(err);
#endif
    (void)device, (void)err;
    return TR_OK;
}
