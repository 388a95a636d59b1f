/* runtime/hosts_routes.c - ways that are broken between two hosts while both reach the head. Their agents say so (agent_routes.c).
 * Workers on the two cannot speak with each other, states of one do not come to the other, and the job would stand still or lose
 * worker after worker for it; so one of the two is given up, as if it were lost. Which one follows from what is known, not from who
 * spoke first: never the head's own; the one that more others do not reach; a spare rather than one that works; else the later
 * one. It is decided a little after the first word, when all have spoken who will.
 * A host that comes again from the same place would be met in the same way. It is kept apart: it is here, agents try to reach it,
 * and it gets neither work nor copies before nobody has missed it for a while. So is a spare that is not reached, which costs nobody
 * anything.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/hosts_internal.h"

#include "base/log.h"
#include "base/memory.h"

#include <stdio.h>
#include <string.h>

enum { LINE_BYTES = TR__HOST_LINE_BYTES, GATHER_MS = 750, FRESH_MS = 1500, MARGIN_MS = 3000 };

static void keep_apart(tr_hosts *self, int32_t m)
{
    uint64_t now_ns = tr_node_now_ns(self->head->node);
    self->members[m].apart_until_ns =
        now_ns + ((uint64_t)self->options->silence_ms + MARGIN_MS) * 1000000; /* others say so before that */
}

bool tr__hosts_was_cut_off(tr_hosts *self, int32_t m)
{
    for (int32_t k = 1; k < self->n_members; k++) {
        const tr__member *before = &self->members[k];
        if (!before->was_cut_off || !tr__hosts_is_same_place(before->address, self->members[m].address))
            continue;
        keep_apart(self, m);
        return true;
    }
    return false;
}

/* --- what is said --- */

void tr__hosts_cut_off(tr_hosts *self, int32_t m, const tr_message *message)
{
    tr_control_note note;
    tr_error err;
    if (tr_control_read_note(message, &note, NULL) != TR_OK) return;
    uint64_t now_ns = tr_node_now_ns(self->head->node);
    int32_t other = note.node - tr__hosts_first_agent(self);
    if (other < 0 || other >= self->n_members || other == m || !tr__hosts_is_here(self, other)) return;
    tr__cut told = {.one = m < other ? m : other,
                    .other = m < other ? other : m,
                    .since_ns = now_ns,
                    .told_ns = now_ns,
                    .silent_ns = note.silent_ns};
    for (size_t i = 0; i < self->n_cuts; i++) {
        tr__cut *cut = &self->cuts[i];
        if (cut->one != told.one || cut->other != told.other) continue;
        cut->told_ns = now_ns;
        cut->silent_ns = note.silent_ns;
        return;
    }
    if (tr_array_reserve((void **)&self->cuts, &self->cuts_capacity, self->n_cuts + 1, sizeof told, &err) ==
        TR_OK)
        self->cuts[self->n_cuts++] = told;
    else
        tr_head_end(self->head, &err, 0);
}

/* What nobody says any more, or of one that is not here any more. */
static void forget_old(tr_hosts *self, uint64_t now_ns)
{
    size_t n = 0;
    for (size_t i = 0; i < self->n_cuts; i++) {
        const tr__cut *cut = &self->cuts[i];
        bool holds = tr__hosts_is_here(self, cut->one) && tr__hosts_is_here(self, cut->other);
        if (holds && now_ns < cut->told_ns + FRESH_MS * 1000000ull) self->cuts[n++] = *cut;
    }
    self->n_cuts = n;
}

/* --- what becomes of it --- */

static int32_t n_cuts_of(const tr_hosts *self, int32_t m)
{
    int32_t n = 0;
    for (size_t i = 0; i < self->n_cuts; i++) n += self->cuts[i].one == m || self->cuts[i].other == m;
    return n;
}

static bool is_spare(const tr_hosts *self, int32_t m)
{
    return self->members[m].host < 0 && !tr__hosts_has_work(self, m);
}

static int32_t whom_to_give_up(const tr_hosts *self, const tr__cut *cut)
{
    if (cut->one == 0) return cut->other;
    int32_t n_one = n_cuts_of(self, cut->one), n_other = n_cuts_of(self, cut->other);
    if (n_one != n_other) return n_one > n_other ? cut->one : cut->other;
    return is_spare(self, cut->one) && !is_spare(self, cut->other) ? cut->one : cut->other;
}

/* It is, or will be found to be, lost as a whole: that explains more. */
static bool is_well(const tr_hosts *self, int32_t m, uint64_t now_ns)
{
    const tr__member *who = &self->members[m];
    return m == 0 ||
           (!who->broken_ns && now_ns < who->heard_ns + (uint64_t)self->options->silence_ms * 1000000 / 2);
}

static void give_up(tr_hosts *self, const tr__cut *cut, int32_t m)
{
    char other[LINE_BYTES], why[LINE_BYTES + 160];
    int32_t rest = cut->one == m ? cut->other : cut->one, n = n_cuts_of(self, m);
    tr__hosts_describe(self, rest, other);
    snprintf(why, sizeof why,
             "the way between it and %s is broken (nothing came for %.1f s), though the head hears both%s",
             other, (double)cut->silent_ns * 1e-9, n > 1 ? "; nor do others reach it" : "");
    self->members[m].was_cut_off = true;
    tr__hosts_lose(self, m, why);
}

/* A spare needs nobody, and nobody it, as long as it has no copies. */
static void put_aside(tr_hosts *self, const tr__cut *cut, int32_t m)
{
    char text[LINE_BYTES], other[LINE_BYTES], line[2 * LINE_BYTES + 96];
    bool is_news = !self->members[m].apart_until_ns;
    keep_apart(self, m);
    if (!is_news) return;
    tr__hosts_describe(self, m, text);
    tr__hosts_describe(self, cut->one == m ? cut->other : cut->one, other);
    snprintf(line, sizeof line, "%s and %s do not reach each other; it gets no work before they do", text,
             other);
    tr_head_tell(self->head, TR_JOB_HOST_CUT_OFF, -1, 0, line);
    if (tr__hosts_has_part(self, m)) tr__hosts_lost_in_change(self, line);
    tr__hosts_tell_homes(self);
}

/* Who was apart long enough is one like the others. */
static void take_back(tr_hosts *self, uint64_t now_ns)
{
    bool any = false;
    for (int32_t m = 1; m < self->n_members; m++) {
        tr__member *who = &self->members[m];
        if (!who->apart_until_ns || now_ns < who->apart_until_ns) continue;
        who->apart_until_ns = 0;
        any = any || who->present;
    }
    if (!any || self->head->phase != TR_HEAD_RUNNING) return; /* when all are ready it is seen to */
    tr__hosts_tell_homes(self);
    tr__hosts_consider(self);
}

void tr__hosts_look_at_routes(tr_hosts *self, uint64_t now_ns)
{
    take_back(self, now_ns);
    forget_old(self, now_ns);
    for (size_t i = 0; i < self->n_cuts; i++) {
        const tr__cut cut = self->cuts[i];
        int32_t m = whom_to_give_up(self, &cut);
        bool all_said = now_ns > cut.since_ns + GATHER_MS * 1000000ull;
        if (!all_said || !is_well(self, cut.one, now_ns) || !is_well(self, cut.other, now_ns)) continue;
        bool is_idle = is_spare(self, m) && self->head->phase == TR_HEAD_RUNNING;
        if (is_idle) {
            put_aside(self, &cut, m);
            continue;
        }
        give_up(self, &cut, m);
        return; /* the next look is at who is left */
    }
}
