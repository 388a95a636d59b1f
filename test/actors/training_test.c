/* test/actors/training_test.c - stages, shards, coordinator, checkpoint and monitor together, in this process, over
 * a tiny model: the numbers are those of plain double loops, no layout changes a bit, every end is a good one.
 * SPDX-License-Identifier: Apache-2.0 */
#include "tiny_job.h"
#include "tiny_reference.h"

enum { ALARM_S = 280 }; /* a hang is a failure, not a wait */

/* --- numbers --- */

/* Sums of about a hundred float products: 2e-5 absolute and relative leaves room for steps that feed on one another. */
static void expect_near(double got, double wanted, double tolerance)
{
    bool near = fabs(got - wanted) <= tolerance + tolerance * fabs(wanted);
    if (!near) fprintf(stderr, "expected %.9g, got %.9g\n", wanted, got);
    CU_ASSERT(near);
}

static void expect_reference(tiny_job *job)
{
    const tr_training_plan *plan = &job->config.plan;
    reference known;
    reference_open(&known, &job->config);
    for (uint32_t i = 0; i < job->n_records; i++) {
        const tr_step_record *record = &job->records[i];
        double lr = tiny_lr(job, i);
        reference_step(&known, lr);
        expect_near(record->loss, known.loss, 2e-5);
        expect_near(record->grad_norm, known.norm, 1e-4);
        expect_near(record->lr, lr, 1e-7);
        CU_ASSERT_EQUAL(record->tokens, known.tokens);
        CU_ASSERT(record->stall >= 0 && record->stall <= 1 && record->step_ms > 0 &&
                  record->tokens_per_s > 0);
        uint32_t windows = tr_plan_windows_after(plan, i + 1);
        CU_ASSERT_EQUAL(record->has_validation, windows > 0);
        if (windows) expect_near(record->validation_loss, reference_validation(&known, windows), 2e-5);
    }
    for (uint32_t i = 0; i < N_TINY; i++)
        for (int64_t e = 0; e < tiny_elements(&job->config, i); e++) {
            expect_near((double)job->state[3 * i][e], known.p[i][e], 2e-4);
            expect_near((double)job->state[3 * i + 1][e], known.m[i][e], 2e-4);
            expect_near((double)job->state[3 * i + 2][e], known.v[i][e], 2e-4);
        }
    CU_ASSERT_EQUAL(job->last_committed, plan->n_steps);
    reference_close(&known);
}

static void numbers_are_those_of_plain_loops(void)
{
    const uint32_t layouts[][2] = {{2, 2}, {1, 1}, {1, 4}};
    for (size_t i = 0; i < CHECK_SIZE(3, 1); i++) {
        tiny_job job =
            tiny_new(layouts[i][0], layouts[i][1], CHECK_SIZE(5, 3), CHECK_SIZE(3, 2), CHECK_SIZE(6, 2));
        job.config.plan.validate_every = 2;
        job.config.plan.validation_windows = 3;
        job.config.plan.all_windows = 7;
        tiny_run_well(&job);
        expect_reference(&job);
        CU_ASSERT(job.records[0].grad_norm > 0.1); /* so clipping was tried */
        tiny_release(&job);
    }
}

static void without_clipping_the_gradient_stays(void)
{
    tiny_job job = tiny_new(1, 2, 2, 2, 4);
    job.config.plan.clip_norm = 0;
    tiny_run_well(&job);
    expect_reference(&job);
    tiny_release(&job);
}

/* Training goes on beside a monitor that has no turn, but not further than a death could make good. */
static void steps_wait_for_a_log_that_is_far_behind(void)
{
    uint32_t most = CHECK_SIZE(TR_COORDINATOR_UNTOLD, 3);
    tiny_job job = tiny_new(1, 1, 1, 1, 2 * most);
    job.starve_monitor = true;
    job.most_untold = CHECK_SIZE(0, most);
    tiny_run_well(&job);
    CU_ASSERT_EQUAL(job.n_before_first, most);
    tiny_release(&job);
}

static tiny_job job_of(uint32_t replicas, uint32_t stages, uint32_t microbatches, uint32_t groups)
{
    tiny_job job = tiny_new(replicas, stages, microbatches, groups, CHECK_SIZE(5, 2));
    job.config.plan.validate_every = CHECK_SIZE(3, 2);
    job.config.plan.validation_windows = 4;
    job.config.plan.all_windows = 9;
    return job;
}

