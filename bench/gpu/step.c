/* bench/gpu/step.c - a training step of a model on one GPU: tokens a second, the share of the GPU's matrix rate, memory,
 * and where the time goes: by kernel, with what it reaches of the matrix rate, and by group of kernels. Fresh weights,
 * random tokens; `gpu_step --help` has the options.
 * Algorithms of matrix products are measured first; a file of choices has them where it is there, and gets them where not.
 * Model FLOPs are counted as 6 a parameter and token (embeddings that are only looked up not counted) and 6 L C T for
 * causal attention, as peers do.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/thread_pool.h"
#include "bench/gpu/training.h"
#include "pipelines/weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WARM_UP = 6, TIMED = 4, MOST_STEPS = 1000, MOST_OPS = 64, FILL_TILE = 1 << 20 };

typedef struct known_model {
    const char *name, *config;
    int32_t batch, sequence; /* that it is measured with */
} known_model;

static const known_model models[] = {
    /* GPT-2 small with the vocabulary padded to a multiple of 64, as trainers do. */
    {"gpt2-124m",
     "{\"model_type\": \"gpt2\", \"n_layer\": 12, \"n_embd\": 768, \"n_head\": 12, \"vocab_size\": 50304,"
     " \"n_positions\": 1024, \"layer_norm_epsilon\": 1e-5, \"activation_function\": \"gelu_new\","
     " \"tie_word_embeddings\": true, \"resid_pdrop\": 0.0, \"embd_pdrop\": 0.0, \"attn_pdrop\": 0.0,"
     " \"initializer_range\": 0.02}",
     32, 1024},
    {"llama-1.5b",
     "{\"model_type\": \"llama\", \"num_hidden_layers\": 16, \"hidden_size\": 2048, \"num_attention_heads\": "
     "32,"
     " \"num_key_value_heads\": 8, \"head_dim\": 64, \"intermediate_size\": 8192, \"vocab_size\": 128256,"
     " \"max_position_embeddings\": 4096, \"rms_norm_eps\": 1e-5, \"hidden_act\": \"silu\", \"rope_theta\": "
     "10000.0,"
     " \"attention_bias\": false, \"mlp_bias\": false, \"attention_dropout\": 0.0,"
     " \"tie_word_embeddings\": false, \"initializer_range\": 0.02}",
     2, 4096},
};
enum { N_MODELS = sizeof models / sizeof *models };

static const double peak_flops = 989e12; /* dense bfloat16 of an H100, by its data sheet */

typedef struct settings {
    const known_model *model;
    const char *config, *choices; /* config: a file instead of the model's own, or NULL */
    int32_t batch, sequence, steps, logits;
    tr_dtype dtype;
    bool fp8;
} settings;

static const char usage[] =
    "usage: gpu_step [--model gpt2-124m|llama-1.5b] [--config CONFIG.json] [--batch B] [--sequence T] "
    "[--steps N]\n"
    "                [--dtype float32|bfloat16] [--fp8 no|yes] [--choices FILE] [--logits N]\n"
    "  --model NAME    what is trained, and how many tokens a step it has (gpt2-124m, 32 x 1024; llama-1.5b, "
    "2 x 4096)\n"
    "  --config FILE   a config.json instead\n"
    "  --steps N       whose median is told (20)\n"
    "  --dtype NAME    bfloat16\n"
    "  --fp8 yes       products of the layers in FP8 (as train.fp8)\n"
    "  --choices FILE  algorithms of matrix products, measured and written where the file is not there\n"
    "  --logits N      tokens whose logits exist at a time (as many as layout.logits: 0 has)\n";

static void die(const char *what, const tr_error *err)
{
    fprintf(stderr, "gpu_step: %s: %s\n", what, err->message);
    exit(1);
}

static void refuse(const char *option, const char *value)
{
    fprintf(stderr, "%sgpu_step: '%s%s%s' is not understood\n", usage, option, value ? " " : "",
            value ? value : "");
    exit(2);
}

static const known_model *model_of(const char *name)
{
    for (int i = 0; i < N_MODELS; i++)
        if (strcmp(models[i].name, name) == 0) return &models[i];
    refuse("--model", name);
    return NULL;
}

