/* pipelines/rope_config.c - see rope_config.h. Defaults and precedence are those of transformers 5; what is said
 * twice must be said the same, since its versions do not agree which counts.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/rope_config.h"

#include "base/memory.h"

#include <math.h>
#include <string.h>

static const double smallest = 1e-30; /* of what must be above 0 */

/* Here and in the object around it. */
static void agree(tr_config_reader *self, tr_config_reader *top, const char *key)
{
    json_t *inner = json_object_get(self->object, key), *outer = tr__config_look(top, key);
    if (inner && outer && json_is_number(inner) && json_is_number(outer) &&
        json_number_value(inner) != json_number_value(outer))
        tr__config_refuse(self, TR_EINVAL, key, "differs from the one outside of this object; remove one");
}

/* Where it is to be read, this object before the one around it. */
static tr_config_reader *holder(tr_config_reader *self, tr_config_reader *top, const char *key)
{
    agree(self, top, key);
    return tr__config_look(self, key) ? self : top;
}

static tr_rope_kind read_kind(tr_config_reader *self)
{
    const char *key = "rope_type";
    json_t *value = tr__config_look_either(self, &key, "type");
    if (!value) return TR_ROPE_DEFAULT;
    const char *name = json_string_value(value);
    for (int kind = 0; name && tr_rope_kind_name((tr_rope_kind)kind); kind++)
        if (strcmp(name, tr_rope_kind_name((tr_rope_kind)kind)) == 0) return (tr_rope_kind)kind;
    tr__config_refuse(
        self, TR_EUNSUPPORTED, key,
        "is not supported; known are default, linear, dynamic, yarn, longrope, llama3 and proportional");
    return TR_ROPE_DEFAULT;
}

static double read_factor(tr_config_reader *self)
{
    if (!tr__config_look(self, "factor"))
        tr__config_refuse(self, TR_EINVAL, "factor", "is missing; this rope_type needs it");
    return tr__config_number(self, "factor", 1, smallest);
}

/* The `factor` of yarn and longrope may be left to the ratio of the positions. */
static double read_factor_or_ratio(tr_config_reader *self, const tr_rope_scaling *rope)
{
    return tr__config_number(self, "factor", (double)rope->positions / rope->original_positions, smallest);
}

static double mscale(double factor, double scale)
{
    return factor <= 1 ? 1 : 0.1 * scale * log(factor) + 1;
}

static void read_yarn(tr_config_reader *self, tr_rope_scaling *rope)
{
    if (!json_object_get(self->object, "factor"))
        tr__config_refuse(self, TR_EINVAL, "factor", "is missing; this rope_type needs it");
    rope->factor = read_factor_or_ratio(self, rope);
    double fast = tr__config_number(self, "beta_fast", 0, 0),
           slow = tr__config_number(self, "beta_slow", 0, 0);
    rope->beta_fast = fast > 0 ? fast : 32; /* 0 counts as absent, as in transformers */
    rope->beta_slow = slow > 0 ? slow : 1;
    rope->truncate = tr__config_flag(self, "truncate", true);
    double scale = tr__config_number(self, "mscale", 0, 0),
           all = tr__config_number(self, "mscale_all_dim", 0, 0);
    double magnitude = mscale(rope->factor, 1);
    if (scale > 0 && all > 0) magnitude = mscale(rope->factor, scale) / mscale(rope->factor, all);
    rope->magnitude = tr__config_number(self, "attention_factor", magnitude, smallest);
}

/* n numbers above 0. */
static double *read_factors(tr_config_reader *self, const char *key, int32_t n)
{
    json_t *list = tr__config_look(self, key);
    double *factors = tr_alloc_zero((size_t)n, sizeof *factors);
    if (!factors && !self->status)
        self->status = tr_fail(self->err, TR_ENOMEM, "%s: no memory for %d factors", self->path, n);
    bool right = json_is_array(list) && json_array_size(list) == (size_t)n;
    for (int32_t i = 0; factors && right && i < n; i++) {
        json_t *value = json_array_get(list, (size_t)i);
        right = json_is_number(value) && json_number_value(value) >= smallest;
        factors[i] = json_number_value(value);
    }
    if (!right) {
        char words[80];
        snprintf(words, sizeof words, "is not a list of %d numbers above 0, one for each pair of a head", n);
        tr__config_refuse(self, TR_EINVAL, key, words);
    }
    return factors;
}

static void read_longrope(tr_config_reader *self, int32_t head_size, tr_rope_scaling *rope)
{
    double factor = read_factor_or_ratio(self, rope), magnitude = 1;
    rope->short_factors = read_factors(self, "short_factor", head_size / 2);
    rope->long_factors = read_factors(self, "long_factor", head_size / 2);
    if (factor > 1) magnitude = sqrt(1 + log(factor) / log((double)rope->original_positions));
    if (!isfinite(magnitude))
        tr__config_refuse(self, TR_EINVAL, "original_max_position_embeddings",
                          "is too small for this rope_type");
    rope->magnitude = tr__config_number(self, "attention_factor", magnitude, smallest);
}

