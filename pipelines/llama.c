/* pipelines/llama.c - the Llama family: RMSNorm before, rotary positions, grouped-query attention, a gated
 * inner layer.
 * Sources: Touvron et al., 2023, for the model; LlamaForCausalLM of Hugging Face transformers for names and
 * orientation. Shape letters as in ops/operations.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/memory.h"
#include "pipelines/model_family.h"

#include <stdio.h>

/* The linear layer model.layers.N.PART: outputs from inputs, as torch.nn.Linear has it. */
static tr_value linear(tr_model_builder *b, tr_value x, int64_t outputs, tr_model_init init, bool has_bias,
                       int32_t layer, const char *part)
{
    char name[80];
    snprintf(name, sizeof name, "model.layers.%d.%s", layer, part);
    return tr__model_linear(b, x, outputs, TR_WEIGHT_OUT_IN, init, has_bias, name);
}

static tr_value layer_norm(tr_model_builder *b, tr_value x, int32_t layer, const char *part)
{
    tr_value w = tr__model_parameter(b, TR_INIT_ONES, TR_SHAPE1(b->config->width),
                                     "model.layers.%d.%s.weight", layer, part);
    return tr_rmsnorm(b->graph, x, w, b->config->norm_eps);
}

static tr_value embedding_table(tr_model_builder *b)
{
    return tr__model_parameter(b, TR_INIT_NORMAL, TR_SHAPE2(b->config->vocabulary, b->config->width), "%s",
                               "model.embed_tokens.weight");
}

static tr_value embed(tr_model_builder *b)
{
    return tr_embedding(b->graph, b->tokens, embedding_table(b));
}

/* x (B,T,n*D), n heads, turned by their positions. */
static tr_value rotate(tr_model_builder *b, tr_value x)
{
    const tr_model_config *c = b->config;
    int32_t length = b->options->sequence;
    if (b->options->kind == TR_MODEL_GENERATION)
        length = b->options->length ? b->options->length : b->options->cache_rows;
    double *frequencies = tr_alloc((size_t)c->head_size * sizeof *frequencies);
    if (!frequencies) {
        tr_graph_set_error(b->graph, TR_ENOMEM, "no memory for rotary frequencies");
        return TR_NO_VALUE;
    }
    tr_rope_scaling_frequencies(&c->rope, c->head_size, length, frequencies);
    tr_rope_options options = {
        .head_size = c->head_size, .frequencies = frequencies, .magnitude = (float)c->rope.magnitude};
    tr_value y = tr_rope(b->graph, x, b->position, &options);
    tr_free(frequencies);
    return y;
}

/* x (B,T,C) -> (B,T,C), before the residual is added. */
static tr_value attention(tr_model_builder *b, tr_value x, int32_t n)
{
    const tr_model_config *c = b->config;
    int64_t q_width = (int64_t)c->heads * c->head_size, kv_width = (int64_t)c->kv_heads * c->head_size;
    tr_value q = linear(b, x, q_width, TR_INIT_NORMAL, c->attention_bias, n, "self_attn.q_proj");
    tr_value k = linear(b, x, kv_width, TR_INIT_NORMAL, c->attention_bias, n, "self_attn.k_proj");
    tr_value v = linear(b, x, kv_width, TR_INIT_NORMAL, c->attention_bias, n, "self_attn.v_proj");
    q = rotate(b, q);
    k = rotate(b, k);
    tr_value y = tr__model_attention(b, q, k, v, n);
    return linear(b, y, c->width, TR_INIT_RESIDUAL, c->attention_bias, n, "self_attn.o_proj");
}

static tr_value feed_forward(tr_model_builder *b, tr_value x, int32_t n)
{
    const tr_model_config *c = b->config;
    tr_value gate = linear(b, x, c->inner, TR_INIT_NORMAL, c->mlp_bias, n, "mlp.gate_proj");
    tr_value up = linear(b, x, c->inner, TR_INIT_NORMAL, c->mlp_bias, n, "mlp.up_proj");
    tr_value y = tr_gated(b->graph, gate, up, c->activation);
    return linear(b, y, c->width, TR_INIT_RESIDUAL, c->mlp_bias, n, "mlp.down_proj");
}

static tr_value layer(tr_model_builder *b, tr_value x, int32_t n)
{
    x = tr_add(b->graph, x, attention(b, layer_norm(b, x, n, "input_layernorm"), n));
    return tr_add(b->graph, x, feed_forward(b, layer_norm(b, x, n, "post_attention_layernorm"), n));
}

static tr_value head(tr_model_builder *b, tr_value x)
{
    const tr_model_config *c = b->config;
    tr_value w = tr__model_parameter(b, TR_INIT_ONES, TR_SHAPE1(c->width), "%s", "model.norm.weight");
    x = tr_rmsnorm(b->graph, x, w, c->norm_eps);
    if (c->tied) return tr_linear(b->graph, x, embedding_table(b), TR_NO_VALUE, TR_WEIGHT_OUT_IN);
    return tr__model_linear(b, x, c->vocabulary, TR_WEIGHT_OUT_IN, TR_INIT_NORMAL, false, "lm_head");
}

static const char *const harmless[] = {".rotary_emb.inv_freq", NULL};

const tr_model_family tr__llama = {.family = TR_FAMILY_LLAMA,
                                   .prefix = "model.",
                                   .harmless = harmless,
                                   .embed = embed,
                                   .layer = layer,
                                   .head = head};
