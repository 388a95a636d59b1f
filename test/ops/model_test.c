/* test/ops/model_test.c - whole small models of both families, built from every builder: all gradients
 * against differences, and a model cut in two against the whole.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/operations.h"
#include "test/ops/op_check.h"

enum { B = 2, T = 5, C = 12, HEADS = 2, KV_HEADS = 1, D = 6, N = 20, V = 11, N_LAYERS = 2, MAX_T = 8 };

static tr_value weight(tr_graph *g, int layer, const char *name, tr_shape shape)
{
    char text[64];
    snprintf(text, sizeof text, "%d.%s", layer, name);
    return tr_graph_parameter(g, text, TR_F32, shape);
}

static tr_value llama_layer(tr_graph *g, tr_value x, int layer)
{
    tr_rope_options rope = {.head_size = D, .theta = 100};
    tr_attention_options options = {.heads = HEADS, .kv_heads = KV_HEADS, .head_size = D, .scale = 0.4f};
    tr_graph_begin_unit(g);
    tr_value h = tr_rmsnorm(g, x, weight(g, layer, "norm1", TR_SHAPE1(C)), 0.05f);
    tr_value q =
        tr_linear(g, h, weight(g, layer, "q", TR_SHAPE2(HEADS * D, C)), TR_NO_VALUE, TR_WEIGHT_OUT_IN);
    tr_value k =
        tr_linear(g, h, weight(g, layer, "k", TR_SHAPE2(KV_HEADS * D, C)), TR_NO_VALUE, TR_WEIGHT_OUT_IN);
    tr_value v =
        tr_linear(g, h, weight(g, layer, "v", TR_SHAPE2(KV_HEADS * D, C)), TR_NO_VALUE, TR_WEIGHT_OUT_IN);
    q = tr_rope(g, q, TR_NO_VALUE, &rope);
    k = tr_rope(g, k, TR_NO_VALUE, &rope);
    tr_value a = tr_attention(g, q, k, v, &options);
    tr_value o = weight(g, layer, "o", TR_SHAPE2(C, HEADS * D));
    x = tr_add(g, x, tr_linear(g, a, o, TR_NO_VALUE, TR_WEIGHT_OUT_IN));
    h = tr_rmsnorm(g, x, weight(g, layer, "norm2", TR_SHAPE1(C)), 0.05f);
    tr_value gate = tr_linear(g, h, weight(g, layer, "gate", TR_SHAPE2(N, C)), TR_NO_VALUE, TR_WEIGHT_OUT_IN);
    tr_value up = tr_linear(g, h, weight(g, layer, "up", TR_SHAPE2(N, C)), TR_NO_VALUE, TR_WEIGHT_OUT_IN);
    tr_value down = weight(g, layer, "down", TR_SHAPE2(C, N));
    return tr_add(g, x, tr_linear(g, tr_gated(g, gate, up, TR_SILU), down, TR_NO_VALUE, TR_WEIGHT_OUT_IN));
}

static tr_value llama_head(tr_graph *g, tr_value x)
{
    tr_graph_begin_unit(g);
    tr_value targets = tr_graph_input(g, "targets", TR_I32, TR_SHAPE2(B, T));
    tr_value table = tr_graph_parameter(g, "table", TR_F32, TR_SHAPE2(V, C));
    x = tr_rmsnorm(g, x, tr_graph_parameter(g, "norm", TR_F32, TR_SHAPE1(C)), 0.05f);
    return tr_cross_entropy(g, tr_linear(g, x, table, TR_NO_VALUE, TR_WEIGHT_OUT_IN), targets);
}

static tr_value embed(tr_graph *g)
{
    tr_value ids = tr_graph_input(g, "ids", TR_I32, TR_SHAPE2(B, T));
    return tr_embedding(g, ids, tr_graph_parameter(g, "table", TR_F32, TR_SHAPE2(V, C)));
}

static int build_llama(tr_graph *g, const void *context, tr_value outputs[CHECK_MAX_OUTPUTS])
{
    (void)context;
    tr_value x = embed(g);
    for (int layer = 0; layer < N_LAYERS; layer++) x = llama_layer(g, x, layer);
    outputs[0] = llama_head(g, x);
    return 1;
}

static tr_value gpt2_norm(tr_graph *g, tr_value x, int layer, const char *w, const char *b)
{
    return tr_layernorm(g, x, weight(g, layer, w, TR_SHAPE1(C)), weight(g, layer, b, TR_SHAPE1(C)), 0.05f);
}

static tr_value gpt2_linear(tr_graph *g, tr_value x, int layer, const char *w, const char *b, int64_t in,
                            int64_t out)
{
    return tr_linear(g, x, weight(g, layer, w, TR_SHAPE2(in, out)), weight(g, layer, b, TR_SHAPE1(out)),
                     TR_WEIGHT_IN_OUT);
}

static int build_gpt2(tr_graph *g, const void *context, tr_value outputs[CHECK_MAX_OUTPUTS])
{
    tr_activation kind = *(const tr_activation *)context;
    tr_attention_options options = {.heads = HEADS, .kv_heads = HEADS, .head_size = D, .scale = 0.4f};
    tr_value x = embed(g), parts[3];
    x = tr_position_embedding(g, x, tr_graph_parameter(g, "positions", TR_F32, TR_SHAPE2(MAX_T, C)),
                              TR_NO_VALUE);
    for (int layer = 0; layer < N_LAYERS; layer++) {
        tr_value h = gpt2_norm(g, x, layer, "ln1.w", "ln1.b");
        h = gpt2_linear(g, h, layer, "qkv.w", "qkv.b", C, 3 * C);
        tr_split(g, h, (const int64_t[]){C, C, C}, 3, parts);
        h = tr_attention(g, parts[0], parts[1], parts[2], &options);
        x = tr_add(g, x, gpt2_linear(g, h, layer, "o.w", "o.b", C, C));
        h = gpt2_norm(g, x, layer, "ln2.w", "ln2.b");
        h = tr_activate(g, gpt2_linear(g, h, layer, "up.w", "up.b", C, N), kind);
        x = tr_add(g, x, gpt2_linear(g, h, layer, "down.w", "down.b", N, C));
    }
    tr_value targets = tr_graph_input(g, "targets", TR_I32, TR_SHAPE2(B, T));
    x = gpt2_norm(g, x, N_LAYERS, "ln.w", "ln.b");
    tr_value table = tr_graph_parameter(g, "table", TR_F32, TR_SHAPE2(V, C));
    outputs[0] = tr_cross_entropy(g, tr_linear(g, x, table, TR_NO_VALUE, TR_WEIGHT_OUT_IN), targets);
    return 1;
}

/* Two layers deep fifth derivatives are larger than those of one operation (op_check.h argues the others), so
 * ten times its tolerance;
 * gradients are of the order of 1 here, and a missing term is off by a tenth of that. */
