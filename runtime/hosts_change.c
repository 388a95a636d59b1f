/* runtime/hosts_change.c - another layout of a job on several hosts, and hosts that come and go in good order. Both are a change
 * (change.h), whose next topology may be the one that is: who runs which worker is decided anew, the agents hand over what is
 * missing where, and when all of them have said that their part of it is there, the epoch begins. Until then nothing has
 * changed, so whoever dies on the way only takes it back.
 * When it is time is not known here: the job's owner is asked (tr_job_changes.on_hosts), and comes with a change when all hold one
 * state. Where it cannot, it is asked again after a while.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/hosts_internal.h"

#include "base/log.h"
#include "base/memory.h"

#include <stdio.h>
#include <string.h>

enum { LINE_BYTES = TR__HOST_LINE_BYTES, LEAVE_GRACE_MS = 500 };

bool tr__hosts_has_work(const tr_hosts *self, int32_t m)
{
    for (int32_t node = 1; node < self->head->topology->n_nodes; node++)
        if (self->home[node] == m) return true;
    return false;
}

/* ---- those who come and go ---- */

void tr__hosts_consider(tr_hosts *self)
{
    const tr_job_changes *changes = &self->head->options->changes;
    bool spare = false, leaves = false;
    for (int32_t m = 1; m < self->n_members; m++) {
        if (!tr__hosts_is_here(self, m)) continue;
        spare = spare || (self->members[m].host < 0 && tr__hosts_stays(self, m));
        leaves = leaves || (self->members[m].leaving && tr__hosts_has_work(self, m));
    }
    self->asked_ns = 0;
    if (self->head->phase != TR_HEAD_RUNNING || self->head->signals > 0) return;
    if (!leaves && !(spare && tr__hosts_missing(self) > 0)) return;
    self->asked_ns = tr_node_now_ns(self->head->node);
    if (changes->max_nodes && changes->on_hosts) changes->on_hosts(self->head->options->context, self->head);
}

/* Is it to have work or copies by the change that is prepared? */
bool tr__hosts_has_part(const tr_hosts *self, int32_t m)
{
    const tr_change *change = self->head->change;
    bool has = false;
    for (int32_t node = 1; change && node < change->topology->n_nodes; node++)
        has = has || self->next_home[node] == m;
    for (size_t i = 0; change && i < change->topology->n_actors; i++) has = has || self->next_copy[i] == m;
    return has;
}

static void let_go(tr_hosts *self, int32_t m)
{
    const tr_control_note stop = {.grace_ms = LEAVE_GRACE_MS};
    char text[LINE_BYTES], line[LINE_BYTES + 32];
    tr__hosts_describe(self, m, text);
    snprintf(line, sizeof line, "%s has left", text);
    tr_control_send_note(self->head->node, tr__hosts_first_agent(self) + m, TR_CONTROL_STOP, &stop);
    self->members[m].present = false;
    self->members[m].host = -1;
    tr_head_tell(self->head, TR_JOB_HOST_LEFT, -1, 0, line);
    if (tr__hosts_has_part(self, m))
        tr__hosts_lost_in_change(self, line); /* which would be awaited for ever */
}

/* Copies that it keeps are made anew elsewhere: the next homes name nobody who leaves. */
void tr__hosts_let_go(tr_hosts *self)
{
    bool any = false;
    for (int32_t m = 1; m < self->n_members; m++) {
        if (!self->members[m].leaving || !tr__hosts_is_here(self, m) || tr__hosts_has_work(self, m)) continue;
        let_go(self, m);
        any = true;
    }
    if (any && self->head->phase == TR_HEAD_RUNNING) tr__hosts_tell_homes(self);
}

void tr__hosts_wants_to_leave(tr_hosts *self, int32_t m)
{
    char text[LINE_BYTES], line[LINE_BYTES + 96];
    if (m < 1 || self->members[m].leaving || self->head->phase == TR_HEAD_ENDING) return;
    self->members[m].leaving = true;
    tr__hosts_describe(self, m, text);
    snprintf(line, sizeof line, "%s is asked to leave%s", text,
             tr__hosts_has_work(self, m) ? ": others take over what runs there" : "");
    tr_head_tell(self->head, TR_JOB_HOST_LEAVING, -1, 0, line);
    if (self->all_came && self->head->phase != TR_HEAD_RUNNING) return; /* when all are ready it is seen to */
    tr__hosts_let_go(self);
    tr__hosts_consider(self);
}

