/* test/cli/cuda_link_test.c - `troupe train` whose stages on GPUs hand activations and gradients to each other by CUDA IPC: the bits of
 * one GPU, whoever dies when, and the host's memory where IPC cannot be or is not wanted. Two workers on one GPU do it as well.
 * Skipped (exit 77) where there is no GPU.
 * SPDX-License-Identifier: Apache-2.0 */
#include "cuda_runs.h"

static const char by_ipc[] = " by CUDA IPC, from cuda:", by_host[] = " through the host's memory: ";

/* How many of its links went this way: activations on, gradients back, and those of the tied table between first and last. */
static int links_of(const char *run, const char *words)
{
    int n = 0;
    json_t *events = events_of(run), *event;
    size_t i;
    json_array_foreach(events, i, event)
    {
        const char *text = json_string_value(json_object_get(event, "text"));
        n += strcmp(json_string_value(json_object_get(event, "event")), "link") == 0 && text &&
             strstr(text, words);
    }
    json_decref(events);
    return n;
}

/* Of so many links in an epoch; -1: whatever they are. */
static void expect_links(const char *run, int n_by_ipc, int n_by_host, const char *why)
{
    int ipc = links_of(run, by_ipc), host = links_of(run, why);
    if (ipc != n_by_ipc || host != n_by_host)
        fprintf(stderr, "\n%s: %d links by CUDA IPC, %d through the host\n", run, ipc, host);
    CU_ASSERT_EQUAL(ipc, n_by_ipc);
    CU_ASSERT_EQUAL(host, n_by_host);
}

static void expect_run(const kind *what, const char *name, const char *const more[4], int n_by_ipc,
                       int n_by_host, const char *why)
{
    char *alone = tr_format("%s/%s-1x1", directory, what->name), *run = train(what, name, more);
    expect_links(run, n_by_ipc, n_by_host, why);
    CU_ASSERT(same_run(alone, run));
    tr_free(run);
    tr_free(alone);
}

static void no_layout_changes_a_bit(void)
{
    tr_free(train(&llama, "1x1", (const char *const[4]){"device=cuda"}));
    tr_free(train(&rounded, "1x1", (const char *const[4]){"device=cuda"}));
    expect_run(&llama, "1x2", (const char *const[4]){"device=cuda", "layout={pipeline: 2}"}, 4, 0, by_host);
    expect_run(
        &rounded, "1x4",
        (const char *const[4]){"device=cuda", "layout={pipeline: 4, cuda_graphs: true}", "transport=zmq"}, 8,
        0, by_host);
    expect_run(&rounded, "2x2-pieces",
               (const char *const[4]){"device=cuda", "layout={data: 2, pipeline: 2, pieces: 2}"}, 16, 0,
               by_host);
}

/* Each epoch decides anew: the first and those that follow the deaths. */
static void a_death_changes_no_bit(void)
{
    static const struct {
        const char *name, *at;
        int epochs;
    } cases[] = {{"forward-0", "chaos.at=1/stage 0 of replica 0/forward/15/KILL", 2},
                 {"forward-1", "chaos.at=1/stage 1 of replica 0/forward/17/KILL", 2},
                 {"backward-0", "chaos.at=1/stage 0 of replica 0/backward/14/SEGV", 2},
                 {"backward-1", "chaos.at=1/stage 1 of replica 0/backward/16/KILL", 2},
                 {"evaluation-0", "chaos.at=1/stage 0 of replica 0/evaluation/12/KILL", 2},
                 {"twice",
                  "chaos.at='1/stage 0 of replica 0/forward/13/KILL,2/stage 1 of replica 0/forward/13/KILL'",
                  3}};
    const kind *kinds[] = {&llama, &rounded};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        expect_run(kinds[i % 2], cases[i].name,
                   (const char *const[4]){"device=cuda", "layout={pipeline: 2}", cases[i].at,
                                          i % 3 ? "transport=ucx" : "transport=zmq"},
                   4 * cases[i].epochs, 0, by_host);
        char *run = tr_format("%s/%s-%s", directory, kinds[i % 2]->name, cases[i].name);
        CU_ASSERT(count_events(run, "recovered") >= 1);
        tr_free(run);
    }
}

static void the_host_carries_what_cannot_go_from_gpu_to_gpu(void)
{
    expect_run(&llama, "off", (const char *const[4]){"device=cuda", "layout={pipeline: 2, cuda_ipc: false}"},
               0, 4, "through the host's memory: layout.cuda_ipc is false");
    expect_run(&llama, "one-process",
               (const char *const[4]){"device=cuda", "layout={pipeline: 2, processes: false}"}, 0, 4,
               "through the host's memory: CUDA IPC is between processes");
    char *mixed = train(
        &llama, "mixed",
        (const char *const[4]){"layout={stages: [{layers: 2, device: cuda}, {layers: 2, device: cpu}]}"});
    expect_links(mixed, 0, 2, "through the host's memory: the other end computes on the CPU");
    tr_free(mixed);
}

static void the_plan_says_which_way(void)
{
    static const struct {
        const char *layout, *words;
    } cases[] = {{"layout={data: 2, pipeline: 2}", "links: 8 between stages on GPUs, by CUDA IPC where "},
                 {"layout={pipeline: 2, cuda_ipc: false}",
                  "links: 4 between stages on GPUs, through the host's memory (layout.cuda_ipc is false)"}};
    char *recipe = recipe_of(&llama);
    for (int i = 0; i < 2; i++) {
        command_run command;
        command_start(&command, (const char *const[]){"plan", recipe, "device=cuda", cases[i].layout, NULL});
        command_wait(&command, COMMAND_SECONDS);
        CU_ASSERT(command_ended(&command, 0));
        CU_ASSERT(text_has(command.out_text, cases[i].words));
        command_release(&command);
    }
    tr_free(recipe);
}

int main(void)
{
    int cannot = enter_with_gpus(1, 4000);
    if (cannot) return cannot;
    /* Later ones look at the runs of the first. */
    static const check_test tests[] = {
        CHECK_TEST(no_layout_changes_a_bit), CHECK_TEST(the_plan_says_which_way),
        CHECK_TEST(a_death_changes_no_bit), CHECK_TEST(the_host_carries_what_cannot_go_from_gpu_to_gpu)};
    int result = check_run("cli/cuda_link", tests, sizeof tests / sizeof *tests);
    leave_directory(directory);
    return result;
}
