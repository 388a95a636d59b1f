/* test/model/hosts.pml - states on several hosts, with a copy of each on another one, as a Promela model that Spin searches
 * exhaustively: docs/recovery.md, "When a host dies". Whatever host dies, a generation is left that all hold.
 * Each step names the function that it stands for. What recovery.pml shows is taken as given here: that nothing between head
 * and workers outlives its epoch, the log, checkpoints ("the disk" is the training's beginning). What does outlive an epoch
 * is searched: transfers between agents, and their words to the head.
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

/* ---- the head: who has what (hosts.c) ---- */

#define has_state(h, s)                                                                                       \
    (present[h] && ((valid[s] && home[s] == (h)) || (copy[s] == (h) && copied[s] > 0)))

/* find_homes, best_home: the lost host's worker goes to a spare, or to who has its state */
inline find_home(s)
{
    if
    :: home[s] == NOBODY ->
        m = 0;
        do
        :: m < HOSTS && !(present[m] && is_spare[m]) -> m++
        :: else -> break
        od;
        if
        :: m < HOSTS -> is_spare[m] = false
        :: m == HOSTS && copy[s] != NOBODY && has_state(copy[s], s) -> m = copy[s]
        :: else -> m = 0
        fi;
        home[s] = m
    :: else -> skip
    fi
}

/* find_state */
inline find_state(s)
{
    source[s] = NOBODY;
    if
    :: has_state(home[s], s) -> source[s] = home[s]
    :: else ->
        m = 0;
        do
        :: m < HOSTS && !has_state(m, s) -> m++
        :: else -> break
        od;
        if
        :: m < HOSTS -> source[s] = m
        :: else -> skip
        fi
    fi
}

/* choose_copies */
inline choose_copy(s)
{
    m = NOBODY;
    if
    :: copy[s] != NOBODY && present[copy[s]] && copy[s] != home[s] -> m = copy[s]
    :: else ->
        k = 1;
        do
        :: k < HOSTS && !present[(home[s] + k) % HOSTS] -> k++
        :: else -> break
        od;
        if
        :: k < HOSTS -> m = (home[s] + k) % HOSTS
        :: else -> skip
        fi
    fi;
    if
    :: m != copy[s] ->
        copied[s] = 0;
        copy[s] = m
    :: else -> skip
    fi
}

inline send_homes()
{
    j = 0;
    mask = lives << 4;
    do
    :: j < HOSTS ->
        if
        :: present[j] -> mask = mask | (1 << j)
        :: else -> skip
        fi;
        j++
    :: else -> break
    od;
    j = 0;
    do
    :: j < HOSTS ->
        if
        :: present[j] && is_up[j] ->
            assert(nfull(homes_to[j]));
            homes_to[j]!epoch, mask, home[0], source[0], copy[0], home[1], source[1], copy[1]
        :: else -> skip
        fi;
        j++
    :: else -> break
    od
}

/* settle */
inline settle()
{
    d_step {
        find_home(0);
        find_home(1);
        find_state(0);
        find_state(1);
        choose_copy(0);
        choose_copy(1)
    }
    send_homes();
    source[0] = 0;
    source[1] = 0
}

/* tell_copied; the coordinator takes TR_TOPIC_COPIED before any READY that comes later */
inline tell_copied()
{
    i = NOBODY;
    k = 0;
    do
    :: k < STATES ->
        if
        :: copy[k] != NOBODY && copied[k] < i -> i = copied[k]
        :: else -> skip
        fi;
        k++
    :: else -> break
    od;
    if
    :: i != NOBODY && i != told ->
        told = i;
        copied_by_all = i
    :: else -> skip
    fi
}

/* tr_head_recover, tr_head_begin_epoch, call_everybody, tr_hosts_call */
inline recover()
{
    epoch++;
    phase = meeting;
    i = 0;
    do
    :: i < STATES ->
        is_late[i] = runs(i);
        has_greeted[i] = false;
        is_ready[i] = false;
        newest[i] = 0;
        older[i] = 0;
        load_for[i] = 0;
        i++
    :: else -> break
    od;
    told = NOBODY;
    copied_by_all = NOBODY;
    settle()
}

