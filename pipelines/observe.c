/* pipelines/observe.c - see observe.h. Logs are read from their ends: they grow for weeks.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/observe.h"

#include "actors/topics.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TAIL_BYTES = 1 << 16, HELD_UP_S = 5 };

/* The last whole line of the file as JSON; NULL where there is none. */
static json_t *last_line(const char *run, const char *name)
{
    char *path = tr_format("%s/%s", run, name), *tail = tr_alloc(TAIL_BYTES);
    FILE *stream = path && tail ? fopen(path, "re") : NULL;
    json_t *object = NULL;
    size_t n = 0;
    if (stream) {
        if (fseek(stream, -TAIL_BYTES, SEEK_END) != 0) rewind(stream);
        n = fread(tail, 1, TAIL_BYTES, stream);
        fclose(stream);
    }
    while (n > 0 && tail[n - 1] != '\n') n--; /* being written */
    while (n > 0 && !object) {
        size_t begin = n - 1;
        while (begin > 0 && tail[begin - 1] != '\n') begin--;
        object = json_loadb(tail + begin, n - begin, 0, NULL);
        n = begin;
    }
    tr_free(path);
    tr_free(tail);
    return object;
}

static void read_log(tr_observation *self, const char *run)
{
    json_t *line = last_line(run, "log.jsonl");
    self->step = (uint32_t)json_integer_value(json_object_get(line, "step"));
    self->epoch = (uint32_t)json_integer_value(json_object_get(line, "epoch"));
    const json_t *loss = json_object_get(line, "loss"); /* null: no number, and the update was left out */
    self->loss = json_is_null(loss) ? (double)NAN : json_number_value(loss);
    self->tokens_per_s = json_number_value(json_object_get(line, "tokens_per_s"));
    json_decref(line);
}

static int count_waiting(const tr_processes *processes)
{
    int n = 0;
    for (int32_t i = 1; processes->places && i < processes->topology.n_nodes; i++)
        n += tr_place_lives(&processes->places[i]);
    return n;
}

/* Of the last event. Who was killed leaves none. */
static void read_end(tr_observation *self, const char *run)
{
    int n = 0;
    json_t *event = last_line(run, "events.jsonl");
    const char *kind = json_string_value(json_object_get(event, "event")),
               *text = json_string_value(json_object_get(event, "text"));
    if (kind && text && strcmp(kind, "ended") == 0)
        snprintf(self->ended, sizeof self->ended, "%s", text);
    else if ((n = count_waiting(&self->processes)) > 0)
        snprintf(
            self->ended, sizeof self->ended,
            "its head ended without a last word, as when it is killed; %d of its workers wait for `troupe "
            "train --resume`",
            n);
    else
        snprintf(self->ended, sizeof self->ended, "its head ended without a last word, as when it is killed");
    for (char *c = self->ended; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = ' ';
    json_decref(event);
}

static tr_status look(tr_observation *self, tr_error *err)
{
    const tr_processes *processes = &self->processes;
    char path[32];
    struct stat about;
    snprintf(path, sizeof path, "/proc/%d", processes->places[TR_NODE_HEAD].pid);
    if (geteuid() != 0 && stat(path, &about) == 0 && about.st_uid != geteuid())
        return tr_fail(err, TR_EIO, "its processes belong to another user (%u)", (unsigned)about.st_uid);
    self->actors = tr_alloc_zero(processes->topology.n_actors, sizeof *self->actors);
    if (!self->actors)
        return tr_fail(err, TR_ENOMEM, "no memory for %zu actors", processes->topology.n_actors);
    self->now_ns = tr_clock_ns();
    tr_look(&processes->topology, processes->places, self->now_ns, self->actors);
    self->held_up = tr_stall_find(&self->stall, &processes->topology, self->actors) && self->stall.since_ns &&
                    self->now_ns > self->stall.since_ns + HELD_UP_S * 1000000000ull;
    return TR_OK;
}

static tr_status find_run(const char *run, tr_error *err)
{
    char *recipe = tr_format("%s/recipe.yaml", run);
    if (!recipe) return tr_fail(err, TR_ENOMEM, "no memory for a path");
    tr_status status = TR_OK;
    if (!tr_path_is_directory(run))
        status = tr_fail(err, TR_ENOTFOUND, "there is no run '%s'; name the directory of one", run);
    else if (!tr_path_exists(recipe))
        status = tr_fail(err, TR_ENOTFOUND, "'%s' is not the directory of a run: it has no recipe.yaml", run);
    tr_free(recipe);
    return status;
}

static bool is_here(const tr_processes *processes)
{
    char host[TR_HOST_CHARS] = "";
    gethostname(host, sizeof host - 1);
    return strcmp(host, processes->host) == 0;
}

tr_status tr_observe(tr_observation *out, const char *run, tr_error *err)
{
    tr_observation self = {0};
    tr_status status = find_run(run, err);
    if (status) return status;
    status = tr_processes_read(&self.processes, run, err);
    bool listed = status == TR_OK;
    if (status == TR_ENOTFOUND) status = TR_OK;
    read_log(&self, run);
    if (listed && !is_here(&self.processes)) {
        snprintf(self.ended, sizeof self.ended, "it was last seen on host '%s'; ask there",
                 self.processes.host);
    } else if (listed && tr_place_lives(&self.processes.places[TR_NODE_HEAD])) {
        self.runs = true;
        status = look(&self, err);
    } else if (!status) {
        read_end(&self, run);
    }
    if (status)
        tr_observation_release(&self);
    else
        *out = self;
    return status;
}

void tr_observation_release(tr_observation *self)
{
    tr_processes_release(&self->processes);
    tr_free(self->actors);
    *self = (tr_observation){0};
}

static uint64_t waiting(const tr_observation *self, const tr_activity_record *record, char *text,
                        size_t capacity)
{
    tr_wait waits[TR_ACTIVITY_WAITS];
    uint32_t n = tr_activity_waits(record, waits);
    if (n == 0) {
        bool did = record->what[0] && strncmp(record->what, "waiting", 7) != 0;
        snprintf(text, capacity, "idle%s%s", did ? ", last: " : "", did ? record->what : "");
        return record->since_ns;
    }
    char one[2 * TR_NAME_BYTES + 64], more[24] = "";
    tr_wait_describe(&self->processes.topology, &waits[0], tr_topic_name, one, sizeof one);
    if (n > 1) snprintf(more, sizeof more, ", %u more", n - 1);
    snprintf(text, capacity, "waits for %s%s", one, more);
    return record->waits_since_ns;
}

uint64_t tr_observation_doing(const tr_observation *self, tr_actor_id actor, char *text, size_t capacity)
{
    const tr_actor_seen *seen = &self->actors[actor - 1];
    const tr_activity_record *record = &seen->record;
    text[0] = 0;
    if (seen->process == TR_PROCESS_GONE) {
        snprintf(text, capacity, seen->pid ? "its process is gone" : "its process has not begun");
        return 0;
    }
    if (seen->process == TR_PROCESS_STOPPED) {
        snprintf(text, capacity, "its process is stopped%s%s", record->what[0] ? ", last: " : "",
                 record->what);
        return seen->beat_ns;
    }
    if (!record->actor) {
        snprintf(text, capacity, "begins");
        return 0;
    }
    if (!record->running) return waiting(self, record, text, capacity);
    /* What it did before it began to wait is not what it does now. */
    bool named = record->what[0] && record->since_ns >= record->waits_since_ns;
    snprintf(text, capacity, "%s", named ? record->what : "handles a message");
    return named ? record->since_ns : 0;
}
