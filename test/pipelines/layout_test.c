/* test/pipelines/layout_test.c - where a job runs changes nothing it computes: every layout, in one process and in
 * several, over each transport, gives the losses and the bytes of one replica with one stage.
 * With dropout too, and when a run goes on in the middle.
 * Each layout runs over each transport; threads alternate, and differently for the two models.
 * SPDX-License-Identifier: Apache-2.0 */
#include "command.h"
#include "pipelines/safetensors.h"

enum { STEPS = 4, ROWS = 40, SEQUENCE = 24, VOCABULARY = 131 };

typedef struct layout {
    int data, pipeline, pieces;
} layout;
static const layout layouts[] = {{1, 1, 1}, {2, 1, 1}, {4, 1, 1}, {1, 2, 1}, {1, 4, 1},
                                 {2, 2, 1}, {3, 1, 1}, {1, 2, 2}, {2, 2, 2}};
static const char *const transports[] = {"inproc", "ucx", "zmq"};
enum { N_LAYOUTS = sizeof layouts / sizeof *layouts, N_TRANSPORTS = sizeof transports / sizeof *transports };

static const char *const rest =
    "train: {steps: 4, sequence: 24, microbatch: 2, accumulate: 4, groups: 4, seed: 7}\n"
    "lr: {peak: 1e-2, warmup: 2}\n"
    "optimizer: {clip_norm: 0.5}\n"
    "validate: {every: 2, windows: 5}\n"
    "checkpoint: {every: 2, keep: 2}\n";

/* Trains into DIRECTORY/NAME, which is returned. */
static char *train(const char *directory, const char *recipe, const layout *at, const char *transport,
                   int threads)
{
    bool processes = strcmp(transport, "inproc") != 0;
    char *run =
        tr_format("%s/%dx%dx%d-%s-%d", directory, at->data, at->pipeline, at->pieces, transport, threads);
    char *run_key = tr_format("run=%s", run), *data_key = tr_format("layout.data=%d", at->data),
         *pipeline_key = tr_format("layout.pipeline=%d", at->pipeline),
         *pieces_key = tr_format("layout.pieces=%d", at->pieces),
         *threads_key = tr_format("layout.threads=%d", threads),
         *transport_key = tr_format("transport=%s", transport);
    const char *arguments[] = {
        "train",     recipe,        run_key,
        data_key,    pipeline_key,  pieces_key,
        threads_key, transport_key, processes ? "layout.processes=true" : "layout.processes=false",
        NULL};
    bool good = command_succeeds(arguments);
    if (!good) fprintf(stderr, "\n%s failed\n", run);
    CU_ASSERT(good);
    tr_free(run_key);
    tr_free(data_key);
    tr_free(pipeline_key);
    tr_free(pieces_key);
    tr_free(threads_key);
    tr_free(transport_key);
    return run;
}

static void compare(const char *reference, const char *run)
{
    static const char *const files[] = {"model.safetensors", "trainer/optimizer.safetensors",
                                        "trainer/state.json", "config.json"};
    json_t *expected = log_of(reference), *log = log_of(run);
    bool same = log_is_complete(log, STEPS) && logs_agree(expected, log);
    for (int step = 2; step <= STEPS; step += 2)
        for (size_t f = 0; f < sizeof files / sizeof *files; f++)
            same &= checkpoints_agree(reference, run, step, files[f]);
    if (!same) fprintf(stderr, "\n%s is not what %s is\n", run, reference);
    CU_ASSERT(same);
    json_decref(expected);
    json_decref(log);
}

