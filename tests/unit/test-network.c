// SPDX-License-Identifier: GPL-2.0-or-later
/* The network layer without a network: subnets, member decoding, rules as golden files (rewrite them with
 * POLDER_GOLDEN_UPDATE=1), sockets of /proc and the rules of others. */
#include "test.h"

#include <fcntl.h>
#include <linux/rtnetlink.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/file.h"
#include "base/json.h"
#include "base/text.h"
#include "network/blocker.h"
#include "network/link.h"
#include "network/member.h"
#include "network/network.h"
#include "network/rules.h"
#include "network/sockets.h"

/* --- subnets ----------------------------------------------------------------------------------------- */

static struct subnet subnet(const char *text) {
    struct subnet subnet;

    assert_int_equal(subnet_parse(text, &subnet), 0);
    return subnet;
}

static void test_subnet_parse(void **state) {
    static const char *const bad[] = { "",
                                       "10.0.0.0",
                                       "10.0.0.0/",
                                       "10.0.0.0/8",
                                       "10.0.0.0/30",
                                       "10.0.0.1/24",
                                       "10.0.0.0/024",
                                       "10.0.0.0/24 ",
                                       "a/24",
                                       "10.0.0.0.0/24",
                                       "10.0.0/24",
                                       "010.0.0.0/24",
                                       "10.0.0.0/-24",
                                       "::/24",
                                       "10.0.0.0/24;",
                                       "1111111111111111111/24" };
    struct subnet ignored;
    char text[SUBNET_TEXT_SIZE];

    assert_string_equal(subnet_format(subnet("10.117.0.0/24"), text), "10.117.0.0/24");
    assert_string_equal(subnet_format(subnet("172.16.0.0/16"), text), "172.16.0.0/16");
    for (size_t i = 0; i < ELEMENTS(bad); i++)
        assert_int_equal(subnet_parse(bad[i], &ignored), -EINVAL);
    assert_int_equal(subnet_parse(NULL, &ignored), -EINVAL);
}

static void test_subnet_members(void **state) {
    struct subnet net = subnet("10.117.0.0/29");

    assert_false(subnet_is_member(net, net.address));
    assert_false(subnet_is_member(net, net.address + 1));
    assert_true(subnet_is_member(net, net.address + 2));
    assert_true(subnet_is_member(net, net.address + 6));
    assert_false(subnet_is_member(net, net.address + 7));
    assert_false(subnet_is_member(net, net.address + 8));
    assert_true(subnet_overlaps(net, (struct subnet){ 0x0a000000, 8 }));
    assert_true(subnet_overlaps((struct subnet){ 0x0a750002, 32 }, net));
    assert_false(subnet_overlaps(net, subnet("10.117.1.0/24")));
}

static void test_subnet_choice(void **state) {
    struct subnet taken[3] = { { 0x0a750000, 16 }, { 0x0a760000, 24 }, { 0xc0000200, 24 } }, chosen;
    struct subnet everything[3] = { { 0x0a000000, 8 }, { 0xac100000, 12 }, { 0xc0a80000, 16 } };
    char text[SUBNET_TEXT_SIZE];

    assert_int_equal(subnet_choose(NULL, 0, &chosen), 0);
    assert_string_equal(subnet_format(chosen, text), "10.117.0.0/24");
    assert_int_equal(subnet_choose(taken, 3, &chosen), 0);
    assert_string_equal(subnet_format(chosen, text), "10.119.0.0/24");
    assert_int_equal(subnet_choose(everything, 1, &chosen), 0);
    assert_string_equal(subnet_format(chosen, text), "172.26.117.0/24");
    assert_int_equal(subnet_choose(everything, 2, &chosen), 0);
    assert_string_equal(subnet_format(chosen, text), "192.168.117.0/24");
    assert_int_equal(subnet_choose(everything, 3, &chosen), -ENOSPC);
    for (unsigned n = 0; subnet_candidate(n, &chosen); n++)
        assert_int_equal(chosen.address & ~subnet_mask(24), 0);
}

