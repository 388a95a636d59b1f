/* runtime/hosts.c - see hosts.h. Which state is where is kept by actor: `valid` says that the agent of its home has it, since
 * the last time that all workers were ready; a copy at another member counts from the first generation that it has whole.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/hosts_internal.h"

#include "base/log.h"
#include "base/memory.h"
#include "base/pack.h"

#include <stdio.h>
#include <string.h>

enum {
    ASK_AGAIN_MS = 5000, /* for a change that could not be made */
    LINE_BYTES = TR__HOST_LINE_BYTES
};

typedef tr__member member;

static int32_t n_nodes(const tr_hosts *self)
{
    return self->head->topology->n_nodes;
}

static const tr_actor_spec *actor_at(const tr_hosts *self, size_t i)
{
    return &self->head->topology->actors[i];
}

static int32_t home_of_actor(const tr_hosts *self, size_t i)
{
    return self->home[actor_at(self, i)->node];
}

static int32_t member_of_host(const tr_hosts *self, int32_t host)
{
    for (int32_t m = 0; m < self->n_members; m++)
        if (self->members[m].present && self->members[m].host == host) return m;
    return -1;
}

void tr__hosts_describe(const tr_hosts *self, int32_t m, char text[TR__HOST_LINE_BYTES])
{
    const member *who = &self->members[m];
    if (who->host >= 0)
        snprintf(text, LINE_BYTES, "host %d ('%s' at %s)", who->host, who->name, who->address);
    else
        snprintf(text, LINE_BYTES, "the spare host '%s' at %s", who->name, who->address);
}

bool tr_hosts_is_agent(const tr_hosts *self, int32_t peer)
{
    int32_t m = peer - tr__hosts_first_agent(self);
    return m >= 0 && m < self->n_members && (m == 0 || self->members[m].present);
}

int32_t tr_hosts_agent_of(const tr_hosts *self, int32_t node)
{
    return self->home[node] < 0 ? -1 : tr__hosts_first_agent(self) + self->home[node];
}

bool tr_hosts_is_home(const tr_hosts *self, int32_t node, int32_t m)
{
    return self->home[node] == m && tr__hosts_is_here(self, m);
}

bool tr_hosts_are_awaited(const tr_hosts *self)
{
    return self->awaited_until_ns != 0;
}

uint64_t tr_hosts_came_on_ns(const tr_hosts *self)
{
    return self->settled_ns > self->came_on_ns ? self->settled_ns : self->came_on_ns;
}

/* --- homes --- */

/* Does the member have the state of actor i, and under which index? */
static bool has_state(const tr_hosts *self, int32_t m, size_t i, uint32_t *as)
{
    const uint32_t *equals = self->equals;
    if (!tr__hosts_is_here(self, m)) return false;
    *as = (uint32_t)i;
    if (self->valid[i] && home_of_actor(self, i) == m) return true;
    for (size_t k = 0; equals && equals[i] && k < self->head->topology->n_actors; k++) {
        if (equals[k] != equals[i] || !self->valid[k] || home_of_actor(self, k) != m) continue;
        *as = (uint32_t)k;
        return true;
    }
    return (self->copy[i] == m && self->copied[i] > 0) || tr__hosts_has_former(self, m, i, as);
}

static int32_t find_state(const tr_hosts *self, size_t i, uint32_t *as)
{
    int32_t home = home_of_actor(self, i);
    *as = (uint32_t)i;
    if (has_state(self, home, i, as)) return home; /* nothing has to move */
    for (int32_t m = 0; m < self->n_members; m++)
        if (has_state(self, m, i, as)) return m;
    *as = (uint32_t)i;
    return -1;
}

/* For a worker whose host is gone and not replaced: who has most of its states, and then the fewest workers. */
static int32_t best_home(const tr_hosts *self, int32_t node)
{
    int32_t best = 0, best_score = INT32_MIN;
    for (int32_t m = 0; m < self->n_members; m++) {
        if (!tr__hosts_stays(self, m)) continue;
        int32_t score = 0;
        uint32_t as;
        for (size_t i = 0; i < self->head->topology->n_actors; i++)
            if (actor_at(self, i)->node == node && actor_at(self, i)->state_bytes)
                score += has_state(self, m, i, &as) ? 1 << 16 : 0;
        for (int32_t n = 1; n < n_nodes(self); n++) score -= self->home[n] == m;
        if (score <= best_score) continue;
        best = m;
        best_score = score;
    }
    return best;
}

