/* runtime/keepsake.h - what actors leave to their next lives in the same process.
 * A change of epoch destroys a worker's node with all actors, so that nothing of the old epoch can act in the new one. What
 * an actor knows is another matter: it may leave something in `stop` (tr_actor_leave), and who has its identity in the node
 * that follows finds it in `init` (tr_actor_take_left). It dies with the process, and where nobody took it when the next
 * node had been loaded.
 * Threads: any.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_RUNTIME_KEEPSAKE_H
#define TROUPE_RUNTIME_KEEPSAKE_H

#include "runtime/topology.h"

#include <pthread.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tr_keepsake {
    tr_actor_id who;
    void *what;
    void (*destroy)(void *what);
} tr_keepsake;

typedef struct tr_keepsakes {
    pthread_mutex_t lock_;
    tr_keepsake *items_;
    size_t count_, capacity_;
} tr_keepsakes;

void tr_keepsakes_init(tr_keepsakes *self);
void tr_keepsakes_release(tr_keepsakes *self); /* destroys all */
/* Takes it; in place of an older one of the same actor. Without memory to note it, it is destroyed at once. */
void tr_keepsakes_put(tr_keepsakes *self, tr_keepsake keepsake);
void *tr_keepsakes_take(tr_keepsakes *self, tr_actor_id who); /* the caller's; NULL: there is none */
void tr_keepsakes_clear(tr_keepsakes *self);                  /* destroys all */

#ifdef __cplusplus
}
#endif
#endif
