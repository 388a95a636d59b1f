/* test/pipelines/model_runs.h - runs the pieces of a model one after the other by hand, as stages would, and
 * opens golden cases.
 * Tests stop at the first thing that cannot work, hence the assertions.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TEST_PIPELINES_MODEL_RUNS_H
#define TROUPE_TEST_PIPELINES_MODEL_RUNS_H

#include "base/memory.h"
#include "ops/optimizer.h"
#include "ops/program.h"
#include "pipelines/forward.h"
#include "pipelines/partition.h"
#include "pipelines/safetensors.h"
#include "pipelines/weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef FAILING_SPARED /* what a test takes for itself is there: failing_memory.h */
#define tr__alloc_tensor(...) FAILING_SPARED(tr__alloc_tensor(__VA_ARGS__))
#endif

enum { MAX_PIECES = 8 };

#define MUST(call)                                                                                           \
    do {                                                                                                     \
        tr_error must_error = {0};                                                                           \
        tr_error *err = &must_error;                                                                         \
        if ((call) != TR_OK) {                                                                               \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, must_error.message);               \
            abort();                                                                                         \
        }                                                                                                    \
    } while (0)

typedef struct model_run {
    tr_loaded_model model;
    tr_dtype dtype; /* of the graphs */
    tr_recompute recompute;
    int64_t logits;    /* rows of a chunk of logits, see tr_graph_chunk_logits */
    tr_random random;  /* what dropout draws by; at first it draws nothing */
    tr_bf16 **rounded; /* by parameter, where dtype is bfloat16 */
    tr_graph *whole;
    tr_model_values values;
    tr_partition partition;
    tr_piece pieces[MAX_PIECES];
    tr_program *programs[MAX_PIECES];
    void **bound[MAX_PIECES];
    void *stash[MAX_PIECES], *scratch[MAX_PIECES];
    float **gradients[MAX_PIECES];                                    /* by piece and gradient */
    void *activations[MAX_PIECES], *activation_gradients[MAX_PIECES]; /* that the piece sends on, and back */
    double *loss;
    float *factor;
} model_run;

static inline void run_bind(model_run *r, int s, tr_value value, void *memory)
{
    if (value != TR_NO_VALUE) r->bound[s][value] = memory;
}

static inline void *run_tensor_like(const tr_graph *g, tr_value value)
{
    if (value == TR_NO_VALUE) return NULL;
    const tr_value_info *info = tr_graph_value(g, value);
    void *memory = tr__alloc_tensor(tr_shape_elements(&info->shape), tr_dtype_bytes(info->dtype));
    TR_ASSERT(memory);
    return memory;
}

/* What the graph reads as parameter `index`. */
static inline void *run_weights(model_run *r, const tr_graph *g, const tr_piece_parameter *parameter)
{
    int32_t index = parameter->index;
    if (tr_graph_value(g, parameter->value)->dtype == TR_F32) return r->model.weights[index];
    int64_t n = tr_shape_elements(&r->model.parameters.items[index].shape);
    if (!r->rounded[index]) r->rounded[index] = tr__alloc_tensor(n, sizeof(tr_bf16));
    tr_round_to_bf16(r->model.weights[index], r->rounded[index], n, NULL);
    return r->rounded[index];
}

static inline void run_prepare_piece(model_run *r, int s)
{
    tr_piece *piece = &r->pieces[s];
    tr_program_options options = {.device = TR_DEVICE_CPU, .n_threads = 1};
    MUST(tr_partition_extract(r->whole, &r->values, r->partition.first_unit[s],
                              r->partition.first_unit[s + 1], TR_PIECE_TRAINING, piece, err));
    MUST(tr_piece_chunk_logits(piece, r->logits, err));
    MUST(tr_piece_recompute(piece, r->recompute, err));
    MUST(tr_program_new(&r->programs[s], piece->graph, &options, err));
    r->bound[s] = tr_alloc_zero((size_t)tr_graph_value_count(piece->graph), sizeof(void *));
    r->stash[s] = tr__alloc_tensor((int64_t)tr_program_stash_bytes(r->programs[s]), 1);
    r->scratch[s] = tr__alloc_tensor((int64_t)tr_program_scratch_bytes(r->programs[s]), 1);
    r->gradients[s] = tr_alloc_zero((size_t)piece->n_gradients + 1, sizeof(float *));
    for (int i = 0; i < piece->n_parameters; i++)
        run_bind(r, s, piece->parameters[i].value, run_weights(r, piece->graph, &piece->parameters[i]));
    for (int i = 0; i < piece->n_gradients; i++) {
        r->gradients[s][i] = run_tensor_like(piece->graph, piece->gradients[i].value);
        run_bind(r, s, piece->gradients[i].value, r->gradients[s][i]);
    }
    r->activations[s] = run_tensor_like(piece->graph, piece->activation_out);
    r->activation_gradients[s] = run_tensor_like(piece->graph, piece->gradient_out);
    run_bind(r, s, piece->activation_out, r->activations[s]);
    run_bind(r, s, piece->gradient_out, r->activation_gradients[s]);
    run_bind(r, s, piece->loss, r->loss);
    run_bind(r, s, piece->factor, r->factor);
}

