/* pipelines/run_log.c - see run_log.h, and tr_run_lock and tr_run_logged of run_directory.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/run_log.h"

#include "base/file.h"
#include "base/memory.h"
#include "pipelines/run_directory.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

/* One training in a directory at a time. */
tr_status tr_run_lock(const char *path, bool wait, int *lock, tr_error *err)
{
    int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), result;
    if (directory < 0) return tr_fail(err, TR_EIO, "could not open '%s': %s", path, strerror(errno));
    do result = flock(directory, wait ? LOCK_EX : LOCK_EX | LOCK_NB);
    while (result != 0 && errno == EINTR);
    if (result == 0) {
        *lock = directory;
        return TR_OK;
    }
    close(directory);
    return tr_fail(err, TR_EEXIST, "another troupe trains in '%s'; wait for it, or name another with run=DIR",
                   path);
}

static json_int_t step_of(const json_t *line)
{
    return json_integer_value(json_object_get(line, "step"));
}

/* What was no number is null. */
static double number_of(const json_t *line, const char *key)
{
    const json_t *value = json_object_get(line, key);
    return json_is_null(value) ? (double)NAN : json_number_value(value);
}

static tr_status remember(tr_run_log *self, const json_t *line, tr_error *err)
{
    const tr_told told = {.loss = number_of(line, "loss"),
                          .grad_norm = number_of(line, "grad_norm"),
                          .validation_loss = number_of(line, "validation_loss")};
    tr_status status = tr_array_reserve((void **)&self->told, &self->told_capacity, self->n_told + 1,
                                        sizeof *self->told, err);
    if (status) return status;
    self->told[self->n_told++] = told;
    self->last = (tr_step_record){.step = self->updates + self->n_told,
                                  .loss = told.loss,
                                  .grad_norm = told.grad_norm,
                                  .step_ms = json_number_value(json_object_get(line, "step_ms")),
                                  .tokens = (uint64_t)json_integer_value(json_object_get(line, "tokens"))};
    return TR_OK;
}

/* *stays: is this line one that is kept? */
static tr_status look_at(tr_run_log *self, const json_t *line, bool *stays, tr_error *err)
{
    json_int_t step = step_of(line);
    *stays = step >= 1 && step <= (json_int_t)self->updates;
    self->n_kept += *stays;
    if (*stays || !self->keep || step != (json_int_t)self->updates + self->n_told + 1) return TR_OK;
    *stays = true;
    return remember(self, line, err);
}

tr_status tr_run_log_cut(tr_run_log *self, const char *path, tr_error *err)
{
    if (!tr_path_exists(path)) return TR_OK;
    char *text;
    size_t size;
    tr_status status = tr_file_read(path, &text, &size, err);
    if (status) return status;
    tr_file_writer writer;
    status = tr_file_writer_open(&writer, path, err);
    bool opened = !status;
    for (char *line = text; !status && line < text + size;) {
        char *end = memchr(line, '\n', (size_t)(text + size - line));
        if (!end) break; /* a line that was cut short */
        json_t *object = json_loadb(line, (size_t)(end - line), 0, NULL);
        bool stays = false;
        status = look_at(self, object, &stays, err);
        if (!status && stays) fwrite(line, 1, (size_t)(end - line) + 1, writer.stream);
        json_decref(object);
        line = end + 1;
    }
    tr_free(text);
    if (!status) return tr_file_writer_commit(&writer, err);
    if (opened) tr_file_writer_abandon(&writer);
    return status;
}

static double real_of(const json_t *line, const char *key)
{
    return json_number_value(json_object_get(line, key));
}

static tr_step_record record_of(const json_t *line)
{
    return (tr_step_record){.step = (uint32_t)step_of(line),
                            .loss = number_of(line, "loss"),
                            .grad_norm = number_of(line, "grad_norm"),
                            .lr = real_of(line, "lr"),
                            .tokens = (uint64_t)json_integer_value(json_object_get(line, "tokens")),
                            .step_ms = real_of(line, "step_ms"),
                            .tokens_per_s = real_of(line, "tokens_per_s"),
                            .stall = real_of(line, "stall"),
                            .epoch = (uint32_t)json_integer_value(json_object_get(line, "epoch")),
                            .has_validation = json_object_get(line, "validation_loss") != NULL,
                            .validation_loss = number_of(line, "validation_loss")};
}

uint32_t tr_run_log_records(const char *run, uint32_t updates, tr_step_record *records, uint32_t most)
{
    char *text, *log = tr_format("%s/log.jsonl", run);
    size_t size;
    uint32_t last = updates;
    tr_status status = log ? tr_file_read(log, &text, &size, NULL) : TR_ENOMEM;
    tr_free(log);
    if (status) return last;
    for (char *line = text, *end; (end = memchr(line, '\n', (size_t)(text + size - line))); line = end + 1) {
        json_t *object = json_loadb(line, (size_t)(end - line), 0, NULL);
        bool next = step_of(object) == (json_int_t)last + 1;
        if (next && records) records[(last + 1) % most] = record_of(object);
        last += next;
        json_decref(object);
    }
    tr_free(text);
    return last;
}

uint32_t tr_run_logged(const char *path, uint32_t updates)
{
    return tr_run_log_records(path, updates, NULL, 0);
}
