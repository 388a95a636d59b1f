/* test/cli/bad_input_test.c - whatever is wrong with what is given: exit 2, one clear message, and nothing created.
 * The good recipe is six lines; a case replaces one of them or gives other arguments, and says which words help.
 * SPDX-License-Identifier: Apache-2.0 */
#include "command.h"
#include "pipelines/safetensors.h"

enum { N_LINES = 6, ROWS = 8, SEQUENCE = 16, VOCABULARY = 64, MOST_ERROR_LINES = 4 };

static const char *const good[N_LINES] = {
    "run: run",
    "model: {family: llama, layers: 2, width: 16, heads: 2, vocabulary: 256}",
    "data: {text: words.txt}",
    "train: {steps: 2, sequence: 16, microbatch: 1, accumulate: 2}",
    "lr: {peak: 1e-3}",
    "layout: {processes: false}",
};

typedef struct bad_case {
    int line; /* of the recipe, from 1, to be replaced; 0: none */
    const char *text;
    const char *arguments[3]; /* behind `train recipe.yaml` */
    const char *words[3];     /* that the message has to have */
} bad_case;

static const bad_case recipes[] = {
    {4,
     "trian: {steps: 2, sequence: 16, microbatch: 1}",
     {0},
     {"recipe.yaml:4", "trian", "did you mean 'train'"}},
    {4, "train: {steps: 2, sequenc: 16, microbatch: 1}", {0}, {"recipe.yaml:4", "sequenc", "sequence'?"}},
    {4, "train: {steps: many, sequence: 16, microbatch: 1}", {0}, {"recipe.yaml:4", "train.steps", "'many'"}},
    {4, "train: {steps: 0, sequence: 16, microbatch: 1}", {0}, {"recipe.yaml:4", "train.steps", "'0'"}},
    {4, "train: [2, 16, 1]", {0}, {"recipe.yaml:4", "train"}},
    {4, "train: {steps: 2, microbatch: 1}", {0}, {"recipe.yaml:4", "train.sequence"}},
    {5, "lr: {values: [1e-3]}", {0}, {"recipe.yaml:5", "lr.values", "2 steps"}},
    {5, "lr: {}", {0}, {"recipe.yaml:5", "lr", "peak"}},
    {5, "lr:", {0}, {"recipe.yaml:5", "lr", "peak"}},
    {3, "data: {}", {0}, {"recipe.yaml:3", "data", "text"}},
    {4, "train: {}", {0}, {"recipe.yaml:4", "train.steps", "missing"}},
    {0, NULL, {"lr={}", "lr.peak=null"}, {"recipe.yaml:5", "lr", "peak"}},
    {6, "layout: {processes: perhaps}", {0}, {"recipe.yaml:6", "layout.processes", "'perhaps'"}},
    {6, "transport: pigeon", {0}, {"recipe.yaml:6", "transport", "'pigeon'"}},
    {6, "layout: {pipeline: 3}", {0}, {"recipe.yaml:6", "layout.pipeline '3'", "2 layers"}},
    {6, "layout: {stages: [1, 2]}", {0}, {"recipe.yaml:6", "layout.stages", "2 layers"}},
    {6, "layout: {data: 3}", {0}, {"recipe.yaml:6", "layout.data '3'", "groups"}},
    {6, "layout: {data: 2, data: 1}", {0}, {"recipe.yaml:6", "layout.data is given twice"}},
    {6, "layout: {data: 2", {0}, {"recipe.yaml"}},
    {0, NULL, {"layout.data=3"}, {"command line", "layout.data '3'"}},
    {0, NULL, {"transport=ucx"}, {"transport", "layout.processes"}},
    {0, NULL, {"layout.processes=true", "chaos.at=nonsense"}, {"chaos.at", "'nonsense'", "SIGNAL"}},
    {0, NULL, {"chaos.at=1/stage 0/forward/5/KILL"}, {"chaos.at", "layout.processes"}},
    {0, NULL, {"chaos.kills_per_minute=6"}, {"chaos.kills_per_minute", "layout.processes"}},
    {0, NULL, {"chaos.faults_per_minute=6"}, {"chaos.faults_per_minute", "layout.processes"}},
    {0, NULL, {"chaos.faults_per_minute=-1"}, {"chaos.faults_per_minute", "'-1'", "0"}},
    {0, NULL, {"chaos.kills_per_minute=-1"}, {"chaos.kills_per_minute", "'-1'", "0"}},
    {0, NULL, {"chaos.faults=kill"}, {"chaos.faults", "chaos.faults_per_minute"}},
    {0,
     NULL,
     {"chaos.faults=kill,flod", "chaos.faults_per_minute=6"},
     {"chaos.faults", "'flod'", "flip_frame"}},
    {0,
     NULL,
     {"chaos.faults=full_disk", "chaos.faults_per_minute=6"},
     {"chaos.faults", "'full_disk'", "checkpoint.every"}},
    {0,
     NULL,
     {"chaos.faults=slow,cut", "chaos.faults_per_minute=6", "recovery=off"},
     {"chaos.faults", "'cut'", "recovery"}},
    {0, NULL, {"layout.processes=true", "transport=inproc"}, {"transport", "inproc"}},
    {0, NULL, {"layuot.data=1"}, {"command line", "layuot", "did you mean 'layout"}},
};

