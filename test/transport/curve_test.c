/* test/transport/curve_test.c - key files: private, never overwritten, and read only when they are whole; and which
 * addresses stay on this machine.
 * SPDX-License-Identifier: Apache-2.0 */
#include "transport/curve.h"

#include "check.h"
#include "transport/address.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char directory[] = "/tmp/troupe-curve-XXXXXX", path[64];
static tr_error err;

static void write_bytes(const char *text, size_t size)
{
    unlink(path);
    FILE *file = fopen(path, "w");
    CU_ASSERT_FATAL(file != NULL);
    fwrite(text, 1, size, file);
    fclose(file);
    chmod(path, 0600);
}

static void refused_as_no_key(const char *text, size_t size)
{
    tr_curve_key key = {"untouched", "untouched"};
    write_bytes(text, size);
    CU_ASSERT_EQUAL(tr_curve_key_read(&key, path, &err), TR_EINVAL);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.message, "is no key file"));
    CU_ASSERT_STRING_EQUAL(key.secret_half, "untouched");
}

static void written_key_comes_back_and_only_its_owner_can_open_it(void)
{
    tr_curve_key made, other, back;
    struct stat info;
    CHECK_OK(tr_curve_key_new(&made, &err));
    CHECK_OK(tr_curve_key_new(&other, &err));
    CU_ASSERT(strcmp(made.secret_half, other.secret_half) != 0);
    unlink(path);
    mode_t before = umask(0);
    CHECK_OK(tr_curve_key_write(&made, path, &err));
    umask(before);
    CU_ASSERT(stat(path, &info) == 0 && (info.st_mode & 07777) == 0600);
    CHECK_OK(tr_curve_key_read(&back, path, &err));
    CU_ASSERT(memcmp(&made, &back, sizeof made) == 0);
    tr_curve_key_wipe(&back);
    for (size_t i = 0; i < sizeof back; i++) CU_ASSERT_EQUAL(((const char *)&back)[i], 0);
}

static void a_key_file_is_never_overwritten(void)
{
    tr_curve_key made, other, back;
    CHECK_OK(tr_curve_key_new(&made, &err));
    CHECK_OK(tr_curve_key_new(&other, &err));
    unlink(path);
    CHECK_OK(tr_curve_key_write(&made, path, &err));
    CU_ASSERT_EQUAL(tr_curve_key_write(&other, path, &err), TR_EEXIST);
    CHECK_OK(tr_curve_key_read(&back, path, &err));
    CU_ASSERT(memcmp(&made, &back, sizeof made) == 0);
    unlink(path);
    CU_ASSERT_EQUAL(symlink("/dev/null", path), 0);
    CU_ASSERT_EQUAL(tr_curve_key_write(&other, path, &err), TR_EEXIST);
    unlink(path);
    CU_ASSERT_EQUAL(tr_curve_key_write(&made, "/no/such/directory/key", &err), TR_ENOTFOUND);
}

static void a_key_file_that_others_can_open_is_refused(void)
{
    static const mode_t loose[] = {0640, 0604, 0620, 0602, 0610, 0601, 0660, 0644, 0666, 0777};
    tr_curve_key made, back;
    CHECK_OK(tr_curve_key_new(&made, &err));
    unlink(path);
    CHECK_OK(tr_curve_key_write(&made, path, &err));
    for (size_t i = 0; i < sizeof loose / sizeof *loose; i++) {
        chmod(path, loose[i]);
        CU_ASSERT_EQUAL(tr_curve_key_read(&back, path, &err), TR_EINVAL);
        CU_ASSERT_PTR_NOT_NULL(strstr(err.message, "chmod 600"));
    }
    chmod(path, 0400);
    CHECK_OK(tr_curve_key_read(&back, path, &err));
}