static void find_homes(tr_hosts *self)
{
    for (int32_t node = 1; node < n_nodes(self); node++) {
        if (tr__hosts_is_here(self, self->home[node]) || self->home[node] == 0)
            continue; /* the head's agent comes again */
        int32_t m = member_of_host(self, self->host_of[node]);
        self->home[node] = m >= 0 ? m : best_home(self, node);
    }
}

/* One that is not on a host where an equal one is: then nothing need be copied. */
static bool is_held_elsewhere(const tr_hosts *self, size_t i)
{
    const uint32_t *equals = self->equals;
    for (size_t k = 0; equals && equals[i] && k < self->head->topology->n_actors; k++)
        if (equals[k] == equals[i] && home_of_actor(self, k) != home_of_actor(self, i)) return true;
    return false;
}

static void choose_copies(tr_hosts *self)
{
    for (size_t i = 0; i < self->head->topology->n_actors; i++) {
        if (!actor_at(self, i)->state_bytes) continue;
        int32_t home = home_of_actor(self, i), before = self->copy[i], chosen = -1;
        bool wanted = self->options->copy && !is_held_elsewhere(self, i);
        if (wanted && tr__hosts_stays(self, before) && before != home) chosen = before;
        for (int32_t k = 1; wanted && chosen < 0 && k < self->n_members; k++)
            if (tr__hosts_stays(self, (home + k) % self->n_members)) chosen = (home + k) % self->n_members;
        self->copy[i] = chosen;
        if (chosen != before) self->copied[i] = 0;
    }
}

static void send_homes(tr_hosts *self)
{
    tr_error err = {0};
    size_t n_actors = self->head->topology->n_actors;
    tr_homes homes = {.epoch = self->head->epoch,
                      .layout = self->head->layout,
                      .topology = self->head->layout ? self->launch.topology : NULL,
                      .topology_bytes = self->head->layout ? self->launch.topology_bytes : 0,
                      .n_members = self->n_members,
                      .n_nodes = n_nodes(self),
                      .home = self->home,
                      .takes_former = self->takes_former};
    void *bytes = NULL;
    size_t size_bytes = 0;
    homes.addresses = tr_alloc_zero((size_t)self->n_members, sizeof *homes.addresses);
    homes.states = tr_alloc_zero(n_actors, sizeof *homes.states);
    tr_status status = homes.addresses && homes.states
                           ? TR_OK
                           : tr_fail(&err, TR_ENOMEM, "no memory for the homes of %zu actors", n_actors);
    for (int32_t m = 0; status == TR_OK && m < self->n_members; m++)
        if (self->members[m].present) memcpy(homes.addresses[m], self->members[m].address, TR_BIND_CHARS);
    for (size_t i = 0; status == TR_OK && i < n_actors; i++) {
        if (!actor_at(self, i)->state_bytes) continue;
        tr_state_home *state = &homes.states[homes.n_states++];
        *state = (tr_state_home){.actor = (uint32_t)i, .copy = -1};
        state->source = find_state(self, i, &state->source_actor); /* by the copies that there were */
    }
    if (status == TR_OK) choose_copies(self);
    for (uint32_t k = 0; k < homes.n_states; k++) homes.states[k].copy = self->copy[homes.states[k].actor];
    if (status == TR_OK) status = tr_homes_encode(&homes, &bytes, &size_bytes, &err);
    for (int32_t m = 0; status == TR_OK && m < self->n_members; m++)
        if ((self->members[m].knows = self->members[m].present))
            tr_node_send_system(self->head->node, tr__hosts_first_agent(self) + m, TR_CONTROL_HOMES, bytes,
                                (uint32_t)size_bytes);
    tr_free(bytes);
    tr_free(homes.addresses);
    tr_free(homes.states);
    if (status != TR_OK) tr_head_end(self->head, &err, 0);
}

static void tell_copied(tr_hosts *self);

void tr__hosts_tell_homes(tr_hosts *self)
{
    send_homes(self);
    tell_copied(self);
}

static void settle(tr_hosts *self)
{
    self->awaited_until_ns = 0;
    self->settled_ns = tr_node_now_ns(self->head->node);
    tr__hosts_choose_former(self);
    find_homes(self);
    send_homes(self);
}

