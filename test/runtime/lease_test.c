/* test/runtime/lease_test.c - what agent, workers and a new head say to one another comes over whole or not at all, and who is
 * not there is not found.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/orphans.h"

#include "base/memory.h"
#include "check.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static tr_error err;

static void make_topology(tr_topology *topology, uint64_t state_bytes)
{
    tr_topology_init(topology, 3);
    CHECK_OK(tr_topology_add_actor(topology, "one", "kind", 1, "config", 6, state_bytes, NULL, &err));
    CHECK_OK(tr_topology_add_actor(topology, "two", "kind", 2, NULL, 0, 0, NULL, &err));
}

static int memory_of(const char *bytes, size_t size)
{
    int descriptor = memfd_create("test", MFD_CLOEXEC);
    CU_ASSERT_FATAL(descriptor >= 0 && write(descriptor, bytes, size) == (ssize_t)size);
    return descriptor;
}

static void an_offer_comes_over_whole_or_not_at_all(void)
{
    tr_place_seen workers[3] = {{0}, {11, 4, 111}, {22, 4, 222}};
    tr_lease_offer made = {.agent_pid = 7, .epoch = 5, .lost_ns = 1234567890123u, .workers = workers};
    tr_lease_offer read;
    strcpy(made.data_transport, "zmq");
    strcpy(made.bind, "tcp://127.0.0.1:*");
    make_topology(&made.topology, 64);
    int descriptor = -1;
    CHECK_OK(tr_lease_offer_write(&made, &descriptor, &err));
    CHECK_OK(tr_lease_offer_read(&read, descriptor, &err));
    CU_ASSERT(read.agent_pid == 7 && read.epoch == 5 && read.lost_ns == 1234567890123u);
    CU_ASSERT_STRING_EQUAL(read.data_transport, "zmq");
    CU_ASSERT_STRING_EQUAL(read.bind, made.bind);
    CU_ASSERT_STRING_EQUAL(read.public_key, "");
    CU_ASSERT(memcmp(read.workers, workers, sizeof workers) == 0);
    CU_ASSERT(tr_topology_has_same_places(&read.topology, &made.topology));
    tr_lease_offer_release(&read);
    struct stat info;
    CU_ASSERT_FATAL(fstat(descriptor, &info) == 0 && info.st_size > 0 && info.st_size < 4096);
    char bytes[4096];
    CU_ASSERT_FATAL(pread(descriptor, bytes, sizeof bytes, 0) == info.st_size);
    for (size_t cut = 0; cut < (size_t)info.st_size; cut++) {
        int part = memory_of(bytes, cut);
        CU_ASSERT_EQUAL(tr_lease_offer_read(&read, part, &err), TR_ECORRUPT);
        tr_lease_offer_release(&read);
        close(part);
    }
    for (size_t i = 0; i < (size_t)info.st_size; i++) { /* whatever it says then, it is read within bounds */
        bytes[i] ^= 0x55;
        int part = memory_of(bytes, (size_t)info.st_size);
        if (tr_lease_offer_read(&read, part, &err) == TR_OK) CU_ASSERT(read.topology.n_nodes >= 1);
        tr_lease_offer_release(&read);
        close(part);
        bytes[i] ^= 0x55;
    }
    close(descriptor);
    tr_topology_release(&made.topology);
}

static void places_are_the_same_only_where_all_of_them_are(void)
{
    tr_topology one, other;
    make_topology(&one, 64);
    make_topology(&other, 64);
    CU_ASSERT(tr_topology_has_same_places(&one, &other));
    other.actors[1].node = 1;
    CU_ASSERT(!tr_topology_has_same_places(&one, &other));
    other.actors[1].node = 2;
    strcpy(other.actors[0].name, "eno");
    CU_ASSERT(!tr_topology_has_same_places(&one, &other));
    tr_topology_release(&other);
    make_topology(&other, 65);
    CU_ASSERT(!tr_topology_has_same_places(&one, &other));
    tr_topology_release(&other);
    tr_topology_release(&one);
}

