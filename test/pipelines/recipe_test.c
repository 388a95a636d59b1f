/* test/pipelines/recipe_test.c - a recipe says what will be done, or one line says why not.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/recipe.h"

#include "check.h"
#include "pipelines/files.h"

#include <math.h>

static tr_error err;

static const char smallest[] = "run: r\n"
                               "model: {layers: 4, width: 48, heads: 4}\n"
                               "data: {text: t.txt}\n"
                               "train: {steps: 20, sequence: 16, microbatch: 2}\n"
                               "lr: {peak: 1e-3}\n";

static tr_status parse(tr_recipe *out, const char *text, const char *override)
{
    err = (tr_error){0};
    return tr_recipe_parse(out, text, strlen(text), "r.yaml", &override, override ? 1 : 0, &err);
}

static void the_smallest_recipe_gets_every_default(void)
{
    tr_recipe r;
    CHECK_OK(parse(&r, smallest, NULL));
    CU_ASSERT_STRING_EQUAL(r.run, "r");
    CU_ASSERT(r.model.family == TR_FAMILY_LLAMA && r.model.kv_heads == 4 && r.model.head_size == 12);
    CU_ASSERT(r.model.inner == 128 && r.model.vocabulary == 256 && r.model.positions == 16);
    CU_ASSERT(r.model.rope_theta == 10000 && r.model.norm_eps == 1e-5 && !r.model.tie && !r.model.bias);
    CU_ASSERT(r.data.holdout == 0.05 && r.data.tokenizer == TR_TOKENIZER_BYTES);
    CU_ASSERT(!r.data.tokens && !r.data.key);
    CU_ASSERT(r.train.accumulate == 1 && r.train.groups == 1 && r.train.seed == 1);
    CU_ASSERT(r.optimizer.betas[0] == 0.9 && r.optimizer.betas[1] == 0.95 && r.optimizer.eps == 1e-8);
    CU_ASSERT(r.optimizer.weight_decay == 0.1 && r.optimizer.clip_norm == 1);
    CU_ASSERT(r.lr.warmup == 0 && r.lr.decay == TR_DECAY_COSINE && r.lr.floor == 0.1);
    CU_ASSERT(r.layout.data == 1 && r.layout.pipeline == 1 && r.layout.processes && r.layout.threads == 1);
    CU_ASSERT(r.transport == TR_TRANSPORT_UCX && r.validate.every == 0 && r.validate.windows == 16);
    CU_ASSERT(r.checkpoint.every == 0 && r.checkpoint.keep == 2);
    tr_recipe_release(&r);
}

static void defaults_follow_the_other_keys(void)
{
    tr_recipe r;
    CHECK_OK(parse(&r, smallest, "train.accumulate=12"));
    CU_ASSERT_EQUAL(r.train.groups, 8);
    tr_recipe_release(&r);
    CHECK_OK(parse(&r, smallest, "layout={processes: false, stages: [3, 1]}"));
    CU_ASSERT(r.transport == TR_TRANSPORT_INPROC && r.layout.pipeline == 2 && r.layout.stages.items[0] == 3);
    tr_recipe_release(&r);
    CHECK_OK(parse(&r, smallest, "layout={pieces: 2, stages: [1, 1, 1, 1]}"));
    CU_ASSERT(r.layout.pipeline == 2 && r.layout.pieces == 2 && tr_recipe_stages(&r) == 4);
    tr_recipe_release(&r);
    CHECK_OK(parse(&r, smallest, "layout={pipeline: 2}"));
    CU_ASSERT(r.layout.pieces == 1 && tr_recipe_stages(&r) == 2);
    CU_ASSERT(r.device == TR_RECIPE_CPU && !r.layout.stages.devices);
    tr_recipe_release(&r);
    CHECK_OK(parse(&r, smallest, "layout={stages: [3, {layers: 1, device: cuda}]}"));
    CU_ASSERT(r.layout.pipeline == 2 && r.layout.stages.items[0] == 3 && r.layout.stages.items[1] == 1);
    CU_ASSERT(tr_recipe_stage_device(&r, 0) == TR_RECIPE_CPU &&
              tr_recipe_stage_device(&r, 1) == TR_RECIPE_CUDA);
    r.device = TR_RECIPE_AUTO;
    CU_ASSERT(tr_recipe_stage_device(&r, 0) == TR_RECIPE_AUTO &&
              tr_recipe_stage_device(&r, 1) == TR_RECIPE_CUDA);
    tr_recipe_release(&r);
    CHECK_OK(parse(&r, smallest, "model.family=gpt2"));
    CU_ASSERT(r.model.inner == 192 && r.model.tie && r.model.bias);
    tr_recipe_release(&r);
    CU_ASSERT_EQUAL(parse(&r, smallest, "data={text: null, tokens: t.safetensors}"), TR_EINVAL);
    CU_ASSERT(message_has(&err, "model.vocabulary is missing; give a whole number"));
    CHECK_OK(parse(&r, smallest, "train.sequence=2000"));
    CU_ASSERT_EQUAL(r.model.positions, 2000);
    tr_recipe_release(&r);
}

/* Every line: what is appended to the smallest recipe (line 6 on), an
 * override or NULL, and the exact message. */
