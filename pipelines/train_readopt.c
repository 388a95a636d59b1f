/* pipelines/train_readopt.c - a training whose head died, begun again while its agent and workers still wait for another one.
 * They are gone on with only where nothing has changed that they rest on: the same program, actors, places, transport and
 * key, and a log that lacks nothing which cannot be told again. Otherwise they are sent home, and the run goes on from its
 * checkpoint as it always could.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/train_scale.h"

#include "base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

tr_status tr__training_open_directory(tr__training *self, tr_error *err)
{
    if (self->directory >= 0) return TR_OK;
    self->directory = open(self->recipe->run, O_PATH | O_DIRECTORY | O_CLOEXEC);
    return self->directory >= 0
               ? TR_OK
               : tr_fail(err, TR_EIO, "could not open '%s': %s", self->recipe->run, strerror(errno));
}

tr_status tr__training_find_orphans(tr__training *self, tr_error *err)
{
    tr_error why;
    tr_status status = tr__training_open_directory(self, err);
    if (status) return status;
    status = tr_orphans_find(&self->orphans, self->directory, &why);
    if (!status || status == TR_ENOTFOUND) return TR_OK;
    if (err) *err = why;
    return status;
}

/* A program that was built anew is another one, whatever it would do. */
static bool is_same_program(int32_t pid)
{
    char path[64];
    struct stat mine, theirs;
    snprintf(path, sizeof path, "/proc/%d/exe", pid);
    return stat("/proc/self/exe", &mine) == 0 && stat(path, &theirs) == 0 && mine.st_dev == theirs.st_dev &&
           mine.st_ino == theirs.st_ino;
}

/* NULL: nothing is. */
static const char *what_is_in_the_way(const tr__training *self)
{
    const tr_recipe *recipe = self->recipe;
    const tr_lease_offer *offer = &self->orphans->offer;
    const char *key = recipe->network.key ? self->key.public_half : "";
    if (!recipe->supervision.lease || recipe->recovery == TR_RECOVERY_OFF) return "the recipe wants no lease";
    if (!recipe->layout.processes || !tr_topology_has_same_places(&offer->topology, &self->plan->topology))
        return "their layout is another";
    if (!is_same_program(offer->agent_pid)) return "they run another build of this program";
    if (strcmp(offer->data_transport, tr_transport_kind_name(recipe->transport)) != 0)
        return "their transport is another";
    if (strcmp(offer->public_key, key) != 0) return "their network.key is another";
    if (strcmp(offer->bind, self->bind) != 0) return "their network.address is another";
    return NULL;
}

/* The coordinator tells what its journal has; what is missing before that cannot be logged any more. */
static const char *what_the_log_lacks(const tr__training *self, const tr_coordinator_journal *journal)
{
    uint32_t newest = tr_coordinator_newest(journal);
    uint32_t logged = tr_run_logged(self->recipe->run, self->start.updates);
    bool whole = newest < TR_COORDINATOR_RECORDS || logged + TR_COORDINATOR_RECORDS >= newest;
    return whole ? NULL : "the log lacks steps that they have done";
}

tr_status tr__training_choose_orphans(tr__training *self, FILE *progress, tr_error *err)
{
    tr_error damaged;
    if (!self->orphans) return TR_OK;
    tr_status status = tr__training_try_layout_before(self, err);
    if (status) return status;
    const char *why = self->start.updates >= (uint32_t)self->recipe->train.steps ? "the run is done"
                                                                                 : what_is_in_the_way(self);
    if (!why && tr_head_memory_open(&self->memory, self->orphans->kept, &damaged)) why = damaged.message;
    if (!why) why = what_the_log_lacks(self, tr_head_memory_journal(self->memory));
    if (!why) return TR_OK;
    if (progress)
        fprintf(progress, "%d workers still wait for a head and are sent home: %s\n",
                tr_orphans_alive(self->orphans), why);
    tr_head_memory_destroy(&self->memory);
    return tr_orphans_dismiss(&self->orphans, err);
}

tr_status tr__training_make_memory(tr__training *self, tr_error *err)
{
    tr_status status = self->memory ? TR_OK : tr_head_memory_new(&self->memory, err);
    if (status) return status;
    self->journal = tr_head_memory_journal(self->memory);
    /* The checkpoint may have got its name without the coordinator's hearing of it. */
    if (self->orphans && self->start.updates > self->journal->saved)
        self->journal->saved = self->start.updates;
    tr__training_read_former(self);
    return TR_OK;
}

tr_status tr__training_lease(tr__training *self, tr_job_lease *lease, tr_error *err)
{
    const tr_recipe *recipe = self->recipe;
    *lease = (tr_job_lease){.directory = -1, .kept = -1};
    if (!recipe->layout.processes || recipe->recovery == TR_RECOVERY_OFF || !recipe->supervision.lease)
        return TR_OK;
    tr_status status = tr__training_open_directory(self, err);
    if (status) return status;
    *lease = (tr_job_lease){.ms = (uint32_t)recipe->supervision.lease * 1000,
                            .directory = self->directory,
                            .kept = tr_head_memory_descriptor(self->memory),
                            .orphans = self->orphans};
    return TR_OK;
}
