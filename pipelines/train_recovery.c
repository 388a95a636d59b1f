/* pipelines/train_recovery.c - where a job goes on after the loss of a worker: what only the head knows of it.
 * The runtime has found which generations all state slots hold. Mostly the newest of them is it, and nothing is to be done
 * here. Two cases differ: a checkpoint that was being streamed from the older generation is lost with the job, and can be
 * made again only from there; and where no slot is left (the agent died, which holds them), the job begins as a resume would.
 * Steps that are run again are compared with what was logged of them (run_directory.h).
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/train_internal.h"

#include "base/memory.h"

tr_status tr__training_record_epoch(void *context, uint32_t epoch, tr_error *err)
{
    tr__training *self = context;
    return tr_run_epoch(self->run, epoch, err);
}

static void say_from_disk(tr__training *self, const tr_start *start)
{
    const tr_step_record *last = tr_run_last(self->run);
    char *text =
        tr_format("no state slot that all stages hold is left: steps %u to %u are run again, from %s",
                  start->updates + 1, last ? last->step : start->updates + 1,
                  start->directory[0] ? start->directory : "the beginning");
    if (text) tr_run_note(self->run, "from_disk", text);
    tr_free(text);
}

/* The newest checkpoint, or where this process began. */
static tr_status find_start(const tr__training *self, tr_start *out, tr_error *err)
{
    tr_trainer_state state = {0};
    tr_start found = {.origin = TR_ORIGIN_CHECKPOINT};
    tr_status status =
        tr_checkpoint_find(self->recipe->run, found.directory, sizeof found.directory, &state, err);
    if (status) return status;
    found.updates = state.updates;
    found.tokens = state.tokens;
    if (!found.directory[0]) found = self->start;
    if (found.updates < self->start.updates)
        return tr_fail(err, TR_ECORRUPT,
                       "the checkpoint after step %u, from which this run went on, is damaged; --resume goes "
                       "back to the one after step %u",
                       self->start.updates, found.updates);
    *out = found;
    out->again = out->updates > self->start.updates;
    return TR_OK;
}

static tr_status begin_from_disk(tr__training *self, const tr_topology **topology, tr_error *err)
{
    tr_start start;
    tr_model_config config = {0};
    tr_status status = find_start(self, &start, err);
    if (status) return status;
    say_from_disk(self, &start);
    status = tr_start_read_config(&start, self->recipe, &config, err);
    if (!status) status = tr__training_add_plan(self, &start, &config, err);
    if (status) return status;
    self->journal->saved = self->journal->asked[0] = self->journal->asked[1] = start.updates;
    tr__training_tell_coordinator(self);
    *topology = &self->plan->topology;
    return TR_OK;
}

/* More deaths than are mended: all take their state once more, and only write it to a checkpoint. */
static tr_status begin_to_save(tr__training *self, tr_job_beginning *beginning, tr_error *err)
{
    tr_start start = self->plan->start;
    tr_model_config config = {0};
    start.until = beginning->generation ? (uint32_t)(beginning->generation - 1) : 0;
    if (start.until <= self->plan->training.first_step || self->journal->saved == start.until)
        return tr_fail(err, TR_ECLOSED, "nothing is left that would be newer than what is on the disk");
    tr_status status = tr__training_read_config(self, &config, err);
    if (!status) status = tr__training_add_plan(self, &start, &config, err);
    if (status) return status;
    tr__training_tell_coordinator(self);
    beginning->topology = &self->plan->topology;
    return TR_OK;
}

/* The last step gave no number: all look at what they compute of it. Another plan, so that nothing kept passes for computed. */
static tr_status begin_to_examine(tr__training *self, const tr_topology **topology, tr_error *err)
{
    const tr_non_finite *seen = &self->journal->non_finite;
    tr_start start = self->plan->start;
    tr_model_config config = {0};
    start.examined = seen->step;
    start.examination = seen->n;
    tr_status status = tr__training_read_config(self, &config, err);
    if (!status) status = tr__training_add_plan(self, &start, &config, err);
    if (status) return status;
    tr__training_tell_coordinator(self);
    *topology = &self->plan->topology;
    return TR_OK;
}

static bool is_to_examine(const tr__training *self)
{
    const tr_non_finite *seen = &self->journal->non_finite;
    const tr_training_plan *plan = &self->plan->training;
    return seen->step && (plan->examined != seen->step || plan->examination != seen->n);
}

/* Asked for and never brought to its end? They are written in the order of steps. */
static bool lost_its_checkpoint(const tr_coordinator_journal *journal, uint64_t generation)
{
    uint64_t updates = generation - 1;
    return generation && updates > journal->saved &&
           (updates == journal->asked[0] || updates == journal->asked[1]);
}

uint64_t tr__training_generation(const tr_coordinator_journal *journal, const uint64_t held[2])
{
    return lost_its_checkpoint(journal, held[1]) ? held[1] : held[0];
}

tr_status tr__training_begin_again(void *context, tr_job_beginning *beginning, tr_error *err)
{
    tr__training *self = context;
    const tr_coordinator_journal *journal = self->journal;
    bool has_begun = tr_coordinator_newest(journal) > 0;
    tr_status status = TR_OK;
    tr__training_limit_former(self, beginning->held);
    beginning->generation = tr__training_generation(journal, beginning->held);
    if (beginning->gives_up)
        status = begin_to_save(self, beginning, err);
    else if (beginning->generation == 0 && has_begun)
        status = begin_from_disk(self, &beginning->topology, err);
    if (!status) tr__training_say_former(self, beginning->generation);
    if (!status && !beginning->gives_up && is_to_examine(self))
        status = begin_to_examine(self, &beginning->topology, err);
    if (!status && !beginning->gives_up) status = tr__training_deal_again(self, &beginning->topology, err);
    return status ? status : tr_run_epoch_from(self->run, beginning->epoch, beginning->generation, err);
}
