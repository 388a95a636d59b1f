/* test/pipelines/run_directory_test.c - log.jsonl has every step once, also after a resume and a line cut short.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/run_directory.h"

#include "check.h"
#include "pipelines/epoch_log.h"
#include "pipelines/files.h"
#include "pipelines/run_log.h"

#include <jansson.h>
#include <math.h>

static tr_error err;
static char *home, *run_path;
static tr_recipe recipe;

static void enter(void)
{
    home = enter_directory();
    run_path = path_in(home, "runs/one");
    char *text = tr_format("run: %s\nmodel: {preset: gpt2-124m}\ndata: {text: x}\n"
                           "train: {steps: 9, sequence: 4, microbatch: 1}\nlr: {peak: 1}\n",
                           run_path);
    CHECK_OK(tr_recipe_parse(&recipe, text, strlen(text), "r", NULL, 0, &err));
    tr_free(text);
}

static void leave(void)
{
    tr_recipe_release(&recipe);
    tr_free(run_path);
    leave_directory(home);
}

static tr_step_record record_of(uint32_t step)
{
    return (tr_step_record){.step = step,
                            .loss = 1.0 / (step + 2),
                            .grad_norm = 0.1 * step,
                            .lr = 1e-3 / step,
                            .tokens = 100u * step,
                            .step_ms = 12.5,
                            .tokens_per_s = 8000,
                            .stall = 0.25,
                            .epoch = 7,
                            .has_validation = step % 3 == 0,
                            .validation_loss = 2.0 / step};
}

static void log_steps(uint32_t updates, uint32_t first, uint32_t last)
{
    tr_run *run;
    CHECK_OK(tr_run_open(&run, &recipe, updates, NULL, &err));
    for (uint32_t s = first; s <= last; s++) {
        tr_step_record record = record_of(s);
        CHECK_OK(tr_run_record(run, &record, &err));
    }
    tr_run_close(&run);
    CU_ASSERT_PTR_NULL(run);
    tr_run_close(&run);
}

static char *read_text(const char *name)
{
    char *path = path_in(run_path, name), *text = NULL;
    size_t size;
    CHECK_OK(tr_file_read(path, &text, &size, &err));
    tr_free(path);
    return text;
}

static void append_bytes(const char *name, const char *bytes, size_t size_bytes)
{
    char *path = path_in(run_path, name);
    FILE *file = fopen(path, "a");
    fwrite(bytes, 1, size_bytes, file);
    fclose(file);
    tr_free(path);
}

static void append(const char *name, const char *text)
{
    append_bytes(name, text, strlen(text));
}

/* The log has the steps 1 .. last, in order, each line whole and as it was recorded. */
static void expect_steps(uint32_t last)
{
    char *text = read_text("log.jsonl"), *line = text;
    uint32_t step = 0;
    for (char *end; (end = strchr(line, '\n')); line = end + 1) {
        tr_step_record wanted = record_of(++step);
        json_t *object = json_loadb(line, (size_t)(end - line), JSON_REJECT_DUPLICATES, NULL);
        CU_ASSERT_PTR_NOT_NULL_FATAL(object);
        CU_ASSERT_EQUAL(json_integer_value(json_object_get(object, "step")), step);
        CU_ASSERT_EQUAL(json_real_value(json_object_get(object, "loss")), wanted.loss);
        const char *hex = json_string_value(json_object_get(object, "loss_hex"));
        CU_ASSERT(hex && strtod(hex, NULL) == wanted.loss && strncmp(hex, "0x1", 3) == 0);
        CU_ASSERT_EQUAL(json_real_value(json_object_get(object, "grad_norm")), wanted.grad_norm);
        CU_ASSERT_EQUAL(json_real_value(json_object_get(object, "lr")), wanted.lr);
        CU_ASSERT_EQUAL(json_integer_value(json_object_get(object, "tokens")), (json_int_t)wanted.tokens);
        CU_ASSERT_EQUAL(json_real_value(json_object_get(object, "tokens_per_s")), 8000.0);
        CU_ASSERT_EQUAL(json_real_value(json_object_get(object, "step_ms")), 12.5);
        CU_ASSERT_EQUAL(json_real_value(json_object_get(object, "stall")), 0.25);
        CU_ASSERT(json_is_null(json_object_get(object, "mfu")));
        CU_ASSERT_EQUAL(json_integer_value(json_object_get(object, "epoch")), 7);
        json_t *validation = json_object_get(object, "validation_loss");
        CU_ASSERT_EQUAL(validation != NULL, wanted.has_validation);
        if (validation) CU_ASSERT_EQUAL(json_real_value(validation), wanted.validation_loss);
        json_decref(object);
    }
    CU_ASSERT_EQUAL(*line, 0);
    CU_ASSERT_EQUAL(step, last);
    tr_free(text);
}

