/* transport/ucx_setup.c - how UCX is started: its configuration, and a worker's address as text.
 * SPDX-License-Identifier: Apache-2.0 */
#include "transport/ucx_internal.h"

#include "base/hash.h"
#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What is set where the user's environment says nothing. Only loopback: a job of several hosts names its
 * devices. Error handling over shared memory is off in UCX's own defaults; without it such endpoints would
 * silently use TCP.
 * A key of a single transport is named as within that transport's own table, its variable is not. */
static const struct {
    const char *key, *value, *variables[3];
    const char *transports; /* parts of their names in UCX_TLS; NULL: whatever there is */
} defaults[] = {
    {"NET_DEVICES", "lo", {"UCX_NET_DEVICES"}, NULL},
    {"KEEPALIVE_INTERVAL", "2s", {"UCX_KEEPALIVE_INTERVAL"}, NULL},
    {"MM_ERROR_HANDLING",
     "y",
     {"UCX_POSIX_ERROR_HANDLING", "UCX_SYSV_ERROR_HANDLING", "UCX_MM_ERROR_HANDLING"},
     "sm shm mm posix sysv"},
    {"TX_SEG_SIZE", "256k", {"UCX_TCP_TX_SEG_SIZE"}, "tcp"},
    {"RX_SEG_SIZE", "256k", {"UCX_TCP_RX_SEG_SIZE"}, "tcp"},
};

/* Does the user say nothing about it, and may its transports be in use?
 * UCX warns of keys that nobody reads. */
static bool is_wanted(size_t i)
{
    for (int k = 0; k < 3 && defaults[i].variables[k]; k++)
        if (getenv(defaults[i].variables[k])) return false;
    const char *chosen = getenv("UCX_TLS");
    if (!chosen || chosen[0] == '^' || strstr(chosen, "all") || !defaults[i].transports) return true;
    char names[64], *rest = names;
    snprintf(names, sizeof names, "%s", defaults[i].transports);
    for (const char *name; (name = strsep(&rest, " "));)
        if (strstr(chosen, name)) return true;
    return false;
}

ucs_status_t tr__ucx_context_new(bool deaths_are_told, ucp_context_h *out)
{
    ucp_config_t *config;
    ucs_status_t status = ucp_config_read(NULL, NULL, &config);
    if (status != UCS_OK) return status;
    for (size_t i = 0; i < sizeof defaults / sizeof *defaults; i++) {
        if (!is_wanted(i)) continue;
        bool is_keepalive = strcmp(defaults[i].key, "KEEPALIVE_INTERVAL") == 0;
        ucs_status_t modified = ucp_config_modify(
            config, defaults[i].key, is_keepalive && deaths_are_told ? "inf" : defaults[i].value);
        if (modified != UCS_OK)
            tr_log(TR_LOG_WARNING, "ucx does not know %s: %s", defaults[i].key, ucs_status_string(modified));
    }
    const ucp_params_t params = {.field_mask = UCP_PARAM_FIELD_FEATURES,
                                 .features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP};
    status = ucp_init(&params, config, out);
    ucp_config_release(config);
    return status;
}

/* "ucx://", the checksum of the worker's address, the address; all but the first in hexadecimal. The checksum
 * is there because UCX believes whatever address it is given. */
ucs_status_t tr__ucx_address_write(ucp_worker_h worker, char text[TR_ADDRESS_CHARS])
{
    ucp_address_t *address;
    size_t size;
    ucs_status_t status = ucp_worker_get_address(worker, &address, &size);
    if (status != UCS_OK) return status;
    if (size * 2 + 16 > TR_ADDRESS_CHARS) {
        status = UCS_ERR_EXCEEDS_LIMIT; /* too many devices: UCX_NET_DEVICES can name fewer */
    } else {
        char *at = text + snprintf(text, 32, "ucx://%08x", tr_crc32c(address, size));
        for (size_t i = 0; i < size; i++) at += snprintf(at, 3, "%02x", ((const uint8_t *)address)[i]);
    }
    ucp_worker_release_address(worker, address);
    return status;
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

size_t tr__ucx_address_read(const char *text, uint8_t bytes[TR_ADDRESS_CHARS / 2])
{
    uint8_t all[TR_ADDRESS_CHARS / 2];
    size_t size = 0, length = strlen(text);
    if (strncmp(text, "ucx://", 6) != 0 || length % 2 || length < 16 || length >= TR_ADDRESS_CHARS) return 0;
    for (text += 6; *text; text += 2) {
        int high = hex_digit(text[0]), low = hex_digit(text[1]);
        if (high < 0 || low < 0) return 0;
        all[size++] = (uint8_t)(high << 4 | low);
    }
    if (size <= 4) return 0;
    uint32_t crc = (uint32_t)all[0] << 24 | (uint32_t)all[1] << 16 | (uint32_t)all[2] << 8 | all[3];
    if (tr_crc32c(all + 4, size - 4) != crc) return 0;
    memcpy(bytes, all + 4, size - 4);
    return size - 4;
}
