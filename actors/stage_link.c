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

enum { TEXT_BYTES = 256 };

typedef enum word { OFFER, TAKEN, REFUSED } word;

typedef struct link_out {
    uint32_t edge;
    const tr_edge_spec *spec;
    tr_link_pool pool;
    tr__buffers descriptors;
    bool is_used;
    char why[TEXT_BYTES]; /* ... there is no pool */
} link_out;

typedef struct link_in {
    uint32_t edge;
    const tr_edge_spec *spec;
    tr_link_view view;
} link_in;

/* A message whose body is being copied. */
typedef struct fetch {
    tr_message *message;
    tr_event *copied;
} fetch;

struct tr__links {
    link_out *out;
    link_in *in;
    uint32_t n_out, n_in;
    tr_stream *stream;
    tr_event **behind; /* by flight: what was queued for its micro-batch */
    uint32_t n_behind;
    fetch *fetches; /* a ring, in the order of the stream */
    uint32_t first, n_fetches, capacity;
};

/* --- which edges --- */

/* In words; NULL: its messages are of the host. */
static const char *what_goes(const tr_edge_spec *edge)
{
    if (strcmp(edge->name, TR_EDGE_ACTIVATION) == 0) return "activations";
    if (strcmp(edge->name, TR_EDGE_GRADIENT) == 0) return "gradients";
    return strcmp(edge->name, TR_EDGE_TIED) == 0 ? "tied gradients" : NULL;
}

uint64_t tr_edge_link_bytes(const tr_edge_spec *edge)
{
    return what_goes(edge) ? tr_link_pool_bytes(edge->n_slots, edge->slot_bytes) : 0;
}

static tr_status find_edges(tr__stage *self, tr_error *err)
{
    tr__links *links = self->links;
    const tr_topology *topology = tr_actor_topology(self->actor);
    tr_actor_id own = tr_actor_self(self->actor);
    for (uint32_t e = 0; e < topology->n_edges; e++) {
        links->n_out += topology->edges[e].source == own && what_goes(&topology->edges[e]);
        links->n_in += topology->edges[e].destination == own && what_goes(&topology->edges[e]);
    }
    links->out = tr_alloc_zero((size_t)links->n_out + 1, sizeof *links->out);
    links->in = tr_alloc_zero((size_t)links->n_in + 1, sizeof *links->in);
    if (!links->out || !links->in) return tr_fail(err, TR_ENOMEM, "no memory for the links of a stage");
    link_out *out = links->out;
    link_in *in = links->in;
    for (uint32_t e = 0; e < topology->n_edges; e++) {
        const tr_edge_spec *edge = &topology->edges[e];
        if (!what_goes(edge)) continue;
        if (edge->source == own)
            *out++ = (link_out){
                .edge = e, .spec = edge, .descriptors = {.size_bytes = sizeof(tr_link_descriptor)}};
        if (edge->destination == own) {
            *in++ = (link_in){.edge = e, .spec = edge};
            links->capacity += edge->n_slots;
        }
    }
    return TR_OK;
}

static link_in *in_of(const tr__stage *self, uint32_t edge)
{
    for (uint32_t i = 0; self->links && i < self->links->n_in; i++)
        if (self->links->in[i].edge == edge) return &self->links->in[i];
    return NULL;
}

static link_out *out_of(const tr__stage *self, uint32_t edge)
{
    for (uint32_t i = 0; self->links && i < self->links->n_out; i++)
        if (self->links->out[i].edge == edge) return &self->links->out[i];
    return NULL;
}

/* --- which way, in words --- */

