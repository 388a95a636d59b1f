/* ops/cuda/context.c - the table of CUDA's kernels, and what they are launched with.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cuda/context.h"

#include "base/memory.h"
#include "ops/cuda/blas.h"
#include "ops/cuda/dnn.h"
#include "ops/program.h"

#include <stdio.h>
#include <string.h>

extern const tr_kernel tr__cuda_elementwise_kernels[], tr__cuda_copy_kernels[], tr__cuda_norm_kernels[],
    tr__cuda_linear_kernels[], tr__cuda_embedding_kernels[], tr__cuda_rope_kernels[],
    tr__cuda_attention_kernels[], tr__cuda_cross_entropy_kernels[], tr__cuda_dropout_kernels[],
    tr__cuda_norm_sums_kernels[], tr__cuda_linear_loss_kernels[], tr__cuda_fp8_kernels[],
    tr__cuda_fp8_linear_kernels[];

/* One list a .cu file; each ends with a kernel without a name. */
static const tr_kernel *const lists[] = {
    tr__cuda_elementwise_kernels, tr__cuda_copy_kernels,          tr__cuda_norm_kernels,
    tr__cuda_linear_kernels,      tr__cuda_embedding_kernels,     tr__cuda_rope_kernels,
    tr__cuda_attention_kernels,   tr__cuda_cross_entropy_kernels, tr__cuda_dropout_kernels,
    tr__cuda_norm_sums_kernels,   tr__cuda_linear_loss_kernels,   tr__cuda_fp8_kernels,
    tr__cuda_fp8_linear_kernels,
};

const tr_kernel *tr_cuda_kernel(const char *op)
{
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        for (const tr_kernel *kernel = lists[i]; kernel->op; kernel++)
            if (strcmp(kernel->op, op) == 0) return kernel;
    return NULL;
}

tr_status tr_cuda_libraries(tr_error *err)
{
    return tr__cuda_blas_load(err);
}

tr_status tr_cuda_has_fp8(tr_error *err)
{
    int n = 0;
    cudaGetDeviceCount(&n);
    for (int i = 0; i < n; i++) {
        int major = 0, minor = 0;
        cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, i);
        cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, i);
        if (major * 10 + minor < 89)
            return tr_fail(err, TR_EUNSUPPORTED,
                           "GPU %d has compute capability %d.%d, and products in FP8 need 8.9 (Ada, Hopper)",
                           i, major, minor);
    }
    return TR_OK;
}

/* Choices hold for one kind of GPU, driver and version of the library. */
void tr_cuda_context_name(const tr_cuda_context *self, char name[TR_PRODUCT_NAME_BYTES])
{
    int driver = 0;
    cudaDriverGetVersion(&driver);
    snprintf(name, TR_PRODUCT_NAME_BYTES, "%.50s,driver-%d,cublasLt-%zu",
             tr_device_name(tr_stream_device(self->stream)), driver, tr__cuda_blas_version());
    for (char *c = name; *c; c++)
        if (*c == ' ') *c = '_';
}

tr_status tr_cuda_context_choose(tr_cuda_context *self, tr_product_choices *choices, tr_error *err)
{
    char name[TR_PRODUCT_NAME_BYTES];
    tr_status status = TR_OK;
    tr_cuda_context_name(self, name);
    if (choices) status = tr_product_choices_bind(choices, name, err);
    if (status == TR_OK) self->choices = choices;
    return status;
}

void tr_cuda_context_lend(tr_cuda_context *self, void *spare, size_t spare_bytes)
{
    self->spare = spare;
    self->spare_bytes = spare_bytes;
}

tr_status tr_cuda_context_new(tr_cuda_context **out, tr_stream *stream, tr_product_choices *choices,
                              tr_error *err)
{
    tr_cuda_context *self = tr_alloc_zero(1, sizeof *self);
    if (!self) return tr_fail(err, TR_ENOMEM, "no memory for a CUDA context's description");
    self->stream = stream;
    self->native = tr_stream_native(stream);
    self->workspace_bytes = TR_PROGRAM_LIBRARY_BYTES; /* as much as products on Hopper want */
    tr_status status = tr_device_allocate(tr_stream_device(stream), TR_MEMORY_DEVICE, self->workspace_bytes,
                                          &self->workspace, err);
    static const float numbers[8] = {0, 1, [4] = 1}; /* the last on 16 bytes, as scales of FP8 are wanted */
    if (status == TR_OK)
        status = tr_device_allocate(tr_stream_device(stream), TR_MEMORY_DEVICE, sizeof numbers,
                                    (void **)&self->numbers, err);
    if (status == TR_OK) status = tr_stream_copy(stream, self->numbers, numbers, sizeof numbers, err);
    if (status == TR_OK) status = tr__cuda_blas_open(&self->blas, err);
    if (status == TR_OK) status = tr_cuda_context_choose(self, choices, err);
    if (status != TR_OK) {
        tr_cuda_context_destroy(&self);
        return status;
    }
    *out = self;
    return TR_OK;
}

void tr_cuda_context_destroy(tr_cuda_context **self)
{
    tr_cuda_context *context = *self;
    if (!context) return;
    tr__cuda_blas_close(context->blas);
    tr_stream_synchronize(context->stream, NULL); /* nobody may be using the workspace */
    tr__dnn_close(context->dnn);
    tr_device_free(tr_stream_device(context->stream), TR_MEMORY_DEVICE, context->workspace);
    tr_device_free(tr_stream_device(context->stream), TR_MEMORY_DEVICE, context->numbers);
    tr_free(context);
    *self = NULL;
}

void tr_cuda_note(tr_cuda_context *self, cudaError_t code, const char *what)
{
    tr_cuda_note_text(self, what, cudaGetErrorString(code));
}

void tr_cuda_note_text(tr_cuda_context *self, const char *what, const char *text)
{
    if (self->error.status == TR_OK) tr_fail(&self->error, TR_EIO, "operation '%s' on CUDA: %s", what, text);
}

tr_status tr_cuda_context_check(const tr_cuda_context *self, tr_error *err)
{
    if (self->error.status == TR_OK) return TR_OK;
    return tr_fail(err, self->error.status, "%s", self->error.message);
}
