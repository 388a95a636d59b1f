/* runtime/launch.c - see launch.h. posix_spawn, because the head has threads (ZeroMQ's): between fork and
 * exec nothing but the C library's own careful code runs.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/launch.h"

#include "base/clock.h"
#include "base/memory.h"
#include "base/pack.h"
#include "runtime/played.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FIELDS = 25, MAX_LAUNCH_BYTES = 1 << 30, MAX_INHERITED = 4096 };

extern char **environ;

__thread const tr__played *tr__play;

tr_status tr__launch_encode(const tr_launch *self, void **bytes, size_t *size_bytes, tr_error *err)
{
    tr_packer packer;
    tr_packer_init(&packer);
    tr_pack_array(&packer, FIELDS);
    tr_pack_uint(&packer, self->role);
    tr_pack_int(&packer, getpid());
    tr_pack_int(&packer, self->node);
    tr_pack_uint(&packer, self->incarnation);
    tr_pack_uint(&packer, self->epoch);
    tr_pack_int(&packer, self->n_threads);
    tr_pack_int(&packer, self->n_states);
    tr_pack_uint(&packer, self->hung_after_ms);
    tr_pack_uint(&packer, self->lease_ms);
    tr_pack_uint(&packer, self->layout);
    tr_pack_uint(&packer, self->may_spin);
    tr_pack_int(&packer, self->member);
    tr_pack_uint(&packer, self->hosted);
    tr_pack_uint(&packer, self->silence_ms);
    tr_pack_uint(&packer, self->copy_mib_per_s);
    tr_pack_uint(&packer, self->term);
    tr_pack_bytes(&packer, self->job_key, sizeof self->job_key);
    tr_pack_text(&packer, self->control_transport);
    tr_pack_text(&packer, self->data_transport);
    tr_pack_text(&packer, self->head_address);
    tr_pack_text(&packer, self->chaos);
    tr_pack_text(&packer, self->bind);
    tr_pack_text(&packer, self->has_key ? self->key.public_half : "");
    tr_pack_text(&packer, self->has_key ? self->key.secret_half : "");
    tr_pack_bytes(&packer, self->topology, self->topology_bytes);
    return tr_packer_take(&packer, bytes, size_bytes, err);
}

tr_status tr__launch_decode(tr_launch *self, const void *bytes, size_t size_bytes, tr_error *err)
{
    tr_unpacker unpacker;
    tr_unpacker_init(&unpacker, bytes, size_bytes);
    if (tr_unpack_array(&unpacker, FIELDS) != FIELDS) unpacker.bad = true;
    self->role = (tr_launch_role)tr_unpack_uint(&unpacker, TR_LAUNCH_WORKER);
    if (self->role < TR_LAUNCH_AGENT) unpacker.bad = true;
    self->parent_pid = (int32_t)tr_unpack_int(&unpacker, 1, INT32_MAX);
    self->node = (int32_t)tr_unpack_int(&unpacker, 1, INT32_MAX);
    self->incarnation = (uint32_t)tr_unpack_uint(&unpacker, UINT32_MAX);
    self->epoch = (uint32_t)tr_unpack_uint(&unpacker, UINT32_MAX);
    self->n_threads = (int32_t)tr_unpack_int(&unpacker, 1, INT32_MAX);
    self->n_states = (int32_t)tr_unpack_int(&unpacker, 0, INT32_MAX);
    self->hung_after_ms = (uint32_t)tr_unpack_uint(&unpacker, UINT32_MAX);
    self->lease_ms = (uint32_t)tr_unpack_uint(&unpacker, UINT32_MAX);
    self->layout = (uint32_t)tr_unpack_uint(&unpacker, UINT32_MAX);
    self->may_spin = tr_unpack_uint(&unpacker, 1) == 1;
    self->member = (int32_t)tr_unpack_int(&unpacker, 0, INT32_MAX);
    self->hosted = tr_unpack_uint(&unpacker, 1) == 1;
    self->silence_ms = (uint32_t)tr_unpack_uint(&unpacker, UINT32_MAX);
    self->copy_mib_per_s = (uint32_t)tr_unpack_uint(&unpacker, UINT32_MAX);
    self->term = tr_unpack_uint(&unpacker, UINT64_MAX);
    size_t key_bytes;
    const void *key = tr_unpack_bytes(&unpacker, &key_bytes);
    if (key_bytes == sizeof self->job_key)
        memcpy(self->job_key, key, key_bytes);
    else
        unpacker.bad = true;
    tr_unpack_text(&unpacker, self->control_transport, sizeof self->control_transport);
    tr_unpack_text(&unpacker, self->data_transport, sizeof self->data_transport);
    tr_unpack_text(&unpacker, self->head_address, sizeof self->head_address);
    tr_unpack_text(&unpacker, self->chaos, sizeof self->chaos);
    tr_unpack_text(&unpacker, self->bind, sizeof self->bind);
    tr_unpack_text(&unpacker, self->key.public_half, sizeof self->key.public_half);
    tr_unpack_text(&unpacker, self->key.secret_half, sizeof self->key.secret_half);
    self->has_key = self->key.secret_half[0] != 0;
    const void *topology = tr_unpack_bytes(&unpacker, &self->topology_bytes);
    tr_status status = tr_unpacker_done(&unpacker, "launch", err);
    if (status != TR_OK) return status;
    self->topology = tr_alloc(self->topology_bytes);
    if (!self->topology) return tr_fail(err, TR_ENOMEM, "no memory for the topology");
    memcpy(self->topology, topology, self->topology_bytes);
    return TR_OK;
}

static tr_status write_all(int descriptor, const char *bytes, size_t size_bytes)
{
    while (size_bytes > 0) {
        ssize_t n = write(descriptor, bytes, size_bytes);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return TR_EIO;
        bytes += n;
        size_bytes -= (size_t)n;
    }
    return TR_OK;
}

tr_status tr_launch_write(const tr_launch *self, int *descriptor, tr_error *err)
{
    void *bytes = NULL;
    size_t size_bytes = 0;
    tr_status status = tr__launch_encode(self, &bytes, &size_bytes, err);
    if (status != TR_OK) return status;
    int made = memfd_create("troupe launch", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (made < 0 || write_all(made, bytes, size_bytes) != TR_OK ||
        fcntl(made, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) != 0)
        status = tr_fail(err, TR_EIO, "cannot write what a child must know: %s", strerror(errno));
    explicit_bzero(bytes, size_bytes);
    tr_free(bytes);
    if (status != TR_OK && made >= 0) close(made);
    if (status == TR_OK) *descriptor = made;
    return status;
}

/* Copies of what the child shall have, all above the numbers it shall have them at, so that no dup2 hits
 * another's source. */
