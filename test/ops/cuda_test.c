/* test/ops/cuda_test.c - every operation on a GPU against the CPU (test/ops/cuda_check.h).
 * SPDX-License-Identifier: Apache-2.0 */
#include "test/ops/cuda_check.h"

/* ---- the cases: d is (rows or B, T or columns, ...) ---- */

static int build_linear(tr_graph *g, const op_case *c, tr_dtype dtype, tr_value *outputs)
{
    bool in_out = c->d[3] % 2, biased = c->d[3] / 2;
    tr_value x = tr_graph_input(g, "x", dtype, TR_SHAPE2(c->d[0], c->d[1]));
    tr_shape shape = in_out ? TR_SHAPE2(c->d[1], c->d[2]) : TR_SHAPE2(c->d[2], c->d[1]);
    tr_value w = tr_graph_parameter(g, "w", dtype, shape), u = tr_graph_parameter(g, "u", dtype, shape);
    tr_value b = biased ? tr_graph_parameter(g, "b", TR_F32, TR_SHAPE1(c->d[2])) : TR_NO_VALUE;
    outputs[0] = tr_linear(g, x, w, b, in_out ? TR_WEIGHT_IN_OUT : TR_WEIGHT_OUT_IN);
    outputs[1] = tr_linear(g, x, u, TR_NO_VALUE, in_out ? TR_WEIGHT_IN_OUT : TR_WEIGHT_OUT_IN); /* pending */
    return 2;
}

static void linear_with_either_layout_and_bias(void)
{
    static const int64_t sizes[][3] = {{1, 1, 1},    {3, 5, 7},     {17, 24, 40},    {33, 100, 65},
                                       {128, 64, 8}, {257, 96, 48}, {512, 768, 320}, {40, 1000, 3}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int kind = 0; kind < 4; kind++)
            check_case(&(op_case){"linear", build_linear, {sizes[i][0], sizes[i][1], sizes[i][2], kind}, 0},
                       true);
}

static int build_norm(tr_graph *g, const op_case *c, tr_dtype dtype, tr_value *outputs)
{
    tr_value x = tr_graph_input(g, "x", dtype, TR_SHAPE2(c->d[0], c->d[1]));
    tr_value w = tr_graph_parameter(g, "w", TR_F32, TR_SHAPE1(c->d[1]));
    tr_value b = tr_graph_parameter(g, "b", TR_F32, TR_SHAPE1(c->d[1]));
    tr_value y = c->d[2] ? tr_layernorm(g, x, w, b, 1e-5f) : tr_rmsnorm(g, x, w, 1e-5f);
    outputs[0] = tr_add(g, x, y); /* so that something is pending for x */
    return 1;
}

static void layernorm_and_rmsnorm(void)
{
    static const int64_t sizes[][2] = {{1, 2},    {5, 7},      {33, 64},  {70, 33},  {513, 768},
                                       {9, 1536}, {130, 2048}, {4, 5000}, {5000, 12}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int kind = 0; kind < 2; kind++)
            check_case(
                &(op_case){kind ? "layernorm" : "rmsnorm", build_norm, {sizes[i][0], sizes[i][1], kind}, 0},
                true);
}

static int build_activations(tr_graph *g, const op_case *c, tr_dtype dtype, tr_value *outputs)
{
    tr_activation kind = (tr_activation)c->d[1];
    tr_value x = tr_graph_input(g, "x", dtype, TR_SHAPE1(c->d[0]));
    tr_value up = tr_graph_input(g, "up", dtype, TR_SHAPE1(c->d[0]));
    outputs[0] = tr_activate(g, x, kind);
    outputs[1] = tr_gated(g, up, x, kind);
    outputs[2] = tr_add(g, x, up);
    return 3;
}

static int build_dropout(tr_graph *g, const op_case *c, tr_dtype dtype, tr_value *outputs)
{
    tr_value x = tr_graph_input(g, "x", dtype, TR_SHAPE1(c->d[0]));
    outputs[0] = tr_dropout(g, tr_dropout(g, x, 0.1), 0.5);
    return 1;
}

/* A mask that differs in one element of a hundred thousand is off by more than the tolerance. */
static void dropout_has_the_masks_of_the_cpu(void)
{
    static const int64_t sizes[] = {1, 15, 16, 17, 63, 64, 65, 1023, 1024, 1025, 100003};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        check_case(&(op_case){"dropout", build_dropout, {sizes[i]}, 0}, true);
}

