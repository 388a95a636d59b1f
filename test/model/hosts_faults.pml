/* test/model/hosts_faults.pml - a part of hosts.pml, which includes it: hosts and workers that are lost.
 * SPDX-License-Identifier: Apache-2.0 */

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
