/* actors/topics.c - see topics.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "actors/topics.h"

#include "base/memory.h"

void tr_send_packed(tr_actor *self, tr_actor_id to, uint32_t topic, uint32_t step, tr_packer *packer)
{
    tr_error error;
    void *bytes;
    size_t size_bytes;
    if (tr_packer_take(packer, &bytes, &size_bytes, &error)) {
        tr_actor_fail(self, &error);
        return;
    }
    tr_actor_send(self, to, topic, step, bytes, (uint32_t)size_bytes);
    tr_free(bytes);
}

void tr_fail_for_topic(tr_actor *self, const tr_message *message)
{
    tr_error error;
    tr_fail(&error, TR_ECORRUPT, "a control message of topic %u and %u bytes does not read as it should",
            message->frame.edge, message->frame.body_bytes);
    tr_actor_fail(self, &error);
}
