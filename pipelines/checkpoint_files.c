/* pipelines/checkpoint_files.c - writing checkpoints; reading them is in checkpoint_find.c.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/checkpoint_files.h"

#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "pipelines/checkpoint_manifest.h"
#include "pipelines/head_lease.h"
#include "pipelines/safetensors.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A file of the source directory that every checkpoint gets a copy of. Held in memory: the source may be a checkpoint
 * of this very run, which is removed when newer ones have come. */
typedef struct companion {
    char *name, *bytes;
    size_t size_bytes;
} companion;

struct tr_checkpoint_files {
    tr_checkpoint_writer writer;
    companion *companions;
    size_t n_companions;
    tr_checkpoint_files_options options;
    uint32_t updates; /* of the one at work */
    char *temporary;  /* its directory for now; NULL: none at work */
    tr_safetensors_writer *model, *moments;
};

static tr_status no_memory(tr_error *err)
{
    return tr_fail(err, TR_ENOMEM, "no memory to write a checkpoint");
}

static void abandon(void *context)
{
    tr_checkpoint_files *self = context;
    tr_safetensors_writer_destroy(&self->model);
    tr_safetensors_writer_destroy(&self->moments);
    tr_error error;
    if (self->temporary && tr_directory_remove_tree(self->temporary, &error))
        tr_log(TR_LOG_WARNING, "%s", error.message);
    tr_free(self->temporary);
    self->temporary = NULL;
}

static const char *name_in_files(const tr_checkpoint_files *self, size_t index)
{
    return self->options.weights ? tr_weights_source_name(self->options.weights, index)
                                 : self->options.parameters->items[index].name;
}

static tr_status open_writer(tr_safetensors_writer **out, const char *directory, const char *file,
                             tr_error *err)
{
    char *path = tr_format("%s/%s", directory, file);
    if (!path) return no_memory(err);
    tr_status status = tr_safetensors_writer_new(out, path, err);
    tr_free(path);
    return status;
}

static tr_status declare_all(tr_checkpoint_files *self, tr_error *err)
{
    static const char *const suffixes[] = {"exp_avg", "exp_avg_sq"};
    tr_status status = TR_OK;
    for (size_t i = 0; !status && i < self->options.parameters->count; i++) {
        const tr_model_parameter *parameter = &self->options.parameters->items[i];
        status = tr_safetensors_writer_declare(self->model, name_in_files(self, i), TR_F32, &parameter->shape,
                                               err);
        for (int k = 0; !status && k < 2; k++) {
            char *name = tr_format("%s.%s", parameter->name, suffixes[k]);
            status = name ? tr_safetensors_writer_declare(self->moments, name, TR_F32, &parameter->shape, err)
                          : no_memory(err);
            tr_free(name);
        }
    }
    if (!status) status = tr_safetensors_writer_begin(self->model, TR_TENSORS_SORTED, err);
    if (!status) status = tr_safetensors_writer_begin(self->moments, TR_TENSORS_SORTED, err);
    return status;
}

static tr_status check_lead(const tr_checkpoint_files *self, tr_error *err)
{
    if (!self->options.lead || tr_head_lease_is_held(self->options.lead)) return TR_OK;
    return tr_fail(err, TR_ECLOSED,
                   "the checkpoint after step %u is not written: this head does not lead any more",
                   self->updates);
}

/* Two heads never write in one directory, even if one of them was stopped and does not know yet that it leads no more. */
static char *temporary_name(const tr_checkpoint_files *self)
{
    const tr_head_lease *lead = self->options.lead;
    return lead ? tr_format("%s/checkpoints/.step-%u-%" PRId64 ".tmp", self->options.run, self->updates,
                            tr_head_lease_revision(lead))
                : tr_format("%s/checkpoints/.step-%u.tmp", self->options.run, self->updates);
}

static tr_status begin(void *context, uint32_t updates, tr_error *err)
{
    tr_checkpoint_files *self = context;
    self->updates = updates;
    if (updates == self->options.last_updates) (void)tr_file_fault_set(TR_FILE_SOUND, NULL, NULL);
    tr_status led = check_lead(self, err);
    if (led) return led;
    self->temporary = temporary_name(self);
    char *trainer = self->temporary ? tr_format("%s/trainer", self->temporary) : NULL;
    tr_status status = trainer ? tr_directory_remove_tree(self->temporary, err) : no_memory(err);
    if (!status) status = tr_directory_make(trainer, err);
    tr_free(trainer);
    if (!status) status = open_writer(&self->model, self->temporary, "model.safetensors", err);
    if (!status) status = open_writer(&self->moments, self->temporary, "trainer/optimizer.safetensors", err);
    if (!status) status = declare_all(self, err);
    return status;
}

