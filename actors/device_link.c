/* actors/device_link.c - see device_link.h. Memory that was offered and that its device cannot free safely is kept by the
 * process, not by a stage: stages end with every epoch, and their successors take it, so that in a run it is allocated once.
 * SPDX-License-Identifier: Apache-2.0 */
#include "actors/device_link.h"

#include "base/memory.h"

#include <pthread.h>
#include <string.h>
#include <unistd.h>

enum { SLOT_ALIGNMENT = 256, WORDS = 512, OFFER_ITEMS = 5 };

/* --- what pools have left --- */

typedef struct remains {
    tr_buffer *memory;
    uint8_t handle[TR_DEVICE_HANDLE_BYTES];
    uint32_t epoch;
} remains;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static remains *left; /* by the pools of all stages of this process */
static size_t n_left, left_capacity;
static uint32_t n_opened; /* pools, for their names */

static uint32_t next_name(void)
{
    pthread_mutex_lock(&lock);
    uint32_t name = ++n_opened;
    pthread_mutex_unlock(&lock);
    return name;
}

/* A buffer knows its device's number and kind of memory; only one kind of device leaves any. */
static bool take_left(tr_link_pool *self, const tr_device *device, uint64_t size_bytes)
{
    bool found = false;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < n_left && !found; i++) {
        if (left[i].epoch == self->epoch || left[i].memory->size_bytes != size_bytes ||
            left[i].memory->device != tr_device_index(device))
            continue;
        found = true;
        self->memory = left[i].memory;
        memcpy(self->handle, left[i].handle, sizeof self->handle);
        left[i] = left[--n_left];
    }
    pthread_mutex_unlock(&lock);
    return found;
}

/* Without memory to note it, it is lost: better than freed while others read it. */
static void leave(tr_link_pool *self)
{
    pthread_mutex_lock(&lock);
    void *array = left;
    if (tr_array_reserve(&array, &left_capacity, n_left + 1, sizeof *left, NULL) == TR_OK) {
        left = array;
        remains *last = &left[n_left++];
        *last = (remains){.memory = self->memory, .epoch = self->epoch};
        memcpy(last->handle, self->handle, sizeof last->handle);
    }
    pthread_mutex_unlock(&lock);
}

void tr_link_pools_forget(uint32_t epoch)
{
    pthread_mutex_lock(&lock);
    size_t n = 0;
    for (size_t i = 0; i < n_left; i++)
        if (left[i].epoch == epoch)
            left[n++] = left[i];
        else
            tr_buffer_release(&left[i].memory);
    n_left = n;
    if (n_left == 0) {
        tr_free(left);
        left = NULL;
        left_capacity = 0;
    }
    pthread_mutex_unlock(&lock);
}

/* --- the sender's --- */

static uint64_t stride_of(uint64_t slot_bytes)
{
    return (slot_bytes + SLOT_ALIGNMENT - 1) / SLOT_ALIGNMENT * SLOT_ALIGNMENT;
}

uint64_t tr_link_pool_bytes(uint32_t n_slots, uint64_t slot_bytes)
{
    return n_slots * stride_of(slot_bytes);
}

/* What a pool of this name begins with before its first use. */
static size_t first_words(uint64_t id, uint64_t stride_bytes, uint64_t words[WORDS])
{
    size_t n = stride_bytes / sizeof *words < WORDS ? stride_bytes / sizeof *words : WORDS;
    for (size_t i = 0; i < n; i++) words[i] = (id + i) * 0x9e3779b97f4a7c15ull;
    return n * sizeof *words;
}

tr_status tr_link_pool_open(tr_link_pool *self, tr_stream *stream, uint32_t epoch, uint32_t n_slots,
                            uint64_t slot_bytes, tr_error *err)
{
    tr_device *device = tr_stream_device(stream);
    uint64_t words[WORDS], size_bytes = tr_link_pool_bytes(n_slots, slot_bytes);
    *self = (tr_link_pool){.n_slots = n_slots,
                           .epoch = epoch,
                           .stride_bytes = stride_of(slot_bytes),
                           .is_counted = tr_device_share_is_counted(device),
                           .id = (uint64_t)getpid() << 32 | next_name()};
    tr_status status = TR_OK;
    if (!take_left(self, device, size_bytes))
        status = tr_device_share_new(device, size_bytes, &self->memory, self->handle, err);
    if (status) return status;
    size_t n_bytes = first_words(self->id, self->stride_bytes, words);
    status = tr_stream_copy(stream, self->memory->data, words, n_bytes, err);
    if (!status) status = tr_stream_synchronize(stream, err);
    if (status) tr_link_pool_close(self);
    return status;
}

void tr_link_pool_close(tr_link_pool *self)
{
    if (self->memory && self->is_offered && !self->is_counted)
        leave(self);
    else
        tr_buffer_release(&self->memory);
    *self = (tr_link_pool){0};
}

