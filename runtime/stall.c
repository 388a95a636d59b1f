/* runtime/stall.c - see stall.h. Reachability by a walk from each actor that waits: a job has thousands of actors at most,
 * each with a handful of arrows, and this is done once a stall.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/stall.h"

#include "base/memory.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MOST_NAMED = 3, MOST_IN_CIRCLE = 6 };

typedef struct search {
    const tr_topology *topology;
    const tr_actor_seen *seen;
    uint32_t *reached_by; /* how many others reach it */
    size_t *stack;
    bool *visited;
} search;

tr_actor_id tr_wait_for_whom(const tr_topology *topology, const tr_wait *wait)
{
    if (wait->kind == TR_WAIT_WORD) return wait->which <= topology->n_actors ? wait->which : 0;
    if (wait->kind == TR_WAIT_NONE || wait->which >= topology->n_edges) return 0;
    const tr_edge_spec *edge = &topology->edges[wait->which];
    return wait->kind == TR_WAIT_MESSAGE ? edge->source : edge->destination;
}

/* Why it does not go on by itself; false: it waits for others. */
static bool is_to_blame(const tr_actor_seen *seen, tr_stall *out)
{
    const tr_activity_record *record = &seen->record;
    out->since_ns = seen->beat_ns;
    out->kind = TR_STALL_GONE;
    if (seen->process == TR_PROCESS_GONE) return true;
    out->kind = TR_STALL_STOPPED;
    if (seen->process == TR_PROCESS_STOPPED) return true;
    out->since_ns = record->since_ns;
    out->kind = TR_STALL_BUSY;
    if (record->running) return true;
    out->since_ns = seen->beat_ns;
    out->kind = TR_STALL_SILENT;
    if (seen->process == TR_PROCESS_SILENT) return true;
    out->since_ns = record->since_ns;
    out->kind = TR_STALL_QUEUED;
    return record->queued > 0;
}

/* A process may be silent because one of its actors keeps its only thread: the others then wait for that one. 0: none does. */
static tr_actor_id keeper_of(const search *self, size_t actor)
{
    const tr_topology *topology = self->topology;
    if (self->seen[actor].process != TR_PROCESS_SILENT || self->seen[actor].record.running) return 0;
    for (size_t i = 0; i < topology->n_actors; i++)
        if (i != actor && topology->actors[i].node == topology->actors[actor].node &&
            self->seen[i].record.running)
            return i + 1;
    return 0;
}

/* Whom it waits for: the arrows that leave it. */
static uint32_t arrows(const search *self, size_t actor, tr_actor_id to[TR_ACTIVITY_WAITS])
{
    tr_wait waits[TR_ACTIVITY_WAITS];
    tr_stall unused;
    uint32_t n = 0;
    tr_actor_id keeper = keeper_of(self, actor);
    if (keeper) {
        to[0] = keeper;
        return 1;
    }
    if (is_to_blame(&self->seen[actor], &unused)) return 0;
    uint32_t n_waits = tr_activity_waits(&self->seen[actor].record, waits);
    for (uint32_t i = 0; i < n_waits; i++) {
        tr_actor_id whom = tr_wait_for_whom(self->topology, &waits[i]);
        if (whom && whom != actor + 1) to[n++] = whom;
    }
    return n;
}

/* Counts `from` at everybody that it reaches. */
static void walk(search *self, size_t from)
{
    tr_actor_id to[TR_ACTIVITY_WAITS];
    size_t depth = 0;
    memset(self->visited, 0, self->topology->n_actors);
    self->visited[from] = true;
    self->stack[depth++] = from;
    while (depth > 0) {
        uint32_t n = arrows(self, self->stack[--depth], to);
        for (uint32_t i = 0; i < n; i++) {
            size_t next = to[i] - 1;
            if (self->visited[next]) continue;
            self->visited[next] = true;
            self->reached_by[next]++;
            self->stack[depth++] = next;
        }
    }
}

/* Broken processes before what merely takes long, then whom the most wait for, then the longest. */
static int rank(tr_stall_kind kind)
{
    return kind <= TR_STALL_SILENT ? 0 : kind <= TR_STALL_QUEUED ? 1 : kind == TR_STALL_CIRCLE ? 2 : 3;
}

static bool is_worse(const tr_stall *a, const tr_stall *b)
{
    if (rank(a->kind) != rank(b->kind)) return rank(a->kind) < rank(b->kind);
    if (a->n_waiting != b->n_waiting) return a->n_waiting > b->n_waiting;
    return a->since_ns < b->since_ns;
}

