/* bench/cpu/report.c - see report.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "bench/cpu/report.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

const char *dtype_name(int dtype)
{
    return dtype ? "bfloat16" : "float32";
}

static double limit_ms(const result *r, const limits *l)
{
    return (r->flops / l->flops[r->dtype] + r->bytes / l->bandwidth) * 1e3;
}

/* Of oneDNN's best rate on one thread: an operation's time is that of its processors, added up. */
static double peak_share(const operation *o, const result *r, const limits *l)
{
    return o->ms > 0 ? o->gflop * 1e12 / o->ms / (l->flops[r->dtype] / l->n_threads) : 0;
}

void print_operations(const result *r, const limits *l)
{
    double sum = 0;
    for (int i = 0; i < r->n_operations; i++) sum += r->operations[i].ms;
    printf("\n%s, %s: where a step's time goes\n\n| operation | processor ms | of the step | calls | GFLOP/s "
           "| of the "
           "peak |\n"
           "|---|---:|---:|---:|---:|---:|\n",
           r->row->name, dtype_name(r->dtype));
    for (int i = 0; i < r->n_operations; i++) {
        const operation *o = &r->operations[i];
        printf("| %s | %.1f | %.1f%% | %llu |", o->name, o->ms, 100 * o->ms / sum, o->calls);
        if (o->gflop > 0)
            printf(" %.0f | %.0f%% |\n", o->gflop / o->ms * 1e3, 100 * peak_share(o, r, l));
        else
            printf(" | |\n");
    }
}

static void print_cell(const result *r, int who, bool busy)
{
    if (r->is_there[who])
        printf(" %.0f |", busy ? r->busy_ms[who] : r->ms[who]);
    else
        printf(" |");
}

void print_table(const result *all, int n, const limits *l)
{
    printf("\noneDNN at best: %.0f GFLOP/s float32, %.0f bfloat16; memory: %.0f GB/s\n\n", l->flops[0] * 1e-9,
           l->flops[1] * 1e-9, l->bandwidth * 1e-9);
    printf("| workload | dtype | ms | processor ms | PyTorch ms | processor ms | other build ms | processor "
           "ms | llm.c ms | to reach | limit | share | foreign "
           "|\n|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n");
    for (int i = 0; i < n; i++) {
        const result *r = &all[i];
        printf("| %s | %s |", r->row->name, dtype_name(r->dtype));
        for (int who = 0; who < MOST_CONTESTANTS; who++) {
            print_cell(r, who, false);
            if (who != LLMC) print_cell(r, who, true);
        }
        printf(" %.0f | %.0f | %.0f%% | %.0f%% |\n", r->target_ms, limit_ms(r, l),
               100 * limit_ms(r, l) / r->ms[OURS], 100 * r->foreign);
    }
    printf("\n");
}

void print_json(const result *r, const limits *l)
{
    printf("\n{\"bench\": \"training\", \"row\": \"%s\", \"dtype\": \"%s\", \"ms\": %.3f, \"processor_ms\": "
           "%.3f, ",
           r->row->name, dtype_name(r->dtype), r->ms[OURS], r->busy_ms[OURS]);
    static const char *const names[MOST_CONTESTANTS] = {"", "peer", "other", "llmc"};
    for (int who = PEER; who < MOST_CONTESTANTS; who++)
        if (r->is_there[who])
            printf("\"%s_ms\": %.3f, \"%s_processor_ms\": %.3f, ", names[who], r->ms[who], names[who],
                   r->busy_ms[who]);
    printf("\"target_ms\": %.0f, \"limit_ms\": %.3f, \"share\": %.4f, \"foreign\": %.4f, \"rounds\": %d, "
           "\"loss\": %.6f, \"gflop\": %.3f, \"peak_gflops\": %.1f, \"memory_gbs\": %.1f, \"operations\": {",
           r->target_ms, limit_ms(r, l), limit_ms(r, l) / r->ms[OURS], r->foreign, r->rounds, r->loss,
           r->flops * 1e-9, l->flops[r->dtype] * 1e-9, l->bandwidth * 1e-9);
    for (int i = 0; i < r->n_operations; i++)
        printf("%s\"%s\": %.3f", i ? ", " : "", r->operations[i].name, r->operations[i].ms);
    printf("}}\n");
    fflush(stdout);
}

