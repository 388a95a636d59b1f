/* runtime/agent_faults.c - chaos: what an agent does to workers on purpose, as somebody with a shell might, or cosmic rays.
 * It holds their pidfds and the memory of their states, so nothing more is needed for it.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/agent_internal.h"

#include "base/log.h"
#include "base/rng.h"

#include <signal.h>

static void signal_ward(const tr__ward *worker, int number)
{
    tr_process_kill(worker->pidfd, number);
}

static void begin(tr__ward *worker, const tr_fault *fault, uint64_t now_ns)
{
    worker->fault = *fault;
    worker->fault_until_ns = now_ns + (uint64_t)fault->for_ms * 1000000;
    worker->fault_ticks = 0;
    worker->suffers = true;
    worker->agent->n_suffering++;
}

static void end(tr__ward *worker)
{
    if (!worker->suffers) return;
    worker->suffers = false;
    worker->agent->n_suffering--;
}

void tr__agent_fault(tr__agent *self, const tr_message *message, uint64_t now_ns)
{
    tr_fault fault;
    tr_error err;
    if (tr_fault_decode(&fault, tr_message_bytes(message), message->frame.body_bytes, &err) != TR_OK) {
        tr_log(TR_LOG_WARNING, "from the head: %s", err.message);
        return;
    }
    if (fault.victim < 1 || fault.victim >= self->topology.n_nodes) return;
    tr__ward *worker = &self->wards[fault.victim];
    if (worker->pidfd < 0 || worker->leaving) return;
    if (worker->suffers && worker->fault.kind == TR_FAULT_SLOW) signal_ward(worker, SIGCONT);
    end(worker); /* one at a time */
    switch (fault.kind) {
    case TR_FAULT_KILL: signal_ward(worker, SIGKILL); return;
    case TR_FAULT_STOP: signal_ward(worker, SIGSTOP); return;
    case TR_FAULT_FLIP_STATE: signal_ward(worker, SIGKILL); break; /* the bit when nobody computes with it */
    case TR_FAULT_STOP_AND_CONTINUE: signal_ward(worker, SIGSTOP); break;
    case TR_FAULT_SLOW: break;
    default: return; /* not an agent's */
    }
    begin(worker, &fault, now_ns);
}

/* Of so many ticks it runs in the first, and is stopped in the others: never long enough to be taken for dead. */
static void slow(tr__ward *worker, uint64_t now_ns)
{
    uint32_t every = tr_fault_slowness(&worker->fault), at = worker->fault_ticks++ % every;
    bool over = now_ns >= worker->fault_until_ns;
    if (over || at == 0)
        signal_ward(worker, SIGCONT);
    else if (at == 1)
        signal_ward(worker, SIGSTOP);
    if (over) end(worker);
}

void tr__agent_faults_on_tick(tr__agent *self, uint64_t now_ns)
{
    for (int32_t i = 1; i < self->launch->node && self->n_suffering; i++) {
        tr__ward *worker = &self->wards[i];
        if (!worker->suffers || worker->pidfd < 0) continue;
        if (worker->fault.kind == TR_FAULT_SLOW)
            slow(worker, now_ns);
        else if (worker->fault.kind == TR_FAULT_STOP_AND_CONTINUE && worker->fault_ticks > 0)
            signal_ward(worker, SIGKILL);
    }
}

bool tr__ward_lives_on(tr__ward *worker)
{
    if (!worker->suffers || worker->fault.kind != TR_FAULT_STOP_AND_CONTINUE) return false;
    worker->fault_ticks = 1;
    signal_ward(worker, SIGCONT);
    return true;
}

static void flip(tr_state_region *region, int slot, uint64_t bit)
{
    uint64_t at = bit % (tr_state_region_slot_bytes(region) * 8);
    ((unsigned char *)tr_state_slot(region, slot))[at / 8] ^= (unsigned char)(1u << at % 8);
}

static void flip_states(const tr__agent *self, const tr__ward *worker)
{
    const tr_rng_key key = {.seed = worker->fault.seed, .stream = 0x42495453 /* "BITS" */};
    for (size_t i = 0; i < self->topology.n_actors; i++) {
        tr_state_region *region = self->states[i];
        if (self->topology.actors[i].node != worker->node || !region) continue;
        int newest = tr_state_generation(region, 1) > tr_state_generation(region, 0);
        for (int slot = 0; slot < 2; slot++)
            if ((slot == newest || tr_fault_is_of_both(&worker->fault)) && tr_state_generation(region, slot))
                flip(region, slot, tr_rng_u64(&key, 2 * i + (uint64_t)slot));
    }
}

void tr__agent_faults_after(tr__agent *self, tr__ward *worker)
{
    if (worker->suffers && worker->fault.kind == TR_FAULT_FLIP_STATE) flip_states(self, worker);
    end(worker);
}
