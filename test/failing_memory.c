/* test/failing_memory.c - see failing_memory.h. What a run tells whoever forked it lies in a page that they share.
 * SPDX-License-Identifier: Apache-2.0 */
#define FAILING_MEMORY_ITSELF
#include "failing_memory.h"

#include <execinfo.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/lsan_interface.h>
#endif

enum {
    FAILING_NOTICED = 77, /* exit code: a check of the test failed after the allocation */
    FAILING_EARLY = 78,   /* one failed before it */
    FAILING_LEAKED = 79,
    FAILING_PATHS = 1 << 14,          /* more ways into the allocator are not told apart */
    FAILING_DEPTH = 14,               /* of call stacks */
    FAILING_FILES = 32,               /* a run's, that are removed behind it */
    FAILING_RUN_S = 30,               /* a run that takes longer hangs */
    FAILING_PATIENCE_NS = 1000000000, /* for what may not come any more */
    FAILING_SOON_S = 1                /* below, runs of their own are as good as forks */
};

typedef struct failing_page { /* what a run tells whoever forked it */
    uint64_t n_allocations;
    uint64_t paths[FAILING_PATHS]; /* a table by hash; 0: free */
    uint64_t n_paths;
    uint64_t n_threads;                    /* the most seen at an allocation */
    uint64_t n_forks, n_skipped, n_broken; /* of a run that forks at every allocation */
    bool has_failed;
    uint64_t failed_ns;            /* 0: it has not */
    char files[FAILING_FILES][64]; /* made by the run, or by the fork within it */
    uint32_t n_files;
    int depth; /* of the stack at the allocation that fails */
    void *stack[FAILING_DEPTH];
} failing_page;

static failing_page *failing_shared; /* in a run: not NULL */
static uint64_t failing_wanted;      /* the path whose first allocation fails; 0: none, they are collected */
static uint64_t failing_left;        /* the allocations up to the one that fails, with it */
static bool failing_fails;           /* in a run, and not the first, in which nothing fails */
static double failing_until_s;       /* not 0: the run forks at its allocations until then */
static const char *failing_name;
static char failing_where[240];
_Thread_local bool failing_not_now;
static bool (*failing_asked)(void);        /* at each allocation */
static bool (*_Atomic failing_also)(void); /* the same, by the test itself */

void *failing_spared(void *memory)
{
    failing_not_now = false;
    return memory;
}

static uint64_t failing_path(void)
{
    void *stack[FAILING_DEPTH];
    int depth = backtrace(stack, FAILING_DEPTH);
    uint64_t hash = 0xcbf29ce484222325u;
    for (int i = 2; i < depth; i++) hash = (hash ^ (uint64_t)(uintptr_t)stack[i]) * 0x9e3779b97f4a7c15u;
    return hash | 1;
}

static uint64_t failing_threads(void)
{
    struct stat tasks;
    return stat("/proc/self/task", &tasks) == 0 ? tasks.st_nlink - 2 : UINT64_MAX;
}

/* Where the allocation fails. Only told of, for addr2line, where the run ends as it may not: to look symbols up takes
 * longer than most runs, and whoever forked has the same ones. */
static void failing_note(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    failing_shared->failed_ns = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
    failing_shared->depth = backtrace(failing_shared->stack, FAILING_DEPTH);
    __atomic_store_n(&failing_shared->has_failed, true, __ATOMIC_RELAXED);
}

