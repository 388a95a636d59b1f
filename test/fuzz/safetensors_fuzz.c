/* test/fuzz/safetensors_fuzz.c - a whole file of tensors. Of a file that opens every byte of data belongs to exactly
 * one tensor, and lies where it may be read.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/safetensors.h"

#include "fuzz.h"

static void check_tensor(const tr_safetensors *file, const tr_tensor_info *tensor)
{
    enum { MOST = 64 };
    float values[MOST];
    int64_t ids[MOST];
    tr_error err = {0};
    FUZZ_PROMISE(tr_safetensors_find(file, tensor->name) == tensor);
    volatile uint8_t sum = 0; /* so that the reads are made */
    for (uint64_t i = 0; i < tensor->size_bytes; i++)
        sum = (uint8_t)(sum + ((const uint8_t *)tensor->data)[i]);
    if (!tensor->readable) return;
    int64_t count = tr_shape_elements(&tensor->shape);
    FUZZ_PROMISE(count >= 0 && (uint64_t)count * tr_dtype_bytes(tensor->dtype) == tensor->size_bytes);
    int64_t n = count < MOST ? count : MOST;
    (void)tr_tensor_read_f32(tensor, count - n, n, values, &err);
    (void)tr_tensor_read_i64(tensor, count - n, n, ids, &err);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size_bytes)
{
    char path[64];
    int descriptor;
    fuzz_file(bytes, size_bytes, path, &descriptor);
    tr_safetensors *file;
    tr_error err = {0};
    tr_status status = tr_safetensors_open(&file, path, &err);
    if (status) {
        fuzz_refused(status, &err);
    } else {
        uint64_t header = 8, data = 0;
        for (int i = 7; i >= 0; i--) header += (uint64_t)bytes[i] << 8 * i;
        for (size_t i = 0; i < tr_safetensors_count(file); i++) {
            const tr_tensor_info *tensor = tr_safetensors_at(file, i);
            check_tensor(file, tensor);
            data += tensor->size_bytes;
        }
        (void)tr_safetensors_metadata(file, "format");
        FUZZ_PROMISE(header + data == size_bytes);
        tr_safetensors_close(&file);
    }
    close(descriptor);
    return 0;
}
