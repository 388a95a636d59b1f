/* pipelines/generate.c - reads tokens into key-value caches and chooses the next ones.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/generate.h"

#include "base/memory.h"
#include "pipelines/forward.h"

#include <stdio.h>
#include <string.h>

enum { CHUNK_ROWS = 16, DEFAULT_CACHE_ROWS = 4096 };

/* One of the two programs, for so many rows at once. */
typedef struct reader {
    tr_forward forward;
    int32_t rows;
    int32_t *tokens; /* (1,rows) */
    float *logits;   /* (1,rows,V) */
} reader;

struct tr_generator {
    tr_loaded_model model;
    tr_thread_pool *pool;
    reader chunk, single;
    int n_threads;
    int32_t reach; /* the longest sequence that the readers' rotary frequencies are right for */
    int32_t cache_rows;
    float **caches;          /* 2 L: k and v of each layer, (cache_rows,K*D) */
    int32_t *history;        /* cache_rows: the tokens whose keys and values the caches hold */
    int32_t position;        /* how many those are */
    int32_t *position_input; /* the programs' input, a cache line of its own */
};

static tr_status make_caches(tr_generator *self, tr_error *err)
{
    const tr_model_config *c = &self->model.config;
    int64_t elements = (int64_t)self->cache_rows * c->kv_heads * c->head_size;
    size_t n = 2 * (size_t)c->layers;
    bool complete = true;
    self->caches = tr_alloc_zero(n, sizeof *self->caches);
    for (size_t i = 0; self->caches && i < n; i++)
        complete &= (self->caches[i] = tr__alloc_tensor(elements, sizeof(float))) != NULL;
    self->history = tr_alloc_zero((size_t)self->cache_rows, sizeof *self->history);
    self->position_input = tr__alloc_tensor(1, sizeof(int32_t));
    if (self->caches && complete && self->history && self->position_input) return TR_OK;
    return tr_fail(err, TR_ENOMEM, "no memory for key-value caches of %d rows; try fewer", self->cache_rows);
}

static void bind_caches(const tr_generator *self, tr_forward *forward)
{
    for (int32_t layer = 0; layer < self->model.config.layers; layer++) {
        char name[32];
        snprintf(name, sizeof name, "cache.%d.k", layer);
        forward->bound[tr_graph_find(forward->graph, name)] = self->caches[2 * layer];
        snprintf(name, sizeof name, "cache.%d.v", layer);
        forward->bound[tr_graph_find(forward->graph, name)] = self->caches[2 * layer + 1];
    }
}

/* For sequences of `length`. */
static tr_status make_reader(tr_generator *self, reader *out, int32_t rows, int32_t length, tr_error *err)
{
    tr_model_options options = {.kind = TR_MODEL_GENERATION,
                                .batch = 1,
                                .sequence = rows,
                                .cache_rows = self->cache_rows,
                                .length = length};
    tr_status status = tr__forward_init(&out->forward, &self->model, &options, self->n_threads, err);
    if (status != TR_OK) return status;
    out->rows = rows;
    out->tokens = tr__alloc_tensor(rows, sizeof(int32_t));
    out->logits = tr__alloc_tensor((int64_t)rows * self->model.config.vocabulary, sizeof(float));
    if (!out->tokens || !out->logits) return tr_fail(err, TR_ENOMEM, "no memory for %d rows of logits", rows);
    tr_forward *forward = &out->forward;
    forward->bound[forward->values.tokens] = out->tokens;
    forward->bound[forward->values.logits] = out->logits;
    forward->bound[forward->values.position] = self->position_input;
    bind_caches(self, forward);
    return TR_OK;
}

static void release_reader(reader *self)
{
    tr_free(self->logits);
    tr_free(self->tokens);
    tr__forward_release(&self->forward);
}

/* The readers for sequences of `length`, in place of those that are there. */
static tr_status make_readers(tr_generator *self, int32_t length, tr_error *err)
{
    int32_t chunk_rows = self->cache_rows < CHUNK_ROWS ? self->cache_rows : CHUNK_ROWS;
    reader chunk = {0}, single = {0};
    tr_status status = make_reader(self, &chunk, chunk_rows, length, err);
    if (status == TR_OK) status = make_reader(self, &single, 1, length, err);
    if (status != TR_OK) {
        release_reader(&single);
        release_reader(&chunk);
        return status;
    }
    release_reader(&self->single);
    release_reader(&self->chunk);
    self->chunk = chunk;
    self->single = single;
    self->reach = tr_rope_scaling_reach(&self->model.config.rope, length);
    return TR_OK;
}

tr_status tr_generator_open(tr_generator **out, const char *directory, int32_t cache_rows, int n_threads,
                            tr_error *err)
{
    tr_generator *self = tr_alloc_zero(1, sizeof *self);
    if (!self) return tr_fail(err, TR_ENOMEM, "no memory for a generator");
    tr_status status = tr__loaded_model_open(&self->model, directory, err);
    if (status != TR_OK) goto failed;
    int32_t positions = self->model.config.positions;
    self->cache_rows = cache_rows > 0 ? cache_rows : DEFAULT_CACHE_ROWS;
    if (self->cache_rows > positions) self->cache_rows = positions;
    self->n_threads = n_threads;
    status = tr_thread_pool_new(&self->pool, n_threads, err);
    if (status == TR_OK) status = make_caches(self, err);
    if (status == TR_OK) status = make_readers(self, 1, err);
    if (status != TR_OK) goto failed;
    *out = self;
    return TR_OK;
failed:
    tr_generator_close(&self);
    return status;
}

