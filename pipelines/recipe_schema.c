/* pipelines/recipe_schema.c - the table of all keys of a recipe, and what follows from it directly.
 * To add a key: a member of tr_recipe, one line here, and a check in recipe_check.c where it can contradict
 * another.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/recipe_schema.h"

#include "actors/plan.h"
#include "base/memory.h"
#include "pipelines/device_record.h"
#include "pipelines/text.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

static const char *const families[] = {"llama", "gpt2", NULL};
static const char *const tokenizers[] = {"bytes", NULL};
static const char *const optimizers[] = {"adamw", NULL};
static const char *const decays[] = {"cosine", "linear", "constant", NULL};
const char *const tr__recipe_devices[] = {"cpu", "cuda", "auto", NULL};
static const char *const dtypes[] = {"float32", "bfloat16", NULL};
static const char *const recomputations[] = {"none", "selective", "full", NULL};
static const char *const products[] = {"library", "measured", NULL};
static const char *const reductions[] = {"exact", NULL};
static const char *const recoveries[] = {"step", "replay", "off", NULL};
static const char *const non_finite_choices[] = {"stop", "skip", NULL};
static const char *const transports[] = {"ucx", "zmq", "inproc", NULL};

#define AT(member) .offset = offsetof(tr_recipe, member)
#define UP(from) .low = (from), .high = INT32_MAX
#define TO(from, to) .low = (from), .high = (to)
#define REAL_UP .low = 0, .high = INFINITY
#define ABOVE_0 .low = 0, .high = INFINITY, .low_open = true
#define SHARE .low = 0, .high = 1, .high_open = true
#define SIZES .use = TR__WITH_SIZES
#define LLAMA .use = TR__WITH_LLAMA_SIZES
#define SCHEDULE .use = TR__WITH_SCHEDULE
#define ETCD .use = TR__WITH_ETCD
#define BY_DEFAULT(yaml) .fallback = (yaml)
#define ELSE(words) .fallback_words = (words)

/* clang-format off */
const tr__recipe_field tr__recipe_fields[] = { /* a wrong TR__RECIPE_FIELDS does not compile */
    {"run", AT(run), .type = TR__TEXT, ELSE("required"), .help = "the run directory, made by the run"},

    {"model.hf", AT(model.hf), .type = TR__TEXT, .help = "a Hugging Face directory: config.json and model*.safetensors"},
    {"model.preset", AT(model.preset), .type = TR__TEXT, .help = "a known set of sizes, such as gpt2-124m; fresh weights"},
    {"model.family", AT(model.family), .type = TR__CHOICE, .choices = families, SIZES, BY_DEFAULT("llama"), .help = "architecture, for sizes given here"},
    {"model.layers", AT(model.layers), .type = TR__INTEGER, TO(1, 4096), SIZES, .help = "decoder layers"},
    {"model.width", AT(model.width), .type = TR__INTEGER, TO(1, 1048576), SIZES, .help = "channels of the residual stream"},
    {"model.heads", AT(model.heads), .type = TR__INTEGER, TO(1, 65536), SIZES, .help = "query heads"},
    {"model.kv_heads", AT(model.kv_heads), .type = TR__INTEGER, TO(1, 65536), SIZES, ELSE("= heads"), .help = "key and value heads; divides heads"},
    {"model.head_size", AT(model.head_size), .type = TR__INTEGER, TO(1, 65536), SIZES, ELSE("width / heads"), .help = "channels of a head"},
    {"model.inner", AT(model.inner), .type = TR__INTEGER, TO(1, 4194304), SIZES, ELSE("llama: 8/3 width, to 32s; gpt2: 4 width"), .help = "channels inside the feed-forward part"},
    {"model.vocabulary", AT(model.vocabulary), .type = TR__INTEGER, TO(1, 16777216), SIZES, ELSE("256 for text"), .help = "token ids; required with data.tokens"},
    {"model.positions", AT(model.positions), .type = TR__INTEGER, TO(1, 16777216), SIZES, ELSE("= train.sequence"), .help = "longest sequence"},
    {"model.rope_theta", AT(model.rope_theta), .type = TR__REAL, ABOVE_0, LLAMA, BY_DEFAULT("10000"), .help = "base of the rotary frequencies"},
    {"model.norm_eps", AT(model.norm_eps), .type = TR__REAL, ABOVE_0, SIZES, BY_DEFAULT("1e-5"), .help = "added to the variance in the norms"},
    {"model.initializer_range", AT(model.initializer_range), .type = TR__REAL, ABOVE_0, SIZES, BY_DEFAULT("0.02"), .help = "standard deviation of fresh weights"},
    {"model.tie", AT(model.tie), .type = TR__FLAG, SIZES, ELSE("gpt2: true, llama: false"), .help = "the output projection is the embedding"},
    {"model.bias", AT(model.bias), .type = TR__FLAG, LLAMA, BY_DEFAULT("false"), .help = "biases in llama's projections (gpt2 always has them)"},
    {"model.dropout", AT(model.dropout), .type = TR__REAL, SHARE, ELSE("config.json's; else 0"), .help = "share dropped in training: of attention; gpt2: also of embeddings and residual branches"},

    {"data.text", AT(data.text), .type = TR__TEXT, .help = "a text file"},
    {"data.tokenizer", AT(data.tokenizer), .type = TR__CHOICE, .choices = tokenizers, .use = TR__WITH_TEXT, BY_DEFAULT("bytes"), .help = "how text becomes ids"},
    {"data.holdout", AT(data.holdout), .type = TR__REAL, SHARE, ELSE("text: 0.05, tokens: 0"), .help = "share at the end that is held out for validation"},
    {"data.tokens", AT(data.tokens), .type = TR__TEXT, .help = "a safetensors file of token ids"},
    {"data.key", AT(data.key), .type = TR__TEXT, .use = TR__WITH_TOKENS, BY_DEFAULT("tokens"), .help = "the tensor in it: (rows, sequence + 1)"},

    {"train.steps", AT(train.steps), .type = TR__INTEGER, UP(1), ELSE("required"), .help = "updates"},
    {"train.sequence", AT(train.sequence), .type = TR__INTEGER, TO(1, 268435456), ELSE("required"), .help = "predictions a row"},
    {"train.microbatch", AT(train.microbatch), .type = TR__INTEGER, UP(1), ELSE("required"), .help = "rows of a micro-batch"},
    {"train.accumulate", AT(train.accumulate), .type = TR__INTEGER, UP(1), BY_DEFAULT("1"), .help = "micro-batches a step, over all replicas"},
    {"train.groups", AT(train.groups), .type = TR__INTEGER, TO(1, TR_MAX_GROUPS), ELSE("accumulate, at most 8"), .help = "reduction groups: what the bits depend on"},
    {"train.products", AT(train.products), .type = TR__CHOICE, .choices = products, BY_DEFAULT("library"), .help = "on GPUs, who chooses the algorithms of matrix products: the library, alike in every run, or this run by measuring, kept in its products.txt"},
    {"train.fp8", AT(train.fp8), .type = TR__FLAG, BY_DEFAULT("false"), .help = "products of the layers' matrices in FP8, with dtype bfloat16: forward in e4m3, gradients in e5m2, each tensor scaled by its own largest number; fast on GPUs from Hopper on, slower on CPUs"},
    {"train.seed", AT(train.seed), .type = TR__SEED, REAL_UP, BY_DEFAULT("1"), .help = "of all random numbers"},

    {"optimizer.kind", AT(optimizer.kind), .type = TR__CHOICE, .choices = optimizers, BY_DEFAULT("adamw"), .help = "decoupled decay, on tensors of rank 2 and more"},
    {"optimizer.betas", AT(optimizer.betas), .type = TR__PAIR, SHARE, BY_DEFAULT("[0.9, 0.95]"), .help = "of the two moving means"},
    {"optimizer.eps", AT(optimizer.eps), .type = TR__REAL, REAL_UP, BY_DEFAULT("1e-8"), .help = "added to the root of the second"},
    {"optimizer.weight_decay", AT(optimizer.weight_decay), .type = TR__REAL, REAL_UP, BY_DEFAULT("0.1"), .help = "times the learning rate, a step"},
    {"optimizer.clip_norm", AT(optimizer.clip_norm), .type = TR__REAL, REAL_UP, BY_DEFAULT("1.0"), .help = "largest norm of the gradient; 0: no limit"},

    {"lr.peak", AT(lr.peak), .type = TR__REAL, REAL_UP, SCHEDULE, ELSE("required, or lr.values"), .help = "learning rate after the warm-up"},
    {"lr.warmup", AT(lr.warmup), .type = TR__INTEGER, UP(0), SCHEDULE, BY_DEFAULT("0"), .help = "steps of linear rise"},
    {"lr.decay", AT(lr.decay), .type = TR__CHOICE, .choices = decays, SCHEDULE, BY_DEFAULT("cosine"), .help = "the way down"},
    {"lr.floor", AT(lr.floor), .type = TR__REAL, TO(0, 1), SCHEDULE, BY_DEFAULT("0.1"), .help = "at the last step, as a share of the peak"},
    {"lr.values", AT(lr.values), .type = TR__REALS, REAL_UP, .help = "one a step, instead of all the above"},

    {"layout.data", AT(layout.data), .type = TR__INTEGER, TO(1, 65536), BY_DEFAULT("1"), .help = "replicas"},
    {"layout.pipeline", AT(layout.pipeline), .type = TR__INTEGER, TO(1, 4096), ELSE("1, or what stages make"), .help = "workers of a replica, each with a part of the layers"},
    {"layout.pieces", AT(layout.pieces), .type = TR__INTEGER, TO(1, 4096), BY_DEFAULT("1"), .help = "stages of each of them, dealt out in turns: less idling, more messages"},
    {"layout.processes", AT(layout.processes), .type = TR__FLAG, BY_DEFAULT("true"), .help = "a process for each worker; false: all in one"},
    {"layout.threads", AT(layout.threads), .type = TR__INTEGER, TO(1, 256), BY_DEFAULT("1"), .help = "of each worker; changes no bit"},
    {"layout.hosts", AT(layout.hosts), .type = TR__INTEGER, TO(1, 64), BY_DEFAULT("1"), .help = "machines that the workers are spread over: this one, and others that come with `troupe worker --join`"},
    {"layout.stages", AT(layout.stages), .type = TR__STAGES, TO(1, 4096), ELSE("balanced by cost"), .help = "decoder layers of each of the pipeline x pieces stages, or {layers: 2, device: cuda}"},
    {"layout.stash", AT(layout.stash), .type = TR__INTEGER, TO(0, 4096), BY_DEFAULT("1"), .help = "micro-batches a stage may hold beyond those of 1F1B: memory for less idling"},
    {"layout.recompute", AT(layout.recompute), .type = TR__CHOICE, .choices = recomputations, BY_DEFAULT("none"), .help = "time for memory: selective computes norms and activations again in the backward, full all of a layer but its input"},
    {"layout.logits", AT(layout.logits), .type = TR__INTEGER, UP(0), BY_DEFAULT("0"), .help = "tokens of a micro-batch whose logits exist at a time, with more the loss goes chunk by chunk; 0: as many as fit into 512 MiB"},
    {"layout.zero", AT(layout.zero), .type = TR__INTEGER, TO(0, 2), BY_DEFAULT("0"), .help = "ZeRO: replicas of a stage share, 1: what the optimizer keeps, each a shard of it; 2: and of the summed gradient; 0: each holds all. Changes no bit"},
    {"layout.cuda_graphs", AT(layout.cuda_graphs), .type = TR__FLAG, BY_DEFAULT("false"), .help = "on GPUs, kernels of a phase are launched together; changes no bit"},
    {"layout.cuda_ipc", AT(layout.cuda_ipc), .type = TR__FLAG, BY_DEFAULT("true"), .help = "stages on GPUs of one host hand activations and gradients to each other from GPU to GPU, where that can be; false: through the host's memory. Changes no bit"},

    {"device", AT(device), .type = TR__CHOICE, .choices = tr__recipe_devices, BY_DEFAULT("cpu"), .help = "where stages compute; auto: on a GPU if one can be used; several workers may share a GPU"},
    {"dtype", AT(dtype), .type = TR__CHOICE, .choices = dtypes, BY_DEFAULT("float32"), .help = "of matrices and activations (sums, norms, losses and the weights that are updated stay float32)"},
    {"reduction", AT(reduction), .type = TR__CHOICE, .choices = reductions, BY_DEFAULT("exact"), .help = "exact: equal bits in every layout"},
    {"transport", AT(transport), .type = TR__CHOICE, .choices = transports, ELSE("ucx; inproc in one process"), .help = "what carries messages between workers"},
    {"network.address", AT(network.address), .type = TR__TEXT, ELSE("none: within this machine"), .help = "zmq: the address of this machine, such as 10.0.0.5, at which processes listen"},
    {"network.key", AT(network.key), .type = TR__TEXT, ELSE("none: only on loopback"), .help = "zmq: the key file (troupe keygen) by which processes know one another"},
    {"network.port", AT(network.port), .type = TR__INTEGER, TO(1, 65535), BY_DEFAULT("7600"), .help = "of network.address, where other hosts ask to join"},
    {"network.wait", AT(network.wait), .type = TR__INTEGER, TO(1, 86400), BY_DEFAULT("600"), .help = "seconds that hosts have to join at the beginning"},
    {"network.copy_rate", AT(network.copy_rate), .type = TR__INTEGER, UP(0), BY_DEFAULT("0"), .help = "MiB a second that copies of states may take of a host's network at most; 0: what there is"},

    {"trace", AT(trace), .type = TR__FLAG, BY_DEFAULT("false"), .help = "write what each actor did when into trace.json, for Perfetto"},

    {"validate.every", AT(validate.every), .type = TR__INTEGER, UP(0), BY_DEFAULT("0"), .help = "steps; 0: only at the end"},
    {"validate.windows", AT(validate.windows), .type = TR__INTEGER, UP(1), BY_DEFAULT("16"), .help = "held-out windows evaluated while training"},

    {"recovery", AT(recovery), .type = TR__CHOICE, .choices = recoveries, BY_DEFAULT("step"), .help = "after a worker's death: step goes back to the newest state that all hold; replay does too, but only the lost worker computes; off ends the run"},
    {"supervision.intensity", AT(supervision.intensity), .type = TR__INTEGER, TO(1, 65536), BY_DEFAULT("10"), .help = "deaths that are mended within the period; one more ends the run"},
    {"supervision.period", AT(supervision.period), .type = TR__INTEGER, TO(1, 86400), BY_DEFAULT("60"), .help = "seconds"},
    {"supervision.hung_after", AT(supervision.hung_after), .type = TR__INTEGER, TO(1, 86400), BY_DEFAULT("60"), .help = "seconds without a sign of work after which a worker is killed and replaced"},
    {"supervision.stall_after", AT(supervision.stall_after), .type = TR__INTEGER, TO(1, 86400), BY_DEFAULT("60"), .help = "seconds without the end of a step, and at least ten times a step's, after which it is told who holds up all"},
    {"supervision.hold_every", AT(supervision.hold_every), .type = TR__INTEGER, TO(1, TR_MAX_HOLD_EVERY), ELSE("1; with GPUs or copies 16"), .help = "steps between states that are held against deaths; a death costs at most twice as many"},
    {"supervision.audit", AT(supervision.audit), .type = TR__REAL, TO(0, 1), BY_DEFAULT("0"), .help = "share of micro-batches that another replica's workers compute again, to find those that make mistakes"},
    {"supervision.quarantine_after", AT(supervision.quarantine_after), .type = TR__INTEGER, TO(0, 65536), BY_DEFAULT("3"), .help = "mistakes (computations found wrong, messages damaged again and again) of a host's processes after which none runs there any more: a spare host takes its place, or the run ends; and failures of a GPU after which it is left out; 0: never"},
    {"supervision.non_finite", AT(supervision.non_finite), .type = TR__CHOICE, .choices = non_finite_choices, BY_DEFAULT("stop"), .help = "where a step's loss or gradient is no number, and is none with the same bits when it is run again: stop ends the run and says where it came from; skip leaves the update of that step out"},
    {"supervision.silence", AT(supervision.silence), .type = TR__INTEGER, TO(1, 25), BY_DEFAULT("10"), .help = "seconds without a word after which a host is lost, and ends its workers by itself"},
    {"supervision.wait_for_host", AT(supervision.wait_for_host), .type = TR__INTEGER, TO(0, 86400), BY_DEFAULT("0"), .help = "seconds that the workers of a lost host wait for another host before the others take them over"},
    {"supervision.copies", AT(supervision.copies), .type = TR__FLAG, BY_DEFAULT("true"), .help = "with several hosts: each state that no other host has anyway is copied to one"},
    {"supervision.lease", AT(supervision.lease), .type = TR__INTEGER, TO(0, 86400), ELSE("30; on several hosts 0"), .help = "seconds that workers wait for --resume when the head has died; 0: they end with it"},
    {"head.standby", AT(head.standby), .type = TR__FLAG, BY_DEFAULT("false"), .help = "a second head waits, and goes on by itself when the first one dies"},
    {"head.etcd", AT(head.etcd), .type = TR__TEXT, ELSE("none: the lock on the run directory decides"), .help = "http://HOST:PORT of etcd (several with commas), which decides who leads: for heads on several hosts"},
    {"head.job", AT(head.job), .type = TR__TEXT, ETCD, ELSE("the run directory's whole path"), .help = "with etcd: the name under which heads of this job know one another"},
    {"head.ttl", AT(head.ttl), .type = TR__INTEGER, TO(2, 3600), ETCD, BY_DEFAULT("10"), .help = "with etcd: seconds after which a head that is not heard of may be replaced"},
    {"chaos.at", AT(chaos.at), .type = TR__TEXT, .help = "faults on purpose: EPOCH/ACTOR/ACTIVITY/STEP/SIGNAL, ..."},
    {"chaos.seed", AT(chaos.seed), .type = TR__SEED, REAL_UP, BY_DEFAULT("1"), .help = "of the moments, kinds and victims of faults by chance"},
    {"chaos.kills_per_minute", AT(chaos.kills_per_minute), .type = TR__REAL, REAL_UP, BY_DEFAULT("0"), .help = "workers killed on purpose, by chance"},
    {"chaos.faults_per_minute", AT(chaos.faults_per_minute), .type = TR__REAL, REAL_UP, BY_DEFAULT("0"), .help = "faults of all kinds done on purpose, by chance; those that end a worker count as deaths in supervision.intensity"},
    {"chaos.faults", AT(chaos.faults), .type = TR__TEXT, ELSE("all that the run can show"), .help = "which: kill, stop, stop_and_continue, slow, flip_state, cut, deaf, delay, duplicate, flip_frame, full_disk, failed_fsync"},
    {"chaos.devices", AT(chaos.devices), .type = TR__INTEGER, TO(0, TR_MOST_DEVICES), BY_DEFAULT("0"), .help = "devices that the CPU plays: workers are dealt out to them as to GPUs, so that it can be seen what DEVICE in chaos.at does"},

    {"checkpoint.every", AT(checkpoint.every), .type = TR__INTEGER, UP(0), BY_DEFAULT("0"), .help = "steps; 0: only after the last"},
    {"checkpoint.keep", AT(checkpoint.keep), .type = TR__INTEGER, UP(0), BY_DEFAULT("2"), .help = "newest that are kept; 0: all"},
};
/* clang-format on */