static tr_status write_part(void *context, uint32_t parameter, uint32_t part, uint64_t offset_bytes,
                            const void *bytes, size_t size_bytes, tr_error *err)
{
    tr_checkpoint_files *self = context;
    if (parameter >= self->options.parameters->count || part > 2)
        return tr_fail(err, TR_ECORRUPT, "a chunk of state names parameter %u, part %u", parameter, part);
    if (part == 0)
        return tr_safetensors_writer_put(self->model, parameter, offset_bytes, bytes, size_bytes, err);
    return tr_safetensors_writer_put(self->moments, 2 * (size_t)parameter + part - 1, offset_bytes, bytes,
                                     size_bytes, err);
}

/* What belongs to a Hugging Face model beside weights and config.json is copied as it is. */
static bool is_companion(const char *name)
{
    static const char *const names[] = {"generation_config.json",  "vocab.json",        "merges.txt",
                                        "special_tokens_map.json", "added_tokens.json", "vocab.txt",
                                        "chat_template.jinja"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(names[i], name) == 0) return true;
    return strncmp(name, "tokenizer", 9) == 0;
}

static tr_status read_companion(tr_checkpoint_files *self, const char *name, tr_error *err)
{
    char *path = tr_format("%s/%s", self->options.source_directory, name);
    if (!path) return no_memory(err);
    tr_status status = TR_OK;
    if (!tr_path_is_directory(path)) {
        companion read = {.name = tr_strdup(name)};
        companion *grown = tr_realloc(self->companions, (self->n_companions + 1) * sizeof *grown);
        if (grown) self->companions = grown;
        status = read.name && grown ? tr_file_read(path, &read.bytes, &read.size_bytes, err) : no_memory(err);
        if (status)
            tr_free(read.name);
        else
            self->companions[self->n_companions++] = read;
    }
    tr_free(path);
    return status;
}

static tr_status read_companions(tr_checkpoint_files *self, tr_error *err)
{
    if (!self->options.source_directory) return TR_OK;
    DIR *entries = opendir(self->options.source_directory);
    if (!entries) return tr_fail(err, TR_EIO, "could not list '%s'", self->options.source_directory);
    tr_status status = TR_OK;
    for (struct dirent *entry; !status && (entry = readdir(entries));)
        if (is_companion(entry->d_name)) status = read_companion(self, entry->d_name, err);
    closedir(entries);
    return status;
}

static tr_status write_companions(const tr_checkpoint_files *self, tr_error *err)
{
    tr_status status = TR_OK;
    for (size_t i = 0; !status && i < self->n_companions; i++) {
        const companion *file = &self->companions[i];
        char *path = tr_format("%s/%s", self->temporary, file->name);
        status = path ? tr_file_write(path, file->bytes, file->size_bytes, err) : no_memory(err);
        tr_free(path);
    }
    return status;
}

static tr_status write_state(const tr_checkpoint_files *self, tr_error *err)
{
    const tr_checkpoint_files_options *known = &self->options;
    uint64_t tokens = known->tokens_before + (self->updates - known->updates_before) * known->tokens_per_step;
    char *path = tr_format("%s/trainer/state.json", self->temporary);
    char *text = tr_format("{\n \"version\": 1,\n \"updates\": %u,\n \"tokens\": %" PRIu64 "\n}\n",
                           self->updates, tokens);
    tr_status status = path && text ? tr_file_write(path, text, strlen(text), err) : no_memory(err);
    tr_free(path);
    tr_free(text);
    return status;
}

static int compare_updates(const void *a, const void *b)
{
    uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;
    return left < right ? 1 : left > right ? -1 : 0; /* newest first */
}

/* Removes all but the newest `keep`; later steps than the one just written are damaged, or it would not be written, and
 * do not count. What cannot be removed stays: that is worth a warning, not a failure. */
static void prune(const tr_checkpoint_files *self)
{
    enum { MOST = 4096 };
    if (self->options.keep <= 0 || check_lead(self, NULL)) return;
    char *path = tr_format("%s/checkpoints", self->options.run);
    uint32_t *found = tr_alloc(MOST * sizeof *found);
    DIR *entries = path && found ? opendir(path) : NULL;
    size_t n = 0;
    char rest; /* "step-5-mine" is none of ours, and no second step-5 */
    for (struct dirent *entry; entries && n < MOST && (entry = readdir(entries));)
        if (sscanf(entry->d_name, "step-%u%c", &found[n], &rest) == 1 && found[n] <= self->updates) n++;
    if (entries) closedir(entries);
    if (n) qsort(found, n, sizeof *found, compare_updates);
    for (size_t i = (size_t)self->options.keep; i < n; i++) {
        char *old = tr_format("%s/step-%u", path, found[i]);
        tr_error error;
        if (old && tr_directory_remove_tree(old, &error)) tr_log(TR_LOG_WARNING, "%s", error.message);
        tr_free(old);
    }
    tr_free(found);
    tr_free(path);
}

