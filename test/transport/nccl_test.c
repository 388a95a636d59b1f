/* test/transport/nccl_test.c - groups by NCCL, over a library that has its names and moves memory between threads
 * (fake_nccl.c). With the real one between GPUs: cli/cuda_train_test, on a machine with two.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/clock.h"
#include "base/memory.h"
#include "check.h"
#include "transport/collective.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MEMBERS = 3, ROUNDS = 20, FLOATS = 1000 };

typedef struct member {
    uint32_t number;
    const uint8_t *name;
    tr_status status;
    uint32_t wrong;
    tr_error err;
} member;

static tr_status settle(tr_group *group, uint32_t limit_ms, tr_error *err)
{
    uint64_t until = tr_clock_ns() + (uint64_t)limit_ms * 1000000;
    bool settled = false;
    tr_status status = TR_OK;
    while (!status && !settled) {
        status = tr_nccl.settle(group, &settled, err);
        if (!status && !settled && tr_clock_ns() > until) return tr_fail(err, TR_ETIMEDOUT, "not settled");
        if (!settled) tr_clock_sleep_ms(1);
    }
    return status;
}

static float sent_by(uint32_t from, uint32_t to, uint32_t round, size_t i)
{
    return (float)(from * 1000 + to * 100 + round) + (float)i / 1024;
}

/* Two pieces to each, so that their order is looked at too. */
static void exchange_with_all(member *self, tr_group *group, float *memory)
{
    tr_transfer transfers[4 * MEMBERS];
    for (uint32_t round = 0; round < ROUNDS && !self->status; round++) {
        size_t n = 0, half = FLOATS / 3;
        for (uint32_t peer = 0; peer < MEMBERS; peer++) {
            float *out = memory + (size_t)peer * FLOATS, *in = memory + (size_t)(MEMBERS + peer) * FLOATS;
            if (peer == self->number) continue;
            for (size_t i = 0; i < FLOATS; i++) out[i] = sent_by(self->number, peer, round, i), in[i] = -1;
            transfers[n++] = (tr_transfer){peer, true, out, half * sizeof *out};
            transfers[n++] = (tr_transfer){peer, true, out + half, (FLOATS - half) * sizeof *out};
            transfers[n++] = (tr_transfer){peer, false, in, half * sizeof *in};
            transfers[n++] = (tr_transfer){peer, false, in + half, (FLOATS - half) * sizeof *in};
        }
        self->status = tr_nccl.exchange(group, transfers, n, &self->err);
        for (uint32_t peer = 0; peer < MEMBERS && !self->status; peer++)
            for (size_t i = 0; i < FLOATS && peer != self->number; i++)
                self->wrong +=
                    memory[(size_t)(MEMBERS + peer) * FLOATS + i] != sent_by(peer, self->number, round, i);
    }
}

static void *live(void *context)
{
    member *self = context;
    tr_device *device = NULL;
    tr_stream *stream = NULL;
    tr_group *group = NULL;
    float *memory = tr_alloc_zero(2 * MEMBERS * FLOATS, sizeof *memory);
    tr_group_options options = {.n_members = MEMBERS, .member = self->number};
    memcpy(options.name, self->name, sizeof options.name);
    self->status = tr_device_open(&device, TR_DEVICE_CPU, 0, &self->err);
    if (!self->status) self->status = tr_stream_new(&stream, device, &self->err);
    options.stream = stream;
    if (!self->status) self->status = tr_nccl.join(&group, &options, &self->err);
    if (!self->status) self->status = settle(group, CHECK_SIZE(20000, 1000), &self->err);
    if (!self->status) exchange_with_all(self, group, memory);
    tr_status left = tr_nccl.leave(&group, &self->err);
    if (!self->status) self->status = left;
    tr_stream_destroy(&stream);
    tr_device_close(&device);
    tr_free(memory);
    return NULL;
}

/* First, since what has been loaded stays. */
static void a_missing_library_is_named(void)
{
    tr_error err = {0};
    char text[64];
    uint8_t name[TR_GROUP_NAME_BYTES];
    setenv("TROUPE_NCCL", "/nowhere/libnccl.so.2", 1);
    CU_ASSERT_EQUAL(tr_nccl.describe(text, sizeof text, &err), TR_EUNSUPPORTED);
    CU_ASSERT(strstr(err.message, "NCCL is not here") && strstr(err.message, "/nowhere/libnccl.so.2"));
    CU_ASSERT_EQUAL(tr_nccl.name_group(name, &err), TR_EUNSUPPORTED);
    setenv("TROUPE_NCCL", FAKE_NCCL, 1);
    CHECK_OK(tr_nccl.describe(text, sizeof text, &err));
    CU_ASSERT_STRING_EQUAL(text, "NCCL 2.20.0");
}

