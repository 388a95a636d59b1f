/* test/cli/faults_test.c - faults of every kind at moments that a seed draws (chaos.faults_per_minute), by the command itself and
 * over both transports: losses and weights are those of a run that nobody disturbed, each kind is told, and nothing is left.
 * A run goes on until every kind has come, and is then asked to stop; so what it is compared with is trained afterwards, for as many
 * steps, in one process.
 * SPDX-License-Identifier: Apache-2.0 */
#include "disturbed_run.h"

#include "runtime/fault.h"

enum { MOST_PIDS = 512, SECONDS = 100, MOST_STEPS = 1000000 };

static const char few_steps[] = "checkpoint: {every: 10, keep: 2}\n";

typedef struct chaos {
    const char *transport;
    char *run, *recipe;
    command_run command;
    int32_t pids[MOST_PIDS]; /* the head's, and every worker's that there was */
    int n_pids;
    int steps; /* that it had logged when it stopped, */
    int saved; /* and that it goes on after: less where somebody died just before the last checkpoint was whole */
} chaos;

static char *write_recipe(const char *run, const char *more)
{
    char *text = path_in(directory, "words.txt"), *recipe = tr_format("%s.yaml", run);
    char *yaml =
        tr_format("run: %s\n"
                  "model: {family: llama, layers: 2, width: 32, heads: 2, vocabulary: 256, tie: true}\n"
                  "data: {text: %s}\n"
                  "train: {steps: %d, sequence: 32, microbatch: 2, accumulate: 4}\n"
                  "lr: {peak: 1e-3, decay: constant}\n"
                  "%s",
                  run, text, MOST_STEPS, more);
    write_text(recipe, yaml);
    tr_free(yaml);
    tr_free(text);
    return recipe;
}

static void begin(chaos *self, const char *transport, const char *faults, const char *rest)
{
    *self = (chaos){.transport = transport, .run = path_in(directory, transport)};
    char *more = tr_format("layout: {data: 2, pipeline: 2}\n"
                           "transport: %s\n"
                           "supervision: {intensity: 10000, quarantine_after: 0}\n"
                           "chaos: {%s}\n"
                           "%s",
                           transport, faults, rest);
    self->recipe = write_recipe(self->run, more);
    tr_free(more);
    command_start(&self->command, (const char *const[]){"train", self->recipe, NULL});
}

static void release(chaos *self)
{
    command_release(&self->command);
    tr_directory_remove_tree(self->run, NULL);
    tr_free(self->run);
    tr_free(self->recipe);
}

/* The kinds that its events tell of. */
static uint32_t kinds_seen(const char *run)
{
    uint32_t kinds = 0, n;
    char name[32];
    json_t *events = events_of(run), *event;
    size_t i;
    json_array_foreach(events, i, event)
    {
        if (strcmp(text_of(event, "event"), "fault") != 0) continue;
        uint32_t kind = 0;
        bool reads = sscanf(text_of(event, "text"), "fault %u, %31[a-z_]:", &n, name) == 2 &&
                     tr_faults_parse(name, &kind, NULL) == TR_OK;
        CU_ASSERT(reads);
        kinds |= kind;
    }
    json_decref(events);
    return kinds;
}

/* And what is to be seen of them was seen: a fault that is told may meet somebody who dies of another. */
static bool has_seen_all(const char *run)
{
    return kinds_seen(run) == TR_FAULTS_ALL && has_event(run, "worker_died", "was killed by signal 9") &&
           has_event(run, "worker_fenced", " was stopped and has not moved for ") &&
           has_event(run, "worker_fenced", " does not answer any more") &&
           has_event(run, "state_rotten", "no longer hold what was written") &&
           has_event(run, "frame_damaged", " came damaged") &&
           has_event(run, "checkpoint_failed", strerror(ENOSPC)) &&
           has_event(run, "checkpoint_failed", strerror(EIO));
}

