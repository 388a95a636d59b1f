/* test/pipelines/weights_test.c - fresh weights are what the list says, and a directory is read as it is or
 * refused.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/weights.h"

#include "base/file.h"
#include "check.h"
#include "pipelines/safetensors.h"

#include "model_runs.h"

#include <math.h>
#include <unistd.h>

static const char gpt2[] = "test/golden/gpt2";

static void fresh_weights_depend_on_seed_and_name_alone(void)
{
    tr_model_parameter a = {.name = "a", .shape = TR_SHAPE2(5, 7), .std = 0.5f}, b = a;
    float x[35], y[35];
    b.name = "b";
    tr_weights_initialize(&a, 1, x);
    tr_weights_initialize(&a, 1, y);
    CU_ASSERT(memcmp(x, y, sizeof x) == 0);
    tr_weights_initialize(&a, 2, y);
    CU_ASSERT(memcmp(x, y, sizeof x) != 0);
    tr_weights_initialize(&b, 1, y);
    CU_ASSERT(memcmp(x, y, sizeof x) != 0);
}

static void fresh_weights_are_the_same_in_pieces(void)
{
    tr_model_parameter p = {.name = "a", .shape = TR_SHAPE2(5, 7), .mean = 2.0f, .std = 0.5f};
    float whole[35], pieces[35];
    for (int k = 0; k < 2; k++) {
        tr_weights_initialize(&p, 1, whole);
        tr_weights_initialize_range(&p, 1, 0, 7, pieces);
        tr_weights_initialize_range(&p, 1, 7, 1, pieces + 7);
        tr_weights_initialize_range(&p, 1, 8, 27, pieces + 8);
        CU_ASSERT(memcmp(whole, pieces, sizeof whole) == 0);
        p.std = 0.0f;
    }
}

/* Of n = 10000 numbers the mean is within 5 sigma / sqrt(n) and the deviation
 * within 5 / sqrt(2 n) of itself. */
static void fresh_weights_have_their_mean_and_deviation(void)
{
    enum { N = 10000 };
    tr_model_parameter p = {.name = "w", .shape = TR_SHAPE2(100, 100), .mean = 1.0f, .std = 0.02f};
    float *x = tr_alloc(N * sizeof *x);
    double sum = 0.0, squares = 0.0;
    tr_weights_initialize(&p, 3, x);
    for (int i = 0; i < N; i++) sum += (double)x[i];
    for (int i = 0; i < N; i++) squares += pow((double)x[i] - sum / N, 2.0);
    CU_ASSERT_DOUBLE_EQUAL(sum / N, 1.0, 5 * 0.02 / 100);
    CU_ASSERT_DOUBLE_EQUAL(sqrt(squares / N), 0.02, 0.02 * 5 / sqrt(2.0 * N));
    p.std = 0.0f;
    tr_weights_initialize(&p, 3, x);
    for (int i = 0; i < N; i++) CU_ASSERT_FATAL(x[i] == 1.0f);
    tr_free(x);
}

static void directory_is_read_bit_for_bit(void)
{
    static const char *const cases[] = {"test/golden/gpt2", "test/golden/llama"};
    for (int c = 0; c < 2; c++) {
        tr_loaded_model model;
        tr_safetensors *file;
        MUST(tr__loaded_model_open(&model, cases[c], err));
        MUST(tr_safetensors_open_model(&file, cases[c], err));
        CU_ASSERT_EQUAL(tr_safetensors_count(file), model.parameters.count);
        for (size_t i = 0; i < model.parameters.count; i++) {
            const tr_tensor_info *tensor = tr_safetensors_find(file, model.parameters.items[i].name);
            CU_ASSERT_PTR_NOT_NULL_FATAL(tensor);
            CU_ASSERT(memcmp(tensor->data, model.weights[i], tensor->size_bytes) == 0);
        }
        tr_safetensors_close(&file);
        tr__loaded_model_release(&model);
    }
}

/* What is done to the golden gpt2 file before it is written again. */
typedef struct change {
    size_t skip_prefix;   /* characters taken off every name */
    const char *without;  /* a tensor that is left out */
    const char *reshaped; /* a tensor that gets another shape, (1,n) */
    const char *extra[3]; /* tensors (48) added */
} change;

