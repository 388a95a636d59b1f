/* ops/cpu/tiles.h - how elementwise work is cut: into tiles that depend on the number of elements alone.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_CPU_TILES_H
#define TROUPE_OPS_CPU_TILES_H

#include <stdint.h>

enum { TR_ELEMENT_TILE = 8192 }; /* 32 KiB of floats: a first-level cache of a few operands' worth */

static inline int64_t tr_tile_count(int64_t n, int64_t tile)
{
    return (n + tile - 1) / tile;
}

static inline int64_t tr_min_i64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Rows in a tile such that a tile has about TR_ELEMENT_TILE elements; at least one. */
static inline int64_t tr_tile_rows(int64_t columns)
{
    /* NOLINTNEXTLINE(clang-analyzer-core.DivideZero): no shape has an empty dimension */
    return columns < TR_ELEMENT_TILE ? TR_ELEMENT_TILE / columns : 1;
}

#endif
