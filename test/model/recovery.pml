/* test/model/recovery.pml - what docs/recovery.md promises, as a Promela model that Spin searches exhaustively.
 * It follows the code step by step; each step names the function that it stands for. A handler that nobody can see the middle of
 * is one atomic step; where a death in the middle leaves a trace (a slot half written, a checkpoint half named) it is two.
 * In four files: what there is and how it begins stands here.
 * Left out is what docs/faults.md lists. Which faults there are, and how many, is given on the command line (check.sh);
 * -DBREAK_... breaks one rule of the design, and some property must notice.
 * SPDX-License-Identifier: Apache-2.0 */

#ifndef WORKERS
#define WORKERS 2 /* each hosts one stage */
#endif
#ifndef STEPS
#define STEPS 3 /* of the training */
#endif
#ifndef SAVE_EVERY
#define SAVE_EVERY 2 /* checkpoint.every; the last step has one too */
#endif
#ifndef DEATHS
#define DEATHS 0 /* of workers */
#endif
#ifndef AGENT_DEATHS
#define AGENT_DEATHS 0 /* another one goes on with the workers and their slots */
#endif
#ifndef MEMORY_LOSSES
#define MEMORY_LOSSES 0 /* each takes agent, workers and slots along: a host of which nobody has copies */
#endif
#ifndef HEAD_DEATHS
#define HEAD_DEATHS 0 /* each ends the job; --resume follows */
#endif
#ifndef ROTS
#define ROTS 0 /* slots whose bits flip */
#endif
#ifndef MONITOR_LAG
#define MONITOR_LAG 2 /* records that the monitor may have before it and not yet taken: an assumption, see below */
#endif

#define RECORDS 4 /* TR_COORDINATOR_RECORDS */
#define NONE 255  /* NO_CHECKPOINT */
#define TORN 15   /* content of a slot: not what was published */
#define WRONG 14  /* or computed from a wrong state */

/* A generation is one more than the updates in it; 0: a slot that is not valid (runtime/state.h). */
#define GENERATION(updates) ((updates) + 1)
#ifdef SAVE_FIRST /* after the first step and the last one only */
#define SAVED_AFTER(updates) ((updates) == 1 || (updates) == STEPS)
#else
#define SAVED_AFTER(updates) ((updates) > 0 && ((updates) % SAVE_EVERY == 0 || (updates) == STEPS))
#endif

mtype = { hello, loaded, ready, updated, chunk }; /* from a worker: HELLO, READY (to start); READY, UPDATED, state */
mtype = { load, start, renew };                   /* the head's words to a worker: LOAD, START, EPOCH */
mtype = { commit, save };                         /* the coordinator's to a stage: COMMIT, CHECKPOINT */

/* ---- processes and wires ---- */

mtype = { off, dead, new, greeted, loading, prepared, computing, waiting, committed, writing };
mtype at[WORKERS] = off;   /* where the process of a worker is; dead: not yet reaped */
byte epoch_of[WORKERS];    /* tr_worker.epoch, which is its node's incarnation too */
byte step[WORKERS];        /* tr__stage.step: updates in the slot it computes from */
bit current[WORKERS];      /* tr__stage.slot */
byte wanted[WORKERS];      /* tr__stage.wanted: the checkpoint it has to stream; 0: none */
bit commit_sound[WORKERS]; /* the commit at hand was made of right sums */

typedef slots {
    byte generation[2];
    byte content[2]; /* updates that its bytes truly are the result of, or TORN, WRONG */
};
slots memory[WORKERS]; /* the agent's memfds, of which the head has duplicates: outlive worker and agent */

/* A worker's frames to the head: kind, epoch, and two numbers. What a worker had sent before it died or made a new node
 * stays and comes late. */
chan up[WORKERS] = [6] of { mtype, byte, byte, byte };
chan down[WORKERS] = [3] of { mtype, byte, byte };      /* SYSTEM frames, which carry no epoch: bound to the link */
chan words[WORKERS] = [8] of { mtype, byte, byte, bit }; /* the coordinator's: kind, epoch, step; they come late too */
chan to_agent = [4] of { byte };                        /* EPOCH */
chan ended = [4] of { byte };                           /* WORKER_ENDED */
bool agent_lives = true;
byte agent_epoch;                                       /* agent.epoch */

