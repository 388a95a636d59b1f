/* actors/topics.c - see topics.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "actors/topics.h"

#include "base/memory.h"

const char *tr_topic_name(uint32_t topic)
{
    static const char *const names[] = {[TR_TOPIC_COUNT] = "the count of targets",
                                        [TR_TOPIC_TOKENS] = "the step's count of tokens",
                                        [TR_TOPIC_LOSSES] = "losses",
                                        [TR_TOPIC_READY] = "word that gradients are reduced",
                                        [TR_TOPIC_COMMIT] = "the commit",
                                        [TR_TOPIC_UPDATED] = "the vote for the update",
                                        [TR_TOPIC_EVALUATED] = "losses of held-out windows",
                                        [TR_TOPIC_CHECKPOINT] = "the wish for a checkpoint",
                                        [TR_TOPIC_CHECKPOINTED] = "word of the checkpoint",
                                        [TR_TOPIC_RECORDED] = "word that the log has a step",
                                        [TR_TOPIC_GROUP] = "word of the replicas' group",
                                        [TR_TOPIC_CHOICES] = "its turn to measure matrix products"};
    if ((topic & 0xffffff) == (TR_TOPIC_COPIED & 0xffffff)) /* of a wait, which keeps 24 bits */
        return "copies of all held states on other hosts";
    return topic < sizeof names / sizeof *names ? names[topic] : NULL;
}

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
