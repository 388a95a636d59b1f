/* test/chaos/chaos.c - a long training of a small model whose processes are killed, stopped and lied to, again and again.
 * In the end its log and its last checkpoint must have the bits of a training that nobody disturbed; every recovery must
 * have come to a new step within a bounded time; head and agent must hold no more than at first; nothing may be left.
 * Which faults there are, when and whom they hit is drawn from a seed; where in a step a process is when it dies is not,
 * which is the point (test/cli/recovery_test.c names its moments).
 * SPDX-License-Identifier: Apache-2.0 */
#include "test/chaos/faults.h"
#include "test/chaos/usage.h"

#include "base/rng.h"

#include "../pipelines/files.h"

#include <sys/mman.h>

#ifdef __SANITIZE_THREAD__ /* which keeps memory of its own for each address that was ever touched */
enum { SHADOWED = true };
#else
enum { SHADOWED = false };
#endif

enum {
    STEPS_A_FAULT = 40, /* more than a fast machine takes while one is mended */
    RECOVERY_S = 60,    /* a bound for hangs on a loaded machine, no promise about time */
    MOST_SAMPLES = 4096,
    SLACK_DESCRIPTORS = 4, /* connections on their way out; a leak grows with every fault */
    SLACK_KIB = 4096,
    SLACK_KIB_A_FAULT = 16 /* of memory that allocators keep */
};

typedef struct chaos_options {
    uint32_t kills;
    uint64_t seed;
    double minutes;
    const char *transport; /* NULL: both */
    const char *troupe;
    bool alone; /* in namespaces of our own */
} chaos_options;

typedef struct tally {
    uint32_t n_done, n_failed;
    double worst_s;
} tally;

typedef struct chaos {
    const chaos_options *options;
    const char *transport;
    fault_job job;
    uint32_t n_steps;
    fault_kind *deck; /* options->kills of them */
    tally tallies[FAULT_KINDS];
    usage heads[MOST_SAMPLES], agents[MOST_SAMPLES];
    size_t n_heads, n_agents;
    double took_undisturbed_s, took_s;
} chaos;

/* Rows of the fault matrix that this program cannot show, and who does. */
static const struct {
    int row;
    const char *why;
} elsewhere[] = {
    {7, "an actor in a dead loop: cli/recovery"},
    {9, "partition between hosts: cli/hosts/a_cut_between_hosts, cli/lease/the_leading_host_is_cut_off"},
    {10, "one-way partition: cli/hosts/one_side_is_deaf"},
    {11, "half-open connection: transport/*_test (killed, stopped peers), cli/hosts/one_side_is_deaf"},
    {12, "a link that flaps: cli/hosts/a_connection_that_flaps"},
    {13,
     "flipped bit on the wire, once and again and again: transport/*_test, cli/damage; quarantine of a host: "
     "cli/hosts/an_erring_host_is_quarantined"},
    {14, "hostile MessagePack: fuzz/*, transport/*_test"},
    {15, "duplicate message: runtime/edge_test; corruption alarm: cli/replay"},
    {16, "reordered messages: runtime/edge_test, runtime/simulation_test"},
    {17, "late message of an old epoch: runtime/edge_test, transport/*_test, runtime/faults; here only as "
         "far as kills "
         "leave some under way"},
    {18, "lost or doubled credit: runtime/edge_test, every simulation"},
    {19, "slow consumer: transport/*_test, runtime/simulation_test"},
    {20, "full disk: cli/full_disk"},
    {21, "crash within a checkpoint: cli/recovery (checkpointing), pipelines/checkpoint_files"},
    {23, "killed by the kernel for want of memory: cli/out_of_memory, in a control group with a limit"},
    {24, "GPU faults: actors/cuda_stage, cli/cuda_quarantine, on GPUs; with played devices: cli/quarantine"},
    {25, "the wall clock jumps: it cannot be set for one job; no code reads it"},
    {29, "a peer dies in a collective: cli/cuda_replicas, on GPUs"},
    {30, "the abort of a communicator hangs: transport/nccl, actors/collect, over a library that plays NCCL"},
    {31, "communicator set-up does not finish: actors/collect, transport/nccl"},
    {32, "UCX endpoint fails in a rendezvous: transport/ucx (a_kill_within_a_rendezvous_costs_no_bit)"},
    {33, "a loss that is no number: cli/non_finite"},
    {34, "a bit flips in a computation: cli/replay, cli/audit; too often on one host: cli/damage"},
    {35, "a worker joins: cli/scale; a host: cli/changing_hosts"},
    {36, "crash loop: cli/recovery"},
    {38, "other version, plan or key: transport/*_test, cli/head, cli/hosts/who_may_not_join_is_refused"},
};