static void a_fresh_run_has_its_files(void)
{
    enter();
    log_steps(0, 1, 6);
    expect_steps(6);
    char *checkpoints = path_in(run_path, "checkpoints"), *yaml = path_in(run_path, "recipe.yaml");
    CU_ASSERT(tr_path_is_directory(checkpoints));
    tr_recipe again;
    CHECK_OK(tr_recipe_read(&again, yaml, NULL, 0, &err));
    CU_ASSERT(again.train.steps == 9 && strcmp(again.run, run_path) == 0);
    tr_recipe_release(&again);
    tr_free(checkpoints), tr_free(yaml);
    leave();
}

static void a_resume_keeps_exactly_the_steps_of_the_checkpoint(void)
{
    for (uint32_t updates = 0; updates <= 6; updates += CHECK_SIZE(1, 3)) {
        enter();
        log_steps(0, 1, 6);
        uint32_t kept = updates;
        log_steps(updates, kept + 1, kept); /* nothing new */
        expect_steps(kept);
        log_steps(updates, kept + 1, 8);
        expect_steps(8);
        leave();
    }
}

static void a_step_that_is_run_again_is_compared_and_not_logged(void)
{
    for (int differs = 0; differs < 4; differs++) {
        enter();
        tr_run *run;
        CHECK_OK(tr_run_open(&run, &recipe, 0, NULL, &err));
        for (uint32_t s = 1; s <= 6; s++) {
            tr_step_record record = record_of(s);
            CHECK_OK(tr_run_record(run, &record, &err));
        }
        tr_step_record again = record_of(3);
        again.epoch = 8; /* may be another */
        if (differs == 1) again.loss = nextafter(again.loss, 9);
        if (differs == 2) again.grad_norm = nextafter(again.grad_norm, 9);
        if (differs == 3) again.validation_loss = nextafter(again.validation_loss, 9);
        CU_ASSERT_EQUAL(tr_run_record(run, &again, &err), differs ? TR_ECORRUPT : TR_OK);
        tr_step_record gap = record_of(8);
        CU_ASSERT_EQUAL(tr_run_record(run, &gap, &err), TR_ECORRUPT);
        tr_run_close(&run);
        expect_steps(6);
        leave();
    }
}

static void no_epoch_is_used_twice(void)
{
    tr_run *run;
    enter();
    CHECK_OK(tr_run_open(&run, &recipe, 0, NULL, &err));
    CU_ASSERT_EQUAL(tr_run_first_epoch(run), 1);
    CHECK_OK(tr_run_epoch(run, 1, &err));
    CHECK_OK(tr_run_epoch(run, 2, &err));
    CHECK_OK(tr_run_epoch_from(run, 2, 17, &err));
    tr_run_close(&run);
    append("epochs.jsonl", "{\"epoch\":3");
    CHECK_OK(tr_run_open(&run, &recipe, 0, NULL, &err));
    CU_ASSERT_EQUAL(tr_run_first_epoch(run), 4);
    CHECK_OK(tr_run_epoch(run, 4, &err)); /* a line of its own, behind the one cut short */
    tr_run_close(&run);
    CHECK_OK(tr_run_open(&run, &recipe, 0, NULL, &err));
    CU_ASSERT_EQUAL(tr_run_first_epoch(run), 5);
    tr_run_close(&run);
    append_bytes("epochs.jsonl", "\0\0\0\0",
                 4); /* what some file systems leave of a write that power was lost in */
    for (uint32_t epoch = 5; epoch <= 6; epoch++) {
        CHECK_OK(tr_run_open(&run, &recipe, 0, NULL, &err));
        CU_ASSERT_EQUAL(tr_run_first_epoch(run), epoch);
        CHECK_OK(tr_run_epoch(run, epoch, &err));
        tr_run_close(&run);
    }
    leave();
}

