/* test/ops/bf16_test.c - rounding, and every operation without a matrix product in bfloat16: against the plain
 * references in double on the same (rounded) inputs, on odd sizes, between guards, on 1, 2 and 3 threads. Slacks are
 * those of the float32 kernels' tests, which say where they come from.
 * SPDX-License-Identifier: Apache-2.0 */
#include "bf16_check.h"
#include "norm_cases.h"

#include "ops/cpu/activate.h"
#include "ops/cpu/add.h"
#include "ops/cpu/cross_entropy.h"
#include "ops/cpu/dropout.h"
#include "ops/cpu/embedding.h"
#include "ops/cpu/gated.h"
#include "ops/cpu/layernorm.h"
#include "ops/cpu/position_embedding.h"
#include "ops/cpu/rmsnorm.h"
#include "ops/cpu/rope.h"
#include "ops/cpu/split.h"
#include "ops/operations.h"
#include "ops/optimizer.h"

/* ---- rounding ---- */

/* The definition, in double: the nearer of the two neighbours, of equally near ones the even. */
static tr_bf16 nearest(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    tr_bf16 toward_zero = (tr_bf16)(bits >> 16), away = (tr_bf16)(toward_zero + 1);
    double below = fabs((double)tr_f32_of_bf16(toward_zero)), size = fabs((double)x);
    double above = fabs((double)tr_f32_of_bf16(away));
    if (isinf(above)) above = 0x1p128; /* where the next number would be */
    if (size - below != above - size) return size - below < above - size ? toward_zero : away;
    return toward_zero & 1 ? away : toward_zero;
}

static float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Around every bfloat16: itself, its neighbours in float32, the middle to the next and that one's neighbours. */
static void rounding_is_to_nearest_even_for_lanes_and_scalars(void)
{
    enum { PER = 8, N = 65536 * PER + 5 };
    static const uint32_t low[PER] = {0, 1, 0x7fff, 0x8000, 0x8001, 0xffff, 0x1234, 0xabcd};
    float *x = guarded_floats(N);
    tr_bf16 *y = guarded_new(N * sizeof *y);
    int64_t n = 0, n_wrong = 0;
    for (uint32_t high = 0; high < 65536; high++)
        for (int k = 0; k < PER; k++) x[n++] = float_of(high << 16 | low[k]);
    while (n < N) x[n++] = 1.00390625f;
    tr_round_to_bf16(x, y, N, NULL);
    for (int64_t i = 0; i < N; i++) {
        bool right = isnan(x[i])
                         ? isnan(tr_f32_of_bf16(y[i])) && signbit(x[i]) == signbit(tr_f32_of_bf16(y[i]))
                     : isinf(x[i]) ? tr_f32_of_bf16(y[i]) == x[i]
                                   : y[i] == nearest(x[i]);
        n_wrong += !right || tr_bf16_of_f32(x[i]) != y[i];
    }
    CU_ASSERT_EQUAL(n_wrong, 0);
    CU_ASSERT(tr_bf16_of_f32(1e-40f) != 0); /* a subnormal is not made zero */
    CU_ASSERT(guarded_free(y, N * sizeof *y));
    floats_free(x, N);
}

static void every_length_rounds_only_its_own(void)
{
    for (int64_t n = 1; n < 50; n++) {
        both x = both_filled(n, 1, 1), y = both_new(n);
        tr_round_to_bf16(x.full, y.half, n, NULL);
        CU_ASSERT(same_halves(x.half, y.half, n));
        both_free(&x), both_free(&y);
    }
}

static void adamw_writes_its_rounded_weights(void)
{
    static const int64_t sizes[] = {1, 15, 17, 130, TR_NORM_BLOCK + 1, 3 * TR_NORM_BLOCK - 5};
    pools threads = pools_new();
    tr_adamw_options o = {1e-2f, 0.9f, 0.95f, 1e-8f, 0.1f, 0.5f, 3};
    for (int c = 0; c < 18; c++) {
        int64_t n = sizes[c / 3];
        float *x[4], *plain = guarded_floats(n);
        for (int i = 0; i < 4; i++) x[i] = filled(n, 1, (uint64_t)i + 1);
        for (int64_t i = 0; i < n; i++) x[2][i] = fabsf(x[2][i]) + 1e-3f;
        float *m = filled(n, 1, 2), *v = guarded_floats(n);
        both y = both_new(n);
        tr_adamw(x[0], x[1], x[2], x[3], plain, m, v, NULL, n, &o, NULL);
        tr_adamw(x[0], x[1], x[2], x[3], y.full, m, v, y.half, n, &o, threads.pool[c % 3]);
        CU_ASSERT(memcmp(plain, y.full, (size_t)n * sizeof(float)) == 0);
        CU_ASSERT(both_agree("rounded weights", &y, 0, 0));
        for (int i = 0; i < 4; i++) floats_free(x[i], n);
        floats_free(plain, n), floats_free(m, n), floats_free(v, n), both_free(&y);
    }
    pools_destroy(&threads);
}

