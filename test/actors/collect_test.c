/* test/actors/collect_test.c - replicas on devices that hand gradients to each other: the bits of one replica, in buckets of any
 * size, and the host where the devices cannot. On the CPU as a device, over transport/fake_nccl.c.
 * SPDX-License-Identifier: Apache-2.0 */
#include "actors/stage_collect.h"
#include "tiny_job.h"

#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* A worker that cannot leave an exchange ends itself: where memory failed somewhere, that is an end that it may have. */
int kill(pid_t pid, int signal_number)
{
    if (pid == getpid()) failing_give_up();
    return (int)syscall(SYS_kill, pid, signal_number);
}

static tiny_job job_of(uint32_t replicas, uint32_t stages, uint32_t microbatches, uint32_t groups, bool large)
{
    tiny_job job = tiny_new(replicas, stages, microbatches, groups, CHECK_SIZE(4, 1));
    if (large) job.config.vocabulary = 503, job.config.width = 65;
    return job;
}

/* --- arithmetic --- */

static void neighbours_share_a_bucket_until_it_is_full(void)
{
    const tr_bucket_part parts[] = {
        {0, 100, 9, 2}, {100, 130, 7, 6}, {130, 160, 8, 5}, {160, 400, 3, 3}, {400, 401, 3, 1}};
    tr_bucket buckets[5];
    CU_ASSERT_EQUAL_FATAL(tr_buckets_of(parts, 5, 60, buckets), 4);
    static const tr_bucket_part wanted[] = {
        {160, 400, 3, 3}, {400, 401, 3, 1}, {100, 160, 8, 5}, {0, 100, 9, 2}};
    for (int i = 0; i < 4; i++) {
        CU_ASSERT(buckets[i].begin == wanted[i].begin && buckets[i].end == wanted[i].end);
        CU_ASSERT_EQUAL(buckets[i].position, wanted[i].position);
        CU_ASSERT_EQUAL(buckets[i].first, wanted[i].first);
    }
    CU_ASSERT_EQUAL(tr_buckets_of(parts, 5, 1000, buckets), 1);
    CU_ASSERT(buckets[0].begin == 0 && buckets[0].end == 401 && buckets[0].position == 9);
    CU_ASSERT_EQUAL(tr_buckets_of(parts, 0, 1000, buckets), 0);
}

static void buckets_cover_every_element_once_in_the_order_of_the_program(void)
{
    for (uint32_t seed = 0; seed < 200; seed++) {
        tr_rng_key key = {seed, 1, 0, 0};
        tr_bucket_part parts[40];
        tr_bucket buckets[40];
        uint32_t n = 1 + (uint32_t)(tr_rng_u64(&key, 0) % 40), covered = 0;
        int64_t at = 0, total = 0, bucket = (int64_t)(tr_rng_u64(&key, 1) % 300);
        for (uint32_t i = 0; i < n; i++) {
            int64_t size = 16 * (1 + (int64_t)(tr_rng_u64(&key, 2 + 2 * i) % 9));
            int32_t position = (int32_t)(tr_rng_u64(&key, 3 + 2 * i) % 50);
            parts[i] = (tr_bucket_part){at, at + size, position, position};
            at += size;
        }
        uint32_t n_buckets = tr_buckets_of(parts, n, bucket, buckets);
        for (uint32_t b = 0; b < n_buckets; b++) {
            total += buckets[b].end - buckets[b].begin;
            CU_ASSERT(b == 0 || buckets[b].position >= buckets[b - 1].position);
            for (uint32_t i = 0; i < n; i++) {
                if (parts[i].begin < buckets[b].begin || parts[i].begin >= buckets[b].end) continue;
                CU_ASSERT(parts[i].end <= buckets[b].end && parts[i].position <= buckets[b].position);
                covered++;
            }
        }
        CU_ASSERT(covered == n && total == at);
    }
}

/* --- runs --- */

/* First: what has been loaded stays. */
static void without_the_library_the_host_sums(void)
{
    tiny_job alone = job_of(1, 1, 4, 4, false), job = job_of(2, 1, 4, 4, false);
    setenv("TROUPE_NCCL", "/nowhere/libnccl.so.2", 1);
    tiny_run_well(&alone);
    tiny_run_well(&job);
    CU_ASSERT(strstr(job.reduction, "stage 0: gradients are summed by the host: NCCL is not here") != NULL);
    CU_ASSERT_EQUAL(notes_of(&alone, "reduction"), 0);
    tiny_expect_same_bits(&alone, &job, 0);
    tiny_release(&alone);
    tiny_release(&job);
    setenv("TROUPE_NCCL", FAKE_NCCL, 1);
}

