/* test/pipelines/job_plan_test.c - who is where, over which edges, with how much memory; and what travels to an actor.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/job_plan.h"

#include "actors/roles.h"
#include "actors/stage_shard.h"
#include "actors/topics.h"
#include "check.h"
#include "ops/program.h"
#include "pipelines/files.h"

static tr_error err;
static char *home;
static tr_recipe recipe;
static tr_model_config config;
static tr_data *data;
static tr_job_plan plan;

enum { ROWS = 2, SEQUENCE = 8, WIDTH = 16 };

static const tr_start start = {
    .origin = TR_ORIGIN_CHECKPOINT, .directory = "some/where", .updates = 3, .tokens = 4711};

static int n_pieces = 1;              /* of each worker, in what follows */
static int zero;                      /* layout.zero */
static const char *dtype = "float32"; /* of the recipe */
static uint64_t element_bytes = 4;    /* of an activation in it */

static tr_status enter(int data_width, int stages, int accumulate, int groups)
{
    home = enter_directory();
    char *path = path_in(home, "text"), *bytes = tr_alloc(4000);
    for (int i = 0; i < 4000; i++) bytes[i] = (char)('a' + i % 26);
    CHECK_OK(tr_file_write(path, bytes, 4000, &err));
    char *text =
        tr_format("run: r\nmodel: {family: llama, layers: 4, width: %d, heads: 2, inner: 24, tie: true}\n"
                  "data: {text: %s, holdout: 0.2}\n"
                  "train: {steps: 9, sequence: %d, microbatch: %d, accumulate: %d, groups: %d, seed: "
                  "9223372036854775807}\n"
                  "lr: {peak: 0.1}\nlayout: {data: %d, pipeline: %d, pieces: %d, zero: %d}\nvalidate: "
                  "{every: 2, windows: 3}\n"
                  "checkpoint: {every: 4}\noptimizer: {clip_norm: 0.7}\ndtype: %s\n",
                  WIDTH, path, SEQUENCE, ROWS, accumulate, groups, data_width, stages, n_pieces, zero, dtype);
    CHECK_OK(tr_recipe_parse(&recipe, text, strlen(text), "r", NULL, 0, &err));
    CHECK_OK(tr_model_config_from_recipe(&config, &recipe, &err));
    CHECK_OK(tr_data_open(&data, &recipe, config.vocabulary, &err));
    tr_free(path), tr_free(bytes), tr_free(text);
    return tr_job_plan_init(&plan, &recipe, &config, data, &start, &err);
}

static void leave(void)
{
    tr_job_plan_release(&plan);
    tr_model_config_release(&config);
    tr_data_close(&data);
    tr_recipe_release(&recipe);
    leave_directory(home);
}

static void the_plan_is_the_recipe(void)
{
    CHECK_OK(enter(2, 2, 5, 3));
    const tr_training_plan *p = &plan.training;
    CU_ASSERT(p->n_replicas == 2 && p->n_stages == 2 && p->n_steps == 9 && p->first_step == 3);
    CU_ASSERT(p->n_microbatches == 5 && p->n_groups == 3 && p->rows == ROWS && p->sequence == SEQUENCE);
    CU_ASSERT(p->validate_every == 2 && p->validation_windows == 3 && p->checkpoint_every == 4);
    CU_ASSERT(p->all_windows == (uint32_t)tr_data_validation_count(data) && p->all_windows > 3);
    CU_ASSERT_EQUAL(p->clip_norm, 0.7f);
    for (size_t i = 0; i < plan.model.parameters.count; i++)
        CU_ASSERT_EQUAL(plan.n_elements[i], tr_shape_elements(&plan.model.parameters.items[i].shape));
    leave();
}

