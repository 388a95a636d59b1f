/* test/ops/program_test.c - memory plans over random graphs, and what running promises.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/memory_plan.h"
#include "ops/operations.h"
#include "ops/program.h"
#include "test/ops/op_check.h"

enum { ROWS = 3, COLUMNS = 24, N_SEEDS = 60 };

static uint64_t draw(uint64_t seed, uint64_t *index, uint64_t limit)
{
    return tr_rng_u64(&(tr_rng_key){.seed = seed, .stream = 7}, (*index)++) % limit;
}

/* A random forward over values of one shape: every node reads one or two
 * of the last five values. context: the seed. */
static int build_random(tr_graph *g, const void *context, tr_value outputs[CHECK_MAX_OUTPUTS])
{
    uint64_t seed = *(const uint64_t *)context, index = 0;
    tr_value recent[5];
    recent[0] = tr_graph_input(g, "x", TR_F32, TR_SHAPE2(ROWS, COLUMNS));
    for (int i = 1; i < 5; i++) recent[i] = tr_activate(g, recent[i - 1], TR_SILU);
    for (int i = 0; i < 12; i++) {
        tr_value a = recent[draw(seed, &index, 5)], b = recent[draw(seed, &index, 5)], made;
        tr_value w = tr_graph_parameter(g, draw(seed, &index, 2) ? "w0" : "w1", TR_F32, TR_SHAPE1(COLUMNS));
        switch (draw(seed, &index, 4)) {
        case 0: made = tr_add(g, a, b); break;
        case 1: made = tr_rmsnorm(g, a, w, 0.1f); break;
        case 2: made = tr_gated(g, a, b, TR_SILU); break;
        default: made = tr_layernorm(g, a, w, w, 0.1f); break;
        }
        recent[draw(seed, &index, 5)] = made;
        outputs[0] = made;
    }
    outputs[0] = tr_rmsnorm(g, outputs[0], tr_graph_parameter(g, "w0", TR_F32, TR_SHAPE1(COLUMNS)), 0.1f);
    return 1;
}

static tr_graph *random_graph(uint64_t seed)
{
    tr_error err = {0};
    graph_check check = {.of = NULL};
    CHECK_OK(tr_graph_new(&check.graph, &err));
    check.n_outputs = build_random(check.graph, &seed, check.outputs);
    check_differentiate(&check);
    free(check.inputs);
    free(check.input_gradients);
    return check.graph;
}

static bool lives_overlap(const tr_place *a, const tr_place *b)
{
    return a->first <= b->last && b->first <= a->last;
}

static size_t bytes_of(const tr_graph *g, tr_value v)
{
    return tr_dtype_bytes(tr_graph_value(g, v)->dtype) *
           (size_t)tr_shape_elements(&tr_graph_value(g, v)->shape);
}

/* `into` takes over the memory of `from`: allowed at the node that reads `from` last as its alias input. */
static bool is_takeover(const tr_graph *g, const tr_memory_plan *plan, tr_value from, tr_value into)
{
    if (plan->values[from].last != plan->values[into].first ||
        plan->values[from].offset != plan->values[into].offset)
        return false;
    const tr_node *node = tr_graph_node(g, plan->order[plan->values[into].first]);
    return node->op->alias_input >= 0 && node->inputs[node->op->alias_input] == from &&
           node->outputs[0] == into;
}

