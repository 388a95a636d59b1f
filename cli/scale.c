/* cli/scale.c - `troupe scale`: another layout for a run that is going on.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/memory.h"
#include "cli/command.h"
#include "pipelines/layout.h"
#include "pipelines/scale_socket.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Until its last word. */
static int await_answer(int connection, const char *run)
{
    char line[TR_SCALE_LINE_BYTES];
    while (tr_scale_hear(connection, line, sizeof line) > 0) {
        switch (line[0]) {
        case TR_SCALE_SAYS:
            puts(line + 1);
            fflush(stdout);
            break;
        case TR_SCALE_DONE: puts(line + 1); return EXIT_DONE;
        case TR_SCALE_REFUSED: return command_usage("%s is not scaled: %s", run, line + 1);
        default: fprintf(stderr, "troupe: %s is not scaled: %s\n", run, line + 1); return EXIT_FAILED;
        }
    }
    fprintf(stderr, "troupe: the head of %s has ended before it answered\n", run);
    return EXIT_FAILED;
}

static int run_scale(int n, char **arguments)
{
    const char *run = NULL;
    char wish[256] = "";
    tr_layout layout;
    tr_error error;
    for (int i = 0; i < n; i++) {
        const char *argument = arguments[i], *equals = strchr(argument, '=');
        size_t used = strlen(wish);
        if (argument[0] == '-')
            return command_usage("there is no option '%s'; `troupe scale --help` tells how", argument);
        if (equals && !memchr(argument, '/', (size_t)(equals - argument)))
            snprintf(wish + used, sizeof wish - used, "%s%s", used ? " " : "", argument);
        else if (!run)
            run = argument;
        else
            return command_usage(
                "'%s' is neither data=N, pipeline=N, pieces=N, hosts=N nor the run, which is '%s'", argument,
                run);
    }
    if (!run)
        return command_usage("which run? usage: troupe scale RUN data=N [pipeline=N] [pieces=N] [hosts=N]");
    int connection;
    if (tr_layout_parse(&layout, wish, &error) || tr_scale_connect(run, &connection, &error))
        return command_failed(&error);
    (void)tr_scale_tell(connection, wish); /* who does not hear has answered already, or is gone */
    int code = await_answer(connection, run);
    close(connection);
    return code;
}

static void help_scale(void)
{
    puts(
        "usage: troupe scale RUN [data=N] [pipeline=N] [pieces=N] [hosts=N]\n"
        "\n"
        "Gives a run that is going on another layout: more or fewer replicas, another cut of the model. It "
        "waits until\n"
        "the step at hand is done, deals the state out from memory, and goes on in a new epoch. Workers that "
        "stay are\n"
        "not restarted, no step is run again, and losses and weights are the same to the last bit as in any "
        "other\n"
        "layout. Prints what has happened, for example\n"
        "  generation 120: 2 -> 4 replicas, 2 workers new, 85 ms without steps\n"
        "  data=N       replicas, at most as many as there are reduction groups (train.groups)\n"
        "  pipeline=N   workers of a replica; layout.stages is balanced anew\n"
        "  pieces=N     stages of each worker\n"
        "  hosts=N      machines, the leading one included, of those that have joined (docs/hosts.md)\n"
        "Or write the same as {\"data\": N} into RUN/scale.json, under another name first and renamed: the "
        "run "
        "looks\n"
        "for it once a second. `kill -TERM PID` to a worker has another one take its place in the same way.\n"
        "--resume goes on in the layout that a run was scaled to. The command may be interrupted; what was "
        "asked for\n"
        "is done nevertheless.\n"
        "Exit: 0 done, 2 not possible (nothing has changed), 1 it failed (or the run ended before).");
}

const command command_scale = {"scale", "change replicas and pipeline of a run that is going on", run_scale,
                               help_scale};
