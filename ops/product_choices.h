/* ops/product_choices.h - which algorithm of a library computes which matrix product, chosen by measurement once, kept as
 * text. Algorithms may differ in bits, and measurements from run to run: so a run that measures keeps the text, and whoever
 * is to have its bits (a replacement, a resumed run) reads it before it makes programs.
 * A line: the product (shape, dtypes, what is joined to it), then the algorithm as the library wrote it, in hexadecimal.
 * It holds for the same GPU and the same version of the library; the first line names both, and a text of others is refused.
 * Threads: programs that share choices are made by one thread at a time.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_PRODUCT_CHOICES_H
#define TROUPE_OPS_PRODUCT_CHOICES_H

#include "base/status.h"

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { TR_ALGORITHM_BYTES = 64, TR_PRODUCT_NAME_BYTES = 96 };

typedef struct tr_product_choices tr_product_choices;

/* Empty: every product that a program needs is measured when the program is made, and added. Errors: TR_ENOMEM. */
tr_status tr_product_choices_new(tr_product_choices **out, tr_error *err);
void tr_product_choices_destroy(tr_product_choices **self); /* NULL-safe */

/* Adds what a text has. Errors: TR_EINVAL (a line that is none, named), TR_ENOMEM. */
tr_status tr_product_choices_read(tr_product_choices *self, const char *text, tr_error *err);
/* Text of all, for the caller to free with tr_free; NULL: no memory. */
char *tr_product_choices_write(const tr_product_choices *self);

size_t tr_product_choices_count(const tr_product_choices *self);
/* What the text is for, "" as long as nobody has said. A name without blanks. Errors: TR_EINVAL where it is for another. */
tr_status tr_product_choices_bind(tr_product_choices *self, const char *library_and_gpu, tr_error *err);
/* NULL: not there. */
const unsigned char *tr_product_choices_find(const tr_product_choices *self, const char *product);
/* Errors: TR_ENOMEM. */
tr_status tr_product_choices_add(tr_product_choices *self, const char *product,
                                 const unsigned char algorithm[TR_ALGORITHM_BYTES], tr_error *err);

#ifdef __cplusplus
}
#endif
#endif
