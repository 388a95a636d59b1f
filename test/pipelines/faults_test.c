/* Training whose workers, agents and heads die, hang and come back as zombies, in simulation: the real actors, head, agent and
 * workers, processes and arithmetic that are played. Whatever the seed does, every step's record, the checkpoints and the final state have the bits of
 * a run that lost nothing, each step is logged once, and no epoch comes twice.
 * SPDX-License-Identifier: Apache-2.0 */
#include "small_training.h"

#include "base/log.h"
#include "base/rng.h"
#include "pipelines/train_internal.h"
#include "runtime/orphans.h"
#include "runtime/simulation_job.h"
#include "simulated_jobs.h"

static outcome expected[LAYOUTS]; /* of those that are the first of their like */
static bool is_expected[LAYOUTS];
static uint64_t n_again, n_saved_again, n_from_the_beginning, n_replayed, n_kept, n_compared, n_audited,
    n_lost_checkpoints;
static uint64_t n_flips, n_of_auditors; /* of them */
static uint64_t n_flukes;

typedef struct training {
    outcome out;
    uint32_t epoch;
    bool may_rot;
    bool lost_all; /* with an agent that died before it had handed over what another head found with it */
    bool was_taken;
    tr_head_memory *memory; /* of the head's that is or was last */
    tr_coordinator_context *coordinator;
    tr_played_lease *lease; /* NULL: the lock is all */
} training;

static tr_status record_epoch(void *context, uint32_t epoch, tr_error *err)
{
    training *self = context;
    if (epoch <= self->epoch) return tr_fail(err, TR_ECORRUPT, "epoch %u came after %u", epoch, self->epoch);
    tr_status status = self->lease ? tr_played_lease_win(self->lease, epoch, err) : TR_OK;
    if (status != TR_OK) return status;
    self->epoch = epoch;
    return TR_OK;
}

/* As pipelines/train_recovery.c does, without a disk: here the state regions outlive every worker, so that only flipped bits
 * can bring a job back to its beginning. */
static tr_status begin_again(void *context, tr_job_beginning *beginning, tr_error *err)
{
    training *self = context;
    tr_coordinator_journal *journal = self->coordinator->journal;
    beginning->generation = tr__training_generation(journal, beginning->held);
    if (beginning->generation) self->lost_all = false;
    if (beginning->generation || !tr_coordinator_newest(journal)) return TR_OK;
    if (!self->may_rot && !self->lost_all)
        return tr_fail(err, TR_ECORRUPT, "no generation is held by all, though steps were done");
    journal->saved = journal->asked[0] = journal->asked[1] = 0;
    n_from_the_beginning++;
    return TR_OK;
}

static bool may_lead(void *context, char *why, size_t capacity)
{
    const training *self = context;
    if (!self->lease || !tr_played_lease_must_stop(self->lease)) return true;
    snprintf(why, capacity, "the lease was not renewed");
    return false;
}

static bool is_done(void *context)
{
    const training *self = context;
    for (uint32_t i = 0; i < self->out.n_checkpoints; i++)
        if (self->out.checkpoints[i].updates == STEPS) return self->out.n_records == STEPS;
    return false;
}

static void on_event(void *context, const tr_job_event *event)
{
    training *self = context;
    bool nobody = event->kind == TR_JOB_AGENT_REPLACED && event->n_readopted == 0;
    if (nobody && self->was_taken) self->lost_all = true;
}

/* As pipelines/train_readopt.c does, without a disk: who finds nobody begins where the run did. */
static tr_status succeed(void *context, const tr_orphans *orphans, tr_job_options *job, tr_error *err)
{
    training *self = context;
    self->was_taken = orphans != NULL;
    tr_head_memory_destroy(&self->memory);
    tr_status status = orphans ? tr_head_memory_open(&self->memory, orphans->kept, err)
                               : tr_head_memory_new(&self->memory, err);
    if (status != TR_OK) return status;
    tr_coordinator_journal *journal = tr_head_memory_journal(self->memory);
    /* A checkpoint may have got its name without the coordinator's hearing of it. */
    for (uint32_t i = 0; orphans && i < self->out.n_checkpoints; i++)
        if (self->out.checkpoints[i].updates > journal->saved)
            journal->saved = (uint32_t)self->out.checkpoints[i].updates;
    self->coordinator->journal = journal;
    job->lease.kept = tr_head_memory_descriptor(self->memory);
    if (self->lease && self->lease->last_epoch > self->epoch) self->epoch = self->lease->last_epoch;
    job->recovery.first_epoch = ++self->epoch;
    return TR_OK;
}

