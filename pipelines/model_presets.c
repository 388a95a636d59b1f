/* pipelines/model_presets.c - models that come from no file: presets and sizes in a recipe. Each is first
 * written as the config.json that transformers would load, and then read like any other, so that both ways
 * cannot differ.
 * Sources: Radford et al., 2019, table 2, for the sizes of GPT-2; small llamas in common use.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/model_config.h"

#include "base/memory.h"
#include "pipelines/recipe.h"
#include "pipelines/text.h"

#include <jansson.h>
#include <math.h>
#include <string.h>

typedef struct sizes {
    const char *name;
    tr_family family;
    int32_t layers, width, heads, kv_heads, head_size, inner, vocabulary, positions;
    double norm_eps, initializer_range, rope_theta;
    bool tied, bias;
} sizes;

#define GPT2(label, l, c, h)                                                                                 \
    {                                                                                                        \
        label, TR_FAMILY_GPT2, l, c, h, h, (c) / (h), 4 * (c), 50257, 1024, 1e-5, 0.02, 0, true, true        \
    }
#define LLAMA(label, l, c, h, i, p, tie)                                                                     \
    {                                                                                                        \
        label, TR_FAMILY_LLAMA, l, c, h, h, (c) / (h), i, 32000, p, 1e-5, 0.02, 10000, tie, false            \
    }
static const sizes presets[] = {
    GPT2("gpt2-124m", 12, 768, 12),
    GPT2("gpt2-355m", 24, 1024, 16),
    GPT2("gpt2-774m", 36, 1280, 20),
    LLAMA("llama-15m", 6, 288, 6, 768, 256, true),
    LLAMA("llama-42m", 8, 512, 8, 1376, 1024, true),
    LLAMA("llama-160m", 12, 768, 12, 3072, 2048, false),
};
enum { N_PRESETS = sizeof presets / sizeof *presets };

const char *tr_model_config_preset_name(size_t i)
{
    return i < N_PRESETS ? presets[i].name : NULL;
}

static json_t *gpt2_json(const sizes *model)
{
    return json_pack(
        "{s:[s], s:s, s:s, s:n, s:n, s:i, s:i, s:i, s:i, s:i, s:i, s:f, s:f, s:b, s:f, s:f, s:f, s:s, s:b}",
        "architectures", "GPT2LMHeadModel", "model_type", "gpt2", "dtype", "float32", "bos_token_id",
        "eos_token_id", "n_layer", model->layers, "n_embd", model->width, "n_head", model->heads, "n_inner",
        model->inner, "vocab_size", model->vocabulary, "n_positions", model->positions, "layer_norm_epsilon",
        model->norm_eps, "initializer_range", model->initializer_range, "tie_word_embeddings", model->tied,
        "attn_pdrop", 0.0, "embd_pdrop", 0.0, "resid_pdrop", 0.0, "activation_function", "gelu_new",
        "use_cache", true);
}

/* rope_theta stands where old transformers look for it and where new ones do. */
static json_t *llama_json(const sizes *model)
{
    json_t *json = json_pack(
        "{s:[s], s:s, s:s, s:n, s:n, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:b, s:b}", "architectures",
        "LlamaForCausalLM", "model_type", "llama", "dtype", "float32", "bos_token_id", "eos_token_id",
        "num_hidden_layers", model->layers, "hidden_size", model->width, "num_attention_heads", model->heads,
        "num_key_value_heads", model->kv_heads, "head_dim", model->head_size, "intermediate_size",
        model->inner, "vocab_size", model->vocabulary, "max_position_embeddings", model->positions,
        "tie_word_embeddings", model->tied, "attention_bias", model->bias);
    json_t *rest =
        json_pack("{s:b, s:f, s:f, s:f, s:{s:f, s:s}, s:f, s:s, s:b}", "mlp_bias", model->bias,
                  "rms_norm_eps", model->norm_eps, "initializer_range", model->initializer_range,
                  "rope_theta", model->rope_theta, "rope_parameters", "rope_theta", model->rope_theta,
                  "rope_type", "default", "attention_dropout", 0.0, "hidden_act", "silu", "use_cache", true);
    if (json && (!rest || json_object_update(json, rest) != 0)) {
        json_decref(json);
        json = NULL;
    }
    json_decref(rest);
    return json;
}

