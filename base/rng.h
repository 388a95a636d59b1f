/* base/rng.h - Philox4x32-10, the only random generator of the project.
 * Counter based: a number is a function of (seed, stream, step, micro-batch, index) and of nothing else, so
 * that no placement, restart or thread count can change it. `index` counts elements of the unsharded tensor.
 * Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_BASE_RNG_H
#define TROUPE_BASE_RNG_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tr_rng_key {
    uint64_t seed;
    uint64_t stream; /* tr_hash64_text of the tensor ("model.embed_tokens.weight") or of the use ("data") */
    uint32_t step;
    uint32_t microbatch;
} tr_rng_key;

/* The bare block function: 128 bits from a 128-bit counter and a 64-bit key. */
void tr_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

/* The key folded to the 64 bits that Philox takes: what every number below is made with, for kernels that count
 * by themselves. */
void tr_rng_fold(const tr_rng_key *key, uint32_t folded[2]);

uint64_t tr_rng_u64(const tr_rng_key *key, uint64_t index);
double tr_rng_uniform(const tr_rng_key *key, uint64_t index); /* [0, 1), 53 bits */
/* Writes the `count` standard normal numbers with indices first .. first+count-1.
 * Box-Muller on doubles, rounded. */
void tr_rng_normal(const tr_rng_key *key, uint64_t first, uint64_t count, float *out);

#ifdef __cplusplus
}
#endif
#endif
