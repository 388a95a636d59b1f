/* pipelines/recipe.c - reads a recipe: libyaml gives the tree, the schema says what each key may hold.
 * Scalars are typed here, not by YAML's guess: a key knows its type, so `run: 5` is a text and `steps: "5"`
 * is refused.
 * Source: YAML 1.2.2, chapter 10.3 (core schema), for null, true and false.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/recipe.h"

#include "base/file.h"
#include "base/memory.h"
#include "pipelines/recipe_schema.h"
#include "pipelines/text.h"
#include "pipelines/yaml_text.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LONGEST_KEY = 64 };

static tr_status refuse_yaml(const tr__yaml_text *text, const char *name, int line, tr_error *err)
{
    char assignment[TR__QUOTED_SIZE];
    if (line == TR__COMMAND_LINE)
        return tr_fail(err, TR_EINVAL, "command line: %s is not valid YAML: %s", tr__quoted(name, assignment),
                       text->problem);
    return tr_fail(err, TR_EINVAL, "%s:%d: not valid YAML: %s", name, text->line, text->problem);
}

tr_status tr__recipe_refuse(const tr__recipe_reading *self, int line, const char *key, const char *value,
                            tr_error *err, const char *format, ...)
{
    char words[640], quoted[TR__QUOTED_SIZE], where[TR__QUOTED_SIZE + 256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(words, sizeof words, format, arguments);
    va_end(arguments);
    if (line == TR__COMMAND_LINE)
        snprintf(where, sizeof where, "command line");
    else
        snprintf(where, sizeof where, "%s:%d", self->name, line > 0 ? line : 1);
    char *present = NULL;
    int field = tr__recipe_field_index(key);
    if (!value && field >= 0) value = present = tr__recipe_value_text(&self->recipe, field);
    bool shown = value && *value;
    tr_status status = tr_fail(err, TR_EINVAL, "%s: %s%s%s %s", where, key, shown ? " " : "",
                               shown ? tr__quoted(value, quoted) : "", words);
    tr_free(present);
    return status;
}

/* One value that is being set. */
typedef struct setting {
    tr__recipe_reading *reading;
    int field, line;
} setting;

static tr_status refuse_value(const setting *at, const char *value, tr_error *err, const char *what)
{
    char expected[160];
    tr__recipe_expectation(at->field, expected);
    return tr__recipe_refuse(at->reading, at->line, tr__recipe_fields[at->field].key, value, err,
                             "%s; give %s", what, expected);
}

static tr_status refuse_node(const setting *at, tr__yaml yaml, tr_error *err, const char *what)
{
    char text[TR__QUOTED_SIZE];
    return refuse_value(at, tr__yaml_flow(yaml, text), err, what);
}

static bool in_range(const tr__recipe_field *about, double value)
{
    bool above = about->low_open ? value > about->low : value >= about->low;
    bool below = about->high_open ? value < about->high : value <= about->high;
    return above && below && isfinite(value);
}

static tr_status read_integer(const setting *at, tr__yaml yaml, int64_t *out, tr_error *err)
{
    const char *text = tr__yaml_is_plain(yaml) ? tr__yaml_scalar(yaml) : NULL;
    size_t digits = text ? strspn(text + (*text == '-' || *text == '+'), "0123456789") : 0;
    if (!digits || text[digits + (*text == '-' || *text == '+')])
        return refuse_node(at, yaml, err, "is not a whole number");
    errno = 0;
    long long value = strtoll(text, NULL, 10);
    if (errno || !in_range(&tr__recipe_fields[at->field], (double)value))
        return refuse_node(at, yaml, err, "is out of range");
    *out = value;
    return TR_OK;
}

