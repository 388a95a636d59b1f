/* pipelines/config_reader.c - see config_reader.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/config_reader.h"

#include "pipelines/text.h"

#include <float.h>
#include <stdlib.h>
#include <string.h>

void tr__config_refuse(tr_config_reader *self, tr_status status, const char *key, const char *words)
{
    if (self->status) return;
    json_t *value = json_object_get(self->object, key);
    char *text = value ? json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(15)) : NULL;
    char quoted[TR__QUOTED_SIZE], name[TR__QUOTED_SIZE];
    tr__quoted(key, name);
    name[strlen(name) - 1] = 0; /* escaped, without the quotes */
    self->status = tr_fail(self->err, status, "%s: %s%s%s%s %s", self->path, self->prefix, name + 1,
                           text ? " " : "", text ? tr__quoted(text, quoted) : "", words);
    free(text); /* jansson's */
}

json_t *tr__config_look(tr_config_reader *self, const char *key)
{
    json_object_set_new(self->seen, key, json_true());
    json_t *value = json_object_get(self->object, key);
    return json_is_null(value) ? NULL : value;
}

json_t *tr__config_look_either(tr_config_reader *self, const char **key, const char *other)
{
    json_t *value = tr__config_look(self, *key), *second = tr__config_look(self, other);
    if (value && second && !json_equal(value, second)) {
        char words[80];
        snprintf(words, sizeof words, "and %s are two names of one option and differ; remove one", other);
        tr__config_refuse(self, TR_EINVAL, *key, words);
    }
    if (!value && second) *key = other;
    return value ? value : second;
}

static int32_t size_of(tr_config_reader *self, const char *key, json_t *value, int32_t fallback)
{
    if (!value && fallback != TR_CONFIG_REQUIRED) return fallback;
    if (!value)
        tr__config_refuse(self, TR_EINVAL, key, "is missing; the model's sizes must be in its config.json");
    else if (!json_is_integer(value) || json_integer_value(value) < 1 ||
             json_integer_value(value) > TR_CONFIG_LARGEST_SIZE)
        tr__config_refuse(self, TR_EINVAL, key, "is not a whole number from 1 to 268435456");
    else
        return (int32_t)json_integer_value(value);
    return 1;
}

int32_t tr__config_size(tr_config_reader *self, const char *key, int32_t fallback)
{
    return size_of(self, key, tr__config_look(self, key), fallback);
}

int32_t tr__config_size_either(tr_config_reader *self, const char *key, const char *other, int32_t fallback)
{
    json_t *value = tr__config_look_either(self, &key, other);
    return size_of(self, key, value, fallback);
}

double tr__config_number(tr_config_reader *self, const char *key, double fallback, double low)
{
    json_t *value = tr__config_look(self, key);
    if (!value) return fallback;
    /* Numbers are computed with as float32 somewhere: what that cannot hold would become infinity. */
    if (json_is_number(value) && json_number_value(value) >= low &&
        json_number_value(value) <= (double)FLT_MAX)
        return json_number_value(value);
    tr__config_refuse(self, TR_EINVAL, key, "is not a number this option can have");
    return fallback;
}

bool tr__config_flag(tr_config_reader *self, const char *key, bool fallback)
{
    json_t *value = tr__config_look(self, key);
    if (value && !json_is_boolean(value))
        tr__config_refuse(self, TR_EINVAL, key, "is neither true nor false");
    return value ? json_is_true(value) : fallback;
}

void tr__config_must_be_off(tr_config_reader *self, const char *key)
{
    if (tr__config_flag(self, key, false)) tr__config_refuse(self, TR_EUNSUPPORTED, key, "is not supported");
}

void tr__config_refuse_rest(tr_config_reader *self, const char *const *harmless, size_t n_harmless,
                            const char *words)
{
    const char *key;
    json_t *value;
    json_object_foreach(self->object, key, value)
    {
        if (json_is_null(value) || json_object_get(self->seen, key)) continue;
        size_t i = 0;
        while (i < n_harmless && strcmp(harmless[i], key) != 0) i++;
        if (i == n_harmless) tr__config_refuse(self, TR_EUNSUPPORTED, key, words);
    }
}