static void activations_gates_and_sums(void)
{
    static const int64_t sizes[] = {1, 3, 8, 31, 1025, 100003};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int kind = TR_GELU_TANH; kind <= TR_RELU; kind++)
            check_case(&(op_case){"activations", build_activations, {sizes[i], kind}, 0}, true);
}

static int build_split(tr_graph *g, const op_case *c, tr_dtype dtype, tr_value *outputs)
{
    const int64_t widths[] = {c->d[1], c->d[2], c->d[3]};
    tr_value x = tr_graph_input(g, "x", dtype, TR_SHAPE2(c->d[0], widths[0] + widths[1] + widths[2])),
             parts[3];
    tr_split(g, x, widths, 3, parts);
    outputs[0] = parts[0]; /* nothing flows to the second */
    outputs[1] = parts[2];
    return 2;
}

static void splits_and_joins(void)
{
    static const int64_t sizes[][4] = {
        {1, 1, 1, 1}, {5, 3, 2, 9}, {65, 16, 8, 24}, {300, 768, 768, 768}, {7, 2, 4, 6}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        check_case(&(op_case){"split", build_split, {sizes[i][0], sizes[i][1], sizes[i][2], sizes[i][3]}, 0},
                   true);
}

static int build_embeddings(tr_graph *g, const op_case *c, tr_dtype dtype, tr_value *outputs)
{
    tr_value ids = tr_graph_input(g, "ids", TR_I32, TR_SHAPE2(c->d[0], c->d[1]));
    tr_value table = tr_graph_parameter(g, "table", dtype, TR_SHAPE2(c->id_limit, c->d[2]));
    tr_value places = tr_graph_parameter(g, "places", dtype, TR_SHAPE2(c->d[1] + 3, c->d[2]));
    tr_value position = c->d[3] ? tr_graph_input(g, "position", TR_I32, TR_SHAPE1(1)) : TR_NO_VALUE;
    outputs[0] = tr_position_embedding(g, tr_embedding(g, ids, table), places, position);
    return 1;
}

static void embeddings_with_few_and_many_ids(void)
{
    static const int64_t sizes[][3] = {{1, 1, 1}, {3, 7, 5}, {4, 200, 24}, {16, 260, 64}};
    static const int32_t limits[] = {1, 3, 300, 65537}; /* of one to three passes of the sort */
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int k = 0; k < 4; k++)
            check_case(
                &(op_case){
                    "embedding", build_embeddings, {sizes[i][0], sizes[i][1], sizes[i][2], k % 2}, limits[k]},
                true);
}

static int build_rope(tr_graph *g, const op_case *c, tr_dtype dtype, tr_value *outputs)
{
    tr_rope_options options = {.head_size = (int32_t)c->d[3], .theta = 10000, .magnitude = 1.25f};
    tr_value position = c->d[4] ? tr_graph_input(g, "position", TR_I32, TR_SHAPE1(1)) : TR_NO_VALUE;
    tr_value x = tr_graph_input(g, "x", dtype, TR_SHAPE3(c->d[0], c->d[1], c->d[2] * c->d[3]));
    outputs[0] = tr_rope(g, x, position, &options);
    return 1;
}

static void rotations_with_and_without_a_position(void)
{
    static const int64_t sizes[][4] = {{1, 1, 1, 2}, {2, 5, 3, 6}, {2, 130, 4, 64}, {1, 1000, 2, 128}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int k = 0; k < 2; k++)
            check_case(
                &(op_case){"rope", build_rope, {sizes[i][0], sizes[i][1], sizes[i][2], sizes[i][3], k}, 0},
                true);
}

static int build_loss(tr_graph *g, const op_case *c, tr_dtype dtype, tr_value *outputs)
{
    tr_value x = tr_graph_input(g, "x", dtype, TR_SHAPE2(c->d[0], c->d[1]));
    outputs[0] = tr_cross_entropy(g, x, tr_graph_input(g, "targets", TR_I32, TR_SHAPE1(c->d[0])));
    return 1;
}

