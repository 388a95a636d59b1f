/* base/status.h - how every function of Troupe says that it failed.
 * A function that can fail returns tr_status and takes tr_error *err last. The message is written once, by
 * tr_fail, where the fault is found; callers only pass the status on. TR_ASSERT is for bugs of the caller and
 * stays on in release builds.
 * Threads: an error belongs to its caller; nothing here is shared.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_BASE_STATUS_H
#define TROUPE_BASE_STATUS_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum tr_status {
    TR_OK = 0,
    TR_EINVAL,       /* the input is wrong: a recipe, a file, an argument of a person */
    TR_ENOMEM,       /* no memory, or more than the plan allows */
    TR_EIO,          /* a system call failed */
    TR_ENOTFOUND,    /* a file, key or tensor is not there */
    TR_EEXIST,       /* it is there already */
    TR_ECORRUPT,     /* bytes that do not match their checksum or format */
    TR_EUNSUPPORTED, /* well-formed, but not something this build can do */
    TR_ECLOSED,      /* the peer or the system is gone */
    TR_ETIMEDOUT,    /* did not happen in time */
    TR_EREFUSED,     /* wrong key, job, version or epoch */
    TR_ESTOPPED,     /* ended because somebody asked for it */
    TR_EDEVICE       /* the device that this process computes on has failed, or has no memory left */
} tr_status;

enum { TR_ERROR_SIZE = 1024 };

typedef struct tr_error {
    tr_status status;
    char message[TR_ERROR_SIZE]; /* one line, lower-case, complete; empty when status is TR_OK */
} tr_error;

#if defined(__GNUC__)
#define TR_PRINTF(format_index, first_argument) __attribute__((format(printf, format_index, first_argument)))
#define TR_NORETURN __attribute__((noreturn))
#else
#define TR_PRINTF(format_index, first_argument)
#define TR_NORETURN
#endif

/* Writes status and message into *err (which may be NULL) and returns status, for `return tr_fail(...)`. */
tr_status tr_fail(tr_error *err, tr_status status, const char *format, ...) TR_PRINTF(3, 4);

#ifdef __clang_analyzer__ /* which shall know that no failure comes back as TR_OK */
#define tr_fail(err, status, ...) ((tr_fail)(err, status, __VA_ARGS__), (status))
#endif

/* Puts a context in front of the message that is already in *err: "<context>: <message>". Returns err's
 * status, or `status` where err is NULL. For callers that know the file or line the callee could not know. */
tr_status tr_fail_within(tr_error *err, tr_status status, const char *format, ...) TR_PRINTF(3, 4);

/* A short name such as "not found". Never NULL. */
const char *tr_status_name(tr_status status);

/* Prints the failed condition with file and line on stderr and aborts. */
void tr_assert_failed(const char *condition, const char *file, int line) TR_NORETURN;

#define TR_ASSERT(condition) ((condition) ? (void)0 : tr_assert_failed(#condition, __FILE__, __LINE__))

#ifdef __cplusplus
}
#endif
#endif
