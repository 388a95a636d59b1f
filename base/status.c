/* base/status.c - writing errors and dying on broken promises.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/status.h"

#undef tr_fail /* see there: a macro for the analyzer */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

tr_status tr_fail(tr_error *err, tr_status status, const char *format, ...)
{
    if (err) {
        va_list arguments;
        va_start(arguments, format);
        err->status = status;
        vsnprintf(err->message, sizeof err->message, format, arguments);
        va_end(arguments);
    }
    return status;
}

tr_status tr_fail_within(tr_error *err, tr_status status, const char *format, ...)
{
    if (!err) return status;
    char message[TR_ERROR_SIZE];
    memcpy(message, err->message, sizeof message);
    va_list arguments;
    va_start(arguments, format);
    int used = vsnprintf(err->message, sizeof err->message, format, arguments);
    va_end(arguments);
    if (used >= 0 && (size_t)used < sizeof err->message)
        snprintf(err->message + used, sizeof err->message - (size_t)used, ": %s", message);
    if (err->status == TR_OK) err->status = status;
    return err->status;
}

const char *tr_status_name(tr_status status)
{
    switch (status) {
    case TR_OK: return "ok";
    case TR_EINVAL: return "invalid input";
    case TR_ENOMEM: return "out of memory";
    case TR_EIO: return "input or output failed";
    case TR_ENOTFOUND: return "not found";
    case TR_EEXIST: return "exists already";
    case TR_ECORRUPT: return "corrupt";
    case TR_EUNSUPPORTED: return "unsupported";
    case TR_ECLOSED: return "closed";
    case TR_ETIMEDOUT: return "timed out";
    case TR_EREFUSED: return "refused";
    case TR_ESTOPPED: return "stopped";
    case TR_EDEVICE: return "device failed";
    }
    return "unknown status";
}

void tr_assert_failed(const char *condition, const char *file, int line)
{
    fprintf(stderr, "troupe: %s:%d: broken promise: %s\n", file, line, condition);
    fflush(stderr);
    abort();
}
