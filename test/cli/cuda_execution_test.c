/* test/cli/cuda_execution_test.c - how stages execute on a GPU changes no bit: phases as CUDA graphs, what is computed again in
 * the backward; algorithms of products that were measured stay what they are, after deaths, in resumed runs and for who takes
 * their file. And `troupe plan` foretells what a stage takes of the GPU's memory.
 * Skipped (exit 77) where there is no GPU.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/library.h"
#include "cuda_runs.h"

#include <math.h>
#include <stdlib.h>

/* Widths that all fused kernels take. */
static const kind wide = {"wide", "{family: gpt2, layers: 4, width: 256, heads: 4, vocabulary: 256}",
                          "bfloat16", 0};

static void expect_bits_of(const char *reference, const kind *what, const char *name,
                           const char *const more[4])
{
    char *run = train(what, name, more);
    CU_ASSERT(same_run(reference, run));
    tr_free(run);
}

static void graphs_change_no_bit(void)
{
    const kind *kinds[] = {&llama, &wide};
    for (int k = 0; k < 2; k++) {
        char *plain = train(kinds[k], "plain", (const char *const[4]){"device=cuda"});
        expect_bits_of(plain, kinds[k], "graphs",
                       (const char *const[4]){"device=cuda", "layout.cuda_graphs=true"});
        expect_bits_of(plain, kinds[k], "graphs-2x2",
                       (const char *const[4]){"device=cuda",
                                              "layout={data: 2, pipeline: 2, cuda_graphs: true}",
                                              "chaos.at=1/stage 0 of replica 1/weight/17/KILL"});
        tr_free(plain);
    }
}

static void what_is_computed_again_changes_no_bit(void)
{
    const kind *kinds[] = {&rounded, &wide};
    static const char *const ways[] = {"layout.recompute=selective", "layout.recompute=full"};
    for (int k = 0; k < 2; k++) {
        char *plain = k == 1 ? path_in(directory, "wide-plain")
                             : train(kinds[k], "plain", (const char *const[4]){"device=cuda"});
        for (int w = 0; w < 2; w++)
            expect_bits_of(plain, kinds[k], w ? "full" : "selective",
                           (const char *const[4]){"device=cuda", ways[w], "layout.cuda_graphs=true"});
        tr_free(plain);
    }
}

/* --- products --- */

static char *products_of(const char *run)
{
    char *path = tr_format("%s/products.txt", run), *text = NULL;
    size_t size;
    tr_error err = {0};
    if (tr_file_read(path, &text, &size, &err) != TR_OK) fprintf(stderr, "%s\n", err.message);
    CU_ASSERT_FATAL(text != NULL);
    tr_free(path);
    return text;
}

/* A new run into whose directory these choices were put. */
static char *train_with(const char *text, const char *name, const char *const more[2])
{
    char *run = tr_format("%s/wide-%s", directory, name), *path = tr_format("%s/products.txt", run);
    tr_error err = {0};
    CU_ASSERT_EQUAL(tr_directory_make(run, &err), TR_OK);
    write_text(path, text);
    tr_free(run);
    tr_free(path);
    run = train(&wide, name, (const char *const[4]){"--resume", "train.products=measured", more[0], more[1]});
    return run;
}

static void measured_products_stay_what_they_are(void)
{
    char *run = train(&wide, "measured", (const char *const[4]){"device=cuda", "train.products=measured"});
    char *text = products_of(run), *after;
    CU_ASSERT(strncmp(text, "products ", 9) == 0 && strstr(text, "driver-") && strstr(text, "\nbfloat16:"));
    CU_ASSERT(has_event(run, "products", "stage 0 of replica 0 measured algorithms of "));
    CU_ASSERT_EQUAL(count_events(run, "products"), 1);
    char *dies = train_with(
        text, "given",
        (const char *const[2]){"device=cuda", "chaos.at='1/stage 0 of replica 0/forward/15/KILL'"});
    CU_ASSERT(same_run(run, dies));
    CU_ASSERT_EQUAL(count_events(dies, "recovered"), 1);
    CU_ASSERT_EQUAL(count_events(dies, "products"), 0); /* nothing was left to measure */
    char *layout =
        train_with(text, "given-2x2",
                   (const char *const[2]){"device=cuda", "layout={data: 2, pipeline: 2, cuda_graphs: true}"});
    CU_ASSERT(same_run(run, layout));
    CU_ASSERT_EQUAL(count_events(layout, "products"), 0);
    after = products_of(layout);
    CU_ASSERT_STRING_EQUAL(text, after);
    tr_free(after);
    tr_free(layout);
    tr_free(dies);
    tr_free(text);
    tr_free(run);
}

