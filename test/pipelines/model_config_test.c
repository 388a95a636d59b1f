/* test/pipelines/model_config_test.c - what config.json says is what is computed, or it is refused by name.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/model_config.h"

#include "check.h"
#include "pipelines/files.h"
#include "pipelines/recipe.h"
#include "pipelines/safetensors.h"

#include <jansson.h>
#include <math.h>

static tr_error err;

#define GPT2_SIZES                                                                                           \
    "\"model_type\":\"gpt2\",\"n_layer\":2,\"n_embd\":8,\"n_head\":2,\"vocab_size\":9,\"n_positions\":16"
#define LLAMA_SIZES                                                                                          \
    "\"model_type\":\"llama\",\"num_hidden_layers\":2,\"hidden_size\":8,\"num_attention_heads\":2,"          \
    "\"intermediate_size\":24,\"vocab_size\":9,\"max_position_embeddings\":16"

static tr_status parse(tr_model_config *out, const char *json)
{
    err = (tr_error){0};
    return tr_model_config_parse(out, json, "d/config.json", &err);
}

static bool drops_nothing(const tr_model_config *c)
{
    return c->attention_dropout == 0 && c->embedding_dropout == 0 && c->residual_dropout == 0;
}

static void golden_gpt2_is_read_as_it_is(void)
{
    tr_model_config c;
    CHECK_OK(tr_model_config_read(&c, "test/golden/gpt2", &err));
    CU_ASSERT(c.family == TR_FAMILY_GPT2 && c.layers == 4 && c.width == 48 && c.heads == 4 &&
              c.kv_heads == 4);
    CU_ASSERT(c.head_size == 12 && c.inner == 192 && c.vocabulary == 320 && c.positions == 64);
    CU_ASSERT(c.tied && c.activation == TR_GELU_TANH && c.attention_bias && c.mlp_bias && drops_nothing(&c));
    CU_ASSERT(c.norm_eps == 1e-5f && c.initializer_range == 0.02f);
    CU_ASSERT_EQUAL(tr_model_config_attention_scale(&c, 2), (float)(1 / sqrt(12.0)));
    tr_model_config_release(&c);
}

static void golden_llama_is_read_as_it_is(void)
{
    tr_model_config c;
    CHECK_OK(tr_model_config_read(&c, "test/golden/llama", &err));
    CU_ASSERT(c.family == TR_FAMILY_LLAMA && c.layers == 4 && c.width == 48 && c.heads == 4 &&
              c.kv_heads == 2);
    CU_ASSERT(c.head_size == 12 && c.inner == 128 && c.vocabulary == 320 && c.positions == 64);
    CU_ASSERT(!c.tied && c.activation == TR_SILU && !c.attention_bias && !c.mlp_bias);
    CU_ASSERT(c.norm_eps == 1e-6f && c.rope.theta == 10000.0f);
    tr_model_config_release(&c);
}

static void parameters_are_counted_as_the_file_holds_them(void)
{
    static const char *const models[] = {"test/golden/gpt2", "test/golden/llama"};
    for (int i = 0; i < 2; i++) {
        tr_model_config c;
        tr_safetensors *weights = NULL;
        CHECK_OK(tr_model_config_read(&c, models[i], &err));
        CHECK_OK(tr_safetensors_open_model(&weights, models[i], &err));
        int64_t elements = 0;
        for (size_t k = 0; k < tr_safetensors_count(weights); k++)
            elements += tr_shape_elements(&tr_safetensors_at(weights, k)->shape);
        CU_ASSERT_EQUAL(tr_model_config_parameter_count(&c), elements);
        tr_safetensors_close(&weights);
        tr_model_config_release(&c);
    }
    tr_model_config c;
    CHECK_OK(tr_model_config_preset(&c, "gpt2-124m", &err));
    CU_ASSERT_EQUAL(tr_model_config_parameter_count(&c), 124439808); /* as published */
    tr_model_config_release(&c);
}