void print_row(const result *r, const limits *l)
{
    printf("{\"row\": \"training step, GPT-2 %s, %s\", \"unit\": \"ms\", \"ours\": %.6g, \"baseline\": ",
           r->row->name, dtype_name(r->dtype), r->ms[OURS]);
    if (r->is_there[PEER])
        printf("%.6g, \"baseline_name\": \"PyTorch\", ", r->ms[PEER]);
    else
        printf("null, \"baseline_name\": \"\", ");
    printf("\"limit\": %.6g, \"limit_name\": \"products and memory at peak\", \"target\": %.6g, "
           "\"load\": %.4g",
           limit_ms(r, l), r->target_ms, r->foreign * (double)sysconf(_SC_NPROCESSORS_ONLN));
    if (r->is_there[LLMC]) printf(", \"also\": \"llm.c %.0f\"", r->ms[LLMC]);
    printf("}\n");
    fflush(stdout);
}

/* --- by operation, all rows beside each other --- */

static const operation *find_operation(const result *r, const char *name)
{
    for (int i = 0; i < r->n_operations; i++)
        if (strcmp(r->operations[i].name, name) == 0) return &r->operations[i];
    return NULL;
}

static double operations_ms(const result *r)
{
    double sum = 0;
    for (int i = 0; i < r->n_operations; i++) sum += r->operations[i].ms;
    return sum;
}

/* At least a hundredth of some row's step; what is less is added up. */
static bool is_told(const result *all, int n, int dtype, const char *name)
{
    for (int i = 0; i < n; i++) {
        const operation *o = all[i].dtype == dtype ? find_operation(&all[i], name) : NULL;
        if (o && o->ms >= 0.01 * operations_ms(&all[i])) return true;
    }
    return false;
}

static void print_where_of(const result *all, int n, const limits *l, int dtype, const char *name)
{
    printf("| %s |", name);
    for (int i = 0; i < n; i++) {
        if (all[i].dtype != dtype) continue;
        const operation *o = find_operation(&all[i], name);
        if (!o) {
            printf(" |");
            continue;
        }
        printf(" %.1f, %.1f%%", o->ms, 100 * o->ms / operations_ms(&all[i]));
        double share = peak_share(o, &all[i], l);
        if (share >= 0.1) printf(" (%.0f%%)", 100 * share); /* less is no matter of products */
        printf(" |");
    }
    printf("\n");
}

static void print_where_ends(const result *all, int n, const limits *l, int dtype)
{
    printf("| all others |");
    for (int i = 0; i < n; i++) {
        if (all[i].dtype != dtype) continue;
        double sum = 0;
        for (int k = 0; k < all[i].n_operations; k++)
            if (!is_told(all, n, dtype, all[i].operations[k].name)) sum += all[i].operations[k].ms;
        printf(" %.1f, %.1f%% |", sum, 100 * sum / operations_ms(&all[i]));
    }
    printf("\n| products of the step at peak |");
    for (int i = 0; i < n; i++) {
        if (all[i].dtype != dtype) continue;
        double at_peak = all[i].flops / l->flops[dtype] * l->n_threads * 1e3;
        printf(" %.1f, %.0f%% |", at_peak, 100 * at_peak / operations_ms(&all[i]));
    }
    printf("\n");
}

void print_where(const result *all, int n, const limits *l)
{
    for (int dtype = 0; dtype < 2; dtype++) {
        const result *widest = NULL; /* its order of operations is the table's */
        for (int i = 0; i < n; i++)
            if (all[i].dtype == dtype && (!widest || all[i].n_operations > widest->n_operations))
                widest = &all[i];
        if (!widest) continue;
        printf("\n| %s |", dtype_name(dtype));
        for (int i = 0; i < n; i++)
            if (all[i].dtype == dtype) printf(" %s |", all[i].row->name);
        printf("\n| --- |");
        for (int i = 0; i < n; i++)
            if (all[i].dtype == dtype) printf(" ---: |");
        printf("\n");
        for (int k = 0; k < widest->n_operations; k++)
            if (is_told(all, n, dtype, widest->operations[k].name))
                print_where_of(all, n, l, dtype, widest->operations[k].name);
        print_where_ends(all, n, l, dtype);
    }
    printf("\n");
}
