/* ops/update.c - see update.h: by ops/optimizer.h on the CPU, by ops/cuda/optimizer.h on a GPU.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/update.h"

#include "base/memory.h"
#ifdef TROUPE_CUDA
#include "ops/cuda/optimizer.h"
#endif

#include <string.h>

struct tr_update {
    tr_stream *stream;
    tr_thread_pool *pool;
    tr_update_tensor *tensors;
    size_t n_tensors;
#ifdef TROUPE_CUDA
    tr_cuda_optimizer *cuda; /* NULL on the CPU */
#endif
};

#ifdef TROUPE_CUDA
static bool is_cuda(const tr_stream *stream)
{
    return tr_device_kind_of(tr_stream_device(stream)) == TR_DEVICE_CUDA;
}

static tr_status make_cuda(tr_update *self, tr_error *err)
{
    tr_cuda_tensor *tensors = tr_alloc_zero(self->n_tensors, sizeof *tensors);
    if (!tensors) return tr_fail(err, TR_ENOMEM, "no memory for a table of %zu tensors", self->n_tensors);
    for (size_t i = 0; i < self->n_tensors; i++) {
        const tr_update_tensor *t = &self->tensors[i];
        tensors[i] = (tr_cuda_tensor){.p = t->p,
                                      .m = t->m,
                                      .v = t->v,
                                      .g = t->gradient,
                                      .g_offset = t->gradient_offset,
                                      .bf16 = t->rounded,
                                      .n = t->n,
                                      .weight_decay = t->weight_decay};
    }
    tr_status status = tr_cuda_optimizer_new(&self->cuda, self->stream, tensors, self->n_tensors, err);
    tr_free(tensors);
    return status;
}
#endif

tr_status tr_update_new(tr_update **out, tr_stream *stream, tr_thread_pool *pool,
                        const tr_update_tensor *tensors, size_t n_tensors, tr_error *err)
{
    tr_update *self = tr_alloc_zero(1, sizeof *self);
    if (!self) return tr_fail(err, TR_ENOMEM, "no memory for an optimizer");
    tr_status status = TR_OK;
    self->stream = stream;
    self->pool = pool;
    self->n_tensors = n_tensors;
    self->tensors = tr_alloc((n_tensors + 1) * sizeof *self->tensors);
    if (!self->tensors)
        status = tr_fail(err, TR_ENOMEM, "no memory for a table of %zu tensors", n_tensors);
    else if (n_tensors)
        memcpy(self->tensors, tensors, n_tensors * sizeof *tensors);
#ifdef TROUPE_CUDA
    if (status == TR_OK && is_cuda(stream)) status = make_cuda(self, err);
#endif
    if (status != TR_OK) {
        tr_update_destroy(&self);
        return status;
    }
    *out = self;
    return TR_OK;
}

void tr_update_destroy(tr_update **self)
{
    if (!*self) return;
#ifdef TROUPE_CUDA
    tr_cuda_optimizer_destroy(&(*self)->cuda);
#endif
    tr_free((*self)->tensors);
    tr_free(*self);
    *self = NULL;
}

int64_t tr_update_sum_count(const tr_update *self)
{
    int64_t n = 0;
    for (size_t i = 0; i < self->n_tensors; i++) n += tr_norm_block_count(self->tensors[i].n);
    return n;
}

static const float *gradient_of(const tr_update_tensor *tensor, const float *flat)
{
    return tensor->gradient ? tensor->gradient : flat + tensor->gradient_offset;
}

tr_status tr_update_square_sums(tr_update *self, const float *flat, double *sums, tr_error *err)
{
#ifdef TROUPE_CUDA
    if (self->cuda) {
        int64_t n;
        const double *from = tr_cuda_optimizer_squares_at(self->cuda, &n);
        tr_cuda_optimizer_gradients(self->cuda, flat);
        tr_status status = tr_cuda_optimizer_squares(self->cuda, err);
        if (status != TR_OK) return status;
        return tr_stream_copy(self->stream, sums, from, (size_t)n * sizeof *sums, err);
    }
#endif
    (void)err;
    for (size_t i = 0; i < self->n_tensors; i++) {
        const tr_update_tensor *tensor = &self->tensors[i];
        tr_square_sums(gradient_of(tensor, flat), tensor->n, sums, self->pool);
        sums += tr_norm_block_count(tensor->n);
    }
    return TR_OK;
}

tr_status tr_update_apply(tr_update *self, const float *flat, const tr_adamw_options *options, tr_error *err)
{
#ifdef TROUPE_CUDA
    if (self->cuda) {
        tr_cuda_step_options step = {.lr = (double)options->lr,
                                     .beta1 = (double)options->beta1,
                                     .beta2 = (double)options->beta2,
                                     .eps = (double)options->eps,
                                     .scaled = true,
                                     .scale = (double)options->gradient_scale,
                                     .step = options->step};
        tr_cuda_optimizer_gradients(self->cuda, flat);
        return tr_cuda_optimizer_step(self->cuda, &step, err);
    }
#endif
    (void)err;
    for (size_t i = 0; i < self->n_tensors; i++) {
        const tr_update_tensor *t = &self->tensors[i];
        tr_adamw_options own = *options;
        own.weight_decay = t->weight_decay;
        tr_adamw(t->p, t->m, t->v, gradient_of(t, flat), t->p, t->m, t->v, t->rounded, t->n, &own,
                 self->pool);
    }
    return TR_OK;
}

tr_status tr_update_accumulate(tr_stream *stream, tr_thread_pool *pool, float *a, const float *b, int64_t n,
                               tr_error *err)
{
#ifdef TROUPE_CUDA
    if (is_cuda(stream)) return tr_cuda_accumulate(stream, a, b, n, err);
#endif
    (void)stream, (void)err;
    tr_accumulate(a, b, n, pool);
    return TR_OK;
}

tr_status tr_update_round(tr_stream *stream, tr_thread_pool *pool, const float *from, tr_bf16 *to, int64_t n,
                          tr_error *err)
{
#ifdef TROUPE_CUDA
    if (is_cuda(stream)) return tr_cuda_round_bf16(stream, from, to, n, err);
#endif
    (void)stream, (void)err;
    tr_round_to_bf16(from, to, n, pool);
    return TR_OK;
}
