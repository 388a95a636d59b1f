/* pipelines/yaml_text.c - see yaml_text.h.
 * Source: YAML 1.2.2, chapters 5.1 (characters) and 6.8 (directives); Unicode 15, table 3-7 (well-formed UTF-8).
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/yaml_text.h"

#include <stdio.h>
#include <string.h>

/* Bytes of the well-formed character that begins here; 0 where none does. */
static size_t character_bytes(const unsigned char *at, size_t left)
{
    if (at[0] < 0x80) return at[0] == '\t' || at[0] == '\n' || at[0] == '\r' || at[0] >= 0x20;
    size_t n = at[0] >= 0xF0 ? 4 : at[0] >= 0xE0 ? 3 : 2;
    if (at[0] < 0xC2 || at[0] > 0xF4 || n > left) return 0;
    unsigned char low = at[0] == 0xE0   ? 0xA0
                        : at[0] == 0xF0 ? 0x90
                                        : 0x80; /* shorter ones are written shorter */
    unsigned char high = at[0] == 0xED ? 0x9F : at[0] == 0xF4 ? 0x8F : 0xBF;
    if (at[1] < low || at[1] > high) return 0;
    for (size_t i = 2; i < n; i++)
        if ((at[i] & 0xC0) != 0x80) return 0;
    return n;
}

static bool guard(tr__yaml_text *self, const char *text, size_t size_bytes)
{
    const unsigned char *bytes = (const unsigned char *)text;
    const char *words = NULL;
    int line = 1;
    bool begins_line = true;
    for (size_t i = 0, n; i < size_bytes && !words; i += n) {
        n = character_bytes(bytes + i, size_bytes - i);
        if (n == 0)
            words = "a byte that is no text in UTF-8";
        else if (begins_line && bytes[i] == '%')
            words = "a directive (%), which a recipe does not have";
        else if (bytes[i] == '\n')
            line++;
        begins_line =
            bytes[i] == '\n' || bytes[i] == '\r' || (i == 0 && bytes[i] == 0xEF); /* a byte order mark */
    }
    if (words) snprintf(self->problem, sizeof self->problem, "<>:%d:1: error: %s", line, words);
    return !words;
}

/* All else that libfyaml says follows from the first. */
static void keep_first_problem(struct fy_diag *diag, void *user, const char *text, size_t size_bytes)
{
    (void)diag;
    tr__yaml_text *self = user;
    if (self->problem[0]) return;
    snprintf(self->problem, sizeof self->problem, "%.*s", (int)size_bytes, text);
    self->problem[strcspn(self->problem, "\n")] = 0;
}

void tr__yaml_text_close(tr__yaml_text *self)
{
    if (self->document) fy_document_destroy(self->document);
    if (self->parser) fy_parser_destroy(self->parser);
    if (self->diag) fy_diag_destroy(self->diag);
}

bool tr__yaml_text_open(tr__yaml_text *self, const char *text, size_t size_bytes)
{
    *self = (tr__yaml_text){0};
    if (!guard(self, text, size_bytes)) return false;
    struct fy_diag_cfg diag;
    fy_diag_cfg_default(&diag);
    diag.fp = NULL;
    diag.output_fn = keep_first_problem;
    diag.user = self;
    diag.level = FYET_ERROR;
    diag.colorize = false;
    self->diag = fy_diag_create(&diag);
    struct fy_parse_cfg config = {.flags = FYPCF_DEFAULT_PARSE, .diag = self->diag};
    self->parser = self->diag ? fy_parser_create(&config) : NULL;
    if (!self->parser || fy_parser_set_string(self->parser, text, size_bytes) != 0) return false;
    self->document = fy_parse_load_document(self->parser);
    if (self->problem[0]) return false;
    struct fy_document *second = self->document ? fy_parse_load_document(self->parser) : NULL;
    if (!second) return !self->problem[0];
    fy_document_destroy(second);
    snprintf(self->problem, sizeof self->problem, "<>:1:1: error: more than one document (---)");
    return false;
}
