/* test/actors/trace_test.c - spans on their way from an actor to the monitor's context: in order, none twice, never more
 * under way than agreed, and what finds no room is counted; a body that is none is refused.
 * SPDX-License-Identifier: Apache-2.0 */
#include "actors/trace.h"

#include "actors/monitor.h"
#include "actors/roles.h"
#include "actors/topics.h"
#include "base/memory.h"
#include "check.h"
#include "runtime/simulation.h"

#include <string.h>

enum { FITS = TR_TRACE_SPANS + TR_TRACE_FRAMES_UNDER_WAY * TR_TRACE_FRAME_SPANS, FINISH = 100 };

/* --- an actor with much to tell, and what was heard of it --- */

typedef struct teller {
    tr_trace trace;
    uint32_t n_at_once, n_rounds, told;
} teller;

typedef struct heard {
    uint32_t n, next, most_under_way, under_way;
    uint64_t n_dropped;
    bool broken;
} heard;

static uint32_t n_at_once, n_rounds; /* of the test at work */
static bool is_on;
static heard got;

static tr_status teller_init(tr_actor *actor, void *context, const void *config, size_t config_bytes,
                             void **state, tr_error *err)
{
    (void)context, (void)config, (void)config_bytes;
    teller *self = tr_alloc_zero(1, sizeof *self);
    TR_ASSERT(self);
    self->n_at_once = n_at_once;
    self->n_rounds = n_rounds;
    *state = self;
    return tr_trace_init(&self->trace, actor, is_on, err);
}

static void tell(tr_actor *actor, teller *self)
{
    for (uint32_t i = 0; i < self->n_at_once; i++, self->told++)
        tr_trace_end(&self->trace, TR_SPAN_WEIGHT, tr_trace_begin(&self->trace), self->told, self->told % 7);
    tr_trace_ship(&self->trace);
    tr_actor_timer(actor, 1000, --self->n_rounds == 0 ? FINISH : 0);
}

static void teller_start(tr_actor *actor, void *state)
{
    tell(actor, state);
}

static void teller_receive(tr_actor *actor, void *state, tr_message **message)
{
    teller *self = state;
    uint32_t topic = (*message)->frame.edge;
    if (topic == TR_TOPIC_TRACED) {
        got.under_way--;
        tr_trace_answered(&self->trace);
    } else if (topic == TR_TOPIC_TIMER && (*message)->frame.step == FINISH) {
        tr_actor_finish_job(actor);
    } else {
        tell(actor, self);
    }
}

static void teller_stop(tr_actor *actor, void *state)
{
    (void)actor;
    teller *self = state;
    tr_trace_release(&self->trace);
    tr_free(self);
}

static const tr_behavior teller_behavior = {.name = "teller",
                                            .init = teller_init,
                                            .start = teller_start,
                                            .receive = teller_receive,
                                            .stop = teller_stop};

static void on_trace(void *context, tr_actor_id who, const tr_span *spans, uint32_t n_spans,
                     uint64_t n_dropped)
{
    (void)context, (void)who;
    got.broken |= n_dropped < got.n_dropped || n_spans > TR_TRACE_FRAME_SPANS;
    got.n_dropped = n_dropped;
    got.n += n_spans;
    if (++got.under_way > got.most_under_way) got.most_under_way = got.under_way;
    for (uint32_t i = 0; i < n_spans; i++) {
        got.broken |= spans[i].step < got.next || spans[i].microbatch != spans[i].step % 7 ||
                      spans[i].kind != TR_SPAN_WEIGHT || spans[i].end_ns < spans[i].begin_ns;
        got.next = spans[i].step + 1;
    }
}

static void ignore_tick(void *context)
{
    (void)context;
}

