/* test/actors/device_link_test.c - bodies that stay on devices: pools, what others see of them, and whose death does what. Ends that
 * are processes are processes here; with TROUPE_TEST_DEVICE=cuda they are on a GPU each, or both on the one there is.
 * SPDX-License-Identifier: Apache-2.0 */
#include "actors/device_link.h"
#include "base/device_internal.h"
#include "base/memory.h"

#include "check.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { N_SLOTS = 3, BODY_BYTES = 5000, SECONDS = 60, MOST_OFFER = 512 };

static tr_device_kind kind_of_device(void)
{
    const char *name = getenv("TROUPE_TEST_DEVICE");
    tr_device_kind kind = TR_DEVICE_CPU;
    TR_ASSERT(!name || tr_device_kind_parse(&kind, name, NULL) == TR_OK);
    return kind;
}

typedef struct offer {
    uint64_t size;
    uint8_t bytes[MOST_OFFER];
} offer;

static offer offer_of(tr_link_pool *pool)
{
    tr_error err = {0};
    offer out = {0};
    tr_packer packer;
    void *bytes = NULL;
    size_t size = 0;
    tr_packer_init(&packer);
    tr_link_pool_offer(pool, &packer);
    CHECK_OK(tr_packer_take(&packer, &bytes, &size, &err));
    if (bytes && size <= MOST_OFFER) {
        memcpy(out.bytes, bytes, size);
        out.size = size;
    }
    tr_free(bytes);
    return out;
}

static tr_status view_open(tr_link_view *view, tr_stream *stream, const offer *said, tr_error *err)
{
    tr_unpacker body;
    tr_unpacker_init(&body, said->bytes, said->size);
    return tr_link_view_open(view, stream, &body, N_SLOTS, BODY_BYTES, err);
}

/* --- in one process, on the CPU --- */

typedef struct ends {
    tr_device *device;
    tr_stream *stream;
    tr_link_pool pool;
    tr_link_view view;
    bool are_open;
} ends;

static ends open_ends(void)
{
    tr_error err = {0};
    ends self = {0};
    CHECK_OK(tr_device_open(&self.device, TR_DEVICE_CPU, 0, &err));
    if (self.device) CHECK_OK(tr_stream_new(&self.stream, self.device, &err));
    if (!self.stream) return self;
    CHECK_OK(tr_link_pool_open(&self.pool, self.stream, 1, N_SLOTS, BODY_BYTES, &err));
    if (!self.pool.memory) return self;
    offer said = offer_of(&self.pool);
    tr_status status = view_open(&self.view, self.stream, &said, &err);
    CU_ASSERT_EQUAL(status, TR_OK);
    self.are_open = status == TR_OK;
    return self;
}

static void close_ends(ends *self)
{
    tr_link_view_close(&self->view);
    tr_link_pool_close(&self->pool);
    tr_stream_destroy(&self->stream);
    tr_device_close(&self->device);
}

static void what_is_put_into_a_slot_is_seen_there(void)
{
    tr_error err = {0};
    int64_t before = tr_memory_blocks();
    ends both = open_ends();
    for (uint32_t use = 0; both.are_open && use < 3 * N_SLOTS; use++) {
        uint32_t slot = use * 2 % N_SLOTS; /* credits come back in any order */
        tr_link_descriptor descriptor;
        const void *seen = NULL;
        uint8_t *place = tr_link_pool_place(&both.pool, slot, BODY_BYTES, &descriptor);
        memset(place, (int)(use + 1), BODY_BYTES);
        CHECK_OK(
            tr_link_view_find(&both.view, &descriptor, sizeof descriptor, slot, BODY_BYTES, &seen, &err));
        const uint8_t *bytes = seen;
        CU_ASSERT(bytes && bytes != place && bytes[0] == use + 1 && bytes[BODY_BYTES - 1] == use + 1);
    }
    close_ends(&both);
    CU_ASSERT_EQUAL(tr_memory_blocks(), before);
}

