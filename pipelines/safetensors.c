/* pipelines/safetensors.c - the reader. Nothing of a header is believed before it is checked: offsets, shapes
 * and lengths come from a file that may have been cut, overwritten or made to harm.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/safetensors.h"

#include "base/file.h"
#include "base/memory.h"
#include "pipelines/safetensors_format.h"
#include "pipelines/text.h"

#include <jansson.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

typedef struct shard {
    char *path;
    tr_file_map map;
    json_t *header; /* owns the names */
} shard;

struct tr_safetensors {
    shard *shards;
    size_t n_shards, shard_capacity;
    tr_tensor_info *tensors; /* sorted by name once open */
    size_t n_tensors, tensor_capacity;
};

static const tr__stored_type stored_types[] = {
    {"F32", 4, true, TR_F32},     {"F64", 8, true, TR_F64},     {"BF16", 2, true, TR_BF16},
    {"F16", 2, true, TR_F16},     {"I32", 4, true, TR_I32},     {"I64", 8, true, TR_I64},
    {"U8", 1, true, TR_U8},       {"I8", 1, false, TR_U8},      {"I16", 2, false, TR_U8},
    {"U16", 2, false, TR_U8},     {"U32", 4, false, TR_U8},     {"U64", 8, false, TR_U8},
    {"BOOL", 1, false, TR_U8},    {"C64", 8, false, TR_U8},     {"F8_E4M3", 1, false, TR_U8},
    {"F8_E5M2", 1, false, TR_U8}, {"F8_E8M0", 1, false, TR_U8},
};
enum { N_STORED_TYPES = sizeof stored_types / sizeof *stored_types };

const tr__stored_type *tr__stored_type_named(const char *name)
{
    for (size_t i = 0; i < N_STORED_TYPES; i++)
        if (strcmp(stored_types[i].name, name) == 0) return &stored_types[i];
    return NULL;
}

const tr__stored_type *tr__stored_type_of(tr_dtype dtype)
{
    for (size_t i = 0; i < N_STORED_TYPES; i++)
        if (stored_types[i].readable && stored_types[i].dtype == dtype) return &stored_types[i];
    TR_ASSERT(false && "a dtype without a name in safetensors");
    return NULL;
}

static tr_status damaged(tr_error *err, const char *path, const char *tensor, const char *what)
{
    char quoted[TR__QUOTED_SIZE];
    return tr_fail(err, TR_ECORRUPT, "%s: tensor %s %s", path, tr__quoted(tensor, quoted), what);
}

/* Where the header says a tensor lies, relative to the data section. */
typedef struct extent {
    uint64_t begin, end;
    const char *name;
} extent;

static tr_status parse_extent(json_t *entry, const char *path, const char *name, uint64_t data_bytes,
                              extent *out, tr_error *err)
{
    json_t *offsets = json_object_get(entry, "data_offsets");
    if (!json_is_array(offsets) || json_array_size(offsets) != 2 ||
        !json_is_integer(json_array_get(offsets, 0)) || !json_is_integer(json_array_get(offsets, 1)))
        return damaged(err, path, name, "has no data_offsets of two whole numbers");
    json_int_t begin = json_integer_value(json_array_get(offsets, 0));
    json_int_t end = json_integer_value(json_array_get(offsets, 1));
    char quoted[TR__QUOTED_SIZE];
    if (begin < 0 || end < begin || (uint64_t)end > data_bytes)
        return tr_fail(err, TR_ECORRUPT,
                       "%s: tensor %s has data_offsets [%" JSON_INTEGER_FORMAT ", %" JSON_INTEGER_FORMAT
                       "] outside the %llu bytes of data; the file may have been cut short",
                       path, tr__quoted(name, quoted), begin, end, (unsigned long long)data_bytes);
    *out = (extent){.begin = (uint64_t)begin, .end = (uint64_t)end, .name = name};
    return TR_OK;
}

