/* ops/cuda/graph.c - see graph.h. A list: a program has few runs that differ, and words that differ do so early.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/cuda/graph.h"

#include "base/log.h"
#include "base/memory.h"
#include "ops/cuda/context.h"

#include <string.h>

typedef struct known_run {
    uintptr_t *words;
    size_t n_words;
    cudaGraphExec_t graph; /* NULL: met once */
} known_run;

struct tr_cuda_graphs {
    tr_cuda_context *context;
    known_run runs[TR_CUDA_MOST_GRAPHS];
    size_t n_runs;
    known_run *capturing;
    bool had_failed; /* before the capture began */
    bool off;
    uint64_t launches;
};

tr_status tr_cuda_graphs_new(tr_cuda_graphs **out, tr_cuda_context *context, tr_error *err)
{
    tr_cuda_graphs *self = tr_alloc_zero(1, sizeof *self);
    if (!self) return tr_fail(err, TR_ENOMEM, "no memory for a list of CUDA graphs");
    self->context = context;
    *out = self;
    return TR_OK;
}

void tr_cuda_graphs_forget(tr_cuda_graphs *self)
{
    tr_stream_synchronize(self->context->stream, NULL);
    for (size_t i = 0; i < self->n_runs; i++) {
        if (self->runs[i].graph) cudaGraphExecDestroy(self->runs[i].graph);
        tr_free(self->runs[i].words);
    }
    self->n_runs = 0;
}

void tr_cuda_graphs_destroy(tr_cuda_graphs **self)
{
    if (!*self) return;
    tr_cuda_graphs_forget(*self);
    tr_free(*self);
    *self = NULL;
}

static known_run *find(tr_cuda_graphs *self, const uintptr_t *words, size_t n_words)
{
    for (size_t i = 0; i < self->n_runs; i++)
        if (self->runs[i].n_words == n_words &&
            memcmp(self->runs[i].words, words, n_words * sizeof *words) == 0)
            return &self->runs[i];
    return NULL;
}

/* Where there is no memory it is met again another time. */
static void remember(tr_cuda_graphs *self, const uintptr_t *words, size_t n_words)
{
    if (self->n_runs == TR_CUDA_MOST_GRAPHS) return;
    uintptr_t *copy = tr_alloc(n_words * sizeof *copy);
    if (!copy) return;
    memcpy(copy, words, n_words * sizeof *copy);
    self->runs[self->n_runs++] = (known_run){.words = copy, .n_words = n_words};
}

static void launch(tr_cuda_graphs *self, cudaGraphExec_t graph)
{
    cudaError_t code = cudaGraphLaunch(graph, self->context->native);
    if (code != cudaSuccess) tr_cuda_note(self->context, code, "CUDA graph");
    self->launches++;
}

/* Only this thread's calls are watched while it captures: others may allocate meanwhile. */
tr_cuda_graph_step tr_cuda_graphs_begin(tr_cuda_graphs *self, const uintptr_t *words, size_t n_words)
{
    if (self->off) return TR_CUDA_QUEUE;
    known_run *run = find(self, words, n_words);
    if (!run) {
        remember(self, words, n_words);
        return TR_CUDA_QUEUE;
    }
    if (run->graph) {
        launch(self, run->graph);
        return TR_CUDA_LAUNCHED;
    }
    if (cudaStreamBeginCapture(self->context->native, cudaStreamCaptureModeThreadLocal) != cudaSuccess) {
        cudaGetLastError(); /* what is queued instead tells */
        return TR_CUDA_QUEUE;
    }
    self->capturing = run;
    self->had_failed = self->context->error.status != TR_OK;
    return TR_CUDA_CAPTURE;
}

static void give_up(tr_cuda_graphs *self, cudaError_t code)
{
    const char *why = code == cudaSuccess ? self->context->error.message : cudaGetErrorString(code);
    tr_log(TR_LOG_WARNING, "no CUDA graphs, which changes no bit and costs some time: %s", why);
    cudaGetLastError();
    self->off = true;
    if (!self->had_failed) /* if it is more than the capture, what is queued now meets it again */
        self->context->error = (tr_error){0};
}

bool tr_cuda_graphs_end(tr_cuda_graphs *self)
{
    cudaGraph_t graph = NULL;
    cudaGraphExec_t made = NULL;
    cudaError_t code = cudaStreamEndCapture(self->context->native, &graph);
    bool noted = self->context->error.status != TR_OK && !self->had_failed;
    if (code == cudaSuccess && !noted) code = cudaGraphInstantiate(&made, graph, 0);
    if (graph) cudaGraphDestroy(graph);
    if (!made) {
        give_up(self, noted ? cudaSuccess : code);
        return false;
    }
    self->capturing->graph = made;
    launch(self, made);
    return true;
}

uint64_t tr_cuda_graphs_launches(const tr_cuda_graphs *self)
{
    return self->launches;
}
