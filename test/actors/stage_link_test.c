/* test/actors/stage_link_test.c - stages whose activations and gradients stay on devices: the bits of those whose messages carry them,
 * in every layout, and the host's memory where one end cannot. On the CPU as a device, whose memory others of this host can read.
 * The device is made to look slow: asked whether it is done it says no at first. That ends are processes, on
 * GPUs too, is in actors/device_link_test and cli/cuda_link_test.
 * SPDX-License-Identifier: Apache-2.0 */
#include "tiny_job.h"

#include <pthread.h>
#include <stdlib.h>

/* Messages between stages, those of them whose bodies stayed on the device, and among these the tied gradients. */
static uint32_t n_sent, n_described, n_tied;

/* How often each event was asked since it was recorded. Whoever asks again hears the same, or that it is done. */
enum { MOST_EVENTS = 4096, SLOW = 3 };
static struct {
    const tr_event *event;
    uint32_t n;
} asked[MOST_EVENTS];
static uint32_t n_events;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Events of jobs that have ended stay in the table: one that follows in their place is recorded first. */
static bool is_slow(const tr_event *event, bool recorded)
{
    uint32_t at = 0;
    pthread_mutex_lock(&lock);
    while (at < n_events && asked[at].event != event) at++;
    TR_ASSERT(at < MOST_EVENTS);
    if (at == n_events) asked[n_events++].event = event;
    asked[at].n = recorded ? 0 : asked[at].n + 1;
    bool slow = !recorded && asked[at].n <= SLOW;
    pthread_mutex_unlock(&lock);
    return slow;
}

/* NOLINTBEGIN(bugprone-reserved-identifier): names that the linker's --wrap asks for */
tr_status __real_tr_event_record(tr_event *self, tr_stream *stream, tr_error *err);
tr_status __wrap_tr_event_record(tr_event *self, tr_stream *stream, tr_error *err);
tr_status __wrap_tr_event_record(tr_event *self, tr_stream *stream, tr_error *err)
{
    (void)is_slow(self, true);
    return __real_tr_event_record(self, stream, err);
}

tr_status __real_tr_event_done(const tr_event *self, bool *done, tr_error *err);
tr_status __wrap_tr_event_done(const tr_event *self, bool *done, tr_error *err);
tr_status __wrap_tr_event_done(const tr_event *self, bool *done, tr_error *err)
{
    tr_status status = __real_tr_event_done(self, done, err);
    if (is_slow(self, false)) *done = false;
    return status;
}

void __real_tr_edge_send(tr_actor *self, uint32_t edge, tr_buffer *body, uint32_t size_bytes, uint32_t step,
                         uint32_t microbatch, uint16_t flags);
void __wrap_tr_edge_send(tr_actor *self, uint32_t edge, tr_buffer *body, uint32_t size_bytes, uint32_t step,
                         uint32_t microbatch, uint16_t flags);
void __wrap_tr_edge_send(tr_actor *self, uint32_t edge, tr_buffer *body, uint32_t size_bytes, uint32_t step,
                         uint32_t microbatch, uint16_t flags)
{
    const char *name = tr_edge_spec_of(self, edge)->name;
    bool links = strcmp(name, TR_EDGE_ACTIVATION) == 0 || strcmp(name, TR_EDGE_GRADIENT) == 0 ||
                 strcmp(name, TR_EDGE_TIED) == 0;
    __atomic_add_fetch(&n_sent, links, __ATOMIC_RELAXED); /* read when all have ended */
    bool described = (flags & TR_FRAME_DESCRIPTOR) != 0;
    __atomic_add_fetch(&n_described, described, __ATOMIC_RELAXED);
    __atomic_add_fetch(&n_tied, described && strcmp(name, TR_EDGE_TIED) == 0, __ATOMIC_RELAXED);
    __real_tr_edge_send(self, edge, body, size_bytes, step, microbatch, flags);
}

/* NOLINTEND(bugprone-reserved-identifier) */

static void run_and_count(tiny_job *job)
{
    n_sent = n_described = n_tied = 0;
    tiny_run_well(job);
}

/* Measured between the steps as well: those messages take the same way. */
static tiny_job job_of(uint32_t replicas, uint32_t stages, uint32_t stash)
{
    tiny_job job = tiny_new(replicas, stages, 6, 6, CHECK_SIZE(4, 1));
    job.config.plan.extra_stash = stash;
    job.config.plan.validate_every = 1;
    job.config.plan.validation_windows = 4;
    job.config.plan.all_windows = 8;
    return job;
}