/* What the actor is among those that others wait for; false: it waits itself, in no circle. */
static bool judge(search *self, size_t actor, tr_stall *out)
{
    tr_actor_id to[TR_ACTIVITY_WAITS];
    const tr_actor_seen *seen = &self->seen[actor];
    out->who = actor + 1;
    out->n_waiting = self->reached_by[actor];
    if (!keeper_of(self, actor) && is_to_blame(seen, out)) return true;
    out->since_ns = seen->record.since_ns;
    out->kind = TR_STALL_IDLE;
    uint32_t n = arrows(self, actor, to);
    if (n == 0) return true;
    out->kind = TR_STALL_CIRCLE;
    out->since_ns = seen->record.waits_since_ns;
    size_t depth = 0; /* is there a way back? */
    memset(self->visited, 0, self->topology->n_actors);
    self->stack[depth++] = actor;
    while (depth > 0) {
        n = arrows(self, self->stack[--depth], to);
        for (uint32_t i = 0; i < n; i++) {
            if (to[i] == actor + 1) return true;
            if (self->visited[to[i] - 1]) continue;
            self->visited[to[i] - 1] = true;
            self->stack[depth++] = to[i] - 1;
        }
    }
    return false;
}

bool tr_stall_find(tr_stall *out, const tr_topology *topology, const tr_actor_seen *seen)
{
    size_t n = topology->n_actors;
    search self = {.topology = topology,
                   .seen = seen,
                   .reached_by = tr_alloc_zero(n, sizeof *self.reached_by),
                   .stack = tr_alloc(n * sizeof *self.stack),
                   .visited = tr_alloc_zero(n, sizeof *self.visited)};
    bool found = false;
    if (self.reached_by && self.stack && self.visited) {
        for (size_t i = 0; i < n; i++) walk(&self, i);
        for (size_t i = 0; i < n; i++) {
            tr_stall one;
            if (self.reached_by[i] == 0 || !judge(&self, i, &one)) continue;
            if (!found || is_worse(&one, out)) *out = one;
            found = true;
        }
    }
    tr_free(self.reached_by);
    tr_free(self.stack);
    tr_free(self.visited);
    return found;
}

/* ---- words ---- */

/* Appends, cut at the capacity. */
TR_PRINTF(3, 4) static void add(char *text, size_t capacity, const char *format, ...)
{
    size_t used = strlen(text);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text + used, capacity - used, format, arguments);
    va_end(arguments);
}

static const char *name_of(const tr_topology *topology, tr_actor_id id)
{
    const tr_actor_spec *actor = tr_topology_actor(topology, id);
    return actor ? actor->name : "an unknown actor";
}

void tr_wait_describe(const tr_topology *topology, const tr_wait *wait, tr_topic_name_of name, char *text,
                      size_t capacity)
{
    tr_actor_id from = tr_wait_for_whom(topology, wait);
    const char *whom = name_of(topology, from);
    const char *edge = wait->kind != TR_WAIT_WORD && wait->which < topology->n_edges
                           ? topology->edges[wait->which].name
                           : "an unknown edge";
    const char *word = wait->kind == TR_WAIT_WORD && name ? name(wait->topic) : NULL;
    if (wait->kind == TR_WAIT_WORD && !from) /* it comes from outside of the actors */
        snprintf(text, capacity, "%s", word ? word : "a word");
    else if (wait->kind == TR_WAIT_WORD)
        snprintf(text, capacity, "%s from %s", word ? word : "a word", whom);
    else
        snprintf(text, capacity, "%s%s from %s", wait->kind == TR_WAIT_CREDIT ? "a credit of " : "", edge,
                 whom);
}

/* "; it waits for ..., for 61.3 s" */
static void add_waits(const tr_topology *topology, const tr_activity_record *record, const char *before,
                      tr_topic_name_of name, uint64_t now_ns, char *text, size_t capacity)
{
    tr_wait waits[TR_ACTIVITY_WAITS];
    uint32_t n = tr_activity_waits(record, waits);
    for (uint32_t i = 0; i < n && i < MOST_NAMED; i++) {
        char one[2 * TR_NAME_BYTES + 64];
        tr_wait_describe(topology, &waits[i], name, one, sizeof one);
        add(text, capacity, "%s%s", i ? " or " : before, one);
    }
    if (n > 0 && record->waits_since_ns && now_ns > record->waits_since_ns)
        add(text, capacity, " for %.1f s", (double)(now_ns - record->waits_since_ns) * 1e-9);
}

