/* ops/cuda/dnn.c - see dnn.h. What cuDNN calls attention is a graph of products, pointwise operations and reductions in the
 * one form that it knows: q k', times the scale, masked by comparing row and column, softmax spelled out, times v. Tensors
 * that are virtual never exist. The library offers configurations of its engines, best first by its heuristic, which shapes
 * and version decide; the first that it makes a plan of is taken.
 * Source: NVIDIA's cuDNN manual, backend API.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cuda/dnn.h"

#ifndef TR_CUDNN /* a build without the library's header does without it */
#if __has_include(<cudnn.h>)
#define TR_CUDNN 1
#else
#define TR_CUDNN 0
#endif
#endif

#if TR_CUDNN
#include "base/library.h"
#include "base/log.h"
#include "base/memory.h"

#include <cudnn.h>
#include <math.h>
#include <pthread.h>
#include <string.h>

typedef cudnnBackendDescriptor_t descriptor;

static struct {
    __typeof__(cudnnCreate) *create;
    __typeof__(cudnnDestroy) *destroy;
    __typeof__(cudnnSetStream) *set_stream;
    __typeof__(cudnnGetErrorString) *status_text;
    __typeof__(cudnnBackendCreateDescriptor) *new_descriptor;
    __typeof__(cudnnBackendDestroyDescriptor) *destroy_descriptor;
    __typeof__(cudnnBackendSetAttribute) *set;
    __typeof__(cudnnBackendGetAttribute) *get;
    __typeof__(cudnnBackendFinalize) *finalize;
    __typeof__(cudnnBackendExecute) *execute;
} dnn;

static tr_error load_error;
static pthread_once_t loaded = PTHREAD_ONCE_INIT;

static void load(void)
{
    static const char *const files[] = {"libcudnn.so.9", NULL};
    const tr_library_symbol symbols[] = {
        {"cudnnCreate", (void **)&dnn.create},
        {"cudnnDestroy", (void **)&dnn.destroy},
        {"cudnnSetStream", (void **)&dnn.set_stream},
        {"cudnnGetErrorString", (void **)&dnn.status_text},
        {"cudnnBackendCreateDescriptor", (void **)&dnn.new_descriptor},
        {"cudnnBackendDestroyDescriptor", (void **)&dnn.destroy_descriptor},
        {"cudnnBackendSetAttribute", (void **)&dnn.set},
        {"cudnnBackendGetAttribute", (void **)&dnn.get},
        {"cudnnBackendFinalize", (void **)&dnn.finalize},
        {"cudnnBackendExecute", (void **)&dnn.execute},
    };
    if (tr_library_load("cuDNN 9", files, symbols, sizeof symbols / sizeof *symbols, &load_error) != TR_OK)
        tr_log(TR_LOG_INFO, "attention runs on Troupe's own kernels alone: %s", load_error.message);
}

/* Tensors by the number that a run names their memory by; those from VIRTUAL on have none. */
enum { Q = 1, K, V, Y, LSE, SCALE, LOWEST, N_REAL, VIRTUAL = 100 };

enum { MOST_DESCRIPTORS = 96, MOST_NODES = 24, MOST_CONFIGURATIONS = 16 };

/* What is being built; after the first failure nothing happens. */
typedef struct builder {
    cudnnHandle_t handle;
    cudnnStatus_t status;
    descriptor all[MOST_DESCRIPTORS], nodes[MOST_NODES];
    int64_t n_all, n_nodes, next_virtual;
} builder;

static void note(builder *b, cudnnStatus_t status)
{
    if (b->status == CUDNN_STATUS_SUCCESS) b->status = status;
}

static descriptor begin(builder *b, cudnnBackendDescriptorType_t type)
{
    descriptor made = NULL;
    if (b->status != CUDNN_STATUS_SUCCESS) return NULL;
    TR_ASSERT(b->n_all < MOST_DESCRIPTORS);
    note(b, dnn.new_descriptor(type, &made));
    if (made) b->all[b->n_all++] = made;
    return made;
}

