/* actors/checkpoint.c - see checkpoint.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "actors/checkpoint.h"

#include "actors/message_queue.h"
#include "actors/roles.h"
#include "actors/stage.h"
#include "actors/topics.h"
#include "base/memory.h"

#include <string.h>

enum { MAX_WANTED = 8 };

typedef struct checkpoint {
    tr_actor *actor;
    const tr_checkpoint_writer *writer;
    tr_actor_id coordinator, monitor;
    tr_message_queue chunks;
    uint32_t wanted[MAX_WANTED], n_wanted;
    bool writing; /* wanted[0] was begun */
    bool failed;  /* and could not be written: its chunks are only counted */
    bool syncing; /* and is whole; the monitor's answer is awaited */
    uint64_t received;
    tr_error error;
} checkpoint;

static void report(checkpoint *self, bool good, const char *text)
{
    tr_packer packer;
    tr_packer_init(&packer);
    tr_pack_array(&packer, 2);
    tr_pack_uint(&packer, good);
    tr_pack_text(&packer, text);
    tr_send_packed(self->actor, self->coordinator, TR_TOPIC_CHECKPOINTED, self->wanted[0], &packer);
}

static void finish(checkpoint *self)
{
    char path[1024] = "";
    if (!self->failed)
        self->failed = self->writer->commit(self->writer->context, path, sizeof path, &self->error) != TR_OK;
    report(self, !self->failed, self->failed ? self->error.message : path);
    self->writing = false;
    self->n_wanted--;
    memmove(self->wanted, self->wanted + 1, self->n_wanted * sizeof *self->wanted);
    tr_actor_activity(self->actor, "waiting", self->n_wanted ? self->wanted[0] : 0, 0);
}

static void ask_monitor(checkpoint *self)
{
    tr_packer packer;
    tr_packer_init(&packer);
    tr_pack_array(&packer, 0);
    self->syncing = true;
    tr_actor_activity(self->actor, "waiting for the log", self->wanted[0], 0);
    tr_send_packed(self->actor, self->monitor, TR_TOPIC_SYNC, self->wanted[0], &packer);
}

static void give_up(checkpoint *self)
{
    self->failed = true;
    self->writer->abandon(self->writer->context);
}

static void take_chunk(checkpoint *self, const tr_message *message)
{
    tr_state_chunk head;
    memcpy(&head, tr_message_bytes(message), sizeof head);
    const char *bytes = (const char *)tr_message_bytes(message) + sizeof head;
    size_t size = message->frame.body_bytes - sizeof head;
    if (!self->failed && self->writer->write(self->writer->context, head.parameter, head.part,
                                             head.offset_bytes, bytes, size, &self->error))
        give_up(self);
    self->received += size;
}

/* The first chunk that belongs to the checkpoint at work. */
static tr_message *next_chunk(checkpoint *self)
{
    tr_message_queue kept = {0};
    tr_message *found = NULL;
    for (tr_message *message; (message = tr_message_queue_pop(&self->chunks));) {
        if (!found && message->frame.step == self->wanted[0])
            found = message;
        else
            tr_message_queue_push(&kept, message);
    }
    self->chunks = kept;
    return found;
}

static bool checkpoint_idle(tr_actor *actor, void *state)
{
    checkpoint *self = state;
    if (self->n_wanted == 0 || self->syncing) return false;
    if (!self->writing) {
        self->writing = true;
        self->received = 0;
        self->failed = false;
        if (self->writer->begin(self->writer->context, self->wanted[0], &self->error)) give_up(self);
    }
    tr_message *chunk = next_chunk(self);
    if (!chunk) return false;
    tr_actor_activity(actor, "writing", self->wanted[0], TR_ACTIVITY_NONE); /* of each: it gets on */
    take_chunk(self, chunk);
    tr_edge_release(actor, &chunk);
    if (self->received < self->writer->total_bytes) return true;
    if (self->failed)
        finish(self);
    else
        ask_monitor(self);
    return true;
}

/* Which stage's chunk comes next is the stages' affair. */
static uint32_t checkpoint_waits(const tr_actor *actor, const void *state, tr_wait *waits, uint32_t capacity)
{
    const checkpoint *self = state;
    const tr_topology *topology = tr_actor_topology(actor);
    uint32_t n = 0;
    for (uint32_t i = 0; self->n_wanted && i < topology->n_edges && n < capacity; i++)
        if (topology->edges[i].destination == tr_actor_self(actor))
            waits[n++] = (tr_wait){.kind = TR_WAIT_MESSAGE, .which = i};
    return n;
}

static void checkpoint_receive(tr_actor *actor, void *state, tr_message **message)
{
    checkpoint *self = state;
    if ((*message)->frame.kind == TR_FRAME_DATA && (*message)->frame.body_bytes <= sizeof(tr_state_chunk)) {
        tr_error error;
        tr_fail(&error, TR_ECORRUPT, "a chunk of state has %u bytes, too few for one",
                (*message)->frame.body_bytes);
        tr_actor_fail(actor, &error);
    } else if ((*message)->frame.kind == TR_FRAME_DATA) {
        tr_message_queue_push(&self->chunks, *message);
        *message = NULL;
    } else if ((*message)->frame.edge == TR_TOPIC_CHECKPOINT && self->n_wanted < MAX_WANTED) {
        self->wanted[self->n_wanted++] = (*message)->frame.step;
    } else if ((*message)->frame.edge == TR_TOPIC_SYNCED && self->syncing &&
               (*message)->frame.step == self->wanted[0]) {
        self->syncing = false;
        finish(self);
    } else {
        tr_fail_for_topic(actor, *message);
    }
}

static tr_status checkpoint_init(tr_actor *actor, void *context, const void *config, size_t config_bytes,
                                 void **state, tr_error *err)
{
    (void)config, (void)config_bytes;
    checkpoint *self = tr_alloc_zero(1, sizeof *self);
    if (!self) return tr_fail(err, TR_ENOMEM, "no memory for the checkpoint actor");
    self->actor = actor;
    self->writer = context;
    self->coordinator = tr_role_find(tr_actor_topology(actor), TR_ROLE_COORDINATOR);
    self->monitor = tr_role_find(tr_actor_topology(actor), TR_ROLE_MONITOR);
    *state = self;
    return TR_OK;
}

static void checkpoint_stop(tr_actor *actor, void *state)
{
    checkpoint *self = state;
    if (!self) return;
    for (tr_message *message; (message = tr_message_queue_pop(&self->chunks));)
        tr_edge_release(actor, &message);
    if (self->writing && !self->failed) self->writer->abandon(self->writer->context);
    tr_free(self);
}

const tr_behavior tr_checkpoint_behavior = {.name = "checkpoint",
                                            .init = checkpoint_init,
                                            .receive = checkpoint_receive,
                                            .idle = checkpoint_idle,
                                            .waits = checkpoint_waits,
                                            .stop = checkpoint_stop};
