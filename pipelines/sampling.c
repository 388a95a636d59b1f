/* pipelines/sampling.c - see sampling.h. Sorting all candidates costs little beside the model that made the
 * logits, and makes every cut (top-k, top-p) and every tie unambiguous.
 * Source for top-p: Holtzman et al., "The curious case of neural text degeneration", 2020.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/sampling.h"

#include "base/hash.h"
#include "base/memory.h"
#include "base/rng.h"

#include <math.h>
#include <stdlib.h>

typedef struct candidate {
    float logit;
    int32_t id;
    double weight; /* probability, but for a factor */
} candidate;

struct tr_sampler {
    tr_sampling_options options;
    int32_t vocabulary;
    uint64_t stream;
    candidate *candidates;
};

static tr_status check_options(const tr_sampling_options *options, int32_t vocabulary, tr_error *err)
{
    if (!(options->temperature >= 0) || isinf(options->temperature))
        return tr_fail(err, TR_EINVAL, "temperature '%g' is out of range; give 0 or more",
                       options->temperature);
    if (options->top_k < 0)
        return tr_fail(err, TR_EINVAL, "top-k '%d' is out of range; give 1 or more, or 0 for all",
                       options->top_k);
    if (!(options->top_p > 0 && options->top_p <= 1))
        return tr_fail(err, TR_EINVAL, "top-p '%g' is out of range; give a share above 0, up to 1",
                       options->top_p);
    if (vocabulary < 1)
        return tr_fail(err, TR_EINVAL, "a vocabulary of '%d' has nothing to choose from", vocabulary);
    return TR_OK;
}

tr_status tr_sampler_new(tr_sampler **out, int32_t vocabulary, const tr_sampling_options *options,
                         tr_error *err)
{
    tr_status status = check_options(options, vocabulary, err);
    if (status) return status;
    tr_sampler *self = tr_alloc_zero(1, sizeof *self);
    if (self) self->candidates = tr_alloc((size_t)vocabulary * sizeof *self->candidates);
    if (!self || !self->candidates) {
        tr_sampler_destroy(&self);
        return tr_fail(err, TR_ENOMEM, "no memory to sample from %d tokens", vocabulary);
    }
    self->options = *options;
    self->vocabulary = vocabulary;
    self->stream = tr_hash64_text("sample");
    *out = self;
    return TR_OK;
}

void tr_sampler_destroy(tr_sampler **self)
{
    if (!*self) return;
    tr_free((*self)->candidates);
    tr_free(*self);
    *self = NULL;
}

static int32_t most_likely(const float *logits, int32_t n)
{
    int32_t best = -1;
    for (int32_t i = 0; i < n; i++)
        if (!isnan(logits[i]) && (best < 0 || logits[i] > logits[best])) best = i;
    return best < 0 ? 0 : best;
}

static int compare_candidates(const void *left, const void *right)
{
    const candidate *a = left, *b = right;
    if (a->logit != b->logit) return a->logit > b->logit ? -1 : 1;
    return a->id < b->id ? -1 : a->id > b->id;
}

/* Sorted, the most likely first, and cut to the k first. */
static int32_t gather(tr_sampler *self, const float *logits)
{
    int32_t n = 0;
    for (int32_t i = 0; i < self->vocabulary; i++)
        if (!isnan(logits[i])) self->candidates[n++] = (candidate){.logit = logits[i], .id = i};
    if (n) qsort(self->candidates, (size_t)n, sizeof *self->candidates, compare_candidates);
    return self->options.top_k && self->options.top_k < n ? self->options.top_k : n;
}

/* Weighs the first n; *total is of those that stay: the fewest that reach the share top_p. */
static int32_t weigh(tr_sampler *self, int32_t n, double *total)
{
    candidate *items = self->candidates;
    double sum = 0, kept = 0;
    for (int32_t i = 0; i < n; i++) {
        items[i].weight = exp(((double)items[i].logit - items[0].logit) / self->options.temperature);
        sum += items[i].weight;
    }
    int32_t stay = 0;
    while (stay < n && (stay == 0 || kept < self->options.top_p * sum)) kept += items[stay++].weight;
    *total = kept;
    return stay;
}

int32_t tr_sampler_choose(tr_sampler *self, const float *logits, uint32_t position)
{
    if (self->options.temperature == 0) return most_likely(logits, self->vocabulary);
    int32_t n = gather(self, logits);
    if (!n || isinf(self->candidates[0].logit)) return most_likely(logits, self->vocabulary);
    double total;
    n = weigh(self, n, &total);
    tr_rng_key key = {.seed = self->options.seed, .stream = self->stream, .step = position, .microbatch = 0};
    double left = tr_rng_uniform(&key, 0) * total;
    int32_t i = 0;
    while (i < n - 1 && left >= self->candidates[i].weight) left -= self->candidates[i++].weight;
    return self->candidates[i].id;
}
