/* cli/worker.c - `troupe worker`: this machine joins a job that another one leads.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/clock.h"
#include "base/log.h"
#include "cli/command.h"
#include "runtime/agent.h"
#include "runtime/door.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

typedef struct request {
    const char *join, *key, *address, *run, *plan, *wait;
    bool stay;
} request;

static bool parse(int n, char **arguments, request *out)
{
    const struct {
        const char *name, **value;
    } options[] = {{"--join", &out->join}, {"--key", &out->key},   {"--address", &out->address},
                   {"--run", &out->run},   {"--plan", &out->plan}, {"--wait", &out->wait}};
    for (int i = 0; i < n; i++) {
        bool found = false, failed = false;
        for (size_t o = 0; o < sizeof options / sizeof *options && !found; o++)
            found = command_option(options[o].name, n, arguments, &i, options[o].value, &failed);
        if (failed) return false;
        if (!found && strcmp(arguments[i], "--stay") == 0) {
            out->stay = found = true;
        }
        if (!found) {
            command_usage(arguments[i][0] == '-'
                              ? "there is no option '%s'; `troupe worker --help` lists them"
                              : "'%s' is no option; `troupe worker --help` lists them",
                          arguments[i]);
            return false;
        }
    }
    if (!out->join || !out->key) {
        command_usage("which job? usage: troupe worker --join HOST:PORT --key FILE");
        return false;
    }
    return true;
}

/* SIGTERM and Ctrl-C are for the head of the job to hear: who has workers hands them over first. */
static int catch_leave(sigset_t *before)
{
    sigset_t caught;
    sigemptyset(&caught);
    sigaddset(&caught, SIGINT);
    sigaddset(&caught, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &caught, before); /* before any thread is made; fails of bad arguments only */
    return signalfd(-1, &caught, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* Joins once and works to the job's end. states: of a head before, and for the next one. Errors: those of tr_door_knock; TR_ECLOSED: the head was lost; TR_ESTOPPED: it left. */
static tr_status work(const tr_knock_options *knock, tr_agent_states **states, tr_error *err)
{
    tr_launch launch = {0};
    int32_t door = 0;
    tr_status status = tr_door_knock(knock, &launch, &door, err);
    if (status != TR_OK) {
        tr_launch_release(&launch);
        return status;
    }
    launch.has_key = true;
    launch.key = *knock->key;
    printf("joined the job at %s as '%s', with what it listens at %s; its workers are started here\n",
           knock->doors[door].address + strlen("tcp://"), knock->request->name, launch.bind);
    fflush(stdout);
    sigset_t before;
    int leave = catch_leave(&before);
    status = tr_agent_run(&launch, leave, states, err);
    struct signalfd_siginfo meant_for_the_job;
    while (leave >= 0 && read(leave, &meant_for_the_job, sizeof meant_for_the_job) > 0) {
    }
    if (leave >= 0) close(leave);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    tr_launch_release(&launch);
    return status;
}

/* "10.0.0.5:7600,10.0.0.6:7600". A way has to lead to one of them now. */
static tr_status read_doors(const char *join, tr_door_place doors[TR_MAX_DOORS], int32_t *n_doors,
                            tr_error *err)
{
    bool reached = false;
    for (const char *at = join;; at++) {
        char text[TR_DOOR_CHARS];
        size_t length = strcspn(at, ",");
        if (*n_doors == TR_MAX_DOORS)
            return tr_fail(err, TR_EINVAL, "'%s' has more than %d addresses", join, TR_MAX_DOORS);
        snprintf(text, sizeof text, "%.*s", (int)length, at);
        tr_status status = tr_door_place_read(&doors[(*n_doors)++], text, err);
        if (status == TR_EINVAL) return status;
        reached = reached || status == TR_OK;
        at += length;
        if (!*at) break;
    }
    return reached ? TR_OK : TR_EINVAL; /* *err says of the last why not */
}

static tr_status prepare(const request *given, tr_door_place doors[TR_MAX_DOORS], int32_t *n_doors,
                         tr_curve_key *key, tr_join_request *wish, tr_error *err)
{
    tr_status status = read_doors(given->join, doors, n_doors, err);
    if (status != TR_OK) return tr_fail_within(err, status, "--join");
    if (given->address) {
        char bind[TR_BIND_CHARS];
        status = tr_address_bind(bind, given->address, err);
        if (status == TR_OK) status = tr_address_try(bind, err);
        if (status != TR_OK) return tr_fail_within(err, status, "--address");
        for (int32_t i = 0; i < *n_doors; i++) memcpy(doors[i].bind, bind, sizeof bind);
    }
    status = tr_curve_key_read(key, given->key, err);
    if (status != TR_OK) return tr_fail_within(err, status, "--key");
    status = tr_join_request_describe(wish, TROUPE_VERSION, err);
    if (given->run) snprintf(wish->run, sizeof wish->run, "%s", given->run);
    if (given->plan) snprintf(wish->plan, sizeof wish->plan, "%s", given->plan);
    return status;
}

static int run_worker(int n, char **arguments)
{
    request given = {0};
    tr_door_place doors[TR_MAX_DOORS];
    int32_t n_doors = 0;
    int64_t wait_s = 60;
    tr_curve_key key = {0};
    tr_join_request wish = {0};
    tr_agent_states *states = NULL;
    tr_error error = {0};
    if (!parse(n, arguments, &given)) return EXIT_USAGE;
    if (given.wait && !command_integer("--wait", given.wait, 0, 86400, &wait_s)) return EXIT_USAGE;
    if (given.plan && strlen(given.plan) != 16)
        return command_usage("--plan '%s' is no plan of 16 digits, as `troupe plan` prints it", given.plan);
    tr_log_set_role("agent");
    tr_status status = prepare(&given, doors, &n_doors, &key, &wish, &error);
    tr_knock_options knock = {.doors = doors,
                              .n_doors = n_doors,
                              .key = &key,
                              .request = &wish,
                              .wait_ms = (uint32_t)wait_s * 1000};
    if (status == TR_OK) {
        do {
            status = work(&knock, &states, &error);
            knock.has_joined = true; /* else it ends here */
            if (status == TR_ECLOSED && given.stay)
                fprintf(stderr, "troupe: the head is gone; looking for one again for %d s\n", (int)wait_s);
        } while (status == TR_ECLOSED && given.stay);
        if (status == TR_OK) puts("the job has ended");
        if (status == TR_ESTOPPED) puts(error.message);
    }
    tr_agent_states_destroy(&states);
    tr_curve_key_wipe(&key);
    if (status == TR_OK || status == TR_ESTOPPED) return EXIT_DONE;
    command_failed(&error);
    return status == TR_EINVAL || status == TR_EREFUSED ? EXIT_USAGE : EXIT_FAILED;
}

static void help_worker(void)
{
    puts(
        "usage: troupe worker --join HOST:PORT[,HOST:PORT ...] --key FILE [--address HOST] [--wait SECONDS] "
        "[--stay]\n"
        "                    [--run RUN] [--plan HASH]\n"
        "\n"
        "This machine joins a job on several (layout.hosts), starts the workers that the job's head gives "
        "it, "
        "watches\n"
        "them, and keeps their state. HOST:PORT is network.address and network.port of the recipe, in "
        "numbers; "
        "several\n"
        "are tried by turns: where a standby of the head is, that one leads when the head is lost "
        "(head.etcd). The\n"
        "key file is a copy of the job's (`troupe keygen`). Recipe, data and run directory need not be here; "
        "a "
        "model\n"
        "directory or a checkpoint that training begins with must be, at the same path.\n"
        "  --address HOST   of this machine, by which the others reach it; else the one that leads to the "
        "head\n"
        "  --wait SECONDS   how long to look for the head (60)\n"
        "  --stay           when the head is lost, keep its states and look for one again instead of ending\n"
        "  --run RUN        join only a job whose run is called so\n"
        "  --plan HASH      join only a job with this plan (the last line on hosts that `troupe plan` "
        "prints)\n"
        "It is refused, in a line here and there, if its key, program, processor's instructions or libraries "
        "are\n"
        "others than the job's. If it hears nothing of the head for supervision.silence seconds, its workers "
        "end.\n"
        "SIGTERM or Ctrl-C asks to leave: other hosts take over what runs here, no step is lost, and it "
        "ends; "
        "a\n"
        "second one ends it at once, as if it had been lost.\n"
        "Exit: 0 the job has ended or it has left, 1 the head was lost, 2 bad usage, or it may not join.");
}

const command command_worker = {"worker", "join a job that is led from another machine", run_worker,
                                help_worker};
