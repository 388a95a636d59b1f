/* pipelines/processes.c - see processes.h. What is read was written by another process, perhaps of another version: it goes
 * through the checks of the topology's own builders.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/processes.h"

#include "base/file.h"
#include "base/memory.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST_NODES = 1 << 16 };

static char *path_of(const char *run, const char *end)
{
    return tr_format("%s/processes.json%s", run, end);
}

static json_t *list_places(const tr_topology *topology, const tr_place_seen *places)
{
    const tr_place_seen self = tr_place_of(getpid(), -1), none = {.descriptor = -1};
    json_t *list = json_array();
    for (int32_t i = 0; i < topology->n_nodes; i++) {
        const tr_place_seen *place = places ? &places[i] : i == TR_NODE_HEAD ? &self : &none;
        json_array_append_new(list, json_pack("{s:I, s:i, s:I}", "pid", (json_int_t)place->pid, "page",
                                              place->pid ? place->descriptor : -1, "started",
                                              (json_int_t)place->started));
    }
    return list;
}

static json_t *list_actors(const tr_topology *topology)
{
    json_t *list = json_array();
    for (size_t i = 0; i < topology->n_actors; i++)
        json_array_append_new(list,
                              json_pack("{s:s, s:s, s:i}", "name", topology->actors[i].name, "kind",
                                        topology->actors[i].behavior, "node", topology->actors[i].node));
    return list;
}

static json_t *list_edges(const tr_topology *topology)
{
    json_t *list = json_array();
    for (size_t i = 0; i < topology->n_edges; i++)
        json_array_append_new(list, json_pack("[s, I, I]", topology->edges[i].name,
                                              (json_int_t)topology->edges[i].source,
                                              (json_int_t)topology->edges[i].destination));
    return list;
}

static tr_status replace(const char *run, const char *text, tr_error *err)
{
    char *path = path_of(run, ""), *temporary = path_of(run, ".new");
    tr_status status = path && temporary ? TR_OK : tr_fail(err, TR_ENOMEM, "no memory for a path");
    FILE *stream = status ? NULL : fopen(temporary, "we");
    if (!status && !stream)
        status = tr_fail(err, TR_EIO, "could not write '%s': %s", temporary, strerror(errno));
    if (stream) {
        bool good = fputs(text, stream) >= 0 && fputc('\n', stream) != EOF;
        good = fclose(stream) == 0 && good;
        if (!good || rename(temporary, path) != 0) {
            status = tr_fail(err, TR_EIO, "could not write '%s': %s", path, strerror(errno));
            unlink(temporary);
        }
    }
    tr_free(path);
    tr_free(temporary);
    return status;
}

tr_status tr_processes_write(const char *run, const tr_topology *topology, const tr_place_seen *places,
                             uint32_t epoch, uint32_t n_steps, uint64_t began_ns, tr_error *err)
{
    char host[TR_HOST_CHARS] = "";
    gethostname(host, sizeof host - 1);
    json_t *object = json_pack("{s:s, s:I, s:I, s:I, s:o, s:o, s:o}", "host", host, "epoch",
                               (json_int_t)epoch, "steps", (json_int_t)n_steps, "began_ns",
                               (json_int_t)began_ns, "nodes", list_places(topology, places), "actors",
                               list_actors(topology), "edges", list_edges(topology));
    char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;
    json_decref(object);
    if (!text) return tr_fail(err, TR_ENOMEM, "no memory for the list of processes");
    tr_status status = replace(run, text, err);
    free(text); /* jansson's */
    return status;
}

void tr_processes_remove(const char *run)
{
    char *path = path_of(run, "");
    if (path) unlink(path);
    tr_free(path);
}

static bool integer(const json_t *object, const char *key, json_int_t least, json_int_t most, json_int_t *out)
{
    const json_t *value = json_object_get(object, key);
    *out = json_integer_value(value);
    return json_is_integer(value) && *out >= least && *out <= most;
}

static bool read_places(tr_processes *self, const json_t *list)
{
    size_t i;
    json_t *one;
    self->places = tr_alloc_zero(json_array_size(list), sizeof *self->places);
    if (!self->places) return false;
    json_array_foreach(list, i, one)
    {
        json_int_t pid, page, started;
        if (!integer(one, "pid", 0, INT32_MAX, &pid) || !integer(one, "page", -1, INT32_MAX, &page) ||
            !integer(one, "started", 0, INT64_MAX, &started))
            return false;
        self->places[i] = (tr_place_seen){(int32_t)pid, (int32_t)page, (uint64_t)started};
    }
    return true;
}

static bool read_topology(tr_processes *self, const json_t *actors, const json_t *edges)
{
    size_t i;
    json_t *one;
    json_array_foreach(actors, i, one)
    {
        json_int_t node;
        const char *name = json_string_value(json_object_get(one, "name")),
                   *kind = json_string_value(json_object_get(one, "kind"));
        if (!name || !kind || !integer(one, "node", 0, self->topology.n_nodes - 1, &node) ||
            tr_topology_add_actor(&self->topology, name, kind, (int32_t)node, NULL, 0, 0, NULL, NULL))
            return false;
    }
    json_array_foreach(edges, i, one)
    {
        const char *name = json_string_value(json_array_get(one, 0));
        json_int_t from = json_integer_value(json_array_get(one, 1)),
                   to = json_integer_value(json_array_get(one, 2));
        if (!name || from < 1 || to < 1 ||
            tr_topology_add_edge(&self->topology, name, (tr_actor_id)from, (tr_actor_id)to, 1, 0, NULL, NULL))
            return false;
    }
    return self->topology.n_actors > 0;
}

static bool parse(tr_processes *out, const json_t *object)
{
    const json_t *nodes = json_object_get(object, "nodes");
    const char *host = json_string_value(json_object_get(object, "host"));
    json_int_t epoch, steps, began;
    size_t n_nodes = json_array_size(nodes);
    if (!host || strlen(host) >= TR_HOST_CHARS || n_nodes < 1 || n_nodes > MOST_NODES ||
        !integer(object, "epoch", 0, UINT32_MAX, &epoch) ||
        !integer(object, "steps", 0, UINT32_MAX, &steps) ||
        !integer(object, "began_ns", 0, INT64_MAX, &began))
        return false;
    for (const char *c = host; *c; c++)
        if (*c < 0x20 || *c == 0x7f) return false; /* it is told on terminals */
    strcpy(out->host, host);
    out->epoch = (uint32_t)epoch;
    out->n_steps = (uint32_t)steps;
    out->began_ns = (uint64_t)began;
    tr_topology_init(&out->topology, (int32_t)n_nodes);
    return read_places(out, nodes) &&
           read_topology(out, json_object_get(object, "actors"), json_object_get(object, "edges"));
}

tr_status tr_processes_read(tr_processes *out, const char *run, tr_error *err)
{
    char *path = path_of(run, ""), *text = NULL;
    size_t size;
    if (!path) return tr_fail(err, TR_ENOMEM, "no memory for a path");
    tr_status status = tr_file_read(path, &text, &size, err);
    json_t *object = status ? NULL : json_loadb(text, size, 0, NULL);
    tr_processes read = {0};
    if (!status && !parse(&read, object)) {
        tr_processes_release(&read);
        status = tr_fail(err, TR_ECORRUPT, "'%s' does not read as what a running job writes", path);
    }
    if (!status) *out = read;
    json_decref(object);
    tr_free(text);
    tr_free(path);
    return status;
}

void tr_processes_release(tr_processes *self)
{
    tr_topology_release(&self->topology);
    tr_free(self->places);
    *self = (tr_processes){0};
}