int tr__recipe_field_index(const char *key)
{
    for (int i = 0; i < TR__RECIPE_FIELDS; i++)
        if (strcmp(tr__recipe_fields[i].key, key) == 0) return i;
    return -1;
}

bool tr__recipe_is_section(const char *key)
{
    size_t length = strlen(key);
    for (int i = 0; i < TR__RECIPE_FIELDS; i++)
        if (strncmp(tr__recipe_fields[i].key, key, length) == 0 && tr__recipe_fields[i].key[length] == '.')
            return true;
    return false;
}

bool tr__recipe_field_applies(const tr_recipe *recipe, int field)
{
    bool sizes = !recipe->model.hf && !recipe->model.preset;
    switch (tr__recipe_fields[field].use) {
    case TR__WITH_SIZES: return sizes;
    case TR__WITH_LLAMA_SIZES: return sizes && recipe->model.family == TR_FAMILY_LLAMA;
    case TR__WITH_TEXT: return recipe->data.text != NULL;
    case TR__WITH_TOKENS: return recipe->data.tokens != NULL;
    case TR__WITH_SCHEDULE: return recipe->lr.values.count == 0;
    case TR__WITH_ETCD: return recipe->head.etcd != NULL;
    case TR__ALWAYS: break;
    }
    return true;
}

