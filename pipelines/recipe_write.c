/* pipelines/recipe_write.c - the resolved recipe as YAML for people and JSON for workers, and the table for
 * --help. Doubles are written with as few digits as give the same bits back.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/file.h"
#include "base/memory.h"
#include "pipelines/recipe_schema.h"
#include "pipelines/text.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* The character of two or three bytes that begins here, if YAML would not take it as it is: a control character of
 * Unicode, another line's end, or a byte order mark and its mirror. 0: it would. */
static unsigned not_for_yaml(const unsigned char *c)
{
    if (c[0] == 0xC2 && c[1] >= 0x80 && c[1] <= 0x9F) return c[1];
    unsigned character = (c[0] & 0xF0) == 0xE0 && c[1] && c[2]
                             ? (c[0] & 0xFu) << 12 | (c[1] & 0x3Fu) << 6 | (c[2] & 0x3Fu)
                             : 0;
    bool ends_line = character == 0x2028 || character == 0x2029;
    return ends_line || character == 0xFEFF || character >= 0xFFFE ? character : 0;
}

/* Double quotes with escapes that YAML and JSON share. Other bytes stay as they are. */
static void write_quoted(FILE *stream, const char *text)
{
    fputc('"', stream);
    for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
        unsigned character = *c < 0x20 || *c == 0x7F ? *c : not_for_yaml(c);
        if (character) {
            fprintf(stream, "\\u%04x", character);
            c += character < 0x80 ? 0 : character < 0x800 ? 1 : 2;
        } else if (*c == '"' || *c == '\\') {
            fprintf(stream, "\\%c", *c);
        } else {
            fputc(*c, stream);
        }
    }
    fputc('"', stream);
}

static void write_doubles(FILE *stream, const double *items, size_t count)
{
    char number[32];
    fputc('[', stream);
    for (size_t i = 0; i < count; i++) {
        tr__double_text(items[i], number);
        fprintf(stream, "%s%s", i ? ", " : "", number);
    }
    fputc(']', stream);
}

/* The keys are quoted, so that it is JSON too. */
static void write_stages(FILE *stream, const tr_recipe_stage_list *list)
{
    fputc('[', stream);
    for (size_t i = 0; i < list->count; i++) {
        if (i) fputs(", ", stream);
        if (list->devices && list->devices[i] >= 0)
            fprintf(stream, "{\"layers\": %" PRId32 ", \"device\": \"%s\"}", list->items[i],
                    tr__recipe_devices[list->devices[i]]);
        else
            fprintf(stream, "%" PRId32, list->items[i]);
    }
    fputc(']', stream);
}

static void write_value(FILE *stream, const tr_recipe *recipe, int field)
{
    const tr__recipe_field *about = &tr__recipe_fields[field];
    const void *at = (const char *)recipe + about->offset;
    char number[32];
    int choice;
    switch (about->type) {
    case TR__TEXT: write_quoted(stream, *(char *const *)at ? *(char *const *)at : ""); break;
    case TR__INTEGER: fprintf(stream, "%" PRId32, *(const int32_t *)at); break;
    case TR__SEED: fprintf(stream, "%" PRIu64, *(const uint64_t *)at); break;
    case TR__REAL:
        tr__double_text(*(const double *)at, number);
        fputs(number, stream);
        break;
    case TR__FLAG: fputs(*(const bool *)at ? "true" : "false", stream); break;
    case TR__CHOICE:
        memcpy(&choice, at, sizeof choice);
        write_quoted(stream, about->choices[choice]);
        break;
    case TR__PAIR: write_doubles(stream, at, 2); break;
    case TR__REALS:
        write_doubles(stream, ((const tr_recipe_numbers *)at)->items, ((const tr_recipe_numbers *)at)->count);
        break;
    case TR__STAGES: write_stages(stream, at); break;
    }
}

/* A text that is being written in memory; the bytes are libc's until they are copied. */
typedef struct memory_text {
    FILE *stream;
    char *bytes;
    size_t size_bytes;
} memory_text;

static bool memory_text_open(memory_text *self)
{
    *self = (memory_text){0};
    self->stream = open_memstream(&self->bytes, &self->size_bytes);
    return self->stream != NULL;
}

static char *memory_text_finish(memory_text *self)
{
    bool failed = ferror(self->stream) != 0;
    if (fclose(self->stream) != 0) failed = true;
    char *text = failed ? NULL : tr_strdup(self->bytes);
    free(self->bytes);
    return text;
}

char *tr__recipe_value_text(const tr_recipe *recipe, int field)
{
    const tr__recipe_field *about = &tr__recipe_fields[field];
    const char *at = (const char *)recipe + about->offset;
    if (about->type == TR__TEXT) return tr_strdup(*(char *const *)at ? *(char *const *)at : "");
    int choice;
    memcpy(&choice, at, sizeof choice);
    if (about->type == TR__CHOICE) return tr_strdup(about->choices[choice]);
    memory_text text;
    if (!memory_text_open(&text)) return NULL;
    write_value(text.stream, recipe, field);
    return memory_text_finish(&text);
}

typedef struct style {
    const char *begin, *end;
    const char *between_sections, *section_begin, *section_end;
    const char *between_keys;
    bool quote_keys;
} style;

