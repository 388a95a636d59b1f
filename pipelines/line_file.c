/* pipelines/line_file.c - see line_file.h. It writes without stdio, whose buffer after a failure holds nobody knows what.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/line_file.h"

#include "base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

struct tr_line_file {
    int file;
    char *path;
    char *waiting; /* whole lines, save that the first may be written in part */
    size_t n_waiting, capacity;
};

tr_status tr_line_file_open(tr_line_file **out, const char *path, tr_error *err)
{
    tr_line_file *self = tr_alloc_zero(1, sizeof *self);
    if (!self) return tr_fail(err, TR_ENOMEM, "no memory to write '%s'", path);
    self->file = -1;
    self->path = tr_strdup(path);
    tr_status status = TR_OK;
    if (!self->path) {
        status = tr_fail(err, TR_ENOMEM, "no memory to write '%s'", path);
    } else {
        self->file = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
        if (self->file < 0) status = tr_fail(err, TR_EIO, "could not write '%s': %s", path, strerror(errno));
    }
    if (status)
        tr_line_file_close(&self);
    else
        *out = self;
    return status;
}

tr_status tr_line_file_flush(tr_line_file *self, tr_error *err)
{
    size_t done = 0;
    int failed = 0;
    while (done < self->n_waiting && !failed) {
        ssize_t n = write(self->file, self->waiting + done, self->n_waiting - done);
        if (n > 0)
            done += (size_t)n;
        else if (n == 0 || errno != EINTR)
            failed = n == 0 ? ENOSPC : errno;
    }
    self->n_waiting -= done;
    if (done) memmove(self->waiting, self->waiting + done, self->n_waiting);
    return failed ? tr_fail(err, TR_EIO, "could not write '%s': %s", self->path, strerror(failed)) : TR_OK;
}

tr_status tr_line_file_add(tr_line_file *self, const char *line, tr_error *err)
{
    size_t length = strlen(line);
    if (self->n_waiting + length + 1 > TR_LINES_MOST_WAITING) {
        tr_status status = tr_line_file_flush(self, err);
        if (status) return status;
    }
    tr_status status = tr_array_reserve((void **)&self->waiting, &self->capacity,
                                        self->n_waiting + length + 1, sizeof *self->waiting, err);
    if (status) return status;
    memcpy(self->waiting + self->n_waiting, line, length);
    self->n_waiting += length;
    self->waiting[self->n_waiting++] = '\n';
    (void)tr_line_file_flush(self, NULL); /* what is not taken waits */
    return TR_OK;
}

bool tr_line_file_waits(const tr_line_file *self)
{
    return self->n_waiting > 0;
}

tr_status tr_line_file_sync(tr_line_file *self, tr_error *err)
{
    tr_status status = tr_line_file_flush(self, err);
    if (fsync(self->file) == 0 || status) return status;
    return tr_fail(err, TR_EIO, "could not sync '%s': %s", self->path, strerror(errno));
}

void tr_line_file_close(tr_line_file **out)
{
    tr_line_file *self = *out;
    if (!self) return;
    if (self->n_waiting) (void)tr_line_file_flush(self, NULL);
    if (self->file >= 0) close(self->file);
    tr_free(self->path);
    tr_free(self->waiting);
    tr_free(self);
    *out = NULL;
}
