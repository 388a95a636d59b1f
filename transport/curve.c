/* transport/curve.c - see curve.h. The file is looked at through its descriptor, so that what was checked is what is
 * read.
 * SPDX-License-Identifier: Apache-2.0 */
#include "transport/curve.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

enum { MOST_BYTES = 4096 };

static const char heading[] = "# The key of a Troupe job: whoever can read this file can join the job.\n"
                              "# Made by `troupe keygen`; recipes name it as network.key.\n";

static tr_status fail_unsupported(tr_error *err)
{
    return tr_fail(err, TR_EUNSUPPORTED, "this libzmq was built without CURVE; install one with libsodium");
}

tr_status tr_curve_key_new(tr_curve_key *out, tr_error *err)
{
    tr_curve_key made;
    if (!zmq_has("curve")) return fail_unsupported(err);
    if (zmq_curve_keypair(made.public_half, made.secret_half) != 0)
        return tr_fail(err, TR_EIO, "cannot make a key: %s", zmq_strerror(zmq_errno()));
    *out = made;
    tr_curve_key_wipe(&made);
    return TR_OK;
}

tr_status tr_curve_key_write(const tr_curve_key *self, const char *path, tr_error *err)
{
    char text[sizeof heading + 256];
    int size = snprintf(text, sizeof text, "%spublic %s\nsecret %s\n", heading, self->public_half,
                        self->secret_half);
    int file = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (file < 0) {
        explicit_bzero(text, sizeof text);
        if (errno == EEXIST)
            return tr_fail(err, TR_EEXIST,
                           "'%s' exists and is not overwritten; name another file, or remove it", path);
        return tr_fail(err, errno == ENOENT ? TR_ENOTFOUND : TR_EIO, "cannot make '%s': %s", path,
                       strerror(errno));
    }
    tr_status status = TR_OK;
    errno = ENOSPC; /* where write says that it wrote less */
    /* fchmod: a mask such as 0277 would take away what we need; none can add to 0600. */
    if (fchmod(file, 0600) != 0 || write(file, text, (size_t)size) != size || fsync(file) != 0)
        status = tr_fail(err, TR_EIO, "cannot write '%s': %s", path, strerror(errno));
    explicit_bzero(text, sizeof text);
    if (close(file) != 0 && status == TR_OK)
        status = tr_fail(err, TR_EIO, "cannot write '%s': %s", path, strerror(errno));
    if (status != TR_OK) unlink(path);
    return status;
}

/* A private regular file of a modest size? */
static tr_status check_file(int file, const char *path, tr_error *err)
{
    struct stat info;
    if (fstat(file, &info) != 0)
        return tr_fail(err, TR_EIO, "cannot look at '%s': %s", path, strerror(errno));
    if (!S_ISREG(info.st_mode))
        return tr_fail(err, TR_EINVAL, "'%s' is no file; give one that `troupe keygen` made", path);
    if (info.st_uid != geteuid() && info.st_uid != 0)
        return tr_fail(err, TR_EINVAL, "the key file '%s' belongs to another user, who could change it",
                       path);
    if (info.st_mode & 077)
        return tr_fail(
            err, TR_EINVAL,
            "the key file '%s' has mode %04o, so that others can open it; chmod 600 it, or make a new one",
            path, (unsigned)(info.st_mode & 07777));
    return TR_OK;
}

/* The word behind `name` at the beginning of a line. */
static bool take_half(const char *text, const char *name, char half[TR_CURVE_CHARS])
{
    size_t length = strlen(name);
    bool found = false;
    for (const char *line = text; line; line = strchr(line, '\n')) {
        if (*line == '\n') line++;
        if (strncmp(line, name, length) != 0) continue;
        if (found || strcspn(line + length, "\n") != TR_CURVE_CHARS - 1) return false;
        memcpy(half, line + length, TR_CURVE_CHARS - 1);
        half[TR_CURVE_CHARS - 1] = 0;
        found = true;
    }
    return found;
}

tr_status tr_curve_key_check(const tr_curve_key *self, tr_error *err)
{
    uint8_t bytes[32];
    char derived[TR_CURVE_CHARS];
    if (!zmq_has("curve")) return fail_unsupported(err);
    bool good = strlen(self->public_half) == TR_CURVE_CHARS - 1 &&
                strlen(self->secret_half) == TR_CURVE_CHARS - 1 && zmq_z85_decode(bytes, self->secret_half) &&
                zmq_curve_public(derived, self->secret_half) == 0 && strcmp(derived, self->public_half) == 0;
    explicit_bzero(bytes, sizeof bytes);
    if (good) return TR_OK;
    return tr_fail(err, TR_EINVAL, "it is not a public and a secret half that belong together");
}

tr_status tr_curve_key_read(tr_curve_key *out, const char *path, tr_error *err)
{
    char text[MOST_BYTES + 1];
    tr_curve_key read_key = {{0}, {0}};
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* no wait for the writer of a pipe */
    if (file < 0)
        return tr_fail(err, errno == ENOENT ? TR_ENOTFOUND : TR_EINVAL,
                       "cannot open the key file '%s': %s; `troupe keygen` makes one", path, strerror(errno));
    tr_status status = check_file(file, path, err);
    ssize_t size = 0;
    if (status == TR_OK && (size = read(file, text, sizeof text)) < 0)
        status = tr_fail(err, TR_EIO, "cannot read the key file '%s': %s", path, strerror(errno));
    close(file);
    if (status != TR_OK) return status;
    tr_error why;
    bool whole = size <= MOST_BYTES;
    text[whole ? size : 0] = 0;
    whole = whole && take_half(text, "public ", read_key.public_half) &&
            take_half(text, "secret ", read_key.secret_half);
    if (whole) status = tr_curve_key_check(&read_key, &why);
    if (!whole || status == TR_EINVAL)
        status = tr_fail(err, TR_EINVAL,
                         "'%s' is no key file, or was cut or changed; `troupe keygen` makes one", path);
    else if (status != TR_OK)
        status = tr_fail(err, status, "%s", why.message);
    else
        *out = read_key;
    explicit_bzero(text, sizeof text);
    tr_curve_key_wipe(&read_key);
    return status;
}

void tr_curve_key_wipe(tr_curve_key *self)
{
    explicit_bzero(self, sizeof *self);
}