static void set_all(builder *b, descriptor to, cudnnBackendAttributeName_t name,
                    cudnnBackendAttributeType_t type, int64_t count, const void *values)
{
    if (b->status == CUDNN_STATUS_SUCCESS) note(b, dnn.set(to, name, type, count, values));
}

static void set(builder *b, descriptor to, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                const void *value)
{
    set_all(b, to, name, type, 1, value);
}

static void set_descriptor(builder *b, descriptor to, cudnnBackendAttributeName_t name, descriptor value)
{
    set(b, to, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, &value);
}

static void end(builder *b, descriptor made)
{
    if (b->status == CUDNN_STATUS_SUCCESS) note(b, dnn.finalize(made));
}

static void end_node(builder *b, descriptor node)
{
    end(b, node);
    TR_ASSERT(b->n_nodes < MOST_NODES);
    b->nodes[b->n_nodes++] = node;
}

typedef struct extents {
    int64_t dims[4], strides[4];
} extents;

static extents dense(int64_t a, int64_t b, int64_t c, int64_t d)
{
    return (extents){{a, b, c, d}, {b * c * d, c * d, d, 1}};
}

/* (B,heads,T,D) of rows that hold the heads side by side. */
static extents rows_of(const tr_attention_shape *s, int64_t heads, int64_t stride)
{
    return (extents){{s->batch, heads, s->time, s->head_size}, {s->time * stride, s->head_size, stride, 1}};
}

static extents transposed(extents e)
{
    return (extents){{e.dims[0], e.dims[1], e.dims[3], e.dims[2]},
                     {e.strides[0], e.strides[1], e.strides[3], e.strides[2]}};
}

