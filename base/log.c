/* base/log.c - see log.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char role_name[32] = "";
static _Atomic int chosen_level = -1; /* relaxed: a late reader only prints a line more or less */

static int level_from_environment(void)
{
    const char *text = getenv("TROUPE_LOG");
    if (!text) return TR_LOG_WARNING;
    if (strcmp(text, "debug") == 0) return TR_LOG_DEBUG;
    if (strcmp(text, "info") == 0) return TR_LOG_INFO;
    if (strcmp(text, "error") == 0) return TR_LOG_ERROR;
    return TR_LOG_WARNING;
}

void tr_log_set_role(const char *role)
{
    snprintf(role_name, sizeof role_name, "%s", role);
}

void tr_log_set_level(tr_log_level level)
{
    atomic_store_explicit(&chosen_level, (int)level, memory_order_relaxed);
}

void tr_log(tr_log_level level, const char *format, ...)
{
    static const char *const names[] = {"debug", "info", "warning", "error"};
    int least = atomic_load_explicit(&chosen_level, memory_order_relaxed);
    if (least < 0) {
        least = level_from_environment();
        atomic_store_explicit(&chosen_level, least, memory_order_relaxed);
    }
    if ((int)level < least) return;

    char line[2048];
    int used = snprintf(line, sizeof line, "troupe%s%s%s: %s: ", role_name[0] ? "[" : "", role_name,
                        role_name[0] ? "]" : "", names[level]);
    va_list arguments;
    va_start(arguments, format);
    int more = vsnprintf(line + used, sizeof line - (size_t)used - 1, format, arguments);
    va_end(arguments);
    size_t length = (size_t)used + (more < 0 ? 0 : (size_t)more);
    if (length > sizeof line - 2) length = sizeof line - 2;
    line[length++] = '\n';
    ssize_t written = write(STDERR_FILENO, line, length);
    (void)written; /* nobody is left to tell */
}
