/* test/pipelines/devices_test.c - failures are counted by device, and workers are dealt out to the devices that are left. Devices
 * are played (chaos.devices), which are dealt out as GPUs are.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/devices.h"

#include "base/memory.h"
#include "check.h"

#include <string.h>

static tr_error err;
static const tr_model_config config; /* only GPUs want to know */

enum { MOST = 3 };

/* --- counts --- */

static void a_device_is_left_out_with_the_last_failure_that_it_may_have(void)
{
    tr_device_record record = {0};
    CU_ASSERT(!tr_device_record_has_failures(&record) && !tr_device_record_has_failures(NULL));
    CU_ASSERT(!tr_device_record_fail(&record, 1, MOST) && !tr_device_record_fail(&record, 1, MOST));
    CU_ASSERT(tr_device_record_has_failures(&record));
    CU_ASSERT_EQUAL(tr_device_record_out(&record), 0);
    CU_ASSERT(!tr_device_record_fail(&record, 0, MOST)); /* another one's is its own */
    CU_ASSERT(tr_device_record_fail(&record, 1, MOST));
    CU_ASSERT(tr_device_record_out(&record) == 1 && tr_device_record_left(&record, 4) == 3);
    CU_ASSERT(!tr_device_record_fail(&record, 1, MOST)); /* told once: who was on it may still end of it */
    CU_ASSERT_EQUAL(record.n_failures[1], MOST);
}

static void no_device_is_left_out_where_none_shall_be(void)
{
    tr_device_record record = {0};
    for (int i = 0; i < 1000; i++) CU_ASSERT(!tr_device_record_fail(&record, 0, 0));
    CU_ASSERT(!tr_device_record_fail(&record, -1, 1) && !tr_device_record_fail(&record, TR_MOST_DEVICES, 1));
    CU_ASSERT_EQUAL(tr_device_record_out(&record), 0);
}

static void those_that_are_left_keep_their_numbers(void)
{
    tr_device_record record = {.is_out = {0, 1, 0, 1}};
    CU_ASSERT_EQUAL(tr_device_record_left(&record, 5), 3);
    CU_ASSERT(tr_device_record_nth(&record, 5, 0) == 0 && tr_device_record_nth(&record, 5, 1) == 2 &&
              tr_device_record_nth(&record, 5, 2) == 4);
    CU_ASSERT(tr_device_record_left(NULL, 5) == 5 && tr_device_record_nth(NULL, 5, 3) == 3);
}

/* --- dealing --- */

typedef struct deal {
    tr_recipe recipe;
    tr_training_plan plan;
    tr_devices devices;
} deal;

static tr_status deal_out(deal *self, int replicas, int stages, int pieces, int devices,
                          const tr_device_record *record, bool only_saves)
{
    *self = (deal){.plan = {.n_replicas = (uint32_t)replicas,
                            .n_stages = (uint32_t)stages,
                            .n_pieces = (uint32_t)pieces}};
    self->recipe.chaos.devices = devices;
    tr_status status =
        tr_devices_choose(&self->devices, &self->recipe, &self->plan, &config, record, only_saves, &err);
    CU_ASSERT_FATAL((status == TR_OK) == (self->devices.stages != NULL));
    return status;
}

/* expected: by replica and stage, ends with -2. */
static void expect_deal(int replicas, int stages, int pieces, int devices, const tr_device_record *record,
                        const int *expected)
{
    deal self;
    CHECK_OK(deal_out(&self, replicas, stages, pieces, devices, record, false));
    for (int i = 0; i < replicas * stages; i++)
        CU_ASSERT_EQUAL(tr_stage_place_device(self.devices.stages[i]), expected[i]);
    CU_ASSERT_EQUAL(expected[replicas * stages], -2);
    CU_ASSERT_EQUAL(self.devices.n_out, tr_device_record_out(record));
    tr_devices_release(&self.devices);
}

static void workers_are_dealt_out_to_those_that_are_left(void)
{
    tr_device_record first = {.is_out = {1}}, middle = {.is_out = {0, 1}}, two = {.is_out = {1, 0, 1}};
    expect_deal(2, 2, 1, 4, NULL, (int[]){0, 1, 2, 3, -2});
    expect_deal(2, 2, 1, 4, &first, (int[]){1, 1, 2, 3, -2}); /* neighbours share */
    expect_deal(2, 2, 1, 4, &two, (int[]){1, 1, 3, 3, -2});
    expect_deal(2, 1, 1, 2, &middle, (int[]){0, 0, -2});
    expect_deal(3, 1, 1, 4, &middle, (int[]){0, 2, 3, -2}); /* there were more than it takes */
    expect_deal(1, 4, 2, 2, &first, (int[]){1, 1, 1, 1, -2});
    expect_deal(2, 2, 1, 0, &first, (int[]){-1, -1, -1, -1, -2}); /* on the CPU, which is none */
}

