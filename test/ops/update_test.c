/* test/ops/update_test.c - the end of a step over several tensors on a device's stream is that of ops/optimizer.h, tensor by
 * tensor. On the CPU with equal bits; with TROUPE_TEST_DEVICE=cuda on a GPU (skipped where there is none), where sums and
 * roundings are the CPU's bits, and AdamW is within 2e-6 of its numbers: about six operations are rounded once each, some of
 * them fused there.
 * SPDX-License-Identifier: Apache-2.0 */
#include "ops/update.h"

#include "kernel_check.h"

#include <stdlib.h>

enum { N_TENSORS = 3 };
static const int64_t sizes[N_TENSORS] = {5, TR_NORM_BLOCK + 3, 130};
static const int64_t offsets[N_TENSORS] = {0, 16, 16 + TR_NORM_BLOCK + 16}; /* in each third of the state */
enum { THIRD = 16 + TR_NORM_BLOCK + 16 + 144 };

static tr_device *device;
static tr_stream *stream;

static void *memory(tr_memory_kind kind, size_t bytes)
{
    tr_error err = {0};
    void *out = NULL;
    CHECK_OK(tr_device_allocate(device, kind, bytes, &out, &err));
    return out;
}

static void copy(void *to, const void *from, size_t bytes)
{
    tr_error err = {0};
    CHECK_OK(tr_stream_copy(stream, to, from, bytes, &err));
    CHECK_OK(tr_stream_synchronize(stream, &err));
}

static bool is_cpu(void)
{
    return tr_device_kind_of(device) == TR_DEVICE_CPU;
}

static bool same(const float *got, const float *wanted, int64_t n)
{
    if (is_cpu()) return memcmp(got, wanted, (size_t)n * sizeof *got) == 0;
    for (int64_t i = 0; i < n; i++)
        if (!(fabsf(got[i] - wanted[i]) <= 1e-7f + 2e-6f * fabsf(wanted[i]))) return false;
    return true;
}

/* p, m, v behind one another, then the gradient of the first and the last tensor in a flat one, the second's by itself. */
static void a_step_over_tensors_is_that_of_each(void)
{
    tr_error err = {0};
    float *state = filled(3 * THIRD, 1, 1), *flat = filled(THIRD, 1, 2), *own = filled(sizes[1], 1, 3);
    for (int64_t i = 2 * THIRD; i < 3 * THIRD; i++) state[i] = fabsf(state[i]) + 1e-3f;
    float *d_state = memory(TR_MEMORY_DEVICE, 3 * THIRD * 4), *d_flat = memory(TR_MEMORY_DEVICE, THIRD * 4),
          *d_own = memory(TR_MEMORY_DEVICE, (size_t)sizes[1] * 4),
          *got = memory(TR_MEMORY_PINNED, 3 * THIRD * 4);
    tr_bf16 *d_rounded = memory(TR_MEMORY_DEVICE, (size_t)sizes[1] * 2),
            *rounded = memory(TR_MEMORY_PINNED, (size_t)sizes[1] * 2);
    copy(d_state, state, 3 * THIRD * 4);
    copy(d_flat, flat, THIRD * 4);
    copy(d_own, own, (size_t)sizes[1] * 4);
    tr_update_tensor tensors[N_TENSORS];
    for (int t = 0; t < N_TENSORS; t++)
        tensors[t] = (tr_update_tensor){.p = d_state + offsets[t],
                                        .m = d_state + THIRD + offsets[t],
                                        .v = d_state + 2 * THIRD + offsets[t],
                                        .rounded = t == 1 ? d_rounded : NULL,
                                        .gradient = t == 1 ? d_own : NULL,
                                        .gradient_offset = t == 1 ? 0 : offsets[t],
                                        .n = sizes[t],
                                        .weight_decay = t == 2 ? 0.0f : 0.1f};
    tr_update *update = NULL;
    CHECK_OK(tr_update_new(&update, stream, NULL, tensors, N_TENSORS, &err));
    double *sums = memory(TR_MEMORY_PINNED, (size_t)tr_update_sum_count(update) * sizeof *sums),
           wanted_sums[2];
    CU_ASSERT_EQUAL(tr_update_sum_count(update), 4);
    CHECK_OK(tr_update_square_sums(update, d_flat, sums, &err));
    tr_adamw_options options = {
        .lr = 1e-2f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .gradient_scale = 0.5f, .step = 3};
    CHECK_OK(tr_update_apply(update, d_flat, &options, &err));
    copy(got, d_state, 3 * THIRD * 4);
    copy(rounded, d_rounded, (size_t)sizes[1] * 2);
    double *at = sums;
    for (int t = 0; t < N_TENSORS; t++) {
        const float *g = t == 1 ? own : flat + offsets[t];
        tr_square_sums(g, sizes[t], wanted_sums, NULL);
        for (int64_t k = 0; k < tr_norm_block_count(sizes[t]); k++, at++)
            CU_ASSERT(is_cpu() ? *at == wanted_sums[k] : fabs(*at / wanted_sums[k] - 1) < 1e-12);
        options.weight_decay = tensors[t].weight_decay;
        float *p = state + offsets[t], *m = p + THIRD, *v = m + THIRD;
        tr_adamw(p, m, v, g, p, m, v, NULL, sizes[t], &options, NULL);
    }
    CU_ASSERT(same(got, state, 3 * THIRD)); /* what lies between the tensors as well */
    for (int64_t i = 0; i < sizes[1]; i++) CU_ASSERT(rounded[i] == tr_bf16_of_f32(got[offsets[1] + i]));
    tr_update_destroy(&update);
    void *on_device[] = {d_state, d_flat, d_own, d_rounded}, *pinned[] = {got, rounded, sums};
    for (int i = 0; i < 4; i++) tr_device_free(device, TR_MEMORY_DEVICE, on_device[i]);
    for (int i = 0; i < 3; i++) tr_device_free(device, TR_MEMORY_PINNED, pinned[i]);
    floats_free(state, 3 * THIRD), floats_free(flat, THIRD), floats_free(own, sizes[1]);
}

