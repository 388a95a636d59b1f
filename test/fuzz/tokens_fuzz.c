/* test/fuzz/tokens_fuzz.c - a file of token ids. Of data that opens every row can be taken, and holds only ids of the
 * vocabulary.
 * SPDX-License-Identifier: Apache-2.0 */
#include "fuzz.h"
#include "pipelines/data.h"

enum { T = 3, VOCABULARY = 8, MOST_ROWS = 16 };

static void check_row(const int32_t tokens[T], const int32_t targets[T])
{
    for (int t = 0; t < T; t++) {
        FUZZ_PROMISE(tokens[t] >= 0 && tokens[t] < VOCABULARY && targets[t] >= 0 && targets[t] < VOCABULARY);
        if (t > 0) FUZZ_PROMISE(targets[t - 1] == tokens[t]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size_bytes)
{
    char path[64], key[] = "tokens";
    int descriptor;
    fuzz_file(bytes, size_bytes, path, &descriptor);
    tr_recipe recipe = {.data = {.tokens = path, .key = key, .holdout = 0.25},
                        .train = {.sequence = T, .microbatch = 2, .accumulate = 1, .steps = 1, .seed = 1}};
    tr_data *data;
    tr_error err = {0};
    tr_status status = tr_data_open(&data, &recipe, VOCABULARY, &err);
    if (status) {
        fuzz_refused(status, &err);
    } else {
        int32_t tokens[T], targets[T];
        int64_t heldout = tr_data_validation_count(data);
        FUZZ_PROMISE(tr_data_training_tokens(data) > 0 && heldout >= 0);
        for (uint32_t row = 0; row < MOST_ROWS; row++) {
            tr_data_fill_training(data, row / 2, 0, row % 2, tokens, targets);
            check_row(tokens, targets);
        }
        for (int64_t row = 0; row < heldout && row < MOST_ROWS; row++) {
            tr_data_fill_validation(data, row, tokens, targets);
            check_row(tokens, targets);
        }
        tr_data_close(&data);
    }
    close(descriptor);
    return 0;
}