static const struct {
    const char *more, *override, *message;
} refusals[] = {
    {"trian: {steps: 3}\n", NULL, "r.yaml:6: trian is no key of a recipe; did you mean 'train'?"},
    {"layout:\n  data: 1\n  pipelines: 2\n", NULL,
     "r.yaml:8: layout.pipelines is no key of a recipe; did you mean 'layout.pipeline'?"},
    {"steps: 4\n", NULL, "r.yaml:6: steps is no key of a recipe; did you mean 'train.steps'?"},
    {"quux: 4\n", NULL, "r.yaml:6: quux is no key of a recipe; `troupe train --help` lists them all"},
    {"a\\b: 4\n", NULL, "r.yaml:6: a\\\\b is no key of a recipe; `troupe train --help` lists them all"},
    {"layout: 3\n", NULL,
     "r.yaml:6: layout is not a mapping; write it as 'key: value' lines or {key: value}"},
    {"layout: [data]\n", NULL,
     "r.yaml:6: layout is not a mapping; write it as 'key: value' lines or {key: value}"},
    {"dtype: float16\n", NULL, "r.yaml:6: dtype 'float16' is not known; give float32 or bfloat16"},
    {"transport: ucs\n", NULL, "r.yaml:6: transport 'ucs' is not known; give ucx, zmq or inproc"},
    {"layout: {data: two}\n", NULL,
     "r.yaml:6: layout.data 'two' is not a whole number; give a whole number from 1 to 65536"},
    {"layout: {data: \"2\"}\n", NULL,
     "r.yaml:6: layout.data '\"2\"' is not a whole number; give a whole number from 1 to 65536"},
    {"layout: {data: 1.5}\n", NULL,
     "r.yaml:6: layout.data '1.5' is not a whole number; give a whole number from 1 to 65536"},
    {"layout: {data: 0}\n", NULL,
     "r.yaml:6: layout.data '0' is out of range; give a whole number from 1 to 65536"},
    {"layout: {processes: yes}\n", NULL,
     "r.yaml:6: layout.processes 'yes' is neither true nor false; give true or false"},
    {"layout: {stages: 3}\n", NULL,
     "r.yaml:6: layout.stages '3' is not a list with something in it; give a list of whole numbers from 1 to "
     "4096, or of {layers: 2, device: cuda}"},
    {"layout: {stages: [3, x]}\n", NULL,
     "r.yaml:6: layout.stages 'x' is not a whole number; give a list of whole numbers from 1 to 4096, or of "
     "{layers: 2, device: cuda}"},
    {"device: gpu\n", NULL, "r.yaml:6: device 'gpu' is not known; give cpu, cuda or auto"},
    {"layout: {stages: [{layers: 3, device: gpu}, 1]}\n", NULL,
     "r.yaml:6: layout.stages 'gpu' is no device; give cpu, cuda or auto"},
    {"chaos: {devices: 65}\n", NULL,
     "r.yaml:6: chaos.devices '65' is out of range; give a whole number from 0 to 64"},
    {"device: cuda\nchaos: {devices: 2}\n", NULL,
     "r.yaml:7: chaos.devices '2' is for stages on CPUs; give device: cpu, or leave it out"},
    {"layout: {processes: false}\nchaos: {devices: 2}\n", NULL,
     "r.yaml:7: chaos.devices '2' has no worker to kill where layout.processes is false; leave one of them "
     "out"},
    {"layout: {stages: [{device: cuda}, 1]}\n", NULL,
     "r.yaml:6: layout.stages '{device: cuda}' says no layers; give a list of whole numbers from 1 to 4096, "
     "or of {layers: 2, device: cuda}"},
    {"layout: {stages: [{layers: 0}, 1]}\n", NULL,
     "r.yaml:6: layout.stages '0' is out of range; give a list of whole numbers from 1 to 4096, or of "
     "{layers: 2, device: cuda}"},
    {"layout: {stages: [{layers: 3, gpu: 1}, 1]}\n", NULL,
     "r.yaml:6: layout.stages '{layers: 3, gpu: 1}' has a key that is neither layers nor device; give a list "
     "of whole numbers from 1 to 4096, or of {layers: 2, device: cuda}"},
    {"optimizer: {betas: [0.9, 1]}\n", NULL,
     "r.yaml:6: optimizer.betas '1' is out of range; give two numbers from 0, below 1, as in [0.9, 0.95]"},
    {"optimizer: {betas: [0.9]}\n", NULL,
     "r.yaml:6: optimizer.betas '[0.9]' does not have two items; give two numbers from 0, below 1, as in "
     "[0.9, 0.95]"},
    {"optimizer: {eps: .nan}\n", NULL,
     "r.yaml:6: optimizer.eps '.nan' is not a number; give a number from 0 up"},
    {"optimizer: {eps: 1e999}\n", NULL,
     "r.yaml:6: optimizer.eps '1e999' is out of range; give a number from 0 up"},
    {"checkpoint: {every: -1}\n", NULL,
     "r.yaml:6: checkpoint.every '-1' is out of range; give a whole number from 0 up"},
    {"dtype: *x\n", NULL, "r.yaml:6: not valid YAML: an alias (*), which a recipe does not have"},
    {"layout: {data: 2}\n", NULL,
     "r.yaml:6: layout.data '2' is more replicas than reduction groups (1); lower it, or raise "
     "train.groups"},
    {"layout:\n  pipeline: 5\n", NULL,
     "r.yaml:7: layout.pipeline '5' is more stages than the model's 4 layers; give at most 4"},
    {"layout: {stages: [2, 1]}\n", NULL,
     "r.yaml:6: layout.stages '[2, 1]' adds up to 3 of the model's 4 layers; give every layer a stage"},
    {"layout: {pipeline: 3, stages: [2, 2]}\n", NULL,
     "r.yaml:6: layout.stages '[2, 2]' names 2 stages, but layout.pipeline is 3; make them agree"},
    {"layout: {pieces: 0}\n", NULL,
     "r.yaml:6: layout.pieces '0' is out of range; give a whole number from 1 to 4096"},
    {"layout: {pipeline: 2, pieces: 3}\n", NULL,
     "r.yaml:6: layout.pieces '3' makes 6 stages of layout.pipeline 2, more than the model's 4 layers; give "
     "at "
     "most 2"},
    {"layout: {pipeline: 2, pieces: 2, stages: [2, 2]}\n", NULL,
     "r.yaml:6: layout.stages '[2, 2]' names 2 stages, but layout.pipeline 2 times layout.pieces 2 is 4; "
     "make "
     "them agree"},
    {"layout: {pieces: 2, stages: [1, 2, 1]}\n", NULL,
     "r.yaml:6: layout.stages '[1, 2, 1]' names 3 stages, which do not make layout.pieces 2 for each worker; "
     "name a multiple of 2"},
    {"layout: {pieces: 2, stages: [1, 1, 1, 2]}\n", NULL,
     "r.yaml:6: layout.stages '[1, 1, 1, 2]' adds up to 5 of the model's 4 layers; give every layer a stage"},
    {"layout: {processes: false}\ntransport: zmq\n", NULL,
     "r.yaml:7: transport 'zmq' does not go with layout.processes: false, which means inproc; leave one of "
     "them out"},
    {"transport: zmq\nlayout: {processes: false}\n", NULL,
     "r.yaml:6: transport 'zmq' does not go with layout.processes: false, which means inproc; leave one of "
     "them out"},
    {"transport: inproc\n", NULL,
     "r.yaml:6: transport 'inproc' does not reach another process; give layout.processes: false, or ucx or "
     "zmq"},
    {"", "train.groups=2",
     "command line: train.groups '2' is more than the micro-batches of a step (1); lower it, or raise "
     "train.accumulate"},
    {"", "train.microbatch=0",
     "command line: train.microbatch '0' is out of range; give a whole number from 1 up"},
    {"", "data.holdout=1", "command line: data.holdout '1' is out of range; give a number from 0, below 1"},
    {"", "data.tokens=x",
     "command line: data.tokens 'x' cannot stand beside data.text; keep one of them (null takes a key "
     "away)"},
    {"", "data=null",
     "r.yaml:1: data says nothing to train on; give {text: FILE} or {tokens: FILE.safetensors}"},
    {"", "data.key=x", "command line: data.key 'x' has no meaning without data.tokens; leave it out"},
    {"", "lr.values=[1, 2]",
     "r.yaml:5: lr.peak '0.001' has no meaning beside lr.values, which say every step's; leave it "
     "out"},
    {"", "lr={peak: null, values: [1, 2]}",
     "command line: lr.values has 2 numbers for 20 steps; give one a step, or a peak"},
    {"", "lr.peak=null",
     "r.yaml:5: lr has neither peak nor values; give {peak: 1e-3}, or {values: [...]} with one a step"},
    {"", "train.steps=null", "r.yaml:4: train.steps is missing; give a whole number from 1 up"},
    {"", "run=null", "r.yaml:1: run is missing; give a text"},
    {"", "run=", "r.yaml:1: run is missing; give a text"},
    {"", "model.hf=d",
     "r.yaml:2: model.layers '4' has no meaning beside model.hf or model.preset, which say it already; "
     "leave it out"},
    {"", "model={hf: a, preset: b}",
     "command line: model.hf 'a' cannot stand beside model.preset; keep one of them"},
    {"", "model=null",
     "r.yaml:1: model is missing; give {hf: DIR}, {preset: gpt2-124m} or sizes {family: llama, layers: 6, "
     "width: 384, heads: 6}"},
    {"", "model.width=50",
     "r.yaml:2: model.heads '4' does not divide the width 50; give a divisor, or head_size"},
    {"", "model.kv_heads=3",
     "command line: model.kv_heads '3' does not divide the 4 heads evenly; give a divisor of them"},
    {"head: {ttl: 5}\n", NULL,
     "r.yaml:6: head.ttl '5' is of the lease in etcd; give head.etcd: http://HOST:2379, or leave it out"},
    {"head: {etcd: \"10.0.0.7:2379\"}\n", NULL,
     "r.yaml:6: head.etcd '10.0.0.7:2379' is not http://HOST:PORT, or several with commas between"},
    {"head: {etcd: \"http://a\", job: \"a\\tb\"}\n", NULL,
     "r.yaml:6: head.job is no name; give some characters that people can read"},
    {"head: {etcd: \"http://a\", ttl: 30, standby: true}\n", NULL,
     "r.yaml:6: head.ttl '30' is not shorter than supervision.lease 30: the workers would be gone before the "
     "standby may lead"},
    {"layout: {hosts: 2, pipeline: 2}\ntransport: zmq\nnetwork: {address: 10.0.0.5, key: k}\nhead: {standby: "
     "true}\n",
     NULL,
     "r.yaml:9: head.standby 'true' needs head.etcd where layout.hosts is 2: a lock is of one host; give "
     "head: {standby: true, etcd: http://HOST:2379}"},
    {"", "model.vocabulary=255",
     "command line: model.vocabulary '255' is too small for bytes; give 256 or more"},
    {"", "model.positions=15",
     "r.yaml:4: train.sequence '16' is longer than the model's 15 positions; shorten it, or raise "
     "model.positions"},
    {"", "model={family: gpt2, rope_theta: 5}",
     "command line: model.rope_theta '5' has a meaning for sizes of the llama family only; leave it out"},
    {"", "layout.dta=4", "command line: layout.dta is no key of a recipe; did you mean 'layout.data'?"},
    {"", "layout.data", "command line: 'layout.data' is not of the form key=value, as in layout.data=4"},
    {"", "layout.stages=[1",
     "command line: 'layout.stages=[1' is not valid YAML: did not find expected ',' or ']' while parsing a "
     "flow sequence"},
    {"", "layout.stages=\n[1",
     "command line: 'layout.stages=\\x0a[1' is not valid YAML: did not find expected ',' or ']' while "
     "parsing a flow sequence"},
    {"", "no\nkey=1", "command line: no\\x0akey is no key of a recipe; `troupe train --help` lists them all"},
    {"", "train.sequence=2147483647",
     "command line: train.sequence '2147483647' is out of range; give a whole number from 1 to 268435456"},
    {"", "train.sequence=16777217",
     "r.yaml:2: model.positions '16777217' follows from other keys, but is out of range; give a whole "
     "number from 1 to 16777216"},
    {"", "model={heads: 1, width: 1048576}",
     "r.yaml:2: model.head_size '1048576' follows from other keys, but is out of range; give a whole "
     "number from 1 to 65536"},
};

