/* base/pack.c - see pack.h. Writing goes through msgpack-c's packer; reading is a cursor of its own over the
 * five kinds of item we use, since msgpack-c's unpacker builds a tree on the heap for whatever a peer sends.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/pack.h"

#include "base/memory.h"

#include <msgpack.h>
#include <string.h>

static int append(void *data, const char *bytes, size_t size)
{
    tr_packer *self = data;
    if (self->failed) return -1;
    void *array = self->bytes;
    if (tr_array_reserve(&array, &self->capacity, self->size_bytes + size, 1, NULL)) {
        self->failed = true;
        return -1;
    }
    self->bytes = array;
    memcpy(self->bytes + self->size_bytes, bytes, size);
    self->size_bytes += size;
    return 0;
}

static msgpack_packer packer_of(tr_packer *self)
{
    msgpack_packer packer;
    msgpack_packer_init(&packer, self, append);
    return packer;
}

void tr_pack_begin(tr_packer *self, uint32_t n_fields)
{
    *self = (tr_packer){0};
    msgpack_packer packer = packer_of(self);
    msgpack_pack_array(&packer, n_fields);
}

void tr_pack_u64(tr_packer *self, uint64_t value)
{
    msgpack_packer packer = packer_of(self);
    msgpack_pack_uint64(&packer, value);
}

void tr_pack_f64(tr_packer *self, double value)
{
    msgpack_packer packer = packer_of(self);
    msgpack_pack_double(&packer, value);
}

void tr_pack_text(tr_packer *self, const char *text)
{
    msgpack_packer packer = packer_of(self);
    size_t length = strlen(text);
    msgpack_pack_str(&packer, length);
    msgpack_pack_str_body(&packer, text, length);
}

void tr_pack_bytes(tr_packer *self, const void *bytes, size_t size_bytes)
{
    msgpack_packer packer = packer_of(self);
    msgpack_pack_bin(&packer, size_bytes);
    msgpack_pack_bin_body(&packer, bytes, size_bytes);
}

tr_status tr_pack_finish(tr_packer *self, tr_error *err)
{
    if (!self->failed) return TR_OK;
    tr_free(self->bytes);
    *self = (tr_packer){0};
    return tr_fail(err, TR_ENOMEM, "no memory to write a control message");
}

/* Takes n bytes as a big-endian number; 0 and not good when they are not there. */
static uint64_t take_number(tr_unpacker *self, size_t n)
{
    if (!self->good || (size_t)(self->end - self->at) < n) {
        self->good = false;
        return 0;
    }
    uint64_t value = 0;
    for (size_t i = 0; i < n; i++) value = value << 8 | *self->at++;
    return value;
}

static uint8_t take_field(tr_unpacker *self)
{
    if (self->n_left == 0) self->good = false;
    if (self->good) self->n_left--;
    return (uint8_t)take_number(self, 1);
}

void tr_unpack_begin(tr_unpacker *self, const void *bytes, size_t size_bytes)
{
    *self = (tr_unpacker){.at = bytes, .end = (const unsigned char *)bytes + size_bytes, .good = true};
    uint8_t tag = (uint8_t)take_number(self, 1);
    if ((tag & 0xf0) == 0x90)
        self->n_left = tag & 0x0f;
    else if (tag == 0xdc || tag == 0xdd)
        self->n_left = (uint32_t)take_number(self, tag == 0xdc ? 2 : 4);
    else
        self->good = false;
    if (!self->good) self->n_left = 0;
}

uint32_t tr_unpack_fields(const tr_unpacker *self)
{
    return self->good ? self->n_left : 0;
}

uint64_t tr_unpack_u64(tr_unpacker *self)
{
    uint8_t tag = take_field(self);
    if (tag < 0x80) return self->good ? tag : 0;
    switch (tag) {
    case 0xcc: return take_number(self, 1);
    case 0xcd: return take_number(self, 2);
    case 0xce: return take_number(self, 4);
    case 0xcf: return take_number(self, 8);
    default: self->good = false; return 0;
    }
}

double tr_unpack_f64(tr_unpacker *self)
{
    if (take_field(self) != 0xcb) self->good = false;
    uint64_t bits = take_number(self, 8);
    double value = 0;
    if (self->good) memcpy(&value, &bits, sizeof value);
    return value;
}

static const void *take_run(tr_unpacker *self, uint64_t size, size_t *size_bytes)
{
    if (!self->good || (uint64_t)(self->end - self->at) < size) {
        self->good = false;
        *size_bytes = 0;
        return NULL;
    }
    const void *run = self->at;
    self->at += size;
    *size_bytes = (size_t)size;
    return run;
}

void tr_unpack_text(tr_unpacker *self, char *text, size_t capacity)
{
    uint8_t tag = take_field(self);
    uint64_t size = 0;
    if ((tag & 0xe0) == 0xa0)
        size = tag & 0x1f;
    else if (tag >= 0xd9 && tag <= 0xdb)
        size = take_number(self, (size_t)1 << (tag - 0xd9));
    else
        self->good = false;
    if (size >= capacity) self->good = false;
    size_t length;
    const void *run = take_run(self, size, &length);
    if (run) memcpy(text, run, length);
    text[run ? length : 0] = 0;
}

const void *tr_unpack_bytes(tr_unpacker *self, size_t *size_bytes)
{
    uint8_t tag = take_field(self);
    if (tag < 0xc4 || tag > 0xc6) self->good = false;
    uint64_t size = self->good ? take_number(self, (size_t)1 << (tag - 0xc4)) : 0;
    return take_run(self, size, size_bytes);
}

bool tr_unpack_done(const tr_unpacker *self)
{
    return self->good && self->n_left == 0 && self->at == self->end;
}