static void a_configuration_is_written_back_byte_for_byte(void)
{
    char *directory = enter_directory(), *path = path_in(directory, "config.json");
    tr_model_config c;
    CHECK_OK(tr_model_config_read(&c, "test/golden/llama", &err));
    CHECK_OK(tr_model_config_write(&c, directory, &err));
    CU_ASSERT(files_are_equal(path, "test/golden/llama/config.json"));
    tr_model_config_release(&c);
    leave_directory(directory);
    tr_free(path);
}

static void what_is_absent_has_the_default_of_transformers(void)
{
    tr_model_config c;
    CHECK_OK(parse(&c, "{" GPT2_SIZES ",\"n_inner\":null}"));
    CU_ASSERT(c.inner == 32 && c.tied && c.activation == TR_GELU_TANH && c.norm_eps == 1e-5f);
    CU_ASSERT(c.attention_dropout == 0.1 && c.embedding_dropout == 0.1 && c.residual_dropout == 0.1);
    CU_ASSERT(c.scale_attention && !c.scale_attention_by_layer);
    tr_model_config_release(&c);
    CHECK_OK(parse(&c, "{" LLAMA_SIZES ",\"head_dim\":null}"));
    CU_ASSERT(c.kv_heads == 2 && c.head_size == 4 && !c.tied && c.norm_eps == 1e-6f && c.rope.theta == 10000);
    CU_ASSERT(drops_nothing(&c) && c.activation == TR_SILU);
    tr_model_config_release(&c);
}

static void old_and_new_key_names_mean_the_same(void)
{
    tr_model_config c;
    CHECK_OK(parse(&c, "{" LLAMA_SIZES
                       ",\"rope_theta\":500.0,\"rope_scaling\":null,\"torch_dtype\":\"float32\"}"));
    CU_ASSERT_EQUAL(c.rope.theta, 500);
    tr_model_config_release(&c);
    CHECK_OK(
        parse(&c, "{" LLAMA_SIZES ",\"rope_parameters\":{\"rope_theta\":500,\"rope_type\":\"default\"}}"));
    CU_ASSERT_EQUAL(c.rope.theta, 500);
    tr_model_config_release(&c);
    CHECK_OK(parse(
        &c, "{\"model_type\":\"gpt2\",\"num_hidden_layers\":2,\"hidden_size\":8,\"num_attention_heads\":2,"
            "\"vocab_size\":9,\"max_position_embeddings\":16,\"n_ctx\":16,\"dtype\":\"bfloat16\"}"));
    CU_ASSERT(c.layers == 2 && c.width == 8 && c.heads == 2 && c.positions == 16 && c.inner == 32);
    tr_model_config_release(&c);
    CHECK_OK(parse(&c,
                   "{" GPT2_SIZES ",\"scale_attn_weights\":false,\"scale_attn_by_inverse_layer_idx\":true,"
                   "\"activation_function\":\"relu\",\"unknown_but_null\":null}"));
    CU_ASSERT(tr_model_config_attention_scale(&c, 3) == 0.25f && c.activation == TR_RELU);
    tr_model_config_release(&c);
}