static void the_llama_family_has_the_gradients_of_differences(void)
{
    check_graph(&(graph_case){.name = "llama",
                              .build = build_llama,
                              .id_limit = V,
                              .negative_ids = true,
                              .scale = 0.4,
                              .absolute = 2e-3,
                              .relative = 5e-3});
}

static void the_gpt2_family_has_the_gradients_of_differences(void)
{
    static const tr_activation kinds[] = {TR_GELU_TANH, TR_GELU_ERF};
    for (int i = 0; i < 2; i++)
        check_graph(&(graph_case){.name = "gpt2",
                                  .build = build_gpt2,
                                  .context = &kinds[i],
                                  .id_limit = V,
                                  .negative_ids = true,
                                  .scale = 0.4,
                                  .absolute = 2e-3,
                                  .relative = 5e-3});
}

/* ---- cut in two ---- */

typedef struct piece {
    tr_graph *graph;
    tr_program *program;
    tr_value x, y, dy, dx; /* what comes in and goes out, and their gradients */
    void **pointers;
    guarded *buffers;
    guarded stash, scratch;
    tr_thread_pool *pool;
} piece;

/* Parameters and ids are the same numbers in every piece: a function of the name. Gradients begin at 0. */
static void fill_by_name(const tr_value_info *value, guarded *buffer)
{
    memset(buffer->data, 0, buffer->bytes);
    if (value->dtype == TR_I32) {
        for (size_t i = 0; i < buffer->bytes / 4; i++) ((int32_t *)buffer->data)[i] = (int32_t)(i * 7 % V);
    } else if (value->kind == TR_VALUE_PARAMETER) {
        guarded normal = guard_normal((int64_t)(buffer->bytes / 4), tr_hash64_text(value->name));
        for (size_t i = 0; i < buffer->bytes / 4; i++) floats_of(buffer)[i] = floats_of(&normal)[i] * 0.4f;
        guard_free(&normal);
    }
}

/* Layers first .. end-1, with the embedding in front of layer 0 and the loss behind the last; `use` is that
 * of its first node. */
