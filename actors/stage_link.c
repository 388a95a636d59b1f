/* actors/stage_link.c - see stage_link.h. The order between two devices is kept by messages, not by events that both know: one goes
 * when the host has seen that its body is written, and its credit goes back when the host has seen that the body is copied.
 * So no device ever waits for another process, and a death leaves nothing that could wait for ever.
 * Copies have a stream of their own: what has arrived is fetched while the phase before computes. They wait for what has been
 * queued for the micro-batch that had the place before, and the phase waits for them.
 * SPDX-License-Identifier: Apache-2.0 */
#include "actors/stage_link.h"

#include "actors/device_link.h"
#include "actors/roles.h"
#include "actors/stage_depart.h"
#include "actors/topics.h"
#include "base/log.h"

#include <stdio.h>
#include <string.h>

enum { WAYS = 2, TEXT_BYTES = 256 }; /* activations go on, gradients back */

typedef enum word { OFFER, TAKEN, REFUSED } word;

typedef struct link_out {
    uint32_t edge; /* TR_NO_EDGE: there is none */
    uint64_t size_bytes;
    tr_link_pool pool;
    tr__buffers descriptors;
    bool is_used;
    char why[TEXT_BYTES]; /* ... there is no pool */
} link_out;

typedef struct link_in {
    uint32_t edge;
    uint64_t size_bytes;
    tr_link_view view;
} link_in;

/* A message whose body is being copied. */
typedef struct fetch {
    tr_message *message;
    tr_event *copied;
} fetch;

struct tr__links {
    link_out out[WAYS];
    link_in in[WAYS];
    tr_stream *stream;
    tr_event **behind; /* by flight: what was queued for its micro-batch */
    uint32_t n_behind;
    fetch *fetches; /* a ring, in the order of the stream */
    uint32_t first, n_fetches, capacity;
};

/* --- which edges --- */

/* As pipelines/job_topology.c counts their slots. */
uint64_t tr__links_bytes(const tr_stage_spec *spec)
{
    const tr_training_plan *plan = &spec->plan;
    uint64_t out = tr__value_bytes(spec->graph, spec->activation_out),
             back = tr__value_bytes(spec->graph, spec->gradient_out), bytes = 0;
    if (!spec->links || plan->replay || plan->audit) return 0;
    if (out)
        bytes += tr_link_pool_bytes(tr_plan_stash_credits(plan, spec->replica, spec->stage + 1) + 1, out);
    if (back) bytes += tr_link_pool_bytes(tr_plan_stash_credits(plan, spec->replica, spec->stage - 1), back);
    return bytes;
}

static uint32_t slots_of(const tr__stage *self, uint32_t edge)
{
    return edge == TR_NO_EDGE ? 0 : tr_edge_spec_of(self->actor, edge)->n_slots;
}

static void find_edges(tr__stage *self)
{
    tr__links *links = self->links;
    const tr_stage_spec *spec = &self->spec;
    const tr_graph *graph = spec->graph;
    links->out[0].edge = self->out_activation;
    links->out[0].size_bytes = tr__value_bytes(graph, spec->activation_out);
    links->out[1].edge = self->out_gradient;
    links->out[1].size_bytes = tr__value_bytes(graph, spec->gradient_out);
    links->in[0].edge = self->first ? TR_NO_EDGE : tr_edge_in(self->actor, TR_EDGE_ACTIVATION, 0);
    links->in[0].size_bytes = tr__value_bytes(graph, spec->activation_in);
    links->in[1].edge = self->last ? TR_NO_EDGE : tr_edge_in(self->actor, TR_EDGE_GRADIENT, 0);
    links->in[1].size_bytes = tr__value_bytes(graph, spec->gradient_in);
    for (int i = 0; i < WAYS; i++) links->out[i].descriptors.size_bytes = sizeof(tr_link_descriptor);
}

/* --- which way, in words --- */

/* For the log of the run. */
static void note(tr__stage *self, uint32_t edge, const char *how, const char *more)
{
    char text[TEXT_BYTES + 128];
    tr_packer packer;
    const tr_topology *topology = tr_actor_topology(self->actor);
    const tr_edge_spec *spec = tr_edge_spec_of(self->actor, edge);
    snprintf(text, sizeof text, "%s: its %ss go to %s %s%s", tr_actor_name(self->actor), spec->name,
             tr_topology_actor(topology, spec->destination)->name, how, more);
    tr_log(TR_LOG_INFO, "%s", text);
    tr_actor_id monitor = tr_role_find(topology, TR_ROLE_MONITOR);
    if (!monitor) return;
    tr_packer_init(&packer);
    tr_pack_array(&packer, 2);
    tr_pack_text(&packer, "link");
    tr_pack_text(&packer, text);
    tr_send_packed(self->actor, monitor, TR_TOPIC_NOTE, self->step, &packer);
}