static tr_status read_real(const setting *at, tr__yaml yaml, double *out, tr_error *err)
{
    const char *text = tr__yaml_is_plain(yaml) ? tr__yaml_scalar(yaml) : NULL;
    char *end = NULL;
    /* strtod alone would also take "inf", "nan" and hexadecimal */
    bool decimal = text && *text && !text[strspn(text, "+-.0123456789eE")];
    double value = decimal ? strtod(text, &end) : 0;
    if (!decimal || end == text || *end) return refuse_node(at, yaml, err, "is not a number");
    if (!in_range(&tr__recipe_fields[at->field], value)) return refuse_node(at, yaml, err, "is out of range");
    *out = value;
    return TR_OK;
}

static tr_status read_flag(const setting *at, tr__yaml yaml, bool *out, tr_error *err)
{
    const char *text = tr__yaml_is_plain(yaml) ? tr__yaml_scalar(yaml) : NULL;
    bool yes = text && (!strcmp(text, "true") || !strcmp(text, "True") || !strcmp(text, "TRUE"));
    bool no = text && (!strcmp(text, "false") || !strcmp(text, "False") || !strcmp(text, "FALSE"));
    if (!yes && !no) return refuse_node(at, yaml, err, "is neither true nor false");
    *out = yes;
    return TR_OK;
}

static tr_status read_choice(const setting *at, tr__yaml yaml, int *out, tr_error *err)
{
    const char *text = tr__yaml_scalar(yaml);
    const char *const *choices = tr__recipe_fields[at->field].choices;
    for (int i = 0; text && choices[i]; i++) {
        if (strcmp(choices[i], text) != 0) continue;
        *out = i;
        return TR_OK;
    }
    return refuse_node(at, yaml, err, "is not known");
}

static tr_status read_text(const setting *at, tr__yaml yaml, char **out, tr_error *err)
{
    const char *text = tr__yaml_scalar(yaml);
    if (!text || !*text) return refuse_node(at, yaml, err, "is not a text");
    *out = tr_strdup(text);
    return *out ? TR_OK : tr_fail(err, TR_ENOMEM, "no memory for the recipe");
}

/* How many items; 0 and an error for what is no list, or an empty one. */
static size_t count_items(const setting *at, tr__yaml yaml, tr_error *err)
{
    if (tr__yaml_is_sequence(yaml) && tr__yaml_count(yaml) > 0) return tr__yaml_count(yaml);
    refuse_node(at, yaml, err, "is not a list with something in it");
    return 0;
}

/* Reads a list of numbers into fresh memory. */
static tr_status read_reals(const setting *at, tr__yaml yaml, double **items, size_t *count, tr_error *err)
{
    size_t n = count_items(at, yaml, err);
    if (n == 0) return TR_EINVAL;
    double *fresh = tr_alloc(n * sizeof *fresh);
    if (!fresh) return tr_fail(err, TR_ENOMEM, "no memory for the recipe");
    tr_status status = TR_OK;
    for (size_t i = 0; !status && i < n; i++) status = read_real(at, tr__yaml_item(yaml, i), fresh + i, err);
    if (status) {
        tr_free(fresh);
        return status;
    }
    *items = fresh;
    *count = n;
    return TR_OK;
}

static tr_status read_stage_device(const setting *at, tr__yaml yaml, int32_t *out, tr_error *err)
{
    const char *text = tr__yaml_scalar(yaml);
    for (int32_t i = 0; text && tr__recipe_devices[i]; i++) {
        if (strcmp(tr__recipe_devices[i], text) != 0) continue;
        *out = i;
        return TR_OK;
    }
    return tr__recipe_refuse(at->reading, at->line, tr__recipe_fields[at->field].key, text ? text : "", err,
                             "is no device; give cpu, cuda or auto");
}

