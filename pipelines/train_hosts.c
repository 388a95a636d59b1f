/* pipelines/train_hosts.c - a training on several hosts: what the runtime is told of them.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/train_internal.h"

#include "actors/roles.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef TROUPE_VERSION
#error "the build says which version this is"
#endif

void tr__training_hosts(tr__training *self, tr_job_hosts *hosts)
{
    const tr_recipe *recipe = self->recipe;
    if (recipe->layout.hosts == 1) return;
    /* "tcp://10.0.0.5:*", with the port in place of the star */
    snprintf(self->listen, sizeof self->listen, "%.*s%d", (int)strlen(self->bind) - 1, self->bind,
             recipe->network.port);
    /* Those that live look for a new head when they miss the old one, so not long after it. */
    int32_t wait = recipe->supervision.wait_for_host + 2 * recipe->supervision.silence;
    if (!self->took_over || wait > recipe->network.wait) wait = recipe->network.wait;
    *hosts = (tr_job_hosts){.count = recipe->layout.hosts,
                            .host_of = self->plan->host_of,
                            .equals = self->plan->equals,
                            .listen = self->listen,
                            .version = TROUPE_VERSION,
                            .run = recipe->run,
                            .wait_ms = (uint32_t)wait * 1000,
                            .fewer = self->took_over,
                            .silence_ms = (uint32_t)recipe->supervision.silence * 1000,
                            .replace_ms = (uint32_t)recipe->supervision.wait_for_host * 1000,
                            .copy = recipe->supervision.copies,
                            .copy_mib_per_s = (uint32_t)recipe->network.copy_rate,
                            .told = tr_role_find(&self->plan->topology, TR_ROLE_COORDINATOR)};
    tr__training_former(self, &hosts->former);
}

tr_status tr__training_make_absolute(tr__training *self, tr_error *err)
{
    char *directory = self->start.directory;
    if (self->recipe->layout.hosts == 1 || !directory[0]) return TR_OK;
    char *whole = realpath(directory, NULL);
    if (!whole) return tr_fail(err, TR_EIO, "could not find '%s': %s", directory, strerror(errno));
    bool fits = strlen(whole) < sizeof self->start.directory;
    if (fits) memcpy(directory, whole, strlen(whole) + 1);
    free(whole);
    return fits ? TR_OK : tr_fail(err, TR_EINVAL, "the path of '%s' is too long", directory);
}
