/* test/failing_memory.h - what every test executable does beside running its tests: run them while memory fails.
 * With TROUPE_FAIL_ALLOCATIONS=SECONDS each test has about so long. If it has one thread, it runs once and forks at every
 * allocation: the fork has the n-th failing and runs on to its end, which mostly comes soon. Else, or where forks get in
 * each other's way (by a file, say), it runs once for every n, where that fits. Else it runs once for each way into the
 * allocator (call stack), or for some of these, evenly spread, and what time is left goes to n evenly spread. What it
 * prints says how many. TROUPE_FAIL_TEST=NAME: only that test; TROUPE_FAIL_AT=FIRST[-LAST]: only those n, to see one again
 * or to share them out among processes. CHECK_SIZE: where every n would take too long.
 * A run may pass or may fail one of the test's checks, which ends it at once: what a test goes on to do after it was told
 * the truth says nothing. It may not crash, break a promise (TR_ASSERT), hang, or be told of by a sanitizer. Each run is
 * a process forked from one that has run no test and no thread.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TEST_FAILING_MEMORY_H
#define TROUPE_TEST_FAILING_MEMORY_H

#include "base/memory.h"

#include <CUnit/CUnit.h>
#include <stdlib.h>

/* Whether the tests are run while memory fails: this process is a run, or forks them. */
bool failing_is_on(void);
/* How long, of each test; 0: an ordinary run of the tests. */
double failing_seconds(void);
/* Before the first failing_test. */
bool failing_begin(void);
/* All runs of one test; returns how many ended as they may not. *each: every n was tried. */
uint64_t failing_test(const char *name, void (*run)(void), double seconds, bool *each);

/* What the macros below stand for. */
extern _Thread_local bool failing_not_now; /* the test itself allocates */
void *failing_spared(void *memory);
CU_BOOL failing_check(CU_BOOL value, unsigned line, const char *condition, const char *file,
                      const char *function, CU_BOOL fatal);
bool failing_late(uint64_t end_ns);
void failing_give_up(void);
char *failing_makes(char *path);
void failing_ask_also(bool (*must_fail)(void));

#ifndef FAILING_MEMORY_ITSELF

#define CU_assertImplementation failing_check

/* A size of a test: fewer messages, steps or bytes along the same paths where every n would take hours else. */
#define CHECK_SIZE(full, while_memory_fails) (failing_is_on() ? (while_memory_fails) : (full))

/* Whether a test has waited enough for what comes at once, unless memory fails: behind that it waits a second more. */
#define CHECK_LATE(end_ns) failing_late(end_ns)

/* What a test takes for itself is there, and so is what a call takes that is no more than the test's own tool. */
#define CHECK_SPARED(call)                                                                                   \
    do {                                                                                                     \
        failing_not_now = failing_is_on();                                                                   \
        call;                                                                                                \
        failing_not_now = false;                                                                             \
    } while (0)
#define FAILING_SPARED(call) (failing_not_now = failing_is_on(), failing_spared(call))
#define tr_alloc(...) FAILING_SPARED(tr_alloc(__VA_ARGS__))
#define tr_alloc_zero(...) FAILING_SPARED(tr_alloc_zero(__VA_ARGS__))
#define tr_alloc_aligned(...) FAILING_SPARED(tr_alloc_aligned(__VA_ARGS__))
#define tr_realloc(...) FAILING_SPARED(tr_realloc(__VA_ARGS__))
#define tr_strdup(...) ((char *)FAILING_SPARED(tr_strdup(__VA_ARGS__)))
#define tr_format(...) ((char *)FAILING_SPARED(tr_format(__VA_ARGS__)))

/* A test that gives up has noticed, too. */
#define abort() (failing_give_up(), abort())
#undef TR_ASSERT
#define TR_ASSERT(condition)                                                                                 \
    ((condition) ? (void)0 : (failing_give_up(), tr_assert_failed(#condition, __FILE__, __LINE__)))

#define mkdtemp(path) failing_makes(mkdtemp(path))
#define tr_memory_ask(must_fail) failing_ask_also(must_fail)

#endif
#endif