static void read_llama3(tr_config_reader *self, tr_rope_scaling *rope)
{
    static const char *const needed[] = {"low_freq_factor", "high_freq_factor"};
    for (int i = 0; i < 2; i++)
        if (!tr__config_look(self, needed[i]))
            tr__config_refuse(self, TR_EINVAL, needed[i], "is missing; this rope_type needs it");
    rope->factor = read_factor(self);
    rope->low_freq_factor = tr__config_number(self, needed[0], 1, smallest);
    rope->high_freq_factor = tr__config_number(self, needed[1], 4, smallest);
    if (rope->high_freq_factor <= rope->low_freq_factor)
        tr__config_refuse(self, TR_EINVAL, needed[1], "is not above low_freq_factor");
}

static void read_options(tr_config_reader *self, int32_t head_size, tr_rope_scaling *rope)
{
    switch (rope->kind) {
    case TR_ROPE_DEFAULT: break;
    case TR_ROPE_DYNAMIC:
        tr__config_look(self, "original_max_position_embeddings"); /* transformers lets it stand unused */
        rope->factor = read_factor(self);
        break;
    case TR_ROPE_LINEAR: rope->factor = read_factor(self); break;
    case TR_ROPE_YARN: read_yarn(self, rope); break;
    case TR_ROPE_LONGROPE: read_longrope(self, head_size, rope); break;
    case TR_ROPE_LLAMA3: read_llama3(self, rope); break;
    case TR_ROPE_PROPORTIONAL: rope->factor = tr__config_number(self, "factor", 1, smallest); break;
    }
}

/* Other kinds than proportional would leave a part of each head as it is, which transformers' llama cannot. */
static void read_share(tr_config_reader *self, tr_config_reader *top, tr_rope_scaling *rope)
{
    static const char *const key = "partial_rotary_factor";
    tr_config_reader *from = holder(self, top, key);
    rope->rotated_share = tr__config_number(from, key, 1, 0);
    if (rope->rotated_share > 1 || (rope->rotated_share != 1 && rope->kind != TR_ROPE_PROPORTIONAL))
        tr__config_refuse(
            from, TR_EUNSUPPORTED, key,
            "is not supported: a llama turns its whole heads, save with rope_type proportional");
}

static void read_object(tr_config_reader *self, tr_config_reader *top, int32_t head_size,
                        tr_rope_scaling *rope)
{
    rope->kind = read_kind(self);
    rope->theta = tr__config_number(holder(self, top, "rope_theta"), "rope_theta", 10000, smallest);
    read_share(self, top, rope);
    bool original =
        rope->kind == TR_ROPE_YARN || rope->kind == TR_ROPE_LONGROPE || rope->kind == TR_ROPE_LLAMA3;
    static const char *const key = "original_max_position_embeddings";
    if (original) rope->original_positions = tr__config_size(holder(self, top, key), key, rope->positions);
    if (!self->status && !top->status) read_options(self, head_size, rope);
    if (!top->status) top->status = self->status;
}

/* rope_parameters or rope_scaling, whichever is there. An empty object says nothing. */
static json_t *find_object(tr_config_reader *reader, const char **key)
{
    *key = "rope_parameters";
    json_t *object = tr__config_look_either(reader, key, "rope_scaling");
    if (object && !json_is_object(object)) tr__config_refuse(reader, TR_EINVAL, *key, "is no object");
    return json_is_object(object) ? object : NULL;
}

static void check_finite(tr_config_reader *reader, const char *key, int32_t head_size,
                         const tr_rope_scaling *rope)
{
    double *frequencies = tr_alloc((size_t)head_size * sizeof *frequencies);
    if (!frequencies) {
        reader->status = tr_fail(reader->err, TR_ENOMEM, "%s: no memory for frequencies", reader->path);
        return;
    }
    tr_rope_scaling_frequencies(rope, head_size, rope->positions, frequencies);
    bool finite = isfinite(rope->magnitude);
    for (int32_t i = 0; i < head_size / 2; i++) finite &= isfinite(frequencies[i]) != 0;
    tr_free(frequencies);
    if (!finite) tr__config_refuse(reader, TR_EINVAL, key, "gives frequencies that are no finite numbers");
}

void tr__rope_config_read(tr_config_reader *reader, int32_t positions, int32_t head_size,
                          tr_rope_scaling *out)
{
    *out = (tr_rope_scaling){.positions = positions, .magnitude = 1, .factor = 1};
    const char *key;
    json_t *object = find_object(reader, &key), *nothing = object ? NULL : json_object();
    char prefix[32], words[64];
    snprintf(prefix, sizeof prefix, "%s.", key);
    tr_config_reader inner = {.object = object ? object : nothing,
                              .seen = json_object(),
                              .path = reader->path,
                              .prefix = prefix,
                              .status = reader->status,
                              .err = reader->err};
    read_object(&inner, reader, head_size, out);
    inner.status = reader->status;
    snprintf(words, sizeof words, "is no option of the rope_type '%s'", tr_rope_kind_name(out->kind));
    tr__config_refuse_rest(&inner, NULL, 0, words);
    reader->status = inner.status;
    if (!reader->status) check_finite(reader, key, head_size, out);
    json_decref(inner.seen);
    json_decref(nothing);
}
