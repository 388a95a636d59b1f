/* Supervision as Erlang/OTP documents it (STDLIB, module supervisor), told by the order in which children begin and end:
 * in simulation under many seeds, and on real nodes.
 * SPDX-License-Identifier: Apache-2.0 */
#include "simulate.h"

#include "base/clock.h"
#include "runtime/simulation.h"
#include "runtime/supervisor.h"

#include <pthread.h>

#ifdef TROUPE_SANITIZED /* real nodes need longer for the same */
enum { SLOWER = 6 };
#else
enum { SLOWER = 1 };
#endif

enum {
    MAX_CHILDREN = 5,
    MAX_ACTIONS = 6,
    TOPIC_ACT = 1,
    PAUSE_MS = 100 * SLOWER,
    PERIOD_MS = 250 * SLOWER, /* where a script waits for its end; otherwise its deeds come within it, */
    LONG_PERIOD_MS = 600000,  /* on a machine that has time for them now and then, too */
    MOST_PAUSES = 300,        /* for what a deed brings about */
    MAX_EVENTS = 200000
};

/* ---- the acts ---- */

typedef enum deed {
    NOTHING,
    FAIL,
    EXIT,
    SHUT_DOWN,
    WAIT,
    CRIPPLE /* fails, and its next two beginnings too */
} deed;

/* Children A, B, ... under "inner", where it has any, the rest under "top", behind inner. */
typedef struct act {
    const char *name; /* the promise */
    tr_strategy strategy, inner_strategy;
    uint32_t intensity, inner_intensity;
    const char *kinds; /* p, t (transient), x (temporary), by child */
    uint32_t n_inner;
    struct {
        deed what;
        char who;
    } script[MAX_ACTIONS];
    /* +A: begins, -A: ends, !: the topmost supervisor is gone; a space: what follows is of the next deed. */
    const char *expected;
} act;

