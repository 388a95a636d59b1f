/* test/actors/stage_shard_test.c - which replica holds what with ZeRO: every element has one owner, shares are even, and stages
 * that use a tensor both agree on who has which part of it.
 * SPDX-License-Identifier: Apache-2.0 */
#include "actors/stage_shard.h"

#include "base/rng.h"
#include "check.h"
#include "ops/optimizer.h"

enum { MOST = 12, B = TR_NORM_BLOCK };

static tr_stage_parameter parameters[MOST];
static tr_stage_use uses[MOST][2];
static bool is_even; /* replicas hand gradients to each other: every tensor is dealt out by itself */

/* Tensors of these sizes; `tied` (or -1) has two uses, of which `here` are in this stage. */
static tr_stage_spec spec_of(const int64_t *sizes, uint32_t n, int tied, uint32_t here, uint32_t n_replicas,
                             uint32_t zero)
{
    for (uint32_t i = 0; i < n; i++) {
        uint32_t n_uses = (int)i == tied ? 2 : 1;
        uses[i][0] = uses[i][1] = (tr_stage_use){.gradient = 1};
        if (n_uses == 2 && here < 2) uses[i][0].gradient = TR_NO_VALUE;
        parameters[i] = (tr_stage_parameter){.n_elements = sizes[i], .uses = uses[i], .n_uses = n_uses};
    }
    return (tr_stage_spec){.plan = {.n_replicas = n_replicas, .zero = zero},
                           .collectives = is_even ? &tr_nccl : NULL,
                           .parameters = parameters,
                           .n_parameters = n};
}

static void parts_of(const tr_stage_spec *spec, uint32_t replica, tr_stretch out[MOST])
{
    tr_shard shard;
    tr_shard_begin(&shard, spec, replica);
    for (uint32_t i = 0; i < spec->n_parameters; i++) out[i] = tr_shard_next(&shard);
}

static const int64_t several[][MOST] = {
    {1, 1, 1}, {5, B, 3 * B + 7, 2}, {10 * B, 10 * B}, {B - 1, B + 1, 2 * B, 1, 1, 40 * B + 3, 9, 9}};
static const uint32_t n_of[] = {3, 4, 2, 8};
enum { CASES = 4, REPLICAS = 7 };

static void expect_one_owner(void)
{
    for (int c = 0; c < CASES; c++)
        for (int tied = -1; tied < (int)n_of[c]; tied++)
            for (uint32_t n = 2; n <= REPLICAS; n++) {
                tr_stage_spec spec = spec_of(several[c], n_of[c], tied, 2, n, 1);
                int64_t at[MOST] = {0};
                for (uint32_t r = 0; r < n; r++) {
                    tr_stretch parts[MOST];
                    parts_of(&spec, r, parts);
                    for (uint32_t i = 0; i < n_of[c]; i++) {
                        CU_ASSERT(parts[i].begin == at[i] && parts[i].end >= parts[i].begin);
                        CU_ASSERT(parts[i].begin % B == 0 || parts[i].begin == parts[i].end);
                        at[i] = parts[i].end;
                    }
                }
                for (uint32_t i = 0; i < n_of[c]; i++) CU_ASSERT_EQUAL(at[i], several[c][i]);
            }
}

static void every_element_has_one_owner(void)
{
    for (int even = 0; even < 2; even++) {
        is_even = even;
        expect_one_owner();
    }
    is_even = false;
}

/* Then each replica has of every tensor as much as the others, to a block; blocks that remain are dealt out in turn. */
static void devices_share_every_tensor_evenly(void)
{
    is_even = true;
    for (int c = 0; c < CASES; c++)
        for (uint32_t n = 2; n <= REPLICAS; n++) {
            tr_stage_spec spec = spec_of(several[c], n_of[c], -1, 2, n, 2);
            CU_ASSERT(tr_shard_is_even(&spec));
            for (uint32_t r = 0; r < n; r++) {
                tr_stretch parts[MOST];
                parts_of(&spec, r, parts);
                for (uint32_t i = 0; i < n_of[c]; i++) {
                    int64_t blocks = tr_norm_block_count(parts[i].end - parts[i].begin),
                            all = tr_norm_block_count(several[c][i]);
                    CU_ASSERT(blocks == all / n || blocks == (all + n - 1) / n);
                }
            }
        }
    const int64_t small[] = {7, B, 3, 100, 5, 9, 11};
    tr_stage_spec spec = spec_of(small, REPLICAS, -1, 2, REPLICAS, 1);
    for (uint32_t r = 0; r < REPLICAS; r++) {
        tr_stretch parts[MOST];
        uint32_t has = 0;
        parts_of(&spec, r, parts);
        for (uint32_t i = 0; i < REPLICAS; i++) has += parts[i].end > parts[i].begin;
        CU_ASSERT_EQUAL(has, 1);
    }
    is_even = false;
}

