/* runtime/door.c - see door.h. Both sides are nodes of a transport of their own: the head is node 0 of it, each joiner has a
 * number that it draws. Whoever has no key does not get past ZeroMQ's handshake.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/door.h"

#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/memory.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

enum { RETRY_MS = 500, ANSWER_MS = 20000, LISTENS_MS = 1000, MAX_LAUNCH_BYTES = 64 << 20 };

struct tr_door {
    tr_door_options options;
    tr_transport *transport;
};

/* Of those who knock, before they have the job's own: it only says that both mean a door. */
static void door_key(uint8_t out[TR_JOB_KEY_BYTES], const tr_curve_key *key)
{
    uint64_t halves[2] = {tr_hash64_text("troupe door"), tr_hash64_text(key->public_half)};
    memcpy(out, halves, TR_JOB_KEY_BYTES);
}

static tr_buffer *place_body(void *context, int32_t peer, const tr_frame *frame)
{
    (void)context, (void)peer;
    tr_buffer *body = NULL;
    if (tr_buffer_new(&body, frame->body_bytes, NULL) != TR_OK) return NULL;
    return body;
}

static void say(tr_transport *transport, int32_t peer, tr_door_topic topic, const void *bytes,
                size_t size_bytes)
{
    tr_message *message;
    if (tr_message_copy(&message, bytes, (uint32_t)size_bytes, NULL) != TR_OK) return;
    message->frame.kind = TR_FRAME_SYSTEM;
    message->frame.edge = topic;
    message->frame.destination = (uint64_t)(uint32_t)peer;
    tr_transport_send(transport, peer, &message, NULL);
}

/* --- the head's side --- */

static void refuse(tr_door *self, int32_t peer, const char *name, const char *why)
{
    char text[TR_ERROR_SIZE + TR_HOST_NAME_CHARS + 64];
    snprintf(text, sizeof text, "host '%s' may not join: %s", name, why);
    say(self->transport, peer, TR_DOOR_REFUSED, why, strlen(why) + 1);
    self->options.refused(self->options.context, text);
}

static void hear_knock(void *context, int32_t peer, tr_message *message)
{
    tr_door *self = context;
    tr_join_request request = {0};
    tr_launch launch = {0};
    tr_error err;
    void *bytes = NULL;
    size_t size_bytes = 0;
    tr_status status = TR_OK;
    if (message->frame.edge != TR_DOOR_JOIN)
        status = tr_fail(&err, TR_ECORRUPT, "it says what nobody says at a door");
    if (status == TR_OK)
        status = tr_join_request_decode(&request, tr_message_bytes(message), message->frame.body_bytes, &err);
    tr_message_destroy(&message);
    if (status == TR_OK) status = self->options.admit(self->options.context, &request, &launch, &err);
    if (status == TR_OK) status = tr__launch_encode(&launch, &bytes, &size_bytes, &err);
    if (status == TR_OK)
        say(self->transport, peer, TR_DOOR_WELCOME, bytes, size_bytes);
    else
        refuse(self, peer, request.name, err.message);
    if (bytes) explicit_bzero(bytes, size_bytes);
    tr_free(bytes);
    tr_launch_release(&launch);
}

static void forget(void *context, int32_t peer, const char *reason)
{
    (void)context;
    tr_log(TR_LOG_DEBUG, "door: %d went: %s", peer, reason);
}

tr_status tr_door_open(tr_door **out, const tr_door_options *options, tr_error *err)
{
    tr_door *self = tr_alloc_zero(1, sizeof *self);
    if (!self) return tr_fail(err, TR_ENOMEM, "no memory for a door");
    self->options = *options;
    tr_transport_options transport = {
        .node = 0, .incarnation = 1, .bind = options->listen, .key = options->key, .max_body_bytes = 1 << 16};
    door_key(transport.job_key, options->key);
    self->options.key = NULL; /* the transport has a copy */
    const tr_transport_events events = {
        .context = self, .place = place_body, .deliver = hear_knock, .peer_lost = forget};
    tr_status status = tr_transport_new(&self->transport, "zmq", &transport, &events, err);
    if (status != TR_OK) {
        tr_free(self);
        return status;
    }
    *out = self;
    return TR_OK;
}

void tr_door_progress(tr_door *self)
{
    while (tr_transport_progress(self->transport) > 0) {
    }
}

void tr_door_close(tr_door **out)
{
    if (!*out) return;
    tr_transport_destroy(&(*out)->transport);
    tr_free(*out);
    *out = NULL;
}

/* --- the joiner's side --- */

typedef struct knocking {
    tr_launch *launch;
    tr_error answer;
    bool answered;
    bool has_joined;
} knocking;