static uint32_t links_that(const tiny_job *job, const char *words)
{
    uint32_t n = 0, most = sizeof job->links / sizeof *job->links;
    for (uint32_t i = 0; i < job->n_links && i < most; i++) n += strstr(job->links[i], words) != NULL;
    return n;
}

static void no_layout_changes_a_bit(void)
{
    static const uint32_t layouts[][3] = {{1, 2, 1}, {1, 2, 0}, {1, 4, 1}, {2, 2, 2}, {3, 3, 0}};
    tiny_job alone = job_of(1, 1, 1);
    run_and_count(&alone);
    CU_ASSERT_EQUAL(notes_of(&alone, "link"), 0);
    for (size_t i = 0; i < CHECK_SIZE(sizeof layouts / sizeof *layouts, 1); i++) {
        uint32_t n_links = layouts[i][0] * layouts[i][1] * 2; /* on, back, and the two ends of E */
        tiny_job job = job_of(layouts[i][0], layouts[i][1], layouts[i][2]);
        run_and_count(&job);
        CU_ASSERT_EQUAL(notes_of(&job, "link"), n_links);
        CU_ASSERT_EQUAL(links_that(&job, " by shared memory, from cpu:0 to cpu:0"), n_links);
        if (CHECK_SIZE(true, false))
            CU_ASSERT(n_tied > 0 && n_described > n_sent / 2 && n_described <= n_sent);
        tiny_expect_same_bits(&alone, &job, 0);
        tiny_release(&job);
    }
    tiny_release(&alone);
}

/* Both its neighbours' links to it and its own; the others' stay. */
static void one_that_takes_no_part_gets_messages_by_the_host(void)
{
    tiny_job alone = job_of(1, 1, 1), job = job_of(1, 4, 1);
    run_and_count(&alone);
    tiny_unlinked = 1;
    run_and_count(&job);
    tiny_unlinked = -1;
    CU_ASSERT_EQUAL(notes_of(&job, "link"), 6); /* those that were offered */
    CU_ASSERT_EQUAL(links_that(&job, " by shared memory"), 4);
    CU_ASSERT_EQUAL(links_that(&job,
                               "stage 0 of replica 0: its activations go to stage 1 of replica 0 through the "
                               "host's memory: the other end computes on the CPU"),
                    1);
    CU_ASSERT_EQUAL(
        links_that(&job, "stage 2 of replica 0: its gradients go to stage 1 of replica 0 through"), 1);
    tiny_expect_same_bits(&alone, &job, 0);
    tiny_release(&job);
    tiny_release(&alone);
}

static void where_none_takes_part_nothing_is_said(void)
{
    tiny_job alone = job_of(1, 1, 1), job = job_of(2, 2, 1);
    run_and_count(&alone);
    tiny_unlinked = N_UNITS;
    run_and_count(&job);
    tiny_unlinked = -1;
    CU_ASSERT_EQUAL(notes_of(&job, "link"), 0);
    CU_ASSERT(n_sent > 0 && n_described == 0);
    tiny_expect_same_bits(&alone, &job, 0);
    tiny_release(&job);
    tiny_release(&alone);
}

/* What describes a body is longer than that body. */
static void short_messages_carry_themselves(void)
{
    tiny_job job = job_of(1, 2, 1);
    job.config.plan.rows = 1, job.config.plan.sequence = 1, job.config.width = 5;
    run_and_count(&job);
    CU_ASSERT_EQUAL(notes_of(&job, "link"), 4);
    CU_ASSERT_EQUAL(links_that(&job, "its tied gradients go to stage 1 of replica 0 by shared memory"), 1);
    CU_ASSERT_EQUAL(links_that(&job, "host's memory: they are shorter than what would describe them"), 2);
    tiny_release(&job);
}

static const check_test tests[] = {
    CHECK_TEST(no_layout_changes_a_bit),
    CHECK_TEST(one_that_takes_no_part_gets_messages_by_the_host),
    CHECK_TEST(where_none_takes_part_nothing_is_said),
    CHECK_TEST(short_messages_carry_themselves),
};

int main(void)
{
    setenv("TROUPE_STAGE_APART", "1", 1);
    unsetenv("TROUPE_TEST_DEVICE"); /* on a GPU links are between processes */
    alarm(250);
    return check_run("actors/stage_link", tests, sizeof tests / sizeof *tests);
}