static size_t field_bytes(tr__field_type type)
{
    switch (type) {
    case TR__TEXT: return sizeof(char *);
    case TR__INTEGER: return sizeof(int32_t);
    case TR__SEED: return sizeof(uint64_t);
    case TR__REAL: return sizeof(double);
    case TR__FLAG: return sizeof(bool);
    case TR__CHOICE: return sizeof(int);
    case TR__PAIR: return 2 * sizeof(double);
    case TR__REALS: return sizeof(tr_recipe_numbers);
    case TR__STAGES: return sizeof(tr_recipe_stage_list);
    }
    return 0;
}

void tr__recipe_clear_field(tr_recipe *recipe, int field)
{
    const tr__recipe_field *about = &tr__recipe_fields[field];
    char *at = (char *)recipe + about->offset;
    if (about->type == TR__TEXT) tr_free(*(char **)at);
    if (about->type == TR__REALS) tr_free(((tr_recipe_numbers *)at)->items);
    if (about->type == TR__STAGES) {
        tr_free(((tr_recipe_stage_list *)at)->items);
        tr_free(((tr_recipe_stage_list *)at)->devices);
    }
    memset(at, 0, field_bytes(about->type));
}

void tr_recipe_release(tr_recipe *self)
{
    for (int i = 0; i < TR__RECIPE_FIELDS; i++) tr__recipe_clear_field(self, i);
}

