/* test/model/recovery_faults.pml - a part of recovery.pml, which includes it: what goes wrong, as often as the command line says.
 * SPDX-License-Identifier: Apache-2.0 */

/* ---- what goes wrong ---- */

#ifdef ONLY_IN_RECOVERY /* workers die only while another death is being mended */
#define MAY_DIE (phase != running && epoch > 1)
#else
#define MAY_DIE true
#endif

/* What the agent was told, and what it had told of ends: the next one, and the head's own look, need neither. */
inline forget_agents_words()
{
    do
    :: to_agent?_
    :: empty(to_agent) -> break
    od;
    do
    :: ended?_
    :: empty(ended) -> break
    od
}

inline lose_workers()
{
    i = 0;
    do
    :: i < WORKERS ->
        end_life(i);
        at[i] = off;
        epoch_of[i] = 0;
        memory[i].generation[0] = 0;
        memory[i].generation[1] = 0;
        memory[i].content[0] = TORN;
        memory[i].content[1] = TORN;
        i++
    :: else -> break
    od;
    forget_agents_words();
    memory_lost = true
}

/* SIGKILL, SIGSEGV, or a fence after a hang, a cut link, a failure: a worker's end at any moment. */
proctype fate(byte w)
{
end:
    do
    :: atomic {
           deaths > 0 && phase != finished && runs(w) && MAY_DIE ->
           deaths--;
           end_life(w);
           tidy()
       }
    /* Bits flip in a slot while its bytes are not read: of a dead worker's, or the one that is not computed with and not
     * streamed. What rots in the slot in use is found only when somebody takes it over. */
    :: atomic {
           rots > 0 && (at[w] == dead || at[w] == off) && agent_lives &&
           (memory[w].generation[0] || memory[w].generation[1]) ->
           if
           :: memory[w].generation[0] -> memory[w].content[0] = TORN
           :: memory[w].generation[1] -> memory[w].content[1] = TORN
           fi;
           rotten = true;
           rots--;
           tidy()
       }
    :: atomic {
           rots > 0 && has_actors(w) && memory[w].generation[1 - current[w]] && !is_wanted(w) ->
           memory[w].content[1 - current[w]] = TORN;
           rotten = true;
           rots--;
           tidy()
       }
    od
}

proctype great_fate()
{
end:
    do
    /* Whom the agent had started and not handed over loses its life line with it. The others notice nothing. */
    :: atomic {
           agent_deaths > 0 && phase != finished && agent_lives ->
           agent_deaths--;
           agent_lives = false;
           forget_agents_words();
           i = 0;
           do
           :: i < WORKERS && at[i] == new -> end_life(i); i++
           :: i < WORKERS -> i++
           :: i == WORKERS -> break
           od;
#ifdef BREAK_NO_HOLDINGS
           i = 0;
           do
           :: i < WORKERS && !runs(i) ->
               memory[i].generation[0] = 0;
               memory[i].generation[1] = 0;
               memory[i].content[0] = TORN;
               memory[i].content[1] = TORN;
               i++
           :: i < WORKERS && runs(i) -> i++
           :: i == WORKERS -> break
           od;
#endif
           tidy()
       }
    :: atomic {
           memory_losses > 0 && phase != finished && agent_lives ->
           memory_losses--;
           agent_lives = false;
           lose_workers();
           tidy()
       }
    /* The head dies, and all with it; --resume begins with the newest checkpoint, in the epoch after the last recorded. What
     * the old job's processes still send has another key and finds no address. */
    :: atomic {
           head_deaths > 0 && phase != finished ->
           head_deaths--;
           assert(on_disk >= promised); /* no checkpoint that was told of is gone */
           assert(logged >= on_disk);   /* log_gap */
           lose_workers();
           memory_lost = false;
           unload();
           i = 0;
           do
           :: i < WORKERS ->
               link[i] = 0;
               do
               :: up[i]?_, _, _, _
               :: empty(up[i]) -> break
               od;
               do
               :: words[i]?_, _, _, _
               :: empty(words[i]) -> break
               od;
               i++
           :: else -> break
           od;
           i = 0;
           do
           :: i < RECORDS ->
               record_step[i] = 0;
               record_sound[i] = 0;
               i++
           :: else -> break
           od;
           saved = 0;
           asked[0] = 0;
           asked[1] = 0;
           has_begun = false;
           plan_again = false;
           began_at = on_disk;
           first_step = on_disk;
           at_step = on_disk;
           logged = on_disk; /* cut_log */
           recorded = recorded + 1;
           epoch = recorded;
           agent_lives = true;
           agent_epoch = epoch;
           if
           :: on_disk == STEPS -> phase = finished
           :: else -> start_missing()
           fi;
           tidy()
       }
    od
}
