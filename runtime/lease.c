/* runtime/lease.c - see lease.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/lease.h"

#include "base/local_socket.h"
#include "base/memory.h"
#include "base/pack.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { OFFER_FIELDS = 8, WORD_FIELDS = 3, MEMORY_FIELDS = 5, MAX_OFFER_BYTES = 1 << 30 };

/* --- the offer --- */

static tr_status encode(const tr_lease_offer *self, void **bytes, size_t *size_bytes, tr_error *err)
{
    void *topology = NULL;
    size_t topology_bytes = 0;
    tr_status status = tr_topology_encode(&self->topology, &topology, &topology_bytes, err);
    if (status != TR_OK) return status;
    tr_packer packer;
    tr_packer_init(&packer);
    tr_pack_array(&packer, OFFER_FIELDS);
    tr_pack_int(&packer, self->agent_pid);
    tr_pack_uint(&packer, self->epoch);
    tr_pack_uint(&packer, self->lost_ns);
    tr_pack_text(&packer, self->data_transport);
    tr_pack_text(&packer, self->bind);
    tr_pack_text(&packer, self->public_key);
    tr_pack_bytes(&packer, topology, topology_bytes);
    tr_pack_array(&packer, 3 * (size_t)self->topology.n_nodes);
    for (int32_t i = 0; i < self->topology.n_nodes; i++) {
        tr_pack_int(&packer, self->workers[i].pid);
        tr_pack_int(&packer, self->workers[i].descriptor);
        tr_pack_uint(&packer, self->workers[i].started);
    }
    tr_free(topology);
    return tr_packer_take(&packer, bytes, size_bytes, err);
}

static tr_status decode(tr_lease_offer *self, const void *bytes, size_t size_bytes, tr_error *err)
{
    tr_unpacker unpacker;
    tr_unpacker_init(&unpacker, bytes, size_bytes);
    if (tr_unpack_array(&unpacker, OFFER_FIELDS) != OFFER_FIELDS) unpacker.bad = true;
    self->agent_pid = (int32_t)tr_unpack_int(&unpacker, 1, INT32_MAX);
    self->epoch = (uint32_t)tr_unpack_uint(&unpacker, UINT32_MAX);
    self->lost_ns = tr_unpack_uint(&unpacker, UINT64_MAX);
    tr_unpack_text(&unpacker, self->data_transport, sizeof self->data_transport);
    tr_unpack_text(&unpacker, self->bind, sizeof self->bind);
    tr_unpack_text(&unpacker, self->public_key, sizeof self->public_key);
    size_t topology_bytes = 0;
    const void *topology = tr_unpack_bytes(&unpacker, &topology_bytes);
    uint32_t n = tr_unpack_array(&unpacker, UINT32_MAX);
    if (unpacker.bad) return tr_unpacker_done(&unpacker, "offer", err);
    tr_status status = tr_topology_decode(&self->topology, topology, topology_bytes, err);
    if (status != TR_OK) return status;
    if (n != 3 * (uint64_t)self->topology.n_nodes)
        return tr_fail(err, TR_ECORRUPT, "an offer of %d nodes tells of %u numbers", self->topology.n_nodes,
                       n);
    self->workers = tr_alloc_zero((size_t)self->topology.n_nodes, sizeof *self->workers);
    if (!self->workers) return tr_fail(err, TR_ENOMEM, "no memory for %u workers", n / 3);
    for (int32_t i = 0; i < self->topology.n_nodes; i++) {
        self->workers[i].pid = (int32_t)tr_unpack_int(&unpacker, 0, INT32_MAX);
        self->workers[i].descriptor = (int32_t)tr_unpack_int(&unpacker, -1, INT32_MAX);
        self->workers[i].started = tr_unpack_uint(&unpacker, UINT64_MAX);
    }
    return tr_unpacker_done(&unpacker, "offer", err);
}

