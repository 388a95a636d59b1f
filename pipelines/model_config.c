/* pipelines/model_config.c - reads config.json. Every key that is looked at is remembered; what remains must
 * be on the list of keys that change no number, or it is refused.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/model_config.h"

#include "base/file.h"
#include "base/memory.h"
#include "pipelines/recipe.h"
#include "pipelines/text.h"

#include <jansson.h>
#include <math.h>
#include <string.h>

/* Bookkeeping, generation and classification heads: nothing here changes what a language model computes. */
static const char *const harmless_keys[] = {
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_commit_hash",
    "_name_or_path",
    "architectures",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "chunk_size_feed_forward",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "id2label",
    "is_decoder",
    "label2id",
    "length_penalty",
    "max_length",
    "min_length",
    "model_type",
    "n_ctx",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "pad_token_id",
    "prefix",
    "problem_type",
    "remove_invalid_values",
    "reorder_and_upcast_attn",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tie_encoder_decoder",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "typical_p",
    "unk_token_id",
    "use_bfloat16",
    "use_cache",
};

/* Reading keeps the first failure and goes on with fallbacks, so that the list of keys reads like a list. */
typedef struct config_reader {
    json_t *root;
    json_t *seen; /* a set of the keys looked at */
    const char *path;
    tr_status status;
    tr_error *err;
} config_reader;

static void refuse(config_reader *self, tr_status status, const char *key, const char *words)
{
    if (self->status) return;
    json_t *value = json_object_get(self->root, key);
    char *text = value ? json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(15)) : NULL;
    char quoted[TR__QUOTED_SIZE];
    self->status = tr_fail(self->err, status, "%s: %s%s%s %s", self->path, key, text ? " " : "",
                           text ? tr__quoted(text, quoted) : "", words);
    free(text); /* jansson's */
}

/* NULL for a key that is not there or null. */
static json_t *look(config_reader *self, const char *key)
{
    json_object_set_new(self->seen, key, json_true());
    json_t *value = json_object_get(self->root, key);
    return json_is_null(value) ? NULL : value;
}

enum { REQUIRED = -1, LARGEST_SIZE = 1 << 28 };

static int32_t read_size(config_reader *self, const char *key, int32_t fallback)
{
    json_t *value = look(self, key);
    if (!value && fallback != REQUIRED) return fallback;
    if (!value)
        refuse(self, TR_EINVAL, key, "is missing; the model's sizes must be in its config.json");
    else if (!json_is_integer(value) || json_integer_value(value) < 1 ||
             json_integer_value(value) > LARGEST_SIZE)
        refuse(self, TR_EINVAL, key, "is not a whole number from 1 to 268435456");
    else
        return (int32_t)json_integer_value(value);
    return 1;
}

static double read_number(config_reader *self, const char *key, double fallback, double low)
{
    json_t *value = look(self, key);
    if (!value) return fallback;
    if (json_is_number(value) && json_number_value(value) >= low && isfinite(json_number_value(value)))
        return json_number_value(value);
    refuse(self, TR_EINVAL, key, "is not a number this option can have");
    return fallback;
}

static bool read_flag(config_reader *self, const char *key, bool fallback)
{
    json_t *value = look(self, key);
    if (value && !json_is_boolean(value)) refuse(self, TR_EINVAL, key, "is neither true nor false");
    return value ? json_is_true(value) : fallback;
}

/* An option that must stay off, because nothing here computes it. */
static void must_be_off(config_reader *self, const char *key)
{
    if (read_flag(self, key, false)) refuse(self, TR_EUNSUPPORTED, key, "is not supported");
}

static void read_dropout(config_reader *self, tr_model_config *config, const char *key, double fallback)
{
    double dropout = read_number(self, key, fallback, 0);
    if (dropout <= config->dropout) return;
    config->dropout = dropout;
    config->dropout_key = key;
}

static tr_activation read_activation(config_reader *self, const char *key, tr_activation fallback)
{
    static const struct {
        const char *name;
        tr_activation kind;
    } known[] = {{"gelu_new", TR_GELU_TANH}, {"gelu_pytorch_tanh", TR_GELU_TANH},
                 {"gelu", TR_GELU_ERF},      {"silu", TR_SILU},
                 {"swish", TR_SILU},         {"relu", TR_RELU}};
    json_t *value = look(self, key);
    if (!value) return fallback;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (json_is_string(value) && strcmp(json_string_value(value), known[i].name) == 0)
            return known[i].kind;
    refuse(self, TR_EUNSUPPORTED, key, "is not supported; known are gelu_new, gelu, silu and relu");
    return fallback;
}

