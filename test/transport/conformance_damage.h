/* test/transport/conformance_damage.h - what every transport promises of frames that come with other bits than were sent; see
 * conformance.h.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TEST_TRANSPORT_CONFORMANCE_DAMAGE_H
#define TROUPE_TEST_TRANSPORT_CONFORMANCE_DAMAGE_H

#include "transport/fixture.h"

static void body_that_does_not_match_its_hash_is_dropped(void)
{
    node *a = node_new(1), *b = node_new(2);
    node_connect(a, b);
    tr_message *message;
    tr_error err;
    CHECK_OK(tr_message_copy(&message, "damaged", 7, &err));
    message->frame.kind = TR_FRAME_DATA;
    message->frame.flags = TR_FRAME_HASHED;
    message->frame.body_hash = 1;
    CHECK_OK(tr_transport_send(a->transport, 2, &message, &err));
    node_send(a, b, 1, "whole", 5);
    PROGRESS_UNTIL(b->n_arrived == 1 && tr_transport_count(b->transport).refused == 1, PATIENCE_MS, a, b);
    CU_ASSERT(b->n_damaged == 1 && b->lost_peer == 1 && strstr(b->lost_reason, "has hash") != NULL);
    CU_ASSERT_EQUAL(a->n_damaged + a->n_lost + b->n_lost, 0);
    node_destroy(&a);
    node_destroy(&b);
}

/* What is missing between two frames is told, so that nobody waits for it; what was sent before and behind it comes. */
static void a_header_that_was_damaged_is_told_with_its_peer(void)
{
    node *a = node_new(1), *b = node_new(2), *c = node_new(3);
    if (strcmp(CONFORMANCE_KIND, "inproc") != 0) { /* there it is handed over where it lies */
        node_connect(a, b);
        node_connect(c, b);
        for (uint32_t i = 0; i < 5; i++) {
            if (i % 2) tr_transport_damage_next(a->transport);
            node_send(a, b, i, "whole?", 6);
            node_send(c, b, i, "whole", 5);
            PROGRESS_UNTIL(b->n_arrived == 2 * (int)i + 2 - ((int)i + 1) / 2, PATIENCE_MS, a, b, c);
            PROGRESS_UNTIL(b->n_damaged == ((int)i + 1) / 2, PATIENCE_MS, a, b, c);
        }
        CU_ASSERT(b->lost_peer == 1 && strstr(b->lost_reason, "checksum") != NULL);
        CU_ASSERT_EQUAL(tr_transport_count(b->transport).refused, 2);
        CU_ASSERT_EQUAL(a->n_lost + b->n_lost + c->n_lost, 0);
    }
    node_destroy(&a);
    node_destroy(&b);
    node_destroy(&c);
}

#endif