static void a_place_comes_back_as_it_was(void)
{
    CHECK_OK(enter(2, 2, 5, 3));
    void *bytes;
    size_t size;
    tr_place place;
    CHECK_OK(tr_place_pack(&plan, 1, 0, &bytes, &size, &err));
    CHECK_OK(tr_place_unpack(&place, bytes, size, &err));
    CU_ASSERT(memcmp(&place.plan, &plan.training, sizeof place.plan) == 0);
    CU_ASSERT(place.replica == 1 && place.stage == 0);
    CU_ASSERT(place.start.origin == TR_ORIGIN_CHECKPOINT && place.start.updates == 3 &&
              place.start.tokens == 4711);
    CU_ASSERT_STRING_EQUAL(place.start.directory, "some/where");
    CU_ASSERT_STRING_EQUAL(place.config, plan.model.config.json);
    char *before, *after;
    CHECK_OK(tr_recipe_to_json(&recipe, &before, &err));
    CHECK_OK(tr_recipe_to_json(&place.recipe, &after, &err));
    CU_ASSERT_STRING_EQUAL(before, after);
    CU_ASSERT_EQUAL(place.recipe.train.seed, INT64_MAX);
    tr_free(before), tr_free(after);
    tr_place_release(&place);
    for (size_t cut = 0; cut < size; cut++) { /* memory of exactly that size: nothing is read behind it */
        char *part = tr_alloc(cut);
        memcpy(part, bytes, cut);
        CU_ASSERT_EQUAL(tr_place_unpack(&place, part, cut, &err), TR_ECORRUPT);
        tr_place_release(&place);
        tr_free(part);
    }
    uint64_t failures = 0;
    for (uint64_t n = 1;; n++, failures++) {
        tr_memory_fail_after(n);
        tr_status status = tr_place_unpack(&place, bytes, size, &err);
        tr_memory_fail_after(0);
        if (!status) break;
        CU_ASSERT_EQUAL(status, TR_ENOMEM);
        tr_place_release(&place);
    }
    CU_ASSERT(failures > 0);
    tr_place_release(&place);
    tr_free(bytes);
    leave();
}

static const tr_edge_spec *edge(const char *name, tr_actor_id from, tr_actor_id to)
{
    for (size_t e = 0; e < plan.topology.n_edges; e++) {
        const tr_edge_spec *spec = &plan.topology.edges[e];
        if (spec->source == from && spec->destination == to && strcmp(spec->name, name) == 0) return spec;
    }
    return NULL;
}

static size_t seen; /* edges that were asked for */

static void expect_edge(const char *name, tr_actor_id from, tr_actor_id to, uint32_t slots, uint64_t bytes)
{
    const tr_edge_spec *spec = edge(name, from, to);
    bool good = from && to && spec && spec->n_slots == slots && spec->slot_bytes == bytes;
    if (!good && spec) fprintf(stderr, "%s: %u slots of %u\n", name, spec->n_slots, spec->slot_bytes);
    CU_ASSERT(good);
    seen++;
}

static tr_actor_id shard_id(uint32_t replica)
{
    char name[TR_NAME_BYTES];
    tr_role_name_shard(name, replica);
    return tr_role_find(&plan.topology, name);
}

static void expect_edges_of(uint32_t r, uint32_t s)
{
    const tr_training_plan *p = &plan.training;
    const tr_topology *t = &plan.topology;
    uint32_t last = p->n_stages - 1, ids = ROWS * SEQUENCE * 4;
    tr_actor_id self = tr_role_find_stage(t, r, s), next = tr_role_find_stage(t, r, s + 1);
    tr_stage_spec spec;
    CHECK_OK(tr_model_plan_stage(&plan.model, &recipe, p, r, s, &spec, &err));
    int64_t flat = tr_stage_gradient_elements(spec.parameters, spec.n_parameters), begin, end;
    uint32_t credits = tr_plan_stash_credits(p, r, s);
    CU_ASSERT_EQUAL(spec.stash_credits, credits);
    if (s == 0) expect_edge(TR_EDGE_TOKENS, shard_id(r), self, tr_plan_token_slots(p, r), ids);
    if (s == last)
        expect_edge(TR_EDGE_TARGETS, shard_id(r), self, tr_plan_stash_credits(p, r, 0) + credits + last + 2,
                    ids);
    if (s < last) {
        expect_edge(TR_EDGE_ACTIVATION, self, next, tr_plan_stash_credits(p, r, s + 1) + 1,
                    ids / 4 * element_bytes * WIDTH);
        expect_edge(TR_EDGE_GRADIENT, next, self, credits, ids / 4 * element_bytes * WIDTH);
    }
    if (r == 0 || p->zero)
        expect_edge(TR_EDGE_STATE, self, tr_role_find(t, TR_ROLE_CHECKPOINT), 4, TR_STATE_CHUNK_BYTES);
    for (uint32_t other = 0; other < p->n_replicas && p->zero; other++) {
        if (other == r) continue;
        tr_actor_id to = tr_role_find_stage(t, other, s);
        expect_edge(TR_EDGE_SCATTER, self, to,
                    tr_plan_blocks(p, r, NULL) * tr_shard_stretches(&spec, other, NULL),
                    (uint64_t)tr_shard_longest(&spec, other) * 4);
        expect_edge(TR_EDGE_PARAMETERS, self, to, 1, tr_shard_message_bytes(&spec, r));
    }
    for (uint32_t other = 0; other < p->n_replicas && !p->zero; other++) {
        if (other == r) continue;
        tr_stage_shard(flat, p->n_replicas, other, &begin, &end);
        expect_edge(TR_EDGE_SCATTER, self, tr_role_find_stage(t, other, s), tr_plan_blocks(p, r, NULL),
                    (uint64_t)(end - begin) * 4);
        tr_stage_shard(flat, p->n_replicas, r, &begin, &end);
        expect_edge(TR_EDGE_GATHER, self, tr_role_find_stage(t, other, s), 1, (uint64_t)(end - begin) * 4);
    }
    if (last && (s == 0 || s == last)) /* the embedding is the head's weight */
        expect_edge(TR_EDGE_TIED, self, tr_role_find_stage(t, r, last - s), 1,
                    p->zero && r > 0 ? 0 : 256 * WIDTH * 4); /* it is one block: replica 0's */
    tr_stage_spec_release(&spec);
}

