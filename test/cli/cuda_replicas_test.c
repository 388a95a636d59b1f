/* test/cli/cuda_replicas_test.c - replicas on GPUs of their own hand gradients to each other (NCCL): the bits of one GPU in every
 * layout, over the host where the library is missing or replicas share a GPU, and after deaths in an exchange.
 * Skipped (exit 77) where there is no GPU; with one GPU replicas share it, and that is what is looked at.
 * SPDX-License-Identifier: Apache-2.0 */
#include "cuda_runs.h"

#include <stdlib.h>

static int32_t n_gpus;

static const char *expected_way(int replicas)
{
    return n_gpus >= replicas ? "on the devices: NCCL" : "by the host: replicas share a GPU";
}

static void expect_run(const kind *what, const char *name, const char *const more[4], const char *way)
{
    char *alone = tr_format("%s/%s-1x1", directory, what->name), *run = train(what, name, more);
    bool went = has_event(run, "reduction", way);
    if (!went) fprintf(stderr, "\n%s: gradients were not summed %s\n", run, way);
    CU_ASSERT(went);
    CU_ASSERT(same_run(alone, run));
    tr_free(run);
    tr_free(alone);
}

static void no_layout_changes_a_bit(void)
{
    const kind *kinds[] = {&llama, &rounded, &gpt2};
    for (int k = 0; k < 3; k++) {
        tr_free(train(kinds[k], "1x1", (const char *const[4]){"device=cuda"}));
        expect_run(kinds[k], "2x1", (const char *const[4]){"device=cuda", "layout={data: 2}"},
                   expected_way(2));
        expect_run(kinds[k], "2x2", (const char *const[4]){"device=cuda", "layout={data: 2, pipeline: 2}"},
                   expected_way(2));
    }
    expect_run(&llama, "threads", (const char *const[4]){"device=cuda", "layout={data: 2, processes: false}"},
               expected_way(2));
    expect_run(&llama, "uneven", (const char *const[4]){"device=cuda", "layout={data: 3}"}, expected_way(3));
}

static void several_pieces_stay_with_the_host(void)
{
    char *alone = path_in(directory, "llama-1x1");
    char *run = train(&llama, "pieces",
                      (const char *const[4]){"device=cuda", "layout={data: 2, pipeline: 2, pieces: 2}"});
    CU_ASSERT(same_run(alone, run));
    CU_ASSERT(!has_event(run, "reduction", "on the devices"));
    tr_free(run);
    tr_free(alone);
}

static void without_the_library_the_host_sums(void)
{
    setenv("TROUPE_NCCL", "/nowhere/libnccl.so.2", 1);
    expect_run(&llama, "host", (const char *const[4]){"device=cuda", "layout={data: 2}"},
               "by the host: NCCL is not here");
    expect_run(&rounded, "host", (const char *const[4]){"device=cuda", "layout={data: 2, pipeline: 2}"},
               "by the host: NCCL is not here");
    unsetenv("TROUPE_NCCL");
}

/* The replica that lives waits in an exchange that cannot end. */
static void a_death_in_an_exchange_changes_no_bit(void)
{
    static const struct {
        const char *name, *at, *layout;
    } cases[] = {{"reduce", "chaos.at=1/stage 0 of replica 1/reduce/15/KILL", "layout={data: 2}"},
                 {"first", "chaos.at=1/stage 0 of replica 0/reduce/12/KILL", "layout={data: 2}"},
                 {"weight", "chaos.at=1/stage 0 of replica 1/weight/17/KILL", "layout={data: 2}"},
                 {"pipe", "chaos.at=1/stage 1 of replica 0/reduce/14/KILL", "layout={data: 2, pipeline: 2}"}};
    const kind *kinds[] = {&llama, &rounded};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *name = tr_format("death-%s", cases[i].name);
        const kind *what = kinds[i % 2];
        expect_run(what, name,
                   (const char *const[4]){"device=cuda", cases[i].layout, cases[i].at,
                                          i % 2 ? "transport=zmq" : "transport=ucx"},
                   expected_way(2));
        char *run = tr_format("%s/%s-%s", directory, what->name, name);
        CU_ASSERT_EQUAL(count_events(run, "worker_died"), 1); /* and nobody with it */
        CU_ASSERT_EQUAL(count_events(run, "recovered"), 1);
        tr_free(run);
        tr_free(name);
    }
}

/* --- shards of the state (ZeRO) --- */

/* Tensors of several blocks of the norm. With one micro-batch in a step a replica has no whole gradient with stage 2. */
static const kind sharded = {
    "sharded", "{family: llama, layers: 4, width: 256, heads: 4, kv_heads: 2, vocabulary: 256, tie: true}",
    "bfloat16", 4};