static tr_job_simulation_span durable(void *context, int which)
{
    training *self = context;
    if (which == 0) return (tr_job_simulation_span){&self->out, sizeof self->out};
    if (which == 1) return (tr_job_simulation_span){&self->epoch, sizeof self->epoch};
    if (which > 2) return (tr_job_simulation_span){0};
    return (tr_job_simulation_span){self->coordinator->journal, sizeof *self->coordinator->journal};
}

static tr_status train(size_t layout, uint64_t seed, uint32_t n_faults, const char *flips, FILE *trace,
                       training *self, tr_job_simulation_counters *counters, tr_error *err)
{
    cast kinds;
    self->may_rot = !flips && seed % 4 == 3;
    self->epoch = 1;
    *counters = (tr_job_simulation_counters){0};
    tr_status status = tr_head_memory_new(&self->memory, err);
    if (status != TR_OK) return status;
    cast_init(&kinds, layout, &self->out, tr_head_memory_journal(self->memory));
    self->coordinator = &kinds.coordinator;
    const tr_job_options job = {
        .topology = &jobs[layout].plan.topology,
        .registry = &kinds.registry,
        .recovery = {.max_restarts = 100,
                     .within_ms = 1,
                     .first_epoch = 1,
                     .record_epoch = record_epoch,
                     .begin_again = begin_again},
        .chaos = {.points = flips},
        .lease = {.kept = tr_head_memory_descriptor(self->memory)},
        .stop_actor = self->lease ? tr_role_find(&jobs[layout].plan.topology, TR_ROLE_COORDINATOR) : 0,
        .may_lead = may_lead,
        .on_event = on_event,
        .context = self};
    tr_job_simulation_options options = {.seed = seed,
                                         .job = &job,
                                         .activation_max_ns = 10000 * (seed % 4),
                                         .max_events = MAX_EVENTS,
                                         .n_faults = n_faults,
                                         .may_rot = self->may_rot,
                                         .faults_until = 100 + 250 * (uint64_t)job.topology->n_nodes,
                                         .succeed = flips ? NULL : succeed,
                                         .durable = durable,
                                         .directory = simulated_directory,
                                         .lease = self->lease,
                                         .is_done = is_done,
                                         .trace = trace};
    tr_simulation_faults(seed, &options.data, &options.control);
    status = tr_simulate_job(&options, counters, err);
    tr_head_memory_destroy(&self->memory);
    return status;
}

static void add_up(const tr_job_simulation_counters *one, const outcome *out)
{
    add_to_seen(one);
    n_again += out->n_again;
    n_saved_again += out->n_saved_again;
    n_replayed += out->n_replayed;
    n_kept += out->n_kept;
    n_compared += out->n_compared;
    n_audited += out->n_audited;
}

static bool expect_undisturbed(size_t like)
{
    training undisturbed = {0};
    tr_job_simulation_counters counters;
    tr_error err;
    if (is_expected[like]) return true;
    if (train(like, 0, 0, NULL, NULL, &undisturbed, &counters, &err) != TR_OK)
        return fprintf(stderr, "%s\n", err.message), false;
    expected[like] = undisturbed.out;
    is_expected[like] = true;
    return true;
}

/* A checkpoint that was being made of a slot that rots cannot be made again, nor one of which a dead head had not told: then
 * there is only the one after it, or another in its place. */
static bool has_lost_no_more_than_one(const outcome *self, const outcome *whole)
{
    bool has_last = false;
    for (uint32_t i = 0; i < self->n_checkpoints; i++) {
        for (uint32_t k = 0; k < whole->n_checkpoints; k++) {
            if (self->checkpoints[i].updates != whole->checkpoints[k].updates) continue;
            if (memcmp(&self->checkpoints[i], &whole->checkpoints[k], sizeof *whole->checkpoints) != 0)
                return false;
            has_last = has_last || self->checkpoints[i].updates == STEPS;
        }
    }
    n_lost_checkpoints += self->n_checkpoints < whole->n_checkpoints;
    return has_last && self->n_checkpoints + 1 >= whole->n_checkpoints && self->n_records == STEPS &&
           memcmp(self->records, whole->records, sizeof self->records) == 0;
}