/* --- what is to come --- */

static void shuffle(fault_job *job, fault_kind *deck, uint32_t n)
{
    for (uint32_t i = n; i > 1; i--) {
        uint32_t at = fault_draw(job, i);
        fault_kind kind = deck[i - 1];
        deck[i - 1] = deck[at];
        deck[at] = kind;
    }
}

/* Each kind once, as far as they go round; then by weight. Who costs the head or the agent its life comes in the first
 * quarter, so that behind it both live long enough to compare what they hold. */
static void deal(chaos *self)
{
    enum { N_FIRST = 6 };
    static const fault_kind first[N_FIRST] = {FAULT_AGENT,           FAULT_HEAD,
                                              FAULT_HEAD_LATE,       FAULT_TWO_HEADS,
                                              FAULT_HEAD_AND_WORKER, FAULT_AGENT_AND_WORKER};
    static const fault_kind once[] = {FAULT_KILL,  FAULT_TWICE,  FAULT_ROT,  FAULT_SEGV,     FAULT_ALL,
                                      FAULT_PAUSE, FAULT_ZOMBIE, FAULT_ABRT, FAULT_ROT_BOTH, FAULT_STOP};
    uint32_t kills = self->options->kills, n = 0, n_first;
    double weights = 0;
    for (int kind = 0; kind < FAULT_KINDS; kind++) weights += fault_infos[kind].weight;
    for (uint32_t i = 0; n < kills && i < N_FIRST * (1 + kills / 60) && (i < 2 || kills > 14); i++)
        self->deck[n++] = first[i % N_FIRST];
    n_first = n;
    for (uint32_t i = 0; n < kills && i < sizeof once / sizeof *once; i++) self->deck[n++] = once[i];
    while (n < kills) {
        double at = weights * fault_draw(&self->job, 1u << 30) / (1u << 30);
        int kind = 0;
        while (kind < FAULT_KINDS - 1 && (at -= fault_infos[kind].weight) >= 0) kind++;
        self->deck[n++] = (fault_kind)kind;
    }
    shuffle(&self->job, self->deck, n_first);
    shuffle(&self->job, self->deck + n_first, kills - n_first);
}

/* A text of made-up words, the same every time. */
static void write_words(const char *path)
{
    static const char *const words[] = {"the ", "sea ", "rose ", "and ", "fell ", "upon ", "a ", "stone.\n"};
    const tr_rng_key key = {.seed = 1};
    char text[4096] = "";
    size_t size = 0;
    for (uint64_t i = 0; size < 4000; i++) {
        const char *word = words[tr_rng_u64(&key, i) % 8];
        size += (size_t)snprintf(text + size, sizeof text - size, "%s", word);
    }
    tr_error err;
    if (tr_file_write(path, text, size, &err)) abort();
}