static int32_t positive(const char *option, const char *value)
{
    char *end;
    long n = strtol(value, &end, 10);
    if (*end || n < 1 || n > 1 << 20) refuse(option, value);
    return (int32_t)n;
}

static void read_option(settings *s, const char *option, const char *value)
{
    if (strcmp(option, "--model") == 0)
        s->model = model_of(value);
    else if (strcmp(option, "--config") == 0)
        s->config = value;
    else if (strcmp(option, "--choices") == 0)
        s->choices = value;
    else if (strcmp(option, "--batch") == 0)
        s->batch = positive(option, value);
    else if (strcmp(option, "--sequence") == 0)
        s->sequence = positive(option, value);
    else if (strcmp(option, "--logits") == 0)
        s->logits = positive(option, value);
    else if (strcmp(option, "--steps") == 0)
        s->steps = positive(option, value);
    else if (strcmp(option, "--fp8") == 0 && (strcmp(value, "yes") == 0 || strcmp(value, "no") == 0))
        s->fp8 = value[0] == 'y';
    else if (strcmp(option, "--dtype") == 0 && strcmp(value, "float32") == 0)
        s->dtype = TR_F32;
    else if (strcmp(option, "--dtype") != 0 || strcmp(value, "bfloat16") != 0)
        refuse(option, value);
}

static settings read_arguments(int argc, char **argv)
{
    settings s = {.model = &models[0], .steps = 20, .dtype = TR_BF16};
    for (int i = 1; i < argc; i += 2) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            fputs(usage, stdout);
            exit(0);
        }
        if (i + 1 == argc) refuse(argv[i], NULL);
        read_option(&s, argv[i], argv[i + 1]);
    }
    if (s.steps > MOST_STEPS) s.steps = MOST_STEPS;
    if (s.batch == 0) s.batch = s.model->batch;
    if (s.sequence == 0) s.sequence = s.model->sequence;
    return s;
}

/* A tile is a piece of the parameter; its numbers depend on their place alone, not on who makes them. */
typedef struct filling {
    const tr_model_parameter *parameter;
    float *out;
} filling;

static void fill_tile(void *context, int64_t tile, int thread)
{
    (void)thread;
    const filling *f = context;
    int64_t first = tile * FILL_TILE, n = tr_shape_elements(&f->parameter->shape) - first;
    tr_weights_initialize_range(f->parameter, 1, first, n < FILL_TILE ? n : FILL_TILE, f->out + first);
}

static void fill(tr_loaded_model *model)
{
    tr_error err = {0};
    tr_thread_pool *pool;
    if (tr_thread_pool_new(&pool, tr_cpu_count(), &err) != TR_OK) die("threads", &err);
    for (size_t i = 0; i < model->parameters.count; i++) {
        int64_t n = tr_shape_elements(&model->parameters.items[i].shape);
        filling f = {&model->parameters.items[i], tr__alloc_tensor(n, sizeof(float))};
        model->weights[i] = f.out;
        if (!f.out) tr_fail(&err, TR_ENOMEM, "no memory for '%s'", f.parameter->name), die("weights", &err);
        tr_thread_pool_run(pool, (n + FILL_TILE - 1) / FILL_TILE, fill_tile, &f);
    }
    tr_thread_pool_destroy(&pool);
}

