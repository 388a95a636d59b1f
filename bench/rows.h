/* bench/rows.h - what the programs whose rows ./bench/run puts together have in common: samples and their median, the load
 * that others made meanwhile, and a row, printed for people or, with --json, as one line of JSON for bench/run.
 * A row stands beside what others need for the same work (its baseline) and what the machine itself can do (its limit),
 * all measured in the same run and in turns, so that a machine that slows down slows all of them.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_BENCH_ROWS_H
#define TROUPE_BENCH_ROWS_H

#include "base/clock.h"

#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum { ROWS_MOST_SAMPLES = 4096 };

typedef struct samples {
    double values[ROWS_MOST_SAMPLES];
    size_t n;
} samples;

static inline void samples_add(samples *self, double value)
{
    if (self->n < ROWS_MOST_SAMPLES) self->values[self->n++] = value;
}

static inline int rows_by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static bool rows_best; /* medians would only tell of the neighbours: take the least (samples are times) */

/* NAN where there is none: that peer could not be measured. */
static inline double samples_median(samples *self)
{
    if (self->n == 0) return (double)NAN;
    qsort(self->values, self->n, sizeof *self->values, rows_by_value);
    return self->values[rows_best ? 0 : self->n / 2];
}

/* Processors that others kept busy: of the machine's time that was not idle, what this process and its ended children
 * did not use. */
typedef struct rows_load {
    uint64_t begin_ns;
    double busy_s, own_s;
} rows_load;

static inline double rows_busy_s(void)
{
    unsigned long long t[8] = {0};
    FILE *file = fopen("/proc/stat", "re");
    int n = file ? fscanf(file, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &t[0], &t[1], &t[2], &t[3],
                          &t[4], &t[5], &t[6], &t[7])
                 : 0;
    if (file) fclose(file);
    return n == 8 ? (double)(t[0] + t[1] + t[2] + t[5] + t[6]) / 100.0 : (double)NAN; /* USER_HZ is 100 */
}

static inline double rows_own_s(void)
{
    double sum = 0;
    static const int whose[] = {RUSAGE_SELF, RUSAGE_CHILDREN};
    for (int i = 0; i < 2; i++) {
        struct rusage used;
        getrusage(whose[i], &used);
        sum += (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
               (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
    }
    return sum;
}

static inline rows_load rows_load_begin(void)
{
    return (rows_load){tr_clock_ns(), rows_busy_s(), rows_own_s()};
}

static inline double rows_load_since(const rows_load *self)
{
    double elapsed_s = (double)(tr_clock_ns() - self->begin_ns) / 1e9;
    double foreign_s = rows_busy_s() - self->busy_s - (rows_own_s() - self->own_s);
    return foreign_s > 0 ? foreign_s / elapsed_s : 0;
}

typedef struct row {
    const char *name,
        *unit; /* "ns", "us", "ms" and "%" idle: the lower the better; "M/s", "GB/s", "x": the higher */
    double ours, baseline, limit, target; /* NAN: there is none */
    const char *baseline_name, *limit_name;
    double load;
} row;

static inline void rows_print_number(const char *key, double value, const char *end)
{
    if (isfinite(value))
        printf("\"%s\": %.6g%s", key, value, end);
    else
        printf("\"%s\": null%s", key, end);
}

/* Names are plain words of these programs: nothing in them needs escaping. */
static inline void row_print(const row *self, bool json)
{
    if (json) {
        printf("{\"row\": \"%s\", \"unit\": \"%s\", ", self->name, self->unit);
        rows_print_number("ours", self->ours, ", ");
        rows_print_number("baseline", self->baseline, ", ");
        printf("\"baseline_name\": \"%s\", ", self->baseline_name ? self->baseline_name : "");
        rows_print_number("limit", self->limit, ", ");
        printf("\"limit_name\": \"%s\", ", self->limit_name ? self->limit_name : "");
        rows_print_number("target", self->target, ", ");
        rows_print_number("load", self->load, "}\n");
    } else {
        printf("%-58s %9.4g %-5s", self->name, self->ours, self->unit);
        if (isfinite(self->baseline)) printf("  %s %.4g", self->baseline_name, self->baseline);
        if (isfinite(self->limit)) printf("  %s %.4g", self->limit_name, self->limit);
        if (isfinite(self->target)) printf("  to reach %.4g", self->target);
        printf("  (others: %.1f processors)\n", self->load);
    }
    fflush(stdout);
}

/* The processors that this process may use, as of the first call: before any thread was pinned. */
static inline const cpu_set_t *rows_processors(void)
{
    static cpu_set_t all;
    static bool known;
    if (!known) known = sched_getaffinity(0, sizeof all, &all) == 0;
    return &all;
}

/* The calling thread stays on one processor, the which-th that it may use; which < 0: on any again. */
static inline void rows_pin(int which)
{
    const cpu_set_t *all = rows_processors();
    cpu_set_t one;
    CPU_ZERO(&one);
    int n = CPU_COUNT(all);
    for (int cpu = 0, seen = 0; n > 0 && which >= 0 && cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, all) && seen++ == which % n) CPU_SET(cpu, &one);
    sched_setaffinity(0, sizeof one, which < 0 ? all : &one);
}

static inline bool rows_flag(int argc, char **argv, const char *flag)
{
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], flag) == 0) return true;
    return false;
}

#endif
