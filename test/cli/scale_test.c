/* test/cli/scale_test.c - a run whose layout changes while it goes on has the bits of one that was left alone: losses, weights
 * and moments, over both transports and in both dtypes, whoever dies on the way. Who stays is not restarted.
 * SPDX-License-Identifier: Apache-2.0 */
#include "scale_run.h"

#include <sys/resource.h>

/* --- the bits --- */

static void goes_up_and_down(const char *transport, const char *dtype)
{
    job one;
    int32_t first, now, second;
    begin(&one, transport, dtype, "", NULL);
    CU_ASSERT_FATAL(makes_steps(&one, 20));
    CU_ASSERT(lives_of(&one, 1, &first) == 1);
    CU_ASSERT(scale(&one, "data=2", NULL, 0, ": 1 -> 2 replicas, 1 worker new, "));
    CU_ASSERT(makes_steps(&one, 20));
    CU_ASSERT(lives_of(&one, 2, &second) == 1 && process_lives(second));
    CU_ASSERT(scale(&one, "data=4", NULL, 0, ": 2 -> 4 replicas, 2 workers new, "));
    CU_ASSERT(makes_steps(&one, 20));
    CU_ASSERT(scale(&one, "pipeline=2", "data=1", 0,
                    ": 4 -> 1 replicas, 1 -> 2 workers a replica, 2 workers less, "));
    CU_ASSERT(makes_steps(&one, 20));
    CU_ASSERT(process_lives(second)); /* it has another part of the model now, and is the same process */
    CU_ASSERT(scale(&one, "data=3", NULL, 0, ": 1 -> 3 replicas, 4 workers new, "));
    CU_ASSERT(makes_steps(&one, 20));
    CU_ASSERT(scale(&one, "pipeline=1", "pieces=2", 0,
                    ": 2 -> 1 workers a replica, 1 -> 2 pieces a worker, 3 workers less, "));
    CU_ASSERT(makes_steps(&one, 20));
    CU_ASSERT(
        scale(&one, "pieces=1", "data=1", 0, ": 3 -> 1 replicas, 2 -> 1 pieces a worker, 2 workers less, "));
    CU_ASSERT(ends_the_same(&one));
    CU_ASSERT(lives_of(&one, 1, &now) == 1 && now == first);
    CU_ASSERT(count_events(one.run, "scaled") == 6);
    CU_ASSERT(nobody_died(&one));
    end(&one);
}

static void layouts_that_change_change_no_bit_over_zmq(void)
{
    goes_up_and_down("zmq", "float32");
}

static void layouts_that_change_change_no_bit_over_ucx(void)
{
    goes_up_and_down("ucx", "float32");
}

static void nor_do_they_in_bfloat16(void)
{
    goes_up_and_down("zmq", "bfloat16");
    goes_up_and_down("ucx", "bfloat16");
}

/* The state is in slots every few steps only, and elsewhere in between. */
static void nor_where_few_states_are_held(void)
{
    job one;
    begin(&one, "zmq", "float32", "layout: {data: 2, pipeline: 2}\n", "supervision.hold_every=7");
    CU_ASSERT_FATAL(makes_steps(&one, 23));
    CU_ASSERT(scale(&one, "pipeline=1", NULL, 0, "workers a replica"));
    CU_ASSERT(makes_steps(&one, 23));
    CU_ASSERT(scale(&one, "data=4", NULL, 0, "replicas"));
    CU_ASSERT(ends_the_same(&one));
    CU_ASSERT(count_events(one.run, "recovered") == 0);
    end(&one);
}

/* --- what is asked --- */

/* By Ctrl-C. */
static bool is_stopped(job *self)
{
    kill(self->command.pid, SIGINT);
    command_wait(&self->command, COMMAND_SECONDS);
    return command_ended(&self->command, 1) &&
           text_has(self->command.err_text, "as asked; --resume goes on from there");
}

