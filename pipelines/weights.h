/* pipelines/weights.h - where the values of parameters come from: fresh random numbers, or a model directory.
 * Fresh weights depend on the seed, the tensor's name and the element's index alone, so any piece can make
 * its own. A directory is checked as a whole when it is opened: every parameter there with its shape, and
 * nothing else there, since a tensor that nobody reads means that the file is of another model than its
 * config.json says.
 * Threads: once open, all functions from any.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_PIPELINES_WEIGHTS_H
#define TROUPE_PIPELINES_WEIGHTS_H

#include "pipelines/model.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Fills all elements of a parameter. */
void tr_weights_initialize(const tr_model_parameter *parameter, uint64_t seed, float *out);
/* Elements first .. first+n-1 of it, so that several threads can fill one. */
void tr_weights_initialize_range(const tr_model_parameter *parameter, uint64_t seed, int64_t first, int64_t n,
                                 float *out);

typedef struct tr_weights tr_weights;

/* Opens DIRECTORY/model*.safetensors. Names may lack the family's prefix ("h.0.ln_1.weight"). A tied head
 * that is stored as well is ignored, and so are the masks and frequency tables that older files hold.
 * `parameters` is of config; neither is kept. Errors: TR_ENOTFOUND (the directory, or a tensor), TR_EINVAL (a
 * shape, an unknown tensor), TR_EUNSUPPORTED (a dtype), TR_ECORRUPT, TR_EIO, TR_ENOMEM. */
tr_status tr_weights_open(tr_weights **out, const char *directory, const tr_model_config *config,
                          const tr_model_parameters *parameters, tr_error *err);
void tr_weights_close(tr_weights **self); /* NULL-safe, nulls the pointer */

/* All elements of parameter `index` as float32. */
tr_status tr_weights_read(const tr_weights *self, size_t index, float *out, tr_error *err);

/* The name that the directory itself gives parameter `index`: checkpoints keep it. Lives as long as self. */
const char *tr_weights_source_name(const tr_weights *self, size_t index);

#ifdef __cplusplus
}
#endif
#endif