static const act acts[] = {
    {.name = "one_for_one_restarts_the_one",
     .strategy = TR_ONE_FOR_ONE,
     .intensity = 3,
     .kinds = "ppp",
     .script = {{FAIL, 'B'}},
     .expected = "-B+B"},
    {.name = "rest_for_one_restarts_those_after_it",
     .strategy = TR_REST_FOR_ONE,
     .intensity = 3,
     .kinds = "pppp",
     .script = {{FAIL, 'B'}},
     .expected = "-B-D-C+B+C+D"},
    {.name = "one_for_all_restarts_all_in_order",
     .strategy = TR_ONE_FOR_ALL,
     .intensity = 3,
     .kinds = "ppp",
     .script = {{FAIL, 'B'}},
     .expected = "-B-C-A+A+B+C"},
    {.name = "permanent_is_restarted_after_any_end",
     .strategy = TR_ONE_FOR_ONE,
     .intensity = 9,
     .kinds = "ppp",
     .script = {{EXIT, 'A'}, {SHUT_DOWN, 'B'}},
     .expected = "-A+A -B+B"},
    {.name = "transient_is_restarted_after_a_failure_only",
     .strategy = TR_ONE_FOR_ONE,
     .intensity = 9,
     .kinds = "ttt",
     .script = {{EXIT, 'A'}, {SHUT_DOWN, 'B'}, {FAIL, 'C'}},
     .expected = "-A -B -C+C"},
    {.name = "temporary_is_never_restarted",
     .strategy = TR_ONE_FOR_ONE,
     .intensity = 0,
     .kinds = "xxp",
     .script = {{FAIL, 'A'}, {EXIT, 'B'}},
     .expected = "-A -B"},
    {.name = "temporary_that_a_sibling_ended_stays_ended",
     .strategy = TR_ONE_FOR_ALL,
     .intensity = 3,
     .kinds = "pxp",
     .script = {{FAIL, 'A'}, {FAIL, 'C'}},
     .expected = "-A-C-B+A+C -C-A+A+C"},
    {.name = "one_for_all_starts_a_finished_transient_too",
     .strategy = TR_ONE_FOR_ALL,
     .intensity = 3,
     .kinds = "tpp",
     .script = {{EXIT, 'A'}, {FAIL, 'B'}},
     .expected = "-A -B-C+A+B+C"},
    {.name = "too_many_restarts_end_all_in_reverse",
     .strategy = TR_ONE_FOR_ONE,
     .intensity = 1,
     .kinds = "ppp",
     .script = {{FAIL, 'B'}, {FAIL, 'A'}},
     .expected = "-B+B -A-C-B!"},
    {.name = "intensity_0_allows_no_restart",
     .strategy = TR_ONE_FOR_ONE,
     .intensity = 0,
     .kinds = "pp",
     .script = {{FAIL, 'B'}},
     .expected = "-B-A!"},
    {.name = "restarts_outside_the_period_do_not_count",
     .strategy = TR_ONE_FOR_ONE,
     .intensity = 1,
     .kinds = "pp",
     .script = {{FAIL, 'B'}, {WAIT, 0}, {WAIT, 0}, {FAIL, 'B'}},
     .expected = "-B+B -B+B"},
    {.name = "a_start_that_fails_counts_as_a_restart",
     .strategy = TR_ONE_FOR_ONE,
     .intensity = 3,
     .kinds = "pp",
     .script = {{CRIPPLE, 'B'}},
     .expected = "-B+B"},
    {.name = "starts_that_fail_too_often_end_all",
     .strategy = TR_ONE_FOR_ONE,
     .intensity = 2,
     .kinds = "pp",
     .script = {{CRIPPLE, 'B'}},
     .expected = "-B-A!"},
    {.name = "a_supervisor_that_gives_up_is_restarted_by_its_own",
     .strategy = TR_ONE_FOR_ONE,
     .intensity = 1,
     .inner_strategy = TR_ONE_FOR_ONE,
     .inner_intensity = 1,
     .kinds = "ppp",
     .n_inner = 2,
     .script = {{FAIL, 'A'}, {FAIL, 'B'}},
     .expected = "-A+A -B-A+A+B"},
    {.name = "escalation_ends_at_the_top",
     .strategy = TR_ONE_FOR_ONE,
     .intensity = 0,
     .inner_strategy = TR_ONE_FOR_ONE,
     .inner_intensity = 0,
     .kinds = "ppp",
     .n_inner = 2,
     .script = {{FAIL, 'A'}},
     .expected = "-A-B-C!"},
    {.name = "a_supervisor_that_cannot_begin_is_its_own_supervisors_to_restart",
     .strategy = TR_ONE_FOR_ONE,
     .intensity = 1,
     .inner_strategy = TR_ONE_FOR_ONE,
     .inner_intensity = 1,
     .kinds = "pp",
     .n_inner = 1,
     .script = {{CRIPPLE, 'A'}},
     .expected = "-A-B!"},
    {.name = "a_supervisor_ends_its_children_first",
     .strategy = TR_ONE_FOR_ALL,
     .intensity = 1,
     .inner_strategy = TR_ONE_FOR_ONE,
     .inner_intensity = 1,
     .kinds = "ppp",
     .n_inner = 2,
     .script = {{FAIL, 'C'}},
     .expected = "-C-B-A+A+B+C"},
};

/* ---- children and the one who tells them what to do ---- */

typedef struct stage {
    const act *act;
    tr_topology topology;
    pthread_mutex_t lock; /* of log */
    char log[256];
    int n_crippled;
    int at;       /* in the script */
    int n_pauses; /* since the last deed */
    tr_node *nodes[2];
    int n_nodes;
    bool loses_a_node; /* the second, instead of the script */
} stage;

static void note(stage *self, char what, char who)
{
    pthread_mutex_lock(&self->lock);
    size_t n = strlen(self->log);
    if (n + 3 < sizeof self->log) snprintf(self->log + n, sizeof self->log - n, "%c%.1s", what, &who);
    pthread_mutex_unlock(&self->lock);
}

