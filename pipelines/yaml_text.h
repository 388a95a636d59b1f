/* pipelines/yaml_text.h - private: one YAML document in memory, read by libyaml.
 * Scalars are texts: what they mean, their reader says. A recipe needs no aliases (*name), no second document
 * and no key twice in a mapping; the first two are refused here, the third by who reads the mapping.
 * Source: YAML 1.1 as libyaml reads it; JSON is taken too.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_PIPELINES_YAML_TEXT_H
#define TROUPE_PIPELINES_YAML_TEXT_H

#include "pipelines/text.h"

#include <yaml.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tr__yaml_text {
    yaml_document_t document;
    bool is_open;      /* there is a document to be deleted */
    char problem[256]; /* what is wrong, without its place */
    int line;          /* of the problem, from 1 */
} tr__yaml_text;

/* A node of a text that is open. `node` is NULL where there is none: the root of an empty text. */
typedef struct tr__yaml {
    yaml_document_t *document;
    yaml_node_t *node;
} tr__yaml;

/* False when the text is no YAML: self->problem has the words. Close it in any case. */
bool tr__yaml_text_open(tr__yaml_text *self, const char *text, size_t size_bytes);
void tr__yaml_text_close(tr__yaml_text *self);
tr__yaml tr__yaml_root(tr__yaml_text *self);

/* The text of a scalar; NULL for anything else, and for one with a NUL in it. Valid as long as the text is open. */
const char *tr__yaml_scalar(tr__yaml yaml);
bool tr__yaml_is_plain(tr__yaml yaml); /* a scalar without quotes */
bool tr__yaml_is_null(tr__yaml yaml);  /* nothing, or one of YAML's words for it, without quotes */
bool tr__yaml_is_mapping(tr__yaml yaml);
bool tr__yaml_is_sequence(tr__yaml yaml);

/* Of a sequence its items, of a mapping its pairs; 0 for scalars. */
size_t tr__yaml_count(tr__yaml yaml);
tr__yaml tr__yaml_item(tr__yaml sequence, size_t i);
tr__yaml tr__yaml_key(tr__yaml mapping, size_t i);
tr__yaml tr__yaml_value(tr__yaml mapping, size_t i);
bool tr__yaml_repeats(tr__yaml mapping, size_t i); /* a pair before the i-th has the same scalar as its key */
int tr__yaml_line(tr__yaml yaml);                  /* where it begins, from 1 */

/* In one line, for messages: [1, {layers: 3}], "5"; cut where it is long. Returns buffer. */
const char *tr__yaml_flow(tr__yaml yaml, char buffer[TR__QUOTED_SIZE]);

#ifdef __cplusplus
}
#endif
#endif
