/* Jobs whose workers, agents and heads die, hang and come back as zombies, in simulation: cells with state in slots, that exchange values in
 * rounds and vote for the next. Whatever the seed does, the log is that of a run without faults, and each epoch is new.
 * Head, agent and workers are the real ones (runtime/simulation_job.h).
 * SPDX-License-Identifier: Apache-2.0 */
#include "simulate.h"

#include "base/hash.h"
#include "base/log.h"
#include "base/rng.h"
#include "runtime/orphans.h"
#include "runtime/simulation_job.h"
#include "simulated_jobs.h"

enum {
    ROUNDS = 5,
    MAX_CELLS = 5,
    MAX_EDGES = 24,
    VALUES = 4, /* of a cell; one message each along an edge in a round */
    MAX_EVENTS = 60000,
    TOPIC_VOTE = 1,
    TOPIC_COMMIT,
    TOPIC_DONE
};

typedef struct company {
    tr_topology topology;
    tr_rng_key key;
    uint64_t n_drawn;
    uint32_t n_cells; /* actors 1 .. n_cells; the judge comes after them, on the head */
    uint64_t log[ROUNDS], last;
    uint32_t n_logged, epoch;
    bool differs, heard_the_past;
    /* Of the rounds in the log: since the state was lost, with head and agent, or with an agent that had not handed over
     * what another head found with it. */
    uint32_t n_told;
    bool was_taken;
    tr_played_lease *lease; /* NULL: the lock is all */
} company;

static uint64_t draw(company *self, uint64_t below)
{
    return tr_rng_u64(&self->key, self->n_drawn++) % below;
}

/* ---- what a round computes; sums, so that the order of arrival does not matter ---- */

static uint64_t mix(uint64_t a, uint64_t b, uint64_t c)
{
    const uint64_t words[] = {a, b, c};
    return tr_hash64(words, sizeof words);
}

static void next_values(const uint64_t *values, const uint64_t *heard, uint32_t round, uint64_t *out)
{
    for (uint32_t k = 0; k < VALUES; k++) out[k] = mix(values[k], heard[k], round);
}

static bool joins_cells(const company *self, const tr_edge_spec *edge)
{
    return edge->source <= self->n_cells && edge->destination <= self->n_cells;
}

/* The log as it must be. */
static void expect(const company *self, uint64_t log[ROUNDS], uint64_t *last)
{
    uint64_t values[MAX_CELLS][VALUES];
    for (uint32_t c = 0; c < self->n_cells; c++)
        for (uint32_t k = 0; k < VALUES; k++) values[c][k] = mix(self->key.seed, c + 1, k);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        uint64_t heard[MAX_CELLS][VALUES] = {{0}};
        for (size_t i = 0; i < self->topology.n_edges; i++) {
            const tr_edge_spec *edge = &self->topology.edges[i];
            for (uint32_t k = 0; k < VALUES && joins_cells(self, edge); k++)
                heard[edge->destination - 1][k] += mix(values[edge->source - 1][k], edge->source, k);
        }
        log[round] = *last = 0;
        for (uint32_t c = 0; c < self->n_cells; c++) {
            log[round] += tr_hash64(heard[c], sizeof heard[c]);
            next_values(values[c], heard[c], round, values[c]);
            *last += tr_hash64(values[c], sizeof values[c]);
        }
    }
}

/* ---- a cell ---- */

typedef struct cell {
    company *company;
    uint32_t round;
    int slot;
    uint32_t outs[MAX_EDGES], n_sent[MAX_EDGES], n_outs, n_ins;
    uint32_t to_judge; /* votes go along it, where there is one */
    uint32_t n_heard;
    uint64_t heard[VALUES];
    tr_message *early[MAX_EDGES * VALUES]; /* of the next round */
    uint32_t n_early;
    bool voted;
} cell;