static void test_mac(void **state) {
    static const char *const bad[] = { "",
                                       "52:54:00:00:00",
                                       "52:54:00:00:00:00:00",
                                       "52-54-00-00-00-01",
                                       "52:54:00:00:00:0G",
                                       "53:54:00:00:00:01",
                                       "00:00:00:00:00:00",
                                       "52:54:00:00:00:01\n",
                                       "52:54:00:00:00:0A" };
    uint8_t mac[6];
    char text[MAC_TEXT_SIZE];

    assert_int_equal(mac_parse("52:54:0a:75:00:05", mac), 0);
    assert_string_equal(mac_format(mac, text), "52:54:0a:75:00:05");
    mac_from_address(0x0a750005, mac);
    assert_string_equal(mac_format(mac, text), "52:54:0a:75:00:05");
    for (size_t i = 0; i < ELEMENTS(bad); i++)
        assert_int_equal(mac_parse(bad[i], mac), -EINVAL);
}

/* --- members ----------------------------------------------------------------------------------------- */

#define UUID_A "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
#define UUID_B "ffffffff-ffff-4fff-8fff-ffffffffffff"

static struct instance_port ports_a[] = {
    { .protocol = PROTOCOL_TCP, .host_port = 8080, .port = 80 },
    { .protocol = PROTOCOL_UDP, .host_address = (char *) "127.0.0.1", .host_port = 5353, .port = 53 },
};
static const struct field_array array_a = { ports_a, ELEMENTS(ports_a) };
static const struct network_member given_a = { .uuid = UUID_A,
                                               .name = "web-1",
                                               .mac = "52:54:0a:75:00:05",
                                               .address = "10.117.0.5",
                                               .ports = &array_a,
                                               .rate_out = 2500000 };
static const struct network_member given_b = {
    .uuid = UUID_B, .name = "db", .mac = "52:54:0a:75:00:06", .address = "10.117.0.6"
};

static struct member *member(const struct network_member *given) {
    _cleanup_error_ struct error error = ERROR_INIT;
    struct member *made = NULL;

    assert_int_equal(member_new(given, &made, &error), 0);
    return made;
}

static void test_member(void **state) {
    _cleanup_member_ struct member *a = member(&given_a);
    char port[IFNAMSIZ];

    assert_string_equal(a->port, "pl0a1b2c3d4e");
    assert_int_equal(a->publish_count, 2);
    member_port_name(UUID_B, port);
    assert_string_equal(port, "plffffffffff");
    assert_true(member_is_port_name("pl0123456789"));
    assert_false(member_is_port_name("pl012345678"));
    assert_false(member_is_port_name("pl01234567890"));
    assert_false(member_is_port_name("pl01234567zz"));
    assert_false(member_is_port_name("plip0"));
}

static void refused(struct network_member given, enum error_code code) {
    _cleanup_error_ struct error error = ERROR_INIT;
    struct member *made = NULL;

    assert_true(member_new(&given, &made, &error) < 0);
    assert_int_equal(error.code, code);
    assert_null(made);
}

/* What would add a rule if it ever reached a rule's text (attacks: A32). */
static void test_member_bad(void **state) {
    struct instance_port port = { .host_port = 80, .port = 80 };
    const struct field_array array = { &port, 1 };
    struct network_member given = given_a;

    given.name = "x\"; add rule inet polder raw accept #";
    refused(given, ERROR_BAD_NAME);
    given = given_a;
    given.uuid = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d\n";
    refused(given, ERROR_BAD_VALUE);
    given = given_a;
    given.mac = "52:54:0a:75:00:05 }; flush ruleset";
    refused(given, ERROR_BAD_VALUE);
    given = given_a;
    given.address = "10.117.0.5 }";
    refused(given, ERROR_BAD_VALUE);
    given = given_a;
    given.ports = &array;
    port.host_port = 65536;
    refused(given, ERROR_BAD_VALUE);
    port.host_port = 0;
    refused(given, ERROR_BAD_VALUE);
    port.host_port = 80;
    port.port = -1;
    refused(given, ERROR_BAD_VALUE);
    port.port = 80;
    port.host_address = (char *) "::1";
    refused(given, ERROR_NOT_SUPPORTED);
    port.host_address = (char *) "localhost";
    refused(given, ERROR_BAD_VALUE);
}

