/* test/base/device_test.c - devices: the CPU as one, names and numbers that there are not, libraries that are missing.
 * What a GPU adds is in test/ops/cuda_test.c, which needs one.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/device.h"
#include "base/library.h"
#include "base/memory.h"

#include "check.h"

#include <string.h>

static void the_cpu_copies_fills_and_tells_time_at_once(void)
{
    tr_error err = {0};
    tr_device *device = NULL;
    tr_stream *stream = NULL;
    tr_event *before = NULL, *after = NULL;
    void *a = NULL, *b = NULL;
    bool done = false;
    double ms = -1;
    CHECK_OK(tr_device_open(&device, TR_DEVICE_CPU, 0, &err));
    CHECK_OK(tr_stream_new(&stream, device, &err));
    CHECK_OK(tr_event_new(&before, device, true, &err));
    CHECK_OK(tr_event_new(&after, device, true, &err));
    CHECK_OK(tr_device_allocate(device, TR_MEMORY_DEVICE, 100, &a, &err));
    CHECK_OK(tr_device_allocate(device, TR_MEMORY_PINNED, 100, &b, &err));
    CHECK_OK(tr_event_record(before, stream, &err));
    CHECK_OK(tr_stream_fill(stream, a, 7, 100, &err));
    CHECK_OK(tr_stream_copy(stream, b, a, 100, &err));
    CHECK_OK(tr_event_record(after, stream, &err));
    CHECK_OK(tr_stream_wait(stream, after, &err));
    CHECK_OK(tr_event_await(after, &err));
    CHECK_OK(tr_device_use(device, &err));
    CHECK_OK(tr_device_pin(device, b, 100, &err));
    tr_device_unpin(device, b);
    CHECK_OK(tr_stream_synchronize(stream, &err));
    for (int i = 0; i < 100; i++) CU_ASSERT_EQUAL(((unsigned char *)b)[i], 7);
    CHECK_OK(tr_event_done(after, &done, &err));
    CHECK_OK(tr_event_elapsed_ms(before, after, &ms, &err));
    CU_ASSERT(done && ms >= 0);
    CU_ASSERT(tr_device_memory_bytes(device) > 0);
    CU_ASSERT_STRING_EQUAL(tr_device_name(device), "CPU");
    CU_ASSERT_EQUAL(tr_device_allocate(device, TR_MEMORY_SHARED, 1, &a, &err), TR_EUNSUPPORTED);
    tr_device_free(device, TR_MEMORY_DEVICE, a);
    tr_device_free(device, TR_MEMORY_PINNED, b);
    tr_event_destroy(&before);
    tr_event_destroy(&after);
    tr_stream_destroy(&stream);
    tr_device_close(&device);
    CU_ASSERT_PTR_NULL(device);
}

static void a_devices_buffer_is_counted_and_says_where_it_is(void)
{
    tr_error err = {0};
    tr_device *device = NULL;
    tr_buffer *buffer = NULL;
    CHECK_OK(tr_device_open(&device, TR_DEVICE_CPU, 0, &err));
    CHECK_OK(tr_device_buffer_new(device, TR_MEMORY_PINNED, 64, &buffer, &err));
    CU_ASSERT_EQUAL(buffer->kind, TR_MEMORY_PINNED);
    CU_ASSERT_EQUAL(buffer->device, -1);
    CU_ASSERT_EQUAL(buffer->size_bytes, 64);
    tr_buffer *other = tr_buffer_retain(buffer);
    tr_buffer_release(&other);
    CU_ASSERT(tr_buffer_is_unique(buffer));
    tr_buffer_release(&buffer); /* a leak checker sees whether its memory went */
    CHECK_OK(tr_device_buffer_new(device, TR_MEMORY_DEVICE, 0, &buffer, &err));
    CU_ASSERT_EQUAL(buffer->device, 0);
    tr_buffer_release(&buffer);
    tr_device_close(&device);
}

/* A message may outlive the stage that made it. */
static void a_buffer_keeps_its_device_open(void)
{
    tr_error err = {0};
    tr_device *device = NULL;
    tr_buffer *buffer = NULL;
    int64_t before = tr_memory_blocks();
    CHECK_OK(tr_device_open(&device, TR_DEVICE_CPU, 0, &err));
    CHECK_OK(tr_device_buffer_new(device, TR_MEMORY_PINNED, 64, &buffer, &err));
    int64_t held = tr_memory_blocks();
    tr_device_close(&device);
    CU_ASSERT_PTR_NULL(device);
    CU_ASSERT_EQUAL(tr_memory_blocks(), held); /* it is still there */
    tr_buffer_release(&buffer);                /* which asks it */
    CU_ASSERT_EQUAL(tr_memory_blocks(), before);
    tr_device_close(&device);
}

static void what_there_is_not_is_named(void)
{
    tr_error err = {0};
    tr_device_kind kind = TR_DEVICE_CPU;
    tr_device *device = NULL;
    int32_t n = 0;
    CHECK_OK(tr_device_kind_parse(&kind, "cuda", &err));
    CU_ASSERT_EQUAL(kind, TR_DEVICE_CUDA);
    CU_ASSERT_STRING_EQUAL(tr_device_kind_name(kind), "cuda");
    CU_ASSERT_EQUAL(tr_device_kind_parse(&kind, "abacus", &err), TR_EINVAL);
    CU_ASSERT_STRING_EQUAL(err.message, "there is no device 'abacus'; there are 'cpu' and 'cuda'");
    CHECK_OK(tr_device_count(TR_DEVICE_CPU, &n, &err));
    CU_ASSERT_EQUAL(n, 1);
    CU_ASSERT_EQUAL(tr_device_open(&device, TR_DEVICE_CPU, 1, &err), TR_ENOTFOUND);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.message, "'cpu:1'"));
    err = (tr_error){0};
    tr_status status = tr_device_count(TR_DEVICE_CUDA, &n, &err);
    if (status == TR_EUNSUPPORTED)
        CU_ASSERT(strstr(err.message, "libcuda.so.1") || strstr(err.message, "this build has no CUDA") ||
                  strstr(err.message, "driver"));
    if (status == TR_OK) CU_ASSERT(n > 0);
}

static void a_library_or_a_function_that_is_missing_is_named(void)
{
    tr_error err = {0};
    void *cosine = NULL, *nothing = NULL;
    static const char *const none[] = {"libnothing-of-the-kind.so.1", NULL},
                             *const maths[] = {"libnothing-of-the-kind.so.1", "libm.so.6", NULL};
    const tr_library_symbol both[] = {{"cos", &cosine}, {"no_such_function", &nothing}};
    CU_ASSERT_EQUAL(tr_library_load("the library", none, both, 1, &err), TR_EUNSUPPORTED);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.message, "libnothing-of-the-kind.so.1"));
    CHECK_OK(tr_library_load("the library", maths, both, 1, &err));
    CU_ASSERT_PTR_NOT_NULL(cosine);
    CU_ASSERT_EQUAL(tr_library_load("the library", maths, both, 2, &err), TR_EUNSUPPORTED);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.message, "'no_such_function'"));
}

static const check_test tests[] = {
    CHECK_TEST(the_cpu_copies_fills_and_tells_time_at_once),
    CHECK_TEST(a_devices_buffer_is_counted_and_says_where_it_is),
    CHECK_TEST(a_buffer_keeps_its_device_open),
    CHECK_TEST(what_there_is_not_is_named),
    CHECK_TEST(a_library_or_a_function_that_is_missing_is_named),
};

CHECK_MAIN("device", tests)
