/* test/pipelines/processes_test.c - what the head writes for onlookers reads back, and nothing else reads.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/processes.h"

#include "check.h"
#include "files.h"

#include <unistd.h>

static char *directory;

static void fill(tr_topology *topology)
{
    tr_error err = {0};
    tr_topology_init(topology, 2);
    CHECK_OK(tr_topology_add_actor(topology, "one \"a\"", "x", 0, NULL, 0, 0, NULL, &err));
    CHECK_OK(tr_topology_add_actor(topology, "two", "y", 1, NULL, 0, 0, NULL, &err));
    CHECK_OK(tr_topology_add_edge(topology, "words", 1, 2, 3, 8, NULL, &err));
}

static void what_is_written_reads_back(void)
{
    tr_error err = {0};
    tr_topology topology;
    tr_processes read;
    tr_place_seen places[] = {tr_place_of(getpid(), 5), {.pid = 123, .descriptor = 4, .started = 77}};
    fill(&topology);
    tr_processes_remove(directory); /* what a run before this one may have left, where memory fails */
    CU_ASSERT_EQUAL(tr_processes_read(&read, directory, &err), TR_ENOTFOUND);
    CHECK_OK(tr_processes_write(directory, &topology, NULL, 1, 100, 42, &err));
    CHECK_OK(tr_processes_read(&read, directory, &err));
    CU_ASSERT(read.places[0].pid == getpid() && read.places[0].descriptor == -1);
    CU_ASSERT(tr_place_lives(&read.places[0]));
    CU_ASSERT(read.places[1].pid == 0 && read.places[1].descriptor == -1);
    tr_processes_release(&read);
    CHECK_OK(tr_processes_write(directory, &topology, places, 3, 100, 42, &err));
    CHECK_OK(tr_processes_read(&read, directory, &err));
    CU_ASSERT(read.epoch == 3 && read.n_steps == 100 && read.began_ns == 42);
    CU_ASSERT(memcmp(read.places, places, sizeof places) == 0);
    CU_ASSERT(read.topology.n_nodes == 2 && read.topology.n_actors == 2 && read.topology.n_edges == 1);
    CU_ASSERT_STRING_EQUAL(read.topology.actors[0].name, "one \"a\"");
    CU_ASSERT_STRING_EQUAL(read.topology.actors[1].behavior, "y");
    CU_ASSERT_EQUAL(read.topology.actors[1].node, 1);
    CU_ASSERT_STRING_EQUAL(read.topology.edges[0].name, "words");
    CU_ASSERT(read.topology.edges[0].source == 1 && read.topology.edges[0].destination == 2);
    tr_processes_release(&read);
    tr_processes_remove(directory);
    CU_ASSERT_EQUAL(tr_processes_read(&read, directory, &err), TR_ENOTFOUND);
    tr_topology_release(&topology);
}

static void what_is_damaged_is_refused(void)
{
    static const char *const texts[] = {
        "", "[]", "{}",
        "{\"host\":\"a\",\"epoch\":1,\"steps\":1,\"began_ns\":1,\"nodes\":[],\"actors\":[],\"edges\":[]}",
        /* no actor; a node that there is not; an edge from nobody; a pid that is none; a host that writes on terminals */
        "{\"host\":\"a\",\"epoch\":1,\"steps\":1,\"began_ns\":1,\"nodes\":[{\"pid\":1,\"page\":1,\"started\":"
        "1}],"
        "\"actors\":[],\"edges\":[]}",
        "{\"host\":\"a\",\"epoch\":1,\"steps\":1,\"began_ns\":1,\"nodes\":[{\"pid\":1,\"page\":1,\"started\":"
        "1}],"
        "\"actors\":[{\"name\":\"n\",\"kind\":\"k\",\"node\":1}],\"edges\":[]}",
        "{\"host\":\"a\",\"epoch\":1,\"steps\":1,\"began_ns\":1,\"nodes\":[{\"pid\":1,\"page\":1,\"started\":"
        "1}],"
        "\"actors\":[{\"name\":\"n\",\"kind\":\"k\",\"node\":0}],\"edges\":[[\"e\",1,2]]}",
        "{\"host\":\"a\",\"epoch\":1,\"steps\":1,\"began_ns\":1,\"nodes\":[{\"pid\":-1,\"page\":1,"
        "\"started\":1}],"
        "\"actors\":[{\"name\":\"n\",\"kind\":\"k\",\"node\":0}],\"edges\":[]}",
        "{\"host\":\"\\u001b[2J\",\"epoch\":1,\"steps\":1,\"began_ns\":1,\"nodes\":[{\"pid\":1,\"page\":1,"
        "\"started\":1}],"
        "\"actors\":[{\"name\":\"n\",\"kind\":\"k\",\"node\":0}],\"edges\":[]}"};
    static const char good[] =
        "{\"host\":\"a\",\"epoch\":1,\"steps\":1,\"began_ns\":1,\"nodes\":[{\"pid\":1,\"page\":1,"
        "\"started\":1}],\"actors\":[{\"name\":\"n\",\"kind\":\"k\",\"node\":0}],\"edges\":[]}";
    tr_error err = {0};
    tr_processes read;
    char *path = path_in(directory, "processes.json");
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        CHECK_OK(tr_file_write(path, texts[i], strlen(texts[i]), &err));
        CU_ASSERT_EQUAL(tr_processes_read(&read, directory, &err), TR_ECORRUPT);
    }
    CHECK_OK(tr_file_write(path, good, strlen(good), &err));
    CHECK_OK(tr_processes_read(&read, directory, &err)); /* so it was not something else */
    tr_processes_release(&read);
    tr_free(path);
}

int main(void)
{
    static const check_test tests[] = {
        CHECK_TEST(what_is_written_reads_back),
        CHECK_TEST(what_is_damaged_is_refused),
    };
    directory = enter_directory();
    int result = check_run("processes", tests, sizeof tests / sizeof *tests);
    leave_directory(directory);
    return result;
}