static void compare_layouts(uint32_t microbatches, uint32_t groups, int64_t vocabulary, int64_t width)
{
    const uint32_t layouts[][2] = {{2, 2}, {2, 1}, {1, 2}, {3, 1}, {1, 4}, {3, 3}};
    tiny_job alone = job_of(1, 1, microbatches, groups);
    alone.config.vocabulary = vocabulary, alone.config.width = width;
    tiny_run_well(&alone);
    for (size_t i = 0; i < CHECK_SIZE(sizeof layouts / sizeof *layouts, 1); i++) {
        tiny_job job = job_of(layouts[i][0], layouts[i][1], microbatches, groups);
        job.config.vocabulary = vocabulary, job.config.width = width;
        tiny_run_well(&job);
        tiny_expect_same_bits(&alone, &job, 0);
        tiny_release(&job);
    }
    tiny_release(&alone);
}

static void no_layout_changes_a_bit(void)
{
    compare_layouts(CHECK_SIZE(5, 3), CHECK_SIZE(3, 2), 7, 5); /* uneven groups */
    if (CHECK_SIZE(false, true)) return;
    compare_layouts(6, 4, 7, 5); /* uneven shares of groups */
    compare_layouts(3, 3, 7, 5);
}

static void no_layout_changes_a_bit_of_tensors_with_many_blocks(void)
{
    compare_layouts(3, 3, 503, 65); /* E has two blocks of the norm */
}

/* Tensors of less than a block, which one replica has whole, and of several; a replica may have nothing. Each has its part of
 * the state in its slot, hence less than with all of it. */
static void shards_of_the_state_change_no_bit(void)
{
    const uint32_t layouts[][3] = {{2, 2, 1}, {2, 1, 2}, {3, 1, 1}, {4, 2, 2}, {3, 3, 1}, {2, 4, 2}};
    const int64_t sizes[][2] = {{300, 200}, {7, 5}};
    for (size_t k = 0; k < CHECK_SIZE(2, 1); k++) {
        tiny_job alone = job_of(1, 1, 5, 4);
        alone.config.vocabulary = CHECK_SIZE(sizes[k][0], 7), alone.config.width = CHECK_SIZE(sizes[k][1], 5);
        tiny_run_well(&alone);
        for (size_t i = 0; i < CHECK_SIZE(sizeof layouts / sizeof *layouts, 1); i++) {
            tiny_job job = job_of(layouts[i][0], layouts[i][1], 5, 4);
            job.config.vocabulary = alone.config.vocabulary, job.config.width = alone.config.width;
            uint64_t whole = state_bytes_of(&job.config), held = 0;
            job.config.plan.zero = layouts[i][2];
            for (tiny_config c = job.config; c.replica < layouts[i][0]; c.replica++)
                held += state_bytes_of(&c);
            CU_ASSERT(held >= whole && held <= whole + layouts[i][0] * N_TINY * 3 * 64);
            tiny_run_well(&job);
            tiny_expect_same_bits(&alone, &job, 0);
            tiny_release(&job);
        }
        tiny_release(&alone);
    }
}

static void threads_of_time_change_nothing(void)
{
    const uint32_t stages = CHECK_SIZE(2, 1), microbatches = CHECK_SIZE(7, 3), groups = CHECK_SIZE(5, 3);
    tiny_job first = job_of(3, stages, microbatches, groups);
    tiny_run_well(&first);
    for (int i = 0; i < CHECK_SIZE(15, 1); i++) { /* other interleavings each time */
        tiny_job again = job_of(3, stages, microbatches, groups);
        tiny_run_well(&again);
        tiny_expect_same_bits(&first, &again, 0);
        tiny_release(&again);
    }
    tiny_release(&first);
}

static tiny_job holding_job(void)
{
    tiny_job job = job_of(CHECK_SIZE(2, 1), CHECK_SIZE(2, 1), CHECK_SIZE(5, 2), CHECK_SIZE(3, 2));
    job.config.plan.n_steps = 5;
    job.config.plan.checkpoint_every = 2;
    return job;
}

