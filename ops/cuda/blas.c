/* ops/cuda/blas.c - see blas.h. The library thinks in columns: a row-major C = A B is its C' = B' A'.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cuda/blas.h"

#include "base/library.h"
#include "base/memory.h"

#include <cublasLt.h>
#include <pthread.h>

/* The functions that are used, under their own types. */
static struct {
    __typeof__(cublasLtCreate) *create;
    __typeof__(cublasLtDestroy) *destroy;
    __typeof__(cublasLtGetStatusString) *status_text;
    __typeof__(cublasLtMatmul) *matmul;
    __typeof__(cublasLtMatmulDescCreate) *desc_create;
    __typeof__(cublasLtMatmulDescDestroy) *desc_destroy;
    __typeof__(cublasLtMatmulDescSetAttribute) *desc_set;
    __typeof__(cublasLtMatrixLayoutCreate) *layout_create;
    __typeof__(cublasLtMatrixLayoutDestroy) *layout_destroy;
    __typeof__(cublasLtMatmulPreferenceCreate) *preference_create;
    __typeof__(cublasLtMatmulPreferenceDestroy) *preference_destroy;
    __typeof__(cublasLtMatmulPreferenceSetAttribute) *preference_set;
    __typeof__(cublasLtMatmulAlgoGetHeuristic) *heuristic;
} lt;

static tr_error load_error;
static pthread_once_t loaded = PTHREAD_ONCE_INIT;

static void load(void)
{
    static const char *const files[] = {"libcublasLt.so.13", "libcublasLt.so", NULL};
    const tr_library_symbol symbols[] = {
        {"cublasLtCreate", (void **)&lt.create},
        {"cublasLtDestroy", (void **)&lt.destroy},
        {"cublasLtGetStatusString", (void **)&lt.status_text},
        {"cublasLtMatmul", (void **)&lt.matmul},
        {"cublasLtMatmulDescCreate", (void **)&lt.desc_create},
        {"cublasLtMatmulDescDestroy", (void **)&lt.desc_destroy},
        {"cublasLtMatmulDescSetAttribute", (void **)&lt.desc_set},
        {"cublasLtMatrixLayoutCreate", (void **)&lt.layout_create},
        {"cublasLtMatrixLayoutDestroy", (void **)&lt.layout_destroy},
        {"cublasLtMatmulPreferenceCreate", (void **)&lt.preference_create},
        {"cublasLtMatmulPreferenceDestroy", (void **)&lt.preference_destroy},
        {"cublasLtMatmulPreferenceSetAttribute", (void **)&lt.preference_set},
        {"cublasLtMatmulAlgoGetHeuristic", (void **)&lt.heuristic},
    };
    tr_library_load("cuBLASLt, which device 'cuda' needs,", files, symbols, sizeof symbols / sizeof *symbols,
                    &load_error);
}

static tr_status failed(cublasStatus_t code, const char *what, tr_error *err)
{
    return tr_fail(err, code == CUBLAS_STATUS_ALLOC_FAILED ? TR_ENOMEM : TR_EIO, "cuBLASLt: %s: %s", what,
                   lt.status_text(code));
}

tr_status tr__cuda_blas_load(tr_error *err)
{
    pthread_once(&loaded, load);
    return load_error.status == TR_OK ? TR_OK : tr_fail(err, load_error.status, "%s", load_error.message);
}

tr_status tr__cuda_blas_open(void **handle, tr_error *err)
{
    tr_status status = tr__cuda_blas_load(err);
    if (status != TR_OK) return status;
    cublasLtHandle_t made;
    cublasStatus_t code = lt.create(&made);
    if (code != CUBLAS_STATUS_SUCCESS) return failed(code, "no handle", err);
    *handle = made;
    return TR_OK;
}

void tr__cuda_blas_close(void *handle)
{
    if (handle) lt.destroy(handle);
}

struct tr_matmul_plan {
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, c; /* as the library counts: its A is our B */
    cublasLtMatmulAlgo_t algorithm;
    bool accumulate, has_bias;
};

