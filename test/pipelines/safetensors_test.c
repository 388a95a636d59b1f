/* test/pipelines/safetensors_test.c - what is written is read again bit for bit, and nothing that is damaged
 * is opened.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/safetensors.h"

#include "check.h"
#include "pipelines/files.h"

#include <math.h>

static tr_error err;

/* Writes length, header and `data_bytes` zeros, and opens the file.
 * The header's length may lie by `lie` bytes. */
static tr_status open_made(const char *header, size_t data_bytes, int64_t lie)
{
    char *directory = enter_directory(), *path = path_in(directory, "x.safetensors");
    uint64_t length = strlen(header) + lie;
    FILE *file = fopen(path, "wb");
    fwrite(&length, 1, 8, file);
    fputs(header, file);
    for (size_t i = 0; i < data_bytes; i++) fputc(0, file);
    fclose(file);
    err = (tr_error){0};
    tr_safetensors *reader = NULL;
    tr_status status = tr_safetensors_open(&reader, path, &err);
    tr_safetensors_close(&reader);
    if (status && !strstr(err.message, "x.safetensors")) status = TR_OK; /* every message names the file */
    leave_directory(directory);
    tr_free(path);
    return status;
}

static void whole_and_empty_files_open(void)
{
    CHECK_OK(open_made("{}", 0, 0));
    CHECK_OK(open_made("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}   ", 8, 0));
    CHECK_OK(open_made("{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", 4, 0));
    CHECK_OK(open_made("{\"a\":{\"dtype\":\"F32\",\"shape\":[0,3],\"data_offsets\":[0,0]}}", 0, 0));
    CHECK_OK(open_made("{\"a\":{\"dtype\":\"BOOL\",\"shape\":[1,1,1,1,2],\"data_offsets\":[0,2]}}", 2, 0));
}

static void every_damage_is_refused_with_its_reason(void)
{
    static const struct {
        const char *header;
        size_t data_bytes;
        int64_t lie;
        const char *words;
    } damages[] = {
        {"{", 0, 0, "not valid JSON"},
        {"", 0, 0, "not valid JSON"}, /* a header of no bytes */
        {"[]", 0, 0, "no JSON object"},
        {"{\"\xff\":{}}", 0, 0, "not valid JSON"},
        {"{\"a\":{\"dtype\":\"U8\",\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, 0,
         "duplicate object key"},
        {"{} x", 0, 0, "not valid JSON"},
        {"{}", 0, 1, "the file ends after"},
        {"{}", 0, -1, "not valid JSON"}, /* too short by a byte */
        {"{}", 0, 1LL << 40, "longer than the"},
        {"{\"a\":1}", 0, 0, "no object"},
        {"{\"a\":{}}", 0, 0, "no data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 7, 0, "may have been cut short"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 9, 0, "belong to no tensor"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}", 8, 0, "outside"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[-8,0]}}", 8, 0, "outside"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8.0]}}", 8, 0, "whole numbers"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8,9]}}", 8, 0, "whole numbers"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]}}", 8, 0, "has 8 bytes, but"},
        {"{\"a\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, 0, "has 8 bytes, but"},
        {"{\"a\":{\"dtype\":\"F31\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, 0, "unknown dtype 'F31'"},
        {"{\"a\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8, 0, "no dtype"},
        {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", 8, 0, "no shape"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}}", 8, 0, "dimension"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,8],\"data_offsets\":[0,8]}}", 8, 0,
         "more elements than can be counted"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904],\"data_offsets\":[0,0]}}", 0, 0,
         "has 0 bytes"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[2,6]}}",
         6, 0, "'a' and 'b' overlap"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}",
         2, 0, "'a' and 'b' overlap"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}", 3, 0,
         "a hole of 1 bytes lies before"},
        {"{\"a\":{\"dtype\":7,\"shape\":[2],\"data_offsets\":[0,2]}}", 2, 0, "no dtype"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":2,\"data_offsets\":[0,2]}}", 2, 0, "no shape"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2.0],\"data_offsets\":[0,2]}}", 2, 0, "dimension"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,99999999999999999999]}}", 2, 0,
         "not valid JSON"},
        {"{\"__metadata__\":[\"format\"]}", 0, 0, "__metadata__"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[4,6]}}",
         6, 0, "a hole of 2 bytes lies before tensor 'b'"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
         "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}",
         2, 0, "duplicate object key"},
        {"{\"a\\n'b\":{}}", 0, 0, "tensor 'a\\x0a\\'b'"},
        {"{\"__metadata__\":{\"format\":1}}", 0, 0, "__metadata__"},
    };
    for (size_t i = 0; i < sizeof damages / sizeof *damages; i++) {
        tr_status status = open_made(damages[i].header, damages[i].data_bytes, damages[i].lie);
        CU_ASSERT_EQUAL(status, TR_ECORRUPT);
        CU_ASSERT(message_has(&err, damages[i].words));
        CU_ASSERT_PTR_NULL(strchr(err.message, '\n'));
    }
}

