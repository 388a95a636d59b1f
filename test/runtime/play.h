/* test/runtime/play.h - a random graph of actors with work to do: sources make items, relays pass them on, sinks report
 * them to the judge, and now and then one fails and is started again. What becomes of every item can be counted. For
 * simulation and for real nodes.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TEST_RUNTIME_PLAY_H
#define TROUPE_TEST_RUNTIME_PLAY_H

#include "base/rng.h"
#include "runtime/supervisor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    PLAY_KINDS = 5,
    MAX_ACTORS = 16,
    MAX_FAN = 6,
    MAX_ITEMS = 40,
    MAX_KEPT = 8,
    MAX_BODY = 96,
    TOPIC_DONE = 1,
    TOPIC_LOST,
    TOPIC_ENDED,
    TOPIC_GO_ON,
    TOGETHER_MS = 20,
    MAX_EVENTS = 200000
};

/* ---- a play: sources make items, relays pass them on, sinks count them, the judge hears of it ---- */

typedef struct item {
    uint32_t source, number; /* which source's, which of it */
} item;

typedef struct player {
    struct play *play;
    uint64_t n_rolled; /* its own dice: real nodes have many threads */
    uint32_t n_failures;
    bool heard_the_past;
    uint32_t outs[MAX_FAN], n_outs, next_out;
    tr_message *kept[MAX_KEPT]; /* released in another order than they came */
    uint32_t n_kept;
    uint32_t n_made, to_make;
    bool resting;              /* until its timer comes */
    uint64_t seen[MAX_ACTORS]; /* by source: which numbers a sink has had */
} player;

typedef struct play {
    tr_topology topology;
    tr_rng_key key;
    uint64_t n_drawn;
    player players[MAX_ACTORS]; /* by id - 1 */
    tr_actor_id judge;
    uint32_t n_items, n_counted, n_sources, n_sources_ended;
    bool repeated;
    bool failing;  /* sources, relays and sinks fail now and then, and are started again */
    bool together; /* and all with it; the play ends after a while */
    uint32_t n_lost;
} play;

static inline uint32_t play_draw(play *self, uint32_t below)
{
    return (uint32_t)(tr_rng_u64(&self->key, self->n_drawn++) % below);
}

static inline uint32_t roll(player *self, uint32_t below)
{
    tr_rng_key key = self->play->key;
    key.stream = 2 + (uint64_t)(self - self->play->players);
    return (uint32_t)(tr_rng_u64(&key, self->n_rolled++) % below);
}

static inline tr_status player_init(tr_actor *actor, void *context, const void *config, size_t config_bytes,
                                    void **state, tr_error *err)
{
    (void)config, (void)config_bytes, (void)err;
    play *stage = context;
    player *self = &stage->players[tr_actor_self(actor) - 1];
    self->play = stage;
    self->n_outs = self->n_kept = 0;
    self->resting = false;
    for (uint32_t i = 0; i < stage->topology.n_edges; i++)
        if (stage->topology.edges[i].source == tr_actor_self(actor)) self->outs[self->n_outs++] = i;
    *state = self;
    return TR_OK;
}

static inline void player_stop(tr_actor *actor, void *state)
{
    player *self = state;
    /* What it forgets to give back the system gives back; the messages themselves are still its own to free. */
    if (self->n_kept) tr_actor_send(actor, self->play->judge, TOPIC_LOST, self->n_kept, NULL, 0);
    bool forgets = self->play->failing && roll(self, 2);
    while (self->n_kept && !forgets) tr_edge_release(actor, &self->kept[--self->n_kept]);
    while (self->n_kept) tr_message_destroy(&self->kept[--self->n_kept]);
}

/* An edge with a credit, or TR_NO_EDGE. */
static inline uint32_t open_edge(tr_actor *actor, player *self)
{
    for (uint32_t i = 0; i < self->n_outs; i++) {
        uint32_t edge = self->outs[self->next_out++ % self->n_outs];
        if (tr_edge_credits(actor, edge)) return edge;
    }
    return TR_NO_EDGE;
}

