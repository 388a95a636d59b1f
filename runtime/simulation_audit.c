/* runtime/simulation_audit.c - the invariants of a simulated job, looked at from outside: no code of edges or mailboxes is
 * asked what it believes, only what lies where.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/simulation_internal.h"

#include "base/memory.h"

#include <stdarg.h>
#include <string.h>

void tr__simulation_break(tr_simulation *self, const char *format, ...)
{
    if (self->broken) return;
    self->broken = true;
    char text[TR_ERROR_SIZE];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    tr_fail(&self->error, TR_ECORRUPT, "%s", text);
}

tr_status tr__audit_init(tr_simulation *self, tr_error *err)
{
    const tr_topology *topology = self->options.topology;
    self->edges = tr_alloc_zero(topology->n_edges + 1, sizeof *self->edges);
    if (!self->edges) return tr_fail(err, TR_ENOMEM, "no memory for an audit");
    for (size_t i = 0; i < topology->n_edges; i++) {
        tr__edge_watch *watch = &self->edges[i];
        watch->found = tr_alloc(topology->edges[i].n_slots * sizeof *watch->found);
        watch->copied = tr_alloc(2 * (size_t)topology->edges[i].n_slots);
        if (!watch->found || !watch->copied) return tr_fail(err, TR_ENOMEM, "no memory for an audit");
    }
    return TR_OK;
}

void tr__audit_release(tr_simulation *self)
{
    for (size_t i = 0; self->edges && i < self->options.topology->n_edges; i++) {
        tr_free(self->edges[i].found);
        tr_free(self->edges[i].copied);
    }
    tr_free(self->edges);
}

static const tr_node *node_of(const tr_simulation *self, tr_actor_id id)
{
    return self->nodes[tr_topology_actor(self->options.topology, id)->node];
}

static tr__world *world_of(const tr_simulation *self, tr_actor_id id)
{
    const tr_node *node = node_of(self, id);
    return node ? node->world : NULL;
}

/* Both ends are there, in the same epoch, and nothing was torn in it: then every slot can be accounted for. */
static bool is_whole(const tr_simulation *self, const tr_edge_spec *spec)
{
    if (!world_of(self, spec->source) || !world_of(self, spec->destination)) return false;
    uint32_t epoch = node_of(self, spec->source)->options.epoch;
    return epoch == node_of(self, spec->destination)->options.epoch && epoch > self->torn_epoch;
}

/* Nothing of one epoch may be handled in another. What stays on its node carries none. */
static void audit_epoch(tr_simulation *self, int32_t place, tr_actor_id to, const tr_frame *frame)
{
    uint32_t epoch = self->nodes[place]->options.epoch;
    if (frame->epoch && frame->epoch != epoch)
        tr__simulation_break(self, "'%s' was handed a message of epoch %u in epoch %u",
                             tr_topology_actor(self->options.topology, to)->name, frame->epoch, epoch);
}

void tr__audit_message(tr_simulation *self, int32_t place, tr_actor_id to, const tr_message *message)
{
    const tr_frame *frame = &message->frame;
    audit_epoch(self, place, to, frame);
    /* A zombie sits elsewhere; what it is handed is its own business. */
    if (frame->kind != TR_FRAME_DATA || place >= self->options.topology->n_nodes) return;
    const tr_edge_spec *spec = &self->options.topology->edges[frame->edge];
    tr__edge_watch *watch = &self->edges[frame->edge];
    if (to != spec->destination || frame->source != spec->source)
        tr__simulation_break(self, "a message of edge %u, '%s', came to actor %llu", spec->id, spec->name,
                             (unsigned long long)to);
    uint32_t epoch = self->nodes[place]->options.epoch;
    if (epoch < watch->epoch)
        tr__simulation_break(self, "edge %u, '%s': a message of epoch %u came after one of %u", spec->id,
                             spec->name, epoch, watch->epoch);
    if (epoch != watch->epoch) watch->expected = 0;
    watch->epoch = epoch;
    if (frame->sequence != watch->expected++)
        tr__simulation_break(self, "edge %u, '%s': message %u was handed over in place of %u", spec->id,
                             spec->name, frame->sequence, watch->expected - 1);
}

