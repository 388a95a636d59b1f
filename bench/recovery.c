/* bench/recovery.c - what a worker's death costs, on the model of the quickstart.
 * recovery [--kills N] [--seconds S] [--rounds R] [--minutes M] [--every K] [--recipe FILE] [--text FILE] [--set KEY=VALUE]
 *
 * First times: N workers drawn by chance are killed (SIGKILL), each some steps after the recovery before. From the kill:
 * until the head has heard of it, until every node is ready again, until a step is finished that was not there before (it
 * takes one step at least, and the one at hand is run again). Median and worst. With recovery by step and by replay, ten
 * kills of each in turns. --set changes the recipe, train.accumulate=32 for instance makes steps long.
 * Then goodput: R rounds of slices of S seconds with a kill every 10 s, and of a minute with one; each kill mended by
 * recovery, and in slices beside them by what there was before: the run ends, and --resume goes on from the newest
 * checkpoint, one every K steps in all of them. Steps that are there at the end, by time, as a share of what the
 * undisturbed slices before and behind made. A slice begins with its third step, so starting is not in it, restarting is.
 * After M minutes it ends with what it has. Both compare within one session, interleaved; a loaded machine shows in the
 * spread of the undisturbed slices.
 * SPDX-License-Identifier: Apache-2.0 */
#include "bench/watched_run.h"

#include "base/file.h"
#include "base/rng.h"

enum { MOST = 1000, MOST_ROUNDS = 100, PATIENCE_S = 60, TEXT_BYTES = 1 << 20, IN_TURN = 10, N_TIMES = 3 };

typedef struct bench {
    const char *troupe, *recipe, *text, *set;
    uint32_t kills, rounds, every;
    double seconds, until_s;
    char directory[64];
    int output;
    uint32_t n_drawn;
} bench;

typedef struct mode {
    const char *name;
    bool recovers;
    double period_s; /* 0: nobody is killed */
    double seconds;  /* of a slice; 0: as given */
} mode;

static const mode modes[] = {
    {"undisturbed", true, 0, 0},
    {"a kill every 10 s, recovery", true, 10, 0},
    {"a kill every 10 s, restart", false, 10, 0},
    {"a kill a minute, recovery", true, 60, 60},
    {"a kill a minute, restart", false, 60, 60},
};
enum { N_MODES = sizeof modes / sizeof *modes };

static uint32_t draw(bench *self, uint32_t n)
{
    const tr_rng_key key = {.seed = 1, .stream = 0x42454e43 /* "BENC" */, .step = self->n_drawn++};
    return (uint32_t)(tr_rng_u64(&key, 0) % n);
}

static void fail(const watched_run *run, const bench *self, const char *what)
{
    char text[2048];
    off_t size = lseek(self->output, 0, SEEK_END);
    ssize_t n = pread(self->output, text, sizeof text, size > 2000 ? size - 2000 : 0);
    fprintf(stderr, "recovery: %s at step %u\n%.*s", what, run->step, n > 0 ? (int)n : 0, text);
}

/* --- one run --- */

static void start(const bench *self, watched_run *run, const char *name, const char *recovery, bool resume)
{
    char directory[128], words[7][600];
    int n = 1;
    snprintf(directory, sizeof directory, "%s/%s", self->directory, name);
    const char *arguments[WATCHED_ARGUMENTS] = {self->recipe};
    snprintf(words[0], sizeof words[0], "run=%s", directory);
    snprintf(words[1], sizeof words[1], "data.text=%s", self->text);
    snprintf(words[2], sizeof words[2], "train.steps=1000000");
    snprintf(words[3], sizeof words[3], "checkpoint.every=%u", self->every);
    snprintf(words[4], sizeof words[4], "recovery=%s", recovery);
    snprintf(words[5], sizeof words[5], "supervision.intensity=1000");
    snprintf(words[6], sizeof words[6], "supervision.lease=0"); /* the next run has the machine for itself */
    for (int i = 0; i < 7; i++) arguments[n++] = words[i];
    if (self->set) arguments[n++] = self->set;
    if (resume) arguments[n] = "--resume";
    watched_start(run, self->troupe, directory, arguments, self->output);
}

/* Its workers end with it; the next run has the machine for itself. */
static void end(const bench *self, watched_run *run, const char *name)
{
    char directory[128];
    watched_kill(run);
    double until_s = watched_now_s() + 5;
    for (size_t i = 0; i < run->n_all; i++)
        while (kill(run->all[i].pid, 0) == 0 && watched_now_s() < until_s) {
            while (waitpid(-1, NULL, WNOHANG) > 0) {
            }
            watched_nap_ms(2);
        }
    tr_free(run->all);
    *run = (watched_run){0};
    snprintf(directory, sizeof directory, "%s/%s", self->directory, name);
    tr_directory_remove_tree(directory, NULL);
}

