/* pipelines/stall_watch.h - notices that no step has ended for too long, and says who holds up all, once a stall; and when
 * steps end again, how long it took. Too long is the longer of a limit and ten times the median of the last steps. Work that
 * gets on is no stall, however long a step takes with it (held-out windows, a large checkpoint): whoever is waited for must
 * have been at the same thing for a quarter of the limit.
 * Threads: one.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_PIPELINES_STALL_WATCH_H
#define TROUPE_PIPELINES_STALL_WATCH_H

#include "runtime/stall.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { TR_STALL_STEPS = 31 }; /* of which the median is taken */

typedef struct tr_stall_watch {
    uint64_t limit_ns;
    double step_ms[TR_STALL_STEPS]; /* a ring */
    uint32_t n_steps;
    uint64_t moved_ns;   /* when the last step ended, or the actors began */
    uint64_t stalled_ns; /* `moved_ns` of the stall that was told and is not over; 0: none */
    bool told;           /* since moved_ns */
} tr_stall_watch;

void tr_stall_watch_init(tr_stall_watch *self, uint32_t after_s, uint64_t now_ns);
void tr_stall_watch_begin(tr_stall_watch *self, uint64_t now_ns); /* the actors begin, again */
/* A step has ended; true: with that a stall, and how long it took is in the text. */
bool tr_stall_watch_step(tr_stall_watch *self, uint32_t step, double step_ms, uint64_t now_ns, char *text,
                         size_t capacity);
/* true: it is a stall, not yet told, and the text tells it. */
bool tr_stall_watch_look(tr_stall_watch *self, const tr_topology *topology, const tr_place_seen *places,
                         uint64_t now_ns, char *text, size_t capacity);
/* The same of what was seen. */
bool tr_stall_watch_judge(tr_stall_watch *self, const tr_topology *topology, const tr_actor_seen *seen,
                          uint64_t now_ns, char *text, size_t capacity);
uint64_t tr_stall_watch_limit_ns(const tr_stall_watch *self);

#ifdef __cplusplus
}
#endif
#endif
