/* pipelines/checkpoint_find.c - which checkpoint is whole, which is the newest, and the optimizer's moments
 * in it.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/checkpoint_files.h"

#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "pipelines/checkpoint_manifest.h"
#include "pipelines/safetensors.h"

#include <dirent.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

struct tr_moments {
    tr_safetensors *file;
};

tr_status tr_moments_open(tr_moments **out, const char *checkpoint, tr_error *err)
{
    tr_moments *self = tr_alloc_zero(1, sizeof *self);
    char *path = tr_format("%s/trainer/optimizer.safetensors", checkpoint);
    tr_status status = self && path ? tr_safetensors_open(&self->file, path, err)
                                    : tr_fail(err, TR_ENOMEM, "no memory to read a checkpoint");
    tr_free(path);
    if (status)
        tr_free(self);
    else
        *out = self;
    return status;
}

tr_status tr_moments_read(const tr_moments *self, const char *name, int64_t n_elements, float *m, float *v,
                          tr_error *err)
{
    static const char *const suffixes[] = {"exp_avg", "exp_avg_sq"};
    float *const into[] = {m, v};
    tr_status status = TR_OK;
    for (int k = 0; !status && k < 2; k++) {
        char *full = tr_format("%s.%s", name, suffixes[k]);
        const tr_tensor_info *tensor = full ? tr_safetensors_find(self->file, full) : NULL;
        if (!tensor || !tensor->readable || tr_shape_elements(&tensor->shape) != n_elements)
            status = tr_fail(err, TR_ECORRUPT, "the checkpoint has no '%s.%s' of %lld elements", name,
                             suffixes[k], (long long)n_elements);
        else
            status = tr_tensor_read_f32(tensor, 0, n_elements, into[k], err);
        tr_free(full);
    }
    return status;
}

void tr_moments_close(tr_moments **self)
{
    if (!*self) return;
    tr_safetensors_close(&(*self)->file);
    tr_free(*self);
    *self = NULL;
}

static tr_status read_state(const char *directory, tr_trainer_state *state, tr_error *err)
{
    char *path = tr_format("%s/trainer/state.json", directory);
    if (!path) return tr_fail(err, TR_ENOMEM, "no memory for a path");
    json_error_t at;
    json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &at);
    json_t *updates = json_object_get(root, "updates"), *tokens = json_object_get(root, "tokens");
    tr_status status = TR_OK;
    if (!json_is_integer(updates) || !json_is_integer(tokens) || json_integer_value(updates) < 0 ||
        json_integer_value(updates) > UINT32_MAX || json_integer_value(tokens) < 0)
        status = tr_fail(err, TR_ECORRUPT, "'%s' does not tell updates and tokens", path);
    else
        *state = (tr_trainer_state){.updates = (uint32_t)json_integer_value(updates),
                                    .tokens = (uint64_t)json_integer_value(tokens)};
    json_decref(root);
    tr_free(path);
    return status;
}

tr_status tr_checkpoint_verify(const char *directory, tr_trainer_state *state, tr_error *err)
{
    tr_status status = tr_manifest_verify(directory, err);
    return status ? status : read_state(directory, state, err);
}

/* The greatest N below `below` for which DIRECTORY/step-N is there; 0 when there is none. */
static uint32_t newest_below(const char *directory, uint32_t below)
{
    uint32_t newest = 0;
    DIR *entries = opendir(directory);
    for (struct dirent *entry; entries && (entry = readdir(entries));) {
        uint32_t updates;
        char rest;
        if (sscanf(entry->d_name, "step-%u%c", &updates, &rest) == 1 && updates < below && updates > newest)
            newest = updates;
    }
    if (entries) closedir(entries);
    return newest;
}

void tr_checkpoint_sweep(const char *run)
{
    char *directory = tr_format("%s/checkpoints", run);
    DIR *entries = directory ? opendir(directory) : NULL;
    for (struct dirent *entry; entries && (entry = readdir(entries));) {
        uint32_t updates;
        uint64_t revision; /* of the lease that its head had in etcd, if it had one */
        int length = 0;
        tr_error error;
        bool has_begun = sscanf(entry->d_name, ".step-%u.tmp%n", &updates, &length) == 1 && length;
        if (!has_begun)
            has_begun =
                sscanf(entry->d_name, ".step-%u-%" SCNu64 ".tmp%n", &updates, &revision, &length) == 2 &&
                length;
        if (!has_begun || entry->d_name[length]) continue;
        char *path = tr_format("%s/%s", directory, entry->d_name);
        if (path && tr_directory_remove_tree(path, &error)) tr_log(TR_LOG_WARNING, "%s", error.message);
        tr_free(path);
    }
    if (entries) closedir(entries);
    tr_free(directory);
}

tr_status tr_checkpoint_find(const char *run, char *path, size_t capacity, tr_trainer_state *state,
                             tr_error *err)
{
    char *directory = tr_format("%s/checkpoints", run);
    if (!directory) return tr_fail(err, TR_ENOMEM, "no memory for a path");
    path[0] = 0;
    *state = (tr_trainer_state){0};
    uint32_t n_damaged = 0;
    for (uint32_t at = UINT32_MAX; (at = newest_below(directory, at)) != 0;) {
        tr_error error;
        if (snprintf(path, capacity, "%s/step-%u", directory, at) >= (int)capacity) {
            tr_free(directory);
            return tr_fail(err, TR_EINVAL, "the path of run directory '%s' is too long", run);
        }
        tr_status status = tr_checkpoint_verify(path, state, &error);
        if (!status && state->updates != at)
            status =
                tr_fail(&error, TR_ECORRUPT, "'%s' holds the state after %u updates", path, state->updates);
        if (!status) break;
        tr_log(TR_LOG_ERROR, "passing over a damaged checkpoint: %s", error.message);
        n_damaged++;
        path[0] = 0;
        *state = (tr_trainer_state){0};
    }
    tr_free(directory);
    if (n_damaged && !path[0])
        return tr_fail(
            err, TR_ECORRUPT,
            "every checkpoint in '%s/checkpoints' is damaged; to train from the start, name another run with "
            "run=DIR",
            run);
    return TR_OK;
}
