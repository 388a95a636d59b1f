/* actors/topics.h - what the actors of a training run say to each other on the control lane, and on which
 * edges they work. Bodies are MessagePack arrays (base/pack.h); frame.step is the step the message is about,
 * from 0, or for evaluations and checkpoints the number of updates done.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_ACTORS_TOPICS_H
#define TROUPE_ACTORS_TOPICS_H

#include "base/pack.h"
#include "runtime/actor.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    TR_TOPIC_COUNT = 1, /* shard -> coordinator: [target tokens of its share of step] */
    TR_TOPIC_TOKENS,    /* coordinator -> last stages: [target tokens of the whole step] */
    TR_TOPIC_LOSSES,    /* last stage -> coordinator: [first micro-batch, f64 losses as bytes] */
    /* stage -> coordinator: [(parameter, first block, f64 square sums of blocks as bytes) ..., busy ns]: gradients are
     * reduced. The sums only of parameters it owns, and only from replica 0; with ZeRO from each those of its shard. */
    TR_TOPIC_READY,
    TR_TOPIC_COMMIT, /* coordinator -> stages: [gradient scale, learning rate, hold the new state, leave the update of step out]: apply it */
    TR_TOPIC_UPDATED,   /* stage -> coordinator: []: the vote, the update of step is in its slot */
    TR_TOPIC_EVALUATED, /* last stage -> coordinator: [micro-batch, loss sum, target tokens] */
    /* coordinator -> stages of replica 0 (with ZeRO of all) and checkpoint actor: [last: 0 or 1] */
    TR_TOPIC_CHECKPOINT,
    TR_TOPIC_CHECKPOINTED, /* checkpoint actor -> coordinator: [1, path] or [0, what went wrong] */
    TR_TOPIC_RECORD,       /* coordinator -> monitor: see tr_step_record in monitor.h */
    TR_TOPIC_NOTE,         /* coordinator -> monitor: [kind, text]: for events.jsonl */
    /* coordinator -> monitor: ["" or why the end is lost]: the monitor ends the job when it has told all. */
    TR_TOPIC_FINISH,
    /* Whoever traces -> monitor: [spans dropped so far, (kind, step, micro-batch, begin ns, duration ns) ...]. */
    TR_TOPIC_TRACE,
    TR_TOPIC_TRACED, /* monitor -> who sent a trace: nothing: it may send another */
    /* checkpoint actor -> monitor: []: all of the checkpoint after so many updates is there; may it get its name? */
    TR_TOPIC_SYNC,
    TR_TOPIC_SYNCED,   /* monitor -> checkpoint actor: []: yes, the records up to it are on the disk */
    TR_TOPIC_RECORDED, /* monitor -> coordinator: []: the record of so many updates is taken */
    /* stage -> coordinator, before its first READY behind a change of epoch: [1 where it kept what it had computed, forwards,
     * backwards, weight gradients computed, messages sent again, messages compared with the first]. With replay only. */
    TR_TOPIC_REPLAYED,
    /* stage -> coordinator: two computations gave other bits (arbiter.h): [sender, index, edge, "" or what an audit compared] */
    TR_TOPIC_DIFFERS,
    TR_TOPIC_FORGET,    /* coordinator -> stages: []: keep nothing for the next epoch */
    TR_TOPIC_FORGOTTEN, /* stage -> coordinator: [] */
    TR_TOPIC_DOUBTED,   /* coordinator -> stage: []: end your process */
    TR_TOPIC_VERDICT,   /* stage -> coordinator: [sender, tr_verdict, 1: of an audit] */
    /* stage -> coordinator, before its READY: [micro-batches of others that it computed again in this step, ns that it took]. */
    TR_TOPIC_AUDITED,
    /* stage -> coordinator, before its READY of a step that is examined: [micro-batch, phase, the first value in it that is no
     * number, in words]. */
    TR_TOPIC_NON_FINITE,
    /* Between the replicas of a stage on GPUs: [a word of stage_collect.c, what belongs to it ...] */
    TR_TOPIC_GROUP,
    /* Whoever runs the job -> coordinator, nothing: finish the step at hand, commit no more once all hold its state, and say
     * so (tr_coordinator_context.paused); and: go on. */
    TR_TOPIC_PAUSE,
    TR_TOPIC_GO_ON,
    /* Between a stage on a GPU and the monitor: [a word of choices.h, what belongs to it ...] */
    TR_TOPIC_CHOICES,
    /* Between two stages that an edge joins: [a word of stage_link.c, the edge, what belongs to the word ...] */
    TR_TOPIC_LINK
};

/* Of two computations that differ, by a third: which was wrong. In an audit the second is the auditor's. */
typedef enum tr_verdict {
    TR_VERDICT_NONE, /* three results */
    TR_VERDICT_FIRST,
    TR_VERDICT_SECOND,
    TR_VERDICT_OTHER_BASIS /* the third had other inputs than the two, and says nothing */
} tr_verdict;

/* Names of edges. */
#define TR_EDGE_TOKENS "tokens"         /* shard -> first stage: i32 (rows, sequence) */
#define TR_EDGE_TARGETS "targets"       /* shard -> last stage: i32 (rows, sequence), negative: not counted */
#define TR_EDGE_ACTIVATION "activation" /* stage -> next stage */
#define TR_EDGE_GRADIENT "gradient"     /* stage -> stage before: gradient of the activation */
#define TR_EDGE_SCATTER "scatter"       /* replica -> owner of a shard: a node of the reduction tree */
#define TR_EDGE_GATHER "gather"         /* owner -> replica: the reduced shard */
#define TR_EDGE_TIED "tied" /* stage -> stage: the reduced gradient of a use of a parameter both hold */
#define TR_EDGE_PARAMETERS                                                                                   \
    "parameters"              /* replica -> replica: what it has updated, with ZeRO; see stage_zero.c */
#define TR_EDGE_AUDIT "audit" /* stage -> the same stage of the next replica: see stage_audit.h */
#define TR_EDGE_STATE "state" /* stage -> checkpoint actor: a chunk of state, see tr_state_chunk in stage.h */

const char *
tr_topic_name(uint32_t topic); /* for people: "the commit"; NULL for those that are none of these */

/* Finishes a packed body and sends it as a control message; without memory for it the actor fails. */
void tr_send_packed(tr_actor *self, tr_actor_id to, uint32_t topic, uint32_t step, tr_packer *packer);
/* Ends the actor: a peer's message does not read as its topic says. */
void tr_fail_for_topic(tr_actor *self, const tr_message *message);

#ifdef __cplusplus
}
#endif
#endif
