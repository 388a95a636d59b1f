/* pipelines/safetensors_writer.c - writes one file from pieces that come in any order, as checkpoint pieces
 * do when several actors send them. Which bytes are there already is kept as a short sorted list of ranges
 * for each tensor, so that a file with a byte missing can never be committed.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/safetensors.h"

#include "base/file.h"
#include "base/file_fault.h"
#include "base/memory.h"
#include "pipelines/safetensors_format.h"
#include "pipelines/text.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct byte_range {
    uint64_t begin, end;
} byte_range;

typedef struct entry {
    char *name;
    const tr__stored_type *type;
    tr_shape shape;
    uint64_t size_bytes;
    uint64_t at;         /* in the file, once begun */
    byte_range *written; /* sorted, neither overlapping nor touching */
    size_t n_written, written_capacity;
} entry;

struct tr_safetensors_writer {
    tr_file_writer file;
    entry *entries; /* in the order of the declarations */
    size_t n_entries, capacity;
    json_t *names; /* a set: name -> true */
    bool begun;
};

tr_status tr_safetensors_writer_new(tr_safetensors_writer **out, const char *path, tr_error *err)
{
    tr_safetensors_writer *self = tr_alloc_zero(1, sizeof *self);
    if (self) self->names = json_object();
    if (!self || !self->names) {
        tr_free(self);
        return tr_fail(err, TR_ENOMEM, "no memory to write '%s'", path);
    }
    tr_status status = tr_file_writer_open(&self->file, path, err);
    if (status)
        tr_safetensors_writer_destroy(&self);
    else
        *out = self;
    return status;
}

static tr_status count_bytes(const tr_shape *shape, uint32_t element_bytes, uint64_t *out)
{
    uint64_t bytes = element_bytes;
    TR_ASSERT(shape->rank >= 0 && shape->rank <= TR_MAX_RANK);
    for (int i = 0; i < shape->rank; i++) {
        TR_ASSERT(shape->dims[i] >= 0);
        if (__builtin_mul_overflow(bytes, (uint64_t)shape->dims[i], &bytes)) return TR_EINVAL;
    }
    *out = bytes;
    return bytes > INT64_MAX / 2 ? TR_EINVAL : TR_OK;
}

tr_status tr_safetensors_writer_declare(tr_safetensors_writer *self, const char *name, tr_dtype dtype,
                                        const tr_shape *shape, tr_error *err)
{
    TR_ASSERT(!self->begun);
    const char *path = self->file.path;
    char quoted[TR__QUOTED_SIZE];
    entry fresh = {.type = tr__stored_type_of(dtype), .shape = *shape};
    if (count_bytes(shape, fresh.type->size_bytes, &fresh.size_bytes))
        return tr_fail(err, TR_EINVAL, "%s: tensor %s is too large", path, tr__quoted(name, quoted));
    if (!*name || strcmp(name, "__metadata__") == 0)
        return tr_fail(err, TR_EINVAL, "%s: %s is no name for a tensor", path, tr__quoted(name, quoted));
    if (json_object_get(self->names, name))
        return tr_fail(err, TR_EEXIST, "%s: tensor %s is declared twice", path, tr__quoted(name, quoted));
    tr_status status = tr_array_reserve((void **)&self->entries, &self->capacity, self->n_entries + 1,
                                        sizeof *self->entries, err);
    if (status) return status;
    if (json_object_set_new(self->names, name, json_true()) != 0)
        return tr_fail(err, TR_EINVAL, "%s: the tensor's name %s is no UTF-8", path,
                       tr__quoted(name, quoted));
    fresh.name = tr_strdup(name);
    if (!fresh.name) return tr_fail(err, TR_ENOMEM, "no memory to write '%s'", path);
    self->entries[self->n_entries++] = fresh;
    return TR_OK;
}