/* common_generations, tr_head_begin_again, load */
inline begin_again()
{
    j = 0;
    if
    :: newest[0] && (newest[0] == newest[1] || newest[0] == older[1]) -> common[0] = newest[0]
    :: else -> common[0] = (older[0] == newest[1] || older[0] == older[1] -> older[0] : 0)
    fi;
    assert(common[0] || excused || generation == 1); /* a generation is left that all hold */
    assert(excused || common[0] + 1 >= generation);  /* and nothing but the last step is run again */
    generation = (common[0] -> common[0] : 1);
    needed = generation;
    phase = preparing;
    d_step {
        k = 0;
        do
        :: k < STATES ->
            is_ready[k] = false;
            has_greeted[k] = false;
            newest[k] = 0;
            older[k] = 0;
            k++
        :: else -> break
        od
    }
    load_for[0] = (common[0] -> common[0] : DISK);
    load_for[1] = load_for[0]
}

#if HOSTS > 2
#define all_losses_are_known (is_up[0] == present[0] && is_up[1] == present[1] && is_up[2] == present[2])
#else
#define all_losses_are_known (is_up[0] == present[0] && is_up[1] == present[1])
#endif

/* start, tr_hosts_started. Whoever has died since it was ready hears nothing. */
inline start()
{
    phase = running;
    excused = (excused && !all_losses_are_known);
    j = 0;
    do
    :: j < STATES ->
        valid[j] = true;
        is_ready[j] = (at[j] == prepared); /* and READY for the first step at once */
        at[j] = (at[j] == prepared -> waiting : at[j]);
        j++
    :: else -> break
    od;
    tell_copied()
}

/* ---- a worker with one stage ---- */

proctype worker(byte s)
{
    byte g;
end:
    do
    :: atomic { /* tr_worker_end_epoch */
           runs(s) && is_late[s] ->
           end_worker(s, greeting)
       }
    :: atomic { /* greet: tr_state_discard_rotten; greeted, common_generations */
           at[s] == greeting && !is_late[s] ->
           d_step {
               j = 0;
               do
               :: j < 2 ->
                   if
                   :: !mine(s).sound[j] -> mine(s).generation[j] = 0
                   :: else -> skip
                   fi;
                   j++
               :: else -> break
               od;
               j = newer_slot(mine(s))
           }
           at[s] = greeted;
           if
           :: home[s] == where[s] && phase == meeting -> /* tr_hosts_is_home */
               has_greeted[s] = true;
               newest[s] = mine(s).generation[j];
               older[s] = mine(s).generation[1 - j];
               if
               :: has_greeted[0] && has_greeted[1] -> begin_again()
               :: else -> skip
               fi
           :: else -> skip
           fi;
           tidy()
       }
    :: atomic { /* load_slot, adopt_slot */
           at[s] == greeted && load_for[s] && !is_late[s] ->
           if
           :: load_for[s] == DISK ->
               mine(s).generation[0] = 1;
               mine(s).sound[0] = true;
               mine(s).generation[1] = 0;
               mine(s).sound[1] = false;
               current[s] = 0
           :: else ->
               current[s] = (mine(s).generation[1] == load_for[s]);
               assert(mine(s).generation[current[s]] == load_for[s]);
               assert(mine(s).sound[current[s]]); /* nobody goes on from bytes that are not the generation's */
               if
               :: mine(s).generation[1 - current[s]] > load_for[s] ->
                   mine(s).generation[1 - current[s]] = 0;
                   mine(s).sound[1 - current[s]] = false
               :: else -> skip
               fi
           fi;
           load_for[s] = 0;
           at[s] = prepared;
           is_ready[s] = true;
           if
           :: is_ready[0] && is_ready[1] -> start()
           :: else -> skip
           fi;
           tidy()
       }
    :: atomic { /* COMMIT; tr__update_apply, tr_state_open */
           at[s] == waiting && commit_for[s] ->
           assert(commit_for[s] == mine(s).generation[current[s]] + 1);
           commit_for[s] = 0;
           at[s] = writing;
           mine(s).generation[1 - current[s]] = 0;
           mine(s).sound[1 - current[s]] = false
       }
    :: atomic { /* tr_state_publish, the vote, and READY for the step after */
           at[s] == writing ->
           g = mine(s).generation[current[s]];
           current[s] = 1 - current[s];
           mine(s).generation[current[s]] = g + 1;
           mine(s).sound[current[s]] = true;
           at[s] = waiting;
           is_ready[s] = !is_late[s];
           g = 0
       }
    od
}