/* A number of layers, or a mapping with that and a device. */
static tr_status read_stage(const setting *at, tr__yaml yaml, int32_t *layers, int32_t *device, tr_error *err)
{
    int64_t value = 0;
    tr_status status = TR_OK;
    *device = -1;
    if (!tr__yaml_is_mapping(yaml)) {
        if (!(status = read_integer(at, yaml, &value, err))) *layers = (int32_t)value;
        return status;
    }
    bool has_layers = false;
    for (size_t i = 0; !status && i < tr__yaml_count(yaml); i++) {
        tr__yaml content = tr__yaml_value(yaml, i);
        const char *name = tr__yaml_scalar(tr__yaml_key(yaml, i));
        if (!name || tr__yaml_repeats(yaml, i))
            status = refuse_node(at, yaml, err, "is no stage");
        else if (strcmp(name, "layers") == 0)
            has_layers = !(status = read_integer(at, content, &value, err));
        else if (strcmp(name, "device") == 0)
            status = read_stage_device(at, content, device, err);
        else
            status = refuse_node(at, yaml, err, "has a key that is neither layers nor device");
    }
    if (!status && !has_layers) status = refuse_node(at, yaml, err, "says no layers");
    if (!status) *layers = (int32_t)value;
    return status;
}

static tr_status read_stages(const setting *at, tr__yaml yaml, tr_recipe_stage_list *out, tr_error *err)
{
    size_t n = count_items(at, yaml, err), n_named = 0;
    if (n == 0) return TR_EINVAL;
    tr_recipe_stage_list list = {
        .items = tr_alloc(n * sizeof *list.items), .devices = tr_alloc(n * sizeof *list.devices), .count = n};
    tr_status status = TR_OK;
    if (!list.items || !list.devices) status = tr_fail(err, TR_ENOMEM, "no memory for the recipe");
    for (size_t i = 0; !status && i < n; i++) {
        status = read_stage(at, tr__yaml_item(yaml, i), &list.items[i], &list.devices[i], err);
        n_named += !status && list.devices[i] >= 0;
    }
    if (status || n_named == 0) {
        tr_free(list.devices);
        list.devices = NULL;
    }
    if (status)
        tr_free(list.items);
    else
        *out = list;
    return status;
}

static tr_status read_pair(const setting *at, tr__yaml yaml, double out[2], tr_error *err)
{
    double *items = NULL;
    size_t count = 0;
    tr_status status = read_reals(at, yaml, &items, &count, err);
    if (status) return status;
    if (count == 2)
        memcpy(out, items, 2 * sizeof(double));
    else
        status = refuse_node(at, yaml, err, "does not have two items");
    tr_free(items);
    return status;
}

static tr_status read_value(const setting *at, tr__yaml yaml, tr_error *err)
{
    void *to = (char *)&at->reading->recipe + tr__recipe_fields[at->field].offset;
    int64_t integer = 0;
    int choice = 0;
    double *items = NULL;
    size_t count = 0;
    tr_status status = TR_EINVAL;
    switch (tr__recipe_fields[at->field].type) {
    case TR__TEXT: return read_text(at, yaml, to, err);
    case TR__REAL: return read_real(at, yaml, to, err);
    case TR__FLAG: return read_flag(at, yaml, to, err);
    case TR__PAIR: return read_pair(at, yaml, to, err);
    case TR__INTEGER:
        if (!(status = read_integer(at, yaml, &integer, err))) *(int32_t *)to = (int32_t)integer;
        break;
    case TR__SEED:
        if (!(status = read_integer(at, yaml, &integer, err))) *(uint64_t *)to = (uint64_t)integer;
        break;
    case TR__CHOICE:
        if (!(status = read_choice(at, yaml, &choice, err))) memcpy(to, &choice, sizeof choice);
        break;
    case TR__REALS:
        if (!(status = read_reals(at, yaml, &items, &count, err)))
            *(tr_recipe_numbers *)to = (tr_recipe_numbers){items, count};
        break;
    case TR__STAGES: return read_stages(at, yaml, to, err);
    }
    return status;
}

/* Null takes a key back to its default. */
static tr_status read_field(tr__recipe_reading *self, int field, tr__yaml yaml, int line, tr_error *err)
{
    tr__recipe_clear_field(&self->recipe, field);
    self->lines[field] = 0;
    if (tr__yaml_is_null(yaml)) return TR_OK;
    setting at = {self, field, line};
    tr_status status = read_value(&at, yaml, err);
    if (!status) self->lines[field] = line;
    return status;
}