/* ---- elementwise ---- */

static const int64_t sizes[] = {1, 3, 15, 16, 17, 33, 8193};
enum { N_SIZES = sizeof sizes / sizeof *sizes };

static void sums_are_rounded_once_also_in_place(void)
{
    pools threads = pools_new();
    for (int c = 0; c < 3 * N_SIZES; c++) {
        int64_t n = sizes[c / 3];
        both a = both_filled(n, 3, 1), b = both_filled(n, 2, 2), y = both_new(n);
        tr_add_reference(a.full, b.full, y.full, n);
        tr_cpu_add(a.half, b.half, y.half, n, TR_BF16, threads.pool[c % 3]);
        CU_ASSERT(both_agree("sum", &y, 0, 0));
        tr_cpu_add(a.half, b.half, a.half, n, TR_BF16, NULL);
        CU_ASSERT(same_halves(a.half, y.half, n));
        both_free(&a), both_free(&b), both_free(&y);
    }
    pools_destroy(&threads);
}

static const tr_activation kinds[] = {TR_GELU_TANH, TR_GELU_ERF, TR_SILU, TR_RELU};

static void activations_and_gates_agree_with_the_reference(void)
{
    pools threads = pools_new();
    for (int c = 0; c < 4 * N_SIZES; c++) {
        int64_t n = sizes[c / 4];
        tr_activation kind = kinds[c % 4];
        tr_thread_pool *pool = threads.pool[c % 3];
        both x = both_filled(n, 6, 1), up = both_filled(n, 2, 2), dy = both_filled(n, 2, 3);
        both y = both_new(n), z = both_new(n);
        tr_activate_reference(x.full, y.full, n, kind);
        tr_cpu_activate(x.half, y.half, n, kind, TR_BF16, pool);
        CU_ASSERT(both_agree("activation", &y, 4e-7, 4e-7));
        tr_activate_backward_reference(dy.full, x.full, y.full, n, kind);
        tr_cpu_activate_backward(dy.half, x.half, y.half, n, kind, TR_BF16, pool);
        CU_ASSERT(both_agree("slope", &y, 2e-6, 1e-6));
        tr_gated_reference(x.full, up.full, y.full, n, kind);
        tr_cpu_gated(x.half, up.half, y.half, n, kind, TR_BF16, pool);
        CU_ASSERT(both_agree("gated", &y, 2e-6, 1e-6));
        tr_gated_backward_reference(dy.full, x.full, up.full, y.full, z.full, n, kind);
        tr_cpu_gated_backward(dy.half, x.half, up.half, y.half, z.half, n, kind, TR_BF16, pool);
        CU_ASSERT(both_agree("dgate", &y, 4e-6, 1e-6) && both_agree("dup", &z, 4e-6, 1e-6));
        tr_cpu_gated_backward(dy.half, x.half, up.half, dy.half, x.half, n, kind, TR_BF16, NULL);
        CU_ASSERT(same_halves(dy.half, y.half, n) && same_halves(x.half, z.half, n));
        both_free(&x), both_free(&up), both_free(&dy), both_free(&y), both_free(&z);
    }
    pools_destroy(&threads);
}

/* Which elements are dropped does not depend on the dtype; what is kept is rounded once. */
static void dropout_drops_what_it_drops_in_float32(void)
{
    const tr_dropout_mask mask = {.key = {1, 2}, .threshold = 1u << 30, .scale = 4.0f / 3};
    pools threads = pools_new();
    for (int c = 0; c < N_SIZES; c++) {
        both x = both_filled(sizes[c], 2, 1), y = both_new(sizes[c]);
        tr_dropout_reference(x.full, y.full, sizes[c], &mask);
        tr_cpu_dropout(x.half, y.half, sizes[c], &mask, TR_BF16, threads.pool[c % 3]);
        CU_ASSERT(both_agree("dropout", &y, 0, 0));
        both_free(&x), both_free(&y);
    }
    pools_destroy(&threads);
}

