/* base/crash.c - see crash.h. Nothing in the handler allocates or takes a lock, but for what backtrace(3) may do within the
 * dynamic linker; hence the alarm.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/crash.h"

#include <execinfo.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

enum { MOST_FRAMES = 40, PATIENCE_S = 3 };

static const int fatal[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};

static void say(const char *text)
{
    (void)!write(STDERR_FILENO, text, strlen(text));
}

static void say_number(unsigned number)
{
    char digits[12], *at = digits + sizeof digits - 1;
    *at = '\0';
    do *--at = (char)('0' + number % 10);
    while (number /= 10);
    say(at);
}

static void on_crash(int signal_number, siginfo_t *info, void *context)
{
    (void)context;
    sigset_t alarms;
    sigemptyset(&alarms);
    sigaddset(&alarms, SIGALRM);
    signal(SIGALRM, SIG_DFL);
    pthread_sigmask(SIG_UNBLOCK, &alarms, NULL);
    alarm(PATIENCE_S);
    say("troupe: process ");
    say_number((unsigned)getpid());
    say(" got signal ");
    say_number((unsigned)signal_number);
    say(info->si_code <= 0 ? ", sent by a process; it was at:\n" : "; it was at:\n");
    void *frames[MOST_FRAMES];
    int n = backtrace(frames, MOST_FRAMES);
    backtrace_symbols_fd(frames, n, STDERR_FILENO);
    alarm(0);
    if (info->si_code <= 0)
        raise(signal_number); /* otherwise the instruction is run again; the handler is gone */
}

void tr_crash_report(void)
{
    void *frame[1];
    backtrace(frame, 1); /* its first call loads a library */
    struct sigaction action = {.sa_sigaction = on_crash, .sa_flags = SA_SIGINFO | SA_RESETHAND};
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < sizeof fatal / sizeof *fatal; i++) sigaction(fatal[i], &action, NULL);
}

#else

void tr_crash_report(void)
{
}

#endif
