/* test/fuzz/make_seeds.c - writes the inputs that fuzzing starts from, each made by Troupe's own writers:
 * `make_seeds DIRECTORY` puts seeds/<target>/<name> there. Run it again when a format changes.
 * Files named finding-* beside them were found by fuzzing and stay.
 * SPDX-License-Identifier: Apache-2.0 */
#include "actors/topics.h"
#include "base/hash.h"
#include "fuzz.h"
#include "pipelines/checkpoint_manifest.h"
#include "pipelines/job_plan.h"
#include "pipelines/run_directory.h"
#include "pipelines/safetensors.h"
#include "runtime/state.h"
#include "runtime/supervisor.h"
#include "seeds.h"
#include "transport/handshake.h"

static const char *home;
static tr_error err;

void seed(const char *target, const char *name, const void *head, size_t head_bytes, const void *bytes,
          size_t size_bytes)
{
    char *directory = tr_format("%s/%s", home, target), *path = tr_format("%s/%s", directory, name);
    char *whole = tr_alloc(head_bytes + size_bytes);
    FUZZ_PROMISE(directory && path && whole);
    if (head_bytes) memcpy(whole, head, head_bytes);
    memcpy(whole + head_bytes, bytes, size_bytes);
    MUST(tr_directory_make(directory, &err));
    MUST(tr_file_write(path, whole, head_bytes + size_bytes, &err));
    tr_free(whole);
    tr_free(path);
    tr_free(directory);
}

static void seed_text(const char *target, const char *name, const char *text)
{
    seed(target, name, NULL, 0, text, strlen(text));
}

static void make_frames(void)
{
    tr_hello hello = {
        .node = 3, .incarnation = 7, .version = TR_HANDSHAKE_VERSION, .job_key = "0123456789abcde"};
    strcpy(hello.address, "tcp://127.0.0.1:5555");
    void *body;
    size_t size;
    MUST(tr_hello_write(&hello, &body, &size, &err));
    tr_frame frame = {
        .kind = TR_FRAME_HELLO, .flags = TR_FRAME_HASHED, .source = 3, .body_bytes = (uint32_t)size};
    frame.body_hash = tr_hash64(body, size);
    tr_frame_seal(&frame);
    seed("frame", "hello", &frame, sizeof frame, body, size);
    tr_free(body);
    frame = (tr_frame){.kind = TR_FRAME_CREDIT, .edge = 5, .sequence = 9, .slot = 2, .epoch = 1};
    tr_frame_seal(&frame);
    seed("frame", "credit", NULL, 0, &frame, sizeof frame);
}

static void make_recipes(void)
{
    static const char *const recipes[][2] = {
        {"llama",
         "run: runs/one\nmodel: {family: llama, layers: 4, width: 128, heads: 4, kv_heads: 2, inner: 352}\n"
         "data: {text: data/bible.txt, tokenizer: bytes, holdout: 0.05}\n"
         "train: {steps: 35, sequence: 256, microbatch: 2, accumulate: 4, seed: 1}\n"
         "lr: {peak: 3e-3, warmup: 5, decay: linear, floor: 0.03}\nlayout: {data: 2, stages: [1, 3]}\n"
         "transport: zmq\nvalidate: {every: 5}\ncheckpoint: {every: 10, keep: 2}\n"},
        {"preset",
         "run: \"a\\u0001b\"\nmodel: {preset: gpt2-124m}\ndata: {tokens: t.safetensors, key: 'ids'}\n"
         "train:\n  steps: 2\n  sequence: 8\n  microbatch: 1\nlr: {values: [1e-3, 2.5E-4]}\n"
         "layout: {processes: false, threads: 2}\noptimizer: {betas: [0.9, 0.99], clip_norm: 0}\n"},
    };
    for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++) {
        tr_recipe recipe;
        char *json;
        const char *text = recipes[i][1];
        seed_text("recipe", recipes[i][0], text);
        MUST(tr_recipe_parse(&recipe, text, strlen(text), "recipe", NULL, 0, &err));
        MUST(tr_recipe_to_json(&recipe, &json, &err));
        char *name = tr_format("%s.json", recipes[i][0]);
        static const char overrides[] = "\0layout.data=1\0lr.peak=1e-4"; /* behind a NUL each */
        seed("recipe", name, json, strlen(json), overrides, i == 0 ? sizeof overrides - 1 : 0);
        if (i == 0) make_messages(json);
        tr_free(name);
        tr_free(json);
        tr_recipe_release(&recipe);
    }
}

