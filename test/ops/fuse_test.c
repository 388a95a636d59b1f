/* test/ops/fuse_test.c - which nodes are joined, and which are left alone. What the joined ones compute is compared on a GPU
 * (test/ops/cuda_fused_test.c).
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/fuse.h"

#include "ops/autodiff.h"
#include "ops/op.h"
#include "ops/operations.h"
#include "test/check.h"

#include <string.h>

/* A transformer block with a loss behind it, as models have them; what a case changes is in its fields. */
typedef struct block_case {
    tr_dtype dtype;
    tr_activation activation;
    int64_t hidden;
    bool watch_scores;   /* q is an output: somebody else reads it */
    bool watch_residual; /* what the first residual is added to is read once more */
    bool forward_only;
    bool rms; /* rmsnorm instead of layernorm */
} block_case;

enum { BATCH = 2, TIME = 8, WIDTH = 256, HEADS = 4, VOCABULARY = 40 };

static tr_value layer(tr_graph *g, tr_value x, const char *name, int64_t in, int64_t out)
{
    char bias[32];
    snprintf(bias, sizeof bias, "%s.b", name);
    tr_value w = tr_graph_parameter(g, name, tr_graph_value(g, x)->dtype, TR_SHAPE2(in, out));
    return tr_linear(g, x, w, tr_graph_parameter(g, bias, TR_F32, TR_SHAPE1(out)), TR_WEIGHT_IN_OUT);
}

static tr_value norm(tr_graph *g, tr_value x, const char *name, bool rms)
{
    char bias[32];
    if (rms) return tr_rmsnorm(g, x, tr_graph_parameter(g, name, TR_F32, TR_SHAPE1(WIDTH)), 1e-5f);
    snprintf(bias, sizeof bias, "%s.b", name);
    return tr_layernorm(g, x, tr_graph_parameter(g, name, TR_F32, TR_SHAPE1(WIDTH)),
                        tr_graph_parameter(g, bias, TR_F32, TR_SHAPE1(WIDTH)), 1e-5f);
}

static tr_graph *build(const block_case *c)
{
    static const int64_t widths[] = {WIDTH, WIDTH, WIDTH};
    static const tr_attention_options options = {
        .heads = HEADS, .kv_heads = HEADS, .head_size = WIDTH / HEADS, .scale = 0.125f};
    tr_graph *g = NULL;
    tr_error err = {0};
    tr_value parts[3], none = TR_NO_VALUE;
    CHECK_OK(tr_graph_new(&g, &err));
    tr_value x = tr_graph_input(g, "x", c->dtype, TR_SHAPE3(BATCH, TIME, WIDTH));
    tr_split(g, layer(g, norm(g, x, "norm1", c->rms), "qkv", WIDTH, 3 * WIDTH), widths, 3, parts);
    if (c->watch_scores) tr_graph_mark_output(g, parts[0]);
    tr_value y = layer(g, tr_attention(g, parts[0], parts[1], parts[2], &options), "proj", WIDTH, WIDTH);
    tr_value middle = tr_add(g, x, y);
    if (c->watch_residual) middle = tr_add(g, middle, y);
    y = tr_activate(g, layer(g, norm(g, middle, "norm2", c->rms), "up", WIDTH, c->hidden), c->activation);
    y = tr_add(g, middle, layer(g, y, "down", c->hidden, WIDTH));
    tr_value head = tr_graph_parameter(g, "head", c->dtype, TR_SHAPE2(VOCABULARY, WIDTH));
    tr_value logits = tr_linear(g, y, head, TR_NO_VALUE, TR_WEIGHT_OUT_IN);
    tr_value loss = tr_cross_entropy(g, logits, tr_graph_input(g, "targets", TR_I32, TR_SHAPE2(BATCH, TIME)));
    tr_graph_mark_output(g, loss);
    if (!c->forward_only) {
        tr_value factor = tr_graph_input(g, "factor", TR_F32, TR_SHAPE1(1)), gone;
        CHECK_OK(tr_autodiff(g, &loss, &factor, 1, &none, &gone, 0, &err));
    }
    return g;
}

