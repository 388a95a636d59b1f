/* pipelines/recipe_check.c - defaults that depend on other keys, combinations that cannot be, and the rate.
 * A contradiction is told at the key that asks for what cannot be, with the other's value. A default never
 * contradicts another.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/etcd.h"
#include "pipelines/recipe_schema.h"

#include "actors/plan.h"
#include "transport/address.h"

#include <math.h>
#include <string.h>

typedef tr__recipe_reading reading;

static int line_of(const reading *self, const char *key)
{
    int field = tr__recipe_field_index(key);
    TR_ASSERT(field >= 0);
    return self->lines[field];
}

static bool is_given(const reading *self, const char *key)
{
    return line_of(self, key) != 0;
}

/* Where a key that is missing would belong: the line of its section. */
static int section_line(const reading *self, const char *key)
{
    int field = tr__recipe_field_index(key);
    TR_ASSERT(field >= 0);
    return self->sections[field];
}

static tr_status require(const reading *self, const char *key, tr_error *err)
{
    if (is_given(self, key)) return TR_OK;
    char expected[160];
    tr__recipe_expectation(tr__recipe_field_index(key), expected);
    return tr__recipe_refuse(self, section_line(self, key), key, "", err, "is missing; give %s", expected);
}

/* Of two keys the one that was given later, the command line being later than any file. */
static const char *later(const reading *self, const char *a, const char *b)
{
    int at_a = line_of(self, a), at_b = line_of(self, b);
    if (at_a == TR__COMMAND_LINE) return a;
    if (at_b == TR__COMMAND_LINE) return b;
    return at_a >= at_b ? a : b;
}

static tr_status refuse_both(const reading *self, const char *a, const char *b, tr_error *err,
                             const char *remedy)
{
    const char *last = later(self, a, b), *other = last == a ? b : a;
    return tr__recipe_refuse(self, line_of(self, last), last, NULL, err, "cannot stand beside %s; %s", other,
                             remedy);
}

static tr_status check_model_choice(const reading *self, tr_error *err)
{
    const tr_recipe *recipe = &self->recipe;
    if (recipe->model.hf && recipe->model.preset)
        return refuse_both(self, "model.hf", "model.preset", err, "keep one of them");
    if (recipe->model.hf || recipe->model.preset) return TR_OK;
    if (!section_line(self, "model.hf") && !is_given(self, "model.layers"))
        return tr__recipe_refuse(
            self, 0, "model", "", err,
            "is missing; give {hf: DIR}, {preset: gpt2-124m} or sizes {family: llama, layers: 6, "
            "width: 384, heads: 6}");
    tr_status status = require(self, "model.layers", err);
    if (!status) status = require(self, "model.width", err);
    if (!status) status = require(self, "model.heads", err);
    return status;
}

static tr_status check_data_choice(const reading *self, tr_error *err)
{
    const tr_recipe *recipe = &self->recipe;
    if (recipe->data.text && recipe->data.tokens)
        return refuse_both(self, "data.text", "data.tokens", err, "keep one of them (null takes a key away)");
    if (!recipe->data.text && !recipe->data.tokens)
        return tr__recipe_refuse(self, section_line(self, "data.text"), "data", "", err,
                                 "says nothing to train on; give {text: FILE} or {tokens: FILE.safetensors}");
    return TR_OK;
}

static tr_status check_required(const reading *self, tr_error *err)
{
    static const char *const always[] = {"run", "train.steps", "train.sequence", "train.microbatch"};
    for (size_t i = 0; i < sizeof always / sizeof *always; i++) {
        tr_status status = require(self, always[i], err);
        if (status) return status;
    }
    if (!is_given(self, "lr.peak") && !is_given(self, "lr.values"))
        return tr__recipe_refuse(
            self, section_line(self, "lr.peak"), "lr", "", err,
            "has neither peak nor values; give {peak: 1e-3}, or {values: [...]} with one a step");
    return TR_OK;
}