/* A model of the given config.json with fresh weights. */
static inline void fresh_model(tr_loaded_model *out, const char *json)
{
    *out = (tr_loaded_model){0};
    MUST(tr_model_config_parse(&out->config, json, "config.json", err));
    MUST(tr_model_parameters_list(&out->parameters, &out->config, err));
    out->weights = tr_alloc_zero(out->parameters.count, sizeof *out->weights);
    for (size_t i = 0; i < out->parameters.count; i++) {
        out->weights[i] = tr__alloc_tensor(tr_shape_elements(&out->parameters.items[i].shape), sizeof(float));
        tr_weights_initialize(&out->parameters.items[i], 1, out->weights[i]);
    }
}

/* The model, which the run takes over, cut into n_pieces balanced stages that compute in dtype, some of it twice, and with its
 * logits in chunks of so many rows. */
static inline void run_open_model_chunked(model_run *r, const tr_loaded_model *model, int32_t batch,
                                          int32_t sequence, int n_pieces, tr_dtype dtype,
                                          tr_recompute recompute, int64_t logits)
{
    TR_ASSERT(n_pieces <= MAX_PIECES);
    *r = (model_run){.model = *model,
                     .dtype = dtype,
                     .recompute = recompute,
                     .logits = logits,
                     .random = {.training = logits > 0}};
    r->rounded = tr_alloc_zero(r->model.parameters.count, sizeof *r->rounded);
    tr_model_options options = {
        .kind = TR_MODEL_TRAINING, .batch = batch, .sequence = sequence, .dtype = dtype};
    MUST(tr_model_graph(&r->model.config, &options, &r->whole, &r->values, err));
    MUST(tr_partition_balanced(&r->partition, r->whole, n_pieces, err));
    r->loss = tr__alloc_tensor(1, sizeof(double));
    r->factor = tr__alloc_tensor(1, sizeof(float));
    for (int s = 0; s < n_pieces; s++) run_prepare_piece(r, s);
    for (int s = 0; s < n_pieces; s++) {
        if (s > 0) run_bind(r, s, r->pieces[s].activation_in, r->activations[s - 1]);
        if (s + 1 < n_pieces) run_bind(r, s, r->pieces[s].gradient_in, r->activation_gradients[s + 1]);
    }
}

static inline void run_open_model_twice(model_run *r, const tr_loaded_model *model, int32_t batch,
                                        int32_t sequence, int n_pieces, tr_dtype dtype,
                                        tr_recompute recompute)
{
    run_open_model_chunked(r, model, batch, sequence, n_pieces, dtype, recompute, 0);
}

static inline void run_open_model_as(model_run *r, const tr_loaded_model *model, int32_t batch,
                                     int32_t sequence, int n_pieces, tr_dtype dtype)
{
    run_open_model_twice(r, model, batch, sequence, n_pieces, dtype, TR_RECOMPUTE_NONE);
}

static inline void run_open_model(model_run *r, const tr_loaded_model *model, int32_t batch, int32_t sequence,
                                  int n_pieces)
{
    run_open_model_as(r, model, batch, sequence, n_pieces, TR_F32);
}

static inline void run_open(model_run *r, const char *directory, int32_t batch, int32_t sequence,
                            int n_pieces)
{
    tr_loaded_model model;
    MUST(tr__loaded_model_open(&model, directory, err));
    run_open_model(r, &model, batch, sequence, n_pieces);
}

static inline void run_phase(model_run *r, int s, tr_phase phase)
{
    tr_bindings bindings = {
        .values = r->bound[s], .stash = r->stash[s], .scratch = r->scratch[s], .random = r->random};
    if (tr_program_has_phase(r->programs[s], phase)) tr_program_run(r->programs[s], phase, &bindings);
}

/* Forward, backward and weight gradients (which are added up) of one micro-batch. Returns the summed loss. */
static inline double run_microbatch(model_run *r, const int32_t *tokens, const int32_t *targets, float factor)
{
    int n = r->partition.n_stages;
    *r->factor = factor;
    run_bind(r, 0, r->pieces[0].tokens, (void *)tokens);
    run_bind(r, n - 1, r->pieces[n - 1].targets, (void *)targets);
    for (int s = 0; s < n; s++) run_phase(r, s, TR_PHASE_FORWARD);
    for (int s = n - 1; s >= 0; s--) run_phase(r, s, TR_PHASE_BACKWARD);
    for (int s = 0; s < n; s++) run_phase(r, s, TR_PHASE_WEIGHT);
    return *r->loss;
}

