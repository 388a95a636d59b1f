/* test/fuzz/recipe_fuzz.c - a recipe, YAML or JSON, and behind a NUL each an override of the command line.
 * What is taken is written as YAML and as JSON, and both are read again as the same recipe.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/recipe.h"

#include "fuzz.h"

enum { MOST_OVERRIDES = 4 };

static void check_again(const tr_recipe *recipe, const char *text)
{
    tr_recipe again;
    tr_error err = {0};
    tr_status status = tr_recipe_parse(&again, text, strlen(text), "again", NULL, 0, &err);
    if (status) fprintf(stderr, "%s\n%s\n", text, err.message);
    FUZZ_PROMISE(status == TR_OK);
    char *first, *second;
    FUZZ_PROMISE(!tr_recipe_to_json(recipe, &first, &err) && !tr_recipe_to_json(&again, &second, &err));
    if (strcmp(first, second) != 0) fprintf(stderr, "%s\n%s\n", first, second);
    FUZZ_PROMISE(strcmp(first, second) == 0);
    tr_free(first);
    tr_free(second);
    tr_recipe_release(&again);
}

static void check_rates(const tr_recipe *recipe)
{
    int32_t last = recipe->train.steps - 1;
    FUZZ_PROMISE(tr_recipe_learning_rate(recipe, 0) >= 0 && tr_recipe_learning_rate(recipe, last) >= 0);
    FUZZ_PROMISE(recipe->layout.data <= recipe->train.groups &&
                 recipe->train.groups <= recipe->train.accumulate);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size_bytes)
{
    char *text = fuzz_text(bytes, size_bytes);
    size_t length = strlen(text), n = 0;
    const char *overrides[MOST_OVERRIDES];
    for (size_t at = length + 1; at < size_bytes && n < MOST_OVERRIDES; at += strlen(text + at) + 1)
        overrides[n++] = text + at;
    tr_recipe recipe;
    tr_error err = {0};
    tr_status status = tr_recipe_parse(&recipe, text, length, "recipe.yaml", overrides, n, &err);
    tr_free(text);
    if (status) {
        fuzz_refused(status, &err);
        return 0;
    }
    check_rates(&recipe);
    char *yaml, *json;
    FUZZ_PROMISE(!tr_recipe_to_yaml(&recipe, &yaml, &err) && !tr_recipe_to_json(&recipe, &json, &err));
    check_again(&recipe, yaml);
    check_again(&recipe, json);
    tr_free(yaml);
    tr_free(json);
    tr_recipe_release(&recipe);
    return 0;
}