static void note_host(tr__stage *self, uint32_t edge, const char *why)
{
    note(self, edge, "through the host's memory: ", why);
}

/* NULL: they may. */
static const char *why_no_links(const tr__stage *self)
{
    const tr_training_plan *plan = &self->spec.plan;
    if (plan->replay) return "recovery: replay keeps messages there";
    if (plan->audit) return "supervision.audit looks at messages there";
    if (self->spec.links) return NULL;
    return self->spec.device == TR_DEVICE_CUDA ? "layout.cuda_ipc is false"
                                               : "the other end computes on the CPU";
}

/* --- beginning and end --- */

static tr_status make_fetches(tr__stage *self, tr_error *err)
{
    tr__links *links = self->links;
    tr_device *device = tr_stream_device(links->stream);
    links->n_behind = self->spec.stash_credits;
    links->capacity = slots_of(self, links->in[0].edge) + slots_of(self, links->in[1].edge);
    links->behind = tr_alloc_zero(links->n_behind, sizeof *links->behind);
    links->fetches = tr_alloc_zero((size_t)links->capacity + 1, sizeof *links->fetches);
    if (!links->behind || !links->fetches)
        return tr_fail(err, TR_ENOMEM, "no memory for %u messages on their way", links->capacity);
    tr_status status = TR_OK;
    for (uint32_t i = 0; !status && i < links->n_behind; i++)
        status = tr_event_new(&links->behind[i], device, false, err);
    for (uint32_t i = 0; !status && i < links->capacity; i++)
        status = tr_event_new(&links->fetches[i].copied, device, false, err);
    return status;
}

/* A device that cannot share memory leaves the edge as it was; one without room for it ends the job, as for any other memory. */
static tr_status open_pool(tr__stage *self, link_out *out, tr_error *err)
{
    tr_error why;
    if (out->edge == TR_NO_EDGE) return TR_OK;
    if (tr_edge_spec_of(self->actor, out->edge)->slot_bytes < sizeof(tr_link_descriptor)) {
        snprintf(out->why, sizeof out->why, "they are shorter than what would describe them");
        return TR_OK;
    }
    tr_status status = tr_link_pool_open(&out->pool, self->links->stream, tr_actor_epoch(self->actor),
                                         slots_of(self, out->edge), out->size_bytes, &why);
    if (status == TR_EUNSUPPORTED) snprintf(out->why, sizeof out->why, "%.*s", TEXT_BYTES - 1, why.message);
    if (status == TR_OK || status == TR_EUNSUPPORTED) return TR_OK;
    if (err) *err = why;
    return status;
}

tr_status tr__links_init(tr__stage *self, tr_error *err)
{
    if (why_no_links(self) || self->spec.plan.n_stages < 2) return TR_OK;
    tr__links *links = self->links = tr_alloc_zero(1, sizeof *links);
    if (!links) return tr_fail(err, TR_ENOMEM, "no memory for the links of a stage");
    find_edges(self);
    tr_status status = tr_stream_new(&links->stream, tr_stream_device(tr__device_stream(self)), err);
    if (!status) status = make_fetches(self, err);
    for (int i = 0; !status && i < WAYS; i++) status = open_pool(self, &links->out[i], err);
    return status;
}

static void close_links(tr__stage *self)
{
    tr__links *links = self->links;
    for (uint32_t i = 0; i < links->n_fetches; i++)
        tr_edge_release(self->actor, &links->fetches[(links->first + i) % links->capacity].message);
    for (uint32_t i = 0; links->behind && i < links->n_behind; i++) tr_event_destroy(&links->behind[i]);
    for (uint32_t i = 0; links->fetches && i < links->capacity; i++)
        tr_event_destroy(&links->fetches[i].copied);
    tr_stream_destroy(&links->stream);
    for (int i = 0; i < WAYS; i++) {
        tr_link_view_close(&links->in[i].view);
        tr_link_pool_close(&links->out[i].pool);
        tr__buffers_release(&links->out[i].descriptors);
    }
    tr_free(links->behind);
    tr_free(links->fetches);
}

