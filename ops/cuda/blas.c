/* ops/cuda/blas.c - see blas.h. The library thinks in columns: a row-major C = A B is its C' = B' A'.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cuda/blas.h"

#include "base/library.h"
#include "base/memory.h"

#include <cublasLt.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

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
    __typeof__(cublasLtMatmulAlgoCheck) *check;
    __typeof__(cublasLtGetVersion) *version;
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
        {"cublasLtMatmulAlgoCheck", (void **)&lt.check},
        {"cublasLtGetVersion", (void **)&lt.version},
    };
    tr_library_load("cuBLASLt, which device 'cuda' needs,", files, symbols, sizeof symbols / sizeof *symbols,
                    &load_error);
}

static tr_status failed(cublasStatus_t code, const char *what, tr_error *err)
{
    return tr_fail(err, code == CUBLAS_STATUS_ALLOC_FAILED ? TR_ENOMEM : TR_EIO, "cuBLASLt: %s: %s", what,
                   lt.status_text(code));
}

size_t tr__cuda_blas_version(void)
{
    return lt.version();
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

enum { ALIGNED_ONE = 4 }; /* among the context's numbers */

struct tr_matmul_plan {
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, c; /* as the library counts: its A is our B */
    cublasLtMatmulAlgo_t algorithm;
    bool accumulate, scaled, has_bias, has_aux, fp8;
};

static cudaDataType_t type_of(tr_dtype dtype)
{
    return dtype == TR_BF16   ? CUDA_R_16BF
           : dtype == TR_E4M3 ? CUDA_R_8F_E4M3
           : dtype == TR_E5M2 ? CUDA_R_8F_E5M2
                              : CUDA_R_32F;
}

static tr_dtype a_of(const tr_matmul_shape *s)
{
    return s->fp8 ? s->a8 : s->ab;
}

static tr_dtype b_of(const tr_matmul_shape *s)
{
    return s->fp8 ? s->b8 : s->ab;
}

/* Its A is our B. */
static cublasStatus_t set_scales(const tr_matmul_plan *self, const float *a, const float *b)
{
    cublasStatus_t code = lt.desc_set(self->desc, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &b, sizeof b);
    if (code == CUBLAS_STATUS_SUCCESS)
        code = lt.desc_set(self->desc, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &a, sizeof a);
    return code;
}

static cublasStatus_t set_epilogue(tr_matmul_plan *self, const tr_matmul_shape *s)
{
    static const cublasLtEpilogue_t plain[] = {
        [TR_EPILOGUE_NONE] = CUBLASLT_EPILOGUE_DEFAULT,
        [TR_EPILOGUE_GELU] = CUBLASLT_EPILOGUE_GELU,
        [TR_EPILOGUE_GELU_KEEP] = CUBLASLT_EPILOGUE_GELU_AUX,
        [TR_EPILOGUE_GELU_BACKWARD] = CUBLASLT_EPILOGUE_DGELU,
    };
    static const cublasLtEpilogue_t with_bias[] = {
        [TR_EPILOGUE_NONE] = CUBLASLT_EPILOGUE_BIAS,
        [TR_EPILOGUE_GELU] = CUBLASLT_EPILOGUE_GELU_BIAS,
        [TR_EPILOGUE_GELU_KEEP] = CUBLASLT_EPILOGUE_GELU_AUX_BIAS,
    };
    TR_ASSERT(!s->has_bias || s->epilogue != TR_EPILOGUE_GELU_BACKWARD);
    cublasLtEpilogue_t epilogue = s->has_bias ? with_bias[s->epilogue] : plain[s->epilogue];
    int32_t bias = (int32_t)type_of(s->bias);
    cublasStatus_t code = lt.desc_set(self->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue);
    if (code == CUBLAS_STATUS_SUCCESS && s->has_bias)
        code = lt.desc_set(self->desc, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &bias, sizeof bias);
    if (code == CUBLAS_STATUS_SUCCESS && self->has_aux)
        code = lt.desc_set(self->desc, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &s->n, sizeof s->n);
    return code;
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
    if (code == CUBLAS_STATUS_SUCCESS && s->scaled) {
        cublasLtPointerMode_t mode = CUBLASLT_POINTER_MODE_DEVICE;
        code = lt.desc_set(self->desc, CUBLASLT_MATMUL_DESC_POINTER_MODE, &mode, sizeof mode);
    }
    if (code == CUBLAS_STATUS_SUCCESS) code = set_epilogue(self, s);
    return code;
}

