/* test/cli/cuda_train_test.c - `troupe train` with stages on a GPU: the CPU's numbers, the same bits in every layout, over
 * both transports and after any death; stages on a GPU and on the CPU in one job. Several workers share the one GPU.
 * The golden cases are pipelines/golden_train's, which bench/gpu/run starts with TROUPE_TEST_DEVICE=cuda.
 * Skipped (exit 77) where there is no GPU.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/device.h"
#include "cuda_runs.h"

#include <math.h>

static double number(const json_t *log, size_t i, const char *key)
{
    return json_number_value(json_object_get(json_array_get(log, i), key));
}

/* Equal they must not be: other kernels were at work. */
static void expect_close(const char *reference, const char *run, double loss, double norm)
{
    json_t *left = log_of(reference), *right = log_of(run);
    double worst_loss = 0, worst_norm = 0;
    CU_ASSERT_FATAL(log_is_complete(left, STEPS) && log_is_complete(right, STEPS));
    for (size_t i = 0; i < STEPS; i++) {
        worst_loss = fmax(worst_loss, fabs(number(left, i, "loss") - number(right, i, "loss")));
        worst_norm = fmax(worst_norm, fabs(number(left, i, "grad_norm") / number(right, i, "grad_norm") - 1));
    }
    printf("\n    %s: losses differ by %.2g, norms by %.2g of theirs ", strrchr(run, '/') + 1, worst_loss,
           worst_norm);
    CU_ASSERT(worst_loss <= loss && worst_norm <= norm);
    CU_ASSERT(worst_loss > 0 && number(left, STEPS - 1, "loss") < number(left, 0, "loss") - 0.3);
    json_decref(left);
    json_decref(right);
}

/* --- what they promise --- */

static void a_gpu_learns_as_the_cpu_does(void)
{
    const kind *kinds[] = {&llama, &gpt2};
    for (int k = 0; k < 2; k++) {
        char *cpu = train(kinds[k], "cpu", (const char *const[4]){"device=cpu", "layout.processes=false"});
        char *gpu = train(kinds[k], "gpu", (const char *const[4]){"device=cuda", "layout.processes=false"});
        expect_close(cpu, gpu, 1e-4, 1e-3);
        CU_ASSERT(has_event(gpu, "device", "cuda") && !has_event(cpu, "device", ""));
        tr_free(cpu);
        tr_free(gpu);
    }
}

static void no_layout_changes_a_bit(void)
{
    static const struct {
        const char *name, *layout, *transport;
    } layouts[] = {{"2x1", "layout={data: 2}", "transport=ucx"},
                   {"1x2", "layout={pipeline: 2}", "transport=zmq"},
                   {"2x2", "layout={data: 2, pipeline: 2}", "transport=ucx"},
                   {"3x1", "layout={data: 3, processes: false}", NULL},
                   {"1x2x2", "layout={pipeline: 2, pieces: 2, processes: false}", NULL}};
    const kind *kinds[] = {&llama, &rounded, &gpt2};
    for (int k = 0; k < 3; k++) {
        char *alone = train(kinds[k], "1x1", (const char *const[4]){"device=cuda"});
        for (int i = 0; i < (k < 2 ? 5 : 3); i++) {
            char *run = train(kinds[k], layouts[i].name,
                              (const char *const[4]){"device=cuda", layouts[i].layout, layouts[i].transport});
            CU_ASSERT(same_run(alone, run));
            tr_free(run);
        }
        tr_free(alone);
    }
}

/* 24, 24 and 16 of a micro-batch's 64 tokens; other bits than without chunks, but the same everywhere, also behind a death. */
static void chunks_of_logits_have_the_same_bits_everywhere(void)
{
    const kind *kinds[] = {&llama, &rounded};
    for (int k = 0; k < 2; k++) {
        char *alone = train(kinds[k], "chunks", (const char *const[4]){"device=cuda", "layout={logits: 24}"});
        char *spread =
            train(kinds[k], "chunks-2x2",
                  (const char *const[4]){"device=cuda", "layout={logits: 24, data: 2, pipeline: 2}",
                                         "chaos.at=1/stage 1 of replica 1/backward/15/KILL"});
        CU_ASSERT(same_run(alone, spread));
        tr_free(spread);
        tr_free(alone);
    }
    char *cpu = path_in(directory, "llama-cpu"), *chunks = path_in(directory, "llama-chunks");
    expect_close(cpu, chunks, 1e-4, 1e-3);
    tr_free(chunks);
    tr_free(cpu);
}

static void auto_takes_the_gpu_and_says_so(void)
{
    char *named = path_in(directory, "llama-1x1");
    char *run = train(&llama, "auto", (const char *const[4]){"device=auto", "layout.processes=false"});
    CU_ASSERT(same_run(named, run));
    CU_ASSERT(has_event(run, "device", "auto is cuda"));
    tr_free(run);
    tr_free(named);
}

static void a_job_may_mix_gpu_and_cpu(void)
{
    char *cpu = path_in(directory, "llama-cpu");
    char *first = train(
        &llama, "gpu-cpu",
        (const char *const[4]){"layout={stages: [{layers: 3, device: cuda}, {layers: 1, device: cpu}]}"});
    char *twice = train(&llama, "gpu-cpu-2",
                        (const char *const[4]){"layout={data: 2, stages: [{layers: 3, device: cuda}, 1]}"});
    char *other =
        train(&llama, "cpu-gpu",
              (const char *const[4]){"layout={stages: [1, {layers: 3, device: auto}]}", "transport=zmq"});
    expect_close(cpu, first, 1e-4, 1e-3);
    expect_close(cpu, other, 1e-4, 1e-3);
    CU_ASSERT(same_run(first, twice));
    tr_free(other);
    tr_free(twice);
    tr_free(first);
    tr_free(cpu);
}