static void every_refusal_is_one_line_with_place_and_remedy(void)
{
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        char *text = tr_format("%s%s", smallest, refusals[i].more);
        tr_recipe r;
        tr_status status = parse(&r, text, refusals[i].override);
        CU_ASSERT_EQUAL(status, TR_EINVAL);
        if (!status) tr_recipe_release(&r);
        CU_ASSERT(message_is(&err, refusals[i].message));
        tr_free(text);
    }
}

static void what_is_no_yaml_is_refused_with_its_line(void)
{
    tr_recipe r;
    CU_ASSERT_EQUAL(parse(&r, "run: r\nmodel: {layers: 4\ntrain: 3\n", NULL), TR_EINVAL);
    CU_ASSERT(message_has(&err, "r.yaml:") && message_has(&err, "not valid YAML"));
    CU_ASSERT_EQUAL(parse(&r, "run: a\nrun: b\n", NULL), TR_EINVAL);
    CU_ASSERT(message_is(&err, "r.yaml:2: run is given twice; leave one of them"));
    CU_ASSERT_EQUAL(parse(&r, "run: a\n---\nrun: b\n", NULL), TR_EINVAL);
    CU_ASSERT(message_is(&err, "r.yaml:2: not valid YAML: more than one document (---)"));
    CU_ASSERT_EQUAL(parse(&r, "run: a\n%un: \xa4 ?", NULL), TR_EINVAL);
    CU_ASSERT(message_is(&err, "r.yaml:2: not valid YAML: invalid leading UTF-8 octet"));
    CU_ASSERT_EQUAL(parse(&r, "run: a\n%un: ?", NULL), TR_EINVAL);
    CU_ASSERT(message_has(&err, "r.yaml:2: not valid YAML: "));
    CU_ASSERT_EQUAL(parse(&r, "run: a\nmodel: \xed\xa0\x80", NULL), TR_EINVAL);
    CU_ASSERT(message_is(&err, "r.yaml:2: not valid YAML: invalid Unicode character"));
    CU_ASSERT_EQUAL(parse(&r, "run: a\nmodel:\n\tlayers: 4\n", NULL), TR_EINVAL);
    CU_ASSERT(message_has(&err, "r.yaml:3: not valid YAML: found character that cannot start any token"));
    CU_ASSERT_EQUAL(parse(&r, smallest, "run=\xc3"), TR_EINVAL);
    CU_ASSERT(message_has(&err, "is not valid YAML: incomplete UTF-8 octet sequence"));
    CU_ASSERT_EQUAL(parse(&r, "run: &a [*a]\n", NULL), TR_EINVAL); /* would hold itself */
    CU_ASSERT(message_is(&err, "r.yaml:1: not valid YAML: an alias (*), which a recipe does not have"));
    CU_ASSERT_EQUAL(parse(&r, "\xef\xbb\xbfrun: a\n", NULL), TR_EINVAL); /* a byte order mark */
    CU_ASSERT(message_has(&err, "r.yaml:1: train.steps is missing"));
    CU_ASSERT_EQUAL(parse(&r, "run: \"a\\0b\"\n", NULL), TR_EINVAL);
    CU_ASSERT(message_has(&err, "r.yaml:1: run '...' is not a text"));
    CU_ASSERT_EQUAL(parse(&r, "", NULL), TR_EINVAL);
    CU_ASSERT(message_has(&err, "r.yaml:1: run is missing"));
    CU_ASSERT_EQUAL(parse(&r, "just words", NULL), TR_EINVAL);
    CU_ASSERT(message_has(&err, "r.yaml:1: recipe is not a mapping"));
    CU_ASSERT_EQUAL(parse(&r, "[1]: 3\n", NULL), TR_EINVAL);
    CU_ASSERT_EQUAL(tr_recipe_read(&r, "/nonexistent/r.yaml", NULL, 0, &err), TR_ENOTFOUND);
}