static inline void send_item(tr_actor *actor, player *self, uint32_t edge, item what)
{
    tr_buffer *body = NULL;
    uint32_t size = (uint32_t)sizeof what + roll(self, MAX_BODY - (uint32_t)sizeof what + 1);
    if (tr_buffer_new(&body, size, NULL) != TR_OK) abort();
    memset(body->data, 0x5a, size);
    memcpy(body->data, &what, sizeof what);
    tr_edge_send(actor, edge, body, size, 0, what.number, 0);
}

/* true: it fails, now. */
static inline bool fails(tr_actor *actor, player *self)
{
    if (!self->play->failing || roll(self, 25)) return false;
    tr_error error;
    tr_fail(&error, TR_EIO, "as the seed says");
    tr_actor_fail(actor, &error);
    self->n_failures++;
    return true;
}

/* Now and then it rests for a time before it goes on. */
static inline bool rests(tr_actor *actor, player *self)
{
    if (!self->resting && roll(self, 16) == 0) {
        self->resting = true;
        if (roll(self, 2))
            tr_actor_timer(actor, roll(self, 3), 0);
        else
            tr_actor_send(actor, tr_actor_self(actor), TOPIC_GO_ON, 0, NULL, 0); /* told while it runs */
    }
    return self->resting;
}

static inline bool take_timer(tr_actor *actor, player *self, const tr_message *message)
{
    if (message->frame.kind == TR_FRAME_CONTROL)
        self->resting = false;
    else if (message->frame.incarnation !=
             tr_actor_incarnation(actor)) /* meant for those who restart together */
        self->heard_the_past = true;
    return message->frame.kind == TR_FRAME_CONTROL;
}

static inline bool source_idle(tr_actor *actor, void *state)
{
    player *self = state;
    if (fails(actor, self) || rests(actor, self)) return false;
    if (self->n_made == self->to_make) {
        tr_actor_send(actor, self->play->judge, TOPIC_ENDED, 0, NULL, 0);
        tr_actor_exit(actor);
        return false;
    }
    uint32_t edge = open_edge(actor, self);
    if (edge == TR_NO_EDGE) return false;
    send_item(actor, self, edge, (item){(uint32_t)tr_actor_self(actor) - 1, self->n_made++});
    return true;
}

static inline void source_receive(tr_actor *actor, void *state, tr_message **message)
{
    take_timer(actor, state, *message);
}

static inline void relay_receive(tr_actor *actor, void *state, tr_message **message)
{
    player *self = state;
    if (take_timer(actor, self, *message)) return;
    if (self->n_kept == MAX_KEPT) abort(); /* more than the credits allow */
    self->kept[self->n_kept++] = *message;
    *message = NULL;
    fails(actor, self);
}

static inline bool relay_idle(tr_actor *actor, void *state)
{
    player *self = state;
    uint32_t edge = self->n_kept && !rests(actor, self) ? open_edge(actor, self) : TR_NO_EDGE;
    if (edge == TR_NO_EDGE) return false;
    uint32_t which = roll(self, self->n_kept);
    const tr_message *message = self->kept[which];
    if (roll(self, 2)) { /* the very bytes: its slot is free again before they have left */
        uint32_t size = message->frame.body_bytes;
        tr_edge_send(actor, edge, tr_buffer_retain(message->body), size, 0, message->frame.microbatch, 0);
    } else {
        item what;
        memcpy(&what, tr_message_bytes(message), sizeof what);
        send_item(actor, self, edge, what);
    }
    tr_edge_release(actor, &self->kept[which]);
    self->kept[which] = self->kept[--self->n_kept];
    return true;
}

/* Relays of one node have their turns by how much they keep. */
static inline uint64_t relay_urgency(tr_actor *actor, void *state)
{
    const player *self = state;
    (void)actor;
    return self->n_kept == 0 || self->resting ? TR_NO_WORK : MAX_KEPT - self->n_kept;
}