static void make_configs(void)
{
    static const char *const presets[] = {"gpt2-124m", "llama-15m"};
    for (int i = 0; i < 2; i++) {
        tr_model_config config;
        MUST(tr_model_config_preset(&config, presets[i], &err));
        seed_text("config", presets[i], config.json);
        tr_model_config_release(&config);
    }
    static const char sizes[] = "{\"model_type\": \"llama\", \"num_hidden_layers\": 1, \"hidden_size\": 8, "
                                "\"num_attention_heads\": 2, "
                                "\"intermediate_size\": 8, \"vocab_size\": 8, \"max_position_embeddings\": "
                                "64, \"torch_dtype\": \"bfloat16\", "
                                "\"rope_scaling\": %s}";
    static const char *const ropes[][2] = {
        {"yarn",
         "{\"rope_type\": \"yarn\", \"factor\": 4.0, \"beta_fast\": 32, \"beta_slow\": 1, \"mscale\": 1.0, "
         "\"original_max_position_embeddings\": 16}"},
        {"longrope", "{\"type\": \"longrope\", \"short_factor\": [1, 1.5], \"long_factor\": [2, 4], "
                     "\"original_max_position_embeddings\": 16}"},
        {"llama3",
         "{\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 1, \"high_freq_factor\": 4, "
         "\"original_max_position_embeddings\": 16}"},
        {"dynamic", "{\"rope_type\": \"dynamic\", \"factor\": 2.0}"},
    };
    for (size_t i = 0; i < sizeof ropes / sizeof *ropes; i++) {
        tr_model_config config;
        const char *between = strstr(sizes, "%s");
        char *text = tr_format("%.*s%s%s", (int)(between - sizes), sizes, ropes[i][1], between + 2);
        MUST(tr_model_config_parse(&config, text, ropes[i][0], &err));
        seed_text("config", ropes[i][0], text);
        tr_model_config_release(&config);
        tr_free(text);
    }
}

static void make_tensors(const char *target, const char *name, tr_dtype dtype, const char *tensor,
                         const tr_shape *shape, const void *values)
{
    char *path = tr_format("%s/tensors", fuzz_directory());
    tr_safetensors_writer *writer;
    size_t size_bytes = (size_t)tr_shape_elements(shape) * tr_dtype_bytes(dtype);
    MUST(tr_safetensors_writer_new(&writer, path, &err));
    MUST(tr_safetensors_writer_declare(writer, tensor, dtype, shape, &err));
    if (dtype == TR_F32) MUST(tr_safetensors_writer_declare(writer, "second", dtype, shape, &err));
    MUST(tr_safetensors_writer_begin(writer, TR_TENSORS_SORTED, &err));
    MUST(tr_safetensors_writer_put(writer, 0, 0, values, size_bytes, &err));
    if (dtype == TR_F32) MUST(tr_safetensors_writer_put(writer, 1, 0, values, size_bytes, &err));
    MUST(tr_safetensors_writer_commit(&writer, &err));
    char *bytes;
    size_t size;
    MUST(tr_file_read(path, &bytes, &size, &err));
    seed(target, name, NULL, 0, bytes, size);
    tr_free(bytes);
    tr_free(path);
}

