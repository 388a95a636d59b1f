/* test/actors/tiny_reference.h - the model of tiny_model.h in plain loops over doubles, written from the formulas.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TEST_ACTORS_TINY_REFERENCE_H
#define TROUPE_TEST_ACTORS_TINY_REFERENCE_H

#include "tiny_model.h"

typedef struct reference {
    const tiny_config *config;
    double *p[N_TINY], *m[N_TINY], *v[N_TINY], *g[N_TINY];
    uint32_t step;
    uint64_t tokens;
    double loss, norm;
} reference;

static void reference_open(reference *self, const tiny_config *config)
{
    *self = (reference){.config = config};
    for (uint32_t i = 0; i < N_TINY; i++) {
        size_t n = (size_t)tiny_elements(config, i);
        float *fresh = tr_alloc(n * sizeof *fresh);
        double **all[] = {&self->p[i], &self->m[i], &self->v[i], &self->g[i]};
        for (int k = 0; k < 4; k++) *all[k] = tr_alloc_zero(n, sizeof(double));
        tiny_fresh(config, i, fresh);
        for (size_t e = 0; e < n; e++) self->p[i][e] = (double)fresh[e];
        tr_free(fresh);
    }
}

static void reference_close(reference *self)
{
    for (uint32_t i = 0; i < N_TINY; i++)
        tr_free(self->p[i]), tr_free(self->m[i]), tr_free(self->v[i]), tr_free(self->g[i]);
}

/* y = w x + b and silu(y). */
static void layer(const double *w, const double *b, const double *x, double *y, double *out, int64_t c)
{
    for (int64_t o = 0; o < c; o++) {
        y[o] = b[o];
        for (int64_t i = 0; i < c; i++) y[o] += w[o * c + i] * x[i];
        out[o] = y[o] / (1 + exp(-y[o]));
    }
}

/* From the gradient of out to that of x; adds those of w and b. */
static void layer_backward(const double *w, const double *x, const double *y, const double *d_out,
                           double *d_x, double *d_w, double *d_b, int64_t c)
{
    for (int64_t i = 0; i < c; i++) d_x[i] = 0;
    for (int64_t o = 0; o < c; o++) {
        double s = 1 / (1 + exp(-y[o])), d_y = d_out[o] * (s + y[o] * s * (1 - s));
        d_b[o] += d_y;
        for (int64_t i = 0; i < c; i++) {
            d_w[o * c + i] += d_y * x[i];
            d_x[i] += d_y * w[o * c + i];
        }
    }
}

/* Loss of one token; adds gradients of the sum of losses where `backward`. */
static double reference_token(reference *self, int32_t token, int32_t target, bool backward)
{
    enum { MOST = 128 };
    int64_t c = self->config->width, n = self->config->vocabulary;
    TR_ASSERT(c <= MOST);
    if (target < 0) return 0;
    double y1[MOST], h1[MOST], y2[MOST], h2[MOST], d2[MOST] = {0}, d1[MOST], d0[MOST];
    const double *e = self->p[0], *x = e + token * c;
    layer(self->p[1], self->p[2], x, y1, h1, c);
    layer(self->p[3], self->p[4], h1, y2, h2, c);
    double *logits = tr_alloc((size_t)n * sizeof *logits), most = -INFINITY, sum = 0;
    for (int64_t o = 0; o < n; o++) {
        logits[o] = 0;
        for (int64_t i = 0; i < c; i++) logits[o] += e[o * c + i] * h2[i];
        most = fmax(most, logits[o]);
    }
    for (int64_t o = 0; o < n; o++) sum += exp(logits[o] - most);
    double loss = most + log(sum) - logits[target];
    for (int64_t o = 0; backward && o < n; o++) {
        double d = exp(logits[o] - most) / sum - (o == target);
        for (int64_t i = 0; i < c; i++) {
            self->g[0][o * c + i] += d * h2[i];
            d2[i] += d * e[o * c + i];
        }
    }
    tr_free(logits);
    if (!backward) return loss;
    layer_backward(self->p[3], h1, y2, d2, d1, self->g[3], self->g[4], c);
    layer_backward(self->p[1], x, y1, d1, d0, self->g[1], self->g[2], c);
    for (int64_t i = 0; i < c; i++) self->g[0][token * c + i] += d0[i];
    return loss;
}

/* One row: how many targets it has is added to *count. */
static double reference_row(reference *self, uint64_t stream, uint32_t a, uint32_t b, uint32_t row,
                            uint64_t *count, bool backward)
{
    int32_t tokens[64] = {0}, targets[64] = {0};
    double loss = 0;
    tiny_row(self->config, stream, a, b, row, tokens, targets);
    for (uint32_t t = 0; t < self->config->plan.sequence; t++) {
        loss += reference_token(self, tokens[t], targets[t], backward);
        *count += targets[t] >= 0;
    }
    return loss;
}

static void reference_update(reference *self, double scale, double lr)
{
    const tr_stage_optimizer *o = &tiny_optimizer;
    double b1 = (double)o->beta1, b2 = (double)o->beta2, t = self->step + 1;
    for (uint32_t i = 0; i < N_TINY; i++) {
        double decay = i == 2 || i == 4 ? 0 : (double)o->weight_decay;
        for (int64_t e = 0; e < tiny_elements(self->config, i); e++) {
            double g = self->g[i][e] * scale;
            self->m[i][e] = b1 * self->m[i][e] + (1 - b1) * g;
            self->v[i][e] = b2 * self->v[i][e] + (1 - b2) * g * g;
            double m = self->m[i][e] / (1 - pow(b1, t)), v = self->v[i][e] / (1 - pow(b2, t));
            self->p[i][e] -= lr * (decay * self->p[i][e] + m / (sqrt(v) + (double)o->eps));
        }
    }
}

static void reference_step(reference *self, double lr)
{
    const tr_training_plan *plan = &self->config->plan;
    uint64_t count = 0;
    double squares = 0;
    self->loss = 0;
    for (uint32_t i = 0; i < N_TINY; i++)
        memset(self->g[i], 0, (size_t)tiny_elements(self->config, i) * sizeof(double));
    for (uint32_t mb = 0; mb < plan->n_microbatches; mb++)
        for (uint32_t row = 0; row < plan->rows; row++)
            self->loss += reference_row(self, 1, self->step, mb, row, &count, true);
    self->loss /= (double)count;
    for (uint32_t i = 0; i < N_TINY; i++)
        for (int64_t e = 0; e < tiny_elements(self->config, i); e++) {
            self->g[i][e] /= (double)count;
            squares += self->g[i][e] * self->g[i][e];
        }
    self->norm = sqrt(squares);
    double clip = (double)plan->clip_norm;
    reference_update(self, clip > 0 && self->norm > clip ? clip / self->norm : 1, lr);
    self->tokens += count;
    self->step++;
}

static double reference_validation(reference *self, uint32_t n_windows)
{
    uint64_t count = 0;
    double loss = 0;
    for (uint32_t w = 0; w < n_windows; w++)
        loss += reference_row(self, 2, 0, 0, tiny_window(&self->config->plan, n_windows, w), &count, false);
    return loss / (double)count;
}

#endif