/* A key without a meaning here would be silently ignored; so it is refused. */
static tr_status check_use(const reading *self, tr_error *err)
{
    static const char *const reasons[] = {
        [TR__WITH_SIZES] =
            "has no meaning beside model.hf or model.preset, which say it already; leave it out",
        [TR__WITH_LLAMA_SIZES] = "has a meaning for sizes of the llama family only; leave it out",
        [TR__WITH_TEXT] = "has no meaning without data.text; leave it out",
        [TR__WITH_TOKENS] = "has no meaning without data.tokens; leave it out",
        [TR__WITH_SCHEDULE] = "has no meaning beside lr.values, which say every step's; leave it out",
        [TR__WITH_ETCD] = "is of the lease in etcd; give head.etcd: http://HOST:2379, or leave it out",
    };
    for (int i = 0; i < TR__RECIPE_FIELDS; i++) {
        if (!self->lines[i] || tr__recipe_field_applies(&self->recipe, i)) continue;
        const tr__recipe_field *about = &tr__recipe_fields[i];
        return tr__recipe_refuse(self, self->lines[i], about->key, NULL, err, "%s", reasons[about->use]);
    }
    return TR_OK;
}

/* Constants from the table; they count as not given. */
static tr_status fill_constants(reading *self, tr_error *err)
{
    for (int i = 0; i < TR__RECIPE_FIELDS; i++) {
        if (self->lines[i] || !tr__recipe_fields[i].fallback || !tr__recipe_field_applies(&self->recipe, i))
            continue;
        tr_status status = tr__recipe_set(self, i, tr__recipe_fields[i].fallback, 0, err);
        if (status) return status;
    }
    return TR_OK;
}

static void fill_integer(const reading *self, const char *key, int32_t *value, int64_t fallback)
{
    if (!is_given(self, key)) *value = (int32_t)fallback;
}

static void fill_sizes(reading *self)
{
    tr_recipe *recipe = &self->recipe;
    bool gpt2 = recipe->model.family == TR_FAMILY_GPT2;
    int64_t width = recipe->model.width;
    fill_integer(self, "model.kv_heads", &recipe->model.kv_heads, recipe->model.heads);
    fill_integer(self, "model.head_size", &recipe->model.head_size, width / recipe->model.heads);
    fill_integer(self, "model.inner", &recipe->model.inner, gpt2 ? 4 * width : (8 * width + 95) / 96 * 32);
    fill_integer(self, "model.vocabulary", &recipe->model.vocabulary, 256);
    /* No more than it is trained on: what a model writes beyond that is noise. */
    fill_integer(self, "model.positions", &recipe->model.positions, recipe->train.sequence);
    if (!is_given(self, "model.tie")) recipe->model.tie = gpt2;
    if (gpt2) recipe->model.bias = true;
}

bool tr__recipe_asks_for_gpus(const tr_recipe *recipe)
{
    bool asks = false;
    for (int32_t s = 0; s == 0 || (size_t)s < recipe->layout.stages.count; s++)
        asks |= tr_recipe_stage_device(recipe, s) != TR_RECIPE_CPU;
    return asks;
}

static void fill_dependent(reading *self)
{
    tr_recipe *recipe = &self->recipe;
    if (!recipe->model.hf && !recipe->model.preset) fill_sizes(self);
    if (!is_given(self, "model.dropout")) recipe->model.dropout = recipe->model.hf ? (double)NAN : 0;
    if (!is_given(self, "data.holdout")) recipe->data.holdout = recipe->data.text ? 0.05 : 0;
    int32_t accumulate = recipe->train.accumulate;
    fill_integer(self, "train.groups", &recipe->train.groups, accumulate < 8 ? accumulate : 8);
    int64_t stages =
        recipe->layout.stages.count ? (int64_t)recipe->layout.stages.count : recipe->layout.pieces;
    int64_t pipeline = stages / recipe->layout.pieces;
    fill_integer(self, "layout.pipeline", &recipe->layout.pipeline, pipeline > 0 ? pipeline : 1);
    bool is_spread = recipe->layout.hosts > 1;
    bool copies =
        is_spread && recipe->supervision.copies && (recipe->layout.data == 1 || recipe->layout.zero);
    bool seldom = (tr__recipe_asks_for_gpus(recipe) || copies) && recipe->recovery != TR_RECOVERY_REPLAY;
    fill_integer(self, "supervision.hold_every", &recipe->supervision.hold_every, seldom ? 16 : 1);
    fill_integer(self, "supervision.lease", &recipe->supervision.lease, is_spread ? 0 : 30);
    if (!is_given(self, "transport"))
        recipe->transport = recipe->layout.processes ? TR_TRANSPORT_UCX : TR_TRANSPORT_INPROC;
}

