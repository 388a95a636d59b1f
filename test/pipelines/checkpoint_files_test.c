/* test/pipelines/checkpoint_files_test.c - a checkpoint is whole or it is none, whatever order its bytes came in.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/checkpoint_files.h"

#include "base/hash.h"
#include "base/log.h"
#include "base/rng.h"
#include "check.h"
#include "pipelines/checkpoint_manifest.h"
#include "pipelines/files.h"
#include "pipelines/recipe.h"

#include <dirent.h>
#include <sys/inotify.h>

static tr_error err;
static char *home;
enum { LAST = 1000 }; /* of the run */
static tr_model_config config;
static tr_model_parameters parameters;

static void enter(void)
{
    static const char text[] =
        "run: r\nmodel: {family: llama, layers: 1, width: 8, heads: 2, inner: 12, vocabulary: 256}\n"
        "data: {text: x}\ntrain: {steps: 9, sequence: 4, microbatch: 1}\nlr: {peak: 1}\n";
    tr_recipe recipe;
    home = enter_directory();
    CHECK_OK(tr_recipe_parse(&recipe, text, sizeof text - 1, "r", NULL, 0, &err));
    CHECK_OK(tr_model_config_from_recipe(&config, &recipe, &err));
    CHECK_OK(tr_model_parameters_list(&parameters, &config, &err));
    tr_recipe_release(&recipe);
}

static void leave(void)
{
    tr_model_parameters_release(&parameters);
    tr_model_config_release(&config);
    leave_directory(home);
}

static int64_t elements(uint32_t parameter)
{
    return tr_shape_elements(&parameters.items[parameter].shape);
}

/* What element i of a part is in the checkpoint after so many updates. */
static float value_of(uint32_t updates, uint32_t parameter, uint32_t part, int64_t i)
{
    tr_rng_key key = {updates, parameter, part, 0};
    return (float)tr_rng_uniform(&key, (uint64_t)i) - 0.5f;
}

typedef struct chunk {
    uint32_t parameter, part;
    int64_t begin, end;
} chunk;

/* Cuts all state into pieces of at most 37 elements and shuffles them. */
static size_t make_chunks(chunk *chunks, uint64_t seed)
{
    size_t n = 0;
    for (uint32_t p = 0; p < parameters.count; p++)
        for (uint32_t part = 0; part < 3; part++)
            for (int64_t at = 0; at < elements(p); at += 37)
                chunks[n++] = (chunk){p, part, at, at + 37 < elements(p) ? at + 37 : elements(p)};
    const tr_rng_key key = {seed, 0, 0, 0};
    TR_ASSERT(n > 0);
    for (size_t i = n - 1; i > 0; i--) {
        size_t j = tr_rng_u64(&key, i) % (i + 1);
        chunk kept = chunks[i];
        chunks[i] = chunks[j], chunks[j] = kept;
    }
    return n;
}

static tr_status write_checkpoint(const tr_checkpoint_writer *w, uint32_t updates, size_t leave_out,
                                  tr_error *error)
{
    static chunk chunks[1000];
    char path[1024];
    size_t n = make_chunks(chunks, updates);
    tr_status status = w->begin(w->context, updates, error);
    for (size_t i = 0; !status && i + leave_out < n; i++) {
        float values[37];
        const chunk *c = &chunks[i];
        for (int64_t e = c->begin; e < c->end; e++)
            values[e - c->begin] = value_of(updates, c->parameter, c->part, e);
        status = w->write(w->context, c->parameter, c->part, (uint64_t)c->begin * 4, values,
                          (size_t)(c->end - c->begin) * 4, error);
    }
    if (status) {
        w->abandon(w->context);
        return status;
    }
    return w->commit(w->context, path, sizeof path, error);
}

