/* test/model/recovery_head.pml - a part of recovery.pml, which includes it: the head, with coordinator, journal, monitor, checkpoint actor and disk.
 * SPDX-License-Identifier: Apache-2.0 */

/* ---- the head: recovery ---- */

/* begin_epoch, tr_node_unload: the head's own actors end, and what lay in their mailboxes with them. */
inline unload()
{
    d_step {
        i = 0;
        do
        :: i < WORKERS ->
            has_greeted[i] = false;
            is_ready[i] = false;
            newest[i] = 0;
            older[i] = 0;
            arrived[i] = false;
            i++
        :: else -> break
        od;
        do
        :: records?_, _
        :: empty(records) -> break
        od;
        do
        :: to_save?_
        :: empty(to_save) -> break
        od;
        n_ready = 0;
        n_updated = 0;
        n_saving = 0;
        last_saved = NONE;
        sums_sound = 1;
        taken = 0;
        saving = 0;
        naming = false;
        report = 0;
        phase = greeting
    }
}

/* tr_head_recover: recorded first, and only then used. */
inline recover()
{
#if !defined(BREAK_SAME_EPOCH)
    epoch = epoch + 1;
#endif
#if !defined(BREAK_UNRECORDED)
    recorded = epoch;
#endif
    unload();
    i = 0;
    do
    :: i < WORKERS ->
        tell(i, renew, epoch, 0);
        i++
    :: else -> break
    od;
    if
    :: agent_lives ->
        assert(nfull(to_agent));
        to_agent!epoch
    :: else -> skip
    fi
}

#if WORKERS == 2
#define ALL_ARRIVED (arrived[0] && arrived[1])
#else
#define ALL_ARRIVED (arrived[0] && arrived[1] && arrived[2])
#endif

/* lost_its_checkpoint */
#define lost_its_checkpoint(generation)                                                                       \
    ((generation) && (generation) - 1 > saved &&                                                              \
     ((generation) - 1 == asked[0] || (generation) - 1 == asked[1]))

/* common_generations, tr_generations_meet: out of `common` goes what worker i lacks. */
inline meet(w)
{
    j = 0;
    g = common[0];
    before = common[1];
    common[0] = 0;
    common[1] = 0;
    if
    :: g && (g == newest[w] || g == older[w]) -> common[j] = g; j++
    :: else -> skip
    fi;
    if
    :: before && (before == newest[w] || before == older[w]) -> common[j] = before
    :: else -> skip
    fi
}

/* tr__training_begin_again with begin_from_disk; coordinator_init with begin_again. Leaves the generation in g. */
inline choose()
{
    common[0] = newest[0];
    common[1] = older[0];
#ifndef BREAK_ONE_CHOOSES
    i = 1;
    do
    :: i < WORKERS ->
        meet(i);
        i++
    :: else -> break
    od;
#endif
    g = (lost_its_checkpoint(common[1]) -> common[1] : common[0]);
    before = 0;
    if
    :: g == 0 && has_begun -> /* from the newest checkpoint */
        assert(memory_lost || rotten); /* otherwise some generation is whole everywhere */
        assert(on_disk >= promised);
        first_step = (on_disk > began_at -> on_disk : began_at);
        plan_again = (first_step > began_at);
        saved = first_step;
        asked[0] = first_step;
        asked[1] = first_step
    :: g == 0 && !has_begun -> assert(at_step == first_step)
    :: else ->
        /* Without flipped bits only the step committed last is run again, or the one before it as well, where the state of
         * a checkpoint that was lost is wanted; and nothing that a checkpoint has already. */
        assert(rotten || g + lost_its_checkpoint(common[1]) >= at_step);
        assert(rotten || g >= GENERATION(on_disk))
    fi;

    at_step = (g -> g - 1 : first_step);
    assert(at_step >= first_step);
    if
    :: at_step > first_step || plan_again ->
        n_updated = WORKERS;
        last_saved = (saved == at_step -> at_step : NONE);
        /* "the state slots hold step %u, but the last one committed was %u": the run would end */
#ifdef BREAK_JOURNAL
        assert(g == 0 || record_step[at_step % RECORDS] == at_step)
#else
        assert(g == 0 || at_step == first_step || record_step[at_step % RECORDS] == at_step)
#endif
    :: else -> skip
    fi
}

