/* runtime/simulation.c - see simulation.h: the choice of what comes next, and the clock.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/simulation_internal.h"

#include "base/memory.h"

#include <inttypes.h>
#include <string.h>

enum { EVENT_ACTIVATION = 1, EVENT_DATA, EVENT_CONTROL, EVENT_TIMER, EVENT_DRIVER };

uint64_t tr__simulation_draw(tr_simulation *self, uint64_t below)
{
    return below ? tr_rng_u64(&self->key, self->n_drawn++) % below : 0;
}

void tr_simulation_faults(uint64_t seed, tr_sim_faults *data, tr_sim_faults *control)
{
    tr_rng_key key = {.seed = seed, .stream = 0x666175};
    uint64_t slowest[] = {0, 1000, 20000, 100000};
    uint32_t permille[] = {0, 20, 100, 300};
    *data = (tr_sim_faults){.delay_max_ns = slowest[tr_rng_u64(&key, 0) % 4],
                            .lost_permille = permille[tr_rng_u64(&key, 1) % 4],
                            .resend_ns = 200000,
                            .repeated_permille = permille[tr_rng_u64(&key, 2) % 4]};
    *control = (tr_sim_faults){.delay_max_ns = slowest[tr_rng_u64(&key, 3) % 4],
                               .lost_permille = permille[tr_rng_u64(&key, 4) % 3],
                               .resend_ns = 200000,
                               .in_order = true};
}

/* ---- what the nodes tell ---- */

static void on_job_end(void *context, const tr_error *error)
{
    tr_simulation *self = context;
    if (self->finished || self->failed) return;
    self->finished = !error;
    self->failed = error != NULL;
    if (error && !self->broken) self->error = *error;
}

static void on_actor_end(void *context, tr_actor_id who, const tr_error *error)
{
    tr_simulation *self = context;
    if (self->options.on_actor_end) self->options.on_actor_end(self->options.context, who, error);
}

void tr__simulation_observe(void *context, tr_actor_id to, const tr_message *message)
{
    const tr__simulation_seat *seat = context;
    tr_simulation *self = seat->simulation;
    if (self->options.trace)
        fprintf(self->options.trace,
                "%12" PRIu64 "   '%s' handles %s %u, sequence %u, step %u, micro-batch %u\n", self->now_ns,
                tr_topology_actor(self->options.topology, to)->name,
                message->frame.kind == TR_FRAME_DATA ? "a message of edge" : "topic", message->frame.edge,
                message->frame.sequence, message->frame.step, message->frame.microbatch);
    tr__audit_message(self, seat->place, to, message);
    if (self->options.observe) self->options.observe(self->options.context, to, message);
}

void tr__simulation_observe_slot(void *context, tr_actor_id who, int slot, uint64_t generation)
{
    const tr__simulation_seat *seat = context;
    tr_simulation *self = seat->simulation;
    if (self->options.trace)
        fprintf(self->options.trace, "%12" PRIu64 "   '%s': slot %d, generation %" PRIu64 "\n", self->now_ns,
                tr_topology_actor(self->options.topology, who)->name, slot, generation);
    if (self->driver.on_slot) self->driver.on_slot(self->driver.context, seat->place, who, slot, generation);
}

/* Within the handler the clock goes on by what the work takes; activate() takes it back for the others. */
static void on_activity(void *context, tr_actor_id who, const char *what, uint32_t step, uint32_t microbatch)
{
    tr_simulation *self = context;
    if (self->is_activating && self->options.duration_ns)
        self->now_ns += self->options.duration_ns(self->options.context, who, what, step, microbatch);
}

/* ---- life ---- */

static tr_status make_node(tr_simulation *self, int32_t node, tr_error *err)
{
    tr_node_options options = {.node = node,
                               .incarnation = 1,
                               .epoch = 1,
                               .n_threads = 1,
                               .data_transport = "sim",
                               .control_transport = "sim",
                               .registry = self->options.registry,
                               .virtual_ns = &self->now_ns,
                               .data_network = self->data,
                               .control_network = self->control,
                               .on_activity = self->options.duration_ns ? on_activity : NULL,
                               .observe = tr__simulation_observe,
                               .observer = &self->seats[node],
                               .context = self,
                               .on_actor_end = on_actor_end,
                               .on_job_end = on_job_end};
    self->node_weights[node] = 1 + (uint32_t)tr__simulation_draw(self, 4);
    return tr_node_new(&self->nodes[node], &options, err);
}

