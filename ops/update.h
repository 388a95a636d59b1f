/* ops/update.h - the end of a step over all tensors of a piece, on any device: the squares of the norm, AdamW in place,
 * sums of gradients. It is queued on a stream; on a GPU each call is one launch, whatever the number of tensors.
 * The arithmetic is that of ops/optimizer.h; a GPU has other bits in the sums of squares and AdamW, the same in every run,
 * and the very bits of the CPU where two numbers are added or one is rounded.
 * Threads: that of the stream.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_UPDATE_H
#define TROUPE_OPS_UPDATE_H

#include "base/device.h"
#include "ops/optimizer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* All pointers are to the device's memory. */
typedef struct tr_update_tensor {
    float *p, *m, *v;        /* updated in place */
    tr_bf16 *rounded;        /* where p goes as well, rounded, or NULL */
    const float *gradient;   /* its sum; NULL: at gradient_offset of the flat gradient that each call names */
    int64_t gradient_offset; /* elements */
    int64_t n;
    float weight_decay; /* 0 for tensors that are not decayed */
} tr_update_tensor;

typedef struct tr_update tr_update;

/* Keeps a copy of the table; the stream and the pool (what the CPU computes with) must outlive it. Errors: TR_ENOMEM,
 * TR_EIO. */
tr_status tr_update_new(tr_update **out, tr_stream *stream, tr_thread_pool *pool,
                        const tr_update_tensor *tensors, size_t n_tensors, tr_error *err);
void tr_update_destroy(tr_update **self); /* NULL-safe */

/* How many doubles tr_update_square_sums writes: of each tensor in turn, those of tr_square_sums. */
int64_t tr_update_sum_count(const tr_update *self);
/* `sums`: PINNED memory, to be read when the stream is done. */
tr_status tr_update_square_sums(tr_update *self, const float *flat, double *sums, tr_error *err);
/* One step of tr_adamw; the decay is each tensor's own. */
tr_status tr_update_apply(tr_update *self, const float *flat, const tr_adamw_options *options, tr_error *err);

/* a[i] += b[i], n elements of the device's memory. */
tr_status tr_update_accumulate(tr_stream *stream, tr_thread_pool *pool, float *a, const float *b, int64_t n,
                               tr_error *err);
/* to[i] = from[i] rounded to bfloat16, likewise. */
tr_status tr_update_round(tr_stream *stream, tr_thread_pool *pool, const float *from, tr_bf16 *to, int64_t n,
                          tr_error *err);

#ifdef __cplusplus
}
#endif
#endif
