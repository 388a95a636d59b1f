/* actors/roles.c - see roles.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "actors/roles.h"

#include <stdio.h>
#include <string.h>

void tr_role_name_stage(char name[TR_NAME_BYTES], uint32_t replica, uint32_t stage)
{
    snprintf(name, TR_NAME_BYTES, "stage %u of replica %u", stage, replica);
}

void tr_role_name_shard(char name[TR_NAME_BYTES], uint32_t replica)
{
    snprintf(name, TR_NAME_BYTES, "data shard %u", replica);
}

tr_actor_id tr_role_find(const tr_topology *topology, const char *name)
{
    for (size_t i = 0; i < topology->n_actors; i++)
        if (strcmp(topology->actors[i].name, name) == 0) return topology->actors[i].id;
    return 0;
}

tr_actor_id tr_role_find_stage(const tr_topology *topology, uint32_t replica, uint32_t stage)
{
    char name[TR_NAME_BYTES];
    tr_role_name_stage(name, replica, stage);
    return tr_role_find(topology, name);
}
