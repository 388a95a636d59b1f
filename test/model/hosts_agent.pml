/* test/model/hosts_agent.pml - a part of hosts.pml, which includes it: agents, and the workers that they start.
 * SPDX-License-Identifier: Apache-2.0 */

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
