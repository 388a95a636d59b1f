/* runtime/activity.c - see activity.h. All accesses are relaxed: the page orders nothing, a reader wants the
 * newest it can get. `what` is copied as three words, so that a reader sees no torn characters within a word.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/activity.h"

#include "base/clock.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { WORDS = TR_ACTIVITY_BYTES / 8 };
typedef uint64_t __attribute__((may_alias)) word;

static_assert(sizeof(tr_activity_record) == 128, "two cache lines");
static_assert(sizeof(tr_activity_page) == 8192, "whole pages");

static const char memfd_name[] = "troupe activity";

static tr_status map(tr_activity_page **out, int descriptor, tr_error *err)
{
    void *memory = mmap(NULL, sizeof **out, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    if (memory == MAP_FAILED) return tr_fail(err, TR_EIO, "cannot map an activity page: %s", strerror(errno));
    *out = memory;
    return TR_OK;
}

tr_status tr_activity_page_new(tr_activity_page **out, int *descriptor, tr_error *err)
{
    int made = memfd_create(memfd_name, MFD_CLOEXEC);
    if (made < 0)
        return tr_fail(err, TR_EIO, "cannot make a memfd for an activity page: %s", strerror(errno));
    tr_status status = TR_OK;
    if (ftruncate(made, sizeof **out) != 0)
        status = tr_fail(err, TR_EIO, "cannot size an activity page: %s", strerror(errno));
    if (status == TR_OK) status = map(out, made, err);
    if (status != TR_OK) {
        close(made);
        return status;
    }
    *descriptor = made;
    return TR_OK;
}

tr_status tr_activity_page_open(tr_activity_page **out, int descriptor, tr_error *err)
{
    struct stat info;
    if (fstat(descriptor, &info) != 0)
        return tr_fail(err, TR_EIO, "cannot look at an activity page: %s", strerror(errno));
    if ((size_t)info.st_size != sizeof **out)
        return tr_fail(err, TR_ECORRUPT, "an activity page of %lld bytes", (long long)info.st_size);
    return map(out, descriptor, err);
}

void tr_activity_clear(tr_activity_page *self)
{
    memset(self, 0, sizeof *self);
}

void tr_activity_page_unmap(tr_activity_page **self)
{
    if (*self) munmap(*self, sizeof **self);
    *self = NULL;
}

tr_activity_record *tr_activity_record_for(tr_activity_page *self, tr_actor_id actor)
{
    for (int i = 0; i < TR_ACTIVITY_RECORDS; i++) {
        tr_activity_record *record = &self->records[i];
        uint64_t owner = __atomic_load_n(&record->actor, __ATOMIC_RELAXED);
        if (owner == actor) return record;
        /* Two actors may reach for the same free record: the exchange gives
         * it to one, which then counts it. */
        if (owner == 0 && __atomic_compare_exchange_n(&record->actor, &owner, actor, false, __ATOMIC_RELAXED,
                                                      __ATOMIC_RELAXED)) {
            __atomic_fetch_add(&self->n_records, 1, __ATOMIC_RELAXED);
            return record;
        }
        if (owner == actor) return record;
    }
    return NULL;
}

void tr_activity_write(tr_activity_record *self, const char *what, uint32_t step, uint32_t microbatch)
{
    char padded[TR_ACTIVITY_BYTES] = {0};
    word words[WORDS];
    memcpy(padded, what, strnlen(what, sizeof padded - 1));
    memcpy(words, padded, sizeof words);
    for (int i = 0; i < WORDS; i++) __atomic_store_n((word *)self->what + i, words[i], __ATOMIC_RELAXED);
    __atomic_store_n(&self->step, step, __ATOMIC_RELAXED);
    __atomic_store_n(&self->microbatch, microbatch, __ATOMIC_RELAXED);
    __atomic_store_n(&self->since_ns, tr_clock_ns(), __ATOMIC_RELAXED);
    __atomic_store_n(&self->waits[0], 0, __ATOMIC_RELAXED);
}

static uint64_t pack(const tr_wait *wait)
{
    return (uint64_t)wait->kind << 56 | (uint64_t)(wait->topic & 0xffffff) << 32 | wait->which;
}