void tr_hosts_call(tr_hosts *self)
{
    self->told = UINT64_MAX; /* nobody waits for copies until the epoch is there */
    if (!tr_hosts_are_awaited(self)) settle(self);
}

static void tell_copied(tr_hosts *self)
{
    uint64_t least = UINT64_MAX;
    for (size_t i = 0; i < self->head->topology->n_actors; i++)
        if (self->copy[i] >= 0 && self->copied[i] < least) least = self->copied[i];
    if (least == self->told || !self->options->told) return;
    self->told = least; /* UINT64_MAX: there are none any more, and whoever waits for one need not */
    tr_packer packer;
    void *bytes = NULL;
    size_t size_bytes = 0;
    tr_error err;
    tr_packer_init(&packer);
    tr_pack_array(&packer, 1);
    tr_pack_uint(&packer, least);
    if (tr_packer_take(&packer, &bytes, &size_bytes, &err) != TR_OK)
        tr_node_fail(self->head->node, &err);
    else
        tr_node_post(self->head->node, self->options->told, TR_TOPIC_COPIED, bytes, (uint32_t)size_bytes);
    tr_free(bytes);
}

/* --- those who come --- */

static tr_status admit(void *context, const tr_join_request *request, tr_launch *launch, tr_error *err)
{
    tr_hosts *self = context;
    tr_status status = tr_join_request_compare(&self->mine, request, err);
    if (status != TR_OK) return status;
    if (self->head->phase == TR_HEAD_ENDING) return tr_fail(err, TR_EREFUSED, "the job is ending");
    void *topology = tr_alloc(self->launch.topology_bytes);
    if (!topology) return tr_fail(err, TR_ENOMEM, "no memory for a plan");
    memcpy(topology, self->launch.topology, self->launch.topology_bytes);
    int32_t m = tr__hosts_new_member(self);
    if (m < 0) {
        tr_free(topology);
        return tr_fail(err, TR_EREFUSED, "%d hosts have joined this job, and no more may", TR_MAX_MEMBERS);
    }
    snprintf(self->members[m].name, TR_HOST_NAME_CHARS, "%s", request->name);
    *launch = self->launch;
    launch->topology = topology;
    launch->node = tr__hosts_first_agent(self) + m;
    launch->member = m;
    launch->epoch = self->head->epoch;
    launch->incarnation = self->members[m].incarnation;
    launch->silence_ms = self->options->silence_ms;
    launch->has_key = false; /* it has it */
    memset(&launch->key, 0, sizeof launch->key);
    return TR_OK;
}

static void on_refused(void *context, const char *text)
{
    tr_hosts *self = context;
    tr_head_tell(self->head, TR_JOB_HOST_REFUSED, -1, 0, text);
}

/* Of those that have to join; -1: none. */
int32_t tr__hosts_missing(const tr_hosts *self)
{
    for (int32_t host = 1; host < self->count; host++)
        if (member_of_host(self, host) < 0) return host;
    return -1;
}

void tr_hosts_greeted(tr_hosts *self, int32_t peer, const tr_control_hello *hello, uint32_t incarnation)
{
    int32_t m = peer - tr__hosts_first_agent(self);
    if (m < 0 || m >= self->n_members || (m > 0 && self->members[m].present)) return;
    member *who = &self->members[m];
    if (!tr__hosts_is_expected(self, m, incarnation)) {
        tr_node_disconnect(self->head->node, peer); /* it came too late, and ends when it hears that */
        return;
    }
    if (snprintf(who->address, TR_BIND_CHARS, "%s", hello->control_address) >= TR_BIND_CHARS) return;
    if (m > 0 && (who->heard_ns || tr__hosts_is_banned(self, m))) return; /* lost: it has to join anew */
    who->present = true;
    who->heard_ns = tr_node_now_ns(self->head->node);
    who->broken_ns = 0;
    if (m > 0) {
        char text[LINE_BYTES], line[LINE_BYTES + 96];
        bool lacked = !self->all_came || tr_hosts_are_awaited(self), apart = tr__hosts_was_cut_off(self, m);
        who->host = lacked && !apart ? tr__hosts_missing(self) : -1;
        tr__hosts_describe(self, m, text);
        bool used = who->host < 0 && tr__hosts_missing(self) > 0;
        snprintf(line, sizeof line, "%s joined%s", text,
                 apart           ? "; the others did not reach it before, and it is used when they do"
                 : used          ? "; it is used from the next generation on"
                 : who->host < 0 ? "; it takes over when another one is lost or leaves"
                                 : "");
        tr_head_tell(self->head, TR_JOB_HOST_JOINED, -1, hello->pid, line);
    }
    if (self->head->phase == TR_HEAD_ENDING) return;
    bool comes_again = m == 0 && self->all_came && !tr_hosts_are_awaited(self);
    if (comes_again || (tr_hosts_are_awaited(self) && tr__hosts_are_complete(self))) {
        self->all_came = true;
        settle(self);
    } else if (who->host < 0 && self->head->phase == TR_HEAD_RUNNING) {
        tr__hosts_tell_homes(self); /* nobody moves, but it may take copies */
        tr__hosts_consider(self);
    }
}

