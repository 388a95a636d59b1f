/* test/pipelines/model_test.c - models give the numbers that Hugging Face transformers gives for the same
 * files.
 * Tolerances are the issue's: logits 1e-4; gradients 1e-4 of their norm (float32 sums of some hundred terms).
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/model.h"

#include "check.h"
#include "model_runs.h"

#include <jansson.h>
#include <math.h>

static const char *const cases[] = {"test/golden/gpt2", "test/golden/llama"};
enum { N_CASES = 2 };

static float *golden_tensor(const char *directory, const char *name, int64_t *count)
{
    char path[256];
    tr_safetensors *file;
    snprintf(path, sizeof path, "%s/golden.safetensors", directory);
    MUST(tr_safetensors_open(&file, path, err));
    const tr_tensor_info *tensor = tr_safetensors_find(file, name);
    TR_ASSERT(tensor);
    *count = tr_shape_elements(&tensor->shape);
    float *values = tr_alloc((size_t)*count * sizeof *values);
    MUST(tr_tensor_read_f32(tensor, 0, *count, values, err));
    tr_safetensors_close(&file);
    return values;
}

static void logits_agree_with_transformers_for(const char *directory)
{
    tr_loaded_model model;
    tr_forward forward;
    int64_t count;
    int32_t *tokens, *targets;
    tr_model_options options = {.kind = TR_MODEL_LOGITS, .batch = 4, .sequence = GOLDEN_T};
    float *wanted = golden_tensor(directory, "logits", &count);
    golden_rows(directory, 4, &tokens, &targets);
    MUST(tr__loaded_model_open(&model, directory, err));
    MUST(tr__forward_init(&forward, &model, &options, 1, err));
    float *logits = tr__alloc_tensor(count, sizeof(float));
    forward.bound[forward.values.tokens] = tokens;
    forward.bound[forward.values.logits] = logits;
    tr__forward_run(&forward, NULL);
    double worst = 0.0;
    for (int64_t i = 0; i < count; i++) worst = fmax(worst, fabs((double)logits[i] - (double)wanted[i]));
    printf("\n    %s: logits differ by %.2g at most ", directory, worst);
    CU_ASSERT(worst <= 1e-4);
    tr__forward_release(&forward);
    tr__loaded_model_release(&model);
    tr_free(logits);
    tr_free(wanted);
    tr_free(tokens);
    tr_free(targets);
}

static void logits_agree_with_transformers(void)
{
    for (int i = 0; i < N_CASES; i++) logits_agree_with_transformers_for(cases[i]);
}

static double relative_difference(const float *got, const float *wanted, int64_t count)
{
    double difference = 0.0, norm = 0.0;
    for (int64_t i = 0; i < count; i++) {
        double d = (double)got[i] - (double)wanted[i];
        difference += d * d;
        norm += (double)wanted[i] * (double)wanted[i];
    }
    return norm > 0.0 ? sqrt(difference / norm) : sqrt(difference);
}

static double first_golden_loss(const char *directory)
{
    char path[256];
    snprintf(path, sizeof path, "%s/golden.json", directory);
    json_t *json = json_load_file(path, 0, NULL);
    double loss = json_real_value(json_array_get(json_object_get(json, "loss"), 0));
    json_decref(json);
    return loss;
}

static void loss_and_gradients_agree_with_transformers(void)
{
    for (int c = 0; c < N_CASES; c++) {
        model_run run;
        run_open(&run, cases[c], 4, GOLDEN_T, 1);
        double loss = golden_step(&run, cases[c]), worst = 0.0;
        CU_ASSERT_DOUBLE_EQUAL(loss, first_golden_loss(cases[c]), 1e-4);
        for (size_t i = 0; i < run.model.parameters.count; i++) {
            char name[160];
            int64_t count;
            snprintf(name, sizeof name, "grad.%s", run.model.parameters.items[i].name);
            float *wanted = golden_tensor(cases[c], name, &count), *got = run_gradient(&run, (int32_t)i);
            double difference = relative_difference(got, wanted, count);
            if (difference > 1e-4) fprintf(stderr, "%s: %s differs by %g\n", cases[c], name, difference);
            worst = fmax(worst, difference);
            tr_free(wanted);
            tr_free(got);
        }
        printf("\n    %s: loss %.9f (%.9f), gradients differ by %.2g at most ", cases[c], loss,
               first_golden_loss(cases[c]), worst);
        CU_ASSERT(worst <= 1e-4);
        run_close(&run);
    }
}

/* Every value is rounded by 2^-9 of itself at most, some ten times a layer, and independently: over four layers and
 * back that is 2^-9 sqrt(80), 1.7%, of a gradient typically; 5% allows for layers that amplify. How a model is cut
 * changes no bit of it. */
