/* runtime/simulation_slots.c - the state slots of simulated processes: what a death leaves of them, and that nobody writes into
 * one that is published.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/simulation_processes.h"

#include "base/hash.h"
#include "base/memory.h"

#include <string.h>

enum { GARBAGE = 0xff /* of floats: NaNs */ };

tr_status tr__slots_init(tr__simulated_job *self, tr_error *err)
{
    self->published = tr_alloc_zero(2 * self->base.options.topology->n_actors, sizeof *self->published);
    return self->published ? TR_OK : tr_fail(err, TR_ENOMEM, "no memory for an audit of slots");
}

/* Regions are in the topology's order. */
static tr_actor_id next_with_state(const tr__simulated_job *self, int32_t node, tr_actor_id after)
{
    const tr_topology *topology = self->base.options.topology;
    tr_actor_id id = after + 1;
    while (topology->actors[id - 1].node != node || !topology->actors[id - 1].state_bytes) id++;
    return id;
}

static uint64_t hash_of(const tr_state_region *region, int slot)
{
    return tr_hash64(tr_state_slot(region, slot), tr_state_region_slot_bytes(region)) | 1;
}

/* After a slot was opened or published. What a zombie does with its own memory is its own business. */
void tr__slots_audit(tr__simulated_job *self, int32_t place, tr_actor_id who, int slot, uint64_t generation)
{
    if (place >= self->n_nodes || self->processes[place].image) return;
    const char *name = tr_topology_actor(self->base.options.topology, who)->name;
    uint64_t *published = &self->published[2 * (who - 1) + (uint64_t)slot];
    tr_actor_id id = 0;
    int region = -1;
    for (; id != who; region++) id = next_with_state(self, place, id);
    uint64_t hash = hash_of(self->processes[place].regions[region], slot);
    if (generation && *published)
        tr__simulation_break(&self->base, "'%s' published slot %d without opening it", name, slot);
    if (!generation && *published && *published != hash)
        tr__simulation_break(&self->base, "'%s' wrote into slot %d, which was published", name, slot);
    *published = generation ? hash : 0;
}

/* What an image has of a slot before its bytes. */
typedef struct slot_image {
    uint64_t generation, hash; /* the hash as it was published: bits that flipped stay what they are */
} slot_image;

uint8_t *tr__slots_image(const tr__process *process)
{
    size_t size_bytes = 1;
    for (int i = 0; i < process->n_regions; i++)
        size_bytes += 2 * (sizeof(slot_image) + tr_state_region_slot_bytes(process->regions[i]));
    uint8_t *image = tr_alloc(size_bytes), *at = image;
    TR_ASSERT(image);
    for (int i = 0; i < process->n_regions; i++) {
        for (int slot = 0; slot < 2; slot++) {
            const slot_image head = {tr_state_generation(process->regions[i], slot),
                                     tr_state_hash(process->regions[i], slot)};
            size_t size = tr_state_region_slot_bytes(process->regions[i]);
            memcpy(at, &head, sizeof head);
            memcpy(at + sizeof head, tr_state_slot(process->regions[i], slot), size);
            at += sizeof head + size;
        }
    }
    return image;
}

void tr__slots_taken_over(tr__simulated_job *self, int32_t place, bool from_zombie)
{
    const tr__process *process = &self->processes[place];
    tr_actor_id id = 0;
    for (int i = 0; i < process->n_regions; i++) {
        id = next_with_state(self, place, id);
        for (int slot = 0; slot < 2; slot++) {
            uint64_t *published = &self->published[2 * (id - 1) + (uint64_t)slot];
            bool holds = tr_state_generation(process->regions[i], slot) != 0;
            if (!holds)
                *published = 0;
            else if (from_zombie)
                *published = hash_of(process->regions[i], slot);
        }
    }
}

bool tr__slots_rot(tr__simulated_job *self, int32_t place)
{
    const tr__process *process = &self->processes[place];
    if (!process->n_regions) return false;
    int which = (int)tr__simulation_draw(&self->base, (uint64_t)process->n_regions);
    int slot = (int)tr__simulation_draw(&self->base, 2);
    tr_state_region *region = process->regions[which];
    if (!tr_state_generation(region, slot)) slot = 1 - slot;
    if (!tr_state_generation(region, slot)) return false;
    uint64_t bit = tr__simulation_draw(&self->base, 8 * tr_state_region_slot_bytes(region));
    ((uint8_t *)tr_state_slot(region, slot))[bit / 8] ^= (uint8_t)(1u << bit % 8);
    tr_actor_id id = 0;
    for (int i = 0; i <= which; i++) id = next_with_state(self, place, id);
    self->published[2 * (id - 1) + (uint64_t)slot] = 0; /* it is no slot that anybody published */
    self->counters.n_rotten++;
    return true;
}

static void restore_slot(tr__simulated_job *self, const uint8_t *from, tr_state_region *into, int slot)
{
    slot_image head;
    size_t size = tr_state_region_slot_bytes(into);
    memcpy(&head, from, sizeof head);
    tr_state_open(into, slot);
    memcpy(tr_state_slot(into, slot), from + sizeof head, size);
    if (!head.generation || !tr_state_admit(into, slot, head.generation, head.hash)) {
        memset(tr_state_slot(into, slot), GARBAGE, size);
        self->counters.n_spoiled++;
    }
}

/* As they were at the moment of death; what was not valid then is garbage, so that whoever reads it is noticed. */
void tr__slots_restore(tr__simulated_job *self, int32_t place, const uint8_t *image,
                       tr_state_region *const *into)
{
    tr_actor_id id = 0;
    for (int i = 0; i < self->processes[place].n_regions; i++) {
        if (place < self->n_nodes) id = next_with_state(self, place, id);
        for (int slot = 0; slot < 2; slot++) {
            restore_slot(self, image, into[i], slot);
            image += sizeof(slot_image) + tr_state_region_slot_bytes(into[i]);
            if (place < self->n_nodes)
                self->published[2 * (id - 1) + (uint64_t)slot] =
                    tr_state_generation(into[i], slot) ? hash_of(into[i], slot) : 0;
        }
    }
}