static void read_gpt2(config_reader *self, tr_model_config *config)
{
    config->layers = read_size(self, "n_layer", REQUIRED);
    config->width = read_size(self, "n_embd", REQUIRED);
    config->heads = config->kv_heads = read_size(self, "n_head", REQUIRED);
    config->vocabulary = read_size(self, "vocab_size", REQUIRED);
    config->positions = read_size(self, "n_positions", REQUIRED);
    if (config->width > LARGEST_SIZE / 4) refuse(self, TR_EINVAL, "n_embd", "is too large");
    config->inner = read_size(self, "n_inner", self->status ? 1 : 4 * config->width);
    config->head_size = config->width / config->heads;
    if (config->width % config->heads) refuse(self, TR_EINVAL, "n_head", "does not divide n_embd evenly");
    config->norm_eps = (float)read_number(self, "layer_norm_epsilon", 1e-5, 0);
    config->activation = read_activation(self, "activation_function", TR_GELU_TANH);
    config->tied = read_flag(self, "tie_word_embeddings", true);
    config->attention_bias = config->mlp_bias = true;
    config->scale_attention = read_flag(self, "scale_attn_weights", true);
    config->scale_attention_by_layer = read_flag(self, "scale_attn_by_inverse_layer_idx", false);
    must_be_off(self, "add_cross_attention");
    read_dropout(self, config, "attn_pdrop", 0.1); /* what is not written is transformers' default */
    read_dropout(self, config, "embd_pdrop", 0.1);
    read_dropout(self, config, "resid_pdrop", 0.1);
}

/* Scaled frequencies are refused. `key` is rope_parameters (transformers 5) or rope_scaling (before). */
static void check_rope(config_reader *self, const char *key, double *theta)
{
    json_t *rope = look(self, key);
    if (!rope) return;
    if (!json_is_object(rope)) {
        refuse(self, TR_EINVAL, key, "is no object");
        return;
    }
    const char *name;
    json_t *value;
    json_object_foreach(rope, name, value)
    {
        bool type = strcmp(name, "rope_type") == 0 || strcmp(name, "type") == 0;
        bool whole = strcmp(name, "partial_rotary_factor") == 0 && json_is_number(value) &&
                     json_number_value(value) == 1;
        if (strcmp(name, "rope_theta") == 0 && json_is_number(value) && json_number_value(value) > 0)
            *theta = json_number_value(value);
        else if (!json_is_null(value) && !whole &&
                 !(type && json_is_string(value) && strcmp(json_string_value(value), "default") == 0))
            refuse(self, TR_EUNSUPPORTED, key,
                   "is not supported: only rope_type default with its rope_theta is");
    }
}

static void read_llama(config_reader *self, tr_model_config *config)
{
    config->layers = read_size(self, "num_hidden_layers", REQUIRED);
    config->width = read_size(self, "hidden_size", REQUIRED);
    config->heads = read_size(self, "num_attention_heads", REQUIRED);
    config->kv_heads = read_size(self, "num_key_value_heads", config->heads);
    config->inner = read_size(self, "intermediate_size", REQUIRED);
    config->vocabulary = read_size(self, "vocab_size", REQUIRED);
    config->positions = read_size(self, "max_position_embeddings", REQUIRED);
    int32_t even_share = config->width / config->heads;
    config->head_size = read_size(self, "head_dim", even_share ? even_share : 1);
    if (!look(self, "head_dim") && config->width % config->heads)
        refuse(self, TR_EINVAL, "num_attention_heads", "does not divide hidden_size evenly");
    if (config->heads % config->kv_heads)
        refuse(self, TR_EINVAL, "num_key_value_heads", "does not divide num_attention_heads evenly");
    if (config->head_size % 2) refuse(self, TR_EINVAL, "head_dim", "is odd, but rotary positions turn pairs");
    config->norm_eps = (float)read_number(self, "rms_norm_eps", 1e-6, 0);
    config->activation = read_activation(self, "hidden_act", TR_SILU);
    config->tied = read_flag(self, "tie_word_embeddings", false);
    config->attention_bias = read_flag(self, "attention_bias", false);
    config->mlp_bias = read_flag(self, "mlp_bias", false);
    config->scale_attention = true;
    double theta = read_number(self, "rope_theta", 10000, 1e-30);
    check_rope(self, "rope_scaling", &theta);
    check_rope(self, "rope_parameters", &theta);
    config->rope_theta = (float)theta;
    read_size(self, "pretraining_tp", 1); /* another way to split the same product */
    read_dropout(self, config, "attention_dropout", 0);
}

static void check_rest(config_reader *self)
{
    static const size_t n_harmless = sizeof harmless_keys / sizeof *harmless_keys;
    must_be_off(self, "is_encoder_decoder");
    json_t *pruned = look(self, "pruned_heads");
    if (pruned && json_object_size(pruned)) refuse(self, TR_EUNSUPPORTED, "pruned_heads", "is not supported");
    const char *key;
    json_t *value;
    json_object_foreach(self->root, key, value)
    {
        if (json_is_null(value) || json_object_get(self->seen, key)) continue;
        size_t i = 0;
        while (i < n_harmless && strcmp(harmless_keys[i], key) != 0) i++;
        if (i == n_harmless) refuse(self, TR_EUNSUPPORTED, key, "is an option this program does not know");
    }
}