tr_status tr__simulation_init(tr_simulation *self, const tr_simulation_options *options, int32_t n_places,
                              tr_error *err)
{
    size_t n = (size_t)n_places;
    self->options = *options;
    self->n_places = n_places;
    self->key = (tr_rng_key){.seed = options->seed, .stream = 0x73696d};
    self->now_ns = 1000000000; /* 0 means "not asked for" to an actor */
    self->starved = options->starved;
    self->starved_until = UINT64_MAX;
    self->landing_weight = 1 + (uint32_t)tr__simulation_draw(self, 6);
    self->nodes = tr_alloc_zero(n, sizeof(void *));
    self->seats = tr_alloc_zero(n, sizeof *self->seats);
    self->frozen = tr_alloc_zero(n, sizeof *self->frozen);
    self->node_weights = tr_alloc_zero(n, sizeof *self->node_weights);
    self->busy_until_ns = tr_alloc_zero(n, sizeof *self->busy_until_ns);
    if (!self->nodes || !self->seats || !self->frozen || !self->node_weights || !self->busy_until_ns)
        return tr_fail(err, TR_ENOMEM, "no memory for %d nodes", n_places);
    for (int32_t i = 0; i < n_places; i++) {
        self->seats[i] = (tr__simulation_seat){self, i};
        self->node_weights[i] = 1;
    }
    tr_status status =
        tr_sim_network_new(&self->data, self->options.seed * 2, &self->now_ns, &self->options.data, err);
    if (status == TR_OK)
        status = tr_sim_network_new(&self->control, self->options.seed * 2 + 1, &self->now_ns,
                                    &self->options.control, err);
    return status == TR_OK ? tr__audit_init(self, err) : status;
}

static tr_status make(tr_simulation *self, tr_error *err)
{
    int32_t n_nodes = self->options.topology->n_nodes;
    tr_status status = TR_OK;
    for (int32_t i = 0; i < n_nodes && status == TR_OK; i++) status = make_node(self, i, err);
    for (int32_t i = 0; i < n_nodes; i++)
        for (int32_t j = 0; j < i && status == TR_OK; j++)
            status = tr_node_connect(self->nodes[i], j, tr_node_control_address(self->nodes[j]),
                                     tr_node_data_address(self->nodes[j]), err);
    for (int32_t i = 0; i < n_nodes && status == TR_OK; i++)
        status = tr_node_load(self->nodes[i], self->options.topology, NULL, err);
    return status;
}

tr_status tr_simulation_new(tr_simulation **out, const tr_simulation_options *options, tr_error *err)
{
    tr_simulation *self = tr_alloc_zero(1, sizeof *self);
    if (!self) return tr_fail(err, TR_ENOMEM, "no memory for a simulation");
    tr_status status = tr__simulation_init(self, options, options->topology->n_nodes, err);
    if (status == TR_OK) status = make(self, err);
    if (status != TR_OK) {
        tr_simulation_destroy(&self);
        return status;
    }
    for (int32_t i = 0; i < options->topology->n_nodes; i++) tr_node_start_actors(self->nodes[i]);
    *out = self;
    return TR_OK;
}

void tr__simulation_release(tr_simulation *self)
{
    tr__audit_release(self);
    tr_sim_network_destroy(&self->data);
    tr_sim_network_destroy(&self->control);
    tr_free(self->nodes);
    tr_free(self->seats);
    tr_free(self->frozen);
    tr_free(self->node_weights);
    tr_free(self->busy_until_ns);
}

void tr_simulation_destroy(tr_simulation **out)
{
    tr_simulation *self = *out;
    if (!self) return;
    for (int32_t i = 0; self->nodes && i < self->n_places; i++) tr_node_destroy(&self->nodes[i]);
    tr__simulation_release(self);
    tr_free(self);
    *out = NULL;
}

tr_node *tr_simulation_node(const tr_simulation *self, int32_t node)
{
    return self->nodes[node];
}

