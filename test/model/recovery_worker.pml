/* test/model/recovery_worker.pml - a part of recovery.pml, which includes it: a worker with its stage, and the agent that starts it and reaps it.
 * SPDX-License-Identifier: Apache-2.0 */

/* ---- a worker with one stage ---- */

/* tr__update_is_possible: is the slot still to be streamed that the next update overwrites? */
#ifdef BREAK_STREAM
#define is_wanted(w) false
#else
#define is_wanted(w) (wanted[w] && wanted[w] + 1 == step[w])
#endif

#ifdef BREAK_LATE_COMMIT
#define of_now(w, e) true
#else
#define of_now(w, e) ((e) == epoch_of[w]) /* route.c, deliver_control */
#endif

proctype worker(byte w)
{
    byte e, t;
    bit sound;
end:
    do
    /* greet: tr_state_discard_rotten hashes the slots, tr_state_common_generations says what they hold. */
    :: atomic {
           at[w] == new && nfull(up[w]) ->
           d_step {
               j = 0;
               do
               :: j < 2 ->
                   if
                   :: memory[w].content[j] == TORN -> memory[w].generation[j] = 0
                   :: else -> skip
                   fi;
                   j++
               :: else -> break
               od;
               j = (memory[w].generation[1] > memory[w].generation[0])
           }
           up[w]!hello(epoch_of[w], memory[w].generation[j], memory[w].generation[1 - j]);
           at[w] = greeted;
           tidy()
       }
    /* on_system: the head's words */
    :: atomic {
           runs(w) && down[w]?[renew, _, _] && at[w] != new ->
           down[w]?renew(e, _);
           if
           :: e > epoch_of[w] -> begin_node(w, e)
           :: else -> skip
           fi;
           e = 0;
           tidy()
       }
    :: atomic {
           runs(w) && at[w] != new && nfull(up[w]) && down[w]?[load, _, _] ->
           down[w]?load(t, e);
           if
           :: at[w] != greeted -> skip /* heard_load */
           :: else ->
               assert(acted[w] < epoch_of[w]); /* no two lives of a slot act in one epoch */
               acted[w] = epoch_of[w];
               if
               :: t == 0 -> /* load_slot, from the source as it is after first_step updates */
                   memory[w].generation[0] = 0;
                   memory[w].generation[1] = 0;
                   memory[w].content[0] = TORN;
                   memory[w].content[1] = TORN;
                   step[w] = e;
                   at[w] = loading
               :: else -> /* adopt_slot */
                   current[w] = (memory[w].generation[1] == t);
                   assert(memory[w].generation[current[w]] == t); /* the generation chosen is held by every slot */
                   if
                   :: memory[w].generation[1 - current[w]] > t ->
                       memory[w].generation[1 - current[w]] = 0;
                       memory[w].content[1 - current[w]] = TORN
                   :: else -> skip
                   fi;
                   step[w] = t - 1;
                   at[w] = prepared
               fi
           fi;
           t = 0;
           e = 0;
           if
           :: at[w] == prepared -> up[w]!loaded(epoch_of[w], 0, 0)
           :: else -> skip
           fi;
           tidy()
       }
    :: atomic {
           at[w] == loading && nfull(up[w]) ->
           memory[w].content[0] = step[w];
           memory[w].generation[0] = GENERATION(step[w]);
           at[w] = prepared;
           up[w]!loaded(epoch_of[w], 0, 0);
           tidy()
       }
    :: atomic {
           runs(w) && down[w]?[start, _, _] && at[w] != new ->
           down[w]?start(_, _);
           if
           :: at[w] == prepared -> at[w] = computing
           :: else -> skip
           fi;
           tidy()
       }
    /* tr__update_report: square sums and losses of the step that begins with the state in the slot */
    :: atomic {
           at[w] == computing && step[w] < STEPS && nfull(up[w]) ->
           up[w]!ready(epoch_of[w], step[w], memory[w].content[current[w]]);
           at[w] = waiting;
           tidy()
       }
    /* receive_control: the coordinator's words */
    :: atomic {
           has_actors(w) && words[w]?[commit, _, _, _] ->
           words[w]?commit(e, t, sound);
           if
           :: of_now(w, e) ->
               assert(e == epoch_of[w]); /* nothing of an old epoch changes state */
               assert(at[w] == waiting && t == step[w]); /* otherwise the stage fails */
               commit_sound[w] = sound;
               at[w] = committed
           :: else -> skip /* dropped and counted */
           fi;
           e = 0;
           t = 0;
           sound = 0;
           tidy()
       }
    :: atomic {
           has_actors(w) && wanted[w] == 0 && words[w]?[save, _, _, _] ->
           words[w]?save(e, t, _);
           if
           :: of_now(w, e) ->
               assert(e == epoch_of[w]);
               wanted[w] = t
           :: else -> skip
           fi;
           e = 0;
           t = 0;
           tidy()
       }
    /* begin_stream, tr__stream_advance: the state goes out beside the training */
    :: atomic {
           has_actors(w) && at[w] != writing && wanted[w] && wanted[w] <= step[w] && nfull(up[w]) ->
           assert(wanted[w] + 1 >= step[w]);
           j = (wanted[w] == step[w] -> current[w] : 1 - current[w]);
           up[w]!chunk(epoch_of[w], wanted[w], memory[w].content[j]);
           wanted[w] = 0;
           tidy()
       }
    /* tr__update_apply: not before the slot that is to be overwritten has been streamed */
    :: atomic {
           at[w] == committed && !is_wanted(w) ->
#ifdef BREAK_IN_PLACE
           memory[w].content[current[w]] = TORN;
#else
           memory[w].generation[1 - current[w]] = 0; /* tr_state_open */
           memory[w].content[1 - current[w]] = TORN;
#endif
           at[w] = writing;
           tidy()
       }
    :: atomic {
           at[w] == writing && nfull(up[w]) ->
#ifdef BREAK_IN_PLACE
           j = current[w];
           memory[w].content[j] = (commit_sound[w] -> step[w] + 1 : WRONG);
#else
           j = 1 - current[w];
           memory[w].content[j] =
               (commit_sound[w] && memory[w].content[current[w]] == step[w] -> step[w] + 1 : WRONG);
#endif
           memory[w].generation[j] = GENERATION(step[w] + 1); /* tr_state_publish */
           current[w] = j;
           step[w] = step[w] + 1;
           up[w]!updated(epoch_of[w], step[w] - 1, 0); /* the vote */
           at[w] = computing;
           tidy()
       }
    od
}

/* ---- the agent ---- */

/* on_worker_end: reaps one, and tells. */
proctype reaper(byte w)
{
end:
    do
    :: atomic {
           agent_lives && at[w] == dead && nfull(ended) ->
           at[w] = off;
           ended!w;
           tidy()
       }
    od
}

/* begin_epoch: those that are dead are replaced, the living hear of the epoch from the head. */
inline start_missing()
{
    i = 0;
    do
    :: i < WORKERS ->
        if
        :: at[i] == off -> begin_node(i, agent_epoch)
        :: else -> skip
        fi;
        i++
    :: else -> break
    od
}

proctype agent()
{
    byte e;
end:
    do
    :: atomic {
           agent_lives && to_agent?[_] ->
           to_agent?e;
           if
           :: e > agent_epoch ->
               agent_epoch = e;
               start_missing()
           :: else -> skip
           fi;
           e = 0;
           tidy()
       }
    od
}
