/* base/crash.h - a process that crashes says where, and ends.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_BASE_CRASH_H
#define TROUPE_BASE_CRASH_H

#ifdef __cplusplus
extern "C" {
#endif

/* From here on SIGSEGV, SIGBUS, SIGFPE, SIGILL and SIGABRT write the stack to stderr before they do what they do by
 * default: the process ends by that signal, with a core where the system keeps one. Replaces the handlers of libraries
 * (UCX's could wait for ever for a lock that the crashed thread held). A crash within the report ends the process at once,
 * one that hangs there after three seconds. Sanitizers keep their own. Once, before there are other threads. */
void tr_crash_report(void);

#ifdef __cplusplus
}
#endif
#endif
