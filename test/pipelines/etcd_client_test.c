/* test/pipelines/etcd_client_test.c - a client of etcd that finds who answers, and takes no harm from what is no etcd.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/real_etcd.h"

#include <poll.h>
#include <pthread.h>

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
    CHECK_TEST(another_address_is_asked_where_nobody_answers),
    CHECK_TEST(another_address_is_asked_where_one_refuses_for_now),
    CHECK_TEST(addresses_are_looked_at),
    CHECK_TEST(what_is_no_etcd_is_refused_in_time),
};

int main(void)
{
    return run_with_etcd("etcd_client", tests, sizeof tests / sizeof *tests);
}
