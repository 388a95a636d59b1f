/* test/actors/cuda_stage_test.c - a stage on a GPU that comes to harm: one line says so, and its node ends with it. What stages
 * on a GPU compute is looked at by actors/training_test, run with TROUPE_TEST_DEVICE=cuda.
 * Skipped (exit 77) where there is no GPU.
 * SPDX-License-Identifier: Apache-2.0 */
#include "tiny_job.h"

#include <stdlib.h>

/* A token that is none stops the kernel that looks it up, and from then on all of the process's work on the GPU fails. That
 * the supervisor replaces who ends so, runtime/job_test shows. So this is the only test of its process. */
static void a_broken_context_ends_the_node_with_one_line(void)
{
    tiny_job job = tiny_new(1, 2, 4, 2, 10);
    tr_error err = {0};
    job.config.bad_token_at = 4;
    CU_ASSERT_EQUAL(tiny_run(&job, &err), TR_EDEVICE); /* which is counted: runtime/quarantine.c */
    printf("\n    %s ", err.message);
    CU_ASSERT(strstr(err.message, "actor 'stage 0 of replica 0': ") && strstr(err.message, "cuda:0: "));
    CU_ASSERT(!strchr(err.message, '\n'));
    CU_ASSERT(job.n_records <= 3); /* nothing of the step is told */
    CU_ASSERT_EQUAL(notes_of(&job, "checkpoint"), 0);
    tiny_release(&job);
}

static const check_test tests[] = {CHECK_TEST(a_broken_context_ends_the_node_with_one_line)};

int main(void)
{
    tr_device *device;
    tr_error err = {0};
    if (tr_device_open(&device, TR_DEVICE_CUDA, 0, &err) != TR_OK) {
        printf("not run: %s\n", err.message);
        return err.status == TR_EUNSUPPORTED || err.status == TR_ENOTFOUND ? 77 : 1; /* CTest: skipped */
    }
    tr_device_close(&device);
    setenv("TROUPE_TEST_DEVICE", "cuda", 1);
    alarm(100);
    return check_run("actors/cuda_stage", tests, sizeof tests / sizeof *tests);
}
