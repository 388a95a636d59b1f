/* bench/gpu/exchange.c - how fast two GPUs hand memory to each other: both ways at once, by transport/collective.h and by
 * NCCL's own send and receive, and the whole exact reduction of a gradient as a stage does it (half of it out, its sum, half
 * of it back) beside NCCL's own all-reduce. A thread for each GPU; the best and the median of several rounds.
 *   gpu_exchange [--elements N]
 * GB/s are of what leaves a GPU; the reduction's of the gradient over the time.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/clock.h"
#include "base/library.h"
#include "base/memory.h"
#include "ops/update.h"
#include "transport/collective.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MEMBERS = 2, ROUNDS = 20, REPEAT = 5, N_ROWS = 5, FLOAT32 = 7, SUM = 0, INT8 = 0 };

typedef struct unique_id {
    char bytes[TR_GROUP_NAME_BYTES];
} unique_id;

static struct {
    int (*get_unique_id)(unique_id *id);
    int (*init_rank)(void **comm, int n_ranks, unique_id id, int rank);
    int (*send)(const void *memory, size_t count, int type, int peer, void *comm, void *stream);
    int (*receive)(void *memory, size_t count, int type, int peer, void *comm, void *stream);
    int (*all_reduce)(const void *from, void *to, size_t count, int type, int op, void *comm, void *stream);
    int (*group_start)(void);
    int (*group_end)(void);
} nccl;

typedef struct member {
    int32_t number;
    tr_stream *stream;
    tr_group *group;
    void *comm;
    float *gradient, *arrivals;
    double ms[N_ROWS][ROUNDS];
} member;

static pthread_barrier_t barrier;
static tr_group_options options = {.n_members = MEMBERS};
static unique_id bare_id;
static int64_t n_elements = (int64_t)163 << 20; /* GPT-2 124M with a use of its tied table each */

static void check(tr_status status, const tr_error *err)
{
    if (status == TR_OK) return;
    fprintf(stderr, "gpu_exchange: %s\n", err->message);
    exit(1);
}

static void check_nccl(int result)
{
    if (result == 0) return;
    fprintf(stderr, "gpu_exchange: NCCL says %d\n", result);
    exit(1);
}

/* --- what is measured --- */

static void ours(member *self, size_t size)
{
    tr_error err = {0};
    uint32_t peer = 1 - (uint32_t)self->number;
    tr_transfer transfers[] = {{peer, true, self->gradient, size}, {peer, false, self->arrivals, size}};
    check(tr_nccl.exchange(self->group, transfers, 2, &err), &err);
}

static void bare(member *self, size_t size)
{
    void *stream = tr_stream_native(self->stream);
    check_nccl(nccl.group_start());
    check_nccl(nccl.send(self->gradient, size, INT8, 1 - self->number, self->comm, stream));
    check_nccl(nccl.receive(self->arrivals, size, INT8, 1 - self->number, self->comm, stream));
    check_nccl(nccl.group_end());
}

static void exact(member *self)
{
    tr_error err = {0};
    uint32_t peer = 1 - (uint32_t)self->number;
    int64_t half = n_elements / 2;
    float *own = self->gradient + self->number * half, *theirs = self->gradient + (1 - self->number) * half;
    size_t size = (size_t)half * sizeof *own;
    tr_transfer out[] = {{peer, true, theirs, size}, {peer, false, self->arrivals, size}};
    tr_transfer back[] = {{peer, true, own, size}, {peer, false, theirs, size}};
    check(tr_nccl.exchange(self->group, out, 2, &err), &err);
    check(tr_update_accumulate(self->stream, NULL, own, self->arrivals, half, &err), &err);
    check(tr_nccl.exchange(self->group, back, 2, &err), &err);
}

static void all_reduce(member *self)
{
    check_nccl(nccl.all_reduce(self->gradient, self->gradient, (size_t)n_elements, FLOAT32, SUM, self->comm,
                               tr_stream_native(self->stream)));
}

static void run_row(member *self, int row)
{
    size_t bucket = (size_t)32 << 20, large = (size_t)n_elements * 2;
    switch (row) {
    case 0: ours(self, large); break;
    case 1: bare(self, large); break;
    case 2: ours(self, bucket); break;
    case 3: exact(self); break;
    default: all_reduce(self);
    }
}

/* --- running --- */

