// SPDX-License-Identifier: GPL-2.0-or-later
#include "network/blocker.h"

#include <json-c/json.h>
#include <string.h>

#include "base/json.h"
#include "base/text.h"
#include "network/subnet.h"

#define JUMPS_MAX 32
#define RULES_MAX 200000

enum truth {
    TRUTH_NO,
    TRUTH_YES,
    TRUTH_UNKNOWN,
};

enum verdict {
    VERDICT_CONTINUE,
    VERDICT_ACCEPT,
    VERDICT_DROP,
    VERDICT_RETURN,
};

struct walk {
    struct json_object *items; /* the ruleset's array */
    const struct packet *packet;
    const char *family, *table; /* of the base chain at work */
    unsigned budget; /* rules still looked at: rules may jump in circles only in a damaged listing */
    struct json_object *culprit; /* the rule that dropped */
};

static size_t array_size(struct json_object *array) {
    return json_object_is_type(array, json_type_array) ? json_object_array_length(array) : 0;
}

static const char *text_of(struct json_object *value) {
    return json_object_is_type(value, json_type_string) ? json_object_get_string(value) : NULL;
}

/* --- values ------------------------------------------------------------------------------------------ */

/* What a left side stands for: a text, or a number. */
struct operand {
    bool known;
    const char *text;
    bool number_known;
    uint32_t number;
};

static struct operand operand_text(const char *text) {
    return (struct operand){ .known = true, .text = text ? text : "" };
}

static struct operand operand_number(uint32_t number) {
    return (struct operand){ .known = true, .number_known = true, .number = number };
}

static const char *protocol_name(uint8_t protocol) {
    return protocol == IPPROTO_UDP ? "udp" : "tcp";
}

static struct operand operand_meta(const struct packet *packet, const char *key) {
    if (text_equal(key, "iifname") || text_equal(key, "iif"))
        return operand_text(packet->in);
    if (text_equal(key, "oifname") || text_equal(key, "oif"))
        return operand_text(packet->out);
    if (text_equal(key, "nfproto"))
        return operand_text("ipv4");
    if (text_equal(key, "protocol"))
        return operand_text("ip");
    if (text_equal(key, "l4proto"))
        return operand_text(protocol_name(packet->protocol));
    return (struct operand){ 0 };
}

static struct operand operand_payload(const struct packet *packet, const char *protocol, const char *field) {
    if (text_equal(protocol, "ip")) {
        if (text_equal(field, "saddr"))
            return operand_number(packet->source);
        if (text_equal(field, "daddr"))
            return operand_number(packet->target);
        if (text_equal(field, "protocol"))
            return operand_text(protocol_name(packet->protocol));
    }
    if (text_equal(protocol, "ip6") || text_equal(protocol, "icmp") || text_equal(protocol, "icmpv6"))
        return operand_text("");
    if (text_equal(protocol, "th") || text_equal(protocol, protocol_name(packet->protocol)))
        return text_equal(field, "dport") ? operand_number(packet->port) : (struct operand){ 0 };
    if (text_equal(protocol, "tcp") || text_equal(protocol, "udp"))
        return operand_text("");
    return (struct operand){ 0 };
}

static struct operand operand_ct(const struct packet *packet, const char *key) {
    if (text_equal(key, "state"))
        return operand_text("new");
    if (text_equal(key, "status"))
        return operand_text(packet->translated ? "dnat" : "");
    return (struct operand){ 0 };
}

static struct operand operand_of(const struct packet *packet, struct json_object *left) {
    struct json_object *inner;

    if ((inner = json_member(left, "meta")))
        return operand_meta(packet, json_text(inner, "key", ""));
    if ((inner = json_member(left, "payload")))
        return operand_payload(packet, json_text(inner, "protocol", ""), json_text(inner, "field", ""));
    if ((inner = json_member(left, "ct")))
        return operand_ct(packet, json_text(inner, "key", ""));
    return (struct operand){ 0 };
}

/* --- comparing --------------------------------------------------------------------------------------- */

static enum truth truth_of(bool value) {
    return value ? TRUTH_YES : TRUTH_NO;
}