static inline void sink_receive(tr_actor *actor, void *state, tr_message **message)
{
    player *self = state;
    if (take_timer(actor, self, *message)) return;
    if (fails(actor, self)) {
        tr_actor_send(actor, self->play->judge, TOPIC_LOST, 1, NULL, 0);
        return;
    }
    item what;
    memcpy(&what, tr_message_bytes(*message), sizeof what);
    tr_actor_send(actor, self->play->judge, TOPIC_DONE, 0, &what, sizeof what);
}

static inline void judge_start(tr_actor *actor, void *state)
{
    play *stage = ((player *)state)->play;
    if (stage->together) tr_actor_timer(actor, TOGETHER_MS, 0);
    for (tr_actor_id id = 1; id <= stage->n_sources && !stage->failing; id++) tr_actor_monitor(actor, id);
}

static inline void end_when_done(tr_actor *actor, play *stage)
{
    if (stage->n_counted + stage->n_lost == stage->n_items && stage->n_sources_ended == stage->n_sources)
        tr_actor_finish_job(actor);
}

static inline void judge_receive(tr_actor *actor, void *state, tr_message **message)
{
    player *self = state;
    const tr_frame *frame = &(*message)->frame;
    item what;
    if (self->play->together) {
        if (frame->edge == TR_TOPIC_TIMER) tr_actor_finish_job(actor);
        return;
    }
    if (frame->edge == TOPIC_LOST || frame->edge == TOPIC_ENDED) {
        if (frame->edge == TOPIC_LOST) self->play->n_lost += frame->step;
        if (frame->edge == TOPIC_ENDED && self->play->failing) self->play->n_sources_ended++;
        end_when_done(actor, self->play);
        return;
    }
    memcpy(&what, tr_message_bytes(*message), sizeof what);
    if (self->seen[what.source] & 1ull << what.number) self->play->repeated = true;
    self->seen[what.source] |= 1ull << what.number;
    self->play->n_counted++;
    end_when_done(actor, self->play);
}

static inline void judge_down(tr_actor *actor, void *state, tr_actor_id who, const char *reason)
{
    (void)who, (void)reason;
    play *stage = ((player *)state)->play;
    stage->n_sources_ended++;
    end_when_done(actor, stage);
}

static const tr_behavior source = {
    .name = "source", .init = player_init, .receive = source_receive, .idle = source_idle};
static const tr_behavior relay = {.name = "relay",
                                  .init = player_init,
                                  .receive = relay_receive,
                                  .idle = relay_idle,
                                  .urgency = relay_urgency,
                                  .stop = player_stop};
static const tr_behavior sink = {.name = "sink", .init = player_init, .receive = sink_receive};
static const tr_behavior judge = {
    .name = "judge", .init = player_init, .start = judge_start, .receive = judge_receive, .down = judge_down};

/* ---- a random cast ---- */

static inline tr_actor_id add_actor(play *self, const char *kind, uint32_t number)
{
    tr_actor_id id = 0;
    char name[TR_NAME_BYTES];
    snprintf(name, sizeof name, "%s %u", kind, number);
    tr_error err;
    if (tr_topology_add_actor(&self->topology, name, kind,
                              (int32_t)play_draw(self, (uint32_t)self->topology.n_nodes), NULL, 0, 0, &id,
                              &err) != TR_OK)
        abort();
    return id;
}

static inline void add_edge(play *self, tr_actor_id from, tr_actor_id to)
{
    tr_error err;
    uint32_t most = to > self->n_sources + 3 ? 8 : MAX_KEPT / 3; /* a relay keeps what it has not passed on */
    if (tr_topology_add_edge(&self->topology, "items", from, to, 1 + play_draw(self, most), MAX_BODY, NULL,
                             &err) != TR_OK)
        abort();
}