static void what_cannot_be_is_refused_with_one_line(void)
{
    job one;
    command_run command;
    begin(&one, "zmq", "float32", "", ENDLESS);
    CU_ASSERT_FATAL(makes_steps(&one, 5));
    CU_ASSERT(scale(&one, "data=5", NULL, 2, "layout.data '5' is more replicas than reduction groups (4)"));
    CU_ASSERT(scale(&one, "pipeline=3", NULL, 2, "layout.pipeline '3'"));
    CU_ASSERT(scale(&one, "data=0", NULL, 2, "data '0' is not a whole number from 1 to 65536"));
    CU_ASSERT(scale(&one, "data=2x", NULL, 2, "'data=2x' is not data=N, pipeline=N, pieces=N or hosts=N"));
    CU_ASSERT(
        scale(&one, "steps=2", NULL, 2, "'steps' cannot be scaled; data, pipeline, pieces and hosts can"));
    CU_ASSERT(scale(&one, "data=2", "data=4", 2, "data is given twice"));
    CU_ASSERT(scale(&one, NULL, NULL, 2, "scale to what?"));
    CU_ASSERT(scale(&one, "data=1", "pipeline=1", 0, "it has that layout already"));
    CU_ASSERT(makes_steps(&one, 5)); /* and goes on */
    struct stat info;
    char *socket = path_in(one.run, "scale.sock");
    CU_ASSERT(stat(socket, &info) == 0 && (info.st_mode & 0777) == 0600);
    tr_free(socket);
    CU_ASSERT(is_stopped(&one));
    CU_ASSERT(count_events(one.run, "epoch") == 0);
    CU_ASSERT(scale(&one, "data=2", NULL, 2, "is not running"));
    command_start(&command, (const char *const[]){"scale", "/no/such/run", "data=2", NULL});
    command_wait(&command, COMMAND_SECONDS);
    CU_ASSERT(command_ended(&command, 2) && text_has(command.err_text, "there is no run '/no/such/run'"));
    command_release(&command);
    end(&one);
}

static bool event_comes(const job *self, const char *kind, int n)
{
    double until = command_now_s() + 20;
    while (count_events(self->run, kind) < n && command_now_s() < until) command_nap_ms(5);
    return count_events(self->run, kind) == n;
}

/* An epoch that is not on the disk may not begin; then training goes on as it was. */
static void what_cannot_be_recorded_changes_nothing(void)
{
    job one;
    struct rlimit before, none;
    begin(&one, "ucx", "float32", "layout: {data: 2}\n", NULL);
    CU_ASSERT_FATAL(makes_steps(&one, 20));
    CU_ASSERT(prlimit(one.command.pid, RLIMIT_FSIZE, NULL, &before) == 0);
    none = before;
    none.rlim_cur = 1; /* every file of it is longer */
    CU_ASSERT(prlimit(one.command.pid, RLIMIT_FSIZE, &none, NULL) == 0);
    bool refused = scale(&one, "data=4", NULL, 1, "nothing has changed: could not write the log of epochs");
    CU_ASSERT(prlimit(one.command.pid, RLIMIT_FSIZE, &before, NULL) == 0);
    CU_ASSERT(refused);
    CU_ASSERT(makes_steps(&one, 20));
    tr_layout last;
    char *epochs = path_in(one.run, "epochs.jsonl");
    CU_ASSERT(tr_epoch_log_layouts(epochs, &last, 1) == 1 && last.data == 2);
    CU_ASSERT(scale(&one, "data=3", NULL, 0, ": 2 -> 3 replicas, 1 worker new, "));
    CU_ASSERT(tr_epoch_log_layouts(epochs, &last, 1) == 1 && last.data == 3);
    tr_free(epochs);
    command_wait(&one.command, COMMAND_SECONDS);
    CU_ASSERT(command_ended(&one.command,
                            0)); /* a checkpoint may have fallen into it, so only the log is compared */
    CU_ASSERT(same_log(undisturbed[0], one.run, STEPS));
    CU_ASSERT(checkpoints_agree(undisturbed[0], one.run, STEPS, "trainer/optimizer.safetensors"));
    end(&one);
}