static tr_status child_init(tr_actor *actor, void *context, const void *config, size_t config_bytes,
                            void **state, tr_error *err)
{
    (void)config, (void)config_bytes;
    stage *self = context;
    if ((tr_actor_incarnation(actor) & 0xffff) > 0) {
        if (self->n_crippled && tr_actor_name(actor)[0] == self->act->script[0].who && self->n_crippled--)
            return tr_fail(err, TR_EIO, "crippled");
        note(self, '+', tr_actor_name(actor)[0]);
    }
    *state = self;
    return TR_OK;
}

static void child_receive(tr_actor *actor, void *state, tr_message **message)
{
    stage *self = state;
    tr_error error;
    switch ((deed)(*message)->frame.step) {
    case CRIPPLE: self->n_crippled = 2; /* fall through */
    case FAIL:
        tr_fail(&error, TR_EIO, "as the script says");
        tr_actor_fail(actor, &error);
        break;
    case EXIT: tr_actor_exit(actor); break;
    case SHUT_DOWN: tr_actor_shutdown(actor, NULL); break;
    default: break;
    }
}

static void child_stop(tr_actor *actor, void *state)
{
    if (state) note(state, '-', tr_actor_name(actor)[0]);
}

static const tr_behavior child = {
    .name = "child", .init = child_init, .receive = child_receive, .stop = child_stop};

static tr_status prompter_init(tr_actor *actor, void *context, const void *config, size_t config_bytes,
                               void **state, tr_error *err)
{
    (void)actor, (void)config, (void)config_bytes, (void)err;
    *state = context;
    return TR_OK;
}

static void prompter_start(tr_actor *actor, void *state)
{
    (void)state;
    tr_actor_timer(actor, PAUSE_MS, 0);
}

/* Has all come that the deeds so far bring about? */
static bool has_come(stage *self)
{
    pthread_mutex_lock(&self->lock);
    size_t seen = strlen(self->log), wanted = 0;
    for (const char *at = self->log; *at; at++)
        if (*at == ' ') wanted += strcspn(self->act->expected + wanted, " ") + 1;
    pthread_mutex_unlock(&self->lock);
    if (wanted > strlen(self->act->expected)) return true; /* too much: to be told of */
    return seen >= wanted + strcspn(self->act->expected + wanted, " ");
}

/* Real nodes may have no processor for longer than any pause. */
static bool waits_more(tr_actor *actor, stage *self)
{
    if (self->at == 0 || has_come(self) || ++self->n_pauses > MOST_PAUSES) return false;
    tr_actor_timer(actor, PAUSE_MS, 0);
    return true;
}

static void prompter_receive(tr_actor *actor, void *state, tr_message **message)
{
    (void)message;
    stage *self = state;
    if (waits_more(actor, self)) return;
    if (self->loses_a_node && !self->at++) {
        tr_node_stop(self->nodes[1]);
        tr_actor_timer(actor, 4 * PAUSE_MS, 0);
        return;
    }
    if (self->loses_a_node || self->at == MAX_ACTIONS || self->act->script[self->at].what == NOTHING) {
        tr_actor_finish_job(actor);
        return;
    }
    deed what = self->act->script[self->at].what;
    if (what != WAIT) {
        if (self->at) note(self, ' ', '\0');
        self->n_pauses = 0;
        tr_actor_send(actor, (tr_actor_id)self->act->script[self->at].who - 'A' + 1, TOPIC_ACT, what, NULL,
                      0);
    }
    self->at++;
    tr_actor_timer(actor, what == WAIT ? PERIOD_MS : PAUSE_MS, 0);
}

static const tr_behavior prompter = {
    .name = "prompter", .init = prompter_init, .start = prompter_start, .receive = prompter_receive};

/* ---- the set ---- */

static tr_restart restart_of(char kind)
{
    return kind == 'p' ? TR_PERMANENT : kind == 't' ? TR_TRANSIENT : TR_TEMPORARY;
}

#define MUST(call)                                                                                           \
    do {                                                                                                     \
        tr_error error_, *err = &error_;                                                                     \
        if ((call) != TR_OK) fprintf(stderr, "%s\n", error_.message), abort();                               \
    } while (0)