static void make_files(void)
{
    static const float reals[8] = {0, 1, -1, 0.5f, 3, 4, 5, 6};
    static const int32_t ids[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    static const int64_t wide[8] = {7, 6, 5, 4, 3, 2, 1, 0};
    const tr_shape rows = {.rank = 2, .dims = {2, 4}};
    make_tensors("safetensors", "f32", TR_F32, "wte.weight", &rows, reals);
    make_tensors("safetensors", "i64", TR_I64, "ids", &rows, wide);
    make_tensors("tokens", "i32", TR_I32, "tokens", &rows, ids);
    make_tensors("tokens", "i64", TR_I64, "tokens", &rows, wide);
    seed_text("index", "two",
              "{\"metadata\": {\"total_size\": 16}, "
              "\"weight_map\": {\"x\": \"a.safetensors\", \"y\": \"b.safetensors\"}}");
    seed_text("index", "one", "{\"weight_map\": {\"x\": \"a.safetensors\"}}");
}

/* One message of a topic to the actor at a place of the topology: see topics_fuzz.c. */
static size_t say(uint8_t *out, unsigned place, unsigned topic, unsigned step, tr_packer *packer)
{
    void *bytes;
    size_t size;
    MUST(tr_packer_take(packer, &bytes, &size, &err));
    const uint8_t head[4] = {(uint8_t)place, (uint8_t)topic, (uint8_t)step, (uint8_t)size};
    FUZZ_PROMISE(size < 256);
    memcpy(out, head, sizeof head);
    memcpy(out + sizeof head, bytes, size);
    tr_free(bytes);
    return sizeof head + size;
}

/* An array of these numbers. */
static void pack_numbers(tr_packer *packer, unsigned n, const uint64_t *numbers)
{
    tr_packer_init(packer);
    tr_pack_array(packer, n);
    for (unsigned i = 0; i < n; i++) tr_pack_uint(packer, numbers[i]);
}

static void make_topics(void)
{
    static const double losses[2] = {5.5, 5.25};
    uint8_t script[1024];
    size_t n = 0;
    tr_packer packer;
    const uint64_t count = 8;
    for (unsigned place = 0; place < 6; place++) { /* to whomever: who is not meant refuses */
        n = 0;
        pack_numbers(&packer, 1, &count);
        n += say(script + n, place, TR_TOPIC_COUNT, 0, &packer);
        begin_packed(&packer, 2);
        tr_pack_uint(&packer, 0);
        tr_pack_bytes(&packer, losses, sizeof losses);
        n += say(script + n, place, TR_TOPIC_LOSSES, 0, &packer);
        pack_numbers(&packer, 1, &count); /* no sums: it owns nothing */
        n += say(script + n, place, TR_TOPIC_READY, 0, &packer);
        pack_numbers(&packer, 0, NULL);
        n += say(script + n, place, TR_TOPIC_UPDATED, 0, &packer);
        begin_packed(&packer, 3);
        tr_pack_uint(&packer, 0);
        tr_pack_f64(&packer, 22);
        tr_pack_uint(&packer, 4);
        n += say(script + n, place, TR_TOPIC_EVALUATED, 1, &packer);
        const uint64_t replayed[6] = {1, 2, 2, 2, 6, 6}, verdict[3] = {4, 1, 0}, audited[2] = {2, 1000};
        pack_numbers(&packer, 6, replayed);
        n += say(script + n, place, TR_TOPIC_REPLAYED, 0, &packer);
        begin_packed(&packer, 4);
        tr_pack_uint(&packer, 4);
        tr_pack_uint(&packer, 0);
        tr_pack_text(&packer, "gradient");
        tr_pack_text(&packer, "");
        n += say(script + n, place, TR_TOPIC_DIFFERS, 0, &packer);
        pack_numbers(&packer, 0, NULL);
        n += say(script + n, place, TR_TOPIC_FORGOTTEN, 0, &packer);
        pack_numbers(&packer, 3, verdict);
        n += say(script + n, place, TR_TOPIC_VERDICT, 0, &packer);
        pack_numbers(&packer, 2, audited);
        n += say(script + n, place, TR_TOPIC_AUDITED, 0, &packer);
        char *name = tr_format("head-%u", place);
        seed("topics", name, "h", 1, script, n);
        tr_free(name);

        n = 0;
        pack_numbers(&packer, 1, &count);
        n += say(script + n, place, TR_TOPIC_TOKENS, 0, &packer);
        begin_packed(&packer, 3);
        tr_pack_f64(&packer, 1);
        tr_pack_f64(&packer, 1e-3);
        tr_pack_uint(&packer, 1);
        n += say(script + n, place, TR_TOPIC_COMMIT, 0, &packer);
        pack_numbers(&packer, 1, &count);
        n += say(script + n, place, TR_TOPIC_CHECKPOINT, 1, &packer);
        name = tr_format("worker-%u", place);
        seed("topics", name, "w", 1, script, n);
        tr_free(name);

        n = 0;
        pack_numbers(&packer, 1, &count);
        n += say(script + n, place, TR_TOPIC_CHECKPOINT, 1, &packer);
        begin_packed(&packer, 2);
        tr_pack_text(&packer, "checkpoint");
        tr_pack_text(&packer, "somewhere");
        n += say(script + n, place, TR_TOPIC_NOTE, 1, &packer);
        begin_packed(&packer, 2);
        tr_pack_uint(&packer, 1);
        tr_pack_text(&packer, "somewhere");
        n += say(script + n, place, TR_TOPIC_CHECKPOINTED, 1, &packer);
        begin_packed(&packer, 1);
        tr_pack_text(&packer, "");
        n += say(script + n, place, TR_TOPIC_FINISH, 3, &packer);
        const tr_state_chunk chunk = {.parameter = 1, .part = 2, .offset_bytes = 0};
        const uint8_t head[4] = {(uint8_t)place, 0, 1, sizeof chunk + 8};
        memcpy(script + n, head, sizeof head);
        memcpy(script + n + sizeof head, &chunk, sizeof chunk);
        memset(script + n + sizeof head + sizeof chunk, 7, 8);
        n += sizeof head + sizeof chunk + 8;
        name = tr_format("words-%u", place);
        seed("topics", name, "h", 1, script, n);
        tr_free(name);
    }
    /* A supervisor's configuration; it is at place 2, behind its children. */
    for (unsigned strategy = 0; strategy <= TR_ONE_FOR_ALL; strategy++) {
        tr_topology topology;
        tr_actor_id ids[3];
        tr_topology_init(&topology, 1);
        for (int i = 0; i < 2; i++)
            MUST(tr_topology_add_actor(&topology, i ? "b" : "a", "child", 0, NULL, 0, 0, &ids[i], &err));
        const tr_child_spec children[2] = {{ids[0], TR_PERMANENT}, {ids[1], TR_TRANSIENT}};
        const tr_supervisor_spec spec = {(tr_strategy)strategy, 1, 5000, children, 2};
        MUST(tr_topology_add_supervisor(&topology, "supervisor", 0, &spec, &ids[2], &err));
        const tr_actor_spec *made = tr_topology_actor(&topology, ids[2]);
        script[0] = (uint8_t)made->config_bytes;
        memcpy(script + 1, made->config, made->config_bytes);
        n = 1 + made->config_bytes;
        pack_numbers(&packer, 1, &count); /* nobody tells a supervisor anything but the system */
        n += say(script + n, 2, TR_TOPIC_COUNT, 0, &packer);
        char *name = tr_format("supervisor-%u", strategy);
        seed("topics", name, "s", 1, script, n);
        tr_free(name);
        tr_topology_release(&topology);
    }
}

static void make_checkpoint(void)
{
    static const char *const names[] = {"config.json", "model.safetensors", "trainer/optimizer.safetensors",
                                        "trainer/state.json"};
    static const char state[] = "{\n \"version\": 1,\n \"updates\": 7,\n \"tokens\": 4096\n}\n";
    char *directory = tr_format("%s/step-7", fuzz_directory()), *trainer = tr_format("%s/trainer", directory);
    MUST(tr_directory_make(trainer, &err));
    for (int i = 0; i < 4; i++) {
        char *path = tr_format("%s/%s", directory, names[i]);
        MUST(tr_file_write(path, i < 3 ? "good" : state, i < 3 ? 4 : sizeof state - 1, &err));
        tr_free(path);
    }
    MUST(tr_manifest_write(directory, &err));
    char *path = tr_format("%s/manifest.json", trainer), *text;
    size_t size;
    MUST(tr_file_read(path, &text, &size, &err));
    seed("checkpoint", "whole", text, size + 1, state, sizeof state - 1); /* with the NUL between them */
    seed("checkpoint", "no-state", text, size + 1, "{}", 2);
    seed("checkpoint", "no-manifest", "{}", 3, state, sizeof state - 1);
    tr_free(text);
    tr_free(path);
    tr_free(trainer);
    tr_free(directory);
}

static void make_region(void)
{
    tr_state_region *region;
    uint64_t header[8];
    MUST(tr_state_region_new(&region, "seed", 100, &err));
    FUZZ_PROMISE(pread(tr_state_region_descriptor(region), header, sizeof header, 0) == sizeof header);
    seed("message", "region", "m", 1, header, sizeof header);
    tr_state_region_destroy(&region);
}

static void make_log(void)
{
    char *directory = tr_format("%s/run", fuzz_directory()), *path = tr_format("%s/log.jsonl", directory);
    tr_recipe recipe = {.run = directory, .train = {.steps = 3}};
    tr_run *run;
    MUST(tr_run_open(&run, &recipe, 0, NULL, &err));
    for (uint32_t step = 1; step <= 3; step++) {
        tr_step_record record = {
            .step = step, .loss = 1.0 / step, .tokens = 64u * step, .has_validation = step == 3};
        MUST(tr_run_record(run, &record, &err));
    }
    tr_run_close(&run);
    char *text;
    size_t size;
    MUST(tr_file_read(path, &text, &size, &err));
    seed("log", "three", "\2", 1, text, size);
    seed("log", "cut", "\3", 1, text, size - 20);
    tr_free(text);
    tr_free(path);
    tr_free(directory);
}

/* As etcd 3.4 answers; the first byte is the question. */
static void make_etcd(void)
{
#define HEADER "\"header\":{\"cluster_id\":\"3\",\"member_id\":\"4\",\"revision\":\"9\",\"raft_term\":\"2\"}"
#define KEY                                                                                                  \
    "\"kvs\":[{\"key\":\"a2V5\",\"create_revision\":\"2\",\"mod_revision\":\"2\",\"version\":\"1\","         \
    "\"value\":\"dmFsdWU=\","                                                                                \
    "\"lease\":\"77\"}],\"count\":\"1\""
    static const char *const answers[][2] = {
        {"grant", "0{" HEADER ",\"ID\":\"77\",\"TTL\":\"10\"}"},
        {"alive", "1{\"result\":{" HEADER ",\"ID\":\"77\",\"TTL\":\"10\"}}\n"},
        {"ended", "1{\"result\":{" HEADER ",\"ID\":\"77\"}}"},
        {"range", "2{" HEADER "," KEY "}"},
        {"nothing", "2{" HEADER "}"},
        {"put", "3{" HEADER ",\"succeeded\":true,\"responses\":[{\"response_put\":{" HEADER "}}]}"},
        {"not_put", "3{" HEADER ",\"responses\":[{\"response_range\":{" HEADER "," KEY "}}]}"},
        {"refusal", "4{\"error\":\"etcdserver: requested lease not found\",\"code\":5}"},
        {"base64", "5cHJvY2VzcyAxMg=="},
    };
#undef HEADER
#undef KEY
    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++)
        seed_text("etcd", answers[i][0], answers[i][1]);
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: make_seeds DIRECTORY\n");
        return 2;
    }
    home = argv[1];
    make_frames();
    make_topology();
    make_hosts();
    make_recipes(); /* and the messages: a place holds a recipe */
    make_configs();
    make_files();
    make_log();
    make_topics();
    make_checkpoint();
    make_region();
    make_etcd();
    return 0;
}
