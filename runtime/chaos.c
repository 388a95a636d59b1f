/* runtime/chaos.c - see chaos.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/chaos.h"

#include "base/rng.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int signal_of(const char *name)
{
    static const struct {
        const char *name;
        int number;
    } known[] = {{"KILL", SIGKILL},     {"STOP", SIGSTOP},           {"SEGV", SIGSEGV},
                 {"ABRT", SIGABRT},     {"FLIP", TR_CHAOS_FLIP},     {"LOOP", TR_CHAOS_LOOP},
                 {"NAN", TR_CHAOS_NAN}, {"DAMAGE", TR_CHAOS_DAMAGE}, {"DEVICE", TR_CHAOS_DEVICE}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(known[i].name, name) == 0) return known[i].number;
    return 0;
}

/* Digits alone: sscanf would take signs, and numbers beyond 32 bits. */
static bool parse_number(const char *text, uint32_t *number)
{
    size_t n_digits = strspn(text, "0123456789");
    if (n_digits == 0 || n_digits > 10 || text[n_digits]) return false;
    unsigned long long value = strtoull(text, NULL, 10);
    *number = (uint32_t)value;
    return value < UINT32_MAX; /* the last stands for any step */
}

static bool parse_point(tr_chaos_point *point, const char *text, size_t length)
{
    char copy[256], epoch[16], step[16], name[16], behind;
    if (length >= sizeof copy) return false;
    memcpy(copy, text, length);
    copy[length] = 0;
    if (sscanf(copy, " %15[^/]/%63[^/]/%63[^/]/%15[^/]/%15[A-Z] %c", epoch, point->actor, point->what, step,
               name, &behind) != 5 ||
        !parse_number(epoch, &point->epoch))
        return false;
    if (strcmp(step, "any") == 0)
        point->step = TR_CHAOS_ANY_STEP;
    else if (!parse_number(step, &point->step))
        return false;
    point->signal = signal_of(name);
    return point->signal != 0;
}

tr_status tr_chaos_parse(tr_chaos *self, const char *text, tr_error *err)
{
    self->n_points = 0;
    if (text && strlen(text) >= TR_CHAOS_CHARS)
        return tr_fail(err, TR_EINVAL, "has more than %d characters", TR_CHAOS_CHARS - 1);
    while (text && *text) {
        size_t length = strcspn(text, ",");
        if (self->n_points == TR_CHAOS_POINTS)
            return tr_fail(err, TR_EINVAL, "names more than %d points", TR_CHAOS_POINTS);
        if (!parse_point(&self->points[self->n_points], text, length))
            return tr_fail(err, TR_EINVAL,
                           "has '%.*s', which is not EPOCH/ACTOR/ACTIVITY/STEP/SIGNAL, such as "
                           "1/stage 1 of replica 0/backward/5/KILL",
                           (int)length, text);
        self->n_points++;
        text += length + (text[length] == ',');
    }
    return TR_OK;
}

int tr_chaos_strikes(const tr_chaos *self, uint32_t epoch, const char *actor, const char *what, uint32_t step)
{
    for (uint32_t i = 0; i < self->n_points; i++) {
        const tr_chaos_point *point = &self->points[i];
        if (point->epoch == epoch && (point->step == TR_CHAOS_ANY_STEP || point->step == step) &&
            strcmp(point->what, what) == 0 && strcmp(point->actor, actor) == 0)
            return point->signal;
    }
    return 0;
}

static tr_rng_key key_of(const tr_chaos *self, uint32_t n)
{
    return (tr_rng_key){.seed = self->seed, .stream = 0x43484153 /* "CHAS" */, .step = n};
}

uint64_t tr_chaos_pause_ns(const tr_chaos *self, uint32_t n)
{
    const tr_rng_key key = key_of(self, n);
    double minutes = -log(1 - tr_rng_uniform(&key, 0)) / self->kills_per_minute;
    return (uint64_t)fmin(minutes * 60e9, 1e18); /* 30 years, where kills are next to never */
}

uint32_t tr_chaos_victim(const tr_chaos *self, uint32_t n, uint32_t count)
{
    const tr_rng_key key = key_of(self, n);
    return (uint32_t)(tr_rng_u64(&key, 1) % count);
}