/* All replicas wait for the one that measures; a death finds what it has left. */
static void replicas_have_the_products_of_the_first(void)
{
    char *run = train(&wide, "replicas",
                      (const char *const[4]){"device=cuda", "train.products=measured",
                                             "layout={data: 2, pipeline: 2}",
                                             "chaos.at=1/stage 1 of replica 1/update/12/KILL"});
    char *text = products_of(run);
    CU_ASSERT_EQUAL(count_events(run, "recovered"), 1);
    int n_events = count_events(run, "products");
    CU_ASSERT(n_events >= 1 && n_events <= 2); /* at most one of each stage, in the first epoch */
    char *alone = train_with(text, "alone", (const char *const[2]){"device=cuda", NULL});
    CU_ASSERT(same_run(alone, run));
    tr_free(alone);
    tr_free(text);
    tr_free(run);
}

static void a_resumed_run_goes_on_with_them(void)
{
    char *whole = path_in(directory, "wide-measured"), *run = path_in(directory, "wide-given");
    resume_from_step_12(&wide, whole, run, "train.products=measured");
    CU_ASSERT_EQUAL(count_events(run, "products"), 0);
    tr_free(run);
    tr_free(whole);
}

static void what_is_for_another_gpu_is_not_used(void)
{
    char *measured = path_in(directory, "wide-measured"), *text = products_of(measured);
    text[strlen("products ")]++; /* another name */
    char *run = train_with(text, "other-gpu", (const char *const[2]){"device=cuda", NULL}),
         *after = products_of(run);
    CU_ASSERT(has_event(run, "products", "products.txt has algorithms for "));
    CU_ASSERT(has_event(run, "products", " measured algorithms of "));
    CU_ASSERT(strlen(after) > strlen(text) &&
              strncmp(after, text, strlen(text)) == 0); /* it is kept for that one */
    tr_free(after);
    tr_free(run);
    tr_free(text);
    tr_free(measured);
}

/* --- memory --- */

/* The driver's own word of how much of GPU 0 is free; CUDA's runtime is not linked here. */
typedef int device_get(int *device, int ordinal);
typedef int context_retain(void **context, int device);
typedef int context_set(void *context);
typedef int memory_info(size_t *free_bytes, size_t *total_bytes);
static memory_info *get_memory;

static bool open_driver(void)
{
    static const char *const files[] = {"libcuda.so.1", NULL};
    int (*init)(unsigned flags) = NULL;
    device_get *device_at = NULL;
    context_retain *retain = NULL;
    context_set *set = NULL;
    const tr_library_symbol symbols[] = {{"cuInit", (void **)&init},
                                         {"cuDeviceGet", (void **)&device_at},
                                         {"cuDevicePrimaryCtxRetain", (void **)&retain},
                                         {"cuCtxSetCurrent", (void **)&set},
                                         {"cuMemGetInfo_v2", (void **)&get_memory}};
    tr_error err = {0};
    int device = 0;
    void *context = NULL;
    return tr_library_load("the driver", files, symbols, sizeof symbols / sizeof *symbols, &err) == TR_OK &&
           init(0) == 0 && device_at(&device, 0) == 0 && retain(&context, device) == 0 && set(context) == 0;
}

static size_t free_bytes(void)
{
    size_t bytes = 0, total = 0;
    CU_ASSERT_EQUAL(get_memory(&bytes, &total), 0);
    return bytes;
}