static int compare_entries(const void *left, const void *right)
{
    const entry *a = *(entry *const *)left, *b = *(entry *const *)right;
    if (a->type->size_bytes != b->type->size_bytes) return a->type->size_bytes > b->type->size_bytes ? -1 : 1;
    return strcmp(a->name, b->name);
}

/* Gives every tensor its place (relative to the data) and adds its line to the header. */
static bool lay_out(json_t *header, entry *const *order, size_t n)
{
    uint64_t at = 0;
    bool good = json_object_set_new(header, "__metadata__", json_pack("{s:s}", "format", "pt")) == 0;
    for (size_t i = 0; i < n && good; i++) {
        entry *tensor = order[i];
        json_t *dims = json_array();
        for (int k = 0; k < tensor->shape.rank; k++)
            json_array_append_new(dims, json_integer(tensor->shape.dims[k]));
        uint64_t end = at + tensor->size_bytes;
        json_t *line = json_pack("{s:s, s:o, s:[I, I]}", "dtype", tensor->type->name, "shape", dims,
                                 "data_offsets", (json_int_t)at, (json_int_t)end);
        good = line && json_object_set_new(header, tensor->name, line) == 0;
        tensor->at = at;
        at = end;
    }
    return good;
}

static tr_status write_at(tr_safetensors_writer *self, uint64_t at, const void *bytes, size_t size_bytes,
                          tr_error *err)
{
    const char *from = bytes;
    while (size_bytes) {
        bool full = tr_file_fault_strikes(TR_FILE_FULL, self->file.path);
        ssize_t done = full ? -1 : pwrite(fileno(self->file.stream), from, size_bytes, (off_t)at);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0)
            return tr_fail(err, TR_EIO, "could not write '%s': %s", self->file.temporary,
                           done < 0 ? strerror(errno) : "nothing was taken");
        from += done;
        at += (uint64_t)done;
        size_bytes -= (size_t)done;
    }
    return TR_OK;
}

static tr_status write_header(tr_safetensors_writer *self, const char *text, tr_error *err)
{
    size_t length = strlen(text), padded = (length + 7) / 8 * 8;
    if (padded > TR__LONGEST_HEADER)
        return tr_fail(err, TR_EINVAL, "'%s' would need a header of %zu bytes, more than the %d allowed",
                       self->file.path, padded, TR__LONGEST_HEADER);
    char *bytes = tr_alloc(TR__LENGTH_BYTES + padded);
    if (!bytes) return tr_fail(err, TR_ENOMEM, "no memory to write '%s'", self->file.path);
    for (int i = 0; i < TR__LENGTH_BYTES; i++) bytes[i] = (char)(padded >> 8 * i & 255);
    /* NOLINTNEXTLINE(bugprone-not-null-terminated-result): the format has a length instead */
    memcpy(bytes + TR__LENGTH_BYTES, text, length);
    memset(bytes + TR__LENGTH_BYTES + length, ' ', padded - length);
    for (size_t i = 0; i < self->n_entries; i++) self->entries[i].at += TR__LENGTH_BYTES + padded;
    tr_status status = write_at(self, 0, bytes, TR__LENGTH_BYTES + padded, err);
    tr_free(bytes);
    return status;
}

tr_status tr_safetensors_writer_begin(tr_safetensors_writer *self, tr_tensor_order order, tr_error *err)
{
    TR_ASSERT(!self->begun);
    entry **sorted = tr_alloc((self->n_entries + 1) * sizeof(entry *));
    json_t *header = json_object();
    char *text = NULL;
    if (sorted && header) {
        for (size_t i = 0; i < self->n_entries; i++) sorted[i] = &self->entries[i];
        if (order == TR_TENSORS_SORTED && self->n_entries)
            qsort(sorted, self->n_entries, sizeof *sorted, compare_entries);
        if (lay_out(header, sorted, self->n_entries))
            text = json_dumps(header, JSON_COMPACT | JSON_PRESERVE_ORDER);
    }
    tr_status status = text ? write_header(self, text, err)
                            : tr_fail(err, TR_ENOMEM, "no memory to write '%s'", self->file.path);
    self->begun = status == TR_OK;
    free(text); /* jansson's */
    json_decref(header);
    tr_free(sorted);
    return status;
}