static void holding_few_states_changes_nothing(void)
{
    tiny_job each = holding_job();
    tiny_run_well(&each);
    for (uint32_t every = 2; every <= CHECK_SIZE(7, 2); every += 5) {
        tiny_job few = holding_job();
        few.config.plan.hold_every = every;
        few.config.plan.zero = CHECK_SIZE(every / 2 - 1, 0); /* of 2: 0; of 7: 2 */
        few.slow_ms = 1; /* a checkpoint is still being streamed when the next state is held */
        tiny_run_well(&few);
        CU_ASSERT(few.committed == 3 && few.last_committed == 5);
        tiny_expect_same_bits(&each, &few, 0);
        tiny_release(&few);
    }
    tiny_release(&each);
}

/* Groups of several micro-batches, so that sums travel; an unequal share of them; and who audits is audited. */
static void audits_change_nothing_and_miss_nothing(void)
{
    const uint32_t layouts[][4] = {
        {2, 2, TR_AUDIT_ALL}, {3, 1, TR_AUDIT_ALL}, {2, 2, TR_AUDIT_ALL / 3}, {3, 1, TR_AUDIT_ALL, 1}};
    for (size_t i = 0; i < CHECK_SIZE(sizeof layouts / sizeof *layouts, 1); i++) {
        uint32_t n_replicas = layouts[i][0], n_stages = layouts[i][1], n_microbatches = CHECK_SIZE(7, 3);
        tiny_job without = job_of(n_replicas, n_stages, n_microbatches, CHECK_SIZE(3, 2)),
                 with = job_of(n_replicas, n_stages, n_microbatches, CHECK_SIZE(3, 2));
        tr_training_plan *plan = &with.config.plan;
        plan->audit = layouts[i][2];
        plan->zero = layouts[i][3];
        tiny_run_well(&without);
        tiny_run_well(&with);
        tiny_expect_same_bits(&without, &with, 0);
        uint32_t due = 0; /* the tiny model has no seed: 0 */
        for (uint32_t step = 0; step < plan->n_steps; step++)
            for (uint32_t m = 0; m < n_microbatches; m++)
                due += n_stages * tr_plan_is_audited(plan, 0, step, m);
        if (getenv("TROUPE_STAGE_APART") || tiny_device() != TR_DEVICE_CPU) due = 0; /* not there */
        CU_ASSERT(with.n_audited == due && without.n_audited == 0);
        tiny_release(&without);
        tiny_release(&with);
    }
}

/* --- checkpoints --- */

static void every_byte_of_a_checkpoint_comes_once(void)
{
    const uint32_t n_steps = CHECK_SIZE(3, 1);
    for (uint32_t zero = 0; zero < CHECK_SIZE(2, 1); zero++) {
        tiny_job job = tiny_new(2, 2, 2, 2, n_steps);
        job.config.vocabulary = 4099; /* E is 1.1 MiB: chunks of three sizes; of shards a chunk of each */
        job.config.width = 67;
        job.config.plan.checkpoint_every = 1;
        job.config.plan.sequence = 3;
        job.config.plan.zero = zero;
        tiny_run_well(&job);
        CU_ASSERT(job.began == n_steps && job.committed == n_steps && job.abandoned == 0);
        CU_ASSERT_EQUAL(job.chunks, n_steps * 3 * (N_TINY + 1));
        CU_ASSERT_EQUAL(notes_of(&job, "checkpoint"), n_steps);
        tiny_release(&job);
    }
}

/* A small state is streamed long before the measuring is done, without which there is no record. That the log is synced
 * before the commit, writer_commit looks at. */
static void a_checkpoint_waits_for_the_record_of_its_step(void)
{
    const uint32_t n_steps = CHECK_SIZE(4, 2);
    tiny_job job = tiny_new(2, 2, 2, 2, n_steps);
    job.config.plan.checkpoint_every = job.config.plan.validate_every = 1;
    job.config.plan.validation_windows = job.config.plan.all_windows = CHECK_SIZE(64, 4);
    tiny_run_well(&job);
    CU_ASSERT(job.committed == n_steps && job.n_synced == n_steps);
    tiny_release(&job);
}