/* ---- every slot in exactly one place ---- */

static void found(tr_simulation *self, const tr_edge_spec *spec, uint16_t slot)
{
    if (slot >= spec->n_slots)
        tr__simulation_break(self, "edge %u, '%s': slot %u of %u", spec->id, spec->name, slot, spec->n_slots);
    else
        self->edges[spec->id].found[slot]++;
}

static void look_at_ends(tr_simulation *self, const tr_edge_spec *spec)
{
    const tr_sender_end *out = world_of(self, spec->source)->outs[spec->id];
    const tr_receiver_end *in = world_of(self, spec->destination)->ins[spec->id];
    tr__edge_watch *watch = &self->edges[spec->id];
    memset(watch->found, 0, spec->n_slots * sizeof *watch->found);
    memset(watch->copied, 0, 2 * (size_t)spec->n_slots);
    for (uint32_t i = out->taken_; i != out->returned_; i++) {
        if (i - out->taken_ >= spec->n_slots) {
            tr__simulation_break(self, "edge %u, '%s': more free slots than there are", spec->id, spec->name);
            return;
        }
        found(self, spec, out->ring_[i & out->mask_]);
    }
    for (uint32_t slot = 0; slot < spec->n_slots; slot++)
        if (in->held_[slot]) found(self, spec, (uint16_t)slot);
    for (uint32_t i = 0; i < in->n_pending; i++) found(self, spec, in->pending_[i].slot);
    for (uint32_t i = 0; in->window_ && i <= in->mask_; i++)
        if (in->window_[i]) found(self, spec, in->window_[i]->frame.slot);
}

/* Only the first copy of a frame that its receiver has not seen carries its slots. */
static bool is_new(uint8_t *copied, uint32_t ahead, uint32_t n_slots)
{
    if (ahead >= n_slots || copied[ahead]) return false;
    copied[ahead] = 1;
    return true;
}

static void look_at_data(tr_simulation *self, const tr_frame *frame)
{
    const tr_edge_spec *spec = &self->options.topology->edges[frame->edge];
    if (!is_whole(self, spec) || frame->epoch != node_of(self, spec->source)->options.epoch) return;
    const tr_receiver_end *in = world_of(self, spec->destination)->ins[spec->id];
    if (in->window_[frame->sequence & in->mask_]) return; /* a copy */
    if (is_new(self->edges[spec->id].copied, frame->sequence - in->expected_, spec->n_slots))
        found(self, spec, frame->slot);
}

/* The first copy of a credit for the message that the slot is out with. */
static void look_at_one_credit(tr_simulation *self, const tr_sender_end *out, tr_credit credit)
{
    uint8_t *copied = self->edges[out->spec->id].copied + out->spec->n_slots;
    if (credit.slot < out->spec->n_slots && out->out_[credit.slot] == (1ull << 32 | credit.sequence) &&
        is_new(copied, credit.slot, out->spec->n_slots))
        found(self, out->spec, credit.slot);
}

static void look_at_credit(tr_simulation *self, const tr_frame *frame, const char *body)
{
    const tr_edge_spec *spec = &self->options.topology->edges[frame->edge];
    if (!is_whole(self, spec) || frame->epoch != node_of(self, spec->source)->options.epoch) return;
    const tr_sender_end *out = world_of(self, spec->source)->outs[spec->id];
    tr_credit credit = {.sequence = frame->sequence, .slot = frame->slot};
    if (!frame->body_bytes) look_at_one_credit(self, out, credit);
    for (uint32_t at = 0; at < frame->body_bytes; at += (uint32_t)sizeof credit) {
        memcpy(&credit, body + at, sizeof credit);
        look_at_one_credit(self, out, credit);
    }
}