static void what_is_not_computed_is_refused_by_name(void)
{
    static const struct {
        const char *json, *message;
        tr_status status;
    } refusals[] = {
        {"{\"model_type\":\"bert\"}",
         "d/config.json: model_type '\"bert\"' is not supported; known are gpt2 and llama", TR_EUNSUPPORTED},
        {"{}", "d/config.json: model_type is not supported; known are gpt2 and llama", TR_EUNSUPPORTED},
        {"{" LLAMA_SIZES ",\"sliding_window\":5}",
         "sliding_window '5' is an option this program does not know", TR_EUNSUPPORTED},
        {"{" LLAMA_SIZES ",\"quantization_config\":{}}", "quantization_config '{}'", TR_EUNSUPPORTED},
        {"{" LLAMA_SIZES ",\"hidden_act\":\"mish\"}", "hidden_act '\"mish\"' is not supported",
         TR_EUNSUPPORTED},
        {"{" LLAMA_SIZES ",\"rope_interleaved\":true}", "rope_interleaved 'true' is not supported",
         TR_EUNSUPPORTED},
        {"{" GPT2_SIZES ",\"add_cross_attention\":true}", "add_cross_attention 'true' is not supported",
         TR_EUNSUPPORTED},
        {"{" GPT2_SIZES ",\"pruned_heads\":{\"0\":[1]}}", "pruned_heads", TR_EUNSUPPORTED},
        {"{" LLAMA_SIZES ",\"num_key_value_heads\":3}", "num_key_value_heads '3' does not divide", TR_EINVAL},
        {"{" LLAMA_SIZES ",\"head_dim\":3}", "head_dim '3' is odd", TR_EINVAL},
        {"{" LLAMA_SIZES ",\"head_dim\":65538}", "head_dim '65538' is more than 65536", TR_EUNSUPPORTED},
        {"{" LLAMA_SIZES ",\"head_dim\":0}", "head_dim '0' is not a whole number from 1", TR_EINVAL},
        {"{" LLAMA_SIZES ",\"mlp_bias\":1}", "mlp_bias '1' is neither true nor false", TR_EINVAL},
        {"{" LLAMA_SIZES ",\"rms_norm_eps\":-1}", "rms_norm_eps '-1' is not a number this option can have",
         TR_EINVAL},
        {"{" LLAMA_SIZES ",\"rms_norm_eps\":1e39}",
         "rms_norm_eps '1e39' is not a number this option can have", TR_EINVAL}, /* infinite as a float32 */
        {"{" LLAMA_SIZES ",\"a\\nb\":1}", "d/config.json: a\\x0ab '1' is an option", TR_EUNSUPPORTED},
        {"{" LLAMA_SIZES ",\"initializer_range\":1e300}", "initializer_range '1e300' is not a number",
         TR_EINVAL},
        {"{\"model_type\":\"llama\",\"num_hidden_layers\":268435456,\"hidden_size\":268435456,"
         "\"num_attention_heads\":65536,\"intermediate_size\":268435456,\"vocab_size\":9,"
         "\"max_position_embeddings\":16}",
         "d/config.json: its sizes make more parameters than any machine holds", TR_EINVAL},
        {"{\"model_type\":\"gpt2\",\"n_layer\":2}", "n_embd is missing", TR_EINVAL},
        {"[]", "d/config.json: not a JSON object", TR_EINVAL},
        {"{\"a\":\n}", "d/config.json:2: not valid JSON", TR_EINVAL},
        {"{" GPT2_SIZES ",\"n_head\":2}", "duplicate object key", TR_EINVAL},
        {"{" GPT2_SIZES ",\"num_attention_heads\":4}",
         "n_head '2' and num_attention_heads are two names of one option and differ", TR_EINVAL},
        {"{" GPT2_SIZES ",\"activation_function\":\"quick_gelu\"}",
         "activation_function '\"quick_gelu\"' is not supported; known are silu", TR_EUNSUPPORTED},
        {"{" GPT2_SIZES ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":2.0}}", "rope_scaling",
         TR_EUNSUPPORTED},
    };
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        tr_model_config c;
        tr_status status = parse(&c, refusals[i].json);
        CU_ASSERT_EQUAL(status, refusals[i].status);
        CU_ASSERT(message_has(&err, refusals[i].message));
        if (!status) tr_model_config_release(&c);
    }
}