/* By what is read of it the next head's coordinator compares: as it was recorded, bit for bit. */
static void the_log_gives_the_last_records_back(void)
{
    tr_step_record records[4] = {{0}};
    enter();
    log_steps(0, 1, 7);
    append("log.jsonl", "{\"step\":9,\"loss\":1.0}\n{\"step\":8"); /* a gap, and a line that was cut short */
    CU_ASSERT_EQUAL(tr_run_log_records(run_path, 2, records, 4), 7);
    for (uint32_t s = 4; s <= 7; s++) {
        const tr_step_record wanted = record_of(s), *read = &records[s % 4];
        CU_ASSERT(read->step == s && read->loss == wanted.loss && read->grad_norm == wanted.grad_norm);
        CU_ASSERT(read->lr == wanted.lr && read->tokens == wanted.tokens && read->step_ms == wanted.step_ms);
        CU_ASSERT(read->tokens_per_s == wanted.tokens_per_s && read->stall == wanted.stall &&
                  read->epoch == 7);
        CU_ASSERT(read->has_validation == wanted.has_validation);
        if (read->has_validation) CU_ASSERT_EQUAL(read->validation_loss, wanted.validation_loss);
    }
    memset(records, 0, sizeof records);
    CU_ASSERT_EQUAL(tr_run_log_records(run_path, 7, records, 4), 7); /* nothing is behind that */
    CU_ASSERT(!records[0].step && !records[1].step && !records[2].step && !records[3].step);
    tr_step_record left_out = record_of(8);
    left_out.loss = left_out.grad_norm = (double)NAN;
    leave();
    enter();
    tr_run *run;
    CHECK_OK(tr_run_open(&run, &recipe, 7, NULL, &err));
    CHECK_OK(tr_run_record(run, &left_out, &err));
    tr_run_close(&run);
    CU_ASSERT_EQUAL(tr_run_log_records(run_path, 7, records, 4), 8);
    CU_ASSERT(records[0].step == 8 && isnan(records[0].loss) && isnan(records[0].grad_norm));
    leave();
}

static void an_epoch_is_known_by_the_lease_that_it_was_begun_under(void)
{
    enter();
    log_steps(0, 1, 1);
    append("epochs.jsonl",
           "{\"epoch\":3,\"data\":2,\"pipeline\":1,\"pieces\":1,\"hosts\":2,\"lease\":40}\n"
           "{\"epoch\":4,\"lease\":40}\n{\"epoch\":4,\"generation\":17}\n{\"epoch\":5,\"lease\":401}\n"
           "{\"epoch\":6}\n{\"epoch\":7,\"lease\":40}");
    char *path = path_in(run_path, "epochs.jsonl");
    CU_ASSERT(tr_epoch_log_has(path, 3, 40) && tr_epoch_log_has(path, 4, 40) &&
              tr_epoch_log_has(path, 5, 401));
    CU_ASSERT(!tr_epoch_log_has(path, 5, 40) && !tr_epoch_log_has(path, 3, 401) &&
              !tr_epoch_log_has(path, 6, 40));
    CU_ASSERT(!tr_epoch_log_has(path, 4, 17) && !tr_epoch_log_has(path, 6, 0) &&
              !tr_epoch_log_has(path, 1, 0));
    CU_ASSERT(!tr_epoch_log_has(path, 7, 40)); /* cut short: it never began */
    CU_ASSERT(!tr_epoch_log_has("nowhere", 3, 40));
    tr_free(path);
    leave();
}

static void a_resume_tells_which_lines_the_log_lacks(void)
{
    for (uint32_t updates = 4; updates <= 6; updates++) {
        enter();
        log_steps(0, 1, 5);
        log_steps(updates, 1, 0);
        char *text = read_text("events.jsonl");
        CU_ASSERT_EQUAL(strstr(text, "\"log_gap\"") != NULL, updates == 6);
        CU_ASSERT(updates < 6 ||
                  strstr(text, "log.jsonl has 5 of the 6 steps before the checkpoint") != NULL);
        tr_free(text);
        leave();
    }
}

static void a_line_cut_short_is_dropped(void)
{
    static const char *const ends[] = {
        "{",         "{\"step\": 4, \"loss\": 0.", "{\"step\": 2}", "\n",
        "garbage\n", "{\"step\": 1.5}\n",          "[1]\n",         "{\"loss\": 1}\n"};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        enter();
        log_steps(0, 1, 3);
        append("log.jsonl", ends[i]);
        log_steps(3, 4, 5);
        expect_steps(5);
        leave();
    }
    enter(); /* cut at every byte of the last line */
    log_steps(0, 1, 3);
    char *text = read_text("log.jsonl"), *path = path_in(run_path, "log.jsonl");
    size_t size = strlen(text), last = size - 1;
    while (text[last - 1] != '\n') last--;
    for (size_t cut = last; cut < size; cut += CHECK_SIZE(1, size / 4)) {
        CHECK_OK(tr_file_write(path, text, cut, &err));
        log_steps(5, 1, 0); /* asks for more than there is whole */
        expect_steps(2);
    }
    tr_free(text), tr_free(path);
    leave();
}