static const bad_case inputs[] = {
    {3, "data: {text: nowhere.txt}", {0}, {"nowhere.txt"}},
    {3, "data: {text: hf-empty}", {0}, {"hf-empty", "file"}},
    {3, "data: {text: short.txt}", {0}, {"short.txt", "train.sequence"}},
    {0, NULL, {"run=words.txt"}, {"words.txt", "file"}},
    {0, NULL, {"run=words.txt/run"}, {"words.txt"}},
    {2, "model: {hf: nowhere}", {0}, {"nowhere"}},
    {2, "model: {hf: hf-empty}", {0}, {"hf-empty/config.json"}},
    {2, "model: {hf: hf-config}", {0}, {"hf-config/config.json"}},
    {2, "model: {hf: hf-weightless}", {0}, {"hf-weightless", "model.safetensors"}},
    {2, "model: {hf: hf-short}", {0}, {"hf-short/model.safetensors"}},
    {2, "model: {hf: hf-damaged}", {0}, {"hf-damaged/model.safetensors"}},
    {2, "model: {hf: hf-other}", {0}, {"hf-other/model.safetensors"}},
    {2, "model: {hf: hf-good}", {"layout.pipeline=5"}, {"layout.pipeline", "4 layers"}},
    {2, "model: {preset: gpt5}", {0}, {"recipe.yaml:2", "gpt5"}},
};

static const bad_case tables[] = {
    {0, NULL, {"data.tokens=nowhere.safetensors"}, {"nowhere.safetensors"}},
    {0, NULL, {"data.tokens=damaged.safetensors"}, {"damaged.safetensors"}},
    {0, NULL, {"data.tokens=short.safetensors"}, {"short.safetensors"}},
    {0, NULL, {"data.tokens=words.txt"}, {"words.txt"}},
    {0, NULL, {"data.key=ids"}, {"rows.safetensors", "'ids'"}},
    {0, NULL, {"model.vocabulary=63"}, {"rows.safetensors", "'63'", "vocabulary of 63"}},
    {0, NULL, {"train.sequence=8"}, {"rows.safetensors", "train.sequence"}},
};

/* Runs it and checks all that every refusal has in common. */
static void refused(const char *const *arguments, const char *const *words, int n_words)
{
    uint64_t before = looks_of(".");
    command_run command;
    command_start(&command, arguments);
    command_wait(&command, COMMAND_SECONDS);
    bool fine = command_ended(&command, 2) && looks_of(".") == before;
    for (int i = 0; i < n_words && words[i]; i++) fine &= text_has(command.err_text, words[i]);
    int n_lines = 0;
    for (const char *at = command.err_text; (at = strchr(at, '\n')); at++) n_lines++;
    fine &= n_lines >= 1 && n_lines <= MOST_ERROR_LINES && command.out_size == 0;
    if (!fine)
        fprintf(stderr, "\nin: %s %s %s\nwhich said: %s\n", arguments[0], arguments[0] ? arguments[1] : "",
                arguments[0] && arguments[1] && arguments[2] ? arguments[2] : "", command.err_text);
    CU_ASSERT(fine);
    command_release(&command);
}

