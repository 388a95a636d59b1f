/* pipelines/gpt2.c - the GPT-2 family: learned positions, LayerNorm before, one matrix for q, k and v, biases
 * everywhere.
 * Its matrices are stored inputs first (transformers' Conv1D).
 * Sources: Radford et al., 2019, for the model; GPT2LMHeadModel of Hugging Face transformers for names and
 * orientation. Shape letters as in ops/operations.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/model_family.h"

#include <stdio.h>

/* The linear layer transformer.h.N.PART: inputs to outputs, with a bias. */
static tr_value linear(tr_model_builder *b, tr_value x, int64_t outputs, tr_model_init init, int32_t layer,
                       const char *part)
{
    char name[80];
    snprintf(name, sizeof name, "transformer.h.%d.%s", layer, part);
    return tr__model_linear(b, x, outputs, TR_WEIGHT_IN_OUT, init, true, name);
}

/* The LayerNorm of that name. */
static tr_value norm(tr_model_builder *b, tr_value x, const char *name)
{
    tr_shape shape = TR_SHAPE1(b->config->width);
    tr_value w = tr__model_parameter(b, TR_INIT_ONES, shape, "%s.weight", name);
    tr_value bias = tr__model_parameter(b, TR_INIT_ZEROS, shape, "%s.bias", name);
    return tr_layernorm(b->graph, x, w, bias, b->config->norm_eps);
}

static tr_value layer_norm(tr_model_builder *b, tr_value x, int32_t layer, const char *part)
{
    char name[80];
    snprintf(name, sizeof name, "transformer.h.%d.%s", layer, part);
    return norm(b, x, name);
}

static tr_value embedding_table(tr_model_builder *b)
{
    return tr__model_parameter(b, TR_INIT_NORMAL, TR_SHAPE2(b->config->vocabulary, b->config->width), "%s",
                               "transformer.wte.weight");
}

static tr_value embed(tr_model_builder *b)
{
    tr_value x = tr_embedding(b->graph, b->tokens, embedding_table(b));
    tr_value positions = tr__model_parameter(
        b, TR_INIT_NORMAL, TR_SHAPE2(b->config->positions, b->config->width), "%s", "transformer.wpe.weight");
    x = tr_position_embedding(b->graph, x, positions, b->position);
    return tr__model_dropout(b, x, b->config->embedding_dropout);
}

/* x (B,T,C) -> (B,T,C), before the residual is added. */
static tr_value attention(tr_model_builder *b, tr_value x, int32_t n)
{
    int64_t width = b->config->width;
    int64_t widths[3] = {width, width, width};
    tr_value parts[3] = {TR_NO_VALUE, TR_NO_VALUE, TR_NO_VALUE};
    tr_split(b->graph, linear(b, x, 3 * width, TR_INIT_NORMAL, n, "attn.c_attn"), widths, 3, parts);
    tr_value y = tr__model_attention(b, parts[0], parts[1], parts[2], n);
    y = linear(b, y, width, TR_INIT_RESIDUAL, n, "attn.c_proj");
    return tr__model_dropout(b, y, b->config->residual_dropout);
}

static tr_value feed_forward(tr_model_builder *b, tr_value x, int32_t n)
{
    tr_value y = linear(b, x, b->config->inner, TR_INIT_NORMAL, n, "mlp.c_fc");
    y = tr_activate(b->graph, y, b->config->activation);
    y = linear(b, y, b->config->width, TR_INIT_RESIDUAL, n, "mlp.c_proj");
    return tr__model_dropout(b, y, b->config->residual_dropout);
}

static tr_value layer(tr_model_builder *b, tr_value x, int32_t n)
{
    x = tr_add(b->graph, x, attention(b, layer_norm(b, x, n, "ln_1"), n));
    return tr_add(b->graph, x, feed_forward(b, layer_norm(b, x, n, "ln_2"), n));
}

static tr_value head(tr_model_builder *b, tr_value x)
{
    x = norm(b, x, "transformer.ln_f");
    if (b->config->tied) return tr_linear(b->graph, x, embedding_table(b), TR_NO_VALUE, TR_WEIGHT_OUT_IN);
    return tr__model_linear(b, x, b->config->vocabulary, TR_WEIGHT_OUT_IN, TR_INIT_NORMAL, false, "lm_head");
}

static const char *const harmless[] = {".attn.bias", ".attn.masked_bias", NULL};

const tr_model_family tr__gpt2 = {.family = TR_FAMILY_GPT2,
                                  .prefix = "transformer.",
                                  .harmless = harmless,
                                  .embed = embed,
                                  .layer = layer,
                                  .head = head};
