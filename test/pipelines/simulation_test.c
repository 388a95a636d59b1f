/* Training under simulation: the real actors, topology and partition of a job, with a model so small that its arithmetic is
 * a stand-in, on nodes whose network delays, loses, repeats and reorders. Whatever the seed and the layout, every record and
 * every checkpoint has the same bits.
 * SPDX-License-Identifier: Apache-2.0 */
#include "small_training.h"

static outcome expected[LAYOUTS]; /* of those that are the first of their like */
static bool is_expected[LAYOUTS];

static tr_status train(size_t layout, uint64_t seed, FILE *trace, outcome *out, tr_error *err)
{
    cast kinds;
    cast_init(&kinds, layout, out, NULL);
    tr_simulation_options options = {.seed = seed,
                                     .topology = &jobs[layout].plan.topology,
                                     .registry = &kinds.registry,
                                     .activation_max_ns = 10000 * (seed % 4),
                                     .max_events = MAX_EVENTS,
                                     .trace = trace};
    tr_simulation_faults(seed, &options.data, &options.control);
    tr_simulation *simulation;
    tr_status status = tr_simulation_new(&simulation, &options, err);
    if (status != TR_OK) return status;
    status = tr_simulation_run(simulation, err);
    tr_simulation_destroy(&simulation);
    return status;
}

static bool training_gives_the_same_bits_in_every_layout(uint64_t seed, FILE *trace)
{
    outcome got = {0};
    tr_error err;
    size_t like = first_like(seed % LAYOUTS);
    if (!is_expected[like]) { /* a gentle network */
        if (train(like, 0, NULL, &expected[like], &err) != TR_OK)
            return fprintf(stderr, "%s\n", err.message), false;
        is_expected[like] = true;
    }
    if (train(seed % LAYOUTS, seed, trace, &got, &err) != TR_OK)
        return fprintf(stderr, "%s\n", err.message), false;
    return outcome_is(&got, &expected[like], seed % LAYOUTS) && !got.n_again && !got.n_saved_again;
}

int main(int argc, char **argv)
{
    static const simulate_case cases[] = {
        {"training_gives_the_same_bits_in_every_layout", 2000, training_gives_the_same_bits_in_every_layout},
    };
    prepare();
    int result = simulate_main(cases, sizeof cases / sizeof *cases, argc, argv);
    clean_up();
    return result;
}
