/* bench/gpu/step.c - a training step of a model on one GPU: tokens a second, the share of the GPU's matrix rate, memory,
 * and where the time goes by operation. Fresh weights, random tokens.
 *   gpu_step [--config CONFIG.json] [--batch B] [--sequence T] [--steps N] [--dtype float32|bfloat16] [--choices FILE]
 * Algorithms of matrix products are measured first; FILE has them where it is there, and gets them where not.
 * Model FLOPs are counted as 6 a parameter and token (embeddings that are only looked up not counted) and 6 L C T for
 * causal attention, as peers do.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"
#include "bench/gpu/training.h"
#include "pipelines/weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WARM_UP = 6, MOST_STEPS = 1000, MOST_OPS = 64 };

/* GPT-2 small with the vocabulary padded to a multiple of 64, as trainers do. */
static const char gpt2[] =
    "{\"model_type\": \"gpt2\", \"n_layer\": 12, \"n_embd\": 768, \"n_head\": 12, \"vocab_size\": 50304,"
    " \"n_positions\": 1024, \"layer_norm_epsilon\": 1e-5, \"activation_function\": \"gelu_new\","
    " \"tie_word_embeddings\": true, \"resid_pdrop\": 0.0, \"embd_pdrop\": 0.0, \"attn_pdrop\": 0.0,"
    " \"initializer_range\": 0.02}";

static const double peak_flops = 989e12; /* dense bfloat16 of an H100, by its data sheet */

typedef struct settings {
    const char *config, *choices;
    int32_t batch, sequence, steps;
    tr_dtype dtype;
} settings;

static void die(const char *what, const tr_error *err)
{
    fprintf(stderr, "gpu_step: %s: %s\n", what, err->message);
    exit(1);
}

static settings read_arguments(int argc, char **argv)
{
    settings s = {.batch = 32, .sequence = 1024, .steps = 20, .dtype = TR_BF16};
    for (int i = 1; i < argc; i += 2) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (value && strcmp(argv[i], "--config") == 0)
            s.config = value;
        else if (value && strcmp(argv[i], "--choices") == 0)
            s.choices = value;
        else if (value && strcmp(argv[i], "--batch") == 0)
            s.batch = atoi(value);
        else if (value && strcmp(argv[i], "--sequence") == 0)
            s.sequence = atoi(value);
        else if (value && strcmp(argv[i], "--steps") == 0)
            s.steps = atoi(value);
        else if (value && strcmp(argv[i], "--dtype") == 0 && strcmp(value, "float32") == 0)
            s.dtype = TR_F32;
        else if (!value || strcmp(argv[i], "--dtype") != 0 || strcmp(value, "bfloat16") != 0) {
            fprintf(stderr, "usage: gpu_step [--config CONFIG.json] [--batch B] [--sequence T] [--steps N] "
                            "[--dtype float32|bfloat16] [--choices FILE]\n");
            exit(2);
        }
    }
    if (s.batch < 1 || s.sequence < 1 || s.steps < 1 || s.steps > MOST_STEPS) {
        fprintf(stderr, "gpu_step: batch, sequence and steps must be positive, steps at most %d\n",
                MOST_STEPS);
        exit(2);
    }
    return s;
}

static void fresh_model(tr_loaded_model *model, const settings *s)
{
    tr_error err = {0};
    *model = (tr_loaded_model){0};
    char *json = NULL;
    size_t size = 0;
    if (s->config && tr_file_read(s->config, &json, &size, &err) != TR_OK) die("config", &err);
    if (tr_model_config_parse(&model->config, json ? json : gpt2, s->config ? s->config : "gpt2", &err) !=
            TR_OK ||
        tr_model_parameters_list(&model->parameters, &model->config, &err) != TR_OK)
        die("model", &err);
    model->weights = tr_alloc_zero(model->parameters.count + 1, sizeof *model->weights);
    for (size_t i = 0; i < model->parameters.count; i++) {
        model->weights[i] =
            tr__alloc_tensor(tr_shape_elements(&model->parameters.items[i].shape), sizeof(float));
        tr_weights_initialize(&model->parameters.items[i], 1, model->weights[i]);
    }
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
                      double *loss)
{
    double times[MOST_STEPS];
    uint32_t step = 0;
    for (int i = 0; i < WARM_UP; i++) one_step(training, tokens, s, ++step, loss);
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

static void print_operations(const gpu_training *training, int steps)
{
    tr_op_time times[MOST_OPS];
    size_t n = tr_program_times(gpu_training_program(training), times, MOST_OPS);
    double all = 0;
    for (size_t i = 0; i < n && i < MOST_OPS; i++) all += (double)times[i].nanoseconds;
    printf("%-26s %8s %8s %6s\n", "operation", "ms/step", "calls", "share");
    for (size_t i = 0; i < n && i < MOST_OPS; i++)
        printf("%-26s %8.3f %8llu %5.1f%%\n", times[i].name, (double)times[i].nanoseconds / 1e6 / steps,
               (unsigned long long)times[i].calls / (unsigned long long)steps,
               100 * (double)times[i].nanoseconds / all);
    printf("%-26s %8.3f\n", "all of the graph", all / 1e6 / steps);
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
                                    .beta1 = 0.9,
                                    .beta2 = 0.95,
                                    .eps = 1e-8,
                                    .weight_decay = 0.1,
                                    .clip_norm = 1.0,
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
    double loss;
    if (tr_device_open(&device, TR_DEVICE_CUDA, 0, &err) != TR_OK) die("device", &err);
    fresh_model(&model, &s);
    int64_t rows = (int64_t)s.batch * s.sequence;
    int32_t *tokens = tr_alloc((size_t)(rows + 1) * sizeof *tokens);
    srand(1);
    for (int64_t i = 0; i <= rows; i++) tokens[i] = rand() % model.config.vocabulary;

    tr_product_choices *choices = read_choices(&s);
    gpu_training *training = open_training(device, &model, &s, choices, true);
    measure(training, tokens, &s, 4, &loss);
    print_operations(training, WARM_UP + 4);
    gpu_training_destroy(&training);

    training = open_training(device, &model, &s, choices, false);
    double ms = measure(training, tokens, &s, s.steps, &loss);
    printf("%s, %s, %d x %d: %.2f ms a step, %.0f tokens/s, %.1f%% of 989 TFLOP/s, %.1f GiB, loss %.4f\n",
           tr_device_name(device), tr_dtype_name(s.dtype), s.batch, s.sequence, ms, (double)rows / ms * 1e3,
           100 * model_flops(&model, &s) / (ms * 1e-3) / peak_flops,
           (double)gpu_training_device_bytes(training) / 1073741824.0, loss);
    gpu_training_destroy(&training);
    write_choices(&s, choices);
    tr_product_choices_destroy(&choices);
    tr__loaded_model_release(&model);
    tr_free(tokens);
    tr_device_close(&device);
    return 0;
}