static void bfloat16_gradients_are_near_and_no_cut_changes_them(void)
{
    static const int cuts[] = {1, 4, 2};
    const int n_cuts = CHECK_SIZE(3, 2);
    for (int c = 0; c < N_CASES; c++) {
        model_run runs[3];
        double losses[3], worst = 0.0;
        for (int k = 0; k < n_cuts; k++) {
            tr_loaded_model model;
            MUST(tr__loaded_model_open(&model, cases[c], err));
            run_open_model_as(&runs[k], &model, 4, GOLDEN_T, cuts[k], TR_BF16);
            losses[k] = golden_step(&runs[k], cases[c]);
            CU_ASSERT(losses[k] == losses[0]);
        }
        CU_ASSERT_DOUBLE_EQUAL(losses[0], first_golden_loss(cases[c]), 0.01 * first_golden_loss(cases[c]));
        CU_ASSERT(losses[0] != first_golden_loss(cases[c]));
        for (size_t i = 0; i < runs[0].model.parameters.count; i++) {
            char name[160];
            int64_t count;
            snprintf(name, sizeof name, "grad.%s", runs[0].model.parameters.items[i].name);
            float *wanted = golden_tensor(cases[c], name, &count), *got = run_gradient(&runs[0], (int32_t)i);
            worst = fmax(worst, relative_difference(got, wanted, count));
            for (int k = 1; k < n_cuts; k++) {
                float *cut = run_gradient(&runs[k], (int32_t)i);
                CU_ASSERT(memcmp(cut, got, (size_t)count * sizeof *got) == 0);
                tr_free(cut);
            }
            tr_free(wanted);
            tr_free(got);
        }
        printf("\n    %s: loss %.6f (%.6f), gradients differ by %.2g at most ", cases[c], losses[0],
               first_golden_loss(cases[c]), worst);
        CU_ASSERT(worst <= 0.05);
        for (int k = 0; k < n_cuts; k++) run_close(&runs[k]);
    }
}

static void step_along(model_run *run, float **directions, float by)
{
    for (size_t i = 0; i < run->model.parameters.count; i++) {
        int64_t n = tr_shape_elements(&run->model.parameters.items[i].shape);
        for (int64_t e = 0; e < n; e++) run->model.weights[i][e] += by * directions[i][e];
    }
}

/* Along the gradient g of all weights the loss changes by h |g|^2.
 * With h |g|^2 = 0.005 of a loss near 6, float32's rounding is some 1e-4 of the change and the curvature,
 * which central differences halve away, less than 1%. */
static void gradients_of_other_options_agree_with_differences(void)
{
    for (int c = 0; c < N_VARIANTS; c++) {
        tr_loaded_model model;
        model_run run;
        float *directions[64];
        double squares = 0.0;
        fresh_model(&model, variants[c]);
        run_open_model(&run, &model, 4, GOLDEN_T, 1);
        size_t count = run.model.parameters.count;
        CU_ASSERT_FATAL(count <= 64);
        golden_step(&run, cases[0]);
        for (size_t i = 0; i < count; i++) {
            double own = 0.0;
            directions[i] = run_gradient(&run, (int32_t)i);
            for (int64_t e = tr_shape_elements(&run.model.parameters.items[i].shape); e-- > 0;)
                own += (double)directions[i][e] * (double)directions[i][e];
            CU_ASSERT(own > 0.0);
            squares += own;
        }
        float h = (float)(0.005 / squares);
        step_along(&run, directions, h);
        double up = golden_step(&run, cases[0]);
        step_along(&run, directions, -2.0f * h);
        double down = golden_step(&run, cases[0]);
        printf("\n    variant %d: the loss changes by %.6f for 0.01 ", c, up - down);
        CU_ASSERT_DOUBLE_EQUAL(up - down, 0.01, 0.0002);
        for (size_t i = 0; i < count; i++) tr_free(directions[i]);
        run_close(&run);
    }
}

static const tr_model_parameter *find(const tr_model_parameters *list, const char *name)
{
    for (size_t i = 0; i < list->count; i++)
        if (strcmp(list->items[i].name, name) == 0) return &list->items[i];
    return NULL;
}

static void parameters_begin_as_the_families_do(void)
{
    tr_model_config config;
    tr_model_parameters list;
    MUST(tr_model_config_preset(&config, "gpt2-124m", err));
    MUST(tr_model_parameters_list(&list, &config, err));
    CU_ASSERT_EQUAL(list.count, 4 + 12 * 12);
    CU_ASSERT_PTR_NULL(find(&list, "lm_head.weight"));
    const tr_model_parameter *p = find(&list, "transformer.h.11.attn.c_proj.weight");
    CU_ASSERT_PTR_NOT_NULL_FATAL(p);
    CU_ASSERT_DOUBLE_EQUAL(p->std, 0.02 / sqrt(24.0), 1e-9);
    CU_ASSERT(p->decays);
    p = find(&list, "transformer.wpe.weight");
    CU_ASSERT_PTR_NOT_NULL_FATAL(p);
    CU_ASSERT_DOUBLE_EQUAL(p->std, 0.02, 1e-9);
    CU_ASSERT(p->decays);
    p = find(&list, "transformer.ln_f.weight");
    CU_ASSERT_PTR_NOT_NULL_FATAL(p);
    CU_ASSERT(p->std == 0.0f && p->mean == 1.0f && !p->decays);
    p = find(&list, "transformer.h.0.mlp.c_fc.bias");
    CU_ASSERT_PTR_NOT_NULL_FATAL(p);
    CU_ASSERT(p->std == 0.0f && p->mean == 0.0f && !p->decays);
    int64_t elements = 0;
    for (size_t i = 0; i < list.count; i++) elements += tr_shape_elements(&list.items[i].shape);
    CU_ASSERT_EQUAL(elements, 124439808); /* what transformers counts for gpt2 */
    CU_ASSERT_EQUAL(elements, tr_model_config_parameter_count(&config));
    tr_model_parameters_release(&list);
    tr_model_config_release(&config);
}