/* Bits of a descriptor that flip on their way would have the device read what it should not. */
static void a_descriptor_that_is_not_the_next_one_is_refused(void)
{
    tr_error err = {0};
    ends both = open_ends();
    tr_link_descriptor good;
    const void *seen = NULL;
    if (!both.are_open) {
        close_ends(&both);
        return;
    }
    (void)tr_link_pool_place(&both.pool, 1, BODY_BYTES, &good);
    for (size_t bit = 0; bit < 8 * offsetof(tr_link_descriptor, zero_); bit++) {
        tr_link_descriptor bad = good;
        ((uint8_t *)&bad)[bit / 8] ^= (uint8_t)(1u << bit % 8);
        CU_ASSERT_EQUAL(tr_link_view_find(&both.view, &bad, sizeof bad, 1, BODY_BYTES, &seen, &err),
                        TR_ECORRUPT);
    }
    CU_ASSERT_EQUAL(tr_link_view_find(&both.view, &good, sizeof good - 1, 1, BODY_BYTES, &seen, &err),
                    TR_ECORRUPT);
    CU_ASSERT_EQUAL(tr_link_view_find(&both.view, &good, sizeof good, 2, BODY_BYTES, &seen, &err),
                    TR_ECORRUPT);
    CU_ASSERT_EQUAL(tr_link_view_find(&both.view, &good, sizeof good, 1, BODY_BYTES - 4, &seen, &err),
                    TR_ECORRUPT);
    CU_ASSERT_PTR_NULL(seen);
    CHECK_OK(tr_link_view_find(&both.view, &good, sizeof good, 1, BODY_BYTES, &seen, &err));
    CU_ASSERT_EQUAL(tr_link_view_find(&both.view, &good, sizeof good, 1, BODY_BYTES, &seen, &err),
                    TR_ECORRUPT); /* the same again */
    CU_ASSERT_PTR_NOT_NULL(strstr(err.message, "use 1 of slot 1"));
    close_ends(&both);
}

static void expect_refusal(ends *both, const offer *said, tr_status status, const char *words)
{
    tr_link_view other;
    tr_error err = {0};
    CU_ASSERT_EQUAL(view_open(&other, both->stream, said, &err), status);
    CU_ASSERT_PTR_NULL(other.memory);
    if (!strstr(err.message, words)) fprintf(stderr, "'%s' has no '%s'\n", err.message, words);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.message, words));
}

static void an_offer_that_cannot_be_taken_is_refused_with_a_reason(void)
{
    ends both = open_ends();
    tr__share share;
    if (!both.are_open || CHECK_SIZE(false, true)) {
        close_ends(&both);
        return;
    }
    memcpy(&share, both.pool.handle, sizeof share);
    tr_link_pool changed = both.pool;
    offer said;
#define OFFER_WITH(change, status, words)                                                                    \
    do {                                                                                                     \
        tr__share whole = share;                                                                             \
        change;                                                                                              \
        memcpy(changed.handle, &share, sizeof share);                                                        \
        said = offer_of(&changed);                                                                           \
        expect_refusal(&both, &said, status, words);                                                         \
        share = whole;                                                                                       \
        changed = both.pool;                                                                                 \
    } while (0)
    OFFER_WITH(share.host ^= 1, TR_EUNSUPPORTED, "on another host");
    OFFER_WITH(share.kind = TR_DEVICE_CUDA, TR_EUNSUPPORTED, "cannot read the memory of a device 'cuda'");
    OFFER_WITH(share.kind = 77, TR_ECORRUPT, "does not read as it should");
    OFFER_WITH(share.size_bytes++, TR_ECORRUPT, "does not read as it should");
    OFFER_WITH(share.file ^= 1, TR_EUNSUPPORTED, "is not the memory that was offered");
    OFFER_WITH(share.descriptor = 100000, TR_EUNSUPPORTED, "cannot open '/proc/");
    OFFER_WITH(share.pid = 0x7fffffff, TR_EUNSUPPORTED, "cannot open '/proc/2147483647/");
    OFFER_WITH(changed.n_slots++, TR_ECORRUPT, "does not read as it should");
    OFFER_WITH(changed.stride_bytes += 256, TR_ECORRUPT, "does not read as it should");
    OFFER_WITH(changed.id++, TR_ECORRUPT, "what one device wrote does not arrive on the other");
#undef OFFER_WITH
    said = offer_of(&both.pool);
    for (uint64_t whole = said.size; said.size-- > 0 && whole;)
        expect_refusal(&both, &said, TR_ECORRUPT, "does not read as it should");
    close_ends(&both);
}

/* --- a device that cannot free what others have open --- */

static int n_made, n_freed;

static tr_status played_share_new(tr_device *self, tr__share *share, void **out, tr_error *err)
{
    n_made++;
    return tr__device_cpu.share_new(self, share, out, err);
}

static void played_share_free(tr_device *self, void *memory, const tr__share *share)
{
    n_freed++;
    tr__device_cpu.share_free(self, memory, share);
}

