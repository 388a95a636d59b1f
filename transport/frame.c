/* transport/frame.c - see frame.h. The order of the checks matters: nothing of a header is believed, not even
 * its version, before magic and checksum are right.
 * SPDX-License-Identifier: Apache-2.0 */
#include "transport/frame.h"

#include "base/hash.h"

#include <string.h>

_Static_assert(sizeof(tr_frame) == TR_FRAME_BYTES, "a frame is 64 bytes");
_Static_assert(offsetof(tr_frame, header_crc) == 8 && offsetof(tr_frame, source) == 16 &&
                   offsetof(tr_frame, incarnation) == 32 && offsetof(tr_frame, body_bytes) == 52 &&
                   offsetof(tr_frame, body_hash) == 56,
               "the struct is the wire format");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "the wire format is little-endian, and so is the host");

static uint32_t crc_of_header(const tr_frame *frame)
{
    tr_frame copy = *frame;
    copy.header_crc = 0;
    return tr_crc32c(&copy, sizeof copy);
}

void tr_frame_seal(tr_frame *frame)
{
    frame->magic = TR_FRAME_MAGIC;
    frame->version = TR_FRAME_VERSION;
    frame->header_crc = crc_of_header(frame);
}

tr_status tr_frame_check(const tr_frame *frame, uint32_t max_body_bytes, tr_error *err)
{
    if (frame->magic != TR_FRAME_MAGIC)
        return tr_fail(err, TR_ECORRUPT, "a frame begins with '0x%04x', not with '0x%04x'", frame->magic,
                       TR_FRAME_MAGIC);
    uint32_t crc = crc_of_header(frame);
    if (frame->header_crc != crc)
        return tr_fail(err, TR_ECORRUPT, "a frame's header has checksum '%08x', its bytes give '%08x'",
                       frame->header_crc, crc);
    if (frame->version != TR_FRAME_VERSION)
        return tr_fail(err, TR_EREFUSED,
                       "a frame has version '%d', this build speaks %d: run the same build everywhere",
                       frame->version, TR_FRAME_VERSION);
    if (frame->kind < TR_FRAME_HELLO || frame->kind >= TR_FRAME_KIND_END)
        return tr_fail(err, TR_ECORRUPT, "a frame has the unknown kind '%d'", frame->kind);
    if (frame->body_bytes > max_body_bytes)
        return tr_fail(err, TR_ECORRUPT, "a frame announces a body of '%u' bytes, at most %u are taken",
                       frame->body_bytes, max_body_bytes);
    return TR_OK;
}

tr_status tr_frame_check_body(const tr_frame *frame, const void *body, tr_error *err)
{
    if (!(frame->flags & TR_FRAME_HASHED)) return TR_OK;
    uint64_t hash = tr_hash64(body, frame->body_bytes);
    if (hash == frame->body_hash) return TR_OK;
    return tr_fail(err, TR_ECORRUPT,
                   "a body of %u bytes on edge %u, sequence %u, has hash '%016llx', not '%016llx'",
                   frame->body_bytes, frame->edge, frame->sequence, (unsigned long long)hash,
                   (unsigned long long)frame->body_hash);
}
