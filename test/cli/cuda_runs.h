/* test/cli/cuda_runs.h - short trainings by the command, on GPUs and elsewhere, and what they left.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TEST_CLI_CUDA_RUNS_H
#define TROUPE_TEST_CLI_CUDA_RUNS_H

#include "base/device.h"
#include "command.h"

enum { STEPS = 30 };

static char *directory; /* of all runs */

typedef struct kind {
    const char *name, *model, *dtype;
    int microbatches; /* of a step, each a group; 0: 4 */
} kind;

static const kind llama = {
    "llama", "{family: llama, layers: 4, width: 64, heads: 4, kv_heads: 2, vocabulary: 256, tie: true}",
    "float32", 0};
static const kind gpt2 = {"gpt2", "{family: gpt2, layers: 4, width: 64, heads: 4, vocabulary: 256}",
                          "float32", 0};
static const kind rounded = {
    "rounded", "{family: llama, layers: 4, width: 64, heads: 4, kv_heads: 2, vocabulary: 256, tie: true}",
    "bfloat16", 0};

static inline char *recipe_of(const kind *what)
{
    char *text = path_in(directory, "words.txt"), *path = tr_format("%s/%s.yaml", directory, what->name);
    int n = what->microbatches ? what->microbatches : 4;
    char *yaml =
        tr_format("run: unused\nmodel: %s\ndata: {text: %s, holdout: 0.1}\ndtype: %s\n"
                  "train: {steps: %d, sequence: 32, microbatch: 2, accumulate: %d, groups: %d, seed: 7}\n"
                  "lr: {peak: 3e-3, warmup: 2}\noptimizer: {clip_norm: 0.5}\n"
                  "validate: {every: 6, windows: 5}\ncheckpoint: {every: 6, keep: 0}\n",
                  what->model, text, what->dtype, STEPS, n, n);
    write_text(path, yaml);
    tr_free(yaml);
    tr_free(text);
    return path;
}

/* Trains `what` into DIRECTORY/NAME, which is returned, with up to four more arguments. */
static inline char *train(const kind *what, const char *name, const char *const more[4])
{
    char *recipe = recipe_of(what), *run = tr_format("%s/%s-%s", directory, what->name, name),
         *run_key = tr_format("run=%s", run);
    const char *arguments[16] = {"train", recipe, run_key};
    for (int i = 0; i < 4 && more[i]; i++) arguments[3 + i] = more[i];
    bool good = command_succeeds(arguments);
    if (!good) fprintf(stderr, "\n%s failed\n", run);
    CU_ASSERT(good);
    tr_free(run_key);
    tr_free(recipe);
    return run;
}

static inline bool same_run(const char *reference, const char *run)
{
    static const char *const files[] = {"model.safetensors", "trainer/optimizer.safetensors"};
    json_t *left = log_of(reference), *right = log_of(run);
    bool same = log_is_complete(right, STEPS) && logs_agree(left, right);
    for (int step = 6; step <= STEPS; step += 6)
        for (size_t f = 0; f < 2; f++) same &= checkpoints_agree(reference, run, step, files[f]);
    json_decref(left);
    json_decref(right);
    if (!same) fprintf(stderr, "\n%s is not what %s is\n", run, reference);
    return same;
}

/* A run that has ended goes on from its checkpoint of step 12, with these keys as well, and is then as `whole`. */
static inline void resume_from_step_12(const kind *what, const char *whole, const char *run, const char *more)
{
    char *recipe = recipe_of(what), *run_key = tr_format("run=%s", run);
    for (int step = 18; step <= STEPS; step += 6) {
        char *last = tr_format("%s/checkpoints/step-%d", run, step);
        CU_ASSERT_EQUAL(tr_directory_remove_tree(last, NULL), TR_OK);
        tr_free(last);
    }
    CU_ASSERT(command_succeeds(
        (const char *const[]){"train", recipe, "--resume", run_key, "device=cuda", more, NULL}));
    CU_ASSERT(same_run(whole, run));
    tr_free(run_key);
    tr_free(recipe);
}

/* Enters a directory with words to train on. 0: there are GPUs, so many at least; else what a test that cannot run ends with. */
static inline int enter_with_gpus(int32_t least, size_t n_words)
{
    int32_t n = 0;
    tr_error err = {0};
    if (tr_device_count(TR_DEVICE_CUDA, &n, &err) != TR_OK) {
        printf("not run: %s\n", err.message);
        return err.status == TR_EUNSUPPORTED || err.status == TR_ENOTFOUND ? 77 : 1; /* CTest: skipped */
    }
    if (n < least) {
        printf("not run: it needs %d GPUs, and here are %d\n", least, n);
        return 77;
    }
    unsetenv("TROUPE_TEST_DEVICE"); /* runs here say theirs */
    directory = enter_directory();
    char *text = path_in(directory, "words.txt");
    write_words(text, n_words);
    tr_free(text);
    return 0;
}

#endif
