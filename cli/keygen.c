/* cli/keygen.c - `troupe keygen`.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/file.h"
#include "base/memory.h"
#include "cli/command.h"
#include "pipelines/text.h"
#include "transport/curve.h"

#include <stdio.h>
#include <string.h>

#define FILE_NAME "troupe.key"

static int make(const char *path)
{
    tr_curve_key key;
    tr_error error;
    tr_status status = tr_curve_key_new(&key, &error);
    if (status == TR_OK) status = tr_curve_key_write(&key, path, &error);
    tr_curve_key_wipe(&key);
    if (status != TR_OK) return command_failed(&error);
    printf("wrote %s; give it to a job as network.key=%s, and to nobody who may not join it\n", path, path);
    return EXIT_DONE;
}

static int run_keygen(int n, char **arguments)
{
    const char *where = n > 0 ? arguments[0] : FILE_NAME;
    if (n > 0 && arguments[0][0] == '-')
        return command_usage("there is no option '%s'; `troupe keygen --help` tells more", arguments[0]);
    if (n > 1) return command_usage("one key at a time; usage: troupe keygen [FILE | DIR]");
    if (!where[0]) return command_usage("'' names no file; usage: troupe keygen [FILE | DIR]");
    char *path = tr_path_is_directory(where) ? tr_format("%s/" FILE_NAME, where) : tr_strdup(where);
    if (!path) return command_usage("no memory for a path");
    int code = make(path);
    tr_free(path);
    return code;
}

static void help_keygen(void)
{
    puts("usage: troupe keygen [FILE | DIR]\n"
         "\n"
         "Makes the key by which the processes of a job know one another over ZeroMQ, and writes it into "
         "FILE, or\n"
         "into DIR/" FILE_NAME " (default: ./" FILE_NAME
         "). The file is readable by its owner alone and is never\n"
         "overwritten. A recipe names it:\n"
         "\n"
         "    transport: zmq\n"
         "    network: {address: 10.0.0.5, key: " FILE_NAME "}\n"
         "\n"
         "Without a key a job listens on this machine only. With one, whoever has the file may join the job, "
         "nobody\n"
         "else can, and all that its processes say is encrypted (CURVE). Make another for every job that "
         "should be\n"
         "kept apart; to take a key back, remove the file and make a new one.\n"
         "Exit: 0 done, 2 the file exists or cannot be named, 1 it could not be written.");
}

const command command_keygen = {"keygen", "make the key that a job needs to be reached from other machines",
                                run_keygen, help_keygen};