/* LLAMA_SIZES has heads of 4: two pairs. */
static void rotary_options_that_mean_nothing_are_refused_by_name(void)
{
    static const struct {
        const char *rope, *message;
        tr_status status;
    } refusals[] = {
        {"\"rope_scaling\":5", "rope_scaling '5' is no object", TR_EINVAL},
        {"\"rope_scaling\":{\"type\":\"su\"}",
         "rope_scaling.type '\"su\"' is not supported; known are default", TR_EUNSUPPORTED},
        {"\"rope_parameters\":{\"rope_type\":7}", "rope_parameters.rope_type '7' is not supported",
         TR_EUNSUPPORTED},
        {"\"rope_parameters\":{\"rope_type\":\"default\",\"factor\":2}",
         "rope_parameters.factor '2' is no option of the rope_type 'default'", TR_EUNSUPPORTED},
        {"\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":2,\"beta_fast\":2}",
         "rope_scaling.beta_fast '2' is no option of the rope_type 'linear'", TR_EUNSUPPORTED},
        {"\"rope_scaling\":{\"rope_type\":\"linear\"}", "rope_scaling.factor is missing", TR_EINVAL},
        {"\"rope_scaling\":{\"rope_type\":\"yarn\"}", "rope_scaling.factor is missing", TR_EINVAL},
        {"\"rope_scaling\":{\"rope_type\":\"dynamic\",\"factor\":0}",
         "rope_scaling.factor '0' is not a number", TR_EINVAL},
        {"\"rope_scaling\":{\"rope_type\":\"linear\",\"type\":\"dynamic\",\"factor\":2}",
         "rope_scaling.rope_type '\"linear\"' and type are two names of one option and differ", TR_EINVAL},
        {"\"rope_scaling\":{\"type\":\"linear\",\"factor\":2},\"rope_parameters\":{\"type\":\"default\"}",
         "and rope_scaling are two names of one option and differ", TR_EINVAL},
        {"\"rope_theta\":5,\"rope_parameters\":{\"rope_theta\":6}",
         "rope_parameters.rope_theta '6' differs from the one outside", TR_EINVAL},
        {"\"rope_theta\":-5", "rope_theta '-5' is not a number", TR_EINVAL},
        {"\"partial_rotary_factor\":0.5",
         "partial_rotary_factor '0.5' is not supported: a llama turns its whole", TR_EUNSUPPORTED},
        {"\"rope_parameters\":{\"rope_type\":\"linear\",\"factor\":2,\"partial_rotary_factor\":0.5}",
         "rope_parameters.partial_rotary_factor '0.5' is not supported", TR_EUNSUPPORTED},
        {"\"rope_scaling\":{\"type\":\"llama3\",\"factor\":2,\"low_freq_factor\":1}",
         "rope_scaling.high_freq_factor is missing", TR_EINVAL},
        {"\"rope_scaling\":{\"type\":\"llama3\",\"factor\":2,\"low_freq_factor\":4,\"high_freq_factor\":4}",
         "rope_scaling.high_freq_factor '4' is not above low_freq_factor", TR_EINVAL},
        {"\"rope_scaling\":{\"type\":\"longrope\",\"short_factor\":[1],\"long_factor\":[1,2]}",
         "rope_scaling.short_factor '[1]' is not a list of 2 numbers above 0", TR_EINVAL},
        {"\"rope_scaling\":{\"type\":\"longrope\",\"short_factor\":[1,1],\"long_factor\":[1,0]}",
         "rope_scaling.long_factor '[1,0]' is not a list of 2 numbers above 0", TR_EINVAL},
        {"\"rope_scaling\":{\"type\":\"longrope\",\"short_factor\":[1,1],\"long_factor\":[1,1],"
         "\"factor\":2,\"original_max_position_embeddings\":1}",
         "rope_scaling.original_max_position_embeddings '1' is too small", TR_EINVAL},
        {"\"rope_scaling\":{\"type\":\"linear\",\"factor\":1e-30},\"rope_theta\":1e-300", "rope_theta",
         TR_EINVAL},
    };
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        tr_model_config c;
        char *json = tr_format("{" LLAMA_SIZES ",%s}", refusals[i].rope);
        tr_status status = parse(&c, json);
        CU_ASSERT_EQUAL(status, refusals[i].status);
        CU_ASSERT(message_has(&err, refusals[i].message));
        if (!status) tr_model_config_release(&c);
        tr_free(json);
    }
}

