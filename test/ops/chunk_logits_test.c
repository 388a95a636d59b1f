/* test/ops/chunk_logits_test.c - the loss by chunks of rows: gradients by differences and against the whole, what becomes of
 * graphs, and how many rows a chunk has. On a GPU in bfloat16 as well: test/ops/cuda_test.c.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/chunk_logits.h"

#include "ops/op.h"
#include "ops/operations.h"
#include "test/ops/op_check.h"

enum { BATCH = 2 };

typedef struct head_case {
    int64_t time, in, vocabulary;
    tr_weight_layout layout;
    bool has_bias, watches_logits, reads_hidden_twice;
} head_case;

static int build(tr_graph *g, const void *context, tr_value outputs[CHECK_MAX_OUTPUTS])
{
    const head_case *c = context;
    bool in_out = c->layout == TR_WEIGHT_IN_OUT;
    tr_value x = tr_graph_input(g, "x", TR_F32, TR_SHAPE3(BATCH, c->time, c->in));
    tr_value w = tr_graph_parameter(
        g, "w", TR_F32, in_out ? TR_SHAPE2(c->in, c->vocabulary) : TR_SHAPE2(c->vocabulary, c->in));
    tr_value b = c->has_bias ? tr_graph_parameter(g, "b", TR_F32, TR_SHAPE1(c->vocabulary)) : TR_NO_VALUE;
    tr_value hidden = tr_activate(g, x, TR_SILU);
    tr_value logits = tr_linear(g, hidden, w, b, c->layout);
    outputs[0] = tr_cross_entropy(g, logits, tr_graph_input(g, "targets", TR_I32, TR_SHAPE2(BATCH, c->time)));
    if (c->watches_logits) outputs[1] = logits;
    if (c->reads_hidden_twice) outputs[1] = tr_activate(g, hidden, TR_SILU);
    return 1 + (c->watches_logits || c->reads_hidden_twice);
}

static const head_case heads[] = {
    {.time = 7, .in = 5, .vocabulary = 11, .layout = TR_WEIGHT_OUT_IN},
    {.time = 7, .in = 5, .vocabulary = 11, .layout = TR_WEIGHT_IN_OUT},
    {.time = 8, .in = 16, .vocabulary = 40, .layout = TR_WEIGHT_OUT_IN},
};
enum { N_HEADS = sizeof heads / sizeof *heads };

static graph_case case_of(const head_case *head, int64_t chunk)
{
    return (graph_case){.name = "chunked loss",
                        .build = build,
                        .context = head,
                        .id_limit = (int32_t)head->vocabulary,
                        .negative_ids = true,
                        .logits_chunk = chunk};
}

/* 14 and 16 rows: chunks that are equal, that end with a shorter one, and of one row. On a GPU chunks begin on 16 bytes. */
static void gradients_are_those_of_differences(void)
{
    bool on_gpu = guard_target()->kind != TR_DEVICE_CPU;
    static const int64_t chunks[] = {4, 8, 1, 5, 7};
    for (int h = 0; h < N_HEADS; h++)
        for (size_t i = 0; i < (on_gpu ? 2 : sizeof chunks / sizeof *chunks); i++) {
            graph_case of = case_of(&heads[h], chunks[i]);
            check_graph(&of);
        }
}

static int count(const tr_graph *g, const char *op)
{
    int n = 0;
    for (int32_t i = 0; i < tr_graph_node_count(g); i++) n += strcmp(tr_graph_node(g, i)->op->name, op) == 0;
    return n;
}

static double loss_of(const graph_check *self)
{
    return *(const double *)self->pointers[self->outputs[0]];
}

static void expect_equal_results(graph_check *whole, graph_check *chunks)
{
    check_run_whole(whole, 1);
    check_run_whole(chunks, 1);
    CU_ASSERT(isfinite(loss_of(whole)));
    CU_ASSERT_DOUBLE_EQUAL(loss_of(chunks), loss_of(whole), 1e-4);
    for (tr_value v = 0; v < whole->n_values; v++) {
        const tr_value_info *value = tr_graph_value(whole->graph, v);
        int64_t n = tr_shape_elements(&value->shape);
        if (!whole->pointers[v] || value->dtype != TR_F32) continue;
        CU_ASSERT(all_near(value->name, floats_of(&chunks->buffers[v]), floats_of(&whole->buffers[v]), n,
                           1e-5, 1e-5));
    }
}

/* But for roundings: products of other sizes have other tiles, and sums over rows are cut. */
static void chunks_agree_with_the_whole(void)
{
    for (int h = 0; h < N_HEADS; h++) {
        graph_case of_whole = case_of(&heads[h], 0), of_chunks = case_of(&heads[h], 4);
        graph_check whole, chunks;
        bool there = check_begin(&whole, &of_whole);
        there = check_begin(&chunks, &of_chunks) && there;
        if (there) expect_equal_results(&whole, &chunks);
        check_end(&whole);
        check_end(&chunks);
    }
}

