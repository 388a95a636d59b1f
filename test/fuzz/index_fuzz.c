/* test/fuzz/index_fuzz.c - model.safetensors.index.json over two good shards, a.safetensors with the tensor x and
 * b.safetensors with y: it opens only where it says just that.
 * SPDX-License-Identifier: Apache-2.0 */
#include "fuzz.h"
#include "pipelines/safetensors.h"

static void make_shard(const char *directory, const char *base, const char *tensor)
{
    char *path = tr_format("%s/%s", directory, base);
    tr_safetensors_writer *writer;
    tr_error err = {0};
    tr_shape shape = {.rank = 1, .dims = {2}};
    const float values[2] = {1, 2};
    FUZZ_PROMISE(!tr_safetensors_writer_new(&writer, path, &err));
    FUZZ_PROMISE(!tr_safetensors_writer_declare(writer, tensor, TR_F32, &shape, &err));
    FUZZ_PROMISE(!tr_safetensors_writer_begin(writer, TR_TENSORS_SORTED, &err));
    FUZZ_PROMISE(!tr_safetensors_writer_put(writer, 0, 0, values, sizeof values, &err));
    FUZZ_PROMISE(!tr_safetensors_writer_commit(&writer, &err));
    tr_free(path);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size_bytes)
{
    static char *index;
    const char *directory = fuzz_directory();
    if (!index) {
        make_shard(directory, "a.safetensors", "x");
        make_shard(directory, "b.safetensors", "y");
        index = tr_format("%s/model.safetensors.index.json", directory);
    }
    FILE *stream = fopen(index, "w");
    FUZZ_PROMISE(stream && fwrite(bytes, 1, size_bytes, stream) == size_bytes && fclose(stream) == 0);
    tr_safetensors *model;
    tr_error err = {0};
    tr_status status = tr_safetensors_open_model(&model, directory, &err);
    if (status) {
        fuzz_refused(status, &err);
        return 0;
    }
    bool x = tr_safetensors_find(model, "x"), y = tr_safetensors_find(model, "y");
    FUZZ_PROMISE(tr_safetensors_count(model) == (size_t)x + y);
    tr_safetensors_close(&model);
    return 0;
}
