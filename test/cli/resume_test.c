/* test/cli/resume_test.c - a run that was interrupted and resumed is a run that was not: the same log, each step once,
 * and the same bytes at the end; and what --resume does with runs and checkpoints that are not as they should be.
 * SPDX-License-Identifier: Apache-2.0 */
#include "command.h"

enum { STEPS = 120, EVERY = 10, INTERRUPT_AFTER = 33 };

static char *directory, *recipe, *reference; /* of all tests: the uninterrupted run is made once */

static const char *const files[] = {"model.safetensors", "trainer/optimizer.safetensors",
                                    "trainer/state.json"};
enum { N_FILES = sizeof files / sizeof *files };

static void set_up(void)
{
    directory = enter_directory();
    recipe = path_in(directory, "recipe.yaml");
    reference = path_in(directory, "reference");
    char *text = path_in(directory, "words.txt");
    write_words(text, 6000);
    char *yaml =
        tr_format("run: %s\n"
                  "model: {family: llama, layers: 4, width: 48, heads: 4, kv_heads: 2, vocabulary: 256}\n"
                  "data: {text: %s, holdout: 0.1}\n"
                  "train: {steps: %d, sequence: 32, microbatch: 2, accumulate: 4, seed: 3}\n"
                  "lr: {peak: 5e-3, warmup: 10}\n"
                  "supervision: {lease: 0}\n"
                  "layout: {data: 2, pipeline: 2}\n"
                  "validate: {every: 15, windows: 3}\n"
                  "checkpoint: {every: %d, keep: 2}\n",
                  reference, text, STEPS, EVERY);
    write_text(recipe, yaml);
    CU_ASSERT_FATAL(command_succeeds((const char *const[]){"train", recipe, NULL}));
    tr_free(yaml);
    tr_free(text);
}

static void tear_down(void)
{
    tr_free(reference);
    tr_free(recipe);
    leave_directory(directory);
}

/* A run directory's key=value. */
static char *run_key(const char *run)
{
    return tr_format("run=%s", run);
}

/* Whether the run ended as the reference did. */
static void check_finished(const char *run)
{
    json_t *expected = log_of(reference), *log = log_of(run);
    CU_ASSERT(log_is_complete(log, STEPS));
    CU_ASSERT(logs_agree(expected, log));
    for (int f = 0; f < N_FILES; f++) CU_ASSERT(checkpoints_agree(reference, run, STEPS, files[f]));
    json_decref(expected);
    json_decref(log);
}

/* The exit code of a run that got a signal in the middle. Where the machine is busy with other things it may be through
 * before we look; that proves nothing, so another one is tried. */
static int interrupt(const char *run, int signal, const char *data, const char *pipeline)
{
    enum { ATTEMPTS = 5 };
    char *key = run_key(run);
    size_t n = 0;
    int code = 0;
    for (int i = 0; i < ATTEMPTS && (n < INTERRUPT_AFTER || n >= STEPS); i++) {
        tr_directory_remove_tree(run, NULL);
        command_run command;
        command_start(&command, (const char *const[]){"train", recipe, key, data, pipeline, NULL});
        if (wait_for_steps(&command, run, INTERRUPT_AFTER)) kill(command.pid, signal);
        code = command_wait(&command, COMMAND_SECONDS);
        command_release(&command);
        json_t *log = log_of(run);
        n = json_array_size(log);
        json_decref(log);
    }
    CU_ASSERT(n >= INTERRUPT_AFTER && n < STEPS);
    tr_free(key);
    return code;
}

static void resume_in(const char *run, const char *data, const char *pipeline, const char *pieces,
                      const char *transport)
{
    char *key = run_key(run);
    CU_ASSERT(command_succeeds(
        (const char *const[]){"train", recipe, "--resume", key, data, pipeline, pieces, transport, NULL}));
    tr_free(key);
}

static void resume(const char *run, const char *data, const char *pipeline, const char *transport)
{
    resume_in(run, data, pipeline, "layout.pieces=1", transport);
}

