/* test/pipelines/recompute_test.c - what is computed again in the backward changes no bit of a loss or a gradient, and is
 * not kept for it.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/recompute.h"

#include "check.h"
#include "model_runs.h"
#include "ops/fuse.h"
#include "ops/memory_plan.h"

enum { BATCH = 2, SEQUENCE = 24, N_CONFIGS = N_VARIANTS + 1, N_TOKENS = BATCH * SEQUENCE };

/* Everything that is dropped is dropped again. */
static const char dropping[] =
    "{\"model_type\": \"gpt2\", \"n_layer\": 3, \"n_embd\": 24, \"n_head\": 3, \"vocab_size\": 320,"
    " \"n_positions\": 64, \"resid_pdrop\": 0.2, \"embd_pdrop\": 0.2, \"attn_pdrop\": 0.2,"
    " \"initializer_range\": 0.2}";

static const char *config(int i)
{
    return i < N_VARIANTS ? variants[i] : dropping;
}

static void open_run(model_run *r, int which, int n_pieces, tr_dtype dtype, tr_recompute recompute)
{
    tr_loaded_model model;
    fresh_model(&model, config(which));
    run_open_model_twice(r, &model, BATCH, SEQUENCE, n_pieces, dtype, recompute);
    r->random = (tr_random){.training = true, .seed = 5, .step = 3};
}

/* Two micro-batches, so that gradients are added to. */
static double step(model_run *r)
{
    int32_t *tokens = tr__alloc_tensor(N_TOKENS, sizeof *tokens),
            *targets = tr__alloc_tensor(N_TOKENS, sizeof *targets);
    double loss = 0;
    for (uint32_t m = 0; m < 2; m++) {
        for (int i = 0; i < N_TOKENS; i++) {
            tokens[i] = (int32_t)(i * 37 + (int)m * 11) % 320;
            targets[i] = (int32_t)(i * 53 + (int)m * 7) % 320;
        }
        r->random.microbatch = m;
        loss += run_microbatch(r, tokens, targets, 1.0f / N_TOKENS);
    }
    tr_free(targets);
    tr_free(tokens);
    return loss;
}

static void expect_equal_bits(int which, int n_pieces, tr_dtype dtype, tr_recompute recompute)
{
    model_run plain, again;
    open_run(&plain, which, 1, dtype, TR_RECOMPUTE_NONE);
    open_run(&again, which, n_pieces, dtype, recompute);
    double wanted = step(&plain), got = step(&again);
    CU_ASSERT(wanted > 0 && memcmp(&wanted, &got, sizeof got) == 0);
    for (size_t i = 0; i < plain.model.parameters.count; i++) {
        size_t bytes = (size_t)tr_shape_elements(&plain.model.parameters.items[i].shape) * sizeof(float);
        float *left = run_gradient(&plain, (int32_t)i), *right = run_gradient(&again, (int32_t)i);
        CU_ASSERT(memcmp(left, right, bytes) == 0);
        tr_free(left);
        tr_free(right);
    }
    run_close(&again);
    run_close(&plain);
}

static void no_bit_of_a_loss_or_a_gradient_changes(void)
{
    for (int which = 0; which < N_CONFIGS; which++)
        for (int n_pieces = 1; n_pieces <= 3; n_pieces += 2) {
            expect_equal_bits(which, n_pieces, TR_F32, TR_RECOMPUTE_SELECTIVE);
            expect_equal_bits(which, n_pieces, TR_F32, TR_RECOMPUTE_FULL);
        }
    expect_equal_bits(0, 2, TR_BF16, TR_RECOMPUTE_FULL);
    expect_equal_bits(N_VARIANTS, 2, TR_BF16, TR_RECOMPUTE_SELECTIVE);
}

static size_t stash_of(int which, int n_pieces, int piece, tr_recompute recompute)
{
    model_run r;
    open_run(&r, which, n_pieces, TR_F32, recompute);
    size_t bytes = tr_program_stash_bytes(r.programs[piece]);
    CU_ASSERT_EQUAL(tr_program_has_phase(r.programs[piece], TR_PHASE_WEIGHT), recompute == TR_RECOMPUTE_NONE);
    run_close(&r);
    return bytes;
}

/* Without the loss's unit what stays is the input of each layer: the activation that comes in and the one that goes out
 * are the caller's. */
static void full_keeps_the_inputs_of_layers_and_nothing_else(void)
{
    for (int which = 0; which < N_CONFIGS; which++) {
        size_t none = stash_of(which, 2, 0, TR_RECOMPUTE_NONE),
               selective = stash_of(which, 2, 0, TR_RECOMPUTE_SELECTIVE),
               full = stash_of(which, 2, 0, TR_RECOMPUTE_FULL);
        model_run r;
        open_run(&r, which, 2, TR_F32, TR_RECOMPUTE_NONE);
        size_t width = (size_t)r.model.config.width;
        size_t units = (size_t)(r.partition.first_unit[1] - r.partition.first_unit[0]);
        run_close(&r);
        CU_ASSERT_EQUAL(full, (units - 1) * N_TOKENS * width * sizeof(float));
        CU_ASSERT(full < selective && selective < none);
    }
}

static void a_whole_model_keeps_less_too(void)
{
    for (int which = 0; which < N_CONFIGS; which++) {
        size_t none = stash_of(which, 1, 0, TR_RECOMPUTE_NONE),
               selective = stash_of(which, 1, 0, TR_RECOMPUTE_SELECTIVE),
               full = stash_of(which, 1, 0, TR_RECOMPUTE_FULL);
        CU_ASSERT(full < selective && selective < none);
    }
}

