/* actors/stage_choices.c - see stage_choices.h. Measuring takes place in the handler: it is computing, like a forward.
 * SPDX-License-Identifier: Apache-2.0 */
#include "actors/stage_choices.h"

#include "actors/choices.h"
#include "actors/roles.h"
#include "actors/stage_device.h"
#include "actors/topics.h"
#include "base/clock.h"
#include "base/log.h"

#include <string.h>

_Static_assert((int)TR__CHOICES_NAME_BYTES >= (int)TR_PRODUCT_NAME_BYTES, "the monitor takes every name");

static tr_actor_id monitor_of(const tr__stage *self)
{
    return tr_role_find(tr_actor_topology(self->actor), TR_ROLE_MONITOR);
}

void tr__stage_choices_start(tr__stage *self)
{
    char name[TR_PRODUCT_NAME_BYTES];
    tr_packer packer;
    if (!self->spec.measure_products) return;
    self->is_choosing = true;
    tr_program_products_hold_for(self->program, name);
    tr_packer_init(&packer);
    tr_pack_array(&packer, 2);
    tr_pack_uint(&packer, TR__CHOICES_ASK);
    tr_pack_text(&packer, name);
    tr_send_packed(self->actor, monitor_of(self), TR_TOPIC_CHOICES, self->step, &packer);
}

/* Text that is of no use is no reason to end: what it should have said is measured. */
static tr_status read_choices(tr__stage *self, const char *text, tr_error *err)
{
    tr_error why;
    tr_status status = tr_product_choices_new(&self->choices, err);
    if (status || !tr_product_choices_read(self->choices, text, &why)) return status;
    tr_log(TR_LOG_WARNING, "%s: what is kept of matrix products is not used: %s", tr_actor_name(self->actor),
           why.message);
    tr_product_choices_destroy(&self->choices);
    return tr_product_choices_new(&self->choices, err);
}

static tr_status choose(tr__stage *self, const char *text, tr_error *err)
{
    tr_status status = read_choices(self, text, err);
    if (status) return status;
    tr_actor_activity(self->actor, "choosing", self->step, TR_ACTIVITY_NONE);
    uint64_t begin = tr_clock_ns();
    size_t n_known = tr_product_choices_count(self->choices);
    size_t stash = tr_program_stash_bytes(self->program), scratch = tr_program_scratch_bytes(self->program);
    bool larger = scratch > stash;
    status = tr_program_choose_products(self->program, self->choices,
                                        larger ? self->scratch : self->flights[0].stash,
                                        larger ? scratch : stash, err);
    if (status) return status;
    char *all = tr_product_choices_write(self->choices);
    if (!all) return tr_fail(err, TR_ENOMEM, "no memory for choices of algorithms");
    tr_packer packer;
    tr_packer_init(&packer);
    tr_pack_array(&packer, 4);
    tr_pack_uint(&packer, TR__CHOICES_TAKEN);
    tr_pack_bytes(&packer, all, strlen(all));
    tr_pack_uint(&packer, tr_product_choices_count(self->choices) - n_known);
    tr_pack_uint(&packer, (tr_clock_ns() - begin) / 1000000);
    tr_send_packed(self->actor, monitor_of(self), TR_TOPIC_CHOICES, self->step, &packer);
    tr_free(all);
    self->is_choosing = false;
    tr_actor_activity(self->actor, "waiting", self->step, TR_ACTIVITY_NONE);
    return TR_OK;
}

void tr__stage_choices_receive(tr__stage *self, const tr_message *message)
{
    tr_unpacker body;
    tr_error error;
    size_t size;
    tr_unpacker_init(&body, tr_message_bytes(message), message->frame.body_bytes);
    bool good =
        tr_unpack_array(&body, 2) == 2 && tr_unpack_uint(&body, TR__CHOICES_TAKEN) == TR__CHOICES_TAKE;
    const char *bytes = tr_unpack_bytes(&body, &size);
    if (!good || tr_unpacker_done(&body, "choices", NULL) || !self->is_choosing || self->choices) {
        tr_fail_for_topic(self->actor, message);
        return;
    }
    char *text = tr_alloc_zero(size + 1, 1);
    tr_status status = TR_OK;
    if (text && size) memcpy(text, bytes, size);
    if (!text) status = tr_fail(&error, TR_ENOMEM, "no memory for choices of algorithms");
    if (!status) status = choose(self, text, &error);
    tr_free(text);
    if (status) tr__device_failed(self, &error);
}

void tr__stage_choices_release(tr__stage *self)
{
    tr_product_choices_destroy(&self->choices);
}