static void events_are_only_added(void)
{
    enter();
    for (int round = 0; round < 2; round++) {
        tr_run *run;
        CHECK_OK(tr_run_open(&run, &recipe, 0, NULL, &err));
        tr_job_event event = {.kind = TR_JOB_WORKER_DIED,
                              .monotonic_ns = 1500000000,
                              .node = 2,
                              .pid = 77,
                              .epoch = 3,
                              .text = "worker 2 \"died\"\nbadly"};
        tr_run_event(run, &event);
        tr_run_note(run, "checkpoint", "step-3");
        tr_run_tick(run);
        tr_run_close(&run);
    }
    char *text = read_text("events.jsonl"), *line = text;
    int lines = 0;
    for (char *end; (end = strchr(line, '\n')); line = end + 1, lines++) {
        json_t *object = json_loadb(line, (size_t)(end - line), 0, NULL);
        const char *kind = json_string_value(json_object_get(object, "event"));
        CU_ASSERT_STRING_EQUAL(kind, lines % 2 ? "checkpoint" : "worker_died");
        CU_ASSERT(json_is_real(json_object_get(object, "monotonic_s")));
        if (lines % 2 == 0) {
            CU_ASSERT_EQUAL(json_real_value(json_object_get(object, "monotonic_s")), 1.5);
            CU_ASSERT_EQUAL(json_integer_value(json_object_get(object, "node")), 2);
            CU_ASSERT_EQUAL(json_integer_value(json_object_get(object, "pid")), 77);
            CU_ASSERT_EQUAL(json_integer_value(json_object_get(object, "epoch")), 3);
        }
        json_decref(object);
    }
    CU_ASSERT_EQUAL(lines, 4);
    tr_free(text);
    leave();
}

static void people_see_where_the_run_is(void)
{
    enter();
    char *path = path_in(home, "progress"), *text;
    size_t size;
    FILE *progress = fopen(path, "w");
    tr_run *run;
    CHECK_OK(tr_run_open(&run, &recipe, 0, progress, &err));
    CU_ASSERT_PTR_NULL(tr_run_last(run));
    for (uint32_t s = 1; s <= 9; s++) {
        tr_step_record record = record_of(s);
        CHECK_OK(tr_run_record(run, &record, &err));
        CU_ASSERT_EQUAL(tr_run_last(run)->step, s);
    }
    tr_run_close(&run);
    fclose(progress);
    CHECK_OK(tr_file_read(path, &text, &size, &err));
    CU_ASSERT(strstr(text, "step 3/9  loss 0.2000  held-out 0.6667") != NULL);
    CU_ASSERT(strstr(text, "step 9/9") != NULL);
    CU_ASSERT(!strchr(text, '\r') && !strchr(text, '\x1b')); /* a file is no terminal */
    tr_free(text), tr_free(path);
    leave();
}

static void no_memory_loses_no_line(void)
{
    enter();
    log_steps(0, 1, 5);
    for (uint64_t n = 1;; n++) {
        tr_run *run = NULL;
        tr_memory_fail_after(n);
        tr_status status = tr_run_open(&run, &recipe, 5, NULL, &err);
        tr_memory_fail_after(0);
        tr_run_close(&run);
        expect_steps(5);
        if (!status) break;
        CU_ASSERT_EQUAL(status, TR_ENOMEM);
    }
    leave();
}

static const check_test tests[] = {
    CHECK_TEST(a_fresh_run_has_its_files),
    CHECK_TEST(a_resume_keeps_exactly_the_steps_of_the_checkpoint),
    CHECK_TEST(a_step_that_is_run_again_is_compared_and_not_logged),
    CHECK_TEST(no_epoch_is_used_twice),
    CHECK_TEST(the_log_gives_the_last_records_back),
    CHECK_TEST(an_epoch_is_known_by_the_lease_that_it_was_begun_under),
    CHECK_TEST(a_resume_tells_which_lines_the_log_lacks),
    CHECK_TEST(a_line_cut_short_is_dropped),
    CHECK_TEST(events_are_only_added),
    CHECK_TEST(people_see_where_the_run_is),
    CHECK_TEST(no_memory_loses_no_line),
};
CHECK_MAIN("run_directory", tests)