/* Joins [begin, end) with what was written already. */
static tr_status mark_written(entry *tensor, uint64_t begin, uint64_t end, tr_error *err)
{
    if (begin == end) return TR_OK;
    tr_status status = tr_array_reserve((void **)&tensor->written, &tensor->written_capacity,
                                        tensor->n_written + 1, sizeof *tensor->written, err);
    if (status) return status;
    byte_range *ranges = tensor->written;
    size_t first = 0;
    while (first < tensor->n_written && ranges[first].end < begin) first++;
    size_t last = first; /* ranges first .. last-1 touch the new one */
    for (; last < tensor->n_written && ranges[last].begin <= end; last++) {
        if (ranges[last].begin < begin) begin = ranges[last].begin;
        if (ranges[last].end > end) end = ranges[last].end;
    }
    memmove(ranges + first + 1, ranges + last, (tensor->n_written - last) * sizeof *ranges);
    ranges[first] = (byte_range){begin, end};
    tensor->n_written = tensor->n_written - (last - first) + 1;
    return TR_OK;
}

tr_status tr_safetensors_writer_put(tr_safetensors_writer *self, size_t index, uint64_t offset_bytes,
                                    const void *bytes, size_t size_bytes, tr_error *err)
{
    TR_ASSERT(self->begun);
    if (index >= self->n_entries)
        return tr_fail(err, TR_EINVAL, "%s: there is no tensor number %zu of %zu", self->file.path, index,
                       self->n_entries);
    entry *tensor = &self->entries[index];
    char quoted[TR__QUOTED_SIZE];
    if (offset_bytes > tensor->size_bytes || size_bytes > tensor->size_bytes - offset_bytes)
        return tr_fail(err, TR_EINVAL,
                       "%s: a piece of %zu bytes at %llu does not fit into the %llu of tensor %s",
                       self->file.path, size_bytes, (unsigned long long)offset_bytes,
                       (unsigned long long)tensor->size_bytes, tr__quoted(tensor->name, quoted));
    tr_status status = write_at(self, tensor->at + offset_bytes, bytes, size_bytes, err);
    return status ? status : mark_written(tensor, offset_bytes, offset_bytes + size_bytes, err);
}

static tr_status check_complete(const tr_safetensors_writer *self, tr_error *err)
{
    for (size_t i = 0; i < self->n_entries; i++) {
        const entry *tensor = &self->entries[i];
        uint64_t first_missing = 0;
        if (tensor->n_written && tensor->written[0].begin == 0) first_missing = tensor->written[0].end;
        char quoted[TR__QUOTED_SIZE];
        if (first_missing < tensor->size_bytes)
            return tr_fail(err, TR_EINVAL, "%s: of tensor %s the bytes from %llu on were not written",
                           self->file.path, tr__quoted(tensor->name, quoted),
                           (unsigned long long)first_missing);
    }
    return TR_OK;
}

tr_status tr_safetensors_writer_commit(tr_safetensors_writer **self, tr_error *err)
{
    TR_ASSERT((*self)->begun);
    tr_status status = check_complete(*self, err);
    if (!status) status = tr_file_writer_commit(&(*self)->file, err);
    tr_safetensors_writer_destroy(self);
    return status;
}

void tr_safetensors_writer_destroy(tr_safetensors_writer **self)
{
    if (!*self) return;
    tr_file_writer_abandon(&(*self)->file); /* a committed writer has released its file */
    for (size_t i = 0; i < (*self)->n_entries; i++) {
        tr_free((*self)->entries[i].name);
        tr_free((*self)->entries[i].written);
    }
    tr_free((*self)->entries);
    json_decref((*self)->names);
    tr_free(*self);
    *self = NULL;
}