static void fresh_model(tr_loaded_model *model, const settings *s)
{
    tr_error err = {0};
    *model = (tr_loaded_model){0};
    char *json = NULL;
    size_t size = 0;
    if (s->config && tr_file_read(s->config, &json, &size, &err) != TR_OK) die("config", &err);
    if (tr_model_config_parse(&model->config, json ? json : s->model->config,
                              s->config ? s->config : s->model->name, &err) != TR_OK ||
        tr_model_parameters_list(&model->parameters, &model->config, &err) != TR_OK)
        die("model", &err);
    model->weights = tr_alloc_zero(model->parameters.count + 1, sizeof *model->weights);
    fill(model);
    tr_free(json);
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double one_step(gpu_training *training, const int32_t *tokens, const settings *s, uint32_t step,
                       double *loss)
{
    tr_error err = {0};
    double norm;
    int64_t rows = (int64_t)s->batch * s->sequence;
    uint64_t begin = tr_clock_ns();
    if (gpu_training_microbatch(training, tokens, tokens + 1, 1.0f / (float)rows, true, &err) != TR_OK ||
        gpu_training_update(training, 3e-4, step, &err) != TR_OK ||
        gpu_training_read(training, loss, &norm, &err) != TR_OK)
        die("step", &err);
    *loss /= (double)rows;
    return (double)(tr_clock_ns() - begin) / 1e6;
}

/* Median time of a step in ms. */
static double measure(gpu_training *training, const int32_t *tokens, const settings *s, int steps,
                      double *first_loss, double *loss)
{
    double times[MOST_STEPS];
    uint32_t step = 0;
    for (int i = 0; i < WARM_UP; i++) one_step(training, tokens, s, ++step, i == 0 ? first_loss : loss);
    for (int i = 0; i < steps; i++) times[i] = one_step(training, tokens, s, ++step, loss);
    qsort(times, (size_t)steps, sizeof *times, by_size);
    return times[steps / 2];
}

static double model_flops(const tr_loaded_model *model, const settings *s)
{
    const tr_model_config *c = &model->config;
    double parameters = 0, tokens = (double)s->batch * s->sequence;
    for (size_t i = 0; i < model->parameters.count; i++)
        parameters += (double)tr_shape_elements(&model->parameters.items[i].shape);
    if (!c->tied) parameters -= (double)c->vocabulary * c->width;
    if (c->family == TR_FAMILY_GPT2) parameters -= (double)c->positions * c->width;
    return tokens * (6 * parameters + 6.0 * c->layers * c->heads * c->head_size * s->sequence);
}

/* Kernels by what they do: the first group whose prefix a name has. */
static const struct {
    const char *prefix, *group;
} groups[] = {
    {"linear_db", "bias gradients"},
    {"linear_loss", "last layer, loss and gradients, by chunks"},
    {"quantise", "FP8 codes"},
    {"linear", "matrix products, with what is joined to them"},
    {"attention", "attention"},
    {"layernorm", "norms"},
    {"rmsnorm", "norms"},
    {"add_", "norms"}, /* with the sum that they are of */
    {"rope", "rotary embedding"},
    {"gated", "activations and gates"},
    {"activate", "activations and gates"},
    {"cross_entropy", "loss and its gradient"},
    {"embedding", "embeddings"},
    {"position", "embeddings"},
    {"", "sums and copies"},
};
enum { N_GROUPS = sizeof groups / sizeof *groups };

static const char *group_of(const char *name)
{
    int i = 0;
    while (strncmp(name, groups[i].prefix, strlen(groups[i].prefix)) != 0) i++;
    return groups[i].group;
}

/* Others are as fast as memory. */
static bool is_arithmetic(const char *name)
{
    return strncmp(name, "linear", 6) == 0 || strncmp(name, "attention", 9) == 0;
}

static void print_kernels(const tr_op_time *times, size_t n, double steps)
{
    printf("| kernel | ms a step | calls | GFLOP each | TFLOP/s |\n|---|---|---|---|---|\n");
    for (size_t i = 0; i < n; i++) {
        double ms = (double)times[i].nanoseconds / 1e6, calls = (double)times[i].calls;
        printf("| %s | %.2f | %.0f |", times[i].name, ms / steps, calls / steps);
        if (times[i].flops > 0 && is_arithmetic(times[i].name))
            printf(" %.1f | %.0f |\n", times[i].flops / 1e9, times[i].flops * calls / ms / 1e9);
        else
            printf(" | |\n");
    }
    printf("\n");
}

static void print_row(const char *what, double ms, double step_ms)
{
    if (ms != 0) printf("| %s | %.2f | %.1f%% |\n", what, ms, 100 * ms / step_ms);
}

/* A table in Markdown. A step that is timed waits after every phase; the one it is a share of does not. */
static void print_groups(const tr_op_time *times, size_t n, gpu_training_times others, double steps,
                         double step_ms)
{
    double rest = step_ms;
    printf("| where a step's time goes | ms | share |\n|---|---|---|\n");
    for (int g = 0; g < N_GROUPS; g++) {
        double ms = 0;
        if (g > 0 && strcmp(groups[g].group, groups[g - 1].group) == 0) continue;
        for (size_t i = 0; i < n; i++)
            if (strcmp(group_of(times[i].name), groups[g].group) == 0)
                ms += (double)times[i].nanoseconds / 1e6 / steps;
        print_row(groups[g].group, ms, step_ms);
        rest -= ms;
    }
    print_row("norm of gradients", others.norm / steps, step_ms);
    print_row("AdamW", others.adamw / steps, step_ms);
    rest -= (others.norm + others.adamw) / steps;
    print_row("gaps, and what timing itself takes (-)", rest, step_ms);
}

/* Of matrix products: those of the file, if there is one; else none yet. */
static tr_product_choices *read_choices(const settings *s)
{
    tr_error err = {0};
    tr_product_choices *choices;
    char *text = NULL;
    size_t size;
    if (tr_product_choices_new(&choices, &err) != TR_OK) die("choices", &err);
    if (s->choices && tr_file_read(s->choices, &text, &size, NULL) == TR_OK &&
        tr_product_choices_read(choices, text, &err) != TR_OK)
        die(s->choices, &err);
    tr_free(text);
    return choices;
}

static void write_choices(const settings *s, const tr_product_choices *choices)
{
    if (!s->choices) return;
    char *text = tr_product_choices_write(choices);
    FILE *file = fopen(s->choices, "w");
    if (!text || !file || fputs(text, file) < 0 || fclose(file) != 0) {
        fprintf(stderr, "gpu_step: could not write '%s'\n", s->choices);
        exit(1);
    }
    tr_free(text);
}

static gpu_training *open_training(tr_device *device, const tr_loaded_model *model, const settings *s,
                                   tr_product_choices *choices, bool timed)
{
    tr_error err = {0};
    gpu_training *training;
    gpu_training_options options = {.batch = s->batch,
                                    .sequence = s->sequence,
                                    .dtype = s->dtype,
                                    .fp8 = s->fp8,
                                    .beta1 = 0.9,
                                    .beta2 = 0.95,
                                    .eps = 1e-8,
                                    .weight_decay = 0.1,
                                    .clip_norm = 1.0,
                                    .logits = s->logits,
                                    .time_kernels = timed,
                                    .choices = choices};
    if (gpu_training_new(&training, device, model, &options, &err) != TR_OK) die("training", &err);
    return training;
}

int main(int argc, char **argv)
{
    settings s = read_arguments(argc, argv);
    tr_error err = {0};
    tr_device *device;
    tr_loaded_model model;
    double first_loss, loss;
    if (tr_device_open(&device, TR_DEVICE_CUDA, 0, &err) != TR_OK) die("device", &err);
    fresh_model(&model, &s);
    int64_t rows = (int64_t)s.batch * s.sequence;
    int32_t *tokens = tr_alloc((size_t)(rows + 1) * sizeof *tokens);
    srand(1);
    for (int64_t i = 0; i <= rows; i++) tokens[i] = rand() % model.config.vocabulary;

    tr_product_choices *choices = read_choices(&s);
    tr_op_time times[MOST_OPS];
    gpu_training *training = open_training(device, &model, &s, choices, true);
    measure(training, tokens, &s, TIMED, &first_loss, &loss);
    size_t n = tr_program_times(gpu_training_program(training), times, MOST_OPS);
    gpu_training_times others = gpu_training_other_times(training);
    if (n > MOST_OPS) n = MOST_OPS;
    gpu_training_destroy(&training);

    training = open_training(device, &model, &s, choices, false);
    double ms = measure(training, tokens, &s, s.steps, &first_loss, &loss);
    print_kernels(times, n, WARM_UP + TIMED);
    print_groups(times, n, others, WARM_UP + TIMED, ms);
    printf("%s, %s%s, %d x %d: %.2f ms a step, %.0f tokens/s, %.1f%% of 989 TFLOP/s, %.1f GiB, loss %.5f to "
           "%.4f\n",
           tr_device_name(device), tr_dtype_name(s.dtype), s.fp8 ? " and FP8" : "", s.batch, s.sequence, ms,
           (double)rows / ms * 1e3, 100 * model_flops(&model, &s) / (ms * 1e-3) / peak_flops,
           (double)gpu_training_device_bytes(training) / 1073741824.0, first_loss, loss);
    gpu_training_destroy(&training);
    write_choices(&s, choices);
    tr_product_choices_destroy(&choices);
    tr__loaded_model_release(&model);
    tr_free(tokens);
    tr_device_close(&device);
    return 0;
}