static void test_publish_conflicts(void **state) {
    struct publish any = { IPPROTO_TCP, 80, 80, 0 }, local = { IPPROTO_TCP, 80, 81, 0x7f000001 };
    struct publish other = { IPPROTO_TCP, 80, 81, 0x0a000001 }, udp = { IPPROTO_UDP, 80, 80, 0 };
    struct publish next = { IPPROTO_TCP, 81, 80, 0 };
    char text[PUBLISH_TEXT_SIZE];

    assert_true(publish_conflicts(&any, &any));
    assert_true(publish_conflicts(&any, &local));
    assert_true(publish_conflicts(&local, &any));
    assert_false(publish_conflicts(&local, &other));
    assert_false(publish_conflicts(&any, &udp));
    assert_false(publish_conflicts(&any, &next));
    assert_string_equal(publish_format(&any, text), "80/tcp");
    assert_string_equal(publish_format(&local, text), "127.0.0.1:80/tcp");
}

/* --- rules ------------------------------------------------------------------------------------------- */

static void golden(const char *name, const char *text) {
    const char *sources = getenv("POLDER_TEST_SOURCES");
    _cleanup_free_ char *path = text_format("%s/../golden/network/%s", sources ? sources : ".", name);
    _cleanup_free_ char *expected = NULL;

    if (getenv("POLDER_GOLDEN_UPDATE"))
        assert_int_equal(file_write_atomic(AT_FDCWD, path, text, strlen(text), 0644, false), 0);
    assert_int_equal(file_read(AT_FDCWD, path, 1 << 20, &expected, NULL), 0);
    assert_string_equal(text, expected);
}

static void test_rules(void **state) {
    _cleanup_member_ struct member *a = member(&given_a), *b = member(&given_b);
    struct member *members[] = { a, b };
    struct rules rules = { .bridge = "polder0", .subnet = subnet("10.117.0.0/24") };
    _cleanup_buffer_ struct buffer all = BUFFER_INIT, add = BUFFER_INIT, remove = BUFFER_INIT,
                                   end = BUFFER_INIT;

    rules_add_all(&all, &rules, members, 2);
    golden("all.nft", all.data);
    rules_add_member(&add, a);
    golden("add-member.nft", add.data);
    rules_remove_member(&remove, a);
    golden("remove-member.nft", remove.data);
    rules_remove_all(&end);
    golden("remove-all.nft", end.data);
}

/* --- sockets ----------------------------------------------------------------------------------------- */

static void test_sockets(void **state) {
    struct socket_entry entry;

    assert_true(
        socket_parse("   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0"
                     "        0 4711 1 0000000000000000 100 0 0 10 0",
                     false, &entry));
    assert_true(entry.listening && !entry.wildcard);
    assert_int_equal(entry.address, 0x7f000001);
    assert_int_equal(entry.port, 8080);
    assert_int_equal(entry.inode, 4711);
    assert_true(
        socket_parse("   1: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A "
                     "00000000:00000000 00:00000000 00000000     0        0 12 1",
                     true, &entry));
    assert_true(entry.listening && entry.wildcard && entry.version6);
    assert_true(
        socket_parse("   1: 0000000000000000FFFF00000100007F:0050 00000000000000000000000000000000:0000 01 "
                     "00000000:00000000 00:00000000 00000000     0        0 12 1",
                     true, &entry));
    assert_false(entry.listening);
    assert_int_equal(entry.address, 0x7f000001);
    assert_false(
        socket_parse("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when", false, &entry));
    assert_false(socket_parse("", false, &entry));
    assert_false(socket_parse("   0: 0100007F:1F90", false, &entry));
}

/* --- rules of others --------------------------------------------------------------------------------- */

static const struct packet outward = { "outward",  PACKET_FORWARD, "polder0", "eth0", 0x0a750005,
                                       0xcb007101, IPPROTO_TCP,    443,       false };
static const struct packet inward = { "inward",   PACKET_FORWARD, "eth0", "polder0", 0xcb007101,
                                      0x0a750005, IPPROTO_TCP,    80,     true };
static const struct packet lookup = { "lookup",   PACKET_INPUT, "polder0", NULL, 0x0a750005,
                                      0x0a750001, IPPROTO_UDP,  53,        false };

static void check(const char *rules, const struct packet *packet, const char *chain, const char *rule,
                  const char *owner) {
    _cleanup_free_ char *text = text_format("{\"nftables\": [%s]}", rules);
    _cleanup_json_ struct json_object *json = NULL;
    _cleanup_error_ struct error error = ERROR_INIT;
    _cleanup_blocker_ struct blocker blocker = { 0 };

    assert_int_equal(json_parse(text, strlen(text), &json, &error), 0);
    assert_int_equal(blocker_find(json, packet, &blocker), chain != NULL);
    if (!chain)
        return;
    assert_string_equal(blocker.chain, chain);
    assert_string_equal(blocker.rule, rule);
    assert_true(text_equal(blocker.owner, owner));
}