static const kind streamed = {
    "streamed", "{family: llama, layers: 4, width: 256, heads: 4, kv_heads: 2, vocabulary: 512}", "bfloat16",
    2};

static void expect_turns(const kind *what, const char *name, bool takes)
{
    char *run = tr_format("%s/%s-%s", directory, what->name, name);
    CU_ASSERT_EQUAL(has_event(run, "reduction", ", and take turns in "), takes && n_gpus > 1);
    tr_free(run);
}

static void shards_of_the_state_change_no_bit(void)
{
    const kind *kinds[] = {&sharded, &streamed};
    for (int k = 0; k < 2; k++) {
        tr_free(train(kinds[k], "1x1", (const char *const[4]){"device=cuda"}));
        expect_run(kinds[k], "zero-1", (const char *const[4]){"device=cuda", "layout={data: 2, zero: 1}"},
                   expected_way(2));
        expect_run(kinds[k], "zero-2", (const char *const[4]){"device=cuda", "layout={data: 2, zero: 2}"},
                   expected_way(2));
        expect_turns(kinds[k], "zero-1", false);
        expect_turns(kinds[k], "zero-2", k == 1);
    }
    expect_run(&streamed, "zero-2x2",
               (const char *const[4]){"device=cuda", "layout={data: 2, pipeline: 2, zero: 2}"},
               expected_way(2));
    expect_turns(&streamed, "zero-2x2", true);
}

static void shards_go_by_the_host_without_the_library(void)
{
    setenv("TROUPE_NCCL", "/nowhere/libnccl.so.2", 1);
    expect_run(&sharded, "zero-host",
               (const char *const[4]){"device=cuda", "layout={data: 2, pipeline: 2, zero: 1}"},
               "by the host: NCCL is not here");
    expect_run(&streamed, "zero-host", (const char *const[4]){"device=cuda", "layout={data: 2, zero: 2}"},
               "by the host: NCCL is not here");
    unsetenv("TROUPE_NCCL");
}

/* Kernels of the replica that lives wait for an exchange that cannot end. */
static void a_death_while_buckets_take_turns_changes_no_bit(void)
{
    static const char *const at[] = {"chaos.at=1/stage 0 of replica 1/weight/15/KILL",
                                     "chaos.at=1/stage 0 of replica 0/reduce/13/KILL"};
    for (int i = 0; i < 2; i++) {
        char *name = tr_format("zero-death-%d", i), *run = tr_format("%s/streamed-%s", directory, name);
        expect_run(&streamed, name, (const char *const[4]){"device=cuda", "layout={data: 2, zero: 2}", at[i]},
                   expected_way(2));
        CU_ASSERT_EQUAL(count_events(run, "worker_died"), 1);
        CU_ASSERT_EQUAL(count_events(run, "recovered"), 1);
        tr_free(run);
        tr_free(name);
    }
}

static void a_run_goes_on_in_shards(void)
{
    char *alone = path_in(directory, "streamed-1x1"), *run = path_in(directory, "streamed-zero-2");
    resume_from_step_12(&streamed, alone, run, "layout={data: 2, zero: 2}");
    resume_from_step_12(&streamed, alone, run, "layout={data: 1}"); /* and whole again */
    tr_free(run);
    tr_free(alone);
}

int main(int argc, char **argv)
{
    int cannot = enter_with_gpus(1, 4000);
    if (cannot) return cannot;
    if (tr_device_count(TR_DEVICE_CUDA, &n_gpus, NULL) != TR_OK) return 1;
    printf("%d GPU%s\n", n_gpus, n_gpus == 1 ? "" : "s");
    /* Later ones look at the runs of earlier ones. */
    static const check_test tests[] = {
        CHECK_TEST(no_layout_changes_a_bit),
        CHECK_TEST(several_pieces_stay_with_the_host),
        CHECK_TEST(without_the_library_the_host_sums),
        CHECK_TEST(a_death_in_an_exchange_changes_no_bit),
    };
    static const check_test zero[] = {
        CHECK_TEST(shards_of_the_state_change_no_bit),
        CHECK_TEST(shards_go_by_the_host_without_the_library),
        CHECK_TEST(a_death_while_buckets_take_turns_changes_no_bit),
        CHECK_TEST(a_run_goes_on_in_shards),
    };
    bool all = argc < 2;
    int result = 0;
    if (all || strcmp(argv[1], "whole") == 0)
        result |= check_run("cli/cuda_replicas", tests, sizeof tests / sizeof *tests);
    setenv("TROUPE_BUCKET_ELEMENTS", "100000", 1); /* several, that have to take turns */
    if (all || strcmp(argv[1], "zero") == 0)
        result |= check_run("cli/cuda_zero", zero, sizeof zero / sizeof *zero);
    leave_directory(directory);
    return result;
}