/* Returns the bytes of all planned values. Scratch of different phases may overlap: lives in it do not. */
static size_t check_plan(const tr_graph *g, const tr_memory_plan *plan)
{
    size_t sum = 0;
    for (tr_value a = 0; a < plan->n_values; a++) {
        const tr_place *p = &plan->values[a];
        if (p->space != TR_SPACE_SCRATCH && p->space != TR_SPACE_STASH) continue;
        size_t a_bytes = bytes_of(g, a);
        sum += a_bytes;
        CU_ASSERT(p->offset % TR_CACHE_LINE == 0);
        CU_ASSERT(p->offset + a_bytes <=
                  (p->space == TR_SPACE_STASH ? plan->stash_bytes : plan->scratch_bytes));
        if (p->space == TR_SPACE_SCRATCH) {
            int phase = (int)tr_graph_node(g, plan->order[p->first])->phase;
            CU_ASSERT(p->last < plan->phase_start[phase + 1]);
        }
        for (tr_value b = 0; b < a; b++) {
            const tr_place *q = &plan->values[b];
            if (q->space != p->space || !lives_overlap(p, q)) continue;
            if (is_takeover(g, plan, a, b) || is_takeover(g, plan, b, a)) continue;
            CU_ASSERT(p->offset + a_bytes <= q->offset || q->offset + bytes_of(g, b) <= p->offset);
        }
    }
    return sum;
}

static void no_two_live_values_overlap(void)
{
    size_t all = 0, planned = 0;
    for (uint64_t seed = 0; seed < N_SEEDS; seed++) {
        tr_error err = {0};
        tr_graph *g = random_graph(seed);
        tr_memory_plan plan;
        size_t *workspaces = calloc((size_t)tr_graph_node_count(g), sizeof *workspaces);
        CHECK_OK(tr_memory_plan_init(&plan, g, workspaces, &err));
        all += check_plan(g, &plan);
        planned += plan.stash_bytes + plan.scratch_bytes;
        tr_memory_plan_release(&plan);
        free(workspaces);
        tr_graph_destroy(&g);
    }
    CU_ASSERT(planned < all * 3 / 4); /* planning is worth something */
}

static void blocks_placed_do_not_overlap(void)
{
    for (uint64_t seed = 0; seed < N_SEEDS; seed++) {
        tr_error err = {0};
        tr_block blocks[50];
        uint64_t index = 0;
        size_t total = 0, sum = 0;
        for (int i = 0; i < 50; i++) {
            int32_t first = (int32_t)draw(seed, &index, 40);
            blocks[i] = (tr_block){.first = first, .last = first + (int32_t)draw(seed, &index, 10)};
            blocks[i].bytes = 1 + draw(seed, &index, 2000);
        }
        CHECK_OK(tr_blocks_place(blocks, 50, &total, &err));
        for (int i = 0; i < 50; i++) {
            sum += blocks[i].bytes;
            CU_ASSERT(blocks[i].offset + blocks[i].bytes <= total && blocks[i].offset % TR_CACHE_LINE == 0);
            for (int j = 0; j < i; j++) {
                const tr_block *a = &blocks[i], *b = &blocks[j];
                if (a->first > b->last || b->first > a->last) continue;
                CU_ASSERT(a->offset + a->bytes <= b->offset || b->offset + b->bytes <= a->offset);
            }
        }
        CU_ASSERT(total < sum / 2);
    }
}

/* The same graph with every intermediate in memory of its own (marked as output, so never planned and never
 * taken over) gives the same bits; poison shows what is read unwritten. */
static void planned_memory_gives_the_bits_of_separate_memory(void)
{
    for (uint64_t seed = 0; seed < N_SEEDS; seed++) {
        tr_error err = {0};
        graph_case of = {.name = "random", .build = build_random, .context = &seed};
        graph_check planned, separate;
        if (!check_begin(&planned, &of) || !check_begin(&separate, &of)) return;
        tr_program_destroy(&separate.program);
        for (tr_value v = 0; v < separate.n_values; v++) {
            if (is_bound(tr_graph_value(separate.graph, v))) continue;
            tr_graph_mark_output(separate.graph, v);
            separate.buffers[v] = guard_new(bytes_of(separate.graph, v));
            separate.originals[v] = guard_new(bytes_of(separate.graph, v));
            separate.pointers[v] = separate.buffers[v].data;
        }
        tr_program_options options = {.device = TR_DEVICE_CPU, .n_threads = 3};
        CHECK_OK(tr_program_new(&separate.program, separate.graph, &options, &err));
        CU_ASSERT_EQUAL(tr_program_stash_bytes(separate.program), 0);
        check_run_whole(&planned, 1);
        check_run_whole(&separate, 1);
        for (tr_value v = 0; v < planned.n_values; v++)
            if (planned.pointers[v])
                CU_ASSERT(memcmp(planned.pointers[v], separate.pointers[v], planned.buffers[v].bytes) == 0);
        check_end(&planned);
        check_end(&separate);
    }
}