static char *write_recipe(const chaos *self, const char *run, const char *words)
{
    char *path = tr_format("%s.yaml", run);
    char *yaml =
        tr_format("run: %s\n"
                  "model: {family: llama, layers: 2, width: 32, heads: 2, vocabulary: 256, tie: true}\n"
                  "data: {text: %s}\n"
                  "train: {steps: %u, sequence: 32, microbatch: 2, accumulate: 4}\n"
                  "lr: {peak: 1e-3}\n"
                  "layout: {data: 2, pipeline: 2}\n"
                  "transport: %s\n"
                  "validate: {every: 40}\n"
                  "checkpoint: {every: 30, keep: 2}\n"
                  "supervision: {intensity: 1000, period: 1, lease: %d}\n",
                  run, words, self->n_steps, self->transport, FAULT_LEASE_S);
    tr_error err;
    if (!path || !yaml || tr_file_write(path, yaml, strlen(yaml), &err)) abort();
    tr_free(yaml);
    return path;
}

/* --- one training --- */

static void sample(chaos *self)
{
    int32_t agent = fault_agent(&self->job);
    if (self->n_heads == MOST_SAMPLES || self->n_agents == MOST_SAMPLES) return;
    if (self->n_heads && self->heads[0].pid != self->job.run.head) self->n_heads = 0; /* another life */
    if (self->n_agents && self->agents[0].pid != agent) self->n_agents = 0;
    self->n_heads += usage_of(self->job.run.head, &self->heads[self->n_heads]);
    self->n_agents += agent && usage_of(agent, &self->agents[self->n_agents]);
}

static void show_output(const fault_job *job)
{
    char text[4096];
    off_t size = lseek(job->output, 0, SEEK_END), from = size > 4000 ? size - 4000 : 0;
    ssize_t n = pread(job->output, text, sizeof text, from);
    if (n > 0) printf("    the end of what it said:\n%.*s\n", (int)n, text);
}

static bool one_fault(chaos *self, uint32_t i)
{
    fault_job *job = &self->job;
    fault_kind kind = self->deck[i];
    tally *sum = &self->tallies[kind];
    uint32_t step = 2 + i * STEPS_A_FAULT + fault_draw(job, STEPS_A_FAULT / 2);
    bool good = watched_reach(&job->run, step, RECOVERY_S);
    if (!good) snprintf(job->what, sizeof job->what, "the job stands still at step %u", job->run.step);
    watched_nap_ms(fault_draw(job, 20000) * 1e-3); /* somewhere in a step or two */
    step = job->run.step;
    uint32_t n_deaths = job->run.n_deaths;
    double since_s = watched_now_s();
    good = good && fault_do(job, kind, RECOVERY_S);
    double took_s = watched_now_s() - since_s;
    sum->n_done++;
    sum->n_failed += !good;
    if (took_s > sum->worst_s) sum->worst_s = took_s;
    const char *doing = job->run.n_deaths > n_deaths ? strstr(job->run.last_death, " while ") : NULL;
    printf("  %3u  step %4u  %6.0f ms  epoch %3u  %s: %s%s%.90s%s\n", i + 1, step, took_s * 1e3,
           job->run.epoch, fault_infos[kind].name, job->what, doing && good ? ";" : "",
           doing && good ? doing : "", good ? "" : "  FAILED");
    if (!good) show_output(job);
    fflush(stdout);
    if (good && watched_reach(&job->run, job->run.step + 3, RECOVERY_S)) sample(self);
    return good;
}

static bool finishes(chaos *self)
{
    fault_job *job = &self->job;
    double until_s = watched_now_s() + 2 * RECOVERY_S + self->n_steps * 0.2;
    while (watched_look(&job->run) && watched_now_s() < until_s) watched_nap_ms(5);
    bool good = !job->run.head && WIFEXITED(job->run.status) && WEXITSTATUS(job->run.status) == 0;
    if (job->run.head) printf("  it did not end by itself\n");
    if (!good) show_output(job);
    watched_kill(&job->run);
    return good;
}

static bool disturbed(chaos *self)
{
    double since_s = watched_now_s(), until_s = since_s + self->options->minutes * 60;
    uint32_t done = 0;
    bool good = true;
    fault_start(&self->job, false);
    while (good && done < self->options->kills && watched_now_s() < until_s) good = one_fault(self, done++);
    if (good && done < self->options->kills)
        printf("  the time is up after %u of %u\n", done, self->options->kills);
    good = good && finishes(self);
    watched_kill(&self->job.run);
    self->took_s = watched_now_s() - since_s;
    return good;
}