static const int layouts[][4] = {{1, 1, 1}, {2, 1, 1}, {1, 4, 1},    {2, 2, 1},    {3, 2, 1},   {1, 2, 2},
                                 {2, 2, 2}, {2, 1, 3}, {1, 2, 1, 1}, {3, 2, 1, 1}, {2, 1, 1, 2}};
enum { N_LAYOUTS = 11, AT_ONCE = 6 };

/* While memory fails: the one layout that has replicas, stages and pieces. */
static int first_layout(void)
{
    return CHECK_SIZE(0, AT_ONCE);
}

static int end_layout(void)
{
    return CHECK_SIZE(N_LAYOUTS, AT_ONCE + 1);
}

static tr_status enter_layout(int i, int accumulate, int groups)
{
    n_pieces = layouts[i][2];
    zero = layouts[i][3];
    tr_status status = enter(layouts[i][0], layouts[i][1], accumulate, groups);
    n_pieces = 1;
    zero = 0;
    return status;
}

static void every_actor_has_its_place_and_its_edges(void)
{
    for (int i = first_layout(); i < end_layout(); i++) {
        CHECK_OK(enter_layout(i, 9, 8)); /* replicas have unlike numbers of blocks */
        const tr_training_plan *p = &plan.training;
        const tr_topology *t = &plan.topology;
        uint32_t n_workers = (uint32_t)layouts[i][1];
        CU_ASSERT_EQUAL(p->n_stages, n_workers * (uint32_t)layouts[i][2]);
        CU_ASSERT_EQUAL(t->n_nodes, 1 + (int32_t)(p->n_replicas * n_workers));
        CU_ASSERT_EQUAL(t->n_actors, 3 + p->n_replicas + p->n_replicas * p->n_stages);
        static const char *const of_head[] = {TR_ROLE_COORDINATOR, TR_ROLE_CHECKPOINT, TR_ROLE_MONITOR};
        for (int k = 0; k < 3; k++)
            CU_ASSERT_EQUAL(tr_topology_actor(t, tr_role_find(t, of_head[k]))->node, TR_NODE_HEAD);
        seen = 0;
        for (uint32_t r = 0; r < p->n_replicas; r++) {
            CU_ASSERT_PTR_NULL(tr_job_plan_budget(&plan, shard_id(r)));
            CU_ASSERT_EQUAL(tr_topology_actor(t, shard_id(r))->node, (int32_t)(1 + r * n_workers));
            for (uint32_t s = 0; s < p->n_stages; s++) {
                const tr_actor_spec *actor = tr_topology_actor(t, tr_role_find_stage(t, r, s));
                CU_ASSERT_EQUAL(actor->node, (int32_t)(1 + r * n_workers + s % n_workers));
                CU_ASSERT_EQUAL(actor->state_bytes, plan.budgets[r * p->n_stages + s].state);
                CU_ASSERT_PTR_EQUAL(tr_job_plan_budget(&plan, actor->id), &plan.budgets[r * p->n_stages + s]);
                tr_place place;
                CHECK_OK(tr_place_unpack(&place, actor->config, actor->config_bytes, &err));
                CU_ASSERT(place.replica == r && place.stage == s);
                tr_place_release(&place);
                expect_edges_of(r, s);
            }
        }
        CU_ASSERT_EQUAL(seen, t->n_edges); /* and no other */
        leave();
    }
}