static void write_key(FILE *stream, const char *key, int length, const style *how)
{
    fprintf(stream, how->quote_keys ? "\"%.*s\":" : "%.*s:", length, key);
}

/* Keys of one section stand together in the table, so one pass suffices. */
static void write_recipe(FILE *stream, const tr_recipe *recipe, const style *how)
{
    const char *section = NULL; /* the key whose prefix is the open section */
    size_t section_length = 0;
    bool first = true;
    fputs(how->begin, stream);
    for (int i = 0; i < TR__RECIPE_FIELDS; i++) {
        if (!tr__recipe_field_applies(recipe, i) || tr__recipe_field_is_empty(recipe, i)) continue;
        const char *key = tr__recipe_fields[i].key, *dot = strchr(key, '.');
        bool same = section && dot && strncmp(key, section, section_length + 1) == 0;
        if (section && !same) fputs(how->section_end, stream);
        if (!first) fputs(same ? how->between_keys : how->between_sections, stream);
        if (dot && !same) {
            write_key(stream, key, (int)(dot - key), how);
            fputs(how->section_begin, stream);
        }
        section = dot ? key : NULL;
        section_length = dot ? (size_t)(dot - key) : 0;
        const char *name = dot ? dot + 1 : key;
        write_key(stream, name, (int)strlen(name), how);
        fputc(' ', stream);
        write_value(stream, recipe, i);
        first = false;
    }
    if (section) fputs(how->section_end, stream);
    fputs(how->end, stream);
}

static tr_status to_text(const tr_recipe *self, const style *how, char **out, tr_error *err)
{
    memory_text text;
    char *copy = NULL;
    if (memory_text_open(&text)) {
        write_recipe(text.stream, self, how);
        copy = memory_text_finish(&text);
    }
    if (!copy) return tr_fail(err, TR_ENOMEM, "no memory to write the recipe");
    *out = copy;
    return TR_OK;
}

tr_status tr_recipe_to_yaml(const tr_recipe *self, char **text, tr_error *err)
{
    static const style yaml = {.begin = "# the recipe as resolved: every value explicit\n",
                               .end = "\n",
                               .between_sections = "\n",
                               .section_begin = "\n  ",
                               .section_end = "",
                               .between_keys = "\n  ",
                               .quote_keys = false};
    return to_text(self, &yaml, text, err);
}

tr_status tr_recipe_to_json(const tr_recipe *self, char **text, tr_error *err)
{
    static const style json = {.begin = "{",
                               .end = "}",
                               .between_sections = ", ",
                               .section_begin = " {",
                               .section_end = "}",
                               .between_keys = ", ",
                               .quote_keys = true};
    return to_text(self, &json, text, err);
}

tr_status tr_recipe_write_yaml(const tr_recipe *self, const char *path, tr_error *err)
{
    char *text = NULL;
    tr_status status = tr_recipe_to_yaml(self, &text, err);
    if (!status) status = tr_file_write(path, text, strlen(text), err);
    tr_free(text);
    return status;
}

static const char *type_words(const tr__recipe_field *about)
{
    switch (about->type) {
    case TR__TEXT: return "text";
    case TR__INTEGER:
    case TR__SEED: return "integer";
    case TR__REAL: return "number";
    case TR__FLAG: return "flag";
    case TR__CHOICE: return "choice";
    case TR__PAIR: return "2 numbers";
    case TR__REALS: return "numbers";
    case TR__STAGES: return "stages";
    }
    return "";
}

void tr_recipe_describe(FILE *stream)
{
    fprintf(stream, "%-24s %-10s %-42s %s\n", "key", "type", "default", "meaning");
    for (int i = 0; i < TR__RECIPE_FIELDS; i++) {
        const tr__recipe_field *about = &tr__recipe_fields[i];
        const char *fallback = about->fallback         ? about->fallback
                               : about->fallback_words ? about->fallback_words
                                                       : "-";
        fprintf(stream, "%-24s %-10s %-42s %s", about->key, type_words(about), fallback, about->help);
        char choices[160];
        tr__recipe_expectation(i, choices);
        if (about->type == TR__CHOICE && about->choices[1]) fprintf(stream, ": %s", choices);
        fputc('\n', stream);
    }
}

const char *tr_recipe_numerics_differ(const tr_recipe *a, const tr_recipe *b)
{
    static const char *const parts[] = {"dtype", "model.", "data.", "train."};
    static const char *const free_keys[] = {"model.hf", "data.text", "data.tokens",
                                            "train.steps"}; /* files may move */
    for (int field = 0; field < TR__RECIPE_FIELDS; field++) {
        const char *key = tr__recipe_fields[field].key;
        bool counts = false;
        for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
            counts |= strncmp(key, parts[i], strlen(parts[i])) == 0;
        for (size_t i = 0; i < sizeof free_keys / sizeof *free_keys; i++)
            counts &= strcmp(key, free_keys[i]) != 0;
        if (!counts) continue;
        char *left = tr__recipe_value_text(a, field), *right = tr__recipe_value_text(b, field);
        bool same = left && right && strcmp(left, right) == 0;
        tr_free(left);
        tr_free(right);
        if (!same) return key;
    }
    return NULL;
}