static void await_hosts(tr_hosts *self, const char *why, uint32_t wait_ms)
{
    char text[LINE_BYTES];
    int32_t n = 0;
    for (int32_t host = 0; host < self->count; host++) n += host > 0 && member_of_host(self, host) < 0;
    self->awaited_until_ns = tr_node_now_ns(self->head->node) + (uint64_t)wait_ms * 1000000;
    const char *at = strstr(self->options->listen, "//");
    snprintf(text, sizeof text, "%s%d more host%s at %s for %u s (there: troupe worker --join %s --key FILE)",
             why, n, n == 1 ? "" : "s", at + 2, wait_ms / 1000, at + 2);
    if (n > 0) tr_head_tell(self->head, TR_JOB_HOST_AWAITED, -1, 0, text);
}

/* --- those who go --- */

void tr__hosts_disconnect_worker(tr_hosts *self, int32_t node)
{
    tr_node_disconnect(self->head->node, node);
    self->head->workers[node].pid = 0;
    self->head->workers[node].leaving = false; /* whose end is not heard any more; the next one's shall be */
    self->head->places[node] = (tr_place_seen){.descriptor = -1};
}

/* Nothing that it or its workers say is heard any more, and where they hear us, they end. */
static void cut_off(tr_hosts *self, int32_t m)
{
    for (int32_t node = 1; node < n_nodes(self); node++) {
        if (self->home[node] != m) continue;
        tr__hosts_disconnect_worker(self, node);
        self->home[node] = -1;
    }
    tr_node_disconnect(self->head->node, tr__hosts_first_agent(self) + m);
}

static void forget_states(tr_hosts *self, int32_t m)
{
    for (size_t i = 0; i < self->head->topology->n_actors; i++) {
        if (home_of_actor(self, i) == m) self->valid[i] = false;
        if (self->copy[i] != m) continue;
        self->copy[i] = -1;
        self->copied[i] = 0;
    }
}

void tr__hosts_lose(tr_hosts *self, int32_t m, const char *why)
{
    char text[LINE_BYTES], line[2 * LINE_BYTES];
    member *who = &self->members[m];
    bool worked = false;
    for (int32_t node = 1; node < n_nodes(self); node++) worked = worked || self->home[node] == m;
    for (size_t i = 0; i < self->head->topology->n_actors; i++) worked = worked || self->copy[i] == m;
    tr__hosts_describe(self, m, text);
    snprintf(line, sizeof line, "%s is lost: %s", text, why);
    who->present = false;
    forget_states(self, m);
    cut_off(self, m);
    tr_head_tell(self->head, TR_JOB_HOST_LOST, -1, 0, line);
    if (self->head->phase == TR_HEAD_ENDING) return;
    int32_t spare = member_of_host(self, -1);
    while (spare >= 0 && spare < self->n_members &&
           !(tr__hosts_stays(self, spare) && self->members[spare].host < 0))
        spare++;
    if (spare >= 0 && spare < self->n_members && who->host >= 0) self->members[spare].host = who->host;
    who->host = -1;
    if (!self->all_came || !worked) { /* before the beginning: it is awaited as it was */
        tr__hosts_lost_in_change(self, line);
        return;
    }
    if (tr__hosts_missing(self) > 0 && self->options->replace_ms)
        await_hosts(self, "waiting for ", self->options->replace_ms);
    tr_head_lost_host(self->head, who->heard_ns, line);
}