static void files_too_short_and_missing_are_refused(void)
{
    char *directory = enter_directory(), *path = path_in(directory, "short");
    tr_safetensors *reader = NULL;
    CU_ASSERT_EQUAL(tr_safetensors_open(&reader, path, &err), TR_ENOTFOUND);
    for (size_t n = 0; n < 8; n++) {
        CHECK_OK(tr_file_write(path, "\2\0\0\0\0\0\0\0", n, &err));
        CU_ASSERT_EQUAL(tr_safetensors_open(&reader, path, &err), TR_ECORRUPT);
    }
    CU_ASSERT_EQUAL(tr_safetensors_open_model(&reader, directory, &err), TR_ENOTFOUND);
    CU_ASSERT(message_has(&err, "neither model.safetensors nor"));
    CU_ASSERT_PTR_NULL(reader);
    leave_directory(directory);
    tr_free(path);
}

/* Copies a file through reader and writer, in pieces of `piece` bytes from the end to the beginning. */
static void copy(const char *from, const char *to, size_t piece)
{
    tr_safetensors *reader = NULL;
    tr_safetensors_writer *writer = NULL;
    CHECK_OK(tr_safetensors_open_model(&reader, from, &err));
    CHECK_OK(tr_safetensors_writer_new(&writer, to, &err));
    size_t n = tr_safetensors_count(reader);
    for (size_t i = n; i-- > 0;) { /* backwards: the order must not matter */
        const tr_tensor_info *tensor = tr_safetensors_at(reader, i);
        CHECK_OK(tr_safetensors_writer_declare(writer, tensor->name, tensor->dtype, &tensor->shape, &err));
    }
    CHECK_OK(tr_safetensors_writer_begin(writer, TR_TENSORS_SORTED, &err));
    for (size_t i = 0; i < n; i++) {
        const tr_tensor_info *tensor = tr_safetensors_at(reader, n - 1 - i);
        for (uint64_t end = tensor->size_bytes; end > 0;) {
            uint64_t size = end < piece ? end : piece;
            end -= size;
            CHECK_OK(tr_safetensors_writer_put(writer, i, end, (const char *)tensor->data + end, size, &err));
        }
    }
    CU_ASSERT_FALSE(tr_path_exists(to));
    CHECK_OK(tr_safetensors_writer_commit(&writer, &err));
    CU_ASSERT_PTR_NULL(writer);
    tr_safetensors_close(&reader);
}

static void golden_weights_are_written_back_byte_for_byte(void)
{
    static const char *const models[] = {"test/golden/gpt2", "test/golden/llama"};
    for (int i = 0; i < 2; i++) {
        char *directory = enter_directory(), *to = path_in(directory, "model.safetensors");
        char *from = path_in(models[i], "model.safetensors");
        copy(models[i], to, 1000);
        CU_ASSERT(files_are_equal(from, to));
        leave_directory(directory);
        tr_free(from);
        tr_free(to);
    }
}

