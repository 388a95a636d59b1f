/* test/simulate.h - a test program that runs seeds: a promise holds for all of them, and one that fails says how to see it
 * again: `PROGRAM --test NAME --seed N [--trace]`, also where an assertion ends the program.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TEST_SIMULATE_H
#define TROUPE_TEST_SIMULATE_H

#include "check.h"

#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct simulate_case {
    const char *name; /* the promise */
    uint32_t n_seeds;
    /* One seed; trace is NULL or where events go. false: it failed, and has said why on stderr. */
    bool (*run)(uint64_t seed, FILE *trace);
} simulate_case;

/* ThreadSanitizer, some twenty times slower, has a share of them: one thread plays them all. Few stay few. */
static inline uint64_t simulate_share(uint32_t n_seeds)
{
#ifdef __SANITIZE_THREAD__
    return n_seeds / 20 > 50 ? n_seeds / 20 : n_seeds > 50 ? 50 : n_seeds;
#else
    return n_seeds;
#endif
}

static const char *simulate_program;
static char simulate_replay[400]; /* how to see the seed at work again */

static inline void simulate_aborted(int signal_number)
{
    ssize_t written = write(STDERR_FILENO, simulate_replay, strlen(simulate_replay));
    (void)written, (void)signal_number;
}

static inline bool simulate_one(const simulate_case *self, uint64_t seed, FILE *trace)
{
    snprintf(simulate_replay, sizeof simulate_replay,
             "seed %" PRIu64 " failed; replay it: %s --test %s --seed %" PRIu64 " --trace\n", seed,
             simulate_program, self->name, seed);
    if (self->run(seed, trace)) return true;
    fputs(simulate_replay, stderr);
    return false;
}

/* Runs all cases, or as the arguments say: [--test NAME] [--seed N [--trace]] [--seeds COUNT]; with both, so many from N on. */
static inline int simulate_main(const simulate_case *cases, size_t n_cases, int argc, char **argv)
{
    const char *name = NULL;
    uint64_t seed = 0, n_seeds = 0;
    bool one = false;
    FILE *trace = NULL;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--trace") == 0)
            trace = stdout;
        else if (i + 1 < argc && strcmp(argv[i], "--test") == 0)
            name = argv[++i];
        else if (i + 1 < argc && strcmp(argv[i], "--seeds") == 0)
            n_seeds = strtoull(argv[++i], NULL, 10);
        else if (i + 1 < argc && strcmp(argv[i], "--seed") == 0)
            one = true, seed = strtoull(argv[++i], NULL, 10);
        else
            return fprintf(stderr, "usage: %s [--test NAME] [--seed N [--trace]] [--seeds COUNT]\n", argv[0]),
                   2;
    }
    simulate_program = argv[0];
    signal(SIGABRT, simulate_aborted);
    int n_failed = 0;
    for (size_t i = 0; i < n_cases; i++) {
        if (name && strcmp(cases[i].name, name) != 0) continue;
        uint64_t count = n_seeds ? n_seeds : one ? 1 : simulate_share(cases[i].n_seeds), n = 0;
        while (n < count && simulate_one(&cases[i], seed + n, trace)) n++;
        printf("%s: %" PRIu64 " of %" PRIu64 " seeds%s\n", cases[i].name, n, count,
               n < count ? ", then one that FAILED" : "");
        n_failed += n < count;
    }
    return n_failed ? 1 : 0;
}

#endif
