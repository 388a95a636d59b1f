/* test/fuzz/frame_fuzz.c - the 64 bytes of a frame, the hash of its body, and the body as a greeting.
 * A checksum keeps nearly all invented headers out, so each input is also looked at with the seal set right.
 * SPDX-License-Identifier: Apache-2.0 */
#include "transport/frame.h"

#include "base/hash.h"
#include "fuzz.h"
#include "transport/handshake.h"

enum { MOST_BODY = 1 << 16 };

static void check_greeting(const uint8_t *body, size_t size_bytes)
{
    tr_hello hello, again;
    tr_error err = {0};
    tr_status status = tr_hello_read(&hello, body, size_bytes, &err);
    if (status) {
        fuzz_refused(status, &err);
        return;
    }
    void *bytes;
    size_t written;
    FUZZ_PROMISE(tr_hello_write(&hello, &bytes, &written, &err) == TR_OK && written <= TR_HELLO_MAX_BYTES);
    FUZZ_PROMISE(tr_hello_read(&again, bytes, written, &err) == TR_OK);
    FUZZ_PROMISE(memcmp(hello.job_key, again.job_key, sizeof hello.job_key) == 0);
    FUZZ_PROMISE(hello.node == again.node && hello.incarnation == again.incarnation &&
                 hello.version == again.version && strcmp(hello.address, again.address) == 0);
    status = tr_hello_check(&hello, again.job_key, &err);
    FUZZ_PROMISE((status == TR_OK) == (hello.version == TR_HANDSHAKE_VERSION));
    tr_free(bytes);
}

static void check_sealed(tr_frame frame, const uint8_t *body, uint32_t size_bytes)
{
    tr_error err = {0};
    frame.body_bytes = size_bytes;
    frame.body_hash = tr_hash64(body, size_bytes);
    frame.flags |= TR_FRAME_HASHED;
    tr_frame_seal(&frame);
    bool known = frame.kind >= TR_FRAME_HELLO && frame.kind < TR_FRAME_KIND_END;
    FUZZ_PROMISE((tr_frame_check(&frame, MOST_BODY, &err) == TR_OK) == known);
    FUZZ_PROMISE(tr_frame_check_body(&frame, body, &err) == TR_OK);
    if (size_bytes) FUZZ_PROMISE(tr_frame_check(&frame, size_bytes - 1, &err) == TR_ECORRUPT);
    tr_frame damaged = frame;
    uint32_t bit = (uint32_t)(frame.body_hash % (8 * sizeof frame));
    ((uint8_t *)&damaged)[bit / 8] ^= (uint8_t)(1 << bit % 8);
    FUZZ_PROMISE(tr_frame_check(&damaged, MOST_BODY, &err) == TR_ECORRUPT);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size_bytes)
{
    tr_frame frame;
    tr_error err = {0};
    if (size_bytes < sizeof frame || size_bytes > sizeof frame + MOST_BODY) return 0;
    memcpy(&frame, bytes, sizeof frame);
    const uint8_t *body = bytes + sizeof frame;
    size_t body_bytes = size_bytes - sizeof frame;
    tr_status status = tr_frame_check(&frame, (uint32_t)body_bytes, &err);
    if (!status) status = tr_frame_check_body(&frame, body, &err);
    if (status) fuzz_refused(status, &err);
    check_sealed(frame, body, (uint32_t)body_bytes);
    check_greeting(body, body_bytes);
    return 0;
}