/* Of a run that trains the forward leaves the loss alone, and the backward makes the one that the forward makes of others. */
static void a_run_that_trains_has_its_loss_behind_the_backward(void)
{
    graph_case of = case_of(&heads[0], 4);
    graph_check self;
    if (!check_begin(&self, &of)) return;
    check_run_phases(&self, TR_PHASE_FORWARD, NULL);
    double evaluated = loss_of(&self);
    CU_ASSERT(isfinite(evaluated) && evaluated > 0);
    check_end(&self);
    of.random.training = true;
    if (!check_begin(&self, &of)) return;
    check_run_phases(&self, TR_PHASE_FORWARD, NULL);
    CU_ASSERT(isnan(loss_of(&self)));
    check_run_phases(&self, TR_PHASE_BACKWARD, NULL);
    CU_ASSERT_DOUBLE_EQUAL(loss_of(&self), evaluated, guard_target()->kind != TR_DEVICE_CPU ? 1e-5 : 0);
    check_end(&self);
}

/* The graph of a case before and after. */
static void make_graphs(const head_case *head, bool backward, int64_t chunk, tr_graph **before,
                        tr_graph **after)
{
    tr_error err = {0};
    tr_value outputs[CHECK_MAX_OUTPUTS] = {0}, slopes[CHECK_MAX_OUTPUTS], x, dx;
    CHECK_OK(tr_graph_new(before, &err));
    int n = build(*before, head, outputs);
    for (int i = 0; i < n; i++) {
        tr_graph_mark_output(*before, outputs[i]);
        tr_shape shape = i == 0 ? TR_SHAPE1(1) : tr_graph_value(*before, outputs[i])->shape;
        slopes[i] = tr_graph_input(*before, "slope", TR_F32, shape);
    }
    x = tr_graph_find(*before, "x");
    if (backward) CHECK_OK(tr_autodiff(*before, outputs, slopes, n, &x, &dx, 1, &err));
    CHECK_OK(tr_graph_chunk_logits(after, *before, chunk, &err));
}

static bool same_values(const tr_graph *a, const tr_graph *b)
{
    bool same = tr_graph_value_count(a) == tr_graph_value_count(b);
    for (tr_value v = 0; same && v < tr_graph_value_count(a); v++) {
        const tr_value_info *x = tr_graph_value(a, v), *y = tr_graph_value(b, v);
        same = x->kind == y->kind && x->dtype == y->dtype && tr_shape_equal(&x->shape, &y->shape) &&
               strcmp(x->name, y->name) == 0 && x->is_output == y->is_output && x->unit == y->unit &&
               x->parameter == y->parameter && x->use == y->use;
    }
    return same;
}

static void the_loss_becomes_one_node_and_its_gradients_another(void)
{
    for (int backward = 0; backward < 2; backward++) {
        tr_graph *before, *after;
        make_graphs(&heads[2], backward, 4, &before, &after);
        CU_ASSERT(same_values(before, after));
        CU_ASSERT_EQUAL(count(after, "linear_loss"), 1);
        CU_ASSERT_EQUAL(count(after, "linear_loss_backward"), backward);
        static const char *const gone[] = {"linear", "cross_entropy", "cross_entropy_backward", "linear_dx",
                                           "linear_dw"};
        for (size_t i = 0; i < sizeof gone / sizeof *gone; i++) CU_ASSERT_EQUAL(count(after, gone[i]), 0);
        for (int32_t n = 0; n < tr_graph_node_count(after); n++)
            CU_ASSERT(tr_graph_node(after, n)->phase != TR_PHASE_WEIGHT);
        tr_graph_destroy(&after);
        tr_graph_destroy(&before);
    }
}

/* 2 x 256 tokens, 1000 logits: 2 MB, of which a chunk of 64 rows is an eighth. */
static void logits_never_exist_as_a_whole(void)
{
    static const head_case head = {.time = 256, .in = 16, .vocabulary = 1000, .layout = TR_WEIGHT_OUT_IN};
    size_t sizes[2];
    for (int chunked = 0; chunked < 2; chunked++) {
        tr_graph *before, *after;
        tr_program *program;
        tr_error err = {0};
        make_graphs(&head, true, chunked ? 64 : 512, &before, &after);
        CHECK_OK(tr_program_new(&program, after, &(tr_program_options){.n_threads = 1}, &err));
        sizes[chunked] = tr_program_stash_bytes(program) + tr_program_scratch_bytes(program);
        tr_program_destroy(&program);
        tr_graph_destroy(&after);
        tr_graph_destroy(&before);
    }
    CU_ASSERT(sizes[0] >= 512 * 1000 * 4);
    CU_ASSERT(sizes[1] >= 64 * 1000 * 4 && sizes[1] < 64 * 1000 * 4 + 512 * 512);
}