/* Fills shape and readable; *elements is the product of the dimensions. */
static tr_status parse_shape(json_t *entry, const char *path, tr_tensor_info *tensor, uint64_t *elements,
                             tr_error *err)
{
    json_t *dims = json_object_get(entry, "shape");
    if (!json_is_array(dims)) return damaged(err, path, tensor->name, "has no shape");
    size_t rank = json_array_size(dims);
    if (rank > TR_MAX_RANK) tensor->readable = false;
    bool empty = false;
    uint64_t product = 1;
    for (size_t i = 0; i < rank; i++) {
        json_t *dim = json_array_get(dims, i);
        if (!json_is_integer(dim) || json_integer_value(dim) < 0)
            return damaged(err, path, tensor->name, "has a dimension that is no whole number from 0 up");
        int64_t value = json_integer_value(dim);
        if (value == 0) empty = true;
        if (value && __builtin_mul_overflow(product, (uint64_t)value, &product))
            return damaged(err, path, tensor->name, "has a shape of more elements than can be counted");
        if (i < TR_MAX_RANK) tensor->shape.dims[i] = value;
    }
    tensor->shape.rank = rank > TR_MAX_RANK ? TR_MAX_RANK : (int)rank;
    *elements = empty ? 0 : product;
    return TR_OK;
}

static tr_status parse_tensor(json_t *entry, const shard *where, uint64_t data_at, tr_tensor_info *tensor,
                              extent *place, tr_error *err)
{
    const char *path = where->path, *name = tensor->name;
    if (!json_is_object(entry))
        return damaged(err, path, name, "is described by something that is no object");
    tr_status status = parse_extent(entry, path, name, where->map.size_bytes - data_at, place, err);
    if (status) return status;
    const char *dtype = json_string_value(json_object_get(entry, "dtype"));
    if (!dtype) return damaged(err, path, name, "has no dtype");
    const tr__stored_type *type = tr__stored_type_named(dtype);
    char quoted[TR__QUOTED_SIZE], quoted_type[TR__QUOTED_SIZE];
    if (!type)
        return tr_fail(err, TR_ECORRUPT, "%s: tensor %s has the unknown dtype %s", path,
                       tr__quoted(name, quoted), tr__quoted(dtype, quoted_type));
    tensor->readable = type->readable;
    tensor->dtype = type->dtype;
    tensor->stored_as = type->name;
    uint64_t elements = 0, size_bytes;
    if ((status = parse_shape(entry, path, tensor, &elements, err))) return status;
    if (__builtin_mul_overflow(elements, (uint64_t)type->size_bytes, &size_bytes) ||
        size_bytes != place->end - place->begin)
        return tr_fail(err, TR_ECORRUPT,
                       "%s: tensor %s has %llu bytes, but its shape and dtype %s need %llu elements of %u",
                       path, tr__quoted(name, quoted), (unsigned long long)(place->end - place->begin),
                       type->name, (unsigned long long)elements, type->size_bytes);
    tensor->size_bytes = size_bytes;
    tensor->data = (const char *)where->map.data + data_at + place->begin;
    return TR_OK;
}

static int compare_extents(const void *left, const void *right)
{
    const extent *a = left, *b = right;
    if (a->begin != b->begin) return a->begin < b->begin ? -1 : 1;
    return a->end < b->end ? -1 : a->end > b->end;
}

/* Tensors must cover the data section without overlap and without holes:
 * unnamed bytes could hide anything. */
static tr_status check_cover(extent *extents, size_t n, uint64_t data_bytes, const char *path, tr_error *err)
{
    char quoted[TR__QUOTED_SIZE], other[TR__QUOTED_SIZE];
    if (n) qsort(extents, n, sizeof *extents, compare_extents);
    uint64_t covered = 0;
    for (size_t i = 0; i < n; i++) {
        if (extents[i].begin < covered)
            return tr_fail(err, TR_ECORRUPT, "%s: tensors %s and %s overlap", path,
                           tr__quoted(extents[i - 1].name, other), tr__quoted(extents[i].name, quoted));
        if (extents[i].begin > covered)
            return tr_fail(err, TR_ECORRUPT, "%s: a hole of %llu bytes lies before tensor %s", path,
                           (unsigned long long)(extents[i].begin - covered),
                           tr__quoted(extents[i].name, quoted));
        covered = extents[i].end;
    }
    if (covered != data_bytes)
        return tr_fail(err, TR_ECORRUPT, "%s: %llu bytes at the end belong to no tensor", path,
                       (unsigned long long)(data_bytes - covered));
    return TR_OK;
}