/* How many checkpoints the events tell of that no `every` asked for. */
static int checkpoints_besides(const char *run)
{
    int n = 0;
    json_t *events = events_of(run), *event;
    size_t i;
    json_array_foreach(events, i, event)
    {
        const char *text = json_string_value(json_object_get(event, "text")), *step = strstr(text, "step-");
        bool told = strcmp(json_string_value(json_object_get(event, "event")), "checkpoint") == 0;
        n += told && step && strtol(step + strlen("step-"), NULL, 10) % EVERY != 0;
    }
    json_decref(events);
    return n;
}

static void stop_and_resume(void)
{
    char *run = path_in(directory, "stopped");
    /* asked to stop, it is not done, but has a checkpoint; steps are shortest, against a checkpoint, in one worker */
    CU_ASSERT(interrupt(run, SIGINT, "layout.data=1", "layout.pipeline=1") == 1);
    json_t *log = log_of(run);
    size_t n = json_array_size(log);
    char *checkpoint = tr_format("%s/checkpoints/step-%zu", run, n);
    CU_ASSERT(tr_path_is_directory(checkpoint));
    CU_ASSERT(checkpoints_besides(run) == (n % EVERY != 0)); /* and does not train on meanwhile */
    tr_free(checkpoint);
    json_decref(log);
    resume(run, "layout.data=2", "layout.pipeline=2", "transport=ucx");
    check_finished(run);
    tr_free(run);
}

/* Several times: whether a step outruns the checkpoint is a race. */
static void stopped_run_goes_on_where_it_stopped(void)
{
    for (int i = 0; i < 3; i++) stop_and_resume();
}

static void killed_run_goes_on_from_its_checkpoint(void)
{
    char *run = path_in(directory, "killed");
    CU_ASSERT(interrupt(run, SIGKILL, "layout.data=2", "layout.pipeline=2") == COMMAND_KILLED + SIGKILL);
    resume(run, "layout.data=2", "layout.pipeline=2", "transport=ucx");
    check_finished(run);
    tr_free(run);
}

static void killed_run_goes_on_in_another_layout(void)
{
    char *run = path_in(directory, "moved");
    CU_ASSERT(interrupt(run, SIGKILL, "layout.data=2", "layout.pipeline=2") == COMMAND_KILLED + SIGKILL);
    resume(run, "layout.data=4", "layout.pipeline=1", "transport=zmq");
    check_finished(run);
    tr_free(run);
}

static void killed_run_goes_on_with_another_number_of_pieces(void)
{
    char *run = path_in(directory, "divided");
    CU_ASSERT(interrupt(run, SIGKILL, "layout.data=1", "layout={pipeline: 2, pieces: 2}") ==
              COMMAND_KILLED + SIGKILL);
    resume_in(run, "layout.data=2", "layout.pipeline=1", "layout.pieces=3", "transport=ucx");
    check_finished(run);
    run[strlen(run) - 1] = '2';
    CU_ASSERT(interrupt(run, SIGKILL, "layout.data=2", "layout.pipeline=2") == COMMAND_KILLED + SIGKILL);
    resume_in(run, "layout.data=1", "layout.pipeline=2", "layout.pieces=2", "transport=zmq");
    check_finished(run);
    tr_free(run);
}

static void finished_run_is_left_alone(void)
{
    uint64_t before = looks_of(reference);
    CU_ASSERT(command_succeeds((const char *const[]){"train", recipe, "--resume", NULL}));
    CU_ASSERT(looks_of(reference) == before);
}

static void existing_run_is_refused_without_resume(void)
{
    uint64_t before = looks_of(reference);
    command_run command;
    command_start(&command, (const char *const[]){"train", recipe, NULL});
    command_wait(&command, COMMAND_SECONDS);
    CU_ASSERT(command_ended(&command, 2));
    CU_ASSERT(text_has(command.err_text, "--resume"));
    CU_ASSERT(text_has(command.err_text, reference));
    CU_ASSERT(looks_of(reference) == before);
    command_release(&command);
}

static void as_many_checkpoints_are_kept_as_asked(void)
{
    char *checkpoints = path_in(reference, "checkpoints");
    int n = 0;
    DIR *entries = opendir(checkpoints);
    CU_ASSERT_FATAL(entries != NULL);
    for (struct dirent *entry; (entry = readdir(entries));) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        bool newest = strcmp(entry->d_name, "step-110") == 0 || strcmp(entry->d_name, "step-120") == 0;
        if (!newest) fprintf(stderr, "\nkept: %s\n", entry->d_name);
        CU_ASSERT(newest);
        n++;
    }
    closedir(entries);
    CU_ASSERT(n == 2);
    tr_free(checkpoints);
}

