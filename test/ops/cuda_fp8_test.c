/* test/ops/cuda_fp8_test.c - FP8 on a GPU against the CPU (test/ops/cuda_check.h), whose codes and products are tested against
 * plain references (fp8_test.c, fp8_linear_test.c): codes are the same bit by bit, products differ by the order of their sums.
 * SPDX-License-Identifier: Apache-2.0 */
#include "test/ops/cuda_check.h"

#include "ops/fp8_linear.h"

/* --- codes --- */

/* rows, columns, format */
static int build_codes(tr_graph *g, const op_case *c, tr_dtype dtype, tr_value *outputs)
{
    quantise_attributes attributes = {.format = c->d[2] ? TR_E5M2 : TR_E4M3};
    tr_value x = tr_graph_input(g, "x", dtype, TR_SHAPE2(c->d[0], c->d[1]));
    int32_t node = tr_graph_add(g, &tr__quantise_op, &x, 1, &attributes, sizeof attributes, NULL, 0);
    memcpy(outputs, tr_graph_node(g, node)->outputs, 3 * sizeof *outputs);
    return 3;
}

/* Normal numbers of so many sizes that codes are normal, subnormal and zero, some at ties; times a power of two. */
static tr_bf16 wide_number(int64_t i, int exponent)
{
    float x = number(0, i) * ldexpf(1.0f, -(int)(i * 7919 % 24));
    if (i % 5 == 0) x = (float)(1 + i % 16) * 0.0625f;
    return tr_bf16_of_f32(ldexpf(x, exponent));
}

static void check_codes(int64_t rows, int64_t columns, int format, int exponent, float special)
{
    tr_error err = {0};
    tr_device *cpu = NULL;
    tr_stream *cpu_stream = NULL;
    const op_case c = {"codes", build_codes, {rows, columns, format}, 0};
    int64_t n = rows * columns;
    uint8_t *codes[2], *turned[2];
    float inverse[2];
    tr_bf16 *x = malloc((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++) x[i] = wide_number(i, exponent);
    if (special != 0) x[n - 3] = tr_bf16_of_f32(special);
    CHECK_OK(tr_device_open(&cpu, TR_DEVICE_CPU, 0, &err));
    CHECK_OK(tr_stream_new(&cpu_stream, cpu, &err));
    for (int k = 0; k < 2; k++) {
        side s;
        codes[k] = malloc((size_t)n), turned[k] = malloc((size_t)n);
        if (!open_side(&s, &c, TR_BF16, k ? device : cpu, k ? stream : cpu_stream, false)) return;
        CHECK_OK(tr_stream_copy(s.stream, s.bound[0], x, (size_t)n * sizeof *x, &err));
        tr_bindings bindings = {.values = s.bound, .stash = s.stash, .scratch = s.scratch};
        tr_program_run(s.program, TR_PHASE_FORWARD, &bindings);
        CHECK_OK(tr_stream_copy(s.stream, codes[k], s.bound[s.outputs[0]], (size_t)n, &err));
        CHECK_OK(tr_stream_copy(s.stream, turned[k], s.bound[s.outputs[1]], (size_t)n, &err));
        CHECK_OK(tr_stream_copy(s.stream, &inverse[k], s.bound[s.outputs[2]], sizeof(float), &err));
        CHECK_OK(tr_program_synchronize(s.program, &err));
        for (int i = 0; i < 2; i++) CU_ASSERT(intact(&s, s.bound[s.outputs[i]], (size_t)n));
        close_side(&s);
    }
    CU_ASSERT(memcmp(codes[0], codes[1], (size_t)n) == 0);
    CU_ASSERT(memcmp(turned[0], turned[1], (size_t)n) == 0);
    CU_ASSERT(inverse[0] == inverse[1] || (isnan(inverse[0]) && isnan(inverse[1])));
    for (int k = 0; k < 2; k++) free(codes[k]), free(turned[k]);
    free(x);
    tr_stream_destroy(&cpu_stream);
    tr_device_close(&cpu);
}

static void codes_are_the_cpus(void)
{
    static const int64_t sizes[][2] = {{16, 16},   {16, 1024}, {1024, 16},  {128, 128},
                                       {144, 272}, {48, 4112}, {1040, 336}, {512, 2048}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int format = 0; format < 2; format++) {
            if (short_run && sizes[i][0] * sizes[i][1] > 100000) continue;
            check_codes(sizes[i][0], sizes[i][1], format, 0, 0);
            check_codes(sizes[i][0], sizes[i][1], format, (int)i * 30 - 110, 0);
        }
}

static void codes_of_unusual_numbers_are_the_cpus(void)
{
    for (int format = 0; format < 2; format++) {
        check_codes(32, 48, format, 0, INFINITY);
        check_codes(32, 48, format, 0, NAN);
        check_codes(32, 48, format, -250, 0); /* all zero */
        check_codes(32, 48, format, -128, 0); /* subnormal in bfloat16 */
        check_codes(32, 48, format, 0, -3e38f);
    }
}

/* --- layers --- */

/* rows, inputs, outputs, in_out, bias: two layers of one x, the second added to; so x has a pending gradient. */
static int build_layers(tr_graph *g, const op_case *c, tr_dtype dtype, tr_value *outputs)
{
    int64_t rows = c->d[0], in = c->d[1], out = c->d[2];
    tr_weight_layout layout = c->d[3] ? TR_WEIGHT_IN_OUT : TR_WEIGHT_OUT_IN;
    tr_value x = tr_graph_input(g, "x", dtype, TR_SHAPE3(2, rows / 2, in));
    for (int i = 0; i < 2; i++) {
        char name[8] = {(char)('v' + i), 0};
        tr_value w = tr_graph_parameter(g, name, dtype, c->d[3] ? TR_SHAPE2(in, out) : TR_SHAPE2(out, in));
        tr_value b = c->d[4] ? tr_graph_parameter(g, i ? "b" : "c", TR_F32, TR_SHAPE1(out)) : TR_NO_VALUE;
        outputs[i] = tr_linear(g, x, w, b, layout);
    }
    tr_graph_begin_unit(g);
    tr_graph_begin_unit(g); /* so that none is the last */
    outputs[2] = tr_add(g, outputs[0], outputs[1]);
    return 3;
}

static void layers_agree_with_the_cpu(void)
{
    static const int64_t sizes[][3] = {{32, 16, 16},   {32, 48, 80},    {160, 64, 32},
                                       {96, 272, 144}, {256, 384, 128}, {128, 256, 1024}};
    with_fp8 = true;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int kind = 0; kind < 4; kind++) {
            op_case c = {"layers in FP8",
                         build_layers,
                         {sizes[i][0], sizes[i][1], sizes[i][2], kind % 2, kind / 2},
                         0};
            check_case(&c, true);
        }
    with_fp8 = false;
}