static tr_status parse_header(shard *self, uint64_t *data_at, tr_error *err)
{
    const unsigned char *bytes = self->map.data;
    uint64_t size = self->map.size_bytes, length = 0;
    if (size < TR__LENGTH_BYTES)
        return tr_fail(err, TR_ECORRUPT, "%s: %llu bytes are too few for a safetensors file", self->path,
                       (unsigned long long)size);
    for (int i = TR__LENGTH_BYTES - 1; i >= 0; i--) length = length << 8 | bytes[i];
    if (length > TR__LONGEST_HEADER)
        return tr_fail(err, TR_ECORRUPT,
                       "%s: a header of %llu bytes is longer than the %d allowed; is it safetensors?",
                       self->path, (unsigned long long)length, TR__LONGEST_HEADER);
    if (length > size - TR__LENGTH_BYTES)
        return tr_fail(err, TR_ECORRUPT,
                       "%s: the header should have %llu bytes, but the file ends after %llu", self->path,
                       (unsigned long long)length, (unsigned long long)(size - TR__LENGTH_BYTES));
    json_error_t problem;
    self->header =
        json_loadb((const char *)bytes + TR__LENGTH_BYTES, length, JSON_REJECT_DUPLICATES, &problem);
    char quoted[TR__QUOTED_SIZE];
    if (!self->header)
        return tr_fail(err, TR_ECORRUPT, "%s: the header is not valid JSON, at its byte %d: %s", self->path,
                       problem.position, tr__quoted(problem.text, quoted));
    if (!json_is_object(self->header))
        return tr_fail(err, TR_ECORRUPT, "%s: the header is no JSON object", self->path);
    *data_at = TR__LENGTH_BYTES + length;
    return TR_OK;
}

static tr_status check_metadata(json_t *metadata, const char *path, tr_error *err)
{
    bool good = json_is_object(metadata);
    const char *key;
    json_t *value;
    if (good) json_object_foreach(metadata, key, value) good = good && json_is_string(value);
    return good ? TR_OK : tr_fail(err, TR_ECORRUPT, "%s: __metadata__ is no object of strings", path);
}

static tr_status add_tensors(tr_safetensors *self, const shard *where, uint64_t data_at, tr_error *err)
{
    size_t n_entries = json_object_size(where->header), n = 0;
    tr_status status = tr_array_reserve((void **)&self->tensors, &self->tensor_capacity,
                                        self->n_tensors + n_entries, sizeof *self->tensors, err);
    if (status) return status;
    extent *extents = tr_alloc((n_entries + 1) * sizeof *extents);
    if (!extents)
        return tr_fail(err, TR_ENOMEM, "no memory for the %zu tensors of '%s'", n_entries, where->path);
    const char *name;
    json_t *entry;
    json_object_foreach(where->header, name, entry)
    {
        if (strcmp(name, "__metadata__") == 0) {
            status = check_metadata(entry, where->path, err);
        } else {
            tr_tensor_info *tensor = &self->tensors[self->n_tensors + n];
            *tensor = (tr_tensor_info){.name = name, .file = where->path};
            status = parse_tensor(entry, where, data_at, tensor, &extents[n++], err);
        }
        if (status) break;
    }
    if (!status) status = check_cover(extents, n, where->map.size_bytes - data_at, where->path, err);
    if (!status) self->n_tensors += n;
    tr_free(extents);
    return status;
}