/* A message is cut between characters; bytes that begin none must not keep it from being cut. */
static void bytes_that_are_no_utf8_fit_a_message(void)
{
    char *long_override = tr_format("layout.%0400d", 0);
    tr_recipe r;
    memset(long_override + 7, 0x80, 400);
    CU_ASSERT_EQUAL(parse(&r, smallest, long_override), TR_EINVAL);
    CU_ASSERT(message_has(&err, "...' is not of the form key=value"));
    tr_free(long_override);
}

/* Deep, long, and both: an answer in any case, and no stack that ends. */
static void hostile_texts_are_refused(void)
{
    enum { BYTES = 20000 };
    static const char *const parts[] = {"[", "{a: ", "- ", "? ", "a: 1\n"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        size_t length = strlen(parts[i]), n = BYTES / length;
        char *text = tr_alloc_zero(n * length + 1, 1);
        for (size_t j = 0; j < n; j++) memcpy(text + j * length, parts[i], length);
        tr_recipe r;
        CU_ASSERT_EQUAL(parse(&r, text, NULL), TR_EINVAL);
        CU_ASSERT(message_has(&err, "r.yaml:"));
        tr_free(text);
    }
}

static void presets_are_known_by_name(void)
{
    static const char text[] = "run: r\nmodel:\n  preset: gpt2-124\ndata: {text: t}\n"
                               "train: {steps: 2, sequence: 8, microbatch: 1}\nlr: {values: [1e-3, 0]}\n";
    tr_recipe r;
    CU_ASSERT_EQUAL(parse(&r, text, NULL), TR_EINVAL);
    CU_ASSERT_STRING_EQUAL(err.message,
                           "r.yaml:3: model.preset 'gpt2-124' is no preset; did you mean 'gpt2-124m'?");
    CU_ASSERT_EQUAL(parse(&r,
                          "model:\n  hf: a\n  preset: b\nrun: r\nlr: {peak: 1}\n"
                          "train: {steps: 1, sequence: 1, microbatch: 1}\n",
                          NULL),
                    TR_EINVAL);
    CU_ASSERT(message_is(&err, "r.yaml:3: model.preset 'b' cannot stand beside model.hf; keep one of them"));
    CHECK_OK(parse(&r, text, "model.preset=gpt2-124m"));
    tr_recipe_release(&r);
}