/* It asked once, and the change that it needs was refused: it is tried again by itself. */
static void a_wish_to_leave_outlives_a_change_that_is_refused(void)
{
    job one;
    int32_t pid;
    struct rlimit before, none;
    begin(&one, "zmq", "float32", "layout: {data: 2}\n", ENDLESS);
    CU_ASSERT_FATAL(makes_steps(&one, 20) && lives_of(&one, 2, &pid) == 1);
    CU_ASSERT(prlimit(one.command.pid, RLIMIT_FSIZE, NULL, &before) == 0);
    none = before;
    none.rlim_cur = 1; /* no epoch can be recorded */
    CU_ASSERT(prlimit(one.command.pid, RLIMIT_FSIZE, &none, NULL) == 0);
    kill(pid, SIGTERM);
    command_nap_ms(200); /* its change is refused; so is this one, which says that it was */
    bool refused = scale(&one, "data=4", NULL, 1, "nothing has changed: could not write the log of epochs");
    CU_ASSERT(prlimit(one.command.pid, RLIMIT_FSIZE, &before, NULL) == 0);
    CU_ASSERT(refused && process_lives(pid));
    CU_ASSERT(event_comes(&one, "workers_replaced", 1) && is_gone_within(pid, 5));
    CU_ASSERT(makes_steps(&one, 5) && nobody_died(&one));
    CU_ASSERT(is_stopped(&one));
    end(&one);
}

/* What looks at the run sees the new layout. */
static void ps_shows_the_layout_that_is(void)
{
    job one;
    command_run command;
    begin(&one, "zmq", "float32", "", NULL);
    CU_ASSERT_FATAL(makes_steps(&one, 10));
    CU_ASSERT(scale(&one, "data=2", "pipeline=2", 0, ": 1 -> 2 replicas"));
    for (int i = 0; i < 2; i++) {
        command_start(&command, (const char *const[]){"ps", one.run, NULL});
        command_wait(&command, COMMAND_SECONDS);
        CU_ASSERT(command_ended(&command, 0));
        CU_ASSERT(text_has(command.out_text, i ? ", epoch 3, " : ", epoch 2, "));
        CU_ASSERT(text_has(command.out_text, "stage 0 of replica 0"));
        CU_ASSERT((strstr(command.out_text, "stage 1 of replica 1") != NULL) == (i == 0));
        CU_ASSERT(strstr(command.out_text, "gone") == NULL);
        command_release(&command);
        if (i == 0) CU_ASSERT(scale(&one, "data=1", NULL, 0, ": 2 -> 1 replicas, 2 workers less, "));
    }
    CU_ASSERT(ends_the_same(&one));
    end(&one);
}

static void put_file(const job *self, const char *text)
{
    char *path = path_in(self->run, "scale.json"), *other = path_in(self->run, "scale.json.new");
    write_text(other, text);
    CU_ASSERT(rename(other, path) == 0);
    double until = command_now_s() + 20;
    while (tr_path_exists(path) && command_now_s() < until) command_nap_ms(5);
    CU_ASSERT(!tr_path_exists(path));
    tr_free(path);
    tr_free(other);
}

/* It is looked for once a second. */
static void a_file_asks_as_well(void)
{
    job one;
    begin(&one, "zmq", "float32", "", ENDLESS);
    CU_ASSERT_FATAL(makes_steps(&one, 5));
    put_file(&one, "{\"data\": 99}");
    CU_ASSERT(event_comes(&one, "scale_refused", 1));
    put_file(&one, "{\"data\": 2}");
    CU_ASSERT(event_comes(&one, "scaled", 1));
    CU_ASSERT(makes_steps(&one, 5));
    CU_ASSERT(is_stopped(&one));
    end(&one);
}