static void build(stage *self, const act *what, int n_nodes)
{
    memset(self, 0, sizeof *self);
    self->act = what;
    self->n_nodes = n_nodes;
    pthread_mutex_init(&self->lock, NULL);
    tr_topology_init(&self->topology, n_nodes);
    tr_child_spec inner[MAX_CHILDREN], outer[MAX_CHILDREN + 1];
    uint32_t n_inner = 0, n_outer = 0, n = (uint32_t)strlen(what->kinds), period_ms = LONG_PERIOD_MS;
    for (int i = 0; i < MAX_ACTIONS; i++)
        if (what->script[i].what == WAIT) period_ms = PERIOD_MS;
    for (uint32_t i = 0; i < n; i++) {
        const char name[2] = {(char)('A' + i), '\0'};
        tr_child_spec one = {.restart = restart_of(what->kinds[i])};
        MUST(tr_topology_add_actor(&self->topology, name, "child", (int32_t)i % n_nodes, NULL, 0, 0, &one.id,
                                   err));
        if (i < what->n_inner)
            inner[n_inner++] = one;
        else
            outer[1 + n_outer++] = one;
    }
    tr_actor_id id;
    tr_child_spec *all = outer + 1;
    if (n_inner) {
        tr_supervisor_spec spec = {what->inner_strategy, what->inner_intensity, period_ms, inner, n_inner};
        MUST(tr_topology_add_supervisor(&self->topology, "inner", n_nodes - 1, &spec, &outer[0].id, err));
        outer[0].restart = TR_PERMANENT;
        all = outer;
        n_outer++;
    }
    tr_supervisor_spec spec = {what->strategy, what->intensity, period_ms, all, n_outer};
    MUST(tr_topology_add_supervisor(&self->topology, "top", 0, &spec, &id, err));
    MUST(tr_topology_add_actor(&self->topology, "prompter", "prompter", 0, NULL, 0, 0, &id, err));
}

static void on_actor_end(void *context, tr_actor_id who, const tr_error *error)
{
    (void)who;
    if (error) note(context, '!', '\0');
}

static bool is_as_expected(const stage *self, const char *log, const char *where)
{
    if (strcmp(log, self->act->expected) == 0) return true;
    fprintf(stderr, "%s %s: %s and not %s\n", self->act->name, where, log, self->act->expected);
    return false;
}

static bool play_simulated(const act *what, uint64_t seed, FILE *trace)
{
    stage self;
    build(&self, what, 1 + (int)(seed % 3));
    const tr_actor_kind kinds[] = {
        {"child", &child, &self}, {"prompter", &prompter, &self}, TR_SUPERVISOR_KIND};
    const tr_registry registry = {kinds, 3};
    tr_simulation_options options = {.seed = seed,
                                     .topology = &self.topology,
                                     .registry = &registry,
                                     .activation_max_ns = 1000,
                                     .max_events = MAX_EVENTS,
                                     .trace = trace,
                                     .context = &self,
                                     .on_actor_end = on_actor_end};
    tr_simulation_faults(seed, &options.data, &options.control);
    tr_simulation *simulation;
    tr_error err;
    char log[sizeof self.log] = "";
    tr_status status = tr_simulation_new(&simulation, &options, &err);
    if (status == TR_OK) {
        status = tr_simulation_run(simulation, &err);
        memcpy(log, self.log, sizeof log); /* to destroy ends the children that live */
        tr_simulation_destroy(&simulation);
    }
    if (status != TR_OK) fprintf(stderr, "%s: %s\n", what->name, err.message);
    bool good = status == TR_OK && is_as_expected(&self, log, "in simulation");
    tr_topology_release(&self.topology);
    return good;
}

static bool supervisors_do_what_otp_documents(uint64_t seed, FILE *trace)
{
    size_t n = sizeof acts / sizeof *acts;
    return play_simulated(&acts[seed % n], seed / n, trace);
}