/* The message names the value once;
 * the texts of two resolved recipes are equal exactly where the structs are. */
static void check_reads_back(const tr_recipe *r)
{
    char *yaml = NULL, *json = NULL, *again = NULL;
    tr_recipe from_yaml, from_json;
    CHECK_OK(tr_recipe_to_yaml(r, &yaml, &err));
    CHECK_OK(tr_recipe_to_json(r, &json, &err));
    CHECK_OK(parse(&from_yaml, yaml, NULL));
    CHECK_OK(tr_recipe_from_json(&from_json, json, strlen(json), &err));
    CHECK_OK(tr_recipe_to_json(&from_yaml, &again, &err));
    CU_ASSERT_STRING_EQUAL(json, again);
    tr_free(again);
    CHECK_OK(tr_recipe_to_yaml(&from_json, &again, &err));
    CU_ASSERT_STRING_EQUAL(yaml, again);
    CU_ASSERT_PTR_NULL(strchr(json, '\n'));
    CU_ASSERT_PTR_NULL(strstr(yaml, " \n"));
    CU_ASSERT(memcmp(&from_yaml.train, &r->train, sizeof r->train) == 0);
    CU_ASSERT(memcmp(&from_yaml.optimizer.betas, &r->optimizer.betas, sizeof r->optimizer.betas) == 0);
    CU_ASSERT(from_yaml.model.layers == r->model.layers && from_yaml.model.tie == r->model.tie);
    CU_ASSERT(from_json.lr.peak == r->lr.peak && from_json.lr.values.count == r->lr.values.count);
    for (size_t i = 0; i < r->lr.values.count; i++)
        CU_ASSERT(from_yaml.lr.values.items[i] == r->lr.values.items[i]);
    CU_ASSERT(from_json.device == r->device);
    for (int32_t s = 0; s < tr_recipe_stages(r); s++)
        CU_ASSERT_EQUAL(tr_recipe_stage_device(&from_yaml, s), tr_recipe_stage_device(r, s));
    CU_ASSERT(from_json.data.holdout == r->data.holdout && from_json.transport == r->transport);
    tr_recipe_release(&from_yaml);
    tr_recipe_release(&from_json);
    tr_free(yaml);
    tr_free(json);
    tr_free(again);
}