static tr_checkpoint_files *new_files(int32_t keep, const char *source)
{
    tr_checkpoint_files *files = NULL;
    tr_checkpoint_files_options options = {.run = home,
                                           .config = &config,
                                           .parameters = &parameters,
                                           .source_directory = source,
                                           .keep = keep,
                                           .last_updates = LAST,
                                           .updates_before = 1,
                                           .tokens_before = 1000,
                                           .tokens_per_step = 10};
    CHECK_OK(tr_checkpoint_files_new(&files, &options, &err));
    return files;
}

static void write_steps(int32_t keep, uint32_t first, uint32_t last)
{
    tr_checkpoint_files *files = new_files(keep, NULL);
    for (uint32_t u = first; u <= last; u++)
        CHECK_OK(write_checkpoint(tr_checkpoint_files_writer(files), u, 0, &err));
    tr_checkpoint_files_destroy(&files);
}

static char *step_path(uint32_t updates)
{
    return tr_format("%s/checkpoints/step-%u", home, updates);
}

static bool has_step(uint32_t updates)
{
    char *path = step_path(updates);
    bool there = tr_path_is_directory(path);
    tr_free(path);
    return there;
}

static uint32_t found(void)
{
    char path[1024];
    tr_trainer_state state;
    CHECK_OK(tr_checkpoint_find(home, path, sizeof path, &state, &err));
    char *expected = step_path(state.updates);
    CU_ASSERT_STRING_EQUAL(path, state.updates ? expected : "");
    tr_free(expected);
    return state.updates;
}

static void what_came_in_any_order_is_read_back(void)
{
    enter();
    write_steps(0, 3, 3);
    char *path = step_path(3);
    tr_trainer_state state;
    tr_weights *weights;
    tr_moments *moments;
    CHECK_OK(tr_checkpoint_verify(path, &state, &err));
    CU_ASSERT(state.updates == 3 && state.tokens == 1020);
    tr_model_config read;
    CHECK_OK(tr_model_config_read(&read, path, &err));
    CU_ASSERT(read.width == 8 && read.vocabulary == 256);
    CHECK_OK(tr_weights_open(&weights, path, &read, &parameters, &err));
    CHECK_OK(tr_moments_open(&moments, path, &err));
    for (uint32_t p = 0; p < parameters.count; p++) {
        float *all[3];
        for (int k = 0; k < 3; k++) all[k] = tr_alloc((size_t)elements(p) * sizeof(float));
        CHECK_OK(tr_weights_read(weights, p, all[0], &err));
        CHECK_OK(tr_moments_read(moments, parameters.items[p].name, elements(p), all[1], all[2], &err));
        for (uint32_t k = 0; k < 3; k++)
            for (int64_t e = 0; e < elements(p); e++) CU_ASSERT_FATAL(all[k][e] == value_of(3, p, k, e));
        CU_ASSERT_EQUAL(
            tr_moments_read(moments, parameters.items[p].name, elements(p) + 1, all[1], all[2], &err),
            TR_ECORRUPT);
        for (int k = 0; k < 3; k++) tr_free(all[k]);
    }
    CU_ASSERT_EQUAL(tr_moments_read(moments, "nobody", 1, NULL, NULL, &err), TR_ECORRUPT);
    tr_moments_close(&moments);
    tr_weights_close(&weights);
    tr_model_config_release(&read);
    tr_free(path);
    leave();
}

static void expect_damage(const char *checkpoint, const char *what, const char *file, size_t at)
{
    tr_trainer_state state;
    tr_error error = {0};
    bool noticed = tr_checkpoint_verify(checkpoint, &state, &error) != TR_OK && error.message[0];
    if (!noticed) fprintf(stderr, "not noticed: %s of byte %zu of %s\n", what, at, file);
    CU_ASSERT(noticed);
}