/* Each stage of an epoch has two pools of other sizes; the first has been offered, and the second was refused. */
static void memory_that_was_offered_outlives_its_epoch(void)
{
    tr_error err = {0};
    tr_device_table table = tr__device_cpu;
    tr_stream *stream = NULL;
    tr_device device = {.table = &table, .kind = TR_DEVICE_CPU, .references = 1000};
    if (CHECK_SIZE(false, true)) return;
    table.share_new = played_share_new;
    table.share_free = played_share_free;
    table.share_is_counted = false;
    CHECK_OK(tr_stream_new(&stream, &device, &err));
    tr_link_pool first, second;
    CHECK_OK(tr_link_pool_open(&first, stream, 7, N_SLOTS, BODY_BYTES, &err));
    CHECK_OK(tr_link_pool_open(&second, stream, 7, N_SLOTS, 2 * BODY_BYTES, &err));
    (void)offer_of(&first);
    const void *memory = first.memory->data;
    uint64_t id = first.id;
    tr_link_pool_close(&first);
    tr_link_pool_close(&second);
    CU_ASSERT_EQUAL(n_made, 2);
    CU_ASSERT_EQUAL(n_freed, 1);
    tr_link_pools_forget(7); /* of the same epoch: somebody may still read it */
    CU_ASSERT_EQUAL(n_freed, 1);
    CHECK_OK(tr_link_pool_open(&first, stream, 7, N_SLOTS, BODY_BYTES, &err)); /* likewise */
    CU_ASSERT(first.memory->data != memory);
    tr_link_pool_close(&first);
    CHECK_OK(tr_link_pool_open(&first, stream, 8, N_SLOTS, BODY_BYTES, &err));
    CU_ASSERT_PTR_EQUAL(first.memory->data, memory);
    CU_ASSERT(first.id != id); /* what names the old one is not taken for this one's */
    CU_ASSERT_EQUAL(n_made, 3);
    offer said = offer_of(&first);
    tr_link_view view;
    CHECK_OK(view_open(&view, stream, &said, &err)); /* the words are those of the new name */
    tr_link_view_close(&view);
    tr_link_pool_close(&first);
    CU_ASSERT_EQUAL(n_freed, 2);
    tr_link_pools_forget(9);
    CU_ASSERT_EQUAL(n_freed, 3);
    tr_stream_destroy(&stream);
}

/* --- between processes --- */

enum { USES = 40, DIES_AT = 20 };
typedef enum death { NOBODY_DIES, READER_DIES, WRITER_DIES } death;

typedef struct note {
    tr_link_descriptor descriptor;
    uint32_t slot;
} note;

static void must(bool good, const char *what, const tr_error *err)
{
    if (good) return;
    fprintf(stderr, "%s: %s\n", what, err ? err->message : "");
    _exit(1);
}

#define MUST(call) must((call) == TR_OK, #call, &err)

static uint8_t byte_of(uint32_t use, uint32_t at)
{
    return (uint8_t)(use * 31 + at * 7 + at / 251);
}

static tr_stream *open_stream(int which)
{
    tr_error err = {0};
    tr_device *device;
    tr_stream *stream;
    int32_t n = 0;
    alarm(SECONDS);
    MUST(tr_device_count(kind_of_device(), &n, &err));
    MUST(tr_device_open(&device, kind_of_device(), which % n, &err));
    MUST(tr_stream_new(&stream, device, &err));
    return stream;
}

/* Writes each slot as soon as its credit is back; `end` is a socket to the reader. */
static void be_the_writer(int end, death who)
{
    tr_error err = {0};
    tr_stream *stream = open_stream(0);
    tr_link_pool pool;
    uint8_t body[BODY_BYTES];
    uint32_t free_slots[N_SLOTS] = {0, 1, 2}, n_free = N_SLOTS, slot;
    MUST(tr_link_pool_open(&pool, stream, 1, N_SLOTS, BODY_BYTES, &err));
    offer said = offer_of(&pool);
    must(send(end, &said, sizeof said, 0) == (ssize_t)sizeof said, "the offer", NULL);
    must(recv(end, &slot, sizeof slot, MSG_WAITALL) == (ssize_t)sizeof slot, "the answer", NULL);
    for (uint32_t use = 0; use < USES; use++) {
        if (n_free == 0 || who == READER_DIES) {
            ssize_t n = recv(end, &slot, sizeof slot, n_free ? MSG_DONTWAIT : 0);
            if (n == (ssize_t)sizeof slot) free_slots[n_free++] = slot;
            if (n == 0 || (n < 0 && n_free == 0)) break; /* it is dead, as it should be */
        }
        note next = {.slot = free_slots[--n_free]};
        void *place = tr_link_pool_place(&pool, next.slot, BODY_BYTES, &next.descriptor);
        for (uint32_t i = 0; i < BODY_BYTES; i++) body[i] = byte_of(use, i);
        MUST(tr_stream_copy(stream, place, body, BODY_BYTES, &err));
        MUST(tr_stream_synchronize(stream, &err));
        if (send(end, &next, sizeof next, MSG_NOSIGNAL) < 0) break;
        if (who == WRITER_DIES && use == DIES_AT) kill(getpid(), SIGKILL);
    }
    shutdown(end, SHUT_WR);
    while (recv(end, &slot, sizeof slot, 0) > 0) {
    }
    MUST(tr_stream_fill(stream, pool.memory->data, 1, pool.memory->size_bytes,
                        &err)); /* it still is its own */
    MUST(tr_stream_synchronize(stream, &err));
    tr_link_pool_close(&pool);
    _exit(0);
}

