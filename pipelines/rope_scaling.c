/* pipelines/rope_scaling.c - see rope_scaling.h. D is the head size, i counts its D/2 pairs.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/rope_scaling.h"

#include "base/memory.h"

#include <math.h>
#include <stddef.h>

static const double pi = 3.14159265358979323846;

static double plain(double theta, int32_t head_size, int32_t i)
{
    return pow(theta, -2.0 * i / head_size);
}

/* The base grows with what exceeds the model's positions: D/(D-2) makes the slowest pair turn `stretch` times
 * slower, and leaves the fastest. */
static double dynamic_theta(const tr_rope_scaling *self, int32_t head_size, int32_t sequence)
{
    if (sequence <= self->positions) return self->theta;
    double stretch = self->factor * sequence / self->positions - (self->factor - 1);
    return self->theta * pow(stretch, (double)head_size / (head_size - 2));
}

/* The pair, in fractions, that makes so many turns over the original positions. */
static double pair_of_turns(const tr_rope_scaling *self, int32_t head_size, double turns)
{
    return head_size * log(self->original_positions / (turns * 2 * pi)) / (2 * log(self->theta));
}

/* Fast pairs stay, slow ones turn `factor` times slower, those between are blended along a ramp. */
static void yarn(const tr_rope_scaling *self, int32_t head_size, double *frequencies)
{
    double low = pair_of_turns(self, head_size, self->beta_fast);
    double high = pair_of_turns(self, head_size, self->beta_slow);
    if (self->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    if (low < 0) low = 0;
    if (high > head_size - 1) high = head_size - 1;
    if (low == high) high += 0.001; /* transformers' way round a division by zero */
    for (int32_t i = 0; i < head_size / 2; i++) {
        double ramp = (i - low) / (high - low), frequency = plain(self->theta, head_size, i);
        ramp = ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
        frequencies[i] = frequency / self->factor * ramp + frequency * (1 - ramp);
    }
}

/* By wavelength: short ones stay, long ones turn `factor` times slower, those between are blended. */
static double llama3(const tr_rope_scaling *self, double frequency)
{
    double turns = self->original_positions * frequency / (2 * pi);
    if (turns < self->low_freq_factor) return frequency / self->factor;
    if (turns > self->high_freq_factor) return frequency;
    double kept = (turns - self->low_freq_factor) / (self->high_freq_factor - self->low_freq_factor);
    return (1 - kept) * frequency / self->factor + kept * frequency;
}

static double frequency_of(const tr_rope_scaling *self, int32_t head_size, int32_t sequence, int32_t i)
{
    double frequency = plain(self->theta, head_size, i);
    switch (self->kind) {
    case TR_ROPE_DEFAULT:
    case TR_ROPE_YARN: return frequency;
    case TR_ROPE_LINEAR: return frequency / self->factor;
    case TR_ROPE_DYNAMIC: return plain(dynamic_theta(self, head_size, sequence), head_size, i);
    case TR_ROPE_LONGROPE:
        return frequency /
               (sequence > self->original_positions ? self->long_factors[i] : self->short_factors[i]);
    case TR_ROPE_LLAMA3: return llama3(self, frequency);
    case TR_ROPE_PROPORTIONAL:
        return i < (int32_t)floor(self->rotated_share * head_size / 2) ? frequency / self->factor : 0;
    }
    return NAN;
}

void tr_rope_scaling_frequencies(const tr_rope_scaling *self, int32_t head_size, int32_t sequence,
                                 double *frequencies)
{
    if (self->kind == TR_ROPE_YARN) {
        yarn(self, head_size, frequencies);
        return;
    }
    for (int32_t i = 0; i < head_size / 2; i++) frequencies[i] = frequency_of(self, head_size, sequence, i);
}

int32_t tr_rope_scaling_reach(const tr_rope_scaling *self, int32_t sequence)
{
    if (self->kind == TR_ROPE_DYNAMIC) return sequence > self->positions ? sequence : self->positions;
    if (self->kind == TR_ROPE_LONGROPE && sequence <= self->original_positions)
        return self->original_positions;
    return INT32_MAX;
}

const char *tr_rope_kind_name(tr_rope_kind kind)
{
    static const char *const names[] = {[TR_ROPE_DEFAULT] = "default",          [TR_ROPE_LINEAR] = "linear",
                                        [TR_ROPE_DYNAMIC] = "dynamic",          [TR_ROPE_YARN] = "yarn",
                                        [TR_ROPE_LONGROPE] = "longrope",        [TR_ROPE_LLAMA3] = "llama3",
                                        [TR_ROPE_PROPORTIONAL] = "proportional"};
    return (size_t)kind < sizeof names / sizeof *names ? names[kind] : NULL;
}

void tr_rope_scaling_release(tr_rope_scaling *self)
{
    tr_free(self->short_factors);
    tr_free(self->long_factors);
    *self = (tr_rope_scaling){0};
}
