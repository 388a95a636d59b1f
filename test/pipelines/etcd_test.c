/* test/pipelines/etcd_test.c - the lease of a head, on a real etcd: at most one holds it, whoever is killed, stopped or slow; and
 * a client that takes no harm from what is no etcd. Where etcd (or libcurl) is not installed nothing is tested, and that is said.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/etcd.h"
#include "pipelines/head_lease.h"

#include "base/clock.h"
#include "check.h"
#include "pipelines/checkpoint_files.h"
#include "pipelines/files.h"
#include "pipelines/run_directory.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
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

static int listen_somewhere(int *port)
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

static int free_port(void)
{
    int port = 0, held = listen_somewhere(&port);
    if (held >= 0) close(held);
    return port;
}

static bool answers(uint32_t timeout_ms)
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
static bool start_etcd(void)
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

static void kill_etcd(void)
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

static void on_lost(void *context, const char *text)
{
    holder *self = context;
    snprintf(self->why, sizeof self->why, "%s", text);
    self->lost_ns = tr_clock_ns();
}

static tr_status acquire_for(holder *self, const char *job, const char *who, uint32_t ttl_s,
                             tr_head_lease_patience patience)
{
    tr_head_lease_options options = {
        .addresses = address, .job = job, .holder = who, .ttl_s = ttl_s, .context = self, .lost = on_lost};
    *self = (holder){0};
    return tr_head_lease_acquire(&self->lease, &options, patience, &err);
}

static tr_status acquire(holder *self, const char *job, const char *who, tr_head_lease_patience patience)
{
    return acquire_for(self, job, who, TTL_S, patience);
}

static bool must_stop(holder *self)
{
    char why[TR_ERROR_SIZE];
    return tr_head_lease_must_stop(self->lease, why, sizeof why);
}

static double ms_since(uint64_t from_ns)
{
    return (double)(tr_clock_ns() - from_ns) * 1e-6;
}

static void one_holds_it_and_the_other_is_refused(void)
{
    holder first, second;
    CHECK_OK(acquire(&first, "one", "process 1 on host 'x'", TR_LEASE_NOW));
    CU_ASSERT(tr_head_lease_is_held(first.lease) && !must_stop(&first));
    CU_ASSERT(tr_head_lease_revision(first.lease) > 0 && tr_head_lease_last_epoch(first.lease) == 0);
    CU_ASSERT(acquire(&second, "one", "process 2", TR_LEASE_NOW) == TR_EEXIST);
    CU_ASSERT(strstr(err.message, "'one' is led by process 1 on host 'x'") && !strchr(err.message, '\n'));
    holder other;
    CHECK_OK(acquire(&other, "another", "process 2", TR_LEASE_NOW)); /* jobs are apart */
    tr_head_lease_release(&other.lease);
    int64_t before = tr_head_lease_revision(first.lease);
    tr_head_lease_release(&first.lease);
    CU_ASSERT(!first.lease && !first.lost_ns); /* given back, not lost */
    uint64_t from_ns = tr_clock_ns();
    CHECK_OK(acquire(&second, "one", "process 2", TR_LEASE_NOW));
    CU_ASSERT(ms_since(from_ns) < TTL_S * 1000 && tr_head_lease_revision(second.lease) > before);
    tr_head_lease_release(&second.lease);
}

static void it_is_renewed_for_as_long_as_it_is_held(void)
{
    holder first, second;
    CHECK_OK(acquire(&first, "renewed", "process 1", TR_LEASE_NOW));
    uint64_t until_ns = tr_clock_ns() + (uint64_t)(TTL_S * 2 + 1) * 1000000000;
    bool held = true;
    while (tr_clock_ns() < until_ns) {
        held = held && tr_head_lease_is_held(first.lease);
        tr_clock_sleep_ms(20);
    }
    CU_ASSERT(held && !first.lost_ns);
    CU_ASSERT(acquire(&second, "renewed", "process 2", TR_LEASE_NOW) == TR_EEXIST);
    tr_head_lease_release(&first.lease);
}

