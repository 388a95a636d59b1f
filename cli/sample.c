/* cli/sample.c - `troupe sample` and `troupe eval`: what a checkpoint writes, and how well it foretells a
 * text. Both read bytes: a checkpoint whose vocabulary has more than bytes needs a tokenizer, which is
 * refused by name.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/generate.h"

#include "base/memory.h"
#include "base/thread_pool.h"
#include "cli/command.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef struct sample_request {
    const char *checkpoint, *prompt;
    int64_t n_tokens, threads;
    int64_t top_k, seed;
    double temperature, top_p;
} sample_request;

/* Numbers are read here, so that the loop over arguments stays a table. */
static bool take_sample_option(sample_request *out, int n, char **arguments, int *at, bool *failed)
{
    const char *value = NULL;
    double number = 0;
    if (command_option("--prompt", n, arguments, at, &value, failed)) {
        out->prompt = value;
    } else if (command_option("--tokens", n, arguments, at, &value, failed)) {
        *failed |= !*failed && !command_integer("--tokens", value, 1, 1000000, &out->n_tokens);
    } else if (command_option("--temperature", n, arguments, at, &value, failed)) {
        *failed |= !*failed && !command_number("--temperature", value, 0, 100, &out->temperature);
    } else if (command_option("--top-k", n, arguments, at, &value, failed)) {
        *failed |= !*failed && !command_integer("--top-k", value, 0, INT32_MAX, &out->top_k);
    } else if (command_option("--top-p", n, arguments, at, &value, failed)) {
        *failed |= !*failed && !command_number("--top-p", value, 0, 1, &number);
        out->top_p = number;
    } else if (command_option("--seed", n, arguments, at, &value, failed)) {
        *failed |= !*failed && !command_integer("--seed", value, 0, INT64_MAX, &out->seed);
    } else if (command_option("--threads", n, arguments, at, &value, failed)) {
        *failed |= !*failed && !command_integer("--threads", value, 1, 256, &out->threads);
    } else {
        return false;
    }
    return true;
}

static bool print_byte(void *context, int32_t token)
{
    (void)context;
    putchar(token);
    fflush(stdout);
    return !ferror(stdout);
}

static tr_status refuse_tokens(const tr_model_config *config, const char *checkpoint, tr_error *err)
{
    if (config->vocabulary <= 256) return TR_OK;
    return tr_fail(
        err, TR_EUNSUPPORTED,
        "'%s' has a vocabulary of %d tokens; only models over bytes (256) can read and write text so far",
        checkpoint, config->vocabulary);
}

static tr_status sample(const sample_request *request, tr_error *err)
{
    tr_generator *generator;
    tr_status status = tr_generator_open(&generator, request->checkpoint, 0, (int)request->threads, err);
    if (status) return status;
    size_t n_prompt = strlen(request->prompt);
    int32_t *prompt = tr_alloc((n_prompt + 1) * sizeof *prompt);
    if (!prompt) status = tr_fail(err, TR_ENOMEM, "no memory for the prompt");
    if (!status) status = refuse_tokens(tr_generator_config(generator), request->checkpoint, err);
    if (!status) {
        for (size_t i = 0; i < n_prompt; i++) prompt[i] = (unsigned char)request->prompt[i];
        if (n_prompt == 0) prompt[n_prompt++] = '\n'; /* a model needs something to go on from */
        tr_sampling_options options = {.temperature = request->temperature,
                                       .top_k = (int32_t)request->top_k,
                                       .top_p = request->top_p,
                                       .seed = (uint64_t)request->seed};
        fputs(request->prompt, stdout);
        status = tr_generator_run(generator, prompt, n_prompt, (int32_t)request->n_tokens, &options,
                                  print_byte, NULL, err);
        putchar('\n');
    }
    tr_free(prompt);
    tr_generator_close(&generator);
    return status;
}

