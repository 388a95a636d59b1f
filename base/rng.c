/* base/rng.c - see rng.h. The key is folded to 64 bits with XXH3; the counter is the element's index.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/rng.h"

#include "base/hash.h"

#include <math.h>

void tr_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

void tr_rng_fold(const tr_rng_key *key, uint32_t folded[2])
{
    uint64_t parts[3] = {key->seed, key->stream, (uint64_t)key->step << 32 | key->microbatch};
    uint64_t hash = tr_hash64(parts, sizeof parts);
    folded[0] = (uint32_t)hash, folded[1] = (uint32_t)(hash >> 32);
}

static void block_at(const tr_rng_key *key, uint64_t index, uint32_t out[4])
{
    uint32_t words[2];
    tr_rng_fold(key, words);
    uint32_t counter[4] = {(uint32_t)index, (uint32_t)(index >> 32), 0, 0};
    tr_philox(counter, words, out);
}

uint64_t tr_rng_u64(const tr_rng_key *key, uint64_t index)
{
    uint32_t out[4];
    block_at(key, index, out);
    return (uint64_t)out[1] << 32 | out[0];
}

double tr_rng_uniform(const tr_rng_key *key, uint64_t index)
{
    return (double)(tr_rng_u64(key, index) >> 11) * 0x1p-53;
}

void tr_rng_normal(const tr_rng_key *key, uint64_t first, uint64_t count, float *out)
{
    for (uint64_t i = 0; i < count; i++) {
        uint32_t word[4];
        block_at(key, first + i, word);
        double u = ((double)((uint64_t)word[1] << 32 | word[0]) + 1.0) * 0x1p-64; /* (0, 1] */
        double v = (double)((uint64_t)word[3] << 32 | word[2]) * 0x1p-64;
        out[i] = (float)(sqrt(-2.0 * log(u)) * cos(6.283185307179586476925 * v));
    }
}
