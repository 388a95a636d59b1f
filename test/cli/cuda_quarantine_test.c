/* test/cli/cuda_quarantine_test.c - GPUs that fail under workers, really: one of them reads where nothing is, so that its context
 * is broken for good (DEVICE in chaos.at), or has no memory left when a worker begins again. A GPU with too many failures is left
 * out, the run goes on on the other one with the same bits; with none left it ends with a checkpoint. Needs two GPUs.
 * SPDX-License-Identifier: Apache-2.0 */
#include "cuda_runs.h"

#include "base/memory.h"

/* Of stages 0 and 1, on cuda:0 and cuda:1, the first breaks its GPU; hold_every: what a death goes back to. */
#define HELD "supervision.hold_every=2"
#define TWICE "chaos.at=1/stage 0 of replica 0/backward/8/DEVICE,2/stage 0 of replica 0/forward/14/DEVICE"

enum { MOST_BLOCKS = 4096 };

static void left_out(const kind *what, const char *layout, const char *key)
{
    char *whole = train(what, "whole", (const char *const[4]){"device=cuda", layout, HELD, key});
    char *recipe = recipe_of(what), *run = tr_format("%s/%s-broken", directory, what->name),
         *name = tr_format("run=%s", run);
    CU_ASSERT(command_succeeds((const char *const[]){"train", recipe, name, "device=cuda", layout, HELD,
                                                     TWICE, "supervision.quarantine_after=2", key, NULL}));
    CU_ASSERT(same_run(whole, run));
    CU_ASSERT(count_events(run, "worker_died") == 2 && count_events(run, "quarantined") == 1);
    CU_ASSERT(
        has_event(run, "quarantined", "cuda:0 is quarantined for 2 failures of its workers; the last: "));
    CU_ASSERT(has_event(run, "quarantined",
                        " ended with exit code 3 (its device failed) while stage 0 of replica 0"));
    CU_ASSERT(has_event(run, "quarantined", "; it goes on on cuda:1"));
    CU_ASSERT(has_event(run, "device", "), without cuda:0"));
    tr_directory_remove_tree(run, NULL);
    tr_directory_remove_tree(whole, NULL);
    tr_free(recipe), tr_free(run), tr_free(name), tr_free(whole);
}

static void a_broken_gpu_is_left_out(void)
{
    left_out(&llama, "layout.pipeline=2", NULL);
    left_out(&gpt2, "layout.data=2", NULL); /* replicas that hand sums over NCCL, until they share a GPU */
    left_out(&rounded, "layout.pipeline=2", "layout.cuda_graphs=true");
}

/* The one after the other; the CPU saves what they had. */
static void with_no_gpu_left_the_run_ends_with_a_checkpoint(void)
{
    char *whole = train(&llama, "whole", (const char *const[4]){"device=cuda", "layout.pipeline=2", HELD});
    char *recipe = recipe_of(&llama), *run = path_in(directory, "none"), *name = tr_format("run=%s", run);
    command_run command;
    command_start(&command, (const char *const[]){"train", recipe, name, "device=auto", "layout.pipeline=2",
                                                  HELD, TWICE, "supervision.quarantine_after=1", NULL});
    command_wait(&command, COMMAND_SECONDS);
    CU_ASSERT(command_ended(&command, 1));
    CU_ASSERT(text_has(command.err_text,
                       "troupe: cuda:1 is quarantined for 1 failure of its workers; the last: ") &&
              text_has(command.err_text, "; no other GPU is left; --resume goes on after step "));
    CU_ASSERT_EQUAL(count_events(run, "quarantined"), 2);
    command_release(&command);
    CU_ASSERT(command_succeeds((const char *const[]){"train", recipe, name, "device=auto",
                                                     "layout.pipeline=2", HELD, "--resume", NULL}));
    json_t *left = log_of(whole), *right = log_of(run);
    CU_ASSERT(log_is_complete(right, STEPS) && logs_agree(left, right));
    json_decref(left), json_decref(right);
    CU_ASSERT(checkpoints_agree(whole, run, STEPS, "model.safetensors"));
    tr_free(recipe), tr_free(run), tr_free(name), tr_free(whole);
}

/* Takes what is left of it, at once when a worker's is given back. */
static void take_all(tr_device *device, void **blocks, int *n)
{
    tr_error err;
    for (size_t bytes = (size_t)1 << 33; bytes >= 1 << 20; bytes /= 2)
        while (*n < MOST_BLOCKS &&
               tr_device_allocate(device, TR_MEMORY_DEVICE, bytes, &blocks[*n], &err) == TR_OK)
            ++*n;
}

/* Somebody else takes all memory of the first GPU; a worker that had some stops, is killed, and its successors find none. */
static void a_gpu_without_memory_is_left_out(void)
{
    char *whole =
        train(&llama, "memory-whole", (const char *const[4]){"device=cuda", "layout.pipeline=2", HELD});
    char *recipe = recipe_of(&llama), *run = path_in(directory, "memory"), *name = tr_format("run=%s", run);
    command_run command;
    tr_error err = {0};
    tr_device *device = NULL;
    static void *blocks[MOST_BLOCKS];
    int n = 0;
    CHECK_OK(tr_device_open(&device, TR_DEVICE_CUDA, 0, &err));
    command_start(&command, (const char *const[]){"train", recipe, name, "device=cuda", "layout.pipeline=2",
                                                  HELD, "chaos.at=1/stage 0 of replica 0/forward/10/STOP",
                                                  "supervision.quarantine_after=2", NULL});
    CU_ASSERT(wait_for_steps(&command, run, 9));
    double until = command_now_s() + COMMAND_SECONDS;
    while (device && count_events(run, "quarantined") == 0 && command_now_s() < until) {
        take_all(device, blocks, &n);
        command_nap_ms(1);
    }
    command_wait(&command, COMMAND_SECONDS);
    CU_ASSERT(command_ended(&command, 0));
    CU_ASSERT(same_run(whole, run));
    CU_ASSERT_EQUAL(count_events(run, "worker_died"), 3);
    CU_ASSERT(
        has_event(run, "quarantined", "cuda:0 is quarantined for 2 failures of its workers; the last: "));
    command_release(&command);
    while (n) tr_device_free(device, TR_MEMORY_DEVICE, blocks[--n]);
    tr_device_close(&device);
    tr_free(recipe), tr_free(run), tr_free(name), tr_free(whole);
}

static const check_test tests[] = {CHECK_TEST(a_broken_gpu_is_left_out),
                                   CHECK_TEST(with_no_gpu_left_the_run_ends_with_a_checkpoint),
                                   CHECK_TEST(a_gpu_without_memory_is_left_out)};

/* With an argument: that test alone. */
int main(int argc, char **argv)
{
    size_t first = 0, n_tests = sizeof tests / sizeof *tests;
    while (argc > 1 && first < n_tests && strcmp(tests[first].name, argv[1]) != 0) first++;
    if (first == n_tests) return 2;
    int cannot = enter_with_gpus(2, 4000);
    if (cannot) return cannot;
    int result = check_run("cli/cuda_quarantine", tests + first, argc > 1 ? 1 : n_tests);
    leave_directory(directory);
    return result;
}