/* Every parameter is owned by one stage, its uses are told alike everywhere, and its gradient is there where its use is. */
static void every_parameter_is_owned_once(void)
{
    for (int i = first_layout(); i < end_layout(); i++) {
        CHECK_OK(enter_layout(i, 5, 4));
        uint32_t owners[64] = {0}, uses[64] = {0}, gradients[64] = {0};
        CU_ASSERT_FATAL(plan.model.parameters.count <= 64);
        for (uint32_t s = 0; s < plan.training.n_stages; s++) {
            tr_stage_spec spec;
            CHECK_OK(tr_model_plan_stage(&plan.model, &recipe, &plan.training, 0, s, &spec, &err));
            for (uint32_t k = 0; k < spec.n_parameters; k++) {
                const tr_stage_parameter *p = &spec.parameters[k];
                CU_ASSERT_STRING_EQUAL(p->name, plan.model.parameters.items[p->index].name);
                CU_ASSERT_EQUAL(p->decayed, plan.model.parameters.items[p->index].shape.rank >= 2);
                if (k) CU_ASSERT(p->index > spec.parameters[k - 1].index);
                owners[p->index] += p->owned;
                uses[p->index] = p->n_uses;
                for (uint32_t u = 0; u < p->n_uses; u++) {
                    CU_ASSERT_EQUAL(p->uses[u].gradient != TR_NO_VALUE, p->uses[u].stage == s);
                    gradients[p->index] += p->uses[u].gradient != TR_NO_VALUE;
                    if (u) CU_ASSERT(p->uses[u].use > p->uses[u - 1].use);
                }
            }
            tr_stage_spec_release(&spec);
        }
        for (size_t k = 0; k < plan.model.parameters.count; k++)
            CU_ASSERT(owners[k] == 1 && gradients[k] == uses[k] && uses[k] == (k == 0 ? 2 : 1));
        leave();
    }
}

static void budgets_are_what_the_stages_will_take(void)
{
    for (int i = first_layout(); i < end_layout(); i++) {
        if (layouts[i][3]) continue; /* below */
        CHECK_OK(enter_layout(i, 5, 4));
        const tr_training_plan *p = &plan.training;
        for (uint32_t at = 0; at < p->n_replicas * p->n_stages; at++) {
            const tr_stage_budget *budget = &plan.budgets[at];
            uint32_t r = at / p->n_stages, s = at % p->n_stages;
            tr_stage_spec spec;
            tr_program *program;
            CHECK_OK(tr_model_plan_stage(&plan.model, &recipe, p, r, s, &spec, &err));
            tr_program_options options = {.device = TR_DEVICE_CPU, .n_threads = spec.n_threads};
            CHECK_OK(tr_program_new(&program, spec.graph, &options, &err));
            CU_ASSERT_EQUAL(budget->stash_credits, tr_plan_stash_credits(p, r, s));
            CU_ASSERT_EQUAL(budget->stashes, budget->stash_credits * tr_program_stash_bytes(program));
            CU_ASSERT_EQUAL(budget->scratch, tr_program_scratch_bytes(program));
            double flops = 0;
            for (int phase = 0; phase < TR_PHASE_COUNT; phase++)
                flops += tr_program_flops(program, (tr_phase)phase);
            CU_ASSERT_DOUBLE_EQUAL(budget->gflops, flops * 1e-9, 1e-12);
            int64_t n = 0;
            uint64_t slots = 0,
                     flat = (uint64_t)tr_stage_gradient_elements(spec.parameters, spec.n_parameters) * 4;
            for (uint32_t k = 0; k < spec.n_parameters; k++) n += spec.parameters[k].n_elements;
            CU_ASSERT_EQUAL(budget->n_parameters, n);
            CU_ASSERT(budget->state >= 12 * (uint64_t)n &&
                      budget->state < 12 * (uint64_t)n + 12 * 16 * spec.n_parameters);
            /* Blocks, the group at work, the sum: at most what the reduction may hold at once. */
            CU_ASSERT(budget->gradients % flat == 0);
            CU_ASSERT(budget->gradients / flat >= tr_plan_blocks(p, r, NULL) + (p->n_replicas > 1));
            for (size_t e = 0; e < plan.topology.n_edges; e++) { /* what comes from other processes */
                const tr_edge_spec *spec_of = &plan.topology.edges[e];
                int32_t from = tr_topology_actor(&plan.topology, spec_of->source)->node;
                int32_t to = tr_topology_actor(&plan.topology, spec_of->destination)->node;
                if (spec_of->destination == tr_role_find_stage(&plan.topology, r, s) && from != to)
                    slots += (uint64_t)spec_of->n_slots * spec_of->slot_bytes;
            }
            CU_ASSERT_EQUAL(budget->edges, slots);
            tr_program_destroy(&program);
            tr_stage_spec_release(&spec);
        }
        leave();
    }
}

