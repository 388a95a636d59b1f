/* actors/choices.h - the algorithms of matrix products that a run's stages on GPUs compute with: which of a library's is the
 * fastest is measured, once, and all have the same (ops/product_choices.h). This is the monitor's side: a stage asks, one at a
 * time is answered with what is kept for its GPU and libraries; it measures what it lacks and tells all that it has, which is
 * kept before the next one is answered. So no product is chosen twice, two stages of one GPU never measure at once, and
 * replicas, replacements and resumed runs find everything. In words, all TR_TOPIC_CHOICES:
 *   ASK [0, GPU and libraries]   TAKE [1, text]   TAKEN [2, text, products measured, ms]
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_ACTORS_CHOICES_H
#define TROUPE_ACTORS_CHOICES_H

#include "actors/monitor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum tr__choices_word { TR__CHOICES_ASK, TR__CHOICES_TAKE, TR__CHOICES_TAKEN } tr__choices_word;

enum { TR__CHOICES_NAME_BYTES = 96 };

typedef struct tr__choices_asker {
    tr_actor_id who;
    char name[TR__CHOICES_NAME_BYTES]; /* of its GPU and libraries */
} tr__choices_asker;

/* Zero: nobody has asked. */
typedef struct tr__choices_desk {
    tr__choices_asker *askers; /* the first one has been answered */
    size_t n_askers, capacity;
} tr__choices_desk;

/* A message of the topic has come to the monitor. False: it does not read as it should. */
bool tr__choices_receive(tr__choices_desk *self, tr_actor *monitor, const tr_monitor_context *known,
                         tr_actor_id from, tr_unpacker *body);
void tr__choices_release(tr__choices_desk *self);

#ifdef __cplusplus
}
#endif
#endif
