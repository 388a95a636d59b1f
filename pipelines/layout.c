/* pipelines/layout.c - see layout.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/layout.h"

#include "base/memory.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_KEYS = 4, MOST = 65536 };

static const char *const keys[N_KEYS] = {"data", "pipeline", "pieces", "hosts"};

static int32_t *value_of(tr_layout *self, int key)
{
    int32_t *const values[N_KEYS] = {&self->data, &self->pipeline, &self->pieces, &self->hosts};
    return values[key];
}

tr_layout tr_layout_of(const tr_recipe *recipe)
{
    return (tr_layout){recipe->layout.data, recipe->layout.pipeline, recipe->layout.pieces,
                       recipe->layout.hosts};
}

bool tr_layout_is_same(const tr_layout *a, const tr_layout *b)
{
    return a->data == b->data && a->pipeline == b->pipeline && a->pieces == b->pieces &&
           (a->hosts == b->hosts || !a->hosts || !b->hosts);
}

static int find_key(const char *text, size_t length)
{
    for (int k = 0; k < N_KEYS; k++)
        if (strlen(keys[k]) == length && strncmp(keys[k], text, length) == 0) return k;
    return N_KEYS;
}

static tr_status set(tr_layout *self, const char *name, size_t length, long long value, tr_error *err)
{
    int key = find_key(name, length);
    if (key == N_KEYS)
        return tr_fail(err, TR_EINVAL, "'%.*s' cannot be scaled; data, pipeline, pieces and hosts can",
                       (int)length, name);
    if (*value_of(self, key)) return tr_fail(err, TR_EINVAL, "%s is given twice", keys[key]);
    if (value < 1 || value > MOST)
        return tr_fail(err, TR_EINVAL, "%s '%lld' is not a whole number from 1 to %d", keys[key], value,
                       MOST);
    *value_of(self, key) = (int32_t)value;
    return TR_OK;
}

static tr_status check_whole(const tr_layout *self, tr_error *err)
{
    if (self->data || self->pipeline || self->pieces || self->hosts) return TR_OK;
    return tr_fail(err, TR_EINVAL, "scale to what? give data=N, pipeline=N, pieces=N or hosts=N");
}

tr_status tr_layout_parse(tr_layout *out, const char *text, tr_error *err)
{
    tr_layout read = {0};
    tr_status status = TR_OK;
    const char *at = text + strspn(text, " ");
    while (*at && !status) {
        size_t length = strcspn(at, " "), name = strcspn(at, "= ");
        char *end = NULL;
        errno = 0;
        long long value = at[name] == '=' ? strtoll(at + name + 1, &end, 10) : 0;
        if (at[name] != '=' || end == at + name + 1 || end != at + length || errno)
            return tr_fail(err, TR_EINVAL, "'%.*s' is not data=N, pipeline=N, pieces=N or hosts=N",
                           (int)length, at);
        status = set(&read, at, name, value, err);
        at += length;
        at += strspn(at, " ");
    }
    if (!status) status = check_whole(&read, err);
    if (!status) *out = read;
    return status;
}

tr_status tr_layout_parse_json(tr_layout *out, const char *text, size_t size_bytes, tr_error *err)
{
    json_error_t why;
    tr_layout read = {0};
    json_t *object = json_loadb(text, size_bytes, JSON_REJECT_DUPLICATES, &why), *value;
    const char *key;
    tr_status status = TR_OK;
    if (!json_is_object(object))
        status = tr_fail(err, TR_EINVAL, "it is no JSON object such as {\"data\": 4}%s%s", object ? "" : ": ",
                         object ? "" : why.text);
    else
        json_object_foreach(object, key, value)
        {
            if (!status && !json_is_integer(value))
                status = tr_fail(err, TR_EINVAL, "'%s' is not a whole number", key);
            if (!status) status = set(&read, key, strlen(key), json_integer_value(value), err);
        }
    json_decref(object);
    if (!status) status = check_whole(&read, err);
    if (!status) *out = read;
    return status;
}

tr_status tr_layout_recipe(tr_recipe *out, const tr_recipe *recipe, const tr_layout *layout, tr_error *err)
{
    tr_layout before = tr_layout_of(recipe), after = *layout;
    char *yaml, overrides[N_KEYS][48];
    const char *given[N_KEYS + 1];
    size_t n = 0;
    for (int k = 0; k < N_KEYS; k++) {
        if (!*value_of(&after, k)) *value_of(&after, k) = *value_of(&before, k);
        snprintf(overrides[k], sizeof overrides[k], "layout.%s=%d", keys[k], *value_of(&after, k));
        given[n++] = overrides[k];
    }
    bool cut = after.pipeline != before.pipeline || after.pieces != before.pieces;
    if (cut) given[n++] = "layout.stages=null"; /* it names those of the old cut */
    tr_status status = tr_recipe_to_yaml(recipe, &yaml, err);
    if (status) return status;
    status = tr_recipe_parse(out, yaml, strlen(yaml), "scale", given, n, err);
    tr_free(yaml);
    static const char where[] = "command line: "; /* it does not come from there */
    if (status && err && strncmp(err->message, where, sizeof where - 1) == 0)
        memmove(err->message, err->message + sizeof where - 1, strlen(err->message) - sizeof where + 2);
    return status;
}