/* Adds the gradients of all uses of parameter `index`, in order of the uses. Free it. */
static inline float *run_gradient(const model_run *r, int32_t index)
{
    int64_t n = tr_shape_elements(&r->model.parameters.items[index].shape);
    float *sum = tr__alloc_tensor(n, sizeof(float));
    for (int32_t use = -1;;) {
        const float *next = NULL;
        int32_t next_use = INT32_MAX;
        for (int s = 0; s < r->partition.n_stages; s++)
            for (int i = 0; i < r->pieces[s].n_gradients; i++) {
                const tr_piece_gradient *g = &r->pieces[s].gradients[i];
                if (g->index != index || g->use <= use || g->use >= next_use) continue;
                next = r->gradients[s][i];
                next_use = g->use;
            }
        if (!next) return sum;
        for (int64_t i = 0; i < n; i++) sum[i] = use < 0 ? next[i] : sum[i] + next[i];
        use = next_use;
    }
}

static inline void run_close(model_run *r)
{
    for (int s = 0; s < r->partition.n_stages; s++) {
        for (int i = 0; i < r->pieces[s].n_gradients; i++) tr_free(r->gradients[s][i]);
        tr_free(r->gradients[s]);
        tr_free(r->activations[s]);
        tr_free(r->activation_gradients[s]);
        tr_free(r->stash[s]);
        tr_free(r->scratch[s]);
        tr_free(r->bound[s]);
        tr_program_destroy(&r->programs[s]);
        tr_piece_release(&r->pieces[s]);
    }
    for (size_t i = 0; i < r->model.parameters.count; i++) tr_free(r->rounded[i]);
    tr_free(r->rounded);
    tr_free(r->loss);
    tr_free(r->factor);
    tr_partition_release(&r->partition);
    tr_graph_destroy(&r->whole);
    tr__loaded_model_release(&r->model);
}

/* Models with the options that the golden cases leave at their defaults. Weights are large, so that
 * everything matters. */
static const char *const variants[] = {
    "{\"model_type\": \"llama\", \"num_hidden_layers\": 3, \"hidden_size\": 20, \"num_attention_heads\": 3,"
    " \"num_key_value_heads\": 1, \"head_dim\": 10, \"intermediate_size\": 28, \"vocab_size\": 320,"
    " \"max_position_embeddings\": 64, \"rms_norm_eps\": 1e-5, \"rope_theta\": 500.0, \"hidden_act\": "
    "\"silu\","
    " \"tie_word_embeddings\": true, \"attention_bias\": true, \"mlp_bias\": true, \"initializer_range\": "
    "0.2}",
    "{\"model_type\": \"gpt2\", \"n_layer\": 3, \"n_embd\": 24, \"n_head\": 3, \"n_inner\": 40, "
    "\"vocab_size\": 320,"
    " \"n_positions\": 64, \"layer_norm_epsilon\": 1e-5, \"activation_function\": \"gelu\","
    " \"scale_attn_by_inverse_layer_idx\": true, \"tie_word_embeddings\": false, \"resid_pdrop\": 0.0,"
    " \"embd_pdrop\": 0.0, \"attn_pdrop\": 0.0, \"initializer_range\": 0.2}",
};
enum { N_VARIANTS = 2 };

/* The first n_rows rows of a golden case, (n_rows,T) each, in memory as kernels want it. Free both. */
enum { GOLDEN_T = 32, GOLDEN_ROWS = 8 };

static inline void golden_rows(const char *directory, int n_rows, int32_t **tokens, int32_t **targets)
{
    char path[256];
    int64_t row[GOLDEN_T + 1];
    tr_safetensors *file;
    snprintf(path, sizeof path, "%s/golden.safetensors", directory);
    MUST(tr_safetensors_open(&file, path, err));
    *tokens = tr__alloc_tensor((int64_t)n_rows * GOLDEN_T, sizeof(int32_t));
    *targets = tr__alloc_tensor((int64_t)n_rows * GOLDEN_T, sizeof(int32_t));
    for (int r = 0; r < n_rows; r++) {
        MUST(tr_tensor_read_i64(tr_safetensors_find(file, "tokens"), (int64_t)r * (GOLDEN_T + 1),
                                GOLDEN_T + 1, row, err));
        for (int t = 0; t < GOLDEN_T; t++) {
            (*tokens)[r * GOLDEN_T + t] = (int32_t)row[t];
            (*targets)[r * GOLDEN_T + t] = (int32_t)row[t + 1];
        }
    }
    tr_safetensors_close(&file);
}

/* Loss (mean) of the golden case's first 8 rows in two micro-batches, and the gradients in the run. */
static inline double golden_step(model_run *r, const char *directory)
{
    int32_t *tokens, *targets;
    golden_rows(directory, GOLDEN_ROWS, &tokens, &targets);
    double loss = 0.0;
    int count = GOLDEN_ROWS * GOLDEN_T, half = count / 2;
    for (int m = 0; m < 2; m++)
        loss += run_microbatch(r, tokens + m * half, targets + m * half, 1.0f / (float)count);
    tr_free(tokens);
    tr_free(targets);
    return loss / count;
}

#endif
