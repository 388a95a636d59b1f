/* test/fuzz/checkpoint_fuzz.c - trainer/manifest.json and, behind a NUL, trainer/state.json, of a checkpoint whose other
 * files are good. It is taken only where the manifest tells each of its files as it is, and means the same when it is
 * written again.
 * SPDX-License-Identifier: Apache-2.0 */
#include "fuzz.h"
#include "pipelines/checkpoint_files.h"
#include "pipelines/checkpoint_manifest.h"

#include <inttypes.h>

static const char *const good[] = {"config.json", "model.safetensors", "trainer/optimizer.safetensors"};

static char *path_of(const char *name)
{
    char *path = tr_format("%s/step-1/%s", fuzz_directory(), name);
    FUZZ_PROMISE(path);
    return path;
}

static void write_file(const char *name, const void *bytes, size_t size_bytes)
{
    char *path = path_of(name);
    FILE *stream = fopen(path, "w"); /* no fsync: that is what takes the time */
    FUZZ_PROMISE(stream && fwrite(bytes, 1, size_bytes, stream) == size_bytes && fclose(stream) == 0);
    tr_free(path);
}

/* Damages one file by a byte: whoever takes the checkpoint now has not looked. */
static void check_that_damage_is_seen(const char *directory)
{
    tr_trainer_state state;
    tr_error err = {0};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        write_file(good[i], "Good", 4);
        tr_status status = tr_checkpoint_verify(directory, &state, &err);
        FUZZ_PROMISE(status == TR_ECORRUPT && strstr(err.message, good[i]));
        write_file(good[i], "good", 4);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size_bytes)
{
    static char *directory;
    tr_error err = {0};
    if (!directory) {
        char *trainer = path_of("trainer");
        FUZZ_PROMISE(!tr_directory_make(trainer, &err));
        tr_free(trainer);
        for (size_t i = 0; i < sizeof good / sizeof *good; i++) write_file(good[i], "good", 4);
        directory = path_of("");
    }
    const uint8_t *nul = memchr(bytes, 0, size_bytes);
    size_t manifest_bytes = nul ? (size_t)(nul - bytes) : size_bytes;
    write_file("trainer/manifest.json", bytes, manifest_bytes);
    write_file("trainer/state.json", nul ? nul + 1 : bytes, nul ? size_bytes - manifest_bytes - 1 : 0);
    tr_trainer_state state, again;
    tr_status status = tr_checkpoint_verify(directory, &state, &err);
    if (!status) check_that_damage_is_seen(directory);
    if (status) fuzz_refused(status, &err);

    /* The state by itself, which a hash in the manifest mostly hides. */
    FUZZ_PROMISE(!tr_manifest_write(directory, &err));
    status = tr_checkpoint_verify(directory, &state, &err);
    if (status) {
        fuzz_refused(status, &err);
        return 0;
    }
    char *text = tr_format("{\"version\": 1, \"updates\": %" PRIu32 ", \"tokens\": %" PRIu64 "}",
                           state.updates, state.tokens);
    write_file("trainer/state.json", text, strlen(text));
    tr_free(text);
    FUZZ_PROMISE(tr_checkpoint_verify(directory, &again, &err) == TR_ECORRUPT ||
                 (again.updates == state.updates && again.tokens == state.tokens));
    FUZZ_PROMISE(!tr_manifest_write(directory, &err) && !tr_checkpoint_verify(directory, &again, &err));
    FUZZ_PROMISE(again.updates == state.updates && again.tokens == state.tokens);
    return 0;
}
