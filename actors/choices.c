/* actors/choices.c - see choices.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "actors/choices.h"

#include "actors/topics.h"
#include "base/memory.h"
#include "runtime/topology.h"

#include <stdio.h>
#include <string.h>

static void note(const tr_monitor_context *known, const char *text)
{
    known->note(known->context, "products", text);
}

/* Whoever is first in the line. */
static void serve(tr__choices_desk *self, tr_actor *monitor, const tr_monitor_context *known)
{
    if (self->n_askers == 0) return;
    const tr__choices_asker *asker = &self->askers[0];
    char why[256] = "";
    char *text = known->choices(known->context, asker->name, why, sizeof why);
    if (why[0]) note(known, why);
    tr_packer packer;
    tr_packer_init(&packer);
    tr_pack_array(&packer, 2);
    tr_pack_uint(&packer, TR__CHOICES_TAKE);
    tr_pack_bytes(&packer, text ? text : "", text ? strlen(text) : 0);
    tr_send_packed(monitor, asker->who, TR_TOPIC_CHOICES, 0, &packer);
    tr_free(text);
}

static bool take_ask(tr__choices_desk *self, tr_actor *monitor, const tr_monitor_context *known,
                     tr_actor_id from, tr_unpacker *body)
{
    tr__choices_asker asker = {.who = from};
    tr_error error;
    tr_unpack_text(body, asker.name, sizeof asker.name);
    if (tr_unpacker_done(body, "question", NULL)) return false;
    for (size_t i = 0; i < self->n_askers; i++)
        if (self->askers[i].who == from) return false;
    void *array = self->askers;
    tr_status status =
        tr_array_reserve(&array, &self->capacity, self->n_askers + 1, sizeof *self->askers, &error);
    self->askers = array;
    if (status) {
        tr_actor_fail(monitor, &error);
        return true;
    }
    self->askers[self->n_askers++] = asker;
    if (self->n_askers == 1) serve(self, monitor, known);
    return true;
}

static bool take_taken(tr__choices_desk *self, tr_actor *monitor, const tr_monitor_context *known,
                       tr_actor_id from, tr_unpacker *body)
{
    size_t size;
    const char *bytes = tr_unpack_bytes(body, &size);
    uint64_t n_measured = tr_unpack_uint(body, UINT32_MAX), ms = tr_unpack_uint(body, UINT32_MAX);
    if (tr_unpacker_done(body, "answer", NULL) || self->n_askers == 0 || self->askers[0].who != from)
        return false;
    char *text = tr_alloc_zero(size + 1, 1);
    tr_error error;
    tr_status status = text ? TR_OK : tr_fail(&error, TR_ENOMEM, "no memory for choices of algorithms");
    if (text && size) memcpy(text, bytes, size);
    if (!status && n_measured > 0) {
        char told[640];
        status = known->keep_choices(known->context, text, &error);
        snprintf(told, sizeof told, "%s measured algorithms of %u matrix products in %.1f s, for %s",
                 tr_topology_actor(tr_actor_topology(monitor), from)->name, (unsigned)n_measured,
                 (double)ms / 1e3, self->askers[0].name);
        note(known, told);
    }
    tr_free(text);
    if (status) {
        tr_actor_fail(monitor, &error);
        return true;
    }
    self->n_askers--;
    memmove(self->askers, self->askers + 1, self->n_askers * sizeof *self->askers);
    serve(self, monitor, known);
    return true;
}

bool tr__choices_receive(tr__choices_desk *self, tr_actor *monitor, const tr_monitor_context *known,
                         tr_actor_id from, tr_unpacker *body)
{
    if (!known->choices || body->bad) return false;
    switch (tr_unpack_uint(body, TR__CHOICES_TAKEN)) {
    case TR__CHOICES_ASK: return !body->bad && take_ask(self, monitor, known, from, body);
    case TR__CHOICES_TAKEN: return take_taken(self, monitor, known, from, body);
    default: return false;
    }
}

void tr__choices_release(tr__choices_desk *self)
{
    tr_free(self->askers);
    *self = (tr__choices_desk){0};
}
