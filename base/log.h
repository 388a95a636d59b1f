/* base/log.h - one line a message on stderr: "troupe[role] level: text". TROUPE_LOG=debug|info|warning|error
 * chooses.
 * Threads: from any; a line is written with one write(2), so lines of several processes do not mix.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_BASE_LOG_H
#define TROUPE_BASE_LOG_H

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum tr_log_level { TR_LOG_DEBUG, TR_LOG_INFO, TR_LOG_WARNING, TR_LOG_ERROR } tr_log_level;

/* Names this process in its lines ("head", "agent", "worker 2"); copied. Call before threads start. */
void tr_log_set_role(const char *role);
void tr_log_set_level(tr_log_level level); /* default: warning, or what TROUPE_LOG says */
void tr_log(tr_log_level level, const char *format, ...) TR_PRINTF(2, 3);

#ifdef __cplusplus
}
#endif
#endif
