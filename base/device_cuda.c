/* base/device_cuda.c - NVIDIA GPUs as devices, through CUDA's runtime, which is linked in and loads the driver
 * when it is first asked. That the driver is there is found out before, so that its absence has a name.
 * A stream never waits for the default stream; copies from memory that is not pinned return when the memory
 * may be used again (the runtime stages them).
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/device_internal.h"
#include "base/memory.h"

#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* What a failed call says. A sticky error (an invalid access, for one) comes back from every later call too:
 * the process must be replaced. */
static tr_status failed(tr_device *self, cudaError_t code, const char *what, tr_error *err)
{
    return tr_fail(err, code == cudaErrorMemoryAllocation ? TR_ENOMEM : TR_EIO, "cuda:%d: %s failed: %s",
                   self->index, what, cudaGetErrorString(code));
}

/* The calling thread's device; a change costs nothing where it is the same. */
static tr_status use(tr_device *self, tr_error *err)
{
    cudaError_t code = cudaSetDevice(self->index);
    return code == cudaSuccess ? TR_OK : failed(self, code, "cudaSetDevice", err);
}

static tr_status check(tr_device *self, cudaError_t code, const char *what, tr_error *err)
{
    return code == cudaSuccess ? TR_OK : failed(self, code, what, err);
}

static tr_status count(int32_t *out, tr_error *err)
{
    void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!driver)
        return tr_fail(err, TR_EUNSUPPORTED,
                       "device 'cuda' needs NVIDIA's driver: libcuda.so.1 is not here (%s)", dlerror());
    dlclose(driver);
    int n = 0;
    cudaError_t code = cudaGetDeviceCount(&n);
    if (code == cudaErrorNoDevice || (code == cudaSuccess && n == 0))
        return tr_fail(err, TR_ENOTFOUND, "device 'cuda': the driver sees no GPU here");
    if (code != cudaSuccess)
        return tr_fail(err, TR_EUNSUPPORTED, "device 'cuda': %s", cudaGetErrorString(code));
    *out = n;
    return TR_OK;
}

static tr_status open_cuda(tr_device *self, tr_error *err)
{
    struct cudaDeviceProp properties;
    tr_status status =
        check(self, cudaGetDeviceProperties(&properties, self->index), "cudaGetDeviceProperties", err);
    if (status != TR_OK) return status;
    if (properties.major < 8)
        return tr_fail(err, TR_EUNSUPPORTED,
                       "cuda:%d: '%s' has compute capability %d.%d; this build has kernels for 8.0 and later",
                       self->index, properties.name, properties.major, properties.minor);
    snprintf(self->name, sizeof self->name, "%.*s", (int)sizeof self->name - 1, properties.name);
    self->memory_bytes = properties.totalGlobalMem;
    return TR_OK;
}

static tr_status allocate(tr_device *self, tr_memory_kind kind, size_t size_bytes, void **out, tr_error *err)
{
    void *memory = NULL;
    tr_status status = use(self, err);
    if (status != TR_OK) return status;
    if (kind == TR_MEMORY_HOST) {
        memory = tr_alloc_aligned(TR_CACHE_LINE, size_bytes);
        if (!memory) return tr_fail(err, TR_ENOMEM, "no memory for %zu bytes", size_bytes);
    } else if (kind == TR_MEMORY_SHARED) {
        return tr_fail(err, TR_EUNSUPPORTED, "shared memory is not a device's to give");
    } else {
        cudaError_t code = kind == TR_MEMORY_PINNED ? cudaHostAlloc(&memory, size_bytes, cudaHostAllocDefault)
                                                    : cudaMalloc(&memory, size_bytes);
        if (code != cudaSuccess) {
            cudaGetLastError(); /* not sticky: the next call shall not see it */
            return tr_fail(err, code == cudaErrorMemoryAllocation ? TR_ENOMEM : TR_EIO,
                           "cuda:%d: no %s memory for %zu bytes: %s", self->index,
                           kind == TR_MEMORY_PINNED ? "pinned" : "device", size_bytes,
                           cudaGetErrorString(code));
        }
    }
    *out = memory;
    return TR_OK;
}