static void tensors_are_found_by_name_and_listed_sorted(void)
{
    tr_safetensors *reader = NULL;
    CHECK_OK(tr_safetensors_open(&reader, "test/golden/gpt2/golden.safetensors", &err));
    for (size_t i = 1; i < tr_safetensors_count(reader); i++)
        CU_ASSERT(strcmp(tr_safetensors_at(reader, i - 1)->name, tr_safetensors_at(reader, i)->name) < 0);
    const tr_tensor_info *logits = tr_safetensors_find(reader, "logits");
    CU_ASSERT_PTR_NOT_NULL_FATAL(logits);
    CU_ASSERT(logits->dtype == TR_F32 && logits->shape.rank == 3 && logits->shape.dims[2] == 320);
    CU_ASSERT_PTR_NULL(tr_safetensors_find(reader, "logit"));
    const tr_tensor_info *tokens = tr_safetensors_find(reader, "tokens");
    CU_ASSERT_PTR_NOT_NULL_FATAL(tokens);
    float unused;
    CU_ASSERT_EQUAL(tr_tensor_read_f32(tokens, 0, 1, &unused, &err), TR_EUNSUPPORTED);
    int64_t id;
    CHECK_OK(tr_tensor_read_i64(tokens, 3, 1, &id, &err));
    CU_ASSERT(id >= 0 && id < 320);
    tr_safetensors_close(&reader);
    CHECK_OK(tr_safetensors_open(&reader, "test/golden/gpt2/model.safetensors", &err));
    CU_ASSERT_STRING_EQUAL(tr_safetensors_metadata(reader, "format"), "pt");
    CU_ASSERT_PTR_NULL(tr_safetensors_metadata(reader, "other"));
    tr_safetensors_close(&reader);
}

static void write_one(const char *path, const char *name, tr_dtype dtype, int64_t n, const void *bytes,
                      size_t size)
{
    tr_safetensors_writer *writer = NULL;
    tr_shape shape = TR_SHAPE1(n);
    CHECK_OK(tr_safetensors_writer_new(&writer, path, &err));
    CHECK_OK(tr_safetensors_writer_declare(writer, name, dtype, &shape, &err));
    CHECK_OK(tr_safetensors_writer_begin(writer, TR_TENSORS_AS_DECLARED, &err));
    CHECK_OK(tr_safetensors_writer_put(writer, 0, 0, bytes, size, &err));
    CHECK_OK(tr_safetensors_writer_commit(&writer, &err));
}

static void check_reads(const char *path, tr_dtype dtype, const void *bytes, size_t size,
                        const float *expected, int n)
{
    float got[8];
    write_one(path, "x", dtype, n, bytes, size);
    tr_safetensors *reader = NULL;
    CHECK_OK(tr_safetensors_open(&reader, path, &err));
    CHECK_OK(tr_tensor_read_f32(tr_safetensors_find(reader, "x"), 1, n - 1, got + 1, &err));
    CHECK_OK(tr_tensor_read_f32(tr_safetensors_find(reader, "x"), 0, 1, got, &err));
    CU_ASSERT(memcmp(got, expected, (size_t)n * sizeof *got) == 0);
    tr_safetensors_close(&reader);
}

static void narrow_numbers_become_float_exactly(void)
{
    char *directory = enter_directory(), *path = path_in(directory, "x.safetensors");
    const uint16_t halves[] = {0x3C00, 0xC000, 0x0001, 0x8000, 0x7BFF, 0xFC00, 0x03FF};
    const float from_halves[] = {1, -2, 0x1p-24f, -0.0f, 65504, -INFINITY, 0x3FFp-24f};
    check_reads(path, TR_F16, halves, sizeof halves, from_halves, 7);
    const uint16_t bfloats[] = {0x3F80, 0xC049, 0x0001, 0x7F80};
    const float from_bfloats[] = {1, -3.140625f, 0x1p-133f, INFINITY};
    check_reads(path, TR_BF16, bfloats, sizeof bfloats, from_bfloats, 4);
    const double doubles[] = {1.0, 0.1, -1e300};
    const float from_doubles[] = {1, 0.1f, -INFINITY};
    check_reads(path, TR_F64, doubles, sizeof doubles, from_doubles, 3);
    leave_directory(directory);
    tr_free(path);
}