static void a_resumed_run_has_the_same_bits(void)
{
    char *alone = path_in(directory, "llama-1x1"), *run = path_in(directory, "llama-1x2");
    resume_from_step_12(&llama, alone, run, "layout={data: 2}");
    tr_free(run);
    tr_free(alone);
}

static void a_death_at_any_moment_changes_no_bit(void)
{
    static const struct {
        const char *name, *at;
    } cases[] = {
        /* These go back to the state that is held with the checkpoint after step 12, the others to the step before. */
        {"forward", "chaos.at=1/stage 0 of replica 1/forward/17/KILL"},
        {"weight", "chaos.at=1/stage 1 of replica 1/weight/15/SEGV"},
        {"reduce", "chaos.at=1/stage 0 of replica 0/reduce/12/KILL"},
        {"update", "chaos.at=1/stage 1 of replica 0/update/12/KILL"},
        {"vote", "chaos.at=1/stage 0 of replica 0/voting/12/KILL"},
        {"saving", "chaos.at=1/stage 1 of replica 0/saving/12/KILL"},
        {"twice",
         "chaos.at='1/stage 1 of replica 0/backward/12/KILL,2/stage 0 of replica 1/restoring/any/KILL'"},
    };
    const kind *kinds[] = {&llama, &rounded};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const kind *what = kinds[i % 2];
        char *alone = tr_format("%s/%s-1x1", directory, what->name);
        char *run = train(what, cases[i].name,
                          (const char *const[4]){"device=cuda", "layout={data: 2, pipeline: 2}", cases[i].at,
                                                 i < 3 ? "transport=zmq" : "supervision.hold_every=1"});
        CU_ASSERT(same_run(alone, run));
        CU_ASSERT(count_events(run, "worker_died") >= 1 && count_events(run, "recovered") >= 1);
        tr_free(run);
        tr_free(alone);
    }
}

/* A stage on the CPU updates from slot to slot, one on a GPU in place: both can go back. */
static void nor_does_it_in_a_mixed_job(void)
{
    char *alone = path_in(directory, "llama-gpu-cpu");
    static const char *const at[] = {"chaos.at=1/stage 0 of replica 0/update/12/KILL",
                                     "chaos.at=1/stage 1 of replica 0/voting/12/KILL"};
    for (int i = 0; i < 2; i++) {
        char *run = train(&llama, i ? "mixed-cpu" : "mixed-gpu",
                          (const char *const[4]){"layout={stages: [{layers: 3, device: cuda}, 1]}", at[i]});
        CU_ASSERT(same_run(alone, run));
        CU_ASSERT(count_events(run, "recovered") >= 1);
        tr_free(run);
    }
    tr_free(alone);
}

/* Nothing is created for what cannot be. */
static void what_does_not_fit_is_refused(void)
{
    char *recipe = recipe_of(&llama), *run = path_in(directory, "refused"),
         *run_key = tr_format("run=%s", run);
    static const struct {
        const char *more, *words;
    } cases[] = {{"train.microbatch=1000000", "device: cuda:0 has "},
                 {"model.dropout=0.1", "device 'cuda' has no attention with dropout yet"}};
    for (int i = 0; i < 2; i++) {
        command_run command;
        command_start(&command,
                      (const char *const[]){"train", recipe, run_key, "device=cuda", cases[i].more, NULL});
        command_wait(&command, COMMAND_SECONDS);
        CU_ASSERT(command_ended(&command, 2));
        CU_ASSERT(text_has(command.err_text, cases[i].words));
        CU_ASSERT(!tr_path_exists(run));
        command_release(&command);
    }
    tr_free(run_key);
    tr_free(run);
    tr_free(recipe);
}

static void the_plan_names_devices(void)
{
    char *recipe = recipe_of(&llama);
    command_run command;
    command_start(&command, (const char *const[]){"plan", recipe,
                                                  "layout={stages: [{layers: 3, device: cuda}, 1]}", NULL});
    command_wait(&command, COMMAND_SECONDS);
    CU_ASSERT(command_ended(&command, 0));
    CU_ASSERT(text_has(command.out_text, "device: cuda, ") && text_has(command.out_text, "on GPU"));
    CU_ASSERT(text_has(command.out_text, "worker 1  cuda:0 ") &&
              text_has(command.out_text, "worker 2  cpu "));
    command_release(&command);
    tr_free(recipe);
}

int main(void)
{
    int cannot = enter_with_gpus(1, 4000);
    if (cannot) return cannot;
    /* Later ones look at the runs of earlier ones. */
    static const check_test tests[] = {
        CHECK_TEST(a_gpu_learns_as_the_cpu_does),
        CHECK_TEST(no_layout_changes_a_bit),
        CHECK_TEST(chunks_of_logits_have_the_same_bits_everywhere),
        CHECK_TEST(auto_takes_the_gpu_and_says_so),
        CHECK_TEST(a_job_may_mix_gpu_and_cpu),
        CHECK_TEST(a_death_at_any_moment_changes_no_bit),
        CHECK_TEST(nor_does_it_in_a_mixed_job),
        CHECK_TEST(a_resumed_run_has_the_same_bits),
        CHECK_TEST(what_does_not_fit_is_refused),
        CHECK_TEST(the_plan_names_devices),
    };
    int result = check_run("cli/cuda_train", tests, sizeof tests / sizeof *tests);
    leave_directory(directory);
    return result;
}
