/* runtime/stall.h - when nothing moves: the actor for which all others wait.
 * Every actor that has nothing to do says what it waits for (tr_behavior.waits), and a wait names whose turn it is: the
 * other end of an edge, or whoever owes a word. These are the arrows of a graph. Who can be reached along them and waits for
 * nobody itself is to blame: its process is gone, stopped or silent, it is in the middle of something, or it sits on messages.
 * Where everybody who can be reached waits, there is a circle, and that is told.
 * Threads: any; nothing is kept.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_RUNTIME_STALL_H
#define TROUPE_RUNTIME_STALL_H

#include "runtime/look.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum tr_stall_kind {
    TR_STALL_GONE,    /* its process is */
    TR_STALL_STOPPED, /* the same */
    TR_STALL_SILENT,  /* the same: it lives and does nothing */
    TR_STALL_BUSY,    /* one of its handlers runs */
    TR_STALL_QUEUED,  /* messages wait for it that it does not look at */
    TR_STALL_CIRCLE,  /* it waits for others that wait for it */
    TR_STALL_IDLE     /* it says that it waits for nobody */
} tr_stall_kind;

typedef struct tr_stall {
    tr_stall_kind kind;
    tr_actor_id who;
    uint64_t since_ns;  /* when it began what it is at, was last heard of, or began to wait; 0: unknown */
    uint32_t n_waiting; /* actors that wait for it, directly or not */
} tr_stall;

/* What a word is called, "the commit"; for messages to people. */
typedef const char *(*tr_topic_name_of)(uint32_t topic);

/* seen: by actor id - 1. false: nobody waits for anybody, or there is no memory. */
bool tr_stall_find(tr_stall *out, const tr_topology *topology, const tr_actor_seen *seen);
/* Whom a wait is for; 0 where it names nobody that there is: a word with `which` 0 comes from outside of the actors. */
tr_actor_id tr_wait_for_whom(const tr_topology *topology, const tr_wait *wait);
/* "activation from stage 0 of replica 0", "a credit of gradient from stage 1 of replica 0", "the commit from coordinator". */
void tr_wait_describe(const tr_topology *topology, const tr_wait *wait, tr_topic_name_of name, char *text,
                      size_t capacity);
/* One line: who it is and where, what it does or waits for, from whom, since when, and who waits for it. */
void tr_stall_describe(const tr_stall *self, const tr_topology *topology, const tr_actor_seen *seen,
                       tr_topic_name_of name, uint64_t now_ns, char *text, size_t capacity);

#ifdef __cplusplus
}
#endif
#endif
