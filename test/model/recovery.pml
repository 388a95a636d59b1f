/* test/model/recovery.pml - what docs/recovery.md promises, as a Promela model that Spin searches exhaustively.
 * It follows the code step by step; each step names the function that it stands for. A handler that nobody can see the middle of
 * is one atomic step; where a death in the middle leaves a trace (a slot half written, a checkpoint half named) it is two.
 * Left out is what docs/recovery.md lists. Which faults there are, and how many, is given on the command line (check.sh);
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
#define AGENT_DEATHS 0 /* each takes all workers and the slots along */
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
slots memory[WORKERS]; /* the agent's memfds: outlive the worker */

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
                   memory_lost = false;
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
    :: atomic { /* tr_head_on_crew, agent_ended: the workers have ended with it and are reaped, their memory is gone */
           phase != finished && !agent_lives ->
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

/* ---- what goes wrong ---- */

#ifdef ONLY_IN_RECOVERY /* workers die only while another death is being mended */
#define MAY_DIE (phase != running && epoch > 1)
#else
#define MAY_DIE true
#endif

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
    do
    :: to_agent?_
    :: empty(to_agent) -> break
    od;
    do
    :: ended?_
    :: empty(ended) -> break
    od;
    memory_lost = true
}

/* SIGKILL, SIGSEGV, or a fence after a hang, a cut link, a failure: a worker's end at any moment. */
proctype fate(byte w)
{
end:
    do
    :: atomic {
           deaths > 0 && phase != finished && agent_lives && runs(w) && MAY_DIE ->
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
    :: atomic {
           agent_deaths > 0 && phase != finished && agent_lives ->
           agent_deaths--;
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
