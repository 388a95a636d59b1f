/* base/hash.c - see hash.h. CRC-32C uses the SSE4.2 instruction where the processor has it, a table
 * elsewhere. XXH3 uses the widest vectors that the processor has, where the library was built to choose: on AVX-512 that is
 * four times as fast as what it takes else, and the values are the same.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/hash.h"

#include "base/memory.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>
#ifdef TROUPE_XXHASH_DISPATCH
#include <xxh_x86dispatch.h> /* makes macros of the same names, which choose */
#endif

static uint32_t crc_table[256];
static pthread_once_t crc_once = PTHREAD_ONCE_INIT;

static void fill_crc_table(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ (crc & 1 ? 0x82f63b78u : 0);
        crc_table[byte] = crc;
    }
}

static uint32_t crc32c_by_table(uint32_t crc, const unsigned char *bytes, size_t size)
{
    pthread_once(&crc_once, fill_crc_table);
    for (size_t i = 0; i < size; i++) crc = (crc >> 8) ^ crc_table[(crc ^ bytes[i]) & 0xff];
    return crc;
}

#if defined(__x86_64__) && defined(__GNUC__)
__attribute__((target("sse4.2"))) static uint32_t
crc32c_by_instruction(uint32_t crc, const unsigned char *bytes, size_t size)
{
    uint64_t wide = crc;
    for (; size >= 8; bytes += 8, size -= 8) {
        uint64_t word;
        memcpy(&word, bytes, 8);
        wide = __builtin_ia32_crc32di(wide, word);
    }
    crc = (uint32_t)wide;
    for (; size; bytes++, size--) crc = __builtin_ia32_crc32qi(crc, *bytes);
    return crc;
}
#endif

uint32_t tr_crc32c(const void *bytes, size_t size_bytes)
{
#if defined(__x86_64__) && defined(__GNUC__)
    if (__builtin_cpu_supports("sse4.2")) return ~crc32c_by_instruction(~0u, bytes, size_bytes);
#endif
    return ~crc32c_by_table(~0u, bytes, size_bytes);
}

uint64_t tr_hash64(const void *bytes, size_t size_bytes)
{
    return XXH3_64bits(bytes, size_bytes);
}

uint64_t tr_hash64_text(const char *text)
{
    return XXH3_64bits(text, strlen(text));
}

struct tr_hasher {
    XXH3_state_t *state;
};

tr_hasher *tr_hasher_new(void)
{
    tr_hasher *self = tr_alloc(sizeof *self);
    if (!self) return NULL;
    self->state = XXH3_createState();
    if (!self->state) {
        tr_free(self);
        return NULL;
    }
    XXH3_128bits_reset(self->state);
    return self;
}

void tr_hasher_update(tr_hasher *self, const void *bytes, size_t size_bytes)
{
    XXH3_128bits_update(self->state, bytes, size_bytes);
}

void tr_hasher_digest(const tr_hasher *self, char hex[33])
{
    XXH128_hash_t hash = XXH3_128bits_digest(self->state);
    snprintf(hex, 33, "%016llx%016llx", (unsigned long long)hash.high64, (unsigned long long)hash.low64);
}

void tr_hasher_destroy(tr_hasher **self)
{
    if (!*self) return;
    XXH3_freeState((*self)->state);
    tr_free(*self);
    *self = NULL;
}