static void where_none_is_left_nothing_is_dealt_out(void)
{
    tr_device_record all = {.n_failures = {3, 3}, .is_out = {1, 1}};
    deal self;
    CU_ASSERT_EQUAL(deal_out(&self, 2, 1, 1, 2, &all, false), TR_EDEVICE);
    CU_ASSERT_STRING_EQUAL(err.message, "no other device is left");
    CU_ASSERT_PTR_NULL(self.devices.stages);
}

/* What lies in the host's memory is written by the CPU, as soon as a device is not to be trusted. */
static void a_state_is_saved_without_devices_that_failed(void)
{
    tr_device_record all = {.n_failures = {3, 3}, .is_out = {1, 1}}, once = {.n_failures = {0, 1}},
                     none = {{0}, {0}};
    deal self;
    CHECK_OK(deal_out(&self, 2, 1, 1, 2, &all, true));
    CU_ASSERT(tr_stage_place_device(self.devices.stages[0]) == -1 &&
              tr_stage_place_device(self.devices.stages[1]) == -1);
    tr_devices_release(&self.devices);
    CHECK_OK(deal_out(&self, 2, 1, 1, 2, &once, true));
    CU_ASSERT_EQUAL(tr_stage_place_device(self.devices.stages[1]), -1);
    tr_devices_release(&self.devices);
    CHECK_OK(deal_out(&self, 2, 1, 1, 2, &none, true));
    CU_ASSERT_EQUAL(tr_stage_place_device(self.devices.stages[1]), 1);
    tr_devices_release(&self.devices);
}

static void what_is_left_is_said(void)
{
    tr_device_record two = {.is_out = {1, 0, 1}};
    deal self;
    char text[64], little[40];
    CHECK_OK(deal_out(&self, 2, 2, 1, 4, &two, false));
    CU_ASSERT_STRING_EQUAL(self.devices.text, "device: cpu, 4 devices (only played), without cpu:0, cpu:2");
    tr_stage_places_list(self.devices.stages, 4, text, sizeof text);
    CU_ASSERT_STRING_EQUAL(text, "cpu:1, cpu:3");
    tr_stage_places_list(self.devices.stages, 4, little, sizeof little);
    CU_ASSERT(strncmp(little, "cpu:1", 5) == 0 && strlen(little) < sizeof little);
    tr_stage_place_name((tr_stage_place){TR_DEVICE_CPU, 0}, text, sizeof text);
    CU_ASSERT_STRING_EQUAL(text, "cpu");
    tr_stage_place_name((tr_stage_place){TR_DEVICE_CUDA, 0}, text, sizeof text);
    CU_ASSERT_STRING_EQUAL(text, "cuda:0");
    tr_devices_release(&self.devices);
    CHECK_OK(deal_out(&self, 1, 1, 1, TR_MOST_DEVICES, NULL, false));
    tr_devices_release(&self.devices);
    tr_device_record most = {{0}, {0}};
    for (int i = 1; i < TR_MOST_DEVICES; i++) most.is_out[i] = 1;
    CHECK_OK(deal_out(&self, 1, 1, 1, TR_MOST_DEVICES, &most, false));
    CU_ASSERT_PTR_NOT_NULL(strstr(self.devices.text, ", cpu:63"));
    tr_devices_release(&self.devices);
}

static const check_test tests[] = {
    CHECK_TEST(a_device_is_left_out_with_the_last_failure_that_it_may_have),
    CHECK_TEST(no_device_is_left_out_where_none_shall_be),
    CHECK_TEST(those_that_are_left_keep_their_numbers),
    CHECK_TEST(workers_are_dealt_out_to_those_that_are_left),
    CHECK_TEST(where_none_is_left_nothing_is_dealt_out),
    CHECK_TEST(a_state_is_saved_without_devices_that_failed),
    CHECK_TEST(what_is_left_is_said),
};

CHECK_MAIN("pipelines/devices", tests)
