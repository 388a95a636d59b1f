/* pipelines/text.h - private helpers for messages about foreign text.
 * Why: names in files may hold anything, and a message is one line.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_PIPELINES_TEXT_H
#define TROUPE_PIPELINES_TEXT_H

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { TR__QUOTED_SIZE = 128 };

/* 'text' in single quotes, control characters, quotes and backslashes escaped, cut with "..." where it is
 * long. Returns buffer. */
const char *tr__quoted(const char *text, char buffer[TR__QUOTED_SIZE]);

/* Of `names` (n of them, NULL entries skipped) the one that `word` is most likely a misspelling of; NULL when
 * none is near: at most a third of its letters, and at least one, may differ, a swap of neighbours counting
 * once. */
const char *tr__nearest(const char *word, const char *const *names, size_t n);

/* The shortest decimal text that reads back as the same finite number: 10000, 0.001, 1.0e-08 (with a point,
 * without which YAML 1.1 would take it for a word). */
void tr__double_text(double value, char buffer[32]);

#ifdef __cplusplus
}
#endif
#endif
