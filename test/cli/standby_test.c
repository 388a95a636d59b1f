/* test/cli/standby_test.c - with a standby the head may die, and nobody need do anything: the run goes on and ends with the
 * bits of one that nobody disturbed. The standby goes when the run does.
 * SPDX-License-Identifier: Apache-2.0 */
#include "head_run.h"

#include "pipelines/processes.h"

enum { MOST_STANDBYS = 64 };

static const char *const points[] = {
    "1/data shard 1/reading/12/STOP",
    "1/stage 0 of replica 1/forward/12/STOP",
    "1/stage 0 of replica 1/reduce/12/STOP",
    "1/stage 0 of replica 1/update/12/STOP",
    "1/stage 0 of replica 1/voting/12/STOP",
    "1/stage 1 of replica 0/forward/12/KILL,2/stage 0 of replica 1/restoring/any/STOP",
};
enum { STOPPED = 3 }; /* the worker that all of them stop */

/* The head that leads now; 0: none does. */
static int32_t leader(const char *run)
{
    tr_processes now;
    if (tr_processes_read(&now, run, NULL)) return 0;
    int32_t pid = tr_place_lives(&now.places[TR_NODE_HEAD]) ? now.places[TR_NODE_HEAD].pid : 0;
    tr_processes_release(&now);
    return pid;
}

/* Every standby that there was, by its events. */
static int standbys(const char *run, int32_t pids[MOST_STANDBYS])
{
    int n = 0;
    json_t *events = events_of(run), *event;
    size_t i;
    json_array_foreach(events, i, event)
    {
        const char *waits = strstr(text_of(event, "text"), " waits for the case");
        if (strcmp(text_of(event, "event"), "standby") != 0 || !waits || n == MOST_STANDBYS) continue;
        while (waits[-1] >= '0' && waits[-1] <= '9') waits--;
        pids[n++] = (int32_t)strtol(waits, NULL, 10);
    }
    json_decref(events);
    return n;
}

static bool ends_well_by_itself(const job *self)
{
    double until = command_now_s() + COMMAND_SECONDS;
    int32_t pids[MOST_STANDBYS];
    while (count_events(self->run, "ended") == 0 && command_now_s() < until) command_nap_ms(10);
    int n;
    json_t *ended = event_of(self->run, "ended", &n);
    bool good = n == 1 && text_has(text_of(ended, "text"), "done after step 24");
    json_decref(ended);
    n = standbys(self->run, pids);
    bool left = true;
    for (until = command_now_s() + MOST_SECONDS; left && command_now_s() < until; command_nap_ms(5)) {
        left = count_alive(self) > 0;
        for (int i = 0; i < n; i++) left |= process_lives(pids[i]);
    }
    return good && n > 0 && !left && same_run(self->run, false) && epochs_are_used_once(self->run);
}

static void goes_on(const char *point, const char *transport)
{
    job self;
    begin(&self, transport, "head: {standby: true}\n", point);
    bool good = reach_the_moment(&self, STOPPED);
    CU_ASSERT(good);
    kill_head(&self);
    kill(self.workers[STOPPED], SIGCONT);
    good = good && ends_well_by_itself(&self) && count_events(self.run, "readopted") == 1 &&
           count_events(self.run, "from_disk") == 0;
    CU_ASSERT(good);
    if (!good) say_what_happened(point, &self);
    end(&self);
}

static void a_standby_goes_on_over_ucx(void)
{
    for (size_t i = 0; i < sizeof points / sizeof *points; i++) goes_on(points[i], "ucx");
}

static void a_standby_goes_on_over_zmq(void)
{
    for (size_t i = 0; i < sizeof points / sizeof *points; i++) goes_on(points[i], "zmq");
}

/* Each that takes over has one of its own as soon as it gets on. */
static void standbys_follow_one_another(void)
{
    job self;
    int32_t pid = 0;
    begin(&self, "ucx", "head: {standby: true}\n", "");
    CU_ASSERT_FATAL(wait_for_steps(&self.command, self.run, 4));
    read_pids(&self);
    kill_head(&self);
    double until = command_now_s() + COMMAND_SECONDS;
    int32_t pids[MOST_STANDBYS];
    while (standbys(self.run, pids) < 2 && command_now_s() < until) command_nap_ms(2);
    while ((pid = leader(self.run)) == 0 && command_now_s() < until) command_nap_ms(2);
    CU_ASSERT_EQUAL(pid, pids[0]);
    CU_ASSERT_FATAL(pid > 1 && kill(pid, SIGKILL) == 0);
    CU_ASSERT(ends_well_by_itself(&self));
    CU_ASSERT_EQUAL(count_events(self.run, "readopted"), 2);
    end(&self);
}