/* Takes `path`, also when it fails. */
static tr_status add_shard(tr_safetensors *self, char *path, tr_error *err)
{
    if (!path) return tr_fail(err, TR_ENOMEM, "no memory to open a safetensors file");
    tr_status status = tr_array_reserve((void **)&self->shards, &self->shard_capacity, self->n_shards + 1,
                                        sizeof *self->shards, err);
    if (status) {
        tr_free(path);
        return status;
    }
    shard *fresh = &self->shards[self->n_shards++]; /* from here on close releases it */
    *fresh = (shard){.path = path};
    uint64_t data_at;
    if ((status = tr_file_map_open(&fresh->map, path, err))) return status;
    if ((status = parse_header(fresh, &data_at, err))) return status;
    return add_tensors(self, fresh, data_at, err);
}

static int compare_tensors(const void *left, const void *right)
{
    const tr_tensor_info *a = left, *b = right;
    return strcmp(a->name, b->name);
}

static tr_status sort_tensors(tr_safetensors *self, tr_error *err)
{
    if (self->n_tensors) qsort(self->tensors, self->n_tensors, sizeof *self->tensors, compare_tensors);
    for (size_t i = 1; i < self->n_tensors; i++) {
        const tr_tensor_info *a = &self->tensors[i - 1], *b = &self->tensors[i];
        char quoted[TR__QUOTED_SIZE];
        if (strcmp(a->name, b->name) == 0)
            return tr_fail(err, TR_ECORRUPT, "tensor %s is both in %s and in %s", tr__quoted(a->name, quoted),
                           a->file, b->file);
    }
    return TR_OK;
}

static tr_status open_empty(tr_safetensors **out, tr_error *err)
{
    *out = tr_alloc_zero(1, sizeof **out);
    return *out ? TR_OK : tr_fail(err, TR_ENOMEM, "no memory for a safetensors reader");
}

tr_status tr_safetensors_open(tr_safetensors **out, const char *path, tr_error *err)
{
    tr_safetensors *self;
    tr_status status = open_empty(&self, err);
    if (status) return status;
    status = add_shard(self, tr_strdup(path), err);
    if (!status) status = sort_tensors(self, err);
    if (status)
        tr_safetensors_close(&self);
    else
        *out = self;
    return status;
}

static bool has_shard(const tr_safetensors *self, const char *path)
{
    for (size_t i = 0; i < self->n_shards; i++)
        if (strcmp(self->shards[i].path, path) == 0) return true;
    return false;
}

/* A shard lies beside its index, never elsewhere; and its name goes into messages, which are one line. */
static bool is_plain_file_name(const char *name)
{
    if (!name || !*name || strlen(name) > NAME_MAX) return false;
    for (const unsigned char *c = (const unsigned char *)name; *c; c++)
        if (*c < 0x20 || *c == 0x7F || *c == '/') return false;
    return true;
}

static tr_status add_indexed_shards(tr_safetensors *self, json_t *map, const char *directory,
                                    const char *index_path, tr_error *err)
{
    const char *name;
    json_t *file;
    json_object_foreach(map, name, file)
    {
        char quoted[TR__QUOTED_SIZE], quoted_file[TR__QUOTED_SIZE];
        const char *base = json_string_value(file);
        if (!is_plain_file_name(base))
            return tr_fail(err, TR_ECORRUPT, "%s: tensor %s is in %s, which is no plain file name",
                           index_path, tr__quoted(name, quoted), tr__quoted(base ? base : "", quoted_file));
        char *path = tr_format("%s/%s", directory, base);
        if (path && has_shard(self, path)) {
            tr_free(path);
            continue;
        }
        tr_status status = add_shard(self, path, err);
        if (status) return status;
    }
    return TR_OK;
}