static tr_status from_sizes(tr_model_config *out, const sizes *model, tr_error *err)
{
    json_t *json = model->family == TR_FAMILY_GPT2 ? gpt2_json(model) : llama_json(model);
    char *text = json ? json_dumps(json, JSON_INDENT(2) | JSON_SORT_KEYS | JSON_REAL_PRECISION(15)) : NULL;
    char *lines = text ? tr_format("%s\n", text) : NULL;
    tr_status status = lines ? tr_model_config_parse(out, lines, model->name, err)
                             : tr_fail(err, TR_ENOMEM, "no memory for the model's configuration");
    tr_free(lines);
    free(text); /* jansson's */
    json_decref(json);
    return status;
}

tr_status tr_model_config_preset(tr_model_config *out, const char *name, tr_error *err)
{
    const char *names[N_PRESETS];
    char all[256] = "";
    for (size_t i = 0; i < N_PRESETS; i++) {
        if (strcmp(presets[i].name, name) == 0) return from_sizes(out, &presets[i], err);
        names[i] = presets[i].name;
        size_t used = strlen(all);
        snprintf(all + used, sizeof all - used, "%s%s", i ? ", " : "", names[i]);
    }
    const char *near = tr__nearest(name, names, N_PRESETS);
    char quoted[TR__QUOTED_SIZE];
    if (near)
        return tr_fail(err, TR_EINVAL, "%s is no preset; did you mean '%s'?", tr__quoted(name, quoted), near);
    return tr_fail(err, TR_EINVAL, "%s is no preset; there are %s", tr__quoted(name, quoted), all);
}

static tr_status check_against(const tr_model_config *config, const tr_recipe *recipe, tr_error *err)
{
    if (recipe->train.sequence > tr_model_config_longest_sequence(config))
        return tr_fail(err, TR_EINVAL,
                       "train.sequence '%d' is longer than the model's %d positions; shorten it",
                       recipe->train.sequence, config->positions);
    if (recipe->layout.pipeline > config->layers)
        return tr_fail(err, TR_EINVAL,
                       "layout.pipeline '%d' is more stages than the model's %d layers; give at most %d",
                       recipe->layout.pipeline, config->layers, config->layers);
    if ((int64_t)recipe->layout.pipeline * recipe->layout.pieces > config->layers)
        return tr_fail(err, TR_EINVAL,
                       "layout.pieces '%d' makes %lld stages of layout.pipeline %d, more than the model's %d "
                       "layers; give at most %d",
                       recipe->layout.pieces, (long long)recipe->layout.pipeline * recipe->layout.pieces,
                       recipe->layout.pipeline, config->layers, config->layers / recipe->layout.pipeline);
    int64_t sum = 0;
    for (size_t i = 0; i < recipe->layout.stages.count; i++) sum += recipe->layout.stages.items[i];
    if (recipe->layout.stages.count && sum != config->layers)
        return tr_fail(err, TR_EINVAL,
                       "layout.stages adds up to %lld of the model's %d layers; give every layer a stage",
                       (long long)sum, config->layers);
    return TR_OK;
}

tr_status tr_model_config_from_recipe(tr_model_config *out, const struct tr_recipe *recipe, tr_error *err)
{
    tr_model_config config;
    tr_status status;
    if (recipe->model.hf) {
        status = tr_model_config_read(&config, recipe->model.hf, err);
    } else if (recipe->model.preset) {
        status = tr_model_config_preset(&config, recipe->model.preset, err);
    } else {
        const sizes model = {
            "the recipe's model",     recipe->model.family,   recipe->model.layers,
            recipe->model.width,      recipe->model.heads,    recipe->model.kv_heads,
            recipe->model.head_size,  recipe->model.inner,    recipe->model.vocabulary,
            recipe->model.positions,  recipe->model.norm_eps, recipe->model.initializer_range,
            recipe->model.rope_theta, recipe->model.tie,      recipe->model.bias};
        status = from_sizes(&config, &model, err);
    }
    if (status) return status;
    if (!isnan(recipe->model.dropout))
        status = tr_model_config_set_dropout(&config, recipe->model.dropout, err);
    if (!status) status = check_against(&config, recipe, err);
    if (status)
        tr_model_config_release(&config);
    else
        *out = config;
    return status;
}