static bool has_ended(const chaos *self)
{
    siginfo_t ended = {0};
    waitid(P_PID, (id_t)self->command.pid, &ended, WEXITED | WNOHANG | WNOWAIT);
    return ended.si_pid != 0;
}

/* Until it `has`, or has ended, or SECONDS are over. Then it is asked to stop, and must. */
static void stop_when(chaos *self, bool (*has)(const char *run))
{
    double until = command_now_s() + SECONDS;
    bool had = false;
    while (!(had = has(self->run)) && !has_ended(self) && command_now_s() < until) command_nap_ms(100);
    CU_ASSERT(had);
    self->pids[self->n_pids++] = self->command.pid;
    kill(self->command.pid, SIGINT);
    command_wait(&self->command, SECONDS);
    bool good = command_ended(&self->command, 1);
    good = good && text_has(self->command.err_text, "stopped after step ");
    const char *line = strstr(self->command.err_text, "stopped after step ");
    good = good && sscanf(line, "stopped after step %d", &self->steps) == 1;
    line = good ? strstr(line, "goes on after step ") : NULL;
    self->saved = self->steps;
    if (line) sscanf(line, "goes on after step %d", &self->saved);
    if (!had || !good) tell_events(self->run);
    CU_ASSERT_FATAL(had && good);
}

/* --- what is left --- */

static void read_pids(chaos *self)
{
    json_t *events = events_of(self->run), *event;
    size_t i;
    json_array_foreach(events, i, event)
    {
        int32_t pid = (int32_t)json_integer_value(json_object_get(event, "pid"));
        if (strcmp(text_of(event, "event"), "worker_started") == 0 && self->n_pids < MOST_PIDS)
            self->pids[self->n_pids++] = pid;
    }
    json_decref(events);
}

static bool is_ours(const chaos *self, int32_t pid)
{
    for (int i = 0; i < self->n_pids; i++)
        if (self->pids[i] == pid) return true;
    return false;
}

/* Lines of a file of /proc in which `format` finds a pid of ours. */
static int count_in(const chaos *self, const char *path, const char *format, const char *from)
{
    char line[512];
    int n = 0;
    FILE *stream = fopen(path, "re");
    while (stream && fgets(line, sizeof line, stream)) {
        int32_t pid = 0;
        const char *at = from ? strstr(line, from) : line;
        if (at && sscanf(at, format, &pid) == 1) n += is_ours(self, pid);
    }
    if (stream) fclose(stream);
    return n;
}

static int count_left(const chaos *self)
{
    int n = count_in(self, "/proc/sysvipc/shm", "%*d %*d %*o %*u %d", NULL) +
            count_in(self, "/proc/net/unix", "@troupe-%d-", "@troupe-");
    for (int i = 0; i < self->n_pids; i++) n += process_lives(self->pids[i]);
    return n;
}

static bool nothing_is_left(chaos *self)
{
    read_pids(self);
    CU_ASSERT(self->n_pids > 5); /* some were replaced */
    for (int i = 0; i < 100 && count_left(self); i++) command_nap_ms(50);
    if (count_left(self)) fprintf(stderr, "\n%s: %d things are left\n", self->run, count_left(self));
    return count_left(self) == 0;
}

/* --- what it trained --- */

/* Goes on to so many steps in one process. */
static bool train_plainly_to(const char *run, const char *recipe, int steps)
{
    char *key = tr_format("train.steps=%d", steps);
    bool good = command_succeeds(
        (const char *const[]){"train", recipe, key, tr_path_exists(run) ? "--resume" : NULL, NULL});
    tr_free(key);
    return good;
}

/* The last line of a run that was done has more to say than that of one which was stopped. */
static bool same_losses(const char *left, const char *right, size_t n_steps)
{
    json_t *a = log_of(left), *b = log_of(right);
    bool same = log_is_complete(a, n_steps) && log_is_complete(b, n_steps);
    for (size_t i = 0; i < n_steps && same; i++) {
        json_t *x = json_array_get(a, i), *y = json_array_get(b, i);
        same = json_equal(json_object_get(x, "loss_hex"), json_object_get(y, "loss_hex")) &&
               json_equal(json_object_get(x, "grad_norm"), json_object_get(y, "grad_norm"));
        if (!same) fprintf(stderr, "\n%s: line %zu differs\n", right, i + 1);
    }
    json_decref(a);
    json_decref(b);
    return same;
}

