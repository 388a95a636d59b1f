/* pipelines/epoch_log.c - see epoch_log.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/epoch_log.h"

#include "base/file.h"
#include "base/memory.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdio_ext.h>
#include <string.h>
#include <unistd.h>

enum { LINE_BYTES = 128 };

struct tr_epoch_log {
    FILE *stream;
    uint32_t first;
    int64_t revision; /* 0: none */
    bool cut_short;   /* the last line: when it was opened, or since one could not be written */
};

/* What is not taken now must not come later: by then it is not true. Behind a line that was cut short begins a new one: else
 * what is written next would be no line of its own, and its epoch would not be found again. */
static tr_status write_line(tr_epoch_log *self, const char *line, tr_error *err)
{
    int printed = fprintf(self->stream, "%s%s\n", self->cut_short ? "\n" : "", line);
    self->cut_short = !(printed > 0 && fflush(self->stream) == 0 && fsync(fileno(self->stream)) == 0);
    if (!self->cut_short) return TR_OK;
    tr_status status = tr_fail(err, TR_EIO, "could not write the log of epochs: %s", strerror(errno));
    __fpurge(self->stream);
    clearerr(self->stream);
    return status;
}

static tr_status find_first(tr_epoch_log *self, const char *path, tr_error *err)
{
    self->first = 1;
    if (!tr_path_exists(path)) return TR_OK;
    char *text;
    size_t size;
    tr_status status = tr_file_read(path, &text, &size, err);
    if (status) return status;
    uint32_t epoch;
    for (const char *line = text, *end; line < text + size; line = end + 1) {
        end = memchr(line, '\n', (size_t)(text + size - line));
        if (!end) end = text + size; /* where tr_file_read has put a NUL */
        if (sscanf(line, "{\"epoch\":%10u", &epoch) == 1 && epoch >= self->first && epoch < UINT32_MAX)
            self->first = epoch + 1;
    }
    self->cut_short = size > 0 && text[size - 1] != '\n';
    tr_free(text);
    return TR_OK;
}

tr_status tr_epoch_log_open(tr_epoch_log **out, const char *path, tr_error *err)
{
    tr_epoch_log *self = tr_alloc_zero(1, sizeof *self);
    if (!self) return tr_fail(err, TR_ENOMEM, "no memory for the log of epochs");
    tr_status status = find_first(self, path, err);
    if (!status && !(self->stream = fopen(path, "ae")))
        status = tr_fail(err, TR_EIO, "could not write '%s': %s", path, strerror(errno));
    if (status)
        tr_epoch_log_close(&self);
    else
        *out = self;
    return status;
}

uint32_t tr_epoch_log_first(const tr_epoch_log *self)
{
    return self->first;
}

void tr_epoch_log_under(tr_epoch_log *self, int64_t revision)
{
    self->revision = revision;
}

static tr_status begin_line(tr_epoch_log *self, uint32_t epoch, const char *in, tr_error *err)
{
    char line[LINE_BYTES], under[40] = "";
    if (self->revision) snprintf(under, sizeof under, ",\"lease\":%" PRId64, self->revision);
    snprintf(line, sizeof line, "{\"epoch\":%u%s%s}", epoch, in, under);
    return write_line(self, line, err);
}

tr_status tr_epoch_log_begin(tr_epoch_log *self, uint32_t epoch, tr_error *err)
{
    return begin_line(self, epoch, "", err);
}

tr_status tr_epoch_log_begin_in(tr_epoch_log *self, uint32_t epoch, const tr_layout *layout, tr_error *err)
{
    char in[80];
    snprintf(in, sizeof in, ",\"data\":%d,\"pipeline\":%d,\"pieces\":%d,\"hosts\":%d", layout->data,
             layout->pipeline, layout->pieces, layout->hosts);
    return begin_line(self, epoch, in, err);
}

size_t tr_epoch_log_layouts(const char *path, tr_layout *layouts, size_t most)
{
    char *text;
    size_t size, n = 0;
    if (!tr_path_exists(path) || tr_file_read(path, &text, &size, NULL)) return 0;
    for (char *line = text, *end; most && (end = memchr(line, '\n', (size_t)(text + size - line)));
         line = end + 1) {
        uint32_t epoch;
        tr_layout read;
        *end = 0;
        read.hosts = 0; /* older lines do not say */
        if (sscanf(line, "{\"epoch\":%10u,\"data\":%6d,\"pipeline\":%6d,\"pieces\":%6d,\"hosts\":%6d", &epoch,
                   &read.data, &read.pipeline, &read.pieces, &read.hosts) < 4 ||
            end[-1] != '}' || read.data < 1 || read.pipeline < 1 || read.pieces < 1 || read.hosts < 0)
            continue;
        if (n && tr_layout_is_same(&layouts[0], &read)) continue;
        n += n < most;
        memmove(layouts + 1, layouts, (n - 1) * sizeof *layouts);
        layouts[0] = read;
    }
    tr_free(text);
    return n;
}

bool tr_epoch_log_has(const char *path, uint32_t epoch, uint64_t revision)
{
    char *text, under[40];
    size_t size;
    bool found = false;
    if (!tr_path_exists(path) || tr_file_read(path, &text, &size, NULL)) return false;
    snprintf(under, sizeof under, ",\"lease\":%" PRIu64 "}", revision);
    for (char *line = text, *end; !found && (end = memchr(line, '\n', (size_t)(text + size - line)));
         line = end + 1) {
        uint32_t begun;
        *end = 0;
        const char *last = strrchr(line, ',');
        found = sscanf(line, "{\"epoch\":%10u", &begun) == 1 && begun == epoch && last &&
                strcmp(last, under) == 0;
    }
    tr_free(text);
    return found;
}

tr_status tr_epoch_log_from(tr_epoch_log *self, uint32_t epoch, uint64_t generation, tr_error *err)
{
    char line[LINE_BYTES];
    snprintf(line, sizeof line, "{\"epoch\":%u,\"generation\":%" PRIu64 "}", epoch, generation);
    return write_line(self, line, err);
}

void tr_epoch_log_close(tr_epoch_log **out)
{
    tr_epoch_log *self = *out;
    if (!self) return;
    if (self->stream) fclose(self->stream);
    tr_free(self);
    *out = NULL;
}
