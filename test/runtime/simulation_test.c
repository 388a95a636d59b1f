/* The actor system under simulation: random graphs of actors over a network that delays, loses, repeats and reorders.
 * SPDX-License-Identifier: Apache-2.0 */
#include "simulate.h"

#include "play.h"
#include "runtime/simulation.h"

static bool perform(play *self, uint64_t seed, FILE *trace, tr_simulation_counters *counters)
{
    tr_actor_kind kinds[PLAY_KINDS];
    play_kinds(self, kinds);
    const tr_registry registry = {kinds, PLAY_KINDS};
    tr_simulation_options options = {.seed = seed,
                                     .topology = &self->topology,
                                     .registry = &registry,
                                     .activation_max_ns = 1000 * (seed % 3),
                                     .max_events = MAX_EVENTS,
                                     .trace = trace};
    tr_simulation_faults(seed, &options.data, &options.control);
    tr_simulation *simulation;
    tr_error err;
    tr_status status = tr_simulation_new(&simulation, &options, &err);
    if (status == TR_OK) {
        status = tr_simulation_run(simulation, &err);
        *counters = tr_simulation_count(simulation);
        tr_simulation_destroy(&simulation);
    }
    if (status != TR_OK) fprintf(stderr, "%s\n", err.message);
    return status == TR_OK;
}

static bool every_item_comes_once_whatever_the_wire_does(uint64_t seed, FILE *trace)
{
    play self;
    tr_simulation_counters counters;
    play_cast(&self, seed, false, false);
    bool good = perform(&self, seed, trace, &counters) && play_adds_up(&self);
    tr_topology_release(&self.topology);
    return good;
}

static bool what_fails_loses_only_what_it_had_in_hand(uint64_t seed, FILE *trace)
{
    play self;
    tr_simulation_counters counters;
    play_cast(&self, seed, true, false);
    bool good = perform(&self, seed, trace, &counters) && play_adds_up(&self);
    tr_topology_release(&self.topology);
    return good;
}

static bool who_restarts_together_hears_nothing_of_the_past(uint64_t seed, FILE *trace)
{
    play self;
    tr_simulation_counters counters;
    play_cast(&self, seed, true, true);
    bool good = perform(&self, seed, trace, &counters);
    if (good && play_heard_the_past(&self)) {
        fprintf(stderr, "a message of an earlier life was handled, after %u failures\n",
                play_failures(&self));
        good = false;
    }
    tr_topology_release(&self.topology);
    return good;
}

static bool a_seed_decides_everything(uint64_t seed, FILE *trace)
{
    play self;
    tr_simulation_counters first, second;
    play_cast(&self, seed, seed % 2, false);
    bool good = perform(&self, seed, trace, &first);
    tr_topology_release(&self.topology);
    play_cast(&self, seed, seed % 2, false);
    good = perform(&self, seed, NULL, &second) && good;
    tr_topology_release(&self.topology);
    if (good && (first.fingerprint != second.fingerprint || first.n_events != second.n_events)) {
        fprintf(stderr, "two runs of the same seed differ\n");
        good = false;
    }
    return good;
}

int main(int argc, char **argv)
{
    static const simulate_case cases[] = {
        {"every_item_comes_once_whatever_the_wire_does", 20000, every_item_comes_once_whatever_the_wire_does},
        {"what_fails_loses_only_what_it_had_in_hand", 20000, what_fails_loses_only_what_it_had_in_hand},
        {"who_restarts_together_hears_nothing_of_the_past", 3000,
         who_restarts_together_hears_nothing_of_the_past},
        {"a_seed_decides_everything", 500, a_seed_decides_everything},
    };
    return simulate_main(cases, sizeof cases / sizeof *cases, argc, argv);
}
