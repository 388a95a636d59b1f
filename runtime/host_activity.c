/* runtime/host_activity.c - see host_activity.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/host_activity.h"

#include "base/log.h"
#include "base/memory.h"
#include "base/pack.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { FIELDS = 6 };

static size_t bytes_in_use(const tr_activity_page *page)
{
    size_t n = TR_ACTIVITY_RECORDS;
    while (n > 0 && !page->records[n - 1].actor) n--;
    return offsetof(tr_activity_page, records) + n * sizeof *page->records;
}

tr_status tr_worker_seen_encode(const tr_worker_seen *self, void **bytes, size_t *size_bytes, tr_error *err)
{
    tr_packer packer;
    tr_packer_init(&packer);
    tr_pack_array(&packer, FIELDS);
    tr_pack_int(&packer, self->node);
    tr_pack_int(&packer, self->pid);
    tr_pack_uint(&packer, self->process);
    tr_pack_uint(&packer, self->resident_bytes);
    tr_pack_uint(&packer, self->now_ns);
    tr_pack_bytes(&packer, &self->page, bytes_in_use(&self->page));
    return tr_packer_take(&packer, bytes, size_bytes, err);
}

tr_status tr_worker_seen_decode(tr_worker_seen *self, const void *bytes, size_t size_bytes, tr_error *err)
{
    tr_unpacker unpacker;
    size_t page_bytes = 0, head_bytes = offsetof(tr_activity_page, records);
    *self = (tr_worker_seen){0};
    tr_unpacker_init(&unpacker, bytes, size_bytes);
    if (tr_unpack_array(&unpacker, FIELDS) != FIELDS) unpacker.bad = true;
    self->node = (int32_t)tr_unpack_int(&unpacker, 1, INT32_MAX);
    self->pid = (int32_t)tr_unpack_int(&unpacker, 1, INT32_MAX);
    self->process = (tr_process_seen)tr_unpack_uint(&unpacker, TR_PROCESS_GONE);
    self->resident_bytes = tr_unpack_uint(&unpacker, UINT64_MAX);
    self->now_ns = tr_unpack_uint(&unpacker, UINT64_MAX);
    const void *page = tr_unpack_bytes(&unpacker, &page_bytes);
    if (page_bytes < head_bytes || page_bytes > sizeof self->page ||
        (page_bytes - head_bytes) % sizeof *self->page.records)
        unpacker.bad = true;
    if (page && !unpacker.bad) memcpy(&self->page, page, page_bytes);
    return tr_unpacker_done(&unpacker, "report on a worker", err);
}

/* ---- the head's pages ---- */

typedef struct kept {
    tr_activity_page *page; /* NULL: nobody needed one yet */
    int descriptor;
} kept;

struct tr_host_pages {
    int32_t n_nodes;
    kept *kept; /* by node */
};

tr_status tr_host_pages_new(tr_host_pages **out, int32_t n_nodes, tr_error *err)
{
    tr_host_pages *self = tr_alloc_zero(1, sizeof *self);
    if (self) self->kept = tr_alloc_zero((size_t)n_nodes, sizeof *self->kept);
    if (!self || !self->kept) {
        tr_free(self);
        return tr_fail(err, TR_ENOMEM, "no memory to look at %d workers", n_nodes);
    }
    self->n_nodes = n_nodes;
    *out = self;
    return TR_OK;
}

void tr_host_pages_destroy(tr_host_pages **out)
{
    tr_host_pages *self = *out;
    if (!self) return;
    for (int32_t i = 0; i < self->n_nodes; i++) {
        if (!self->kept[i].page) continue;
        tr_activity_page_unmap(&self->kept[i].page);
        close(self->kept[i].descriptor);
    }
    tr_free(self->kept);
    tr_free(self);
    *out = NULL;
}

tr_place_seen tr_host_pages_begin(tr_host_pages *self, int32_t node, int32_t pid, int32_t host,
                                  const char *host_name)
{
    tr_error err;
    kept *one = &self->kept[node];
    if (!one->page && tr_activity_page_new(&one->page, &one->descriptor, &err) != TR_OK) {
        tr_log(TR_LOG_WARNING, "worker %d is not to be seen from here: %s", node, err.message);
        return (tr_place_seen){.descriptor = -1};
    }
    tr_activity_clear(one->page);
    one->page->pid = pid;
    one->page->host = host;
    snprintf(one->page->host_name, sizeof one->page->host_name, "%s", host_name);
    return tr_place_of(getpid(), one->descriptor);
}

/* 0 stays: it says that there is no time. */
static uint64_t shift(uint64_t ns, uint64_t from_ns, uint64_t to_ns)
{
    uint64_t age_ns = from_ns > ns ? from_ns - ns : 0;
    if (!ns) return 0;
    return age_ns < to_ns ? to_ns - age_ns : 1;
}

/* Who reads it meanwhile sees a mixture, as of any page. */
void tr_host_pages_take(tr_host_pages *self, const tr_worker_seen *seen, uint64_t now_ns)
{
    tr_activity_page *page = seen->node < self->n_nodes ? self->kept[seen->node].page : NULL;
    if (!page || page->pid != seen->pid) return;
    page->process = seen->process;
    page->resident_bytes = seen->resident_bytes;
    page->n_records = seen->page.n_records;
    page->beats = seen->page.beats;
    page->beat_ns = shift(seen->page.beat_ns, seen->now_ns, now_ns);
    for (int i = 0; i < TR_ACTIVITY_RECORDS; i++) {
        tr_activity_record record = seen->page.records[i];
        record.since_ns = shift(record.since_ns, seen->now_ns, now_ns);
        record.waits_since_ns = shift(record.waits_since_ns, seen->now_ns, now_ns);
        page->records[i] = record;
    }
}
