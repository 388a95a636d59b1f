/* runtime/agent_routes.c - is there a way from this agent to the others? All agents beat to all: they send each other states, and
 * their workers speak with each other in the same way. Where one is not heard although the head has not lost it, the head is told,
 * again and again; it decides (hosts_routes.c), since it alone knows whether that one is well otherwise.
 * The limit is the silence that a host may keep towards the head and a little more, so that a host that is lost altogether is that
 * and no broken way; and less behind a link that broke by itself and cannot be made again, since workers' links break then as well,
 * one death each time.
 * SPDX-License-Identifier: Apache-2.0 */
#include "runtime/agent_hosts.h"

#include "base/clock.h"
#include "runtime/control_messages.h"

enum {
    BROKEN_MS = 3000,
    MOST_MARGIN_MS = 2000,
    AWAY_MS = 500, /* between two looks: this process was, and not the others */
    COMPLAIN_MS = 250
};

typedef tr__agent_hosts hosts;

void tr__agent_hosts_met(hosts *self, int32_t member)
{
    self->met_ns[member] = tr_clock_ns();
    self->broken_ns[member] = 0;
}

void tr__agent_hosts_broke(hosts *self, int32_t member)
{
    if (!self->broken_ns[member]) self->broken_ns[member] = tr_clock_ns();
}

static void complain(const hosts *self, int32_t member, uint64_t silent_ns)
{
    const tr_control_note note = {.node = tr__agent_hosts_node(self, member), .silent_ns = silent_ns};
    tr_control_send_note(self->agent->node, TR_NODE_HEAD, TR_CONTROL_CUT_OFF, &note);
}

void tr__agent_hosts_look_for_others(hosts *self, uint64_t now_ns)
{
    uint64_t silence_ms = self->agent->launch->silence_ms;
    uint64_t margin_ms = silence_ms / 4 < MOST_MARGIN_MS ? silence_ms / 4 : MOST_MARGIN_MS;
    uint64_t broken_ms = silence_ms < BROKEN_MS ? silence_ms : BROKEN_MS;
    bool was_away = now_ns > self->looked_ns + AWAY_MS * 1000000ull;
    bool may_complain = now_ns > self->complained_ns + COMPLAIN_MS * 1000000ull;
    if (!silence_ms) return; /* the head's own: who is not heard by it hears it neither, and says so */
    self->looked_ns = now_ns;
    if (may_complain) self->complained_ns = now_ns;
    for (int32_t m = 0; m < self->homes.n_members; m++) {
        if (m == self->me || !self->homes.addresses[m][0]) continue;
        if (was_away || !self->met_ns[m]) self->met_ns[m] = now_ns;
        if (was_away && self->broken_ns[m]) self->broken_ns[m] = now_ns;
        uint64_t met_ns = self->met_ns[m], silent_ns = now_ns > met_ns ? now_ns - met_ns : 0;
        bool is_broken = self->broken_ns[m] && now_ns > self->broken_ns[m] + broken_ms * 1000000;
        bool is_cut = is_broken || silent_ns > (silence_ms + margin_ms) * 1000000;
        if (is_cut && may_complain) complain(self, m, silent_ns);
    }
}
