/* bench/gpu/link.c - how fast a stage's messages go from one GPU to another's process (actors/device_link.h): the receiver's copy
 * alone, and whole messages (body into a slot, word of it, copy, credit), beside CUDA's own copy between two GPUs in one process.
 *   gpu_link
 * Two processes, on two GPUs or both on the only one. GB/s are of bodies, the median of several rounds.
 * SPDX-License-Identifier: Apache-2.0 */
#include "actors/device_link.h"
#include "base/clock.h"

#include <cuda_runtime_api.h>

#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { N_SLOTS = 4, ROUNDS = 15, REPEAT = 20, MOST_OFFER = 512, SECONDS = 60, N_SIZES = 3 };

/* Of GPT-2 124M in bfloat16: 32, 8 and 1 rows of 1024 tokens. */
static const size_t sizes[N_SIZES] = {32 * 1024 * 768 * 2, 8 * 1024 * 768 * 2, 1024 * 768 * 2};

typedef struct offer {
    size_t size;
    uint8_t bytes[MOST_OFFER];
} offer;

typedef struct word {
    tr_link_descriptor descriptor;
    uint32_t slot;
} word;

static void check(tr_status status, const tr_error *err)
{
    if (status == TR_OK) return;
    fprintf(stderr, "gpu_link: %s\n", err->message);
    exit(1);
}

static void check_cuda(cudaError_t code)
{
    if (code == cudaSuccess) return;
    fprintf(stderr, "gpu_link: %s\n", cudaGetErrorString(code));
    exit(1);
}

static void check_words(ssize_t n, size_t expected)
{
    if (n == (ssize_t)expected) return;
    fprintf(stderr, "gpu_link: the other process is gone\n");
    exit(1);
}

static tr_stream *open_stream(int which)
{
    tr_error err = {0};
    tr_device *device;
    tr_stream *stream;
    int32_t n = 0;
    alarm(SECONDS);
    check(tr_device_count(TR_DEVICE_CUDA, &n, &err), &err);
    check(tr_device_open(&device, TR_DEVICE_CUDA, which % n, &err), &err);
    check(tr_stream_new(&stream, device, &err), &err);
    return stream;
}

static void *device_memory(tr_stream *stream, size_t size_bytes)
{
    tr_error err = {0};
    void *memory;
    check(tr_device_allocate(tr_stream_device(stream), TR_MEMORY_DEVICE, size_bytes, &memory, &err), &err);
    return memory;
}

static bool is_done(const tr_event *event)
{
    tr_error err = {0};
    bool done = false;
    check(tr_event_done(event, &done, &err), &err);
    return done;
}

/* --- the sender --- */

/* As a stage: the body goes into its slot behind what was queued, and the word of it when an event says that it is there. */
static void send_messages(int end, tr_stream *stream, tr_link_pool *pool, void *body, size_t size)
{
    tr_error err = {0};
    tr_event *written;
    uint32_t free_slots[N_SLOTS] = {0, 1, 2, 3}, n_free = N_SLOTS, slot;
    check(tr_event_new(&written, tr_stream_device(stream), false, &err), &err);
    for (int i = 0; i < (ROUNDS + 1) * REPEAT; i++) {
        while (n_free < N_SLOTS && recv(end, &slot, sizeof slot, n_free ? MSG_DONTWAIT : 0) > 0)
            free_slots[n_free++] = slot;
        word next = {.slot = free_slots[--n_free]};
        void *place = tr_link_pool_place(pool, next.slot, size, &next.descriptor);
        check(tr_stream_copy(stream, place, body, size, &err), &err);
        check(tr_event_record(written, stream, &err), &err);
        while (!is_done(written)) {
        }
        check_words(send(end, &next, sizeof next, MSG_NOSIGNAL), sizeof next);
    }
    for (; n_free < N_SLOTS; n_free++) check_words(recv(end, &slot, sizeof slot, 0), sizeof slot);
    tr_event_destroy(&written);
}

static void be_the_sender(int end)
{
    tr_error err = {0};
    tr_stream *stream = open_stream(0);
    void *body = device_memory(stream, sizes[0]);
    for (int s = 0; s < N_SIZES; s++) {
        tr_link_pool pool;
        tr_packer packer;
        offer said = {0};
        void *bytes;
        check(tr_link_pool_open(&pool, stream, (uint32_t)s + 1, N_SLOTS, sizes[s], &err), &err);
        tr_packer_init(&packer);
        tr_link_pool_offer(&pool, &packer);
        check(tr_packer_take(&packer, &bytes, &said.size, &err), &err);
        for (size_t i = 0; i < said.size && i < MOST_OFFER; i++) said.bytes[i] = ((uint8_t *)bytes)[i];
        check_words(send(end, &said, sizeof said, 0), sizeof said);
        check_words(recv(end, &said, sizeof said, MSG_WAITALL),
                    sizeof said); /* it has looked at the copy alone */
        send_messages(end, stream, &pool, body, sizes[s]);
        check_words(recv(end, &said, sizeof said, MSG_WAITALL), sizeof said); /* it is closed there */
        tr_link_pool_close(&pool);
    }
    exit(0);
}

