/* test/pipelines/golden_steps_test.c - thirty updates of a golden model, by hand, in two pieces: the
 * arithmetic of training without actors. Losses, gradient norms and the last weights are transformers' and
 * torch.optim.AdamW's.
 * SPDX-License-Identifier: Apache-2.0 */
#include "check.h"
#include "model_runs.h"
#include "ops/optimizer.h"

#include <jansson.h>
#include <math.h>

enum { MICROBATCH = 4, ACCUMULATE = 2, STEPS = 30 };

typedef struct training {
    model_run run;
    json_t *golden;
    int32_t *tokens, *targets;                          /* (STEPS*ACCUMULATE*MICROBATCH,T) */
    float **gradients, **first_moment, **second_moment; /* by parameter */
} training;

static int64_t elements(const training *t, size_t parameter)
{
    return tr_shape_elements(&t->run.model.parameters.items[parameter].shape);
}

static double setting(const training *t, const char *key)
{
    return json_number_value(json_object_get(t->golden, key));
}

static double listed(const training *t, const char *key, size_t i)
{
    return json_number_value(json_array_get(json_object_get(t->golden, key), i));
}

static void start(training *t, const char *directory, int64_t logits)
{
    char path[256];
    snprintf(path, sizeof path, "%s/golden.json", directory);
    tr_loaded_model model;
    MUST(tr__loaded_model_open(&model, directory, err));
    run_open_model_chunked(&t->run, &model, MICROBATCH, GOLDEN_T, 2, TR_F32, TR_RECOMPUTE_NONE, logits);
    t->golden = json_load_file(path, 0, NULL);
    TR_ASSERT(t->golden && setting(t, "accumulation") == ACCUMULATE && setting(t, "steps") == STEPS);
    golden_rows(directory, STEPS * ACCUMULATE * MICROBATCH, &t->tokens, &t->targets);
    size_t count = t->run.model.parameters.count;
    t->gradients = tr_alloc_zero(count, sizeof(float *));
    t->first_moment = tr_alloc_zero(count, sizeof(float *));
    t->second_moment = tr_alloc_zero(count, sizeof(float *));
    for (size_t i = 0; i < count; i++) {
        t->first_moment[i] = tr__alloc_tensor(elements(t, i), sizeof(float));
        t->second_moment[i] = tr__alloc_tensor(elements(t, i), sizeof(float));
    }
}

static void stop(training *t)
{
    for (size_t i = 0; i < t->run.model.parameters.count; i++) {
        tr_free(t->first_moment[i]);
        tr_free(t->second_moment[i]);
    }
    tr_free(t->gradients);
    tr_free(t->first_moment);
    tr_free(t->second_moment);
    tr_free(t->tokens);
    tr_free(t->targets);
    json_decref(t->golden);
    run_close(&t->run);
}

/* The mean loss of the step's micro-batches; gradients of the mean are left in t->gradients. */
static double forward_and_backward(training *t, int step)
{
    double loss = 0.0;
    int count = ACCUMULATE * MICROBATCH * GOLDEN_T;
    for (int m = 0; m < ACCUMULATE; m++) {
        size_t at = (size_t)(step * ACCUMULATE + m) * MICROBATCH * GOLDEN_T;
        loss += run_microbatch(&t->run, t->tokens + at, t->targets + at, 1.0f / (float)count);
    }
    for (size_t i = 0; i < t->run.model.parameters.count; i++)
        t->gradients[i] = run_gradient(&t->run, (int32_t)i);
    return loss / count;
}

static double gradient_norm(const training *t)
{
    double sum = 0.0;
    for (size_t i = 0; i < t->run.model.parameters.count; i++) {
        double blocks[8];
        int64_t n = tr_norm_block_count(elements(t, i));
        TR_ASSERT(n <= 8);
        tr_square_sums(t->gradients[i], elements(t, i), blocks, NULL);
        for (int64_t b = 0; b < n; b++) sum += blocks[b];
    }
    return sqrt(sum);
}

static void update(training *t, int step, double norm)
{
    double clip = setting(t, "clip_norm");
    for (size_t i = 0; i < t->run.model.parameters.count; i++) {
        bool decays = t->run.model.parameters.items[i].decays;
        tr_adamw_options options = {.lr = (float)listed(t, "lr", (size_t)step),
                                    .beta1 = (float)listed(t, "betas", 0),
                                    .beta2 = (float)listed(t, "betas", 1),
                                    .eps = (float)setting(t, "eps"),
                                    .weight_decay = decays ? (float)setting(t, "weight_decay") : 0.0f,
                                    .gradient_scale = norm > clip ? (float)(clip / norm) : 1.0f,
                                    .step = (uint32_t)step + 1};
        float *p = t->run.model.weights[i], *m = t->first_moment[i], *v = t->second_moment[i];
        tr_adamw(p, m, v, t->gradients[i], p, m, v, NULL, elements(t, i), &options, NULL);
        tr_free(t->gradients[i]);
    }
    for (int s = 0; s < t->run.partition.n_stages; s++)
        for (int i = 0; i < t->run.pieces[s].n_gradients; i++)
            memset(t->run.gradients[s][i], 0,
                   (size_t)elements(t, (size_t)t->run.pieces[s].gradients[i].index) * sizeof(float));
}

static double distance_of_weights(const training *t, const char *directory)
{
    char path[256];
    tr_safetensors *file;
    double difference = 0.0, squares = 0.0;
    snprintf(path, sizeof path, "%s/after.safetensors", directory);
    MUST(tr_safetensors_open(&file, path, err));
    for (size_t i = 0; i < t->run.model.parameters.count; i++) {
        const char *name = t->run.model.parameters.items[i].name;
        int64_t n = elements(t, i);
        float *wanted = tr_alloc((size_t)n * sizeof *wanted);
        MUST(tr_tensor_read_f32(tr_safetensors_find(file, name), 0, n, wanted, err));
        for (int64_t e = 0; e < n; e++) {
            double d = (double)t->run.model.weights[i][e] - (double)wanted[e];
            difference += d * d;
            squares += (double)wanted[e] * (double)wanted[e];
        }
        tr_free(wanted);
    }
    tr_safetensors_close(&file);
    return sqrt(difference / squares);
}

static void thirty_updates_are_those_of_transformers(void)
{
    static const char *const cases[] = {"test/golden/gpt2", "test/golden/llama"};
    for (int k = 0; k < 4; k++) { /* logits as a whole, and of 48 of 128 rows at a time */
        int c = k % 2;
        training t = {0};
        double worst_loss = 0.0, worst_norm = 0.0;
        start(&t, cases[c], k < 2 ? 0 : 48);
        for (int step = 0; step < STEPS; step++) {
            double loss = forward_and_backward(&t, step), norm = gradient_norm(&t);
            update(&t, step, norm);
            worst_loss = fmax(worst_loss, fabs(loss - listed(&t, "loss", (size_t)step)));
            worst_norm = fmax(worst_norm, fabs(norm / listed(&t, "grad_norm", (size_t)step) - 1.0));
        }
        double distance = distance_of_weights(&t, cases[c]);
        printf("\n    %s: losses differ by %.2g, norms by %.2g of theirs, the last weights by %.2g ",
               cases[c], worst_loss, worst_norm, distance);
        CU_ASSERT(worst_loss <= 1e-4);
        CU_ASSERT(worst_norm <= 1e-3);
        CU_ASSERT(distance <= 1e-3);
        stop(&t);
    }
}

static const check_test tests[] = {
    CHECK_TEST(thirty_updates_are_those_of_transformers),
};

CHECK_MAIN("pipelines/golden_steps", tests)