/* Messages carry one part of a flat gradient in the order of replicas, in pieces that fit. */
static void what_devices_send_by_messages_follows_replicas(void)
{
    const int64_t large[] = {5 * (int64_t)TR_SHARD_MOST_ELEMENTS + 3, 100 * B};
    is_even = true;
    for (int c = 0; c <= CASES; c++)
        for (uint32_t n = 2; n <= REPLICAS; n++) {
            tr_stage_spec spec =
                c < CASES ? spec_of(several[c], n_of[c], 1, 2, n, 2) : spec_of(large, 2, -1, 2, n, 2);
            int64_t at = 0;
            for (uint32_t r = 0; r < n; r++) {
                tr_stretch stretches[64];
                uint32_t n_stretches = tr_shard_stretches(&spec, r, NULL);
                int64_t own = 0;
                CU_ASSERT_FATAL(n_stretches >= 1 && n_stretches <= 64);
                CU_ASSERT(c == CASES || n_stretches == 1);
                tr_shard_stretches(&spec, r, stretches);
                for (uint32_t k = 0; k < n_stretches; k++) {
                    int64_t size = stretches[k].end - stretches[k].begin;
                    CU_ASSERT_EQUAL(stretches[k].begin, at);
                    CU_ASSERT(size <= tr_shard_longest(&spec, r) && size <= TR_SHARD_MOST_ELEMENTS);
                    at = stretches[k].end;
                    own += size;
                }
                CU_ASSERT_EQUAL(own, tr_shard_sum_elements(&spec, r));
            }
            CU_ASSERT_EQUAL(at, tr_stage_gradient_elements(spec.parameters, spec.n_parameters));
        }
    is_even = false;
}

static void shares_are_even_to_a_block(void)
{
    for (int c = 0; c < CASES; c++)
        for (uint32_t n = 2; n <= REPLICAS; n++) {
            tr_stage_spec spec = spec_of(several[c], n_of[c], -1, 2, n, 1);
            int64_t total = 0;
            for (uint32_t i = 0; i < n_of[c]; i++) total += several[c][i];
            for (uint32_t r = 0; r < n; r++) {
                tr_stretch parts[MOST];
                int64_t own = 0;
                parts_of(&spec, r, parts);
                for (uint32_t i = 0; i < n_of[c]; i++) own += parts[i].end - parts[i].begin;
                CU_ASSERT(own <= total / n + B && own >= total / n - B);
            }
        }
}

static void a_tied_tensor_is_dealt_out_alike_whatever_is_beside_it(void)
{
    const int64_t first[] = {9 * B + 5, 3 * B}, last[] = {9 * B + 5, 100 * B, 7};
    for (uint32_t n = 2; n <= REPLICAS; n++)
        for (uint32_t r = 0; r < n; r++) {
            tr_stretch left[MOST], right[MOST];
            tr_stage_spec spec = spec_of(first, 2, 0, 1, n, 1);
            parts_of(&spec, r, left);
            spec = spec_of(last, 3, 0, 1, n, 1);
            parts_of(&spec, r, right);
            CU_ASSERT(left[0].begin == right[0].begin && left[0].end == right[0].end);
        }
}