static void hear_answer(void *context, int32_t peer, tr_message *message)
{
    (void)peer;
    knocking *self = context;
    const void *bytes = tr_message_bytes(message);
    uint32_t size_bytes = message->frame.body_bytes;
    self->answered = true;
    if (message->frame.edge == TR_DOOR_WELCOME)
        self->answer.status = tr__launch_decode(self->launch, bytes, size_bytes, &self->answer);
    else if (message->frame.edge == TR_DOOR_REFUSED && size_bytes)
        tr_fail(&self->answer, TR_EREFUSED, "%.*s", (int)size_bytes, (const char *)bytes);
    else
        tr_fail(&self->answer, TR_ECORRUPT, "what answers there is no head");
    tr_message_destroy(&message);
}

static void hear_loss(void *context, int32_t peer, const char *reason)
{
    (void)peer;
    knocking *self = context;
    if (self->answered) return;
    self->answered = true;
    bool is_refused = strstr(reason, "key") != NULL && !self->has_joined;
    tr_fail(&self->answer, is_refused ? TR_EREFUSED : TR_ENOTFOUND, "%s", reason);
}

static void sleep_on(const tr_transport *transport, int timeout_ms)
{
    int descriptors[TR_TRANSPORT_MAX_DESCRIPTORS];
    struct pollfd polled[TR_TRANSPORT_MAX_DESCRIPTORS];
    int n = tr_transport_descriptors(transport, descriptors);
    for (int i = 0; i < n; i++) polled[i] = (struct pollfd){.fd = descriptors[i], .events = POLLIN};
    poll(polled, (nfds_t)n, timeout_ms);
}

static tr_status knock_once(const tr_knock_options *options, const tr_door_place *door, uint64_t until_ns,
                            tr_launch *launch, tr_error *err)
{
    knocking self = {.launch = launch, .has_joined = options->has_joined};
    uint32_t number = 1;
    void *bytes = NULL;
    size_t size_bytes;
    tr_status status = tr_join_request_encode(options->request, &bytes, &size_bytes, err);
    if (status != TR_OK) return status;
    if (getrandom(&number, sizeof number, 0) != (ssize_t)sizeof number) number = (uint32_t)getpid();
    tr_transport_options transport = {.node = 1 + (int32_t)(number % 0x7ffffff0u),
                                      .incarnation = 1,
                                      .bind = door->bind,
                                      .key = options->key,
                                      .max_body_bytes = MAX_LAUNCH_BYTES};
    door_key(transport.job_key, options->key);
    const tr_transport_events events = {
        .context = &self, .place = place_body, .deliver = hear_answer, .peer_lost = hear_loss};
    tr_transport *way = NULL;
    status = tr_transport_new(&way, "zmq", &transport, &events, err);
    if (status == TR_OK) status = tr_transport_connect(way, 0, door->address, err);
    if (status == TR_OK) say(way, 0, TR_DOOR_JOIN, bytes, size_bytes);
    while (status == TR_OK && !self.answered && tr_clock_ns() < until_ns)
        if (tr_transport_progress(way) == 0 && tr_transport_arm(way)) sleep_on(way, 50);
    tr_transport_destroy(&way);
    tr_free(bytes);
    if (status != TR_OK) return status;
    if (!self.answered) return tr_fail(err, TR_ENOTFOUND, "nobody answered");
    if (self.answer.status != TR_OK && err) *err = self.answer;
    return self.answer.status;
}

/* --- addresses --- */

/* "10.0.0.5:7600" as an address of the system's; the host alone goes into `host`, the port is returned; 0: it is none. */
static int read_place(const char *text, char host[INET6_ADDRSTRLEN], struct sockaddr_storage *place)
{
    const char *colon = strrchr(text, ':'), *first = text;
    char *end = NULL;
    long port = colon ? strtol(colon + 1, &end, 10) : 0;
    size_t length = colon ? (size_t)(colon - text) : 0;
    if (length > 2 && text[0] == '[' && text[length - 1] == ']') {
        first++;
        length -= 2;
    }
    if (!colon || *end || port < 1 || port > 65535 || !length || length >= INET6_ADDRSTRLEN) return 0;
    memcpy(host, first, length);
    host[length] = 0;
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    memset(place, 0, sizeof *place);
    if (inet_pton(AF_INET, host, &four.sin_addr) == 1)
        memcpy(place, &four, sizeof four);
    else if (inet_pton(AF_INET6, host, &six.sin6_addr) == 1)
        memcpy(place, &six, sizeof six);
    else
        return 0;
    return (int)port;
}