/* ---- rows ---- */

typedef struct norm_problem {
    int64_t rows, columns, n;
    both x, dy, pending, y;
    float *w, *b, *mean, *rstd, *mean0, *rstd0, *dw, *dw0, *db, *db0;
} norm_problem;

static norm_problem norm_problem_new(const int64_t size[2])
{
    norm_problem p = {.rows = size[0], .columns = size[1], .n = size[0] * size[1]};
    p.x = both_filled(p.n, 2, 1), p.dy = both_filled(p.n, 2, 2), p.pending = both_filled(p.n, 1, 3);
    p.y = both_new(p.n);
    p.w = filled(p.columns, 2, 4), p.b = filled(p.columns, 2, 5);
    p.dw = filled(p.columns, 1, 6), p.dw0 = filled(p.columns, 1, 6);
    p.db = filled(p.columns, 1, 7), p.db0 = filled(p.columns, 1, 7);
    p.mean = guarded_floats(p.rows), p.rstd = guarded_floats(p.rows);
    p.mean0 = guarded_floats(p.rows), p.rstd0 = guarded_floats(p.rows);
    return p;
}

static void norm_problem_free(norm_problem *p)
{
    both_free(&p->x), both_free(&p->dy), both_free(&p->pending), both_free(&p->y);
    float *of_columns[] = {p->w, p->b, p->dw, p->dw0, p->db, p->db0};
    float *of_rows[] = {p->mean, p->rstd, p->mean0, p->rstd0};
    for (int i = 0; i < 6; i++) floats_free(of_columns[i], p->columns);
    for (int i = 0; i < 4; i++) floats_free(of_rows[i], p->rows);
}

static void rmsnorm_agrees_with_the_reference(void)
{
    pools threads = pools_new();
    for (int c = 0; c < N_NORM_SIZES; c++) {
        norm_problem p = norm_problem_new(norm_sizes[c]);
        tr_thread_pool *pool = threads.pool[c % 3];
        tr_rmsnorm_reference(p.x.full, p.w, p.y.full, p.rstd0, p.rows, p.columns, 1e-5f);
        tr_cpu_rmsnorm(p.x.half, p.w, p.y.half, p.rstd, p.rows, p.columns, 1e-5f, TR_BF16, pool);
        CU_ASSERT(both_agree("rmsnorm", &p.y, 1e-6, 2e-6) && near(p.rstd, p.rstd0, p.rows, 0, 1e-6));
        for (int with = 0; with < 2; with++) {
            tr_rmsnorm_backward_reference(p.dy.full, p.x.full, p.w, p.rstd0, with ? p.pending.full : NULL,
                                          p.y.full, p.rows, p.columns);
            tr_cpu_rmsnorm_backward(p.dy.half, p.x.half, p.w, p.rstd0, with ? p.pending.half : NULL, p.y.half,
                                    p.rows, p.columns, TR_BF16, pool);
            /* In one column dx is what is left of two terms of size rstd |dy| |w|, which cancel but for eps. */
            double slack = p.columns < 4 ? 1e-4 * (double)p.rstd0[0] : 1e-5;
            CU_ASSERT(both_agree("rmsnorm's dx", &p.y, slack, 5e-6));
        }
        tr_rmsnorm_weight_reference(p.dy.full, p.x.full, p.rstd0, p.dw0, p.rows, p.columns);
        tr_cpu_rmsnorm_weight(p.dy.half, p.x.half, p.rstd0, p.dw, p.rows, p.columns, TR_BF16, pool);
        CU_ASSERT(near(p.dw, p.dw0, p.columns, 1e-5, 2e-6));
        norm_problem_free(&p);
    }
    pools_destroy(&threads);
}