/* Replicas together hold the state once, and each has all parameters beside its shard; with 2 the sum of its shard alone. */
static void shards_save_what_the_others_hold(void)
{
    uint64_t gradients[3] = {0};
    for (zero = 0; zero <= 2; zero++) {
        CHECK_OK(enter(2, 1, 4, 4));
        const tr_stage_budget *each = plan.budgets;
        tr_stage_spec spec;
        CHECK_OK(tr_model_plan_stage(&plan.model, &recipe, &plan.training, 0, 0, &spec, &err));
        uint64_t elements = 0, message = 0;
        for (uint32_t k = 0; k < spec.n_parameters; k++)
            elements += ((uint64_t)spec.parameters[k].n_elements + 15) / 16 * 16;
        for (uint32_t r = 0; r < 2; r++) message += tr_shard_message_bytes(&spec, r);
        if (zero == 0) CU_ASSERT(each[0].state == 12 * elements && each[1].state == 12 * elements);
        if (zero > 0) CU_ASSERT_EQUAL(each[0].state + each[1].state, 12 * elements);
        for (uint32_t r = 0; r < 2; r++) {
            CU_ASSERT_EQUAL(each[r].state + each[r].shared_state, 12 * elements);
            CU_ASSERT_EQUAL(each[r].whole, zero ? 4 * elements + tr_shard_message_bytes(&spec, r) : 0);
            gradients[zero] += each[r].gradients;
        }
        if (zero > 0) CU_ASSERT_EQUAL(message, 4 * elements);
        uint64_t flat = 4 * (uint64_t)tr_stage_gradient_elements(spec.parameters, spec.n_parameters);
        if (zero == 2) CU_ASSERT_EQUAL(gradients[1] - gradients[2], flat);
        tr_stage_spec_release(&spec);
        leave();
    }
    CU_ASSERT_EQUAL(gradients[0], gradients[1]);
    zero = 0;
}

static void read_plan(const char *const *words, size_t n_words)
{
    char *text = NULL;
    size_t size;
    FILE *stream = open_memstream(&text, &size);
    tr_job_plan_print(&plan, stream);
    fclose(stream);
    for (size_t i = 0; i < n_words; i++) {
        if (!strstr(text, words[i])) fprintf(stderr, "no \"%s\" in\n%s\n", words[i], text);
        CU_ASSERT(strstr(text, words[i]) != NULL);
    }
    free(text);
}

static void the_plan_can_be_read(void)
{
    static const char *const words[] = {"2 replicas x 2 stages",
                                        "stage 1 of replica 1",
                                        "data shard 0",
                                        "worker 4",
                                        "coordinator",
                                        "activation",
                                        "scatter",
                                        "tied",
                                        "5 micro-batches of 2 x 8 tokens"};
    CHECK_OK(enter(2, 2, 5, 3));
    read_plan(words, sizeof words / sizeof *words);
    leave();
}