/* ---- a change ---- */

/* Who plays which host: those that have one keep it, spares take what is missing. */
static tr_status cast(tr_hosts *self, int32_t count, tr_error *err)
{
    int32_t n_here = 0, lacking = 0;
    for (int32_t m = 0; m < self->n_members; m++) {
        bool keeps = tr__hosts_stays(self, m) && self->members[m].host < count;
        self->next_host[m] = keeps ? self->members[m].host : -1;
        n_here += tr__hosts_stays(self, m);
    }
    for (int32_t host = 1; host < count; host++) {
        int32_t spare = 0;
        bool has = false;
        for (int32_t m = 1; m < self->n_members; m++) {
            has = has || self->next_host[m] == host;
            if (!spare && tr__hosts_stays(self, m) && self->next_host[m] < 0) spare = m;
        }
        if (!has && spare) self->next_host[spare] = host;
        lacking += !has && !spare;
    }
    if (!lacking || count <= self->count) return TR_OK; /* the others do the work of one that was lost */
    return tr_fail(err, TR_EINVAL, "%d hosts are here, and %d are wanted; let more join first (%s)", n_here,
                   count, "troupe worker --join");
}

static int32_t next_member_of(const tr_hosts *self, int32_t host)
{
    for (int32_t m = 0; m < self->n_members; m++)
        if (self->next_host[m] == host && tr__hosts_stays(self, m)) return m;
    return -1;
}

/* For a worker whose host is missing: where it is, else who has the fewest by now. */
static int32_t fallback(const tr_hosts *self, int32_t node)
{
    int32_t best = 0, fewest = INT32_MAX;
    if (node < self->head->topology->n_nodes && tr__hosts_stays(self, self->home[node]))
        return self->home[node];
    for (int32_t m = 0; m < self->n_members; m++) {
        int32_t n = 0;
        if (!tr__hosts_stays(self, m)) continue;
        for (int32_t k = 1; k < node; k++) n += self->next_home[k] == m;
        if (n >= fewest) continue;
        fewest = n;
        best = m;
    }
    return best;
}

static void find_next_homes(tr_hosts *self, const tr_change *change)
{
    self->next_home[TR_NODE_HEAD] = -1;
    for (int32_t node = 1; node < change->topology->n_nodes; node++) {
        int32_t m = next_member_of(self, change->host_of[node]);
        self->next_home[node] = m >= 0 ? m : fallback(self, node);
    }
}

/* As the copies that are made while a job runs (hosts.c): of what no other host has, by the next one. */
static tr_status find_next_copies(tr_hosts *self, const tr_change *change, tr_error *err)
{
    const tr_topology *topology = change->topology;
    tr_free(self->next_copy);
    self->next_copy = tr_alloc_zero(topology->n_actors + 1, sizeof *self->next_copy);
    if (!self->next_copy) return tr_fail(err, TR_ENOMEM, "no memory for another layout");
    for (size_t i = 0; i < topology->n_actors; i++) {
        int32_t home = self->next_home[topology->actors[i].node];
        bool wanted = topology->actors[i].state_bytes && self->options->copy;
        for (size_t k = 0; wanted && change->equals && change->equals[i] && k < topology->n_actors; k++)
            if (change->equals[k] == change->equals[i] && self->next_home[topology->actors[k].node] != home)
                wanted = false;
        self->next_copy[i] = -1;
        for (int32_t k = 1; wanted && self->next_copy[i] < 0 && k < self->n_members; k++)
            if (tr__hosts_stays(self, (home + k) % self->n_members))
                self->next_copy[i] = (home + k) % self->n_members;
    }
    return TR_OK;
}