tr_status tr_lease_offer_write(const tr_lease_offer *self, int *descriptor, tr_error *err)
{
    void *bytes = NULL;
    size_t size_bytes = 0;
    tr_status status = encode(self, &bytes, &size_bytes, err);
    if (status != TR_OK) return status;
    int made = memfd_create("troupe offer", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (made < 0 || write(made, bytes, size_bytes) != (ssize_t)size_bytes ||
        fcntl(made, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) != 0)
        status = tr_fail(err, TR_EIO, "cannot write an offer: %s", strerror(errno));
    tr_free(bytes);
    if (status == TR_OK)
        *descriptor = made;
    else if (made >= 0)
        close(made);
    return status;
}

tr_status tr_lease_offer_read(tr_lease_offer *self, int descriptor, tr_error *err)
{
    struct stat info;
    *self = (tr_lease_offer){0};
    if (fstat(descriptor, &info) != 0 || info.st_size <= 0 || info.st_size > MAX_OFFER_BYTES)
        return tr_fail(err, TR_ECORRUPT, "descriptor %d holds no offer", descriptor);
    size_t size_bytes = (size_t)info.st_size;
    char *bytes = tr_alloc(size_bytes);
    if (!bytes) return tr_fail(err, TR_ENOMEM, "no memory for an offer");
    tr_status status = pread(descriptor, bytes, size_bytes, 0) == (ssize_t)size_bytes
                           ? decode(self, bytes, size_bytes, err)
                           : tr_fail(err, TR_EIO, "cannot read an offer: %s", strerror(errno));
    tr_free(bytes);
    return status;
}

void tr_lease_offer_release(tr_lease_offer *self)
{
    tr_topology_release(&self->topology);
    tr_free(self->workers);
    *self = (tr_lease_offer){0};
}

/* --- agent and head --- */

bool tr_lease_send(int connection, tr_lease_kind kind, const int *descriptors, int count)
{
    const char byte = (char)kind;
    return tr_local_send(connection, &byte, 1, descriptors, count);
}

bool tr_lease_receive(int connection, tr_lease_kind *kind, int descriptors[2])
{
    char byte = 0;
    int count;
    *kind = (tr_lease_kind)0;
    descriptors[0] = descriptors[1] = -1;
    ssize_t n = tr_local_receive(connection, &byte, 1, descriptors, 2, &count);
    if (n < 0) return errno == EAGAIN || errno == EINTR;
    bool known = byte == TR_LEASE_OFFER || byte == TR_LEASE_TAKE || byte == TR_LEASE_DISMISS;
    if (n == 1 && known) {
        *kind = (tr_lease_kind)byte;
        return true;
    }
    for (int i = 0; i < count; i++) close(descriptors[i]);
    descriptors[0] = descriptors[1] = -1;
    return false;
}

/* --- agent and worker --- */

bool tr_lease_tell(int socket, const tr_lease_word *word)
{
    tr_packer packer;
    void *bytes = NULL;
    size_t size_bytes = 0;
    tr_packer_init(&packer);
    if (word->layout) {
        tr_pack_array(&packer, MEMORY_FIELDS);
        tr_pack_uint(&packer, word->layout);
        tr_pack_uint(&packer, word->keeps);
        tr_pack_uint(&packer, word->may_spin);
        tr_pack_uint(&packer, word->n_states);
        tr_pack_uint(&packer, word->at);
    } else {
        tr_pack_array(&packer, WORD_FIELDS);
        tr_pack_uint(&packer, word->epoch);
        tr_pack_bytes(&packer, word->job_key, sizeof word->job_key);
        tr_pack_text(&packer, word->head_address);
    }
    if (tr_packer_take(&packer, &bytes, &size_bytes, NULL) != TR_OK) return false;
    bool told = tr_local_send(socket, bytes, size_bytes, word->descriptors, word->n_descriptors);
    explicit_bzero(bytes, size_bytes);
    tr_free(bytes);
    return told;
}

bool tr_lease_hear(int socket, tr_lease_word *word, bool *gone)
{
    unsigned char bytes[TR_ADDRESS_CHARS + 64];
    int count;
    *gone = false;
    *word = (tr_lease_word){0};
    ssize_t n = tr_local_receive(socket, bytes, sizeof bytes, word->descriptors, TR_LEASE_MEMORY_MAX, &count);
    word->n_descriptors = count;
    if (n <= 0) {
        *gone = n == 0 || (errno != EAGAIN && errno != EINTR && errno != EBADMSG);
        return false;
    }
    tr_unpacker unpacker;
    tr_unpacker_init(&unpacker, bytes, (size_t)n);
    uint32_t n_fields = tr_unpack_array(&unpacker, MEMORY_FIELDS);
    if (n_fields == MEMORY_FIELDS) {
        word->layout = (uint32_t)tr_unpack_uint(&unpacker, UINT32_MAX);
        word->keeps = tr_unpack_uint(&unpacker, 1) != 0;
        word->may_spin = tr_unpack_uint(&unpacker, 1) != 0;
        word->n_states = (uint32_t)tr_unpack_uint(&unpacker, TR_LEASE_MOST_STATES);
        word->at = (uint32_t)tr_unpack_uint(&unpacker, word->n_states);
        return tr_unpacker_done(&unpacker, "word", NULL) == TR_OK && word->layout;
    }
    if (n_fields != WORD_FIELDS) unpacker.bad = true;
    word->epoch = (uint32_t)tr_unpack_uint(&unpacker, UINT32_MAX);
    size_t key_bytes;
    const void *key = tr_unpack_bytes(&unpacker, &key_bytes);
    if (key_bytes == sizeof word->job_key)
        memcpy(word->job_key, key, key_bytes);
    else
        unpacker.bad = true;
    tr_unpack_text(&unpacker, word->head_address, sizeof word->head_address);
    explicit_bzero(bytes, sizeof bytes);
    return tr_unpacker_done(&unpacker, "word", NULL) == TR_OK;
}