/* --- the receiver --- */

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double rate_of(double ms[ROUNDS], size_t size)
{
    qsort(ms, ROUNDS, sizeof *ms, by_size);
    return (double)size / 1e6 / ms[ROUNDS / 2];
}

static double copy_alone(tr_stream *stream, void *here, const void *there, size_t size, int from, int to)
{
    tr_error err = {0};
    double ms[ROUNDS];
    for (int round = -1; round < ROUNDS; round++) {
        uint64_t begin = tr_clock_ns();
        for (int i = 0; i < REPEAT; i++)
            if (from < 0)
                check(tr_stream_copy(stream, here, there, size, &err), &err);
            else
                check_cuda(cudaMemcpyPeerAsync(here, to, there, from, size, tr_stream_native(stream)));
        check(tr_stream_synchronize(stream, &err), &err);
        if (round >= 0) ms[round] = (double)(tr_clock_ns() - begin) / 1e6 / REPEAT;
    }
    return rate_of(ms, size);
}

/* A credit goes back when its copy is done; up to N_SLOTS are queued. */
static double take_messages(int end, tr_stream *stream, tr_link_view *view, void *here, size_t size)
{
    tr_error err = {0};
    double ms[ROUNDS];
    tr_event *copied[N_SLOTS];
    uint32_t slots[N_SLOTS], first = 0, n = 0;
    int taken = 0, done = 0;
    uint64_t begin = 0;
    for (int i = 0; i < N_SLOTS; i++)
        check(tr_event_new(&copied[i], tr_stream_device(stream), false, &err), &err);
    while (done < (ROUNDS + 1) * REPEAT) {
        word next;
        if (taken < (ROUNDS + 1) * REPEAT &&
            recv(end, &next, sizeof next, MSG_DONTWAIT) == (ssize_t)sizeof next) {
            const void *from;
            uint32_t at = (first + n++) % N_SLOTS;
            check(tr_link_view_find(view, &next.descriptor, sizeof next.descriptor, next.slot, size, &from,
                                    &err),
                  &err);
            check(tr_stream_copy(stream, here, from, size, &err), &err);
            check(tr_event_record(copied[at], stream, &err), &err);
            slots[at] = next.slot;
            taken++;
        }
        if (n == 0 || !is_done(copied[first])) continue;
        check_words(send(end, &slots[first], sizeof *slots, MSG_NOSIGNAL), sizeof *slots);
        first = (first + 1) % N_SLOTS;
        n--;
        done++;
        uint64_t now = tr_clock_ns();
        if (done % REPEAT) continue;
        if (done / REPEAT >= 2) ms[done / REPEAT - 2] = (double)(now - begin) / 1e6 / REPEAT;
        begin = now;
    }
    for (int i = 0; i < N_SLOTS; i++) tr_event_destroy(&copied[i]);
    return rate_of(ms, size);
}

static void be_the_receiver(int end)
{
    tr_error err = {0};
    tr_stream *stream = open_stream(1);
    int here_index = tr_device_index(tr_stream_device(stream));
    void *here = device_memory(stream, sizes[0]), *there;
    check_cuda(cudaSetDevice(0));
    check_cuda(cudaMalloc(&there, sizes[0]));
    check(tr_device_use(tr_stream_device(stream), &err), &err);
    if (here_index != 0) check_cuda(cudaDeviceEnablePeerAccess(0, 0));
    printf("%-12s %14s %14s %14s\n", "bytes", "bare GB/s", "copied GB/s", "messages GB/s");
    for (int s = 0; s < N_SIZES; s++) {
        offer said;
        tr_link_view view;
        tr_unpacker body;
        check_words(recv(end, &said, sizeof said, MSG_WAITALL), sizeof said);
        tr_unpacker_init(&body, said.bytes, said.size);
        check(tr_link_view_open(&view, stream, &body, N_SLOTS, sizes[s], &err), &err);
        double bare = copy_alone(stream, here, there, sizes[s], 0, here_index);
        double copied = copy_alone(stream, here, view.memory->data, sizes[s], -1, -1);
        check_words(send(end, &said, sizeof said, 0), sizeof said);
        double messages = take_messages(end, stream, &view, here, sizes[s]);
        tr_link_view_close(&view);
        check_words(send(end, &said, sizeof said, 0), sizeof said);
        printf("%-12zu %14.1f %8.1f %4.0f%% %8.1f %4.0f%%\n", sizes[s], bare, copied, 100 * copied / bare,
               messages, 100 * messages / bare);
    }
    exit(0);
}

/* This process uses no GPU itself: CUDA does not live through fork. */
int main(void)
{
    int sockets[2], failed = 0;
    pid_t child[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, sockets)) return 1;
    for (int i = 0; i < 2; i++) {
        child[i] = fork();
        if (child[i] < 0) return 1;
        if (child[i] > 0) continue;
        close(sockets[!i]);
        if (i == 0) be_the_sender(sockets[0]);
        be_the_receiver(sockets[1]);
    }
    close(sockets[0]);
    close(sockets[1]);
    for (int i = 0; i < 2; i++) {
        int status = 0;
        waitpid(child[i], &status, 0);
        failed |= status != 0;
    }
    return failed;
}