/* Kills a worker drawn by chance; the pid, 0: none lives. */
static int32_t strike(bench *self, watched_run *run)
{
    watched_look(run);
    if (run->n_nodes < 2) return 0;
    int32_t pid = run->workers[1 + draw(self, (uint32_t)run->n_nodes - 1)];
    return !watched_is_dead(run, pid) && kill(pid, SIGKILL) == 0 ? pid : 0;
}

/* --- times --- */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, size_t n)
{
    qsort(values, n, sizeof *values, by_value);
    return n ? (values[(n - 1) / 2] + values[n / 2]) / 2 : 0;
}

static void print_times(const char *name, double *values, size_t n)
{
    double middle = median(values, n);
    printf("  %-44s %8.0f %8.0f\n", name, middle * 1e3, n ? values[n - 1] * 1e3 : 0);
}

static bool one_time(bench *self, watched_run *run, double out[N_TIMES])
{
    if (!watched_reach(run, run->step + 3, PATIENCE_S)) return false;
    watched_nap_ms(draw(self, 100)); /* somewhere in a step or two */
    double struck_s = watched_now_s();
    int32_t pid = strike(self, run);
    if (!pid) return false;
    run->is_well = false;
    while (!(run->is_well && watched_is_dead(run, pid)) && watched_now_s() < struck_s + PATIENCE_S &&
           watched_look(run))
        watched_nap_ms(2);
    if (!run->is_well) return false;
    out[0] = run->died_s - struck_s;
    out[1] = run->recovered_s - struck_s;
    out[2] = run->first_new_s - struck_s;
    return true;
}

typedef struct way {
    const char *recovery;
    double values[N_TIMES][MOST];
    size_t n;
    double step_s;
} way;

static bool some_times(bench *self, way *of)
{
    watched_run run = {0};
    size_t until = of->n + IN_TURN < self->kills ? of->n + IN_TURN : self->kills;
    start(self, &run, "times", of->recovery, false);
    bool good = watched_reach(&run, 5, PATIENCE_S);
    double since_s = watched_now_s();
    uint32_t from = run.step;
    good = good && watched_reach(&run, from + 20, 2 * PATIENCE_S);
    of->step_s = (watched_now_s() - since_s) / 20;
    while (good && of->n < until && watched_now_s() < self->until_s) {
        double one[N_TIMES];
        good = one_time(self, &run, one);
        for (int i = 0; good && i < N_TIMES; i++) of->values[i][of->n] = one[i];
        of->n += good;
    }
    if (!good) fail(&run, self, "the times could not be taken");
    end(self, &run, "times");
    return good;
}

static bool times(bench *self)
{
    static way ways[] = {{.recovery = "step"}, {.recovery = "replay"}};
    enum { N_WAYS = sizeof ways / sizeof *ways };
    while (ways[N_WAYS - 1].n < self->kills && watched_now_s() < self->until_s)
        for (int i = 0; i < N_WAYS; i++)
            if (!some_times(self, &ways[i])) return false;
    for (int i = 0; i < N_WAYS; i++) {
        way *of = &ways[i];
        printf("from SIGKILL of a worker, recovery by %s, %zu times, steps of %.0f ms\n  %-44s %8s %8s\n",
               of->recovery, of->n, of->step_s * 1e3, "", "median", "worst");
        print_times("to the head's word of it, ms", of->values[0], of->n);
        print_times("to every node ready again, ms", of->values[1], of->n);
        print_times("to the first new step, ms", of->values[2], of->n);
    }
    fflush(stdout);
    return true;
}

/* --- goodput --- */

/* Steps a second; negative: it failed. */
static double slice(bench *self, const mode *how)
{
    watched_run run = {0};
    double seconds = how->seconds > 0 ? how->seconds : self->seconds, next_s = how->period_s / 2;
    bool good = true;
    start(self, &run, "slice", how->recovers ? "step" : "off", false);
    good = watched_reach(&run, 3, PATIENCE_S);
    double since_s = watched_now_s(), now_s = since_s;
    uint32_t from = run.step;
    while (good && (now_s = watched_now_s()) < since_s + seconds) {
        if (how->period_s > 0 && now_s >= since_s + next_s) {
            strike(self, &run);
            next_s += how->period_s;
        }
        bool lives = watched_look(&run);
        if (!lives && how->recovers) good = false;
        if (!lives && !how->recovers) start(self, &run, "slice", "off", true);
        watched_nap_ms(2);
    }
    double rate = run.step > from ? (run.step - from) / (now_s - since_s) : 0;
    if (!good) fail(&run, self, how->name);
    end(self, &run, "slice");
    return good ? rate : -1;
}