static void members_get_what_they_are_sent(void)
{
    uint8_t name[TR_GROUP_NAME_BYTES];
    tr_error err = {0};
    member members[MEMBERS];
    pthread_t threads[MEMBERS];
    CHECK_OK(tr_nccl.name_group(name, &err));
    for (uint32_t m = 0; m < MEMBERS; m++) {
        members[m] = (member){.number = m, .name = name};
        CU_ASSERT_EQUAL_FATAL(pthread_create(&threads[m], NULL, live, &members[m]), 0);
    }
    for (uint32_t m = 0; m < MEMBERS; m++) {
        pthread_join(threads[m], NULL);
        if (members[m].status) fprintf(stderr, "member %u: %s\n", m, members[m].err.message);
        CU_ASSERT_EQUAL(members[m].status, TR_OK);
        CU_ASSERT_EQUAL(members[m].wrong, 0);
    }
}

/* What a member needs to join a group of two, and the group. */
typedef struct membership {
    tr_device *device;
    tr_stream *stream;
    tr_group *group;
    tr_group_options options;
} membership;

static void prepare(membership *self, uint32_t number)
{
    tr_error err = {0};
    *self = (membership){.options = {.n_members = 2, .member = number}};
    CHECK_OK(tr_nccl.name_group(self->options.name, &err));
    CHECK_OK(tr_device_open(&self->device, TR_DEVICE_CPU, 0, &err));
    CHECK_OK(tr_stream_new(&self->stream, self->device, &err));
    self->options.stream = self->stream;
}

static void release(membership *self)
{
    tr_stream_destroy(&self->stream);
    tr_device_close(&self->device);
}

static void who_waits_for_a_member_that_never_comes_can_leave(void)
{
    membership self;
    tr_error err = {0};
    prepare(&self, 0);
    CHECK_OK(tr_nccl.join(&self.group, &self.options, &err));
    CU_ASSERT_EQUAL(settle(self.group, 20, &err), TR_ETIMEDOUT);
    CHECK_OK(tr_nccl.leave(&self.group, &err));
    CU_ASSERT_PTR_NULL(self.group);
    CHECK_OK(tr_nccl.leave(&self.group, &err)); /* there is none */
    release(&self);
}

static void what_the_library_refuses_is_told(void)
{
    membership self;
    tr_error err = {0};
    prepare(&self, 1);
    setenv("FAKE_NCCL_REFUSES", "1", 1);
    CU_ASSERT_EQUAL(tr_nccl.join(&self.group, &self.options, &err), TR_EIO);
    CU_ASSERT(strstr(err.message, "ncclCommInitRankConfig failed: a system error") != NULL);
    CU_ASSERT_PTR_NULL(self.group);
    unsetenv("FAKE_NCCL_REFUSES");
    release(&self);
}

/* What it holds is left to it: the process is what ends. */
static void a_group_that_cannot_be_left_is_given_up_within_its_time(void)
{
    membership self;
    tr_error err = {0};
    prepare(&self, 0);
    CHECK_OK(tr_nccl.join(&self.group, &self.options, &err));
    setenv("FAKE_NCCL_HANGS", "1", 1);
    if (CHECK_SIZE(false, true)) return; /* it waits for seconds */
    uint64_t began_ns = tr_clock_ns();
    CU_ASSERT_EQUAL(tr_nccl.leave(&self.group, &err), TR_EIO);
    uint64_t took_ms = (tr_clock_ns() - began_ns) / 1000000;
    CU_ASSERT(strstr(err.message, "an exchange is still on the device 5 s after it was given up") != NULL);
    CU_ASSERT(took_ms >= TR_GROUP_LEAVE_MS && took_ms < 3 * TR_GROUP_LEAVE_MS);
    CU_ASSERT_PTR_NULL(self.group);
}

static const check_test tests[] = {
    CHECK_TEST(a_missing_library_is_named),
    CHECK_TEST(members_get_what_they_are_sent),
    CHECK_TEST(who_waits_for_a_member_that_never_comes_can_leave),
    CHECK_TEST(what_the_library_refuses_is_told),
    CHECK_TEST(a_group_that_cannot_be_left_is_given_up_within_its_time), /* last: a thread of it stays */
};

int main(void)
{
    setenv("TROUPE_NCCL", FAKE_NCCL, 1); /* where memory fails each test runs by itself */
    alarm(100);
    return check_run("transport/nccl", tests, sizeof tests / sizeof *tests);
}