static void restore(tr_actor *actor, cell *self)
{
    uint64_t generation = tr_actor_generation(actor);
    self->round = generation ? (uint32_t)generation - 1 : 0;
    if (!generation) {
        tr_actor_slot_open(actor, 0);
        tr_actor_slot_open(actor, 1);
        uint64_t *values = tr_actor_slot(actor, 0);
        for (uint32_t k = 0; k < VALUES; k++)
            values[k] = mix(self->company->key.seed, tr_actor_self(actor), k);
        tr_actor_slot_publish(actor, 0, 1, NULL);
        return;
    }
    self->slot = tr_actor_slot_generation(actor, 1) == generation;
    if (tr_actor_slot_generation(actor, self->slot) != generation) self->company->differs = true;
}

static tr_status cell_init(tr_actor *actor, void *context, const void *config, size_t config_bytes,
                           void **state, tr_error *err)
{
    (void)config, (void)config_bytes;
    cell *self = calloc(1, sizeof *self);
    if (!self) return tr_fail(err, TR_ENOMEM, "no memory for a cell");
    self->company = context;
    self->to_judge = TR_NO_EDGE;
    for (uint32_t i = 0; i < self->company->topology.n_edges; i++) {
        const tr_edge_spec *edge = &self->company->topology.edges[i];
        if (edge->source == tr_actor_self(actor) && joins_cells(self->company, edge))
            self->outs[self->n_outs++] = i;
        else if (edge->source == tr_actor_self(actor))
            self->to_judge = i;
        else if (edge->destination == tr_actor_self(actor) && joins_cells(self->company, edge))
            self->n_ins++;
    }
    restore(actor, self);
    *state = self;
    return TR_OK;
}

static void cell_stop(tr_actor *actor, void *state)
{
    cell *self = state;
    while (self && self->n_early) tr_edge_release(actor, &self->early[--self->n_early]);
    free(self);
}

static void take_value(cell *self, const tr_message *message)
{
    uint64_t value;
    memcpy(&value, tr_message_bytes(message), sizeof value);
    self->heard[message->frame.microbatch] += mix(value, message->frame.source, message->frame.microbatch);
    self->n_heard++;
}

static void commit(tr_actor *actor, cell *self)
{
    uint64_t *values = tr_actor_slot(actor, self->slot), *into = tr_actor_slot(actor, 1 - self->slot);
    tr_actor_slot_open(actor, 1 - self->slot);
    next_values(values, self->heard, self->round, into);
    uint64_t digest = tr_hash64(into, VALUES * sizeof *into);
    self->slot = 1 - self->slot;
    tr_actor_slot_publish(actor, self->slot, ++self->round + 1, NULL);
    memset(self->heard, 0, sizeof self->heard);
    memset(self->n_sent, 0, sizeof self->n_sent);
    self->n_heard = 0;
    self->voted = false;
    while (self->n_early) {
        take_value(self, self->early[--self->n_early]);
        tr_edge_release(actor, &self->early[self->n_early]);
    }
    tr_actor_send(actor, self->company->n_cells + 1, TOPIC_DONE, self->round, &digest, sizeof digest);
}

static void cell_receive(tr_actor *actor, void *state, tr_message **message)
{
    cell *self = state;
    const tr_frame *frame = &(*message)->frame;
    bool from_judge = frame->source == self->company->n_cells + 1;
    uint32_t ahead = frame->step - self->round;
    if (ahead > 1 || (from_judge && (ahead || !self->voted))) {
        self->company->heard_the_past = true;
    } else if (from_judge) {
        commit(actor, self);
    } else if (ahead == 0) {
        take_value(self, *message);
    } else {
        self->early[self->n_early++] = *message;
        *message = NULL;
    }
}

static bool send_values(tr_actor *actor, cell *self)
{
    const uint64_t *values = tr_actor_slot(actor, self->slot);
    for (uint32_t i = 0; i < self->n_outs; i++) {
        uint32_t k = self->n_sent[i];
        tr_buffer *body = NULL;
        if (k == VALUES || !tr_edge_credits(actor, self->outs[i])) continue;
        if (tr_buffer_new(&body, sizeof *values, NULL) != TR_OK) abort();
        memcpy(body->data, &values[k], sizeof *values);
        tr_edge_send(actor, self->outs[i], body, sizeof *values, self->round, k, 0);
        self->n_sent[i]++;
        return true;
    }
    return false;
}