/* Forwards of two micro-batches, then their backwards, then their weight
 * gradients: as one after the other. */
static void micro_batches_in_flight_do_not_meet(void)
{
    uint64_t seed = 3, one_by_one;
    graph_case of = {.name = "random", .build = build_random, .context = &seed};
    graph_check check;
    if (!check_begin(&check, &of)) return;
    check_run_whole(&check, 1);
    check_run_phases(&check, TR_PHASE_WEIGHT, NULL);
    one_by_one = check_bits(&check);
    for (tr_value v = 0; v < check.n_values; v++)
        if (check.pointers[v]) memcpy(check.pointers[v], check.originals[v].data, check.originals[v].bytes);
    guarded stashes[2] = {guard_new(check.stash.bytes), guard_new(check.stash.bytes)};
    for (int phase = 0; phase < TR_PHASE_COUNT; phase++)
        for (int m = 0; m < 2; m++) {
            tr_bindings bindings = {.values = (void *const *)check.pointers,
                                    .stash = stashes[m].data,
                                    .scratch = check.scratch.data};
            tr_program_run(check.program, (tr_phase)phase, &bindings);
        }
    CU_ASSERT_EQUAL(check_bits(&check), one_by_one);
    guard_free(&stashes[0]);
    guard_free(&stashes[1]);
    check_end(&check);
}

static void running_allocates_nothing(void)
{
    uint64_t seed = 1;
    graph_case of = {.name = "random", .build = build_random, .context = &seed};
    graph_check check;
    if (!check_begin(&check, &of)) return;
    tr_memory_fail_after(1);
    check_run_phases(&check, TR_PHASE_WEIGHT, NULL);
    void *first_allocation = tr_alloc(1);
    CU_ASSERT_PTR_NULL(first_allocation);
    tr_free(first_allocation);
    tr_memory_fail_after(0);
    check_end(&check);
}

static void a_program_knows_its_phases_readers_and_times(void)
{
    tr_error err = {0};
    uint64_t seed = 2;
    graph_case of = {.name = "random", .build = build_random, .context = &seed};
    graph_check check;
    if (!check_begin(&check, &of)) return;
    tr_value x = tr_graph_find(check.graph, "x");
    CU_ASSERT_EQUAL(tr_program_last_reader(check.program, x), TR_PHASE_BACKWARD);
    CU_ASSERT_EQUAL(tr_program_last_reader(check.program, check.output_gradients[0]), TR_PHASE_WEIGHT);
    CU_ASSERT_EQUAL(tr_program_last_reader(check.program, check.outputs[0]), TR_PHASE_FORWARD);
    CU_ASSERT(tr_program_has_phase(check.program, TR_PHASE_WEIGHT));
    CU_ASSERT(tr_program_flops(check.program, TR_PHASE_FORWARD) > ROWS * COLUMNS);
    check_run_phases(&check, TR_PHASE_WEIGHT, NULL);
    tr_op_time times[32], two[2];
    size_t n = tr_program_times(check.program, times, 32);
    uint64_t calls = 0;
    for (size_t i = 0; i < n && i < 32; i++) {
        calls += times[i].calls;
        CU_ASSERT(i == 0 || times[i - 1].nanoseconds >= times[i].nanoseconds);
    }
    CU_ASSERT_EQUAL(calls, (uint64_t)tr_graph_node_count(check.graph));
    CU_ASSERT_EQUAL(tr_program_times(check.program, two, 2), n);
    CU_ASSERT(memcmp(two, times, sizeof two) == 0);
    check_end(&check);

    tr_graph *forward = NULL;
    tr_program *program = NULL;
    CHECK_OK(tr_graph_new(&forward, &err));
    tr_activate(forward, tr_graph_input(forward, "x", TR_F32, TR_SHAPE1(3)), TR_RELU);
    CHECK_OK(tr_program_new(&program, forward, &(tr_program_options){.n_threads = 1}, &err));
    CU_ASSERT_FALSE(tr_program_has_phase(program, TR_PHASE_BACKWARD));
    CU_ASSERT_EQUAL(tr_program_stash_bytes(program), 0);
    tr_program_destroy(&program);
    tr_graph_destroy(&forward);
}

