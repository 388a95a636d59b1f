/* actors/roles.h - who is who in a training run: the names by which actors stand in the topology, and back.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_ACTORS_ROLES_H
#define TROUPE_ACTORS_ROLES_H

#include "runtime/topology.h"

#ifdef __cplusplus
extern "C" {
#endif

#define TR_ROLE_COORDINATOR "coordinator"
#define TR_ROLE_CHECKPOINT "checkpoint"
#define TR_ROLE_MONITOR "monitor"

/* "stage 1 of replica 0". */
void tr_role_name_stage(char name[TR_NAME_BYTES], uint32_t replica, uint32_t stage);
void tr_role_name_shard(char name[TR_NAME_BYTES], uint32_t replica);     /* "data shard 0" */
tr_actor_id tr_role_find(const tr_topology *topology, const char *name); /* 0 when there is none */
tr_actor_id tr_role_find_stage(const tr_topology *topology, uint32_t replica, uint32_t stage);

#ifdef __cplusplus
}
#endif
#endif