static enum truth compare(const struct operand *operand, struct json_object *right);

static enum truth compare_text(const struct operand *operand, const char *text) {
    size_t size = strlen(text);
    uint32_t address;

    if (text[0] == '@')
        return TRUTH_UNKNOWN;
    if (operand->number_known)
        return address_parse(text, &address) >= 0 ? truth_of(address == operand->number) : TRUTH_UNKNOWN;
    if (size > 0 && text[size - 1] == '*')
        return truth_of(strncmp(operand->text, text, size - 1) == 0);
    return truth_of(text_equal(operand->text, text));
}

static enum truth compare_prefix(const struct operand *operand, struct json_object *prefix) {
    int64_t size = json_integer(prefix, "len", -1);
    uint32_t address;

    if (!operand->number_known)
        return TRUTH_NO;
    if (size < 0 || size > 32 || address_parse(json_text(prefix, "addr", ""), &address) < 0)
        return TRUTH_UNKNOWN;
    return truth_of((operand->number & subnet_mask((unsigned) size)) ==
                    (address & subnet_mask((unsigned) size)));
}

static enum truth compare_list(const struct operand *operand, struct json_object *list) {
    enum truth result = TRUTH_NO;

    for (size_t i = 0; i < array_size(list); i++) {
        enum truth one = compare(operand, json_object_array_get_idx(list, i));

        if (one == TRUTH_YES)
            return TRUTH_YES;
        if (one == TRUTH_UNKNOWN)
            result = TRUTH_UNKNOWN;
    }
    return result;
}

static bool range_end(struct json_object *value, uint32_t *ret) {
    if (json_object_is_type(value, json_type_int)) {
        *ret = (uint32_t) json_object_get_int64(value);
        return true;
    }
    return text_of(value) && address_parse(text_of(value), ret) >= 0;
}

static enum truth compare_range(const struct operand *operand, struct json_object *range) {
    uint32_t low, high;

    if (!operand->number_known || array_size(range) != 2 ||
        !range_end(json_object_array_get_idx(range, 0), &low) ||
        !range_end(json_object_array_get_idx(range, 1), &high))
        return TRUTH_UNKNOWN;
    return truth_of(operand->number >= low && operand->number <= high);
}

static enum truth compare(const struct operand *operand, struct json_object *right) {
    struct json_object *inner;

    if (text_of(right))
        return compare_text(operand, text_of(right));
    if (json_object_is_type(right, json_type_int))
        return operand->number_known ? truth_of(operand->number == (uint32_t) json_object_get_int64(right))
                                     : TRUTH_UNKNOWN;
    if (json_object_is_type(right, json_type_array))
        return compare_list(operand, right);
    if ((inner = json_member(right, "set")))
        return text_of(inner) ? TRUTH_UNKNOWN : compare_list(operand, inner);
    if ((inner = json_member(right, "prefix")))
        return compare_prefix(operand, inner);
    if ((inner = json_member(right, "range")))
        return compare_range(operand, inner);
    return TRUTH_UNKNOWN;
}

static enum truth match(const struct packet *packet, struct json_object *expression) {
    struct operand operand = operand_of(packet, json_member(expression, "left"));
    const char *operation = json_text(expression, "op", "==");
    enum truth result;

    if (!operand.known)
        return TRUTH_UNKNOWN;
    result = compare(&operand, json_member(expression, "right"));
    if (result == TRUTH_UNKNOWN)
        return result;
    if (text_equal(operation, "==") || text_equal(operation, "in"))
        return result;
    return text_equal(operation, "!=") ? (result == TRUTH_YES ? TRUTH_NO : TRUTH_YES) : TRUTH_UNKNOWN;
}

/* --- walking ----------------------------------------------------------------------------------------- */

static enum verdict chain_walk(struct walk *walk, const char *chain, unsigned depth);