/* As by a process that was killed: nobody renews it. */
static void leave_a_key(const char *key, const char *who)
{
    tr_etcd *etcd;
    int64_t lease, ttl_s;
    tr_etcd_outcome outcome = {0};
    CHECK_OK(tr_etcd_new(&etcd, address, &err));
    CHECK_OK(tr_etcd_grant(etcd, TTL_S, 2000, &lease, &ttl_s, &err));
    const tr_etcd_put put = {.guard = key, .key = key, .value = who, .lease = lease};
    CHECK_OK(tr_etcd_put_if(etcd, &put, 2000, &outcome, &err));
    CU_ASSERT(outcome.done && ttl_s == TTL_S);
    CHECK_OK(tr_etcd_put_if(etcd, &put, 2000, &outcome, &err));
    CU_ASSERT(!outcome.done && outcome.guard.lease == lease && strcmp(outcome.guard.value, who) == 0);
    tr_etcd_destroy(&etcd);
}

static void a_dead_holders_lease_ends(void)
{
    holder next;
    leave_a_key("troupe/dead/head", "process 9");
    CU_ASSERT(acquire(&next, "dead", "process 2", TR_LEASE_NOW) == TR_EEXIST);
    CHECK_OK(acquire(&next, "dead", "process 2", TR_LEASE_IF_DEAD));
    if (next.lease) CU_ASSERT(tr_head_lease_is_held(next.lease));
    tr_head_lease_release(&next.lease);
}

static void who_waits_for_a_living_holder_is_refused_in_the_end(void)
{
    holder first, second;
    CHECK_OK(acquire(&first, "alive", "process 1", TR_LEASE_NOW));
    uint64_t from_ns = tr_clock_ns();
    CU_ASSERT(acquire(&second, "alive", "process 2", TR_LEASE_IF_DEAD) == TR_EEXIST);
    CU_ASSERT(ms_since(from_ns) > TTL_S * 1000 && ms_since(from_ns) < 4 * TTL_S * 1000);
    tr_head_lease_release(&first.lease);
}

static void *stand_by(void *context)
{
    holder *self = context;
    static tr_error own;
    tr_head_lease_options options = {.addresses = address,
                                     .job = "waited",
                                     .holder = "process 2",
                                     .ttl_s = TTL_S,
                                     .context = self,
                                     .lost = on_lost};
    return tr_head_lease_acquire(&self->lease, &options, TR_LEASE_FOR_EVER, &own) == TR_OK ? self : NULL;
}

static void a_standby_waits_also_while_etcd_is_away(void)
{
    holder first, second = {0};
    pthread_t thread;
    void *came;
    CHECK_OK(acquire_for(&first, "waited", "process 1", 10, TR_LEASE_NOW));
    CU_ASSERT_FATAL(pthread_create(&thread, NULL, stand_by, &second) == 0);
    tr_clock_sleep_ms(600);
    kill_etcd();
    tr_clock_sleep_ms(600);
    CU_ASSERT(start_etcd());
    tr_clock_sleep_ms(200);
    CU_ASSERT(!second.lease);
    CU_ASSERT(!first.lost_ns &&
              tr_head_lease_is_held(first.lease)); /* an etcd that is away for less harms nobody */
    tr_head_lease_release(&first.lease);
    pthread_join(thread, &came);
    CU_ASSERT(came == &second && second.lease);
    tr_head_lease_release(&second.lease);
}

