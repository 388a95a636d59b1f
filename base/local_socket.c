/* base/local_socket.c - see local_socket.h. The directory is reached through /proc/self/fd, since a socket's name may have 107
 * bytes only and a path more.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/local_socket.h"

#include "base/memory.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { BACKLOG = 8 };

typedef union ancillary {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(TR_LOCAL_MOST_DESCRIPTORS * sizeof(int))];
} ancillary;

static struct sockaddr_un address_in(int directory, const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int n = snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/%.64s", directory, name);
    TR_ASSERT(n > 0 && n < (int)sizeof address.sun_path);
    return address;
}

tr_status tr_local_listen(int directory, const char *name, int *listener, tr_error *err)
{
    struct sockaddr_un address = address_in(directory, name);
    int made = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (made < 0) return tr_fail(err, TR_EIO, "cannot make a socket: %s", strerror(errno));
    unlinkat(directory, name, 0);
    /* Nobody can connect before it listens, and then its mode is right. */
    if (bind(made, (const struct sockaddr *)&address, sizeof address) == 0 &&
        chmod(address.sun_path, S_IRUSR | S_IWUSR) == 0 && listen(made, BACKLOG) == 0) {
        *listener = made;
        return TR_OK;
    }
    tr_status status = tr_fail(err, TR_EIO, "cannot listen at '%s' of the run: %s", name, strerror(errno));
    close(made);
    return status;
}

int tr_local_accept(int listener, int32_t *pid)
{
    for (;;) {
        struct ucred who;
        socklen_t size = sizeof who;
        int made = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (made < 0) return -1;
        if (getsockopt(made, SOL_SOCKET, SO_PEERCRED, &who, &size) == 0 &&
            (who.uid == geteuid() || who.uid == 0)) {
            if (pid) *pid = who.pid;
            return made;
        }
        close(made);
    }
}

tr_status tr_local_connect(int directory, const char *name, int *connection, tr_error *err)
{
    struct sockaddr_un address = address_in(directory, name);
    int made = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (made < 0) return tr_fail(err, TR_EIO, "cannot make a socket: %s", strerror(errno));
    if (connect(made, (const struct sockaddr *)&address, sizeof address) == 0) {
        *connection = made;
        return TR_OK;
    }
    bool nobody = errno == ENOENT || errno == ECONNREFUSED;
    tr_status status = tr_fail(err, nobody ? TR_ENOTFOUND : TR_EIO, "cannot reach '%s' of the run: %s", name,
                               strerror(errno));
    close(made);
    return status;
}

tr_status tr_local_pair(int ends[2], tr_error *err)
{
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0) return TR_OK;
    return tr_fail(err, TR_EIO, "cannot make a pair of sockets: %s", strerror(errno));
}

bool tr_local_send(int socket, const void *bytes, size_t size_bytes, const int *descriptors, int count)
{
    ancillary control = {0};
    struct iovec part = {(void *)(uintptr_t)bytes, size_bytes}; /* sendmsg only reads it */
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    TR_ASSERT(count >= 0 && count <= TR_LOCAL_MOST_DESCRIPTORS);
    if (count) {
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE((size_t)count * sizeof(int));
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN((size_t)count * sizeof(int));
        memcpy(CMSG_DATA(header), descriptors, (size_t)count * sizeof(int));
    }
    return sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)size_bytes;
}

ssize_t tr_local_receive(int socket, void *bytes, size_t capacity, int *descriptors, int room, int *count)
{
    ancillary control = {0};
    struct iovec part = {bytes, capacity};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    int came[TR_LOCAL_MOST_DESCRIPTORS], n_came = 0;
    *count = 0;
    ssize_t n = recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n < 0) return n;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
        size_t more = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        memcpy(came + n_came, CMSG_DATA(header), more * sizeof(int));
        n_came += (int)more;
    }
    if (n_came > room || (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC))) {
        for (int i = 0; i < n_came; i++) close(came[i]);
        errno = EBADMSG;
        return -1;
    }
    if (n_came) memcpy(descriptors, came, (size_t)n_came * sizeof(int));
    *count = n_came;
    return n;
}