static int32_t home_of(const tr_hosts *self, tr_actor_id id)
{
    return self->home[tr_topology_actor(self->head->topology, id)->node];
}

/* As its home, or as a copy of the generation. */
static bool has(const tr_hosts *self, int32_t member, tr_actor_id id, uint64_t generation)
{
    return home_of(self, id) == member ||
           (self->copy[id - 1] == member && self->copied[id - 1] >= generation);
}

/* At the member the state of `from` may be there under another name. */
static tr_actor_id nearest(const tr_hosts *self, tr_actor_id from, int32_t member, uint64_t generation)
{
    uint32_t class = self->equals ? self->equals[from - 1] : 0;
    if (!class || has(self, member, from, generation)) return from;
    for (size_t i = 0; i < self->head->topology->n_actors; i++)
        if (self->equals[i] == class && home_of(self, i + 1) == member) return i + 1;
    return from;
}

/* What the member needs and has not. */
static void fetch(const tr_hosts *self, tr_change *order, tr_state_fetch *fetches, tr_actor_id actor,
                  int32_t member)
{
    if (member < 0 || has(self, member, actor, order->generation)) return;
    for (size_t i = 0; i < order->n_fetches; i++)
        if (fetches[i].actor == actor && fetches[i].to == member) return;
    fetches[order->n_fetches++] =
        (tr_state_fetch){.actor = actor, .from = home_of(self, actor), .to = member};
}

/* Moves with sources that are near, and what has to be fetched for them; room for two a move. */
static tr_status plan_moves(const tr_hosts *self, tr_change *order, tr_state_move *moves,
                            tr_state_fetch *fetches, tr_error *err)
{
    order->fetches = fetches;
    order->moves = moves;
    for (size_t i = 0; i < order->n_moves; i++) {
        const tr_actor_spec *to = tr_topology_actor(order->topology, moves[i].to);
        if (!tr_topology_actor(self->head->topology, moves[i].from) || !to)
            return tr_fail(err, TR_EINVAL, "a change moves state of an actor that there is not");
        moves[i].from = nearest(self, moves[i].from, self->next_home[to->node], order->generation);
        fetch(self, order, fetches, moves[i].from, self->next_home[to->node]);
        fetch(self, order, fetches, moves[i].from, self->next_copy[to->id - 1]);
    }
    return TR_OK;
}

static void tell_all(tr_hosts *self, uint32_t topic, const void *bytes, size_t size_bytes)
{
    for (int32_t m = 0; m < self->n_members; m++)
        if (tr__hosts_is_here(self, m))
            tr_node_send_system(self->head->node, tr__hosts_first_agent(self) + m, topic, bytes,
                                (uint32_t)size_bytes);
}

tr_status tr_hosts_prepare(tr_hosts *self, const tr_change *change, tr_error *err)
{
    tr_change order = *change;
    void *bytes = NULL;
    size_t size_bytes = 0;
    if (!change->host_of || change->n_hosts < 1)
        return tr_fail(err, TR_EINVAL, "a change that does not say which worker is on which host");
    tr_status status = cast(self, change->n_hosts, err);
    if (status != TR_OK) return status;
    find_next_homes(self, change);
    status = find_next_copies(self, change, err);
    if (status != TR_OK) return status;
    order.home = self->next_home;
    order.copy = self->next_copy;
    order.n_fetches = 0;
    tr_state_move *moves = tr_alloc((change->n_moves + 1) * sizeof *moves);
    tr_state_fetch *fetches = tr_alloc((2 * change->n_moves + 1) * sizeof *fetches);
    if (!moves || !fetches) status = tr_fail(err, TR_ENOMEM, "no memory for another layout");
    if (status == TR_OK && change->n_moves) memcpy(moves, change->moves, change->n_moves * sizeof *moves);
    if (status == TR_OK) status = plan_moves(self, &order, moves, fetches, err);
    uint32_t epoch = self->head->epoch;
    if (status == TR_OK) status = tr_change_encode(&order, epoch, epoch + 1, &bytes, &size_bytes, err);
    if (status == TR_OK && size_bytes > UINT32_MAX)
        status = tr_fail(err, TR_EINVAL, "a layout of %d workers is too large to tell of",
                         change->topology->n_nodes - 1);
    if (status == TR_OK) {
        for (int32_t m = 0; m < self->n_members; m++) self->members[m].prepared = false;
        tell_all(self, TR_CONTROL_PREPARE, bytes, size_bytes);
    }
    tr_free(bytes);
    tr_free(moves);
    tr_free(fetches);
    return status;
}