static cublasStatus_t make_layouts(tr_matmul_plan *self, const tr_matmul_shape *s)
{
    uint64_t m = (uint64_t)s->m, n = (uint64_t)s->n, k = (uint64_t)s->k;
    cublasStatus_t code = s->b_transposed ? lt.layout_create(&self->a, type_of(b_of(s)), k, n, s->k)
                                          : lt.layout_create(&self->a, type_of(b_of(s)), n, k, s->n);
    if (code == CUBLAS_STATUS_SUCCESS)
        code = s->a_transposed ? lt.layout_create(&self->b, type_of(a_of(s)), m, k, s->m)
                               : lt.layout_create(&self->b, type_of(a_of(s)), k, m, s->k);
    if (code == CUBLAS_STATUS_SUCCESS) code = lt.layout_create(&self->c, type_of(s->c), n, m, s->n);
    return code;
}

/* The library's candidates, best first as it thinks. Split sums are joined through the workspace: in place they would need
 * an order that is not promised. Rows need only be aligned as their elements are where widths are odd. */
static cublasStatus_t candidates(const tr_matmul_plan *self, const tr_cuda_context *context,
                                 cublasLtMatmulHeuristicResult_t *results, int most, int *found)
{
    cublasLtMatmulPreference_t preference;
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
    *found = 0;
    code = lt.heuristic(context->blas, self->desc, self->a, self->b, self->c, self->c, preference, most,
                        results, found);
    lt.preference_destroy(preference);
    if (code == CUBLAS_STATUS_SUCCESS && *found < 1) code = CUBLAS_STATUS_NOT_SUPPORTED;
    return code;
}

static cublasStatus_t launch(const tr_matmul_plan *self, const tr_cuda_context *context,
                             const cublasLtMatmulAlgo_t *algorithm, const tr_matmul_operands *o)
{
    static const float numbers[2] = {0, 1};
    const float *from = self->scaled ? context->numbers : numbers;
    bool adds = self->accumulate && o->pending;
    const float *alpha = self->scaled && o->factor ? o->factor : from + 1, *beta = from + (adds ? 1 : 0);
    cublasStatus_t code = CUBLAS_STATUS_SUCCESS;
    if (self->has_bias)
        code = lt.desc_set(self->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &o->bias, sizeof o->bias);
    if (code == CUBLAS_STATUS_SUCCESS && self->has_aux)
        code = lt.desc_set(self->desc, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &o->aux, sizeof o->aux);
    if (code == CUBLAS_STATUS_SUCCESS && self->fp8) code = set_scales(self, o->a_scale, o->b_scale);
    if (code != CUBLAS_STATUS_SUCCESS) return code;
    return lt.matmul(context->blas, self->desc, alpha, o->b, self->a, o->a, self->b, beta,
                     adds ? o->pending : o->c, self->c, o->c, self->c, algorithm, context->workspace,
                     context->workspace_bytes, context->native);
}

/* One run in ms; negative where it does not run. */
static float time_of(const tr_matmul_plan *self, const tr_cuda_context *context,
                     const cublasLtMatmulAlgo_t *algorithm, const tr_matmul_operands *o,
                     cudaEvent_t events[2])
{
    float ms = -1;
    cudaEventRecord(events[0], context->native);
    cublasStatus_t code = launch(self, context, algorithm, o);
    cudaEventRecord(events[1], context->native);
    if (code != CUBLAS_STATUS_SUCCESS || cudaEventSynchronize(events[1]) != cudaSuccess ||
        cudaEventElapsedTime(&ms, events[0], events[1]) != cudaSuccess)
        return -1;
    return ms;
}

enum { MOST_CANDIDATES = 16 };

/* The fastest by the median of rounds in which all that are left run in turn, so that a clock that drifts is the same for
 * all; after the first rounds those far behind are. -1: none runs. */