#define CHAIN(family, table, name, hook, policy)                                                             \
    "{\"chain\": {\"family\": \"" family "\", \"table\": \"" table "\", \"name\": \"" name                   \
    "\", \"handle\": 1, \"type\": \"filter\", \"hook\": \"" hook "\", \"prio\": 0, \"policy\": \"" policy    \
    "\"}}"
#define SIDE(family, table, name)                                                                            \
    "{\"chain\": {\"family\": \"" family "\", \"table\": \"" table "\", \"name\": \"" name                   \
    "\", \"handle\": 2}}"
#define RULE(family, table, chain, handle, expressions)                                                      \
    "{\"rule\": {\"family\": \"" family "\", \"table\": \"" table "\", \"chain\": \"" chain                  \
    "\", \"handle\": " handle ", \"expr\": [" expressions "]}}"
#define MATCH(left, op, right) "{\"match\": {\"op\": \"" op "\", \"left\": " left ", \"right\": " right "}}"
#define META(key) "{\"meta\": {\"key\": \"" key "\"}}"

static void test_blocker_docker(void **state) {
    static const char forward[] =
        CHAIN("ip", "filter", "FORWARD", "forward", "drop") "," SIDE("ip", "filter", "DOCKER-USER") "," SIDE(
            "ip", "filter", "DOCKER") "," RULE("ip", "filter", "FORWARD", "5",
                                               "{\"counter\": null}, {\"jump\": {\"target\": "
                                               "\"DOCKER-USER\"}}");
    _cleanup_free_ char *blocked = text_format(
        "%s,%s", forward,
        RULE("ip", "filter", "FORWARD", "6",
             MATCH(META("oifname"), "==", "\"docker0\"") ", {\"accept\": null}"));
    _cleanup_free_ char *open = text_format(
        "%s,%s", forward,
        RULE("ip", "filter", "DOCKER-USER", "7",
             MATCH(META("iifname"), "==", "\"polder0\"") ", {\"counter\": {}}, {\"accept\": null}"));

    check(blocked, &outward, "chain 'FORWARD' of table 'ip filter'", "its policy 'drop'", "docker");
    check(open, &outward, NULL, NULL, NULL);
    check(open, &inward, "chain 'FORWARD' of table 'ip filter'", "its policy 'drop'", "docker");
    check(open, &lookup, NULL, NULL, NULL);
}

/* What ufw drops "for not being local" is not what is sent to this host; its policy is. */
static void test_blocker_ufw(void **state) {
    static const char input[] =
        CHAIN("ip", "filter", "INPUT", "input", "drop") "," SIDE("ip", "filter", "ufw-not-local") "," RULE(
            "ip", "filter", "INPUT", "5", "{\"jump\": {\"target\": \"ufw-not-local\"}}") "," RULE("ip",
            "filter", "ufw-not-local", "6", "{\"xt\": {\"type\": \"match\", \"name\": \"addrtype\"}}, "
            "{\"counter\": {}}, {\"return\": null}") "," RULE("ip", "filter", "ufw-not-local", "7", "{\"drop\": null}");
    _cleanup_free_ char *open = text_format(
        "%s,%s", input,
        RULE("ip", "filter", "INPUT", "8", MATCH(META("iifname"), "==", "\"polder0\"") ", {\"accept\": null}"));

    check(input, &lookup, "chain 'INPUT' of table 'ip filter'", "its policy 'drop'", "ufw");
    check(open, &lookup, NULL, NULL, NULL);
}