/* Stages run ahead of a slow writer by one update at most; what is written is still the state of one moment. */
static void a_checkpoint_continues_with_the_same_bits(void)
{
    const uint32_t layouts[][2] = {{2, 1}, {2, 2}, {1, 1}, {3, 1}}, next[] = {0, 1, 3, 2};
    const uint32_t microbatches = CHECK_SIZE(5, 2), groups = CHECK_SIZE(3, 2);
    tiny_job whole = job_of(1, 2, microbatches, groups);
    whole.config.plan.n_steps = 5;
    tiny_run_well(&whole);
    for (size_t i = CHECK_SIZE(1, 0); i < CHECK_SIZE(4, 1); i++) {
        tiny_job half = job_of(layouts[i][0], layouts[i][1], microbatches, groups);
        half.config.plan.n_steps = 5;
        half.config.plan.checkpoint_every = 2;
        half.slow_ms = 1;
        half.config.plan.zero = layouts[i][0] > 1 ? 1 + (uint32_t)i % 2 : 0;
        half.fault = FAIL_BEGIN; /* the last fails, so the one after update 4 is what is left */
        half.fault_at = 5;
        tr_error err = {0};
        CU_ASSERT_EQUAL(tiny_run(&half, &err), TR_EIO);
        CU_ASSERT_EQUAL(half.last_committed, 4);
        tiny_job rest = job_of(layouts[next[i]][0], layouts[next[i]][1], microbatches, groups);
        rest.config.plan.n_steps = 5;
        rest.config.plan.first_step = 4;
        rest.config.plan.zero = layouts[next[i]][0] > 1 && i == 2;
        rest.config.from = (const float *const *)half.state;
        rest.tokens_before = whole.records[3].tokens;
        tiny_run_well(&rest);
        tiny_expect_same_bits(&whole, &rest, 4);
        tiny_release(&half);
        tiny_release(&rest);
    }
    tiny_release(&whole);
}

static void a_failed_checkpoint_is_an_alarm_and_training_goes_on(void)
{
    for (writer_fault fault = FAIL_BEGIN; fault <= FAIL_COMMIT; fault++) {
        tiny_job job = tiny_new(CHECK_SIZE(2, 1), CHECK_SIZE(2, 1), CHECK_SIZE(4, 1), CHECK_SIZE(4, 1), 6);
        job.config.plan.checkpoint_every = 2;
        job.fault = fault;
        job.fault_at = 2;
        tiny_run_well(&job);
        CU_ASSERT(job.began == 3 && job.committed == 2 && job.last_committed == 6);
        CU_ASSERT_EQUAL(job.abandoned, fault == FAIL_COMMIT ? 0 : 1);
        CU_ASSERT_EQUAL(notes_of(&job, "checkpoint_failed"), 1);
        CU_ASSERT_EQUAL(notes_of(&job, "checkpoint"), 2);
        tiny_release(&job);
    }
}

static void a_failed_last_checkpoint_fails_the_job(void)
{
    static const char *const words[] = {
        [FAIL_BEGIN] = "no begin", [FAIL_WRITE] = "no write", [FAIL_COMMIT] = "no commit"};
    for (writer_fault fault = FAIL_BEGIN; fault <= FAIL_COMMIT; fault++) {
        const uint32_t n_steps = CHECK_SIZE(4, 1);
        tiny_job job = tiny_new(1, CHECK_SIZE(2, 1), 2, 2, n_steps);
        tr_error err = {0};
        job.fault = fault;
        CU_ASSERT_EQUAL(tiny_run(&job, &err), TR_EIO);
        CU_ASSERT(strstr(err.message, words[fault]) != NULL);
        CU_ASSERT(job.began == 1 && job.committed == 0);
        CU_ASSERT_EQUAL(job.n_records, n_steps);
        tiny_release(&job);
    }
}

/* --- ends --- */

static void expect_stop(tiny_job *job)
{
    tr_error err = {0};
    CHECK_OK(tiny_run(job, &err));
    CU_ASSERT(job->n_records >= job->interrupt_at && job->n_records < job->config.plan.n_steps);
    CU_ASSERT(job->committed >= 1);
    CU_ASSERT_EQUAL(job->last_committed, job->n_records); /* the checkpoint is of the last step told */
    CU_ASSERT_EQUAL(notes_of(job, "stopped"), 1);
    tiny_release(job);
}

