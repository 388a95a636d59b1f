/* pipelines/model_config.c - reads config.json. Every key that is looked at is remembered; what remains must
 * be on the list of keys that change no number, or it is refused.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/model_config.h"

#include "base/file.h"
#include "base/memory.h"
#include "pipelines/config_reader.h"
#include "pipelines/recipe.h"
#include "pipelines/rope_config.h"
#include "pipelines/text.h"

#include <jansson.h>
#include <math.h>
#include <string.h>

/* Bookkeeping, generation and classification heads: nothing here changes what a language model computes. */
static const char *const harmless_keys[] = {
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_attn_implementation_internal",
    "_commit_hash",
    "_num_labels",
    "_name_or_path",
    "architectures",
    "attn_implementation",
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
    "is_llama_config",
    "label2id",
    "length_penalty",
    "max_length",
    "max_new_tokens",
    "max_sequence_length",
    "min_length",
    "min_new_tokens",
    "model_type",
    "n_ctx",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_labels",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "pad_token_id",
    "prefix",
    "problem_type",
    "remove_invalid_values",
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
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "typical_p",
    "unk_token_id",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
};

static double read_dropout(tr_config_reader *self, const char *key, double fallback)
{
    double rate = tr__config_number(self, key, fallback, 0);
    if (rate < 1) return rate;
    tr__config_refuse(self, TR_EINVAL, key, "is not below 1; it is the share that training drops");
    return fallback;
}

static tr_activation read_activation(tr_config_reader *self, const char *key, tr_activation fallback)
{
    static const struct {
        const char *name;
        tr_activation kind;
    } known[] = {
        {"silu", TR_SILU},
        {"swish", TR_SILU},
        {"relu", TR_RELU},
        {"gelu", TR_GELU_ERF},
        {"gelu_python", TR_GELU_ERF},
        {"gelu_new", TR_GELU_TANH}, /* one function, written in five ways */
        {"gelu_pytorch_tanh", TR_GELU_TANH},
        {"gelu_python_tanh", TR_GELU_TANH},
        {"gelu_fast", TR_GELU_TANH},
        {"gelu_accurate", TR_GELU_TANH},
    };
    json_t *value = tr__config_look(self, key);
    if (!value) return fallback;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (json_is_string(value) && strcmp(json_string_value(value), known[i].name) == 0)
            return known[i].kind;
    tr__config_refuse(
        self, TR_EUNSUPPORTED, key,
        "is not supported; known are silu (or swish), gelu, gelu_new (or gelu_pytorch_tanh) and relu");
    return fallback;
}

static void read_gpt2(tr_config_reader *self, tr_model_config *config)
{
    config->layers = tr__config_size_either(self, "n_layer", "num_hidden_layers", TR_CONFIG_REQUIRED);
    config->width = tr__config_size_either(self, "n_embd", "hidden_size", TR_CONFIG_REQUIRED);
    config->heads = config->kv_heads =
        tr__config_size_either(self, "n_head", "num_attention_heads", TR_CONFIG_REQUIRED);
    config->vocabulary = tr__config_size(self, "vocab_size", TR_CONFIG_REQUIRED);
    config->positions =
        tr__config_size_either(self, "n_positions", "max_position_embeddings", TR_CONFIG_REQUIRED);
    if (config->width > TR_CONFIG_LARGEST_SIZE / 4)
        tr__config_refuse(self, TR_EINVAL, "n_embd", "is too large");
    config->inner = tr__config_size(self, "n_inner", self->status ? 1 : 4 * config->width);
    config->head_size = config->width / config->heads;
    if (config->width % config->heads)
        tr__config_refuse(self, TR_EINVAL, "n_head", "does not divide n_embd evenly");
    config->norm_eps = (float)tr__config_number(self, "layer_norm_epsilon", 1e-5, 0);
    config->activation = read_activation(self, "activation_function", TR_GELU_TANH);
    config->tied = tr__config_flag(self, "tie_word_embeddings", true);
    config->attention_bias = config->mlp_bias = true;
    config->scale_attention = tr__config_flag(self, "scale_attn_weights", true);
    config->scale_attention_by_layer = tr__config_flag(self, "scale_attn_by_inverse_layer_idx", false);
    tr__config_must_be_off(self, "add_cross_attention");
    tr__config_flag(self, "reorder_and_upcast_attn", false); /* the same numbers where all is float32 */
    config->attention_dropout = read_dropout(self, "attn_pdrop", 0.1); /* transformers' defaults */
    config->embedding_dropout = read_dropout(self, "embd_pdrop", 0.1);
    config->residual_dropout = read_dropout(self, "resid_pdrop", 0.1);
}

