/* pipelines/evaluate.c - the loss of a text under a model, forward only.
 * Windows are run in batches of a size that depends on the sequence alone, and their sums are added in order,
 * so that the result does not depend on threads.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/memory.h"
#include "pipelines/data.h"
#include "pipelines/forward.h"
#include "pipelines/generate.h"

enum { DEFAULT_SEQUENCE = 1024, TOKENS_AT_ONCE = 2048, MAX_WINDOWS_AT_ONCE = 16 };

typedef struct evaluator {
    tr_loaded_model model;
    tr_data *data;
    tr_thread_pool *pool;
    tr_forward forward;
    int32_t batch, sequence;
    int32_t *tokens, *targets; /* (B,T) */
    double *loss;              /* (1) */
} evaluator;

static void release(evaluator *self)
{
    tr_free(self->loss);
    tr_free(self->targets);
    tr_free(self->tokens);
    tr__forward_release(&self->forward);
    tr_thread_pool_destroy(&self->pool);
    tr_data_close(&self->data);
    tr__loaded_model_release(&self->model);
}

static tr_status bind_windows(evaluator *self, tr_error *err)
{
    int64_t n = (int64_t)self->batch * self->sequence;
    self->tokens = tr__alloc_tensor(n, sizeof(int32_t));
    self->targets = tr__alloc_tensor(n, sizeof(int32_t));
    self->loss = tr__alloc_tensor(1, sizeof(double));
    if (!self->tokens || !self->targets || !self->loss)
        return tr_fail(err, TR_ENOMEM, "no memory for windows of %lld tokens", (long long)n);
    tr_forward *forward = &self->forward;
    forward->bound[forward->values.tokens] = self->tokens;
    forward->bound[forward->values.targets] = self->targets;
    forward->bound[forward->values.loss] = self->loss;
    return TR_OK;
}

static tr_status prepare(evaluator *self, const char *directory, const char *text_path, int32_t sequence,
                         int n_threads, tr_error *err)
{
    tr_status status = tr__loaded_model_open(&self->model, directory, err);
    if (status != TR_OK) return status;
    int32_t positions = self->model.config.positions;
    if (sequence < 1) sequence = positions < DEFAULT_SEQUENCE ? positions : DEFAULT_SEQUENCE;
    int32_t batch = TOKENS_AT_ONCE / sequence;
    self->sequence = sequence;
    self->batch = batch < 1 ? 1 : batch > MAX_WINDOWS_AT_ONCE ? MAX_WINDOWS_AT_ONCE : batch;
    tr_model_options options = {.kind = TR_MODEL_TRAINING, .batch = self->batch, .sequence = self->sequence};
    status = tr_data_open_text(&self->data, text_path, sequence, self->model.config.vocabulary, err);
    if (status == TR_OK) status = tr_thread_pool_new(&self->pool, n_threads, err);
    if (status == TR_OK) status = tr__forward_init(&self->forward, &self->model, &options, n_threads, err);
    return status == TR_OK ? bind_windows(self, err) : status;
}

/* Rows behind the last window have no target and count nothing. */
static void fill(evaluator *self, int64_t first, int64_t n_windows)
{
    for (int64_t row = 0; row < self->batch; row++) {
        int32_t *tokens = self->tokens + row * self->sequence,
                *targets = self->targets + row * self->sequence;
        if (first + row < n_windows) {
            tr_data_fill_validation(self->data, first + row, tokens, targets);
            continue;
        }
        for (int32_t t = 0; t < self->sequence; t++) {
            tokens[t] = 0;
            targets[t] = -1;
        }
    }
}

tr_status tr_evaluate(tr_evaluation *out, const char *directory, const char *text_path, int32_t sequence,
                      int n_threads, tr_progress_function progress, void *context, tr_error *err)
{
    evaluator self = {0};
    double sum = 0.0;
    int64_t count = 0;
    tr_status status = prepare(&self, directory, text_path, sequence, n_threads, err);
    if (status != TR_OK) goto done;
    int64_t n_windows = tr_data_validation_count(self.data);
    for (int64_t first = 0; first < n_windows; first += self.batch) {
        fill(&self, first, n_windows);
        tr__forward_run(&self.forward, self.pool);
        sum += *self.loss;
        int64_t end = first + self.batch < n_windows ? first + self.batch : n_windows;
        for (int64_t w = first; w < end; w++) count += tr_data_validation_targets(self.data, w);
        if (progress) progress(context, end, n_windows);
    }
    *out = (tr_evaluation){.loss = count > 0 ? sum / (double)count : 0.0, .tokens = count};
done:
    release(&self);
    return status;
}