inline ask_checkpoint()
{
    i = 0;
    do
    :: i < WORKERS ->
        assert(nfull(words[i]));
        words[i]!save(epoch, at_step, 0);
        i++
    :: else -> break
    od;
    if
    :: saving == 0 && empty(to_save) -> saving = at_step
    :: else ->
        assert(nfull(to_save));
        to_save!at_step
    fi;
    last_saved = at_step;
    n_saving++;
    if
    :: asked[0] != at_step ->
        asked[1] = asked[0];
        asked[0] = at_step
    :: else -> skip
    fi
}

/* coordinator_start, in a later life */
inline start_coordinator()
{
    if
    :: at_step > first_step || plan_again ->
        j = (at_step + RECORDS - 1) % RECORDS;
        if
        :: record_step[j] && record_step[j] + 1 == at_step -> records!record_step[j], record_sound[j]
        :: else -> skip
        fi;
        if
        :: last_saved != at_step && (SAVED_AFTER(at_step) || (asked[0] > saved && asked[0] <= at_step) ||
                                     (asked[1] > saved && asked[1] <= at_step)) -> ask_checkpoint()
        :: else -> skip
        fi;
        j = at_step % RECORDS;
        if
        :: record_step[j] == at_step && at_step -> records!at_step, record_sound[j]
        :: else -> skip
        fi
    :: else -> skip
    fi
}

/* commit_when_ready */
inline commit_step()
{
    i = 0;
    do
    :: i < WORKERS ->
        assert(nfull(words[i]));
        words[i]!commit(epoch, at_step, sums_sound);
        i++
    :: else -> break
    od;
    at_step++;
    has_begun = true;
    record_step[at_step % RECORDS] = at_step;
    record_sound[at_step % RECORDS] = sums_sound;
    n_ready = 0;
    n_updated = 0;
    if
    :: SAVED_AFTER(at_step) -> ask_checkpoint()
    :: else -> skip
    fi;
    records!at_step, sums_sound;
    sums_sound = 1
}

#define is_present(e) ((e) == epoch && phase == running) /* route.c, deliver_control: no actor, another epoch */
#ifdef BREAK_COMMIT_EARLY
#define ENOUGH (WORKERS - 1)
#else
#define ENOUGH WORKERS
#endif

