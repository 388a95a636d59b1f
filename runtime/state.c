/* runtime/state.c - see state.h. The memfd is sealed against resizing, so that no holder can turn another's
 * access into a SIGBUS. Its pages are sparse until they are written: an empty slot costs nothing.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/state.h"

#include "base/hash.h"
#include "base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PAGE = 4096, VERSION = 2, BLOCK_BYTES = 256 << 10, LARGE_BYTES = 64 << 20 };
static const uint64_t MAGIC = 0x4554415453525454; /* "TTRSTATE" in memory */
static const uint64_t MAX_SLOT_BYTES = (uint64_t)1 << 46;

typedef struct state_header {
    uint64_t magic;
    uint32_t version, page_bytes;
    uint64_t slot_bytes;
    /* Release on publish pairs with acquire in tr_state_generation: who
     * sees the number sees the slot's bytes. */
    _Atomic uint64_t generation[2];
    uint64_t hash[2]; /* of the slot's bytes and its generation; written before it is published */
} state_header;

struct tr_state_region {
    int descriptor;
    uint64_t slot_bytes, stride_bytes, mapped_bytes;
    state_header *header;
    uint64_t *block_hashes; /* of one slot, and the generation behind them */
    int hashed_slot;        /* of which they are, */
    int64_t n_hashed;       /* so many: by tr_state_hash_on */
};

static uint64_t whole_pages(uint64_t bytes)
{
    return (bytes + PAGE - 1) / PAGE * PAGE;
}

static int64_t n_blocks(const tr_state_region *self)
{
    return (int64_t)((self->slot_bytes + BLOCK_BYTES - 1) / BLOCK_BYTES);
}

