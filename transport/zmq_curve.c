/* transport/zmq_curve.c - see zmq_internal.h: who is let in at the ROUTER, and what becomes of those who are not.
 * With a key every socket speaks CURVE: a client that does not know the job's public half cannot say a word that the
 * ROUTER can read, and one that knows it but not the secret half is turned down by us: ZeroMQ asks, over its
 * authentication protocol (ZAP), whether a client's key may come in, and only the job's own may. Both end before
 * anything of them reaches a frame. The question comes to a socket of ours like any other message, and is answered from
 * progress, so there is no thread for it.
 * Sources: zmq_curve(7), zmq_socket_monitor(3), https://rfc.zeromq.org/spec/27/ (ZAP)
 * SPDX-License-Identifier: Apache-2.0 */
#include "transport/zmq_internal.h"

#include "base/log.h"
#include "transport/address.h"

#include <stdio.h>
#include <string.h>

enum {
    KEY_BYTES = 32,
    N_ASKED = 7,     /* version, request, domain, address, identity, mechanism, key */
    MOST_WARNED = 16 /* peers that were not let in; more are counted, and logged at info level */
};

static bool set_text(void *socket, int option, const char *text)
{
    return zmq_setsockopt(socket, option, text, strlen(text)) == 0;
}

static bool set_int(void *socket, int option, int value)
{
    return zmq_setsockopt(socket, option, &value, sizeof value) == 0;
}

tr_status tr__zmq_check_address(const tr__zmq *self, const char *address, const char *verb, tr_error *err)
{
    if (self->is_keyed || tr_address_is_local(address)) return TR_OK;
    return tr_fail(
        err, TR_EINVAL,
        "zmq does not %s '%s', beyond this machine, without a key; make one with `troupe keygen` and "
        "give it as network.key",
        verb, address);
}

tr_status tr__zmq_secure_router(tr__zmq *self, tr_error *err)
{
    if (!self->is_keyed) return TR_OK;
    self->zap = zmq_socket(self->context, ZMQ_REP);
    if (!self->zap || !set_int(self->zap, ZMQ_LINGER, 0) ||
        zmq_bind(self->zap, "inproc://zeromq.zap.01") != 0)
        return tr__zmq_fail(err, "ask for keys");
    /* Bound before the ROUTER and closed after it: without anybody to ask ZeroMQ would let every key in. */
    if (!set_text(self->router, ZMQ_ZAP_DOMAIN, "job") || !set_int(self->router, ZMQ_CURVE_SERVER, 1) ||
        !set_text(self->router, ZMQ_CURVE_SECRETKEY, self->key.secret_half))
        return tr__zmq_fail(err, "set its key");
    return TR_OK;
}

bool tr__zmq_secure_dealer(const tr__zmq *self, void *dealer)
{
    if (!self->is_keyed) return true;
    return set_text(dealer, ZMQ_CURVE_SERVERKEY, self->key.public_half) &&
           set_text(dealer, ZMQ_CURVE_PUBLICKEY, self->key.public_half) &&
           set_text(dealer, ZMQ_CURVE_SECRETKEY, self->key.secret_half);
}

/* A connection that failed so is not tried again by our own kind: each line is another peer, or a foreign one's new
 * attempt, whose floods shall not fill a disk. */
static void refuse_peer(tr__zmq *self, const char *from, const char *why)
{
    self->base.counters.refused++;
    self->n_strangers++;
    tr_log(self->n_strangers <= MOST_WARNED ? TR_LOG_WARNING : TR_LOG_INFO,
           "node %d refuses a peer%s%s at the handshake: %s%s", self->base.options.node,
           from[0] ? " at " : "", from, why,
           self->n_strangers == MOST_WARNED ? "; more of them are only counted" : "");
}

void tr__zmq_on_handshake(tr__zmq *self, uint16_t event, uint32_t value)
{
    if (event == ZMQ_EVENT_HANDSHAKE_FAILED_AUTH) return; /* our own no, told where it was said */
    bool other_mechanism =
        event == ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL && value == ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH;
    if (other_mechanism)
        refuse_peer(self, "", self->is_keyed ? "it has no key" : "it has a key, this job has none");
    else if (event == ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL)
        refuse_peer(self, "",
                    self->is_keyed ? "its key is not this job's, or it is no node"
                                   : "what it says is not ZeroMQ's protocol");
    else /* not worth a warning: a peer that died, a port scan */
        tr__refuse(&self->base,
                   "its peer went away during the handshake, or does not speak ZeroMQ's protocol");
}

