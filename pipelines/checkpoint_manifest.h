/* pipelines/checkpoint_manifest.h - trainer/manifest.json: size and hash of every file of a checkpoint.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_PIPELINES_CHECKPOINT_MANIFEST_H
#define TROUPE_PIPELINES_CHECKPOINT_MANIFEST_H

#include "base/status.h"

/* Hashes every file in `directory` and in its trainer/ and writes the manifest. */
tr_status tr_manifest_write(const char *directory, tr_error *err);
/* Checks every file against the manifest. Errors: TR_ENOTFOUND (no manifest), TR_ECORRUPT (which file). */
tr_status tr_manifest_verify(const char *directory, tr_error *err);

#endif