static int count(const tr_graph *g, const char *op)
{
    int n = 0;
    for (int32_t i = 0; i < tr_graph_node_count(g); i++) n += strcmp(tr_graph_node(g, i)->op->name, op) == 0;
    return n;
}

/* The values of the graph, with their meaning, under the indices that they had. */
static void check_values(const tr_graph *before, const tr_graph *after)
{
    CU_ASSERT(tr_graph_value_count(after) >= tr_graph_value_count(before));
    for (tr_value v = 0; v < tr_graph_value_count(before); v++) {
        const tr_value_info *a = tr_graph_value(before, v), *b = tr_graph_value(after, v);
        CU_ASSERT(a->kind == b->kind && a->dtype == b->dtype && tr_shape_equal(&a->shape, &b->shape));
        CU_ASSERT(strcmp(a->name, b->name) == 0 && a->is_output == b->is_output && a->unit == b->unit);
        CU_ASSERT(a->parameter == b->parameter && a->use == b->use);
    }
}

/* Everything that is read was written before, and every bound value that was written still is. */
static void check_order(const tr_graph *before, const tr_graph *after)
{
    bool written[1000] = {false};
    CU_ASSERT_FATAL(tr_graph_value_count(after) < 1000);
    for (int phase = 0; phase < TR_PHASE_COUNT; phase++)
        for (int32_t n = 0; n < tr_graph_node_count(after); n++) {
            const tr_node *node = tr_graph_node(after, n);
            if ((int)node->phase != phase) continue;
            for (int i = 0; i < node->n_inputs; i++)
                CU_ASSERT(node->inputs[i] == TR_NO_VALUE ||
                          tr_graph_value(after, node->inputs[i])->kind != TR_VALUE_INTERMEDIATE ||
                          written[node->inputs[i]]);
            for (int i = 0; i < node->n_outputs; i++)
                if (node->outputs[i] != TR_NO_VALUE) written[node->outputs[i]] = true;
        }
    for (tr_value v = 0; v < tr_graph_value_count(before); v++) {
        const tr_value_info *value = tr_graph_value(before, v);
        CU_ASSERT(!(value->is_output || value->kind == TR_VALUE_GRADIENT) || written[v]);
    }
}

static tr_graph *fused(const block_case *c)
{
    tr_error err = {0};
    tr_graph *before = build(c), *after = NULL;
    CHECK_OK(tr_graph_check(before, &err));
    CHECK_OK(tr_graph_fuse(&after, before, &err));
    check_values(before, after);
    check_order(before, after);
    tr_graph_destroy(&before);
    return after;
}

static const block_case usual = {.dtype = TR_BF16, .activation = TR_GELU_TANH, .hidden = 512};

static void a_block_is_joined_wherever_it_can_be(void)
{
    tr_graph *g = fused(&usual);
    CU_ASSERT_EQUAL(count(g, "add_layernorm"), 1);
    CU_ASSERT_EQUAL(count(g, "layernorm"), 1); /* of the input, to which nothing is added */
    CU_ASSERT_EQUAL(count(g, "add"), 1);       /* behind which no norm stands */
    CU_ASSERT_EQUAL(count(g, "linear_add"), 0);
    CU_ASSERT_EQUAL(count(g, "linear_activate"), 1);
    CU_ASSERT_EQUAL(count(g, "linear_dx_activate"), 1);
    CU_ASSERT_EQUAL(count(g, "attention_packed"), 1);
    CU_ASSERT_EQUAL(count(g, "attention_packed_backward_sums"), 1);
    CU_ASSERT_EQUAL(count(g, "layernorm_backward_bias_sums"), 1); /* nobody asks for the gradient of x */
    CU_ASSERT_EQUAL(count(g, "linear_db_sums"), 2); /* of what these two made: qkv's and proj's */
    CU_ASSERT_EQUAL(count(g, "linear_db"), 2);
    CU_ASSERT_EQUAL(count(g, "layernorm_weight_sums"), 1);
    CU_ASSERT_EQUAL(count(g, "cross_entropy_slopes"), 1);
    CU_ASSERT_EQUAL(count(g, "linear_dx_scaled"), 1);
    CU_ASSERT_EQUAL(count(g, "linear_dw_scaled"), 1);
    static const char *const left[] = {"activate", "activate_backward", "split",
                                       "join",     "cross_entropy",     "cross_entropy_backward"};
    for (size_t i = 0; i < sizeof left / sizeof *left; i++) CU_ASSERT_EQUAL(count(g, left[i]), 0);
    tr_graph_destroy(&g);
}