/* ---- the head: the coordinator, and what it hears ---- */

#ifdef BREAK_NO_WAIT
#define waits_for_copies false
#else
#define waits_for_copies (copied_by_all < generation)
#endif

proctype head()
{
    byte s, g;
    do
    :: atomic { /* commit_when_ready */
           phase == running && is_ready[0] && is_ready[1] && generation <= STEPS && !waits_for_copies ->
           needed = generation;
           generation++;
           commit_for[0] = generation;
           commit_for[1] = generation;
           is_ready[0] = false;
           is_ready[1] = false
       }
    :: atomic { /* end_when_done */
           phase == running && generation == STEPS + 1 && is_ready[0] && is_ready[1] -> phase = finished
       }
    :: phase == finished -> break
    od
}

/* What the head hears from an agent: HELD; and its death. */
proctype ear(byte h)
{
    byte s, g;
end:
    do
    :: atomic { /* tr_hosts_hear */
           held_by[h]?[_, _] ->
           held_by[h]?s, g;
           if
           :: copy[s] == h ->
               copied[s] = (g > copied[s] -> g : copied[s]);
               if
               :: phase == running -> tell_copied()
               :: else -> skip
               fi
           :: else -> skip
           fi;
           s = 0;
           g = 0;
           tidy()
       }
    :: atomic { /* lose, cut_off, forget_states; tr_hosts_agent_ended */
           present[h] && !is_up[h] && phase != finished ->
           present[h] = false;
           is_spare[h] = false;
           i = 0;
           do
           :: i < STATES ->
               if
               :: home[i] == h ->
                   valid[i] = false;
                   home[i] = (h -> NOBODY : 0)
               :: else -> skip
               fi;
               if
               :: copy[i] == h ->
                   copy[i] = NOBODY;
                   copied[i] = 0
               :: else -> skip
               fi;
               i++
           :: else -> break
           od;
           recover();
           tidy()
       }
    :: atomic { /* tr_hosts_greeted: the head's own comes again */
           h == 0 && !present[0] && phase != finished ->
           is_up[0] = true;
           lives++;
           present[0] = true;
           settle();
           tidy()
       }
    od
}

/* ---- an agent (agent_hosts.c) ---- */

#define pages memory[AT(h, s)]
#define OUT(s) out[AT(h, s)]
#define IN(s) in[AT(h, s)]

inline forget_transfer(x)
{
    x.generation = 0;
    x.slot = 0;
    x.n_parts = 0
}

/* begin_transfers, for one state */
inline begin_transfer(s, its_home, its_source, its_copy)
{
    home_of[AT(h, s)] = its_home;
    forget_transfer(OUT(s));
    OUT(s).to = NOBODY;
    OUT(s).goes_on = false;
    OUT(s).ended = false;
    OUT(s).sent[0] = 0;
    OUT(s).sent[1] = 0;
    IN(s).expected = false;
    IN(s).generation = 0;
    IN(s).slot = 0;
    IN(s).sound = false;
    if
    :: its_home == h ->
        IN(s).expected = (!(runs(s) && where[s] == h) && its_source != NOBODY && its_source != h);
        if
        :: its_copy != NOBODY && its_copy != h ->
            OUT(s).to = its_copy;
            OUT(s).goes_on = true
        :: else -> skip
        fi
    :: its_home != h && its_source == h -> OUT(s).to = its_home
    :: else -> skip
    fi
}

/* tr__agent_hosts_start, tr__agent_hosts_are_ready */
#ifdef BREAK_NO_EXPECTATION
#define is_there(s) true
#else
#define is_there(s) (!IN(s).expected)
#endif
inline start_worker(s)
{
    if
    :: home_of[AT(h, s)] == h && is_there(s) && at[s] == off ->
        end_worker(s, greeting);
        where[s] = h;
        is_late[s] = (agent_epoch[h] != epoch)
    :: else -> skip
    fi
}

