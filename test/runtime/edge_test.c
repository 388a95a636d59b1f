/* The promises of runtime/edge.h: nothing the wire does loses, doubles or reorders.
 * SPDX-License-Identifier: Apache-2.0 */
#include "check.h"

#include "base/rng.h"
#include "runtime/edge.h"

#include <string.h>

enum { SLOTS = 5, EPOCH = 3 };

static const tr_edge_spec spec = {
    .id = 9, .name = "activation", .source = 1, .destination = 2, .n_slots = SLOTS, .slot_bytes = 64};

typedef struct pair {
    tr_sender_end out;
    tr_receiver_end in;
} pair;

static void open_pair(pair *self)
{
    tr_error err;
    CHECK_OK(tr_sender_end_init(&self->out, &spec, &err));
    CHECK_OK(tr_receiver_end_init(&self->in, &spec, true, EPOCH, &err));
}

static void close_pair(pair *self)
{
    tr_sender_end_release(&self->out);
    tr_receiver_end_release(&self->in);
}

static tr_message *framed(uint32_t sequence, uint16_t slot)
{
    tr_error err;
    tr_message *message = NULL;
    CHECK_OK(tr_message_new(&message, NULL, 0, &err));
    message->frame = (tr_frame){.kind = TR_FRAME_DATA,
                                .slot = slot,
                                .epoch = EPOCH,
                                .source = 1,
                                .destination = 2,
                                .incarnation = 1 << 16,
                                .edge = 9,
                                .sequence = sequence};
    return message;
}

static tr_message *next_of(pair *self)
{
    uint32_t sequence = self->out.sequence;
    return framed(sequence, tr_sender_end_take(&self->out));
}

static tr_message *twin(const tr_message *message)
{
    tr_message *other = framed(0, 0);
    other->frame = message->frame;
    return other;
}

/* Takes what comes out in order and gives its slots back; how many. */
static uint32_t consume(pair *self, tr_message *list, uint32_t *expected)
{
    uint32_t n = 0;
    for (tr_message *message; (message = list); n++) {
        list = message->next;
        CU_ASSERT(message->frame.sequence == (*expected)++);
        tr_receiver_end_done(&self->in, message->frame.slot);
        tr_message_destroy(&message);
    }
    return n;
}

static void give_credits(pair *self)
{
    tr_error err;
    tr_message *credit;
    if (!self->in.n_pending) return;
    CHECK_OK(tr_receiver_end_credit_frame(&self->in, &credit, &err));
    tr_message *again = NULL;
    CHECK_OK(tr_message_new(&again, credit->body ? tr_buffer_retain(credit->body) : NULL,
                            credit->frame.body_bytes, &err));
    again->frame = credit->frame;
    CU_ASSERT(tr_sender_end_credit_frame(&self->out, credit) > 0);
    uint64_t before = self->out.n_duplicates;
    CU_ASSERT(tr_sender_end_credit_frame(&self->out, again) == 0); /* a repeated one counts nothing */
    CU_ASSERT(self->out.n_duplicates == before + 1);
    tr_message_destroy(&credit);
    tr_message_destroy(&again);
}

static void every_slot_comes_back_exactly_once(pair *self)
{
    bool seen[SLOTS] = {false};
    CU_ASSERT(tr_sender_end_credits(&self->out) == SLOTS);
    for (int i = 0; i < SLOTS; i++) {
        uint16_t slot = tr_sender_end_take(&self->out);
        CU_ASSERT(slot < SLOTS && !seen[slot]);
        seen[slot] = true;
    }
}

static void reordered_and_repeated_frames_come_out_once_in_order(void)
{
    pair p;
    open_pair(&p);
    p.out.sequence = p.in.expected_ = UINT32_MAX - 500; /* numbers wrap on the way */
    tr_rng_key key = {.seed = 7};
    uint32_t expected = p.out.sequence, total = 0;
    uint64_t index = 0;
    for (int round = 0; round < 1000; round++) {
        tr_message *flying[2 * SLOTS];
        uint32_t n = 0;
        while (tr_sender_end_credits(&p.out) > 0) {
            flying[n] = next_of(&p);
            flying[n + 1] = twin(flying[n]);
            n += 2;
        }
        total += n / 2;
        for (uint32_t i = n; i > 1; i--) { /* shuffled */
            uint32_t other = (uint32_t)(tr_rng_u64(&key, index++) % i);
            tr_message *kept = flying[i - 1];
            flying[i - 1] = flying[other];
            flying[other] = kept;
        }
        for (uint32_t i = 0; i < n; i++) {
            consume(&p, tr_receiver_end_accept(&p.in, &flying[i]), &expected);
            if (tr_rng_u64(&key, index++) % 2) give_credits(&p);
        }
        give_credits(&p);
    }
    CU_ASSERT(p.in.n_duplicates == total && p.in.n_early > 0 && p.in.n_stale == 0 && p.in.n_foreign == 0);
    CU_ASSERT(expected == p.out.sequence);
    every_slot_comes_back_exactly_once(&p);
    close_pair(&p);
}