/* ---- the head ---- */

mtype = { greeting, preparing, running, finished };
mtype phase = greeting;
byte epoch;    /* tr_head.epoch */
byte recorded; /* the last one in epochs.jsonl */
bool has_greeted[WORKERS], is_ready[WORKERS];
byte link[WORKERS];               /* incarnation of the worker that the head's control link leads to */
byte newest[WORKERS], older[WORKERS]; /* hello.generations */
byte began_at;                    /* tr__training.start.updates */
byte first_step;                  /* plan.first_step */
bool plan_again;                  /* plan.again */

/* coordinator: of one life */
byte at_step, n_ready, n_updated, last_saved = NONE, n_saving;
bit sums_sound = 1;
/* tr_coordinator_journal: of all lives in one head */
byte record_step[RECORDS];
bit record_sound[RECORDS];
byte saved, asked[2];
bool has_begun; /* tr_coordinator_newest() > 0 */

/* monitor and log */
chan records = [MONITOR_LAG] of { byte, bit }; /* the monitor's mailbox: step, and whether its numbers are right */
byte taken;                                    /* monitor.recorded, of one life */
byte logged;                                   /* last line of log.jsonl */

/* checkpoint actor and disk */
chan to_save = [2] of { byte };
byte saving;            /* wanted[0]; 0: none */
bool arrived[WORKERS];  /* whose state is there */
bool naming;            /* between removing an older one of that name and rename() */
byte report;            /* CHECKPOINTED on its way to the coordinator; 0: none */
byte on_disk;           /* the newest that verifies; 0: none, the beginning. checkpoint.keep = 1 */

/* ---- ghosts: what only the properties look at ---- */

byte acted[WORKERS];      /* the last epoch in which a life of this slot had actors */
byte promised;            /* the newest checkpoint that people were told of */
bool memory_lost, rotten; /* why no common generation may be left */
byte deaths = DEATHS, agent_deaths = AGENT_DEATHS, head_deaths = HEAD_DEATHS, rots = ROTS;
byte memory_losses = MEMORY_LOSSES;

/* Scratch of one step; zero between steps. */
byte i, j, g, before;
byte common[2];

#define runs(w) (at[w] != off && at[w] != dead)
#define has_actors(w) (at[w] == computing || at[w] == waiting || at[w] == committed || at[w] == writing)

inline purge_down(w)
{
    do
    :: down[w]?_, _, _
    :: empty(down[w]) -> break
    od
}

/* tr_control_send_note, tr_node_send_system: goes over the link that the head has, and with it where that is broken. */
inline tell(w, word, x, y)
{
    if
    :: runs(w) && at[w] != new && link[w] == epoch_of[w] ->
        assert(nfull(down[w]));
        down[w]!word(x, y)
    :: else -> skip
    fi
}

inline end_life(w)
{
    at[w] = dead;
    step[w] = 0;
    current[w] = 0;
    wanted[w] = 0;
    commit_sound[w] = 0;
    purge_down(w)
}

/* tr_worker_end_epoch: a new node with a new link; the slots' memory stays. */
inline begin_node(w, e)
{
    at[w] = new;
    epoch_of[w] = e;
    step[w] = 0;
    current[w] = 0;
    wanted[w] = 0;
    commit_sound[w] = 0;
    purge_down(w)
}

inline tidy()
{
    i = 0;
    j = 0;
    g = 0;
    before = 0;
    common[0] = 0;
    common[1] = 0
}

#include "recovery_worker.pml"
#include "recovery_head.pml"
#include "recovery_faults.pml"

init
{
    atomic {
        epoch = 1;
        recorded = 1;
        agent_epoch = 1;
        i = 0;
        do
        :: i < WORKERS ->
            memory[i].content[0] = TORN;
            memory[i].content[1] = TORN;
            i++
        :: else -> break
        od;
        start_missing();
        run agent();
        run head_itself();
        run great_fate();
        j = 0;
        i = 0;
        do
        :: i < WORKERS ->
            run worker(i);
            run reaper(i);
            run head(i);
            run fate(i);
            i++
        :: else -> break
        od
    }
}
