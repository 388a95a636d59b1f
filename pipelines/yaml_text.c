/* pipelines/yaml_text.c - see yaml_text.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/yaml_text.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static int line_of_byte(const char *text, size_t size_bytes, size_t offset)
{
    int line = 1;
    for (size_t i = 0; i < offset && i < size_bytes; i++) line += text[i] == '\n';
    return line;
}

static void keep_problem(tr__yaml_text *self, const yaml_parser_t *parser, const char *text,
                         size_t size_bytes)
{
    const char *words = parser->problem ? parser->problem : "an unknown problem";
    self->line = (int)parser->problem_mark.line + 1;
    if (parser->error == YAML_MEMORY_ERROR) words = "no memory";
    if (parser->error == YAML_READER_ERROR)
        self->line = line_of_byte(text, size_bytes, parser->problem_offset);
    bool inside = parser->context && parser->error != YAML_READER_ERROR;
    snprintf(self->problem, sizeof self->problem, "%s%s%s", words, inside ? " " : "",
             inside ? parser->context : "");
}

static void begin(yaml_parser_t *parser, const char *text, size_t size_bytes)
{
    yaml_parser_set_encoding(parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(parser, (const unsigned char *)text, size_bytes);
}

enum { DEEPEST = 32 };

/* What has been seen of a text. */
typedef struct scanning {
    int documents, depth;
} scanning;

/* What a recipe does not have, before any of it is put together: an alias may stand for itself, and libyaml takes
 * time by the square of the depth. */
static const char *refusal_of(scanning *seen, yaml_event_type_t type)
{
    seen->documents += type == YAML_DOCUMENT_START_EVENT;
    seen->depth += type == YAML_SEQUENCE_START_EVENT || type == YAML_MAPPING_START_EVENT;
    seen->depth -= type == YAML_SEQUENCE_END_EVENT || type == YAML_MAPPING_END_EVENT;
    if (type == YAML_ALIAS_EVENT) return "an alias (*), which a recipe does not have";
    if (seen->documents > 1) return "more than one document (---)";
    return seen->depth > DEEPEST ? "deeper than any recipe" : NULL;
}

static bool scan(tr__yaml_text *self, const char *text, size_t size_bytes)
{
    yaml_parser_t parser;
    if (!yaml_parser_initialize(&parser)) return false;
    begin(&parser, text, size_bytes);
    bool ends = false, good = true;
    scanning seen = {0};
    while (good && !ends) {
        yaml_event_t event;
        if (!yaml_parser_parse(&parser, &event)) {
            keep_problem(self, &parser, text, size_bytes);
            good = false;
            break;
        }
        const char *refusal = refusal_of(&seen, event.type);
        if (refusal) {
            snprintf(self->problem, sizeof self->problem, "%s", refusal);
            self->line = (int)event.start_mark.line + 1;
        }
        ends = event.type == YAML_STREAM_END_EVENT;
        good = !refusal;
        yaml_event_delete(&event);
    }
    yaml_parser_delete(&parser);
    return good;
}

bool tr__yaml_text_open(tr__yaml_text *self, const char *text, size_t size_bytes)
{
    *self = (tr__yaml_text){.line = 1, .problem = "no memory"};
    if (!scan(self, text, size_bytes)) return false;
    yaml_parser_t parser;
    if (!yaml_parser_initialize(&parser)) return false;
    begin(&parser, text, size_bytes);
    self->is_open = yaml_parser_load(&parser, &self->document);
    if (!self->is_open) keep_problem(self, &parser, text, size_bytes);
    yaml_parser_delete(&parser);
    return self->is_open;
}

void tr__yaml_text_close(tr__yaml_text *self)
{
    if (self->is_open) yaml_document_delete(&self->document);
    self->is_open = false;
}

tr__yaml tr__yaml_root(tr__yaml_text *self)
{
    return (tr__yaml){&self->document, yaml_document_get_root_node(&self->document)};
}

const char *tr__yaml_scalar(tr__yaml yaml)
{
    if (!yaml.node || yaml.node->type != YAML_SCALAR_NODE) return NULL;
    const char *text = (const char *)yaml.node->data.scalar.value;
    return strlen(text) == yaml.node->data.scalar.length ? text : NULL;
}

bool tr__yaml_is_plain(tr__yaml yaml)
{
    return yaml.node && yaml.node->type == YAML_SCALAR_NODE &&
           yaml.node->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
}

