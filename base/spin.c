/* base/spin.c - see spin.h. One sample is noise: threads come and go within it. So spinning begins when the moving mean says
 * that there is room, and ends at the first sample that is clearly over.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/spin.h"

#include "base/thread_pool.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

static _Atomic bool allowed; /* relaxed: a late reader spins a little too long or too short */
static _Atomic double mean =
    -1.0; /* runnable threads; relaxed, and a lost update of two samplers does no harm */

static int count_runnable(void)
{
    int file = open("/proc/loadavg", O_RDONLY | O_CLOEXEC);
    if (file < 0) return -1;
    char text[128];
    ssize_t size = read(file, text, sizeof text - 1);
    close(file);
    if (size <= 0) return -1;
    text[size] = 0;
    int runnable = -1;
    return sscanf(text, "%*f %*f %*f %d/", &runnable) == 1 ? runnable : -1;
}

void tr_spin_sample(void)
{
    int runnable = count_runnable(), processors = tr_cpu_count();
    double old = atomic_load_explicit(&mean, memory_order_relaxed);
    double now = runnable < 0 ? processors + 1 : runnable; /* who cannot count does not spin */
    if (old >= 0) now = 0.75 * old + 0.25 * now;
    atomic_store_explicit(&mean, now, memory_order_relaxed);
    bool room = now <= processors + 0.5 && runnable <= 2 * processors;
    atomic_store_explicit(&allowed, room, memory_order_relaxed);
}

bool tr_spin_allowed(void)
{
    return atomic_load_explicit(&allowed, memory_order_relaxed);
}
