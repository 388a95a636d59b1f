/* test/chaos/faults.c - see faults.h. Only processes of the job are touched, by pids that its events tell.
 * SPDX-License-Identifier: Apache-2.0 */
#include "test/chaos/faults.h"

#include "base/rng.h"
#include "runtime/state.h"

#include <dirent.h>
#include <sys/stat.h>

const fault_info fault_infos[FAULT_KINDS] = {
    [FAULT_KILL] = {"SIGKILL of a worker", 1, 40},
    [FAULT_TWICE] = {"SIGKILL, and another during that recovery", 2, 18},
    [FAULT_ALL] = {"SIGKILL of all workers at once", 3, 5},
    [FAULT_SEGV] = {"SIGSEGV of a worker", 6, 8},
    [FAULT_ABRT] = {"SIGABRT of a worker", 6, 5},
    [FAULT_STOP] = {"SIGSTOP of a worker", 4, 4},
    [FAULT_ZOMBIE] = {"SIGSTOP, SIGCONT when it is fenced", 5, 4},
    [FAULT_PAUSE] = {"stopped for 300 ms", 8, 6},
    [FAULT_ROT] = {"a bit of the newest slot flips, SIGKILL", 22, 7},
    [FAULT_ROT_BOTH] = {"a bit of each slot flips, SIGKILL", 22, 3},
    [FAULT_AGENT] = {"SIGKILL of the agent", 26, 0},
    [FAULT_AGENT_AND_WORKER] = {"SIGKILL of agent and worker", 26, 0},
    [FAULT_HEAD] = {"SIGKILL of the head, --resume within lease", 27, 0},
    [FAULT_HEAD_AND_WORKER] = {"SIGKILL of head and worker, --resume", 27, 0},
    [FAULT_HEAD_LATE] = {"SIGKILL of the head, --resume after lease", 27, 0},
    [FAULT_TWO_HEADS] = {"a second head in the same run", 28, 0},
};

enum { ORPHANS_MS = 5000 + 1000 * FAULT_LEASE_S, PAUSE_MS = 300, PHASE_MS = 400 };

uint32_t fault_draw(fault_job *self, uint32_t n)
{
    const tr_rng_key key = {.seed = self->seed, .stream = 0x43484153 /* "CHAS" */, .step = self->n_drawn++};
    return (uint32_t)(tr_rng_u64(&key, 0) % n);
}

void fault_start(fault_job *self, bool resume)
{
    const char *arguments[] = {self->recipe, resume ? "--resume" : NULL, NULL};
    watched_start(&self->run, self->troupe, self->directory, arguments, self->output);
}

/* --- processes --- */

static bool read_stat(const char *path, char *state, int32_t *parent)
{
    char line[512] = "";
    FILE *file = fopen(path, "re");
    const char *end = file && fgets(line, sizeof line, file) ? strrchr(line, ')') : NULL;
    if (file) fclose(file);
    return end && sscanf(end + 1, " %c %d", state, parent) == 2;
}

static bool is_there(int32_t pid)
{
    char path[64], state;
    int32_t parent;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    waitpid(pid, NULL, WNOHANG); /* an orphan that came to us */
    return read_stat(path, &state, &parent) && state != 'Z';
}

/* All its threads: the last to stop may write yet. */
static bool is_stopped(int32_t pid)
{
    char path[320], state;
    int32_t parent, n = 0, n_stopped = 0;
    snprintf(path, sizeof path, "/proc/%d/task", pid);
    DIR *tasks = opendir(path);
    for (struct dirent *entry; tasks && (entry = readdir(tasks));) {
        if (entry->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "/proc/%d/task/%s/stat", pid, entry->d_name);
        n++;
        n_stopped += read_stat(path, &state, &parent) && state == 'T';
    }
    if (tasks) closedir(tasks);
    return n > 0 && n == n_stopped;
}

