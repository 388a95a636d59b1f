/* transport/handshake.c - see handshake.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "transport/handshake.h"

#include "base/pack.h"

#include <string.h>

enum { N_ENTRIES = 5 };

tr_status tr_hello_write(const tr_hello *self, void **bytes, size_t *size_bytes, tr_error *err)
{
    tr_packer out;
    tr_packer_init(&out);
    tr_pack_array(&out, N_ENTRIES);
    tr_pack_bytes(&out, self->job_key, TR_JOB_KEY_BYTES);
    tr_pack_int(&out, self->node);
    tr_pack_uint(&out, self->incarnation);
    tr_pack_uint(&out, self->version);
    tr_pack_text(&out, self->address);
    return tr_packer_take(&out, bytes, size_bytes, err);
}

tr_status tr_hello_read(tr_hello *self, const void *bytes, size_t size_bytes, tr_error *err)
{
    tr_hello hello = {0};
    tr_unpacker in;
    if (size_bytes > TR_HELLO_MAX_BYTES)
        return tr_fail(err, TR_ECORRUPT, "a greeting has '%zu' bytes, at most %d are taken", size_bytes,
                       TR_HELLO_MAX_BYTES);
    tr_unpacker_init(&in, bytes, size_bytes);
    if (tr_unpack_array(&in, N_ENTRIES) != N_ENTRIES) in.bad = true;
    size_t key_bytes;
    const void *key = tr_unpack_bytes(&in, &key_bytes);
    if (key_bytes == TR_JOB_KEY_BYTES)
        memcpy(hello.job_key, key, TR_JOB_KEY_BYTES);
    else
        in.bad = true;
    hello.node = (int32_t)tr_unpack_int(&in, INT32_MIN, INT32_MAX);
    hello.incarnation = (uint32_t)tr_unpack_uint(&in, UINT32_MAX);
    hello.version = (uint32_t)tr_unpack_uint(&in, UINT32_MAX);
    tr_unpack_text(&in, hello.address, sizeof hello.address);
    tr_status status = tr_unpacker_done(&in, "greeting", err);
    if (status == TR_OK) *self = hello;
    return status;
}

tr_status tr_hello_check(const tr_hello *self, const uint8_t job_key[TR_JOB_KEY_BYTES], tr_error *err)
{
    if (self->version != TR_HANDSHAKE_VERSION)
        return tr_fail(err, TR_EREFUSED, "node %d speaks version '%u' of the protocol, this build speaks %d",
                       self->node, self->version, TR_HANDSHAKE_VERSION);
    uint8_t difference = 0; /* of all bytes, so that the time taken tells nothing about the key */
    for (int i = 0; i < TR_JOB_KEY_BYTES; i++) difference |= (uint8_t)(self->job_key[i] ^ job_key[i]);
    if (difference)
        return tr_fail(err, TR_EREFUSED, "node %d belongs to another job: its key is not ours", self->node);
    return TR_OK;
}
