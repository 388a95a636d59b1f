/* runtime/fault.h - faults by chance: which there are, which comes next and whom it hits, and the word by which it gets there.
 * The head draws, since it alone knows who is there, and tells; a fault is done where it belongs: signals and the memory of
 * states by the agent of the victim's host, frames by the victim itself, the disk by the head, who alone writes. Draws made by
 * each process for itself would need one clock for all, and the victim's would end with it.
 * The n-th draw is a function of seed, kinds and n, so that a seed is a schedule; in every round of as many draws as there are
 * kinds each comes once.
 * Threads: plain data.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_RUNTIME_FAULT_H
#define TROUPE_RUNTIME_FAULT_H

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum tr_fault_kind {
    /* By the agent: */
    TR_FAULT_KILL,              /* SIGKILL */
    TR_FAULT_STOP,              /* SIGSTOP */
    TR_FAULT_STOP_AND_CONTINUE, /* SIGSTOP, and SIGCONT when it is to be killed for that: it lives on for a while */
    TR_FAULT_SLOW,              /* stopped again and again, each time for a moment */
    TR_FAULT_FLIP_STATE,        /* killed, and a bit of its newest state flips; or of both */
    /* By the victim: */
    TR_FAULT_CUT, /* transport/disturb.h */
    TR_FAULT_DEAF,
    TR_FAULT_DELAY,
    TR_FAULT_DUPLICATE,
    TR_FAULT_FLIP_FRAME, /* tr_transport_damage_next */
    /* By the head: base/file_fault.h */
    TR_FAULT_FULL_DISK,
    TR_FAULT_FAILED_FSYNC,
    TR_FAULT_KINDS
} tr_fault_kind;

#define TR_FAULTS_ALL ((1u << TR_FAULT_KINDS) - 1)
#define TR_FAULT_BIT(kind) (1u << (kind))
/* Which need a new epoch to be mended. */
#define TR_FAULTS_OF_RECOVERY                                                                                \
    (TR_FAULT_BIT(TR_FAULT_KILL) | TR_FAULT_BIT(TR_FAULT_STOP) | TR_FAULT_BIT(TR_FAULT_STOP_AND_CONTINUE) |  \
     TR_FAULT_BIT(TR_FAULT_FLIP_STATE) | TR_FAULT_BIT(TR_FAULT_CUT) | TR_FAULT_BIT(TR_FAULT_DEAF) |          \
     TR_FAULT_BIT(TR_FAULT_FLIP_FRAME))
#define TR_FAULTS_OF_DISK (TR_FAULT_BIT(TR_FAULT_FULL_DISK) | TR_FAULT_BIT(TR_FAULT_FAILED_FSYNC))

enum { TR_FAULT_NAMES = 160 }; /* characters of all names with ", " between */

typedef struct tr_fault {
    tr_fault_kind kind;
    int32_t victim;  /* a node; 0: the head, of a DELAY and of the disk's */
    int32_t peer;    /* CUT, DEAF: another node */
    uint32_t for_ms; /* SLOW, DEAF, DELAY, DUPLICATE */
    uint64_t seed;   /* of what is left to draw: which bit, how late */
} tr_fault;

const char *tr_fault_name(tr_fault_kind kind); /* "stop_and_continue" */
/* "kill, stop": a bit each; NULL or empty: all. Errors: TR_EINVAL. */
tr_status tr_faults_parse(const char *text, uint32_t *kinds, tr_error *err);
void tr_faults_names(uint32_t kinds, char *text, size_t capacity); /* the other way round */

/* Of `kinds`, at least one, in a job of n_nodes, at least two, the head's with them. */
tr_fault tr_fault_draw(uint64_t seed, uint32_t kinds, uint32_t n, int32_t n_nodes);
/* How long until the n-th behind the one before it: exponentially distributed. */
uint64_t tr_fault_pause_ns(uint64_t seed, double per_minute, uint32_t n);
/* One line: "worker 2 is stopped". */
void tr_fault_describe(const tr_fault *self, char *text, size_t capacity);

/* TR_CONTROL_FAULT. Free *bytes with tr_free. Errors: TR_ENOMEM; TR_ECORRUPT. */
tr_status tr_fault_encode(const tr_fault *self, void **bytes, size_t *size_bytes, tr_error *err);
tr_status tr_fault_decode(tr_fault *self, const void *bytes, size_t size_bytes, tr_error *err);

/* Two nodes have two links, each a connection of its own. A CUT is of either or of both, all else of both. */
bool tr_fault_hits_data(const tr_fault *self);
bool tr_fault_hits_control(const tr_fault *self);
/* SLOW: of so many ticks of its agent it is stopped in all but one. FLIP_STATE: of both slots? */
uint32_t tr_fault_slowness(const tr_fault *self);
bool tr_fault_is_of_both(const tr_fault *self);

#ifdef __cplusplus
}
#endif
#endif
