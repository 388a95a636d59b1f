/* runtime/look.c - see look.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/look.h"

#include "runtime/played.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Workers beat ten times a second, the head twenty times; a busy host may keep them from it for a moment. */
static const uint64_t SILENT_NS = 2000000000u;

/* State and start time of proc(5)'s stat, whose name may hold blanks and brackets; false: there is no such process. */
static bool read_stat(int32_t pid, char *state, uint64_t *started)
{
    char path[64], line[1024];
    if (tr__play) {
        *state = tr__play->lives(tr__play->context, pid) ? 'S' : 'Z';
        *started = 1;
        return true;
    }
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *file = fopen(path, "re");
    if (!file) return false;
    size_t n = fread(line, 1, sizeof line - 1, file);
    fclose(file);
    line[n] = 0;
    const char *behind = strrchr(line, ')');
    return behind &&
           sscanf(behind + 1,
                  " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %" SCNu64,
                  state, started) == 2;
}

tr_place_seen tr_place_of(int32_t pid, int32_t descriptor)
{
    tr_place_seen place = {.pid = pid, .descriptor = descriptor};
    char state;
    uint64_t started;
    if (read_stat(pid, &state, &started)) place.started = started;
    return place;
}

static bool look_at(const tr_place_seen *self, char *state)
{
    uint64_t started;
    return self->pid > 0 && read_stat(self->pid, state, &started) && started == self->started &&
           *state != 'Z' && *state != 'X';
}

bool tr_place_lives(const tr_place_seen *self)
{
    char state;
    return look_at(self, &state);
}

static uint64_t resident_bytes(int32_t pid)
{
    char path[64];
    uint64_t pages = 0;
    snprintf(path, sizeof path, "/proc/%d/statm", pid);
    FILE *file = fopen(path, "re");
    if (!file) return 0;
    if (fscanf(file, "%*u %" SCNu64, &pages) != 1) pages = 0;
    fclose(file);
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

static tr_process_seen process_in(char state)
{
    return state == 'T' || state == 't' ? TR_PROCESS_STOPPED : TR_PROCESS_WELL;
}

tr_process_seen tr_process_look(int32_t pid, uint64_t *bytes)
{
    char state;
    uint64_t started;
    *bytes = 0;
    if (!read_stat(pid, &state, &started) || state == 'Z' || state == 'X') return TR_PROCESS_GONE;
    *bytes = resident_bytes(pid);
    return process_in(state);
}

/* One of another host is as its agent last said, unless nothing was heard since. */
static tr_process_seen process_of(const tr_place_seen *place, const tr_activity_page *page, uint64_t now_ns)
{
    char state = 0;
    if (!look_at(place, &state)) return TR_PROCESS_GONE;
    tr_process_seen process = process_in(state);
    if (page->pid)
        process = page->process <= TR_PROCESS_GONE ? (tr_process_seen)page->process : TR_PROCESS_GONE;
    if (process != TR_PROCESS_WELL) return process;
    return page->beat_ns && now_ns > page->beat_ns + SILENT_NS ? TR_PROCESS_SILENT : TR_PROCESS_WELL;
}

static const tr_activity_record *record_of(const tr_activity_page *page, tr_actor_id actor)
{
    for (int i = 0; i < TR_ACTIVITY_RECORDS; i++)
        if (page->records[i].actor == actor) return &page->records[i];
    return NULL;
}

/* They go onto terminals and into files, and came out of another process. */
static void clean(char *text, size_t size)
{
    text[size - 1] = 0;
    for (char *c = text; *c; c++)
        if (*c < 0x20 || *c > 0x7e) *c = '?';
}

void tr_look(const tr_topology *topology, const tr_place_seen *places, uint64_t now_ns, tr_actor_seen *out)
{
    for (int32_t node = 0; node < topology->n_nodes; node++) {
        const tr_place_seen *place = &places[node];
        tr_activity_page page = {0};
        if (place->pid > 0 && place->descriptor >= 0 &&
            tr_activity_page_copy(&page, place->pid, place->descriptor, NULL) != TR_OK)
            memset(&page, 0, sizeof page);
        tr_process_seen process = process_of(place, &page, now_ns);
        uint64_t bytes = page.pid                     ? page.resident_bytes
                         : process == TR_PROCESS_GONE ? 0
                                                      : resident_bytes(place->pid);
        for (size_t i = 0; i < topology->n_actors; i++) {
            if (topology->actors[i].node != node) continue;
            const tr_activity_record *record = record_of(&page, i + 1);
            out[i] = (tr_actor_seen){.process = process,
                                     .pid = page.pid ? page.pid : place->pid,
                                     .host = page.host,
                                     .resident_bytes = bytes,
                                     .beat_ns = page.beat_ns};
            memcpy(out[i].host_name, page.host_name, sizeof page.host_name);
            clean(out[i].host_name, sizeof out[i].host_name);
            if (record) out[i].record = *record;
            clean(out[i].record.what, sizeof out[i].record.what);
        }
    }
}