static void without_etcd_it_must_stop_and_is_lost_before_its_time_is_over(void)
{
    holder first, second;
    CHECK_OK(acquire(&first, "lost", "process 1", TR_LEASE_NOW));
    uint64_t killed_ns = tr_clock_ns(), stops_ns = 0, over_ns = 0;
    kill_etcd();
    while (!first.lost_ns && ms_since(killed_ns) < TTL_S * 1000 + SLACK_MS) {
        if (!stops_ns && must_stop(&first)) stops_ns = tr_clock_ns();
        if (!over_ns && !tr_head_lease_is_held(first.lease)) over_ns = tr_clock_ns();
        tr_clock_sleep_ms(2);
    }
    CU_ASSERT(stops_ns && first.lost_ns && !tr_head_lease_is_held(first.lease) && must_stop(&first));
    CU_ASSERT(stops_ns < first.lost_ns &&
              first.lost_ns - killed_ns < (uint64_t)(TTL_S * 1000 + SLACK_MS) * 1000000);
    CU_ASSERT(over_ns &&
              over_ns - killed_ns < (uint64_t)TTL_S * 1000000000); /* before etcd's own time, from later on */
    CU_ASSERT(strstr(first.why, "could not be renewed") && !strchr(first.why, '\n'));
    CU_ASSERT(tr_head_lease_win_epoch(first.lease, 1, &err) == TR_EIO);
    tr_head_lease_release(&first.lease);
    uint64_t from_ns = tr_clock_ns();
    CU_ASSERT(acquire(&second, "lost", "process 2", TR_LEASE_FOR_EVER) ==
              TR_ENOTFOUND); /* at the start nobody waits */
    CU_ASSERT(strstr(err.message, "head.etcd: cannot ask") && ms_since(from_ns) < TTL_S * 1000);
    CU_ASSERT(start_etcd());
}

/* Its own process may not have run when `lost` should have ended it: then what it writes is looked at once more. */
static void what_lasts_is_not_written_without_it(void)
{
    holder first;
    tr_run *run;
    tr_recipe recipe;
    tr_model_config config;
    tr_model_parameters parameters = {0};
    tr_checkpoint_files *files;
    char *path = path_in(home, "run"), *log = path_in(path, "log.jsonl"),
         *epochs = path_in(path, "epochs.jsonl"), *third = path_in(path, "checkpoints/step-3"),
         *late_path = path_in(home, "late");
    char *text = tr_format("run: %s\nmodel: {preset: llama-15m}\ndata: {text: x}\nlr: {peak: 1}\n"
                           "train: {steps: 9, sequence: 4, microbatch: 1}\n",
                           path);
    CHECK_OK(tr_recipe_parse(&recipe, text, strlen(text), "r", NULL, 0, &err));
    CHECK_OK(acquire(&first, "lasts", "process 1", TR_LEASE_NOW));
    const tr_run_beginning beginning = {.lock = -1, .lead = first.lease};
    CHECK_OK(tr_run_open_at(&run, &recipe, &beginning, NULL, &err));
    CU_ASSERT(tr_run_first_epoch(run) == 1);
    CHECK_OK(tr_run_epoch(run, 1, &err));
    const tr_step_record one = {.step = 1, .loss = 1}, two = {.step = 2, .loss = 1};
    CHECK_OK(tr_run_record(run, &one, &err));
    CHECK_OK(tr_model_config_preset(&config, "llama-15m", &err));
    tr_checkpoint_files_options options = {
        .run = path, .config = &config, .parameters = &parameters, .lead = first.lease, .keep = 1};
    CHECK_OK(tr_checkpoint_files_new(&files, &options, &err));
    const tr_checkpoint_writer *writer = tr_checkpoint_files_writer(files);
    char named[256];
    CHECK_OK(writer->begin(writer->context, 2, &err));
    CHECK_OK(writer->commit(writer->context, named, sizeof named, &err));
    CHECK_OK(writer->begin(writer->context, 3, &err));
    kill_etcd();
    uint64_t killed_ns = tr_clock_ns();
    while (tr_head_lease_is_held(first.lease) && ms_since(killed_ns) < TTL_S * 1000 + SLACK_MS)
        tr_clock_sleep_ms(5);
    CU_ASSERT(tr_run_record(run, &two, &err) == TR_ECLOSED && strstr(err.message, "step 2 is not logged"));
    CU_ASSERT(tr_run_epoch(run, 2, &err) == TR_EIO);
    tr_run *late;
    tr_recipe_release(&recipe);
    char *elsewhere = tr_format("run=%s", late_path);
    const char *const overrides[] = {elsewhere};
    CHECK_OK(tr_recipe_parse(&recipe, text, strlen(text), "r", overrides, 1, &err));
    CU_ASSERT(tr_run_open_at(&late, &recipe, &beginning, NULL, &err) == TR_ECLOSED &&
              !tr_path_exists(late_path));
    CU_ASSERT(writer->commit(writer->context, named, sizeof named, &err) == TR_ECLOSED &&
              !tr_path_exists(third));
    CU_ASSERT(writer->begin(writer->context, 4, &err) == TR_ECLOSED);
    tr_checkpoint_files_destroy(&files);
    tr_run_close(&run);
    tr_head_lease_release(&first.lease);
    size_t n = 0;
    char *read = NULL;
    CHECK_OK(tr_file_read(log, &read, &n, &err));
    CU_ASSERT(strchr(read, '\n') == read + n - 1); /* one line */
    tr_free(read);
    CHECK_OK(tr_file_read(epochs, &read, &n, &err));
    CU_ASSERT(strncmp(read, "{\"epoch\":1,\"lease\":", 19) == 0 && strchr(read, '\n') == read + n - 1);
    tr_free(read);
    tr_model_config_release(&config);
    tr_recipe_release(&recipe);
    char *const texts[] = {path, log, epochs, third, late_path, elsewhere, text};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) tr_free(texts[i]);
    CU_ASSERT(start_etcd());
}