/* --- who leaves --- */

static void leave_in(const char *layout)
{
    job one;
    int32_t pid, next, other, same;
    begin(&one, "ucx", "float32", layout, NULL);
    CU_ASSERT_FATAL(makes_steps(&one, 20));
    CU_ASSERT(lives_of(&one, 2, &pid) == 1 && lives_of(&one, 1, &other) == 1);
    kill(pid, SIGTERM);
    CU_ASSERT(event_comes(&one, "workers_replaced", 1));
    CU_ASSERT(is_gone_within(pid, 5));
    CU_ASSERT(lives_of(&one, 2, &next) == 2 && next != pid && process_lives(next));
    CU_ASSERT(makes_steps(&one, 20));
    kill(other, SIGTERM); /* the one that streams the checkpoints */
    kill(next, SIGTERM);
    CU_ASSERT(is_gone_within(other, 20) && is_gone_within(next, 20));
    CU_ASSERT(ends_the_same(&one));
    CU_ASSERT(lives_of(&one, 1, &same) == 2);
    CU_ASSERT(nobody_died(&one));
    end(&one);
}

static void a_worker_that_is_asked_to_leave_hands_over(void)
{
    leave_in("layout: {data: 2}\n");
    leave_in("layout: {data: 2, zero: 1}\n"); /* a shard that nobody else has */
}

/* To the whole group, as a supervisor of processes sends it, it is the run's end and nobody's replacement. */
static void sigterm_to_all_ends_the_run(void)
{
    job one;
    int32_t pid;
    begin(&one, "zmq", "float32", "layout: {data: 2}\n", NULL);
    CU_ASSERT_FATAL(makes_steps(&one, 10));
    kill(one.command.pid, SIGTERM);
    for (int node = 1; node <= 2; node++) {
        (void)lives_of(&one, node, &pid);
        if (pid) kill(pid, SIGTERM);
    }
    command_wait(&one.command, COMMAND_SECONDS);
    CU_ASSERT(command_ended(&one.command, 1));
    CU_ASSERT(text_has(one.command.err_text, "as asked; --resume goes on from there"));
    CU_ASSERT(count_events(one.run, "worker_died") == 0);
    end(&one);
}

/* --- who dies --- */

/* In the epoch of the change, as they take their state over. */
static void a_death_in_the_change_is_mended(void)
{
    static const char *const points[] = {
        "2/stage 0 of replica 1/restoring/any/KILL", /* one that is new */
        "2/stage 0 of replica 0/restoring/any/KILL", /* one that stays */
        "2/stage 1 of replica 1/restoring/any/KILL,3/stage 0 of replica 0/restoring/any/KILL",
    };
    for (size_t i = 0; i < sizeof points / sizeof *points; i++) {
        job one;
        char *more = tr_format("chaos: {at: '%s'}\n", points[i]);
        begin(&one, i % 2 ? "ucx" : "zmq", "float32", more, NULL);
        tr_free(more);
        CU_ASSERT_FATAL(makes_steps(&one, 20));
        CU_ASSERT(scale(&one, "data=2", "pipeline=2", 0, "(with a death on the way)"));
        CU_ASSERT(makes_steps(&one, 5));
        CU_ASSERT(scale(&one, "data=1", NULL, 0, ": 2 -> 1 replicas, 2 workers less, "));
        CU_ASSERT(ends_the_same(&one));
        CU_ASSERT(count_events(one.run, "worker_died") >= 1);
        CU_ASSERT(count_events(one.run, "from_disk") == 0);
        end(&one);
    }
}

/* At some moment of the change: before it, while state is dealt out, when it is recorded, in the new epoch. The one that
 * follows goes on with the workers in whatever layout they are, or from the newest checkpoint. */