static void lack_of_memory_is_an_error(void)
{
    tr_status status = TR_ENOMEM;
    for (uint64_t n = 1; status != TR_OK; n++) {
        tr_model_config c;
        tr_memory_fail_after(n);
        status = parse(&c, "{" LLAMA_SIZES ",\"rope_scaling\":{\"type\":\"longrope\",\"short_factor\":[1,1],"
                           "\"long_factor\":[1,2],\"factor\":2}}");
        tr_memory_fail_after(0);
        CU_ASSERT(status == TR_OK || (status == TR_ENOMEM && err.message[0]));
        if (status == TR_OK) tr_model_config_release(&c);
        if (n == 1) CU_ASSERT_EQUAL(status, TR_ENOMEM);
    }
}

static tr_status from_recipe(tr_model_config *out, const char *model, const char *override)
{
    char *text =
        tr_format("run: r\nmodel: %s\ndata: {text: t}\ntrain: {steps: 2, sequence: 16, microbatch: 1}\n"
                  "lr: {peak: 1}\n",
                  model);
    tr_recipe recipe;
    err = (tr_error){0};
    CHECK_OK(tr_recipe_parse(&recipe, text, strlen(text), "r", &override, override ? 1 : 0, &err));
    tr_status status = tr_model_config_from_recipe(out, &recipe, &err);
    tr_recipe_release(&recipe);
    tr_free(text);
    return status;
}

static void sizes_in_a_recipe_make_a_configuration(void)
{
    tr_model_config c, again;
    CHECK_OK(from_recipe(
        &c, "{layers: 3, width: 48, heads: 4, kv_heads: 2, norm_eps: 1e-6, rope_theta: 5000, bias: true}",
        NULL));
    CU_ASSERT(c.family == TR_FAMILY_LLAMA && c.layers == 3 && c.kv_heads == 2 && c.inner == 128 &&
              c.vocabulary == 256);
    CU_ASSERT(c.norm_eps == 1e-6f && c.rope.theta == 5000 && c.attention_bias && c.mlp_bias && !c.tied &&
              drops_nothing(&c));
    CHECK_OK(parse(&again, c.json)); /* what is written is what is computed */
    CU_ASSERT(again.norm_eps == c.norm_eps && again.inner == c.inner && again.tied == c.tied);
    tr_model_config_release(&again);
    tr_model_config_release(&c);
    CHECK_OK(from_recipe(&c, "{family: gpt2, layers: 2, width: 48, heads: 4, positions: 32}", NULL));
    CU_ASSERT(c.family == TR_FAMILY_GPT2 && c.inner == 192 && c.positions == 32 && c.tied &&
              drops_nothing(&c));
    tr_model_config_release(&c);
}

static void the_layout_is_checked_against_the_model_read(void)
{
    tr_model_config c;
    CHECK_OK(from_recipe(&c, "{hf: test/golden/gpt2}", "layout.stages=[1, 3]"));
    tr_model_config_release(&c);
    CU_ASSERT_EQUAL(from_recipe(&c, "{hf: test/golden/gpt2}", "layout.pipeline=5"), TR_EINVAL);
    CU_ASSERT(message_has(&err, "layout.pipeline '5' is more stages than the model's 4 layers"));
    CU_ASSERT_EQUAL(from_recipe(&c, "{hf: test/golden/gpt2}", "layout.stages=[1, 2]"), TR_EINVAL);
    CU_ASSERT_EQUAL(from_recipe(&c, "{hf: test/golden/gpt2}", "train.sequence=65"), TR_EINVAL);
    CU_ASSERT(message_has(&err, "longer than the model's 64 positions"));
    CU_ASSERT_EQUAL(from_recipe(&c, "{hf: test/golden/none}", NULL), TR_ENOTFOUND);
}

static void nothing_stands_unread_behind_a_nul(void)
{
    char *directory = enter_directory(), *path = path_in(directory, "config.json");
    static const char json[] = "{" GPT2_SIZES "}\0, \"n_layer\": 3}";
    CHECK_OK(tr_file_write(path, json, sizeof json - 1, &err));
    tr_model_config c;
    CU_ASSERT_EQUAL(tr_model_config_read(&c, directory, &err), TR_EINVAL);
    CU_ASSERT(message_has(&err, "there is a NUL byte in it"));
    leave_directory(directory);
    tr_free(path);
}