void tr_activity_wait(tr_activity_record *self, const tr_wait *waits, uint32_t n)
{
    bool changed = false;
    for (uint32_t i = 0; i < TR_ACTIVITY_WAITS && i <= n; i++) {
        uint64_t now = i < n ? pack(&waits[i]) : 0;
        changed |= __atomic_load_n(&self->waits[i], __ATOMIC_RELAXED) != now;
        __atomic_store_n(&self->waits[i], now, __ATOMIC_RELAXED);
    }
    if (changed && n) __atomic_store_n(&self->waits_since_ns, tr_clock_ns(), __ATOMIC_RELAXED);
}

uint32_t tr_activity_waits(const tr_activity_record *self, tr_wait waits[TR_ACTIVITY_WAITS])
{
    for (uint32_t i = 0; i < TR_ACTIVITY_WAITS; i++) {
        uint64_t packed = __atomic_load_n(&self->waits[i], __ATOMIC_RELAXED);
        if (!packed || packed >> 56 > TR_WAIT_WORD) return i;
        waits[i] = (tr_wait){(tr_wait_kind)(packed >> 56), packed >> 32 & 0xffffff, (uint32_t)packed};
    }
    return TR_ACTIVITY_WAITS;
}

void tr_activity_beat(tr_activity_page *self)
{
    __atomic_fetch_add(&self->beats, 1, __ATOMIC_RELAXED);
    __atomic_store_n(&self->beat_ns, tr_clock_ns(), __ATOMIC_RELAXED);
}

/* What a number in a file names may be anything by now: only what is known to be a page is opened, and read, not mapped. */
tr_status tr_activity_page_copy(tr_activity_page *out, int32_t pid, int descriptor, tr_error *err)
{
    char path[64], target[64];
    snprintf(path, sizeof path, "/proc/%d/fd/%d", pid, descriptor);
    ssize_t n = readlink(path, target, sizeof target - 1);
    if (n < 0)
        return tr_fail(err, errno == ENOENT ? TR_ENOTFOUND : TR_EIO, "cannot look at '%s': %s", path,
                       strerror(errno));
    target[n] = 0;
    if (strncmp(target, "/memfd:", 7) != 0 || strncmp(target + 7, memfd_name, sizeof memfd_name - 1) != 0)
        return tr_fail(err, TR_ENOTFOUND, "'%s' is no activity page", path);
    int file = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (file < 0) return tr_fail(err, TR_EIO, "cannot open '%s': %s", path, strerror(errno));
    n = pread(file, out, sizeof *out, 0);
    close(file);
    if (n != (ssize_t)sizeof *out)
        return tr_fail(err, TR_EIO, "'%s' gave %zd bytes of an activity page", path, n);
    return TR_OK;
}

uint64_t tr_activity_pulse(const tr_activity_page *self)
{
    uint64_t sum = __atomic_load_n(&self->beats, __ATOMIC_RELAXED);
    for (int i = 0; i < TR_ACTIVITY_RECORDS; i++)
        sum += __atomic_load_n(&self->records[i].since_ns, __ATOMIC_RELAXED) +
               __atomic_load_n(&self->records[i].handled, __ATOMIC_RELAXED);
    return sum;
}

uint64_t tr_activity_last_ns(const tr_activity_page *self)
{
    uint64_t last = __atomic_load_n(&self->beat_ns, __ATOMIC_RELAXED);
    for (int i = 0; i < TR_ACTIVITY_RECORDS; i++) {
        uint64_t since_ns = __atomic_load_n(&self->records[i].since_ns, __ATOMIC_RELAXED);
        if (since_ns > last) last = since_ns;
    }
    return last;
}

bool tr_activity_has_begun(const tr_activity_page *self)
{
    bool begun = false;
    for (int i = 0; i < TR_ACTIVITY_RECORDS; i++)
        begun = begun || __atomic_load_n(&self->records[i].handled, __ATOMIC_RELAXED) ||
                __atomic_load_n(&self->records[i].running, __ATOMIC_RELAXED);
    return begun;
}