/* begin_slot, next_slot. Handed over are both, the older one first; of those copied what has not gone, in that order: everybody
 * may go back to the older one. */
#ifdef BREAK_NEWEST_ONLY
#define is_next(k) false
#else
#define is_next(k) (pages.generation[k] > OUT(s).sent[0])
#endif
#define was_sent(g) ((g) == OUT(s).sent[0] || (g) == OUT(s).sent[1])
inline choose_slot()
{
    j = newer_slot(pages);
    if
    :: OUT(s).goes_on && is_next(1 - j) -> k = 1 - j
    :: OUT(s).goes_on && !is_next(1 - j) && pages.generation[j] > OUT(s).sent[0] -> k = j
    :: !OUT(s).goes_on && pages.generation[1 - j] && !was_sent(pages.generation[1 - j]) -> k = 1 - j
    :: !OUT(s).goes_on && (!pages.generation[1 - j] || was_sent(pages.generation[1 - j])) && pages.generation[j] &&
           !was_sent(pages.generation[j]) -> k = j
    :: else -> k = NOBODY
    fi
}

#define has_newer(s)                                                                                          \
    (memory[AT(h, s)].generation[0] > OUT(s).sent[0] || memory[AT(h, s)].generation[1] > OUT(s).sent[0])
#define can_pump(s)                                                                                           \
    (OUT(s).to != NOBODY && reaches(h, OUT(s).to) && nfull(WIRE(h, OUT(s).to)) && OUT(s).n_parts < 2 && !OUT(s).ended &&                                         \
     (OUT(s).n_parts == 1 || !OUT(s).goes_on || has_newer(s)))
#define is_idle(peer) (empty(WIRE(h, peer)) && empty(WIRE(peer, h)))
#ifdef BREAK_END_ONCE
#define waits_in_vain(s) false
#else /* only where it matters, so that there are fewer states */
#define waits_in_vain(s) (OUT(s).ended && in[AT(OUT(s).to, s)].expected)
#endif
#define was_not_heard(s)                                                                                      \
    (OUT(s).to != NOBODY && reaches(h, OUT(s).to) && (OUT(s).n_parts == 2 || waits_in_vain(s)) && is_idle(OUT(s).to))
#define can_hear(p) (p != h && nempty(WIRE(p, h)) && nfull(held_by[h]))

/* hear_taken. It comes at once: later is as if the last part had been later. */
inline taken(peer, s, g, good)
{
    if
    :: out[AT(peer, s)].to == h && out[AT(peer, s)].generation == g ->
        if
        :: good ->
            out[AT(peer, s)].sent[1] = (out[AT(peer, s)].goes_on -> 0 : out[AT(peer, s)].sent[0]);
            out[AT(peer, s)].sent[0] = g
        :: else -> skip /* overwritten while it was read: once more */
        fi;
        forget_transfer(out[AT(peer, s)])
    :: else -> skip
    fi
}

/* finish */
inline whole(peer, s, g)
{
    taken(peer, s, g, true);
    if
    :: !IN(s).expected ->
        held_by[h]!s, g
    :: else -> skip
    fi
}

#ifdef BREAK_NEWEST_OVERWRITTEN
#define worst_slot(r) newer_slot(r)
#else
#define worst_slot(r) (r.generation[1] < r.generation[0])
#endif

#define listens(p, s, who) ((known[p] & (1 << (who))) && (home_of[AT(p, s)] != (p) || in[AT(p, s)].expected))

/* take_bytes of the first part; that is never late by itself. */
inline open_intake(peer, s, g, sound)
{
    if
    :: listens(peer, s, h) && memory[AT(peer, s)].generation[0] != g && memory[AT(peer, s)].generation[1] != g ->
        j = worst_slot(memory[AT(peer, s)]); /* begin_intake, tr_state_open */
        in[AT(peer, s)].slot = j;
        in[AT(peer, s)].generation = g;
        in[AT(peer, s)].sound = sound;
        memory[AT(peer, s)].generation[j] = 0;
        memory[AT(peer, s)].sound[j] = false
#ifdef BREAK_HELD_EARLY
        ;
        held_by[peer]!s, g
#endif
    :: else -> skip
    fi
}

