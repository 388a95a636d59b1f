/* test/runtime/device_failure_test.c - a worker that ends because its device failed is told from one that dies of anything else:
 * the job's owner hears of it, and decides whether the job goes on.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/job.h"

#include "base/memory.h"
#include "check.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* What happens to worker 2's actor, epoch by epoch: its device fails, or something else, at work or when it is made. */
typedef enum harm { NONE, AT_WORK, AT_WORK_OTHERWISE, IN_INIT } harm;
enum { N_NODES = 3, TOPIC_DONE = 1, EPOCHS = 4, ALARM_S = 120 };
typedef struct member_config {
    harm of_epoch[EPOCHS]; /* from epoch 1 on; later ones go well */
    uint32_t n_done;       /* the head's: how many workers have told that theirs did */
} member_config;

static tr_status fails(tr_error *error, harm how)
{
    return tr_fail(error, how == AT_WORK_OTHERWISE ? TR_EIO : TR_EDEVICE, "the lights went out");
}

static harm harm_now(const tr_actor *self, const member_config *config)
{
    uint32_t epoch = tr_actor_epoch(self);
    return epoch <= EPOCHS ? config->of_epoch[epoch - 1] : NONE;
}

static tr_status member_init(tr_actor *self, void *context, const void *config, size_t config_bytes,
                             void **state, tr_error *error)
{
    (void)context;
    if (harm_now(self, config) == IN_INIT) return fails(error, IN_INIT);
    *state = tr_alloc(config_bytes);
    if (!*state) return tr_fail(error, TR_ENOMEM, "no memory for a member");
    memcpy(*state, config, config_bytes);
    return TR_OK;
}

static void member_start(tr_actor *self, void *state)
{
    harm now = harm_now(self, state);
    tr_error error;
    if (now != NONE) {
        fails(&error, now);
        tr_actor_fail_node(self, &error);
        return;
    }
    if (tr_actor_self(self) != 1) tr_actor_send(self, 1, TOPIC_DONE, 0, NULL, 0);
}

/* The head's has heard of both. */
static void member_receive(tr_actor *self, void *state, tr_message **message)
{
    member_config *config = state;
    if ((*message)->frame.edge == TOPIC_DONE && ++config->n_done == N_NODES - 1) tr_actor_finish_job(self);
}

static void member_stop(tr_actor *self, void *state)
{
    (void)self;
    tr_free(state);
}

static const tr_behavior member = {.name = "member",
                                   .init = member_init,
                                   .start = member_start,
                                   .receive = member_receive,
                                   .stop = member_stop};
static const tr_actor_kind kinds[] = {{"member", &member, NULL}};
static const tr_registry registry = {kinds, 1};

/* --- the owner --- */

typedef struct owner {
    tr_job_verdict verdict; /* of the second failure; the first stays without consequences */
    int n_failures, n_died, n_quarantined, n_recovered;
    bool saves; /* the last epoch is for saving */
    char text[256], line[256];
} owner;

static void on_event(void *context, const tr_job_event *event)
{
    owner *self = context;
    self->n_died += event->kind == TR_JOB_WORKER_DIED;
    self->n_recovered += event->kind == TR_JOB_RECOVERED;
    if (event->kind != TR_JOB_QUARANTINED) return;
    self->n_quarantined++;
    snprintf(self->line, sizeof self->line, "%s", event->text);
}

static tr_job_verdict device_failed(void *context, int32_t node, const char *text, char *line,
                                    size_t capacity)
{
    owner *self = context;
    CU_ASSERT_EQUAL(node, 2);
    snprintf(self->text, sizeof self->text, "%s", text);
    if (++self->n_failures != 2 || self->verdict == TR_JOB_DEVICE_STAYS) return TR_JOB_DEVICE_STAYS;
    snprintf(line, capacity, "lamp 2 is out");
    return self->verdict;
}

static tr_status begin_again(void *context, tr_job_beginning *beginning, tr_error *error)
{
    (void)error;
    owner *self = context;
    self->saves = beginning->gives_up;
    return TR_OK;
}

static tr_status run(const member_config *config, owner *self, bool recovers, tr_error *out)
{
    tr_topology topology;
    tr_error err = {0};
    tr_topology_init(&topology, N_NODES);
    for (int32_t node = 0; node < N_NODES; node++) {
        member_config none = {{NONE}, 0}, own = node == 2 ? *config : none;
        char name[32];
        snprintf(name, sizeof name, "member %d", node);
        CHECK_OK(tr_topology_add_actor(&topology, name, "member", node, &own, sizeof own, 0, NULL, &err));
    }
    const tr_job_options options = {.topology = &topology,
                                    .registry = &registry,
                                    .processes = true,
                                    .transport = "zmq",
                                    .recovery = {.max_restarts = recovers ? 10 : 0,
                                                 .within_ms = 60000,
                                                 .begin_again = begin_again,
                                                 .device_failed = device_failed},
                                    .context = self,
                                    .on_event = on_event};
    tr_status status = tr_job_run(&options, out);
    tr_topology_release(&topology);
    return status;
}

