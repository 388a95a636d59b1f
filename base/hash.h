/* base/hash.h - checksums of headers (CRC-32C) and hashes of bodies, files and names (XXH3).
 * Sources: RFC 3720 appendix B.4 for CRC-32C; https://github.com/Cyan4973/xxHash for XXH3.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_BASE_HASH_H
#define TROUPE_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

uint32_t tr_crc32c(const void *bytes, size_t size_bytes); /* of "123456789": 0xe3069283 */
uint64_t tr_hash64(const void *bytes, size_t size_bytes); /* XXH3, 64 bits, seed 0 */
uint64_t tr_hash64_text(const char *text);                /* the same over the characters before the NUL */

/* 128 bits as 32 lower-case hexadecimal digits and a NUL; incremental, for files. */
typedef struct tr_hasher tr_hasher;
tr_hasher *tr_hasher_new(void); /* NULL when there is no memory */
void tr_hasher_update(tr_hasher *self, const void *bytes, size_t size_bytes);
void tr_hasher_digest(const tr_hasher *self, char hex[33]);
void tr_hasher_destroy(tr_hasher **self);

#ifdef __cplusplus
}
#endif
#endif