static void layernorm_agrees_with_the_reference(void)
{
    pools threads = pools_new();
    for (int c = 0; c < N_NORM_SIZES; c++) {
        norm_problem p = norm_problem_new(norm_sizes[c]);
        tr_thread_pool *pool = threads.pool[c % 3];
        double slack = p.columns < 4 ? 2e-3 : 1e-5; /* narrow rows have little variance and a large rstd */
        tr_layernorm_reference(p.x.full, p.w, p.b, p.y.full, p.mean0, p.rstd0, p.rows, p.columns, 1e-5f);
        tr_cpu_layernorm(p.x.half, p.w, p.b, p.y.half, p.mean, p.rstd, p.rows, p.columns, 1e-5f, TR_BF16,
                         pool);
        CU_ASSERT(both_agree("layernorm", &p.y, slack, 2e-6));
        CU_ASSERT(near(p.mean, p.mean0, p.rows, 5e-7, 1e-6) && near(p.rstd, p.rstd0, p.rows, 0, slack));
        for (int with = 0; with < 2; with++) {
            tr_layernorm_backward_reference(p.dy.full, p.x.full, p.w, p.mean0, p.rstd0,
                                            with ? p.pending.full : NULL, p.y.full, p.rows, p.columns);
            tr_cpu_layernorm_backward(p.dy.half, p.x.half, p.w, p.mean0, p.rstd0,
                                      with ? p.pending.half : NULL, p.y.half, p.rows, p.columns, TR_BF16,
                                      pool);
            CU_ASSERT(both_agree("layernorm's dx", &p.y, slack, 5e-6));
        }
        tr_layernorm_weight_reference(p.dy.full, p.x.full, p.mean0, p.rstd0, p.dw0, p.db0, p.rows, p.columns);
        tr_cpu_layernorm_weight(p.dy.half, p.x.half, p.mean0, p.rstd0, p.dw, p.db, p.rows, p.columns, TR_BF16,
                                pool);
        CU_ASSERT(near(p.dw, p.dw0, p.columns, 1e-5, 2e-6) && near(p.db, p.db0, p.columns, 1e-5, 2e-6));
        norm_problem_free(&p);
    }
    pools_destroy(&threads);
}

static void rope_turns_there_and_in_place(void)
{
    static const int64_t shapes[][4] = {
        {1, 1, 1, 2}, {2, 5, 3, 6}, {1, 33, 2, 12}, {2, 17, 4, 64}, {1, 9, 2, 36}};
    double frequencies[32];
    for (int c = 0; c < 10; c++) {
        const int64_t *s = shapes[c / 2];
        int64_t n = s[0] * s[1] * s[2] * s[3];
        for (int i = 0; i < s[3] / 2; i++) frequencies[i] = pow(100, -2.0 * i / (double)s[3]);
        both x = both_filled(n, 1, 1), y = both_new(n);
        float *table = guarded_floats(s[1] * s[3]);
        tr_rope_table(table, 3, s[1], (int32_t)s[3], frequencies, 1.3);
        tr_rope_reference(x.full, y.full, s[0], s[1], s[2], s[3], 3, frequencies, 1.3, c & 1);
        tr_cpu_rope(x.half, table, y.half, s[0], s[1], s[2], s[3], c & 1, TR_BF16, NULL);
        CU_ASSERT(both_agree("rope", &y, 4e-7, 0));
        tr_cpu_rope(x.half, table, x.half, s[0], s[1], s[2], s[3], c & 1, TR_BF16, NULL);
        CU_ASSERT(same_halves(x.half, y.half, n));
        both_free(&x), both_free(&y), floats_free(table, s[1] * s[3]);
    }
}

/* ---- tables and parts ---- */

static void embeddings_copy_and_add_up_in_float32(void)
{
    static const int64_t shapes[][3] = {{1, 1, 1}, {5, 7, 3}, {33, 320, 17}, {130, 7, 64}, {100, 320, 200}};
    for (size_t c = 0; c < sizeof shapes / sizeof *shapes; c++) {
        int64_t rows = shapes[c][0], vocabulary = shapes[c][1], channels = shapes[c][2];
        int64_t n = rows * channels, n_table = vocabulary * channels;
        int32_t *ids = guarded_new((size_t)rows * sizeof *ids);
        for (int64_t r = 0; r < rows; r++) ids[r] = (int32_t)((r * r * 3 + r) % vocabulary);
        both table = both_filled(n_table, 1, 1), y = both_new(n), dy = both_filled(n, 1, 2);
        float *d = filled(n_table, 1, 3), *d0 = filled(n_table, 1, 3);
        tr_embedding_reference(ids, table.full, y.full, rows, channels);
        tr_cpu_embedding(ids, table.half, y.half, rows, channels, TR_BF16, NULL);
        CU_ASSERT(both_agree("embedding", &y, 0, 0));
        tr_embedding_dtable_reference(ids, dy.full, d0, rows, channels);
        tr_cpu_embedding_dtable(ids, dy.half, d, rows, channels, TR_BF16, NULL);
        CU_ASSERT(memcmp(d, d0, (size_t)n_table * sizeof *d) == 0);
        CU_ASSERT(guarded_free(ids, (size_t)rows * sizeof *ids));
        both_free(&table), both_free(&y), both_free(&dy), floats_free(d, n_table), floats_free(d0, n_table);
    }
}

