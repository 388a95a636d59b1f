/* pipelines/data.c - see data.h. Files are mapped, never copied: the kernel keeps what is read in memory,
 * once for all workers of a host.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/data.h"

#include "base/file.h"
#include "base/hash.h"
#include "base/memory.h"
#include "base/rng.h"
#include "pipelines/safetensors.h"
#include "pipelines/text.h"

#include <math.h>
#include <string.h>

struct tr_data {
    int32_t sequence;
    uint32_t microbatch, accumulate;
    uint64_t seed, stream;
    tr_file_map text; /* where there is no table */
    tr_safetensors *file;
    const tr_tensor_info *table; /* (rows, sequence+1) */
    int64_t training;            /* bytes or rows: the first ones; the rest is held out */
    int64_t heldout;
};

/* Ids of a row lie next to each other; a file's data may be unaligned. */
static int64_t table_id(const tr_data *self, int64_t row, int64_t column)
{
    int64_t at = row * (self->sequence + 1) + column, wide;
    int32_t narrow;
    if (self->table->dtype == TR_I64) {
        memcpy(&wide, (const char *)self->table->data + 8 * at, 8);
        return wide;
    }
    memcpy(&narrow, (const char *)self->table->data + 4 * at, 4);
    return narrow;
}

static tr_status check_bytes(const tr_data *self, const char *path, int32_t vocabulary, tr_error *err)
{
    const unsigned char *bytes = self->text.data;
    for (size_t i = 0; vocabulary < 256 && i < self->text.size_bytes; i++)
        if (bytes[i] >= vocabulary)
            return tr_fail(err, TR_EINVAL, "%s: byte %zu is %d, outside the model's vocabulary of %d", path,
                           i, bytes[i], vocabulary);
    return TR_OK;
}

static tr_status check_table(const tr_data *self, int32_t vocabulary, tr_error *err)
{
    int64_t rows = self->table->shape.dims[0];
    for (int64_t row = 0; row < rows; row++) {
        for (int64_t column = 0; column <= self->sequence; column++) {
            int64_t id = table_id(self, row, column);
            if (id >= 0 && id < vocabulary) continue;
            return tr_fail(err, TR_EINVAL,
                           "%s: '%lld' in row %lld, column %lld is outside the model's vocabulary of %d",
                           self->table->file, (long long)id, (long long)row, (long long)column, vocabulary);
        }
    }
    return TR_OK;
}

static tr_status open_text(tr_data *self, const char *path, double holdout, int32_t vocabulary, tr_error *err)
{
    tr_status status = tr_file_map_open(&self->text, path, err);
    if (status) return status;
    int64_t size = (int64_t)self->text.size_bytes;
    self->training = (int64_t)floor((double)size * (1 - holdout));
    self->heldout = size - self->training;
    return check_bytes(self, path, vocabulary, err);
}

static tr_status check_text_parts(const tr_data *self, const char *path, double holdout, tr_error *err)
{
    if (self->training < self->sequence + 1)
        return tr_fail(err, TR_EINVAL,
                       "%s: %lld bytes to train on are fewer than one row of %d; shorten train.sequence",
                       path, (long long)self->training, self->sequence + 1);
    if (holdout > 0 && self->heldout < 2)
        return tr_fail(err, TR_EINVAL,
                       "%s: data.holdout '%g' holds out %lld bytes, too few to predict one; raise it", path,
                       holdout, (long long)self->heldout);
    return TR_OK;
}

static tr_status open_table(tr_data *self, const tr_recipe *recipe, int32_t vocabulary, tr_error *err)
{
    const char *path = recipe->data.tokens;
    tr_status status = tr_safetensors_open(&self->file, path, err);
    if (status) return status;
    self->table = tr_safetensors_find(self->file, recipe->data.key);
    char quoted[TR__QUOTED_SIZE], shape[80];
    tr__quoted(recipe->data.key, quoted);
    if (!self->table)
        return tr_fail(err, TR_ENOTFOUND, "%s: there is no tensor %s; see data.key", path, quoted);
    const tr_tensor_info *table = self->table;
    if (!table->readable || (table->dtype != TR_I32 && table->dtype != TR_I64))
        return tr_fail(err, TR_EINVAL, "%s: tensor %s holds %s; token ids must be I32 or I64", path, quoted,
                       table->stored_as);
    tr_shape_text(&table->shape, shape);
    if (table->shape.rank != 2 || table->shape.dims[0] < 1 || table->shape.dims[1] != self->sequence + 1)
        return tr_fail(err, TR_EINVAL,
                       "%s: tensor %s has the shape %s; it must be (rows, %d), one more than train.sequence",
                       path, quoted, shape, self->sequence + 1);
    self->training = (int64_t)floor((double)table->shape.dims[0] * (1 - recipe->data.holdout));
    self->heldout = table->shape.dims[0] - self->training;
    if (self->training < 1)
        return tr_fail(err, TR_EINVAL, "%s: data.holdout '%g' leaves none of %lld rows to train on; lower it",
                       path, recipe->data.holdout, (long long)table->shape.dims[0]);
    return check_table(self, vocabulary, err);
}

