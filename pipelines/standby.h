/* pipelines/standby.h - a second head that waits for the first one's death: the same program, started as
 * `troupe train RUN/recipe.yaml --standby`. It holds nothing and says nothing; it sleeps in the kernel until the lock on the run's
 * directory is free, and then looks whether the run has ended or its head has died (tr_train_options.standby).
 * Threads: the head's.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_PIPELINES_STANDBY_H
#define TROUPE_PIPELINES_STANDBY_H

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tr_standby tr_standby;

/* In a process group of its own, so that what a person types is for the head. Errors: TR_EIO, TR_ENOMEM. */
tr_status tr_standby_start(tr_standby **out, const char *run, tr_error *err);
int32_t tr_standby_pid(const tr_standby *self);
/* Starts another where it was killed; *killed: it was. One that ended by itself does not come again. Errors: TR_EIO. */
tr_status tr_standby_look(tr_standby *self, bool *killed, tr_error *err);
/* Kills and reaps it: the run has ended. */
void tr_standby_end(tr_standby **self);

#ifdef __cplusplus
}
#endif
#endif
