/* base/spin.h - may a thread that waits keep its processor busy?
 * Only where no more threads want to run than there are processors, counted over all processes of the host: a spinning
 * thread beside a computing one that has no processor halves the work done. The kernel counts them (/proc/loadavg, fourth
 * field); whoever runs a process samples that about ten times a second.
 * Threads: both functions from any.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_BASE_SPIN_H
#define TROUPE_BASE_SPIN_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

void tr_spin_sample(void);  /* asks the kernel; some microseconds */
bool tr_spin_allowed(void); /* as of the last samples; false before the first. A load. */

#ifdef __cplusplus
}
#endif
#endif