void tr__links_release(tr__stage *self)
{
    if (!self->links) return;
    close_links(self);
    tr_free(self->links);
    self->links = NULL;
}

/* --- offers and answers --- */

static void tell(tr__stage *self, tr_actor_id to, word what, uint32_t edge, const char *text,
                 tr_link_pool *pool)
{
    tr_packer packer;
    tr_packer_init(&packer);
    tr_pack_array(&packer, 3);
    tr_pack_uint(&packer, what);
    tr_pack_uint(&packer, edge);
    if (pool)
        tr_link_pool_offer(pool, &packer);
    else
        tr_pack_text(&packer, text);
    tr_send_packed(self->actor, to, TR_TOPIC_LINK, self->step, &packer);
}

/* All nodes are ready, so all stages of earlier epochs have ended. */
void tr__links_start(tr__stage *self)
{
    const uint32_t edges[WAYS] = {self->out_activation, self->out_gradient};
    if (!self->device) return;
    tr_link_pools_forget(tr_actor_epoch(self->actor));
    for (int i = 0; i < WAYS; i++) {
        link_out *out = self->links ? &self->links->out[i] : NULL;
        if (edges[i] == TR_NO_EDGE) continue;
        if (out && out->pool.memory)
            tell(self, tr_edge_spec_of(self->actor, edges[i])->destination, OFFER, edges[i], NULL,
                 &out->pool);
        else if (out || self->spec.device == TR_DEVICE_CUDA)
            note_host(self, edges[i], out ? out->why : why_no_links(self));
    }
}

static link_in *in_of(const tr__stage *self, uint32_t edge)
{
    for (int i = 0; self->links && i < WAYS; i++)
        if (self->links->in[i].edge == edge) return &self->links->in[i];
    return NULL;
}

static link_out *out_of(const tr__stage *self, uint32_t edge)
{
    for (int i = 0; self->links && i < WAYS; i++)
        if (self->links->out[i].edge == edge && edge != TR_NO_EDGE) return &self->links->out[i];
    return NULL;
}

static void take_offer(tr__stage *self, uint32_t edge, tr_actor_id from, tr_unpacker *body)
{
    link_in *in = in_of(self, edge);
    tr_error why;
    char text[TEXT_BYTES];
    tr_status status = TR_EUNSUPPORTED;
    const char *device = tr_device_kind_name(self->spec.device);
    if (!in)
        tr_fail(&why, TR_EUNSUPPORTED, "%s", why_no_links(self));
    else if (in->view.memory)
        tr_fail(&why, TR_ECORRUPT, "it was offered twice");
    else
        status = tr_link_view_open(&in->view, self->links->stream, body, slots_of(self, edge), in->size_bytes,
                                   &why);
    if (status)
        snprintf(text, sizeof text, "%.*s", TEXT_BYTES - 1, why.message);
    else
        snprintf(text, sizeof text, "%s:%d", device, self->spec.device_index);
    tell(self, from, status ? REFUSED : TAKEN, edge, text, NULL);
}

static bool take_answer(tr__stage *self, uint32_t edge, bool taken, tr_unpacker *body)
{
    link_out *out = out_of(self, edge);
    char text[TEXT_BYTES] = "", how[128];
    tr_unpack_text(body, text, sizeof text);
    if (tr_unpacker_done(body, "answer", NULL) || !out || !out->pool.is_offered || out->is_used) return false;
    out->is_used = taken;
    if (taken) {
        snprintf(how, sizeof how, "by %s, from %s:%d to ",
                 self->spec.device == TR_DEVICE_CUDA ? "CUDA IPC" : "shared memory",
                 tr_device_kind_name(self->spec.device), self->spec.device_index);
        note(self, edge, how, text);
        return true;
    }
    out->pool.is_offered = false; /* nobody has it open: it goes at once */
    tr_link_pool_close(&out->pool);
    note_host(self, edge, text);
    return true;
}