static int count_products_made_again(const model_run *r, int32_t unit)
{
    const tr_graph *g = r->pieces[0].graph;
    int n = 0;
    for (int32_t i = 0; i < tr_graph_node_count(g); i++) {
        const tr_node *node = tr_graph_node(g, i);
        n += node->unit == unit && node->phase == TR_PHASE_BACKWARD && strcmp(node->op->name, "linear") == 0;
    }
    return n;
}

static void the_logits_are_computed_once(void)
{
    for (int which = 0; which < N_CONFIGS; which++) {
        model_run r;
        open_run(&r, which, 1, TR_F32, TR_RECOMPUTE_FULL);
        int32_t n_units = tr_graph_unit_count(r.whole);
        CU_ASSERT(count_products_made_again(&r, n_units - 1) == 0);
        CU_ASSERT(count_products_made_again(&r, n_units - 2) > 0);
        run_close(&r);
    }
}

static int count_nodes(const tr_graph *g, const char *op)
{
    int n = 0;
    for (int32_t i = 0; i < tr_graph_node_count(g); i++) n += strcmp(tr_graph_node(g, i)->op->name, op) == 0;
    return n;
}

/* Every product with an activation writes what the activation is of, whoever reads it. */
static bool are_kept(const tr_graph *g)
{
    bool kept = true;
    for (int32_t i = 0; i < tr_graph_node_count(g); i++) {
        const tr_node *node = tr_graph_node(g, i);
        if (strcmp(node->op->name, "linear_activate") == 0) kept &= node->outputs[1] != TR_NO_VALUE;
    }
    return kept;
}

/* Of a layer both residuals are joined to products; made again, only the first of them is needed. */
static int count_added(tr_recompute what, int layers)
{
    return layers * (what == TR_RECOMPUTE_FULL ? 3 : 2);
}

/* A device joins nodes afterwards: those made again are joined as the first ones are, and all is written before it is read. */
static void what_a_device_makes_of_it_runs_in_order(void)
{
    for (int which = 0; which < N_CONFIGS; which++)
        for (tr_recompute what = TR_RECOMPUTE_SELECTIVE; what <= TR_RECOMPUTE_FULL; what++) {
            model_run r;
            tr_graph *fused;
            tr_memory_plan plan;
            open_run(&r, which, 1, TR_BF16, what);
            MUST(tr_graph_fuse(&fused, r.pieces[0].graph, err));
            size_t *workspaces = tr_alloc_zero((size_t)tr_graph_node_count(fused), sizeof *workspaces);
            MUST(tr_memory_plan_init(&plan, fused, workspaces, err));
            bool is_gpt2 = which > 0;
            int layers = r.model.config.layers;
            CU_ASSERT_EQUAL(count_nodes(fused, "attention_packed"),
                            is_gpt2 * layers * (what == TR_RECOMPUTE_FULL ? 2 : 1));
            CU_ASSERT_EQUAL(count_nodes(fused, "attention_packed_backward_sums"), is_gpt2 * layers);
            /* An activation that was joined to its product is made again with the product, or kept. */
            bool drops = which == N_VARIANTS, is_joined = drops; /* the other GPT-2's GELU has no tanh */
            CU_ASSERT_EQUAL(count_nodes(fused, "linear_activate"),
                            is_joined * layers * (what == TR_RECOMPUTE_FULL ? 2 : 1));
            CU_ASSERT_EQUAL(count_nodes(fused, "activate"), (is_gpt2 && !is_joined) * 2 * layers);
            CU_ASSERT_EQUAL(count_nodes(fused, "linear_dx_activate"), is_joined * layers);
            CU_ASSERT(are_kept(fused));
            CU_ASSERT_EQUAL(count_nodes(fused, "activate_backward"), (is_gpt2 && !is_joined) * layers);
            CU_ASSERT_EQUAL(count_nodes(fused, "linear_add"), drops ? 0 : count_added(what, layers));
            tr_memory_plan_release(&plan);
            tr_free(workspaces);
            tr_graph_destroy(&fused);
            run_close(&r);
        }
}

static void a_graph_with_an_error_is_refused(void)
{
    tr_graph *graph, *out = NULL;
    tr_error error = {0};
    MUST(tr_graph_new(&graph, err));
    tr_graph_set_error(graph, TR_EINVAL, "what it is");
    CU_ASSERT_EQUAL(tr_graph_recompute(&out, graph, TR_RECOMPUTE_FULL, &error), TR_EINVAL);
    CU_ASSERT_STRING_EQUAL(error.message, "what it is");
    CU_ASSERT_PTR_NULL(out);
    tr_graph_destroy(&graph);
}

int main(void)
{
    static const check_test tests[] = {
        CHECK_TEST(no_bit_of_a_loss_or_a_gradient_changes),
        CHECK_TEST(full_keeps_the_inputs_of_layers_and_nothing_else),
        CHECK_TEST(a_whole_model_keeps_less_too),
        CHECK_TEST(the_logits_are_computed_once),
        CHECK_TEST(what_a_device_makes_of_it_runs_in_order),
        CHECK_TEST(a_graph_with_an_error_is_refused),
    };
    return check_run("recompute", tests, sizeof tests / sizeof *tests);
}