static piece piece_new(int first, int end, int32_t use, int n_threads)
{
    tr_error err = {0};
    piece p = {.x = TR_NO_VALUE, .dx = TR_NO_VALUE};
    CHECK_OK(tr_graph_new(&p.graph, &err));
    p.x = first == 0 ? embed(p.graph) : tr_graph_input(p.graph, "x", TR_F32, TR_SHAPE3(B, T, C));
    p.y = p.x;
    for (int layer = first; layer < end; layer++) p.y = llama_layer(p.graph, p.y, layer);
    if (end == N_LAYERS) p.y = llama_head(p.graph, p.y);
    tr_graph_mark_output(p.graph, p.y);
    for (int32_t n = 0; n < tr_graph_node_count(p.graph); n++) tr_graph_set_use(p.graph, n, use + n);
    p.dy = tr_graph_input(p.graph, "dy", TR_F32, end == N_LAYERS ? TR_SHAPE1(1) : TR_SHAPE3(B, T, C));
    CHECK_OK(tr_autodiff(p.graph, &p.y, &p.dy, 1, &p.x, &p.dx, first > 0 ? 1 : 0, &err));
    tr_program_options options = {.device = TR_DEVICE_CPU, .n_threads = n_threads, .poison = true};
    CHECK_OK(tr_program_new(&p.program, p.graph, &options, &err));
    CHECK_OK(tr_thread_pool_new(&p.pool, n_threads, &err));
    int32_t n_values = tr_graph_value_count(p.graph);
    p.pointers = calloc((size_t)n_values, sizeof *p.pointers);
    p.buffers = calloc((size_t)n_values, sizeof *p.buffers);
    for (tr_value v = 0; v < n_values; v++) {
        const tr_value_info *value = tr_graph_value(p.graph, v);
        if (!is_bound(value)) continue;
        p.buffers[v] = guard_new(tr_dtype_bytes(value->dtype) * (size_t)tr_shape_elements(&value->shape));
        p.pointers[v] = p.buffers[v].data;
        fill_by_name(value, &p.buffers[v]);
    }
    p.stash = guard_new(tr_program_stash_bytes(p.program));
    p.scratch = guard_new(tr_program_scratch_bytes(p.program));
    return p;
}

static void piece_run(piece *p, tr_phase phase)
{
    tr_bindings bindings = {.values = (void *const *)p->pointers,
                            .stash = p->stash.data,
                            .scratch = p->scratch.data,
                            .pool = p->pool};
    tr_program_run(p->program, phase, &bindings);
}

static void piece_release(piece *p)
{
    for (tr_value v = 0; v < tr_graph_value_count(p->graph); v++) guard_free(&p->buffers[v]);
    guard_free(&p->stash);
    guard_free(&p->scratch);
    free(p->buffers);
    free(p->pointers);
    tr_thread_pool_destroy(&p->pool);
    tr_program_destroy(&p->program);
    tr_graph_destroy(&p->graph);
}

/* Every gradient of the piece is, bit by bit, the whole model's of the same parameter and use. Returns how
 * many there are. */
static int compare_gradients(const piece *p, const piece *whole)
{
    int n = 0;
    for (tr_value v = 0; v < tr_graph_value_count(p->graph); v++) {
        const tr_value_info *value = tr_graph_value(p->graph, v);
        if (value->kind != TR_VALUE_GRADIENT) continue;
        n++;
        tr_value parameter = tr_graph_find(whole->graph, tr_graph_value(p->graph, value->parameter)->name);
        tr_value same = tr_graph_gradient(whole->graph, parameter, value->use);
        CU_ASSERT_PTR_NOT_NULL_FATAL(whole->pointers[same]);
        CU_ASSERT(memcmp(p->pointers[v], whole->pointers[same], p->buffers[v].bytes) == 0);
    }
    return n;
}

static void a_model_cut_in_two_gives_the_same_bits(void)
{
    piece whole = piece_new(0, N_LAYERS, 0, 1);
    piece front = piece_new(0, 1, 0, 2);
    int32_t n_front = 0;
    while (n_front < tr_graph_node_count(front.graph) &&
           tr_graph_node(front.graph, n_front)->phase == TR_PHASE_FORWARD)
        n_front++;
    piece back = piece_new(1, N_LAYERS, n_front, 3);
    *(float *)whole.pointers[whole.dy] = *(float *)back.pointers[back.dy] = 0.25f;
    for (int phase = 0; phase < TR_PHASE_COUNT; phase++) piece_run(&whole, (tr_phase)phase);

    piece_run(&front, TR_PHASE_FORWARD);
    memcpy(back.pointers[back.x], front.pointers[front.y], back.buffers[back.x].bytes);
    piece_run(&back, TR_PHASE_FORWARD);
    piece_run(&back, TR_PHASE_BACKWARD);
    memcpy(front.pointers[front.dy], back.pointers[back.dx], front.buffers[front.dy].bytes);
    piece_run(&front, TR_PHASE_BACKWARD);
    piece_run(&front, TR_PHASE_WEIGHT);
    piece_run(&back, TR_PHASE_WEIGHT);

    CU_ASSERT(memcmp(back.pointers[back.y], whole.pointers[whole.y], sizeof(double)) == 0);
    CU_ASSERT(*(double *)whole.pointers[whole.y] > 1);
    CU_ASSERT_EQUAL(compare_gradients(&front, &whole) + compare_gradients(&back, &whole),
                    1 + 9 * N_LAYERS + 2);
    piece_release(&back);
    piece_release(&front);
    piece_release(&whole);
}

static const check_test tests[] = {
    CHECK_TEST(the_llama_family_has_the_gradients_of_differences),
    CHECK_TEST(the_gpt2_family_has_the_gradients_of_differences),
    CHECK_TEST(a_model_cut_in_two_gives_the_same_bits),
};
CHECK_MAIN("model", tests)