/* take_bytes of the rest */
inline take_part(peer, s, g, sound)
{
    if
    :: pages.generation[0] == g || pages.generation[1] == g -> whole(peer, s, g) /* slot_holding: equal generations have equal bytes */
    :: pages.generation[0] != g && pages.generation[1] != g && IN(s).generation == g ->
        IN(s).generation = 0;
        sound = (sound && IN(s).sound);
        IN(s).sound = false;
        if
        :: sound -> /* tr_state_admit */
            pages.generation[IN(s).slot] = g;
            pages.sound[IN(s).slot] = sound;
            whole(peer, s, g)
        :: else -> taken(peer, s, g, false)
        fi;
        IN(s).slot = 0
    :: else -> skip /* of a transfer that was begun again */
    fi
}

proctype agent(byte h)
{
    byte s, g, peer, e, h0, s0, c0, h1, s1, c1;
    bool sound;
end:
    do
    :: atomic { /* take_homes */
           is_up[h] && homes_to[h]?[_, _, _, _, _, _, _, _] ->
           homes_to[h]?e, known[h], h0, s0, c0, h1, s1, c1;
           if
           :: e >= agent_epoch[h] ->
               agent_epoch[h] = e;
               s = 0;
               begin_transfer(0, h0, s0, c0);
               start_worker(0);
               s = 1;
               begin_transfer(1, h1, s1, c1);
               start_worker(1)
           :: else -> skip
           fi;
           s = 0;
           e = 0;
           h0 = 0;
           s0 = 0;
           c0 = 0;
           h1 = 0;
           s1 = 0;
           c1 = 0;
           tidy()
       }
    :: atomic { /* on_worker_end: reaps one, tells the head; start when homes are heard of */
           is_up[h] && ((at[0] == dead && where[0] == h) || (at[1] == dead && where[1] == h)) &&
           phase != finished ->
           s = (at[0] == dead && where[0] == h -> 0 : 1);
           at[s] = off;
           where[s] = 0;
           if
           :: present[h] -> recover()
           :: else -> skip
           fi;
           s = 0;
           tidy()
       }
#ifndef BREAK_NO_RESEND
    :: atomic { /* tr__agent_hosts_on_tick: STUCK_MS, in which all that was under way has come */
           is_up[h] && phase != finished && (was_not_heard(0) || was_not_heard(1)) ->
           if
           :: was_not_heard(0) -> s = 0
           :: else -> s = 1
           fi;
           OUT(s).ended = false;
           forget_transfer(OUT(s));
           s = 0;
           tidy()
       }
#endif
    /* pump: parts of a slot, as its bytes are at that moment */
    :: atomic {
           is_up[h] && phase != finished && (can_pump(0) || can_pump(1)) ->
           if
           :: can_pump(0) -> s = 0
           :: can_pump(1) -> s = 1
           fi;
           peer = OUT(s).to;
           if
           :: OUT(s).generation == 0 ->
               choose_slot();
               if
               :: k == NOBODY -> /* all is handed over */
                   OUT(s).ended = true;
                   WIRE(h, peer)!nothing_more(s, 0, false)
               :: else ->
                   OUT(s).slot = k;
                   OUT(s).generation = pages.generation[k];
                   OUT(s).n_parts = 1;
                   g = OUT(s).generation;
                   sound = pages.sound[k];
                   open_intake(peer, s, g, sound);
                   g = 0;
                   sound = false
               fi
           :: OUT(s).generation != 0 ->
               OUT(s).n_parts = 2;
               WIRE(h, peer)!part(s, OUT(s).generation,
                                  pages.generation[OUT(s).slot] == OUT(s).generation && pages.sound[OUT(s).slot])
           fi;
           s = 0;
           peer = 0;
           tidy()
       }
    :: atomic { /* hear_part, hear_taken */
           is_up[h] && phase != finished && (can_hear(0) || can_hear(1) || can_hear(HOSTS - 1)) ->
           if
           :: can_hear(0) -> peer = 0
           :: can_hear(1) -> peer = 1
#if HOSTS > 2
           :: can_hear(2) -> peer = 2
#endif
           fi;
           if
           :: WIRE(peer, h)?part(s, g, sound) ->
               if
               :: listens(h, s, peer) -> take_part(peer, s, g, sound)
               :: else -> skip
               fi
           :: WIRE(peer, h)?nothing_more(s, _, _) ->
               if
               :: (known[h] & (1 << peer)) && IN(s).expected ->
                   IN(s).expected = false;
                   start_worker(s)
               :: else -> skip
               fi
           fi;
           s = 0;
           g = 0;
           peer = 0;
           sound = false;
           tidy()
       }
    od
}