enum { LARGEST_HEAD = 1 << 16 };

static void read_llama(tr_config_reader *self, tr_model_config *config)
{
    config->layers = tr__config_size(self, "num_hidden_layers", TR_CONFIG_REQUIRED);
    config->width = tr__config_size(self, "hidden_size", TR_CONFIG_REQUIRED);
    config->heads = tr__config_size(self, "num_attention_heads", TR_CONFIG_REQUIRED);
    config->kv_heads = tr__config_size(self, "num_key_value_heads", config->heads);
    config->inner = tr__config_size(self, "intermediate_size", TR_CONFIG_REQUIRED);
    config->vocabulary = tr__config_size(self, "vocab_size", TR_CONFIG_REQUIRED);
    config->positions = tr__config_size(self, "max_position_embeddings", TR_CONFIG_REQUIRED);
    int32_t even_share = config->width / config->heads;
    config->head_size = tr__config_size(self, "head_dim", even_share ? even_share : 1);
    if (!tr__config_look(self, "head_dim") && config->width % config->heads)
        tr__config_refuse(self, TR_EINVAL, "num_attention_heads", "does not divide hidden_size evenly");
    if (config->heads % config->kv_heads)
        tr__config_refuse(self, TR_EINVAL, "num_key_value_heads",
                          "does not divide num_attention_heads evenly");
    if (config->head_size > LARGEST_HEAD)
        tr__config_refuse(self, TR_EUNSUPPORTED, "head_dim",
                          "is more than 65536, the largest head supported");
    if (config->head_size % 2)
        tr__config_refuse(self, TR_EINVAL, "head_dim", "is odd, but rotary positions turn pairs");
    config->norm_eps = (float)tr__config_number(self, "rms_norm_eps", 1e-6, 0);
    config->activation = read_activation(self, "hidden_act", TR_SILU);
    config->tied = tr__config_flag(self, "tie_word_embeddings", false);
    config->attention_bias = tr__config_flag(self, "attention_bias", false);
    config->mlp_bias = tr__config_flag(self, "mlp_bias", false);
    config->scale_attention = true;
    if (!self->status) tr__rope_config_read(self, config->positions, config->head_size, &config->rope);
    tr__config_must_be_off(self, "rope_interleaved"); /* other programs turn neighbours instead of halves */
    tr__config_size(self, "pretraining_tp", 1);       /* another way to split the same product */
    config->attention_dropout = read_dropout(self, "attention_dropout", 0);
}

static void check_rest(tr_config_reader *self)
{
    static const size_t n_harmless = sizeof harmless_keys / sizeof *harmless_keys;
    tr__config_must_be_off(self, "is_encoder_decoder");
    if (tr__config_look(self, "quantization_config"))
        tr__config_refuse(self, TR_EUNSUPPORTED, "quantization_config",
                          "is not supported; give the model with weights that are not quantized");
    json_t *pruned = tr__config_look(self, "pruned_heads");
    if (pruned && json_object_size(pruned))
        tr__config_refuse(self, TR_EUNSUPPORTED, "pruned_heads", "is not supported");
    tr__config_refuse_rest(self, harmless_keys, n_harmless, "is an option this program does not know");
}

