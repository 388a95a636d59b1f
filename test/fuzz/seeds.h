/* test/fuzz/seeds.h - how seeds are written: by make_seeds.c, and those of messages by message_seeds.c.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_TEST_FUZZ_SEEDS_H
#define TROUPE_TEST_FUZZ_SEEDS_H

#include "base/pack.h"
#include "base/status.h"

#include <stdio.h>
#include <stdlib.h>

#define MUST(call)                                                                                           \
    do {                                                                                                     \
        if ((call) != TR_OK) {                                                                               \
            fprintf(stderr, "%s: %s\n", #call, err.message);                                                 \
            exit(1);                                                                                         \
        }                                                                                                    \
    } while (0)

/* seeds/TARGET/NAME: `head` bytes first, then the bytes. */
void seed(const char *target, const char *name, const void *head, size_t head_bytes, const void *bytes,
          size_t size_bytes);
static inline void begin_packed(tr_packer *packer, size_t n_fields)
{
    tr_packer_init(packer);
    tr_pack_array(packer, n_fields);
}

/* The topology of a job of one worker, with the words that begin it; agents' words; a place holds a recipe. */
void make_topology(void);
void make_hosts(void);
void make_messages(const char *recipe);

#endif