static void audit_slots(tr_simulation *self)
{
    const tr_topology *topology = self->options.topology;
    for (size_t i = 0; i < topology->n_edges; i++)
        if (is_whole(self, &topology->edges[i])) look_at_ends(self, &topology->edges[i]);
    for (size_t i = 0; i < tr_sim_network_flying(self->data); i++) {
        const void *body;
        const tr_frame *frame = tr_sim_network_frame(self->data, i, &body);
        if (!tr_sim_network_is_current(self->data, i)) continue;
        if (frame->kind == TR_FRAME_DATA)
            look_at_data(self, frame);
        else if (frame->kind == TR_FRAME_CREDIT)
            look_at_credit(self, frame, body);
    }
    for (size_t i = 0; i < topology->n_edges; i++) {
        const tr_edge_spec *spec = &topology->edges[i];
        for (uint32_t slot = 0; slot < spec->n_slots && is_whole(self, spec); slot++)
            if (self->edges[i].found[slot] != 1)
                tr__simulation_break(self, "edge %u, '%s': slot %u is in %u places", spec->id, spec->name,
                                     slot, self->edges[i].found[slot]);
    }
}

/* ---- lanes ---- */

static uint32_t waiting(const tr_lane *lane)
{
    return lane->pushed_ - lane->popped_;
}

static void audit_actor(tr_simulation *self, const tr_actor *actor)
{
    const tr_mailbox *mailbox = &actor->mailbox;
    if (waiting(&mailbox->data) > mailbox->data.capacity)
        tr__simulation_break(self, "actor '%s' has %u messages waiting, more than its %u credits",
                             actor->spec->name, waiting(&mailbox->data), mailbox->data.capacity);
    if ((waiting(&mailbox->data) || waiting(&mailbox->control)) && tr_task_is_idle(&actor->task) &&
        !(tr__awaits_restart(actor) && !waiting(&mailbox->control)))
        tr__simulation_break(self, "actor '%s' sleeps with %u messages waiting", actor->spec->name,
                             waiting(&mailbox->data) + waiting(&mailbox->control));
    if (actor->owing && tr_task_is_idle(&actor->task))
        tr__simulation_break(self, "actor '%s' sleeps and keeps back credits of edge '%s'", actor->spec->name,
                             actor->owing->spec->name);
}

void tr__audit(tr_simulation *self)
{
    audit_slots(self);
    for (size_t i = 0; i < self->options.topology->n_actors; i++) {
        const tr__world *world = world_of(self, i + 1);
        if (world) audit_actor(self, world->actors[i]);
    }
}

void tr__audit_describe(const tr_simulation *self, char *text, size_t capacity)
{
    const tr_topology *topology = self->options.topology;
    size_t at = 0;
    text[0] = '\0';
    for (size_t i = 0; i < topology->n_actors && at < capacity; i++) {
        const tr__world *world = world_of(self, i + 1);
        if (!world) continue;
        const tr_actor *actor = world->actors[i];
        const tr_activity_record *record = actor->record;
        int n = snprintf(text + at, capacity - at, "; '%s' %s%s of step %u, micro-batch %u",
                         actor->spec->name, actor->ended ? "has ended, last in " : "", record->what,
                         record->step, record->microbatch);
        at += n > 0 ? (size_t)n : 0;
    }
    for (size_t i = 0; i < topology->n_edges && at < capacity; i++) {
        const tr_edge_spec *spec = &topology->edges[i];
        const tr__world *world = world_of(self, spec->source);
        const tr_sender_end *out = world ? world->outs[i] : NULL;
        if (!out || tr_sender_end_credits(out) == spec->n_slots) continue;
        int n = snprintf(text + at, capacity - at, "; edge %zu '%s': %u of %u credits", i, spec->name,
                         tr_sender_end_credits(out), spec->n_slots);
        at += n > 0 ? (size_t)n : 0;
    }
}