void tr_hosts_lost_link(tr_hosts *self, int32_t peer, const char *reason)
{
    int32_t m = peer - tr__hosts_first_agent(self);
    if (m < 1 || m >= self->n_members || !self->members[m].present || self->members[m].broken_ns) return;
    tr_log(TR_LOG_INFO, "the link to the agent of host %d broke: %s", self->members[m].host, reason);
    self->members[m].broken_ns = tr_node_now_ns(self->head->node);
}

void tr_hosts_agent_ended(tr_hosts *self)
{
    forget_states(self, 0);
    self->members[0].present = false;
}

/* --- what agents say, and the time --- */

bool tr_hosts_hear(tr_hosts *self, int32_t peer, const tr_message *message)
{
    tr_slot_part held;
    int32_t m = peer - tr__hosts_first_agent(self);
    self->members[m].heard_ns = tr_node_now_ns(self->head->node);
    if (message->frame.edge == TR_CONTROL_FAREWELL) self->members[m].has_left = true;
    if (tr__hosts_hear_former(self, m, message)) return true;
    switch (message->frame.edge) {
    case TR_CONTROL_BEAT: return true;
    case TR_CONTROL_LEAVING: tr__hosts_wants_to_leave(self, m); return true;
    case TR_CONTROL_SEEN: tr__hosts_seen(self, m, message); return true;
    case TR_CONTROL_COMES_ON: self->came_on_ns = self->members[m].heard_ns; return true;
    case TR_CONTROL_CUT_OFF: tr__hosts_cut_off(self, m, message); return true;
    case TR_CONTROL_HELD: break;
    default: return false;
    }
    bool good =
        tr_slot_part_decode(&held, tr_message_bytes(message), message->frame.body_bytes, NULL) == TR_OK;
    if (!good || held.layout != self->head->layout || held.actor >= self->head->topology->n_actors ||
        self->copy[held.actor] != m)
        return true;
    if (held.generation > self->copied[held.actor]) self->copied[held.actor] = held.generation;
    if (self->head->phase == TR_HEAD_RUNNING) tell_copied(self);
    return true;
}

void tr_hosts_started(tr_hosts *self)
{
    for (size_t i = 0; i < self->head->topology->n_actors; i++)
        self->valid[i] = actor_at(self, i)->state_bytes > 0;
    tr__hosts_forget_former(self);
    bool newcomer = false; /* who came in the meantime may take copies */
    for (int32_t m = 0; m < self->n_members; m++)
        newcomer = newcomer || (self->members[m].present && !self->members[m].knows);
    if (newcomer) send_homes(self);
    tell_copied(self);
    tr__hosts_let_go(self);
    tr__hosts_consider(self);
}

/* At the beginning there is nothing to go on with; later the others take over. */
static void stop_waiting(tr_hosts *self)
{
    char text[LINE_BYTES];
    if (self->all_came || self->options->fewer || tr__hosts_missing(self) < 0) {
        self->all_came = true;
        settle(self);
        return;
    }
    snprintf(text, sizeof text, "host %d did not join within %u s; layout.hosts: %d wants it",
             tr__hosts_missing(self), self->options->wait_ms / 1000, self->count);
    tr_head_end_because(self->head, TR_ETIMEDOUT, text);
}

void tr_hosts_on_tick(tr_hosts *self, uint64_t now_ns)
{
    if (self->head->gives_way) tr_door_close(&self->door); /* who asks there shall ask the next head */
    if (self->door) tr_door_progress(self->door);
    tr__hosts_beat(self, now_ns);
    if (self->head->phase == TR_HEAD_ENDING) return;
    tr__hosts_look_at_members(self, now_ns);
    tr__hosts_look_at_routes(self, now_ns);
    if (self->head->phase == TR_HEAD_ENDING) return;
    if (self->asked_ns && now_ns > self->asked_ns + (uint64_t)ASK_AGAIN_MS * 1000000)
        tr__hosts_consider(self);
    if ((!self->all_came || self->awaited_until_ns) && tr__hosts_are_complete(self)) {
        self->all_came = true;
        settle(self);
    } else if (!self->all_came && !self->awaited_until_ns) {
        await_hosts(self, "waiting for ", self->options->wait_ms);
    }
    if (self->awaited_until_ns && now_ns > self->awaited_until_ns) stop_waiting(self);
}