/* Of the flat gradient, where each use of a tensor has a place of its own. */
static void what_is_summed_is_what_is_held(void)
{
    for (int c = 0; c < CASES; c++)
        for (int tied = -1; tied < 2; tied++)
            for (uint32_t n = 2; n <= REPLICAS; n++) {
                tr_stage_spec spec = spec_of(several[c], n_of[c], tied, 2, n, 1);
                int64_t flat = tr_stage_gradient_elements(spec.parameters, spec.n_parameters), summed = 0;
                for (uint32_t r = 0; r < n; r++) {
                    tr_stretch parts[MOST], stretches[2 * MOST];
                    uint32_t n_stretches = tr_shard_stretches(&spec, r, stretches);
                    int64_t own = 0, longest = 0;
                    parts_of(&spec, r, parts);
                    CU_ASSERT(n_stretches >= 1 && n_stretches <= (tied < 0 ? 1 : 4));
                    CU_ASSERT_EQUAL(n_stretches, tr_shard_stretches(&spec, r, NULL));
                    for (uint32_t k = 0; k < n_stretches; k++) {
                        int64_t size = stretches[k].end - stretches[k].begin;
                        CU_ASSERT(size >= 0 && (k == 0 || stretches[k].begin > stretches[k - 1].end));
                        own += size;
                        if (size > longest) longest = size;
                    }
                    CU_ASSERT(tr_shard_sum_elements(&spec, r) == own &&
                              tr_shard_longest(&spec, r) == longest);
                    int64_t at = 0, seen = 0;
                    for (uint32_t i = 0; i < n_of[c]; i++)
                        for (uint32_t u = 0; u < parameters[i].n_uses; u++) {
                            for (uint32_t k = 0; k < n_stretches; k++)
                                seen += parts[i].end > parts[i].begin &&
                                        at + parts[i].begin >= stretches[k].begin &&
                                        at + parts[i].end <= stretches[k].end;
                            seen += parts[i].end == parts[i].begin;
                            at += (several[c][i] + 15) / 16 * 16;
                        }
                    CU_ASSERT_EQUAL(seen, n_of[c] + (tied >= 0)); /* each is in one of them */
                    summed += own;
                }
                CU_ASSERT_EQUAL(summed, flat);
            }
}

static void without_zero_all_is_held_and_a_share_is_summed(void)
{
    tr_stage_spec spec = spec_of(several[3], n_of[3], 2, 2, 3, 0);
    int64_t flat = tr_stage_gradient_elements(spec.parameters, spec.n_parameters), begin, end;
    for (uint32_t r = 0; r < 3; r++) {
        tr_stretch parts[MOST] = {{0}}, stretch;
        parts_of(&spec, r, parts);
        for (uint32_t i = 0; i < n_of[3]; i++)
            CU_ASSERT(parts[i].begin == 0 && parts[i].end == several[3][i]);
        tr_stage_shard(flat, 3, r, &begin, &end);
        CU_ASSERT_EQUAL(tr_shard_stretches(&spec, r, &stretch), 1);
        CU_ASSERT(stretch.begin == begin && stretch.end == end);
        CU_ASSERT_EQUAL(tr_shard_state_bytes(&spec, r), tr_stage_state_bytes(several[3], n_of[3]));
    }
}

static void slots_are_small_and_never_empty(void)
{
    tr_stage_spec spec = spec_of(several[2], n_of[2], -1, 2, 4, 1), tiny;
    CU_ASSERT_EQUAL(tr_shard_state_bytes(&spec, 0) * 4, tr_stage_state_bytes(several[2], n_of[2]));
    tiny = spec_of(several[0], n_of[0], -1, 2, 7, 1);
    for (uint32_t r = 0; r < 7; r++) CU_ASSERT(tr_shard_state_bytes(&tiny, r) >= 3 * 64);
}

static const check_test tests[] = {
    CHECK_TEST(every_element_has_one_owner),
    CHECK_TEST(shares_are_even_to_a_block),
    CHECK_TEST(devices_share_every_tensor_evenly),
    CHECK_TEST(what_devices_send_by_messages_follows_replicas),
    CHECK_TEST(a_tied_tensor_is_dealt_out_alike_whatever_is_beside_it),
    CHECK_TEST(what_is_summed_is_what_is_held),
    CHECK_TEST(without_zero_all_is_held_and_a_share_is_summed),
    CHECK_TEST(slots_are_small_and_never_empty),
};
CHECK_MAIN("stage_shard", tests)