static void write_recipe(int line, const char *text)
{
    char *lines[N_LINES] = {0}, *whole;
    for (int i = 0; i < N_LINES; i++) lines[i] = tr_strdup(i + 1 == line ? text : good[i]);
    whole = tr_format("%s\n%s\n%s\n%s\n%s\n%s\n", lines[0], lines[1], lines[2], lines[3], lines[4], lines[5]);
    write_text("recipe.yaml", whole);
    tr_free(whole);
    for (int i = 0; i < N_LINES; i++) tr_free(lines[i]);
}

static void try_all(const bad_case *cases, size_t n, const char *first)
{
    for (size_t i = 0; i < n; i++) {
        const bad_case *at = &cases[i];
        const char *arguments[8] = {"train", "recipe.yaml"};
        int count = 2;
        if (first) arguments[count++] = first;
        for (int k = 0; k < 3 && at->arguments[k]; k++) arguments[count++] = at->arguments[k];
        if (at->line) write_recipe(at->line, at->text);
        refused(arguments, at->words, 3);
        if (at->line) write_recipe(0, NULL);
    }
}

/* --- the files --- */

static char *directory, *before_it;

static void write_rows(const char *path)
{
    int32_t ids[ROWS * (SEQUENCE + 1)];
    for (int i = 0; i < ROWS * (SEQUENCE + 1); i++) ids[i] = i % VOCABULARY;
    tr_error err;
    tr_safetensors_writer *writer = NULL;
    tr_shape shape = TR_SHAPE2(ROWS, SEQUENCE + 1);
    CHECK_OK(tr_safetensors_writer_new(&writer, path, &err));
    CHECK_OK(tr_safetensors_writer_declare(writer, "tokens", TR_I32, &shape, &err));
    CHECK_OK(tr_safetensors_writer_begin(writer, TR_TENSORS_SORTED, &err));
    CHECK_OK(tr_safetensors_writer_put(writer, 0, 0, ids, sizeof ids, &err));
    CHECK_OK(tr_safetensors_writer_commit(&writer, &err));
}

/* A copy that lacks its last `cut` bytes, and whose byte at `spoil` (where it is not negative) is another. */
static void copy_file(const char *from, const char *to, size_t cut, int spoil)
{
    tr_error err;
    char *bytes = NULL;
    size_t size = 0;
    CHECK_OK(tr_file_read(from, &bytes, &size, &err));
    CU_ASSERT_FATAL(bytes != NULL && size > cut);
    if (spoil >= 0) bytes[spoil] ^= 0x40;
    CHECK_OK(tr_file_write(to, bytes, size - cut, &err));
    tr_free(bytes);
}

static void copy_model(const char *to, const char *config, const char *weights, size_t cut, int spoil)
{
    tr_error err;
    char *config_from = tr_format("%s/test/golden/%s/config.json", before_it, config),
         *weights_from =
             tr_format("%s/test/golden/%s/model.safetensors", before_it, weights ? weights : config),
         *config_to = path_in(to, "config.json"), *weights_to = path_in(to, "model.safetensors");
    CHECK_OK(tr_directory_make(to, &err));
    copy_file(config_from, config_to, 0, -1);
    if (weights) copy_file(weights_from, weights_to, cut, spoil);
    tr_free(config_from);
    tr_free(weights_from);
    tr_free(config_to);
    tr_free(weights_to);
}