void tr_hosts_stop(tr_hosts *self, const tr_control_note *note)
{
    for (int32_t m = 1; m < self->n_members; m++)
        if (self->members[m].present)
            tr_control_send_note(self->head->node, tr__hosts_first_agent(self) + m, TR_CONTROL_STOP, note);
}

bool tr_hosts_have_left(const tr_hosts *self)
{
    for (int32_t m = 1; m < self->n_members; m++)
        if (self->members[m].present && !self->members[m].has_left && !self->members[m].broken_ns)
            return false;
    return true;
}

/* --- beginning and end --- */

static tr_status copy_launch(tr_hosts *self, const tr_launch *launch, tr_error *err)
{
    self->launch = *launch;
    self->launch.role = TR_LAUNCH_AGENT;
    self->launch.n_threads = 1;
    self->launch.bind[0] = 0;
    self->launch.topology = NULL;
    tr_status status =
        tr_topology_encode(self->head->topology, &self->launch.topology, &self->launch.topology_bytes, err);
    if (status == TR_OK) tr_plan_hash(self->launch.topology, self->launch.topology_bytes, self->mine.plan);
    return status;
}

tr_status tr_hosts_new(tr_hosts **out, tr_head *head, const tr_launch *launch, tr_error *err)
{
    size_t n = (size_t)head->agent, n_actors = head->topology->n_actors;
    tr_hosts *self = tr_alloc_zero(1, sizeof *self);
    if (!self) return tr_fail(err, TR_ENOMEM, "no memory for hosts");
    self->head = head;
    self->options = &head->options->hosts;
    self->count = self->options->count;
    self->host_of = self->options->host_of;
    self->equals = self->options->equals;
    self->told = UINT64_MAX;
    self->takes_former = self->options->former.wanted;
    self->members = tr_alloc_zero(TR_MAX_MEMBERS, sizeof *self->members);
    self->home = tr_alloc_zero(n, sizeof *self->home);
    self->next_home = tr_alloc_zero(n, sizeof *self->next_home);
    self->next_host = tr_alloc_zero(TR_MAX_MEMBERS, sizeof *self->next_host);
    self->valid = tr_alloc_zero(n_actors, sizeof *self->valid);
    self->copy = tr_alloc_zero(n_actors, sizeof *self->copy);
    self->copied = tr_alloc_zero(n_actors, sizeof *self->copied);
    tr_status status = self->members && self->home && self->next_home && self->next_host && self->valid &&
                               self->copy && self->copied
                           ? TR_OK
                           : tr_fail(err, TR_ENOMEM, "no memory for hosts");
    if (status == TR_OK) {
        for (size_t i = 0; i < n; i++) self->home[i] = -1;
        for (size_t i = 0; i < n_actors; i++) self->copy[i] = -1;
        self->n_members = 1; /* the head's own, which is not here yet */
        status = tr_join_request_describe(&self->mine, self->options->version, err);
        snprintf(self->members[0].name, TR_HOST_NAME_CHARS, "%s", self->mine.name);
        snprintf(self->mine.run, sizeof self->mine.run, "%s", self->options->run);
    }
    if (status == TR_OK) status = tr_host_pages_new(&self->pages, head->agent, err);
    if (status == TR_OK) status = copy_launch(self, launch, err);
    const tr_door_options door = {.listen = self->options->listen,
                                  .key = head->options->key,
                                  .context = self,
                                  .admit = admit,
                                  .refused = on_refused};
    if (status == TR_OK) status = tr_door_open(&self->door, &door, err);
    if (status == TR_OK)
        *out = self;
    else
        tr_hosts_destroy(&self);
    return status;
}

void tr_hosts_destroy(tr_hosts **out)
{
    tr_hosts *self = *out;
    if (!self) return;
    tr_door_close(&self->door);
    tr_host_pages_destroy(&self->pages);
    tr__hosts_forget_former(self);
    tr_launch_release(&self->launch);
    tr_free(self->members);
    tr_free(self->cuts);
    tr_free(self->home);
    tr_free(self->next_home);
    tr_free(self->next_host);
    tr_free(self->next_copy);
    tr_free(self->valid);
    tr_free(self->copy);
    tr_free(self->copied);
    tr_free(self);
    *out = NULL;
}
