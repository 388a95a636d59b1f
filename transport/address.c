/* transport/address.c - see address.h. Only numbers are read; nothing is ever looked up.
 * SPDX-License-Identifier: Apache-2.0 */
#include "transport/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Its family, or 0. */
static int read_host(const char *host, struct sockaddr_storage *out)
{
    *out = (struct sockaddr_storage){0};
    struct sockaddr_in *four = (struct sockaddr_in *)out;
    struct sockaddr_in6 *six = (struct sockaddr_in6 *)out;
    if (inet_pton(AF_INET, host, &four->sin_addr) == 1) return four->sin_family = AF_INET;
    if (inet_pton(AF_INET6, host, &six->sin6_addr) == 1) return six->sin6_family = AF_INET6;
    return 0;
}

static bool is_wildcard(const struct sockaddr_storage *at)
{
    if (at->ss_family == AF_INET) return ((const struct sockaddr_in *)at)->sin_addr.s_addr == INADDR_ANY;
    return IN6_IS_ADDR_UNSPECIFIED(&((const struct sockaddr_in6 *)at)->sin6_addr);
}

bool tr_host_is_local(const char *host)
{
    struct sockaddr_storage at;
    int family = read_host(host, &at);
    if (family == AF_INET) return ntohl(((struct sockaddr_in *)&at)->sin_addr.s_addr) >> 24 == 127;
    return family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&((struct sockaddr_in6 *)&at)->sin6_addr);
}

/* "tcp://HOST:PORT", the host without brackets. */
static bool take_host(const char *address, char host[INET6_ADDRSTRLEN])
{
    if (strncmp(address, "tcp://", 6) != 0) return false;
    const char *begin = address + 6, *end = strrchr(begin, ':');
    if (!end) return false;
    if (*begin == '[' && end > begin + 1 && end[-1] == ']') {
        begin++;
        end--;
    }
    size_t length = (size_t)(end - begin);
    if (length == 0 || length >= INET6_ADDRSTRLEN) return false;
    memcpy(host, begin, length);
    host[length] = 0;
    return true;
}

bool tr_address_is_local(const char *address)
{
    char host[INET6_ADDRSTRLEN];
    return strncmp(address, "ipc://", 6) == 0 || (take_host(address, host) && tr_host_is_local(host));
}

tr_status tr_address_bind(char bind[TR_BIND_CHARS], const char *host, tr_error *err)
{
    struct sockaddr_storage at;
    int family = read_host(host, &at);
    if (!family)
        return tr_fail(err, TR_EINVAL,
                       "'%s' is no address in numbers; give one of this machine, such as 10.0.0.5", host);
    if (is_wildcard(&at))
        return tr_fail(err, TR_EINVAL,
                       "'%s' tells the others no place to connect to; give one address of this machine",
                       host);
    snprintf(bind, TR_BIND_CHARS, family == AF_INET ? "tcp://%s:*" : "tcp://[%s]:*", host);
    return TR_OK;
}

tr_status tr_address_try(const char *bind_text, tr_error *err)
{
    char host[INET6_ADDRSTRLEN];
    struct sockaddr_storage at;
    int family = take_host(bind_text, host) ? read_host(host, &at) : 0;
    if (!family) return tr_fail(err, TR_EINVAL, "'%s' is no address in numbers", bind_text);
    int probe = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool good = probe >= 0 && bind(probe, (struct sockaddr *)&at, sizeof at) == 0;
    tr_status status = TR_OK;
    if (!good)
        status = tr_fail(err, TR_EINVAL, "cannot listen at '%s': %s; give an address of this machine", host,
                         strerror(errno));
    if (probe >= 0) close(probe);
    return status;
}