static tr_status check_heads(const reading *self, tr_error *err)
{
    const tr_recipe *recipe = &self->recipe;
    int32_t heads = recipe->model.heads, width = recipe->model.width, head_size = recipe->model.head_size;
    bool gpt2 = recipe->model.family == TR_FAMILY_GPT2;
    if (!is_given(self, "model.head_size") && width % heads)
        return tr__recipe_refuse(self, line_of(self, "model.heads"), "model.heads", NULL, err,
                                 "does not divide the width %d; give a divisor, or head_size", width);
    if (gpt2 && (int64_t)heads * head_size != width)
        return tr__recipe_refuse(self, line_of(self, "model.head_size"), "model.head_size", NULL, err,
                                 "times %d heads is not the width %d, as gpt2 has it; leave it out", heads,
                                 width);
    if (gpt2 && recipe->model.kv_heads != heads)
        return tr__recipe_refuse(self, line_of(self, "model.kv_heads"), "model.kv_heads", NULL, err,
                                 "is not the %d heads, as gpt2 has it; leave it out", heads);
    if (heads % recipe->model.kv_heads)
        return tr__recipe_refuse(self, line_of(self, "model.kv_heads"), "model.kv_heads", NULL, err,
                                 "does not divide the %d heads evenly; give a divisor of them", heads);
    if (!gpt2 && head_size % 2)
        return tr__recipe_refuse(
            self, line_of(self, is_given(self, "model.head_size") ? "model.head_size" : "model.heads"),
            "model.head_size", NULL, err, "is odd, but rotary positions turn pairs; give an even size");
    return TR_OK;
}

/* What was found from other keys obeys the ranges as well: it is written, and read again by workers. */
static tr_status check_found(const reading *self, tr_error *err)
{
    for (int i = 0; i < TR__RECIPE_FIELDS; i++) {
        const tr__recipe_field *about = &tr__recipe_fields[i];
        if (self->lines[i] || about->type != TR__INTEGER || !tr__recipe_field_applies(&self->recipe, i))
            continue;
        int32_t value;
        memcpy(&value, (const char *)&self->recipe + about->offset, sizeof value);
        if (value >= about->low && value <= about->high) continue;
        char expected[160];
        tr__recipe_expectation(i, expected);
        return tr__recipe_refuse(self, section_line(self, about->key), about->key, NULL, err,
                                 "follows from other keys, but is out of range; give %s", expected);
    }
    return TR_OK;
}

static tr_status check_sizes(const reading *self, tr_error *err)
{
    const tr_recipe *recipe = &self->recipe;
    tr_status status = check_heads(self, err);
    if (status) return status;
    if (recipe->data.tokens && (status = require(self, "model.vocabulary", err))) return status;
    if (recipe->data.text && recipe->model.vocabulary < 256)
        return tr__recipe_refuse(self, line_of(self, "model.vocabulary"), "model.vocabulary", NULL, err,
                                 "is too small for bytes; give 256 or more");
    if (recipe->train.sequence > recipe->model.positions)
        return tr__recipe_refuse(
            self, line_of(self, "train.sequence"), "train.sequence", NULL, err,
            "is longer than the model's %d positions; shorten it, or raise model.positions",
            recipe->model.positions);
    return TR_OK;
}

static tr_status check_steps(const reading *self, tr_error *err)
{
    const tr_recipe *recipe = &self->recipe;
    if (recipe->train.groups > recipe->train.accumulate)
        return tr__recipe_refuse(
            self, line_of(self, "train.groups"), "train.groups", NULL, err,
            "is more than the micro-batches of a step (%d); lower it, or raise train.accumulate",
            recipe->train.accumulate);
    size_t n = recipe->lr.values.count;
    if (n && n != (size_t)recipe->train.steps)
        return tr__recipe_refuse(self, line_of(self, "lr.values"), "lr.values", "", err,
                                 "has %zu numbers for %d steps; give one a step, or a peak", n,
                                 recipe->train.steps);
    return TR_OK;
}

static tr_status check_fp8(const reading *self, tr_error *err)
{
    const tr_recipe *recipe = &self->recipe;
    if (!recipe->train.fp8 || recipe->dtype == TR_RECIPE_BFLOAT16) return TR_OK;
    return tr__recipe_refuse(self, line_of(self, "train.fp8"), "train.fp8", NULL, err,
                             "is for what is bfloat16 otherwise; give dtype: bfloat16, or leave it out");
}

