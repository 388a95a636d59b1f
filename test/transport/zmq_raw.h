/* test/transport/zmq_raw.h - a peer over ZeroMQ that is played by hand, for conformance_hostile.h, and bytes that are not
 * even ZeroMQ's.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TEST_TRANSPORT_ZMQ_RAW_H
#define TROUPE_TEST_TRANSPORT_ZMQ_RAW_H

#include "transport/fixture.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zmq.h>

typedef struct raw_peer {
    void *context, *dealer;
} raw_peer;

static inline void raw_set_key(raw_peer *self, const char *server, const tr_curve_key *own)
{
    zmq_setsockopt(self->dealer, ZMQ_CURVE_SERVERKEY, server, strlen(server));
    zmq_setsockopt(self->dealer, ZMQ_CURVE_PUBLICKEY, own->public_half, strlen(own->public_half));
    zmq_setsockopt(self->dealer, ZMQ_CURVE_SECRETKEY, own->secret_half, strlen(own->secret_half));
}

static inline raw_peer *raw_open_unconnected(void)
{
    static uint32_t n_made;
    raw_peer *self = tr_alloc_zero(1, sizeof *self);
    int zero = 0, never = -1;
    char identity[18];
    snprintf(identity, sizeof identity, "TNNNNhand %07u", n_made++ % 10000000);
    memcpy(identity + 1, &(int32_t){3}, 4); /* as node 3 */
    self->context = zmq_ctx_new();
    self->dealer = zmq_socket(self->context, ZMQ_DEALER);
    zmq_setsockopt(self->dealer, ZMQ_LINGER, &zero, sizeof zero);
    zmq_setsockopt(self->dealer, ZMQ_RECONNECT_IVL, &never, sizeof never);
    zmq_setsockopt(self->dealer, ZMQ_ROUTING_ID, identity, 17);
    return self;
}

static inline raw_peer *raw_open(const char *address)
{
    raw_peer *self = raw_open_unconnected();
#ifdef CONFORMANCE_KEY
    raw_set_key(self, the_key.public_half, &the_key);
#endif
    zmq_connect(self->dealer, address);
    return self;
}

static inline const char *raw_address(const raw_peer *self)
{
    (void)self;
    return "ipc://@troupe-nobody-there";
}

static inline void raw_send(raw_peer *self, const void *header, size_t header_bytes, const void *body,
                            size_t body_bytes)
{
    zmq_send(self->dealer, header, header_bytes, ZMQ_SNDMORE | ZMQ_DONTWAIT);
    zmq_send(self->dealer, body, body_bytes, ZMQ_DONTWAIT);
}

static inline void raw_progress(raw_peer *self)
{
    (void)self; /* it has a thread for that */
}

static inline void raw_close(raw_peer **self)
{
    zmq_close((*self)->dealer);
    zmq_ctx_term((*self)->context);
    tr_free(*self);
    *self = NULL;
}

/* A bare socket at "tcp://127.0.0.1:PORT". */
static inline int tcp_connect(const char *address)
{
    struct sockaddr_in at = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)atoi(strrchr(address, ':') + 1)),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int made = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CU_ASSERT_FATAL(made >= 0 && connect(made, (struct sockaddr *)&at, sizeof at) == 0);
    return made;
}

/* Six connections: an HTTP client, zeros, noise, half a greeting, a whole one and a frame of 2^62 bytes, a frame of a
 * command that is none. */
static inline void throw_garbage(const char *address)
{
    static const char http[] = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    static const char zeros[5000];
    char noise_bytes[5000], greeting[64] = "\xff\0\0\0\0\0\0\0\1\x7f\3\0NULL";
    for (size_t i = 0; i < sizeof noise_bytes; i++) noise_bytes[i] = (char)(i * 2654435761u >> 13);
    static const char huge[] = "\x02\x40\0\0\0\0\0\0\0 and so on", command[] = "\x04\x08\5READYzz";
    const struct {
        const void *bytes;
        size_t size;
        const void *more;
        size_t more_size;
    } said[] = {{http, sizeof http - 1, NULL, 0},           {zeros, sizeof zeros, NULL, 0},
                {noise_bytes, sizeof noise_bytes, NULL, 0}, {greeting, 20, NULL, 0},
                {greeting, 64, huge, sizeof huge - 1},      {greeting, 64, command, sizeof command - 1}};
    for (size_t i = 0; i < sizeof said / sizeof *said; i++) {
        int raw = tcp_connect(address);
        (void)!send(raw, said[i].bytes, said[i].size, MSG_NOSIGNAL);
        if (said[i].more) (void)!send(raw, said[i].more, said[i].more_size, MSG_NOSIGNAL);
        usleep(20000);
        close(raw);
    }
}

#endif
