/* pipelines/config_reader.h - reads the options of one JSON object and remembers which, so that what nobody
 * asked for can be refused by name at the end.
 * Internal to pipelines/. A reader keeps its first failure and goes on with fallbacks: a list of options reads
 * like a list.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_PIPELINES_CONFIG_READER_H
#define TROUPE_PIPELINES_CONFIG_READER_H

#include "base/status.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct tr_config_reader {
    json_t *object;     /* what is read; not owned */
    json_t *seen;       /* a set of the keys looked at; the caller's */
    const char *path;   /* of the file, for messages */
    const char *prefix; /* of keys in messages: "rope_scaling." for the object of that name, else "" */
    tr_status status;   /* of the first failure */
    tr_error *err;
} tr_config_reader;

enum { TR_CONFIG_REQUIRED = -1, TR_CONFIG_LARGEST_SIZE = 1 << 28 };

/* Fails, unless something failed before: "PATH: PREFIXkey 'value' WORDS". */
void tr__config_refuse(tr_config_reader *self, tr_status status, const char *key, const char *words);

/* NULL for a key that is not there or null. */
json_t *tr__config_look(tr_config_reader *self, const char *key);
/* The same for an option of two names. Refused where both are there and differ. *key is the one that is. */
json_t *tr__config_look_either(tr_config_reader *self, const char **key, const char *other);

/* From 1 on. A fallback of TR_CONFIG_REQUIRED: the key must be there. */
int32_t tr__config_size(tr_config_reader *self, const char *key, int32_t fallback);
int32_t tr__config_size_either(tr_config_reader *self, const char *key, const char *other, int32_t fallback);
double tr__config_number(tr_config_reader *self, const char *key, double fallback, double low);
bool tr__config_flag(tr_config_reader *self, const char *key, bool fallback);
/* An option that nothing here computes. */
void tr__config_must_be_off(tr_config_reader *self, const char *key);

/* Refuses the first key that was neither looked at, nor is null, nor stands in the list. */
void tr__config_refuse_rest(tr_config_reader *self, const char *const *harmless, size_t n_harmless,
                            const char *words);

#endif