static void damage_file(const char *checkpoint, const char *name)
{
    char *path = path_in(checkpoint, name), *aside = path_in(home, "aside"), *bytes;
    size_t size;
    CHECK_OK(tr_file_read(path, &bytes, &size, &err));
    size_t stride = CHECK_SIZE(size < 3000 ? 1 : size / 300, size / 3);
    for (size_t at = 0; at < size; at += stride) {
        char kept = bytes[at];
        bytes[at] = (char)(kept ^ 1 << at % 8);
        FILE *file = fopen(path, "wb");
        fwrite(bytes, 1, size, file);
        fclose(file);
        bytes[at] = kept;
        expect_damage(checkpoint, "flip", name, at);
    }
    CHECK_OK(tr_file_write(path, bytes, size, &err));
    const size_t lengths[] = {0, 1, size / 2, size - 1};
    for (size_t i = 0; i < 4; i++) {
        CU_ASSERT(truncate(path, (off_t)lengths[i]) == 0);
        expect_damage(checkpoint, "truncation", name, lengths[i]);
        CHECK_OK(tr_file_write(path, bytes, size, &err));
    }
    CU_ASSERT(rename(path, aside) == 0);
    expect_damage(checkpoint, "loss", name, 0);
    CU_ASSERT(rename(aside, path) == 0);
    tr_free(bytes), tr_free(path), tr_free(aside);
}

static void any_damage_is_found(void)
{
    static const char *const names[] = {"config.json", "model.safetensors", "trainer/optimizer.safetensors",
                                        "trainer/state.json", "trainer/manifest.json"};
    enter();
    write_steps(0, 5, 5);
    char *path = step_path(5);
    tr_trainer_state state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) damage_file(path, names[i]);
    CHECK_OK(tr_checkpoint_verify(path, &state, &err)); /* as it was */
    tr_free(path);
    leave();
}

static void break_step(uint32_t updates)
{
    char *path = step_path(updates), *file = path_in(path, "model.safetensors");
    CU_ASSERT(truncate(file, 100) == 0);
    tr_free(path), tr_free(file);
}

static void the_newest_valid_checkpoint_is_found(void)
{
    enter();
    tr_log_set_level((tr_log_level)(TR_LOG_ERROR + 1)); /* damaged ones are told; not here */
    CU_ASSERT_EQUAL(found(), 0);                        /* no directory yet */
    write_steps(0, 8, 11);                              /* 9 before 10: by number, not by letter */
    CU_ASSERT_EQUAL(found(), 11);
    break_step(11);
    CU_ASSERT_EQUAL(found(), 10);
    char *ten = step_path(10), *twenty = step_path(20),
         *manifest = tr_format("%s/trainer/manifest.json", ten);
    CU_ASSERT(rename(ten, twenty) == 0); /* whole, but not what its name says */
    CU_ASSERT_EQUAL(found(), 9);
    CU_ASSERT(rename(twenty, ten) == 0);
    CU_ASSERT_EQUAL(found(), 10);
    CU_ASSERT(unlink(manifest) == 0);
    CU_ASSERT_EQUAL(found(), 9);
    char *other = tr_format("%s/checkpoints/step-30.tmp", home);
    CHECK_OK(tr_directory_make(other, &err));
    CU_ASSERT_EQUAL(found(), 9);
    break_step(9), break_step(8);
    char path[1024];
    tr_trainer_state state;
    /* there were some: to begin again as if there had been none would throw work away */
    CU_ASSERT_EQUAL(tr_checkpoint_find(home, path, sizeof path, &state, &err), TR_ECORRUPT);
    tr_free(ten), tr_free(twenty), tr_free(manifest), tr_free(other);
    leave();
}

static void only_the_newest_are_kept(void)
{
    enter();
    write_steps(2, 8, 11);
    CU_ASSERT(!has_step(8) && !has_step(9) && has_step(10) && has_step(11));
    char *eleven = step_path(11), *mine = tr_format("%s-mine", eleven);
    CHECK_OK(tr_directory_make(mine, &err)); /* a person's copy is neither counted nor removed */
    write_steps(2, 12, 12);
    CU_ASSERT(!has_step(10) && has_step(11) && has_step(12) && tr_path_exists(mine));
    write_steps(0, 13, 14);
    CU_ASSERT(has_step(11) && has_step(14));
    tr_free(eleven), tr_free(mine);
    leave();
}