static void each_dropout_is_read_by_itself(void)
{
    tr_model_config c;
    CHECK_OK(parse(&c, "{" GPT2_SIZES ",\"attn_pdrop\":0.0,\"embd_pdrop\":0.2,\"resid_pdrop\":0.3}"));
    CU_ASSERT(c.attention_dropout == 0 && c.embedding_dropout == 0.2 && c.residual_dropout == 0.3);
    tr_model_config_release(&c);
    CHECK_OK(parse(&c, "{" LLAMA_SIZES ",\"attention_dropout\":0.25}"));
    CU_ASSERT(c.attention_dropout == 0.25 && c.embedding_dropout == 0 && c.residual_dropout == 0);
    tr_model_config_release(&c);
    CU_ASSERT_EQUAL(parse(&c, "{" GPT2_SIZES ",\"embd_pdrop\":1.0}"), TR_EINVAL);
    CU_ASSERT(message_has(&err, "embd_pdrop"));
    CU_ASSERT(message_has(&err, "is not below 1; it is the share that training drops"));
    CU_ASSERT_EQUAL(parse(&c, "{" GPT2_SIZES ",\"embd_pdrop\":-0.1}"), TR_EINVAL);
}

static bool has_rate(const char *json, const char *key, double rate)
{
    json_t *root = json_loads(json, 0, NULL);
    bool has = root && json_number_value(json_object_get(root, key)) == rate;
    json_decref(root);
    return has;
}

/* Else the checkpoint would go on with another dropout than it was trained with. */
static void dropout_of_a_recipe_is_written_into_the_configuration(void)
{
    char *directory = enter_directory(), *path = path_in(directory, "config.json");
    static const char json[] =
        "{" GPT2_SIZES ",\"attn_pdrop\":0.0,\"embd_pdrop\":0.2,\"layer_norm_epsilon\":1e-05}";
    CHECK_OK(tr_file_write(path, json, strlen(json), &err));
    char *model = tr_format("{hf: %s}", directory), *off = tr_format("{hf: %s, dropout: 0}", directory),
         *on = tr_format("{hf: %s, dropout: 0.1}", directory);
    tr_model_config c;
    CHECK_OK(from_recipe(&c, model, NULL)); /* as the file says, and as transformers does where it does not */
    CU_ASSERT(c.attention_dropout == 0 && c.embedding_dropout == 0.2 && c.residual_dropout == 0.1);
    CU_ASSERT_STRING_EQUAL(c.json, json);
    tr_model_config_release(&c);
    CHECK_OK(from_recipe(&c, off, NULL));
    CU_ASSERT(drops_nothing(&c) && c.norm_eps == 1e-5f && c.layers == 2);
    CU_ASSERT(has_rate(c.json, "attn_pdrop", 0) && has_rate(c.json, "embd_pdrop", 0) &&
              has_rate(c.json, "resid_pdrop", 0));
    tr_model_config_release(&c);
    CHECK_OK(from_recipe(&c, on, NULL));
    CU_ASSERT(c.attention_dropout == 0.1 && c.embedding_dropout == 0.1 && c.residual_dropout == 0.1);
    CU_ASSERT(strstr(c.json, "\"resid_pdrop\": 0.1,") || strstr(c.json, "\"resid_pdrop\": 0.1\n"));
    tr_model_config_release(&c);
    CHECK_OK(from_recipe(&c, "{layers: 3, width: 48, heads: 4, dropout: 0.15}", NULL));
    CU_ASSERT(c.attention_dropout == 0.15 && c.residual_dropout == 0 &&
              has_rate(c.json, "attention_dropout", 0.15));
    tr_model_config_release(&c);
    CHECK_OK(from_recipe(&c, "{preset: gpt2-124m, dropout: 0.1}", NULL));
    CU_ASSERT(c.residual_dropout == 0.1 && has_rate(c.json, "embd_pdrop", 0.1));
    tr_model_config_release(&c);
    leave_directory(directory);
    tr_free(on);
    tr_free(off);
    tr_free(model);
    tr_free(path);
}