/* Suggests among the keys of the same section, else says what there is. */
static tr_status refuse_key(const tr__recipe_reading *self, const char *key, int line, tr_error *err)
{
    const char *names[TR__RECIPE_FIELDS];
    char sections[TR__RECIPE_FIELDS][LONGEST_KEY];
    const char *dot = strchr(key, '.');
    size_t prefix = dot ? (size_t)(dot - key) + 1 : 0;
    for (int i = 0; i < TR__RECIPE_FIELDS; i++) {
        const char *name = tr__recipe_fields[i].key;
        names[i] = strncmp(name, key, prefix) == 0 ? name + prefix : NULL;
        if (dot || !names[i]) continue;
        snprintf(sections[i], LONGEST_KEY, "%.*s", (int)strcspn(name, "."), name);
        names[i] = sections[i];
    }
    const char *near = tr__nearest(key + prefix, names, TR__RECIPE_FIELDS);
    const char *leaf = NULL; /* a key given without its section */
    for (int i = 0; !near && i < TR__RECIPE_FIELDS; i++) {
        const char *name = strchr(tr__recipe_fields[i].key, '.');
        if (name && strcmp(name + 1, key + prefix) == 0) leaf = tr__recipe_fields[i].key;
    }
    if (near)
        return tr__recipe_refuse(self, line, key, "", err, "is no key of a recipe; did you mean '%.*s%s'?",
                                 (int)prefix, key, near);
    if (leaf)
        return tr__recipe_refuse(self, line, key, "", err, "is no key of a recipe; did you mean '%s'?", leaf);
    return tr__recipe_refuse(self, line, key, "", err,
                             "is no key of a recipe; `troupe train --help` lists them all");
}

static tr_status read_section(tr__recipe_reading *self, const char *section, tr__yaml yaml, int line,
                              tr_error *err);

static tr_status read_key(tr__recipe_reading *self, const char *key, tr__yaml yaml, int line, tr_error *err)
{
    int field = tr__recipe_field_index(key);
    if (field >= 0) return read_field(self, field, yaml, line, err);
    if (!tr__recipe_is_section(key)) return refuse_key(self, key, line, err);
    return read_section(self, key, yaml, line, err);
}

/* "SECTION.NAME", or NAME where the section is "": escaped as in quotes, since it goes into messages. */
enum { KEY_SIZE = 2 * TR__QUOTED_SIZE };
static void escape_key(const char *section, const char *name, char key[KEY_SIZE])
{
    char safe[TR__QUOTED_SIZE];
    tr__quoted(name, safe);
    safe[strlen(safe) - 1] = 0; /* without the quotes */
    snprintf(key, KEY_SIZE, "%s%s%s", section, *section ? "." : "", safe + 1);
}

/* The i-th pair of a mapping. */
static tr_status read_entry(tr__recipe_reading *self, const char *section, tr__yaml mapping, size_t i,
                            int line, tr_error *err)
{
    const char *name = tr__yaml_scalar(tr__yaml_key(mapping, i));
    if (!name)
        return tr__recipe_refuse(self, line, *section ? section : "recipe", "", err,
                                 "has a key that is no text");
    if (line != TR__COMMAND_LINE) line = tr__yaml_line(tr__yaml_key(mapping, i));
    char key[KEY_SIZE];
    escape_key(section, name, key);
    if (tr__yaml_repeats(mapping, i))
        return tr__recipe_refuse(self, line, key, "", err, "is given twice; leave one of them");
    if (strchr(name, '.')) return refuse_key(self, key, line, err);
    return read_key(self, key, tr__yaml_value(mapping, i), line, err);
}