static void read_all(config_reader *self, tr_model_config *config)
{
    json_t *value = look(self, "model_type");
    const char *type = json_is_string(value) ? json_string_value(value) : "";
    if (strcmp(type, tr_family_name(TR_FAMILY_GPT2)) == 0) {
        config->family = TR_FAMILY_GPT2;
        read_gpt2(self, config);
    } else if (strcmp(type, tr_family_name(TR_FAMILY_LLAMA)) == 0) {
        config->family = TR_FAMILY_LLAMA;
        read_llama(self, config);
    } else {
        refuse(self, TR_EUNSUPPORTED, "model_type", "is not supported; known are gpt2 and llama");
    }
    config->initializer_range = (float)read_number(self, "initializer_range", 0.02, 0);
    check_rest(self);
}

tr_status tr_model_config_parse(tr_model_config *out, const char *json, const char *path, tr_error *err)
{
    json_error_t problem;
    char quoted[TR__QUOTED_SIZE];
    json_t *root = json_loads(json, JSON_REJECT_DUPLICATES, &problem);
    if (!root)
        return tr_fail(err, TR_EINVAL, "%s:%d: not valid JSON: %s", path, problem.line,
                       tr__quoted(problem.text, quoted));
    config_reader reader = {.root = root, .seen = json_object(), .path = path, .status = TR_OK, .err = err};
    tr_model_config config = {0};
    if (!json_is_object(root))
        reader.status = tr_fail(err, TR_EINVAL, "%s: not a JSON object", path);
    else if (!reader.seen || !(config.json = tr_strdup(json)))
        reader.status = tr_fail(err, TR_ENOMEM, "no memory to read '%s'", path);
    else
        read_all(&reader, &config);
    json_decref(reader.seen);
    json_decref(root);
    if (reader.status)
        tr_model_config_release(&config);
    else
        *out = config;
    return reader.status;
}

tr_status tr_model_config_read(tr_model_config *out, const char *directory, tr_error *err)
{
    char *path = tr_format("%s/config.json", directory);
    char *text = NULL;
    size_t size_bytes;
    tr_status status = path ? tr_file_read(path, &text, &size_bytes, err)
                            : tr_fail(err, TR_ENOMEM, "no memory to read '%s'", directory);
    if (!status) status = tr_model_config_parse(out, text, path, err);
    tr_free(text);
    tr_free(path);
    return status;
}

void tr_model_config_release(tr_model_config *self)
{
    tr_free(self->json);
    *self = (tr_model_config){0};
}

/* Checkpoints hold float32, and transformers loads as the dtype that config.json names. NULL: the text is right as it is. */
static char *as_float32(const char *text)
{
    static const char *const keys[] = {"dtype", "torch_dtype"};
    json_t *root = json_loads(text, 0, NULL);
    bool changed = false;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const char *value = json_string_value(json_object_get(root, keys[i]));
        if (value && strcmp(value, "float32") != 0)
            changed |= json_object_set_new(root, keys[i], json_string("float32")) == 0;
    }
    char *out = changed ? json_dumps(root, JSON_INDENT(2)) : NULL;
    json_decref(root);
    return out;
}

tr_status tr_model_config_write(const tr_model_config *self, const char *directory, tr_error *err)
{
    char *path = tr_format("%s/config.json", directory);
    if (!path) return tr_fail(err, TR_ENOMEM, "no memory to write '%s'", directory);
    char *changed = as_float32(self->json);
    const char *text = changed ? changed : self->json;
    tr_status status = tr_file_write(path, text, strlen(text), err);
    free(changed); /* jansson's */
    tr_free(path);
    return status;
}

int64_t tr_model_config_parameter_count(const tr_model_config *self)
{
    int64_t width = self->width, inner = self->inner;
    int64_t q = (int64_t)self->heads * self->head_size, kv = (int64_t)self->kv_heads * self->head_size;
    int64_t attention =
        width * q + 2 * width * kv + q * width + (self->attention_bias ? q + 2 * kv + width : 0);
    int64_t embedding = width * self->vocabulary, head = self->tied ? 0 : embedding;
    if (self->family == TR_FAMILY_GPT2) {
        int64_t layer = 4 * width + attention + 2 * width * inner + inner + width; /* two norms with biases */
        return embedding + width * self->positions + layer * self->layers + 2 * width + head;
    }
    int64_t layer = 2 * width + attention + 3 * width * inner + (self->mlp_bias ? 2 * inner + width : 0);
    return embedding + layer * self->layers + width + head;
}

float tr_model_config_attention_scale(const tr_model_config *self, int32_t layer)
{
    double scale = self->scale_attention ? 1 / sqrt((double)self->head_size) : 1;
    if (self->scale_attention_by_layer) scale /= layer + 1;
    return (float)scale;
}

const char *tr_family_name(tr_family family)
{
    return family == TR_FAMILY_GPT2 ? "gpt2" : "llama";
}