tr_simulation_counters tr_simulation_count(const tr_simulation *self)
{
    tr_simulation_counters counters = self->counters;
    counters.virtual_ns = self->now_ns - 1000000000;
    counters.data = tr_sim_network_count(self->data);
    counters.control = tr_sim_network_count(self->control);
    return counters;
}

/* ---- what comes next ---- */

static void note(tr_simulation *self, uint32_t kind, uint64_t what)
{
    self->counters.n_events++;
    self->counters.fingerprint =
        (self->counters.fingerprint ^ (self->now_ns * 8 + kind + (what << 32))) * 0x9e3779b97f4a7c15u;
    self->counters.fingerprint ^= self->counters.fingerprint >> 29;
}

/* Which of the activations that could come next is that of the starved actor; UINT32_MAX: none. */
static uint32_t which_starves(const tr_simulation *self, int32_t node)
{
    const tr__world *world = self->starved ? self->nodes[node]->world : NULL;
    const tr_actor *actor = world ? tr__actor_here(world, self->starved) : NULL;
    if (!actor || self->counters.n_events >= self->starved_until) return UINT32_MAX;
    return tr_scheduler_which(self->nodes[node]->scheduler, &actor->task);
}

/* Activations of a node that may come next. */
static uint32_t runnable(const tr_simulation *self, int32_t node)
{
    return tr_node_runnable(self->nodes[node]) - (which_starves(self, node) != UINT32_MAX);
}

static void activate(tr_simulation *self, int32_t node)
{
    if (self->driver.before) self->driver.before(self->driver.context, node);
    uint64_t n_runnable = runnable(self, node);
    uint32_t which = self->options.duration_ns ? 0 : (uint32_t)tr__simulation_draw(self, n_runnable);
    if (self->newest_first && n_runnable > 1 && tr__simulation_draw(self, 16))
        which = (uint32_t)n_runnable - 1;
    which += which >= which_starves(self, node);
    note(self, EVENT_ACTIVATION, (uint64_t)node << 8 | which);
    if (self->options.trace) fprintf(self->options.trace, "%12" PRIu64 " node %d runs\n", self->now_ns, node);
    self->counters.n_activations++;
    uint64_t began_ns = self->now_ns;
    self->is_activating = true;
    tr_node_step(self->nodes[node], which);
    self->is_activating = false;
    if (self->options.duration_ns) {
        self->busy_until_ns[node] = self->now_ns;
        self->now_ns = began_ns;
    } else {
        self->now_ns += tr__simulation_draw(self, self->options.activation_max_ns + 1);
    }
    if (self->driver.after) self->driver.after(self->driver.context, node);
}

static void land(tr_simulation *self, tr_sim_network *network, uint32_t kind)
{
    tr_frame frame;
    uint32_t incarnation;
    int32_t node = tr_sim_network_land(network, tr__simulation_draw(self, tr_sim_network_due(network)),
                                       &frame, &incarnation);
    note(self, kind, (uint64_t)frame.edge << 16 ^ frame.sequence);
    static const char *const kinds[] = {"nothing", "HELLO", "DATA", "CREDIT", "CONTROL", "SYSTEM"};
    if (self->options.trace)
        fprintf(self->options.trace, "%12" PRIu64 " %s %u, sequence %u, reaches node %d\n", self->now_ns,
                frame.kind < sizeof kinds / sizeof *kinds ? kinds[frame.kind] : "something", frame.edge,
                frame.sequence, node);
    for (int32_t i = 0; i < self->n_places; i++) { /* a zombie may be beside its replacement */
        const tr_node *there = self->nodes[i];
        if (there && there->options.node == node && there->options.incarnation == incarnation)
            tr_node_progress(self->nodes[i]);
    }
}

/* How much its activations weigh now. */
static uint64_t weight_of(const tr_simulation *self, int32_t node)
{
    if (!self->nodes[node] || self->frozen[node] || self->busy_until_ns[node] > self->now_ns) return 0;
    return (uint64_t)runnable(self, node) * self->node_weights[node];
}

static bool timer_is_due(const tr_simulation *self, int32_t node)
{
    return self->nodes[node] && !self->frozen[node] &&
           tr_node_next_timer_ns(self->nodes[node]) <= self->now_ns;
}