/* The newest of those that there were. */
static int32_t is_agent(fault_job *self, int32_t pid)
{
    if (self->n_agents && self->agents[self->n_agents - 1] == pid) return pid;
    if (tr_array_reserve((void **)&self->agents, &self->agents_capacity, self->n_agents + 1,
                         sizeof *self->agents, NULL))
        abort();
    self->agents[self->n_agents++] = pid;
    return pid;
}

int32_t fault_agent(fault_job *self)
{
    char path[64], state;
    int32_t parent = 0;
    if (self->run.agent && is_there(self->run.agent)) return is_agent(self, self->run.agent);
    for (int32_t i = 1; i < self->run.n_nodes; i++) {
        snprintf(path, sizeof path, "/proc/%d/stat", self->run.workers[i]);
        if (watched_is_dead(&self->run, self->run.workers[i]) || !read_stat(path, &state, &parent) ||
            parent <= 1 || parent == self->run.head || parent == getpid())
            continue;
        return is_agent(self, parent);
    }
    return 0;
}

static int32_t draw_worker(fault_job *self)
{
    watched_look(&self->run);
    uint32_t n = (uint32_t)self->run.n_nodes - 1;
    for (int tries = 0; tries < 1000 && n > 0; tries++) {
        int32_t pid = self->run.workers[1 + fault_draw(self, n)];
        if (!watched_is_dead(&self->run, pid) && is_there(pid)) return pid;
        watched_nap_ms(2);
        watched_look(&self->run);
    }
    return 0;
}

/* --- waiting --- */

static bool fails(fault_job *self, const char *why)
{
    size_t length = strlen(self->what);
    snprintf(self->what + length, sizeof self->what - length, ": %s (last death: %s)", why,
             self->run.last_death[0] ? self->run.last_death : "none");
    return false;
}

static bool await_death(fault_job *self, int32_t pid, double until_s)
{
    while (!watched_is_dead(&self->run, pid)) {
        if (!watched_look(&self->run)) return fails(self, "the job ended");
        if (watched_now_s() > until_s) return fails(self, "its death was not heard of in time");
        watched_nap_ms(1);
    }
    return true;
}

static bool await_well(fault_job *self, double until_s)
{
    while (!self->run.is_well) {
        if (!watched_look(&self->run)) return fails(self, "the job ended");
        if (watched_now_s() > until_s) return fails(self, "no new step in time");
        watched_nap_ms(1);
    }
    return true;
}

static bool dies_of(fault_job *self, int32_t pid, int number, double until_s)
{
    self->run.is_well = false; /* until it says so again */
    if (kill(pid, number)) return fails(self, "it had gone by itself");
    return await_death(self, pid, until_s) && await_well(self, until_s);
}

/* --- faults --- */

static bool one_dies(fault_job *self, int number, double until_s)
{
    int32_t pid = draw_worker(self);
    snprintf(self->what, sizeof self->what, "pid %d", pid);
    return pid ? dies_of(self, pid, number, until_s) : fails(self, "no worker lives");
}

static bool two_die(fault_job *self, double until_s)
{
    int32_t pid = draw_worker(self);
    snprintf(self->what, sizeof self->what, "pid %d", pid);
    self->run.is_well = false;
    if (!pid || kill(pid, SIGKILL)) return fails(self, "it had gone by itself");
    if (!await_death(self, pid, until_s)) return false;
    double pause_ms = fault_draw(self, PHASE_MS);
    watched_nap_ms(pause_ms);
    int32_t next = draw_worker(self);
    size_t length = strlen(self->what);
    snprintf(self->what + length, sizeof self->what - length, " and pid %d %.0f ms after its death", next,
             pause_ms);
    return next ? dies_of(self, next, SIGKILL, until_s) : fails(self, "no worker lives");
}

static bool all_die(fault_job *self, double until_s)
{
    snprintf(self->what, sizeof self->what, "%d workers", self->run.n_nodes - 1);
    int32_t pids[WATCHED_NODES];
    memcpy(pids, self->run.workers, sizeof pids);
    self->run.is_well = false;
    for (int32_t i = 1; i < self->run.n_nodes; i++) kill(pids[i], SIGKILL);
    for (int32_t i = 1; i < self->run.n_nodes; i++)
        if (!await_death(self, pids[i], until_s)) return false;
    return await_well(self, until_s);
}