static void an_etcd_that_hangs_is_one_that_does_not_answer(void)
{
    holder first;
    CHECK_OK(acquire(&first, "hangs", "process 1", TR_LEASE_NOW));
    kill(server, SIGSTOP);
    uint64_t stopped_ns = tr_clock_ns();
    while (!first.lost_ns && ms_since(stopped_ns) < TTL_S * 1000 + SLACK_MS) tr_clock_sleep_ms(5);
    CU_ASSERT(first.lost_ns != 0);
    kill(server, SIGCONT);
    tr_head_lease_release(&first.lease);
    CU_ASSERT(answers(5000));
}

static void epochs_are_won_once_and_only_by_who_holds_it(void)
{
    holder first, second;
    CHECK_OK(acquire(&first, "epochs", "process 1", TR_LEASE_NOW));
    CHECK_OK(tr_head_lease_win_epoch(first.lease, 1, &err));
    CHECK_OK(tr_head_lease_win_epoch(first.lease, 7, &err));
    CU_ASSERT(tr_head_lease_win_epoch(first.lease, 7, &err) == TR_EINVAL);
    /* Somebody takes its key away, and another one comes, before it knows. */
    tr_etcd *etcd;
    tr_etcd_entry entry = {0};
    CHECK_OK(tr_etcd_new(&etcd, address, &err));
    CHECK_OK(tr_etcd_get(etcd, "troupe/epochs/head", 2000, &entry, &err));
    CHECK_OK(tr_etcd_revoke(etcd, entry.lease, 2000, &err));
    CU_ASSERT(tr_etcd_renew(etcd, entry.lease, 2000, &err) == TR_ENOTFOUND);
    CHECK_OK(acquire(&second, "epochs", "process 2", TR_LEASE_NOW));
    CU_ASSERT(tr_head_lease_win_epoch(first.lease, 8, &err) == TR_ECLOSED);
    CU_ASSERT(strstr(err.message, "not led by this head any more, but by process 2") != NULL);
    CU_ASSERT(tr_head_lease_last_epoch(second.lease) == 7);
    CHECK_OK(tr_head_lease_win_epoch(second.lease, 8, &err));
    uint64_t from_ns = tr_clock_ns();
    while (!first.lost_ns && ms_since(from_ns) < TTL_S * 1000) tr_clock_sleep_ms(5);
    CU_ASSERT(first.lost_ns && strstr(first.why, "lease"));
    tr_head_lease_release(&first.lease);
    CHECK_OK(tr_etcd_get(etcd, "troupe/epochs/head", 2000, &entry, &err));
    CU_ASSERT(entry.found && strcmp(entry.value, "process 2") == 0); /* the loser's end took nothing away */
    tr_etcd_destroy(&etcd);
    tr_head_lease_release(&second.lease);
}

