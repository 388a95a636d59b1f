/* test/runtime/control_messages_test.c - what nodes tell each other comes over whole, and asks for no memory that it
 * does not fill.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/control_messages.h"

#include "base/memory.h"
#include "base/pack.h"
#include "check.h"

#include <string.h>

static tr_error err;

static void a_plan_comes_over_with_its_addresses(void)
{
    tr_topology topology;
    tr_topology_init(&topology, 2);
    const tr_control_address addresses[2] = {{"tcp://a:1", ""}, {"tcp://b:2", "00ff"}};
    void *bytes;
    size_t size;
    tr_control_load load;
    CHECK_OK(tr_control_encode_load(&topology, addresses, 7, &bytes, &size, &err));
    CHECK_OK(tr_control_decode_load(&load, bytes, size, &err));
    CU_ASSERT_EQUAL(load.topology.n_nodes, 2);
    CU_ASSERT_EQUAL(load.generation, 7);
    CU_ASSERT_STRING_EQUAL(load.addresses[0].control_address, "tcp://a:1");
    CU_ASSERT_STRING_EQUAL(load.addresses[1].data_address, "00ff");
    tr_control_load_release(&load);
    for (size_t cut = 0; cut < size; cut++)
        CU_ASSERT_EQUAL(tr_control_decode_load(&load, bytes, cut, &err), TR_ECORRUPT);
    tr_free(bytes);
    tr_topology_release(&topology);
}

/* 65,536 nodes without an address each: half a GiB for thirty bytes. */
static void a_plan_without_addresses_allocates_nothing(void)
{
    tr_topology topology;
    tr_topology_init(&topology, 1 << 16);
    void *plan, *bytes;
    size_t plan_bytes, size;
    CHECK_OK(tr_topology_encode(&topology, &plan, &plan_bytes, &err));
    tr_packer packer;
    tr_packer_init(&packer);
    tr_pack_array(&packer, 3);
    tr_pack_bytes(&packer, plan, plan_bytes);
    tr_pack_uint(&packer, 7);
    tr_pack_array(&packer, 2u << 16);
    CHECK_OK(tr_packer_take(&packer, &bytes, &size, &err));
    tr_control_load load;
    tr_memory_fail_after(1);
    CU_ASSERT_EQUAL(tr_control_decode_load(&load, bytes, size, &err), TR_ECORRUPT);
    tr_memory_fail_after(0);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.message, "without an address for each")); /* it came as far as that */
    tr_free(bytes);
    tr_free(plan);
    tr_topology_release(&topology);
}

static const check_test tests[] = {
    CHECK_TEST(a_plan_comes_over_with_its_addresses),
    CHECK_TEST(a_plan_without_addresses_allocates_nothing),
};
CHECK_MAIN("control messages", tests)