/* The recipe's sequences have 16 tokens. */
static void only_dynamic_frequencies_go_beyond_the_positions(void)
{
    static const char format[] =
        "{\"model_type\":\"llama\",\"num_hidden_layers\":2,\"hidden_size\":8,"
        "\"num_attention_heads\":2,\"intermediate_size\":24,\"vocab_size\":9,"
        "\"max_position_embeddings\":8,\"rope_scaling\":{\"type\":\"%s\",\"factor\":2}}";
    char *directory = enter_directory(), *path = path_in(directory, "config.json");
    char *model = tr_format("{hf: %s}", directory);
    for (int dynamic = 0; dynamic < 2; dynamic++) {
        tr_model_config c;
        char *json = tr_format(format, dynamic ? "dynamic" : "linear");
        CHECK_OK(tr_file_write(path, json, strlen(json), &err));
        tr_status status = from_recipe(&c, model, NULL);
        CU_ASSERT_EQUAL(status, dynamic ? TR_OK : TR_EINVAL);
        if (!dynamic)
            CU_ASSERT(message_has(&err, "train.sequence '16' is longer than the model's 8 positions"));
        if (!status) tr_model_config_release(&c);
        tr_free(json);
    }
    leave_directory(directory);
    tr_free(model);
    tr_free(path);
}

static void every_preset_can_be_made(void)
{
    for (size_t i = 0; tr_model_config_preset_name(i); i++) {
        tr_model_config c;
        CHECK_OK(tr_model_config_preset(&c, tr_model_config_preset_name(i), &err));
        CU_ASSERT(c.width == c.heads * c.head_size && drops_nothing(&c));
        tr_model_config_release(&c);
    }
    tr_model_config c;
    CU_ASSERT_EQUAL(tr_model_config_preset(&c, "zzz", &err), TR_EINVAL);
    CU_ASSERT(message_has(&err, "'zzz' is no preset; there are gpt2-124m, "));
}

/* The keys beside the sizes that published models carry: of OpenAI's gpt2, of llamas written by transformers 4 and 5, and
 * of what other programs leave in them. */
