/* runtime/simulation_kernel.c - what an operating system does for the processes of a simulated job (played.h): it starts and ends
 * them, says who lives, and closes what the dead had open. A process is an entry in a table; a pipe stands for its pidfd, whose
 * writing end is closed when it ends. Whose life line nobody holds any more is
 * killed before anybody can see that the one who held it last has ended: a process's descriptors are closed before it is a zombie.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/simulation_processes.h"

#include "base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void tr__kernel_stir(tr__simulated_job *self)
{
    for (int32_t i = 0; self->stirred && i < self->base.n_places; i++) self->stirred[i] = true;
}

static uint64_t inode_of(int descriptor)
{
    struct stat info;
    return fstat(descriptor, &info) == 0 ? info.st_ino : 0;
}

static tr__entry *entry_of(const tr__simulated_job *self, int32_t pid)
{
    int32_t at = pid - TR__FIRST_PID;
    return at >= 0 && (size_t)at < self->n_entries ? &self->entries[at] : NULL;
}

static tr__entry *entry_behind(const tr__simulated_job *self, int pidfd)
{
    uint64_t inode = inode_of(pidfd);
    for (size_t i = self->n_entries; inode && i > 0; i--) /* mostly it is a late one */
        if (self->entries[i - 1].inode == inode) return &self->entries[i - 1];
    return NULL;
}

tr_status tr__kernel_start(tr__simulated_job *self, int32_t place, int32_t *pid, tr_error *err)
{
    tr__entry made = {.pid = TR__FIRST_PID + (int32_t)self->n_entries, .place = place};
    tr_status status = tr_array_reserve((void **)&self->entries, &self->entries_capacity, self->n_entries + 1,
                                        sizeof *self->entries, err);
    if (status != TR_OK) return status;
    if (pipe2(made.ends, O_CLOEXEC | O_NONBLOCK) != 0)
        return tr_fail(err, TR_EIO, "cannot make a pipe: %s", strerror(errno));
    made.inode = inode_of(made.ends[0]);
    self->entries[self->n_entries++] = made;
    *pid = made.pid;
    return TR_OK;
}

void tr__kernel_end(tr__simulated_job *self, int32_t pid, int32_t exit_code, int32_t signal)
{
    tr__entry *entry = entry_of(self, pid);
    if (!entry || entry->ends[1] < 0) return;
    close(entry->ends[1]);
    entry->ends[1] = -1;
    entry->end = (tr_process_end){.exit_code = exit_code, .signal = signal};
    tr__kernel_stir(self);
}

bool tr__kernel_lives(const tr__simulated_job *self, int32_t pid)
{
    const tr__entry *entry = entry_of(self, pid);
    return entry && entry->ends[1] >= 0;
}

void tr__kernel_look_at_lines(tr__simulated_job *self)
{
    for (int32_t node = 1; node < self->n_nodes; node++) {
        tr__process *process = &self->processes[node];
        struct pollfd line = {.fd = process->life_line, .events = POLLIN};
        if (!process->worker || process->life_line < 0 || poll(&line, 1, 0) != 1) continue;
        self->counters.n_orphaned++;
        tr__process_kill(self, node);
    }
}

/* ---- what is asked of it ---- */

/* Of one that has died within what it is doing nothing comes to pass any more. */
static bool is_a_ghost(const tr__simulated_job *self)
{
    if (self->acting == TR_NODE_HEAD) return self->leader.dying && self->leader.n_left == 0;
    return self->acting == self->n_nodes && self->agent.dying && self->agent.n_left == 0;
}

static tr_status on_spawn(void *context, const tr_launch *launch, const int *descriptors, int count, int *pid,
                          int *pidfd, tr_error *err)
{
    tr__simulated_job *self = context;
    bool an_agent = launch->role == TR_LAUNCH_AGENT;
    int32_t made;
    if (is_a_ghost(self)) return tr_fail(err, TR_EIO, "who would start it is dead");
    tr_status status = tr__kernel_start(self, launch->node, &made, err);
    if (status != TR_OK) return status;
    status = an_agent ? tr__agent_process_begin(self, made, launch, descriptors, count, err)
                      : tr__process_begin(self, made, launch, descriptors, count, err);
    if (status != TR_OK) return status;
    *pid = made;
    *pidfd = fcntl(entry_of(self, made)->ends[0], F_DUPFD_CLOEXEC, 0);
    tr__kernel_stir(self);
    if (an_agent || !self->agent.dies_at_spawn || --self->agent.dies_at_spawn) return TR_OK;
    self->agent.has_told_nobody = true;
    tr__agent_silent(self);
    return TR_OK;
}

static int on_open(void *context, int32_t pid)
{
    const tr__simulated_job *self = context;
    bool its_parent = self->acting == self->n_nodes && self->agent.life == TR__AGENT_BEGINS;
    const tr__entry *entry = entry_of(self, pid);
    if (!entry) entry = entry_of(self, its_parent ? self->agent.parent : self->leader.pid);
    return entry && (entry->ends[1] >= 0) ? fcntl(entry->ends[0], F_DUPFD_CLOEXEC, 0) : -1;
}

static bool on_ended(void *context, int pidfd, tr_process_end *end)
{
    const tr__entry *entry = entry_behind(context, pidfd);
    if (!entry || entry->ends[1] >= 0) return false;
    *end = entry->end;
    return true;
}

static void on_kill(void *context, int pidfd)
{
    tr__simulated_job *self = context;
    const tr__entry *entry = entry_behind(self, pidfd);
    if (!entry || entry->ends[1] < 0 || is_a_ghost(self)) return;
    if (entry->place == self->n_nodes)
        tr__agent_kill(self);
    else if (entry->place >= 1)
        tr__process_kill(self, entry->place);
}

static bool on_lives(void *context, int32_t pid)
{
    return tr__kernel_lives(context, pid);
}

/* A dying process's frames have come to their end. */
static void on_silent(void *context, const uint32_t *n_left)
{
    tr__simulated_job *self = context;
    if (n_left == &self->leader.n_left) tr__head_silent(self);
    if (n_left == &self->agent.n_left) tr__agent_silent(self);
}

tr_status tr__kernel_init(tr__simulated_job *self, tr_error *err)
{
    self->acting = -1;
    self->agents_node =
        (tr_node_options){.virtual_ns = &self->base.now_ns, .control_network = self->base.control};
    self->played = (tr__played){.context = self,
                                .spawn = on_spawn,
                                .open = on_open,
                                .ended = on_ended,
                                .kill = on_kill,
                                .lives = on_lives,
                                .agent = &self->agents_node};
    tr__play = &self->played;
    tr_sim_network_on_silent(self->base.data, on_silent, self);
    tr_sim_network_on_silent(self->base.control, on_silent, self);
    self->stirred = tr_alloc_zero((size_t)self->base.n_places, sizeof *self->stirred);
    self->acted = tr_alloc_zero((size_t)self->base.n_places, sizeof *self->acted);
    self->acted_by = tr_alloc_zero((size_t)self->base.n_places, sizeof *self->acted_by);
    return self->stirred && self->acted && self->acted_by
               ? TR_OK
               : tr_fail(err, TR_ENOMEM, "no memory for processes");
}

void tr__kernel_release(tr__simulated_job *self)
{
    for (size_t i = 0; i < self->n_entries; i++) {
        close(self->entries[i].ends[0]);
        if (self->entries[i].ends[1] >= 0) close(self->entries[i].ends[1]);
    }
    tr_free(self->entries);
    tr_free(self->stirred);
    tr_free(self->acted);
    tr_free(self->acted_by);
    tr__play = NULL;
}