static int run_sample(int n, char **arguments)
{
    sample_request request = {
        .prompt = "", .n_tokens = 500, .threads = tr_cpu_count(), .temperature = 0.8, .top_p = 1, .seed = 1};
    bool failed = false;
    for (int i = 0; i < n && !failed; i++) {
        if (take_sample_option(&request, n, arguments, &i, &failed)) continue;
        if (arguments[i][0] == '-')
            return command_usage("there is no option '%s'; `troupe sample --help` lists them", arguments[i]);
        if (request.checkpoint)
            return command_usage("one checkpoint at a time: '%s' is one too many", arguments[i]);
        request.checkpoint = arguments[i];
    }
    if (failed) return EXIT_USAGE;
    if (!request.checkpoint)
        return command_usage("which checkpoint? usage: troupe sample CHECKPOINT [--prompt TEXT]");
    tr_error error;
    return sample(&request, &error) == TR_OK ? EXIT_DONE : command_failed(&error);
}

static void help_sample(void)
{
    puts("usage: troupe sample CHECKPOINT [--prompt TEXT] [options]\n"
         "\n"
         "Writes on from the prompt. CHECKPOINT is a Hugging Face model directory, such as "
         "RUN/checkpoints/step-N.\n"
         "The same options and seed give the same text.\n"
         "  --prompt TEXT         what to go on from (a line break when not given)\n"
         "  --tokens N            how many tokens to write (500)\n"
         "  --temperature X       0 takes the likeliest always (0.8)\n"
         "  --top-k N             choose among the N likeliest only; 0: all (0)\n"
         "  --top-p X             of those, the fewest that have this share of the probability (1)\n"
         "  --seed N              (1)\n"
         "  --threads N           kernel threads (all processors)");
}

/* --- eval --- */

typedef struct eval_request {
    const char *checkpoint, *text;
    int64_t sequence, threads;
} eval_request;

static void show_progress(void *context, int64_t windows_done, int64_t windows)
{
    FILE *stream = context;
    if (stream)
        fprintf(stream, "\r%" PRId64 " of %" PRId64 " windows%s", windows_done, windows,
                windows_done == windows ? "\n" : "");
}

static int run_eval(int n, char **arguments)
{
    eval_request request = {.threads = tr_cpu_count()};
    bool failed = false;
    for (int i = 0; i < n && !failed; i++) {
        const char *value = NULL;
        if (command_option("--text", n, arguments, &i, &value, &failed))
            request.text = value;
        else if (command_option("--sequence", n, arguments, &i, &value, &failed))
            failed |= !failed && !command_integer("--sequence", value, 1, 1 << 20, &request.sequence);
        else if (command_option("--threads", n, arguments, &i, &value, &failed))
            failed |= !failed && !command_integer("--threads", value, 1, 256, &request.threads);
        else if (arguments[i][0] == '-')
            return command_usage("there is no option '%s'; `troupe eval --help` lists them", arguments[i]);
        else if (request.checkpoint)
            return command_usage("one checkpoint at a time: '%s' is one too many", arguments[i]);
        else
            request.checkpoint = arguments[i];
    }
    if (failed) return EXIT_USAGE;
    if (!request.checkpoint || !request.text)
        return command_usage("usage: troupe eval CHECKPOINT --text FILE; `troupe eval --help` tells more");
    tr_error error;
    tr_evaluation evaluation;
    FILE *progress = isatty(STDERR_FILENO) ? stderr : NULL;
    if (tr_evaluate(&evaluation, request.checkpoint, request.text, (int32_t)request.sequence,
                    (int)request.threads, show_progress, progress, &error) != TR_OK)
        return command_failed(&error);
    printf("loss %.6f nats a byte over %" PRId64 " bytes\n", evaluation.loss, evaluation.tokens);
    return EXIT_DONE;
}

static void help_eval(void)
{
    puts("usage: troupe eval CHECKPOINT --text FILE [options]\n"
         "\n"
         "Prints the mean loss over all bytes of the file but the first, in nats, in windows that do not "
         "overlap.\n"
         "  --sequence N          bytes in a window (as many as the model has positions, 1024 at most)\n"
         "  --threads N           kernel threads (all processors)");
}

const command command_sample = {"sample", "write text from a checkpoint", run_sample, help_sample};
const command command_eval = {"eval", "print the loss of a text under a checkpoint", run_eval, help_eval};