static bool cell_idle(tr_actor *actor, void *state)
{
    cell *self = state;
    if (self->round == ROUNDS) return false;
    if (send_values(actor, self)) return true;
    bool sent = true;
    for (uint32_t i = 0; i < self->n_outs; i++) sent = sent && self->n_sent[i] == VALUES;
    if (self->voted || !sent || self->n_heard < self->n_ins * VALUES) return false;
    uint64_t digest = tr_hash64(self->heard, sizeof self->heard);
    if (self->to_judge == TR_NO_EDGE) {
        tr_actor_send(actor, self->company->n_cells + 1, TOPIC_VOTE, self->round, &digest, sizeof digest);
    } else {
        tr_buffer *body = NULL;
        if (!tr_edge_credits(actor, self->to_judge)) return false;
        if (tr_buffer_new(&body, sizeof digest, NULL) != TR_OK) abort();
        memcpy(body->data, &digest, sizeof digest);
        tr_edge_send(actor, self->to_judge, body, sizeof digest, self->round, 0, 0);
    }
    return self->voted = true;
}

/* ---- the judge ---- */

typedef struct judge {
    company *company;
    uint32_t round, n_votes, n_done;
    uint64_t sum, last;
    uint32_t feeds[MAX_CELLS]; /* edge to each cell, or TR_NO_EDGE */
    bool owed[MAX_CELLS];      /* a commit of the round before */
} judge;

static tr_status judge_init(tr_actor *actor, void *context, const void *config, size_t config_bytes,
                            void **state, tr_error *err)
{
    (void)config, (void)config_bytes;
    judge *self = calloc(1, sizeof *self);
    if (!self) return tr_fail(err, TR_ENOMEM, "no memory for a judge");
    uint64_t generation = tr_actor_generation(actor);
    self->company = context;
    self->round = generation ? (uint32_t)generation - 1 : 0;
    if (self->round == ROUNDS) self->n_done = self->company->n_cells; /* they hold it */
    if (self->round > self->company->n_logged) self->company->differs = true;
    for (uint32_t c = 0; c < self->company->n_cells; c++)
        self->feeds[c] = tr_edge_out(actor, "commits", c + 1);
    *state = self;
    return TR_OK;
}

static void judge_stop(tr_actor *actor, void *state)
{
    (void)actor;
    free(state);
}

/* Told again after a change of epoch, it must be as it was. */
static void log_round(company *self, uint32_t round, uint64_t sum)
{
    self->n_told = round + 1;
    if (round < self->n_logged)
        self->differs = self->differs || self->log[round] != sum;
    else if (round == self->n_logged && round < ROUNDS)
        self->log[self->n_logged++] = sum;
    else
        self->differs = true;
}

static void set_timer(tr_actor *actor, judge *self)
{
    tr_actor_timer(actor, (uint32_t)draw(self->company, 40), tr_actor_epoch(actor) << 8 | self->round);
}

static void end_when_done(tr_actor *actor, judge *self)
{
    if (self->round < ROUNDS || self->n_done < self->company->n_cells) return;
    tr_actor_finish_job(actor);
}

static void judge_start(tr_actor *actor, void *state)
{
    set_timer(actor, state);
    end_when_done(actor, state); /* the end of its last life may have been lost */
}

