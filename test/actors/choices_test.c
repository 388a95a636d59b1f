/* test/actors/choices_test.c - stages ask for algorithms of matrix products before they compute anything, one after the other,
 * and what is kept for them changes nothing else. On the CPU nothing is ever measured; what a GPU measures and keeps is looked
 * at by test/cli/cuda_execution_test.c.
 * SPDX-License-Identifier: Apache-2.0 */
#include "tiny_job.h"

#include "ops/product_choices.h"

static struct {
    uint32_t n_asked, n_kept;
    const char *text;
} desk;

static char *choices(void *context, const char *name, char *why, size_t capacity)
{
    const tiny_job *job = context;
    CU_ASSERT_STRING_EQUAL(name, ""); /* the CPU has no library that would be chosen from */
    CU_ASSERT_EQUAL(job->n_records, 0);
    if (desk.n_asked++ == 0) snprintf(why, capacity, "the first one asks");
    return desk.text ? tr_strdup(desk.text) : NULL;
}

static tr_status keep(void *context, const char *text, tr_error *err)
{
    (void)context, (void)text, (void)err;
    desk.n_kept++;
    return TR_OK;
}

static tiny_job job_of(uint32_t replicas, uint32_t stages, const char *text)
{
    memset(&desk, 0, sizeof desk);
    desk.text = text;
    tiny_job job = tiny_new(replicas, stages, 4, 2, 3);
    job.config.measures = true;
    job.choices = choices;
    job.keep_choices = keep;
    return job;
}

static void expect_run(tiny_job *job, uint32_t n_stages)
{
    tr_error err = {0};
    CHECK_OK(tiny_run(job, &err));
    CU_ASSERT_EQUAL(job->n_records, 3);
    CU_ASSERT_EQUAL(desk.n_asked, n_stages);
    CU_ASSERT_EQUAL(desk.n_kept, 0); /* nothing was measured */
    CU_ASSERT_EQUAL(notes_of(job, "products"), 1);
}

static void every_stage_asks_once_and_learns_what_it_would(void)
{
    tiny_job plain = tiny_new(2, 2, 4, 2, 3), job = job_of(2, 2, NULL);
    tr_error err = {0};
    CHECK_OK(tiny_run(&plain, &err));
    expect_run(&job, 4);
    for (uint32_t i = 0; i < 3; i++) CU_ASSERT_EQUAL(job.records[i].loss, plain.records[i].loss);
    tiny_release(&plain);
    tiny_release(&job);
}

/* The monitor has a turn only when nobody else has anything to do. */
static void nothing_is_computed_before_all_have_been_answered(void)
{
    tiny_job job = job_of(1, 3, NULL);
    job.starve_monitor = true;
    job.asked_before_commit = &desk.n_asked;
    expect_run(&job, 3);
    CU_ASSERT_EQUAL(job.n_asked_before_commit, 3);
    tiny_release(&job);
}

static void what_does_not_read_is_no_reason_to_end(void)
{
    tiny_job job = job_of(1, 2, "something that is no choice\n");
    expect_run(&job, 2);
    tiny_release(&job);
}

static const check_test tests[] = {
    CHECK_TEST(every_stage_asks_once_and_learns_what_it_would),
    CHECK_TEST(nothing_is_computed_before_all_have_been_answered),
    CHECK_TEST(what_does_not_read_is_no_reason_to_end),
};

int main(void)
{
    alarm(200);
    return check_run("actors/choices", tests, sizeof tests / sizeof *tests);
}