/* "accept", "jump X", … of a statement or of a verdict map. True if it is one. */
static bool verdict_of(struct walk *walk, struct json_object *statement, unsigned depth, enum verdict *ret) {
    struct json_object *target;

    if (json_object_object_get_ex(statement, "accept", NULL))
        *ret = VERDICT_ACCEPT;
    else if (json_object_object_get_ex(statement, "drop", NULL) ||
             json_object_object_get_ex(statement, "reject", NULL))
        *ret = VERDICT_DROP;
    else if (json_object_object_get_ex(statement, "return", NULL))
        *ret = VERDICT_RETURN;
    else if ((target = json_member(statement, "jump"))) {
        *ret = chain_walk(walk, json_text(target, "target", ""), depth + 1);
        if (*ret == VERDICT_RETURN)
            *ret = VERDICT_CONTINUE;
    } else if ((target = json_member(statement, "goto"))) {
        *ret = chain_walk(walk, json_text(target, "target", ""), depth + 1);
        if (*ret == VERDICT_CONTINUE)
            *ret = VERDICT_RETURN;
    } else
        return false;
    return true;
}

static enum verdict map_walk(struct walk *walk, struct json_object *map, unsigned depth) {
    struct operand operand = operand_of(walk->packet, json_member(map, "key"));
    struct json_object *entries = json_member(json_member(map, "data"), "set");
    enum verdict verdict;

    for (size_t i = 0; operand.known && i < array_size(entries); i++) {
        struct json_object *entry = json_object_array_get_idx(entries, i);

        if (array_size(entry) == 2 && compare(&operand, json_object_array_get_idx(entry, 0)) == TRUTH_YES &&
            verdict_of(walk, json_object_array_get_idx(entry, 1), depth, &verdict))
            return verdict;
    }
    return VERDICT_CONTINUE;
}

/* iptables' extensions are listed by name alone. What is sent to this host is local, a broadcast or a multicast:
 * chains that let those kinds of addresses through (ufw-not-local) do so for some rule of theirs, if not for this
 * one. */
static bool may_match(const struct walk *walk, struct json_object *extension) {
    return walk->packet->hook == PACKET_INPUT && text_equal(json_text(extension, "name", ""), "addrtype");
}

static enum verdict rule_walk(struct walk *walk, struct json_object *rule, unsigned depth) {
    struct json_object *statements = json_member(rule, "expr");
    bool doubtful = false;

    for (size_t i = 0; i < array_size(statements); i++) {
        struct json_object *statement = json_object_array_get_idx(statements, i), *inner;
        enum verdict verdict;

        if (!json_object_is_type(statement, json_type_object))
            return VERDICT_CONTINUE;
        if ((inner = json_member(statement, "match"))) {
            if (match(walk->packet, inner) != TRUTH_YES)
                return VERDICT_CONTINUE;
        } else if ((inner = json_member(statement, "vmap"))) {
            verdict = map_walk(walk, inner, depth);
            if (verdict != VERDICT_CONTINUE)
                return verdict;
        } else if (json_object_object_get_ex(statement, "xt", &inner) && may_match(walk, inner)) {
            doubtful = true;
        } else if (json_object_object_get_ex(statement, "xt", NULL) ||
                   json_object_object_get_ex(statement, "limit", NULL)) {
            return VERDICT_CONTINUE; /* cannot be decided */
        } else if (doubtful && !json_object_object_get_ex(statement, "counter", NULL)) {
            return json_object_object_get_ex(statement, "return", NULL) ? VERDICT_RETURN : VERDICT_CONTINUE;
        } else if (verdict_of(walk, statement, depth, &verdict)) {
            if (verdict == VERDICT_DROP && !walk->culprit)
                walk->culprit = rule;
            return verdict;
        }
    }
    return VERDICT_CONTINUE;
}

static bool is_here(const struct walk *walk, struct json_object *object) {
    return text_equal(json_text(object, "family", ""), walk->family) &&
           text_equal(json_text(object, "table", ""), walk->table);
}

static enum verdict chain_walk(struct walk *walk, const char *chain, unsigned depth) {
    if (depth > JUMPS_MAX)
        return VERDICT_CONTINUE;
    for (size_t i = 0; i < array_size(walk->items); i++) {
        struct json_object *rule = json_member(json_object_array_get_idx(walk->items, i), "rule");
        enum verdict verdict;

        if (!rule || !is_here(walk, rule) || !text_equal(json_text(rule, "chain", ""), chain))
            continue;
        if (walk->budget-- == 0)
            return VERDICT_ACCEPT;
        verdict = rule_walk(walk, rule, depth);
        if (verdict != VERDICT_CONTINUE)
            return verdict;
    }
    return VERDICT_CONTINUE;
}

