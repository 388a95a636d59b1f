/* test/ops/norm_cases.h - the odd sizes that tests of row-wise operations share.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TEST_OPS_NORM_CASES_H
#define TROUPE_TEST_OPS_NORM_CASES_H

#include <stdint.h>

/* Below, at and above a vector, a tile of columns and a block of rows; the last has several tiles of rows. */
static const int64_t norm_sizes[][2] = {{1, 1},   {1, 3},   {2, 16},  {3, 17},  {5, 33},
                                        {31, 64}, {33, 65}, {65, 48}, {7, 129}, {100, 200}};
enum { N_NORM_SIZES = sizeof norm_sizes / sizeof *norm_sizes };

#endif