/* Only where the recipe itself tells the number of layers;
 * tr_model_config_from_recipe looks again with the model. */
static tr_status check_layers(const reading *self, int32_t layers, tr_error *err)
{
    const tr_recipe *recipe = &self->recipe;
    int64_t stages = (int64_t)recipe->layout.pipeline * recipe->layout.pieces;
    if (recipe->layout.pipeline > layers)
        return tr__recipe_refuse(self, line_of(self, "layout.pipeline"), "layout.pipeline", NULL, err,
                                 "is more stages than the model's %d layers; give at most %d", layers,
                                 layers);
    if (stages > layers)
        return tr__recipe_refuse(
            self, line_of(self, "layout.pieces"), "layout.pieces", NULL, err,
            "makes %lld stages of layout.pipeline %d, more than the model's %d layers; give at most %d",
            (long long)stages, recipe->layout.pipeline, layers, layers / recipe->layout.pipeline);
    int64_t sum = 0;
    for (size_t i = 0; i < recipe->layout.stages.count; i++) sum += recipe->layout.stages.items[i];
    if (recipe->layout.stages.count && sum != layers)
        return tr__recipe_refuse(self, line_of(self, "layout.stages"), "layout.stages", NULL, err,
                                 "adds up to %lld of the model's %d layers; give every layer a stage",
                                 (long long)sum, layers);
    return TR_OK;
}

static tr_status check_layout(const reading *self, tr_error *err)
{
    const tr_recipe *recipe = &self->recipe;
    if (recipe->layout.data > recipe->train.groups)
        return tr__recipe_refuse(
            self, line_of(self, "layout.data"), "layout.data", NULL, err,
            "is more replicas than reduction groups (%d); lower it, or raise train.groups",
            recipe->train.groups);
    size_t stages = recipe->layout.stages.count;
    int32_t pipeline = recipe->layout.pipeline, pieces = recipe->layout.pieces;
    if (stages && pieces == 1 && stages != (size_t)pipeline)
        return tr__recipe_refuse(self, line_of(self, "layout.stages"), "layout.stages", NULL, err,
                                 "names %zu stages, but layout.pipeline is %d; make them agree", stages,
                                 pipeline);
    if (!is_given(self, "layout.pipeline") && stages % (size_t)pieces)
        return tr__recipe_refuse(
            self, line_of(self, "layout.stages"), "layout.stages", NULL, err,
            "names %zu stages, which do not make layout.pieces %d for each worker; name a multiple of %d",
            stages, pieces, pieces);
    if (stages && stages != (size_t)pipeline * (size_t)pieces)
        return tr__recipe_refuse(
            self, line_of(self, "layout.stages"), "layout.stages", NULL, err,
            "names %zu stages, but layout.pipeline %d times layout.pieces %d is %lld; make them agree",
            stages, pipeline, pieces, (long long)pipeline * pieces);
    int transport_line = line_of(self, "transport");
    if (!recipe->layout.processes && recipe->transport != TR_TRANSPORT_INPROC)
        return tr__recipe_refuse(
            self, transport_line, "transport", NULL, err,
            "does not go with layout.processes: false, which means inproc; leave one of them out");
    if (recipe->layout.processes && recipe->transport == TR_TRANSPORT_INPROC)
        return tr__recipe_refuse(
            self, transport_line, "transport", NULL, err,
            "does not reach another process; give layout.processes: false, or ucx or zmq");
    return TR_OK;
}

/* Only zmq has addresses and keys, and what others could reach has to have a key. */
static tr_status check_network(const reading *self, tr_error *err)
{
    const tr_recipe *recipe = &self->recipe;
    const char *address = recipe->network.address, *used = address ? "network.address" : "network.key";
    if (!address && !recipe->network.key) return TR_OK;
    if (recipe->transport != TR_TRANSPORT_ZMQ)
        return tr__recipe_refuse(
            self, line_of(self, used), used, NULL, err,
            "is of transport zmq, but the transport is %s; give transport: zmq, or leave it out",
            tr_transport_kind_name(recipe->transport));
    char bind[TR_BIND_CHARS];
    tr_error problem = {0};
    if (address && tr_address_bind(bind, address, &problem) != TR_OK)
        return tr__recipe_refuse(self, line_of(self, "network.address"), "network.address", "", err, "%s",
                                 problem.message);
    if (address && !recipe->network.key && !tr_host_is_local(address))
        return tr__recipe_refuse(
            self, line_of(self, "network.address"), "network.address", NULL, err,
            "can be reached from other machines; make a key with `troupe keygen`, and give it as "
            "network.key");
    return TR_OK;
}