bool tr__yaml_is_null(tr__yaml yaml)
{
    if (!yaml.node) return true;
    if (!tr__yaml_is_plain(yaml)) return false;
    const char *text = tr__yaml_scalar(yaml);
    return text && (!*text || !strcmp(text, "~") || !strcmp(text, "null") || !strcmp(text, "Null") ||
                    !strcmp(text, "NULL"));
}

bool tr__yaml_is_mapping(tr__yaml yaml)
{
    return yaml.node && yaml.node->type == YAML_MAPPING_NODE;
}

bool tr__yaml_is_sequence(tr__yaml yaml)
{
    return yaml.node && yaml.node->type == YAML_SEQUENCE_NODE;
}

size_t tr__yaml_count(tr__yaml yaml)
{
    if (tr__yaml_is_sequence(yaml))
        return (size_t)(yaml.node->data.sequence.items.top - yaml.node->data.sequence.items.start);
    if (tr__yaml_is_mapping(yaml))
        return (size_t)(yaml.node->data.mapping.pairs.top - yaml.node->data.mapping.pairs.start);
    return 0;
}

static tr__yaml node_by_index(tr__yaml of, int index)
{
    return (tr__yaml){of.document, yaml_document_get_node(of.document, index)};
}

tr__yaml tr__yaml_item(tr__yaml sequence, size_t i)
{
    return node_by_index(sequence, sequence.node->data.sequence.items.start[i]);
}

tr__yaml tr__yaml_key(tr__yaml mapping, size_t i)
{
    return node_by_index(mapping, mapping.node->data.mapping.pairs.start[i].key);
}

tr__yaml tr__yaml_value(tr__yaml mapping, size_t i)
{
    return node_by_index(mapping, mapping.node->data.mapping.pairs.start[i].value);
}

bool tr__yaml_repeats(tr__yaml mapping, size_t i)
{
    const char *key = tr__yaml_scalar(tr__yaml_key(mapping, i));
    for (size_t j = 0; key && j < i; j++) {
        const char *earlier = tr__yaml_scalar(tr__yaml_key(mapping, j));
        if (earlier && strcmp(earlier, key) == 0) return true;
    }
    return false;
}

int tr__yaml_line(tr__yaml yaml)
{
    return yaml.node ? (int)yaml.node->start_mark.line + 1 : 1;
}

/* A line that is written up to where the buffer ends. */
typedef struct flow {
    char *buffer;
    size_t used;
} flow;

TR_PRINTF(2, 3) static void put(flow *to, const char *format, ...)
{
    size_t left = TR__QUOTED_SIZE - to->used;
    va_list arguments;
    va_start(arguments, format);
    int wanted = vsnprintf(to->buffer + to->used, left, format, arguments);
    va_end(arguments);
    if (wanted > 0) to->used += (size_t)wanted < left ? (size_t)wanted : left - 1;
}

/* No deeper than there is room for brackets. */
static void put_flow(flow *to, tr__yaml yaml, int depth)
{
    const char *text = tr__yaml_scalar(yaml);
    if (text) {
        const char *quote = tr__yaml_is_plain(yaml) ? "" : "\"";
        put(to, "%s%s%s", quote, text, quote);
        return;
    }
    bool is_mapping = tr__yaml_is_mapping(yaml), is_sequence = tr__yaml_is_sequence(yaml);
    if ((!is_mapping && !is_sequence) || depth == 4) {
        put(to, "...");
        return;
    }
    put(to, is_mapping ? "{" : "[");
    for (size_t i = 0; i < tr__yaml_count(yaml) && to->used + 1 < TR__QUOTED_SIZE; i++) {
        if (i > 0) put(to, ", ");
        if (is_mapping) {
            put_flow(to, tr__yaml_key(yaml, i), depth + 1);
            put(to, ": ");
        }
        put_flow(to, is_mapping ? tr__yaml_value(yaml, i) : tr__yaml_item(yaml, i), depth + 1);
    }
    put(to, is_mapping ? "}" : "]");
}

const char *tr__yaml_flow(tr__yaml yaml, char buffer[TR__QUOTED_SIZE])
{
    flow to = {.buffer = buffer};
    buffer[0] = 0;
    put_flow(&to, yaml, 0);
    return buffer;
}
