/* pipelines/trace_file.c - see trace_file.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/trace_file.h"

#include "base/memory.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char END[] = "\n]\n";
enum { END_BYTES = sizeof END - 1, SHORTEST_WAIT_NS = 1000 };

typedef struct row {
    uint64_t end_ns; /* of its last span; 0: it has none */
    uint64_t n_dropped;
} row;

struct tr_trace_file {
    FILE *stream;
    char *path;
    const tr_topology *topology;
    uint64_t began_ns;
    row *rows; /* by place in the topology */
};

/* Names are the plan's own ("stage 1 of replica 0"), so there is nothing in them to escape. */
static void write_names(tr_trace_file *self)
{
    const tr_topology *topology = self->topology;
    fputc('[', self->stream);
    for (int32_t n = 0; n < topology->n_nodes; n++) {
        char name[32];
        snprintf(name, sizeof name, n == TR_NODE_HEAD ? "head" : "worker %d", n);
        fprintf(
            self->stream,
            "%s\n{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":%d,\"tid\":0,\"args\":{\"name\":\"%s\"}}",
            n ? "," : "", n, name);
    }
    for (size_t i = 0; i < topology->n_actors; i++)
        fprintf(
            self->stream,
            ",\n{\"name\":\"thread_name\",\"ph\":\"M\",\"pid\":%d,\"tid\":%zu,\"args\":{\"name\":\"%s\"}}",
            topology->actors[i].node, i + 1, topology->actors[i].name);
}

/* Writes the end of the array and goes back to before it. */
static tr_status finish_batch(tr_trace_file *self, tr_error *err)
{
    fputs(END, self->stream);
    if (fflush(self->stream) || ferror(self->stream) || fseek(self->stream, -(long)END_BYTES, SEEK_CUR))
        return tr_fail(err, TR_EIO, "could not write '%s': %s", self->path, strerror(errno));
    return TR_OK;
}

tr_status tr_trace_file_open(tr_trace_file **out, const char *path, const tr_topology *topology,
                             uint64_t began_ns, tr_error *err)
{
    tr_trace_file *self = tr_alloc_zero(1, sizeof *self);
    if (!self) return tr_fail(err, TR_ENOMEM, "no memory for a trace file");
    self->topology = topology;
    self->began_ns = began_ns;
    self->path = tr_strdup(path);
    self->rows = tr_alloc_zero(topology->n_actors, sizeof *self->rows);
    self->stream = self->path && self->rows ? fopen(path, "we") : NULL;
    tr_status status = TR_OK;
    if (!self->path || !self->rows)
        status = tr_fail(err, TR_ENOMEM, "no memory for a trace file");
    else if (!self->stream)
        status = tr_fail(err, TR_EIO, "could not write '%s': %s", path, strerror(errno));
    if (!status) write_names(self);
    if (!status) status = finish_batch(self, err);
    if (status)
        tr_trace_file_close(&self);
    else
        *out = self;
    return status;
}

void tr_trace_file_close(tr_trace_file **out)
{
    tr_trace_file *self = *out;
    if (!self) return;
    if (self->stream) fclose(self->stream);
    tr_free(self->path);
    tr_free(self->rows);
    tr_free(self);
    *out = NULL;
}

/* Nanoseconds as the format's microseconds, to the last digit. */
static void write_time(FILE *stream, const char *key, uint64_t ns)
{
    fprintf(stream, "\"%s\":%" PRIu64 ".%03u,", key, ns / 1000, (unsigned)(ns % 1000));
}

static void write_event(const tr_trace_file *self, size_t at, const char *name, uint64_t begin_ns,
                        uint64_t end_ns, const tr_span *about)
{
    fprintf(self->stream, ",\n{\"name\":\"%s\",\"ph\":\"X\",\"pid\":%d,\"tid\":%zu,", name,
            self->topology->actors[at].node, at + 1);
    write_time(self->stream, "ts", begin_ns - self->began_ns);
    write_time(self->stream, "dur", end_ns - begin_ns);
    fprintf(self->stream, "\"args\":{\"step\":%u,\"microbatch\":%u}}", about->step, about->microbatch);
}

static void write_dropped(const tr_trace_file *self, size_t at, uint64_t n, uint64_t when_ns)
{
    fprintf(self->stream,
            ",\n{\"name\":\"%" PRIu64 " spans dropped\",\"ph\":\"i\",\"s\":\"t\",\"pid\":%d,\"tid\":%zu,", n,
            self->topology->actors[at].node, at + 1);
    write_time(self->stream, "ts", when_ns - self->began_ns);
    fprintf(self->stream, "\"args\":{\"dropped\":%" PRIu64 "}}", n);
}

tr_status tr_trace_file_add(tr_trace_file *self, tr_actor_id who, const tr_span *spans, uint32_t n_spans,
                            uint64_t n_dropped, tr_error *err)
{
    const tr_actor_spec *actor = tr_topology_actor(self->topology, who);
    if (!actor) return TR_OK;
    size_t at = (size_t)(actor - self->topology->actors);
    row *known = &self->rows[at];
    for (uint32_t i = 0; i < n_spans; i++) {
        const tr_span *span = &spans[i];
        uint64_t waits_ns = known->end_ns ? known->end_ns : self->began_ns;
        if (span->begin_ns >= waits_ns + SHORTEST_WAIT_NS)
            write_event(self, at, "waiting", waits_ns, span->begin_ns, span);
        write_event(self, at, tr_span_name(span->kind), span->begin_ns, span->end_ns, span);
        known->end_ns = span->end_ns;
    }
    if (n_dropped > known->n_dropped)
        write_dropped(self, at, n_dropped - known->n_dropped, known->end_ns ? known->end_ns : self->began_ns);
    known->n_dropped = n_dropped;
    return finish_batch(self, err);
}

uint64_t tr_trace_file_dropped(const tr_trace_file *self)
{
    uint64_t n = 0;
    for (size_t i = 0; i < self->topology->n_actors; i++) n += self->rows[i].n_dropped;
    return n;
}
