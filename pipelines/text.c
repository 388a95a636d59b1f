/* pipelines/text.c - see text.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *tr__quoted(const char *text, char buffer[TR__QUOTED_SIZE])
{
    size_t used = 0;
    buffer[used++] = '\'';
    for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
        bool starts_character = (*c & 0xC0) != 0x80; /* never cut inside a UTF-8 sequence, if it is one */
        size_t most = starts_character ? TR__QUOTED_SIZE - 16 : TR__QUOTED_SIZE - 8;
        if (used > most) {
            memcpy(buffer + used, "...", 3);
            used += 3;
            break;
        }
        if (*c < 0x20 || *c == 0x7F) {
            snprintf(buffer + used, 5, "\\x%02x", *c);
            used += 4;
        } else {
            if (*c == '\'' || *c == '\\') buffer[used++] = '\\';
            buffer[used++] = (char)*c;
        }
    }
    buffer[used++] = '\'';
    buffer[used] = 0;
    return buffer;
}

enum { LONGEST_WORD = 48 };

/* Edits between two words: insert, delete, replace, swap of neighbours.
 * Source: Damerau 1964, "optimal string alignment". */
static int edit_distance(const char *a, const char *b)
{
    size_t n = strlen(a), m = strlen(b);
    if (n > LONGEST_WORD || m > LONGEST_WORD) return LONGEST_WORD;
    int rows[LONGEST_WORD + 1][LONGEST_WORD + 1];
    for (size_t i = 0; i <= n; i++) rows[i][0] = (int)i;
    for (size_t j = 0; j <= m; j++) rows[0][j] = (int)j;
    for (size_t i = 1; i <= n; i++) {
        for (size_t j = 1; j <= m; j++) {
            int best = rows[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            if (rows[i - 1][j] + 1 < best) best = rows[i - 1][j] + 1;
            if (rows[i][j - 1] + 1 < best) best = rows[i][j - 1] + 1;
            bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            if (swapped && rows[i - 2][j - 2] + 1 < best) best = rows[i - 2][j - 2] + 1;
            rows[i][j] = best;
        }
    }
    return rows[n][m];
}

const char *tr__nearest(const char *word, const char *const *names, size_t n)
{
    int allowed = (int)strlen(word) / 3;
    if (allowed < 1) allowed = 1;
    const char *best = NULL;
    for (size_t i = 0; i < n; i++) {
        if (!names[i]) continue;
        int distance = edit_distance(word, names[i]);
        if (distance > allowed || (best && distance == allowed)) continue;
        best = names[i];
        allowed = distance;
    }
    return best;
}

void tr__double_text(double value, char buffer[32])
{
    bool fixed = value == 0 || (fabs(value) >= 1e-4 && fabs(value) < 1e15);
    for (int decimals = fixed ? 0 : 1; decimals <= 20; decimals++) {
        snprintf(buffer, 32, fixed ? "%.*f" : "%.*e", decimals, value);
        if (strtod(buffer, NULL) == value) return;
    }
}
