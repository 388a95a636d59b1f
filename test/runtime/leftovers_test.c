/* test/runtime/leftovers_test.c - what a killed process left is removed, what somebody uses is not.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/leftovers.h"

#include "check.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <unistd.h>

static char directory[] = "/dev/shm/troupe-test-XXXXXX";

static int make(const char *name)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    int file = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    CU_ASSERT_FATAL(file >= 0 && ftruncate(file, 4096) == 0);
    return file;
}

static bool is_there(const char *name)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    return access(path, F_OK) == 0;
}

static void removes(const char *name)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    unlink(path);
}

static void posix_segments_go_when_nobody_has_them(void)
{
    CU_ASSERT_FATAL(mkdtemp(directory) != NULL);
    setenv("UCX_POSIX_DIR", directory, 1);
    close(make("ucx_shm_posix_left"));
    close(make("of_another"));
    int open_file = make("ucx_shm_posix_open"), mapped_file = make("ucx_shm_posix_mapped");
    void *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, mapped_file, 0);
    close(mapped_file);
    tr_leftovers_remove(getpid());
    CU_ASSERT(!is_there("ucx_shm_posix_left"));
    CU_ASSERT(is_there("of_another"));
    CU_ASSERT(is_there("ucx_shm_posix_open"));
    CU_ASSERT(is_there("ucx_shm_posix_mapped"));
    close(open_file);
    munmap(memory, 4096);
    tr_leftovers_remove(getpid());
    CU_ASSERT(!is_there("ucx_shm_posix_open"));
    CU_ASSERT(!is_there("ucx_shm_posix_mapped"));
    removes("of_another");
    CU_ASSERT_EQUAL(rmdir(directory), 0);
    unsetenv("UCX_POSIX_DIR");
}

static bool exists(int segment)
{
    struct shmid_ds info;
    return shmctl(segment, IPC_STAT, &info) == 0;
}

static void system_v_segments_go_with_who_made_them(void)
{
    int pipe_ends[2], theirs = -1, mine = shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0600);
    CU_ASSERT_FATAL(pipe(pipe_ends) == 0 && mine >= 0);
    pid_t child = fork();
    if (child == 0) {
        int made = shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0600);
        _exit(write(pipe_ends[1], &made, sizeof made) != sizeof made);
    }
    CU_ASSERT_EQUAL(read(pipe_ends[0], &theirs, sizeof theirs), sizeof theirs);
    CU_ASSERT(waitpid(child, NULL, 0) == child && exists(theirs));
    tr_leftovers_remove(child);
    CU_ASSERT(!exists(theirs));
    CU_ASSERT(exists(mine));
    shmctl(mine, IPC_RMID, NULL);
    close(pipe_ends[0]);
    close(pipe_ends[1]);
}

static const check_test tests[] = {
    CHECK_TEST(posix_segments_go_when_nobody_has_them),
    CHECK_TEST(system_v_segments_go_with_who_made_them),
};
CHECK_MAIN("leftovers", tests)