/* With a lease: a head that loses it stops with its job, is ended, or can begin no epoch; the next one waits for it. */
static bool gives_the_same_bits(uint64_t seed, tr_played_lease *lease, FILE *trace)
{
    training self = {.lease = lease};
    tr_job_simulation_counters counters;
    tr_error err;
    size_t like = first_like(seed % LAYOUTS);
    if (!expect_undisturbed(like)) return false;
    tr_status status = train(seed % LAYOUTS, seed, 5, NULL, trace, &self, &counters, &err);
    add_up(&counters, &self.out);
    bool was_lost = counters.n_head_deaths || counters.n_gave_way || counters.n_refused;
    if (status == TR_OK && (counters.n_rotten || was_lost) &&
        has_lost_no_more_than_one(&self.out, &expected[like]))
        return true;
    if (status == TR_OK) return outcome_is(&self.out, &expected[like], seed % LAYOUTS);
    fprintf(stderr, "%s %s %s: %s\n", layouts[seed % LAYOUTS].data, layouts[seed % LAYOUTS].pipeline,
            layouts[seed % LAYOUTS].pieces, err.message);
    return false;
}

static bool whoever_dies_training_gives_the_same_bits(uint64_t seed, FILE *trace)
{
    return gives_the_same_bits(seed, NULL, trace);
}

static bool whoever_leads_training_gives_the_same_bits(uint64_t seed, FILE *trace)
{
    static const uint64_t lives_ms[] = {300, 500, 1000, 4000};
    tr_played_lease lease = {.ttl_ns = lives_ms[seed / LAYOUTS % 4] * 1000000};
    return gives_the_same_bits(seed, &lease, trace);
}

/* A bit flips in a phase of one step, of somebody's own work or of an audit. Without deaths it is found once, and told who erred;
 * a death may take the erring process, or the one who knows of it, before that. Either way no bit is wrong. */
static bool whoever_errs_is_found_and_changes_no_bit(uint64_t seed, FILE *trace)
{
    static const char *const phases[] = {"forward", "weight", "audit", "backward"};
    size_t audited[LAYOUTS], n = 0;
    for (size_t i = 0; i < LAYOUTS; i++)
        if (jobs[i].plan.training.audit == TR_AUDIT_ALL) audited[n++] = i;
    size_t layout = audited[seed % n], like = first_like(layout);
    if (!expect_undisturbed(like)) return false;
    const tr_training_plan *plan = &jobs[layout].plan.training;
    tr_rng_key key = {.seed = seed};
    uint32_t stage = (uint32_t)(tr_rng_u64(&key, 0) % plan->n_stages),
             replica = (uint32_t)(tr_rng_u64(&key, 1) % plan->n_replicas),
             step = (uint32_t)(tr_rng_u64(&key, 2) % STEPS), n_deaths = seed % 3 == 2 ? 3 : 0;
    const char *phase = phases[tr_rng_u64(&key, 3) % (stage == 0 ? 3 : 4)];
    bool fused = layouts[layout].more[1] && strcmp(layouts[layout].more[1], "layout.recompute=full") == 0;
    if (fused && strcmp(phase, "weight") == 0) phase = "forward"; /* the backward is both */
    char flips[100];
    snprintf(flips, sizeof flips, "1/stage %u of replica %u/%s/%u/FLIP", stage, replica, phase, step);
    training self = {0};
    tr_job_simulation_counters counters;
    tr_error err;
    tr_status status = train(layout, seed, n_deaths, flips, trace, &self, &counters, &err);
    bool auditor = strcmp(phase, "audit") == 0;
    n_flips += self.out.n_corruptions > 0 && self.out.n_decided > 0;
    n_of_auditors += self.out.n_corruptions > 0 && self.out.n_decided > 0 && auditor;
    if (status != TR_OK) return fprintf(stderr, "%s: %s\n", flips, err.message), false;
    if (!outcome_is(&self.out, &expected[like], layout)) return fprintf(stderr, "%s\n", flips), false;
    /* A word to a monitor that has had no turn goes with its epoch. */
    bool found = self.out.n_corruptions <= 1 && self.out.n_decided <= 1 && counters.n_deaths == 0 &&
                 counters.epoch == (auditor ? 3 : 2);
    if (found || n_deaths) return true;
    fprintf(stderr, "%s: found %u times, decided %u times, epoch %u\n", flips, self.out.n_corruptions,
            self.out.n_decided, counters.epoch);
    return false;
}

