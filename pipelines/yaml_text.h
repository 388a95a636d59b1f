/* pipelines/yaml_text.h - private: one YAML document in memory, by libfyaml behind a guard.
 * The guard is there because libfyaml 0.7 never returns from some texts: an unknown directive, or bytes that are no
 * UTF-8. A recipe needs neither.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_PIPELINES_YAML_TEXT_H
#define TROUPE_PIPELINES_YAML_TEXT_H

#include "base/status.h"

#include <libfyaml.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tr__yaml_text {
    struct fy_diag *diag;
    struct fy_parser *parser;
    struct fy_document *document; /* NULL for an empty text */
    char problem[256]; /* what came first, as libfyaml writes it: "<...>:LINE:COLUMN: error: words" */
} tr__yaml_text;

/* False when the text is no YAML: self->problem has the words. Close it in any case. */
bool tr__yaml_text_open(tr__yaml_text *self, const char *text, size_t size_bytes);
void tr__yaml_text_close(tr__yaml_text *self);

#ifdef __cplusplus
}
#endif
#endif
