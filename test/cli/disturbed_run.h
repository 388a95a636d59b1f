/* test/cli/disturbed_run.h - what tests share whose runs are disturbed: where these lie, what their events say, and that log and
 * checkpoints are those of a run that nobody disturbed.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TEST_CLI_DISTURBED_RUN_H
#define TROUPE_TEST_CLI_DISTURBED_RUN_H

#include "command.h"

static char *directory; /* of all runs, and of the words that they train on */

static inline void enter_with_words(void)
{
    directory = enter_directory();
    char *text = path_in(directory, "words.txt");
    write_words(text, 4000);
    tr_free(text);
}

static inline bool event_says(const char *run, const char *kind, const char *words)
{
    json_t *events = events_of(run), *event;
    size_t i;
    bool found = false;
    json_array_foreach(events, i, event) found =
        found || (strcmp(text_of(event, "event"), kind) == 0 && text_has(text_of(event, "text"), words));
    json_decref(events);
    return found;
}

static inline void tell_events(const char *run)
{
    json_t *events = events_of(run), *event;
    size_t i;
    json_array_foreach(events, i, event)
        fprintf(stderr, "    %.3f %s: %s\n", json_real_value(json_object_get(event, "monotonic_s")),
                text_of(event, "event"), text_of(event, "text"));
    json_decref(events);
}

static inline bool same_log(const char *undisturbed, const char *run, size_t n_steps)
{
    json_t *left = log_of(undisturbed), *right = log_of(run);
    bool same = log_is_complete(right, n_steps) && logs_agree(left, right);
    json_decref(left);
    json_decref(right);
    return same;
}

static inline bool same_checkpoint(const char *undisturbed, const char *run, int step)
{
    return checkpoints_agree(undisturbed, run, step, "model.safetensors") &&
           checkpoints_agree(undisturbed, run, step, "trainer/optimizer.safetensors");
}

#endif
