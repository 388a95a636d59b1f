/* pipelines/train_former.c - a training on several hosts whose leading host was lost: what the next head goes on from, where hosts
 * that are left still have states (runtime/hosts_former.c).
 * What the lost head's memory knew of the steps is gone with it. The log has them: a head that leads under a lease, on several
 * hosts, commits nothing before the record of the step before is in it. So the newest generation that all had published is
 * one whose steps are logged, and the next coordinator tells and compares by that as by the journal of one that died here.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/train_internal.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"
#include "pipelines/run_log.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { SYNC_EVERY_MS = 1000 };

static bool may_be_followed(const tr__training *self)
{
    return self->lead && self->recipe->layout.hosts > 1 && self->recipe->recovery != TR_RECOVERY_OFF;
}

bool tr__training_lost_its_head(const char *run)
{
    char *path = tr_format("%s/processes.json", run);
    int opened =
        path ? open(path, O_RDONLY | O_CLOEXEC) : -1; /* a network's file system asks its server then */
    if (opened >= 0) close(opened);
    tr_free(path);
    return opened >= 0;
}

void tr__training_find_former(tr__training *self)
{
    self->takes_former = may_be_followed(self) && tr__training_lost_its_head(self->recipe->run);
}

/* A checkpoint that was due and is not there was lost on its way. */
void tr__training_read_former(tr__training *self)
{
    tr_coordinator_journal *journal = self->journal;
    uint32_t saved = self->start.updates;
    if (!self->takes_former) return;
    uint32_t logged = tr_run_log_records(self->recipe->run, saved, journal->records, TR_COORDINATOR_RECORDS);
    journal->saved = journal->asked[0] = journal->asked[1] = saved;
    for (uint32_t step = saved + 1; step <= logged; step++) {
        if (!tr_plan_checkpoint_after(&self->plan->training, step)) continue;
        journal->asked[1] = journal->asked[0];
        journal->asked[0] = step;
    }
}

/* Of what was logged when this process began; and of what it has committed since. */
static uint64_t newest(const tr__training *self)
{
    uint32_t known = tr_coordinator_newest(self->journal);
    return (known > self->start.updates ? known : self->start.updates) + 1ull;
}

static bool has_led(void *context, uint64_t term, uint32_t epoch)
{
    const tr__training *self = context;
    char *path = tr_format("%s/epochs.jsonl", self->recipe->run);
    bool has = path && tr_epoch_log_has(path, epoch, term);
    tr_free(path);
    return has;
}

void tr__training_former(tr__training *self, tr_job_former *former)
{
    if (!may_be_followed(self)) return;
    *former = (tr_job_former){.term = (uint64_t)tr_head_lease_revision(self->lead),
                              .wanted = self->takes_former,
                              .least = self->start.updates + 1ull,
                              .most = newest(self),
                              .led = has_led};
}

void tr__training_limit_former(const tr__training *self, uint64_t held[2])
{
    int n = 0;
    for (int k = 0; k < 2 && self->takes_former; k++) {
        uint64_t generation = held[k];
        held[k] = 0;
        if (generation > self->plan->start.updates && generation <= newest(self)) held[n++] = generation;
    }
}

void tr__training_say_former(tr__training *self, uint64_t generation)
{
    const tr_step_record *last = tr_run_last(self->run);
    char text[256], again[64] = "no step is run again";
    if (!self->takes_former || self->told_former) return;
    self->told_former = true;
    uint32_t step = generation ? (uint32_t)(generation - 1) : self->start.updates;
    if (last && last->step > step)
        snprintf(again, sizeof again, "steps %u to %u are run again", step + 1, last->step);
    if (generation) {
        snprintf(text, sizeof text, "going on after step %u from what the hosts that are left hold; %s", step,
                 again);
        tr_run_note(self->run, "from_memory", text);
    } else if (!tr_coordinator_newest(self->journal)) { /* else that it goes back was told */
        if (step)
            snprintf(text, sizeof text, "no host holds what is newer than the checkpoint after step %u",
                     step);
        else
            snprintf(text, sizeof text, "no step was done, or none is known: all begin anew");
        tr_run_note(self->run, "from_disk", text);
    }
}

void tr__training_logged(tr__training *self)
{
    uint64_t now_ns = tr_clock_ns();
    if (!may_be_followed(self) || now_ns < self->logged_ns + (uint64_t)SYNC_EVERY_MS * 1000000) return;
    self->logged_ns = now_ns;
    tr_run_sync(self->run);
}

uint32_t tr__training_most_untold(const tr__training *self)
{
    return may_be_followed(self) ? 1 : 0;
}
