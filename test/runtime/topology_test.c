/* test/runtime/topology_test.c - a plan survives its way over a wire, and no bytes from there can hurt.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/topology.h"

#include "base/memory.h"
#include "base/pack.h"
#include "base/rng.h"
#include "check.h"

#include <string.h>

static void fill(tr_topology *topology)
{
    tr_error err = {0};
    tr_actor_id ids[3];
    tr_topology_init(topology, 3);
    topology->threads_per_node = 2;
    CHECK_OK(tr_topology_add_actor(topology, "head", "collector", 0, NULL, 0, 0, &ids[0], &err));
    CHECK_OK(tr_topology_add_actor(topology, "stage 0 of replica 0", "stage", 1, "a\0b", 3, 1 << 20, &ids[1],
                                   &err));
    CHECK_OK(
        tr_topology_add_actor(topology, "stage 1 of replica 0", "stage", 2, "config", 6, 1, &ids[2], &err));
    CHECK_OK(tr_topology_supervise(topology, ids[0], ids[2], &err));
    CHECK_OK(tr_topology_supervise(topology, ids[2], ids[1], &err));
    CHECK_OK(tr_topology_add_edge(topology, "activation", ids[1], ids[2], 4, 70000, NULL, &err));
    CHECK_OK(tr_topology_add_edge(topology, "gradient", ids[2], ids[1], 65535, 0, NULL, &err));
    CHECK_OK(tr_topology_add_edge(topology, "loss", ids[2], ids[0], 1, 4, NULL, &err));
}

static void decoding_gives_what_was_encoded(void)
{
    tr_error err = {0};
    tr_topology made, read;
    void *bytes = NULL;
    size_t size = 0;
    fill(&made);
    CHECK_OK(tr_topology_encode(&made, &bytes, &size, &err));
    CHECK_OK(tr_topology_decode(&read, bytes, size, &err));
    CU_ASSERT_EQUAL(read.n_nodes, 3);
    CU_ASSERT_EQUAL(read.threads_per_node, 2);
    CU_ASSERT_EQUAL_FATAL(read.n_actors, made.n_actors);
    CU_ASSERT_EQUAL_FATAL(read.n_edges, made.n_edges);
    CU_ASSERT(read.actors[1].state_bytes == 1 << 20 && read.actors[2].node == 2 && read.actors[2].id == 3);
    CU_ASSERT(read.edges[0].n_slots == 4 && read.edges[0].slot_bytes == 70000 &&
              read.edges[1].n_slots == 65535);
    for (size_t i = 0; i < made.n_actors; i++) {
        const tr_actor_spec *a = &made.actors[i], *b = &read.actors[i];
        CU_ASSERT(a->id == b->id && a->node == b->node && a->state_bytes == b->state_bytes &&
                  a->supervisor == b->supervisor);
        CU_ASSERT(strcmp(a->name, b->name) == 0 && strcmp(a->behavior, b->behavior) == 0);
        CU_ASSERT_FATAL(a->config_bytes == b->config_bytes);
        CU_ASSERT(a->config_bytes == 0 || memcmp(a->config, b->config, a->config_bytes) == 0);
    }
    for (size_t i = 0; i < made.n_edges; i++)
        CU_ASSERT(memcmp(&made.edges[i], &read.edges[i], sizeof made.edges[i]) == 0);
    tr_free(bytes);
    tr_topology_release(&read);
    tr_topology_release(&made);
}

/* A copy of exactly that size on the heap, so that AddressSanitizer sees a read behind the end. */
static bool decodes(const uint8_t *bytes, size_t size)
{
    tr_topology read;
    tr_error err = {0};
    uint8_t *exact = tr_alloc(size);
    memcpy(exact, bytes, size);
    tr_status status = tr_topology_decode(&read, exact, size, &err);
    tr_free(exact);
    if (status == TR_OK) tr_topology_release(&read);
    CU_ASSERT(status == TR_OK || (status == TR_ECORRUPT && err.message[0]));
    return status == TR_OK;
}

static void every_truncation_is_refused(void)
{
    tr_topology made;
    void *bytes = NULL;
    size_t size = 0;
    fill(&made);
    CU_ASSERT_EQUAL(tr_topology_encode(&made, &bytes, &size, NULL), TR_OK);
    for (size_t n = 0; n < size; n++) CU_ASSERT_FALSE(decodes(bytes, n));
    CU_ASSERT_TRUE(decodes(bytes, size));
    tr_free(bytes);
    tr_topology_release(&made);
}