/* ---- on real nodes ---- */

static void on_job_end(void *context, const tr_error *error)
{
    (void)error;
    stage *self = context;
    for (int i = 0; i < (self->loses_a_node ? 1 : self->n_nodes); i++) tr_node_stop(self->nodes[i]);
}

static void *run_node(void *node)
{
    tr_node_run(node, 0, NULL);
    return NULL;
}

/* A node that stops before the others is gone. */
static void *run_second(void *context)
{
    stage *self = context;
    run_node(self->nodes[1]);
    if (self->loses_a_node) tr_node_destroy(&self->nodes[1]);
    return NULL;
}

static bool play_on_nodes(const act *what, int n_nodes, bool lose_one)
{
    stage self;
    pthread_t thread;
    char log[sizeof self.log];
    build(&self, what, n_nodes);
    self.loses_a_node = lose_one;
    const tr_actor_kind kinds[] = {
        {"child", &child, &self}, {"prompter", &prompter, &self}, TR_SUPERVISOR_KIND};
    const tr_registry registry = {kinds, 3};
    for (int i = 0; i < n_nodes; i++) {
        tr_node_options options = {.node = i,
                                   .incarnation = 1,
                                   .epoch = 1,
                                   .n_threads = 2,
                                   .data_transport = n_nodes > 1 ? "inproc" : NULL,
                                   .control_transport = n_nodes > 1 ? "inproc" : NULL,
                                   .registry = &registry,
                                   .context = &self,
                                   .on_actor_end = on_actor_end,
                                   .on_job_end = on_job_end};
        MUST(tr_node_new(&self.nodes[i], &options, err));
    }
    for (int i = 0; i < n_nodes && n_nodes > 1; i++)
        MUST(tr_node_connect(self.nodes[i], 1 - i, tr_node_control_address(self.nodes[1 - i]),
                             tr_node_data_address(self.nodes[1 - i]), err));
    for (int i = 0; i < n_nodes; i++) MUST(tr_node_load(self.nodes[i], &self.topology, NULL, err));
    for (int i = 0; i < n_nodes; i++) tr_node_start_actors(self.nodes[i]);
    if (n_nodes > 1) pthread_create(&thread, NULL, run_second, &self);
    run_node(self.nodes[0]);
    if (n_nodes > 1) pthread_join(thread, NULL);
    memcpy(log, self.log, sizeof log);
    for (int i = 0; i < n_nodes; i++) tr_node_destroy(&self.nodes[i]);
    tr_topology_release(&self.topology);
    return is_as_expected(&self, log, n_nodes > 1 ? "on two nodes" : "on a node");
}

static bool supervisors_do_so_on_real_nodes(uint64_t seed, FILE *trace)
{
    (void)trace;
    size_t n = sizeof acts / sizeof *acts;
    return play_on_nodes(&acts[seed % n], 1 + (int)(seed / n % 2), false);
}

/* Of A, B, C the second is on the lost node. */
static bool a_supervisor_gives_up_when_a_childs_node_is_lost(uint64_t seed, FILE *trace)
{
    (void)seed, (void)trace;
    static const act loss = {.name = "a_supervisor_gives_up_when_a_childs_node_is_lost",
                             .strategy = TR_ONE_FOR_ONE,
                             .intensity = 5,
                             .kinds = "ppp",
                             .expected = "-B-C-A!"};
    return play_on_nodes(&loss, 2, true);
}

int main(int argc, char **argv)
{
    enum { ACTS = sizeof acts / sizeof *acts };
    static const simulate_case cases[] = {
        {"supervisors_do_what_otp_documents", 200 * ACTS, supervisors_do_what_otp_documents},
        {"a_supervisor_gives_up_when_a_childs_node_is_lost", 5,
         a_supervisor_gives_up_when_a_childs_node_is_lost},
        {"supervisors_do_so_on_real_nodes", 2 * ACTS, supervisors_do_so_on_real_nodes},
    };
    return simulate_main(cases, sizeof cases / sizeof *cases, argc, argv);
}
