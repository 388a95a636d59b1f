/* runtime/launch.h - making a child of this same program: what it must know travels in a sealed memfd at
 * descriptor 3, never in arguments or environment, where others could read the job's key. A child ends when
 * its parent does: it asks the kernel for SIGKILL at the parent's death (prctl(2), PR_SET_PDEATHSIG) and then
 * looks whether the parent is still there; an agent with a lease only looks, and watches for itself. A worker of a job on one
 * host asks for SIGKILL at the end of its life line instead (runtime/holdings.h). A child ignores SIGINT and SIGTERM: a
 * terminal or a supervisor sends them to the whole process group, and the head tells its children in its own order.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TROUPE_RUNTIME_LAUNCH_H
#define TROUPE_RUNTIME_LAUNCH_H

#include "runtime/chaos.h"
#include "runtime/topology.h"
#include "transport/address.h"
#include "transport/transport.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { TR_LAUNCH_DESCRIPTOR = 3, TR_LAUNCH_FIRST_INHERITED = 4, TR_KIND_BYTES = 16 };

#define TR_LAUNCH_ARGUMENT "--troupe-child="

/* With which a worker ends whose device failed (TR_EDEVICE); others end with 1, or 2 for TR_EINVAL. */
enum { TR_EXIT_DEVICE = 3 };

typedef enum tr_launch_role { TR_LAUNCH_AGENT = 1, TR_LAUNCH_WORKER } tr_launch_role;

typedef struct tr_launch {
    tr_launch_role role;
    int32_t parent_pid;
    int32_t node; /* the agent's is the first number behind those that workers may have in any layout */
    uint32_t incarnation, epoch;
    int32_t n_threads;
    uint32_t hung_after_ms; /* the agent's: see watchdog in agent.c; 0: never */
    /* How long agent and workers wait for another head when theirs is gone (runtime/lease.h); 0: they end with it. Otherwise
     * an agent inherits the directory where it can be found and the memory that it keeps for the head. */
    uint32_t lease_ms;
    uint32_t layout; /* of which the state regions are that a worker gets, or an agent; see tr_control_note */
    int32_t n_states; /* state regions among the inherited descriptors, behind the activity page */
    bool may_spin;
    int32_t member; /* which agent it is, or is of: host_messages.h; 0 on one host */
    bool hosted;    /* of an agent: the head tells which workers are its (TR_CONTROL_HOMES); else all are */
    uint32_t
        silence_ms; /* of an agent on another host than the head: when it has heard nothing for so long it ends; 0: not */
    uint32_t
        copy_mib_per_s; /* of an agent: what its copies for other hosts may take of the network; 0: what there is */
    uint64_t term; /* of an agent: its head's, see tr_job_former */
    uint8_t job_key[TR_JOB_KEY_BYTES];
    char control_transport[TR_KIND_BYTES], data_transport[TR_KIND_BYTES];
    char head_address[TR_ADDRESS_CHARS];
    char chaos[TR_CHAOS_CHARS]; /* points, see tr_chaos_parse */
    char bind[TR_BIND_CHARS];   /* where nodes listen over zmq; "": chosen */
    bool has_key;
    tr_curve_key key; /* by which they know one another there */
    void *topology;   /* encoded; the agent's, to know whom to start and how they are called; owned */
    size_t topology_bytes;
} tr_launch;

/* Starts /proc/self/exe with this launch and copies of the `count` descriptors, from
 * TR_LAUNCH_FIRST_INHERITED on; it inherits nothing else but 0, 1 and 2. *pidfd is the caller's. Errors:
 * TR_EIO, TR_ENOMEM. */
tr_status tr_launch_spawn(const tr_launch *self, const int *descriptors, int count, int *pid, int *pidfd,
                          tr_error *err);

/* The launch in a sealed memfd, the caller's to close; and read from one. Errors: TR_EIO, TR_ENOMEM, TR_ECORRUPT. */
tr_status tr_launch_write(const tr_launch *self, int *descriptor, tr_error *err);
tr_status tr_launch_read(tr_launch *self, int descriptor, tr_error *err);

/* In the child: reads the launch and ties this process to its parent's life.
 * Errors: TR_ECORRUPT, TR_ECLOSED (orphaned). */
tr_status tr_launch_receive(tr_launch *self, tr_error *err);
void tr_launch_release(tr_launch *self); /* also wipes its keys */

/* Where the last descriptors that it inherits are: an agent's end of the pair of sockets for its holdings (not where it is
 * hosted), behind what it has with a lease; a worker's end of that over which its agent speaks, and, not where it is hosted,
 * of its life line. */
int tr_launch_holdings(const tr_launch *self);
int tr_launch_word(const tr_launch *self);
int tr_launch_life(const tr_launch *self);

/* Private: the launch as MessagePack. Release what decode gave, also after a failure. Errors: TR_ENOMEM, TR_ECORRUPT. */
tr_status tr__launch_encode(const tr_launch *self, void **bytes, size_t *size_bytes, tr_error *err);
tr_status tr__launch_decode(tr_launch *self, const void *bytes, size_t size_bytes, tr_error *err);

typedef struct tr_process_end {
    int32_t exit_code, signal; /* signal 0: it exited */
} tr_process_end;

/* Reaps the child behind pidfd when it has ended; false: it lives. What is not our child counts as ended when
 * it is a zombie or gone, with exit code -1. */
bool tr_process_reap(int pidfd, tr_process_end *end);
void tr_process_kill(int pidfd, int signal);
int tr_process_open(int32_t pid); /* a pidfd; -1: there is no such process */

#ifdef __cplusplus
}
#endif
#endif
