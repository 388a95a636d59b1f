/* base/clock.h - monotonic time. The wall clock is only ever printed, never reasoned with.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_BASE_CLOCK_H
#define TROUPE_BASE_CLOCK_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

uint64_t tr_clock_ns(void);                    /* CLOCK_MONOTONIC, comparable between processes of one host */
void tr_clock_sleep_ms(uint32_t milliseconds); /* never in an actor's handler */

#ifdef __cplusplus
}
#endif
#endif
