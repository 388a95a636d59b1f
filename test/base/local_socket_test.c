/* test/base/local_socket_test.c - messages and descriptors come over whole or not at all, and nothing of what was refused
 * stays open.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/local_socket.h"

#include "check.h"
#include "descriptors.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static tr_error err;

static void descriptors_come_in_order_with_their_message(void)
{
    int ends[2], sent[TR_LOCAL_MOST_DESCRIPTORS], came[TR_LOCAL_MOST_DESCRIPTORS], count = -1;
    char text[8] = "";
    CHECK_OK(tr_local_pair(ends, &err));
    for (int i = 0; i < TR_LOCAL_MOST_DESCRIPTORS; i++) sent[i] = i % 2 ? ends[0] : 1;
    int before = count_descriptors();
    CU_ASSERT(tr_local_receive(ends[1], text, sizeof text, came, 4, &count) < 0 && errno == EAGAIN && !count);
    CU_ASSERT(tr_local_send(ends[0], "many", 4, sent, TR_LOCAL_MOST_DESCRIPTORS));
    CU_ASSERT(tr_local_send(ends[0], "none", 4, NULL, 0));
    CU_ASSERT(tr_local_receive(ends[1], text, sizeof text, came, TR_LOCAL_MOST_DESCRIPTORS, &count) == 4);
    CU_ASSERT_FATAL(count == TR_LOCAL_MOST_DESCRIPTORS);
    CU_ASSERT(memcmp(text, "many", 4) == 0);
    for (int i = 0; i < count; i++) {
        CU_ASSERT(is_same_file(came[i], sent[i]) && (fcntl(came[i], F_GETFD) & FD_CLOEXEC));
        close(came[i]);
    }
    CU_ASSERT(tr_local_receive(ends[1], text, sizeof text, came, 0, &count) == 4 && count == 0);
    CU_ASSERT_EQUAL(count_descriptors(), before);
    close(ends[0]);
    CU_ASSERT_EQUAL(tr_local_receive(ends[1], text, sizeof text, came, 0, &count), 0);
    CU_ASSERT(!tr_local_send(ends[1], "late", 4, NULL, 0)); /* and no signal */
    close(ends[1]);
}

static void what_has_no_room_is_refused_whole(void)
{
    int ends[2], sent[3] = {0, 1, 2}, came[2], count;
    char text[8];
    CHECK_OK(tr_local_pair(ends, &err));
    int before = count_descriptors();
    CU_ASSERT(tr_local_send(ends[0], "3 in 2", 6, sent, 3));
    CU_ASSERT(tr_local_send(ends[0], "too long", 8, sent, 1));
    CU_ASSERT(tr_local_send(ends[0], "fits", 4, sent, 2));
    CU_ASSERT(tr_local_receive(ends[1], text, sizeof text, came, 2, &count) < 0 && errno == EBADMSG);
    CU_ASSERT(tr_local_receive(ends[1], text, 7, came, 2, &count) < 0 && errno == EBADMSG && count == 0);
    CU_ASSERT_EQUAL(count_descriptors(), before);
    CU_ASSERT(tr_local_receive(ends[1], text, sizeof text, came, 2, &count) == 4 && count == 2);
    for (int i = 0; i < count; i++) close(came[i]);
    close(ends[0]);
    close(ends[1]);
}

static void who_listens_under_a_name_is_found_there(void)
{
    char path[] = "/tmp/troupe-local-XXXXXX";
    CU_ASSERT_FATAL(mkdtemp(path) != NULL);
    int directory = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC), listener = -1, connection = -1;
    int32_t pid = 0;
    struct stat info;
    CU_ASSERT_EQUAL(tr_local_connect(directory, "name", &connection, &err), TR_ENOTFOUND);
    CHECK_OK(tr_local_listen(directory, "name", &listener, &err));
    CU_ASSERT(fstatat(directory, "name", &info, 0) == 0 && S_ISSOCK(info.st_mode) &&
              (info.st_mode & 0777) == 0600);
    CU_ASSERT_EQUAL(tr_local_accept(listener, &pid), -1); /* nobody, and it does not wait */
    CHECK_OK(tr_local_connect(directory, "name", &connection, &err));
    int accepted = tr_local_accept(listener, &pid);
    CU_ASSERT(accepted >= 0 && pid == getpid() && (fcntl(accepted, F_GETFL) & O_NONBLOCK));
    close(accepted);
    close(connection);
    close(listener); /* as a death leaves it */
    CU_ASSERT_EQUAL(tr_local_connect(directory, "name", &connection, &err), TR_ENOTFOUND);
    CHECK_OK(tr_local_listen(directory, "name", &listener, &err)); /* and the next one is not kept from it */
    CHECK_OK(tr_local_connect(directory, "name", &connection, &err));
    close(connection);
    close(listener);
    unlinkat(directory, "name", 0);
    close(directory);
    CU_ASSERT(rmdir(path) == 0);
}

static const check_test tests[] = {
    CHECK_TEST(descriptors_come_in_order_with_their_message),
    CHECK_TEST(what_has_no_room_is_refused_whole),
    CHECK_TEST(who_listens_under_a_name_is_found_there),
};
CHECK_MAIN("local_socket", tests)