static void positions_are_added_and_their_gradient_is_float32(void)
{
    static const int64_t shapes[][4] = {{1, 1, 1, 0}, {3, 5, 3, 2}, {2, 7, 17, 1}, {4, 33, 130, 0}};
    for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
        int64_t b = shapes[k][0], t = shapes[k][1], c = shapes[k][2], position = shapes[k][3], n = b * t * c;
        int64_t n_table = (t + position + 1) * c;
        both x = both_filled(n, 1, 1), table = both_filled(n_table, 1, 2), y = both_new(n);
        float *d = filled(n_table, 1, 3), *d0 = filled(n_table, 1, 3);
        tr_position_embedding_reference(x.full, table.full, y.full, b, t, c, position);
        tr_cpu_position_embedding(x.half, table.half, y.half, b, t, c, position, TR_BF16, NULL);
        CU_ASSERT(both_agree("position embedding", &y, 0, 0));
        tr_position_embedding_weight_reference(x.full, d0, b, t, c, position);
        tr_cpu_position_embedding_weight(x.half, d, b, t, c, position, TR_BF16, NULL);
        CU_ASSERT(near(d, d0, n_table, 1e-6, 1e-6));
        both_free(&x), both_free(&table), both_free(&y), floats_free(d, n_table), floats_free(d0, n_table);
    }
}

static void parts_joined_give_the_whole(void)
{
    enum { ROWS = 301 };
    const int64_t widths[] = {5, 1, 33};
    both x = both_filled(ROWS * 39, 1, 1), back = both_new(ROWS * 39), p[3];
    void *parts[3];
    for (int i = 0; i < 3; i++) {
        p[i] = both_new(ROWS * widths[i]);
        parts[i] = p[i].half;
    }
    tr_cpu_split(x.half, parts, widths, 3, ROWS, TR_BF16, NULL);
    CU_ASSERT_EQUAL(p[1].half[7], x.half[7 * 39 + 5]);
    CU_ASSERT_EQUAL(p[2].half[300 * 33 + 32], x.half[301 * 39 - 1]);
    tr_cpu_join((const void *const *)parts, back.half, widths, 3, ROWS, TR_BF16, NULL);
    CU_ASSERT(same_halves(x.half, back.half, x.n));
    parts[1] = NULL;
    tr_cpu_join((const void *const *)parts, back.half, widths, 3, ROWS, TR_BF16, NULL);
    CU_ASSERT(back.half[5] == 0 && back.half[6] == x.half[6]);
    for (int i = 0; i < 3; i++) both_free(&p[i]);
    both_free(&x), both_free(&back);
}

/* ---- the loss ---- */