static bool zombie(fault_job *self, double until_s)
{
    int32_t pid = draw_worker(self);
    double since_s = self->run.fenced_s;
    snprintf(self->what, sizeof self->what, "pid %d", pid);
    self->run.is_well = false;
    if (!pid || kill(pid, SIGSTOP)) return fails(self, "it had gone by itself");
    while (self->run.fenced_s <= since_s && watched_now_s() < until_s && watched_look(&self->run))
        watched_nap_ms(0.2);
    if (self->run.fenced_s <= since_s) return fails(self, "it was not fenced");
    bool lives = is_there(pid) && kill(pid, SIGCONT) == 0;
    self->n_zombies_met += lives;
    size_t length = strlen(self->what);
    snprintf(self->what + length, sizeof self->what - length, ", %s",
             lives ? "continued while it was being killed" : "dead before it could be continued");
    return await_death(self, pid, until_s) && await_well(self, until_s);
}

static bool pauses(fault_job *self, double until_s)
{
    int32_t pid = draw_worker(self);
    uint32_t n_deaths = self->run.n_deaths;
    snprintf(self->what, sizeof self->what, "pid %d", pid);
    if (!pid || kill(pid, SIGSTOP)) return fails(self, "it had gone by itself");
    watched_nap_ms(PAUSE_MS);
    kill(pid, SIGCONT);
    watched_look(&self->run);
    bool moves = watched_reach(&self->run, self->run.step + 4, until_s - watched_now_s());
    if (self->run.n_deaths > n_deaths) return fails(self, "somebody was killed for it");
    return moves || fails(self, "no new step in time");
}

/* One bit of a slot, in the memory that the agent holds for it. */
static bool flip(tr_state_region *region, int slot, uint64_t bit)
{
    unsigned char *bytes = tr_state_slot(region, slot);
    uint64_t at = bit % (tr_state_region_slot_bytes(region) * 8);
    bytes[at / 8] ^= (unsigned char)(1u << at % 8);
    return true;
}

/* The regions of a worker, as its agent holds them: their names are the actors', which live in one worker only. */
static int rot(fault_job *self, int32_t agent, int32_t pid, bool both)
{
    char path[320], link[256], theirs[64];
    struct stat mine, other;
    int n = 0;
    snprintf(path, sizeof path, "/proc/%d/fd", agent);
    DIR *descriptors = opendir(path);
    for (struct dirent *entry; descriptors && (entry = readdir(descriptors));) {
        snprintf(path, sizeof path, "/proc/%d/fd/%s", agent, entry->d_name);
        ssize_t length = readlink(path, link, sizeof link - 1);
        if (length <= 0 || strncmp(link, "/memfd:", 7) != 0 || stat(path, &mine)) continue;
        bool shared = false; /* with this worker */
        for (int i = 0; i < 64 && !shared; i++) {
            snprintf(theirs, sizeof theirs, "/proc/%d/fd/%d", pid, i);
            shared = stat(theirs, &other) == 0 && other.st_ino == mine.st_ino && other.st_dev == mine.st_dev;
        }
        int descriptor = shared ? open(path, O_RDWR | O_CLOEXEC) : -1;
        tr_state_region *region = NULL;
        if (descriptor < 0) continue;
        if (tr_state_region_open(&region, descriptor, NULL)) { /* another kind of memory */
            close(descriptor);
            continue;
        }
        int newest = tr_state_generation(region, 1) > tr_state_generation(region, 0);
        for (int slot = 0; slot < 2; slot++)
            if ((both || slot == newest) && tr_state_generation(region, slot))
                n += flip(region, slot, fault_draw(self, UINT32_MAX));
        tr_state_region_destroy(&region);
    }
    if (descriptors) closedir(descriptors);
    return n;
}

