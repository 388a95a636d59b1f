/* What actors leave to their next lives: each finds its own, once, and what nobody takes is destroyed.
 * SPDX-License-Identifier: Apache-2.0 */
#include "check.h"

#include "runtime/keepsake.h"

static int n_destroyed;

static void destroy(void *what)
{
    *(int *)what = -1;
    n_destroyed++;
}

static void each_finds_its_own_once(void)
{
    tr_keepsakes all;
    int things[3] = {1, 2, 3};
    n_destroyed = 0;
    tr_keepsakes_init(&all);
    for (int i = 0; i < 3; i++)
        tr_keepsakes_put(&all, (tr_keepsake){(tr_actor_id)(7 + i), &things[i], destroy});
    CU_ASSERT(tr_keepsakes_take(&all, 8) == &things[1]);
    CU_ASSERT(tr_keepsakes_take(&all, 8) == NULL);
    CU_ASSERT(tr_keepsakes_take(&all, 6) == NULL);
    CU_ASSERT(tr_keepsakes_take(&all, 9) == &things[2]);
    CU_ASSERT_EQUAL(n_destroyed, 0); /* they are the taker's */
    tr_keepsakes_release(&all);
    CU_ASSERT_EQUAL(n_destroyed, 1);
    CU_ASSERT(things[0] == -1 && things[1] == 2 && things[2] == 3);
}

static void a_newer_one_takes_the_place_of_an_older(void)
{
    tr_keepsakes all;
    int things[2] = {1, 2};
    n_destroyed = 0;
    tr_keepsakes_init(&all);
    tr_keepsakes_put(&all, (tr_keepsake){7, &things[0], destroy});
    tr_keepsakes_put(&all, (tr_keepsake){7, &things[1], destroy});
    CU_ASSERT_EQUAL(n_destroyed, 1);
    CU_ASSERT(things[0] == -1);
    CU_ASSERT(tr_keepsakes_take(&all, 7) == &things[1]);
    tr_keepsakes_release(&all);
    CU_ASSERT_EQUAL(n_destroyed, 1);
}

static void what_nobody_took_is_cleared_away(void)
{
    tr_keepsakes all;
    int thing = 1;
    n_destroyed = 0;
    tr_keepsakes_init(&all);
    tr_keepsakes_put(&all, (tr_keepsake){7, &thing, destroy});
    tr_keepsakes_clear(&all);
    CU_ASSERT_EQUAL(n_destroyed, 1);
    CU_ASSERT(tr_keepsakes_take(&all, 7) == NULL);
    tr_keepsakes_release(&all);
    CU_ASSERT_EQUAL(n_destroyed, 1);
}

static const check_test tests[] = {
    CHECK_TEST(each_finds_its_own_once),
    CHECK_TEST(a_newer_one_takes_the_place_of_an_older),
    CHECK_TEST(what_nobody_took_is_cleared_away),
};
CHECK_MAIN("runtime/keepsake", tests)