/* Of the line of worker 1 in what `troupe plan` prints: the second size, on the GPU. */
static double planned_bytes(const char *const *arguments)
{
    command_run command;
    double host = 0, gpu = 0;
    char host_unit[8] = "", unit[8] = "";
    command_start(&command, arguments);
    command_wait(&command, COMMAND_SECONDS);
    CU_ASSERT(command_ended(&command, 0));
    const char *line = strstr(command.out_text, "\nworker 1 ");
    CU_ASSERT(line && sscanf(line, " worker 1 %lf %7s %lf %7s", &host, host_unit, &gpu, unit) == 4);
    command_release(&command);
    return gpu * (strcmp(unit, "GiB") == 0 ? 1 << 30 : 1 << 20);
}

/* What all other processes take at their most, while the command runs. */
static double peak_bytes(const char *const *arguments)
{
    command_run command;
    size_t before = free_bytes(), least = before;
    command_start(&command, arguments);
    double until = command_now_s() + COMMAND_SECONDS;
    siginfo_t ended = {0};
    while (command_now_s() < until && ended.si_pid == 0) {
        waitid(P_PID, (id_t)command.pid, &ended, WEXITED | WNOHANG | WNOWAIT);
        size_t now = free_bytes();
        if (now < least) least = now;
        command_nap_ms(5);
    }
    command_wait(&command, COMMAND_SECONDS);
    CU_ASSERT(command_ended(&command, 0));
    command_release(&command);
    return (double)(before - least);
}

static void the_plan_foretells_a_stages_memory(void)
{
    static const char *const more[][3] = {{"layout.recompute=none", "layout.cuda_graphs=true", NULL},
                                          {"layout.recompute=full", "train.products=measured", NULL},
                                          {"train.accumulate=4", "train.groups=4", NULL}};
    char *text = path_in(directory, "words.txt"), *recipe = path_in(directory, "large.yaml");
    char *yaml =
        tr_format("run: unused\nmodel: {family: gpt2, layers: 12, width: 768, heads: 12, vocabulary: 8192}\n"
                  "data: {text: %s, holdout: 0}\ndtype: bfloat16\ndevice: cuda\n"
                  "train: {steps: 6, sequence: 1024, microbatch: 8}\nlr: {peak: 1e-4}\n",
                  text);
    write_text(recipe, yaml);
    for (size_t i = 0; i < sizeof more / sizeof *more; i++) {
        char *run_key = tr_format("run=%s/large-%zu", directory, i);
        double planned =
            planned_bytes((const char *const[]){"plan", recipe, run_key, more[i][0], more[i][1], NULL});
        double peak =
            peak_bytes((const char *const[]){"train", recipe, run_key, more[i][0], more[i][1], NULL});
        printf("\n    %s %s: planned %.0f MiB, taken %.0f MiB, %.1f%% ", more[i][0], more[i][1],
               planned / (1 << 20), peak / (1 << 20), 100 * (planned / peak - 1));
        CU_ASSERT(fabs(planned / peak - 1) <= 0.05);
        tr_free(run_key);
    }
    tr_free(yaml);
    tr_free(recipe);
    tr_free(text);
}

int main(int argc, char **argv)
{
    int cannot = enter_with_gpus(1, 40000);
    if (cannot) return cannot;
    /* Later ones look at the runs of earlier ones. */
    static const check_test bits[] = {CHECK_TEST(graphs_change_no_bit),
                                      CHECK_TEST(what_is_computed_again_changes_no_bit)};
    static const check_test products[] = {
        CHECK_TEST(measured_products_stay_what_they_are), CHECK_TEST(replicas_have_the_products_of_the_first),
        CHECK_TEST(a_resumed_run_goes_on_with_them), CHECK_TEST(what_is_for_another_gpu_is_not_used)};
    /* Of the whole GPU's memory, so nobody else may use it meanwhile: only where it is asked for. */
    static const check_test memory[] = {CHECK_TEST(the_plan_foretells_a_stages_memory)};
    const char *what = argc > 1 ? argv[1] : "";
    int failed = 0;
    if (!*what || strcmp(what, "bits") == 0)
        failed |= check_run("cli/cuda_bits", bits, sizeof bits / sizeof *bits);
    if (!*what || strcmp(what, "products") == 0)
        failed |= check_run("cli/cuda_products", products, sizeof products / sizeof *products);
    if (strcmp(what, "memory") == 0) failed |= open_driver() ? check_run("cli/cuda_memory", memory, 1) : 1;
    leave_directory(directory);
    return failed;
}