static int fastest(const tr_matmul_plan *self, const tr_cuda_context *context,
                   const cublasLtMatmulHeuristicResult_t *results, int found, const tr_matmul_operands *o,
                   cudaEvent_t events[2])
{
    enum { FIRST = 4, ROUNDS = 13 }; /* the first round warms up */
    float times[MOST_CANDIDATES][ROUNDS];
    bool left[MOST_CANDIDATES];
    int best = -1;
    for (int i = 0; i < found; i++) left[i] = true;
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < found; i++) {
            float ms = left[i] ? time_of(self, context, &results[i].algo, o, events) : -1;
            left[i] = ms >= 0;
            int at = round > 0 ? round - 1 : 0; /* sorted */
            for (; round > 0 && at > 0 && times[i][at - 1] > ms; at--) times[i][at] = times[i][at - 1];
            times[i][at] = ms;
        }
        if (round == 0) continue;
        best = -1;
        for (int i = 0; i < found; i++)
            if (left[i] && (best < 0 || times[i][round / 2] < times[best][round / 2])) best = i;
        for (int i = 0; i < found && round >= FIRST - 1; i++)
            left[i] = left[i] && times[i][round / 2] <= 1.1f * times[best][round / 2];
    }
    return best;
}

static size_t matrix_bytes(int64_t rows, int64_t columns, tr_dtype dtype)
{
    return (size_t)rows * (size_t)columns * tr_dtype_bytes(dtype);
}

/* Numbers between -1 and 1 in either dtype, since constants cost less power than numbers and are multiplied faster. */
static bool fill(void *memory, size_t bytes, cudaStream_t stream)
{
    enum { BLOCK = 60006 }; /* no multiple of a row: rows differ */
    uint16_t block[BLOCK / 2];
    uint32_t state = 1;
    for (size_t i = 0; i < BLOCK / 2; i++) {
        state = state * 1664525u + 1013904223u;
        block[i] = (uint16_t)((state >> 31) << 15 | (0x3c00 + (state >> 16) % 0x380));
    }
    size_t there = bytes < BLOCK ? bytes : BLOCK;
    bool done = cudaMemcpyAsync(memory, block, there, cudaMemcpyHostToDevice, stream) == cudaSuccess &&
                cudaStreamSynchronize(stream) == cudaSuccess;
    while (done && there < bytes) {
        size_t more = there < bytes - there ? there : bytes - there;
        done = cudaMemcpyAsync((char *)memory + there, memory, more, cudaMemcpyDeviceToDevice, stream) ==
               cudaSuccess;
        there += more;
    }
    return done;
}