static void be_the_reader(int end, death who)
{
    tr_error err = {0};
    tr_stream *stream = open_stream(1);
    tr_link_view view;
    offer said;
    note next;
    void *here;
    uint8_t body[BODY_BYTES];
    uint32_t use = 0;
    must(recv(end, &said, sizeof said, MSG_WAITALL) == (ssize_t)sizeof said, "the offer", NULL);
    MUST(view_open(&view, stream, &said, &err));
    must(send(end, &view.n_slots, sizeof view.n_slots, 0) > 0, "the answer", NULL);
    MUST(tr_device_allocate(tr_stream_device(stream), TR_MEMORY_DEVICE, BODY_BYTES, &here, &err));
    for (; recv(end, &next, sizeof next, MSG_WAITALL) == (ssize_t)sizeof next; use++) {
        const void *from = NULL;
        MUST(tr_link_view_find(&view, &next.descriptor, sizeof next.descriptor, next.slot, BODY_BYTES, &from,
                               &err));
        if (who == READER_DIES && use == DIES_AT) {
            MUST(tr_stream_copy(stream, here, from, BODY_BYTES, &err)); /* it may be under way */
            kill(getpid(), SIGKILL);
        }
        if (who == WRITER_DIES && use == DIES_AT) usleep(300000); /* it is gone, with its device's context */
        MUST(tr_stream_copy(stream, here, from, BODY_BYTES, &err));
        MUST(tr_stream_copy(stream, body, here, BODY_BYTES, &err));
        MUST(tr_stream_synchronize(stream, &err));
        for (uint32_t i = 0; i < BODY_BYTES; i++)
            must(body[i] == byte_of(use, i), "another byte than was written", NULL);
        if (who != WRITER_DIES || use < DIES_AT) (void)send(end, &next.slot, sizeof next.slot, MSG_NOSIGNAL);
    }
    must(use == (who == WRITER_DIES ? DIES_AT + 1 : USES), "another number of messages", NULL);
    tr_link_view_close(&view);
    tr_device_free(tr_stream_device(stream), TR_MEMORY_DEVICE, here);
    _exit(0);
}

/* This process uses no device itself: CUDA does not live through fork. */
static void run_both(death who)
{
    int sockets[2], status[2] = {-1, -1};
    pid_t child[2];
    if (CHECK_SIZE(false, true)) return;
    CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets), 0);
    for (int i = 0; i < 2; i++) {
        child[i] = fork();
        CU_ASSERT_FATAL(child[i] >= 0);
        if (child[i] > 0) continue;
        close(sockets[!i]);
        if (i == 0) be_the_writer(sockets[0], who);
        be_the_reader(sockets[1], who);
    }
    close(sockets[0]);
    close(sockets[1]);
    for (int i = 0; i < 2; i++) CU_ASSERT_EQUAL(waitpid(child[i], &status[i], 0), child[i]);
    for (int i = 0; i < 2; i++) {
        bool dies = who == (i == 0 ? WRITER_DIES : READER_DIES);
        bool killed = WIFSIGNALED(status[i]) && WTERMSIG(status[i]) == SIGKILL;
        CU_ASSERT(dies ? killed : WIFEXITED(status[i]) && WEXITSTATUS(status[i]) == 0);
    }
}

static void another_process_reads_what_was_written(void)
{
    run_both(NOBODY_DIES);
}

static void the_readers_death_leaves_the_writer_its_memory(void)
{
    run_both(READER_DIES);
}

static void the_writers_death_leaves_the_reader_what_was_written(void)
{
    run_both(WRITER_DIES);
}

static const check_test tests[] = {
    CHECK_TEST(another_process_reads_what_was_written),
    CHECK_TEST(the_readers_death_leaves_the_writer_its_memory),
    CHECK_TEST(the_writers_death_leaves_the_reader_what_was_written),
    CHECK_TEST(what_is_put_into_a_slot_is_seen_there),
    CHECK_TEST(a_descriptor_that_is_not_the_next_one_is_refused),
    CHECK_TEST(an_offer_that_cannot_be_taken_is_refused_with_a_reason),
    CHECK_TEST(memory_that_was_offered_outlives_its_epoch),
};

CHECK_MAIN("device_link", tests)
