// SPDX-License-Identifier: GPL-2.0-or-later
/* What the network layer reads that others wrote: the ruleset of the host and lines of /proc/net, and the texts of a
 * member. The first byte chooses. */
#include <netinet/in.h>
#include <stdint.h>
#include <string.h>

#include "base/json.h"
#include "base/text.h"
#include "network/blocker.h"
#include "network/network.h"
#include "network/rules.h"
#include "network/sockets.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_ruleset(const char *text, size_t size) {
    static const struct packet packet = { "it", PACKET_FORWARD, "polder0", "eth0", 0x0a750005, 0xcb007101, IPPROTO_TCP,
                                          443, false };
    _cleanup_json_ struct json_object *json = NULL;
    _cleanup_blocker_ struct blocker blocker = { 0 };

    if (json_parse(text, size, &json, NULL) < 0)
        return;
    (void) blocker_find(json, &packet, &blocker);
    (void) blocker_others_route(json);
}

/* Whatever a member is made of, its rules are one line per element. */
static void fuzz_member(char *text) {
    char *rest = text, *name = strsep(&rest, "\n"), *mac = rest ? strsep(&rest, "\n") : NULL;
    char *address = rest ? strsep(&rest, "\n") : NULL;
    struct instance_port port = { .host_address = rest, .host_port = 80, .port = 80 };
    struct field_array ports = { &port, 1 };
    struct network_member given = { .uuid = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d",
                                    .name = name,
                                    .mac = mac,
                                    .address = address,
                                    .ports = &ports };
    _cleanup_member_ struct member *member = NULL;
    _cleanup_buffer_ struct buffer out = BUFFER_INIT;
    size_t lines = 0;

    if (!name || member_new(&given, &member, NULL) < 0)
        return;
    rules_add_member(&out, member);
    for (size_t i = 0; i < out.size; i++)
        lines += out.data[i] == '\n';
    if (lines != 4 || strchr(out.data, ';'))
        __builtin_trap();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    _cleanup_free_ char *text = NULL;
    struct socket_entry entry;

    if (size < 1)
        return 0;
    text = strndup((const char *) data + 1, size - 1);
    if (!text)
        return 0;
    if (data[0] % 4 == 0)
        fuzz_ruleset((const char *) data + 1, size - 1);
    else if (data[0] % 4 == 3)
        fuzz_member(text);
    else
        (void) socket_parse(text, data[0] % 4 == 2, &entry);
    return 0;
}
