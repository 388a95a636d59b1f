/* transport/handshake.c - see handshake.h. The writer emits the few MessagePack forms it needs; the reader
 * takes every form a conforming writer may choose for them.
 * SPDX-License-Identifier: Apache-2.0 */
#include "transport/handshake.h"

#include <string.h>

enum { MAX_ENTRIES = 15 };

static uint8_t *put_uint32(uint8_t *at, uint32_t value)
{
    *at++ = 0xce;
    for (int shift = 24; shift >= 0; shift -= 8) *at++ = (uint8_t)(value >> shift);
    return at;
}

static uint8_t *put_key(uint8_t *at, const char *key)
{
    size_t length = strlen(key);
    *at++ = (uint8_t)(0xa0 | length);
    memcpy(at, key, length);
    return at + length;
}

uint32_t tr_hello_write(const tr_hello *self, uint8_t bytes[TR_HELLO_MAX_BYTES])
{
    uint8_t *at = bytes;
    *at++ = 0x85; /* a map of five */
    at = put_key(at, "key");
    *at++ = 0xc4;
    *at++ = TR_JOB_KEY_BYTES;
    memcpy(at, self->job_key, TR_JOB_KEY_BYTES);
    at = put_key(at + TR_JOB_KEY_BYTES, "node");
    at = put_uint32(at, (uint32_t)self->node);
    bytes[at - bytes - 5] = 0xd2; /* int32 */
    at = put_uint32(put_key(at, "incarnation"), self->incarnation);
    at = put_uint32(put_key(at, "version"), self->version);
    at = put_key(at, "address");
    size_t length = strlen(self->address);
    *at++ = 0xda;
    *at++ = (uint8_t)(length >> 8);
    *at++ = (uint8_t)length;
    memcpy(at, self->address, length);
    return (uint32_t)(at + length - bytes);
}

/* A value of the map: an integer, or text or binary that lies in the input. */
typedef struct value {
    enum { VALUE_INTEGER, VALUE_TEXT, VALUE_BINARY, VALUE_OTHER } type;
    int64_t integer;
    const uint8_t *bytes;
    size_t size;
} value;

typedef struct reader {
    const uint8_t *at, *end;
} reader;

static bool take_number(reader *in, size_t n_bytes, uint64_t *out)
{
    if ((size_t)(in->end - in->at) < n_bytes) return false;
    uint64_t number = 0;
    for (size_t i = 0; i < n_bytes; i++) number = number << 8 | *in->at++;
    *out = number;
    return true;
}

static bool take_bytes(reader *in, size_t length_bytes, uint64_t length, value *out)
{
    if (length_bytes && !take_number(in, length_bytes, &length)) return false;
    if ((uint64_t)(in->end - in->at) < length) return false;
    out->bytes = in->at;
    out->size = (size_t)length;
    in->at += length;
    return true;
}

static bool take_unsigned(reader *in, size_t n_bytes, value *out)
{
    uint64_t number;
    if (!take_number(in, n_bytes, &number) || number > INT64_MAX) return false;
    out->integer = (int64_t)number;
    return true;
}

static bool take_signed(reader *in, size_t n_bytes, value *out)
{
    uint64_t number;
    if (!take_number(in, n_bytes, &number)) return false;
    unsigned unused = 64 - 8 * (unsigned)n_bytes;
    out->integer = (int64_t)(number << unused) >> unused;
    return true;
}