uint64_t tr_activity_stuck_ns(const tr_activity_page *self, tr_activity_watch *watch, uint64_t now_ns)
{
    uint64_t longest_ns = 0;
    for (int i = 0; i < TR_ACTIVITY_RECORDS; i++) {
        const tr_activity_record *record = &self->records[i];
        uint64_t since_ns = __atomic_load_n(&record->since_ns, __ATOMIC_RELAXED);
        bool runs = __atomic_load_n(&record->running, __ATOMIC_RELAXED) && since_ns;
        /* Neither ever goes back, so their sum stays only where both do. */
        uint64_t sign = runs ? since_ns + __atomic_load_n(&record->handled, __ATOMIC_RELAXED) : 0;
        if (sign != watch->seen[i]) {
            watch->seen[i] = sign;
            watch->since_ns[i] = now_ns;
        } else if (runs && now_ns - watch->since_ns[i] > longest_ns) {
            longest_ns = now_ns - watch->since_ns[i];
        }
    }
    return longest_ns;
}

void tr_activity_record_doing(const tr_activity_record *record, char *text, size_t capacity)
{
    word words[WORDS];
    char what[TR_ACTIVITY_BYTES];
    for (int i = 0; i < WORDS; i++)
        words[i] = __atomic_load_n((const word *)record->what + i, __ATOMIC_RELAXED);
    memcpy(what, words, sizeof what);
    what[sizeof what - 1] = '\0';
    uint32_t step = __atomic_load_n(&record->step, __ATOMIC_RELAXED);
    uint32_t microbatch = __atomic_load_n(&record->microbatch, __ATOMIC_RELAXED);
    if (!what[0])
        snprintf(text, capacity, "in its first handler");
    else if (step == TR_ACTIVITY_NONE)
        snprintf(text, capacity, "in %s", what);
    else if (microbatch == TR_ACTIVITY_NONE)
        snprintf(text, capacity, "in %s of step %u", what, step);
    else
        snprintf(text, capacity, "in %s of step %u, micro-batch %u", what, step, microbatch);
}

void tr_activity_doing(const tr_activity_page *self, tr_actor_id actor, char *text, size_t capacity)
{
    text[0] = '\0';
    for (int i = 0; i < TR_ACTIVITY_RECORDS; i++)
        if (__atomic_load_n(&self->records[i].actor, __ATOMIC_RELAXED) == actor)
            tr_activity_record_doing(&self->records[i], text, capacity);
}

/* An actor that did something, as it was when it was looked at. */
typedef struct seen {
    const tr_activity_record *record;
    uint64_t since_ns;
    bool runs;
} seen;

/* Running before idle, then newest first. */
static bool comes_before(const seen *a, const seen *b)
{
    return a->runs != b->runs ? a->runs : a->since_ns > b->since_ns;
}

static int look(const tr_activity_page *self, seen sorted[TR_ACTIVITY_RECORDS])
{
    int n = 0;
    for (int i = 0; i < TR_ACTIVITY_RECORDS; i++) {
        const tr_activity_record *record = &self->records[i];
        if (__atomic_load_n(&record->actor, __ATOMIC_RELAXED) == 0) continue;
        seen one = {.record = record,
                    .since_ns = __atomic_load_n(&record->since_ns, __ATOMIC_RELAXED),
                    .runs = __atomic_load_n(&record->running, __ATOMIC_RELAXED) != 0};
        if (!one.runs && one.since_ns == 0) continue;
        int at = n++;
        for (; at > 0 && comes_before(&one, &sorted[at - 1]); at--) sorted[at] = sorted[at - 1];
        sorted[at] = one;
    }
    return n;
}

void tr_activity_describe(const tr_activity_page *self, const tr_topology *topology, char *text,
                          size_t capacity)
{
    enum { MOST_NAMED = 3 };
    seen sorted[TR_ACTIVITY_RECORDS];
    int n = look(self, sorted);
    size_t used = 0;
    text[0] = '\0';
    for (int i = 0; i < n && i < MOST_NAMED && used < capacity; i++) {
        char doing[TR_ACTIVITY_BYTES + 64];
        const tr_actor_spec *actor =
            tr_topology_actor(topology, __atomic_load_n(&sorted[i].record->actor, __ATOMIC_RELAXED));
        tr_activity_record_doing(sorted[i].record, doing, sizeof doing);
        used +=
            (size_t)snprintf(text + used, capacity - used, "%s%s was %s%s", i ? ", " : "",
                             actor ? actor->name : "an unknown actor", sorted[i].runs ? "" : "last ", doing);
    }
    if (n > MOST_NAMED && used < capacity)
        snprintf(text + used, capacity - used, ", and %d more", n - MOST_NAMED);
}
