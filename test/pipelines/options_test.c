/* test/pipelines/options_test.c - options of config.json one by one: rotary frequencies, logits and gradients of
 * tiny models against those that transformers gave (test/golden/make_cases.py).
 * Tolerances: transformers computes frequencies in float32, a power and a few products: 1e-6 relative. Logits of
 * order 1 to 10 are rounded to 1e-6 in the file, our sums of some tens of terms are float32: 2e-5. Gradients
 * likewise, 2e-5 of their norm.
 * SPDX-License-Identifier: Apache-2.0 */
#include "check.h"
#include "model_runs.h"

#include <jansson.h>
#include <math.h>

enum { LONGEST = 32, LARGEST_HEAD = 64 };

static json_t *open_cases(const char *path)
{
    json_t *file = json_load_file(path, 0, NULL);
    TR_ASSERT(file && json_array_size(json_object_get(file, "cases")) > 0);
    return file;
}

static const char *name_of(const json_t *c)
{
    return json_string_value(json_object_get(c, "name"));
}

static int32_t sequence_of(const json_t *c)
{
    return (int32_t)json_integer_value(json_object_get(c, "sequence"));
}

static double number(const json_t *list, size_t i)
{
    return json_number_value(json_array_get(list, i));
}

/* The largest deviation of one case's frequencies and magnitude, relative. */
static double frequencies_differ(const json_t *c)
{
    tr_model_config config;
    double got[LARGEST_HEAD / 2], worst = 0;
    char *text = json_dumps(json_object_get(c, "config"), 0);
    MUST(tr_model_config_parse(&config, text, name_of(c), err));
    const json_t *wanted = json_object_get(c, "frequencies");
    size_t half = (size_t)config.head_size / 2;
    TR_ASSERT(half <= LARGEST_HEAD / 2 && json_array_size(wanted) == half);
    tr_rope_scaling_frequencies(&config.rope, config.head_size, sequence_of(c), got);
    for (size_t i = 0; i < half; i++)
        if (got[i] != number(wanted, i)) worst = fmax(worst, fabs(got[i] / number(wanted, i) - 1));
    double magnitude = json_number_value(json_object_get(c, "magnitude"));
    worst = fmax(worst, fabs(config.rope.magnitude / magnitude - 1));
    tr_model_config_release(&config);
    free(text);
    return worst;
}

static void rotary_frequencies_are_those_of_transformers(void)
{
    json_t *file = open_cases("test/golden/rope.json"), *c;
    double worst = 0;
    size_t i;
    json_array_foreach(json_object_get(file, "cases"), i, c)
    {
        double difference = frequencies_differ(c);
        if (!(difference <= 1e-6)) fprintf(stderr, "%s: differs by %g\n", name_of(c), difference);
        CU_ASSERT(difference <= 1e-6);
        worst = fmax(worst, difference);
    }
    printf("\n    %zu cases, frequencies differ by %.2g at most ", i, worst);
    json_decref(file);
}

/* n numbers in [-1, 1) from a name: as make_cases.py makes them. */
static void hashed(const char *name, int64_t n, double *out)
{
    uint32_t seed = 2166136261u;
    for (; *name; name++) seed = (seed ^ (unsigned char)*name) * 16777619u;
    for (int64_t i = 0; i < n; i++) {
        uint32_t x = seed + (uint32_t)i * 2654435769u;
        x = (x ^ x >> 16) * 0x7feb352du;
        x = (x ^ x >> 15) * 0x846ca68bu;
        out[i] = (x ^ x >> 16) / 2147483648.0 - 1.0;
    }
}

static void set_weights(tr_loaded_model *model)
{
    for (size_t p = 0; p < model->parameters.count; p++) {
        const tr_model_parameter *parameter = &model->parameters.items[p];
        int64_t n = tr_shape_elements(&parameter->shape);
        double *u = tr_alloc((size_t)n * sizeof *u);
        hashed(parameter->name, n, u);
        for (int64_t i = 0; i < n; i++) {
            double value = parameter->shape.rank > 1 ? 0.4 * u[i] : parameter->mean + 0.2 * u[i];
            model->weights[p][i] = (float)value;
        }
        tr_free(u);
    }
}

static void open_case(const json_t *c, tr_loaded_model *model, int32_t *tokens, int32_t *targets)
{
    int32_t n = sequence_of(c);
    TR_ASSERT(n <= LONGEST);
    char *text = json_dumps(json_object_get(c, "config"), 0);
    fresh_model(model, text);
    set_weights(model);
    for (int32_t i = 0; i <= n; i++) {
        int32_t id = (3 * i * i + 11 * i + 5) % 32;
        if (i < n) tokens[i] = id;
        if (i > 0) targets[i - 1] = id;
    }
    free(text);
}