static bool rots(fault_job *self, bool both, double until_s)
{
    int32_t pid = draw_worker(self), agent = fault_agent(self);
    uint32_t n_rotten = self->run.n_rotten, n_from_disk = self->run.n_from_disk;
    snprintf(self->what, sizeof self->what, "pid %d", pid);
    if (!pid || !agent || kill(pid, SIGSTOP)) return fails(self, "it had gone by itself");
    while (!is_stopped(pid) && watched_now_s() < until_s) watched_nap_ms(0.2);
    int n = rot(self, agent, pid, both); /* it computes with none of it any more */
    if (n == 0) return fails(self, "no published slot was found");
    if (!dies_of(self, pid, SIGKILL, until_s)) return false;
    if (self->run.n_rotten == n_rotten) return fails(self, "nobody noticed the flipped bit");
    size_t length = strlen(self->what);
    snprintf(self->what + length, sizeof self->what - length, ", %d bits, on from %s", n,
             self->run.n_from_disk > n_from_disk ? "the disk" : "the other slot");
    return true;
}

/* Another one goes on with its workers, and with the state of one that died with it. */
static bool agent_dies(fault_job *self, bool and_worker, double until_s)
{
    int32_t victim = and_worker ? draw_worker(self) : 0, agent = fault_agent(self), pids[WATCHED_NODES];
    uint32_t n_deaths = self->run.n_deaths, n_from_disk = self->run.n_from_disk;
    snprintf(self->what, sizeof self->what, "agent %d%s", agent, and_worker ? " and a worker" : "");
    memcpy(pids, self->run.workers, sizeof pids);
    self->run.is_well = false;
    if (and_worker && !victim) return fails(self, "no worker lives");
    if (victim) kill(victim, SIGKILL);
    if (!agent || kill(agent, SIGKILL)) return fails(self, "it had gone by itself");
    while (self->run.n_deaths == n_deaths && watched_now_s() < until_s && watched_look(&self->run))
        watched_nap_ms(1);
    if ((victim && !await_death(self, victim, until_s)) || !await_well(self, until_s)) return false;
    for (int32_t i = 1; i < self->run.n_nodes; i++)
        if (pids[i] != victim && !is_there(pids[i])) return fails(self, "a worker did not outlive its agent");
    if (self->run.agent == agent || fault_agent(self) == agent)
        return fails(self, "no other agent is told of");
    return self->run.n_from_disk == n_from_disk || fails(self, "it went back to the disk");
}

static bool orphans_end(fault_job *self, int32_t agent, double until_s)
{
    double orphans_s = watched_now_s() + ORPHANS_MS * 1e-3;
    bool any = true;
    while (any && watched_now_s() < until_s && watched_now_s() < orphans_s) {
        any = is_there(agent);
        for (int32_t i = 1; i < self->run.n_nodes; i++) any |= is_there(self->run.workers[i]);
        watched_nap_ms(5);
    }
    return !any;
}

/* Its agent and workers wait, and go on with the next. Whoever dies with it is replaced, as ever. */
static bool head_dies(fault_job *self, bool and_worker, double until_s)
{
    int32_t victim = and_worker ? draw_worker(self) : 0, pids[WATCHED_NODES];
    double pause_ms = fault_draw(self, 1000 * FAULT_LEASE_S / 2);
    snprintf(self->what, sizeof self->what, "head %d after step %u%s, resumed %.0f ms later", self->run.head,
             self->run.step, and_worker ? " and a worker" : "", pause_ms);
    if (and_worker && !victim) return fails(self, "no worker lives");
    memcpy(pids, self->run.workers, sizeof pids);
    watched_kill(&self->run);
    if (victim) kill(victim, SIGKILL);
    watched_nap_ms(pause_ms);
    for (int32_t i = 1; i < self->run.n_nodes; i++)
        if (pids[i] != victim && !is_there(pids[i])) return fails(self, "a worker did not wait");
    for (size_t i = 0; i < self->run.n_all; i++) self->run.all[i].is_dead |= self->run.all[i].pid == victim;
    uint32_t step = self->run.step, epoch = self->run.epoch, n = self->run.n_readopted;
    fault_start(self, true);
    self->run.is_well = false;
    if (!await_well(self, until_s) || !watched_reach(&self->run, step + 1, until_s - watched_now_s()))
        return fails(self, "the resumed run made no new step");
    if (self->run.n_readopted == n) return fails(self, "nobody was re-adopted");
    for (int32_t i = 1; i < self->run.n_nodes; i++)
        if (pids[i] != victim && !is_there(pids[i])) return fails(self, "a worker was not taken over");
    return self->run.epoch > epoch || fails(self, "an epoch was used twice");
}