bool tr__recipe_field_is_empty(const tr_recipe *recipe, int field)
{
    const tr__recipe_field *about = &tr__recipe_fields[field];
    const char *at = (const char *)recipe + about->offset;
    if (about->type == TR__TEXT) return !*(char *const *)at;
    if (about->type == TR__REALS) return !((const tr_recipe_numbers *)at)->count;
    if (about->type == TR__STAGES) return !((const tr_recipe_stage_list *)at)->count;
    if (about->type == TR__REAL) return isnan(*(const double *)(const void *)at);
    return false;
}

static void join_choices(const char *const *choices, char *buffer, size_t size)
{
    size_t used = 0;
    for (size_t i = 0; choices[i]; i++) {
        const char *between = i == 0 ? "" : choices[i + 1] ? ", " : " or ";
        used += (size_t)snprintf(buffer + used, size - used, "%s%s", between, choices[i]);
    }
}

static void range_words(const tr__recipe_field *about, char buffer[96])
{
    char low[32], high[32];
    tr__double_text(about->low, low);
    if (about->type == TR__INTEGER || about->type == TR__STAGES) { /* %g would say 1e+06 */
        snprintf(low, sizeof low, "%.0f", about->low);
        snprintf(high, sizeof high, "%.0f", about->high);
    } else {
        tr__double_text(about->high, high);
    }
    bool open_ended = about->high == INT32_MAX || isinf(about->high);
    const char *from = about->low_open ? "above" : "from";
    if (open_ended)
        snprintf(buffer, 96, "%s %s%s", from, low, about->low_open ? "" : " up");
    else
        snprintf(buffer, 96, about->high_open ? "%s %s, below %s" : "%s %s to %s", from, low, high);
}