static void the_heads_death_in_the_change_is_mended(void)
{
    for (int i = 0; i < 6; i++) {
        job one;
        command_run command;
        begin(&one, i % 2 ? "ucx" : "zmq", "float32", "layout: {data: 2}\n", NULL);
        CU_ASSERT_FATAL(makes_steps(&one, 15));
        int32_t head = head_of(&one);
        command_start(&command,
                      (const char *const[]){"scale", one.run, "data=4", i % 3 ? "pipeline=2" : NULL, NULL});
        command_nap_ms(8 * i);
        kill_one(head);
        command_wait(&command, COMMAND_SECONDS);
        command_wait(&one.command, COMMAND_SECONDS);
        CU_ASSERT(command_ended(&one.command, COMMAND_KILLED + SIGKILL));
        command_release(&command);
        resume(&one);
        CU_ASSERT(makes_steps(&one, 5));
        CU_ASSERT(scale(&one, "data=3", NULL, 0, "-> 3 replicas, "));
        CU_ASSERT(ends_the_same(&one));
        CU_ASSERT(count_events(one.run, "readopted") == 1);
        end(&one);
    }
}

/* Of a head that is killed and a run that nobody goes on with nothing is left. */
static void a_killed_head_leaves_no_socket(void)
{
    job one;
    int32_t pid;
    char *socket;
    begin(&one, "zmq", "float32", "layout: {data: 2}\n", "supervision.lease=1");
    socket = path_in(one.run, "scale.sock");
    CU_ASSERT_FATAL(makes_steps(&one, 10));
    CU_ASSERT(tr_path_exists(socket));
    (void)lives_of(&one, 1, &pid);
    kill_one(one.command.pid);
    command_wait(&one.command, COMMAND_SECONDS);
    CU_ASSERT(is_gone_within(pid, 20));
    CU_ASSERT(!tr_path_exists(socket));
    CU_ASSERT(scale(&one, "data=1", NULL, 2, "is not running"));
    tr_free(socket);
    end(&one);
}

/* The next one has the memory of the layout that is; the second death is told to the replacement of the first. */
static void the_agents_death_after_it_is_mended(void)
{
    job one;
    int32_t pid;
    begin(&one, "ucx", "float32", "", NULL);
    CU_ASSERT_FATAL(makes_steps(&one, EACH + 20) && scale(&one, "data=2", "pipeline=2", 0, ": 1 -> 2 repl"));
    kill_one(agent_of(one.run));
    CU_ASSERT(event_comes(&one, "agent_replaced", 1));
    for (int node = 3; node >= 2; node--) {
        CU_ASSERT(makes_steps(&one, 5));
        (void)lives_of(&one, node, &pid);
        kill_one(pid);
    }
    CU_ASSERT(makes_steps(&one, 5));
    CU_ASSERT(scale(&one, "data=1", NULL, 0, ": 2 -> 1 replicas, 2 workers less, "));
    CU_ASSERT(ends_the_same(&one));
    CU_ASSERT(count_events(one.run, "worker_died") == 3 && count_events(one.run, "from_disk") == 0);
    end(&one);
}

/* At some moment of the change: before it, while state is dealt out, when it is recorded, in the new epoch. */
static void the_agents_death_in_the_change_is_mended(void)
{
    for (int i = 0; i < 4; i++) {
        job one;
        command_run command;
        const char *wish = i % 2 ? "data=4" : "data=1", *more = i < 2 ? "pipeline=2" : NULL;
        begin(&one, i < 2 ? "ucx" : "zmq", "float32", "layout: {data: 2}\n", NULL);
        CU_ASSERT_FATAL(makes_steps(&one, 15));
        int32_t agent = agent_of(one.run);
        command_start(&command, (const char *const[]){"scale", one.run, wish, more, NULL});
        command_nap_ms(20 * i);
        kill_one(agent);
        command_wait(&command, COMMAND_SECONDS);
        CU_ASSERT(command_ended(&command, 0));
        command_release(&command);
        CU_ASSERT(scale(&one, "data=3", NULL, 0, "-> 3 replicas, "));
        CU_ASSERT(ends_the_same(&one));
        CU_ASSERT(count_events(one.run, "agent_replaced") == 1 && count_events(one.run, "from_disk") == 0);
        end(&one);
    }
}