/* Of those that are here by then: who comes later gets no work by it. */
bool tr_hosts_prepared(tr_hosts *self, int32_t peer)
{
    self->members[peer - tr__hosts_first_agent(self)].prepared = true;
    for (int32_t node = 1; node < self->head->change->topology->n_nodes; node++)
        if (!self->members[self->next_home[node]].prepared) return false;
    for (size_t i = 0; i < self->head->change->topology->n_actors; i++)
        if (self->next_copy[i] >= 0 && !self->members[self->next_copy[i]].prepared) return false;
    return true;
}

void tr_hosts_forget_change(tr_hosts *self)
{
    tell_all(self, TR_CONTROL_FORGET, NULL, 0);
}

void tr__hosts_lost_in_change(tr_hosts *self, const char *text)
{
    tr_error err;
    if (!self->head->change) return;
    tr_fail(&err, TR_ECLOSED, "%s", text);
    tr_head_refuse_change(self->head, &err);
}

/* The actors' states are those of another topology; all are where their homes are. */
static tr_status resize(tr_hosts *self, const tr_topology *topology, tr_error *err)
{
    size_t n = topology->n_actors + 1, topology_bytes = 0;
    bool *valid = tr_alloc_zero(n, sizeof *valid);
    int32_t *copy = tr_alloc_zero(n, sizeof *copy);
    uint64_t *copied = tr_alloc_zero(n, sizeof *copied);
    void *encoded = NULL;
    tr_status status = valid && copy && copied ? TR_OK : tr_fail(err, TR_ENOMEM, "no memory for hosts");
    if (status == TR_OK) status = tr_topology_encode(topology, &encoded, &topology_bytes, err);
    if (status != TR_OK) {
        tr_free(valid);
        tr_free(copy);
        tr_free(copied);
        return status;
    }
    tr_free(self->valid);
    tr_free(self->copy);
    tr_free(self->copied);
    tr_free(self->launch.topology);
    self->valid = valid;
    self->copy = copy;
    self->copied = copied;
    self->launch.topology = encoded;
    self->launch.topology_bytes = topology_bytes;
    for (size_t i = 0; i < topology->n_actors; i++) {
        self->valid[i] = topology->actors[i].state_bytes > 0;
        self->copy[i] = -1;
    }
    tr_plan_hash(encoded, topology_bytes, self->mine.plan);
    return TR_OK;
}

/* The head's topology is still the one before. */
tr_status tr_hosts_change(tr_hosts *self, const tr_change *change, tr_error *err)
{
    int32_t n_before = self->head->topology->n_nodes, n_after = change->topology->n_nodes;
    tr_status status = resize(self, change->topology, err);
    if (status != TR_OK) return status;
    for (int32_t node = 1; node < n_before; node++)
        if (node >= n_after || self->next_home[node] != self->home[node])
            tr__hosts_disconnect_worker(self, node);
    for (int32_t node = 1; node < n_after; node++) self->home[node] = self->next_home[node];
    for (int32_t node = n_after; node < n_before; node++) self->home[node] = -1;
    for (int32_t m = 0; m < self->n_members; m++)
        if (tr__hosts_is_here(self, m) && !self->members[m].leaving)
            self->members[m].host = self->next_host[m];
    for (size_t i = 0; i < change->topology->n_actors; i++) { /* dealt there as well */
        self->copy[i] = tr__hosts_is_here(self, self->next_copy[i]) ? self->next_copy[i] : -1;
        self->copied[i] = self->copy[i] >= 0 ? change->generation : 0;
    }
    self->count = change->n_hosts;
    self->host_of = change->host_of;
    self->equals = change->equals;
    return TR_OK;
}