static void read_all(tr_config_reader *self, tr_model_config *config)
{
    json_t *value = tr__config_look(self, "model_type");
    const char *type = json_is_string(value) ? json_string_value(value) : "";
    if (strcmp(type, tr_family_name(TR_FAMILY_GPT2)) == 0) {
        config->family = TR_FAMILY_GPT2;
        read_gpt2(self, config);
    } else if (strcmp(type, tr_family_name(TR_FAMILY_LLAMA)) == 0) {
        config->family = TR_FAMILY_LLAMA;
        read_llama(self, config);
    } else {
        tr__config_refuse(self, TR_EUNSUPPORTED, "model_type", "is not supported; known are gpt2 and llama");
    }
    config->initializer_range = (float)tr__config_number(self, "initializer_range", 0.02, 0);
    check_rest(self);
}

/* Sizes of a hostile file multiply to more than 64 bits, never to more than 128. */
static __int128 count_parameters(const tr_model_config *self)
{
    __int128 width = self->width, inner = self->inner;
    __int128 q = (__int128)self->heads * self->head_size, kv = (__int128)self->kv_heads * self->head_size;
    __int128 attention =
        width * q + 2 * width * kv + q * width + (self->attention_bias ? q + 2 * kv + width : 0);
    __int128 embedding = width * self->vocabulary, head = self->tied ? 0 : embedding;
    if (self->family == TR_FAMILY_GPT2) {
        __int128 layer =
            4 * width + attention + 2 * width * inner + inner + width; /* two norms with biases */
        return embedding + width * self->positions + layer * self->layers + 2 * width + head;
    }
    __int128 layer = 2 * width + attention + 3 * width * inner + (self->mlp_bias ? 2 * inner + width : 0);
    return embedding + layer * self->layers + width + head;
}

enum { MOST_PARAMETERS_LOG2 = 56 }; /* their bytes, also of several copies, still fit 64 bits */

tr_status tr_model_config_parse(tr_model_config *out, const char *json, const char *path, tr_error *err)
{
    json_error_t problem;
    char quoted[TR__QUOTED_SIZE];
    json_t *root = json_loads(json, JSON_REJECT_DUPLICATES, &problem);
    if (!root)
        return tr_fail(err, TR_EINVAL, "%s:%d: not valid JSON: %s", path, problem.line,
                       tr__quoted(problem.text, quoted));
    tr_config_reader reader = {.object = root, .seen = json_object(), .path = path, .prefix = "", .err = err};
    tr_model_config config = {0};
    if (!json_is_object(root))
        reader.status = tr_fail(err, TR_EINVAL, "%s: not a JSON object", path);
    else if (!reader.seen || !(config.json = tr_strdup(json)))
        reader.status = tr_fail(err, TR_ENOMEM, "no memory to read '%s'", path);
    else
        read_all(&reader, &config);
    if (!reader.status && count_parameters(&config) >> MOST_PARAMETERS_LOG2)
        reader.status =
            tr_fail(err, TR_EINVAL, "%s: its sizes make more parameters than any machine holds", path);
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
    size_t size_bytes = 0;
    tr_status status = path ? tr_file_read(path, &text, &size_bytes, err)
                            : tr_fail(err, TR_ENOMEM, "no memory to read '%s'", directory);
    if (!status && strlen(text) != size_bytes) /* what stands behind it would be ignored */
        status = tr_fail(err, TR_EINVAL, "%s: not valid JSON: there is a NUL byte in it", path);
    if (!status) status = tr_model_config_parse(out, text, path, err);
    tr_free(text);
    tr_free(path);
    return status;
}

void tr_model_config_release(tr_model_config *self)
{
    tr_free(self->json);
    tr_rope_scaling_release(&self->rope);
    *self = (tr_model_config){0};
}

