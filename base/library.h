/* base/library.h - shared libraries that are looked for at run time, so that a program starts without them.
 * They stay loaded until the process ends: what registers itself with a driver cannot be unloaded safely.
 * Threads: any.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_BASE_LIBRARY_H
#define TROUPE_BASE_LIBRARY_H

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tr_library_symbol {
    const char *name;
    void **address; /* where the function's address goes */
} tr_library_symbol;

/* Loads the first of `files` (ends with NULL) that is there, as dlopen finds it, and fills in all symbols.
 * `what` names the library for people. Errors: TR_EUNSUPPORTED, with the library, or the symbol it lacks. */
tr_status tr_library_load(const char *what, const char *const *files, const tr_library_symbol *symbols,
                          size_t n_symbols, tr_error *err);

#ifdef __cplusplus
}
#endif
#endif