static void *live(void *context)
{
    member *self = context;
    tr_device *device = NULL;
    tr_error err = {0};
    bool settled = false;
    check(tr_device_open(&device, TR_DEVICE_CUDA, self->number, &err), &err);
    check(tr_stream_new(&self->stream, device, &err), &err);
    size_t size = (size_t)n_elements * sizeof(float);
    check(tr_device_allocate(device, TR_MEMORY_DEVICE, size, (void **)&self->gradient, &err), &err);
    check(tr_device_allocate(device, TR_MEMORY_DEVICE, size, (void **)&self->arrivals, &err), &err);
    check(tr_stream_fill(self->stream, self->gradient, 0, size, &err), &err);
    tr_group_options own = options;
    own.member = (uint32_t)self->number;
    own.stream = self->stream;
    check(tr_nccl.join(&self->group, &own, &err), &err);
    while (!settled) check(tr_nccl.settle(self->group, &settled, &err), &err);
    check(tr_device_use(device, &err), &err);
    check_nccl(nccl.init_rank(&self->comm, MEMBERS, bare_id, self->number));
    for (int row = 0; row < N_ROWS; row++)
        for (int round = -2; round < ROUNDS; round++) {
            check(tr_stream_synchronize(self->stream, &err), &err);
            pthread_barrier_wait(&barrier);
            uint64_t begin = tr_clock_ns();
            for (int i = 0; i < REPEAT; i++) run_row(self, row);
            check(tr_stream_synchronize(self->stream, &err), &err);
            if (round >= 0) self->ms[row][round] = (double)(tr_clock_ns() - begin) / 1e6 / REPEAT;
        }
    check(tr_nccl.leave(&self->group, &err), &err);
    return NULL;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void load(void)
{
    const char *named = getenv("TROUPE_NCCL");
    const char *const files[] = {named ? named : "libnccl.so.2", NULL};
    const tr_library_symbol symbols[] = {{"ncclGetUniqueId", (void **)&nccl.get_unique_id},
                                         {"ncclCommInitRank", (void **)&nccl.init_rank},
                                         {"ncclSend", (void **)&nccl.send},
                                         {"ncclRecv", (void **)&nccl.receive},
                                         {"ncclAllReduce", (void **)&nccl.all_reduce},
                                         {"ncclGroupStart", (void **)&nccl.group_start},
                                         {"ncclGroupEnd", (void **)&nccl.group_end}};
    tr_error err = {0};
    check(tr_nccl.name_group(options.name, &err), &err);
    check(tr_library_load("NCCL", files, symbols, sizeof symbols / sizeof *symbols, &err), &err);
    check_nccl(nccl.get_unique_id(&bare_id));
}

int main(int argc, char **argv)
{
    static member members[MEMBERS];
    static const char *const names[N_ROWS] = {"both ways, half a gradient", "  the same, NCCL alone",
                                              "both ways, 32 MiB", "exact reduction", "  NCCL's all-reduce"};
    pthread_t threads[MEMBERS];
    if (argc == 3 && strcmp(argv[1], "--elements") == 0) n_elements = atoll(argv[2]);
    if ((argc != 1 && argc != 3) || n_elements < 1 << 24) {
        fprintf(stderr, "usage: gpu_exchange [--elements N], N at least %d\n", 1 << 24);
        return 2;
    }
    n_elements = n_elements / 32 * 32;
    load();
    pthread_barrier_init(&barrier, NULL, MEMBERS);
    for (int32_t m = 0; m < MEMBERS; m++) {
        members[m].number = m;
        if (pthread_create(&threads[m], NULL, live, &members[m])) return 1;
    }
    for (int m = 0; m < MEMBERS; m++) pthread_join(threads[m], NULL);
    double bytes = (double)n_elements * 4;
    const double moved[N_ROWS] = {bytes / 2, bytes / 2, 32 << 20, bytes, bytes};
    printf("%-28s %9s %9s %9s\n", "two GPUs", "ms", "best ms", "GB/s");
    for (int row = 0; row < N_ROWS; row++) {
        qsort(members[0].ms[row], ROUNDS, sizeof(double), by_size);
        double ms = members[0].ms[row][ROUNDS / 2];
        printf("%-28s %9.3f %9.3f %9.1f\n", names[row], ms, members[0].ms[row][0], moved[row] / ms / 1e6);
    }
    return 0;
}
