/* test/runtime/launch_test.c - what a child is told arrives whole, and nothing else is taken for it.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/launch.h"

#include "base/memory.h"
#include "check.h"

#include <string.h>

static tr_error err;

static void a_launch_comes_over_whole_or_not_at_all(void)
{
    char topology[] = "topology";
    tr_launch made = {.role = TR_LAUNCH_WORKER,
                      .node = 3,
                      .incarnation = 1,
                      .epoch = 7,
                      .n_threads = 2,
                      .may_spin = true,
                      .lease_ms = 30000,
                      .topology = topology,
                      .topology_bytes = sizeof topology};
    strcpy(made.control_transport, "zmq");
    strcpy(made.head_address, "ipc:///tmp/head");
    strcpy(made.bind, "tcp://[fd00::2]:*");
    made.has_key = true;
    CHECK_OK(tr_curve_key_new(&made.key, &err));
    void *bytes;
    size_t size;
    tr_launch read = {0};
    CHECK_OK(tr__launch_encode(&made, &bytes, &size, &err));
    CHECK_OK(tr__launch_decode(&read, bytes, size, &err));
    CU_ASSERT(read.role == TR_LAUNCH_WORKER && read.node == 3 && read.epoch == 7 && read.may_spin &&
              read.lease_ms == 30000);
    CU_ASSERT_STRING_EQUAL(read.head_address, "ipc:///tmp/head");
    CU_ASSERT_STRING_EQUAL(read.bind, made.bind);
    CU_ASSERT(read.has_key && memcmp(&read.key, &made.key, sizeof made.key) == 0);
    CU_ASSERT(read.topology_bytes == sizeof topology &&
              memcmp(read.topology, topology, sizeof topology) == 0);
    tr_launch_release(&read);
    CU_ASSERT_EQUAL(read.key.secret_half[0], 0);
    for (size_t cut = 0; cut < size; cut++) {
        CU_ASSERT_EQUAL(tr__launch_decode(&read, bytes, cut, &err), TR_ECORRUPT);
        tr_launch_release(&read);
    }
    tr_free(bytes);
}

static void a_role_that_is_none_is_refused(void)
{
    tr_launch made = {.node = 1, .n_threads = 1}, read = {0};
    void *bytes;
    size_t size;
    CHECK_OK(tr__launch_encode(&made, &bytes, &size, &err));
    CU_ASSERT_EQUAL(tr__launch_decode(&read, bytes, size, &err), TR_ECORRUPT);
    tr_launch_release(&read);
    tr_free(bytes);
}

static const check_test tests[] = {
    CHECK_TEST(a_launch_comes_over_whole_or_not_at_all),
    CHECK_TEST(a_role_that_is_none_is_refused),
};
CHECK_MAIN("launch", tests)
