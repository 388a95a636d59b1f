/* ops/cuda/blas.h - matrix products by cuBLASLt, which is loaded at run time.
 * Row-major all through: C (m,n) = A B, or += where `accumulate`. A is stored (m,k), or (k,m) where
 * a_transposed; B is stored (k,n), or (n,k) where b_transposed. float32 is float32: TF32 is off. bfloat16
 * products are summed in float32. A plan is made once for its shapes and dtypes; the library's reductions
 * across blocks go through the workspace, never through atomics, so two runs give the same bits.
 * Internal to ops/cuda/.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_CUDA_BLAS_H
#define TROUPE_OPS_CUDA_BLAS_H

#include "ops/cuda/context.h"
#include "ops/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Looks for the library, once. Errors: TR_EUNSUPPORTED. */
tr_status tr__cuda_blas_load(tr_error *err);
tr_status tr__cuda_blas_open(void **handle, tr_error *err); /* loads the library at the first call */
void tr__cuda_blas_close(void *handle);                     /* NULL-safe */
size_t tr__cuda_blas_version(void);                         /* of an open library */

/* What is joined to a product, beside a bias and what it accumulates onto. GELU is its tanh form. */
typedef enum tr_epilogue {
    TR_EPILOGUE_NONE,
    TR_EPILOGUE_GELU,         /* C = gelu(H), H the product with its bias */
    TR_EPILOGUE_GELU_KEEP,    /* and H is written to `aux` (m,n) */
    TR_EPILOGUE_GELU_BACKWARD /* C = the product times gelu'(H), H read from `aux` */
} tr_epilogue;

typedef struct tr_matmul_shape {
    int64_t m, n, k;
    bool a_transposed, b_transposed;
    bool accumulate;
    bool scaled;   /* A B is multiplied by a number on the device, or by 1 that is read there */
    bool has_bias; /* (n), added to every row in the product's epilogue */
    tr_epilogue epilogue;
    tr_dtype ab, c; /* F32 or BF16; C is F32 or as A and B */
    tr_dtype bias;  /* what the product reads, as the plan says: F32, or C's */
    /* A and B are of a8 and b8 (TR_E4M3, or one of them TR_E5M2) instead of `ab`, and each is multiplied by a number on the
     * device. Only A as it is and B transposed, from compute capability 8.9 on; C is F32 or BF16. */
    bool fp8;
    tr_dtype a8, b8;
} tr_matmul_shape;

typedef struct tr_matmul_plan tr_matmul_plan;

/* Takes the algorithm from the context's choices where it has some, else the library's own first; what is not among the
 * choices is measured and added. Sets shape->bias to what the library takes. Errors: TR_EUNSUPPORTED (no algorithm for this), TR_ENOMEM. */
tr_status tr__matmul_plan_new(tr_matmul_plan **out, tr_cuda_context *context, tr_matmul_shape *shape,
                              tr_error *err);
void tr__matmul_plan_destroy(tr_matmul_plan *self); /* NULL-safe */

typedef struct tr_matmul_operands {
    const void *a, *b, *bias;
    const void
        *pending; /* what is accumulated onto; may be c; NULL: nothing, also where the plan accumulates */
    const float *factor; /* on the device; read where the plan scales; NULL: 1 */
    void *aux;           /* of the epilogue, or NULL */
    void *c;
    const float *a_scale, *b_scale; /* on the device; of FP8 alone */
} tr_matmul_operands;

void tr__matmul_run(const tr_matmul_plan *self, tr_cuda_context *context, const tr_matmul_operands *operands,
                    const char *what);

#ifdef __cplusplus
}
#endif
#endif
