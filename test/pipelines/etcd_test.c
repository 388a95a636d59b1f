/* test/pipelines/etcd_test.c - the lease of a head, on a real etcd: at most one holds it, whoever is killed, stopped or slow, and no
 * epoch is won twice.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/real_etcd.h"

#include "pipelines/checkpoint_files.h"
#include "pipelines/run_directory.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>

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
    if (!over_ns && !tr_head_lease_is_held(first.lease)) over_ns = tr_clock_ns(); /* its thread was quicker */
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

/* --- a network that is late --- */

enum { MOST_WAYS = 8, CHUNK_BYTES = 8192 };

typedef struct slow_network { /* between clients and etcd */
    int listener, port;
    _Atomic bool delays; /* keeps the next request for epochs back, and breaks its connection */
    _Atomic bool ends;
    char late[CHUNK_BYTES];
    ssize_t n_late;
    int ways[MOST_WAYS][2]; /* a client, and the server; -1: none */
} slow_network;

static int connect_etcd(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET,
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                             .sin_port = htons((uint16_t)atoi(strrchr(address, ':') + 1))};
    int made = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CU_ASSERT_FATAL(made >= 0 && connect(made, (struct sockaddr *)&at, sizeof at) == 0);
    return made;
}

static void carry(slow_network *self, int way, int from)
{
    char chunk[CHUNK_BYTES];
    int *ends = self->ways[way];
    ssize_t n = recv(ends[from], chunk, sizeof chunk, 0);
    bool keeps = n > 0 && from == 0 && self->delays && memmem(chunk, (size_t)n, "/v3/kv/txn", 10);
    if (keeps) {
        memcpy(self->late, chunk, (size_t)n);
        self->n_late = n;
        self->delays = false;
    }
    if (n > 0 && !keeps && send(ends[1 - from], chunk, (size_t)n, MSG_NOSIGNAL) == n) return;
    for (int i = 0; i < 2; i++) {
        close(ends[i]);
        ends[i] = -1;
    }
}

static void *run_network(void *context)
{
    slow_network *self = context;
    while (!self->ends) {
        struct pollfd polled[1 + 2 * MOST_WAYS] = {{.fd = self->listener, .events = POLLIN}};
        for (int i = 0; i < 2 * MOST_WAYS; i++)
            polled[1 + i] = (struct pollfd){.fd = self->ways[i / 2][i % 2], .events = POLLIN};
        if (poll(polled, 1 + 2 * MOST_WAYS, 20) <= 0) continue;
        for (int i = 0; i < 2 * MOST_WAYS; i++)
            if (polled[1 + i].revents && self->ways[i / 2][0] >= 0) carry(self, i / 2, i % 2);
        for (int i = 0; polled[0].revents && i < MOST_WAYS; i++) {
            if (self->ways[i][0] >= 0) continue;
            self->ways[i][0] = accept4(self->listener, NULL, NULL, SOCK_CLOEXEC);
            self->ways[i][1] = connect_etcd();
            break;
        }
    }
    for (int i = 0; i < 2 * MOST_WAYS; i++)
        if (self->ways[i / 2][i % 2] >= 0) close(self->ways[i / 2][i % 2]);
    return NULL;
}

/* Its sender had asked once more, and won that one and the next. */
static void a_request_that_comes_late_takes_no_epoch_back(void)
{
    static slow_network network;
    holder first;
    pthread_t thread;
    char at[64], answer[CHUNK_BYTES];
    tr_etcd *etcd;
    tr_etcd_entry entry = {0};
    network.listener = listen_somewhere(&network.port);
    memset(network.ways, -1, sizeof network.ways);
    snprintf(at, sizeof at, "http://127.0.0.1:%d", network.port);
    CU_ASSERT_FATAL(network.listener >= 0 && pthread_create(&thread, NULL, run_network, &network) == 0);
    CHECK_OK(acquire_at(&first, at, "late", "process 1", 10, TR_LEASE_NOW));
    for (uint32_t epoch = 1; epoch <= 9; epoch += 4) { /* the first ever, and others */
        network.n_late = 0;
        network.delays = true;
        CHECK_OK(tr_head_lease_win_epoch(first.lease, epoch, &err));
        CHECK_OK(tr_head_lease_win_epoch(first.lease, epoch + 1, &err));
        CU_ASSERT(!network.delays && network.n_late > 0);
        int late = connect_etcd();
        CU_ASSERT(send(late, network.late, (size_t)network.n_late, MSG_NOSIGNAL) == network.n_late);
        CU_ASSERT(recv(late, answer, sizeof answer, 0) > 0 && strncmp(answer, "HTTP/1.1 200", 12) == 0);
        close(late);
        char value[16];
        snprintf(value, sizeof value, "%u", epoch + 1);
        CHECK_OK(tr_etcd_new(&etcd, address, &err));
        CHECK_OK(tr_etcd_get(etcd, "troupe/late/epoch", 2000, &entry, &err));
        CU_ASSERT(entry.found && strcmp(entry.value, value) == 0);
        tr_etcd_destroy(&etcd);
    }
    tr_head_lease_release(&first.lease);
    network.ends = true;
    pthread_join(thread, NULL);
    close(network.listener);
}

/* Done, and its answer lost: it is not put again, and counts. */
static void an_epoch_that_was_won_unheard_is_won(void)
{
    holder first;
    tr_etcd *etcd;
    tr_etcd_entry entry = {0};
    tr_etcd_outcome outcome;
    CHECK_OK(acquire(&first, "unheard", "process 1", TR_LEASE_NOW));
    CHECK_OK(tr_head_lease_win_epoch(first.lease, 1, &err));
    CHECK_OK(tr_etcd_new(&etcd, address, &err));
    tr_etcd_put put = {.guard = "troupe/unheard/head",
                       .guard_revision = tr_head_lease_revision(first.lease),
                       .was = "1",
                       .key = "troupe/unheard/epoch",
                       .value = "2"};
    CHECK_OK(tr_etcd_put_if(etcd, &put, 2000, &outcome, &err));
    CU_ASSERT(outcome.done);
    CHECK_OK(tr_etcd_put_if(etcd, &put, 2000, &outcome, &err)); /* it was 2 by then */
    CU_ASSERT(!outcome.done && outcome.guard.create_revision == put.guard_revision);
    CHECK_OK(tr_head_lease_win_epoch(first.lease, 2, &err));
    CHECK_OK(tr_head_lease_win_epoch(first.lease, 3, &err));
    CHECK_OK(tr_etcd_get(etcd, put.key, 2000, &entry, &err));
    CU_ASSERT(strcmp(entry.value, "3") == 0);
    put.was = NULL; /* a person, or another program */
    put.value = "77";
    CHECK_OK(tr_etcd_put_if(etcd, &put, 2000, &outcome, &err));
    CU_ASSERT(tr_head_lease_win_epoch(first.lease, 4, &err) == TR_EIO);
    CU_ASSERT(strstr(err.message, "holds '77', which no head of this job put there") != NULL);
    tr_etcd_destroy(&etcd);
    tr_head_lease_release(&first.lease);
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
    CHECK_TEST(a_request_that_comes_late_takes_no_epoch_back),
    CHECK_TEST(an_epoch_that_was_won_unheard_is_won),
};

int main(void)
{
    return run_with_etcd("etcd", tests, sizeof tests / sizeof *tests);
}
