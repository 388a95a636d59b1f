/* test/cli/head_test.c - the head dies, at any moment: who comes next takes over agent and workers with all they hold, and
 * the run has the bits of one that nobody disturbed; or nobody comes, and nothing is left when the lease ends.
 * The moment is set by a worker that stops itself in it (chaos.at): it goes on when the head is dead.
 * SPDX-License-Identifier: Apache-2.0 */
#include "head_run.h"

/* --- taken over --- */

static bool was_taken_over(const job *self, const moment *what)
{
    int n = 0, n_left = WORKERS - what->dies;
    json_t *event = event_of(self->run, "readopted", &n);
    json_int_t generation = json_integer_value(json_object_get(event, "generation"));
    json_int_t workers = json_integer_value(json_object_get(event, "workers"));
    /* Everybody holds what was committed before the last step that was logged, but for one more generation where a checkpoint
     * is made again; before the first update there is none. */
    bool newest = generation >= self->n_logged - 1;
    bool good = n == 1 && newest && workers >= n_left - 1 && workers <= n_left &&
                json_object_get(event, "detected_after_ms") && json_object_get(event, "restored_after_ms") &&
                count_events(self->run, "from_disk") == 0;
    if (!good)
        fprintf(stderr, "\n%d re-adoptions, of %d workers at generation %d with %d steps logged\n", n,
                (int)workers, (int)generation, self->n_logged);
    json_decref(event);
    return good;
}

static void mends(const moment *what, const char *transport)
{
    job self;
    begin(&self, transport, "", what->points);
    bool good = reach_the_moment(&self, what->node);
    CU_ASSERT(good);
    kill_head(&self);
    kill(self.workers[what->node], what->dies ? SIGKILL : SIGCONT);
    if (what->dies) command_nap_ms(100); /* until the agent has seen it */
    command_start(&self.command, (const char *const[]){"train", self.recipe, "--resume", NULL});
    command_wait(&self.command, COMMAND_SECONDS);
    good = good && command_ended(&self.command, 0);
    good = good && text_has(self.command.out_text, "re-adopted ") && was_taken_over(&self, what);
    good = good && same_run(self.run, true) && epochs_are_used_once(self.run);
    good = all_gone_within(&self, MOST_SECONDS) && good;
    CU_ASSERT(good);
    if (!good) say_what_happened(what->name, &self);
    end(&self);
}

static void at_any_moment(const char *transport)
{
    static const moment also = {"the first step", "1/stage 1 of replica 0/backward/0/STOP", 2, false};
    for (size_t i = 0; i < MOMENTS; i++) mends(&moments[i], transport);
    mends(&also, transport);
}

static void a_head_is_replaced_at_any_moment_over_ucx(void)
{
    at_any_moment("ucx");
}

static void a_head_is_replaced_at_any_moment_over_zmq(void)
{
    at_any_moment("zmq");
}

/* The same processes serve one head after another. */
static void heads_may_die_one_after_another(void)
{
    job self, before;
    behead(&self, "ucx", "");
    before = self;
    for (size_t steps = 10; steps <= 18; steps += 4) {
        command_start(&self.command, (const char *const[]){"train", self.recipe, "--resume", NULL});
        CU_ASSERT_FATAL(wait_for_steps(&self.command, self.run, steps));
        kill_head(&self);
    }
    CU_ASSERT(command_succeeds((const char *const[]){"train", self.recipe, "--resume", NULL}));
    read_pids(&self);
    CU_ASSERT(memcmp(self.workers, before.workers, sizeof self.workers) == 0); /* none began since */
    CU_ASSERT_EQUAL(count_events(self.run, "readopted"), 4);
    CU_ASSERT(same_run(self.run, false) && epochs_are_used_once(self.run));
    CU_ASSERT(all_gone_within(&self, MOST_SECONDS));
    end(&self);
}

