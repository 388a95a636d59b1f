/* ops/product_choices.c - see product_choices.h. A list: a model has a dozen products.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/product_choices.h"

#include "base/memory.h"

#include <stdio.h>
#include <string.h>

typedef struct choice {
    char product[TR_PRODUCT_NAME_BYTES];
    unsigned char algorithm[TR_ALGORITHM_BYTES];
} choice;

struct tr_product_choices {
    char bound[TR_PRODUCT_NAME_BYTES];
    choice *items;
    size_t count, capacity;
};

static const char heading[] = "products";

tr_status tr_product_choices_new(tr_product_choices **out, tr_error *err)
{
    tr_product_choices *self = tr_alloc_zero(1, sizeof *self);
    if (!self) return tr_fail(err, TR_ENOMEM, "no memory for choices of algorithms");
    *out = self;
    return TR_OK;
}

void tr_product_choices_destroy(tr_product_choices **self)
{
    if (!*self) return;
    tr_free((*self)->items);
    tr_free(*self);
    *self = NULL;
}

size_t tr_product_choices_count(const tr_product_choices *self)
{
    return self->count;
}

const unsigned char *tr_product_choices_find(const tr_product_choices *self, const char *product)
{
    for (size_t i = 0; i < self->count; i++)
        if (strcmp(self->items[i].product, product) == 0) return self->items[i].algorithm;
    return NULL;
}

tr_status tr_product_choices_add(tr_product_choices *self, const char *product,
                                 const unsigned char algorithm[TR_ALGORITHM_BYTES], tr_error *err)
{
    TR_ASSERT(strlen(product) < TR_PRODUCT_NAME_BYTES && !tr_product_choices_find(self, product));
    tr_status status =
        tr_array_reserve((void **)&self->items, &self->capacity, self->count + 1, sizeof *self->items, err);
    if (status != TR_OK) return status;
    choice *item = &self->items[self->count++];
    snprintf(item->product, sizeof item->product, "%s", product);
    memcpy(item->algorithm, algorithm, TR_ALGORITHM_BYTES);
    return TR_OK;
}

tr_status tr_product_choices_bind(tr_product_choices *self, const char *library_and_gpu, tr_error *err)
{
    TR_ASSERT(strlen(library_and_gpu) < sizeof self->bound);
    if (self->bound[0] && strcmp(self->bound, library_and_gpu) != 0)
        return tr_fail(err, TR_EINVAL,
                       "the choices of matrix products are for '%s' and this is '%s'; measure them again",
                       self->bound, library_and_gpu);
    snprintf(self->bound, sizeof self->bound, "%s", library_and_gpu);
    return TR_OK;
}

static int digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool read_algorithm(const char *from, size_t length, unsigned char algorithm[TR_ALGORITHM_BYTES])
{
    if (length != 2 * TR_ALGORITHM_BYTES) return false;
    for (size_t i = 0; i < TR_ALGORITHM_BYTES; i++) {
        int high = digit(from[2 * i]), low = digit(from[2 * i + 1]);
        if (high < 0 || low < 0) return false;
        algorithm[i] = (unsigned char)(high * 16 + low);
    }
    return true;
}

static tr_status read_line(tr_product_choices *self, const char *line, size_t length, int number,
                           tr_error *err)
{
    char name[TR_PRODUCT_NAME_BYTES];
    unsigned char algorithm[TR_ALGORITHM_BYTES];
    const char *blank = memchr(line, ' ', length);
    size_t head = blank ? (size_t)(blank - line) : 0, rest = blank ? length - head - 1 : 0;
    bool is_heading = head == sizeof heading - 1 && memcmp(line, heading, head) == 0;
    if (is_heading && rest > 0 && rest < sizeof name) {
        memcpy(name, blank + 1, rest);
        name[rest] = 0;
        return tr_product_choices_bind(self, name, err);
    }
    if (head > 0 && head < sizeof name && read_algorithm(blank + 1, rest, algorithm)) {
        memcpy(name, line, head);
        name[head] = 0;
        if (!tr_product_choices_find(self, name)) return tr_product_choices_add(self, name, algorithm, err);
    }
    return tr_fail(
        err, TR_EINVAL,
        "choices of matrix products, line %d: '%.*s' is not a new product and %d bytes in hexadecimal",
        number, (int)(length < 60 ? length : 60), line, (int)TR_ALGORITHM_BYTES);
}

tr_status tr_product_choices_read(tr_product_choices *self, const char *text, tr_error *err)
{
    int number = 1;
    for (const char *line = text; *line; number++) {
        const char *end = strchr(line, '\n');
        size_t length = end ? (size_t)(end - line) : strlen(line);
        tr_status status = length > 0 ? read_line(self, line, length, number, err) : TR_OK;
        if (status != TR_OK) return status;
        line += length + (end ? 1 : 0);
    }
    return TR_OK;
}

char *tr_product_choices_write(const tr_product_choices *self)
{
    size_t each = TR_PRODUCT_NAME_BYTES + 2 * TR_ALGORITHM_BYTES + 2,
           size = sizeof heading + TR_PRODUCT_NAME_BYTES + 2 + self->count * each, at = 0;
    char *text = tr_alloc(size);
    if (!text) return NULL;
    text[0] = 0;
    if (self->bound[0]) at += (size_t)snprintf(text, size, "%s %s\n", heading, self->bound);
    for (size_t i = 0; i < self->count; i++) {
        at += (size_t)snprintf(text + at, size - at, "%s ", self->items[i].product);
        for (size_t b = 0; b < TR_ALGORITHM_BYTES; b++)
            at += (size_t)snprintf(text + at, size - at, "%02x", self->items[i].algorithm[b]);
        at += (size_t)snprintf(text + at, size - at, "\n");
    }
    return text;
}