/* So that equal logs mean something: training happened, and what should be told was told. */
static void check_reference(const char *run)
{
    json_t *log = log_of(run);
    CU_ASSERT(log_is_complete(log, STEPS));
    const json_t *first = json_array_get(log, 0), *last = json_array_get(log, STEPS - 1);
    CU_ASSERT(json_number_value(json_object_get(last, "loss")) <
              json_number_value(json_object_get(first, "loss")));
    CU_ASSERT(json_object_get(first, "validation_loss") == NULL);
    CU_ASSERT(json_is_real(json_object_get(json_array_get(log, 1), "validation_loss")));
    CU_ASSERT(json_is_real(json_object_get(last, "validation_loss")));
    CU_ASSERT(json_is_string(json_object_get(last, "loss_hex")));
    json_decref(log);
}

/* Every layout over every transport, with one thread and with two. */
static void all_layouts_agree(const char *directory, const char *recipe)
{
    char *reference = train(directory, recipe, &layouts[0], "inproc", 1);
    check_reference(reference);
    for (int i = 0; i < N_LAYOUTS; i++) {
        for (int k = 0; k < 2 * N_TRANSPORTS; k++) {
            int t = k / 2, threads = 1 + k % 2;
            if (i == 0 && k == 0) continue; /* the reference itself */
            char *run = train(directory, recipe, &layouts[i], transports[t], threads);
            compare(reference, run);
            tr_directory_remove_tree(run, NULL);
            tr_free(run);
        }
    }
    tr_free(reference);
}

/* Goes on, as another layout, from the checkpoint in the middle: the last one is taken away. */
static void resume_in_the_middle(const char *run, const char *recipe)
{
    char *last = tr_format("%s/checkpoints/step-%d", run, STEPS), *run_key = tr_format("run=%s", run);
    const char *arguments[] = {"train",
                               recipe,
                               "--resume",
                               run_key,
                               "layout.data=1",
                               "layout.pipeline=4",
                               "layout.threads=3",
                               "layout.processes=false",
                               NULL};
    CU_ASSERT_EQUAL(tr_directory_remove_tree(last, NULL), TR_OK);
    CU_ASSERT(command_succeeds(arguments));
    tr_free(run_key);
    tr_free(last);
}

/* bfloat16 goes through other kernels, other edges and a copy of the weights. The layouts that differ in these, with
 * one thread and with two, over the transports in turn. */
static void bfloat16_layouts_agree(const char *directory, const char *recipe)
{
    static const layout few[] = {{1, 1, 1}, {2, 1, 1}, {1, 2, 1}, {2, 2, 1}};
    char *reference = train(directory, recipe, &few[0], "inproc", 1);
    check_reference(reference);
    for (int k = 1; k < 8; k++) {
        char *run = train(directory, recipe, &few[k / 2], transports[k % N_TRANSPORTS], 1 + k % 2);
        compare(reference, run);
        tr_directory_remove_tree(run, NULL);
        tr_free(run);
    }
    char *run = train(directory, recipe, &few[3], "inproc", 1);
    resume_in_the_middle(run, recipe);
    compare(reference, run);
    tr_free(run);
    tr_free(reference);
}

/* `agree` on a tied llama that reads text; `first`: the recipe's first line. */
static void on_text(const char *first, void (*agree)(const char *directory, const char *recipe))
{
    char *directory = enter_directory(), *text = path_in(directory, "words.txt"),
         *recipe = path_in(directory, "recipe.yaml");
    write_words(text, 4000);
    char *yaml =
        tr_format("%srun: unused\n"
                  "model: {family: llama, layers: 4, width: 32, heads: 4, kv_heads: 2, vocabulary: 256, "
                  "tie: true}\n"
                  "data: {text: %s, holdout: 0.1}\n%s",
                  first, text, rest);
    write_text(recipe, yaml);
    agree(directory, recipe);
    tr_free(yaml);
    tr_free(recipe);
    tr_free(text);
    leave_directory(directory);
}

static void layouts_of_a_tied_llama_agree_on_text(void)
{
    on_text("", all_layouts_agree);
}

static void layouts_of_a_tied_llama_agree_in_bfloat16(void)
{
    on_text("dtype: bfloat16\n", bfloat16_layouts_agree);
}