/* ---- what goes wrong ---- */

inline empty_memory(h)
{
    i = 0;
    do
    :: i < STATES ->
        memory[AT(h, i)].generation[0] = 0;
        memory[AT(h, i)].generation[1] = 0;
        memory[AT(h, i)].sound[0] = false;
        memory[AT(h, i)].sound[1] = false;
        out[AT(h, i)].to = NOBODY;
        out[AT(h, i)].goes_on = false;
        out[AT(h, i)].ended = false;
        out[AT(h, i)].sent[0] = 0;
        out[AT(h, i)].sent[1] = 0;
        forget_transfer(out[AT(h, i)]);
        in[AT(h, i)].expected = false;
        in[AT(h, i)].generation = 0;
        in[AT(h, i)].slot = 0;
        in[AT(h, i)].sound = false;
        home_of[AT(h, i)] = NOBODY;
        if
        :: at[i] != off && where[i] == h ->
            end_worker(i, off);
            where[i] = 0
        :: else -> skip
        fi;
        i++
    :: else -> break
    od;
    known[h] = 0;
    agent_epoch[h] = 0
}

/* With it go the links to it: tr__agent_hosts_lost_link */
inline break_links(h)
{
    do
    :: homes_to[h]?_, _, _, _, _, _, _, _
    :: empty(homes_to[h]) -> break
    od;
    do
    :: held_by[h]?_, _
    :: empty(held_by[h]) -> break
    od;
    i = 0;
    do
    :: i < HOSTS ->
        do
        :: WIRE(i, h)?_, _, _, _
        :: empty(WIRE(i, h)) -> break
        od;
        do
        :: WIRE(h, i)?_, _, _, _
        :: empty(WIRE(h, i)) -> break
        od;
        j = 0;
        do
        :: j < STATES ->
            if
            :: out[AT(i, j)].to == h ->
                forget_transfer(out[AT(i, j)]);
                out[AT(i, j)].ended = false
            :: else -> skip
            fi;
            j++
        :: else -> break
        od;
        i++
    :: else -> break
    od
}

/* Who may be lost without loss, as far as the head knows: a worker's state is in its home, or else as a copy elsewhere. Until
 * new copies are whole a second loss may be too much. */
#define holds(h, s)                                                                                           \
    (is_up[h] && present[h] && ((valid[s] && home[s] == (h)) || (copy[s] == (h) && copied[s] >= needed)))
#define is_safe(s, h)                                                                                         \
    ((h != 0 && holds(0, s)) || (h != 1 && holds(1, s)) || (HOSTS > 2 && h != HOSTS - 1 && holds(HOSTS - 1, s)))

#ifdef LOST_HOST
#define MAY_BE_LOST(h) ((h) == LOST_HOST)
#else
#define MAY_BE_LOST(h) true
#endif

proctype fate(byte h)
{
end:
    do
    :: atomic { /* a host is lost; what it had said and nobody has heard is lost as well */
           losses > 0 && MAY_BE_LOST(h) && is_up[h] && present[h] && phase != finished ->
           losses--;
           excused = (excused || !is_safe(0, h) || !is_safe(1, h));
           is_up[h] = false;
           empty_memory(h);
           break_links(h);
           tidy()
       }
    :: atomic {
           deaths > 0 && losses < LOSSES && h < STATES && runs(h) && phase != finished ->
           deaths--;
           end_worker(h, dead);
           tidy()
       }
    od
}

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