/* --- what must be true --- */

static json_t *record_of(const char **at, const char *end)
{
    const char *line_end = memchr(*at, '\n', (size_t)(end - *at));
    json_t *record = line_end ? json_loadb(*at, (size_t)(line_end - *at), 0, NULL) : NULL;
    if (line_end) *at = line_end + 1;
    return record;
}

/* What depends on the training alone: times do not. */
static bool same_record(const json_t *a, const json_t *b, uint32_t step)
{
    static const char *const keys[] = {"step", "loss_hex", "grad_norm", "lr", "tokens", "validation_loss"};
    bool same = a && b && json_integer_value(json_object_get(b, "step")) == (json_int_t)step;
    for (size_t i = 0; same && i < sizeof keys / sizeof *keys; i++) {
        json_t *x = json_object_get(a, keys[i]), *y = json_object_get(b, keys[i]);
        same = (!x && !y) || (x && y && json_equal(x, y));
    }
    if (!same) printf("  the records of step %u differ\n", step);
    return same;
}

/* Both whole, each step once. */
static bool same_logs(const char *left, const char *right, uint32_t n_steps)
{
    char *paths[2] = {path_in(left, "log.jsonl"), path_in(right, "log.jsonl")}, *texts[2] = {0};
    size_t sizes[2] = {0};
    bool same = true;
    for (int i = 0; i < 2; i++) same &= tr_file_read(paths[i], &texts[i], &sizes[i], NULL) == TR_OK;
    const char *at[2] = {texts[0], texts[1]};
    for (uint32_t step = 1; same && step <= n_steps; step++) {
        json_t *a = record_of(&at[0], texts[0] + sizes[0]), *b = record_of(&at[1], texts[1] + sizes[1]);
        same = same_record(a, b, step);
        json_decref(a);
        json_decref(b);
    }
    same = same && at[0] == texts[0] + sizes[0] && at[1] == texts[1] + sizes[1];
    for (int i = 0; i < 2; i++) tr_free(texts[i]);
    for (int i = 0; i < 2; i++) tr_free(paths[i]);
    return same;
}

static bool same_checkpoint(const char *left, const char *right, uint32_t step, const char *file)
{
    char *a = tr_format("%s/checkpoints/step-%u/%s", left, step, file),
         *b = tr_format("%s/checkpoints/step-%u/%s", right, step, file);
    bool same = files_are_equal(a, b);
    if (!same) printf("  %s differs\n", b);
    tr_free(a);
    tr_free(b);
    return same;
}

static bool same_bits(const chaos *self, const char *left, const char *right)
{
    bool same = same_logs(left, right, self->n_steps);
    same = same_checkpoint(left, right, self->n_steps, "model.safetensors") && same;
    same = same_checkpoint(left, right, self->n_steps, "trainer/optimizer.safetensors") && same;
    printf("%s: every loss, norm and held-out loss of %u steps and the last checkpoint %s an undisturbed "
           "run's\n",
           self->transport, self->n_steps, same ? "have the bits of" : "DIFFER from");
    return same;
}

static bool is_flat(const chaos *self, const char *who, const usage *samples, size_t n)
{
    usage ends[2];
    if (n < 4 || !usage_compare(samples, n, ends)) {
        printf("%s: the %s lived for %zu faults: too few to compare what it holds\n", self->transport, who,
               n);
        return true;
    }
    int64_t slack_kib = SLACK_KIB + SLACK_KIB_A_FAULT * (int64_t)n;
    bool flat = ends[1].descriptors - ends[0].descriptors <= SLACK_DESCRIPTORS &&
                ends[1].memfds <= ends[0].memfds && ends[1].threads <= ends[0].threads &&
                (SHADOWED || ends[1].rss_kib - ends[0].rss_kib <= slack_kib);
    printf("%s: %s over %zu faults: descriptors %lld to %lld, memfds %lld to %lld, threads %lld to %lld, "
           "mappings "
           "%lld to %lld, resident %lld to %lld KiB%s\n",
           self->transport, who, n, (long long)ends[0].descriptors, (long long)ends[1].descriptors,
           (long long)ends[0].memfds, (long long)ends[1].memfds, (long long)ends[0].threads,
           (long long)ends[1].threads, (long long)ends[0].mappings, (long long)ends[1].mappings,
           (long long)ends[0].rss_kib, (long long)ends[1].rss_kib, flat ? "" : "  GROWS");
    return flat;
}

