/* pipelines/product_file.c - see product_file.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/product_file.h"

#include "base/file.h"
#include "base/memory.h"
#include "ops/product_choices.h"

#include <stdio.h>
#include <string.h>

struct tr_product_file {
    char *path;
    char **blocks; /* each as tr_product_choices_write gave it: its first line names what it is for */
    size_t n_blocks, capacity;
};

static const char heading[] = "products ";

static bool begins_block(const char *line)
{
    return strncmp(line, heading, sizeof heading - 1) == 0;
}

/* The name in its first line, which ends there. */
static bool is_for(const char *block, const char *name, size_t length)
{
    const char *at = block + sizeof heading - 1;
    return strncmp(at, name, length) == 0 && (at[length] == '\n' || at[length] == 0);
}

/* Does it read? */
static tr_status check_block(const char *block, tr_error *err)
{
    tr_product_choices *choices;
    tr_status status = tr_product_choices_new(&choices, err);
    if (status) return status;
    status = tr_product_choices_read(choices, block, err);
    if (!status && !begins_block(block))
        status = tr_fail(err, TR_EINVAL, "choices of matrix products do not begin with what they are for");
    tr_product_choices_destroy(&choices);
    return status;
}

static tr_status add_block(tr_product_file *self, const char *begin, size_t length, tr_error *err)
{
    char *block = tr_alloc_zero(length + 1, 1);
    if (!block) return tr_fail(err, TR_ENOMEM, "no memory for choices of matrix products");
    memcpy(block, begin, length);
    void *array = self->blocks;
    tr_status status = check_block(block, err);
    if (!status)
        status = tr_array_reserve(&array, &self->capacity, self->n_blocks + 1, sizeof *self->blocks, err);
    self->blocks = array;
    if (status)
        tr_free(block);
    else
        self->blocks[self->n_blocks++] = block;
    return status;
}

static const char *next_block(const char *text)
{
    for (const char *line = strchr(text, '\n'); line; line = strchr(line + 1, '\n'))
        if (begins_block(line + 1)) return line + 1;
    return text + strlen(text);
}

static tr_status read_blocks(tr_product_file *self, tr_error *err)
{
    char *text;
    size_t size;
    if (!tr_path_exists(self->path)) return TR_OK;
    tr_status status = tr_file_read(self->path, &text, &size, err);
    if (status) return status;
    tr_error why;
    for (const char *at = text; !status && *at;) {
        const char *end = next_block(at);
        status = add_block(self, at, (size_t)(end - at), &why);
        at = end;
    }
    tr_free(text);
    return status ? tr_fail(err, status, "%s: %s; remove it to have products measured again", self->path,
                            why.message)
                  : TR_OK;
}

tr_status tr_product_file_open(tr_product_file **out, const char *path, tr_error *err)
{
    tr_product_file *self = tr_alloc_zero(1, sizeof *self);
    if (self) self->path = tr_strdup(path);
    tr_status status = self && self->path
                           ? read_blocks(self, err)
                           : tr_fail(err, TR_ENOMEM, "no memory for choices of matrix products");
    if (status)
        tr_product_file_close(&self);
    else
        *out = self;
    return status;
}

void tr_product_file_close(tr_product_file **self)
{
    if (!*self) return;
    for (size_t i = 0; i < (*self)->n_blocks; i++) tr_free((*self)->blocks[i]);
    tr_free((*self)->blocks);
    tr_free((*self)->path);
    tr_free(*self);
    *self = NULL;
}

char *tr_product_file_find(const tr_product_file *self, const char *name, char *why, size_t capacity)
{
    why[0] = 0;
    for (size_t i = 0; i < self->n_blocks; i++)
        if (is_for(self->blocks[i], name, strlen(name))) return tr_strdup(self->blocks[i]);
    if (self->n_blocks > 0) {
        const char *other = self->blocks[0] + sizeof heading - 1;
        snprintf(why, capacity, "products.txt has algorithms for %.*s and none for %s: they are measured",
                 (int)strcspn(other, "\n"), other, name);
    }
    return NULL;
}

static tr_status write_blocks(const tr_product_file *self, tr_error *err)
{
    tr_file_writer writer;
    tr_status status = tr_file_writer_open(&writer, self->path, err);
    if (status) return status;
    for (size_t i = 0; i < self->n_blocks; i++) fputs(self->blocks[i], writer.stream);
    return tr_file_writer_commit(&writer, err);
}

tr_status tr_product_file_keep(tr_product_file *self, const char *text, tr_error *err)
{
    tr_status status = add_block(self, text, strlen(text), err);
    if (status) return status;
    const char *name = text + sizeof heading - 1;
    size_t last = self->n_blocks - 1;
    for (size_t i = 0; i < last; i++) {
        if (!is_for(self->blocks[i], name, strcspn(name, "\n"))) continue;
        tr_free(self->blocks[i]);
        self->blocks[i] = self->blocks[last];
        self->n_blocks--;
        break;
    }
    return write_blocks(self, err);
}