static void a_file_with_a_byte_missing_is_never_committed(void)
{
    char *directory = enter_directory(), *path = path_in(directory, "x.safetensors");
    const char bytes[12] = {0};
    static const int holes[][2] = {{0, 1}, {5, 6}, {11, 12}, {0, 12}};
    for (int i = 0; i < 4; i++) {
        tr_safetensors_writer *writer = NULL;
        tr_shape shape = TR_SHAPE1(3);
        CHECK_OK(tr_safetensors_writer_new(&writer, path, &err));
        CHECK_OK(tr_safetensors_writer_declare(writer, "x", TR_F32, &shape, &err));
        CHECK_OK(tr_safetensors_writer_begin(writer, TR_TENSORS_SORTED, &err));
        size_t begin = (size_t)holes[i][0], end = (size_t)holes[i][1];
        CHECK_OK(tr_safetensors_writer_put(writer, 0, end, bytes, 12 - end, &err));
        CHECK_OK(tr_safetensors_writer_put(writer, 0, 0, bytes, begin, &err));
        CHECK_OK(tr_safetensors_writer_put(writer, 0, 0, bytes, begin, &err)); /* again is not more */
        CU_ASSERT_EQUAL(tr_safetensors_writer_put(writer, 0, 8, bytes, 5, &err), TR_EINVAL);
        CU_ASSERT_EQUAL(tr_safetensors_writer_put(writer, 1, 0, bytes, 1, &err), TR_EINVAL);
        CU_ASSERT_EQUAL(tr_safetensors_writer_commit(&writer, &err), TR_EINVAL);
        CU_ASSERT(message_has(&err, "were not written"));
        CU_ASSERT_FALSE(tr_path_exists(path));
    }
    CU_ASSERT_EQUAL(rmdir(directory), 0); /* nothing is left behind */
    tr_free(directory);
    tr_free(path);
}

static void pieces_in_every_order_complete_a_tensor(void)
{
    char *directory = enter_directory(), *path = path_in(directory, "x.safetensors");
    for (unsigned order = 0; order < 120; order += CHECK_SIZE(1, 7)) {
        tr_safetensors_writer *writer = NULL;
        tr_shape shape = TR_SHAPE1(5);
        CHECK_OK(tr_safetensors_writer_new(&writer, path, &err));
        CHECK_OK(tr_safetensors_writer_declare(writer, "x", TR_U8, &shape, &err));
        CHECK_OK(tr_safetensors_writer_begin(writer, TR_TENSORS_SORTED, &err));
        unsigned char left[5] = {0, 1, 2, 3, 4};
        unsigned code = order;
        for (unsigned n = 5; n > 0; n--) { /* the order-th permutation */
            unsigned pick = code % n;
            code /= n;
            CHECK_OK(tr_safetensors_writer_put(writer, 0, left[pick], &left[pick], 1, &err));
            left[pick] = left[n - 1];
        }
        CHECK_OK(tr_safetensors_writer_commit(&writer, &err));
        tr_safetensors *reader = NULL;
        CHECK_OK(tr_safetensors_open(&reader, path, &err));
        CU_ASSERT(memcmp(tr_safetensors_at(reader, 0)->data, "\0\1\2\3\4", 5) == 0);
        tr_safetensors_close(&reader);
    }
    leave_directory(directory);
    tr_free(path);
}

static void impossible_declarations_are_refused(void)
{
    char *directory = enter_directory(), *path = path_in(directory, "x.safetensors");
    tr_safetensors_writer *writer = NULL;
    tr_shape one = TR_SHAPE1(1), huge = TR_SHAPE3(INT32_MAX, INT32_MAX, INT32_MAX);
    CHECK_OK(tr_safetensors_writer_new(&writer, path, &err));
    CHECK_OK(tr_safetensors_writer_declare(writer, "x", TR_F32, &one, &err));
    CU_ASSERT_EQUAL(tr_safetensors_writer_declare(writer, "x", TR_F32, &one, &err), TR_EEXIST);
    CU_ASSERT_EQUAL(tr_safetensors_writer_declare(writer, "", TR_F32, &one, &err), TR_EINVAL);
    CU_ASSERT_EQUAL(tr_safetensors_writer_declare(writer, "__metadata__", TR_F32, &one, &err), TR_EINVAL);
    CU_ASSERT_EQUAL(tr_safetensors_writer_declare(writer, "\xff", TR_F32, &one, &err), TR_EINVAL);
    CU_ASSERT_EQUAL(tr_safetensors_writer_declare(writer, "y", TR_F32, &huge, &err), TR_EINVAL);
    tr_safetensors_writer_destroy(&writer);
    leave_directory(directory);
    tr_free(path);
}

