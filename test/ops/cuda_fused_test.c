/* test/ops/cuda_fused_test.c - what a GPU does in one pass where a graph has several nodes, against the CPU, which does not
 * (test/ops/cuda_check.h). That the nodes are joined at all is test/ops/fuse_test.c's.
 * SPDX-License-Identifier: Apache-2.0 */
#include "test/ops/cuda_check.h"

/* y = x + gelu(x w + b) v + c: rows, width, hidden. */
static int build_feed_forward(tr_graph *g, const op_case *c, tr_dtype dtype, tr_value *outputs)
{
    int64_t rows = c->d[0], width = c->d[1], hidden = c->d[2];
    tr_value x = tr_graph_input(g, "x", dtype, TR_SHAPE2(rows, width));
    tr_value w = tr_graph_parameter(g, "w", dtype, TR_SHAPE2(width, hidden)),
             b = tr_graph_parameter(g, "b", TR_F32, TR_SHAPE1(hidden)),
             v = tr_graph_parameter(g, "v", dtype, TR_SHAPE2(hidden, width)),
             bias = tr_graph_parameter(g, "c", TR_F32, TR_SHAPE1(width));
    tr_value y = tr_activate(g, tr_linear(g, x, w, b, TR_WEIGHT_IN_OUT), TR_GELU_TANH);
    outputs[0] = tr_add(g, x, tr_linear(g, y, v, bias, TR_WEIGHT_IN_OUT));
    return 1;
}

