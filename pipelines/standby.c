/* pipelines/standby.c - see standby.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/standby.h"

#include "base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

struct tr_standby {
    char *recipe;
    pid_t pid; /* 0: ended by itself */
};

static int spawn(tr_standby *self)
{
    char program[] = "troupe", command[] = "train", option[] = "--standby";
    char *arguments[] = {program, command, self->recipe, option, NULL};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none;
    sigemptyset(&none);
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    int result = posix_spawnattr_setsigmask(&attributes, &none);
    if (result == 0) result = posix_spawnattr_setpgroup(&attributes, 0);
    if (result == 0)
        result = posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETPGROUP);
    if (result == 0)
        result = posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    if (result == 0) /* above all the head's lock, which would outlive it there */
        result = posix_spawn_file_actions_addclosefrom_np(&actions, STDERR_FILENO + 1);
    if (result == 0)
        result = posix_spawn(&self->pid, "/proc/self/exe", &actions, &attributes, arguments, environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    return result;
}

static tr_status start(tr_standby *self, tr_error *err)
{
    int result = spawn(self);
    if (result == 0) return TR_OK;
    self->pid = 0;
    return tr_fail(err, TR_EIO, "cannot start a standby: %s", strerror(result));
}

tr_status tr_standby_start(tr_standby **out, const char *run, tr_error *err)
{
    tr_standby *self = tr_alloc_zero(1, sizeof *self);
    if (!self || !(self->recipe = tr_format("%s/recipe.yaml", run))) {
        tr_free(self);
        return tr_fail(err, TR_ENOMEM, "no memory for a standby");
    }
    tr_status status = start(self, err);
    if (status)
        tr_standby_end(&self);
    else
        *out = self;
    return status;
}

int32_t tr_standby_pid(const tr_standby *self)
{
    return self->pid;
}

tr_status tr_standby_look(tr_standby *self, bool *killed, tr_error *err)
{
    int how;
    *killed = false;
    if (!self->pid || waitpid(self->pid, &how, WNOHANG) != self->pid) return TR_OK;
    self->pid = 0;
    *killed = WIFSIGNALED(how);
    return *killed ? start(self, err) : TR_OK;
}

void tr_standby_end(tr_standby **out)
{
    tr_standby *self = *out;
    if (!self) return;
    if (self->pid) {
        kill(self->pid, SIGKILL); /* not reaped yet, so it is still this one */
        while (waitpid(self->pid, NULL, 0) < 0 && errno == EINTR) {
        }
    }
    tr_free(self->recipe);
    tr_free(self);
    *out = NULL;
}