static tr_status open_sharded(const char *map)
{
    char *directory = enter_directory();
    char *first = path_in(directory, "model-1.safetensors"),
         *second = path_in(directory, "model-2.safetensors");
    char *index = path_in(directory, "model.safetensors.index.json");
    const float a = 1, b = 2;
    write_one(first, "a", TR_F32, 1, &a, 4);
    write_one(second, "b", TR_F32, 1, &b, 4);
    char *text = tr_format("{\"metadata\":{\"total_size\":8},\"weight_map\":%s}", map);
    CHECK_OK(tr_file_write(index, text, strlen(text), &err));
    tr_safetensors *reader = NULL;
    tr_status status = tr_safetensors_open_model(&reader, directory, &err);
    float got = 0;
    if (!status) CHECK_OK(tr_tensor_read_f32(tr_safetensors_find(reader, "b"), 0, 1, &got, &err));
    if (!status) CU_ASSERT_EQUAL(got, 2);
    tr_safetensors_close(&reader);
    leave_directory(directory);
    tr_free(first);
    tr_free(second);
    tr_free(index);
    tr_free(text);
    return status;
}

static void shards_are_one_model_and_must_match_their_index(void)
{
    CHECK_OK(open_sharded("{\"a\":\"model-1.safetensors\",\"b\":\"model-2.safetensors\"}"));
    CU_ASSERT_EQUAL(open_sharded("{\"a\":\"model-2.safetensors\",\"b\":\"model-1.safetensors\"}"),
                    TR_ECORRUPT);
    CU_ASSERT(message_has(&err, "but the index says model-2.safetensors"));
    CU_ASSERT_EQUAL(open_sharded("{\"a\":\"model-1.safetensors\",\"c\":\"model-1.safetensors\"}"),
                    TR_ECORRUPT);
    CU_ASSERT(message_has(&err, "'c' is not in model-1.safetensors"));
    CU_ASSERT_EQUAL(open_sharded("{\"a\":\"../model-1.safetensors\"}"), TR_ECORRUPT);
    CU_ASSERT(message_has(&err, "no plain file name"));
    CU_ASSERT_EQUAL(open_sharded("{\"a\":\"model-1\\n.safetensors\"}"),
                    TR_ECORRUPT); /* a message is one line */
    CU_ASSERT(message_has(&err, "'model-1\\x0a.safetensors', which is no plain file name"));
    CU_ASSERT_EQUAL(open_sharded("{\"a\":\"model-3.safetensors\"}"), TR_ENOTFOUND);
    CU_ASSERT(message_has(&err, "model-3.safetensors"));
    CU_ASSERT_EQUAL(open_sharded("7"), TR_ECORRUPT);
    CU_ASSERT(message_has(&err, "no weight_map"));
    CU_ASSERT_EQUAL(open_sharded("{\"a\":7}"), TR_ECORRUPT);
    CU_ASSERT(message_has(&err, "no plain file name"));
    CU_ASSERT_EQUAL(open_sharded("{\"a\":\"model-1.safetensors\",\"a\":\"model-2.safetensors\"}"),
                    TR_ECORRUPT);
    CU_ASSERT(message_has(&err, "duplicate object key"));
    CU_ASSERT_EQUAL(open_sharded("{\"a\":"), TR_ECORRUPT);
    CU_ASSERT(message_has(&err, "index.json:1: not valid JSON"));
}

static void no_allocation_that_fails_leaks_or_crashes(void)
{
    for (uint64_t n = 1; n < 40; n++) {
        tr_safetensors *reader = NULL;
        tr_memory_fail_after(n);
        tr_status status = tr_safetensors_open_model(&reader, "test/golden/llama", &err);
        tr_memory_fail_after(0);
        CU_ASSERT(status == TR_OK || status == TR_ENOMEM);
        tr_safetensors_close(&reader);
    }
}

int main(void)
{
    static const check_test tests[] = {
        CHECK_TEST(whole_and_empty_files_open),
        CHECK_TEST(every_damage_is_refused_with_its_reason),
        CHECK_TEST(files_too_short_and_missing_are_refused),
        CHECK_TEST(golden_weights_are_written_back_byte_for_byte),
        CHECK_TEST(tensors_are_found_by_name_and_listed_sorted),
        CHECK_TEST(narrow_numbers_become_float_exactly),
        CHECK_TEST(a_file_with_a_byte_missing_is_never_committed),
        CHECK_TEST(pieces_in_every_order_complete_a_tensor),
        CHECK_TEST(impossible_declarations_are_refused),
        CHECK_TEST(shards_are_one_model_and_must_match_their_index),
        CHECK_TEST(no_allocation_that_fails_leaks_or_crashes),
    };
    return check_run("safetensors", tests, sizeof tests / sizeof *tests);
}