static void write_rows(const char *path)
{
    static int32_t ids[ROWS * (SEQUENCE + 1)];
    for (int i = 0; i < ROWS * (SEQUENCE + 1); i++) ids[i] = 5 * i % 37 + i % 2;
    tr_error err;
    tr_safetensors_writer *writer = NULL;
    tr_shape shape = {.rank = 2, .dims = {ROWS, SEQUENCE + 1}};
    CHECK_OK(tr_safetensors_writer_new(&writer, path, &err));
    CHECK_OK(tr_safetensors_writer_declare(writer, "tokens", TR_I32, &shape, &err));
    CHECK_OK(tr_safetensors_writer_begin(writer, TR_TENSORS_SORTED, &err));
    CHECK_OK(tr_safetensors_writer_put(writer, 0, 0, ids, sizeof ids, &err));
    CHECK_OK(tr_safetensors_writer_commit(&writer, &err));
}

/* `agree` on a gpt2 that reads rows of tokens; `first`: the recipe's first line. */
static void on_rows(const char *first, double dropout,
                    void (*agree)(const char *directory, const char *recipe))
{
    char *directory = enter_directory(), *tokens = path_in(directory, "rows.safetensors"),
         *recipe = path_in(directory, "recipe.yaml");
    write_rows(tokens);
    char *yaml =
        tr_format("%srun: unused\n"
                  "model: {family: gpt2, layers: 4, width: 24, heads: 2, vocabulary: %d, dropout: %g}\n"
                  "data: {tokens: %s, key: tokens, holdout: 0.2}\n%s",
                  first, VOCABULARY, dropout, tokens, rest);
    write_text(recipe, yaml);
    agree(directory, recipe);
    tr_free(yaml);
    tr_free(recipe);
    tr_free(tokens);
    leave_directory(directory);
}

static void layouts_of_a_gpt2_agree_on_rows_of_tokens(void)
{
    on_rows("", 0, all_layouts_agree);
}

static void layouts_of_a_gpt2_agree_in_bfloat16(void)
{
    on_rows("dtype: bfloat16\n", 0.1, bfloat16_layouts_agree);
}

/* Masks are functions of what no layout changes. */
static void layouts_with_dropout_agree_and_resume(void)
{
    static const layout some[] = {{2, 1, 1}, {1, 2, 1}, {2, 2, 1}, {1, 2, 2}};
    char *directory = enter_directory(), *tokens = path_in(directory, "rows.safetensors"),
         *recipe = path_in(directory, "recipe.yaml");
    write_rows(tokens);
    char *yaml =
        tr_format("run: unused\n"
                  "model: {family: gpt2, layers: 4, width: 24, heads: 2, vocabulary: %d, dropout: 0.1}\n"
                  "data: {tokens: %s, key: tokens, holdout: 0.2}\n%s",
                  VOCABULARY, tokens, rest);
    write_text(recipe, yaml);
    char *reference = train(directory, recipe, &layouts[0], "inproc", 1);
    check_reference(reference);
    for (int i = 0; i < N_TRANSPORTS; i++) {
        char *run = train(directory, recipe, &some[i], transports[i], 2);
        compare(reference, run);
        resume_in_the_middle(run, recipe);
        compare(reference, run);
        tr_free(run);
    }
    tr_free(reference);
    tr_free(yaml);
    tr_free(recipe);
    tr_free(tokens);
    leave_directory(directory);
}

static const check_test tests[] = {
    CHECK_TEST(layouts_of_a_tied_llama_agree_on_text), CHECK_TEST(layouts_of_a_gpt2_agree_on_rows_of_tokens),
    CHECK_TEST(layouts_with_dropout_agree_and_resume), CHECK_TEST(layouts_of_a_tied_llama_agree_in_bfloat16),
    CHECK_TEST(layouts_of_a_gpt2_agree_in_bfloat16),
};

CHECK_MAIN("pipelines/layout", tests)