static void a_request_to_stop_ends_after_a_step_with_a_checkpoint(void)
{
    for (uint32_t slow = 0; slow <= CHECK_SIZE(5, 0); slow += 5) { /* a slow disk does not keep it going */
        tiny_job job = tiny_new(CHECK_SIZE(2, 1), 2, CHECK_SIZE(4, 1), CHECK_SIZE(4, 1), MOST_STEPS);
        job.interrupt_at = CHECK_SIZE(3, 1);
        job.slow_ms = slow;
        expect_stop(&job);
    }
    for (uint32_t at = 3; at <= CHECK_SIZE(5, 3); at++) { /* also where that state would not have been held */
        tiny_job job = tiny_new(CHECK_SIZE(2, 1), 1, CHECK_SIZE(4, 1), CHECK_SIZE(4, 1), MOST_STEPS);
        job.config.plan.hold_every = 4;
        job.interrupt_at = at;
        expect_stop(&job);
    }
    for (uint32_t at = 1; at <= CHECK_SIZE(4, 1); at++) { /* also where a checkpoint is due anyway */
        tiny_job job = tiny_new(1, CHECK_SIZE(2, 1), CHECK_SIZE(2, 1), CHECK_SIZE(2, 1), MOST_STEPS);
        job.config.plan.checkpoint_every = 2;
        job.config.plan.validate_every = 1;
        job.config.plan.validation_windows = job.config.plan.all_windows = CHECK_SIZE(3, 1);
        job.interrupt_at = at;
        job.slow_ms = at % 2 ? 0 : 3;
        expect_stop(&job);
    }
}

static void a_loss_that_is_no_number_ends_the_job_before_the_update(void)
{
    tiny_job job = tiny_new(CHECK_SIZE(2, 1), 2, CHECK_SIZE(4, 1), CHECK_SIZE(4, 1), 10);
    tr_error err = {0};
    job.config.poisoned = true;
    CU_ASSERT_EQUAL(tiny_run(&job, &err), TR_EINVAL);
    CU_ASSERT(strstr(err.message, "step 1 has a loss of") && strstr(err.message, "nothing was updated"));
    CU_ASSERT(job.n_records == 0 && job.began == 0);
    tiny_release(&job);

    job = tiny_new(1, 2, 2, 2, 10);
    job.explode_at = 3;
    job.config.plan.checkpoint_every = 1;
    CU_ASSERT_EQUAL(tiny_run(&job, &err), TR_EINVAL);
    CU_ASSERT(strstr(err.message, "step 4 has a loss of") != NULL);
    CU_ASSERT(job.n_records == 3 && job.began <= 3);
    tiny_release(&job);
}

static bool is_no_number(const tr_step_record *record)
{
    const double none = (double)NAN;
    return memcmp(&record->loss, &none, sizeof none) == 0 &&
           memcmp(&record->grad_norm, &none, sizeof none) == 0;
}

/* Step 3 leaves a state whose gradients are no numbers: from then on nothing changes it. */
static void updates_that_are_left_out_change_no_state(void)
{
    const uint32_t layouts[][2] = {{1, 1}, {2, 2}};
    tiny_job before = tiny_new(1, 2, CHECK_SIZE(4, 2), 2, 3);
    before.explode_at = 3;
    tiny_run_well(&before);
    for (size_t i = CHECK_SIZE(0, 1); i < 2; i++) {
        tiny_job job = tiny_new(layouts[i][0], layouts[i][1], CHECK_SIZE(4, 2), 2, 6);
        job.explode_at = 3;
        job.leaves_out = true;
        job.config.plan.checkpoint_every = 4;
        tiny_run_well(&job);
        CU_ASSERT_EQUAL(notes_of(&job, "update_left_out"), 3);
        for (uint32_t r = 0; r < 6; r++) CU_ASSERT_EQUAL(is_no_number(&job.records[r]), r >= 3);
        for (uint32_t k = 0; k < 3 * N_TINY; k++)
            CU_ASSERT(memcmp(job.state[k], before.state[k],
                             (size_t)tiny_elements(&job.config, k / 3) * sizeof(float)) == 0);
        tiny_release(&job);
    }
    tiny_release(&before);

    tiny_job job = tiny_new(1, 1, 1, 1, 20);
    tr_error err = {0};
    job.explode_at = 3;
    job.leaves_out = true;
    CU_ASSERT_EQUAL(tiny_run(&job, &err), TR_EINVAL);
    CU_ASSERT(strstr(err.message, "step 14 has a loss of") &&
              strstr(err.message, "the last 10 steps were left out"));
    CU_ASSERT_EQUAL(job.n_records, 13);
    tiny_release(&job);
}