static void losses_of_odd_vocabularies(void)
{
    static const int64_t sizes[][2] = {{1, 1},    {3, 7},     {17, 320},  {5, 5001},
                                       {130, 16}, {9, 50257}, {600, 1000}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        check_case(&(op_case){"cross_entropy", build_loss, {sizes[i][0], sizes[i][1]}, (int32_t)sizes[i][1]},
                   true);
}

/* B, T, H, K, D */
static int build_attention(tr_graph *g, const op_case *c, tr_dtype dtype, tr_value *outputs)
{
    tr_attention_options options = {.heads = (int32_t)c->d[2],
                                    .kv_heads = (int32_t)c->d[3],
                                    .head_size = (int32_t)c->d[4],
                                    .scale = 1.0f / sqrtf((float)c->d[4])};
    tr_shape q = TR_SHAPE3(c->d[0], c->d[1], c->d[2] * c->d[4]),
             kv = TR_SHAPE3(c->d[0], c->d[1], c->d[3] * c->d[4]);
    outputs[0] = tr_attention(g, tr_graph_input(g, "q", dtype, q), tr_graph_input(g, "k", dtype, kv),
                              tr_graph_input(g, "v", dtype, kv), &options);
    return 1;
}

static void attention_with_any_head_size(void)
{
    static const int64_t sizes[][5] = {
        {1, 1, 1, 1, 2},   {2, 5, 2, 2, 6},    {1, 17, 4, 2, 12}, {2, 33, 4, 1, 32},  {1, 130, 2, 1, 16},
        {1, 65, 2, 2, 80}, {1, 40, 2, 1, 200}, {3, 3, 8, 2, 10},  {2, 200, 3, 3, 48}, {1, 129, 2, 1, 256}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        op_case c = {.name = "attention", .build = build_attention};
        memcpy(c.d, sizes[i], sizeof sizes[i]);
        check_case(&c, true);
    }
}

static void attention_on_tensor_cores(void)
{
    static const int64_t times[] = {1, 15, 16, 63, 64, 65, 127, 128, 129, 200, 333};
    for (size_t i = 0; i < sizeof times / sizeof *times; i++)
        for (int size = 64; size <= 128; size += 64)
            for (int kv_heads = 1; kv_heads <= 4; kv_heads *= 2)
                check_case(&(op_case){"attention", build_attention, {2, times[i], 4, kv_heads, size}, 0},
                           true);
}

/* The forward is cuDNN's where that is here; the backward goes on from what it keeps. */
static void attention_over_long_rows(void)
{
    static const int64_t sizes[][5] = {
        {1, 1024, 2, 1, 64}, {2, 1100, 2, 2, 64}, {1, 1025, 4, 2, 128}, {1, 2048, 1, 1, 128}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        op_case c = {.name = "attention", .build = build_attention};
        memcpy(c.d, sizes[i], sizeof sizes[i]);
        check_case(&c, true);
    }
}

/* T new rows behind one that stands in the cache. */
static int build_cached(tr_graph *g, const op_case *c, tr_dtype dtype, tr_value *outputs)
{
    tr_attention_options options = {.heads = (int32_t)c->d[2],
                                    .kv_heads = (int32_t)c->d[3],
                                    .head_size = (int32_t)c->d[4],
                                    .scale = 0.3f};
    tr_shape q = TR_SHAPE3(1, c->d[1], c->d[2] * c->d[4]), kv = TR_SHAPE3(1, c->d[1], c->d[3] * c->d[4]);
    tr_shape cache = TR_SHAPE2(c->d[1] + 9, c->d[3] * c->d[4]);
    outputs[0] =
        tr_attention_cached(g, tr_graph_input(g, "q", dtype, q), tr_graph_input(g, "k", dtype, kv),
                            tr_graph_input(g, "v", dtype, kv), tr_graph_state(g, "keys", dtype, cache),
                            tr_graph_state(g, "values", dtype, cache),
                            tr_graph_input(g, "position", TR_I32, TR_SHAPE1(1)), &options);
    return 1;
}

static void attention_over_a_cache(void)
{
    static const int64_t sizes[][5] = {{1, 1, 2, 1, 64}, {1, 7, 4, 2, 20}, {1, 70, 2, 2, 64}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        op_case c = {.name = "attention_cached", .build = build_cached};
        memcpy(c.d, sizes[i], sizeof sizes[i]);
        check_case(&c, false);
    }
}

static const check_test tests[] = {
    CHECK_TEST(linear_with_either_layout_and_bias),
    CHECK_TEST(layernorm_and_rmsnorm),
    CHECK_TEST(activations_gates_and_sums),
    CHECK_TEST(dropout_has_the_masks_of_the_cpu),
    CHECK_TEST(splits_and_joins),
    CHECK_TEST(embeddings_with_few_and_many_ids),
    CHECK_TEST(rotations_with_and_without_a_position),
    CHECK_TEST(losses_of_odd_vocabularies),
    CHECK_TEST(attention_with_any_head_size),
    CHECK_TEST(attention_on_tensor_cores),
    CHECK_TEST(attention_over_long_rows),
    CHECK_TEST(attention_over_a_cache),
};

int main(int argc, char **argv)
{
    return check_on_gpu(argc, argv, "ops/cuda", tests, sizeof tests / sizeof *tests, 1);
}
