/* runtime/leftovers.c - see leftovers.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/leftovers.h"

#include "base/log.h"
#include "runtime/played.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <unistd.h>

static void remove_system_v(int32_t pid)
{
    struct shm_info info;
    int last = shmctl(0, SHM_INFO, (struct shmid_ds *)(void *)&info);
    for (int i = 0; i <= last; i++) {
        struct shmid_ds segment;
        int id = shmctl(i, SHM_STAT, &segment);
        if (id >= 0 && segment.shm_cpid == pid && segment.shm_nattch == 0) shmctl(id, IPC_RMID, NULL);
    }
}

/* fcntl(2): a write lease is given only where nobody else has the file open, and a mapping keeps it open. Between its making
 * and its unlinking a living process has it open. */
static bool is_nobodys(int directory, const char *name)
{
    struct stat info;
    int file = openat(directory, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (file < 0) return false;
    bool nobodys = fstat(file, &info) == 0 && S_ISREG(info.st_mode) && info.st_uid == geteuid() &&
                   fcntl(file, F_SETLEASE, F_WRLCK) == 0;
    close(file); /* and the lease with it */
    return nobodys;
}

static void remove_posix(void)
{
    const char *path = getenv("UCX_POSIX_DIR");
    if (!path || !path[0]) path = "/dev/shm";
    DIR *entries = opendir(path);
    for (struct dirent *entry; entries && (entry = readdir(entries));) {
        if (strncmp(entry->d_name, "ucx_shm_posix_", 14) != 0 || !is_nobodys(dirfd(entries), entry->d_name))
            continue;
        if (unlinkat(dirfd(entries), entry->d_name, 0) == 0)
            tr_log(TR_LOG_INFO, "removed %s/%s, which a killed process left", path, entry->d_name);
    }
    if (entries) closedir(entries);
}

void tr_leftovers_remove(int32_t pid)
{
    if (tr__play) return;
    remove_system_v(pid);
    remove_posix();
}
