/* test/cli/agent_test.c - the agent dies, at any moment: another one goes on with the workers that live and with the memory of
 * all, nobody goes back to a checkpoint, and the run has the bits of one that nobody disturbed. Or the head dies with it, and
 * then nothing is left.
 * The moment is set by a worker that stops itself in it (chaos.at): it goes on when the agent is dead.
 * SPDX-License-Identifier: Apache-2.0 */
#include "head_run.h"

/* Of one worker that goes another comes; all others are the same processes to the end, and nobody reads the disk. */
static bool outlived_it(const job *self, int n_agents, int n_replaced)
{
    int n = 0, n_epochs = 0;
    json_t *event = event_of(self->run, "agent_replaced", &n),
           *last = event_of(self->run, "recovered", &n_epochs);
    json_int_t workers = json_integer_value(json_object_get(event, "workers"));
    bool good = n == n_agents && workers >= WORKERS - n_replaced && workers <= WORKERS &&
                count_events(self->run, "worker_started") == WORKERS + n_replaced &&
                json_integer_value(json_object_get(last, "generation")) > 0 &&
                count_events(self->run, "from_disk") == 0;
    if (!good)
        fprintf(stderr, "\n%d agents replaced, %d workers kept, %d from the disk\n", n, (int)workers,
                count_events(self->run, "from_disk"));
    json_decref(event);
    json_decref(last);
    return good;
}

static bool ends_well(job *self, const char *name, bool strict, int n_agents, int n_replaced)
{
    command_wait(&self->command, COMMAND_SECONDS);
    read_pids(self);
    bool good = command_ended(&self->command, 0);
    good = good && outlived_it(self, n_agents, n_replaced);
    good = good && same_run(self->run, strict) && epochs_are_used_once(self->run);
    good = all_gone_within(self, MOST_SECONDS) && good;
    if (!good) say_what_happened(name, self);
    return good;
}

static void wait_for_agent(job *self, int32_t other_than)
{
    double until = command_now_s() + COMMAND_SECONDS;
    do {
        command_nap_ms(1);
        read_pids(self);
    } while (self->agent == other_than && command_now_s() < until);
    CU_ASSERT(self->agent != other_than);
}

/* Until it has heard of the next epoch, it may stop in the same again. */
static void continues(const job *self, int node)
{
    double until = command_now_s() + MOST_SECONDS;
    for (int n = count_events(self->run, "recovered");
         command_now_s() < until && count_events(self->run, "recovered") == n; command_nap_ms(5))
        if (process_state(self->workers[node], NULL) == 'T') kill(self->workers[node], SIGCONT);
}

static void mends(const moment *what, const char *transport)
{
    job self;
    begin(&self, transport, "", what->points);
    bool good = reach_the_moment(&self, what->node);
    CU_ASSERT(good);
    int32_t dead = self.agent;
    if (what->dies) kill(self.workers[what->node], SIGKILL);
    kill(dead, SIGKILL);
    wait_for_agent(&self, dead);
    if (!what->dies) continues(&self, what->node);
    int n_replaced = what->dies + (strstr(what->points, "KILL") != NULL);
    CU_ASSERT(ends_well(&self, what->name, true, 1, n_replaced));
    end(&self);
}

static void at_any_moment(const char *transport)
{
    static const moment also = {"the vote, with a worker",
                                "1/stage 1 of replica 0/waiting for commit/12/STOP", 2, true};
    for (size_t i = 0; i < MOMENTS; i++) mends(&moments[i], transport);
    mends(&also, transport);
}

static void an_agent_is_replaced_at_any_moment_over_ucx(void)
{
    at_any_moment("ucx");
}

static void an_agent_is_replaced_at_any_moment_over_zmq(void)
{
    at_any_moment("zmq");
}

/* The same workers serve one agent after another; the second dies at different moments of its beginning. */
static void agents_may_die_one_after_another(void)
{
    job self, before;
    begin(&self, "ucx", "", "");
    CU_ASSERT_FATAL(wait_for_steps(&self.command, self.run, 4));
    read_pids(&self);
    before = self;
    for (int i = 0; i < 6; i++) {
        int32_t dead = self.agent;
        kill(dead, SIGKILL);
        wait_for_agent(&self, dead);
        command_nap_ms(i * 10);
    }
    CU_ASSERT(ends_well(&self, "one after another", false, 6, 0));
    CU_ASSERT(memcmp(self.workers, before.workers, sizeof self.workers) == 0);
    end(&self);
}

/* All state is in memory that the head keeps. */
static void all_workers_may_die_with_the_agent(void)
{
    static const char *const transports[] = {"ucx", "zmq"};
    for (int i = 0; i < 2; i++) {
        job self;
        begin(&self, transports[i], "", "");
        CU_ASSERT_FATAL(wait_for_steps(&self.command, self.run, 6));
        read_pids(&self);
        kill(self.agent, SIGSTOP); /* so that nobody is replaced before */
        for (int n = 1; n <= WORKERS; n++) kill(self.workers[n], SIGKILL);
        kill(self.agent, SIGKILL);
        CU_ASSERT(ends_well(&self, "all workers at once", false, 1, WORKERS));
        end(&self);
    }
}