/* All state is in memory that the agent holds. */
static void workers_may_all_die_with_the_head(void)
{
    job self;
    behead(&self, "ucx", "");
    for (int i = 1; i <= WORKERS; i++) kill(self.workers[i], SIGKILL);
    command_nap_ms(200);
    CU_ASSERT(process_lives(self.agent));
    CU_ASSERT(command_succeeds((const char *const[]){"train", self.recipe, "--resume", NULL}));
    CU_ASSERT_EQUAL(count_events(self.run, "from_disk"), 0);
    CU_ASSERT_EQUAL(count_events(self.run, "recovered"), 1);
    CU_ASSERT(same_run(self.run, false));
    CU_ASSERT(all_gone_within(&self, MOST_SECONDS));
    end(&self);
}

/* --- not taken over --- */

static bool leaves_a_socket(const job *self)
{
    char *path = path_in(self->run, "lease.sock");
    bool there = tr_path_exists(path);
    tr_free(path);
    return there;
}

static bool goes_on_from_disk(job *self)
{
    bool good = command_succeeds((const char *const[]){"train", self->recipe, "--resume", NULL});
    return good && count_events(self->run, "readopted") == 0 && same_run(self->run, true);
}

static void nothing_is_left_when_the_lease_ends(void)
{
    static const char *const transports[] = {"ucx", "zmq"};
    for (int i = 0; i < 2; i++) {
        job self;
        behead(&self, transports[i], "supervision: {lease: 2}\n");
        double died = command_now_s();
        command_nap_ms(1000);
        CU_ASSERT_EQUAL(count_alive(&self), 1 + WORKERS); /* they do wait */
        struct stat info;
        char *path = path_in(self.run, "lease.sock");
        CU_ASSERT(stat(path, &info) == 0 && (info.st_mode & 0777) == 0600);
        tr_free(path);
        CU_ASSERT(all_gone_within(&self, MOST_SECONDS));
        CU_ASSERT(command_now_s() - died >= 1.9);
        CU_ASSERT(!leaves_a_socket(&self));
        CU_ASSERT(goes_on_from_disk(&self));
        end(&self);
    }
}

static void without_a_lease_all_end_with_the_head(void)
{
    job self;
    behead(&self, "ucx", "supervision: {lease: 0}\n");
    CU_ASSERT(all_gone_within(&self, 3));
    CU_ASSERT(!leaves_a_socket(&self));
    CU_ASSERT(goes_on_from_disk(&self));
    end(&self);
}

/* Nobody else would listen to a person then. */
static void the_agent_can_be_told_to_end_while_it_waits(void)
{
    job self;
    behead(&self, "zmq", "");
    command_nap_ms(300);
    CU_ASSERT(kill(self.agent, SIGTERM) == 0);
    CU_ASSERT(all_gone_within(&self, 5));
    CU_ASSERT(!leaves_a_socket(&self));
    end(&self);
}

static void an_agent_that_dies_while_it_waits_leaves_the_disk(void)
{
    job self;
    behead(&self, "ucx", "");
    command_nap_ms(300);
    CU_ASSERT(kill(self.agent, SIGKILL) == 0);
    CU_ASSERT(all_gone_within(&self, 5));
    CU_ASSERT(leaves_a_socket(&self)); /* its own could not take it away; the next agent does */
    CU_ASSERT(goes_on_from_disk(&self));
    CU_ASSERT(!leaves_a_socket(&self));
    end(&self);
}

static void an_agent_that_does_not_answer_is_named(void)
{
    job self;
    behead(&self, "zmq", "");
    char *words = tr_format("process %d, left of this run with its workers, does not answer", self.agent);
    CU_ASSERT(kill(self.agent, SIGSTOP) == 0);
    command_start(&self.command, (const char *const[]){"train", self.recipe, "--resume", NULL});
    command_wait(&self.command, COMMAND_SECONDS);
    CU_ASSERT(command_ended(&self.command, 2));
    CU_ASSERT(text_has(self.command.err_text, words));
    command_release(&self.command);
    CU_ASSERT(kill(self.agent, SIGCONT) == 0); /* and then it does */
    CU_ASSERT(command_succeeds((const char *const[]){"train", self.recipe, "--resume", NULL}));
    CU_ASSERT(count_events(self.run, "readopted") == 1 && same_run(self.run, false));
    end(&self);
    tr_free(words);
}

