/* test/fuzz/log_fuzz.c - log.jsonl as a resume finds it: the first byte says how many updates stay, the rest is the
 * file. What stays are whole lines of those steps, and opening once more changes nothing.
 * SPDX-License-Identifier: Apache-2.0 */
#include "fuzz.h"
#include "pipelines/run_directory.h"

#include <jansson.h>

static void check_lines(const char *text, size_t size_bytes, uint32_t updates)
{
    FUZZ_PROMISE(size_bytes == 0 || text[size_bytes - 1] == '\n');
    for (const char *line = text; line < text + size_bytes;) {
        const char *end = memchr(line, '\n', (size_t)(text + size_bytes - line));
        json_t *object = json_loadb(line, (size_t)(end - line), 0, NULL);
        json_int_t step = json_integer_value(json_object_get(object, "step"));
        FUZZ_PROMISE(step >= 1 && step <= (json_int_t)updates);
        json_decref(object);
        line = end + 1;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size_bytes)
{
    static char *path;
    if (!path) path = tr_format("%s/log.jsonl", fuzz_directory());
    if (size_bytes < 1) return 0;
    FILE *stream = fopen(path, "w");
    FUZZ_PROMISE(stream && fwrite(bytes + 1, 1, size_bytes - 1, stream) == size_bytes - 1 && !fclose(stream));
    tr_recipe recipe = {.run = tr_format("%s", fuzz_directory()), .train = {.steps = 300}};
    char *first = NULL;
    size_t n_first = 0;
    for (int times = 0; times < 2; times++) {
        tr_run *run;
        tr_error err = {0};
        FUZZ_PROMISE(
            !tr_run_open(&run, &recipe, bytes[0], NULL, &err)); /* a damaged log never stops a resume */
        tr_run_close(&run);
        char *text;
        size_t n;
        FUZZ_PROMISE(!tr_file_read(path, &text, &n, &err));
        check_lines(text, n, bytes[0]);
        FUZZ_PROMISE(times == 0 || (n == n_first && memcmp(text, first, n) == 0));
        tr_free(first);
        first = text;
        n_first = n;
    }
    tr_free(first);
    tr_free(recipe.run);
    return 0;
}