static void what_somebody_else_reads_stays(void)
{
    block_case c = usual;
    c.watch_scores = c.watch_residual = true;
    tr_graph *g = fused(&c);
    CU_ASSERT_EQUAL(count(g, "attention_packed") + count(g, "attention_packed_backward_sums"), 0);
    CU_ASSERT_EQUAL(count(g, "split"), 1);
    CU_ASSERT_EQUAL(count(g, "join"), 1);
    CU_ASSERT_EQUAL(count(g, "add_layernorm"), 1); /* of the second residual */
    CU_ASSERT_EQUAL(count(g, "add"), 3);           /* two residuals, and the gradient of what is read twice */
    tr_graph_destroy(&g);
}

static void other_activations_and_widths_stay(void)
{
    block_case cases[] = {usual, usual, usual};
    cases[0].activation = TR_SILU;
    cases[1].hidden = 511;
    cases[2].dtype = TR_F32;
    for (int i = 0; i < 3; i++) {
        tr_graph *g = fused(&cases[i]);
        CU_ASSERT_EQUAL(count(g, "activate"), 1);
        CU_ASSERT_EQUAL(count(g, "activate_backward"), 1);
        CU_ASSERT_EQUAL(count(g, "linear_add"), i == 2 ? 2 : 0);
        CU_ASSERT_EQUAL(count(g, "add_layernorm"), i == 2 ? 0 : 1);
        tr_graph_destroy(&g);
    }
}

static void an_rmsnorm_is_joined_as_a_layernorm_is(void)
{
    block_case c = usual;
    c.rms = true;
    tr_graph *g = fused(&c);
    CU_ASSERT_EQUAL(count(g, "add_rmsnorm"), 1);
    CU_ASSERT_EQUAL(count(g, "rmsnorm_backward_sums"), 1);
    CU_ASSERT_EQUAL(count(g, "rmsnorm_weight_sums"), 1);
    CU_ASSERT_EQUAL(count(g, "rmsnorm_backward"), 0);
    CU_ASSERT_EQUAL(count(g, "rmsnorm_weight"), 1); /* of the first, whose input wants no gradient */
    tr_graph_destroy(&g);
    c.dtype = TR_F32;
    g = fused(&c);
    CU_ASSERT_EQUAL(count(g, "rmsnorm_backward"), 1);
    CU_ASSERT_EQUAL(count(g, "rmsnorm_weight"), 2);
    tr_graph_destroy(&g);
}

/* Without a backward nothing is kept for it, and the loss is only a loss. */
static void a_forward_alone_is_joined(void)
{
    block_case c = usual;
    c.forward_only = true;
    tr_graph *g = fused(&c);
    CU_ASSERT_EQUAL(count(g, "linear_activate"), 1);
    CU_ASSERT_EQUAL(count(g, "attention_packed"), 1);
    CU_ASSERT_EQUAL(count(g, "cross_entropy"), 1);
    for (int32_t n = 0; n < tr_graph_node_count(g); n++) {
        const tr_node *node = tr_graph_node(g, n);
        if (strcmp(node->op->name, "linear_activate") == 0) CU_ASSERT_EQUAL(node->outputs[1], TR_NO_VALUE);
    }
    tr_graph_destroy(&g);
}

static const check_test tests[] = {
    CHECK_TEST(a_block_is_joined_wherever_it_can_be),
    CHECK_TEST(what_somebody_else_reads_stays),
    CHECK_TEST(other_activations_and_widths_stay),
    CHECK_TEST(an_rmsnorm_is_joined_as_a_layernorm_is),
    CHECK_TEST(a_forward_alone_is_joined),
};
CHECK_MAIN("fuse", tests)