static void a_monitor_that_cannot_write_ends_the_job(void)
{
    tiny_job job = tiny_new(1, 2, 2, 2, 20);
    tr_error err = {0};
    job.fail_record = true;
    CU_ASSERT_NOT_EQUAL(tiny_run(&job, &err), TR_OK);
    CU_ASSERT(strstr(err.message, "the pencil is broken") && strstr(err.message, "monitor"));
    tiny_release(&job);
}

/* Ctrl-C in the moment in which it ends of something else: this process goes on, and says of what. */
static void a_signal_beside_a_failure_is_the_jobs(void)
{
    tiny_job job = tiny_new(1, 1, 1, 1, 20);
    tr_error err = {0};
    job.config.plan.checkpoint_every = 1;
    job.fail_record = job.interrupt_late = true;
    CU_ASSERT_NOT_EQUAL(tiny_run(&job, &err), TR_OK);
    CU_ASSERT(strstr(err.message, "the pencil is broken") != NULL);
    CU_ASSERT_EQUAL(job.abandoned, 1); /* or there was no signal */
    tiny_release(&job);
}

/* One micro-batch a replica and step: everything that is kept by step is pushed to its bound. */
static void shards_far_ahead_do_not_hang(void)
{
    for (uint32_t replicas = CHECK_SIZE(1, 2); replicas <= CHECK_SIZE(3, 2); replicas++) {
        tiny_job job = tiny_new(replicas, CHECK_SIZE(4, 2), replicas, replicas, CHECK_SIZE(40, 8));
        job.config.plan.validate_every = 7;
        job.config.plan.validation_windows = 1;
        job.config.plan.all_windows = 5;
        tiny_run_well(&job);
        tiny_release(&job);
    }
    tiny_job job = tiny_new(CHECK_SIZE(2, 1), CHECK_SIZE(4, 2), 12, 2, CHECK_SIZE(10, 1)); /* and many */
    tiny_run_well(&job);
    tiny_release(&job);
}

/* --- no memory --- */

static void no_memory_for_a_stage_ends_the_job_with_a_message(void)
{
    uint64_t failures = 0;
    for (uint64_t n = 1;; n += CHECK_SIZE(1, 61), failures++) {
        tiny_job job = tiny_new(1, 1, 2, 2, 1);
        tr_error err = {0};
        job.fail_after = n;
        tr_status status = tiny_run(&job, &err);
        tiny_release(&job);
        if (!status) break;
        CU_ASSERT(status == TR_ENOMEM || (status == TR_EDEVICE && tiny_device() != TR_DEVICE_CPU));
        CU_ASSERT(strstr(err.message, "stage 0 of replica 0") && strstr(err.message, "no memory"));
    }
    CU_ASSERT(failures > CHECK_SIZE(30, 0));
}

static const check_test tests[] = {
    CHECK_TEST(numbers_are_those_of_plain_loops),
    CHECK_TEST(without_clipping_the_gradient_stays),
    CHECK_TEST(no_layout_changes_a_bit),
    CHECK_TEST(no_layout_changes_a_bit_of_tensors_with_many_blocks),
    CHECK_TEST(shards_of_the_state_change_no_bit),
    CHECK_TEST(threads_of_time_change_nothing),
    CHECK_TEST(holding_few_states_changes_nothing),
    CHECK_TEST(audits_change_nothing_and_miss_nothing),
    CHECK_TEST(every_byte_of_a_checkpoint_comes_once),
    CHECK_TEST(a_checkpoint_waits_for_the_record_of_its_step),
    CHECK_TEST(a_checkpoint_continues_with_the_same_bits),
    CHECK_TEST(steps_wait_for_a_log_that_is_far_behind),
    CHECK_TEST(a_failed_checkpoint_is_an_alarm_and_training_goes_on),
    CHECK_TEST(a_failed_last_checkpoint_fails_the_job),
    CHECK_TEST(a_request_to_stop_ends_after_a_step_with_a_checkpoint),
    CHECK_TEST(a_loss_that_is_no_number_ends_the_job_before_the_update),
    CHECK_TEST(updates_that_are_left_out_change_no_state),
    CHECK_TEST(a_monitor_that_cannot_write_ends_the_job),
    CHECK_TEST(a_signal_beside_a_failure_is_the_jobs),
    CHECK_TEST(shards_far_ahead_do_not_hang),
    CHECK_TEST(no_memory_for_a_stage_ends_the_job_with_a_message),
};

int main(void)
{
    alarm(ALARM_S);
    return check_run("training", tests, sizeof tests / sizeof *tests);
}
