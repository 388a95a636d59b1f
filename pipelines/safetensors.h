/* pipelines/safetensors.h - tensors in files, as Hugging Face keeps them.
 * A file is 8 bytes of header length (little-endian), a JSON header, and the data behind it. Everything the
 * header says is checked when the file is opened, so that whoever holds a tr_tensor_info may read its bytes
 * without a further test.
 * Source: https://github.com/huggingface/safetensors, README, "Format".
 * Threads: a reader may be used from any thread once it is open; a writer belongs to one.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_PIPELINES_SAFETENSORS_H
#define TROUPE_PIPELINES_SAFETENSORS_H

#include "ops/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tr_tensor_info {
    const char *name;
    const char *file;      /* path of the file that holds it, for messages */
    const char *stored_as; /* the file's word for the dtype: "F32", "BF16", "I16", ... */
    bool readable;         /* false: a dtype that tr_dtype does not have, or a rank beyond TR_MAX_RANK */
    tr_dtype dtype;        /* where readable */
    tr_shape shape;        /* where readable */
    const void *data;      /* mapped, little-endian, read-only; may be UNALIGNED: copy it */
    uint64_t size_bytes;
} tr_tensor_info;

typedef struct tr_safetensors tr_safetensors;

/* One file.
 * Errors: TR_ENOTFOUND, TR_EIO, TR_ENOMEM, TR_ECORRUPT (what is wrong with which tensor of which file). */
tr_status tr_safetensors_open(tr_safetensors **out, const char *path, tr_error *err);

/* The weights of a model directory: `model.safetensors`, or `model.safetensors.index.json` and the shards it
 * names. The index and the shards must agree about which tensor is where. */
tr_status tr_safetensors_open_model(tr_safetensors **out, const char *directory, tr_error *err);
/* NULL-safe, nulls the pointer; every tr_tensor_info of it is gone. */
void tr_safetensors_close(tr_safetensors **self);

size_t tr_safetensors_count(const tr_safetensors *self);
const tr_tensor_info *tr_safetensors_at(const tr_safetensors *self, size_t i); /* sorted by name (bytes) */
/* NULL when there is none. */
const tr_tensor_info *tr_safetensors_find(const tr_safetensors *self, const char *name);
/* A value of `__metadata__` (of the first file), NULL when it is not there. */
const char *tr_safetensors_metadata(const tr_safetensors *self, const char *key);

/* Elements first .. first+count-1 as float32: F32 bit for bit, F16 and BF16 exactly, F64 rounded. Asserts the
 * range. Errors: TR_EUNSUPPORTED (an integer or unreadable tensor, named). */
tr_status tr_tensor_read_f32(const tr_tensor_info *tensor, int64_t first, int64_t count, float *out,
                             tr_error *err);

/* The same for I32 and I64 (and U8). Errors: TR_EUNSUPPORTED for the others. */
tr_status tr_tensor_read_i64(const tr_tensor_info *tensor, int64_t first, int64_t count, int64_t *out,
                             tr_error *err);

/* Writing: declare every tensor, begin, put the data in pieces in any order, commit. Nothing is seen under
 * `path` before commit, which refuses a file with a byte missing. The layout is the canonical one: no holes,
 * the header padded with spaces to 8 bytes, `__metadata__` {"format": "pt"}. */
typedef struct tr_safetensors_writer tr_safetensors_writer;

typedef enum tr_tensor_order {
    TR_TENSORS_SORTED,     /* wider dtypes first, then by name: what the reference implementation writes */
    TR_TENSORS_AS_DECLARED /* in the order of the declarations */
} tr_tensor_order;

tr_status tr_safetensors_writer_new(tr_safetensors_writer **out, const char *path, tr_error *err);
/* The n-th call (from 0) gives tensor n its place in put. Errors: TR_EEXIST (the name twice), TR_EINVAL (an
 * empty name, no UTF-8, `__metadata__`, more bytes than can be counted), TR_ENOMEM. */
tr_status tr_safetensors_writer_declare(tr_safetensors_writer *self, const char *name, tr_dtype dtype,
                                        const tr_shape *shape, tr_error *err);
tr_status tr_safetensors_writer_begin(tr_safetensors_writer *self, tr_tensor_order order, tr_error *err);
/* `bytes` go to `offset_bytes` of tensor `index`'s data. A piece may come again. Errors: TR_EINVAL (no such
 * tensor, or outside it), TR_EIO, TR_ENOMEM. */
tr_status tr_safetensors_writer_put(tr_safetensors_writer *self, size_t index, uint64_t offset_bytes,
                                    const void *bytes, size_t size_bytes, tr_error *err);
/* fsync and rename; destroys *self also when it fails. Errors: TR_EINVAL (a tensor with bytes missing,
 * named), TR_EIO. */
tr_status tr_safetensors_writer_commit(tr_safetensors_writer **self, tr_error *err);
/* Abandons the file where it was not committed. */
void tr_safetensors_writer_destroy(tr_safetensors_writer **self);

#ifdef __cplusplus
}
#endif
#endif