/* Hosts are joined over zmq with a key, and end with their head. */
static tr_status check_hosts(const reading *self, tr_error *err)
{
    const tr_recipe *recipe = &self->recipe;
    int line = line_of(self, "layout.hosts");
    int64_t workers = (int64_t)recipe->layout.data * recipe->layout.pipeline;
    if (recipe->layout.hosts == 1) return TR_OK;
    if (recipe->transport != TR_TRANSPORT_ZMQ)
        return tr__recipe_refuse(
            self, line, "layout.hosts", NULL, err,
            "needs transport: zmq, which alone goes from host to host; the transport is %s",
            tr_transport_kind_name(recipe->transport));
    if (!recipe->network.address || !recipe->network.key)
        return tr__recipe_refuse(
            self, line, "layout.hosts", NULL, err,
            "needs network.%s; give network: {address: 10.0.0.5, key: troupe.key} (`troupe "
            "keygen` makes the key)",
            recipe->network.address ? "key" : "address");
    if (recipe->layout.hosts > workers)
        return tr__recipe_refuse(self, line, "layout.hosts", NULL, err,
                                 "is more than the %lld workers of layout.data %d x layout.pipeline %d",
                                 (long long)workers, recipe->layout.data, recipe->layout.pipeline);
    if (recipe->supervision.lease)
        return tr__recipe_refuse(self, line_of(self, "supervision.lease"), "supervision.lease", NULL, err,
                                 "does not go with layout.hosts %d: all hosts end with the head, and "
                                 "--resume or a standby goes on "
                                 "from the newest checkpoint; leave it out",
                                 recipe->layout.hosts);
    if (recipe->head.standby && !recipe->head.etcd)
        return tr__recipe_refuse(self, line_of(self, "head.standby"), "head.standby", NULL, err,
                                 "needs head.etcd where layout.hosts is %d: a lock is of one host; give "
                                 "head: {standby: true, etcd: http://HOST:2379}",
                                 recipe->layout.hosts);
    return TR_OK;
}

/* Where the lease is, and what it is called there. */
static tr_status check_head(const reading *self, tr_error *err)
{
    tr_error problem = {0};
    const tr_recipe *recipe = &self->recipe;
    if (!recipe->head.etcd) return TR_OK;
    if (tr_etcd_check_addresses(recipe->head.etcd, &problem))
        return tr__recipe_refuse(self, line_of(self, "head.etcd"), "head.etcd", "", err, "%s",
                                 problem.message);
    for (const char *at = recipe->head.job; at && *at; at++)
        if ((unsigned char)*at < 32 || *at == 127)
            return tr__recipe_refuse(self, line_of(self, "head.job"), "head.job", "", err,
                                     "is no name; give some characters that people can read");
    if (recipe->head.standby && recipe->supervision.lease && recipe->supervision.lease <= recipe->head.ttl)
        return tr__recipe_refuse(
            self, line_of(self, "head.ttl"), "head.ttl", NULL, err,
            "is not shorter than supervision.lease %d: the workers would be gone before the "
            "standby may lead",
            recipe->supervision.lease);
    return TR_OK;
}

/* What is kept is of one step. */
static tr_status check_replay(const reading *self, tr_error *err)
{
    const tr_recipe *recipe = &self->recipe;
    int line = line_of(self, "recovery");
    if (recipe->recovery != TR_RECOVERY_REPLAY) return TR_OK;
    if (tr__recipe_asks_for_gpus(recipe))
        return tr__recipe_refuse(self, line, "recovery", NULL, err,
                                 "is for stages on CPUs; give recovery: step, or device: cpu");
    if (recipe->supervision.hold_every > 1)
        return tr__recipe_refuse(self, line, "recovery", NULL, err,
                                 "goes back one step, and supervision.hold_every %d means more; give "
                                 "recovery: step, or hold_every: 1",
                                 recipe->supervision.hold_every);
    if (!recipe->layout.processes)
        return tr__recipe_refuse(self, line, "recovery", NULL, err,
                                 "does not go with layout.processes: false, where a fault ends the run; "
                                 "leave one of them out");
    if (recipe->layout.zero)
        return tr__recipe_refuse(self, line, "recovery", NULL, err,
                                 "is for replicas that hold all of the state, and layout.zero is %d; give "
                                 "recovery: step, or layout.zero: 0",
                                 recipe->layout.zero);
    return TR_OK;
}

