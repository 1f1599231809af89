// SPDX-License-Identifier: GPL-2.0-or-later
/* Who sends how much to whom, as the bridge counted it: the set "flows" of the table "bridge polder" has a counter for each
 * pair of hardware addresses: those of members, since the guard lets nobody send as another, and only what leaves by the port
 * that it is for is counted. */
#include <errno.h>
#include <json-c/json.h>
#include <string.h>

#include "base/json.h"
#include "base/map.h"
#include "network/internal.h"
#include "network/nft.h"

/* Members' uuids by their addresses. */
struct addresses {
    struct map *map;
    char (*texts)[MAC_TEXT_SIZE]; /* its keys */
};

static void addresses_done(struct addresses *addresses) {
    map_free(addresses->map);
    free(addresses->texts);
}

static int addresses_init(struct addresses *addresses, const struct network *network) {
    int r;

    addresses->texts = calloc(network->count + 1, sizeof(*addresses->texts));
    r = addresses->texts ? map_new(&addresses->map) : -ENOMEM;
    for (size_t i = 0; r >= 0 && i < network->count; i++) {
        r = map_put(addresses->map, mac_format(network->members[i]->mac, addresses->texts[i]), network->members[i]->uuid);
        if (r == -EEXIST)
            r = 0;
    }
    return r;
}

static const char *member_of(const struct addresses *addresses, struct json_object *value) {
    return json_object_is_type(value, json_type_string) ? map_get(addresses->map, json_object_get_string(value)) : NULL;
}

/* { "elem": { "val": { "concat": [ FROM, TO ] }, "counter": { "packets": P, "bytes": C } } } */
static bool flow_read(const struct addresses *addresses, struct json_object *element, struct network_flow *ret) {
    struct json_object *inner = json_member(element, "elem"), *counter = json_member(inner, "counter");
    struct json_object *pair = json_member(json_member(inner, "val"), "concat");
    const char *from, *to;

    if (!json_object_is_type(pair, json_type_array) || json_object_array_length(pair) != 2)
        return false;
    from = member_of(addresses, json_object_array_get_idx(pair, 0));
    to = member_of(addresses, json_object_array_get_idx(pair, 1));
    if (!from || !to)
        return false;
    memcpy(ret->from, from, sizeof(ret->from));
    memcpy(ret->to, to, sizeof(ret->to));
    ret->packets = (uint64_t) json_integer(counter, "packets", 0);
    ret->bytes = (uint64_t) json_integer(counter, "bytes", 0);
    return ret->packets > 0;
}

static struct json_object *elements_of(struct json_object *answer) {
    struct json_object *rows = json_member(answer, "nftables");

    for (size_t i = 0; json_object_is_type(rows, json_type_array) && i < json_object_array_length(rows); i++) {
        struct json_object *set = json_member(json_object_array_get_idx(rows, i), "set");
        if (set)
            return json_member(set, "elem");
    }
    return NULL;
}

static int flows_read(const struct network *network, const char *text, struct network_flow **ret, size_t *ret_count) {
    _cleanup_json_ struct json_object *answer = NULL;
    _cleanup_(addresses_done) struct addresses addresses = { 0 };
    struct json_object *elements;
    size_t length;
    int r = json_parse(text, strlen(text), &answer, NULL);

    if (r >= 0)
        r = addresses_init(&addresses, network);
    if (r < 0)
        return r;
    elements = elements_of(answer);
    length = json_object_is_type(elements, json_type_array) ? json_object_array_length(elements) : 0;
    *ret = calloc(length + 1, sizeof(**ret));
    if (!*ret)
        return -ENOMEM;
    *ret_count = 0;
    for (size_t i = 0; i < length; i++)
        *ret_count += flow_read(&addresses, json_object_array_get_idx(elements, i), &(*ret)[*ret_count]);
    return 0;
}

int network_flows(struct network *network, struct network_flow **ret, size_t *ret_count, struct error *error) {
    _cleanup_free_ char *text = NULL;
    int r = network_lock(network, error);

    *ret = NULL;
    *ret_count = 0;
    if (r < 0)
        return r;
    if (network->rules_loaded)
        r = nft_query("list set bridge polder flows", &text, error);
    if (r >= 0 && text)
        r = flows_read(network, text, ret, ret_count);
    network_unlock(network);
    return r < 0 && !error_is_set(error) ? error_errno(error, r, "reading what members sent to each other") : r;
}