/* Something that a stage computes in one step is no number, once. Nothing is updated by it, and the step is run again. */
static bool what_is_no_number_once_changes_no_bit(uint64_t seed, FILE *trace)
{
    static const char *const phases[] = {"forward", "weight", "backward"};
    size_t by_step[LAYOUTS], n = 0;
    for (size_t i = 0; i < LAYOUTS; i++) /* for a replay the plan would have to change */
        if (!jobs[i].plan.training.replay) by_step[n++] = i;
    size_t layout = by_step[seed % n], like = first_like(layout);
    if (!expect_undisturbed(like)) return false;
    const tr_training_plan *plan = &jobs[layout].plan.training;
    tr_rng_key key = {.seed = seed};
    uint32_t stage = (uint32_t)(tr_rng_u64(&key, 0) % plan->n_stages),
             replica = (uint32_t)(tr_rng_u64(&key, 1) % plan->n_replicas),
             step = (uint32_t)(tr_rng_u64(&key, 2) % STEPS), n_deaths = seed % 2 ? 3 : 0;
    const char *phase = phases[tr_rng_u64(&key, 3) % (stage == 0 ? 2 : 3)];
    bool fused = layouts[layout].more[1] && strcmp(layouts[layout].more[1], "layout.recompute=full") == 0;
    bool audited = plan->audit != 0; /* that may find it first */
    if (fused && strcmp(phase, "weight") == 0) phase = "forward";
    if (plan->hold_every > 1 && stage + 1 == plan->n_stages) phase = "weight"; /* its loss is elsewhere */
    if (plan->n_stages == stage + 1 &&
        strncmp(layouts[layout].more[0] ? layouts[layout].more[0] : "", "layout.logits", 13) == 0)
        phase = "backward"; /* where all of it is computed */
    char points[100];
    snprintf(points, sizeof points, "1/stage %u of replica %u/%s/%u/NAN", stage, replica, phase, step);
    training self = {0};
    tr_job_simulation_counters counters;
    tr_error err;
    tr_status status = train(layout, seed, n_deaths, points, trace, &self, &counters, &err);
    add_up(&counters, &self.out);
    n_flukes += self.out.n_flukes;
    if (status != TR_OK) return fprintf(stderr, "%s: %s\n", points, err.message), false;
    if (!outcome_is(&self.out, &expected[like], layout)) return fprintf(stderr, "%s\n", points), false;
    bool found = self.out.n_flukes == 1 && counters.n_deaths == 0 && counters.epoch == 2;
    if (found || n_deaths || audited) return true;
    fprintf(stderr, "%s: told %u times, epoch %u\n", points, self.out.n_flukes, counters.epoch);
    return false;
}

static int report(void)
{
    tell_seen();
    printf("%" PRIu64 " records and %" PRIu64 " checkpoints came again, %" PRIu64
           " times all from the beginning, %" PRIu64 " checkpoints lost with a rotten slot; %" PRIu64
           " steps replayed, in which %" PRIu64 " stages kept their work and %" PRIu64
           " messages were compared; %" PRIu64 " audits; %" PRIu64 " flipped bits were found, %" PRIu64
           " of them of auditors; %" PRIu64 " results were no numbers; %" PRIu64 " events\n",
           n_again, n_saved_again, n_from_the_beginning, n_lost_checkpoints, n_replayed, n_kept, n_compared,
           n_audited, n_flips, n_of_auditors, n_flukes, seen.n_events);
    printf("of heads with a lease %u gave way, %u were refused an epoch, %u were ended with it\n",
           seen.n_gave_way, seen.n_refused, seen.n_over);
    return each_was_seen(n_from_the_beginning && n_again && n_replayed && n_kept && n_compared && n_audited)
               ? 0
               : 1;
}

int main(int argc, char **argv)
{
    static const simulate_case cases[] = {
        {"whoever_dies_training_gives_the_same_bits", 2000, whoever_dies_training_gives_the_same_bits},
        {"whoever_leads_training_gives_the_same_bits", 200, whoever_leads_training_gives_the_same_bits},
        {"whoever_errs_is_found_and_changes_no_bit", 300, whoever_errs_is_found_and_changes_no_bit},
        {"what_is_no_number_once_changes_no_bit", 300, what_is_no_number_once_changes_no_bit},
    };
    if (!getenv("TROUPE_LOG")) tr_log_set_level(TR_LOG_ERROR); /* deaths are told as warnings */
    prepare();
    simulated_directory_open();
    int failed = simulate_main(cases, sizeof cases / sizeof *cases, argc, argv);
    simulated_directory_close();
    clean_up();
    return report() || failed;
}
