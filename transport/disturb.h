/* transport/disturb.h - what wires do to frames, done on purpose to a transport that works: for tests, and for runs that want
 * to see faults (runtime/fault.h). Each is what a real wire may do below a transport, so nothing that was promised above is
 * broken: a frame that is lost takes its link along, and only frames that receivers number overtake others or come twice.
 * One at a time: another one ends the first. A transport that was never disturbed has a null pointer of this, which is all that
 * it costs.
 * Threads: as the transport's other calls.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TRANSPORT_DISTURB_H
#define TROUPE_TRANSPORT_DISTURB_H

#include "transport/transport.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum tr_disturbance_kind {
    TR_DISTURB_CUT,   /* the link to the peer breaks, now */
    TR_DISTURB_DEAF,  /* what the peer sends does not arrive, what is sent to it does; then the link breaks */
    TR_DISTURB_DELAY, /* what arrives is late, each frame by another time; DATA and CREDIT overtake */
    TR_DISTURB_DUPLICATE /* DATA and CREDIT that are sent go twice, the second time at once or behind the next */
} tr_disturbance_kind;

enum { TR_DISTURB_LATE_MS = 40 }; /* at most */

typedef struct tr_disturbance {
    tr_disturbance_kind kind;
    int32_t peer;    /* CUT and DEAF; the others are of all peers */
    uint32_t for_ms; /* but a CUT */
    uint64_t seed;   /* draws how late, and whether at once */
} tr_disturbance;

/* A peer without a link, or no memory for it: nothing happens. */
void tr_transport_disturb(tr_transport *self, const tr_disturbance *what);

#ifdef __cplusplus
}
#endif
#endif
