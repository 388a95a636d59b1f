/* pipelines/safetensors_format.h - private: what the reader and the writer of safetensors both know.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_PIPELINES_SAFETENSORS_FORMAT_H
#define TROUPE_PIPELINES_SAFETENSORS_FORMAT_H

#include "ops/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The reference implementation refuses longer headers; so nobody could read what we would write. */
enum { TR__LONGEST_HEADER = 100000000, TR__LENGTH_BYTES = 8 };

typedef struct tr__stored_type {
    const char *name;
    uint32_t size_bytes;
    bool readable;
    tr_dtype dtype; /* where readable */
} tr__stored_type;

const tr__stored_type *tr__stored_type_named(const char *name); /* NULL for an unknown one */
const tr__stored_type *tr__stored_type_of(tr_dtype dtype);

#ifdef __cplusplus
}
#endif
#endif