static bool goodput(bench *self)
{
    static double shares[N_MODES][MOST_ROUNDS];
    double slowest = 0, fastest = 0, before = 0;
    size_t n[N_MODES] = {0};
    for (uint32_t round = 0; round < self->rounds; round++) {
        for (int i = 1; i < N_MODES && watched_now_s() < self->until_s; i++) {
            if (before == 0) before = slice(self, &modes[0]);
            double rate = slice(self, &modes[i]), behind = slice(self, &modes[0]);
            if (before < 0 || rate < 0 || behind < 0) return false;
            double undisturbed = (before + behind) / 2;
            slowest = slowest > 0 && slowest < undisturbed ? slowest : undisturbed;
            fastest = fastest > undisturbed ? fastest : undisturbed;
            if (undisturbed > 0) shares[i][n[i]++] = rate / undisturbed;
            before = behind;
        }
    }
    if (fastest == 0) {
        printf("\nno time was left for goodput\n");
        return true;
    }
    printf("\ngoodput, undisturbed %.1f to %.1f steps/s, a checkpoint every %u steps\n", slowest, fastest,
           self->every);
    printf("  %-44s %8s %8s %7s\n", "", "median", "worst", "slices");
    for (int i = 1; i < N_MODES; i++) {
        double middle = median(shares[i], n[i]);
        if (n[i] == 0)
            printf("  %-44s %26s\n", modes[i].name, "no time left");
        else
            printf("  %-44s %7.1f%% %7.1f%% %7zu\n", modes[i].name, middle * 100, shares[i][0] * 100, n[i]);
    }
    return true;
}

/* --- */

static bool read_options(bench *self, int argc, char **argv)
{
    double minutes = 15;
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];
        if (strcmp(name, "--kills") == 0)
            self->kills = (uint32_t)strtoul(value, NULL, 10);
        else if (strcmp(name, "--rounds") == 0)
            self->rounds = (uint32_t)strtoul(value, NULL, 10);
        else if (strcmp(name, "--every") == 0)
            self->every = (uint32_t)strtoul(value, NULL, 10);
        else if (strcmp(name, "--seconds") == 0)
            self->seconds = strtod(value, NULL);
        else if (strcmp(name, "--minutes") == 0)
            minutes = strtod(value, NULL);
        else if (strcmp(name, "--recipe") == 0)
            self->recipe = value;
        else if (strcmp(name, "--text") == 0)
            self->text = value;
        else if (strcmp(name, "--set") == 0)
            self->set = value;
        else
            return false;
    }
    self->until_s = watched_now_s() + minutes * 60;
    return argc % 2 == 1 && self->kills <= MOST && self->rounds <= MOST_ROUNDS && self->every > 0 &&
           self->seconds > 0 && minutes > 0;
}

/* Where the quickstart has not left its text, any will do. */
static bool make_text(bench *self, char *path, size_t capacity)
{
    static const char *const words[] = {"the ", "sea ", "rose ", "and ", "fell ", "upon ", "a ", "stone.\n"};
    if (access(self->text, R_OK) == 0) return true;
    snprintf(path, capacity, "%s/words.txt", self->directory);
    FILE *file = fopen(path, "we");
    for (long n = 0; file && n < TEXT_BYTES; n = ftell(file)) fputs(words[draw(self, 8)], file);
    self->text = path;
    return file && fclose(file) == 0;
}

int main(int argc, char **argv)
{
    bench self = {.troupe = TROUPE_COMMAND,
                  .recipe = "examples/gpt-cpu.yaml",
                  .text = "data/bible.txt",
                  .kills = 50,
                  .rounds = 3,
                  .every = 100,
                  .seconds = 20,
                  .directory = "/tmp/troupe-bench-XXXXXX"};
    char text[128];
    if (!read_options(&self, argc, argv)) {
        fprintf(stderr, "usage: recovery [--kills N] [--seconds S] [--rounds R] [--minutes M] [--every K] "
                        "[--recipe FILE] [--text FILE] [--set KEY=VALUE]\n");
        return 2;
    }
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    char log[128];
    if (!mkdtemp(self.directory) || !make_text(&self, text, sizeof text)) {
        perror("recovery: cannot make a directory in /tmp");
        return 1;
    }
    snprintf(log, sizeof log, "%s/output", self.directory);
    self.output = open(log, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    bool good = (self.kills == 0 || times(&self)) && (self.rounds == 0 || goodput(&self));
    tr_directory_remove_tree(self.directory, NULL);
    return !good;
}