/* --- base chains ------------------------------------------------------------------------------------- */

static bool is_on_the_way(struct json_object *chain, const struct packet *packet) {
    const char *hook = packet->hook == PACKET_FORWARD ? "forward" : "input";
    const char *family = json_text(chain, "family", "");

    return (text_equal(family, "ip") || text_equal(family, "inet")) &&
           !text_equal(json_text(chain, "table", ""), "polder") &&
           text_equal(json_text(chain, "hook", ""), hook) &&
           text_equal(json_text(chain, "type", ""), "filter");
}

static bool has_chain(struct json_object *items, const char *prefix) {
    for (size_t i = 0; i < array_size(items); i++)
        if (text_starts(json_text(json_member(json_object_array_get_idx(items, i), "chain"), "name", ""),
                        prefix))
            return true;
    return false;
}

static const char *owner_of(struct json_object *items, struct json_object *chain) {
    if (text_equal(json_text(chain, "table", ""), "firewalld"))
        return "firewalld";
    if (!text_equal(json_text(chain, "table", ""), "filter"))
        return NULL;
    if (has_chain(items, "ufw-"))
        return "ufw";
    return text_equal(json_text(chain, "name", ""), "FORWARD") && has_chain(items, "DOCKER") ? "docker"
                                                                                             : NULL;
}

static int blocker_fill(struct walk *walk, struct json_object *chain, struct blocker *ret) {
    const char *owner = owner_of(walk->items, chain);
    _cleanup_blocker_ struct blocker blocker = { 0 };

    blocker.chain = text_format("chain '%s' of table '%s %s'", json_text(chain, "name", ""), walk->family,
                                walk->table);
    if (walk->culprit)
        blocker.rule = text_format("rule %lld of its chain '%s'",
                                   (long long) json_integer(walk->culprit, "handle", 0),
                                   json_text(walk->culprit, "chain", ""));
    else
        blocker.rule = strdup("its policy 'drop'");
    blocker.owner = owner ? strdup(owner) : NULL;
    if (!blocker.chain || !blocker.rule || (owner && !blocker.owner))
        return -ENOMEM;
    *ret = blocker;
    blocker = (struct blocker){ 0 };
    return 1;
}

int blocker_find(struct json_object *ruleset, const struct packet *packet, struct blocker *ret) {
    struct json_object *items = json_member(ruleset, "nftables");

    for (size_t i = 0; i < array_size(items); i++) {
        struct json_object *chain = json_member(json_object_array_get_idx(items, i), "chain");
        struct walk walk = { .items = items, .packet = packet, .budget = RULES_MAX };
        enum verdict verdict;

        if (!chain || !is_on_the_way(chain, packet))
            continue;
        walk.family = json_text(chain, "family", "");
        walk.table = json_text(chain, "table", "");
        verdict = chain_walk(&walk, json_text(chain, "name", ""), 0);
        if (verdict == VERDICT_DROP ||
            (verdict != VERDICT_ACCEPT && text_equal(json_text(chain, "policy", ""), "drop")))
            return blocker_fill(&walk, chain, ret);
    }
    return 0;
}

void blocker_done(struct blocker *blocker) {
    free(blocker->chain);
    free(blocker->rule);
    free(blocker->owner);
    *blocker = (struct blocker){ 0 };
}

bool blocker_others_route(struct json_object *ruleset) {
    struct json_object *items = json_member(ruleset, "nftables");

    for (size_t i = 0; i < array_size(items); i++) {
        struct json_object *chain = json_member(json_object_array_get_idx(items, i), "chain");
        const char *hook = json_text(chain, "hook", "");

        if (!chain || text_equal(json_text(chain, "table", ""), "polder"))
            continue;
        if (text_equal(hook, "forward") ||
            (text_equal(hook, "postrouting") && text_equal(json_text(chain, "type", ""), "nat")))
            return true;
    }
    return false;
}