static void losses_are_those_of_the_rounded_logits(void)
{
    static const int64_t shapes[][2] = {{1, 1}, {3, 7}, {17, 320}, {33, 50}, {5, 5000}, {130, 16}};
    for (size_t c = 0; c < sizeof shapes / sizeof *shapes; c++) {
        int64_t rows = shapes[c][0], vocabulary = shapes[c][1], n = rows * vocabulary;
        both logits = both_filled(n, 8, 1), d = both_new(n);
        float *lse = guarded_floats(rows), *lse0 = guarded_floats(rows);
        int32_t *targets = guarded_new((size_t)rows * sizeof *targets);
        double *row_losses = guarded_new((size_t)rows * sizeof *row_losses), loss;
        for (int64_t r = 0; r < rows; r++) targets[r] = r % 5 == 3 ? -1 : (int32_t)((r * 7 + 1) % vocabulary);
        double right = tr_cross_entropy_reference(logits.full, targets, lse0, rows, vocabulary);
        tr_cpu_cross_entropy(logits.half, targets, &loss, lse, row_losses, rows, vocabulary, TR_BF16, NULL);
        CU_ASSERT_DOUBLE_EQUAL(loss, right, 1e-6 * (double)rows);
        CU_ASSERT(near(lse, lse0, rows, 1e-6, 1e-7));
        tr_cross_entropy_backward_reference(logits.full, targets, 0.25f, d.full, rows, vocabulary);
        tr_cpu_cross_entropy_backward(logits.half, targets, lse, 0.25f, d.half, rows, vocabulary, TR_BF16,
                                      NULL);
        CU_ASSERT(both_agree("dlogits", &d, 5e-7, 2e-6));
        tr_cpu_cross_entropy_backward(logits.half, targets, lse, 0.25f, logits.half, rows, vocabulary,
                                      TR_BF16, NULL);
        CU_ASSERT(same_halves(logits.half, d.half, n));
        CU_ASSERT(guarded_free(targets, (size_t)rows * sizeof *targets));
        CU_ASSERT(guarded_free(row_losses, (size_t)rows * sizeof *row_losses));
        both_free(&logits), both_free(&d), floats_free(lse, rows), floats_free(lse0, rows);
    }
}

/* ---- graphs ---- */

static void builders_keep_the_dtype_and_refuse_mixtures(void)
{
    tr_error err = {0};
    tr_graph *g = NULL;
    CHECK_OK(tr_graph_new(&g, &err));
    tr_value x = tr_graph_input(g, "x", TR_BF16, TR_SHAPE2(3, 8)),
             w = tr_graph_parameter(g, "w", TR_F32, TR_SHAPE1(8));
    tr_value matrix = tr_graph_parameter(g, "m", TR_BF16, TR_SHAPE2(4, 8));
    tr_value y = tr_linear(g, tr_rmsnorm(g, x, w, 1e-5f), matrix, TR_NO_VALUE, TR_WEIGHT_OUT_IN);
    CHECK_OK(tr_graph_check(g, &err));
    CU_ASSERT_EQUAL(tr_graph_value(g, y)->dtype, TR_BF16);
    CU_ASSERT_EQUAL(tr_graph_value(g, tr_graph_gradient(g, matrix, 0))->dtype, TR_F32);
    CU_ASSERT_EQUAL(tr_add(g, x, tr_graph_input(g, "f", TR_F32, TR_SHAPE2(3, 8))), TR_NO_VALUE);
    CU_ASSERT_EQUAL(tr_graph_check(g, &err), TR_EINVAL);
    CU_ASSERT_STRING_EQUAL(err.message, "add: 'b' is float32; it must be bfloat16");
    tr_graph_destroy(&g);
    CHECK_OK(tr_graph_new(&g, &err));
    tr_activate(g, tr_graph_input(g, "x", TR_I32, TR_SHAPE1(3)), TR_SILU);
    CU_ASSERT_EQUAL(tr_graph_check(g, &err), TR_EINVAL);
    CU_ASSERT_STRING_EQUAL(err.message, "activate: 'x' is int32; it must be float32 or bfloat16");
    tr_graph_destroy(&g);
}

static const check_test tests[] = {
    CHECK_TEST(rounding_is_to_nearest_even_for_lanes_and_scalars),
    CHECK_TEST(every_length_rounds_only_its_own),
    CHECK_TEST(adamw_writes_its_rounded_weights),
    CHECK_TEST(sums_are_rounded_once_also_in_place),
    CHECK_TEST(activations_and_gates_agree_with_the_reference),
    CHECK_TEST(dropout_drops_what_it_drops_in_float32),
    CHECK_TEST(rmsnorm_agrees_with_the_reference),
    CHECK_TEST(layernorm_agrees_with_the_reference),
    CHECK_TEST(rope_turns_there_and_in_place),
    CHECK_TEST(embeddings_copy_and_add_up_in_float32),
    CHECK_TEST(positions_are_added_and_their_gradient_is_float32),
    CHECK_TEST(parts_joined_give_the_whole),
    CHECK_TEST(losses_are_those_of_the_rounded_logits),
    CHECK_TEST(builders_keep_the_dtype_and_refuse_mixtures),
};

CHECK_MAIN("bf16", tests)