/* `section` is "" for the recipe itself. */
static tr_status read_section(tr__recipe_reading *self, const char *section, tr__yaml yaml, int line,
                              tr_error *err)
{
    size_t length = strlen(section);
    bool taken_back = tr__yaml_is_null(yaml) && line == TR__COMMAND_LINE;
    for (int i = 0; i < TR__RECIPE_FIELDS; i++) {
        if (strncmp(tr__recipe_fields[i].key, section, length) != 0 ||
            tr__recipe_fields[i].key[length] != '.')
            continue;
        if (line != TR__COMMAND_LINE) self->sections[i] = line;
        if (taken_back) self->sections[i] = 0;
        if (taken_back) read_field(self, i, yaml, line, NULL);
    }
    if (tr__yaml_is_null(yaml)) return TR_OK;
    if (!tr__yaml_is_mapping(yaml))
        return tr__recipe_refuse(self, line, *section ? section : "recipe", "", err,
                                 "is not a mapping; write it as 'key: value' lines or {key: value}");
    tr_status status = TR_OK;
    for (size_t i = 0; !status && i < tr__yaml_count(yaml); i++)
        status = read_entry(self, section, yaml, i, line, err);
    return status;
}

tr_status tr__recipe_set(tr__recipe_reading *self, int field, const char *yaml, int line, tr_error *err)
{
    tr__yaml_text text;
    tr_status status;
    if (tr__yaml_text_open(&text, yaml, strlen(yaml)))
        status = read_field(self, field, tr__yaml_root(&text), line, err);
    else
        status = refuse_yaml(&text, yaml, line, err);
    tr__yaml_text_close(&text);
    return status;
}

static tr_status apply_override(tr__recipe_reading *self, const char *assignment, tr_error *err)
{
    const char *equals = strchr(assignment, '=');
    char quoted[TR__QUOTED_SIZE];
    if (!equals || equals == assignment || equals - assignment >= LONGEST_KEY)
        return tr_fail(err, TR_EINVAL, "command line: %s is not of the form key=value, as in layout.data=4",
                       tr__quoted(assignment, quoted));
    char name[LONGEST_KEY], key[KEY_SIZE];
    snprintf(name, sizeof name, "%.*s", (int)(equals - assignment), assignment);
    escape_key("", name, key);
    tr__yaml_text text;
    tr_status status;
    if (tr__yaml_text_open(&text, equals + 1, strlen(equals + 1)))
        status = read_key(self, key, tr__yaml_root(&text), TR__COMMAND_LINE, err);
    else
        status = refuse_yaml(&text, assignment, TR__COMMAND_LINE, err);
    tr__yaml_text_close(&text);
    return status;
}

tr_status tr_recipe_parse(tr_recipe *out, const char *text, size_t size_bytes, const char *name,
                          const char *const *overrides, size_t n_overrides, tr_error *err)
{
    tr__recipe_reading reading = {.name = name};
    tr__yaml_text yaml;
    tr_status status = TR_OK;
    if (!tr__yaml_text_open(&yaml, text, size_bytes))
        status = refuse_yaml(&yaml, name, 1, err);
    else
        status = read_section(&reading, "", tr__yaml_root(&yaml), 1, err);
    tr__yaml_text_close(&yaml);
    for (size_t i = 0; !status && i < n_overrides; i++) status = apply_override(&reading, overrides[i], err);
    if (!status) status = tr__recipe_resolve(&reading, err);
    if (status)
        tr_recipe_release(&reading.recipe);
    else
        *out = reading.recipe;
    return status;
}

tr_status tr_recipe_read(tr_recipe *out, const char *path, const char *const *overrides, size_t n_overrides,
                         tr_error *err)
{
    char *text = NULL;
    size_t size_bytes = 0;
    tr_status status = tr_file_read(path, &text, &size_bytes, err);
    if (!status) status = tr_recipe_parse(out, text, size_bytes, path, overrides, n_overrides, err);
    tr_free(text);
    return status;
}

tr_status tr_recipe_from_json(tr_recipe *out, const char *text, size_t size_bytes, tr_error *err)
{
    return tr_recipe_parse(out, text, size_bytes, "recipe", NULL, 0, err);
}