static void free_memory(tr_device *self, tr_memory_kind kind, void *memory)
{
    if (use(self, NULL) != TR_OK) return;
    if (kind == TR_MEMORY_HOST)
        tr_free(memory);
    else if (kind == TR_MEMORY_PINNED)
        cudaFreeHost(memory);
    else
        cudaFree(memory);
}

/* What is shared is the whole of a block that the driver hands out, so it gets one of its own. */
static tr_status share_new(tr_device *self, tr__share *share, void **out, tr_error *err)
{
    enum { BLOCK_BYTES = 2 << 20 };
    cudaIpcMemHandle_t handle;
    _Static_assert(sizeof handle <= sizeof share->native, "a handle has room");
    void *memory = NULL;
    size_t size_bytes = (share->size_bytes + BLOCK_BYTES - 1) / BLOCK_BYTES * BLOCK_BYTES;
    tr_status status = allocate(self, TR_MEMORY_DEVICE, size_bytes, &memory, err);
    if (status != TR_OK) return status;
    cudaError_t code = cudaIpcGetMemHandle(&handle, memory);
    if (code != cudaSuccess) {
        cudaGetLastError(); /* the next call shall not see it */
        cudaFree(memory);
        return tr_fail(err, TR_EUNSUPPORTED, "cuda:%d: cudaIpcGetMemHandle failed: %s", self->index,
                       cudaGetErrorString(code));
    }
    memcpy(share->native, &handle, sizeof handle);
    *out = memory;
    return TR_OK;
}

static void share_free(tr_device *self, void *memory, const tr__share *share)
{
    (void)share;
    free_memory(self, TR_MEMORY_DEVICE, memory);
}

static tr_status share_open(tr_device *self, const tr__share *share, void **out, tr_error *err)
{
    cudaIpcMemHandle_t handle;
    void *memory = NULL;
    if (share->pid == (int32_t)getpid())
        return tr_fail(err, TR_EUNSUPPORTED,
                       "CUDA IPC is between processes, and the other end is in this one");
    tr_status status = use(self, err);
    if (status != TR_OK) return status;
    memcpy(&handle, share->native, sizeof handle);
    cudaError_t code = cudaIpcOpenMemHandle(&memory, handle, cudaIpcMemLazyEnablePeerAccess);
    if (code != cudaSuccess) {
        cudaGetLastError(); /* the next call shall not see it */
        return tr_fail(err, TR_EUNSUPPORTED, "cuda:%d: cudaIpcOpenMemHandle of cuda:%d's memory failed: %s",
                       self->index, share->index, cudaGetErrorString(code));
    }
    *out = memory;
    return TR_OK;
}

static void share_close(tr_device *self, void *memory, const tr__share *share)
{
    (void)share;
    if (use(self, NULL) == TR_OK && cudaIpcCloseMemHandle(memory) != cudaSuccess) cudaGetLastError();
}

/* Not a sticky error where it fails: some kinds of memory cannot be pinned. */
static tr_status pin(tr_device *self, void *memory, size_t size_bytes, tr_error *err)
{
    tr_status status = use(self, err);
    if (status != TR_OK || size_bytes == 0) return status;
    cudaError_t code = cudaHostRegister(memory, size_bytes, cudaHostRegisterDefault);
    if (code != cudaSuccess) cudaGetLastError(); /* the next call shall not see it */
    return check(self, code, "cudaHostRegister", err);
}

static void unpin(tr_device *self, void *memory)
{
    if (use(self, NULL) == TR_OK && cudaHostUnregister(memory) != cudaSuccess) cudaGetLastError();
}