static int count_entries(const char *name)
{
    char *path = path_in(home, name);
    DIR *directory = opendir(path);
    int n = 0;
    for (struct dirent *entry; directory && (entry = readdir(directory));)
        n += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    if (directory) closedir(directory);
    tr_free(path);
    return n;
}

/* How many entries of that name were removed from the directory that `watch` watches. */
static int count_removals(int watch, const char *name)
{
    _Alignas(struct inotify_event) char bytes[4096];
    int n = 0;
    for (ssize_t size; (size = read(watch, bytes, sizeof bytes)) > 0;)
        for (const char *at = bytes; at < bytes + size;) {
            const struct inotify_event *notice = (const struct inotify_event *)at;
            n += (notice->mask & IN_DELETE) && notice->len && strcmp(notice->name, name) == 0;
            at += sizeof *notice + notice->len;
        }
    return n;
}

/* Made again after a death, it is swapped with the one before: at no moment is there none. */
static void one_made_again_never_leaves_its_name_free(void)
{
    enter();
    write_steps(0, 7, 7);
    char *checkpoints = path_in(home, "checkpoints"), *seven = step_path(7);
    char *mark = path_in(seven, "of-the-first");
    CHECK_OK(tr_file_write(mark, "", 0, &err));
    int watch = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    CU_ASSERT_FATAL(inotify_add_watch(watch, checkpoints, IN_DELETE) >= 0);
    write_steps(0, 7, 7);
    CU_ASSERT(has_step(7) && !tr_path_exists(mark));
    CU_ASSERT_EQUAL(count_removals(watch, "step-7"), 0);
    CU_ASSERT_EQUAL(count_entries("checkpoints"), 1);
    close(watch);
    tr_free(checkpoints), tr_free(seven), tr_free(mark);
    leave();
}

static void what_is_not_whole_is_not_published(void)
{
    enter();
    tr_checkpoint_files *files = new_files(0, NULL);
    const tr_checkpoint_writer *w = tr_checkpoint_files_writer(files);
    float value = 1;
    uint64_t total = 0;
    for (uint32_t p = 0; p < parameters.count; p++) total += 12 * (uint64_t)elements(p);
    CU_ASSERT_EQUAL(w->total_bytes, total);
    CU_ASSERT_NOT_EQUAL(write_checkpoint(w, 2, 1, &err), TR_OK); /* a chunk is missing */
    CU_ASSERT(!has_step(2) && count_entries("checkpoints") == 0);
    CHECK_OK(w->begin(w->context, 3, &err));
    CU_ASSERT_EQUAL(w->write(w->context, (uint32_t)parameters.count, 0, 0, &value, 4, &err), TR_ECORRUPT);
    CU_ASSERT_EQUAL(w->write(w->context, 0, 3, 0, &value, 4, &err), TR_ECORRUPT);
    CU_ASSERT_EQUAL(count_entries("checkpoints"), 1);
    w->abandon(w->context);
    CU_ASSERT_EQUAL(count_entries("checkpoints"), 0);
    CHECK_OK(w->begin(w->context, 4, &err));
    tr_checkpoint_files_destroy(&files); /* with one at work */
    CU_ASSERT_EQUAL(count_entries("checkpoints"), 0);
    CU_ASSERT_EQUAL(found(), 0);
    leave();
}

static void tokenizer_files_come_along(void)
{
    enter();
    char *source = path_in(home, "source"), *token = path_in(source, "tokenizer.json"),
         *weights = path_in(source, "model.safetensors"), *readme = path_in(source, "README.md");
    CHECK_OK(tr_directory_make(source, &err));
    CHECK_OK(tr_file_write(token, "{}", 2, &err));
    CHECK_OK(tr_file_write(weights, "old", 3, &err));
    CHECK_OK(tr_file_write(readme, "hi", 2, &err));
    tr_checkpoint_files *files = new_files(0, source);
    CHECK_OK(write_checkpoint(tr_checkpoint_files_writer(files), 2, 0, &err));
    tr_checkpoint_files_destroy(&files);
    char *step = step_path(2), *copy = path_in(step, "tokenizer.json");
    CU_ASSERT(files_are_equal(copy, token));
    CU_ASSERT_EQUAL(count_entries("checkpoints/step-2"), 4); /* config, model, tokenizer, trainer */
    CU_ASSERT_EQUAL(found(), 2);
    tr_free(source), tr_free(token), tr_free(weights), tr_free(readme), tr_free(step), tr_free(copy);
    leave();
}

