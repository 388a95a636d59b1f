/* ops/cuda/dnn.h - attention by cuDNN, which is loaded at run time where it is there: causal, grouped heads, bfloat16. It
 * reads q, k and v where they stand and leaves what our own kernels leave, so either may follow the other. A plan is made
 * once for a shape and kept by the context; running it allocates no memory of the device and can be captured.
 * Internal to ops/cuda/.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_CUDA_DNN_H
#define TROUPE_OPS_CUDA_DNN_H

#include "ops/cuda/context.h"

#ifdef __cplusplus
extern "C" {
#endif

/* q and y (B,T,H*D), k and v (B,T,K*D), rows `q_stride` and `kv_stride` elements apart; y's stand close. lse (B,H,T). */
typedef struct tr_attention_shape {
    int64_t batch, time, heads, kv_heads, head_size, q_stride, kv_stride;
    double scale;
} tr_attention_shape; /* without gaps: compared as bytes */

typedef struct tr_attention_plan tr_attention_plan;

/* The forward's plan for a shape: made at the first call, the context's. NULL: cuDNN is not here (said in the log, once), or
 * has none for this shape that runs within the context's workspace. */
const tr_attention_plan *tr__attention_plan(tr_cuda_context *context, const tr_attention_shape *shape);
void tr__dnn_close(void *dnn); /* of a context; NULL-safe */

typedef struct tr_attention_operands {
    const void *q, *k, *v;
    void *y, *lse;
} tr_attention_operands;

void tr__attention_run(const tr_attention_plan *self, tr_cuda_context *context,
                       const tr_attention_operands *operands, const char *what);

#ifdef __cplusplus
}
#endif
#endif