static bool nothing_is_left(chaos *self)
{
    int n = 0;
    double until_s = watched_now_s() + 5;
    bool any = true;
    while (any && watched_now_s() < until_s) { /* what was killed may be on its way out */
        any = false;
        while (waitpid(-1, NULL, WNOHANG) > 0) {
        }
        for (size_t i = 0; i < self->job.run.n_all; i++) any |= kill(self->job.run.all[i].pid, 0) == 0;
        for (size_t i = 0; i < self->job.n_agents; i++) any |= kill(self->job.agents[i], 0) == 0;
        if (any) watched_nap_ms(10);
    }
    if (self->options->alone)
        n = usage_leftovers("  left: ");
    else if (any)
        n = printf("  left: agent or workers\n") > 0;
    printf("%s: %s left behind%s\n", self->transport, n ? "SOMETHING is" : "nothing is",
           self->options->alone ? " (processes, /dev/shm, System V segments, sockets)"
                                : " of processes (without namespaces of our own the rest cannot be told)");
    return n == 0;
}

static bool run_over(const chaos_options *options, const char *transport, const char *directory,
                     tally tallies[FAULT_KINDS])
{
    chaos *self = tr_alloc_zero(1, sizeof *self);
    char *calm = tr_format("%s/undisturbed-%s", directory, transport),
         *run = tr_format("%s/run-%s", directory, transport), *words = path_in(directory, "words.txt");
    *self = (chaos){.options = options,
                    .transport = transport,
                    .n_steps = options->kills * STEPS_A_FAULT + 2 * STEPS_A_FAULT,
                    .deck = tr_alloc_zero(options->kills + 1, sizeof *self->deck)};
    self->job = (fault_job){.troupe = options->troupe,
                            .directory = run,
                            .seed = options->seed,
                            .output = memfd_create("output", MFD_CLOEXEC)};
    char *recipe = write_recipe(self, calm, words), *disturbed_recipe = write_recipe(self, run, words);
    self->job.recipe = disturbed_recipe;
    deal(self);
    printf("%s: %u steps, undisturbed at first\n", transport, self->n_steps);
    fflush(stdout);
    fault_job quiet = self->job;
    quiet.recipe = recipe;
    quiet.directory = calm;
    double since_s = watched_now_s();
    fault_start(&quiet, false);
    while (watched_look(&quiet.run) && watched_now_s() < since_s + 60 + self->n_steps) watched_nap_ms(5);
    bool good = !quiet.run.head && WIFEXITED(quiet.run.status) && WEXITSTATUS(quiet.run.status) == 0;
    watched_kill(&quiet.run);
    tr_free(quiet.run.all);
    self->took_undisturbed_s = watched_now_s() - since_s;
    if (!good) printf("%s: the undisturbed run FAILED\n", transport);
    if (!good) show_output(&quiet);
    if (good) {
        printf("%s: that took %.1f s; now %u faults, seed %llu\n", transport, self->took_undisturbed_s,
               options->kills, (unsigned long long)options->seed);
        good = disturbed(self);
        good = good && same_bits(self, calm, run);
        good = is_flat(self, "head", self->heads, self->n_heads) && good;
        good = is_flat(self, "agent", self->agents, self->n_agents) && good;
        good = nothing_is_left(self) && good;
        printf("%s: %.1f s; SIGCONT met a process that was being replaced %u times\n", transport,
               self->took_s, self->job.n_zombies_met);
    }
    for (int kind = 0; kind < FAULT_KINDS; kind++) {
        tallies[kind].n_done += self->tallies[kind].n_done;
        tallies[kind].n_failed += self->tallies[kind].n_failed;
        if (self->tallies[kind].worst_s > tallies[kind].worst_s)
            tallies[kind].worst_s = self->tallies[kind].worst_s;
    }
    close(self->job.output);
    char *const owned[] = {calm, run, words, recipe, disturbed_recipe};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) tr_free(owned[i]);
    tr_free(self->job.run.all);
    tr_free(self->job.agents);
    tr_free(self->deck);
    tr_free(self);
    return good;
}

