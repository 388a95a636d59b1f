/* ops/examine.h - which operation made a value that is no number: looks at what nodes have written, right behind each.
 * For a run that is made once more because its result was no number: it reads all outputs, on a GPU after copying them, and
 * so takes as long as it needs. It changes nothing.
 * Threads: the program's.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_OPS_EXAMINE_H
#define TROUPE_OPS_EXAMINE_H

#include "ops/program.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A value that is NaN or infinite, and where. */
typedef struct tr_oddity {
    const tr_node *node;
    int32_t position, n_positions; /* of the node among all that are run */
    double value;                  /* the first of them */
    int64_t index, n_elements;     /* its place in the output */
    const char *parameter;         /* that the node reads; "" where it reads none */
    /* It was there before the node ran: in that parameter, or in what the caller bound as an input. */
    bool in_parameter, in_input;
} tr_oddity;

/* Looks at what the node at this position has written; for tr_bindings.behind. *out is set where something in it is no number.
 * Integers are passed over. What cannot be looked at (no memory, a device that fails) is passed over too. */
bool tr_examine(const tr_program *program, const tr_bindings *bindings, int32_t position, tr_oddity *out);

#ifdef __cplusplus
}
#endif
#endif
