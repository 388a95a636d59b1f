/* bench/training.c - what a training step of GPT-2 takes on this machine's processors, beside its limit, and a peer's.
 * training [--rows LIST] [--dtype float32|bfloat16] [--seconds S] [--threads N] [--peer] [--against PROGRAM] [--llmc DIR[:DIR]]
 *
 * Every contestant is a process of its own that makes a step when told; they take turns, so that whatever else the machine
 * does hits all alike. Medians. "Share" is the limit over what a step took, the limit being the time of the step's products
 * at oneDNN's best rate plus that of the update's bytes at the memory's, both measured in the same run. "Foreign" is the
 * share of the processors that went to others while a row was measured; where it is not small, believe ratios, and
 * processor time, rather than milliseconds.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/clock.h"
#include "bench/cpu/limits.h"
#include "bench/cpu/llmc.h"
#include "bench/cpu/report.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const struct {
    cpu_row row;
    double targets_ms[2]; /* float32, bfloat16 */
} known[] = {
    {{"124m-64", 12, 768, 50257, 4, 64}, {1100, 650}},
    {{"l6-50257", 6, 384, 50257, 4, 256}, {1150, 650}},
    {{"l6-65", 6, 384, 65, 4, 256}, {520, 330}},
    {{"124m-256", 12, 768, 50257, 4, 256}, {4400, 2500}},
};
enum { N_ROWS = sizeof known / sizeof *known, MOST_STEPS = 1000, LEAST_ROUNDS = 3, MOST_LLMCS = N_ROWS };

typedef struct settings {
    bool rows[N_ROWS], dtypes[2], peer, json;
    const char *against, *self;
    const char *llmc_path;
    llmc llmcs[MOST_LLMCS]; /* those that told their shape */
    int n_llmcs;
    double seconds;
    int n_threads;
} settings;

/* --- the contestant's side --- */

static double processor_ms(void)
{
    return (double)cpu_step_processor_ns() * 1e-6;
}

/* The same words as bench/peers/gpt2_torch.py has; behind the end of input, where the time went. */
static int serve(const char *row, const char *dtype, const char *threads)
{
    tr_error err = {0};
    cpu_step *step = NULL;
    for (int i = 0; i < N_ROWS; i++)
        if (strcmp(row, known[i].row.name) == 0 &&
            cpu_step_new(&step, &known[i].row, strcmp(dtype, "bfloat16") == 0 ? TR_BF16 : TR_F32,
                         atoi(threads), &err))
            fprintf(stderr, "training: %s\n", err.message);
    if (!step) return 1;
    printf("ready\n");
    fflush(stdout);
    char line[64];
    for (int n = 0; fgets(line, sizeof line, stdin); n++) {
        if (n == 1) cpu_step_forget_times(step);
        uint64_t begin = tr_clock_ns();
        double busy = processor_ms(), loss = cpu_step_run(step);
        printf("step %.3f %.3f %.6f\n", (double)(tr_clock_ns() - begin) * 1e-6, processor_ms() - busy, loss);
        fflush(stdout);
    }
    printf("work %.6g %.6g\n", cpu_step_product_flops(step), cpu_step_update_bytes(step));
    cpu_step_print_times(step, stdout);
    cpu_step_destroy(&step);
    return 0;
}

/* --- contestants, seen from outside --- */

typedef struct contestant {
    const char *name;
    pid_t pid;
    FILE *to, *from;
    double ms[MOST_STEPS], busy_ms[MOST_STEPS], loss;
    double cost_ms; /* processor time, of all steps with those that do not count */
    int n;
} contestant;

static bool start(contestant *self, const char *name, const char *const *arguments)
{
    int in[2], out[2];
    *self = (contestant){.name = name};
    if (pipe(in) != 0 || pipe(out) != 0) return false;
    self->pid = fork();
    if (self->pid == 0) {
        dup2(in[0], STDIN_FILENO);
        dup2(out[1], STDOUT_FILENO);
        for (int fd = 3; fd < 64; fd++) close(fd);
        execvp(arguments[0], (char *const *)(uintptr_t)arguments);
        _exit(127);
    }
    close(in[0]);
    close(out[1]);
    self->to = fdopen(in[1], "w");
    self->from = fdopen(out[0], "r");
    char line[64];
    return self->pid > 0 && self->to && self->from && fgets(line, sizeof line, self->from) &&
           strcmp(line, "ready\n") == 0;
}