static bool failing_collect(void)
{
    if (failing_not_now) return false;
    uint64_t path = failing_path(), n_threads = failing_threads();
    if (n_threads > __atomic_load_n(&failing_shared->n_threads, __ATOMIC_RELAXED))
        __atomic_store_n(&failing_shared->n_threads, n_threads, __ATOMIC_RELAXED);
    __atomic_fetch_add(&failing_shared->n_allocations, 1, __ATOMIC_RELAXED);
    for (uint32_t i = 0; i < FAILING_PATHS; i++) {
        uint64_t *place = &failing_shared->paths[(path + i) % FAILING_PATHS], seen = 0;
        if (__atomic_compare_exchange_n(place, &seen, path, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
            __atomic_fetch_add(&failing_shared->n_paths, 1, __ATOMIC_RELAXED);
            return false;
        }
        if (seen == path) return false;
    }
    return false;
}

static bool failing_meets(void)
{
    if (failing_not_now || __atomic_load_n(&failing_shared->has_failed, __ATOMIC_RELAXED) ||
        failing_path() != failing_wanted)
        return false;
    if (__atomic_exchange_n(&failing_shared->has_failed, true, __ATOMIC_RELAXED)) return false;
    failing_note();
    return true;
}

static bool failing_is_nth(void)
{
    if (failing_not_now || __atomic_fetch_sub(&failing_left, 1, __ATOMIC_RELAXED) != 1) return false;
    failing_note();
    return true;
}

static bool failing_ask(void)
{
    bool (*ask)(void) = failing_also, also = ask && ask();
    return failing_asked() || also;
}

/* CUnit's own, but in a run: a check that fails there ends it. */
CU_BOOL failing_check(CU_BOOL value, unsigned line, const char *condition, const char *file,
                      const char *function, CU_BOOL fatal)
{
    if (!failing_shared) return CU_assertImplementation(value, line, condition, file, function, fatal);
    if (value) return CU_TRUE;
    fprintf(stderr, "%s:%u: %s\n", file, line, condition);
    _exit(__atomic_load_n(&failing_shared->has_failed, __ATOMIC_RELAXED) ? FAILING_NOTICED : FAILING_EARLY);
}
bool failing_late(uint64_t end_ns)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t now_ns = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
    uint64_t failed_ns = failing_shared ? __atomic_load_n(&failing_shared->failed_ns, __ATOMIC_RELAXED) : 0;
    return now_ns >= end_ns || (failed_ns && now_ns >= failed_ns + FAILING_PATIENCE_NS);
}
void failing_give_up(void)
{
    if (failing_shared && __atomic_load_n(&failing_shared->has_failed, __ATOMIC_RELAXED))
        _exit(FAILING_NOTICED);
}
/* No run waits for a disk: what is promised of one that loses power is not what fails here. */
int fsync(int file)
{
    return failing_shared ? 0 : (int)syscall(SYS_fsync, file);
}

/* What a run makes in /tmp and then does not remove, since it ends at its first check that fails. */
char *failing_makes(char *path)
{
    if (path && failing_shared && failing_shared->n_files < FAILING_FILES)
        snprintf(failing_shared->files[failing_shared->n_files++], sizeof failing_shared->files[0], "%s",
                 path);
    return path;
}
static int failing_remove(const char *path, const struct stat *about, int kind, struct FTW *where)
{
    (void)about, (void)kind, (void)where;
    return remove(path);
}

static void failing_removes(uint32_t n_kept)
{
    while (failing_shared->n_files > n_kept)
        nftw(failing_shared->files[--failing_shared->n_files], failing_remove, 16, FTW_DEPTH | FTW_PHYS);
}

static double failing_now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void failing_tell(const char *name, int output, const char *how)
{
    char text[4096];
    fprintf(stderr, "%s: with %s failing it %s:\n", name, failing_where, how);
    lseek(output, 0, SEEK_SET);
    for (ssize_t n; (n = read(output, text, sizeof text)) > 0;) fwrite(text, 1, (size_t)n, stderr);
    fflush(stderr);
    if (failing_shared->has_failed)
        backtrace_symbols_fd(failing_shared->stack, failing_shared->depth, STDERR_FILENO);
    fputs("\n", stderr);
}

/* Waits for a run, and tells of one that ended as it may not. */
static bool failing_ended_well(const char *name, pid_t child, int output)
{
    int status = 0;
    char how[100] = "";
    bool waited = child > 0 && waitpid(child, &status, 0) == child;
    int code = waited && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    if (!waited)
        snprintf(how, sizeof how, "could not be run");
    else if (WIFSIGNALED(status))
        snprintf(how, sizeof how, WTERMSIG(status) == SIGALRM ? "hangs" : "ends by signal %d (%s)",
                 WTERMSIG(status), strsignal(WTERMSIG(status)));
    else if (code == FAILING_LEAKED)
        snprintf(how, sizeof how, "leaks");
    else if (code == FAILING_EARLY)
        snprintf(how, sizeof how, "fails before that");
    else if (code != 0 && code != FAILING_NOTICED)
        snprintf(how, sizeof how, "ends with exit code %d", code);
    if (how[0]) failing_tell(name, output, how);
    return how[0] == '\0';
}

/* In the forked process. */
static void failing_becomes_run(int output)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    dup2(output, STDOUT_FILENO);
    dup2(output, STDERR_FILENO);
    alarm(FAILING_RUN_S);
}

