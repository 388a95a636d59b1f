/* test/pipelines/real_etcd.h - an etcd of a test's own, and holders of leases in it. Where etcd (or libcurl) is not installed
 * nothing is tested, and that is said.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TEST_PIPELINES_REAL_ETCD_H
#define TROUPE_TEST_PIPELINES_REAL_ETCD_H

#include "base/clock.h"
#include "check.h"
#include "pipelines/etcd.h"
#include "pipelines/files.h"
#include "pipelines/head_lease.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/wait.h>

extern char **environ;

enum { TTL_S = 2, SLACK_MS = 700 }; /* etcd's least; what a loaded machine may be late */

static tr_error err;
static char *home;
static pid_t server;
static char address[64], dead_address[64];

/* --- a server --- */

static inline int listen_somewhere(int *port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof at;
    int made = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (made < 0 || bind(made, (struct sockaddr *)&at, sizeof at) != 0 || listen(made, 8) != 0 ||
        getsockname(made, (struct sockaddr *)&at, &size) != 0)
        return -1;
    *port = ntohs(at.sin_port);
    return made;
}

static inline int free_port(void)
{
    int port = 0, held = listen_somewhere(&port);
    if (held >= 0) close(held);
    return port;
}

static inline bool answers(uint32_t timeout_ms)
{
    tr_etcd *etcd;
    tr_etcd_entry entry;
    bool good = !tr_etcd_new(&etcd, address, &err);
    uint64_t until_ns = tr_clock_ns() + (uint64_t)timeout_ms * 1000000;
    bool there = false;
    while (good && !there && tr_clock_ns() < until_ns) {
        there = tr_etcd_get(etcd, "troupe/nothing", 500, &entry, &err) == TR_OK;
        if (!there) tr_clock_sleep_ms(20);
    }
    if (good) tr_etcd_destroy(&etcd);
    return there;
}

/* At the ports of the one before, if there was one: with what it knew. */
static inline bool start_etcd(void)
{
    static int port, peer_port;
    if (!port) { /* before anybody reads the address beside this thread */
        port = free_port();
        peer_port = free_port();
        snprintf(address, sizeof address, "http://127.0.0.1:%d", port);
    }
    char peer[64], cluster[80], *data = path_in(home, "etcd"), *log = path_in(home, "etcd.log");
    snprintf(peer, sizeof peer, "http://127.0.0.1:%d", peer_port);
    snprintf(cluster, sizeof cluster, "default=%s", peer);
    const char *const arguments[] = {"etcd",  "--data-dir",
                                     data,    "--listen-client-urls",
                                     address, "--advertise-client-urls",
                                     address, "--listen-peer-urls",
                                     peer,    "--initial-advertise-peer-urls",
                                     peer,    "--initial-cluster",
                                     cluster, NULL};
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO);
    int result = posix_spawnp(&server, "etcd", &actions, NULL, (char *const *)(uintptr_t)arguments, environ);
    posix_spawn_file_actions_destroy(&actions);
    tr_free(data);
    tr_free(log);
    if (result != 0) server = 0;
    return result == 0 && answers(15000);
}

static inline void kill_etcd(void)
{
    if (server > 0) {
        kill(server, SIGKILL);
        waitpid(server, NULL, 0);
    }
    server = 0;
}

/* --- holders --- */

typedef struct holder {
    tr_head_lease *lease;
    _Atomic uint64_t lost_ns;
    char why[TR_ERROR_SIZE];
} holder;

static inline void on_lost(void *context, const char *text)
{
    holder *self = context;
    snprintf(self->why, sizeof self->why, "%s", text);
    self->lost_ns = tr_clock_ns();
}

static inline tr_status acquire_at(holder *self, const char *at, const char *job, const char *who,
                                   uint32_t ttl_s, tr_head_lease_patience patience)
{
    tr_head_lease_options options = {
        .addresses = at, .job = job, .holder = who, .ttl_s = ttl_s, .context = self, .lost = on_lost};
    *self = (holder){0};
    return tr_head_lease_acquire(&self->lease, &options, patience, &err);
}

static inline tr_status acquire_for(holder *self, const char *job, const char *who, uint32_t ttl_s,
                                    tr_head_lease_patience patience)
{
    return acquire_at(self, address, job, who, ttl_s, patience);
}

static inline tr_status acquire(holder *self, const char *job, const char *who,
                                tr_head_lease_patience patience)
{
    return acquire_for(self, job, who, TTL_S, patience);
}

static inline bool must_stop(holder *self)
{
    char why[TR_ERROR_SIZE];
    return tr_head_lease_must_stop(self->lease, why, sizeof why);
}

static inline double ms_since(uint64_t from_ns)
{
    return (double)(tr_clock_ns() - from_ns) * 1e-6;
}

/* In place of CHECK_MAIN. */
static inline int run_with_etcd(const char *suite, const check_test *tests, size_t n_tests)
{
    tr_etcd *etcd;
    snprintf(dead_address, sizeof dead_address, "http://127.0.0.1:%d", free_port());
    if (tr_etcd_new(&etcd, dead_address, &err) == TR_EUNSUPPORTED) {
        printf("%s: nothing was tested\n", err.message);
        return 77;
    }
    tr_etcd_destroy(&etcd);
    if (system("command -v etcd >/dev/null") != 0) {
        puts("there is no etcd here (Debian: etcd-server): nothing was tested");
        return 77;
    }
    home = enter_directory();
    if (!start_etcd()) {
        printf("etcd does not start: %s\n", err.message);
        kill_etcd();
        leave_directory(home);
        return 1;
    }
    int result = check_run(suite, tests, n_tests);
    kill_etcd();
    leave_directory(home);
    return result;
}

#endif
