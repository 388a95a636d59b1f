/* examples/words.c - see words.h. Open addressing; grows when half full.
 * SPDX-License-Identifier: Apache-2.0 */
#include "words.h"

#include "base/hash.h"
#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

enum { FIRST_PLACES = 1024, LONGEST_WORD = 255 };

bool is_word_byte(unsigned char byte)
{
    return (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') || (byte >= '0' && byte <= '9') ||
           byte == '\'' || byte > 127;
}

static word_count *find(const word_table *self, const char *word, size_t length)
{
    size_t mask = self->n_places - 1;
    for (size_t i = tr_hash64(word, length) & mask;; i = (i + 1) & mask) {
        word_count *place = &self->places[i];
        if (!place->word || (strncmp(place->word, word, length) == 0 && place->word[length] == '\0'))
            return place;
    }
}

static tr_status grow(word_table *self, tr_error *err)
{
    word_table grown = {.n_places = self->n_places ? 2 * self->n_places : FIRST_PLACES,
                        .n_words = self->n_words};
    grown.places = tr_alloc_zero(grown.n_places, sizeof *grown.places);
    if (!grown.places) return tr_fail(err, TR_ENOMEM, "no memory for %zu words", self->n_words);
    for (size_t i = 0; i < self->n_places; i++) {
        const char *word = self->places[i].word;
        if (word) *find(&grown, word, strlen(word)) = self->places[i];
    }
    tr_free(self->places);
    *self = grown;
    return TR_OK;
}

tr_status word_table_add(word_table *self, const char *word, size_t length, uint64_t count, tr_error *err)
{
    if (2 * (self->n_words + 1) > self->n_places) {
        tr_status status = grow(self, err);
        if (status != TR_OK) return status;
    }
    word_count *place = find(self, word, length);
    if (!place->word) {
        place->word = tr_alloc(length + 1);
        if (!place->word) return tr_fail(err, TR_ENOMEM, "no memory for a word");
        memcpy(place->word, word, length);
        place->word[length] = '\0';
        self->n_words++;
    }
    place->count += count;
    return TR_OK;
}

tr_status word_table_add_text(word_table *self, const char *text, size_t length, tr_error *err)
{
    char word[LONGEST_WORD];
    size_t n = 0;
    tr_status status = TR_OK;
    for (size_t i = 0; i <= length && status == TR_OK; i++) {
        unsigned char byte = i < length ? (unsigned char)text[i] : ' ';
        if (is_word_byte(byte)) {
            if (n < sizeof word) word[n++] = (char)(byte >= 'A' && byte <= 'Z' ? byte - 'A' + 'a' : byte);
        } else if (n > 0) {
            status = word_table_add(self, word, n, 1, err);
            n = 0;
        }
    }
    return status;
}

static int by_count(const void *first, const void *second)
{
    const word_count *a = first, *b = second;
    if (a->count != b->count) return a->count < b->count ? 1 : -1;
    return strcmp(a->word, b->word);
}

word_count *word_table_sorted(const word_table *self)
{
    word_count *sorted = tr_alloc(self->n_words * sizeof *sorted);
    size_t n = 0;
    for (size_t i = 0; sorted && i < self->n_places; i++)
        if (self->places[i].word) sorted[n++] = self->places[i];
    if (sorted && n) qsort(sorted, n, sizeof *sorted, by_count);
    return sorted;
}

void word_table_release(word_table *self)
{
    for (size_t i = 0; i < self->n_places; i++) tr_free(self->places[i].word);
    tr_free(self->places);
    memset(self, 0, sizeof *self);
}