static tr_status copy_up(int launch, const int *descriptors, int count, int *copies, tr_error *err)
{
    int above = TR_LAUNCH_FIRST_INHERITED + count;
    for (int i = 0; i <= count; i++) {
        copies[i] = fcntl(i == 0 ? launch : descriptors[i - 1], F_DUPFD_CLOEXEC, above);
        if (copies[i] >= 0) continue;
        tr_status status =
            tr_fail(err, TR_EIO, "cannot hand %d descriptors to a child: %s", count, strerror(errno));
        while (i > 0) close(copies[--i]);
        return status;
    }
    return TR_OK;
}

static int spawn(const tr_launch *self, const int *copies, int count, pid_t *pid)
{
    char role[64];
    if (self->role == TR_LAUNCH_AGENT)
        snprintf(role, sizeof role, TR_LAUNCH_ARGUMENT "agent");
    else
        snprintf(role, sizeof role, TR_LAUNCH_ARGUMENT "worker-%d", self->node);
    char name[] = "troupe", *arguments[] = {name, role, NULL};

    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t kept;
    sigemptyset(&kept); /* blocked until the child ignores them, so that none is taken at its default */
    sigaddset(&kept, SIGINT);
    sigaddset(&kept, SIGTERM);
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    int result = posix_spawnattr_setsigmask(&attributes, &kept);
    if (result == 0) result = posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
    if (result == 0) /* what is typed is for the head */
        result = posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    for (int i = 0; i <= count && result == 0; i++)
        result = posix_spawn_file_actions_adddup2(&actions, copies[i], TR_LAUNCH_DESCRIPTOR + i);
    if (result == 0)
        result = posix_spawn_file_actions_addclosefrom_np(&actions, TR_LAUNCH_FIRST_INHERITED + count);
    if (result == 0) result = posix_spawn(pid, "/proc/self/exe", &actions, &attributes, arguments, environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    return result;
}

tr_status tr_launch_spawn(const tr_launch *self, const int *descriptors, int count, int *pid, int *pidfd,
                          tr_error *err)
{
    int launch = -1;
    if (tr__play) return tr__play->spawn(tr__play->context, self, descriptors, count, pid, pidfd, err);
    if (count > MAX_INHERITED)
        return tr_fail(err, TR_EINVAL, "node %d has more than %d actors with state", self->node,
                       MAX_INHERITED - 1);
    tr_status status = tr_launch_write(self, &launch, err);
    if (status != TR_OK) return status;
    int copies[MAX_INHERITED + 1];
    status = copy_up(launch, descriptors, count, copies, err);
    close(launch);
    if (status != TR_OK) return status;

    pid_t child = 0;
    int result = spawn(self, copies, count, &child);
    for (int i = 0; i <= count; i++) close(copies[i]);
    if (result != 0) return tr_fail(err, TR_EIO, "cannot start a child process: %s", strerror(result));
    int opened = pidfd_open(child, 0); /* not reaped before: still the same process */
    if (opened < 0) {
        status = tr_fail(err, TR_EIO, "cannot watch process %d: %s", child, strerror(errno));
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        return status;
    }
    *pid = child;
    *pidfd = opened;
    return TR_OK;
}

int tr_launch_holdings(const tr_launch *self)
{
    return TR_LAUNCH_FIRST_INHERITED + (self->lease_ms ? 2 : 0);
}

int tr_launch_word(const tr_launch *self)
{
    return TR_LAUNCH_FIRST_INHERITED + 1 + self->n_states;
}

int tr_launch_life(const tr_launch *self)
{
    return tr_launch_word(self) + 1;
}

static void ignore_signals(void)
{
    signal(SIGINT, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Order matters: first the wish, then the look, or a parent that dies in between goes unnoticed. */
static tr_status tie_to_parent(int32_t parent, bool may_outlive_it, tr_error *err)
{
    if (!may_outlive_it && prctl(PR_SET_PDEATHSIG, SIGKILL) != 0)
        return tr_fail(err, TR_EIO, "cannot ask for a signal at the parent's death: %s", strerror(errno));
    if (getppid() != parent) return tr_fail(err, TR_ECLOSED, "the parent process %d is gone", parent);
    return TR_OK;
}

/* The same. Nothing is ever written into it, so its end is all that the kernel can have to tell. */
static tr_status tie_to_life_line(int life, tr_error *err)
{
    struct pollfd end = {.fd = life, .events = POLLIN};
    int flags = fcntl(life, F_GETFL);
    if (flags < 0 || fcntl(life, F_SETSIG, SIGKILL) != 0 || fcntl(life, F_SETOWN, getpid()) != 0 ||
        fcntl(life, F_SETFL, flags | O_ASYNC) != 0)
        return tr_fail(err, TR_EIO, "cannot ask for a signal at the end of the life line: %s",
                       strerror(errno));
    if (poll(&end, 1, 0) != 0) return tr_fail(err, TR_ECLOSED, "agent and head are gone");
    return TR_OK;
}

tr_status tr_launch_read(tr_launch *self, int descriptor, tr_error *err)
{
    struct stat info;
    memset(self, 0, sizeof *self);
    if (fstat(descriptor, &info) != 0 || info.st_size <= 0 || info.st_size > MAX_LAUNCH_BYTES)
        return tr_fail(err, TR_ECORRUPT, "descriptor %d holds no launch", descriptor);
    size_t size_bytes = (size_t)info.st_size;
    char *bytes = tr_alloc(size_bytes);
    if (!bytes) return tr_fail(err, TR_ENOMEM, "no memory for a launch");
    tr_status status = TR_OK;
    if (pread(descriptor, bytes, size_bytes, 0) != (ssize_t)size_bytes)
        status = tr_fail(err, TR_EIO, "cannot read the launch: %s", strerror(errno));
    if (status == TR_OK) status = tr__launch_decode(self, bytes, size_bytes, err);
    explicit_bzero(bytes, size_bytes);
    tr_free(bytes);
    return status;
}

tr_status tr_launch_receive(tr_launch *self, tr_error *err)
{
    struct stat info;
    if (fstat(TR_LAUNCH_DESCRIPTOR, &info) != 0 || !S_ISREG(info.st_mode)) {
        memset(self, 0, sizeof *self);
        return tr_fail(err, TR_EINVAL, "'%s...' is how troupe starts its own children; a person starts none",
                       TR_LAUNCH_ARGUMENT);
    }
    tr_status status = tr_launch_read(self, TR_LAUNCH_DESCRIPTOR, err);
    close(TR_LAUNCH_DESCRIPTOR);
    ignore_signals();
    if (status == TR_OK && self->role == TR_LAUNCH_WORKER && !self->hosted)
        return tie_to_life_line(tr_launch_life(self), err);
    if (status == TR_OK)
        status = tie_to_parent(self->parent_pid, self->role == TR_LAUNCH_AGENT && self->lease_ms, err);
    return status;
}

void tr_launch_release(tr_launch *self)
{
    tr_free(self->topology);
    self->topology = NULL;
    tr_curve_key_wipe(&self->key);
    explicit_bzero(self->job_key, sizeof self->job_key);
}

bool tr_process_reap(int pidfd, tr_process_end *end)
{
    siginfo_t info = {0};
    *end = (tr_process_end){.exit_code = -1};
    if (tr__play) return tr__play->ended(tr__play->context, pidfd, end);
    int result;
    do result = waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED | WNOHANG);
    while (result != 0 && errno == EINTR);
    if (result != 0) { /* not our child, or reaped by somebody else */
        struct pollfd ended = {.fd = pidfd, .events = POLLIN};
        return poll(&ended, 1, 0) == 1;
    }
    if (info.si_pid == 0) return false;
    if (info.si_code == CLD_EXITED)
        end->exit_code = info.si_status;
    else
        end->signal = info.si_status;
    return true;
}

void tr_process_kill(int pidfd, int signal)
{
    if (tr__play)
        tr__play->kill(tr__play->context, pidfd);
    else
        pidfd_send_signal(pidfd, signal, NULL, 0);
}

int tr_process_open(int32_t pid)
{
    return tr__play ? tr__play->open(tr__play->context, pid) : pidfd_open(pid, 0);
}

uint64_t tr__process_now_ns(void)
{
    return tr__play ? *tr__play->agent->virtual_ns : tr_clock_ns();
}