static void take_vote(tr_actor *actor, judge *self, const tr_message *message)
{
    uint64_t digest;
    memcpy(&digest, tr_message_bytes(message), sizeof digest);
    if (message->frame.step != self->round) self->company->heard_the_past = true;
    self->sum += digest;
    if (++self->n_votes < self->company->n_cells) return;
    const tr_played_lease *lease = self->company->lease;
    if (lease && !tr_played_lease_is_held(lease)) { /* as tr_run_record */
        tr_error lost;
        tr_fail(&lost, TR_ECLOSED, "round %u is not logged: this head does not lead any more", self->round);
        self->company->lease->refused = true;
        tr_actor_fail_job(actor, &lost);
        return;
    }
    log_round(self->company, self->round, self->sum);
    for (uint32_t c = 0; c < self->company->n_cells; c++) {
        self->owed[c] = self->feeds[c] != TR_NO_EDGE;
        if (!self->owed[c]) tr_actor_send(actor, c + 1, TOPIC_COMMIT, self->round, NULL, 0);
    }
    self->round++;
    self->n_votes = 0;
    self->sum = 0;
    set_timer(actor, self);
}

static bool judge_idle(tr_actor *actor, void *state)
{
    judge *self = state;
    for (uint32_t c = 0; c < self->company->n_cells; c++) {
        if (!self->owed[c] || !tr_edge_credits(actor, self->feeds[c])) continue;
        tr_edge_send(actor, self->feeds[c], NULL, 0, self->round - 1, 0, 0);
        self->owed[c] = false;
        return true;
    }
    return false;
}

static void judge_receive(tr_actor *actor, void *state, tr_message **message)
{
    judge *self = state;
    const tr_frame *frame = &(*message)->frame;
    if (frame->kind == TR_FRAME_DATA || frame->edge == TOPIC_VOTE) {
        take_vote(actor, self, *message);
    } else if (frame->edge == TR_TOPIC_TIMER) {
        if (frame->step >> 8 != tr_actor_epoch(actor)) self->company->heard_the_past = true;
    } else if (frame->step == ROUNDS) { /* of the others no more is asked; a vote may overtake one */
        uint64_t digest;
        memcpy(&digest, tr_message_bytes(*message), sizeof digest);
        self->last += digest;
        if (++self->n_done == self->company->n_cells) self->company->last = self->last;
        end_when_done(actor, self);
    }
}

static const tr_behavior cell_behavior = {
    .name = "cell", .init = cell_init, .receive = cell_receive, .idle = cell_idle, .stop = cell_stop};
static const tr_behavior judge_behavior = {.name = "judge",
                                           .init = judge_init,
                                           .start = judge_start,
                                           .receive = judge_receive,
                                           .idle = judge_idle,
                                           .stop = judge_stop};

/* ---- a job ---- */

static void add_actor(company *self, const char *kind, uint32_t number, int32_t node, uint64_t state_bytes)
{
    char name[TR_NAME_BYTES];
    tr_actor_id id;
    snprintf(name, sizeof name, "%s %u", kind, number);
    if (tr_topology_add_actor(&self->topology, name, kind, node, NULL, 0, state_bytes, &id, NULL) != TR_OK)
        abort();
}

static void add_edge(company *self, const char *name, tr_actor_id from, tr_actor_id to)
{
    if (tr_topology_add_edge(&self->topology, name, from, to, 1 + (uint32_t)draw(self, 4), 64, NULL, NULL) !=
        TR_OK)
        abort();
}

static void found(company *self, uint64_t seed)
{
    memset(self, 0, sizeof *self);
    self->key = (tr_rng_key){.seed = seed, .stream = 7};
    self->epoch = 1;
    int32_t n_workers = 1 + (int32_t)draw(self, 3);
    tr_topology_init(&self->topology, 1 + n_workers);
    self->n_cells = 2 + (uint32_t)draw(self, MAX_CELLS - 1);
    for (uint32_t c = 0; c < self->n_cells; c++)
        add_actor(self, "cell", c, 1 + (int32_t)draw(self, (uint64_t)n_workers), VALUES * sizeof(uint64_t));
    add_actor(self, "judge", 0, 0, 0);
    for (uint32_t c = 0; c < self->n_cells; c++) {
        add_edge(self, "values", c + 1, (c + 1) % self->n_cells + 1);
        uint32_t other = (c + 2 + (uint32_t)draw(self, self->n_cells)) % self->n_cells;
        if (other != c && other != (c + 1) % self->n_cells) add_edge(self, "values", c + 1, other + 1);
        if (draw(self, 2)) add_edge(self, "votes", c + 1, self->n_cells + 1);
        if (draw(self, 2)) add_edge(self, "commits", self->n_cells + 1, c + 1);
    }
}