/* `id` of the list above, or 0: virtual. Scalars are given by value, from the host. */
static descriptor tensor(builder *b, int64_t id, extents e, cudnnDataType_t type)
{
    int64_t alignment = 16, unique = id ? id : VIRTUAL + b->next_virtual++;
    bool is_virtual = id == 0, is_scalar = id == SCALE || id == LOWEST;
    descriptor made = begin(b, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    set(b, made, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, &type);
    set_all(b, made, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, e.dims);
    set_all(b, made, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, e.strides);
    set(b, made, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, &unique);
    set(b, made, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, &alignment);
    set(b, made, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, &is_virtual);
    set(b, made, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, &is_scalar);
    end(b, made);
    return made;
}

static void product(builder *b, descriptor left, descriptor right, descriptor out)
{
    cudnnDataType_t precision = CUDNN_DATA_FLOAT;
    descriptor kind = begin(b, CUDNN_BACKEND_MATMUL_DESCRIPTOR);
    set(b, kind, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, &precision);
    end(b, kind);
    descriptor node = begin(b, CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
    set_descriptor(b, node, CUDNN_ATTR_OPERATION_MATMUL_ADESC, left);
    set_descriptor(b, node, CUDNN_ATTR_OPERATION_MATMUL_BDESC, right);
    set_descriptor(b, node, CUDNN_ATTR_OPERATION_MATMUL_CDESC, out);
    set_descriptor(b, node, CUDNN_ATTR_OPERATION_MATMUL_DESC, kind);
    end_node(b, node);
}

typedef struct pointwise {
    cudnnPointwiseMode_t mode;
    descriptor x, with, by; /* by: what chooses between x and with; both may be NULL */
    cudnnDataType_t precision;
    int64_t axis; /* of indices; 0 of none */
} pointwise;

static void each(builder *b, pointwise p, descriptor out)
{
    descriptor kind = begin(b, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    set(b, kind, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, &p.mode);
    set(b, kind, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, &p.precision);
    if (p.axis) set(b, kind, CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, &p.axis);
    end(b, kind);
    descriptor node = begin(b, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    set_descriptor(b, node, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, kind);
    set_descriptor(b, node, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, p.x);
    if (p.with) set_descriptor(b, node, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, p.with);
    if (p.by) set_descriptor(b, node, CUDNN_ATTR_OPERATION_POINTWISE_TDESC, p.by);
    set_descriptor(b, node, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, out);
    end_node(b, node);
}

static descriptor each_of(builder *b, cudnnPointwiseMode_t mode, descriptor x, descriptor with, extents e)
{
    descriptor out = tensor(b, 0, e, CUDNN_DATA_FLOAT);
    each(b, (pointwise){.mode = mode, .x = x, .with = with, .precision = CUDNN_DATA_FLOAT}, out);
    return out;
}

static void reduce(builder *b, cudnnReduceTensorOp_t operation, descriptor x, descriptor out)
{
    cudnnDataType_t precision = CUDNN_DATA_FLOAT;
    descriptor kind = begin(b, CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
    set(b, kind, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, &operation);
    set(b, kind, CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, &precision);
    end(b, kind);
    descriptor node = begin(b, CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
    set_descriptor(b, node, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x);
    set_descriptor(b, node, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, out);
    set_descriptor(b, node, CUDNN_ATTR_OPERATION_REDUCTION_DESC, kind);
    end_node(b, node);
}

/* Scores of keys behind their query become those that weigh nothing. */
static descriptor masked(builder *b, descriptor scores, extents e)
{
    descriptor row = tensor(b, 0, e, CUDNN_DATA_INT32), column = tensor(b, 0, e, CUDNN_DATA_INT32);
    descriptor seen = tensor(b, 0, e, CUDNN_DATA_BOOLEAN), out = tensor(b, 0, e, CUDNN_DATA_FLOAT);
    descriptor lowest = tensor(b, LOWEST, dense(1, 1, 1, 1), CUDNN_DATA_FLOAT);
    each(b, (pointwise){CUDNN_POINTWISE_GEN_INDEX, scores, NULL, NULL, CUDNN_DATA_FLOAT, 2}, row);
    each(b, (pointwise){CUDNN_POINTWISE_GEN_INDEX, scores, NULL, NULL, CUDNN_DATA_FLOAT, 3}, column);
    each(b, (pointwise){CUDNN_POINTWISE_CMP_GE, row, column, NULL, CUDNN_DATA_BOOLEAN, 0}, seen);
    each(b, (pointwise){CUDNN_POINTWISE_BINARY_SELECT, scores, lowest, seen, CUDNN_DATA_FLOAT, 0}, out);
    return out;
}

static descriptor scaled_scores(builder *b, descriptor q, descriptor keys, extents e)
{
    descriptor scores = tensor(b, 0, e, CUDNN_DATA_FLOAT);
    product(b, q, keys, scores);
    return each_of(b, CUDNN_POINTWISE_MUL, scores, tensor(b, SCALE, dense(1, 1, 1, 1), CUDNN_DATA_FLOAT), e);
}

static void build_forward(builder *b, const tr_attention_shape *s)
{
    extents square = dense(s->batch, s->heads, s->time, s->time), row = dense(s->batch, s->heads, s->time, 1);
    extents from = rows_of(s, s->kv_heads, s->kv_stride);
    descriptor q = tensor(b, Q, rows_of(s, s->heads, s->q_stride), CUDNN_DATA_BFLOAT16);
    descriptor k = tensor(b, K, transposed(from), CUDNN_DATA_BFLOAT16);
    descriptor v = tensor(b, V, from, CUDNN_DATA_BFLOAT16);
    descriptor y = tensor(b, Y, rows_of(s, s->heads, s->heads * s->head_size), CUDNN_DATA_BFLOAT16);
    descriptor lse = tensor(b, LSE, row, CUDNN_DATA_FLOAT);
    descriptor scores = masked(b, scaled_scores(b, q, k, square), square);
    descriptor most = tensor(b, 0, row, CUDNN_DATA_FLOAT), sum = tensor(b, 0, row, CUDNN_DATA_FLOAT);
    reduce(b, CUDNN_REDUCE_TENSOR_MAX, scores, most);
    descriptor below = each_of(b, CUDNN_POINTWISE_SUB, scores, most, square);
    descriptor powers = each_of(b, CUDNN_POINTWISE_EXP, below, NULL, square);
    reduce(b, CUDNN_REDUCE_TENSOR_ADD, powers, sum);
    descriptor log_sum = each_of(b, CUDNN_POINTWISE_LOG, sum, NULL, row);
    each(b, (pointwise){CUDNN_POINTWISE_ADD, most, log_sum, NULL, CUDNN_DATA_FLOAT, 0}, lse);
    descriptor weights = tensor(b, 0, square, CUDNN_DATA_BFLOAT16);
    each(b, (pointwise){CUDNN_POINTWISE_DIV, powers, sum, NULL, CUDNN_DATA_FLOAT, 0}, weights);
    product(b, weights, v, y);
}

static descriptor end_graph(builder *b)
{
    descriptor graph = begin(b, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    set_all(b, graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, b->n_nodes, b->nodes);
    set(b, graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, &b->handle);
    end(b, graph);
    return graph;
}

/* Configurations of engines, best first; how many. */
static int64_t configurations(builder *b, descriptor graph, descriptor found[MOST_CONFIGURATIONS])
{
    cudnnBackendHeurMode_t mode = CUDNN_HEUR_MODE_A;
    int64_t count = 0;
    descriptor heuristic = begin(b, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    set_descriptor(b, heuristic, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
    set(b, heuristic, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, &mode);
    end(b, heuristic);
    for (int i = 0; i < MOST_CONFIGURATIONS; i++) found[i] = begin(b, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    if (b->status == CUDNN_STATUS_SUCCESS)
        note(b, dnn.get(heuristic, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                        MOST_CONFIGURATIONS, &count, found));
    return b->status == CUDNN_STATUS_SUCCESS && count < MOST_CONFIGURATIONS ? count : MOST_CONFIGURATIONS;
}

struct tr_attention_plan {
    tr_attention_plan *next;
    tr_attention_shape shape;
    descriptor plan; /* NULL: there is none */
    int64_t workspace_bytes;
};

/* A context's: its handle, and plans by shape. */
typedef struct opened {
    cudnnHandle_t handle;
    tr_attention_plan *plans;
} opened;

/* The first configuration that becomes a plan with so much workspace. */
static bool take_plan(builder *b, tr_attention_plan *self, size_t most_workspace)
{
    descriptor found[MOST_CONFIGURATIONS], graph = end_graph(b);
    int64_t n_found = configurations(b, graph, found), count;
    for (int64_t i = 0; b->status == CUDNN_STATUS_SUCCESS && i < n_found; i++) {
        descriptor plan = NULL;
        if (dnn.new_descriptor(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, &plan) != CUDNN_STATUS_SUCCESS)
            return false;
        if (dnn.set(plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
                    &found[i]) == CUDNN_STATUS_SUCCESS &&
            dnn.set(plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &b->handle) ==
                CUDNN_STATUS_SUCCESS &&
            dnn.finalize(plan) == CUDNN_STATUS_SUCCESS &&
            dnn.get(plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &count,
                    &self->workspace_bytes) == CUDNN_STATUS_SUCCESS &&
            (size_t)self->workspace_bytes <= most_workspace) {
            self->plan = plan;
            return true;
        }
        dnn.destroy_descriptor(plan);
    }
    return false;
}

static void make_plan(opened *self, tr_attention_plan *plan, size_t most_workspace)
{
    builder *b = tr_alloc_zero(1, sizeof *b);
    if (!b) return;
    b->handle = self->handle;
    build_forward(b, &plan->shape);
    take_plan(b, plan, most_workspace);
    if (!plan->plan)
        tr_log(TR_LOG_INFO, "cuDNN has no attention for %lld x %lld, %lld heads of %lld: %s",
               (long long)plan->shape.batch, (long long)plan->shape.time, (long long)plan->shape.heads,
               (long long)plan->shape.head_size, dnn.status_text(b->status));
    while (b->n_all > 0) dnn.destroy_descriptor(b->all[--b->n_all]);
    tr_free(b);
}

static opened *open_dnn(tr_cuda_context *context)
{
    pthread_once(&loaded, load);
    if (load_error.status != TR_OK) return NULL;
    opened *self = tr_alloc_zero(1, sizeof *self);
    if (!self) return NULL;
    cudnnStatus_t status = dnn.create(&self->handle);
    if (status == CUDNN_STATUS_SUCCESS) status = dnn.set_stream(self->handle, context->native);
    if (status == CUDNN_STATUS_SUCCESS) return self;
    tr_log(TR_LOG_INFO, "attention runs on Troupe's own kernels alone: cuDNN: %s", dnn.status_text(status));
    tr__dnn_close(self);
    return NULL;
}

const tr_attention_plan *tr__attention_plan(tr_cuda_context *context, const tr_attention_shape *shape)
{
    opened *self = context->dnn;
    if (!self) self = context->dnn = open_dnn(context);
    if (!self) return NULL;
    tr_attention_plan *plan = self->plans;
    while (plan && memcmp(&plan->shape, shape, sizeof *shape) != 0) plan = plan->next;
    if (!plan) {
        plan = tr_alloc_zero(1, sizeof *plan);
        if (!plan) return NULL;
        memcpy(&plan->shape, shape, sizeof *shape);
        plan->next = self->plans;
        self->plans = plan;
        make_plan(self, plan, context->workspace_bytes);
    }
    return plan->plan ? plan : NULL;
}

void tr__dnn_close(void *closed)
{
    opened *self = closed;
    if (!self) return;
    while (self->plans) {
        tr_attention_plan *plan = self->plans;
        self->plans = plan->next;
        if (plan->plan) dnn.destroy_descriptor(plan->plan);
        tr_free(plan);
    }
    if (self->handle) dnn.destroy(self->handle);
    tr_free(self);
}

static cudnnStatus_t execute(const opened *self, const tr_attention_plan *plan, int64_t n, const int64_t *ids,
                             void *const *pointers, void *workspace)
{
    descriptor pack = NULL;
    cudnnStatus_t status = dnn.new_descriptor(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &pack);
    if (status == CUDNN_STATUS_SUCCESS)
        status = dnn.set(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, n, ids);
    if (status == CUDNN_STATUS_SUCCESS)
        status = dnn.set(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, n, pointers);
    if (status == CUDNN_STATUS_SUCCESS)
        status = dnn.set(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace);
    if (status == CUDNN_STATUS_SUCCESS) status = dnn.finalize(pack);
    if (status == CUDNN_STATUS_SUCCESS) status = dnn.execute(self->handle, plan->plan, pack);
    if (pack) dnn.destroy_descriptor(pack);
    return status;
}

void tr__attention_run(const tr_attention_plan *self, tr_cuda_context *context,
                       const tr_attention_operands *o, const char *what)
{
    static const int64_t ids[] = {Q, K, V, Y, LSE, SCALE, LOWEST};
    float scale = (float)self->shape.scale, lowest = -INFINITY;
    void *pointers[] = {(void *)o->q, (void *)o->k, (void *)o->v, o->y, o->lse, &scale, &lowest};
    cudnnStatus_t status =
        execute(context->dnn, self, sizeof ids / sizeof *ids, ids, pointers, context->workspace);
    if (status != CUDNN_STATUS_SUCCESS) tr_cuda_note_text(context, what, dnn.status_text(status));
}
#else
const tr_attention_plan *tr__attention_plan(tr_cuda_context *context, const tr_attention_shape *shape)
{
    (void)context, (void)shape;
    return NULL;
}

void tr__dnn_close(void *dnn)
{
    (void)dnn;
}

void tr__attention_run(const tr_attention_plan *self, tr_cuda_context *context,
                       const tr_attention_operands *operands, const char *what)
{
    (void)self, (void)context, (void)operands;
    tr_cuda_note_text(context, what, "this build has no cuDNN");
}
#endif