static void layers_with_gelu_and_a_residual(void)
{
    static const int64_t sizes[][3] = {{1, 8, 8},     {3, 8, 24},     {33, 40, 16},   {65, 7, 9},
                                       {130, 64, 72}, {257, 96, 384}, {512, 192, 256}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        check_case(&(op_case){"feed forward", build_feed_forward, {sizes[i][0], sizes[i][1], sizes[i][2]}, 0},
                   true);
}

/* rows, width; the vocabulary is id_limit. */
static int build_classifier(tr_graph *g, const op_case *c, tr_dtype dtype, tr_value *outputs)
{
    tr_value x = tr_graph_input(g, "x", dtype, TR_SHAPE2(c->d[0], c->d[1]));
    tr_shape shape = c->d[2] ? TR_SHAPE2(c->d[1], c->id_limit) : TR_SHAPE2(c->id_limit, c->d[1]);
    tr_value w = tr_graph_parameter(g, "w", dtype, shape);
    tr_value logits = tr_linear(g, x, w, TR_NO_VALUE, c->d[2] ? TR_WEIGHT_IN_OUT : TR_WEIGHT_OUT_IN);
    outputs[0] = tr_cross_entropy(g, logits, tr_graph_input(g, "targets", TR_I32, TR_SHAPE1(c->d[0])));
    return 1;
}

/* The largest rows are kept in no multiprocessor's memory. */
static void losses_of_classifiers(void)
{
    static const int64_t sizes[][3] = {{1, 8, 8},     {3, 5, 7},     {17, 16, 320}, {33, 24, 5001},
                                       {130, 64, 16}, {9, 8, 60000}, {4, 8, 131072}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int in_out = 0; in_out < 2; in_out++)
            check_case(
                &(op_case){
                    "classifier", build_classifier, {sizes[i][0], sizes[i][1], in_out}, (int32_t)sizes[i][2]},
                true);
}

/* Chunks of equal size, with a shorter last one, of one row's width of alignment; against the CPU's whole. */
static void losses_by_chunks_of_rows(void)
{
    static const int64_t sizes[][4] = {{16, 8, 8, 8},     {17, 16, 320, 8},  {33, 24, 5001, 16},
                                       {130, 64, 16, 32}, {20, 8, 60000, 8}, {12, 8, 131072, 8},
                                       {64, 40, 96, 56}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int in_out = 0; in_out < 2; in_out++) {
            op_case c = {"chunked classifier",
                         build_classifier,
                         {sizes[i][0], sizes[i][1], in_out, 0, 0, sizes[i][3]},
                         (int32_t)sizes[i][2]};
            check_case(&c, true);
            check_case(&c, false);
        }
}

/* B, T, H, K, D */
static int build_attention(tr_graph *g, const op_case *c, tr_dtype dtype, tr_value *outputs)
{
    int64_t q = c->d[2] * c->d[4], kv = c->d[3] * c->d[4], widths[] = {q, kv, kv};
    tr_attention_options options = {.heads = (int32_t)c->d[2],
                                    .kv_heads = (int32_t)c->d[3],
                                    .head_size = (int32_t)c->d[4],
                                    .scale = 1.0f / sqrtf((float)c->d[4])};
    tr_value x = tr_graph_input(g, "x", dtype, TR_SHAPE3(c->d[0], c->d[1], q + 2 * kv)), parts[3];
    tr_split(g, x, widths, 3, parts);
    outputs[0] = tr_attention(g, parts[0], parts[1], parts[2], &options);
    return 1;
}

/* B, T, H, K, D */
static const int64_t attention_sizes[][5] = {{1, 1, 1, 1, 64},    {2, 65, 4, 2, 64},  {2, 200, 2, 2, 64},
                                             {1, 129, 4, 1, 128}, {1, 63, 2, 2, 128}, {2, 33, 4, 2, 32},
                                             {1, 40, 2, 1, 80},   {1, 1025, 2, 1, 64}};
enum { N_ATTENTION_SIZES = sizeof attention_sizes / sizeof *attention_sizes };

static void attention_on_parts_of_one_array(void)
{
    for (int i = 0; i < N_ATTENTION_SIZES; i++) {
        op_case c = {.name = "attention of parts", .build = build_attention};
        memcpy(c.d, attention_sizes[i], sizeof attention_sizes[i]);
        check_case(&c, true);
    }
}

/* Behind a layer with a bias, whose gradient attention's backward makes on its way. */
static int build_projected_attention(tr_graph *g, const op_case *c, tr_dtype dtype, tr_value *outputs)
{
    enum { FROM = 24 };
    int64_t q = c->d[2] * c->d[4], kv = c->d[3] * c->d[4], widths[] = {q, kv, kv};
    tr_attention_options options = {.heads = (int32_t)c->d[2],
                                    .kv_heads = (int32_t)c->d[3],
                                    .head_size = (int32_t)c->d[4],
                                    .scale = 1.0f / sqrtf((float)c->d[4])};
    tr_value x = tr_graph_input(g, "x", dtype, TR_SHAPE3(c->d[0], c->d[1], FROM)), parts[3];
    tr_value w = tr_graph_parameter(g, "w", dtype, TR_SHAPE2(FROM, q + 2 * kv)),
             b = tr_graph_parameter(g, "b", TR_F32, TR_SHAPE1(q + 2 * kv));
    tr_split(g, tr_linear(g, x, w, b, TR_WEIGHT_IN_OUT), widths, 3, parts);
    outputs[0] = tr_attention(g, parts[0], parts[1], parts[2], &options);
    return 1;
}

static void attention_gives_a_bias_its_gradient(void)
{
    for (int i = 0; i < N_ATTENTION_SIZES; i++) {
        op_case c = {.name = "attention behind a bias", .build = build_projected_attention};
        memcpy(c.d, attention_sizes[i], sizeof attention_sizes[i]);
        check_case(&c, true);
        check_beginning(&c);
    }
}

static int build_norm(tr_graph *g, const op_case *c, tr_dtype dtype, tr_value *outputs)
{
    tr_value x = tr_graph_input(g, "x", dtype, TR_SHAPE2(c->d[0], c->d[1]));
    tr_value w = tr_graph_parameter(g, "w", TR_F32, TR_SHAPE1(c->d[1]));
    tr_value b = c->d[3] ? TR_NO_VALUE : tr_graph_parameter(g, "b", TR_F32, TR_SHAPE1(c->d[1]));
    tr_value y = c->d[3] ? tr_rmsnorm(g, x, w, 1e-5f) : tr_layernorm(g, x, w, b, 1e-5f);
    outputs[0] = c->d[2] ? tr_add(g, x, y) : y; /* so that something is pending for x, or nothing */
    return 1;
}

/* By lanes or by the threads of a block. */
static void norms_whose_rows_are_kept(void)
{
    static const int64_t sizes[][2] = {{1, 256},  {9, 512},   {300, 256}, {70, 768},    {5, 1024},
                                       {3, 1280}, {37, 2048}, {2, 4096},  {1100, 1280}, {2100, 256}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int kind = 0; kind < 4; kind++)
            check_case(&(op_case){"norm", build_norm, {sizes[i][0], sizes[i][1], kind % 2, kind / 2}, 0},
                       true);
}

/* A sum and its norm twice: the first norm makes the sum, the second reads it; and once more the sum alone. */
static int build_added_norm(tr_graph *g, const op_case *c, tr_dtype dtype, tr_value *outputs)
{
    tr_value x = tr_graph_input(g, "x", dtype, TR_SHAPE2(c->d[0], c->d[1]));
    tr_value more = tr_graph_input(g, "more", dtype, TR_SHAPE2(c->d[0], c->d[1]));
    tr_value w = tr_graph_parameter(g, "w", TR_F32, TR_SHAPE1(c->d[1]));
    tr_value b = c->d[2] ? TR_NO_VALUE : tr_graph_parameter(g, "b", TR_F32, TR_SHAPE1(c->d[1]));
    tr_value sum = tr_add(g, x, more);
    for (int i = 0; i < 2; i++)
        outputs[i] = c->d[2] ? tr_rmsnorm(g, sum, w, 1e-5f) : tr_layernorm(g, sum, w, b, 1e-5f);
    outputs[2] = sum;
    outputs[3] = tr_add(g, x, more);
    return 4;
}

static bool same_results(const side *s, int a, int b)
{
    size_t n = (size_t)tr_shape_elements(&tr_graph_value(s->graph, s->outputs[a])->shape);
    return memcmp(s->results[s->outputs[a]], s->results[s->outputs[b]], n * sizeof(float)) == 0;
}

/* Where a graph is cut between a sum and its norm, each is made alone. */
static void norms_that_add_have_the_bits_of_sum_and_norm(void)
{
    static const int64_t sizes[][2] = {{1, 256}, {9, 512}, {70, 768}, {37, 2048}, {5, 2304}, {33, 40}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int kind = 0; kind < 2; kind++) {
            op_case c = {"sum and norm", build_added_norm, {sizes[i][0], sizes[i][1], kind}, 0};
            side got;
            check_case(&c, true);
            if (!open_side(&got, &c, TR_BF16, device, stream, false)) continue;
            run_side(&got, &c);
            CU_ASSERT(same_results(&got, 0, 1));
            CU_ASSERT(same_results(&got, 2, 3));
            close_side(&got);
        }
}

/* y = x w + b + x v + c, and its norm: both biases have the gradient of y, the sum of whose rows the norm's backward makes
 * for one of them. */
static int build_biased_norm(tr_graph *g, const op_case *c, tr_dtype dtype, tr_value *outputs)
{
    int64_t from = 16, width = c->d[1];
    tr_value x = tr_graph_input(g, "x", dtype, TR_SHAPE2(c->d[0], from)), y[2];
    for (int i = 0; i < 2; i++)
        y[i] = tr_linear(g, x, tr_graph_parameter(g, i ? "v" : "w", dtype, TR_SHAPE2(from, width)),
                         tr_graph_parameter(g, i ? "c" : "b", TR_F32, TR_SHAPE1(width)), TR_WEIGHT_IN_OUT);
    tr_value sum = tr_add(g, y[0], y[1]);
    tr_value normed = tr_layernorm(g, sum, tr_graph_parameter(g, "nw", TR_F32, TR_SHAPE1(width)),
                                   tr_graph_parameter(g, "nb", TR_F32, TR_SHAPE1(width)), 1e-5f);
    outputs[0] = c->d[2] ? tr_add(g, sum, normed) : normed; /* so that something is pending, or nothing */
    return 1;
}

/* The gradient of the parameter of that name, which is used once. */
static const float *gradient_of(const side *s, const char *name)
{
    for (tr_value v = 0; v < s->n_values; v++) {
        const tr_value_info *value = tr_graph_value(s->graph, v);
        if (value->kind == TR_VALUE_GRADIENT &&
            strcmp(tr_graph_value(s->graph, value->parameter)->name, name) == 0)
            return s->results[v];
    }
    return NULL;
}

/* Where a graph is cut between a layer and the norm behind it, the layer's bias has its gradient made alone. */
static void norms_that_give_a_bias_its_gradient_have_the_bits_of_one_alone(void)
{
    static const int64_t sizes[][2] = {{1, 256},  {9, 512},    {300, 256}, {70, 768}, {2100, 256},
                                       {5, 1024}, {1100, 768}, {3, 1280},  {33, 40}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int pending = 0; pending < 2; pending++) {
            op_case c = {"biases and norm", build_biased_norm, {sizes[i][0], sizes[i][1], pending}, 0};
            side got;
            check_case(&c, true);
            check_beginning(&c);
            if (!open_side(&got, &c, TR_BF16, device, stream, true)) continue;
            got.begin = true;
            run_side(&got, &c);
            const float *one = gradient_of(&got, "b"), *other = gradient_of(&got, "c");
            CU_ASSERT_FATAL(one && other);
            CU_ASSERT(memcmp(one, other, (size_t)sizes[i][1] * sizeof(float)) == 0);
            close_side(&got);
        }
}

static void gradients_begin_with_a_run(void)
{
    check_beginning(&(op_case){"feed forward", build_feed_forward, {65, 24, 40}, 0});
    check_beginning(&(op_case){"classifier", build_classifier, {33, 24, 0}, 320});
    check_beginning(&(op_case){"chunked classifier", build_classifier, {33, 24, 0, 0, 0, 16}, 320});
    for (int kind = 0; kind < 4; kind++)
        check_beginning(&(op_case){"norm", build_norm, {70, kind < 2 ? 768 : 2048, kind % 2, kind / 2}, 0});
}

static const check_test tests[] = {
    CHECK_TEST(attention_gives_a_bias_its_gradient),
    CHECK_TEST(norms_that_give_a_bias_its_gradient_have_the_bits_of_one_alone),
    CHECK_TEST(layers_with_gelu_and_a_residual),
    CHECK_TEST(losses_of_classifiers),
    CHECK_TEST(losses_by_chunks_of_rows),
    CHECK_TEST(gradients_begin_with_a_run),
    CHECK_TEST(attention_on_parts_of_one_array),
    CHECK_TEST(norms_whose_rows_are_kept),
    CHECK_TEST(norms_that_add_have_the_bits_of_sum_and_norm),
};

int main(int argc, char **argv)
{
    return check_on_gpu(argc, argv, "ops/cuda_fused", tests, sizeof tests / sizeof *tests, 6);
}
