/* bench/cpu/report.h - what bench/training measured, and how it is told: tables for people, lines for bench/run.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_BENCH_CPU_REPORT_H
#define TROUPE_BENCH_CPU_REPORT_H

#include "bench/cpu/step.h"

#include <stdbool.h>

enum { OURS, PEER, OTHER, LLMC, MOST_CONTESTANTS, MOST_LINES = 64 };

typedef struct limits {
    double flops[2], bandwidth; /* of all threads together; float32, bfloat16; bytes a second */
    int n_threads;
} limits;

typedef struct operation {
    char name[40];
    double ms, gflop; /* processor time, hence of all threads added up */
    unsigned long long calls;
} operation;

typedef struct result {
    const cpu_row *row;
    int dtype; /* 0 float32, 1 bfloat16 */
    double target_ms;
    int n_operations, rounds;
    bool is_there[MOST_CONTESTANTS];
    double ms[MOST_CONTESTANTS], busy_ms[MOST_CONTESTANTS];
    double loss, flops, bytes, foreign;
    operation operations[MOST_LINES];
} result;

const char *dtype_name(int dtype);

/* Of one row. */
void print_operations(const result *r, const limits *l);
void print_json(const result *r, const limits *l);
void print_row(const result *r, const limits *l); /* the form of bench/rows.h, for bench/run */

/* Of all rows. */
void print_table(const result *all, int n, const limits *l);
/* By operation, a column a row: what bench/run puts behind its own table. Lines begin with "| ". */
void print_where(const result *all, int n, const limits *l);

#endif