tr_status tr_data_open(tr_data **out, const tr_recipe *recipe, int32_t vocabulary, tr_error *err)
{
    tr_data *self = tr_alloc_zero(1, sizeof *self);
    if (!self) return tr_fail(err, TR_ENOMEM, "no memory for the data");
    self->sequence = recipe->train.sequence;
    self->microbatch = (uint32_t)recipe->train.microbatch;
    self->accumulate = (uint32_t)recipe->train.accumulate;
    self->seed = recipe->train.seed;
    self->stream = tr_hash64_text("data");
    tr_status status;
    if (recipe->data.tokens) {
        status = open_table(self, recipe, vocabulary, err);
    } else {
        status = open_text(self, recipe->data.text, recipe->data.holdout, vocabulary, err);
        if (!status) status = check_text_parts(self, recipe->data.text, recipe->data.holdout, err);
    }
    if (status)
        tr_data_close(&self);
    else
        *out = self;
    return status;
}

tr_status tr_data_open_text(tr_data **out, const char *path, int32_t sequence, int32_t vocabulary,
                            tr_error *err)
{
    TR_ASSERT(sequence > 0);
    tr_data *self = tr_alloc_zero(1, sizeof *self);
    if (!self) return tr_fail(err, TR_ENOMEM, "no memory for the data");
    self->sequence = sequence;
    tr_status status = open_text(self, path, 1, vocabulary, err);
    if (!status && self->heldout < 2)
        status = tr_fail(err, TR_EINVAL, "%s: too short to predict anything", path);
    if (status)
        tr_data_close(&self);
    else
        *out = self;
    return status;
}

void tr_data_close(tr_data **self)
{
    if (!*self) return;
    tr_safetensors_close(&(*self)->file);
    tr_file_map_release(&(*self)->text);
    tr_free(*self);
    *self = NULL;
}

static void fill_row(const tr_data *self, int64_t row, int32_t *tokens, int32_t *targets)
{
    for (int32_t i = 0; i < self->sequence; i++) {
        tokens[i] = (int32_t)table_id(self, row, i);
        targets[i] = (int32_t)table_id(self, row, i + 1);
    }
}

/* The window of bytes from `start`; what would be predicted at `end` or behind it does not count. */
static void fill_window(const tr_data *self, int64_t start, int64_t end, int32_t *tokens, int32_t *targets)
{
    const unsigned char *bytes = self->text.data;
    for (int32_t i = 0; i < self->sequence; i++) {
        bool counts = start + i + 1 < end;
        tokens[i] = counts ? bytes[start + i] : 0;
        targets[i] = counts ? bytes[start + i + 1] : -1;
    }
}

void tr_data_fill_training(const tr_data *self, uint32_t step, uint32_t microbatch, uint32_t index,
                           int32_t *tokens, int32_t *targets)
{
    TR_ASSERT(microbatch < self->accumulate && index < self->microbatch);
    if (self->table) {
        uint64_t row = ((uint64_t)step * self->accumulate + microbatch) * self->microbatch + index;
        fill_row(self, (int64_t)(row % (uint64_t)self->training), tokens, targets);
        return;
    }
    tr_rng_key key = {.seed = self->seed, .stream = self->stream, .step = step, .microbatch = microbatch};
    uint64_t n_starts = (uint64_t)(self->training - self->sequence);
    int64_t start =
        (int64_t)(tr_rng_u64(&key, index) % n_starts); /* 64 bits over a file's size: no bias to speak of */
    fill_window(self, start, self->training, tokens, targets);
}

int64_t tr_data_validation_count(const tr_data *self)
{
    if (self->table) return self->heldout;
    return self->heldout < 2 ? 0 : (self->heldout - 2) / self->sequence + 1;
}

void tr_data_fill_validation(const tr_data *self, int64_t window, int32_t *tokens, int32_t *targets)
{
    TR_ASSERT(window >= 0 && window < tr_data_validation_count(self));
    if (self->table)
        fill_row(self, self->training + window, tokens, targets);
    else
        fill_window(self, self->training + window * self->sequence, self->training + self->heldout, tokens,
                    targets);
}

int64_t tr_data_validation_targets(const tr_data *self, int64_t window)
{
    TR_ASSERT(window >= 0 && window < tr_data_validation_count(self));
    if (self->table) return self->sequence;
    int64_t left = self->heldout - 1 - window * self->sequence;
    return left < self->sequence ? left : self->sequence;
}

int64_t tr_data_validation_windows(const tr_data *self, int64_t n, int64_t *windows)
{
    TR_ASSERT(n >= 0);
    int64_t count = tr_data_validation_count(self);
    if (n >= count) {
        n = count;
    } else if (tr_data_validation_targets(self, count - 1) < self->sequence) {
        count--; /* still at least n */
    }
    for (int64_t i = 0; i < n; i++) windows[i] = i * count / n;
    return n;
}

int64_t tr_data_training_tokens(const tr_data *self)
{
    return self->table ? self->training * (self->sequence + 1) : self->training;
}

int64_t tr_data_heldout_tokens(const tr_data *self)
{
    return self->table ? self->heldout * (self->sequence + 1) : self->heldout;
}
