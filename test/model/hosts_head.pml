/* test/model/hosts_head.pml - a part of hosts.pml, which includes it: the head: who has what, epochs, and the coordinator.
 * SPDX-License-Identifier: Apache-2.0 */

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