/* It is no child of the agent that watches it, but its end is told as any, and nobody stays a zombie. */
static void a_worker_that_outlived_its_agent_is_mended_as_any(void)
{
    job self;
    self = (job){.run = path_in(directory, "run")};
    self.recipe = write_recipe(self.run, "zmq", "");
    command_start(&self.command, (const char *const[]){"train", self.recipe, "train.steps=100000", NULL});
    CU_ASSERT_FATAL(wait_for_steps(&self.command, self.run, 4));
    read_pids(&self);
    int32_t dead = self.agent, victim = self.workers[2], looped = self.workers[3];
    kill(dead, SIGKILL);
    wait_for_agent(&self, dead);
    CU_ASSERT_FATAL(wait_for_steps(&self.command, self.run, steps_logged(self.run) + 5));
    kill(victim, SIGKILL);
    CU_ASSERT_FATAL(wait_for_steps(&self.command, self.run, steps_logged(self.run) + 5));
    kill(looped, SIGSTOP); /* its watchdog is the new agent's, too */
    CU_ASSERT_FATAL(wait_for_steps(&self.command, self.run, steps_logged(self.run) + 200));
    int n = 0;
    bool named = false;
    json_t *events = events_of(self.run), *event;
    size_t i;
    char *words = tr_format("worker 2 (pid %d) was killed by signal 9", victim);
    json_array_foreach(events, i, event) named |= strstr(text_of(event, "text"), words) != NULL;
    json_decref(events);
    json_decref(event_of(self.run, "worker_fenced", &n));
    if (!named || n != 1)
        fprintf(stderr, "\n'%s' was %stold; %d were fenced\n", words, named ? "" : "not ", n);
    CU_ASSERT(named && n == 1 && !process_lives(looped));
    CU_ASSERT_EQUAL(process_children(self.command.pid, 'Z', NULL), 0);
    CU_ASSERT_EQUAL(count_events(self.run, "from_disk"), 0);
    kill(self.command.pid, SIGINT);
    command_wait(&self.command, COMMAND_SECONDS);
    CU_ASSERT(command_ended(&self.command, 1));
    read_pids(&self);
    CU_ASSERT(all_gone_within(&self, 1));
    tr_free(words);
    end(&self);
}

/* It is no child of that head, nor are its workers when it has died. */
static void an_agent_that_was_taken_over_may_die_too(void)
{
    job self;
    behead(&self, "ucx", "");
    command_start(&self.command, (const char *const[]){"train", self.recipe, "--resume", NULL});
    CU_ASSERT_FATAL(wait_for_steps(&self.command, self.run, 11));
    kill(self.agent, SIGKILL);
    CU_ASSERT(ends_well(&self, "taken over before", false, 1, 0));
    CU_ASSERT_EQUAL(count_events(self.run, "readopted"), 1);
    end(&self);
}

/* And the other way round: who comes after the head finds the second agent with the first one's workers. */
static void the_head_may_die_after_the_agent(void)
{
    job self;
    begin(&self, "zmq", "", "");
    CU_ASSERT_FATAL(wait_for_steps(&self.command, self.run, 5));
    read_pids(&self);
    int32_t dead = self.agent;
    kill(dead, SIGKILL);
    wait_for_agent(&self, dead);
    CU_ASSERT_FATAL(wait_for_steps(&self.command, self.run, 11));
    kill_head(&self);
    command_start(&self.command, (const char *const[]){"train", self.recipe, "--resume", NULL});
    CU_ASSERT(ends_well(&self, "then the head", false, 1, 0));
    CU_ASSERT_EQUAL(count_events(self.run, "readopted"), 1);
    end(&self);
}

/* The kernel ends the workers then: one that somebody stopped, too. Where the agent died first and another one was on its way,
 * that one ends if it has not begun, and waits with the workers if it has. */
static void nobody_outlives_both(void)
{
    static const char *const transports[] = {"ucx", "zmq"};
    for (int i = 0; i < 8; i++) {
        job self;
        bool stopped = i < 4, agent_first = i / 2 % 2;
        begin(&self, transports[i % 2], "", stopped ? "1/stage 1 of replica 0/forward/8/STOP" : "");
        CU_ASSERT(!stopped || reach_the_moment(&self, 2));
        CU_ASSERT_FATAL(wait_for_steps(&self.command, self.run, 5));
        read_pids(&self);
        kill(agent_first ? self.agent : self.command.pid, SIGKILL);
        if (!stopped) command_nap_ms(5 * i);
        kill(agent_first ? self.command.pid : self.agent, SIGKILL);
        kill_head(&self);
        if (stopped || !agent_first) CU_ASSERT(all_gone_within(&self, 1.5));
        CU_ASSERT(command_succeeds((const char *const[]){"train", self.recipe, "--resume", NULL}));
        CU_ASSERT(same_run(self.run, false) && epochs_are_used_once(self.run));
        CU_ASSERT(all_gone_within(&self, 1.5));
        end(&self);
    }
}

int main(void)
{
    static const check_test tests[] = {
        CHECK_TEST(an_agent_is_replaced_at_any_moment_over_ucx),
        CHECK_TEST(an_agent_is_replaced_at_any_moment_over_zmq),
        CHECK_TEST(agents_may_die_one_after_another),
        CHECK_TEST(all_workers_may_die_with_the_agent),
        CHECK_TEST(a_worker_that_outlived_its_agent_is_mended_as_any),
        CHECK_TEST(an_agent_that_was_taken_over_may_die_too),
        CHECK_TEST(the_head_may_die_after_the_agent),
        CHECK_TEST(nobody_outlives_both),
    };
    return head_tests("cli/agent", tests, sizeof tests / sizeof *tests);
}