void tr_link_pool_offer(tr_link_pool *self, tr_packer *packer)
{
    self->is_offered = true;
    tr_pack_array(packer, OFFER_ITEMS);
    tr_pack_uint(packer, self->id);
    tr_pack_uint(packer, self->n_slots);
    tr_pack_uint(packer, self->stride_bytes);
    tr_pack_uint(packer, self->memory->size_bytes);
    tr_pack_bytes(packer, self->handle, sizeof self->handle);
}

void *tr_link_pool_place(tr_link_pool *self, uint32_t slot, uint64_t size_bytes, tr_link_descriptor *out)
{
    TR_ASSERT(slot < self->n_slots && size_bytes <= self->stride_bytes);
    *out = (tr_link_descriptor){.pool = self->id,
                                .use = ++self->n_uses,
                                .offset_bytes = slot * self->stride_bytes,
                                .size_bytes = size_bytes,
                                .slot = slot};
    return (uint8_t *)self->memory->data + out->offset_bytes;
}

/* --- the receiver's --- */

/* By the way that bodies will come: to this device's memory, and from there to the host. */
static tr_status look(const tr_link_view *self, tr_stream *stream, tr_error *err)
{
    uint64_t expected[WORDS], came[WORDS] = {0};
    size_t n_bytes = first_words(self->id, self->stride_bytes, expected);
    tr_device *device = tr_stream_device(stream);
    void *here;
    tr_status status = tr_device_allocate(device, TR_MEMORY_DEVICE, n_bytes, &here, err);
    if (status) return status;
    status = tr_stream_copy(stream, here, self->memory->data, n_bytes, err);
    if (!status) status = tr_stream_copy(stream, came, here, n_bytes, err);
    if (!status) status = tr_stream_synchronize(stream, err);
    tr_device_free(device, TR_MEMORY_DEVICE, here);
    if (status || memcmp(expected, came, n_bytes) == 0) return status;
    return tr_fail(err, TR_ECORRUPT, "what one device wrote does not arrive on the other");
}

tr_status tr_link_view_open(tr_link_view *self, tr_stream *stream, tr_unpacker *offer, uint32_t n_slots,
                            uint64_t size_bytes, tr_error *err)
{
    *self = (tr_link_view){0};
    uint32_t n_items = tr_unpack_array(offer, OFFER_ITEMS);
    uint64_t id = tr_unpack_uint(offer, UINT64_MAX);
    self->n_slots = (uint32_t)tr_unpack_uint(offer, UINT32_MAX);
    self->stride_bytes = tr_unpack_uint(offer, UINT64_MAX);
    uint64_t whole_bytes = tr_unpack_uint(offer, UINT64_MAX);
    size_t handle_bytes = 0;
    const uint8_t *handle = tr_unpack_bytes(offer, &handle_bytes);
    self->id = id;
    if (tr_unpacker_done(offer, "offer", NULL) || n_items != OFFER_ITEMS ||
        handle_bytes != TR_DEVICE_HANDLE_BYTES || self->n_slots != n_slots ||
        self->stride_bytes != stride_of(size_bytes) || whole_bytes != tr_link_pool_bytes(n_slots, size_bytes))
        return tr_fail(err, TR_ECORRUPT, "the offer of a device's memory does not read as it should");
    tr_status status =
        tr_device_share_open(tr_stream_device(stream), handle, whole_bytes, &self->memory, err);
    if (!status) status = look(self, stream, err);
    if (status) tr_link_view_close(self);
    return status;
}

void tr_link_view_close(tr_link_view *self)
{
    tr_buffer_release(&self->memory);
    *self = (tr_link_view){0};
}

tr_status tr_link_view_find(tr_link_view *self, const void *body, uint64_t body_bytes, uint32_t slot,
                            uint64_t size_bytes, const void **out, tr_error *err)
{
    tr_link_descriptor said = {0};
    if (body_bytes == sizeof said) memcpy(&said, body, sizeof said);
    bool right = self->memory && body_bytes == sizeof said && said.pool == self->id &&
                 said.use == self->n_uses + 1 && said.slot == slot && slot < self->n_slots &&
                 said.offset_bytes == slot * self->stride_bytes && said.size_bytes == size_bytes &&
                 size_bytes <= self->stride_bytes;
    if (!right)
        return tr_fail(
            err, TR_ECORRUPT,
            "a message says that its body is use %llu of slot %u of a device's memory; use %llu of "
            "slot %u was expected",
            (unsigned long long)said.use, said.slot, (unsigned long long)self->n_uses + 1, slot);
    self->n_uses++;
    *out = (const uint8_t *)self->memory->data + said.offset_bytes;
    return TR_OK;
}
