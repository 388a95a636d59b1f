/* test/ops/transformer_test.c - the operations of a transformer as nodes of graphs: their gradient rules,
 * what they alias, accumulate and keep, by differences of whole graphs; and generation with caches against
 * training's attention. Their kernels have tests of their own.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/operations.h"
#include "test/ops/op_check.h"

/* Two uses of one weight, of one input, and a pending gradient that linear adds to in its product. */
static int build_linear(tr_graph *g, const void *context, tr_value outputs[CHECK_MAX_OUTPUTS])
{
    tr_weight_layout layout = *(const tr_weight_layout *)context;
    tr_value x = tr_graph_input(g, "x", TR_F32, TR_SHAPE3(2, 3, 5));
    tr_value w = tr_graph_parameter(g, "w", TR_F32, TR_SHAPE2(5, 5));
    tr_value w2 =
        tr_graph_parameter(g, "w2", TR_F32, layout == TR_WEIGHT_IN_OUT ? TR_SHAPE2(5, 7) : TR_SHAPE2(7, 5));
    tr_value b = tr_graph_parameter(g, "b", TR_F32, TR_SHAPE1(5));
    tr_value h = tr_activate(g, tr_linear(g, x, w, b, layout), TR_SILU);
    tr_value again = tr_linear(g, h, w, TR_NO_VALUE, layout);
    outputs[0] = tr_add(g, tr_add(g, again, h), x);
    outputs[1] = tr_linear(g, h, w2, TR_NO_VALUE, layout);
    return 2;
}

static void linear_has_the_gradients_of_differences(void)
{
    for (int layout = 0; layout < 2; layout++)
        check_graph(&(graph_case){.name = layout ? "linear, in-out" : "linear, out-in",
                                  .build = build_linear,
                                  .context = &(tr_weight_layout){(tr_weight_layout)layout},
                                  .scale = 0.5});
}

typedef struct attention_case {
    tr_attention_options options;
    int64_t batch, time;
    bool rotate, with_position;
} attention_case;

/* k is also the values: a value with two places in one node. */
static int build_attention(tr_graph *g, const void *context, tr_value outputs[CHECK_MAX_OUTPUTS])
{
    const attention_case *c = context;
    int64_t size = c->options.head_size;
    tr_rope_options rope = {.head_size = c->options.head_size, .theta = 100};
    tr_value q = tr_graph_input(g, "q", TR_F32, TR_SHAPE3(c->batch, c->time, c->options.heads * size));
    tr_value k = tr_graph_input(g, "k", TR_F32, TR_SHAPE3(c->batch, c->time, c->options.kv_heads * size));
    tr_value position = c->with_position ? tr_graph_input(g, "position", TR_I32, TR_SHAPE1(1)) : TR_NO_VALUE;
    tr_value rotated = c->rotate ? tr_rope(g, k, position, &rope) : k;
    if (c->rotate) q = tr_rope(g, q, position, &rope);
    outputs[0] = tr_attention(g, q, rotated, k, &c->options);
    return 1;
}

