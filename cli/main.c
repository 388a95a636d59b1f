/* cli/main.c - the `troupe` command: finds the subcommand. Agent and workers of a job are the same program,
 * called with an argument that only the head gives.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/crash.h"
#include "cli/command.h"
#include "pipelines/train.h"
#include "runtime/job.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const command *const commands[] = {&command_train, &command_plan,   &command_sample,
                                          &command_eval,  &command_keygen, &command_worker,
                                          &command_ps,    &command_top,    &command_scale};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

static void print_help(FILE *stream)
{
    fprintf(stream, "usage: troupe COMMAND ...\n\nTrains models as graphs of actors.\n\n");
    for (size_t i = 0; i < N_COMMANDS; i++)
        fprintf(stream, "  %-8s %s\n", commands[i]->name, commands[i]->summary);
    fprintf(stream, "\n`troupe COMMAND --help` tells more.\n");
}

bool command_option(const char *name, int n_arguments, char **arguments, int *at, const char **value,
                    bool *failed)
{
    size_t length = strlen(name);
    const char *argument = arguments[*at];
    if (strncmp(argument, name, length) != 0 || (argument[length] != 0 && argument[length] != '='))
        return false;
    if (argument[length] == '=') {
        *value = argument + length + 1;
    } else if (*at + 1 < n_arguments) {
        *value = arguments[++*at];
    } else {
        command_usage("%s needs a value", name);
        *failed = true;
    }
    return true;
}

bool command_number(const char *option, const char *text, double least, double most, double *number)
{
    char *end;
    errno = 0;
    double value = strtod(text, &end);
    if (end == text || *end || errno || !isfinite(value) || value < least || value > most) {
        command_usage("%s '%s' is not a number from %g to %g", option, text, least, most);
        return false;
    }
    *number = value;
    return true;
}

bool command_integer(const char *option, const char *text, int64_t least, int64_t most, int64_t *number)
{
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end == text || *end || errno || value < least || value > most) {
        command_usage("%s '%s' is not a whole number from %lld to %lld", option, text, (long long)least,
                      (long long)most);
        return false;
    }
    *number = value;
    return true;
}

int command_failed(const tr_error *error)
{
    fprintf(stderr, "troupe: %s\n", error->message);
    switch (error->status) {
    case TR_EINVAL:
    case TR_ENOTFOUND:
    case TR_EEXIST:
    case TR_ECORRUPT:
    case TR_EUNSUPPORTED: return EXIT_USAGE;
    default: return EXIT_FAILED;
    }
}

int command_usage(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("troupe: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    return EXIT_USAGE;
}

/* A closed standard stream would become the next file that is opened, a log or a checkpoint; whoever reads our output may
 * go away without ending a training; and a file that may not grow further (ulimit -f) is an error like a full disk. */
static void guard_streams(void)
{
    int file;
    while ((file = open("/dev/null", O_RDWR)) >= 0 && file <= STDERR_FILENO) {
    }
    if (file > STDERR_FILENO) close(file);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
}

/* What was printed and did not arrive is no success; save in a pipe, whose reader had enough. */
static int finish_output(int code)
{
    struct stat about;
    if (fflush(stdout) == 0 && !ferror(stdout)) return code;
    if (code != EXIT_DONE || (fstat(STDOUT_FILENO, &about) == 0 && S_ISFIFO(about.st_mode))) return code;
    fprintf(stderr, "troupe: could not write all of the output: %s\n", strerror(errno));
    return EXIT_FAILED;
}

int main(int argc, char **argv)
{
    guard_streams();
    tr_crash_report();
    if (tr_job_is_child(argc, argv)) return tr_job_child_main(argc, argv, &tr_training_registry);
    if (argc < 2) {
        print_help(stderr);
        return EXIT_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
        print_help(stdout);
        return finish_output(EXIT_DONE);
    }
    if (strcmp(argv[1], "--version") == 0) {
        puts("troupe " TROUPE_VERSION);
        return finish_output(EXIT_DONE);
    }
    for (size_t i = 0; i < N_COMMANDS; i++) {
        if (strcmp(argv[1], commands[i]->name) != 0) continue;
        for (int a = 2; a < argc; a++) {
            if (strcmp(argv[a], "--help") != 0 && strcmp(argv[a], "-h") != 0) continue;
            commands[i]->help();
            return finish_output(EXIT_DONE);
        }
        return finish_output(commands[i]->run(argc - 2, argv + 2));
    }
    return command_usage("there is no command '%s'; `troupe --help` lists them", argv[1]);
}
