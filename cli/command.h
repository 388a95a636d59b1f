/* cli/command.h - a subcommand of `troupe`: what the command line says of it and the function that does it.
 * Exit codes: 0 done, 2 bad usage or input, 1 failed at run time.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_CLI_COMMAND_H
#define TROUPE_CLI_COMMAND_H

#include "base/status.h"

typedef struct command {
    const char *name, *summary;
    int (*run)(int n_arguments, char **arguments); /* without the program's and the command's name */
    void (*help)(void);
} command;

enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

extern const command command_train, command_plan, command_sample, command_eval, command_keygen, command_ps,
    command_top, command_scale, command_worker;

/* "--name VALUE" or "--name=VALUE" at *at: sets *value and moves *at to the last argument taken. A missing value is told. */
bool command_option(const char *name, int n_arguments, char **arguments, int *at, const char **value,
                    bool *failed);
/* Numbers with their limits; what is wrong is told on stderr. */
bool command_number(const char *option, const char *text, double least, double most, double *number);
bool command_integer(const char *option, const char *text, int64_t least, int64_t most, int64_t *number);

/* Prints "troupe: message" and gives the exit code: 2 for bad input, 1 for everything else. */
int command_failed(const tr_error *error);
int command_usage(const char *format, ...) TR_PRINTF(1, 2);

#endif