static void no_memory_publishes_nothing(void)
{
    enter();
    uint32_t failures = 0;
    for (uint64_t n = 1;; n += CHECK_SIZE(1, 29), failures++) {
        tr_checkpoint_files *files = new_files(0, NULL);
        tr_memory_fail_after(n);
        tr_status status = write_checkpoint(tr_checkpoint_files_writer(files), 2, 0, &err);
        tr_memory_fail_after(0);
        tr_checkpoint_files_destroy(&files);
        if (!status) break;
        CU_ASSERT_EQUAL(status, TR_ENOMEM);
        char *step = step_path(2);
        tr_trainer_state
            state; /* the last failure may come when the name is there already: then all of it is */
        if (has_step(2)) CHECK_OK(tr_checkpoint_verify(step, &state, &err));
        tr_free(step);
    }
    CU_ASSERT(failures > CHECK_SIZE(20, 0));
    CU_ASSERT_EQUAL(found(), 2);
    leave();
}

/* Whatever step was at work when it broke; nothing is left of it, and the one before stays. */
static void a_disk_that_fails_spares_the_older_and_the_last(void)
{
    static const tr_file_fault faults[] = {TR_FILE_FULL, TR_FILE_UNSYNCED};
    enter();
    tr_checkpoint_files *files = new_files(0, NULL);
    const tr_checkpoint_writer *writer = tr_checkpoint_files_writer(files);
    CHECK_OK(write_checkpoint(writer, 2, 0, &err));
    for (uint32_t i = 0; i < 2; i++) {
        tr_checkpoint_files_break(files, faults[i]);
        CU_ASSERT_EQUAL(write_checkpoint(writer, 3 + i, 0, &err), TR_EIO);
        CU_ASSERT_PTR_NOT_NULL(strstr(err.message, strerror(i ? EIO : ENOSPC)));
        CU_ASSERT(count_entries("checkpoints") == 1 && found() == 2);
    }
    CHECK_OK(tr_file_fault_set(TR_FILE_SOUND, NULL, &err));
    CHECK_OK(write_checkpoint(writer, 5, 0, &err));
    tr_checkpoint_files_break(files, TR_FILE_FULL);
    CHECK_OK(write_checkpoint(writer, LAST, 0, &err)); /* it is sound again */
    CHECK_OK(writer->begin(writer->context, LAST, &err));
    tr_checkpoint_files_break(files, TR_FILE_FULL);
    CU_ASSERT_EQUAL(tr_file_fault_now(), TR_FILE_SOUND);
    writer->abandon(writer->context);
    tr_checkpoint_files_destroy(&files);
    CU_ASSERT_EQUAL(found(), LAST);
    leave();
}

static const check_test tests[] = {
    CHECK_TEST(what_came_in_any_order_is_read_back),
    CHECK_TEST(any_damage_is_found),
    CHECK_TEST(the_newest_valid_checkpoint_is_found),
    CHECK_TEST(only_the_newest_are_kept),
    CHECK_TEST(what_is_not_whole_is_not_published),
    CHECK_TEST(tokenizer_files_come_along),
    CHECK_TEST(no_memory_publishes_nothing),
    CHECK_TEST(one_made_again_never_leaves_its_name_free),
    CHECK_TEST(a_disk_that_fails_spares_the_older_and_the_last),
};
CHECK_MAIN("checkpoint_files", tests)