/* At each allocation of a run that forks: true in the fork, in which it fails; false ever after. */
static bool failing_forks(void)
{
    if (failing_not_now || failing_fails) return false;
    if (failing_now_s() > failing_until_s) {
        failing_shared->n_skipped++;
        return false;
    }
    snprintf(failing_where, sizeof failing_where, "allocation %llu",
             (unsigned long long)++failing_shared->n_forks);
    const uint32_t n_files = failing_shared->n_files;
    int output = memfd_create("output", MFD_CLOEXEC);
    fflush(NULL);
    alarm(0);
    pid_t child = fork();
    if (child == 0) {
        failing_becomes_run(output);
        failing_fails = true;
        failing_note();
        return true;
    }
    failing_shared->n_broken += !failing_ended_well(failing_name, child, output);
    failing_removes(n_files);
    failing_shared->has_failed = false;
    failing_shared->failed_ns = 0;
    close(output);
    alarm(FAILING_RUN_S);
    return false;
}

/* In the forked process, to its end. */
static void failing_run(void (*run)(void), int output, uint64_t nth)
{
    failing_becomes_run(output);
    void *warm[2];
    backtrace(warm, 2); /* its first call loads a library */
    failing_left = nth;
    failing_fails = nth || failing_wanted;
    failing_asked = nth                    ? failing_is_nth
                    : failing_wanted       ? failing_meets
                    : failing_until_s != 0 ? failing_forks
                                           : failing_collect;
    tr_memory_ask(failing_ask);
    run();
    tr_memory_ask(NULL);
#if defined(__SANITIZE_ADDRESS__)
    if (__lsan_do_recoverable_leak_check()) _exit(FAILING_LEAKED);
#endif
    _exit(0);
}

/* One run. true: it ended as it may. */
static bool failing_try(const char *name, void (*run)(void), uint64_t nth, uint64_t path)
{
    int output = memfd_create("output", MFD_CLOEXEC);
    failing_wanted = path;
    failing_shared->has_failed = false;
    failing_shared->failed_ns = 0;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) failing_run(run, output, nth);
    bool well = failing_ended_well(name, child, output);
    failing_removes(0);
    close(output);
    return well;
}

/* Every n from 1 until a run makes fewer; returns how many ended as they may not. */
static uint64_t failing_every_n(const char *name, void (*run)(void), uint64_t n_allocations, uint64_t *n_runs)
{
    uint64_t n_broken = 0;
    for (uint64_t n = 1;; n++, ++*n_runs) {
        snprintf(failing_where, sizeof failing_where, "allocation %llu", (unsigned long long)n);
        n_broken += !failing_try(name, run, n, 0);
        if (!failing_shared->has_failed && n > n_allocations) return n_broken;
    }
}

/* One run that forks at every allocation. false: it did not get to its end with all of them, so what it left out must be
 * run otherwise (a file that a fork wrote, say, was in its way). */
static bool failing_fork_at_every(const char *name, void (*run)(void), uint64_t n_allocations, double until_s,
                                  uint64_t *n_runs, uint64_t *n_broken)
{
    failing_until_s = until_s;
    failing_name = name;
    failing_shared->n_forks = failing_shared->n_skipped = failing_shared->n_broken = 0;
    snprintf(failing_where, sizeof failing_where, "a fork at each allocation, none");
    int silent = memfd_create("output", MFD_CLOEXEC), status = 0;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) failing_run(run, silent, 0);
    bool whole =
        child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
    failing_removes(0);
    if (failing_shared->n_broken) failing_tell(name, silent, "has the ends that follow");
    close(silent);
    failing_until_s = 0;
    *n_runs += failing_shared->n_forks;
    *n_broken += failing_shared->n_broken;
    /* Where a clock has a say, one run makes a few more than another; each has each of its own. */
    return whole && failing_shared->n_skipped == 0 &&
           failing_shared->n_forks >= n_allocations - n_allocations / 100;
}

/* The first allocation of every step-th path. */
static uint64_t failing_paths(const char *name, void (*run)(void), uint64_t step, uint64_t *n_runs)
{
    uint64_t n_broken = 0, at = 0;
    for (uint32_t i = 0; i < FAILING_PATHS; i++) {
        uint64_t path = failing_shared->paths[i];
        if (!path || at++ % step) continue;
        snprintf(failing_where, sizeof failing_where, "allocation path %016llx", (unsigned long long)path);
        n_broken += !failing_try(name, run, 0, path);
        ++*n_runs;
    }
    return n_broken;
}

