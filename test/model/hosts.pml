/* test/model/hosts.pml - states on several hosts, with a copy of each on another one, as a Promela model that Spin searches
 * exhaustively: docs/recovery.md, "When a host dies". Whatever host dies, a generation is left that all hold.
 * Each step names the function that it stands for. What recovery.pml shows is taken as given here: that nothing between head
 * and workers outlives its epoch, the log, checkpoints ("the disk" is the training's beginning). What does outlive an epoch
 * is searched: transfers between agents, and their words to the head.
 * In four files: what there is and how it begins stands here.
 * How many hosts, and what goes wrong, is given on the command line (check.sh); -DBREAK_... breaks one rule each.
 * SPDX-License-Identifier: Apache-2.0 */

#ifndef HOSTS
#define HOSTS 3 /* without -DNO_SPARE: state 0 at host 0, state 1 at the last one, and one between them for a lost one's work */
#endif
#ifndef STEPS
#define STEPS 3
#endif
#ifndef LOSSES
#define LOSSES 0 /* of hosts; host 0's agent comes again, with nothing */
#endif
#ifndef DEATHS
#define DEATHS 0 /* of workers */
#endif
#define STATES 2 /* a worker with a stage each */
#define NOBODY 7

typedef region {
    byte generation[2]; /* 0: not valid */
    bool sound[2];      /* its bytes are that generation's */
};
typedef stream { /* of a host, for one state: at most one */
    byte to;     /* NOBODY: there is none */
    bool goes_on, ended;
    byte generation; /* of what is under way; 0: nothing is */
    bit slot;
    byte n_parts; /* the next one; 2: all are sent */
    byte sent[2];
};
typedef intake {
    bool expected, sound;
    byte generation;
    bit slot;
};

#define AT(h, s) ((h) * STATES + (s))
region memory[HOSTS * STATES];
stream out[HOSTS * STATES];
intake in[HOSTS * STATES];

/* ---- workers ---- */

mtype = { off, dead, greeting, greeted, prepared, waiting, writing };
mtype at[STATES] = off;
byte where[STATES];
bit current[STATES];
bool is_late[STATES];    /* it lives in an epoch that is over, and will hear that */
byte commit_for[STATES]; /* COMMIT under way: of an update to that generation */
byte load_for[STATES];   /* LOAD under way: the generation, or DISK */
#define DISK 15
#define runs(s) (at[s] != off && at[s] != dead)
#define mine(s) memory[AT(where[s], s)]

/* ---- agents ---- */

byte home_of[HOSTS * STATES] = NOBODY; /* as the agent has heard */
byte known[HOSTS];                     /* bits: the members whose addresses it has; above them the life of 0's */
byte agent_epoch[HOSTS];
mtype = { part, nothing_more };
chan wire[HOSTS * HOSTS] = [2] of { mtype, byte, byte, bool }; /* state, generation, whether all that was read was that */
#define WIRE(from, to) wire[(from) * HOSTS + (to)]
chan homes_to[HOSTS] = [4] of { byte, byte, byte, byte, byte, byte, byte, byte };
chan held_by[HOSTS] = [3] of { byte, byte };
bool is_up[HOSTS] = true;
byte lives; /* of host 0's agent: each has another address */
#define reaches(h, peer) (is_up[peer] && (known[h] & (1 << (peer))) && ((peer) != 0 || known[h] >> 4 == lives))

/* ---- the head ---- */

mtype = { meeting, preparing, running, finished };
mtype phase = meeting;
byte epoch = 1;
bool present[HOSTS] = true, is_spare[HOSTS];
byte home[STATES], source[STATES], copy[STATES] = NOBODY, copied[STATES];
bool valid[STATES];
byte told = NOBODY;
bool has_greeted[STATES], is_ready[STATES];
byte newest[STATES], older[STATES];
byte generation = 1, copied_by_all = NOBODY; /* the coordinator's: step + 1; copied */

/* ---- ghosts ---- */

bool excused;    /* the last holder of some state is gone */
byte needed = 1; /* the generation that copies have whole before anything older is overwritten */
byte losses = LOSSES, deaths = DEATHS;

byte i, j, k, m, mask;
byte common[2];

inline tidy()
{
    i = 0;
    j = 0;
    k = 0;
    m = 0;
    mask = 0;
    common[0] = 0;
    common[1] = 0
}

#define newer_slot(r) (r.generation[1] > r.generation[0])

inline end_worker(s, how)
{
    at[s] = how;
    current[s] = 0;
    is_late[s] = false;
    commit_for[s] = 0;
    load_for[s] = 0
}

#include "hosts_head.pml"
#include "hosts_agent.pml"
#include "hosts_faults.pml"

init
{
    atomic {
#if HOSTS > 2
        home[1] = HOSTS - 1;
        is_spare[1] = true;
#else
        home[1] = 1;
#endif
        i = 0;
        do
        :: i < HOSTS * STATES ->
            out[i].to = NOBODY;
            i++
        :: else -> break
        od;
#ifdef FROM_START
        settle();
#else /* all run, and all copies are whole */
        choose_copy(0);
        choose_copy(1);
        m = 0;
        do
        :: m < HOSTS ->
            known[m] = (1 << HOSTS) - 1;
            agent_epoch[m] = 1;
            i = 0;
            do
            :: i < STATES ->
                home_of[AT(m, i)] = home[i];
                if
                :: home[i] == m ->
                    out[AT(m, i)].to = copy[i];
                    out[AT(m, i)].goes_on = true;
                    out[AT(m, i)].sent[0] = 1
                :: else -> skip
                fi;
                if
                :: home[i] == m || copy[i] == m ->
                    memory[AT(m, i)].generation[0] = 1;
                    memory[AT(m, i)].sound[0] = true
                :: else -> skip
                fi;
                where[i] = home[i];
                copied[i] = 1;
                i++
            :: else -> break
            od;
            m++
        :: else -> break
        od;
        at[0] = prepared;
        at[1] = prepared;
        start();
#endif
        run head();
        run worker(0);
        run worker(1);
        i = 0;
        do
        :: i < HOSTS ->
            run agent(i);
            run ear(i);
            run fate(i);
            i++
        :: else -> break
        od;
        tidy()
    }
}