/* Somebody else must have the same weights, where they are computed with. */
static tr_status check_audit(const reading *self, tr_error *err)
{
    const tr_recipe *recipe = &self->recipe;
    int line = line_of(self, "supervision.audit");
    if (recipe->supervision.audit <= 0) return TR_OK;
    if (recipe->supervision.audit < 1.0 / TR_AUDIT_ALL)
        return tr__recipe_refuse(self, line, "supervision.audit", NULL, err,
                                 "is less than one micro-batch of a million; give at least 0.000001, or 0");
    if (recipe->layout.data < 2)
        return tr__recipe_refuse(self, line, "supervision.audit", NULL, err,
                                 "needs another replica, which has the same weights, to compute again; give "
                                 "layout.data: 2 or more, or leave it out");
    if (tr__recipe_asks_for_gpus(recipe))
        return tr__recipe_refuse(self, line, "supervision.audit", NULL, err,
                                 "is for stages on CPUs; give device: cpu, or leave it out");
    if (recipe->supervision.hold_every > 1)
        return tr__recipe_refuse(self, line, "supervision.audit", NULL, err,
                                 "is for stages that compute in what is held, and supervision.hold_every is "
                                 "%d; give hold_every: 1, or leave it out",
                                 recipe->supervision.hold_every);
    if (!recipe->layout.processes)
        return tr__recipe_refuse(self, line, "supervision.audit", NULL, err,
                                 "does not go with layout.processes: false, where there is no other worker; "
                                 "leave one of them out");
    return TR_OK;
}

static tr_status check_preset(const reading *self, tr_error *err)
{
    tr_model_config config;
    tr_error problem = {0};
    tr_status status = tr_model_config_preset(&config, self->recipe.model.preset, &problem);
    if (status)
        return tr__recipe_refuse(self, line_of(self, "model.preset"), "model.preset", "", err, "%s",
                                 problem.message);
    int32_t layers = config.layers;
    tr_model_config_release(&config);
    return check_layers(self, layers, err);
}

tr_status tr__recipe_resolve(tr__recipe_reading *self, tr_error *err)
{
    tr_status status = check_required(self, err);
    if (!status) status = check_model_choice(self, err);
    if (!status) status = check_data_choice(self, err);
    if (!status) status = check_use(self, err);
    if (!status) status = fill_constants(self, err);
    if (status) return status;
    fill_dependent(self);
    const tr_recipe *recipe = &self->recipe;
    if (!recipe->model.hf && !recipe->model.preset) {
        status = check_sizes(self, err);
        if (!status) status = check_layers(self, recipe->model.layers, err);
    }
    if (!status) status = check_found(self, err);
    if (!status) status = check_steps(self, err);
    if (!status) status = check_fp8(self, err);
    if (!status) status = check_layout(self, err);
    if (!status) status = tr__recipe_check_chaos(self, err);
    if (!status) status = check_network(self, err);
    if (!status) status = check_hosts(self, err);
    if (!status) status = check_head(self, err);
    if (!status) status = check_replay(self, err);
    if (!status) status = check_audit(self, err);
    if (!status && recipe->model.preset) status = check_preset(self, err);
    return status;
}

double tr_recipe_learning_rate(const tr_recipe *self, int32_t step)
{
    TR_ASSERT(step >= 0 && step < self->train.steps);
    if (self->lr.values.count) return self->lr.values.items[step];
    double peak = self->lr.peak;
    int32_t warmup = self->lr.warmup, after = self->train.steps - 1 - warmup;
    if (step < warmup) return peak * (double)(step + 1) / warmup;
    double progress = (double)(step - warmup) / (after > 1 ? after : 1);
    double shape = 1;
    if (self->lr.decay == TR_DECAY_CONSTANT) return peak;
    if (self->lr.decay == TR_DECAY_COSINE) shape = (1 + cos(3.14159265358979323846 * progress)) / 2;
    if (self->lr.decay == TR_DECAY_LINEAR) shape = 1 - progress;
    return peak * (self->lr.floor + (1 - self->lr.floor) * shape);
}