/* --- damage --- */

static void flip(const char *path)
{
    int file = open(path, O_RDWR | O_CLOEXEC);
    struct stat info;
    CU_ASSERT_FATAL(file >= 0 && fstat(file, &info) == 0);
    unsigned char byte = 0;
    off_t middle = info.st_size / 2;
    CU_ASSERT(pread(file, &byte, 1, middle) == 1);
    byte ^= 4;
    CU_ASSERT(pwrite(file, &byte, 1, middle) == 1);
    close(file);
}

static void shorten(const char *path)
{
    struct stat info;
    CU_ASSERT_FATAL(stat(path, &info) == 0);
    CU_ASSERT(truncate(path, info.st_size - 1) == 0);
}

static void lose(const char *path)
{
    CU_ASSERT(unlink(path) == 0);
}

/* The newest checkpoint of a finished copy is damaged: the one before it is taken, and the end is the same. */
static void pass_over(const char *file, void (*damage)(const char *path))
{
    char *run = path_in(directory, "damaged"), *key = run_key(run),
         *path = tr_format("%s/checkpoints/step-%d/%s", run, STEPS, file),
         *command_line = tr_format("cp -a %s %s", reference, run);
    CU_ASSERT_FATAL(system(command_line) == 0);
    damage(path);
    command_run command;
    command_start(&command, (const char *const[]){"train", recipe, "--resume", key, NULL});
    command_wait(&command, COMMAND_SECONDS);
    CU_ASSERT(command_ended(&command, 0));
    CU_ASSERT(text_has(command.err_text, "damaged checkpoint"));
    CU_ASSERT(text_has(command.err_text, "step-120"));
    CU_ASSERT(text_has(command.out_text, "step-110"));
    command_release(&command);
    check_finished(run);
    tr_directory_remove_tree(run, NULL);
    tr_free(command_line);
    tr_free(path);
    tr_free(key);
    tr_free(run);
}

static void damaged_checkpoints_are_passed_over(void)
{
    pass_over("model.safetensors", flip);
    pass_over("trainer/optimizer.safetensors", flip);
    pass_over("trainer/optimizer.safetensors", shorten);
    pass_over("trainer/state.json", flip);
    pass_over("config.json", shorten);
    pass_over("model.safetensors", lose);
}

/* A damaged checkpoint of a later step does not push out the good ones. */
static void damaged_checkpoint_is_not_one_of_those_kept(void)
{
    char *run = path_in(directory, "later"), *key = run_key(run),
         *path = tr_format("%s/checkpoints/step-%d/model.safetensors", run, STEPS),
         *written = path_in(run, "checkpoints/step-115"),
         *command_line = tr_format("cp -a %s %s", reference, run);
    CU_ASSERT_FATAL(system(command_line) == 0);
    flip(path);
    CU_ASSERT(command_succeeds((const char *const[]){"train", recipe, "--resume", key, "train.steps=115",
                                                     "checkpoint.keep=1", NULL}));
    CU_ASSERT(tr_path_is_directory(written));
    tr_free(command_line);
    tr_free(written);
    tr_free(path);
    tr_free(key);
    tr_free(run);
}

static const check_test tests[] = {
    CHECK_TEST(set_up),
    CHECK_TEST(stopped_run_goes_on_where_it_stopped),
    CHECK_TEST(killed_run_goes_on_from_its_checkpoint),
    CHECK_TEST(killed_run_goes_on_in_another_layout),
    CHECK_TEST(killed_run_goes_on_with_another_number_of_pieces),
    CHECK_TEST(finished_run_is_left_alone),
    CHECK_TEST(existing_run_is_refused_without_resume),
    CHECK_TEST(as_many_checkpoints_are_kept_as_asked),
    CHECK_TEST(damaged_checkpoints_are_passed_over),
    CHECK_TEST(damaged_checkpoint_is_not_one_of_those_kept),
    CHECK_TEST(tear_down),
};

CHECK_MAIN("cli/resume", tests)
