/* actors/stage_depart.c - see stage_depart.h. A ring; a device finishes in the order in which it was asked, so only the oldest
 * is looked at. A message that waits has taken no credit yet: whoever asks for credits counts those that wait as well.
 * SPDX-License-Identifier: Apache-2.0 */
#include "actors/stage_depart.h"

#include "actors/dispute.h"
#include "actors/replay.h"

static void send(tr__stage *self, const tr__departure *what)
{
    uint64_t begin = tr_trace_begin(&self->trace);
    if (!(what->flags & TR_FRAME_EVALUATION))
        tr__replay_note_sent(self, what->edge, what->body, (uint32_t)what->body->size_bytes,
                             what->microbatch);
    tr_edge_send(self->actor, what->edge, tr_buffer_retain(what->body), (uint32_t)what->body->size_bytes,
                 what->step, what->microbatch, (uint16_t)(what->flags | tr__disputes_flags(self)));
    tr_trace_end(&self->trace, TR_SPAN_SENDING, begin, what->step + !(what->flags & TR_FRAME_EVALUATION),
                 what->microbatch);
}

bool tr__depart(tr__stage *self, const tr__departure *what)
{
    if (!self->device) {
        send(self, what);
        return true;
    }
    TR_ASSERT(self->n_departures < TR__MOST_DEPARTURES);
    uint32_t place = (self->first_departure + self->n_departures) % TR__MOST_DEPARTURES;
    if (!tr__device_mark(self, place)) return false;
    self->departures[place] = *what;
    tr_buffer_retain(what->body);
    self->n_departures++;
    return true;
}

bool tr__departure_is_ready(const tr__stage *self)
{
    return self->n_departures > 0 && tr__device_is_past(self, self->first_departure);
}

bool tr__depart_ready(tr__stage *self)
{
    uint32_t place = self->first_departure;
    tr__departure *oldest = &self->departures[place];
    if (!tr__device_check(self, place)) return false;
    send(self, oldest);
    tr_buffer_release(&oldest->body);
    self->first_departure = (place + 1) % TR__MOST_DEPARTURES;
    self->n_departures--;
    return true;
}

uint32_t tr__departures_on(const tr__stage *self, uint32_t edge)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < self->n_departures; i++)
        n += self->departures[(self->first_departure + i) % TR__MOST_DEPARTURES].edge == edge;
    return n;
}

/* A credit for one more, beside those that wait for their device and will take theirs then. */
bool tr__may_send(const tr__stage *self, uint32_t edge)
{
    return tr_edge_credits(self->actor, edge) > tr__departures_on(self, edge);
}

/* Where results are on their way from a device one piece of work is queued behind the one at work, and none that would make
 * the host wait. */
bool tr__may_queue(const tr__stage *self, tr_phase phase)
{
    return self->n_departures == 0 ||
           (self->n_departures < TR__MOST_DEPARTURES && tr__device_may_bind(self, phase));
}