static void what_published_models_carry_is_read(void)
{
    static const char *const published[] = {
        "{" GPT2_SIZES ",\"activation_function\":\"gelu_new\",\"architectures\":[\"GPT2LMHeadModel\"],"
        "\"attn_pdrop\":0.1,\"bos_token_id\":50256,\"embd_pdrop\":0.1,\"eos_token_id\":50256,"
        "\"initializer_range\":0.02,\"layer_norm_epsilon\":1e-05,\"n_ctx\":1024,\"resid_pdrop\":0.1,"
        "\"summary_activation\":null,\"summary_first_dropout\":0.1,\"summary_proj_to_labels\":true,"
        "\"summary_type\":\"cls_index\",\"summary_use_proj\":true,\"task_specific_params\":"
        "{\"text-generation\":{\"do_sample\":true,\"max_length\":50}}}",
        "{" GPT2_SIZES ",\"_name_or_path\":\"gpt2\",\"_num_labels\":1,\"add_cross_attention\":false,"
        "\"id2label\":{\"0\":\"LABEL_0\"},\"label2id\":{\"LABEL_0\":0},\"gradient_checkpointing\":false,"
        "\"n_inner\":null,\"pad_token_id\":null,\"reorder_and_upcast_attn\":false,"
        "\"scale_attn_by_inverse_layer_idx\":false,\"scale_attn_weights\":true,\"tie_word_embeddings\":true,"
        "\"torch_dtype\":\"float32\",\"transformers_version\":\"4.38.2\",\"use_cache\":true}",
        "{" GPT2_SIZES ",\"dtype\":\"float32\",\"transformers_version\":\"5.0.0\",\"use_cache\":true,"
        "\"_attn_implementation_internal\":\"sdpa\",\"attn_implementation\":\"sdpa\"}",
        "{" LLAMA_SIZES ",\"_name_or_path\":\"x\",\"architectures\":[\"LlamaForCausalLM\"],"
        "\"attention_bias\":false,\"attention_dropout\":0.0,\"bos_token_id\":1,\"eos_token_id\":[2,3],"
        "\"head_dim\":4,\"hidden_act\":\"silu\",\"initializer_range\":0.02,\"mlp_bias\":false,"
        "\"num_key_value_heads\":2,\"pad_token_id\":0,\"pretraining_tp\":1,\"rms_norm_eps\":1e-05,"
        "\"rope_scaling\":null,\"rope_theta\":10000.0,\"tie_word_embeddings\":false,"
        "\"torch_dtype\":\"bfloat16\",\"transformers_version\":\"4.43.1\",\"use_cache\":true}",
        "{" LLAMA_SIZES ",\"dtype\":\"bfloat16\",\"rope_parameters\":{\"rope_theta\":10000.0,"
        "\"rope_type\":\"default\"},\"transformers_version\":\"5.1.0\",\"output_hidden_states\":false,"
        "\"return_dict\":true,\"chunk_size_feed_forward\":0,\"is_encoder_decoder\":false,"
        "\"problem_type\":null}",
        "{" LLAMA_SIZES ",\"is_llama_config\":true,\"rope_interleaved\":false,\"max_sequence_length\":16,"
        "\"transformers.js_config\":{\"dtype\":\"q4\"},\"unsloth_fixed\":true,"
        "\"unsloth_version\":\"2024.9\",\"temperature\":0.6,\"top_p\":0.9,\"max_new_tokens\":9}"};
    for (size_t i = 0; i < sizeof published / sizeof *published; i++) {
        tr_model_config c;
        CHECK_OK(parse(&c, published[i]));
        CU_ASSERT(c.layers == 2 && c.width == 8 && c.head_size == 4);
        tr_model_config_release(&c);
    }
}

static void what_would_change_a_number_is_refused_by_name(void)
{
    static const char *const keys[] = {"quantization_config", "auto_map", "layer_types", "per_layer_config",
                                       "sliding_window"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        char *text = tr_format("{" LLAMA_SIZES ",\"%s\":{\"bits\":4}}", keys[i]);
        tr_model_config c;
        CU_ASSERT_EQUAL(parse(&c, text), TR_EUNSUPPORTED);
        CU_ASSERT(message_has(&err, keys[i]));
        tr_free(text);
    }
}

int main(void)
{
    static const check_test tests[] = {
        CHECK_TEST(what_published_models_carry_is_read),
        CHECK_TEST(what_would_change_a_number_is_refused_by_name),
        CHECK_TEST(golden_gpt2_is_read_as_it_is),
        CHECK_TEST(golden_llama_is_read_as_it_is),
        CHECK_TEST(parameters_are_counted_as_the_file_holds_them),
        CHECK_TEST(a_configuration_is_written_back_byte_for_byte),
        CHECK_TEST(what_is_absent_has_the_default_of_transformers),
        CHECK_TEST(old_and_new_key_names_mean_the_same),
        CHECK_TEST(what_is_not_computed_is_refused_by_name),
        CHECK_TEST(rotary_options_that_mean_nothing_are_refused_by_name),
        CHECK_TEST(nothing_stands_unread_behind_a_nul),
        CHECK_TEST(lack_of_memory_is_an_error),
        CHECK_TEST(sizes_in_a_recipe_make_a_configuration),
        CHECK_TEST(the_layout_is_checked_against_the_model_read),
        CHECK_TEST(each_dropout_is_read_by_itself),
        CHECK_TEST(dropout_of_a_recipe_is_written_into_the_configuration),
        CHECK_TEST(only_dynamic_frequencies_go_beyond_the_positions),
        CHECK_TEST(every_preset_can_be_made),
    };
    return check_run("model_config", tests, sizeof tests / sizeof *tests);
}