static void attention_and_rope_have_the_gradients_of_differences(void)
{
    static const attention_case cases[] = {
        {{2, 2, 6, 0.4f, 0}, 2, 5, false, false},
        {{4, 2, 2, 0.7f, 0}, 1, 7, true, false},
        {{4, 1, 12, 0.3f, 0}, 2, 3, true, true},
        {{1, 1, 2, 0.5f, 0}, 1, 1, false, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_graph(&(graph_case){
            .name = "attention", .build = build_attention, .context = &cases[i], .id_limit = 9});
}

/* Tied: the table is the head's weight too. */
static int build_language_model(tr_graph *g, const void *context, tr_value outputs[CHECK_MAX_OUTPUTS])
{
    (void)context;
    tr_value ids = tr_graph_input(g, "ids", TR_I32, TR_SHAPE2(2, 5));
    tr_value targets = tr_graph_input(g, "targets", TR_I32, TR_SHAPE2(2, 5));
    tr_value table = tr_graph_parameter(g, "table", TR_F32, TR_SHAPE2(7, 6));
    tr_value hidden = tr_embedding(g, ids, table);
    hidden =
        tr_add(g, hidden, tr_attention(g, hidden, hidden, hidden, &(tr_attention_options){3, 3, 2, 0.7f, 0}));
    outputs[0] = tr_cross_entropy(g, tr_linear(g, hidden, table, TR_NO_VALUE, TR_WEIGHT_OUT_IN), targets);
    return 1;
}

static void a_small_model_has_the_gradients_of_differences(void)
{
    check_graph(&(graph_case){.name = "language model",
                              .build = build_language_model,
                              .id_limit = 7,
                              .negative_ids = true,
                              .scale = 0.5});
}

static void wrong_shapes_are_told(void)
{
    tr_error err;
    tr_graph *g = NULL;
    CHECK_OK(tr_graph_new(&g, &err));
    tr_value x = tr_graph_input(g, "x", TR_F32, TR_SHAPE3(2, 3, 5));
    tr_value w = tr_graph_parameter(g, "head.weight", TR_F32, TR_SHAPE2(7, 6));
    CU_ASSERT(tr_linear(g, x, w, TR_NO_VALUE, TR_WEIGHT_OUT_IN) == TR_NO_VALUE);
    CU_ASSERT(tr_graph_check(g, &err) == TR_EINVAL);
    CU_ASSERT(strstr(err.message, "head.weight") && strstr(err.message, "(7, 6)"));
    tr_graph_destroy(&g);
    const tr_attention_options three_of_two = {3, 2, 2, 1, 0};
    CHECK_OK(tr_graph_new(&g, &err));
    x = tr_graph_input(g, "x", TR_F32, TR_SHAPE3(2, 3, 6));
    CU_ASSERT(tr_attention(g, x, x, x, &three_of_two) == TR_NO_VALUE);
    CU_ASSERT(tr_graph_check(g, &err) == TR_EINVAL);
    tr_graph_destroy(&g);
}

enum { MAX_TIME = 20, HEADS = 4, KV_HEADS = 2, SIZE = 6 };

/* Runs `time` new rows at `position` through a graph with caches. */
static void attend_cached(const float *q, const float *k, const float *v, float *y, float *cache_k,
                          float *cache_v, int32_t position, int64_t time)
{
    tr_error err;
    tr_graph *g = NULL;
    tr_program *program = NULL;
    CHECK_OK(tr_graph_new(&g, &err));
    tr_value in[6];
    in[0] = tr_graph_input(g, "q", TR_F32, TR_SHAPE3(1, time, HEADS * SIZE));
    in[1] = tr_graph_input(g, "k", TR_F32, TR_SHAPE3(1, time, KV_HEADS * SIZE));
    in[2] = tr_graph_input(g, "v", TR_F32, TR_SHAPE3(1, time, KV_HEADS * SIZE));
    in[3] = tr_graph_state(g, "cache_k", TR_F32, TR_SHAPE2(MAX_TIME, KV_HEADS * SIZE));
    in[4] = tr_graph_state(g, "cache_v", TR_F32, TR_SHAPE2(MAX_TIME, KV_HEADS * SIZE));
    in[5] = tr_graph_input(g, "position", TR_I32, TR_SHAPE1(1));
    tr_value out = tr_attention_cached(g, in[0], in[1], in[2], in[3], in[4], in[5],
                                       &(tr_attention_options){HEADS, KV_HEADS, SIZE, 0.4f, 0});
    tr_graph_mark_output(g, out);
    CHECK_OK(tr_program_new(&program, g, &(tr_program_options){.n_threads = 1}, &err));
    void *values[16] = {0};
    const void *bound[] = {q, k, v, cache_k, cache_v, &position};
    for (int i = 0; i < 6; i++) memcpy(&values[in[i]], &bound[i], sizeof bound[i]);
    values[out] = y;
    guarded scratch = guard_new(tr_program_scratch_bytes(program));
    tr_program_run(program, TR_PHASE_FORWARD, &(tr_bindings){.values = values, .scratch = scratch.data});
    guard_free(&scratch);
    tr_program_destroy(&program);
    tr_graph_destroy(&g);
}

/* A prompt of nine rows, then one by one: as if all had come at once. */
static void generation_agrees_with_attention_at_once(void)
{
    guarded q = guard_normal(MAX_TIME * HEADS * SIZE, 1), y = guard_new(q.bytes), all = guard_new(q.bytes);
    guarded k = guard_normal(MAX_TIME * KV_HEADS * SIZE, 2), v = guard_normal(MAX_TIME * KV_HEADS * SIZE, 3);
    guarded cache_k = guard_new(k.bytes), cache_v = guard_new(v.bytes);
    guarded other_k = guard_new(k.bytes), other_v = guard_new(v.bytes);
    attend_cached(floats_of(&q), floats_of(&k), floats_of(&v), floats_of(&all), floats_of(&other_k),
                  floats_of(&other_v), 0, MAX_TIME);
    for (int32_t t = 0; t < MAX_TIME; t += t == 0 ? 9 : 1) {
        int64_t q_at = t * HEADS * SIZE, kv_at = t * KV_HEADS * SIZE;
        attend_cached(floats_of(&q) + q_at, floats_of(&k) + kv_at, floats_of(&v) + kv_at,
                      floats_of(&y) + q_at, floats_of(&cache_k), floats_of(&cache_v), t, t == 0 ? 9 : 1);
    }
    CU_ASSERT(all_near("y", floats_of(&y), floats_of(&all), MAX_TIME * HEADS * SIZE, 1e-6, 1e-5));
    CU_ASSERT(memcmp(cache_k.data, k.data, k.bytes) == 0 && memcmp(cache_v.data, v.data, v.bytes) == 0);
    guarded *memory[] = {&q, &y, &all, &k, &v, &cache_k, &cache_v, &other_k, &other_v};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++) guard_free(memory[i]);
}

static const check_test tests[] = {
    CHECK_TEST(linear_has_the_gradients_of_differences),
    CHECK_TEST(attention_and_rope_have_the_gradients_of_differences),
    CHECK_TEST(a_small_model_has_the_gradients_of_differences),
    CHECK_TEST(wrong_shapes_are_told),
    CHECK_TEST(generation_agrees_with_attention_at_once),
};
CHECK_MAIN("transformer", tests)
