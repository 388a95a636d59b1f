/* base/clock.h - monotonic time. The wall clock is only ever printed, never reasoned with.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_BASE_CLOCK_H
#define TROUPE_BASE_CLOCK_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

uint64_t tr_clock_ns(void); /* CLOCK_MONOTONIC, comparable between processes of one host */
/* A clock of unknown unit that costs little more than a load: what nothing but "a while ago" depends on. */
static inline uint64_t tr_clock_ticks(void)
{
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc(); /* 2 to 5 a nanosecond */
#else
    return tr_clock_ns() * 2;
#endif
}
void tr_clock_sleep_ms(uint32_t milliseconds); /* never in an actor's handler */

#ifdef __cplusplus
}
#endif
#endif
