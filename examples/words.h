/* examples/words.h - a table of words and how often they occurred, for wordcount.
 * A word is a run of letters, digits, apostrophes and bytes above 127; ASCII letters count as small ones.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_EXAMPLES_WORDS_H
#define TROUPE_EXAMPLES_WORDS_H

#include "base/status.h"

typedef struct word_count {
    char *word; /* NULL: a free place */
    uint64_t count;
} word_count;

typedef struct word_table {
    word_count *places;
    size_t n_places, n_words; /* n_places: a power of two, at least half of it free */
} word_table;

bool is_word_byte(unsigned char byte);
tr_status word_table_add(word_table *self, const char *word, size_t length, uint64_t count, tr_error *err);
tr_status word_table_add_text(word_table *self, const char *text, size_t length, tr_error *err);
/* The words, the most frequent first, ties in byte order: an array of n_words
 * for tr_free, the words still the table's. */
word_count *word_table_sorted(const word_table *self);
void word_table_release(word_table *self);

#endif
