/* base/device.h - devices as a small table: memory, streams of work, events.
 * The same calls serve the CPU and GPUs, so that code which moves buffers and waits for work need not know
 * where it runs. On the CPU work is done when the call returns; on a GPU it is queued on a stream, in order,
 * and its end is seen through events, which are polled. CUDA's driver is looked for when a device is asked
 * for, never when the program starts: one binary serves machines with and without a GPU.
 * Threads: a device from any; a stream from one thread at a time.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_BASE_DEVICE_H
#define TROUPE_BASE_DEVICE_H

#include "base/buffer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum tr_device_kind { TR_DEVICE_CPU, TR_DEVICE_CUDA, TR_DEVICE_KIND_COUNT } tr_device_kind;

typedef struct tr_device tr_device;
typedef struct tr_stream tr_stream;
typedef struct tr_event tr_event;

const char *tr_device_kind_name(tr_device_kind kind); /* "cpu", "cuda" */
/* Errors: TR_EINVAL, with the names there are. */
tr_status tr_device_kind_parse(tr_device_kind *out, const char *name, tr_error *err);

/* How many there are; the CPU is one. Errors: TR_EUNSUPPORTED (a build without CUDA, or no driver here: the
 * message names the library that is missing), TR_ENOTFOUND (a driver and no GPU). */
tr_status tr_device_count(tr_device_kind kind, int32_t *out, tr_error *err);

/* Asks for no memory of the device yet, so that who only wants to know what there is holds nothing of it.
 * Errors: those of tr_device_count, TR_ENOTFOUND (no device `index`), TR_EIO, TR_ENOMEM. */
tr_status tr_device_open(tr_device **out, tr_device_kind kind, int32_t index, tr_error *err);
/* After its streams, events and memory are gone, save buffers: each keeps it open. NULL-safe. */
void tr_device_close(tr_device **self);
tr_device_kind tr_device_kind_of(const tr_device *self);
int32_t tr_device_index(const tr_device *self);
const char *tr_device_name(const tr_device *self);    /* "NVIDIA H100 80GB HBM3" */
size_t tr_device_memory_bytes(const tr_device *self); /* all there is, not what is free */

/* Memory of a kind: HOST and PINNED are read by the CPU, PINNED and DEVICE by the device's kernels. Contents
 * are undefined, alignment is a cache line at least. Errors: TR_ENOMEM, TR_EUNSUPPORTED (a kind that the
 * device has not). */
tr_status tr_device_allocate(tr_device *self, tr_memory_kind kind, size_t size_bytes, void **out,
                             tr_error *err);
void tr_device_free(tr_device *self, tr_memory_kind kind, void *memory); /* NULL-safe */
/* The same with a reference count; keeps the device open. */
tr_status tr_device_buffer_new(tr_device *self, tr_memory_kind kind, size_t size_bytes, tr_buffer **out,
                               tr_error *err);

/* Memory that somebody else allocated becomes PINNED: copies to and from it need not hold up the caller. Errors:
 * TR_EIO, TR_ENOMEM; it can be copied from and to all the same, but a copy may then wait. */
tr_status tr_device_pin(tr_device *self, void *memory, size_t size_bytes, tr_error *err);
void tr_device_unpin(tr_device *self, void *memory);
/* Makes it the calling thread's device: before kernels are launched by other means than these functions. */
tr_status tr_device_use(tr_device *self, tr_error *err);

/* Work is done in the order in which it is queued. Errors of queued work come from a later call. */
tr_status tr_stream_new(tr_stream **out, tr_device *device, tr_error *err);
/* One whose kernels begin before those of other streams, where either could. */
tr_status tr_stream_new_urgent(tr_stream **out, tr_device *device, tr_error *err);
void tr_stream_destroy(tr_stream **self); /* waits for its work */
tr_device *tr_stream_device(const tr_stream *self);
void *tr_stream_native(const tr_stream *self); /* a cudaStream_t; NULL on the CPU */
/* Between any two kinds of memory; what `from` and `to` point to must stay until the stream is done with it. */
tr_status tr_stream_copy(tr_stream *self, void *to, const void *from, size_t size_bytes, tr_error *err);
tr_status tr_stream_fill(tr_stream *self, void *to, uint8_t value, size_t size_bytes, tr_error *err);
tr_status tr_stream_wait(tr_stream *self, const tr_event *event,
                         tr_error *err);                         /* in order, not the caller */
tr_status tr_stream_synchronize(tr_stream *self, tr_error *err); /* the caller */

/* A point in a stream. `timed`: its distance to another can be asked. */
tr_status tr_event_new(tr_event **out, tr_device *device, bool timed, tr_error *err);
void tr_event_destroy(tr_event **self);
tr_status tr_event_record(tr_event *self, tr_stream *stream, tr_error *err);
tr_status tr_event_done(const tr_event *self, bool *done, tr_error *err); /* polls; never recorded: done */
tr_status tr_event_await(const tr_event *self, tr_error *err);            /* the caller waits for it */
/* From `from` to `to`, both done and timed. */
tr_status tr_event_elapsed_ms(const tr_event *from, const tr_event *to, double *out, tr_error *err);

#ifdef __cplusplus
}
#endif
#endif
