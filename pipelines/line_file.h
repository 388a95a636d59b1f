/* pipelines/line_file.h - a file to which lines are appended, and which outlives a full disk: what the disk does not
 * take waits in memory, in order, and is written before the next line once there is room. So a training need not end
 * because somebody else filled the disk for a while, and no line is lost, cut or doubled by it.
 * Threads: one.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_PIPELINES_LINE_FILE_H
#define TROUPE_PIPELINES_LINE_FILE_H

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { TR_LINES_MOST_WAITING = 16 << 20 }; /* bytes; at 300 a step, the log of fifty thousand steps */

typedef struct tr_line_file tr_line_file;

/* Appends to what is there. Errors: TR_EIO, TR_ENOMEM. */
tr_status tr_line_file_open(tr_line_file **out, const char *path, tr_error *err);
/* Takes the line (a newline is added) and tries to write all that waits. TR_OK also where it only waits. Errors: TR_EIO
 * where more waits than may; TR_ENOMEM. The line is then not taken. */
tr_status tr_line_file_add(tr_line_file *self, const char *line, tr_error *err);
/* Tries again. TR_EIO: something still waits; the message says why. */
tr_status tr_line_file_flush(tr_line_file *self, tr_error *err);
bool tr_line_file_waits(const tr_line_file *self);
/* Tries again, and has the disk keep what it has taken. TR_EIO: something waits, or was not kept. */
tr_status tr_line_file_sync(tr_line_file *self, tr_error *err);
void tr_line_file_close(tr_line_file **self);

#ifdef __cplusplus
}
#endif
#endif
