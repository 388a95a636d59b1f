/* runtime/hosts_internal.h - what the head keeps of its job's hosts, shared by hosts.c (who comes, who is lost, who runs what) and
 * hosts_change.c (another layout, and who leaves).
 * Internal to runtime/.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_RUNTIME_HOSTS_INTERNAL_H
#define TROUPE_RUNTIME_HOSTS_INTERNAL_H

#include "runtime/door.h"
#include "runtime/host_activity.h"
#include "runtime/hosts.h"

enum { TR__HOST_LINE_BYTES = TR_ERROR_SIZE + 256 };

typedef struct tr__member {
    int32_t host; /* that it plays in the plan; -1: a spare */
    bool present, has_left;
    bool knows;    /* was told the homes of this epoch */
    bool leaving;  /* is asked to: gets no more work, and goes when it has none */
    bool prepared; /* its part of the change at hand */
    bool quarantined;
    bool told_former;    /* what it has of a head before */
    uint32_t n_mistakes; /* of its processes */
    char name[TR_HOST_NAME_CHARS], address[TR_BIND_CHARS];
    uint64_t heard_ns, broken_ns; /* broken_ns 0: its link is well */
    uint64_t knocked_ns;          /* when it was told to come */
    uint32_t
        incarnation; /* that it has to greet with, at least: its number may have been another's, who never did */
    bool was_cut_off;        /* from others, and was lost for it */
    uint64_t apart_until_ns; /* it gets no work before: whether others reach it is not known. 0: it may */
} tr__member;

typedef struct tr__former_of {
    int32_t member;
    tr_former what;
} tr__former_of;

typedef struct tr__cut { /* two members, of which one at least does not hear the other */
    int32_t one, other;
    uint64_t since_ns, told_ns, silent_ns;
} tr__cut;

struct tr_hosts {
    tr_head *head;
    const tr_job_hosts *options;
    int32_t count; /* these three as in the options, of the present layout */
    const int32_t *host_of;
    const uint32_t *equals;
    tr_door *door;
    tr_launch launch;
    tr_join_request mine;
    tr__member *members;
    int32_t n_members;
    int32_t *home;             /* by node, of any layout: a member; -1: none */
    bool *valid;               /* by actor, like the next two: see hosts.c */
    int32_t *copy;             /* the member that keeps a copy; -1: none */
    uint64_t *copied;          /* the newest generation that it has whole; 0: none */
    uint64_t told;             /* the newest that all copies have, as `options->told` knows it */
    bool all_came;             /* once */
    uint64_t awaited_until_ns; /* 0: nobody is */
    uint64_t settled_ns, beat_ns;
    uint64_t came_on_ns; /* what workers begin with did, last */
    tr__cut *cuts;
    size_t n_cuts, cuts_capacity;
    uint64_t asked_ns; /* when a change was last asked for */
    tr_host_pages *pages;
    /* Behind another head, until all are ready (hosts_former.c): */
    bool takes_former;
    tr__former_of *formers; /* n_formers: what agents have told */
    size_t n_formers, formers_capacity;
    uint64_t former_generation; /* that is gone on from; 0: none is complete */
    /* Of the change at hand: */
    int32_t *next_home; /* by node of the next layout */
    int32_t *next_host; /* by member: what it plays then */
    int32_t *next_copy; /* by actor of the next layout; NULL: none was planned yet */
};

static inline int32_t tr__hosts_first_agent(const tr_hosts *self)
{
    return self->head->agent; /* member 0's node */
}

static inline bool tr__hosts_is_here(const tr_hosts *self, int32_t m)
{
    return m >= 0 && self->members[m].present;
}

/* One that may get work. */
static inline bool tr__hosts_stays(const tr_hosts *self, int32_t m)
{
    return tr__hosts_is_here(self, m) && !self->members[m].leaving && !self->members[m].apart_until_ns;
}

/* hosts_quarantine.c: is it a host that may not come again? Then it is told to end. */
bool tr__hosts_is_banned(tr_hosts *self, int32_t m);
/* hosts_members.c: a number for one who knocks; -1: there is none. Has it come who was told to, and not one before it? */
int32_t tr__hosts_new_member(tr_hosts *self);
bool tr__hosts_is_expected(const tr_hosts *self, int32_t m, uint32_t incarnation);
void tr__hosts_beat(tr_hosts *self, uint64_t now_ns);
void tr__hosts_look_at_members(tr_hosts *self, uint64_t now_ns);  /* who is silent is lost */
bool tr__hosts_is_same_place(const char *one, const char *other); /* addresses, up to their ports */
/* hosts_routes.c: member m does not hear another one. Who comes again from where one was lost for that is kept apart. */
void tr__hosts_cut_off(tr_hosts *self, int32_t m, const tr_message *message);
bool tr__hosts_was_cut_off(tr_hosts *self, int32_t m);
void tr__hosts_look_at_routes(tr_hosts *self, uint64_t now_ns);
/* hosts_seen.c: what an agent tells of one of its workers. */
void tr__hosts_seen(tr_hosts *self, int32_t m, const tr_message *message);

/* hosts.c */
void tr__hosts_describe(const tr_hosts *self, int32_t m, char text[TR__HOST_LINE_BYTES]);
void tr__hosts_tell_homes(tr_hosts *self);       /* while all run: who is where, and who keeps copies */
int32_t tr__hosts_missing(const tr_hosts *self); /* a host of the plan that nobody plays; -1: none */
void tr__hosts_disconnect_worker(tr_hosts *self, int32_t node);
void tr__hosts_lose(tr_hosts *self, int32_t m, const char *why);

/* hosts_former.c: has the member what is gone on from, and under which index? */
bool tr__hosts_has_former(const tr_hosts *self, int32_t m, size_t i, uint32_t *as);
bool tr__hosts_hear_former(tr_hosts *self, int32_t m, const tr_message *message); /* is it about that? */
void tr__hosts_choose_former(tr_hosts *self);                                     /* by those who are here */
void tr__hosts_forget_former(tr_hosts *self);
/* Are all here with whom the job begins? */
bool tr__hosts_are_complete(tr_hosts *self);

/* hosts_change.c: is there a spare for a missing host, or does somebody leave who has work? Asks for a change then. */
void tr__hosts_consider(tr_hosts *self);
void tr__hosts_wants_to_leave(tr_hosts *self, int32_t m);
void tr__hosts_let_go(tr_hosts *self); /* of those who leave: who has nothing any more */
bool tr__hosts_has_work(const tr_hosts *self, int32_t m);
bool tr__hosts_has_part(const tr_hosts *self,
                        int32_t m); /* in the change that is prepared: work, or copies */
/* One is gone: what was prepared with it is not wanted any more. */
void tr__hosts_lost_in_change(tr_hosts *self, const char *text);

#endif