static void faults_of_every_kind_change_no_bit(void)
{
    static const char faults[] = "seed: 10, faults_per_minute: 120";
    chaos runs[2];
    char *plain = path_in(directory, "plain"), *recipe = write_recipe(plain, "layout: {processes: false}\n");
    begin(&runs[0], "ucx", faults, few_steps);
    begin(&runs[1], "zmq", faults, few_steps);
    for (int i = 0; i < 2; i++) stop_when(&runs[i], has_seen_all);
    int first = runs[1].steps < runs[0].steps;
    for (int k = 0; k < 2; k++) {
        chaos *run = &runs[k ? !first : first];
        bool good = nothing_is_left(run);
        good = train_plainly_to(plain, recipe, run->saved) && good;
        good = same_checkpoint(plain, run->run, run->saved) && good;
        good = train_plainly_to(plain, recipe, run->steps) && good;
        good = same_losses(plain, run->run, (size_t)run->steps) && good;
        good = text_has(run->command.out_text, "stop_and_continue: worker ") && good;
        if (!good) tell_events(run->run);
        CU_ASSERT(good);
    }
    for (int i = 0; i < 2; i++) release(&runs[i]);
    tr_directory_remove_tree(plain, NULL);
    tr_free(plain);
    tr_free(recipe);
}

static bool has_recovered(const char *run)
{
    return count_events(run, "recovered") >= 1;
}

/* Over UCX only the worker knows: nothing else tells the head. The seed is one whose first cut is such a one. */
static void a_link_for_data_to_the_head_that_breaks_alone_is_mended(void)
{
    chaos run;
    begin(&run, "ucx", "seed: 3158, faults_per_minute: 6, faults: cut", few_steps);
    stop_when(&run, has_recovered);
    CU_ASSERT(has_event(run.run, "fault", "fault 1, cut: the link for data of worker 2 to node 0 is cut"));
    CU_ASSERT(has_event(run.run, "worker_fenced", "worker 2 does not answer any more"));
    CU_ASSERT_EQUAL(count_events(run.run, "fault"), 1); /* the next one, much later, would be mended too */
    release(&run);
}

/* What cannot be shown is told, and the rest comes. */
static bool has_been_slow(const char *run)
{
    return kinds_seen(run) ==
           (TR_FAULT_BIT(TR_FAULT_SLOW) | TR_FAULT_BIT(TR_FAULT_DELAY) | TR_FAULT_BIT(TR_FAULT_DUPLICATE));
}

static void without_recovery_only_what_needs_none_is_done(void)
{
    chaos run;
    begin(&run, "zmq", "seed: 7, faults_per_minute: 300", "recovery: off\n");
    stop_when(&run, has_been_slow);
    CU_ASSERT(has_event(run.run, "faults_left_out",
                        "faults by chance leave out kill, stop, stop_and_continue, flip_state, cut, deaf, "
                        "flip_frame: nobody is replaced where recovery is off; full_disk, failed_fsync: no "
                        "checkpoint but the last is written where checkpoint.every is 0"));
    CU_ASSERT_EQUAL(count_events(run.run, "worker_died"), 0);
    release(&run);
}

static const check_test tests[] = {
    CHECK_TEST(faults_of_every_kind_change_no_bit),
    CHECK_TEST(a_link_for_data_to_the_head_that_breaks_alone_is_mended),
    CHECK_TEST(without_recovery_only_what_needs_none_is_done),
};

int main(void)
{
    if (getenv("TROUPE_TEST_DEVICE")) return 77; /* what is drawn is of processes, links and disks */
    enter_with_words();
    int result = check_run("cli/faults", tests, sizeof tests / sizeof *tests);
    leave_directory(directory);
    return result;
}