/* What the head hears from one worker: tr_head_on_system and the coordinator's coordinator_receive. */
proctype head(byte w)
{
    byte e, a, b;
end:
    do
    :: atomic { /* greeted */
           up[w]?[hello, _, _, _] ->
           up[w]?hello(e, a, b);
           link[w] = (e > link[w] -> e : link[w]); /* an older incarnation is refused */
           if
           :: has_greeted[w] || phase == finished -> skip
           :: !has_greeted[w] && phase != finished && e != epoch -> tell(w, renew, epoch, 0)
           :: else ->
               newest[w] = a;
               older[w] = b;
               has_greeted[w] = true;
               i = 0;
               do
               :: i < WORKERS && has_greeted[i] -> i++
               :: else -> break
               od;
               if
               :: i == WORKERS -> /* load */
                   phase = preparing;
                   choose();
                   i = 0;
                   do
                   :: i < WORKERS ->
                       tell(i, load, g, first_step);
                       i++
                   :: else -> break
                   od
               :: else -> skip
               fi
           fi;
           e = 0;
           a = 0;
           b = 0;
           tidy()
       }
    :: atomic { /* worker_ready */
           up[w]?[loaded, _, _, _] ->
           up[w]?loaded(e, _, _);
           if
           :: e == epoch && phase == preparing ->
               is_ready[w] = true;
               i = 0;
               do
               :: i < WORKERS && is_ready[i] -> i++
               :: else -> break
               od;
               if
               :: i == WORKERS -> /* start */
                   phase = running;
                   memory_lost = (memory_lost && !agent_lives); /* lost since, which the head is to hear yet */
                   i = 0;
                   do
                   :: i < WORKERS ->
                       tell(i, start, 0, 0);
                       i++
                   :: else -> break
                   od;
                   start_coordinator()
               :: else -> skip
               fi
           :: else -> skip
           fi;
           e = 0;
           tidy()
       }
    :: atomic { /* TR_TOPIC_READY. Nothing holds the coordinator back for the monitor: that it lags no more than so is assumed. */
           nfull(records) && up[w]?[ready, _, _, _] ->
           up[w]?ready(e, a, b);
           if
           :: is_present(e) ->
               assert(e == epoch); /* nothing of an old epoch changes state */
               assert(a == at_step); /* otherwise the coordinator fails */
               n_ready++;
               sums_sound = (sums_sound && b == at_step);
               if
               :: n_ready == ENOUGH -> commit_step()
               :: else -> skip
               fi
           :: else -> skip
           fi;
           e = 0;
           a = 0;
           b = 0;
           tidy()
       }
    :: atomic { /* TR_TOPIC_UPDATED: the vote */
           up[w]?[updated, _, _, _] ->
           up[w]?updated(e, a, _);
           if
           :: is_present(e) ->
               assert(e == epoch);
               n_updated = n_updated + (a + 1 == at_step)
           :: else -> skip
           fi;
           e = 0;
           a = 0;
           tidy()
       }
    :: atomic { /* take_chunk; of another checkpoint than the one at work, it waits */
           phase == running && saving && up[w]?[chunk, eval(epoch), eval(saving), _] ->
           up[w]?chunk(_, a, b);
           assert(b == a); /* a checkpoint holds what its name says */
           arrived[w] = true;
           a = 0;
           b = 0;
           tidy()
       }
    :: atomic {
           up[w]?[chunk, _, _, _] && !(phase == running && up[w]?[chunk, eval(epoch), _, _]) -> up[w]?chunk(_, _, _);
           tidy()
       }
    od
}

/* The head's own actors and what else it hears. */
proctype head_itself()
{
    byte t;
    bit sound;
    do
    :: atomic { /* worker_ended */
           phase != finished && agent_lives && ended?[_] ->
           ended?_;
           recover();
           tidy()
       }
    :: atomic { /* tr_head_on_early_end: count_workers, and another agent with those that live */
           phase != finished && !agent_lives ->
           i = 0;
           do
           :: i < WORKERS ->
               at[i] = (at[i] == dead -> off : at[i]); /* it is the head that reaps them */
               i++
           :: else -> break
           od;
           recover();
           agent_lives = true;
           agent_epoch = epoch;
           start_missing();
           tidy()
       }
    :: atomic { /* take_record, tr_run_record */
           phase == running && records?[_, _] ->
           records?t, sound;
           assert(t <= logged + 1); /* "step %u is to be logged, but %u comes next": the run would end */
           assert(sound);           /* as an undisturbed run: so no step is logged with another value */
           logged = (t > logged -> t : logged);
           taken = t;
           t = 0;
           sound = 0;
           tidy()
       }
    :: atomic { /* all state is there and (answer_when_recorded) the log has the step: publish, first half */
           phase == running && saving && !naming && report == 0 && taken >= saving && ALL_ARRIVED ->
#ifdef BREAK_RENAME
           on_disk = (on_disk == saving -> 0 : on_disk); /* an older one of this name */
#endif
           naming = true;
           tidy()
       }
    :: atomic { /* rename, prune */
           naming ->
           naming = false;
           on_disk = saving;
           report = saving;
           saving = 0;
           if
           :: to_save?saving
           :: empty(to_save) -> skip
           fi;
           i = 0;
           do
           :: i < WORKERS ->
               arrived[i] = false;
               i++
           :: else -> break
           od;
           tidy()
       }
    :: atomic { /* take_checkpointed */
           phase == running && report ->
           saved = report;
           promised = (report > promised -> report : promised);
           n_saving--;
           report = 0;
           tidy()
       }
    :: atomic { /* end_when_done, take_finish behind all records */
           phase == running && at_step == STEPS && last_saved == at_step && n_saving == 0 && n_updated == WORKERS &&
           empty(records) ->
           assert(logged == STEPS && on_disk == STEPS);
           phase = finished;
           tidy()
       }
    :: phase == finished -> break
    od
}