static void test_blocker_rules(void **state) {
    check(CHAIN("inet", "mine", "fwd", "forward", "accept") "," RULE(
              "inet", "mine", "fwd", "9",
              MATCH("{\"payload\": {\"protocol\": \"ip\", \"field\": \"saddr\"}}",
                    "==", "{\"prefix\": {\"addr\": \"10.0.0.0\", \"len\": 8}}") ", {\"reject\": {\"type\": "
                                                                                "\"icmpx\"}}"),
          &outward, "chain 'fwd' of table 'inet mine'", "rule 9 of its chain 'fwd'", NULL);
    check(CHAIN("inet", "mine", "in", "input", "drop") "," RULE(
              "inet", "mine", "in", "9",
              MATCH("{\"payload\": {\"protocol\": \"udp\", \"field\": \"dport\"}}",
                    "==", "{\"set\": [53, {\"range\": [67, 68]}]}") ", {\"accept\": null}"),
          &lookup, NULL, NULL, NULL);
    check(CHAIN("inet", "mine", "in", "input",
                "drop") "," RULE("inet", "mine", "in", "9",
                                 MATCH("{\"ct\": {\"key\": \"state\"}}", "in",
                                       "[\"established\", \"related\"]") ", {\"accept\": null}"),
          &lookup, "chain 'in' of table 'inet mine'", "its policy 'drop'", NULL);
    /* Accepted by an interface pattern in a verdict map, through a goto. */
    check(CHAIN("inet", "mine", "in", "input", "drop") "," SIDE("inet", "mine", "lan") "," RULE(
              "inet", "mine", "in", "9",
              "{\"vmap\": {\"key\": " META(
                  "iifname") ", \"data\": {\"set\": [[\"lo\", {\"accept\": null}], "
                             "[\"polder*\", {\"goto\": {\"target\": \"lan\"}}]]}}}") "," RULE("inet", "mine",
                                                                                              "lan", "11",
                                                                                              "{\"accept\": "
                                                                                              "null}"),
          &lookup, NULL, NULL, NULL);
    /* Unknown matches decide nothing; Polder's own tables are left out; nonsense is survived. */
    check(CHAIN("ip", "filter", "FORWARD", "forward", "accept") "," RULE("ip", "filter", "FORWARD", "4",
                                                                         "{\"xt\": null}, {\"drop\": null}"),
          &outward, NULL, NULL, NULL);
    check(CHAIN("inet", "polder", "forward", "forward", "drop"), &outward, NULL, NULL, NULL);
    check("{\"chain\": 7}, {\"rule\": []}, 3, null, \"x\"", &outward, NULL, NULL, NULL);
}

static void test_blocker_circle(void **state) {
    check(CHAIN("inet", "mine", "a", "forward", "drop") "," RULE(
              "inet", "mine", "a", "1",
              "{\"jump\": {\"target\": \"a\"}}") "," RULE("inet", "mine", "a", "2",
                                                          "{\"jump\": {\"target\": \"a\"}}"),
          &outward, NULL, NULL, NULL);
}

/* --- rtnetlink --------------------------------------------------------------------------------------- */

/* What remains when an answer could not be received. */
static void leave_dump_open(int fd) {
    struct {
        struct nlmsghdr header;
        struct ifinfomsg info;
    } request = { .header = { .nlmsg_len = sizeof(request), .nlmsg_type = RTM_GETLINK,
                              .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP, .nlmsg_seq = 1 } };

    assert_int_equal(send(fd, &request, sizeof(request), 0), sizeof(request));
}

static void test_dump_after_a_broken_one(void **state) {
    struct link_info *links = NULL, info;
    _cleanup_close_ int fd = -EBADF;
    size_t count = 0;

    assert_int_equal(link_open(-EBADF, &fd), 0);
    for (int round = 0; round < 3; round++) {
        leave_dump_open(fd); /* the next answer that is received carries it on, so the dump comes at once */
        assert_int_equal(link_list(fd, &links, &count), 0);
        assert_true(count >= 1);
        assert_string_equal(links[0].name, "lo");
        free(links);
    }
    leave_dump_open(fd);
    assert_int_equal(link_get(fd, "lo", &info), 0);
    assert_int_equal(link_get(fd, "polder-none", &info), -ENODEV);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_subnet_parse),
        cmocka_unit_test(test_subnet_members),
        cmocka_unit_test(test_subnet_choice),
        cmocka_unit_test(test_mac),
        cmocka_unit_test(test_member),
        cmocka_unit_test(test_member_bad),
        cmocka_unit_test(test_publish_conflicts),
        cmocka_unit_test(test_rules),
        cmocka_unit_test(test_sockets),
        cmocka_unit_test(test_blocker_docker),
        cmocka_unit_test(test_blocker_ufw),
        cmocka_unit_test(test_blocker_rules),
        cmocka_unit_test(test_blocker_circle),
        cmocka_unit_test(test_dump_after_a_broken_one),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