static void a_resolved_recipe_reads_back_equal(void)
{
    static const char *const recipes[] = {
        "run: 'a \"b\" \\ c'\nmodel: {hf: d, dropout: 0.1}\ndata: {tokens: f, key: ids, holdout: 0.3}\n"
        "train: {steps: 3, sequence: 8, microbatch: 2, accumulate: 6, groups: 4, seed: 9223372036854775807}\n"
        "lr: {values: [0.1, 0.30000000000000004, 1e-300]}\nlayout: {data: 3, processes: false}\n",
        "{\"run\": \"r\", \"model\": {\"family\": \"gpt2\", \"layers\": 3, \"width\": 8, \"heads\": 2},"
        " \"data\": {\"text\": \"t\"}, \"train\": {\"steps\": 3, \"sequence\": 8, \"microbatch\": 2},"
        " \"lr\": {\"peak\": 0.1}, \"layout\": {\"stages\": [1, 2]}, \"transport\": \"zmq\"}",
        "run: \"\\u0007\\u007f\\u0081\\x85 \\u2028\\u2029\\ufeff\\uffff\\U0001f3ad\"\n" /* which need escapes */
        "model: {layers: 4, width: 8, heads: 2}\ndata: {text: t}\nlr: {peak: 1}\ndevice: auto\n"
        "train: {steps: 3, sequence: 8, microbatch: 2}\nlayout: {stages: [{layers: 3, device: cuda}, 1]}\n",
        smallest,
    };
    for (int i = 0; i < 4; i++) {
        tr_recipe r;
        CHECK_OK(parse(&r, recipes[i], NULL));
        check_reads_back(&r);
        tr_recipe_release(&r);
    }
}

