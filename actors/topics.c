/* actors/topics.c - see topics.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "actors/topics.h"

#include "base/memory.h"

void tr_send_packed(tr_actor *self, tr_actor_id to, uint32_t topic, uint32_t step, tr_packer *packer)
{
    tr_error error;
    if (tr_pack_finish(packer, &error)) {
        tr_actor_fail(self, &error);
        return;
    }
    tr_actor_send(self, to, topic, step, packer->bytes, (uint32_t)packer->size_bytes);
    tr_free(packer->bytes);
}

void tr_fail_for_topic(tr_actor *self, const tr_message *message)
{
    tr_error error;
    tr_fail(&error, TR_ECORRUPT, "a control message of topic %u and %u bytes does not read as it should",
            message->frame.edge, message->frame.body_bytes);
    tr_actor_fail(self, &error);
}
