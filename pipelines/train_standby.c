/* pipelines/train_standby.c - the two sides of a standby: the head that has one, and the one that waits to be a head.
 * A head that was a standby itself gets its own only when it has made a new step: a run whose heads die of the run itself
 * would otherwise go on dying without end.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/train_internal.h"

#include "base/file.h"

#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static void say(const tr__training *self, const char *what)
{
    char text[96];
    snprintf(text, sizeof text, "%s %d waits for the case that head %d dies", what,
             tr_standby_pid(self->standby), getpid());
    tr_run_note(self->run, "standby", text);
}

void tr__training_start_standby(tr__training *self)
{
    tr_error why;
    if (!self->recipe->head.standby || self->standby) return;
    if (tr_standby_start(&self->standby, self->recipe->run, &why))
        tr_run_note(self->run, "standby_failed", why.message);
    else
        say(self, "standby");
}

void tr__training_watch_standby(tr__training *self)
{
    bool killed;
    tr_error why;
    if (!self->standby) return;
    if (tr_standby_look(self->standby, &killed, &why))
        tr_run_note(self->run, "standby_failed", why.message);
    else if (killed)
        say(self, "the standby was killed; another one, process");
}

/* processes.json is taken away by a head that ends, however the run went, save for want of its lease. A directory that was made anew meanwhile is
 * another run's, and the lock is not on it. */
static bool has_died(const char *run, int lock)
{
    struct stat locked, now;
    bool same = fstat(lock, &locked) == 0 && stat(run, &now) == 0 && locked.st_dev == now.st_dev &&
                locked.st_ino == now.st_ino;
    return same && tr__training_lost_its_head(run);
}

/* With the lease in etcd, the lock is of who is on this host and has lost that, or is about to end. */
static tr_status lock(tr__training *self, FILE *progress, tr_error *err)
{
    const char *run = self->recipe->run;
    if (self->lead && tr_run_lock(run, false, &self->lock, NULL) == TR_OK) return TR_OK;
    if (self->lead && progress) {
        fprintf(progress, "process %d waits until another one on this host lets go of %s\n", getpid(), run);
        fflush(progress);
    }
    return tr_run_lock(run, true, &self->lock, err);
}

tr_status tr__training_stand_by(tr__training *self, FILE *progress, bool *needed, tr_error *err)
{
    const char *run = self->recipe->run;
    *needed = false;
    if (!tr_path_is_directory(run))
        return tr_fail(err, TR_EINVAL, "there is no run '%s' to stand by for; start it first", run);
    if (self->recipe->layout.hosts > 1 && !self->recipe->head.etcd)
        return tr_fail(err, TR_EINVAL,
                       "a standby needs head.etcd where layout.hosts is %d: the lock on '%s' is of one host",
                       self->recipe->layout.hosts, run);
    tr_status status = tr__training_lead(self, TR_LEASE_FOR_EVER, err);
    if (!status) status = lock(self, progress, err);
    if (status) return status;
    *needed = self->took_over = has_died(run, self->lock);
    signal(SIGTTOU, SIG_IGN); /* it may write to a terminal that is not its own */
    if (progress && *needed)
        fprintf(progress, "the head of %s is gone; process %d goes on in its place\n", run, getpid());
    if (progress) fflush(progress);
    return TR_OK;
}