static void set_up(void)
{
    tr_error err;
    char here[4096];
    before_it = tr_strdup(getcwd(here, sizeof here));
    directory = enter_directory();
    CU_ASSERT_FATAL(chdir(directory) == 0);
    write_words("words.txt", 1000);
    write_text("short.txt", "in the beginning");
    write_rows("rows.safetensors");
    copy_file("rows.safetensors", "damaged.safetensors", 0, 9); /* inside the header's text */
    copy_file("rows.safetensors", "short.safetensors", 1, -1);
    CHECK_OK(tr_directory_make("hf-empty", &err));
    CHECK_OK(tr_directory_make("hf-config", &err));
    write_text("hf-config/config.json", "{\"model_type\": ");
    copy_model("hf-good", "llama", "llama", 0, -1);
    copy_model("hf-weightless", "llama", NULL, 0, -1);
    copy_model("hf-short", "llama", "llama", 4, -1);
    copy_model("hf-damaged", "llama", "llama", 0, 1); /* the length of the header */
    copy_model("hf-other", "llama", "gpt2", 0, -1);
    write_recipe(0, NULL);
}

static void tear_down(void)
{
    CU_ASSERT(chdir(before_it) == 0);
    leave_directory(directory);
    tr_free(before_it);
}

/* --- the promises --- */

/* Else the refusals prove nothing. */
static void what_the_cases_begin_from_is_fine(void)
{
    CU_ASSERT(command_succeeds((const char *const[]){"plan", "recipe.yaml", NULL}));
    write_recipe(3, "data: {tokens: rows.safetensors}");
    CU_ASSERT(command_succeeds((const char *const[]){"plan", "recipe.yaml", "model.vocabulary=64", NULL}));
    write_recipe(2, "model: {hf: hf-good}");
    CU_ASSERT(command_succeeds((const char *const[]){"plan", "recipe.yaml", NULL}));
    write_recipe(0, NULL);
}

static void bad_recipes_are_refused(void)
{
    try_all(recipes, sizeof recipes / sizeof *recipes, NULL);
}

static void bad_texts_models_and_runs_are_refused(void)
{
    try_all(inputs, sizeof inputs / sizeof *inputs, NULL);
}

static void bad_tables_of_tokens_are_refused(void)
{
    write_recipe(3, "data: {tokens: rows.safetensors}");
    try_all(tables, sizeof tables / sizeof *tables, NULL);
    write_recipe(0, NULL);
}

static void bad_command_lines_are_refused(void)
{
    static const struct {
        const char *arguments[4], *words[2];
    } cases[] = {
        {{NULL}, {"usage"}},
        {{"trian"}, {"'trian'", "--help"}},
        {{"train"}, {"which recipe"}},
        {{"train", "nowhere.yaml"}, {"nowhere.yaml"}},
        {{"train", "hf-empty"}, {"hf-empty"}},
        {{"train", "words.txt"}, {"words.txt"}},
        {{"train", "/dev/null"}, {"/dev/null"}},
        {{"train", "recipe.yaml", "--again"}, {"'--again'", "--help"}},
        {{"train", "recipe.yaml", "other.yaml"}, {"'other.yaml'"}},
        {{"plan", "recipe.yaml", "--resume"}, {"'--resume'"}},
        {{"plan", "recipe.yaml", "layout.pipeline=3"}, {"layout.pipeline '3'"}},
        {{"eval", "--speed"}, {"'--speed'"}},
    };
    for (size_t i = 1; i < sizeof cases / sizeof *cases; i++) refused(cases[i].arguments, cases[i].words, 2);
    command_run command; /* the help is longer than a refusal */
    command_start(&command, cases[0].arguments);
    command_wait(&command, COMMAND_SECONDS);
    CU_ASSERT(command_ended(&command, 2) && text_has(command.err_text, cases[0].words[0]));
    command_release(&command);
}

static const check_test tests[] = {
    CHECK_TEST(set_up),
    CHECK_TEST(what_the_cases_begin_from_is_fine),
    CHECK_TEST(bad_recipes_are_refused),
    CHECK_TEST(bad_texts_models_and_runs_are_refused),
    CHECK_TEST(bad_tables_of_tokens_are_refused),
    CHECK_TEST(bad_command_lines_are_refused),
    CHECK_TEST(tear_down),
};

CHECK_MAIN("cli/bad_input", tests)