static void print_rows(const tally tallies[FAULT_KINDS], bool good)
{
    printf("\nrows of the fault matrix\n row  fault                                     times  outcome\n");
    for (int row = 1; row <= 38; row++) {
        for (int kind = 0; kind < FAULT_KINDS; kind++) {
            const tally *sum = &tallies[kind];
            if (fault_infos[kind].row != row) continue;
            printf("  %2d  %-40s  %5u  ", row, fault_infos[kind].name, sum->n_done);
            if (sum->n_done == 0)
                printf("not drawn\n");
            else if (sum->n_failed)
                printf("%u FAILED\n", sum->n_failed);
            else
                printf("%s, at worst %.1f s to a new step\n", good ? "same bits" : "mended", sum->worst_s);
        }
        for (size_t i = 0; i < sizeof elsewhere / sizeof *elsewhere; i++)
            if (elsewhere[i].row == row) printf("  %2d  not here: %s\n", row, elsewhere[i].why);
        if (row == 37)
            printf(
                "  37  descriptors and memory after many restarts: the lines about head and agent above\n");
    }
}

static bool read_options(chaos_options *options, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        bool has_value = i + 1 < argc;
        if (strcmp(argv[i], "--alone") == 0)
            options->alone = true;
        else if (strcmp(argv[i], "--kills") == 0 && has_value)
            options->kills = (uint32_t)strtoul(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--seed") == 0 && has_value)
            options->seed = strtoull(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--minutes") == 0 && has_value)
            options->minutes = strtod(argv[++i], NULL);
        else if (strcmp(argv[i], "--troupe") == 0 && has_value)
            options->troupe = argv[++i];
        else if (strcmp(argv[i], "--transport") == 0 && has_value)
            options->transport = argv[++i];
        else
            return false;
    }
    bool known = !options->transport || strcmp(options->transport, "ucx") == 0 ||
                 strcmp(options->transport, "zmq") == 0;
    return known && options->kills > 0 && options->kills <= 100000 && options->minutes > 0;
}

int main(int argc, char **argv)
{
    static const char *const transports[] = {"ucx", "zmq"};
    chaos_options options = {.kills = 200, .seed = 1, .minutes = 120, .troupe = TROUPE_COMMAND};
    tally tallies[FAULT_KINDS] = {0};
    if (!read_options(&options, argc, argv)) {
        fprintf(stderr,
                "usage: run [--kills N] [--transport ucx|zmq] [--seed S] [--minutes M] [--troupe COMMAND]\n"
                "N faults over each transport (200; both), at most M minutes for each (120)\n");
        return 2;
    }
    prctl(PR_SET_CHILD_SUBREAPER, 1); /* what a dead head leaves comes to us */
    char *directory = enter_directory(), *words = path_in(directory, "words.txt");
    write_words(words);
    tr_free(words);
    bool good = true;
    for (size_t i = 0; i < 2; i++)
        if (!options.transport || strcmp(options.transport, transports[i]) == 0)
            good = run_over(&options, transports[i], directory, tallies) && good;
    print_rows(tallies, good);
    printf("\n%s\n", good ? "sound" : "NOT sound");
    leave_directory(directory);
    return !good;
}