static tr_status record_epoch(void *context, uint32_t epoch, tr_error *err)
{
    company *self = context;
    if (epoch <= self->epoch) return tr_fail(err, TR_ECORRUPT, "epoch %u came after %u", epoch, self->epoch);
    tr_status status = self->lease ? tr_played_lease_win(self->lease, epoch, err) : TR_OK;
    if (status != TR_OK) return status;
    self->epoch = epoch;
    return TR_OK;
}

/* A round is logged when all hold the state before it, and the one after it is written into the other slot. */
static tr_status begin_again(void *context, tr_job_beginning *beginning, tr_error *err)
{
    const company *self = context;
    if (beginning->generation >= self->n_told) return TR_OK;
    return tr_fail(err, TR_ECORRUPT, "generation %" PRIu64 " is all that is left of %u rounds",
                   beginning->generation, self->n_told);
}

static void on_event(void *context, const tr_job_event *event)
{
    company *self = context;
    bool nobody = event->kind == TR_JOB_AGENT_REPLACED && event->n_readopted == 0;
    if (nobody && self->was_taken) self->n_told = 0;
}

/* What a process does that resumes a run: it goes on with whom it finds, in an epoch of its own. */
static tr_status succeed(void *context, const tr_orphans *orphans, tr_job_options *job, tr_error *err)
{
    (void)err;
    company *self = context;
    self->was_taken = orphans != NULL;
    if (!orphans) self->n_told = 0;
    if (self->lease && self->lease->last_epoch > self->epoch) self->epoch = self->lease->last_epoch;
    job->recovery.first_epoch = ++self->epoch;
    return TR_OK;
}

static tr_job_simulation_span durable(void *context, int which)
{
    return which ? (tr_job_simulation_span){0} : (tr_job_simulation_span){context, sizeof(company)};
}

static bool may_lead(void *context, char *why, size_t capacity)
{
    const company *self = context;
    if (!self->lease || !tr_played_lease_must_stop(self->lease)) return true;
    snprintf(why, capacity, "the lease was not renewed");
    return false;
}

static tr_status perform(company *self, uint64_t seed, FILE *trace, tr_job_simulation_counters *counters)
{
    const tr_actor_kind kinds[] = {{"cell", &cell_behavior, self}, {"judge", &judge_behavior, self}};
    const tr_registry registry = {kinds, sizeof kinds / sizeof *kinds};
    const tr_job_options job = {.topology = &self->topology,
                                .registry = &registry,
                                .recovery = {.max_restarts = 100,
                                             .within_ms = 1,
                                             .first_epoch = 1,
                                             .record_epoch = record_epoch,
                                             .begin_again = seed % 4 == 3 ? NULL : begin_again},
                                .lease = {.kept = simulated_directory},
                                .may_lead = may_lead,
                                .on_event = on_event,
                                .context = self};
    tr_job_simulation_options options = {.seed = seed,
                                         .job = &job,
                                         .activation_max_ns = 1000 * (seed % 3),
                                         .max_events = MAX_EVENTS,
                                         .n_faults = (uint32_t)(seed % 6),
                                         .faults_until = 500,
                                         .may_rot = seed % 4 == 3,
                                         .succeed = succeed,
                                         .durable = durable,
                                         .directory = simulated_directory,
                                         .lease = self->lease,
                                         .trace = trace};
    tr_error err;
    tr_simulation_faults(seed, &options.data, &options.control);
    tr_status status = tr_simulate_job(&options, counters, &err);
    if (status != TR_OK) fprintf(stderr, "%s\n", err.message);
    return status;
}