/* By these the same gradients are joined on GPUs and on hosts. */
static void sums_and_roundings_have_the_cpus_bits(void)
{
    tr_error err = {0};
    int64_t n = sizes[1];
    size_t bytes = (size_t)n * sizeof(float);
    float *a = filled(n, 1, 4), *b = filled(n, 3, 5), *got = memory(TR_MEMORY_PINNED, bytes),
          *d_a = memory(TR_MEMORY_DEVICE, bytes), *d_b = memory(TR_MEMORY_DEVICE, bytes);
    tr_bf16 *d_rounded = memory(TR_MEMORY_DEVICE, bytes / 2), *rounded = memory(TR_MEMORY_PINNED, bytes / 2);
    copy(d_a, a, bytes);
    copy(d_b, b, bytes);
    CHECK_OK(tr_update_accumulate(stream, NULL, d_a, d_b, n, &err));
    CHECK_OK(tr_update_round(stream, NULL, d_a, d_rounded, n, &err));
    copy(got, d_a, bytes);
    copy(rounded, d_rounded, bytes / 2);
    tr_accumulate(a, b, n, NULL);
    CU_ASSERT(memcmp(got, a, bytes) == 0);
    for (int64_t i = 0; i < n; i++) CU_ASSERT(rounded[i] == tr_bf16_of_f32(a[i]));
    void *on_device[] = {d_a, d_b, d_rounded}, *pinned[] = {got, rounded};
    for (int i = 0; i < 3; i++) tr_device_free(device, TR_MEMORY_DEVICE, on_device[i]);
    for (int i = 0; i < 2; i++) tr_device_free(device, TR_MEMORY_PINNED, pinned[i]);
    floats_free(a, n), floats_free(b, n);
}

static const check_test tests[] = {
    CHECK_TEST(a_step_over_tensors_is_that_of_each),
    CHECK_TEST(sums_and_roundings_have_the_cpus_bits),
};

int main(void)
{
    const char *name = getenv("TROUPE_TEST_DEVICE");
    tr_device_kind kind = TR_DEVICE_CPU;
    tr_error err = {0};
    if (name && tr_device_kind_parse(&kind, name, &err) != TR_OK) return 1;
    if (tr_device_open(&device, kind, 0, &err) != TR_OK) {
        printf("not run: %s\n", err.message);
        return 77; /* CTest: skipped */
    }
    if (tr_stream_new(&stream, device, &err) != TR_OK) return 1;
    int failed = check_run("update", tests, sizeof tests / sizeof *tests);
    tr_stream_destroy(&stream);
    tr_device_close(&device);
    return failed;
}