/* So memory can be foretold where the device is not. */
static void a_program_only_planned_has_the_same_sizes(void)
{
    for (uint64_t seed = 0; seed < 5; seed++) {
        tr_error err = {0};
        tr_graph *g = random_graph(seed);
        tr_program *real = NULL, *planned = NULL;
        CHECK_OK(tr_program_new(&real, g, &(tr_program_options){.n_threads = 3}, &err));
        CHECK_OK(tr_program_new(&planned, g, &(tr_program_options){.n_threads = 3, .only_plan = true}, &err));
        CU_ASSERT(tr_program_stash_bytes(real) > 0);
        CU_ASSERT_EQUAL(tr_program_stash_bytes(real), tr_program_stash_bytes(planned));
        CU_ASSERT_EQUAL(tr_program_scratch_bytes(real), tr_program_scratch_bytes(planned));
        tr_program_destroy(&real);
        tr_program_destroy(&planned);
        tr_graph_destroy(&g);
    }
}

/* dw and db of y = x w + b, begun twice over what is no number, and then added to. */
static void gradients_begin_with_a_run(void)
{
    tr_error err = {0};
    tr_graph *g = NULL;
    tr_program *program = NULL;
    float x[2] = {3, 5}, w[1] = {2}, b[1] = {1}, dy[2] = {1, 10}, y[2], dw[1] = {NAN}, db[1] = {NAN};
    CHECK_OK(tr_graph_new(&g, &err));
    tr_value in = tr_graph_input(g, "x", TR_F32, TR_SHAPE2(2, 1)),
             weight = tr_graph_parameter(g, "w", TR_F32, TR_SHAPE2(1, 1)),
             bias = tr_graph_parameter(g, "b", TR_F32, TR_SHAPE1(1)),
             out = tr_linear(g, in, weight, bias, TR_WEIGHT_IN_OUT), slope, none = TR_NO_VALUE, gone;
    slope = tr_graph_input(g, "dy", TR_F32, TR_SHAPE2(2, 1));
    tr_graph_mark_output(g, out);
    CHECK_OK(tr_autodiff(g, &out, &slope, 1, &none, &gone, 0, &err));
    CHECK_OK(tr_program_new(&program, g, &(tr_program_options){.n_threads = 1}, &err));
    void *bound[16] = {NULL}, *stash = tr_alloc_zero(1, tr_program_stash_bytes(program) + 64),
         *scratch = tr_alloc_zero(1, tr_program_scratch_bytes(program) + 64);
    bound[in] = x, bound[weight] = w, bound[bias] = b, bound[out] = y, bound[slope] = dy;
    for (tr_value v = 0; v < tr_graph_value_count(g); v++)
        if (tr_graph_value(g, v)->kind == TR_VALUE_GRADIENT)
            bound[v] = tr_graph_value(g, v)->parameter == weight ? dw : db;
    for (int run = 0; run < 3; run++)
        for (int phase = 0; phase < TR_PHASE_COUNT; phase++)
            tr_program_run(
                program, (tr_phase)phase,
                &(tr_bindings){
                    .values = bound, .stash = stash, .scratch = scratch, .begin_gradients = run < 2});
    CU_ASSERT_EQUAL(dw[0], 2 * 53.0f);
    CU_ASSERT_EQUAL(db[0], 2 * 11.0f);
    tr_free(stash);
    tr_free(scratch);
    tr_program_destroy(&program);
    tr_graph_destroy(&g);
}