static tr_status check_index(const tr_safetensors *self, json_t *map, const char *index_path, tr_error *err)
{
    char quoted[TR__QUOTED_SIZE];
    for (size_t i = 0; i < self->n_tensors; i++) {
        const tr_tensor_info *tensor = &self->tensors[i];
        const char *base = strrchr(tensor->file, '/') + 1;
        const char *said = json_string_value(json_object_get(map, tensor->name));
        if (!said || strcmp(said, base) != 0)
            return tr_fail(err, TR_ECORRUPT, "%s: tensor %s is in %s, but the index says %s", index_path,
                           tr__quoted(tensor->name, quoted), base, said ? said : "nothing of it");
    }
    const char *name;
    json_t *file;
    json_object_foreach(map, name, file) if (!tr_safetensors_find(self, name)) return tr_fail(
        err, TR_ECORRUPT, "%s: tensor %s is not in %s, where the index says it is", index_path,
        tr__quoted(name, quoted), json_string_value(file));
    return TR_OK;
}

static tr_status add_index(tr_safetensors *self, const char *directory, const char *index_path, tr_error *err)
{
    json_error_t problem;
    char quoted[TR__QUOTED_SIZE];
    json_t *index = json_load_file(index_path, JSON_REJECT_DUPLICATES, &problem);
    if (!index)
        return tr_fail(err, TR_ECORRUPT, "%s:%d: not valid JSON: %s", index_path, problem.line,
                       tr__quoted(problem.text, quoted));
    json_t *map = json_object_get(index, "weight_map");
    tr_status status = TR_OK;
    if (!json_is_object(map))
        status = tr_fail(err, TR_ECORRUPT, "%s: there is no weight_map in it", index_path);
    if (!status) status = add_indexed_shards(self, map, directory, index_path, err);
    if (!status) status = sort_tensors(self, err);
    if (!status) status = check_index(self, map, index_path, err);
    json_decref(index);
    return status;
}

tr_status tr_safetensors_open_model(tr_safetensors **out, const char *directory, tr_error *err)
{
    char *single = tr_format("%s/model.safetensors", directory);
    char *index = tr_format("%s/model.safetensors.index.json", directory);
    tr_safetensors *self = NULL;
    tr_status status;
    if (!single || !index) {
        status = tr_fail(err, TR_ENOMEM, "no memory to open '%s'", directory);
    } else if (tr_path_exists(single)) {
        status = tr_safetensors_open(&self, single, err);
    } else if (!tr_path_exists(index)) {
        status = tr_fail(
            err, TR_ENOTFOUND,
            "'%s' has neither model.safetensors nor model.safetensors.index.json; other formats are not read",
            directory);
    } else if (!(status = open_empty(&self, err))) {
        status = add_index(self, directory, index, err);
    }
    tr_free(single);
    tr_free(index);
    if (status)
        tr_safetensors_close(&self);
    else
        *out = self;
    return status;
}

void tr_safetensors_close(tr_safetensors **self)
{
    if (!*self) return;
    for (size_t i = 0; i < (*self)->n_shards; i++) {
        json_decref((*self)->shards[i].header);
        tr_file_map_release(&(*self)->shards[i].map);
        tr_free((*self)->shards[i].path);
    }
    tr_free((*self)->shards);
    tr_free((*self)->tensors);
    tr_free(*self);
    *self = NULL;
}

size_t tr_safetensors_count(const tr_safetensors *self)
{
    return self->n_tensors;
}

const tr_tensor_info *tr_safetensors_at(const tr_safetensors *self, size_t i)
{
    TR_ASSERT(i < self->n_tensors);
    return &self->tensors[i];
}

const tr_tensor_info *tr_safetensors_find(const tr_safetensors *self, const char *name)
{
    tr_tensor_info wanted = {.name = name};
    if (!self->n_tensors) return NULL;
    return bsearch(&wanted, self->tensors, self->n_tensors, sizeof wanted, compare_tensors);
}

const char *tr_safetensors_metadata(const tr_safetensors *self, const char *key)
{
    if (!self->n_shards) return NULL;
    return json_string_value(json_object_get(json_object_get(self->shards[0].header, "__metadata__"), key));
}