void tr__recipe_expectation(int field, char buffer[160])
{
    const tr__recipe_field *about = &tr__recipe_fields[field];
    char range[96], choices[96];
    range_words(about, range);
    switch (about->type) {
    case TR__TEXT: snprintf(buffer, 160, "a text"); break;
    case TR__INTEGER:
    case TR__SEED: snprintf(buffer, 160, "a whole number %s", range); break;
    case TR__REAL: snprintf(buffer, 160, "a number %s", range); break;
    case TR__FLAG: snprintf(buffer, 160, "true or false"); break;
    case TR__CHOICE:
        join_choices(about->choices, choices, sizeof choices);
        snprintf(buffer, 160, "%s", choices);
        break;
    case TR__PAIR: snprintf(buffer, 160, "two numbers %s, as in [0.9, 0.95]", range); break;
    case TR__REALS: snprintf(buffer, 160, "a list of numbers %s", range); break;
    case TR__STAGES:
        snprintf(buffer, 160, "a list of whole numbers %s, or of {layers: 2, device: cuda}", range);
        break;
    }
}

tr_recipe_device tr_recipe_stage_device(const tr_recipe *self, int32_t stage)
{
    const tr_recipe_stage_list *stages = &self->layout.stages;
    int32_t own = stages->devices && (size_t)stage < stages->count ? stages->devices[stage] : -1;
    return own < 0 ? self->device : (tr_recipe_device)own;
}

const char *tr_transport_kind_name(tr_transport_kind kind)
{
    return transports[kind];
}