/* Memory for each of the operands: what is lent, where it is large enough, else memory of its own. False: there is none. */
static bool take_memory(const tr_cuda_context *context, const size_t bytes[5], void *memory[5])
{
    enum { ALIGNMENT = 256 };
    size_t at[5], total = 0;
    for (int i = 0; i < 5; i++) {
        at[i] = total;
        total += (bytes[i] + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    }
    bool lent = total <= context->spare_bytes, there = true;
    for (int i = 0; there && i < 5; i++) {
        if (bytes[i] == 0) continue;
        if (lent)
            memory[i] = context->spare + at[i];
        else
            there = cudaMalloc(&memory[i], bytes[i]) == cudaSuccess;
    }
    return there;
}

static void give_memory_back(const tr_cuda_context *context, void *memory[5])
{
    for (int i = 0; i < 5; i++) {
        const char *at = memory[i];
        bool lent = at >= context->spare && at < context->spare + context->spare_bytes;
        if (!lent) cudaFree(memory[i]);
    }
}

/* The fastest of the candidates; false where there is no memory to measure in. */
static bool measure(const tr_matmul_plan *self, const tr_cuda_context *context, const tr_matmul_shape *s,
                    const cublasLtMatmulHeuristicResult_t *results, int found,
                    cublasLtMatmulAlgo_t *algorithm)
{
    size_t bytes[5] = {matrix_bytes(s->m, s->k, a_of(s)), matrix_bytes(s->k, s->n, b_of(s)),
                       matrix_bytes(s->m, s->n, s->c), self->has_aux ? matrix_bytes(s->m, s->n, s->c) : 0,
                       matrix_bytes(1, s->n, TR_F32)};
    void *memory[5] = {NULL};
    cudaEvent_t events[2] = {NULL, NULL};
    bool there = cudaEventCreate(&events[0]) == cudaSuccess && cudaEventCreate(&events[1]) == cudaSuccess;
    there = there && take_memory(context, bytes, memory);
    for (int i = 0; there && i < 5; i++)
        if (bytes[i] > 0) there = fill(memory[i], bytes[i], context->native);
    tr_matmul_operands o = {.a = memory[0],
                            .b = memory[1],
                            .bias = memory[4],
                            .pending = memory[2],
                            .factor = context->numbers + 1,
                            .aux = memory[3],
                            .c = memory[2],
                            .a_scale = context->numbers + ALIGNED_ONE,
                            .b_scale = context->numbers + ALIGNED_ONE};
    int best = there ? fastest(self, context, results, found, &o, events) : -1;
    if (best >= 0) *algorithm = results[best].algo;
    cudaStreamSynchronize(context->native);
    give_memory_back(context, memory);
    for (int i = 0; i < 2; i++)
        if (events[i]) cudaEventDestroy(events[i]);
    cudaGetLastError(); /* what could not be allocated is no fault of the program's */
    return best >= 0;
}

static void name_product(const tr_matmul_shape *s, char name[TR_PRODUCT_NAME_BYTES])
{
    static const char *const epilogues[] = {"", "+gelu", "+gelu_keep", "+gelu_backward"};
    snprintf(name, TR_PRODUCT_NAME_BYTES, "%s%s%s:%lld%s*%lld%s*%lld:%s%s%s%s%s", tr_dtype_name(a_of(s)),
             s->fp8 ? "*" : "", s->fp8 ? tr_dtype_name(s->b8) : "", (long long)s->m,
             s->a_transposed ? "t" : "", (long long)s->k, s->b_transposed ? "t" : "", (long long)s->n,
             tr_dtype_name(s->c), s->scaled ? "+scaled" : "", s->accumulate ? "+more" : "",
             !s->has_bias        ? ""
             : s->bias == TR_F32 ? "+bias"
                                 : "+rounded_bias",
             epilogues[s->epilogue]);
}

static tr_status remember(tr_product_choices *choices, const char *name,
                          const cublasLtMatmulAlgo_t *algorithm)
{
    _Static_assert(sizeof *algorithm == TR_ALGORITHM_BYTES, "choices hold the library's own bytes");
    return tr_product_choices_add(choices, name, (const unsigned char *)algorithm, NULL);
}

static cublasStatus_t choose(tr_matmul_plan *self, const tr_cuda_context *context, const tr_matmul_shape *s)
{
    cublasLtMatmulHeuristicResult_t results[MOST_CANDIDATES];
    char name[TR_PRODUCT_NAME_BYTES];
    int found = 0;
    name_product(s, name);
    const unsigned char *known = context->choices ? tr_product_choices_find(context->choices, name) : NULL;
    if (known) {
        memcpy(&self->algorithm, known, sizeof self->algorithm);
        return lt.check(context->blas, self->desc, self->a, self->b, self->c, self->c, &self->algorithm,
                        &results[0]);
    }
    cublasStatus_t code = candidates(self, context, results, context->choices ? MOST_CANDIDATES : 1, &found);
    if (code != CUBLAS_STATUS_SUCCESS) return code;
    self->algorithm = results[0].algo;
    if (!context->choices) return CUBLAS_STATUS_SUCCESS;
    measure(self, context, s, results, found, &self->algorithm);
    /* Also the library's own, where none could be measured: who makes this program again may have more memory. */
    if (remember(context->choices, name, &self->algorithm) != TR_OK) return CUBLAS_STATUS_ALLOC_FAILED;
    return CUBLAS_STATUS_SUCCESS;
}

static cublasStatus_t try_plan(tr_matmul_plan *self, const tr_cuda_context *context, const tr_matmul_shape *s)
{
    self->accumulate = s->accumulate;
    self->scaled = s->scaled;
    self->has_bias = s->has_bias;
    self->has_aux = s->epilogue == TR_EPILOGUE_GELU_KEEP || s->epilogue == TR_EPILOGUE_GELU_BACKWARD;
    self->fp8 = s->fp8;
    cublasStatus_t code = make_desc(self, s);
    if (code == CUBLAS_STATUS_SUCCESS && s->fp8)
        code = set_scales(self, context->numbers + ALIGNED_ONE, context->numbers + ALIGNED_ONE);
    if (code == CUBLAS_STATUS_SUCCESS) code = make_layouts(self, s);
    if (code == CUBLAS_STATUS_SUCCESS) code = choose(self, context, s);
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
                       tr_dtype_name(a_of(shape)), tr_dtype_name(shape->c), lt.status_text(code));
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

void tr__matmul_run(const tr_matmul_plan *self, tr_cuda_context *context, const tr_matmul_operands *operands,
                    const char *what)
{
    cublasStatus_t code = launch(self, context, &self->algorithm, operands);
    if (code != CUBLAS_STATUS_SUCCESS) tr_cuda_note_text(context, what, lt.status_text(code));
}