static double logits_differ(const json_t *c)
{
    _Alignas(64) int32_t tokens[LONGEST], targets[LONGEST];
    tr_loaded_model model;
    tr_forward forward;
    double worst = 0;
    open_case(c, &model, tokens, targets);
    int32_t vocabulary = model.config.vocabulary;
    tr_model_options options = {.kind = TR_MODEL_LOGITS, .batch = 1, .sequence = sequence_of(c)};
    MUST(tr__forward_init(&forward, &model, &options, 1, err));
    float *logits = tr__alloc_tensor((int64_t)LONGEST * vocabulary, sizeof *logits);
    forward.bound[forward.values.tokens] = tokens;
    forward.bound[forward.values.logits] = logits;
    tr__forward_run(&forward, NULL);
    for (size_t r = 0; r < json_array_size(json_object_get(c, "rows")); r++) {
        const float *row = logits + (int64_t)number(json_object_get(c, "rows"), r) * vocabulary;
        const json_t *wanted = json_array_get(json_object_get(c, "logits"), r);
        for (int32_t i = 0; i < vocabulary; i++)
            worst = fmax(worst, fabs((double)row[i] - number(wanted, (size_t)i)));
    }
    tr_free(logits);
    tr__forward_release(&forward);
    tr__loaded_model_release(&model);
    return worst;
}

/* Norm and one projection of each gradient, in units of the norm. */
static double gradient_differs(const model_run *run, int32_t p, const json_t *c)
{
    const tr_model_parameter *parameter = &run->model.parameters.items[p];
    const json_t *wanted = json_object_get(json_object_get(c, "gradients"), parameter->name);
    TR_ASSERT(wanted);
    int64_t n = tr_shape_elements(&parameter->shape);
    char name[160];
    snprintf(name, sizeof name, "along %s", parameter->name);
    double *direction = tr_alloc((size_t)n * sizeof *direction), squares = 0, along = 0;
    float *gradient = run_gradient(run, p);
    hashed(name, n, direction);
    for (int64_t i = 0; i < n; i++) {
        squares += (double)gradient[i] * (double)gradient[i];
        along += (double)gradient[i] * direction[i];
    }
    tr_free(gradient);
    tr_free(direction);
    double scale = number(wanted, 0) + 1e-3; /* that of k_proj's bias is 0 but for rounding */
    return fmax(fabs(sqrt(squares) - number(wanted, 0)), fabs(along - number(wanted, 1))) / scale;
}

/* In two pieces, as stages have them. */
static double training_differs(const json_t *c)
{
    _Alignas(64) int32_t tokens[LONGEST], targets[LONGEST];
    tr_loaded_model model;
    model_run run;
    open_case(c, &model, tokens, targets);
    int32_t n = sequence_of(c);
    run_open_model(&run, &model, 1, n, 2);
    double loss = run_microbatch(&run, tokens, targets, 1.0f / (float)n) / n;
    double worst = fabs(loss - json_number_value(json_object_get(c, "loss")));
    for (size_t p = 0; p < run.model.parameters.count; p++)
        worst = fmax(worst, gradient_differs(&run, (int32_t)p, c));
    run_close(&run);
    return worst;
}

/* 2e-5 absolute: transformers computes in float32 as well. */
static void expect_all_near(const char *what, double (*differs)(const json_t *))
{
    json_t *file = open_cases("test/golden/options.json"), *c;
    double worst = 0;
    size_t i;
    json_array_foreach(json_object_get(file, "cases"), i, c)
    {
        double difference = differs(c);
        if (!(difference <= 2e-5)) fprintf(stderr, "%s: %s differ by %g\n", name_of(c), what, difference);
        CU_ASSERT(difference <= 2e-5);
        worst = fmax(worst, difference);
    }
    printf("\n    %zu cases, %s differ by %.2g at most ", i, what, worst);
    json_decref(file);
}

static void logits_are_those_of_transformers(void)
{
    expect_all_near("logits", logits_differ);
}

static void losses_and_gradients_are_those_of_transformers(void)
{
    expect_all_near("losses and gradients", training_differs);
}

static const check_test tests[] = {
    CHECK_TEST(rotary_frequencies_are_those_of_transformers),
    CHECK_TEST(logits_are_those_of_transformers),
    CHECK_TEST(losses_and_gradients_are_those_of_transformers),
};

CHECK_MAIN("options", tests)