static void a_recipe_and_its_file_are_the_same(void)
{
    char *directory = enter_directory(), *path = path_in(directory, "recipe.yaml");
    tr_recipe r, again;
    const char *overrides[] = {"layout.data=2", "train={accumulate: 4}", "train.seed=7"};
    CHECK_OK(tr_file_write(path, smallest, strlen(smallest), &err));
    CHECK_OK(tr_recipe_read(&r, path, overrides, 3, &err));
    CU_ASSERT(r.layout.data == 2 && r.train.accumulate == 4 && r.train.groups == 4 && r.train.seed == 7);
    CU_ASSERT_EQUAL(r.train.steps, 20); /* a mapping on the command line adds to the file's */
    CHECK_OK(tr_recipe_write_yaml(&r, path, &err));
    CHECK_OK(tr_recipe_read(&again, path, NULL, 0, &err));
    CU_ASSERT(memcmp(&again.train, &r.train, sizeof r.train) == 0 && again.layout.data == 2);
    tr_recipe_release(&r);
    tr_recipe_release(&again);
    leave_directory(directory);
    tr_free(path);
}

static void check_same_numbers(const char *override, const char *key)
{
    tr_recipe a, b;
    CHECK_OK(parse(&a, smallest, NULL));
    CHECK_OK(parse(&b, smallest, override));
    const char *found = tr_recipe_numerics_differ(&a, &b);
    CU_ASSERT(key ? found && strcmp(found, key) == 0 : !found);
    tr_recipe_release(&a);
    tr_recipe_release(&b);
}