/* --- afterwards --- */

static bool begins_with(job *self, const char *words)
{
    command_wait(&self->command, COMMAND_SECONDS);
    return text_has(self->command.out_text, words);
}

static void a_resumed_run_keeps_its_layout(void)
{
    job one;
    begin(&one, "zmq", "float32", "", NULL);
    CU_ASSERT_FATAL(makes_steps(&one, 20));
    CU_ASSERT(scale(&one, "data=2", "pipeline=2", 0, ": 1 -> 2 replicas"));
    kill(one.command.pid, SIGINT);
    command_wait(&one.command, COMMAND_SECONDS);
    CU_ASSERT(command_ended(&one.command, 1));
    resume(&one);
    CU_ASSERT(makes_steps(&one, 5));
    kill(one.command.pid, SIGINT);
    CU_ASSERT(begins_with(&one, " 2 replicas x 2 stages"));
    command_release(&one.command); /* who asks for another one gets it, and it stays */
    command_start(&one.command,
                  (const char *const[]){"train", one.recipe, "--resume", "layout.data=4", NULL});
    CU_ASSERT(makes_steps(&one, 5));
    kill(one.command.pid, SIGINT);
    CU_ASSERT(begins_with(&one, " 4 replicas x 1 stages"));
    command_release(&one.command);
    command_start(&one.command,
                  (const char *const[]){"train", one.recipe, "--resume", "layout.data=4", NULL});
    CU_ASSERT(ends_the_same(&one));
    CU_ASSERT(text_has(one.command.out_text, " 4 replicas x 1 stages"));
    end(&one);
}

static bool make_undisturbed(int i, const char *dtype)
{
    job one = {.run = path_in(directory, dtype), .dtype = dtype};
    write_recipe(&one, "zmq", "");
    bool good = command_succeeds((const char *const[]){"train", one.recipe, NULL});
    undisturbed[i] = one.run;
    tr_free(one.recipe);
    return good;
}

int main(void)
{
    enter_with_words();
    if (!make_undisturbed(0, "float32") || !make_undisturbed(1, "bfloat16")) return 1;
    static const check_test tests[] = {
        CHECK_TEST(layouts_that_change_change_no_bit_over_zmq),
        CHECK_TEST(layouts_that_change_change_no_bit_over_ucx),
        CHECK_TEST(nor_do_they_in_bfloat16),
        CHECK_TEST(nor_where_few_states_are_held),
        CHECK_TEST(what_cannot_be_is_refused_with_one_line),
        CHECK_TEST(what_cannot_be_recorded_changes_nothing),
        CHECK_TEST(a_wish_to_leave_outlives_a_change_that_is_refused),
        CHECK_TEST(ps_shows_the_layout_that_is),
        CHECK_TEST(a_file_asks_as_well),
        CHECK_TEST(a_worker_that_is_asked_to_leave_hands_over),
        CHECK_TEST(sigterm_to_all_ends_the_run),
        CHECK_TEST(a_death_in_the_change_is_mended),
        CHECK_TEST(the_heads_death_in_the_change_is_mended),
        CHECK_TEST(a_killed_head_leaves_no_socket),
        CHECK_TEST(the_agents_death_after_it_is_mended),
        CHECK_TEST(the_agents_death_in_the_change_is_mended),
        CHECK_TEST(a_resumed_run_keeps_its_layout),
    };
    int result = check_run("cli/scale", tests, sizeof tests / sizeof *tests);
    for (int i = 0; i < 2; i++) tr_free(undisturbed[i]);
    leave_directory(directory);
    return result;
}