static void words_come_in_order_until_nobody_speaks(void)
{
    int ends[2];
    bool gone = true;
    tr_lease_word wait = {0}, made = {.epoch = 9}, heard = {.epoch = 77};
    memset(made.job_key, 0x5a, sizeof made.job_key);
    memset(made.head_address, 'a', sizeof made.head_address - 1); /* as long as one may be */
    CU_ASSERT_FATAL(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
    CU_ASSERT(!tr_lease_hear(ends[1], &heard, &gone) && !gone);
    CU_ASSERT(tr_lease_tell(ends[0], &wait) && tr_lease_tell(ends[0], &made));
    CU_ASSERT(tr_lease_hear(ends[1], &heard, &gone) && heard.epoch == 0);
    CU_ASSERT(tr_lease_hear(ends[1], &heard, &gone) && memcmp(&heard, &made, sizeof made) == 0);
    CU_ASSERT(send(ends[0], "nonsense", 8, 0) == 8);
    CU_ASSERT(!tr_lease_hear(ends[1], &heard, &gone) && !gone);
    close(ends[0]);
    CU_ASSERT(!tr_lease_hear(ends[1], &heard, &gone) && gone);
    CU_ASSERT(!tr_lease_tell(ends[1], &made));
    close(ends[1]);
}

static void who_listens_is_found_and_nobody_else(void)
{
    char path[] = "/tmp/troupe-lease-XXXXXX";
    CU_ASSERT_FATAL(mkdtemp(path) != NULL);
    int directory = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC), listener = -1, connection = -1;
    tr_orphans *orphans = NULL;
    CU_ASSERT_EQUAL(tr_local_connect(directory, TR_LEASE_SOCKET, &connection, &err), TR_ENOTFOUND);
    CU_ASSERT_EQUAL(tr_orphans_find(&orphans, directory, &err), TR_ENOTFOUND);
    CHECK_OK(tr_local_listen(directory, TR_LEASE_SOCKET, &listener, &err));
    CHECK_OK(tr_local_connect(directory, TR_LEASE_SOCKET, &connection, &err));
    int32_t pid = 0;
    int accepted = tr_local_accept(listener, &pid), descriptors[2], pair[2] = {directory, listener};
    CU_ASSERT_FATAL(accepted >= 0 && pid == getpid());
    tr_lease_kind kind;
    CU_ASSERT(tr_lease_receive(connection, &kind, descriptors) && kind == (tr_lease_kind)0);
    CU_ASSERT(tr_lease_send(accepted, TR_LEASE_OFFER, pair, 2));
    CU_ASSERT(tr_lease_receive(connection, &kind, descriptors) && kind == TR_LEASE_OFFER);
    CU_ASSERT(descriptors[0] > 2 && descriptors[1] > 2);
    close(descriptors[0]);
    close(descriptors[1]);
    CU_ASSERT(send(accepted, "?", 1, 0) == 1);
    CU_ASSERT(!tr_lease_receive(connection, &kind, descriptors));
    close(accepted);
    CU_ASSERT(!tr_lease_receive(connection, &kind, descriptors));
    close(connection);
    close(listener); /* as a death leaves it */
    CU_ASSERT_EQUAL(tr_orphans_find(&orphans, directory, &err), TR_ENOTFOUND);
    CHECK_OK(tr_local_listen(directory, TR_LEASE_SOCKET, &listener,
                             &err)); /* and the next agent is not kept from it */
    close(listener);
    unlinkat(directory, TR_LEASE_SOCKET, 0);
    close(directory);
    CU_ASSERT(rmdir(path) == 0);
}

static const check_test tests[] = {
    CHECK_TEST(an_offer_comes_over_whole_or_not_at_all),
    CHECK_TEST(places_are_the_same_only_where_all_of_them_are),
    CHECK_TEST(words_come_in_order_until_nobody_speaks),
    CHECK_TEST(who_listens_is_found_and_nobody_else),
};
CHECK_MAIN("lease", tests)