static void without_a_lease_it_goes_on_from_disk(void)
{
    job self;
    begin(&self, "zmq", "head: {standby: true}\nsupervision: {lease: 0}\n", "");
    CU_ASSERT_FATAL(wait_for_steps(&self.command, self.run, 6));
    read_pids(&self);
    kill_head(&self);
    CU_ASSERT(ends_well_by_itself(&self));
    CU_ASSERT_EQUAL(count_events(self.run, "readopted"), 0);
    end(&self);
}

static void a_standby_that_is_killed_is_replaced(void)
{
    job self;
    int32_t pids[MOST_STANDBYS];
    begin(&self, "zmq", "head: {standby: true}\n", "1/stage 0 of replica 1/forward/12/STOP");
    CU_ASSERT_FATAL(reach_the_moment(&self, STOPPED));
    CU_ASSERT_FATAL(standbys(self.run, pids) == 1 && kill(pids[0], SIGKILL) == 0);
    double until = command_now_s() + COMMAND_SECONDS;
    while (standbys(self.run, pids) < 2 && command_now_s() < until) command_nap_ms(5);
    CU_ASSERT(standbys(self.run, pids) == 2 && process_lives(pids[1]));
    kill(self.workers[STOPPED], SIGCONT);
    command_wait(&self.command, COMMAND_SECONDS);
    CU_ASSERT(command_ended(&self.command, 0));
    CU_ASSERT(!process_lives(pids[1])); /* before the head */
    CU_ASSERT(same_run(self.run, true));
    end(&self);
}

/* A run that was stopped, or failed, is not gone on with. */
static void a_standby_leaves_with_a_run_that_ends(void)
{
    job self;
    int32_t pids[MOST_STANDBYS];
    begin(&self, "ucx", "head: {standby: true}\n", "1/stage 0 of replica 1/forward/12/STOP");
    CU_ASSERT_FATAL(reach_the_moment(&self, STOPPED));
    CU_ASSERT_EQUAL(standbys(self.run, pids), 1);
    command_run own; /* and one that a person started */
    command_start(&own, (const char *const[]){"train", self.recipe, "--standby", NULL});
    command_nap_ms(200);
    CU_ASSERT(process_lives(own.pid));
    kill(self.command.pid, SIGINT);
    command_nap_ms(50);
    kill(self.workers[STOPPED], SIGCONT);
    command_wait(&self.command, COMMAND_SECONDS);
    CU_ASSERT(command_ended(&self.command, 1));
    CU_ASSERT(!process_lives(pids[0]));
    command_wait(&own, 10);
    CU_ASSERT(command_ended(&own, 0));
    CU_ASSERT_EQUAL(count_events(self.run, "ended"), 1);
    command_release(&own);
    end(&self);
}

static void there_must_be_a_run_to_stand_by_for(void)
{
    job self = {.run = path_in(directory, "run")};
    self.recipe = write_recipe(self.run, "zmq", "");
    command_start(&self.command, (const char *const[]){"train", self.recipe, "--standby", NULL});
    command_wait(&self.command, COMMAND_SECONDS);
    CU_ASSERT(command_ended(&self.command, 2));
    CU_ASSERT(text_has(self.command.err_text, "there is no run '"));
    CU_ASSERT(!tr_path_exists(self.run));
    end(&self);
}

int main(void)
{
    static const check_test tests[] = {
        CHECK_TEST(a_standby_goes_on_over_ucx),           CHECK_TEST(a_standby_goes_on_over_zmq),
        CHECK_TEST(standbys_follow_one_another),          CHECK_TEST(without_a_lease_it_goes_on_from_disk),
        CHECK_TEST(a_standby_that_is_killed_is_replaced), CHECK_TEST(a_standby_leaves_with_a_run_that_ends),
        CHECK_TEST(there_must_be_a_run_to_stand_by_for),
    };
    return head_tests("cli/standby", tests, sizeof tests / sizeof *tests);
}