static void write_changed(const char *directory, const change *how)
{
    static const float ones[48] = {1, 1, 1};
    char path[300];
    tr_safetensors *from;
    tr_safetensors_writer *to;
    snprintf(path, sizeof path, "%s/model.safetensors", directory);
    MUST(tr_safetensors_open_model(&from, gpt2, err));
    MUST(tr_safetensors_writer_new(&to, path, err));
    for (int pass = 0; pass < 2; pass++) {
        size_t n = 0;
        for (size_t i = 0; i < tr_safetensors_count(from); i++) {
            const tr_tensor_info *tensor = tr_safetensors_at(from, i);
            if (how->without && strcmp(tensor->name, how->without) == 0) continue;
            tr_shape shape = tensor->shape;
            if (how->reshaped && strcmp(tensor->name, how->reshaped) == 0)
                shape = TR_SHAPE2(1, tr_shape_elements(&shape));
            if (pass == 0)
                MUST(tr_safetensors_writer_declare(to, tensor->name + how->skip_prefix, TR_F32, &shape, err));
            else
                MUST(tr_safetensors_writer_put(to, n++, 0, tensor->data, tensor->size_bytes, err));
        }
        for (int i = 0; i < 3 && how->extra[i]; i++) {
            tr_shape shape = TR_SHAPE1(48);
            if (pass == 0)
                MUST(tr_safetensors_writer_declare(to, how->extra[i], TR_F32, &shape, err));
            else
                MUST(tr_safetensors_writer_put(to, n++, 0, ones, sizeof ones, err));
        }
        if (pass == 0) MUST(tr_safetensors_writer_begin(to, TR_TENSORS_SORTED, err));
    }
    MUST(tr_safetensors_writer_commit(&to, err));
    tr_safetensors_close(&from);
}

/* Opens the changed directory as the golden gpt2. With TR_OK, checks the bytes of all parameters as well. */
static tr_status open_changed(const change *how, tr_error *error, char source_name[128])
{
    char directory[] = "/tmp/troupe-weights-XXXXXX";
    tr_loaded_model model;
    tr_weights *weights = NULL;
    TR_ASSERT(mkdtemp(directory));
    write_changed(directory, how);
    MUST(tr__loaded_model_open(&model, gpt2, err));
    tr_status status = tr_weights_open(&weights, directory, &model.config, &model.parameters, error);
    for (size_t i = 0; status == TR_OK && i < model.parameters.count; i++) {
        int64_t n = tr_shape_elements(&model.parameters.items[i].shape);
        float *x = tr_alloc((size_t)n * sizeof *x);
        MUST(tr_weights_read(weights, i, x, err));
        CU_ASSERT(memcmp(x, model.weights[i], (size_t)n * sizeof *x) == 0);
        tr_free(x);
    }
    if (status == TR_OK) snprintf(source_name, 128, "%s", tr_weights_source_name(weights, 0));
    tr_weights_close(&weights);
    tr__loaded_model_release(&model);
    MUST(tr_directory_remove_tree(directory, err));
    return status;
}

static void missing_prefix_is_accepted_and_kept_as_source_name(void)
{
    tr_error error = {0};
    char name[128] = "";
    CU_ASSERT_EQUAL(open_changed(&(change){.skip_prefix = strlen("transformer.")}, &error, name), TR_OK);
    CU_ASSERT_STRING_EQUAL(name, "wte.weight");
    CU_ASSERT_EQUAL(open_changed(&(change){0}, &error, name), TR_OK);
    CU_ASSERT_STRING_EQUAL(name, "transformer.wte.weight");
}

static void harmless_tensors_are_ignored(void)
{
    tr_error error = {0};
    char name[128];
    change how = {.extra = {"transformer.h.0.attn.bias", "h.3.attn.masked_bias", "lm_head.weight"}};
    CU_ASSERT_EQUAL(open_changed(&how, &error, name), TR_OK);
}

static void refused(change how, tr_status status, const char *words[4])
{
    tr_error error = {0};
    char name[128];
    CU_ASSERT_EQUAL(open_changed(&how, &error, name), status);
    for (int i = 0; i < 4 && words[i]; i++) {
        if (!strstr(error.message, words[i])) fprintf(stderr, "'%s' lacks '%s'\n", error.message, words[i]);
        CU_ASSERT_PTR_NOT_NULL(strstr(error.message, words[i]));
    }
}

static void what_does_not_fit_is_refused_by_name(void)
{
    static const char name[] = "transformer.h.2.mlp.c_fc.weight";
    refused((change){.without = name}, TR_ENOTFOUND, (const char *[4]){name, "(48, 192)"});
    refused((change){.reshaped = name}, TR_EINVAL,
            (const char *[4]){"model.safetensors", name, "(48, 192)", "(1, 9216)"});
    refused((change){.extra = {"transformer.h.4.ln_1.bias"}}, TR_EINVAL,
            (const char *[4]){"model.safetensors", "transformer.h.4.ln_1.bias"});
    refused((change){.extra = {"ln_f.bias"}}, TR_EINVAL,
            (const char *[4]){"'ln_f.bias'", "transformer.ln_f.bias"});
}

static const check_test tests[] = {
    CHECK_TEST(fresh_weights_depend_on_seed_and_name_alone),
    CHECK_TEST(fresh_weights_are_the_same_in_pieces),
    CHECK_TEST(fresh_weights_have_their_mean_and_deviation),
    CHECK_TEST(directory_is_read_bit_for_bit),
    CHECK_TEST(missing_prefix_is_accepted_and_kept_as_source_name),
    CHECK_TEST(harmless_tensors_are_ignored),
    CHECK_TEST(what_does_not_fit_is_refused_by_name),
};

CHECK_MAIN("pipelines/weights", tests)