static void trailing_bytes_are_refused(void)
{
    tr_topology made;
    void *bytes = NULL;
    size_t size = 0;
    fill(&made);
    CU_ASSERT_EQUAL(tr_topology_encode(&made, &bytes, &size, NULL), TR_OK);
    bytes = tr_realloc(bytes, size + 1);
    ((uint8_t *)bytes)[size] = 0;
    CU_ASSERT_FALSE(decodes(bytes, size + 1));
    tr_free(bytes);
    tr_topology_release(&made);
}

static void hostile_bytes_never_crash(void)
{
    tr_topology made;
    void *memory = NULL;
    size_t size = 0;
    fill(&made);
    CU_ASSERT_EQUAL(tr_topology_encode(&made, &memory, &size, NULL), TR_OK);
    uint8_t *bytes = memory;
    for (size_t i = 0; i < size; i++) {
        uint8_t before = bytes[i];
        for (int value = 0; value < 256; value += CHECK_SIZE(1, 51)) {
            bytes[i] = (uint8_t)value;
            decodes(bytes, size);
        }
        bytes[i] = before;
    }
    const tr_rng_key key = {.seed = 1, .stream = 2};
    for (uint64_t round = 0; round < CHECK_SIZE(20000, 200); round++) {
        uint8_t noise[256];
        size_t n = tr_rng_u64(&key, 1000 * round) % sizeof noise;
        for (size_t i = 0; i < n; i++) noise[i] = (uint8_t)tr_rng_u64(&key, 1000 * round + 1 + i);
        decodes(noise, n);
    }
    tr_free(memory);
    tr_topology_release(&made);
}

static void a_huge_count_allocates_nothing(void)
{
    /* [1, 1, 1, array of 2^32 - 1 ... and the same for a text and for bytes. */
    static const uint8_t actors[] = {0x95, 2, 1, 1, 0xdd, 0xff, 0xff, 0xff, 0xff};
    static const uint8_t text[] = {0x95, 2, 1, 1, 0x91, 0x96, 0xdb, 0xff, 0xff, 0xff, 0xff};
    CU_ASSERT_FALSE(decodes(actors, sizeof actors));
    CU_ASSERT_FALSE(decodes(text, sizeof text));
}

static void integers_of_every_length_are_read(void)
{
    static const int64_t values[] = {0,      1,         127,       128,       255,       256,      65535,
                                     65536,  INT32_MAX, -1,        -32,       -33,       -128,     -129,
                                     -32768, -32769,    INT32_MIN, 1LL << 40, INT64_MAX, INT64_MIN};
    tr_packer packer;
    tr_packer_init(&packer);
    size_t count = sizeof values / sizeof *values, size;
    for (size_t i = 0; i < count; i++) tr_pack_int(&packer, values[i]);
    tr_pack_uint(&packer, UINT64_MAX);
    void *bytes;
    CU_ASSERT_EQUAL_FATAL(tr_packer_take(&packer, &bytes, &size, NULL), TR_OK);
    tr_unpacker unpacker;
    tr_unpacker_init(&unpacker, bytes, size);
    for (size_t i = 0; i < count; i++)
        CU_ASSERT_EQUAL(tr_unpack_int(&unpacker, INT64_MIN, INT64_MAX), values[i]);
    CU_ASSERT_EQUAL(tr_unpack_uint(&unpacker, UINT64_MAX), UINT64_MAX);
    CU_ASSERT_EQUAL(tr_unpacker_done(&unpacker, "list", NULL), TR_OK);
    tr_unpacker_init(&unpacker, bytes, size);
    tr_unpack_int(&unpacker, 1, 5);
    CU_ASSERT_EQUAL(tr_unpacker_done(&unpacker, "list", NULL), TR_ECORRUPT);
    tr_free(bytes);
}

