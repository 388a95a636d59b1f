/* runtime/simulation_lease.c - see simulation_lease.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/simulation_lease.h"

enum { OTHERS_EPOCHS = 2 };

static bool is_away(const tr_played_lease *self)
{
    return *self->now_ns < self->away_until_ns;
}

static uint64_t must_stop_ns(const tr_played_lease *self)
{
    return self->renewed_ns + self->ttl_ns / 10 * 6;
}

static uint64_t over_ns(const tr_played_lease *self)
{
    return self->renewed_ns + self->ttl_ns / 10 * 9;
}

bool tr_played_lease_must_stop(const tr_played_lease *self)
{
    return !self->mine || self->lost || *self->now_ns >= must_stop_ns(self);
}

bool tr_played_lease_is_held(const tr_played_lease *self)
{
    return self->mine && *self->now_ns < over_ns(self);
}

/* What etcd does by itself, and who waits for it. */
static void let_others(tr_played_lease *self)
{
    if (self->key && *self->now_ns >= self->key_until_ns) self->key = 0;
    if (self->key || !self->other_for_ns) return;
    self->key = ++self->revision;
    self->key_until_ns = *self->now_ns + self->other_for_ns;
    self->other_for_ns = 0;
    self->last_epoch += OTHERS_EPOCHS;
}

static void renew(tr_played_lease *self, uint64_t asked_ns)
{
    self->renewed_ns = asked_ns;
    self->key_until_ns = asked_ns + self->ttl_ns;
}

void tr__lease_cut(tr_played_lease *self, uint64_t since_ns, uint64_t for_ns)
{
    uint64_t from_ns = *self->now_ns > since_ns ? *self->now_ns - since_ns : 0;
    self->away_until_ns = *self->now_ns + for_ns;
    if (self->mine && self->key == self->mine && from_ns < self->renewed_ns) renew(self, from_ns);
}

void tr__lease_go_on(tr_played_lease *self, bool runs)
{
    uint64_t now_ns = *self->now_ns, asked_ns = now_ns - now_ns % (self->ttl_ns / 5);
    let_others(self);
    if (!self->mine) return;
    self->lost = tr_played_lease_must_stop(self);
    bool renews = runs && !self->lost && !is_away(self) && self->key == self->mine;
    if (renews && asked_ns > self->renewed_ns) renew(self, asked_ns);
}

void tr__lease_acquire(tr_played_lease *self)
{
    let_others(self);
    TR_ASSERT(!self->key && !is_away(self));
    self->mine = self->key = ++self->revision;
    renew(self, *self->now_ns);
    self->won = 0;
    self->lost = self->refused = false;
}

void tr__lease_release(tr_played_lease *self)
{
    if (self->key == self->mine && !is_away(self)) self->key = 0;
    self->mine = 0; /* a key that it could not give back goes with its time */
}

uint64_t tr__lease_free_ns(const tr_played_lease *self)
{
    bool is_taken = self->key && self->key_until_ns > self->away_until_ns;
    return is_taken ? self->key_until_ns : self->away_until_ns;
}

uint64_t tr__lease_over_ns(const tr_played_lease *self)
{
    return self->mine ? over_ns(self) : UINT64_MAX;
}

tr_status tr_played_lease_win(tr_played_lease *self, uint32_t epoch, tr_error *err)
{
    if (is_away(self)) { /* the thread that asks sleeps, the others renew nothing */
        uint64_t until_ns =
            must_stop_ns(self) < self->away_until_ns ? must_stop_ns(self) : self->away_until_ns;
        if (until_ns > *self->now_ns) *self->now_ns = until_ns;
        tr__lease_go_on(self, true);
    }
    let_others(self);
    tr_status status = TR_OK;
    if (is_away(self))
        status = tr_fail(err, TR_EIO, "epoch %u could not be won in time", epoch);
    else if (self->key != self->mine)
        status = tr_fail(err, TR_ECLOSED, "epoch %u: another head leads", epoch);
    else if (epoch <= self->last_epoch)
        return tr_fail(err, TR_ECORRUPT, "epoch %u was won before; the last one is %u", epoch,
                       self->last_epoch);
    self->refused = self->refused || status != TR_OK;
    if (status == TR_OK) self->won = self->last_epoch = epoch;
    return status;
}