/* Weighs what could happen now and lets one of it happen; false: nothing could. */
static bool happen(tr_simulation *self)
{
    int32_t n_nodes = self->n_places;
    uint32_t driven = self->driver.weight ? self->driver.weight(self->driver.context) : 0;
    uint64_t data = tr_sim_network_due(self->data) * self->landing_weight;
    uint64_t control = tr_sim_network_due(self->control) * self->landing_weight,
             all = data + control + driven;
    bool landing_first = self->options.duration_ns && all > 0;
    for (int32_t i = 0; i < n_nodes && !landing_first; i++) all += weight_of(self, i) + timer_is_due(self, i);
    if (all == 0) return false;
    uint64_t chosen = tr__simulation_draw(self, all);
    if (chosen < data) {
        land(self, self->data, EVENT_DATA);
        return true;
    }
    if ((chosen -= data) < control) {
        land(self, self->control, EVENT_CONTROL);
        return true;
    }
    if ((chosen -= control) < driven) {
        note(self, EVENT_DRIVER, chosen);
        self->driver.happen(self->driver.context, (uint32_t)chosen);
        return true;
    }
    chosen -= driven;
    for (int32_t i = 0; i < n_nodes; i++) {
        uint64_t weight = weight_of(self, i);
        if (chosen < weight) {
            activate(self, i);
            return true;
        }
        chosen -= weight;
        if (timer_is_due(self, i) && chosen-- == 0) {
            note(self, EVENT_TIMER, (uint64_t)i);
            tr_node_progress(self->nodes[i]);
            return true;
        }
    }
    TR_ASSERT(false && "a choice among what is there");
    return false;
}

/* To the next frame, timer or end of work; false: there is none. After the end of the job timers count no more. */
static bool wait(tr_simulation *self)
{
    uint64_t next = tr_sim_network_next_ns(self->data), control = tr_sim_network_next_ns(self->control);
    if (control < next) next = control;
    uint64_t driven = self->driver.next_ns ? self->driver.next_ns(self->driver.context) : UINT64_MAX;
    if (driven < next) next = driven;
    for (int32_t i = 0; !self->finished && i < self->n_places; i++) {
        if (!self->nodes[i] || self->frozen[i]) continue;
        uint64_t timer = tr_node_next_timer_ns(self->nodes[i]);
        if (timer < next) next = timer;
    }
    for (int32_t i = 0; i < self->n_places; i++)
        if (self->nodes[i] && !self->frozen[i] && runnable(self, i) && self->busy_until_ns[i] < next)
            next = self->busy_until_ns[i];
    if (next == UINT64_MAX) return false;
    self->now_ns = next;
    return true;
}

/* A node that ends by itself ends the job, as its process would. */
static void look_at_nodes(tr_simulation *self)
{
    for (int32_t i = 0; i < self->n_places && !self->failed && !self->broken; i++)
        if (self->nodes[i]) self->failed = tr_node_failure(self->nodes[i], &self->error) != TR_OK;
}

bool tr__simulation_go_on(tr_simulation *self)
{
    bool happened = happen(self);
    look_at_nodes(self);
    if (self->failed) return false;
    if (!happened && self->starved && !tr_sim_network_flying(self->data) &&
        !tr_sim_network_flying(self->control)) {
        self->starved = 0; /* all others wait, perhaps for it */
        return true;
    }
    if (!happened) return wait(self);
    tr__audit(self);
    return true;
}

tr_status tr_simulation_run(tr_simulation *self, tr_error *err)
{
    char text[TR_ERROR_SIZE / 2];
    while (!self->failed && !self->broken && self->counters.n_events < self->options.max_events &&
           tr__simulation_go_on(self)) {
    }
    if (self->failed || self->broken) {
        if (err) *err = self->error;
        return self->error.status;
    }
    bool livelock = self->counters.n_events >= self->options.max_events;
    if (self->finished && !livelock) return TR_OK;
    tr__audit_describe(self, text, sizeof text);
    return tr_fail(err, TR_ETIMEDOUT, "%s after %" PRIu64 " events%s", livelock ? "no rest" : "a deadlock",
                   self->counters.n_events, text);
}