static bool step(contestant *self, bool counts)
{
    char line[128];
    double ms, busy_ms;
    fputs("step\n", self->to);
    fflush(self->to);
    if (!fgets(line, sizeof line, self->from) ||
        sscanf(line, "step %lf %lf %lf", &ms, &busy_ms, &self->loss) != 3)
        return false;
    self->cost_ms += busy_ms;
    if (!counts || self->n == MOST_STEPS) return true;
    self->ms[self->n] = ms;
    self->busy_ms[self->n++] = busy_ms;
    return true;
}

static void end(contestant *self)
{
    if (self->to) fclose(self->to);
    if (self->from) fclose(self->from);
    if (self->pid > 0) waitpid(self->pid, NULL, 0);
    self->to = self->from = NULL;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int n)
{
    qsort(values, (size_t)n, sizeof *values, by_value);
    return n ? (values[(n - 1) / 2] + values[n / 2]) / 2 : 0;
}

/* --- the machine --- */

/* Milliseconds that its processors were at work since it started. */
static double machine_busy_ms(void)
{
    double ticks[8] = {0};
    FILE *file = fopen("/proc/stat", "r");
    if (!file) return 0;
    int n = fscanf(file, "cpu %lf %lf %lf %lf %lf %lf %lf %lf", &ticks[0], &ticks[1], &ticks[2], &ticks[3],
                   &ticks[4], &ticks[5], &ticks[6], &ticks[7]);
    fclose(file);
    if (n != 8) return 0;
    return (ticks[0] + ticks[1] + ticks[2] + ticks[5] + ticks[6] + ticks[7]) * 1e3 /
           (double)sysconf(_SC_CLK_TCK);
}

static void measure_limits(limits *best, const settings *s)
{
    tr_thread_pool *pool;
    tr_error err = {0};
    if (tr_thread_pool_new(&pool, s->n_threads, &err)) {
        fprintf(stderr, "training: %s\n", err.message);
        exit(1);
    }
    double found[] = {cpu_limit_flops(TR_F32, pool), cpu_limit_flops(TR_BF16, pool),
                      cpu_limit_bandwidth(pool)};
    double *kept[] = {&best->flops[0], &best->flops[1], &best->bandwidth};
    for (int i = 0; i < 3; i++)
        if (found[i] > *kept[i]) *kept[i] = found[i];
    tr_thread_pool_destroy(&pool);
}

/* --- a row --- */

/* Where the peer is: beside the sources that this was built from. */
static const char peer_program[] = TROUPE_SOURCE_DIR "/bench/peers/gpt2_torch.py";

static bool start_all(contestant *all, const settings *s, int row, int dtype)
{
    const cpu_row *r = &known[row].row;
    char numbers[6][16];
    const int32_t values[6] = {r->layers, r->width, r->vocabulary, r->rows, r->sequence, s->n_threads};
    for (int i = 0; i < 6; i++) snprintf(numbers[i], sizeof numbers[i], "%d", values[i]);
    const char *ours[] = {s->self, "--serve", r->name, dtype_name(dtype), numbers[5], NULL};
    const char *other[] = {s->against, "--serve", r->name, dtype_name(dtype), numbers[5], NULL};
    const char *peer[] = {"/usr/bin/python3", peer_program, numbers[0],        numbers[1], numbers[2],
                          numbers[3],         numbers[4],   dtype_name(dtype), numbers[5], NULL};
    if (!start(&all[OURS], "troupe", ours)) return false;
    if (s->peer && !start(&all[PEER], "PyTorch", peer)) return false;
    return !s->against || start(&all[OTHER], s->against, other);
}

/* The one of that shape, started; it computes in float32. NULL: there is none. */
static llmc *start_llmc(settings *s, int row, int dtype)
{
    for (int i = 0; dtype == 0 && i < s->n_llmcs; i++)
        if (llmc_has_shape(&s->llmcs[i], &known[row].row) && llmc_start(&s->llmcs[i], s->n_threads))
            return &s->llmcs[i];
    return NULL;
}

