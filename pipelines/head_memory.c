/* pipelines/head_memory.c - see head_memory.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/head_memory.h"

#include "base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const uint64_t MAGIC = 0x3244414548525430; /* "0TRHEAD2" */

typedef struct content {
    uint64_t magic, size_bytes;
    tr_coordinator_journal journal;
    tr_device_record devices;
} content;

struct tr_head_memory {
    int descriptor;
    content *content;
};

static tr_status map(tr_head_memory **out, int descriptor, tr_error *err)
{
    tr_head_memory *self = tr_alloc_zero(1, sizeof *self);
    if (!self) return tr_fail(err, TR_ENOMEM, "no memory for what a head leaves");
    void *mapped = mmap(NULL, sizeof(content), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    if (mapped == MAP_FAILED) {
        tr_free(self);
        return tr_fail(err, TR_EIO, "cannot map what a head leaves: %s", strerror(errno));
    }
    *self = (tr_head_memory){.descriptor = descriptor, .content = mapped};
    *out = self;
    return TR_OK;
}

tr_status tr_head_memory_new(tr_head_memory **out, tr_error *err)
{
    int descriptor = memfd_create("troupe head", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (descriptor < 0 || ftruncate(descriptor, sizeof(content)) != 0 ||
        fcntl(descriptor, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        tr_status status = tr_fail(err, TR_EIO, "cannot make the memory of a head: %s", strerror(errno));
        if (descriptor >= 0) close(descriptor);
        return status;
    }
    tr_status status = map(out, descriptor, err);
    if (status) {
        close(descriptor);
        return status;
    }
    (*out)->content->magic = MAGIC;
    (*out)->content->size_bytes = sizeof(content);
    return TR_OK;
}

tr_status tr_head_memory_open(tr_head_memory **out, int descriptor, tr_error *err)
{
    struct stat info;
    tr_head_memory *self = NULL;
    if (fstat(descriptor, &info) != 0 || info.st_size != sizeof(content))
        return tr_fail(err, TR_ECORRUPT, "what the dead head left is not what a head leaves");
    int own = fcntl(descriptor, F_DUPFD_CLOEXEC, 0);
    if (own < 0) return tr_fail(err, TR_EIO, "cannot keep what a head left: %s", strerror(errno));
    tr_status status = map(&self, own, err);
    if (status) {
        close(own);
        return status;
    }
    if (self->content->magic != MAGIC || self->content->size_bytes != sizeof(content)) {
        tr_head_memory_destroy(&self);
        return tr_fail(err, TR_ECORRUPT, "what the dead head left is of another version");
    }
    *out = self;
    return TR_OK;
}

int tr_head_memory_descriptor(const tr_head_memory *self)
{
    return self->descriptor;
}

tr_coordinator_journal *tr_head_memory_journal(tr_head_memory *self)
{
    return &self->content->journal;
}

tr_device_record *tr_head_memory_devices(tr_head_memory *self)
{
    return &self->content->devices;
}

void tr_head_memory_destroy(tr_head_memory **out)
{
    tr_head_memory *self = *out;
    if (!self) return;
    munmap(self->content, sizeof(content));
    close(self->descriptor);
    tr_free(self);
    *out = NULL;
}