static void broken_rules_are_told(void)
{
    tr_error err = {0};
    tr_topology topology;
    tr_actor_id a = 0, b = 0;
    char long_name[80];
    memset(long_name, 'x', sizeof long_name);
    long_name[79] = '\0';
    tr_topology_init(&topology, 2);
    CU_ASSERT_EQUAL(tr_topology_add_actor(&topology, long_name, "x", 0, NULL, 0, 0, NULL, &err), TR_EINVAL);
    CU_ASSERT_EQUAL(tr_topology_add_actor(&topology, "a\nb", "x", 0, NULL, 0, 0, NULL, &err), TR_EINVAL);
    CU_ASSERT_STRING_EQUAL(err.message, "the name of an actor has a control character, byte 10");
    CU_ASSERT_EQUAL(tr_topology_add_actor(&topology, "a", "x", 2, NULL, 0, 0, NULL, &err), TR_EINVAL);
    CHECK_OK(tr_topology_add_actor(&topology, "a", "x", 0, NULL, 0, 0, &a, &err));
    CHECK_OK(tr_topology_add_actor(&topology, "b", "x", 1, NULL, 0, 0, &b, &err));
    CU_ASSERT(a == 1 && b == 2);
    CU_ASSERT_EQUAL(tr_topology_add_edge(&topology, "e", a, 3, 1, 1, NULL, &err), TR_EINVAL);
    CU_ASSERT_EQUAL(tr_topology_add_edge(&topology, "e", a, b, 0, 1, NULL, &err), TR_EINVAL);
    CU_ASSERT_EQUAL(tr_topology_add_edge(&topology, "e", a, b, 65536, 1, NULL, &err), TR_EINVAL);
    CHECK_OK(tr_topology_add_edge(&topology, "e", a, b, 1, 1, NULL, &err));
    CU_ASSERT_EQUAL(tr_topology_add_edge(&topology, "e", a, b, 1, 1, NULL, &err), TR_EINVAL);
    CHECK_OK(tr_topology_add_edge(&topology, "e", b, a, 1, 1, NULL, &err));
    CU_ASSERT_PTR_NULL(tr_topology_actor(&topology, 0));
    CU_ASSERT_PTR_NULL(tr_topology_actor(&topology, 3));
    tr_topology_release(&topology);
}

static void lost_memory_is_told(void)
{
    tr_topology made, read;
    void *bytes = NULL;
    size_t size = 0;
    fill(&made);
    CU_ASSERT_EQUAL(tr_topology_encode(&made, &bytes, &size, NULL), TR_OK);
    int failures = 0;
    for (uint64_t n = 1;; n++) {
        void *again = NULL;
        tr_memory_fail_after(n);
        tr_status status = tr_topology_encode(&made, &again, &size, NULL);
        tr_memory_fail_after(0);
        tr_free(again);
        if (status == TR_OK) break;
        CU_ASSERT_EQUAL(status, TR_ENOMEM);
        CU_ASSERT_PTR_NULL(again);
        failures++;
    }
    CU_ASSERT(failures >= 2);
    failures = 0;
    for (uint64_t n = 1;; n++) {
        tr_memory_fail_after(n);
        tr_status status = tr_topology_decode(&read, bytes, size, NULL);
        tr_memory_fail_after(0);
        if (status == TR_OK) break;
        CU_ASSERT_EQUAL(status, TR_ENOMEM);
        failures++;
    }
    tr_topology_release(&read);
    CU_ASSERT(failures >= 3);
    tr_free(bytes);
    tr_topology_release(&made);
}

static void nobody_is_above_his_own_supervisor(void)
{
    tr_error err = {0};
    tr_topology topology;
    fill(&topology); /* 1 above 3 above 2 */
    CU_ASSERT_EQUAL(tr_topology_supervise(&topology, 1, 1, &err), TR_EINVAL);
    CU_ASSERT_EQUAL(tr_topology_supervise(&topology, 1, 4, &err), TR_EINVAL);
    CU_ASSERT_EQUAL(tr_topology_supervise(&topology, 1, 2, &err), TR_EINVAL);
    CU_ASSERT(strstr(err.message, "already") != NULL);
    CU_ASSERT_EQUAL(tr_topology_supervise(&topology, 2, 1, &err), TR_EINVAL);
    CU_ASSERT(strstr(err.message, "would be its own") != NULL);
    CU_ASSERT(topology.actors[0].supervisor == 0);
    tr_topology_release(&topology);
}

static const check_test tests[] = {
    CHECK_TEST(nobody_is_above_his_own_supervisor),
    CHECK_TEST(decoding_gives_what_was_encoded),
    CHECK_TEST(every_truncation_is_refused),
    CHECK_TEST(trailing_bytes_are_refused),
    CHECK_TEST(hostile_bytes_never_crash),
    CHECK_TEST(a_huge_count_allocates_nothing),
    CHECK_TEST(integers_of_every_length_are_read),
    CHECK_TEST(broken_rules_are_told),
    CHECK_TEST(lost_memory_is_told),
};
CHECK_MAIN("topology", tests)