/* One who asks politely waits for nobody's lease. */
static void a_polite_stop_ends_everything_at_once(void)
{
    job self;
    begin(&self, "ucx", "", "");
    CU_ASSERT_FATAL(wait_for_steps(&self.command, self.run, 6));
    read_pids(&self);
    kill(self.command.pid, SIGINT);
    command_wait(&self.command, COMMAND_SECONDS);
    CU_ASSERT(command_ended(&self.command, 1));
    CU_ASSERT(all_gone_within(&self, 1));
    CU_ASSERT(!leaves_a_socket(&self));
    end(&self);
}

static void who_does_not_fit_is_sent_home(void)
{
    job self;
    behead(&self, "zmq", "");
    int32_t agent = self.agent;
    command_start(&self.command,
                  (const char *const[]){"train", self.recipe, "--resume", "layout.data=1", NULL});
    command_wait(&self.command, COMMAND_SECONDS);
    CU_ASSERT(command_ended(&self.command, 0));
    CU_ASSERT(text_has(self.command.out_text,
                       "4 workers still wait for a head and are sent home: their layout is another"));
    CU_ASSERT(!process_lives(agent));
    CU_ASSERT(count_events(self.run, "readopted") == 0 && same_run(self.run, false));
    end(&self);
}

static void another_key_takes_nobody_over(void)
{
    job self;
    char *key = path_in(directory, "a.key"), *other = path_in(directory, "b.key");
    char *network = tr_format("network: {key: %s}\n", key), *override = tr_format("network.key=%s", other);
    CU_ASSERT(command_succeeds((const char *const[]){"keygen", key, NULL}));
    CU_ASSERT(command_succeeds((const char *const[]){"keygen", other, NULL}));
    behead(&self, "zmq", network);
    command_start(&self.command, (const char *const[]){"train", self.recipe, "--resume", override, NULL});
    command_wait(&self.command, COMMAND_SECONDS);
    CU_ASSERT(command_ended(&self.command, 0));
    CU_ASSERT(text_has(self.command.out_text, "sent home: their network.key is another"));
    CU_ASSERT(count_events(self.run, "readopted") == 0 && same_run(self.run, false));
    end(&self);
    behead(&self, "zmq", network); /* and the right one does */
    CU_ASSERT(command_succeeds((const char *const[]){"train", self.recipe, "--resume", NULL}));
    CU_ASSERT(count_events(self.run, "readopted") == 1 && same_run(self.run, false));
    end(&self);
    tr_free(override);
    tr_free(network);
    tr_free(other);
    tr_free(key);
}

/* --- two heads --- */

static void of_two_heads_one_is_refused(void)
{
    job self;
    command_run second;
    behead(&self, "zmq", "");
    command_start(&self.command, (const char *const[]){"train", self.recipe, "--resume", NULL});
    command_start(&second, (const char *const[]){"train", self.recipe, "--resume", NULL});
    command_wait(&second, COMMAND_SECONDS);
    command_wait(&self.command, COMMAND_SECONDS);
    command_run *loser = second.exit_code == 2 ? &second : &self.command,
                *winner = loser == &second ? &self.command : &second;
    CU_ASSERT(command_ended(loser, 2) && command_ended(winner, 0));
    CU_ASSERT(text_has(loser->err_text, "another troupe trains in '"));
    const char *line_end = strchr(loser->err_text, '\n');
    CU_ASSERT(line_end && !line_end[1]); /* one line */
    CU_ASSERT(count_events(self.run, "readopted") == 1 && same_run(self.run, false));
    CU_ASSERT(epochs_are_used_once(self.run));
    command_release(&second);
    end(&self);
}

