/* test/network/late.c - a network that is slow: packets that the kernel queues for us (NFQUEUE) go on after a while that a seed draws,
 * so that they overtake each other as well. Most wait up to MOST_MS, one in a hundred SELDOM_MS more.
 *   late QUEUE SEED MOST_MS SELDOM_MS
 * Runs until it is ended (SIGTERM), and says then how many packets it held. Needs CAP_NET_ADMIN in its network namespace.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/clock.h"
#include "base/rng.h"

#include <arpa/inet.h>
#include <errno.h>
#include <libnetfilter_queue/libnetfilter_queue.h>
#include <linux/netfilter.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

enum { HELD = 1 << 14, PACKET_BYTES = 1 << 16 };

typedef struct held {
    uint64_t due_ns;
    uint32_t id;
} held;

static struct network {
    struct nfq_q_handle *queue;
    held heap[HELD]; /* the next one due first */
    int n;
    uint64_t most_ns, seldom_ns, n_packets;
    tr_rng_key key;
} net;

static volatile sig_atomic_t is_over;

static void end(int signal_number)
{
    (void)signal_number;
    is_over = 1;
}

static void swap(int i, int k)
{
    held one = net.heap[i];
    net.heap[i] = net.heap[k];
    net.heap[k] = one;
}

static void hold(held packet)
{
    int i = net.n++;
    net.heap[i] = packet;
    for (; i > 0 && net.heap[i].due_ns < net.heap[(i - 1) / 2].due_ns; i = (i - 1) / 2) swap(i, (i - 1) / 2);
}

static held take_first(void)
{
    held first = net.heap[0];
    net.heap[0] = net.heap[--net.n];
    for (int i = 0, next; (next = 2 * i + 1) < net.n; i = next) {
        if (next + 1 < net.n && net.heap[next + 1].due_ns < net.heap[next].due_ns) next++;
        if (net.heap[i].due_ns <= net.heap[next].due_ns) break;
        swap(i, next);
    }
    return first;
}

static void let_go(uint64_t now_ns)
{
    while (net.n > 0 && (net.heap[0].due_ns <= now_ns || net.n == HELD))
        nfq_set_verdict(net.queue, take_first().id, NF_ACCEPT, 0, NULL);
}

static int on_packet(struct nfq_q_handle *queue, struct nfgenmsg *message, struct nfq_data *data,
                     void *context)
{
    (void)queue, (void)message, (void)context;
    const struct nfqnl_msg_packet_hdr *header = nfq_get_msg_packet_hdr(data);
    uint64_t n = net.n_packets++, wait_ns = tr_rng_u64(&net.key, 2 * n) % (net.most_ns + 1);
    if (!header) return 0;
    if (tr_rng_u64(&net.key, 2 * n + 1) % 100 == 0) wait_ns += net.seldom_ns;
    hold((held){.due_ns = tr_clock_ns() + wait_ns, .id = ntohl(header->packet_id)});
    let_go(0); /* no more than there is room for */
    return 0;
}

static int serve(struct nfq_handle *handle)
{
    static char packet[PACKET_BYTES] __attribute__((aligned(8)));
    int file = nfq_fd(handle);
    while (!is_over) {
        uint64_t now_ns = tr_clock_ns();
        let_go(now_ns);
        int wait_ms = net.n == 0 ? -1 : (int)((net.heap[0].due_ns - tr_clock_ns()) / 1000000 + 1);
        if (net.n > 0 && net.heap[0].due_ns <= tr_clock_ns()) wait_ms = 0;
        struct pollfd polled = {.fd = file, .events = POLLIN};
        if (poll(&polled, 1, wait_ms) <= 0) continue;
        ssize_t n = recv(file, packet, sizeof packet, MSG_DONTWAIT);
        if (n > 0) nfq_handle_packet(handle, packet, (int)n);
        if (n < 0 && errno != ENOBUFS && errno != EINTR && errno != EAGAIN) return perror("late"), 1;
    }
    let_go(UINT64_MAX);
    fprintf(stderr, "late: %llu packets were held\n", (unsigned long long)net.n_packets);
    return net.n_packets == 0;
}

int main(int argc, char **argv)
{
    if (argc != 5) return fprintf(stderr, "usage: late QUEUE SEED MOST_MS SELDOM_MS\n"), 2;
    net.key = (tr_rng_key){.seed = strtoull(argv[2], NULL, 10)};
    net.most_ns = strtoull(argv[3], NULL, 10) * 1000000;
    net.seldom_ns = strtoull(argv[4], NULL, 10) * 1000000;
    struct sigaction action = {.sa_handler = end};
    sigaction(SIGTERM, &action, NULL);
    struct nfq_handle *handle = nfq_open();
    if (handle) net.queue = nfq_create_queue(handle, (uint16_t)atoi(argv[1]), on_packet, NULL);
    if (!handle || !net.queue || nfq_set_mode(net.queue, NFQNL_COPY_META, 0) < 0 ||
        nfq_set_queue_maxlen(net.queue, HELD) < 0)
        return fprintf(stderr, "late: the kernel has no such queue for us\n"), 77;
    int code = serve(handle);
    nfq_destroy_queue(net.queue);
    nfq_close(handle);
    return code;
}
