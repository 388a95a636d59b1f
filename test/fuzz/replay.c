/* test/fuzz/replay.c - a fuzz target without libFuzzer: runs it over the files and folders given. So the seeds are
 * tests in every build, also gcc's, and a finding can be run under a debugger.
 * SPDX-License-Identifier: Apache-2.0 */
#include "fuzz.h"

#include <dirent.h>

static int replay_file(const char *path)
{
    char *text;
    size_t size_bytes;
    tr_error err = {0};
    if (tr_file_read(path, &text, &size_bytes, &err)) {
        fprintf(stderr, "%s\n", err.message);
        return -1;
    }
    uint8_t *exact =
        tr_alloc(size_bytes); /* no byte more, so that AddressSanitizer sees a read behind the end */
    FUZZ_PROMISE(exact);
    memcpy(exact, text, size_bytes);
    tr_free(text);
    LLVMFuzzerTestOneInput(exact, size_bytes);
    tr_free(exact);
    return 1;
}

static int replay_folder(const char *path)
{
    DIR *folder = opendir(path);
    int n = 0;
    FUZZ_PROMISE(folder);
    for (struct dirent *entry; n >= 0 && (entry = readdir(folder));) {
        if (entry->d_name[0] == '.') continue;
        char *inside = tr_format("%s/%s", path, entry->d_name);
        FUZZ_PROMISE(inside);
        n = replay_file(inside) < 0 ? -1 : n + 1;
        tr_free(inside);
    }
    closedir(folder);
    return n;
}

int main(int argc, char **argv)
{
    int n = 0;
    for (int i = 1; i < argc; i++) {
        int ran = tr_path_is_directory(argv[i]) ? replay_folder(argv[i]) : replay_file(argv[i]);
        if (ran < 0) return 2;
        n += ran;
    }
    printf("%d inputs\n", n);
    return n > 0 ? 0 : 2; /* no input tests nothing */
}
