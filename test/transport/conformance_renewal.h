/* test/transport/conformance_renewal.h - what every transport promises to who outlives its peers; see conformance.h.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TEST_TRANSPORT_CONFORMANCE_RENEWAL_H
#define TROUPE_TEST_TRANSPORT_CONFORMANCE_RENEWAL_H

#include "transport/fixture.h"

/* Over UCX nothing is left of the queue that dead peers wrote into, so its address is another one. */
static void renewed_transport_begins_anew(void)
{
    node *a = node_new(1), *b = node_new(2);
    tr_error err;
    for (int i = 1; i <= 5; i++) {
        node_connect(a, b);
        node_send(a, b, 0, "there", 5);
        PROGRESS_UNTIL(b->n_arrived == i, PATIENCE_MS, a, b);
        node_send(b, a, 0, "and back", 8);
        PROGRESS_UNTIL(a->n_arrived == i, PATIENCE_MS, a, b);
        char *address = tr_strdup(tr_transport_address(b->transport));
        CHECK_OK(tr_transport_renew(b->transport, 0, &err));
        if (strcmp(CONFORMANCE_KIND, "ucx") == 0)
            CU_ASSERT_STRING_NOT_EQUAL(tr_transport_address(b->transport), address);
        tr_free(address);
        CU_ASSERT_EQUAL(try_send(b, 1, 0, "x", 1), TR_ECLOSED);
        PROGRESS_UNTIL(a->n_lost == i, PATIENCE_MS, a, b);
        CU_ASSERT_EQUAL(b->n_lost, 0);
    }
    node_destroy(&a);
    node_destroy(&b);
}

/* Of a peer's last life, on their way while we began anew. Taken, one would be the link to its next life, which would seem
 * to break when that greets, or when the last one's end is heard of. */
static void greetings_of_before_a_renewal_are_dropped(void)
{
    tr_error err;
    tr_transport_options options = options_of(1);
    options.incarnation = 3;
    node *before = node_with(&options), *b = node_new(2);
    options.incarnation = 4;
    node *after = node_with(&options);
    CHECK_OK(tr_transport_renew(b->transport, 4, &err));
    node_connect(before, b);
    PROGRESS_UNTIL(tr_transport_count(b->transport).refused > 0, PATIENCE_MS, before, b);
    node_connect(after, b);
    node_send(after, b, 0, "there", 5);
    PROGRESS_UNTIL(b->n_arrived == 1, PATIENCE_MS, before, after, b);
    CU_ASSERT_EQUAL(before->n_lost, 0); /* it is not told: it ends anyway */
    node_destroy(&before);
    node_send(b, after, 0, "and back", 8);
    PROGRESS_UNTIL(after->n_arrived == 1, PATIENCE_MS, after, b);
    CU_ASSERT_EQUAL(b->n_lost, 0);
    node_destroy(&after);
    node_destroy(&b);
}

#endif
