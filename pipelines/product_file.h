/* pipelines/product_file.h - RUN/products.txt: the algorithms of matrix products that stages on GPUs have measured, by GPU, driver
 * and library (ops/product_choices.h), one block of lines each. A run that finds one in its directory uses it: resumed runs do,
 * and so does a new one into whose directory the file of another run was put, which then has that one's bits.
 * Threads: one.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_PIPELINES_PRODUCT_FILE_H
#define TROUPE_PIPELINES_PRODUCT_FILE_H

#include "base/status.h"

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tr_product_file tr_product_file;

/* A file that is not there has nothing; it is made when something is kept. Errors: TR_EINVAL (a line that is none, with the
 * file's name), TR_EIO, TR_ENOMEM. */
tr_status tr_product_file_open(tr_product_file **out, const char *path, tr_error *err);
void tr_product_file_close(tr_product_file **self); /* NULL-safe */
/* What is kept for `name`, to be freed with tr_free; NULL: nothing, or no memory. If there is something for others alone, `why`
 * says that it is not used; else it is "". */
char *tr_product_file_find(const tr_product_file *self, const char *name, char *why, size_t capacity);
/* A text of tr_product_choices_write takes the place of what was kept for the same; on the disk on return. Errors: TR_EINVAL,
 * TR_EIO, TR_ENOMEM. */
tr_status tr_product_file_keep(tr_product_file *self, const char *text, tr_error *err);

#ifdef __cplusplus
}
#endif
#endif
