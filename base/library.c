/* base/library.c - see library.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/library.h"

#include <dlfcn.h>

tr_status tr_library_load(const char *what, const char *const *files, const tr_library_symbol *symbols,
                          size_t n_symbols, tr_error *err)
{
    void *library = NULL;
    for (size_t i = 0; files[i] && !library; i++) library = dlopen(files[i], RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return tr_fail(err, TR_EUNSUPPORTED, "%s is not here: %s; put its folder into LD_LIBRARY_PATH", what,
                       dlerror());
    for (size_t i = 0; i < n_symbols; i++) {
        *symbols[i].address = dlsym(library, symbols[i].name);
        if (!*symbols[i].address)
            return tr_fail(err, TR_EUNSUPPORTED,
                           "%s has no function '%s': its version is another than the headers'", what,
                           symbols[i].name);
    }
    return TR_OK;
}
