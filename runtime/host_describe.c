/* runtime/host_describe.c - what the bits of this process depend on beside the plan: the program's file, the processor's
 * instructions, the libraries that compute. Hosts that differ in it are refused (door.h), since equal bits for equal numerics
 * is all that is promised. Caches and models of processors are not compared: no kernel of ours asks for them, and a
 * difference that a library made of them would show as a step run again with another loss.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/host_messages.h"

#include "base/hash.h"
#include "base/memory.h"

#include <errno.h>
#include <inttypes.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <gnu/libc-version.h>

static tr_status hash_program(uint64_t *out, tr_error *err)
{
    FILE *file = fopen("/proc/self/exe", "re");
    if (!file) return tr_fail(err, TR_EIO, "cannot read this program's file: %s", strerror(errno));
    static const size_t PIECE = 1 << 20;
    char *piece = tr_alloc(PIECE);
    uint64_t chain[2] = {0, 0};
    size_t n;
    while (piece && (n = fread(piece, 1, PIECE, file)) > 0) {
        chain[1] = tr_hash64(piece, n);
        chain[0] = tr_hash64(chain, sizeof chain);
    }
    bool good = piece && !ferror(file);
    tr_free(piece);
    fclose(file);
    if (!good) return tr_fail(err, TR_EIO, "cannot read this program's file");
    *out = chain[0];
    return TR_OK;
}

static bool is_instructions(const char *flag)
{
    static const char *const prefixes[] = {"avx", "fma", "amx", "sse", "f16c", "bmi", "asimd", "sve", "fp"};
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++)
        if (strncmp(flag, prefixes[i], strlen(prefixes[i])) == 0) return true;
    return false;
}

/* The vector instructions there are, of the first processor. */
static uint64_t hash_instructions(void)
{
    static char line[1 << 14];
    uint64_t chain[2] = {0, 0};
    FILE *file = fopen("/proc/cpuinfo", "re");
    bool found = false;
    while (file && !found && fgets(line, sizeof line, file))
        found = strncmp(line, "flags", 5) == 0 || strncmp(line, "Features", 8) == 0;
    if (file) fclose(file);
    char *rest = NULL;
    for (char *flag = found ? strtok_r(line, " \t\n", &rest) : NULL; flag;
         flag = strtok_r(NULL, " \t\n", &rest)) {
        if (!is_instructions(flag)) continue;
        chain[1] = tr_hash64_text(flag);
        chain[0] = tr_hash64(chain, sizeof chain);
    }
    return chain[0];
}

static int add_library(struct dl_phdr_info *info, size_t size, void *context)
{
    (void)size;
    char *text = context, path[1024];
    static const char *const computing[] = {"libdnnl", "libmkl", "libopenblas", "libm.", "libgomp", "libtbb"};
    const char *name = info->dlpi_name ? info->dlpi_name : "";
    char *real = realpath(name, path); /* libdnnl.so.2 -> libdnnl.so.2.6 */
    const char *base = strrchr(real ? real : name, '/');
    base = base ? base + 1 : name;
    for (size_t i = 0; i < sizeof computing / sizeof *computing; i++) {
        size_t used = strlen(text);
        if (strncmp(base, computing[i], strlen(computing[i])) == 0)
            snprintf(text + used, TR_NUMERICS_CHARS - used, ", %s", base);
    }
    return 0;
}

tr_status tr_join_request_describe(tr_join_request *self, const char *version, tr_error *err)
{
    tr_status status = hash_program(&self->program, err);
    if (status != TR_OK) return status;
    snprintf(self->version, sizeof self->version, "%s", version);
    if (gethostname(self->name, sizeof self->name) != 0) self->name[0] = 0;
    self->name[sizeof self->name - 1] = 0;
    snprintf(self->numerics, sizeof self->numerics, "instructions %016" PRIx64 ", glibc %s",
             hash_instructions(), gnu_get_libc_version());
    dl_iterate_phdr(add_library, self->numerics);
    return TR_OK;
}