static void a_resume_may_change_the_place_but_not_the_numbers(void)
{
    check_same_numbers("dtype=bfloat16", "dtype");
    check_same_numbers("model.width=96", "model.width");
    check_same_numbers("train.seed=2", "train.seed");
    check_same_numbers("train.steps=40", NULL);
    check_same_numbers("layout.threads=2", NULL);
}

static void the_learning_rate_follows_its_formula(void)
{
    tr_recipe r;
    CHECK_OK(parse(&r, smallest, "lr={peak: 0.5, warmup: 4, floor: 0.2}"));
    CU_ASSERT(tr_recipe_learning_rate(&r, 0) == 0.125 && tr_recipe_learning_rate(&r, 3) == 0.5);
    CU_ASSERT_EQUAL(tr_recipe_learning_rate(&r, 4), 0.5);
    CU_ASSERT_DOUBLE_EQUAL(tr_recipe_learning_rate(&r, 19), 0.1, 1e-15);
    CU_ASSERT_DOUBLE_EQUAL(tr_recipe_learning_rate(&r, 9), 0.5 * (0.2 + 0.4 * (1 + cos(acos(-1) / 3))),
                           1e-15);
    r.lr.decay = TR_DECAY_LINEAR;
    CU_ASSERT_DOUBLE_EQUAL(tr_recipe_learning_rate(&r, 9), 0.5 * (0.2 + 0.8 * 2 / 3), 1e-15);
    r.lr.decay = TR_DECAY_CONSTANT;
    CU_ASSERT_EQUAL(tr_recipe_learning_rate(&r, 19), 0.5);
    r.lr.decay = TR_DECAY_COSINE;
    for (int32_t warmup = 18; warmup < 23; warmup++) { /* nothing, or less, left to decay in */
        r.lr.warmup = warmup;
        for (int32_t t = 0; t < 20; t++)
            CU_ASSERT(tr_recipe_learning_rate(&r, t) > 0 && tr_recipe_learning_rate(&r, t) <= 0.5);
    }
    tr_recipe_release(&r);
    CHECK_OK(
        parse(&r, smallest, "lr={peak: null, values: [1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20]}"));
    CU_ASSERT_EQUAL(tr_recipe_learning_rate(&r, 6), 7);
    tr_recipe_release(&r);
}

static void the_help_names_every_default(void)
{
    char *text = NULL;
    size_t size;
    FILE *stream = open_memstream(&text, &size);
    tr_recipe_describe(stream);
    fclose(stream);
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "optimizer.betas"));
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "[0.9, 0.95]"));
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "ucx, zmq or inproc"));
    free(text);
}

static void no_allocation_that_fails_leaks_or_crashes(void)
{
    for (uint64_t n = 1; n < 60; n++) {
        tr_recipe r;
        tr_memory_fail_after(n);
        tr_status status = parse(&r, smallest, "layout={stages: [2, 2]}");
        tr_memory_fail_after(0);
        CU_ASSERT(status == TR_OK || status == TR_ENOMEM);
        if (!status) tr_recipe_release(&r);
    }
}

int main(void)
{
    static const check_test tests[] = {
        CHECK_TEST(the_smallest_recipe_gets_every_default),
        CHECK_TEST(defaults_follow_the_other_keys),
        CHECK_TEST(every_refusal_is_one_line_with_place_and_remedy),
        CHECK_TEST(what_is_no_yaml_is_refused_with_its_line),
        CHECK_TEST(bytes_that_are_no_utf8_fit_a_message),
        CHECK_TEST(hostile_texts_are_refused),
        CHECK_TEST(presets_are_known_by_name),
        CHECK_TEST(a_resolved_recipe_reads_back_equal),
        CHECK_TEST(a_recipe_and_its_file_are_the_same),
        CHECK_TEST(a_resume_may_change_the_place_but_not_the_numbers),
        CHECK_TEST(the_learning_rate_follows_its_formula),
        CHECK_TEST(the_help_names_every_default),
        CHECK_TEST(no_allocation_that_fails_leaks_or_crashes),
    };
    return check_run("recipe", tests, sizeof tests / sizeof *tests);
}