/* Found by simulation: CREDIT frames used to be numbered, with a window of as many places as slots. */
static void a_late_credit_counts_after_any_number_of_others(void)
{
    pair p;
    tr_error err;
    open_pair(&p);
    tr_message *late = NULL, *message = next_of(&p);
    uint32_t expected = 0;
    consume(&p, tr_receiver_end_accept(&p.in, &message), &expected);
    CHECK_OK(tr_receiver_end_credit_frame(&p.in, &late, &err));
    for (int i = 0; i < 10 * SLOTS; i++) {
        CU_ASSERT(tr_sender_end_credits(&p.out) == SLOTS - 1);
        message = next_of(&p);
        consume(&p, tr_receiver_end_accept(&p.in, &message), &expected);
        give_credits(&p);
    }
    CU_ASSERT(tr_sender_end_credit_frame(&p.out, late) == 1 && tr_sender_end_credits(&p.out) == SLOTS);
    CU_ASSERT(tr_sender_end_credit_frame(&p.out, late) == 0);
    every_slot_comes_back_exactly_once(&p);
    tr_message_destroy(&late);
    close_pair(&p);
}

static void old_epochs_and_incarnations_are_dropped_and_counted(void)
{
    pair p;
    open_pair(&p);
    tr_message *first = next_of(&p), *old = twin(first), *stranger;
    old->frame.epoch = EPOCH - 1;
    tr_buffer *place = NULL;
    CU_ASSERT(tr_receiver_end_place(&p.in, &old->frame, &place) == TR_EREFUSED && !place);
    CU_ASSERT(tr_receiver_end_accept(&p.in, &old) == NULL && old == NULL && p.in.n_stale == 2);
    uint32_t expected = 0;
    CU_ASSERT(consume(&p, tr_receiver_end_accept(&p.in, &first), &expected) == 1);
    stranger = next_of(&p);
    stranger->frame.incarnation = 2 << 16; /* the same actor on a later node: its numbers begin anew */
    CU_ASSERT(tr_receiver_end_accept(&p.in, &stranger) == NULL && p.in.n_stale == 3);
    close_pair(&p);
}

static void impossible_frames_are_dropped_and_counted(void)
{
    pair p;
    open_pair(&p);
    for (int i = 0; i < 4; i++) {
        tr_message *bad = framed(0, 0);
        if (i == 0) bad->frame.slot = SLOTS;
        if (i == 1) bad->frame.body_bytes = 65;
        if (i == 2) bad->frame.source = 3;
        if (i == 3) bad->frame.sequence = SLOTS;
        CU_ASSERT(tr_receiver_end_accept(&p.in, &bad) == NULL);
    }
    CU_ASSERT(p.in.n_foreign == 4);
    tr_message *credit = framed(0, SLOTS);
    CU_ASSERT(tr_sender_end_credit_frame(&p.out, credit) == 0 && p.out.n_foreign == 1);
    tr_message_destroy(&credit);
    close_pair(&p);
}

/* A sender that breaks the rules, or somebody in its place: no bytes of a wire may end the process. */
static void early_frames_that_share_a_slot_are_no_assertion(void)
{
    pair p;
    open_pair(&p);
    tr_message *third = framed(2, 1), *second = framed(1, 1), *first = framed(0, 0);
    CU_ASSERT(tr_receiver_end_accept(&p.in, &third) == NULL &&
              tr_receiver_end_accept(&p.in, &second) == NULL);
    uint32_t expected = 0;
    CU_ASSERT(consume(&p, tr_receiver_end_accept(&p.in, &first), &expected) == 2);
    CU_ASSERT(p.in.n_foreign == 1 && p.in.expected_ == 3);
    close_pair(&p);
}

static void a_slots_buffer_is_used_again_only_when_nobody_holds_it(void)
{
    pair p;
    open_pair(&p);
    tr_message *message = framed(0, 2);
    tr_buffer *first = NULL, *second = NULL, *third = NULL;
    CU_ASSERT(tr_receiver_end_place(&p.in, &message->frame, &first) == TR_OK);
    CU_ASSERT(tr_receiver_end_place(&p.in, &message->frame, &second) == TR_OK);
    CU_ASSERT(first && second && first != second);
    void *kept = second->data;
    tr_buffer_release(&first);
    tr_buffer_release(&second);
    CU_ASSERT(tr_receiver_end_place(&p.in, &message->frame, &third) == TR_OK);
    CU_ASSERT(third && third->data == kept);
    tr_buffer_release(&third);
    tr_message_destroy(&message);
    close_pair(&p);
}

static void credits_given_back_together_travel_in_one_frame(void)
{
    pair p;
    open_pair(&p);
    uint32_t expected = 0;
    for (int i = 0; i < 3; i++) {
        tr_message *message = next_of(&p);
        consume(&p, tr_receiver_end_accept(&p.in, &message), &expected);
    }
    CU_ASSERT(tr_sender_end_credits(&p.out) == SLOTS - 3 && p.in.n_pending == 3);
    give_credits(&p);
    CU_ASSERT(tr_sender_end_credits(&p.out) == SLOTS);
    close_pair(&p);
}

static const check_test tests[] = {
    CHECK_TEST(reordered_and_repeated_frames_come_out_once_in_order),
    CHECK_TEST(a_late_credit_counts_after_any_number_of_others),
    CHECK_TEST(old_epochs_and_incarnations_are_dropped_and_counted),
    CHECK_TEST(impossible_frames_are_dropped_and_counted),
    CHECK_TEST(early_frames_that_share_a_slot_are_no_assertion),
    CHECK_TEST(a_slots_buffer_is_used_again_only_when_nobody_holds_it),
    CHECK_TEST(credits_given_back_together_travel_in_one_frame),
};
CHECK_MAIN("edge", tests)