static cudaDataType_t type_of(tr_dtype dtype)
{
    return dtype == TR_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

static cublasStatus_t make_desc(tr_matmul_plan *self, const tr_matmul_shape *s)
{
    cublasOperation_t first = s->b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasOperation_t second = s->a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasStatus_t code = lt.desc_create(&self->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (code == CUBLAS_STATUS_SUCCESS)
        code = lt.desc_set(self->desc, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof first);
    if (code == CUBLAS_STATUS_SUCCESS)
        code = lt.desc_set(self->desc, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof second);
    if (code != CUBLAS_STATUS_SUCCESS || !s->has_bias) return code;
    cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    int32_t bias = (int32_t)type_of(s->bias);
    code = lt.desc_set(self->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue);
    if (code != CUBLAS_STATUS_SUCCESS) return code;
    return lt.desc_set(self->desc, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &bias, sizeof bias);
}

static cublasStatus_t make_layouts(tr_matmul_plan *self, const tr_matmul_shape *s)
{
    uint64_t m = (uint64_t)s->m, n = (uint64_t)s->n, k = (uint64_t)s->k;
    cublasStatus_t code = s->b_transposed ? lt.layout_create(&self->a, type_of(s->ab), k, n, s->k)
                                          : lt.layout_create(&self->a, type_of(s->ab), n, k, s->n);
    if (code == CUBLAS_STATUS_SUCCESS)
        code = s->a_transposed ? lt.layout_create(&self->b, type_of(s->ab), m, k, s->m)
                               : lt.layout_create(&self->b, type_of(s->ab), k, m, s->k);
    if (code == CUBLAS_STATUS_SUCCESS) code = lt.layout_create(&self->c, type_of(s->c), n, m, s->n);
    return code;
}

/* The library's own first choice. Split sums are joined through the workspace: in place they would need an
 * order that is not promised. Rows need only be aligned as their elements are where widths are odd. */
static cublasStatus_t choose(tr_matmul_plan *self, const tr_cuda_context *context)
{
    cublasLtMatmulPreference_t preference;
    cublasLtMatmulHeuristicResult_t result;
    int found = 0;
    uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    uint32_t alignment = 16;
    cublasStatus_t code = lt.preference_create(&preference);
    if (code != CUBLAS_STATUS_SUCCESS) return code;
    lt.preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &context->workspace_bytes,
                      sizeof context->workspace_bytes);
    lt.preference_set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reductions, sizeof reductions);
    static const cublasLtMatmulPreferenceAttributes_t alignments[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    for (int i = 0; i < 4; i++) lt.preference_set(preference, alignments[i], &alignment, sizeof alignment);
    code = lt.heuristic(context->blas, self->desc, self->a, self->b, self->c, self->c, preference, 1, &result,
                        &found);
    lt.preference_destroy(preference);
    if (code == CUBLAS_STATUS_SUCCESS && found < 1) code = CUBLAS_STATUS_NOT_SUPPORTED;
    if (code == CUBLAS_STATUS_SUCCESS) self->algorithm = result.algo;
    return code;
}

static cublasStatus_t try_plan(tr_matmul_plan *self, const tr_cuda_context *context, const tr_matmul_shape *s)
{
    self->accumulate = s->accumulate;
    self->has_bias = s->has_bias;
    cublasStatus_t code = make_desc(self, s);
    if (code == CUBLAS_STATUS_SUCCESS) code = make_layouts(self, s);
    if (code == CUBLAS_STATUS_SUCCESS) code = choose(self, context);
    return code;
}

static void release(tr_matmul_plan *self)
{
    if (self->a) lt.layout_destroy(self->a);
    if (self->b) lt.layout_destroy(self->b);
    if (self->c) lt.layout_destroy(self->c);
    if (self->desc) lt.desc_destroy(self->desc);
    *self = (tr_matmul_plan){0};
}

tr_status tr__matmul_plan_new(tr_matmul_plan **out, tr_cuda_context *context, tr_matmul_shape *shape,
                              tr_error *err)
{
    tr_matmul_plan *self = tr_alloc_zero(1, sizeof *self);
    if (!self) return tr_fail(err, TR_ENOMEM, "no memory for the plan of a matrix product");
    shape->bias = TR_F32;
    cublasStatus_t code = try_plan(self, context, shape);
    if (code != CUBLAS_STATUS_SUCCESS && shape->has_bias && shape->c != TR_F32) {
        release(self);
        shape->bias = shape->c;
        code = try_plan(self, context, shape);
    }
    if (code != CUBLAS_STATUS_SUCCESS) {
        tr__matmul_plan_destroy(self);
        return tr_fail(err, TR_EUNSUPPORTED,
                       "cuBLASLt has no product of %lld x %lld x %lld, %s to %s, for this GPU: %s",
                       (long long)shape->m, (long long)shape->k, (long long)shape->n,
                       tr_dtype_name(shape->ab), tr_dtype_name(shape->c), lt.status_text(code));
    }
    *out = self;
    return TR_OK;
}

void tr__matmul_plan_destroy(tr_matmul_plan *self)
{
    if (!self) return;
    release(self);
    tr_free(self);
}

void tr__matmul_run(const tr_matmul_plan *self, tr_cuda_context *context, const void *a, const void *b,
                    const void *bias, const void *pending, void *c, const char *what)
{
    float one = 1, beta = self->accumulate ? 1 : 0;
    cublasStatus_t code = CUBLAS_STATUS_SUCCESS;
    if (self->has_bias) code = lt.desc_set(self->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias);
    if (code == CUBLAS_STATUS_SUCCESS)
        code = lt.matmul(context->blas, self->desc, &one, b, self->a, a, self->b, &beta,
                         self->accumulate ? pending : c, self->c, c, self->c, &self->algorithm,
                         context->workspace, context->workspace_bytes, context->native);
    if (code != CUBLAS_STATUS_SUCCESS) tr_cuda_note_text(context, what, lt.status_text(code));
}