/* Sources end by themselves, the others never should. */
static inline void supervise(play *self, uint32_t n_children)
{
    tr_child_spec children[MAX_ACTORS];
    for (uint32_t i = 0; i < n_children; i++)
        children[i] = (tr_child_spec){i + 1, i < self->n_sources ? TR_TRANSIENT : TR_PERMANENT};
    tr_supervisor_spec spec = {self->together ? TR_ONE_FOR_ALL : TR_ONE_FOR_ONE, 60000, 1, children,
                               n_children};
    tr_actor_id id;
    tr_error err;
    int32_t node = (int32_t)play_draw(self, (uint32_t)self->topology.n_nodes);
    if (tr_topology_add_supervisor(&self->topology, "supervisor", node, &spec, &id, &err) != TR_OK) abort();
}

/* Up to three sources, three relays, three sinks, the judge. Every source and relay has a way on, each relay at most three in. */
static inline void play_cast(play *self, uint64_t seed, bool failing, bool together)
{
    memset(self, 0, sizeof *self);
    self->failing = failing;
    self->together = together;
    self->key = (tr_rng_key){.seed = seed, .stream = 1};
    tr_topology_init(&self->topology, 1 + (int32_t)play_draw(self, 4));
    self->n_sources = 1 + play_draw(self, 3);
    uint32_t n_relays = 3, n_sinks = 1 + play_draw(self, 3);
    for (uint32_t i = 0; i < self->n_sources; i++) {
        tr_actor_id id = add_actor(self, "source", i);
        self->players[id - 1].to_make = play_draw(self, MAX_ITEMS + 1);
        self->n_items += self->players[id - 1].to_make;
    }
    for (uint32_t i = 0; i < n_relays; i++) add_actor(self, "relay", i);
    for (uint32_t i = 0; i < n_sinks; i++) add_actor(self, "sink", i);
    self->judge = add_actor(self, "judge", 0);
    if (failing) supervise(self, (uint32_t)self->judge - 1);
    tr_actor_id first_relay = self->n_sources + 1, first_sink = first_relay + n_relays;
    for (tr_actor_id from = 1; from < first_sink; from++) {
        tr_actor_id to = from < first_relay ? first_relay + play_draw(self, n_relays)
                                            : first_sink + play_draw(self, n_sinks);
        add_edge(self, from, to);
        if (play_draw(self, 2) && from >= first_relay) {
            tr_actor_id other = first_sink + play_draw(self, n_sinks);
            if (other != to) add_edge(self, from, other);
        }
    }
}

/* The kinds of a play; the array has room for PLAY_KINDS. */
static inline void play_kinds(play *self, tr_actor_kind kinds[PLAY_KINDS])
{
    const tr_actor_kind all[PLAY_KINDS] = {{"source", &source, self},
                                           {"relay", &relay, self},
                                           {"sink", &sink, self},
                                           {"judge", &judge, self},
                                           TR_SUPERVISOR_KIND};
    memcpy(kinds, all, sizeof all);
}

static inline uint32_t play_failures(const play *self)
{
    uint32_t n = 0;
    for (size_t i = 0; i < MAX_ACTORS; i++) n += self->players[i].n_failures;
    return n;
}

static inline bool play_heard_the_past(const play *self)
{
    bool heard = false;
    for (size_t i = 0; i < MAX_ACTORS; i++) heard = heard || self->players[i].heard_the_past;
    return heard;
}

/* Every item was counted once, or lost in the hands of one who failed; says so on stderr otherwise. */
static inline bool play_adds_up(const play *self)
{
    if (!self->repeated && self->n_counted + self->n_lost == self->n_items &&
        (self->failing || !self->n_lost))
        return true;
    fprintf(stderr, "of %u items %u were counted and %u lost by %u failures%s\n", self->n_items,
            self->n_counted, self->n_lost, play_failures(self),
            self->repeated ? ", some counted more than once" : "");
    return false;
}

#endif