static bool head_dies_for_long(fault_job *self, double until_s)
{
    int32_t agent = fault_agent(self);
    snprintf(self->what, sizeof self->what, "head %d after step %u", self->run.head, self->run.step);
    watched_kill(&self->run);
    if (!orphans_end(self, agent, until_s)) return fails(self, "agent or workers outlived the lease");
    for (size_t i = 0; i < self->run.n_all; i++) self->run.all[i].is_dead = true;
    uint32_t step = self->run.step, epoch = self->run.epoch, n = self->run.n_readopted;
    fault_start(self, true);
    if (!watched_reach(&self->run, step + 1, until_s - watched_now_s()))
        return fails(self, "the resumed run made no new step");
    if (self->run.n_readopted != n) return fails(self, "somebody was re-adopted that had gone");
    return self->run.epoch > epoch || fails(self, "an epoch was used twice");
}

static bool second_head(fault_job *self, double until_s)
{
    fault_job second = {
        .troupe = self->troupe, .directory = self->directory, .recipe = self->recipe, .output = self->output};
    snprintf(self->what, sizeof self->what, "--resume beside a living head");
    fault_start(&second, true);
    while (second.run.head && watched_now_s() < until_s) {
        if (waitpid(second.run.head, &second.run.status, WNOHANG) == second.run.head) second.run.head = 0;
        watched_nap_ms(2);
    }
    bool refused = !second.run.head && WIFEXITED(second.run.status) && WEXITSTATUS(second.run.status) != 0;
    if (second.run.head) watched_kill(&second.run);
    tr_free(second.run.all);
    if (!refused) return fails(self, "it was not refused");
    watched_look(&self->run);
    return watched_reach(&self->run, self->run.step + 4, until_s - watched_now_s()) ||
           fails(self, "the first made no new step");
}

bool fault_do(fault_job *self, fault_kind kind, double seconds)
{
    double until_s = watched_now_s() + seconds;
    self->what[0] = 0;
    switch (kind) {
    case FAULT_KILL: return one_dies(self, SIGKILL, until_s);
    case FAULT_TWICE: return two_die(self, until_s);
    case FAULT_ALL: return all_die(self, until_s);
    case FAULT_SEGV: return one_dies(self, SIGSEGV, until_s);
    case FAULT_ABRT: return one_dies(self, SIGABRT, until_s);
    case FAULT_STOP: return one_dies(self, SIGSTOP, until_s);
    case FAULT_ZOMBIE: return zombie(self, until_s);
    case FAULT_PAUSE: return pauses(self, until_s);
    case FAULT_ROT: return rots(self, false, until_s);
    case FAULT_ROT_BOTH: return rots(self, true, until_s);
    case FAULT_AGENT: return agent_dies(self, false, until_s);
    case FAULT_AGENT_AND_WORKER: return agent_dies(self, true, until_s);
    case FAULT_HEAD: return head_dies(self, false, until_s);
    case FAULT_HEAD_AND_WORKER: return head_dies(self, true, until_s);
    case FAULT_HEAD_LATE: return head_dies_for_long(self, until_s);
    case FAULT_TWO_HEADS: return second_head(self, until_s);
    default: return false;
    }
}