static void what_others_read_stays(void)
{
    static const head_case others[] = {
        {.time = 8, .in = 16, .vocabulary = 40, .has_bias = true},
        {.time = 8, .in = 16, .vocabulary = 40, .watches_logits = true},
        {.time = 8, .in = 16, .vocabulary = 40}, /* all rows in one chunk */
    };
    for (int k = 0; k < 6; k++) { /* with and without a backward */
        int i = k / 2;
        tr_graph *before, *after;
        make_graphs(&others[i], k % 2, i == 2 ? 16 : 4, &before, &after);
        CU_ASSERT(same_values(before, after));
        CU_ASSERT_EQUAL_FATAL(tr_graph_node_count(before), tr_graph_node_count(after));
        for (int32_t n = 0; n < tr_graph_node_count(after); n++) {
            const tr_node *a = tr_graph_node(before, n), *b = tr_graph_node(after, n);
            CU_ASSERT(a->op == b->op && a->phase == b->phase && a->use == b->use);
        }
        tr_graph_destroy(&after);
        tr_graph_destroy(&before);
    }
}

/* Another reader of the hidden state comes after the loss, so what it gives is pending for the last layer. */
static void a_pending_gradient_stays_with_its_product(void)
{
    static const head_case head = {.time = 8, .in = 16, .vocabulary = 40, .reads_hidden_twice = true};
    tr_graph *before, *after;
    make_graphs(&head, true, 4, &before, &after);
    CU_ASSERT_EQUAL(count(after, "linear_loss"), 0);
    CU_ASSERT_EQUAL(count(after, "linear_dx"), 1);
    tr_graph_destroy(&after);
    tr_graph_destroy(&before);
}

static void chunks_are_large_and_alike(void)
{
    static const struct {
        int64_t rows, vocabulary;
        tr_dtype dtype;
        int64_t chunk;
    } known[] = {
        {32768, 50304, TR_BF16, 4096},  /* GPT-2: eight of 393 MiB */
        {32768, 50257, TR_BF16, 4096},  /* likewise */
        {8192, 128256, TR_BF16, 2048},  /* Llama 3: four of 501 MiB */
        {8192, 128256, TR_F32, 1024},   /* eight of as many bytes */
        {4096, 50257, TR_BF16, 4096},   /* fits */
        {2048, 320, TR_F32, 2048},      /* fits */
        {100000, 50257, TR_BF16, 5120}, /* no number of chunks divides it: 20, the last one shorter */
        {1000, 8000000, TR_F32, 128},   /* a row has 30 MiB */
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        int64_t chunk = tr_logits_rows(known[i].rows, known[i].vocabulary, known[i].dtype);
        if (chunk != known[i].chunk)
            fprintf(stderr, "%lld rows of %lld logits: chunks of %lld\n", (long long)known[i].rows,
                    (long long)known[i].vocabulary, (long long)chunk);
        CU_ASSERT_EQUAL(chunk, known[i].chunk);
    }
}

static void errors_come_out(void)
{
    tr_graph *graph, *out = NULL;
    tr_error err = {0};
    CHECK_OK(tr_graph_new(&graph, &err));
    tr_graph_set_error(graph, TR_EINVAL, "what it is");
    CU_ASSERT_EQUAL(tr_graph_chunk_logits(&out, graph, 4, &err), TR_EINVAL);
    CU_ASSERT_STRING_EQUAL(err.message, "what it is");
    tr_graph_destroy(&graph);
    tr_graph *before, *after;
    make_graphs(&heads[0], true, 4, &before, &after);
    tr_graph_destroy(&after);
    for (uint64_t n = 1;; n++) {
        tr_memory_fail_after(n);
        tr_status status = tr_graph_chunk_logits(&out, before, 4, NULL);
        bool failed = tr_memory_has_failed();
        tr_memory_fail_after(0);
        if (!failed) {
            CU_ASSERT_EQUAL(status, TR_OK);
            tr_graph_destroy(&out);
            break;
        }
        CU_ASSERT_EQUAL(status, TR_ENOMEM);
    }
    tr_graph_destroy(&before);
}

static const check_test tests[] = {
    CHECK_TEST(gradients_are_those_of_differences),
    CHECK_TEST(chunks_agree_with_the_whole),
    CHECK_TEST(a_run_that_trains_has_its_loss_behind_the_backward),
    CHECK_TEST(the_loss_becomes_one_node_and_its_gradients_another),
    CHECK_TEST(logits_never_exist_as_a_whole),
    CHECK_TEST(what_others_read_stays),
    CHECK_TEST(a_pending_gradient_stays_with_its_product),
    CHECK_TEST(chunks_are_large_and_alike),
    CHECK_TEST(errors_come_out),
};

CHECK_MAIN("chunk_logits", tests)
