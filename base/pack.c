/* base/pack.c - see pack.h. The reader knows the formats that the writer makes (integers, doubles, str,
 * bin, array) in all their lengths; maps, booleans and extensions are refused.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/pack.h"

#include "base/memory.h"

#include <msgpack.h>
#include <string.h>

static int append(void *context, const char *bytes, size_t size_bytes)
{
    tr_packer *self = context;
    if (self->no_memory_) return 0;
    size_t needed = self->size_bytes + size_bytes;
    if (tr_array_reserve((void **)&self->bytes, &self->capacity_, needed, 1, NULL) != TR_OK) {
        self->no_memory_ = true;
        return 0;
    }
    memcpy(self->bytes + self->size_bytes, bytes, size_bytes);
    self->size_bytes += size_bytes;
    return 0;
}

static msgpack_packer packer_of(tr_packer *self)
{
    msgpack_packer packer;
    msgpack_packer_init(&packer, self, append);
    return packer;
}

void tr_packer_init(tr_packer *self)
{
    memset(self, 0, sizeof *self);
}

void tr_packer_release(tr_packer *self)
{
    tr_free(self->bytes);
    memset(self, 0, sizeof *self);
}

void tr_pack_array(tr_packer *self, size_t count)
{
    msgpack_packer packer = packer_of(self);
    msgpack_pack_array(&packer, count);
}

void tr_pack_uint(tr_packer *self, uint64_t value)
{
    msgpack_packer packer = packer_of(self);
    msgpack_pack_uint64(&packer, value);
}

void tr_pack_int(tr_packer *self, int64_t value)
{
    msgpack_packer packer = packer_of(self);
    msgpack_pack_int64(&packer, value);
}

void tr_pack_f64(tr_packer *self, double value)
{
    msgpack_packer packer = packer_of(self);
    msgpack_pack_double(&packer, value);
}

void tr_pack_text(tr_packer *self, const char *text)
{
    msgpack_packer packer = packer_of(self);
    msgpack_pack_str_with_body(&packer, text, strlen(text));
}

void tr_pack_bytes(tr_packer *self, const void *bytes, size_t size_bytes)
{
    msgpack_packer packer = packer_of(self);
    msgpack_pack_bin(&packer, size_bytes);
    if (size_bytes) append(self, bytes, size_bytes);
}

tr_status tr_packer_take(tr_packer *self, void **bytes, size_t *size_bytes, tr_error *err)
{
    if (self->no_memory_ || !self->bytes) {
        tr_packer_release(self);
        return tr_fail(err, TR_ENOMEM, "no memory for a control message");
    }
    *bytes = self->bytes;
    *size_bytes = self->size_bytes;
    memset(self, 0, sizeof *self);
    return TR_OK;
}

void tr_unpacker_init(tr_unpacker *self, const void *bytes, size_t size_bytes)
{
    self->next = bytes;
    self->end = size_bytes ? self->next + size_bytes : self->next;
    self->bad = false;
}

static uint64_t fail(tr_unpacker *self)
{
    self->bad = true;
    return 0;
}

/* A big-endian number of n bytes. */
static uint64_t take_number(tr_unpacker *self, size_t n)
{
    if (self->bad || (size_t)(self->end - self->next) < n) return fail(self);
    uint64_t value = 0;
    for (size_t i = 0; i < n; i++) value = value << 8 | self->next[i];
    self->next += n;
    return value;
}

/* The length behind a tag of str, bin or array: n bytes, at most what is
 * left (each element has one byte or more). */
static uint64_t take_length(tr_unpacker *self, size_t n)
{
    uint64_t length = take_number(self, n);
    return length > (uint64_t)(self->end - self->next) ? fail(self) : length;
}

uint32_t tr_unpack_array(tr_unpacker *self, uint32_t max_count)
{
    uint64_t tag = take_number(self, 1), count;
    if ((tag & 0xf0) == 0x90) {
        count = tag & 0x0f;
        if (count > (uint64_t)(self->end - self->next)) return (uint32_t)fail(self);
    } else if (tag == 0xdc || tag == 0xdd)
        count = take_length(self, tag == 0xdc ? 2 : 4);
    else
        return (uint32_t)fail(self);
    return (uint32_t)(count > max_count ? fail(self) : count);
}

/* Any integer; *negative says that the value stands for its two's complement. */
static uint64_t take_integer(tr_unpacker *self, bool *negative)
{
    uint64_t tag = take_number(self, 1);
    *negative = false;
    if (self->bad) return 0;
    if (tag <= 0x7f) return tag;
    if (tag >= 0xcc && tag <= 0xcf) return take_number(self, (size_t)1 << (tag - 0xcc));
    int64_t value;
    if (tag >= 0xe0) {
        value = (int8_t)tag; /* NOLINT(bugprone-signed-char-misuse): the byte is a number with a sign */
    } else if (tag >= 0xd0 && tag <= 0xd3) {
        size_t n = (size_t)1 << (tag - 0xd0);
        uint64_t bits = take_number(self, n);
        int shift = (int)(64 - 8 * n);
        value = (int64_t)(bits << shift) >> shift;
    } else {
        return fail(self);
    }
    *negative = value < 0;
    return (uint64_t)value;
}

uint64_t tr_unpack_uint(tr_unpacker *self, uint64_t max)
{
    bool negative;
    uint64_t value = take_integer(self, &negative);
    return negative || value > max ? fail(self) : value;
}

int64_t tr_unpack_int(tr_unpacker *self, int64_t min, int64_t max)
{
    bool negative;
    uint64_t bits = take_integer(self, &negative);
    if (!negative && bits > INT64_MAX) return (int64_t)fail(self);
    int64_t value = (int64_t)bits;
    return value < min || value > max ? (int64_t)fail(self) : value;
}

double tr_unpack_f64(tr_unpacker *self)
{
    if (take_number(self, 1) != 0xcb) fail(self);
    uint64_t bits = take_number(self, 8);
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

void tr_unpack_text(tr_unpacker *self, char *text, size_t capacity)
{
    uint64_t tag = take_number(self, 1), length = 0;
    text[0] = '\0';
    if ((tag & 0xe0) == 0xa0)
        length = tag & 0x1f;
    else if (tag >= 0xd9 && tag <= 0xdb)
        length = take_length(self, (size_t)1 << (tag - 0xd9));
    else
        fail(self);
    if (self->bad || length >= capacity || length > (uint64_t)(self->end - self->next) ||
        memchr(self->next, 0, length)) {
        fail(self);
        return;
    }
    memcpy(text, self->next, length);
    text[length] = '\0';
    self->next += length;
}

const void *tr_unpack_bytes(tr_unpacker *self, size_t *size_bytes)
{
    uint64_t tag = take_number(self, 1), length = 0;
    *size_bytes = 0;
    if (tag >= 0xc4 && tag <= 0xc6)
        length = take_length(self, (size_t)1 << (tag - 0xc4));
    else
        fail(self);
    if (self->bad) return NULL;
    const void *bytes = self->next;
    self->next += length;
    *size_bytes = (size_t)length;
    return bytes;
}

tr_status tr_unpacker_done(const tr_unpacker *self, const char *what, tr_error *err)
{
    if (self->bad) return tr_fail(err, TR_ECORRUPT, "a %s whose bytes are damaged or foreign", what);
    if (self->next != self->end)
        return tr_fail(err, TR_ECORRUPT, "a %s with %td bytes too many", what, self->end - self->next);
    return TR_OK;
}
