/* test/cli/measure_test.c - `troupe plan --measure`: tells times, proposes a cut that the recipe takes, creates nothing.
 * What the times are is not said: that is the machine's affair.
 * SPDX-License-Identifier: Apache-2.0 */
#include "command.h"

enum { LAYERS = 6 };

static char *directory, *recipe;

static void set_up(void)
{
    directory = enter_directory();
    char *text = path_in(directory, "words.txt");
    recipe = path_in(directory, "recipe.yaml");
    write_words(text, 3000);
    char *yaml =
        tr_format("run: %s/run\n"
                  "model: {family: llama, layers: %d, width: 16, heads: 2, vocabulary: 256, tie: true}\n"
                  "data: {text: %s}\n"
                  "train: {steps: 2, sequence: 16, microbatch: 1, accumulate: 6}\n"
                  "lr: {peak: 1e-3}\n"
                  "layout: {pipeline: 2, processes: false}\n",
                  directory, LAYERS, text);
    write_text(recipe, yaml);
    tr_free(yaml);
    tr_free(text);
}

static void tear_down(void)
{
    tr_free(recipe);
    leave_directory(directory);
}

static int count_entries(void)
{
    int n = 0;
    DIR *entries = opendir(directory);
    for (const struct dirent *entry; (entry = readdir(entries));) n += entry->d_name[0] != '.';
    closedir(entries);
    return n;
}

/* The proposed list, "[2, 4]", in a text of the caller's. */
static char *proposal(const char *output)
{
    const char *line = strstr(output, "\n    stages: [");
    CU_ASSERT_PTR_NOT_NULL_FATAL(line);
    line = strchr(line, '[');
    return tr_format("%.*s", (int)(strchr(line, ']') - line) + 1, line);
}

static void check_list(const char *list, int n_stages)
{
    int n = 0;
    long sum = 0;
    for (const char *at = list + 1; *at; n++) {
        char *end;
        long layers = strtol(at, &end, 10);
        CU_ASSERT(layers >= 1);
        sum += layers;
        at = *end == ',' ? end + 1 : "";
    }
    CU_ASSERT(n == n_stages && sum == LAYERS);
}

static void measure(const char *pieces, int n_stages)
{
    char *pieces_key = tr_format("layout.pieces=%s", pieces);
    command_run command;
    command_start(&command, (const char *const[]){"plan", "--measure", recipe, pieces_key, NULL});
    CU_ASSERT(command_wait(&command, COMMAND_SECONDS) == 0 && command_ended(&command, 0));
    static const char *const words[] = {"embedding",    "layer 0 ", "layer 5 ",      "head and loss",
                                        "by measure  ", "% ",       "by arithmetic", "worker 2 "};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (!text_has(command.out_text, words[i])) fprintf(stderr, "\nno \"%s\"\n", words[i]);
        CU_ASSERT(text_has(command.out_text, words[i]));
    }
    char *list = proposal(command.out_text);
    check_list(list, n_stages);
    const char *stash = strstr(command.out_text, "\n    stash: ");
    CU_ASSERT_PTR_NOT_NULL_FATAL(stash);
    char *stash_key = tr_format("layout.stash=%d", atoi(stash + strlen("\n    stash: ")));
    CU_ASSERT(atoi(stash + strlen("\n    stash: ")) >= 1);
    CU_ASSERT_EQUAL(count_entries(), 2); /* text and recipe, as before */
    command_release(&command);

    char *stages_key = tr_format("layout.stages=%s", list);
    command_start(&command, (const char *const[]){"plan", recipe, "--measure", pieces_key, stages_key,
                                                  stash_key, NULL});
    CU_ASSERT(command_wait(&command, COMMAND_SECONDS) == 0);
    CU_ASSERT(text_has(command.out_text, "the recipe's") && text_has(command.out_text, list));
    command_release(&command);
    tr_free(stash_key);
    tr_free(stages_key);
    tr_free(list);
    tr_free(pieces_key);
}

static void a_cut_by_measure_is_proposed_and_taken(void)
{
    measure("1", 2);
    measure("2", 4);
}

static void nothing_is_measured_unless_asked(void)
{
    command_run command;
    command_start(&command, (const char *const[]){"plan", recipe, NULL});
    CU_ASSERT(command_wait(&command, COMMAND_SECONDS) == 0);
    CU_ASSERT(!text_has(command.out_text, "by measure"));
    command_release(&command);
    command_start(&command, (const char *const[]){"train", recipe, "--measure", NULL});
    CU_ASSERT(command_wait(&command, COMMAND_SECONDS) == 2 && text_has(command.err_text, "'--measure'"));
    command_release(&command);
    CU_ASSERT_EQUAL(count_entries(), 2);
}

static const check_test tests[] = {
    CHECK_TEST(set_up),
    CHECK_TEST(a_cut_by_measure_is_proposed_and_taken),
    CHECK_TEST(nothing_is_measured_unless_asked),
    CHECK_TEST(tear_down),
};
CHECK_MAIN("cli/measure", tests)
