/* runtime/state.h - the memory in which an actor keeps its durable state: two slots in one memfd.
 * The agent makes the memfd and keeps it, the worker maps it too, so that a worker's death does not touch it.
 * A slot holds one generation (state after that many steps, from 1); overwriting one slot leaves the other
 * valid. Publishing hashes it (XXH3 over blocks of fixed size, then over their hashes and the generation), so that whoever
 * takes it over can see whether its bytes are still those that were published.
 * Layout: a page with magic, sizes, and a generation and a hash for each slot, then slot 0, then slot 1, each
 * page-aligned.
 * Threads: one writer, the actor; publish stores the generation with release order, generation reads with
 * acquire.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_RUNTIME_STATE_H
#define TROUPE_RUNTIME_STATE_H

#include "base/status.h"
#include "base/thread_pool.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tr_state_region tr_state_region;

/* A new memfd with two empty slots of slot_bytes. Errors: TR_ENOMEM, TR_EIO. */
tr_status tr_state_region_new(tr_state_region **out, const char *name, uint64_t slot_bytes, tr_error *err);
/* Maps one made elsewhere; checks its header. Takes the descriptor on success. Errors: TR_ECORRUPT, TR_EIO. */
tr_status tr_state_region_open(tr_state_region **out, int descriptor, tr_error *err);
int tr_state_region_descriptor(const tr_state_region *self);
uint64_t tr_state_region_slot_bytes(const tr_state_region *self);
void tr_state_region_destroy(
    tr_state_region **self); /* unmaps and closes; the memory lives while anybody else holds it */

/* The same for who must not be away for as long as the kernel needs to take back a large one (a second a few GiB): a thread does
 * that. */
void tr_state_region_let_go(tr_state_region **self);

void *tr_state_slot(const tr_state_region *self, int slot);
uint64_t tr_state_generation(const tr_state_region *self, int slot); /* 0: nothing valid */
/* The generations that all n regions hold whole, the newest first; 0 for none. */
void tr_state_common_generations(tr_state_region *const *regions, size_t n, uint64_t out[2]);
/* Takes out of `common` what `held` lacks; both the newest first, 0 for none. */
void tr_generations_meet(uint64_t common[2], const uint64_t held[2]);
void tr_state_open(tr_state_region *self, int slot);
/* The blocks are hashed on the pool; NULL: on the caller. */
void tr_state_publish(tr_state_region *self, int slot, uint64_t generation, tr_thread_pool *pool);
/* A slot of another region, or of another host: its hash as it was published; and, with the bytes of such a slot written
 * into one that is open, publishing it if they are those. false: they are not, and it stays empty. */
uint64_t tr_state_hash(const tr_state_region *self, int slot);
bool tr_state_admit(tr_state_region *self, int slot, uint64_t generation, uint64_t hash);
/* Hashing a slot in steps, for who has more to do than that: its blocks up to these bytes, of which `most` are looked at now (a
 * block at least). true: all up to there are done, and whoever then asks for the hash of the whole (publish, admit, find_whole) need
 * look at the others only. It begins anew with another slot of the region, where this one is opened, and with begin: by then the
 * bytes may be others. */
void tr_state_hash_begin(tr_state_region *self);
bool tr_state_hash_on(tr_state_region *self, int slot, uint64_t until_bytes, uint64_t most_bytes);

/* Both slots of a region of the same size, whose writer may be at work: what it overwrites meanwhile is left out. In steps of
 * so many bytes; true: that was all. */
typedef struct tr_state_copying { /* {0} to begin with */
    int slot;
    bool is_open;
    uint64_t generation, hash, at_bytes;
} tr_state_copying;

bool tr_state_copy_on(tr_state_region *self, const tr_state_region *from, tr_state_copying *at,
                      uint64_t most_bytes);
/* Before a state is taken over from a writer that is gone. What is not what was published counts as not held from then on.
 * Returns how many slots that were. */
int tr_state_discard_rotten(tr_state_region *self);
/* The slot that holds this generation, and still the bytes that were published; -1: none does. */
int tr_state_find_whole(tr_state_region *self, uint64_t generation);
/* The agent, before somebody else opens the region: where the header has rotted it is written anew, and both slots are
 * empty. True: it had. */
bool tr_state_mend_header(tr_state_region *self);

/* Simulation: what is written through this mapping from now on is its own, at the same addresses. */
tr_status tr_state_region_part(tr_state_region *self, tr_error *err);

#ifdef __cplusplus
}
#endif
#endif