/* What is not taken is as it was: sizes that are no multiples of 16. */
static void layers_that_do_not_fit_agree(void)
{
    static const int64_t sizes[][3] = {{30, 16, 16}, {32, 24, 16}, {32, 16, 40}};
    with_fp8 = true;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        check_case(&(op_case){"layers left", build_layers, {sizes[i][0], sizes[i][1], sizes[i][2], 1, 1}, 0},
                   true);
    with_fp8 = false;
}

static void begun_gradients_have_the_bits_of_added_ones(void)
{
    with_fp8 = true;
    check_beginning(&(op_case){"layers in FP8", build_layers, {64, 48, 80, 0, 0}, 0});
    check_beginning(&(op_case){"layers in FP8", build_layers, {64, 48, 80, 1, 1}, 0});
    with_fp8 = false;
}

/* Captured and launched, it is the same. */
static void layers_as_graphs_agree(void)
{
    with_fp8 = with_graphs = true;
    check_case(&(op_case){"layers in FP8", build_layers, {64, 48, 80, 1, 1}, 0}, true);
    with_fp8 = with_graphs = false;
}

int main(int argc, char **argv)
{
    static const check_test tests[] = {
        CHECK_TEST(layers_agree_with_the_cpu),
        CHECK_TEST(layers_that_do_not_fit_agree),
        CHECK_TEST(begun_gradients_have_the_bits_of_added_ones),
        CHECK_TEST(layers_as_graphs_agree),
        CHECK_TEST(codes_are_the_cpus),
        CHECK_TEST(codes_of_unusual_numbers_are_the_cpus),
    };
    return check_on_gpu(argc, argv, "ops/cuda_fp8", tests, sizeof tests / sizeof *tests, 4);
}