static void no_layout_and_no_bucket_changes_a_bit(void)
{
    static const uint32_t layouts[][2] = {{2, 1}, {3, 1}, {2, 2}, {3, 3}, {4, 1}};
    static const uint32_t steps[][2] = {{5, 4}, {6, 6}, {8, 5}};
    static const int64_t sizes[] = {1, 40, 1 << 20};
    for (size_t s = 0; s < CHECK_SIZE(sizeof steps / sizeof *steps, 1); s++) {
        tiny_job alone = job_of(1, 1, steps[s][0], steps[s][1], s == 1);
        tiny_run_well(&alone);
        for (size_t i = 0; i < CHECK_SIZE(sizeof layouts / sizeof *layouts, 1); i++) {
            tiny_job job = job_of(layouts[i][0], layouts[i][1], steps[s][0], steps[s][1], s == 1);
            tiny_bucket_elements = sizes[(i + s) % 3];
            tiny_run_well(&job);
            CU_ASSERT_EQUAL(notes_of(&job, "reduction"), layouts[i][1]);
            CU_ASSERT(strstr(job.reduction, "gradients are summed on the devices: NCCL 2.20.0") != NULL);
            tiny_expect_same_bits(&alone, &job, 0);
            tiny_release(&job);
        }
        tiny_release(&alone);
    }
    tiny_bucket_elements = 0;
}

static void run_in_shards(const tiny_job *alone, const uint32_t layout[3], uint32_t microbatches,
                          uint32_t groups, bool refused)
{
    tiny_job job = job_of(layout[0], layout[1], microbatches, groups, false);
    job.config.vocabulary = alone->config.vocabulary, job.config.width = alone->config.width;
    job.config.plan.zero = layout[2];
    if (refused) setenv("FAKE_NCCL_REFUSES", "0", 1);
    tiny_run_well(&job);
    unsetenv("FAKE_NCCL_REFUSES");
    bool streams = !refused && layout[2] == 2 && layout[0] == microbatches;
    CU_ASSERT(strstr(job.reduction, refused ? "by the host" : "on the devices") != NULL);
    CU_ASSERT_EQUAL(strstr(job.reduction, "take turns in") != NULL, streams);
    tiny_expect_same_bits(alone, &job, 0);
    tiny_release(&job);
}

/* Parameters go from device to device as gradients do; where the devices cannot, both go by the host. A replica with one micro-batch in
 * a step has no whole gradient with ZeRO 2: buckets take turns in memory then, and in some layouts others have two. */
static void shards_of_the_state_change_no_bit(void)
{
    static const uint32_t layouts[][3] = {{2, 1, 1}, {3, 1, 2}, {2, 2, 1}, {4, 1, 1},
                                          {3, 3, 2}, {6, 1, 2}, {4, 1, 2}, {6, 2, 2}};
    static const int64_t sizes[] = {0, 5000, 30000};
    tiny_job alone = job_of(1, 1, 6, 6, false);
    alone.config.vocabulary = CHECK_SIZE(300, 7), alone.config.width = CHECK_SIZE(200, 5);
    tiny_run_well(&alone);
    for (size_t i = 0; i < CHECK_SIZE(sizeof layouts / sizeof *layouts, 1); i++)
        for (int refused = 0; refused < CHECK_SIZE(2, 1); refused++) {
            tiny_bucket_elements = sizes[i % 3];
            run_in_shards(&alone, layouts[i], 6, 6, refused);
        }
    for (size_t s = 0; s < CHECK_SIZE(sizeof sizes / sizeof *sizes, 0); s++) {
        tiny_bucket_elements = sizes[s];
        run_in_shards(&alone, (const uint32_t[3]){6, 1, 2}, 6, 6, false);
    }
    tiny_bucket_elements = 0;
    tiny_release(&alone);
}

/* Every step of the program that touches a bucket finds its memory its own, and nobody's data that has not left. */
static void buckets_that_take_turns_never_meet(void)
{
    uint32_t n_reused = 0;
    for (uint32_t seed = 0; seed < 300; seed++) {
        tr_rng_key key = {seed, 2, 0, 0};
        tr_bucket_part parts[40];
        tr_bucket buckets[40];
        uint32_t n = 1 + (uint32_t)(tr_rng_u64(&key, 0) % 40);
        int64_t at = 0, largest = 0, least = (int64_t)(tr_rng_u64(&key, 1) % 600);
        for (uint32_t i = 0; i < n; i++) { /* mostly backwards, as gradients come */
            int64_t size = 16 * (1 + (int64_t)(tr_rng_u64(&key, 2 + 3 * i) % 9));
            int32_t first = 3 * (int32_t)(n - i) + (int32_t)(tr_rng_u64(&key, 3 + 3 * i) % 5);
            int32_t last = first + (int32_t)(tr_rng_u64(&key, 4 + 3 * i) % (seed % 2 ? 4 : 40));
            parts[i] = (tr_bucket_part){at, at + size, last, first};
            at += size;
        }
        uint32_t n_buckets = tr_buckets_of(parts, n, (int64_t)(tr_rng_u64(&key, 200) % 300), buckets);
        int64_t total = tr_buckets_place(buckets, n_buckets, least);
        for (uint32_t b = 0; b < n_buckets; b++) {
            const tr_bucket *self = &buckets[b];
            int64_t size = self->end - self->begin;
            int32_t wanted = -1;
            if (size > largest) largest = size;
            CU_ASSERT(self->place >= 0 && self->place + size <= total);
            for (uint32_t i = 0; i < b; i++) {
                const tr_bucket *other = &buckets[i];
                bool meet = other->place < self->place + size &&
                            self->place < other->place + other->end - other->begin;
                CU_ASSERT(!meet || other->position < self->first);
                if (meet) wanted = (int32_t)i;
            }
            CU_ASSERT_EQUAL(self->after, wanted);
            n_reused += wanted >= 0;
        }
        CU_ASSERT(total >= largest && total >= least);
        if (seed % 2 && least >= 400) CU_ASSERT(total <= (least > at ? least : at));
    }
    CU_ASSERT(n_reused > 1000);
}