/* The directory gets its name only when everything in it is on the disk. */
/* Gives the whole checkpoint its name. One that has it already (damaged, or made again after a death) stays until then:
 * whoever looks finds one or the other. */
static tr_status take_name(tr_checkpoint_files *self, const char *final, const char *parent, tr_error *err)
{
    bool swapped = renameat2(AT_FDCWD, self->temporary, AT_FDCWD, final, RENAME_EXCHANGE) == 0;
    tr_status status = TR_OK;
    if (!swapped && errno != ENOENT)
        status = tr_directory_remove_tree(final, err); /* no file system for it */
    if (!status && !swapped && rename(self->temporary, final) != 0)
        status = tr_fail(err, TR_EIO, "could not rename '%s' to '%s': %s", self->temporary, final,
                         strerror(errno));
    if (!status) status = tr_directory_sync(parent, err);
    tr_error error = {0};
    if (!status && swapped && tr_directory_remove_tree(self->temporary, &error))
        tr_log(TR_LOG_WARNING, "%s", error.message);
    return status;
}

static tr_status publish(tr_checkpoint_files *self, const char *final, tr_error *err)
{
    char *trainer = tr_format("%s/trainer", self->temporary),
         *parent = tr_format("%s/checkpoints", self->options.run);
    tr_status status = trainer && parent ? tr_directory_sync(trainer, err) : no_memory(err);
    if (!status) status = tr_directory_sync(self->temporary, err);
    if (!status) status = take_name(self, final, parent, err);
    tr_free(trainer);
    tr_free(parent);
    return status;
}

static tr_status commit(void *context, char *path, size_t path_capacity, tr_error *err)
{
    tr_checkpoint_files *self = context;
    snprintf(path, path_capacity, "%s/checkpoints/step-%u", self->options.run, self->updates);
    tr_status status = tr_safetensors_writer_commit(&self->model, err);
    if (!status) status = tr_safetensors_writer_commit(&self->moments, err);
    if (!status) status = tr_model_config_write(self->options.config, self->temporary, err);
    if (!status) status = write_companions(self, err);
    if (!status) status = write_state(self, err);
    if (!status) status = tr_manifest_write(self->temporary, err);
    if (!status) status = check_lead(self, err);
    if (!status) status = publish(self, path, err);
    if (status) {
        abandon(self);
        return status;
    }
    tr_free(self->temporary);
    self->temporary = NULL;
    prune(self);
    return TR_OK;
}

tr_status tr_checkpoint_files_new(tr_checkpoint_files **out, const tr_checkpoint_files_options *options,
                                  tr_error *err)
{
    tr_checkpoint_files *self = tr_alloc_zero(1, sizeof *self);
    if (!self) return no_memory(err);
    self->options = *options;
    uint64_t total = 0;
    for (size_t i = 0; i < options->parameters->count; i++)
        total += 3 * (uint64_t)tr_shape_elements(&options->parameters->items[i].shape) * sizeof(float);
    self->writer = (tr_checkpoint_writer){.context = self,
                                          .total_bytes = total,
                                          .begin = begin,
                                          .write = write_part,
                                          .commit = commit,
                                          .abandon = abandon};
    tr_status status = read_companions(self, err);
    if (status)
        tr_checkpoint_files_destroy(&self);
    else
        *out = self;
    return status;
}

void tr_checkpoint_files_break(const tr_checkpoint_files *self, tr_file_fault fault)
{
    bool is_last = self->temporary && self->updates == self->options.last_updates;
    char *path = is_last ? NULL : tr_format("%s/checkpoints", self->options.run);
    if (path) (void)tr_file_fault_set(fault, path, NULL); /* one that is too long is spared */
    tr_free(path);
}

const tr_checkpoint_writer *tr_checkpoint_files_writer(const tr_checkpoint_files *self)
{
    return &self->writer;
}

void tr_checkpoint_files_destroy(tr_checkpoint_files **self)
{
    if (!*self) return;
    abandon(*self);
    for (size_t i = 0; i < (*self)->n_companions; i++) {
        tr_free((*self)->companions[i].name);
        tr_free((*self)->companions[i].bytes);
    }
    tr_free((*self)->companions);
    tr_free(*self);
    *self = NULL;
}
