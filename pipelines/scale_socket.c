/* pipelines/scale_socket.c - see scale_socket.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/scale_socket.h"

#include "base/local_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

tr_status tr_scale_listen(int directory, int *listener, tr_error *err)
{
    return tr_local_listen(directory, TR_SCALE_SOCKET, listener, err);
}

void tr_scale_unlink(int directory)
{
    unlinkat(directory, TR_SCALE_SOCKET, 0);
}

int tr_scale_accept(int listener)
{
    return tr_local_accept(listener, NULL);
}

tr_status tr_scale_connect(const char *run, int *connection, tr_error *err)
{
    int directory = open(run, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0) return tr_fail(err, TR_ENOTFOUND, "there is no run '%s': %s", run, strerror(errno));
    tr_error why;
    tr_status status = tr_local_connect(directory, TR_SCALE_SOCKET, connection, &why);
    close(directory);
    if (status == TR_ENOTFOUND)
        return tr_fail(
            err, TR_ENOTFOUND,
            "run '%s' is not running, or in a way that cannot be scaled (it needs layout.processes "
            "and recovery)",
            run);
    if (status != TR_OK)
        return tr_fail(err, status, "cannot reach the head of run '%s': %s", run, why.message);
    return TR_OK;
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
