/* test/simulated_directory.h - a directory where the agents of simulated jobs can be found by another head: a temporary one, of
 * this process.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TEST_SIMULATED_DIRECTORY_H
#define TROUPE_TEST_SIMULATED_DIRECTORY_H

#include "runtime/lease.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static int simulated_directory = -1;
static char simulated_directory_path[200];

static inline void simulated_directory_open(void)
{
    const char *parent = getenv("TMPDIR");
    snprintf(simulated_directory_path, sizeof simulated_directory_path, "%s/troupe-simulation-XXXXXX",
             parent ? parent : "/tmp");
    if (mkdtemp(simulated_directory_path))
        simulated_directory = open(simulated_directory_path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (simulated_directory < 0) perror(simulated_directory_path), exit(1);
}

static inline void simulated_directory_close(void)
{
    unlinkat(simulated_directory, TR_LEASE_SOCKET, 0);
    close(simulated_directory);
    rmdir(simulated_directory_path);
}

#endif