static void parameters_stand_in_the_graphs_order(void)
{
    for (int c = 0; c < N_CASES; c++) {
        tr_loaded_model model;
        tr_graph *graph;
        tr_model_values values;
        tr_model_options options = {.kind = TR_MODEL_GENERATION, .batch = 1, .sequence = 2, .cache_rows = 8};
        MUST(tr__loaded_model_open(&model, cases[c], err));
        MUST(tr_model_graph(&model.config, &options, &graph, &values, err));
        size_t i = 0;
        for (tr_value v = 0; v < tr_graph_value_count(graph); v++) {
            const tr_value_info *info = tr_graph_value(graph, v);
            if (info->kind != TR_VALUE_PARAMETER) continue;
            CU_ASSERT_FATAL(i < model.parameters.count);
            CU_ASSERT_STRING_EQUAL(info->name, model.parameters.items[i].name);
            CU_ASSERT(tr_shape_equal(&info->shape, &model.parameters.items[i].shape));
            i++;
        }
        CU_ASSERT_EQUAL(i, model.parameters.count);
        CU_ASSERT_EQUAL(tr_graph_unit_count(graph), model.config.layers + 2);
        CU_ASSERT_NOT_EQUAL(tr_graph_find(graph, "cache.3.v"), TR_NO_VALUE);
        CU_ASSERT_EQUAL(tr_graph_find(graph, "cache.4.k"), TR_NO_VALUE);
        tr_graph_destroy(&graph);
        tr__loaded_model_release(&model);
    }
}

static void options_beyond_the_model_are_refused(void)
{
    static const tr_model_options bad[] = {
        {.kind = TR_MODEL_LOGITS, .batch = 1, .sequence = 65},
        {.kind = TR_MODEL_LOGITS, .batch = 0, .sequence = 8},
        {.kind = TR_MODEL_TRAINING, .batch = 1, .sequence = 0},
        {.kind = TR_MODEL_GENERATION, .batch = 2, .sequence = 1, .cache_rows = 8},
        {.kind = TR_MODEL_GENERATION, .batch = 1, .sequence = 9, .cache_rows = 8},
        {.kind = TR_MODEL_GENERATION, .batch = 1, .sequence = 1, .cache_rows = 65},
    };
    tr_model_config config;
    MUST(tr_model_config_read(&config, cases[1], err));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        tr_graph *graph;
        tr_model_values values;
        tr_error error = {0};
        CU_ASSERT_EQUAL(tr_model_graph(&config, &bad[i], &graph, &values, &error), TR_EINVAL);
        CU_ASSERT_PTR_NOT_NULL(
            strstr(error.message, bad[i].kind == TR_MODEL_GENERATION ? "cache rows" : "64"));
    }
    tr_model_config_release(&config);
}

/* Every single allocation fails once, and nothing is lost or half made (the sanitizers watch). */
static void lack_of_memory_is_an_error(void)
{
    tr_model_config config;
    MUST(tr_model_config_read(&config, cases[1], err));
    tr_status status = TR_ENOMEM;
    for (uint64_t n = 1; status != TR_OK; n += CHECK_SIZE(n < 100 ? 1 : 7, 61)) {
        tr_model_parameters list;
        tr_error error = {0};
        tr_memory_fail_after(n);
        status = tr_model_parameters_list(&list, &config, &error);
        tr_memory_fail_after(0);
        CU_ASSERT(status == TR_OK || status == TR_ENOMEM);
        if (status == TR_OK) tr_model_parameters_release(&list);
    }
    tr_model_config_release(&config);
}

static const check_test tests[] = {
    CHECK_TEST(logits_agree_with_transformers),
    CHECK_TEST(loss_and_gradients_agree_with_transformers),
    CHECK_TEST(bfloat16_gradients_are_near_and_no_cut_changes_them),
    CHECK_TEST(gradients_of_other_options_agree_with_differences),
    CHECK_TEST(parameters_begin_as_the_families_do),
    CHECK_TEST(parameters_stand_in_the_graphs_order),
    CHECK_TEST(options_beyond_the_model_are_refused),
    CHECK_TEST(lack_of_memory_is_an_error),
};

CHECK_MAIN("pipelines/model", tests)
