/* pipelines/scale_socket.c - see scale_socket.h. The directory is reached through /proc/self/fd, since a socket's name may have
 * 107 bytes only and a run's directory more.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/scale_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { BACKLOG = 8 };

static struct sockaddr_un address_in(int directory)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/" TR_SCALE_SOCKET, directory);
    return address;
}

tr_status tr_scale_listen(int directory, int *listener, tr_error *err)
{
    struct sockaddr_un address = address_in(directory);
    int made = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (made < 0) return tr_fail(err, TR_EIO, "cannot make a socket: %s", strerror(errno));
    tr_scale_unlink(directory);
    /* Nobody can connect before it listens, and then its mode is right. */
    if (bind(made, (const struct sockaddr *)&address, sizeof address) == 0 &&
        chmod(address.sun_path, S_IRUSR | S_IWUSR) == 0 && listen(made, BACKLOG) == 0) {
        *listener = made;
        return TR_OK;
    }
    tr_status status =
        tr_fail(err, TR_EIO, "cannot listen at '" TR_SCALE_SOCKET "' of the run: %s", strerror(errno));
    close(made);
    return status;
}

void tr_scale_unlink(int directory)
{
    unlinkat(directory, TR_SCALE_SOCKET, 0);
}

int tr_scale_accept(int listener)
{
    for (;;) {
        struct ucred who;
        socklen_t size = sizeof who;
        int made = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (made < 0) return -1;
        if (getsockopt(made, SOL_SOCKET, SO_PEERCRED, &who, &size) == 0 &&
            (who.uid == geteuid() || who.uid == 0))
            return made;
        close(made);
    }
}

tr_status tr_scale_connect(const char *run, int *connection, tr_error *err)
{
    int directory = open(run, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0) return tr_fail(err, TR_ENOTFOUND, "there is no run '%s': %s", run, strerror(errno));
    struct sockaddr_un address = address_in(directory);
    int made = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    bool there = made >= 0 && connect(made, (const struct sockaddr *)&address, sizeof address) == 0;
    int why = errno;
    close(directory);
    if (there) {
        *connection = made;
        return TR_OK;
    }
    if (made >= 0) close(made);
    if (why == ENOENT || why == ECONNREFUSED)
        return tr_fail(
            err, TR_ENOTFOUND,
            "run '%s' is not running, or in a way that cannot be scaled (it needs layout.processes "
            "and recovery)",
            run);
    return tr_fail(err, TR_EIO, "cannot reach the head of run '%s': %s", run, strerror(why));
}

bool tr_scale_tell(int connection, const char *line)
{
    size_t size = strlen(line);
    return send(connection, line, size, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)size;
}

bool tr_scale_answer_with(int connection, tr_scale_answer kind, const char *line)
{
    char text[TR_SCALE_LINE_BYTES];
    snprintf(text, sizeof text, "%c%s", (char)kind, line);
    return tr_scale_tell(connection, text);
}

int tr_scale_hear(int connection, char *line, size_t capacity)
{
    ssize_t n;
    do
        n = recv(connection, line, capacity - 1,
                 0); /* reset: it closed without hearing us; its words come next */
    while (n < 0 && (errno == EINTR || errno == ECONNRESET));
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return 0;
    if (n <= 0 || memchr(line, 0, (size_t)n)) return -1;
    line[n] = 0;
    return 1;
}