static void run(bool on, uint32_t at_once, uint32_t rounds)
{
    tr_error err;
    tr_actor_id id;
    tr_topology topology;
    n_at_once = at_once, n_rounds = rounds, is_on = on;
    memset(&got, 0, sizeof got);
    tr_monitor_context monitor = {.tick = ignore_tick, .trace = on_trace};
    const tr_actor_kind kinds[] = {{TR_ROLE_MONITOR, &tr_monitor_behavior, &monitor},
                                   {"teller", &teller_behavior, NULL}};
    const tr_registry registry = {kinds, 2};
    tr_topology_init(&topology, 2);
    CHECK_OK(tr_topology_add_actor(&topology, TR_ROLE_MONITOR, TR_ROLE_MONITOR, 0, NULL, 0, 0, &id, &err));
    CHECK_OK(tr_topology_add_actor(&topology, "teller", "teller", 1, NULL, 0, 0, &id, &err));
    tr_simulation_options options = {.seed = 1,
                                     .topology = &topology,
                                     .registry = &registry,
                                     .control = {.delay_max_ns = 1000, .in_order = true},
                                     .max_events = 10000};
    tr_simulation *simulation;
    CHECK_OK(tr_simulation_new(&simulation, &options, &err));
    CHECK_OK(tr_simulation_run(simulation, &err));
    tr_simulation_destroy(&simulation);
    tr_topology_release(&topology);
}

/* --- promises --- */

static void all_spans_arrive_in_order(void)
{
    static const uint32_t counts[] = {1, TR_TRACE_FRAME_SPANS, 200, FITS};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        run(true, counts[i], 3);
        CU_ASSERT(!got.broken);
        CU_ASSERT_EQUAL(got.n, 3 * counts[i]);
        CU_ASSERT_EQUAL(got.n_dropped, 0);
    }
}

static void spans_that_find_no_room_are_dropped_and_counted(void)
{
    run(true, FITS + 1000, 2);
    CU_ASSERT(!got.broken);
    CU_ASSERT_EQUAL(got.n, 2 * FITS);
    CU_ASSERT_EQUAL(got.n_dropped, 2000);
}

static void no_more_frames_are_under_way_than_agreed(void)
{
    run(true, FITS, 2);
    CU_ASSERT_EQUAL(got.most_under_way, TR_TRACE_FRAMES_UNDER_WAY);
}

static void without_a_trace_nothing_is_told(void)
{
    run(false, 100, 2);
    CU_ASSERT(got.n == 0 && got.most_under_way == 0);
}

static bool reads(tr_packer *packer)
{
    tr_error err;
    void *bytes = NULL;
    size_t size = 0;
    CHECK_OK(tr_packer_take(packer, &bytes, &size, &err));
    tr_unpacker body;
    tr_span spans[TR_TRACE_FRAME_SPANS];
    uint32_t n_spans;
    uint64_t n_dropped;
    tr_unpacker_init(&body, bytes, size);
    uint32_t n_fields = tr_unpack_array(&body, UINT32_MAX);
    bool good = tr_trace_unpack(&body, n_fields, spans, &n_spans, &n_dropped);
    tr_free(bytes);
    return good;
}

/* n_fields numbers, the one at `at` being `value`; the others 1. */
static bool numbers_read(uint32_t n_fields, uint32_t at, uint64_t value)
{
    tr_packer packer;
    tr_packer_init(&packer);
    tr_pack_array(&packer, n_fields);
    for (uint32_t i = 0; i < n_fields; i++) tr_pack_uint(&packer, i == at ? value : 1);
    return reads(&packer);
}

static void a_body_that_is_no_trace_is_refused(void)
{
    CU_ASSERT(numbers_read(1, 0, 0) && numbers_read(6, 0, UINT64_MAX));
    CU_ASSERT(numbers_read(1 + 5 * TR_TRACE_FRAME_SPANS, 0, 0));
    CU_ASSERT(!numbers_read(1 + 5 * (TR_TRACE_FRAME_SPANS + 1), 0, 0)); /* too many */
    CU_ASSERT(!numbers_read(0, 0, 0) && !numbers_read(5, 0, 0) && !numbers_read(7, 0, 0));
    CU_ASSERT(!numbers_read(6, 1, TR_SPAN_KINDS)); /* no kind */
    CU_ASSERT(!numbers_read(6, 2, UINT64_MAX) && !numbers_read(6, 3, UINT64_MAX));
    CU_ASSERT(!numbers_read(6, 4, UINT64_MAX) && !numbers_read(6, 5, UINT64_MAX));
}

static const check_test tests[] = {
    CHECK_TEST(all_spans_arrive_in_order),
    CHECK_TEST(spans_that_find_no_room_are_dropped_and_counted),
    CHECK_TEST(no_more_frames_are_under_way_than_agreed),
    CHECK_TEST(without_a_trace_nothing_is_told),
    CHECK_TEST(a_body_that_is_no_trace_is_refused),
};
CHECK_MAIN("trace", tests)