static uint64_t gradient_bytes(tiny_job *job, uint32_t zero, bool by_devices)
{
    tr_stage_spec spec;
    tr_program *program;
    tr_error err = {0};
    uint64_t bytes = 0;
    job->config.plan.zero = zero;
    CHECK_OK(tiny_stage_open(NULL, &job->config, sizeof job->config, &spec, &err));
    tr_program_options options = {.device = TR_DEVICE_CPU, .n_threads = 1};
    CHECK_OK(tr_program_new(&program, spec.graph, &options, &err));
    CHECK_OK(tr_stage_gradient_bytes(&spec, program, 1, by_devices, &bytes, &err));
    tr_program_destroy(&program);
    tiny_stage_close(&spec);
    return bytes;
}

/* With one micro-batch in a step there is no whole gradient with ZeRO 2; with two there is. */
static void the_plan_knows_who_has_no_whole_gradient(void)
{
    if (CHECK_SIZE(false, true)) return;
    for (uint32_t microbatches = 3; microbatches <= 6; microbatches += 3) {
        tiny_job job = job_of(3, 1, microbatches, microbatches, false);
        job.config.vocabulary = 2000, job.config.width = 400;
        tiny_bucket_elements = 16384;
        uint64_t whole = gradient_bytes(&job, 0, false), first = gradient_bytes(&job, 1, true),
                 second = gradient_bytes(&job, 2, true);
        CU_ASSERT(first >= whole && first < whole + whole / 2);
        if (microbatches == 6) CU_ASSERT_EQUAL(second, first);
        uint64_t largest = 4 * (uint64_t)tiny_elements(&job.config, 0), third = whole / 3;
        if (microbatches == 3) CU_ASSERT(second < largest + third + third / 2 && second >= largest + third);
    }
    tiny_bucket_elements = 0;
}

static void one_that_cannot_join_keeps_all_with_the_host(void)
{
    for (int who = 0; who < CHECK_SIZE(2, 1); who++) {
        tiny_job alone = job_of(1, 1, 4, 4, false), job = job_of(3, 1, 4, 4, false);
        tiny_run_well(&alone);
        setenv("FAKE_NCCL_REFUSES", who ? "2" : "0", 1);
        tiny_run_well(&job);
        unsetenv("FAKE_NCCL_REFUSES");
        CU_ASSERT(strstr(job.reduction, "by the host: NCCL: ncclCommInitRankConfig failed") != NULL);
        tiny_expect_same_bits(&alone, &job, 0);
        tiny_release(&alone);
        tiny_release(&job);
    }
}

/* The device may still write into what would be freed, so the process ends, and its agent replaces it. */
static void a_worker_that_cannot_leave_its_group_is_ended_by_force(void)
{
    if (CHECK_SIZE(false, true)) return; /* it waits for seconds */
    int status = 0;
    pid_t child = fork();
    if (child == 0) {
        tr_error err = {0};
        tiny_job job = job_of(2, 1, 4, 4, false);
        setenv("FAKE_NCCL_HANGS", "1", 1);
        tiny_run(&job, &err);
        _exit(0);
    }
    CU_ASSERT_EQUAL_FATAL(waitpid(child, &status, 0), child);
    CU_ASSERT(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static const check_test tests[] = {
    CHECK_TEST(neighbours_share_a_bucket_until_it_is_full),
    CHECK_TEST(buckets_cover_every_element_once_in_the_order_of_the_program),
    CHECK_TEST(without_the_library_the_host_sums),
    CHECK_TEST(no_layout_and_no_bucket_changes_a_bit),
    CHECK_TEST(shards_of_the_state_change_no_bit),
    CHECK_TEST(buckets_that_take_turns_never_meet),
    CHECK_TEST(the_plan_knows_who_has_no_whole_gradient),
    CHECK_TEST(one_that_cannot_join_keeps_all_with_the_host),
    CHECK_TEST(a_worker_that_cannot_leave_its_group_is_ended_by_force),
};

int main(void)
{
    setenv("TROUPE_STAGE_APART", "1", 1);
    unsetenv("TROUPE_TEST_DEVICE");      /* the library is a fake */
    setenv("TROUPE_NCCL", FAKE_NCCL, 1); /* where memory fails each test runs by itself */
    tiny_collectives = &tr_nccl;
    alarm(250);
    return check_run("actors/collect", tests, sizeof tests / sizeof *tests);
}
