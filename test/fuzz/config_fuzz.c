/* test/fuzz/config_fuzz.c - config.json. What is taken has sizes and numbers that can be computed with, and is the
 * same model when it was written into a checkpoint and read again.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/model_config.h"

#include "fuzz.h"

#include <math.h>

static void check_numbers(const tr_model_config *config)
{
    FUZZ_PROMISE(config->layers > 0 && config->width > 0 && config->heads > 0 && config->kv_heads > 0);
    FUZZ_PROMISE(config->head_size > 0 && config->inner > 0 && config->vocabulary > 0 &&
                 config->positions > 0);
    FUZZ_PROMISE(config->heads % config->kv_heads == 0);
    FUZZ_PROMISE(isfinite(config->norm_eps) && isfinite(config->initializer_range));
    FUZZ_PROMISE(config->attention_dropout >= 0 && config->attention_dropout < 1);
    FUZZ_PROMISE(config->embedding_dropout >= 0 && config->embedding_dropout < 1);
    FUZZ_PROMISE(config->residual_dropout >= 0 && config->residual_dropout < 1);
    FUZZ_PROMISE(isfinite(tr_model_config_attention_scale(config, config->layers - 1)));
    FUZZ_PROMISE(tr_model_config_parameter_count(config) > 0);
    FUZZ_PROMISE(tr_model_config_longest_sequence(config) >= config->positions);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size_bytes)
{
    char *text = fuzz_text(bytes, size_bytes);
    tr_model_config config, again;
    tr_error err = {0};
    tr_status status = tr_model_config_parse(&config, text, "config.json", &err);
    tr_free(text);
    if (status) {
        fuzz_refused(status, &err);
        return 0;
    }
    check_numbers(&config);
    FUZZ_PROMISE(!tr_model_config_write(&config, fuzz_directory(), &err));
    FUZZ_PROMISE(!tr_model_config_read(&again, fuzz_directory(), &err));
    FUZZ_PROMISE(again.family == config.family && again.layers == config.layers &&
                 again.width == config.width);
    FUZZ_PROMISE(again.head_size == config.head_size && again.inner == config.inner);
    FUZZ_PROMISE(again.norm_eps == config.norm_eps && again.attention_dropout == config.attention_dropout);
    FUZZ_PROMISE(again.embedding_dropout == config.embedding_dropout &&
                 again.residual_dropout == config.residual_dropout);
    FUZZ_PROMISE(again.rope.kind == config.rope.kind && again.rope.theta == config.rope.theta);
    FUZZ_PROMISE(again.tied == config.tied && again.activation == config.activation);
    tr_model_config_release(&config);
    tr_model_config_release(&again);
    return 0;
}