/* Also what all pieces of a worker take together. */
static void the_plan_of_pieces_can_be_read(void)
{
    n_pieces = 2;
    CHECK_OK(enter(1, 2, 5, 3));
    n_pieces = 1;
    uint64_t bytes = 0;
    for (uint32_t s = 0; s < 4; s += 2) {
        const tr_stage_budget *budget = &plan.budgets[s];
        bytes += 2 * budget->state + budget->gradients + budget->stashes + budget->scratch + budget->edges;
    }
    char *memory =
        tr_format("worker 1    %7.1f MiB  data shard 0, stage 0 of replica 0, stage 2 of replica 0\n",
                  (double)bytes / (1 << 20));
    const char *const words[] = {"1 replicas x 2 workers of 2 stages, one process a worker",
                                 "stage 3 (worker 2 of each replica): layers 3 to 3, head and loss", memory};
    read_plan(words, sizeof words / sizeof *words);
    tr_free(memory);
    leave();
}

/* Of the rounded copies: two bytes for each element of a matrix, none for vectors, and less than a line a tensor more. */
static void check_copies(void)
{
    for (uint32_t s = 0; s < plan.training.n_stages; s++) {
        tr_stage_spec spec;
        CHECK_OK(tr_model_plan_stage(&plan.model, &recipe, &plan.training, 0, s, &spec, &err));
        uint64_t bytes = 0, n = 0;
        for (uint32_t k = 0; k < spec.n_parameters; k++) {
            const tr_value_info *value = tr_graph_value(spec.graph, spec.parameters[k].value);
            CU_ASSERT_EQUAL(value->dtype, value->shape.rank > 1 ? TR_BF16 : TR_F32);
            if (value->shape.rank > 1) bytes += 2 * (uint64_t)spec.parameters[k].n_elements, n++;
        }
        CU_ASSERT(plan.budgets[s].rounded >= bytes && plan.budgets[s].rounded < bytes + 64 * n);
        tr_stage_spec_release(&spec);
    }
}

static void bfloat16_halves_what_stages_send_and_plans_a_copy(void)
{
    CHECK_OK(enter(2, 2, 5, 3));
    uint64_t stashes = plan.budgets[0].stashes;
    CU_ASSERT_EQUAL(plan.budgets[0].rounded, 0);
    leave();
    dtype = "bfloat16";
    element_bytes = 2;
    every_actor_has_its_place_and_its_edges();
    CHECK_OK(enter(2, 2, 5, 3));
    check_copies();
    CU_ASSERT((double)plan.budgets[0].stashes < 0.6 * (double)stashes); /* statistics of norms stay float32 */
    char *text = NULL;
    size_t size;
    FILE *stream = open_memstream(&text, &size);
    tr_job_plan_print(&plan, stream);
    fclose(stream);
    CU_ASSERT(strstr(text, "\ndtype: bfloat16 ") && strstr(text, " bf16 copy "));
    free(text);
    leave();
    dtype = "float32";
    element_bytes = 4;
}

static void no_memory_leaves_no_plan(void)
{
    uint64_t failures = 0;
    CHECK_OK(enter(2, 2, 3, 2));
    tr_job_plan_release(&plan);
    for (uint64_t n = 1;; n += CHECK_SIZE(1 + n / 60, 1 + n), failures++) {
        CHECK_OK(tr_model_config_from_recipe(&config, &recipe, &err));
        tr_memory_fail_after(n);
        tr_status status = tr_job_plan_init(&plan, &recipe, &config, data, &start, &err);
        tr_memory_fail_after(0);
        if (!status) break;
        CU_ASSERT_EQUAL(status, TR_ENOMEM);
    }
    CU_ASSERT(failures > CHECK_SIZE(50, 5));
    CU_ASSERT_EQUAL(plan.training.validation_windows, 3);
    leave();
}

static const check_test tests[] = {
    CHECK_TEST(the_plan_is_the_recipe),
    CHECK_TEST(a_place_comes_back_as_it_was),
    CHECK_TEST(every_actor_has_its_place_and_its_edges),
    CHECK_TEST(every_parameter_is_owned_once),
    CHECK_TEST(budgets_are_what_the_stages_will_take),
    CHECK_TEST(shards_save_what_the_others_hold),
    CHECK_TEST(the_plan_can_be_read),
    CHECK_TEST(the_plan_of_pieces_can_be_read),
    CHECK_TEST(bfloat16_halves_what_stages_send_and_plans_a_copy),
    CHECK_TEST(no_memory_leaves_no_plan),
};
CHECK_MAIN("job_plan", tests)