/* --- devices that fail (the CPU plays them; workers 1 and 2 are on one, 3 and 4 on the other) --- */

static void follow_with_devices(job *self, const char *most, const char *points)
{
    char *more = tr_format("chaos: {devices: 2}\nsupervision: {quarantine_after: %s}\n", most);
    begin(self, "ucx", more, points);
    tr_free(more);
    CU_ASSERT(reach_the_moment(self, 3));
    kill_head(self);
    kill(self->workers[3], SIGCONT);
    CU_ASSERT(command_succeeds((const char *const[]){"train", self->recipe, "--resume", NULL}));
    CU_ASSERT(count_events(self->run, "readopted") == 1 && same_run(self->run, false));
}

static void failures_of_devices_are_counted_on(void)
{
    job self;
    follow_with_devices(&self, "2",
                        "1/stage 0 of replica 0/backward/8/DEVICE,2/stage 0 of replica 1/forward/12/STOP,"
                        "3/stage 0 of replica 0/forward/18/DEVICE");
    CU_ASSERT(count_events(self.run, "worker_died") == 2 && count_events(self.run, "quarantined") == 1);
    CU_ASSERT(event_says(self.run, "quarantined", "cpu:0 is quarantined for 2 failures of its workers"));
    end(&self);
}

static void a_device_that_was_left_out_stays_so(void)
{
    job self;
    int n = 0;
    follow_with_devices(&self, "1",
                        "1/stage 0 of replica 0/backward/8/DEVICE,2/stage 0 of replica 1/forward/12/STOP");
    json_t *last = event_of(self.run, "device", &n);
    CU_ASSERT(n == 3 && strstr(text_of(last, "text"), "without cpu:0") != NULL);
    json_decref(last);
    CU_ASSERT_EQUAL(count_events(self.run, "quarantined"), 1);
    end(&self);
}

/* Its head died while it saved their state: the next one finds out for itself whether they still fail. */
static void where_none_was_left_all_are_tried_again(void)
{
    job self;
    follow_with_devices(&self, "1",
                        "1/stage 0 of replica 0/backward/8/DEVICE,2/stage 0 of replica 0/forward/12/DEVICE,"
                        "3/stage 0 of replica 1/restoring/any/STOP");
    int n = 0;
    json_t *last = event_of(self.run, "device", &n);
    CU_ASSERT_STRING_EQUAL(text_of(last, "text"), "device: cpu, 2 devices (only played)");
    json_decref(last);
    CU_ASSERT_EQUAL(count_events(self.run, "quarantined"), 2);
    end(&self);
}

int main(void)
{
    static const check_test tests[] = {
        CHECK_TEST(a_head_is_replaced_at_any_moment_over_ucx),
        CHECK_TEST(a_head_is_replaced_at_any_moment_over_zmq),
        CHECK_TEST(heads_may_die_one_after_another),
        CHECK_TEST(workers_may_all_die_with_the_head),
        CHECK_TEST(nothing_is_left_when_the_lease_ends),
        CHECK_TEST(without_a_lease_all_end_with_the_head),
        CHECK_TEST(the_agent_can_be_told_to_end_while_it_waits),
        CHECK_TEST(an_agent_that_dies_while_it_waits_leaves_the_disk),
        CHECK_TEST(an_agent_that_does_not_answer_is_named),
        CHECK_TEST(a_polite_stop_ends_everything_at_once),
        CHECK_TEST(who_does_not_fit_is_sent_home),
        CHECK_TEST(another_key_takes_nobody_over),
        CHECK_TEST(of_two_heads_one_is_refused),
        CHECK_TEST(failures_of_devices_are_counted_on),
        CHECK_TEST(a_device_that_was_left_out_stays_so),
        CHECK_TEST(where_none_was_left_all_are_tried_again),
    };
    return head_tests("cli/head", tests, sizeof tests / sizeof *tests);
}