static void what_is_no_key_is_refused_without_quoting_it(void)
{
    tr_curve_key made, other, back;
    char text[400], mixed[400], doubled[800];
    static char endless[5000];
    CHECK_OK(tr_curve_key_new(&made, &err));
    CHECK_OK(tr_curve_key_new(&other, &err));
    int size = snprintf(text, sizeof text, "public %s\nsecret %s\n", made.public_half, made.secret_half);
    write_bytes(text, (size_t)size);
    CHECK_OK(tr_curve_key_read(&back, path, &err));
    for (size_t cut = 0; cut < (size_t)size - 1; cut++)
        refused_as_no_key(text, cut); /* the last is the line's end */
    CU_ASSERT_PTR_NULL(strstr(err.message, made.secret_half));
    int n = snprintf(mixed, sizeof mixed, "public %s\nsecret %s\n", other.public_half, made.secret_half);
    refused_as_no_key(mixed, (size_t)n);
    n = snprintf(mixed, sizeof mixed, "public %s\nsecret %s\n", made.secret_half, made.public_half);
    refused_as_no_key(mixed, (size_t)n);
    n = snprintf(doubled, sizeof doubled, "%s%s", text, text);
    refused_as_no_key(doubled, (size_t)n);
    memset(endless, '#', sizeof endless);
    refused_as_no_key(endless, sizeof endless);
    refused_as_no_key("\0\0\0", 3);
    unlink(path);
    CU_ASSERT_EQUAL(tr_curve_key_read(&back, path, &err), TR_ENOTFOUND);
    CU_ASSERT_EQUAL(tr_curve_key_read(&back, directory, &err), TR_EINVAL);
    CU_ASSERT_EQUAL(mkfifo(path, 0600), 0);
    CU_ASSERT_EQUAL(tr_curve_key_read(&back, path, &err), TR_EINVAL); /* and does not wait for a writer */
}

static void only_numbers_of_this_machine_are_addresses(void)
{
    static const char *const none[] = {"",       "localhost",   "0.0.0.0", "::",   "*",
                                       "10.0.0", "10.0.0.1:80", "[::1]",   "eth0", "1.2.3.4/8"};
    static const char *const local[] = {"127.0.0.1", "127.9.9.9", "::1"};
    static const char *const far[] = {"10.0.0.5", "128.0.0.1", "fd00::2", "::ffff:127.0.0.1", "localhost"};
    char bind[TR_BIND_CHARS];
    for (size_t i = 0; i < sizeof none / sizeof *none; i++)
        CU_ASSERT_EQUAL(tr_address_bind(bind, none[i], &err), TR_EINVAL);
    for (size_t i = 0; i < sizeof local / sizeof *local; i++) {
        CU_ASSERT(tr_host_is_local(local[i]));
        CHECK_OK(tr_address_bind(bind, local[i], &err));
        CU_ASSERT(tr_address_is_local(bind));
    }
    for (size_t i = 0; i < sizeof far / sizeof *far; i++) CU_ASSERT_FALSE(tr_host_is_local(far[i]));
    CHECK_OK(tr_address_bind(bind, "fd00::2", &err));
    CU_ASSERT_STRING_EQUAL(bind, "tcp://[fd00::2]:*");
    CU_ASSERT_FALSE(tr_address_is_local(bind));
    CHECK_OK(tr_address_try("tcp://127.0.0.1:*", &err));
    CU_ASSERT_EQUAL(tr_address_try("tcp://192.0.2.77:*", &err), TR_EINVAL); /* documentation's, nobody's */
    CU_ASSERT(tr_address_is_local("ipc://@x"));
    CU_ASSERT_FALSE(tr_address_is_local("udp://127.0.0.1:1"));
}

static const check_test tests[] = {
    CHECK_TEST(written_key_comes_back_and_only_its_owner_can_open_it),
    CHECK_TEST(a_key_file_is_never_overwritten),
    CHECK_TEST(a_key_file_that_others_can_open_is_refused),
    CHECK_TEST(what_is_no_key_is_refused_without_quoting_it),
    CHECK_TEST(only_numbers_of_this_machine_are_addresses),
};

int main(void)
{
    if (!mkdtemp(directory)) return 1;
    snprintf(path, sizeof path, "%s/key", directory);
    int result = check_run("transport/curve", tests, sizeof tests / sizeof *tests);
    unlink(path);
    rmdir(directory);
    return result;
}