/* For the log of the run. */
static void note(tr__stage *self, uint32_t edge, const char *how, const char *more)
{
    char text[TEXT_BYTES + 128];
    tr_packer packer;
    const tr_topology *topology = tr_actor_topology(self->actor);
    const tr_edge_spec *spec = tr_edge_spec_of(self->actor, edge);
    snprintf(text, sizeof text, "%s: its %s go to %s %s%s", tr_actor_name(self->actor), what_goes(spec),
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
    if (out->spec->slot_bytes < sizeof(tr_link_descriptor)) {
        snprintf(out->why, sizeof out->why, "they are shorter than what would describe them");
        return TR_OK;
    }
    tr_status status = tr_link_pool_open(&out->pool, self->links->stream, tr_actor_epoch(self->actor),
                                         out->spec->n_slots, out->spec->slot_bytes, &why);
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
    tr_status status = find_edges(self, err);
    if (!status) status = tr_stream_new(&links->stream, tr_stream_device(tr__device_stream(self)), err);
    if (!status) status = make_fetches(self, err);
    for (uint32_t i = 0; !status && i < links->n_out; i++) status = open_pool(self, &links->out[i], err);
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
    for (uint32_t i = 0; links->in && i < links->n_in; i++) tr_link_view_close(&links->in[i].view);
    for (uint32_t i = 0; links->out && i < links->n_out; i++) {
        tr_link_pool_close(&links->out[i].pool);
        tr__buffers_release(&links->out[i].descriptors);
    }
    tr_free(links->in);
    tr_free(links->out);
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
    const tr_topology *topology = tr_actor_topology(self->actor);
    if (!self->device) return;
    tr_link_pools_forget(tr_actor_epoch(self->actor));
    for (uint32_t e = 0; e < topology->n_edges; e++) {
        const tr_edge_spec *edge = &topology->edges[e];
        if (edge->source != tr_actor_self(self->actor) || !what_goes(edge)) continue;
        link_out *out = out_of(self, e);
        if (out && out->pool.memory)
            tell(self, edge->destination, OFFER, e, NULL, &out->pool);
        else if (out || self->spec.device == TR_DEVICE_CUDA)
            note_host(self, e, out ? out->why : why_no_links(self));
    }
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
        status = tr_link_view_open(&in->view, self->links->stream, body, in->spec->n_slots,
                                   in->spec->slot_bytes, &why);
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
    (void)tr_link_pool_place(&out->pool, slot, out->spec->slot_bytes, &descriptor);
    memcpy(buffer->data, &descriptor, sizeof descriptor);
    return buffer;
}

/* The edge's slots are as large as the largest; what is sent may be less. */
bool tr__links_send(tr__stage *self, uint32_t edge, const void *from, uint64_t size_bytes, uint32_t index)
{
    link_out *out = out_of(self, edge);
    tr_link_descriptor descriptor;
    tr_buffer *buffer = tr__buffers_take(&out->descriptors);
    tr_error error;
    if (!buffer) {
        tr__fail_for_memory(self);
        return false;
    }
    void *to = tr_link_pool_place(&out->pool, tr_edge_slot(self->actor, edge, 0), size_bytes, &descriptor);
    memcpy(buffer->data, &descriptor, sizeof descriptor);
    tr_status status = tr_stream_copy(tr__device_stream(self), to, from, size_bytes, &error);
    if (!status) status = tr_stream_synchronize(tr__device_stream(self), &error);
    if (status) {
        tr_buffer_release(&buffer);
        return tr__device_failed_or_peer(self, &error);
    }
    tr_edge_send(self->actor, edge, buffer, sizeof descriptor, self->step, index, TR_FRAME_DESCRIPTOR);
    return true;
}

bool tr__links_carry(const tr__stage *self, uint32_t edge)
{
    const link_out *out = edge == TR_NO_EDGE ? NULL : out_of(self, edge);
    return out && out->is_used;
}

void *tr__links_place(const tr__stage *self, const tr_buffer *buffer)
{
    for (uint32_t i = 0; self->links && i < self->links->n_out; i++) {
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

static tr_status find(tr__stage *self, const tr_message *message, uint64_t size_bytes, const void **from,
                      tr_error *err)
{
    const tr_frame *frame = &message->frame;
    link_in *in = in_of(self, frame->edge);
    if (!in) return tr_fail(err, TR_ECORRUPT, "a descriptor came without a link");
    return tr_link_view_find(&in->view, tr_message_bytes(message), frame->body_bytes, frame->slot, size_bytes,
                             from, err);
}

bool tr__links_copy(tr__stage *self, const tr_message *message, void *to, uint64_t size_bytes)
{
    const void *from;
    tr_error error;
    tr_status status = find(self, message, size_bytes, &from, &error);
    if (!status) status = tr_stream_copy(tr__device_stream(self), to, from, size_bytes, &error);
    return !status || tr__device_failed_or_peer(self, &error);
}

bool tr__links_enter(tr__stage *self, tr_message **message, uint32_t flight, void *to, uint64_t size_bytes)
{
    tr__links *links = self->links;
    const void *from;
    tr_error error;
    tr_status status = find(self, *message, size_bytes, &from, &error);
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
    return !status || tr__device_failed_or_peer(self, &error);
}

bool tr__links_note_phase(tr__stage *self, uint32_t flight)
{
    tr_error error;
    if (!self->links) return true;
    tr_status status = tr_event_record(self->links->behind[flight], tr__device_stream(self), &error);
    return !status || tr__device_failed_or_peer(self, &error);
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
        return tr__device_failed_or_peer(self, &error);
    }
    tr__release_message(self, &oldest->message);
    links->first = (links->first + 1) % links->capacity;
    links->n_fetches--;
    return true;
}
