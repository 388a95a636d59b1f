/* pipelines/train_lead.c - who leads a training whose heads may be on several hosts: the one that has the lease in etcd, under
 * the job's name. The lock on the run's directory is taken as well; it tells heads of one host apart, at once.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/train_internal.h"

#include "base/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void on_lost(void *context, const char *text)
{
    const tr__training *self = context;
    self->lost_lead(text);
}

static void on_waits(void *context, const char *text)
{
    const tr__training *self = context;
    if (!self->progress) return;
    fprintf(self->progress, "process %d %s\n", getpid(), text);
    fflush(self->progress);
}

/* As realpath(3) will say it when the directory is there: all heads have to call it the same. Free with tr_free; NULL: no
 * memory. */
static char *whole_path(const char *run)
{
    char *there = tr_strdup(run), *known = NULL;
    size_t length = there ? strlen(there) : 0; /* of what is looked for: shorter and shorter */
    while (there && !(known = realpath(length ? there : *run == '/' ? "/" : ".", NULL)) && length) {
        while (length && there[length - 1] == '/') length--;
        while (length && there[length - 1] != '/') length--;
        there[length] = 0;
    }
    tr_free(there);
    char *path = known ? tr_strdup(known) : NULL;
    free(known);
    for (const char *at = run + length; path && *at;) {
        size_t n = strcspn(at, "/");
        bool counts = n > 0 && !(n == 1 && *at == '.');
        char *longer =
            counts ? tr_format("%s%s%.*s", path, strcmp(path, "/") == 0 ? "" : "/", (int)n, at) : path;
        if (counts) tr_free(path);
        path = longer;
        at += n + (at[n] == '/');
    }
    return path;
}

tr_status tr__training_lead(tr__training *self, tr_head_lease_patience patience, tr_error *err)
{
    const tr_recipe *recipe = self->recipe;
    char host[128] = "", *job, *holder;
    if (!recipe->head.etcd || self->lead) return TR_OK;
    if (!self->lost_lead)
        return tr_fail(err, TR_EINVAL,
                       "head.etcd needs somebody who ends the process when the lease is lost");
    gethostname(host, sizeof host - 1);
    job = recipe->head.job ? tr_strdup(recipe->head.job) : whole_path(recipe->run);
    holder =
        tr_format("process %d on host '%.60s'%s%.60s", getpid(), host, recipe->network.address ? " at " : "",
                  recipe->network.address ? recipe->network.address : "");
    tr_head_lease_options options = {.addresses = recipe->head.etcd,
                                     .job = job,
                                     .holder = holder,
                                     .ttl_s = (uint32_t)recipe->head.ttl,
                                     .context = self,
                                     .waits = on_waits,
                                     .lost = on_lost};
    tr_status status = job && holder ? tr_head_lease_acquire(&self->lead, &options, patience, err)
                                     : tr_fail(err, TR_ENOMEM, "no memory for a lease");
    tr_free(job);
    tr_free(holder);
    return status;
}

bool tr__training_may_lead(void *context, char *why, size_t capacity)
{
    tr__training *self = context;
    return !self->lead || !tr_head_lease_must_stop(self->lead, why, capacity);
}
