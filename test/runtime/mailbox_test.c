/* The promises of runtime/mailbox.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "check.h"

#include "runtime/mailbox.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SENDERS = 4, EACH = 20000 };

static uint32_t n_each(void)
{
    return CHECK_SIZE(EACH, 100);
}

static tr_message *numbered(uint64_t source, uint32_t sequence)
{
    tr_error err;
    tr_message *message = NULL;
    CHECK_OK(tr_message_new(&message, NULL, 0, &err));
    message->frame.source = source;
    message->frame.sequence = sequence;
    return message;
}

static tr_mailbox shared;

static void *send_many(void *source)
{
    for (uint32_t i = 0; i < n_each(); i++) {
        tr_message *message = numbered((uint64_t)(size_t)source, i);
        if ((size_t)source % 2)
            tr_mailbox_push(&shared, &message);
        else
            tr_mailbox_push_notice(&shared, &message);
    }
    return NULL;
}

static void each_senders_order_is_kept_under_many(void)
{
    pthread_t threads[SENDERS];
    uint32_t next[SENDERS] = {0}, received = 0;
    uint32_t shown = 99;
    tr_error err;
    CHECK_OK(tr_mailbox_init(&shared, SENDERS * EACH, 1, &shown, &err));
    for (size_t i = 0; i < SENDERS; i++) pthread_create(&threads[i], NULL, send_many, (void *)i);
    bool in_order = true;
    while (received < SENDERS * n_each()) {
        tr_message *message = tr_mailbox_pop(&shared);
        if (!message) message = tr_mailbox_pop_control(&shared);
        if (!message) {
            sched_yield();
            continue;
        }
        in_order = in_order && message->frame.sequence == next[message->frame.source]++;
        received++;
        tr_message_destroy(&message);
    }
    for (size_t i = 0; i < SENDERS; i++) pthread_join(threads[i], NULL);
    tr_mailbox_show(&shared); /* two senders at one time may have left the older number */
    CU_ASSERT_EQUAL(shown, 0);
    CU_ASSERT(in_order && !tr_mailbox_pop(&shared) && !tr_mailbox_pop_control(&shared));
    tr_mailbox_release(&shared);
}

static void full_control_lane_keeps_ownership_with_the_caller(void)
{
    tr_error err;
    tr_mailbox mailbox;
    CHECK_OK(tr_mailbox_init(&mailbox, 1, 2, NULL, &err));
    for (uint32_t i = 0; i < 2; i++) {
        tr_message *message = numbered(1, i);
        CU_ASSERT(tr_mailbox_push_control(&mailbox, &message) && !message);
    }
    tr_message *third = numbered(1, 2);
    CU_ASSERT(!tr_mailbox_push_control(&mailbox, &third) && third != NULL);
    tr_message *first = tr_mailbox_pop_control(&mailbox);
    CU_ASSERT(first && first->frame.sequence == 0);
    CU_ASSERT(tr_mailbox_push_control(&mailbox, &third) && !third);
    tr_message_destroy(&first);
    tr_mailbox_release(&mailbox);
}

static void notices_pass_a_full_control_lane(void)
{
    tr_error err;
    tr_mailbox mailbox;
    CHECK_OK(tr_mailbox_init(&mailbox, 1, 1, NULL, &err));
    for (uint32_t i = 0; i < 3; i++) {
        tr_message *message = numbered(1, i);
        tr_mailbox_push_notice(&mailbox, &message);
    }
    for (uint32_t i = 0; i < 3; i++) {
        tr_message *message = tr_mailbox_pop_control(&mailbox);
        CU_ASSERT(message && message->frame.sequence == i);
        tr_message_destroy(&message);
    }
    tr_message *again = numbered(1, 3);
    CU_ASSERT(tr_mailbox_push_control(&mailbox, &again));
    tr_mailbox_release(&mailbox);
}

static void what_waits_in_both_lanes_is_shown(void)
{
    tr_mailbox mailbox;
    uint32_t shown = 7;
    tr_error err;
    CHECK_OK(tr_mailbox_init(&mailbox, 2, 1, &shown, &err));
    CU_ASSERT_EQUAL(shown, 0);
    for (uint32_t i = 0; i < 2; i++) {
        tr_message *message = numbered(1, i);
        tr_mailbox_push(&mailbox, &message);
    }
    tr_message *word = numbered(1, 0), *one_too_many = numbered(1, 1), *notice = numbered(1, 2);
    CU_ASSERT(tr_mailbox_push_control(&mailbox, &word));
    CU_ASSERT_EQUAL(shown, 3);
    CU_ASSERT(!tr_mailbox_push_control(&mailbox, &one_too_many));
    CU_ASSERT_EQUAL(shown, 3);
    tr_mailbox_push_notice(&mailbox, &notice);
    CU_ASSERT_EQUAL(shown, 4);
    tr_message_destroy(&one_too_many);
    for (uint32_t left = 4; left > 0; left--) {
        tr_message *message = tr_mailbox_pop_control(&mailbox);
        if (!message) message = tr_mailbox_pop(&mailbox);
        CU_ASSERT(message != NULL);
        tr_message_destroy(&message);
        tr_mailbox_show(&mailbox);
        CU_ASSERT_EQUAL(shown, left - 1);
    }
    CU_ASSERT(!tr_mailbox_pop(&mailbox) && !tr_mailbox_pop_control(&mailbox) && shown == 0);
    tr_mailbox_release(&mailbox);
}

static void overfull_data_lane_asserts(void)
{
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        if (!freopen("/dev/null", "w", stderr)) _exit(1);
        tr_mailbox mailbox;
        tr_error err;
        CHECK_OK(tr_mailbox_init(&mailbox, 2, 1, NULL, &err));
        for (uint32_t i = 0; i < 3; i++) {
            tr_message *message = numbered(1, i);
            tr_mailbox_push(&mailbox, &message);
        }
        _exit(0);
    }
    int status = 0;
    CU_ASSERT(waitpid(child, &status, 0) == child);
    CU_ASSERT(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

static void a_place_is_free_again_after_each_pop(void)
{
    tr_error err;
    tr_mailbox mailbox;
    CHECK_OK(tr_mailbox_init(&mailbox, 2, 1, NULL, &err));
    tr_message *message = numbered(1, 0);
    tr_mailbox_push(&mailbox, &message);
    for (uint32_t i = 1; i < 1000; i++) {
        message = numbered(1, i);
        tr_mailbox_push(&mailbox, &message);
        CU_ASSERT(tr_mailbox_waiting(&mailbox) == 2);
        message = tr_mailbox_pop(&mailbox);
        CU_ASSERT(message && message->frame.sequence == i - 1);
        tr_message_destroy(&message);
    }
    tr_mailbox_release(&mailbox); /* one is left in it */
}

static const check_test tests[] = {
    CHECK_TEST(each_senders_order_is_kept_under_many),
    CHECK_TEST(full_control_lane_keeps_ownership_with_the_caller),
    CHECK_TEST(notices_pass_a_full_control_lane),
    CHECK_TEST(what_waits_in_both_lanes_is_shown),
    CHECK_TEST(overfull_data_lane_asserts),
    CHECK_TEST(a_place_is_free_again_after_each_pop),
};
CHECK_MAIN("mailbox", tests)
