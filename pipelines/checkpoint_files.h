/* pipelines/checkpoint_files.h - checkpoints on disk: RUN/checkpoints/step-N, N updates done, no padding.
 * Each is a Hugging Face directory (config.json, model.safetensors with the source's own tensor names, the
 * source's tokenizer files) and in its `trainer/` what only training needs: optimizer.safetensors (exp_avg
 * and exp_avg_sq of every tensor), state.json, and manifest.json with size and hash of every file. A
 * directory is written under another name, synced, and renamed last; one without a manifest, or with a file
 * that does not match it, is not a checkpoint.
 * Threads: each object belongs to one.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_PIPELINES_CHECKPOINT_FILES_H
#define TROUPE_PIPELINES_CHECKPOINT_FILES_H

#include "actors/checkpoint.h"
#include "base/file_fault.h"
#include "pipelines/model.h"
#include "pipelines/weights.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Moments of the optimizer in a checkpoint. */
typedef struct tr_moments tr_moments;
tr_status tr_moments_open(tr_moments **out, const char *checkpoint, tr_error *err);
tr_status tr_moments_read(const tr_moments *self, const char *name, int64_t n_elements, float *m, float *v,
                          tr_error *err);
void tr_moments_close(tr_moments **self);

/* What state.json says. */
typedef struct tr_trainer_state {
    uint32_t updates;
    uint64_t tokens;
} tr_trainer_state;

/* Is this directory a whole checkpoint? Every file is read and hashed. Errors: TR_ECORRUPT says which file. */
tr_status tr_checkpoint_verify(const char *directory, tr_trainer_state *state, tr_error *err);

/* Removes what was half written when its head died: only for who has the lock on the run's directory. */
void tr_checkpoint_sweep(const char *run);

/* The newest valid checkpoint of a run; those that are damaged are told as warnings and passed over. path is
 * empty and state zero when there is none. */
tr_status tr_checkpoint_find(const char *run, char *path, size_t capacity, tr_trainer_state *state,
                             tr_error *err);

/* Makes a tr_checkpoint_writer for the checkpoint actor. source_directory (may be NULL) is where a Hugging
 * Face model came from: its tokenizer files are read at once and go into every checkpoint. weights (may be
 * NULL) gives the source's own names. All must outlive it. keep: how many of the newest stay; 0: all. */
typedef struct tr_checkpoint_files tr_checkpoint_files;
typedef struct tr_checkpoint_files_options {
    const char *run;
    const tr_model_config *config;
    const tr_model_parameters *parameters;
    const tr_weights *weights;
    const char *source_directory;
    const struct tr_head_lease
        *lead; /* nothing gets its name without it, nor is removed; NULL: the lock is all */
    int32_t keep;
    uint32_t last_updates; /* of the run's last: see tr_checkpoint_files_break */
    uint64_t tokens_before, tokens_per_step;
    uint32_t updates_before;
} tr_checkpoint_files_options;
tr_status tr_checkpoint_files_new(tr_checkpoint_files **out, const tr_checkpoint_files_options *options,
                                  tr_error *err);
const tr_checkpoint_writer *tr_checkpoint_files_writer(const tr_checkpoint_files *self);
/* Faults on purpose: until somebody sets another one nothing of checkpoints can be written or synced. But the last one begins with
 * a sound disk and keeps it, or the run would fail. */
void tr_checkpoint_files_break(const tr_checkpoint_files *self, tr_file_fault fault);
void tr_checkpoint_files_destroy(tr_checkpoint_files **self);

#ifdef __cplusplus
}
#endif
#endif