void tr_generator_close(tr_generator **self)
{
    tr_generator *g = *self;
    if (!g) return;
    release_reader(&g->single);
    release_reader(&g->chunk);
    for (int32_t i = 0; g->caches && i < 2 * g->model.config.layers; i++) tr_free(g->caches[i]);
    tr_free(g->caches);
    tr_free(g->history);
    tr_free(g->position_input);
    tr_thread_pool_destroy(&g->pool);
    tr__loaded_model_release(&g->model);
    tr_free(g);
    *self = NULL;
}

const tr_model_config *tr_generator_config(const tr_generator *self)
{
    return &self->model.config;
}

void tr_generator_reset(tr_generator *self)
{
    self->position = 0;
}

/* Reads with one of the programs; there is room. Returns the logits of the last row. */
static const float *read_rows(tr_generator *self, reader *with, const int32_t *tokens)
{
    size_t size_bytes = (size_t)with->rows * sizeof *tokens;
    memcpy(with->tokens, tokens, size_bytes);
    memmove(self->history + self->position, tokens, size_bytes);
    *self->position_input = self->position;
    tr__forward_run(&with->forward, self->pool);
    self->position += with->rows;
    return with->logits + (size_t)(with->rows - 1) * (size_t)self->model.config.vocabulary;
}

/* Reads at most n tokens, as many as one program takes and the caches
 * have room for; there is room for one. */
static size_t read_some(tr_generator *self, const int32_t *tokens, size_t n, const float **logits)
{
    bool fits = n >= (size_t)self->chunk.rows && self->position + self->chunk.rows <= self->cache_rows;
    reader *with = fits ? &self->chunk : &self->single;
    *logits = read_rows(self, with, tokens);
    return (size_t)with->rows;
}

/* Reads n tokens of the history from index `from` on anew, as from position 0. */
static void read_again(tr_generator *self, int32_t from, int32_t n)
{
    const float *logits;
    self->position = 0;
    for (int32_t done = 0; done < n;)
        done += (int32_t)read_some(self, self->history + from + done, (size_t)(n - done), &logits);
}

/* Goes on with the last half of the history; it becomes the first half, and the two do not overlap. */
static void restart(tr_generator *self)
{
    int32_t keep = self->cache_rows / 2;
    read_again(self, self->cache_rows - keep, keep);
}

/* Before n more tokens: longrope has other frequencies beyond its original positions, for every token of the
 * sequence, so what the caches hold is read again when a sequence crosses them. */
static tr_status fit_frequencies(tr_generator *self, size_t n, tr_error *err)
{
    size_t room = (size_t)(self->cache_rows - self->position);
    int32_t length = self->position + (int32_t)(n < room ? n : room);
    if (tr_rope_scaling_reach(&self->model.config.rope, length) == self->reach) return TR_OK;
    tr_status status = make_readers(self, length, err);
    if (status == TR_OK) read_again(self, 0, self->position);
    return status;
}

tr_status tr_generator_read(tr_generator *self, const int32_t *tokens, size_t n, const float **logits,
                            tr_error *err)
{
    int32_t vocabulary = self->model.config.vocabulary;
    if (n == 0) return tr_fail(err, TR_EINVAL, "there is no token to read; give a prompt");
    for (size_t i = 0; i < n; i++)
        if (tokens[i] < 0 || tokens[i] >= vocabulary)
            return tr_fail(err, TR_EINVAL, "token '%d' at %zu is outside the model's vocabulary of %d",
                           tokens[i], i, vocabulary);
    for (size_t done = 0; done < n;) {
        if (self->position == self->cache_rows) restart(self);
        tr_status status = fit_frequencies(self, n - done, err);
        if (status != TR_OK) return status;
        done += read_some(self, tokens + done, n - done, logits);
    }
    return TR_OK;
}

tr_status tr_generator_run(tr_generator *self, const int32_t *prompt, size_t n_prompt, int32_t n_new,
                           const tr_sampling_options *options, tr_token_function on_token, void *context,
                           tr_error *err)
{
    tr_sampler *sampler;
    const float *logits;
    tr_status status = tr_sampler_new(&sampler, self->model.config.vocabulary, options, err);
    if (status != TR_OK) return status;
    tr_generator_reset(self);
    status = tr_generator_read(self, prompt, n_prompt, &logits, err);
    for (int32_t i = 0; status == TR_OK && i < n_new; i++) {
        int32_t token = tr_sampler_choose(sampler, logits, (uint32_t)n_prompt + (uint32_t)i);
        if (!on_token(context, token)) break;
        if (i + 1 < n_new) status = tr_generator_read(self, &token, 1, &logits, err);
    }
    tr_sampler_destroy(&sampler);
    return status;
}