static double age_s(uint64_t now_ns, uint64_t since_ns)
{
    return since_ns && now_ns > since_ns ? (double)(now_ns - since_ns) * 1e-9 : 0;
}

static void add_circle(const tr_stall *self, const tr_topology *topology, const tr_actor_seen *seen,
                       tr_topic_name_of name, uint64_t now_ns, char *text, size_t capacity)
{
    tr_actor_id at = self->who;
    for (int i = 0; i < MOST_IN_CIRCLE; i++) {
        const tr_activity_record *record = &seen[at - 1].record;
        tr_wait waits[TR_ACTIVITY_WAITS];
        add(text, capacity, "%s%s", i ? "; " : ", ", name_of(topology, at));
        add_waits(topology, record, " waits for ", name, now_ns, text, capacity);
        tr_actor_id next = tr_activity_waits(record, waits) ? tr_wait_for_whom(topology, &waits[0]) : 0;
        if (next == 0 || next == self->who) break;
        at = next;
    }
}

static void add_those_who_wait(const tr_stall *self, const tr_topology *topology, const tr_actor_seen *seen,
                               tr_topic_name_of name, uint64_t now_ns, char *text, size_t capacity)
{
    int n = 0;
    for (size_t i = 0; i < topology->n_actors; i++) {
        const tr_activity_record *record = &seen[i].record;
        tr_wait waits[TR_ACTIVITY_WAITS];
        uint32_t n_waits = i + 1 == self->who || record->running ? 0 : tr_activity_waits(record, waits);
        for (uint32_t k = 0; k < n_waits; k++) {
            char one[2 * TR_NAME_BYTES + 64];
            if (tr_wait_for_whom(topology, &waits[k]) != self->who) continue;
            if (n++ >= MOST_NAMED) break;
            tr_wait_describe(topology, &waits[k], name, one, sizeof one);
            add(text, capacity, "; %s waits for %s, for %.1f s", topology->actors[i].name, one,
                age_s(now_ns, record->waits_since_ns));
            break;
        }
    }
    if (n > MOST_NAMED) add(text, capacity, "; so do %d more", n - MOST_NAMED);
}

void tr_stall_describe(const tr_stall *self, const tr_topology *topology, const tr_actor_seen *seen,
                       tr_topic_name_of name, uint64_t now_ns, char *text, size_t capacity)
{
    const tr_actor_seen *one = &seen[self->who - 1];
    const tr_activity_record *record = &one->record;
    int32_t node = topology->actors[self->who - 1].node;
    char doing[TR_ACTIVITY_BYTES + 64];
    double age = age_s(now_ns, self->since_ns);
    tr_wait unused[TR_ACTIVITY_WAITS];
    tr_activity_record_doing(record, doing, sizeof doing);
    text[0] = 0;
    if (node == TR_NODE_HEAD)
        add(text, capacity, "%s (head, pid %d)", name_of(topology, self->who), one->pid);
    else
        add(text, capacity, "%s (worker %d, pid %d%s%s)", name_of(topology, self->who), node, one->pid,
            one->host_name[0] ? " on " : "", one->host_name);
    switch (self->kind) {
    case TR_STALL_GONE: add(text, capacity, ", whose process is gone"); break;
    case TR_STALL_STOPPED: add(text, capacity, ", whose process was stopped %.1f s ago", age); break;
    case TR_STALL_SILENT:
        add(text, capacity, ", whose process lives and has done nothing for %.1f s", age);
        break;
    case TR_STALL_BUSY: add(text, capacity, ", which is %s, for %.1f s", doing, age); break;
    case TR_STALL_QUEUED: add(text, capacity, ", for which %u messages wait", record->queued); break;
    case TR_STALL_CIRCLE: add(text, capacity, ", in a circle"); break;
    case TR_STALL_IDLE:
        add(text, capacity,
            tr_activity_waits(record, unused) ? ", which waits for no actor" : ", which waits for nobody");
        break;
    }
    if (self->kind == TR_STALL_CIRCLE) {
        add_circle(self, topology, seen, name, now_ns, text, capacity);
        return;
    }
    if (self->kind != TR_STALL_BUSY && record->what[0])
        add(text, capacity, "; it was %s%s", record->running ? "" : "last ", doing);
    if (!record->running) add_waits(topology, record, "; it waits for ", name, now_ns, text, capacity);
    add_those_who_wait(self, topology, seen, name, now_ns, text, capacity);
}