static uint64_t seven_more(void)
{
    static uint64_t now;
    return now += 7;
}

static void times_are_by_the_clock_that_was_given(void)
{
    tr_error err = {0};
    tr_graph *g = NULL;
    tr_program *program = NULL;
    float x[3] = {1, -2, 3}, y[3];
    CHECK_OK(tr_graph_new(&g, &err));
    tr_value in = tr_graph_input(g, "x", TR_F32, TR_SHAPE1(3)), out = tr_activate(g, in, TR_RELU);
    tr_graph_mark_output(g, out);
    CHECK_OK(
        tr_program_new(&program, g, &(tr_program_options){.n_threads = 1, .clock_ns = seven_more}, &err));
    void *bound[] = {x, y};
    for (int i = 0; i < 3; i++) tr_program_run(program, TR_PHASE_FORWARD, &(tr_bindings){.values = bound});
    tr_op_time time;
    CU_ASSERT_EQUAL(tr_program_times(program, &time, 1), 1);
    CU_ASSERT_EQUAL(time.nanoseconds, 21);
    CU_ASSERT_EQUAL(time.calls, 3);
    tr_program_destroy(&program);
    tr_graph_destroy(&g);
}

static void what_cannot_run_is_refused(void)
{
    tr_error err = {0};
    tr_graph *g = NULL;
    tr_program *program = NULL;
    CHECK_OK(tr_graph_new(&g, &err));
    tr_activate(g, tr_graph_intermediate(g, TR_F32, TR_SHAPE1(3)), TR_RELU);
    tr_program_options options = {.device = TR_DEVICE_CPU, .n_threads = 1};
    CU_ASSERT_EQUAL(tr_program_new(&program, g, &options, &err), TR_EINVAL);
    CU_ASSERT_STRING_EQUAL(err.message, "'activate' (node 0) reads value 0 before any node has written it");
    CU_ASSERT_PTR_NULL(program);
    tr_graph_destroy(&g);
}

static void failing_allocations_are_reported(void)
{
    tr_graph *g = random_graph(5);
    tr_program_options options = {.device = TR_DEVICE_CPU, .n_threads = 1};
    for (uint64_t n = 1;; n++) {
        tr_program *program = NULL;
        tr_memory_fail_after(n);
        tr_status status = tr_program_new(&program, g, &options, NULL);
        tr_memory_fail_after(0);
        CU_ASSERT(status == TR_OK ? program != NULL : status == TR_ENOMEM && program == NULL);
        tr_program_destroy(&program);
        if (status == TR_OK) break;
        CU_ASSERT(n < 1000);
    }
    tr_graph_destroy(&g);
}

static const check_test tests[] = {
    CHECK_TEST(no_two_live_values_overlap),
    CHECK_TEST(blocks_placed_do_not_overlap),
    CHECK_TEST(planned_memory_gives_the_bits_of_separate_memory),
    CHECK_TEST(micro_batches_in_flight_do_not_meet),
    CHECK_TEST(running_allocates_nothing),
    CHECK_TEST(a_program_knows_its_phases_readers_and_times),
    CHECK_TEST(a_program_only_planned_has_the_same_sizes),
    CHECK_TEST(gradients_begin_with_a_run),
    CHECK_TEST(times_are_by_the_clock_that_was_given),
    CHECK_TEST(what_cannot_run_is_refused),
    CHECK_TEST(failing_allocations_are_reported),
};
CHECK_MAIN("program", tests)