static bool whoever_dies_the_log_is_the_same(uint64_t seed, FILE *trace)
{
    company self;
    tr_job_simulation_counters counters;
    uint64_t log[ROUNDS], last;
    found(&self, seed);
    expect(&self, log, &last);
    tr_status status = perform(&self, seed, trace, &counters);
    bool same = self.n_logged == ROUNDS && memcmp(log, self.log, sizeof log) == 0 &&
                (!self.last || self.last == last) && !self.differs;
    tr_topology_release(&self.topology);
    add_to_seen(&counters);
    if (status == TR_OK && same && !self.heard_the_past) return true;
    fprintf(stderr, "%u of %u rounds were logged%s%s; %u deaths, %u epochs\n", self.n_logged, ROUNDS,
            same ? "" : ", other values", self.heard_the_past ? ", a message of the past was handled" : "",
            counters.n_deaths, counters.epoch);
    return false;
}

/* Heads that lose their lease stop, are ended, or can begin nothing any more; another one follows when it is free. */
static bool whoever_leads_the_log_is_the_same(uint64_t seed, FILE *trace)
{
    static const uint64_t lives_ms[] = {300, 500, 1000, 4000};
    tr_played_lease lease = {.ttl_ns = lives_ms[seed % 4] * 1000000};
    company self;
    tr_job_simulation_counters counters;
    uint64_t log[ROUNDS], last;
    found(&self, seed);
    self.lease = &lease;
    expect(&self, log, &last);
    tr_status status = perform(&self, seed, trace, &counters);
    bool same = self.n_logged == ROUNDS && memcmp(log, self.log, sizeof log) == 0 &&
                (!self.last || self.last == last) && !self.differs;
    tr_topology_release(&self.topology);
    add_to_seen(&counters);
    if (status == TR_OK && same && !self.heard_the_past) return true;
    fprintf(stderr, "%u of %u rounds were logged%s; %u heads gave way, %u were ended, %u epochs\n",
            self.n_logged, ROUNDS, same ? "" : ", other values", counters.n_gave_way, counters.n_over,
            counters.epoch);
    return false;
}

static bool a_seed_decides_every_death(uint64_t seed, FILE *trace)
{
    company self;
    tr_job_simulation_counters first, second;
    found(&self, seed);
    bool good = perform(&self, seed, trace, &first) == TR_OK;
    tr_topology_release(&self.topology);
    found(&self, seed);
    good = perform(&self, seed, NULL, &second) == TR_OK && good;
    tr_topology_release(&self.topology);
    if (good && (first.fingerprint != second.fingerprint || first.n_deaths != second.n_deaths)) {
        fprintf(stderr, "two runs of the same seed differ\n");
        good = false;
    }
    return good;
}

static int report(void)
{
    tell_seen();
    printf("%" PRIu64 " late frames; %" PRIu64 " events\n", seen.data.n_late + seen.control.n_late,
           seen.n_events);
    printf("of heads with a lease %u gave way, %u were refused an epoch or a write, %u were ended with it\n",
           seen.n_gave_way, seen.n_refused, seen.n_over);
    bool leases =
        !seen.n_gave_way == !seen.n_over && !seen.n_refused == !seen.n_over; /* some, or no seed of them */
    return each_was_seen(seen.data.n_late && seen.control.n_late && leases) ? 0 : 1;
}

int main(int argc, char **argv)
{
    static const simulate_case cases[] = {
        {"whoever_dies_the_log_is_the_same", 10000, whoever_dies_the_log_is_the_same},
        {"whoever_leads_the_log_is_the_same", 2000, whoever_leads_the_log_is_the_same},
        {"a_seed_decides_every_death", 300, a_seed_decides_every_death},
    };
    if (!getenv("TROUPE_LOG")) tr_log_set_level(TR_LOG_ERROR); /* deaths are told as warnings */
    simulated_directory_open();
    int failed = simulate_main(cases, sizeof cases / sizeof *cases, argc, argv);
    simulated_directory_close();
    return report() || failed;
}
