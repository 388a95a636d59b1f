/* test/pipelines/trace_file_test.c - trace.json is whole after every batch, times are exact, what lies between two spans is
 * waiting, what was dropped is told, and a disk that takes no more is an error.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/trace_file.h"

#include "check.h"
#include "pipelines/files.h"

#include <jansson.h>

static tr_error err;
static char *home, *path;
static tr_topology topology;
static tr_actor_id first, second;

static void enter(void)
{
    home = enter_directory();
    path = path_in(home, "trace.json");
    tr_topology_init(&topology, 2);
    CHECK_OK(tr_topology_add_actor(&topology, "first", "b", 0, NULL, 0, 0, &first, &err));
    CHECK_OK(tr_topology_add_actor(&topology, "second", "b", 1, NULL, 0, 0, &second, &err));
}

static void leave(void)
{
    tr_topology_release(&topology);
    tr_free(path);
    leave_directory(home);
}

/* The file as it is now; it has n events besides the names of two processes and two rows. */
static json_t *read_events(size_t n)
{
    json_t *events = json_load_file(path, JSON_REJECT_DUPLICATES, NULL);
    CU_ASSERT_FATAL(json_is_array(events));
    CU_ASSERT_EQUAL(json_array_size(events), 4 + n);
    return events;
}

static void expect_event(const json_t *events, size_t at, const char *name, int pid, int tid, double ts,
                         double dur)
{
    const json_t *event = json_array_get(events, 4 + at);
    CU_ASSERT_STRING_EQUAL(json_string_value(json_object_get(event, "name")), name);
    CU_ASSERT_EQUAL(json_integer_value(json_object_get(event, "pid")), pid);
    CU_ASSERT_EQUAL(json_integer_value(json_object_get(event, "tid")), tid);
    CU_ASSERT_DOUBLE_EQUAL(json_real_value(json_object_get(event, "ts")), ts, 1e-6);
    if (dur >= 0) CU_ASSERT_DOUBLE_EQUAL(json_real_value(json_object_get(event, "dur")), dur, 1e-6);
}

static void the_file_is_whole_after_every_batch(void)
{
    enter();
    tr_trace_file *file;
    const tr_span spans[] = {{1000002007, 1000003009, 1, 4, TR_SPAN_FORWARD},
                             {1000003010, 1000009010, 1, 5, TR_SPAN_BACKWARD},
                             {1000019010, 1000019011, 2, 0, TR_SPAN_UPDATE}};
    CHECK_OK(tr_trace_file_open(&file, path, &topology, 1000000000, &err));
    json_decref(read_events(0));
    CHECK_OK(tr_trace_file_add(file, second, spans, 2, 0, &err));
    json_decref(read_events(3));
    CHECK_OK(tr_trace_file_add(file, first, spans + 1, 1, 0, &err));
    json_decref(read_events(5));
    CHECK_OK(tr_trace_file_add(file, second, spans + 2, 1, 0, &err));
    CHECK_OK(tr_trace_file_add(file, second, NULL, 0, 0, &err));
    CHECK_OK(tr_trace_file_add(file, 12345, spans, 2, 0, &err)); /* nobody */
    tr_trace_file_close(&file);
    tr_trace_file_close(&file);
    json_t *events = read_events(7);
    expect_event(events, 0, "waiting", 1, 2, 0, 2.007);
    expect_event(events, 1, "forward", 1, 2, 2.007, 1.002);
    expect_event(events, 2, "backward", 1, 2, 3.010, 6); /* a nanosecond is no waiting */
    expect_event(events, 3, "waiting", 0, 1, 0, 3.010);
    expect_event(events, 4, "backward", 0, 1, 3.010, 6);
    expect_event(events, 5, "waiting", 1, 2, 9.010, 10);
    expect_event(events, 6, "update", 1, 2, 19.010, 0.001);
    json_decref(events);
    leave();
}

static void what_was_dropped_is_told(void)
{
    enter();
    tr_trace_file *file;
    const tr_span span = {1000, 2000, 1, 0, TR_SPAN_WEIGHT};
    CHECK_OK(tr_trace_file_open(&file, path, &topology, 1000, &err));
    CHECK_OK(tr_trace_file_add(file, second, &span, 1, 3, &err));
    CHECK_OK(tr_trace_file_add(file, second, NULL, 0, 3, &err));
    CHECK_OK(tr_trace_file_add(file, first, NULL, 0, 4, &err));
    CU_ASSERT_EQUAL(tr_trace_file_dropped(file), 7);
    tr_trace_file_close(&file);
    json_t *events = read_events(3);
    expect_event(events, 0, "weight gradient", 1, 2, 0, 1);
    expect_event(events, 1, "3 spans dropped", 1, 2, 1, -1);
    expect_event(events, 2, "4 spans dropped", 0, 1, 0, -1);
    json_decref(events);
    leave();
}

static void a_disk_that_takes_no_more_is_an_error(void)
{
    enter();
    tr_trace_file *file = NULL;
    char *nowhere = path_in(home, "none/trace.json");
    CU_ASSERT_EQUAL(tr_trace_file_open(&file, nowhere, &topology, 0, &err), TR_EIO);
    CU_ASSERT(message_has(&err, "none/trace.json"));
    CU_ASSERT_EQUAL(tr_trace_file_open(&file, "/dev/full", &topology, 0, &err), TR_EIO);
    CU_ASSERT(message_has(&err, "No space left"));
    CU_ASSERT_PTR_NULL(file);
    tr_free(nowhere);
    leave();
}

static void no_memory_leaves_nothing(void)
{
    enter();
    for (uint64_t n = 1;; n++) {
        tr_trace_file *file = NULL;
        tr_memory_fail_after(n);
        tr_status status = tr_trace_file_open(&file, path, &topology, 0, &err);
        tr_memory_fail_after(0);
        tr_trace_file_close(&file);
        if (!status) break;
        CU_ASSERT(status == TR_ENOMEM && n < 10);
    }
    leave();
}

static const check_test tests[] = {
    CHECK_TEST(the_file_is_whole_after_every_batch),
    CHECK_TEST(what_was_dropped_is_told),
    CHECK_TEST(a_disk_that_takes_no_more_is_an_error),
    CHECK_TEST(no_memory_leaves_nothing),
};
CHECK_MAIN("trace_file", tests)