/* With as few digits as give the same numbers back: 0.1 and not 0.10000000000000001. Free it with free. */
static char *dump(const json_t *root)
{
    char *text = json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
    json_t *again = text ? json_loads(text, 0, NULL) : NULL;
    if (!json_equal(root, again)) {
        free(text); /* jansson's */
        text = json_dumps(root, JSON_INDENT(2));
    }
    json_decref(again);
    return text;
}

/* Checkpoints hold float32, and transformers loads as the dtype that config.json names. *out is NULL where the text is
 * right as it is, else to be freed with free. False: no memory. */
static bool as_float32(const char *text, char **out)
{
    static const char *const keys[] = {"dtype", "torch_dtype"};
    json_t *root = json_loads(text, 0, NULL);
    bool good = root != NULL, changed = false;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const char *value = json_string_value(json_object_get(root, keys[i]));
        if (!value || strcmp(value, "float32") == 0) continue;
        good &= json_object_set_new(root, keys[i], json_string("float32")) == 0;
        changed = true;
    }
    *out = good && changed ? dump(root) : NULL;
    json_decref(root);
    return good && (!changed || *out);
}

static bool drops(const tr_model_config *self, double rate)
{
    if (self->attention_dropout != rate) return false;
    return self->family != TR_FAMILY_GPT2 ||
           (self->embedding_dropout == rate && self->residual_dropout == rate);
}

tr_status tr_model_config_set_dropout(tr_model_config *self, double rate, tr_error *err)
{
    static const char *const gpt2_keys[] = {"attn_pdrop", "embd_pdrop", "resid_pdrop", NULL};
    static const char *const llama_keys[] = {"attention_dropout", NULL};
    if (drops(self, rate)) return TR_OK;
    json_t *root = json_loads(self->json, 0, NULL);
    bool good = root != NULL;
    for (const char *const *key = self->family == TR_FAMILY_GPT2 ? gpt2_keys : llama_keys; *key; key++)
        good &= json_object_set_new(root, *key, json_real(rate)) == 0;
    char *text = good ? dump(root) : NULL;
    json_decref(root);
    tr_model_config changed;
    tr_status status = text ? tr_model_config_parse(&changed, text, "config.json", err)
                            : tr_fail(err, TR_ENOMEM, "no memory for the model's configuration");
    free(text); /* jansson's */
    if (status) return status;
    tr_model_config_release(self);
    *self = changed;
    return TR_OK;
}

tr_status tr_model_config_write(const tr_model_config *self, const char *directory, tr_error *err)
{
    char *path = tr_format("%s/config.json", directory);
    if (!path) return tr_fail(err, TR_ENOMEM, "no memory to write '%s'", directory);
    char *changed = NULL;
    tr_status status = TR_OK;
    if (!as_float32(self->json, &changed)) status = tr_fail(err, TR_ENOMEM, "no memory to write '%s'", path);
    const char *text = changed ? changed : self->json;
    if (!status) status = tr_file_write(path, text, strlen(text), err);
    free(changed); /* jansson's */
    tr_free(path);
    return status;
}

int64_t tr_model_config_parameter_count(const tr_model_config *self)
{
    return (int64_t)count_parameters(self);
}

float tr_model_config_attention_scale(const tr_model_config *self, int32_t layer)
{
    double scale = self->scale_attention ? 1 / sqrt((double)self->head_size) : 1;
    if (self->scale_attention_by_layer) scale /= layer + 1;
    return (float)scale;
}

int32_t tr_model_config_longest_sequence(const tr_model_config *self)
{
    bool grows = self->family == TR_FAMILY_LLAMA && self->rope.kind == TR_ROPE_DYNAMIC;
    return grows ? TR_CONFIG_LARGEST_SIZE : self->positions;
}

const char *tr_family_name(tr_family family)
{
    return family == TR_FAMILY_GPT2 ? "gpt2" : "llama";
}