static void read_operations(contestant *ours, result *out)
{
    char line[128];
    fclose(ours->to);
    ours->to = NULL;
    while (fgets(line, sizeof line, ours->from)) {
        operation *o = &out->operations[out->n_operations];
        if (sscanf(line, "work %lf %lf", &out->flops, &out->bytes) == 2) continue;
        if (out->n_operations < MOST_LINES &&
            sscanf(line, "op %lf %llu %lf %39[^\n]", &o->ms, &o->calls, &o->gflop, o->name) == 4)
            out->n_operations++;
    }
}

static bool measure_row(settings *s, int row, int dtype, result *out)
{
    static contestant all[MOST_CONTESTANTS];
    memset(all, 0, sizeof all);
    *out = (result){.row = &known[row].row, .dtype = dtype, .target_ms = known[row].targets_ms[dtype]};
    bool good = start_all(all, s, row, dtype);
    llmc *of_c = start_llmc(s, row, dtype);
    uint64_t begin_ns = tr_clock_ns();
    double busy_ms = machine_busy_ms();
    for (int round = -1; good && round < MOST_STEPS; round++) { /* the first does not count */
        if (round >= LEAST_ROUNDS && (double)(tr_clock_ns() - begin_ns) * 1e-9 > s->seconds) break;
        for (int i = 0; good && i < MOST_CONTESTANTS; i++) {
            if (!all[i].pid) continue;
            good = step(&all[i], round >= 0);
            usleep(20000); /* threads that wait for work by spinning give up */
        }
        double ms = of_c && good ? llmc_turn(of_c, round >= 0) : 0;
        if (ms > 0) all[LLMC].cost_ms += ms;
    }
    double wall_ms = (double)(tr_clock_ns() - begin_ns) * 1e-6;
    busy_ms = machine_busy_ms() - busy_ms;
    for (int i = 0; i < MOST_CONTESTANTS; i++) busy_ms -= all[i].cost_ms;
    out->foreign = busy_ms / wall_ms / (double)sysconf(_SC_NPROCESSORS_ONLN);
    if (out->foreign < 0) out->foreign = 0;
    out->rounds = all[OURS].n;
    out->loss = all[OURS].loss;
    if (good) read_operations(&all[OURS], out);
    for (int i = 0; i < MOST_CONTESTANTS; i++) {
        if (!all[i].pid) continue;
        out->is_there[i] = true;
        out->ms[i] = median(all[i].ms, all[i].n);
        out->busy_ms[i] = median(all[i].busy_ms, all[i].n);
        end(&all[i]);
    }
    if (of_c) {
        out->is_there[LLMC] = of_c->n > 0;
        out->ms[LLMC] = median(of_c->ms, of_c->n);
        llmc_end(of_c);
    }
    if (!good)
        fprintf(stderr, "training: '%s' in %s: a contestant ended early\n", known[row].row.name,
                dtype_name(dtype));
    return good && out->n_operations > 0;
}

/* --- the command --- */

static void help(FILE *stream)
{
    fprintf(stream,
            "usage: training [--rows LIST] [--dtype float32|bfloat16] [--seconds S] [--threads N] [--peer]\n"
            "                [--against PROGRAM] [--llmc DIR[:DIR]] [--json]\n\n"
            "Milliseconds of a training step of GPT-2 on this machine's processors: where they go, and how "
            "much of\n"
            "the machine's limit they are. Prints tables, and a line of JSON for each row.\n\n"
            "  --rows LIST         some of:");
    for (int i = 0; i < N_ROWS; i++) fprintf(stream, "%s%s", i ? "," : " ", known[i].row.name);
    fprintf(
        stream,
        " (default: all)\n"
        "  --dtype NAME        only that one (default: both)\n"
        "  --seconds S         for a row of one dtype, three rounds at least (default: 30)\n"
        "  --threads N         of ours and of the peer (default: 2)\n"
        "  --peer              PyTorch beside it, step by step (/usr/bin/python3 with torch)\n"
        "  --against PROGRAM   another build of this program beside it, such as one from before a change\n"
        "  --llmc DIR[:DIR]    llm.c's train_gpt2 beside the row of its shape, built there as its README "
        "says\n"
        "  --json              a line for bench/run, too\n");
}

