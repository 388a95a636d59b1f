/* test/transport/fake_nccl.c - a library with NCCL's names that moves memory between threads of one process: what
 * transport/nccl.c does with the real one is tested without a GPU. Like a communicator that does not block, everything is in
 * progress until it is asked for and all that it needs has come. Streams are not looked at: the CPU's are done at once.
 * FAKE_NCCL_REFUSES=RANK: that member's ncclCommInitRankConfig fails. FAKE_NCCL_HANGS: ncclCommAbort never returns.
 * SPDX-License-Identifier: Apache-2.0 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, SYSTEM_ERROR = 2, INVALID_USAGE = 5, IN_PROGRESS = 7, MOST_GROUPS = 512, MOST_OPS = 256 };

typedef struct unique_id {
    char bytes[128];
} unique_id;

typedef struct parcel {
    struct parcel *next;
    int from, to;
    size_t size;
    char bytes[];
} parcel;

static struct {
    pthread_mutex_t lock;
    int n_groups;
    struct {
        int joined;
        parcel *first;
    } groups[MOST_GROUPS];
} fake = {.lock = PTHREAD_MUTEX_INITIALIZER};

typedef struct operation {
    int peer;
    size_t size;
    void *to;         /* of a receive */
    const void *from; /* of a send */
} operation;

typedef struct communicator {
    int group, n_ranks, rank, n_waiting;
    int error;
    operation waiting[MOST_OPS]; /* receives, in order */
} communicator;

static _Thread_local struct {
    communicator *comm;
    int n;
    operation all[MOST_OPS];
} open_group;

int ncclGetVersion(int *version);
int ncclGetUniqueId(unique_id *id);
int ncclCommInitRankConfig(void **comm, int n_ranks, unique_id id, int rank, void *config);
int ncclCommAbort(void *comm);
int ncclCommGetAsyncError(void *comm, int *error);
const char *ncclGetErrorString(int result);
const char *ncclGetLastError(void *comm);
int ncclSend(const void *memory, size_t count, int type, int peer, void *comm, void *stream);
int ncclRecv(void *memory, size_t count, int type, int peer, void *comm, void *stream);
int ncclGroupStart(void);
int ncclGroupEnd(void);

int ncclGetVersion(int *version)
{
    *version = 22000;
    return SUCCESS;
}

int ncclGetUniqueId(unique_id *id)
{
    pthread_mutex_lock(&fake.lock);
    int group = fake.n_groups++ % MOST_GROUPS;
    fake.groups[group].joined = 0;
    pthread_mutex_unlock(&fake.lock);
    memset(id, 0, sizeof *id);
    memcpy(id->bytes, &group, sizeof group);
    return SUCCESS;
}

int ncclCommInitRankConfig(void **comm, int n_ranks, unique_id id, int rank, void *config)
{
    const char *refuses = getenv("FAKE_NCCL_REFUSES");
    (void)config;
    if (refuses && atoi(refuses) == rank) return SYSTEM_ERROR;
    communicator *self = calloc(1, sizeof *self);
    if (!self) return SYSTEM_ERROR;
    memcpy(&self->group, id.bytes, sizeof self->group);
    self->n_ranks = n_ranks;
    self->rank = rank;
    pthread_mutex_lock(&fake.lock);
    fake.groups[self->group].joined++;
    pthread_mutex_unlock(&fake.lock);
    *comm = self;
    return IN_PROGRESS;
}

int ncclCommAbort(void *comm)
{
    while (getenv("FAKE_NCCL_HANGS")) pause();
    free(comm);
    return SUCCESS;
}

static parcel **find(communicator *self, int from)
{
    parcel **at = &fake.groups[self->group].first;
    while (*at && ((*at)->from != from || (*at)->to != self->rank)) at = &(*at)->next;
    return at;
}

/* Takes what has come for the receives, of each peer in its order. */
static void progress(communicator *self)
{
    int kept = 0;
    unsigned blocked = 0;
    for (int i = 0; i < self->n_waiting; i++) {
        operation wanted = self->waiting[i];
        parcel **at = find(self, wanted.peer), *found = *at;
        if (!found || blocked >> wanted.peer & 1) {
            blocked |= 1u << wanted.peer;
            self->waiting[kept++] = wanted;
            continue;
        }
        if (found->size != wanted.size)
            self->error = INVALID_USAGE;
        else
            memcpy(wanted.to, found->bytes, found->size);
        *at = found->next;
        free(found);
    }
    self->n_waiting = kept;
}

int ncclCommGetAsyncError(void *comm, int *error)
{
    communicator *self = comm;
    pthread_mutex_lock(&fake.lock);
    if (fake.groups[self->group].joined < self->n_ranks) {
        *error = IN_PROGRESS;
    } else {
        progress(self);
        *error = self->error ? self->error : self->n_waiting ? IN_PROGRESS : SUCCESS;
    }
    pthread_mutex_unlock(&fake.lock);
    return SUCCESS;
}

const char *ncclGetErrorString(int result)
{
    return result == SYSTEM_ERROR ? "a system error" : result == INVALID_USAGE ? "invalid usage" : "?";
}

const char *ncclGetLastError(void *comm)
{
    (void)comm;
    return "it is only a fake";
}

static int add(communicator *comm, operation what)
{
    if (open_group.n == MOST_OPS || (open_group.comm && open_group.comm != comm)) return INVALID_USAGE;
    open_group.comm = comm;
    open_group.all[open_group.n++] = what;
    return SUCCESS;
}

int ncclSend(const void *memory, size_t count, int type, int peer, void *comm, void *stream)
{
    (void)type, (void)stream;
    return add(comm, (operation){.peer = peer, .size = count, .from = memory});
}

int ncclRecv(void *memory, size_t count, int type, int peer, void *comm, void *stream)
{
    (void)type, (void)stream;
    return add(comm, (operation){.peer = peer, .size = count, .to = memory});
}

int ncclGroupStart(void)
{
    open_group.comm = NULL;
    open_group.n = 0;
    return SUCCESS;
}

static int post(communicator *self, const operation *what)
{
    parcel *sent = malloc(sizeof *sent + what->size), **at = &fake.groups[self->group].first;
    if (!sent) return SYSTEM_ERROR;
    *sent = (parcel){.from = self->rank, .to = what->peer, .size = what->size};
    memcpy(sent->bytes, what->from, what->size);
    while (*at) at = &(*at)->next;
    *at = sent;
    return SUCCESS;
}

int ncclGroupEnd(void)
{
    communicator *self = open_group.comm;
    int result = SUCCESS;
    pthread_mutex_lock(&fake.lock);
    for (int i = 0; i < open_group.n; i++) {
        const operation *what = &open_group.all[i];
        if (what->from)
            result = post(self, what);
        else if (self->n_waiting < MOST_OPS)
            self->waiting[self->n_waiting++] = *what;
        if (result != SUCCESS) break;
    }
    pthread_mutex_unlock(&fake.lock);
    return result == SUCCESS ? IN_PROGRESS : result;
}