static void another_address_is_asked_where_nobody_answers(void)
{
    char both[160];
    tr_etcd *etcd;
    tr_etcd_entry entry = {.found = true};
    snprintf(both, sizeof both, "%s,%s", dead_address, address);
    CHECK_OK(tr_etcd_new(&etcd, both, &err));
    CHECK_OK(tr_etcd_get(etcd, "troupe/nothing", 2000, &entry, &err));
    CU_ASSERT(!entry.found);
    tr_etcd_destroy(&etcd);
}

static void addresses_are_looked_at(void)
{
    static const char *const wrong[] = {
        "",           "x",          "10.0.0.1:2379", "http://",    "ftp://x",    "http://a,",  ",http://a",
        "http://a/b", "http://a b", "http://u@h",    "http://a,b", "http://a\n", "file:///etc"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        CU_ASSERT(tr_etcd_check_addresses(wrong[i], &err) == TR_EINVAL);
    CHECK_OK(tr_etcd_check_addresses("http://10.0.0.1:2379,https://[fd00::1]:2379,http://etcd", &err));
}

/* --- what is no etcd --- */

typedef struct impostor {
    int listener;
    const char *says; /* to whoever connects; NULL: nothing */
    bool without_end; /* the last KiB of it again and again */
    _Atomic bool ends;
} impostor;

static void *play(void *context)
{
    impostor *self = context;
    while (!self->ends) {
        struct pollfd polled = {.fd = self->listener, .events = POLLIN};
        if (poll(&polled, 1, 20) != 1) continue;
        int peer = accept4(self->listener, NULL, NULL, SOCK_CLOEXEC);
        char request[4096];
        if (peer < 0) continue;
        if (recv(peer, request, sizeof request, 0) < 0) request[0] = 0;
        if (self->says) (void)!send(peer, self->says, strlen(self->says), MSG_NOSIGNAL);
        static char more[1024];
        memset(more, 'x', sizeof more);
        while (self->without_end && !self->ends && send(peer, more, sizeof more, MSG_NOSIGNAL) > 0) {
        }
        while (!self->says && !self->ends) tr_clock_sleep_ms(5);
        close(peer);
    }
    return NULL;
}

static tr_status refuses(const char *says, bool without_end)
{
    enum { TIMEOUT_MS = 400 };
    impostor other = {.says = says, .without_end = without_end};
    pthread_t thread;
    int port = 0;
    char at[64];
    int64_t lease = 5, ttl_s = 5;
    tr_etcd *etcd;
    other.listener = listen_somewhere(&port);
    snprintf(at, sizeof at, "http://127.0.0.1:%d", port);
    CU_ASSERT_FATAL(other.listener >= 0 && pthread_create(&thread, NULL, play, &other) == 0);
    CHECK_OK(tr_etcd_new(&etcd, at, &err));
    uint64_t from_ns = tr_clock_ns();
    tr_status status = tr_etcd_grant(etcd, 10, TIMEOUT_MS, &lease, &ttl_s, &err);
    bool good = (status == TR_ECORRUPT || status == TR_EIO || status == TR_ETIMEDOUT) && lease == 5 &&
                ttl_s == 5 && err.message[0] && !strchr(err.message, '\n') &&
                ms_since(from_ns) < TIMEOUT_MS + SLACK_MS;
    CU_ASSERT(good);
    if (!good) fprintf(stderr, "'%.40s': %d, %s\n", says ? says : "nothing", status, err.message);
    tr_etcd_destroy(&etcd);
    other.ends = true;
    pthread_join(thread, NULL);
    close(other.listener);
    return status;
}

static void what_is_no_etcd_is_refused_in_time(void)
{
#define HTTP "HTTP/1.1 200 OK\r\n"
    refuses(NULL, false);
    refuses("", false);
    refuses("220 mail.example.com ESMTP\r\n", false);
    refuses(HTTP, true);
    refuses(HTTP "X: ", true);
    /* Bodies that do not end are not waited for. */
    CU_ASSERT(refuses(HTTP "\r\n", true) == TR_ECORRUPT);
    CU_ASSERT(refuses(HTTP "Content-Length: 999999999999\r\n\r\n", true) == TR_ECORRUPT);
    CU_ASSERT(refuses(HTTP "Transfer-Encoding: chunked\r\n\r\nfffffff\r\n", true) == TR_ECORRUPT);
    refuses(HTTP "Content-Length: 2\r\n\r\n{}", false);
    refuses(HTTP "Content-Length: 9\r\n\r\n<html>...", false);
    refuses(HTTP "Content-Length: 500\r\n\r\n{\"ID\":\"7\",\"TTL\":\"3\"}", false); /* cut short */
    refuses(HTTP "Content-Length: 28\r\n\r\n{\"ID\":\"7\",\"TTL\":\"-9223372036", false);
    refuses("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", false);
    refuses("HTTP/1.1 503 No\r\nContent-Length: 37\r\n\r\n{\"error\":\"a\\nb\\u001b[2J\",\"code\":\"many\"}",
            false);
#undef HTTP
}

/* One that lost its cluster refuses at once, again and again; the lease lives with the others. */
static void another_address_is_asked_where_one_refuses_for_now(void)
{
    impostor ailing = {.says = "HTTP/1.1 503 No\r\nContent-Length: 52\r\n\r\n"
                               "{\"error\":\"etcdserver: leader changed\",\"code\":14    }"};
    pthread_t thread;
    int port = 0;
    char both[160];
    tr_etcd *etcd;
    tr_etcd_entry entry = {.found = true};
    int64_t lease = 0, ttl_s = 0;
    ailing.listener = listen_somewhere(&port);
    CU_ASSERT_FATAL(ailing.listener >= 0 && pthread_create(&thread, NULL, play, &ailing) == 0);
    for (int first = 0; first < 2; first++) {
        snprintf(both, sizeof both, "%s,http://127.0.0.1:%d,%s", first ? dead_address : address, port,
                 first ? address : dead_address);
        CHECK_OK(tr_etcd_new(&etcd, both, &err));
        CHECK_OK(tr_etcd_get(etcd, "troupe/nothing", 2000, &entry, &err));
        CHECK_OK(tr_etcd_grant(etcd, TTL_S, 2000, &lease, &ttl_s, &err));
        CHECK_OK(tr_etcd_revoke(etcd, lease, 2000, &err));
        CU_ASSERT(!entry.found && lease && ttl_s == TTL_S);
        tr_etcd_destroy(&etcd);
    }
    snprintf(both, sizeof both, "%s,http://127.0.0.1:%d", dead_address, port);
    CHECK_OK(tr_etcd_new(&etcd, both, &err)); /* where nobody else is there its word is told */
    CU_ASSERT(tr_etcd_get(etcd, "troupe/nothing", 2000, &entry, &err) == TR_EIO);
    CU_ASSERT(strstr(err.message, "leader changed") != NULL);
    tr_etcd_destroy(&etcd);
    ailing.ends = true;
    pthread_join(thread, NULL);
    close(ailing.listener);
}

static const check_test tests[] = {
    CHECK_TEST(one_holds_it_and_the_other_is_refused),
    CHECK_TEST(it_is_renewed_for_as_long_as_it_is_held),
    CHECK_TEST(a_dead_holders_lease_ends),
    CHECK_TEST(who_waits_for_a_living_holder_is_refused_in_the_end),
    CHECK_TEST(a_standby_waits_also_while_etcd_is_away),
    CHECK_TEST(without_etcd_it_must_stop_and_is_lost_before_its_time_is_over),
    CHECK_TEST(what_lasts_is_not_written_without_it),
    CHECK_TEST(an_etcd_that_hangs_is_one_that_does_not_answer),
    CHECK_TEST(epochs_are_won_once_and_only_by_who_holds_it),
    CHECK_TEST(another_address_is_asked_where_nobody_answers),
    CHECK_TEST(another_address_is_asked_where_one_refuses_for_now),
    CHECK_TEST(addresses_are_looked_at),
    CHECK_TEST(what_is_no_etcd_is_refused_in_time),
};

int main(void)
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
    int result = check_run("etcd", tests, sizeof tests / sizeof *tests);
    kill_etcd();
    leave_directory(home);
    return result;
}
