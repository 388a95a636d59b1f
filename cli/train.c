/* cli/train.c - `troupe train` and `troupe plan`.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/train.h"

#include "base/memory.h"
#include "cli/command.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef struct request {
    const char *recipe;
    const char **overrides;
    size_t n_overrides;
    bool flag;    /* --resume of train, --measure of plan */
    bool standby; /* of train */
} request;

/* RECIPE, key=value ..., and the command's own flag, in any order. */
static int parse(int n, char **arguments, bool train, request *out)
{
    *out = (request){.overrides = tr_alloc((size_t)n * sizeof(char *))};
    if (!out->overrides) return command_usage("no memory for the command line");
    for (int i = 0; i < n; i++) {
        const char *argument = arguments[i], *equals = strchr(argument, '=');
        if (strcmp(argument, train ? "--resume" : "--measure") == 0)
            out->flag = true;
        else if (train && strcmp(argument, "--standby") == 0)
            out->standby = true;
        else if (argument[0] == '-')
            return command_usage("there is no option '%s'; `troupe %s --help` lists them", argument,
                                 train ? "train" : "plan");
        else if (equals && (!strchr(argument, '/') || strchr(argument, '/') > equals))
            out->overrides[out->n_overrides++] = argument;
        else if (!out->recipe)
            out->recipe = argument;
        else
            return command_usage("'%s' is neither key=value nor the recipe, which is '%s'", argument,
                                 out->recipe);
    }
    if (!out->recipe)
        return command_usage("which recipe? usage: troupe %s RECIPE.yaml [key=value ...]",
                             train ? "train [--resume | --standby]" : "plan [--measure]");
    return EXIT_DONE;
}

/* Another head may lead from now on: nothing of this one may happen any more, not even what exit(3) does. */
static void end_at_once(const char *text)
{
    char line[TR_ERROR_SIZE + 64];
    int n = snprintf(line, sizeof line, "troupe: %s; this head ends, another one may lead\n", text);
    if (n > 0 && write(STDERR_FILENO, line, (size_t)n < sizeof line ? (size_t)n : sizeof line - 1) < 0)
        _exit(EXIT_FAILED);
    _exit(EXIT_FAILED);
}

static int with_recipe(int n, char **arguments, bool train)
{
    request given;
    tr_recipe recipe;
    tr_error error;
    int code = parse(n, arguments, train, &given);
    if (code == EXIT_DONE &&
        tr_recipe_read(&recipe, given.recipe, given.overrides, given.n_overrides, &error) != TR_OK)
        code = command_failed(&error);
    tr_free(given.overrides);
    if (code != EXIT_DONE) return code;
    bool started = false;
    tr_train_options options = {
        .resume = given.flag, .standby = given.standby, .progress = stdout, .lost_lead = end_at_once};
    tr_status status = train ? tr_train(&recipe, &options, &started, &error)
                             : tr_plan(&recipe, given.flag, stdout, stderr, &error);
    tr_recipe_release(&recipe);
    if (!status) return EXIT_DONE;
    command_failed(&error);
    /* Whatever goes wrong before anything was created is about what was given; afterwards the run has failed. */
    return started ? EXIT_FAILED : EXIT_USAGE;
}

static int run_train(int n, char **arguments)
{
    return with_recipe(n, arguments, true);
}

static int run_plan(int n, char **arguments)
{
    return with_recipe(n, arguments, false);
}

static void help_train(void)
{
    puts(
        "usage: troupe train RECIPE.yaml [--resume | --standby] [key=value ...]\n"
        "\n"
        "Trains what the recipe says and writes log, events and checkpoints into its run directory.\n"
        "  --resume     go on in an existing run directory: with the workers of a head that died, while they "
        "wait\n"
        "               (supervision.lease), else from its newest valid checkpoint\n"
        "  --standby    wait while another troupe trains in the run directory, and go on if it dies; "
        "head.standby\n"
        "               starts one of these beside the run. On another host, with head.etcd and a shared run "
        "directory:\n"
        "               troupe train RUN/recipe.yaml --standby network.address=ITS_ADDRESS\n"
        "  key=value    overrides a key of the recipe, for example layout.data=4 or run=runs/second\n"
        "Ctrl-C ends the run after the step at hand with a checkpoint; a second one ends it at once.\n"
        "Exit: 0 done, 2 bad usage or input (nothing was created), 1 failed while running or stopped early.\n"
        "\nKeys of a recipe:");
    tr_recipe_describe(stdout);
}

static void help_plan(void)
{
    puts("usage: troupe plan RECIPE.yaml [--measure] [key=value ...]\n"
         "\n"
         "Prints the actors of the job, where each lives, its parameters, memory and credits, the memory of "
         "each\n"
         "worker, and the edges between them. Nothing is trained or written.\n"
         "  --measure    also run every part of the model a few times on this machine, tell what it takes, "
         "and\n"
         "               balance the stages by that: the share of idle time that a step is foretold to have, "
         "and\n"
         "               the line `stages: [...]` to paste into the recipe's layout\n"
         "  key=value    overrides a key of the recipe, for example layout.pieces=2");
}

const command command_train = {"train", "train a model as a recipe says", run_train, help_train};
const command command_plan = {"plan", "show the actors, memory and edges of a job without running it",
                              run_plan, help_plan};