static bool choose_rows(settings *s, const char *list)
{
    memset(s->rows, 0, sizeof s->rows);
    for (const char *at = list; *at;) {
        size_t n = strcspn(at, ",");
        int i = 0;
        while (i < N_ROWS && (strlen(known[i].row.name) != n || strncmp(at, known[i].row.name, n) != 0)) i++;
        if (i == N_ROWS) {
            fprintf(stderr, "training: --rows '%.*s' is not known; see training --help\n", (int)n, at);
            return false;
        }
        s->rows[i] = true;
        at += n + (at[n] == ',');
    }
    return true;
}

static bool read_pair(settings *s, const char *key, const char *value)
{
    if (strcmp(key, "--rows") == 0) return choose_rows(s, value);
    if (strcmp(key, "--against") == 0) {
        s->against = value;
        return true;
    }
    if (strcmp(key, "--llmc") == 0) {
        s->llmc_path = value;
        return true;
    }
    if (strcmp(key, "--seconds") == 0 && (s->seconds = atof(value)) > 0) return true;
    if (strcmp(key, "--threads") == 0 && (s->n_threads = atoi(value)) > 0 && s->n_threads <= 256) return true;
    for (int d = 0; d < 2; d++)
        if (strcmp(key, "--dtype") == 0 && strcmp(value, dtype_name(d)) == 0) {
            s->dtypes[1 - d] = false;
            return true;
        }
    fprintf(stderr, "training: cannot use '%s %s'; see training --help\n", key, value);
    return false;
}

static bool read_arguments(int argc, char **argv, settings *s)
{
    *s = (settings){.dtypes = {true, true}, .seconds = 30, .n_threads = 2, .self = "/proc/self/exe"};
    for (int i = 0; i < N_ROWS; i++) s->rows[i] = true;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--peer") == 0) {
            s->peer = true;
        } else if (strcmp(argv[i], "--json") == 0) {
            s->json = true;
        } else if (i + 1 == argc) {
            fprintf(stderr, "training: cannot use '%s'; see training --help\n", argv[i]);
            return false;
        } else {
            if (!read_pair(s, argv[i], argv[i + 1])) return false;
            i++;
        }
    }
    return true;
}

/* Each folder of the list is asked for its shape; what is of no row is said, and left out. */
static bool find_llmcs(settings *s)
{
    bool well = true;
    char list[1024];
    snprintf(list, sizeof list, "%s", s->llmc_path ? s->llmc_path : "");
    char *rest = NULL;
    for (char *at = strtok_r(list, ":", &rest); at && s->n_llmcs < MOST_LLMCS;
         at = strtok_r(NULL, ":", &rest)) {
        llmc *found = &s->llmcs[s->n_llmcs];
        if (!llmc_probe(found, at, s->n_threads)) {
            well = false;
            continue;
        }
        int row = 0;
        while (row < N_ROWS && !llmc_has_shape(found, &known[row].row)) row++;
        if (row < N_ROWS) {
            s->n_llmcs++;
            continue;
        }
        fprintf(stderr,
                "training: '%s/train_gpt2' has %d layers of %d, vocabulary %d and %lld activations, which is "
                "no row's "
                "shape\n",
                at, found->layers, found->width, found->vocabulary, (long long)found->activations);
        well = false;
    }
    return well;
}

int main(int argc, char **argv)
{
    static settings s;
    static result results[2 * N_ROWS];
    limits best = {0};
    int n = 0;
    if (argc == 5 && strcmp(argv[1], "--serve") == 0) return serve(argv[2], argv[3], argv[4]);
    if (argc > 1 && strcmp(argv[1], "--help") == 0) {
        help(stdout);
        return 0;
    }
    if (!read_arguments(argc, argv, &s)) return 2;
    signal(SIGPIPE, SIG_IGN);
    best.n_threads = s.n_threads;
    bool well = find_llmcs(&s);
    for (int row = 0; row < N_ROWS; row++)
        for (int dtype = 0; dtype < 2; dtype++) {
            if (!s.rows[row] || !s.dtypes[dtype]) continue;
            measure_limits(&best, &s);
            if (!measure_row(&s, row, dtype, &results[n])) {
                well = false;
                continue;
            }
            print_operations(&results[n], &best);
            if (s.json) print_row(&results[n], &best);
            print_json(&results[n++], &best); /* now, so that a run that is cut short has told what it knew */
        }
    measure_limits(&best, &s);
    print_table(results, n, &best);
    print_where(results, n, &best);
    return well ? 0 : 1;
}