static tr_status stream_new(tr_device *self, bool urgent, void **native, tr_error *err)
{
    cudaStream_t stream;
    int least = 0, most = 0;
    tr_status status = use(self, err);
    if (status == TR_OK)
        status = check(self, cudaDeviceGetStreamPriorityRange(&least, &most),
                       "cudaDeviceGetStreamPriorityRange", err);
    if (status == TR_OK)
        status =
            check(self, cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, urgent ? most : least),
                  "cudaStreamCreate", err);
    if (status == TR_OK) *native = stream;
    return status;
}

static void stream_destroy(tr_device *self, void *native)
{
    if (use(self, NULL) != TR_OK) return;
    cudaStreamSynchronize(native);
    cudaStreamDestroy(native);
}

static tr_status copy(tr_device *self, void *stream, void *to, const void *from, size_t size_bytes,
                      tr_error *err)
{
    tr_status status = use(self, err);
    if (status != TR_OK || size_bytes == 0) return status;
    return check(self, cudaMemcpyAsync(to, from, size_bytes, cudaMemcpyDefault, stream), "a copy", err);
}

static tr_status fill(tr_device *self, void *stream, void *to, uint8_t value, size_t size_bytes,
                      tr_error *err)
{
    tr_status status = use(self, err);
    if (status != TR_OK || size_bytes == 0) return status;
    return check(self, cudaMemsetAsync(to, value, size_bytes, stream), "a fill", err);
}

static tr_status wait_for(tr_device *self, void *stream, void *event, tr_error *err)
{
    tr_status status = use(self, err);
    if (status != TR_OK) return status;
    return check(self, cudaStreamWaitEvent(stream, event, 0), "cudaStreamWaitEvent", err);
}

static tr_status synchronize(tr_device *self, void *stream, tr_error *err)
{
    tr_status status = use(self, err);
    if (status != TR_OK) return status;
    return check(self, cudaStreamSynchronize(stream), "queued work", err);
}

static tr_status event_new(tr_device *self, bool timed, void **native, tr_error *err)
{
    cudaEvent_t event;
    tr_status status = use(self, err);
    if (status == TR_OK)
        status = check(self, cudaEventCreateWithFlags(&event, timed ? 0 : cudaEventDisableTiming),
                       "cudaEventCreate", err);
    if (status == TR_OK) *native = event;
    return status;
}

static void event_destroy(tr_device *self, void *native)
{
    if (use(self, NULL) == TR_OK) cudaEventDestroy(native);
}

static tr_status record(tr_device *self, void *event, void *stream, tr_error *err)
{
    tr_status status = use(self, err);
    if (status != TR_OK) return status;
    return check(self, cudaEventRecord(event, stream), "cudaEventRecord", err);
}

static tr_status done(tr_device *self, void *event, bool *out, tr_error *err)
{
    cudaError_t code = cudaEventQuery(event);
    if (code != cudaSuccess && code != cudaErrorNotReady) return failed(self, code, "queued work", err);
    *out = code == cudaSuccess;
    return TR_OK;
}

static tr_status await(tr_device *self, void *event, tr_error *err)
{
    return check(self, cudaEventSynchronize(event), "queued work", err);
}

static tr_status elapsed_ms(tr_device *self, void *from, void *to, double *out, tr_error *err)
{
    float ms = 0;
    tr_status status = check(self, cudaEventElapsedTime(&ms, from, to), "cudaEventElapsedTime", err);
    if (status == TR_OK) *out = (double)ms;
    return status;
}

const tr_device_table tr__device_cuda = {
    .count = count,
    .open = open_cuda,
    .allocate = allocate,
    .free = free_memory,
    .share_new = share_new,
    .share_free = share_free,
    .share_open = share_open,
    .share_close = share_close,
    .share_is_counted = false,
    .pin = pin,
    .unpin = unpin,
    .use = use,
    .stream_new = stream_new,
    .stream_destroy = stream_destroy,
    .copy = copy,
    .fill = fill,
    .wait = wait_for,
    .synchronize = synchronize,
    .event_new = event_new,
    .event_destroy = event_destroy,
    .record = record,
    .done = done,
    .await = await,
    .elapsed_ms = elapsed_ms,
};
