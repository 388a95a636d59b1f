/* pipelines/checkpoint_manifest.c - see checkpoint_manifest.h. The hash is 128-bit XXH3: it finds damage, not
 * forgery.
 * SPDX-License-Identifier: Apache-2.0 */
#include "pipelines/checkpoint_manifest.h"

#include "base/file.h"
#include "base/memory.h"

#include <dirent.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static const char *const MANIFEST = "trainer/manifest.json";

static tr_status add_file(json_t *files, const char *directory, const char *relative, tr_error *err)
{
    char *path = tr_format("%s/%s", directory, relative), hex[33];
    uint64_t size;
    if (!path) return tr_fail(err, TR_ENOMEM, "no memory for a path");
    tr_status status = tr_file_hash(path, hex, &size, err);
    tr_free(path);
    if (status) return status;
    json_t *entry = json_pack("{s:I, s:s}", "bytes", (json_int_t)size, "xxh3_128", hex);
    if (!entry || json_object_set_new(files, relative, entry) != 0)
        return tr_fail(err, TR_ENOMEM, "no memory for a checkpoint's manifest");
    return TR_OK;
}

static tr_status add_directory(json_t *files, const char *directory, const char *inner, tr_error *err)
{
    char *path = tr_format("%s/%s", directory, inner);
    if (!path) return tr_fail(err, TR_ENOMEM, "no memory for a path");
    DIR *entries = opendir(path);
    tr_free(path);
    if (!entries) return tr_fail(err, TR_EIO, "could not list '%s/%s'", directory, inner);
    tr_status status = TR_OK;
    for (struct dirent *entry; !status && (entry = readdir(entries));) {
        if (entry->d_name[0] == '.') continue;
        char *relative = tr_format("%s%s", inner, entry->d_name),
             *full = relative ? tr_format("%s/%s", directory, relative) : NULL;
        if (!full)
            status = tr_fail(err, TR_ENOMEM, "no memory for a path");
        else if (!tr_path_is_directory(full) && strcmp(relative, MANIFEST) != 0)
            status = add_file(files, directory, relative, err);
        tr_free(full);
        tr_free(relative);
    }
    closedir(entries);
    return status;
}

tr_status tr_manifest_write(const char *directory, tr_error *err)
{
    json_t *files = json_object();
    if (!files) return tr_fail(err, TR_ENOMEM, "no memory for a checkpoint's manifest");
    tr_status status = add_directory(files, directory, "", err);
    if (!status) status = add_directory(files, directory, "trainer/", err);
    json_t *root = json_pack("{s:i, s:o}", "version", 1, "files", files);
    char *text = root && !status ? json_dumps(root, JSON_INDENT(1) | JSON_SORT_KEYS) : NULL;
    char *path = tr_format("%s/%s", directory, MANIFEST);
    if (!status && (!text || !path))
        status = tr_fail(err, TR_ENOMEM, "no memory for a checkpoint's manifest");
    if (!status) status = tr_file_write(path, text, strlen(text), err);
    tr_free(path);
    free(text); /* jansson's */
    json_decref(root);
    return status;
}

static tr_status verify_file(const char *directory, const char *relative, const json_t *entry, tr_error *err)
{
    const char *expected = json_string_value(json_object_get(entry, "xxh3_128"));
    const json_t *bytes = json_object_get(entry, "bytes");
    char *path = tr_format("%s/%s", directory, relative), hex[33];
    uint64_t size;
    if (!path) return tr_fail(err, TR_ENOMEM, "no memory for a path");
    tr_status status = tr_file_hash(path, hex, &size, err);
    if (status == TR_ENOTFOUND) {
        status = tr_fail(err, TR_ECORRUPT, "'%s' of the checkpoint's manifest is missing", path);
    } else if (!status && (!expected || strcmp(hex, expected) != 0 || !json_is_integer(bytes) ||
                           (uint64_t)json_integer_value(bytes) != size))
        status = tr_fail(err, TR_ECORRUPT,
                         "'%s' (%" PRIu64 " bytes) does not match the checkpoint's manifest", path, size);
    tr_free(path);
    return status;
}

/* A file that the manifest does not name would be taken unseen. */
static tr_status names_all(const json_t *files, const char *path, tr_error *err)
{
    static const char *const needed[] = {"config.json", "model.safetensors", "trainer/optimizer.safetensors",
                                         "trainer/state.json"};
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
        if (!json_object_get(files, needed[i]))
            return tr_fail(err, TR_ECORRUPT, "'%s' does not name '%s'", path, needed[i]);
    return TR_OK;
}

tr_status tr_manifest_verify(const char *directory, tr_error *err)
{
    char *path = tr_format("%s/%s", directory, MANIFEST), *text = NULL;
    size_t size;
    if (!path) return tr_fail(err, TR_ENOMEM, "no memory for a path");
    tr_status status = tr_file_read(path, &text, &size, err);
    json_error_t at;
    json_t *root = status ? NULL : json_loadb(text, size, JSON_REJECT_DUPLICATES, &at);
    json_t *files = json_object_get(root, "files");
    if (!status && (json_integer_value(json_object_get(root, "version")) != 1 || !json_is_object(files) ||
                    json_object_size(files) == 0))
        status = tr_fail(err, TR_ECORRUPT, "'%s' is not the manifest of a checkpoint", path);
    if (!status) status = names_all(files, path, err);
    tr_free(text);
    tr_free(path);
    const char *relative;
    json_t *entry;
    if (!status) json_object_foreach(files, relative, entry)
        {
            status = verify_file(directory, relative, entry, err);
            if (status) break;
        }
    json_decref(root);
    return status;
}