/* Takes one question; false: there is none. */
static bool take_question(tr__zmq *self, zmq_msg_t parts[N_ASKED], int *n_parts)
{
    *n_parts = 0;
    for (bool more = true; more;) {
        zmq_msg_t surplus, *part = *n_parts < N_ASKED ? &parts[*n_parts] : &surplus;
        zmq_msg_init(part);
        if (zmq_msg_recv(part, self->zap, ZMQ_DONTWAIT) < 0) {
            zmq_msg_close(part);
            return false;
        }
        more = zmq_msg_more(part) != 0;
        if (part == &surplus)
            zmq_msg_close(part);
        else
            ++*n_parts;
    }
    return true;
}

static bool is_ours(const tr__zmq *self, zmq_msg_t parts[N_ASKED], int n_parts)
{
    uint8_t ours[KEY_BYTES], difference = 0;
    if (n_parts != N_ASKED || zmq_msg_size(&parts[5]) != 5 ||
        memcmp(zmq_msg_data(&parts[5]), "CURVE", 5) != 0 || zmq_msg_size(&parts[6]) != KEY_BYTES ||
        !zmq_z85_decode(ours, self->key.public_half))
        return false;
    const uint8_t *theirs = zmq_msg_data(&parts[6]);
    for (int i = 0; i < KEY_BYTES; i++) difference |= (uint8_t)(ours[i] ^ theirs[i]);
    return difference == 0;
}

static void answer(tr__zmq *self, zmq_msg_t parts[N_ASKED], int n_parts)
{
    bool good = is_ours(self, parts, n_parts);
    const char *code = good ? "200" : "400";
    zmq_send(self->zap, "1.0", 3, ZMQ_SNDMORE | ZMQ_DONTWAIT);
    zmq_send(self->zap, n_parts > 1 ? zmq_msg_data(&parts[1]) : "", n_parts > 1 ? zmq_msg_size(&parts[1]) : 0,
             ZMQ_SNDMORE | ZMQ_DONTWAIT);
    zmq_send(self->zap, code, 3, ZMQ_SNDMORE | ZMQ_DONTWAIT);
    for (int i = 0; i < 3; i++) zmq_send(self->zap, "", 0, (i < 2 ? ZMQ_SNDMORE : 0) | ZMQ_DONTWAIT);
    if (good) return;
    char from[64] = "";
    if (n_parts > 3)
        snprintf(from, sizeof from, "%.*s", (int)zmq_msg_size(&parts[3]), (char *)zmq_msg_data(&parts[3]));
    refuse_peer(self, from, "its key is not this job's");
}

int tr__zmq_answer_questions(tr__zmq *self)
{
    int n_answered = 0, n_parts;
    zmq_msg_t parts[N_ASKED];
    if (!(self->ready & TR__ZMQ_ZAP)) return 0;
    while (take_question(self, parts, &n_parts)) {
        answer(self, parts, n_parts);
        for (int i = 0; i < n_parts; i++) zmq_msg_close(&parts[i]);
        n_answered++;
    }
    self->ready &= ~TR__ZMQ_ZAP;
    return n_answered;
}

void tr__zmq_watch_dealer(tr__zmq *self, tr__zmq_link *link)
{
    char name[48];
    snprintf(name, sizeof name, "inproc://greeting-%u", self->n_watched++);
    int events = ZMQ_EVENT_CLOSED | ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
                 ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH;
    link->watch = zmq_socket(self->context, ZMQ_PAIR);
    if (link->watch && set_int(link->watch, ZMQ_LINGER, 0) &&
        zmq_socket_monitor(link->dealer, name, events) == 0 && zmq_connect(link->watch, name) == 0)
        return;
    tr__zmq_unwatch_dealer(link); /* then only the time tells */
}

void tr__zmq_unwatch_dealer(tr__zmq_link *link)
{
    if (!link->watch) return;
    zmq_socket_monitor(link->dealer, NULL, 0);
    zmq_close(link->watch);
    link->watch = NULL;
}

void tr__zmq_look_at_dealer(tr__zmq *self, tr__zmq_link *link)
{
    uint8_t event[6], address[256];
    if (!link->watch || zmq_recv(link->watch, event, sizeof event, ZMQ_DONTWAIT) < 0) return;
    zmq_recv(link->watch, address, sizeof address, ZMQ_DONTWAIT);
    uint16_t kind;
    memcpy(&kind, event, sizeof kind);
    if (kind == ZMQ_EVENT_CLOSED) {
        tr__link_fail(&self->base, &link->base, "nobody listens there");
        return;
    }
    const char *why = kind == ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL || kind == ZMQ_EVENT_HANDSHAKE_FAILED_AUTH
                          ? "the peer refused us at the handshake: it has another key, or one of us has none"
                          : "the peer broke the handshake off: it may have another key, or it went away";
    tr_log(TR_LOG_WARNING, "node %d cannot reach node %d: %s", self->base.options.node, link->base.peer, why);
    tr__link_fail(&self->base, &link->base, "%s", why);
}