void tr__links_receive(tr__stage *self, const tr_message *message)
{
    tr_unpacker body;
    const tr_topology *topology = tr_actor_topology(self->actor);
    tr_unpacker_init(&body, tr_message_bytes(message), message->frame.body_bytes);
    bool good = tr_unpack_array(&body, 3) == 3;
    word what = (word)tr_unpack_uint(&body, REFUSED);
    uint32_t edge = (uint32_t)tr_unpack_uint(&body, UINT32_MAX);
    good = good && !body.bad && edge < topology->n_edges;
    const tr_edge_spec *spec = good ? &topology->edges[edge] : NULL;
    tr_actor_id from = message->frame.source, own = tr_actor_self(self->actor);
    if (good && what == OFFER) {
        good = spec->source == from && spec->destination == own;
        if (good) take_offer(self, edge, from, &body);
    } else if (good) {
        good =
            spec->source == own && spec->destination == from && take_answer(self, edge, what == TAKEN, &body);
    }
    if (!good) tr_fail_for_topic(self->actor, message);
}

/* --- what goes --- */

tr_buffer *tr__links_take(tr__stage *self, uint32_t edge)
{
    link_out *out = out_of(self, edge);
    if (!out || !out->is_used)
        return tr__buffers_take(edge == self->out_activation ? &self->activations : &self->input_gradients);
    tr_buffer *buffer = tr__buffers_take(&out->descriptors);
    tr_link_descriptor descriptor;
    if (!buffer) return NULL;
    uint16_t slot = tr_edge_slot(self->actor, edge, tr__departures_on(self, edge));
    (void)tr_link_pool_place(&out->pool, slot, out->size_bytes, &descriptor);
    memcpy(buffer->data, &descriptor, sizeof descriptor);
    return buffer;
}

void *tr__links_place(const tr__stage *self, const tr_buffer *buffer)
{
    for (int i = 0; self->links && i < WAYS; i++) {
        const link_out *out = &self->links->out[i];
        for (size_t b = 0; b < out->descriptors.n; b++) {
            if (out->descriptors.all[b] != buffer) continue;
            const tr_link_descriptor *descriptor = buffer->data;
            return (uint8_t *)out->pool.memory->data + descriptor->offset_bytes;
        }
    }
    return NULL;
}

/* --- what comes --- */

bool tr__links_enter(tr__stage *self, tr_message **message, uint32_t flight, void *to, uint64_t size_bytes)
{
    tr__links *links = self->links;
    const tr_frame *frame = &(*message)->frame;
    link_in *in = in_of(self, frame->edge);
    const void *from;
    tr_error error;
    tr_status status = in ? tr_link_view_find(&in->view, tr_message_bytes(*message), frame->body_bytes,
                                              frame->slot, size_bytes, &from, &error)
                          : tr_fail(&error, TR_ECORRUPT, "a descriptor came without a link");
    if (!status) {
        TR_ASSERT(links->n_fetches < links->capacity); /* each holds a slot of its edge */
        fetch *next = &links->fetches[(links->first + links->n_fetches) % links->capacity];
        tr_stream *stream = tr__device_stream(self);
        status = tr_stream_wait(links->stream, links->behind[flight], &error);
        if (!status) status = tr_stream_copy(links->stream, to, from, size_bytes, &error);
        if (!status) status = tr_event_record(next->copied, links->stream, &error);
        if (!status) status = tr_stream_wait(stream, next->copied, &error);
        next->message = *message;
        *message = NULL;
        links->n_fetches++;
    }
    if (status) tr_actor_fail_node(self->actor, &error);
    return !status;
}

bool tr__links_note_phase(tr__stage *self, uint32_t flight)
{
    tr_error error;
    if (!self->links) return true;
    tr_status status = tr_event_record(self->links->behind[flight], tr__device_stream(self), &error);
    if (status) tr_actor_fail_node(self->actor, &error);
    return !status;
}

bool tr__links_are_busy(const tr__stage *self)
{
    return self->links && self->links->n_fetches > 0;
}

bool tr__links_has_arrived(const tr__stage *self)
{
    const tr__links *links = self->links;
    bool done = false;
    if (!tr__links_are_busy(self)) return false;
    return tr_event_done(links->fetches[links->first].copied, &done, NULL) != TR_OK || done;
}

bool tr__links_release_arrived(tr__stage *self)
{
    tr__links *links = self->links;
    fetch *oldest = &links->fetches[links->first];
    tr_error error;
    bool done;
    tr_status status = tr_event_done(oldest->copied, &done, &error);
    if (status) {
        tr_actor_fail_node(self->actor, &error);
        return false;
    }
    tr__release_message(self, &oldest->message);
    links->first = (links->first + 1) % links->capacity;
    links->n_fetches--;
    return true;
}