/* --- the tests --- */

static void a_failed_device_has_an_exit_code_of_its_own(void)
{
    tr_error err = {0};
    owner self = {.verdict = TR_JOB_DEVICE_STAYS};
    CHECK_OK(run(&(member_config){{AT_WORK, AT_WORK, AT_WORK}, 0}, &self, true, &err));
    CU_ASSERT(self.n_failures == 3 && self.n_died == 3 && self.n_quarantined == 0 && !self.saves);
    CU_ASSERT(strstr(self.text, "worker 2 (pid ") &&
              strstr(self.text, " ended with exit code 3 (its device failed)"));
}

static void another_failure_is_none_of_a_device(void)
{
    tr_error err = {0};
    owner self = {.verdict = TR_JOB_NO_DEVICE_LEFT};
    CHECK_OK(run(&(member_config){{AT_WORK_OTHERWISE, AT_WORK_OTHERWISE}, 0}, &self, true, &err));
    CU_ASSERT(self.n_failures == 0 && self.n_died == 2 && self.n_quarantined == 0);
}

static void without_the_device_the_job_goes_on(void)
{
    tr_error err = {0};
    owner self = {.verdict = TR_JOB_DEVICE_LEFT_OUT};
    CHECK_OK(run(&(member_config){{AT_WORK, AT_WORK}, 0}, &self, true, &err));
    CU_ASSERT(self.n_failures == 2 && self.n_died == 2 && self.n_recovered == 2 && !self.saves);
    CU_ASSERT_EQUAL(self.n_quarantined, 1);
    CU_ASSERT_STRING_EQUAL(self.line, "lamp 2 is out");
}

/* One epoch more, for saving; in this job nothing is to be saved, and it does its work in it. */
static void with_no_device_left_the_state_is_saved(void)
{
    tr_error err = {0};
    owner self = {.verdict = TR_JOB_NO_DEVICE_LEFT};
    CU_ASSERT_EQUAL(run(&(member_config){{AT_WORK, AT_WORK}, 0}, &self, true, &err), TR_ECLOSED);
    CU_ASSERT_STRING_EQUAL(err.message, "lamp 2 is out");
    CU_ASSERT(self.n_failures == 2 && self.n_quarantined == 1 && self.saves);
}

static void a_device_that_fails_when_all_begin_again_is_counted(void)
{
    tr_error err = {0};
    owner self = {.verdict = TR_JOB_DEVICE_LEFT_OUT};
    CHECK_OK(run(&(member_config){{AT_WORK_OTHERWISE, IN_INIT, IN_INIT}, 0}, &self, true, &err));
    CU_ASSERT(self.n_failures == 2 && self.n_died == 3 && self.n_quarantined == 1);
}

/* Then somebody has just begun it, and shall see why it does not work. */
static void a_device_that_fails_at_the_very_beginning_ends_the_job(void)
{
    tr_error err = {0};
    owner self = {.verdict = TR_JOB_DEVICE_STAYS};
    CU_ASSERT_EQUAL(run(&(member_config){{IN_INIT}, 0}, &self, true, &err), TR_EDEVICE);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.message, "worker 2: "));
    CU_ASSERT_PTR_NOT_NULL(strstr(err.message, "the lights went out"));
    CU_ASSERT(self.n_failures == 0 && self.n_quarantined == 0);
}

static void where_deaths_are_not_mended_nobody_counts(void)
{
    tr_error err = {0};
    owner self = {.verdict = TR_JOB_DEVICE_STAYS};
    CU_ASSERT_EQUAL(run(&(member_config){{AT_WORK}, 0}, &self, false, &err), TR_ECLOSED);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.message, "ended with exit code 3 (its device failed)"));
    CU_ASSERT_EQUAL(self.n_failures, 0);
}

static const check_test tests[] = {
    CHECK_TEST(a_failed_device_has_an_exit_code_of_its_own),
    CHECK_TEST(another_failure_is_none_of_a_device),
    CHECK_TEST(without_the_device_the_job_goes_on),
    CHECK_TEST(with_no_device_left_the_state_is_saved),
    CHECK_TEST(a_device_that_fails_when_all_begin_again_is_counted),
    CHECK_TEST(a_device_that_fails_at_the_very_beginning_ends_the_job),
    CHECK_TEST(where_deaths_are_not_mended_nobody_counts),
};

int main(int argc, char **argv)
{
    if (tr_job_is_child(argc, argv)) return tr_job_child_main(argc, argv, &registry);
    alarm(ALARM_S); /* a job that hangs takes its processes with it */
    return check_run("runtime/device_failure", tests, sizeof tests / sizeof *tests);
}