/* Scalars, text and binary; a container as a value is refused rather than walked. */
static bool take_value(reader *in, value *out)
{
    if (in->at == in->end) return false;
    uint8_t tag = *in->at++;
    *out = (value){.type = VALUE_INTEGER};
    if (tag <= 0x7f || tag >= 0xe0) {
        out->integer = (int8_t)tag;
        return true;
    }
    if (tag >= 0xcc && tag <= 0xcf) return take_unsigned(in, (size_t)1 << (tag - 0xcc), out);
    if (tag >= 0xd0 && tag <= 0xd3) return take_signed(in, (size_t)1 << (tag - 0xd0), out);
    out->type = VALUE_BINARY;
    if (tag >= 0xc4 && tag <= 0xc6) return take_bytes(in, (size_t)1 << (tag - 0xc4), 0, out);
    out->type = VALUE_TEXT;
    if (tag >= 0xa0 && tag <= 0xbf) return take_bytes(in, 0, tag & 0x1f, out);
    if (tag >= 0xd9 && tag <= 0xdb) return take_bytes(in, (size_t)1 << (tag - 0xd9), 0, out);
    out->type = VALUE_OTHER;
    return tag == 0xc0 || tag == 0xc2 || tag == 0xc3; /* nil, false, true */
}

static bool key_is(const value *key, const char *text)
{
    return key->size == strlen(text) && memcmp(key->bytes, text, key->size) == 0;
}

enum { HAS_KEY = 1, HAS_NODE = 2, HAS_INCARNATION = 4, HAS_VERSION = 8, HAS_ADDRESS = 16, HAS_ALL = 31 };

/* Stores one entry. Returns its HAS_ bit, 0 for a key nobody knows, -1 for a value of the wrong type or size.
 */
static int store(tr_hello *self, const value *key, const value *v)
{
    bool is_count = v->type == VALUE_INTEGER && v->integer >= 0 && v->integer <= UINT32_MAX;
    if (key_is(key, "key")) {
        if (v->type != VALUE_BINARY || v->size != TR_JOB_KEY_BYTES) return -1;
        memcpy(self->job_key, v->bytes, TR_JOB_KEY_BYTES);
        return HAS_KEY;
    }
    if (key_is(key, "node")) {
        if (v->type != VALUE_INTEGER || v->integer < INT32_MIN || v->integer > INT32_MAX) return -1;
        self->node = (int32_t)v->integer;
        return HAS_NODE;
    }
    if (key_is(key, "incarnation")) {
        self->incarnation = (uint32_t)v->integer;
        return is_count ? HAS_INCARNATION : -1;
    }
    if (key_is(key, "version")) {
        self->version = (uint32_t)v->integer;
        return is_count ? HAS_VERSION : -1;
    }
    if (key_is(key, "address")) {
        if (v->type != VALUE_TEXT || v->size >= sizeof self->address || memchr(v->bytes, 0, v->size))
            return -1;
        memcpy(self->address, v->bytes, v->size);
        return HAS_ADDRESS;
    }
    return 0;
}

tr_status tr_hello_read(tr_hello *self, const void *bytes, size_t size_bytes, tr_error *err)
{
    tr_hello hello = {0};
    reader in = {.at = bytes, .end = (const uint8_t *)bytes + size_bytes};
    if (size_bytes == 0 || size_bytes > TR_HELLO_MAX_BYTES)
        return tr_fail(err, TR_ECORRUPT, "a greeting has '%zu' bytes, 1 to %d are taken", size_bytes,
                       TR_HELLO_MAX_BYTES);
    uint8_t tag = *in.at++;
    if (tag < 0x80 || tag > (0x80 | MAX_ENTRIES))
        return tr_fail(err, TR_ECORRUPT, "a greeting is no small MessagePack map: it begins with '0x%02x'",
                       tag);
    int seen = 0;
    for (int left = tag & 0x0f; left > 0; left--) {
        value key, v;
        if (!take_value(&in, &key) || key.type != VALUE_TEXT || !take_value(&in, &v))
            return tr_fail(err, TR_ECORRUPT, "a greeting is cut off or malformed");
        int bit = store(&hello, &key, &v);
        if (bit < 0 || (bit & seen))
            return tr_fail(err, TR_ECORRUPT,
                           "a greeting's entry '%.*s' is doubled or has a wrong type or size",
                           key.size > 32 ? 32 : (int)key.size, (const char *)key.bytes);
        seen |= bit;
    }
    if (seen != HAS_ALL || in.at != in.end)
        return tr_fail(err, TR_ECORRUPT, "a greeting lacks entries or has bytes behind them");
    *self = hello;
    return TR_OK;
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
