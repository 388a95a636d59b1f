/* bench/cpu/llmc.c - see llmc.h. It writes to a terminal of ours, since into a pipe its lines would come late.
 * SPDX-License-Identifier: Apache-2.0 */
#include "bench/cpu/llmc.h"

#include <pty.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PATIENCE_S = 300 }; /* it ends by itself then, whatever it waits for */

static bool begin(llmc *self, int n_threads)
{
    int terminal;
    fflush(NULL);
    self->n = 0;
    self->from = NULL;
    self->pid = forkpty(&terminal, NULL, NULL, NULL);
    if (self->pid == 0) {
        char threads[16];
        snprintf(threads, sizeof threads, "%d", n_threads);
        setenv("OMP_NUM_THREADS", threads, 1);
        alarm(PATIENCE_S);
        for (int fd = 3; fd < 64; fd++) close(fd); /* others' ends, which they wait for */
        if (chdir(self->directory) == 0) execl("./train_gpt2", "train_gpt2", (char *)NULL);
        _exit(127);
    }
    if (self->pid < 0) self->pid = 0;
    if (self->pid && !(self->from = fdopen(terminal, "r"))) llmc_end(self);
    return self->pid > 0;
}

void llmc_end(llmc *self)
{
    if (self->from) fclose(self->from);
    if (self->pid) {
        kill(self->pid, SIGKILL);
        waitpid(self->pid, NULL, 0);
    }
    self->from = NULL;
    self->pid = 0;
}

bool llmc_probe(llmc *self, const char *directory, int n_threads)
{
    memset(self, 0, sizeof *self);
    snprintf(self->directory, sizeof self->directory, "%s", directory);
    char line[256], last[256] = "";
    if (!begin(self, n_threads)) {
        fprintf(stderr, "training: '%s/train_gpt2' cannot be started\n", directory);
        return false;
    }
    while (self->activations == 0 && fgets(line, sizeof line, self->from)) {
        long long number;
        if (sscanf(line, "num_layers: %lld", &number) == 1) self->layers = (int32_t)number;
        if (sscanf(line, "channels: %lld", &number) == 1) self->width = (int32_t)number;
        if (sscanf(line, "vocab_size: %lld", &number) == 1) self->vocabulary = (int32_t)number;
        if (sscanf(line, "num_activations: %lld", &number) == 1) self->activations = number;
        line[strcspn(line, "\r\n")] = '\0';
        if (line[0]) snprintf(last, sizeof last, "%s", line);
    }
    llmc_end(self);
    if (self->activations > 0 && self->layers > 0 && self->width > 0 && self->vocabulary > 0) return true;
    fprintf(stderr,
            "training: '%s/train_gpt2' does not tell its shape%s%s; build it, with its checkpoint and data "
            "beside it\n",
            directory, last[0] ? "; its last words: " : "", last);
    return false;
}

/* What it keeps of a step: per token and layer eighteen widths, four statistics, and heads x sequence twice; around the layers
 * two widths, two statistics, a loss, and the padded vocabulary twice. */
bool llmc_has_shape(const llmc *self, const cpu_row *row)
{
    int64_t tokens = (int64_t)row->rows * row->sequence, width = row->width, heads = width / 64;
    int64_t padded = (row->vocabulary + 127) / 128 * 128;
    int64_t of_token =
        row->layers * (18 * width + 4 + 2 * heads * row->sequence) + 2 * width + 3 + 2 * padded;
    return self->layers == row->layers && self->width == row->width && self->vocabulary == row->vocabulary &&
           self->activations == tokens * of_token;
}

static double processor_ms(const llmc *self)
{
    clockid_t clock;
    struct timespec used;
    if (clock_getcpuclockid(self->pid, &clock) != 0 || clock_gettime(clock, &used) != 0) return 0;
    return (double)used.tv_sec * 1e3 + (double)used.tv_nsec * 1e-6;
}

/* False at its end. */
static bool next_step(llmc *self, double *ms)
{
    char line[4096];
    while (fgets(line, sizeof line, self->from))
        if (sscanf(line, "step %*d: train loss %*f (took %lf ms)", ms) == 1) return true;
    return false;
}

bool llmc_start(llmc *self, int n_threads)
{
    double ms;
    if (!begin(self, n_threads)) return false;
    bool well = next_step(self, &ms);
    if (well)
        kill(self->pid, SIGSTOP);
    else
        llmc_end(self);
    return well;
}

double llmc_turn(llmc *self, bool counts)
{
    double torn, ms;
    if (!self->pid) return -1;
    double before_ms = processor_ms(self);
    kill(self->pid, SIGCONT);
    if (!next_step(self, &torn) || !next_step(self, &ms)) {
        llmc_end(self);
        return -1;
    }
    kill(self->pid, SIGSTOP);
    if (counts && self->n < LLMC_MOST_STEPS) self->ms[self->n++] = ms;
    return processor_ms(self) - before_ms;
}
