/* test/cli/device_test.c - which device a recipe asks for, where there is no GPU: by name it is refused before anything is
 * created, `auto` is the CPU and says why. What runs on a GPU is in cli/cuda_train_test.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/device.h"
#include "command.h"

static char *directory, *recipe;
static tr_error none; /* why there is no GPU; status TR_OK: there is one */

static void write_recipe(void)
{
    char *text = path_in(directory, "words.txt");
    recipe = path_in(directory, "recipe.yaml");
    write_words(text, 2000);
    char *yaml = tr_format("run: unused\nmodel: {layers: 2, width: 16, heads: 2}\ndata: {text: %s}\n"
                           "train: {steps: 3, sequence: 8, microbatch: 2}\nlr: {peak: 1e-3}\n",
                           text);
    write_text(recipe, yaml);
    tr_free(yaml);
    tr_free(text);
}

/* `key` asks for a GPU, one way or another. */
static void expect_refusal(const char *command_name, const char *key)
{
    char *run = path_in(directory, "refused"), *run_key = tr_format("run=%s", run),
         *words = tr_format("troupe: device: %s\n", none.message);
    command_run command;
    command_start(&command, (const char *const[]){command_name, recipe, run_key, key, NULL});
    command_wait(&command, COMMAND_SECONDS);
    CU_ASSERT(command_ended(&command, 2));
    CU_ASSERT_STRING_EQUAL(command.err_text, words); /* one line, and nothing else */
    CU_ASSERT(!tr_path_exists(run));
    command_release(&command);
    tr_free(words);
    tr_free(run_key);
    tr_free(run);
}

static void a_gpu_that_is_not_there_is_refused_before_anything_is_created(void)
{
    if (none.status == TR_OK) return;
    expect_refusal("train", "device=cuda");
    expect_refusal("train", "layout.stages=[1, {layers: 1, device: cuda}]");
    expect_refusal("plan", "device=cuda");
#ifndef TROUPE_CUDA
    CU_ASSERT(text_has(none.message, "this build has no CUDA; build the preset 'cuda' where nvcc is"));
#endif
}

static void auto_is_the_cpu_where_there_is_no_gpu_and_says_why(void)
{
    if (none.status == TR_OK) return;
    char *named = path_in(directory, "named"), *chosen = path_in(directory, "chosen"),
         *named_key = tr_format("run=%s", named), *chosen_key = tr_format("run=%s", chosen);
    CU_ASSERT(command_succeeds((const char *const[]){"train", recipe, named_key, "device=cpu", NULL}));
    command_run command;
    command_start(&command, (const char *const[]){"train", recipe, chosen_key, "device=auto", NULL});
    command_wait(&command, COMMAND_SECONDS);
    CU_ASSERT(command_ended(&command, 0));
    CU_ASSERT(text_has(command.out_text, "device: auto is cpu: ") &&
              text_has(command.out_text, none.message));
    json_t *left = log_of(named), *right = log_of(chosen), *events = events_of(chosen), *event;
    CU_ASSERT(log_is_complete(right, 3) && logs_agree(left, right));
    size_t i, n = 0;
    json_array_foreach(events, i, event)
    {
        if (strcmp(json_string_value(json_object_get(event, "event")), "device") != 0) continue;
        n += strstr(json_string_value(json_object_get(event, "text")), "auto is cpu") != NULL;
    }
    CU_ASSERT_EQUAL(n, 1);
    json_decref(left);
    json_decref(right);
    json_decref(events);
    command_release(&command);
    tr_free(chosen_key);
    tr_free(named_key);
    tr_free(chosen);
    tr_free(named);
}

static void the_plan_names_the_device_of_each_stage(void)
{
    command_run command;
    command_start(&command, (const char *const[]){"plan", recipe, "layout.pipeline=2", NULL});
    command_wait(&command, COMMAND_SECONDS);
    CU_ASSERT(command_ended(&command, 0));
    CU_ASSERT(text_has(command.out_text, "worker 1  cpu ") && text_has(command.out_text, "worker 2  cpu "));
    CU_ASSERT(!strstr(command.out_text, "on GPU")); /* nobody asked for one */
    command_release(&command);
}

int main(void)
{
    int32_t n_gpus = 0;
    unsetenv("TROUPE_TEST_DEVICE"); /* runs here say theirs */
    if (tr_device_count(TR_DEVICE_CUDA, &n_gpus, &none) == TR_OK) none.status = TR_OK;
    directory = enter_directory();
    write_recipe();
    static const check_test tests[] = {
        CHECK_TEST(a_gpu_that_is_not_there_is_refused_before_anything_is_created),
        CHECK_TEST(auto_is_the_cpu_where_there_is_no_gpu_and_says_why),
        CHECK_TEST(the_plan_names_the_device_of_each_stage),
    };
    int result = check_run("cli/device", tests, sizeof tests / sizeof *tests);
    tr_free(recipe);
    leave_directory(directory);
    return result;
}