/* Which address of ours a packet to there would carry: asked of the routing table, nothing is sent. */
static tr_status own_address(char bind[TR_BIND_CHARS], const struct sockaddr_storage *to, tr_error *err)
{
    struct sockaddr_storage from = {0};
    socklen_t from_size = sizeof from;
    char host[INET6_ADDRSTRLEN] = "";
    int probe = socket(to->ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    bool good = probe >= 0 && connect(probe, (const struct sockaddr *)to, sizeof *to) == 0 &&
                getsockname(probe, (struct sockaddr *)&from, &from_size) == 0;
    int reason = errno;
    if (probe >= 0) close(probe);
    if (!good) return tr_fail(err, TR_ENOTFOUND, "there is no way from here to it: %s", strerror(reason));
    if (from.ss_family == AF_INET)
        inet_ntop(AF_INET, &((struct sockaddr_in *)&from)->sin_addr, host, sizeof host);
    else
        inet_ntop(AF_INET6, &((struct sockaddr_in6 *)&from)->sin6_addr, host, sizeof host);
    return tr_address_bind(bind, host, err);
}

tr_status tr_door_place_read(tr_door_place *self, const char *text, tr_error *err)
{
    char host[INET6_ADDRSTRLEN];
    struct sockaddr_storage place;
    int port = read_place(text, host, &place);
    if (!port) return tr_fail(err, TR_EINVAL, "'%s' is no HOST:PORT in numbers, such as 10.0.0.5:7600", text);
    *self = (tr_door_place){.bind = ""};
    snprintf(self->address, TR_DOOR_CHARS, place.ss_family == AF_INET ? "tcp://%s:%d" : "tcp://[%s]:%d", host,
             port);
    return own_address(self->bind, &place, err);
}

/* --- looking for a head --- */

/* Of several doors most are closed, and ZeroMQ does not say so: it tries on. */
static bool somebody_listens(const char *address)
{
    char host[INET6_ADDRSTRLEN];
    struct sockaddr_storage place;
    int problem = 0;
    socklen_t size = sizeof problem;
    if (!read_place(address + strlen("tcp://"), host, &place)) return false;
    int probe = socket(place.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (probe < 0) return false;
    struct pollfd polled = {.fd = probe, .events = POLLOUT};
    bool good = connect(probe, (const struct sockaddr *)&place, sizeof place) == 0 ||
                (errno == EINPROGRESS && poll(&polled, 1, LISTENS_MS) == 1 &&
                 getsockopt(probe, SOL_SOCKET, SO_ERROR, &problem, &size) == 0 && problem == 0);
    close(probe);
    return good;
}

static tr_status try_door(const tr_knock_options *options, const tr_door_place *door, tr_launch *launch,
                          tr_error *err)
{
    char host[INET6_ADDRSTRLEN];
    struct sockaddr_storage place;
    tr_door_place now = *door;
    if (!now.bind[0] && read_place(door->address + strlen("tcp://"), host, &place))
        (void)own_address(now.bind, &place, NULL); /* there may be a way by now */
    if (!now.bind[0]) return tr_fail(err, TR_ENOTFOUND, "there is no way from here to it");
    if (options->n_doors > 1 && !somebody_listens(now.address))
        return tr_fail(err, TR_ENOTFOUND, "nobody answered");
    tr_status status = knock_once(options, &now, tr_clock_ns() + (uint64_t)ANSWER_MS * 1000000, launch, err);
    if (status == TR_OK) memcpy(launch->bind, now.bind, sizeof launch->bind);
    return status;
}

/* Each door once. Of what is in the way a refusal counts most. */
static tr_status try_all(const tr_knock_options *options, tr_launch *launch, int32_t *door, tr_error *err)
{
    tr_status worst = TR_OK;
    for (int32_t i = 0; i < options->n_doors; i++) {
        tr_error problem;
        tr_status status = try_door(options, &options->doors[i], launch, &problem);
        if (status == TR_OK) {
            *door = i;
            return TR_OK;
        }
        tr_launch_release(launch);
        if (worst && status == TR_ENOTFOUND) continue;
        *door = i;
        worst = status;
        *err = problem;
    }
    return worst;
}

tr_status tr_door_knock(const tr_knock_options *options, tr_launch *launch, int32_t *door, tr_error *err)
{
    uint64_t began_ns = tr_clock_ns(), until_ns = began_ns + (uint64_t)options->wait_ms * 1000000;
    for (;;) {
        tr_error problem = {0};
        tr_status status = try_all(options, launch, door, &problem);
        const char *address = options->doors[*door].address;
        if (status == TR_OK) return TR_OK;
        if (status != TR_ENOTFOUND)
            return tr_fail(err, status, "the head at %s refuses this host: %s", address, problem.message);
        if (tr_clock_ns() >= until_ns)
            return tr_fail(err, status, "no head at %s%s within %u s: %s", address,
                           options->n_doors > 1 ? " or the other addresses" : "", options->wait_ms / 1000,
                           problem.message);
        usleep(RETRY_MS * 1000);
    }
}