/* As many n as there is time for, each half way between those before. */
static uint64_t failing_spread(const char *name, void (*run)(void), uint64_t n_allocations, double until_s,
                               uint64_t *n_runs)
{
    uint64_t n_broken = 0;
    for (uint64_t i = 1; failing_now_s() < until_s && i < n_allocations; i++, ++*n_runs) {
        double place = 0, part = 0.5; /* van der Corput's sequence: 1/2, 1/4, 3/4, 1/8, ... */
        for (uint64_t bits = i; bits; bits >>= 1, part /= 2) place += (double)(bits & 1) * part;
        uint64_t n = 1 + (uint64_t)(place * (double)n_allocations);
        snprintf(failing_where, sizeof failing_where, "allocation %llu", (unsigned long long)n);
        n_broken += !failing_try(name, run, n, 0);
    }
    return n_broken;
}

/* TROUPE_FAIL_AT=FIRST[-LAST]: those n and no others. */
static bool failing_range(uint64_t *first, uint64_t *last)
{
    const char *text = getenv("TROUPE_FAIL_AT");
    char *end;
    if (!text) return false;
    *first = *last = strtoull(text, &end, 10);
    if (*end == '-') *last = strtoull(end + 1, &end, 10);
    return true;
}

uint64_t failing_test(const char *name, void (*run)(void), double seconds, bool *each)
{
    uint64_t first, last;
    double began_s = failing_now_s();
    uint64_t n_runs = 0, n_broken = 0;
    const char *which = "each";
    *each = false;
    memset(failing_shared, 0, sizeof *failing_shared);
    snprintf(failing_where, sizeof failing_where, "no allocation");
    if (!failing_try(name, run, 0, 0)) return 1;
    if (failing_range(&first, &last)) {
        for (uint64_t n = first; n <= last; n++, n_runs++) {
            snprintf(failing_where, sizeof failing_where, "allocation %llu", (unsigned long long)n);
            n_broken += !failing_try(name, run, n, 0);
        }
        printf("  %s: %llu runs, allocations %llu to %llu, %.2f s%s\n", name, (unsigned long long)n_runs,
               (unsigned long long)first, (unsigned long long)last, failing_now_s() - began_s,
               n_broken ? ": BROKEN" : "");
        fflush(stdout);
        return n_broken;
    }
    uint64_t n_allocations = failing_shared->n_allocations, n_paths = failing_shared->n_paths;
    double took_s = failing_now_s() - began_s, all_s = took_s * (double)n_allocations;
    bool forks = failing_shared->n_threads <= 1 && all_s > FAILING_SOON_S;
    *each = forks && failing_fork_at_every(name, run, n_allocations, began_s + seconds, &n_runs, &n_broken);
    if (!*each && all_s > began_s + seconds - failing_now_s()) { /* to look at each allocation took time */
        double again_s = failing_now_s();
        n_broken += !failing_try(name, run, UINT64_MAX, 0);
        all_s = (failing_now_s() - again_s) * (double)n_allocations;
    }
    double left_s = began_s + seconds - failing_now_s();
    if (!*each && all_s <= left_s) {
        n_runs = 0;
        n_broken += failing_every_n(name, run, n_allocations, &n_runs);
        *each = true;
    }
    if (!*each) {
        uint64_t fit = left_s > took_s ? (uint64_t)(left_s / took_s) : 1, step = n_paths / fit + 1;
        which = step == 1 ? "each path" : "some paths";
        n_broken += failing_paths(name, run, step, &n_runs);
        n_broken += failing_spread(name, run, n_allocations, began_s + seconds, &n_runs);
    }
    printf("  %s: %llu runs, %s of %llu allocations on %llu paths, %.2f s%s\n", name,
           (unsigned long long)n_runs, which, (unsigned long long)n_allocations, (unsigned long long)n_paths,
           failing_now_s() - began_s, n_broken ? ": BROKEN" : "");
    fflush(stdout);
    return n_broken;
}

double failing_seconds(void)
{
    const char *seconds = getenv("TROUPE_FAIL_ALLOCATIONS");
    return seconds ? strtod(seconds, NULL) : 0;
}

bool failing_begin(void)
{
    alarm(0); /* of the tests in an ordinary run; here each run has its own */
    void *page =
        mmap(NULL, sizeof *failing_shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    failing_shared = page == MAP_FAILED ? NULL : page;
    return failing_shared != NULL;
}

bool failing_is_on(void)
{
    return failing_shared != NULL;
}

void failing_ask_also(bool (*must_fail)(void))
{
    if (failing_shared)
        failing_also = must_fail;
    else
        tr_memory_ask(must_fail);
}