/* On failure the descriptor stays the caller's. */
static tr_status map(tr_state_region **out, int descriptor, uint64_t slot_bytes, tr_error *err)
{
    tr_state_region *self = tr_alloc_zero(1, sizeof *self);
    if (!self) return tr_fail(err, TR_ENOMEM, "no memory for a state region");
    self->descriptor = descriptor;
    self->slot_bytes = slot_bytes;
    self->stride_bytes = whole_pages(slot_bytes);
    self->mapped_bytes = PAGE + 2 * self->stride_bytes;
    self->block_hashes = tr_alloc((size_t)(n_blocks(self) + 1) * sizeof *self->block_hashes);
    if (!self->block_hashes) {
        tr_free(self);
        return tr_fail(err, TR_ENOMEM, "no memory for the hashes of a state slot");
    }
    void *memory = mmap(NULL, self->mapped_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    if (memory == MAP_FAILED) {
        tr_free(self->block_hashes);
        tr_free(self);
        return tr_fail(err, TR_ENOMEM, "cannot map two state slots of %llu bytes: %s",
                       (unsigned long long)slot_bytes, strerror(errno));
    }
    self->header = memory;
    *out = self;
    return TR_OK;
}

static void write_header(state_header *header, uint64_t slot_bytes)
{
    header->magic = MAGIC;
    header->version = VERSION;
    header->page_bytes = PAGE;
    header->slot_bytes = slot_bytes;
}

tr_status tr_state_region_new(tr_state_region **out, const char *name, uint64_t slot_bytes, tr_error *err)
{
    if (slot_bytes > MAX_SLOT_BYTES)
        return tr_fail(err, TR_ENOMEM, "a state slot of %llu bytes is more than any host has",
                       (unsigned long long)slot_bytes);
    int descriptor = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (descriptor < 0)
        return tr_fail(err, TR_EIO, "cannot make a memfd for '%s': %s", name, strerror(errno));
    tr_status status = TR_OK;
    if (ftruncate(descriptor, (off_t)(PAGE + 2 * whole_pages(slot_bytes))) != 0 ||
        fcntl(descriptor, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
        status = tr_fail(err, TR_EIO, "cannot size the state of '%s': %s", name, strerror(errno));
    if (status == TR_OK) status = map(out, descriptor, slot_bytes, err);
    if (status != TR_OK) {
        close(descriptor);
        return status;
    }
    write_header((*out)->header, slot_bytes);
    return TR_OK;
}

bool tr_state_mend_header(tr_state_region *self)
{
    state_header *header = self->header;
    if (header->magic == MAGIC && header->version == VERSION && header->page_bytes == PAGE &&
        header->slot_bytes == self->slot_bytes)
        return false;
    tr_state_open(self, 0);
    tr_state_open(self, 1);
    write_header(header, self->slot_bytes);
    return true;
}

tr_status tr_state_region_open(tr_state_region **out, int descriptor, tr_error *err)
{
    state_header header;
    struct stat info;
    if (fstat(descriptor, &info) != 0)
        return tr_fail(err, TR_EIO, "cannot look at a state region: %s", strerror(errno));
    ssize_t n = pread(descriptor, &header, sizeof header, 0);
    if (n < 0) return tr_fail(err, TR_EIO, "cannot read a state region: %s", strerror(errno));
    if ((size_t)n < sizeof header || header.magic != MAGIC || header.version != VERSION ||
        header.page_bytes != PAGE)
        return tr_fail(err, TR_ECORRUPT, "descriptor %d holds no state region of version %d", descriptor,
                       VERSION);
    if (header.slot_bytes > MAX_SLOT_BYTES ||
        (uint64_t)info.st_size != PAGE + 2 * whole_pages(header.slot_bytes))
        return tr_fail(err, TR_ECORRUPT, "a state region of %lld bytes says that its slots have %llu",
                       (long long)info.st_size, (unsigned long long)header.slot_bytes);
    return map(out, descriptor, header.slot_bytes, err);
}

int tr_state_region_descriptor(const tr_state_region *self)
{
    return self->descriptor;
}

uint64_t tr_state_region_slot_bytes(const tr_state_region *self)
{
    return self->slot_bytes;
}

void tr_state_region_destroy(tr_state_region **self)
{
    if (!*self) return;
    munmap((*self)->header, (*self)->mapped_bytes);
    tr_free((*self)->block_hashes);
    close((*self)->descriptor);
    tr_free(*self);
    *self = NULL;
}

static void *destroy_beside(void *region)
{
    tr_state_region *self = region;
    tr_state_region_destroy(&self);
    return NULL;
}

void tr_state_region_let_go(tr_state_region **self)
{
    pthread_t thread;
    if (!*self) return;
    bool is_large = (*self)->mapped_bytes >= LARGE_BYTES;
    if (is_large && pthread_create(&thread, NULL, destroy_beside, *self) == 0) {
        pthread_detach(thread);
        *self = NULL;
    }
    tr_state_region_destroy(self);
}

void *tr_state_slot(const tr_state_region *self, int slot)
{
    TR_ASSERT(slot == 0 || slot == 1);
    return (char *)self->header + PAGE + (uint64_t)slot * self->stride_bytes;
}

uint64_t tr_state_generation(const tr_state_region *self, int slot)
{
    TR_ASSERT(slot == 0 || slot == 1);
    return atomic_load_explicit(&self->header->generation[slot], memory_order_acquire);
}

void tr_generations_meet(uint64_t common[2], const uint64_t held[2])
{
    int n = 0;
    for (int k = 0; k < 2; k++) {
        uint64_t generation = common[k];
        common[k] = 0;
        if (generation && (generation == held[0] || generation == held[1])) common[n++] = generation;
    }
}

void tr_state_common_generations(tr_state_region *const *regions, size_t n, uint64_t out[2])
{
    out[0] = out[1] = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t a = tr_state_generation(regions[i], 0), b = tr_state_generation(regions[i], 1);
        const uint64_t held[2] = {a > b ? a : b, a > b ? b : a};
        if (i == 0) memcpy(out, held, sizeof held);
        tr_generations_meet(out, held);
    }
}

/* Between a slot's generation and its bytes, both ways. */
static void fence(_Atomic uint64_t *generation)
{
#ifdef __SANITIZE_THREAD__ /* which knows no fences; where it runs this is one */
    atomic_fetch_add_explicit(generation, 0, memory_order_seq_cst);
#else
    (void)generation;
    atomic_thread_fence(memory_order_seq_cst);
#endif
}

void tr_state_open(tr_state_region *self, int slot)
{
    TR_ASSERT(slot == 0 || slot == 1);
    /* The fence: no write into the slot may be seen before the slot is seen to be invalid. */
    atomic_store_explicit(&self->header->generation[slot], 0, memory_order_relaxed);
    fence(&self->header->generation[slot]);
    if (self->hashed_slot == slot) self->n_hashed = 0;
}

typedef struct hashing {
    const tr_state_region *self;
    const unsigned char *bytes;
    int64_t first;
} hashing;

static void hash_block(void *context, int64_t i, int thread)
{
    (void)thread;
    const hashing *c = context;
    int64_t block = c->first + i;
    uint64_t at = (uint64_t)block * BLOCK_BYTES, left = c->self->slot_bytes - at;
    c->self->block_hashes[block] = tr_hash64(c->bytes + at, left < BLOCK_BYTES ? left : BLOCK_BYTES);
}

/* Of the blocks those that were not looked at before. */
static uint64_t hash_of(tr_state_region *self, int slot, uint64_t generation, tr_thread_pool *pool)
{
    hashing context = {self, tr_state_slot(self, slot), self->hashed_slot == slot ? self->n_hashed : 0};
    int64_t n = n_blocks(self);
    tr_thread_pool_run(pool, n - context.first, hash_block, &context);
    self->n_hashed = 0;
    self->block_hashes[n] = generation;
    return tr_hash64(self->block_hashes, (size_t)(n + 1) * sizeof *self->block_hashes);
}

void tr_state_hash_begin(tr_state_region *self)
{
    self->n_hashed = 0;
}

bool tr_state_hash_on(tr_state_region *self, int slot, uint64_t until_bytes, uint64_t most_bytes)
{
    hashing context = {.self = self, .bytes = tr_state_slot(self, slot)};
    int64_t last = until_bytes >= self->slot_bytes ? n_blocks(self) : (int64_t)(until_bytes / BLOCK_BYTES);
    if (self->hashed_slot != slot) self->n_hashed = 0;
    self->hashed_slot = slot;
    for (uint64_t looked = 0; self->n_hashed < last; self->n_hashed++, looked += BLOCK_BYTES) {
        if (looked && looked + BLOCK_BYTES > most_bytes) return false;
        hash_block(&context, self->n_hashed, 0);
    }
    return true;
}

int tr_state_discard_rotten(tr_state_region *self)
{
    int n = 0;
    for (int slot = 0; slot < 2; slot++) {
        uint64_t generation = tr_state_generation(self, slot);
        if (!generation || self->header->hash[slot] == hash_of(self, slot, generation, NULL)) continue;
        tr_state_open(self, slot);
        n++;
    }
    return n;
}

uint64_t tr_state_hash(const tr_state_region *self, int slot)
{
    TR_ASSERT(slot == 0 || slot == 1);
    return self->header->hash[slot];
}

bool tr_state_admit(tr_state_region *self, int slot, uint64_t generation, uint64_t hash)
{
    TR_ASSERT((slot == 0 || slot == 1) && generation >= 1);
    if (hash_of(self, slot, generation, NULL) != hash) return false;
    self->header->hash[slot] = hash;
    atomic_store_explicit(&self->header->generation[slot], generation, memory_order_release);
    return true;
}

static void begin_copy(tr_state_region *self, const tr_state_region *from, tr_state_copying *at)
{
    at->generation = tr_state_generation(from, at->slot);
    at->hash = from->header->hash[at->slot];
    at->at_bytes = 0;
    at->is_open = true;
    tr_state_open(self, at->slot);
}

/* The second look sees an opening that came before a byte of what was copied was overwritten: it pairs with the fence in
 * tr_state_open. */
static void end_copy(tr_state_region *self, const tr_state_region *from, const tr_state_copying *at)
{
    fence(&from->header->generation[at->slot]);
    if (at->generation && tr_state_generation(from, at->slot) == at->generation)
        tr_state_admit(self, at->slot, at->generation, at->hash);
}

bool tr_state_copy_on(tr_state_region *self, const tr_state_region *from, tr_state_copying *at,
                      uint64_t most_bytes)
{
    TR_ASSERT(self->slot_bytes == from->slot_bytes);
    if (at->slot == 2) return true;
    if (!at->is_open) begin_copy(self, from, at);
    if (at->generation && at->at_bytes < self->slot_bytes) {
        uint64_t left = self->slot_bytes - at->at_bytes, n_bytes = left < most_bytes ? left : most_bytes;
        memcpy((char *)tr_state_slot(self, at->slot) + at->at_bytes,
               (const char *)tr_state_slot(from, at->slot) + at->at_bytes, n_bytes);
        at->at_bytes += n_bytes;
        (void)tr_state_hash_on(self, at->slot, at->at_bytes, UINT64_MAX);
        if (at->at_bytes < self->slot_bytes) return false;
    }
    end_copy(self, from, at);
    at->is_open = false;
    return ++at->slot == 2;
}

int tr_state_find_whole(tr_state_region *self, uint64_t generation)
{
    for (int slot = 0; slot < 2 && generation; slot++)
        if (tr_state_generation(self, slot) == generation &&
            self->header->hash[slot] == hash_of(self, slot, generation, NULL))
            return slot;
    return -1;
}

void tr_state_publish(tr_state_region *self, int slot, uint64_t generation, tr_thread_pool *pool)
{
    TR_ASSERT((slot == 0 || slot == 1) && generation >= 1);
    self->header->hash[slot] = hash_of(self, slot, generation, pool);
    atomic_store_explicit(&self->header->generation[slot], generation, memory_order_release);
}

tr_status tr_state_region_part(tr_state_region *self, tr_error *err)
{
    void *now = tr_alloc(self->mapped_bytes), *memory = self->header;
    if (!now) return tr_fail(err, TR_ENOMEM, "no memory to part a state region");
    memcpy(now, memory, self->mapped_bytes);
    bool parted = mmap(memory, self->mapped_bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == memory;
    if (parted) memcpy(memory, now, self->mapped_bytes);
    tr_free(now);
    return parted ? TR_OK : tr_fail(err, TR_ENOMEM, "cannot part a state region: %s", strerror(errno));
}
